"""Decisions of orders: a command leads to facts, to nothing for a repeat, or to a refusal that says what is allowed."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

from orders.domain.placement import PlacementRequest, placed
from orders.domain.policy import OrderPolicy, in_force
from orders.domain.progress import cancelled_units, progressed
from orders.domain.quantities import OPEN, cancelled_values
from orders.domain.state import ORDER, Order, Status, evolve
from shared.contracts import fulfillment, payments
from shared.contracts.base import Bucket, Fact, LineQuantity
from shared.contracts.orders import (
    Address,
    BackorderChoice,
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
    OrderProgressed,
    OrderRejected,
    OrderReopened,
    TenderStep,
    UnitsStep,
)
from shared.core.machine import Invalid, NotAllowed


@dataclass(frozen=True, slots=True)
class Place:
    order_id: str
    request: PlacementRequest
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A change is a command from outside. `version`, where it is given, is what the caller believes the order to be at."""

    at: datetime
    version: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestCancellation(Change):
    """It asks for units not to be sent. `lines` None: everything that has not arrived."""

    lines: tuple[LineQuantity, ...] | None
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceHold(Change):
    hold: Hold
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseHold(Change):
    hold: Hold
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeAddress(Change):
    ship_to: Address


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveConsent(Change):
    backorder_id: str
    choice: BackorderChoice
    substitute_sku: str | None = None
    substitute_title: str | None = None
    substitute_unit_price_minor: int | None = None


@dataclass(frozen=True, slots=True)
class RecordFact:
    """It records a fact of another service in the order's counters, and what follows from it."""

    fact: Fact
    at: datetime


@dataclass(frozen=True, slots=True)
class Close:
    at: datetime


Command: TypeAlias = (
    Place | RequestCancellation | PlaceHold | ReleaseHold | ChangeAddress | GiveConsent | RecordFact | Close
)

_LIVE = (Status.PLACED, Status.CONFIRMED, Status.CANCEL_PENDING)


def decide(order: Order | None, command: Command, policies: Sequence[OrderPolicy]) -> list[Fact]:
    """Return the command's own facts and then what follows from them, until nothing does."""
    facts = _decided(order, command, policies)
    if order is not None and not any(_may_lead_on(order, fact) for fact in facts):
        return facts
    for fact in facts:
        order = evolve(order, fact)
    while facts and order is not None and (following := _following(order, command.at, policies)) is not None:
        facts.append(following)
        order = evolve(order, following)
    return facts


def _may_lead_on(order: Order, fact: Fact) -> bool:
    """Say whether anything may follow. Most facts move units nearer to their end, or money of a confirmed order: nothing
    follows from those."""
    if not isinstance(fact, OrderProgressed):
        return True
    match fact.step:
        case UnitsStep(moves=moves):
            return any(move.target not in OPEN for move in moves)
        case TenderStep():
            return order.status is Status.PLACED
        case _:
            return True


def _decided(order: Order | None, command: Command, policies: Sequence[OrderPolicy]) -> list[Fact]:
    if order is None:
        if isinstance(command, Place):
            return [placed(command.order_id, command.request)]
        raise NotAllowed("unknown", type(command).__name__, ("Place",), "the order is not known")
    if isinstance(command, Change) and command.version not in (None, order.version):
        raise _refused(order, command, f"the order is at version {order.version}, not {command.version}")
    match order.status, command:
        case _, RecordFact(fact=fact, at=at):
            return _recorded(order, fact, at, policies)
        case Status.PLACED | Status.CONFIRMED, RequestCancellation():
            return [_cancellation(order, command)]
        case Status.CANCEL_PENDING, RequestCancellation():
            raise _refused(order, command, f"{order.pending} is not answered yet; ask again when it is")
        case Status.PLACED | Status.CONFIRMED | Status.CANCEL_PENDING, PlaceHold(hold=hold, detail=detail):
            if hold in order.holds:
                return []
            return [OrderHoldPlaced(order_id=order.order_id, hold=hold, detail=detail)]
        case _, ReleaseHold(hold=hold, detail=detail):
            if hold not in order.holds:
                held = ", ".join(order.holds) or "none"
                raise _refused(order, command, f"hold {hold} is not on the order; holds on it: {held}")
            return [OrderHoldReleased(order_id=order.order_id, hold=hold, detail=detail)]
        case Status.PLACED | Status.CONFIRMED | Status.CANCEL_PENDING, ChangeAddress(ship_to=ship_to):
            if ship_to == order.ship_to:
                return []
            if not order.is_in_house:
                raise _refused(order, command, "everything has been handed over")
            return [OrderAddressChanged(order_id=order.order_id, ship_to=ship_to)]
        case Status.CONFIRMED | Status.CANCEL_PENDING, GiveConsent():
            return [_consent(order, command)]
        case Status.COMPLETED, Close(at=at) if order.closes_at is not None and at >= order.closes_at:
            return [] if order.has_something_open else [OrderClosed(order_id=order.order_id)]
        case Status.CLOSED, Close():
            return []
        case _:
            raise _refused(order, command)


def _refused(order: Order, command: Command, detail: str = "") -> NotAllowed:
    return NotAllowed(order.status, type(command).__name__, ORDER.allowed(order.status), detail)


def _cancellation(order: Order, command: RequestCancellation) -> OrderCancellationRequested:
    """Ask for everything that has not arrived, or came back to us. Fulfillment answers for each unit, whatever we last heard."""
    open_units = {id: line.count(*OPEN) + order.back_in_house(id) for id, line in order.lines.items()}
    if command.lines is None:
        asked = {line_id: quantity for line_id, quantity in open_units.items() if quantity}
    else:
        asked = {}
        for i, line in enumerate(command.lines):
            if line.line_id not in order.lines:
                raise Invalid(f"lines.{i}.line_id", "is not a line of this order")
            if line.line_id in asked:
                raise Invalid(f"lines.{i}.line_id", "is there twice")
            if line.quantity > open_units[line.line_id]:
                left = open_units[line.line_id]
                raise Invalid(f"lines.{i}.quantity", f"must not exceed the {left} units that are not yet there")
            asked[line.line_id] = line.quantity
    if not order.is_in_house:
        raise _refused(
            order, command, "nothing is left to cancel: units in transit need a recall, delivered ones a return"
        )
    return OrderCancellationRequested(
        order_id=order.order_id,
        cancellation_id=f"{order.order_id}-C{len(order.cancellations) + 1}",
        lines=tuple(LineQuantity(line_id=line_id, quantity=quantity) for line_id, quantity in asked.items()),
        whole=command.lines is None,
        detail=command.detail,
    )


def _consent(order: Order, command: GiveConsent) -> OrderBackorderConsentGiven:
    if command.backorder_id not in order.backorders:
        raise Invalid("backorder_id", "is not an open backorder of this order")
    if (command.choice is BackorderChoice.SUBSTITUTE) != (command.substitute_sku is not None):
        raise Invalid("substitute_sku", "is required to substitute, and with no other choice")
    if command.substitute_title is not None and command.substitute_sku is None:
        raise Invalid("substitute_title", "is given with a substitute only")
    price = command.substitute_unit_price_minor
    if price is not None:
        if command.substitute_sku is None:
            raise Invalid("substitute_unit_price_minor", "is given with a substitute only")
        line = order.lines[order.backorders[command.backorder_id].line_id].placed
        # What it costs more is authorized by nobody (decision 0016).
        if price > (most := line.goods_minor // line.quantity):
            raise Invalid(
                "substitute_unit_price_minor",
                f"must not exceed the {most} that a unit of the line costs: a substitute never costs more",
            )
    return OrderBackorderConsentGiven(
        order_id=order.order_id,
        backorder_id=command.backorder_id,
        choice=command.choice,
        substitute_sku=command.substitute_sku,
        substitute_title=command.substitute_title,
        substitute_unit_price_minor=price,
    )


def _recorded(order: Order, fact: Fact, at: datetime, policies: Sequence[OrderPolicy]) -> list[Fact]:
    match fact:
        case fulfillment.FulfillmentLinesCancelled() if order.status in _LIVE:
            return [_lines_cancelled(order, fact)]
        case fulfillment.FulfillmentCancellationRefused(cancellation_id=id) if (
            id in order.cancellations and order.status is not Status.CANCEL_PENDING
        ):
            # Another way of cancelling was answered first: what this one asked for is settled already.
            return []
        case fulfillment.FulfillmentCancellationRefused():
            return [
                OrderCancellationRefused(
                    order_id=order.order_id,
                    cancellation_id=fact.cancellation_id,
                    lines=fact.lines,
                    reason_code=fact.reason_code,
                )
            ]
        case fulfillment.ReplacementCreated() if order.status in (Status.COMPLETED, Status.CLOSED):
            return [OrderReopened(order_id=order.order_id, cause="replacement"), *progressed(order, fact)]
        case payments.DisputeOpened() if order.status is Status.CLOSED:
            return [_reopened(order, "dispute", at, policies), *progressed(order, fact)]
        case payments.RefundRequested(kind=payments.RefundKind.GOODWILL) if order.status is Status.CLOSED:
            return [_reopened(order, "goodwill", at, policies), *progressed(order, fact)]
        case payments.TenderFact(exchange_id=None):
            steps = progressed(order, fact)
            after = evolve(order, steps[0])
            return [*steps, *_payment_hold(order, fact, after), *_funding(order, after)]
        case payments.PaymentAuthorizationExpired(exchange_id=None):
            steps = progressed(order, fact)
            return [*steps, *_funding(order, evolve(order, steps[0]))]
        case _:
            return list(progressed(order, fact))


def _lines_cancelled(order: Order, fact: fulfillment.FulfillmentLinesCancelled) -> OrderLinesCancelled:
    lines = cancelled_values(order.lines, cancelled_units(fact))
    back = tuple(
        LineQuantity(line_id=line.line_id, quantity=line.quantity)
        for line in fact.lines
        if line.was is Bucket.RETURNED_TO_SENDER
    )
    told = OrderLinesCancelled(
        order_id=order.order_id, cancellation_id=fact.cancellation_id, lines=lines, remaining_minor=0, returned=back
    )
    return told.model_copy(update={"remaining_minor": evolve(order, told).due_minor})


def _reopened(order: Order, cause: str, at: datetime, policies: Sequence[OrderPolicy]) -> OrderReopened:
    policy = in_force(policies, order.placed_at)
    return OrderReopened.model_validate(
        {"order_id": order.order_id, "cause": cause, "closes_at": at + policy.close_after, "policy": policy.ref}
    )


def _payment_hold(order: Order, fact: payments.TenderFact, after: Order) -> list[Fact]:
    """Hold what was not paid for; release it when the money has come."""
    is_held = Hold.PAYMENT in order.holds
    is_confirmed = order.status is Status.CONFIRMED or order.resumes is Status.CONFIRMED
    match fact:
        case payments.PaymentCaptureFailed(code=code) | payments.PaymentDeclined(code=code) if (
            is_confirmed and not is_held
        ):
            return [OrderHoldPlaced(order_id=order.order_id, hold=Hold.PAYMENT, detail=code)]
        case payments.PaymentCaptured() | payments.PaymentAuthorized() | payments.PaymentReauthorized() if is_held:
            was_short = order.uncaptured or any(t.declined for t in order.tenders.values())
            is_short = after.uncaptured or any(t.declined for t in after.tenders.values())
            if was_short and not is_short:
                return [OrderHoldReleased(order_id=order.order_id, hold=Hold.PAYMENT, detail="paid")]
    return []


def _funding(order: Order, after: Order) -> list[OrderFundingChanged]:
    """Say until when the order is paid for. Fulfillment judges by its clock until when it may pack and hand over."""
    is_confirmed = order.status in (Status.CONFIRMED, Status.CANCEL_PENDING) and order.is_before_hand_over
    if not is_confirmed or after.funded_until == order.funded_until:
        return []
    return [OrderFundingChanged(order_id=order.order_id, funded_until=after.funded_until)]


def _following(order: Order, at: datetime, policies: Sequence[OrderPolicy]) -> Fact | None:
    """Return what must follow from the state alone."""
    declined = next((t for t in order.tenders.values() if t.declined is not None), None)
    match order.status:
        case Status.PLACED if declined is not None:
            return OrderRejected(
                order_id=order.order_id,
                reason_code="fraud" if declined.fraud else "payment_declined",
                detail=f"{declined.tender_id}: {declined.declined}",
            )
        case Status.PLACED if _is_covered(order):
            return OrderConfirmed(
                order_id=order.order_id,
                authorized_minor=order.authorized_minor,
                total_minor=order.due_minor,
                funded_until=order.funded_until,
            )
        case Status.CANCEL_PENDING if order.is_all_cancelled and order.pending is not None:
            return OrderCancelled(order_id=order.order_id, cancellation_id=order.pending)
        case Status.CONFIRMED if order.is_all_cancelled:
            return OrderCancelled(order_id=order.order_id, cancellation_id=list(order.cancellations)[-1])
        case Status.CONFIRMED if order.is_settled:
            policy = in_force(policies, order.placed_at)
            return OrderCompleted(
                order_id=order.order_id,
                delivered=order.units(Bucket.DELIVERED),
                cancelled=order.units(Bucket.CANCELLED),
                lost=order.units(Bucket.LOST),
                closes_at=at + policy.close_after,
                policy=policy.ref,
            )
        case _:
            return None


def _is_covered(order: Order) -> bool:
    """Say whether all that is left is authorized; on terms, a first authorization is enough."""
    authorized = order.authorized_minor
    return authorized >= order.due_minor or (order.terms and authorized > 0)
