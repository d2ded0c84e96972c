"""Payments: what is authorized, captured, released and given back, told as stories of the business."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from payments.domain.account import Account, evolve, laws
from payments.domain.charge import CHARGE, ChargeStatus
from payments.domain.decision import (
    CancelRest,
    Conclude,
    Dispute,
    DropCharge,
    ExpireAuthorization,
    LoseSight,
    NoteUnits,
    OweCharge,
    RetryCaptures,
    RetryCharge,
    Submit,
    deadlines,
)
from payments.domain.operation import OPERATION, OperationStatus, Result
from payments.domain.payout import (
    ApproveRefund,
    Asked,
    CancelRefund,
    OweRefund,
    Policies,
    RejectRefund,
    RequestRefund,
    RerouteRefund,
    preview,
)
from payments.domain.refund import REFUND, RefundStatus
from payments.domain.routing import Strategy
from payments.domain.tender import DISPUTE, TENDER, DisputeStatus, TenderStatus
from payments.gateway import BookedThere
from payments.handlers import claimed as open_claim
from payments.handlers import shipped
from payments.reconciliation import Difference, compare
from payments.store import STATE, Booked
from shared.contracts import payments as p
from shared.contracts.base import TenderKind
from shared.contracts.fulfillment import ShipmentShipped
from shared.contracts.orders import TenderSpec
from shared.contracts.payments import RefundChannel, RefundKind, RefundLine, UnitsChange
from shared.contracts.returns import ClaimOpened, ReturnReason
from shared.envelope import Cause, Undecodable
from shared.machine import Invalid, Machine, NotAllowed
from tests.unit.payments_story import EPOCH, NOON, Story, approval, line, opening, paid, routing, tender, units

CARD = TenderKind.CARD
GIFT = TenderKind.GIFT_CARD


def types(facts: list[Any]) -> list[str]:
    return [fact.type for fact in facts]


def refund(amount: int, kind: RefundKind = RefundKind.PRICE_ADJUSTMENT, **more: Any) -> RequestRefund:
    fields = {"lines": (), "currency": "EUR", "requester": "agent:anna", "at": NOON}
    return RequestRefund(kind=kind, amount_minor=amount, **{**fields, **more})


def owed(amount: int, cause: str = "due-1", **more: Any) -> OweRefund:
    fields = {
        "kind": RefundKind.RETURN,
        "return_id": "o1-RMA1",
        "lines": (),
        "currency": "EUR",
        "trigger_at": NOON,
        "channel": RefundChannel.ORIGINAL,
        "requester": "partner:wms",
        "at": NOON,
    }
    return OweRefund(cause_id=cause, amount_minor=amount, **{**fields, **more})


def status_of(story: Story, refund_id: str = "o1-R1") -> RefundStatus:
    return story.state.refunds[refund_id].status


def tender_status(story: Story, tender_id: str = "t1") -> TenderStatus:
    return story.state.tenders[tender_id].status


def shipped_card(amount: int = 10_000, **more: Any) -> Story:
    """One line, one card, handed over and captured whole."""
    story = paid(tender("t1", CARD, amount), lines=[line("a", 1, amount)], **more)
    story.handed_over("S1", a=1)
    story.all_succeed()
    return story


def shipped_two(**more: Any) -> Story:
    """Half by gift card, half by card, all handed over and captured."""
    story = paid(tender("t1", GIFT, 4_000), tender("t2", CARD, 6_000), lines=[line("a", 2, 10_000)], **more)
    story.handed_over("S1", a=2)
    story.all_succeed()
    return story


# Machines


@pytest.mark.parametrize("machine", [TENDER, DISPUTE, OPERATION, REFUND, CHARGE], ids=lambda m: m.name)
def test_the_machines_keep_their_laws(machine: Machine[Any]) -> None:
    assert machine.broken_laws() == []


@pytest.mark.parametrize(
    ("machine", "terminal"),
    [
        (TENDER, {"captured", "declined", "voided", "expired_final"}),
        (OPERATION, {"reversed"}),
        (REFUND, {"rejected", "cancelled"}),
        (DISPUTE, {"won", "lost"}),
        (CHARGE, {"captured"}),
    ],
    ids=lambda value: value.name if isinstance(value, Machine) else "",
)
def test_only_the_listed_states_are_terminal(machine: Machine[Any], terminal: set[str]) -> None:
    assert {str(status) for status in machine.transitions if machine.is_terminal(status)} == terminal


# Authorization


def test_every_tender_is_asked_for_when_the_order_is_placed() -> None:
    story = Story()
    facts = story.tell(opening([line("a", 2, 10_000)], [tender("t1", GIFT, 4_000), tender("t2", CARD, 6_000)]))
    assert types(facts) == ["payment.opened", "payment.authorization_requested", "payment.authorization_requested"]
    assert [(o.id, o.amount_minor) for o in story.waiting()] == [("o1-P1", 4_000), ("o1-P2", 6_000)]
    assert {t.status for t in story.state.tenders.values()} == {TenderStatus.AUTHORIZING}


def test_what_is_paid_at_the_door_is_authorized_by_ourselves() -> None:
    story = Story()
    facts = story.tell(opening([line("a", 1, 500)], [tender("t1", TenderKind.CASH_ON_DELIVERY, 500)]))
    assert types(facts)[-1] == "payment.authorized"
    assert types(story.handed_over("S1", a=1))[1:] == ["payment.capture_requested", "payment.captured"]
    assert story.state.captured_minor == 500
    assert story.waiting() == []


def test_a_declined_order_moves_no_money_and_releases_what_was_authorized() -> None:
    story = Story()
    story.tell(opening([line("a", 1, 10_000)], [tender("t1", CARD, 4_000), tender("t2", CARD, 6_000)]))
    story.submit("o1-P1")
    story.submit("o1-P2")
    declined = story.answer("o1-P2", Result.FAILED, code="fraud")
    assert isinstance(declined[0], p.PaymentDeclined) and declined[0].fraud
    story.tell(CancelRest("o1", NOON))
    # The other one was still under way when the order was rejected.
    assert types(story.answer("o1-P1")) == ["payment.authorized", "payment.void_requested"]
    story.all_succeed()
    assert tender_status(story) is TenderStatus.VOIDED
    assert story.state.captured_minor == 0
    assert story.state.refunds == {}


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
        story.tell(NoteUnits(UnitsChange.HANDED_OVER, shipment, units(**what), NOON))
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


def claimed(story: Story, claim_id: str, n: int, reason: ReturnReason) -> None:
    """As returns says it; what does not concern payments is not told."""
    fact = ClaimOpened(order_id="o1", claim_id=claim_id, lines=units(a=n), reason=reason)
    told = open_claim(fact, Cause(UUID(int=1), NOON, "service:returns", fact.type, "story"))
    if told is not None:
        assert not isinstance(told.command, Undecodable)
        story.tell(told.command)


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
    story.tell(NoteUnits(UnitsChange.CLAIMED, "o1-CL1", units(a=1), NOON))
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
    story.tell(RejectRefund("o1-R1", "mistake", "ordered again"))
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


# Unknown outcomes


def test_a_call_without_an_answer_is_unknown_and_its_money_is_spoken_for() -> None:
    story = paid(tender("t1", CARD, 1_000), lines=[line("a", 2, 1_000)])
    story.handed_over("S1", a=1)
    [capture] = story.waiting()
    story.submit(capture.id)
    assert types(story.tell(LoseSight(capture.id))) == ["payment.operation_unknown"]
    assert story.state.capturing_minor() == 500
    assert types(story.answer(capture.id)) == ["payment.operation_reconciled", "payment.captured"]
    assert story.state.captured_minor == 500


def test_what_the_provider_has_never_seen_is_asked_for_again_under_the_same_key() -> None:
    story = paid(tender("t1", CARD, 1_000), lines=[line("a", 1, 1_000)])
    story.handed_over("S1", a=1)
    [capture] = story.waiting()
    story.submit(capture.id)
    story.tell(LoseSight(capture.id))
    [reconciled] = story.tell(Conclude(capture.id, None))
    assert isinstance(reconciled, p.PaymentOperationReconciled) and reconciled.outcome == "never_seen"
    assert [o.id for o in story.waiting()] == [capture.id]
    # The first request arrived there after all, and its notice comes before the second try.
    assert types(story.answer(capture.id)) == ["payment.captured"]
    assert story.submit(capture.id) == []


def test_an_operation_whose_worker_died_is_asked_after() -> None:
    story = paid(tender("t1", CARD, 1_000), lines=[line("a", 1, 1_000)])
    story.handed_over("S1", a=1)
    [capture] = story.waiting()
    story.submit(capture.id)
    facts = story.tell(Conclude(capture.id, None))
    assert types(facts) == ["payment.operation_unknown", "payment.operation_reconciled"]


@pytest.mark.parametrize("first", ["answer", "notice"])
def test_whoever_knows_first_concludes_and_the_other_is_a_repeat(first: str) -> None:
    story = paid(tender("t1", CARD, 1_000), lines=[line("a", 1, 1_000)])
    story.handed_over("S1", a=1)
    [capture] = story.waiting()
    story.submit(capture.id)
    if first == "notice":
        story.tell(LoseSight(capture.id))
    assert types(story.answer(capture.id))[-1] == "payment.captured"
    assert story.answer(capture.id) == []
    assert story.tell(LoseSight(capture.id)) == []
    assert story.state.captured_minor == 1_000


def test_another_amount_is_an_anomaly_and_no_update_and_told_once() -> None:
    story = paid(tender("t1", CARD, 1_000), lines=[line("a", 1, 1_000)])
    story.handed_over("S1", a=1)
    [capture] = story.waiting()
    story.submit(capture.id)
    [anomaly] = story.answer(capture.id, amount=999)
    assert isinstance(anomaly, p.PaymentAnomalyDetected)
    assert (anomaly.expected_minor, anomaly.observed_minor) == (1_000, 999)
    assert story.answer(capture.id, amount=999) == []
    assert story.state.captured_minor == 0
    assert story.state.operations[capture.id].status is OperationStatus.SUBMITTED


def test_a_capture_said_to_have_failed_that_succeeded_is_put_right() -> None:
    story = paid(tender("t1", CARD, 1_000), lines=[line("a", 1, 1_000)])
    story.handed_over("S1", a=1)
    [capture] = story.waiting()
    story.submit(capture.id)
    story.answer(capture.id, Result.FAILED, code="issuer_down")
    assert types(story.answer(capture.id)) == ["payment.captured"]
    assert story.state.captured_minor == 1_000


def test_a_success_taken_back_contradicts_the_books_and_changes_nothing() -> None:
    story = shipped_card()
    capture = next(o for o in story.state.operations.values() if o.kind is p.OperationKind.CAPTURE)
    assert types(story.answer(capture.id, Result.FAILED, code="late")) == ["payment.anomaly_detected"]
    assert story.answer(capture.id, Result.FAILED, code="late") == []
    assert story.state.captured_minor == 10_000


def test_an_operation_nobody_asked_for_is_invalid() -> None:
    story = shipped_card()
    with pytest.raises(Invalid, match="operation_key"):
        story.tell(Submit("o1-P99"))


# Expiry


def expiring(days: float = 30) -> Story:
    story = Story()
    story.tell(opening([line("a", 2, 1_000)], [tender("t1", CARD, 1_000)]))
    story.submit("o1-P1")
    story.answer("o1-P1", expires_at=NOON + timedelta(days=days))
    return story


def test_an_authorization_that_runs_out_is_asked_for_again() -> None:
    story = expiring()
    assert deadlines(story.state) == {"expiry:t1": NOON + timedelta(days=30)}
    story.handed_over("S1", a=1)
    story.all_succeed()
    facts = story.tell(ExpireAuthorization("t1", NOON + timedelta(days=30), timedelta()))
    assert types(facts) == ["payment.authorization_expired", "payment.authorization_requested"]
    [again] = story.waiting()
    assert (again.amount_minor, again.requested_at) == (500, NOON + timedelta(days=30))
    story.submit(again.id)
    assert types(story.answer(again.id)) == ["payment.reauthorized"]
    assert tender_status(story) is TenderStatus.PARTIALLY_CAPTURED
    story.handed_over("S2", NOON + timedelta(days=40), a=1)
    story.all_succeed()
    assert story.state.captured_minor == 1_000
    # A refund goes back to both authorizations, each for what was captured on it.
    story.tell(owed(800, lines=(RefundLine(line_id="a", quantity=2, amount_minor=800),)))
    legs = [(o.authorization, o.amount_minor) for o in story.waiting()]
    assert [a for a, _ in legs] == ["ref-o1-P1", f"ref-{again.id}"]
    assert sum(n for _, n in legs) == 800


def test_an_expiry_told_long_after_it_is_part_of_a_story_in_the_past() -> None:
    story = expiring()
    assert story.tell(ExpireAuthorization("t1", NOON + timedelta(days=30), timedelta(days=3))) == []


def test_a_capture_that_comes_too_late_is_authorized_again_and_captured_then() -> None:
    story = expiring(days=1)
    story.handed_over("S1", NOON + timedelta(days=2), a=2)
    [capture] = story.waiting()
    story.submit(capture.id)
    facts = story.answer(capture.id, Result.FAILED, code="authorization_expired")
    assert types(facts) == [
        "payment.capture_failed",
        "payment.authorization_expired",
        "payment.authorization_requested",
    ]
    story.all_succeed()
    assert story.state.captured_minor == 1_000


def test_an_authorization_that_is_dead_on_arrival_is_not_asked_for_for_ever() -> None:
    story = Story()
    story.tell(opening([line("a", 1, 1_000)], [tender("t1", CARD, 1_000)]))
    story.handed_over("S1", a=1)
    for _ in range(20):
        waiting = story.waiting()
        for operation in waiting:
            story.submit(operation.id)
            if operation.kind is p.OperationKind.AUTHORIZE:
                story.answer(operation.id, expires_at=operation.requested_at)
            else:
                story.answer(operation.id, Result.FAILED, code="authorization_expired")
    assert story.waiting() == []
    assert tender_status(story) is TenderStatus.AUTHORIZATION_EXPIRED
    story.cancelled("C1")
    assert story.state.tenders["t1"].attempts == 2


def test_an_expired_authorization_that_is_not_needed_ends() -> None:
    story = Story()
    story.tell(opening([line("a", 1, 1_000)], [tender("t1", CARD, 1_000)]))
    story.submit("o1-P1")
    story.answer("o1-P1", expires_at=NOON)
    story.tell(ExpireAuthorization("t1", NOON, timedelta()))
    story.submit("o1-P2")
    story.answer("o1-P2", expires_at=NOON)
    story.tell(ExpireAuthorization("t1", NOON, timedelta()))
    assert tender_status(story) is TenderStatus.AUTHORIZATION_EXPIRED
    story.cancelled("C1", a=1)
    assert tender_status(story) is TenderStatus.EXPIRED_FINAL


# Refunds


def test_a_small_refund_is_approved_by_policy_routed_and_paid_out() -> None:
    story = shipped_card()
    facts = story.tell(refund(1_500))
    assert types(facts) == ["refund.requested", "refund.approved", "refund.routed"]
    assert story.state.refundable_minor == 8_500
    [leg] = story.waiting()
    assert (leg.id, leg.authorization) == ("o1-R1L1", "ref-o1-P1")
    story.submit(leg.id)
    assert types(story.answer(leg.id)) == ["refund.leg_succeeded", "refund.completed"]
    assert status_of(story) is RefundStatus.SUCCEEDED


def test_a_refund_above_what_is_left_is_refused_and_nothing_is_stored() -> None:
    story = shipped_card()
    story.tell(refund(6_000))
    with pytest.raises(Invalid, match=r"amount_minor.*40\.00"):
        story.tell(refund(4_001))
    story.tell(refund(4_000))
    assert story.state.refundable_minor == 0


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (refund(100, currency="USD"), "currency"),
        (refund(100, kind=RefundKind.RETURN), "kind"),
        (refund(100, kind=RefundKind.LOST), "kind"),
        (refund(0), "amount_minor"),
        (refund(1, kind=RefundKind.OVERPAID), "amount_minor"),
        (refund(1, kind=RefundKind.CANCELLATION), "amount_minor"),
        (refund(5, lines=(Asked("9", 0, 5),)), "lines.0.line_id"),
        (refund(5, lines=(Asked("a", 1, 5),)), "lines.0.quantity"),
        (refund(7, lines=(Asked("a", 0, 5),)), "amount_minor"),
        (refund(10_001, lines=(Asked("a", 0, 10_001),)), "lines.0.amount_minor"),
        (refund(10_001, kind=RefundKind.GOODWILL, lines=(Asked("a", 1, 10_001),)), "lines.0.quantity"),
    ],
)
def test_a_bad_request_names_its_field(asked: RequestRefund, field: str) -> None:
    story = shipped_card()
    with pytest.raises(Invalid) as error:
        story.tell(asked)
    assert error.value.field == field
    assert story.state.refunds == {}


def test_units_that_were_lost_are_not_refunded_by_a_persons_word() -> None:
    story = shipped_card()
    story.lost("S1", a=1)
    for lines in ((), (Asked("a", 0, 10_000),), (Asked("a", 1, 10_000),)):
        with pytest.raises(Invalid, match="stated by the return or the claim") as error:
            story.tell(refund(10_000, kind=RefundKind.LOST, lines=lines))
        assert error.value.field == "kind"
    assert story.state.refunds == {}


def test_above_the_threshold_another_person_approves_and_the_money_is_reserved_then() -> None:
    story = shipped_card(60_000)
    required = story.tell(refund(50_001))[1]
    assert isinstance(required, p.RefundApprovalRequired)
    assert required.reasons == ("above_threshold",)
    assert story.state.refundable_minor == 60_000
    with pytest.raises(NotAllowed, match="must not be who asked"):
        story.tell(ApproveRefund("o1-R1", "supervisor:anna", NOON))
    facts = story.tell(ApproveRefund("o1-R1", "supervisor:ben", NOON))
    assert types(facts) == ["refund.approved", "refund.routed"]
    assert story.state.refundable_minor == 9_999
    assert story.tell(ApproveRefund("o1-R1", "supervisor:ben", NOON)) == []


def test_an_approval_whose_money_has_gone_meanwhile_is_refused() -> None:
    story = shipped_card(60_000)
    story.tell(refund(50_001))
    story.tell(refund(20_000))
    with pytest.raises(NotAllowed, match=r"only €400\.00 is left"):
        story.tell(ApproveRefund("o1-R1", "supervisor:ben", NOON))


def test_goodwill_and_returns_by_exception_always_need_an_approval() -> None:
    story = shipped_card()
    assert story.tell(refund(100, kind=RefundKind.GOODWILL))[1].type == "refund.approval_required"
    story.tell(NoteUnits(UnitsChange.EXCEPTIONAL, "o1-RMA1", units(a=1), NOON))
    required = story.tell(owed(100))[-1]
    assert isinstance(required, p.RefundApprovalRequired) and required.reasons == ("policy_exception",)


def test_a_currency_without_a_threshold_needs_an_approval() -> None:
    policies = Policies(routing=(routing(),), approval=(approval().model_copy(update={"threshold_minor": {}}),))
    story = shipped_card(policies=policies)
    required = story.tell(refund(1))[1]
    assert isinstance(required, p.RefundApprovalRequired) and required.reasons == ("no_threshold_for_currency",)


def test_a_refund_is_cancelled_only_before_its_money_may_be_on_its_way() -> None:
    story = shipped_card()
    story.tell(refund(1_000))
    story.tell(CancelRefund("o1-R1", "asked twice"))
    assert story.state.refundable_minor == 10_000
    assert story.submit("o1-R1L1") == []
    story.tell(refund(1_000))
    story.submit("o1-R2L1")
    with pytest.raises(NotAllowed, match="on its way"):
        story.tell(CancelRefund("o1-R2", "too late"))


def test_a_refund_a_return_states_is_paid_once_per_cause() -> None:
    story = shipped_card()
    story.tell(owed(900))
    assert story.tell(owed(900)) == []
    assert len(story.state.refunds) == 1


def test_a_refund_stated_while_its_capture_is_unknown_waits_for_it() -> None:
    story = paid(tender("t1", CARD, 1_000), lines=[line("a", 1, 1_000)])
    story.handed_over("S1", a=1)
    [capture] = story.waiting()
    story.submit(capture.id)
    story.tell(LoseSight(capture.id))
    facts = story.tell(owed(1_000, lines=(RefundLine(line_id="a", quantity=1, amount_minor=1_000),)))
    assert types(facts) == ["payment.units_noted", "refund.requested"]
    assert types(story.answer(capture.id))[-2:] == ["refund.approved", "refund.routed"]


def test_a_refund_stated_before_the_order_is_known_waits_for_it() -> None:
    story = Story()
    story.tell(owed(1_000, lines=(RefundLine(line_id="a", quantity=1, amount_minor=1_000),)))
    story.tell(opening([line("a", 1, 1_000)], [tender("t1", CARD, 1_000)]))
    story.all_succeed()
    assert status_of(story) is RefundStatus.REQUESTED
    story.handed_over("S1", a=1)
    story.all_succeed()
    assert status_of(story) is RefundStatus.SUCCEEDED


def test_a_refund_stated_while_its_tender_is_being_authorized_waits_and_ends_with_it() -> None:
    story = Story()
    story.handed_over("S1", a=1)
    story.tell(opening([line("a", 1, 1_000)], [tender("t1", CARD, 1_000)]))
    story.tell(owed(1_000, lines=(RefundLine(line_id="a", quantity=1, amount_minor=1_000),)))
    assert status_of(story) is RefundStatus.REQUESTED
    story.submit("o1-P1")
    facts = story.answer("o1-P1", Result.FAILED, code="insufficient_funds")
    assert types(facts) == ["payment.declined", "refund.attention_needed"]


def test_what_was_never_captured_is_not_refunded_but_shown_to_a_person() -> None:
    story = paid(tender("t1", CARD, 1_000), lines=[line("a", 1, 1_000)])
    story.handed_over("S1", a=1)
    [capture] = story.waiting()
    story.submit(capture.id)
    story.answer(capture.id, Result.FAILED, code="card_declined")
    facts = story.tell(owed(1_000, lines=(RefundLine(line_id="a", quantity=1, amount_minor=1_000),)))
    assert isinstance(facts[-1], p.RefundAttentionNeeded) and facts[-1].reason_code == "not_captured"
    story.tell(RetryCaptures(NOON))
    story.all_succeed()
    story.tell(RerouteRefund("o1-R1", RefundChannel.ORIGINAL, NOON))
    story.all_succeed()
    assert status_of(story) is RefundStatus.SUCCEEDED


def test_a_unit_refunded_as_lost_is_not_refunded_again_as_returned() -> None:
    story = shipped_card()
    story.lost("S1", a=1)
    one = (RefundLine(line_id="a", quantity=1, amount_minor=4_000),)
    claimed(story, "o1-CL1", 1, ReturnReason.NOT_RECEIVED)
    story.tell(owed(4_000, "o1-CL1-D1", return_id="o1-CL1", lines=one))
    facts = story.tell(owed(4_000, "o1-RMA1-D1", lines=one))
    assert isinstance(facts[-1], p.RefundAttentionNeeded) and facts[-1].reason_code == "units_refunded_already"


def test_a_refund_of_nothing_is_complete_at_once() -> None:
    story = shipped_card()
    assert types(story.tell(owed(0)))[-1] == "refund.completed"
    assert story.waiting() == []


# Routing


def legs_of(story: Story, amount: int = 5_000, **more: Any) -> list[tuple[str, str, int]]:
    story.tell(owed(amount, **more))
    return [(o.tender_id, str(o.channel), o.amount_minor) for o in story.waiting()]


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        (Strategy.PRO_RATA, [("t1", "original", 2_000), ("t2", "original", 3_000)]),
        (Strategy.STORE_CREDIT_FIRST, [("t1", "original", 4_000), ("t2", "original", 1_000)]),
        (Strategy.CARD_FIRST, [("t2", "original", 5_000)]),
        (Strategy.LAST_PAID_FIRST, [("t2", "original", 5_000)]),
    ],
)
def test_the_strategy_says_which_tender_gives(strategy: Strategy, expected: list[tuple[str, str, int]]) -> None:
    story = paid(
        tender("t1", GIFT, 4_000),
        tender("t2", CARD, 6_000),
        lines=[line("a", 2, 10_000)],
        policies=Policies(routing=(routing(strategy),), approval=(approval(),)),
    )
    story.handed_over("S1", NOON + timedelta(days=1), a=2)
    story.all_succeed()
    assert legs_of(story) == expected


def test_the_routing_in_force_at_purchase_binds() -> None:
    newer = routing(Strategy.CARD_FIRST, version=2, since=NOON + timedelta(days=1))
    story = shipped_two(policies=Policies(routing=(routing(), newer), approval=(approval(),)))
    story.tell(owed(5_000, at=NOON + timedelta(days=9)))
    routed = next(f for f in story.facts if isinstance(f, p.RefundRouted))
    assert routed.policy.version == 1
    assert [leg.amount_minor for leg in routed.legs] == [2_000, 3_000]


def test_promises_are_kept_from_the_trigger_by_the_slowest_channel() -> None:
    story = shipped_two()
    trigger = NOON + timedelta(days=3)
    story.tell(owed(5_000, trigger_at=trigger, at=NOON + timedelta(days=4)))
    routed = next(f for f in story.facts if isinstance(f, p.RefundRouted))
    assert [leg.promised_at - trigger for leg in routed.legs] == [timedelta(days=1), timedelta(days=7)]
    assert routed.promised_at == trigger + timedelta(days=7)
    assert routed.requested_at == NOON + timedelta(days=4)


@pytest.mark.parametrize(("days", "channel"), [(180, "original"), (181, None)])
def test_a_card_older_than_its_schemes_limit_takes_no_refund(days: int, channel: str | None) -> None:
    story = shipped_card()
    facts = story.tell(owed(500, at=NOON + timedelta(days=days)))
    if channel is None:
        assert isinstance(facts[-1], p.RefundAttentionNeeded) and facts[-1].reason_code == "no_channel_with_consent"
        assert story.state.refundable_minor == 10_000
    else:
        assert [str(o.channel) for o in story.waiting()] == [channel]


def test_an_old_card_falls_back_to_what_the_customer_agreed_to() -> None:
    story = shipped_card()
    late = NOON + timedelta(days=200)
    story.tell(refund(500, at=late, consents=(RefundChannel.STORE_CREDIT,)))
    [leg] = story.waiting()
    assert (leg.channel, leg.tender_id, leg.authorization) == (RefundChannel.STORE_CREDIT, "t1", None)
    story.all_succeed()
    [credit] = [f for f in story.facts if isinstance(f, p.StoreCreditIssued)]
    assert (credit.credit_id, credit.amount_minor, credit.customer_id) == ("o1-R1L1", 500, "c1")


def test_a_customer_who_wants_store_credit_gets_it_from_every_tender() -> None:
    story = shipped_two()
    assert legs_of(story, channel=RefundChannel.STORE_CREDIT) == [
        ("t1", "store_credit", 2_000),
        ("t2", "store_credit", 3_000),
    ]


def test_cash_paid_at_the_door_goes_by_bank_once_a_person_has_the_customers_word() -> None:
    story = paid(tender("t1", TenderKind.CASH_ON_DELIVERY, 1_000), lines=[line("a", 1, 1_000)])
    story.handed_over("S1", a=1)
    story.tell(owed(400))
    assert status_of(story) is RefundStatus.ATTENTION
    story.tell(RerouteRefund("o1-R1", RefundChannel.BANK_TRANSFER, NOON))
    assert [(o.channel, o.amount_minor) for o in story.waiting()] == [(RefundChannel.BANK_TRANSFER, 400)]
    story.all_succeed()
    assert status_of(story) is RefundStatus.SUCCEEDED


def test_store_credit_that_pays_an_order_is_spent_and_given_back_as_credit() -> None:
    story = paid(tender("t1", TenderKind.STORE_CREDIT, 1_000), lines=[line("a", 1, 1_000)])
    assert [f.amount_minor for f in story.facts if isinstance(f, p.StoreCreditSpent)] == [1_000]
    story.handed_over("S1", a=1)
    story.tell(owed(400))
    story.all_succeed()
    assert [f.amount_minor for f in story.facts if isinstance(f, p.StoreCreditIssued)] == [400]


# Failures, fallbacks, reversals


def test_a_leg_that_fails_goes_down_the_fallback_list_and_then_to_a_person() -> None:
    story = shipped_card()
    story.tell(refund(500, consents=(RefundChannel.BANK_TRANSFER,)))
    story.submit("o1-R1L1")
    facts = story.answer("o1-R1L1", Result.FAILED, code="account_closed")
    assert types(facts) == ["refund.leg_failed", "refund.routed"]
    story.submit("o1-R1L2")
    facts = story.answer("o1-R1L2", Result.FAILED, code="iban_unknown")
    assert types(facts) == ["refund.leg_failed", "refund.attention_needed"]
    assert status_of(story) is RefundStatus.FAILED
    assert story.state.refundable_minor == 10_000


def test_a_refund_paid_in_part_says_what_failed_and_is_finished_another_way() -> None:
    story = shipped_two()
    story.tell(owed(5_000))
    story.submit("o1-R1L1")
    story.submit("o1-R1L2")
    story.answer("o1-R1L1")
    [_, partly] = story.answer("o1-R1L2", Result.FAILED, code="account_closed")
    assert isinstance(partly, p.RefundPartiallyCompleted)
    assert (partly.succeeded_minor, partly.failed_minor) == (2_000, 3_000)
    story.tell(RerouteRefund("o1-R1", RefundChannel.BANK_TRANSFER, NOON))
    story.all_succeed()
    assert status_of(story) is RefundStatus.SUCCEEDED
    assert story.state.refunded_minor() == 5_000


def test_money_the_provider_says_was_not_captured_is_not_paid_by_another_channel() -> None:
    story = shipped_card()
    story.tell(refund(500, consents=(RefundChannel.BANK_TRANSFER,)))
    story.submit("o1-R1L1")
    facts = story.answer("o1-R1L1", Result.FAILED, code="exceeds_captured")
    assert types(facts) == ["payment.anomaly_detected", "refund.leg_failed", "refund.attention_needed"]


def test_a_refund_that_bounces_days_later_is_reversed_and_its_balance_is_free_again() -> None:
    story = shipped_card()
    story.tell(refund(500))
    story.all_succeed()
    facts = story.answer("o1-R1L1", Result.REVERSED, code="returned_by_bank", at=NOON + timedelta(days=3))
    assert types(facts) == ["refund.leg_reversed", "refund.attention_needed"]
    assert story.state.refundable_minor == 10_000
    assert story.answer("o1-R1L1", Result.REVERSED, code="returned_by_bank") == []
    assert story.answer("o1-R1L1") == []
    story.tell(RerouteRefund("o1-R1", RefundChannel.BANK_TRANSFER, NOON))
    story.all_succeed()
    assert status_of(story) is RefundStatus.SUCCEEDED


def test_a_bounce_goes_by_the_next_channel_the_customer_agreed_to() -> None:
    story = shipped_card()
    story.tell(refund(500, consents=(RefundChannel.STORE_CREDIT,)))
    story.all_succeed()
    facts = story.answer("o1-R1L1", Result.REVERSED, code="returned_by_bank")
    assert types(facts) == ["refund.leg_reversed", "refund.routed"]
    story.all_succeed()
    facts = story.answer("o1-R1L2", Result.REVERSED, code="account_frozen")
    assert types(facts) == ["refund.leg_reversed", "store_credit.clawed_back", "refund.attention_needed"]


def test_a_bounce_told_before_its_success_comes_to_the_same() -> None:
    story = shipped_card()
    story.tell(refund(500))
    story.submit("o1-R1L1")
    facts = story.answer("o1-R1L1", Result.REVERSED, code="returned_by_bank")
    assert types(facts) == [
        "refund.leg_succeeded",
        "refund.completed",
        "refund.leg_reversed",
        "refund.attention_needed",
    ]


def test_a_pending_refund_is_in_flight_until_its_notice() -> None:
    story = shipped_card()
    story.tell(refund(500))
    story.submit("o1-R1L1")
    assert story.answer("o1-R1L1", Result.PENDING) == []
    assert story.state.refunding_minor() == 500
    assert types(story.answer("o1-R1L1"))[-1] == "refund.completed"


def test_a_leg_that_failed_and_was_paid_otherwise_cannot_succeed_after_all() -> None:
    story = shipped_card()
    story.tell(refund(500, consents=(RefundChannel.BANK_TRANSFER,)))
    story.submit("o1-R1L1")
    story.answer("o1-R1L1", Result.FAILED, code="account_closed")
    assert types(story.answer("o1-R1L1")) == ["payment.anomaly_detected"]
    assert story.state.refunding_minor() + story.state.refunded_minor() == 500


def test_a_leg_that_failed_and_was_not_paid_otherwise_is_put_right() -> None:
    story = shipped_card()
    story.tell(refund(500))
    story.submit("o1-R1L1")
    story.answer("o1-R1L1", Result.FAILED, code="account_closed")
    assert types(story.answer("o1-R1L1")) == ["refund.leg_succeeded", "refund.completed"]


# Disputes


def disputed(story: Story, change: Any, amount: int, id: str = "d1") -> list[Any]:
    return story.tell(Dispute("ref-o1-P1", id, change, amount, NOON))


def test_an_open_dispute_blocks_refunds_to_its_tender() -> None:
    story = shipped_card()
    disputed(story, "opened", 9_000)
    assert story.state.tenders["t1"].dispute is DisputeStatus.OPEN
    with pytest.raises(NotAllowed, match="dispute"):
        story.tell(refund(500))
    assert types(story.tell(owed(500)))[-1] == "refund.attention_needed"
    disputed(story, "won", 9_000)
    assert types(story.tell(refund(500)))[-1] == "refund.routed"


def test_a_lost_dispute_keeps_its_money() -> None:
    story = shipped_card()
    disputed(story, "opened", 9_000)
    disputed(story, "lost", 9_000)
    assert disputed(story, "lost", 9_000) == []
    assert story.state.held_minor(story.state.tenders["t1"]) == 9_000
    assert story.state.refundable_minor == 0


def test_a_dispute_drives_refunds_that_were_not_sent_to_the_other_tenders() -> None:
    story = shipped_two()
    story.tell(owed(3_000))
    [gift, _] = story.waiting()
    facts = disputed(story, "opened", 4_000)
    assert types(facts)[:3] == ["dispute.opened", "refund.leg_failed", "refund.routed"]
    assert story.state.operations[gift.id].status is OperationStatus.FAILED
    assert [(o.tender_id, o.amount_minor) for o in story.waiting()] == [("t2", 1_800), ("t2", 1_200)]
    story.all_succeed()
    assert status_of(story) is RefundStatus.SUCCEEDED


def test_a_dispute_about_money_that_was_refunded_is_an_anomaly_and_breaks_no_law() -> None:
    story = shipped_card()
    story.tell(refund(8_000))
    story.all_succeed()
    assert types(disputed(story, "opened", 10_000)) == ["dispute.opened", "payment.anomaly_detected"]
    assert story.state.held_minor(story.state.tenders["t1"]) == 2_000


def test_the_end_of_a_dispute_told_before_its_opening_comes_to_the_same() -> None:
    story = shipped_card()
    assert types(disputed(story, "won", 500)) == ["dispute.opened", "dispute.won"]
    assert disputed(story, "opened", 500) == []
    assert types(disputed(story, "opened", 500, id="d2")) == ["payment.anomaly_detected"]


def test_a_dispute_of_nothing_we_authorized_is_invalid() -> None:
    with pytest.raises(Invalid, match="authorization_id"):
        shipped_card().tell(Dispute("elsewhere", "d1", "opened", 1, NOON))


# Preview, state, reconciliation


def test_a_preview_says_what_would_be_and_takes_an_approval_as_given() -> None:
    story = shipped_card(60_000)
    before = story.state
    facts = preview(story.state, refund(55_000), story.policies)
    assert types(list(facts)) == [
        "refund.requested",
        "refund.approval_required",
        "refund.approved",
        "refund.routed",
    ]
    assert story.state is before


def test_the_state_is_the_fold_of_its_facts_and_survives_json() -> None:
    story = shipped_two()
    story.tell(owed(5_000))
    story.submit("o1-R1L1")
    story.tell(LoseSight("o1-R1L1"))
    disputed(story, "opened", 100)
    folded = Account("o1")
    for fact in story.facts:
        folded = evolve(folded, fact)
    assert folded == story.state
    assert STATE.validate_json(STATE.dump_json(story.state)) == story.state
    assert laws(folded) == []


def test_a_law_that_is_broken_is_named() -> None:
    story = shipped_card()
    story.tell(refund(10_000))
    leg = story.state.operations["o1-R1L1"]
    operations = {**story.state.operations, "o1-R1L2": leg.__class__(**{**_fields(leg), "id": "o1-R1L2"})}
    broken = laws(story.state.__class__(**{**_fields(story.state), "operations": operations}))
    assert [b[:2] for b in broken] == ["I6", "I7"]


def _fields(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


def test_the_books_are_compared_operation_by_operation() -> None:
    def ours(id: str, status: str, amount: int = 100) -> Booked:
        return Booked(id, "o1", "capture", status, amount, None)

    def theirs(id: str, result: Result, amount: int = 100) -> BookedThere:
        return BookedThere(id, "o1", result, amount)

    drift = compare(
        [
            ours("same", "succeeded"),
            ours("withdrawn", "failed"),
            ours("under-way", "unknown"),
            ours("bounced", "reversed"),
            ours("gone", "succeeded"),
            ours("less", "succeeded"),
            ours("unheard", "failed"),
        ],
        [
            theirs("same", Result.SUCCEEDED),
            theirs("under-way", Result.SUCCEEDED),
            theirs("bounced", Result.REVERSED),
            theirs("less", Result.SUCCEEDED, 99),
            theirs("unheard", Result.SUCCEEDED),
            theirs("stray", Result.SUCCEEDED),
        ],
    )
    assert {d.operation_id: d.difference for d in drift} == {
        "gone": Difference.UNKNOWN_THERE,
        "less": Difference.AMOUNT,
        "unheard": Difference.STATUS,
        "stray": Difference.UNKNOWN_HERE,
    }


def test_before_any_version_was_in_force_the_first_one_counts() -> None:
    late = routing(Strategy.CARD_FIRST, version=1, since=NOON + timedelta(days=5))
    newer = routing(Strategy.PRO_RATA, version=2, since=NOON + timedelta(days=6))
    story = shipped_two(policies=Policies(routing=(late, newer), approval=(approval(since=EPOCH),)))
    assert legs_of(story) == [("t2", "original", 5_000)]


class TestChargeForAnExchange:
    """What an exchange costs more is charged beside the order, to a tender of it."""

    OWED = OweCharge("X1", "RMA1", 400, "EUR", NOON + timedelta(days=20))

    def shipped(self, *tenders: TenderSpec) -> Story:
        story = paid(*tenders, lines=[line("mug", 1, 1000)])
        story.handed_over("s1", mug=1)
        story.all_succeed()
        return story

    def card(self) -> Story:
        return self.shipped(tender("t1", CARD, 1000))

    def status(self, story: Story) -> ChargeStatus:
        return story.state.charges["X1"].status

    def test_it_is_authorized_and_captured_whole_on_a_tender_of_its_own(self) -> None:
        story = self.card()
        requested, asked = story.tell(self.OWED)
        assert isinstance(requested, p.PaymentChargeRequested) and isinstance(asked, p.PaymentAuthorizationRequested)
        assert (asked.exchange_id, asked.tender_id, asked.charged_tender_id) == ("X1", "X1-C1", "t1")
        assert (asked.amount_minor, asked.reasons, story.state.tenders["X1-C1"].token) == (
            400,
            ("first_chargeable",),
            "tok_ok",
        )
        story.all_succeed()
        captured = story.facts[-1]
        assert isinstance(captured, p.PaymentCaptured)
        assert (captured.exchange_id, captured.amount_minor, captured.shipment_id) == ("X1", 400, None)
        assert self.status(story) is ChargeStatus.CAPTURED
        assert (story.state.captured_minor, story.state.order_captured_minor) == (1400, 1000)
        assert story.tell(self.OWED) == []

    def test_it_counts_for_nothing_that_is_captured_or_given_back_for_the_order(self) -> None:
        story = paid(tender("t1", CARD, 2000), lines=[line("mug", 2, 2000)])
        story.handed_over("s1", mug=1)
        story.tell(self.OWED)
        story.all_succeed()
        story.handed_over("s2", mug=1)
        story.all_succeed()
        assert (story.state.order_captured_minor, story.state.excess_minor(with_dead=False)) == (2000, 0)

    def test_it_is_chosen_among_the_tenders_that_can_be_charged_again(self) -> None:
        story = self.shipped(
            tender("t1", GIFT, 100),
            tender("t2", TenderKind.CASH_ON_DELIVERY, 100),
            tender("t3", CARD, 400),
            tender("t4", TenderKind.WALLET, 400),
        )
        disputed = next(a.reference for a in story.state.tenders["t3"].authorizations)
        story.tell(Dispute(disputed, "d1", "opened", 400, NOON))
        [_, asked] = story.tell(self.OWED)
        assert isinstance(asked, p.PaymentAuthorizationRequested)
        assert (asked.charged_tender_id, asked.tender_kind) == ("t4", TenderKind.WALLET)
        assert [(e.tender_id, e.reason) for e in asked.excluded] == [
            ("t1", "kind_not_chargeable"),
            ("t2", "kind_not_chargeable"),
            ("t3", "disputed"),
        ]

    def test_where_no_tender_can_be_charged_it_fails_and_is_told(self) -> None:
        story = self.shipped(tender("t1", GIFT, 1000))
        failed = story.tell(self.OWED)[-1]
        assert isinstance(failed, p.PaymentChargeFailed) and failed.code == "no_chargeable_tender"
        assert self.status(story) is ChargeStatus.FAILED

    def test_declined_it_is_told_and_asked_again_by_a_person_of_the_next_tender(self) -> None:
        story = self.shipped(tender("t1", CARD, 600), tender("t2", TenderKind.WALLET, 400))
        with pytest.raises(Invalid):
            story.tell(RetryCharge("X1", NOON))
        story.tell(self.OWED)
        [asked] = story.waiting()
        story.submit(asked.id)
        facts = story.answer(asked.id, Result.FAILED, code="insufficient_funds")
        assert [f.type for f in facts] == ["payment.declined", "payment.charge_failed"]
        again = story.tell(RetryCharge("X1", NOON))[-1]
        assert isinstance(again, p.PaymentAuthorizationRequested)
        assert (again.tender_id, again.charged_tender_id, again.reasons) == ("X1-C2", "t2", ("asked_less_often",))
        with pytest.raises(NotAllowed):
            story.tell(RetryCharge("X1", NOON))
        story.all_succeed()
        assert self.status(story) is ChargeStatus.CAPTURED

    def test_a_capture_that_fails_releases_what_was_authorized(self) -> None:
        story = self.card()
        story.tell(self.OWED)
        [asked] = story.waiting()
        story.submit(asked.id)
        story.answer(asked.id)
        [capture] = story.waiting()
        story.submit(capture.id)
        facts = story.answer(capture.id, Result.FAILED, code="card_declined")
        assert [f.type for f in facts] == [
            "payment.capture_failed",
            "payment.charge_failed",
            "payment.void_requested",
        ]
        story.all_succeed()
        assert story.state.tenders["X1-C1"].status is TenderStatus.VOIDED

    def test_an_unknown_capture_is_neither_captured_nor_failed_until_it_is_found(self) -> None:
        story = self.card()
        story.tell(self.OWED)
        [asked] = story.waiting()
        story.submit(asked.id)
        story.answer(asked.id)
        [capture] = story.waiting()
        story.submit(capture.id)
        story.tell(LoseSight(capture.id))
        assert self.status(story) is ChargeStatus.REQUESTED and not story.waiting()
        facts = story.answer(capture.id)
        assert [f.type for f in facts] == ["payment.operation_reconciled", "payment.captured"]

    def test_dropped_before_it_is_captured_its_authorization_is_released(self) -> None:
        story = self.card()
        story.tell(self.OWED)
        [asked] = story.waiting()
        story.submit(asked.id)
        assert [f.type for f in story.tell(DropCharge("X1", NOON))] == ["payment.charge_dropped"]
        facts = story.answer(asked.id)
        assert [f.type for f in facts] == ["payment.authorized", "payment.void_requested"]
        assert story.tell(DropCharge("X1", NOON)) == []

    def test_it_may_be_owed_before_the_order_is_known(self) -> None:
        story = Story()
        story.tell(self.OWED)
        facts = story.tell(opening([line("mug", 1, 1000)], [tender("t1", CARD, 1000)]))
        assert facts[-1].type == "payment.charge_failed", "no tender has been authorized yet"

    def test_what_was_charged_is_refunded_to_where_it_came_from(self) -> None:
        story = self.card()
        story.tell(self.OWED)
        story.all_succeed()
        owed = OweRefund(
            kind=RefundKind.RETURN,
            cause_id="d1",
            return_id="RMA2",
            lines=(RefundLine(line_id="mug", quantity=1, amount_minor=1400),),
            amount_minor=1400,
            currency="EUR",
            trigger_at=NOON,
            channel=RefundChannel.ORIGINAL,
            requester="service:returns",
            at=NOON + timedelta(days=30),
        )
        story.tell(owed)
        story.all_succeed()
        legs = {(leg.tender_id, leg.authorization): leg.amount_minor for leg in story.state.legs()}
        assert legs == {("t1", "ref-o1-P1"): 1000, ("X1-C1", "ref-o1-P3"): 400}
