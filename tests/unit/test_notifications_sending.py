"""Notifications: what becomes of a message on its way, and what people hold back."""

from collections.abc import Sequence
from email import message_from_string
from email.message import EmailMessage
from email.policy import SMTPUTF8

import pytest

from notifications.domain.decide import (
    RECORDED,
    Command,
    Outbox,
    RecordBounce,
    RecordDelivery,
    RecordFailure,
    RecordHeldBack,
    RecordSent,
    RecordStale,
    ResumeKind,
    Suppress,
    SuppressKind,
)
from notifications.domain.state import NOTIFICATION, Status, evolve
from notifications.gateway import Outgoing, RefusedForGood, message, message_id
from notifications.mails import Mail
from shared.contracts import fulfillment as f
from shared.contracts import returns as r
from shared.contracts.notifications import (
    NotificationCoalesced,
    NotificationFailed,
    NotificationKind,
    NotificationSent,
    NotificationSuppressed,
    NotificationSuppressionRequested,
)
from shared.core.machine import Invalid, NotAllowed
from tests.unit.notifications_story import (
    LATER,
    NOON,
    POLICY,
    PROMISED,
    REF,
    RETURN,
    Story,
    backordered,
    placed,
    shipped,
    slipped,
)

# Sending


def a_queued_one() -> Story:
    story = Story()
    story.heard(placed(), shipped(1, 1, ("1", 3)))
    return story


SENT, FAILED = RecordSent("o1-N1", "title"), RecordFailure("o1-N1", "550 no such user")
STALE, SUPPRESSED = RecordStale("o1-N1", "too old"), Suppress("o1-N1", "held back")
DELIVERED, BOUNCED = RecordDelivery("o1-N1", "title"), RecordBounce("o1-N1", "title", "mailbox full")


@pytest.mark.parametrize(
    ("commands", "status"),
    [
        ([SENT], Status.SENT),
        ([SENT, DELIVERED], Status.DELIVERED),
        ([SENT, BOUNCED], Status.BOUNCED),
        ([FAILED], Status.FAILED),
        ([STALE], Status.SUPPRESSED),
        ([SUPPRESSED], Status.SUPPRESSED),
    ],
)
def test_a_message_goes_its_way_once_and_told_again_nothing_happens(
    commands: Sequence[Command], status: Status
) -> None:
    story = a_queued_one()
    for command in commands:
        assert len(story.when(command)) == 1
        assert story.when(command) == []
    assert story.state.notifications["o1-N1"].status is status


@pytest.mark.parametrize(
    ("first", "then"),
    [(SENT, SUPPRESSED), (FAILED, SENT), (SUPPRESSED, SENT)],
)
def test_what_was_sent_or_given_up_stays_so(first: Command, then: Command) -> None:
    story = a_queued_one()
    story.when(first)
    with pytest.raises(NotAllowed):
        story.when(then)


@pytest.mark.parametrize(
    ("commands", "status"),
    [
        ([SENT, DELIVERED, BOUNCED], Status.BOUNCED),
        ([SENT, BOUNCED, DELIVERED], Status.BOUNCED),
        ([FAILED, DELIVERED], Status.DELIVERED),
        ([SUPPRESSED, DELIVERED], Status.DELIVERED),
        ([FAILED, BOUNCED], Status.FAILED),
    ],
)
def test_what_the_mail_provider_says_happened_is_recorded_whatever_we_thought(
    commands: Sequence[Command], status: Status
) -> None:
    story = a_queued_one()
    for command in commands:
        story.when(command)
    assert story.state.notifications["o1-N1"].status is status


@pytest.mark.parametrize(("said", "status"), [(DELIVERED, Status.DELIVERED), (BOUNCED, Status.BOUNCED)])
def test_what_the_mail_provider_says_before_its_sending_is_recorded_says_that_it_was_sent(
    said: Command, status: Status
) -> None:
    story = a_queued_one()
    sent, _ = story.when(said)
    assert isinstance(sent, NotificationSent)
    assert (sent.title, sent.statements) == ("title", story.state.notifications["o1-N1"].statements)
    for later in (said, SENT, FAILED, STALE):
        assert story.when(later) == []
    assert story.state.notifications["o1-N1"].status is status


def test_a_correction_that_is_delivered_before_its_sending_is_recorded_counts_as_sent() -> None:
    story = Story()
    story.heard(placed(), backordered(1, PROMISED))
    story.sent()
    [queued] = story.heard(slipped(PROMISED, LATER))
    facts = story.when(RecordDelivery(queued.notification_id, "title"))
    assert [fact.type for fact in facts] == [
        "notification.sent",
        "notification.correction_sent",
        "notification.delivered",
    ]


def test_what_was_sent_carries_its_statements() -> None:
    story = a_queued_one()
    [fact] = story.when(SENT)
    assert isinstance(fact, NotificationSent)
    assert fact.statements == story.state.notifications["o1-N1"].statements


def test_a_message_nobody_queued_is_refused() -> None:
    with pytest.raises(Invalid):
        Story().when(SENT)


def test_every_status_is_reachable() -> None:
    assert NOTIFICATION.broken_laws() == []


def test_a_coalesced_message_is_suppressed_and_says_where_it_was_told() -> None:
    state = evolve(a_queued_one().state, NotificationCoalesced(order_id="o1", notification_id="o1-N1", into_id="o1-N2"))
    assert (state.notifications["o1-N1"].status, state.notifications["o1-N1"].detail) == (
        Status.SUPPRESSED,
        "told in o1-N2",
    )


def test_every_noted_fact_is_understood() -> None:
    assert len(set(RECORDED)) == len(RECORDED)
    with pytest.raises(TypeError, match="nothing to tell"):
        Story().heard(f.ShipmentReleased(order_id="o1", shipment_id="o1-S1", packed=True))
    for own in (NotificationFailed, NotificationSuppressed):
        with pytest.raises(NotAllowed):
            state = evolve(a_queued_one().state, own(order_id="o1", notification_id="o1-N1", detail=""))
            evolve(state, own(order_id="o1", notification_id="o1-N1", detail=""))


def test_every_attempt_has_the_same_message_id_and_a_name_cannot_add_a_header() -> None:
    mail = Mail(
        to="ada@example.org", name="Ada\nBcc: all@example.org", title="title", text="text\n", html="<p>text</p>"
    )
    first, second = (read(message("o1-N1", mail, "shop@example.org", NOON)) for _ in range(2))
    assert first["Message-ID"] == second["Message-ID"] == message_id("o1-N1") != message_id("o1-N2")
    assert (first["Date"], first["Auto-Submitted"]) == ("Mon, 04 May 2026 12:00:00 +0000", "auto-generated")
    assert first["To"] == '"Ada Bcc: all@example.org" <ada@example.org>'
    assert first["Bcc"] is None


def read(outgoing: Outgoing) -> EmailMessage:
    """As its recipient's program reads it."""
    mail = message_from_string(outgoing.content.decode(), policy=SMTPUTF8)
    assert isinstance(mail, EmailMessage)
    return mail


@pytest.mark.parametrize(
    ("address", "sent_to", "needs_utf8"),
    [
        ("jörg@bücher.de", "jörg@xn--bcher-kva.de", True),
        ("ada@straße.de", "ada@xn--strae-oqa.de", False),
        ('"a@b"@example.org', '"a@b"@example.org', False),
        ("用户@例え.jp", "用户@xn--r8jz45g.jp", True),
    ],
)
def test_a_domain_is_written_in_ascii_and_a_local_part_as_it_is(address: str, sent_to: str, needs_utf8: bool) -> None:
    outgoing = message("o1-N1", Mail(to=address, name="Jörg", title="t", text="t", html="t"), "shop@example.org", NOON)
    assert (outgoing.recipient, outgoing.needs_utf8) == (sent_to, needs_utf8)
    [to] = read(outgoing)["To"].addresses
    assert (to.display_name, str(to.addr_spec)) == ("Jörg", sent_to)


@pytest.mark.parametrize(
    "address", ["ada", "a\r\nb@example.org", "a>b@example.org", "a b@example.org", f"{'x' * 309}@example.org"]
)
def test_an_address_that_mail_can_never_go_to_is_refused_with_a_reason(address: str) -> None:
    with pytest.raises(RefusedForGood, match=r": (The|An|It) "):
        message("o1-N1", Mail(to=address, name="Ada", title="t", text="t", html="t"), "shop@example.org", NOON)


def test_markup_in_a_name_or_title_is_shown_as_it_is_and_never_run() -> None:
    story = Story()
    story.heard(placed(name="<script>alert(1)</script>{{ 7 * 7 }}"), shipped(1, 1, ("1", 3)))
    mail = story.mail()
    assert mail.text.startswith("Hello <script>alert(1)</script>{{ 7 * 7 }},\n")
    assert "Hello &lt;script&gt;alert(1)&lt;/script&gt;{{ 7 * 7 }}," in mail.html
    assert "<script" not in mail.html


def test_reasons_a_person_wrote_are_literal_in_html() -> None:
    story = Story()
    text = "<img src=x onerror=alert(1)>\n'; DROP TABLE orders; -- =1+1 \u202eabc"
    story.heard(placed(), r.ReturnDeclined(**RETURN, reasons=(r.Why(code="note", text=text),), policy=REF))
    html = story.mail().html
    assert "&lt;img src=x onerror=alert(1)&gt;" in html
    assert "<img" not in html
    assert "DROP TABLE orders; -- =1+1" in html


# Held back by people


def test_a_person_holds_back_what_is_not_being_sent() -> None:
    story = a_queued_one()
    story.outbox = Outbox(POLICY, idle=frozenset({"o1-N1"}))
    [fact] = story.when(SUPPRESSED)
    assert isinstance(fact, NotificationSuppressed)


def being_sent_and_held_back() -> Story:
    story = a_queued_one()
    story.taken()
    [fact] = story.when(SUPPRESSED)
    assert isinstance(fact, NotificationSuppressionRequested)
    assert story.when(SUPPRESSED) == []
    assert story.state.notifications["o1-N1"].status is Status.QUEUED
    return story


def test_what_is_held_back_while_it_is_being_sent_is_not_tried_again() -> None:
    story = being_sent_and_held_back()
    [fact] = story.when(RecordHeldBack("o1-N1"))
    assert isinstance(fact, NotificationSuppressed) and fact.detail == "held back"
    assert story.when(RecordHeldBack("o1-N1")) == []


def test_an_attempt_that_succeeds_all_the_same_is_recorded_as_sent() -> None:
    story = being_sent_and_held_back()
    assert isinstance(story.when(SENT)[0], NotificationSent)
    assert story.when(RecordHeldBack("o1-N1")) == []
    assert story.state.notifications["o1-N1"].status is Status.SENT


def test_what_is_held_back_is_not_told_in_a_later_message_either() -> None:
    story = Story()
    story.heard(placed(), backordered(1, PROMISED))
    story.taken()
    story.when(SUPPRESSED)
    story.outbox = Outbox(POLICY, idle=frozenset({"o1-N1"}))
    story.heard(slipped(PROMISED, LATER))
    assert not [fact for fact in story.told if isinstance(fact, NotificationCoalesced)]


def test_a_kind_that_is_held_back_is_queued_and_not_sent_until_it_is_resumed() -> None:
    story = Story()
    mute = SuppressKind(NotificationKind.SHIPMENT, "held back by agent:anna: quarrel")
    story.heard(placed())
    assert len(story.when(mute)) == 1
    assert story.when(mute) == []
    [queued] = story.heard(shipped(1, 3, ("1", 1)))
    held = story.state.notifications[queued.notification_id]
    assert (held.status, held.detail) == (Status.SUPPRESSED, "held back by agent:anna: quarrel")
    story.when(ResumeKind(NotificationKind.SHIPMENT, "settled"))
    assert story.when(ResumeKind(NotificationKind.SHIPMENT, "settled")) == []
    [queued] = story.heard(shipped(2, 3, ("1", 1)))
    assert story.state.notifications[queued.notification_id].status is Status.QUEUED


def test_a_correction_is_sent_even_where_its_kind_is_held_back() -> None:
    story = Story()
    story.heard(placed(), backordered(1, PROMISED))
    story.sent()
    story.when(SuppressKind(NotificationKind.BACKORDER_REVISED, "quarrel"))
    [queued] = story.heard(slipped(PROMISED, LATER))
    assert story.state.notifications[queued.notification_id].status is Status.QUEUED


def test_pauses_between_attempts_double_up_to_the_longest() -> None:
    assert [POLICY.pause_after(n).seconds for n in (1, 2, 3, 6, 1000)] == [2, 4, 8, 60, 60]
