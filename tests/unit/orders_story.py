"""An order's story step by step, for tests: commands in, facts out, and what the other services tell of it."""

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

from orders.domain.decide import Command, Place, RecordFact, RequestCancellation, decide
from orders.domain.placement import LineRequest, PlacementRequest, TenderRequest
from orders.domain.policy import OrderPolicy
from orders.domain.state import Order, Status, evolve
from shared.contracts import fulfillment as f
from shared.contracts import payments as p
from shared.contracts import returns as r
from shared.contracts.base import Bucket, Fact, LineQuantity, PolicyRef, TenderKind
from shared.contracts.orders import Address, Customer, OrderProgressed, ShippingPreference

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
        told = [told for fact in facts for told in self.when(RecordFact(fact, at))]
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


def inspected(
    quantity: int, disposition: r.Disposition, outcome: r.InspectionOutcome = r.InspectionOutcome.AS_NEW
) -> r.ReturnItemsInspected:
    line = r.InspectedLine(
        line_id="1",
        quantity=quantity,
        outcome=outcome,
        disposition=disposition,
        refund_percent=100 if disposition is r.Disposition.RESTOCK else 0,
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


def card(amount: int) -> TenderRequest:
    return TenderRequest(TenderKind.CARD, "tok_ok", amount)
