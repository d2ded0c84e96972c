"""How anything is measured: contenders do the same work in turns, each run in a fresh process, with its CPU time beside.
All run on the event loop that services run on.

CPU seconds are those of the contender's process, of all it started and of PostgreSQL; not the broker's, and not those
of what plays the outside world. What a contender wrote is checked before its time counts.
"""

import asyncio
import multiprocessing
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import asyncpg
import psutil
import uvloop
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from ops.databases import database_url
from ops.topics import PARTITIONS
from shared.messaging.shell import freeze_gc
from shared.migrations.__main__ import migrate
from shared.settings import Settings
from shared.web.logs import configure

FRESH = multiprocessing.get_context("forkserver")
"""Where processes come from: a server that has done nothing but import what they need, so that they begin at once."""
BESIDE = multiprocessing.get_context("fork")
"""For what a contender has beside itself: its child, so that its CPU time counts."""
AUTH_KEY = "a key for measurements, thirty-two bytes long"


class Unavailable(Exception):
    """A rival cannot be had on this machine; the text says why."""


@dataclass(frozen=True, slots=True)
class Place:
    """A broker and a database server. `prefix` starts the names of all that is made there; `postmaster` is None where
    the server's processes are not on this machine, so that its CPU time cannot be counted."""

    kafka: str
    postgres: str
    prefix: str
    postmaster: int | None

    @asynccontextmanager
    async def database(self, template: str | None) -> AsyncIterator[str]:
        """The DSN of a database of one's own: a copy of a template, gone afterwards."""
        name = f"{self.prefix}_{uuid4().hex[:12]}"
        await self.execute(f"CREATE DATABASE {name}" + (f" TEMPLATE {template}" if template else ""))
        try:
            yield database_url(self.postgres, name)
        finally:
            await self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    async def template(self, package: str) -> str:
        """The name of a database with a service's tables; made when first asked for."""
        name = f"{self.prefix}_{package}"
        db = await asyncpg.connect(self.postgres)
        try:
            if await db.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", name) is None:
                await db.execute(f"CREATE DATABASE {name}")
                await asyncio.to_thread(migrate, package, database_url(self.postgres, name))
        finally:
            await db.close()
        return name

    async def topic(self, partitions: int = PARTITIONS) -> str:
        name = f"{self.prefix}-{uuid4().hex[:12]}"
        admin = AIOKafkaAdminClient(bootstrap_servers=self.kafka)
        await admin.start()
        try:
            await admin.create_topics([NewTopic(name, num_partitions=partitions, replication_factor=1)])
        finally:
            await admin.close()
        return name

    async def execute(self, statement: str) -> None:
        db = await asyncpg.connect(self.postgres)
        try:
            await db.execute(statement)
        finally:
            await db.close()

    def settings(self, dsn: str, **more: Any) -> Settings:
        return Settings.model_validate({"database_url": dsn, "kafka": self.kafka, "auth_key": AUTH_KEY, **more})

    async def clear(self) -> None:
        """Drop what is left of it; a server of one's own is thrown away whole anyway."""
        db = await asyncpg.connect(self.postgres)
        try:
            for (name,) in await db.fetch(
                "SELECT datname FROM pg_database WHERE starts_with(datname, $1)", self.prefix
            ):
                await db.execute(f"DROP DATABASE {name} WITH (FORCE)")
        finally:
            await db.close()
        admin = AIOKafkaAdminClient(bootstrap_servers=self.kafka)
        await admin.start()
        try:
            await admin.delete_topics([name for name in await admin.list_topics() if name.startswith(self.prefix)])
        finally:
            await admin.close()


async def place_at(kafka: str, postgres: str) -> Place:
    db = await asyncpg.connect(postgres)
    try:
        backend = psutil.Process(await db.fetchval("SELECT pg_backend_pid()"))
        parent = backend.parent() if "postgres" in backend.name() else None
    except psutil.NoSuchProcess:
        parent = None
    finally:
        await db.close()
    return Place(kafka, postgres, f"bench{uuid4().hex[:6]}", parent.pid if parent else None)


@dataclass(frozen=True, slots=True)
class Measured:
    """One run: `count` of what was done; `values` are latencies and sizes by name."""

    count: int = 0
    seconds: float = 0
    cpu_seconds: float = 0
    values: Mapping[str, float] = field(default_factory=dict)
    configuration: str = ""

    @property
    def rate(self) -> float:
        return self.count / self.seconds

    @property
    def cpu_per_1000(self) -> float:
        return self.cpu_seconds * 1000 / self.count


Run = Callable[..., Awaitable[Measured]]


@dataclass(frozen=True, slots=True)
class Contender:
    """`run(place, *with_)` is a coroutine function of a module, so that a fresh process can call it."""

    name: str
    run: Run
    with_: tuple[Any, ...] = ()


def _tree_cpu(pid: int) -> float:
    """User and system seconds of a process, its living descendants, and those that have ended."""
    try:
        process = psutil.Process(pid)
        times = process.cpu_times()
        children = process.children()
    except psutil.NoSuchProcess:
        return 0.0
    own = sum((times.user, times.system, times.children_user, times.children_system))
    return float(own) + sum(_tree_cpu(child.pid) for child in children)


class Meter:
    """`async with Meter(place) as meter: …`, then `meter.measured(count)`. Given `processes`, their CPU time counts, else
    that of this process and all it started; PostgreSQL's always."""

    def __init__(self, place: Place, processes: Sequence[int] = ()) -> None:
        self._place = place
        self._processes = processes or (os.getpid(),)

    def cpu(self) -> float:
        return sum(_tree_cpu(pid) for pid in (*self._processes, self._place.postmaster) if pid)

    async def __aenter__(self) -> "Meter":
        # What was written before must not be paid for now.
        await self._place.execute("CHECKPOINT")
        # For all contenders alike, as services do.
        freeze_gc()
        self._cpu, self._began = self.cpu(), time.perf_counter()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._began
        self.cpu_seconds = self.cpu() - self._cpu

    def measured(self, count: int, configuration: str = "", **values: float) -> Measured:
        return Measured(count, self.seconds, self.cpu_seconds, values, configuration)


def _in_fresh_process(run: Run, place: Place, with_: tuple[Any, ...]) -> Measured:
    async def measure() -> Measured:
        return await run(place, *with_)

    configure("bench", "error")
    return uvloop.run(measure())


async def contest(
    place: Place, contenders: Sequence[Contender], runs: int, report: Callable[[str], None]
) -> dict[str, list[Measured]]:
    """Every contender's runs, taken in turns. One that is not to be had has none; the report says why."""
    measured: dict[str, list[Measured]] = {contender.name: [] for contender in contenders}
    missing: set[str] = set()
    loop = asyncio.get_running_loop()
    for _ in range(runs):
        for contender in contenders:
            if contender.name in missing:
                continue
            with ProcessPoolExecutor(1, mp_context=FRESH) as pool:
                work = loop.run_in_executor(pool, _in_fresh_process, contender.run, place, contender.with_)
                try:
                    measured[contender.name].append(await work)
                except Unavailable as why:
                    missing.add(contender.name)
                    report(f"{contender.name} cannot be had: {why}")
                    continue
            report(contender.name)
    return measured


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def until(is_so: Callable[[], object], within: float = 600) -> None:
    """Look every ten milliseconds; TimeoutError when it never comes."""
    async with asyncio.timeout(within):
        while True:
            if is_so():
                return
            await asyncio.sleep(0.01)
