"""Payments: what is authorized and released, answers that do not come, and the books, told as stories of the business."""

from datetime import timedelta
from typing import Any

import pytest

from payments.domain.charge import CHARGE
from payments.domain.decide import CancelRest, ExpireAuthorization, MarkUnknown, RecordOutcome, Submit, deadlines
from payments.domain.operation import OPERATION, OperationStatus, Result
from payments.domain.payout import Policies, preview
from payments.domain.refund import REFUND
from payments.domain.routing import Strategy
from payments.domain.state import Account, evolve, invariants
from payments.domain.tender import DISPUTE, TENDER, TenderStatus
from payments.gateway import DisputedThere, ProviderRecord, TheirBooks
from payments.reconciliation import Difference, compare
from payments.store import STATE, Booked, BookedDispute, OurBooks
from shared.contracts import payments as p
from shared.contracts.base import TenderKind
from shared.contracts.payments import OperationKind, RefundLine
from shared.core.machine import Invalid, Machine
from tests.unit.payments_story import (
    CARD,
    EPOCH,
    GIFT,
    NOON,
    Story,
    approval,
    disputed,
    legs_of,
    line,
    opening,
    owed,
    paid,
    refund,
    routing,
    shipped_card,
    shipped_two,
    tender,
    tender_status,
    types,
)

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
        (DISPUTE, set()),
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


# Unknown outcomes


def test_a_call_without_an_answer_is_unknown_and_its_money_is_spoken_for() -> None:
    story = paid(tender("t1", CARD, 1_000), lines=[line("a", 2, 1_000)])
    story.handed_over("S1", a=1)
    [capture] = story.waiting()
    story.submit(capture.id)
    assert types(story.tell(MarkUnknown(capture.id))) == ["payment.operation_unknown"]
    assert story.state.capturing_minor() == 500
    assert types(story.answer(capture.id)) == ["payment.operation_reconciled", "payment.captured"]
    assert story.state.captured_minor == 500


def test_what_the_provider_has_never_seen_is_asked_for_again_under_the_same_key() -> None:
    story = paid(tender("t1", CARD, 1_000), lines=[line("a", 1, 1_000)])
    story.handed_over("S1", a=1)
    [capture] = story.waiting()
    story.submit(capture.id)
    story.tell(MarkUnknown(capture.id))
    [reconciled] = story.tell(RecordOutcome(capture.id, None))
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
    facts = story.tell(RecordOutcome(capture.id, None))
    assert types(facts) == ["payment.operation_unknown", "payment.operation_reconciled"]


@pytest.mark.parametrize("first", ["answer", "notice"])
def test_whoever_knows_first_concludes_and_the_other_is_a_repeat(first: str) -> None:
    story = paid(tender("t1", CARD, 1_000), lines=[line("a", 1, 1_000)])
    story.handed_over("S1", a=1)
    [capture] = story.waiting()
    story.submit(capture.id)
    if first == "notice":
        story.tell(MarkUnknown(capture.id))
    assert types(story.answer(capture.id))[-1] == "payment.captured"
    assert story.answer(capture.id) == []
    assert story.tell(MarkUnknown(capture.id)) == []
    assert story.state.captured_minor == 1_000


def capturing() -> tuple[Story, str]:
    """One line of 1000, handed over; its capture was sent."""
    story = paid(tender("t1", CARD, 1_000), lines=[line("a", 1, 1_000)])
    story.handed_over("S1", a=1)
    [capture] = story.waiting()
    story.submit(capture.id)
    return story, capture.id


def test_a_capture_of_less_than_was_asked_for_is_booked_as_what_it_took_and_a_person_looks_at_it() -> None:
    story, id = capturing()
    [anomaly, taken] = story.answer(id, amount=999)
    assert isinstance(anomaly, p.PaymentAnomalyDetected)
    assert (anomaly.expected_minor, anomaly.observed_minor) == (1_000, 999)
    assert isinstance(taken, p.PaymentCaptured)
    assert (taken.amount_minor, taken.order_captured_minor) == (999, 999)
    assert story.answer(id, amount=999) == []
    assert story.state.captured_minor == story.state.refundable_minor == 999
    assert story.state.operations[id].status is OperationStatus.SUCCEEDED


def test_what_a_capture_took_less_is_drawn_again() -> None:
    story = paid(tender("t1", CARD, 2_000), lines=[line("a", 2, 2_000)])
    story.handed_over("S1", a=1)
    [capture] = story.waiting()
    story.submit(capture.id)
    assert types(story.answer(capture.id, amount=400))[1:] == ["payment.captured", "payment.capture_requested"]
    story.all_succeed()
    assert story.state.captured_minor == 1_000


@pytest.mark.parametrize("first", ["answered as asked", "unheard"])
def test_a_capture_of_more_than_was_asked_for_is_booked_and_given_back(first: str) -> None:
    story, id = capturing()
    if first == "answered as asked":
        story.answer(id)
    facts = story.answer(id, amount=1_200)
    moved = next(f for f in facts if isinstance(f, p.PaymentMovementRecorded))
    assert (moved.kind, moved.amount_minor, moved.operation_id) == (p.MovementKind.CAPTURE, 200, id)
    assert (moved.contradicts, moved.tender_captured_minor) == ("other_amount", 1_200)
    assert story.answer(id, amount=1_200) == []
    story.all_succeed()
    assert (story.state.captured_minor, story.state.refunded_minor()) == (1_200, 200)


def test_an_authorization_of_another_amount_is_what_can_be_captured() -> None:
    story = Story()
    story.tell(opening([line("a", 1, 1_000)], [tender("t1", CARD, 1_000)]))
    story.submit("o1-P1")
    facts = story.answer("o1-P1", amount=600, expires_at=NOON + timedelta(days=30))
    assert types(facts) == ["payment.anomaly_detected", "payment.authorized"]
    story.handed_over("S1", a=1)
    story.all_succeed()
    assert story.state.captured_minor == 600


def test_what_failed_has_failed_whatever_amount_it_is_said_to_be_of() -> None:
    story, id = capturing()
    facts = story.answer(id, Result.FAILED, amount=0, code="card_declined")
    assert types(facts) == ["payment.anomaly_detected", "payment.capture_failed"]
    assert story.answer(id, Result.FAILED, amount=0, code="card_declined") == []


def test_a_success_of_nothing_moved_nothing_and_is_looked_at_by_a_person() -> None:
    story, id = capturing()
    assert types(story.answer(id, amount=0)) == ["payment.anomaly_detected"]
    assert story.answer(id, amount=0) == []
    assert story.state.operations[id].is_in_flight


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
    story.handed_over("S1", NOON + timedelta(hours=23), a=2)
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
    story.tell(MarkUnknown("o1-R1L1"))
    disputed(story, "opened", 100)
    folded = Account("o1")
    for fact in story.facts:
        folded = evolve(folded, fact)
    assert folded == story.state
    assert STATE.validate_json(STATE.dump_json(story.state)) == story.state
    assert invariants(folded) == []


def test_a_law_that_is_broken_is_named() -> None:
    story = shipped_card()
    story.tell(refund(10_000))
    leg = story.state.operations["o1-R1L1"]
    operations = {**story.state.operations, "o1-R1L2": leg.__class__(**{**_fields(leg), "id": "o1-R1L2"})}
    broken = invariants(story.state.__class__(**{**_fields(story.state), "operations": operations}))
    assert [b[:2] for b in broken] == ["I6", "I7"]


def _fields(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


def test_the_books_are_compared_operation_by_operation() -> None:
    def ours(id: str, status: str, kind: OperationKind = OperationKind.CAPTURE) -> Booked:
        return Booked(id, "o1", kind, status, 100, None)

    def theirs(id: str, result: Result, amount: int = 100) -> ProviderRecord:
        return ProviderRecord(id, "o1", result, amount, OperationKind.CAPTURE, f"ref-{id}", None, NOON)

    here = OurBooks(
        [
            ours("same", "succeeded"),
            ours("withdrawn", "failed"),
            ours("under-way", "unknown"),
            ours("bounced", "reversed"),
            ours("gone", "succeeded"),
            ours("less", "succeeded"),
            ours("unheard", "failed"),
            ours("late", "failed"),
            ours("refused", "failed"),
            ours("released", "succeeded", OperationKind.VOID),
        ],
        [BookedDispute("d1", "o1", "open", 100), BookedDispute("d2", "o1", "lost", 60)],
        frozenset({"ref-late", "ref-by-hand"}),
    )
    there = TheirBooks(
        [
            theirs("same", Result.SUCCEEDED),
            theirs("under-way", Result.SUCCEEDED),
            theirs("bounced", Result.REVERSED),
            theirs("less", Result.SUCCEEDED, 99),
            theirs("unheard", Result.SUCCEEDED),
            theirs("stray", Result.SUCCEEDED),
            theirs("declined", Result.FAILED),
            theirs("late", Result.SUCCEEDED),
            theirs("refused", Result.FAILED, 99),  # nothing moved
            theirs("released", Result.SUCCEEDED, 99),  # whatever was left of it
            theirs("by-hand", Result.SUCCEEDED),
        ],
        [
            DisputedThere("d1", "o1", "won", 100, "a1", NOON),
            DisputedThere("d2", "o1", "lost", 60, "a1", NOON),
            DisputedThere("d3", "o1", "opened", 5, "a1", NOON),
        ],
    )
    assert {d.operation_id: d.difference for d in compare(here, there)} == {
        "gone": Difference.UNKNOWN_THERE,
        "less": Difference.AMOUNT,
        "unheard": Difference.STATUS,
        "stray": Difference.UNKNOWN_HERE,
        "d1": Difference.DISPUTE,
        "d3": Difference.DISPUTE,
    }


def test_before_any_version_was_in_force_the_first_one_counts() -> None:
    late = routing(Strategy.CARD_FIRST, version=1, since=NOON + timedelta(days=5))
    newer = routing(Strategy.PRO_RATA, version=2, since=NOON + timedelta(days=6))
    story = shipped_two(policies=Policies(routing=(late, newer), approval=(approval(since=EPOCH),)))
    assert legs_of(story) == [("t2", "original", 5_000)]
