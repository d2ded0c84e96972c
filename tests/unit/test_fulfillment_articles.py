"""A unit is the article that it is, from planning to restock: substitutes, told as stories of the business."""

from dataclasses import replace

import pytest

from fulfillment.domain.backorder import BackorderStatus
from fulfillment.domain.decide import Cancel, Fill, Inspect, Replace, ReviseInspection, SettleConsent, ShortPick
from fulfillment.domain.stock import Shelf
from shared.contracts import fulfillment as f
from shared.contracts.base import Bucket
from shared.contracts.orders import BackorderChoice
from shared.contracts.returns import Disposition, InspectedLine, InspectionOutcome
from tests.unit.fulfillment_world import NOON, World, days, lines, of

SUBSTITUTE = SettleConsent("o1-B1", BackorderChoice.SUBSTITUTE, "cup", NOON, "Blue cup")
CUPS = (f.SubstitutedUnits(line_id="mug", quantity=2, sku="cup", title="Blue cup"),)


def substituted(cups: int = 2) -> World:
    """Two mugs are backordered, and the customer takes cups instead."""
    world = World()
    world.shelf("cup", "berlin", cups)
    world.confirmed("o1", mug=2)
    world.when("o1", SUBSTITUTE)
    return world


def inspected(disposition: Disposition, sku: str | None = None, quantity: int = 2) -> InspectedLine:
    return InspectedLine(
        line_id="mug",
        quantity=quantity,
        sku=sku,
        outcome=InspectionOutcome.AS_NEW,
        disposition=disposition,
        refund_percent=100,
        fee_percent=0,
    )


def test_every_fact_of_a_shipment_says_which_units_are_another_article_than_the_one_ordered() -> None:
    world = substituted()
    world.shipped("o1-S1")
    for day, code in enumerate(("lost", "found", "delivered")):
        world.scanned("o1-S1", code, days(day))
    kinds = (f.ShipmentCreated, f.ShipmentShipped, f.ShipmentLost, f.ShipmentFound, f.ShipmentDelivered)
    for kind in kinds:
        [fact] = of(kind, world.journal["o1"])
        assert getattr(fact, "substituted") == CUPS, kind.type  # noqa: B009
    assert world.units("o1", "mug") == {"delivered": 2}


def test_units_that_are_as_ordered_are_named_by_none_of_them() -> None:
    world = World()
    world.shelf("mug", "berlin", 1)
    world.confirmed("o1", mug=1)
    world.shipped("o1-S1")
    assert [fact.substituted for fact in world.journal["o1"] if isinstance(fact, f.ShipmentShipped)] == [()]


def test_a_substitute_that_has_to_be_waited_for_keeps_its_title() -> None:
    world = substituted(cups=1)
    [waits] = [b for b in world.orders["o1"].waiting]
    assert (waits.sku, waits.title) == ("cup", "Blue cup")
    world.when("o1", ShortPick("o1-S1", lines(mug=1)))
    assert {b.title for b in world.orders["o1"].waiting} == {"Blue cup"}, "also once it was not found"


def test_a_substitute_keeps_its_price_until_it_has_left_and_is_sent_again_without_one() -> None:
    """What it costs less is given back once, by the shipment it left in."""
    world = World()
    world.shelf("cup", "berlin", 1)
    world.confirmed("o1", mug=2)
    facts = world.when("o1", replace(SUBSTITUTE, substitute_unit_price_minor=900))
    [settled] = of(f.BackorderConsentSettled, facts)
    assert isinstance(settled, f.BackorderConsentSettled) and settled.substitute_unit_price_minor == 900
    world.when("o1", ShortPick("o1-S1", lines(mug=1)))
    assert {b.unit_price_minor for b in world.orders["o1"].waiting} == {900}, "also once it was not found"
    world.shelf("cup", "berlin", 2)
    world.when("o1", Fill(NOON))
    world.shipped("o1-S2")
    [left] = of(f.ShipmentShipped, world.journal["o1"])
    assert isinstance(left, f.ShipmentShipped)
    assert [(units.quantity, units.unit_price_minor) for units in left.substituted] == [(2, 900)]
    world.scanned("o1-S2", "lost", days(1))
    world.shelf("cup", "berlin", 2)
    facts = world.when("o1", Replace("x1", "o1-CL1", lines(mug=2), "cup", "lost"))
    [again] = of(f.ShipmentCreated, facts)
    assert isinstance(again, f.ShipmentCreated)
    assert [(units.sku, units.unit_price_minor) for units in again.substituted] == [("cup", None)]


@pytest.mark.parametrize("is_announced", [False, True])
def test_a_substitute_that_nobody_ever_had_is_refused_and_the_choice_stays_open(is_announced: bool) -> None:
    world = World()
    if is_announced:
        world.shelf("cup", "berlin", 0, incoming=2, eta=days(3))
    world.confirmed("o1", mug=2)
    facts = world.when("o1", SUBSTITUTE)
    refused = of(f.BackorderSubstituteRefused, facts)
    assert bool(refused) is not is_announced
    if not is_announced:
        assert len(facts) == 1
        assert world.orders["o1"].backorders["o1-B1"].status is BackorderStatus.OPEN
        world.when("o1", SettleConsent("o1-B1", BackorderChoice.CANCEL, None, NOON))
        assert world.all_units("o1", Bucket.CANCELLED) == 2


def test_the_stock_of_the_article_that_moved_is_booked_when_it_is_cancelled_or_comes_back() -> None:
    world = substituted()
    world.when("o1", Cancel("c1", lines(mug=1)))
    assert world.shelves["cup"]["berlin"] == Shelf(2, 1)
    world.shipped("o1-S1")
    world.scanned("o1-S1", "returned", days(1))
    assert (world.shelves["cup"]["berlin"], world.shelves.get("mug", {})) == (Shelf(2, 0), {})


@pytest.mark.parametrize("sku", [None, "cup"])
def test_the_stock_of_the_article_that_came_back_is_booked_by_its_inspection(sku: str | None) -> None:
    """Named by the warehouse, or the only one that was sent."""
    world = substituted()
    world.shipped("o1-S1")
    world.scanned("o1-S1", "delivered", days(1))
    before, after = inspected(Disposition.RESTOCK, sku), inspected(Disposition.QUARANTINE, sku)
    world.when("o1", Inspect("i1", "berlin", (before,)))
    assert world.shelves["cup"]["berlin"] == Shelf(2, 0)
    [quarantined, withdrawn] = world.when("o1", ReviseInspection("i1", "berlin", (before,), (after,)))
    assert isinstance(quarantined, f.StockQuarantined) and isinstance(withdrawn, f.StockWithdrawn)
    assert {quarantined.sku, withdrawn.sku} == {"cup"}
    assert world.shelves["cup"]["berlin"] == Shelf(0, 0)


def test_of_two_articles_that_were_sent_the_warehouse_says_which_came_back() -> None:
    world = World()
    world.shelf("mug", "berlin", 1)
    world.shelf("cup", "berlin", 1)
    world.confirmed("o1", mug=2)
    world.when("o1", SUBSTITUTE)
    for shipment_id in ("o1-S1", "o1-S2"):
        world.shipped(shipment_id)
        world.scanned(shipment_id, "delivered", days(1))
    world.when("o1", Inspect("i1", "berlin", (inspected(Disposition.RESTOCK, "cup", 1),)))
    assert (world.shelves["cup"]["berlin"].on_hand, world.shelves["mug"]["berlin"].on_hand) == (1, 0)
    world.when("o1", Inspect("i2", "berlin", (inspected(Disposition.RESTOCK, None, 1),)))
    assert world.shelves["mug"]["berlin"].on_hand == 1, "the one ordered, where nobody says"
