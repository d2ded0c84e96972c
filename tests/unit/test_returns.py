"""Returns: what is asked for, decided and sent back; told as stories of one order."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from pydantic import TypeAdapter

from returns.domain.decide import (
    ApproveReturn,
    DeclineReturn,
    ExpireReturn,
    GrantException,
    IssueLabel,
    OpenClaim,
    RecordDispute,
    RecordPurchase,
    RecordUnits,
    RequestReturn,
    ResolveClaim,
    deadlines,
    due_command,
)
from returns.domain.parcels import RecordScan
from returns.domain.rma import ReturnStatus
from returns.domain.state import OrderReturns, free, law
from returns.domain.units import BUCKET_OF, UnitStatus
from shared.contracts.returns import (
    DeclaredCondition,
    RecordedUnits,
    Resolution,
    ReturnApproved,
    ReturnDeclined,
    ReturnEligibilityEvaluated,
    ReturnExceptionGranted,
    ReturnExpired,
    ReturnItemsReceived,
    ReturnReason,
    ReturnReceivedUnannounced,
    ReturnRefundDue,
    ReturnRequested,
    ReturnResolved,
    ReturnSentToReview,
    ReturnUnexpectedItemReceived,
)
from shared.core.machine import Invalid, NotAllowed
from tests.returns_story import (
    RMA1,
    V1,
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
    policy,
    returning,
    shipped,
    status,
    surprise,
    units,
)


class TestArrivalOfFacts:
    def test_topics_may_cross_in_any_way_and_the_counters_are_the_same(self) -> None:
        first = [shipped("shipped", day(1), mug=2), shipped("delivered", day(2), mug=2)]
        second = [
            shipped("shipped", day(1), shipment="A1-S2", mug=1, tea=2),
            shipped("lost", day(4), shipment="A1-S2", mug=1, tea=2),
        ]
        orders: list[Any] = [
            RecordPurchase(placed()),
            RecordUnits("A1-C1", "cancelled", (RecordedUnits(line_id="tea", quantity=1, goods_minor=500),), day(3)),
        ]
        payments: list[Any] = [RecordDispute("d1", True), RecordDispute("d2", True), RecordDispute("d1", False)]
        weaves = [
            [*orders, *first, *second, *payments],
            [*payments, *second, *first, *orders],
            [first[0], orders[0], payments[0], second[0], payments[1], first[1], payments[2], orders[1], second[1]],
            [second[0], first[0], second[1], orders[0], first[1], *payments, orders[1]],
        ]
        ends = []
        for weave in weaves:
            story = Story()
            story.then(*weave)
            ends.append(story.state)
        assert all(end == ends[0] for end in ends)
        assert law(ends[0], "mug").delivered == 2
        assert law(ends[0], "tea").lost == 2

    def test_told_again_nothing_happens(self) -> None:
        story = delivered()
        assert story.then(RecordPurchase(placed()), shipped("delivered", day(2), mug=3, tea=2)) == []
        story.then(RecordDispute("d1", True))
        assert story.then(RecordDispute("d1", True), RecordDispute("d2", False)) == []
        assert story.then(shipped("withdrawn", day(3), shipment="A1-S9", mug=1)) == []

    def test_parcels_of_a_shipment_arrive_each_for_itself(self) -> None:
        story = Story()
        story.then(
            RecordPurchase(placed()),
            shipped("shipped", day(1), mug=3),
            shipped("delivered", day(2), tracking="T1", mug=1),
            shipped("delivered", day(9), tracking="T2", mug=1),
            shipped("lost", day(9), tracking="T3", mug=1),
        )
        assert story.then(shipped("delivered", day(9), tracking="T2", mug=1)) == []
        row = law(story.state, "mug")
        assert (row.delivered, row.lost) == (2, 1)
        [old, new] = only(story.then(asking(day(33), mug=2)), ReturnEligibilityEvaluated).verdicts
        assert [(v.delivered_at, v.outcome) for v in (old, new)] == [(day(2), "decline"), (day(9), "approve")]

    def test_lost_units_that_were_promised_anew_stay_lost_when_the_rest_is_found(self) -> None:
        story = Story()
        story.then(
            RecordPurchase(placed()),
            shipped("shipped", day(1), mug=3),
            shipped("lost", day(4), tracking="T1", mug=3),
            OpenClaim(of(mug=1), ReturnReason.NOT_RECEIVED, (), day(5)),
            ResolveClaim("A1-CL1", "replaced", "", day(6)),
            shipped("withdrawn", day(7), tracking="T1", mug=2),
        )
        assert (law(story.state, "mug").lost, law(story.state, "mug").undone) == (1, 2)
        story.then(shipped("delivered", day(8), tracking="T1", mug=2))
        assert (law(story.state, "mug").lost, free(story.state, "mug")) == (1, 2)

    def test_units_that_turn_up_under_another_number_are_delivered_and_neither_lost_nor_missing_beside_it(self) -> None:
        story = Story()
        relabelled = RecordUnits("A1-S1", "relabelled", (), day(6), "T3", replaces="T1")
        other = RecordUnits("A1-S1", "relabelled", (), day(6), "T3", replaces="T2")
        story.then(
            RecordPurchase(placed()),
            shipped("shipped", day(1), mug=3),
            shipped("lost", day(4), tracking="T1", mug=2),
            shipped("lost", day(4), tracking="T2", mug=1),
            shipped("withdrawn", day(5), tracking="T1", mug=2),
            shipped("withdrawn", day(5), tracking="T2", mug=1),
            relabelled,
            other,
        )
        assert story.then(relabelled) == [], "told again"
        story.then(shipped("delivered", day(8), tracking="T3", mug=3))
        row = law(story.state, "mug")
        assert (row.delivered, row.lost, row.undone) == (3, 0, 0)

    def test_what_the_customer_did_not_get_cannot_come_back(self) -> None:
        story = delivered()
        story.then(shipped("withdrawn", day(3), mug=3, tea=2))
        facts = story.then(asking(day(4), mug=1))
        assert [why.code for why in only(facts, ReturnDeclined).reasons] == ["not_delivered"]

    def test_a_return_stands_when_the_delivery_under_it_is_contested(self) -> None:
        story = delivered()
        story.then(asking(day(3), mug=2), shipped("withdrawn", day(4), mug=3, tea=2))
        row = law(story.state, "mug")
        assert (row.delivered, row.contested, row.undone) == (0, 2, 3)
        story.then(shipped("delivered", day(6), mug=3, tea=2))
        assert law(story.state, "mug").contested == 0


class TestRequest:
    def test_units_are_judged_by_their_own_delivery_oldest_first(self) -> None:
        story = delivered(mug=1)
        for number, when in ((2, 2.0), (3, 20.0)):
            story.then(
                shipped("shipped", day(1), shipment=f"A1-S{number}", mug=1),
                shipped("delivered", day(when), shipment=f"A1-S{number}", mug=1),
            )
        facts = story.then(asking(day(33), mug=3))
        verdicts = only(facts, ReturnEligibilityEvaluated).verdicts
        assert [(v.delivered_at, v.quantity, v.outcome) for v in verdicts] == [
            (day(2), 2, "decline"),
            (day(20), 1, "approve"),
        ]
        assert only(facts, ReturnApproved).lines == of(mug=1)
        assert units(story, "mug") == {"declined": 2, "awaiting": 1}

    def test_nobody_says_to_have_asked_before_the_order_but_a_clock_that_runs_behind_turns_nobody_away(self) -> None:
        before = asking(day(-1), mug=1)
        with pytest.raises(Invalid, match="occurred_at: must not lie before the order was placed"):
            delivered().then(before)
        facts = delivered().then(replace(before, is_by_clock=True))
        assert only(facts, ReturnRequested).requested_at == day(2), "when they arrived"
        assert only(facts, ReturnApproved).lines == of(mug=1)

    def test_the_unit_of_a_delivery_that_is_in_a_return_is_not_judged_again(self) -> None:
        story = delivered(mug=1)
        story.then(
            shipped("shipped", day(1), shipment="A1-S2", mug=1),
            shipped("delivered", day(20), shipment="A1-S2", mug=1),
            asking(day(33), mug=2),
        )
        [verdict] = only(story.then(asking(day(33), mug=1)), ReturnEligibilityEvaluated).verdicts
        assert (verdict.delivered_at, verdict.outcome) == (day(2), "decline")

    def test_a_unit_is_in_one_open_return(self) -> None:
        story = delivered()
        story.then(asking(day(3), mug=3))
        with pytest.raises(Invalid, match=r"lines\.0.quantity: must not be above 0"):
            story.then(asking(day(3), mug=1))

    def test_a_claimed_unit_is_declined_as_that(self) -> None:
        story = delivered()
        story.then(OpenClaim(of(tea=2), ReturnReason.DEFECTIVE, (), day(3)))
        declined = only(story.then(asking(day(4), tea=1)), ReturnDeclined)
        assert [why.code for why in declined.reasons] == ["already_claimed"]

    @pytest.mark.parametrize(
        ("command", "field"),
        [
            (asking(day(3), cup=1), "lines.0.line_id: is not a line"),
            (asking(day(3), mug=4), "lines.0.quantity: must not be above 3"),
            (asking(day(-1), mug=1), "occurred_at"),
            (
                RequestReturn((returning("mug", 1), returning("mug", 1)), Resolution.REFUND, "", (), day(3)),
                "lines.1.line_id",
            ),
            (
                RequestReturn((returning("mug", 1, ReturnReason.NOT_RECEIVED),), Resolution.REFUND, "", (), day(3)),
                "lines.0.reason",
            ),
            (asking(day(3), Resolution.EXCHANGE, mug=1), "lines.0.exchange_sku: is required"),
            (
                RequestReturn((returning("mug", 1, exchange_sku="x"),), Resolution.REFUND, "", (), day(3)),
                "lines.0.exchange_sku",
            ),
        ],
    )
    def test_a_contradiction_is_named_by_field(self, command: RequestReturn, field: str) -> None:
        with pytest.raises(Invalid, match=field):
            delivered().then(command)

    def test_cancelled_units_are_not_left_to_return(self) -> None:
        story = delivered(mug=1)
        story.then(
            RecordUnits("A1-C1", "cancelled", (RecordedUnits(line_id="mug", quantity=2, goods_minor=667),), day(1))
        )
        with pytest.raises(Invalid, match="must not be above 1"):
            story.then(asking(day(3), mug=2))


class TestReviewAndException:
    def test_a_doubt_goes_to_a_person_who_approves_some_and_so_declines_the_rest(self) -> None:
        story = delivered()
        damaged = RequestReturn(
            (returning("mug", 2, condition=DeclaredCondition.DAMAGED),), Resolution.REFUND, "", (), day(3)
        )
        assert only(story.then(damaged), ReturnSentToReview).reasons[0].code == "condition_review"
        approved = only(story.then(ApproveReturn(RMA1, of(mug=1), "agent:anna", day(4))), ReturnApproved)
        assert (approved.approver, approved.expires_at) == ("agent:anna", day(34))
        assert units(story, "mug") == {"awaiting": 1, "declined": 1}
        assert free(story.state, "mug") == 2

    def test_a_reviewer_declines_in_words(self) -> None:
        story = delivered()
        story.then(RecordDispute("d1", True), asking(day(3), mug=1))
        declined = only(story.then(DeclineReturn(RMA1, "wait for the bank", day(4))), ReturnDeclined)
        assert [why.text for why in declined.reasons] == ["wait for the bank"]

    def test_a_review_cannot_approve_what_the_policy_declines(self) -> None:
        story = delivered(mug=1)
        story.then(
            RecordDispute("d1", True),
            shipped("shipped", day(1), shipment="A1-S2", mug=2),
            shipped("delivered", day(20), shipment="A1-S2", mug=2),
            asking(day(40), mug=3),
        )
        with pytest.raises(Invalid, match=r"lines\.0.quantity: must not be above 2"):
            story.then(ApproveReturn(RMA1, of(mug=3), "agent:anna", day(41)))
        assert only(story.then(ApproveReturn(RMA1, None, "agent:anna", day(41))), ReturnApproved).lines == of(mug=2)

    def test_an_exception_sets_the_policy_aside_with_a_name_and_a_reason(self) -> None:
        story = delivered()
        assert [w.code for w in only(story.then(asking(day(40), mug=1)), ReturnDeclined).reasons] == ["window_over"]
        facts = story.then(GrantException(RMA1, None, "supervisor:eve", "was in hospital", day(41)))
        granted = only(facts, ReturnExceptionGranted)
        assert (granted.approver, granted.detail, granted.policy) == ("supervisor:eve", "was in hospital", V1)
        assert only(facts, ReturnApproved).approver == "supervisor:eve"
        assert (status(story), units(story, "mug")) == (ReturnStatus.APPROVED, {"awaiting": 1})

    def test_an_exception_cannot_bring_back_what_is_not_there(self) -> None:
        story = delivered(mug=1)
        story.then(asking(day(40), mug=1), asking(day(40), mug=1))
        story.then(GrantException("A1-RMA2", None, "supervisor:eve", "goodwill", day(41)))
        with pytest.raises(Invalid, match="lines: only 0 delivered"):
            story.then(GrantException(RMA1, None, "supervisor:eve", "goodwill", day(41)))

    def test_an_approved_return_needs_no_exception(self) -> None:
        story = delivered()
        story.then(asking(day(3), mug=1))
        with pytest.raises(NotAllowed) as refused:
            story.then(GrantException(RMA1, None, "supervisor:eve", "why not", day(4)))
        assert refused.value.status == "approved"
        assert "return.in_transit" in refused.value.allowed


class TestParcels:
    def test_two_parcels_one_of_them_told_twice(self) -> None:
        story = delivered()
        story.then(asking(day(3), mug=2))
        first = only(story.then(parcel("r1", day(5), mug=1)), ReturnItemsReceived)
        assert (first.lines[0].total, first.complete, status(story)) == (1, False, ReturnStatus.PARTIALLY_RECEIVED)
        assert story.then(parcel("r1", day(5), mug=1)) == []
        second = only(story.then(parcel("r2", day(6), mug=1)), ReturnItemsReceived)
        assert (second.lines[0].total, second.complete, status(story)) == (2, True, ReturnStatus.RECEIVED)
        assert units(story, "mug") == {"uninspected": 2}

    def test_an_item_that_is_none_of_the_orders_is_said_and_is_not_the_returns(self) -> None:
        story = delivered()
        story.then(asking(day(3), mug=1))
        facts = story.then(surprise("r2", day(5), "sock", 4))
        assert [(f.sku, f.quantity) for f in facts if isinstance(f, ReturnUnexpectedItemReceived)] == [("sock", 4)]
        assert story.then(surprise("r2", day(5), "sock", 4)) == []

    def test_a_scan_moves_all_that_is_awaited_and_gives_it_time(self) -> None:
        story = delivered()
        story.then(asking(day(3), mug=2), IssueLabel(RMA1, "dhl", "T1", day(3)), RecordScan(RMA1, "T1", day(20)))
        assert (status(story), units(story, "mug")) == (ReturnStatus.IN_TRANSIT, {"in_transit": 2})
        assert deadlines(story.state) == {f"expire {RMA1}": day(50)}
        assert story.then(RecordScan(RMA1, "T1", day(21))) == []
        story.then(parcel("r1", day(22), mug=2))
        assert story.then(RecordScan(RMA1, "T2", day(23))) == []

    def test_what_does_not_come_in_time_expires_and_is_free_again(self) -> None:
        story = delivered(policy(authorization_days=10))
        story.then(asking(day(3), mug=1))
        [(name, due_at)] = deadlines(story.state).items()
        with pytest.raises(NotAllowed):
            story.then(ExpireReturn(RMA1, due_at - timedelta(seconds=1)))
        expired = only(story.then(due_command("A1", name, due_at)), ReturnExpired)
        assert (expired.recovery_minor, status(story), free(story.state, "mug")) == (0, ReturnStatus.EXPIRED, 3)

    def test_a_late_parcel_reopens_by_policy(self) -> None:
        story = delivered(policy(authorization_days=10))
        story.then(asking(day(3), mug=1), ExpireReturn(RMA1, day(13)))
        facts = story.then(parcel("r1", day(15), mug=1))
        assert [f.type for f in facts] == ["return.reopened", "return.items_received"]
        assert status(story) is ReturnStatus.RECEIVED

    def test_a_late_parcel_that_does_not_reopen_its_return_waits_for_a_person(self) -> None:
        story = delivered(policy(authorization_days=10, late_parcel_reopens=False))
        story.then(asking(day(3), mug=1), ExpireReturn(RMA1, day(13)))
        facts = story.then(parcel("r1", day(15), mug=1))
        assert only(facts, ReturnReceivedUnannounced).decide_by == day(20)
        assert (status(story), status(story, "A1-RMA2")) == (ReturnStatus.EXPIRED, ReturnStatus.UNDER_REVIEW)

    def test_a_late_parcel_cannot_claim_a_unit_that_another_return_holds(self) -> None:
        story = delivered(policy(authorization_days=10), mug=1)
        story.then(asking(day(3), mug=1), ExpireReturn(RMA1, day(13)), asking(day(14), mug=1))
        facts = story.then(parcel("r1", day(15), mug=1))
        assert [f.type for f in facts] == ["return.unexpected_item_received", "return.discrepancy_recorded"]

    def test_what_came_goes_on_when_the_rest_expires(self) -> None:
        story = delivered(policy(authorization_days=10))
        story.then(asking(day(3), mug=2), parcel("r1", day(5), mug=1), ExpireReturn(RMA1, day(13)))
        assert (status(story), units(story, "mug")) == (ReturnStatus.RECEIVED, {"uninspected": 1, "not_arrived": 1})
        due = only(story.then(looked_at("i1", day(14), ("mug", 1, "as_new"))), ReturnRefundDue)
        assert only(story.then(paid(due, day(15))), ReturnResolved).refunded_minor == 333


def test_a_state_survives_its_way_through_json() -> None:
    story = delivered()
    story.then(
        asking(day(3), mug=2, tea=1),
        RecordScan(RMA1, "T1", day(4)),
        parcel("r1", day(5), mug=2),
        looked_at("i1", day(6), ("mug", 1, "opened"), ("mug", 1, "defective")),
        OpenClaim(of(tea=1), ReturnReason.DEFECTIVE, (), day(6)),
        RecordDispute("d1", True),
    )
    adapter = TypeAdapter(OrderReturns)
    assert adapter.validate_json(adapter.dump_json(story.state)) == story.state


def test_every_unit_status_of_the_machine_has_a_bucket() -> None:
    assert set(BUCKET_OF) == set(UnitStatus)
