"""I15 and I16 on live data: whatever is not at its end has a next step, what is late has an escalation, and what a partner
observed stands recorded, with an escalation where it contradicts the plan.

What support-view's own pure functions say of the sections it has, held against the escalations that were raised.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, TypeAlias

import asyncpg

from shared.contracts.base import PolicyRef
from shared.contracts.fulfillment import FulfillmentDiscrepancyRecorded
from shared.contracts.payments import PaymentAnomalyDetected, PaymentMovementRecorded
from shared.contracts.returns import ReturnDiscrepancyRecorded
from shared.contracts.support import EscalationRaised
from support_view.casebook import STATE, in_force, shelves
from support_view.domain.cases import Support
from support_view.domain.escalations import Look, settle
from support_view.domain.obligations import OBLIGATIONS, READS, nobodys_tasks, obligations
from support_view.domain.policies import EscalationPolicy, RuleName
from support_view.projection import DOMAINS

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

RAISED_WITHIN: Final = timedelta(minutes=2)
"""How long after its date an escalation may still be on its way: timers look by turns."""
OBSERVED: Final = ("warehouse.events",)
"""Topics on which partners tell what has happened."""
UNREADABLE: Final = ("empty", "bad_data", "bad_header", "too_deep", "unknown_type", "unknown_version")
"""What is parked since it could not be read; an observation is parked for no other reason."""

SECTIONS: Final = "SELECT subject, service, state FROM sections WHERE subject = ANY($1::text[])"
SUPPORT: Final = "SELECT key, state FROM states WHERE key = ANY($1::text[]) AND sequence > 0"
REFUSED: Final = """
SELECT key, topic, reason, detail FROM parked
WHERE status = 'open' AND topic = ANY($1::text[]) AND reason <> ALL($2::text[]) AND reason <> 'behind' ORDER BY id"""
RECORDED: Final = """
SELECT subject, service, type, coalesce(data ->> 'discrepancy_id', data ->> 'movement_id', 'books') AS id FROM timeline
WHERE subject = ANY($1::text[]) AND type = ANY($2::text[])"""
CONTRADICTED_SHELVES: Final = """
SELECT DISTINCT subject FROM timeline WHERE subject >= 'stock:' AND subject < 'stock;' AND type = 'stock.discrepancy_recorded'"""
RULE_OF: Final[Mapping[str, RuleName]] = {
    FulfillmentDiscrepancyRecorded.type: RuleName.CONTRADICTED_PLAN,
    ReturnDiscrepancyRecorded.type: RuleName.CONTRADICTED_PLAN,
    PaymentMovementRecorded.type: RuleName.BOOKS_DIFFER,
    PaymentAnomalyDetected.type: RuleName.BOOKS_DIFFER,
}
"""The facts of an order by which a contradiction is recorded, and the rule that each is escalated by."""


async def refused_observations(db: Connection) -> list[tuple[str, str]]:
    """(key, what is wrong) of what this service parked although it could read it."""
    rows = await db.fetch(REFUSED, OBSERVED, UNREADABLE)
    return [
        (row["key"], f"I16: a message of {row['topic']} is parked: {row['reason']}, {row['detail']}") for row in rows
    ]


async def unattended(view: Connection, orders: Sequence[str]) -> dict[str, list[str]]:
    """By order, in words: what has no next step, what is late without an escalation, and what contradicts the plan
    without one."""
    policies, now = await in_force(view), await view.fetchval("SELECT now()")
    states: dict[str, dict[str, Any]] = {}
    for row in await view.fetch(SECTIONS, orders):
        states.setdefault(row["subject"], {})[row["service"]] = DOMAINS[row["service"]].state.validate_json(
            row["state"]
        )
    support = {row["key"]: STATE.validate_json(row["state"]) for row in await view.fetch(SUPPORT, orders)}
    found: dict[str, list[str]] = {}
    for order, seen in states.items():
        known = support.get(order, Support())
        seen["support"] = known
        told = [f"I15: {what}" for what in nobodys_tasks(seen, policies.escalations)]
        told += _late(order, seen, known, policies.escalations, policies.escalations_ref, now)
        if told:
            found[order] = told
    for row in await view.fetch(RECORDED, orders, [*RULE_OF]):
        known, rule = support.get(row["subject"], Support()), RULE_OF[row["type"]]
        raised = {escalation.item for escalation in known.escalations.values() if escalation.rule is rule}
        if policies.escalations.rules[rule].is_on and row["id"] not in raised:
            found.setdefault(row["subject"], []).append(_not_raised(row["service"], row["id"]))
    return found


def _not_raised(service: str, item: str) -> str:
    return f"I16: {service} recorded {item}, and no escalation was raised for it"


async def contradicted_shelves(view: Connection) -> list[str]:
    """The subjects of those of which the warehouse ever contradicted itself."""
    return [row["subject"] for row in await view.fetch(CONTRADICTED_SHELVES)]


async def unattended_shelves(view: Connection, subjects: Sequence[str]) -> dict[str, list[str]]:
    """By shelf, in words: what contradicts its books, was not counted since, and has no escalation."""
    policies = await in_force(view)
    if not policies.escalations.rules[RuleName.SHELF_CONTRADICTED].is_on:
        return {}
    support = {row["key"]: STATE.validate_json(row["state"]) for row in await view.fetch(SUPPORT, subjects)}
    found: dict[str, list[str]] = {}
    for subject, shelf in (await shelves(view, subjects)).items():
        known = support.get(subject, Support()).escalations.values()
        raised = {(each.item, each.since) for each in known if each.rule is RuleName.SHELF_CONTRADICTED}
        for receipt, said in shelf.discrepancies.items():
            if (receipt, said.at) not in raised:
                found.setdefault(subject, []).append(_not_raised("fulfillment", receipt))
    return found


def _late(
    order: str,
    seen: Mapping[str, Any],
    known: Support,
    policy: EscalationPolicy,
    ref: PolicyRef,
    now: datetime,
) -> list[str]:
    """What a look would raise just now, of what is late for a while: it should have been raised."""
    there = tuple(
        one
        for service in OBLIGATIONS
        for one in obligations(
            service, {of: seen[of] for of in {service, *READS.get(service, ())} & seen.keys()}, policy
        )
    )
    look = Look(frozenset(RuleName), there, now - RAISED_WITHIN)
    raised = [f for f in settle(order, known.escalations, look, policy, ref) if isinstance(f, EscalationRaised)]
    return [f"I15: {f.item} is late since {f.due_at:%Y-%m-%d %H:%M} ({f.rule}), and nobody was told" for f in raised]
