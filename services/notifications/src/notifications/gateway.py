"""The mail server: takes a message, refuses it for good, or cannot be asked just now."""

import asyncio
from binascii import b2a_qp
from email.headerregistry import Address
from email.message import EmailMessage, Message
from email.utils import formataddr
from typing import Final
from urllib.parse import unquote, urlsplit
from uuid import NAMESPACE_URL, uuid5

import aiosmtplib

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


def message(notification_id: str, mail: Mail, sender: str) -> Message:
    # A name may hold line breaks; a header never.
    name = " ".join(mail.name.split())
    if mail.to.isascii():
        # A fifth of the CPU time of an EmailMessage, which parses each header that it is given.
        built, to = Message(), formataddr((name, mail.to))
    else:
        built, to = EmailMessage(), str(Address(display_name=name, addr_spec=mail.to))
    built["Message-ID"] = message_id(notification_id)
    built["From"] = sender
    built["To"] = to
    built["Subject"] = mail.title
    built["Auto-Submitted"] = "auto-generated"
    built["MIME-Version"] = "1.0"
    built["Content-Type"] = f'multipart/alternative; boundary="{_BOUNDARY}"'
    # Written out: parts that are messages themselves took half of the CPU time of a mail.
    built.set_payload(f"{_part('plain', mail.text)}{_part('html', mail.html)}--{_BOUNDARY}--\n")
    return built


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

    async def send(self, built: Message) -> None:
        """Raises RefusedForGood or NotNow; returns once the server has taken responsibility for the message."""
        try:
            async with asyncio.timeout(self._timeout):
                await self._send(built)
        except aiosmtplib.SMTPRecipientsRefused as error:
            text = "; ".join(f"{r.recipient}: {r.code} {r.message}" for r in error.recipients)
            is_final = all(r.code >= 500 for r in error.recipients)
            raise (RefusedForGood if is_final else NotNow)(_line(text)) from error
        except aiosmtplib.SMTPAuthenticationError as error:
            raise NotNow(_line(f"{error.code} {error.message}")) from error
        except aiosmtplib.SMTPResponseException as error:
            kind = RefusedForGood if error.code >= 500 else NotNow
            raise kind(_line(f"{error.code} {error.message}")) from error
        except (aiosmtplib.SMTPException, OSError) as error:
            raise NotNow(_line(repr(error))) from error

    async def _send(self, built: Message) -> None:
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

    async def _over(self, client: aiosmtplib.SMTP, built: Message) -> None:
        try:
            if not client.is_connected:
                await client.connect()
            await client.send_message(built, sender=str(built["From"]))
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


def _line(text: str) -> str:
    """A server's words as they may be stored: no control characters, and not at any length."""
    return "".join(c if c.isprintable() else " " for c in text)[:500]
