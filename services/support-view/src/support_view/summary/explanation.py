"""Why an order is as it is, in plain sentences made from its facts. Each clause says what it is about, so that the
facts behind it can be read. The same sections give the same words."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from shared.contracts.base import Bucket, Model
from shared.contracts.payments import OperationKind
from support_view.domain.fulfillment import Backorder, Shipment, ShipmentStatus
from support_view.domain.orders import Status as OrderStatus
from support_view.domain.payments import ChargeStatus, DisputeStatus, LegStatus, OperationStatus, Refund, RefundStatus
from support_view.domain.returns import Return
from support_view.domain.returns import Status as ReturnStatus
from support_view.domain.timeline import Words, day, plain, plural
from support_view.summary.goods import ShipmentState
from support_view.summary.money import Totals, refund_words
from support_view.summary.quantities import LineQuantities
from support_view.summary.returns import decision, inspection
from support_view.summary.sections import Sections


# A summary has fifty of them, made each time it is read: neither checked nor frozen, they cost an eighth.
@dataclass(slots=True)
class Clause:
    """One thing that is so, and what says so."""

    text: str
    domain: Annotated[str, Field(description="whose facts it rests on; a filter of the timeline")]
    about: Annotated[
        str | None, Field(description="what exactly they are about: kind:id; a filter of the timeline")
    ] = None


class Explanation(Model):
    """`subject` is `order`, or kind:id of a line, shipment, return or refund. Clauses read as one sentence."""

    subject: str
    clauses: tuple[Clause, ...]

    @property
    def text(self) -> str:
        return "; ".join(clause.text for clause in self.clauses) + "."


def explanations(
    s: Sections, lines: Sequence[LineQuantities], totals: Totals, goods: Sequence[ShipmentState]
) -> Iterator[Explanation]:
    """The order as a whole first, then each of its lines, shipments, refunds and returns."""
    yield _explained("order", _order(s, totals, goods))
    for line in lines:
        yield _explained(f"line:{line.line_id}", _line(s, goods, line.line_id, line.forward))
    waits = {state.shipment_id: state.waits_for for state in goods}
    for id, shipment in s.fulfillment.shipments.items():
        yield _explained(f"shipment:{id}", _shipment(s, id, shipment, waits[id]))
    for id, refund in s.payments.refunds.items():
        yield _explained(f"refund:{id}", _refund(s, id, refund))
    for id, told in s.returns.returns.items():
        yield _explained(f"return:{id}", _return(s, id, told))


def _explained(subject: str, clauses: Iterator[Clause]) -> Explanation:
    first, *rest = clauses
    if first.text[:1].islower():
        capital = first.text[:1].upper() + first.text[1:]
        first = Clause(text=capital, domain=first.domain, about=first.about)
    return Explanation(subject=subject, clauses=(first, *rest))


def _order(s: Sections, totals: Totals, goods: Sequence[ShipmentState]) -> Iterator[Clause]:
    yield from _standing(s)
    yield from _goods(s, goods)
    yield from _money(s, totals)
    for id, refund in s.payments.refunds.items():
        yield Clause(text=_refund_in_short(s.words, refund), domain="payment", about=f"refund:{id}")
    for id, told in s.returns.returns.items():
        text = f"return of {s.contents(_asked(told), s.words.sent)}: {_return_stands(told)}"
        yield Clause(text=text, domain="return", about=f"return:{id}")
    for id, dispute in s.payments.disputes.items():
        if dispute.status == DisputeStatus.OPEN:
            text = f"{s.words.money(dispute.amount_minor)} are disputed with the bank"
            yield Clause(text=text, domain="payment", about=f"dispute:{id}")


def _standing(s: Sections) -> Iterator[Clause]:
    """What is to be said before the goods; at least one clause where there are none yet."""
    orders = s.orders
    match orders.standing:
        case None:
            yield Clause(text="the order itself has not been seen yet", domain="order")
        case OrderStatus.REJECTED:
            yield Clause(text=f"rejected: {orders.rejection}", domain="order")
        case OrderStatus.CANCELLED:
            yield Clause(text="cancelled, nothing will be delivered", domain="order")
        case OrderStatus.CLOSED:
            yield Clause(text="closed", domain="order")
        case OrderStatus.PLACED if orders.placed is not None:
            total = s.words.money(orders.placed.total_minor)
            yield Clause(text=f"waits for {total} to be authorized", domain="payment")
        case OrderStatus.CONFIRMED if not s.fulfillment.shipments and not s.fulfillment.backorders:
            yield Clause(text="paid or promised, and not planned yet", domain="order")
    for name, hold in orders.holds.items():
        detail = f" ({hold.detail})" if hold.detail else ""
        yield Clause(text=f"held since {day(hold.since)}: {plain(name)}{detail}", domain="order")
    for id, cancellation in orders.pending.items():
        text = f"the warehouse is asked to cancel {s.contents(cancellation.asked)}"
        yield Clause(text=text, domain="order", about=f"cancellation:{id}")


def _goods(s: Sections, goods: Sequence[ShipmentState]) -> Iterator[Clause]:
    owed = sum(sum(units.values()) for units in s.fulfillment.units.values())
    live = {id: shipment for id, shipment in s.fulfillment.shipments.items() if shipment.is_live}
    shipped = [(id, shipment) for id, shipment in live.items() if shipment.shipped_at is not None]
    for place, (id, shipment) in enumerate(sorted(shipped, key=lambda one: (one[1].shipped_at, one[0]))):
        what = f"{_units(shipment)} more" if place else f"{_units(shipment)} of {owed} shipped"
        yield Clause(text=f"{what} on {day(shipment.shipped_at)}", domain="fulfillment", about=f"shipment:{id}")
    if delivered := sum(units.get(Bucket.DELIVERED, 0) for units in s.fulfillment.units.values()):
        yield Clause(text=f"{delivered} delivered", domain="fulfillment")
    for state in goods:
        quantity = sum(state.lines.values())
        if state.waits_for and (state.shipped_at is None or state.status in _IN_TROUBLE):
            verb = "waits" if quantity == 1 else "wait"
            text = f"{quantity} {verb} for {state.waits_for}"
            yield Clause(text=text, domain="fulfillment", about=f"shipment:{state.shipment_id}")
    for id, backorder in s.fulfillment.backorders.items():
        if backorder.is_open:
            yield Clause(text=_waiting(backorder), domain="fulfillment", about=f"backorder:{id}")
    if cancelled := sum(units.get(Bucket.CANCELLED, 0) for units in s.fulfillment.units.values()):
        yield Clause(text=f"{cancelled} cancelled", domain="order")


_IN_TROUBLE = frozenset({ShipmentStatus.EXCEPTION, ShipmentStatus.LOST, ShipmentStatus.RETURNING_TO_SENDER})


def _units(shipment: Shipment) -> int:
    return sum(shipment.lines.values())


def _waiting(backorder: Backorder) -> str:
    """`1 waits for goods due 12 May 2026, slipped once; the customer is to choose by 3 May 2026`."""
    verb = "waits" if backorder.remaining == 1 else "wait"
    text = (
        f"{backorder.remaining} {verb} for goods {f'due {day(backorder.eta)}' if backorder.eta else 'without a date'}"
    )
    if slips := len(backorder.slips):
        text += ", slipped " + {1: "once", 2: "twice"}.get(slips, f"{slips} times")
    if backorder.consent_due_at:
        text += f", and the customer is to choose by {day(backorder.consent_due_at)}"
    return text


def _money(s: Sections, money: Totals) -> Iterator[Clause]:
    if money.captured.minor and money.captured.minor == money.remaining.minor:
        yield Clause(text=f"{money.captured.text} charged, which is all", domain="payment")
    elif money.captured.minor or s.orders.standing in (OrderStatus.CONFIRMED, OrderStatus.COMPLETED):
        of = f" of {money.remaining.text}" if money.remaining.minor else ""
        yield Clause(text=f"{money.captured.text}{of} charged so far", domain="payment")
    if money.charged.minor:
        yield Clause(text=f"{money.charged.text} more charged for exchanges", domain="payment")
    for id, charge in s.payments.charges.items():
        if charge.status == ChargeStatus.FAILED:
            text = f"{s.words.money(charge.amount_minor)} for exchange {id} could not be charged: {plain(charge.code)}"
            yield Clause(text=text, domain="payment", about=f"return:{charge.return_id}")
    if money.voided.minor:
        yield Clause(text=f"{money.voided.text} of what was held were released", domain="payment")
    for tender_id, code in s.payments.capture_failures.items():
        text = f"a charge to the {s.words.tender(tender_id)} failed: {plain(code)}"
        yield Clause(text=text, domain="payment", about=f"tender:{tender_id}")
    for operation in s.payments.operations.values():
        if operation.status == OperationStatus.UNKNOWN:
            what = "charge" if operation.kind == OperationKind.CAPTURE else plain(operation.kind.value)
            text = f"whether a {what} of {s.words.money(operation.amount_minor)} happened is not known yet"
            yield Clause(text=text, domain="payment", about=f"tender:{operation.tender_id}")


def _refund_in_short(words: Words, refund: Refund) -> str:
    amount = words.money(refund.amount_minor)
    match refund.status:
        case RefundStatus.SUCCEEDED:
            return f"a refund of {amount} was completed on {day(refund.completed_at)}"
        case RefundStatus.PENDING_APPROVAL:
            return f"a refund of {amount} waits for an approval"
        case RefundStatus.ATTENTION | RefundStatus.FAILED | RefundStatus.PARTIALLY_SUCCEEDED:
            return f"{words.money(refund.outstanding_minor)} of a refund of {amount} cannot be paid out by itself"
        case RefundStatus.REVERSED:
            return f"a refund of {amount} bounced"
        case RefundStatus.REJECTED | RefundStatus.CANCELLED:
            return f"a refund of {amount} was {refund.status.value}"
        case _ if any(leg.status == LegStatus.SUBMITTED for leg in refund.legs.values()) and refund.promised_at:
            return f"a refund of {amount} was submitted, the customer has it by {day(refund.promised_at)}"
        case _:
            return f"a refund of {amount} is on its way"


def _line(s: Sections, goods: Sequence[ShipmentState], line_id: str, forward: Mapping[Bucket, int]) -> Iterator[Clause]:
    """Where each unit of it is, and what those wait for that are not there."""
    told = False
    for state in goods:
        if (quantity := state.lines.get(line_id, 0)) and state.status != ShipmentStatus.CANCELLED:
            told = True
            where = f"{quantity} in {s.words.shipment(state.shipment_id)}"
            after = f", delivered on {day(state.delivered_at)}" if state.delivered_at else ""
            waits = f", waits for {state.waits_for}" if state.waits_for else ""
            yield Clause(text=f"{where}{after or waits}", domain="fulfillment", about=f"shipment:{state.shipment_id}")
    for id, backorder in s.fulfillment.backorders.items():
        if backorder.line_id == line_id and backorder.is_open:
            told = True
            yield Clause(text=_waiting(backorder), domain="fulfillment", about=f"backorder:{id}")
    if cancelled := forward[Bucket.CANCELLED]:
        told = True
        yield Clause(text=f"{cancelled} cancelled", domain="order")
    if not told:
        yield Clause(text=f"{plural(sum(forward.values()), 'unit')} not planned yet", domain="fulfillment")


def _shipment(s: Sections, id: str, shipment: Shipment, waits: str) -> Iterator[Clause]:
    about = f"shipment:{id}"
    yield Clause(
        text=f"{s.contents(shipment.lines, shipment.substituted)}, planned from {shipment.location or 'a place not known yet'}"
        + (f" on {day(shipment.created_at)}" if shipment.created_at else ""),
        domain="fulfillment",
        about=about,
    )
    if shipment.replaces:
        yield Clause(
            text=f"it replaces {s.words.shipment(shipment.replaces)}",
            domain="fulfillment",
            about=f"shipment:{shipment.replaces}",
        )
    if not shipment.is_live:
        yield Clause(text="cancelled before it left", domain="fulfillment", about=about)
    if shipment.shipped_at:
        by = f" with {shipment.carrier}" if shipment.carrier else ""
        yield Clause(text=f"shipped on {day(shipment.shipped_at)}{by}", domain="fulfillment", about=about)
    if captured := s.payments.captured_by_shipment.get(id):
        yield Clause(text=f"{s.words.money(captured)} charged for it", domain="payment", about=about)
    if shipment.delivered_at:
        yield Clause(text=f"delivered on {day(shipment.delivered_at)}", domain="fulfillment", about=about)
    if waits:
        yield Clause(text=f"waits for {waits}", domain="fulfillment", about=about)


def _refund(s: Sections, id: str, refund: Refund) -> Iterator[Clause]:
    about = f"refund:{id}"
    why = f" for a {plain(refund.kind.value)}" if refund.kind else ""
    by = f", asked for by {refund.requester}" if refund.requester else ""
    yield Clause(text=f"{s.words.money(refund.amount_minor)}{why}{by}", domain="payment", about=about)
    if refund.approver:
        yield Clause(text=f"approved by {refund.approver}", domain="payment", about=about)
    for leg in refund.legs.values():
        to = s.words.tender(leg.tender_id)
        because = f" ({Words.listed(plain(reason) for reason in leg.reasons)})" if leg.reasons else ""
        yield Clause(
            text=f"{s.words.money(leg.amount_minor)} to the {to}{because}: {plain(leg.status.value)}",
            domain="payment",
            about=about,
        )
    if text := refund_words(refund, s.words):
        yield Clause(text=text, domain="payment", about=about)


def _asked(told: Return) -> dict[str, int]:
    return {line_id: asked.quantity for line_id, asked in told.asked.items()}


def _return(s: Sections, id: str, told: Return) -> Iterator[Clause]:
    about = f"return:{id}"
    asked = f"{s.contents(_asked(told), s.words.sent)} asked for on {day(told.requested_at)}"
    yield Clause(text=asked, domain="return", about=about)
    if decided := decision(told):
        under = f" under {told.policy}" if told.policy else ""
        yield Clause(text=decided + under, domain="return", about=about)
    if told.status == ReturnStatus.DECLINED:
        yield from (Clause(text=reason, domain="return", about=about) for reason in told.reasons)
    if told.received:
        arrived = f"{s.contents(told.received, s.words.sent)} received by {day(told.received_at)}"
        yield Clause(text=arrived, domain="return", about=about)
    yield from (Clause(text=f"found {found}", domain="return", about=about) for found in inspection(s, told))
    if told.due_minor:
        fees = f", {s.words.money(told.fees_minor)} kept as fees" if told.fees_minor else ""
        yield Clause(text=f"{s.words.money(told.due_minor)} due{fees}", domain="return", about=about)
    yield Clause(text=_return_stands(told), domain="return", about=about)


def _return_stands(told: Return) -> str:
    match told.status:
        case ReturnStatus.UNDER_REVIEW:
            return "waits for a person to decide"
        case ReturnStatus.DECLINED:
            return "declined"
        case ReturnStatus.APPROVED:
            return f"to be sent by {day(told.expires_at)}"
        case ReturnStatus.IN_TRANSIT:
            return f"on its way back since {day(told.sent_at)}"
        case ReturnStatus.RECEIVED | ReturnStatus.PARTIALLY_RECEIVED:
            return "waits for its inspection"
        case ReturnStatus.INSPECTING:
            return "waits to be settled"
        case ReturnStatus.RESOLVED | ReturnStatus.CLOSED:
            return f"resolved on {day(told.resolved_at)}"
        case _:
            return plain(told.status.value)
