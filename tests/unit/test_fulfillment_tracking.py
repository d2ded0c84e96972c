"""Fulfillment: parcels on their way, told as stories of the business."""

from itertools import permutations

import pytest

from fulfillment.domain.decide import Pack, Recall, Track
from fulfillment.domain.stock import Shelf
from fulfillment.domain.tracking import ShipmentStatus, standing
from shared.contracts import fulfillment as f
from shared.core.machine import Invalid, NotAllowed
from tests.unit.fulfillment_world import NOON, World, days, lines, shipped, types


@pytest.fixture
def world() -> World:
    return World()


def test_a_parcel_moves_up_and_an_older_scan_is_an_entry_and_no_more(world: World) -> None:
    shipped(world, mug=1)
    assert types(world.scanned("o1-S1", "out_for_delivery", days(2))) == ["shipment.tracking_updated"]
    [older] = world.scanned("o1-S1", "in_transit", days(1))
    assert isinstance(older, f.ShipmentTrackingUpdated) and not older.moved
    [delivered] = world.scanned("o1-S1", "delivered", days(2))
    assert isinstance(delivered, f.ShipmentDelivered) and delivered.lines == lines(mug=1)
    assert world.scanned("o1-S1", "delivered", days(2)) == [], "the same scan"
    [later] = world.scanned("o1-S1", "in_transit", days(5))
    assert isinstance(later, f.ShipmentTrackingUpdated) and not later.moved
    assert world.units("o1", "mug") == {"delivered": 1}


@pytest.mark.parametrize(
    ("code", "fact"),
    [
        ("delayed", "shipment.delayed"),
        ("attempted", "shipment.delivery_attempted"),
        ("address", "shipment.tracking_updated"),
        ("customs", "shipment.tracking_updated"),
        ("damaged", "shipment.tracking_updated"),
    ],
)
def test_an_exception_stands_until_the_parcel_moves_on(world: World, code: str, fact: str) -> None:
    shipped(world, mug=1)
    world.scanned("o1-S1", "in_transit", days(1))
    assert types(world.scanned("o1-S1", code, days(2))) == [fact]
    assert world.status("o1-S1") is ShipmentStatus.EXCEPTION
    world.scanned("o1-S1", "in_transit", days(1.5))
    assert world.status("o1-S1") is ShipmentStatus.EXCEPTION, "scanned before"
    world.scanned("o1-S1", "in_transit", days(3))
    assert world.status("o1-S1") is ShipmentStatus.IN_TRANSIT


def test_a_lost_parcel_may_be_found(world: World) -> None:
    shipped(world, mug=1)
    world.scanned("o1-S1", "lost", days(1))
    assert world.units("o1", "mug") == {"lost": 1}
    [found] = world.scanned("o1-S1", "found", days(2))
    assert isinstance(found, f.ShipmentFound) and not found.review
    assert world.units("o1", "mug") == {"in_transit": 1}
    world.scanned("o1-S1", "delivered", days(3))
    assert world.units("o1", "mug") == {"delivered": 1}


def test_a_lost_parcel_that_is_delivered_was_found(world: World) -> None:
    shipped(world, mug=1)
    world.scanned("o1-S1", "lost", days(1))
    assert types(world.scanned("o1-S1", "delivered", days(2))) == ["shipment.found", "shipment.delivered"]


def test_what_the_customer_did_not_receive_is_in_transit_again(world: World) -> None:
    shipped(world, mug=1)
    world.scanned("o1-S1", "delivered", days(1))
    [told] = world.scanned("o1-S1", "not_received", days(2))
    assert isinstance(told, f.ShipmentTrackingUpdated) and told.moved
    assert (told.code, told.lines) == ("not_received", lines(mug=1))
    assert world.units("o1", "mug") == {"in_transit": 1}
    world.scanned("o1-S1", "lost", days(3))
    assert world.units("o1", "mug") == {"lost": 1}


def test_what_comes_back_to_the_sender_is_on_the_shelf_again_once(world: World) -> None:
    shipped(world, mug=2)
    assert types(world.scanned("o1-S1", "returning", days(1))) == ["shipment.return_started"]
    assert types(world.scanned("o1-S1", "returned", days(2))) == ["shipment.returned_to_sender", "stock.restocked"]
    assert world.shelves["mug"]["berlin"] == Shelf(2, 0)
    assert types(world.scanned("o1-S1", "returned", days(3))) == ["shipment.tracking_updated"]
    assert world.shelves["mug"]["berlin"] == Shelf(2, 0)
    assert world.units("o1", "mug") == {"returned_to_sender": 2}


def test_a_recall_turns_the_parcel_round(world: World) -> None:
    world.shelf("mug", "berlin", 1)
    world.confirmed("o1", mug=1)
    with pytest.raises(NotAllowed):
        world.when("o1", Recall("o1-S1"))
    world.shipped("o1-S1")
    assert types(world.when("o1", Recall("o1-S1", "customer asked"))) == ["shipment.recall_requested"]
    assert world.when("o1", Recall("o1-S1")) == []
    assert types(world.scanned("o1-S1", "recalled", days(1))) == ["shipment.recalled"]
    assert types(world.scanned("o1-S1", "delivered", days(2))) == ["shipment.delivered"], "the recall came too late"


def test_parcels_of_a_shipment_arrive_each_at_its_own_time(world: World) -> None:
    world.shelf("mug", "berlin", 2)
    world.confirmed("o1", mug=2)
    world.when("o1", Pack("o1-S1", (("o1-S1-P1", lines(mug=1)), ("o1-S1-P2", lines(mug=1)))))
    world.handed_over("o1-S1")
    world.scanned("o1-S1", "delivered", days(1), "P1")
    assert world.units("o1", "mug") == {"in_transit": 1, "delivered": 1}
    assert world.status("o1-S1") is ShipmentStatus.SHIPPED
    world.scanned("o1-S1", "lost", days(2), "P2")
    assert world.status("o1-S1") is ShipmentStatus.LOST
    world.scanned("o1-S1", "found", days(3), "P2")
    world.scanned("o1-S1", "delivered", days(4), "P2")
    assert world.status("o1-S1") is ShipmentStatus.DELIVERED


def test_the_order_in_which_scans_arrive_is_nothing() -> None:
    told = {"in_transit": 1, "delivered": 2, "not_received": 3, "lost": 4, "found": 5}
    ends = set()
    for order in permutations(told):
        world = shipped(World(), mug=1)
        for code in (*order, *order):
            world.scanned("o1-S1", code, days(told[code]))
        [parcel] = world.orders["o1"].shipments["o1-S1"].parcels.values()
        assert parcel.status is standing(parcel.scans).status
        ends.add((parcel.status, tuple(world.units("o1", "mug").items())))
    assert ends == {(ShipmentStatus.IN_TRANSIT, (("in_transit", 1),))}


def test_a_number_nobody_knows_is_refused(world: World) -> None:
    shipped(world, mug=1)
    with pytest.raises(Invalid, match="tracking"):
        world.when("o1", Track(f.Scan(carrier="dhl", tracking="nope", code="lost", at=NOON)))
