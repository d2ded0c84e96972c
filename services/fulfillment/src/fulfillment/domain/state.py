"""An order's units as facts leave them: lines with their buckets, shipments, backorders, holds. One aggregate per order."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

from fulfillment.domain import backorder as backorders_
from fulfillment.domain import shipment as shipments_
from fulfillment.domain.backorder import Backorder
from fulfillment.domain.quantities import IN_SHIPMENTS, Line
from fulfillment.domain.shipment import Item, Shipment
from fulfillment.domain.tracking import ShipmentStatus
from shared.contracts.base import Bucket, Fact, LineQuantity
from shared.contracts.fulfillment import (
    BackorderCancelled,
    BackorderConsentSettled,
    BackorderCreated,
    BackorderFact,
    BackorderFilled,
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
    ReplacementCreated,
    ShipmentCreated,
    ShipmentDelivered,
    ShipmentFact,
    ShipmentFound,
    ShipmentLost,
    ShipmentPacked,
    ShipmentReturnedToSender,
    ShipmentShipped,
    ShipmentTrackingUpdated,
    StockAllocated,
    StockQuarantined,
    StockReleased,
    StockRestocked,
    StockScrapped,
    StockShipped,
    StockWithdrawn,
)
from shared.contracts.orders import BackorderChoice, Hold, ShippingPreference
from shared.core.machine import Machine, remembering_last_fold, replace


class FulfillmentStatus(StrEnum):
    UNOPENED = "unopened"
    OPENED = "opened"
    PLANNED = "planned"
    WITHDRAWN = "withdrawn"


FULFILLMENT: Final = Machine(
    name="fulfillment",
    initial=FulfillmentStatus.UNOPENED,
    transitions={
        FulfillmentStatus.UNOPENED: {FulfillmentOpened: FulfillmentStatus.OPENED},
        FulfillmentStatus.OPENED: {
            FulfillmentPlanned: FulfillmentStatus.PLANNED,
            FulfillmentWithdrawn: FulfillmentStatus.WITHDRAWN,
        },
        FulfillmentStatus.PLANNED: {FulfillmentReplanned: FulfillmentStatus.PLANNED},
        FulfillmentStatus.WITHDRAWN: {},
    },
)


AS_AVAILABLE: Final = ShippingPreference()


@dataclass(frozen=True, slots=True)
class OrderFulfillment:
    """`cancellations`, `inspections` and `replacements` are the ids that had their effect, so that none has two.

    `discrepancies` counts what was observed against the plan. `claims` are units that never arrived and that a claim of the
    customer's settles, by claim; `resent` are those that were sent again without one, by line.
    """

    order_id: str
    status: FulfillmentStatus = FulfillmentStatus.UNOPENED
    placed_at: datetime | None = None
    preference: ShippingPreference = AS_AVAILABLE
    lines: dict[str, Line] = field(default_factory=dict)
    shipments: dict[str, Shipment] = field(default_factory=dict)
    backorders: dict[str, Backorder] = field(default_factory=dict)
    holds: tuple[Hold, ...] = ()
    cancellations: tuple[str, ...] = ()
    inspections: tuple[str, ...] = ()
    replacements: tuple[str, ...] = ()
    discrepancies: int = 0
    claims: dict[str, dict[str, int]] = field(default_factory=dict)
    resent: dict[str, int] = field(default_factory=dict)
    funded_until: datetime | None = None
    """When an authorization runs out that what has not left is to be paid by; none: none does."""

    @property
    def waiting(self) -> list[Backorder]:
        """The backorders that still wait for goods."""
        return [backorder for backorder in self.backorders.values() if backorder.open]

    @property
    def live_shipments(self) -> list[Shipment]:
        return [shipment for shipment in self.shipments.values() if shipment.is_live]

    def is_unfunded(self, at: datetime | None) -> bool:
        """Judged by the clock, whether or not anybody has told that the authorization ran out."""
        return self.funded_until is not None and at is not None and at >= self.funded_until

    @property
    def articles(self) -> dict[str, str]:
        """By line: the article that was ordered."""
        return {line_id: line.sku for line_id, line in self.lines.items()}

    def skus(self) -> set[str]:
        """All that stand in the order, those of exchanges and substitutes included."""
        items = (item.sku for shipment in self.shipments.values() for item in (*shipment.items, *shipment.released))
        return {*(line.sku for line in self.lines.values()), *(b.sku for b in self.backorders.values()), *items}


def deadlines(state: OrderFulfillment) -> dict[str, datetime]:
    """When silence about a backorder becomes an answer."""
    return {f"consent {b.backorder_id}": b.consent_due for b in state.waiting if b.consent_due}


def invariants(state: OrderFulfillment) -> list[str]:
    """The invariants it breaks, in words: none, ever."""
    broken = []
    for line in state.lines.values():
        if line.ordered != line.of(*Bucket):
            broken.append(f"I1: line {line.line_id} owes {line.ordered}, its buckets hold {line.of(*Bucket)}")
        broken += [f"I2: line {line.line_id} has {n} {bucket}" for bucket, n in line.units.items() if n < 0]
        shipped = in_shipments(state, line.line_id)
        if shipped != line.of(*IN_SHIPMENTS):
            broken.append(f"I4: line {line.line_id} has {shipped} in shipments, its buckets {line.of(*IN_SHIPMENTS)}")
        waiting = sum(backorder.open for backorder in state.waiting if backorder.line_id == line.line_id)
        if waiting != line.of(Bucket.BACKORDERED):
            broken.append(f"I1: line {line.line_id} has {waiting} in backorders, {line.of(Bucket.BACKORDERED)} counted")
        first, again = _first_and_again(state, line.line_id)
        reshipped = _reshipped(state, line.line_id)
        if first > line.ordered - line.again:
            broken.append(f"I1: line {line.line_id} has {first} units for {line.ordered - line.again} placed")
        if again > line.again + reshipped:
            broken.append(f"I1: line {line.line_id} has {again} units to replace {line.again + reshipped}")
    return broken


def in_shipments(state: OrderFulfillment, line_id: str) -> int:
    """Units of a line in live shipments, less those that were promised anew, or came back and were cancelled."""
    return sum(
        s.quantity(line_id) - s.reshipped.get(line_id, 0) - s.settled.get(line_id, 0) for s in state.live_shipments
    )


def unclaimed(state: OrderFulfillment, line_id: str) -> int:
    """Units of a line that are lost or came back, and that no claim settles."""
    claimed = sum(lines.get(line_id, 0) for lines in state.claims.values())
    return max(0, state.lines[line_id].of(Bucket.LOST, Bucket.RETURNED_TO_SENDER) - claimed)


def replaced_on_top(state: OrderFulfillment, line_id: str) -> int:
    """Sent units of a line that others stand for, sent or still to be sent; not those whose replacement was cancelled."""
    _, again = _first_and_again(state, line_id)
    return min(state.lines[line_id].again, max(0, again - _reshipped(state, line_id)))


def _reshipped(state: OrderFulfillment, line_id: str) -> int:
    return sum(shipment.reshipped.get(line_id, 0) for shipment in state.shipments.values())


def _first_and_again(state: OrderFulfillment, line_id: str) -> tuple[int, int]:
    """Units of a line that are, were or will be in shipments: as they were placed, and to replace others."""
    again = sum(shipment.again.get(line_id, 0) for shipment in state.live_shipments)
    waiting = [backorder for backorder in state.waiting if backorder.line_id == line_id]
    first = sum(shipment.quantity(line_id) for shipment in state.live_shipments) - again
    return (
        first + sum(backorder.open for backorder in waiting if not backorder.again),
        again + sum(backorder.open for backorder in waiting if backorder.again),
    )


Lines = dict[str, Line]


def _moved(lines: Lines, moves: Iterable[LineQuantity], source: Bucket, target: Bucket) -> Lines:
    changed = dict(lines)
    for move in moves:
        changed[move.line_id] = changed[move.line_id].moved(move.quantity, source, target)
    return changed


def _of_shipment(lines: Lines, fact: ShipmentFact) -> Lines:
    """The units that a shipment's fact moves."""
    match fact:
        case ShipmentPacked(parcels=parcels):
            inside = (line for parcel in parcels for line in parcel.lines)
            return _moved(lines, inside, Bucket.ALLOCATED, Bucket.PACKED)
        case ShipmentShipped(lines=moves):
            return _moved(lines, moves, Bucket.PACKED, Bucket.IN_TRANSIT)
        case ShipmentDelivered(lines=moves):
            return _moved(lines, moves, Bucket.IN_TRANSIT, Bucket.DELIVERED)
        case ShipmentLost(lines=moves):
            return _moved(lines, moves, Bucket.IN_TRANSIT, Bucket.LOST)
        case ShipmentReturnedToSender(lines=moves):
            return _moved(lines, moves, Bucket.IN_TRANSIT, Bucket.RETURNED_TO_SENDER)
        case ShipmentFound(lines=moves):
            return _moved(lines, moves, Bucket.LOST, Bucket.IN_TRANSIT)
        case ShipmentTrackingUpdated(lines=moves) if moves:
            return _moved(lines, moves, Bucket.DELIVERED, Bucket.IN_TRANSIT)
        case _:
            return lines


def _of_backorder(lines: Lines, fact: BackorderFact) -> Lines:
    match fact:
        case BackorderCreated(line_id=line_id, quantity=units):
            return {**lines, line_id: lines[line_id].moved(units, Bucket.UNALLOCATED, Bucket.BACKORDERED)}
        case BackorderFilled(line_id=line_id, quantity=units):
            return {**lines, line_id: lines[line_id].moved(units, Bucket.BACKORDERED, Bucket.UNALLOCATED)}
        case BackorderConsentSettled(line_id=line_id, quantity=units, choice=BackorderChoice.SUBSTITUTE):
            return {**lines, line_id: lines[line_id].moved(units, Bucket.BACKORDERED, Bucket.UNALLOCATED)}
        case _:
            return lines


@remembering_last_fold
def evolve(state: OrderFulfillment, fact: Fact) -> OrderFulfillment:
    match fact:
        case ShipmentCreated(shipment_id=shipment_id, location=location, again=again):
            new = Shipment(shipment_id, location, again={line.line_id: line.quantity for line in again})
            return replace(state, shipments={**state.shipments, shipment_id: new})
        case ShipmentFact(shipment_id=shipment_id):
            shipment = shipments_.evolve(state.shipments[shipment_id], fact)
            return replace(
                state, shipments={**state.shipments, shipment_id: shipment}, lines=_of_shipment(state.lines, fact)
            )
        case StockAllocated(line_id=line_id, sku=sku, quantity=units, shipment_id=shipment_id):
            shipment = state.shipments[shipment_id]
            item = Item(line_id, sku, units, fact.title, fact.unit_price_minor)
            shipment = replace(shipment, items=(*shipment.items, item))
            line = state.lines[line_id].moved(units, Bucket.UNALLOCATED, Bucket.ALLOCATED)
            return replace(
                state, shipments={**state.shipments, shipment_id: shipment}, lines={**state.lines, line_id: line}
            )
        case StockReleased(line_id=line_id, sku=sku, quantity=units, shipment_id=shipment_id, on_hand=is_on_hand):
            shipment = shipments_.without(state.shipments[shipment_id], line_id, sku, units, is_on_hand=is_on_hand)
            return replace(state, shipments={**state.shipments, shipment_id: shipment})
        case StockQuarantined(cause_id=cause_id) | StockScrapped(cause_id=cause_id) | StockRestocked(cause_id=cause_id):
            is_known = cause_id in state.inspections or cause_id in state.shipments
            return state if is_known else replace(state, inspections=(*state.inspections, cause_id))
        case BackorderCreated(backorder_id=backorder_id):
            backorder = backorders_.created(fact)
            return replace(
                state, backorders={**state.backorders, backorder_id: backorder}, lines=_of_backorder(state.lines, fact)
            )
        case BackorderFact(backorder_id=backorder_id):
            backorder = backorders_.evolve(state.backorders[backorder_id], fact)
            state = replace(
                state, backorders={**state.backorders, backorder_id: backorder}, lines=_of_backorder(state.lines, fact)
            )
            if isinstance(fact, BackorderConsentSettled) and fact.choice is BackorderChoice.SHIP_AVAILABLE:
                return replace(state, preference=AS_AVAILABLE)
            return state
        case FulfillmentOpened(lines=opened, placed_at=placed_at, preference=preference):
            return replace(
                state,
                status=FULFILLMENT.step(state.status, fact),
                placed_at=placed_at,
                preference=preference,
                lines={
                    line.line_id: Line(line.line_id, line.sku, line.quantity, {Bucket.UNALLOCATED: line.quantity})
                    for line in opened
                },
            )
        case FulfillmentPlanned(funded_until=until):
            return replace(state, status=FULFILLMENT.step(state.status, fact), funded_until=until)
        case FulfillmentFundingChanged(funded_until=until):
            return replace(state, funded_until=until)
        case FulfillmentReplanned():
            return replace(state, status=FULFILLMENT.step(state.status, fact))
        case FulfillmentWithdrawn(lines=moves):
            lines = _moved(state.lines, moves, Bucket.UNALLOCATED, Bucket.CANCELLED)
            return replace(state, status=FULFILLMENT.step(state.status, fact), lines=lines)
        case FulfillmentHoldsChanged(holds=holds):
            return replace(state, holds=holds)
        case FulfillmentLinesCancelled(cancellation_id=cancellation_id, lines=cancelled):
            left, shipments = dict(state.lines), state.shipments
            for gone in cancelled:
                left[gone.line_id] = left[gone.line_id].moved(gone.quantity, gone.was, Bucket.CANCELLED)
                if gone.was is Bucket.RETURNED_TO_SENDER:
                    shipments = shipments_.settled(shipments, gone.line_id, gone.quantity)
            return replace(state, lines=left, shipments=shipments, cancellations=_answered(state, cancellation_id))
        case FulfillmentCancellationRefused(cancellation_id=cancellation_id):
            return replace(state, cancellations=_answered(state, cancellation_id))
        case FulfillmentLinesShortShipped(lines=moves, was=was):
            return replace(state, lines=_moved(state.lines, moves, was, Bucket.UNALLOCATED))
        case FulfillmentClaimRecorded(claim_id=claim_id, lines=moves):
            others = {id: units for id, units in state.claims.items() if id != claim_id}
            claimed = {line.line_id: line.quantity for line in moves}
            return replace(state, claims={**others, claim_id: claimed} if claimed else others)
        case FulfillmentDiscrepancyRecorded(shipment_id=shipment_id, parcels=parcels):
            shipments = state.shipments
            if parcels and shipment_id is not None:
                numbers = [(parcel.carrier or "", parcel.tracking or "") for parcel in parcels]
                shipments = {**shipments, shipment_id: shipments_.known_as(shipments[shipment_id], numbers)}
            return replace(state, shipments=shipments, discrepancies=state.discrepancies + 1)
        case ReplacementCreated():
            return _replaced(state, fact)
        case StockShipped() | StockWithdrawn() | BackorderCancelled():
            return state
        case _:
            raise TypeError(f"{fact.type} is no fact of an order's fulfillment")


def _answered(state: OrderFulfillment, cancellation_id: str) -> tuple[str, ...]:
    """One cancellation may be answered by several facts."""
    known = state.cancellations
    return known if cancellation_id in known else (*known, cancellation_id)


_WAS: Final[Mapping[Bucket, ShipmentStatus]] = {
    Bucket.LOST: ShipmentStatus.LOST,
    Bucket.RETURNED_TO_SENDER: ShipmentStatus.RETURNED_TO_SENDER,
}


def _replaced(state: OrderFulfillment, fact: ReplacementCreated) -> OrderFulfillment:
    lines, shipments, resent = dict(state.lines), state.shipments, dict(state.resent)
    on_top = {line.line_id: line.quantity for line in fact.lines}
    for units in fact.moved:
        lines[units.line_id] = lines[units.line_id].moved(units.quantity, units.was, Bucket.UNALLOCATED)
        shipments = shipments_.owed_again(shipments, units.line_id, units.quantity, _WAS[units.was], fact.shipment_id)
        on_top[units.line_id] -= units.quantity
        if fact.shipment_id is not None:
            resent[units.line_id] = resent.get(units.line_id, 0) + units.quantity
    for line_id, quantity in on_top.items():
        if quantity:
            lines[line_id] = lines[line_id].owed_again(quantity)
    return replace(
        state,
        lines=lines,
        shipments=shipments,
        resent=resent,
        claims=_made_good(state.claims, fact),
        replacements=(*state.replacements, fact.replacement_id),
    )


def _made_good(claims: dict[str, dict[str, int]], fact: ReplacementCreated) -> dict[str, dict[str, int]]:
    """The claims without what was replaced for one of them."""
    if fact.cause_id not in claims:
        return claims
    left = dict(claims[fact.cause_id])
    for line in fact.lines:
        left[line.line_id] = left.get(line.line_id, 0) - line.quantity
    left = {line_id: units for line_id, units in left.items() if units > 0}
    return {id: left if id == fact.cause_id else units for id, units in claims.items() if id != fact.cause_id or left}
