"""Whatever a customer is called and wherever mail goes: it is composed, and a real mail server takes it or says why not."""

import asyncio
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from email import message_from_string
from email.headerregistry import UniqueAddressHeader
from email.message import EmailMessage
from email.policy import SMTPUTF8
from email.utils import parsedate_to_datetime

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session
from babel.localedata import locale_identifiers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from notifications.gateway import MailServer, RefusedForGood, address, message
from shared.contracts.base import Name
from tests.unit.notifications_story import NOON, PROMISED, Story, backordered, placed

NAME: TypeAdapter[str] = TypeAdapter(Name)


@dataclass
class Mailbox:
    took: list[Envelope] = field(default_factory=list)

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        self.took.append(envelope)
        return "250 OK"


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[bool, tuple[str, Mailbox]]]:
    """By whether it offers SMTPUTF8: the server's address, and what it took."""
    controllers = {
        offers: Controller(Mailbox(), "127.0.0.1", _free(), enable_SMTPUTF8=offers) for offers in (True, False)
    }
    for controller in controllers.values():
        controller.start()
    yield {offers: (f"smtp://127.0.0.1:{c.port}", c.handler) for offers, c in controllers.items()}
    for controller in controllers.values():
        controller.stop()


def _free() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def is_name(text: str) -> bool:
    try:
        return bool(NAME.validate_python(text))
    except ValidationError:
        return False


NAMES = st.one_of(
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=200).filter(is_name),
    st.sampled_from(
        (
            'Jörg "Joe" Müller, Dr.',
            "Ada\nBcc: all@example.org",
            "\u202eadA <root@localhost>\u202c",
            "👩‍👩‍👧 Zoë",
            "=?utf-8?q?forged?=",
            "x" * 200,
            "é" * 200,
            "\\",
            '"',
            "\u3000",
            "a@b.c",
        )
    ),
)
LOCALS = st.text(st.characters(codec="utf-8", categories=("L", "N", "S", "P")), min_size=1, max_size=80)
DOMAINS = st.one_of(
    st.sampled_from(("example.org", "bücher.de", "例え.jp", "straße.de", "[127.0.0.1]", "x" * 70 + ".org", "")), LOCALS
)
ADDRESSES = st.one_of(
    st.tuples(LOCALS, DOMAINS).map("@".join),
    st.tuples(LOCALS, DOMAINS).map(lambda parts: f'"{parts[0]}"@{parts[1]}'),
    st.text(st.characters(codec="utf-8"), min_size=3, max_size=320),
    st.sampled_from(
        (
            "jörg@bücher.de",
            '"a@b"@example.org',
            '"a, b"@example.org',
            "a@example.org\r\nRCPT TO:<b@example.org>",
            "a@example.org> SIZE=1",
            "\u202eada@example.org",
            "😀@example.org",
            "a" * 308 + "@example.org",
            "a@b@c",
        )
    ),
)


@given(name=NAMES, to=ADDRESSES, locale=st.sampled_from(sorted(locale_identifiers())), offers=st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None)
def test_no_name_and_no_address_ends_the_sender(
    servers: dict[bool, tuple[str, Mailbox]], name: str, to: str, locale: str, offers: bool
) -> None:
    """A mail reaches its one recipient as it was written, or is refused for good with a reason: nothing else is raised."""
    story = Story()
    order = placed(name=name)
    customer = order.customer.model_copy(update={"email": to, "locale": locale})
    story.heard(order.model_copy(update={"customer": customer}), backordered(1, PROMISED))
    mail = story.mail()
    url, mailbox = servers[offers]
    mailbox.took.clear()

    async def send() -> None:
        server = MailServer(url, 5)
        try:
            await server.send(message("o1-N1", mail, "shop@example.org", NOON))
        finally:
            await server.rest()

    try:
        asyncio.run(send())
    except RefusedForGood as error:
        assert len(str(error)) > 10
        assert str(error).isprintable()
        assert mailbox.took == []
        return
    [taken] = mailbox.took
    assert taken.rcpt_tos == [address(to)]
    assert isinstance(taken.content, bytes)
    read = message_from_string(taken.content.decode().replace("\r\n", "\n"), policy=SMTPUTF8)
    assert isinstance(read, EmailMessage)
    assert set(read.keys()) == {
        "Date", "Message-ID", "From", "To", "Subject", "Auto-Submitted", "MIME-Version", "Content-Type",
    }  # fmt: skip
    assert read["Subject"] == mail.title
    assert parsedate_to_datetime(read["Date"]) == NOON
    header = read["To"]
    assert isinstance(header, UniqueAddressHeader)
    assert len(header.addresses) == 1
    if name.isprintable():
        # Python's parser leaves a blank between two encoded words, which RFC 2047 takes away.
        assert "".join(header.addresses[0].display_name.split()) == "".join(name.split())
