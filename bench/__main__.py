"""`make bench`: every figure as a ratio to its floor, measured in the same run, with the CPU seconds it cost.

Kafka and PostgreSQL are those of the environment (OMS_KAFKA, OMS_POSTGRES_URL), else embedded ones of its own.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import batches, latency, memory
from bench.figures import Figure, Place
from ops.embedded import throwaway

RESULTS = Path("var") / "bench.json"


@asynccontextmanager
async def place() -> AsyncIterator[Place]:
    if "OMS_KAFKA" in os.environ and "OMS_POSTGRES_URL" in os.environ:
        yield Place(os.environ["OMS_KAFKA"], os.environ["OMS_POSTGRES_URL"])
        return
    async with throwaway() as backends:
        yield Place(backends.kafka, backends.postgres)


async def main() -> None:
    console = Console()
    figures: list[Figure] = []
    async with place() as where:
        for measure in (batches.measure, latency.measure, memory.measure):
            with console.status(measure.__doc__ or ""):
                figures += await measure(where)
    table = Table("what", "ours", "floor", "ratio", "must", "CPU-s per 1,000", title="ours beside the floor, same run")
    for f in figures:
        met = "[green]met[/]" if f.is_met else "[red]missed[/]"
        ratio = f"{f.ours / f.floor:.2f}" if f.floor else ""
        cpu = f"{f.cpu_per_1000:.3f}" if f.cpu_per_1000 is not None else ""
        floor = f"{f.floor:,.1f} {f.unit}" if f.floor else ""
        table.add_row(f.what, f"{f.ours:,.1f} {f.unit}", floor, ratio, f"{f.must} {met}", cpu)
    console.print(table)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps([asdict(f) for f in figures], indent=1) + "\n", encoding="utf-8")
    console.print(f"[dim]written to {RESULTS}[/]")


if __name__ == "__main__":
    asyncio.run(main())
