"""No mail says what the summary denies: every sentence of every mail is held against the state it is sent in.

The whole system lives a story; notifications and the view hear each of its facts, and after every transaction what is
queued is composed as a sender would. A sentence that no rule below knows fails the test, so that none is written unheld.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from itertools import groupby
from typing import Any, Final

from hypothesis import given, settings
from hypothesis import strategies as st

from notifications.domain.decide import RECORDED, Outbox, RecordFact, RecordSent, decide, evolve_context
from notifications.domain.state import Notification, OrderNotifications, Status, evolve, invariants
from notifications.mails import Mail, composed
from shared.contracts.base import PREPAID, Bucket
from shared.contracts.returns import ReturnRequested
from support_view.projection import Projection, fold_contiguous, projection_of
from support_view.summary import Summary, summarize
from tests.properties.test_support_view import entry_of
from tests.properties.test_support_view_agrees import play
from tests.properties.test_system import Step, step
from tests.properties.world import Entry, Service, World
from tests.telling import ESCALATIONS
from tests.unit.notifications_story import POLICY

TO_BE_SENT: Final = (Bucket.UNALLOCATED, Bucket.ALLOCATED, Bucket.BACKORDERED, Bucket.PACKED)
ON_ACCOUNT: Final = frozenset({"cash_on_delivery", "invoice"})
OF_CUSTOMER: Final = frozenset({"payment", "address", "customer_consent", "awaiting_return"})


@dataclass(frozen=True, slots=True)
class Case:
    """A mail and the state it is sent in."""

    notification: Notification
    state: OrderNotifications
    summary: Summary
    resolutions: dict[str, str]
    """By return: what it is to lead to."""

    def units(self, *buckets: Bucket) -> dict[str, int]:
        """By title."""
        found: dict[str, int] = {}
        for line in self.summary.lines:
            found[line.title] = found.get(line.title, 0) + sum(line.forward[bucket] for bucket in buckets)
        return {title: n for title, n in found.items() if n}

    @property
    def holds(self) -> set[str]:
        return {hold.hold for hold in self.summary.order.holds}

    @property
    def kinds(self) -> set[str]:
        assert self.state.recipient is not None
        return {str(tender.kind) for tender in self.state.recipient.tenders}

    @property
    def matter(self) -> Any:
        return self.notification.matter

    @property
    def refund(self) -> Any:
        return next(r for r in self.summary.refunds if r.refund_id == self.matter.refund_id)

    @property
    def returned(self) -> Any:
        return next(r for r in self.summary.returns if r.return_id == self.matter.return_id)

    @property
    def recovery(self) -> Any:
        """None of what an exchange costs more, which has no case."""
        return next((r for r in self.summary.recoveries if r.recovery_id == self.matter.recovery_id), None)

    @property
    def claim(self) -> Any:
        return next(claim for claim in self.summary.claims if claim.claim_id == self.matter.claim_id)

    @property
    def resolution(self) -> str | None:
        return self.resolutions.get(self.matter.return_id)


Check = Callable[[Case], bool]


def always(_: Case) -> bool:
    """A wish, a greeting, or what is true of any such message."""
    return True


SENTENCES: Final[tuple[tuple[str, Check], ...]] = (
    (r"Hello Ada,", always),
    # Orders
    (r"Thank you for your order \S+\.", lambda c: c.summary.order.status != "rejected"),
    (r"We have everything we need, and write again when something of it is on its way\.", always),
    (r"We could not accept your order \S+: the payment was declined\.", lambda c: c.summary.order.status == "rejected"),
    (r"We could not accept your order \S+\.", lambda c: c.summary.order.status == "rejected"),
    (r"Nothing is charged, and nothing will be sent\.", lambda c: not c.summary.totals.captured.minor),
    (r"Each parcel is charged when it leaves\.", lambda c: not c.kinds & (ON_ACCOUNT | PREPAID)),
    (r"\S+ is taken from your gift card at once\.", lambda c: "gift_card" in c.kinds),
    (r"\S+ is taken from your store credit at once\.", lambda c: "store_credit" in c.kinds),
    (r"\S+ is charged parcel by parcel, when each leaves\.", lambda c: bool(c.kinds - ON_ACCOUNT - PREPAID)),
    (r"You pay \S+ when it is handed to you, parcel by parcel\.", lambda c: "cash_on_delivery" in c.kinds),
    (r"You pay \S+ by invoice\.", lambda c: "invoice" in c.kinds),
    # Parcels
    (r"(Parcel \d+ of \d+ of|The parcel of) your order \S+ is on its way with \S+\.", lambda c: has_left(c)),
    (r"This is the last of your order; nothing more is to be sent\.", lambda c: not c.units(*TO_BE_SENT)),
    (r"For this parcel we charged \S+; for the whole order so far, \S+\.", lambda c: bool(c.kinds - ON_ACCOUNT)),
    (r"For this parcel nothing more has been charged so far; for the whole order, \S+\.",
     lambda c: c.summary.totals.captured.minor > 0),
    (r"Nothing has been charged for this order yet\.", lambda c: not c.summary.totals.captured.minor),
    (r"You pay \S+ when it is handed to you\.", lambda c: "cash_on_delivery" in c.kinds),
    (r"You pay \S+ for it by invoice\.", lambda c: "invoice" in c.kinds),
    (r"The carrier has delivered a parcel of your order \S+\.", lambda c: bool(c.units(Bucket.DELIVERED))),
    (r"Did it not reach you, or is something wrong with it\?", always),
    (r"Just reply to this mail\.", always),
    (r"The carrier tells us that a parcel of your order takes longer than planned\.", always),
    (r"The carrier tried to hand over a parcel of your order and found nobody\.", always),
    (r"It will try again, or leave a note where to collect it\.", always),
    (r"The carrier cannot find your address for a parcel of your order\.", always),
    (r"Please reply with what is missing on the label: a name, a floor, a number\.", always),
    (r"A parcel of your order is held by customs\.", always),
    (r"We look after it, and write if something is needed from you\.", always),
    (r"The carrier tells us that a parcel of your order was damaged\.", always),
    (r"If something in it is broken when it arrives, just reply to this mail, and a person looks at it\.", always),
    (r"You told us that a parcel of your order did not arrive\.", lambda c: not shipment_is(c, "delivered")),
    (r"We are asking the carrier where it is, and write as soon as we know\.", lambda c: not shipment_is(c, "delivered")),
    (r"The carrier has lost a parcel of your order\.", lambda c: bool(c.units(Bucket.LOST)) or not shipment_is(c, "delivered")),
    (r"A person here decides with you how it is settled: .* paid back\.", always),
    (r"The carrier has found a parcel of your order that was lost\.", lambda c: not shipment_is(c, "lost")),
    (r"It is on its way to you\.", lambda c: bool(c.units(Bucket.IN_TRANSIT))),
    (r"The carrier could not hand over a parcel of your order, and has brought it back to us\.",
     lambda c: not shipment_is(c, "delivered")),
    (r"Please reply to this mail: do you want it sent again, .* cancel it\?", always),
    (r"We are sorry\.", always),
    (r"A parcel of your order left with the address before on its label\.", lambda c: has_left(c)),
    (r"A person here looks after it; please reply to this mail if it cannot reach you there\.", always),
    # Backorders
    (r"This is not in stock just now, and follows in a parcel of its own\.", lambda c: is_backordered(c)),
    (r"What you were waiting for is here by now, or was called off\.", lambda c: not is_backordered(c)),
    (r"We have a new date for what you are waiting for: .* instead of .*\.", lambda c: is_backordered(c)),
    (r"We have a date for what you are waiting for: .*\.", lambda c: is_backordered(c)),
    (r"We are sorry that it changed\.", always),
    (r"What you are waiting for has no date any more\.", lambda c: is_backordered(c)),
    (r"We are sorry, and write as soon as there is one\.", always),
    (r"If we do not hear from you by .* UTC, we .*\.", lambda c: is_backordered(c)),
    (r"You need not do anything\.", lambda c: not c.holds & OF_CUSTOMER),
    (r"It is charged when it leaves, and not before\.", lambda c: not c.kinds & (ON_ACCOUNT | PREPAID)),
    (r"It is not charged before it leaves\.", lambda c: not c.kinds & PREPAID),
    (r"It is paid with your .*\.", lambda c: c.kinds <= PREPAID),
    (r"It is paid when it is handed to you\.", lambda c: c.kinds == {"cash_on_delivery"}),
    (r"It is paid by invoice\.", lambda c: c.kinds == {"invoice"}),
    (r"What your .* does not cover is charged when it leaves, and not before\.", lambda c: bool(c.kinds & PREPAID)),
    # Cancellations
    (r"This part of your order \S+ is cancelled; the rest comes as before\.",
     lambda c: bool(c.units(*TO_BE_SENT)) and bool(c.units(Bucket.CANCELLED))),
    (r"This part of your order \S+ is cancelled\.", lambda c: bool(c.units(Bucket.CANCELLED))),
    (r"Nothing more of it is to be sent; what is on its way comes as before\.",
     lambda c: not c.units(*TO_BE_SENT) and bool(c.units(Bucket.IN_TRANSIT))),
    (r"This is cancelled, and nothing more of your order \S+ is to be sent\.",
     lambda c: not c.units(*TO_BE_SENT, Bucket.IN_TRANSIT)),
    (r"Nothing has been charged for it, and nothing will be\.", lambda c: not c.summary.totals.captured.minor),
    (r"You paid more than the rest of your order costs\.", lambda c: is_overpaid(c)),
    (r"The difference comes back to you; we write when it is on its way\.", lambda c: is_overpaid(c)),
    (r"What you paid so far is for the rest of your order\.", lambda c: not is_overpaid(c)),
    (r"If you have paid more than the rest of your order costs, the difference comes back to you, .*\.", always),
    # Holds and addresses
    (r"What your order \S+ waited for is settled\.?", lambda c: c.matter.hold not in c.holds),
    (r"What your order \S+ waited for is settled, and it goes on\.", lambda c: not c.holds & OF_CUSTOMER),
    (r"The payment for what is still to come of your order \S+ did not go through, .*\.", lambda c: "payment" in c.holds),
    (r"We cannot send your order \S+ to the address that we have, .*\.", lambda c: "address" in c.holds),
    (r"Something of your order \S+ is sent when what you send back has arrived\.", lambda c: "awaiting_return" in c.holds),
    (r"It waits until its payment goes through: .*\.", lambda c: "payment" in c.holds),
    (r"It waits until we know where to send it: .*\.", lambda c: "address" in c.holds),
    (r"It waits until what you send back has arrived\.", lambda c: "awaiting_return" in c.holds),
    (r"It waits until you have answered what we asked about its date\.", lambda c: "customer_consent" in c.holds),
    (r"What has not left yet of your order \S+ goes to this address:", always),
    (r"If that is not right, just reply to this mail\.", always),
    # Returns
    (r"We have your request to return what is listed here\.", always),
    (r"We look at it, and write what is decided\.", lambda c: c.returned.status == "requested"),
    (r"Something of your order came back to us that no return was open for\.", lambda c: c.returned.status == "under_review"),
    (r"A person looks at it, and we write what is decided\.", lambda c: c.returned.status == "under_review"),
    (r"A person looks at your return \S+, and we write what is decided\.", lambda c: c.returned.status == "under_review"),
    (r"What came back to us is accepted as a return\.", lambda c: bool(c.returned.received)),
    (r"What of it is with us is sent back to you\.", lambda c: c.returned.status in ("cancelled", "declined")),
    (r"A person looks at your return \S+\.", lambda c: c.returned.status == "under_review"),
    (r"We write what is decided; please send nothing back before\.", lambda c: c.returned.status == "under_review"),
    (r"Your return \S+ is called off\.", lambda c: c.returned.status == "cancelled"),
    (r"Please send nothing back for it\.", lambda c: c.returned.status == "cancelled"),
    (r"Please keep what is listed here: nothing needs to be sent back\.", lambda c: c.resolution == "keep_it"),
    (r"Please send back what is listed here by .*\.",
     lambda c: c.resolution != "keep_it" and c.returned.status not in ("declined", "cancelled", "under_review")),
    (r"Write the number of the return on the parcel\.", lambda c: c.resolution != "keep_it"),
    (r"Sending it back costs \S+, which is taken off what is paid back unless we find the goods faulty\.",
     lambda c: c.resolution in ("refund", "store_credit")),
    (r"We looked at your return \S+, and cannot accept it\.", always),
    (r"All the reasons:", always),
    (r"If you think that this is wrong, just reply to this mail, and a person looks at it\.", always),
    (r"Everything of your return has arrived\.", lambda c: c.returned.status not in ("approved", "in_transit", "expired")),
    (r"A part of your return has arrived\.", lambda c: c.returned.status not in ("approved", "in_transit")),
    (r"We look at it now\.", always),
    (r"We look at it now, and wait for the rest\.", always),
    (r"We looked at what you sent back\.", lambda c: c.returned.status not in ("approved", "in_transit", "expired")),
    (r"This is how we found it:", always),
    (r"We write again when the money is on its way to you\.", lambda c: c.returned.due is not None),
    (r"If money comes back to you for it, we write with the amount when it is on its way\.",
     lambda c: c.resolution in (None, "refund", "store_credit", "keep_it")),
    (r"We write when what you get instead is on its way\.", lambda c: c.resolution in ("exchange", "replace_on_receipt")),
    (r"Nothing of your return \S+ arrived in time, so it has expired\.", lambda c: True),
    (r"If it is on its way, tell us its tracking number\.", always),
    # Refunds
    (r"We have sent \S+ back to you for your order \S+:", lambda c: c.refund.status != "requested"),
    (r"Your refund of \S+ for order \S+ is complete:", lambda c: c.refund.status == "succeeded"),
    (r"\S+ for your order \S+ could not be paid out to you\.", lambda c: c.refund.status != "succeeded"),
    (r"We look for another way, and write which one\.", lambda c: c.refund.status != "succeeded"),
    (r"Your refund of \S+ for order \S+ takes another way, since the first one failed\.",
     lambda c: c.refund.status != "succeeded"),
    (r"We write again when the money has arrived\.", lambda c: c.refund.status != "succeeded"),
    (r"There is nothing more to be paid back for your order \S+: all of it was paid back to you before\.",
     lambda c: c.refund.status == "rejected"),
    (r"A refund of \S+ for your order \S+ is not paid out\.", lambda c: c.refund.status in ("rejected", "cancelled")),
    # Claims
    (r"We have your claim \S+ for what is listed here\.", always),
    (r"A person looks at it, and we write what is decided( by .*)?\.", lambda c: c.claim.outcome != "rejected"),
    (r"Your claim \S+ is accepted\.", lambda c: c.claim.outcome in ("refunded", "replaced")),
    (r"We looked at your claim \S+, and cannot accept it\.", lambda c: c.claim.outcome == "rejected"),
    (r"We send you again what is listed here, and write when it is on its way\.", lambda c: c.claim.outcome == "replaced"),
    (r"\S+ comes back to you for it, and we write again when the money is on its way\.",
     lambda c: c.claim.outcome == "refunded"),
    (r"What is to be paid back for it, we wrote of in mails of its own\.", lambda c: c.claim.outcome == "refunded"),
    (r"Your return \S+ is closed\.", lambda c: c.returned.status in ("closed", "reopened")),
    (r"Nothing more needs to be sent back for it\.", always),
    (r"If something of it is still open for you, just reply to this mail\.", always),
    # What is held and not paid
    (r"(What you sent back could not be accepted|What was to be sent back has not arrived), and was paid back or replaced "
     r"before\.", always),
    (r"What had been lost was found after it was (paid back|sent) to you( again)?\.", always),
    (r"More was paid back to you than was due\.", always),
    (r"Something of your order is with you and is not paid\.", always),
    (r"\S+ of your order \S+ is open, therefore\.", always),
    (r"Please reply to this mail by .*, so that we settle it with you\.", always),
    (r"We tried to charge \S+ of your order \S+ for it, and the payment was not accepted\.",
     lambda c: c.recovery is None or (c.recovery.how == "" and not c.recovery.is_charged)),
    (r"Please reply to this mail, so that we settle it with you another way\.",
     lambda c: c.recovery is None or c.recovery.how == ""),
    (r"What you chose in exchange costs more than what you send back for it\.", always),
    (r"We charge \S+ of your order \S+ for it, and write when that is done\.", always),
    (r"What had been lost was paid back to you and sent to you again as well\.", always),
    (r"With what we agreed with you, it is settled\.", always),
    (r"You need not pay it any more: it is settled\.", always),
    (r"\S+ was charged for it\.", always),
    (r"With that it is settled\.", always),
    (r"You need not pay anything for it: it is settled\.", always),
    (r"The goods are back with us\.", always),
    # Corrections
    (r"On .*, 2026 we wrote that .*\.", always),
    (r"That is not so any more\.", lambda c: bool(c.notification.corrects)),
)  # fmt: skip
"""Every sentence there is, and what must be so in the summary when it is sent. Names are matched as they stand."""

HEADINGS: Final[dict[str, Check]] = dict.fromkeys(
    ("In it", "Ordered", "Claimed", "Waiting for goods", "Cancelled", "Cancelled, and not coming", "Arrived", "Inspected", "To keep",
     "To send back", "Accepted", "Asked to return", "Why", "New address", "The rest of what you asked for cannot come back",
     "That is later than we promised, so please choose; you can", "Still to come", "On its way",
     "On its way, to the address before"),
    always,
)  # fmt: skip


def has_left(c: Case) -> bool:
    return shipment(c).status not in ("created", "packed", "held", "cancelled")


def shipment(c: Case) -> Any:
    return next(s for s in c.summary.shipments if s.shipment_id == c.matter.shipment_id)


def shipment_is(c: Case, *statuses: str) -> bool:
    return shipment(c).status in statuses


def is_backordered(c: Case) -> bool:
    return any(b.backorder_id == c.matter.backorder_id and b.remaining for b in c.summary.backorders)


def is_overpaid(c: Case) -> bool:
    return c.summary.totals.captured.minor > c.summary.totals.remaining.minor


ITEM: Final = re.compile(r"  (\d+) x (.+?)(?:: (.*))?$")
SENTENCE: Final = re.compile(r"(?<=[.:?,]) (?=[A-Z€\d])")
COMPILED: Final = tuple((re.compile(pattern), check) for pattern, check in SENTENCES)


def hold_against_summary(mail: Mail, case: Case) -> None:
    """Raises where a sentence, a list or a row of the mail is unknown, or denied by the summary."""
    for block in mail.text.strip().split("\n\n"):
        first, _, rest = block.partition("\n")
        if first.endswith(":") and first[:-1] in HEADINGS:
            hold_list(first[:-1], rest.split("\n"), case)
        elif is_sentence(block):
            hold_sentences(" ".join(block.split()), case)
        else:  # rows: amounts and names, which tests of their own compare
            for line in block.split("\n"):
                assert re.fullmatch(r"[^:]+: .+", line), f"neither a sentence that is known nor a row: {line}"


def is_sentence(block: str) -> bool:
    text = " ".join(block.split()).replace("\xa0", "").replace("\u202f", "")
    return any(pattern.match(text) for pattern, _ in COMPILED)


def hold_sentences(text: str, case: Case) -> None:
    """The longest run of words that is a sentence, one after the other, to the end of the paragraph."""
    text = text.replace("\xa0", "").replace("\u202f", "")
    while text:
        ends = [m.end() for m in re.finditer(r"[.:?,](?= |$)", text)]
        found = [(text[:end], check) for end in ends for pattern, check in COMPILED if pattern.fullmatch(text[:end])]
        assert found, f"no rule knows: {text}"
        sentence, check = found[0]
        assert check(case), f"{sentence!r} is denied by the summary"
        text = text[len(sentence) :].strip()


def hold_list(heading: str, lines: list[str], case: Case) -> None:
    if lines[0].startswith("  - "):
        return
    items: dict[str, int] = {}
    for line in lines:
        found = ITEM.fullmatch(line)
        assert found, line
        items[found[2]] = items.get(found[2], 0) + int(found[1])
        if found[3] == "is being prepared":
            assert not case.holds, "held, and not being prepared"
        if heading == "Still to come" and found[3] and found[3].startswith("we wait for goods"):
            assert found[2] in case.units(Bucket.BACKORDERED), f"{found[2]} does not wait for goods"
    if heading == "Still to come":
        assert items == case.units(*TO_BE_SENT), f"to come: {items} is not {case.units(*TO_BE_SENT)}"
    if heading.startswith("On its way"):
        assert items == case.units(Bucket.IN_TRANSIT), f"on its way: {items} is not {case.units(Bucket.IN_TRANSIT)}"


class Words(HTMLParser):
    """What an HTML mail says, and whether it closes what it opens."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.said: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open and "title" not in self.open:
            self.said.append(data)


def hold_both_forms(mail: Mail) -> None:
    """Text and HTML say the same; nothing is left unfilled; the subject fits."""
    assert len(mail.title) < 80
    assert not re.search(r"\{\{|\}\}|\bNone\b|Undefined|  +\S+ \(|\[\]", mail.text), mail.text
    read = Words()
    read.feed(mail.html)
    assert read.open == []
    html = re.sub(r"\W+", "", "".join(read.said)).lower()
    for line in mail.text.splitlines():
        for word in re.findall(r"\w{4,}", line.lower()):
            assert word in html, (word, line)


def transactions(world: World, order_id: str) -> Iterator[list[Entry]]:
    """All that the services told of an order, in the order in which it was committed."""
    entries = [entry for service in Service for entry in world.journal.get((service, order_id), ())]
    entries.sort(key=lambda entry: entry.cause.id.int)
    for _, together in groupby(entries, lambda entry: entry.cause.causation_id):
        yield list(together)


def hold_every_mail(world: World, order_id: str, every: int) -> int:
    """Compose after each transaction, and send after every so many of them; returns how many mails were held."""
    state, outbox = OrderNotifications(order_id), Outbox(POLICY)
    sections: dict[str, Projection[Any]] = {}
    resolutions: dict[str, str] = {}
    held = 0
    for number, together in enumerate(transactions(world, order_id), 1):
        for entry in together:
            fact, service = entry.fact, entry.fact.service
            sequence = entry.cause.sequence
            assert sequence is not None
            seen = entry_of(fact, sequence)
            sections[service] = fold_contiguous(
                service, sections.get(service) or projection_of(service), {sequence}, [seen], None
            )
            assert sections[service].next == sequence + 1, "the view could not fold it"
            if isinstance(fact, ReturnRequested):
                resolutions[fact.return_id] = fact.resolution.value
            if type(fact) in RECORDED:
                for told in decide(state, RecordFact(fact, str(entry.cause.id), sequence, entry.cause.at), outbox):
                    state, outbox = evolve(state, told), evolve_context(outbox, told)
                assert invariants(state) == []
        queued = [(id, n) for id, n in state.notifications.items() if n.status is Status.QUEUED]
        if not queued:
            continue
        summary = summarize(order_id, sections, ESCALATIONS)
        for id, notification in queued:
            mail = composed(state, notification)
            case = Case(notification, state, summary, resolutions)
            try:
                hold_both_forms(mail)
                hold_against_summary(mail, case)
            except Exception as error:
                error.add_note("\n".join([f"{notification.kind}:", mail.text, "The story:", *world.said]))
                raise
            held += 1
            if number % every == 0:
                for told in decide(state, RecordSent(id, mail.title), outbox):
                    state = evolve(state, told)
                outbox = Outbox(POLICY, outbox.unread - {id})
    return held


@settings(max_examples=settings().max_examples)
@given(st.integers(0, 26), st.integers(0, 7), st.lists(step, max_size=40), st.integers(1, 4))
def test_no_mail_says_what_the_summary_denies(which: int, how: int, steps: list[Step], every: int) -> None:
    world = play(which, how, steps)
    for id in world.orders:
        hold_every_mail(world, id, every)
