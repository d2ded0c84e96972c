"""`oms dlq`: messages that could not be decoded or decided, over all services: list, show, redrive in order, discard."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import httpx
import typer
from rich.console import Console
from rich.table import Table

from ops.endpoints import Endpoints, live_endpoints
from ops.keys import kept_keys
from ops.places import state_folder
from shared.auth import Role, issue

app = typer.Typer(help="Parked messages: list, show, redrive in order, discard.", no_args_is_help=True)
console = Console()

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
Service = Annotated[str, typer.Argument(help="The service that parked it.")]
Key = Annotated[str, typer.Argument(help="The key it is parked under, usually an order id.")]


@contextmanager
def operator() -> Iterator[tuple[Endpoints, httpx.Client]]:
    """The running system and a client with an operator's token. Raises NotUp."""
    var = state_folder()
    endpoints = live_endpoints(var)
    token = issue(kept_keys(var).auth_key, subject="oms", roles=[Role.OPERATOR])
    with httpx.Client(headers={"Authorization": f"Bearer {token}"}, timeout=30) as client:
        yield endpoints, client


def consuming(endpoints: Endpoints) -> list[str]:
    return [name for name, service in endpoints.services.items() if service.database]


def _parked(endpoints: Endpoints, client: httpx.Client, service: str, key: str | None = None) -> list[dict[str, Any]]:
    if service not in consuming(endpoints):
        raise typer.BadParameter(f"{service} is not one of {', '.join(consuming(endpoints))}")
    params: dict[str, str | int] = {"limit": 1000} | ({"key": key} if key else {})
    answer = client.get(f"{endpoints.url(service)}/operations/parked", params=params)
    answer.raise_for_status()
    found: list[dict[str, Any]] = answer.json()
    return found


@app.command("ls")
def ls(as_json: AsJson = False) -> None:
    """List what is parked, by service and key, oldest first; exit code 1 when there is anything."""
    with operator() as (endpoints, client):
        found = [
            {"service": service} | message
            for service in consuming(endpoints)
            for message in _parked(endpoints, client, service)
        ]
    if as_json:
        console.print_json(json.dumps(found))
    elif found:
        table = Table("service", "id", "key", "type", "reason", "what is wrong", "since")
        for m in found:
            table.add_row(
                m["service"],
                str(m["id"]),
                m["key"],
                m["type"] or "?",
                m["reason"],
                m["detail"][:80],
                m["parked_at"][:19],
            )
        console.print(table)
        console.print(
            "[dim]oms dlq show SERVICE KEY · oms dlq redrive SERVICE KEY · oms dlq discard SERVICE KEY --reason …[/]"
        )
    else:
        console.print("nothing is parked")
    raise typer.Exit(1 if found else 0)


@app.command()
def show(service: Service, key: Key) -> None:
    """Show a key's parked messages whole: headers, body, and what is wrong with each."""
    with operator() as (endpoints, client):
        console.print_json(json.dumps(_parked(endpoints, client, service, key)))


@app.command()
def redrive(service: Service, key: Key, dry_run: DryRun = False) -> None:
    """Tell a key's parked messages again, in order, until one is refused again; exit code 1 when one is."""
    with operator() as (endpoints, client):
        if dry_run:
            _say_what(_parked(endpoints, client, service, key), "redrive")
            return
        answer = client.post(f"{endpoints.url(service)}/operations/parked/redrive", json={"key": key})
        answer.raise_for_status()
    done = answer.json()
    console.print(f"{done['done']} done, {done['still_parked']} still parked")
    raise typer.Exit(1 if done["still_parked"] else 0)


@app.command()
def discard(
    service: Service,
    key: Key,
    reason: Annotated[str, typer.Option(help="Why; it is kept with your name.")],
    id: Annotated[list[int] | None, typer.Option(help="Only these; else all of the key.")] = None,
    dry_run: DryRun = False,
) -> None:
    """Set a key's parked messages aside for good. They stay in the table, with who did it and why."""
    with operator() as (endpoints, client):
        found = [m for m in _parked(endpoints, client, service, key) if not id or m["id"] in id]
        if dry_run or not found:
            _say_what(found, "discard")
            return
        answer = client.post(
            f"{endpoints.url(service)}/operations/parked/discard",
            json={"ids": [m["id"] for m in found], "reason": reason},
        )
        answer.raise_for_status()
    console.print(f"{len(answer.json()['discarded'])} discarded")


def _say_what(found: Sequence[dict[str, Any]], verb: str) -> None:
    for m in found:
        console.print(f"would {verb} {m['id']}: {m['type']} ({m['reason']})", markup=False)
    if not found:
        console.print("nothing is parked under this key")
