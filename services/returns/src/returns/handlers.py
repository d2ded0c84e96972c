"""Kafka in: facts of orders, fulfillment and payments, and what the warehouse tells, as commands."""

from collections.abc import Callable, Iterable
from typing import Any, Final

from returns.domain.decide import (
    Command,
    DropRefund,
    FailCharge,
    RecordCharge,
    RecordDispute,
    RecordPurchase,
    RecordUnits,
    SettleRefund,
)
from returns.domain.parcels import InspectItems, ReceiveParcel
from returns.domain.units import Stage
from returns.store import ORDER_RETURNS
from shared.contracts.base import LineQuantity
from shared.contracts.fulfillment import (
    ReplacementCreated,
    ShipmentDelivered,
    ShipmentFound,
    ShipmentLost,
    ShipmentRelabelled,
    ShipmentReturnedToSender,
    ShipmentShipped,
    ShipmentTrackingUpdated,
    SubstitutedUnits,
)
from shared.contracts.orders import OrderLinesCancelled, OrderPlaced
from shared.contracts.partners import PartnerLine, ReturnedUnits, WarehouseItemsInspected, WarehouseParcelReceived
from shared.contracts.payments import (
    DisputeLost,
    DisputeOpened,
    DisputeWon,
    PaymentCaptured,
    PaymentChargeFailed,
    RefundCancelled,
    RefundCompleted,
    RefundRejected,
)
from shared.contracts.returns import ObservedLine, RecordedUnits
from shared.messaging.envelope import Cause
from shared.messaging.router import Route
from shared.messaging.shell import Message


def purchased(fact: OrderPlaced, cause: Cause) -> Message[Command]:
    return Message(fact.order_id, RecordPurchase(fact), cause)


def cancelled(fact: OrderLinesCancelled, cause: Cause) -> Message[Command]:
    back = {line.line_id: line.quantity for line in fact.returned}
    lines = tuple(
        RecordedUnits(
            line_id=line.line_id,
            quantity=line.quantity,
            goods_minor=line.goods_minor,
            returned=back.get(line.line_id, 0),
        )
        for line in fact.lines
    )
    return Message(fact.order_id, RecordUnits(fact.cancellation_id, "cancelled", lines, cause.at), cause)


def sent_again(fact: ReplacementCreated, cause: Cause) -> Message[Command] | None:
    """Of replacements, those that no claim and no return of ours asked for."""
    if fact.shipment_id is None:
        return None
    lines = tuple(RecordedUnits(line_id=line.line_id, quantity=line.quantity) for line in fact.lines)
    return Message(fact.order_id, RecordUnits(fact.replacement_id, "settled", lines, cause.at), cause)


def shipped(fact: ShipmentShipped, cause: Cause) -> Message[Command]:
    return Message(fact.order_id, RecordUnits(fact.shipment_id, "shipped", _units(fact.lines), cause.at), cause)


def moved(stage: Stage) -> Callable[[Any, Cause], Message[Command]]:
    """A parcel that reached this stage with the units that the fact names."""

    def told(
        fact: ShipmentDelivered | ShipmentLost | ShipmentFound | ShipmentReturnedToSender, cause: Cause
    ) -> Message[Command]:
        tracking = fact.scan.tracking if fact.scan else None
        replaced = fact.replaced if isinstance(fact, ShipmentDelivered) else ()
        lines = _units(fact.lines, fact.substituted)
        return Message(
            fact.order_id, RecordUnits(fact.shipment_id, stage, lines, cause.at, tracking, replaced=replaced), cause
        )

    return told


def relabelled(fact: ShipmentRelabelled, cause: Cause) -> Message[Command] | None:
    """One that had left. What was told of it under its old number is neither lost nor delivered beside what is told next."""
    if fact.parcel is None:
        return None
    about = RecordUnits(fact.shipment_id, "relabelled", (), cause.at, fact.parcel.tracking, replaces=fact.replaces)
    return Message(fact.order_id, about, cause)


def scanned(fact: ShipmentTrackingUpdated, cause: Cause) -> Message[Command] | None:
    """Of outbound scans only one matters here: delivered by the carrier's word, and not by the customer's."""
    if not fact.lines:
        return None
    return Message(
        fact.order_id, RecordUnits(fact.shipment_id, "withdrawn", _units(fact.lines), cause.at, fact.tracking), cause
    )


def _units(lines: Iterable[LineQuantity], substituted: Iterable[SubstitutedUnits] = ()) -> tuple[RecordedUnits, ...]:
    """Units by the article they are: those that were substituted beside those that were not."""
    others = {(s.line_id, s.sku): s.quantity for s in substituted}
    found = []
    for line in lines:
        left = line.quantity
        for (line_id, sku), n in others.items():
            if line_id == line.line_id and (units := min(left, n)):
                left -= units
                found.append(RecordedUnits(line_id=line_id, quantity=units, sku=sku))
        found += [RecordedUnits(line_id=line.line_id, quantity=left)] if left else []
    return tuple(found)


def refunded(fact: RefundCompleted, cause: Cause) -> Message[Command]:
    return Message(fact.order_id, SettleRefund(fact.cause_id, fact.refund_id, fact.amount_minor, cause.at), cause)


def dropped(fact: RefundRejected | RefundCancelled, cause: Cause) -> Message[Command] | None:
    """Of refunds that will not be paid, those that name what they were for."""
    if fact.cause_id is None:
        return None
    reason = fact.reason_code if isinstance(fact, RefundRejected) else "cancelled"
    return Message(fact.order_id, DropRefund(fact.cause_id, fact.refund_id, reason, cause.at), cause)


def charge_failed(fact: PaymentChargeFailed, cause: Cause) -> Message[Command]:
    return Message(fact.order_id, FailCharge(fact.exchange_id, fact.code, cause.at), cause)


def charged(fact: PaymentCaptured, cause: Cause) -> Message[Command] | None:
    """Of captures, those of what an exchange cost more."""
    if fact.exchange_id is None:
        return None
    return Message(fact.order_id, RecordCharge(fact.exchange_id, fact.operation_id, fact.amount_minor, cause.at), cause)


def disputed(fact: DisputeOpened | DisputeWon | DisputeLost, cause: Cause) -> Message[Command]:
    return Message(fact.order_id, RecordDispute(fact.dispute_id, isinstance(fact, DisputeOpened)), cause)


def received(message: WarehouseParcelReceived, cause: Cause) -> Message[Command]:
    command = ReceiveParcel(
        return_id=message.return_id,
        receipt_id=message.receipt_id,
        location=message.location,
        lines=reported(message.lines),
        unexpected=message.unexpected,
        at=message.occurred_at,
    )
    return Message(message.order_id, command, cause)


def inspected(message: WarehouseItemsInspected, cause: Cause) -> Message[Command]:
    command = InspectItems(
        return_id=message.return_id,
        inspection_id=message.inspection_id,
        location=message.location,
        lines=message.lines,
        at=message.occurred_at,
    )
    return Message(message.order_id, command, cause)


def reported(lines: Iterable[ReturnedUnits]) -> tuple[ObservedLine, ...]:
    """One entry a line and article, as far as one is named."""
    units: dict[tuple[str, str | None], int] = {}
    for line in lines:
        units[line.line_id, line.sku] = units.get((line.line_id, line.sku), 0) + line.quantity
    return tuple(ObservedLine(line_id=id, sku=sku, quantity=n) for (id, sku), n in units.items())


def summed(lines: Iterable[PartnerLine]) -> tuple[LineQuantity, ...]:
    """One entry a line: a parcel may list a line once for each box in it."""
    units: dict[str, int] = {}
    for line in lines:
        units[line.line_id] = units.get(line.line_id, 0) + line.quantity
    return tuple(LineQuantity(line_id=line_id, quantity=n) for line_id, n in units.items())


ROUTE: Final = Route(
    ORDER_RETURNS,
    {
        OrderPlaced: purchased,
        OrderLinesCancelled: cancelled,
        ReplacementCreated: sent_again,
        ShipmentShipped: shipped,
        ShipmentDelivered: moved("delivered"),
        ShipmentLost: moved("lost"),
        # It never arrived either: what is owed for it is settled by a claim, as for a lost one.
        ShipmentReturnedToSender: moved("lost"),
        ShipmentFound: moved("withdrawn"),
        ShipmentRelabelled: relabelled,
        ShipmentTrackingUpdated: scanned,
        RefundCompleted: refunded,
        RefundRejected: dropped,
        RefundCancelled: dropped,
        PaymentChargeFailed: charge_failed,
        PaymentCaptured: charged,
        DisputeOpened: disputed,
        DisputeWon: disputed,
        DisputeLost: disputed,
        WarehouseParcelReceived: received,
        WarehouseItemsInspected: inspected,
    },
)
