"""Sending on a real PostgreSQL and a real SMTP server: once per message, retried with the same words, given up aloud."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import datetime, timedelta, timezone
from email.message import Message
from email.parser import BytesParser
from email.policy import default
from uuid import uuid4

import asyncpg
import httpx
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session
from fastapi import FastAPI

from notifications.api import router
from notifications.domain import Command, Note
from notifications.gateway import message_id
from notifications.sender import send_due
from notifications.settings import NotificationsSettings
from notifications.store import NOTIFICATIONS
from shared.auth import Tokens, issue
from shared.contracts.base import FACTS, Fact
from shared.database import Pool
from shared.envelope import Cause
from shared.http import Desk, install_problems
from shared.shell import Told
from tests.backends import Backends
from tests.databases import AUTH_KEY
from tests.unit.test_notifications import captured, placed, shipped

NewDatabase = Callable[[str], Awaitable[str]]


class Mailbox:
    """A mail server that answers as told, and keeps what it took."""

    def __init__(self) -> None:
        self.answer = "250 OK"
        self.took: list[Message] = []

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        if self.answer.startswith("250"):
            assert isinstance(envelope.content, bytes)
            self.took.append(BytesParser(policy=default).parsebytes(envelope.content))
        return self.answer


@pytest.fixture
async def pool(new_database: NewDatabase) -> AsyncIterator[Pool]:
    async with asyncpg.create_pool(await new_database("notifications"), min_size=0, max_size=20) as pool:
        await pool.execute("""
            INSERT INTO sending_policies
            VALUES ('sending', 2, '2000-01-02', '0 seconds', '1 hour', '1 hour', 2, '365 days')""")
        yield pool


@pytest.fixture
def mailbox() -> Mailbox:
    return Mailbox()


@pytest.fixture
def settings(mailbox: Mailbox, backends: Backends, unused_tcp_port: int) -> Iterator[NotificationsSettings]:
    controller = Controller(mailbox, hostname="127.0.0.1", port=unused_tcp_port)
    controller.start()
    yield NotificationsSettings.model_validate(
        {
            "database_url": "postgresql://unused",
            "kafka": backends.kafka,
            "auth_key": AUTH_KEY,
            "smtp_url": f"smtp://127.0.0.1:{unused_tcp_port}",
        }
    )
    controller.stop()


async def hear(pool: Pool, *facts: Fact) -> None:
    now = datetime.now(timezone.utc)
    told: list[Told[Command]] = [
        Told(
            "o1",
            Note(fact, str(uuid4()), n, now),
            Cause(id=uuid4(), at=now, actor="service:test", reason="test", correlation_id="test"),
        )
        for n, fact in enumerate(facts, start=1)
    ]
    assert await Desk(pool, lambda: None).take(NOTIFICATIONS, told) == [None] * len(facts)


async def send_all(pool: Pool, settings: NotificationsSettings) -> int:
    return await send_due(pool, Desk(pool, lambda: None), settings)


async def status(pool: Pool) -> str:
    return str(await pool.fetchval("SELECT status FROM notifications WHERE notification_id = 'o1-N1'"))


async def test_a_shipment_is_mailed_once_however_many_senders_there_are(
    pool: Pool, settings: NotificationsSettings, mailbox: Mailbox
) -> None:
    await hear(pool, placed(), shipped(1, 2, ("1", 2)), captured(2000, "o1-S1"))
    assert sum(await asyncio.gather(*(send_all(pool, settings) for _ in range(10)))) == 1
    [mail] = mailbox.took
    assert (mail["To"], mail["Message-ID"]) == ("Ada <ada@example.org>", message_id("o1-N1"))
    assert "For this parcel we charged €20.00" in mail.get_payload(decode=True).decode()  # type: ignore[union-attr]
    assert await status(pool) == "sent"
    assert await send_all(pool, settings) == 0


async def test_a_message_the_server_puts_off_is_tried_again_with_the_same_words_and_then_given_up(
    pool: Pool, settings: NotificationsSettings, mailbox: Mailbox
) -> None:
    await hear(pool, placed(), shipped(1, 2, ("1", 2)))
    mailbox.answer = "451 try later"
    assert await send_all(pool, settings) == 1
    assert await send_all(pool, settings) == 0
    before = await pool.fetchrow("SELECT status, attempts, last_error, body, next_attempt_at FROM notifications")
    assert before is not None
    assert (before["status"], before["attempts"], before["last_error"]) == ("queued", 1, "451 try later")
    assert before["next_attempt_at"] > datetime.now(timezone.utc) + timedelta(minutes=50)
    await hear(pool, captured(2000, "o1-S1"))
    await pool.execute("UPDATE notifications SET next_attempt_at = now()")
    assert await send_all(pool, settings) == 1
    assert await status(pool) == "failed"
    assert await pool.fetchval("SELECT body FROM notifications") == before["body"]
    detail = await pool.fetchval("SELECT data->>'detail' FROM events WHERE type = 'notification.failed'")
    assert detail == "given up after 2 attempts: 451 try later"


async def test_a_message_the_server_refuses_has_failed_for_good(
    pool: Pool, settings: NotificationsSettings, mailbox: Mailbox
) -> None:
    await hear(pool, placed(), shipped(1, 2, ("1", 2)))
    mailbox.answer = "550 no such user"
    await send_all(pool, settings)
    assert await status(pool) == "failed"


async def test_a_sender_that_died_after_the_call_is_followed_by_one_with_the_same_message_id(
    pool: Pool, settings: NotificationsSettings, mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    await hear(pool, placed(), shipped(1, 2, ("1", 2)))

    async def dies(*_: object) -> list[None]:
        raise ConnectionError("killed")

    with monkeypatch.context() as killed:
        killed.setattr(Desk, "take", dies)
        with pytest.raises(ConnectionError):
            await send_all(pool, settings)
    assert await send_all(pool, settings) == 0, "the lease still runs"
    await pool.execute("UPDATE notifications SET next_attempt_at = now()")
    assert await send_all(pool, settings) == 1
    assert len({mail["Message-ID"] for mail in mailbox.took}) == 1
    assert len({mail.as_string() for mail in mailbox.took}) == 1
    assert await pool.fetchval("SELECT count(*) FROM events WHERE type = 'notification.sent'") == 1


async def test_a_message_whose_attempts_are_never_recorded_is_not_sent_for_ever(
    pool: Pool, settings: NotificationsSettings, mailbox: Mailbox
) -> None:
    await hear(pool, placed(), shipped(1, 2, ("1", 2)))
    await pool.execute("UPDATE notifications SET attempts = 2")
    await send_all(pool, settings)
    assert await status(pool) == "failed"
    assert mailbox.took == []


async def test_a_server_that_is_away_postpones_and_what_is_too_old_is_not_sent(
    pool: Pool, settings: NotificationsSettings, mailbox: Mailbox
) -> None:
    away = settings.model_copy(update={"smtp_url": "smtp://127.0.0.1:1"})
    await hear(pool, placed(), shipped(1, 2, ("1", 2)))
    assert await send_all(pool, away) == 1
    assert await status(pool) == "queued"
    await pool.execute("UPDATE notifications SET next_attempt_at = now(), queued_at = now() - interval '366 days'")
    await send_all(pool, settings)
    assert await status(pool) == "suppressed"
    assert mailbox.took == []


async def test_one_fact_is_told_once_even_against_the_database(pool: Pool, settings: NotificationsSettings) -> None:
    await hear(pool, placed(), shipped(1, 2, ("1", 2)))
    with pytest.raises(asyncpg.UniqueViolationError, match="told_once"):
        await pool.execute("""
            INSERT INTO notifications (notification_id, order_id, dedupe_key, kind, audience, status, queued_at,
                next_attempt_at)
            SELECT 'o1-N9', order_id, dedupe_key, kind, audience, status, queued_at, now() FROM notifications""")
    with pytest.raises(asyncpg.CheckViolationError, match="composed_before_sent"):
        await pool.execute("UPDATE notifications SET status = 'sent'")


async def test_what_was_told_is_read_with_its_statements_and_equals_the_fold(
    pool: Pool, settings: NotificationsSettings
) -> None:
    await hear(pool, placed(), shipped(1, 2, ("1", 2)))
    await send_all(pool, settings)
    app = FastAPI()
    install_problems(app)
    app.include_router(router)
    app.state.pool, app.state.settings, app.state.tokens = pool, settings, Tokens(AUTH_KEY)
    token = issue(AUTH_KEY, subject="anna", roles=["agent"])
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://notifications") as client:
        assert (await client.get("/orders/o1/notifications")).status_code == 401
        client.headers["Authorization"] = f"Bearer {token}"
        assert (await client.get("/orders/o9/notifications")).status_code == 404
        [told] = (await client.get("/orders/o1/notifications")).json()["notifications"]
    assert (told["status"], told["attempts"], told["kind"]) == ("sent", 1, "shipment")
    assert told["text"].startswith("Hello Ada,")
    assert [s["claim"] for s in told["statements"]] == ["shipped", "remaining", "remaining"]
    rows = await pool.fetch("SELECT type, data FROM events WHERE subject = 'o1' ORDER BY sequence")
    fold = NOTIFICATIONS.fold("o1", [FACTS[row["type"]].model_validate_json(row["data"]) for row in rows])
    assert fold == NOTIFICATIONS.state.validate_json(await pool.fetchval("SELECT state FROM states"))
