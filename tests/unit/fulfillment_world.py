"""Orders and shelves in memory, wired to the pure core of fulfillment as its store wires them."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone

from fulfillment.domain.decide import Command, HandOver, Open, Pack, Plan, Track, decide
from fulfillment.domain.policy import FulfillmentPolicy
from fulfillment.domain.state import OrderFulfillment, evolve, invariants
from fulfillment.domain.stock import Shelf, Stock, evolve_context
from fulfillment.domain.tracking import ShipmentStatus
from shared.contracts.base import Bucket, Fact, LineQuantity
from shared.contracts.fulfillment import OpenedLine, Scan, StockAllocated
from shared.contracts.orders import BackorderChoice, ShippingPreference

NOON = datetime(2026, 5, 4, 12, tzinfo=timezone.utc)
POLICY = FulfillmentPolicy(
    policy_id="fulfillment",
    version=1,
    effective_from=datetime(2000, 1, 1, tzinfo=timezone.utc),
    location_priority=("berlin", "hamburg"),
    consent_after_days=7,
    consent_hours=48,
    consent_options=(BackorderChoice.WAIT, BackorderChoice.CANCEL),
    silence=BackorderChoice.WAIT,
)


def days(count: float) -> datetime:
    return NOON + timedelta(days=count)


def lines(**quantities: int) -> tuple[LineQuantity, ...]:
    return tuple(LineQuantity(line_id=line_id, quantity=quantity) for line_id, quantity in quantities.items())


class World:
    """`shelf` says what lies where; orders' lines are named as their skus unless said otherwise."""

    def __init__(self, policy: FulfillmentPolicy = POLICY) -> None:
        self.orders: dict[str, OrderFulfillment] = {}
        self.journal: dict[str, list[Fact]] = {}
        self.shelves: dict[str, dict[str, Shelf]] = {}
        self.policy = policy
        self.now = NOON

    def shelf(self, sku: str, location: str, on_hand: int, incoming: int = 0, eta: datetime | None = None) -> None:
        before = self.shelves.setdefault(sku, {}).get(location, Shelf())
        self.shelves[sku][location] = replace(before, on_hand=on_hand, incoming=incoming, eta=eta)

    def stock(self) -> Stock:
        places = {o.order_id: (o.placed_at or NOON, o.order_id) for o in self.orders.values()}
        ahead: dict[tuple[str, str], int] = {}
        for order_id, place in places.items():
            for other in self.orders.values():
                for backorder in other.waiting:
                    if places[other.order_id] < place:
                        key = (order_id, backorder.sku)
                        ahead[key] = ahead.get(key, 0) + backorder.open
        return Stock(
            shelves=self.shelves,
            places=places,
            ahead=ahead,
            policies=(self.policy,),
            told_at={o: self.now for o in self.orders},
        )

    def when(self, order_id: str, command: Command) -> list[Fact]:
        """Decide and fold; the laws hold after every command, on the order and on the shelves."""
        state = self.orders.setdefault(order_id, OrderFulfillment(order_id))
        stock = self.stock()
        facts = decide(state, command, stock)
        for fact in facts:
            state, stock = evolve(state, fact), evolve_context(stock, fact)
        assert invariants(state) == []
        self.orders[order_id] = state
        self.journal.setdefault(order_id, []).extend(facts)
        self.shelves = {sku: dict(at) for sku, at in stock.shelves.items()}
        for sku, at in self.shelves.items():
            for location, shelf in at.items():
                assert 0 <= shelf.allocated <= shelf.on_hand, f"{sku} at {location}: {shelf}"
        return list(facts)

    def placed(
        self, order_id: str, at: datetime = NOON, preference: ShippingPreference | None = None, **quantities: int
    ) -> None:
        opened = tuple(OpenedLine(line_id=sku, sku=sku, quantity=units) for sku, units in quantities.items())
        self.when(order_id, Open(at, opened, preference or ShippingPreference()))

    def confirmed(
        self, order_id: str, at: datetime = NOON, preference: ShippingPreference | None = None, **quantities: int
    ) -> list[Fact]:
        self.placed(order_id, at, preference, **quantities)
        return self.when(order_id, Plan())

    def packed(self, shipment_id: str) -> list[Fact]:
        return self.when(order_of(shipment_id), Pack(shipment_id))

    def shipped(self, shipment_id: str) -> list[Fact]:
        """Packed in one parcel and handed over under tracking number T-<shipment id>."""
        self.packed(shipment_id)
        return self.handed_over(shipment_id)

    def handed_over(self, shipment_id: str) -> list[Fact]:
        parcels = self.orders[order_of(shipment_id)].shipments[shipment_id].parcels
        tracking = tuple((name, f"T-{name}") for name in parcels)
        return self.when(order_of(shipment_id), HandOver(shipment_id, "dhl", tracking))

    def scanned(self, shipment_id: str, code: str, at: datetime = NOON, parcel: str = "P1") -> list[Fact]:
        tracking = f"T-{shipment_id}-{parcel}"
        return self.when(order_of(shipment_id), Track(Scan(carrier="dhl", tracking=tracking, code=code, at=at)))

    def status(self, shipment_id: str) -> ShipmentStatus:
        return self.orders[order_of(shipment_id)].shipments[shipment_id].status

    def units(self, order_id: str, line_id: str) -> dict[str, int]:
        return {bucket.value: units for bucket, units in self.orders[order_id].lines[line_id].units.items()}

    def all_units(self, order_id: str, *buckets: Bucket) -> int:
        return sum(line.of(*buckets) for line in self.orders[order_id].lines.values())


def order_of(shipment_id: str) -> str:
    return shipment_id.rpartition("-S")[0]


def of(kind: type[Fact], facts: Sequence[Fact]) -> list[Fact]:
    return [fact for fact in facts if isinstance(fact, kind)]


def where(facts: Sequence[Fact]) -> dict[str, int]:
    """Units allocated by location."""
    sums: dict[str, int] = {}
    for fact in facts:
        if isinstance(fact, StockAllocated):
            sums[fact.location] = sums.get(fact.location, 0) + fact.quantity
    return sums


def types(facts: list[Fact]) -> list[str]:
    return [fact.type for fact in facts]


def shipped(world: World, mug: int) -> World:
    world.shelf("mug", "berlin", mug)
    world.confirmed("o1", mug=mug)
    world.shipped("o1-S1")
    return world
