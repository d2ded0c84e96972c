"""Figure 3: from topics to the support view, beside one insert by hand into the same table, and beside sinks."""

from collections.abc import Callable
from typing import Final
from uuid import uuid4

import asyncpg
from aiokafka import AIOKafkaConsumer
from faststream.kafka import KafkaBroker

from bench.contest import Contender, Measured, Meter, Place, contest, until
from bench.figures import CPU, RATE, Figure, Scale, Side, compared
from bench.load import BATCH, INSERT, Topics, check_timeline, new_topics, row_of, tell_stories
from bench.rivals import debezium, one_at_a_time, quix
from shared.messaging.consumer import Consumer
from shared.messaging.database import connect
from support_view.handlers import process
from support_view.settings import SupportViewSettings

TITLE: Final = "support-view: topics to timeline, sections and finds"
RECORDS: Final = SupportViewSettings.model_fields["batch_records"].default


async def ours(place: Place, topics: Topics) -> Measured:
    """The service's own consumer and projection: dedupe, timeline, folded sections, what orders are found by."""
    async with (
        place.database(await place.template("support_view")) as dsn,
        await connect(place.settings(dsn)) as pool,
    ):
        broker = KafkaBroker(place.kafka, logger=None)
        consumer = Consumer(pool, process, place.settings(dsn, batch_records=RECORDS), f"view-{uuid4()}", lambda: None)
        consumer.subscribe(broker, list(topics.names.values()))
        async with Meter(place) as meter:
            await broker.start()
            await until(lambda: consumer.progress.records >= topics.facts)
        await broker.stop()
        await check_timeline(pool, topics)
        behind = await pool.fetchval("SELECT count(*) FROM sections WHERE waiting <> '{}'")
        if behind or consumer.progress.parked:
            raise AssertionError(f"{behind} sections wait for a hole, {consumer.progress.parked} messages are parked")
    return meter.measured(topics.facts)


async def by_hand(place: Place, topics: Topics) -> Measured:
    """getmany, one `unnest` insert into the timeline, commit the offsets: nothing validated, nothing added up."""
    async with (
        place.database(await place.template("support_view")) as dsn,
        asyncpg.create_pool(dsn, min_size=1, max_size=4) as pool,
    ):
        async with Meter(place) as meter:
            left = topics.facts
            async with AIOKafkaConsumer(
                *topics.names.values(),
                bootstrap_servers=place.kafka,
                group_id=f"floor-{uuid4()}",
                auto_offset_reset="earliest",
                enable_auto_commit=False,
            ) as consumer:
                while left:
                    polled = await consumer.getmany(timeout_ms=50, max_records=BATCH)
                    if rows := [row_of(record) for records in polled.values() for record in records]:
                        await pool.execute(INSERT, *zip(*rows, strict=True))
                        await consumer.commit()
                        left -= len(rows)
        await check_timeline(pool, topics)
    return meter.measured(topics.facts)


async def measure(place: Place, scale: Scale, report: Callable[[str], None]) -> list[Figure]:
    report("telling stories on topics")
    many, few = await new_topics(place, scale.pick(2_500, 400)), await new_topics(place, scale.pick(40, 4))
    await tell_stories(place, many)
    await tell_stories(place, few)
    contenders = (
        Contender("support-view", ours, (many,)),
        Contender("by hand", by_hand, (many,)),
        Contender("Quix Streams", quix.sink, (many,)),
        Contender("FastStream", one_at_a_time.sink, (few,)),
        Contender("Debezium", debezium.sink, (few, many)),
    )
    measured = await contest(place, contenders, scale.runs, report)
    mine = Side("support-view", measured["support-view"])
    size = f"{many.facts:,} facts of {many.orders:,} stories, 5 topics of 6 partitions"
    return [
        compared(
            3,
            TITLE,
            mine,
            Side("getmany, one unnest insert into the timeline", measured["by hand"]),
            RATE,
            must=0.5,
            aim=0.7,
            size=size,
        ),
        compared(
            3,
            "the same, per CPU second",
            mine,
            Side("Quix Streams PostgreSQL sink", measured["Quix Streams"]),
            CPU,
            must=1,
            aim=1.5,
            size=size,
        ),
        compared(
            3,
            "the same, per CPU second",
            mine,
            Side("FastStream, one message at a time", measured["FastStream"]),
            CPU,
            must=10,
            aim=20,
            size=f"{size}; theirs {few.facts:,}",
        ),
        compared(
            3,
            "the same, per CPU second",
            mine,
            Side("Debezium JDBC sink", measured["Debezium"]),
            CPU,
            must=0.8,
            aim=1.25,
            size=size,
        ),
    ]
