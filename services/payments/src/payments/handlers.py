"""Kafka in: facts of orders, fulfillment and returns as commands of an order's account."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from payments.domain.decide import CancelRest, Command, Confirm, DropCharge, Open, OweCharge, RecordUnitsChange
from payments.domain.payout import OweRefund
from payments.store import PAYMENTS
from shared.contracts.base import Fact, Input, LineQuantity
from shared.contracts.fulfillment import (
    ShipmentFound,
    ShipmentLost,
    ShipmentReturnedToSender,
    ShipmentShipped,
)
from shared.contracts.orders import OrderCancelled, OrderConfirmed, OrderLinesCancelled, OrderPlaced, OrderRejected
from shared.contracts.payments import PayableLine, RefundChannel, RefundKind, RefundLine, SubstituteUnits, UnitsChange
from shared.contracts.returns import (
    ClaimOpened,
    ExchangeDifferenceDue,
    ExchangeDifferenceSettled,
    RecoveryChargeRequested,
    RecoverySettled,
    Resolution,
    ReturnExceptionGranted,
    ReturnReason,
    ReturnRefundDue,
)
from shared.messaging.envelope import Cause
from shared.messaging.router import Route
from shared.messaging.shell import Message


def placed(fact: OrderPlaced, cause: Cause) -> Message[Command]:
    lines = tuple(
        PayableLine(line_id=n.line_id, quantity=n.quantity, goods_minor=n.goods_minor, shipping_minor=n.shipping_minor)
        for n in fact.lines
    )
    opening = Open(
        customer_id=fact.customer.customer_id,
        currency=fact.currency,
        lines=lines,
        shipping_minor=fact.shipping_minor,
        total_minor=fact.total_minor,
        tenders=fact.tenders,
        placed_at=fact.placed_at,
        at=cause.at,
    )
    return Message(fact.order_id, opening, cause)


def confirmed(fact: OrderConfirmed, cause: Cause) -> Message[Command]:
    return Message(fact.order_id, Confirm(cause.at), cause)


def rejected(fact: OrderRejected, cause: Cause) -> Message[Command]:
    return Message(fact.order_id, CancelRest(fact.order_id, cause.at), cause)


def cancelled(fact: OrderCancelled, cause: Cause) -> Message[Command]:
    return Message(fact.order_id, CancelRest(fact.cancellation_id, cause.at), cause)


def lines_cancelled(fact: OrderLinesCancelled, cause: Cause) -> Message[Command]:
    lines = tuple(LineQuantity(line_id=n.line_id, quantity=n.quantity) for n in fact.lines)
    recorded = RecordUnitsChange(UnitsChange.CANCELLED, fact.cancellation_id, lines, cause.at, returned=fact.returned)
    return Message(fact.order_id, recorded, cause)


def claimed(fact: ClaimOpened, cause: Cause) -> Message[Command] | None:
    """Record only units that never arrived: what the claim states for them is refunded as lost."""
    if fact.reason is not ReturnReason.NOT_RECEIVED:
        return None
    return _units_recorded(fact.order_id, UnitsChange.CLAIMED, fact.claim_id, fact.lines, cause)


def shipped(fact: ShipmentShipped, cause: Cause) -> Message[Command]:
    """Record what was handed over. Units that replace others cost nothing: those were charged when they were handed over."""
    again = {n.line_id: n.quantity for n in fact.again}
    left = ((n.line_id, n.quantity - again.get(n.line_id, 0)) for n in fact.lines)
    lines = tuple(LineQuantity(line_id=id, quantity=quantity) for id, quantity in left if quantity)
    priced = tuple(
        SubstituteUnits(line_id=s.line_id, quantity=units, unit_price_minor=s.unit_price_minor)
        for s in fact.substituted
        if s.unit_price_minor is not None and (units := s.quantity - again.get(s.line_id, 0)) > 0
    )
    return Message(
        fact.order_id,
        RecordUnitsChange(UnitsChange.HANDED_OVER, fact.shipment_id, lines, cause.at, substitutes=priced),
        cause,
    )


def undelivered(fact: ShipmentLost | ShipmentReturnedToSender, cause: Cause) -> Message[Command]:
    return _units_recorded(fact.order_id, UnitsChange.UNDELIVERED, fact.shipment_id, fact.lines, cause)


def found(fact: ShipmentFound, cause: Cause) -> Message[Command]:
    return _units_recorded(fact.order_id, UnitsChange.FOUND, fact.shipment_id, fact.lines, cause)


def exception_granted(fact: ReturnExceptionGranted, cause: Cause) -> Message[Command]:
    return _units_recorded(fact.order_id, UnitsChange.EXCEPTIONAL, fact.return_id, fact.lines, cause)


def refund_due(fact: ReturnRefundDue, cause: Cause) -> Message[Command]:
    is_credit = fact.resolution is Resolution.STORE_CREDIT
    owed = OweRefund(
        kind=RefundKind.RETURN,
        cause_id=fact.due_id,
        return_id=fact.return_id,
        lines=tuple(
            RefundLine(
                line_id=n.line_id,
                quantity=n.quantity,
                amount_minor=n.refund_minor,
                shipping_minor=min(n.shipping_minor, n.refund_minor),
            )
            for n in fact.lines
        ),
        amount_minor=fact.amount_minor,
        currency=fact.currency,
        trigger_at=fact.trigger_at,
        channel=RefundChannel.STORE_CREDIT if is_credit else RefundChannel.ORIGINAL,
        requester=cause.actor,
        at=cause.at,
    )
    return Message(fact.order_id, owed, cause)


def difference_due(fact: ExchangeDifferenceDue, cause: Cause) -> Message[Command]:
    owed = OweCharge(fact.exchange_id, fact.return_id, fact.amount_minor, fact.currency, cause.at)
    return Message(fact.order_id, owed, cause)


def recovery_charged(fact: RecoveryChargeRequested, cause: Cause) -> Message[Command]:
    """Charge like what an exchange costs more, under the id of the recovery case."""
    id = fact.recovery_id
    owed = OweCharge(id, fact.return_id or id, fact.amount_minor, fact.currency, cause.at)
    return Message(fact.order_id, owed, cause)


def recovery_settled(fact: RecoverySettled, cause: Cause) -> Message[Command] | None:
    if fact.how == "charged":
        return None
    return Message(fact.order_id, DropCharge(fact.recovery_id, cause.at), cause)


def difference_settled(fact: ExchangeDifferenceSettled, cause: Cause) -> Message[Command] | None:
    """Drop the charge, unless it was what settled the difference."""
    if fact.operation_id is not None:
        return None
    return Message(fact.order_id, DropCharge(fact.exchange_id, cause.at), cause)


def _units_recorded(
    order_id: str, change: UnitsChange, cause_id: str, lines: tuple[LineQuantity, ...], cause: Cause
) -> Message[Command]:
    return Message(order_id, RecordUnitsChange(change, cause_id, lines, cause.at), cause)


_TRANSLATIONS: Final[Mapping[type[Fact] | type[Input], Callable[[Any, Cause], Message[Command] | None]]] = {
    OrderPlaced: placed,
    OrderConfirmed: confirmed,
    OrderRejected: rejected,
    OrderCancelled: cancelled,
    OrderLinesCancelled: lines_cancelled,
    ShipmentShipped: shipped,
    ShipmentLost: undelivered,
    ShipmentReturnedToSender: undelivered,
    ShipmentFound: found,
    ClaimOpened: claimed,
    ReturnExceptionGranted: exception_granted,
    ReturnRefundDue: refund_due,
    ExchangeDifferenceDue: difference_due,
    ExchangeDifferenceSettled: difference_settled,
    RecoveryChargeRequested: recovery_charged,
    RecoverySettled: recovery_settled,
}

ROUTE: Final = Route(PAYMENTS, _TRANSLATIONS)
TOPICS: Final = ("orders.events", "fulfillment.events", "returns.events")
