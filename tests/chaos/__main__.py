"""`make chaos SEED=n MINUTES=m`: exit code 0 only when everything that is asked at rest is so."""

import argparse
import asyncio
import logging
import sys
import tempfile
from collections import Counter
from pathlib import Path
from random import SystemRandom

import structlog
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from ops.supervision import StartFailed
from tests.chaos import invariants
from tests.chaos.play import Play, Scene, perform, scene

console = Console(width=None if sys.stdout.isatty() else 140)
SHOWN = 40


async def chaos(play: Play, var: Path) -> bool:
    """Whether all of it held."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("[dim]{task.fields[now]}[/]"), console=console) as screen:
        task = screen.add_task("starting", total=play.seconds, now="")

        def tell(strike: str) -> None:
            screen.console.print(f"  {strike}", markup=False, highlight=False)

        def starting(name: str, doing: str) -> None:
            screen.update(task, now=escape(f"{name}: {doing}"))

        async with scene(play, var, tell, starting) as on:
            loop = asyncio.get_running_loop()
            began = loop.time()

            async def progress() -> None:
                while True:
                    passed, crowd = loop.time() - began, on.crowd
                    doing = "striking" if passed < play.seconds else "coming to rest"
                    now = f"{crowd.begun} orders begun, {crowd.ended.total()} ended, {crowd.watch.records} records"
                    screen.update(task, completed=passed, description=doing, now=now)
                    if not console.is_terminal:
                        console.print(f"{passed:5.0f} s: {doing}, {now}", highlight=False)
                    await asyncio.sleep(1 if console.is_terminal else 15)

            showing = asyncio.create_task(progress())
            try:
                await perform(play, on)
            finally:
                showing.cancel()
            took = loop.time() - began
            screen.update(task, completed=play.seconds, description="asking", now="")
            asked = await invariants.ask(
                on.stage, on.crowd.history, lambda what, _: screen.update(task, now=escape(what))
            )
            screen.update(task, description="ending", now="")
        screen.update(task, visible=False)
    _show(on, asked, took)
    return not (on.crowd.broken or asked.findings)


def _show(on: Scene, asked: invariants.Asked, took: float) -> None:
    strikes = Table("strike", "struck", "missed", title="strikes")
    for kind in sorted(on.nemesis.done | on.nemesis.missed):
        strikes.add_row(kind, str(on.nemesis.done[kind]), str(on.nemesis.missed[kind] or ""))
    strikes.add_row("all", str(on.nemesis.done.total()), str(on.nemesis.missed.total() or ""), style="bold")
    orders = Table("story", "outcome", "orders", title="orders")
    for (story, outcome), count in sorted(on.crowd.ended.items()):
        orders.add_row(story, outcome, str(count))
    orders.add_row("all", f"{on.crowd.ended.total() / took:.1f} a second", str(on.crowd.ended.total()), style="bold")
    looked = Table("looked at", "", title="asked at rest")
    for what, count in asked.counted.items():
        looked.add_row(what, f"{count:,}")
    for table in (strikes, orders, looked):
        console.print(table)
    if on.crowd.broken:
        console.print(f"[red]{len(on.crowd.broken)} stories broke[/]")
        for line in on.crowd.broken[:SHOWN]:
            console.print(f"  {line}", markup=False)
    if asked.findings:
        for promise, count in Counter(finding.promise for finding in asked.findings).items():
            console.print(f"[red]broken {count} times:[/] {promise}")
        for finding in asked.findings[:SHOWN]:
            console.print(f"  {finding.promise}: {finding.where}: {finding.what}", markup=False)
    if not (on.crowd.broken or asked.findings):
        console.print("[green]every invariant holds[/]")


def main() -> None:
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--at-once", type=int, default=Play.at_once, help="orders under way at the same time")
    parser.add_argument("--rest", type=float, default=Play.rest_s, help="seconds that coming to rest may take")
    parser.add_argument("--keep", type=Path, default=None, help="a folder for state and logs, which stays")
    given = parser.parse_args()
    seed = SystemRandom().randrange(10**6) if given.seed is None else given.seed
    play = Play(seed, given.minutes * 60, given.at_once, rest_s=given.rest)
    console.print(f"[bold]SEED={seed}[/] MINUTES={given.minutes:g}")
    with tempfile.TemporaryDirectory(prefix="oms-chaos-", ignore_cleanup_errors=True) as temporary:
        var = given.keep or Path(temporary)
        (var / "log").mkdir(parents=True, exist_ok=True)
        with (var / "log" / "oms.log").open("a", encoding="utf-8") as log:
            # What Kafka's client has to say of a broker that is away is no news here.
            logging.basicConfig(stream=log)
            structlog.configure(
                processors=[structlog.processors.TimeStamper(fmt="iso", utc=True), structlog.processors.JSONRenderer()],
                logger_factory=structlog.WriteLoggerFactory(log),
            )
            try:
                held = asyncio.run(chaos(play, var))
            except StartFailed as error:
                console.print(f"[red]error:[/] {escape(str(error))}")
                sys.exit(3)
    console.print(f"SEED={seed}: " + ("[green]held[/]" if held else "[red]broken[/]"))
    sys.exit(0 if held else 1)


if __name__ == "__main__":
    main()
