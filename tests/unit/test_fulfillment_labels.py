"""An address that changes before a shipment left: it is held for a new label; told as stories of the business."""

import pytest

from fulfillment.domain.decide import ChangeAddress, HandOver, Pack, PlaceHold, Relabel, ReleaseHold
from fulfillment.domain.tracking import ShipmentStatus
from shared.contracts import fulfillment as f
from shared.contracts.base import Fact
from shared.contracts.orders import Address, Hold
from tests.unit.fulfillment_world import World, days, of, types

AWAY = Address(name="Ada", street="Side 2", city="Kiel", postal_code="24103", country="DE")
MOVED = ChangeAddress(AWAY, days(2))
LEFT = HandOver("o1-S1", "dhl", (("o1-S1-P1", "T1"),))


@pytest.fixture
def world() -> World:
    world = World()
    world.shelf("mug", "berlin", 2)
    world.confirmed("o1", mug=1)
    return world


def contradicted(facts: list[Fact]) -> list[str]:
    return [fact.contradicts for fact in facts if isinstance(fact, f.FulfillmentDiscrepancyRecorded)]


def test_a_packed_shipment_is_held_until_it_has_a_label_of_its_new_address(world: World) -> None:
    world.packed("o1-S1")
    asked, held = world.when("o1", MOVED)
    assert isinstance(asked, f.ShipmentRelabelRequested) and asked.ship_to == AWAY
    assert isinstance(held, f.ShipmentHeld) and held.holds == (Hold.ADDRESS,)
    assert types(world.when("o1", Relabel("o1-S1", days(3)))) == ["shipment.relabelled", "shipment.released"]
    assert world.status("o1-S1") is ShipmentStatus.PACKED
    assert world.when("o1", Relabel("o1-S1", days(3))) == [], "told again"
    assert contradicted(world.when("o1", LEFT)) == []


def test_what_leaves_under_the_old_label_is_recorded_and_has_left(world: World) -> None:
    world.packed("o1-S1")
    world.when("o1", MOVED)
    facts = world.when("o1", LEFT)
    assert contradicted(facts) == ["old_label"]
    assert world.units("o1", "mug") == {"in_transit": 1}
    assert world.when("o1", Relabel("o1-S1", days(4))) == [], "too late"


def test_a_label_of_before_the_address_changed_is_no_new_one(world: World) -> None:
    world.when("o1", MOVED)
    assert types(world.when("o1", Pack("o1-S1", is_awaited=False, at=days(1)))) == ["shipment.packed"]
    assert world.status("o1-S1") is ShipmentStatus.HELD
    assert world.when("o1", Relabel("o1-S1", days(1))) == []
    again = world.when("o1", Pack("o1-S1", is_awaited=False, at=days(3)))
    assert types(again) == ["shipment.relabelled", "shipment.released"], "packed anew, under a new label"


def test_a_shipment_that_is_packed_after_the_address_changed_has_its_label(world: World) -> None:
    world.when("o1", MOVED)
    facts = world.when("o1", Pack("o1-S1", at=days(3)))
    assert types(facts) == ["shipment.packed", "shipment.relabelled", "shipment.released"]
    assert contradicted(world.when("o1", LEFT)) == []


def test_a_new_label_releases_no_hold_of_the_order_and_the_orders_release_no_old_label(world: World) -> None:
    world.packed("o1-S1")
    world.when("o1", PlaceHold(Hold.FRAUD))
    world.when("o1", MOVED)
    [held] = of(f.ShipmentHeld, world.when("o1", ReleaseHold(Hold.FRAUD)))
    assert isinstance(held, f.ShipmentHeld) and held.holds == (Hold.ADDRESS,)
    world.when("o1", PlaceHold(Hold.FRAUD))
    [_, held] = world.when("o1", Relabel("o1-S1", days(3)))
    assert isinstance(held, f.ShipmentHeld) and held.holds == (Hold.FRAUD,)


def test_an_address_that_changes_twice_needs_the_label_of_the_last(world: World) -> None:
    world.packed("o1-S1")
    world.when("o1", MOVED)
    world.when("o1", ChangeAddress(AWAY, days(4)))
    assert world.when("o1", Relabel("o1-S1", days(3))) == []
    assert types(world.when("o1", Relabel("o1-S1", days(5)))) == ["shipment.relabelled", "shipment.released"]


def test_what_has_left_or_is_not_known_needs_no_label(world: World) -> None:
    world.shipped("o1-S1")
    assert world.when("o1", MOVED) == []
    assert contradicted(world.when("o1", Relabel("o1-S9", days(3)))) == ["unknown_shipment"]
    assert contradicted(world.when("o9", Relabel("o9-S1", days(3)))) == ["unknown_order"]
