"""All SQL of notifications: the rows that are sent and retried, the policy of doing so, and reads for the API."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import asyncpg
from pydantic import TypeAdapter

from notifications.domain.decide import Command, Outbox, decide, evolve_context
from notifications.domain.policy import SendingPolicy
from notifications.domain.state import AUDIENCE, Notification, OrderNotifications, Status, evolve, invariants
from shared.contracts.notifications import NotificationCoalesced, NotificationKind
from shared.messaging.database import Pool
from shared.messaging.shell import Db, Flow, LockedAggregate, Message, StateCache
from shared.web.metrics import Gauge

STATE: Final = TypeAdapter(OrderNotifications)

# A message that another is told in keeps the time at which that one was due.
QUEUE = """
INSERT INTO notifications (notification_id, order_id, dedupe_key, kind, audience, status, queued_at, next_attempt_at,
    stated, stated_units, untrue, untrue_units, traceparent)
SELECT id, order_id, dedupe_key, kind, audience, status, queued_at,
    LEAST(now() + pause, (SELECT next_attempt_at FROM notifications WHERE notification_id = instead_of)),
    stated, stated_units, untrue, untrue_units, traceparent
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::timestamptz[], $8::interval[],
    $9::text[], $10::int[], $11::int[], $12::int[], $13::int[], $14::text[])
    AS t (id, order_id, dedupe_key, kind, audience, status, queued_at, pause, instead_of, stated, stated_units, untrue,
        untrue_units, traceparent)"""

# Not an upsert: that would hold the row to be inserted against the laws, which lacks its words.
CHANGE = """
UPDATE notifications SET status = new.status, stated = new.stated, stated_units = new.stated_units,
    untrue = new.untrue, untrue_units = new.untrue_units, held_back = new.held_back
FROM unnest($1::text[], $2::text[], $3::text[], $4::int[], $5::int[], $6::int[], $7::int[])
    AS new (id, status, held_back, stated, stated_units, untrue, untrue_units)
WHERE notification_id = new.id"""

# Locked, so that no sender takes one of them before what is decided here stands. A sender whose lease is over has died at it.
IDLE = """
SELECT notification_id, attempts FROM notifications
WHERE order_id = ANY($1::text[]) AND status = 'queued' AND (NOT is_taken OR next_attempt_at <= now())
ORDER BY notification_id FOR UPDATE"""

# A lease: whoever takes a message has it alone until the next attempt is due.
LEASE = """
UPDATE notifications SET attempts = attempts + 1, next_attempt_at = now() + $2::interval, is_taken = true
WHERE notification_id IN (
    SELECT notification_id FROM notifications WHERE status = 'queued' AND next_attempt_at <= now()
    ORDER BY next_attempt_at LIMIT $1 FOR UPDATE SKIP LOCKED)
RETURNING notification_id, order_id, queued_at, attempts, recipient, recipient_name, title, body, html, traceparent,
    held_back"""

COMPOSE = """
UPDATE notifications SET recipient = new.recipient, recipient_name = new.name, title = new.title, body = new.body,
    html = new.html, message_id = new.message_id
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[])
    AS new (id, recipient, name, title, body, html, message_id)
WHERE notification_id = new.id"""

# By whoever made that attempt: its lease may be over, and another at the message since.
POSTPONE = """
UPDATE notifications SET next_attempt_at = CASE WHEN held_back IS NULL THEN now() + new.pause ELSE now() END,
    last_error = new.error, is_taken = false
FROM unnest($1::text[], $2::int[], $3::interval[], $4::text[]) AS new (id, attempts, pause, error)
WHERE notification_id = new.id AND notifications.attempts = new.attempts AND status = 'queued'"""

# Taken and not tried, so that what it tells may still change.
GIVE_BACK = """
UPDATE notifications SET attempts = notifications.attempts - 1, next_attempt_at = now(), is_taken = false
FROM unnest($1::text[], $2::int[]) AS untried (id, attempts)
WHERE notification_id = untried.id AND notifications.attempts = untried.attempts AND status = 'queued'"""

_POLICY = """
SELECT policy_id, version, effective_from, gather, first_pause, longest_pause, max_attempts, stale_after, windows FROM """
POLICY = _POLICY + "sending_policy"
POLICIES = _POLICY + "sending_policies ORDER BY version"

GAUGES: Final = (
    Gauge(
        "oms_mails_deferred",
        "messages that the mail server did not take yet, to be tried again",
        "SELECT count(*) FROM notifications WHERE status = 'queued' AND last_error IS NOT NULL",
    ),
    Gauge(
        "oms_mails_late_seconds",
        "for how long the message that waits longest has been due, and no sender has taken it",
        """SELECT coalesce(extract(epoch FROM now() - min(next_attempt_at)), 0) FROM notifications
        WHERE status = 'queued' AND next_attempt_at <= now()""",
    ),
    Gauge(
        "oms_mails_not_delivered",
        "messages of the last seven days that were given up or came back: the customer has not read them",
        """SELECT count(*) FROM notifications
        WHERE status IN ('failed', 'bounced') AND queued_at > now() - interval '7 days'""",
    ),
)

READ = "SELECT state FROM states WHERE key = $1 AND sequence > 0"
TEXTS = """
SELECT notification_id, title, body, html, attempts, last_error FROM notifications WHERE order_id = $1"""
OF_MESSAGE = "SELECT order_id, notification_id, title FROM notifications WHERE message_id = $1"


async def outbox(db: Db, messages: Sequence[Message[Command]], states: Mapping[str, OrderNotifications]) -> Outbox:
    """The policy, and which messages of these orders may still be changed: none is asked for where none is queued."""
    queued = [
        key for key, state in states.items() if any(n.status is Status.QUEUED for n in state.notifications.values())
    ]
    rows = await db.fetch(IDLE, queued) if queued else []
    return Outbox(
        policy=await policy(db),
        unread=frozenset(id for id, attempts in rows if not attempts),
        idle=frozenset(id for id, attempts in rows if attempts),
    )


async def save_tables(db: Db, touched: Sequence[LockedAggregate[OrderNotifications]], outbox: Outbox) -> None:
    """Notifications that are new, and those that changed."""
    new, changed = [], []
    for held in touched:
        instead_of: dict[str, str] = {}
        for fact in held.facts:
            if isinstance(fact, NotificationCoalesced):
                instead_of[fact.into_id] = instead_of.get(fact.notification_id, fact.notification_id)
        for id, n in held.state.notifications.items():
            before = held.before.notifications.get(id)
            counted = _counted(n)
            if before is None:
                trace = held.cause_of("notification_id", id).traceparent
                pause = outbox.policy.window(n.kind)
                about = (id, held.key, n.dedupe_key, n.kind, AUDIENCE, n.status, n.queued_at)
                new.append((*about, pause, instead_of.get(id), *counted, trace))
            elif (before.status, before.held_back) != (n.status, n.held_back) or _counted(before) != counted:
                changed.append((id, n.status, n.held_back, *counted))
    if changed:
        await db.execute(CHANGE, *zip(*changed, strict=True))
    if new:
        await db.execute(QUEUE, *zip(*new, strict=True))


def _counted(n: Notification) -> tuple[int, int, int, int]:
    """Statements and their units, in all and untrue."""
    untrue = [n.statements[place] for place in n.contradicted]
    return len(n.statements), sum(s.quantity for s in n.statements), len(untrue), sum(s.quantity for s in untrue)


NOTIFICATIONS: Final[Flow[OrderNotifications, Command, Outbox]] = Flow(
    service="notifications",
    state=STATE,
    initial=OrderNotifications,
    decide=decide,
    evolve=evolve,
    load_context=outbox,
    evolve_context=evolve_context,
    save_tables=save_tables,
    invariants=invariants,
    cache=StateCache(most=512),  # 37 kB each: it knows all that was said to a customer
)


@dataclass(frozen=True, slots=True)
class Due:
    """A message whose turn it is. Its words are None until they were composed; from then on they stay."""

    notification_id: str
    order_id: str
    queued_at: datetime
    attempts: int
    recipient: str | None
    recipient_name: str | None
    title: str | None
    body: str | None
    html: str | None
    traceparent: str | None
    held_back: str | None
    """Why a person wants it not to be tried again."""


async def policy(db: Db) -> SendingPolicy:
    row = await db.fetchrow(POLICY)
    assert row is not None
    return _policy(row)


async def policies(pool: Pool) -> list[SendingPolicy]:
    async with pool.acquire(timeout=5) as db:
        return [_policy(row) for row in await db.fetch(POLICIES)]


def _policy(row: asyncpg.Record) -> SendingPolicy:
    windows = {NotificationKind(kind): timedelta(seconds=s) for kind, s in json.loads(row["windows"]).items()}
    return SendingPolicy(**{**row, "windows": windows})


async def lease_due(db: Db, limit: int, lease: timedelta) -> list[Due]:
    return [Due(*row) for row in await db.fetch(LEASE, limit, lease)]


async def find(pool: Pool, order_id: str) -> tuple[OrderNotifications, Mapping[str, asyncpg.Record]] | None:
    """The notifications of an order and their words by id, or None where nothing was heard of the order."""
    async with pool.acquire(timeout=5) as db:
        document = await db.fetchval(READ, order_id)
        if document is None:
            return None
        texts: dict[str, Any] = {row["notification_id"]: row for row in await db.fetch(TEXTS, order_id)}
    return STATE.validate_json(document), texts


async def of_message(pool: Pool, message_id: str) -> tuple[str, str, str] | None:
    """The order and the notification that a mail was sent for, and its title. Stored before its first attempt begins."""
    async with pool.acquire(timeout=5) as db:
        row = await db.fetchrow(OF_MESSAGE, message_id)
    return None if row is None else (row["order_id"], row["notification_id"], row["title"])
