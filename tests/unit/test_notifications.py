"""Notifications: what a customer is told of shipments, refunds and returns, and in which words."""

from datetime import timedelta
from itertools import pairwise

import pytest

from notifications.domain.decide import Outbox, RecordBounce
from notifications.domain.state import Status
from notifications.mails import composed
from shared.contracts import fulfillment as f
from shared.contracts import orders
from shared.contracts import payments as p
from shared.contracts import returns as r
from shared.contracts.base import Bucket, TenderKind
from shared.contracts.notifications import (
    Claim,
    NotificationCoalesced,
    NotificationContradicted,
    NotificationCorrectionSent,
    NotificationKind,
)
from shared.core.machine import Invalid, replace
from tests.unit.notifications_story import (
    LATER,
    LEGS,
    NOON,
    POLICY,
    PROMISED,
    REF,
    RETURN,
    Story,
    backordered,
    cancelled,
    captured,
    completed,
    consent_asked,
    filled,
    leg,
    placed,
    routed,
    said,
    scanned,
    shipped,
    slipped,
    units,
)

# Orders and shipments


def test_a_confirmed_order_is_told_with_its_lines_and_its_total() -> None:
    story = Story()
    [queued] = story.heard(placed(), orders.OrderConfirmed(order_id="o1", authorized_minor=5000, total_minor=5000))
    assert (queued.kind, said(queued)) == ("order_confirmed", [(Claim.REMAINING, "1", 3), (Claim.REMAINING, "2", 2)])
    mail = story.mail()
    assert mail.title == "Your order o1 is confirmed"
    assert "  3 x Mug: €30.00\n  2 x Tea: €20.00\n\nTotal: €50.00\n" in mail.text


def test_a_rejected_order_is_told_to_cost_nothing() -> None:
    story = Story()
    rejected = orders.OrderRejected(order_id="o1", reason_code="payment_declined", detail="no")
    [queued] = story.heard(placed(), rejected)
    assert (queued.kind, queued.statements) == ("order_rejected", ())
    assert "the payment was declined. Nothing is charged" in " ".join(story.mail().text.split())


def test_a_shipment_is_told_with_its_own_units_and_what_is_still_to_come_and_why() -> None:
    story = Story()
    story.heard(placed(), backordered(1, PROMISED))
    [queued] = story.heard(shipped(1, 3, ("1", 2)))
    assert (queued.kind, queued.audience, queued.trigger_id) == (NotificationKind.SHIPMENT, "customer", "fact-3")
    assert said(queued) == [
        (Claim.SHIPPED, "1", 2),
        (Claim.REMAINING, "1", 1),
        (Claim.REMAINING, "2", 2),
        (Claim.ETA, "1", 1),
    ]
    assert [s.about_id for s in queued.statements] == ["o1-S1", None, None, "o1-B1"]
    assert {(s.as_of_service, s.as_of_sequence) for s in queued.statements} == {("fulfillment", 3)}
    story.heard(captured(2000, "o1-S1"))
    mail = story.mail()
    assert mail.title == "Parcel 1 of 3 of your order o1 is on its way"
    assert (
        mail.text
        == """Hello Ada,

Parcel 1 of 3 of your order o1 is on its way with dhl.

Tracking number: T1

In it:
  2 x Mug

Still to come:
  1 x Mug: we wait for goods, expected on May 9, 2026
  2 x Tea: is being prepared

For this parcel we charged €20.00; for the whole order so far, €20.00.
"""
    )


def test_five_shipments_of_one_order_are_five_mails_with_their_own_units_and_amounts() -> None:
    story = Story()
    story.heard(placed(), backordered(1, PROMISED))
    parcels = [("1", 1), ("2", 1), ("1", 1), ("2", 1), ("1", 1)]
    told = []
    for number, parcel in enumerate(parcels, start=1):
        if number == 5:
            story.heard(filled(1, 0, "o1-S5"))
        [queued] = story.heard(shipped(number, 5, parcel))
        story.heard(captured(1000 * number, f"o1-S{number}"))
        told.append((queued, story.mail(queued.notification_id)))
    assert [q.kind for q, _ in told] == ["shipment"] * 5
    assert [[u for u in said(q) if u[0] is Claim.SHIPPED] for q, _ in told] == [[(Claim.SHIPPED, *p)] for p in parcels]
    remaining = [{s.line_id: s.quantity for s in q.statements if s.claim is Claim.REMAINING} for q, _ in told]
    assert remaining == [{"1": 2, "2": 2}, {"1": 2, "2": 1}, {"1": 1, "2": 1}, {"1": 1}, {}]
    assert [[s.at for s in q.statements if s.claim is Claim.ETA] for q, _ in told] == [[PROMISED]] * 4 + [[]]
    for number, (_, mail) in enumerate(told, start=1):
        assert f"Parcel {number} of 5 of your order o1" in mail.text
        assert f"For this parcel we charged €{10 * number}.00" in mail.text
    assert "nothing more is to be sent" in told[-1][1].text


def test_the_last_parcel_says_that_nothing_more_comes_and_what_was_cancelled() -> None:
    story = Story()
    story.heard(placed(), cancelled("2", 2), captured(1000, None))
    [queued] = story.heard(shipped(1, 1, ("1", 3)))
    assert said(queued) == [(Claim.SHIPPED, "1", 3), (Claim.CANCELLED, "2", 2)]
    assert (
        story.mail().text
        == """Hello Ada,

The parcel of your order o1 is on its way with dhl.

Tracking number: T1

In it:
  3 x Mug

This is the last of your order; nothing more is to be sent.

Cancelled, and not coming:
  2 x Tea

For this parcel nothing more has been charged so far; for the whole order,
€10.00.
"""
    )


def test_a_later_parcel_counts_what_went_before_and_a_backorder_without_a_date_says_so() -> None:
    story = Story()
    story.heard(placed(), backordered(2, None), shipped(1, 3, ("2", 2)))
    [queued] = story.heard(filled(1, 1, "o1-S2"), shipped(2, 3, ("1", 2)))
    assert said(queued) == [(Claim.SHIPPED, "1", 2), (Claim.REMAINING, "1", 1), (Claim.ETA, "1", 1)]
    text = story.mail().text
    assert "1 x Mug: we wait for goods, and will write when they have a date" in text
    assert "Nothing has been charged for this order yet." in text


def test_a_replacement_is_still_to_come() -> None:
    story = Story()
    replacement = f.ReplacementCreated(
        order_id="o1", replacement_id="o1-X1", cause_id="c", lines=units(("1", 1)), reason_code="lost"
    )
    [_, queued] = story.heard(placed(), shipped(1, 1, ("1", 3)), replacement, shipped(2, 2, ("2", 2)))
    assert (Claim.REMAINING, "1", 1) in said(queued)


def test_what_happened_before_the_order_is_known_is_told_in_its_order_once_it_is() -> None:
    story = Story()
    assert story.heard(backordered(1, PROMISED), shipped(1, 2, ("1", 2)), routed(*LEGS[:1])) == []
    assert story.heard(leg(p.RefundLegSubmitted, "L1", 400)) == []
    queued = story.heard(placed())
    assert [(q.notification_id, q.kind, q.trigger_id) for q in queued] == [
        ("o1-N1", "backorder", "fact-1"),
        ("o1-N2", "shipment", "fact-2"),
        ("o1-N3", "refund_submitted", "fact-4"),
    ]
    assert said(queued[1]) == [
        (Claim.SHIPPED, "1", 2),
        (Claim.REMAINING, "1", 1),
        (Claim.REMAINING, "2", 2),
        (Claim.ETA, "1", 1),
    ]
    assert {s.as_of_sequence for s in queued[1].statements} == {2}
    assert story.heard(placed()) == []


def test_delivery_and_trouble_are_told_by_parcel_and_the_same_trouble_once() -> None:
    story = Story()
    story.heard(placed(), shipped(1, 1, ("1", 3)))
    story.sent()
    delay = f.ShipmentDelayed(order_id="o1", shipment_id="o1-S1", tracking="T1", detail="snow")
    [queued] = story.heard(delay, delay)
    assert (queued.kind, queued.statements) == ("delay", ())
    assert story.mail().title == "Parcel T1 of your order o1 is delayed"
    story.sent()
    [queued] = story.heard(scanned(f.ShipmentDelivered, ("1", 3)))
    assert (queued.kind, said(queued)) == ("delivery", [(Claim.DELIVERED, "1", 3)])
    story.sent()
    [queued] = story.heard(delay)
    assert queued.kind == "delay"


@pytest.mark.parametrize(
    ("code", "title"),
    [
        ("address", "is held up: the address is not clear"),
        ("customs", "is held up by customs"),
        ("damaged", "was damaged on its way"),
    ],
)
def test_a_scan_that_stops_a_parcel_is_told_and_one_that_changes_nothing_is_not(code: str, title: str) -> None:
    story = Story()
    about = {"order_id": "o1", "shipment_id": "o1-S1", "tracking": "T1", "detail": ""}
    moved = f.ShipmentTrackingUpdated.model_validate(about | {"code": code, "moved": True})
    passing = f.ShipmentTrackingUpdated.model_validate(about | {"code": "in_transit", "moved": True})
    older = f.ShipmentTrackingUpdated.model_validate(about | {"code": code, "moved": False})
    [queued] = story.heard(placed(), passing, older, moved)
    assert queued.kind == "delay"
    assert story.mail().title == f"Parcel T1 of your order o1 {title}"


@pytest.mark.parametrize("fact", [f.ShipmentLost, f.ShipmentReturnedToSender])
def test_what_is_lost_or_came_back_is_told_with_its_units(fact: type[f.ShipmentFact]) -> None:
    story = Story()
    [queued] = story.heard(placed(), scanned(fact, ("1", 2)))
    assert queued.kind == "delay"
    assert "In it:\n  2 x Mug" in story.mail().text


def test_a_cancellation_says_what_is_cancelled_what_still_comes_and_the_money() -> None:
    story = Story()
    [queued] = story.heard(placed(), cancelled("2", 1))
    assert (queued.kind, said(queued)) == (
        "cancellation",
        [(Claim.CANCELLED, "2", 1), (Claim.REMAINING, "1", 3), (Claim.REMAINING, "2", 1)],
    )
    worth = orders.CancelledValue(line_id="2", quantity=1, goods_minor=1000)
    story.heard(
        orders.OrderLinesCancelled(order_id="o1", cancellation_id="o1-C1", lines=(worth,), remaining_minor=4000)
    )
    mail = story.mail()
    assert mail.title == "Part of your order o1 is cancelled"
    for words in ("Cancelled:\n  1 x Tea", "Still to come:\n  3 x Mug", "cancelled: €10.00", "without it: €40.00"):
        assert words in mail.text
    assert "Nothing has been charged for it" in mail.text
    story.heard(cancelled("2", 1, "o1-C2"), cancelled("1", 3, "o1-C3"))
    assert story.mail().title == "Your order o1 is cancelled"


# Backorders


def test_a_backorder_says_when_its_goods_are_expected() -> None:
    story = Story()
    [queued] = story.heard(placed(), backordered(2, PROMISED))
    assert [(s.claim, s.line_id, s.quantity, s.about_id, s.at) for s in queued.statements] == [
        (Claim.ETA, "1", 2, "o1-B1", PROMISED)
    ]
    assert story.mail().title == "Not in stock just now: 2 × Mug of your order o1"
    assert "Expected on: May 9, 2026" in story.mail().text


def test_a_date_that_slips_far_asks_what_to_do_and_says_what_silence_decides() -> None:
    story = Story()
    story.heard(placed(), backordered(1, PROMISED))
    story.sent()
    [revised, asked] = story.heard(slipped(PROMISED, LATER), consent_asked(LATER))
    assert (revised.kind, asked.kind) == ("backorder_revised", "backorder_revised")
    assert story.state.notifications[revised.notification_id].detail == f"told in {asked.notification_id}"
    mail = story.mail()
    assert mail.title == "Correction: Please choose: 1 × Mug of your order o1"
    text = mail.text.replace("\n", " ")
    assert "On May 4, 2026 we wrote that 1 × Mug is expected on May 9, 2026. That is not so any more." in text
    assert "May 12, 2026 instead of May 9, 2026" in text
    for choice in ("- wait for it", "- cancel it", "- take something else instead", "- have us ship what is there"):
        assert choice in text
    assert "If we do not hear from you by May 12, 2026, 12:00\u202fPM UTC, we keep it on order for you." in text


def test_figures_and_dates_are_as_the_customers_locale_writes_them() -> None:
    story = Story()
    story.heard(placed(locale="de-DE"), backordered(1, PROMISED), shipped(1, 2, ("1", 2)), captured(123450, "o1-S1"))
    assert "charged 1.234,50\xa0€" in story.mail().text
    assert "expected on 09.05.2026" in story.mail().text
    stranger = Story()
    stranger.heard(placed(locale="zz-ZZ"), backordered(1, PROMISED))
    assert "May 9, 2026" in stranger.mail().text


# Truth


def test_two_remaining_are_announced_for_tuesday_then_the_date_slips_and_one_correction_is_sent() -> None:
    story = Story()
    story.heard(placed(), backordered(1, PROMISED))
    story.sent()
    story.heard(shipped(1, 2, ("1", 2), ("2", 2)))
    story.sent()
    [queued] = story.heard(slipped(PROMISED, LATER))
    assert [(c.notification_id, c.statement.claim, c.statement.at) for c in queued.corrects] == [
        ("o1-N2", Claim.ETA, PROMISED)
    ]
    contradictions = [fact for fact in story.told if isinstance(fact, NotificationContradicted)]
    assert [(c.notification_id, c.heard, c.statement.at) for c in contradictions] == [
        ("o1-N2", "backorder.eta_revised", PROMISED)
    ]
    story.sent()
    corrections = [fact for fact in story.told if isinstance(fact, NotificationCorrectionSent)]
    assert [(c.notification_id, c.corrects_id) for c in corrections] == [("o1-N3", "o1-N2")]
    all_due = [n for n in story.state.notifications.values() if n.statements]
    assert sum(len(n.contradicted) for n in all_due) == 1
    assert sum(len(n.statements) for n in all_due) == 6


def test_each_new_slip_corrects_the_date_that_was_told_last() -> None:
    story = Story()
    story.heard(placed(), backordered(1, PROMISED))
    story.sent()
    dates = [PROMISED, *(LATER + timedelta(days=n) for n in range(3))]
    for before, after in pairwise(dates):
        story.heard(slipped(before, after))
        story.sent()
    corrections = [fact for fact in story.told if isinstance(fact, NotificationCorrectionSent)]
    assert [c.corrects_id for c in corrections] == ["o1-N1", "o1-N2", "o1-N3"]


def test_another_hour_of_the_same_day_makes_nothing_untrue() -> None:
    story = Story()
    story.heard(placed(), backordered(1, PROMISED))
    story.sent()
    [queued] = story.heard(slipped(PROMISED, PROMISED + timedelta(hours=3)))
    assert queued.corrects == ()


def test_what_nobody_has_read_yet_is_restated_and_contradicts_nothing() -> None:
    story = Story()
    story.heard(placed(), backordered(1, PROMISED), shipped(1, 2, ("1", 2)))
    [queued] = story.heard(slipped(PROMISED, LATER))
    assert (queued.kind, queued.corrects) == ("backorder", ())
    assert "expected on May 12, 2026" in story.mail("o1-N2").text
    assert not any(isinstance(fact, NotificationContradicted) for fact in story.told)


def test_what_a_sender_is_at_may_have_been_read_and_is_corrected() -> None:
    story = Story()
    story.heard(placed(), backordered(1, PROMISED))
    story.taken()
    [queued] = story.heard(slipped(PROMISED, LATER))
    assert [c.notification_id for c in queued.corrects] == ["o1-N1"]


def test_what_bounced_was_read_by_nobody_and_needs_no_correction() -> None:
    story = Story()
    story.heard(placed(), backordered(1, PROMISED))
    story.sent()
    story.when(RecordBounce("o1-N1", "title", "no such user"))
    [queued] = story.heard(slipped(PROMISED, LATER))
    assert queued.corrects == ()


def test_what_the_customer_cancels_is_told_as_a_cancellation_and_corrects_nothing() -> None:
    story = Story()
    story.heard(placed(), shipped(1, 2, ("1", 2)))
    story.sent()
    [queued] = story.heard(cancelled("1", 1))
    assert queued.corrects == ()
    assert story.mail().title == "Part of your order o1 is cancelled"
    assert not [fact for fact in story.told if isinstance(fact, NotificationContradicted)]


def test_the_first_date_of_a_backorder_is_news_and_no_correction() -> None:
    story = Story()
    story.heard(placed(), backordered(1, None))
    story.sent()
    [queued] = story.heard(slipped(None, PROMISED))
    assert queued.corrects == ()
    assert story.mail().title == "New date for 1 × Mug of your order o1"
    assert "We have a date for what you are waiting for: May 9, 2026." in story.mail().text


def test_a_delivery_the_customer_denies_and_a_payout_that_bounces_are_corrected() -> None:
    story = Story()
    story.heard(placed(), shipped(1, 1, ("1", 3)), scanned(f.ShipmentDelivered, ("1", 3)), routed(*LEGS[:1]))
    story.heard(leg(p.RefundLegSubmitted, "L1", 400))
    story.sent()
    [looking] = story.heard(
        f.ShipmentTrackingUpdated(
            order_id="o1",
            shipment_id="o1-S1",
            tracking="T1",
            code="not_received",
            moved=True,
            detail="",
            lines=units(("1", 3)),
        )
    )
    assert [c.statement.claim for c in looking.corrects] == [Claim.DELIVERED]
    story.heard(leg(p.RefundLegSucceeded, "L1", 400), completed(400))
    story.sent()
    [bounced] = story.heard(leg(p.RefundLegReversed, "L1", 400))
    assert [c.statement.claim for c in bounced.corrects] == [Claim.REFUND_SUBMITTED, Claim.REFUNDED]


# Refunds


def test_payouts_submitted_together_are_told_in_one_message_and_again_when_all_is_complete() -> None:
    story = Story()
    first, second = story.heard(
        placed(), routed(*LEGS), leg(p.RefundLegSubmitted, "L1", 400), leg(p.RefundLegSubmitted, "L2", 600)
    )
    assert story.state.notifications[first.notification_id].detail == f"told in {second.notification_id}"
    [coalesced] = [fact for fact in story.told if isinstance(fact, NotificationCoalesced)]
    assert coalesced.policy == POLICY.ref
    assert [(s.claim, s.about_id, s.amount_minor, s.currency, s.at) for s in second.statements] == [
        (Claim.REFUND_SUBMITTED, "L1", 400, "EUR", PROMISED),
        (Claim.REFUND_SUBMITTED, "L2", 600, "EUR", PROMISED),
    ]
    assert (
        story.mail().text
        == """Hello Ada,

We have sent €10.00 back to you for your order o1:

€4.00 to your gift card: expected by May 9, 2026
€6.00 to your card: expected by May 9, 2026

We write again when the money has arrived.
"""
    )
    succeeded = [leg(p.RefundLegSucceeded, "L1", 400), leg(p.RefundLegSucceeded, "L2", 600)]
    assert story.heard(*succeeded) == []
    [queued] = story.heard(completed(1000))
    assert [(s.claim, s.amount_minor, s.at) for s in queued.statements] == [
        (Claim.REFUNDED, 400, None),
        (Claim.REFUNDED, 600, None),
    ]
    mail = story.mail()
    assert mail.title == "Your refund of €10.00 for order o1 is complete"
    assert "€4.00 to your gift card: paid\n€6.00 to your card: paid\n" in mail.text


def test_a_payout_after_the_first_was_sent_has_a_message_of_its_own() -> None:
    story = Story()
    story.heard(placed(), routed(*LEGS), leg(p.RefundLegSubmitted, "L1", 400))
    story.sent()
    [queued] = story.heard(leg(p.RefundLegSubmitted, "L2", 600))
    assert [s.amount_minor for s in queued.statements] == [600]


def test_a_payout_that_fails_is_told_with_the_way_it_takes_instead() -> None:
    story = Story()
    story.heard(placed(), routed(*LEGS), leg(p.RefundLegSubmitted, "L1", 400), leg(p.RefundLegSubmitted, "L2", 600))
    story.sent()
    again = routed(("L3", TenderKind.CARD, 600), channel=p.RefundChannel.BANK_TRANSFER)
    failed, rerouted = story.heard(leg(p.RefundLegFailed, "L2", 600), again)
    assert (failed.kind, rerouted.kind) == ("refund_failed", "refund_rerouted")
    assert [c.statement.about_id for c in rerouted.corrects] == ["L2"]
    [queued] = story.heard(leg(p.RefundLegSubmitted, "L3", 600))
    assert (queued.kind, [s.about_id for s in queued.statements]) == ("refund_rerouted", ["L3"])
    text = " ".join(story.mail().text.split())
    assert "€6.00 to your bank account: expected by May 9, 2026 €6.00 to your card: could not be paid out" in text
    live = [n for n in story.state.notifications.values() if n.status is Status.QUEUED]
    assert len(live) == 1
    story.sent()
    [queued] = story.heard(leg(p.RefundLegSucceeded, "L1", 400), leg(p.RefundLegSucceeded, "L3", 600), completed(1000))
    assert [s.amount_minor for s in queued.statements] == [400, 600]


def test_a_payout_that_failed_before_its_submission_was_read_is_told_as_failed_alone() -> None:
    story = Story()
    story.heard(placed(), routed(*LEGS[1:]), leg(p.RefundLegSubmitted, "L2", 600))
    [queued] = story.heard(leg(p.RefundLegFailed, "L2", 600))
    assert (queued.kind, queued.statements, queued.corrects) == ("refund_failed", (), ())
    assert story.mail().title == "Your refund of €6.00 for order o1 could not be paid out"


def test_a_leg_nobody_routed_is_refused() -> None:
    with pytest.raises(Invalid, match="L9 is not a routed leg"):
        Story().heard(placed(), leg(p.RefundLegSubmitted, "L9", 1))


# Returns


def test_an_approved_return_says_what_to_send_back_by_when_and_why_the_rest_is_declined() -> None:
    story = Story()
    why = r.Why(code="final_sale", text="Tea is sold for good.")
    verdict = r.Verdict(
        line_id="2",
        quantity=1,
        outcome="decline",
        reasons=(why, why),
        window_ends_at=None,
        allowed_resolutions=(),
        return_shipping_fee_minor=0,
    )
    story.heard(placed(), r.ReturnEligibilityEvaluated(**RETURN, verdicts=(verdict,), policy=REF, inputs_hash="0"))
    [queued] = story.heard(
        r.ReturnApproved(**RETURN, lines=units(("1", 2)), expires_at=PROMISED, approver=None, policy=REF)
    )
    story.heard(r.ReturnLabelIssued(**RETURN, carrier="dhl", tracking="R1"))
    text = story.mail(queued.notification_id).text
    for words in ("by May 9, 2026", "To send back:\n  2 x Mug", "Label: dhl R1", "  - Tea is sold for good.\n"):
        assert words in text


def test_a_declined_return_names_all_the_reasons() -> None:
    story = Story()
    reasons = (r.Why(code="window", text="The window ended on 1 May."), r.Why(code="used", text="It was used."))
    [queued] = story.heard(placed(), r.ReturnDeclined(**RETURN, reasons=reasons, policy=REF))
    assert queued.kind == "return_declined"
    assert "Why:\n  - The window ended on 1 May.\n  - It was used.\n" in story.mail().text


def test_what_came_back_is_told_when_it_arrives_when_it_is_inspected_and_when_it_never_came() -> None:
    story = Story()
    received = r.ReturnItemsReceived(
        **RETURN,
        receipt_id="rc",
        location="BER",
        lines=(r.ReceivedLine(line_id="1", quantity=1, total=1),),
        complete=False,
    )
    [queued] = story.heard(placed(), received)
    assert (queued.kind, story.mail().title) == ("return_received", "Part of your return o1-R1 has arrived")
    line = r.InspectedLine(
        line_id="1",
        quantity=1,
        outcome=r.InspectionOutcome.OPENED,
        disposition=r.Disposition.REGRADE,
        refund_percent=100,
        fee_percent=15,
    )
    about = {"inspection_id": "i", "location": "BER", "policy": REF}
    story.heard(r.ReturnItemsInspected.model_validate(RETURN | about | {"lines": (line,), "complete": True}))
    assert "1 x Mug: opened; accepted at 100 % of its price, less a fee of 15 %" in story.mail().text
    [queued] = story.heard(r.ReturnExpired(**RETURN))
    assert (queued.kind, story.mail().title) == ("return_expired", "Your return o1-R1 has expired")


# What it says of units and money


def flat(story: Story) -> str:
    return " ".join(story.mail().text.split())


def paid_by(*tenders: tuple[TenderKind, int]) -> orders.OrderPlaced:
    specs = tuple(
        orders.TenderSpec(tender_id=f"t{n}", kind=kind, token="tok_ok", amount_minor=minor)
        for n, (kind, minor) in enumerate(tenders, 1)
    )
    return placed().model_copy(update={"tenders": specs})


CONFIRMED = orders.OrderConfirmed(order_id="o1", authorized_minor=5000, total_minor=5000)


def worth(goods_minor: int, remaining_minor: int) -> orders.OrderLinesCancelled:
    line = orders.CancelledValue(line_id="2", quantity=1, goods_minor=goods_minor)
    return orders.OrderLinesCancelled(
        order_id="o1", cancellation_id="o1-C1", lines=(line,), remaining_minor=remaining_minor
    )


def test_a_cancellation_of_the_rest_names_what_is_still_on_its_way() -> None:
    story = Story()
    story.heard(placed(), shipped(1, 1, ("1", 3)), cancelled("2", 2))
    assert "Nothing more of it is to be sent; what is on its way comes as before." in flat(story)
    assert "On its way: 3 x Mug" in flat(story)
    story.heard(scanned(f.ShipmentDelivered, ("1", 3)))
    mail = story.mail("o1-N2")
    assert "nothing more of your order o1 is to be sent" in " ".join(mail.text.split())
    assert "On its way" not in mail.text


@pytest.mark.parametrize(
    ("charged", "left", "sentence"),
    [
        (0, 4000, "Nothing has been charged for it, and nothing will be."),
        (3000, 4000, "What you paid so far is for the rest of your order."),
        (5000, 4000, "The difference comes back to you; we write when it is on its way."),
    ],
)
def test_a_cancellation_promises_money_only_where_too_much_was_taken(charged: int, left: int, sentence: str) -> None:
    story = Story()
    story.heard(paid_by((TenderKind.GIFT_CARD, 5000)), *([captured(charged, None)] if charged else []))
    story.heard(cancelled("2", 1), worth(1000, left))
    assert sentence in flat(story)
    assert flat(story).count("comes back") == (charged > left)


@pytest.mark.parametrize(
    ("tenders", "sentence", "of_a_backorder"),
    [
        (((TenderKind.CARD, 5000),), "Each parcel is charged when it leaves.", "It is charged when it leaves"),
        (
            ((TenderKind.GIFT_CARD, 5000),),
            "€50.00 is taken from your gift card at once.",
            "It is paid with your gift card.",
        ),
        (
            ((TenderKind.GIFT_CARD, 2000), (TenderKind.CARD, 3000)),
            "€20.00 is taken from your gift card at once. €30.00 is charged parcel by parcel, when each leaves.",
            "What your gift card does not cover is charged when it leaves, and not before.",
        ),
        (
            ((TenderKind.CASH_ON_DELIVERY, 5000),),
            "You pay €50.00 when it is handed to you, parcel by parcel.",
            "It is paid when it is handed to you.",
        ),
        (((TenderKind.INVOICE, 5000),), "You pay €50.00 by invoice.", "It is paid by invoice."),
    ],
)
def test_a_customer_is_told_how_and_when_this_order_is_paid(
    tenders: tuple[tuple[TenderKind, int], ...], sentence: str, of_a_backorder: str
) -> None:
    story = Story()
    story.heard(paid_by(*tenders), CONFIRMED)
    assert sentence in flat(story)
    story.heard(backordered(1, PROMISED))
    assert of_a_backorder in flat(story)


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        (TenderKind.CARD, "For this parcel we charged €20.00"),
        (TenderKind.CASH_ON_DELIVERY, "You pay €20.00 when it is handed to you."),
        (TenderKind.INVOICE, "You pay €20.00 for it by invoice."),
    ],
)
def test_we_charged_is_said_only_to_who_was_charged(kind: TenderKind, sentence: str) -> None:
    story = Story()
    story.heard(paid_by((kind, 5000)), shipped(1, 2, ("1", 2)), captured(2000, "o1-S1"))
    assert sentence in flat(story)
    assert ("charged" in flat(story)) is (kind is TenderKind.CARD)


def test_an_order_that_waits_for_the_customer_says_so_until_it_goes_on() -> None:
    story = Story()
    held = orders.OrderHoldPlaced(order_id="o1", hold=orders.Hold.PAYMENT, detail="insufficient_funds")
    [queued] = story.heard(placed(), held)
    assert (queued.kind, story.mail().title) == ("hold", "Your order o1 waits for a payment")
    assert "did not go through, so that it does not leave for now" in flat(story)
    assert "insufficient_funds" not in flat(story)
    story.sent()
    story.heard(backordered(1, PROMISED))
    assert "You need not do anything" not in flat(story)
    assert "please reply to this mail with another way to pay" in flat(story)
    story.sent()
    [queued] = story.heard(orders.OrderHoldReleased(order_id="o1", hold=orders.Hold.PAYMENT, detail=""))
    assert (queued.kind, story.mail().title) == ("hold_released", "Your order o1 goes on")
    manual = orders.OrderHoldPlaced(order_id="o1", hold=orders.Hold.MANUAL, detail="checked by a person")
    assert story.heard(manual, orders.OrderHoldReleased(order_id="o1", hold=orders.Hold.MANUAL, detail="")) == []


def test_a_changed_address_is_told() -> None:
    story = Story()
    ship_to = orders.Address(name="Ada", street="Am Markt 2", city="Köln", postal_code="50667", country="DE")
    [queued] = story.heard(
        placed(), shipped(1, 2, ("1", 1)), orders.OrderAddressChanged(order_id="o1", ship_to=ship_to)
    )[1:]
    assert (queued.kind, story.mail().title) == ("address_changed", "New address for your order o1")
    assert "- Am Markt 2 - 50667 Köln" in flat(story)
    assert "On its way, to the address before: 1 x Mug" in flat(story)


def asked_to_return(resolution: r.Resolution) -> r.ReturnRequested:
    asked = r.ReturnLine(
        line_id="1", quantity=1, reason=r.ReturnReason.UNWANTED, condition=r.DeclaredCondition.UNOPENED
    )
    return r.ReturnRequested(**RETURN, requested_at=NOON, lines=(asked,), resolution=resolution, note="")


def approved() -> r.ReturnApproved:
    return r.ReturnApproved(**RETURN, lines=units(("1", 1)), expires_at=LATER, approver=None, policy=REF)


def test_a_return_is_told_when_it_is_asked_for_reviewed_and_called_off() -> None:
    story = Story()
    why = (r.Why(code="abuse", text="internal"),)
    [queued] = story.heard(placed(), asked_to_return(r.Resolution.REFUND))
    assert (queued.kind, story.mail().title) == ("return_requested", "Your return o1-R1 was asked for")
    [queued] = story.heard(r.ReturnSentToReview(**RETURN, reasons=why, policy=REF))
    assert queued.kind == "return_reviewed"
    assert story.state.notifications["o1-N1"].detail == "told in o1-N2", "nobody had read it yet"
    assert "internal" not in story.mail().text
    story.sent()
    [queued] = story.heard(r.ReturnCancelled(**RETURN, detail="changed my mind"))
    assert (queued.kind, story.mail().title) == ("return_cancelled", "Your return o1-R1 is called off")


def test_what_may_be_kept_is_not_asked_back() -> None:
    story = Story()
    story.heard(placed(), asked_to_return(r.Resolution.KEEP_IT), approved())
    assert "nothing needs to be sent back" in flat(story)
    assert "Please send back" not in flat(story)
    assert "To keep: 1 x Mug" in flat(story)


def inspected(outcome: r.InspectionOutcome, percent: int, *, review: bool = False) -> r.ReturnItemsInspected:
    line = r.InspectedLine(
        line_id="1",
        quantity=1,
        outcome=outcome,
        disposition=r.Disposition.RESTOCK,
        refund_percent=percent,
        fee_percent=0,
        review=review,
    )
    return r.ReturnItemsInspected(**RETURN, inspection_id="i", location="BER", policy=REF, lines=(line,), complete=True)


def refund_due() -> r.ReturnRefundDue:
    line = r.DueLine(line_id="1", quantity=1, gross_minor=1999, fee_minor=200, shipping_minor=0, refund_minor=1799)
    return r.ReturnRefundDue(
        **RETURN,
        due_id="due",
        lines=(line,),
        amount_minor=1504,
        currency="EUR",
        trigger_at=NOON,
        resolution=r.Resolution.REFUND,
        return_shipping_fee_minor=295,
        policy=REF,
    )


def refund_asked() -> p.RefundRequested:
    return p.RefundRequested(
        order_id="o1",
        refund_id="o1-R1",
        kind=p.RefundKind.RETURN,
        cause_id="due",
        lines=(),
        amount_minor=1504,
        currency="EUR",
        trigger_at=NOON,
        requester="service:returns",
    )


def test_what_is_kept_of_a_refund_is_named_before_and_when_it_is_paid() -> None:
    story = Story()
    story.heard(placed(), asked_to_return(r.Resolution.REFUND), approved())
    story.heard(inspected(r.InspectionOutcome.AS_NEW, 100), refund_due())
    kept = (
        "Worth of what you returned: €19.99 Less, for the condition it came in: €2.00 Less, for sending it back: €2.95"
    )
    assert f"{kept} Comes back to you: €15.04" in flat(story)
    story.sent()
    story.heard(refund_asked(), routed(("L1", TenderKind.CARD, 1504)), leg(p.RefundLegSubmitted, "L1", 1504))
    assert kept in flat(story)
    story.sent()
    story.heard(leg(p.RefundLegSucceeded, "L1", 1504), completed(1504))
    assert kept in flat(story)


@pytest.mark.parametrize(
    ("resolution", "percent", "promise"),
    [
        (r.Resolution.REFUND, 0, "If money comes back to you for it, we write"),
        (r.Resolution.EXCHANGE, 100, "We write when what you get instead is on its way."),
        (r.Resolution.EXCHANGE, 0, None),
        (r.Resolution.REPLACE_IN_ADVANCE, 100, None),
    ],
)
def test_an_inspection_promises_money_only_where_some_is_due(
    resolution: r.Resolution, percent: int, promise: str | None
) -> None:
    story = Story()
    story.heard(placed(), asked_to_return(resolution), approved(), inspected(r.InspectionOutcome.AS_NEW, percent))
    assert "We write again" not in flat(story)
    assert (promise or "Inspected") in flat(story)
    assert promise or "write" not in flat(story)


def test_a_refund_that_completes_before_its_submission_was_told_is_told_once_as_complete() -> None:
    story = Story()
    story.heard(placed(), routed(*LEGS[:1]), leg(p.RefundLegSubmitted, "L1", 400))
    [queued] = story.heard(leg(p.RefundLegSucceeded, "L1", 400), completed(400))
    assert queued.kind == "refund_completed"
    assert [n.status for n in story.state.notifications.values()] == [Status.SUPPRESSED, Status.QUEUED]
    retried = Story()
    retried.heard(placed(), routed(*LEGS[:1]), leg(p.RefundLegSubmitted, "L1", 400))
    retried.outbox = Outbox(POLICY, idle=frozenset({"o1-N1"}))
    retried.heard(leg(p.RefundLegSucceeded, "L1", 400), completed(400))
    assert [n.status for n in retried.state.notifications.values()] == [Status.SUPPRESSED, Status.QUEUED]


def test_goods_that_wait_are_not_said_to_be_prepared() -> None:
    story = Story()
    story.heard(placed(), backordered(1, PROMISED), cancelled("2", 1))
    assert "1 x Mug: we wait for goods, expected on May 9, 2026" in story.mail().text
    assert "2 x Mug: is being prepared" in story.mail().text
    story.heard(orders.OrderHoldPlaced(order_id="o1", hold=orders.Hold.MANUAL, detail=""), cancelled("2", 1, "o1-C2"))
    assert "2 x Mug: waits" in story.mail().text


@pytest.mark.parametrize("length", [1, 20, 64])
def test_no_subject_is_longer_than_mail_programs_show(length: int) -> None:
    story = Story()
    long = placed()
    lines = tuple(line.model_copy(update={"title": "Größe " * 33}) for line in long.lines)
    parcel = f.ShipmentDelayed(order_id="o1", shipment_id="o1-S1", tracking="T" * length, detail="")
    code = f.ShipmentTrackingUpdated(
        order_id="o1", shipment_id="o1-S1", tracking="T" * length, code="address", moved=True, detail=""
    )
    story.heard(long.model_copy(update={"lines": lines}), CONFIRMED, backordered(1, PROMISED), parcel, code)
    story.sent()
    story.heard(slipped(PROMISED, LATER), consent_asked(LATER))
    for id, n in story.state.notifications.items():
        state = replace(story.state, order_id="o" * length)
        mail = composed(state, n)
        assert len(mail.title) < 80, (id, mail.title)
        assert "o" * length in mail.html


@pytest.mark.parametrize(
    ("reason", "sentence"),
    [
        ("not_due", "There is nothing more to be paid back for your order o1: all of it was paid back to you before."),
        ("policy", "A refund of €15.04 for your order o1 is not paid out."),
    ],
)
def test_a_refund_that_was_promised_and_is_not_paid_is_told(reason: str, sentence: str) -> None:
    story = Story()
    rejected = p.RefundRejected(
        order_id="o1", refund_id="o1-R1", reason_code=reason, detail="internal", cause_id="due", return_id="o1-R1"
    )
    story.heard(placed(), inspected(r.InspectionOutcome.AS_NEW, 100), refund_due(), refund_asked())
    story.sent()
    [queued] = story.heard(rejected)
    assert queued.kind == "refund_declined"
    assert sentence in flat(story)
    assert "internal" not in story.mail().text
    goodwill = Story()
    asked = refund_asked().model_copy(update={"cause_id": "goodwill-1"})
    assert goodwill.heard(placed(), asked, rejected) == [], "nobody was promised it"


def test_what_was_paid_back_before_is_taken_off_what_a_return_comes_to() -> None:
    story = Story()
    owed = refund_asked().model_copy(update={"amount_minor": 504})
    story.heard(placed(), inspected(r.InspectionOutcome.AS_NEW, 100), refund_due(), owed)
    text = " ".join(story.mail("o1-N1").text.split())
    assert "Less, paid back to you before: €10.00 Comes back to you: €5.04" in text


def test_what_is_here_before_its_message_was_read_is_not_told_to_be_out_of_stock() -> None:
    story = Story()
    story.heard(placed(), backordered(1, PROMISED), filled(1, 0, "o1-S1"))
    assert story.state.notifications["o1-N1"].status is Status.SUPPRESSED
    read = Story()
    read.heard(placed(), backordered(1, PROMISED))
    read.sent()
    assert read.heard(slipped(PROMISED, LATER), filled(1, 0, "o1-S1"))[0].corrects
    assert read.mail().title == "Correction: Waited for no more: 1 × Mug of your order o1"
    assert "is here by now, or was called off" in flat(read)


def test_a_parcel_that_left_with_the_old_address_is_told() -> None:
    story = Story()
    [queued] = story.heard(
        placed(),
        shipped(1, 1, ("1", 3)),
        f.FulfillmentDiscrepancyRecorded(
            order_id="o1",
            discrepancy_id="d1",
            observation="warehouse.handed_over",
            contradicts="old_label",
            shipment_id="o1-S1",
            lines=units(("1", 3)),
            detail="internal",
        ),
    )[1:]
    assert (queued.kind, story.mail().title) == ("delay", "The parcel of your order o1 left with the old address")
    assert "please reply to this mail if it cannot reach you there" in flat(story)
    other = f.FulfillmentDiscrepancyRecorded(
        order_id="o1", discrepancy_id="d2", observation="warehouse.packed", contradicts="quantities", detail=""
    )
    assert story.heard(other) == []


def test_goods_that_came_back_unannounced_are_not_asked_back_when_they_are_accepted() -> None:
    story = Story()
    blind = r.ReturnReceivedUnannounced(
        **RETURN,
        announced_as="nobody-knows",
        receipt_id="rc",
        location="BER",
        lines=(r.ObservedLine(line_id="1", quantity=1),),
        received_at=NOON,
    )
    [queued] = story.heard(placed(), blind)
    assert (queued.kind, story.mail().title) == ("return_reviewed", "Your return o1-R1 is being looked at")
    assert "came back to us that no return was open for" in flat(story)
    story.sent()
    story.heard(approved())
    assert "What came back to us is accepted as a return." in flat(story)
    assert "send back" not in flat(story)
    declined = Story()
    declined.heard(placed(), blind, r.ReturnDeclined(**RETURN, reasons=(), policy=REF))
    assert "What of it is with us is sent back to you." in flat(declined)


def test_what_came_back_and_is_cancelled_takes_nothing_from_what_is_still_to_come() -> None:
    story = Story()
    gone = f.CancelledUnits(line_id="1", quantity=1, was=Bucket.RETURNED_TO_SENDER)
    [*_, queued] = story.heard(
        placed(),
        shipped(1, 2, ("1", 1)),
        scanned(f.ShipmentReturnedToSender, ("1", 1)),
        f.FulfillmentLinesCancelled(order_id="o1", cancellation_id="o1-C1", lines=(gone,)),
    )
    assert said(queued) == [(Claim.CANCELLED, "1", 1), (Claim.REMAINING, "1", 2), (Claim.REMAINING, "2", 2)]
    assert story.state.units["1"].under_way == 0


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        (p.MovementKind.CAPTURE, "For this parcel nothing more has been charged so far; for the whole order, €20.00."),
        (p.MovementKind.REFUND, "Nothing has been charged for this order yet."),
    ],
)
def test_what_the_provider_took_without_being_asked_was_charged_too(kind: p.MovementKind, sentence: str) -> None:
    story = Story()
    moved = p.PaymentMovementRecorded(
        order_id="o1",
        movement_id="m1",
        tender_id="t1",
        kind=kind,
        amount_minor=2000,
        currency="EUR",
        reference="ref",
        occurred_at=NOON,
        contradicts="not_asked_for",
        detail="",
        tender_captured_minor=0,
        tender_open_minor=0,
    )
    story.heard(placed(), moved, shipped(1, 2, ("1", 1)))
    assert sentence in flat(story)


@pytest.mark.parametrize("how", ["charged", "written_off", "returned"])
def test_what_is_held_and_not_paid_is_told_until_it_is_settled(how: str) -> None:
    story = Story()
    about = {"order_id": "o1", "recovery_id": "o1-V1", "amount_minor": 1999, "currency": "EUR"}
    opened = r.RecoveryOpened.model_validate(
        about | {"cause": "return_not_accepted", "owner": "support", "due_at": LATER, "policy": REF}
    )
    settled = r.RecoverySettled.model_validate(about | {"how": how})
    [queued] = story.heard(placed(), opened)
    assert (queued.kind, story.mail().title) == ("recovery_opened", "€19.99 of your order o1 is open")
    assert "could not be accepted" in flat(story)
    assert "by May 12, 2026" in flat(story)
    story.sent()
    [queued] = story.heard(settled)
    assert (queued.kind, story.mail().title) == ("recovery_settled", "€19.99 of your order o1 is settled")
    assert ("was charged" in flat(story)) is (how == "charged")


def test_a_charge_that_failed_for_what_is_held_and_not_paid_is_told_with_what_it_was_for() -> None:
    story = Story()
    opened = r.RecoveryOpened(
        order_id="o1",
        recovery_id="o1-V1",
        amount_minor=1999,
        currency="EUR",
        cause="return_not_sent",
        owner="support",
        due_at=LATER,
        policy=REF,
    )
    failed = r.RecoveryChargeFailed(order_id="o1", recovery_id="o1-V1", code="card_declined")
    assert story.heard(placed(), failed) == [], "the customer was not told of it"
    story.heard(opened)
    story.sent()
    [queued] = story.heard(failed)
    assert (queued.kind, story.mail().title) == (
        "recovery_charge_failed",
        "€19.99 of your order o1 could not be charged",
    )
    assert "has not arrived" in flat(story)
    assert "the payment was not accepted" in flat(story)


@pytest.mark.parametrize(
    ("resolution", "why"),
    [
        (r.Resolution.EXCHANGE, "What you chose in exchange costs more than what you send back for it."),
        (
            r.Resolution.REPLACE_IN_ADVANCE,
            "What was to be sent back has not arrived, and was paid back or replaced before.",
        ),
    ],
)
def test_what_an_exchange_costs_more_is_told_when_it_is_charged_fails_and_is_settled(
    resolution: r.Resolution, why: str
) -> None:
    story = Story()
    about = {"order_id": "o1", "return_id": "o1-R1", "exchange_id": "o1-X1", "amount_minor": 500, "currency": "EUR"}
    story.heard(placed(), asked_to_return(resolution))
    [queued] = story.heard(r.ExchangeDifferenceDue.model_validate(about))
    assert (queued.kind, story.mail().title) == ("recovery_opened", "€5.00 of your order o1 is open")
    assert f"{why} We charge €5.00 of your order o1 for it, and write when that is done." in flat(story)
    story.sent()
    [queued] = story.heard(p.PaymentChargeFailed.model_validate(about | {"code": "card_declined"}))
    assert (queued.kind, story.mail().title) == (
        "recovery_charge_failed",
        "€5.00 of your order o1 could not be charged",
    )
    story.sent()
    [queued] = story.heard(r.ExchangeDifferenceSettled.model_validate(about | {"operation_id": "op-1"}))
    assert (queued.kind, story.mail().title) == ("recovery_settled", "€5.00 of your order o1 is settled")
    assert f"{why} €5.00 was charged for it. With that it is settled." in flat(story)


@pytest.mark.parametrize(
    ("amount", "sentence"), [(500, "With what we agreed with you"), (0, "You need not pay it any more")]
)
def test_a_difference_that_is_settled_by_hand_or_no_longer_due_is_said_to_be_settled(
    amount: int, sentence: str
) -> None:
    story = Story()
    about = {"order_id": "o1", "return_id": "o1-R1", "exchange_id": "o1-X1", "amount_minor": 500, "currency": "EUR"}
    settled = r.ExchangeDifferenceSettled.model_validate(about | {"amount_minor": amount})
    assert story.heard(placed(), settled) == [], "the customer was not told of it"
    story.heard(r.ExchangeDifferenceDue.model_validate(about))
    story.sent()
    story.heard(settled)
    assert story.mail().title == "€5.00 of your order o1 is settled"
    assert sentence in flat(story)


@pytest.mark.parametrize(
    ("outcome", "title", "sentence"),
    [
        ("rejected", "cannot be accepted", "If you think that this is wrong"),
        ("replaced", "is accepted", "We send you again what is listed here"),
        ("refunded", "is accepted", "€15.04 comes back to you for it"),
    ],
)
def test_a_claim_is_told_when_it_is_opened_and_when_it_is_decided(outcome: str, title: str, sentence: str) -> None:
    story = Story()
    about = {"order_id": "o1", "claim_id": "o1-CL1"}
    opened = r.ClaimOpened(**about, lines=units(("1", 2)), reason=r.ReturnReason.NOT_RECEIVED, decide_by=LATER)
    [queued] = story.heard(placed(), opened)
    assert (queued.kind, story.mail().title) == ("claim_opened", "Your claim o1-CL1 is being looked at")
    assert "we write what is decided by May 12, 2026" in flat(story)
    story.sent()
    story.heard(r.ClaimResolved.model_validate(about | {"outcome": outcome, "detail": ""}))
    if outcome == "refunded":
        story.heard(refund_due().model_copy(update={"return_id": "o1-CL1"}))
    assert story.mail().title == f"Your claim o1-CL1 {title}"
    assert sentence in flat(story)
    assert "Claimed: 2 x Mug" in flat(story)


def test_a_return_that_a_supervisor_closes_before_it_is_resolved_is_told_and_one_that_was_is_not() -> None:
    story = Story()
    closed = r.ReturnClosed(order_id="o1", return_id="o1-R1", approver="supervisor:s", detail="lost in our house")
    assert story.heard(placed(), closed) == []
    [queued] = story.heard(closed.model_copy(update={"unresolved": True}))
    assert (queued.kind, story.mail().title) == ("return_closed", "Your return o1-R1 is closed")
    assert "lost in our house" not in flat(story)


def test_a_mail_names_both_articles_where_another_one_ships() -> None:
    story = Story()
    other = f.SubstitutedUnits(line_id="1", quantity=1, sku="MUG-BLUE", title="Blue mug")
    left = shipped(1, 1, ("1", 3)).model_copy(update={"substituted": (other,)})
    story.heard(placed(), left)
    assert "In it:\n  2 x Mug\n  1 x Blue mug: instead of Mug\n" in story.mail().text
    arrived = scanned(f.ShipmentDelivered, ("1", 3)).model_copy(update={"substituted": (other,)})
    story.heard(arrived)
    assert "1 x Blue mug: instead of Mug" in story.mail().text


def test_a_mail_tells_the_price_of_a_substitute_that_has_one() -> None:
    story = Story()
    other = f.SubstitutedUnits(line_id="1", quantity=1, sku="MUG-BLUE", title="Blue mug", unit_price_minor=900)
    story.heard(placed(), shipped(1, 1, ("1", 3)).model_copy(update={"substituted": (other,)}))
    assert "1 x Blue mug: instead of Mug, for €9.00 each\n" in story.mail().text
