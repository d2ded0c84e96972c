"""Orders: what was promised, kept side by side with what payments, fulfillment and returns tell."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from orders.domain.decide import (
    ChangeAddress,
    Close,
    Command,
    GiveConsent,
    Note,
    Place,
    PlaceHold,
    ReleaseHold,
    RequestCancellation,
    decide,
)
from orders.domain.order import ORDER, Order, Status, deadlines, evolve, laws
from orders.domain.placement import LineRequest, PlacementRequest, TenderRequest, placed
from orders.domain.policy import OrderPolicy, in_force
from orders.domain.progress import NOTED
from orders.domain.rollups import rollups
from shared.card_numbers import has_card_number
from shared.contracts import fulfillment as f
from shared.contracts import payments as p
from shared.contracts import returns as r
from shared.contracts.base import Bucket, Fact, LineQuantity, PolicyRef, TenderKind
from shared.contracts.orders import (
    Address,
    BackorderChoice,
    Customer,
    Hold,
    OrderAddressChanged,
    OrderBackorderConsentGiven,
    OrderCancellationRefused,
    OrderCancellationRequested,
    OrderCancelled,
    OrderClosed,
    OrderCompleted,
    OrderConfirmed,
    OrderHoldPlaced,
    OrderHoldReleased,
    OrderLinesCancelled,
    OrderPlaced,
    OrderProgressed,
    OrderRejected,
    OrderReopened,
    ShippingPreference,
)
from shared.machine import Invalid, NotAllowed

NOON = datetime(2026, 5, 4, 12, tzinfo=timezone.utc)
POLICIES = [OrderPolicy("orders", 1, datetime(2000, 1, 1, tzinfo=timezone.utc), timedelta(days=60))]
POLICY = PolicyRef(policy_id="orders", version=1)
HOME = Address(name="Ada", street="Main 1", city="Bonn", postal_code="53111", country="DE")


def request(**more: Any) -> PlacementRequest:
    """Two lines, 3 x 10.00 and 2 x 5.00 EUR; 45.00 with 5.00 shipping, 20.00 of it by gift card."""
    given = PlacementRequest(
        placed_at=NOON,
        customer=Customer(customer_id="c1", email="ada@example.org", name="Ada"),
        ship_to=HOME,
        currency="EUR",
        lines=(
            LineRequest(sku="mug", title="Mug", quantity=3, unit_price_minor=1000),
            LineRequest(sku="tea", title="Tea", quantity=2, unit_price_minor=500),
        ),
        tenders=(
            TenderRequest(TenderKind.GIFT_CARD, "tok_gift", 2000),
            TenderRequest(TenderKind.CARD, "tok_ok", 2500),
        ),
        preference=ShippingPreference(),
        shipping_minor=500,
    )
    return replace(given, **more)


class Story:
    """Given facts and commands so far; each command's own facts are what the last `when` or `heard` returns."""

    def __init__(self, **more: Any) -> None:
        self.order: Order | None = None
        self.told: list[Fact] = []
        self.when(Place("o1", request(**more), NOON))

    def when(self, command: Command) -> list[Fact]:
        facts = decide(self.order, command, POLICIES)
        for fact in facts:
            self.order = evolve(self.order, fact)
        self.told += facts
        return facts

    def heard(self, *facts: Fact, at: datetime = NOON) -> list[Fact]:
        """What the order tells, its counters aside."""
        told = [told for fact in facts for told in self.when(Note(fact, at))]
        return [fact for fact in told if not isinstance(fact, OrderProgressed)]

    @property
    def now(self) -> Order:
        assert self.order is not None
        return self.order

    def stands(self, status: Status) -> bool:
        return self.now.status is status


def cancel(*lines: tuple[str, int]) -> RequestCancellation:
    units = tuple(LineQuantity(line_id=line_id, quantity=quantity) for line_id, quantity in lines) or None
    return RequestCancellation(at=NOON, lines=units, detail="changed my mind")


def units(*lines: tuple[str, int]) -> tuple[LineQuantity, ...]:
    return tuple(LineQuantity(line_id=line_id, quantity=quantity) for line_id, quantity in lines)


def authorized(tender_id: str, amount: int) -> p.PaymentAuthorized:
    return p.PaymentAuthorized(
        order_id="o1",
        tender_id=tender_id,
        operation_id=f"o1-P{tender_id}",
        amount_minor=amount,
        currency="EUR",
        tender_kind=TenderKind.CARD,
        reference="ref",
        expires_at=None,
    )


def declined(tender_id: str, code: str = "insufficient_funds", fraud: bool = False) -> p.PaymentDeclined:
    return p.PaymentDeclined(
        order_id="o1",
        tender_id=tender_id,
        operation_id="o1-P9",
        amount_minor=0,
        currency="EUR",
        code=code,
        fraud=fraud,
    )


def captured(tender_id: str, amount: int, in_all: int, shipment_id: str | None = "o1-S1", final: bool = False) -> Fact:
    return p.PaymentCaptured(
        order_id="o1",
        tender_id=tender_id,
        operation_id="o1-P5",
        amount_minor=amount,
        currency="EUR",
        shipment_id=shipment_id,
        final=final,
        reference="ref",
        tender_captured_minor=in_all,
        order_captured_minor=in_all,
    )


def capture_failed(tender_id: str, amount: int, shipment_id: str = "o1-S1") -> p.PaymentCaptureFailed:
    return p.PaymentCaptureFailed(
        order_id="o1",
        tender_id=tender_id,
        operation_id="o1-P6",
        amount_minor=amount,
        currency="EUR",
        shipment_id=shipment_id,
        code="card_expired",
    )


def allocated(shipment_id: str, *lines: tuple[str, int]) -> list[Fact]:
    return [
        f.StockAllocated(
            order_id="o1", sku="mug", location="berlin", quantity=quantity, line_id=line_id, shipment_id=shipment_id
        )
        for line_id, quantity in lines
    ]


def parcel(shipment_id: str, *lines: tuple[str, int]) -> f.Parcel:
    return f.Parcel(parcel_id=f"{shipment_id}-P1", lines=units(*lines), carrier="dhl", tracking=f"T-{shipment_id}")


def packed(shipment_id: str, *lines: tuple[str, int]) -> f.ShipmentPacked:
    return f.ShipmentPacked(order_id="o1", shipment_id=shipment_id, parcels=(parcel(shipment_id, *lines),))


def shipped(shipment_id: str, *lines: tuple[str, int]) -> f.ShipmentShipped:
    return f.ShipmentShipped(
        order_id="o1",
        shipment_id=shipment_id,
        carrier="dhl",
        parcels=(parcel(shipment_id, *lines),),
        lines=units(*lines),
        number=1,
        of=1,
    )


def scan(shipment_id: str, code: str) -> f.Scan:
    return f.Scan(carrier="dhl", tracking=f"T-{shipment_id}", code=code, at=NOON)


def delivered(shipment_id: str, *lines: tuple[str, int]) -> f.ShipmentDelivered:
    return f.ShipmentDelivered(
        order_id="o1", shipment_id=shipment_id, lines=units(*lines), scan=scan(shipment_id, "delivered")
    )


def lost(shipment_id: str, *lines: tuple[str, int]) -> f.ShipmentLost:
    return f.ShipmentLost(order_id="o1", shipment_id=shipment_id, lines=units(*lines), scan=scan(shipment_id, "lost"))


def on_its_way(shipment_id: str, *lines: tuple[str, int]) -> list[Fact]:
    return [*allocated(shipment_id, *lines), packed(shipment_id, *lines), shipped(shipment_id, *lines)]


def arrived(shipment_id: str, *lines: tuple[str, int]) -> list[Fact]:
    return [*on_its_way(shipment_id, *lines), delivered(shipment_id, *lines)]


def backordered(line_id: str, quantity: int) -> f.BackorderCreated:
    return f.BackorderCreated(
        order_id="o1", backorder_id="o1-B1", line_id=line_id, sku="mug", quantity=quantity, eta=None
    )


def cancelled(cancellation_id: str, *lines: tuple[str, int], was: Bucket = Bucket.UNALLOCATED) -> Fact:
    return f.FulfillmentLinesCancelled(
        order_id="o1",
        cancellation_id=cancellation_id,
        lines=tuple(f.CancelledUnits(line_id=line_id, quantity=quantity, was=was) for line_id, quantity in lines),
    )


def refused(cancellation_id: str, *lines: tuple[str, int]) -> f.FulfillmentCancellationRefused:
    return f.FulfillmentCancellationRefused(
        order_id="o1", cancellation_id=cancellation_id, lines=units(*lines), reason_code="handed_over"
    )


def refund_requested(kind: p.RefundKind, amount: int, *lines: tuple[str, int]) -> p.RefundRequested:
    return p.RefundRequested(
        order_id="o1",
        refund_id="o1-R1",
        kind=kind,
        cause_id="cause",
        lines=tuple(p.RefundLine(line_id=line_id, quantity=quantity, amount_minor=0) for line_id, quantity in lines),
        amount_minor=amount,
        currency="EUR",
        trigger_at=NOON,
        requester="service:returns",
    )


def refund_paid(amount: int, kind: p.RefundKind) -> list[Fact]:
    return [
        p.RefundLegSucceeded(
            order_id="o1",
            refund_id="o1-R1",
            leg_id="o1-R1L1",
            operation_id="o1-P7",
            tender_id="t2",
            channel=p.RefundChannel.ORIGINAL,
            amount_minor=amount,
            currency="EUR",
            reference="ref",
        ),
        p.RefundCompleted(
            order_id="o1",
            refund_id="o1-R1",
            kind=kind,
            cause_id="cause",
            return_id=None,
            amount_minor=amount,
            currency="EUR",
            trigger_at=NOON,
        ),
    ]


def dispute(fact: type[p.DisputeFact]) -> p.DisputeFact:
    return fact(order_id="o1", dispute_id="d1", tender_id="t2", amount_minor=2500, currency="EUR")


def return_requested() -> r.ReturnRequested:
    line = r.ReturnLine(line_id="1", quantity=1, reason=r.ReturnReason.UNWANTED, condition=r.DeclaredCondition.UNOPENED)
    return r.ReturnRequested(
        order_id="o1",
        return_id="o1-RMA1",
        requested_at=NOON,
        lines=(line,),
        resolution=r.Resolution.REFUND,
        note="",
    )


def inspected(quantity: int, disposition: r.Disposition) -> r.ReturnItemsInspected:
    line = r.InspectedLine(
        line_id="1",
        quantity=quantity,
        outcome=r.InspectionOutcome.AS_NEW,
        disposition=disposition,
        refund_percent=100,
        fee_percent=0,
    )
    return r.ReturnItemsInspected(
        order_id="o1",
        return_id="o1-RMA1",
        inspection_id="i1",
        location="berlin",
        lines=(line,),
        policy=POLICY,
        complete=True,
    )


def confirmed() -> Story:
    story = Story()
    story.heard(authorized("t1", 2000), authorized("t2", 2500))
    return story


def completed() -> Story:
    story = confirmed()
    story.heard(*arrived("o1-S1", ("1", 3), ("2", 2)))
    assert story.stands(Status.COMPLETED)
    return story


# Placing


def test_order_discount_tax_and_shipping_are_split_to_lines_to_the_minor_unit() -> None:
    fact = placed("o1", request(discount_minor=100, tax_minor=101, tenders=(_card(4501),)))
    first, second = fact.lines
    assert (first.discount_minor, second.discount_minor) == (75, 25)
    assert (first.tax_minor, second.tax_minor) == (76, 25)
    assert (first.shipping_minor, second.shipping_minor) == (375, 125)
    assert (first.goods_minor, second.goods_minor) == (3001, 1000)
    assert (fact.goods_minor, fact.shipping_minor, fact.total_minor) == (4001, 500, 4501)


def _card(amount: int) -> TenderRequest:
    return TenderRequest(TenderKind.CARD, "tok_ok", amount)


def test_ids_of_lines_and_tenders_are_their_places_where_none_are_given() -> None:
    fact = placed("o1", request())
    assert [line.line_id for line in fact.lines] == ["1", "2"]
    assert [tender.tender_id for tender in fact.tenders] == ["t1", "t2"]


def _line(**more: Any) -> LineRequest:
    return replace(LineRequest(sku="mug", title="Mug", quantity=4, unit_price_minor=1000), **more)


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"tenders": (_card(4499),)}, "tenders"),
        ({"tenders": (_card(4501),)}, "tenders"),
        ({"tenders": ()}, "tenders"),
        ({"tenders": (_card(4500), _card(0))}, "tenders.1.amount_minor"),
        ({"tenders": (replace(_card(4500), currency="USD"),)}, "tenders.0.currency"),
        ({"lines": ()}, "lines"),
        ({"lines": (_line(line_id="2"), _line())}, "lines.1.line_id"),
        ({"lines": (_line(discount_minor=4001),)}, "lines.0.discount_minor"),
        ({"discount_minor": 4001}, "discount_minor"),
        ({"lines": (_line(unit_price_minor=10**15),)}, "lines.0"),
        ({"preference": ShippingPreference(rule="max_n_shipments")}, "preference.max_shipments"),
        ({"preference": ShippingPreference(max_shipments=2)}, "preference.max_shipments"),
    ],
)
def test_a_contradictory_order_is_refused_by_field(more: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as error:
        placed("o1", request(**more))
    assert error.value.field == field


def test_a_free_order_needs_no_tender_and_is_confirmed_at_once() -> None:
    story = Story(discount_minor=4000, shipping_minor=0, tenders=())
    assert [type(fact) for fact in story.told] == [OrderPlaced, OrderConfirmed]
    assert rollups(story.now).payment_status == "not_required"


def test_an_order_is_placed_once() -> None:
    with pytest.raises(NotAllowed) as error:
        Story().when(Place("o1", request(), NOON))
    assert error.value.status == Status.PLACED


@pytest.mark.parametrize(
    ("text", "holds_one"),
    [
        ("4111111111111111", True),
        ("my card is 4111 1111 1111 1111, thanks", True),
        ("4111-1111-1111-1111", True),
        ("room 5 4111 1111 1111 1111", True),
        ("378282246310005", True),
        ("4111111111111112", False),
        ("tok_ok", False),
        ("4111 1111 1111", False),
        ("12345678901234567890", False),
        ("", False),
    ],
)
def test_card_numbers_are_recognised_by_length_and_check_digit(text: str, holds_one: bool) -> None:
    assert has_card_number(text) is holds_one


# Payment


def test_an_order_is_confirmed_when_all_of_it_is_authorized() -> None:
    story = Story()
    assert story.heard(authorized("t1", 2000)) == []
    assert rollups(story.now).payment_status == "partly_authorized"
    assert story.heard(authorized("t2", 2500)) == [
        OrderConfirmed(order_id="o1", authorized_minor=4500, total_minor=4500)
    ]
    assert rollups(story.now).payment_status == "authorized"


def test_on_terms_a_first_authorization_is_enough() -> None:
    story = Story(terms=True)
    assert story.stands(Status.PLACED)
    story.heard(authorized("t1", 2000))
    assert story.stands(Status.CONFIRMED)


@pytest.mark.parametrize(("fraud", "code"), [(False, "payment_declined"), (True, "fraud")])
def test_a_declined_tender_rejects_the_order(fraud: bool, code: str) -> None:
    story = Story()
    [fact] = story.heard(authorized("t1", 2000), declined("t2", fraud=fraud))
    assert isinstance(fact, OrderRejected)
    assert (fact.reason_code, fact.detail) == (code, "t2: insufficient_funds")
    assert rollups(story.now).payment_status == "declined"


def test_what_is_heard_of_a_rejected_order_still_counts() -> None:
    story = Story()
    story.heard(declined("t2"), authorized("t1", 2000))
    assert story.stands(Status.REJECTED)
    assert story.now.tenders["t1"].authorized_minor == 2000
    story.heard(f.FulfillmentWithdrawn(order_id="o1", lines=units(("1", 3), ("2", 2))))
    assert rollups(story.now).fulfillment_status == "cancelled"


def test_a_failed_capture_holds_the_order_until_the_same_value_is_captured() -> None:
    story = confirmed()
    assert story.heard(capture_failed("t2", 1500)) == [
        OrderHoldPlaced(order_id="o1", hold=Hold.PAYMENT, detail="card_expired")
    ]
    assert rollups(story.now).has_balance_due
    assert story.heard(capture_failed("t2", 1500)) == []
    assert story.heard(captured("t1", 500, 500)) == []
    assert story.heard(captured("t1", 1000, 1500)) == [
        OrderHoldReleased(order_id="o1", hold=Hold.PAYMENT, detail="paid")
    ]
    assert not rollups(story.now).has_balance_due


def test_captures_of_another_shipment_make_up_for_a_failed_one() -> None:
    story = confirmed()
    story.heard(capture_failed("t2", 1500, "o1-S1"), capture_failed("t2", 300, "o1-S2"))
    assert story.heard(captured("t1", 1000, 1000, "o1-S3")) == []
    assert story.now.uncaptured == {"o1-S1": 500, "o1-S2": 300}
    story.heard(captured("t1", 800, 1800, "o1-S2"))
    assert Hold.PAYMENT not in story.now.holds


def test_a_decline_after_confirmation_holds_and_a_new_authorization_releases() -> None:
    story = confirmed()
    [fact] = story.heard(declined("t2"))
    assert isinstance(fact, OrderHoldPlaced)
    assert story.stands(Status.CONFIRMED)
    [fact] = story.heard(authorized("t2", 2500))
    assert isinstance(fact, OrderHoldReleased)


def test_captures_voids_and_expiries_keep_what_is_still_authorized() -> None:
    story = confirmed()
    story.heard(captured("t2", 1000, 1000))
    assert story.now.tenders["t2"].authorized_minor == 1500
    assert rollups(story.now).payment_status == "partly_captured"
    story.heard(
        p.PaymentVoided(order_id="o1", tender_id="t2", operation_id="o1-P8", amount_minor=500, currency="EUR"),
    )
    assert story.now.tenders["t2"].authorized_minor == 1000
    story.heard(p.PaymentAuthorizationExpired(order_id="o1", tender_id="t2", amount_minor=1000, final=False))
    assert story.now.tenders["t2"].authorized_minor == 0
    story.heard(captured("t1", 2000, 2000, None, final=True))
    assert story.now.captured_minor == 3000


def test_the_same_capture_told_twice_counts_once() -> None:
    story = confirmed()
    story.heard(captured("t2", 1000, 1000), captured("t2", 1000, 1000))
    assert story.now.tenders["t2"].captured_minor == 1000
    assert story.now.tenders["t2"].authorized_minor == 1500


def test_a_tender_of_another_order_is_refused() -> None:
    with pytest.raises(Invalid, match="t9 is not a tender"):
        confirmed().heard(authorized("t9", 1))


# Fulfillment


def test_partly_shipped_and_backordered_are_shown_side_by_side() -> None:
    story = confirmed()
    story.heard(*on_its_way("o1-S1", ("1", 2)), *allocated("o1-S2", ("2", 2)), backordered("1", 1))
    shown = rollups(story.now)
    assert (shown.fulfillment_status, shown.has_backorder) == ("partly_shipped", True)
    story.heard(delivered("o1-S1", ("1", 2)))
    shown = rollups(story.now)
    assert (shown.fulfillment_status, shown.has_backorder) == ("partly_shipped", True)
    story.heard(
        f.BackorderFilled(
            order_id="o1", backorder_id="o1-B1", line_id="1", sku="mug", quantity=1, remaining=0, shipment_id="o1-S3"
        ),
        *on_its_way("o1-S3", ("1", 1)),
        packed("o1-S2", ("2", 2)),
        shipped("o1-S2", ("2", 2)),
    )
    shown = rollups(story.now)
    assert (shown.fulfillment_status, shown.has_backorder) == ("partly_delivered", False)
    assert laws(story.now) == []


def test_an_order_is_completed_when_every_unit_is_delivered_or_cancelled() -> None:
    story = confirmed()
    story.heard(*arrived("o1-S1", ("1", 3)))
    story.when(cancel(("2", 2)))
    [answer, fact] = story.heard(cancelled("o1-C1", ("2", 2)))
    assert isinstance(answer, OrderLinesCancelled)
    assert fact == OrderCompleted(
        order_id="o1", delivered=3, cancelled=2, lost=0, closes_at=NOON + timedelta(days=60), policy=POLICY
    )


def test_parcels_of_a_shipment_arrive_one_by_one() -> None:
    story = confirmed()
    story.heard(*on_its_way("o1-S1", ("1", 3), ("2", 2)), delivered("o1-S1", ("1", 3)))
    assert story.now.lines["1"].units[Bucket.DELIVERED] == 3
    assert story.now.lines["2"].units[Bucket.IN_TRANSIT] == 2
    story.heard(delivered("o1-S1", ("2", 2)))
    assert story.stands(Status.COMPLETED)


def test_a_lost_unit_keeps_the_order_open_until_it_is_paid_back() -> None:
    story = confirmed()
    assert story.heard(*arrived("o1-S1", ("1", 3)), *on_its_way("o1-S2", ("2", 2)), lost("o1-S2", ("2", 2))) == []
    assert rollups(story.now).has_lost
    story.heard(refund_requested(p.RefundKind.LOST, 1000, ("2", 2)))
    [fact] = story.heard(*refund_paid(1000, p.RefundKind.LOST))
    assert isinstance(fact, OrderCompleted)
    assert (fact.delivered, fact.lost) == (3, 2)


def test_a_lost_unit_that_was_worth_nothing_keeps_the_order_open_until_its_claim_is_resolved() -> None:
    story = confirmed()
    story.heard(*arrived("o1-S1", ("1", 3)), *on_its_way("o1-S2", ("2", 2)), lost("o1-S2", ("2", 2)))
    resolved = r.ClaimResolved(order_id="o1", claim_id="o1-CL1", outcome="refunded", detail="")
    assert story.heard(resolved) == []
    [fact] = story.heard(resolved.model_copy(update={"written_off": units(("2", 2))}))
    assert isinstance(fact, OrderCompleted)
    assert (fact.delivered, fact.lost) == (3, 2)


def test_a_replacement_for_lost_units_is_owed_again_and_delivered() -> None:
    story = confirmed()
    story.heard(*arrived("o1-S1", ("1", 3)), *on_its_way("o1-S2", ("2", 2)), lost("o1-S2", ("2", 2)))
    gone = f.CancelledUnits(line_id="2", quantity=2, was=Bucket.LOST)
    story.heard(
        f.ReplacementCreated(
            order_id="o1",
            replacement_id="o1-X1",
            cause_id="claim",
            lines=units(("2", 2)),
            moved=(gone,),
            reason_code="lost",
        )
    )
    assert story.now.lines["2"].owed == 2
    story.heard(*arrived("o1-S3", ("2", 2)))
    assert story.stands(Status.COMPLETED)
    assert laws(story.now) == []


def test_a_replacement_after_completion_is_owed_on_top_and_reopens_the_order() -> None:
    story = completed()
    replacement = f.ReplacementCreated(
        order_id="o1", replacement_id="o1-X1", cause_id="claim", lines=units(("1", 1)), reason_code="damaged"
    )
    assert story.heard(replacement) == [OrderReopened(order_id="o1", cause="replacement")]
    assert (story.now.status, story.now.lines["1"].owed) == (Status.CONFIRMED, 4)
    [fact] = story.heard(*arrived("o1-S2", ("1", 1)))
    assert isinstance(fact, OrderCompleted)
    assert laws(story.now) == []


def test_a_parcel_in_trouble_shows_until_it_moves_on() -> None:
    story = confirmed()
    story.heard(*on_its_way("o1-S1", ("1", 3)))
    delayed = f.ShipmentDelayed(
        order_id="o1", shipment_id="o1-S1", tracking="T-o1-S1", detail="", scan=scan("o1-S1", "delayed")
    )
    story.heard(delayed)
    assert rollups(story.now).has_exception
    version = story.now.version
    story.heard(delayed)
    assert story.now.version == version
    story.heard(delivered("o1-S1", ("1", 3)))
    assert not rollups(story.now).has_exception


def test_units_said_not_to_be_received_are_in_transit_again() -> None:
    story = completed()
    story.heard(
        f.ShipmentTrackingUpdated(
            order_id="o1",
            shipment_id="o1-S1",
            tracking="T-o1-S1",
            code="not_received",
            moved=True,
            detail="",
            lines=units(("1", 3)),
            scan=scan("o1-S1", "not_received"),
        )
    )
    assert story.now.lines["1"].units[Bucket.IN_TRANSIT] == 3
    assert rollups(story.now).has_exception
    assert story.stands(Status.COMPLETED)


def test_an_older_scan_changes_nothing() -> None:
    story = confirmed()
    story.heard(*on_its_way("o1-S1", ("1", 3)))
    update = f.ShipmentTrackingUpdated(
        order_id="o1", shipment_id="o1-S1", tracking="T-o1-S1", code="damaged", moved=False, detail=""
    )
    assert story.when(Note(update, NOON)) == []


def test_units_taken_out_of_a_shipment_are_unallocated_again() -> None:
    story = confirmed()
    story.heard(
        *allocated("o1-S1", ("1", 3)),
        packed("o1-S1", ("1", 3)),
        f.ShipmentLinesRemoved(order_id="o1", shipment_id="o1-S1", lines=units(("1", 1))),
    )
    assert story.now.lines["1"].units == {Bucket.UNALLOCATED: 1, Bucket.ALLOCATED: 0, Bucket.PACKED: 2}
    story.heard(f.ShipmentCancelled(order_id="o1", shipment_id="o1-S1", lines=units(("1", 2)), detail=""))
    assert story.now.shipments == {}
    assert laws(story.now) == []
    left = f.ShipmentTrackingUpdated(
        order_id="o1", shipment_id="o1-S1", tracking="T-o1-S1", code="info", moved=False, detail="recalled"
    )
    assert story.when(Note(left, NOON)) == [], "it left although it was cancelled: its scans are no news here"


# Cancelling


def test_a_cancelled_order_waits_for_fulfillment_and_is_then_cancelled_whole() -> None:
    story = confirmed()
    [asked] = story.when(cancel())
    assert isinstance(asked, OrderCancellationRequested)
    assert (asked.cancellation_id, asked.lines, asked.whole) == ("o1-C1", units(("1", 3), ("2", 2)), True)
    assert story.stands(Status.CANCEL_PENDING)
    [first] = story.heard(cancelled("o1-C1", ("1", 3)))
    assert isinstance(first, OrderLinesCancelled)
    assert ([line.goods_minor for line in first.lines], first.remaining_minor) == ([3000], 1500)
    [second, last] = story.heard(cancelled("o1-C1", ("2", 2)))
    assert isinstance(second, OrderLinesCancelled)
    assert second.remaining_minor == 0
    assert last == OrderCancelled(order_id="o1", cancellation_id="o1-C1")
    assert rollups(story.now).fulfillment_status == "cancelled"


def test_a_refusal_of_units_that_were_given_up_otherwise_meanwhile_changes_nothing() -> None:
    story = confirmed()
    story.heard(backordered("1", 3), backordered("2", 2))
    story.when(cancel())
    story.heard(cancelled("o1-B1", ("1", 3)), cancelled("o1-B2", ("2", 2)))
    assert story.now.status is Status.CANCELLED
    told = len(story.told)
    story.heard(refused("o1-C1", ("1", 3), ("2", 2)))
    assert len(story.told) == told


def test_cancelled_in_the_middle_the_unit_in_transit_is_refused_and_the_rest_is_cancelled() -> None:
    story = confirmed()
    story.heard(
        *on_its_way("o1-S1", ("1", 1)), *allocated("o1-S2", ("2", 2)), packed("o1-S2", ("2", 2)), backordered("1", 2)
    )
    story.when(cancel())
    story.heard(
        refused("o1-C1", ("1", 1)),
        f.ShipmentCancelled(order_id="o1", shipment_id="o1-S2", lines=units(("2", 2)), detail=""),
        f.BackorderCancelled(order_id="o1", backorder_id="o1-B1", line_id="1", sku="mug", quantity=2, remaining=0),
        cancelled("o1-C1", ("2", 2), was=Bucket.PACKED),
    )
    assert story.stands(Status.CANCEL_PENDING)
    [fact] = story.heard(cancelled("o1-C1", ("1", 2), was=Bucket.BACKORDERED))
    assert isinstance(fact, OrderLinesCancelled)
    assert fact.remaining_minor == 1500
    assert story.stands(Status.CONFIRMED)
    assert rollups(story.now).fulfillment_status == "shipped"
    assert laws(story.now) == []
    [done] = story.heard(delivered("o1-S1", ("1", 1)))
    assert isinstance(done, OrderCompleted)


def test_a_cancellation_may_be_refused_as_a_whole() -> None:
    story = confirmed()
    story.when(cancel(("2", 1)))
    [fact] = story.heard(refused("o1-C1", ("2", 1)))
    assert isinstance(fact, OrderCancellationRefused)
    assert story.stands(Status.CONFIRMED)


def test_cancellations_one_after_another_sum_to_the_line_to_the_minor_unit() -> None:
    story = Story(
        lines=(LineRequest(sku="mug", title="Mug", quantity=3, unit_price_minor=333, tax_minor=1),),
        shipping_minor=0,
        tenders=(_card(1000),),
    )
    story.heard(authorized("t1", 1000))
    worth = []
    for n in (1, 2, 3):
        story.when(cancel(("1", 1)))
        fact = story.heard(cancelled(f"o1-C{n}", ("1", 1)))[0]
        assert isinstance(fact, OrderLinesCancelled)
        worth.append(fact.lines[0].goods_minor)
    assert worth == [333, 334, 333]
    assert story.stands(Status.CANCELLED)


def test_a_second_cancellation_waits_for_the_answer_to_the_first() -> None:
    story = confirmed()
    story.when(cancel(("1", 1)))
    with pytest.raises(NotAllowed, match="o1-C1 is not answered yet"):
        story.when(cancel(("2", 1)))


@pytest.mark.parametrize(
    ("lines", "field"),
    [
        ([("9", 1)], "lines.0.line_id"),
        ([("1", 4)], "lines.0.quantity"),
        ([("1", 1), ("1", 1)], "lines.1.line_id"),
    ],
)
def test_a_cancellation_of_what_is_not_there_is_refused_by_field(lines: list[tuple[str, int]], field: str) -> None:
    with pytest.raises(Invalid) as error:
        confirmed().when(cancel(*lines))
    assert error.value.field == field


def test_units_in_transit_cannot_be_cancelled() -> None:
    story = confirmed()
    story.heard(*on_its_way("o1-S1", ("1", 3), ("2", 2)))
    with pytest.raises(NotAllowed, match="units in transit need a recall"):
        story.when(cancel())


def test_an_authorization_while_cancelling_confirms_what_remains() -> None:
    story = Story()
    story.when(cancel(("2", 2)))
    assert story.heard(authorized("t1", 2000), authorized("t2", 2500)) == []
    assert story.stands(Status.CANCEL_PENDING)
    [_, fact] = story.heard(cancelled("o1-C1", ("2", 2)))
    assert fact == OrderConfirmed(order_id="o1", authorized_minor=4500, total_minor=3500)


def test_a_decline_while_cancelling_rejects_what_remains() -> None:
    story = Story()
    story.when(cancel(("2", 2)))
    assert story.heard(declined("t2")) == []
    [_, fact] = story.heard(cancelled("o1-C1", ("2", 2)))
    assert isinstance(fact, OrderRejected)


def test_an_order_cancelled_before_it_was_paid_is_cancelled_whatever_the_payment_says() -> None:
    story = Story()
    story.when(cancel())
    story.heard(declined("t2"), cancelled("o1-C1", ("1", 3), ("2", 2)), authorized("t1", 2000))
    assert story.stands(Status.CANCELLED)


def test_an_unpaid_order_with_a_cancelled_line_is_placed_again() -> None:
    story = Story()
    story.when(cancel(("2", 2)))
    story.heard(cancelled("o1-C1", ("2", 2)))
    assert story.stands(Status.PLACED)
    story.heard(authorized("t1", 2000), authorized("t2", 1500))
    assert story.stands(Status.CONFIRMED)


def test_a_shipment_while_cancelling_counts_and_completes_after_the_answer() -> None:
    story = confirmed()
    story.heard(*on_its_way("o1-S1", ("1", 3)))
    story.when(cancel())
    assert story.heard(delivered("o1-S1", ("1", 3))) == []
    [answer, *rest] = story.heard(refused("o1-C1", ("1", 3)), cancelled("o1-C1", ("2", 2)))
    assert isinstance(answer, OrderCancellationRefused)
    assert [type(fact) for fact in rest] == [OrderLinesCancelled, OrderCompleted]


def test_a_backorder_cancelled_by_choice_or_silence_needs_no_request() -> None:
    story = confirmed()
    story.heard(
        backordered("1", 3),
        f.BackorderCancelled(order_id="o1", backorder_id="o1-B1", line_id="1", sku="mug", quantity=3, remaining=0),
    )
    [fact] = story.heard(cancelled("o1-B1", ("1", 3), was=Bucket.BACKORDERED))
    assert isinstance(fact, OrderLinesCancelled)
    assert story.stands(Status.CONFIRMED)
    [_, fact] = story.heard(cancelled("o1-B2", ("2", 2), was=Bucket.BACKORDERED))
    assert fact == OrderCancelled(order_id="o1", cancellation_id="o1-B2")


def test_an_answer_nobody_waits_for_is_refused() -> None:
    with pytest.raises(NotAllowed):
        confirmed().heard(refused("o1-C1", ("1", 1)))


# Holds, address, consent


def test_several_holds_stand_at_once_and_are_released_one_by_one() -> None:
    story = confirmed()
    story.when(PlaceHold(at=NOON, hold=Hold.FRAUD, detail="looks odd"))
    story.when(PlaceHold(at=NOON, hold=Hold.MANUAL, detail="customer called"))
    assert story.when(PlaceHold(at=NOON, hold=Hold.FRAUD, detail="again")) == []
    assert story.when(ReleaseHold(at=NOON, hold=Hold.FRAUD, detail="checked")) == [
        OrderHoldReleased(order_id="o1", hold=Hold.FRAUD, detail="checked")
    ]
    assert story.now.holds == {Hold.MANUAL: "customer called"}
    with pytest.raises(NotAllowed, match="holds on it: manual"):
        story.when(ReleaseHold(at=NOON, hold=Hold.FRAUD, detail=""))


def test_a_completed_order_takes_no_hold() -> None:
    with pytest.raises(NotAllowed):
        completed().when(PlaceHold(at=NOON, hold=Hold.MANUAL, detail=""))


def test_the_address_changes_while_something_has_not_left() -> None:
    story = confirmed()
    elsewhere = HOME.model_copy(update={"street": "Side 2"})
    assert story.when(ChangeAddress(at=NOON, ship_to=HOME)) == []
    assert story.when(ChangeAddress(at=NOON, ship_to=elsewhere)) == [
        OrderAddressChanged(order_id="o1", ship_to=elsewhere)
    ]
    story.heard(*on_its_way("o1-S1", ("1", 3), ("2", 2)))
    with pytest.raises(NotAllowed, match="handed over"):
        story.when(ChangeAddress(at=NOON, ship_to=HOME))


def test_consent_is_given_to_an_open_backorder() -> None:
    story = confirmed()
    story.heard(backordered("1", 1))
    consent = GiveConsent(at=NOON, backorder_id="o1-B1", choice=BackorderChoice.SUBSTITUTE, substitute_sku="cup")
    assert story.when(consent) == [
        OrderBackorderConsentGiven(
            order_id="o1", backorder_id="o1-B1", choice=BackorderChoice.SUBSTITUTE, substitute_sku="cup"
        )
    ]
    with pytest.raises(Invalid, match="substitute_sku"):
        story.when(replace(consent, choice=BackorderChoice.WAIT))
    with pytest.raises(Invalid, match="not an open backorder"):
        story.when(replace(consent, backorder_id="o1-B9"))


def test_a_change_of_an_order_that_changed_meanwhile_is_refused() -> None:
    story = confirmed()
    hold = PlaceHold(at=NOON, hold=Hold.MANUAL, detail="", version=story.now.version)
    story.heard(*allocated("o1-S1", ("1", 3)))
    with pytest.raises(NotAllowed, match="is at version 5, not 4"):
        story.when(hold)
    assert story.when(replace(hold, version=5)) != []


# Closing


def test_a_completed_order_closes_when_its_time_is_over() -> None:
    story = completed()
    due = NOON + timedelta(days=60)
    assert deadlines(story.order) == {"close": due}
    with pytest.raises(NotAllowed):
        story.when(Close(due - timedelta(seconds=1)))
    assert story.when(Close(due)) == [OrderClosed(order_id="o1")]
    assert story.when(Close(due)) == []


def test_an_open_return_refund_or_dispute_keeps_an_order_from_closing() -> None:
    for fact in (
        return_requested(),
        refund_requested(p.RefundKind.GOODWILL, 100),
        dispute(p.DisputeOpened),
        capture_failed("t2", 100),
    ):
        story = completed()
        story.heard(fact)
        assert deadlines(story.order) == {}
        assert story.when(Close(NOON + timedelta(days=60))) == []


def test_a_closed_order_is_reopened_by_a_dispute_and_closes_again() -> None:
    story = completed()
    story.when(Close(NOON + timedelta(days=60)))
    later = NOON + timedelta(days=90)
    assert story.heard(dispute(p.DisputeOpened), at=later) == [
        OrderReopened(order_id="o1", cause="dispute", closes_at=later + timedelta(days=60), policy=POLICY)
    ]
    assert (story.now.status, rollups(story.now).dispute_status) == (Status.COMPLETED, "open")
    story.heard(dispute(p.DisputeWon), at=later)
    assert deadlines(story.order) == {"close": later + timedelta(days=60)}


def test_a_closed_order_is_reopened_by_goodwill_and_by_a_replacement_but_not_by_a_return() -> None:
    facts: Sequence[tuple[Fact, Status]] = (
        (refund_requested(p.RefundKind.GOODWILL, 100), Status.COMPLETED),
        (
            f.ReplacementCreated(
                order_id="o1", replacement_id="o1-X1", cause_id="c", lines=units(("1", 1)), reason_code="damaged"
            ),
            Status.CONFIRMED,
        ),
        (return_requested(), Status.CLOSED),
    )
    for fact, status in facts:
        story = completed()
        story.when(Close(NOON + timedelta(days=60)))
        story.heard(fact)
        assert story.stands(status)


def test_the_policy_in_force_at_placement_binds() -> None:
    later = replace(POLICIES[0], version=2, effective_from=NOON, close_after=timedelta(days=1))
    assert in_force([later, *POLICIES], NOON - timedelta(seconds=1)).version == 1
    assert in_force([later, *POLICIES], NOON).version == 2
    assert in_force([later], NOON - timedelta(days=1)).version == 2


# Refunds and returns


def test_refunds_are_pending_then_partly_then_wholly_paid_and_may_bounce() -> None:
    story = completed()
    story.heard(captured("t1", 2000, 2000, None), captured("t2", 2500, 2500))
    story.heard(refund_requested(p.RefundKind.RETURN, 1000, ("1", 1)))
    assert rollups(story.now).refund_status == "pending"
    story.heard(*refund_paid(1000, p.RefundKind.RETURN))
    shown = rollups(story.now)
    assert (shown.refund_status, shown.has_refund_in_flight) == ("partly_refunded", False)
    story.heard(
        p.RefundLegReversed(
            order_id="o1",
            refund_id="o1-R1",
            leg_id="o1-R1L1",
            operation_id="o1-P7",
            tender_id="t2",
            channel=p.RefundChannel.ORIGINAL,
            amount_minor=1000,
            currency="EUR",
            code="account_closed",
        )
    )
    shown = rollups(story.now)
    assert (shown.refund_status, shown.has_refund_in_flight) == ("pending", True)


def test_returns_show_how_far_they_are_and_how_much_came_back() -> None:
    story = completed()
    seen = []
    approved = r.ReturnApproved(
        order_id="o1", return_id="o1-RMA1", lines=units(("1", 1)), expires_at=NOON, approver=None, policy=POLICY
    )
    for fact in (return_requested(), approved, inspected(1, r.Disposition.RESTOCK), inspected(4, r.Disposition.SCRAP)):
        story.heard(fact)
        seen.append(rollups(story.now).return_status)
    assert seen == ["requested", "approved", "partly_returned", "returned"]
    assert rollups(story.now).has_open_return


def test_a_return_of_which_part_arrived_stays_open_when_the_rest_expires() -> None:
    story = confirmed()
    story.heard(*arrived("o1-S1", ("1", 3)), return_requested())
    received = r.ReturnItemsReceived(
        order_id="o1",
        return_id="o1-RMA1",
        receipt_id="r1",
        location="berlin",
        lines=(r.ReceivedLine(line_id="1", quantity=1, total=1),),
        complete=False,
    )
    expired = r.ReturnExpired(order_id="o1", return_id="o1-RMA1")
    story.heard(received, expired)
    assert rollups(story.now).has_open_return
    assert story.now.has_something_open


def test_units_held_for_review_are_not_returned_yet() -> None:
    story = confirmed()
    story.heard(*arrived("o1-S1", ("1", 3)), return_requested())
    held = inspected(1, r.Disposition.QUARANTINE)
    story.heard(held.model_copy(update={"lines": (held.lines[0].model_copy(update={"review": True}),)}))
    assert rollups(story.now).return_status == "requested"


def test_what_is_not_taken_back_is_not_returned() -> None:
    story = completed()
    story.heard(return_requested(), inspected(1, r.Disposition.SEND_BACK))
    assert rollups(story.now).return_status == "requested"


def test_too_much_captured_shows_as_overpaid_until_it_is_paid_back() -> None:
    story = confirmed()
    story.heard(captured("t1", 2000, 2000, None), captured("t2", 2500, 2500))
    story.when(cancel(("2", 2)))
    story.heard(cancelled("o1-C1", ("2", 2)))
    assert rollups(story.now).is_overpaid
    story.heard(
        refund_requested(p.RefundKind.CANCELLATION, 1000, ("2", 2)), *refund_paid(1000, p.RefundKind.CANCELLATION)
    )
    assert not rollups(story.now).is_overpaid


# The machine


def test_every_status_is_reachable_and_a_rejected_or_cancelled_order_stays_so() -> None:
    assert ORDER.broken_laws() == []
    assert ORDER.is_terminal(Status.REJECTED)
    assert ORDER.is_terminal(Status.CANCELLED)


def test_every_fact_of_the_machine_is_told_in_some_story() -> None:
    rejected, dropped, done = Story(), confirmed(), confirmed()
    rejected.heard(declined("t1"))
    dropped.when(cancel())
    dropped.heard(refused("o1-C1", ("1", 1)), cancelled("o1-C1", ("1", 2), ("2", 2)))
    dropped.when(cancel())
    dropped.heard(cancelled("o1-C2", ("1", 1)))
    done.heard(*arrived("o1-S1", ("1", 3), ("2", 2)))
    done.when(Close(NOON + timedelta(days=60)))
    done.heard(dispute(p.DisputeOpened))
    told = {type(fact) for story in (rejected, dropped, done) for fact in story.told}
    assert {fact for _, fact, _ in ORDER.edges()} - told == set()


def test_nothing_is_told_of_an_order_nobody_placed() -> None:
    for fact in (authorized("t1", 1), *allocated("o1-S1", ("1", 1))):
        assert type(fact) in NOTED
        with pytest.raises(NotAllowed, match="not known"):
            decide(None, Note(fact, NOON), POLICIES)
