"""Figure 8: one, two and four consumers with the database five milliseconds away, so that cores are not the limit."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupCoordinatorNotAvailableError

from bench.contest import BESIDE, Contender, Measured, Meter, Place, contest
from bench.figures import RATE, Figure, Scale, Side, alone, compared
from bench.load import STORY_FACTS, check_timeline, new_topics, tell_stories
from bench.visible import project
from ops.paths import LOOPBACK

TITLE: Final = "consumers of one group, the database 5 ms away"
ROUND_TRIP_S: Final = 0.005
PARTITIONS: Final = 8
"""So that four consumers have the same share."""
BATCH: Final = 10
"""Small, so that a consumer waits for the database and not for a core."""
SEEN: Final = "SELECT count(*) FROM timeline"
PATIENCE_S: Final = 300


async def consumers(place: Place, orders: int, count: int) -> Measured:
    """So many processes of support-view's consumer. What they consume is told when all have their share, and what is left
    of it when all is told is measured: to tell it takes the cores that they would share."""
    topics, group = await new_topics(place, orders, PARTITIONS), f"{place.prefix}-{uuid4()}"
    async with place.database(await place.template("support_view")) as dsn, far_away(dsn) as far:
        names = list(topics.names.values())
        processes = [BESIDE.Process(target=project, args=(place, far, names, group, BATCH)) for _ in range(count)]
        for process in processes:
            process.start()
        try:
            async with asyncpg.create_pool(dsn, min_size=1, max_size=2) as pool:
                await _share(place, group, count)
                await tell_stories(place, topics, PARTITIONS)
                async with Meter(place) as meter, asyncio.timeout(PATIENCE_S):
                    before = await pool.fetchval(SEEN)
                    while True:
                        if await pool.fetchval(SEEN) == topics.facts:
                            break
                        await asyncio.sleep(0.05)
                await check_timeline(pool, topics)
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                await asyncio.to_thread(process.join)
    return meter.measured(topics.facts - before)


async def _share(place: Place, group: str, count: int) -> None:
    """Until the group is stable with all its members."""
    admin = AIOKafkaAdminClient(bootstrap_servers=place.kafka)
    await admin.start()
    try:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                # A broker's first group has no coordinator until the topic of its offsets is made.
                with suppress(GroupCoordinatorNotAvailableError):
                    [answer] = await admin.describe_consumer_groups([group])
                    _, _, state, _, _, members, *_ = answer.groups[0]
                    if state == "Stable" and len(members) == count:
                        return
                await asyncio.sleep(0.1)
    finally:
        await admin.close()


@asynccontextmanager
async def far_away(dsn: str) -> AsyncIterator[str]:
    """The same database through a proxy that takes its time, half of it each way; order is kept."""
    given = urlsplit(dsn)
    loop = asyncio.get_running_loop()
    pipes: set[asyncio.Task[None]] = set()

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(64 * 1024):
            loop.call_later(ROUND_TRIP_S / 2, writer.write, data)
        loop.call_later(ROUND_TRIP_S / 2, writer.close)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(given.hostname, given.port)
        for ends in ((reader, back), (there, writer)):
            task = asyncio.create_task(pipe(*ends))
            pipes.add(task)
            task.add_done_callback(pipes.discard)

    server = await asyncio.start_server(serve, LOOPBACK, 0)
    port = server.sockets[0].getsockname()[1]
    user = given.netloc.rpartition("@")[0]
    try:
        yield given._replace(netloc=f"{user}@{LOOPBACK}:{port}").geturl()
    finally:
        server.close()
        for task in pipes:
            task.cancel()
        await asyncio.gather(*pipes, return_exceptions=True)


async def measure(place: Place, scale: Scale, report: Callable[[str], None]) -> list[Figure]:
    orders = scale.pick(160, 32)
    contenders = [Contender(f"{n} consumers", consumers, (orders, n)) for n in (1, 2, 4)]
    measured = await contest(place, contenders, scale.runs, report)
    one, two, four = (Side("1 consumer" if n == 1 else f"{n} consumers", measured[f"{n} consumers"]) for n in (1, 2, 4))
    size = f"{orders * STORY_FACTS:,} facts, batches of {BATCH}, {PARTITIONS} partitions, keys spread evenly"
    return [
        alone(8, TITLE, one, RATE, size=size, at_least=True),
        compared(8, TITLE, two, one, RATE, size=size),
        compared(8, TITLE, four, one, RATE, must=3.2, aim=3.7, size=size),
    ]
