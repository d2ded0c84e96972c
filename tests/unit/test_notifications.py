"""Notifications: what a customer is told of shipments, refunds and returns, and in which words."""

from datetime import timedelta
from itertools import pairwise

import pytest

from notifications.domain.messages import Status
from notifications.domain.telling import RecordBounce
from shared.contracts import fulfillment as f
from shared.contracts import orders
from shared.contracts import payments as p
from shared.contracts import returns as r
from shared.contracts.base import TenderKind
from shared.contracts.notifications import (
    Claim,
    NotificationCoalesced,
    NotificationContradicted,
    NotificationCorrectionSent,
    NotificationKind,
)
from shared.machine import Invalid
from tests.unit.notifications_story import (
    LATER,
    LEGS,
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
    assert "nothing more is to come" in told[-1][1].text


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

This is the last of your order; nothing more is to come.

Cancelled, and not coming:
  2 x Tea

For this parcel nothing has been charged yet; for the whole order so far,
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
    story.when(RecordBounce("o1-N1", "no such user"))
    [queued] = story.heard(slipped(PROMISED, LATER))
    assert queued.corrects == ()


def test_units_that_were_still_to_come_and_are_cancelled_are_corrected_by_the_cancellation() -> None:
    story = Story()
    story.heard(placed(), shipped(1, 2, ("1", 2)))
    story.sent()
    [queued] = story.heard(cancelled("1", 1))
    assert [(c.statement.claim, c.statement.line_id) for c in queued.corrects] == [(Claim.REMAINING, "1")]
    assert "we wrote that 1 × Mug is still to come" in " ".join(story.mail().text.split())
    assert story.heard(cancelled("2", 1, "o1-C2"))[0].corrects[0].statement.line_id == "2"


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
    assert "1 x Mug: opened; 100 % of its price is paid back, less a fee of 15 %" in story.mail().text
    [queued] = story.heard(r.ReturnExpired(**RETURN))
    assert (queued.kind, story.mail().title) == ("return_expired", "Your return o1-R1 has expired")
