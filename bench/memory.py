"""Figure 10: resident memory of each service, at rest and after a soak of whole stories; and what the soak left behind."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from statistics import mean
from typing import Final

import asyncpg
import psutil

from bench.contest import Contender, Place, contest
from bench.figures import Figure, Scale, Side, alone
from bench.world import World, all_seen
from ops.endpoints import Endpoints
from ops.system import System

TITLE: Final = "resident memory per service"
LOAD: Final = 0.6
SAMPLES: Final = 200
WARM_UP: Final = 200
"""Stories that say what the system can do."""
REST_S: Final = 5

DEAD: Final = """
SELECT relname, n_dead_tup, n_live_tup, pg_table_size(relid) / 1024 FROM pg_stat_user_tables WHERE n_dead_tup > 1000"""


async def soak(
    system: System, playing: World, rest: Mapping[str, float], rate: float, minutes: float
) -> tuple[dict[str, float], str]:
    """So many stories a second, open loop; what the services hold before, meanwhile and after, and the worst table."""
    soaking = asyncio.create_task(playing.plays_at(rate, minutes * 60))
    samples: list[Mapping[str, float]] = []
    while not soaking.done():
        samples.append(resident(system))
        await asyncio.wait([soaking], timeout=minutes * 60 / SAMPLES)
    await soaking
    after = resident(system)
    await playing.until(lambda: playing.finished == playing.begun)
    await all_seen(system.endpoints)
    bloat, worst = await _bloat(system.endpoints)
    tenth = max(1, len(samples) // 10)
    early, late = samples[tenth : 2 * tenth] or samples, samples[-tenth:]
    values = {"stories": playing.finished, "rate": rate, "bloat": bloat}
    for name in rest:
        values |= {f"{name} at rest": rest[name], f"{name} soaked": after[name]}
        values[f"{name} rise"] = 100 * (mean(s[name] for s in late) / mean(s[name] for s in early) - 1)
    return values, worst


def resident(system: System) -> dict[str, float]:
    """MB by service."""
    return {
        name: psutil.Process(process.pid).memory_info().rss / 1e6
        for name, process in system.processes.items()
        if process.pid is not None
    }


async def _bloat(endpoints: Endpoints) -> tuple[float, str]:
    """The largest share of dead rows in a table, in percent, and which table that is."""
    worst = (0.0, "none with a thousand")
    for name, service in endpoints.services.items():
        db = await asyncpg.connect(service.database)
        for table, dead, live, size in await db.fetch(DEAD):
            share = 100 * dead / (dead + live)
            worst = max(worst, (share, f"{name}, {table}: {dead:,} beside {live:,} that live, {size:,} kB"))
        await db.close()
    return worst


async def measure(place: Place, scale: Scale, report: Callable[[str], None]) -> list[Figure]:
    from bench import stories  # its run is soaked by what is here

    minutes = scale.soak_minutes
    if not scale.soaked:
        contender = Contender("all services", stories.ours, (WARM_UP, minutes, REST_S))
        scale.soaked.extend((await contest(place, (contender,), 1, report))["all services"])
    run = replace(scale.soaked[-1], cpu_seconds=0)
    services = [name.removesuffix(" rise") for name in run.values if name.endswith(" rise")]
    size = f"{minutes:g} min at {run.values['rate']:.0f} stories/s, {LOAD:.0%} of what it takes, {run.values['stories']:,.0f} stories"
    figures = []
    for name in services:
        side = Side(name, [run])
        figures += [
            alone(10, f"{name}, MB at rest", side, f"{name} at rest", size="ready and idle", at_least=False,
                  unit=" MB", must=150, aim=100),
            alone(10, f"{name}, MB after the soak", side, f"{name} soaked", size=size, at_least=False,
                  unit=" MB", must=150, aim=100),
            alone(10, f"{name}, rise in the soak", side, f"{name} rise", size=size, at_least=False,
                  unit=" %", must=5, aim=0),
        ]  # fmt: skip
    figures.append(
        alone(10, "dead rows in the worst table after the soak", Side("all services", [run]), "bloat",
              size=f"{size}; {run.configuration}", at_least=False, unit=" %")
    )  # fmt: skip
    return figures
