"""Kafka in: facts of orders and returns and messages of the warehouse, as commands of an order or of a shelf."""

from collections.abc import Iterable
from typing import Final, TypeAlias

from fulfillment.domain.decide import (
    Cancel,
    ChangeAddress,
    Command,
    Fund,
    HandOver,
    Inspect,
    NoteClaim,
    Open,
    Pack,
    PlaceHold,
    Plan,
    Relabel,
    ReleaseHold,
    Replace,
    ReviseInspection,
    SettleConsent,
    ShortPick,
    Withdraw,
)
from fulfillment.domain.shelf import Expect, Receive, ShelfCommand
from fulfillment.store import ORDERS, SHELVES
from shared.contracts.base import LineQuantity, OrderFact
from shared.contracts.fulfillment import OpenedLine, shelf_key
from shared.contracts.orders import (
    OrderAddressChanged,
    OrderBackorderConsentGiven,
    OrderCancellationRequested,
    OrderConfirmed,
    OrderFundingChanged,
    OrderHoldPlaced,
    OrderHoldReleased,
    OrderPlaced,
    OrderRejected,
)
from shared.contracts.partners import (
    PartnerLine,
    WarehouseGoodsExpected,
    WarehouseGoodsReceived,
    WarehouseHandedOver,
    WarehousePacked,
    WarehouseRelabelled,
    WarehouseShipmentMessage,
    WarehouseShortPicked,
)
from shared.contracts.returns import (
    ClaimOpened,
    ClaimResolved,
    ExchangeReleased,
    ReturnInspectionRevised,
    ReturnItemsInspected,
    ReturnReason,
)
from shared.messaging.envelope import Cause
from shared.messaging.router import Route
from shared.messaging.shell import Message

ToldOrder: TypeAlias = Message[Command]


def units(lines: Iterable[PartnerLine]) -> tuple[LineQuantity, ...]:
    return tuple(LineQuantity(line_id=line.line_id, quantity=line.quantity) for line in lines)


def _of_order(fact: OrderFact, command: Command, cause: Cause) -> ToldOrder:
    return Message(fact.order_id, command, cause)


def _of_warehouse(message: WarehouseShipmentMessage, command: Command, cause: Cause) -> ToldOrder:
    """Take the warehouse's own time of the event as when it happened."""
    return Message(message.order_id, command, cause._replace(at=message.occurred_at))


def placed(fact: OrderPlaced, cause: Cause) -> ToldOrder:
    lines = tuple(OpenedLine(line_id=line.line_id, sku=line.sku, quantity=line.quantity) for line in fact.lines)
    return _of_order(fact, Open(fact.placed_at, lines, fact.preference), cause)


def confirmed(fact: OrderConfirmed, cause: Cause) -> ToldOrder:
    return _of_order(fact, Plan(fact.funded_until), cause)


def funding_changed(fact: OrderFundingChanged, cause: Cause) -> ToldOrder:
    return _of_order(fact, Fund(fact.funded_until), cause)


def rejected(fact: OrderRejected, cause: Cause) -> ToldOrder:
    return _of_order(fact, Withdraw(), cause)


def hold_placed(fact: OrderHoldPlaced, cause: Cause) -> ToldOrder:
    return _of_order(fact, PlaceHold(fact.hold), cause)


def hold_released(fact: OrderHoldReleased, cause: Cause) -> ToldOrder:
    return _of_order(fact, ReleaseHold(fact.hold), cause)


def address_changed(fact: OrderAddressChanged, cause: Cause) -> ToldOrder:
    return _of_order(fact, ChangeAddress(fact.ship_to, cause.at), cause)


def cancellation_requested(fact: OrderCancellationRequested, cause: Cause) -> ToldOrder:
    return _of_order(fact, Cancel(fact.cancellation_id, fact.lines), cause)


def consent_given(fact: OrderBackorderConsentGiven, cause: Cause) -> ToldOrder:
    command = SettleConsent(
        fact.backorder_id,
        fact.choice,
        fact.substitute_sku,
        cause.at,
        fact.substitute_title,
        fact.substitute_unit_price_minor,
    )
    return _of_order(fact, command, cause)


def inspected(fact: ReturnItemsInspected, cause: Cause) -> ToldOrder:
    return _of_order(fact, Inspect(fact.inspection_id, fact.location, fact.lines), cause)


def inspection_revised(fact: ReturnInspectionRevised, cause: Cause) -> ToldOrder:
    return _of_order(fact, ReviseInspection(fact.inspection_id, fact.location, fact.before, fact.after), cause)


def exchange_released(fact: ExchangeReleased, cause: Cause) -> ToldOrder:
    return _of_order(fact, Replace(fact.exchange_id, fact.return_id, fact.lines, fact.sku, fact.reason_code), cause)


def claimed(fact: ClaimOpened, cause: Cause) -> ToldOrder | None:
    """Record claims of units that never arrived; what the customer has is the business of returns."""
    if fact.reason is not ReturnReason.NOT_RECEIVED:
        return None
    return _of_order(fact, NoteClaim(fact.claim_id, fact.lines), cause)


def claim_resolved(fact: ClaimResolved, cause: Cause) -> ToldOrder | None:
    """Release the units of a rejected claim. What was refunded stays the claim's; what is to be replaced is so by
    exchange.released."""
    return _of_order(fact, NoteClaim(fact.claim_id, ()), cause) if fact.outcome == "rejected" else None


def packed(message: WarehousePacked, cause: Cause) -> ToldOrder:
    parcels = tuple((parcel.parcel_id, units(parcel.lines)) for parcel in message.parcels)
    return _of_warehouse(message, Pack(message.shipment_id, parcels, is_awaited=False, at=message.occurred_at), cause)


def relabelled(message: WarehouseRelabelled, cause: Cause) -> ToldOrder:
    return _of_warehouse(message, Relabel(message.shipment_id, message.occurred_at), cause)


def short_picked(message: WarehouseShortPicked, cause: Cause) -> ToldOrder:
    return _of_warehouse(message, ShortPick(message.shipment_id, units(message.lines), is_awaited=False), cause)


def handed_over(message: WarehouseHandedOver, cause: Cause) -> ToldOrder:
    tracking = tuple((parcel.parcel_id, parcel.tracking) for parcel in message.tracking)
    return _of_warehouse(message, HandOver(message.shipment_id, message.carrier, tracking), cause)


def goods_received(message: WarehouseGoodsReceived, cause: Cause) -> Message[ShelfCommand]:
    command = Receive(message.receipt_id, message.sku, message.location, message.quantity)
    return Message(shelf_key(message.sku, message.location), command, cause._replace(at=message.occurred_at))


def goods_expected(message: WarehouseGoodsExpected, cause: Cause) -> Message[ShelfCommand]:
    command = Expect(message.sku, message.location, message.incoming, message.eta)
    return Message(shelf_key(message.sku, message.location), command, cause._replace(at=message.occurred_at))


ROUTES: Final = (
    Route(
        ORDERS,
        {
            OrderPlaced: placed,
            OrderConfirmed: confirmed,
            OrderRejected: rejected,
            OrderFundingChanged: funding_changed,
            OrderHoldPlaced: hold_placed,
            OrderHoldReleased: hold_released,
            OrderAddressChanged: address_changed,
            OrderCancellationRequested: cancellation_requested,
            OrderBackorderConsentGiven: consent_given,
            ReturnItemsInspected: inspected,
            ReturnInspectionRevised: inspection_revised,
            ExchangeReleased: exchange_released,
            ClaimOpened: claimed,
            ClaimResolved: claim_resolved,
            WarehousePacked: packed,
            WarehouseRelabelled: relabelled,
            WarehouseShortPicked: short_picked,
            WarehouseHandedOver: handed_over,
        },
    ),
    Route(SHELVES, {WarehouseGoodsReceived: goods_received, WarehouseGoodsExpected: goods_expected}),
)
