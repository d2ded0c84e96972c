"""All SQL of support's own aggregate: contacts and cases of an order, or of a customer who named none."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from typing import Any, Final, TypeVar

from asyncpg import Record as Row
from pydantic import BaseModel, TypeAdapter

from shared.contracts.base import FACTS, Fact, PolicyRef
from shared.contracts.fulfillment import SHELF
from shared.contracts.support import CUSTOMER, RootCauseTag
from shared.messaging.database import Pool
from shared.messaging.shell import Db, Flow, LockedAggregate, Message, StateCache
from support_view.domain.cases import Support, deadlines, evolve, invariants
from support_view.domain.casework import FIND_CAUSES, Around, CheckEscalations, Command, FindCauses, decide
from support_view.domain.causes import EvidencedCause
from support_view.domain.escalations import due_at
from support_view.domain.obligations import READS, SERVICE, States, answers, due_times, obligations
from support_view.domain.policies import (
    CASES,
    CAUSES,
    ESCALATIONS,
    CasePolicy,
    CausePolicy,
    EscalationPolicy,
    Policies,
)
from support_view.domain.shelves import READ, STOCK, Shelves, shelf
from support_view.domain.signals import ASKED_ABOUT
from support_view.domain.signals_by_fact import causes_in
from support_view.domain.timeline import SERVICES
from support_view.projection import DOMAINS, Projection
from support_view.store import Key, columns

M = TypeVar("M", bound=BaseModel)

STATE: Final = TypeAdapter(Support)

IN_FORCE: Final = """
SELECT DISTINCT ON (policy_id) policy_id, version, document::text FROM support_policies
WHERE effective_from <= now() ORDER BY policy_id, effective_from DESC, version DESC"""
# Locked against consumers: what they fold next is looked at after it, since they write its deadline after this.
LOOKED_AT: Final = """
SELECT sections.subject, sections.service, state
FROM sections JOIN unnest($1::text[], $2::text[]) AS k (subject, service) USING (subject, service)
ORDER BY sections.subject, sections.service FOR SHARE OF sections"""
# Shelves have no section: the deadline is locked against consumers in its place, and what counts is read from the timeline.
LOCK_SHELVES: Final = """
SELECT FROM deadlines WHERE key = ANY($1::text[]) AND name = 'look stock' ORDER BY key FOR UPDATE"""
OF_SHELVES: Final = """
SELECT subject, type, data, occurred_at FROM timeline
WHERE subject = ANY($1::text[]) AND service = 'fulfillment' AND type = ANY($2::text[]) ORDER BY subject, sequence, id"""
# Never later than it was to be: looking too early finds out when to look again. A look for causes is always moved: one that
# goes on just now may not see a section that is made meanwhile, and removes the deadline only as it had read it. What bears
# out nothing without a question is not looked at where support has heard of no such order: its question is, once it comes.
LOOK: Final = """
INSERT INTO deadlines (key, name, due_at)
SELECT subject, 'look ' || service, coalesce(due, now())
FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::bool[]) AS t (subject, service, due, is_to_be_asked)
WHERE NOT is_to_be_asked OR EXISTS (SELECT FROM sections AS s WHERE s.subject = t.subject AND s.service = 'support')
ORDER BY 1, 2
ON CONFLICT (key, name) DO UPDATE
SET due_at = CASE excluded.name WHEN 'look causes' THEN excluded.due_at ELSE least(deadlines.due_at, excluded.due_at) END"""
LOOK_LATER: Final = """
INSERT INTO deadlines (key, name, due_at)
SELECT subject, 'look ' || service, due
FROM unnest($1::text[], $2::text[], $3::timestamptz[]) AS t (subject, service, due) ORDER BY 1, 2
ON CONFLICT (key, name) DO UPDATE SET due_at = excluded.due_at"""
# What another service's facts ended: where nothing was to be looked at and nothing is raised, there is nothing to end.
LOOK_IF_WAITED_FOR: Final = """
INSERT INTO deadlines (key, name, due_at)
SELECT subject, 'look ' || t.service, now() FROM unnest($1::text[], $2::text[]) AS t (subject, service)
WHERE EXISTS (SELECT FROM deadlines WHERE key = subject AND name = 'look ' || t.service)
   OR EXISTS (SELECT FROM escalations AS e WHERE e.subject = t.subject AND e.service = t.service AND status <> 'cleared')
ORDER BY 1, 2
ON CONFLICT (key, name) DO UPDATE SET due_at = least(deadlines.due_at, excluded.due_at)"""
LOOK_NO_MORE: Final = """
DELETE FROM deadlines USING unnest($1::text[], $2::text[]) AS gone (subject, service)
WHERE key = subject AND name = 'look ' || service"""
LOOK_AGAIN: Final = """
INSERT INTO deadlines (key, name, due_at)
SELECT DISTINCT subject, 'look ' || service, now() FROM escalations WHERE status <> 'cleared'
UNION SELECT DISTINCT subject, 'look causes', now() FROM measured WHERE measure = 'cause_found'
UNION SELECT key, name, now() FROM deadlines WHERE name LIKE 'look %'
ON CONFLICT (key, name) DO UPDATE SET due_at = least(deadlines.due_at, excluded.due_at)"""
# Of two facts with one sequence the one with the smaller id counts, as in the fold.
FACT_IDS: Final = """
SELECT DISTINCT ON (subject, service, sequence) subject, service, sequence, id
FROM unnest($1::text[], $2::text[], $3::bigint[]) AS f (subject, service, sequence)
JOIN timeline USING (subject, service, sequence) ORDER BY subject, service, sequence, id"""
# With the policy in force, which says when what is not raised yet will be: nearly every batch asks for both.
WATCHED: Final = """
SELECT in_force.document::text, raised.subject, raised.service
FROM (SELECT document FROM support_policies WHERE policy_id = $3 AND effective_from <= now()
    ORDER BY effective_from DESC, version DESC LIMIT 1) AS in_force
LEFT JOIN (SELECT DISTINCT subject, service FROM escalations JOIN unnest($1::text[], $2::text[]) AS k (subject, service)
    USING (subject, service) WHERE status <> 'cleared') AS raised ON true"""
KEEP_ESCALATIONS: Final = """
INSERT INTO escalations (escalation_id, subject, service, customer, rule, item, since, due_at, level, episode, why, to_do,
    status, assignee, cleared_at)
SELECT t.*, CASE WHEN status = 'cleared' THEN now() END
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::timestamptz[],
    $8::timestamptz[], $9::int[], $10::int[], $11::text[], $12::text[], $13::text[], $14::text[])
    AS t (id, subject, service, customer, rule, item, since, due, level, episode, why, to_do, status, assignee)
ORDER BY status <> 'cleared', id
ON CONFLICT (escalation_id) DO UPDATE SET status = excluded.status, assignee = excluded.assignee,
    cleared_at = CASE WHEN excluded.status = 'cleared' THEN coalesce(escalations.cleared_at, now()) END"""
KEEP_CONTACTS: Final = """
INSERT INTO contacts (contact_id, subject, customer, channel, direction, topic, is_automated, duplicate_of, case_id,
    received_at)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bool[], $8::text[],
    $9::text[], $10::timestamptz[])"""
# By status, so that a case is closed before the one that goes on with it is opened.
KEEP_CASES: Final = """
INSERT INTO cases (case_id, subject, customer, status, topic, assignee, opened_at, first_response_due,
    next_response_due, resolve_due, closes_at, reopened, linked_to)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::timestamptz[],
    $8::timestamptz[], $9::timestamptz[], $10::timestamptz[], $11::timestamptz[], $12::int[], $13::text[])
    AS t (case_id, subject, customer, status, topic, assignee, opened_at, first, next, resolve, closes, reopened, linked)
ORDER BY status <> 'closed', case_id
ON CONFLICT (case_id) DO UPDATE SET status = excluded.status, assignee = excluded.assignee,
    first_response_due = excluded.first_response_due, next_response_due = excluded.next_response_due,
    resolve_due = excluded.resolve_due, closes_at = excluded.closes_at, reopened = excluded.reopened,
    linked_to = excluded.linked_to"""


@lru_cache(maxsize=64)
def _read(model: type[M], document: str) -> M:
    return model.model_validate_json(document)


async def in_force(db: Db) -> Policies:
    found = {id: (version, document) for id, version, document in await db.fetch(IN_FORCE)}
    (version, cases), (other, escalations), (third, causes) = found[CASES], found[ESCALATIONS], found[CAUSES]
    return Policies(
        cases=_read(CasePolicy, cases),
        cases_ref=PolicyRef(policy_id=CASES, version=version),
        escalations=_read(EscalationPolicy, escalations),
        escalations_ref=PolicyRef(policy_id=ESCALATIONS, version=other),
        causes=_read(CausePolicy, causes),
        causes_ref=PolicyRef(policy_id=CAUSES, version=third),
    )


async def around(db: Db, messages: Sequence[Message[Command]], states: Mapping[str, Support]) -> Around:
    """The policies; and for looks, what there is to be seen, with the next look at what is not due yet."""
    policies = await in_force(db)
    now: datetime = await db.fetchval("SELECT now()")
    looks = sorted({(t.key, t.command.service) for t in messages if isinstance(t.command, CheckEscalations)})
    orders = sorted({t.key for t in messages if isinstance(t.command, FindCauses)})
    if not looks and not orders:
        return Around(policies, now)
    # All of them by one statement, since it locks them in order.
    theirs = {look for look in looks if look[1] != HERE}
    theirs |= {(key, of) for key, service in theirs for of in READS.get(service, ())}
    others = sorted(theirs | {(key, of) for key in orders for of in SERVICES})
    seen: dict[Key, Any] = {}
    for row in await db.fetch(LOOKED_AT, *columns(others)):
        seen[row["subject"], row["service"]] = DOMAINS[row["service"]].state.validate_json(row["state"])
    if contradicted := [key for key, of in looks if of == STOCK]:
        await db.execute(LOCK_SHELVES, contradicted)
        seen |= {(key, STOCK): one for key, one in (await shelves(db, contradicted)).items()}
    causes = await _borne(db, seen, orders)
    seen |= {(key, HERE): states[key] for key, service in looks if service == HERE and key in states}
    policy = policies.escalations
    found = {look: obligations(look[1], _states_of(look, seen), policy) if look in seen else () for look in looks}
    later = []
    for look in looks:
        due = [at for one in found[look] if (at := due_at(one, policy)) is not None and at > now]
        if due:
            later.append((*look, min(due)))
    if later:
        await db.execute(LOOK_LATER, *zip(*later, strict=True))
    return Around(policies, now, found, causes)


async def shelves(db: Db, subjects: Sequence[str]) -> Shelves:
    """What the timeline has of these shelves; of those that were never contradicted or counted nothing."""
    rows = await db.fetch(OF_SHELVES, subjects, [kind.type for kind in READ])
    told: dict[str, list[tuple[Fact, datetime]]] = {}
    for row in rows:
        fact = FACTS[row["type"]].model_validate_json(row["data"])
        told.setdefault(row["subject"], []).append((fact, row["occurred_at"]))
    return {subject: shelf(facts) for subject, facts in told.items()}


def _states_of(look: Key, seen: Mapping[Key, Any]) -> States:
    """What is known of an order to who looks at one of its services."""
    key, service = look
    return {of: seen[key, of] for of in {service, *READS.get(service, ())} if (key, of) in seen}


async def _borne(
    db: Db, seen: Mapping[Key, Any], orders: Sequence[str]
) -> dict[str, dict[RootCauseTag, EvidencedCause]]:
    """The causes of these orders by the rules, with the ids of the facts that bear them out."""
    found = {key: causes_in({of: seen[key, of] for of in SERVICES if (key, of) in seen}) for key in orders}
    places = sorted(
        {(key, *place) for key, causes in found.items() for cause in causes.values() for place in cause.evidence}
    )
    ids: dict[tuple[str, str, int], str] = {}
    if places:
        for row in await db.fetch(FACT_IDS, *map(list, zip(*places, strict=True))):
            ids[row["subject"], row["service"], row["sequence"]] = str(row["id"])
    return {
        key: {
            tag: EvidencedCause(tuple(ids[(key, *place)] for place in cause.evidence), cause.since, cause.about)
            for tag, cause in causes.items()
        }
        for key, causes in found.items()
    }


HERE: Final = "support"
"""What is looked at is the aggregate itself, not a section of the view."""

WHY: Final = FIND_CAUSES.removeprefix("look ")
"""What is looked at are all sections of an order, for causes."""


async def schedule_checks(
    db: Db,
    before: Mapping[Key, Projection[Any]],
    after: Mapping[Key, Projection[Any]],
    contradicted: Iterable[str] = (),
) -> None:
    """Set when to look at sections whose obligations changed, at orders whose signs did, and at shelves that were
    `contradicted` or counted; nothing is raised or found here, so that nothing is while facts are only caught up with:
    timers look, once what was on the topics has been taken."""
    changed = [key for key, section in after.items() if before[key].state is not section.state]
    look: dict[Key, datetime | None] = dict.fromkeys(((subject, STOCK) for subject in contradicted), None)
    gone: list[Key] = []
    ended: list[Key] = []
    to_be_asked: dict[Key, bool] = {}
    for key in changed:
        if before[key].state.signs != after[key].state.signs:
            signs = set(before[key].state.signs) ^ set(after[key].state.signs)
            look[why := (key[0], WHY)] = None
            to_be_asked[why] = to_be_asked.get(why, True) and all(sign.kind in ASKED_ABOUT for sign in signs)
    if theirs := [key for key in changed if key[1] != HERE]:
        rows = await db.fetch(WATCHED, *columns(theirs), ESCALATIONS)
        policy = _read(EscalationPolicy, rows[0]["document"])
        raised = {(row["subject"], row["service"]) for row in rows}
        for key in theirs:
            was, now = (due_times(key[1], {key[1]: sections[key].state}, policy) for sections in (before, after))
            settled, settles = (answers(key[1], sections[key].state) for sections in (before, after))
            if settled != settles:
                lost, won = settled - settles, settles - settled
                look |= dict.fromkeys(((key[0], of) for of, _ in lost), None)
                ended += [(key[0], of) for of, _ in won if (key[0], of) not in look]
            if was == now:
                continue
            if key in raised:
                look[key] = None
            elif not now:
                gone.append(key)
            elif new := [due for place, due in now.items() if place not in was or due < was[place]]:
                look[key] = min(new)
    if look:
        await db.execute(LOOK, *columns([*look]), list(look.values()), [to_be_asked.get(key, False) for key in look])
    if ended:
        await db.execute(LOOK_IF_WAITED_FOR, *columns(sorted(set(ended))))
    if gone:
        await db.execute(LOOK_NO_MORE, *columns(sorted(gone)))


async def save_tables(db: Db, touched: Sequence[LockedAggregate[Support]], _: Around) -> None:
    """Contacts that are new, cases and escalations that changed."""
    contacts = [
        (id, h.key, c.customer, c.channel, c.direction, c.topic, c.is_automated, c.duplicate_of, c.case_id, c.at)
        for h in touched
        for id, c in h.state.contacts.items()
        if id not in h.before.contacts
    ]
    cases = [
        (
            id,
            h.key,
            c.customer,
            c.status,
            c.topic,
            c.assignee,
            c.opened_at,
            c.clocks.first_response_due,
            c.clocks.next_response_due,
            c.clocks.resolve_due,
            c.closes_at,
            c.reopened,
            c.linked_to,
        )
        for h in touched
        for id, c in h.state.cases.items()
        if h.before.cases.get(id) != c
    ]
    escalations = [
        (
            id,
            h.key,
            SERVICE[e.rule],
            e.customer,
            e.rule,
            e.item,
            e.since,
            e.due_at,
            e.level,
            e.episode,
            e.why,
            e.to_do,
            e.status,
            e.assignee,
        )
        for h in touched
        for id, e in h.state.escalations.items()
        if h.before.escalations.get(id) != e
    ]
    if escalations:
        await db.execute(KEEP_ESCALATIONS, *zip(*escalations, strict=True))
    if cases:
        await db.execute(KEEP_CASES, *zip(*cases, strict=True))
    if contacts:
        await db.execute(KEEP_CONTACTS, *zip(*contacts, strict=True))


ORDERS: Final[Flow[Support, Command, Around]] = Flow(
    service="support",
    state=STATE,
    initial=Support,
    decide=decide,
    evolve=evolve,
    load_context=around,
    save_tables=save_tables,
    deadlines=deadlines,
    invariants=invariants,
)
CUSTOMERS: Final = replace(ORDERS, prefix=CUSTOMER, cache=StateCache())
"""The same for what names no order."""
SHELVES: Final = replace(ORDERS, prefix=SHELF, cache=StateCache())
"""And for shelves, of which support has nothing but escalations."""
FLOWS: Final = (ORDERS, CUSTOMERS, SHELVES)


def flow_of(subject: str) -> Flow[Support, Command, Around]:
    return next((flow for flow in FLOWS if flow.prefix and subject.startswith(f"{flow.prefix}:")), ORDERS)


SUBJECT_OF_ESCALATION: Final = "SELECT subject FROM escalations WHERE escalation_id = $1"
QUEUE: Final = """
SELECT * FROM escalations
WHERE status <> 'cleared' AND (-level, raised_at, escalation_id) > ($1, $2, $3) AND ($4::text IS NULL OR assignee = $4)
ORDER BY -level, raised_at, escalation_id LIMIT $5"""
ESCALATION: Final = "SELECT * FROM escalations WHERE escalation_id = $1"
POLICIES: Final = """
SELECT policy_id, version, effective_from, document::text, published_by, reason FROM support_policies
ORDER BY policy_id, version"""
PUBLISH: Final = """
INSERT INTO support_policies (policy_id, version, effective_from, document, published_by, reason)
SELECT $1, max(version) + 1, now(), $2, $3, $4 FROM support_policies WHERE policy_id = $1 RETURNING version"""
SUBJECT_OF_CASE: Final = "SELECT subject FROM cases WHERE case_id = $1"
SUBJECT_OF_CONTACT: Final = "SELECT subject FROM contacts WHERE contact_id = $1"
CASE: Final = "SELECT * FROM cases WHERE case_id = $1"
CASES_PAGE: Final = """
SELECT * FROM cases WHERE (opened_at, case_id) > ($1, $2){conditions} ORDER BY opened_at, case_id LIMIT $3"""
SAID: Final = """
SELECT id, type, data, occurred_at, actor FROM events
WHERE subject = $1 AND data ->> 'case_id' = $2 ORDER BY sequence DESC LIMIT $3"""
WORK: Final = """
SELECT
    (SELECT json_agg(e) FROM (SELECT * FROM escalations WHERE subject = $1 AND status <> 'cleared'
        ORDER BY -level, raised_at, escalation_id LIMIT $3) AS e) AS escalations,
    (SELECT json_agg(c) FROM (SELECT * FROM cases WHERE subject = $1
        ORDER BY opened_at DESC, case_id DESC LIMIT $3) AS c) AS cases,
    (SELECT json_agg(s) FROM (SELECT id, type, data::text, data ->> 'case_id' AS case_id, occurred_at, actor FROM events
        WHERE subject = $1 AND type = ANY($2) ORDER BY sequence DESC LIMIT $3) AS s) AS said"""
# By an order with this address, as far as it was seen: so that a customer is the same by whatever way they come.
CUSTOMER_OF_EMAIL: Final = """
SELECT state -> 'placed' ->> 'customer_id'
FROM finds JOIN sections USING (subject) WHERE kind = 'email' AND value = $1 AND service = 'orders' LIMIT 1"""


async def subject_of(pool: Pool, which: str, id: str) -> str | None:
    """Of a case, a contact or an escalation. Raises an outage."""
    async with pool.acquire(timeout=5) as db:
        subject: str | None = await db.fetchval(which, id)
    return subject


async def customer_of(pool: Pool, email: str) -> str | None:
    """The id under which somebody with this address has placed orders. Raises an outage."""
    async with pool.acquire(timeout=5) as db:
        id: str | None = await db.fetchval(CUSTOMER_OF_EMAIL, email)
    return id


async def publish(db: Db, policy_id: str, document: str, actor: str, reason: str) -> int:
    """In force at once, in the caller's transaction; what is open or pending is looked at again by it. Its version."""
    version: int = await db.fetchval(PUBLISH, policy_id, document, actor, reason)
    await db.execute(LOOK_AGAIN)
    return version


async def queue(db: Db, after: tuple[int, datetime, str], assignee: str | None, limit: int) -> list[Row]:
    """Those that are open, highest level first, then oldest."""
    return await db.fetch(QUEUE, *after, assignee, limit)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which cases; all where nothing is said. `is_live`: those that are not resolved or closed."""

    status: str | None = None
    assignee: str | None = None
    subject: str | None = None
    is_unassigned: bool = False
    is_live: bool = False


async def cases(db: Db, after: tuple[datetime, str], wanted: Wanted, limit: int) -> list[Row]:
    """Oldest first."""
    conditions, values = "", [*after, limit]
    for column in ("status", "assignee", "subject"):
        if (value := getattr(wanted, column)) is not None:
            values.append(value)
            conditions += f" AND {column} = ${len(values)}"
    conditions += " AND assignee IS NULL" if wanted.is_unassigned else ""
    conditions += " AND status NOT IN ('resolved', 'closed')" if wanted.is_live else ""
    return await db.fetch(CASES_PAGE.format(conditions=conditions), *values)


async def work_on(db: Db, subject: str, types: Sequence[str], limit: int) -> tuple[list[Any], list[Any], list[Any]]:
    """What support has with an order, no more than `limit` of each: what is open in the queue, worst first; its cases, and
    facts of these types, newest first."""
    [found] = await db.fetch(WORK, subject, types, limit)
    escalations, cases, said = (json.loads(rows) if rows else [] for rows in found)
    return escalations, cases, said


async def case(db: Db, case_id: str) -> Row | None:
    return await db.fetchrow(CASE, case_id)


async def said(db: Db, subject: str, case_id: str, limit: int) -> list[Row]:
    """Facts of a case and its contacts, newest first."""
    return await db.fetch(SAID, subject, case_id, limit)
