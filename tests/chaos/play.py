"""One run: the system on its stage, a crowd of orders, a nemesis, rest, and what is asked then."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from ops.actors import Actors
from ops.demo import run_name
from ops.keys import kept_keys
from ops.stories import policy
from ops.supervision import Report
from tests.chaos import invariants
from tests.chaos.load import Crowd
from tests.chaos.nemesis import Nemesis, schedule
from tests.chaos.stage import Stage, staged


@dataclass(frozen=True)
class Play:
    """How long and how hard. `between` strikes: seconds, at least and at most; `scale`: how long they last."""

    seed: int
    seconds: float
    at_once: int = 120
    between: tuple[float, float] = (5, 40)
    scale: float = 1.0
    rest_s: float = 300.0
    """How long stories may take to end, and everything to come to rest, when nothing is struck any more."""


@dataclass(frozen=True, slots=True)
class Scene:
    """A run as it goes on; `tell` hears of every strike."""

    stage: Stage
    crowd: Crowd
    nemesis: Nemesis


@asynccontextmanager
async def scene(play: Play, var: Path, tell: Callable[[str], None], report: Report) -> AsyncIterator[Scene]:
    async with staged(var, report) as stage:
        endpoints, key = stage.system.endpoints, kept_keys(var).auth_key
        patience = play.seconds + play.rest_s
        async with Actors(endpoints, key, run_name(), lambda _: None, patience) as actors, asyncio.TaskGroup() as tasks:
            crowd = Crowd(actors, play.seed, play.at_once)
            nemesis = Nemesis(stage, schedule(play.seed, play.between, play.scale), tell)
            # In a group: without ears nobody acts, so a failure of theirs ends the run.
            following = tasks.create_task(crowd.watch.follow())
            try:
                await policy(actors, f"standard-{actors.run}", 1, 30, 24)
                await crowd.prepare()
                yield Scene(stage, crowd, nemesis)
            finally:
                await crowd.all_ended(0)
                await crowd.close()
                following.cancel()


async def perform(play: Play, on: Scene) -> None:
    """Load and strikes until the time is over; then all stories to their ends, and rest. Nothing is asked yet."""
    loop = asyncio.get_running_loop()
    until = loop.time() + play.seconds
    striking = asyncio.create_task(on.nemesis.strike(until))
    loading = asyncio.create_task(_load(on.crowd, until))
    try:
        await asyncio.gather(striking, loading)
    finally:
        for task in (striking, loading):
            task.cancel()
        await asyncio.gather(striking, loading, return_exceptions=True)
    await on.stage.ready()
    await on.crowd.all_ended(play.rest_s)
    if (busy := await invariants.rest(on.stage, play.rest_s)) is not None:
        on.crowd.broken.append(f"no rest after {play.rest_s:.0f} s: {busy}")


async def _load(crowd: Crowd, until: float) -> None:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout_at(until):
            while loop.time() < until:
                await crowd.begin()
    except TimeoutError:
        return
