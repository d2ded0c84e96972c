"""`oms withheld`: keys whose facts wait in the outbox, since the broker found one of them too large: list, release."""

import json
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from ops.admin_client import AdminClient, All, AsJson, DryRun, Unanswered, console, operator, warn, with_progress

app = typer.Typer(help="Keys that the relay withholds from the broker: list, release.", no_args_is_help=True)

OneService = Annotated[str | None, typer.Argument(help="The service that withholds it; left out: all services.")]
OneKey = Annotated[str | None, typer.Argument(help="The key that is withheld, usually an order id.")]


def _found(client: AdminClient, service: str | None) -> tuple[list[dict[str, Any]], list[str]]:
    return client.over_all(service, lambda name: client.pages(name, "withheld", "id"))


@app.command("ls")
def ls(service: OneService = None, as_json: AsJson = False) -> None:
    """List the keys that are withheld, how many of their facts wait, and why; exit code 1 when there is any."""
    with operator() as client:
        found, unanswered = _found(client, service)
    if as_json:
        console.print_json(json.dumps({"keys": found, "unanswered": unanswered}))
    elif found:
        table = Table("service", "key", "facts", "what is wrong", "since")
        for each in found:
            row = (each["service"], each["key"], str(each["facts"]), each["detail"], each["withheld_at"][:19])
            table.add_row(*map(escape, row))
        console.print(table)
        console.print(
            "[dim]let the topic take larger messages (max.message.bytes), then: oms withheld release --all[/]"
        )
    elif not unanswered:
        console.print("nothing is withheld")
    warn(unanswered)
    raise typer.Exit(1 if found or unanswered else 0)


@app.command()
def release(
    service: OneService = None,
    key: OneKey = None,
    is_all: All = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Publish a key's facts again, from the first, under your name; exit code 1 when it was not withheld.

    Where the broker refuses one again, the key is withheld again: nothing is lost by trying.
    """
    with operator() as client:
        if is_all == (key is not None):
            raise typer.BadParameter("name one key (SERVICE KEY), or give --all")
        found, unanswered = _found(client, service)
        chosen = [(each["service"], each["key"]) for each in found if key in (None, each["key"])]
        released = []
        if not dry_run:
            for name, each in with_progress("releasing", chosen):
                try:
                    answer = client.ask(name, "POST", "withheld/release", json={"key": each})
                except Unanswered as why:
                    unanswered.append(f"{each}: {why}")
                else:
                    released += [(name, each)] if answer["released"] else []
    verb, told = ("would release", chosen) if dry_run else ("released", released)
    if as_json:
        keys = [{"service": name, "key": each} for name, each in told]
        console.print_json(json.dumps({verb.replace(" ", "_"): keys, "unanswered": unanswered}))
    else:
        for name, each in told:
            console.print(f"{verb} {name} {each}", markup=False)
        if not told:
            console.print("nothing of this is withheld")
    warn(unanswered)
    raise typer.Exit(1 if unanswered or (key is not None and not told) else 0)
