"""Figure 7: what a command costs in a database with a long history, beside one with a short."""

from collections.abc import Callable
from typing import Final
from uuid import uuid4

import asyncpg

from bench.commands import tell
from bench.contest import Contender, Measured, Meter, Place, contest
from bench.figures import CPU, RATE, Figure, Scale, Side, compared
from bench.load import COMMANDS, batches
from ops.databases import database_url

TITLE: Final = "cost per command as history grows"

# An order is copied where it is, in the database, with its journal and claims.
GROW: Final = (
    """
INSERT INTO states (key, state, sequence, chain, shape, shaped_at)
SELECT 'h-' || n, replace(state::text, 'b-0', 'h-' || n)::json, sequence, chain, shape, shaped_at
FROM generate_series(1, {orders}) AS n, states WHERE key = 'b-0'""",
    """
INSERT INTO events (id, subject, sequence, type, schema_version, data, occurred_at, actor, reason, correlation_id,
    causation_id, traceparent, policy_id, policy_version, chain)
SELECT gen_random_uuid(), 'h-' || n, sequence, type, schema_version, replace(data::text, 'b-0', 'h-' || n)::json,
    occurred_at, actor, reason, correlation_id, causation_id, traceparent, policy_id, policy_version, chain
FROM generate_series(1, {orders}) AS n, events WHERE subject = 'b-0'""",
    """
INSERT INTO lines SELECT 'h-' || n, line_id, ordered, owed, unallocated, allocated, backordered, packed, in_transit,
    delivered, lost, returned_to_sender, cancelled
FROM generate_series(1, {orders}) AS n, lines WHERE order_id = 'b-0'""",
    "INSERT INTO deadlines SELECT 'h-' || n, name, due_at FROM generate_series(1, {orders}) AS n, deadlines",
    "INSERT INTO inbox (id) SELECT gen_random_uuid() FROM generate_series(1, {orders} * {commands})",
)


async def history_of(place: Place, orders: int) -> str:
    """The name of a database with so many orders, whose facts were published long ago."""
    name = f"{place.prefix}_history_{orders}"
    await place.execute(f"CREATE DATABASE {name} TEMPLATE {await place.template('orders')}")
    db = await asyncpg.connect(database_url(place.postgres, name))
    for batch in batches(1):
        await tell(db, batch)
    await db.execute("DELETE FROM outbox")
    for statement in GROW:
        await db.execute(statement.format(orders=orders, commands=COMMANDS))
    await db.execute("VACUUM ANALYZE")
    await db.close()
    return name


async def ours(place: Place, database: str, orders: int) -> Measured:
    told = list(batches(orders, prefix=f"m{uuid4().hex[:6]}"))
    db = await asyncpg.connect(database_url(place.postgres, database))
    async with Meter(place) as meter:
        for batch in told:
            await tell(db, batch)
    await db.close()
    return meter.measured(orders * COMMANDS)


async def measure(place: Place, scale: Scale, report: Callable[[str], None]) -> list[Figure]:
    few, many, told = scale.pick((10_000, 1_000_000, 2_000), (2_000, 20_000, 1_000))
    contenders = []
    for orders in (few, many):
        report(f"writing {orders:,} orders")
        contenders.append(Contender(f"{orders:,} orders", ours, (await history_of(place, orders), told)))
    measured = await contest(place, contenders, scale.runs, report)
    short, long = (Side(contender.name, measured[contender.name]) for contender in contenders)
    size = f"{told * COMMANDS:,} commands beside {many:,} orders of history, and beside {few:,}"
    return [
        compared(7, f"{TITLE}: CPU", long, short, CPU, is_cost=True, must=1.25, aim=1.1, size=size),
        compared(7, f"{TITLE}: rate", long, short, RATE, must=1 / 1.25, aim=1 / 1.1, size=size),
    ]
