"""What a customer holds and did not pay for: a recovery case with an amount, an owner and a date, until it is settled."""

from typing import Literal

import pytest

from returns.domain.decide import (
    ChargeRecovery,
    CloseReturn,
    DropRefund,
    ExpireReturn,
    FailCharge,
    OpenClaim,
    RecordCharge,
    RecordPurchase,
    RecordUnits,
    RequestReturn,
    ResolveClaim,
    SettleItem,
    SettleRecovery,
    deadlines,
    due_command,
)
from returns.domain.inspections import RevisedUnits, ReviseInspection
from returns.domain.recoveries import RecoveryStatus
from returns.domain.rma import ReturnStatus
from shared.contracts.returns import (
    ClaimOpened,
    ClaimResolved,
    Disposition,
    InspectionOutcome,
    RecordedUnits,
    RecoveryChargeRequested,
    RecoveryOpened,
    RecoverySettled,
    Resolution,
    ReturnClosed,
    ReturnDiscrepancyRecorded,
    ReturnReason,
    ReturnRefundDropped,
    ReturnRefundDue,
    ReturnResolved,
    ReturnUnexpectedItemSettled,
    ReturnUnitsRecorded,
)
from shared.core.machine import Invalid, NotAllowed
from tests.returns_story import (
    RMA1,
    Story,
    asking,
    day,
    delivered,
    looked_at,
    of,
    only,
    paid,
    parcel,
    placed,
    policies,
    policy,
    returning,
    shipped,
    status,
    surprise,
)


def replaced_ahead(outcome: str, **terms: bool) -> Story:
    """A defective tea was replaced before it came back, and this is what came."""
    story = delivered(policy(**terms))
    line = returning("tea", 1, ReturnReason.DEFECTIVE)
    story.then(RequestReturn((line,), Resolution.REPLACE_IN_ADVANCE, "", (), day(3)), parcel("r1", day(5), tea=1))
    story.then(looked_at("i1", day(6), ("tea", 1, outcome)))
    return story


def revising(outcome: str, disposition: Disposition | None = None) -> ReviseInspection:
    units = RevisedUnits("tea", 1, InspectionOutcome(outcome), disposition)
    return ReviseInspection(RMA1, "i1", (units,), day(8))


class TestOpened:
    @pytest.mark.parametrize("outcome", ["counterfeit", "wrong_item", "not_in_box"])
    def test_a_replacement_sent_ahead_of_what_is_not_accepted_is_owed(self, outcome: str) -> None:
        story = replaced_ahead(outcome)
        opened = only(story.facts, RecoveryOpened)
        assert (opened.amount_minor, opened.cause, opened.owner) == (500, "return_not_accepted", "support")
        assert (opened.return_id, opened.due_at) == (RMA1, day(6 + 14))
        assert status(story) is ReturnStatus.INSPECTING, "never resolved while something is owed"

    def test_what_is_accepted_is_not_owed(self) -> None:
        story = replaced_ahead("defective")
        assert (story.state.recoveries, status(story)) == ({}, ReturnStatus.RESOLVED)

    def test_what_was_refunded_at_once_and_never_sent_is_owed_and_a_late_parcel_ends_it(self) -> None:
        story = delivered(policy(refund_trigger="at_once"))
        due = only(story.then(asking(day(3), mug=1)), ReturnRefundDue)
        story.then(paid(due, day(4)))
        opened = only(story.then(ExpireReturn(RMA1, day(33))), RecoveryOpened)
        assert (opened.amount_minor, opened.cause) == (333, "return_not_sent")
        facts = story.then(parcel("r1", day(35), mug=1), looked_at("i1", day(36), ("mug", 1, "as_new")))
        settled = only(facts, RecoverySettled)
        assert (settled.how, settled.approver, status(story)) == ("returned", None, ReturnStatus.RESOLVED)
        assert [f for f in facts if isinstance(f, ReturnRefundDue)] == []

    def test_a_revision_that_lowers_a_paid_refund_is_owed_by_what_it_lowers(self) -> None:
        story = delivered()
        story.then(asking(day(3), tea=1), parcel("r1", day(5), tea=1))
        due = only(story.then(looked_at("i1", day(6), ("tea", 1, "as_new"))), ReturnRefundDue)
        story.then(paid(due, day(7)))
        facts = story.then(revising("opened"))
        assert (only(facts, RecoveryOpened).amount_minor, only(facts, RecoveryOpened).cause) == (50, "revised_down")
        assert status(story) is ReturnStatus.INSPECTING
        facts = story.then(revising("as_new"))
        assert (only(facts, RecoverySettled).how, status(story)) == ("returned", ReturnStatus.RESOLVED)

    def test_units_refunded_as_lost_that_are_delivered_after_all_are_owed(self) -> None:
        story = Story()
        story.then(
            RecordPurchase(placed()),
            shipped("shipped", day(1), mug=3),
            shipped("lost", day(4), mug=3),
            OpenClaim(of(mug=2), ReturnReason.NOT_RECEIVED, (), day(5)),
        )
        due = only(story.then(ResolveClaim("A1-CL1", "refunded", "", day(6))), ReturnRefundDue)
        story.then(paid(due, day(7)), shipped("withdrawn", day(8), mug=3))
        assert story.state.recoveries == {}, "found, and not with the customer yet"
        opened = only(story.then(shipped("delivered", day(9), mug=3)), RecoveryOpened)
        assert (opened.amount_minor, opened.cause, opened.return_id) == (
            due.amount_minor,
            "found_after_refund",
            "A1-CL1",
        )

    def test_units_that_were_replaced_and_are_delivered_too_are_owed_once(self) -> None:
        story = Story()
        story.then(RecordPurchase(placed()), shipped("shipped", day(1), mug=3), shipped("lost", day(4), mug=3))
        both = RecordUnits(
            "A1-S1", "delivered", (RecordedUnits(line_id="mug", quantity=2),), day(9), replaced=of(mug=1)
        )
        opened = only(story.then(both, both), RecoveryOpened)
        assert (opened.amount_minor, opened.cause, opened.shipment_id) == (333, "found_after_replacement", "A1-S1")

    def lost(self, **terms: bool) -> Story:
        """Two parcels, of one mug each, are lost."""
        story = Story(policies(policy(**terms)))
        story.then(RecordPurchase(placed()))
        for tracking in ("T1", "T2"):
            story.then(shipped("lost", day(4), tracking=tracking, mug=1))
        return story

    def claimed(self, story: Story, outcome: Literal["refunded", "replaced"]) -> int:
        """A claim of one mug is decided; the amount that is due for it."""
        claim = only(story.then(OpenClaim(of(mug=1), ReturnReason.NOT_RECEIVED, (), day(5))), ClaimOpened)
        facts = story.then(ResolveClaim(claim.claim_id, outcome, "", day(6)))
        return sum(fact.amount_minor for fact in facts if isinstance(fact, ReturnRefundDue))

    def sent_again(self, units: int = 1) -> RecordUnits:
        return RecordUnits("A1-A1", "settled", (RecordedUnits(line_id="mug", quantity=units),), day(7))

    def test_units_refunded_as_lost_that_were_sent_again_before_the_claim_was_heard_of_are_owed(self) -> None:
        story = self.lost(recovery_charged=True)
        amounts = [self.claimed(story, "refunded") for _ in range(2)]
        opened = only(story.then(self.sent_again()), RecoveryOpened)
        assert (opened.amount_minor, opened.cause) == (amounts[1], "sent_again_beside_refund")
        assert (opened.return_id, opened.owner) == ("A1-CL2", "support"), (
            "it may still be stopped: nobody is charged yet"
        )
        # What was sent again is lost as well: the refund is for that.
        settled = only(story.then(shipped("lost", day(9), shipment="A1-S2", mug=1)), RecoverySettled)
        assert (settled.how, settled.approver) == ("returned", None)

    def test_a_refund_of_one_of_two_lost_parcels_stands_when_the_other_is_sent_again(self) -> None:
        story = self.lost()
        self.claimed(story, "refunded")
        assert only(story.then(self.sent_again()), ReturnUnitsRecorded)
        assert story.state.recoveries == {}

    def test_a_replacement_that_fulfillment_does_not_send_takes_no_refund_back(self) -> None:
        """It heard of the replacing claim last, after one unit was sent again and the other refunded."""
        story = self.lost()
        self.claimed(story, "refunded")
        self.claimed(story, "replaced")
        story.then(self.sent_again())
        assert story.state.recoveries == {}

    def test_a_claim_makes_nothing_good_that_was_sent_again_or_arrived_before_it_was_decided(self) -> None:
        story = self.lost()
        for number in (1, 2):
            story.then(OpenClaim(of(mug=1), ReturnReason.NOT_RECEIVED, (), day(5 + number)))
        story.then(self.sent_again())
        assert only(story.then(ResolveClaim("A1-CL1", "refunded", "", day(8))), ReturnRefundDue)
        outcomes: list[Literal["refunded", "replaced"]] = ["refunded", "replaced"]
        for outcome in outcomes:
            with pytest.raises(Invalid, match="outcome: only 0 of line mug are lost now"):
                story.then(ResolveClaim("A1-CL2", outcome, "", day(8)))
        assert only(story.then(ResolveClaim("A1-CL2", "rejected", "sent again", day(8))), ClaimResolved)

    @pytest.mark.parametrize("was", ["claimed", "sent again"])
    def test_of_two_lost_parcels_the_refund_of_one_stands_when_the_other_is_found_after_it_was_replaced(
        self, was: str
    ) -> None:
        story = self.lost()
        if was == "claimed":
            self.claimed(story, "replaced")
        else:
            story.then(self.sent_again())
        self.claimed(story, "refunded")
        mug = (RecordedUnits(line_id="mug", quantity=1),)
        found = RecordUnits("A1-S1", "delivered", mug, day(9), "T1", replaced=of(mug=1))
        opened = only(story.then(found), RecoveryOpened)
        assert (opened.cause, opened.tracking) == ("found_after_replacement", "T1")


class TestSettled:
    def test_a_supervisor_writes_it_off_and_the_return_resolves(self) -> None:
        story = replaced_ahead("counterfeit")
        story.then(revising("counterfeit", Disposition.QUARANTINE))
        facts = story.then(SettleRecovery("A1-RC1", "written_off", "supervisor:s", "not worth it", day(9)))
        assert (only(facts, RecoverySettled).approver, status(story)) == ("supervisor:s", ReturnStatus.RESOLVED)
        assert story.then(SettleRecovery("A1-RC1", "written_off", "supervisor:s", "again", day(9))) == []
        with pytest.raises(NotAllowed):
            story.then(ChargeRecovery("A1-RC1", day(10), "supervisor:s", "after all"))

    def test_a_recovery_is_charged_when_a_supervisor_asks_and_again_where_that_failed(self) -> None:
        story = replaced_ahead("wrong_item")
        ask = ChargeRecovery("A1-RC1", day(9), "supervisor:s", "the box was empty")
        asked = only(story.then(ask, ask), RecoveryChargeRequested)
        assert (asked.amount_minor, asked.approver) == (500, "supervisor:s")
        story.then(FailCharge("A1-RC1", "declined", day(10)))
        assert story.state.recoveries["A1-RC1"].status is RecoveryStatus.OPEN
        facts = story.then(ask, RecordCharge("A1-RC1", "op-1", 500, day(11)))
        assert (only(facts, RecoverySettled).how, only(facts, RecoverySettled).operation_id) == ("charged", "op-1")
        assert status(story) is ReturnStatus.RESOLVED

    def test_by_policy_it_is_charged_by_itself_when_its_time_is_over_and_once(self) -> None:
        story = replaced_ahead("wrong_item", recovery_charged=True)
        assert only(story.facts, RecoveryOpened).owner == "system"
        [(name, due_at)] = deadlines(story.state).items()
        assert (name, due_at) == ("recover A1-RC1", day(20))
        assert only(story.then(due_command("A1", name, due_at)), RecoveryChargeRequested).approver is None
        story.then(FailCharge("A1-RC1", "declined", day(21)))
        assert deadlines(story.state) == {}, "then a person decides"

    def test_what_a_person_says_came_back_is_not_owed_again(self) -> None:
        story = replaced_ahead("wrong_item")
        story.then(SettleRecovery("A1-RC1", "returned", "supervisor:s", "brought to the shop", day(9)))
        assert (len(story.state.recoveries), status(story)) == (1, ReturnStatus.RESOLVED)

    def test_what_was_charged_for_goods_that_come_after_all_is_for_a_person_to_give_back_once(self) -> None:
        story = delivered(policy(refund_trigger="at_once"))
        due = only(story.then(asking(day(3), mug=1)), ReturnRefundDue)
        story.then(paid(due, day(4)), ExpireReturn(RMA1, day(33)))
        story.then(ChargeRecovery("A1-RC1", day(34), "supervisor:s"), RecordCharge("A1-RC1", "op-1", 333, day(34)))
        facts = story.then(parcel("r1", day(35), mug=1), looked_at("i1", day(36), ("mug", 1, "as_new")))
        found = only(facts, ReturnDiscrepancyRecorded)
        assert (found.contradicts, found.return_id, found.recovery_id) == ("recovery_settled", RMA1, "A1-RC1")
        assert (found.amount_minor, status(story)) == (333, ReturnStatus.RESOLVED)
        # Found to be something else after all, it is owed once more: what was charged is on its way back.
        facts = story.then(
            ReviseInspection(RMA1, "i1", (RevisedUnits("mug", 1, InspectionOutcome.WRONG_ITEM, None),), day(37))
        )
        assert only(facts, RecoveryOpened).amount_minor == 333

    def test_a_charge_that_succeeds_after_it_was_settled_is_recorded_for_a_person(self) -> None:
        story = replaced_ahead("wrong_item")
        story.then(ChargeRecovery("A1-RC1", day(9)), SettleRecovery("A1-RC1", "written_off", "s", "no", day(9)))
        late = only(story.then(RecordCharge("A1-RC1", "op-1", 500, day(10))), ReturnDiscrepancyRecorded)
        assert late.contradicts == "recovery_settled"

    def test_a_charge_for_nothing_known_is_recorded_for_a_person(self) -> None:
        """Money was taken: that is an observation, and no message of it waits."""
        story = replaced_ahead("wrong_item")
        taken = only(story.then(RecordCharge("A1-X9", "op-1", 500, day(10))), ReturnDiscrepancyRecorded)
        assert (taken.contradicts, taken.return_id) == ("unknown_charge", None)
        assert "€5.00 was charged for A1-X9" in taken.detail

    def test_a_charge_of_an_exchange_that_fails_is_not_of_a_case(self) -> None:
        assert delivered().then(FailCharge("A1-X1", "declined", day(3))) == []
        with pytest.raises(Invalid, match="recovery_id: is not known"):
            delivered().then(ChargeRecovery("A1-RC1", day(3)))


class TestStillOwed:
    def inspected(self) -> tuple[Story, ReturnRefundDue]:
        story = delivered()
        story.then(asking(day(3), mug=1), parcel("r1", day(5), mug=1))
        due: ReturnRefundDue = only(story.then(looked_at("i1", day(6), ("mug", 1, "as_new"))), ReturnRefundDue)
        return story, due

    def test_a_refund_that_will_not_be_paid_ends_the_return_without_money(self) -> None:
        story, due = self.inspected()
        facts = story.then(DropRefund(due.due_id, "A1-R1", "not_due", day(7)))
        assert only(facts, ReturnRefundDropped).reason_code == "not_due"
        assert (only(facts, ReturnResolved).refunded_minor, status(story)) == (0, ReturnStatus.RESOLVED)
        assert story.then(DropRefund(due.due_id, "A1-R1", "not_due", day(7))) == []

    def test_one_that_is_paid_after_all_is_settled_as_paid(self) -> None:
        story, due = self.inspected()
        story.then(DropRefund(due.due_id, "A1-R1", "cancelled", day(7)), paid(due, day(8)))
        assert story.state.returns[RMA1].settled_minor == 333

    def test_what_was_given_back_before_is_no_money_of_the_return(self) -> None:
        story, due = self.inspected()
        short = paid(due.model_copy(update={"amount_minor": 133}), day(7))
        assert only(story.then(short), ReturnResolved).refunded_minor == 133

    def test_a_revision_after_a_dropped_refund_has_nothing_to_recover(self) -> None:
        story = delivered()
        story.then(asking(day(3), tea=1), parcel("r1", day(5), tea=1))
        due = only(story.then(looked_at("i1", day(6), ("tea", 1, "as_new"))), ReturnRefundDue)
        story.then(DropRefund(due.due_id, "A1-R1", "not_due", day(7)), revising("wrong_item"))
        assert story.state.recoveries == {}

    def test_a_fee_larger_than_the_goods_is_withheld_in_full(self) -> None:
        story = delivered(policy(return_shipping_fee_minor=400))
        story.then(asking(day(3), mug=1), parcel("r1", day(5), mug=1))
        resolved = only(story.then(looked_at("i1", day(6), ("mug", 1, "as_new"))), ReturnResolved)
        assert (resolved.refunded_minor, resolved.withheld_minor) == (0, 333)

    @pytest.mark.parametrize("reached", ["approved", "in_transit", "received", "inspecting", "under_review"])
    def test_a_supervisor_closes_any_return_for_a_reason_and_nobody_else_does(self, reached: str) -> None:
        story = delivered()
        if reached == "under_review":
            story.then(parcel("r1", day(5), "BOX", mug=1))
        else:
            story.then(asking(day(3), mug=2))
        if reached in ("received", "inspecting"):
            story.then(parcel("r1", day(5), mug=2))
        if reached == "inspecting":
            story.then(looked_at("i1", day(6), ("mug", 1, "as_new")))
        with pytest.raises(NotAllowed):
            story.then(CloseReturn(RMA1, day(7)))
        closed = only(story.then(CloseReturn(RMA1, day(7), "supervisor:s", "settled in the shop")), ReturnClosed)
        assert (closed.approver, closed.detail) == ("supervisor:s", "settled in the shop")
        assert (status(story), deadlines(story.state)) == (ReturnStatus.CLOSED, {})


class TestAWayToItsEnd:
    def test_wrong_goods_that_are_only_held_keep_the_return_open_until_a_person_says_where_they_go(self) -> None:
        story = delivered()
        story.then(
            asking(day(3), tea=1), parcel("r1", day(5), tea=1), looked_at("i1", day(6), ("tea", 1, "counterfeit"))
        )
        assert status(story) is ReturnStatus.INSPECTING
        story.then(revising("counterfeit", Disposition.SEND_BACK))
        assert status(story) is ReturnStatus.RESOLVED

    def test_an_item_that_is_none_of_the_orders_goes_where_a_person_says(self) -> None:
        story = delivered()
        story.then(asking(day(3), mug=1), surprise("r1", day(5), "sock", 4))
        going = SettleItem(RMA1, "r1", "sock", 3, "sent_back", "agent:a", "hers", day(6))
        assert only(story.then(going), ReturnUnexpectedItemSettled).quantity == 3
        with pytest.raises(Invalid, match="quantity: must not be above 1"):
            story.then(going)

    def test_a_claim_is_to_be_decided_by_a_date(self) -> None:
        story = Story(policies(policy(review_days=3)))
        story.then(RecordPurchase(placed()), shipped("shipped", day(1), mug=1), shipped("lost", day(2), mug=1))
        facts = story.then(OpenClaim(of(mug=1), ReturnReason.NOT_RECEIVED, (), day(3)))
        assert only(facts, ClaimOpened).decide_by == day(6)
