"""All SQL of support's own aggregate: contacts and cases of an order, or of a customer who named none."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import lru_cache
from typing import Final

from asyncpg import Record as Row
from pydantic import TypeAdapter

from shared.contracts.base import PolicyRef
from shared.contracts.support import CUSTOMER
from shared.database import Pool
from shared.shell import Db, Flow, Held, Remembered, Told
from support_view.domain.cases import Support, deadlines, evolve, laws
from support_view.domain.casework import Command, decide
from support_view.domain.policies import CASES, CasePolicy, Cases

STATE: Final = TypeAdapter(Support)

IN_FORCE: Final = """
SELECT version, document FROM support_policies WHERE policy_id = $1 AND effective_from <= now()
ORDER BY effective_from DESC, version DESC LIMIT 1"""
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


@lru_cache(maxsize=16)
def _read(document: str) -> CasePolicy:
    return CasePolicy.model_validate_json(document)


async def in_force(db: Db, told: Sequence[Told[Command]], states: Mapping[str, Support]) -> Cases:
    row = await db.fetchrow(IN_FORCE, CASES)
    assert row is not None
    return Cases(_read(row["document"]), PolicyRef(policy_id=CASES, version=row["version"]))


async def keep(db: Db, touched: Sequence[Held[Support]], _: Cases) -> None:
    """Contacts that are new, and cases that changed."""
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
    if cases:
        await db.execute(KEEP_CASES, *zip(*cases, strict=True))
    if contacts:
        await db.execute(KEEP_CONTACTS, *zip(*contacts, strict=True))


ORDERS: Final[Flow[Support, Command, Cases]] = Flow(
    service="support",
    state=STATE,
    initial=Support,
    decide=decide,
    evolve=evolve,
    surroundings=in_force,
    keep=keep,
    deadlines=deadlines,
    laws=laws,
)
CUSTOMERS: Final = replace(ORDERS, prefix=CUSTOMER, remembered=Remembered())
"""The same for what names no order."""
FLOWS: Final = (ORDERS, CUSTOMERS)


def flow_of(subject: str) -> Flow[Support, Command, Cases]:
    return CUSTOMERS if subject.startswith(f"{CUSTOMER}:") else ORDERS


SUBJECT_OF_CASE: Final = "SELECT subject FROM cases WHERE case_id = $1"
SUBJECT_OF_CONTACT: Final = "SELECT subject FROM contacts WHERE contact_id = $1"
CASE: Final = "SELECT * FROM cases WHERE case_id = $1"
CASES_PAGE: Final = """
SELECT * FROM cases
WHERE (opened_at, case_id) > ($1, $2) AND ($3::text IS NULL OR status = $3) AND ($4::text IS NULL OR assignee = $4)
    AND ($5::text IS NULL OR subject = $5)
ORDER BY opened_at, case_id LIMIT $6"""
SAID: Final = """
SELECT id, type, data, occurred_at, actor FROM events
WHERE subject = $1 AND data ->> 'case_id' = $2 ORDER BY sequence DESC LIMIT $3"""
# By an order with this address, as far as it was seen: so that a customer is the same by whatever way they come.
CUSTOMER_OF_EMAIL: Final = """
SELECT state -> 'placed' ->> 'customer_id'
FROM finds JOIN sections USING (subject) WHERE kind = 'email' AND value = $1 AND service = 'orders' LIMIT 1"""


async def subject_of(pool: Pool, which: str, id: str) -> str | None:
    """Of a case or a contact. Raises an outage."""
    async with pool.acquire(timeout=5) as db:
        subject: str | None = await db.fetchval(which, id)
    return subject


async def customer_of(pool: Pool, email: str) -> str | None:
    """The id under which somebody with this address has placed orders. Raises an outage."""
    async with pool.acquire(timeout=5) as db:
        id: str | None = await db.fetchval(CUSTOMER_OF_EMAIL, email)
    return id


async def cases(
    db: Db, after: tuple[datetime, str], status: str | None, assignee: str | None, subject: str | None, limit: int
) -> list[Row]:
    """Oldest first."""
    return await db.fetch(CASES_PAGE, *after, status, assignee, subject, limit)


async def case(db: Db, case_id: str) -> Row | None:
    return await db.fetchrow(CASE, case_id)


async def said(db: Db, subject: str, case_id: str, limit: int) -> list[Row]:
    """Facts of a case and its contacts, newest first."""
    return await db.fetch(SAID, subject, case_id, limit)
