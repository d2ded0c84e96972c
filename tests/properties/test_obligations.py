"""I15, nobody's task: in every state that the whole system reaches, what is not at its end has a next step, an owner, a date."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from fulfillment.domain.tracking import ShipmentStatus
from payments.domain.refund import RefundStatus
from returns.domain.claims import ClaimStatus
from returns.domain.rma import ReturnStatus
from shared.contracts.base import Bucket, PolicyRef
from shared.contracts.payments import RefundKind
from shared.contracts.support import EscalationRaised
from support_view.domain.escalations import Look, late_at, settle
from support_view.domain.obligations import OBLIGATIONS, SERVICE, nobodys_tasks, obligations, rules_of
from support_view.domain.policies import RuleName
from support_view.summary import Summary, summarize
from tests.properties.test_support_view_agrees import play, seen
from tests.properties.test_system import Step, step
from tests.properties.world import Service, World
from tests.telling import ESCALATIONS

REF = PolicyRef(policy_id="escalations", version=1)


def states_of(world: World, id: str) -> tuple[Mapping[str, Any], Summary]:
    sections = seen(*(world.facts(service, id) for service in Service))
    return {service: section.state for service, section in sections.items()}, summarize(id, sections, ESCALATIONS)


def rules_at(summary: Summary, anchor: str) -> set[RuleName]:
    return {one.rule for one in summary.next_steps if one.link == anchor}


def every_thing_has_a_step(world: World, id: str, summary: Summary) -> None:
    """By the services' own states, not by what the view makes of them."""
    order = world.order(id)
    if order.status not in ("cancelled", "rejected", "closed"):
        assert rules_at(summary, "order"), f"nobody's task: {id}, {order.status}"
    fulfillment = world.fulfillment(id)
    for shipment_id, shipment in fulfillment.shipments.items():
        if shipment.status not in ("delivered", "cancelled", "lost", "returned_to_sender"):
            assert rules_at(summary, f"shipment-{shipment_id}"), f"nobody's task: {shipment_id}, {shipment.status}"
    for backorder in fulfillment.waiting:
        assert rules_at(summary, f"backorder-{backorder.backorder_id}"), f"nobody's task: {backorder.backorder_id}"
    units = [line.units for line in fulfillment.lines.values()]
    if any(counted.get(Bucket.RETURNED_TO_SENDER, 0) for counted in units) and any(
        s.status is ShipmentStatus.RETURNED_TO_SENDER for s in fulfillment.shipments.values()
    ):
        assert RuleName.SHIPMENT_CAME_BACK in {one.rule for one in summary.next_steps}, "nobody's task: it came back"
    for refund_id, refund in world.account(id).refunds.items():
        if refund.status not in (RefundStatus.SUCCEEDED, RefundStatus.REJECTED, RefundStatus.CANCELLED):
            assert rules_at(summary, f"refund-{refund_id}"), f"nobody's task: {refund_id}, {refund.status}"
    over = (ReturnStatus.DECLINED, ReturnStatus.CANCELLED, ReturnStatus.EXPIRED, ReturnStatus.CLOSED)
    for return_id, told in world.returns(id).returns.items():
        if told.status not in over:
            assert rules_at(summary, f"return-{return_id}"), f"nobody's task: {return_id}, {told.status}"
    for claim_id, claim in world.returns(id).claims.items():
        assert bool(rules_at(summary, f"claim-{claim_id}")) == (claim.status is ClaimStatus.OPEN), claim_id
    for recovery_id, recovery in world.returns(id).recoveries.items():
        assert bool(rules_at(summary, f"recovery-{recovery_id}")) == recovery.is_open, recovery_id


def what_is_lost_is_seen_to_until_it_is_made_good(world: World, id: str, summary: Summary) -> None:
    """By what fulfillment has lost, and what returns and payments make good of what never came."""
    fulfillment, returns = world.fulfillment(id), world.returns(id)
    standing = {RefundStatus.REJECTED, RefundStatus.CANCELLED}
    refunds = [r for r in world.account(id).refunds.values() if r.kind is RefundKind.LOST and r.status not in standing]
    claims = [
        claim
        for claim in returns.claims.values()
        if claim.is_for_lost and claim.status in (ClaimStatus.OPEN, ClaimStatus.REFUNDED)
    ]
    for line_id, line in fulfillment.lines.items():
        refunded = sum(n.quantity for refund in refunds for n in refund.lines if n.line_id == line_id)
        made_good = max(refunded, sum(claim.units.get(line_id, 0) for claim in claims))
        lost_in = {
            shipment_id
            for shipment_id, shipment in fulfillment.shipments.items()
            if shipment.status is ShipmentStatus.LOST and shipment.astray(line_id, ShipmentStatus.LOST)
        }
        seen_to = {one for one in lost_in if RuleName.SHIPMENT_LOST in rules_at(summary, f"shipment-{one}")}
        if lost_in and line.of(Bucket.LOST) > made_good:
            assert seen_to, f"nobody's task: {line_id} is lost in {sorted(lost_in)}"


def what_is_late_is_escalated(id: str, states: Mapping[str, Any]) -> None:
    for service in OBLIGATIONS:
        waiting = obligations(service, states, ESCALATIONS)
        for one in waiting:
            assert SERVICE[one.rule] == service or one.rule is RuleName.CONTRADICTED_PLAN
            late = late_at(one, ESCALATIONS)
            look = Look(rules_of(service), waiting, late)
            raised = [f for f in settle(id, {}, look, ESCALATIONS, REF) if isinstance(f, EscalationRaised)]
            assert (one.rule, one.item) in {(fact.rule, fact.item) for fact in raised}
            early = Look(rules_of(service), (one,), late - timedelta(microseconds=1))
            assert settle(id, {}, early, ESCALATIONS, REF) == []


@settings(max_examples=60)
@given(st.integers(0, 23), st.integers(0, 7), st.lists(step, max_size=40))
def test_whatever_is_not_at_its_end_has_a_next_step_with_an_owner_and_a_date_and_is_escalated_when_late(
    which: int, how: int, steps: Sequence[Step]
) -> None:
    world = play(which, how, list(steps))
    for _ in range(2):
        for id in world.orders:
            states, summary = states_of(world, id)
            assert list(nobodys_tasks(states, ESCALATIONS)) == []
            every_thing_has_a_step(world, id, summary)
            what_is_lost_is_seen_to_until_it_is_made_good(world, id, summary)
            what_is_late_is_escalated(id, states)
        world.come_to_rest()
