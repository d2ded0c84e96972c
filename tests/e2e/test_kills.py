"""kill -9 of any one process during the stories delays them and changes nothing in the outcome."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator

import pytest

from ops.actors import Actors
from ops.demo import play, run_name
from ops.keys import kept_keys
from ops.stories import STORIES
from ops.system import System, running_system
from ops.verify import check

PROCESSES = (
    "orders",
    "payments",
    "fulfillment",
    "returns",
    "notifications",
    "support-view",
    "sandbox",
    "kafka",
    "postgres",
)


@pytest.fixture(scope="module")
async def own_system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    """A system whose Kafka and PostgreSQL are its own, so that they can be killed too."""
    with pytest.MonkeyPatch.context() as environment:
        environment.delenv("OMS_KAFKA", raising=False)
        environment.delenv("OMS_POSTGRES_URL", raising=False)
        async with running_system(tmp_path_factory.mktemp("kills"), auto_ports=True) as running:
            yield running


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["cancel in the middle", "return under policy", "unknown outcome"])
async def test_every_process_killed_once_during_a_story_changes_nothing(own_system: System, name: str) -> None:
    """At every step of the story the next process dies; the supervisor starts it again, and the story goes on."""
    key = kept_keys(own_system.endpoints.secrets.parent).auth_key
    to_kill = list(PROCESSES)
    killed: list[str] = []

    def kill_next(_: str) -> None:
        if to_kill:
            victim = to_kill.pop()
            pid = own_system.processes[victim].pid
            if pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed.append(victim)

    async with Actors(own_system.endpoints, key, run_name(), kill_next) as actors:
        told = asyncio.create_task(play(name, STORIES[name], actors))
        while not told.done():
            await asyncio.wait([told], timeout=4)
            kill_next("")
        await told
    assert len(killed) >= 4, killed
    await own_system.ready(within=60)
    _, findings = await check(own_system.endpoints, key, lambda *_: None)
    assert findings == []
