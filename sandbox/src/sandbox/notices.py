"""Signed webhooks to the system: queued with the books that cause them, sent until answered 2xx or refused time and again."""

import asyncio
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Never
from urllib.parse import quote

import httpx
import structlog
from pydantic import Json
from standardwebhooks import Webhook

from sandbox.faults import Notices
from sandbox.ledger import Ledger
from shared.contracts.base import Model

log = structlog.get_logger()

SCHEMA = """
create table if not exists notices (
    seq integer primary key,
    id text not null unique,
    receiver text not null,
    subject text not null,       -- what it is about: an authorization, a parcel
    body text not null,
    manner text not null,
    due_at real not null,        -- seconds since the epoch
    after_seq integer references notices (seq),  -- the one that overtakes it
    copies integer not null,     -- sends that are still to be answered 2xx
    attempts integer not null default 0,
    problem text,                -- why the last attempt failed
    delivered_at text            -- when the last copy was
) strict;
create table if not exists refusals (
    seq integer primary key references notices (seq),
    times integer not null       -- answered 4xx, this often
) strict;
create index if not exists notices_queued on notices (receiver, subject, seq) where copies > 0;
"""

INSERT = """
insert into notices (id, receiver, subject, body, manner, due_at, copies) values (?, ?, ?, ?, ?, ?, ?)
on conflict (id) do update set copies = copies + excluded.copies, due_at = excluded.due_at
returning seq
"""
WAITING_TO_BE_OVERTAKEN = """
select seq from notices where receiver = ? and subject = ? and manner = 'reordered' and after_seq is null and copies > 0
"""
OVERTAKE = "update notices set due_at = ?, after_seq = ? where seq = ?"
# A subject's notices go in their order, past those that are late on purpose or were refused time and again.
NEXT = """
select n.seq, n.id, n.body, n.due_at, n.attempts from notices n
where n.copies > 0 and n.receiver = ?
    and not exists (select 1 from notices a where a.seq = n.after_seq and a.copies > 0)
    and not exists (
        select 1 from notices e
        where e.receiver = n.receiver and e.subject = n.subject and e.seq < n.seq and e.copies > 0
            and e.manner in ('prompt', 'duplicate') and e.attempts < 5)
order by n.due_at, n.seq limit 16
"""
DELIVERED = """
update notices set copies = copies - 1, attempts = attempts + 1, problem = null, delivered_at = ? where seq = ?
"""
FAILED = "update notices set attempts = attempts + 1, problem = ?, due_at = ? where seq = ?"
REFUSED = """
insert into refusals (seq, times) values (?, 1) on conflict (seq) do update set times = times + 1 returning times
"""
FORGET_REFUSALS = "delete from refusals where seq = ?"
GIVE_UP = "update notices set copies = 0, attempts = attempts + 1, problem = ? where seq = ?"
RELEASE = """
update notices set manner = 'prompt', due_at = ?, after_seq = null where copies > 0 and receiver = ? and subject = ?
"""
ABOUT = "select * from notices where receiver = ? and subject = ? order by seq"

LONGEST_PAUSE = 15.0
PATIENCE = 5.0
"""Seconds: between two attempts at most, and for one answer."""
MOST_REFUSALS = 30
"""Answers of 4xx after which a notice is given up; with the pauses between them about six minutes."""
NOT_A_REFUSAL = frozenset({408, 425, 429})
"""They say that it may be taken later, as any answer of 5xx does."""


class Receiver(StrEnum):
    PAYMENTS = "payments"
    FULFILLMENT = "fulfillment"
    RETURNS = "returns"
    NOTIFICATIONS = "notifications"


class Notice(Model):
    """A notice and how its delivery stands: `copies` are still to be answered 2xx, `problem` is the last one. With no copy left
    and never delivered, it was given up."""

    id: str
    body: Json[dict[str, Any]]
    copies: int
    attempts: int
    problem: str | None
    delivered_at: datetime | None


@dataclass(frozen=True, slots=True)
class Endpoint:
    url: str
    webhook: Webhook


def enqueue(
    db: sqlite3.Connection,
    receiver: Receiver,
    subject: str,
    notice_id: str,
    body: str,
    *,
    manner: Notices = Notices.PROMPT,
    late_seconds: float = 0,
    copies: int = 1,
) -> None:
    """Queue a notice in the transaction of the books it tells of; one that is queued again is sent again.

    Its id travels in a header, which takes no other letters than ASCII: those are percent-encoded.
    """
    notice_id = quote(notice_id, safe="@:/+,;=~")
    now = time.time()
    overtaken = None
    if manner is Notices.REORDERED:
        overtaken = db.execute(WAITING_TO_BE_OVERTAKEN, (receiver, subject)).fetchone()
        manner = Notices.PROMPT if overtaken else manner
    due_at = now + late_seconds if manner in (Notices.LATE, Notices.REORDERED) else now
    row = (notice_id, receiver, subject, body, manner, due_at, 2 if manner is Notices.DUPLICATE else copies)
    (seq,) = db.execute(INSERT, row).fetchone()
    db.execute(FORGET_REFUSALS, (seq,))
    if overtaken:
        db.execute(OVERTAKE, (now, seq, overtaken["seq"]))


def release(db: sqlite3.Connection, receiver: Receiver, subject: str) -> int:
    """Make everything still queued about the subject due now, in order; returns how many notices that are."""
    return db.execute(RELEASE, (time.time(), receiver, subject)).rowcount


def notices_about(db: sqlite3.Connection, receiver: Receiver, subject: str) -> list[Notice]:
    return [Notice.model_validate(dict(row)) for row in db.execute(ABOUT, (receiver, subject))]


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a notice was not taken. `is_refusal`: whoever receives it says that it never will be."""

    text: str
    is_refusal: bool


class Courier:
    """Sends one receiver what is due, after a growing pause again while it is not answered 2xx. An outage is waited out, however
    long; what is refused time and again is given up."""

    def __init__(self, ledger: Ledger, client: httpx.AsyncClient, receiver: Receiver, endpoint: Endpoint) -> None:
        self._ledger = ledger
        self._client = client
        self._receiver = receiver
        self._endpoint = endpoint

    async def run(self) -> Never:
        await self._ledger.keep_up(self.deliver)

    async def deliver(self) -> float | None:
        """Send what is due now; returns the seconds until something else is, None when nothing is queued."""
        rows = await self._ledger.run(lambda db: db.execute(NEXT, (self._receiver,)).fetchall())
        due = [row for row in rows if row["due_at"] <= time.time()]
        if not due:
            return float(rows[0]["due_at"] - time.time()) if rows else None
        problems = await asyncio.gather(*(self._send(row) for row in due))
        given_up = await self._ledger.run(lambda db: self._record(db, due, problems))
        for id, problem in given_up:
            log.error("notice.given_up", notice=id, receiver=self._receiver, problem=problem)
        return 0

    async def _send(self, row: sqlite3.Row) -> Problem | None:
        """Why it was not delivered; whatever breaks on one notice is kept with it, and the others go on."""
        problem: Problem | None = None
        try:
            sent_at = datetime.now(UTC)
            headers = {
                "content-type": "application/json",
                "webhook-id": row["id"],
                "webhook-timestamp": str(int(sent_at.timestamp())),
                "webhook-signature": self._endpoint.webhook.sign(row["id"], sent_at, row["body"]),
            }
            response = await self._client.post(
                self._endpoint.url, content=row["body"], headers=headers, timeout=PATIENCE
            )
        except Exception as error:  # noqa: BLE001 -- recorded as the problem of this notice
            problem = Problem(repr(error), is_refusal=False)
        else:
            if not response.is_success:
                is_refusal = response.is_client_error and response.status_code not in NOT_A_REFUSAL
                problem = Problem(f"answered {response.status_code}", is_refusal=is_refusal)
        if problem is None:
            log.info("notice.delivered", notice=row["id"], receiver=self._receiver)
        else:
            log.warning("notice.delivery_failed", notice=row["id"], attempt=row["attempts"] + 1, problem=problem.text)
        return problem

    def _record(
        self, db: sqlite3.Connection, rows: Sequence[sqlite3.Row], problems: Sequence[Problem | None]
    ) -> list[tuple[str, str]]:
        """Returns what is given up, by id, and why."""
        given_up = []
        for row, problem in zip(rows, problems, strict=True):
            if problem is None:
                db.execute(DELIVERED, (datetime.now(UTC).isoformat(), row["seq"]))
            elif problem.is_refusal and (times := db.execute(REFUSED, (row["seq"],)).fetchone()[0]) >= MOST_REFUSALS:
                why = f"given up: {problem.text}, refused {times} times"
                db.execute(GIVE_UP, (why, row["seq"]))
                given_up.append((row["id"], why))
            else:
                pause = min(0.2 * 2 ** min(row["attempts"], 10), LONGEST_PAUSE)
                db.execute(FAILED, (problem.text, time.time() + pause, row["seq"]))
        return given_up
