"""What a customer is told of an order, step by step, for tests: facts in, messages out."""

from datetime import datetime, timedelta, timezone
from itertools import count

from notifications.domain.decide import Command, Outbox, RecordFact, RecordSent, decide, evolve_context
from notifications.domain.policy import SendingPolicy
from notifications.domain.state import OrderNotifications, Status, evolve, invariants
from notifications.mails import Mail, composed
from shared.contracts import fulfillment as f
from shared.contracts import orders
from shared.contracts import payments as p
from shared.contracts.base import Bucket, Fact, LineQuantity, PolicyRef, TenderKind
from shared.contracts.notifications import Claim, NotificationQueued
from shared.contracts.orders import Address, Customer, OrderLine, OrderPlaced, TenderSpec

NOON = datetime(2026, 5, 4, 12, tzinfo=timezone.utc)
PROMISED = datetime(2026, 5, 9, 12, tzinfo=timezone.utc)
LATER = datetime(2026, 5, 12, 12, tzinfo=timezone.utc)
POLICY = SendingPolicy(
    policy_id="sending",
    version=1,
    effective_from=NOON,
    gather=timedelta(0),
    first_pause=timedelta(seconds=2),
    longest_pause=timedelta(seconds=60),
    max_attempts=9,
    stale_after=timedelta(days=1),
    windows={},
)


class Story:
    def __init__(self) -> None:
        self.state = OrderNotifications("o1")
        self.outbox = Outbox(POLICY)
        self.told: list[Fact] = []
        self._numbers = count(1)

    def heard(self, *facts: Fact) -> list[NotificationQueued]:
        """The messages that the facts led to."""
        queued: list[NotificationQueued] = []
        for fact in facts:
            n = next(self._numbers)
            told = self.when(RecordFact(fact, f"fact-{n}", n, NOON))
            queued += [t for t in told if isinstance(t, NotificationQueued)]
        return queued

    def when(self, command: Command) -> list[Fact]:
        facts = decide(self.state, command, self.outbox)
        for fact in facts:
            self.state, self.outbox = evolve(self.state, fact), evolve_context(self.outbox, fact)
        self.told += facts
        assert invariants(self.state) == []
        return facts

    def taken(self) -> None:
        """A sender is at everything that is queued."""
        self.outbox = Outbox(POLICY)

    def sent(self) -> None:
        """Everything that is queued is sent."""
        self.taken()
        for id, n in self.state.notifications.items():
            if n.status is Status.QUEUED:
                self.when(RecordSent(id, self.mail(id).title))

    def mail(self, notification_id: str | None = None) -> Mail:
        """The newest, if not said otherwise."""
        id = notification_id or list(self.state.notifications)[-1]
        return composed(self.state, self.state.notifications[id])


def units(*lines: tuple[str, int]) -> tuple[LineQuantity, ...]:
    return tuple(LineQuantity(line_id=line_id, quantity=quantity) for line_id, quantity in lines)


def placed(name: str = "Ada", locale: str = "en") -> OrderPlaced:
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
        customer=Customer(customer_id="c1", email="ada@example.org", name=name, locale=locale),
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


def slipped(before: datetime | None, after: datetime) -> f.BackorderEtaRevised:
    return f.BackorderEtaRevised(
        order_id="o1",
        backorder_id="o1-B1",
        line_id="1",
        sku="mug",
        quantity=1,
        previous_eta=before,
        eta=after,
        revision=1,
    )


def consent_asked(eta: datetime) -> f.BackorderConsentRequested:
    return f.BackorderConsentRequested(
        order_id="o1",
        backorder_id="o1-B1",
        line_id="1",
        sku="mug",
        quantity=1,
        eta=eta,
        options=tuple(orders.BackorderChoice),
        due_at=LATER,
        silence=orders.BackorderChoice.WAIT,
    )


def filled(quantity: int, remaining: int, shipment_id: str) -> f.BackorderFilled:
    return f.BackorderFilled(
        order_id="o1",
        backorder_id="o1-B1",
        line_id="1",
        sku="mug",
        quantity=quantity,
        remaining=remaining,
        shipment_id=shipment_id,
    )


def cancelled(line_id: str, quantity: int, cancellation_id: str = "o1-C1") -> f.FulfillmentLinesCancelled:
    gone = f.CancelledUnits(line_id=line_id, quantity=quantity, was=Bucket.ALLOCATED)
    return f.FulfillmentLinesCancelled(order_id="o1", cancellation_id=cancellation_id, lines=(gone,))


def scanned(fact: type[f.ShipmentFact], *lines: tuple[str, int]) -> f.ShipmentFact:
    scan = {"carrier": "dhl", "tracking": "T1", "code": "c", "at": NOON}
    return fact.model_validate({"order_id": "o1", "shipment_id": "o1-S1", "lines": units(*lines), "scan": scan})


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


RETURN = {"order_id": "o1", "return_id": "o1-R1"}
REF = PolicyRef(policy_id="returns", version=1)
