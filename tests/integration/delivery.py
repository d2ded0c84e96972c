"""What tests of delivery share: a database and a topic of one's own, relays, and services in and out of this process."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from fastapi import FastAPI

from shared.messaging.database import Pool
from shared.messaging.parking import Record
from shared.messaging.relay import Relay
from shared.messaging.shell import Message, apply
from tests.backends import Backends
from tests.databases import AUTH_KEY, settings_for
from tests.integration.counting import service
from tests.integration.tally import FLOW, Add, record

NewDatabase = Callable[[str], Awaitable[str]]

ROOT = Path(__file__).parents[2]


async def until(what: Callable[[], Awaitable[bool]], seconds: float = 30) -> None:
    """Poll until it is so; the deadline fails the test."""
    async with asyncio.timeout(seconds):
        while not await what():  # noqa: ASYNC110  # what is waited for is in other processes
            await asyncio.sleep(0.02)


class Bench:
    """A database and a topic of its own, a relay where asked, and what the topic holds."""

    def __init__(self, backends: Backends, admin: AIOKafkaAdminClient, dsn: str, pool: Pool, service: str) -> None:
        self.backends = backends
        self.admin = admin
        self.dsn = dsn
        self.pool = pool
        self.service = service
        self.topic = f"{service}.events"
        self.group = f"group-{service}"
        self.settings = settings_for(dsn, backends)

    def relay(self, **more: object) -> Relay:
        return Relay(settings_for(self.dsn, self.backends, **more), self.service)

    async def commit(self, *told: Message[Add]) -> None:
        async with self.pool.acquire() as db, db.transaction():
            await apply(db, FLOW, told)

    async def is_published(self) -> bool:
        return not await self.pool.fetchval("SELECT count(*) FROM outbox")

    async def end_leader(self) -> None:
        """End the database session of whoever leads."""
        await self.pool.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted AND classid = 7236 "
            "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )

    async def read(self) -> list[ConsumerRecord]:
        """All that the topic holds."""
        consumer = AIOKafkaConsumer(bootstrap_servers=self.backends.kafka, group_id=None, auto_offset_reset="earliest")
        await consumer.start()
        try:
            [told] = await self.admin.describe_topics([self.topic])
            places = [TopicPartition(self.topic, each["partition"]) for each in told["partitions"]]
            consumer.assign(places)
            ends = await consumer.end_offsets(places)
            found: list[ConsumerRecord] = []
            async with asyncio.timeout(30):
                for place in places:
                    while await consumer.position(place) < ends[place]:
                        batches = await consumer.getmany(place, timeout_ms=1000)
                        found += batches.get(place, [])
            return found
        finally:
            await consumer.stop()

    async def sequences(self) -> dict[str, list[int]]:
        """Per key the sequences on the topic in order, each fact where it stands for the first time."""
        seen: set[bytes] = set()
        found: dict[str, list[int]] = {}
        for each in await self.read():
            headers = dict(each.headers)
            if headers["ce_id"] not in seen:
                seen.add(headers["ce_id"])
                found.setdefault(each.key.decode(), []).append(int(headers["ce_sequence"]))
        return found

    async def journal(self) -> dict[str, list[int]]:
        rows = await self.pool.fetch("SELECT subject, sequence FROM events ORDER BY subject, sequence")
        found: dict[str, list[int]] = {}
        for row in rows:
            found.setdefault(row["subject"], []).append(row["sequence"])
        return found

    async def produce(self, *records: tuple[str, int | str] | Record) -> None:
        """Onto the topic: (key, amount) as facts, in this order; a Record as it is, in its partition."""
        async with AIOKafkaProducer(
            bootstrap_servers=self.backends.kafka, enable_idempotence=True, max_request_size=8 * 1024 * 1024
        ) as producer:
            for n, each in enumerate(records):
                told = each if isinstance(each, Record) else record(each[0], each[1], n)
                where = told.partition if isinstance(each, Record) else None
                await producer.send(self.topic, told.value, told.key, partition=where, headers=list(told.headers))

    async def totals(self) -> dict[str, int]:
        rows = await self.pool.fetch("SELECT key, state FROM states WHERE sequence > 0")
        return {row["key"]: FLOW.state.validate_json(row["state"]).total for row in rows}

    async def counts(self, expected: dict[str, int], seconds: float = 30) -> None:
        """Wait until the totals are these; say what they are when they never are."""

        async def are() -> bool:
            return await self.totals() == expected

        try:
            await until(are, seconds)
        except TimeoutError:
            assert await self.totals() == expected

    def consuming(self, monkeypatch: pytest.MonkeyPatch, **settings: object) -> FastAPI:
        """A whole service around the tally flow, as the runtime builds it, reading the bench's topic."""
        for name, value in self._environment(settings).items():
            monkeypatch.setenv(name, value)
        return service(self.group, self.topic, publishes=False)

    def _environment(self, settings: dict[str, object]) -> dict[str, str]:
        given = {"database_url": self.dsn, "kafka": self.backends.kafka, "auth_key": AUTH_KEY} | settings
        return {f"OMS_{name.upper()}": str(value) for name, value in given.items()}

    @asynccontextmanager
    async def process(self, log: Path, *, reads: bool = True, **settings: object) -> AsyncIterator["Program"]:
        """The same in a process of its own: it reads the topic or, when not, publishes to it. Killed on exit."""
        tally = {"TALLY_NAME": self.group, "TALLY_READS": self.topic} if reads else {"TALLY_NAME": self.service}
        with log.open("ab") as out:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "uvicorn", "--factory", "tests.integration.counting:from_environment"),
                *("--port", "0", "--log-level", "warning"),
                cwd=ROOT,
                env=os.environ | tally | self._environment(settings),
                stdout=out,
                stderr=out,
            )
        try:
            yield Program(process, log)
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
                await process.wait()


class Program:
    """A service's process and what it has logged."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self._log = log

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    async def ended(self, seconds: float = 60) -> int:
        """Its exit code."""
        async with asyncio.timeout(seconds):
            return await self._process.wait()

    def logged(self, event: str) -> list[dict[str, Any]]:
        """The log's lines of this event."""
        lines = self._log.read_text(encoding="utf-8").splitlines()
        return [said for said in map(_parsed, lines) if said.get("event") == event]

    async def logs(self, event: str) -> None:
        """Wait until it has logged it."""

        async def has() -> bool:
            return bool(self.logged(event))

        await until(has)


def _parsed(line: str) -> dict[str, Any]:
    try:
        said = json.loads(line)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


async def run(stack: AsyncExitStack, relay: Relay) -> asyncio.Event:
    """Start a relay that is stopped when the stack closes, or by its event."""
    stop = asyncio.Event()
    task = asyncio.create_task(relay.run(stop))

    async def end() -> None:
        stop.set()
        relay.wake()
        await asyncio.wait_for(task, 10)

    stack.push_async_callback(end)
    return stop


def once(keys: Iterable[str], amount: int) -> dict[str, int]:
    return dict.fromkeys(keys, amount)


@asynccontextmanager
async def bench_of(backends: Backends, new_database: NewDatabase, partitions: int = 3) -> AsyncIterator[Bench]:
    service = f"t{uuid4().hex[:8]}"
    dsn = await new_database("tests.integration.plumbing")
    pool = await asyncpg.create_pool(dsn, min_size=0, max_size=8)
    admin = AIOKafkaAdminClient(bootstrap_servers=backends.kafka)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(f"{service}.events", num_partitions=partitions, replication_factor=1)])
        yield Bench(backends, admin, dsn, pool, service)
    finally:
        await admin.close()
        await pool.close()


def keys_by_partition(partitions: int, each: int) -> list[list[str]]:
    """Keys that Kafka's clients put into partition 0, 1, ..."""
    from shared.messaging.relay import _partition

    found: list[list[str]] = [[] for _ in range(partitions)]
    n = 0
    while any(len(keys) < each for keys in found):
        place = _partition(f"k{n}", partitions)
        if len(found[place]) < each:
            found[place].append(f"k{n}")
        n += 1
    return found


def in_order(told: Sequence[int]) -> bool:
    return list(told) == list(range(1, len(told) + 1))
