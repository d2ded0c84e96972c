"""The mailbox shows every mail that arrived, as it arrived."""

from collections.abc import AsyncIterator
from datetime import datetime
from email.message import EmailMessage
from pathlib import Path

import aiosmtplib
import pytest
from standardwebhooks import Webhook

from sandbox.notices import Receiver, notices_about
from tests.unit.sandbox_world import World, sandbox


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with sandbox(tmp_path) as world:
        yield world


async def deliver(world: World, content: EmailMessage | bytes, to: list[str]) -> None:
    await aiosmtplib.send(
        content, sender="shop@example.org", recipients=to, hostname="127.0.0.1", port=world.app.state.smtp_port
    )


def mail(subject: str = "Ihre Bestellung ist unterwegs – 2 von 3", message_id: str | None = None) -> EmailMessage:
    message = EmailMessage()
    if message_id is not None:
        message["Message-ID"] = message_id
    message["From"] = "Shop <shop@example.org>"
    message["To"] = "Anna <anna@example.org>"
    message["Subject"] = subject
    message["X-Notification-Id"] = "n-1"
    message.set_content("Zwei Stück sind unterwegs. €19,99\n")
    message.add_alternative("<p>Zwei Stück <b>&lt;script&gt;</b></p>\n", subtype="html")
    return message


async def test_a_mail_is_shown_with_its_parts_and_headers(world: World) -> None:
    await deliver(world, mail(), ["Anna@Example.org"])
    (shown,) = (await world.http.get("/mailbox", params={"to": "anna@example.ORG"})).json()
    assert shown["subject"] == "Ihre Bestellung ist unterwegs – 2 von 3"
    assert shown["text"].splitlines() == ["Zwei Stück sind unterwegs. €19,99"]
    assert shown["html"].splitlines() == ["<p>Zwei Stück <b>&lt;script&gt;</b></p>"]
    assert shown["recipients"] == ["anna@example.org"]
    assert {"name": "X-Notification-Id", "value": "n-1"} in shown["headers"]
    assert (await world.http.get(f"/mailbox/{shown['id']}")).json() == shown


async def test_every_mail_is_kept_even_when_it_comes_twice_and_newest_comes_first(world: World) -> None:
    for subject in ("first", "second", "second"):
        await deliver(world, mail(subject), ["anna@example.org", "bert@example.org"])
    await deliver(world, mail("third"), ["carla@example.org"])
    shown = (await world.http.get("/mailbox", params={"to": "bert@example.org"})).json()
    assert [m["subject"] for m in shown] == ["second", "second", "first"]
    newest = (await world.http.get("/mailbox", params={"limit": 1})).json()
    assert [m["subject"] for m in newest] == ["third"]


async def test_mails_survive_the_sandbox(tmp_path: Path) -> None:
    async with sandbox(tmp_path) as world:
        await deliver(world, mail(), ["anna@example.org"])
        before = (await world.http.get("/mailbox")).json()
    async with sandbox(tmp_path) as world:
        assert (await world.http.get("/mailbox")).json() == before != []


async def test_a_malformed_mail_hides_no_other(world: World) -> None:
    broken = (
        b'From: "<@;:\r\nMessage-ID: [\r\nSubject: =?no-such-set?q?x?=\r\n'
        b"Content-Type: text/plain; charset=no-such-set\r\n\r\ncaf\xc3\xa9 \xff\r\n"
    )
    await deliver(world, broken, ["anna@example.org"])
    await deliver(world, mail("whole"), ["anna@example.org"])
    whole, shown = (await world.http.get("/mailbox")).json()
    assert whole["subject"] == "whole"
    assert shown["text"].strip() == "café \ufffd"


async def test_what_is_too_large_or_not_there_is_refused(world: World) -> None:
    with pytest.raises(aiosmtplib.SMTPException):
        await deliver(world, b"Subject: big\r\n\r\n" + b"x" * 60 + b"\r\n" * 600_000, ["anna@example.org"])
    assert (await world.http.get("/mailbox")).json() == []
    unknown = await world.http.get("/mailbox/1")
    assert (unknown.status_code, unknown.json()["title"]) == (404, "Not known")
    assert (await world.http.get("/mailbox", params={"limit": 0})).status_code == 422


async def test_what_is_taken_is_told_delivered_or_bounced_by_a_signed_notice(world: World) -> None:
    await deliver(world, mail(message_id="<n-1@shop>"), ["anna@example.org"])
    await deliver(world, mail(message_id="<n-2@shop>"), ["bounces+of-anna@example.org"])
    await deliver(world, mail(message_id="<n-3@shop>"), ["silent@example.org"])
    await deliver(world, mail(message_id="<n-4@shop>"), ["twice@example.org"])
    told = sorted(await world.system.notices(4), key=lambda notice: notice["message_id"])
    assert [(n["type"], n["message_id"]) for n in told] == [
        ("mail.delivered", "<n-1@shop>"),
        ("mail.bounced", "<n-2@shop>"),
        ("mail.delivered", "<n-4@shop>"),
        ("mail.delivered", "<n-4@shop>"),
    ]
    assert told[1]["detail"] == "552 5.2.2 mailbox full"
    assert told[2]["webhook_id"] == told[3]["webhook_id"]
    assert {n["url"] for n in told} == {"http://notifications/webhooks/mail"}


async def test_a_recipient_is_refused_for_good_and_another_put_off_once(world: World) -> None:
    with pytest.raises(aiosmtplib.SMTPRecipientsRefused, match="550"):
        await deliver(world, mail(message_id="<n-1@shop>"), ["refused@example.org"])
    with pytest.raises(aiosmtplib.SMTPDataError, match="451"):
        await deliver(world, mail(message_id="<n-2@shop>"), ["later@example.org"])
    assert (await world.http.get("/mailbox")).json() == []
    await deliver(world, mail(message_id="<n-2@shop>"), ["later@example.org"])
    assert len((await world.http.get("/mailbox")).json()) == 1
    assert [n["message_id"] for n in await world.system.notices(1)] == ["<n-2@shop>"]


async def test_mail_to_a_name_beyond_ascii_is_taken_and_its_notice_holds_up_no_other(world: World) -> None:
    letter = mail(message_id="<n-1@shop>")
    await deliver(world, letter, ["jörg+😀@xn--bcher-kva.de"])
    await deliver(world, mail(message_id="<n-2@shop>"), ["anna@example.org"])
    told = await world.system.notices(2)
    assert {n["message_id"] for n in told} == {"<n-1@shop>", "<n-2@shop>"}
    assert all(n["webhook_id"].isascii() for n in told)
    (shown,) = (await world.http.get("/mailbox", params={"to": "jörg+😀@xn--bcher-kva.de"})).json()
    assert shown["recipients"] == ["jörg+😀@xn--bcher-kva.de"]


async def test_a_server_without_smtputf8_refuses_only_names_beyond_ascii(world: World) -> None:
    with pytest.raises(aiosmtplib.SMTPRecipientsRefused, match="553"):
        await deliver(world, mail(), ["ascii+jörg@example.org"])
    await deliver(world, mail(), ["ascii+joe@example.org"])
    assert len((await world.http.get("/mailbox")).json()) == 1


async def test_a_notice_that_cannot_be_sent_keeps_its_problem_and_the_others_go_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign = Webhook.sign

    def breaks(self: Webhook, msg_id: str, timestamp: datetime, data: str) -> str:
        if "<n-1@shop>" in data:
            raise ValueError("of this notice")
        return sign(self, msg_id, timestamp, data)

    monkeypatch.setattr(Webhook, "sign", breaks)
    await deliver(world, mail(message_id="<n-1@shop>"), ["anna@example.org"])
    await deliver(world, mail(message_id="<n-2@shop>"), ["anna@example.org"])
    assert [n["message_id"] for n in await world.system.notices(1)] == ["<n-2@shop>"]
    [broken] = await world.ledger.run(lambda db: notices_about(db, Receiver.NOTIFICATIONS, "<n-1@shop>"))
    assert broken.problem == "ValueError('of this notice')"
    assert broken.attempts >= 1
