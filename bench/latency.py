"""Commit to visible: from the commit of a fact to its row in the timeline, open loop, beside one process without a relay."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import datetime, timezone
from uuid import uuid4

import asyncpg
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from faststream.kafka import KafkaBroker
from uuid_utils.compat import uuid7

from bench.batches import placement
from bench.figures import AUTH_KEY, Figure, Place, middle, percentile
from orders.domain.decide import Command
from orders.domain.decide import Place as PlaceCommand
from orders.store import ORDERS
from shared.consumer import Consumer
from shared.envelope import Cause
from shared.relay import Relay
from shared.settings import Settings
from shared.shell import Told, apply
from support_view.handlers import take

PER_SECOND = 200
EVENTS = 2_000
WARM_UP = 400
RUNS = 3
MUST_TIMES = 10

SEEN = "SELECT subject, seen_at FROM timeline"
FLOOR_TABLES = """
CREATE TABLE floor_events (id text PRIMARY KEY, data json NOT NULL);
CREATE TABLE floor_timeline (id text PRIMARY KEY, data json NOT NULL, seen_at timestamptz DEFAULT clock_timestamp())"""
FLOOR_SEEN = "SELECT id, seen_at FROM floor_timeline"
FLOOR_INSERT = """
INSERT INTO floor_timeline (id, data) SELECT * FROM unnest($1::text[], $2::json[]) ON CONFLICT DO NOTHING"""


async def _new_topic(where: Place) -> str:
    name = f"bench{uuid4().hex[:8]}"
    admin = AIOKafkaAdminClient(bootstrap_servers=where.kafka)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(name, num_partitions=6, replication_factor=1)])
    finally:
        await admin.close()
    return name


async def _open_loop(commit: Callable[[str], Awaitable[None]]) -> dict[str, float]:
    """Commit at the rate whatever becomes of the others; the moment each was committed, by id."""
    committed: dict[str, float] = {}

    async def one(id: str) -> None:
        await commit(id)
        committed[id] = time.time()

    began = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for n in range(EVENTS):
            await asyncio.sleep(max(0.0, began + n / PER_SECOND - time.perf_counter()))
            tasks.create_task(one(f"l-{n}"))
    return committed


async def _milliseconds(view: asyncpg.Pool, query: str, committed: dict[str, float]) -> list[float]:
    """Wait until all are there; each one's time by the clock of its row. The first ones warm up and do not count."""
    async with asyncio.timeout(60):
        seen: dict[str, datetime] = {}
        while len(seen) < EVENTS:
            await asyncio.sleep(0.1)
            seen = {row[0]: row[1] for row in await view.fetch(query)}
    return [
        max(0.0, (seen[id].timestamp() - at) * 1000)
        for id, at in committed.items()
        if int(id.partition("-")[2]) >= WARM_UP
    ]


async def _ours(where: Place) -> list[float]:
    """The shell, the relay, the topic, the consumer and the projection as they are."""
    dsn = await where.database("orders")
    settings = Settings.model_validate({"database_url": dsn, "kafka": where.kafka, "auth_key": AUTH_KEY})
    topic, stop = await _new_topic(where), asyncio.Event()
    async with AsyncExitStack() as stack:
        orders = await stack.enter_async_context(asyncpg.create_pool(dsn, min_size=4, max_size=8))
        view = await stack.enter_async_context(
            asyncpg.create_pool(await where.database("support_view"), min_size=1, max_size=4)
        )
        relay = Relay(settings, "orders", topic)
        running = asyncio.create_task(relay.run(stop))
        broker = KafkaBroker(where.kafka, log_level=10)
        Consumer(view, take, settings, topic, lambda: None).subscribe(broker, [topic])
        await broker.start()
        stack.push_async_callback(broker.stop)

        async def commit(id: str) -> None:
            now = datetime.now(timezone.utc)
            told: Told[Command] = Told(
                id, PlaceCommand(id, placement(id), now), Cause(uuid7(), now, "service:bench", "bench", "bench")
            )
            async with orders.acquire() as db, db.transaction():
                [outcome], _ = await apply(db, ORDERS, [told])
            assert outcome.error is None, outcome.error
            relay.wake()

        times = await _milliseconds(view, SEEN, await _open_loop(commit))
        stop.set()
        relay.wake()
        await running
    return times


async def _floor(where: Place) -> list[float]:
    """Insert, produce, getmany, insert, in one process, with nothing in between."""
    topic = await _new_topic(where)
    data = json.dumps({"order_id": "x", "text": "y" * 380})
    async with AsyncExitStack() as stack:
        dsn = await where.database("orders")
        pool = await stack.enter_async_context(asyncpg.create_pool(dsn, min_size=4, max_size=8))
        await pool.execute(FLOOR_TABLES)
        producer = AIOKafkaProducer(bootstrap_servers=where.kafka, enable_idempotence=True, acks="all")
        consumer = AIOKafkaConsumer(topic, bootstrap_servers=where.kafka, group_id=topic, auto_offset_reset="earliest")
        for client in (producer, consumer):
            await client.start()
            stack.push_async_callback(client.stop)

        async def consume() -> None:
            while True:
                for records in (await consumer.getmany(timeout_ms=50, max_records=1000)).values():
                    ids, bodies = [r.key.decode() for r in records], [r.value.decode() for r in records]
                    await pool.execute(FLOOR_INSERT, ids, bodies)

        reading = asyncio.create_task(consume())

        async def commit(id: str) -> None:
            await pool.execute("INSERT INTO floor_events VALUES ($1, $2)", id, data)
            await producer.send(topic, data.encode(), id.encode())

        times = await _milliseconds(pool, FLOOR_SEEN, await _open_loop(commit))
        reading.cancel()
        await asyncio.wait([reading])
    return times


async def measure(where: Place) -> list[Figure]:
    """Commit to visible at 200 facts a second"""
    ours, floors = [], []
    for _ in range(RUNS):
        ours.append(await _ours(where))
        floors.append(await _floor(where))
    figures = []
    for name, share in (("p50", 0.50), ("p99", 0.99)):
        mine, theirs = (middle([percentile(run, share) for run in runs]) for runs in (ours, floors))
        limit = MUST_TIMES * middle([percentile(run, 0.99) for run in floors])
        figures.append(
            Figure(
                what=f"commit to visible, {PER_SECOND}/s, {name}",
                ours=mine,
                floor=theirs,
                unit="ms",
                must=f"within {MUST_TIMES} x floor's p99",
                is_met=mine <= limit,
                runs=tuple(percentile(run, share) for run in ours),
            )
        )
    return figures
