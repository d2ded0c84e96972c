"""`oms dlq`: messages that could not be decoded or decided, over all services: list, show, redrive in order, discard."""

import getpass
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Final

import httpx
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from ops.endpoints import Endpoints, live_endpoints
from ops.keys import kept_keys
from ops.places import state_folder
from shared.auth import Role, issue

PAGE: Final = 1000

app = typer.Typer(help="Parked messages: list, show, redrive in order, discard.", no_args_is_help=True)
console = Console()
errors = Console(stderr=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
Service = Annotated[str, typer.Argument(help="The service that parked it.")]
Key = Annotated[str, typer.Argument(help="The key it is parked under, usually an order id.")]
OneService = Annotated[str | None, typer.Argument(help="The service that parked it; left out: all services.")]
OneKey = Annotated[str | None, typer.Argument(help="The key it is parked under, usually an order id.")]
All = Annotated[bool, typer.Option("--all", help="All keys, instead of one.")]
ParkedFor = Annotated[
    str | None, typer.Option("--parked-for", metavar="REASON", help="Of --all, only what is parked for this reason.")
]


class Unanswered(Exception):
    """A service did not answer, or not as it should; the text says which and what to do."""


@dataclass(frozen=True, slots=True)
class Desk:
    """The services' operations, asked under an operator's name."""

    endpoints: Endpoints
    client: httpx.Client

    def ask(self, service: str, method: str, path: str, **request: Any) -> Any:
        """The answer's JSON. Raises Unanswered."""
        endpoint = self.endpoints.services[service]
        try:
            answer = self.client.request(method, f"{endpoint.url}/operations/{path}", **request)
        except httpx.HTTPError as error:
            raise Unanswered(f"{service} does not answer ({type(error).__name__}): see {endpoint.log}") from error
        if not answer.is_success:
            raise Unanswered(f"{service} answered {answer.status_code}: {answer.text[:200]}; see {endpoint.log}")
        return answer.json()

    def pages(self, service: str, path: str, by: str, **params: str) -> Iterator[dict[str, Any]]:
        """All rows of a list, page after page, each with its service; `by` is what they are in order of."""
        after: dict[str, Any] = {}
        while True:
            page = self.ask(service, "GET", path, params={"limit": PAGE} | after | params)
            yield from ({"service": service} | each for each in page)
            if len(page) < PAGE:
                return
            after = {"after": page[-1][by]}

    def keys(self, service: str, reason: str | None) -> Iterator[dict[str, Any]]:
        """Keys with parked messages."""
        return self.pages(service, "parked/keys", "key", **({"reason": reason} if reason else {}))

    def services(self, service: str | None) -> list[str]:
        """The one, or all that consume. Raises BadParameter."""
        known = consuming(self.endpoints)
        if service is not None and service not in known:
            raise typer.BadParameter(f"{service} is not one of {', '.join(known)}")
        return known if service is None else [service]

    def over_all(
        self, service: str | None, rows: Callable[[str], Iterable[dict[str, Any]]]
    ) -> tuple[list[dict[str, Any]], list[str]]:
        """Rows over services, and in words which of the services could not be asked."""
        found: list[dict[str, Any]] = []
        unanswered = []
        for each in self.services(service):
            try:
                found += rows(each)
            except Unanswered as why:
                unanswered.append(str(why))
        return found, unanswered

    def messages(self, service: str, key: str) -> list[dict[str, Any]]:
        """The first of a key's parked messages, in order; a page of them."""
        found: list[dict[str, Any]] = self.ask(service, "GET", "parked", params={"key": key, "limit": PAGE})
        return found


@contextmanager
def operator() -> Iterator[Desk]:
    """The running system's operations; what is done is kept under the name of who runs this. Raises NotUp."""
    var = state_folder()
    endpoints = live_endpoints(var)
    token = issue(kept_keys(var).auth_key, subject=getpass.getuser(), roles=[Role.OPERATOR])
    with httpx.Client(headers={"Authorization": f"Bearer {token}"}, timeout=60, trust_env=False) as client:
        yield Desk(endpoints, client)


def consuming(endpoints: Endpoints) -> list[str]:
    return [name for name, service in endpoints.services.items() if service.database]


def _chosen(
    desk: Desk, service: str | None, key: str | None, is_all: bool, parked_for: str | None
) -> tuple[list[tuple[str, str]], list[str]]:
    """(service, key) of what is to be settled, and who did not answer."""
    if is_all == (key is not None):
        raise typer.BadParameter("name one key (SERVICE KEY), or give --all")
    if parked_for and not is_all:
        raise typer.BadParameter("--parked-for chooses among --all")
    if service is not None and key is not None:
        return [(name, key) for name in desk.services(service)], []
    found, unanswered = desk.over_all(service, lambda name: desk.keys(name, parked_for))
    return [(each["service"], each["key"]) for each in found], unanswered


@app.command("ls")
def ls(
    service: OneService = None,
    parked_for: Annotated[str | None, typer.Option(metavar="REASON", help="Only keys parked for this reason.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the keys with parked messages, and what is wrong with the first; exit code 1 when there is any."""
    with operator() as desk:
        found, unanswered = desk.over_all(service, lambda name: desk.keys(name, parked_for))
    if as_json:
        console.print_json(json.dumps({"keys": found, "unanswered": unanswered}))
    elif found:
        table = Table("service", "key", "messages", "type", "reason", "what is wrong", "since")
        for each in found:
            what = (each["type"] or "?", each["reason"], each["detail"][:80])
            row = (each["service"], each["key"], str(each["messages"]), *what, each["parked_at"][:19])
            table.add_row(*map(escape, row))
        console.print(table)
        console.print("[dim]oms dlq show SERVICE KEY · redrive SERVICE KEY · discard SERVICE KEY --reason …[/]")
    elif not unanswered:
        console.print("nothing is parked")
    warn(unanswered)
    raise typer.Exit(1 if found or unanswered else 0)


@app.command()
def show(service: Service, key: Key, as_json: AsJson = False) -> None:
    """Show a key's parked messages whole: headers, body, and what is wrong with each."""
    with operator() as desk:
        [name] = desk.services(service)
        found = desk.messages(name, key)
    if as_json:
        console.print_json(json.dumps(found))
        return
    for m in found:
        place = f"{m['topic']}/{m['partition']} at {m['position']}, {m['parked_at'][:19]}"
        console.print(f"[bold]{m['id']}[/] [red]{escape(m['reason'])}[/] {escape(m['detail'])}", highlight=False)
        console.print(place, *(f"{n}: {v}" for n, v in m["headers"].items()), m["value"], sep="\n", markup=False)
    if not found:
        console.print("nothing is parked under this key")


@app.command()
def redrive(
    service: OneService = None,
    key: OneKey = None,
    is_all: All = False,
    parked_for: ParkedFor = None,
    reason: Annotated[str, typer.Option(help="Why; it is kept with your name.")] = "redrive",
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Tell a key's parked messages again, in order, until one is refused again; exit code 1 when one is.

    With --all, every key of a service or of all, one after the other: what one key still has parked stops no other.
    """
    with operator() as desk:
        chosen, unanswered = _chosen(desk, service, key, is_all, parked_for)
        if dry_run:
            _say_what("redrive", [(s, m) for s, k in chosen for m in desk.messages(s, k)], unanswered, as_json)
            return
        told = []
        for name, each in with_progress("redriving", chosen):
            try:
                answer = desk.ask(name, "POST", "parked/redrive", json={"key": each, "reason": reason})
            except Unanswered as why:
                unanswered.append(f"{each}: {why}")
            else:
                told.append({"service": name, "key": each} | answer)
    done, left = sum(each["done"] for each in told), sum(each["still_parked"] for each in told)
    if as_json:
        counted = {"done": done, "still_parked": left, "keys": told, "unanswered": unanswered}
        console.print_json(json.dumps(counted))
    else:
        for each in told:
            if each["still_parked"] and is_all:
                console.print(f"{each['service']} {each['key']}: {each['still_parked']} still parked", markup=False)
        console.print(f"{done} done, {left} still parked")
    warn(unanswered)
    raise typer.Exit(1 if left or unanswered else 0)


@app.command()
def discard(
    reason: Annotated[str, typer.Option(help="Why; it is kept with your name.")],
    service: OneService = None,
    key: OneKey = None,
    is_all: All = False,
    parked_for: ParkedFor = None,
    id: Annotated[list[int] | None, typer.Option(help="Of one key, only these; else all of the key.")] = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Set a key's parked messages aside for good. They stay in the table, with who did it and why.

    With --parked-for, only the messages parked for that reason: what waits behind them is to be redriven then.
    """
    with operator() as desk:
        if id and key is None:
            raise typer.BadParameter("--id chooses among the messages of one key")
        chosen, unanswered = _chosen(desk, service, key, is_all, parked_for)

        def matching(name: str, each: str) -> list[dict[str, Any]]:
            found = desk.messages(name, each)
            return [m for m in found if (not id or m["id"] in id) and parked_for in (None, m["reason"])]

        if dry_run:
            _say_what("discard", [(s, m) for s, k in chosen for m in matching(s, k)], unanswered, as_json)
            return
        done: list[dict[str, Any]] = []
        for name, each in with_progress("discarding", chosen):
            try:
                while ids := [m["id"] for m in matching(name, each)]:
                    body = {"ids": ids, "reason": reason}
                    gone = desk.ask(name, "POST", "parked/discard", json=body)["discarded"]
                    done += [{"service": name, "key": each, "id": number} for number in gone]
            except Unanswered as why:
                unanswered.append(f"{each}: {why}")
    if as_json:
        console.print_json(json.dumps({"discarded": done, "unanswered": unanswered}))
    else:
        console.print(f"{len(done)} discarded")
    warn(unanswered)
    raise typer.Exit(1 if unanswered else 0)


def with_progress(what: str, chosen: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """On standard error, and only where there is more than one."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=errors, disable=len(chosen) < 2) as progress:
        yield from progress.track(chosen, description=what)


def _say_what(verb: str, found: Sequence[tuple[str, dict[str, Any]]], unanswered: list[str], as_json: bool) -> None:
    if as_json:
        would = [{"service": service} | m for service, m in found]
        console.print_json(json.dumps({f"would_{verb}": would, "unanswered": unanswered}))
    else:
        for service, m in found:
            console.print(f"would {verb} {service} {m['key']} {m['id']}: {m['type']} ({m['reason']})", markup=False)
        if not found:
            console.print("nothing of this is parked")
    warn(unanswered)


def warn(unanswered: Sequence[str]) -> None:
    for why in unanswered:
        errors.print(f"[red]error:[/] {escape(why)}", highlight=False, soft_wrap=True)
