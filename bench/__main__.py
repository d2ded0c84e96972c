"""`make bench`: every figure beside its floor and its rivals, measured in turns in the same run.

Kafka and PostgreSQL are those of the environment (OMS_KAFKA, OMS_POSTGRES_URL), else embedded ones of its own.
"""

import argparse
import asyncio
import os
import platform
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Final

import asyncpg
import psutil
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from bench import commands, growth, memory, projection, reads, rebuild, relay, scaling, stories, visible
from bench.contest import FRESH, Place, place_at
from bench.figures import Figure, Results, Scale, Spread, number
from bench.report import publish
from ops.embedded import throwaway

RESULTS: Final = Path("var") / "bench.json"
MEASURES: Final = {
    1: commands,
    2: relay,
    3: projection,
    4: visible,
    5: stories,
    6: reads,
    7: growth,
    8: scaling,
    9: rebuild,
    10: memory,
}
COLOURS: Final = {"aim met": "bold green", "met": "green", "missed": "red", "not measured": "yellow", "told": "dim"}


@asynccontextmanager
async def backends() -> AsyncIterator[Place]:
    if "OMS_KAFKA" in os.environ and "OMS_POSTGRES_URL" in os.environ:
        place = await place_at(os.environ["OMS_KAFKA"], os.environ["OMS_POSTGRES_URL"])
        try:
            yield place
        finally:
            await place.clear()
        return
    async with throwaway() as started:
        # Debezium reads the write-ahead log; all contenders write it in the same form.
        db = await asyncpg.connect(started.postgres)
        await db.execute("ALTER SYSTEM SET wal_level = logical")
        await db.close()
        await started.postgres_process.stop()
        await started.postgres_process.start(within=60)
        yield await place_at(started.kafka, started.postgres)


def table(figures: list[Figure]) -> Table:
    shown = Table("", "what", "ours", "beside", "score", "must", "aim", "", title="ours beside floors and rivals")
    for figure in figures:
        verdict = figure.verdict
        score = "" if figure.score is None else f"{number(figure.score)}{figure.unit}"
        if figure.low is not None and figure.high is not None and figure.low != figure.high:
            score += f"\n[dim]{number(figure.low)} – {number(figure.high)}[/]"
        shown.add_row(
            str(figure.number),
            f"{figure.what}\n[dim]{figure.size}[/]",
            _spread(figure.ours),
            _spread(figure.theirs) if figure.theirs else figure.note,
            score,
            figure.bound(figure.must),
            figure.bound(figure.aim),
            f"[{COLOURS[verdict]}]{verdict}[/]",
        )
        shown.add_section()
    return shown


def _spread(spread: Spread) -> str:
    cpu = f"\n[dim]{spread.cpu:.3f} CPU-s per 1,000[/]" if spread.cpu is not None else ""
    return f"{spread.name}\n{number(spread.median)}{spread.unit} [dim]({number(spread.low)} – {number(spread.high)})[/]{cpu}"


async def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("figures", type=int, nargs="*", help="only these, by their number", metavar="N")
    parser.add_argument(
        "--publish", action="store_true", help="write the figures into docs/performance.json and its page"
    )
    arguments = parser.parse_args()
    chosen = sorted(set(arguments.figures)) or list(MEASURES)
    if unknown := set(chosen) - set(MEASURES):
        parser.error(f"there is no figure {min(unknown)}; there are {', '.join(map(str, MEASURES))}")
    is_quick = os.environ.get("QUICK") == "1"
    scale = Scale(
        is_quick,
        runs=1 if is_quick else 5,
        soak_minutes=float(os.environ.get("SOAK_MINUTES", "0.2" if is_quick else "60")),
        figures=chosen,
    )
    FRESH.set_forkserver_preload([measure.__name__ for measure in MEASURES.values()])
    console = Console(width=None if os.isatty(1) else 150)
    figures: list[Figure] = []
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[doing]}[/]"),
    )
    async with backends() as place:
        with Progress(*columns, console=console) as bars:
            tasks = {n: bars.add_task(f"{n} {MEASURES[n].TITLE}", start=False, total=1, doing="") for n in chosen}
            for n, task in tasks.items():

                def report(doing: str, task: TaskID = task) -> None:
                    bars.update(task, doing=doing)

                bars.start_task(task)
                new = await MEASURES[n].measure(place, scale, report)
                bars.update(task, completed=1, doing="")
                console.print(table(new))
                figures += [figure.model_copy(update={"is_quick": is_quick}) for figure in new]
                keep(figures, is_published=arguments.publish)
    console.print(table(figures))
    for name, configuration in configurations(figures).items():
        console.print(f"[dim]{name}: {configuration}[/]", highlight=False)
    if is_quick:
        console.print("[dim]QUICK: one small run of each, for a rough look; `make bench` takes five of full size[/]")
    console.print(f"[dim]written to {RESULTS}{' and docs/performance.*' if arguments.publish else ''}[/]")


def configurations(figures: list[Figure]) -> dict[str, str]:
    return {spread.name: spread.configuration for f in figures if (spread := f.theirs) and spread.configuration}


def keep(figures: list[Figure], *, is_published: bool) -> None:
    """After each figure: a run that is cut short leaves what it found."""
    results = Results(
        taken_on=f"{datetime.now(timezone.utc):%Y-%m-%d}",
        machine=f"{psutil.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB, "
        f"Python {platform.python_version()}",
        figures=figures,
        configurations=configurations(figures),
    )
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(results.model_dump_json(indent=1) + "\n", encoding="utf-8")
    if is_published:
        publish(results)


if __name__ == "__main__":
    asyncio.run(main())
