"""The customer's mailbox: takes mail by SMTP, keeps it before it says so, and shows what arrived, all of it.

As a mail provider does, it sends signed notices of what became of each mail; test addresses choose its faults.
"""

import asyncio
import json
import sqlite3
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.errors import MessageError
from email.header import decode_header, make_header
from email.message import Message
from typing import Annotated

import structlog
from aiosmtpd.smtp import SMTP, Envelope, Session
from fastapi import APIRouter, Path, Query
from pydantic import AwareDatetime

from sandbox.faults import mail_fault_for
from sandbox.ledger import AtLedger, Ledger, UnknownSubject
from sandbox.notices import Receiver, enqueue
from shared.contracts.base import Model

log = structlog.get_logger()

SCHEMA = """
create table if not exists mails (
    id integer primary key,
    sender text not null,
    recipients text not null,  -- JSON list, lower case, of the envelope
    content blob not null,     -- as it came
    received_at text not null
) strict;
create table if not exists deferred_mails (
    message_id text not null,
    recipient text not null,
    primary key (message_id, recipient)
) strict;
"""

ADD = "insert into mails (sender, recipients, content, received_at) values (?, ?, ?, ?) returning id"
NEWEST = """
select * from mails
where (:address is null or exists (select 1 from json_each(mails.recipients) where value = :address))
order by id desc limit :limit
"""
ONE = "select * from mails where id = ?"

DEFER = "insert into deferred_mails values (?, ?) on conflict do nothing returning true"

LARGEST = 1 << 20


class Header(Model):
    name: str
    value: str


class Mail(Model):
    """A mail as it arrived. `sender` and `recipients` are the envelope's; `headers` the mail's own, in their order."""

    id: int
    sender: str
    recipients: list[str]
    subject: str
    text: str | None
    html: str | None
    headers: list[Header]
    received_at: AwareDatetime


class Inbox:
    """What aiosmtpd asks when a mail has come in."""

    def __init__(self, ledger: Ledger, late_seconds: float) -> None:
        self._ledger = ledger
        self._late_seconds = late_seconds

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        fault = mail_fault_for(address)
        if fault.refusal:
            return fault.refusal
        if fault.is_ascii_only and envelope.smtp_utf8:
            return "553 5.6.7 non-ASCII addresses are not permitted for this recipient"
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options.extend(options)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        mail_id = await self._ledger.run(lambda db: self._keep(db, envelope))
        if mail_id is None:
            return "451 4.2.1 mailbox busy, try again later"
        log.info("mail.received", mail=mail_id, recipients=len(envelope.rcpt_tos))
        return f"250 kept as {mail_id}"

    def _keep(self, db: sqlite3.Connection, envelope: Envelope) -> int | None:
        """The mail and the notices of it, in one transaction; None where it is put off."""
        content = envelope.original_content or b""
        message_id = _message_id(content)
        recipients = [recipient.lower() for recipient in envelope.rcpt_tos]
        deferring = [to for to in recipients if mail_fault_for(to).defers]
        if any([db.execute(DEFER, (message_id, to)).fetchone() for to in deferring]):
            return None
        now = datetime.now(UTC).isoformat()
        mail_id: int
        (mail_id,) = db.execute(ADD, (envelope.mail_from or "", json.dumps(recipients), content, now)).fetchone()
        for to in recipients if message_id else ():
            fault = mail_fault_for(to)
            if fault.is_silent:
                continue
            id = f"mail-{mail_id}-{to}"
            notice = {
                "id": id,
                "type": "mail.bounced" if fault.bounces else "mail.delivered",
                "message_id": message_id,
                "occurred_at": now,
                "detail": "552 5.2.2 mailbox full" if fault.bounces else "",
            }
            enqueue(
                db,
                Receiver.NOTIFICATIONS,
                message_id,
                id,
                json.dumps(notice),
                manner=fault.notices,
                late_seconds=self._late_seconds,
            )
        return mail_id

    async def handle_exception(self, error: Exception) -> str:
        """The sender is to try again: nothing was kept."""
        log.error("mail.receipt_failed", exc_info=error)
        return "451 not kept, try again"


def _message_id(content: bytes) -> str:
    """As the mail itself has it; "" where it has none."""
    return str(message_from_bytes(content, policy=policy.compat32).get("Message-ID") or "").strip()


async def listen(ledger: Ledger, host: str, port: int, late_seconds: float) -> asyncio.Server:
    """The SMTP server; port 0 takes a free one."""
    loop = asyncio.get_running_loop()
    inbox = Inbox(ledger, late_seconds)
    return await loop.create_server(
        lambda: SMTP(inbox, data_size_limit=LARGEST, enable_SMTPUTF8=True, ident="sandbox mailbox", loop=loop),
        host,
        port,
    )


routes = APIRouter(prefix="/mailbox", tags=["mailbox"])


@routes.get("")
async def mails(
    ledger: AtLedger,
    to: Annotated[str | None, Query(max_length=320)] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> list[Mail]:
    """The newest first."""
    wanted = {"address": to and to.lower(), "limit": limit}
    return await ledger.run(lambda db: [_mail(row) for row in db.execute(NEWEST, wanted)])


@routes.get("/{mail_id}")
async def mail(mail_id: Annotated[int, Path(ge=1, le=2**62)], ledger: AtLedger) -> Mail:
    row = await ledger.run(lambda db: db.execute(ONE, (mail_id,)).fetchone())
    if row is None:
        raise UnknownSubject(f"there is no mail {mail_id}")
    return _mail(row)


def _mail(row: sqlite3.Row) -> Mail:
    # The modern email policy raises on malformed headers; the old one shows them.
    message = message_from_bytes(row["content"], policy=policy.compat32)
    headers = [Header(name=name, value=_decoded(value)) for name, value in message.items()]
    return Mail(
        id=row["id"],
        sender=row["sender"],
        recipients=json.loads(row["recipients"]),
        subject=next((header.value for header in headers if header.name.lower() == "subject"), ""),
        text=_body(message, "text/plain"),
        html=_body(message, "text/html"),
        headers=headers,
        received_at=row["received_at"],
    )


def _decoded(value: object) -> str:
    try:
        return str(make_header(decode_header(str(value))))
    except (LookupError, ValueError, MessageError):
        return str(value)


def _body(message: Message, kind: str) -> str | None:
    """The first such part; bytes that are not in the character set they claim are shown as replacement characters."""
    for part in message.walk():
        payload = part.get_payload(decode=True)
        if part.get_content_type() != kind or part.get_filename() or not isinstance(payload, bytes):
            continue
        try:
            return payload.decode(part.get_content_charset("utf-8"), "replace")
        except (LookupError, ValueError):
            return payload.decode("utf-8", "replace")
    return None
