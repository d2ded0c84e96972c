"""The account of an order: what it is worth, what happened to its units, its tenders, operations and refunds; a fold of facts."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from payments.domain import tender as tenders
from payments.domain.charge import CHARGE, Charge
from payments.domain.operation import IN_FLIGHT, OPERATION, Operation, OperationStatus
from payments.domain.refund import PAYOUT_FAILED, REDUCES_PRICE, REFUND, REPAYS_EXCESS, Refund, RefundStatus
from payments.domain.routing import Source
from payments.domain.tender import TENDER, DisputeStatus, Tender, TenderStatus
from shared.contracts.base import Fact
from shared.contracts.payments import (
    ChargeFact,
    DisputeFact,
    MovementKind,
    OperationKind,
    PaymentAnomalyDetected,
    PaymentAuthorizationExpired,
    PaymentAuthorizationRequested,
    PaymentAuthorized,
    PaymentCaptured,
    PaymentCaptureFailed,
    PaymentCaptureRequested,
    PaymentChargeRequested,
    PaymentDeclined,
    PaymentMovementRecorded,
    PaymentOpened,
    PaymentOperationReconciled,
    PaymentOperationSubmitted,
    PaymentOperationUnknown,
    PaymentReauthorized,
    PaymentUnitsNoted,
    PaymentVoided,
    PaymentVoidFailed,
    PaymentVoidRequested,
    RefundApprovalRequired,
    RefundApproved,
    RefundAttentionNeeded,
    RefundCancelled,
    RefundChannel,
    RefundCompleted,
    RefundFact,
    RefundKind,
    RefundLegFact,
    RefundLegFailed,
    RefundLegReversed,
    RefundLegSubmitted,
    RefundLegSucceeded,
    RefundLine,
    RefundPartiallyCompleted,
    RefundReduced,
    RefundRejected,
    RefundRequested,
    RefundRouted,
    StoreCreditFact,
    SubstituteUnits,
    TenderFact,
    UnitsChange,
)
from shared.core.machine import remembering_last_fold, replace
from shared.core.money import cumulative

EXPIRED_AUTHORIZATION: Final = "authorization_expired"
"""The provider's code for a capture that came too late; it is authorized again, and not held against the tender."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line as placed: its goods, and its share of the shipping."""

    quantity: int
    goods_minor: int
    shipping_minor: int


@dataclass(frozen=True, slots=True)
class Units:
    """What happened to a line's units, as counters: facts of several topics may come in any order."""

    handed_over: int = 0
    cancelled: int = 0
    undelivered: int = 0
    found: int = 0
    due_back: int = 0
    cancelled_back: int = 0
    """Of those cancelled: had been handed over, and came back to their sender."""

    @property
    def handed_over_now(self) -> int:
        """Handed over, those left out that count as cancelled since."""
        return max(0, self.handed_over - self.cancelled_back)


@dataclass(frozen=True, slots=True)
class Movement:
    """Money that the provider moved without having been asked to. `reference` is the provider's, and names it once per kind."""

    id: str
    kind: MovementKind
    tender_id: str | None
    amount_minor: int
    reference: str
    authorization: str | None = None
    operation_id: str | None = None


@dataclass(frozen=True, slots=True)
class Account:
    """All payments of one order. Units may be known before the order itself is: topics cross without order."""

    order_id: str
    customer_id: str = ""
    currency: str = ""
    placed_at: datetime | None = None
    total_minor: int = 0
    shipping_minor: int = 0
    lines: Mapping[str, Line] = field(default_factory=dict)
    units: Mapping[str, Units] = field(default_factory=dict)
    exceptions: tuple[str, ...] = ()
    """Returns that a policy exception allowed."""
    claims: tuple[str, ...] = ()
    """Claims of units that never arrived."""
    substitutes: Mapping[str, tuple[SubstituteUnits, ...]] = field(default_factory=dict)
    """By the shipment that they were handed over in: those with a price of their own."""
    handed_over_before: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """By such a shipment: the units by line that had left before it."""
    last_shipment: str | None = None
    last_cancellation: str | None = None
    tenders: Mapping[str, Tender] = field(default_factory=dict)
    operations: Mapping[str, Operation] = field(default_factory=dict)
    refunds: Mapping[str, Refund] = field(default_factory=dict)
    charges: Mapping[str, Charge] = field(default_factory=dict)
    """By exchange: what the customer owes for it."""
    movements: Mapping[str, Movement] = field(default_factory=dict)

    @property
    def is_open(self) -> bool:
        return self.placed_at is not None

    def of_line(self, line_id: str) -> Units:
        return self.units.get(line_id, Units())

    @property
    def handed_over_minor(self) -> int:
        """What was handed over is worth: goods by cumulative rounding, and all shipping with the first of it.

        Counted from the line's first unit, as what comes back is; orders takes the worth of cancelled units off its end.
        Once nothing is left to ship, both sum up to the line.
        """
        value, is_any = 0, False
        for id, line in self.lines.items():
            units = self.of_line(id)
            part = min(units.handed_over_now, max(0, line.quantity - units.cancelled))
            value += cumulative(line.goods_minor, part, line.quantity)
            is_any |= part > 0
        return value + (self.shipping_minor if is_any else 0)

    @property
    def worth_minor(self) -> int:
        """What is left of the order; shipping stays due while anything ships."""
        value, is_any = 0, False
        for id, line in self.lines.items():
            gone = min(self.of_line(id).cancelled, line.quantity)
            value += cumulative(line.goods_minor, line.quantity - gone, line.quantity)
            is_any |= gone < line.quantity
        return value + (self.shipping_minor if is_any else 0)

    @property
    def is_all_settled(self) -> bool:
        """Nothing is left to hand over or to cancel."""
        return not any(self.unsettled_units(id) for id in self.lines)

    def unsettled_units(self, line_id: str) -> int:
        """Units of a line that are neither handed over nor cancelled."""
        units = self.of_line(line_id)
        return max(0, self.lines[line_id].quantity - units.cancelled - units.handed_over_now)

    @property
    def captured_minor(self) -> int:
        return sum(t.captured_minor for t in self.tenders.values())

    @property
    def order_tenders(self) -> list[Tender]:
        """Those the order was placed with; charges for exchanges have their own."""
        return [t for t in self.tenders.values() if t.exchange_id is None]

    @property
    def order_captured_minor(self) -> int:
        """For the order itself, charges for exchanges aside."""
        return sum(t.captured_minor for t in self.order_tenders)

    @property
    def drawn_minor(self) -> int:
        """Captured or being captured for the order itself."""
        return self.order_captured_minor + sum(self.capturing_minor(t.id) for t in self.order_tenders)

    def capturing_minor(self, tender_id: str | None = None) -> int:
        """Captures in flight, of one tender or of all."""
        return sum(
            o.amount_minor
            for o in self.operations.values()
            if o.kind is OperationKind.CAPTURE and o.is_in_flight and tender_id in (None, o.tender_id)
        )

    @property
    def is_more_coming(self) -> bool:
        """Captures are in flight, or will be: for what was handed over, or what came back must have been."""
        return (
            self.capturing_minor() > 0
            or any(self.of_line(id).due_back > self.of_line(id).handed_over for id in self.lines)
            or (
                self.handed_over_minor > self.order_captured_minor
                and any(t.status is TenderStatus.AUTHORIZING for t in self.order_tenders)
            )
        )

    def is_busy(self, tender_id: str) -> bool:
        """An authorization, capture or void of the tender is in flight."""
        return any(
            o.tender_id == tender_id and o.is_in_flight and o.kind is not OperationKind.REFUND
            for o in self.operations.values()
        )

    def legs(self, tender_id: str | None = None) -> Iterator[Operation]:
        for o in self.operations.values():
            if o.kind is OperationKind.REFUND and tender_id in (None, o.tender_id):
                yield o

    def refunded_minor(self, tender_id: str | None = None) -> int:
        """Given back, by refunds of ours and without having been asked for."""
        legs = sum(o.amount_minor for o in self.legs(tender_id) if o.status is OperationStatus.SUCCEEDED)
        return legs + sum(m.amount_minor for m in self.unasked_refunds(tender_id))

    def has_moved(self, kind: MovementKind, reference: str) -> bool:
        return any(m.kind is kind and m.reference == reference for m in self.movements.values())

    def moved_beside_minor(self, operation_id: str) -> int:
        """What the provider moved for an operation beyond what was asked for."""
        return sum(
            m.amount_minor
            for m in self.movements.values()
            if m.operation_id == operation_id and m.kind is not MovementKind.REFUND_REVERSED
        )

    def unasked_refunds(self, tender_id: str | None = None) -> Iterator[Movement]:
        """Refunds that nobody here asked for, those that came back left out."""
        for m in self.movements.values():
            is_out = m.kind is MovementKind.REFUND and tender_id in (None, m.tender_id)
            if is_out and not self.has_moved(MovementKind.REFUND_REVERSED, m.reference):
                yield m

    def lost_minor(self, tender: Tender) -> int:
        """Lost to disputes. Of states from before there could be several, what refunds had left of it."""
        if tender.disputes or tender.dispute is not DisputeStatus.LOST:
            return tender.disputed(DisputeStatus.LOST)
        back = self.refunded_minor(tender.id) + self.refunding_minor(tender.id)
        return max(0, min(tender.disputed_minor, tender.captured_minor - back))

    def gone_minor(self, tender_id: str) -> int:
        """Left the tender or on its way out: refunds in flight, and what disputes took, included."""
        lost = self.lost_minor(self.tenders[tender_id])
        return self.refunded_minor(tender_id) + self.refunding_minor(tender_id) + lost

    def refunding_minor(self, tender_id: str | None = None) -> int:
        """Refunds in flight, unknown ones included."""
        return sum(o.amount_minor for o in self.legs(tender_id) if o.is_in_flight)

    def held_minor(self, tender: Tender) -> int:
        """What open disputes hold of what is left, and what lost ones took."""
        if tender.dispute is DisputeStatus.NONE:
            return 0
        held = max(0, min(tender.disputed(DisputeStatus.OPEN), tender.captured_minor - self.gone_minor(tender.id)))
        return held + self.lost_minor(tender)

    def left_minor(self, tender: Tender) -> int:
        """Captured, and neither refunded, on its way back, nor held by a dispute."""
        return max(
            0,
            tender.captured_minor
            - self.refunded_minor(tender.id)
            - self.refunding_minor(tender.id)
            - self.held_minor(tender),
        )

    @property
    def refundable_minor(self) -> int:
        """What was overdrawn of one tender is not there on the others either."""
        left = sum(self.left_minor(t) for t in self.tenders.values() if not t.is_disputed)
        return max(0, left - sum(t.overdrawn_minor for t in self.tenders.values()))

    @property
    def is_held_open(self) -> bool:
        """An open dispute holds money that comes free when it is won."""
        return any(t.is_disputed and self.held_minor(t) > self.lost_minor(t) for t in self.tenders.values())

    @property
    def disputed_tenders(self) -> tuple[str, ...]:
        return tuple(t.id for t in self.tenders.values() if t.is_disputed)

    def sources(self) -> list[Source]:
        """What refunds can draw on, in the order of the tenders, the oldest authorization first."""
        found = []
        for tender in self.tenders.values():
            left = self.left_minor(tender)
            for a in tender.authorizations:
                back = sum(o.holds_minor for o in self.legs(tender.id) if o.authorization == a.reference)
                back += sum(m.amount_minor for m in self.unasked_refunds(tender.id) if m.authorization == a.reference)
                back += sum(
                    d.amount_minor for d in tender.disputes.values() if d.is_lost and d.authorization == a.reference
                )
                part = min(left, a.captured_minor - back)
                if part > 0 and a.captured_at is not None:
                    found.append(Source(tender.id, tender.kind, a.reference, part, a.captured_at))
                    left -= part
        return found

    def excess_minor(self, *, with_dead: bool) -> int:
        """Captured above what the order is still worth, and neither given back nor asked back yet, by whatever kind.

        `with_dead`: refunds that a person turned down count as answered, so that nothing asks for them again by itself.
        """
        asked = sum(
            r.amount_minor for r in self.refunds.values() if r.kind in REPAYS_EXCESS and (with_dead or not r.is_dead)
        )
        cheaper = sum(
            cumulative(
                self.price_reduced_minor(id, of_substitutes=False),
                min(self.of_line(id).cancelled, line.quantity),
                line.quantity,
            )
            for id, line in self.lines.items()
        )
        return max(0, min(self.order_captured_minor - asked - self.worth_minor - cheaper, self.unclaimed_minor))

    @property
    def unclaimed_minor(self) -> int:
        """Captured, and neither lost to a dispute nor spoken for by any refund, those that wait included."""
        waiting = sum(
            r.amount_minor - self.paid_out_minor(r) - self.paying_out_minor(r)
            for r in self.refunds.values()
            if not r.is_dead
        )
        left = sum(self.left_minor(t) - t.overdrawn_minor for t in self.tenders.values())
        return left - waiting

    def cheaper_substitutes(self) -> Iterator[tuple[str, tuple[RefundLine, ...]]]:
        """What the substitutes of each shipment cost less, by line: the units they stand for are worth what they were
        captured for, their share of the line by cumulative rounding, after the units that had left before."""
        for shipment_id, substitutes in self.substitutes.items():
            counted = dict(self.handed_over_before.get(shipment_id, {}))
            less = []
            for units in substitutes:
                if (line := self.lines.get(units.line_id)) is None:
                    continue
                before = counted.get(units.line_id, 0)
                after = counted[units.line_id] = min(before + units.quantity, line.quantity)
                worth = cumulative(line.goods_minor, after, line.quantity)
                worth -= cumulative(line.goods_minor, before, line.quantity)
                if (amount := worth - (after - before) * units.unit_price_minor) > 0:
                    less.append(RefundLine(line_id=units.line_id, quantity=0, amount_minor=amount))
            yield shipment_id, tuple(less)

    def price_reduced_minor(self, line_id: str, *, of_substitutes: bool = True) -> int:
        """What live refunds took off the price of the line's units; `of_substitutes`: off that of substitutes too."""
        return sum(
            line.amount_minor
            for r in self.refunds.values()
            if not r.is_dead and r.kind in REDUCES_PRICE and (of_substitutes or not r.is_of_substitutes)
            for line in r.lines_of(line_id)
        )

    def still_due(self, asked: tuple[RefundLine, ...]) -> tuple[RefundLine, ...]:
        """What of the lines was not given back yet: no unit a second time, no part of a price that was reduced, and shipping
        once."""
        due, shipping = [], max(0, self.shipping_minor - self.shipping_refunded_minor)
        for line in map(self._still_due, asked):
            again = max(0, min(line.shipping_minor, line.amount_minor) - shipping)
            shipping -= line.shipping_minor - again
            due.append(
                line.model_copy(
                    update={
                        "amount_minor": line.amount_minor - again,
                        "already_minor": line.already_minor + again,
                        "shipping_minor": line.shipping_minor - again,
                    }
                )
                if again
                else line
            )
        return tuple(due)

    @property
    def shipping_refunded_minor(self) -> int:
        live = [r for r in self.refunds.values() if not r.is_dead]
        own = sum(r.amount_minor for r in live if r.kind is RefundKind.SHIPPING)
        return own + sum(line.shipping_minor for r in live for line in r.lines)

    def _still_due(self, asked: RefundLine) -> RefundLine:
        placed = self.lines.get(asked.line_id)
        if placed is None:
            return asked
        cancelled = min(self.of_line(asked.line_id).cancelled, placed.quantity)
        price = placed.goods_minor + placed.shipping_minor - cumulative(placed.goods_minor, cancelled, placed.quantity)
        most = max(0, price - self.refunded_value(asked.line_id))
        if not asked.quantity:
            return _line_of(asked, 0, min(asked.amount_minor, most), 0)
        left = max(0, placed.quantity - cancelled - self.refunded_units(asked.line_id))
        units = min(asked.quantity, left)
        worth = cumulative(asked.amount_minor, units, asked.quantity)
        reduced = self.price_reduced_minor(asked.line_id)
        if not reduced or not units:
            return _line_of(asked, units, worth, 0)
        general = self.price_reduced_minor(asked.line_id, of_substitutes=False)
        counted = cumulative(general, cancelled, placed.quantity) + sum(
            line.already_minor for r in self.refunds.values() if not r.is_dead for line in r.lines_of(asked.line_id)
        )
        already = min(worth, cumulative(max(0, reduced - counted), units, left))
        already = max(already, worth - most)
        return _line_of(asked, units, worth - already, already)

    def refunded_units(self, line_id: str, kinds: frozenset[RefundKind] = frozenset(RefundKind)) -> int:
        return sum(r.units_of(line_id) for r in self.refunds.values() if not r.is_dead and r.kind in kinds)

    def refunded_value(self, line_id: str) -> int:
        """Money of a line that live refunds were asked for."""
        return sum(line.amount_minor for r in self.refunds.values() if not r.is_dead for line in r.lines_of(line_id))

    def paid_out_minor(self, refund: Refund) -> int:
        legs = (self.operations[id] for id in refund.legs)
        return sum(o.amount_minor for o in legs if o.status is OperationStatus.SUCCEEDED)

    def paying_out_minor(self, refund: Refund) -> int:
        return sum(self.operations[id].amount_minor for id in refund.legs if self.operations[id].is_in_flight)

    @property
    def movement_id(self) -> str:
        return f"{self.order_id}-M{len(self.movements) + 1}"

    def operation_id(self, ahead: int = 0) -> str:
        """The id of the next operation on a tender, or of the one `ahead` of it."""
        count = sum(1 for o in self.operations.values() if o.kind is not OperationKind.REFUND)
        return f"{self.order_id}-P{count + 1 + ahead}"

    def refund_id(self) -> str:
        return f"{self.order_id}-R{len(self.refunds) + 1}"


def _line_of(line: RefundLine, quantity: int, amount_minor: int, already_minor: int) -> RefundLine:
    return RefundLine(
        line_id=line.line_id,
        quantity=quantity,
        amount_minor=amount_minor,
        already_minor=already_minor,
        shipping_minor=min(line.shipping_minor, amount_minor),
    )


def invariants(state: Account) -> list[str]:
    """The invariants of the domain that the account breaks, in words: always none."""
    broken = []
    for t in state.tenders.values():
        refunds = state.refunded_minor(t.id) + state.refunding_minor(t.id)
        if t.captured_minor + t.voided_minor > t.authorized_minor:
            broken.append(f"I6: tender {t.id} captured {t.captured_minor} of {t.authorized_minor} authorized")
        if refunds + state.held_minor(t) > t.captured_minor + t.overdrawn_minor:
            broken.append(f"I6: tender {t.id} gives back {refunds} of {t.captured_minor} captured")
    overdrawn = sum(t.overdrawn_minor for t in state.tenders.values())
    if (back := state.refunded_minor() + state.refunding_minor()) > state.captured_minor + overdrawn:
        broken.append(f"I7: refunds of {back} of {state.captured_minor} captured")
    for id in state.charges:
        taken = [t.id for t in state.tenders.values() if t.exchange_id == id and t.captured_minor]
        if len(taken) > 1:
            broken.append(f"I7: exchange {id} is charged {len(taken)} times: {', '.join(taken)}")
    for id, line in state.lines.items():
        units = state.of_line(id)
        if (n := state.refunded_units(id)) > units.due_back + units.cancelled + units.undelivered:
            broken.append(f"I8: line {id} has {n} units refunded of {line.quantity}")
    return broken + [
        f"I10: the legs of refund {r.id} sum up to more than it"
        for r in state.refunds.values()
        if state.paid_out_minor(r) + state.paying_out_minor(r) > r.amount_minor
    ]


@remembering_last_fold
def evolve(state: Account, fact: Fact) -> Account:
    """The account after the fact. Raises NotAllowed where a machine does not list it, TypeError for a fact of others."""
    return _overdraw(_evolve(state, fact), fact)


def _evolve(state: Account, fact: Fact) -> Account:
    match fact:
        case PaymentOpened():
            lines = {n.line_id: Line(n.quantity, n.goods_minor, n.shipping_minor) for n in fact.lines}
            return replace(
                state,
                customer_id=fact.customer_id,
                currency=fact.currency,
                placed_at=fact.placed_at,
                total_minor=fact.total_minor,
                shipping_minor=fact.shipping_minor,
                lines=lines,
                tenders={t.tender_id: Tender(t.tender_id, t.kind, t.token, t.amount_minor) for t in fact.tenders},
            )
        case PaymentUnitsNoted():
            return _note(state, fact)
        case TenderFact():
            return _operate(state, fact)
        case PaymentAuthorizationExpired():
            return _with_tender(state, tenders.expire(state.tenders[fact.tender_id], fact))
        case PaymentAnomalyDetected(operation_id=None):
            return state
        case PaymentAnomalyDetected(operation_id=str(id)):
            return _with_operation(state, replace(state.operations[id], has_anomaly=True))
        case PaymentChargeRequested():
            was = state.charges.get(fact.exchange_id)
            status = CHARGE.step(was.status, fact) if was else CHARGE.initial
            charge = Charge(fact.exchange_id, fact.return_id, fact.amount_minor, status)
            return replace(state, charges={**state.charges, charge.exchange_id: charge})
        case ChargeFact():
            return _with_charge(state, fact.exchange_id, fact)
        case DisputeFact():
            return _with_tender(state, tenders.dispute(state.tenders[fact.tender_id], fact))
        case PaymentMovementRecorded():
            return _move(state, fact)
        case RefundLegFact():
            return _pay_out(state, fact)
        case RefundFact():
            return _refund(state, fact)
        case StoreCreditFact():
            return state
        case _:
            raise TypeError(f"{fact.type} is no fact of payments")


def _with_tender(state: Account, tender: Tender) -> Account:
    return replace(state, tenders={**state.tenders, tender.id: tender})


def _with_charge(state: Account, exchange_id: str, fact: Fact) -> Account:
    was = state.charges[exchange_id]
    charge = replace(was, status=CHARGE.step(was.status, fact))
    return replace(state, charges={**state.charges, exchange_id: charge})


def _with_operation(state: Account, operation: Operation) -> Account:
    return replace(state, operations={**state.operations, operation.id: operation})


def _with_refund(state: Account, refund: Refund) -> Account:
    return replace(state, refunds={**state.refunds, refund.id: refund})


def _note(state: Account, fact: PaymentUnitsNoted) -> Account:
    match fact.change:
        case UnitsChange.EXCEPTIONAL:
            return replace(state, exceptions=(*state.exceptions, fact.cause_id))
        case UnitsChange.CLAIMED:
            return replace(state, claims=(*state.claims, fact.cause_id))
        case change:
            before = {id: units.handed_over for id, units in state.units.items()}
            counters = dict(state.units)
            for line in fact.lines:
                was = counters.get(line.line_id, Units())
                counted = getattr(was, change.value) + line.quantity
                counters[line.line_id] = replace(was, **{change.value: counted})
            for line in fact.returned:
                was = counters.get(line.line_id, Units())
                counters[line.line_id] = replace(was, cancelled_back=was.cancelled_back + line.quantity)
            state = replace(state, units=counters)
            if fact.substitutes:
                state = replace(
                    state,
                    substitutes={**state.substitutes, fact.cause_id: fact.substitutes},
                    handed_over_before={**state.handed_over_before, fact.cause_id: before},
                )
    if fact.change is UnitsChange.HANDED_OVER:
        return replace(state, last_shipment=fact.cause_id)
    if fact.change is UnitsChange.CANCELLED:
        return replace(state, last_cancellation=fact.cause_id)
    return state


def _move(state: Account, fact: PaymentMovementRecorded) -> Account:
    movement = Movement(
        fact.movement_id,
        fact.kind,
        fact.tender_id,
        fact.amount_minor,
        fact.reference,
        fact.authorization,
        fact.operation_id,
    )
    state = replace(state, movements={**state.movements, movement.id: movement})
    if fact.kind is MovementKind.CAPTURE and fact.tender_id is not None:
        return _with_tender(state, tenders.capture_unasked(state.tenders[fact.tender_id], fact))
    return state


def _overdraw(state: Account, fact: Fact) -> Account:
    """How much went beyond what was captured. What the provider reports may raise it, what we decide never does."""
    is_reported = isinstance(fact, PaymentMovementRecorded | DisputeFact)
    for t in state.tenders.values():
        if is_reported or t.overdrawn_minor:
            beyond = max(0, state.gone_minor(t.id) - t.captured_minor)
            beyond = beyond if is_reported else min(beyond, t.overdrawn_minor)
            if beyond != t.overdrawn_minor:
                state = _with_tender(state, replace(t, overdrawn_minor=beyond))
    return state


def _operate(state: Account, fact: TenderFact) -> Account:
    """Authorizations, captures, voids, and what is known of any operation."""
    operation = state.operations.get(fact.operation_id)
    match fact:
        case PaymentAuthorizationRequested():
            return _begin(state, fact, OperationKind.AUTHORIZE, None)
        case PaymentCaptureRequested():
            return _begin(state, fact, OperationKind.CAPTURE, fact.shipment_id)
        case PaymentVoidRequested():
            return _begin(state, fact, OperationKind.VOID, None)
    if operation is None:
        raise TypeError(f"{fact.type} of an operation nobody asked for")
    match fact:
        case PaymentOperationSubmitted():
            return _with_operation(state, _submitted(operation, fact))
        case PaymentOperationUnknown():
            return _with_operation(state, replace(operation, status=OPERATION.step(operation.status, fact)))
        case PaymentOperationReconciled():
            to = OperationStatus.REQUESTED if fact.outcome == "never_seen" else OperationStatus.UNKNOWN
            return _with_operation(state, replace(operation, status=OPERATION.step(operation.status, fact, to)))
    tender = state.tenders[fact.tender_id]
    done = replace(operation, status=OPERATION.step(operation.status, fact))
    match fact:
        case PaymentAuthorized() | PaymentReauthorized():
            tender = tenders.authorize(tender, fact, operation.requested_at)
            done = replace(done, amount_minor=fact.amount_minor, reference=fact.reference)
        case PaymentCaptured():
            tender = tenders.capture(tender, fact, operation.authorization or "", operation.requested_at)
            done = replace(done, amount_minor=fact.amount_minor, reference=fact.reference, code=None)
            if tender.exchange_id is not None:
                state = _with_charge(state, tender.exchange_id, fact)
        case PaymentVoided():
            tender = tenders.release(tender, fact)
            done = replace(done, code=None)
        case PaymentDeclined():
            tender = replace(tender, status=TENDER.step(tender.status, fact))
            done = replace(done, code=fact.code)
        case PaymentCaptureFailed():
            refused = tender.is_capture_refused or fact.code != EXPIRED_AUTHORIZATION
            tender = replace(tender, status=TENDER.step(tender.status, fact), is_capture_refused=refused)
            done = replace(done, code=fact.code)
        case PaymentVoidFailed():
            tender = replace(tender, status=TENDER.step(tender.status, fact), is_void_refused=True)
            done = replace(done, code=fact.code)
        case _:
            raise TypeError(f"{fact.type} is no fact of an operation")
    return _with_operation(_with_tender(state, tender), done)


def _begin(
    state: Account,
    fact: PaymentAuthorizationRequested | PaymentCaptureRequested | PaymentVoidRequested,
    kind: OperationKind,
    shipment_id: str | None,
) -> Account:
    tender = state.tenders.get(fact.tender_id) or _charging(state, fact)
    is_new = kind is OperationKind.AUTHORIZE
    operation = Operation(
        id=fact.operation_id,
        kind=kind,
        tender_id=tender.id,
        amount_minor=fact.amount_minor,
        requested_at=fact.requested_at,
        authorization=None if is_new else tender.current.reference,
        final=isinstance(fact, PaymentCaptureRequested) and fact.final,
        shipment_id=shipment_id,
    )
    tender = replace(
        tender,
        status=TENDER.step(tender.status, fact),
        attempts=tender.attempts + is_new,
        is_capture_refused=tender.is_capture_refused and kind is not OperationKind.CAPTURE,
    )
    return _with_operation(_with_tender(state, tender), operation)


def _charging(state: Account, fact: TenderFact) -> Tender:
    """The tender of a charge begins with its authorization."""
    if not isinstance(fact, PaymentAuthorizationRequested) or fact.charged_tender_id is None:
        raise TypeError(f"{fact.type} of a tender nobody placed")
    return Tender(
        fact.tender_id,
        fact.tender_kind,
        state.tenders[fact.charged_tender_id].token,
        fact.amount_minor,
        exchange_id=fact.exchange_id,
        charged_tender_id=fact.charged_tender_id,
    )


def _submitted(operation: Operation, fact: PaymentOperationSubmitted | RefundLegSubmitted) -> Operation:
    status = OPERATION.step(operation.status, fact)
    return replace(operation, status=status, submissions=operation.submissions + 1)


def _refund(state: Account, fact: RefundFact) -> Account:
    if isinstance(fact, RefundRequested):
        return _with_refund(
            state,
            Refund(
                id=fact.refund_id,
                kind=fact.kind,
                cause_id=fact.cause_id,
                amount_minor=fact.amount_minor,
                currency=fact.currency,
                trigger_at=fact.trigger_at,
                requester=fact.requester,
                return_id=fact.return_id,
                lines=fact.lines,
                channel=fact.channel,
                consents=fact.consents,
                stated_minor=fact.stated_minor,
                account=fact.account,
            ),
        )
    refund = state.refunds[fact.refund_id]
    to = None
    if isinstance(fact, RefundAttentionNeeded) and refund.status is RefundStatus.PROCESSING:
        to = RefundStatus.FAILED if fact.reason_code == PAYOUT_FAILED else RefundStatus.ATTENTION
    refund = replace(refund, status=REFUND.step(refund.status, fact, to))
    match fact:
        case RefundApproved():
            refund = replace(refund, is_approved=True, approver=fact.approver)
        case RefundRouted():
            return _with_legs(state, refund, fact)
        case RefundCancelled():
            state = _without_legs(state, refund, fact)
        case RefundReduced():
            refund = replace(refund, amount_minor=fact.amount_minor)
        case RefundAttentionNeeded():
            refund = replace(refund, attention=fact.reason_code)
        case RefundApprovalRequired() | RefundRejected() | RefundCompleted() | RefundPartiallyCompleted():
            pass
        case _:
            raise TypeError(f"{fact.type} is no fact of a refund")
    return _with_refund(state, refund)


def _with_legs(state: Account, refund: Refund, fact: RefundRouted) -> Account:
    """Every leg is an operation; its id is its key with the provider."""
    operations = dict(state.operations)
    account = fact.account or refund.account
    for leg in fact.legs:
        operations[leg.leg_id] = Operation(
            id=leg.leg_id,
            kind=OperationKind.REFUND,
            tender_id=leg.tender_id,
            amount_minor=leg.amount_minor,
            requested_at=fact.requested_at,
            authorization=leg.authorization,
            refund_id=refund.id,
            channel=leg.channel,
            account_id=account.account_id if account and leg.channel is RefundChannel.BANK_TRANSFER else None,
        )
    legs = (*refund.legs, *(leg.leg_id for leg in fact.legs))
    refund = replace(refund, legs=legs, promised_at=fact.promised_at, account=account)
    return _with_refund(replace(state, operations=operations), refund)


def _without_legs(state: Account, refund: Refund, fact: RefundCancelled) -> Account:
    operations = dict(state.operations)
    for id in refund.legs:
        leg = operations[id]
        if leg.status in IN_FLIGHT:
            operations[id] = replace(leg, status=OPERATION.step(leg.status, fact), code="cancelled")
    return replace(state, operations=operations)


def _pay_out(state: Account, fact: RefundLegFact) -> Account:
    refund, leg = state.refunds[fact.refund_id], state.operations[fact.operation_id]
    refund = replace(refund, status=REFUND.step(refund.status, fact))
    match fact:
        case RefundLegSubmitted():
            leg = _submitted(leg, fact)
        case RefundLegSucceeded():
            status = OPERATION.step(leg.status, fact)
            leg = replace(leg, status=status, amount_minor=fact.amount_minor, reference=fact.reference, code=None)
        case RefundLegFailed() | RefundLegReversed():
            leg = replace(leg, status=OPERATION.step(leg.status, fact), code=fact.code)
        case _:
            raise TypeError(f"{fact.type} is no fact of a refund leg")
    return _with_operation(_with_refund(state, refund), leg)
