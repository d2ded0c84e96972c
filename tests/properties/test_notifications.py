"""Notifications whatever the order in which topics arrive: everything is told once, and the state is the fold."""

from hypothesis import given
from hypothesis import strategies as st

from notifications.domain import Note, OrderNotifications, RecordSent, decide, evolve, laws
from notifications.mails import composed
from notifications.store import STATE
from shared.contracts import fulfillment as f
from shared.contracts import payments as p
from shared.contracts.base import FACTS, Bucket, Fact
from shared.contracts.notifications import NotificationQueued
from tests.unit.test_notifications import (
    LEGS,
    NOON,
    PROMISED,
    backordered,
    captured,
    completed,
    leg,
    placed,
    routed,
    shipped,
)

FULFILLMENT: list[Fact] = [
    backordered(1, PROMISED),
    shipped(1, 3, ("1", 2)),
    f.FulfillmentLinesCancelled(
        order_id="o1",
        cancellation_id="o1-C1",
        lines=(f.CancelledUnits(line_id="2", quantity=1, was=Bucket.ALLOCATED),),
    ),
    shipped(2, 3, ("2", 1)),
    f.BackorderFilled(
        order_id="o1", backorder_id="o1-B1", line_id="1", sku="mug", quantity=1, remaining=0, shipment_id="o1-S3"
    ),
    shipped(3, 3, ("1", 1)),
]
PAYMENTS: list[Fact] = [
    captured(2000, "o1-S1"),
    routed(*LEGS),
    leg(p.RefundLegSubmitted, "L1", 400),
    leg(p.RefundLegSubmitted, "L2", 600),
    leg(p.RefundLegSucceeded, "L1", 400),
    leg(p.RefundLegSucceeded, "L2", 600),
    completed(1000),
]
TOPICS: list[list[Fact]] = [[placed()], FULFILLMENT, PAYMENTS]


@st.composite
def interleavings(draw: st.DrawFn) -> list[tuple[str, int, Fact]]:
    """Each topic in its own order, the topics crossing in any way; with the ids and places the facts have."""
    left = [[(f"{t}-{n}", n, fact) for n, fact in enumerate(topic, start=1)] for t, topic in enumerate(TOPICS)]
    crossed = []
    while any(left):
        crossed.append(draw(st.sampled_from([topic for topic in left if topic])).pop(0))
    return crossed


@given(interleavings())
def test_however_the_topics_cross_the_same_is_told_once(crossed: list[tuple[str, int, Fact]]) -> None:
    state = OrderNotifications("o1")
    told: list[Fact] = []
    for id, sequence, fact in crossed:
        facts = decide(state, Note(fact, id, sequence, NOON))
        for own in facts:
            state = evolve(state, own)
        told += facts
        assert laws(state) == []
    queued = [fact for fact in told if isinstance(fact, NotificationQueued)]
    assert sorted((q.kind, q.trigger_id) for q in queued) == [
        ("refund_completed", "2-7"),
        ("refund_submitted", "2-4"),
        ("shipment", "1-2"),
        ("shipment", "1-4"),
        ("shipment", "1-6"),
    ]
    assert state.units["1"].remaining == state.units["2"].remaining == 0
    for id, notification in state.notifications.items():
        mail = composed(state, notification)
        assert "o1" in mail.text
        told += (sent := decide(state, RecordSent(id, mail.title)))
        for own in sent:
            state = evolve(state, own)
    fold = OrderNotifications("o1")
    for fact in told:
        travelled = FACTS[fact.type].model_validate_json(fact.model_dump_json())
        assert travelled == fact
        fold = evolve(fold, travelled)
    assert fold == state
    assert STATE.validate_json(STATE.dump_json(state)) == state
