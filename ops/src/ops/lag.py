"""`oms lag`: what every consumer has still to do, what is not yet published, and what is parked."""

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from ops.dlq import consuming, operator

console = Console()


def lag(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show lag per group, topic and partition in messages and seconds, the outbox and the parked keys."""
    found = {}
    with operator() as (endpoints, client):
        for service in consuming(endpoints):
            answer = client.get(f"{endpoints.url(service)}/operations/lag")
            answer.raise_for_status()
            found[service] = answer.json()
    if as_json:
        console.print_json(json.dumps(found))
        return
    table = Table("service", "behind", "seconds", "partitions behind", "unpublished", "oldest, s", "parked keys")
    for service, state in found.items():
        behind = [p for p in state["partitions"] if p["messages"]]
        table.add_row(
            service,
            str(sum(p["messages"] for p in behind)),
            f"{max((p['seconds'] for p in behind), default=0):.1f}",
            ", ".join(f"{p['topic']}/{p['partition']}: {p['messages']}" for p in behind[:6]) or "none",
            str(state["unpublished"]),
            f"{state['oldest_unpublished_seconds']:.1f}",
            f"[red]{state['parked_keys']}[/]" if state["parked_keys"] else "0",
        )
    console.print(table)
