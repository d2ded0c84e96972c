"""Sending on a real PostgreSQL and a real SMTP server: once per message, retried with the same words, given up aloud."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from email.message import EmailMessage
from email.message import Message as ReceivedMail
from email.parser import BytesParser
from email.policy import default
from uuid import uuid4

import asyncpg
import httpx
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session
from fastapi import FastAPI
from standardwebhooks import Webhook

from notifications.api import router
from notifications.domain.decide import Command, RecordFact
from notifications.domain.state import Notification, OrderNotifications
from notifications.gateway import CONNECTIONS, MailServer, Outgoing, RefusedForGood, message, message_id
from notifications.mails import Mail, composed
from notifications.sender import send_due
from notifications.settings import NotificationsSettings
from notifications.store import GAUGES, NOTIFICATIONS
from shared.contracts.base import FACTS, Fact
from shared.messaging.database import Pool
from shared.messaging.envelope import Cause
from shared.messaging.shell import Message
from shared.web.auth import Role, Tokens, issue
from shared.web.commands import CommandBus
from shared.web.problems import install_problems
from tests.backends import Backends
from tests.databases import AUTH_KEY
from tests.unit.notifications_story import LATER, NOON, PROMISED, backordered, captured, placed, shipped, slipped

SECRET = "whsec_bWFpbC1zZWNyZXQtb2YtdGVzdHMtMDAwMDA="

NewDatabase = Callable[[str], Awaitable[str]]


class Mailbox:
    """A mail server that answers as told, and keeps what it took."""

    def __init__(self) -> None:
        self.answer = "250 OK"
        self.took: list[ReceivedMail] = []
        self.asked = threading.Event()
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.hangs_up = False
        self.sessions: list[Session] = []
        self.recipients: list[str] = []

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        self.asked.set()
        await asyncio.to_thread(self.goes_on.wait)
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        if self.answer.startswith("250"):
            assert isinstance(envelope.content, bytes)
            self.took.append(BytesParser(policy=default).parsebytes(envelope.content))
            self.sessions.append(session)
            self.recipients += envelope.rcpt_tos
        if self.hangs_up:  # when it has answered
            assert server.transport is not None
            asyncio.get_running_loop().call_soon(server.transport.close)
        return self.answer


@pytest.fixture
async def pool(new_database: NewDatabase) -> AsyncIterator[Pool]:
    async with asyncpg.create_pool(await new_database("notifications"), min_size=0, max_size=20) as pool:
        await pool.execute("""
            INSERT INTO sending_policies
            VALUES ('sending', 3, '2000-01-03', '0 seconds', '1 hour', '1 hour', 2, '365 days', '{}')""")
        yield pool


@pytest.fixture
def mailbox() -> Mailbox:
    return Mailbox()


@pytest.fixture
def settings(mailbox: Mailbox, backends: Backends, unused_tcp_port: int) -> Iterator[NotificationsSettings]:
    controller = Controller(mailbox, hostname="127.0.0.1", port=unused_tcp_port, enable_SMTPUTF8=True)
    controller.start()
    yield NotificationsSettings.model_validate(
        {
            "database_url": "postgresql://unused",
            "kafka": backends.kafka,
            "auth_key": AUTH_KEY,
            "mail_webhook_secret": SECRET,
            "smtp_url": f"smtp://127.0.0.1:{unused_tcp_port}",
        }
    )
    controller.stop()


async def hear(pool: Pool, *facts: Fact) -> None:
    now = datetime.now(timezone.utc)
    messages: list[Message[Command]] = [
        Message(
            fact.subject,
            RecordFact(fact, str(uuid4()), n, now),
            Cause(id=uuid4(), at=now, actor="service:test", reason="test", correlation_id="test"),
        )
        for n, fact in enumerate(facts, start=1)
    ]
    assert await CommandBus(pool, lambda: None).process(NOTIFICATIONS, messages) == [None] * len(facts)


async def send_all(pool: Pool, settings: NotificationsSettings, stop: asyncio.Event | None = None) -> int:
    server = MailServer(settings.smtp_url, settings.smtp_timeout_seconds)
    try:
        return await send_due(pool, CommandBus(pool, lambda: None), settings, server, stop or asyncio.Event())
    finally:
        await server.rest()


def parts(mail: ReceivedMail) -> tuple[str, ...]:
    """Its texts, without what separates them."""
    return tuple(str(part.get_payload()) for part in mail.walk() if not part.is_multipart())


async def status(pool: Pool) -> str:
    return str(await pool.fetchval("SELECT status FROM notifications WHERE notification_id = 'o1-N1'"))


async def test_a_shipment_is_mailed_once_however_many_senders_there_are(
    pool: Pool, settings: NotificationsSettings, mailbox: Mailbox
) -> None:
    await hear(pool, placed(), shipped(1, 2, ("1", 2)), captured(2000, "o1-S1"))
    assert sum(await asyncio.gather(*(send_all(pool, settings) for _ in range(10)))) == 1
    [mail] = mailbox.took
    assert (mail["To"], mail["Message-ID"]) == ("Ada <ada@example.org>", message_id("o1-N1"))
    assert isinstance(mail, EmailMessage)
    for form in ("plain", "html"):
        body = mail.get_body((form,))
        assert body is not None
        assert "For this parcel we charged €20.00" in body.get_content()
    assert await status(pool) == "sent"
    assert await send_all(pool, settings) == 0


async def parcels(pool: Pool, count: int) -> None:
    """As many orders, each with a parcel to be mailed of."""
    for n in range(count):
        names = {"order_id": f"b{n}", "shipment_id": f"b{n}-S1"}
        facts = placed(), shipped(1, 2, ("1", 2)), captured(2000, "o1-S1")
        await hear(
            pool, *(fact.model_copy(update={k: v for k, v in names.items() if hasattr(fact, k)}) for fact in facts)
        )


async def test_a_backlog_goes_out_a_hundred_at_a_time_over_twenty_connections(
    pool: Pool, settings: NotificationsSettings, mailbox: Mailbox
) -> None:
    await parcels(pool, 130)
    assert [await send_all(pool, settings) for _ in range(3)] == [100, 30, 0]
    assert len({mail["Message-ID"] for mail in mailbox.took}) == len(mailbox.took) == 130
    assert len({id(session) for session in mailbox.sessions[:100]}) <= 20
    assert await pool.fetchval("SELECT count(*) FROM events WHERE type = 'notification.sent'") == 130


async def test_a_sender_that_is_stopped_ends_what_it_has_begun_and_leaves_the_rest_to_another(
    pool: Pool, settings: NotificationsSettings, mailbox: Mailbox
) -> None:
    await parcels(pool, 30)
    mailbox.goes_on.clear()
    stop = asyncio.Event()
    stopped = asyncio.create_task(send_all(pool, settings, stop))
    await asyncio.to_thread(mailbox.asked.wait)
    stop.set()
    mailbox.goes_on.set()
    assert await stopped == 30
    ended = len(mailbox.took)
    assert 0 < ended <= CONNECTIONS
    await pool.execute("UPDATE notifications SET title = 'what was true then' WHERE attempts = 0")
    assert await send_all(pool, settings) == 30 - ended
    assert len({mail["Message-ID"] for mail in mailbox.took}) == len(mailbox.took) == 30
    assert "what was true then" not in {mail["Subject"] for mail in mailbox.took}, "nobody had read it: composed anew"
    assert {row["attempts"] for row in await pool.fetch("SELECT attempts FROM notifications")} == {1}


async def test_a_sender_that_wakes_after_its_lease_leaves_messages_to_whoever_took_them_since(
    pool: Pool, settings: NotificationsSettings, mailbox: Mailbox
) -> None:
    await parcels(pool, 30)
    mailbox.answer = "451 try later"
    mailbox.goes_on.clear()
    stop = asyncio.Event()
    late = asyncio.create_task(send_all(pool, settings, stop))
    await asyncio.to_thread(mailbox.asked.wait)
    await pool.execute("UPDATE notifications SET attempts = attempts + 1")
    stop.set()
    mailbox.goes_on.set()
    assert await late == 30
    rows = await pool.fetch("SELECT DISTINCT attempts, is_taken FROM notifications")
    assert [tuple(row) for row in rows] == [(2, True)]


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
        killed.setattr(CommandBus, "process", dies)
        with pytest.raises(ConnectionError):
            await send_all(pool, settings)
    assert await send_all(pool, settings) == 0, "the lease still runs"
    await pool.execute("UPDATE notifications SET next_attempt_at = now()")
    assert await send_all(pool, settings) == 1
    assert len({mail["Message-ID"] for mail in mailbox.took}) == 1
    assert len({parts(mail) for mail in mailbox.took}) == 1
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


async def test_a_connection_carries_message_after_message_and_is_made_anew_when_the_server_ends_it(
    settings: NotificationsSettings, mailbox: Mailbox
) -> None:
    server = MailServer(settings.smtp_url, settings.smtp_timeout_seconds)
    mail = Mail(to="ada@example.org", name="Zoë, Dr.", title="Grüße", text="Größe 5\n.\n", html="<p>5\xa0€</p>")
    for n in range(4):
        mailbox.hangs_up = n == 1
        await server.send(message(f"o1-N{n}", mail, "shop@example.org", NOON))
    mailbox.answer = "550 no"
    with pytest.raises(RefusedForGood, match="550 no"):
        await server.send(message("o1-N4", mail, "shop@example.org", NOON))
    await server.rest()
    first, second, third, fourth = mailbox.sessions
    assert first is second
    assert second is not third
    assert third is fourth
    assert [m["Message-ID"] for m in mailbox.took] == [message_id(f"o1-N{n}") for n in range(4)]
    taken = mailbox.took[0]
    assert isinstance(taken, EmailMessage)
    assert (taken["To"].addresses[0].display_name, taken["Subject"]) == ("Zoë, Dr.", "Grüße")
    texts = [part.get_content() for part in taken.iter_parts() if isinstance(part, EmailMessage)]
    assert [text.replace("\r\n", "\n") for text in texts] == ["Größe 5\n.\n", "<p>5\xa0€</p>"]


async def test_one_mail_that_cannot_be_sent_takes_nothing_from_the_others_of_its_round(
    pool: Pool, settings: NotificationsSettings, mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What fails for one row (its address, its composition, its transport, its record) is kept with that row."""
    await parcels(pool, 6)
    as_it_is = placed()
    for order_id, email in (("b6", "jörg@bücher.de"), ("b7", "not an address"), ("b8", "ada@straße.de")):
        customer = as_it_is.customer.model_copy(update={"email": email, "name": 'J\u202eörg, "Joe"\nBcc: x@y.z 😀'})
        order = as_it_is.model_copy(update={"order_id": order_id, "customer": customer})
        names = {"order_id": order_id, "shipment_id": f"{order_id}-S1"}
        await hear(pool, order, shipped(1, 2, ("1", 2)).model_copy(update=names))
    known, send = composed, MailServer.send

    def breaks_for_b1(state: OrderNotifications, notification: Notification) -> Mail:
        if state.order_id == "b1":
            raise KeyError("a fault in a template")
        return known(state, notification)

    async def breaks_for_b2(self: MailServer, built: Outgoing) -> None:
        if message_id("b2-N1").encode() in built.content:
            raise UnicodeEncodeError("ascii", "ö", 0, 1, "a fault in a library")
        await send(self, built)

    monkeypatch.setattr("notifications.sender.composed", breaks_for_b1)
    monkeypatch.setattr(MailServer, "send", breaks_for_b2)
    assert await send_all(pool, settings) == 9
    rows = await pool.fetch("SELECT order_id, status, attempts, coalesce(last_error, '') FROM notifications")
    told = {row[0]: tuple(row)[1:] for row in rows}
    assert {o for o, (status, _, _) in told.items() if status == "sent"} == {"b0", "b3", "b4", "b5", "b6", "b8"}
    assert told["b1"] == ("queued", 1, "not sent, by a fault of ours: KeyError('a fault in a template')")
    assert told["b2"][:2] == ("queued", 1)
    assert "a fault in a library" in told["b2"][2]
    assert told["b7"][0] == "failed"
    why = await pool.fetchval("SELECT data->>'detail' FROM events WHERE type = 'notification.failed'")
    assert why.startswith("not an address: ")
    assert set(mailbox.recipients) == {"ada@example.org", "jörg@xn--bcher-kva.de", "ada@xn--strae-oqa.de"}
    await pool.execute("UPDATE notifications SET next_attempt_at = now() WHERE status = 'queued'")
    assert await send_all(pool, settings) == 2
    failed = await pool.fetch(
        "SELECT data->>'detail' FROM events WHERE type = 'notification.failed' AND subject = 'b1'"
    )
    assert [row[0] for row in failed] == [
        "given up after 2 attempts: not sent, by a fault of ours: KeyError('a fault in a template')"
    ]
    [gauge] = [g for g in GAUGES if g.name == "oms_mails_not_delivered"]
    assert await pool.fetchval(gauge.select) == 3


async def test_an_outcome_that_cannot_be_recorded_is_one_mails_own(
    pool: Pool, settings: NotificationsSettings, mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    await parcels(pool, 5)
    known = composed

    def too_long_for_b1(state: OrderNotifications, notification: Notification) -> Mail:
        mail = known(state, notification)
        return replace(mail, title="x " * 1_500) if state.order_id == "b1" else mail

    send = MailServer.send

    async def loses_the_words_of_b2(self: MailServer, built: Outgoing) -> None:
        await send(self, built)
        if message_id("b2-N1").encode() in built.content:
            await pool.execute("UPDATE notifications SET body = NULL WHERE order_id = 'b2'")

    monkeypatch.setattr("notifications.sender.composed", too_long_for_b1)
    monkeypatch.setattr(MailServer, "send", loses_the_words_of_b2)
    assert await send_all(pool, settings) == 5
    rows = await pool.fetch("SELECT order_id, status FROM notifications ORDER BY order_id")
    assert [row["status"] for row in rows] == ["sent", "queued", "queued", "sent", "sent"]


async def test_a_name_beyond_ascii_fails_visibly_where_the_server_offers_no_smtputf8(
    pool: Pool, settings: NotificationsSettings, mailbox: Mailbox, unused_tcp_port_factory: Callable[[], int]
) -> None:
    old = Controller(mailbox, hostname="127.0.0.1", port=unused_tcp_port_factory(), enable_SMTPUTF8=False)
    old.start()
    try:
        order = placed()
        customer = order.customer.model_copy(update={"email": "jörg@bücher.de"})
        await hear(pool, order.model_copy(update={"customer": customer}), shipped(1, 2, ("1", 2)))
        await parcels(pool, 2)
        assert await send_all(pool, settings.model_copy(update={"smtp_url": f"smtp://127.0.0.1:{old.port}"})) == 3
    finally:
        old.stop()
    assert await status(pool) == "failed"
    assert "SMTPUTF8" in await pool.fetchval("SELECT data->>'detail' FROM events WHERE type = 'notification.failed'")
    assert len(mailbox.took) == 2


async def test_a_mail_that_is_being_retried_is_held_back_whether_its_sender_lives_or_died(
    pool: Pool, settings: NotificationsSettings, mailbox: Mailbox, http: httpx.AsyncClient
) -> None:
    await parcels(pool, 2)
    why = {"reason": "a quarrel"}
    mailbox.answer = "451 try later"
    assert await send_all(pool, settings) == 2
    answer = await http.post("/orders/b0/notifications/b0-N1/suppression", json=why, headers={"Idempotency-Key": "1"})
    assert (answer.status_code, answer.json()["status"]) == (200, "suppressed")
    await pool.execute("UPDATE notifications SET is_taken = true, next_attempt_at = now() + interval '1 minute'")
    one = "/orders/b1/notifications/b1-N1/suppression"
    for key in ("2", "3"):
        answer = await http.post(one, json=why, headers={"Idempotency-Key": key})
        assert (answer.status_code, answer.json()["status"]) == (200, "queued"), "an attempt may be under way"
    mailbox.answer = "250 taken"
    await pool.execute("UPDATE notifications SET next_attempt_at = now()")
    assert await send_all(pool, settings) == 1
    assert mailbox.took == []
    assert [row["status"] for row in await pool.fetch("SELECT status FROM notifications")] == ["suppressed"] * 2
    assert await send_all(pool, settings) == 0


async def test_a_mail_that_is_held_back_while_its_attempt_fails_is_not_tried_again(
    pool: Pool, settings: NotificationsSettings, mailbox: Mailbox, http: httpx.AsyncClient
) -> None:
    await parcels(pool, 1)
    mailbox.answer = "451 try later"
    mailbox.goes_on.clear()
    sending = asyncio.create_task(send_all(pool, settings))
    await asyncio.wait_for(asyncio.to_thread(mailbox.asked.wait), 10)
    one = "/orders/b0/notifications/b0-N1/suppression"
    answer = await http.post(one, json={"reason": "a quarrel"}, headers={"Idempotency-Key": "1"})
    assert (answer.status_code, answer.json()["status"]) == (200, "queued")
    mailbox.goes_on.set()
    await sending
    mailbox.answer = "250 taken"
    await send_all(pool, settings)
    assert (await pool.fetchval("SELECT status FROM notifications"), mailbox.took) == ("suppressed", [])


async def test_one_fact_is_told_once_even_against_the_database(pool: Pool, settings: NotificationsSettings) -> None:
    await hear(pool, placed(), shipped(1, 2, ("1", 2)))
    with pytest.raises(asyncpg.UniqueViolationError, match="told_once"):
        await pool.execute("""
            INSERT INTO notifications (notification_id, order_id, dedupe_key, kind, audience, status, queued_at,
                next_attempt_at)
            SELECT 'o1-N9', order_id, dedupe_key, kind, audience, status, queued_at, now() FROM notifications""")
    with pytest.raises(asyncpg.CheckViolationError, match="composed_before_sent"):
        await pool.execute("UPDATE notifications SET status = 'sent'")


@pytest.fixture
async def http(pool: Pool, settings: NotificationsSettings) -> AsyncIterator[httpx.AsyncClient]:
    """The service's API, asked by an agent."""
    app = FastAPI()
    install_problems(app)
    app.include_router(router)
    app.state.pool, app.state.settings, app.state.tokens = pool, settings, Tokens(AUTH_KEY)
    app.state.commands = CommandBus(pool, lambda: None)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://notifications") as client:
        client.headers["Authorization"] = bearer(Role.AGENT)
        yield client


def bearer(role: Role) -> str:
    return f"Bearer {issue(AUTH_KEY, subject='anna', roles=[role])}"


async def test_what_was_told_is_read_with_its_statements_and_equals_the_fold(
    pool: Pool, settings: NotificationsSettings, http: httpx.AsyncClient
) -> None:
    await hear(pool, placed(), shipped(1, 2, ("1", 2)))
    await send_all(pool, settings)
    assert (await http.get("/orders/o1/notifications", headers={"Authorization": ""})).status_code == 401
    assert (await http.get("/orders/o9/notifications")).status_code == 404
    [told] = (await http.get("/orders/o1/notifications")).json()["notifications"]
    assert (told["status"], told["attempts"], told["kind"]) == ("sent", 1, "shipment")
    assert told["text"].startswith("Hello Ada,")
    assert told["html"].startswith("<!DOCTYPE html>")
    assert [s["claim"] for s in told["statements"]] == ["shipped", "remaining", "remaining"]
    rows = await pool.fetch("SELECT type, data FROM events WHERE subject = 'o1' ORDER BY sequence")
    fold = NOTIFICATIONS.fold("o1", [FACTS[row["type"]].model_validate_json(row["data"]) for row in rows])
    assert fold == NOTIFICATIONS.state.validate_json(await pool.fetchval("SELECT state FROM states"))


async def notice(http: httpx.AsyncClient, id: str, **body: object) -> httpx.Response:
    """A signed notice of the mail provider about the first notification."""
    now = datetime.now(timezone.utc)
    told = {"id": id, "message_id": message_id("o1-N1"), "occurred_at": now.isoformat(), "detail": ""} | body
    content = json.dumps(told)
    headers = {
        "webhook-id": id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(SECRET).sign(id, now, content),
    }
    return await http.post("/webhooks/mail", content=content, headers=headers)


async def test_the_mail_provider_tells_what_became_of_a_mail_once(
    pool: Pool, settings: NotificationsSettings, http: httpx.AsyncClient
) -> None:
    await hear(pool, placed(), shipped(1, 2, ("1", 2)))
    unmatched = await notice(http, "n0", type="mail.bounced", message_id="<another@shop.example>")
    assert (unmatched.status_code, unmatched.json()) == (202, {"notification_id": None}), "it is none of ours"
    await send_all(pool, settings)
    forged = {"webhook-id": "n1", "webhook-timestamp": "1", "webhook-signature": "v1,no"}
    assert (await http.post("/webhooks/mail", content="{}", headers=forged)).status_code == 401
    assert (await notice(http, "n1", type="mail.lost")).status_code == 422
    for _ in range(2):
        told = await notice(http, "n1", type="mail.bounced", detail="552 mailbox full")
        assert (told.status_code, told.json()) == (202, {"notification_id": "o1-N1"})
    assert await status(pool) == "bounced"
    assert (await notice(http, "n2", type="mail.delivered")).status_code == 202
    assert await status(pool) == "bounced", "recorded, and the bounce stands"
    bounces = await pool.fetch(
        "SELECT data->>'detail' AS detail, actor FROM events WHERE type = 'notification.bounced'"
    )
    assert [tuple(row) for row in bounces] == [("552 mailbox full", "partner:mail")]


@pytest.mark.parametrize("end", ["delivered", "bounced"])
async def test_a_notice_that_overtakes_the_record_of_its_sending_is_taken_and_no_second_mail_is_sent(
    pool: Pool,
    settings: NotificationsSettings,
    mailbox: Mailbox,
    http: httpx.AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
    end: str,
) -> None:
    await hear(pool, placed(), shipped(1, 2, ("1", 2)))

    async def dies(*_: object) -> list[None]:
        raise ConnectionError("killed")

    with monkeypatch.context() as killed:
        killed.setattr(CommandBus, "process", dies)
        with pytest.raises(ConnectionError):
            await send_all(pool, settings)
    for _ in range(2):
        assert (await notice(http, "n1", type=f"mail.{end}")).status_code == 202
    await pool.execute("UPDATE notifications SET next_attempt_at = now()")
    assert await send_all(pool, settings) == 0
    assert (await status(pool), len(mailbox.took)) == (end, 1)
    types = await pool.fetch("SELECT type FROM events WHERE data->>'notification_id' = 'o1-N1' ORDER BY sequence")
    assert [row["type"] for row in types][1:] == ["notification.sent", f"notification.{end}"]


async def test_a_shipment_told_twice_with_a_restart_in_mid_send_is_one_mail(
    pool: Pool, settings: NotificationsSettings, mailbox: Mailbox
) -> None:
    now = datetime.now(timezone.utc)
    left = shipped(1, 2, ("1", 2))
    causes = [Cause(id=uuid4(), at=now, actor="a", reason="r", correlation_id="c") for _ in range(2)]
    messages: list[Message[Command]] = [
        Message("o1", RecordFact(fact, str(cause.id), n, now), cause)
        for n, (fact, cause) in enumerate(zip((placed(), left), causes, strict=True), start=1)
    ]
    commands = CommandBus(pool, lambda: None)
    assert await commands.process(NOTIFICATIONS, messages) == [None, None]
    mailbox.goes_on.clear()
    dying = asyncio.create_task(send_all(pool, settings))
    await asyncio.wait_for(asyncio.to_thread(mailbox.asked.wait), 10)
    dying.cancel()
    await asyncio.gather(dying, return_exceptions=True)
    assert mailbox.took == []
    mailbox.goes_on.set()
    assert await commands.process(NOTIFICATIONS, messages) == [None, None]
    await pool.execute("UPDATE notifications SET next_attempt_at = now()")
    assert await send_all(pool, settings) == 1
    assert await send_all(pool, settings) == 0
    assert [mail["Message-ID"] for mail in mailbox.took] == [message_id("o1-N1")]


async def test_two_are_announced_then_the_date_slips_one_correction_is_sent_and_one_statement_counts_as_untrue(
    pool: Pool, settings: NotificationsSettings, mailbox: Mailbox
) -> None:
    await hear(pool, placed(), backordered(2, PROMISED))
    await send_all(pool, settings)
    await hear(pool, shipped(1, 2, ("1", 1), ("2", 2)))
    await send_all(pool, settings)
    await hear(pool, slipped(PROMISED, LATER))
    await send_all(pool, settings)
    assert [mail["Subject"].split(":")[0] for mail in mailbox.took] == [
        "Not in stock just now",
        "Parcel 1 of 2 of your order o1 is on its way",
        "Correction",
    ]
    rows = await pool.fetch("SELECT stated, stated_units, untrue, untrue_units FROM notifications ORDER BY 1, 2")
    assert [tuple(row) for row in rows] == [(1, 1, 0, 0), (1, 2, 0, 0), (4, 7, 1, 2)]
    corrections = await pool.fetch(
        "SELECT data->>'corrects_id' FROM events WHERE type = 'notification.correction_sent'"
    )
    assert [row[0] for row in corrections] == ["o1-N2"]


async def test_what_is_queued_is_told_in_one_message_unless_a_sender_is_at_it(
    pool: Pool, settings: NotificationsSettings, mailbox: Mailbox
) -> None:
    await pool.execute("""
        INSERT INTO sending_policies
        VALUES ('sending', 4, '2000-01-04', '1 hour', '1 hour', '1 hour', 2, '365 days', '{"backorder": 1800}')""")
    await hear(pool, placed(), backordered(2, PROMISED))
    first = await pool.fetchval("SELECT next_attempt_at FROM notifications")
    assert first < datetime.now(timezone.utc) + timedelta(minutes=31)
    await hear(pool, slipped(PROMISED, LATER))
    rows = await pool.fetch("SELECT status, next_attempt_at FROM notifications ORDER BY notification_id")
    assert [tuple(row) for row in rows] == [("suppressed", first), ("queued", first)]
    await pool.execute("UPDATE notifications SET next_attempt_at = now()")
    mailbox.answer = "451 try later"
    await send_all(pool, settings)
    await hear(pool, slipped(LATER, PROMISED))
    states = [row["status"] for row in await pool.fetch("SELECT status FROM notifications ORDER BY notification_id")]
    assert states == ["suppressed", "queued", "queued"]


async def test_an_agent_holds_back_a_message_or_a_kind_with_a_reason_and_a_storefront_may_not(
    pool: Pool, settings: NotificationsSettings, mailbox: Mailbox, http: httpx.AsyncClient
) -> None:
    await hear(pool, placed(), shipped(1, 3, ("1", 1)))
    one, kind = "/orders/o1/notifications/o1-N1/suppression", "/orders/o1/suppressed-kinds/shipment"
    why, key = {"reason": "a quarrel"}, {"Idempotency-Key": "k1"}
    as_shop = key | {"Authorization": bearer(Role.STOREFRONT)}
    assert (await http.post(one, json=why, headers=as_shop)).status_code == 403
    assert (await http.post(one, json={"reason": ""}, headers=key)).status_code == 422
    assert (await http.post(one.replace("o1", "o9"), json=why, headers=key)).status_code == 404
    assert (await http.post(one.replace("N1", "N9"), json=why, headers=key)).status_code == 422
    for _ in range(2):
        answer = await http.post(one, json=why, headers=key)
        assert (answer.status_code, answer.json()) == (200, {"notification_id": "o1-N1", "status": "suppressed"})
    assert (await http.post(kind, json=why, headers=key)).json()["suppressed"] is True
    await hear(pool, shipped(2, 3, ("1", 1)))
    assert await send_all(pool, settings) == 0
    assert (await http.post(f"{kind}/end", json=why, headers=key)).json()["suppressed"] is False
    await hear(pool, shipped(3, 3, ("1", 1)))
    assert await send_all(pool, settings) == 1
    told = (await http.get("/orders/o1/notifications")).json()["notifications"]
    assert [(n["status"], n["detail"]) for n in told] == [
        ("suppressed", "held back by agent:anna: a quarrel"),
        ("suppressed", "held back by agent:anna: a quarrel"),
        ("sent", None),
    ]
    assert [p["version"] for p in (await http.get("/sending-policies")).json()] == [1, 2, 3]
