"""Stories of orders as the services tell them on their topics: facts in sequence, with times, actors and causes."""

import json
from collections.abc import Sequence
from datetime import date, datetime, timedelta, timezone
from importlib import import_module
from uuid import NAMESPACE_OID, uuid5

import asyncpg

from shared.contracts import FACTS, Fact, schema_id
from shared.contracts.base import LineQuantity, PolicyRef, TenderKind
from shared.contracts.fulfillment import (
    BackorderCreated,
    BackorderEtaRevised,
    BackorderFilled,
    FulfillmentOpened,
    FulfillmentPlanned,
    OpenedLine,
    Parcel,
    PlannedBackorder,
    PlannedShipment,
    ShipmentCreated,
    ShipmentDelivered,
    ShipmentPacked,
    ShipmentShipped,
    ShipmentTrackingUpdated,
    StockAllocated,
)
from shared.contracts.notifications import Claim, NotificationKind, NotificationSent, Statement
from shared.contracts.orders import (
    Address,
    Customer,
    OrderConfirmed,
    OrderLine,
    OrderPlaced,
    ShippingPreference,
    TenderSpec,
)
from shared.contracts.payments import (
    OperationKind,
    PaymentAuthorizationRequested,
    PaymentAuthorized,
    PaymentCaptured,
    PaymentOperationReconciled,
    PaymentOperationUnknown,
    RefundApproved,
    RefundChannel,
    RefundCompleted,
    RefundKind,
    RefundLeg,
    RefundLegSubmitted,
    RefundLegSucceeded,
    RefundLine,
    RefundRequested,
    RefundRouted,
)
from shared.contracts.returns import (
    DeclaredCondition,
    Disposition,
    DueLine,
    InspectedLine,
    InspectionOutcome,
    PolicyBound,
    ReceivedLine,
    Resolution,
    ReturnApproved,
    ReturnEligibilityEvaluated,
    ReturnInTransit,
    ReturnItemsInspected,
    ReturnItemsReceived,
    ReturnLine,
    ReturnReason,
    ReturnRefundDue,
    ReturnRequested,
    ReturnResolved,
    Verdict,
    Why,
)
from shared.messaging.envelope import source_of
from shared.messaging.parking import Record
from support_view.domain.policies import EscalationPolicy
from support_view.domain.timeline import Entry

START = datetime(2026, 10, 1, 9, 0, tzinfo=timezone.utc)
POLICY = PolicyRef(policy_id="standard", version=1)


def _first_escalation_policy() -> EscalationPolicy:
    """As the service starts with it: of the migrations that publish it."""
    calendar, rules = (
        json.loads(import_module(f"support_view.migrations.{name}").TABLES.split("$json$")[1])
        for name in ("0003_casework", "0004_escalations")
    )
    return EscalationPolicy.model_validate_json(
        json.dumps({"calendar": calendar["calendar"], "contacts_within": "P14D", "rules": rules})
    )


ESCALATIONS = _first_escalation_policy()


class Telling:
    """Facts of one order, each with its place in its service's journal. Ids derive from that place."""

    def __init__(self, order_id: str, start: datetime = START) -> None:
        self.order_id = order_id
        self.now = start
        self.entries: list[Entry] = []
        self._sequences: dict[str, int] = {}

    def later(self, **passed: float) -> None:
        self.now += timedelta(**passed)

    def tell(self, fact: Fact, actor: str = "system:test", because: Entry | None = None, reason: str = "test") -> Entry:
        sequence = self._sequences.get(fact.service, 0) + 1
        self._sequences[fact.service] = sequence
        entry = Entry(
            id=str(uuid5(NAMESPACE_OID, f"{fact.service} {fact.subject} {sequence}")),
            service=fact.service,
            subject=fact.subject,
            sequence=sequence,
            fact=fact,
            occurred_at=self.now,
            actor=actor,
            reason=because.fact.type if because else reason,
            correlation_id=f"story {self.order_id}",
            causation_id=because.id if because else None,
        )
        self.entries.append(entry)
        return entry


def entry_in(service: str, row: asyncpg.Record) -> Entry:
    """The entry that a row of a service's journal becomes on the timeline."""
    return Entry(
        id=str(row["id"]),
        service=service,
        subject=row["subject"],
        sequence=row["sequence"],
        fact=FACTS[row["type"]].model_validate_json(row["data"]),
        occurred_at=row["occurred_at"],
        actor=row["actor"],
        reason=row["reason"],
        correlation_id=row["correlation_id"],
        causation_id=row["causation_id"],
    )


def record_of(entry: Entry, position: int = 0) -> Record:
    """The entry as it travels."""
    headers = [
        ("ce_specversion", "1.0"),
        ("ce_id", entry.id),
        ("ce_source", source_of(entry.service)),
        ("ce_type", entry.fact.type),
        ("ce_subject", entry.subject),
        ("ce_time", entry.occurred_at.isoformat()),
        ("ce_sequence", str(entry.sequence)),
        ("ce_dataschema", schema_id(type(entry.fact))),
        ("ce_correlationid", entry.correlation_id),
        ("ce_actor", entry.actor),
        ("ce_reason", entry.reason),
    ]
    if entry.causation_id is not None:
        headers.append(("ce_causationid", entry.causation_id))
    return Record(
        topic=f"{entry.service}.events",
        partition=0,
        position=position,
        timestamp_ms=0,
        key=entry.subject.encode(),
        headers=[(name, value.encode()) for name, value in headers],
        value=entry.fact.model_dump_json().encode(),
    )


def units(**quantities: int) -> tuple[LineQuantity, ...]:
    """`units(lamp=2)`."""
    return tuple(LineQuantity(line_id=line_id, quantity=quantity) for line_id, quantity in quantities.items())


def line(line_id: str, title: str, quantity: int, goods_minor: int) -> OrderLine:
    return OrderLine(
        line_id=line_id,
        sku=f"SKU-{line_id}",
        title=title,
        quantity=quantity,
        unit_price_minor=goods_minor // quantity,
        discount_minor=0,
        tax_minor=0,
        shipping_minor=0,
        goods_minor=goods_minor,
        promised_on=date(2026, 10, 9),
    )


LINES = (line("lamp", "Desk lamp", 2, 7_980), line("chair", "Oak chair", 2, 24_000), line("rug", "Wool rug", 1, 8_900))


def placed(order_id: str, lines: Sequence[OrderLine] = LINES, at: datetime = START) -> OrderPlaced:
    """Paid by a gift card of 50.00 and the rest by card."""
    goods = sum(one.goods_minor for one in lines)
    return OrderPlaced(
        order_id=order_id,
        placed_at=at,
        customer=Customer(customer_id="cus-7", email="ada@example.com", name="Ada Byron"),
        ship_to=Address(name="Ada Byron", street="1 Mill Lane", city="Berlin", postal_code="10115", country="DE"),
        currency="EUR",
        lines=tuple(lines),
        goods_minor=goods,
        shipping_minor=590,
        total_minor=goods + 590,
        tenders=(
            TenderSpec(tender_id="gift", kind=TenderKind.GIFT_CARD, token="tok_gift", amount_minor=5_000),
            TenderSpec(tender_id="card", kind=TenderKind.CARD, token="tok_visa", amount_minor=goods + 590 - 5_000),
        ),
        preference=ShippingPreference(),
        return_policy=POLICY,
    )


def captured(t: Telling, tender_id: str, shipment_id: str | None, minor: int, in_all: int, order: int, n: int) -> Fact:
    return PaymentCaptured(
        order_id=t.order_id,
        tender_id=tender_id,
        operation_id=f"{t.order_id}-P{n}",
        amount_minor=minor,
        currency="EUR",
        shipment_id=shipment_id,
        final=False,
        reference=f"ref-{n}",
        tender_captured_minor=in_all,
        order_captured_minor=order,
    )


def confirmed_order(order_id: str) -> Telling:
    """Placed, authorized on both tenders, confirmed; the gift card is captured."""
    t = Telling(order_id)
    order = t.tell(placed(order_id), actor="storefront:web", reason="placed by the customer")
    t.tell(
        FulfillmentOpened(
            order_id=order_id,
            placed_at=START,
            lines=tuple(OpenedLine(line_id=o.line_id, sku=o.sku, quantity=o.quantity) for o in LINES),
            preference=ShippingPreference(),
        ),
        because=order,
    )
    t.tell(PolicyBound(order_id=order_id, policy=POLICY), because=order)
    for n, (tender, kind, minor) in enumerate(
        (("gift", TenderKind.GIFT_CARD, 5_000), ("card", TenderKind.CARD, 36_470)), 1
    ):
        operation = {
            "order_id": order_id,
            "tender_id": tender,
            "operation_id": f"{order_id}-P{n}",
            "amount_minor": minor,
            "currency": "EUR",
            "tender_kind": kind,
        }
        asked = t.tell(PaymentAuthorizationRequested(**operation, attempt=1, requested_at=t.now), because=order)
        t.later(seconds=2)
        given = t.tell(
            PaymentAuthorized(**operation, reference=f"auth-{n}", expires_at=START + timedelta(days=30)),
            actor="partner:processor",
            because=asked,
        )
    t.tell(OrderConfirmed(order_id=order_id, authorized_minor=41_470, total_minor=41_470), because=given)
    t.tell(captured(t, "gift", None, 5_000, 5_000, 5_000, 3), actor="partner:processor")
    return t


def split_order(order_id: str = "ORD-1042") -> Telling:
    """Two shipments from two places, one unit backordered; the first delivered, the second held up by customs."""
    t = confirmed_order(order_id)
    confirmed = t.entries[-2]
    plan = t.tell(
        FulfillmentPlanned(
            order_id=order_id,
            shipments=(
                PlannedShipment(shipment_id=f"{order_id}-S1", location="BER", lines=units(lamp=2, chair=1)),
                PlannedShipment(shipment_id=f"{order_id}-S2", location="LEJ", lines=units(rug=1)),
            ),
            backorders=(
                PlannedBackorder(
                    backorder_id=f"{order_id}-B1",
                    line_id="chair",
                    sku="SKU-chair",
                    quantity=1,
                    eta=START + timedelta(days=12),
                ),
            ),
            preference=ShippingPreference(),
            reasons=(
                "BER holds 2 × SKU-lamp and 1 × SKU-chair; LEJ holds the rug",
                "1 × SKU-chair is in stock nowhere and is expected",
            ),
        ),
        because=confirmed,
    )
    for line_id, quantity, n, where in (("lamp", 2, 1, "BER"), ("chair", 1, 1, "BER"), ("rug", 1, 2, "LEJ")):
        t.tell(
            StockAllocated(
                order_id=order_id,
                sku=f"SKU-{line_id}",
                location=where,
                quantity=quantity,
                line_id=line_id,
                shipment_id=f"{order_id}-S{n}",
            ),
            because=plan,
        )
    for n, lines, where in ((1, units(lamp=2, chair=1), "BER"), (2, units(rug=1), "LEJ")):
        t.tell(
            ShipmentCreated(
                order_id=order_id, shipment_id=f"{order_id}-S{n}", location=where, lines=lines, number=n, of=3
            ),
            because=plan,
        )
    backorder = {"order_id": order_id, "backorder_id": f"{order_id}-B1", "line_id": "chair", "sku": "SKU-chair"}
    t.tell(BackorderCreated(**backorder, quantity=1, eta=START + timedelta(days=12)), because=plan)
    for n, lines, total, so_far in ((1, units(lamp=2, chair=1), 15_570, 15_570), (2, units(rug=1), 8_900, 24_470)):
        shipment = {"order_id": order_id, "shipment_id": f"{order_id}-S{n}"}
        parcels = (
            Parcel(parcel_id=f"{order_id}-S{n}-1", lines=lines, carrier="DHL", tracking=f"JD0{n}4711{order_id[-4:]}"),
        )
        t.later(hours=5)
        t.tell(ShipmentPacked(**shipment, parcels=parcels), actor="warehouse:ber")
        t.later(hours=3)
        shipped = t.tell(
            ShipmentShipped(**shipment, carrier="DHL", parcels=parcels, lines=lines, number=n, of=3),
            actor="warehouse:ber",
        )
        t.tell(
            captured(t, "card", f"{order_id}-S{n}", total, so_far, 5_000 + so_far, 3 + n),
            actor="partner:processor",
            because=shipped,
        )
        t.tell(
            NotificationSent(
                order_id=order_id,
                notification_id=f"{order_id}-N{n}",
                kind=NotificationKind.SHIPMENT,
                title=f"Your shipment {n} of 3 is on its way",
                statements=(
                    *(
                        Statement(
                            claim=Claim.SHIPPED,
                            line_id=one.line_id,
                            quantity=one.quantity,
                            as_of_service="fulfillment",
                            as_of_sequence=shipped.sequence,
                        )
                        for one in lines
                    ),
                    Statement(
                        claim=Claim.ETA,
                        line_id="chair",
                        quantity=1,
                        at=START + timedelta(days=12),
                        as_of_service="fulfillment",
                        as_of_sequence=shipped.sequence,
                    ),
                ),
            ),
            because=shipped,
        )
    t.later(days=1)
    t.tell(
        BackorderEtaRevised(
            **backorder,
            quantity=1,
            previous_eta=START + timedelta(days=12),
            eta=START + timedelta(days=20),
            revision=1,
        )
    )
    first = {"order_id": order_id, "shipment_id": f"{order_id}-S1"}
    t.tell(
        ShipmentTrackingUpdated(**first, tracking="JD014711", code="in_transit", moved=True, detail="Hub Leipzig"),
        actor="partner:dhl",
    )
    t.later(days=1)
    t.tell(ShipmentDelivered(**first, lines=units(lamp=2, chair=1)), actor="partner:dhl")
    second = {"order_id": order_id, "shipment_id": f"{order_id}-S2"}
    t.tell(
        ShipmentTrackingUpdated(**second, tracking="JD024711", code="customs", moved=True, detail="papers are missing"),
        actor="partner:dhl",
    )
    return t


def fill_backorder(t: Telling) -> None:
    """The goods came: the third shipment is planned."""
    t.later(days=10)
    backorder = {"order_id": t.order_id, "backorder_id": f"{t.order_id}-B1", "line_id": "chair", "sku": "SKU-chair"}
    filled = t.tell(
        BackorderFilled(**backorder, quantity=1, remaining=0, shipment_id=f"{t.order_id}-S3"), actor="system:filler"
    )
    t.tell(
        StockAllocated(
            order_id=t.order_id,
            sku="SKU-chair",
            location="BER",
            quantity=1,
            line_id="chair",
            shipment_id=f"{t.order_id}-S3",
        ),
        because=filled,
    )
    t.tell(
        ShipmentCreated(
            order_id=t.order_id,
            shipment_id=f"{t.order_id}-S3",
            location="BER",
            lines=units(chair=1),
            number=3,
            of=3,
        ),
        because=filled,
    )


def return_under_policy(t: Telling) -> None:
    """Two lamps of the first shipment come back in one parcel, one of them opened; refunded to both tenders."""
    id = f"{t.order_id}-RMA1"
    about = {"order_id": t.order_id, "return_id": id}
    t.later(days=15)
    asked = t.tell(
        ReturnRequested(
            **about,
            lines=(
                ReturnLine(
                    line_id="lamp", quantity=2, reason=ReturnReason.UNWANTED, condition=DeclaredCondition.UNOPENED
                ),
            ),
            resolution=Resolution.REFUND,
            requested_at=t.now,
            note="They are too bright <b>for us</b>.",
        ),
        actor="customer:ada",
    )
    t.tell(
        ReturnEligibilityEvaluated(
            **about,
            verdicts=(
                Verdict(
                    line_id="lamp",
                    quantity=2,
                    outcome="approve",
                    reasons=(
                        Why(code="within_window", text="day 18 of 30 since delivery"),
                        Why(code="condition_ok", text="unopened goods may come back"),
                    ),
                    window_ends_at=t.now + timedelta(days=12),
                    allowed_resolutions=(Resolution.REFUND,),
                    return_shipping_fee_minor=0,
                ),
            ),
            policy=POLICY,
            inputs_hash="9f2b" * 16,
        ),
        because=asked,
    )
    t.tell(
        ReturnApproved(
            **about, lines=units(lamp=2), expires_at=t.now + timedelta(days=30), approver=None, policy=POLICY
        ),
        because=asked,
    )
    t.later(days=2)
    t.tell(ReturnInTransit(**about, tracking="RET-9911", expires_at=t.now + timedelta(days=30)), actor="partner:dhl")
    t.later(days=2)
    t.tell(
        ReturnItemsReceived(
            **about,
            receipt_id="rcp-1",
            location="BER",
            lines=(ReceivedLine(line_id="lamp", quantity=2, total=2),),
            complete=True,
        ),
        actor="warehouse:ber",
    )
    t.later(hours=20)
    inspected = t.tell(
        ReturnItemsInspected(
            **about,
            inspection_id="ins-1",
            location="BER",
            lines=(
                InspectedLine(
                    line_id="lamp",
                    quantity=1,
                    outcome=InspectionOutcome.AS_NEW,
                    disposition=Disposition.RESTOCK,
                    refund_percent=100,
                    fee_percent=0,
                ),
                InspectedLine(
                    line_id="lamp",
                    quantity=1,
                    outcome=InspectionOutcome.OPENED,
                    disposition=Disposition.REGRADE,
                    refund_percent=100,
                    fee_percent=15,
                ),
            ),
            policy=POLICY,
            complete=True,
        ),
        actor="warehouse:ber",
    )
    due = t.tell(
        ReturnRefundDue(
            **about,
            due_id=f"{id}-D1",
            lines=(
                DueLine(
                    line_id="lamp",
                    quantity=2,
                    gross_minor=7_980,
                    fee_minor=599,
                    shipping_minor=0,
                    refund_minor=7_381,
                ),
            ),
            amount_minor=7_381,
            currency="EUR",
            trigger_at=t.now,
            resolution=Resolution.REFUND,
            return_shipping_fee_minor=0,
            policy=POLICY,
        ),
        because=inspected,
    )
    refund(t, due, id, 7_381)


def refund(t: Telling, due: Entry, return_id: str, minor: int) -> None:
    """Requested, approved, routed pro rata to both tenders; the card's leg is unknown for a while."""
    about = {"order_id": t.order_id, "refund_id": f"{t.order_id}-R1"}
    trigger = t.now
    requested = t.tell(
        RefundRequested(
            **about,
            kind=RefundKind.RETURN,
            cause_id=f"{return_id}-D1",
            return_id=return_id,
            lines=(RefundLine(line_id="lamp", quantity=2, amount_minor=minor),),
            amount_minor=minor,
            currency="EUR",
            trigger_at=trigger,
            requester="system:returns",
        ),
        because=due,
    )
    t.tell(RefundApproved(**about, amount_minor=minor, currency="EUR", approver=None), because=requested)
    shares = (("gift", TenderKind.GIFT_CARD, 1_252), ("card", TenderKind.CARD, minor - 1_252))
    routed = t.tell(
        RefundRouted(
            **about,
            legs=tuple(
                RefundLeg(
                    leg_id=f"{about['refund_id']}L{n}",
                    tender_id=tender,
                    tender_kind=kind,
                    channel=RefundChannel.ORIGINAL,
                    amount_minor=part,
                    reasons=("pro_rata of what was captured", "within its scheme's limit"),
                    promised_at=trigger + timedelta(days=5),
                )
                for n, (tender, kind, part) in enumerate(shares, 1)
            ),
            excluded=(),
            policy=PolicyRef(policy_id="refunds", version=3),
            promised_at=trigger + timedelta(days=5),
            requested_at=trigger,
        ),
        because=requested,
    )
    for n, (tender, _, part) in enumerate(shares, 1):
        leg = {
            **about,
            "leg_id": f"{about['refund_id']}L{n}",
            "operation_id": f"{t.order_id}-P{10 + n}",
            "tender_id": tender,
            "channel": RefundChannel.ORIGINAL,
            "amount_minor": part,
            "currency": "EUR",
        }
        t.tell(RefundLegSubmitted(**leg), because=routed)
        if tender == "card":
            operation = {key: leg[key] for key in ("order_id", "tender_id", "operation_id", "amount_minor", "currency")}
            t.later(seconds=30)
            t.tell(PaymentOperationUnknown(**operation, kind=OperationKind.REFUND))
            t.later(minutes=4)
            t.tell(PaymentOperationReconciled(**operation, kind=OperationKind.REFUND, outcome="succeeded"))
        t.tell(RefundLegSucceeded(**leg, reference=f"re-{n}"), actor="partner:processor")
    completed = t.tell(
        RefundCompleted(
            **about,
            kind=RefundKind.RETURN,
            cause_id=f"{return_id}-D1",
            return_id=return_id,
            amount_minor=minor,
            currency="EUR",
            trigger_at=trigger,
        )
    )
    t.tell(
        ReturnResolved(
            order_id=t.order_id,
            return_id=return_id,
            resolution=Resolution.REFUND,
            requested_at=trigger - timedelta(days=4, hours=20),
            refunded_minor=minor,
            currency="EUR",
            closes_at=t.now + timedelta(days=14),
        ),
        because=completed,
    )


def whole_story(order_id: str = "ORD-1042") -> Telling:
    """Split, backordered and filled, and two units returned and refunded."""
    t = split_order(order_id)
    fill_backorder(t)
    return_under_policy(t)
    return t
