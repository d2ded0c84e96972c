"""Relay and consumer on real Kafka and PostgreSQL: every committed fact arrives, in order, and has one effect."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from uuid import uuid4

import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from fastapi import APIRouter, FastAPI

from shared.consumer import Route
from shared.contracts.orders import OrderHoldPlaced
from shared.database import Pool
from shared.envelope import Cause
from shared.relay import Relay
from shared.runtime import build
from shared.shell import Told, apply
from tests.backends import Backends
from tests.databases import AUTH_KEY, settings_for
from tests.integration.tally import FLOW, Add, add, record

NewDatabase = Callable[[str], Awaitable[str]]


async def until(what: Callable[[], Awaitable[bool]], seconds: float = 30) -> None:
    """Poll until it is so; the deadline fails the test."""
    async with asyncio.timeout(seconds):
        while not await what():  # noqa: ASYNC110  # what is waited for is in other processes
            await asyncio.sleep(0.02)


class Bench:
    """A database and a topic of its own, a relay where asked, and what the topic holds."""

    def __init__(self, backends: Backends, dsn: str, pool: Pool, service: str) -> None:
        self.backends = backends
        self.dsn = dsn
        self.pool = pool
        self.service = service
        self.topic = f"{service}.events"
        self.settings = settings_for(dsn, backends)

    def relay(self) -> Relay:
        return Relay(self.settings, self.service)

    async def commit(self, *told: Told[Add]) -> None:
        async with self.pool.acquire() as db, db.transaction():
            await apply(db, FLOW, told)

    async def is_published(self) -> bool:
        return not await self.pool.fetchval("SELECT count(*) FROM outbox")

    async def read(self, count: int) -> list[ConsumerRecord]:
        consumer = AIOKafkaConsumer(
            self.topic, bootstrap_servers=self.backends.kafka, auto_offset_reset="earliest", group_id=None
        )
        await consumer.start()
        try:
            async with asyncio.timeout(20):
                return [await consumer.getone() for _ in range(count)]
        finally:
            await consumer.stop()


@pytest.fixture
async def bench(backends: Backends, new_database: NewDatabase) -> AsyncIterator[Bench]:
    service = f"t{uuid4().hex[:8]}"
    admin = AIOKafkaAdminClient(bootstrap_servers=backends.kafka)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(f"{service}.events", num_partitions=3, replication_factor=1)])
    finally:
        await admin.close()
    dsn = await new_database("tests.integration.plumbing")
    pool = await asyncpg.create_pool(dsn, min_size=0, max_size=8)
    yield Bench(backends, dsn, pool, service)
    await pool.close()


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


async def test_a_key_keeps_its_order_and_every_header_is_there(bench: Bench) -> None:
    for n in range(100, 299):
        await bench.commit(add(f"o{n % 7}", n))
    async with AsyncExitStack() as stack:
        await run(stack, bench.relay())
        await until(bench.is_published)
    records = await bench.read(199)
    by_key: dict[bytes, list[int]] = {}
    for r in records:
        headers = dict(r.headers)
        by_key.setdefault(r.key, []).append(int(headers["ce_sequence"]))
        assert headers["ce_type"] == b"order.hold_placed"
        assert headers["ce_source"].decode() == f"urn:order-workflows:{bench.service}"
        assert headers["ce_actor"] == b"agent:test"
        assert json.loads(r.value)["order_id"].encode() == r.key == headers["ce_subject"]
    assert len(by_key) == 7
    for sequences in by_key.values():
        assert sequences == list(range(1, len(sequences) + 1))


async def test_what_was_acknowledged_but_not_deleted_is_published_again_and_has_one_effect(bench: Bench) -> None:
    await bench.commit(add("a", 1), add("a", 2))
    rows = await bench.pool.fetch("SELECT event_id FROM outbox ORDER BY position")
    async with AsyncExitStack() as stack:
        await run(stack, bench.relay())
        await until(bench.is_published)
    # The crash between acknowledgement and delete: the ids are still there when the next leader starts.
    await bench.pool.executemany("INSERT INTO outbox (event_id) VALUES ($1)", rows)
    async with AsyncExitStack() as stack:
        await run(stack, bench.relay())
        await until(bench.is_published)
    records = await bench.read(4)
    assert [dict(r.headers)["ce_sequence"] for r in records] == [b"1", b"2", b"1", b"2"]
    assert len({dict(r.headers)["ce_id"] for r in records}) == 2


async def test_one_relay_leads_and_another_takes_over_when_its_connection_dies(bench: Bench) -> None:
    first, second = bench.relay(), bench.relay()

    async def leads(relay: Relay) -> bool:
        return relay.progress.is_leader

    async with AsyncExitStack() as stack:
        stop_first = await run(stack, first)
        await until(lambda: leads(first))
        await run(stack, second)
        await bench.commit(add("a", 1))
        await until(bench.is_published)
        assert not second.progress.is_leader
        stop_first.set()
        await bench.pool.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted "
            "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        await until(lambda: leads(second))
        assert not first.progress.is_leader
        await bench.commit(add("a", 2))
        await until(bench.is_published)
    assert [dict(r.headers)["ce_sequence"] for r in await bench.read(2)] == [b"1", b"2"]


def consuming(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> FastAPI:
    """A whole service around the tally flow, as the runtime builds it, reading the bench's topic."""
    monkeypatch.setenv("OMS_DATABASE_URL", bench.dsn)
    monkeypatch.setenv("OMS_KAFKA", bench.backends.kafka)
    monkeypatch.setenv("OMS_AUTH_KEY", AUTH_KEY)

    def translate(fact: OrderHoldPlaced, why: Cause) -> Told[Add]:
        return Told(fact.order_id, Add(int(fact.detail)), why)

    return build(
        f"group-{bench.service}",
        topics=[bench.topic],
        routes=[Route(FLOW, {OrderHoldPlaced: translate})],
        router=APIRouter(),
        publishes=False,
    )


async def produce(bench: Bench, *records: tuple[str, int]) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=bench.backends.kafka, enable_idempotence=True)
    await producer.start()
    try:
        for n, (key, amount) in enumerate(records):
            told = record(key, amount, n)
            await producer.send(bench.topic, told.value, told.key, headers=list(told.headers))
    finally:
        await producer.stop()


async def totals(pool: Pool) -> dict[str, int]:
    rows = await pool.fetch("SELECT key, state FROM states WHERE sequence > 0")
    return {row["key"]: FLOW.state.validate_json(row["state"]).total for row in rows}


async def test_a_new_group_sees_the_past_and_poison_stops_nobody(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    await produce(bench, *[(f"o{n % 10}", 1) for n in range(500)], ("bad", 13), ("o1", 5), ("bad", 1))
    app = consuming(bench, monkeypatch)
    async with app.router.lifespan_context(app):
        expected = {f"o{n}": 50 for n in range(10)} | {"o1": 55}

        async def arrived() -> bool:
            return await totals(bench.pool) == expected

        await until(arrived)

        async def all_parked() -> bool:
            return bool(await bench.pool.fetchval("SELECT count(*) FROM parked") == 2)

        await until(all_parked)


async def test_an_outage_of_the_database_is_waited_out_and_loses_and_doubles_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = consuming(bench, monkeypatch)
    name = bench.dsn.rpartition("/")[2]
    async with app.router.lifespan_context(app):
        admin = await asyncpg.connect(bench.backends.postgres)
        try:
            await produce(bench, *[(f"o{n % 50}", 1) for n in range(1000)])
            await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
            await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
            await produce(bench, *[(f"o{n % 50}", 1) for n in range(1000)])
            consumer = app.state.running.consumers[0]

            async def is_failing() -> bool:
                return consumer.progress.failing_since is not None

            await until(is_failing)
        finally:
            await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
            await admin.close()

        async def arrived() -> bool:
            return await totals(bench.pool) == {f"o{n}": 40 for n in range(50)}

        await until(arrived)


async def test_lag_is_counted_per_partition_and_falls_to_zero(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    await produce(bench, *[(f"o{n}", 1) for n in range(30)])
    app = consuming(bench, monkeypatch)
    async with app.router.lifespan_context(app):
        consumer = app.state.running.consumers[0]

        async def no_lag() -> bool:
            lag = await consumer.lag()
            return len(lag) == 3 and all(behind == 0 for behind, _ in lag.values())

        await until(no_lag)
    assert sum((await totals(bench.pool)).values()) == 30
