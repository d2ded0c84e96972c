"""What fulfillment is told about an order, and what it decides: the one place where commands meet the state. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, TypeAlias

from fulfillment.domain import allocation, cancellation, goods, observations
from fulfillment.domain import shipment as shipments_
from fulfillment.domain.ledger import FULFILLMENT, FulfillmentStatus, OrderFulfillment, replaced_on_top
from fulfillment.domain.planning import Need
from fulfillment.domain.quantities import HANDED_OVER
from fulfillment.domain.shipment import BEFORE_HAND_OVER, Shipment, quantities, summed
from fulfillment.domain.stock import Stock
from fulfillment.domain.tracking import ShipmentStatus
from shared.contracts.base import Bucket, Fact, LineQuantity
from shared.contracts.fulfillment import (
    CancelledUnits,
    FulfillmentFundingChanged,
    FulfillmentHoldsChanged,
    FulfillmentOpened,
    FulfillmentPlanned,
    FulfillmentWithdrawn,
    OpenedLine,
    ReplacementCreated,
    Scan,
    ShipmentHeld,
    ShipmentReleased,
)
from shared.contracts.orders import BackorderChoice, Hold, ShippingPreference
from shared.contracts.returns import InspectedLine
from shared.machine import Invalid, NotAllowed

ReplacementReason: TypeAlias = Literal["lost", "damaged", "wrong_item", "exchange"]


@dataclass(frozen=True, slots=True)
class Open:
    placed_at: datetime
    lines: tuple[OpenedLine, ...]
    preference: ShippingPreference


@dataclass(frozen=True, slots=True)
class Plan:
    """The order is confirmed, and paid for until then by what is authorized."""

    funded_until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Fund:
    """An authorization ran out, was renewed, or is not needed any more."""

    until: datetime | None


@dataclass(frozen=True, slots=True)
class Withdraw:
    """The order is rejected."""


@dataclass(frozen=True, slots=True)
class PlaceHold:
    hold: Hold


@dataclass(frozen=True, slots=True)
class ReleaseHold:
    hold: Hold


@dataclass(frozen=True, slots=True)
class Cancel:
    cancellation_id: str
    lines: tuple[LineQuantity, ...]


@dataclass(frozen=True, slots=True)
class Pack:
    """Parcels by id; none: everything is in one. `is_awaited`: somebody waits for the answer, and may be refused. What is
    said on a topic has happened."""

    shipment_id: str
    parcels: tuple[tuple[str, tuple[LineQuantity, ...]], ...] = ()
    is_awaited: bool = True


@dataclass(frozen=True, slots=True)
class ShortPick:
    """`is_awaited`: as of Pack."""

    shipment_id: str
    lines: tuple[LineQuantity, ...]
    is_awaited: bool = True


@dataclass(frozen=True, slots=True)
class HandOver:
    """Tracking numbers by parcel id. It has left, whoever says so and whatever was planned."""

    shipment_id: str
    carrier: str
    tracking: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Track:
    """`shipment_id` None: of the newest shipment that has the number."""

    scan: Scan
    detail: str = ""
    shipment_id: str | None = None


@dataclass(frozen=True, slots=True)
class Recall:
    shipment_id: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Fill:
    """Goods may have come in, or been announced anew."""

    at: datetime


@dataclass(frozen=True, slots=True)
class SettleConsent:
    backorder_id: str
    choice: BackorderChoice
    substitute_sku: str | None
    at: datetime


@dataclass(frozen=True, slots=True)
class TakeSilence:
    """The customer has not answered by `at`."""

    backorder_id: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Inspect:
    inspection_id: str
    location: str
    lines: tuple[InspectedLine, ...]


@dataclass(frozen=True, slots=True)
class ReviseInspection:
    inspection_id: str
    location: str
    before: tuple[InspectedLine, ...]
    after: tuple[InspectedLine, ...]


@dataclass(frozen=True, slots=True)
class Replace:
    """Units to send again; `cause_id` is the return or claim it answers."""

    replacement_id: str
    cause_id: str
    lines: tuple[LineQuantity, ...]
    sku: str
    reason_code: ReplacementReason


Command: TypeAlias = (
    Open
    | Plan
    | Fund
    | Withdraw
    | PlaceHold
    | ReleaseHold
    | Cancel
    | Pack
    | ShortPick
    | HandOver
    | Track
    | Recall
    | Fill
    | SettleConsent
    | TakeSilence
    | Inspect
    | ReviseInspection
    | Replace
)

_S: Final = FulfillmentStatus


def decide(state: OrderFulfillment, command: Command, stock: Stock) -> Sequence[Fact]:
    match state.status, command:
        case _, HandOver() | Pack(is_awaited=False) | ShortPick(is_awaited=False):
            return _observed(state, command, stock)
        case _S.UNOPENED, Open(placed_at=placed_at, lines=lines, preference=preference):
            return [FulfillmentOpened(order_id=state.order_id, placed_at=placed_at, lines=lines, preference=preference)]
        case ((_S.OPENED | _S.PLANNED | _S.WITHDRAWN), Open()):
            return []
        case _S.OPENED, Plan():
            needs = [
                Need(line.line_id, line.sku, line.of(Bucket.UNALLOCATED))
                for line in state.lines.values()
                if line.of(Bucket.UNALLOCATED)
            ]
            return _funded(allocation.place(state, needs, stock), command.funded_until) if needs else []
        case _S.PLANNED, Plan():
            return []
        case _S.PLANNED, Fund(until=until):
            about = {"order_id": state.order_id, "funded_until": until}
            return [] if until == state.funded_until else [FulfillmentFundingChanged(**about)]
        case _, Fund():
            return []
        case _S.OPENED, Withdraw():
            left = {line_id: line.of(Bucket.UNALLOCATED) for line_id, line in state.lines.items()}
            return [FulfillmentWithdrawn(order_id=state.order_id, lines=quantities(left))]
        case _S.WITHDRAWN, Withdraw() | PlaceHold() | ReleaseHold():
            return []
        case ((_S.OPENED | _S.PLANNED), PlaceHold(hold=hold)):
            return _with_holds(state, sorted({*state.holds, hold}))
        case ((_S.OPENED | _S.PLANNED), ReleaseHold(hold=hold)):
            return _with_holds(state, sorted({*state.holds} - {hold}))
        case ((_S.OPENED | _S.PLANNED | _S.WITHDRAWN), Cancel(cancellation_id=cancellation_id, lines=lines)):
            return cancellation.cancel(state, cancellation_id, lines)
        case _S.PLANNED, Pack() if state.is_unfunded(stock.told_at.get(state.order_id)):
            assert state.funded_until is not None
            detail = f"its payment ran out on {state.funded_until:%d %b %Y}, and is to be authorized again first"
            raise NotAllowed("unfunded", "pack", (), detail)
        case _S.PLANNED, Pack(shipment_id=shipment_id, parcels=parcels):
            return shipments_.pack(state.order_id, _shipment(state, shipment_id), _by_parcel(parcels))
        case _S.PLANNED, ShortPick(shipment_id=shipment_id, lines=lines):
            return cancellation.short_pick(state, _shipment(state, shipment_id), _sums(lines), stock)
        case _S.PLANNED, Track(scan=scan, detail=detail):
            among = [s for s in state.shipments.values() if command.shipment_id in (None, s.shipment_id)]
            found = shipments_.parcel_of(among, scan.carrier, scan.tracking)
            if found is None:
                raise Invalid("tracking", f"{scan.tracking} of {scan.carrier} is not known")
            recorded = observations.scanned(state, found[0], scan.tracking, scan.code)
            return [*recorded, *shipments_.track(state.order_id, *found, scan, detail)]
        case _S.PLANNED, Recall(shipment_id=shipment_id, detail=detail):
            return shipments_.recall(state.order_id, _shipment(state, shipment_id), detail)
        case _S.PLANNED, Fill(at=at):
            return allocation.fill(state, stock, at)
        case _S.PLANNED, SettleConsent(backorder_id=backorder_id, choice=choice, substitute_sku=sku, at=at):
            return allocation.settle_consent(state, backorder_id, choice, sku, stock, at)
        case _S.PLANNED, TakeSilence(backorder_id=backorder_id, at=at):
            due = state.backorders[backorder_id].consent_due
            if due is None or due > at:
                return []
            choice = allocation.binding(state, stock).silence
            return allocation.settle_consent(state, backorder_id, choice, None, stock, at, is_silent=True)
        case _S.PLANNED, Inspect(inspection_id=inspection_id, location=location, lines=lines):
            return goods.inspect(state, inspection_id, location, lines)
        case _S.PLANNED, ReviseInspection(inspection_id=inspection_id, location=location):
            return goods.revise(state, inspection_id, location, command.before, command.after, stock)
        case _S.PLANNED, Replace():
            return _replace(state, command, stock)
        case status, _:
            raise NotAllowed(status, type(command).__name__, FULFILLMENT.allowed(status))


def _observed(state: OrderFulfillment, command: HandOver | Pack | ShortPick, stock: Stock) -> Sequence[Fact]:
    shipment = state.shipments.get(command.shipment_id)
    match command:
        case HandOver(shipment_id=id, carrier=carrier, tracking=tracking):
            if shipment is None:
                return observations.of_nothing_known(state, observations.HANDED_OVER, id, {})
            return observations.hand_over(state, shipment, carrier, dict(tracking), stock)
        case Pack(shipment_id=id, parcels=parcels):
            # A parcel that is named twice is one parcel.
            boxes = {name: _sums(line for n, lines in parcels if n == name for line in lines) for name, _ in parcels}
            if shipment is None:
                inside = _sums(line for _, lines in parcels for line in lines)
                return observations.of_nothing_known(state, observations.PACKED, id, inside)
            return observations.pack(state, shipment, boxes, stock)
        case ShortPick(shipment_id=id, lines=lines):
            if shipment is None:
                return observations.of_nothing_known(state, observations.SHORT_PICKED, id, _sums(lines))
            return observations.short_pick(state, shipment, _sums(lines), stock)


def _funded(facts: Sequence[Fact], until: datetime | None) -> list[Fact]:
    return [
        fact.model_copy(update={"funded_until": until}) if until and isinstance(fact, FulfillmentPlanned) else fact
        for fact in facts
    ]


def _shipment(state: OrderFulfillment, shipment_id: str) -> Shipment:
    shipment = state.shipments.get(shipment_id)
    if shipment is None:
        raise Invalid("shipment_id", f"{shipment_id} is not a shipment of {state.order_id}")
    return shipment


def _sums(lines: Iterable[LineQuantity]) -> dict[str, int]:
    return summed((line.line_id, line.quantity) for line in lines)


def _by_parcel(parcels: Iterable[tuple[str, tuple[LineQuantity, ...]]]) -> dict[str, dict[str, int]]:
    boxes: dict[str, dict[str, int]] = {}
    for parcel_id, lines in parcels:
        if parcel_id in boxes:
            raise Invalid("parcels.parcel_id", f"{parcel_id} is named twice")
        boxes[parcel_id] = _sums(lines)
    return boxes


def _with_holds(state: OrderFulfillment, holds: Sequence[Hold]) -> list[Fact]:
    """Any hold stops what has not been handed over; what is on its way goes on."""
    if tuple(holds) == state.holds:
        return []
    facts: list[Fact] = [FulfillmentHoldsChanged(order_id=state.order_id, holds=tuple(holds))]
    for shipment in state.shipments.values():
        about = {"order_id": state.order_id, "shipment_id": shipment.shipment_id}
        if shipment.status not in BEFORE_HAND_OVER:
            continue
        if holds:
            facts.append(ShipmentHeld(**about, holds=tuple(holds)))
        else:
            facts.append(ShipmentReleased(**about, packed=shipment.is_packed))
    return facts


def _replace(state: OrderFulfillment, command: Replace, stock: Stock) -> list[Fact]:
    """Owe units again, none of them twice: those that never arrived in their place, all others on top.

    Where returns had them when it promised this, and where the carrier has them now, may differ: of units that were
    handed over none is refused for it.
    """
    if command.replacement_id in state.replacements:
        return []
    moved: list[CancelledUnits] = []
    wanted = _sums(command.lines)
    for line_id, units in wanted.items():
        line = state.lines.get(line_id)
        if line is None:
            raise Invalid("lines.line_id", f"{line_id} is not a line of {state.order_id}")
        sent = line.of(*HANDED_OVER)
        if command.reason_code == "lost":
            for bucket in (Bucket.LOST, Bucket.RETURNED_TO_SENDER):
                gone = min(units, line.of(bucket))
                units, sent = units - gone, sent - gone
                if gone:
                    moved.append(CancelledUnits(line_id=line_id, quantity=gone, was=bucket))
        if units > max(0, sent - replaced_on_top(state, line_id)):
            raise Invalid("lines.quantity", f"more than was sent and not replaced yet of line {line_id}")
    created = ReplacementCreated(
        order_id=state.order_id,
        replacement_id=command.replacement_id,
        cause_id=command.cause_id,
        lines=quantities(wanted),
        moved=tuple(moved),
        sku=command.sku,
        reason_code=command.reason_code,
    )
    lost_in = next((s.shipment_id for s in state.shipments.values() if s.status is ShipmentStatus.LOST), None)
    after = allocation.after(state, [created])
    needs = [Need(line_id, command.sku, units, again=True) for line_id, units in wanted.items()]
    return [created, *allocation.place(after, needs, stock, lost_in if moved else None)]
