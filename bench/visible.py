"""Figure 4: from the commit of a fact to its row on the timeline, open loop, beside one process without a relay."""

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime, timezone
from functools import partial
from typing import Any, Final

import asyncpg
import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from faststream.kafka import KafkaBroker
from uuid_utils.compat import uuid7

from bench.contest import BESIDE, Contender, Measured, Meter, Place, contest, percentile
from bench.figures import Figure, Scale, Side, compared
from bench.load import placement
from orders.domain.decide import Command
from orders.domain.decide import Place as PlaceCommand
from orders.store import ORDERS
from shared.messaging.consumer import Consumer
from shared.messaging.database import connect
from shared.messaging.envelope import Cause
from shared.messaging.relay import Relay
from shared.messaging.shell import Message, freeze_gc
from shared.web.commands import CommandBus
from support_view.handlers import process

TITLE: Final = "commit to visible, open loop"
WARM_UP: Final = 100
SEEN: Final = "SELECT subject, seen_at FROM timeline WHERE subject >= 'l-' AND subject < 'l.'"
"""The facts of this load, whatever else stands on the timeline."""
PATIENCE_S: Final = 60

Commit = Callable[[str], Awaitable[None]]


async def ours(place: Place, rate: int, seconds: int) -> Measured:
    """The shell and its relay in one process, support-view's consumer in another."""
    async with AsyncExitStack() as stack:
        dsn = await stack.enter_async_context(place.database(await place.template("support_view")))
        view = await stack.enter_async_context(view_at(place, topic := await place.topic(), dsn))
        commit = await stack.enter_async_context(shell_at(place, topic))
        return await open_loop(place, commit, view, SEEN, rate, asyncio.sleep(seconds))


@asynccontextmanager
async def shell_at(place: Place, topic: str | None) -> AsyncIterator[Commit]:
    """What commits one order's placing as the service's routes do; its relay tells the topic, where there is one to tell."""
    async with (
        place.database(await place.template("orders")) as dsn,
        await connect(place.settings(dsn)) as pool,
    ):
        relay, stop = Relay(place.settings(dsn), "orders", topic), asyncio.Event()
        running = asyncio.create_task(relay.run(stop))
        commands = CommandBus(pool, relay.wake)

        async def commit(id: str) -> None:
            now = datetime.now(timezone.utc)
            cause = Cause(uuid7(), now, "service:bench", "bench", "bench")
            message: Message[Command] = Message(id, PlaceCommand(id, placement(id), now), cause)
            [error] = await commands.process(ORDERS, [message])
            if error is not None:
                raise error

        try:
            yield commit
        finally:
            stop.set()
            relay.wake()
            await running


@asynccontextmanager
async def view_at(place: Place, topic: str, dsn: str) -> AsyncIterator[Any]:
    """A pool on support-view's database, and its consumer in a process of its own."""
    process = BESIDE.Process(target=project, args=(place, dsn, [topic], topic))
    process.start()
    try:
        async with asyncpg.create_pool(dsn, min_size=1, max_size=2) as pool:
            yield pool
    finally:
        process.terminate()
        await asyncio.to_thread(process.join)


def project(place: Place, dsn: str, topics: Sequence[str], group: str, batch: int = 1000) -> None:
    """A process that is support-view's consumer until it is terminated."""
    uvloop.run(_consume(place, dsn, topics, group, batch))


async def _consume(place: Place, dsn: str, topics: Sequence[str], group: str, batch: int) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    settings = place.settings(dsn, batch_records=batch)
    async with await connect(settings) as pool:
        broker = KafkaBroker(place.kafka, logger=None)
        Consumer(pool, process, settings, group, lambda: None).subscribe(broker, topics)
        freeze_gc()
        await broker.start()
        await stop.wait()
        await broker.stop()


FLOOR_TABLES: Final = """
CREATE TABLE committed (id text PRIMARY KEY, data json NOT NULL);
CREATE TABLE seen (id text PRIMARY KEY, data json NOT NULL, seen_at timestamptz DEFAULT clock_timestamp())"""
FLOOR_INSERT: Final = "INSERT INTO seen (id, data) SELECT * FROM unnest($1::text[], $2::json[]) ON CONFLICT DO NOTHING"


async def in_process(place: Place, rate: int, seconds: int) -> Measured:
    """Insert, produce, getmany, insert, in one process, with nothing in between: a crash would lose or double."""
    topic = await place.topic()
    data = json.dumps({"order_id": "x", "text": "y" * 380})
    async with AsyncExitStack() as stack:
        dsn = await stack.enter_async_context(place.database(None))
        pool = await stack.enter_async_context(asyncpg.create_pool(dsn, min_size=8, max_size=8))
        await pool.execute(FLOOR_TABLES)
        producer = AIOKafkaProducer(bootstrap_servers=place.kafka, enable_idempotence=True, acks="all")
        consumer = AIOKafkaConsumer(topic, bootstrap_servers=place.kafka, group_id=topic, auto_offset_reset="earliest")
        for client in (producer, consumer):
            await client.start()
            stack.push_async_callback(client.stop)

        async def consume() -> None:
            while True:
                for records in (await consumer.getmany(timeout_ms=50, max_records=1000)).values():
                    ids, bodies = [r.key.decode() for r in records], [r.value.decode() for r in records]
                    await pool.execute(FLOOR_INSERT, ids, bodies)

        async def commit(id: str) -> None:
            await pool.execute("INSERT INTO committed VALUES ($1, $2)", id, data)
            await producer.send(topic, data.encode(), id.encode())

        reading = asyncio.create_task(consume())
        try:
            return await open_loop(place, commit, pool, "SELECT id, seen_at FROM seen", rate, asyncio.sleep(seconds))
        finally:
            reading.cancel()
            await asyncio.wait([reading])


async def open_loop(
    place: Place, commit: Commit, view: Any, seen: str, rate: int, during: Coroutine[Any, Any, None]
) -> Measured:
    """Commit at the rate whatever becomes of the others, as long as `during` takes; each one's time from its commit to
    the clock of its row. Everything is warm before: so many went through one by one."""
    for n in range(WARM_UP):
        await commit(f"l-w{n}")
    await _all_seen(view, seen, WARM_UP)
    committed: dict[str, float] = {}

    async def one(id: str) -> None:
        await commit(id)
        committed[id] = time.time()

    async with Meter(place) as meter:
        began, count = time.perf_counter(), 0
        going = asyncio.create_task(during)
        async with asyncio.TaskGroup() as tasks:
            while not going.done():
                tasks.create_task(one(f"l-{count}"))
                count += 1
                await asyncio.sleep(max(0.0, began + count / rate - time.perf_counter()))
        await going
        await _all_seen(view, seen, WARM_UP + count)
    rows = dict(await view.fetch(seen))
    took = [max(0.0, rows[id].timestamp() - at) * 1000 for id, at in committed.items()]
    return meter.measured(count, p50=percentile(took, 0.50), p99=percentile(took, 0.99))


async def _all_seen(view: Any, seen: str, count: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            if await view.fetchval(f"SELECT count(*) FROM ({seen}) AS s") == count:
                return
            await asyncio.sleep(0.1)


async def measure(place: Place, scale: Scale, report: Callable[[str], None]) -> list[Figure]:
    from bench.rivals import debezium  # it measures by what is here

    figures = []
    # At 200/s the bound is the one of the system's first build: ten times the floor.
    for rate, seconds, must, aim in ((50, (20, 4), 3.0, 2.0), (200, (10, 2), 10.0, None), (500, (10, 2), 3.0, 2.0)):
        load = (rate, scale.pick(*seconds))
        contenders = [Contender("ours", ours, load), Contender("in process", in_process, load)]
        if rate == 500:
            contenders.append(Contender("Debezium", debezium.seen, load))
        measured = await contest(place, contenders, scale.runs, report)
        sides = (
            Side("shell, relay, topic, support-view", measured["ours"]),
            Side("insert, produce, getmany, insert in one process", measured["in process"]),
        )
        shown = partial(compared, 4, size=f"{rate * load[1]:,} facts")
        figures += [
            shown(f"commit to visible at {rate}/s, p50", *sides, "p50"),
            shown(f"commit to visible at {rate}/s, p99", *sides, "p99", must=must, aim=aim),
        ]
        if rate == 500:
            rival = Side("Debezium, tuned, and the same view", measured["Debezium"])
            figures.append(shown(f"commit to visible at {rate}/s, p99", sides[0], rival, "p99", must=1, aim=0.5))
    return figures
