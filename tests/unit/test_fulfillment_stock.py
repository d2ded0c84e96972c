"""Fulfillment: goods that arrive and goods that come back, told as stories of the business."""

import pytest

from fulfillment.domain import shelf as shelves
from fulfillment.domain.decide import Inspect, ReviseInspection
from fulfillment.domain.shelf import CountUnits, Expect, Receipts, Receive, ShelfState
from fulfillment.domain.stock import Shelf
from shared.contracts.fulfillment import StockCounted, StockDiscrepancyRecorded, shelf_key
from shared.contracts.returns import Disposition, InspectedLine, InspectionOutcome
from tests.unit.fulfillment_world import World, days, shipped, types


@pytest.fixture
def world() -> World:
    return World()


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
    missing = inspected(1, Disposition.QUARANTINE).model_copy(update={"outcome": InspectionOutcome.NOT_IN_BOX})
    assert world.when("o1", Inspect("i3", "hamburg", (missing,))) == [], "what did not come is on no shelf"


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
    state = ShelfState(shelf_key("mug", "berlin"))
    receipts = Receipts()
    for command in (received(3), received(3), received(2, "r2")):
        for fact in shelves.decide(state, command, receipts):
            state, receipts = shelves.evolve(state, fact), shelves.evolve_context(receipts, fact)
    assert state.received == 5
    [recorded] = shelves.decide(state, received(4), receipts)
    assert isinstance(recorded, StockDiscrepancyRecorded)
    assert (recorded.reference, recorded.recorded, recorded.quantity) == ("r1", 3, 4)
    assert shelves.evolve(state, recorded) == state, "which of them is true, a count says"


def test_what_arrives_is_expected_no_longer() -> None:
    state = ShelfState(shelf_key("mug", "berlin"))
    [expected] = shelves.decide(state, Expect("mug", "berlin", 5, days(3)), Receipts())
    state = shelves.evolve(state, expected)
    assert shelves.decide(state, Expect("mug", "berlin", 5, days(3)), Receipts()) == []
    [arrived] = shelves.decide(state, received(3), Receipts())
    state = shelves.evolve(state, arrived)
    assert (state.incoming, state.eta) == (2, days(3))
    state = shelves.evolve(state, shelves.decide(state, received(3, "r2"), Receipts())[0])
    assert (state.incoming, state.eta) == (0, None)


def test_an_article_with_an_at_sign_has_a_shelf_of_its_own() -> None:
    """What arrived has arrived, whatever the article is called."""
    assert shelf_key("a@b", "c") == "stock:a%40b@c" != shelf_key("a", "b@c")
    [told] = shelves.decide(ShelfState(shelf_key("a@b", "c")), Expect("a@b", "c", 1, None), Receipts())
    assert told.subject == "stock:a%40b@c"


@pytest.mark.parametrize(
    ("counted", "change", "missing"), [(7, 2, 0), (5, 0, 0), (4, -1, 0), (3, -2, 0), (1, -2, 2), (0, -2, 3)]
)
def test_a_count_says_what_is_there_and_takes_nothing_from_what_is_promised(
    counted: int, change: int, missing: int
) -> None:
    key = shelf_key("mug", "berlin")
    receipts = Receipts(shelves={key: Shelf(5, 3)})
    count = CountUnits("mug", "berlin", counted, "stocktaking")
    [fact] = shelves.decide(ShelfState(key), count, receipts)
    assert isinstance(fact, StockCounted)
    assert (fact.before, fact.change, fact.missing) == (5, change, missing)
    after = shelves.evolve_context(receipts, fact).shelves[key]
    assert (after.on_hand, after.free) == (5 + change, 2 + change)
    assert after.free >= 0
    [again] = shelves.decide(shelves.evolve(ShelfState(key), fact), count, shelves.evolve_context(receipts, fact))
    assert isinstance(again, StockCounted) and again.change == 0
