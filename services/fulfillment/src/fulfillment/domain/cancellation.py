"""A cancellation is answered per unit by what it can still stop; units that the warehouse cannot find are taken out here too.
Pure.

Units are cancelled where least is lost: unallocated, backordered, allocated, packed; of each the newest first. Last come
those that left and came back to us, as far as no claim settles them.
"""

from collections.abc import Iterable, Mapping
from typing import Final, Literal, TypeAlias

from fulfillment.domain.allocation import place
from fulfillment.domain.planning import Need
from fulfillment.domain.quantities import HANDED_OVER
from fulfillment.domain.shipment import BEFORE_HAND_OVER, SHIPMENT, Item, Shipment, quantities, summed
from fulfillment.domain.state import OrderFulfillment, evolve, unclaimed
from fulfillment.domain.stock import Stock, evolve_context
from fulfillment.domain.tracking import ShipmentStatus
from shared.contracts.base import Bucket, Fact, LineQuantity
from shared.contracts.fulfillment import (
    BackorderCancelled,
    CancelledUnits,
    FulfillmentCancellationRefused,
    FulfillmentLinesCancelled,
    FulfillmentLinesShortShipped,
    ShipmentCancelled,
    ShipmentLinesRemoved,
    StockReleased,
)
from shared.core.machine import Invalid, NotAllowed, replace

Refusal: TypeAlias = Literal["handed_over", "not_open"]
REFUSALS: Final[tuple[Refusal, ...]] = ("handed_over", "not_open")


def cancel(state: OrderFulfillment, cancellation_id: str, lines: Iterable[LineQuantity]) -> list[Fact]:
    """Answer every unit asked for: cancelled, or refused. A repeat has no effect."""
    if cancellation_id in state.cancellations:
        return []
    facts: list[Fact] = []
    cancelled: dict[tuple[str, Bucket], int] = {}
    refused: dict[Refusal, dict[str, int]] = {}
    removed: dict[str, list[Item]] = {}
    for line_id, asked in summed((line.line_id, line.quantity) for line in lines).items():
        line = state.lines.get(line_id)
        left = asked
        if line is not None:
            units = min(left, line.of(Bucket.UNALLOCATED))
            left -= units
            cancelled[line_id, Bucket.UNALLOCATED] = units
            backordered = _from_backorders(state, line_id, left)
            facts += backordered
            units = sum(fact.quantity for fact in backordered)
            left -= units
            cancelled[line_id, Bucket.BACKORDERED] = units
            for bucket in (Bucket.ALLOCATED, Bucket.PACKED):
                units = _from_shipments(state, line_id, left, bucket, removed)
                left -= units
                cancelled[line_id, bucket] = units
            units = min(left, line.of(Bucket.RETURNED_TO_SENDER), unclaimed(state, line_id))
            left -= units
            cancelled[line_id, Bucket.RETURNED_TO_SENDER] = units
        if left:
            gone = line is not None and line.of(*HANDED_OVER) > 0
            refused.setdefault("handed_over" if gone else "not_open", {})[line_id] = left
    for shipment_id, items in removed.items():
        facts += taken_out(state, state.shipments[shipment_id], items, is_on_hand=True, detail="cancelled")
    about = {"order_id": state.order_id, "cancellation_id": cancellation_id}
    if units_cancelled := tuple(
        CancelledUnits(line_id=line_id, quantity=units, was=bucket)
        for (line_id, bucket), units in cancelled.items()
        if units
    ):
        facts.append(FulfillmentLinesCancelled(**about, lines=units_cancelled))
    facts += [
        FulfillmentCancellationRefused(**about, lines=quantities(refused[reason]), reason_code=reason)
        for reason in REFUSALS
        if reason in refused
    ]
    return facts


def _from_backorders(state: OrderFulfillment, line_id: str, left: int) -> list[BackorderCancelled]:
    facts = []
    for backorder in reversed(state.waiting):
        units = min(left, backorder.open) if backorder.line_id == line_id else 0
        if units:
            left -= units
            facts.append(
                BackorderCancelled(
                    order_id=state.order_id,
                    backorder_id=backorder.backorder_id,
                    line_id=line_id,
                    sku=backorder.sku,
                    quantity=units,
                    remaining=backorder.open - units,
                )
            )
    return facts


def _from_shipments(
    state: OrderFulfillment, line_id: str, left: int, bucket: Bucket, removed: dict[str, list[Item]]
) -> int:
    """Count how many units were found in shipments that have not left; what is taken from which goes to `removed`."""
    taken = 0
    for shipment in reversed(state.shipments.values()):
        if shipment.status in BEFORE_HAND_OVER and shipment.is_packed == (bucket is Bucket.PACKED):
            for item in shipment.items:
                units = min(left - taken, item.quantity) if item.line_id == line_id else 0
                if units:
                    taken += units
                    removed.setdefault(shipment.shipment_id, []).append(Item(line_id, item.sku, units))
    return taken


def taken_out(
    state: OrderFulfillment, shipment: Shipment, items: Iterable[Item], *, is_on_hand: bool, detail: str
) -> list[Fact]:
    """Take units out of a shipment that is still here; a shipment that nothing is left in is cancelled."""
    about = {"order_id": state.order_id, "shipment_id": shipment.shipment_id}
    facts: list[Fact] = [
        StockReleased(
            **about,
            sku=item.sku,
            location=shipment.location,
            quantity=item.quantity,
            line_id=item.line_id,
            on_hand=is_on_hand,
        )
        for item in items
    ]
    lines = quantities(summed((item.line_id, item.quantity) for item in items))
    if sum(line.quantity for line in lines) == sum(item.quantity for item in shipment.items):
        facts.append(
            ShipmentCancelled(**about, lines=lines, detail=f"Nothing is left in it: all its units were {detail}.")
        )
    else:
        facts.append(ShipmentLinesRemoved(**about, lines=lines))
    return facts


def short_pick(state: OrderFulfillment, shipment: Shipment, lines: Mapping[str, int], stock: Stock) -> list[Fact]:
    """Take out units that are not where they should be, and plan them again. Raises where the shipment does not have them, or
    is packed."""
    status = shipment.status
    if status not in (ShipmentStatus.CREATED, ShipmentStatus.HELD) or shipment.is_packed:
        raise NotAllowed("packed" if shipment.is_packed else status, "short pick", SHIPMENT.allowed(status))
    for line_id, units in lines.items():
        if units > shipment.quantity(line_id):
            raise Invalid(
                "lines.quantity", f"{shipment.shipment_id} has {shipment.quantity(line_id)} of line {line_id}"
            )
    return planned_again(state, shipment, lines, stock, is_on_hand=False)


def planned_again(
    state: OrderFulfillment, shipment: Shipment, lines: Mapping[str, int], stock: Stock, *, is_on_hand: bool
) -> list[Fact]:
    """Take units out of a shipment that is still here, and plan them again as what they were."""
    items, needs = [], []
    for line_id, units in lines.items():
        article = shipment.article(line_id)
        items.append(replace(article, quantity=units))
        again = shipment.again.get(line_id, 0) - shipment.again_without(line_id, units)
        needs += [
            Need(
                line_id,
                article.sku,
                number,
                again=is_again,
                title=article.title,
                unit_price_minor=article.unit_price_minor,
            )
            for number, is_again in ((units - again, False), (again, True))
        ]
    detail = "left out" if is_on_hand else "not found"
    facts = taken_out(state, shipment, items, is_on_hand=is_on_hand, detail=detail)
    facts.append(
        FulfillmentLinesShortShipped(
            order_id=state.order_id,
            shipment_id=shipment.shipment_id,
            lines=quantities(lines),
            was=Bucket.PACKED if shipment.is_packed else Bucket.ALLOCATED,
        )
    )
    for fact in facts:
        state, stock = evolve(state, fact), evolve_context(stock, fact)
    return facts + place(state, [need for need in needs if need.quantity], stock)
