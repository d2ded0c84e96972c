"""Shipments and backorders, and what each of them waits for, in words."""

from collections.abc import Iterator
from datetime import datetime

from pydantic import Field

from shared.contracts.base import Bucket, Model
from shared.contracts.fulfillment import SubstitutedUnits
from support_view.domain.fulfillment import Backorder, Shipment, ShipmentStatus
from support_view.domain.obligations import is_unsettled
from support_view.domain.orders import Orders
from support_view.domain.timeline import Words, day, plain
from support_view.summary.sections import Amount, Sections


class ParcelState(Model):
    parcel_id: str
    carrier: str | None
    tracking: str | None
    contents: str
    status: ShipmentStatus | None = Field(description="where it stands by its own scans, once it was handed over")


class ShipmentState(Model):
    shipment_id: str
    title: str = Field(description="n of m")
    status: ShipmentStatus
    location: str
    lines: dict[str, int] = Field(description="units by line id")
    contents: str
    waits_for: str
    holds: tuple[str, ...]
    parcels: tuple[ParcelState, ...]
    captured: Amount | None = Field(description="money taken for it")
    replaces_shipment_id: str | None
    created_at: datetime | None
    shipped_at: datetime | None
    delivered_at: datetime | None


class EtaRevision(Model):
    revised_at: datetime
    previous: datetime | None
    eta: datetime | None


class BackorderState(Model):
    backorder_id: str
    status: str
    contents: str
    remaining: int
    eta: datetime | None
    revisions: tuple[EtaRevision, ...]
    consent_due_at: datetime | None
    choice: str | None
    waits_for: str


def shipments(s: Sections) -> Iterator[ShipmentState]:
    """Live ones first, as they were planned; cancelled ones last."""
    found = s.fulfillment.shipments
    for id in sorted(found, key=lambda id: (not found[id].is_live, found[id].number, id)):
        shipment = found[id]
        captured = s.payments.captured_by_shipment.get(id)
        yield ShipmentState(
            shipment_id=id,
            title=f"Shipment {shipment.number} of {shipment.of}" if shipment.of else f"Shipment {id}",
            status=shipment.status,
            location=shipment.location,
            lines=dict(shipment.lines),
            contents=s.contents(shipment.lines, shipment.substituted),
            waits_for=_awaited(s, shipment),
            holds=shipment.holds,
            parcels=tuple(
                ParcelState(
                    parcel_id=box.parcel_id,
                    carrier=box.carrier or shipment.carrier,
                    tracking=box.tracking,
                    contents=s.contents(box.lines, _alike(shipment)),
                    status=box.status if shipment.shipped_at else None,
                )
                for box in shipment.boxes
            ),
            captured=s.amount(captured) if captured is not None else None,
            replaces_shipment_id=shipment.replaces,
            created_at=shipment.created_at,
            shipped_at=shipment.shipped_at,
            delivered_at=shipment.delivered_at,
        )


def _alike(shipment: Shipment) -> tuple[SubstitutedUnits, ...]:
    """The substitutes of lines that have no other article in the shipment: of the others nobody says in which parcel they
    are."""
    return tuple(other for other in shipment.substituted if other.quantity == shipment.lines.get(other.line_id))


def _awaited(s: Sections, shipment: Shipment) -> str:
    """What has to happen before this shipment moves on, in words; empty when nothing has."""
    match shipment.status:
        case ShipmentStatus.CREATED | ShipmentStatus.PACKED if s.orders.holds:
            return f"the order's hold to be released: {_held(s.orders)}"
        case ShipmentStatus.CREATED:
            return f"the warehouse in {shipment.location} to pack it"
        case ShipmentStatus.PACKED:
            return "the carrier to take it"
        case ShipmentStatus.HELD:
            holds = Words.listed(plain(hold) for hold in shipment.holds) or _held(s.orders)
            return f"its hold to be released: {holds}"
        case ShipmentStatus.SHIPPED if shipment.is_recalled:
            return f"{shipment.carrier or 'the carrier'} to turn it round"
        case ShipmentStatus.SHIPPED:
            return f"its first scan by {shipment.carrier or 'the carrier'}"
        case ShipmentStatus.IN_TRANSIT:
            return f"{shipment.carrier or 'the carrier'} to bring it to the customer's area"
        case ShipmentStatus.OUT_FOR_DELIVERY:
            return "its delivery today"
        case ShipmentStatus.EXCEPTION:
            return f"the carrier to clear what is in the way: {shipment.trouble or 'an exception'}"
        case ShipmentStatus.LOST if is_unsettled(s.states, shipment, Bucket.LOST):
            return "a replacement or a refund"
        case ShipmentStatus.RETURNING_TO_SENDER:
            return "its arrival back at the warehouse"
        case ShipmentStatus.RETURNED_TO_SENDER if is_unsettled(s.states, shipment, Bucket.RETURNED_TO_SENDER):
            return "somebody to send it again or to cancel it"
        case ShipmentStatus.CANCELLED if shipment.is_recalled:
            return f"{shipment.carrier or 'the carrier'} to bring it back: it left although it was cancelled"
        case _:
            return ""


def _held(orders: Orders) -> str:
    return Words.listed(plain(hold) for hold in orders.holds)


def backorders(s: Sections) -> Iterator[BackorderState]:
    for id, backorder in s.fulfillment.backorders.items():
        choice = s.orders.choices.get(id)
        yield BackorderState(
            backorder_id=id,
            status=backorder.status.value,
            contents=s.contents({backorder.line_id: backorder.quantity}, backorder.substituted),
            remaining=backorder.remaining,
            eta=backorder.eta,
            revisions=tuple(
                EtaRevision(revised_at=slip.at, previous=slip.previous, eta=slip.eta) for slip in backorder.slips
            ),
            consent_due_at=backorder.consent_due_at,
            choice=plain(choice) if choice else None,
            waits_for=goods_awaited(backorder) if backorder.is_open else "",
        )


def goods_awaited(backorder: Backorder) -> str:
    goods = f"{backorder.remaining} × {backorder.sku} to arrive"
    if backorder.eta is None:
        return f"{goods}; no date is known"
    times = {0: "", 1: ", moved once", 2: ", moved twice"}
    moved = times.get(len(backorder.slips), f", moved {len(backorder.slips)} times")
    return f"{goods}, expected {day(backorder.eta)}{moved}"
