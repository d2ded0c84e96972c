"""Fulfillment: every unit is somewhere, nothing is promised twice, and whoever waited longest is served first."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import permutations

import pytest

from fulfillment.domain import shelf as shelves
from fulfillment.domain.backorder import BACKORDER, BackorderStatus
from fulfillment.domain.ledger import FULFILLMENT, FulfillmentStatus, deadlines
from fulfillment.domain.order import (
    Cancel,
    Fill,
    HandOver,
    Inspect,
    Open,
    Pack,
    PlaceHold,
    Plan,
    Recall,
    ReleaseHold,
    Replace,
    ReviseInspection,
    SettleConsent,
    ShortPick,
    TakeSilence,
    Track,
    Withdraw,
)
from fulfillment.domain.planning import Need, plan
from fulfillment.domain.policy import in_force
from fulfillment.domain.shelf import Expect, Receipts, Receive, ShelfState
from fulfillment.domain.shipment import SHIPMENT
from fulfillment.domain.stock import Shelf, Stock, follow
from fulfillment.domain.tracking import ShipmentStatus, standing
from shared.contracts import fulfillment as f
from shared.contracts.base import Bucket, Fact
from shared.contracts.orders import BackorderChoice, Hold, ShippingPreference
from shared.contracts.returns import Disposition, InspectedLine, InspectionOutcome
from shared.machine import Invalid, Machine, NotAllowed
from tests.unit.fulfillment_world import NOON, POLICY, World, days, lines, of, where

COMPLETE_ONLY = ShippingPreference(rule="complete_only")


def at_most(shipments: int) -> ShippingPreference:
    return ShippingPreference(rule="max_n_shipments", max_shipments=shipments)


def types(facts: list[Fact]) -> list[str]:
    return [fact.type for fact in facts]


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


# Planning


def test_an_order_that_one_location_can_serve_ships_from_there_whatever_its_priority(world: World) -> None:
    world.shelf("mug", "berlin", 2)
    world.shelf("mug", "zurich", 3)
    facts = world.confirmed("o1", mug=3)
    assert types(facts) == ["fulfillment.planned", "shipment.created", "stock.allocated"]
    assert where(facts) == {"zurich": 3}


def test_among_equals_the_policys_priority_decides_and_then_the_name(world: World) -> None:
    for location in ("aachen", "hamburg", "berlin"):
        world.shelf("mug", location, 1)
    assert where(world.confirmed("o1", mug=1)) == {"berlin": 1}
    assert where(world.confirmed("o2", mug=1)) == {"hamburg": 1}
    assert where(world.confirmed("o3", mug=1)) == {"aachen": 1}


def test_the_fewest_locations_together_serve_what_none_has_alone(world: World) -> None:
    world.shelf("mug", "berlin", 1)
    world.shelf("mug", "hamburg", 2)
    world.shelf("tea", "hamburg", 1)
    world.shelf("pot", "munich", 1)
    facts = world.confirmed("o1", mug=2, tea=1, pot=1)
    assert where(facts) == {"hamburg": 3, "munich": 1}
    [planned] = of(f.FulfillmentPlanned, facts)
    assert isinstance(planned, f.FulfillmentPlanned)
    assert planned.reasons == (
        "No single location has them all: 2 shipments, 3 units from hamburg, 1 unit from munich.",
    )
    assert planned.policy == POLICY.ref


def test_beyond_a_dozen_locations_everything_in_stock_is_still_found(world: World) -> None:
    for number in range(20):
        world.shelf("mug", f"store-{number:02}", 1)
    facts = world.confirmed("o1", mug=15)
    assert sum(where(facts).values()) == 15
    assert len(where(facts)) == 15


def test_what_is_short_is_backordered_with_the_date_goods_are_expected(world: World) -> None:
    world.shelf("mug", "berlin", 1, incoming=5, eta=days(10))
    facts = world.confirmed("o1", mug=3)
    [created] = of(f.ShipmentCreated, facts)
    [backorder] = of(f.BackorderCreated, facts)
    assert isinstance(created, f.ShipmentCreated) and isinstance(backorder, f.BackorderCreated)
    assert (created.number, created.of) == (1, 2)
    assert (backorder.backorder_id, backorder.quantity, backorder.eta) == ("o1-B1", 2, days(10))
    assert world.units("o1", "mug") == {"allocated": 1, "backordered": 2}


def test_a_shipment_beside_a_backorder_is_one_of_two_and_the_next_two_of_two(world: World) -> None:
    world.shelf("mug", "berlin", 1)
    world.confirmed("o1", mug=2)
    [shipped] = of(f.ShipmentShipped, world.shipped("o1-S1"))
    assert isinstance(shipped, f.ShipmentShipped)
    assert (shipped.number, shipped.of) == (1, 2)
    world.shelf("mug", "berlin", 1)
    [created] = of(f.ShipmentCreated, world.when("o1", Fill(NOON)))
    assert isinstance(created, f.ShipmentCreated)
    assert (created.number, created.of) == (2, 2)


def test_numbers_said_at_hand_over_stay_and_are_never_said_twice(world: World) -> None:
    for location, sku in (("berlin", "mug"), ("hamburg", "tea"), ("zurich", "pot")):
        world.shelf(sku, location, 1)
    world.confirmed("o1", mug=1, tea=1, pot=1)
    [second] = of(f.ShipmentShipped, world.shipped("o1-S2"))
    world.when("o1", Cancel("c1", lines(mug=1)))
    [third] = of(f.ShipmentShipped, world.shipped("o1-S3"))
    assert isinstance(second, f.ShipmentShipped) and isinstance(third, f.ShipmentShipped)
    assert (second.number, second.of) == (2, 3)
    assert (third.number, third.of) == (1, 2)


def test_an_eta_counts_what_older_orders_will_take_of_the_delivery(world: World) -> None:
    world.shelf("mug", "berlin", 0, incoming=3, eta=days(5))
    world.shelf("mug", "hamburg", 0, incoming=9, eta=days(20))
    world.confirmed("older", mug=2)
    [backorder] = of(f.BackorderCreated, world.confirmed("younger", at=days(1), mug=2))
    assert isinstance(backorder, f.BackorderCreated)
    assert backorder.eta == days(20)


def test_an_order_that_ships_complete_only_waits_whole(world: World) -> None:
    world.shelf("mug", "berlin", 2)
    world.shelf("tea", "berlin", 0, incoming=1, eta=days(3))
    facts = world.confirmed("o1", preference=COMPLETE_ONLY, mug=2, tea=1)
    assert not of(f.ShipmentCreated, facts)
    assert {(b.line_id, b.quantity, b.eta) for b in of(f.BackorderCreated, facts)} == {  # type: ignore[attr-defined]
        ("mug", 2, days(3)),
        ("tea", 1, days(3)),
    }
    world.shelf("tea", "berlin", 1)
    assert where(world.when("o1", Fill(NOON))) == {"berlin": 3}
    assert world.units("o1", "mug") == {"allocated": 2}


def test_goods_that_a_waiting_complete_order_needs_are_not_taken_by_younger_ones(world: World) -> None:
    world.shelf("mug", "berlin", 2)
    world.confirmed("older", preference=COMPLETE_ONLY, mug=2, tea=1)
    facts = world.confirmed("younger", at=days(1), mug=1)
    assert not of(f.StockAllocated, facts)
    [planned] = of(f.FulfillmentPlanned, facts)
    assert isinstance(planned, f.FulfillmentPlanned)
    assert "2 free of mug are kept: older orders wait for 2." in planned.reasons


def test_a_limit_of_shipments_keeps_one_for_what_is_backordered(world: World) -> None:
    for location, sku in (("berlin", "mug"), ("hamburg", "tea")):
        world.shelf(sku, location, 1)
    facts = world.confirmed("o1", preference=at_most(2), mug=1, tea=1, pot=1)
    assert where(facts) == {"berlin": 1}
    world.shelf("pot", "hamburg", 1)
    assert where(world.when("o1", Fill(NOON))) == {"hamburg": 2}
    assert len(world.orders["o1"].shipments) == 2


def test_one_shipment_means_one_location_has_everything(world: World) -> None:
    world.shelf("mug", "berlin", 1)
    world.shelf("tea", "hamburg", 1)
    facts = world.confirmed("o1", preference=at_most(1), mug=1, tea=1)
    assert not of(f.ShipmentCreated, facts)
    world.shelf("tea", "berlin", 1)
    assert where(world.when("o1", Fill(NOON))) == {"berlin": 2}


def test_a_plan_is_the_same_however_the_shelves_are_listed() -> None:
    shelves_of = {"berlin": Shelf(2), "hamburg": Shelf(2), "zurich": Shelf(3)}
    needs = [Need("1", "mug", 4)]
    splits = {
        plan("o1", needs, Stock({"mug": dict(order)}, {"o1": (NOON, "o1")}), ShippingPreference(), POLICY)
        for order in permutations(shelves_of.items())
    }
    assert len(splits) == 1
    assert [parcels.location for parcels in splits.pop().shipments] == ["berlin", "hamburg"]


def test_the_policy_in_force_at_placement_binds() -> None:
    newer = POLICY.model_copy(update={"version": 2, "effective_from": days(1)})
    assert in_force([newer, POLICY], NOON).version == 1
    assert in_force([newer, POLICY], days(2)).version == 2


# First placed, first filled


def test_goods_received_go_to_whoever_was_placed_first(world: World) -> None:
    world.confirmed("second", at=days(1), mug=1)
    world.confirmed("first", mug=1)
    world.shelf("mug", "berlin", 1)
    assert world.when("second", Fill(days(2))) == []
    assert where(world.when("first", Fill(days(2)))) == {"berlin": 1}


def test_a_backorder_is_filled_in_part_and_says_what_remains(world: World) -> None:
    world.confirmed("o1", mug=3)
    world.shelf("mug", "berlin", 2)
    facts = world.when("o1", Fill(NOON))
    [filled] = of(f.BackorderFilled, facts)
    assert isinstance(filled, f.BackorderFilled)
    assert (filled.quantity, filled.remaining, filled.shipment_id) == (2, 1, "o1-S1")
    assert world.orders["o1"].backorders["o1-B1"].status is BackorderStatus.PARTIALLY_FILLED
    assert world.when("o1", Fill(NOON)) == []


def test_within_a_batch_only_older_orders_demand_counts() -> None:
    stock = Stock(places={"o1": (NOON, "o1"), "o2": (days(1), "o2")})
    created = f.BackorderCreated(order_id="o1", backorder_id="o1-B1", line_id="1", sku="mug", quantity=3, eta=None)
    filled = f.BackorderFilled(
        order_id="o1", backorder_id="o1-B1", line_id="1", sku="mug", quantity=1, remaining=2, shipment_id="o1-S1"
    )
    after = follow(follow(stock, created), filled)
    assert after.demand_ahead("o2", "mug") == 2
    assert after.demand_ahead("o1", "mug") == 0
    younger = follow(stock, created.model_copy(update={"order_id": "o2"}))
    assert younger.demand_ahead("o1", "mug") == 0


# Dates that slip


def late(world: World) -> World:
    world.shelf("mug", "berlin", 0, incoming=2, eta=days(5))
    world.confirmed("o1", mug=2)
    world.shelf("mug", "berlin", 0, incoming=2, eta=days(20))
    return world


def test_a_date_that_slips_beyond_policy_asks_for_consent_once(world: World) -> None:
    facts = late(world).when("o1", Fill(days(1)))
    assert types(facts) == ["backorder.eta_revised", "backorder.consent_requested"]
    revised, asked = facts
    assert isinstance(revised, f.BackorderEtaRevised) and isinstance(asked, f.BackorderConsentRequested)
    assert (revised.previous_eta, revised.eta, revised.revision) == (days(5), days(20), 1)
    assert asked.due_at == days(3)
    assert asked.policy == POLICY.ref
    assert deadlines(world.orders["o1"]) == {"consent o1-B1": days(3)}
    world.shelf("mug", "berlin", 0, incoming=2, eta=days(40))
    assert types(world.when("o1", Fill(days(1)))) == ["backorder.eta_revised"]
    assert world.orders["o1"].backorders["o1-B1"].earlier == (days(5), days(20))


def test_small_slips_add_up_against_what_the_customer_agreed_to(world: World) -> None:
    world.shelf("mug", "berlin", 0, incoming=1, eta=days(5))
    world.confirmed("o1", mug=1)
    world.shelf("mug", "berlin", 0, incoming=1, eta=days(10))
    assert types(world.when("o1", Fill(NOON))) == ["backorder.eta_revised"]
    world.shelf("mug", "berlin", 0, incoming=1, eta=days(12))
    assert types(world.when("o1", Fill(NOON))) == ["backorder.eta_revised"]
    world.shelf("mug", "berlin", 0, incoming=1, eta=days(12) + timedelta(seconds=1))
    assert types(world.when("o1", Fill(NOON)))[1:] == ["backorder.consent_requested"]


def test_a_promised_date_that_is_withdrawn_is_a_slip(world: World) -> None:
    world.shelf("mug", "berlin", 0, incoming=1, eta=days(5))
    world.confirmed("o1", mug=1)
    world.shelf("mug", "berlin", 0)
    assert "backorder.consent_requested" in types(world.when("o1", Fill(NOON)))


def test_a_customer_who_waits_agrees_to_the_new_date(world: World) -> None:
    late(world).when("o1", Fill(days(1)))
    facts = world.when("o1", SettleConsent("o1-B1", BackorderChoice.WAIT, None, days(1)))
    assert types(facts) == ["backorder.consent_settled"]
    assert deadlines(world.orders["o1"]) == {}
    world.shelf("mug", "berlin", 0, incoming=2, eta=days(26))
    assert types(world.when("o1", Fill(days(2)))) == ["backorder.eta_revised"]


def test_a_customer_who_will_not_wait_has_the_units_cancelled(world: World) -> None:
    late(world).when("o1", Fill(days(1)))
    facts = world.when("o1", SettleConsent("o1-B1", BackorderChoice.CANCEL, None, days(1)))
    assert types(facts) == ["backorder.consent_settled", "backorder.cancelled", "fulfillment.lines_cancelled"]
    assert world.units("o1", "mug") == {"cancelled": 2}
    assert world.when("o1", SettleConsent("o1-B1", BackorderChoice.CANCEL, None, days(1))) == []


def test_a_substitute_is_planned_in_place_of_what_is_late(world: World) -> None:
    late(world).shelf("cup", "hamburg", 1)
    facts = world.when("o1", SettleConsent("o1-B1", BackorderChoice.SUBSTITUTE, "cup", days(1)))
    assert where(facts) == {"hamburg": 1}
    assert [(b.sku, b.open) for b in world.orders["o1"].waiting] == [("cup", 1)]
    assert world.units("o1", "mug") == {"allocated": 1, "backordered": 1}
    with pytest.raises(Invalid, match="substitute_sku"):
        world.when("o1", SettleConsent("o1-B2", BackorderChoice.SUBSTITUTE, None, days(1)))


def test_a_customer_may_have_what_is_there_after_all(world: World) -> None:
    world.shelf("mug", "berlin", 1)
    world.confirmed("o1", preference=COMPLETE_ONLY, mug=1, tea=1)
    facts = world.when("o1", SettleConsent("o1-B1", BackorderChoice.SHIP_AVAILABLE, None, NOON))
    assert where(facts) == {"berlin": 1}
    assert world.units("o1", "tea") == {"backordered": 1}


def test_silence_is_an_answer_once_it_is_due(world: World) -> None:
    silent = World(POLICY.model_copy(update={"silence": BackorderChoice.CANCEL}))
    late(silent).when("o1", Fill(days(1)))
    assert silent.when("o1", TakeSilence("o1-B1", days(2))) == []
    settled, *_ = silent.when("o1", TakeSilence("o1-B1", days(3)))
    assert isinstance(settled, f.BackorderConsentSettled)
    assert (settled.silent, settled.choice, settled.policy) == (True, BackorderChoice.CANCEL, POLICY.ref)
    assert silent.units("o1", "mug") == {"cancelled": 2}
    assert silent.when("o1", TakeSilence("o1-B1", days(3))) == []


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


def test_handing_over_needs_a_number_for_every_parcel(world: World) -> None:
    world.shelf("mug", "berlin", 2)
    world.confirmed("o1", mug=2)
    with pytest.raises(NotAllowed):
        world.when("o1", HandOver("o1-S1", "dhl", (("a", "T1"),)))
    world.when("o1", Pack("o1-S1", (("a", lines(mug=1)), ("b", lines(mug=1)))))
    for tracking, message in (
        ((("a", "T1"),), "parcel b has none"),
        ((("a", "T1"), ("b", "T1")), "must not share"),
        ((("a", "T1"), ("b", "T2"), ("c", "T3")), "c is not a parcel"),
    ):
        with pytest.raises(Invalid, match=message):
            world.when("o1", HandOver("o1-S1", "dhl", tracking))
    both = (("a", "T1"), ("b", "T2"))
    facts = world.when("o1", HandOver("o1-S1", "dhl", both))
    assert types(facts) == ["stock.shipped", "shipment.shipped"]
    assert world.shelves["mug"]["berlin"] == Shelf(0, 0)
    assert world.when("o1", HandOver("o1-S1", "dhl", both)) == [], "told again"
    with pytest.raises(NotAllowed):
        world.when("o1", HandOver("o1-S1", "ups", both))


def test_a_parcel_emptied_by_a_cancellation_may_still_be_named(world: World) -> None:
    world.shelf("mug", "berlin", 2)
    world.confirmed("o1", mug=2)
    world.when("o1", Pack("o1-S1", (("a", lines(mug=1)), ("b", lines(mug=1)))))
    world.when("o1", Cancel("c1", lines(mug=1)))
    [shipped] = of(f.ShipmentShipped, world.when("o1", HandOver("o1-S1", "dhl", (("a", "T1"), ("b", "T2")))))
    assert isinstance(shipped, f.ShipmentShipped)
    assert [parcel.parcel_id for parcel in shipped.parcels] == ["a"]


def test_a_held_order_is_packed_but_not_handed_over(world: World) -> None:
    world.shelf("mug", "berlin", 1)
    world.shelf("mug", "hamburg", 1)
    world.confirmed("o1", mug=2)
    world.shipped("o1-S1")
    facts = world.when("o1", PlaceHold(Hold.PAYMENT))
    assert types(facts) == ["fulfillment.holds_changed", "shipment.held"], "what has left goes on"
    world.packed("o1-S2")
    with pytest.raises(NotAllowed, match="held for payment"):
        world.handed_over("o1-S2")
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


# Tracking


def shipped(world: World, mug: int) -> World:
    world.shelf("mug", "berlin", mug)
    world.confirmed("o1", mug=mug)
    world.shipped("o1-S1")
    return world


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


# Sent again


def replacement(reason: str, units: int = 1, sku: str = "mug", name: str = "x1") -> Replace:
    return Replace(name, "o1-RMA1", lines(mug=units), sku, reason)  # type: ignore[arg-type]


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
    with pytest.raises(Invalid, match="more than was sent"):
        world.when("o1", replacement("lost", 2, name="x2"))


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
    with pytest.raises(Invalid, match="more than was sent"):
        world.when("o1", replacement("lost", name="x2"))


def test_an_exchange_is_owed_on_top_and_never_twice(world: World) -> None:
    shipped(world, mug=1)
    world.scanned("o1-S1", "delivered", days(1))
    world.shelf("cup", "hamburg", 1)
    assert where(world.when("o1", replacement("exchange", sku="cup"))) == {"hamburg": 1}
    assert world.units("o1", "mug") == {"delivered": 1, "allocated": 1}
    assert world.orders["o1"].lines["mug"].ordered == 2
    with pytest.raises(Invalid, match="more than was sent"):
        world.when("o1", replacement("damaged", name="x2"))


def test_what_was_not_handed_over_is_not_sent_again(world: World) -> None:
    world.shelf("mug", "berlin", 1)
    world.confirmed("o1", mug=1)
    world.packed("o1-S1")
    with pytest.raises(Invalid, match="more than was sent"):
        world.when("o1", replacement("exchange"))


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
    with pytest.raises(Invalid, match="more than was sent"):
        world.when("o1", replacement("exchange", name="x2"))


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
    with pytest.raises(Invalid, match="more than was sent"):
        world.when("o1", replacement("exchange", name="x3"))


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


# Goods that came back


def inspected(units: int, disposition: Disposition) -> InspectedLine:
    return InspectedLine(
        line_id="mug",
        quantity=units,
        outcome=InspectionOutcome.OPENED,
        disposition=disposition,
        refund_percent=100,
        fee_percent=0,
    )


def test_inspected_units_go_where_the_inspection_says_once(world: World) -> None:
    shipped(world, mug=4)
    found = (inspected(2, Disposition.RESTOCK), inspected(1, Disposition.REGRADE), inspected(1, Disposition.SCRAP))
    facts = world.when("o1", Inspect("i1", "hamburg", found))
    assert types(facts) == ["stock.restocked", "stock.quarantined", "stock.scrapped"]
    assert world.shelves["mug"]["hamburg"] == Shelf(2, 0)
    assert world.when("o1", Inspect("i1", "hamburg", found)) == []
    assert world.when("o1", Inspect("i2", "hamburg", (inspected(1, Disposition.SEND_BACK),))) == []


def test_a_revised_inspection_takes_back_only_what_is_still_free(world: World) -> None:
    shipped(world, mug=2)
    before, after = (inspected(2, Disposition.RESTOCK),), (inspected(2, Disposition.SCRAP),)
    world.when("o1", Inspect("i1", "hamburg", before))
    world.confirmed("o2", mug=1)
    facts = world.when("o1", ReviseInspection("i1", "hamburg", before, after))
    assert [(fact.type, fact.quantity) for fact in facts] == [  # type: ignore[attr-defined]
        ("stock.scrapped", 2),
        ("stock.withdrawn", 1),
    ]
    assert world.shelves["mug"]["hamburg"] == Shelf(1, 1)


# The shelf


def received(units: int, receipt_id: str = "r1") -> Receive:
    return Receive(receipt_id, "mug", "berlin", units)


def test_a_receipt_counts_once_whatever_message_brings_it() -> None:
    state = ShelfState(shelves.key_of("mug", "berlin"))
    receipts = Receipts()
    for command in (received(3), received(3), received(2, "r2")):
        for fact in shelves.decide(state, command, receipts):
            state, receipts = shelves.evolve(state, fact), shelves.follow(receipts, fact)
    assert state.received == 5
    with pytest.raises(Invalid, match="receipt_id"):
        shelves.decide(state, received(4), receipts)


def test_what_arrives_is_expected_no_longer() -> None:
    state = ShelfState(shelves.key_of("mug", "berlin"))
    [expected] = shelves.decide(state, Expect("mug", "berlin", 5, days(3)), Receipts())
    state = shelves.evolve(state, expected)
    assert shelves.decide(state, Expect("mug", "berlin", 5, days(3)), Receipts()) == []
    [arrived] = shelves.decide(state, received(3), Receipts())
    state = shelves.evolve(state, arrived)
    assert (state.incoming, state.eta) == (2, days(3))
    state = shelves.evolve(state, shelves.decide(state, received(3, "r2"), Receipts())[0])
    assert (state.incoming, state.eta) == (0, None)


def test_two_shelves_never_share_a_key() -> None:
    with pytest.raises(Invalid, match="sku"):
        shelves.decide(ShelfState("stock:a@b@c"), Expect("a@b", "c", 1, None), Receipts())


# Repeats and strangers


def test_a_warehouse_that_has_not_heard_of_a_cancellation_yet_packs_in_vain(world: World) -> None:
    world.shelf("mug", "berlin", 1)
    world.confirmed("o1", mug=1)
    world.when("o1", Cancel("c1", lines(mug=1)))
    with pytest.raises(NotAllowed):
        world.when("o1", Pack("o1-S1"))
    assert world.when("o1", Pack("o1-S1", is_awaited=False)) == []


def test_what_left_although_it_was_cancelled_is_called_back_and_counts_for_nothing(world: World) -> None:
    world.shelf("mug", "berlin", 2)
    world.confirmed("o1", mug=1)
    world.packed("o1-S1")
    world.when("o1", Cancel("c1", lines(mug=1)))
    left = HandOver("o1-S1", "dhl", (("o1-S1-P1", "T-o1-S1-P1"),), is_awaited=False)
    with pytest.raises(NotAllowed):
        world.when("o1", replace(left, is_awaited=True))
    [recall] = world.when("o1", left)
    assert isinstance(recall, f.ShipmentRecallRequested)
    assert (recall.carrier, [p.tracking for p in recall.parcels]) == ("dhl", ["T-o1-S1-P1"])
    assert recall.parcels[0].lines == lines(mug=1)
    assert world.when("o1", left) == []
    for code in ("in_transit", "recalled", "returned"):
        assert types(world.scanned("o1-S1", code, days(1))) == ["shipment.tracking_updated"]
    assert world.status("o1-S1") is ShipmentStatus.CANCELLED
    assert world.units("o1", "mug") == {"cancelled": 1}
    assert world.shelves["mug"]["berlin"] == Shelf(2, 0)


def test_a_cancelled_shipment_that_was_packed_in_vain_is_called_back_as_well(world: World) -> None:
    world.shelf("mug", "berlin", 1)
    world.confirmed("o1", mug=1)
    world.when("o1", Cancel("c1", lines(mug=1)))
    world.when("o1", Pack("o1-S1", (("box", lines(mug=1)),), is_awaited=False))
    facts = world.when("o1", HandOver("o1-S1", "dhl", (("box", "T-1"),), is_awaited=False))
    assert types(facts) == ["shipment.recall_requested"]
    assert world.when("o1", HandOver("o1-S1", "dhl", (("box", "T-1"),), is_awaited=False)) == []
    with pytest.raises(NotAllowed):
        world.when("o1", HandOver("o1-S1", "dhl", (("box", "T-2"),), is_awaited=False))


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
