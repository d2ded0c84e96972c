"""Fulfillment: what is cancelled, packed, handed over and heard again, told as stories of the business."""

from dataclasses import replace
from datetime import datetime

import pytest

from fulfillment.domain.backorder import BACKORDER, BackorderStatus
from fulfillment.domain.decide import (
    Cancel,
    Fill,
    Fund,
    HandOver,
    Open,
    Pack,
    PlaceHold,
    Plan,
    ReleaseHold,
    ShortPick,
    Withdraw,
)
from fulfillment.domain.shipment import SHIPMENT
from fulfillment.domain.state import FULFILLMENT, FulfillmentStatus
from fulfillment.domain.stock import Shelf
from fulfillment.domain.tracking import ShipmentStatus
from shared.contracts import fulfillment as f
from shared.contracts.orders import Hold, ShippingPreference
from shared.core.machine import Invalid, Machine, NotAllowed
from tests.unit.fulfillment_world import NOON, World, days, lines, of, types, where


@pytest.fixture
def world() -> World:
    return World()


# The machines


@pytest.mark.parametrize("machine", [SHIPMENT, BACKORDER, FULFILLMENT], ids=lambda m: m.name)
def test_every_status_of_a_machine_has_a_row_and_is_reachable(machine: Machine[ShipmentStatus]) -> None:
    assert machine.broken_laws() == []


def test_the_ends_are_ends() -> None:
    ends = {status for status in ShipmentStatus if SHIPMENT.is_terminal(status)}
    assert ends == {ShipmentStatus.RETURNED_TO_SENDER, ShipmentStatus.CANCELLED}
    assert {s for s in BackorderStatus if BACKORDER.is_terminal(s)} == {
        BackorderStatus.FILLED,
        BackorderStatus.CANCELLED,
    }
    assert FULFILLMENT.is_terminal(FulfillmentStatus.WITHDRAWN)


# Cancelling


def test_a_cancellation_is_answered_unit_by_unit(world: World) -> None:
    for sku in ("sent", "boxed", "here"):
        world.shelf(sku, {"sent": "berlin", "boxed": "hamburg", "here": "zurich"}[sku], 1)
    world.confirmed("o1", sent=1, boxed=1, here=1, late=1)
    world.shipped("o1-S1")
    world.packed("o1-S2")
    facts = world.when("o1", Cancel("c1", lines(sent=1, boxed=1, here=1, late=1)))
    [cancelled] = of(f.FulfillmentLinesCancelled, facts)
    [refused] = of(f.FulfillmentCancellationRefused, facts)
    assert isinstance(cancelled, f.FulfillmentLinesCancelled)
    assert isinstance(refused, f.FulfillmentCancellationRefused)
    assert {(c.line_id, c.quantity, c.was.value) for c in cancelled.lines} == {
        ("boxed", 1, "packed"),
        ("here", 1, "allocated"),
        ("late", 1, "backordered"),
    }
    assert (refused.lines, refused.reason_code) == (lines(sent=1), "handed_over")
    assert {s.status for s in world.orders["o1"].shipments.values()} == {
        ShipmentStatus.SHIPPED,
        ShipmentStatus.CANCELLED,
    }
    assert world.shelves["here"]["zurich"] == Shelf(1, 0)
    assert world.when("o1", Cancel("c1", lines(sent=1))) == [], "answered before"


def test_what_is_left_in_a_shipment_goes_on(world: World) -> None:
    world.shelf("mug", "berlin", 3)
    world.confirmed("o1", mug=3)
    world.packed("o1-S1")
    facts = world.when("o1", Cancel("c1", lines(mug=2)))
    assert types(facts) == ["stock.released", "shipment.lines_removed", "fulfillment.lines_cancelled"]
    [shipped] = of(f.ShipmentShipped, world.handed_over("o1-S1"))
    assert isinstance(shipped, f.ShipmentShipped)
    assert shipped.lines == lines(mug=1)
    assert shipped.parcels[0].lines == lines(mug=1)


def test_of_two_backorders_the_newer_is_cancelled_first(world: World) -> None:
    world.shelf("mug", "berlin", 1)
    world.confirmed("o1", mug=2)
    world.when("o1", ShortPick("o1-S1", lines(mug=1)))
    assert [b.backorder_id for b in world.orders["o1"].waiting] == ["o1-B1", "o1-B2"]
    world.when("o1", Cancel("c1", lines(mug=1)))
    assert [b.backorder_id for b in world.orders["o1"].waiting] == ["o1-B1"]


def test_before_the_order_is_confirmed_nothing_needs_to_be_stopped(world: World) -> None:
    world.shelf("mug", "berlin", 3)
    world.placed("o1", mug=3)
    assert types(world.when("o1", Cancel("c1", lines(mug=1)))) == ["fulfillment.lines_cancelled"]
    assert where(world.when("o1", Plan())) == {"berlin": 2}


def test_more_than_there_is_and_what_nobody_ordered_is_refused_as_not_open(world: World) -> None:
    world.placed("o1", mug=1)
    cancelled, refused = world.when("o1", Cancel("c1", lines(mug=3, hat=1)))
    assert isinstance(cancelled, f.FulfillmentLinesCancelled)
    assert isinstance(refused, f.FulfillmentCancellationRefused)
    assert (refused.lines, refused.reason_code) == (lines(mug=2, hat=1), "not_open")


def test_a_rejected_order_leaves_nothing_to_do(world: World) -> None:
    world.placed("o1", mug=2)
    assert types(world.when("o1", Withdraw())) == ["fulfillment.withdrawn"]
    assert world.units("o1", "mug") == {"cancelled": 2}
    with pytest.raises(NotAllowed):
        world.when("o1", Plan())


# The warehouse


def test_units_that_are_not_found_are_planned_again_elsewhere(world: World) -> None:
    world.shelf("mug", "berlin", 2)
    world.shelf("mug", "hamburg", 1)
    world.confirmed("o1", mug=2)
    facts = world.when("o1", ShortPick("o1-S1", lines(mug=1)))
    assert types(facts) == [
        "stock.released",
        "shipment.lines_removed",
        "fulfillment.lines_short_shipped",
        "fulfillment.replanned",
        "shipment.created",
        "stock.allocated",
    ]
    assert where(facts) == {"hamburg": 1}
    assert world.shelves["mug"]["berlin"] == Shelf(1, 1)


def test_units_that_are_nowhere_are_backordered(world: World) -> None:
    world.shelf("mug", "berlin", 1)
    world.confirmed("o1", mug=1)
    facts = world.when("o1", ShortPick("o1-S1", lines(mug=1)))
    assert "shipment.cancelled" in types(facts)
    assert world.units("o1", "mug") == {"backordered": 1}
    assert world.shelves["mug"]["berlin"] == Shelf(0, 0)


def test_what_is_packed_must_be_what_the_shipment_has(world: World) -> None:
    world.shelf("mug", "berlin", 2)
    world.confirmed("o1", mug=2)
    with pytest.raises(Invalid, match="1 of line mug packed, the shipment has 2"):
        world.when("o1", Pack("o1-S1", (("a", lines(mug=1)),)))
    with pytest.raises(Invalid, match="named twice"):
        world.when("o1", Pack("o1-S1", (("a", lines(mug=1)), ("a", lines(mug=1)))))
    world.when("o1", Pack("o1-S1", (("a", lines(mug=1)), ("b", lines(mug=1)))))
    assert world.when("o1", Pack("o1-S1")) == [], "told again"
    with pytest.raises(NotAllowed):
        world.when("o1", Pack("o1-S1", (("c", lines(mug=2)),)))
    with pytest.raises(NotAllowed):
        world.when("o1", ShortPick("o1-S1", lines(mug=1)))


def test_every_parcel_has_a_number_once_it_is_handed_over(world: World) -> None:
    world.shelf("mug", "berlin", 2)
    world.confirmed("o1", mug=2)
    world.when("o1", Pack("o1-S1", (("a", lines(mug=1)), ("b", lines(mug=1)))))
    both = (("a", "T1"), ("b", "T2"))
    facts = world.when("o1", HandOver("o1-S1", "dhl", both))
    assert types(facts) == ["stock.shipped", "shipment.shipped"]
    assert world.shelves["mug"]["berlin"] == Shelf(0, 0)
    assert world.when("o1", HandOver("o1-S1", "dhl", both)) == [], "told again"


def test_a_parcel_emptied_by_a_cancellation_may_still_be_named(world: World) -> None:
    world.shelf("mug", "berlin", 2)
    world.confirmed("o1", mug=2)
    world.when("o1", Pack("o1-S1", (("a", lines(mug=1)), ("b", lines(mug=1)))))
    world.when("o1", Cancel("c1", lines(mug=1)))
    [shipped] = of(f.ShipmentShipped, world.when("o1", HandOver("o1-S1", "dhl", (("a", "T1"), ("b", "T2")))))
    assert isinstance(shipped, f.ShipmentShipped)
    assert [parcel.parcel_id for parcel in shipped.parcels] == ["a"]


def test_a_held_order_is_packed_and_waits_for_the_last_of_its_holds(world: World) -> None:
    world.shelf("mug", "berlin", 1)
    world.shelf("mug", "hamburg", 1)
    world.confirmed("o1", mug=2)
    world.shipped("o1-S1")
    facts = world.when("o1", PlaceHold(Hold.PAYMENT))
    assert types(facts) == ["fulfillment.holds_changed", "shipment.held"], "what has left goes on"
    world.packed("o1-S2")
    world.when("o1", PlaceHold(Hold.ADDRESS))
    assert types(world.when("o1", ReleaseHold(Hold.PAYMENT))) == ["fulfillment.holds_changed", "shipment.held"]
    [_, released] = world.when("o1", ReleaseHold(Hold.ADDRESS))
    assert isinstance(released, f.ShipmentReleased) and released.packed
    assert "shipment.shipped" in types(world.handed_over("o1-S2"))
    assert world.when("o1", ReleaseHold(Hold.ADDRESS)) == []


def test_shipments_made_while_the_order_is_held_are_held(world: World) -> None:
    world.shelf("mug", "berlin", 1)
    world.placed("o1", mug=1)
    world.when("o1", PlaceHold(Hold.FRAUD))
    assert types(world.when("o1", Plan()))[-1] == "shipment.held"
    assert types(world.when("o1", Cancel("c1", lines(mug=1))))[-1] == "fulfillment.lines_cancelled"


# Repeats and strangers


def test_a_warehouse_that_has_not_heard_of_a_cancellation_yet_packs_in_vain(world: World) -> None:
    world.shelf("mug", "berlin", 1)
    world.confirmed("o1", mug=1)
    world.when("o1", Cancel("c1", lines(mug=1)))
    with pytest.raises(NotAllowed):
        world.when("o1", Pack("o1-S1"))
    assert world.when("o1", Pack("o1-S1", is_awaited=False)) == []


def test_an_order_is_opened_and_planned_once(world: World) -> None:
    world.shelf("mug", "berlin", 5)
    world.confirmed("o1", mug=1)
    assert world.when("o1", Plan()) == []
    assert world.when("o1", Open(NOON, (), ShippingPreference())) == []
    assert world.when("o1", Fill(NOON)) == []


def test_what_nobody_opened_is_not_allowed(world: World) -> None:
    with pytest.raises(NotAllowed) as refused:
        world.when("o1", Plan())
    assert refused.value.status == "unopened"
    world.placed("o2", mug=1)
    with pytest.raises(NotAllowed):
        world.when("o2", Pack("o2-S1"))
    world.when("o2", Plan())
    with pytest.raises(Invalid, match="shipment_id"):
        world.when("o2", Pack("o2-S1"))


def test_a_time_zone_is_no_slip(world: World) -> None:
    world.shelf("mug", "berlin", 0, incoming=1, eta=days(5))
    world.confirmed("o1", mug=1)
    elsewhere = datetime.fromisoformat("2026-05-09T14:00:00+02:00")
    world.shelves["mug"]["berlin"] = replace(world.shelves["mug"]["berlin"], eta=elsewhere)
    assert world.when("o1", Fill(NOON)) == []


# Funding


def test_what_is_no_longer_paid_for_by_the_clock_is_not_packed_until_it_is_authorized_again() -> None:
    world = World()
    world.shelf("mug", "berlin", 2)
    world.placed("o1", mug=2)
    world.when("o1", Plan(days(30)))
    world.now = days(30)
    with pytest.raises(NotAllowed, match="payment ran out"):
        world.packed("o1-S1")
    assert world.when("o1", Fund(days(30))) == []
    assert types(world.when("o1", Fund(days(60)))) == ["fulfillment.funding_changed"]
    assert types(world.packed("o1-S1")) == ["shipment.packed"]


def test_a_hand_over_after_the_payment_had_run_out_is_recorded_and_the_units_have_left() -> None:
    world = World()
    world.shelf("mug", "berlin", 2)
    world.placed("o1", mug=2)
    world.when("o1", Plan(days(30)))
    world.packed("o1-S1")
    world.now = days(31)
    discrepancy = world.handed_over("o1-S1")[0]
    assert isinstance(discrepancy, f.FulfillmentDiscrepancyRecorded) and discrepancy.contradicts == "unfunded"
    assert world.units("o1", "mug") == {"in_transit": 2}


def test_what_is_paid_for_without_an_end_is_packed_whenever() -> None:
    world = World()
    world.shelf("mug", "berlin", 2)
    world.placed("o1", mug=2)
    world.when("o1", Plan(days(30)))
    world.when("o1", Fund(None))
    world.now = days(99)
    assert types(world.packed("o1-S1")) == ["shipment.packed"]
