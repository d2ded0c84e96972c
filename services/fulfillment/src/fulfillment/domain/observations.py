"""Observations are what the warehouse and the carrier say has happened. They are applied to units and stock as far as they
can be, and recorded as a discrepancy where they contradict what is known; none is refused. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Final, TypeAlias

from fulfillment.domain.cancellation import planned_again
from fulfillment.domain.shipment import (
    BEFORE_HAND_OVER,
    Shipment,
    held_by,
    numbering,
    quantities,
    substituted,
    summed,
    told_parcels,
    track,
)
from fulfillment.domain.shipment import Parcel as ParcelState
from fulfillment.domain.state import FulfillmentStatus, OrderFulfillment
from fulfillment.domain.stock import Shelf, Stock
from fulfillment.domain.tracking import ShipmentStatus
from shared.contracts.base import Fact
from shared.contracts.fulfillment import (
    Contradiction,
    FulfillmentDiscrepancyRecorded,
    Parcel,
    Scan,
    ShipmentPacked,
    ShipmentRecallRequested,
    ShipmentRelabelled,
    ShipmentRepacked,
    ShipmentShipped,
    StockShipped,
    StockWithdrawn,
)

PACKED: Final = "warehouse.packed"
SHORT_PICKED: Final = "warehouse.short_picked"
HANDED_OVER: Final = "warehouse.handed_over"
RELABELLED: Final = "warehouse.relabelled"

Boxes: TypeAlias = Mapping[str, Mapping[str, int]]
"""Units by line, by parcel."""
Contradicted: TypeAlias = tuple[Contradiction, Mapping[str, int], str]
"""What is contradicted, by which units, and in words."""


def discrepancies(
    state: OrderFulfillment,
    observation: str,
    shipment_id: str | None,
    found: Iterable[Contradicted],
    parcels: tuple[Parcel, ...] = (),
) -> list[Fact]:
    return [
        FulfillmentDiscrepancyRecorded(
            order_id=state.order_id,
            discrepancy_id=f"{state.order_id}-D{number}",
            observation=observation,
            contradicts=code,
            shipment_id=shipment_id,
            lines=quantities(lines),
            detail=detail,
            parcels=parcels,
        )
        for number, (code, lines, detail) in enumerate(found, state.discrepancies + 1)
    ]


def of_nothing_known(
    state: OrderFulfillment, observation: str, shipment_id: str, lines: Mapping[str, int]
) -> list[Fact]:
    """Record an observation of an order or a shipment that is not known."""
    if state.status is FulfillmentStatus.UNOPENED:
        unknown: Contradicted = ("unknown_order", lines, f"order {state.order_id} is not known")
    else:
        unknown = ("unknown_shipment", lines, f"{shipment_id} is not a shipment of {state.order_id}")
    return discrepancies(state, observation, shipment_id, [unknown])


def pack(state: OrderFulfillment, shipment: Shipment, parcels: Boxes, stock: Stock) -> list[Fact]:
    """The parcels are what the warehouse says. Units of the shipment that it left out are planned again; units in a parcel
    that the shipment does not have are no longer on the shelf.

    A shipment that was cancelled meanwhile is still in the house: that the two words crossed is no news.
    """
    is_repeat = shipment.is_packed and (not parcels or _same(parcels, shipment.contents))
    if shipment.status is ShipmentStatus.CANCELLED or is_repeat:
        return []
    told = _total(parcels)
    if shipment.status not in BEFORE_HAND_OVER:
        detail = f"{shipment.shipment_id} had left with other parcels"
        return discrepancies(state, PACKED, shipment.shipment_id, [("handed_over", told, detail)])
    boxes = parcels or {f"{shipment.shipment_id}-P1": held_by(shipment)}
    fits = _within(boxes, held_by(shipment))
    inside = _total(fits)
    if not inside:
        detail = f"nothing in the parcels belongs to {shipment.shipment_id}"
        return discrepancies(state, PACKED, shipment.shipment_id, [("quantities", told, detail)])
    missing = _less(held_by(shipment), inside)
    extra = _less(told, inside)
    facts: list[Fact] = []
    if missing or extra:
        facts += discrepancies(state, PACKED, shipment.shipment_id, [("quantities", told, _differing(missing, extra))])
        facts += _gone(state, shipment, extra, stock)
    if missing:
        facts += planned_again(state, shipment, missing, stock, is_on_hand=True)
    kind = ShipmentRepacked if shipment.is_packed else ShipmentPacked
    packed = kind(order_id=state.order_id, shipment_id=shipment.shipment_id, parcels=told_parcels(fits))
    return [*facts, packed]


def short_pick(state: OrderFulfillment, shipment: Shipment, lines: Mapping[str, int], stock: Stock) -> list[Fact]:
    """Take out units that are not where they should be: they leave the shipment and the shelf, also where they were packed by
    what was said before, or were to be sold to somebody else by now."""
    about = shipment.shipment_id
    if shipment.status is ShipmentStatus.CANCELLED:
        told: Contradicted = ("cancelled", lines, f"{about} was cancelled, and its units are free again")
        had = summed((item.line_id, item.quantity) for item in shipment.released)
        return [*discrepancies(state, SHORT_PICKED, about, [told]), *_gone(state, shipment, _common(lines, had), stock)]
    if shipment.status not in BEFORE_HAND_OVER:
        told = ("handed_over", lines, f"{about} had left with these units in it")
        return discrepancies(state, SHORT_PICKED, about, [told])
    there = _common(lines, held_by(shipment))
    found: list[Contradicted] = []
    if more := _less(lines, there):
        found.append(("quantities", more, f"{about} does not have so many"))
    if shipment.is_packed and there:
        found.append(("packed", there, f"{about} was packed with these units in it"))
    facts = discrepancies(state, SHORT_PICKED, about, found)
    return facts + (planned_again(state, shipment, there, stock, is_on_hand=False) if there else [])


def hand_over(
    state: OrderFulfillment, shipment: Shipment, carrier: str, tracking: Mapping[str, str], stock: Stock
) -> list[Fact]:
    """Book a hand-over: it has left, whatever was planned. A cancelled shipment is called back, and its units are no longer
    on the shelf."""
    about = shipment.shipment_id
    if shipment.carrier is not None:
        numbers = {shipment.number_of(parcel) for parcel in shipment.parcels.values()}
        if numbers == {(carrier, number) for number in tracking.values()}:
            return []
        detail = f"it left with {shipment.carrier} before; now {carrier} is said to have it, {_named(tracking)}"
        told = tuple(
            Parcel(parcel_id=name, lines=(), carrier=carrier, tracking=number) for name, number in tracking.items()
        )
        recorded = discrepancies(state, HANDED_OVER, about, [("handed_over", {}, detail)], told)
        return [*recorded, *_relabelled(state, shipment, carrier, tracking)]
    if shipment.status is ShipmentStatus.CANCELLED:
        return _called_back(state, shipment, carrier, tracking, stock)
    lines = held_by(shipment)
    found: list[Contradicted] = []
    if shipment.status is ShipmentStatus.HELD and state.holds:
        found.append(("held", lines, f"it left although it is held: {', '.join(state.holds)}"))
    if state.is_unfunded(stock.told_at.get(state.order_id)):
        found.append(("unfunded", lines, f"it left after its payment had run out on {state.funded_until:%d %b %Y}"))
    if shipment.relabel is not None:
        found.append(("old_label", lines, "it left under the label of the address that it had before"))
    if not shipment.is_packed:
        found.append(("not_packed", lines, "it left, and nobody had said that it was packed"))
    contents = shipment.contents if shipment.is_packed else {next(iter(tracking)): lines}
    parcels = _labelled(contents, carrier, tracking)
    if shipment.is_packed and not _is_as_packed(shipment, tracking):
        found.append(("parcels", {}, f"it left in other parcels than it was packed in: {_named(tracking)}"))
    facts = discrepancies(state, HANDED_OVER, about, found)
    if not shipment.is_packed:
        facts.append(ShipmentPacked(order_id=state.order_id, shipment_id=about, parcels=told_parcels(contents)))
    facts += [
        StockShipped(
            order_id=state.order_id,
            shipment_id=about,
            sku=item.sku,
            location=shipment.location,
            quantity=item.quantity,
            line_id=item.line_id,
        )
        for item in shipment.items
    ]
    n_of_m = numbering(state.shipments.values())
    shipped = ShipmentShipped(
        order_id=state.order_id,
        shipment_id=about,
        carrier=carrier,
        parcels=parcels,
        lines=quantities(lines),
        again=quantities(shipment.again),
        number=n_of_m[about],
        of=len(n_of_m) + bool(state.waiting),
        substituted=substituted(shipment, lines, state.articles),
    )
    return [*facts, shipped]


def _relabelled(
    state: OrderFulfillment, shipment: Shipment, carrier: str, tracking: Mapping[str, str]
) -> Iterator[Fact]:
    """Follow the numbers of a second hand-over. Parcels whose number is not said again are followed by what is: by their own
    new number where they are named, otherwise by the numbers of parcels that are none of ours, in their order.

    What has arrived under its old number is not followed any more: its units would count twice.
    """
    known = {shipment.number_of(parcel) for parcel in shipment.parcels.values()}
    told = {(carrier, number) for number in tracking.values()}
    fresh = {name: number for name, number in tracking.items() if (carrier, number) not in known}
    waiting = [p for p in shipment.parcels.values() if shipment.number_of(p) not in told and not p.has_arrived]
    taken = {p.parcel_id for p in waiting} | {p.parcel_id for p in shipment.parcels.values() if p.has_arrived}
    spare = list(dict.fromkeys(number for name, number in fresh.items() if name not in taken))
    for parcel in waiting:
        number = fresh.get(parcel.parcel_id)
        if number is None and spare:
            # Fewer parcels than before: what is left is in the last.
            number = spare.pop(0) if len(spare) > 1 else spare[0]
        if number is None:
            continue
        if shipment.is_live and parcel.status is ShipmentStatus.LOST:
            by, old = shipment.number_of(parcel)
            found = Scan(carrier=by, tracking=old, code="found", at=parcel.scans["lost"] + timedelta(seconds=1))
            yield from track(state.order_id, shipment, parcel, found, "", state.articles)
        inside = summed((*parcel.lines.items(), *parcel.owed.items()))
        yield ShipmentRelabelled(
            order_id=state.order_id,
            shipment_id=shipment.shipment_id,
            parcel=Parcel(parcel_id=parcel.parcel_id, lines=quantities(inside), carrier=carrier, tracking=number),
            replaces=parcel.tracking,
        )


def scanned(state: OrderFulfillment, shipment: Shipment, parcel: ParcelState, code: str) -> list[Fact]:
    """Record, once, that a parcel of a cancelled shipment arrived at the customer, who has what the order no longer owes."""
    if shipment.status is not ShipmentStatus.CANCELLED or code != "delivered" or "delivered" in parcel.scans:
        return []
    detail = f"{shipment.shipment_id} was cancelled, and its parcel {parcel.tracking} was delivered"
    return discrepancies(state, "carrier.delivered", shipment.shipment_id, [("cancelled", parcel.lines, detail)])


def _called_back(
    state: OrderFulfillment, shipment: Shipment, carrier: str, tracking: Mapping[str, str], stock: Stock
) -> list[Fact]:
    """Call it back: its units stay cancelled, and the carrier is to bring it back."""
    about, detail = shipment.shipment_id, "it left the warehouse although it was cancelled"
    held = summed((item.line_id, item.quantity) for item in shipment.released)
    contents = shipment.contents if shipment.is_packed else {next(iter(tracking)): held}
    recall = ShipmentRecallRequested(
        order_id=state.order_id,
        shipment_id=about,
        detail=detail,
        carrier=carrier,
        parcels=_labelled(contents, carrier, tracking),
    )
    recorded = discrepancies(state, HANDED_OVER, about, [("cancelled", held, detail)])
    return [*recorded, *_gone(state, shipment, held, stock), recall]


def _gone(state: OrderFulfillment, shipment: Shipment, lines: Mapping[str, int], stock: Stock) -> list[Fact]:
    """Book units that are free by the books and not on the shelf any more. What others are to get of them already, the
    warehouse will not find when it picks it."""
    facts: list[Fact] = []
    left: dict[str, int] = {}
    for line_id, units in lines.items():
        if line_id not in state.lines:
            continue
        skus = [item.sku for item in (*shipment.items, *shipment.released) if item.line_id == line_id]
        sku = skus[0] if skus else state.lines[line_id].sku
        free = left.setdefault(sku, max(0, stock.shelves.get(sku, {}).get(shipment.location, Shelf()).free))
        gone = min(units, free)
        left[sku] -= gone
        if gone:
            facts.append(
                StockWithdrawn(
                    order_id=state.order_id,
                    sku=sku,
                    location=shipment.location,
                    quantity=gone,
                    line_id=line_id,
                    cause_id=shipment.shipment_id,
                )
            )
    return facts


def _labelled(contents: Boxes, carrier: str, tracking: Mapping[str, str]) -> tuple[Parcel, ...]:
    """Return the parcels as they were handed over: one for each number. What was packed in a parcel that was not named then
    is in the first."""
    first = next(iter(tracking))
    by_number: dict[str, str] = {}
    for parcel_id, number in tracking.items():
        by_number.setdefault(number, parcel_id)
    boxes: dict[str, dict[str, int]] = {parcel_id: {} for parcel_id in by_number.values()}
    for packed_in, lines in contents.items():
        inside = boxes[by_number[tracking.get(packed_in, tracking[first])]]
        for line_id, units in lines.items():
            inside[line_id] = inside.get(line_id, 0) + units
    # A parcel that was emptied by a cancellation is named by a warehouse that has not thrown it away yet.
    is_filled = any(boxes.values())
    emptied = {id for id, lines in boxes.items() if is_filled and not lines and contents.get(id) == {}}
    return tuple(
        Parcel(parcel_id=parcel_id, lines=quantities(lines), carrier=carrier, tracking=tracking[parcel_id])
        for parcel_id, lines in boxes.items()
        if parcel_id not in emptied
    )


def _is_as_packed(shipment: Shipment, tracking: Mapping[str, str]) -> bool:
    """Say whether every parcel that holds something has a number of its own, and no other parcel has any."""
    filled = {name for name, parcel in shipment.parcels.items() if parcel.lines}
    return filled <= tracking.keys() <= shipment.parcels.keys() and len(set(tracking.values())) == len(tracking)


def _named(tracking: Mapping[str, str]) -> str:
    return ", ".join(f"{parcel_id} under {number}" for parcel_id, number in tracking.items())[:1500]


def _same(one: Boxes, other: Boxes) -> bool:
    return {name: dict(lines) for name, lines in one.items()} == {name: dict(lines) for name, lines in other.items()}


def _total(boxes: Boxes) -> dict[str, int]:
    return summed((line_id, units) for lines in boxes.values() for line_id, units in lines.items())


def _within(boxes: Boxes, most: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """Return what is in the boxes, up to so many units of each line, the first boxes first; empty ones are left out."""
    left = dict(most)
    fits: dict[str, dict[str, int]] = {}
    for name, lines in boxes.items():
        inside = {line_id: min(units, left.get(line_id, 0)) for line_id, units in lines.items()}
        left |= {line_id: left[line_id] - units for line_id, units in inside.items() if units}
        if any(inside.values()):
            fits[name] = {line_id: units for line_id, units in inside.items() if units}
    return fits


def _common(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    both = {line_id: min(units, other.get(line_id, 0)) for line_id, units in one.items()}
    return {line_id: units for line_id, units in both.items() if units}


def _less(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    left = {line_id: units - other.get(line_id, 0) for line_id, units in one.items()}
    return {line_id: units for line_id, units in left.items() if units > 0}


def _differing(missing: Mapping[str, int], extra: Mapping[str, int]) -> str:
    parts = [f"{units} of line {line_id} left out" for line_id, units in missing.items()]
    parts += [f"{units} of line {line_id} too many" for line_id, units in extra.items()]
    return ", ".join(parts)[:1500]
