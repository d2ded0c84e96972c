"""What lies on the shelves and who waits for it: the data that plans are made of, and how an order's facts change it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from fulfillment.domain.policy import FulfillmentPolicy
from shared.contracts.base import Fact
from shared.contracts.fulfillment import (
    BackorderCancelled,
    BackorderCreated,
    BackorderFilled,
    StockAllocated,
    StockFact,
    StockReleased,
    StockRestocked,
    StockShipped,
    StockWithdrawn,
)
from shared.core.machine import replace

Place = tuple[datetime, str]
"""An order's place in the queue for goods: when it was placed, then its id."""


@dataclass(frozen=True, slots=True)
class Shelf:
    """One sku at one location."""

    on_hand: int = 0
    allocated: int = 0
    incoming: int = 0
    eta: datetime | None = None

    @property
    def free(self) -> int:
        return self.on_hand - self.allocated


@dataclass(frozen=True, slots=True)
class Stock:
    """The shelves (sku, then location) of the skus a batch touches, locked; and the queue for them.

    `ahead` is, by order and sku, what older orders waited for when it was loaded; `since` is how that demand changed
    within the batch, by sku, as (place, units). `told_at` is when the latest of what is told of an order happened.
    """

    shelves: Mapping[str, Mapping[str, Shelf]] = field(default_factory=dict)
    places: Mapping[str, Place] = field(default_factory=dict)
    ahead: Mapping[tuple[str, str], int] = field(default_factory=dict)
    since: Mapping[str, tuple[tuple[Place, int], ...]] = field(default_factory=dict)
    policies: tuple[FulfillmentPolicy, ...] = ()
    told_at: Mapping[str, datetime] = field(default_factory=dict)

    def free(self, sku: str) -> dict[str, int]:
        """Free units by location."""
        return {at: shelf.free for at, shelf in self.shelves.get(sku, {}).items() if shelf.free > 0}

    def demand_ahead(self, order_id: str, sku: str) -> int:
        """Units that older orders wait for: free ones are theirs first."""
        place = self.places[order_id]
        changed = sum(units for other, units in self.since.get(sku, ()) if other < place)
        return self.ahead.get((order_id, sku), 0) + changed

    def arrivals(self, sku: str) -> list[tuple[datetime, int]]:
        """Incoming units with a date, soonest first."""
        dated = [(s.eta, s.incoming) for s in self.shelves.get(sku, {}).values() if s.eta and s.incoming]
        return sorted(dated)


def effect(fact: StockFact) -> tuple[int, int]:
    """What a fact adds to (on hand, allocated) of its shelf."""
    match fact:
        case StockAllocated(quantity=units):
            return 0, units
        case StockReleased(quantity=units, on_hand=True):
            return 0, -units
        case StockReleased(quantity=units) | StockShipped(quantity=units):
            return -units, -units
        case StockRestocked(quantity=units):
            return units, 0
        case StockWithdrawn(quantity=units):
            return -units, 0
        case _:
            return 0, 0


def evolve_context(stock: Stock, fact: Fact) -> Stock:
    """Stock as the next decision of the batch finds it."""
    match fact:
        case StockFact(sku=sku, location=location):
            on_hand, allocated = effect(fact)
            if not on_hand and not allocated:
                return stock
            at = stock.shelves.get(sku, {})
            shelf = at.get(location, Shelf())
            shelf = replace(shelf, on_hand=shelf.on_hand + on_hand, allocated=shelf.allocated + allocated)
            return replace(stock, shelves={**stock.shelves, sku: {**at, location: shelf}})
        case BackorderCreated(order_id=order_id, sku=sku, quantity=units):
            return _queued(stock, order_id, sku, units)
        case BackorderFilled(order_id=order_id, sku=sku, quantity=units):
            return _queued(stock, order_id, sku, -units)
        case BackorderCancelled(order_id=order_id, sku=sku, quantity=units):
            return _queued(stock, order_id, sku, -units)
        case _:
            return stock


def _queued(stock: Stock, order_id: str, sku: str, units: int) -> Stock:
    changes = (*stock.since.get(sku, ()), (stock.places[order_id], units))
    return replace(stock, since={**stock.since, sku: changes})


def shelf_effects(facts: Iterator[Fact]) -> dict[tuple[str, str], tuple[int, int]]:
    """What facts add in all to (on hand, allocated), by (sku, location); shelves that stay as they were are left out."""
    sums: dict[tuple[str, str], tuple[int, int]] = {}
    for fact in facts:
        if isinstance(fact, StockFact):
            on_hand, allocated = sums.get((fact.sku, fact.location), (0, 0))
            more_on_hand, more_allocated = effect(fact)
            sums[fact.sku, fact.location] = (on_hand + more_on_hand, allocated + more_allocated)
    return {shelf: change for shelf, change in sums.items() if change != (0, 0)}
