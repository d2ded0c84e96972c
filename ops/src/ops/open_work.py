"""I15 and I16 on live data: whatever is not at its end has a next step, what is late has an escalation, and what a partner
observed stands recorded, with an escalation where it contradicts the plan.

What support-view's own pure functions say of the sections it has, held against the escalations that were raised.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, TypeAlias

import asyncpg

from shared.contracts.base import PolicyRef
from shared.contracts.support import EscalationRaised
from support_view.casebook import STATE, in_force
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
SELECT subject, service, data ->> 'discrepancy_id' AS id FROM timeline
WHERE subject = ANY($1::text[]) AND type LIKE '%.discrepancy_recorded'"""


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
    for row in await view.fetch(RECORDED, orders):
        known = support.get(row["subject"], Support())
        items = {e.item for e in known.escalations.values() if e.rule is RuleName.CONTRADICTED_PLAN}
        if row["id"] not in items and policies.escalations.rules[RuleName.CONTRADICTED_PLAN].is_on:
            what = f"I16: {row['service']} recorded {row['id']}, and no escalation was raised for it"
            found.setdefault(row["subject"], []).append(what)
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
