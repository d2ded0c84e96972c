"""Returns and what the warehouse and the carrier report: recorded whatever it contradicts (I16), and then somebody's task."""

from typing import Any

import pytest

from returns.domain.decide import (
    ApproveReturn,
    CancelReturn,
    CloseReturn,
    DeclineReturn,
    ExpireReturn,
    GrantException,
    RecordPurchase,
    RecordUnits,
    RequestReturn,
)
from returns.domain.parcels import ReceiveParcel, RecordScan
from returns.domain.rma import ReturnStatus
from returns.domain.state import free, law
from returns.domain.units import ReverseBucket
from shared.contracts.returns import (
    DeclaredCondition,
    ObservedLine,
    RecordedUnits,
    Resolution,
    ReturnDeclined,
    ReturnDiscrepancyRecorded,
    ReturnItemsInspected,
    ReturnItemsReceived,
    ReturnObservationRecorded,
    ReturnReceivedUnannounced,
    ReturnRefundDue,
    ReturnReopened,
    ReturnResolved,
    ReturnUnexpectedItemReceived,
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
    policy,
    returning,
    shipped,
    status,
    surprise,
    units,
)

BLIND = "A1-RMA1"


def under_review(**units: int) -> Story:
    """The customer asked, and a person has to decide."""
    story = delivered()
    lines = tuple(returning(line_id, n, condition=DeclaredCondition.DAMAGED) for line_id, n in units.items())
    story.then(RequestReturn(lines, Resolution.REFUND, "", (), day(3)))
    return story


def codes(facts: list[Any]) -> list[str]:
    return [fact.contradicts for fact in facts if isinstance(fact, ReturnDiscrepancyRecorded)]


class TestBlindReturn:
    def arrived(self, **terms: Any) -> Story:
        story = delivered(policy(**terms))
        story.then(parcel("r1", day(5), "UNKNOWN-7", mug=2))
        return story

    def test_goods_without_a_return_wait_for_a_person_by_a_date(self) -> None:
        story = delivered(policy(review_days=3))
        facts = story.then(parcel("r1", day(5), "UNKNOWN-7", mug=2))
        opened = only(facts, ReturnReceivedUnannounced)
        assert (opened.return_id, opened.announced_as, opened.decide_by) == (BLIND, "UNKNOWN-7", day(8))
        assert only(facts, ReturnItemsReceived).lines[0].quantity == 2
        assert status(story) is ReturnStatus.UNDER_REVIEW
        assert law(story.state, "mug").buckets[ReverseBucket.RECEIVED_UNINSPECTED] == 2
        assert free(story.state, "mug") == 1, "what is here cannot be asked for"
        assert codes(facts) == []

    def test_approved_it_is_inspected_and_paid_like_any_other_without_a_fee_for_the_way_back(self) -> None:
        story = self.arrived(return_shipping_fee_minor=150)
        story.then(ApproveReturn(BLIND, None, "agent:a", day(6), Resolution.STORE_CREDIT))
        assert status(story) is ReturnStatus.RECEIVED
        due = only(story.then(looked_at("i1", day(7), ("mug", 2, "as_new"), return_id="UNKNOWN-7")), ReturnRefundDue)
        assert (due.amount_minor, due.resolution, due.return_shipping_fee_minor) == (667, Resolution.STORE_CREDIT, 0)
        assert only(story.then(paid(due, day(8))), ReturnResolved).refunded_minor == 667

    def test_what_is_not_approved_goes_back_and_may_be_returned_again(self) -> None:
        story = self.arrived()
        story.then(ApproveReturn(BLIND, of(mug=1), "agent:a", day(6)))
        assert units(story, "mug") == {"uninspected": 1, "rejected_sent_back": 1}
        assert free(story.state, "mug") == 2

    def test_declined_the_goods_are_sent_back(self) -> None:
        story = self.arrived()
        only(story.then(DeclineReturn(BLIND, "worn", day(6))), ReturnDeclined)
        assert units(story, "mug") == {"rejected_sent_back": 2}
        assert law(story.state, "mug").buckets[ReverseBucket.REJECTED_SENT_BACK] == 2
        story.then(asking(day(7), mug=3))
        assert units(story, "mug", "A1-RMA2") == {"awaiting": 3}, "goods that were sent back may be returned again"

    def test_more_of_it_joins_it_while_it_is_under_review(self) -> None:
        story = self.arrived()
        facts = story.then(parcel("r2", day(6), "UNKNOWN-7", mug=1, tea=1))
        assert only(facts, ReturnReceivedUnannounced).return_id == BLIND
        assert (units(story, "mug"), units(story, "tea")) == ({"uninspected": 3}, {"uninspected": 1})

    def test_only_a_money_back_or_a_replacement_can_be_said_of_it(self) -> None:
        with pytest.raises(Invalid, match="resolution: must be one of"):
            self.arrived().then(ApproveReturn(BLIND, None, "agent:a", day(6), Resolution.KEEP_IT))

    def test_items_that_are_none_of_the_orders_can_only_be_sent_back(self) -> None:
        story = delivered()
        sock = ReceiveParcel("UNKNOWN-7", "r1", "main", (), surprise("r1", day(5), "sock", 4).unexpected, day(5))
        assert only(story.then(sock), ReturnUnexpectedItemReceived).return_id == BLIND
        with pytest.raises(Invalid, match="lines: nothing that came is a unit of the order"):
            story.then(ApproveReturn(BLIND, None, "agent:a", day(6)))
        story.then(DeclineReturn(BLIND, "not ours", day(6)))

    def test_a_customer_cannot_call_off_what_is_here(self) -> None:
        with pytest.raises(NotAllowed):
            self.arrived().then(CancelReturn(BLIND, "no", day(6)))


class TestInspectionAhead:
    def test_an_inspection_that_overtakes_its_receipt_is_applied_and_the_receipt_counts_nothing_twice(self) -> None:
        story = delivered()
        story.then(asking(day(3), mug=2))
        facts = story.then(looked_at("i1", day(6), ("mug", 2, "as_new")))
        assert only(facts, ReturnItemsReceived).by_inspection
        assert only(facts, ReturnRefundDue).amount_minor == 667
        assert codes(facts) == []
        assert story.then(parcel("r1", day(5), mug=2)) == []
        assert (units(story, "mug"), free(story.state, "mug")) == ({"accepted": 2}, 1)
        assert story.then(parcel("r1", day(5), mug=2)) == []

    def test_what_a_receipt_has_beyond_its_earlier_inspection_is_received(self) -> None:
        story = delivered()
        story.then(asking(day(3), mug=3), looked_at("i1", day(6), ("mug", 1, "as_new")))
        received = only(story.then(parcel("r1", day(5), mug=3)), ReturnItemsReceived)
        assert (received.lines[0].quantity, received.lines[0].total) == (2, 3)

    def test_a_trigger_at_receipt_pays_nothing_for_what_is_found_to_be_wrong(self) -> None:
        story = delivered(policy(refund_trigger="receipt"))
        story.then(asking(day(3), mug=1))
        facts = story.then(looked_at("i1", day(6), ("mug", 1, "counterfeit")))
        assert [f for f in facts if isinstance(f, ReturnRefundDue)] == []

    def test_what_is_found_while_a_person_decides_waits_for_the_decision(self) -> None:
        story = under_review(mug=2)
        story.then(looked_at("i1", day(4), ("mug", 1, "as_new"), ("mug", 1, "opened")))
        assert (status(story), units(story, "mug")) == (ReturnStatus.UNDER_REVIEW, {"uninspected": 2})
        facts = story.then(ApproveReturn(RMA1, None, "agent:a", day(5)))
        assert [line.outcome for line in only(facts, ReturnItemsInspected).lines] == ["as_new", "opened"]
        assert only(facts, ReturnRefundDue).amount_minor == 667 - 33
        assert story.state.waiting == ()

    def test_what_is_found_while_a_person_decides_is_of_no_use_when_the_goods_go_back(self) -> None:
        story = under_review(mug=2)
        story.then(looked_at("i1", day(4), ("mug", 2, "as_new")), DeclineReturn(RMA1, "no", day(5)))
        assert (units(story, "mug"), story.state.waiting) == ({"rejected_sent_back": 2}, ())

    def test_a_unit_that_is_not_in_the_box_did_not_come(self) -> None:
        story = delivered()
        story.then(asking(day(3), mug=2))
        facts = story.then(looked_at("i1", day(6), ("mug", 1, "as_new"), ("mug", 1, "not_in_box")))
        assert units(story, "mug") == {"accepted": 1, "awaiting": 1}
        assert codes(facts) == ["quantities"]

    def test_an_inspection_under_an_unknown_name_opens_a_blind_return(self) -> None:
        story = delivered()
        story.then(looked_at("i1", day(4), ("mug", 1, "as_new"), return_id="UNKNOWN-7"))
        assert status(story) is ReturnStatus.UNDER_REVIEW
        assert story.then(parcel("r1", day(4), "UNKNOWN-7", mug=1)) == [], "its receipt comes late"
        facts = story.then(ApproveReturn(BLIND, None, "agent:a", day(5)))
        assert only(facts, ReturnRefundDue).amount_minor == 333


class TestContradictions:
    def test_more_than_was_asked_for_waits_for_a_person(self) -> None:
        story = delivered()
        story.then(asking(day(3), mug=1))
        facts = story.then(parcel("r1", day(5), mug=3, tea=1))
        assert [(f.return_id, f.lines) for f in facts if isinstance(f, ReturnReceivedUnannounced)] == [
            (
                "A1-RMA2",
                (ObservedLine(line_id="mug", quantity=2), ObservedLine(line_id="tea", quantity=1)),
            )
        ]
        assert (codes(facts), units(story, "mug")) == (["quantities"], {"uninspected": 1})

    def test_more_than_was_delivered_is_said_and_belongs_to_no_return(self) -> None:
        story = delivered(mug=1)
        story.then(asking(day(3), mug=1))
        facts = story.then(parcel("r1", day(5), mug=2, tea=1))
        assert [(f.sku, f.quantity) for f in facts if isinstance(f, ReturnUnexpectedItemReceived)] == [
            ("sku-mug", 1),
            ("sku-tea", 1),
        ]
        assert codes(facts) == ["not_delivered"]

    @pytest.mark.parametrize("ended", ["declined", "cancelled", "expired", "closed"])
    def test_goods_for_a_return_that_is_over_wait_for_a_person(self, ended: str) -> None:
        story = delivered(policy(authorization_days=10, late_parcel_reopens=False))
        match ended:
            case "declined":
                story.then(asking(day(90), mug=1))
            case "cancelled":
                story.then(asking(day(3), mug=1), CancelReturn(RMA1, "no", day(4)))
            case "expired":
                story.then(asking(day(3), mug=1), ExpireReturn(RMA1, day(13)))
            case _:
                story.then(asking(day(3), mug=1), parcel("r1", day(4), mug=1))
                story.then(looked_at("i1", day(5), ("mug", 1, "wrong_item")), CloseReturn(RMA1, day(20)))
        assert status(story) == ended
        facts = story.then(parcel("r9", day(91), mug=1))
        assert (codes(facts), status(story), status(story, "A1-RMA2")) == (["return_over"], ended, "under_review")
        found = story.then(looked_at("i9", day(92), ("mug", 1, "as_new"), return_id=RMA1))
        assert found == []
        assert only(story.then(ApproveReturn("A1-RMA2", None, "agent:a", day(93))), ReturnRefundDue).amount_minor == 333

    def test_a_repeat_is_nothing_and_the_same_name_with_other_content_is_a_contradiction(self) -> None:
        story = delivered()
        story.then(asking(day(3), mug=2), parcel("r1", day(5), mug=2), looked_at("i1", day(6), ("mug", 1, "as_new")))
        assert story.then(parcel("r1", day(5), mug=2), looked_at("i1", day(6), ("mug", 1, "as_new"))) == []
        facts = story.then(parcel("r1", day(5), mug=1), looked_at("i1", day(6), ("mug", 1, "opened")))
        assert codes(facts) == ["other_content", "other_content"]
        assert story.then(parcel("r1", day(5), mug=1), looked_at("i1", day(6), ("mug", 1, "opened"))) == []
        assert units(story, "mug") == {"accepted": 1, "uninspected": 1}

    def test_an_empty_parcel_a_line_of_no_order_and_another_article_are_recorded(self) -> None:
        story = delivered()
        story.then(asking(day(3), mug=2))
        assert codes(story.then(parcel("r1", day(5)))) == ["empty"]
        assert codes(story.then(parcel("r2", day(5), cup=1))) == ["unknown_line"]
        other = (ObservedLine(line_id="mug", quantity=1, sku="cup-9"),)
        facts = story.then(ReceiveParcel(RMA1, "r3", "main", other, (), day(5)))
        assert (codes(facts), only(facts, ReturnItemsReceived).lines[0].sku) == (["other_article"], "cup-9")
        found = only(story.then(looked_at("i1", day(6), ("mug", 1, "wrong_item"))), ReturnItemsInspected)
        assert found.lines[0].sku == "cup-9", "the inspection is of what the receipt said it is"

    def test_a_substitute_that_comes_back_is_no_contradiction_and_keeps_its_article(self) -> None:
        """A returned substitute is booked to the stock of the article that it is."""
        story = Story()
        sent = (RecordedUnits(line_id="mug", quantity=1, sku="cup-9"), RecordedUnits(line_id="mug", quantity=2))
        story.then(
            RecordPurchase(placed()),
            shipped("shipped", day(1), mug=3),
            RecordUnits("A1-S1", "delivered", sent, day(2)),
            asking(day(3), mug=3),
        )
        came = (ObservedLine(line_id="mug", quantity=1, sku="cup-9"), ObservedLine(line_id="mug", quantity=2))
        facts = story.then(ReceiveParcel(RMA1, "r1", "main", came, (), day(5)))
        assert codes(facts) == []
        found = only(story.then(looked_at("i1", day(6), ("mug", 3, "as_new"))), ReturnItemsInspected)
        assert [(line.quantity, line.sku) for line in found.lines] == [(2, None), (1, "cup-9")]

    def test_a_scan_of_an_unknown_return_or_of_one_that_is_over_is_recorded_once(self) -> None:
        story = delivered()
        assert codes(story.then(RecordScan("UNKNOWN-7", "T1", day(3)))) == ["unknown_return"]
        assert story.then(RecordScan("UNKNOWN-7", "T1", day(4))) == []
        story.then(asking(day(3), mug=1), CancelReturn(RMA1, "no", day(4)))
        assert codes(story.then(RecordScan(RMA1, "T2", day(5)))) == ["return_over"]

    def test_a_scan_while_a_person_decides_is_applied_by_the_approval(self) -> None:
        story = under_review(mug=1)
        story.then(RecordScan(RMA1, "T1", day(4)), ApproveReturn(RMA1, None, "agent:a", day(5)))
        assert (status(story), units(story, "mug")) == (ReturnStatus.IN_TRANSIT, {"in_transit": 1})

    def test_an_exception_may_be_granted_for_what_is_here(self) -> None:
        story = under_review(mug=2)
        story.then(parcel("r1", day(4), mug=1), GrantException(RMA1, None, "supervisor:s", "kind", day(5)))
        assert units(story, "mug") == {"uninspected": 1, "awaiting": 1}
        assert status(story) is ReturnStatus.PARTIALLY_RECEIVED

    def test_goods_inspected_after_their_return_was_closed_reopen_it(self) -> None:
        story = delivered()
        story.then(asking(day(3), mug=1), parcel("r1", day(4), mug=1))
        story.then(CloseReturn(RMA1, day(5), "supervisor:s", "enough"))
        facts = story.then(looked_at("i1", day(6), ("mug", 1, "as_new")))
        assert only(facts, ReturnReopened).return_id == RMA1
        assert only(facts, ReturnRefundDue).amount_minor == 333


class TestOrderNotKnownYet:
    def test_what_is_reported_before_the_order_is_known_is_applied_when_it_is(self) -> None:
        story = Story()
        facts = story.then(
            shipped("shipped", day(1), mug=3),
            shipped("delivered", day(2), mug=3),
            parcel("r1", day(3), RMA1, mug=1),
            looked_at("i1", day(4), ("mug", 1, "as_new"), return_id=RMA1),
            RecordScan(RMA1, "T1", day(3)),
        )
        assert codes(facts) == ["unknown_order"] * 3
        assert len(story.state.waiting) == 3
        assert story.then(parcel("r1", day(3), RMA1, mug=1)) == []
        facts = story.then(RecordPurchase(placed()))
        assert only(facts, ReturnReceivedUnannounced).announced_as == RMA1
        assert {w.observation for w in story.state.waiting} == {"warehouse.items_inspected", "carrier.return_scanned"}
        assert status(story) is ReturnStatus.UNDER_REVIEW

    def test_every_word_is_in_the_journal(self) -> None:
        story = delivered()
        story.then(parcel("r1", day(3), "UNKNOWN-7", mug=1, cup=2))
        said = only(story.facts, ReturnObservationRecorded)
        assert [(line.line_id, line.quantity) for line in said.lines] == [("mug", 1), ("cup", 2)]
        assert (said.return_id, said.observation_id) == ("UNKNOWN-7", "r1")
