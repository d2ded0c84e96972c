"""DBOS: the story as a durable workflow of nine steps, each a transaction of its own and a checkpoint."""

import logging
from typing import Final

import asyncpg
from dbos import DBOS

from bench.contest import Measured, Meter, Place
from bench.rivals import story

CONCURRENCY: Final = 32
POOL: Final = 20
CONFIGURATION: Final = (
    f"async workflow on a queue (worker_concurrency={CONCURRENCY}, polling every 50 ms), sys_db_pool_size={POOL}, "
    "steps by asyncpg, OTLP off"
)


async def stories(place: Place, count: int) -> Measured:
    async with place.database(None) as dsn, asyncpg.create_pool(dsn, min_size=8, max_size=8) as pool:
        await pool.execute(story.TABLES)
        DBOS(
            config={
                "name": "bench",
                "system_database_url": dsn.replace("postgresql://", "postgresql+psycopg://", 1),
                "sys_db_pool_size": POOL,
                "log_level": "ERROR",
                "enable_otlp": False,
            }
        )

        async def step(name: str, order_id: str) -> None:
            await story.perform(pool, name, order_id)

        steps = {name: DBOS.step(name=name)(step) for name in story.ORDER}

        async def whole(order_id: str) -> None:
            for name in story.ORDER:
                await steps[name](name, order_id)

        workflow = DBOS.workflow(name="story")(whole)
        DBOS.launch()
        logging.getLogger("dbos").setLevel(logging.ERROR)
        await DBOS.register_queue_async("stories", worker_concurrency=CONCURRENCY, polling_interval_sec=0.05)
        async with Meter(place) as meter:
            handles = [await DBOS.enqueue_workflow_async("stories", workflow, f"o-{n}") for n in range(count)]
            for handle in handles:
                await handle.get_result(polling_interval_sec=0.2)
        DBOS.destroy()
        story.check([tuple(row) for row in await pool.fetch(story.READ)], count)
    return meter.measured(count, CONFIGURATION)
