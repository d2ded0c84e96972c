"""Planning splits needs into shipments and backorders, and says why: fewest shipments, then the locations' priority. Pure.

The same needs, stock and preference always give the same split. Nothing is taken that older orders wait for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import combinations

from fulfillment.domain.policy import FulfillmentPolicy
from fulfillment.domain.stock import Stock
from shared.contracts.orders import ShippingPreference

EXACT_UP_TO = 12
"""Locations up to which every choice of them is weighed (4,095 at most); beyond, the one that adds most is taken next."""


@dataclass(frozen=True, slots=True)
class Need:
    """Units of a line to find; `backorder_id` is the backorder they wait in, if they do; `again`: they replace others;
    `title` and price are of a substitute."""

    line_id: str
    sku: str
    quantity: int
    backorder_id: str | None = None
    again: bool = False
    title: str | None = None
    unit_price_minor: int | None = None


@dataclass(frozen=True, slots=True)
class Pick:
    need: Need
    quantity: int


@dataclass(frozen=True, slots=True)
class PlannedParcels:
    """It is what one location ships together."""

    location: str
    picks: tuple[Pick, ...]


@dataclass(frozen=True, slots=True)
class Shortage:
    """Units of a need that stay or become backordered; `eta` None: no date is known."""

    need: Need
    quantity: int
    eta: datetime | None


@dataclass(frozen=True, slots=True)
class Split:
    shipments: tuple[PlannedParcels, ...]
    shortages: tuple[Shortage, ...]
    reasons: tuple[str, ...]


def plan(
    order_id: str,
    needs: Sequence[Need],
    stock: Stock,
    preference: ShippingPreference,
    policy: FulfillmentPolicy,
    shipments_so_far: int = 0,
) -> Split:
    """Split `needs`; `shipments_so_far` counts against the preference's limit."""
    reasons: list[str] = []
    takes = _within_reach(order_id, needs, stock, reasons)
    short = sum(need.quantity for need in needs) - sum(takes)
    limit = shipments_left(preference, shipments_so_far)
    locations: tuple[str, ...] = ()
    if preference.rule == "complete_only" and short:
        if sum(takes):
            reasons.append(f"The order ships complete only: {_units(sum(takes))} in stock wait for {_units(short)}.")
    elif sum(takes):
        locations = _locations(needs, takes, stock, policy, limit, bool(short), reasons)
    picked = _picked(needs, takes, stock, locations)
    shipments = _shipments(picked, locations, needs)
    if locations:
        reasons.insert(0, _of_locations(needs, picked, locations))
    shortages = _shortages(order_id, needs, picked, stock)
    reasons += [_of_shortage(shortage) for shortage in shortages]
    return Split(shipments, shortages, tuple(reasons))


def shipments_left(preference: ShippingPreference, shipments_so_far: int) -> int | None:
    """Return how many more shipments the customer accepts; None: any number. What is owed can always go in one."""
    if preference.rule != "max_n_shipments":
        return None
    return max(1, (preference.max_shipments or 1) - shipments_so_far)


def _within_reach(order_id: str, needs: Sequence[Need], stock: Stock, reasons: list[str]) -> list[int]:
    """Count how many units of each need are free and not waited for by older orders."""
    left: dict[str, int] = {}
    for need in needs:
        if need.sku in left:
            continue
        free, ahead = sum(stock.free(need.sku).values()), stock.demand_ahead(order_id, need.sku)
        left[need.sku] = max(0, free - ahead)
        if free and ahead and left[need.sku] < sum(n.quantity for n in needs if n.sku == need.sku):
            reasons.append(f"{min(free, ahead)} free of {need.sku} are kept: older orders wait for {ahead}.")
    takes = []
    for need in needs:
        takes.append(min(need.quantity, left[need.sku]))
        left[need.sku] -= takes[-1]
    return takes


def _locations(
    needs: Sequence[Need],
    takes: Sequence[int],
    stock: Stock,
    policy: FulfillmentPolicy,
    limit: int | None,
    is_short: bool,
    reasons: list[str],
) -> tuple[str, ...]:
    """Which locations ship. With a limit, one shipment of it is kept for what would be left over."""
    wanted: dict[str, int] = {}
    for need, take in zip(needs, takes, strict=True):
        if take:
            wanted[need.sku] = wanted.get(need.sku, 0) + take
    free = {sku: stock.free(sku) for sku in wanted}
    candidates = sorted({at for sku in wanted for at in free[sku]}, key=policy.rank)
    best = _fewest(candidates, wanted, free, limit)
    if limit is None or (not is_short and _covered(best, wanted, free) == sum(wanted.values())):
        return best
    waits = "wait for the rest" if is_short else f"wait until {_shipments_in_words(limit)} can hold them"
    if limit == 1:
        reasons.append(f"The customer accepts one more shipment: {_units(sum(takes))} in stock {waits}.")
        return ()
    reasons.append(f"The customer accepts {limit} more shipments: one of them is kept for what is left.")
    return _fewest(candidates, wanted, free, limit - 1)


def _fewest(
    candidates: Sequence[str], wanted: Mapping[str, int], free: Mapping[str, Mapping[str, int]], limit: int | None
) -> tuple[str, ...]:
    """The fewest locations, by priority, that together have most of what is wanted."""
    everything = sum(wanted.values())
    at_most = min(len(candidates), limit or len(candidates))
    if len(candidates) > EXACT_UP_TO:
        chosen: tuple[str, ...] = ()
        while len(chosen) < at_most and _covered(chosen, wanted, free) < everything:
            rest = [at for at in candidates if at not in chosen]
            chosen = (*chosen, max(rest, key=lambda at: _covered((*chosen, at), wanted, free)))
        return tuple(at for at in candidates if at in chosen)
    best: tuple[str, ...] = ()
    most = 0
    for size in range(1, at_most + 1):
        for choice in combinations(candidates, size):
            units = _covered(choice, wanted, free)
            if units > most:
                best, most = choice, units
        if most == everything:
            break
    return best


def _covered(locations: Sequence[str], wanted: Mapping[str, int], free: Mapping[str, Mapping[str, int]]) -> int:
    return sum(min(units, sum(free[sku].get(at, 0) for at in locations)) for sku, units in wanted.items())


def _picked(
    needs: Sequence[Need], takes: Sequence[int], stock: Stock, locations: Sequence[str]
) -> dict[tuple[int, str], int]:
    """Units by (index of the need, location)."""
    free = {need.sku: stock.free(need.sku) for need in needs}
    picked: dict[tuple[int, str], int] = {}
    for index, (need, take) in enumerate(zip(needs, takes, strict=True)):
        left = take
        for at in locations:
            units = min(left, free[need.sku].get(at, 0))
            if units:
                picked[index, at] = units
                free[need.sku][at] -= units
                left -= units
    return picked


def _shipments(
    picked: Mapping[tuple[int, str], int], locations: Sequence[str], needs: Sequence[Need]
) -> tuple[PlannedParcels, ...]:
    """One per location. A line whose units differ in sku (an exchange) goes in two, so that a line there is one sku."""
    skus: dict[str, list[str]] = {}
    for need in needs:
        if need.sku not in skus.setdefault(need.line_id, []):
            skus[need.line_id].append(need.sku)
    groups: dict[tuple[str, int], list[Pick]] = {}
    for at in locations:
        for index, need in enumerate(needs):
            if units := picked.get((index, at), 0):
                groups.setdefault((at, skus[need.line_id].index(need.sku)), []).append(Pick(need, units))
    return tuple(PlannedParcels(at, tuple(picks)) for (at, _), picks in groups.items())


def _shortages(
    order_id: str, needs: Sequence[Need], picked: Mapping[tuple[int, str], int], stock: Stock
) -> tuple[Shortage, ...]:
    """What is left, each with the date by which enough has arrived for the queue up to it.

    Units that are in stock and wait for others have the latest date of those.
    """
    used: dict[str, int] = {}
    for (index, _), units in picked.items():
        used[needs[index].sku] = used.get(needs[index].sku, 0) + units
    here: list[tuple[Need, int]] = []
    awaited: dict[int, Shortage] = {}
    for index, need in enumerate(needs):
        units = need.quantity - sum(units for (i, _), units in picked.items() if i == index)
        if not units:
            continue
        used[need.sku] = used.get(need.sku, 0) + units
        missing = stock.demand_ahead(order_id, need.sku) + used[need.sku] - sum(stock.free(need.sku).values())
        if missing > 0:
            awaited[index] = Shortage(need, units, _arrival(missing, stock.arrivals(need.sku)))
        else:
            here.append((need, index))
    dates = [shortage.eta for shortage in awaited.values()]
    known = [date for date in dates if date is not None]
    last = max(known) if known and len(known) == len(dates) else None
    for need, index in here:
        units = need.quantity - sum(units for (i, _), units in picked.items() if i == index)
        awaited[index] = Shortage(need, units, last)
    return tuple(awaited[index] for index in sorted(awaited))


def _arrival(missing: int, arrivals: Sequence[tuple[datetime, int]]) -> datetime | None:
    """When so many units more have come in."""
    for eta, units in arrivals:
        missing -= units
        if missing <= 0:
            return eta
    return None


def _units(quantity: int) -> str:
    return "1 unit" if quantity == 1 else f"{quantity} units"


def _shipments_in_words(quantity: int) -> str:
    return "one shipment" if quantity == 1 else f"{quantity} shipments"


def _of_locations(needs: Sequence[Need], picked: Mapping[tuple[int, str], int], locations: Sequence[str]) -> str:
    at = {place: sum(units for (_, where), units in picked.items() if where == place) for place in locations}
    parts = ", ".join(f"{_units(units)} from {place}" for place, units in at.items())
    if len(locations) == 1:
        return f"One shipment: {parts}."
    return f"No single location has them all: {len(locations)} shipments, {parts}."


def _of_shortage(shortage: Shortage) -> str:
    when = f"expected by {shortage.eta.date().isoformat()}" if shortage.eta else "no date is known yet"
    return f"{_units(shortage.quantity)} of {shortage.need.sku} for line {shortage.need.line_id} backordered: {when}."
