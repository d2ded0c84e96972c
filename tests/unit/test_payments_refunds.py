"""Payments: what is given back, by which way, and what bounces or is disputed, told as stories of the business."""

from datetime import timedelta

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from payments.domain.decide import Confirm, Dispute, MarkUnknown, RecordMovement, RecordUnitsChange, RetryCaptures
from payments.domain.operation import OperationStatus, Result
from payments.domain.payout import (
    ApproveRefund,
    Asked,
    CancelRefund,
    Policies,
    RejectRefund,
    RequestRefund,
    RerouteRefund,
)
from payments.domain.refund import RefundStatus
from payments.domain.routing import Strategy
from payments.domain.tender import DisputeStatus
from shared.contracts import payments as p
from shared.contracts.base import TenderKind
from shared.contracts.payments import RefundChannel, RefundKind, RefundLine, UnitsChange
from shared.contracts.returns import ReturnReason
from shared.core.machine import Invalid, NotAllowed
from shared.core.money import cumulative
from tests.unit.payments_story import (
    ACCOUNT,
    CARD,
    GIFT,
    NOON,
    Story,
    approval,
    claimed,
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
    types,
    units,
)


def status_of(story: Story, refund_id: str = "o1-R1") -> RefundStatus:
    return story.state.refunds[refund_id].status


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


def test_a_refund_whose_money_has_gone_while_it_waited_for_its_approval_is_refused_at_once() -> None:
    story = shipped_card(60_000)
    story.tell(refund(50_001))
    facts = story.tell(owed(20_000))
    assert types(facts) == ["refund.requested", "refund.approved", "refund.routed", "refund.rejected"]
    assert isinstance(facts[-1], p.RefundRejected) and facts[-1].reason_code == "exceeds_left"
    with pytest.raises(NotAllowed, match="rejected"):
        story.tell(ApproveRefund("o1-R1", "supervisor:ben", NOON))


def test_of_fifty_requests_at_once_those_above_what_is_left_are_refused_at_once() -> None:
    story = shipped_card(60_000)
    refused = 0
    for _ in range(50):
        try:
            story.tell(refund(4_000, kind=RefundKind.GOODWILL))
        except Invalid as error:
            assert error.field == "amount_minor" and "waits for an approval" in error.rule
            refused += 1
    assert refused == 35
    assert [r.status for r in story.state.refunds.values()] == [RefundStatus.PENDING_APPROVAL] * 15
    for id in list(story.state.refunds):
        story.tell(ApproveRefund(id, "supervisor:ben", NOON))
    assert story.state.refundable_minor == 0


def test_goodwill_and_returns_by_exception_always_need_an_approval() -> None:
    story = shipped_card()
    assert story.tell(refund(100, kind=RefundKind.GOODWILL))[1].type == "refund.approval_required"
    story.tell(RecordUnitsChange(UnitsChange.EXCEPTIONAL, "o1-RMA1", units(a=1), NOON))
    required = story.tell(owed(100))[-1]
    assert isinstance(required, p.RefundApprovalRequired) and required.reasons == ("policy_exception",)


def approving(window_days: int | None) -> Policies:
    version = approval().model_copy(update={"window_days": window_days})
    return Policies(routing=(routing(),), approval=(version,))


@pytest.mark.parametrize("second", [RefundKind.PRICE_ADJUSTMENT, RefundKind.OVERPAID])
def test_two_refunds_just_below_the_threshold_need_a_second_person_whatever_they_are_called(second: RefundKind) -> None:
    story = shipped_card(200_000, policies=approving(30))
    story.tell(RecordMovement(p.MovementKind.CAPTURE, None, "ch_2", 60_000, NOON, "charged twice"))
    story.tell(RejectRefund("o1-R1", "mistake", "let a person do it", NOON))
    assert types(story.tell(refund(49_999))) == ["refund.requested", "refund.approved", "refund.routed"]
    required = story.tell(refund(49_999, kind=second, at=NOON + timedelta(days=29)))[1]
    assert isinstance(required, p.RefundApprovalRequired) and required.reasons == ("above_threshold_together",)


def test_what_a_second_person_approved_or_is_older_than_the_window_does_not_count() -> None:
    story = shipped_card(200_000, policies=approving(30))
    story.tell(refund(50_001))
    story.tell(ApproveRefund("o1-R1", "supervisor:ben", NOON))
    assert story.tell(refund(49_999))[1].type == "refund.approved"
    assert story.tell(refund(49_999, at=NOON + timedelta(days=30)))[1].type == "refund.approved"
    assert story.tell(owed(49_999))[-1].type == "refund.routed"


def test_a_line_named_twice_is_refused_since_its_sum_would_be_checked_by_nobody() -> None:
    story = paid(tender("t1", CARD, 9_000), lines=[line("a", 1, 5_000), line("b", 1, 4_000)])
    story.handed_over("S1", a=1, b=1)
    story.all_succeed()
    with pytest.raises(Invalid, match="named twice") as error:
        story.tell(refund(6_000, lines=(Asked("a", 0, 3_000), Asked("a", 0, 3_000))))
    assert error.value.field == "lines.1.line_id"


def test_a_currency_without_a_threshold_needs_an_approval() -> None:
    policies = Policies(routing=(routing(),), approval=(approval().model_copy(update={"threshold_minor": {}}),))
    story = shipped_card(policies=policies)
    required = story.tell(refund(1))[1]
    assert isinstance(required, p.RefundApprovalRequired) and required.reasons == ("no_threshold_for_currency",)


def test_a_refund_is_cancelled_only_before_its_money_may_be_on_its_way() -> None:
    story = shipped_card()
    story.tell(refund(1_000))
    story.tell(CancelRefund("o1-R1", "asked twice", NOON))
    assert story.state.refundable_minor == 10_000
    assert story.submit("o1-R1L1") == []
    story.tell(refund(1_000))
    story.submit("o1-R2L1")
    with pytest.raises(NotAllowed, match="on its way"):
        story.tell(CancelRefund("o1-R2", "too late", NOON))


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
    story.tell(MarkUnknown(capture.id))
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
    assert status_of(story) is RefundStatus.SUCCEEDED


def test_a_unit_refunded_as_lost_is_not_refunded_again_as_returned() -> None:
    story = shipped_card()
    story.lost("S1", a=1)
    one = (RefundLine(line_id="a", quantity=1, amount_minor=4_000),)
    claimed(story, "o1-CL1", 1, ReturnReason.NOT_RECEIVED)
    story.tell(owed(4_000, "o1-CL1-D1", return_id="o1-CL1", lines=one))
    not_due = story.tell(owed(4_000, "o1-RMA1-D1", lines=one))[-1]
    assert isinstance(not_due, p.RefundRejected) and not_due.reason_code == "not_due"
    assert (not_due.cause_id, not_due.return_id) == ("o1-RMA1-D1", "o1-RMA1")


def test_a_refund_of_nothing_is_not_due() -> None:
    story = shipped_card()
    assert types(story.tell(owed(0)))[-1] == "refund.rejected"
    assert story.waiting() == []


# What is still owed


def one_unit(amount: int, line_id: str = "a", quantity: int = 1) -> tuple[RefundLine, ...]:
    return (RefundLine(line_id=line_id, quantity=quantity, amount_minor=amount),)


def test_a_cancellation_after_a_partial_refund_asks_for_what_is_left_and_no_more() -> None:
    story = paid(tender("t1", GIFT, 127_200), lines=[line("a", 1, 127_200)])
    story.tell(refund(50_000))
    story.all_succeed()
    story.cancelled("C1", a=1)
    assert story.state.refunds["o1-R2"].amount_minor == 77_200
    story.tell(ApproveRefund("o1-R2", "supervisor:ben", NOON))
    story.all_succeed()
    assert (story.state.refunded_minor(), status_of(story, "o1-R2")) == (127_200, RefundStatus.SUCCEEDED)


def test_a_cancellation_after_a_full_refund_asks_for_nothing() -> None:
    story = paid(tender("t1", GIFT, 4_000), lines=[line("a", 1, 4_000)])
    story.tell(refund(4_000))
    story.all_succeed()
    story.cancelled("C1", a=1)
    assert list(story.state.refunds) == ["o1-R1"]


def test_a_part_of_an_order_that_is_cancelled_gives_back_no_part_of_a_price_that_was_reduced() -> None:
    story = paid(tender("t1", GIFT, 10_000), lines=[line("a", 2, 6_000), line("b", 1, 4_000)])
    story.tell(refund(2_000, lines=(Asked("a", 0, 2_000),)))
    story.all_succeed()
    story.cancelled("C1", a=1)
    assert story.state.refunds["o1-R2"].amount_minor == 2_000
    story.cancelled("C2", a=1, b=1)
    assert story.state.refunds["o1-R3"].amount_minor == 6_000
    story.all_succeed()
    assert story.state.refunded_minor() == 10_000


@pytest.mark.parametrize("kind", [RefundKind.PRICE_ADJUSTMENT, RefundKind.GOODWILL])
def test_units_that_come_back_after_their_price_was_reduced_are_worth_what_was_paid(kind: RefundKind) -> None:
    story = paid(tender("t1", CARD, 10_000), lines=[line("a", 2, 10_000)])
    story.handed_over("S1", a=2)
    story.all_succeed()
    story.tell(refund(2_000, kind, lines=(Asked("a", 0, 2_000),)))
    if kind is RefundKind.GOODWILL:
        story.tell(ApproveRefund("o1-R1", "supervisor:ben", NOON))
    story.all_succeed()
    requested = next(
        f for f in story.tell(owed(5_000, "due-1", lines=one_unit(5_000))) if isinstance(f, p.RefundRequested)
    )
    assert (requested.stated_minor, requested.amount_minor, requested.lines[0].already_minor) == (5_000, 4_000, 1_000)
    story.tell(owed(5_000, "due-2", lines=one_unit(5_000)))
    story.all_succeed()
    assert story.state.refunded_minor() == 10_000


def test_a_return_after_a_refund_of_the_order_is_paid_as_far_as_anything_is_left() -> None:
    story = shipped_card()
    story.tell(refund(3_000))
    story.all_succeed()
    facts = story.tell(owed(10_000, lines=one_unit(10_000)))
    assert types(facts)[1:] == ["refund.requested", "refund.reduced", "refund.approved", "refund.routed"]
    story.all_succeed()
    assert story.state.refunds["o1-R2"].amount_minor == 7_000
    assert story.state.refunded_minor() == 10_000


@pytest.mark.parametrize("earlier", ["refund", "dispute"])
def test_a_return_of_what_was_given_back_before_is_not_due_and_ends(earlier: str) -> None:
    story = shipped_card()
    if earlier == "refund":
        story.tell(refund(10_000))
        story.all_succeed()
    else:
        disputed(story, "opened", 10_000)
        disputed(story, "lost", 10_000)
    assert types(story.tell(owed(10_000, lines=one_unit(10_000))))[-1] == "refund.rejected"


@pytest.mark.parametrize(("end", "status"), [("won", RefundStatus.SUCCEEDED), ("lost", RefundStatus.REJECTED)])
def test_a_return_while_a_dispute_is_open_waits_for_its_end(end: str, status: RefundStatus) -> None:
    story = shipped_card()
    disputed(story, "opened", 10_000)
    facts = story.tell(owed(10_000, lines=one_unit(10_000)))
    assert isinstance(facts[-1], p.RefundAttentionNeeded) and facts[-1].reason_code == "disputed"
    disputed(story, end, 10_000)
    story.all_succeed()
    assert status_of(story) is status


def test_a_refund_that_no_channel_takes_is_given_up_by_a_person() -> None:
    story = shipped_card()
    story.tell(owed(500))
    story.submit("o1-R1L1")
    story.answer("o1-R1L1", Result.FAILED, code="account_closed")
    assert status_of(story) is RefundStatus.FAILED
    cancelled = story.tell(CancelRefund("o1-R1", "the customer does not answer", NOON))[0]
    assert isinstance(cancelled, p.RefundCancelled) and cancelled.cause_id == "due-1"
    assert story.state.refundable_minor == 10_000


def test_what_could_not_be_paid_of_a_refund_is_given_up_by_a_person() -> None:
    story = shipped_two()
    story.tell(owed(5_000))
    for leg in ("o1-R1L1", "o1-R1L2"):
        story.submit(leg)
    story.answer("o1-R1L1")
    story.answer("o1-R1L2", Result.FAILED, code="account_closed")
    facts = story.tell(CancelRefund("o1-R1", "the customer does not answer", NOON))
    assert types(facts) == ["refund.reduced", "refund.completed"]
    assert (story.state.refunds["o1-R1"].amount_minor, status_of(story)) == (2_000, RefundStatus.SUCCEEDED)


# Routing


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
    story.tell(RerouteRefund("o1-R1", RefundChannel.BANK_TRANSFER, NOON, ACCOUNT))
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


def test_a_bank_transfer_names_an_account_and_its_leg_goes_there() -> None:
    story = shipped_card()
    for asked in (refund(500, channel=RefundChannel.BANK_TRANSFER, account=None),):
        with pytest.raises(Invalid, match="IBAN") as error:
            story.tell(asked)
        assert error.value.field == "account"
    story.tell(refund(500, channel=RefundChannel.BANK_TRANSFER))
    [leg] = story.waiting()
    assert (leg.channel, leg.account_id) == (RefundChannel.BANK_TRANSFER, ACCOUNT.account_id)
    story.submit(leg.id)
    story.answer(leg.id, Result.FAILED, code="account_closed")
    other = p.PayoutAccount(account_id="acc-2", masked="FR…0606")
    story.tell(RerouteRefund("o1-R1", RefundChannel.BANK_TRANSFER, NOON, other))
    assert [o.account_id for o in story.waiting()] == ["acc-2"]


def test_another_way_by_bank_needs_an_account() -> None:
    story = shipped_card()
    story.tell(owed(500))
    story.submit("o1-R1L1")
    story.answer("o1-R1L1", Result.FAILED, code="account_closed")
    with pytest.raises(Invalid, match="IBAN"):
        story.tell(RerouteRefund("o1-R1", RefundChannel.BANK_TRANSFER, NOON))


def test_store_credit_that_arrives_within_seconds_is_not_late() -> None:
    story = shipped_card()
    story.tell(owed(500, channel=RefundChannel.STORE_CREDIT))
    [routed] = [f for f in story.facts if isinstance(f, p.RefundRouted)]
    assert routed.promised_at == NOON + timedelta(hours=24)


def test_shipping_is_a_refund_of_its_own_and_given_back_once() -> None:
    story = paid(tender("t1", CARD, 5_500), lines=[line("a", 1, 5_000)], shipping=500)
    story.handed_over("S1", a=1)
    story.all_succeed()
    with pytest.raises(Invalid, match=r"only €5\.00 of the shipping"):
        story.tell(refund(501, kind=RefundKind.SHIPPING))
    story.tell(RequestRefund(RefundKind.SHIPPING, (), None, "EUR", "agent:anna", NOON))
    assert story.state.refunds["o1-R1"].amount_minor == 500
    with pytest.raises(Invalid, match="of the shipping"):
        story.tell(refund(1, kind=RefundKind.SHIPPING))
    line_ = RefundLine(line_id="a", quantity=1, amount_minor=5_500, shipping_minor=500)
    story.tell(owed(5_500, lines=(line_,)))
    assert story.state.refunds["o1-R2"].amount_minor == 5_000
    story.all_succeed()
    assert story.state.refunded_minor() == 5_500


def test_shipping_that_a_return_gave_back_is_not_given_back_again() -> None:
    story = paid(tender("t1", CARD, 5_500), lines=[line("a", 1, 5_000)], shipping=500)
    story.handed_over("S1", a=1)
    story.all_succeed()
    story.tell(owed(5_500, lines=(RefundLine(line_id="a", quantity=1, amount_minor=5_500, shipping_minor=500),)))
    with pytest.raises(Invalid, match="of the shipping"):
        story.tell(refund(1, kind=RefundKind.SHIPPING))


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
    story.tell(RerouteRefund("o1-R1", RefundChannel.BANK_TRANSFER, NOON, ACCOUNT))
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
    story.tell(RerouteRefund("o1-R1", RefundChannel.BANK_TRANSFER, NOON, ACCOUNT))
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


def test_a_leg_that_failed_and_succeeds_after_all_withdraws_the_payout_that_was_to_replace_it() -> None:
    story = shipped_card()
    story.tell(refund(500, consents=(RefundChannel.BANK_TRANSFER,)))
    story.submit("o1-R1L1")
    story.answer("o1-R1L1", Result.FAILED, code="account_closed")
    assert types(story.answer("o1-R1L1")) == ["refund.leg_failed", "refund.leg_succeeded", "refund.completed"]
    assert story.submit("o1-R1L2") == []
    assert story.state.refunded_minor() == 500


def test_a_leg_that_failed_was_paid_by_transfer_and_then_succeeded_is_booked_a_second_time() -> None:
    story = shipped_card()
    story.tell(refund(5_000, consents=(RefundChannel.BANK_TRANSFER,)))
    story.submit("o1-R1L1")
    story.answer("o1-R1L1", Result.FAILED, code="account_closed")
    story.submit("o1-R1L2")
    story.answer("o1-R1L2")
    [moved] = story.answer("o1-R1L1")
    assert isinstance(moved, p.PaymentMovementRecorded)
    assert (moved.kind, moved.amount_minor, moved.operation_id) == (p.MovementKind.REFUND, 5_000, "o1-R1L1")
    assert moved.contradicts == "failed_before"
    assert story.answer("o1-R1L1") == []
    assert (story.state.refunded_minor(), story.state.refundable_minor) == (10_000, 0)
    with pytest.raises(Invalid, match="amount_minor"):
        story.tell(refund(1))
    back = story.answer("o1-R1L1", Result.REVERSED, code="returned_by_bank")
    assert types(back) == ["payment.movement_recorded"]
    assert (story.state.refunded_minor(), story.state.refundable_minor) == (5_000, 5_000)


def test_a_leg_that_failed_and_was_not_paid_otherwise_is_put_right() -> None:
    story = shipped_card()
    story.tell(refund(500))
    story.submit("o1-R1L1")
    story.answer("o1-R1L1", Result.FAILED, code="account_closed")
    assert types(story.answer("o1-R1L1")) == ["refund.leg_succeeded", "refund.completed"]


def refunding() -> Story:
    """Half of a captured card is being given back."""
    story = shipped_card()
    story.tell(refund(5_000))
    story.submit("o1-R1L1")
    return story


def test_a_payout_of_less_than_was_asked_for_leaves_the_rest_to_be_paid() -> None:
    story = refunding()
    facts = story.answer("o1-R1L1", amount=3_000)
    assert types(facts) == ["payment.anomaly_detected", "refund.leg_succeeded", "refund.partially_completed"]
    assert story.answer("o1-R1L1", amount=3_000) == []
    assert (story.state.refunded_minor(), story.state.refundable_minor) == (3_000, 7_000)
    story.tell(RerouteRefund("o1-R1", RefundChannel.ORIGINAL, NOON))
    story.all_succeed()
    assert story.state.refunds["o1-R1"].status is RefundStatus.SUCCEEDED


@pytest.mark.parametrize("known", [True, False])
def test_a_payout_of_more_than_was_asked_for_lowers_what_is_left_and_comes_back_whole(known: bool) -> None:
    story = refunding()
    if known:
        story.answer("o1-R1L1")
    facts = story.answer("o1-R1L1", amount=8_000)
    moved = next(f for f in facts if isinstance(f, p.PaymentMovementRecorded))
    assert (moved.kind, moved.amount_minor, moved.contradicts) == (p.MovementKind.REFUND, 3_000, "other_amount")
    assert story.state.refunds["o1-R1"].status is RefundStatus.SUCCEEDED
    assert story.answer("o1-R1L1", amount=8_000) == []
    assert (story.state.refunded_minor(), story.state.refundable_minor) == (8_000, 2_000)
    story.answer("o1-R1L1", Result.REVERSED, amount=8_000, code="returned_by_bank")
    assert story.answer("o1-R1L1", Result.REVERSED, amount=8_000, code="returned_by_bank") == []
    assert (story.state.refunded_minor(), story.state.refundable_minor) == (0, 10_000)


def test_a_payout_of_more_than_was_ever_taken_is_booked_whole() -> None:
    story = refunding()
    assert types(story.answer("o1-R1L1", amount=12_000))[-1] == "payment.anomaly_detected"
    assert story.state.refunded_minor() == 12_000
    assert (story.state.refundable_minor, story.state.tenders["t1"].overdrawn_minor) == (0, 2_000)


def test_a_payout_that_failed_and_was_made_in_another_amount_is_booked() -> None:
    story = refunding()
    story.answer("o1-R1L1", Result.FAILED, code="account_closed")
    [moved] = story.answer("o1-R1L1", amount=3_000)
    assert isinstance(moved, p.PaymentMovementRecorded) and moved.contradicts == "failed_before"
    assert story.answer("o1-R1L1", amount=3_000) == []
    assert (story.state.refunded_minor(), story.state.refundable_minor) == (3_000, 7_000)


# Disputes


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


def test_what_a_lost_dispute_left_is_refundable() -> None:
    story = shipped_card()
    disputed(story, "opened", 9_000)
    disputed(story, "lost", 6_000)
    with pytest.raises(Invalid, match=r"only €40\.00 is left"):
        story.tell(refund(4_001))
    story.tell(refund(4_000))
    story.all_succeed()
    assert status_of(story) is RefundStatus.SUCCEEDED


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


def test_a_dispute_lost_about_money_that_was_refunded_is_booked_whole_and_an_anomaly() -> None:
    story = shipped_card()
    story.tell(refund(8_000))
    story.all_succeed()
    assert types(disputed(story, "opened", 10_000)) == ["dispute.opened"]
    assert story.state.held_minor(story.state.tenders["t1"]) == 2_000
    [_, anomaly] = disputed(story, "lost", 10_000)
    assert isinstance(anomaly, p.PaymentAnomalyDetected)
    assert (anomaly.expected_minor, anomaly.observed_minor) == (10_000, 18_000)
    assert (story.state.tenders["t1"].overdrawn_minor, story.state.refundable_minor) == (8_000, 0)


def test_two_disputes_on_one_charge_each_have_their_amount() -> None:
    story = shipped_card()
    disputed(story, "opened", 6_000, id="d1")
    disputed(story, "opened", 4_000, id="d2")
    assert story.state.held_minor(story.state.tenders["t1"]) == 10_000
    disputed(story, "won", 6_000, id="d1")
    assert [d.status for d in story.state.tenders["t1"].disputes.values()] == [DisputeStatus.WON, DisputeStatus.OPEN]
    disputed(story, "lost", 4_000, id="d2")
    story.tell(refund(6_000))
    story.all_succeed()
    assert story.state.refundable_minor == 0


@pytest.mark.parametrize("change", ["opened", "lost"])
def test_a_chargeback_under_the_id_of_a_dispute_that_was_won_is_booked(change: str) -> None:
    story = shipped_card()
    disputed(story, "opened", 10_000)
    disputed(story, "won", 10_000)
    later = NOON + timedelta(days=9)
    facts = story.tell(Dispute("ref-o1-P1", "d1", change, 10_000, later))  # type: ignore[arg-type]
    assert types(facts) == [f"dispute.{change}"]
    assert story.state.refundable_minor == 0
    assert story.tell(Dispute("ref-o1-P1", "d1", "opened", 10_000, NOON)) == []


def test_a_refund_made_in_the_providers_dashboard_is_booked_and_lowers_what_is_left() -> None:
    story = shipped_card()
    dashboard = RecordMovement(p.MovementKind.REFUND, "ref-o1-P1", "re_1", 4_000, NOON, "made in the dashboard")
    [moved] = story.tell(dashboard)
    assert isinstance(moved, p.PaymentMovementRecorded) and moved.tender_id == "t1"
    assert story.tell(dashboard) == []
    with pytest.raises(Invalid, match=r"only €60\.00 is left"):
        story.tell(refund(6_001))
    assert types(story.tell(owed(10_000)))[1:2] == ["refund.reduced"]
    story.all_succeed()
    assert story.state.refunded_minor() == 10_000


def test_a_refund_in_the_dashboard_leaves_nothing_for_one_that_was_not_sent_yet() -> None:
    story = shipped_card()
    story.tell(owed(8_000))
    facts = story.tell(RecordMovement(p.MovementKind.REFUND, "ref-o1-P1", "re_1", 10_000, NOON, ""))
    assert types(facts) == [
        "payment.movement_recorded",
        "refund.leg_failed",
        "refund.attention_needed",
        "refund.rejected",
    ]
    assert story.submit("o1-R1L1") == []
    assert (story.state.refunded_minor(), story.state.tenders["t1"].overdrawn_minor) == (10_000, 0)


def test_a_double_capture_is_given_back_as_overpaid() -> None:
    story = shipped_card()
    facts = story.tell(RecordMovement(p.MovementKind.CAPTURE, None, "ch_2", 10_000, NOON, "charged twice"))
    assert types(facts) == ["payment.movement_recorded", "refund.requested", "refund.approved", "refund.routed"]
    assert story.state.refunds["o1-R1"].kind is RefundKind.OVERPAID
    story.all_succeed()
    assert (story.state.captured_minor, story.state.refunded_minor()) == (20_000, 10_000)


def test_what_was_captured_before_its_authorization_was_heard_of_is_not_captured_again() -> None:
    story = Story()
    story.tell(opening([line("a", 1, 11_000)], [tender("other", CARD, 1_000), tender("card", CARD, 10_000)]))
    other, authorization = story.waiting()
    story.submit(other.id)
    story.answer(other.id, expires_at=NOON + timedelta(days=30))
    story.submit(authorization.id)
    story.tell(RecordMovement(p.MovementKind.CAPTURE, f"ref-{authorization.id}", "ch_1", 4_000, NOON, "by hand"))
    story.answer(authorization.id, expires_at=NOON + timedelta(days=30))
    [held] = story.state.tenders["card"].authorizations
    assert (held.amount_minor, held.captured_minor, held.open_minor) == (10_000, 4_000, 6_000)


def test_what_the_provider_captured_by_itself_is_not_captured_again() -> None:
    story = paid(tender("t1", CARD, 10_000), lines=[line("a", 1, 10_000)])
    story.tell(RecordMovement(p.MovementKind.CAPTURE, "ref-o1-P1", "cap_9", 10_000, NOON, ""))
    assert story.handed_over("S1", a=1)[1:] == []
    assert story.state.captured_minor == 10_000


def test_an_authorization_released_in_the_dashboard_is_asked_for_again() -> None:
    story = paid(tender("t1", CARD, 10_000), lines=[line("a", 1, 10_000)])
    facts = story.tell(RecordMovement(p.MovementKind.VOID, "ref-o1-P1", "void_9", 10_000, NOON, ""))
    assert types(facts) == [
        "payment.movement_recorded",
        "payment.authorization_expired",
        "payment.authorization_requested",
    ]


def test_the_end_of_a_dispute_told_before_its_opening_comes_to_the_same() -> None:
    story = shipped_card()
    assert types(disputed(story, "won", 500)) == ["dispute.opened", "dispute.won"]
    assert disputed(story, "opened", 500) == []
    assert types(disputed(story, "opened", 500, id="d2")) == ["dispute.opened"]


def test_a_dispute_of_nothing_we_authorized_holds_money_of_the_order() -> None:
    story = shipped_card()
    assert types(story.tell(Dispute("elsewhere", "d1", "opened", 1_000, NOON))) == ["dispute.opened"]
    assert story.state.held_minor(story.state.tenders["t1"]) == 1_000


# Substitutes at a price of their own


def cups(shipment: str, n: int, price: int) -> RecordUnitsChange:
    priced = p.SubstituteUnits(line_id="a", quantity=n, unit_price_minor=price)
    return RecordUnitsChange(UnitsChange.HANDED_OVER, shipment, units(a=n), NOON, (priced,))


def net(story: Story) -> int:
    return story.state.captured_minor - story.state.refunded_minor()


def three_cups(price: int, *, kind: TenderKind = CARD) -> Story:
    """Three mugs for 100.00 in all; one was replaced by a cup, which has left."""
    story = paid(tender("t1", kind, 10_000), lines=[line("a", 3, 10_000)])
    story.tell(cups("S1", 1, price))
    story.all_succeed()
    return story


def test_a_cheaper_substitute_costs_its_own_price_once_it_has_left() -> None:
    story = three_cups(3_000)
    assert net(story) == 3_000
    story.tell(cups("S2", 2, 2_999))
    story.all_succeed()
    assert net(story) == 3_000 + 2 * 2_999, "units stand for their share of the line, to the minor unit"


@given(
    worth=st.integers(1, 10_000),
    quantity=st.integers(2, 6),
    shipments=st.lists(st.tuples(st.integers(1, 3), st.booleans()), min_size=2, max_size=6),
)
@example(worth=10_000, quantity=3, shipments=[(1, False), (1, True), (1, False)])
@settings(max_examples=50, deadline=None)
def test_a_substitute_costs_its_own_price_whichever_units_left_before_it(
    worth: int, quantity: int, shipments: list[tuple[int, bool]]
) -> None:
    story = paid(tender("t1", CARD, worth), lines=[line("a", quantity, worth)])
    left, price = quantity, worth // quantity // 2
    for number, (n, is_cup) in enumerate(shipments):
        n, before = min(n, left), net(story)
        if not n:
            break
        story.tell(
            cups(f"S{number}", n, price)
            if is_cup
            else RecordUnitsChange(UnitsChange.HANDED_OVER, f"S{number}", units(a=n), NOON)
        )
        story.all_succeed()
        done, left = quantity - left + n, left - n
        share = cumulative(worth, done, quantity) - cumulative(worth, done - n, quantity)
        assert net(story) - before == (n * price if is_cup else share)


def test_a_substitute_at_the_price_of_the_line_gives_nothing_back() -> None:
    story = three_cups(3_333)
    assert (net(story), story.state.refunds) == (3_333, {})


@pytest.mark.parametrize("kind", [CARD, GIFT])
def test_units_that_are_cancelled_have_no_share_in_what_a_substitute_cost_less(kind: TenderKind) -> None:
    """Taken before or with the hand-over: the customer has a cup, and has paid for a cup."""
    story = three_cups(3_000, kind=kind)
    story.cancelled("C1", a=2)
    story.all_succeed()
    assert net(story) == 3_000


def test_a_cheaper_substitute_that_comes_back_gives_back_what_was_paid_for_it() -> None:
    story = three_cups(3_000)
    story.cancelled("C1", a=2)
    story.all_succeed()
    back = (RefundLine(line_id="a", quantity=1, amount_minor=3_333),)
    story.tell(owed(3_333, lines=back))
    story.all_succeed()
    assert net(story) == 0


def test_a_cheaper_substitute_whose_shipment_is_heard_of_before_the_order_is_settled_when_that_is() -> None:
    story = Story()
    story.tell(cups("S1", 1, 4_000))
    story.tell(opening([line("a", 1, 10_000)], [tender("t1", CARD, 10_000)]))
    story.all_succeed()
    story.tell(Confirm(NOON))
    story.all_succeed()
    assert net(story) == 4_000


def test_what_a_cheaper_substitute_gives_back_waits_for_what_could_not_be_taken() -> None:
    story = paid(tender("t1", CARD, 10_000), lines=[line("a", 1, 10_000)])
    story.tell(cups("S1", 1, 4_000))
    [capture] = [o for o in story.waiting() if o.kind is p.OperationKind.CAPTURE]
    story.submit(capture.id)
    story.answer(capture.id, Result.FAILED, code="insufficient_funds")
    assert (story.state.captured_minor, story.state.refunded_minor()) == (0, 0)
    story.tell(RetryCaptures(NOON))
    story.all_succeed()
    assert net(story) == 4_000


def test_no_price_adjustment_gives_back_more_than_the_line_still_costs() -> None:
    story = paid(tender("t1", CARD, 20_000), lines=[line("a", 1, 10_000), line("b", 1, 10_000)])
    story.handed_over("S0", b=1)
    story.all_succeed()
    story.tell(refund(3_000, lines=(Asked("a", 0, 3_000),)))
    story.all_succeed()
    story.tell(cups("S1", 1, 1_000))
    story.all_succeed()
    assert (net(story), story.state.refunded_value("a")) == (10_000, 10_000)
