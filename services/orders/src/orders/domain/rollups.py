"""Roll-ups are pure functions of an order's counters, side by side; none is set by hand and none masks another."""

from dataclasses import dataclass
from enum import StrEnum

from orders.domain.quantities import GONE_ASTRAY
from orders.domain.state import OPEN_RETURN, Order, Status
from shared.contracts.base import Bucket
from shared.contracts.orders import DisputeStage, RefundStage, ReturnStage


class PaymentStatus(StrEnum):
    NOT_REQUIRED = "not_required"
    PENDING = "pending"
    DECLINED = "declined"
    PARTLY_AUTHORIZED = "partly_authorized"
    AUTHORIZED = "authorized"
    PARTLY_CAPTURED = "partly_captured"
    CAPTURED = "captured"
    VOIDED = "voided"


class RefundStatus(StrEnum):
    NONE = "none"
    PENDING = "pending"
    PARTLY_REFUNDED = "partly_refunded"
    REFUNDED = "refunded"


class FulfillmentStatus(StrEnum):
    UNFULFILLED = "unfulfilled"
    PARTLY_SHIPPED = "partly_shipped"
    SHIPPED = "shipped"
    PARTLY_DELIVERED = "partly_delivered"
    DELIVERED = "delivered"
    CANCELLED = "cancelled"


class ReturnStatus(StrEnum):
    NONE = "none"
    REQUESTED = "requested"
    APPROVED = "approved"
    PARTLY_RETURNED = "partly_returned"
    RETURNED = "returned"
    DECLINED = "declined"


class DisputeStatus(StrEnum):
    NONE = "none"
    OPEN = "open"
    WON = "won"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Rollups:
    payment_status: PaymentStatus
    refund_status: RefundStatus
    fulfillment_status: FulfillmentStatus
    return_status: ReturnStatus
    dispute_status: DisputeStatus
    is_overpaid: bool
    has_balance_due: bool
    has_refund_in_flight: bool
    has_backorder: bool
    has_lost: bool
    has_exception: bool
    has_open_return: bool


def rollups(order: Order) -> Rollups:
    stages = {r.stage for r in order.returns.values()}
    return Rollups(
        payment_status=payment_status(order),
        refund_status=refund_status(order),
        fulfillment_status=fulfillment_status(order),
        return_status=return_status(order),
        dispute_status=dispute_status(order),
        is_overpaid=order.captured_minor - order.paid_back_minor > order.due_minor,
        has_balance_due=bool(order.uncaptured),
        has_refund_in_flight=any(r.stage in (RefundStage.OPEN, RefundStage.ATTENTION) for r in order.refunds.values()),
        has_backorder=order.units(Bucket.BACKORDERED) > 0,
        has_lost=order.units(Bucket.LOST) > 0,
        has_exception=any(s.troubled for s in order.shipments.values()) or order.units(Bucket.RETURNED_TO_SENDER) > 0,
        has_open_return=not stages.isdisjoint(OPEN_RETURN),
    )


def payment_status(order: Order) -> PaymentStatus:
    captured = order.captured_minor
    if captured:
        return PaymentStatus.CAPTURED if captured >= order.due_minor else PaymentStatus.PARTLY_CAPTURED
    if order.total_minor == 0:
        return PaymentStatus.NOT_REQUIRED
    if any(t.declined is not None for t in order.tenders.values()):
        return PaymentStatus.DECLINED
    if order.authorized_minor:
        is_enough = order.authorized_minor >= order.due_minor
        return PaymentStatus.AUTHORIZED if is_enough else PaymentStatus.PARTLY_AUTHORIZED
    return PaymentStatus.VOIDED if order.status is Status.CANCELLED else PaymentStatus.PENDING


def refund_status(order: Order) -> RefundStatus:
    paid, captured = order.paid_back_minor, order.captured_minor + sum(order.charges.values())
    if paid:
        return RefundStatus.REFUNDED if paid >= captured else RefundStatus.PARTLY_REFUNDED
    if any(r.stage in (RefundStage.OPEN, RefundStage.ATTENTION) for r in order.refunds.values()):
        return RefundStatus.PENDING
    return RefundStatus.NONE


def fulfillment_status(order: Order) -> FulfillmentStatus:
    """Judge the units that were not cancelled: partly shipped until the last one has left."""
    live = order.owed - order.units(Bucket.CANCELLED)
    delivered = order.units(Bucket.DELIVERED)
    shipped = delivered + order.units(Bucket.IN_TRANSIT, *GONE_ASTRAY)
    if not live:
        return FulfillmentStatus.CANCELLED
    if not shipped:
        return FulfillmentStatus.UNFULFILLED
    if shipped < live:
        return FulfillmentStatus.PARTLY_SHIPPED
    if delivered == live:
        return FulfillmentStatus.DELIVERED
    return FulfillmentStatus.PARTLY_DELIVERED if delivered else FulfillmentStatus.SHIPPED


def return_status(order: Order) -> ReturnStatus:
    returned = sum(r.returned for r in order.returns.values())
    if returned:
        is_all = returned >= order.units(Bucket.DELIVERED)
        return ReturnStatus.RETURNED if is_all else ReturnStatus.PARTLY_RETURNED
    stages = {r.stage for r in order.returns.values()}
    for stage, status in (
        (ReturnStage.APPROVED, ReturnStatus.APPROVED),
        (ReturnStage.ARRIVED, ReturnStatus.APPROVED),
        (ReturnStage.REQUESTED, ReturnStatus.REQUESTED),
        (ReturnStage.DECLINED, ReturnStatus.DECLINED),
    ):
        if stage in stages:
            return status
    return ReturnStatus.NONE


def dispute_status(order: Order) -> DisputeStatus:
    stages = set(order.disputes.values())
    for stage in (DisputeStage.OPEN, DisputeStage.LOST, DisputeStage.WON):
        if stage in stages:
            return DisputeStatus(stage)
    return DisputeStatus.NONE
