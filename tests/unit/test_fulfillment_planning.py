"""Fulfillment: which location ships what, whose turn it is, and dates that slip, told as stories of the business."""

from datetime import timedelta
from itertools import permutations

import pytest

from fulfillment.domain.backorder import BackorderStatus
from fulfillment.domain.decide import Cancel, Fill, SettleConsent, TakeSilence
from fulfillment.domain.planning import Need, plan
from fulfillment.domain.policy import in_force
from fulfillment.domain.state import deadlines
from fulfillment.domain.stock import Shelf, Stock, evolve_context
from shared.contracts import fulfillment as f
from shared.contracts.orders import BackorderChoice, ShippingPreference
from shared.core.machine import Invalid
from tests.unit.fulfillment_world import NOON, POLICY, World, days, lines, of, types, where

COMPLETE_ONLY = ShippingPreference(rule="complete_only")


def at_most(shipments: int) -> ShippingPreference:
    return ShippingPreference(rule="max_n_shipments", max_shipments=shipments)


@pytest.fixture
def world() -> World:
    return World()


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
    after = evolve_context(evolve_context(stock, created), filled)
    assert after.demand_ahead("o2", "mug") == 2
    assert after.demand_ahead("o1", "mug") == 0
    younger = evolve_context(stock, created.model_copy(update={"order_id": "o2"}))
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
