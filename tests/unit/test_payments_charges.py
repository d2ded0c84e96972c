"""Payments: what an exchange costs, charged beside the order, told as stories of the business."""

from datetime import timedelta
from uuid import UUID

import pytest

from payments.domain.charge import ChargeStatus
from payments.domain.decide import Dispute, DropCharge, MarkUnknown, OweCharge, RetryCharge
from payments.domain.operation import Result
from payments.domain.payout import OweRefund
from payments.domain.tender import TenderStatus
from payments.handlers import recovery_charged
from shared.contracts import payments as p
from shared.contracts.base import TenderKind
from shared.contracts.orders import TenderSpec
from shared.contracts.payments import RefundChannel, RefundKind, RefundLine
from shared.contracts.returns import RecoveryChargeRequested
from shared.core.machine import Invalid, NotAllowed
from shared.messaging.envelope import Cause, Undecodable
from tests.unit.payments_story import CARD, GIFT, NOON, Story, line, opening, paid, tender


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

    def test_a_charge_is_authorized_and_captured_whole_on_a_tender_of_its_own(self) -> None:
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

    def test_a_charge_counts_for_nothing_that_is_captured_or_given_back_for_the_order(self) -> None:
        story = paid(tender("t1", CARD, 2000), lines=[line("mug", 2, 2000)])
        story.handed_over("s1", mug=1)
        story.tell(self.OWED)
        story.all_succeed()
        story.handed_over("s2", mug=1)
        story.all_succeed()
        assert (story.state.order_captured_minor, story.state.excess_minor(with_dead=False)) == (2000, 0)

    def test_the_tender_of_a_charge_is_chosen_among_the_tenders_that_can_be_charged_again(self) -> None:
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
        story.tell(MarkUnknown(capture.id))
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

    def test_a_charge_may_be_owed_before_the_order_is_known(self) -> None:
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


def test_a_recovery_case_is_charged_like_what_an_exchange_costs_more_and_again_after_a_decline() -> None:
    story = TestChargeForAnExchange().card()
    fact = RecoveryChargeRequested(
        order_id="o1",
        recovery_id="o1-V1",
        return_id=None,
        amount_minor=900,
        currency="EUR",
        approver="supervisor:ben",
        detail="",
    )
    cause = Cause(UUID(int=1), NOON, "service:returns", fact.type, "story")
    told = recovery_charged(fact, cause)
    assert not isinstance(told.command, Undecodable)
    story.tell(told.command)
    [authorization] = story.waiting()
    story.submit(authorization.id)
    failed = story.answer(authorization.id, Result.FAILED, code="insufficient_funds")
    assert [(f.exchange_id, f.code) for f in failed if isinstance(f, p.PaymentChargeFailed)] == [
        ("o1-V1", "insufficient_funds")
    ]
    story.tell(told.command)
    story.all_succeed()
    taken = [f for f in story.facts if isinstance(f, p.PaymentCaptured) and f.exchange_id == "o1-V1"]
    assert [f.amount_minor for f in taken] == [900]
