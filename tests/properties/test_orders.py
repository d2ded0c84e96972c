"""Orders under any story: units stay in their buckets, splits sum to the whole, the state is the fold of the facts."""

from collections.abc import Callable
from datetime import datetime, timedelta, timezone

from hypothesis import event, given, settings
from hypothesis import strategies as st

from orders.domain.decide import Command, Place, PlaceHold, RecordFact, ReleaseHold, RequestCancellation, decide
from orders.domain.placement import LineRequest, PlacementRequest, TenderRequest, placed
from orders.domain.policy import OrderPolicy
from orders.domain.quantities import BEFORE_HAND_OVER, GONE_ASTRAY, OPEN
from orders.domain.rollups import FulfillmentStatus, rollups
from orders.domain.state import Order, Status, evolve, invariants
from orders.store import STATE
from shared.contracts import fulfillment as f
from shared.contracts import payments as p
from shared.contracts.base import FACTS, Bucket, Fact, LineQuantity, TenderKind
from shared.contracts.orders import Address, Customer, Hold, OrderLinesCancelled, ShippingPreference
from shared.core.machine import Invalid, NotAllowed

NOON = datetime(2026, 5, 4, 12, tzinfo=timezone.utc)
POLICIES = [OrderPolicy("orders", 1, datetime(2000, 1, 1, tzinfo=timezone.utc), timedelta(days=60))]

Minors = st.integers(0, 10**7)


@st.composite
def placements(draw: st.DrawFn) -> PlacementRequest:
    """Any order that may be placed: discounts within what the lines cost, tenders that sum to the total."""
    lines = []
    for n in range(draw(st.integers(1, 4))):
        quantity, price = draw(st.integers(1, 5)), draw(st.integers(0, 10**5))
        discount = draw(st.integers(0, quantity * price))
        tax = draw(st.integers(0, 10**4))
        lines.append(LineRequest(f"sku{n}", "Thing", quantity, price, discount_minor=discount, tax_minor=tax))
    cost = sum(line.quantity * line.unit_price_minor - line.discount_minor for line in lines)
    discount, tax, shipping = draw(st.integers(0, cost)), draw(Minors), draw(Minors)
    total = cost - discount + tax + shipping + sum(line.tax_minor for line in lines)
    first = draw(st.integers(0, total))
    amounts = [amount for amount in (first, total - first) if amount]
    return PlacementRequest(
        placed_at=NOON,
        customer=Customer(customer_id="c1", email="ada@example.org", name="Ada"),
        ship_to=Address(name="Ada", street="Main 1", city="Bonn", postal_code="53111", country="DE"),
        currency="EUR",
        lines=tuple(lines),
        tenders=tuple(TenderRequest(TenderKind.CARD, "tok_ok", amount) for amount in amounts),
        preference=ShippingPreference(),
        discount_minor=discount,
        tax_minor=tax,
        shipping_minor=shipping,
    )


@given(placements())
def test_every_split_at_placement_sums_to_the_whole(request: PlacementRequest) -> None:
    fact = placed("o1", request)
    own = request.lines
    assert sum(line.discount_minor for line in fact.lines) == request.discount_minor + sum(
        w.discount_minor for w in own
    )
    assert sum(line.tax_minor for line in fact.lines) == request.tax_minor + sum(w.tax_minor for w in own)
    assert sum(line.shipping_minor for line in fact.lines) == request.shipping_minor
    for line in fact.lines:
        assert 0 <= line.discount_minor <= line.quantity * line.unit_price_minor
        assert line.goods_minor == line.quantity * line.unit_price_minor - line.discount_minor + line.tax_minor
    assert fact.total_minor == sum(line.goods_minor + line.shipping_minor for line in fact.lines)
    assert fact.total_minor == sum(tender.amount_minor for tender in fact.tenders)


class World:
    """Fulfillment and payments as they would tell this order's story; hypothesis picks what happens next."""

    def __init__(self, draw: Callable[[st.SearchStrategy[int]], int], request: PlacementRequest) -> None:
        self.draw = draw
        self.order: Order | None = None
        self.told: list[Fact] = []
        self.cancelled_minor = 0
        self.shipments = 0
        self.under_way: list[str] = []
        self.is_ending = False
        self.tell(Place("o1", request, NOON))
        if self.pick(4):
            self.authorize()

    @property
    def now(self) -> Order:
        assert self.order is not None
        return self.order

    def tell(self, command: Command) -> None:
        for fact in decide(self.order, command, POLICIES):
            self.order = evolve(self.order, fact)
            self.told.append(fact)
            if isinstance(fact, OrderLinesCancelled):
                self.cancelled_minor += sum(line.goods_minor for line in fact.lines)

    def hear(self, *facts: Fact) -> None:
        for fact in facts:
            self.tell(RecordFact(fact, NOON))

    def pick(self, below: int) -> int:
        """Below what is given; the last of them on the way to rest, which is the straight one."""
        return below - 1 if self.is_ending else self.draw(st.integers(0, below - 1))

    def a_line_with(self, bucket: Bucket) -> LineQuantity | None:
        having = [(id, line.count(bucket)) for id, line in self.now.lines.items() if line.count(bucket) > 0]
        if not having:
            return None
        line_id, units = having[self.pick(len(having))]
        return LineQuantity(line_id=line_id, quantity=1 + self.pick(units))

    def shipment(self, stage: Bucket) -> str | None:
        ids = [id for id, shipment in self.now.shipments.items() if shipment.stage is stage]
        return ids[self.pick(len(ids))] if ids else None

    def authorize(self) -> None:
        if self.now.tenders:
            id = list(self.now.tenders)[self.pick(len(self.now.tenders))]
            amount = self.now.total_minor
            about = {"order_id": "o1", "tender_id": id, "operation_id": "p", "amount_minor": amount, "currency": "EUR"}
            if self.pick(8):
                self.hear(p.PaymentAuthorized(**about, tender_kind=TenderKind.CARD, reference="r", expires_at=None))
            else:
                self.hear(p.PaymentDeclined(**about, code="no"))

    def allocate(self) -> None:
        units = self.a_line_with(Bucket.UNALLOCATED)
        if units is not None:
            self.shipments += 1
            self.hear(
                f.StockAllocated(
                    order_id="o1",
                    sku="s",
                    location="x",
                    quantity=units.quantity,
                    line_id=units.line_id,
                    shipment_id=f"o1-S{self.shipments}",
                )
            )

    def backorder(self) -> None:
        units = self.a_line_with(Bucket.UNALLOCATED)
        if units is not None:
            self.shipments += 1
            id = f"o1-B{self.shipments}"
            self.hear(
                f.BackorderCreated(
                    order_id="o1", backorder_id=id, line_id=units.line_id, sku="s", quantity=units.quantity, eta=None
                )
            )

    def fill(self) -> None:
        for id, backorder in list(self.now.backorders.items())[:1]:
            units = 1 + self.pick(backorder.quantity)
            about = {"order_id": "o1", "backorder_id": id, "line_id": backorder.line_id, "sku": "s"}
            left = backorder.quantity - units
            if self.pick(3):
                self.hear(f.BackorderFilled(**about, quantity=units, remaining=left, shipment_id="o1-S1"))
            else:
                self.hear(f.BackorderCancelled(**about, quantity=units, remaining=left))

    def move_on(self) -> None:
        if id := self.shipment(Bucket.ALLOCATED):
            lines = self._lines(id)
            if self.pick(3):
                self.hear(
                    f.ShipmentPacked(order_id="o1", shipment_id=id, parcels=(f.Parcel(parcel_id="p", lines=lines),))
                )
            else:
                self.hear(f.ShipmentCancelled(order_id="o1", shipment_id=id, lines=lines, detail=""))
        elif id := self.shipment(Bucket.PACKED):
            lines = self._lines(id)
            self.hear(
                f.ShipmentShipped(order_id="o1", shipment_id=id, carrier="c", parcels=(), lines=lines, number=1, of=1)
            )
            self.under_way.append(id)
        elif self.under_way:
            id = self.under_way.pop(self.pick(len(self.under_way)))
            kind = (f.ShipmentLost, f.ShipmentReturnedToSender, f.ShipmentDelivered, f.ShipmentDelivered)[self.pick(4)]
            self.hear(kind(order_id="o1", shipment_id=id, lines=self._lines(id)))

    def _lines(self, id: str) -> tuple[LineQuantity, ...]:
        units = self.now.shipments[id].units
        return tuple(LineQuantity(line_id=line_id, quantity=quantity) for line_id, quantity in units.items())

    def replace(self) -> None:
        units = self.a_line_with(Bucket.LOST)
        if units is not None:
            gone = f.CancelledUnits(line_id=units.line_id, quantity=units.quantity, was=Bucket.LOST)
            again = units.model_copy(update={"quantity": units.quantity + self.pick(2)})
            self.hear(
                f.ReplacementCreated(
                    order_id="o1",
                    replacement_id="x",
                    cause_id="c",
                    lines=(again,),
                    moved=(gone,),
                    reason_code="lost",
                )
            )

    def ask_to_cancel(self) -> None:
        units = self.a_line_with(BEFORE_HAND_OVER[self.pick(4)])
        lines = None if units is None or not self.pick(4) else (units,)
        self.tell(RequestCancellation(at=NOON, lines=lines, detail=""))

    def answer(self) -> None:
        """What is unallocated by now is cancelled, the rest refused; now and then in pieces."""
        if self.now.pending is None:
            return
        asked = self.now.cancellations[self.now.pending]
        for line_id, quantity in asked.asked.items():
            left = quantity - asked.cancelled.get(line_id, 0) - asked.refused.get(line_id, 0)
            free = min(left, self.now.lines[line_id].count(Bucket.UNALLOCATED))
            if left and free:
                units = f.CancelledUnits(line_id=line_id, quantity=free, was=Bucket.UNALLOCATED)
                self.hear(f.FulfillmentLinesCancelled(order_id="o1", cancellation_id=self.now.pending, lines=(units,)))
                return
            if left:
                self.hear(
                    f.FulfillmentCancellationRefused(
                        order_id="o1",
                        cancellation_id=self.now.pending,
                        lines=(LineQuantity(line_id=line_id, quantity=left),),
                        reason_code="handed_over",
                    )
                )
                return

    def hold(self) -> None:
        hold = list(Hold)[self.pick(len(Hold))]
        kind = (PlaceHold, ReleaseHold)[self.pick(2)]
        self.tell(kind(at=NOON, hold=hold, detail=""))

    def come_to_rest(self) -> None:
        """Every answer is given and every unit arrives somewhere."""
        self.is_ending = True
        while self.now.pending is not None and self.now.status is Status.CANCEL_PENDING:
            self.answer()
        while self.now.units(*OPEN):
            self.fill()
            self.allocate()
            self.move_on()


STEPS = (
    World.authorize,
    World.allocate,
    World.allocate,
    World.allocate,
    World.backorder,
    World.fill,
    World.move_on,
    World.move_on,
    World.move_on,
    World.move_on,
    World.move_on,
    World.replace,
    World.ask_to_cancel,
    World.answer,
    World.hold,
)


@settings(max_examples=150, deadline=None)
@given(st.data(), placements(), st.lists(st.sampled_from(STEPS), max_size=60))
def test_whatever_happens_the_laws_hold_and_the_state_is_the_fold(
    data: st.DataObject, request: PlacementRequest, steps: list[Callable[[World], None]]
) -> None:
    world = World(data.draw, request)
    for step in steps:
        before = world.order
        try:
            step(world)
        except (NotAllowed, Invalid):
            assert world.order == before
        order = world.now
        assert invariants(order) == []
        assert all(line.count(*Bucket) == line.owed for line in order.lines.values())
        goods = sum(line.placed.goods_minor for line in order.lines.values())
        assert world.cancelled_minor <= goods
        assert order.due_minor in (order.total_minor - world.cancelled_minor, 0)
        shown = rollups(order)
        assert (shown.fulfillment_status is FulfillmentStatus.CANCELLED) == order.is_all_cancelled
        assert (order.status is Status.CANCELLED) <= order.is_all_cancelled
        assert (order.status is Status.CANCEL_PENDING) <= (order.pending is not None)
    world.come_to_rest()
    assert invariants(world.now) == []
    if world.now.status not in (Status.PLACED, Status.REJECTED):
        if world.now.is_all_cancelled:
            assert world.now.status is Status.CANCELLED
        else:
            assert world.now.status is (Status.CONFIRMED if world.now.units(*GONE_ASTRAY) else Status.COMPLETED)
    event(f"ends {world.now.status}, {rollups(world.now).fulfillment_status}")
    fold: Order | None = None
    for fact in world.told:
        travelled = FACTS[fact.type].model_validate_json(fact.model_dump_json())
        assert travelled == fact
        fold = evolve(fold, travelled)
    assert fold == world.order
    assert world.now.version == len(world.told)
    assert STATE.validate_json(STATE.dump_json(world.order)) == world.order
