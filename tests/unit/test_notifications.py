"""Notifications: what the customer is told of shipments and refunds, and in which words."""

from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from itertools import count

import pytest

from notifications.domain import (
    NOTED,
    NOTIFICATION,
    Command,
    Note,
    OrderNotifications,
    RecordBounce,
    RecordDelivery,
    RecordFailure,
    RecordSent,
    Status,
    Suppress,
    decide,
    evolve,
    laws,
)
from notifications.gateway import message, message_id
from notifications.mails import Mail, composed
from notifications.store import SendingPolicy
from shared.contracts import fulfillment as f
from shared.contracts import payments as p
from shared.contracts.base import Bucket, Fact, LineQuantity, PolicyRef, TenderKind
from shared.contracts.notifications import (
    Claim,
    NotificationCoalesced,
    NotificationFailed,
    NotificationKind,
    NotificationQueued,
    NotificationSent,
    NotificationSuppressed,
)
from shared.contracts.orders import Address, Customer, OrderLine, OrderPlaced, TenderSpec
from shared.machine import Invalid, NotAllowed

NOON = datetime(2026, 5, 4, 12, tzinfo=timezone.utc)
PROMISED = datetime(2026, 5, 9, 12, tzinfo=timezone.utc)


class Story:
    def __init__(self) -> None:
        self.state = OrderNotifications("o1")
        self.told: list[Fact] = []
        self._numbers = count(1)

    def heard(self, *facts: Fact) -> list[NotificationQueued]:
        """The messages that the facts led to."""
        queued: list[NotificationQueued] = []
        for fact in facts:
            n = next(self._numbers)
            told = self.when(Note(fact, f"fact-{n}", n, NOON))
            queued += [t for t in told if isinstance(t, NotificationQueued)]
        return queued

    def when(self, command: Command) -> list[Fact]:
        facts = decide(self.state, command)
        for fact in facts:
            self.state = evolve(self.state, fact)
        self.told += facts
        assert laws(self.state) == []
        return facts

    def mail(self, notification_id: str = "o1-N1") -> Mail:
        return composed(self.state, self.state.notifications[notification_id])


def units(*lines: tuple[str, int]) -> tuple[LineQuantity, ...]:
    return tuple(LineQuantity(line_id=line_id, quantity=quantity) for line_id, quantity in lines)


def placed(name: str = "Ada") -> OrderPlaced:
    """Three mugs and two teas."""
    lines = tuple(
        OrderLine(
            line_id=line_id,
            sku=title,
            title=title,
            quantity=quantity,
            unit_price_minor=1000,
            discount_minor=0,
            tax_minor=0,
            shipping_minor=0,
            goods_minor=quantity * 1000,
        )
        for line_id, title, quantity in (("1", "Mug", 3), ("2", "Tea", 2))
    )
    return OrderPlaced(
        order_id="o1",
        placed_at=NOON,
        customer=Customer(customer_id="c1", email="ada@example.org", name=name),
        ship_to=Address(name="Ada", street="Main 1", city="Bonn", postal_code="53111", country="DE"),
        currency="EUR",
        lines=lines,
        goods_minor=5000,
        shipping_minor=0,
        total_minor=5000,
        tenders=(TenderSpec(tender_id="t1", kind=TenderKind.CARD, token="tok_ok", amount_minor=5000),),
    )


def shipped(number: int, of: int, *lines: tuple[str, int]) -> f.ShipmentShipped:
    id = f"o1-S{number}"
    parcel = f.Parcel(parcel_id=f"{id}-P1", lines=units(*lines), carrier="dhl", tracking=f"T{number}")
    return f.ShipmentShipped(
        order_id="o1", shipment_id=id, carrier="dhl", parcels=(parcel,), lines=units(*lines), number=number, of=of
    )


def backordered(quantity: int, eta: datetime | None) -> f.BackorderCreated:
    return f.BackorderCreated(order_id="o1", backorder_id="o1-B1", line_id="1", sku="mug", quantity=quantity, eta=eta)


def captured(amount: int, shipment_id: str | None) -> p.PaymentCaptured:
    return p.PaymentCaptured(
        order_id="o1",
        tender_id="t1",
        operation_id="o1-P1",
        amount_minor=amount,
        currency="EUR",
        shipment_id=shipment_id,
        final=False,
        reference="ref",
        tender_captured_minor=amount,
        order_captured_minor=amount,
    )


def routed(*legs: tuple[str, TenderKind, int], channel: p.RefundChannel = p.RefundChannel.ORIGINAL) -> p.RefundRouted:
    return p.RefundRouted(
        order_id="o1",
        refund_id="o1-R1",
        legs=tuple(
            p.RefundLeg(
                leg_id=leg_id,
                tender_id="t1",
                tender_kind=kind,
                channel=channel,
                amount_minor=amount,
                reasons=(),
                promised_at=PROMISED,
            )
            for leg_id, kind, amount in legs
        ),
        excluded=(),
        policy=PolicyRef(policy_id="routing", version=1),
        promised_at=PROMISED,
        requested_at=NOON,
    )


def leg(fact: type[p.RefundLegFact], leg_id: str, amount: int) -> p.RefundLegFact:
    more = {"reference": "r"} if fact is p.RefundLegSucceeded else {"code": "c"}
    return fact.model_validate(
        {
            "order_id": "o1",
            "refund_id": "o1-R1",
            "leg_id": leg_id,
            "operation_id": leg_id,
            "tender_id": "t1",
            "channel": "original",
            "amount_minor": amount,
            "currency": "EUR",
        }
        | more
    )


def completed(amount: int) -> p.RefundCompleted:
    return p.RefundCompleted(
        order_id="o1",
        refund_id="o1-R1",
        kind=p.RefundKind.RETURN,
        cause_id="due",
        return_id=None,
        amount_minor=amount,
        currency="EUR",
        trigger_at=NOON,
    )


LEGS = (("L1", TenderKind.GIFT_CARD, 400), ("L2", TenderKind.CARD, 600))


def said(queued: NotificationQueued) -> list[tuple[Claim, str | None, int]]:
    return [(s.claim, s.line_id, s.quantity) for s in queued.statements]


# Shipments


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
    assert {(s.as_of_service, s.as_of_sequence) for s in queued.statements} == {("fulfillment", 3)}
    story.heard(captured(2000, "o1-S1"))
    mail = story.mail()
    assert mail.title == "Parcel 1 of 3 of your order o1 is on its way"
    assert (
        mail.text
        == """Hello Ada,

parcel 1 of 3 of your order o1 is on its way with dhl.

Tracking number: T1

In it:
  2 x Mug

Still to come:
  1 x Mug: we wait for goods, expected on May 9, 2026
  2 x Tea: is being prepared and follows in another parcel

For this parcel we charged €20.00; for the whole order so far, €20.00.
"""
    )


def test_the_last_parcel_says_that_nothing_more_comes_and_what_was_cancelled() -> None:
    story = Story()
    cancelled = f.CancelledUnits(line_id="2", quantity=2, was=Bucket.ALLOCATED)
    story.heard(
        placed(),
        f.FulfillmentLinesCancelled(order_id="o1", cancellation_id="o1-C1", lines=(cancelled,)),
        captured(1000, None),
    )
    [queued] = story.heard(shipped(1, 1, ("1", 3)))
    assert said(queued) == [(Claim.SHIPPED, "1", 3), (Claim.CANCELLED, "2", 2)]
    assert (
        story.mail().text
        == """Hello Ada,

the parcel of your order o1 is on its way with dhl.

Tracking number: T1

In it:
  3 x Mug

This is the last of your order; nothing more is to come.

Cancelled, and not coming:
  2 x Tea

For this parcel nothing has been charged yet; for the whole order so far, €10.00.
"""
    )


def test_a_later_parcel_counts_what_went_before_and_a_backorder_without_a_date_says_so() -> None:
    story = Story()
    story.heard(placed(), backordered(2, None), shipped(1, 3, ("2", 2)))
    filled = f.BackorderFilled(
        order_id="o1", backorder_id="o1-B1", line_id="1", sku="mug", quantity=1, remaining=1, shipment_id="o1-S2"
    )
    [queued] = story.heard(filled, shipped(2, 3, ("1", 2)))
    assert said(queued) == [(Claim.SHIPPED, "1", 2), (Claim.REMAINING, "1", 1), (Claim.ETA, "1", 1)]
    text = story.mail("o1-N2").text
    assert "1 x Mug: we wait for goods, and will write when they have a date" in text
    assert "Nothing has been charged for this order yet." in text


def test_a_revised_date_and_a_cancelled_backorder_are_what_the_next_parcel_says() -> None:
    story = Story()
    later = PROMISED + timedelta(days=3)
    revised = f.BackorderEtaRevised(
        order_id="o1",
        backorder_id="o1-B1",
        line_id="1",
        sku="mug",
        quantity=1,
        previous_eta=PROMISED,
        eta=later,
        revision=1,
    )
    [queued] = story.heard(placed(), backordered(1, PROMISED), revised, shipped(1, 2, ("2", 1)))
    assert [s.at for s in queued.statements if s.claim is Claim.ETA] == [later]
    gone = f.BackorderCancelled(order_id="o1", backorder_id="o1-B1", line_id="1", sku="mug", quantity=1, remaining=0)
    [queued] = story.heard(gone, shipped(2, 2, ("2", 1)))
    assert Claim.ETA not in {s.claim for s in queued.statements}


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
        ("o1-N1", "shipment", "fact-2"),
        ("o1-N2", "refund_submitted", "fact-4"),
    ]
    assert said(queued[0]) == [
        (Claim.SHIPPED, "1", 2),
        (Claim.REMAINING, "1", 1),
        (Claim.REMAINING, "2", 2),
        (Claim.ETA, "1", 1),
    ]
    assert {s.as_of_sequence for s in queued[0].statements} == {2}
    assert story.heard(placed()) == []


# Refunds


def test_a_refund_is_told_when_all_its_legs_are_submitted_and_again_when_it_is_complete() -> None:
    story = Story()
    assert story.heard(placed(), routed(*LEGS), leg(p.RefundLegSubmitted, "L1", 400)) == []
    [queued] = story.heard(leg(p.RefundLegSubmitted, "L2", 600))
    assert queued.kind is NotificationKind.REFUND_SUBMITTED
    assert [(s.claim, s.amount_minor, s.currency, s.at) for s in queued.statements] == [
        (Claim.REFUND_SUBMITTED, 400, "EUR", PROMISED),
        (Claim.REFUND_SUBMITTED, 600, "EUR", PROMISED),
    ]
    assert (
        story.mail().text
        == """Hello Ada,

we have sent €10.00 back to you for your order o1:

  €4.00 to your gift card, expected by May 9, 2026
  €6.00 to your card, expected by May 9, 2026

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
    mail = story.mail("o1-N2")
    assert mail.title == "Your refund of €10.00 for order o1 is complete"
    assert "  €4.00 to your gift card\n  €6.00 to your card\n" in mail.text


def test_a_leg_that_failed_is_told_anew_by_the_channel_it_takes_instead() -> None:
    story = Story()
    story.heard(placed(), routed(*LEGS), *[leg(p.RefundLegSubmitted, id, 1) for id in ("L1", "L2")])
    story.heard(leg(p.RefundLegSucceeded, "L1", 400), leg(p.RefundLegFailed, "L2", 600))
    story.heard(routed(("L3", TenderKind.CARD, 600), channel=p.RefundChannel.BANK_TRANSFER))
    [queued] = story.heard(leg(p.RefundLegSubmitted, "L3", 600))
    assert [s.amount_minor for s in queued.statements] == [600]
    assert "€6.00 to your bank account" in story.mail("o1-N2").text
    [queued] = story.heard(leg(p.RefundLegSucceeded, "L3", 600), completed(1000))
    assert [s.amount_minor for s in queued.statements] == [400, 600]


def test_a_leg_nobody_routed_is_refused() -> None:
    with pytest.raises(Invalid, match="L9 is not a routed leg"):
        Story().heard(placed(), leg(p.RefundLegSubmitted, "L9", 1))


# Sending


def a_queued_one() -> Story:
    story = Story()
    story.heard(placed(), shipped(1, 1, ("1", 3)))
    return story


SENT, FAILED = RecordSent("o1-N1", "title"), RecordFailure("o1-N1", "550 no such user")
SUPPRESSED = Suppress("o1-N1", "too old")
DELIVERED, BOUNCED = RecordDelivery("o1-N1"), RecordBounce("o1-N1", "mailbox full")


@pytest.mark.parametrize(
    ("commands", "status"),
    [
        ([SENT], Status.SENT),
        ([SENT, DELIVERED], Status.DELIVERED),
        ([SENT, BOUNCED], Status.BOUNCED),
        ([FAILED], Status.FAILED),
        ([SUPPRESSED], Status.SUPPRESSED),
    ],
)
def test_a_message_goes_its_way_once_and_told_again_nothing_happens(
    commands: Sequence[Command], status: Status
) -> None:
    story = a_queued_one()
    for command in commands:
        assert len(story.when(command)) == 1
        assert story.when(command) == []
    assert story.state.notifications["o1-N1"].status is status


@pytest.mark.parametrize(
    ("first", "then"),
    [(SENT, FAILED), (SENT, SUPPRESSED), (FAILED, SENT), (SUPPRESSED, SENT), (FAILED, DELIVERED)],
)
def test_what_was_sent_or_given_up_stays_so(first: Command, then: Command) -> None:
    story = a_queued_one()
    story.when(first)
    with pytest.raises(NotAllowed):
        story.when(then)


def test_what_was_sent_carries_its_statements() -> None:
    story = a_queued_one()
    [fact] = story.when(SENT)
    assert isinstance(fact, NotificationSent)
    assert fact.statements == story.state.notifications["o1-N1"].statements


def test_a_message_nobody_queued_is_refused() -> None:
    with pytest.raises(Invalid):
        Story().when(SENT)


def test_every_status_is_reachable() -> None:
    assert NOTIFICATION.broken_laws() == []


def test_a_coalesced_message_is_suppressed_and_says_where_it_was_told() -> None:
    state = evolve(a_queued_one().state, NotificationCoalesced(order_id="o1", notification_id="o1-N1", into_id="o1-N2"))
    assert (state.notifications["o1-N1"].status, state.notifications["o1-N1"].detail) == (
        Status.SUPPRESSED,
        "told in o1-N2",
    )


def test_every_noted_fact_is_understood() -> None:
    assert len(set(NOTED)) == len(NOTED)
    with pytest.raises(TypeError, match="nothing to tell"):
        Story().heard(f.ShipmentReleased(order_id="o1", shipment_id="o1-S1", packed=True))
    for own in (NotificationFailed, NotificationSuppressed):
        with pytest.raises(NotAllowed):
            state = evolve(a_queued_one().state, own(order_id="o1", notification_id="o1-N1", detail=""))
            evolve(state, own(order_id="o1", notification_id="o1-N1", detail=""))


def test_every_attempt_has_the_same_message_id_and_a_name_cannot_add_a_header() -> None:
    mail = Mail(to="ada@example.org", name="Ada\nBcc: all@example.org", title="title", text="text\n")
    first, second = (message("o1-N1", mail, "shop@example.org") for _ in range(2))
    assert first["Message-ID"] == second["Message-ID"] == message_id("o1-N1") != message_id("o1-N2")
    assert first["To"] == '"Ada Bcc: all@example.org" <ada@example.org>'
    assert first["Bcc"] is None


def test_markup_in_a_name_or_title_is_written_as_it_is() -> None:
    story = Story()
    story.heard(placed(name="<b>{{ Ada }}</b>"), shipped(1, 1, ("1", 3)))
    assert story.mail().text.startswith("Hello <b>{{ Ada }}</b>,\n")


def test_pauses_between_attempts_double_up_to_the_longest() -> None:
    policy = SendingPolicy(
        timedelta(0), timedelta(seconds=2), timedelta(seconds=60), max_attempts=9, stale_after=timedelta(days=1)
    )
    assert [policy.pause_after(n).seconds for n in (1, 2, 3, 6, 1000)] == [2, 4, 8, 60, 60]
