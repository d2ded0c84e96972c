"""Returns: what is due for what came back, when, and how an inspection is put right; told as stories of one order."""

from dataclasses import replace
from typing import Any

import pytest

from returns.domain.decide import (
    CancelReturn,
    CloseReturn,
    ExpireReturn,
    RecordPurchase,
    RecordUnits,
    ReopenReturn,
    RequestReturn,
    SettleRecovery,
    SettleRefund,
    deadlines,
    due_command,
)
from returns.domain.inspections import RevisedUnits, ReviseInspection
from returns.domain.parcels import InspectItems, ReceiveParcel, RecordScan
from returns.domain.rma import ReturnStatus
from returns.domain.state import law
from returns.domain.units import ReverseBucket
from shared.contracts.returns import (
    ClaimResolved,
    InspectionOutcome,
    InspectionRule,
    RecordedUnits,
    RecoveryOpened,
    Resolution,
    ReturnExpired,
    ReturnInspectionRevised,
    ReturnItemsInspected,
    ReturnReceivedUnannounced,
    ReturnRefundDue,
    ReturnResolved,
)
from shared.core.machine import Invalid, NotAllowed
from tests.returns_story import (
    LINES,
    RMA1,
    RULES,
    Story,
    asking,
    day,
    delivered,
    looked_at,
    only,
    order_line,
    paid,
    parcel,
    placed,
    policies,
    policy,
    shipped,
    status,
    units,
)


class TestMoney:
    def test_the_story_of_a_return(self) -> None:
        """Two parcels; one unit as new, one opened with a fee of 10 percent; 999 for two is 500 and 499."""
        story = delivered()
        story.then(asking(day(22), tea=2), parcel("r1", day(25), tea=1), parcel("r2", day(26), tea=1))
        facts = story.then(looked_at("i1", day(27), ("tea", 1, "as_new"), ("tea", 1, "opened")))
        inspected = only(facts, ReturnItemsInspected)
        assert [(i.worth_minor, i.disposition, i.fee_percent) for i in inspected.lines] == [
            (500, "restock", 0),
            (499, "regrade", 10),
        ]
        assert inspected.complete
        due = only(facts, ReturnRefundDue)
        [line] = due.lines
        assert (line.quantity, line.gross_minor, line.fee_minor, line.refund_minor) == (2, 999, 50, 949)
        assert (due.due_id, due.amount_minor, due.trigger_at) == ("A1-RMA1-D2", 949, day(27))
        assert status(story) is ReturnStatus.INSPECTING
        resolved = only(story.then(paid(due, day(30))), ReturnResolved)
        assert (resolved.refunded_minor, resolved.requested_at, resolved.closes_at) == (949, day(22), day(44))
        assert story.then(paid(due, day(30), "A1-R7")) == []
        assert story.then(due_command("A1", f"close {RMA1}", day(44)))[0].type == "return.closed"

    def test_partial_returns_over_time_sum_to_the_whole(self) -> None:
        story = delivered()
        amounts = []
        for n in (1, 2, 3):
            return_id = f"A1-RMA{n}"
            facts = story.then(
                asking(day(3), mug=1),
                parcel(f"r{n}", day(5), return_id, mug=1),
                looked_at(f"i{n}", day(6), ("mug", 1, "as_new"), return_id=return_id),
            )
            amounts.append(only(facts, ReturnRefundDue).amount_minor)
        assert amounts == [333, 334, 333]

    def test_cancelled_units_count_at_the_worth_they_were_given(self) -> None:
        story = delivered(mug=1)
        story.then(
            RecordUnits("A1-C1", "cancelled", (RecordedUnits(line_id="mug", quantity=2, goods_minor=667),), day(1)),
            asking(day(3), mug=1),
            parcel("r1", day(5), mug=1),
        )
        assert only(story.then(looked_at("i1", day(6), ("mug", 1, "as_new"))), ReturnRefundDue).amount_minor == 333

    def test_sending_it_back_is_charged_once_in_a_return(self) -> None:
        story = delivered(policy(return_shipping_fee_minor=100))
        story.then(asking(day(3), mug=2), parcel("r1", day(5), mug=2))
        first = only(story.then(looked_at("i1", day(6), ("mug", 1, "as_new"))), ReturnRefundDue)
        second = only(story.then(looked_at("i2", day(7), ("mug", 1, "as_new"))), ReturnRefundDue)
        assert (first.amount_minor, first.return_shipping_fee_minor) == (233, 100)
        assert (second.amount_minor, second.return_shipping_fee_minor) == (334, 0)

    def test_a_fee_above_the_refund_leaves_nothing_due_and_the_rest_of_it_waits(self) -> None:
        story = delivered(policy(return_shipping_fee_minor=400))
        story.then(asking(day(3), mug=2), parcel("r1", day(5), mug=2))
        assert [f.type for f in story.then(looked_at("i1", day(6), ("mug", 1, "as_new")))] == ["return.items_inspected"]
        due = only(story.then(looked_at("i2", day(7), ("mug", 1, "as_new"))), ReturnRefundDue)
        assert (due.amount_minor, due.return_shipping_fee_minor) == (667 - 400, 400)

    def test_what_is_found_defective_is_refunded_with_its_shipping_and_without_the_fee(self) -> None:
        story = delivered(policy(return_shipping_fee_minor=100))
        story.then(asking(day(3), mug=1), parcel("r1", day(5), mug=1))
        due = only(story.then(looked_at("i1", day(6), ("mug", 1, "defective"))), ReturnRefundDue)
        assert (due.amount_minor, due.lines[0].shipping_minor, due.return_shipping_fee_minor) == (333 + 67, 67, 0)

    def test_a_fee_is_of_what_is_refunded_not_of_what_it_was_worth(self) -> None:
        half = InspectionRule(outcome="opened", disposition="regrade", refund_percent=50, fee_percent=10)
        story = delivered(policy(inspection=(half, *(rule for rule in RULES if rule.outcome != "opened"))))
        story.then(asking(day(3), mug=1), parcel("r1", day(5), mug=1))
        [line] = only(story.then(looked_at("i1", day(6), ("mug", 1, "opened"))), ReturnRefundDue).lines
        assert (line.gross_minor, line.fee_minor, line.refund_minor) == (333, 17, 167 - 17)

    def test_nothing_refunded_resolves_at_once(self) -> None:
        story = delivered()
        story.then(asking(day(3), mug=3), parcel("r1", day(5), mug=3))
        facts = story.then(looked_at("i1", day(6), ("mug", 2, "wrong_item"), ("mug", 1, "not_in_box")))
        assert only(facts, ReturnResolved).refunded_minor == 0
        buckets = law(story.state, "mug").buckets
        assert buckets[ReverseBucket.REJECTED_SENT_BACK] == 2
        assert buckets[ReverseBucket.WITH_CUSTOMER] == 1

    @pytest.mark.parametrize("resolution", [Resolution.REFUND, Resolution.STORE_CREDIT])
    def test_a_repeated_or_exaggerated_inspection_pays_nothing_more(self, resolution: Resolution) -> None:
        story = delivered()
        story.then(asking(day(3), resolution, mug=1), parcel("r1", day(5), mug=1))
        due = only(story.then(looked_at("i1", day(6), ("mug", 1, "as_new"))), ReturnRefundDue)
        assert due.resolution is resolution
        assert story.then(looked_at("i1", day(6), ("mug", 1, "as_new"))) == []
        facts = story.then(looked_at("i2", day(6), ("mug", 1, "as_new")))
        assert [f for f in facts if isinstance(f, ReturnRefundDue)] == []
        assert only(facts, ReturnReceivedUnannounced).announced_as == RMA1, "one more came than was asked for"

    def test_a_refund_of_another_cause_is_none_of_ours(self) -> None:
        assert delivered().then(SettleRefund("A1-C1", "A1-R1", 100, day(5))) == []

    def test_kept_goods_are_refunded_without_coming_back(self) -> None:
        story = delivered(policy(return_shipping_fee_minor=100))
        facts = story.then(asking(day(3), Resolution.KEEP_IT, mug=1))
        due = only(facts, ReturnRefundDue)
        assert (due.amount_minor, units(story, "mug"), deadlines(story.state)) == (333, {"kept": 1}, {})
        assert only(story.then(paid(due, day(4))), ReturnResolved).refunded_minor == 333


class TestTriggers:
    @pytest.mark.parametrize("trigger", ["at_once", "carrier_scan", "receipt", "inspection"])
    def test_the_policy_says_what_makes_it_due_and_it_is_due_once(self, trigger: str) -> None:
        story = delivered(policy(refund_trigger=trigger))
        steps: dict[str, RequestReturn | RecordScan | ReceiveParcel | InspectItems] = {
            "at_once": asking(day(3), mug=2),
            "carrier_scan": RecordScan(RMA1, "T1", day(4)),
            "receipt": parcel("r1", day(5), mug=2),
            "inspection": looked_at("i1", day(6), ("mug", 2, "as_new")),
        }
        dues = {step: [f for f in story.then(c) if isinstance(f, ReturnRefundDue)] for step, c in steps.items()}
        assert [step for step, due in dues.items() if due] == [trigger]
        [due] = dues[trigger]
        assert (due.amount_minor, due.trigger_at) == (667, steps[trigger].at)
        assert only(story.then(paid(due, day(7))), ReturnResolved).refunded_minor == 667

    def test_an_inspection_takes_back_what_was_refunded_too_soon(self) -> None:
        story = delivered(policy(refund_trigger="receipt"))
        due = only(story.then(asking(day(3), mug=2), parcel("r1", day(5), mug=2)), ReturnRefundDue)
        story.then(paid(due, day(5)))
        facts = story.then(looked_at("i1", day(6), ("mug", 1, "as_new"), ("mug", 1, "wrong_item")))
        assert only(facts, ReturnItemsInspected).recovery_minor == 333
        assert [f for f in facts if isinstance(f, ReturnRefundDue)] == []
        assert only(facts, RecoveryOpened).amount_minor == 333
        written_off = SettleRecovery("A1-RC1", "written_off", "supervisor:s", "a mug", day(7))
        assert only(story.then(written_off), ReturnResolved).refunded_minor == 667

    def test_what_was_to_be_recovered_before_is_not_said_again(self) -> None:
        story = delivered(policy(refund_trigger="receipt"))
        story.then(asking(day(3), tea=2), parcel("r1", day(5), tea=2))
        found = [looked_at(f"i{n}", day(6), ("tea", 1, "counterfeit")) for n in (1, 2)]
        recovered = [only(story.then(one), ReturnItemsInspected).recovery_minor for one in found]
        assert recovered == [500, 499]

    def test_what_was_refunded_at_once_and_never_came_is_recovered_once(self) -> None:
        story = delivered(policy(refund_trigger="at_once"))
        story.then(asking(day(3), mug=1))
        with pytest.raises(NotAllowed):
            story.then(CancelReturn(RMA1, "keep the money and the mug", day(4)))
        assert only(story.then(ExpireReturn(RMA1, day(33))), ReturnExpired).recovery_minor == 333
        facts = story.then(parcel("r1", day(35), mug=1), looked_at("i1", day(36), ("mug", 1, "as_new")))
        assert [f for f in facts if isinstance(f, ReturnRefundDue)] == []

    def test_what_one_return_has_too_much_another_is_not_paid_again(self) -> None:
        story = delivered(policy(refund_trigger="at_once"))
        story.then(asking(day(3), mug=1), ExpireReturn(RMA1, day(33)))
        again = replace(asking(day(30), mug=3), at=day(30))
        due = only(story.then(again), ReturnRefundDue)
        assert due.amount_minor == 1000 - 333


class TestRevision:
    def resolved(self, outcome: str = "opened") -> Story:
        story = delivered()
        story.then(asking(day(3), tea=2), parcel("r1", day(5), tea=2))
        due = only(story.then(looked_at("i1", day(6), ("tea", 2, outcome))), ReturnRefundDue)
        story.then(paid(due, day(7)))
        assert status(story) is ReturnStatus.RESOLVED
        return story

    def revise(self, *found: tuple[str, int, str], **by_hand: Any) -> ReviseInspection:
        lines = tuple(RevisedUnits(line_id, n, InspectionOutcome(o), **by_hand) for line_id, n, o in found)
        return ReviseInspection(RMA1, "i1", lines, day(8))

    def test_in_the_customers_favour_it_pays_the_difference(self) -> None:
        story = self.resolved()
        facts = story.then(self.revise(("tea", 2, "as_new")))
        due = only(facts, ReturnRefundDue)
        assert (due.amount_minor, due.lines[0].quantity, due.due_id) == (100, 0, "A1-RMA1-D2.1")
        assert status(story) is ReturnStatus.INSPECTING
        assert only(story.then(paid(due, day(9))), ReturnResolved).refunded_minor == 999

    def test_against_the_customer_it_opens_a_recovery_and_pays_nothing_back_twice(self) -> None:
        story = self.resolved("as_new")
        facts = story.then(self.revise(("tea", 1, "as_new"), ("tea", 1, "counterfeit")))
        revised = only(facts, ReturnInspectionRevised)
        assert (revised.recovery_minor, [i.worth_minor for i in revised.after]) == (499, [500, 499])
        assert units(story, "tea") == {"accepted": 1, "rejected_held": 1}
        back = story.then(self.revise(("tea", 2, "as_new")))
        assert only(back, ReturnInspectionRevised).recovery_minor == 0
        assert [f for f in back if isinstance(f, ReturnRefundDue)] == []

    def test_a_revision_keeps_the_history_and_says_the_same_only_once(self) -> None:
        story = self.resolved()
        revised = only(story.then(self.revise(("tea", 2, "as_new"))), ReturnInspectionRevised)
        assert [i.outcome for i in revised.before] == ["opened"]
        assert [i.outcome for i in revised.after] == ["as_new"]
        assert story.state.returns[RMA1].inspections["i1"].revisions == 1
        assert story.then(self.revise(("tea", 2, "as_new"))) == []

    def test_a_review_holds_the_money_until_a_person_decides(self) -> None:
        story = delivered()
        story.then(asking(day(3), tea=2), parcel("r1", day(5), tea=2))
        facts = story.then(looked_at("i1", day(6), ("tea", 1, "as_new"), ("tea", 1, "customer_damage")))
        due = only(facts, ReturnRefundDue)
        assert due.amount_minor == 500
        assert [f.type for f in story.then(paid(due, day(7)))] == ["return.refund_settled"]
        facts = story.then(self.revise(("tea", 1, "as_new"), ("tea", 1, "customer_damage")))
        assert only(facts, ReturnRefundDue).amount_minor == 250
        assert units(story, "tea") == {"accepted": 2}

    def test_a_person_may_set_the_percentage_but_not_refund_what_is_sent_back(self) -> None:
        story = self.resolved()
        facts = story.then(self.revise(("tea", 2, "customer_damage"), refund_percent=80))
        assert only(facts, ReturnInspectionRevised).recovery_minor == 899 - 799
        with pytest.raises(Invalid, match=r"lines\.0: what is sent back"):
            story.then(self.revise(("tea", 2, "wrong_item"), refund_percent=80))

    def test_a_unit_that_was_not_in_the_box_may_turn_up_unless_it_was_returned_again(self) -> None:
        story = delivered()
        story.then(
            asking(day(3), tea=2), parcel("r1", day(5), tea=2), looked_at("i1", day(6), ("tea", 2, "not_in_box"))
        )
        due = only(story.then(self.revise(("tea", 1, "as_new"), ("tea", 1, "not_in_box"))), ReturnRefundDue)
        assert due.amount_minor == 500
        story.then(asking(day(8), tea=1))
        with pytest.raises(Invalid, match="in another return"):
            story.then(self.revise(("tea", 2, "as_new")))

    @pytest.mark.parametrize(
        ("found", "field"),
        [
            ((("tea", 1, "as_new"),), "lines: must account for all 2"),
            ((("tea", 2, "extra_item"),), "lines.0.outcome"),
            ((("mug", 1, "as_new"),), "lines: must account for all 0"),
        ],
    )
    def test_a_revision_accounts_for_every_unit(self, found: Any, field: str) -> None:
        with pytest.raises(Invalid, match=field):
            self.resolved().then(self.revise(*found))

    def test_a_closed_return_is_reopened_with_new_evidence_and_revised(self) -> None:
        story = self.resolved()
        story.then(CloseReturn(RMA1, day(20)))
        with pytest.raises(NotAllowed):
            story.then(self.revise(("tea", 2, "as_new")))
        story.then(ReopenReturn(RMA1, "photos of the seal", ("seal.jpg",), day(21)))
        assert story.state.returns[RMA1].evidence == ("seal.jpg",)
        assert only(story.then(self.revise(("tea", 2, "as_new"))), ReturnRefundDue).amount_minor == 100


def test_a_free_line_is_returned_without_money() -> None:
    story = Story(policies(policy()))
    story.then(
        RecordPurchase(placed(*LINES, order_line("gift", 1, 0))),
        shipped("shipped", day(1), gift=1),
        shipped("delivered", day(2), gift=1),
        asking(day(3), gift=1),
        parcel("r1", day(5), gift=1),
    )
    facts = story.then(looked_at("i1", day(6), ("gift", 1, "as_new")))
    assert [f.type for f in facts] == ["return.items_inspected", "return.resolved"]
    assert not [f for f in story.facts if isinstance(f, ClaimResolved)]
