"""Units: what was bought, where each is, and which reverse bucket holds it once it reached the customer.

Facts of other services arrive in any order between topics; what is recorded here is a sum over them, so that the same facts
give the same counters whichever came first.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final, Literal, TypeAlias

from shared.contracts.base import Fact, PolicyRef
from shared.contracts.orders import OrderPlaced
from shared.contracts.returns import (
    PurchasedLine,
    ReturnApproved,
    ReturnCancelled,
    ReturnClosed,
    ReturnDeclined,
    ReturnEligibilityEvaluated,
    ReturnExceptionGranted,
    ReturnExpired,
    ReturnInspectionRevised,
    ReturnInTransit,
    ReturnItemsInspected,
    ReturnItemsReceived,
    ReturnPurchaseRecorded,
    ReturnUnitsRecorded,
)
from shared.core.machine import Machine, replace

Stage: TypeAlias = Literal["shipped", "delivered", "lost", "withdrawn", "cancelled", "settled", "relabelled"]


class ReverseBucket(StrEnum):
    """A reverse bucket says where a delivered unit is; every one is in exactly one."""

    WITH_CUSTOMER = "with_customer"
    RETURN_OPEN = "return_open"
    RETURN_IN_TRANSIT = "return_in_transit"
    RECEIVED_UNINSPECTED = "received_uninspected"
    ACCEPTED = "accepted"
    REJECTED_HELD = "rejected_held"
    REJECTED_SENT_BACK = "rejected_sent_back"
    KEPT_BY_CUSTOMER = "kept_by_customer"


class UnitStatus(StrEnum):
    """It says where a unit of a return line stands in its return; lines count their units by it."""

    PENDING = "pending"
    DECLINED = "declined"
    CANCELLED = "cancelled"
    AWAITING = "awaiting"
    IN_TRANSIT = "in_transit"
    NOT_ARRIVED = "not_arrived"
    UNINSPECTED = "uninspected"
    ACCEPTED = "accepted"
    REJECTED_HELD = "rejected_held"
    REJECTED_SENT_BACK = "rejected_sent_back"
    NOT_IN_BOX = "not_in_box"
    KEPT = "kept"


INSPECTED: Final = frozenset(
    {UnitStatus.ACCEPTED, UnitStatus.REJECTED_HELD, UnitStatus.REJECTED_SENT_BACK, UnitStatus.NOT_IN_BOX}
)
EXPECTED: Final = (UnitStatus.IN_TRANSIT, UnitStatus.AWAITING)
"""A parcel's units are taken from these, in this order."""
OPEN: Final = frozenset({UnitStatus.PENDING, UnitStatus.UNINSPECTED, *EXPECTED})
FREED: Final = frozenset(
    {
        UnitStatus.DECLINED,
        UnitStatus.CANCELLED,
        UnitStatus.NOT_ARRIVED,
        UnitStatus.NOT_IN_BOX,
        UnitStatus.REJECTED_SENT_BACK,
    }
)
"""The return has let go of them: they are with the customer, or on their way there, and may be asked for again."""
HELD: Final = frozenset(UnitStatus) - FREED

RETURN_LINE: Final = Machine(
    "return line",
    UnitStatus.PENDING,
    {
        UnitStatus.PENDING: {
            ReturnEligibilityEvaluated: UnitStatus.DECLINED,
            ReturnApproved: frozenset({UnitStatus.AWAITING, UnitStatus.KEPT, UnitStatus.DECLINED}),
            ReturnDeclined: UnitStatus.DECLINED,
            ReturnItemsReceived: UnitStatus.UNINSPECTED,
            ReturnCancelled: UnitStatus.CANCELLED,
            ReturnClosed: UnitStatus.DECLINED,
        },
        UnitStatus.DECLINED: {ReturnExceptionGranted: UnitStatus.PENDING},
        UnitStatus.CANCELLED: {},
        UnitStatus.AWAITING: {
            ReturnInTransit: UnitStatus.IN_TRANSIT,
            ReturnItemsReceived: UnitStatus.UNINSPECTED,
            ReturnExpired: UnitStatus.NOT_ARRIVED,
            ReturnCancelled: UnitStatus.CANCELLED,
            ReturnClosed: UnitStatus.NOT_ARRIVED,
        },
        UnitStatus.IN_TRANSIT: {
            ReturnItemsReceived: UnitStatus.UNINSPECTED,
            ReturnExpired: UnitStatus.NOT_ARRIVED,
            ReturnCancelled: UnitStatus.CANCELLED,
            ReturnClosed: UnitStatus.NOT_ARRIVED,
        },
        UnitStatus.NOT_ARRIVED: {ReturnItemsReceived: UnitStatus.UNINSPECTED},
        UnitStatus.UNINSPECTED: {
            ReturnItemsInspected: INSPECTED,
            ReturnApproved: UnitStatus.REJECTED_SENT_BACK,
            ReturnDeclined: UnitStatus.REJECTED_SENT_BACK,
        },
        UnitStatus.ACCEPTED: {ReturnInspectionRevised: INSPECTED},
        UnitStatus.REJECTED_HELD: {ReturnInspectionRevised: INSPECTED},
        UnitStatus.REJECTED_SENT_BACK: {ReturnInspectionRevised: INSPECTED},
        UnitStatus.NOT_IN_BOX: {ReturnInspectionRevised: INSPECTED},
        UnitStatus.KEPT: {},
    },
)

BUCKET_OF: Final[Mapping[UnitStatus, ReverseBucket]] = {
    UnitStatus.PENDING: ReverseBucket.RETURN_OPEN,
    UnitStatus.AWAITING: ReverseBucket.RETURN_OPEN,
    UnitStatus.IN_TRANSIT: ReverseBucket.RETURN_IN_TRANSIT,
    UnitStatus.UNINSPECTED: ReverseBucket.RECEIVED_UNINSPECTED,
    UnitStatus.ACCEPTED: ReverseBucket.ACCEPTED,
    UnitStatus.REJECTED_HELD: ReverseBucket.REJECTED_HELD,
    UnitStatus.REJECTED_SENT_BACK: ReverseBucket.REJECTED_SENT_BACK,
    UnitStatus.KEPT: ReverseBucket.KEPT_BY_CUSTOMER,
    **dict.fromkeys(FREED - {UnitStatus.REJECTED_SENT_BACK}, ReverseBucket.WITH_CUSTOMER),
}

Units: TypeAlias = dict[UnitStatus, int]


def move(units: Units, fact: Fact, source: UnitStatus, quantity: int, to: UnitStatus | None = None) -> Units:
    """Take `quantity` units from `source` to where the table sends them by `fact`. Raises when they are not there."""
    target = RETURN_LINE.step(source, fact, to)
    if units.get(source, 0) < quantity:
        raise ValueError(f"{quantity} units cannot leave {source}, which holds {units.get(source, 0)}")
    moved = {**units, target: units.get(target, 0) + quantity}
    moved[source] -= quantity
    return {status: n for status, n in moved.items() if n}


@dataclass(frozen=True, slots=True)
class Purchase:
    """What was bought. `pinned` is the return policy the order itself names."""

    placed_at: datetime
    currency: str
    lines: dict[str, PurchasedLine]
    pinned: PolicyRef | None


@dataclass(frozen=True, slots=True)
class Parcel:
    """Units by the stage they were last told to be in, and by line; those promised anew stay where they were, and are
    `replaced` once the parcel was found."""

    stage: Stage
    units: dict[Stage, dict[str, int]]
    delivered_at: datetime | None = None
    replaced: dict[str, int] = field(default_factory=dict)
    others: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Articles in it, by line, that are others than the ones ordered."""


@dataclass(frozen=True, slots=True)
class Shipment:
    """Its parcels by tracking, as they arrive or get lost."""

    shipped_at: datetime | None = None
    parcels: dict[str, Parcel] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Units of a line that were cancelled, and what they were worth."""

    units: int = 0
    goods_minor: int = 0


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """It is what fulfillment and orders have reported of an order's units, in whatever order it came."""

    shipments: dict[str, Shipment] = field(default_factory=dict)
    cancelled: dict[str, Cancelled] = field(default_factory=dict)
    settled: dict[str, int] = field(default_factory=dict)
    """By line: lost or back at the sender, and cancelled or sent again since; no claim is to make them good."""

    def counted(self, line_id: str, stage: Stage) -> int:
        return sum(p.units.get(stage, {}).get(line_id, 0) for s in self.shipments.values() for p in s.parcels.values())

    def replaced(self, line_id: str) -> int:
        """Count units that were delivered after others had been sent for them."""
        parcels = (p for s in self.shipments.values() for p in s.parcels.values())
        return sum(p.replaced.get(line_id, 0) for p in parcels if p.stage == "delivered")

    def articles(self, line_id: str) -> set[str]:
        """Return articles that were sent for the line instead of the one ordered."""
        parcels = (p for s in self.shipments.values() for p in s.parcels.values())
        return {sku for p in parcels for sku in p.others.get(line_id, ())}

    def undone(self, line_id: str) -> int:
        """Count units that were once delivered or lost, and are neither as is said now: returns and claims of them stand all
        the same."""
        return self.counted(line_id, "withdrawn")

    def deliveries(self, line_id: str) -> list[tuple[datetime, datetime | None, int]]:
        """Return (delivered, shipped, units) of every parcel delivered, oldest first."""
        found = [
            (p.delivered_at, s.shipped_at, units)
            for s in self.shipments.values()
            for p in s.parcels.values()
            if p.delivered_at is not None and (units := p.units.get("delivered", {}).get(line_id, 0))
        ]
        return sorted(found, key=lambda delivery: (delivery[0], delivery[1] or delivery[0]))

    def lines(self) -> Iterable[str]:
        """Return every line that anything arrived, got lost or was cancelled of."""
        parcels = [p for s in self.shipments.values() for p in s.parcels.values()]
        told = {line_id: None for p in parcels for lines in p.units.values() for line_id in lines}
        return told | dict.fromkeys(self.cancelled)


def purchase_of(placed: OrderPlaced) -> ReturnPurchaseRecorded:
    return ReturnPurchaseRecorded(
        order_id=placed.order_id,
        placed_at=placed.placed_at,
        currency=placed.currency,
        lines=tuple(
            PurchasedLine(
                line_id=line.line_id,
                sku=line.sku,
                category=line.category,
                quantity=line.quantity,
                goods_minor=line.goods_minor,
                shipping_minor=line.shipping_minor,
                final_sale=line.final_sale,
            )
            for line in placed.lines
        ),
        pinned=placed.return_policy,
    )


def record(where: Whereabouts, fact: ReturnUnitsRecorded) -> Whereabouts:
    """Fold one report in. A cancellation adds up; a parcel's units leave the stage it was in for the one reported."""
    settled = dict(where.settled)
    for line in fact.lines:
        if units := line.quantity if fact.stage == "settled" else line.returned:
            settled[line.line_id] = settled.get(line.line_id, 0) + units
    where = replace(where, settled=settled)
    if fact.stage == "settled":
        return where
    if fact.stage == "cancelled":
        cancelled = dict(where.cancelled)
        for line in fact.lines:
            so_far = cancelled.get(line.line_id, Cancelled())
            cancelled[line.line_id] = Cancelled(so_far.units + line.quantity, so_far.goods_minor + line.goods_minor)
        return replace(where, cancelled=cancelled)
    shipment = where.shipments.get(fact.source_id, Shipment())
    if fact.stage == "shipped":
        shipment = replace(shipment, shipped_at=fact.at)
    elif fact.stage == "relabelled":
        parcels = dict(shipment.parcels)
        was, now = parcels.pop(fact.replaces or ""), fact.tracking or ""
        shipment = replace(shipment, parcels={**parcels, now: _with(parcels[now], was) if now in parcels else was})
    else:
        tracking = fact.tracking or ""
        parcel = _moved(shipment.parcels.get(tracking), fact.stage, fact)
        shipment = replace(shipment, parcels={**shipment.parcels, tracking: parcel})
    return replace(where, shipments={**where.shipments, fact.source_id: shipment})


def _moved(parcel: Parcel | None, stage: Stage, fact: ReturnUnitsRecorded) -> Parcel:
    was = dict(parcel.units.get(parcel.stage, {})) if parcel else {}
    now = dict(parcel.units.get(stage, {})) if parcel else {}
    for line in fact.lines:
        was[line.line_id] = max(0, was.get(line.line_id, 0) - line.quantity)
        now[line.line_id] = now.get(line.line_id, 0) + line.quantity
    units = {**parcel.units, parcel.stage: was, stage: now} if parcel else {stage: now}
    return Parcel(
        stage=stage,
        units={at: left for at, lines in units.items() if (left := {k: n for k, n in lines.items() if n})},
        delivered_at=fact.at if stage == "delivered" else parcel.delivered_at if parcel else None,
        others=_others(parcel.others if parcel else {}, fact),
        replaced={line.line_id: line.quantity for line in fact.replaced} or (parcel.replaced if parcel else {}),
    )


def _with(parcel: Parcel, other: Parcel) -> Parcel:
    """Join both under one number: what is reported of it next is reported of all."""
    units = {stage: dict(lines) for stage, lines in parcel.units.items()}
    for stage, lines in other.units.items():
        at = units.setdefault(stage, {})
        for line_id, n in lines.items():
            at[line_id] = at.get(line_id, 0) + n
    return replace(parcel, units=units)


def _others(known: Mapping[str, tuple[str, ...]], fact: ReturnUnitsRecorded) -> dict[str, tuple[str, ...]]:
    others = dict(known)
    for line in fact.lines:
        skus = others.get(line.line_id, ())
        if line.sku is not None and line.sku not in skus:
            others[line.line_id] = (*skus, line.sku)
    return others


def is_known(
    where: Whereabouts, stage: Stage, source_id: str, tracking: str | None, replaces: str | None = None
) -> bool:
    """Say whether it is a repeat; or taken back, or reported by another number, without ever having been reported as
    delivered or lost."""
    shipment = where.shipments.get(source_id, Shipment())
    if stage == "shipped":
        return shipment.shipped_at is not None
    if stage == "relabelled":
        return replaces not in shipment.parcels
    parcel = shipment.parcels.get(tracking or "")
    return stage == "withdrawn" if parcel is None else parcel.stage == stage
