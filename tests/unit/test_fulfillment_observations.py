"""What the warehouse and the carrier say has happened is recorded, whatever was planned: told as stories of the business."""

import pytest

from fulfillment.domain.decide import (
    Cancel,
    HandOver,
    Pack,
    PlaceHold,
    ReleaseHold,
    ReportMissing,
    Reship,
    ShortPick,
    Track,
    Withdraw,
)
from fulfillment.domain.state import evolve
from fulfillment.domain.stock import Shelf
from fulfillment.domain.tracking import ShipmentStatus
from shared.contracts import fulfillment as f
from shared.contracts.base import Bucket, Fact
from shared.contracts.fulfillment import Scan
from shared.contracts.orders import Hold
from shared.core.machine import Invalid, NotAllowed
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


# Handed over a second time, under other numbers


def scan(world: World, tracking: str, code: str, at: float = 1, carrier: str = "dhl", order: str = "o1") -> list[Fact]:
    return world.when(order, Track(Scan(carrier=carrier, tracking=tracking, code=code, at=days(at))))


def gone(world: World, **parcels: int) -> World:
    """A shipment that left in these parcels, with so many mugs in each, under the numbers T-a, T-b and so on."""
    world.shelf("mug", "berlin", sum(parcels.values()))
    world.confirmed("o1", mug=sum(parcels.values()))
    world.when("o1", told(*((name, {"mug": units}) for name, units in parcels.items())))
    world.when("o1", left("o1-S1", *((name, f"T-{name}") for name in parcels)))
    return world


def test_a_second_hand_over_under_another_number_is_recorded_and_the_new_number_is_followed(world: World) -> None:
    gone(world, a=2)
    again = left("o1-S1", ("a", "T-new"))
    facts = world.when("o1", again)
    assert contradicted(facts) == ["handed_over"]
    assert types(facts)[1:] == ["shipment.relabelled"]
    assert world.when("o1", again) == [], "told again"
    assert world.units("o1", "mug") == {"in_transit": 2}
    [delivered] = scan(world, "T-new", "delivered")
    assert isinstance(delivered, f.ShipmentDelivered) and delivered.lines == lines(mug=2)
    assert world.units("o1", "mug") == {"delivered": 2}


def test_the_number_that_was_replaced_is_not_awaited_any_more_and_its_scans_move_nothing(world: World) -> None:
    gone(world, a=2)
    scan(world, "T-a", "delayed")
    assert world.status("o1-S1") is ShipmentStatus.EXCEPTION
    world.when("o1", left("o1-S1", ("a", "T-new")))
    assert world.status("o1-S1") is ShipmentStatus.SHIPPED, "nobody has scanned the new number"
    [entry] = scan(world, "T-a", "delivered", 2)
    assert isinstance(entry, f.ShipmentTrackingUpdated) and not entry.moved
    assert entry.detail == "delivered, of a number that no parcel of it is followed by"
    assert world.units("o1", "mug") == {"in_transit": 2}
    scan(world, "T-new", "in_transit", 1)
    assert world.status("o1-S1") is ShipmentStatus.IN_TRANSIT, "whatever the old number said, and when"


def test_a_number_that_was_told_with_the_wrong_carrier_is_followed_with_the_right_one(world: World) -> None:
    gone(world, a=1)
    assert contradicted(world.when("o1", HandOver("o1-S1", "ups", (("a", "T-a"),)))) == ["handed_over"]
    assert types(scan(world, "T-a", "in_transit")) == ["shipment.tracking_updated"]
    assert world.status("o1-S1") is ShipmentStatus.SHIPPED
    assert types(scan(world, "T-a", "delivered", carrier="ups")) == ["shipment.delivered"]


@pytest.mark.parametrize(
    ("tracking", "followed"),
    [
        pytest.param((("a", "T1"), ("b", "T2")), {"T1": 1, "T2": 2}, id="both by their new numbers"),
        pytest.param((("b", "T2"),), {"T-a": 1, "T2": 2}, id="of one nothing new is said"),
        pytest.param((("a", "T-b"), ("b", "T2")), {"T2": 1, "T-b": 2}, id="one number is known and stays where it is"),
        pytest.param((("x", "T1"), ("y", "T2")), {"T1": 1, "T2": 2}, id="other parcels have what these had"),
        pytest.param((("x", "T1"),), {"T1": 3}, id="all of it is in another parcel"),
        pytest.param((("a", "T1"), ("b", "T1")), {"T1": 3}, id="one label on both"),
        pytest.param((("a", "T-a"), ("b", "T-b"), ("c", "T3")), {"T-a": 1, "T-b": 2}, id="one more, and nothing in it"),
        pytest.param((("a", "T-b"), ("b", "T-a")), {"T-a": 1, "T-b": 2}, id="the same numbers"),
    ],
)
def test_every_unit_is_followed_by_one_number_whatever_parcels_the_second_word_names(
    world: World, tracking: tuple[tuple[str, str], ...], followed: dict[str, int]
) -> None:
    gone(world, a=1, b=2)
    world.when("o1", left("o1-S1", *tracking))
    for number in (*followed, *dict(tracking).values(), "T-a", "T-b"):
        arrived = sum(
            line.quantity
            for fact in of(f.ShipmentDelivered, scan(world, number, "delivered"))
            if isinstance(fact, f.ShipmentDelivered)
            for line in fact.lines
        )
        assert arrived == followed.pop(number, 0), number
    assert world.units("o1", "mug") == {"delivered": 3}
    assert world.status("o1-S1") is ShipmentStatus.DELIVERED


def test_what_had_arrived_under_the_first_number_does_not_arrive_again_under_the_second(world: World) -> None:
    gone(world, a=1, b=1)
    scan(world, "T-a", "delivered")
    scan(world, "T-b", "returned")
    assert contradicted(world.when("o1", left("o1-S1", ("a", "T1"), ("b", "T2")))) == ["handed_over"]
    for number in ("T1", "T2"):
        assert types(scan(world, number, "returned", 2)) == ["shipment.tracking_updated"]
    assert world.units("o1", "mug") == {"delivered": 1, "returned_to_sender": 1}
    assert world.shelves["mug"]["berlin"] == Shelf(1, 0), "it came back once"


def test_what_the_carrier_lost_is_found_when_it_turns_out_to_have_left_under_another_number(world: World) -> None:
    gone(world, a=2)
    scan(world, "T-a", "lost", 3)
    world.when("o1", Reship("o1-S1", lines(mug=1)))
    facts = world.when("o1", left("o1-S1", ("a", "T-new")))
    [found] = of(f.ShipmentFound, facts)
    assert isinstance(found, f.ShipmentFound) and (found.review, found.replaced) == (True, lines(mug=1))
    [delivered] = scan(world, "T-new", "delivered", 1)
    assert isinstance(delivered, f.ShipmentDelivered), "also before the other was said to be lost"
    assert (delivered.lines, delivered.replaced) == (lines(mug=1), lines(mug=1))


def test_a_cancelled_shipment_that_left_under_another_number_comes_back_once(world: World) -> None:
    world.shelf("mug", "berlin", 1)
    world.confirmed("o1", mug=1)
    world.packed("o1-S1")
    world.when("o1", Cancel("c1", lines(mug=1)))
    world.when("o1", left())
    world.when("o1", left("o1-S1", ("o1-S1-P1", "T-new")))
    assert world.status("o1-S1") is ShipmentStatus.CANCELLED
    assert types(scan(world, "T-new", "returned")) == ["shipment.tracking_updated", "stock.restocked"]
    assert types(scan(world, "T-o1-S1-P1", "returned")) == ["shipment.tracking_updated"]
    assert world.shelves["mug"]["berlin"] == Shelf(1, 0)


def test_a_customer_who_misses_a_parcel_that_has_another_number_now_misses_that_number(world: World) -> None:
    gone(world, a=1)
    world.when("o1", HandOver("o1-S1", "ups", (("a", "T-new"),)))
    scan(world, "T-new", "delivered", carrier="ups")
    [missed] = world.when("o1", ReportMissing("o1-S1", days(2), "not at the door"))
    assert isinstance(missed, f.ShipmentTrackingUpdated) and missed.scan is not None
    assert (missed.scan.carrier, missed.tracking) == ("ups", "T-new")


def test_a_second_hand_over_that_was_recorded_before_numbers_were_is_still_read() -> None:
    known = f.FulfillmentDiscrepancyRecorded.model_validate(
        {
            "order_id": "o1",
            "discrepancy_id": "o1-D1",
            "observation": "warehouse.handed_over",
            "contradicts": "handed_over",
            "shipment_id": "o1-S1",
            "detail": "it left with dhl before",
        }
    )
    order = gone(World(), a=1).orders["o1"]
    after = evolve(order, known)
    assert (after.shipments, after.discrepancies) == (order.shipments, 1)


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
