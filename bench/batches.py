"""The batch shell: messages of the orders service applied, beside the same rows written by hand in batches."""

import json
import time
from datetime import datetime, timezone
from uuid import uuid4

import asyncpg
from uuid_utils.compat import uuid7

from bench.figures import AUTH_KEY, RUNS, Figure, Place, middle
from orders.domain.decide import Command
from orders.domain.decide import Place as PlaceCommand
from orders.domain.placement import LineRequest, PlacementRequest, TenderRequest
from orders.handlers import ROUTE
from orders.store import ORDERS
from shared.consumer import Consumer, Router
from shared.contracts.base import Fact, LineQuantity, TenderKind, schema_id
from shared.contracts.fulfillment import (
    Parcel,
    ShipmentCreated,
    ShipmentDelivered,
    ShipmentPacked,
    ShipmentShipped,
    StockAllocated,
)
from shared.contracts.orders import Address, Customer, ShippingPreference
from shared.contracts.payments import PaymentAuthorized
from shared.envelope import Cause, source_of
from shared.parking import Record
from shared.settings import Settings
from shared.shell import Told, apply

ORDERS_PLACED = 2_000
BATCH = 1_000
MESSAGES = 7
AT = datetime(2026, 5, 4, 12, tzinfo=timezone.utc)
MUST_PER_SECOND = 5_000


def placement(order_id: str) -> PlacementRequest:
    """Two lines, three units, one card."""
    lines = tuple(
        LineRequest(sku=f"sku-{n}", title="A thing", quantity=n, unit_price_minor=1_000, line_id=str(n)) for n in (1, 2)
    )
    return PlacementRequest(
        placed_at=AT,
        customer=Customer(customer_id="c-1", email="who@example.org", name="Who"),
        ship_to=Address(name="Who", street="Street 1", city="City", postal_code="12345", country="DE"),
        currency="EUR",
        lines=lines,
        tenders=(TenderRequest(kind=TenderKind.CARD, token="tok_ok", amount_minor=3_000, tender_id="t1"),),
        preference=ShippingPreference(),
    )


def cause() -> Cause:
    return Cause(uuid7(), AT, "service:bench", "bench", "bench")


async def place_all(pool: asyncpg.Pool, ids: list[str]) -> None:
    for start in range(0, len(ids), BATCH):
        told: list[Told[Command]] = [
            Told(id, PlaceCommand(id, placement(id), AT), cause()) for id in ids[start : start + BATCH]
        ]
        async with pool.acquire() as db, db.transaction():
            outcomes, _ = await apply(db, ORDERS, told)
            assert all(o.facts for o in outcomes), next(o.error for o in outcomes if o.error)


def story(order_id: str) -> list[Fact]:
    """What the other services tell of an order that is paid, planned, packed, shipped and delivered."""
    shipment = f"{order_id}-S1"
    lines = (LineQuantity(line_id="1", quantity=1), LineQuantity(line_id="2", quantity=2))
    parcels = (Parcel(parcel_id="p1", lines=lines, carrier="swift", tracking=f"T{order_id}"),)
    return [
        PaymentAuthorized(
            order_id=order_id,
            tender_id="t1",
            operation_id=f"{order_id}-P1",
            amount_minor=3_000,
            currency="EUR",
            tender_kind=TenderKind.CARD,
            reference="r",
            expires_at=None,
        ),
        *(
            StockAllocated(
                order_id=order_id,
                sku=f"sku-{line.line_id}",
                location="BER",
                quantity=line.quantity,
                line_id=line.line_id,
                shipment_id=shipment,
            )
            for line in lines
        ),
        ShipmentCreated(order_id=order_id, shipment_id=shipment, location="BER", lines=lines, number=1, of=1),
        ShipmentPacked(order_id=order_id, shipment_id=shipment, parcels=parcels),
        ShipmentShipped(
            order_id=order_id, shipment_id=shipment, carrier="swift", parcels=parcels, lines=lines, number=1, of=1
        ),
        ShipmentDelivered(order_id=order_id, shipment_id=shipment, lines=lines),
    ]


def record(fact: Fact, sequence: int, position: int) -> Record:
    headers = [
        ("ce_id", str(uuid7()).encode()),
        ("ce_source", source_of(fact.service).encode()),
        ("ce_type", fact.type.encode()),
        ("ce_subject", fact.subject.encode()),
        ("ce_time", AT.isoformat().encode()),
        ("ce_sequence", str(sequence).encode()),
        ("ce_dataschema", schema_id(type(fact)).encode()),
        ("ce_actor", b"service:bench"),
        ("ce_reason", b"bench"),
    ]
    return Record(
        f"{fact.service}.events", 0, position, 0, fact.subject.encode(), headers, fact.model_dump_json().encode()
    )


FLOOR = """
WITH told AS (SELECT * FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::json[], $5::json[]) AS t (id, key, n, data, state)),
claimed AS (INSERT INTO inbox (id) SELECT id FROM told ON CONFLICT DO NOTHING),
saved AS (UPDATE states SET state = last.state, sequence = last.n
          FROM (SELECT DISTINCT ON (key) key, n, state FROM told ORDER BY key, n DESC) AS last WHERE states.key = last.key),
journal AS (INSERT INTO events (id, subject, sequence, type, schema_version, data, occurred_at, actor, reason,
                correlation_id, chain)
            SELECT gen_random_uuid(), key, n, 'order.completed', 1, data, now(), 'bench', 'bench', 'bench', '\\x00'
            FROM told WHERE n % 3 = 0 RETURNING id)
INSERT INTO outbox (event_id) SELECT id FROM journal"""


async def _ours(where: Place, run: int) -> tuple[float, float, str]:
    dsn = await where.database("orders")
    pool = await asyncpg.create_pool(dsn, min_size=1, max_size=4)
    ids = [f"b{run}-{n}" for n in range(ORDERS_PLACED)]
    await place_all(pool, ids)
    stories = [story(id) for id in ids]
    facts = [(step[n], n + 1) for n in range(MESSAGES) for step in stories]
    records = [record(fact, sequence, position) for position, (fact, sequence) in enumerate(facts)]
    settings = Settings.model_validate({"database_url": dsn, "kafka": where.kafka, "auth_key": AUTH_KEY})
    consumer = Consumer(pool, Router([ROUTE]).take, settings, "bench", lambda: None)
    began, cpu = time.perf_counter(), time.process_time()
    for start in range(0, len(records), BATCH):
        await consumer.take(records[start : start + BATCH])
    elapsed, cpu = time.perf_counter() - began, time.process_time() - cpu
    assert consumer.progress.parked == 0, "a message of the story was parked"
    done = await pool.fetchval("SELECT count(*) FROM events WHERE type = 'order.completed'")
    assert done == ORDERS_PLACED, f"{done} of {ORDERS_PLACED} orders completed"
    await pool.close()
    return len(records) / elapsed, cpu * 1000 / len(records), dsn


async def _floor(dsn: str, run: int) -> float:
    """The same claims, state rows, journal rows and outbox ids, one statement a batch, nothing decided."""
    db = await asyncpg.connect(dsn)
    state = await db.fetchval("SELECT state FROM states LIMIT 1")
    data = json.dumps({"order_id": "x", "delivered": 3, "cancelled": 0, "lost": 0})
    keys = [f"b{run}-{n}" for n in range(ORDERS_PLACED)]
    rows = [(uuid4(), key, 100 + n, data, state) for n in range(MESSAGES) for key in keys]
    began = time.perf_counter()
    for start in range(0, len(rows), BATCH):
        batch = rows[start : start + BATCH]
        await db.execute(FLOOR, *[list(column) for column in zip(*batch, strict=True)])
    elapsed = time.perf_counter() - began
    await db.close()
    return len(rows) / elapsed


async def measure(where: Place) -> list[Figure]:
    """The batch shell: seven messages an order, from raw record to committed, beside the same rows by hand"""
    ours, floors, cpus = [], [], []
    for run in range(RUNS):
        rate, cpu, dsn = await _ours(where, run)
        ours.append(rate)
        cpus.append(cpu)
        floors.append(await _floor(dsn, run))
    rate = middle(ours)
    return [
        Figure(
            what="batch shell: orders' messages applied",
            ours=rate,
            floor=middle(floors),
            unit="/s",
            must=f"{MUST_PER_SECOND:,}/s",
            is_met=rate >= MUST_PER_SECOND,
            cpu_per_1000=middle(cpus),
            runs=tuple(ours),
        )
    ]
