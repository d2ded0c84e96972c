"""What contenders are given: orders to place, what the other services tell of them, and whole stories on topics."""

import asyncio
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from tests.telling import record_of, whole_story
from uuid_utils.compat import uuid7

from bench.contest import Place
from ops.topics import PARTITIONS
from orders.domain.decide import Command, RecordFact
from orders.domain.decide import Place as PlaceCommand
from orders.domain.placement import LineRequest, PlacementRequest, TenderRequest
from orders.domain.progress import RECORDED
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
from shared.messaging.envelope import Cause, source_of
from shared.messaging.parking import Record
from shared.messaging.shell import Message
from support_view.domain.timeline import SERVICES

BATCH = 1_000
AT = datetime(2026, 5, 4, 12, tzinfo=timezone.utc)
IN_FLIGHT = 300
"""Stories that go on at the same time."""


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


def placing(order_id: str) -> Message[Command]:
    return Message(order_id, PlaceCommand(order_id, placement(order_id), AT), cause())


def progress(order_id: str) -> list[Fact]:
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


MESSAGES = len(progress("any"))
COMMANDS = 1 + sum(type(fact) in RECORDED for fact in progress("any"))
"""Of an order: it is placed, and takes note of what is told of its money and its units."""


def batches(orders: int, wave: int = 2 * BATCH, prefix: str = "b") -> Iterator[list[Message[Command]]]:
    """Waves of orders, each batch one step of a thousand of them."""
    for first in range(0, orders, wave):
        ids = [f"{prefix}-{n}" for n in range(first, min(first + wave, orders))]
        told = [placing(id) for id in ids]
        facts = [[fact for fact in progress(id) if type(fact) in RECORDED] for id in ids]
        told += [
            Message(id, RecordFact(fact, AT), cause())
            for step in zip(*facts, strict=True)
            for id, fact in zip(ids, step, strict=True)
        ]
        yield from (told[start : start + BATCH] for start in range(0, len(told), BATCH))


def message(fact: Fact, sequence: int, position: int) -> Record:
    """A fact as it comes from its topic."""
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
    topic = f"{fact.service}.events"
    return Record(topic, 0, position, 0, fact.subject.encode(), headers, fact.model_dump_json().encode())


def stories(count: int, seed: int = 1) -> Iterator[Record]:
    """Facts of all five services about orders that are split, backordered, filled, returned and refunded; as they come
    when hundreds of stories go on at once."""
    random_ = random.Random(seed)
    waiting = iter(range(count))
    under_way: list[Iterator[Record]] = []
    while True:
        while len(under_way) < IN_FLIGHT and (n := next(waiting, None)) is not None:
            under_way.append(map(record_of, whole_story(f"ORD-{n:07}").entries))
        if not under_way:
            return
        place = random_.randrange(len(under_way))
        record = next(under_way[place], None)
        if record is None:
            under_way[place] = under_way[-1]
            under_way.pop()
        else:
            yield record


STORY_FACTS = len(whole_story().entries)


@dataclass(frozen=True, slots=True)
class Topics:
    """Topics that hold stories, by service."""

    names: dict[str, str]
    orders: int

    @property
    def facts(self) -> int:
        return self.orders * STORY_FACTS


async def new_topics(place: Place, orders: int, partitions: int = PARTITIONS) -> Topics:
    """A topic per service, with nothing on it yet."""
    return Topics({service: await place.topic(partitions) for service in SERVICES}, orders)


async def tell_stories(place: Place, topics: Topics, spread_over: int | None = None) -> None:
    """Tell them on their topics; `spread_over` so many partitions evenly, rather than by the hash of the order's id."""
    async with AIOKafkaProducer(
        bootstrap_servers=place.kafka, linger_ms=5, max_batch_size=256 * 1024, enable_idempotence=True
    ) as producer:
        sends = []
        for record in stories(topics.orders):
            assert record.key is not None
            name = topics.names[record.topic.removesuffix(".events")]
            partition = int(record.key.rpartition(b"-")[2]) % spread_over if spread_over else None
            sends.append(await producer.send(name, record.value, record.key, partition, headers=list(record.headers)))
            if len(sends) >= BATCH:
                await asyncio.gather(*sends)
                sends.clear()
        await asyncio.gather(*sends)


Row = tuple[str, str, str, int, str, str]


def expected_rows(orders: int) -> set[Row]:
    """What stands on the timeline when the stories have been told: id, subject, service, sequence, type, data."""
    return {
        (e.id, e.subject, e.service, e.sequence, e.fact.type, e.fact.model_dump_json())
        for n in range(orders)
        for e in whole_story(f"ORD-{n:07}").entries
    }


INSERT: Final = """
INSERT INTO timeline (id, subject, service, sequence, type, data, occurred_at, actor, reason, correlation_id, causation_id)
SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::bigint[], $5::text[], $6::json[], $7::timestamptz[],
    $8::text[], $9::text[], $10::text[], $11::text[]) ON CONFLICT DO NOTHING"""


def row_of(record: Any) -> tuple[Any, ...]:
    """A record's columns of the timeline."""
    said = {name: value.decode() for name, value in record.headers}
    return (
        said["ce_id"],
        said["ce_subject"],
        said["ce_source"].rpartition(":")[2],
        int(said["ce_sequence"]),
        said["ce_type"],
        record.value.decode(),
        datetime.fromisoformat(said["ce_time"]),
        said["ce_actor"],
        said["ce_reason"],
        said["ce_correlationid"],
        said.get("ce_causationid"),
    )


async def check_timeline(db: Any, topics: Topics) -> None:
    """Every fact stands on the timeline, once."""
    found = await db.fetch("SELECT id::text, subject, service, sequence, type, data::text FROM timeline")
    expected = expected_rows(topics.orders)
    if len(found) != len(expected) or {tuple(row) for row in found} != expected:
        raise AssertionError(f"the timeline has {len(found)} rows, not the {len(expected)} expected ones")
