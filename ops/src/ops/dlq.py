"""`oms dlq`: messages that could not be decoded or decided, over all services: list, show, redrive in order, discard."""

import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from ops.admin_client import AdminClient, All, AsJson, DryRun, Unanswered, console, operator, warn, with_progress

app = typer.Typer(help="Parked messages: list, show, redrive in order, discard.", no_args_is_help=True)

Service = Annotated[str, typer.Argument(help="The service that parked it.")]
Key = Annotated[str, typer.Argument(help="The key it is parked under, usually an order id.")]
OneService = Annotated[str | None, typer.Argument(help="The service that parked it; left out: all services.")]
OneKey = Annotated[str | None, typer.Argument(help="The key it is parked under, usually an order id.")]
ParkedFor = Annotated[
    str | None, typer.Option("--parked-for", metavar="REASON", help="Of --all, only what is parked for this reason.")
]


def _chosen(
    client: AdminClient, service: str | None, key: str | None, is_all: bool, parked_for: str | None
) -> tuple[list[tuple[str, str]], list[str]]:
    """(service, key) of what is to be settled, and who did not answer."""
    if is_all == (key is not None):
        raise typer.BadParameter("name one key (SERVICE KEY), or give --all")
    if parked_for and not is_all:
        raise typer.BadParameter("--parked-for chooses among --all")
    if service is not None and key is not None:
        return [(name, key) for name in client.services(service)], []
    found, unanswered = client.over_all(service, lambda name: client.keys(name, parked_for))
    return [(each["service"], each["key"]) for each in found], unanswered


@app.command("ls")
def ls(
    service: OneService = None,
    parked_for: Annotated[str | None, typer.Option(metavar="REASON", help="Only keys parked for this reason.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the keys with parked messages, and what is wrong with the first; exit code 1 when there is any."""
    with operator() as client:
        found, unanswered = client.over_all(service, lambda name: client.keys(name, parked_for))
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
    with operator() as client:
        [name] = client.services(service)
        found = client.messages(name, key)
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
    with operator() as client:
        chosen, unanswered = _chosen(client, service, key, is_all, parked_for)
        if dry_run:
            _say_what("redrive", [(s, m) for s, k in chosen for m in client.messages(s, k)], unanswered, as_json)
            return
        told = []
        for name, each in with_progress("redriving", chosen):
            try:
                answer = client.ask(name, "POST", "parked/redrive", json={"key": each, "reason": reason})
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
    with operator() as client:
        if id and key is None:
            raise typer.BadParameter("--id chooses among the messages of one key")
        chosen, unanswered = _chosen(client, service, key, is_all, parked_for)

        def matching(name: str, each: str) -> list[dict[str, Any]]:
            found = client.messages(name, each)
            return [m for m in found if (not id or m["id"] in id) and parked_for in (None, m["reason"])]

        if dry_run:
            _say_what("discard", [(s, m) for s, k in chosen for m in matching(s, k)], unanswered, as_json)
            return
        done: list[dict[str, Any]] = []
        for name, each in with_progress("discarding", chosen):
            try:
                while ids := [m["id"] for m in matching(name, each)]:
                    body = {"ids": ids, "reason": reason}
                    gone = client.ask(name, "POST", "parked/discard", json=body)["discarded"]
                    done += [{"service": name, "key": each, "id": number} for number in gone]
            except Unanswered as why:
                unanswered.append(f"{each}: {why}")
    if as_json:
        console.print_json(json.dumps({"discarded": done, "unanswered": unanswered}))
    else:
        console.print(f"{len(done)} discarded")
    warn(unanswered)
    raise typer.Exit(1 if unanswered else 0)


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
