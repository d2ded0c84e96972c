"""Sends what is queued. The mail server is asked outside transactions, and every attempt carries the same Message-ID."""

import asyncio
import contextlib
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import Final
from uuid import NAMESPACE_URL, uuid5

import structlog

from notifications import store
from notifications.domain.decide import Command, Outcome, RecordFailure, RecordHeldBack, RecordSent, RecordStale
from notifications.domain.policy import SendingPolicy
from notifications.domain.state import OrderNotifications
from notifications.gateway import CONNECTIONS, MailServer, NotNow, RefusedForGood, message, message_id, one_line
from notifications.mails import Mail, composed
from notifications.settings import NotificationsSettings
from notifications.store import NOTIFICATIONS, Due
from shared.messaging.database import BROKEN_LAWS, OUTAGES, Pool
from shared.messaging.envelope import Cause
from shared.messaging.shell import Db, Message, read, yielding_every
from shared.runtime import Running
from shared.web.commands import CommandBus

log = structlog.get_logger()

AT_ONCE: Final = 5 * CONNECTIONS
"""Messages of a round: its transactions cost the same for one as for a hundred, and what waits must not grow under load."""
POLL_SECONDS = 0.5
RESTS_AFTER = 10
"""Polls with nothing to send, after which the mail server's connections are closed."""


async def sender(running: Running, stop: asyncio.Event) -> None:
    """Until stopped; an outage of the database is waited out, one of the mail server postpones its messages."""
    settings = running.settings
    assert isinstance(settings, NotificationsSettings)
    server = MailServer(settings.smtp_url, settings.smtp_timeout_seconds)
    idle = 0
    while not stop.is_set():
        taken = 0
        try:
            taken = await send_due(running.pool, running.commands, settings, server, stop)
        except OUTAGES as error:
            log.warning("notifications.deferred", error=repr(error))
        idle = 0 if taken else idle + 1
        if idle == RESTS_AFTER:
            await server.rest()
        if not taken:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), POLL_SECONDS)
    await server.rest()


async def send_due(
    pool: Pool, commands: CommandBus, settings: NotificationsSettings, server: MailServer, stop: asyncio.Event
) -> int:
    """Take what is due, send it, record what became of it; returns how many were taken. Stopped, it begins no other."""
    # Longer than a round may take, in which each connection carries one message after the other.
    lease = timedelta(seconds=settings.smtp_timeout_seconds * (AT_ONCE / CONNECTIONS + 2))
    async with pool.acquire(timeout=5) as db, db.transaction():
        due = await store.lease_due(db, AT_ONCE, lease)
        if not due:
            return 0
        policy = await store.policy(db)
        mails = await _words(db, due)
    now = datetime.now(timezone.utc)
    outcomes = await asyncio.gather(
        *(_outcome(d, mails[d.notification_id], policy, settings, server, now, stop) for d in due)
    )
    messages: list[Message[Command]] = []
    postponed: list[tuple[str, int, timedelta, str]] = []
    untried: list[tuple[str, int]] = []
    for d, outcome in zip(due, outcomes, strict=True):
        if outcome is None:
            untried.append((d.notification_id, d.attempts))
        elif isinstance(outcome, str):
            postponed.append((d.notification_id, d.attempts, policy.pause_after(d.attempts), outcome))
        else:
            messages.append(Message(d.order_id, outcome, _cause(d, outcome)))
    for t, error in zip(messages, await _record(commands, messages), strict=True):
        if error is not None:
            log.error("notification.unrecorded", order_id=t.key, error=str(error))
    if postponed:
        async with pool.acquire(timeout=5) as db:
            await db.execute(store.POSTPONE, *zip(*postponed, strict=True))
    if untried:
        async with pool.acquire(timeout=5) as db:
            await db.execute(store.GIVE_BACK, *zip(*untried, strict=True))
    return len(due)


async def _record(commands: CommandBus, messages: Sequence[Message[Command]]) -> list[Exception | None]:
    """The refusal of each, if any. Where they cannot be recorded together, each is by itself: what breaks one is its own."""
    try:
        return await commands.process(NOTIFICATIONS, messages)
    except Exception as error:
        if isinstance(error, OUTAGES) and not isinstance(error, BROKEN_LAWS):
            raise
        if len(messages) == 1:
            return [error]
        return [refusal for t in messages for refusal in await _record(commands, [t])]


async def _words(db: Db, due: Sequence[Due]) -> dict[str, Mail | Exception]:
    """Composed at the first attempt and stored, so that every attempt says the same; or why it cannot be composed."""
    keys = {d.order_id for d in due if d.html is None or d.attempts == 1}
    states = await _states(db, sorted(keys))
    mails: dict[str, Mail | Exception] = {}
    new = []
    async for d in yielding_every(due):
        id = d.notification_id
        if d.order_id in keys and (d.html is None or d.attempts == 1):
            try:
                mail = _composed(states[d.order_id], id)
            except Exception as error:  # noqa: BLE001 -- kept with this message; the others of the round go on
                mails[id] = error
                continue
            new.append((id, mail.to, mail.name, mail.title, mail.text, mail.html, message_id(id)))
        else:
            assert d.recipient is not None
            assert d.recipient_name is not None
            assert d.title is not None
            assert d.body is not None
            assert d.html is not None
            mail = Mail(to=d.recipient, name=d.recipient_name, title=d.title, text=d.body, html=d.html)
        mails[id] = mail
    if new:
        await db.execute(store.COMPOSE, *zip(*new, strict=True))
    return mails


async def _states(db: Db, keys: Sequence[str]) -> dict[str, OrderNotifications | Exception]:
    """What messages rest on, by order; of a state that cannot be read, why."""
    try:
        states = await read(db, NOTIFICATIONS, keys)
        return {**states}
    except ValueError as error:
        if len(keys) == 1:
            return {keys[0]: error}
        return {key: state for one in keys for key, state in (await _states(db, [one])).items()}


def _composed(state: OrderNotifications | Exception, notification_id: str) -> Mail:
    if isinstance(state, Exception):
        raise state
    return composed(state, state.notifications[notification_id])


async def _outcome(
    due: Due,
    mail: Mail | Exception,
    policy: SendingPolicy,
    settings: NotificationsSettings,
    server: MailServer,
    now: datetime,
    stop: asyncio.Event,
) -> Outcome | str | None:
    """What became of it; an error as text where it is to be tried again; None where it was not tried. Whatever breaks on
    this message is its own, with its own attempts: no other message of the round waits for it."""
    id = due.notification_id
    if due.held_back is not None:
        return RecordHeldBack(id)
    if now - due.queued_at > policy.stale_after:
        return RecordStale(id, f"older than {policy.stale_after.days} days")
    if due.attempts > policy.max_attempts:
        # Its last attempts were never recorded: it may have been sent, and must not be for ever.
        return RecordFailure(id, f"given up after {policy.max_attempts} attempts, of which some were not recorded")
    try:
        return await _attempt(due, mail, settings, server, stop)
    except RefusedForGood as error:
        log.warning("notification.refused", notification_id=id, error=str(error))
        return RecordFailure(id, str(error))
    except NotNow as error:
        reason = str(error)
        log.warning("notification.deferred", notification_id=id, attempts=due.attempts, error=reason)
    except Exception as error:
        reason = one_line(f"not sent, by a fault of ours: {error!r}")
        log.exception("notification.broken", notification_id=id, attempts=due.attempts)
    if due.attempts >= policy.max_attempts:
        return RecordFailure(id, f"given up after {due.attempts} attempts: {reason}")
    return reason


async def _attempt(
    due: Due, mail: Mail | Exception, settings: NotificationsSettings, server: MailServer, stop: asyncio.Event
) -> RecordSent | None:
    """Sent, or not tried. Raises RefusedForGood, NotNow, and what it could not be composed for."""
    if isinstance(mail, Exception):
        raise mail
    outgoing = message(due.notification_id, mail, settings.mail_from, datetime.now(timezone.utc))
    async with server.room:
        if stop.is_set():
            # All that a round holds may take longer than a process has to stop.
            return None
        await server.send(outgoing)
    log.info("notification.sent", notification_id=due.notification_id, order_id=due.order_id, attempts=due.attempts)
    return RecordSent(due.notification_id, mail.title)


def _cause(due: Due, outcome: Outcome) -> Cause:
    """Recorded once per message and outcome, however often two senders try to."""
    return Cause(
        id=uuid5(NAMESPACE_URL, f"{due.notification_id}|{type(outcome).__name__}"),
        at=datetime.now(timezone.utc),
        actor="service:notifications",
        reason=type(outcome).__name__,
        correlation_id=due.order_id,
        traceparent=due.traceparent,
    )
