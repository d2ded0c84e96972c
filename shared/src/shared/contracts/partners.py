"""What partners may tell us: topic `warehouse.events` and the carrier's webhook. Strict: an unknown field is an error."""

from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from shared.contracts.base import Id, Observation, OrderId, Quantity, Remark
from shared.contracts.returns import InspectionOutcome


class PartnerLine(Observation):
    line_id: Id
    quantity: Quantity


Lines = Annotated[tuple[PartnerLine, ...], Field(min_length=1, max_length=500)]


class PartnerMessage(Observation):
    """`occurred_at` is the warehouse's own time of the event."""

    occurred_at: AwareDatetime


class WarehouseGoodsReceived(PartnerMessage):
    receipt_id: Id
    sku: Id
    location: Id
    quantity: Quantity


class WarehouseGoodsExpected(PartnerMessage):
    """What is on its way in all, replacing what was announced before; `eta` None: no date is known."""

    sku: Id
    location: Id
    incoming: int = Field(ge=0, le=1_000_000, strict=True)
    eta: AwareDatetime | None


class WarehouseParcel(Observation):
    parcel_id: Id
    lines: Lines


class WarehouseShipmentMessage(PartnerMessage):
    order_id: OrderId
    shipment_id: Id


class WarehousePacked(WarehouseShipmentMessage):
    """No parcels named: everything is in one."""

    parcels: Annotated[tuple[WarehouseParcel, ...], Field(max_length=100)] = ()


class WarehouseShortPicked(WarehouseShipmentMessage):
    lines: Lines


class WarehouseRelabelled(WarehouseShipmentMessage):
    """All its parcels carry a label of the address that was asked for last."""


class ParcelTracking(Observation):
    parcel_id: Id
    tracking: Id


class WarehouseHandedOver(WarehouseShipmentMessage):
    """Tracking numbers by parcel, as packed."""

    carrier: Id
    tracking: Annotated[tuple[ParcelTracking, ...], Field(min_length=1, max_length=100)]


class WarehouseReturnMessage(PartnerMessage):
    order_id: OrderId
    return_id: Id
    location: Id


class WarehouseUnexpectedItem(Observation):
    sku: Id
    quantity: Quantity


class ReturnedUnits(Observation):
    """`sku` names the article that came, where the warehouse knows it."""

    line_id: Id
    quantity: Quantity
    sku: Id | None = None


class WarehouseParcelReceived(WarehouseReturnMessage):
    """A parcel came back. `return_id` is what is written on it, also where nobody knows a return by that name."""

    receipt_id: Id
    lines: Annotated[tuple[ReturnedUnits, ...], Field(max_length=500)]
    unexpected: Annotated[tuple[WarehouseUnexpectedItem, ...], Field(max_length=100)] = ()


class InspectedUnits(Observation):
    line_id: Id
    quantity: Quantity
    outcome: InspectionOutcome
    sku: Id | None = None


class WarehouseItemsInspected(WarehouseReturnMessage):
    inspection_id: Id
    lines: Annotated[tuple[InspectedUnits, ...], Field(min_length=1, max_length=500)]


WAREHOUSE_MESSAGES: dict[str, type[PartnerMessage]] = {
    "warehouse.goods_received": WarehouseGoodsReceived,
    "warehouse.goods_expected": WarehouseGoodsExpected,
    "warehouse.packed": WarehousePacked,
    "warehouse.short_picked": WarehouseShortPicked,
    "warehouse.relabelled": WarehouseRelabelled,
    "warehouse.handed_over": WarehouseHandedOver,
    "warehouse.parcel_received": WarehouseParcelReceived,
    "warehouse.items_inspected": WarehouseItemsInspected,
}
"""Topic `warehouse.events`: CloudEvents binary mode, `ce_id, ce_source, ce_type, ce_time`; key = order id, or
`stock:<sku>@<location>` for goods."""

ScanCode = Literal[
    "in_transit",
    "out_for_delivery",
    "delivered",
    "delayed",
    "attempted",
    "address",
    "customs",
    "damaged",
    "not_received",
    "lost",
    "found",
    "returning",
    "returned",
    "recalled",
]


class CarrierScan(Observation):
    """POST /webhooks/carrier, signed. A scan is the same scan by (carrier, tracking, code, occurred_at)."""

    carrier: Id
    tracking: Id
    code: ScanCode
    occurred_at: AwareDatetime
    detail: Remark = ""


class ReturnScan(Observation):
    """POST /webhooks/carrier of the returns service, signed: the customer's parcel is on its way."""

    order_id: OrderId
    return_id: Id
    tracking: Id
    occurred_at: AwareDatetime
