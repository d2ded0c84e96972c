"""The mail server: takes a message, refuses it for good, or cannot be asked just now."""

import asyncio
from email.headerregistry import Address
from email.message import EmailMessage
from urllib.parse import unquote, urlsplit
from uuid import NAMESPACE_URL, uuid5

import aiosmtplib

from notifications.mails import Mail


class RefusedForGood(Exception):
    """The server will never take this message; the text says why."""


class NotNow(Exception):
    """The server could not be asked, or says to try later."""


def message_id(notification_id: str) -> str:
    """The same for every attempt, so that a mailbox that got it twice shows it once."""
    return f"<{uuid5(NAMESPACE_URL, f'urn:order-workflows:{notification_id}')}@order-workflows>"


def message(notification_id: str, mail: Mail, sender: str) -> EmailMessage:
    built = EmailMessage()
    built["Message-ID"] = message_id(notification_id)
    built["From"] = sender
    # A name may hold line breaks; a header never.
    built["To"] = Address(display_name=" ".join(mail.name.split()), addr_spec=mail.to)
    built["Subject"] = mail.title
    built["Auto-Submitted"] = "auto-generated"
    built.set_content(mail.text)
    built.add_alternative(mail.html, subtype="html")
    return built


async def send(url: str, built: EmailMessage, timeout: float) -> None:
    """Raises RefusedForGood or NotNow; returns once the server has taken responsibility for the message."""
    server = urlsplit(url)
    try:
        async with asyncio.timeout(timeout):
            await aiosmtplib.send(
                built,
                hostname=server.hostname,
                port=server.port or (465 if server.scheme == "smtps" else 25),
                username=unquote(server.username) if server.username else None,
                password=unquote(server.password) if server.password else None,
                use_tls=server.scheme == "smtps",
                timeout=timeout,
            )
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


def _line(text: str) -> str:
    """A server's words as they may be stored: no control characters, and not at any length."""
    return "".join(c if c.isprintable() else " " for c in text)[:500]
