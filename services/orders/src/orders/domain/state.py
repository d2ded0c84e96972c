"""The state of an order: placed, confirmed, completed, closed; rejected; cancelled by line or whole.

The status says what was promised to the customer. The other services report where the units, the money and the returns are;
counters beside the status keep that, and the roll-ups are functions of them.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from orders.domain.quantities import (
    BEFORE_HAND_OVER,
    GONE_ASTRAY,
    HANDED_OVER,
    OPEN,
    Backorder,
    Line,
    Shipment,
    backorders_after,
    moved,
    shipments_after,
)
from shared.contracts.base import Bucket, Fact, LineQuantity, PolicyRef
from shared.contracts.orders import (
    Address,
    CancelledValue,
    ChargeStep,
    Customer,
    DisputeStage,
    DisputeStep,
    Hold,
    OrderAddressChanged,
    OrderBackorderConsentGiven,
    OrderCancellationRefused,
    OrderCancellationRequested,
    OrderCancelled,
    OrderClosed,
    OrderCompleted,
    OrderConfirmed,
    OrderFundingChanged,
    OrderHoldPlaced,
    OrderHoldReleased,
    OrderLinesCancelled,
    OrderPlaced,
    OrderProgressed,
    OrderRejected,
    OrderReopened,
    RefundStage,
    RefundStep,
    ReturnStage,
    ReturnStep,
    ShippingPreference,
    Step,
    TenderStep,
    UnaskedRefundStep,
    UnitsMoved,
    UnitsStep,
    WrittenOffStep,
)
from shared.core.machine import Machine, remembering_last_fold, replace


class Status(StrEnum):
    PLACED = "placed"
    CONFIRMED = "confirmed"
    REJECTED = "rejected"
    CANCEL_PENDING = "cancel_pending"
    CANCELLED = "cancelled"
    COMPLETED = "completed"
    CLOSED = "closed"


# Where an answer to a cancellation leads is picked by what is still unanswered, and by where the order came from.
_ANSWERED: Final = frozenset({Status.CANCEL_PENDING, Status.PLACED, Status.CONFIRMED})

ORDER: Final = Machine(
    "order",
    Status.PLACED,
    {
        Status.PLACED: {
            OrderConfirmed: Status.CONFIRMED,
            OrderRejected: Status.REJECTED,
            OrderCancellationRequested: Status.CANCEL_PENDING,
        },
        # Lines may be cancelled unasked: where the customer chose so for a backorder, or stayed silent about it.
        Status.CONFIRMED: {
            OrderCancellationRequested: Status.CANCEL_PENDING,
            OrderLinesCancelled: Status.CONFIRMED,
            OrderCancelled: Status.CANCELLED,
            OrderCompleted: Status.COMPLETED,
        },
        Status.CANCEL_PENDING: {
            OrderLinesCancelled: _ANSWERED,
            OrderCancellationRefused: _ANSWERED,
            OrderCancelled: Status.CANCELLED,
        },
        Status.COMPLETED: {OrderClosed: Status.CLOSED, OrderReopened: Status.CONFIRMED},
        Status.CLOSED: {OrderReopened: frozenset({Status.COMPLETED, Status.CONFIRMED})},
        Status.REJECTED: {},
        Status.CANCELLED: {},
    },
)


OPEN_RETURN: Final = frozenset({ReturnStage.REQUESTED, ReturnStage.APPROVED, ReturnStage.ARRIVED})


@dataclass(frozen=True, slots=True)
class Cancellation:
    """A cancellation has units by line: asked for, and how they were answered. Asked is empty where the order did not ask."""

    asked: Mapping[str, int]
    whole: bool
    detail: str
    cancelled: Mapping[str, int] = field(default_factory=dict)
    refused: Mapping[str, int] = field(default_factory=dict)

    @property
    def is_answered(self) -> bool:
        return all(
            self.cancelled.get(line_id, 0) + self.refused.get(line_id, 0) >= quantity
            for line_id, quantity in self.asked.items()
        )


@dataclass(frozen=True, slots=True)
class Order:
    """`version` counts the facts so far and equals the journal's sequence.

    `uncaptured` is what could not be captured, by shipment ("" for none in particular). `resumes` is where a pending
    cancellation came from.
    """

    order_id: str
    status: Status
    version: int
    placed_at: datetime
    customer: Customer
    ship_to: Address
    currency: str
    lines: Mapping[str, Line]
    shipping_minor: int
    total_minor: int
    tenders: Mapping[str, TenderStep]
    preference: ShippingPreference
    terms: bool
    return_policy: PolicyRef | None
    holds: Mapping[Hold, str] = field(default_factory=dict)
    shipments: Mapping[str, Shipment] = field(default_factory=dict)
    backorders: Mapping[str, Backorder] = field(default_factory=dict)
    refunds: Mapping[str, RefundStep] = field(default_factory=dict)
    returns: Mapping[str, ReturnStep] = field(default_factory=dict)
    disputes: Mapping[str, DisputeStage] = field(default_factory=dict)
    uncaptured: Mapping[str, int] = field(default_factory=dict)
    charges: Mapping[str, int] = field(default_factory=dict)
    """By exchange: what was captured for it, beside what the order is worth."""
    unasked_refunds: Mapping[str, int] = field(default_factory=dict)
    """By the provider's reference: what it gave back without having been asked."""
    written_off: Mapping[str, int] = field(default_factory=dict)
    cancellations: Mapping[str, Cancellation] = field(default_factory=dict)
    pending: str | None = None
    resumes: Status | None = None
    closes_at: datetime | None = None

    def units(self, *buckets: Bucket) -> int:
        return sum(line.count(*buckets) for line in self.lines.values())

    @property
    def owed(self) -> int:
        return sum(line.owed for line in self.lines.values())

    @property
    def is_all_cancelled(self) -> bool:
        return all(line.cancelled == line.owed for line in self.lines.values())

    @property
    def due_minor(self) -> int:
        """Return what the order is worth without what was cancelled; shipping stays due while anything ships."""
        if self.is_all_cancelled:
            return 0
        return self.total_minor - sum(line.cancelled_minor for line in self.lines.values())

    @property
    def authorized_minor(self) -> int:
        """Return what the tenders promised, or gave already."""
        return sum(t.authorized_minor + t.captured_minor for t in self.tenders.values())

    @property
    def captured_minor(self) -> int:
        """Return what was captured for the order itself, charges for exchanges aside."""
        return sum(t.captured_minor for t in self.tenders.values())

    @property
    def paid_back_minor(self) -> int:
        return sum(r.paid_minor for r in self.refunds.values()) + sum(self.unasked_refunds.values())

    @property
    def is_settled(self) -> bool:
        """Say whether every unit was delivered, cancelled, or made good after it went astray; a replaced one is owed again."""
        if any(line.units.get(bucket) for line in self.lines.values() for bucket in OPEN):
            return False
        good = self._made_good_astray()
        return all(line.count(*GONE_ASTRAY) <= good.get(line_id, 0) for line_id, line in self.lines.items())

    def _made_good_astray(self) -> dict[str, int]:
        units = dict(self.written_off)
        for refund in self.refunds.values():
            if refund.kind in ("lost", "short_ship") and refund.stage is RefundStage.DONE:
                for line in refund.lines:
                    units[line.line_id] = units.get(line.line_id, 0) + line.quantity
        return units

    @property
    def has_something_open(self) -> bool:
        """Say whether a return, a refund or a dispute is open, or money is missing."""
        return (
            bool(self.uncaptured)
            or any(r.stage in OPEN_RETURN for r in self.returns.values())
            or any(r.stage in (RefundStage.OPEN, RefundStage.ATTENTION) for r in self.refunds.values())
            or DisputeStage.OPEN in self.disputes.values()
        )

    def back_in_house(self, line_id: str) -> int:
        """Return the units of a line that came back to us and were not made good yet: they may be cancelled, or sent again."""
        asked = sum(
            line.quantity
            for refund in self.refunds.values()
            if refund.kind == "lost" and refund.stage is not RefundStage.DROPPED
            for line in refund.lines
            if line.line_id == line_id
        )
        line = self.lines[line_id]
        good = max(0, asked + self.written_off.get(line_id, 0) - line.count(Bucket.LOST))
        return max(0, line.count(Bucket.RETURNED_TO_SENDER) - good)

    @property
    def funded_until(self) -> datetime | None:
        """Return when the first authorization that what has not left relies on runs out, or ran out; None where none does."""
        if self.terms:
            return None
        held = (t for t in self.tenders.values() if t.authorized_minor or t.lapsed)
        return min((t.expires_at for t in held if t.expires_at is not None), default=None)

    @property
    def is_before_hand_over(self) -> bool:
        """Say whether any unit has not left yet."""
        return self.units(*BEFORE_HAND_OVER) > 0

    @property
    def is_in_house(self) -> bool:
        """Say whether any unit has not left yet, or came back."""
        return self.is_before_hand_over or any(self.back_in_house(line_id) for line_id in self.lines)


def deadlines(order: Order | None) -> dict[str, datetime]:
    """Say when a completed order closes: when its time is over and nothing is open."""
    if order is None or order.status is not Status.COMPLETED or order.closes_at is None or order.has_something_open:
        return {}
    return {"close": order.closes_at}


def invariants(order: Order | None) -> list[str]:
    """Return the invariants that the counters break: always none."""
    if order is None:
        return []
    broken = []
    for line_id, line in order.lines.items():
        if line.owed < line.placed.quantity:
            broken.append(f"I1: line {line_id} owes {line.owed} of {line.placed.quantity} ordered units")
        broken += [
            f"I2: line {line_id} has {units} units {bucket}" for bucket, units in line.units.items() if units < 0
        ]
        shipped = Counter[Bucket]()
        for shipment in order.shipments.values():
            shipped[shipment.stage] += shipment.units.get(line_id, 0)
        broken += [
            f"I4: line {line_id} has {line.count(bucket)} units {bucket}, its shipments {shipped[bucket]}"
            for bucket in (Bucket.ALLOCATED, Bucket.PACKED)
            if line.count(bucket) != shipped[bucket]
        ]
        # Less what was shipped again: that left its bucket, and still stands in its first shipment.
        if line.count(*HANDED_OVER) > shipped[Bucket.IN_TRANSIT]:
            broken.append(f"I4: line {line_id} has more units handed over than its shipments")
        waiting = sum(b.quantity for b in order.backorders.values() if b.line_id == line_id)
        if waiting != line.count(Bucket.BACKORDERED):
            broken.append(f"I1: line {line_id} has {line.count(Bucket.BACKORDERED)} units backordered, not {waiting}")
    return broken


@remembering_last_fold
def evolve(order: Order | None, fact: Fact) -> Order:
    """Return the order after one of its own facts; None before it was placed. Raises NotAllowed where its machine does."""
    if isinstance(fact, OrderPlaced):
        if order is not None:
            raise ValueError(f"{order.order_id} is placed twice")
        return _placed(fact)
    if order is None:
        raise ValueError(f"{fact.type} before the order was placed")
    version = order.version + 1
    match fact:
        case OrderProgressed(step=step):
            return replace(order, version=version, **_after(order, step))
        case OrderHoldPlaced(hold=hold, detail=detail):
            return replace(order, version=version, holds={**order.holds, hold: detail})
        case OrderHoldReleased(hold=hold):
            return replace(order, version=version, holds={h: d for h, d in order.holds.items() if h is not hold})
        case OrderAddressChanged(ship_to=ship_to):
            return replace(order, version=version, ship_to=ship_to)
        case OrderBackorderConsentGiven() | OrderFundingChanged():
            return replace(order, version=version)
        case OrderConfirmed() | OrderRejected() | OrderCancelled() | OrderClosed():
            return replace(order, version=version, status=ORDER.step(order.status, fact))
        case OrderCompleted(closes_at=closes_at):
            return replace(order, version=version, status=ORDER.step(order.status, fact), closes_at=closes_at)
        case OrderReopened(closes_at=closes_at, cause=cause):
            to = Status.CONFIRMED if cause == "replacement" else Status.COMPLETED
            return replace(order, version=version, status=ORDER.step(order.status, fact, to), closes_at=closes_at)
        case OrderCancellationRequested(cancellation_id=id, lines=lines, whole=whole, detail=detail):
            asked = Cancellation({line.line_id: line.quantity for line in lines}, whole, detail)
            return replace(
                order,
                version=version,
                status=ORDER.step(order.status, fact),
                cancellations={**order.cancellations, id: asked},
                pending=id,
                resumes=order.status,
            )
        case OrderLinesCancelled() | OrderCancellationRefused():
            return _answered(order, fact, version)
        case _:
            raise TypeError(f"{fact.type} is not a fact of orders")


def _placed(fact: OrderPlaced) -> Order:
    return Order(
        order_id=fact.order_id,
        status=ORDER.initial,
        version=1,
        placed_at=fact.placed_at,
        customer=fact.customer,
        ship_to=fact.ship_to,
        currency=fact.currency,
        lines={line.line_id: Line(line, {Bucket.UNALLOCATED: line.quantity}) for line in fact.lines},
        shipping_minor=fact.shipping_minor,
        total_minor=fact.total_minor,
        tenders={
            t.tender_id: TenderStep(tender_id=t.tender_id, authorized_minor=0, captured_minor=0) for t in fact.tenders
        },
        preference=fact.preference,
        terms=fact.terms,
        return_policy=fact.return_policy,
    )


def _answered(order: Order, fact: OrderLinesCancelled | OrderCancellationRefused, version: int) -> Order:
    """Go back to where the request came from once every unit asked for is answered, unless nothing is left."""
    id = fact.cancellation_id
    answered = order.cancellations.get(id) or Cancellation({}, False, "")
    lines = order.lines
    if isinstance(fact, OrderLinesCancelled):
        answered = replace(answered, cancelled=_with(answered.cancelled, fact.lines))
        back = {line.line_id: line.quantity for line in fact.returned}
        moves = [
            UnitsMoved(line_id=line.line_id, quantity=units, source=source, target=Bucket.CANCELLED)
            for line in fact.lines
            for source, units in (
                (Bucket.UNALLOCATED, line.quantity - back.get(line.line_id, 0)),
                (Bucket.RETURNED_TO_SENDER, back.get(line.line_id, 0)),
            )
            if units
        ]
        lines = moved(lines, moves)
    else:
        answered = replace(answered, refused=_with(answered.refused, fact.lines))
    after = replace(order, version=version, lines=lines, cancellations={**order.cancellations, id: answered})
    if order.status is not Status.CANCEL_PENDING:
        return replace(after, status=ORDER.step(order.status, fact))
    is_over = order.pending is not None and after.cancellations[order.pending].is_answered
    if not is_over or after.is_all_cancelled:
        return replace(after, status=ORDER.step(order.status, fact, Status.CANCEL_PENDING))
    return replace(after, status=ORDER.step(order.status, fact, order.resumes), pending=None, resumes=None)


def _with(units: Mapping[str, int], lines: Sequence[CancelledValue | LineQuantity]) -> dict[str, int]:
    after = dict(units)
    for line in lines:
        after[line.line_id] = after.get(line.line_id, 0) + line.quantity
    return after


def _after(order: Order, step: Step) -> dict[str, Any]:
    """Return the fields of the order that a step changes."""
    match step:
        case UnitsStep():
            return {
                "lines": moved(order.lines, step.moves),
                "shipments": shipments_after(order.shipments, step),
                "backorders": backorders_after(order.backorders, step),
            }
        case TenderStep():
            gained = step.captured_minor - order.tenders[step.tender_id].captured_minor
            return {
                "tenders": {**order.tenders, step.tender_id: step},
                "uncaptured": _uncaptured(order.uncaptured, step.shipment_id or "", step.failed_minor, gained),
            }
        case RefundStep():
            return {"refunds": {**order.refunds, step.refund_id: step}}
        case ReturnStep():
            return {"returns": {**order.returns, step.return_id: step}}
        case DisputeStep():
            return {"disputes": {**order.disputes, step.dispute_id: step.stage}}
        case ChargeStep(exchange_id=id, captured_minor=captured):
            return {"charges": {**order.charges, id: captured}}
        case UnaskedRefundStep(reference=reference, paid_minor=paid):
            return {"unasked_refunds": {**order.unasked_refunds, reference: paid}}
        case WrittenOffStep(lines=lines):
            return {"written_off": _with(order.written_off, lines)}


def _uncaptured(before: Mapping[str, int], shipment_id: str, failed: int, gained: int) -> Mapping[str, int]:
    """Count what another tender makes up for, first for its own shipment, then for those before it."""
    if failed:
        return {**before, shipment_id: max(failed, before.get(shipment_id, 0))}
    if gained <= 0 or not before:
        return before
    after = {}
    for id in sorted(before, key=lambda id: id != shipment_id):
        used = min(gained, before[id])
        gained -= used
        if before[id] > used:
            after[id] = before[id] - used
    return after
