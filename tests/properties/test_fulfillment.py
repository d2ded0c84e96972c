"""Whatever is told, in whatever order: every unit is in one place, nothing is sold twice, and the journal says it all."""

from collections import Counter
from contextlib import suppress
from datetime import datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from fulfillment.domain.decide import (
    Cancel,
    ChangeAddress,
    Command,
    Fill,
    HandOver,
    Inspect,
    Pack,
    PlaceHold,
    Plan,
    Recall,
    Relabel,
    ReleaseHold,
    Replace,
    SettleConsent,
    ShortPick,
    Track,
)
from fulfillment.domain.planning import Need, plan
from fulfillment.domain.shipment import BEFORE_HAND_OVER, SHIPMENT
from fulfillment.domain.state import FulfillmentStatus, OrderFulfillment, evolve
from fulfillment.domain.stock import Shelf, Stock
from shared.contracts.base import Bucket, LineQuantity
from shared.contracts.fulfillment import Scan
from shared.contracts.orders import Address, BackorderChoice, Hold, ShippingPreference
from shared.contracts.returns import Disposition, InspectedLine, InspectionOutcome
from shared.core.machine import Invalid, NotAllowed
from tests.unit.fulfillment_world import NOON, POLICY, World, days, where

STATE = TypeAdapter(OrderFulfillment)
SKUS = ("mug", "tea")
HOME = Address(name="Ada", street="Main 1", city="Bonn", postal_code="53111", country="DE")
LOCATIONS = ("berlin", "hamburg", "zurich")
ORDERS = ("o1", "o2")
CODES = (
    "in_transit",
    "out_for_delivery",
    "delivered",
    "delayed",
    "attempted",
    "customs",
    "not_received",
    "lost",
    "found",
    "returning",
    "returned",
    "recalled",
)

units = st.integers(1, 3)
CODE = st.sampled_from((*CODES, *3 * ("delivered", "lost")))
instant = st.integers(0, 6).map(days)
preference = st.sampled_from(
    (
        ShippingPreference(),
        ShippingPreference(rule="complete_only"),
        ShippingPreference(rule="max_n_shipments", max_shipments=2),
    )
)
inspected = st.builds(
    InspectedLine,
    line_id=st.sampled_from(SKUS),
    quantity=units,
    outcome=st.just(InspectionOutcome.OPENED),
    disposition=st.sampled_from(Disposition),
    refund_percent=st.just(100),
    fee_percent=st.just(0),
)


box = st.tuples(
    st.sampled_from(("a", "b", "o1-S1-P1")),
    st.lists(st.builds(LineQuantity, line_id=st.sampled_from((*SKUS, "hat")), quantity=units), max_size=2).map(tuple),
)
number = st.tuples(st.sampled_from(("a", "b", "o1-S1-P1")), st.sampled_from(("T1", "T2", "T-o1-S1")))
numbered = st.lists(number, min_size=1, max_size=3, unique_by=lambda pair: pair[0]).map(tuple)
carrier = st.sampled_from(("dhl", "ups"))
about = st.sampled_from(tuple(f"{order_id}-S{n}" for order_id in ORDERS for n in range(1, 5)))
observed: st.SearchStrategy[Command] = st.one_of(
    st.builds(Relabel, about, instant),
    st.builds(Pack, about, st.lists(box, max_size=3).map(tuple), is_awaited=st.just(False), at=instant),
    st.builds(
        ShortPick,
        about,
        st.builds(LineQuantity, line_id=st.sampled_from((*SKUS, "hat")), quantity=units).map(lambda line: (line,)),
        is_awaited=st.just(False),
    ),
    st.builds(HandOver, about, carrier, numbered),
)
"""What a warehouse may say of any shipment at any time, most of it not sensible."""


def likely(world: World, order_id: str, at: datetime) -> list[st.SearchStrategy[Command]]:
    """What its warehouse, its carrier and its customer may tell of this order next, most of it sensible."""
    order = world.orders[order_id]
    some = st.builds(LineQuantity, line_id=st.sampled_from((*SKUS, "hat")), quantity=units).map(lambda line: (line,))
    choices: list[st.SearchStrategy[Command]] = [
        st.just(ChangeAddress(HOME, at)),
        st.builds(Cancel, st.sampled_from(("c1", "c2", "c3")), some),
        st.builds(PlaceHold, st.sampled_from((Hold.PAYMENT, Hold.FRAUD))),
        st.just(Fill(at)),
    ]
    if order.holds:
        choices += [st.builds(ReleaseHold, st.sampled_from(order.holds))] * 3
    if order.status is FulfillmentStatus.OPENED:
        return [st.just(Plan()), *choices]
    for shipment in order.shipments.values():
        about = shipment.shipment_id
        if shipment.status in BEFORE_HAND_OVER and not shipment.is_packed:
            choices += [st.just(Pack(about)), st.just(Pack(about)), st.builds(ShortPick, st.just(about), some)]
        elif shipment.status in BEFORE_HAND_OVER:
            choices += [st.just(HandOver(about, "dhl", ((f"{about}-P1", f"T-{about}"),)))] * 4
        elif shipment.carrier is not None:
            numbers = [shipment.number_of(parcel) for parcel in shipment.parcels.values()]
            scan = st.builds(
                lambda number, code, at=at: Scan(carrier=number[0], tracking=number[1], code=code, at=at),
                st.sampled_from((*numbers * 3, *shipment.others)),
                CODE,
            )
            choices += [st.builds(Track, scan, shipment_id=st.just(about))] * 12 + [st.just(Recall(about))]
            choices += [st.builds(HandOver, st.just(about), carrier, numbered)]
    for backorder_id in order.backorders:
        choice = st.sampled_from(BackorderChoice)
        choices.append(st.builds(SettleConsent, st.just(backorder_id), choice, st.just("cup"), st.just(at)))
    if world.all_units(order_id, Bucket.DELIVERED, Bucket.LOST):
        name, why = st.sampled_from(("x1", "x2")), st.sampled_from(("lost", "damaged", "exchange"))
        choices += [st.builds(Replace, name, st.just("r1"), some, st.sampled_from((*SKUS, "cup")), why)] * 8
        choices.append(st.builds(Inspect, st.sampled_from(("i1", "i2")), st.just("zurich"), st.tuples(inspected)))
    return choices


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Two orders, some goods, and then a story of many steps."""
    world = World()
    for sku in SKUS:
        world.shelf(sku, draw(st.sampled_from(LOCATIONS)), draw(st.integers(0, 6)))
    for number, order_id in enumerate(ORDERS):
        world.placed(order_id, NOON + timedelta(hours=number), draw(preference), mug=draw(units), tea=draw(units))
        if draw(st.integers(0, 3)):
            world.when(order_id, Plan())
        for shipment_id in world.orders[order_id].shipments:
            if draw(st.booleans()):
                world.shipped(shipment_id)
    for _ in range(draw(st.integers(5, 30))):
        at = draw(instant)
        what = draw(st.integers(0, 6))
        if what == 0:
            world.when(draw(st.sampled_from((*ORDERS, "o9"))), draw(observed))
        elif what == 1:
            sku, location = draw(st.sampled_from((*SKUS, "cup"))), draw(st.sampled_from(LOCATIONS))
            before = world.shelves.get(sku, {}).get(location, Shelf())
            world.shelf(sku, location, before.on_hand + draw(units), draw(units), draw(st.none() | instant))
        else:
            order_id = draw(st.sampled_from(ORDERS))
            with suppress(NotAllowed, Invalid):
                world.when(order_id, draw(draw(st.sampled_from(likely(world, order_id, at)))))
    return world


@settings(max_examples=60, deadline=None)
@given(worlds())
def test_whatever_happens_the_ledger_is_the_fold_of_its_journal_and_the_shelves_agree_with_it(world: World) -> None:
    allocated: Counter[tuple[str, str]] = Counter()
    for order_id, order in world.orders.items():
        folded = OrderFulfillment(order_id)
        for fact in world.journal[order_id]:
            folded = evolve(folded, fact)
        assert folded == order
        assert STATE.validate_json(STATE.dump_json(order)) == order
        for shipment in order.shipments.values():
            if shipment.status in BEFORE_HAND_OVER:
                for item in shipment.items:
                    allocated[item.sku, shipment.location] += item.quantity
    on_shelves = {(sku, at): s.allocated for sku, shelf in world.shelves.items() for at, s in shelf.items()}
    assert {place: n for place, n in on_shelves.items() if n} == dict(allocated)


@settings(max_examples=40, deadline=None)
@given(worlds())
def test_once_everybody_was_served_no_goods_lie_idle_while_an_order_that_takes_them_waits(world: World) -> None:
    for order_id in ORDERS:
        with suppress(NotAllowed):
            world.when(order_id, Plan())
        with suppress(NotAllowed):
            world.when(order_id, Fill(NOON))
    stock = world.stock()
    for order_id, order in world.orders.items():
        if order.preference.rule == "as_available":
            for backorder in order.waiting:
                free = sum(stock.free(backorder.sku).values())
                assert free <= stock.demand_ahead(order_id, backorder.sku)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(CODES), st.integers(0, 5)), min_size=1, max_size=7), st.randoms())
def test_scans_shuffled_and_doubled_lead_to_the_same_end(scans: list[tuple[str, int]], random: object) -> None:
    shuffled = [*scans, *scans]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    ends = []
    for order in (sorted(scans, key=lambda scan: scan[1]), shuffled):
        world = World()
        world.shelf("mug", "berlin", 1)
        world.confirmed("o1", mug=1)
        world.shipped("o1-S1")
        for code, day in order:
            world.scanned("o1-S1", code, days(day))
        shipment = world.orders["o1"].shipments["o1-S1"]
        ends.append((shipment.status, world.units("o1", "mug"), world.shelves["mug"]["berlin"]))
    assert ends[0] == ends[1]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.builds(Need, st.sampled_from("abc"), st.sampled_from(SKUS), units), min_size=1, max_size=4),
    st.dictionaries(st.sampled_from(SKUS), st.dictionaries(st.sampled_from(LOCATIONS), st.integers(0, 4)), min_size=1),
    st.integers(0, 3),
    preference,
)
def test_a_plan_splits_every_unit_takes_what_is_free_and_leaves_what_others_wait_for(
    needs: list[Need], free: dict[str, dict[str, int]], ahead: int, wanted: ShippingPreference
) -> None:
    shelves = {sku: {at: Shelf(on_hand) for at, on_hand in places.items()} for sku, places in free.items()}
    stock = Stock(shelves, {"o1": (NOON, "o1")}, {("o1", sku): ahead for sku in SKUS})
    split = plan("o1", needs, stock, wanted, POLICY)
    taken: Counter[tuple[str, str]] = Counter()
    for parcels in split.shipments:
        for pick in parcels.picks:
            taken[pick.need.sku, parcels.location] += pick.quantity
    assert sum(taken.values()) + sum(s.quantity for s in split.shortages) == sum(n.quantity for n in needs)
    for (sku, location), quantity in taken.items():
        assert quantity <= free[sku][location]
    for sku, places in free.items():
        here = sum(places.values())
        out = sum(quantity for (other, _), quantity in taken.items() if other == sku)
        assert out <= max(0, here - ahead)
        if wanted.rule == "as_available":
            assert out == min(max(0, here - ahead), sum(n.quantity for n in needs if n.sku == sku))
    if wanted.rule == "complete_only":
        assert not (split.shipments and split.shortages)
    if wanted.rule == "max_n_shipments":
        locations = {parcels.location for parcels in split.shipments}
        assert len(locations) + bool(split.shortages) <= 2


def test_every_fact_a_shipment_may_have_is_told_by_something() -> None:
    """A story per branch, until the table has no row left that nothing leads to."""
    told: set[str] = set()
    ways = (
        ("in_transit", "out_for_delivery", "delivered", "not_received"),
        ("delayed", "lost", "found"),
        ("attempted", "recalled", "returned"),
        ("returning",),
    )
    for way in ways:
        world = World()
        world.shelf("mug", "berlin", 3)
        assert where(world.confirmed("o1", mug=2)) == {"berlin": 2}
        world.when("o1", PlaceHold(Hold.MANUAL))
        world.when("o1", ReleaseHold(Hold.MANUAL))
        world.when("o1", Cancel("c1", (LineQuantity(line_id="mug", quantity=1),)))
        world.packed("o1-S1")
        for parcel_id in ("o1-S1-P2", "o1-S1-P1"):
            inside = (LineQuantity(line_id="mug", quantity=1),)
            world.when("o1", Pack("o1-S1", ((parcel_id, inside),), is_awaited=False))
        world.when("o1", ChangeAddress(HOME, NOON))
        world.when("o1", Relabel("o1-S1", NOON))
        world.handed_over("o1-S1")
        world.when("o1", Recall("o1-S1"))
        for day, code in enumerate(way):
            world.scanned("o1-S1", code, days(day))
        world.confirmed("o2", mug=1)
        world.when("o2", Cancel("c2", (LineQuantity(line_id="mug", quantity=1),)))
        assert world.all_units("o2", Bucket.CANCELLED) == 1
        told |= {fact.type for facts in world.journal.values() for fact in facts}
    assert {fact.type for _, fact, _ in SHIPMENT.edges()} <= told
