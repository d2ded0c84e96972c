"""Parcels that were lost or came back to us: sent again, cancelled, or found after all; told as stories of the business."""

import pytest

from fulfillment.domain.decide import Cancel, NoteClaim, Replace, ReportMissing, Reship
from fulfillment.domain.stock import Shelf
from shared.contracts import fulfillment as f
from shared.contracts.base import Bucket
from shared.core.machine import Invalid, NotAllowed
from tests.unit.fulfillment_world import World, days, lines, of, shipped


def astray(code: str, mug: int = 2) -> World:
    """A parcel of mugs is lost, or back with us."""
    world = shipped(World(), mug)
    world.scanned("o1-S1", code, days(1))
    return world


@pytest.mark.parametrize(("code", "left"), [("returned", Shelf(2, 2)), ("lost", Shelf(0, 0))])
def test_what_came_back_or_was_lost_is_sent_again(code: str, left: Shelf) -> None:
    world = astray(code)
    [created, *_] = world.when("o1", Reship("o1-S1"))
    assert isinstance(created, f.ReplacementCreated)
    reason = "lost" if code == "lost" else "returned_to_sender"
    assert (created.reason_code, created.shipment_id, created.sku) == (reason, "o1-S1", "mug")
    assert world.units("o1", "mug") == ({"backordered": 2} if code == "lost" else {"allocated": 2})
    assert world.shelves["mug"]["berlin"] == left
    with pytest.raises(NotAllowed, match="nothing of o1-S1 is lost or came back"):
        world.when("o1", Reship("o1-S1"))


def test_what_came_back_is_sent_again_in_part_and_the_rest_is_cancelled() -> None:
    world = astray("returned")
    with pytest.raises(Invalid, match="only 2 of line mug of o1-S1 are lost or came back"):
        world.when("o1", Reship("o1-S1", lines(mug=3)))
    world.when("o1", Reship("o1-S1", lines(mug=1)))
    [cancelled] = world.when("o1", Cancel("c1", lines(mug=1)))[-1:]
    assert isinstance(cancelled, f.FulfillmentLinesCancelled)
    assert cancelled.lines[0].was is Bucket.ALLOCATED, "what has not left yet is cancelled first"
    [cancelled] = world.when("o1", Cancel("c2", lines(mug=1)))
    assert isinstance(cancelled, f.FulfillmentLinesCancelled)
    assert cancelled.lines[0].was is Bucket.RETURNED_TO_SENDER
    assert world.units("o1", "mug") == {"cancelled": 2}
    assert world.shelves["mug"]["berlin"] == Shelf(2, 0)


def test_the_units_of_the_shipment_that_was_named_are_sent_again() -> None:
    world = World()
    for place in ("berlin", "hamburg"):
        world.shelf("mug", place, 1)
    world.confirmed("o1", mug=2)
    for shipment_id in ("o1-S1", "o1-S2"):
        world.shipped(shipment_id)
        world.scanned(shipment_id, "returned", days(1))
    world.when("o1", Reship("o1-S2"))
    shipments = world.orders["o1"].shipments
    assert (shipments["o1-S1"].reshipped, shipments["o1-S2"].reshipped) == ({}, {"mug": 1})


def test_what_a_claim_settles_is_neither_sent_again_nor_cancelled_until_it_is_rejected() -> None:
    world = astray("returned")
    world.when("o1", NoteClaim("CL1", lines(mug=2)))
    assert world.when("o1", NoteClaim("CL1", lines(mug=2))) == [], "told again"
    with pytest.raises(NotAllowed, match="no claim settles"):
        world.when("o1", Reship("o1-S1"))
    [refused] = world.when("o1", Cancel("c1", lines(mug=1)))
    assert isinstance(refused, f.FulfillmentCancellationRefused)
    world.when("o1", NoteClaim("CL1", ()))
    assert world.when("o1", NoteClaim("CL1", ())) == []
    world.when("o1", Reship("o1-S1"))
    assert world.units("o1", "mug") == {"allocated": 2}


def test_a_claim_that_crosses_with_sending_again_is_not_made_good_twice() -> None:
    world = astray("returned")
    world.when("o1", Reship("o1-S1", lines(mug=1)))
    recorded, claim = world.when("o1", NoteClaim("CL1", lines(mug=2)))
    assert isinstance(recorded, f.FulfillmentDiscrepancyRecorded)
    assert (recorded.contradicts, recorded.lines) == ("settled", lines(mug=1))
    assert isinstance(claim, f.FulfillmentClaimRecorded) and claim.lines == lines(mug=1)
    facts = world.when("o1", Replace("x1", "CL1", lines(mug=2), "mug", "lost"))
    [created] = of(f.ReplacementCreated, facts)
    assert isinstance(created, f.ReplacementCreated) and created.lines == lines(mug=1)
    assert world.units("o1", "mug") == {"allocated": 2}
    assert world.orders["o1"].claims == {}


def test_a_parcel_found_after_others_were_sent_for_it_says_which_and_so_does_its_delivery() -> None:
    world = astray("lost")
    world.shelf("mug", "berlin", 2)
    world.when("o1", Reship("o1-S1"))
    [found] = world.scanned("o1-S1", "found", days(2))
    assert isinstance(found, f.ShipmentFound)
    assert (found.lines, found.replaced, found.review) == ((), lines(mug=2), True)
    [delivered] = world.scanned("o1-S1", "delivered", days(3))
    assert isinstance(delivered, f.ShipmentDelivered)
    assert (delivered.lines, delivered.replaced) == ((), lines(mug=2))


def test_a_parcel_found_after_others_were_sent_for_it_is_sellable_when_it_comes_back() -> None:
    world = astray("lost")
    world.when("o1", Reship("o1-S1"))
    world.scanned("o1-S1", "found", days(2))
    world.scanned("o1-S1", "returned", days(3))
    assert world.shelves["mug"]["berlin"] == Shelf(2, 0)


def test_what_was_delivered_and_did_not_arrive_is_in_transit_again_and_the_carrier_looks_for_it() -> None:
    world = shipped(World(), 2)
    with pytest.raises(NotAllowed, match="nothing of it is said to be delivered"):
        world.when("o1", ReportMissing("o1-S1", days(1), "not in the letter box"))
    world.scanned("o1-S1", "delivered", days(1))
    with pytest.raises(Invalid, match="T9 is not a parcel of o1-S1"):
        world.when("o1", ReportMissing("o1-S1", days(2), "not in the letter box", "T9"))
    [told] = world.when("o1", ReportMissing("o1-S1", days(2), "not in the letter box"))
    assert isinstance(told, f.ShipmentTrackingUpdated)
    assert (told.code, told.lines, told.detail) == ("not_received", lines(mug=2), "not in the letter box")
    assert world.units("o1", "mug") == {"in_transit": 2}
    assert world.when("o1", ReportMissing("o1-S1", days(3), "still not")) == [], "it is looked for"
    world.scanned("o1-S1", "lost", days(4))
    world.when("o1", Reship("o1-S1"))
    assert world.units("o1", "mug") == {"backordered": 2}


def test_a_carrier_whose_clock_is_ahead_is_believed_no_more_than_the_customer() -> None:
    world = shipped(World(), 1)
    world.scanned("o1-S1", "delivered", days(5))
    world.when("o1", ReportMissing("o1-S1", days(1), "nothing came"))
    assert world.units("o1", "mug") == {"in_transit": 1}
