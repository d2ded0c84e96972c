"""Figure 2: from outbox to acknowledged, beside the same messages selected, sent and deleted by hand."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any, Final

import asyncpg
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from bench.contest import Contender, Measured, Meter, Place, contest, until
from bench.figures import CPU, RATE, Figure, Scale, Side, compared
from bench.load import BATCH, MESSAGES, cause, progress
from ops.databases import database_url
from ops.topics import PARTITIONS
from shared.messaging import journal
from shared.messaging.envelope import source_of
from shared.messaging.relay import Relay

TITLE: Final = "relay: outbox to acknowledged"

Message = tuple[bytes, bytes, bytes]
"""Key, value and id."""


async def outbox_of(place: Place, orders: int) -> str:
    """The name of a database whose outbox holds facts of so many orders; made when first asked for."""
    name = f"{place.prefix}_outbox_{orders}"
    await place.execute(f"CREATE DATABASE {name} TEMPLATE {await place.template('orders')}")
    db = await asyncpg.connect(database_url(place.postgres, name))
    stories = [(f"r-{n}", progress(f"r-{n}")) for n in range(orders)]
    for start in range(0, orders, BATCH):
        for n in range(MESSAGES):
            entries = []
            for id, facts in stories[start : start + BATCH]:
                entries += journal.entries([facts[n]], id, n, b"", cause())
            await journal.append(db, entries)
            await db.execute(PUBLISH, [entry.id for entry in entries])
    await db.close()
    return name


async def ours(place: Place, outbox: str, count: int) -> Measured:
    async with place.database(outbox) as dsn:
        topic, stop = await place.topic(), asyncio.Event()
        expected = await unpublished(dsn)
        relay = Relay(place.settings(dsn), "orders", topic)
        async with Meter(place) as meter:
            running = asyncio.create_task(relay.run(stop))
            await until(lambda: relay.progress.published >= count)
        stop.set()
        relay.wake()
        await running
        await check(place, dsn, topic, expected)
    return meter.measured(count)


PUBLISH: Final = "INSERT INTO outbox (event_id) SELECT * FROM unnest($1::uuid[])"
NEXT: Final = """
SELECT position, subject, id::text, type, data::text, occurred_at, sequence, actor, reason, correlation_id
FROM outbox JOIN events ON id = event_id ORDER BY position LIMIT $1"""
DELETE: Final = "DELETE FROM outbox WHERE position <= $1"


async def by_hand(place: Place, outbox: str, count: int) -> Measured:
    """Select by position, send with an idempotent producer, await all, delete: nobody to share with, nothing to fail."""
    async with place.database(outbox) as dsn:
        topic = await place.topic()
        expected = await unpublished(dsn)
        meter = Meter(place)
        async with AsyncExitStack() as stack, meter:
            db = await asyncpg.connect(dsn)
            stack.push_async_callback(db.close)
            producer = AIOKafkaProducer(
                bootstrap_servers=place.kafka,
                enable_idempotence=True,
                acks="all",
                linger_ms=1,
                max_batch_size=256 * 1024,
            )
            await producer.start()
            stack.push_async_callback(producer.stop)
            while rows := await db.fetch(NEXT, BATCH):
                sends = [
                    await producer.send(topic, row["data"].encode(), row["subject"].encode(), headers=_headers(row))
                    for row in rows
                ]
                await asyncio.gather(*sends)
                await db.execute(DELETE, rows[-1]["position"])
        await check(place, dsn, topic, expected)
    return meter.measured(count)


def _headers(row: Any) -> list[tuple[str, bytes]]:
    return [
        ("ce_specversion", b"1.0"),
        ("ce_id", row["id"].encode()),
        ("ce_source", source_of("orders").encode()),
        ("ce_type", row["type"].encode()),
        ("ce_subject", row["subject"].encode()),
        ("ce_time", row["occurred_at"].isoformat().encode()),
        ("ce_sequence", str(row["sequence"]).encode()),
        ("ce_correlationid", row["correlation_id"].encode()),
        ("ce_actor", row["actor"].encode()),
        ("ce_reason", row["reason"].encode()),
        ("content-type", b"application/json"),
    ]


async def unpublished(dsn: str) -> dict[bytes, list[Message]]:
    """What must come out, by key in order."""
    db = await asyncpg.connect(dsn)
    rows = await db.fetch(
        "SELECT subject, data::text, id::text FROM outbox JOIN events ON id = event_id ORDER BY position"
    )
    await db.close()
    messages: dict[bytes, list[Message]] = {}
    for row in rows:
        message = (row[0].encode(), row[1].encode(), row[2].encode())
        messages.setdefault(message[0], []).append(message)
    return messages


async def check(place: Place, dsn: str, topic: str, expected: dict[bytes, list[Message]]) -> None:
    """Every message is on the topic, once, in order per key, and the outbox is empty."""
    found: dict[bytes, list[Message]] = {}
    async with AIOKafkaConsumer(bootstrap_servers=place.kafka, auto_offset_reset="earliest") as consumer:
        partitions = [TopicPartition(topic, n) for n in range(PARTITIONS)]
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        left = sum(ends.values())
        while left:
            for records in (await consumer.getmany(timeout_ms=1000, max_records=10 * BATCH)).values():
                left -= len(records)
                for record in records:
                    id = next(bytes(value) for name, value in record.headers if name in ("ce_id", "id"))
                    found.setdefault(record.key, []).append((record.key, record.value, id))
    if found != expected:
        raise AssertionError(
            f"{sum(map(len, found.values()))} messages came out, {sum(map(len, expected.values()))} expected"
        )
    db = await asyncpg.connect(dsn)
    left = await db.fetchval("SELECT count(*) FROM outbox")
    await db.close()
    if left:
        raise AssertionError(f"{left} rows were left in the outbox")


async def measure(place: Place, scale: Scale, report: Callable[[str], None]) -> list[Figure]:
    from bench.rivals import debezium  # it measures by what is here

    orders = scale.pick(15_000, 3_000)
    count = orders * MESSAGES
    report("filling the outbox")
    outbox = await outbox_of(place, orders)
    contenders = (
        Contender("relay", ours, (outbox, count)),
        Contender("by hand", by_hand, (outbox, count)),
        Contender("Debezium", debezium.relayed, (outbox, count)),
    )
    measured = await contest(place, contenders, scale.runs, report)
    size = f"{count:,} facts, 6 partitions"
    floor = Side("select, idempotent aiokafka send, delete", measured["by hand"])
    mine = Side("relay", measured["relay"])
    return [
        compared(2, TITLE, mine, floor, RATE, must=0.8, aim=0.95, size=size),
        compared(
            2,
            "the same, per CPU second",
            mine,
            Side("Debezium outbox router, tuned", measured["Debezium"]),
            CPU,
            must=1.5,
            aim=2.5,
            size=size,
        ),
    ]
