"""FastStream as its documents show it first: a handler per message, acknowledged when it is done."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final
from uuid import uuid4

import asyncpg
from faststream import AckPolicy
from faststream.kafka import KafkaBroker, KafkaMessage
from pydantic import BaseModel

from bench.contest import Measured, Meter, Place
from bench.load import INSERT, Topics, check_timeline, row_of
from bench.rivals import story

CONFIGURATION: Final = "ack_policy=NACK_ON_ERROR, max_workers=1: one transaction and one offset commit a message"


class Order(BaseModel):
    """What travels between the steps of a story."""

    order_id: str


async def sink(place: Place, topics: Topics) -> Measured:
    """Each fact into the timeline by itself."""
    async with (
        place.database(await place.template("support_view")) as dsn,
        asyncpg.create_pool(dsn, min_size=1, max_size=4) as pool,
    ):
        broker, done, left = KafkaBroker(place.kafka, logger=None), asyncio.Event(), topics.facts

        async def handle(body: dict[str, Any], message: KafkaMessage) -> None:
            nonlocal left
            await pool.execute(INSERT, *([value] for value in row_of(message.raw_message)))
            left -= 1
            if not left:
                done.set()

        broker.subscriber(
            *topics.names.values(),
            group_id=f"one-{uuid4()}",
            auto_offset_reset="earliest",
            ack_policy=AckPolicy.NACK_ON_ERROR,
        )(handle)
        async with Meter(place) as meter:
            await broker.start()
            await done.wait()
        await broker.stop()
        await check_timeline(pool, topics)
    return meter.measured(topics.facts, CONFIGURATION)


async def stories(place: Place, count: int) -> Measured:
    """The story as a chain of topics, a handler per step: commit, tell the next step, acknowledge."""
    async with place.database(None) as dsn, asyncpg.create_pool(dsn, min_size=8, max_size=8) as pool:
        await pool.execute(story.TABLES)
        broker, done, left = KafkaBroker(place.kafka, logger=None), asyncio.Event(), count
        topics = {name: await place.topic() for name in story.ORDER}

        def handler(name: str) -> Callable[[Order], Awaitable[None]]:
            async def handle(order: Order) -> None:
                nonlocal left
                await story.perform(pool, name, order.order_id)
                if (following := story.NEXT[name]) is not None:
                    await broker.publish(order, topics[following], key=order.order_id.encode())
                else:
                    left -= 1
                    if not left:
                        done.set()

            return handle

        for name, topic in topics.items():
            broker.subscriber(topic, group_id=topic, auto_offset_reset="earliest", ack_policy=AckPolicy.NACK_ON_ERROR)(
                handler(name)
            )
        await broker.start()
        async with Meter(place) as meter:
            for n in range(count):
                await broker.publish(Order(order_id=f"o-{n}"), topics["place"], key=f"o-{n}".encode())
            await done.wait()
        await broker.stop()
        story.check([tuple(row) for row in await pool.fetch(story.READ)], count)
    return meter.measured(count, CONFIGURATION)
