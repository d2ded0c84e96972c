"""procrastinate: a job per step, each deferring the next in the transaction of its own effect."""

from typing import Any, Final

from procrastinate import App, PsycopgConnector

from bench.contest import Measured, Meter, Place
from bench.rivals import story

CONCURRENCY: Final = 16
CONFIGURATION: Final = (
    f"one worker, concurrency={CONCURRENCY}, listen_notify on, finished jobs deleted, the next job deferred in the "
    "transaction of the step"
)


async def stories(place: Place, count: int) -> Measured:
    async with place.database(None) as dsn:
        app = App(connector=PsycopgConnector(conninfo=dsn, min_size=CONCURRENCY + 4, max_size=CONCURRENCY + 4))
        tasks: dict[str, Any] = {}

        async def step(name: str, order_id: str) -> None:
            async with app.connector.pool.connection() as db, db.transaction():
                for statement in story.STEPS[name]:
                    await db.execute(statement.replace(":order", "%(order)s"), {"order": order_id})
                if (following := story.NEXT[name]) is not None:
                    await tasks[following].configure(connection=db).defer_async(name=following, order_id=order_id)

        for name in story.ORDER:
            tasks[name] = app.task(name=name)(step)
        async with app.open_async():
            await app.schema_manager.apply_schema_async()
            async with app.connector.pool.connection() as db:
                await db.execute(story.TABLES)
            async with Meter(place) as meter:
                await tasks["place"].batch_defer_async(*[{"name": "place", "order_id": f"o-{n}"} for n in range(count)])
                await app.run_worker_async(
                    concurrency=CONCURRENCY, wait=False, delete_jobs="successful", install_signal_handlers=False
                )
            async with app.connector.pool.connection() as db:
                rows = await (await db.execute(story.READ)).fetchall()
            story.check([tuple(row.values()) if isinstance(row, dict) else tuple(row) for row in rows], count)
    return meter.measured(count, CONFIGURATION)
