"""Returns: units that never arrived or arrived broken; told as stories of one order."""

from uuid import UUID

import pytest

from returns.domain.decide import ExpireReturn, GrantException, OpenClaim, RecordPurchase, RecordUnits, ResolveClaim
from returns.domain.state import free, law
from returns.domain.units import ReverseBucket
from returns.handlers import ROUTE
from shared.contracts.base import LineQuantity
from shared.contracts.fulfillment import ShipmentReturnedToSender
from shared.contracts.returns import ClaimResolved, ExchangeReleased, ReturnDeclined, ReturnReason, ReturnRefundDue
from shared.core.machine import Invalid, NotAllowed
from shared.messaging.envelope import Cause
from tests.returns_story import (
    RMA1,
    Story,
    asking,
    day,
    delivered,
    looked_at,
    of,
    only,
    order_line,
    paid,
    parcel,
    placed,
    policy,
    shipped,
)


class TestClaims:
    def lost(self) -> Story:
        story = delivered(tea=2)
        story.then(
            shipped("shipped", day(1), shipment="A1-S2", mug=3), shipped("lost", day(4), shipment="A1-S2", mug=3)
        )
        return story

    def test_lost_units_are_refunded_with_their_shipping(self) -> None:
        story = self.lost()
        story.then(OpenClaim(of(mug=2), ReturnReason.NOT_RECEIVED, (), day(5)))
        due = only(story.then(ResolveClaim("A1-CL1", "refunded", "carrier confirmed", day(6))), ReturnRefundDue)
        assert (due.return_id, due.due_id, due.amount_minor) == ("A1-CL1", "A1-CL1-D2", 667 + 133)
        assert [f.type for f in story.then(paid(due, day(7)))] == ["return.refund_settled"]
        with pytest.raises(Invalid, match="only 1 lost"):
            story.then(OpenClaim(of(mug=2), ReturnReason.NOT_RECEIVED, (), day(8)))

    def test_lost_units_that_were_worth_nothing_are_written_off(self) -> None:
        story = Story()
        gift = order_line("gift", 2, 0)
        story.then(RecordPurchase(placed(gift)), shipped("shipped", day(1), gift=2), shipped("lost", day(4), gift=2))
        story.then(OpenClaim(of(gift=1), ReturnReason.NOT_RECEIVED, (), day(5)))
        [resolved] = story.then(ResolveClaim("A1-CL1", "refunded", "a gift", day(6)))
        assert isinstance(resolved, ClaimResolved)
        assert resolved.written_off == of(gift=1)

    def test_lost_units_are_claimed_and_never_returned(self) -> None:
        declined = only(self.lost().then(asking(day(5), mug=1)), ReturnDeclined)
        assert [why.code for why in declined.reasons] == ["not_delivered"]

    def test_what_turns_up_after_it_was_made_good_is_not_paid_again(self) -> None:
        story = self.lost()
        story.then(
            OpenClaim(of(mug=3), ReturnReason.NOT_RECEIVED, (), day(5)),
            ResolveClaim("A1-CL1", "refunded", "", day(6)),
            shipped("withdrawn", day(7), shipment="A1-S2", mug=3),
            shipped("delivered", day(8), shipment="A1-S2", mug=3),
        )
        declined = only(story.then(asking(day(9), mug=1)), ReturnDeclined)
        assert [why.code for why in declined.reasons] == ["already_claimed"]
        with pytest.raises(Invalid, match="lines: only 0 delivered"):
            story.then(GrantException(RMA1, None, "supervisor:eve", "it is lovely", day(10)))

    def test_what_is_claimed_as_defective_is_not_claimed_again_when_it_is_said_to_be_lost(self) -> None:
        story = delivered()
        story.then(OpenClaim(of(mug=2), ReturnReason.DEFECTIVE, (), day(5)), shipped("lost", day(6), mug=3, tea=2))
        with pytest.raises(Invalid, match="only 1 lost"):
            story.then(OpenClaim(of(mug=2), ReturnReason.NOT_RECEIVED, (), day(7)))

    def test_a_defective_unit_is_replaced_and_kept(self) -> None:
        story = delivered()
        story.then(OpenClaim(of(mug=1, tea=1), ReturnReason.DEFECTIVE, ("crack.jpg",), day(5)))
        assert law(story.state, "mug").buckets[ReverseBucket.RETURN_OPEN] == 1
        facts = story.then(ResolveClaim("A1-CL1", "replaced", "", day(6)))
        released = [f for f in facts if isinstance(f, ExchangeReleased)]
        assert [(f.exchange_id, f.sku, f.reason_code) for f in released] == [
            ("A1-X1", "sku-mug", "damaged"),
            ("A1-X2", "sku-tea", "damaged"),
        ]
        assert law(story.state, "mug").buckets[ReverseBucket.KEPT_BY_CUSTOMER] == 1
        assert free(story.state, "mug") == 2

    def test_a_rejected_claim_frees_its_units_and_is_decided_once(self) -> None:
        story = delivered()
        story.then(
            OpenClaim(of(mug=3), ReturnReason.WRONG_ITEM, (), day(5)), ResolveClaim("A1-CL1", "rejected", "no", day(6))
        )
        assert free(story.state, "mug") == 3
        assert story.then(ResolveClaim("A1-CL1", "rejected", "no", day(6))) == []
        with pytest.raises(NotAllowed):
            story.then(ResolveClaim("A1-CL1", "refunded", "yes", day(6)))

    def test_a_claim_is_for_our_faults_and_for_units_that_are_free(self) -> None:
        story = delivered()
        with pytest.raises(Invalid, match="reason: unwanted"):
            story.then(OpenClaim(of(mug=1), ReturnReason.UNWANTED, (), day(5)))
        story.then(asking(day(5), mug=3))
        with pytest.raises(Invalid, match=r"lines\.0.quantity: only 0 delivered"):
            story.then(OpenClaim(of(mug=1), ReturnReason.DEFECTIVE, (), day(5)))

    def test_a_claim_is_not_paid_what_a_return_of_the_line_has_too_much(self) -> None:
        story = delivered(policy(refund_trigger="at_once"))
        story.then(
            asking(day(3), tea=1),
            ExpireReturn(RMA1, day(33)),
            OpenClaim(of(tea=2), ReturnReason.DEFECTIVE, (), day(34)),
        )
        due = only(story.then(ResolveClaim("A1-CL1", "refunded", "", day(35))), ReturnRefundDue)
        assert due.amount_minor == 999 + 100 - 500

    def test_claims_and_returns_of_one_line_sum_to_its_worth(self) -> None:
        story = delivered()
        story.then(OpenClaim(of(mug=1), ReturnReason.DEFECTIVE, (), day(5)))
        claimed = only(story.then(ResolveClaim("A1-CL1", "refunded", "", day(6))), ReturnRefundDue)
        story.then(asking(day(7), mug=2), parcel("r1", day(8), mug=2))
        returned = only(story.then(looked_at("i1", day(9), ("mug", 2, "as_new"))), ReturnRefundDue)
        assert claimed.lines[0].gross_minor + returned.lines[0].gross_minor == 1000


def test_units_that_came_back_to_the_sender_may_be_claimed_like_lost_ones() -> None:
    gone = ShipmentReturnedToSender(
        order_id="o1", shipment_id="o1-S1", lines=(LineQuantity(line_id="mug", quantity=2),)
    )
    why = Cause(UUID(int=1), day(3), "partner:carrier", "scan", "c1")
    told = ROUTE.translations[ShipmentReturnedToSender](gone, why)
    assert told is not None
    command = told.command
    assert isinstance(command, RecordUnits)
    assert (command.stage, [(u.line_id, u.quantity) for u in command.lines]) == ("lost", [("mug", 2)])
