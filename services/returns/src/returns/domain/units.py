"""Units: what was bought, where each is, and which reverse bucket holds it once it reached the customer.

Facts of other services arrive in any order between topics; what is recorded here is a sum over them, so that the
same facts give the same counters whichever came first.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Final, Literal, TypeAlias

from shared.contracts.base import Fact, PolicyRef
from shared.contracts.orders import OrderPlaced
from shared.contracts.returns import (
    PurchasedLine,
    RecordedUnits,
    ReturnApproved,
    ReturnCancelled,
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
from shared.machine import Machine

Stage: TypeAlias = Literal["shipped", "delivered", "lost", "withdrawn", "cancelled"]


class ReverseBucket(StrEnum):
    """Where a delivered unit is; every one is in exactly one."""

    WITH_CUSTOMER = "with_customer"
    RETURN_OPEN = "return_open"
    RETURN_IN_TRANSIT = "return_in_transit"
    RECEIVED_UNINSPECTED = "received_uninspected"
    ACCEPTED = "accepted"
    REJECTED_HELD = "rejected_held"
    REJECTED_SENT_BACK = "rejected_sent_back"
    KEPT_BY_CUSTOMER = "kept_by_customer"


class UnitStatus(StrEnum):
    """Where a unit of a return line stands in its return; lines count their units by it."""

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
FREED: Final = frozenset({UnitStatus.DECLINED, UnitStatus.CANCELLED, UnitStatus.NOT_ARRIVED, UnitStatus.NOT_IN_BOX})
"""The return has let go of them: they are with the customer, and may be asked for again."""
HELD: Final = frozenset(UnitStatus) - FREED

RETURN_LINE: Final = Machine(
    "return line",
    UnitStatus.PENDING,
    {
        UnitStatus.PENDING: {
            ReturnEligibilityEvaluated: UnitStatus.DECLINED,
            ReturnApproved: frozenset({UnitStatus.AWAITING, UnitStatus.KEPT, UnitStatus.DECLINED}),
            ReturnDeclined: UnitStatus.DECLINED,
            ReturnCancelled: UnitStatus.CANCELLED,
        },
        UnitStatus.DECLINED: {ReturnExceptionGranted: UnitStatus.PENDING},
        UnitStatus.CANCELLED: {},
        UnitStatus.AWAITING: {
            ReturnInTransit: UnitStatus.IN_TRANSIT,
            ReturnItemsReceived: UnitStatus.UNINSPECTED,
            ReturnExpired: UnitStatus.NOT_ARRIVED,
            ReturnCancelled: UnitStatus.CANCELLED,
        },
        UnitStatus.IN_TRANSIT: {
            ReturnItemsReceived: UnitStatus.UNINSPECTED,
            ReturnExpired: UnitStatus.NOT_ARRIVED,
            ReturnCancelled: UnitStatus.CANCELLED,
        },
        UnitStatus.NOT_ARRIVED: {ReturnItemsReceived: UnitStatus.UNINSPECTED},
        UnitStatus.UNINSPECTED: {ReturnItemsInspected: INSPECTED},
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
    **dict.fromkeys(FREED, ReverseBucket.WITH_CUSTOMER),
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
class Shipment:
    """`has_arrived`: it was delivered or lost once, whatever became of it since."""

    units: dict[str, int]
    stage: Stage
    shipped_at: datetime | None = None
    delivered_at: datetime | None = None
    has_arrived: bool = False


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Units of a line that were cancelled, and what they were worth."""

    units: int = 0
    goods_minor: int = 0


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """What fulfillment and orders have told of an order's units, in whatever order it came."""

    shipments: dict[str, Shipment] = field(default_factory=dict)
    cancelled: dict[str, Cancelled] = field(default_factory=dict)

    def counted(self, line_id: str, stage: Stage) -> int:
        return sum(s.units.get(line_id, 0) for s in self.shipments.values() if s.stage == stage)

    def undone(self, line_id: str) -> int:
        """Once delivered or lost, and neither as is said now: returns and claims of them stand all the same."""
        return self.counted(line_id, "withdrawn")

    def deliveries(self, line_id: str) -> list[tuple[datetime, datetime | None, int]]:
        """(delivered, shipped, units) of every delivery, oldest first."""
        found = [
            (s.delivered_at, s.shipped_at, s.units[line_id])
            for s in self.shipments.values()
            if s.stage == "delivered" and s.delivered_at is not None and line_id in s.units
        ]
        return sorted(found, key=lambda delivery: (delivery[0], delivery[1] or delivery[0]))

    def lines(self) -> Iterable[str]:
        return {line_id: None for s in self.shipments.values() for line_id in s.units} | dict.fromkeys(self.cancelled)


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
    """Fold one report in. A cancellation adds up; a shipment's latest stage counts."""
    if fact.stage == "cancelled":
        cancelled = dict(where.cancelled)
        for line in fact.lines:
            so_far = cancelled.get(line.line_id, Cancelled())
            cancelled[line.line_id] = Cancelled(so_far.units + line.quantity, so_far.goods_minor + line.goods_minor)
        return replace(where, cancelled=cancelled)
    before = where.shipments.get(fact.source_id)
    units: dict[str, int] = {}
    for line in fact.lines:
        units[line.line_id] = units.get(line.line_id, 0) + line.quantity
    shipment = Shipment(
        units=units,
        stage=before.stage if before and fact.stage == "shipped" else fact.stage,
        shipped_at=fact.at if fact.stage == "shipped" else before.shipped_at if before else None,
        delivered_at=fact.at if fact.stage == "delivered" else before.delivered_at if before else None,
        has_arrived=fact.stage in ("delivered", "lost") or (before is not None and before.has_arrived),
    )
    return replace(where, shipments={**where.shipments, fact.source_id: shipment})


def is_known(where: Whereabouts, stage: Stage, source_id: str) -> bool:
    """Told again: a shipment was shipped already, or is in the stage it is reported in."""
    shipment = where.shipments.get(source_id)
    return shipment is not None and (shipment.shipped_at is not None if stage == "shipped" else shipment.stage == stage)


def all_of(shipment: Shipment) -> tuple[RecordedUnits, ...]:
    return tuple(RecordedUnits(line_id=line_id, quantity=n) for line_id, n in shipment.units.items())
