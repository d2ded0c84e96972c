"""What a person reads off an order: four states side by side, quantities, money, what is awaited, why, and what is missing."""

from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any

import pytest

from shared.contracts.base import Bucket, PolicyRef, TenderKind
from shared.contracts.fulfillment import (
    BackorderConsentRequested,
    BackorderCreated,
    CancelledUnits,
    FulfillmentDiscrepancyRecorded,
    FulfillmentLinesCancelled,
    Parcel,
    ReplacementCreated,
    Scan,
    ShipmentCancelled,
    ShipmentCreated,
    ShipmentDelayed,
    ShipmentDelivered,
    ShipmentHeld,
    ShipmentLost,
    ShipmentRecallRequested,
    ShipmentRelabelled,
    ShipmentShipped,
    ShipmentTrackingUpdated,
    StockReceived,
    SubstitutedUnits,
)
from shared.contracts.notifications import Claim, NotificationContradicted, Statement
from shared.contracts.orders import (
    CancelledValue,
    Hold,
    OrderCancellationRefused,
    OrderCancellationRequested,
    OrderHoldPlaced,
    OrderHoldReleased,
    OrderLinesCancelled,
    OrderRejected,
)
from shared.contracts.payments import (
    DisputeOpened,
    OperationKind,
    PaymentAuthorizationRequested,
    PaymentChargeFailed,
    PaymentChargeRequested,
    PaymentDeclined,
    PaymentOperationUnknown,
    PaymentVoided,
    RefundApprovalRequired,
    RefundAttentionNeeded,
    RefundChannel,
    RefundLegReversed,
)
from shared.contracts.returns import (
    DeclaredCondition,
    Resolution,
    ReturnApproved,
    ReturnDeclined,
    ReturnEligibilityEvaluated,
    ReturnExceptionGranted,
    ReturnLine,
    ReturnReason,
    ReturnRequested,
    Verdict,
    Why,
)
from shared.messaging.envelope import Undecodable
from support_view.api import links_of
from support_view.domain.returns import ReverseBucket
from support_view.domain.timeline import Entry, Place, Words, arrange
from support_view.handlers import read
from support_view.picture import HEIGHT, WIDTH, draw
from support_view.projection import DOMAINS, Projection, fold_contiguous, projection_of, search_keys
from support_view.rendering import span
from support_view.sign_in import local
from support_view.summary import Summary, holes, summarize
from support_view.summary.sections import side_by_side
from tests.telling import (
    ESCALATIONS,
    POLICY,
    START,
    Telling,
    captured,
    confirmed_order,
    fill_backorder,
    placed,
    record_of,
    split_order,
    units,
    whole_story,
)


def sections_of(entries: Iterable[Entry]) -> Mapping[str, Projection[Any]]:
    told: dict[str, list[Entry]] = {}
    for entry in entries:
        told.setdefault(entry.service, []).append(entry)
    return {
        service: fold_contiguous(service, projection_of(service), {e.sequence for e in some}, some, None)
        for service, some in told.items()
    }


def seen(t: Telling) -> Summary:
    return summarize(t.order_id, sections_of(t.entries), ESCALATIONS)


def words(t: Telling) -> Words:
    return side_by_side(sections_of(t.entries)).words


def steps(summary: Summary) -> list[str]:
    return [step.text for step in summary.next_steps]


def title(entry: Entry, words: Words | None = None) -> str:
    return DOMAINS[entry.service].sentences[type(entry.fact)](entry.fact, words or Words())


def test_partly_shipped_and_backordered_stand_side_by_side() -> None:
    order = seen(split_order())
    assert order.order.status == "confirmed"
    assert order.rollups.payment_status == "partly_captured"
    assert order.rollups.fulfillment_status == "partly_shipped"
    assert order.rollups.return_status == "none"
    assert (order.rollups.has_backorder, order.rollups.has_exception, order.rollups.has_lost) == (True, True, False)


def test_every_owed_unit_is_in_one_forward_bucket_and_every_delivered_one_in_one_reverse_bucket() -> None:
    for story in (confirmed_order("o"), split_order("o"), whole_story("o")):
        for line in seen(story).lines:
            assert sum(line.forward.values()) == line.owed
            assert sum(line.reverse.values()) == line.forward[Bucket.DELIVERED]
    lamp, chair, rug = seen(split_order()).lines
    assert (lamp.forward[Bucket.DELIVERED], rug.forward[Bucket.IN_TRANSIT]) == (2, 1)
    assert (chair.forward[Bucket.DELIVERED], chair.forward[Bucket.BACKORDERED]) == (1, 1)
    assert seen(whole_story()).lines[0].reverse[ReverseBucket.ACCEPTED] == 2


def test_before_anything_is_planned_all_units_are_unallocated() -> None:
    assert [line.forward[Bucket.UNALLOCATED] for line in seen(confirmed_order("o")).lines] == [2, 2, 1]


def test_each_shipment_has_its_own_units_its_place_among_all_and_the_money_taken_for_it() -> None:
    first, second = seen(split_order()).shipments
    assert (first.title, first.contents) == ("Shipment 1 of 3", "2 × Desk lamp and 1 × Oak chair")
    assert (first.captured and first.captured.text, second.captured and second.captured.text) == ("€155.70", "€89.00")
    assert first.parcels[0].tracking == "JD0147111042"


def test_what_a_shipment_and_a_backorder_wait_for_is_said_in_words() -> None:
    order = seen(split_order())
    assert [shipment.waits_for for shipment in order.shipments] == [
        "",
        "the carrier to clear what is in the way: papers are missing",
    ]
    [backorder] = order.backorders
    assert backorder.waits_for == "1 × SKU-chair to arrive, expected 21 Oct 2026, moved once"
    assert [(r.previous, r.eta) for r in backorder.revisions] == [
        (START + timedelta(days=12), START + timedelta(days=20))
    ]


def test_a_filled_backorder_becomes_a_shipment_that_waits_to_be_packed() -> None:
    t = split_order()
    fill_backorder(t)
    order = seen(t)
    assert not order.rollups.has_backorder
    assert order.backorders[0].status == "filled"
    assert order.shipments[2].waits_for == "the warehouse in BER to pack it"


def test_a_hold_blocks_shipments_in_words_until_it_is_released() -> None:
    t = split_order()
    fill_backorder(t)
    t.tell(OrderHoldPlaced(order_id=t.order_id, hold=Hold.FRAUD, detail="address mismatch"), actor="agent:ann")
    t.tell(ShipmentHeld(order_id=t.order_id, shipment_id=f"{t.order_id}-S3", holds=(Hold.FRAUD,)))
    order = seen(t)
    assert order.shipments[2].waits_for == "its hold to be released: fraud"
    assert steps(order)[0] == "Release the hold “fraud”: address mismatch"
    t.tell(OrderHoldReleased(order_id=t.order_id, hold=Hold.FRAUD, detail="called"), actor="agent:ann")
    assert not seen(t).order.holds


def test_money_is_told_by_tender_and_in_all_to_the_minor_unit() -> None:
    order = seen(whole_story())
    totals = order.totals
    assert [a.minor for a in (totals.ordered, totals.authorized, totals.captured)] == [41_470, 41_470, 29_470]
    assert (totals.refunded.text, totals.refund_pending.minor) == ("€73.81", 0)
    gift, card = order.tenders
    assert (gift.status, gift.captured.minor, gift.refunded.minor) == ("captured", 5_000, 1_252)
    assert (card.status, card.captured.minor, card.refunded.minor) == ("partially_captured", 24_470, 6_129)
    assert card.text == "€120.00 held until 31 Oct 2026"


def test_yen_have_no_digits_after_the_point() -> None:
    t = Telling("o")
    t.tell(placed("o").model_copy(update={"currency": "JPY"}))
    assert seen(t).totals.ordered.text == "¥41,470"


def test_a_released_remainder_was_never_taken() -> None:
    t = split_order()
    t.tell(PaymentVoided(order_id=t.order_id, tender_id="card", operation_id="v", amount_minor=12_000, currency="EUR"))
    card = seen(t).tenders[1]
    assert (card.status, card.authorized.minor, card.captured.minor, card.voided.minor) == (
        "captured",
        36_470,
        24_470,
        12_000,
    )


def test_a_return_shows_who_decided_by_which_policy_and_how_long_it_took() -> None:
    [told] = seen(whole_story()).returns
    assert (told.status, told.policy, told.decision) == ("resolved", "standard v1", "approved by policy")
    assert told.reasons == (
        "2 × Desk lamp: day 18 of 30 since delivery",
        "2 × Desk lamp: unopened goods may come back",
    )
    assert told.inspection[1] == "1 × Desk lamp: opened, to regrade, 100% refundable less 15% fee"
    assert (told.due and told.due.minor, told.fees and told.fees.minor) == (7_381, 599)
    assert told.cycle_seconds == timedelta(days=4, hours=20, minutes=4, seconds=30).total_seconds()


def test_a_refund_shows_its_legs_their_reasons_and_how_long_it_took() -> None:
    [refund] = seen(whole_story()).refunds
    assert [(leg.channel, leg.amount.minor, leg.status) for leg in refund.legs] == [
        ("gift card", 1_252, "succeeded"),
        ("card", 6_129, "succeeded"),
    ]
    assert refund.latency_seconds == 270
    assert (refund.policy, refund.return_id) == ("refunds v3", "ORD-1042-RMA1")


def test_a_declined_return_shows_every_reason_and_an_exception_who_granted_it_and_why() -> None:
    t = split_order()
    about = {"order_id": t.order_id, "return_id": "rma"}
    late, sale = Why(code="window_over", text="day 41 of 30"), Why(code="final_sale", text="sold as final")
    t.tell(
        ReturnRequested(
            **about,
            requested_at=t.now,
            lines=(
                ReturnLine(
                    line_id="lamp", quantity=1, reason=ReturnReason.UNWANTED, condition=DeclaredCondition.OPENED
                ),
            ),
            resolution=Resolution.REFUND,
            note="",
        )
    )
    t.tell(
        ReturnEligibilityEvaluated(
            **about,
            verdicts=(
                Verdict(
                    line_id="lamp",
                    quantity=1,
                    outcome="decline",
                    reasons=(late, sale),
                    window_ends_at=START,
                    allowed_resolutions=(),
                    return_shipping_fee_minor=0,
                ),
            ),
            policy=POLICY,
            inputs_hash="0" * 64,
        )
    )
    t.tell(ReturnDeclined(**about, reasons=(late, sale), policy=POLICY))
    [told] = seen(t).returns
    assert (told.status, told.decision) == ("declined", "declined by policy")
    assert told.reasons == ("1 × Desk lamp: day 41 of 30", "1 × Desk lamp: sold as final")
    assert seen(t).lines[0].reverse[ReverseBucket.WITH_CUSTOMER] == 2

    granted = {"approver": "supervisor:eve", "lines": units(lamp=1), "policy": POLICY}
    t.tell(ReturnExceptionGranted(**about, **granted, detail="the shop was closed"), actor="supervisor:eve")
    t.tell(ReturnApproved(**about, **granted, expires_at=t.now + timedelta(days=30)), actor="supervisor:eve")
    [told] = seen(t).returns
    assert (told.status, told.decision) == ("approved", "exception granted by supervisor:eve: the shop was closed")
    assert seen(t).lines[0].reverse[ReverseBucket.RETURN_OPEN] == 1


def test_a_cancellation_is_answered_by_quantity_and_the_order_goes_on_with_the_rest() -> None:
    t = split_order()
    asked = {"order_id": t.order_id, "cancellation_id": "c1"}
    t.tell(
        OrderCancellationRequested(**asked, lines=units(chair=1, rug=1), whole=False, detail=""), actor="customer:ada"
    )
    assert seen(t).order.status == "cancel_pending"
    assert "Answer cancellation c1: 1 × Oak chair and 1 × Wool rug" in steps(seen(t))
    t.tell(
        FulfillmentLinesCancelled(**asked, lines=(CancelledUnits(line_id="chair", quantity=1, was=Bucket.BACKORDERED),))
    )
    t.tell(
        OrderLinesCancelled(
            **asked,
            lines=(CancelledValue(line_id="chair", quantity=1, goods_minor=12_000),),
            remaining_minor=29_470,
        )
    )
    t.tell(OrderCancellationRefused(**asked, lines=units(rug=1), reason_code="handed_over"))
    order = seen(t)
    assert order.order.status == "confirmed"
    assert order.order.cancellations[0].text == (
        "asked for 1 × Oak chair and 1 × Wool rug; cancelled 1 × Oak chair; refused 1 × Wool rug (handed over)"
    )
    assert order.totals.remaining.text == "€294.70"
    assert order.rollups.payment_status == "captured"


def test_a_declined_order_has_nothing_allocated_and_says_why() -> None:
    t = Telling("o")
    t.tell(placed("o"))
    t.tell(
        PaymentDeclined(
            order_id="o", tender_id="card", operation_id="p1", amount_minor=5, currency="EUR", code="insufficient_funds"
        )
    )
    t.tell(OrderRejected(order_id="o", reason_code="payment_declined", detail="insufficient funds"))
    order = seen(t)
    assert (order.order.status, order.order.text) == ("rejected", "insufficient funds")
    assert order.rollups.payment_status == "declined"
    assert order.totals.captured.minor == 0 and not order.shipments


def test_what_an_exchange_costs_more_is_told_beside_what_the_order_costs() -> None:
    t = whole_story()
    before, status = seen(t).totals, seen(t).rollups.payment_status
    charge = {"order_id": t.order_id, "exchange_id": "X1", "amount_minor": 900, "currency": "EUR"}
    t.tell(PaymentChargeRequested(**charge, return_id="RMA1"))
    attempt = charge | {"tender_id": "X1-C1", "operation_id": "p9"}
    t.tell(
        PaymentAuthorizationRequested(
            **attempt,
            tender_kind=TenderKind.CARD,
            attempt=1,
            requested_at=t.now,
            charged_tender_id="card",
            reasons=("first_chargeable",),
        )
    )
    t.tell(PaymentDeclined(**attempt, code="insufficient_funds"))
    t.tell(PaymentChargeFailed(**charge, return_id="RMA1", code="insufficient_funds"))
    order = seen(t)
    told = "Have €9.00 for exchange X1 charged again, or settle it otherwise: insufficient funds"
    assert told in steps(order)
    assert (order.totals, order.rollups.payment_status) == (before, status)
    assert order.tenders[-1].text == "for exchange X1; insufficient funds"
    t.tell(PaymentChargeRequested(**charge, return_id="RMA1"))
    taken = captured(t, "X1-C2", None, 900, 900, before.captured.minor + 900, 10).model_copy(
        update={"exchange_id": "X1"}
    )
    t.tell(taken)
    order = seen(t)
    assert told not in steps(order)
    assert (order.totals.captured, order.totals.charged.text) == (before.captured, "€9.00")


def test_an_unknown_outcome_is_neither_a_failure_nor_a_success() -> None:
    t = confirmed_order("o")
    operation = {"order_id": "o", "tender_id": "card", "operation_id": "p9", "amount_minor": 900, "currency": "EUR"}
    t.tell(PaymentOperationUnknown(**operation, kind=OperationKind.CAPTURE))
    order = seen(t)
    assert order.rollups.has_unknown
    assert order.tenders[1].in_flight.minor == 900 and order.tenders[1].captured.minor == 0
    assert "Learn whether a capture of €9.00 happened" in steps(order)


def test_a_refund_that_bounces_is_open_again_and_its_balance_free() -> None:
    t = whole_story()
    t.tell(
        RefundLegReversed(
            order_id=t.order_id,
            refund_id=f"{t.order_id}-R1",
            leg_id=f"{t.order_id}-R1L2",
            operation_id="p",
            tender_id="card",
            channel=RefundChannel.ORIGINAL,
            amount_minor=6_129,
            currency="EUR",
            code="account_closed",
        )
    )
    order = seen(t)
    assert (order.refunds[0].status, order.refunds[0].latency_seconds) == ("reversed", None)
    assert order.totals.refunded.minor == 1_252 and order.tenders[1].refunded.minor == 0


def test_what_a_person_must_do_comes_before_what_happens_by_itself() -> None:
    t = split_order()
    about = {"order_id": t.order_id, "refund_id": "r1"}
    t.tell(
        RefundApprovalRequired(
            **about,
            reasons=("kind_goodwill", "above_threshold"),
            policy=PolicyRef(policy_id="refunds", version=1),
        )
    )
    assert seen(t).refunds[0].text == "waits for an approval: goodwill always needs one and above threshold"
    t.tell(DisputeOpened(order_id=t.order_id, dispute_id="d1", tender_id="card", amount_minor=100, currency="EUR"))
    order = seen(t)
    assert [step.urgent for step in order.next_steps] == sorted((s.urgent for s in order.next_steps), reverse=True)
    first, second = sorted(steps(order)[:2])
    assert first.startswith("Answer the dispute d1 over €1.00") and second.startswith("Approve or reject refund r1")
    assert order.rollups.dispute_status == "open"
    t.tell(RefundAttentionNeeded(**about, reason_code="no_channel_left", outstanding_minor=100, currency="EUR"))
    assert "Find a way for €1.00 of refund r1" in steps(seen(t))


def test_a_lost_shipment_waits_for_a_replacement_until_there_is_one() -> None:
    t = split_order()
    lost = f"{t.order_id}-S2"
    t.tell(ShipmentLost(order_id=t.order_id, shipment_id=lost, lines=units(rug=1)))
    assert seen(t).shipments[1].waits_for == "a replacement or a refund"
    t.tell(
        ReplacementCreated(
            order_id=t.order_id,
            replacement_id="x1",
            cause_id=lost,
            lines=units(rug=1),
            moved=(CancelledUnits(line_id="rug", quantity=1, was=Bucket.LOST),),
            reason_code="lost",
        )
    )
    t.tell(
        ShipmentCreated(
            order_id=t.order_id,
            shipment_id=f"{t.order_id}-S3",
            location="LEJ",
            lines=units(rug=1),
            number=3,
            of=4,
            replaces_shipment_id=lost,
        )
    )
    order = seen(t)
    assert order.shipments[1].waits_for == ""
    rug = order.lines[2]
    assert (rug.owed, rug.forward[Bucket.LOST], rug.forward[Bucket.UNALLOCATED]) == (1, 0, 1)


def test_a_cancelled_shipment_stands_last_and_its_units_are_where_the_cancellation_put_them() -> None:
    t = split_order()
    fill_backorder(t)
    about = {"order_id": t.order_id}
    t.tell(ShipmentCancelled(**about, shipment_id=f"{t.order_id}-S3", lines=units(chair=1), detail="emptied"))
    gone = CancelledUnits(line_id="chair", quantity=1, was=Bucket.ALLOCATED)
    t.tell(FulfillmentLinesCancelled(**about, cancellation_id="c1", lines=(gone,)))
    order = seen(t)
    assert order.shipments[-1].status == "cancelled"
    assert (order.lines[1].forward[Bucket.ALLOCATED], order.lines[1].forward[Bucket.CANCELLED]) == (0, 1)


def test_what_left_although_it_was_cancelled_is_waited_for_until_it_is_back() -> None:
    t = split_order()
    fill_backorder(t)
    about = {"order_id": t.order_id, "shipment_id": f"{t.order_id}-S3"}
    t.tell(ShipmentCancelled(**about, lines=units(chair=1), detail="emptied"))
    stray = Parcel(parcel_id="p9", lines=units(chair=1), carrier="DHL", tracking="TR-9")
    detail = "it left the warehouse although it was cancelled"
    t.tell(ShipmentRecallRequested(**about, detail=detail, carrier="DHL", parcels=(stray,)))
    last = seen(t).shipments[-1]
    assert (last.status, last.waits_for) == ("cancelled", "DHL to bring it back: it left although it was cancelled")
    scan = Scan(carrier="DHL", tracking="TR-9", code="returned", at=t.now)
    t.tell(ShipmentTrackingUpdated(**about, tracking="TR-9", code="info", moved=False, detail="returned", scan=scan))
    assert seen(t).shipments[-1].waits_for == ""


def test_of_two_parcels_each_stands_by_its_own_scans_and_the_shipment_where_it_needs_attention() -> None:
    t = split_order()
    fill_backorder(t)
    about = {"order_id": t.order_id, "shipment_id": f"{t.order_id}-S9"}
    t.tell(ShipmentCreated(**about, location="BER", lines=units(rug=2), number=4, of=4))
    parcels = tuple(Parcel(parcel_id=f"p{n}", lines=units(rug=1), carrier="DHL", tracking=f"TR-{n}") for n in (1, 2))
    t.tell(ShipmentShipped(**about, carrier="DHL", parcels=parcels, lines=units(rug=2), number=4, of=4))
    scan = Scan(carrier="DHL", tracking="TR-1", code="delivered", at=t.now)
    t.tell(ShipmentDelivered(**about, scan=scan, lines=units(rug=1)))
    last = seen(t).shipments[-1]
    assert (last.status, [parcel.status for parcel in last.parcels]) == ("shipped", ["delivered", "shipped"])
    t.tell(ShipmentDelivered(**about, scan=scan.model_copy(update={"tracking": "TR-2"}), lines=units(rug=1)))
    assert (seen(t).shipments[-1].status, seen(t).shipments[-1].delivered_at) == ("delivered", t.now)


def test_a_parcel_that_is_followed_by_another_number_is_shown_and_found_by_it_and_waits_for_its_first_scan() -> None:
    t = split_order()
    fill_backorder(t)
    about = {"order_id": t.order_id, "shipment_id": f"{t.order_id}-S9"}
    t.tell(ShipmentCreated(**about, location="BER", lines=units(rug=2), number=4, of=4))
    parcels = tuple(Parcel(parcel_id=f"p{n}", lines=units(rug=1), carrier="DHL", tracking=f"TR-{n}") for n in (1, 2))
    t.tell(ShipmentShipped(**about, carrier="DHL", parcels=parcels, lines=units(rug=2), number=4, of=4))
    scan = Scan(carrier="DHL", tracking="TR-1", code="delivered", at=t.now)
    t.tell(ShipmentDelivered(**about, scan=scan, lines=units(rug=1)))
    delayed = scan.model_copy(update={"tracking": "TR-2", "code": "delayed"})
    t.tell(ShipmentDelayed(**about, scan=delayed, tracking="TR-2", detail="snow"))
    said = Parcel(parcel_id="box", lines=(), carrier="UPS", tracking="TR-New")
    told = FulfillmentDiscrepancyRecorded(
        **about,
        discrepancy_id="D1",
        observation="warehouse.handed_over",
        contradicts="handed_over",
        detail="it left with DHL before",
        parcels=(said,),
    )
    assert search_keys(told) == [("tracking", "tr-new")]
    now = said.model_copy(update={"parcel_id": "p2", "lines": units(rug=1)})
    relabelled = t.tell(ShipmentRelabelled(**about, parcel=now, replaces="TR-2"))
    assert title(relabelled, words(t)) == "Shipment 4 of 4 is followed by UPS TR-New, no longer by TR-2"
    last = seen(t).shipments[-1]
    assert (last.status, last.waits_for) == ("shipped", "its first scan by UPS")
    shown = [(parcel.carrier, parcel.tracking, parcel.status) for parcel in last.parcels]
    assert shown == [("DHL", "TR-1", "delivered"), ("UPS", "TR-New", "shipped")]
    t.tell(
        ShipmentDelivered(
            **about, scan=Scan(carrier="UPS", tracking="TR-New", code="delivered", at=t.now), lines=units(rug=1)
        )
    )
    assert seen(t).shipments[-1].status == "delivered"


def test_where_another_article_ships_both_are_named() -> None:
    t = split_order()
    fill_backorder(t)
    about = {"order_id": t.order_id, "shipment_id": f"{t.order_id}-S9", "number": 4, "of": 4}
    stool = SubstitutedUnits(line_id="chair", quantity=1, sku="SKU-stool", title="Stool")
    t.tell(ShipmentCreated(**about, location="BER", lines=units(chair=2, lamp=1), substituted=(stool,)))
    both = "1 × Stool instead of Oak chair, 1 × Oak chair and 1 × Desk lamp"
    assert seen(t).shipments[-1].contents == both
    parcels = (Parcel(parcel_id="p1", lines=units(chair=1), carrier="DHL", tracking="TR-1"),)
    t.tell(ShipmentShipped(**about, carrier="DHL", parcels=parcels, lines=units(chair=1), substituted=(stool,)))
    last = seen(t).shipments[-1]
    assert (last.contents, last.parcels[0].contents) == ("1 × Stool instead of Oak chair",) * 2
    scan = Scan(carrier="DHL", tracking="TR-1", code="delivered", at=t.now)
    of = {"order_id": t.order_id, "shipment_id": f"{t.order_id}-S9"}
    delivered = t.tell(ShipmentDelivered(**of, scan=scan, lines=units(chair=1), substituted=(stool,)))
    assert title(delivered, words(t)) == "Shipment 4 of 4 delivered: 1 × Stool instead of Oak chair"
    [chair] = [line for line in seen(t).lines if line.line_id == "chair"]
    assert chair.instead == ("Stool",)


def test_what_left_as_one_other_article_comes_back_as_that_and_what_left_as_two_is_called_as_ordered() -> None:
    def returned(*parcels: tuple[int, int]) -> tuple[str, str]:
        """Of a chair's shipments, each of so many units, so many of them stools: what a return of one is said to be of."""
        t = confirmed_order("ORD-1042")
        for n, (chairs, stools) in enumerate(parcels, 1):
            stool = (
                SubstitutedUnits(line_id="chair", quantity=stools, sku="SKU-stool", title="Stool") if stools else None
            )
            others = (stool,) if stool else ()
            about = {"order_id": t.order_id, "shipment_id": f"{t.order_id}-S{n}", "number": n, "of": len(parcels)}
            boxes = (Parcel(parcel_id="p1", lines=units(chair=chairs), carrier="DHL", tracking=f"TR-{n}"),)
            lines = units(chair=chairs)
            t.tell(ShipmentShipped(**about, carrier="DHL", parcels=boxes, lines=lines, substituted=others))
        line = ReturnLine(
            line_id="chair", quantity=1, reason=ReturnReason.UNWANTED, condition=DeclaredCondition.UNOPENED
        )
        asked = t.tell(
            ReturnRequested(
                order_id=t.order_id,
                return_id="r1",
                requested_at=t.now,
                lines=(line,),
                resolution=Resolution.REFUND,
                note="",
            )
        )
        return seen(t).returns[0].contents, title(asked, words(t))

    both = "1 × Stool instead of Oak chair"
    assert returned((1, 1)) == (both, f"Return requested: {both}, for a refund")
    assert returned((1, 1), (1, 1))[0] == both
    assert returned((1, 0), (1, 1))[0] == "1 × Oak chair"


def test_lines_that_a_fact_names_twice_are_added_up() -> None:
    assert Words(titles={"chair": "Oak chair"}).units((*units(chair=1), *units(chair=2))) == "3 × Oak chair"


def test_a_backorder_of_a_substitute_names_both() -> None:
    t = confirmed_order("ORD-1042")
    of = {"order_id": t.order_id, "backorder_id": "b1", "line_id": "chair", "sku": "SKU-stool", "title": "Stool"}
    told = t.tell(BackorderCreated(**of, quantity=1, eta=None))
    assert seen(t).backorders[0].contents == "1 × Stool instead of Oak chair"
    assert title(told, words(t)).startswith("Backordered: 1 × Stool instead of Oak chair, ")
    assert [line.instead for line in seen(t).lines if line.line_id == "chair"] == [("Stool",)]


def test_a_customer_who_is_asked_about_a_later_date_has_a_date_to_answer_by() -> None:
    t = split_order()
    due = t.now + timedelta(days=2)
    t.tell(
        BackorderConsentRequested(
            order_id=t.order_id,
            backorder_id=f"{t.order_id}-B1",
            line_id="chair",
            sku="SKU-chair",
            quantity=1,
            eta=START + timedelta(days=40),
            options=("wait", "cancel"),
            due_at=due,
            policy=PolicyRef(policy_id="backorders", version=1),
        )
    )
    [step] = [step for step in seen(t).next_steps if step.owner == "customer"]
    assert (step.text, step.due_at) == ("Choose what to do about the later date of 1 × Oak chair", due)


def test_what_the_customer_was_told_is_kept_and_what_became_untrue_is_marked() -> None:
    t = split_order()
    assert seen(t).told[1].statements == ("1 × Wool rug shipped", "1 × Oak chair expected, 13 Oct 2026")
    untrue = Statement(
        claim=Claim.ETA,
        line_id="chair",
        quantity=1,
        at=START + timedelta(days=12),
        as_of_service="fulfillment",
        as_of_sequence=9,
    )
    told = t.tell(
        NotificationContradicted(
            order_id=t.order_id, notification_id=f"{t.order_id}-N1", by_fact_id="f", statement=untrue
        )
    )
    assert seen(t).told[0].warning == "1 statement in it became untrue and is not corrected yet"
    assert title(told, Words(titles={"chair": "Oak chair"})) == (
        "No longer true: the customer was told “1 × Oak chair expected, 13 Oct 2026”"
    )


def test_an_order_that_only_other_services_told_of_is_shown_as_far_as_it_goes() -> None:
    t = split_order()
    order = summarize(t.order_id, sections_of(entry for entry in t.entries if entry.service != "orders"), ESCALATIONS)
    assert order.order.status is None
    assert order.lines[0].title == "line lamp"
    assert order.shipments[0].title == "Shipment 1 of 3"
    assert order.totals.captured.text == "€294.70"


def test_a_hole_is_named_and_what_follows_it_waits() -> None:
    t = split_order()
    seen_so_far = [e for e in t.entries if not (e.service == "payments" and e.sequence in (4, 5))]
    sections = sections_of(seen_so_far)
    assert [hole.text for hole in holes(sections)] == ["facts 4–5 of payments not seen yet"]
    assert summarize(t.order_id, sections, ESCALATIONS).totals.captured.minor == 0
    assert summarize(t.order_id, sections, ESCALATIONS).rollups.fulfillment_status == "partly_shipped"


def test_a_fact_that_cannot_be_folded_stops_its_own_section_and_says_so() -> None:
    t = confirmed_order("o")
    broken = [
        entry._replace(fact=StockReceived(sku="s", location="l", quantity=1, receipt_id="r"))
        if entry.service == "payments" and entry.sequence == 3
        else entry
        for entry in t.entries
    ]
    sections = sections_of(broken)
    assert sections["payments"].is_stuck and sections["payments"].next == 3
    assert sections["orders"].next == 3
    assert [hole.text for hole in holes(sections)] == [
        "fact 3 of payments was seen but could not be read into this page"
    ]


def test_within_one_instant_causes_are_read_before_what_they_caused() -> None:
    def place(service: str, sequence: int, id: str, cause: str | None = None) -> Place:
        return Place(id, service, sequence, START, cause)

    told = [
        place("fulfillment", 1, "plan", "confirm"),
        place("orders", 2, "confirm", "authorized"),
        place("payments", 2, "authorized", "request"),
        place("payments", 1, "request", "place"),
        place("orders", 1, "place"),
    ]
    assert [p.id for p in arrange(told)] == ["place", "request", "authorized", "confirm", "plan"]


def test_causes_that_go_in_a_circle_are_read_all_the_same() -> None:
    told = [Place("a", "orders", 1, START, "b"), Place("b", "payments", 1, START, "a")]
    assert [p.id for p in arrange(told)] == [p.id for p in arrange(told[::-1])] == ["a", "b"]


def test_titles_say_what_happened_in_plain_words() -> None:
    t = whole_story()
    words = Words(
        "EUR", {"lamp": "Desk lamp", "chair": "Oak chair"}, {"card": "card"}, {"ORD-1042-S1": "shipment 1 of 3"}
    )
    told = [title(entry, words) for entry in t.entries]
    assert "Order placed: 5 units in 3 lines for €414.70" in told
    assert "€155.70 captured for shipment 1 of 3; €205.70 in all" in told
    assert "Backorder date moved from 13 Oct 2026 to 21 Oct 2026: 1 × Oak chair" in told
    assert "No answer from the provider: refund of €61.29 may or may not have happened" in told


def test_an_order_is_found_by_email_tracking_and_return() -> None:
    found = {pair for entry in whole_story().entries for pair in search_keys(entry.fact)}
    assert {("email", "ada@example.com"), ("tracking", "jd0147111042"), ("tracking", "ret-9911")} <= found
    assert ("return", "ord-1042-rma1") in found


def test_a_fact_is_read_as_it_was_told() -> None:
    for entry in whole_story().entries:
        told = read(record_of(entry))
        assert told.entry == entry
        assert told.data == entry.fact.model_dump_json()


@pytest.mark.parametrize(
    ("header", "value", "reason"),
    [
        ("ce_source", b"urn:order-workflows:orders", "bad_header"),
        ("ce_subject", b"another-order", "bad_header"),
        ("ce_sequence", b"", "bad_header"),
        ("ce_sequence", b"0", "bad_header"),
        ("ce_sequence", b"9223372036854775808", "bad_header"),
        ("ce_actor", b"agent:\x00", "bad_header"),
        ("ce_id", b"not a uuid", "bad_header"),
        ("ce_type", b"payment.unheard_of", "unknown_type"),
        ("ce_dataschema", b"urn:order-workflows:payment.captured:99", "unknown_version"),
    ],
)
def test_a_record_that_is_no_fact_of_its_service_is_refused_with_its_reason(
    header: str, value: bytes, reason: str
) -> None:
    [entry] = [e for e in confirmed_order("o").entries if e.fact.type == "payment.captured"]
    record = record_of(entry)
    record = record._replace(headers=[(name, value if name == header else was) for name, was in record.headers])
    with pytest.raises(Undecodable) as refusal:
        read(record)
    assert refusal.value.reason == reason


@pytest.mark.parametrize(
    ("path", "onward"),
    [
        ("/orders/o?domain=order", "/orders/o?domain=order"),
        ("/", "/"),
        ("", "/"),
        ("https://elsewhere.example/", "/"),
        ("//elsewhere.example", "/"),
        ("/\\elsewhere.example", "/"),
        ("/orders/o\r\nSet-Cookie: a=b", "/"),
    ],
)
def test_signing_in_leads_to_this_site_only(path: str, onward: str) -> None:
    assert local(path) == onward


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "under a second"),
        (1, "1 second"),
        (3_600, "1 hour"),
        (93_784, "1 day 2 hours"),
        (270, "4 minutes 30 seconds"),
    ],
)
def test_a_duration_is_told_by_its_two_largest_parts(seconds: float, words: str) -> None:
    assert span(seconds) == words


# Why it is as it is


def why(summary: Summary, subject: str = "order") -> str:
    return next(e.text for e in summary.explanations if e.subject == subject)


def test_why_an_order_is_as_it_is_reads_as_a_sentence() -> None:
    assert why(seen(split_order())) == (
        "3 of 5 shipped on 1 Oct 2026; 1 more on 2 Oct 2026; 3 delivered; "
        "1 waits for the carrier to clear what is in the way: papers are missing; "
        "1 waits for goods due 21 Oct 2026, slipped once; €294.70 of €414.70 charged so far."
    )
    order = seen(whole_story())
    assert why(order, "line:chair") == (
        "1 in shipment 1 of 3, delivered on 4 Oct 2026; "
        "1 in shipment 3 of 3, waits for the warehouse in BER to pack it."
    )
    assert "to the gift card" in why(order, "refund:ORD-1042-R1")
    assert why(order, "return:ORD-1042-RMA1").endswith("€73.81 due, €5.99 kept as fees; resolved on 2 Nov 2026.")


@pytest.mark.parametrize("tell", [confirmed_order, split_order, whole_story])
def test_every_clause_leads_to_facts_that_were_seen(tell: Callable[[str], Telling]) -> None:
    story = tell("o")
    links = {f"{link.kind}:{link.id}" for entry in story.entries for link in links_of(entry.fact)}
    domains = {DOMAINS[entry.service].name for entry in story.entries}
    for explanation in seen(story).explanations:
        for clause in explanation.clauses:
            assert clause.domain in domains
            assert clause.about is None or clause.about in links


def test_an_order_of_which_nothing_but_a_later_fact_was_seen_says_so() -> None:
    story = split_order()
    story.entries = [entry for entry in story.entries if entry.service == "payments"]
    assert why(seen(story)).startswith("The order itself has not been seen yet")


def test_what_blocks_is_named_with_the_units_that_wait_for_it() -> None:
    dependencies = seen(split_order()).dependencies
    assert dependencies.text == (
        "1 × Wool rug: waits for the carrier to clear what is in the way: papers are missing",
        "1 × Oak chair: waits for goods SKU-chair due 21 Oct 2026",
    )
    assert [node.kind for node in dependencies.nodes if node.blocks] == ["carrier", "goods"]


def test_a_hold_blocks_every_shipment_that_has_not_left() -> None:
    story = confirmed_order("o")
    for number in (1, 2):
        lines = units(lamp=1)
        story.tell(
            ShipmentCreated(order_id="o", shipment_id=f"o-S{number}", location="BER", lines=lines, number=number, of=2)
        )
    story.tell(OrderHoldPlaced(order_id="o", hold=Hold.ADDRESS, detail="no such street"))
    assert seen(story).dependencies.text == (
        "1 × Desk lamp and 1 × Desk lamp: waits for the hold “address” to be released",
    )


def test_nothing_is_awaited_once_everything_is_there() -> None:
    assert seen(confirmed_order("o")).dependencies.nodes == ()


def shipments_of_several_lines(order_id: str) -> Telling:
    """Three shipments that have not left, one with all three lines, and a hold that all of them wait for."""
    story = confirmed_order(order_id)
    for number, lines in enumerate((units(lamp=1, chair=1, rug=1), units(lamp=1, chair=1)), 1):
        shipment_id = f"{order_id}-S{number}"
        created = ShipmentCreated(
            order_id=order_id, shipment_id=shipment_id, location="BER", lines=lines, number=number, of=2
        )
        story.tell(created)
    story.tell(OrderHoldPlaced(order_id=order_id, hold=Hold.ADDRESS, detail="no such street"))
    return story


@pytest.mark.parametrize("tell", [split_order, whole_story, shipments_of_several_lines])
def test_no_two_boxes_of_the_picture_overlap_and_every_arrow_goes_right(tell: Callable[[str], Telling]) -> None:
    picture = draw(seen(tell("o")).dependencies)
    for one in picture.boxes:
        assert 0 <= one.x <= picture.width - WIDTH and 0 <= one.y <= picture.height - HEIGHT
        assert all(
            abs(one.x - other.x) >= WIDTH or abs(one.y - other.y) >= HEIGHT
            for other in picture.boxes
            if other is not one
        )
    assert all(source.x < target.x for source, target in picture.arrows)
