"""The independent states of an order rolled up, side by side: none masks another."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Final

from pydantic import Field

from shared.contracts.base import Bucket, Model
from support_view.domain.fulfillment import ShipmentStatus
from support_view.domain.orders import Status as OrderStatus
from support_view.domain.payments import DisputeStatus, OperationStatus, Payments, TenderStatus
from support_view.domain.returns import ReverseBucket
from support_view.domain.returns import Status as ReturnStatus
from support_view.summary.money import Totals
from support_view.summary.quantities import LineQuantities
from support_view.summary.sections import Sections


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


class ReturnsStatus(StrEnum):
    NONE = "none"
    REQUESTED = "requested"
    APPROVED = "approved"
    PARTLY_RETURNED = "partly_returned"
    RETURNED = "returned"
    DECLINED = "declined"


class DisputesStatus(StrEnum):
    NONE = "none"
    OPEN = "open"
    WON = "won"
    LOST = "lost"


class Rollups(Model):
    """In the words the orders service uses."""

    payment_status: PaymentStatus
    refund_status: RefundStatus
    fulfillment_status: FulfillmentStatus
    return_status: ReturnsStatus
    dispute_status: DisputesStatus
    has_backorder: bool
    has_lost: bool
    has_exception: bool
    has_unknown: bool = Field(description="the provider was asked for something and has not answered")


_IN_TROUBLE: Final = frozenset({ShipmentStatus.EXCEPTION, ShipmentStatus.RETURNING_TO_SENDER})
_BUCKETS: Final = tuple(Bucket)
_BY_WEIGHT: Final = (DisputeStatus.OPEN, DisputeStatus.LOST, DisputeStatus.WON)
_UNDER_WAY: Final = frozenset(
    {
        ReturnStatus.APPROVED,
        ReturnStatus.IN_TRANSIT,
        ReturnStatus.PARTIALLY_RECEIVED,
        ReturnStatus.RECEIVED,
        ReturnStatus.INSPECTING,
        ReturnStatus.REOPENED,
    }
)


def roll_up(s: Sections, lines: Sequence[LineQuantities], totals: Totals) -> Rollups:
    units = {bucket: sum(line.forward[bucket] for line in lines) for bucket in _BUCKETS}
    disputes = {dispute.status for dispute in s.payments.disputes.values()}
    parcels = {box.status for shipment in s.fulfillment.shipments.values() for box in shipment.boxes}
    return Rollups(
        payment_status=_payment_status(s, totals),
        refund_status=_refund_status(s.payments, totals),
        fulfillment_status=_fulfillment_status(units),
        return_status=_return_status(s, lines, units[Bucket.DELIVERED]),
        dispute_status=next(
            (DisputesStatus(status.value) for status in _BY_WEIGHT if status in disputes), DisputesStatus.NONE
        ),
        has_backorder=units[Bucket.BACKORDERED] > 0,
        has_lost=units[Bucket.LOST] > 0,
        has_exception=units[Bucket.RETURNED_TO_SENDER] > 0 or not _IN_TROUBLE.isdisjoint(parcels),
        has_unknown=any(o.status == OperationStatus.UNKNOWN for o in s.payments.operations.values()),
    )


def _payment_status(s: Sections, totals: Totals) -> PaymentStatus:
    tenders = [tender for tender in s.payments.tenders.values() if tender.exchange_id is None]
    due = totals.remaining.minor
    if totals.captured.minor:
        return PaymentStatus.CAPTURED if totals.captured.minor >= due else PaymentStatus.PARTLY_CAPTURED
    if s.orders.placed and totals.ordered.minor == 0:
        return PaymentStatus.NOT_REQUIRED
    if any(tender.status == TenderStatus.DECLINED for tender in tenders):
        return PaymentStatus.DECLINED
    if open_minor := sum(tender.open_minor for tender in tenders):
        return PaymentStatus.AUTHORIZED if open_minor >= due else PaymentStatus.PARTLY_AUTHORIZED
    return PaymentStatus.VOIDED if s.orders.standing == OrderStatus.CANCELLED else PaymentStatus.PENDING


def _refund_status(payments: Payments, totals: Totals) -> RefundStatus:
    if totals.refunded.minor:
        return (
            RefundStatus.REFUNDED
            if totals.refunded.minor >= totals.captured.minor + totals.charged.minor
            else RefundStatus.PARTLY_REFUNDED
        )
    return RefundStatus.PENDING if any(refund.is_open for refund in payments.refunds.values()) else RefundStatus.NONE


def _fulfillment_status(units: Mapping[Bucket, int]) -> FulfillmentStatus:
    """Of the units that were not cancelled: partly shipped until the last one has left."""
    live = sum(units.values()) - units[Bucket.CANCELLED]
    delivered = units[Bucket.DELIVERED]
    shipped = delivered + units[Bucket.IN_TRANSIT] + units[Bucket.LOST] + units[Bucket.RETURNED_TO_SENDER]
    if not live:
        return FulfillmentStatus.CANCELLED if units[Bucket.CANCELLED] else FulfillmentStatus.UNFULFILLED
    if not shipped:
        return FulfillmentStatus.UNFULFILLED
    if shipped < live:
        return FulfillmentStatus.PARTLY_SHIPPED
    if delivered == live:
        return FulfillmentStatus.DELIVERED
    return FulfillmentStatus.PARTLY_DELIVERED if delivered else FulfillmentStatus.SHIPPED


def _return_status(s: Sections, lines: Sequence[LineQuantities], delivered: int) -> ReturnsStatus:
    if returned := sum(line.reverse[ReverseBucket.ACCEPTED] for line in lines):
        return ReturnsStatus.RETURNED if returned >= delivered else ReturnsStatus.PARTLY_RETURNED
    statuses = {told.status for told in s.returns.returns.values()}
    if not statuses.isdisjoint(_UNDER_WAY):
        return ReturnsStatus.APPROVED
    if not statuses.isdisjoint({ReturnStatus.REQUESTED, ReturnStatus.UNDER_REVIEW}):
        return ReturnsStatus.REQUESTED
    return ReturnsStatus.DECLINED if ReturnStatus.DECLINED in statuses else ReturnsStatus.NONE
