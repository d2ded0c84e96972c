"""What commands share: the terminal, and the services' operations, asked under the name of who runs the command."""

import getpass
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Final

import httpx
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from ops.endpoints import NotGiven, Place, place, signing_key
from ops.paths import state_folder
from ops.system import DECIDING
from shared.web.auth import Role, issue

PAGE: Final = 1000

# Without a terminal there is nobody to ask how wide the page is.
console = Console(width=None if sys.stdout.isatty() else 140)
errors = Console(stderr=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
All = Annotated[bool, typer.Option("--all", help="All keys, instead of one.")]


class Unanswered(Exception):
    """A service did not answer, or not as it should; the text says which and what to do."""


@dataclass(frozen=True, slots=True)
class AdminClient:
    """The services' operations, asked under an operator's name."""

    place: Place
    client: httpx.Client

    def ask(self, service: str, method: str, path: str, **request: Any) -> Any:
        """The answer's JSON. Raises Unanswered."""
        try:
            answer = self.client.request(method, f"{self.place.url(service)}/operations/{path}", **request)
        except NotGiven as error:
            raise Unanswered(str(error)) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            why = f"{service} does not answer ({type(error).__name__})"
            raise Unanswered(f"{why}: see {self.place.log_of(service)}") from error
        if not answer.is_success:
            why = f"{service} answered {answer.status_code}: {answer.text[:200]}"
            raise Unanswered(f"{why}; see {self.place.log_of(service)}")
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
        known = self.place.consuming
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
def operator() -> Iterator[AdminClient]:
    """A running system's operations; what is done is kept under the name of who runs this. Raises NotUp."""
    var = state_folder()
    where = place(DECIDING, var)
    token = issue(signing_key(where, var), subject=getpass.getuser(), roles=[Role.OPERATOR])
    with httpx.Client(headers={"Authorization": f"Bearer {token}"}, timeout=60, trust_env=False) as client:
        yield AdminClient(where, client)


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


def warn(unanswered: Sequence[str]) -> None:
    for why in unanswered:
        errors.print(f"[red]error:[/] {escape(why)}", highlight=False, soft_wrap=True)
