"""Figure 5: whole order stories, by all services with their journals and checks, beside workflow engines."""

import asyncio
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Final

import asyncpg

from bench import memory
from bench.contest import Contender, Measured, Meter, Place, contest, percentile
from bench.figures import CPU, RATE, Figure, Scale, Side, alone, compared
from bench.rivals import dbos, one_at_a_time, procrastinate
from bench.rivals.story import check
from bench.world import World, all_seen, world
from ops.endpoints import Endpoints
from ops.system import System

TITLE: Final = "whole order stories"
AT_ONCE: Final = 400

JOURNALS: Final = {
    "orders": "SELECT subject, type, (data->>'total_minor')::int FROM events WHERE type = 'order.placed'",
    "payments": """
SELECT subject, type, (data->>'amount_minor')::int FROM events
WHERE type IN ('payment.authorized', 'payment.captured', 'refund.completed')""",
    "fulfillment": """
SELECT subject, type, (data->>'quantity')::int FROM events WHERE type = 'stock.allocated' UNION ALL
SELECT subject, type, (SELECT sum((l->>'quantity')::int) FROM json_array_elements(data->'lines') AS l)::int
FROM events WHERE type IN ('shipment.shipped', 'shipment.delivered')""",
    "returns": """
SELECT subject, type, (SELECT sum((l->>'quantity')::int) FROM json_array_elements(data->'lines') AS l)::int
FROM events WHERE type IN ('return.requested', 'return.items_received', 'return.items_inspected')""",
}
"""The facts of a story as each service's journal has them."""


async def ours(place: Place, count: int, soak_minutes: float, rest_seconds: float) -> Measured:
    """Every service as a process; the world around them is played by this one, whose CPU time is not theirs. With a soak,
    their memory is watched: at rest before, and at a share of what they could do after."""
    with tempfile.TemporaryDirectory(prefix="oms-bench-", ignore_cleanup_errors=True) as var:
        os.environ |= {"OMS_KAFKA": place.kafka, "OMS_POSTGRES_URL": place.postgres}
        async with world(Path(var)) as (system, playing):
            await asyncio.sleep(rest_seconds)
            rest = memory.resident(system)
            await playing.plays(AT_ONCE // 4, AT_ONCE)
            await all_seen(system.endpoints)
            async with Meter(place, services(system)) as meter:
                await playing.plays(count, AT_ONCE)
                await all_seen(system.endpoints)
            await _check(system.endpoints, playing)
            took = playing.took[-count:]
            values = {"p50": percentile(took, 0.50) * 1000, "p99": percentile(took, 0.99) * 1000}
            worst = ""
            if soak_minutes:
                rate = memory.LOAD * count / meter.seconds
                watched, worst = await memory.soak(system, playing, rest, rate, soak_minutes)
                values |= watched
    return meter.measured(count, worst, **values)


def services(system: System) -> tuple[int, ...]:
    return tuple(process.pid for process in system.processes.values() if process.pid is not None)


async def _check(endpoints: Endpoints, playing: World) -> None:
    rows: list[tuple[str, str, int]] = []
    for name, query in JOURNALS.items():
        db = await asyncpg.connect(endpoints.database(name))
        rows += [tuple(row) for row in await db.fetch(query) if row[0].startswith(playing.run)]
        parked = await db.fetchval("SELECT count(*) FROM parked WHERE starts_with(key, $1)", playing.run)
        await db.close()
        if parked:
            raise AssertionError(f"{name} parked {parked} messages")
    check(rows, playing.finished)


async def measure(place: Place, scale: Scale, report: Callable[[str], None]) -> list[Figure]:
    count, theirs = scale.pick(2_000, 150), scale.pick(300, 30)
    soak = scale.soak_minutes if scale.is_quick and 10 in scale.figures else 0
    contenders = (
        Contender("all services", ours, (count, soak, memory.REST_S if soak else 0)),
        Contender("DBOS", dbos.stories, (theirs,)),
        Contender("procrastinate", procrastinate.stories, (theirs,)),
        Contender("FastStream", one_at_a_time.stories, (theirs,)),
    )
    measured = await contest(place, contenders, scale.runs, report)
    scale.soaked.extend(measured["all services"] if soak else [])
    mine = Side("all six services", measured["all services"])
    size = f"{count:,} stories, {AT_ONCE} at once; theirs {theirs:,}"
    rivals = [
        Side("DBOS, nine steps", measured["DBOS"]),
        Side("procrastinate, a job a step", measured["procrastinate"]),
        Side("FastStream, one message at a time", measured["FastStream"]),
    ]
    had = [median(run.cpu_per_1000 for run in rival.runs) for rival in rivals if rival.runs]
    figures = [
        alone(5, TITLE, mine, RATE, size=size, at_least=True, must=100, aim=200),
        alone(5, "a story from order to refund", mine, "p50", size=f"{size}, p50", at_least=False),
    ]
    for rival in rivals:
        is_best = bool(rival.runs) and median(run.cpu_per_1000 for run in rival.runs) == min(had)
        what = f"stories per CPU second{', the best of them' if is_best else ''}"
        bounds = (3, 10) if is_best else (None, None)
        figures.append(compared(5, what, mine, rival, CPU, size=size, must=bounds[0], aim=bounds[1]))
        if rival.runs:
            figures.append(compared(5, "stories per second", mine, rival, RATE, size=size))
    return figures
