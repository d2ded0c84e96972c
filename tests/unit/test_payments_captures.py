"""Payments: what is captured as units leave, and what a cancellation leaves of it, told as stories of the business."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from payments.domain.decide import CancelRest, RecordUnitsChange, RetryCaptures
from payments.domain.operation import Result
from payments.domain.payout import Policies, RejectRefund
from payments.domain.refund import RefundStatus
from payments.domain.tender import TenderStatus
from payments.handlers import lines_cancelled, shipped
from shared.contracts import payments as p
from shared.contracts.base import TenderKind
from shared.contracts.fulfillment import ShipmentShipped
from shared.contracts.orders import CancelledValue, OrderLinesCancelled
from shared.contracts.payments import RefundKind, RefundLine, UnitsChange
from shared.contracts.returns import ReturnReason
from shared.core.machine import NotAllowed
from shared.messaging.envelope import Cause, Undecodable
from tests.unit.payments_story import (
    CARD,
    GIFT,
    NOON,
    Story,
    approval,
    claimed,
    line,
    opening,
    owed,
    paid,
    routing,
    shipped_card,
    tender,
    tender_status,
    types,
    units,
)

# Capture


def test_gift_cards_are_captured_whole_at_confirmation() -> None:
    story = paid(tender("t1", GIFT, 3_000), tender("t2", CARD, 7_000), lines=[line("a", 2, 10_000)])
    assert tender_status(story) is TenderStatus.CAPTURED
    assert story.state.tenders["t2"].captured_minor == 0


def test_each_shipment_captures_what_it_is_worth_and_is_not_prepaid() -> None:
    story = paid(
        tender("t1", GIFT, 3_000),
        tender("t2", CARD, 8_001),
        lines=[line("a", 2, 6_001), line("b", 3, 4_500)],
        shipping=500,
    )
    captured = []
    for shipment, what in (("S1", {"b": 1}), ("S2", {"a": 1, "b": 1}), ("S3", {"a": 1, "b": 1})):
        story.tell(RecordUnitsChange(UnitsChange.HANDED_OVER, shipment, units(**what), NOON))
        story.all_succeed()
        captured.append(story.state.captured_minor)
    # 1500 of goods and all shipping are less than what is prepaid; then the value handed over; then all of it.
    assert captured == [3_000, 500 + 1_500 + 3_001 + 1_500, 11_001]
    final = [f for f in story.facts if isinstance(f, p.PaymentCaptured)][-1]
    assert final.final and final.shipment_id == "S3" and final.order_captured_minor == 11_001
    assert story.state.tenders["t2"].status is TenderStatus.CAPTURED


def test_the_final_capture_releases_the_rest_of_its_authorization() -> None:
    story = paid(tender("t1", CARD, 10_000), lines=[line("a", 2, 10_000)])
    story.handed_over("S1", a=1)
    story.all_succeed()
    story.cancelled("C1", a=1)
    # Nothing is left to ship: what was not captured is voided, not refunded.
    assert [o.kind for o in story.waiting()] == [p.OperationKind.VOID]
    story.all_succeed()
    tender_ = story.state.tenders["t1"]
    assert (tender_.status, tender_.captured_minor, tender_.voided_minor) == (TenderStatus.CAPTURED, 5_000, 5_000)
    assert story.state.refunds == {}


def test_a_unit_that_came_back_and_was_cancelled_is_not_counted_as_handed_over_too() -> None:
    story = paid(tender("t1", CARD, 3_000), lines=[line("a", 3, 3_000)])
    story.handed_over("S1", a=1)
    story.all_succeed()
    story.lost("S1", a=1)
    story.tell(RecordUnitsChange(UnitsChange.CANCELLED, "c1", units(a=1), NOON, returned=units(a=1)))
    story.all_succeed()
    story.handed_over("S2", a=1)
    story.all_succeed()
    assert story.state.captured_minor == 1_000, "what the first unit was charged pays the second"
    assert not story.state.is_all_settled and tender_status(story) is TenderStatus.PARTIALLY_CAPTURED
    [capture] = [f for f in story.handed_over("S3", a=1) if isinstance(f, p.PaymentCaptureRequested)]
    assert (capture.amount_minor, capture.final) == (1_000, True)


def test_the_rest_of_an_order_that_is_over_is_cancelled_beside_a_unit_that_came_back() -> None:
    story = paid(tender("t1", CARD, 2_000), lines=[line("a", 2, 2_000)])
    story.handed_over("S1", a=1)
    story.all_succeed()
    story.lost("S1", a=1)
    back = OrderLinesCancelled(
        order_id="o1",
        cancellation_id="c1",
        lines=(CancelledValue(line_id="a", quantity=1, goods_minor=1_000),),
        remaining_minor=1_000,
        returned=units(a=1),
    )
    told = lines_cancelled(back, Cause(UUID(int=1), NOON, "service:orders", back.type, "story"))
    assert not isinstance(told.command, Undecodable)
    story.tell(told.command)
    story.tell(CancelRest("c2", NOON))
    story.all_succeed()
    assert (story.state.worth_minor, story.state.captured_minor - story.state.refunded_minor()) == (0, 0)


def test_nothing_is_drawn_on_what_a_final_capture_under_way_is_about_to_release() -> None:
    story = paid(tender("t1", CARD, 700), tender("t2", CARD, 300), lines=[line("a", 2, 800), line("b", 1, 200)])
    story.handed_over("S1", a=1)
    story.all_succeed()
    story.cancelled("C1", b=1)
    story.handed_over("S2", a=1)
    first, final = story.waiting()
    assert (first.tender_id, final.tender_id, final.amount_minor, final.final) == ("t1", "t2", 100, True)
    story.submit(final.id)
    story.submit(first.id)
    story.answer(first.id, Result.FAILED, code="card_declined")
    story.tell(RetryCaptures(NOON))
    assert all(o.tender_id == "t1" for o in story.waiting())
    story.answer(final.id)
    assert story.state.tenders["t2"].status is TenderStatus.CAPTURED


def test_a_capture_is_never_final_while_another_one_of_its_tender_is_under_way() -> None:
    story = paid(tender("t1", CARD, 10_000), lines=[line("a", 2, 10_000)])
    story.handed_over("S1", a=1)
    story.handed_over("S2", a=1)
    assert [o.final for o in story.waiting()] == [False, False]
    story.all_succeed()
    assert tender_status(story) is TenderStatus.CAPTURED


def test_units_handed_over_before_the_order_is_known_are_captured_when_it_is() -> None:
    story = Story()
    story.handed_over("S1", a=1)
    story.tell(opening([line("a", 1, 700)], [tender("t1", CARD, 700)]))
    story.all_succeed()
    assert story.state.captured_minor == 700


def handed_over(story: Story, shipment_id: str, n: int, again: int) -> list[Any]:
    """As fulfillment says it: `again` of the `n` units replace others."""
    fact = ShipmentShipped(
        order_id="o1",
        shipment_id=shipment_id,
        carrier="dhl",
        parcels=(),
        lines=units(a=n),
        again=units(a=again) if again else (),
        number=1,
        of=1,
    )
    cause = Cause(UUID(int=1), NOON, "service:fulfillment", fact.type, "story")
    command = shipped(fact, cause).command
    assert not isinstance(command, Undecodable)
    return story.tell(command)


def test_a_replacement_costs_nothing() -> None:
    story = paid(tender("t1", CARD, 900), lines=[line("a", 3, 900)])
    handed_over(story, "S1", 1, again=0)
    story.lost("S1", a=1)
    assert handed_over(story, "S2", 1, again=1) == []
    story.all_succeed()
    assert story.state.captured_minor == 300


def test_a_shipment_of_replaced_and_ordered_units_charges_for_the_ordered_ones() -> None:
    story = paid(tender("t1", CARD, 900), lines=[line("a", 3, 900)])
    handed_over(story, "S1", 1, again=0)
    handed_over(story, "S2", 2, again=1)
    story.all_succeed()
    assert (story.state.captured_minor, story.state.of_line("a").handed_over) == (600, 2)
    handed_over(story, "S3", 1, again=0)
    story.all_succeed()
    assert (story.state.captured_minor, story.state.of_line("a").handed_over) == (900, 3)


def test_what_a_claim_of_units_that_never_arrived_states_is_refunded_as_lost_once_per_cause() -> None:
    story = paid(tender("t1", CARD, 900), lines=[line("a", 3, 900)])
    story.handed_over("S1", a=3)
    story.all_succeed()
    story.lost("S1", a=2)
    claimed(story, "o1-CL1", 1, ReturnReason.NOT_RECEIVED)
    one = (RefundLine(line_id="a", quantity=1, amount_minor=300),)
    due = owed(300, "o1-CL1-D1", return_id="o1-CL1", lines=one)
    assert types(story.tell(due))[-2:] == ["refund.approved", "refund.routed"]
    assert story.tell(due) == []
    # Another claim of the same line is another cause; a return of it is no claim.
    claimed(story, "o1-CL2", 1, ReturnReason.NOT_RECEIVED)
    story.tell(owed(300, "o1-CL2-D1", return_id="o1-CL2", lines=one))
    story.tell(owed(300, "o1-RMA1-D1", lines=one))
    story.all_succeed()
    said = [(f.kind, f.cause_id) for f in story.facts if isinstance(f, p.RefundCompleted)]
    assert said == [
        (RefundKind.LOST, "o1-CL1-D1"),
        (RefundKind.LOST, "o1-CL2-D1"),
        (RefundKind.RETURN, "o1-RMA1-D1"),
    ]
    assert story.state.refunded_units("a", frozenset({RefundKind.LOST})) == 2


def test_what_a_claim_of_units_that_arrived_states_is_refunded_as_returned() -> None:
    story = shipped_card()
    claimed(story, "o1-CL1", 1, ReturnReason.DEFECTIVE)
    one = (RefundLine(line_id="a", quantity=1, amount_minor=4_000),)
    story.tell(owed(4_000, return_id="o1-CL1", lines=one))
    assert story.state.refunds["o1-R1"].kind is RefundKind.RETURN


def test_a_claim_told_before_its_loss_is_refunded() -> None:
    story = shipped_card()
    story.tell(RecordUnitsChange(UnitsChange.CLAIMED, "o1-CL1", units(a=1), NOON))
    one = (RefundLine(line_id="a", quantity=1, amount_minor=4_000),)
    assert types(story.tell(owed(4_000, return_id="o1-CL1", lines=one)))[-1] == "refund.routed"


def test_a_declined_capture_is_told_and_drawn_from_the_other_tenders_with_the_next_shipment() -> None:
    story = paid(tender("t1", CARD, 5_000), tender("t2", TenderKind.WALLET, 5_000), lines=[line("a", 2, 10_000)])
    story.handed_over("S1", a=1)
    [capture] = story.waiting()
    story.submit(capture.id)
    failed = story.answer(capture.id, Result.FAILED, code="card_declined")
    assert types(failed) == ["payment.capture_failed"]
    assert tender_status(story) is TenderStatus.AUTHORIZED
    story.handed_over("S2", a=1)
    story.all_succeed()
    assert story.state.captured_minor == 5_000
    # A person asks once more, and the tender that declined gives its part.
    story.tell(RetryCaptures(NOON))
    story.all_succeed()
    assert story.state.captured_minor == 10_000
    with pytest.raises(NotAllowed, match="everything handed over"):
        story.tell(RetryCaptures(NOON))


def test_what_one_tender_declined_is_kept_ready_on_the_others_until_a_person_asks_for_it() -> None:
    story = paid(tender("t1", CARD, 6_000), tender("t2", TenderKind.WALLET, 4_000), lines=[line("a", 2, 10_000)])
    story.handed_over("S1", a=1)
    [capture] = story.waiting()
    story.submit(capture.id)
    story.answer(capture.id, Result.FAILED, code="card_declined")
    story.cancelled("C1", a=1)
    assert story.waiting() == []
    story.tell(RetryCaptures(NOON))
    assert [(o.tender_id, o.amount_minor) for o in story.waiting()] == [("t2", 4_000), ("t1", 1_000)]
    story.all_succeed()
    assert story.state.captured_minor == 5_000
    assert {t.status for t in story.state.tenders.values()} == {TenderStatus.CAPTURED}


def test_the_part_of_a_tender_that_is_still_being_authorized_is_not_taken_from_the_next() -> None:
    story = Story()
    story.handed_over("S1", a=1)
    story.tell(opening([line("a", 2, 10_000)], [tender("t1", CARD, 4_000), tender("t2", CARD, 6_000)]))
    for operation in story.waiting():
        story.submit(operation.id)
    assert [f.amount_minor for f in story.answer("o1-P2") if isinstance(f, p.PaymentCaptureRequested)] == [1_000]
    assert [f.amount_minor for f in story.answer("o1-P1") if isinstance(f, p.PaymentCaptureRequested)] == [4_000]


# Cancellation


def test_cancelled_before_anything_ships_voids_the_card_and_refunds_the_gift_card() -> None:
    story = paid(tender("t1", GIFT, 4_000), tender("t2", CARD, 6_000), lines=[line("a", 2, 10_000)])
    facts = story.cancelled("C1", a=2)
    assert {f.type for f in facts} >= {"payment.void_requested", "refund.requested", "refund.approved", "refund.routed"}
    [given_back] = story.state.refunds.values()
    assert (given_back.kind, given_back.cause_id, given_back.amount_minor) == (RefundKind.CANCELLATION, "C1", 4_000)
    story.all_succeed()
    assert story.state.tenders["t2"].status is TenderStatus.VOIDED
    assert story.state.refunds[given_back.id].status is RefundStatus.SUCCEEDED


def test_a_cancelled_part_releases_only_tenders_that_nothing_left_can_need() -> None:
    story = paid(tender("t1", CARD, 6_000), tender("t2", CARD, 4_000), lines=[line("a", 5, 10_000)])
    story.cancelled("C1", a=1)
    assert story.waiting() == []
    story.cancelled("C2", a=1)
    [void] = story.waiting()
    assert (void.kind, void.tender_id) == (p.OperationKind.VOID, "t2")


def test_what_a_person_turned_down_is_not_asked_for_again_by_itself() -> None:
    policies = Policies(routing=(routing(),), approval=(approval(threshold=100),))
    story = paid(tender("t1", GIFT, 4_000), lines=[line("a", 2, 4_000)], policies=policies)
    story.cancelled("C1", a=1)
    story.tell(RejectRefund("o1-R1", "mistake", "ordered again", NOON))
    assert len(story.state.refunds) == 1
    story.cancelled("C2", a=1)
    assert [(r.cause_id, r.amount_minor) for r in story.state.refunds.values()] == [("C1", 2_000), ("C2", 2_000)]


def test_a_cancellation_answered_in_parts_gives_back_each_part_under_a_cause_of_its_own() -> None:
    story = paid(tender("t1", GIFT, 4_000), lines=[line("a", 2, 4_000)])
    story.cancelled("C1", a=1)
    story.cancelled("C1", a=1)
    assert [(r.cause_id, r.amount_minor) for r in story.state.refunds.values()] == [("C1", 2_000), ("C1.2", 2_000)]


@pytest.mark.parametrize("handed", range(4))
def test_what_is_captured_is_what_orders_leaves_of_the_line_to_the_minor_unit(handed: int) -> None:
    story = paid(tender("t1", CARD, 1_000), lines=[line("a", 3, 1_000)])
    for n in range(handed):
        story.handed_over(f"S{n}", a=1)
        story.all_succeed()
    if handed < 3:
        story.cancelled("C1", a=3 - handed)
    story.all_succeed()
    # Orders takes cancelled units off by cumulative rounding: 333, 667, 1000 of 1000.
    left = 1_000 - {0: 0, 1: 333, 2: 667, 3: 1_000}[3 - handed]
    assert story.state.captured_minor == story.state.worth_minor == left
    assert story.state.refunds == {}


def test_a_hand_over_after_the_authorization_ran_out_is_authorized_again_before_it_is_captured() -> None:
    """Its timer is late: the clock says it."""
    story = Story()
    story.tell(opening([line("a", 1, 1_000)], [tender("t1", CARD, 1_000)]))
    story.submit("o1-P1")
    story.answer("o1-P1", expires_at=NOON + timedelta(days=30))
    late = NOON + timedelta(days=31)
    facts = story.handed_over("S1", at=late, a=1)
    assert types(facts)[1:] == ["payment.authorization_expired", "payment.authorization_requested"]
    story.submit("o1-P2")
    assert "payment.capture_requested" in types(story.answer("o1-P2", at=late, expires_at=late + timedelta(days=30)))
    story.all_succeed()
    assert story.state.captured_minor == 1_000
