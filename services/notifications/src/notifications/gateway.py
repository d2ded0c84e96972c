"""The mail server: takes a message, refuses it for good, or cannot be asked just now."""

import asyncio
from binascii import b2a_qp
from dataclasses import dataclass
from datetime import datetime
from email.header import Header
from email.utils import format_datetime, quote
from functools import lru_cache
from typing import Final
from urllib.parse import unquote, urlsplit
from uuid import NAMESPACE_URL, uuid5

import aiosmtplib
from email_validator import EmailNotValidError, validate_email

from notifications.mails import Mail

_BOUNDARY: Final = "=_part"
"""In quoted-printable text, nothing but hexadecimal digits or the end of a line follows an equals sign."""

_CLOSING: Final = 421
"""The server ends the connection."""

CONNECTIONS: Final = 20
"""At once, from one process: mail servers turn away who opens many more."""


class RefusedForGood(Exception):
    """The server will never take this message; the text says why."""


class NotNow(Exception):
    """The server could not be asked, or says to try later."""


def message_id(notification_id: str) -> str:
    """The same for every attempt, so that a mailbox that got it twice shows it once."""
    return f"<{uuid5(NAMESPACE_URL, f'urn:order-workflows:{notification_id}')}@order-workflows>"


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A mail as it is handed over. `needs_utf8`: an address has a local part that is not ASCII, so that the server must
    offer SMTPUTF8 (RFC 6531)."""

    sender: str
    recipient: str
    content: bytes
    needs_utf8: bool


def message(notification_id: str, mail: Mail, sender: str, at: datetime) -> Outgoing:
    """The mail as it is sent at that time. Raises RefusedForGood where mail can never go to that address."""
    from_, to = address(sender), address(mail.to)
    headers = [
        f"Date: {format_datetime(at)}",
        f"Message-ID: {message_id(notification_id)}",
        f"From: {from_}",
        f"To: {_mailbox(mail.name, to)}",
        f"Subject: {_encoded(mail.title, 'Subject')}",
        "Auto-Submitted: auto-generated",
        "MIME-Version: 1.0",
        f'Content-Type: multipart/alternative; boundary="{_BOUNDARY}"',
    ]
    # Written out: the standard library's messages, which parse each header that they are given, took half of the CPU
    # time of a mail, and its headers refuse addresses that are not ASCII.
    parts = f"{_part('plain', mail.text)}{_part('html', mail.html)}--{_BOUNDARY}--\n"
    return Outgoing(from_, to, "\n".join((*headers, "", parts)).encode(), not (from_ + to).isascii())


@lru_cache(maxsize=1_000)
def address(written: str) -> str:
    """The address as mail servers take it: its domain in ASCII (IDNA 2008), its local part as it was written."""
    try:
        valid = validate_email(
            written,
            check_deliverability=False,
            globally_deliverable=False,
            test_environment=True,
            allow_quoted_local=True,
            allow_domain_literal=True,
        )
    except EmailNotValidError as error:
        raise RefusedForGood(one_line(f"{written}: {error}")) from error
    return f"{valid.local_part}@{valid.ascii_domain}"


def _mailbox(name: str, address: str) -> str:
    """A name and an address as a header has them, on lines of their own. A name may hold line breaks; a header never."""
    name = " ".join(name.split())
    if not name:
        return address
    phrase = f'"{quote(name)}"' if _is_plain(name) else _encoded(name, "To")
    return f"{phrase}\n <{address}>"


def _encoded(text: str, header: str) -> str:
    """ASCII, in words of no more than 75 characters (RFC 2047), folded."""
    return Header(text, None if _is_plain(text) else "utf-8", header_name=header, maxlinelen=76).encode()


def _is_plain(text: str) -> bool:
    """Whether a header may hold it as it is: ASCII, and nothing that reads as an encoded word."""
    return text.isascii() and "=?" not in text


def _part(form: str, text: str) -> str:
    return (
        f'--{_BOUNDARY}\nContent-Type: text/{form}; charset="utf-8"\n'
        f"Content-Transfer-Encoding: quoted-printable\n\n{b2a_qp(text.encode(), istext=True).decode('ascii')}\n"
    )


class MailServer:
    """Connections to it: each carries one message after the other, until there is nothing to send."""

    def __init__(self, url: str, timeout: float) -> None:
        self._url = urlsplit(url)
        self._timeout = timeout
        self._kept: list[aiosmtplib.SMTP] = []
        self.room = asyncio.Semaphore(CONNECTIONS)
        """To be had by who sends."""

    async def send(self, built: Outgoing) -> None:
        """Raises RefusedForGood or NotNow; returns once the server has taken responsibility for the message."""
        try:
            async with asyncio.timeout(self._timeout):
                await self._send(built)
        except aiosmtplib.SMTPRecipientsRefused as error:
            text = "; ".join(f"{r.recipient}: {r.code} {r.message}" for r in error.recipients)
            is_final = all(r.code >= 500 for r in error.recipients)
            raise (RefusedForGood if is_final else NotNow)(one_line(text)) from error
        except aiosmtplib.SMTPNotSupported as error:
            reason = "the mail server takes no addresses with other letters than ASCII before the @ (SMTPUTF8)"
            raise RefusedForGood(one_line(f"{built.recipient}: {reason}")) from error
        except aiosmtplib.SMTPAuthenticationError as error:
            raise NotNow(one_line(f"{error.code} {error.message}")) from error
        except aiosmtplib.SMTPResponseException as error:
            kind = RefusedForGood if error.code >= 500 else NotNow
            raise kind(one_line(f"{error.code} {error.message}")) from error
        except (aiosmtplib.SMTPException, OSError) as error:
            raise NotNow(one_line(repr(error))) from error

    async def _send(self, built: Outgoing) -> None:
        while self._kept:
            try:
                return await self._over(self._kept.pop(), built)
            except (aiosmtplib.SMTPServerDisconnected, aiosmtplib.SMTPResponseException) as error:
                # The server has ended it meanwhile, or does now. If it took the message all the same, the next one
                # bears the same Message-ID.
                if isinstance(error, aiosmtplib.SMTPResponseException) and error.code != _CLOSING:
                    raise
        url = self._url
        client = aiosmtplib.SMTP(
            hostname=url.hostname,
            port=url.port or (465 if url.scheme == "smtps" else 25),
            username=unquote(url.username) if url.username else None,
            password=unquote(url.password) if url.password else None,
            use_tls=url.scheme == "smtps",
            timeout=self._timeout,
        )
        return await self._over(client, built)

    async def _over(self, client: aiosmtplib.SMTP, built: Outgoing) -> None:
        try:
            if not client.is_connected:
                await client.connect()
            options = ["SMTPUTF8", "BODY=8BITMIME"] if built.needs_utf8 else []
            await client.sendmail(built.sender, [built.recipient], built.content, mail_options=options)
        except BaseException:
            client.close()
            raise
        self._kept.append(client)

    async def rest(self) -> None:
        """Take leave; connections are made anew when they are needed."""
        kept, self._kept = self._kept, []
        for client in kept:
            try:
                async with asyncio.timeout(1):
                    await client.quit()
            except (aiosmtplib.SMTPException, OSError):
                client.close()


def one_line(text: str) -> str:
    """A server's words as they may be stored: no control characters, and not at any length."""
    return "".join(c if c.isprintable() else " " for c in text)[:500]
