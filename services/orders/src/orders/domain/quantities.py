"""Units of a line stand in forward buckets, as fulfillment reports them: each owed unit is in exactly one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shared.contracts.base import Bucket, LineQuantity
from shared.contracts.orders import CancelledValue, OrderLine, UnitsMoved, UnitsStep
from shared.core.machine import Invalid, replace
from shared.core.money import cumulative

BEFORE_HAND_OVER = (Bucket.UNALLOCATED, Bucket.ALLOCATED, Bucket.BACKORDERED, Bucket.PACKED)
OPEN = (*BEFORE_HAND_OVER, Bucket.IN_TRANSIT)
GONE_ASTRAY = (Bucket.LOST, Bucket.RETURNED_TO_SENDER)
HANDED_OVER = (Bucket.IN_TRANSIT, Bucket.DELIVERED, *GONE_ASTRAY)


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the order. `units` names the buckets that were ever used."""

    placed: OrderLine
    units: Mapping[Bucket, int]

    @property
    def owed(self) -> int:
        """Return the units ordered and replaced: the sum of all buckets."""
        return sum(self.units.values())

    def count(self, *buckets: Bucket) -> int:
        return sum(self.units.get(bucket, 0) for bucket in buckets)

    @property
    def cancelled(self) -> int:
        return self.units.get(Bucket.CANCELLED, 0)

    @property
    def cancelled_minor(self) -> int:
        return worth(self.placed, self.cancelled)


@dataclass(frozen=True, slots=True)
class Shipment:
    """A shipment has units by line. `stage` is allocated, packed or in transit, which here means handed over, wherever they
    are now.

    `troubled` are the tracking numbers of parcels in trouble.
    """

    units: Mapping[str, int]
    stage: Bucket = Bucket.ALLOCATED
    troubled: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Backorder:
    line_id: str
    quantity: int


def worth(line: OrderLine, units: int) -> int:
    """Return what so many cancelled units are worth in goods; a replacement beyond what was ordered adds nothing.

    They are the line's last: what is shipped and what comes back is counted from its first, so that a unit that comes back
    before the rest has shipped is worth what was taken for it.
    """
    kept = max(0, line.quantity - units)
    return line.goods_minor - cumulative(line.goods_minor, kept, line.quantity)


def cancelled_values(lines: Mapping[str, Line], cancelled: Sequence[LineQuantity]) -> tuple[CancelledValue, ...]:
    """Return the units' worth by cumulative rounding, so that cancelling piece by piece sums to the whole."""
    return tuple(
        CancelledValue(
            line_id=c.line_id,
            quantity=c.quantity,
            goods_minor=worth(line_of(lines, c.line_id).placed, lines[c.line_id].cancelled + c.quantity)
            - lines[c.line_id].cancelled_minor,
        )
        for c in cancelled
    )


def line_of(lines: Mapping[str, Line], line_id: str) -> Line:
    """Return the line. Raises Invalid when the order has no such line."""
    line = lines.get(line_id)
    if line is None:
        raise Invalid("line_id", f"{line_id} is not a line of this order")
    return line


def moved(lines: Mapping[str, Line], moves: Sequence[UnitsMoved]) -> Mapping[str, Line]:
    if not moves:
        return lines
    after = dict(lines)
    for m in moves:
        line = line_of(after, m.line_id)
        units = dict(line.units)
        if m.source is not None:
            units[m.source] = units.get(m.source, 0) - m.quantity
        units[m.target] = units.get(m.target, 0) + m.quantity
        after[m.line_id] = replace(line, units=units)
    return after


def shipments_after(shipments: Mapping[str, Shipment], step: UnitsStep) -> Mapping[str, Shipment]:
    """Return the shipments after the step; one whose units were all taken out is forgotten."""
    if step.shipment_id is None:
        return shipments
    shipment = shipments.get(step.shipment_id, Shipment({}))
    units, stage = dict(shipment.units), shipment.stage
    for m in step.moves:
        if m.target is Bucket.UNALLOCATED:
            units[m.line_id] = units.get(m.line_id, 0) - m.quantity
        elif m.target is Bucket.ALLOCATED:
            units[m.line_id] = units.get(m.line_id, 0) + m.quantity
        else:
            stage = m.target if m.target is Bucket.PACKED else Bucket.IN_TRANSIT
    troubled = shipment.troubled
    if step.exception is not None:
        others = tuple(parcel for parcel in troubled if parcel != step.parcel)
        troubled = (*others, step.parcel or "") if step.exception else others
    units = {line_id: quantity for line_id, quantity in units.items() if quantity > 0}
    if not units:
        return {id: s for id, s in shipments.items() if id != step.shipment_id}
    return {**shipments, step.shipment_id: Shipment(units, stage, troubled)}


def backorders_after(backorders: Mapping[str, Backorder], step: UnitsStep) -> Mapping[str, Backorder]:
    if step.backorder_id is None:
        return backorders
    after = dict(backorders)
    for m in step.moves:
        before = after.get(step.backorder_id, Backorder(m.line_id, 0))
        left = before.quantity + (m.quantity if m.target is Bucket.BACKORDERED else -m.quantity)
        after[step.backorder_id] = Backorder(m.line_id, left)
        if left <= 0:
            del after[step.backorder_id]
    return after
