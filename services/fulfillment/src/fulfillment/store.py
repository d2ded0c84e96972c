"""All SQL of fulfillment: the queue and the shelves beside the states, what proves them, and reads for the API.

Rows are locked in one order everywhere: orders by id, then shelves by (sku, location).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeAlias

import asyncpg
from pydantic import TypeAdapter

from fulfillment.domain import shelf as shelves_
from fulfillment.domain.allocation import fills_whole
from fulfillment.domain.decide import (
    Cancel,
    Command,
    Fill,
    HandOver,
    Inspect,
    Open,
    Pack,
    Plan,
    Replace,
    Reship,
    ReviseInspection,
    SettleConsent,
    ShortPick,
    TakeSilence,
    Track,
    decide,
)
from fulfillment.domain.policy import FulfillmentPolicy
from fulfillment.domain.shelf import CountUnits, Receipts, Receive, ShelfCommand, ShelfState
from fulfillment.domain.shipment import Shipment, held_by, summed
from fulfillment.domain.state import OrderFulfillment, deadlines, evolve, in_shipments, invariants
from fulfillment.domain.stock import Place, Shelf, Stock, evolve_context, shelf_effects
from shared.contracts.base import Bucket
from shared.contracts.fulfillment import (
    Scan,
    ShelfFact,
    StockDiscrepancyRecorded,
    StockReceived,
    StockRestocked,
    shelf_key,
)
from shared.messaging.database import Pool, transposed
from shared.messaging.shell import Db, Flow, LockedAggregate, Message

ScanKey: TypeAlias = tuple[str, str, str, datetime]
"""Carrier, tracking, code, time: what makes a scan the same scan."""

TOUCH_STOCK: Final = (
    Plan,
    Cancel,
    Pack,
    ShortPick,
    HandOver,
    Track,
    Fill,
    SettleConsent,
    TakeSilence,
    Inspect,
    ReviseInspection,
    Replace,
    Reship,
)
"""Commands that need the shelves of their order, or may change them."""

POLICIES = """
SELECT policy_id, version, effective_from, location_priority, consent_after_days, consent_hours, consent_options, silence,
    tracking_days
FROM policies"""
LOCK_SHELVES = """
SELECT sku, location, on_hand, allocated, incoming, eta FROM stock WHERE sku = ANY($1::text[])
ORDER BY sku, location FOR UPDATE"""
# After the shelves are locked: whoever planned before us has committed, and stands in the queue.
AHEAD = """
SELECT asked.order_id, asked.sku, sum(b.open)::int
FROM unnest($1::text[], $2::timestamptz[], $3::text[]) AS asked (order_id, placed_at, sku)
JOIN backorders b ON b.sku = asked.sku AND b.open > 0
    AND (b.placed_at, b.order_id) < (asked.placed_at, asked.order_id COLLATE "C")
GROUP BY asked.order_id, asked.sku"""

KEEP_LINES = """
INSERT INTO lines (order_id, line_id, sku, ordered, again, in_shipments, unallocated, allocated, backordered, packed,
    in_transit, delivered, lost, returned_to_sender, cancelled)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::int[], $5::int[], $6::int[], $7::int[], $8::int[], $9::int[],
    $10::int[], $11::int[], $12::int[], $13::int[], $14::int[], $15::int[])
ON CONFLICT (order_id, line_id) DO UPDATE SET ordered = excluded.ordered, again = excluded.again,
    in_shipments = excluded.in_shipments, unallocated = excluded.unallocated, allocated = excluded.allocated,
    backordered = excluded.backordered, packed = excluded.packed, in_transit = excluded.in_transit,
    delivered = excluded.delivered, lost = excluded.lost, returned_to_sender = excluded.returned_to_sender,
    cancelled = excluded.cancelled"""
KEEP_BACKORDERS = """
INSERT INTO backorders (order_id, backorder_id, line_id, sku, placed_at, quantity, open, eta, revision, whole, changed_at)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::int[], $7::int[],
    $8::timestamptz[], $9::int[], $10::boolean[], $11::timestamptz[])
ON CONFLICT (backorder_id) DO UPDATE SET open = excluded.open, eta = excluded.eta, revision = excluded.revision,
    whole = excluded.whole, changed_at = greatest(backorders.changed_at, excluded.changed_at)"""
KEEP_PARCELS = """
INSERT INTO parcels (carrier, tracking, order_id, shipment_id, handed_over_at)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[]) ON CONFLICT DO NOTHING"""
MAKE_SHELVES = """
INSERT INTO stock (sku, location, changed_at)
SELECT * FROM unnest($1::text[], $2::text[], $3::timestamptz[]) AS new (sku, location, changed_at)
ORDER BY sku COLLATE "C", location COLLATE "C" ON CONFLICT DO NOTHING"""
MOVE_STOCK = """
UPDATE stock SET on_hand = stock.on_hand + moved.on_hand, allocated = stock.allocated + moved.allocated,
    changed_at = CASE WHEN moved.on_hand > moved.allocated THEN greatest(stock.changed_at, moved.at)
        ELSE stock.changed_at END
FROM unnest($1::text[], $2::text[], $3::int[], $4::int[], $5::timestamptz[]) AS moved (sku, location, on_hand, allocated, at)
WHERE stock.sku = moved.sku AND stock.location = moved.location"""

FIND_RECEIPTS = """
SELECT shelf, receipt_id, quantity FROM receipts JOIN unnest($1::text[], $2::text[]) AS asked (shelf, receipt_id)
USING (shelf, receipt_id)"""
KEEP_RECEIPTS = """
INSERT INTO receipts (shelf, receipt_id, quantity) SELECT * FROM unnest($1::text[], $2::text[], $3::int[])"""
KEEP_SHELVES = """
INSERT INTO stock (sku, location, on_hand, incoming, eta, announced, changed_at)
SELECT sku, location, received, incoming, eta, 1, at
FROM unnest($1::text[], $2::text[], $3::int[], $4::int[], $5::timestamptz[], $6::timestamptz[])
    AS new (sku, location, received, incoming, eta, at)
ORDER BY sku COLLATE "C", location COLLATE "C"
ON CONFLICT (sku, location) DO UPDATE SET on_hand = stock.on_hand + excluded.on_hand, incoming = excluded.incoming,
    eta = excluded.eta, announced = stock.announced + 1, changed_at = greatest(stock.changed_at, excluded.changed_at)"""


LOCK_COUNTED = """
SELECT sku, location, on_hand, allocated, incoming, eta FROM stock
WHERE (sku, location) IN (SELECT * FROM unnest($1::text[], $2::text[])) ORDER BY sku, location FOR UPDATE"""
CORRECT = """
UPDATE stock SET on_hand = stock.on_hand + less.units
FROM unnest($1::text[], $2::text[], $3::int[]) AS less (sku, location, units)
WHERE stock.sku = less.sku AND stock.location = less.location"""


async def policies(db: Db) -> tuple[FulfillmentPolicy, ...]:
    return tuple(FulfillmentPolicy.model_validate(dict(row)) for row in await db.fetch(POLICIES))


async def load_context(db: Db, messages: Sequence[Message[Command]], states: Mapping[str, OrderFulfillment]) -> Stock:
    """Lock and load the shelves of the skus that the batch may touch, and who waits for them before whom."""
    told_at: dict[str, datetime] = {}
    opened = {t.key: t.command for t in messages if isinstance(t.command, Open)}
    skus: dict[str, set[str]] = {}
    for t in messages:
        told_at[t.key] = max(t.cause.at, told_at.get(t.key, t.cause.at))
        if isinstance(t.command, TOUCH_STOCK) and t.key in states and _may_touch(t.command, states[t.key]):
            of_order = skus.setdefault(t.key, states[t.key].skus())
            if t.key in opened:
                of_order |= {line.sku for line in opened[t.key].lines}
            if isinstance(t.command, Replace):
                of_order.add(t.command.sku)
            if isinstance(t.command, SettleConsent) and t.command.substitute_sku:
                of_order.add(t.command.substitute_sku)
            if isinstance(t.command, Inspect):
                of_order |= {line.sku for line in t.command.lines if line.sku}
            if isinstance(t.command, ReviseInspection):
                of_order |= {line.sku for line in (*t.command.before, *t.command.after) if line.sku}
    if not skus:
        return Stock(told_at=told_at)
    shelves: dict[str, dict[str, Shelf]] = {}
    for sku, location, *counts in await db.fetch(LOCK_SHELVES, sorted(set().union(*skus.values()))):
        shelves.setdefault(sku, {})[location] = Shelf(*counts)
    places: dict[str, Place] = {}
    for key in skus:
        placed_at = opened[key].placed_at if key in opened else states[key].placed_at
        if placed_at is not None:
            places[key] = (placed_at, key)
    asked = [(key, places[key][0], sku) for key in places for sku in skus[key]]
    ahead = {(key, sku): units for key, sku, units in await db.fetch(AHEAD, *transposed(asked, 3))}
    return Stock(shelves, places, ahead, {}, await policies(db), told_at)


def _may_touch(command: Command, order: OrderFulfillment) -> bool:
    """Return the skus that a message may touch. Of scans, only a parcel that came back touches stock; of packing, only what
    is packed otherwise than planned. Whatever changes a shipment's units in the same batch has its shelves locked by itself.
    """
    match command:
        case Track(scan=scan):
            return scan.code == "returned"
        case Pack(shipment_id=shipment_id, parcels=parcels):
            shipment = order.shipments.get(shipment_id)
            inside = summed((line.line_id, line.quantity) for _, lines in parcels for line in lines)
            return shipment is not None and bool(parcels) and inside != held_by(shipment)
        case _:
            return True


async def save_tables(db: Db, touched: Sequence[LockedAggregate[OrderFulfillment]], stock: Stock) -> None:
    """Save what changed of lines, backorders, parcels and shelves: one statement per table."""
    if lines := [row for held in touched for row in _lines(held)]:
        await db.execute(KEEP_LINES, *transposed(lines, 15))
    if waiting := [(*row, stock.told_at[held.key]) for held in touched for row in _backorders(held)]:
        await db.execute(KEEP_BACKORDERS, *transposed(waiting, 11))
    if parcels := [(*row, stock.told_at[held.key]) for held in touched for row in _parcels(held)]:
        await db.execute(KEEP_PARCELS, *transposed(parcels, 5))
    effects = shelf_effects(fact for held in touched for fact in held.facts)
    if effects:
        at = max(stock.told_at[held.key] for held in touched)
        # Only what comes back may come to where nothing ever lay.
        back = {(f.sku, f.location) for held in touched for f in held.facts if isinstance(f, StockRestocked)}
        if back:
            await db.execute(MAKE_SHELVES, *transposed(((*shelf, at) for shelf in back), 3))
        await db.execute(MOVE_STOCK, *transposed(((*shelf, *change, at) for shelf, change in effects.items()), 5))


def _lines(held: LockedAggregate[OrderFulfillment]) -> Iterable[tuple[object, ...]]:
    for line_id, line in held.state.lines.items():
        if held.before.lines.get(line_id) is not line:
            units = [line.of(bucket) for bucket in Bucket]
            yield held.key, line_id, line.sku, line.ordered, line.again, in_shipments(held.state, line_id), *units


def _backorders(held: LockedAggregate[OrderFulfillment]) -> list[tuple[object, ...]]:
    if not held.state.backorders:
        return []
    before = set(_queued(held.before))
    return [row for row in _queued(held.state) if row not in before]


def _queued(state: OrderFulfillment) -> Iterable[tuple[object, ...]]:
    whole = fills_whole(state)
    for b in state.backorders.values():
        place = (state.order_id, b.backorder_id, b.line_id, b.sku, state.placed_at)
        yield *place, b.quantity, b.open, b.eta, b.revision, whole and b.open > 0


def _parcels(held: LockedAggregate[OrderFulfillment]) -> Iterable[tuple[str, str, str, str]]:
    for shipment_id, shipment in held.state.shipments.items():
        before = held.before.shipments.get(shipment_id)
        if shipment.carrier and shipment is not before:
            known = _numbers(before) if before and before.carrier else ()
            for carrier, tracking in _numbers(shipment):
                if (carrier, tracking) not in known:
                    yield carrier, tracking, held.key, shipment_id


def _numbers(shipment: Shipment) -> dict[tuple[str, str], None]:
    """Return the numbers by which a carrier scans it, or might: also those that a later number has replaced."""
    return dict.fromkeys((*(shipment.number_of(p) for p in shipment.parcels.values()), *shipment.others))


async def receipts(db: Db, messages: Sequence[Message[ShelfCommand]], _: Mapping[str, ShelfState]) -> Receipts:
    named = [(t.key, t.command.receipt_id) for t in messages if isinstance(t.command, Receive)]
    rows = await db.fetch(FIND_RECEIPTS, *transposed(named, 2)) if named else []
    told_at: dict[str, datetime] = {}
    for t in messages:
        told_at[t.key] = max(t.cause.at, told_at.get(t.key, t.cause.at))
    known = {(shelf, receipt_id): quantity for shelf, receipt_id, quantity in rows}
    counted = [(t.command.sku, t.command.location) for t in messages if isinstance(t.command, CountUnits)]
    there = await db.fetch(LOCK_COUNTED, *transposed(counted, 2)) if counted else []
    found = {shelf_key(sku, location): Shelf(*counts) for sku, location, *counts in there}
    empty = {shelf_key(sku, location): Shelf() for sku, location in counted}
    return Receipts(known, told_at, empty | found)


async def keep_shelves(db: Db, touched: Sequence[LockedAggregate[ShelfState]], known: Receipts) -> None:
    received = [fact for held in touched for fact in held.facts if isinstance(fact, StockReceived)]
    if received:
        await db.execute(KEEP_RECEIPTS, *transposed(((f.subject, f.receipt_id, f.quantity) for f in received), 3))
    rows, fewer = [], []
    for held in touched:
        shelf = next((fact for fact in held.facts if not isinstance(fact, StockDiscrepancyRecorded)), None)
        if shelf is None:
            continue
        assert isinstance(shelf, ShelfFact)
        more = held.state.received + held.state.corrected - held.before.received - held.before.corrected
        announced = (held.state.incoming, held.state.eta, known.told_at[held.key])
        rows.append((shelf.sku, shelf.location, max(0, more), *announced))
        if more < 0:
            fewer.append((shelf.sku, shelf.location, more))
    if rows:
        await db.execute(KEEP_SHELVES, *transposed(rows, 6))
    if fewer:
        await db.execute(CORRECT, *transposed(fewer, 3))


ORDERS: Final[Flow[OrderFulfillment, Command, Stock]] = Flow(
    service="fulfillment",
    state=TypeAdapter(OrderFulfillment),
    initial=OrderFulfillment,
    decide=decide,
    evolve=evolve,
    load_context=load_context,
    evolve_context=evolve_context,
    save_tables=save_tables,
    deadlines=deadlines,
    invariants=invariants,
)

SHELVES: Final[Flow[ShelfState, ShelfCommand, Receipts]] = Flow(
    service="fulfillment",
    state=TypeAdapter(ShelfState),
    initial=ShelfState,
    decide=shelves_.decide,
    evolve=shelves_.evolve,
    load_context=receipts,
    evolve_context=shelves_.evolve_context,
    save_tables=keep_shelves,
    prefix="stock",
)


# First placed, first filled: an order is served when what waits before it leaves something of what it waits for; an order
# that takes all or nothing, when everything it waits for is there.
FILLABLE = """
WITH free AS MATERIALIZED (
    SELECT sku, sum(on_hand - allocated) AS units, max(changed_at) AS changed_at
    FROM stock WHERE sku IN (SELECT sku FROM backorders WHERE open > 0) GROUP BY sku HAVING sum(on_hand - allocated) > 0
), queue AS (
    SELECT b.order_id, b.placed_at, b.whole, b.open, free.units, greatest(b.changed_at, free.changed_at) AS at,
        sum(b.open) OVER (PARTITION BY b.sku ORDER BY b.placed_at, b.order_id, b.backorder_id) AS up_to
    FROM backorders b JOIN free USING (sku) WHERE b.open > 0
)
SELECT order_id, placed_at, max(at) AS at FROM queue
WHERE (placed_at, order_id) > ($1::timestamptz, $2::text COLLATE "C")
    AND order_id NOT IN (SELECT order_id FROM backorder_failures)
GROUP BY order_id, placed_at, whole
HAVING CASE WHEN whole THEN bool_and(up_to <= units) AND NOT EXISTS (
        SELECT FROM backorders rest WHERE rest.order_id = queue.order_id AND rest.open > 0
            AND rest.sku NOT IN (SELECT sku FROM free))
    ELSE bool_or(up_to - open < units) END
ORDER BY placed_at, order_id LIMIT $3"""
ANNOUNCED = "SELECT sku, location, announced FROM stock WHERE announced > heeded"
CONCERNED = """
SELECT b.order_id, b.placed_at, max(greatest(b.changed_at, (SELECT max(s.changed_at) FROM stock s WHERE s.sku = b.sku))) AS at
FROM backorders b
WHERE b.open > 0 AND b.sku = ANY($4::text[]) AND (b.placed_at, b.order_id) > ($1::timestamptz, $2::text COLLATE "C")
    AND b.order_id NOT IN (SELECT order_id FROM backorder_failures)
GROUP BY b.order_id, b.placed_at ORDER BY b.placed_at, b.order_id LIMIT $3"""
# What failed is tried again by its own time, whether there are goods or only news of them.
TO_RETRY = """
SELECT b.order_id, b.placed_at, max(b.changed_at) AS at
FROM backorder_failures f JOIN backorders b USING (order_id)
WHERE f.next_at <= now() AND b.open > 0 AND (b.placed_at, b.order_id) > ($1::timestamptz, $2::text COLLATE "C")
GROUP BY b.order_id, b.placed_at ORDER BY b.placed_at, b.order_id LIMIT $3"""
# Twice as long each time, up to an hour; given up after some twelve hours.
FAIL = """
INSERT INTO backorder_failures (order_id, attempts, error, failed_at, next_at)
VALUES ($1, 1, $2, now(), now() + interval '1 second')
ON CONFLICT (order_id) DO UPDATE SET attempts = backorder_failures.attempts + 1, error = excluded.error,
    failed_at = excluded.failed_at, next_at = CASE WHEN backorder_failures.attempts >= 24 THEN 'infinity'
        ELSE now() + least(interval '1 hour', interval '1 second' * 2 ^ backorder_failures.attempts) END"""
RECOVERED = "DELETE FROM backorder_failures WHERE order_id = ANY($1::text[]) AND next_at <= now()"
FAILURES = """
SELECT order_id, attempts, error, failed_at, CASE WHEN isfinite(next_at) THEN next_at END AS next_at
FROM backorder_failures f WHERE EXISTS (SELECT FROM backorders b WHERE b.order_id = f.order_id AND b.open > 0)
ORDER BY failed_at DESC, order_id LIMIT $1"""
RETRY = "UPDATE backorder_failures SET next_at = now() WHERE order_id = $1"
HEED = """
UPDATE stock SET heeded = greatest(heeded, seen.announced)
FROM unnest($1::text[], $2::text[], $3::bigint[]) AS seen (sku, location, announced)
WHERE stock.sku = seen.sku AND stock.location = seen.location"""

STOCK_DRIFT = """
WITH moves AS (
    SELECT subject, sequence, type, data->>'sku' AS sku, data->>'location' AS location,
        coalesce(data->>'quantity', data->>'change')::bigint AS units,
        (data->>'on_hand')::boolean AS is_on_hand, (data->>'incoming')::bigint AS incoming,
        (data->>'eta')::timestamptz AS eta
    FROM events
    WHERE type IN ('stock.received', 'stock.expected', 'stock.allocated', 'stock.released', 'stock.shipped',
        'stock.restocked', 'stock.withdrawn', 'stock.counted')
), sums AS (
    SELECT sku, location,
        coalesce(sum(CASE WHEN type IN ('stock.received', 'stock.restocked', 'stock.counted') THEN units
            WHEN type IN ('stock.shipped', 'stock.withdrawn') OR (type = 'stock.released' AND NOT is_on_hand) THEN -units
            ELSE 0 END), 0) AS on_hand,
        coalesce(sum(CASE WHEN type = 'stock.allocated' THEN units
            WHEN type IN ('stock.released', 'stock.shipped') THEN -units ELSE 0 END), 0) AS allocated
    FROM moves GROUP BY sku, location
), announced AS (
    SELECT DISTINCT ON (subject) subject, sku, location, sequence, incoming, eta
    FROM moves WHERE type = 'stock.expected' ORDER BY subject, sequence DESC
), awaited AS (
    SELECT a.sku, a.location, a.eta, greatest(0, a.incoming - coalesce((SELECT sum(m.units) FROM moves m
        WHERE m.subject = a.subject AND m.type = 'stock.received' AND m.sequence > a.sequence), 0)) AS incoming
    FROM announced a
), told AS (
    SELECT sku, location, on_hand, allocated, coalesce(incoming, 0) AS incoming,
        CASE WHEN incoming > 0 THEN eta END AS eta
    FROM sums LEFT JOIN awaited USING (sku, location)
), waits AS (
    SELECT data->>'backorder_id' AS backorder_id, sum(CASE WHEN type = 'backorder.created' THEN 1 ELSE -1 END
        * (data->>'quantity')::bigint) AS open
    FROM events WHERE type IN ('backorder.created', 'backorder.filled', 'backorder.cancelled') GROUP BY 1
)
SELECT 'stock ' || coalesce(told.sku, kept.sku) || ' at ' || coalesce(told.location, kept.location) AS what,
    format('on hand %s, allocated %s, incoming %s, eta %s', told.on_hand, told.allocated, told.incoming, told.eta) AS told,
    format('on hand %s, allocated %s, incoming %s, eta %s', kept.on_hand, kept.allocated, kept.incoming, kept.eta) AS kept
FROM told FULL JOIN stock kept ON kept.sku = told.sku AND kept.location = told.location
WHERE (told.on_hand, told.allocated, told.incoming, told.eta)
    IS DISTINCT FROM (kept.on_hand::bigint, kept.allocated::bigint, kept.incoming::bigint, kept.eta)
UNION ALL
SELECT 'backorder ' || coalesce(waits.backorder_id, kept.backorder_id), format('open %s', waits.open),
    format('open %s', kept.open)
FROM waits FULL JOIN backorders kept ON kept.backorder_id = waits.backorder_id
WHERE waits.open IS DISTINCT FROM kept.open::bigint"""
"""Where the shelves and the queue are not the sum of their facts in the journal: (what, told, kept); no row, ever."""

READ = "SELECT state FROM states WHERE key = $1 AND sequence > 0"
# The newest, and what was handed over under the same number not long before: it is one label on goods of several orders.
FIND_PARCELS = """
SELECT order_id, shipment_id FROM (
    SELECT order_id, shipment_id, place, handed_over_at, first_value(place) OVER newest AS last,
        first_value(handed_over_at) OVER newest AS last_at
    FROM parcels WHERE carrier = $1 AND tracking = $2 WINDOW newest AS (ORDER BY place DESC)) known
WHERE place = last OR handed_over_at > last_at - make_interval(days => (
    SELECT tracking_days FROM policies ORDER BY effective_from DESC, version DESC LIMIT 1))
ORDER BY place DESC"""
KEEP_SCAN = """
INSERT INTO unmatched_scans (carrier, tracking, code, occurred_at, detail) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT DO NOTHING"""
MATCHED = """
SELECT carrier, tracking, code, occurred_at, detail FROM unmatched_scans u
WHERE next_at <= now() AND EXISTS (SELECT FROM parcels p WHERE p.carrier = u.carrier AND p.tracking = u.tracking)
ORDER BY occurred_at, received_at LIMIT $1"""
DROP_SCANS = """
DELETE FROM unmatched_scans u USING unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[])
    AS applied (carrier, tracking, code, occurred_at)
WHERE (u.carrier, u.tracking, u.code, u.occurred_at)
    = (applied.carrier, applied.tracking, applied.code, applied.occurred_at)"""
FAIL_SCANS = """
UPDATE unmatched_scans u SET attempts = attempts + 1, error = failed.error,
    next_at = now() + least(interval '1 hour', interval '1 second' * 2 ^ least(attempts, 20))
FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::text[])
    AS failed (carrier, tracking, code, occurred_at, error)
WHERE (u.carrier, u.tracking, u.code, u.occurred_at)
    = (failed.carrier, failed.tracking, failed.code, failed.occurred_at)"""
UNMATCHED = """
SELECT carrier, tracking, code, occurred_at, detail, received_at, error FROM unmatched_scans
ORDER BY received_at DESC, carrier, tracking, code, occurred_at LIMIT $1"""
READ_SHELVES = """
SELECT sku, location, on_hand, allocated, incoming, eta,
    (SELECT coalesce(sum(open), 0)::int FROM backorders b WHERE b.sku = stock.sku AND open > 0) AS backordered
FROM stock WHERE ($1::text IS NULL OR sku = $1) AND (sku, location) > ($2::text COLLATE "C", $3::text COLLATE "C")
ORDER BY sku, location LIMIT $4"""


@dataclass(frozen=True, slots=True)
class InQueue:
    """It is an order that may be served, its place, and when what it may be served by happened."""

    order_id: str
    placed_at: datetime
    at: datetime


async def fillable(pool: Pool, after: Place, limit: int) -> list[InQueue]:
    """Return orders whose goods are there, first placed first."""
    async with pool.acquire(timeout=5) as db:
        return [InQueue(*row) for row in await db.fetch(FILLABLE, *after, limit)]


async def announced(pool: Pool) -> list[tuple[str, str, int]]:
    """Return shelves (sku, location, count) where goods came or were announced since backorders were last looked at."""
    async with pool.acquire(timeout=5) as db:
        return [tuple(row) for row in await db.fetch(ANNOUNCED)]


async def concerned(pool: Pool, skus: Sequence[str], after: Place, limit: int) -> list[InQueue]:
    """Return orders that wait for one of these skus, first placed first."""
    async with pool.acquire(timeout=5) as db:
        return [InQueue(*row) for row in await db.fetch(CONCERNED, *after, limit, skus)]


async def to_retry(pool: Pool, after: Place, limit: int) -> list[InQueue]:
    """Return orders whose backorders could not be served, and whose time has come again."""
    async with pool.acquire(timeout=5) as db:
        return [InQueue(*row) for row in await db.fetch(TO_RETRY, *after, limit)]


async def fail(pool: Pool, order_id: str, error: str) -> None:
    async with pool.acquire(timeout=5) as db:
        await db.execute(FAIL, order_id, error)


async def recovered(pool: Pool, order_ids: Sequence[str]) -> None:
    """Return those of them that have not failed again."""
    async with pool.acquire(timeout=5) as db:
        await db.execute(RECOVERED, order_ids)


async def failures(pool: Pool, limit: int) -> list[asyncpg.Record]:
    async with pool.acquire(timeout=5) as db:
        return await db.fetch(FAILURES, limit)


async def retry(pool: Pool, order_id: str) -> bool:
    """Make it due again; return whether it is one that failed."""
    async with pool.acquire(timeout=5) as db:
        done: str = await db.execute(RETRY, order_id)
    return done != "UPDATE 0"


async def heed(pool: Pool, shelves: Sequence[tuple[str, str, int]]) -> None:
    async with pool.acquire(timeout=5) as db:
        await db.execute(HEED, *transposed(shelves, 3))


async def find(pool: Pool, order_id: str) -> OrderFulfillment | None:
    """Return the order as it is now, or None where it is not known."""
    async with pool.acquire(timeout=5) as db:
        document = await db.fetchval(READ, order_id)
    return None if document is None else ORDERS.state.validate_json(document)


async def places_of(pool: Pool, carrier: str, tracking: str) -> list[tuple[str, str]]:
    """Return the orders and shipments that a scan of this number is for, the newest first."""
    async with pool.acquire(timeout=5) as db:
        return [tuple(row) for row in await db.fetch(FIND_PARCELS, carrier, tracking)]


async def keep_scan(pool: Pool, scan: Scan, detail: str) -> None:
    async with pool.acquire(timeout=5) as db:
        await db.execute(KEEP_SCAN, scan.carrier, scan.tracking, scan.code, scan.at, detail)


async def matched_scans(pool: Pool, limit: int) -> list[asyncpg.Record]:
    """Return kept scans whose number is known by now, oldest first."""
    async with pool.acquire(timeout=5) as db:
        return await db.fetch(MATCHED, limit)


async def unmatched_scans(pool: Pool, limit: int) -> list[asyncpg.Record]:
    async with pool.acquire(timeout=5) as db:
        return await db.fetch(UNMATCHED, limit)


async def scans_settled(pool: Pool, applied: Sequence[ScanKey], failed: Sequence[tuple[*ScanKey, str]]) -> None:
    if not applied and not failed:
        return
    async with pool.acquire(timeout=5) as db:
        await db.execute(DROP_SCANS, *transposed(applied, 4))
        await db.execute(FAIL_SCANS, *transposed(failed, 5))


async def shelves(pool: Pool, sku: str | None, after: tuple[str, str], limit: int) -> list[asyncpg.Record]:
    async with pool.acquire(timeout=5) as db:
        return await db.fetch(READ_SHELVES, sku, *after, limit)
