"""All SQL of orders: the rows that carry constraints, the policies, and reads for the API."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from pydantic import TypeAdapter

from orders.domain.decide import Command, decide
from orders.domain.policy import OrderPolicy
from orders.domain.state import Order, deadlines, evolve, invariants
from shared.contracts.base import Bucket
from shared.messaging.database import Pool, array
from shared.messaging.shell import Db, Flow, LockedAggregate, Message

STATE: Final[TypeAdapter[Order | None]] = TypeAdapter(Order | None)

BUCKETS: Final = tuple(Bucket)

POLICIES = "SELECT policy_id, version, effective_from, close_after FROM policies ORDER BY version"

KEEP_LINES = """
INSERT INTO lines (order_id, line_id, ordered, owed, unallocated, allocated, backordered, packed, in_transit, delivered,
    lost, returned_to_sender, cancelled)
SELECT * FROM unnest($1::text[], $2::text[], $3::text::int[], $4::text::int[], $5::text::int[], $6::text::int[],
    $7::text::int[], $8::text::int[], $9::text::int[], $10::text::int[], $11::text::int[], $12::text::int[],
    $13::text::int[])
ON CONFLICT (order_id, line_id) DO UPDATE SET owed = excluded.owed, unallocated = excluded.unallocated,
    allocated = excluded.allocated, backordered = excluded.backordered, packed = excluded.packed,
    in_transit = excluded.in_transit, delivered = excluded.delivered, lost = excluded.lost,
    returned_to_sender = excluded.returned_to_sender, cancelled = excluded.cancelled"""

READ = "SELECT state FROM states WHERE key = $1 AND sequence > 0"
EXISTS = "SELECT EXISTS (SELECT FROM states WHERE key = $1 AND sequence > 0)"


async def policies(
    db: Db, messages: Sequence[Message[Command]], states: Mapping[str, Order | None]
) -> Sequence[OrderPolicy]:
    """Read every version there is: the one in force at placement binds."""
    return [OrderPolicy(*row) for row in await db.fetch(POLICIES)]


async def save_tables(db: Db, touched: Sequence[LockedAggregate[Order | None]], _: Sequence[OrderPolicy]) -> None:
    """Save lines whose units moved."""
    rows = []
    for held in touched:
        assert held.state is not None
        before = held.before.lines if held.before is not None else {}
        for line_id, line in held.state.lines.items():
            if before.get(line_id) is not line:  # a fold copies what it changes, and only that
                units = [line.units.get(bucket, 0) for bucket in BUCKETS]
                rows.append((held.key, line_id, line.placed.quantity, line.owed, *units))
    if rows:
        orders, lines, *numbers = zip(*rows, strict=True)
        await db.execute(KEEP_LINES, orders, lines, *map(array, numbers))


async def find(pool: Pool, order_id: str) -> Order | None:
    """Return the order as it is now, or None where it is not known."""
    async with pool.acquire(timeout=5) as db:
        document = await db.fetchval(READ, order_id)
    return None if document is None else STATE.validate_json(document)


async def is_known(pool: Pool, order_id: str) -> bool:
    async with pool.acquire(timeout=5) as db:
        return bool(await db.fetchval(EXISTS, order_id))


def _unplaced(_: str) -> Order | None:
    return None


ORDERS: Final[Flow[Order | None, Command, Any]] = Flow(
    service="orders",
    state=STATE,
    initial=_unplaced,
    decide=decide,
    evolve=evolve,
    load_context=policies,
    save_tables=save_tables,
    deadlines=deadlines,
    invariants=invariants,
)
