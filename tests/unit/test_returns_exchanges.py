"""Returns: goods given for goods, and what the difference costs; told as stories of one order."""

import pytest

from returns.domain.decide import ExpireReturn, RecordCharge, RequestReturn, SettleDifference
from returns.domain.inspections import RevisedUnits, ReviseInspection
from returns.domain.rma import ReturnStatus
from shared.contracts.returns import (
    ExchangeCreated,
    ExchangeDifferenceDue,
    ExchangeDifferenceSettled,
    ExchangeReleased,
    InspectionOutcome,
    Resolution,
    ReturnReason,
    ReturnRefundDue,
    ReturnResolved,
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
    returning,
    shipped,
    status,
)


class TestExchange:
    def exchange(self, price: int | None) -> Story:
        story = delivered()
        line = returning("tea", 2, ReturnReason.SIZE, exchange_sku="big", exchange_unit_price_minor=price)
        created = only(story.then(RequestReturn((line,), Resolution.EXCHANGE, "", (), day(3))), ExchangeCreated)
        assert (created.exchange_id, created.sku) == ("A1-X1", "big")
        story.then(parcel("r1", day(5), tea=2))
        return story

    def test_an_even_one_is_released_when_the_goods_are_accepted(self) -> None:
        story = self.exchange(None)
        facts = story.then(looked_at("i1", day(6), ("tea", 2, "as_new")))
        released = only(facts, ExchangeReleased)
        assert (released.lines, released.sku, released.reason_code) == (of(tea=2), "big", "exchange")
        assert only(facts, ReturnResolved).refunded_minor == 0

    def test_a_dearer_one_waits_for_the_difference(self) -> None:
        story = self.exchange(700)
        facts = story.then(looked_at("i1", day(6), ("tea", 2, "as_new")))
        assert only(facts, ExchangeDifferenceDue).amount_minor == 1400 - 999
        assert status(story) is ReturnStatus.INSPECTING
        facts = story.then(RecordCharge("A1-X1", "A1-P3", 401, day(7)))
        assert [f.type for f in facts] == ["exchange.difference_settled", "exchange.released", "return.resolved"]
        assert only(facts, ExchangeDifferenceSettled).operation_id == "A1-P3"
        assert story.then(RecordCharge("A1-X1", "A1-P3", 401, day(7))) == []
        assert story.then(SettleDifference(RMA1, "A1-X1", day(7))) == []

    def test_a_person_may_settle_the_difference_and_a_charge_that_comes_late_is_given_back(self) -> None:
        story = self.exchange(700)
        story.then(looked_at("i1", day(6), ("tea", 2, "as_new")))
        facts = story.then(SettleDifference(RMA1, "A1-X1", day(7)))
        assert [f.type for f in facts] == ["exchange.difference_settled", "exchange.released", "return.resolved"]
        assert only(facts, ExchangeDifferenceSettled).operation_id is None
        due = only(story.then(RecordCharge("A1-X1", "A1-P3", 401, day(8))), ReturnRefundDue)
        assert (due.amount_minor, due.lines[0].quantity) == (401, 0)

    def test_a_revision_that_accepts_less_gives_the_rest_of_the_charge_back(self) -> None:
        story = self.exchange(700)
        story.then(looked_at("i1", day(6), ("tea", 2, "as_new")))
        lines = (
            RevisedUnits("tea", 1, InspectionOutcome.AS_NEW),
            RevisedUnits("tea", 1, InspectionOutcome.COUNTERFEIT),
        )
        story.then(ReviseInspection(RMA1, "i1", lines, day(7)))
        facts = story.then(RecordCharge("A1-X1", "A1-P3", 401, day(8)))
        assert only(facts, ExchangeReleased).lines == of(tea=1)
        assert only(facts, ReturnRefundDue).amount_minor == 401 - 201

    def test_a_charge_for_what_was_rejected_meanwhile_is_given_back_whole(self) -> None:
        story = self.exchange(700)
        story.then(looked_at("i1", day(6), ("tea", 2, "as_new")))
        facts = story.then(
            ReviseInspection(RMA1, "i1", (RevisedUnits("tea", 2, InspectionOutcome.COUNTERFEIT),), day(7))
        )
        assert only(facts, ExchangeDifferenceSettled).amount_minor == 0
        facts = story.then(RecordCharge("A1-X1", "A1-P3", 401, day(8)))
        assert only(facts, ReturnRefundDue).amount_minor == 401

    @pytest.mark.parametrize(("price", "worth"), [(700, 1400), (400, 800)])
    def test_exchanged_units_come_back_for_what_they_cost_in_all(self, price: int, worth: int) -> None:
        story = self.exchange(price)
        facts = story.then(looked_at("i1", day(6), ("tea", 2, "as_new")))
        if price > 500:
            story.then(RecordCharge("A1-X1", "A1-P3", 401, day(7)))
        else:
            story.then(paid(only(facts, ReturnRefundDue), day(7)))
        story.then(
            shipped("shipped", day(8), shipment="A1-S2", tea=2), shipped("delivered", day(9), shipment="A1-S2", tea=2)
        )
        facts = story.then(
            asking(day(10), tea=2),
            parcel("r2", day(11), "A1-RMA2", tea=2),
            looked_at("i2", day(12), ("tea", 2, "as_new"), return_id="A1-RMA2"),
        )
        assert only(facts, ReturnRefundDue).lines[0].gross_minor == worth

    def test_a_unit_that_was_replaced_and_not_in_the_box_is_not_exchanged_again(self) -> None:
        story = self.exchange(None)
        story.then(looked_at("i1", day(6), ("tea", 2, "as_new")))
        story.then(ReviseInspection(RMA1, "i1", (RevisedUnits("tea", 2, InspectionOutcome.NOT_IN_BOX),), day(7)))
        again = returning("tea", 2, ReturnReason.SIZE, exchange_sku="big")
        with pytest.raises(Invalid, match="must not be above 0"):
            story.then(RequestReturn((again,), Resolution.EXCHANGE, "", (), day(8)))
        story.then(
            shipped("shipped", day(8), shipment="A1-S2", tea=2), shipped("delivered", day(9), shipment="A1-S2", tea=2)
        )
        facts = story.then(RequestReturn((again,), Resolution.EXCHANGE, "", (), day(10)))
        assert "return.approved" in [f.type for f in facts]

    def test_no_difference_is_settled_for_what_was_rejected_after_all(self) -> None:
        story = self.exchange(700)
        story.then(looked_at("i1", day(6), ("tea", 2, "as_new")))
        lines = (RevisedUnits("tea", 2, InspectionOutcome.WRONG_ITEM),)
        facts = story.then(ReviseInspection(RMA1, "i1", lines, day(7)))
        assert only(facts, ReturnResolved).refunded_minor == 0
        with pytest.raises(NotAllowed, match="no difference is due"):
            story.then(SettleDifference(RMA1, "A1-X1", day(8)))

    def test_a_cheaper_one_pays_the_difference_back(self) -> None:
        story = self.exchange(400)
        facts = story.then(looked_at("i1", day(6), ("tea", 2, "as_new")))
        due = only(facts, ReturnRefundDue)
        assert (due.amount_minor, due.lines[0].quantity) == (999 - 800, 0)
        assert only(story.then(paid(due, day(7))), ReturnResolved).refunded_minor == 199

    def test_only_what_is_accepted_is_exchanged(self) -> None:
        story = self.exchange(None)
        facts = story.then(looked_at("i1", day(6), ("tea", 1, "as_new"), ("tea", 1, "counterfeit")))
        assert only(facts, ExchangeReleased).lines == of(tea=1)

    def test_nothing_accepted_is_nothing_exchanged(self) -> None:
        story = self.exchange(700)
        facts = story.then(looked_at("i1", day(6), ("tea", 2, "wrong_item")))
        assert [f.type for f in facts] == ["return.items_inspected", "return.resolved"]

    def test_a_replacement_on_receipt_leaves_when_everything_is_here(self) -> None:
        story = delivered()
        line = returning("tea", 2, ReturnReason.WRONG_ITEM)
        story.then(RequestReturn((line,), Resolution.REPLACE_ON_RECEIPT, "", (), day(3)))
        assert [f.type for f in story.then(parcel("r1", day(5), tea=1))] == ["return.items_received"]
        released = only(story.then(parcel("r2", day(5), tea=1)), ExchangeReleased)
        assert (released.lines, released.sku, released.reason_code) == (of(tea=2), "sku-tea", "wrong_item")

    def test_a_replacement_in_advance_leaves_at_once_and_is_charged_when_nothing_comes_back(self) -> None:
        story = delivered()
        line = returning("tea", 1, ReturnReason.DEFECTIVE)
        facts = story.then(RequestReturn((line,), Resolution.REPLACE_IN_ADVANCE, "", (), day(3)))
        assert only(facts, ExchangeReleased).reason_code == "damaged"
        facts = story.then(ExpireReturn(RMA1, day(33)))
        assert only(facts, ExchangeDifferenceDue).amount_minor == 500
        assert [f.type for f in story.then(RecordCharge("A1-X1", "A1-P3", 500, day(34)))] == [
            "exchange.difference_settled"
        ]
        facts = story.then(parcel("r1", day(40), tea=1), looked_at("i1", day(41), ("tea", 1, "defective")))
        assert only(facts, ReturnRefundDue).amount_minor == 500

    def test_what_comes_late_is_not_charged_any_more(self) -> None:
        story = delivered()
        line = returning("tea", 1, ReturnReason.DEFECTIVE)
        story.then(RequestReturn((line,), Resolution.REPLACE_IN_ADVANCE, "", (), day(3)), ExpireReturn(RMA1, day(33)))
        facts = story.then(parcel("r1", day(40), tea=1), looked_at("i1", day(41), ("tea", 1, "defective")))
        settled = only(facts, ExchangeDifferenceSettled)
        assert (settled.amount_minor, settled.operation_id) == (0, None)

    def test_a_replaced_unit_may_be_returned_for_its_full_worth(self) -> None:
        story = self.exchange(None)
        story.then(looked_at("i1", day(6), ("tea", 2, "as_new")))
        story.then(
            shipped("shipped", day(8), shipment="A1-S2", tea=2), shipped("delivered", day(9), shipment="A1-S2", tea=2)
        )
        facts = story.then(
            asking(day(10), tea=2),
            parcel("r2", day(11), "A1-RMA2", tea=2),
            looked_at("i2", day(12), ("tea", 2, "as_new"), return_id="A1-RMA2"),
        )
        assert only(facts, ReturnRefundDue).amount_minor == 999
