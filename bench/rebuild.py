"""Figure 9: the view rebuilt while facts go on coming, beside the timeline's insert by hand, and what the live ones feel."""

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from typing import Final

import asyncpg

from bench import projection
from bench.contest import BESIDE, Contender, Measured, Meter, Place, contest
from bench.figures import TIME, Figure, Scale, Side, compared
from bench.load import STORY_FACTS, new_topics, tell_stories
from bench.reads import timeline_of
from bench.visible import SEEN, open_loop, shell_at, view_at
from support_view.rebuild import Rebuild

TITLE: Final = "rebuild of the view while 200 facts a second are live"
LIVE_PER_S: Final = 200
CALM_S: Final = 5


async def rebuilding(place: Place, database: str, facts: int) -> Measured:
    """As `oms rebuild` does it, in a process of its own beside the live consumer and the shell; compared, swapped in."""
    return await _live(place, database, facts, is_rebuilt=True)


def rebuilt(dsn: str) -> None:
    """A process that rebuilds the view."""
    asyncio.run(_rebuilt(dsn))


async def _rebuilt(dsn: str) -> None:
    db = await asyncpg.connect(dsn)
    parity = await Rebuild(db).build()
    await Rebuild(db).swap()
    await db.close()
    if not parity.holds:
        raise AssertionError(f"the rebuilt view differs from the live one: {parity.differing[:3]}")


async def calm(place: Place, database: str, facts: int) -> Measured:
    """The same load on the same timeline, with no rebuild."""
    return await _live(place, database, facts, is_rebuilt=False)


async def _live(place: Place, database: str, facts: int, *, is_rebuilt: bool) -> Measured:
    topic = await place.topic()
    async with AsyncExitStack() as stack:
        dsn = await stack.enter_async_context(place.database(database))
        view = await stack.enter_async_context(view_at(place, topic, dsn))
        commit = await stack.enter_async_context(shell_at(place, topic))
        measured = Measured()

        async def rebuild() -> None:
            nonlocal measured
            # No meter's checkpoint while facts are live: that of the load is just over.
            meter, began = Meter(place), time.perf_counter()
            cpu = meter.cpu()
            process = BESIDE.Process(target=rebuilt, args=(dsn,))
            process.start()
            await asyncio.to_thread(process.join)
            measured = Measured(facts, time.perf_counter() - began, meter.cpu() - cpu)
            if process.exitcode:
                raise AssertionError(f"the rebuild ended with {process.exitcode}")

        during = rebuild() if is_rebuilt else asyncio.sleep(CALM_S)
        live = await open_loop(place, commit, view, SEEN, LIVE_PER_S, during)
        return replace(measured, values=live.values) if is_rebuilt else live


async def measure(place: Place, scale: Scale, report: Callable[[str], None]) -> list[Figure]:
    orders, beside = scale.pick((1_000_000 // STORY_FACTS, 2_500), (20_000 // STORY_FACTS, 400))
    report("telling stories")
    database, topics = await timeline_of(place, orders), await new_topics(place, beside)
    await tell_stories(place, topics)
    facts = orders * STORY_FACTS
    contenders = (
        Contender("rebuild", rebuilding, (database, facts)),
        Contender("calm", calm, (database, facts)),
        Contender("by hand", projection.by_hand, (topics,)),
    )
    measured = await contest(place, contenders, scale.runs, report)
    mine = Side("rebuild", measured["rebuild"])
    floor = Side("getmany, one unnest insert into the timeline", measured["by hand"])
    shown = partial(compared, 9, size=f"{facts:,} facts; by hand {topics.facts:,}")
    return [
        shown(TITLE, mine, floor, TIME, must=1.6, aim=1.25),
        shown(
            "commit to visible at 200/s, p99, during it",
            mine,
            Side("without", measured["calm"]),
            "p99",
            must=2,
            aim=1.3,
        ),
    ]
