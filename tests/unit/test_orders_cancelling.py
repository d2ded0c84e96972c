"""Orders: cancelling them whole and in part, told as stories of the business."""

import pytest

from orders.domain.placement import LineRequest
from orders.domain.rollups import rollups
from orders.domain.state import Status, invariants
from shared.contracts import fulfillment as f
from shared.contracts.base import Bucket
from shared.contracts.orders import (
    OrderCancellationRefused,
    OrderCancellationRequested,
    OrderCancelled,
    OrderCompleted,
    OrderConfirmed,
    OrderLinesCancelled,
    OrderRejected,
)
from shared.core.machine import Invalid, NotAllowed
from tests.unit.orders_story import (
    Story,
    allocated,
    authorized,
    backordered,
    cancel,
    cancelled,
    card,
    confirmed,
    declined,
    delivered,
    on_its_way,
    packed,
    refused,
    units,
)


def test_a_cancelled_order_waits_for_fulfillment_and_is_then_cancelled_whole() -> None:
    story = confirmed()
    [asked] = story.when(cancel())
    assert isinstance(asked, OrderCancellationRequested)
    assert (asked.cancellation_id, asked.lines, asked.whole) == ("o1-C1", units(("1", 3), ("2", 2)), True)
    assert story.stands(Status.CANCEL_PENDING)
    [first] = story.heard(cancelled("o1-C1", ("1", 3)))
    assert isinstance(first, OrderLinesCancelled)
    assert ([line.goods_minor for line in first.lines], first.remaining_minor) == ([3000], 1500)
    [second, last] = story.heard(cancelled("o1-C1", ("2", 2)))
    assert isinstance(second, OrderLinesCancelled)
    assert second.remaining_minor == 0
    assert last == OrderCancelled(order_id="o1", cancellation_id="o1-C1")
    assert rollups(story.now).fulfillment_status == "cancelled"


def test_a_refusal_of_units_that_were_given_up_otherwise_meanwhile_changes_nothing() -> None:
    story = confirmed()
    story.heard(backordered("1", 3), backordered("2", 2))
    story.when(cancel())
    story.heard(cancelled("o1-B1", ("1", 3)), cancelled("o1-B2", ("2", 2)))
    assert story.now.status is Status.CANCELLED
    told = len(story.told)
    story.heard(refused("o1-C1", ("1", 3), ("2", 2)))
    assert len(story.told) == told


def test_cancelled_in_the_middle_the_unit_in_transit_is_refused_and_the_rest_is_cancelled() -> None:
    story = confirmed()
    story.heard(
        *on_its_way("o1-S1", ("1", 1)), *allocated("o1-S2", ("2", 2)), packed("o1-S2", ("2", 2)), backordered("1", 2)
    )
    story.when(cancel())
    story.heard(
        refused("o1-C1", ("1", 1)),
        f.ShipmentCancelled(order_id="o1", shipment_id="o1-S2", lines=units(("2", 2)), detail=""),
        f.BackorderCancelled(order_id="o1", backorder_id="o1-B1", line_id="1", sku="mug", quantity=2, remaining=0),
        cancelled("o1-C1", ("2", 2), was=Bucket.PACKED),
    )
    assert story.stands(Status.CANCEL_PENDING)
    [fact] = story.heard(cancelled("o1-C1", ("1", 2), was=Bucket.BACKORDERED))
    assert isinstance(fact, OrderLinesCancelled)
    assert fact.remaining_minor == 1500
    assert story.stands(Status.CONFIRMED)
    assert rollups(story.now).fulfillment_status == "shipped"
    assert invariants(story.now) == []
    [done] = story.heard(delivered("o1-S1", ("1", 1)))
    assert isinstance(done, OrderCompleted)


def test_a_cancellation_may_be_refused_as_a_whole() -> None:
    story = confirmed()
    story.when(cancel(("2", 1)))
    [fact] = story.heard(refused("o1-C1", ("2", 1)))
    assert isinstance(fact, OrderCancellationRefused)
    assert story.stands(Status.CONFIRMED)


def test_cancellations_one_after_another_sum_to_the_line_to_the_minor_unit() -> None:
    story = Story(
        lines=(LineRequest(sku="mug", title="Mug", quantity=3, unit_price_minor=333, tax_minor=1),),
        shipping_minor=0,
        tenders=(card(1000),),
    )
    story.heard(authorized("t1", 1000))
    worth = []
    for n in (1, 2, 3):
        story.when(cancel(("1", 1)))
        fact = story.heard(cancelled(f"o1-C{n}", ("1", 1)))[0]
        assert isinstance(fact, OrderLinesCancelled)
        worth.append(fact.lines[0].goods_minor)
    assert worth == [333, 334, 333]
    assert story.stands(Status.CANCELLED)


def test_a_second_cancellation_waits_for_the_answer_to_the_first() -> None:
    story = confirmed()
    story.when(cancel(("1", 1)))
    with pytest.raises(NotAllowed, match="o1-C1 is not answered yet"):
        story.when(cancel(("2", 1)))


@pytest.mark.parametrize(
    ("lines", "field"),
    [
        ([("9", 1)], "lines.0.line_id"),
        ([("1", 4)], "lines.0.quantity"),
        ([("1", 1), ("1", 1)], "lines.1.line_id"),
    ],
)
def test_a_cancellation_of_what_is_not_there_is_refused_by_field(lines: list[tuple[str, int]], field: str) -> None:
    with pytest.raises(Invalid) as error:
        confirmed().when(cancel(*lines))
    assert error.value.field == field


def test_units_in_transit_cannot_be_cancelled() -> None:
    story = confirmed()
    story.heard(*on_its_way("o1-S1", ("1", 3), ("2", 2)))
    with pytest.raises(NotAllowed, match="units in transit need a recall"):
        story.when(cancel())


def test_an_authorization_while_cancelling_confirms_what_remains() -> None:
    story = Story()
    story.when(cancel(("2", 2)))
    assert story.heard(authorized("t1", 2000), authorized("t2", 2500)) == []
    assert story.stands(Status.CANCEL_PENDING)
    [_, fact] = story.heard(cancelled("o1-C1", ("2", 2)))
    assert fact == OrderConfirmed(order_id="o1", authorized_minor=4500, total_minor=3500)


def test_a_decline_while_cancelling_rejects_what_remains() -> None:
    story = Story()
    story.when(cancel(("2", 2)))
    assert story.heard(declined("t2")) == []
    [_, fact] = story.heard(cancelled("o1-C1", ("2", 2)))
    assert isinstance(fact, OrderRejected)


def test_an_order_cancelled_before_it_was_paid_is_cancelled_whatever_the_payment_says() -> None:
    story = Story()
    story.when(cancel())
    story.heard(declined("t2"), cancelled("o1-C1", ("1", 3), ("2", 2)), authorized("t1", 2000))
    assert story.stands(Status.CANCELLED)


def test_an_unpaid_order_with_a_cancelled_line_is_placed_again() -> None:
    story = Story()
    story.when(cancel(("2", 2)))
    story.heard(cancelled("o1-C1", ("2", 2)))
    assert story.stands(Status.PLACED)
    story.heard(authorized("t1", 2000), authorized("t2", 1500))
    assert story.stands(Status.CONFIRMED)


def test_a_shipment_while_cancelling_counts_and_completes_after_the_answer() -> None:
    story = confirmed()
    story.heard(*on_its_way("o1-S1", ("1", 3)))
    story.when(cancel())
    assert story.heard(delivered("o1-S1", ("1", 3))) == []
    [answer, *rest] = story.heard(refused("o1-C1", ("1", 3)), cancelled("o1-C1", ("2", 2)))
    assert isinstance(answer, OrderCancellationRefused)
    assert [type(fact) for fact in rest] == [OrderLinesCancelled, OrderCompleted]


def test_a_backorder_cancelled_by_choice_or_silence_needs_no_request() -> None:
    story = confirmed()
    story.heard(
        backordered("1", 3),
        f.BackorderCancelled(order_id="o1", backorder_id="o1-B1", line_id="1", sku="mug", quantity=3, remaining=0),
    )
    [fact] = story.heard(cancelled("o1-B1", ("1", 3), was=Bucket.BACKORDERED))
    assert isinstance(fact, OrderLinesCancelled)
    assert story.stands(Status.CONFIRMED)
    [_, fact] = story.heard(cancelled("o1-B2", ("2", 2), was=Bucket.BACKORDERED))
    assert fact == OrderCancelled(order_id="o1", cancellation_id="o1-B2")


def test_an_answer_nobody_waits_for_is_refused() -> None:
    with pytest.raises(NotAllowed):
        confirmed().heard(refused("o1-C1", ("1", 1)))
