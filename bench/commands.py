"""Figure 1: commands committed in batches with journal and outbox, beside the very same rows written by hand."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from bench.contest import Contender, Measured, Meter, Place, contest
from bench.figures import RATE, Figure, Scale, Side, alone, compared
from bench.load import BATCH, COMMANDS, MESSAGES, batches, message, placing, progress
from orders.domain.decide import Command
from orders.handlers import ROUTE
from orders.store import ORDERS
from shared.messaging.consumer import Consumer
from shared.messaging.database import connect
from shared.messaging.router import Router
from shared.messaging.shell import Message, apply
from shared.web.commands import CommandBus

TITLE: Final = "commands committed with journal and outbox, in batches"


async def ours(place: Place, orders: int) -> Measured:
    """Commands told as a service's routes and workers tell them: a transaction per batch, two side by side."""
    told = list(batches(orders))
    # Every other batch goes on with the orders of the one before the last.
    shards = told[::2], told[1::2]
    async with (
        place.database(await place.template("orders")) as dsn,
        await connect(place.settings(dsn)) as pool,
    ):
        commands = CommandBus(pool, lambda: None)
        async with Meter(place) as meter:
            await asyncio.gather(*(_process(commands, shard) for shard in shards))
        async with pool.acquire() as db:
            await _check(db, orders)
    return meter.measured(orders * COMMANDS)


async def _process(commands: CommandBus, shard: Sequence[Sequence[Message[Command]]]) -> None:
    for batch in shard:
        _none_refused(await commands.process(ORDERS, batch))


async def ours_from_messages(place: Place, orders: int) -> Measured:
    """The same as they come from topics: read, parsed, told, by a service's own consumer."""
    ids = [f"b-{n}" for n in range(orders)]
    async with (
        place.database(await place.template("orders")) as dsn,
        await connect(place.settings(dsn)) as pool,
    ):
        for start in range(0, orders, BATCH):
            async with pool.acquire() as db:
                await tell(db, [placing(id) for id in ids[start : start + BATCH]])
        steps = [progress(id) for id in ids]
        records = [message(step[n], n + 1, n * orders + i) for n in range(MESSAGES) for i, step in enumerate(steps)]
        consumer = Consumer(pool, Router([ROUTE]).process, place.settings(dsn), "bench", lambda: None)
        async with Meter(place) as meter:
            for start in range(0, len(records), BATCH):
                await consumer.process(records[start : start + BATCH])
        async with pool.acquire() as db:
            await _check(db, orders)
    return meter.measured(len(records))


async def tell(db: Any, messages: Sequence[Message[Command]]) -> None:
    async with db.transaction():
        outcomes, _ = await apply(db, ORDERS, messages)
    _none_refused([outcome.error for outcome in outcomes])


def _none_refused(errors: Sequence[Exception | None]) -> None:
    if refused := [error for error in errors if error]:
        raise AssertionError(f"a command was refused: {refused[0]!r}")


async def _check(db: Any, orders: int) -> None:
    completed = await db.fetchval("SELECT count(*) FROM events WHERE type = 'order.completed'")
    if completed != orders:
        raise AssertionError(f"{completed} of {orders} orders completed")


@dataclass(frozen=True, slots=True)
class Table:
    """Rows to be written, and the one statement that writes them. `keys` are the leading columns that are unique."""

    name: str
    columns: Sequence[tuple[str, str]]
    keys: int

    @property
    def statement(self) -> str:
        names = ", ".join(name for name, _ in self.columns)
        parts = ", ".join(f"${n}::{kind}[]" for n, (_, kind) in enumerate(self.columns, 1))
        keys = ", ".join(name for name, _ in self.columns[: self.keys])
        rest = ", ".join(f"{name} = excluded.{name}" for name, _ in self.columns[self.keys :])
        return (
            f"INSERT INTO {self.name} ({names}) SELECT * FROM unnest({parts})"
            f" ON CONFLICT ({keys}) DO {f'UPDATE SET {rest}' if rest else 'NOTHING'}"
        )

    @property
    def read(self) -> str:
        """All rows, as text in the order of their keys."""
        names = ", ".join(f"{name}::text" for name, _ in self.columns)
        return f"SELECT {names} FROM {self.name} ORDER BY {', '.join(str(n + 1) for n in range(self.keys))}"


LINES: Final = "order_id line_id ordered owed unallocated allocated backordered packed in_transit delivered lost"
TABLES: Final = (
    Table("inbox", [("id", "uuid")], 1),
    Table("states", [("key", "text"), ("state", "json"), ("sequence", "bigint"), ("chain", "bytea")], 1),
    Table(
        "lines",
        [
            (name, "text" if name.endswith("_id") else "int")
            for name in [*LINES.split(), "returned_to_sender", "cancelled"]
        ],
        2,
    ),
    Table("deadlines", [("key", "text"), ("name", "text"), ("due_at", "timestamptz")], 2),
)
EVENTS: Final = """
WITH told AS (SELECT * FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::text[], $5::int[], $6::json[],
        $7::timestamptz[], $8::text[], $9::text[], $10::text[], $11::text[], $12::text[], $13::text[], $14::int[],
        $15::bytea[]) WITH ORDINALITY AS t (id, subject, sequence, type, schema_version, data, occurred_at, actor,
        reason, correlation_id, causation_id, traceparent, policy_id, policy_version, chain, place)),
journal AS (INSERT INTO events (id, subject, sequence, type, schema_version, data, occurred_at, actor, reason,
        correlation_id, causation_id, traceparent, policy_id, policy_version, chain)
    SELECT id, subject, sequence, type, schema_version, data, occurred_at, actor, reason,
        correlation_id, causation_id, traceparent, policy_id, policy_version, chain FROM told ORDER BY place)
INSERT INTO outbox (event_id) SELECT id FROM told ORDER BY place"""
READ_EVENTS: Final = """
SELECT id, subject, sequence, type, schema_version, data, occurred_at, actor, reason, correlation_id, causation_id,
    traceparent, policy_id, policy_version, chain
FROM outbox JOIN events ON id = event_id WHERE position > $1 ORDER BY position"""
CHANGED: Final = "SELECT {names} FROM {table} WHERE {key} = ANY($1::text[])"

Rows = list[tuple[Any, ...]]


async def _recorded(db: Any, messages: Sequence[Sequence[Message[Command]]]) -> list[tuple[list[Rows], Rows]]:
    """Let the shell take the commands, and note what rows each batch left changed."""
    batches_written = []
    position = 0
    seen: dict[tuple[str, Any], tuple[Any, ...]] = {}
    for batch in messages:
        await tell(db, batch)
        rows: list[Rows] = [[(t.cause.id,) for t in batch]]
        for table in TABLES[1:]:
            names = ", ".join(name for name, _ in table.columns)
            changed = CHANGED.format(names=names, table=table.name, key=table.columns[0][0])
            found = [tuple(row) for row in await db.fetch(changed, [t.key for t in batch])]
            fresh = [row for row in found if seen.get((table.name, row[: table.keys])) != row]
            seen |= {(table.name, row[: table.keys]): row for row in fresh}
            rows.append(fresh)
        events = [tuple(row) for row in await db.fetch(READ_EVENTS, position)]
        position += len(events)
        batches_written.append((rows, events))
    return batches_written


async def by_hand(place: Place, orders: int) -> Measured:
    """One `unnest` statement per table and batch, nothing decided: the rows are those that the shell wrote before."""
    template = await place.template("orders")
    async with place.database(template) as shells, place.database(template) as dsn:
        first, db = await asyncpg.connect(shells), await asyncpg.connect(dsn)
        written = await _recorded(first, list(batches(orders)))
        statements = [table.statement for table in TABLES]
        async with Meter(place) as meter:
            for tables, events in written:
                async with db.transaction():
                    for statement, rows in zip(statements, tables, strict=True):
                        if rows:
                            await db.execute(statement, *zip(*rows, strict=True))
                    if events:
                        await db.execute(EVENTS, *zip(*events, strict=True))
        await _check_same(first, db)
        await first.close()
        await db.close()
    return meter.measured(orders * COMMANDS)


async def _check_same(one: Any, other: Any) -> None:
    for query in [*(table.read for table in TABLES), READ_EVENTS.replace("$1", "0")]:
        if await one.fetch(query) != await other.fetch(query):
            raise AssertionError(f"by hand, other rows were written than by the shell: {query}")


async def measure(place: Place, scale: Scale, report: Callable[[str], None]) -> list[Figure]:
    orders, told = scale.pick((10_000, 2_000), (2_000, 1_000))
    contenders = (
        Contender("shell", ours, (orders,)),
        Contender("shell, from messages", ours_from_messages, (told,)),
        Contender("by hand", by_hand, (orders,)),
    )
    measured = await contest(place, contenders, scale.runs, report)
    size = f"{orders * COMMANDS:,} commands in batches of {BATCH:,}, two at a time; by hand one"
    floor = Side("the same rows by hand, unnest", measured["by hand"])
    return [
        compared(1, TITLE, Side("shell", measured["shell"]), floor, RATE, must=0.5, aim=0.7, size=size),
        alone(
            1,
            "messages from raw record to committed, in one process",
            Side("consumer and shell", measured["shell, from messages"]),
            RATE,
            at_least=True,
            must=5_000,
            size=f"{told * MESSAGES:,} messages in batches of {BATCH:,}",
        ),
    ]
