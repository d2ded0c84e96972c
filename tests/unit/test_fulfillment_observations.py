"""What the warehouse and the carrier say has happened is recorded, whatever was planned: told as stories of the business."""

import pytest

from fulfillment.domain.order import Cancel, HandOver, Pack, PlaceHold, ReleaseHold, ShortPick, Withdraw
from fulfillment.domain.stock import Shelf
from fulfillment.domain.tracking import ShipmentStatus
from shared.contracts import fulfillment as f
from shared.contracts.base import Bucket, Fact
from shared.contracts.orders import Hold
from shared.machine import Invalid, NotAllowed
from tests.unit.fulfillment_world import World, days, lines, of, types


@pytest.fixture
def world() -> World:
    return World()


def contradicted(facts: list[Fact]) -> list[str]:
    return [fact.contradicts for fact in facts if isinstance(fact, f.FulfillmentDiscrepancyRecorded)]


def left(shipment_id: str = "o1-S1", *tracking: tuple[str, str]) -> HandOver:
    return HandOver(shipment_id, "dhl", tracking or ((f"{shipment_id}-P1", f"T-{shipment_id}-P1"),))


def told(*parcels: tuple[str, dict[str, int]]) -> Pack:
    return Pack("o1-S1", tuple((name, lines(**inside)) for name, inside in parcels), is_awaited=False)


def missing(shipment_id: str = "o1-S1", **quantities: int) -> ShortPick:
    return ShortPick(shipment_id, lines(**quantities), is_awaited=False)


# Held


def test_what_left_although_it_was_held_has_left_and_the_hold_goes_on(world: World) -> None:
    world.shelf("mug", "berlin", 1)
    world.confirmed("o1", mug=1)
    world.when("o1", PlaceHold(Hold.PAYMENT))
    world.packed("o1-S1")
    facts = world.when("o1", left())
    assert contradicted(facts) == ["held"]
    assert types(facts)[1:] == ["stock.shipped", "shipment.shipped"]
    assert world.units("o1", "mug") == {"in_transit": 1}
    assert world.when("o1", left()) == [], "told again"
    assert types(world.when("o1", ReleaseHold(Hold.PAYMENT))) == ["fulfillment.holds_changed"]


def test_a_cancellation_after_a_held_shipment_left_is_refused_and_a_recall_brings_it_back(world: World) -> None:
    world.shelf("mug", "berlin", 1)
    world.confirmed("o1", mug=1)
    world.when("o1", PlaceHold(Hold.FRAUD))
    world.packed("o1-S1")
    world.when("o1", left())
    [refused] = world.when("o1", Cancel("c1", lines(mug=1)))
    assert isinstance(refused, f.FulfillmentCancellationRefused) and refused.reason_code == "handed_over"
    for code in ("recalled", "returned"):
        world.scanned("o1-S1", code, days(1))
    assert world.units("o1", "mug") == {"returned_to_sender": 1}
    assert world.shelves["mug"]["berlin"] == Shelf(1, 0)


# Cancelled


def test_what_left_although_it_was_cancelled_is_called_back_and_not_sold_again(world: World) -> None:
    world.shelf("mug", "berlin", 1)
    world.confirmed("o1", mug=1)
    world.packed("o1-S1")
    world.when("o1", Cancel("c1", lines(mug=1)))
    assert world.shelves["mug"]["berlin"] == Shelf(1, 0)
    facts = world.when("o1", left())
    assert types(facts) == ["fulfillment.discrepancy_recorded", "stock.withdrawn", "shipment.recall_requested"]
    assert contradicted(facts) == ["cancelled"]
    assert world.shelves["mug"]["berlin"] == Shelf(0, 0), "nobody else is promised what has left"
    [recall] = of(f.ShipmentRecallRequested, facts)
    assert isinstance(recall, f.ShipmentRecallRequested)
    assert (recall.carrier, recall.parcels[0].lines) == ("dhl", lines(mug=1))
    assert world.when("o1", left()) == [], "told again"
    assert types(world.scanned("o1-S1", "recalled", days(1))) == ["shipment.tracking_updated"]
    assert types(world.scanned("o1-S1", "returned", days(2))) == ["shipment.tracking_updated", "stock.restocked"]
    assert world.scanned("o1-S1", "returned", days(2)) == []
    assert world.status("o1-S1") is ShipmentStatus.CANCELLED
    assert world.units("o1", "mug") == {"cancelled": 1}
    assert world.shelves["mug"]["berlin"] == Shelf(1, 0)


def test_a_cancelled_parcel_that_arrives_is_recorded_once_since_the_customer_has_what_is_not_owed(world: World) -> None:
    world.shelf("mug", "berlin", 1)
    world.confirmed("o1", mug=1)
    world.packed("o1-S1")
    world.when("o1", Cancel("c1", lines(mug=1)))
    world.when("o1", left())
    facts = world.scanned("o1-S1", "delivered", days(1))
    [recorded] = of(f.FulfillmentDiscrepancyRecorded, facts)
    assert isinstance(recorded, f.FulfillmentDiscrepancyRecorded)
    assert (recorded.observation, recorded.contradicts, recorded.lines) == (
        "carrier.delivered",
        "cancelled",
        lines(mug=1),
    )
    assert contradicted(world.scanned("o1-S1", "delivered", days(2))) == []


def test_what_left_unpacked_although_it_was_cancelled_is_known_by_what_the_shipment_held(world: World) -> None:
    world.shelf("mug", "berlin", 2)
    world.confirmed("o1", mug=2)
    world.when("o1", Cancel("c1", lines(mug=2)))
    assert world.when("o1", told(("box", {"mug": 2}))) == [], "that the two words crossed is no news"
    facts = world.when("o1", left("o1-S1", ("box", "T-1")))
    [recall] = of(f.ShipmentRecallRequested, facts)
    assert isinstance(recall, f.ShipmentRecallRequested) and recall.parcels[0].lines == lines(mug=2)
    assert world.shelves["mug"]["berlin"] == Shelf(0, 0)
    assert contradicted(world.when("o1", left("o1-S1", ("box", "T-2")))) == ["handed_over"]


def test_of_what_left_although_it_was_cancelled_what_others_are_to_get_already_is_theirs_to_miss(world: World) -> None:
    world.shelf("mug", "berlin", 1)
    world.confirmed("o1", mug=1)
    world.packed("o1-S1")
    world.when("o1", Cancel("c1", lines(mug=1)))
    world.confirmed("o2", days(1), mug=1)
    world.when("o1", left())
    assert world.shelves["mug"]["berlin"] == Shelf(1, 1)
    world.when("o2", missing("o2-S1", mug=1))
    assert world.shelves["mug"]["berlin"] == Shelf(0, 0)
    assert world.units("o2", "mug") == {"backordered": 1}


def test_units_of_a_cancelled_shipment_that_are_not_found_are_sold_to_nobody(world: World) -> None:
    world.shelf("mug", "berlin", 1)
    world.confirmed("o1", mug=1)
    world.when("o1", Cancel("c1", lines(mug=1)))
    facts = world.when("o1", missing(mug=1))
    assert (contradicted(facts), types(facts)[1:]) == (["cancelled"], ["stock.withdrawn"])
    assert world.shelves["mug"]["berlin"] == Shelf(0, 0)


# Packed otherwise


def test_what_left_and_was_never_packed_is_packed_by_its_hand_over(world: World) -> None:
    world.shelf("mug", "berlin", 2)
    world.confirmed("o1", mug=2)
    facts = world.when("o1", left("o1-S1", ("a", "T1"), ("b", "T2")))
    assert contradicted(facts) == ["not_packed"]
    [shipped] = of(f.ShipmentShipped, facts)
    assert isinstance(shipped, f.ShipmentShipped)
    assert [(p.tracking, p.lines) for p in shipped.parcels] == [("T1", lines(mug=2)), ("T2", ())]
    assert world.units("o1", "mug") == {"in_transit": 2}


@pytest.mark.parametrize(
    ("tracking", "inside"),
    [
        ((("a", "T1"),), {"T1": 2}),
        ((("a", "T1"), ("b", "T1")), {"T1": 2}),
        ((("a", "T1"), ("b", "T2"), ("c", "T3")), {"T1": 1, "T2": 1, "T3": 0}),
        ((("c", "T3"),), {"T3": 2}),
    ],
)
def test_parcels_that_leave_under_other_names_than_they_were_packed_are_followed(
    world: World, tracking: tuple[tuple[str, str], ...], inside: dict[str, int]
) -> None:
    world.shelf("mug", "berlin", 2)
    world.confirmed("o1", mug=2)
    world.when("o1", Pack("o1-S1", (("a", lines(mug=1)), ("b", lines(mug=1)))))
    facts = world.when("o1", left("o1-S1", *tracking))
    assert contradicted(facts) == ["parcels"]
    parcels = world.orders["o1"].shipments["o1-S1"].parcels.values()
    assert {p.tracking: sum(p.lines.values()) for p in parcels} == inside
    assert contradicted(world.when("o1", HandOver("o1-S1", "ups", tracking))) == ["handed_over"]


def test_units_that_were_left_out_of_the_parcels_are_planned_again(world: World) -> None:
    world.shelf("mug", "berlin", 2)
    world.confirmed("o1", mug=2)
    facts = world.when("o1", told(("a", {"mug": 1})))
    assert contradicted(facts) == ["quantities"]
    assert world.units("o1", "mug") == {"allocated": 1, "packed": 1}
    assert world.shelves["mug"]["berlin"] == Shelf(2, 2)
    assert [s.quantity("mug") for s in world.orders["o1"].shipments.values()] == [1, 1]


def test_units_in_a_parcel_that_nobody_planned_are_no_longer_on_the_shelf(world: World) -> None:
    world.shelf("mug", "berlin", 5)
    world.confirmed("o1", mug=1)
    facts = world.when("o1", told(("a", {"mug": 3, "hat": 1})))
    assert (contradicted(facts), types(facts)[1:]) == (["quantities"], ["stock.withdrawn", "shipment.packed"])
    assert world.shelves["mug"]["berlin"] == Shelf(3, 1)
    assert contradicted(world.when("o1", told(("z", {"hat": 1})))) == ["quantities"], "nothing of it is the shipment's"
    assert world.units("o1", "mug") == {"packed": 1}


def test_what_is_packed_anew_stands_in_its_new_parcels(world: World) -> None:
    world.shelf("mug", "berlin", 3)
    world.confirmed("o1", mug=3)
    world.packed("o1-S1")
    assert world.when("o1", told()) == [], "told again"
    again = told(("a", {"mug": 1}), ("b", {"mug": 2}))
    assert types(world.when("o1", again)) == ["shipment.repacked"]
    assert world.when("o1", again) == []
    fewer = world.when("o1", told(("a", {"mug": 1})))
    assert contradicted(fewer) == ["quantities"]
    assert world.units("o1", "mug") == {"packed": 1, "allocated": 2}
    world.when("o1", left("o1-S1", ("a", "T1")))
    assert contradicted(world.when("o1", told(("c", {"mug": 1})))) == ["handed_over"]


def test_units_that_were_packed_and_are_not_found_leave_the_shipment_all_the_same(world: World) -> None:
    world.shelf("mug", "berlin", 2)
    world.confirmed("o1", mug=2)
    world.packed("o1-S1")
    facts = world.when("o1", missing(mug=1))
    assert contradicted(facts) == ["packed"]
    assert world.units("o1", "mug") == {"packed": 1, "backordered": 1}
    assert world.shelves["mug"]["berlin"] == Shelf(1, 1)
    assert contradicted(world.when("o1", missing(mug=5, hat=1))) == ["quantities", "packed"]
    assert world.units("o1", "mug") == {"backordered": 2}
    assert world.status("o1-S1") is ShipmentStatus.CANCELLED


def test_units_that_are_missed_after_their_parcel_left_are_a_matter_for_people(world: World) -> None:
    world.shelf("mug", "berlin", 1)
    world.confirmed("o1", mug=1)
    world.shipped("o1-S1")
    facts = world.when("o1", missing(mug=1))
    assert (contradicted(facts), len(facts)) == (["handed_over"], 1)
    assert world.units("o1", "mug") == {"in_transit": 1}


# Unknown


def test_what_is_told_of_an_unknown_order_or_shipment_is_recorded_and_holds_up_nothing(world: World) -> None:
    observations = (left("o9-S1"), Pack("o9-S1", is_awaited=False), missing("o9-S1", mug=1))
    for command in observations:
        assert contradicted(world.when("o9", command)) == ["unknown_order"]
    world.shelf("mug", "berlin", 1)
    world.confirmed("o9", mug=1)
    for command in (left("o9-S7"), Pack("o9-S7", is_awaited=False), missing("o9-S7", mug=1)):
        assert contradicted(world.when("o9", command)) == ["unknown_shipment"]
    recorded = of(f.FulfillmentDiscrepancyRecorded, world.journal["o9"])
    ids = [fact.discrepancy_id for fact in recorded if isinstance(fact, f.FulfillmentDiscrepancyRecorded)]
    assert ids == [f"o9-D{n}" for n in range(1, 7)]
    world.shipped("o9-S1")
    assert world.units("o9", "mug") == {"in_transit": 1}
    world.placed("o2", mug=1)
    world.when("o2", Withdraw())
    assert contradicted(world.when("o2", left("o2-S1"))) == ["unknown_shipment"]
    assert world.all_units("o2", Bucket.CANCELLED) == 1


# Who waits for the answer


def test_who_packs_at_a_screen_and_waits_for_the_answer_is_told_what_does_not_fit(world: World) -> None:
    world.shelf("mug", "berlin", 2)
    world.confirmed("o1", mug=2)
    with pytest.raises(Invalid, match="1 of line mug packed, the shipment has 2"):
        world.when("o1", Pack("o1-S1", (("a", lines(mug=1)),)))
    with pytest.raises(Invalid, match="has 2 of line mug"):
        world.when("o1", ShortPick("o1-S1", lines(mug=3)))
    world.when("o1", Cancel("c1", lines(mug=2)))
    with pytest.raises(NotAllowed):
        world.when("o1", Pack("o1-S1"))
