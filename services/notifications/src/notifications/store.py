"""All SQL of notifications: the rows that are sent and retried, the policy of doing so, and reads for the API."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import asyncpg
from pydantic import TypeAdapter

from notifications.domain import AUDIENCE, Command, OrderNotifications, decide, evolve, laws
from shared.database import Pool
from shared.shell import Db, Flow, Held

STATE: Final = TypeAdapter(OrderNotifications)

QUEUE = """
INSERT INTO notifications (notification_id, order_id, dedupe_key, kind, audience, status, queued_at, next_attempt_at)
SELECT id, order_id, dedupe_key, kind, audience, status, queued_at, now() + (SELECT gather FROM sending_policy)
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::timestamptz[])
    AS t (id, order_id, dedupe_key, kind, audience, status, queued_at)"""

# Not an upsert: that would hold the row to be inserted against the laws, which lacks its words.
CHANGE = """
UPDATE notifications SET status = new.status FROM unnest($1::text[], $2::text[]) AS new (id, status)
WHERE notification_id = new.id"""

# A lease: whoever takes a message has it alone until the next attempt is due.
TAKE = """
UPDATE notifications SET attempts = attempts + 1, next_attempt_at = now() + $2::interval
WHERE notification_id IN (
    SELECT notification_id FROM notifications WHERE status = 'queued' AND next_attempt_at <= now()
    ORDER BY next_attempt_at LIMIT $1 FOR UPDATE SKIP LOCKED)
RETURNING notification_id, order_id, queued_at, attempts, recipient, recipient_name, title, body"""

STATES = "SELECT state FROM states WHERE key = ANY($1::text[])"

COMPOSE = """
UPDATE notifications SET recipient = new.recipient, recipient_name = new.name, title = new.title, body = new.body
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[]) AS new (id, recipient, name, title, body)
WHERE notification_id = new.id"""

POSTPONE = """
UPDATE notifications SET next_attempt_at = now() + new.pause, last_error = new.error
FROM unnest($1::text[], $2::interval[], $3::text[]) AS new (id, pause, error)
WHERE notification_id = new.id AND status = 'queued'"""

POLICY = "SELECT gather, first_pause, longest_pause, max_attempts, stale_after FROM sending_policy"

READ = "SELECT state FROM states WHERE key = $1 AND sequence > 0"
TEXTS = """
SELECT notification_id, title, body, attempts, last_error FROM notifications WHERE order_id = $1"""


async def keep(db: Db, touched: Sequence[Held[OrderNotifications]], _: object) -> None:
    """Notifications that are new, and those whose status changed."""
    new, changed = [], []
    for held in touched:
        for id, n in held.state.notifications.items():
            before = held.before.notifications.get(id)
            if before is None:
                new.append((id, held.key, n.dedupe_key, n.kind, AUDIENCE, n.status, n.queued_at))
            elif before.status is not n.status:
                changed.append((id, n.status))
    if new:
        await db.execute(QUEUE, *zip(*new, strict=True))
    if changed:
        await db.execute(CHANGE, *zip(*changed, strict=True))


NOTIFICATIONS: Final[Flow[OrderNotifications, Command, Any]] = Flow(
    service="notifications",
    state=STATE,
    initial=OrderNotifications,
    decide=decide,
    evolve=evolve,
    keep=keep,
    laws=laws,
)


@dataclass(frozen=True, slots=True)
class SendingPolicy:
    """`gather`: how long a message waits for what belongs in it; `stale_after`: what is older is told to nobody."""

    gather: timedelta
    first_pause: timedelta
    longest_pause: timedelta
    max_attempts: int
    stale_after: timedelta

    def pause_after(self, attempts: int) -> timedelta:
        """Doubled with every attempt, up to the longest."""
        return min(self.longest_pause, self.first_pause * (1 << min(attempts - 1, 30)))


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


async def policy(db: Db) -> SendingPolicy:
    row = await db.fetchrow(POLICY)
    assert row is not None
    return SendingPolicy(*row)


async def take(db: Db, limit: int, lease: timedelta) -> list[Due]:
    return [Due(*row) for row in await db.fetch(TAKE, limit, lease)]


async def states(db: Db, order_ids: Sequence[str]) -> Mapping[str, OrderNotifications]:
    found = [STATE.validate_json(row["state"]) for row in await db.fetch(STATES, order_ids)]
    return {state.order_id: state for state in found}


async def find(pool: Pool, order_id: str) -> tuple[OrderNotifications, Mapping[str, asyncpg.Record]] | None:
    """The notifications of an order and their words by id, or None where nothing was heard of the order."""
    async with pool.acquire(timeout=5) as db:
        document = await db.fetchval(READ, order_id)
        if document is None:
            return None
        texts = {row["notification_id"]: row for row in await db.fetch(TEXTS, order_id)}
    return STATE.validate_json(document), texts
