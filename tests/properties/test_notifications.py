"""Notifications whatever the order in which topics arrive and messages are sent: everything is told once, what is not
true any more is corrected once, and the state is the fold."""

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from notifications.domain.decide import Outbox, RecordFact, RecordSent, decide, evolve_context
from notifications.domain.state import OrderNotifications, Status, evolve, invariants
from notifications.mails import composed
from notifications.store import STATE
from shared.contracts import fulfillment as f
from shared.contracts import orders
from shared.contracts import payments as p
from shared.contracts import returns as r
from shared.contracts.base import FACTS, Fact, TenderKind
from shared.contracts.notifications import NotificationContradicted, NotificationCorrectionSent, NotificationQueued
from tests.unit.notifications_story import (
    LATER,
    LEGS,
    NOON,
    POLICY,
    PROMISED,
    REF,
    RETURN,
    backordered,
    cancelled,
    captured,
    completed,
    consent_asked,
    filled,
    leg,
    placed,
    routed,
    scanned,
    shipped,
    slipped,
    units,
)

ORDERS: list[Fact] = [placed(), orders.OrderConfirmed(order_id="o1", authorized_minor=5000, total_minor=5000)]
FULFILLMENT: list[Fact] = [
    backordered(1, PROMISED),
    shipped(1, 3, ("1", 2)),
    slipped(PROMISED, LATER),
    consent_asked(LATER),
    cancelled("2", 1),
    f.ShipmentDelayed(order_id="o1", shipment_id="o1-S1", tracking="T1", detail=""),
    shipped(2, 3, ("2", 1)),
    scanned(f.ShipmentDelivered, ("1", 2)),
    filled(1, 0, "o1-S3"),
    shipped(3, 3, ("1", 1)),
]
PAYMENTS: list[Fact] = [
    captured(2000, "o1-S1"),
    routed(*LEGS),
    leg(p.RefundLegSubmitted, "L1", 400),
    leg(p.RefundLegSubmitted, "L2", 600),
    leg(p.RefundLegSucceeded, "L1", 400),
    leg(p.RefundLegFailed, "L2", 600),
    routed(("L3", TenderKind.CARD, 600), channel=p.RefundChannel.BANK_TRANSFER),
    leg(p.RefundLegSubmitted, "L3", 600),
    leg(p.RefundLegSucceeded, "L3", 600),
    completed(1000),
]
RETURNS: list[Fact] = [
    r.ReturnApproved(**RETURN, lines=units(("1", 1)), expires_at=LATER, approver=None, policy=REF),
    r.ReturnExpired(**RETURN),
]
TOPICS: list[list[Fact]] = [ORDERS, FULFILLMENT, PAYMENTS, RETURNS]
TOLD = {
    *("0-2",),
    *(f"1-{n}" for n in (1, 2, 3, 4, 5, 6, 7, 8, 10)),
    *(f"2-{n}" for n in (3, 4, 6, 7, 8, 10)),
    *(f"3-{n}" for n in (1, 2)),
}
"""The facts that are told, by topic and place."""

Delivery = tuple[str, int, Fact]


@st.composite
def interleavings(draw: st.DrawFn) -> list[Delivery | None]:
    """Each topic in its own order, the topics crossing in any way; None: what is queued is sent."""
    left = [[(f"{t}-{n}", n, fact) for n, fact in enumerate(topic, start=1)] for t, topic in enumerate(TOPICS)]
    crossed: list[Delivery | None] = []
    while any(left):
        crossed.append(draw(st.sampled_from([topic for topic in left if topic])).pop(0))
        if draw(st.integers(0, 3)) == 0:
            crossed.append(None)
    return crossed


def sendings(state: OrderNotifications) -> Iterator[RecordSent]:
    """Of everything that is queued, composed as a sender does."""
    for id, notification in state.notifications.items():
        if notification.status is Status.QUEUED:
            mail = composed(state, notification)
            assert "o1" in mail.title
            assert "o1" in mail.html
            yield RecordSent(id, mail.title)


@given(interleavings())
def test_however_the_topics_cross_the_same_is_told_once_and_corrected_once(crossed: list[Delivery | None]) -> None:
    state, outbox = OrderNotifications("o1"), Outbox(POLICY)
    told: list[Fact] = []
    for delivery in [*crossed, None]:
        if delivery is None:
            outbox = Outbox(POLICY)
        commands = [RecordFact(delivery[2], delivery[0], delivery[1], NOON)] if delivery else list(sendings(state))
        for command in commands:
            for fact in decide(state, command, outbox):
                state, outbox = evolve(state, fact), evolve_context(outbox, fact)
                told.append(fact)
            assert invariants(state) == []
    queued = [fact for fact in told if isinstance(fact, NotificationQueued)]
    assert {q.trigger_id for q in queued} == TOLD
    assert len(queued) == len(TOLD)
    assert {n.status for n in state.notifications.values()} <= {Status.SENT, Status.SUPPRESSED}
    assert state.units["1"].remaining == state.units["2"].remaining == 0
    contradicted = [(c.notification_id, c.statement) for c in told if isinstance(c, NotificationContradicted)]
    assert all(contradicted.count(c) == 1 for c in contradicted)
    corrections = [c.corrects_id for c in told if isinstance(c, NotificationCorrectionSent)]
    assert {id for id, _ in contradicted} == set(corrections)
    fold = OrderNotifications("o1")
    for fact in told:
        travelled = FACTS[fact.type].model_validate_json(fact.model_dump_json())
        assert travelled == fact
        fold = evolve(fold, travelled)
    assert fold == state
    assert STATE.validate_json(STATE.dump_json(state)) == state
