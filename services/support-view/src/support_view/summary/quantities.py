"""Where every unit is: forward until it is delivered, and reverse from there."""

from collections.abc import Iterator
from datetime import date
from typing import Final

from pydantic import Field

from shared.contracts.base import Bucket, Model
from support_view.domain.fulfillment import Shipment, ShipmentStatus
from support_view.domain.returns import ReverseBucket
from support_view.summary.sections import Amount, Sections


class LineQuantities(Model):
    """Forward buckets sum to `owed`, reverse buckets to the delivered units."""

    line_id: str
    sku: str
    title: str
    price: Amount
    ordered: int
    owed: int = Field(description="ordered, and owed again as replacements")
    promised_on: date | None
    forward: dict[Bucket, int]
    reverse: dict[ReverseBucket, int]


_BUCKETS: Final = {
    ShipmentStatus.DELIVERED: Bucket.DELIVERED,
    ShipmentStatus.LOST: Bucket.LOST,
    ShipmentStatus.RETURNED_TO_SENDER: Bucket.RETURNED_TO_SENDER,
}


def _bucket(shipment: Shipment) -> Bucket:
    if shipment.status in (ShipmentStatus.CREATED, ShipmentStatus.PACKED, ShipmentStatus.HELD):
        return Bucket.PACKED if shipment.is_packed else Bucket.ALLOCATED
    return _BUCKETS.get(shipment.status, Bucket.IN_TRANSIT)


def _line_ids(s: Sections) -> list[str]:
    """As ordered; before the order was seen, as shipments, backorders and returns name them."""
    ids = [line.line_id for line in s.orders.placed.lines] if s.orders.placed else []
    for units in [
        *(shipment.lines for shipment in s.fulfillment.shipments.values()),
        *({backorder.line_id: 1} for backorder in s.fulfillment.backorders.values()),
        s.fulfillment.cancelled,
    ]:
        ids += [line_id for line_id in units if line_id not in ids]
    return ids


def forward(s: Sections, line_id: str, owed: int | None) -> dict[Bucket, int]:
    """Where the units are; those that nobody has said anything of are unallocated."""
    units = dict.fromkeys(Bucket, 0)
    for shipment in s.fulfillment.shipments.values():
        if shipment.is_live:
            units[_bucket(shipment)] += shipment.lines.get(line_id, 0)
    for backorder in s.fulfillment.backorders.values():
        if backorder.line_id == line_id and backorder.is_open:
            units[Bucket.BACKORDERED] += backorder.remaining
    units[Bucket.CANCELLED] += s.fulfillment.cancelled.get(line_id, 0)
    if owed is not None:
        units[Bucket.UNALLOCATED] = max(0, owed - sum(units.values()))
    return units


def _reverse(s: Sections, line_id: str, delivered: int) -> dict[ReverseBucket, int]:
    units = dict.fromkeys(ReverseBucket, 0)
    for told in s.returns.returns.values():
        for bucket, quantity in told.units(line_id).items():
            if bucket != ReverseBucket.WITH_CUSTOMER:
                units[bucket] += quantity
    units[ReverseBucket.WITH_CUSTOMER] = max(0, delivered - sum(units.values()))
    return units


def line_quantities(s: Sections) -> Iterator[LineQuantities]:
    placed = {line.line_id: line for line in s.orders.placed.lines} if s.orders.placed else {}
    for line_id in _line_ids(s):
        line = placed.get(line_id)
        ordered = line.quantity if line else 0
        owed = ordered + s.fulfillment.owed_again.get(line_id, 0)
        units = forward(s, line_id, owed if line else None)
        yield LineQuantities(
            line_id=line_id,
            sku=line.sku if line else "",
            title=line.title if line else f"line {line_id}",
            price=s.amount(line.goods_minor if line else 0),
            ordered=ordered,
            owed=owed,
            promised_on=line.promised_on if line else None,
            forward=units,
            reverse=_reverse(s, line_id, units[Bucket.DELIVERED]),
        )
