"""The warehouse and the carrier: follow the shipments the system tells of, and play them forward at a pace or by hand.

What a shipment is, is what fulfillment said of it; nothing is assumed from what was only asked for.
"""

import json
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Final
from uuid import NAMESPACE_URL, uuid5

import structlog
from fastapi import APIRouter, Depends, Path, Query
from pydantic import AwareDatetime, Field, Json

from sandbox.ledger import AtLedger, UnknownSubject, new_id
from sandbox.notices import Receiver, enqueue
from sandbox.settings import Chosen
from sandbox.streams import Record, tell
from shared.contracts.base import Id, Input, LineQuantity, Model, Quantity, Text
from shared.contracts.fulfillment import (
    Parcel,
    ShipmentCancelled,
    ShipmentCreated,
    ShipmentDelivered,
    ShipmentFact,
    ShipmentHeld,
    ShipmentLinesRemoved,
    ShipmentLost,
    ShipmentPacked,
    ShipmentRecallRequested,
    ShipmentRelabelRequested,
    ShipmentReleased,
    ShipmentReturnedToSender,
    ShipmentShipped,
    shelf_key,
)
from shared.contracts.partners import (
    WAREHOUSE_MESSAGES,
    CarrierScan,
    InspectedUnits,
    Lines,
    ParcelTracking,
    PartnerMessage,
    ReturnedUnits,
    ReturnScan,
    ScanCode,
    WarehouseGoodsExpected,
    WarehouseGoodsReceived,
    WarehouseHandedOver,
    WarehouseItemsInspected,
    WarehousePacked,
    WarehouseParcel,
    WarehouseParcelReceived,
    WarehouseRelabelled,
    WarehouseShortPicked,
    WarehouseUnexpectedItem,
)
from shared.core.machine import NotAllowed
from shared.messaging.envelope import Undecodable, context_of, data_of, type_of
from shared.web.commands import OccurredAt, business_time

log = structlog.get_logger()

SCHEMA = """
create table if not exists shipments (
    shipment_id text primary key,
    order_id text not null,
    location text not null,
    lines text not null,      -- JSON list of line and quantity
    parcels text not null,    -- JSON list, as fulfillment named them when it was packed
    status text not null,
    is_held integer not null,
    next_step text,           -- what is played next by itself
    due_at real               -- when, in seconds since the epoch
) strict;
create index if not exists shipments_of_order on shipments (order_id);
create index if not exists shipments_due on shipments (due_at) where next_step is not null;
create table if not exists heard (
    subject text primary key,
    sequence integer not null -- of the last fact that was followed
) strict;
"""

ADD = """
insert into shipments (shipment_id, order_id, location, lines, parcels, status, is_held, next_step, due_at)
values (?, ?, ?, ?, '[]', 'created', 0, ?, ?) on conflict do nothing
"""
HEARD_LAST = """
insert into heard (subject, sequence) values (?, ?)
on conflict (subject) do update set sequence = excluded.sequence where excluded.sequence > sequence
"""
ONE = "select * from shipments where shipment_id = ?"
OF_ORDER = "select * from shipments where order_id = ? order by rowid"
SET_STATUS = "update shipments set status = ? where shipment_id = ?"
SET_HELD = "update shipments set is_held = ? where shipment_id = ?"
SET_LINES = "update shipments set lines = ? where shipment_id = ?"
SET_PARCELS = "update shipments set parcels = ? where shipment_id = ?"
SET_NEXT = "update shipments set next_step = ?, due_at = ? where shipment_id = ?"
# Nothing held leaves the building; what is on its way goes on.
NEXT = """
select * from shipments
where next_step is not null and not (is_held and next_step in ('pack', 'hand_over')) order by due_at limit 1
"""

CARRIER: Final = "swiftpost"


class Step(StrEnum):
    """What the warehouse and the carrier do by themselves; scans carry their code."""

    PACK = "pack"
    RELABEL = "relabel"
    HAND_OVER = "hand_over"
    IN_TRANSIT = "in_transit"
    OUT_FOR_DELIVERY = "out_for_delivery"
    DELIVERED = "delivered"
    RECALLED = "recalled"
    RETURNED = "returned"


FOLLOWING: Final[dict[Step, Step | None]] = {
    Step.PACK: None,
    Step.RELABEL: None,
    Step.HAND_OVER: None,
    Step.IN_TRANSIT: Step.OUT_FOR_DELIVERY,
    Step.OUT_FOR_DELIVERY: Step.DELIVERED,
    Step.DELIVERED: None,
    Step.RECALLED: Step.RETURNED,
    Step.RETURNED: None,
}
"""What follows by itself; after packing and handing over, only fulfillment's word that it is so leads on."""


class Shipment(Model):
    """A shipment as the warehouse knows it."""

    shipment_id: str
    order_id: str
    location: str
    lines: Json[tuple[LineQuantity, ...]]
    parcels: Json[tuple[Parcel, ...]]
    status: str
    is_held: bool
    next_step: Step | None


HEARD: Final[dict[str, type[ShipmentFact]]] = {
    fact.type: fact
    for fact in (
        ShipmentCreated,
        ShipmentPacked,
        ShipmentRelabelRequested,
        ShipmentHeld,
        ShipmentReleased,
        ShipmentShipped,
        ShipmentDelivered,
        ShipmentLost,
        ShipmentReturnedToSender,
        ShipmentCancelled,
        ShipmentLinesRemoved,
        ShipmentRecallRequested,
    )
}
TYPES: Final = {model: kind for kind, model in WAREHOUSE_MESSAGES.items()}


class Warehouse:
    """Follows shipments, and plays them forward by itself when `pace` (seconds between two steps) is not 0."""

    def __init__(self, pace: float) -> None:
        self._pace = pace

    def hear(self, db: sqlite3.Connection, record: Record) -> None:
        """Take a record of `fulfillment.events`; one that cannot be read is somebody else's to repair.

        Facts come in sequence for the first time; what comes again after later ones would set its shipment back.
        """
        model = HEARD.get(type_of(record.headers) or "")
        if model is None:
            return
        try:
            context, fact = context_of(record.key, record.headers), data_of(model, record.value)
        except Undecodable as error:
            log.warning("record.skipped", partition=record.partition, offset=record.offset, problem=str(error))
            return
        if db.execute(HEARD_LAST, (context.subject, context.sequence)).rowcount:
            self.follow(db, fact)

    def follow(self, db: sqlite3.Connection, fact: ShipmentFact) -> None:
        """What the fact changes, and what is to be played next."""
        identifier = fact.shipment_id
        match fact:
            case ShipmentCreated():
                row = (identifier, fact.order_id, fact.location, _json(fact.lines), *self._soon(Step.PACK))
                db.execute(ADD, row)
            case ShipmentRelabelRequested():
                self._plan(db, identifier, Step.RELABEL)
            case ShipmentHeld():
                db.execute(SET_HELD, (True, identifier))
            case ShipmentReleased():
                db.execute(SET_HELD, (False, identifier))
                self._plan(db, identifier, Step.HAND_OVER if fact.packed else Step.PACK)
            case ShipmentLinesRemoved():
                db.execute(SET_LINES, (_json(_less(db, identifier, fact.lines)), identifier))
            case ShipmentPacked():
                db.execute(SET_STATUS, ("packed", identifier))
                db.execute(SET_PARCELS, (_json(fact.parcels), identifier))
                # What was packed before the address changed needs its new label all the same.
                shipment = find_shipment(db, identifier)
                if shipment is None or shipment.next_step is not Step.RELABEL:
                    self._plan(db, identifier, Step.HAND_OVER)
            case ShipmentShipped():
                db.execute(SET_STATUS, ("shipped", identifier))
                db.execute(SET_PARCELS, (_json(fact.parcels), identifier))
                self._plan(db, identifier, Step.IN_TRANSIT)
            case ShipmentRecallRequested():
                if fact.parcels:
                    db.execute(SET_PARCELS, (_json(fact.parcels), identifier))
                self._plan(db, identifier, Step.RECALLED)
            case ShipmentDelivered() | ShipmentLost() | ShipmentReturnedToSender() | ShipmentCancelled():
                db.execute(SET_STATUS, (fact.type.removeprefix("shipment."), identifier))
                self._plan(db, identifier, None)

    def play(self, db: sqlite3.Connection) -> float | None:
        """Take the next step that is due; returns the seconds until the following one, None when none is to come."""
        row = db.execute(NEXT).fetchone()
        if row is None:
            return None
        pause = float(row["due_at"] - time.time())
        if pause > 0:
            return pause
        shipment, step = Shipment.model_validate(dict(row)), Step(row["next_step"])
        now = datetime.now(UTC)
        if step is Step.PACK:
            send(db, packed(shipment, (), now), shipment.order_id)
        elif step is Step.RELABEL:
            send(db, relabelled(shipment, now), shipment.order_id)
        elif step is Step.HAND_OVER:
            send(db, handed_over(shipment, CARRIER, now), shipment.order_id)
        else:
            for scan in scans(shipment, step.value, now):
                post(db, Receiver.FULFILLMENT, scan.tracking, scan)
        self._plan(db, shipment.shipment_id, FOLLOWING[step])
        return 0

    def _plan(self, db: sqlite3.Connection, shipment_id: str, step: Step | None) -> None:
        db.execute(SET_NEXT, (*self._soon(step), shipment_id))

    def _soon(self, step: Step | None) -> tuple[Step | None, float | None]:
        return (step, time.time() + self._pace) if step and self._pace else (None, None)


def _json(values: Sequence[Model]) -> str:
    return json.dumps([value.model_dump(mode="json") for value in values])


def _less(db: sqlite3.Connection, shipment_id: str, removed: Sequence[LineQuantity]) -> list[LineQuantity]:
    shipment = find_shipment(db, shipment_id)
    left = {line.line_id: line.quantity for line in shipment.lines} if shipment else {}
    for line in removed:
        left[line.line_id] = left.get(line.line_id, 0) - line.quantity
    return [LineQuantity(line_id=line_id, quantity=quantity) for line_id, quantity in left.items() if quantity > 0]


def find_shipment(db: sqlite3.Connection, shipment_id: str) -> Shipment | None:
    row = db.execute(ONE, (shipment_id,)).fetchone()
    return None if row is None else Shipment.model_validate(dict(row))


def packed(shipment: Shipment, parcels: tuple[WarehouseParcel, ...], at: datetime) -> WarehousePacked:
    return WarehousePacked(
        order_id=shipment.order_id, shipment_id=shipment.shipment_id, parcels=parcels, occurred_at=at
    )


def relabelled(shipment: Shipment, at: datetime) -> WarehouseRelabelled:
    return WarehouseRelabelled(order_id=shipment.order_id, shipment_id=shipment.shipment_id, occurred_at=at)


def handed_over(shipment: Shipment, carrier: str, at: datetime) -> WarehouseHandedOver:
    """Tracking numbers are the same however often a parcel is handed over."""
    tracking = tuple(
        ParcelTracking(
            parcel_id=parcel.parcel_id,
            tracking="SB" + uuid5(NAMESPACE_URL, f"{shipment.shipment_id}/{parcel.parcel_id}").hex[:12].upper(),
        )
        for parcel in shipment.parcels
    )
    return WarehouseHandedOver(
        order_id=shipment.order_id,
        shipment_id=shipment.shipment_id,
        carrier=carrier,
        tracking=tracking,
        occurred_at=at,
    )


def scans(shipment: Shipment, code: str, at: datetime, detail: str = "") -> list[CarrierScan]:
    """One for each parcel that has a tracking number."""
    return [
        CarrierScan.model_validate(
            {
                "carrier": parcel.carrier or CARRIER,
                "tracking": parcel.tracking,
                "code": code,
                "occurred_at": at,
                "detail": detail,
            }
        )
        for parcel in shipment.parcels
        if parcel.tracking
    ]


class Sent(Model):
    """A message or webhook on its way to the system; its id comes from its content, so repeating it is harmless."""

    id: str
    type: str
    data: Json[dict[str, object]]


def send(db: sqlite3.Connection, message: PartnerMessage, key: str, copies: int = 1) -> Sent:
    """Publish on `warehouse.events`."""
    kind, data = TYPES[type(message)], message.model_dump_json()
    message_id = str(uuid5(NAMESPACE_URL, f"{kind}|{data}"))
    tell(db, message_id, kind, key, message.occurred_at.isoformat(), data, copies)
    return Sent.model_validate({"id": message_id, "type": kind, "data": data})


def post(db: sqlite3.Connection, receiver: Receiver, tracking: str, scan: Input, copies: int = 1) -> Sent:
    """Post to a carrier webhook; the scans of a tracking number go in their order."""
    data = scan.model_dump_json()
    notice_id = str(uuid5(NAMESPACE_URL, f"{receiver}|{data}"))
    enqueue(db, receiver, tracking, notice_id, data, copies=copies)
    return Sent.model_validate({"id": notice_id, "type": "carrier scan", "data": data})


class Report(Input):
    """`copies` above 1 delivers the same message several times."""

    occurred_at: OccurredAt
    copies: int = Field(default=1, ge=1, le=5, strict=True)


class GoodsReceived(Report):
    """Name the receipt to make a repeat harmless."""

    sku: Id
    location: Id
    quantity: Quantity
    receipt_id: Id | None = None


class GoodsExpected(Report):
    sku: Id
    location: Id
    incoming: Annotated[int, Field(ge=0, le=1_000_000, strict=True)]
    eta: AwareDatetime | None = None


class Pack(Report):
    """No parcels named: everything is in one."""

    parcels: Annotated[tuple[WarehouseParcel, ...], Field(max_length=100)] = ()


class HandOver(Report):
    carrier: Id = CARRIER


class ShortPick(Report):
    lines: Lines


class Scan(Report):
    """No parcel named: all of them."""

    code: ScanCode
    parcel_id: Id | None = None
    detail: Text = ""


class ReturnReceipt(Report):
    """Name the receipt to make a repeat harmless."""

    order_id: Id
    location: Id
    lines: Annotated[tuple[ReturnedUnits, ...], Field(max_length=500)]
    unexpected: Annotated[tuple[WarehouseUnexpectedItem, ...], Field(max_length=100)] = ()
    receipt_id: Id | None = None


class Inspection(Report):
    """Name the inspection to make a repeat harmless."""

    order_id: Id
    location: Id
    lines: Annotated[tuple[InspectedUnits, ...], Field(min_length=1, max_length=500)]
    inspection_id: Id | None = None


class ReturnParcelScan(Report):
    order_id: Id
    tracking: Id


routes = APIRouter(prefix="/warehouse", tags=["warehouse and carrier"])
Reference = Annotated[Id, Path()]


@dataclass(frozen=True, slots=True)
class Dock:
    """Where calls about a shipment wait for what the system has yet to tell of it."""

    ledger: AtLedger
    settings: Chosen

    async def shipment_when(self, shipment_id: str, is_ready: Callable[[Shipment], bool], wanted: str) -> Shipment:
        """Raises UnknownSubject and NotAllowed when it was not told in time."""

        def ready(db: sqlite3.Connection) -> Shipment | None:
            shipment = find_shipment(db, shipment_id)
            return shipment if shipment and is_ready(shipment) else None

        shipment = await self.ledger.wait_for(ready, self.settings.sandbox_patience_seconds)
        if shipment:
            return shipment
        known = await self.ledger.run(lambda db: find_shipment(db, shipment_id))
        if known is None:
            raise UnknownSubject(f"the warehouse has not heard of shipment {shipment_id!r}")
        raise NotAllowed(known.status, wanted, detail=f"the system has not said yet what is needed to {wanted}")

    async def send(self, message: PartnerMessage, key: str, copies: int) -> Sent:
        return await self.ledger.run(lambda db: send(db, message, key, copies))


AtDock = Annotated[Dock, Depends()]


@routes.get("/shipments")
async def shipments(order_id: Annotated[Id, Query()], ledger: AtLedger) -> list[Shipment]:
    """What the warehouse has heard of."""
    return await ledger.run(
        lambda db: [Shipment.model_validate(dict(row)) for row in db.execute(OF_ORDER, (order_id,))]
    )


@routes.post("/goods-received", status_code=202)
async def goods_received(body: GoodsReceived, dock: AtDock) -> Sent:
    message = WarehouseGoodsReceived(
        receipt_id=body.receipt_id or new_id("rcpt"),
        sku=body.sku,
        location=body.location,
        quantity=body.quantity,
        occurred_at=business_time(body.occurred_at),
    )
    return await dock.send(message, shelf_key(body.sku, body.location), body.copies)


@routes.post("/goods-expected", status_code=202)
async def goods_expected(body: GoodsExpected, dock: AtDock) -> Sent:
    """What is incoming in all, and when."""
    message = WarehouseGoodsExpected(
        sku=body.sku,
        location=body.location,
        incoming=body.incoming,
        eta=body.eta,
        occurred_at=business_time(body.occurred_at),
    )
    return await dock.send(message, shelf_key(body.sku, body.location), body.copies)


@routes.post("/shipments/{shipment_id}/pack", status_code=202)
async def pack(shipment_id: Reference, body: Pack, dock: AtDock) -> Sent:
    shipment = await dock.shipment_when(shipment_id, lambda _: True, "pack")
    message = packed(shipment, body.parcels, business_time(body.occurred_at))
    return await dock.send(message, shipment.order_id, body.copies)


@routes.post("/shipments/{shipment_id}/hand-over", status_code=202)
async def hand_over(shipment_id: Reference, body: HandOver, dock: AtDock) -> Sent:
    """Waits a moment for fulfillment to say which parcels there are."""
    shipment = await dock.shipment_when(shipment_id, lambda s: bool(s.parcels), "hand over")
    message = handed_over(shipment, body.carrier, business_time(body.occurred_at))
    return await dock.send(message, shipment.order_id, body.copies)


@routes.post("/shipments/{shipment_id}/relabel", status_code=202)
async def relabel(shipment_id: Reference, body: Report, dock: AtDock) -> Sent:
    """Put a label of the address that was asked for last on its parcels."""
    shipment = await dock.shipment_when(shipment_id, lambda _: True, "relabel")
    message = relabelled(shipment, business_time(body.occurred_at))
    return await dock.send(message, shipment.order_id, body.copies)


@routes.post("/shipments/{shipment_id}/short-pick", status_code=202)
async def short_pick(shipment_id: Reference, body: ShortPick, dock: AtDock) -> Sent:
    shipment = await dock.shipment_when(shipment_id, lambda _: True, "short pick")
    message = WarehouseShortPicked(
        order_id=shipment.order_id,
        shipment_id=shipment_id,
        lines=body.lines,
        occurred_at=business_time(body.occurred_at),
    )
    return await dock.send(message, shipment.order_id, body.copies)


@routes.post("/shipments/{shipment_id}/scan", status_code=202)
async def scan(shipment_id: Reference, body: Scan, dock: AtDock) -> list[Sent]:
    """One scan for each parcel. Waits a moment for fulfillment to say that the parcels were handed over."""

    def with_tracking(shipment: Shipment) -> Shipment:
        wanted = tuple(p for p in shipment.parcels if p.tracking and body.parcel_id in (None, p.parcel_id))
        return shipment.model_copy(update={"parcels": wanted})

    shipment = await dock.shipment_when(shipment_id, lambda s: bool(with_tracking(s).parcels), "scan")
    found = scans(with_tracking(shipment), body.code, business_time(body.occurred_at), body.detail)
    return await dock.ledger.run(
        lambda db: [post(db, Receiver.FULFILLMENT, one.tracking, one, body.copies) for one in found]
    )


@routes.post("/returns/{return_id}/receive", status_code=202)
async def receive(return_id: Reference, body: ReturnReceipt, dock: AtDock) -> Sent:
    message = WarehouseParcelReceived(
        order_id=body.order_id,
        return_id=return_id,
        location=body.location,
        receipt_id=body.receipt_id or new_id("rcpt"),
        lines=body.lines,
        unexpected=body.unexpected,
        occurred_at=business_time(body.occurred_at),
    )
    return await dock.send(message, body.order_id, body.copies)


@routes.post("/returns/{return_id}/inspect", status_code=202)
async def inspect(return_id: Reference, body: Inspection, dock: AtDock) -> Sent:
    message = WarehouseItemsInspected(
        order_id=body.order_id,
        return_id=return_id,
        location=body.location,
        inspection_id=body.inspection_id or new_id("insp"),
        lines=body.lines,
        occurred_at=business_time(body.occurred_at),
    )
    return await dock.send(message, body.order_id, body.copies)


@routes.post("/returns/{return_id}/scan", status_code=202)
async def scan_return(return_id: Reference, body: ReturnParcelScan, dock: AtDock) -> Sent:
    """The customer's parcel is on its way back."""
    one = ReturnScan(
        order_id=body.order_id,
        return_id=return_id,
        tracking=body.tracking,
        occurred_at=business_time(body.occurred_at),
    )
    return await dock.ledger.run(lambda db: post(db, Receiver.RETURNS, body.tracking, one, body.copies))
