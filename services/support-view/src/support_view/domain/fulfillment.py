"""The goods as fulfillment tells them: shipments and what became of each, backorders with every slip of their date."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

from shared.contracts import Fact
from shared.contracts.base import Bucket, LineQuantity
from shared.contracts.fulfillment import (
    BackorderCancelled,
    BackorderConsentRequested,
    BackorderConsentSettled,
    BackorderCreated,
    BackorderEtaRevised,
    BackorderFact,
    BackorderFilled,
    BackorderSubstituteRefused,
    FulfillmentCancellationRefused,
    FulfillmentClaimRecorded,
    FulfillmentDiscrepancyRecorded,
    FulfillmentFundingChanged,
    FulfillmentHoldsChanged,
    FulfillmentLinesCancelled,
    FulfillmentLinesShortShipped,
    FulfillmentOpened,
    FulfillmentPlanned,
    FulfillmentReplanned,
    FulfillmentWithdrawn,
    Parcel,
    ReplacementCreated,
    ScanFact,
    ShipmentCancelled,
    ShipmentCreated,
    ShipmentDelayed,
    ShipmentDelivered,
    ShipmentDeliveryAttempted,
    ShipmentFact,
    ShipmentFound,
    ShipmentHeld,
    ShipmentLinesRemoved,
    ShipmentLost,
    ShipmentPacked,
    ShipmentRecalled,
    ShipmentRecallRequested,
    ShipmentRelabelled,
    ShipmentRelabelRequested,
    ShipmentReleased,
    ShipmentRepacked,
    ShipmentReturnedToSender,
    ShipmentReturnStarted,
    ShipmentShipped,
    ShipmentTrackingUpdated,
    StockAllocated,
    StockCounted,
    StockDiscrepancyRecorded,
    StockExpected,
    StockFact,
    StockQuarantined,
    StockReceived,
    StockReleased,
    StockRestocked,
    StockScrapped,
    StockShipped,
    StockWithdrawn,
    SubstitutedUnits,
)
from shared.contracts.orders import BackorderChoice
from shared.core.machine import replace
from support_view.domain.discrepancies import Discrepancies, Discrepancy
from support_view.domain.signals import Signal
from support_view.domain.timeline import Details, Entry, Quiet, Sentences, Words, add, day, plain, plural, put


class ShipmentStatus(StrEnum):
    CREATED = "created"
    PACKED = "packed"
    HELD = "held"
    SHIPPED = "shipped"
    IN_TRANSIT = "in_transit"
    OUT_FOR_DELIVERY = "out_for_delivery"
    EXCEPTION = "exception"
    DELIVERED = "delivered"
    LOST = "lost"
    RETURNING_TO_SENDER = "returning_to_sender"
    RETURNED_TO_SENDER = "returned_to_sender"
    CANCELLED = "cancelled"


class BackorderStatus(StrEnum):
    OPEN = "open"
    PARTIALLY_FILLED = "partially_filled"
    FILLED = "filled"
    CANCELLED = "cancelled"


ATTENTION: Final = (
    ShipmentStatus.EXCEPTION,
    ShipmentStatus.LOST,
    ShipmentStatus.RETURNING_TO_SENDER,
    ShipmentStatus.SHIPPED,
    ShipmentStatus.IN_TRANSIT,
    ShipmentStatus.OUT_FOR_DELIVERY,
    ShipmentStatus.RETURNED_TO_SENDER,
    ShipmentStatus.DELIVERED,
)
"""Of parcels that stand differently, the first of these is where their shipment stands."""


@dataclass(frozen=True, slots=True)
class Box:
    """A parcel: what is in it, how to follow it, and once it was handed over, where it stands."""

    parcel_id: str
    lines: Mapping[str, int]
    carrier: str | None
    tracking: str | None
    status: ShipmentStatus = ShipmentStatus.SHIPPED
    trouble: str = ""
    """What is in the way while the status is EXCEPTION, in words."""


@dataclass(frozen=True, slots=True)
class Shipment:
    status: ShipmentStatus = ShipmentStatus.CREATED
    is_packed: bool = False
    location: str = ""
    lines: Mapping[str, int] = field(default_factory=dict)
    substituted: tuple[SubstitutedUnits, ...] = ()
    """Those of its units that are another article than the one ordered."""
    number: int = 0
    of: int = 0
    replaces: str | None = None
    holds: tuple[str, ...] = ()
    carrier: str | None = None
    boxes: tuple[Box, ...] = ()
    is_recalled: bool = False
    created_at: datetime | None = None
    shipped_at: datetime | None = None
    delivered_at: datetime | None = None
    moved_at: datetime | None = None
    """When the carrier last said something."""
    troubled_at: datetime | None = None
    """Since when something is in the way."""
    since: datetime | None = None
    """When it came to its status."""
    sent_again: Mapping[str, int] = field(default_factory=dict)
    """By line, units of it that were lost or came back, and are owed anew by another shipment."""

    @property
    def is_live(self) -> bool:
        return self.status != ShipmentStatus.CANCELLED

    @property
    def trouble(self) -> str:
        """What is in the way, in words."""
        return next((box.trouble for box in self.boxes if box.trouble), "")

    def astray(self, line_id: str, status: ShipmentStatus) -> int:
        """Units of a line in parcels that stand so, and that were not sent again."""
        units = sum(box.lines.get(line_id, 0) for box in self.boxes if box.status is status)
        if not self.boxes and self.status is status:
            units = self.lines.get(line_id, 0)
        return max(0, units - self.sent_again.get(line_id, 0))


@dataclass(frozen=True, slots=True)
class Slip:
    """A change of a backorder's date."""

    at: datetime
    previous: datetime | None
    eta: datetime | None


@dataclass(frozen=True, slots=True)
class Backorder:
    line_id: str
    sku: str
    quantity: int
    remaining: int
    eta: datetime | None
    status: BackorderStatus = BackorderStatus.OPEN
    slips: tuple[Slip, ...] = ()
    consent_asked_at: datetime | None = None
    consent_due_at: datetime | None = None
    options: tuple[str, ...] = ()
    since: datetime | None = None
    """When it was created."""
    substituted: tuple[SubstitutedUnits, ...] = ()
    """Its units, where they are another article than the one ordered."""

    @property
    def is_open(self) -> bool:
        return self.status in (BackorderStatus.OPEN, BackorderStatus.PARTIALLY_FILLED)


@dataclass(frozen=True, slots=True)
class Fulfillment:
    units: Mapping[str, Mapping[Bucket, int]] = field(default_factory=dict)
    """By line: where the units are that are owed, those that replacements ordered on top among them."""
    shipments: Mapping[str, Shipment] = field(default_factory=dict)
    backorders: Mapping[str, Backorder] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()
    """Why the units are split as they are, by the last plan."""
    skus: Mapping[str, str] = field(default_factory=dict)
    """By line."""
    signs: tuple[Signal, ...] = ()
    discrepancies: Discrepancies = field(default_factory=dict)


def fold(fulfillment: Fulfillment, entry: Entry) -> Fulfillment:
    """Total: any fact of the service, in any state, leads somewhere."""
    fact = entry.fact
    if units := _moved(fulfillment, fact):
        fulfillment = replace(fulfillment, units=units)
    match fact:
        case FulfillmentOpened(lines=lines):
            return replace(fulfillment, skus={line.line_id: line.sku for line in lines})
        case FulfillmentPlanned(reasons=reasons) | FulfillmentReplanned(reasons=reasons):
            return replace(fulfillment, reasons=reasons)
        case FulfillmentDiscrepancyRecorded(
            discrepancy_id=id, shipment_id=shipment_id, contradicts=code, detail=detail
        ):
            about = f"shipment-{shipment_id}" if shipment_id in fulfillment.shipments else "shipments"
            found = Discrepancy(entry.occurred_at, code, detail, about)
            return replace(fulfillment, discrepancies=put(fulfillment.discrepancies, id, found))
        case ShipmentFact():
            before = fulfillment.shipments.get(fact.shipment_id)
            shipment = _move(before or Shipment(), fact, entry.occurred_at)
            if before is None or shipment.status is not before.status:
                shipment = replace(shipment, since=entry.occurred_at)
            return replace(fulfillment, shipments=put(fulfillment.shipments, fact.shipment_id, shipment))
        case ReplacementCreated(shipment_id=id, moved=moved) if id is not None and id in fulfillment.shipments:
            before = fulfillment.shipments[id]
            after = replace(before, sent_again=add(before.sent_again, moved))
            return replace(fulfillment, shipments=put(fulfillment.shipments, id, after))
        case BackorderFact():
            backorder = _wait(fulfillment.backorders.get(fact.backorder_id), fact, entry.occurred_at)
            return replace(fulfillment, backorders=put(fulfillment.backorders, fact.backorder_id, backorder))
        case (
            FulfillmentWithdrawn()
            | FulfillmentLinesCancelled()
            | FulfillmentLinesShortShipped()
            | ReplacementCreated()
            | FulfillmentFundingChanged()
            | FulfillmentHoldsChanged()
            | FulfillmentCancellationRefused()
            | FulfillmentClaimRecorded()
            | StockFact()
        ):
            return fulfillment  # told on the timeline; units, shipments and backorders carry what follows from it
        case _:
            raise TypeError(f"{fact.type} is no fact of an order's fulfillment")


Moves = Iterable[tuple[str, int, Bucket | None, Bucket]]
"""Line, quantity, from where (None: owed on top), to where."""


def _moved(fulfillment: Fulfillment, fact: Fact) -> Mapping[str, Mapping[Bucket, int]] | None:
    """Where the units are after a fact that moves some; None where it moves none."""
    changed: dict[str, dict[Bucket, int]] = {}
    for line_id, quantity, source, target in _moves(fact):
        units = changed.setdefault(line_id, dict(fulfillment.units.get(line_id, {})))
        if source is not None:
            units[source] = units.get(source, 0) - quantity
        units[target] = units.get(target, 0) + quantity
    return {**fulfillment.units, **changed} if changed else None


def _all(lines: Iterable[LineQuantity], source: Bucket | None, target: Bucket) -> Moves:
    return ((line.line_id, line.quantity, source, target) for line in lines)


def _moves(fact: Fact) -> Moves:
    match fact:
        case FulfillmentOpened(lines=opened):
            return ((line.line_id, line.quantity, None, Bucket.UNALLOCATED) for line in opened)
        case FulfillmentWithdrawn(lines=lines):
            return _all(lines, Bucket.UNALLOCATED, Bucket.CANCELLED)
        case FulfillmentLinesCancelled(lines=cancelled):
            return ((line.line_id, line.quantity, line.was, Bucket.CANCELLED) for line in cancelled)
        case FulfillmentLinesShortShipped(lines=lines, was=was):
            return _all(lines, was, Bucket.UNALLOCATED)
        case StockAllocated(line_id=line_id, quantity=quantity):
            return [(line_id, quantity, Bucket.UNALLOCATED, Bucket.ALLOCATED)]
        case ShipmentPacked(parcels=parcels):
            return _all((line for parcel in parcels for line in parcel.lines), Bucket.ALLOCATED, Bucket.PACKED)
        case ShipmentShipped(lines=lines):
            return _all(lines, Bucket.PACKED, Bucket.IN_TRANSIT)
        case ShipmentDelivered(lines=lines):
            return _all(lines, Bucket.IN_TRANSIT, Bucket.DELIVERED)
        case ShipmentTrackingUpdated(lines=lines):
            return _all(lines, Bucket.DELIVERED, Bucket.IN_TRANSIT)
        case ShipmentLost(lines=lines):
            return _all(lines, Bucket.IN_TRANSIT, Bucket.LOST)
        case ShipmentFound(lines=lines):
            return _all(lines, Bucket.LOST, Bucket.IN_TRANSIT)
        case ShipmentReturnedToSender(lines=lines):
            return _all(lines, Bucket.IN_TRANSIT, Bucket.RETURNED_TO_SENDER)
        case BackorderCreated(line_id=line_id, quantity=quantity):
            return [(line_id, quantity, Bucket.UNALLOCATED, Bucket.BACKORDERED)]
        case BackorderFilled(line_id=line_id, quantity=quantity):
            return [(line_id, quantity, Bucket.BACKORDERED, Bucket.UNALLOCATED)]
        case BackorderConsentSettled(line_id=line_id, quantity=quantity, choice=BackorderChoice.SUBSTITUTE):
            return [(line_id, quantity, Bucket.BACKORDERED, Bucket.UNALLOCATED)]
        case ReplacementCreated():
            return _owed_again(fact)
        case _:
            return ()


def _owed_again(fact: ReplacementCreated) -> Moves:
    """What never arrived leaves its bucket; the rest is owed on top."""
    on_top = add({}, fact.lines)
    for units in fact.moved:
        on_top[units.line_id] = on_top.get(units.line_id, 0) - units.quantity
        yield units.line_id, units.quantity, units.was, Bucket.UNALLOCATED
    for line_id, quantity in on_top.items():
        if quantity > 0:
            yield line_id, quantity, None, Bucket.UNALLOCATED


def _quantities(lines: Iterable[LineQuantity]) -> dict[str, int]:
    return add({}, lines)


def _boxes(parcels: Iterable[Parcel]) -> tuple[Box, ...]:
    return tuple(Box(p.parcel_id, _quantities(p.lines), p.carrier, p.tracking) for p in parcels)


_SCANS: Final = {
    "in_transit": (ShipmentStatus.IN_TRANSIT, ""),
    "out_for_delivery": (ShipmentStatus.OUT_FOR_DELIVERY, ""),
    "address": (ShipmentStatus.EXCEPTION, "the address is a problem"),
    "customs": (ShipmentStatus.EXCEPTION, "customs have it"),
    "damaged": (ShipmentStatus.EXCEPTION, "it was damaged on the way"),
    "not_received": (ShipmentStatus.EXCEPTION, "the customer says it was not received"),
}


def _move(shipment: Shipment, fact: ShipmentFact, at: datetime) -> Shipment:
    match fact:
        case ScanFact():
            return _scanned(shipment, fact, at)
        case ShipmentCreated():
            return replace(
                shipment,
                status=ShipmentStatus.CREATED,
                location=fact.location,
                lines=_quantities(fact.lines),
                substituted=fact.substituted,
                number=fact.number,
                of=fact.of,
                replaces=fact.replaces_shipment_id,
                created_at=at,
            )
        case ShipmentPacked(parcels=parcels):
            # A hold blocks the hand-over, not the packing.
            status = ShipmentStatus.HELD if shipment.status == ShipmentStatus.HELD else ShipmentStatus.PACKED
            return replace(shipment, status=status, is_packed=True, boxes=_boxes(parcels))
        case ShipmentRepacked(parcels=parcels):
            return replace(shipment, boxes=_boxes(parcels))
        case ShipmentRelabelled(parcel=Parcel() as parcel, replaces=replaces):
            return _relabelled(shipment, parcel, replaces, at)
        case ShipmentRelabelRequested() | ShipmentRelabelled():
            return shipment  # held and released by facts of their own
        case ShipmentHeld(holds=holds):
            return replace(shipment, status=ShipmentStatus.HELD, holds=tuple(hold.value for hold in holds))
        case ShipmentReleased(packed=packed):
            status = ShipmentStatus.PACKED if packed else ShipmentStatus.CREATED
            return replace(shipment, status=status, is_packed=packed, holds=())
        case ShipmentShipped():
            return replace(
                shipment,
                status=ShipmentStatus.SHIPPED,
                is_packed=True,
                holds=(),
                carrier=fact.carrier,
                boxes=_boxes(fact.parcels),
                lines=_quantities(fact.lines),
                substituted=fact.substituted,
                number=fact.number,
                of=fact.of,
                shipped_at=at,
            )
        case ShipmentCancelled():
            return replace(shipment, status=ShipmentStatus.CANCELLED, holds=())
        case ShipmentLinesRemoved(lines=lines):
            gone = _quantities(lines)
            left = {line: quantity - gone.get(line, 0) for line, quantity in shipment.lines.items()}
            return replace(shipment, lines={line: quantity for line, quantity in left.items() if quantity > 0})
        case ShipmentRecallRequested(carrier=None):
            return replace(shipment, is_recalled=True)
        case ShipmentRecallRequested():
            return replace(shipment, is_recalled=True, carrier=fact.carrier, boxes=_boxes(fact.parcels))
        case _:
            raise TypeError(f"{fact.type} is no fact of a shipment")


def _standing(fact: ScanFact) -> tuple[ShipmentStatus, str] | None:
    """Where a scan puts its parcel, and what is in its way; None where it puts it nowhere else."""
    match fact:
        case ShipmentTrackingUpdated(moved=False) | ShipmentTrackingUpdated(code="info"):
            return None
        case ShipmentTrackingUpdated(code=code, detail=detail):
            status, trouble = _SCANS[code]
            return status, (detail or trouble) if trouble else ""
        case ShipmentDelayed(detail=detail):
            return ShipmentStatus.EXCEPTION, detail or "it is delayed"
        case ShipmentDeliveryAttempted(detail=detail):
            return ShipmentStatus.EXCEPTION, detail or "nobody could take it"
        case ShipmentDelivered():
            return ShipmentStatus.DELIVERED, ""
        case ShipmentLost():
            return ShipmentStatus.LOST, ""
        case ShipmentFound():
            return ShipmentStatus.IN_TRANSIT, ""
        case ShipmentReturnStarted() | ShipmentRecalled():
            return ShipmentStatus.RETURNING_TO_SENDER, ""
        case ShipmentReturnedToSender():
            return ShipmentStatus.RETURNED_TO_SENDER, ""
        case _:
            raise TypeError(f"{fact.type} is no fact of a scan")


def _scanned(shipment: Shipment, fact: ScanFact, at: datetime) -> Shipment:
    """A scan moves its own parcel; one that names none moves them all."""
    shipment = replace(shipment, moved_at=_later(shipment.moved_at, at))
    if shipment.status == ShipmentStatus.CANCELLED and fact.scan and fact.scan.code == "returned":
        return replace(shipment, is_recalled=False)
    if (standing := _standing(fact)) is None:
        return shipment
    status, trouble = standing
    tracking = fact.scan.tracking if fact.scan else None
    boxes = tuple(
        replace(box, status=status, trouble=trouble) if tracking in (None, box.tracking) else box
        for box in shipment.boxes
    )
    return _standing_as(shipment, boxes, at, status)


def _relabelled(shipment: Shipment, parcel: Parcel, replaces: str | None, at: datetime) -> Shipment:
    """What is followed by another number has not been scanned under it yet."""
    new = Box(parcel.parcel_id, {}, parcel.carrier, parcel.tracking)
    boxes = tuple(
        replace(new, parcel_id=box.parcel_id, lines=box.lines) if box.tracking == replaces else box
        for box in shipment.boxes
    )
    shipment = replace(shipment, carrier=parcel.carrier, boxes=boxes)
    return _standing_as(shipment, boxes, at, shipment.status) if shipment.status in ATTENTION else shipment


def _standing_as(shipment: Shipment, boxes: tuple[Box, ...], at: datetime, status: ShipmentStatus) -> Shipment:
    """Where its boxes are; at `status` where it has none."""
    whole = min((box.status for box in boxes), key=ATTENTION.index, default=status)
    is_done = whole == ShipmentStatus.DELIVERED
    troubled_at = (shipment.troubled_at or at) if whole == ShipmentStatus.EXCEPTION else None
    delivered_at = at if is_done else None
    return replace(shipment, boxes=boxes, status=whole, delivered_at=delivered_at, troubled_at=troubled_at)


def _later(known: datetime | None, at: datetime) -> datetime:
    return at if known is None or at > known else known


def _wait(backorder: Backorder | None, fact: BackorderFact, at: datetime) -> Backorder:
    if backorder is None:
        backorder = Backorder(fact.line_id, fact.sku, 0, 0, None)
    match fact:
        case BackorderCreated(quantity=quantity, eta=eta) as fact:
            substituted = _substitute(fact)
            return replace(backorder, quantity=quantity, remaining=quantity, eta=eta, since=at, substituted=substituted)
        case BackorderEtaRevised(previous_eta=previous, eta=eta):
            return replace(backorder, eta=eta, slips=(*backorder.slips, Slip(at, previous, eta)))
        case BackorderConsentRequested(due_at=due, options=options):
            return replace(backorder, consent_asked_at=at, consent_due_at=due, options=options)
        case BackorderSubstituteRefused():
            return backorder
        case BackorderConsentSettled():
            return replace(backorder, consent_asked_at=None, consent_due_at=None, options=())
        case BackorderFilled(remaining=remaining):
            status = BackorderStatus.PARTIALLY_FILLED if remaining else BackorderStatus.FILLED
            return replace(backorder, remaining=remaining, status=status)
        case BackorderCancelled(remaining=remaining):
            status = backorder.status if remaining else BackorderStatus.CANCELLED
            return replace(backorder, remaining=remaining, status=status)
        case _:
            raise TypeError(f"{fact.type} is no fact of a backorder")


def _named(fact: ShipmentFact, w: Words) -> str:
    name = w.shipment(fact.shipment_id)
    return name[0].upper() + name[1:]


def _article(fact: StockAllocated | BackorderCreated, w: Words) -> str:
    """What a fact that has the title of a substitute is about, by both names."""
    return w.listed(w.articles({fact.line_id: fact.quantity}, _substitute(fact)))


def _substitute(fact: StockAllocated | BackorderCreated) -> tuple[SubstitutedUnits, ...]:
    if fact.title is None:
        return ()
    return (SubstitutedUnits(line_id=fact.line_id, quantity=fact.quantity, sku=fact.sku, title=fact.title),)


def _noted(fact: ShipmentFact, w: Words, what: str, detail: str) -> str:
    return f"{_named(fact, w)} {what}" + (f": {detail}" if detail else "")


_SCAN_WORDS: Final = {
    "in_transit": "is in transit",
    "out_for_delivery": "is out for delivery",
    "address": "is stopped by its address",
    "customs": "is with customs",
    "damaged": "was damaged on the way",
    "not_received": "was not received, says the customer",
    "info": "was scanned",
}

SENTENCES: Final[Sentences] = {
    FulfillmentOpened: lambda f, w: f"Fulfillment took note of the order: {w.units(f.lines)} to plan once confirmed",
    FulfillmentWithdrawn: lambda f, w: f"Nothing to plan: {w.units(f.lines)} withdrawn with the order",
    FulfillmentFundingChanged: lambda f, w: (
        f"Packed and handed over until {day(f.funded_until)} at most, when its payment runs out"
        if f.funded_until
        else "What has not left is paid for, and nothing of it runs out"
    ),
    FulfillmentHoldsChanged: lambda f, w: (
        f"Hand-over blocked: {w.listed(plain(hold) for hold in f.holds)}" if f.holds else "Nothing blocks the hand-over"
    ),
    FulfillmentPlanned: lambda f, w: f"Planned: {_plan(f)}",
    FulfillmentReplanned: lambda f, w: f"Planned again: {_plan(f)}",
    FulfillmentLinesCancelled: lambda f, w: f"Warehouse let go: {w.units(f.lines)}",
    FulfillmentCancellationRefused: lambda f, w: f"Too late to cancel: {w.units(f.lines)}, {plain(f.reason_code)}",
    FulfillmentLinesShortShipped: lambda f, w: (
        f"Not in {w.shipment(f.shipment_id)}, says the warehouse: {w.units(f.lines)}; they are planned again"
    ),
    FulfillmentDiscrepancyRecorded: lambda f, w: (
        f"Not as planned{f', {w.shipment(f.shipment_id)}' if f.shipment_id else ''}: {f.detail}"
    ),
    FulfillmentClaimRecorded: lambda f, w: (
        f"Left to the claim {f.claim_id}: {w.units(f.lines)}" if f.lines else f"The claim {f.claim_id} settles nothing"
    ),
    StockAllocated: lambda f, w: f"{_article(f, w)} set aside in {f.location}",
    StockReleased: lambda f, w: (
        f"{w.some(f.quantity, f.line_id)} no longer set aside in {f.location}"
        + ("" if f.on_hand else ", and not on the shelf either")
    ),
    StockShipped: lambda f, w: f"{w.some(f.quantity, f.line_id)} left {f.location}",
    StockRestocked: lambda f, w: f"{w.some(f.quantity, f.line_id)} back on the shelf in {f.location}",
    StockQuarantined: lambda f, w: f"{w.some(f.quantity, f.line_id)} put in quarantine in {f.location}",
    StockWithdrawn: lambda f, w: f"{w.some(f.quantity, f.line_id)} not sellable after all in {f.location}",
    StockScrapped: lambda f, w: f"{w.some(f.quantity, f.line_id)} scrapped in {f.location}",
    StockReceived: lambda f, w: f"{f.quantity} × {f.sku} received in {f.location}",
    StockCounted: lambda f, w: (
        f"{f.counted} × {f.sku} counted in {f.location}, where the books had {f.before}: {f.detail}"
        + (f"; {f.missing} that orders are to get are missing" if f.missing else "")
    ),
    StockDiscrepancyRecorded: lambda f, w: (
        f"The warehouse contradicts itself on {f.sku} in {f.location}: {f.detail}; a count of the shelf is needed"
    ),
    StockExpected: lambda f, w: f"{f.incoming} × {f.sku} expected in {f.location}, {_by(f.eta)}",
    BackorderCreated: lambda f, w: f"Backordered: {_article(f, w)}, {_by(f.eta)}",
    BackorderEtaRevised: lambda f, w: (
        f"Backorder date moved from {day(f.previous_eta)} to {day(f.eta)}: {w.some(f.quantity, f.line_id)}"
    ),
    BackorderConsentRequested: lambda f, w: (
        f"Customer asked about the later date of {w.some(f.quantity, f.line_id)}; an answer is due by {day(f.due_at)}"
    ),
    BackorderConsentSettled: lambda f, w: (
        f"{'No answer, so policy decides' if f.silent else 'Customer decided'} on "
        f"{w.some(f.quantity, f.line_id)}: {plain(f.choice)}"
    ),
    BackorderSubstituteRefused: lambda f, w: (
        f"No substitute for {w.some(f.quantity, f.line_id)}: {f.substitute_sku} is not an article that is known here; "
        "another choice is needed"
    ),
    BackorderFilled: lambda f, w: (
        f"Backorder filled: {w.some(f.quantity, f.line_id)} into {w.shipment(f.shipment_id)}"
        + (f"; {f.remaining} still to come" if f.remaining else "")
    ),
    BackorderCancelled: lambda f, w: f"Backorder cancelled: {w.some(f.quantity, f.line_id)}",
    ShipmentCreated: lambda f, w: (
        f"Shipment {f.number} of {f.of} planned in {f.location}: {w.units(f.lines, f.substituted)}"
    ),
    ShipmentPacked: lambda f, w: f"{_named(f, w)} packed in {plural(len(f.parcels), 'parcel')}",
    ShipmentRepacked: lambda f, w: f"{_named(f, w)} packed again in {plural(len(f.parcels), 'parcel')}",
    ShipmentRelabelRequested: lambda f, w: (
        f"{_named(f, w)} needs a label of its new address: {f.ship_to.city}, {f.ship_to.country}"
    ),
    ShipmentRelabelled: lambda f, w: (
        f"{_named(f, w)} is followed by {f.parcel.carrier} {f.parcel.tracking}, no longer by {f.replaces}"
        if f.parcel
        else f"{_named(f, w)} has a label of its new address"
    ),
    ShipmentHeld: lambda f, w: f"{_named(f, w)} held: {w.listed(plain(hold) for hold in f.holds)}",
    ShipmentReleased: lambda f, w: f"{_named(f, w)} released",
    ShipmentShipped: lambda f, w: (
        f"Shipment {f.number} of {f.of} handed to {f.carrier}: {w.units(f.lines, f.substituted)}"
    ),
    ShipmentTrackingUpdated: lambda f, w: _noted(f, w, _SCAN_WORDS[f.code], f.detail),
    ShipmentDelayed: lambda f, w: _noted(f, w, "is delayed", f.detail),
    ShipmentDeliveryAttempted: lambda f, w: _noted(f, w, "could not be delivered at first try", f.detail),
    ShipmentDelivered: lambda f, w: (
        f"{_named(f, w)} delivered: {w.units(f.lines or f.replaced, f.substituted)}"
        + (f"; others had been sent for {w.units(f.replaced)}" if f.replaced else "")
    ),
    ShipmentLost: lambda f, w: f"{_named(f, w)} lost by the carrier: {w.units(f.lines, f.substituted)}",
    ShipmentFound: lambda f, w: (
        f"{_named(f, w)} found and on its way again"
        + ("; it had been refunded or replaced, so it is reviewed" if f.review else "")
        + (f"; others were sent for {w.units(f.replaced)}" if f.replaced else "")
    ),
    ShipmentReturnStarted: lambda f, w: _noted(f, w, "is coming back to us", f.detail),
    ShipmentReturnedToSender: lambda f, w: f"{_named(f, w)} is back with us: {w.units(f.lines, f.substituted)}",
    ShipmentCancelled: lambda f, w: _noted(f, w, "cancelled", f.detail),
    ShipmentLinesRemoved: lambda f, w: f"Taken out of {w.shipment(f.shipment_id)}: {w.units(f.lines)}",
    ShipmentRecallRequested: lambda f, w: _noted(f, w, "called back", f.detail),
    ShipmentRecalled: lambda f, w: f"{_named(f, w)} turned round by the carrier",
    ReplacementCreated: lambda f, w: f"To be sent again ({plain(f.reason_code)}): {w.units(f.lines)}",
}

QUIET: Final[Quiet] = frozenset(
    {
        FulfillmentOpened,
        FulfillmentFundingChanged,
        FulfillmentHoldsChanged,
        FulfillmentClaimRecorded,
        StockAllocated,
        StockReleased,
        StockShipped,
    }
)

DETAILS: Final[Details] = {
    FulfillmentPlanned: lambda f, w: f.reasons,
    FulfillmentReplanned: lambda f, w: f.reasons,
    FulfillmentDiscrepancyRecorded: lambda f, w: [w.units(f.lines)] if f.lines else [],
    ShipmentPacked: lambda f, w: [f"parcel {parcel.parcel_id}: {w.units(parcel.lines)}" for parcel in f.parcels],
    ShipmentShipped: lambda f, w: [
        f"parcel {parcel.parcel_id}" + (f", tracking {parcel.tracking}" if parcel.tracking else "")
        for parcel in f.parcels
    ],
    BackorderConsentRequested: lambda f, w: [f"may choose: {w.listed(plain(option) for option in f.options)}"],
}


def _plan(fact: FulfillmentPlanned | FulfillmentReplanned) -> str:
    parts = [plural(len(fact.shipments), "shipment")] if fact.shipments else []
    if fact.backorders:
        parts.append(plural(len(fact.backorders), "backorder"))
    return Words.listed(parts) or "nothing to ship"


def _by(eta: datetime | None) -> str:
    return f"expected {day(eta)}" if eta else "no date known yet"
