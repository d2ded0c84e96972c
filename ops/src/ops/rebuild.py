"""`oms rebuild support-view`: everything derived made anew beside the live view, compared with it, swapped in, rolled back."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Annotated, Final, TypeVar

import asyncpg
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from ops.admin_client import AsJson, console, errors
from ops.endpoints import place
from ops.paths import state_folder
from ops.system import DECIDING
from shared.messaging.shell import freeze_gc
from support_view.rebuild import SHOWN, Parity, Rebuild, Refused, Report

T = TypeVar("T")

TRIES: Final = 5
BEGUN: Final = "SELECT to_regclass('sections_next')"
SECTIONS: Final = "SELECT count(*) FROM {}"

ServiceName = Annotated[str, typer.Argument(help="support-view: the only service whose state is derived from topics.")]


def rebuild(
    service: ServiceName,
    swap: Annotated[bool, typer.Option("--swap", help="Take the new generation even where the two differ.")] = False,
    roll_back: Annotated[bool, typer.Option("--roll-back", help="Go back to the generation before the swap.")] = False,
    discard: Annotated[bool, typer.Option("--discard", help="Drop the generation that is not live.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a new generation of the view from its timeline, compare it with the live one, and swap it in where they agree.

    The view goes on meanwhile; a rebuild that was stopped or killed goes on where it was; no message or escalation is
    sent again. Exit code 1 when the two differ: then --swap takes the new one, --discard the old.
    """
    if service != "support-view":
        raise typer.BadParameter(f"{service} keeps no derived state: its rows are proven by `oms verify`")
    if swap + roll_back + discard > 1:
        raise typer.BadParameter("choose one of --swap, --roll-back, --discard")
    database = place(DECIDING, state_folder()).database(service)
    freeze_gc()
    try:
        if roll_back:
            asyncio.run(_with(database, _patiently(Rebuild.roll_back)))
            _say(as_json, "rolled_back", "the generation before is live again, caught up with what was seen since")
        elif discard:
            asyncio.run(_with(database, Rebuild.discard))
            _say(as_json, "discarded", "the generation that was not live is gone")
        else:
            _build(database, swap, as_json)
    except Refused as refusal:
        console.print(f"[red]{refusal}[/]")
        raise typer.Exit(1) from None


def _build(database: str, swap: bool, as_json: bool) -> None:
    with Progress(
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        console=errors,
    ) as progress:  # fmt: skip
        tasks = {"": progress.add_task("starting", total=None)}

        def report(what: str, sections: int) -> None:
            if what not in tasks:
                total, done = total_and_done if what.startswith("folding") else (None, 0)
                tasks[what] = progress.add_task(what, total=total, completed=done)
            progress.advance(tasks[what], sections)

        total_and_done = asyncio.run(counted(database))
        progress.remove_task(tasks.pop(""))
        parity = asyncio.run(_with(database, Rebuild.build, report))
    if parity.holds or swap:
        asyncio.run(_with(database, _patiently(Rebuild.swap)))
    _show(parity, swapped=parity.holds or swap, as_json=as_json)
    if not (parity.holds or swap):
        raise typer.Exit(1)


async def counted(database: str) -> tuple[int, int]:
    """Sections there are, and those that a rebuild which was stopped has left."""
    db = await asyncpg.connect(database)
    try:
        done = await db.fetchval(SECTIONS.format("sections_next")) if await db.fetchval(BEGUN) else 0
        return await db.fetchval(SECTIONS.format("sections")), done
    finally:
        await db.close()


async def _with(database: str, step: Callable[[Rebuild], Awaitable[T]], report: Report | None = None) -> T:
    """One step on a connection of its own: the lock goes with it."""
    db = await asyncpg.connect(database)
    try:
        return await step(Rebuild(db, report) if report else Rebuild(db))
    finally:
        await db.close()


def _patiently(step: Callable[[Rebuild], Awaitable[None]]) -> Callable[[Rebuild], Awaitable[None]]:
    """Tables that are in use just then are asked for again: better than letting everybody queue behind us."""

    async def trying(rebuild: Rebuild) -> None:
        for _ in range(TRIES):
            try:
                return await step(rebuild)
            except asyncpg.LockNotAvailableError:
                await asyncio.sleep(1)
        raise Refused("the view's tables are in use all the time: a long transaction holds them; try again later")

    return trying


def _show(parity: Parity, *, swapped: bool, as_json: bool) -> None:
    if as_json:
        told = {
            "sections": parity.sections,
            "live_hash": parity.live_hash,
            "new_hash": parity.new_hash,
            "differing": [list(key) for key in parity.differing[:SHOWN]],
            "differing_sections": len(parity.differing),
            "differing_finds": parity.differing_finds,
            "differing_measured": parity.differing_measured,
            "parity": parity.holds,
            "swapped": swapped,
        }
        console.print_json(json.dumps(told))
        return
    hashes = f"{parity.sections} sections, live {parity.live_hash}, new {parity.new_hash}"
    if parity.holds:
        console.print(f"{hashes}: [green]in parity[/]")
    else:
        rows = f"{parity.differing_finds} finds and {parity.differing_measured} measured rows"
        console.print(f"{hashes}: [red]{len(parity.differing)} sections, {rows} differ[/]")
        for subject, which in parity.differing[:SHOWN]:
            console.print(f"  {subject}: what {which} told of it", markup=False)
    if swapped:
        console.print(
            "the new generation is live; [dim]oms rebuild support-view --roll-back | --discard the one before[/]"
        )
    else:
        console.print("the live one stays; [dim]oms rebuild support-view --swap | --discard the new one[/]")


def _say(as_json: bool, code: str, text: str) -> None:
    if as_json:
        console.print_json(json.dumps({"done": code}))
    else:
        console.print(text)
