"""What was once seen standing still: each has a next step, an owner and a date, is escalated when late, and ends."""

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from types import SimpleNamespace
from typing import Final

import pytest

from shared.contracts import Fact
from shared.contracts.base import Bucket, LineQuantity, PolicyRef
from shared.contracts.fulfillment import (
    CancelledUnits,
    FulfillmentDiscrepancyRecorded,
    FulfillmentLinesCancelled,
    Parcel,
    ReplacementCreated,
    ShipmentFound,
    ShipmentLost,
    ShipmentReturnedToSender,
    ShipmentReturnStarted,
    ShipmentShipped,
    StockCounted,
    StockDiscrepancyRecorded,
)
from shared.contracts.notifications import NotificationFailed
from shared.contracts.orders import Hold, OrderCancelled, OrderHoldPlaced, OrderHoldReleased
from shared.contracts.payments import (
    MovementKind,
    PaymentAuthorizationExpired,
    PaymentDeclined,
    PaymentMovementRecorded,
    PaymentReauthorized,
    RefundAttentionNeeded,
    RefundCompleted,
    RefundKind,
    RefundLine,
    RefundRequested,
)
from shared.contracts.returns import (
    ClaimOpened,
    ClaimResolved,
    DeclaredCondition,
    Disposition,
    InspectedLine,
    InspectionOutcome,
    RecoveryOpened,
    RecoverySettled,
    Resolution,
    ReturnApproved,
    ReturnClosed,
    ReturnDeclined,
    ReturnDiscrepancyRecorded,
    ReturnItemsInspected,
    ReturnItemsReceived,
    ReturnLine,
    ReturnReason,
    ReturnRequested,
    ReturnSentToReview,
    ReturnUnexpectedItemReceived,
)
from shared.contracts.returns import ReceivedLine as Received
from shared.contracts.support import EscalationAcknowledged, EscalationCleared, EscalationRaised
from shared.web.auth import Caller, Role
from support_view.actions import offered
from support_view.api import OrderView
from support_view.domain import cases
from support_view.domain.cases import Support
from support_view.domain.casework import Acknowledge, Around, decide
from support_view.domain.escalations import Escalation, Look, Owner, evolve, settle
from support_view.domain.obligations import SERVICE, obligations, rules_of
from support_view.domain.policies import RuleName
from support_view.domain.shelves import STOCK, shelf
from support_view.summary import Freshness
from tests.telling import ESCALATIONS, POLICY, START, Telling, confirmed_order, split_order, units
from tests.unit.test_support_view import sections_of, seen

ORDER, S2, R1 = "ORD-1042", "ORD-1042-S2", "ORD-1042-RMA1"
RUG = (LineQuantity(line_id="rug", quantity=1),)
RETURN = {"order_id": ORDER, "return_id": R1}
ASKED = ReturnLine(
    line_id="lamp", quantity=1, reason=ReturnReason.UNWANTED, condition=DeclaredCondition.UNOPENED, exchange_sku=None
)
TENDER = {"order_id": ORDER, "tender_id": "card", "operation_id": "x", "amount_minor": 41_470, "currency": "EUR"}
SPOT = {"tender_kind": "card", "reference": "ref"}


def requested() -> list[Fact]:
    asked = ReturnRequested(
        **RETURN, requested_at=START, lines=(ASKED,), resolution=Resolution.REFUND, note="", evidence=()
    )
    approved = ReturnApproved(
        **RETURN, lines=units(lamp=1), expires_at=START + timedelta(days=14), approver=None, policy=POLICY
    )
    return [asked, approved]


def received(*after: Fact) -> list[Fact]:
    line = Received(line_id="lamp", quantity=1, total=1)
    came = ReturnItemsReceived(**RETURN, receipt_id="p1", location="BER", lines=(line,), complete=True)
    return [*requested(), came, *after]


HELD = ReturnItemsInspected(
    **RETURN,
    inspection_id="i1",
    location="BER",
    lines=(
        InspectedLine(
            line_id="lamp",
            quantity=1,
            outcome=InspectionOutcome.WRONG_ITEM,
            disposition=Disposition.HOLD,
            refund_percent=0,
            fee_percent=0,
        ),
    ),
    policy=POLICY,
    complete=True,
)
LOST_REFUND = RefundRequested(
    order_id=ORDER,
    refund_id="r9",
    kind=RefundKind.LOST,
    cause_id="c9",
    lines=(RefundLine(line_id="rug", quantity=1, amount_minor=8900),),
    amount_minor=8900,
    currency="EUR",
    trigger_at=START,
    requester="agent:ann",
)
STUCK = RefundAttentionNeeded(
    order_id=ORDER, refund_id="r9", reason_code="no_channel_left", outstanding_minor=8900, currency="EUR"
)
BACK = ShipmentReturnedToSender(order_id=ORDER, shipment_id=S2, lines=units(rug=1))
CANCELLED = FulfillmentLinesCancelled(
    order_id=ORDER,
    cancellation_id="c1",
    lines=(CancelledUnits(line_id="rug", quantity=1, was=Bucket.RETURNED_TO_SENDER),),
)
LAPSED = [
    PaymentAuthorizationExpired(order_id=ORDER, tender_id="card", amount_minor=41_470, currency="EUR", final=False),
    PaymentDeclined(**TENDER, tender_kind="card", code="insufficient_funds"),
]
AGAIN = PaymentReauthorized(**TENDER, **SPOT, expires_at=START + timedelta(days=30))

RECOVERY = RecoveryOpened(
    order_id=ORDER,
    recovery_id="v1",
    amount_minor=8900,
    currency="EUR",
    cause="found_after_refund",
    owner="support",
    due_at=START + timedelta(days=9),
    policy=POLICY,
)
DATED_CLAIM = ClaimOpened(
    order_id=ORDER, claim_id="c1", lines=RUG, reason=ReturnReason.NOT_RECEIVED, decide_by=START + timedelta(days=5)
)

STANDING: list[tuple[str, Callable[[str], Telling], Sequence[Fact], RuleName, Owner, Sequence[Fact]]] = [
    (
        "a claim whose date the returns service set",
        split_order,
        [DATED_CLAIM],
        RuleName.DECISION_LATE,
        Owner.SUPPORT,
        [ClaimResolved(order_id=ORDER, claim_id="c1", outcome="rejected", detail="it is there")],
    ),
    (
        "goods that the customer holds and did not pay for",
        split_order,
        [RECOVERY],
        RuleName.RECOVERY_LATE,
        Owner.SUPPORT,
        [RecoverySettled(order_id=ORDER, recovery_id="v1", amount_minor=8900, currency="EUR", how="written_off")],
    ),
    ("returned to its sender", split_order, [BACK], RuleName.SHIPMENT_CAME_BACK, Owner.SUPPORT, [CANCELLED]),
    (
        "turned round by the carrier",
        split_order,
        [ShipmentReturnStarted(order_id=ORDER, shipment_id=S2, tracking="JD0147111043", detail="nobody was there")],
        RuleName.SHIPMENT_RETURNING,
        Owner.CARRIER,
        [BACK],
    ),
    (
        "lost",
        split_order,
        [ShipmentLost(order_id=ORDER, shipment_id=S2, lines=RUG)],
        RuleName.SHIPMENT_LOST,
        Owner.SUPPORT,
        [LOST_REFUND],
    ),
    (
        "lost, and found again",
        split_order,
        [ShipmentLost(order_id=ORDER, shipment_id=S2, lines=RUG)],
        RuleName.SHIPMENT_LOST,
        Owner.SUPPORT,
        [ShipmentFound(order_id=ORDER, shipment_id=S2, lines=RUG, review=False)],
    ),
    (
        "a refund without a route",
        split_order,
        [LOST_REFUND, STUCK],
        RuleName.REFUND_STUCK,
        Owner.SUPPORT,
        [
            RefundCompleted(
                order_id=ORDER,
                refund_id="r9",
                kind=RefundKind.LOST,
                cause_id="c9",
                return_id=None,
                amount_minor=8900,
                currency="EUR",
                trigger_at=START,
            )
        ],
    ),
    (
        "under review for long",
        split_order,
        [*requested()[:1], ReturnSentToReview(**RETURN, reasons=(), policy=POLICY)],
        RuleName.RETURN_UNDECIDED,
        Owner.SUPPORT,
        [ReturnDeclined(**RETURN, reasons=(), policy=POLICY)],
    ),
    (
        "approved and never sent",
        split_order,
        requested(),
        RuleName.RETURN_SILENT,
        Owner.CUSTOMER,
        [ReturnClosed(**RETURN)],
    ),
    (
        "wrong goods held at inspection",
        split_order,
        received(HELD),
        RuleName.RETURN_HELD,
        Owner.SUPPORT,
        [ReturnClosed(**RETURN)],
    ),
    ("came and is not inspected", split_order, received(), RuleName.RETURN_UNINSPECTED, Owner.WAREHOUSE, [HELD]),
    (
        "an open claim",
        split_order,
        [ClaimOpened(order_id=ORDER, claim_id="c1", lines=RUG, reason=ReturnReason.NOT_RECEIVED)],
        RuleName.CLAIM_OPEN,
        Owner.SUPPORT,
        [ClaimResolved(order_id=ORDER, claim_id="c1", outcome="rejected", detail="it is there")],
    ),
    (
        "a renewed authorization declined",
        confirmed_order,
        LAPSED,
        RuleName.AUTHORIZATION_LAPSED,
        Owner.SUPPORT,
        [AGAIN],
    ),
    (
        "money lapsed of an order that is cancelled",
        confirmed_order,
        LAPSED,
        RuleName.AUTHORIZATION_LAPSED,
        Owner.SUPPORT,
        [OrderCancelled(order_id=ORDER, cancellation_id="c1")],
    ),
    (
        "held for an address",
        split_order,
        [OrderHoldPlaced(order_id=ORDER, hold=Hold.ADDRESS, detail="no such street")],
        RuleName.HOLD_STANDING,
        Owner.SUPPORT,
        [OrderHoldReleased(order_id=ORDER, hold=Hold.ADDRESS, detail="called")],
    ),
]


def raised(t: Telling, rule: RuleName, service: str = "") -> list[EscalationRaised]:
    """Long after, of one rule."""
    states = {service: section.state for service, section in sections_of(t.entries).items() if service != "support"}
    service = service or SERVICE[rule]
    look = Look(rules_of(service), obligations(service, states, ESCALATIONS), START + timedelta(days=400))
    facts = settle(ORDER, {}, look, ESCALATIONS, PolicyRef(policy_id="escalations", version=1))
    return [fact for fact in facts if isinstance(fact, EscalationRaised) and fact.rule == rule]


@pytest.mark.parametrize(
    ("tell", "facts", "rule", "owner", "ends"), [case[1:] for case in STANDING], ids=[case[0] for case in STANDING]
)
def test_what_stood_still_has_an_owner_and_a_date_is_escalated_and_ends(
    tell: Callable[[str], Telling], facts: Sequence[Fact], rule: RuleName, owner: Owner, ends: Sequence[Fact]
) -> None:
    t = tell(ORDER)
    assert not raised(t, rule)
    for fact in facts:
        t.tell(fact)
    [step] = [step for step in seen(t).next_steps if step.rule is rule]
    assert step.owner is owner and step.due_at >= START
    is_ahead = step.due_at > START + timedelta(hours=1)
    assert step.urgent == (owner is Owner.SUPPORT and not is_ahead), "what has days to go is not to be done now"
    [escalation] = raised(t, rule)
    assert escalation.due_at == step.due_at
    for fact in ends:
        t.tell(fact)
    assert rule not in {step.rule for step in seen(t).next_steps}
    assert not raised(t, rule)


@pytest.mark.parametrize(
    ("fact", "rule"),
    [
        (
            FulfillmentDiscrepancyRecorded(
                order_id=ORDER,
                discrepancy_id="d1",
                observation="warehouse.handed_over",
                contradicts="held",
                shipment_id=S2,
                detail="it left although it is held",
            ),
            RuleName.CONTRADICTED_PLAN,
        ),
        (
            ReturnDiscrepancyRecorded(
                order_id=ORDER,
                discrepancy_id="d2",
                observation="warehouse.parcel_received",
                contradicts="unknown_return",
                detail="no return expects it",
            ),
            RuleName.CONTRADICTED_PLAN,
        ),
        (NotificationFailed(order_id=ORDER, notification_id="n1", detail="no such mailbox"), RuleName.MESSAGE_FAILED),
        (ReturnUnexpectedItemReceived(**RETURN, receipt_id="p1", sku="CUP", quantity=2), RuleName.RETURN_UNEXPECTED),
    ],
    ids=[
        "a hand-over against the plan",
        "goods that no return expects",
        "a mail that failed",
        "two units too many in a return parcel",
    ],
)
def test_what_no_fact_ends_stands_until_somebody_acknowledges_it(fact: Fact, rule: RuleName) -> None:
    t = split_order(ORDER)
    t.tell(fact)
    assert [step.owner for step in seen(t).next_steps if step.rule is rule] == [Owner.SUPPORT]
    [escalation] = raised(t, rule, type(fact).service)
    t.tell(escalation)
    of = {"order_id": ORDER, "customer": None, "escalation_id": escalation.escalation_id}
    t.tell(EscalationAcknowledged(**of, note="seen"))
    assert rule in {step.rule for step in seen(t).next_steps}
    t.tell(EscalationCleared(**of, detail="somebody has dealt with it"))
    assert rule not in {step.rule for step in seen(t).next_steps}


S3 = "ORD-1042-S7"
"""A parcel with a rug of the same line as `S2` has."""


def two_rugs(*after: Fact) -> set[str]:
    """Which of two parcels with a rug each somebody has to see to, since they are lost."""
    t = split_order(ORDER)
    box = Parcel(parcel_id="p1", lines=RUG, carrier="DHL", tracking="TR-7")
    left = {"carrier": "DHL", "parcels": (box,), "lines": RUG, "number": 4, "of": 4}
    t.tell(ShipmentShipped(order_id=ORDER, shipment_id=S3, **left))
    for fact in after:
        t.tell(fact)
    steps = [step for step in seen(t).next_steps if step.rule is RuleName.SHIPMENT_LOST]
    return {step.link for step in steps}


def lost(shipment_id: str) -> Fact:
    return ShipmentLost(order_id=ORDER, shipment_id=shipment_id, lines=RUG)


def claimed(claim_id: str, reason: ReturnReason) -> Fact:
    return ClaimOpened(order_id=ORDER, claim_id=claim_id, lines=RUG, reason=reason)


@pytest.mark.parametrize("reason", [ReturnReason.DEFECTIVE, ReturnReason.WRONG_ITEM, ReturnReason.DAMAGED_IN_TRANSIT])
def test_a_lost_parcel_is_not_settled_by_a_claim_of_what_another_parcel_brought(reason: ReturnReason) -> None:
    about = f"shipment-{S2}"
    assert two_rugs(claimed("c1", reason), lost(S2)) == {about}
    refunded = ClaimResolved(order_id=ORDER, claim_id="c1", outcome="refunded", detail="broken")
    assert two_rugs(claimed("c1", reason), refunded, lost(S2)) == {about}
    assert two_rugs(claimed("c1", reason), claimed("c2", ReturnReason.NOT_RECEIVED), lost(S2)) == set()


def test_of_two_lost_parcels_the_one_that_was_sent_again_is_settled_and_the_other_waits() -> None:
    both = (lost(S2), lost(S3))
    assert two_rugs(*both) == {f"shipment-{S2}", f"shipment-{S3}"}
    again = ReplacementCreated(
        order_id=ORDER,
        replacement_id="x1",
        cause_id=S3,
        lines=RUG,
        moved=(CancelledUnits(line_id="rug", quantity=1, was=Bucket.LOST),),
        reason_code="lost",
        shipment_id=S3,
    )
    assert two_rugs(*both, again) == {f"shipment-{S2}"}
    assert two_rugs(*both, again, claimed("c1", ReturnReason.NOT_RECEIVED)) == set()
    assert two_rugs(*both, claimed("c1", ReturnReason.NOT_RECEIVED)) == {f"shipment-{S2}", f"shipment-{S3}"}


def test_what_came_back_is_offered_to_be_sent_again_or_cancelled_and_nothing_is_where_nothing_is_left() -> None:
    def names(t: Telling, anchor: str) -> set[str]:
        freshness = Freshness(facts=1, occurred_at=START, seen_at=START, services={}, holes=())
        view = OrderView(freshness=freshness, **dict(seen(t)))
        services = dict.fromkeys(("orders", "fulfillment", "returns", "payments"), "")
        offers = offered(view, Caller("sue", frozenset({Role.SUPERVISOR})), services, {})
        return {offer.name for offer in offers.get(anchor, ())}

    t = split_order(ORDER)
    assert names(t, f"shipment-{S2}") == set()
    assert names(t, f"shipment-{ORDER}-S1") == {"not-received"}
    t.tell(RECOVERY)
    assert names(t, "recovery-v1") == {"charge-recovery", "settle-recovery"}
    t.tell(BACK)
    assert names(t, f"shipment-{S2}") == {"send-again"} and "cancel-units" in names(t, "order")
    t.tell(CANCELLED)
    assert names(t, f"shipment-{S2}") == set()
    for fact in requested():
        t.tell(fact)
    assert names(t, f"return-{R1}") == {"cancel-return", "close-return"}
    t.tell(ReturnClosed(**RETURN))
    assert names(t, f"return-{R1}") == set()


SHELF: Final = {"sku": "LAMP", "location": "BER"}


def said_otherwise(receipt: str, detail: str = "said otherwise") -> StockDiscrepancyRecorded:
    return StockDiscrepancyRecorded(
        **SHELF,
        observation="warehouse.goods_received",
        contradicts="receipt",
        reference=receipt,
        quantity=7,
        recorded=5,
        detail=detail,
    )


COUNTED: Final = StockCounted(**SHELF, counted=7, before=5, change=2, missing=0, detail="counted again")


def attended_shelf(*facts: Fact, known: Mapping[str, Escalation] | None = None, sku: str = "LAMP") -> list[Fact]:
    """What a look at the shelf makes of facts that happened an hour apart, as a warehouse's messages do."""
    told = shelf((fact, START + timedelta(hours=n)) for n, fact in enumerate(facts))
    seen = obligations(STOCK, {STOCK: told}, ESCALATIONS)
    ref = PolicyRef(policy_id="escalations", version=1)
    look = Look(rules_of(STOCK), seen, START + timedelta(days=1))
    return settle(f"stock:{sku}@BER", known or {}, look, ESCALATIONS, ref)


def test_a_shelf_that_the_warehouse_contradicts_is_escalated_once_a_receipt_and_ends_when_it_is_counted() -> None:
    first, second = said_otherwise("r1", "7, not 5"), said_otherwise("r2")
    told = attended_shelf(first, second, first)
    raised = [fact for fact in told if isinstance(fact, EscalationRaised)]
    assert [(one.subject, one.item, one.rule, one.since) for one in raised] == [
        ("stock:LAMP@BER", "r1", "shelf_contradicted", START),
        ("stock:LAMP@BER", "r2", "shelf_contradicted", START + timedelta(hours=1)),
    ], "told again, it stands since the first time"
    assert raised[0].why == "the warehouse contradicts itself on LAMP in BER: 7, not 5"
    assert (raised[0].order_id, raised[0].shelf, raised[0].due_at) == (None, "LAMP@BER", START)
    known: dict[str, Escalation] = {}
    for fact in raised:
        known = evolve(known, fact)
    assert attended_shelf(first, second, first, known=known) == []
    cleared = attended_shelf(first, second, COUNTED, known=known)
    assert [type(fact) for fact in cleared] == [EscalationCleared] * 2
    for over in cleared:
        assert isinstance(over, EscalationCleared)
        known = evolve(known, over)
    [again] = attended_shelf(first, second, COUNTED, first, known=known)
    assert isinstance(again, EscalationRaised) and (again.episode, again.level) == (2, 2)


def test_a_shelf_whose_books_are_right_is_settled_by_who_acknowledges_it() -> None:
    support = Support(subject="stock:LAMP@BER")
    [raised] = attended_shelf(said_otherwise("r1"))
    support = cases.evolve(support, raised)
    assert isinstance(raised, EscalationRaised)
    around = Around(SimpleNamespace(escalations=ESCALATIONS), START)  # type: ignore[arg-type]
    facts = decide(support, Acknowledge(raised.escalation_id, "a typing error"), around)
    assert [(type(fact), fact.subject) for fact in facts] == [
        (EscalationAcknowledged, "stock:LAMP@BER"),
        (EscalationCleared, "stock:LAMP@BER"),
    ]
    for fact in facts:
        support = cases.evolve(support, fact)
    assert attended_shelf(said_otherwise("r1"), known=support.escalations) == [], "it is not raised again"


def test_the_escalation_of_a_shelf_with_a_long_name_has_an_id_all_the_same() -> None:
    [raised] = attended_shelf(said_otherwise("r1"), sku="L" * 64)
    assert isinstance(raised, EscalationRaised)
    assert raised.shelf == f"{'L' * 64}@BER" and len(raised.escalation_id) < 64


@pytest.mark.parametrize("kind", [*MovementKind])
def test_whatever_the_provider_did_unasked_is_brought_to_somebody(kind: MovementKind) -> None:
    t = confirmed_order(ORDER)
    t.tell(
        PaymentMovementRecorded(
            order_id=ORDER,
            movement_id="m1",
            tender_id=None,
            kind=kind,
            amount_minor=100,
            currency="EUR",
            reference="theirs",
            occurred_at=START,
            contradicts="not_asked_for",
            detail="in their books",
            tender_captured_minor=0,
            tender_open_minor=0,
        )
    )
    [escalation] = raised(t, RuleName.BOOKS_DIFFER)
    assert escalation.item == "m1" and "in their books" in escalation.why
