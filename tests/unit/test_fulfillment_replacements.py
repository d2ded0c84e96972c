"""Fulfillment: units sent again, told as stories of the business."""

from collections.abc import Sequence

import pytest

from fulfillment.domain.decide import Cancel, Fill, Replace, SettleConsent, ShortPick
from shared.contracts import fulfillment as f
from shared.contracts.base import Bucket, Fact
from shared.contracts.orders import BackorderChoice
from tests.unit.fulfillment_world import NOON, World, days, lines, of, shipped, types, where


@pytest.fixture
def world() -> World:
    return World()


# Sent again


def replacement(reason: str, units: int = 1, sku: str = "mug", name: str = "x1") -> Replace:
    return Replace(name, "o1-RMA1", lines(mug=units), sku, reason)  # type: ignore[arg-type]


def is_settled(fact: Fact) -> bool:
    """It records that what is to be sent again was settled otherwise meanwhile; returns promised it and are not refused."""
    return isinstance(fact, f.FulfillmentDiscrepancyRecorded) and fact.contradicts == "settled"


def only_settled(facts: Sequence[Fact]) -> bool:
    return len(facts) == 1 and is_settled(facts[0])


def test_a_lost_unit_is_sent_again_in_its_own_place(world: World) -> None:
    shipped(world, mug=2)
    world.scanned("o1-S1", "lost", days(1))
    world.shelf("mug", "berlin", 1)
    created, *_ = facts = world.when("o1", replacement("lost"))
    assert isinstance(created, f.ReplacementCreated)
    assert [(m.line_id, m.quantity, m.was.value) for m in created.moved] == [("mug", 1, "lost")]
    [again] = of(f.ShipmentCreated, facts)
    assert isinstance(again, f.ShipmentCreated) and again.replaces_shipment_id == "o1-S1"
    assert world.units("o1", "mug") == {"lost": 1, "allocated": 1}
    assert world.when("o1", replacement("lost")) == [], "told again"
    recorded, once_more, *_ = world.when("o1", replacement("lost", 2, name="x2"))
    assert is_settled(recorded) and isinstance(once_more, f.ReplacementCreated)
    assert [line.quantity for line in once_more.lines] == [1], "of two that were asked for one is still lost"


def test_a_lost_parcel_found_after_its_replacement_needs_a_review(world: World) -> None:
    shipped(world, mug=1)
    world.scanned("o1-S1", "lost", days(1))
    world.shelf("mug", "berlin", 1)
    world.when("o1", replacement("lost"))
    [found] = world.scanned("o1-S1", "found", days(2))
    assert isinstance(found, f.ShipmentFound) and found.review and found.lines == ()
    world.scanned("o1-S1", "delivered", days(3))
    assert world.units("o1", "mug") == {"allocated": 1}


def test_what_was_found_after_a_claim_was_settled_is_owed_all_the_same(world: World) -> None:
    shipped(world, mug=1)
    world.scanned("o1-S1", "lost", days(1))
    world.scanned("o1-S1", "found", days(2))
    world.when("o1", replacement("lost"))
    assert world.units("o1", "mug") == {"in_transit": 1, "backordered": 1}
    assert only_settled(world.when("o1", replacement("lost", name="x2")))


def test_an_exchange_is_owed_on_top_and_never_twice(world: World) -> None:
    shipped(world, mug=1)
    world.scanned("o1-S1", "delivered", days(1))
    world.shelf("cup", "hamburg", 1)
    assert where(world.when("o1", replacement("exchange", sku="cup"))) == {"hamburg": 1}
    assert world.units("o1", "mug") == {"delivered": 1, "allocated": 1}
    assert world.orders["o1"].lines["mug"].ordered == 2
    assert only_settled(world.when("o1", replacement("damaged", name="x2")))


def test_what_was_not_handed_over_is_not_sent_again(world: World) -> None:
    world.shelf("mug", "berlin", 1)
    world.confirmed("o1", mug=1)
    world.packed("o1-S1")
    assert only_settled(world.when("o1", replacement("exchange")))


@pytest.mark.parametrize("reason", ["exchange", "damaged", "wrong_item", "lost"])
@pytest.mark.parametrize(
    "scans",
    [
        (),
        ("delivered", "not_received"),
        ("delivered", "lost"),
        ("delivered", "returning"),
        ("delivered", "returning", "returned"),
        ("lost", "found"),
        ("lost", "found", "delivered"),
    ],
    ids=lambda scans: " then ".join(scans) or "shipped",
)
def test_a_replacement_is_owed_wherever_the_carrier_has_taken_the_unit_meanwhile(
    world: World, scans: tuple[str, ...], reason: str
) -> None:
    shipped(world, mug=1)
    for day, code in enumerate(scans, start=1):
        world.scanned("o1-S1", code, days(day))
    facts = world.when("o1", replacement(reason))
    assert types(facts)[0] == "replacement.created"
    assert world.all_units("o1", Bucket.ALLOCATED, Bucket.BACKORDERED) == 1
    assert only_settled(world.when("o1", replacement("exchange", name="x2")))


def test_a_replacement_that_was_sent_may_be_replaced_itself(world: World) -> None:
    shipped(world, mug=1)
    world.scanned("o1-S1", "delivered", days(1))
    world.shelf("mug", "berlin", 1)
    world.when("o1", replacement("damaged"))
    world.shipped("o1-S2")
    assert "backorder.created" in types(world.when("o1", replacement("damaged", name="x2")))


def test_a_replacement_that_was_cancelled_before_it_left_may_be_asked_for_again(world: World) -> None:
    shipped(world, mug=1)
    world.scanned("o1-S1", "delivered", days(1))
    world.when("o1", replacement("exchange"))
    world.when("o1", Cancel("o1-C1", lines(mug=1)))
    assert world.units("o1", "mug") == {"delivered": 1, "cancelled": 1}
    assert "backorder.created" in types(world.when("o1", replacement("exchange", name="x2")))
    assert only_settled(world.when("o1", replacement("exchange", name="x3")))


# Which units are sent again


def again(facts: Sequence[Fact]) -> list[tuple[dict[str, int], dict[str, int]]]:
    """What new or handed-over shipments say: all their units, and those of them that are sent again."""
    told = [fact for fact in facts if isinstance(fact, f.ShipmentCreated | f.ShipmentShipped)]
    return [tuple({n.line_id: n.quantity for n in units} for units in (fact.lines, fact.again)) for fact in told]  # type: ignore[misc]


def test_what_is_ordered_is_not_sent_again(world: World) -> None:
    world.shelf("mug", "berlin", 1)
    assert again(world.confirmed("o1", mug=2)) == [({"mug": 1}, {})]
    world.shelf("mug", "berlin", 2)
    assert again(world.when("o1", Fill(NOON))) == [({"mug": 1}, {})]
    assert again(world.shipped("o1-S2")) == [({"mug": 1}, {})]


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("lost", "lost"),
        ("lost", "returned"),
        ("damaged", "delivered"),
        ("wrong_item", "delivered"),
        ("exchange", "delivered"),
    ],
)
@pytest.mark.parametrize("in_stock", [True, False], ids=["in stock", "backordered"])
def test_a_shipment_says_that_its_units_are_sent_again(world: World, reason: str, code: str, in_stock: bool) -> None:
    shipped(world, mug=1)
    world.scanned("o1-S1", code, days(1))
    world.shelf("cup", "hamburg", 1 if in_stock else 0)
    facts = world.when("o1", replacement(reason, sku="cup"))
    if not in_stock:
        [waits] = of(f.BackorderCreated, facts)
        assert isinstance(waits, f.BackorderCreated) and waits.again
        world.shelf("cup", "hamburg", 1)
        facts = world.when("o1", Fill(NOON))
    assert again(facts) == [({"mug": 1}, {"mug": 1})]
    assert again(world.shipped("o1-S2")) == [({"mug": 1}, {"mug": 1})]


def ordered_and_again(world: World) -> World:
    """Shipment o1-S2 has two mugs: one of the three ordered, and one instead of a damaged one."""
    world.shelf("mug", "berlin", 2)
    world.confirmed("o1", mug=3)
    world.shipped("o1-S1")
    world.scanned("o1-S1", "delivered", days(1))
    world.when("o1", replacement("damaged"))
    world.shelf("mug", "berlin", 2)
    assert again(world.when("o1", Fill(NOON))) == [({"mug": 2}, {"mug": 1})]
    return world


def test_one_backorder_of_two_may_be_of_units_sent_again(world: World) -> None:
    ordered_and_again(world)
    assert [b.again for b in world.orders["o1"].backorders.values()] == [False, True]
    assert again(world.shipped("o1-S2")) == [({"mug": 2}, {"mug": 1})]


def test_of_a_shipment_the_ordered_units_are_cancelled_before_those_sent_again(world: World) -> None:
    ordered_and_again(world)
    world.when("o1", Cancel("c1", lines(mug=1)))
    assert again(world.shipped("o1-S2")) == [({"mug": 1}, {"mug": 1})]


def test_a_packed_replacement_is_cancelled_as_well(world: World) -> None:
    ordered_and_again(world)
    world.packed("o1-S2")
    world.when("o1", Cancel("c1", lines(mug=2)))
    assert world.orders["o1"].shipments["o1-S2"].again == {}


@pytest.mark.parametrize(
    ("missing", "left", "planned"),
    [(1, [({"mug": 1}, {"mug": 1})], [({"mug": 1}, {})]), (2, [], [({"mug": 2}, {"mug": 1})])],
)
def test_units_that_are_not_found_are_sent_again_as_before(
    world: World,
    missing: int,
    left: list[tuple[dict[str, int], dict[str, int]]],
    planned: list[tuple[dict[str, int], dict[str, int]]],
) -> None:
    ordered_and_again(world)
    world.shelf("mug", "hamburg", 2)
    assert again(world.when("o1", ShortPick("o1-S2", lines(mug=missing)))) == planned
    if left:
        assert again(world.shipped("o1-S2")) == left
    assert again(world.shipped("o1-S3")) == planned


def test_units_that_are_nowhere_wait_as_what_they_were(world: World) -> None:
    ordered_and_again(world)
    facts = world.when("o1", ShortPick("o1-S2", lines(mug=2)))
    assert [(b.quantity, b.again) for b in of(f.BackorderCreated, facts) if isinstance(b, f.BackorderCreated)] == [
        (1, False),
        (1, True),
    ]


def test_a_substitute_of_what_is_sent_again_is_sent_again(world: World) -> None:
    shipped(world, mug=1)
    world.scanned("o1-S1", "delivered", days(1))
    world.when("o1", replacement("damaged"))
    world.shelf("cup", "berlin", 1)
    facts = world.when("o1", SettleConsent("o1-B1", BackorderChoice.SUBSTITUTE, "cup", NOON))
    assert again(facts) == [({"mug": 1}, {"mug": 1})]


def test_units_of_one_line_in_two_skus_never_share_a_shipment(world: World) -> None:
    world.confirmed("o1", mug=2)
    world.when("o1", Cancel("c1", lines(mug=1)))
    world.when("o1", SettleConsent("o1-B1", BackorderChoice.SUBSTITUTE, "cup", NOON))
    world.shelf("mug", "berlin", 9)
    world.shelf("cup", "berlin", 9)
    world.when("o1", Fill(NOON))
    world.shipped("o1-S1")
    world.scanned("o1-S1", "delivered", days(1))
    world.shelves = {}
    world.when("o1", replacement("damaged", sku="pot"))
    world.shelf("pot", "berlin", 1)
    assert where(world.when("o1", Fill(NOON))) == {"berlin": 1}
    for shipment in world.orders["o1"].shipments.values():
        assert len({item.line_id for item in shipment.items}) == len(shipment.items)
