"""Figures on a real PostgreSQL: the same to the digit as the oracle has them from the journals, and their scenarios."""

import csv
import io
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from itertools import groupby
from math import ceil
from typing import Any, Final, TypeAlias
from uuid import NAMESPACE_OID, uuid5

import asyncpg
import httpx
import pytest
from uuid_utils.compat import uuid7

from notifications.domain.decide import (
    RECORDED,
    Command,
    Outbox,
    RecordBounce,
    RecordDelivery,
    RecordFact,
    RecordFailure,
    RecordSent,
    RecordStale,
    Suppress,
    decide,
    evolve_context,
)
from notifications.domain.state import OrderNotifications, evolve
from shared.contracts.base import PolicyRef
from shared.contracts.notifications import (
    Claim,
    NotificationContradicted,
    NotificationKind,
    NotificationQueued,
    NotificationSent,
    Statement,
)
from shared.contracts.orders import OrderPlaced
from shared.contracts.payments import (
    PaymentAnomalyDetected,
    PaymentOpened,
    RefundLegReversed,
    RefundLegSucceeded,
    RefundRequested,
)
from shared.contracts.support import (
    CaseReopened,
    CaseResolved,
    Channel,
    Clocks,
    ContactReceived,
    Direction,
    EscalationAcknowledged,
    EscalationAssigned,
    EscalationCleared,
    EscalationRaised,
    RootCauseTag,
)
from shared.core.machine import Invalid
from shared.runtime import build
from shared.web.auth import issue
from support_view import store
from support_view.app import router
from support_view.domain import causes
from support_view.domain.causes import Causes, EvidencedCause, OverrideCause, WithdrawOverride
from support_view.domain.policies import CausePolicy, CauseRule
from support_view.domain.timeline import Entry
from support_view.figures.api import CountedRow, asked, figure_of, neutral, read_figure, read_rows
from support_view.figures.definitions import FIGURES, LAG, Kind
from tests.backends import Backends
from tests.databases import AUTH_KEY
from tests.oracle import Oracle, agree, see
from tests.properties.test_system import KINDS, begin
from tests.properties.world import NOON, World
from tests.telling import START, Telling, confirmed_order, split_order, whole_story
from tests.unit.notifications_story import POLICY

NewDatabase = Callable[[str], Awaitable[str]]
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"


@pytest.fixture
async def dsn(new_database: NewDatabase) -> str:
    return await new_database("support_view")


@pytest.fixture
async def pool(dsn: str) -> AsyncIterator[Pool]:
    async with asyncpg.create_pool(dsn, min_size=0, max_size=4) as pool:
        yield pool


@pytest.fixture
async def oracle(dsn: str) -> AsyncIterator[Oracle]:
    db = await asyncpg.connect(dsn)
    made = Oracle(db)
    await made.begin()
    yield made
    await db.close()


@pytest.fixture
async def client(backends: Backends, dsn: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[httpx.AsyncClient]:
    monkeypatch.setenv("OMS_DATABASE_URL", dsn)
    monkeypatch.setenv("OMS_KAFKA", backends.kafka)
    monkeypatch.setenv("OMS_AUTH_KEY", AUTH_KEY)
    app = build("support-view", router=router, publishes=False)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(app.router.lifespan_context(app))
        transport = httpx.ASGITransport(app)
        yield await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://view.test"))


def bearer(role: str = "supervisor") -> dict[str, str]:
    return {"Authorization": f"Bearer {issue(AUTH_KEY, subject='sue', roles=[role])}"}


async def tell(pool: Pool, entries: Sequence[Entry], *, size: int = 500) -> None:
    """In batches, as the consumer takes them."""
    for start in range(0, len(entries), size):
        told = [store.StoredFact(entry, entry.fact.model_dump_json()) for entry in entries[start : start + size]]
        async with pool.acquire() as db, db.transaction():
            await store.add(db, told)


async def behind(pool: Pool, key: str, start: datetime, end: datetime, which: str) -> Sequence[CountedRow]:
    async with pool.acquire() as db:
        days = asked(start.date(), end.date(), end)
        return (await read_rows(db, FIGURES[key], days, which, None, None, None, 1000)).rows  # type: ignore[arg-type]


def journals_of(world: World, name: str) -> list[Entry]:
    """What the four services told of the world's orders, under names of its own."""
    return [
        Entry(
            id=str(uuid5(NAMESPACE_OID, f"{name} {entry.cause.id}")),
            service=service,
            subject=f"{name}-{key}",
            sequence=sequence,
            fact=entry.fact.model_copy(update={"order_id": f"{name}-{key}"}),
            occurred_at=entry.cause.at,
            actor=entry.cause.actor,
            reason=entry.cause.reason,
            correlation_id=entry.cause.correlation_id,
        )
        for (service, key), written in world.journal.items()
        if key in world.orders
        for sequence, entry in enumerate(written, 1)
    ]


def told_to_customers(entries: Sequence[Entry], chance: random.Random) -> list[Entry]:
    """What notifications make of an order's facts, heard by and by; mails are sent, wait, fail, bounce, or are held back."""
    subject = entries[0].subject
    state, outbox = OrderNotifications(subject), Outbox(POLICY)
    told: list[Entry] = []

    def process(command: Command, at: datetime, actor: str) -> None:
        nonlocal state, outbox
        for fact in decide(state, command, outbox):
            state, outbox = evolve(state, fact), evolve_context(outbox, fact)
            id = str(uuid5(NAMESPACE_OID, f"{subject} told {len(told)}"))
            told.append(Entry(id, "notifications", subject, len(told) + 1, fact, at, actor, "test", "test"))

    for heard in sorted(entries, key=lambda entry: entry.occurred_at):
        if isinstance(heard.fact, RECORDED):
            process(RecordFact(heard.fact, heard.id, heard.sequence, heard.occurred_at), heard.occurred_at, heard.actor)
        for id, message in state.notifications.items():
            at = heard.occurred_at + timedelta(minutes=chance.randint(0, 60))
            by_the_sender: list[Command] = []
            if message.status == "queued" and chance.random() < 0.3:
                by_the_sender = [*[RecordSent(id, "sent")] * 6, RecordFailure(id, ""), RecordStale(id, "")]
                if id in outbox.unread and chance.random() < 0.1:
                    process(Suppress(id, "not now"), at, "agent:ann")
                    continue
                outbox = replace(outbox, unread=outbox.unread - {id})
            elif message.status == "sent" and chance.random() < 0.1:
                by_the_sender = [RecordDelivery(id, "sent"), RecordBounce(id, "sent", "")]
            if by_the_sender:
                process(chance.choice(by_the_sender), at, "service:notifications")
    return told


LIVELY: Final = (
    "ask return",
    "decide return",
    "receive",
    "inspect",
    "revise",
    "ask processor",
    "let flow",
    "scan",
    "bounce",
)
"""Steps that figures count are taken more often than others."""


def some_world(chance: random.Random) -> World:
    world = World(now=NOON + timedelta(days=chance.randint(0, 20), minutes=chance.randint(0, 900)))
    begin(world, chance.randint(0, 26), chance.choice((3, 5, 6, 7, 7)))
    kinds = [kind for kind, (weight, _) in KINDS.items() for _ in range(weight)] + [*LIVELY] * 6
    for _ in range(chance.randint(20, 120)):
        world.now += timedelta(minutes=chance.randint(1, 300))
        KINDS[chance.choice(kinds)][1](world, chance.randint(0, 15), chance.randint(0, 15))
    if chance.random() < 0.5:
        world.come_to_rest()
    return world


CASES: Final = PolicyRef(policy_id="cases", version=1)


def contact(story: Telling, n: int, customer: str = "c1", **more: Any) -> None:
    """A customer's mail, now."""
    told: dict[str, Any] = {"direction": Direction.INBOUND, "channel": Channel.EMAIL, "topic": "late", "case_id": None}
    story.tell(
        ContactReceived(
            order_id=story.order_id,
            customer=customer,
            contact_id=f"{story.order_id}-C{n}",
            received_at=story.now,
            policy=CASES,
            **told | more,
        )
    )


class Attributing:
    """Rules, and people who know better, speak of the causes of an order."""

    def __init__(self, story: Telling) -> None:
        self.story = story
        self.causes = Causes()

    def _tell(self, facts: Sequence[Any]) -> None:
        for fact in facts:
            self.story.tell(fact)
            self.causes = causes.evolve(self.causes, fact)

    def find(self, found: Mapping[RootCauseTag, EvidencedCause], version: int = 1) -> None:
        """By the third version, one rule is switched off."""
        rules = {
            tag: CauseRule(is_on=version < 3 or tag is not RootCauseTag.STOCK_OUT, confidence_percent=80)
            for tag in RootCauseTag
        }
        ref = PolicyRef(policy_id="root-causes", version=version)
        self._tell(causes.settle(self.story.order_id, self.causes, found, CausePolicy(rules=rules), ref))

    def say(self, command: OverrideCause | WithdrawOverride) -> None:
        """Raises Invalid."""
        ref = PolicyRef(policy_id="root-causes", version=1)
        self._tell(causes.decide(self.story.order_id, self.causes, command, ref))


def some_causes(chance: random.Random, story: Telling) -> None:
    """Rules at some version find some causes and refute others, and people say otherwise; what does not fit is refused."""
    of, tags = Attributing(story), list(RootCauseTag)[:4]
    for _ in range(chance.randint(1, 8)):
        story.later(hours=chance.randint(1, 60))
        since = story.now - timedelta(hours=chance.randint(0, 99))
        about = tuple(sorted({f"carrier:{chance.choice('ab')}", f"sku:{chance.choice('xyz')}"}))
        said = chance.choice(
            (
                None,
                None,
                OverrideCause(chance.choice(tags), chance.choice([None, *tags]), "no"),
                OverrideCause(None, chance.choice(tags), "yes"),
                WithdrawOverride(chance.choice([*of.causes.overrides, "none"]), "after all"),
            )
        )
        if said is None:
            found = {
                tag: EvidencedCause((f"f-{chance.randint(1, 2)}",), since, about)
                for tag in tags
                if chance.random() < 0.6
            }
            of.find(found, chance.randint(1, 3))
            continue
        with suppress(Invalid):
            of.say(said)


def some_support(chance: random.Random, order_id: str) -> list[Entry]:
    """Contacts days apart to the instant, a case that may be resolved and reopened, an escalation with some end, causes."""
    story = Telling(order_id, NOON + timedelta(days=chance.randint(0, 20)))
    for n in range(chance.randint(1, 8)):
        story.later(days=chance.choice((0, 1, 3, 7, 14, 45)), seconds=chance.choice((0, 0, 0, 1)))
        odd = chance.choice(
            ({}, {}, {}, {"duplicate_of": "x"}, {"is_automated": True}, {"direction": Direction.OUTBOUND})
        )
        contact(story, n, chance.choice(("c1", "c1", "c2")), **odd)
    of_case: dict[str, Any] = {"order_id": order_id, "customer": "c1", "case_id": f"{order_id}-1"}
    for times in range(1, chance.randint(1, 4)):
        told = {"closes_at": story.now, "resolved_at": story.now, "clocks": Clocks(), "policy": CASES}
        story.tell(CaseResolved(**of_case, resolution="done", **told))
        story.later(hours=chance.randint(1, 90))
        if chance.random() < 0.6:
            again = {"contact_id": None, "detail": "", "times": times, "reopened_at": story.now}
            story.tell(CaseReopened(**of_case, **again, clocks=Clocks(), policy=CASES))
    raised: dict[str, Any] = {"order_id": order_id, "customer": None, "escalation_id": f"{order_id}-E1"}
    rule = {"rule": chance.choice(("late", "lost")), "item": "R1", "since": story.now, "due_at": story.now}
    story.tell(EscalationRaised(**raised, **rule, level=1, episode=1, why="late", to_do="look", policy=CASES))
    for fact in chance.choice(
        (
            [],
            [EscalationAcknowledged(**raised, note="mine"), EscalationCleared(**raised, detail="over")],
            [EscalationAssigned(**raised, assignee="ann")],
            [EscalationCleared(**raised, detail="over")],
            [EscalationCleared(**raised, detail="off", is_switched_off=True)],
        )
    ):
        story.later(hours=1)
        story.tell(fact)
    some_causes(chance, story)
    return story.entries


async def test_every_figure_agrees_to_the_digit_with_the_journals_whatever_happened(pool: Pool, oracle: Oracle) -> None:
    chance = random.Random(5)
    entries = [entry for n in range(80) for entry in journals_of(some_world(chance), f"W{n}")]
    for _, of_order in groupby(sorted(entries, key=lambda entry: entry.subject), lambda entry: entry.subject):
        entries += told_to_customers(list(of_order), chance)
    entries += [entry for n in range(40) for entry in some_support(chance, f"S{n}")]
    await oracle.write(entries)
    chance.shuffle(entries)
    await tell(pool, entries)
    for days in (30, 60, 120):
        await agree(pool, oracle, NOON, NOON + timedelta(days=days))
    for figure in FIGURES.values():
        of = {row[0]: row[1] for row in await pool.fetch(ASKED, figure.measure)}
        is_elsewhere = figure.measure == LAG or figure.kind is Kind.AMOUNT
        is_one_kind = figure.kind is Kind.COUNT
        assert is_elsewhere or (sum(of.values()) > 20 and len(of) > (not is_one_kind)), (
            f"not much was asked of {figure.key}: {of}"
        )


ASKED: Final = "SELECT (ended_at IS NULL, part = whole), count(*) FROM measured WHERE measure = $1 GROUP BY 1"


def in_two_minds(order_id: str) -> tuple[Telling, Telling]:
    """A return that is resolved, and one that is not."""
    done, begun = whole_story(f"{order_id}-1"), whole_story(f"{order_id}-2")
    begun.entries = [e for e in begun.entries if e.fact.type not in ("refund.completed", "return.resolved")]
    return done, begun


async def test_returns_still_open_at_the_end_of_the_period_are_in_the_table_of_ages(pool: Pool) -> None:
    done, begun = in_two_minds("ORD")
    await tell(pool, done.entries + begun.entries)
    requested_at = next(e.occurred_at for e in begun.entries if e.fact.type == "return.requested")
    end = requested_at + timedelta(days=10)
    view = await see(pool, "return-cycle-time", START, end)
    assert (view.total.count, view.coverage.open) == (1, 1)
    assert [(age.from_days, age.count, age.oldest_seconds) for age in view.ages if age.count] == [(7, 1, 864_000.0)]
    (row,) = await behind(pool, "return-cycle-time", START, end, "open")
    assert (row.order_id, row.seconds) == ("ORD-2", 864_000.0)
    assert row.facts[0].type == "return.requested"
    early = await see(pool, "return-cycle-time", START, requested_at + timedelta(days=1))
    assert (early.total.count, early.coverage.open) == (0, 2), "what is over by now was open then"


async def test_clocks_minutes_apart_make_no_negative_time_and_the_coverage_says_so(pool: Pool) -> None:
    story = whole_story("ORD-1")
    trigger = next(e.fact.trigger_at for e in story.entries if isinstance(e.fact, RefundRequested))
    early = {"return.approved": START, "refund.leg_succeeded": trigger - timedelta(minutes=5)}
    await tell(pool, [e._replace(occurred_at=early.get(e.fact.type, e.occurred_at)) for e in story.entries])
    end = story.now + timedelta(days=1)
    view = await see(pool, "return-cycle-time", START, end, dimension="stage")
    assert next((g.count, g.p50_seconds, g.p90_seconds) for g in view.groups if g.value == "decided") == (1, 0.0, 0.0)
    view = await see(pool, "refund-latency", START, end)
    assert (view.total.count, view.total.p50_seconds, view.coverage.before_begun) == (1, 0.0, 1)


def reversal(story: Telling) -> None:
    """Days later the card's payout bounces."""
    paid = next(e.fact for e in reversed(story.entries) if isinstance(e.fact, RefundLegSucceeded))
    story.later(days=3)
    story.tell(RefundLegReversed(**paid.model_dump(exclude={"reference"}), code="account_closed"))


async def test_a_reversal_reopens_the_clock_from_its_trigger_on(pool: Pool) -> None:
    story = whole_story("ORD-1")
    await tell(pool, story.entries)
    end = story.now + timedelta(days=10)
    before = await see(pool, "refund-latency", START, end, dimension="channel")
    assert (before.total.count, before.coverage.open, before.total.p50_seconds) == (1, 0, 270.0)
    assert [(g.value, g.count) for g in before.groups] == [("card", 1), ("gift_card", 1)]

    told = len(story.entries)
    reversal(story)
    await tell(pool, story.entries[told:])
    after = await see(pool, "refund-latency", START, end, dimension="channel")
    assert (after.total.count, after.coverage.open) == (0, 1)
    assert [(g.value, g.count) for g in after.groups] == [("gift_card", 1)]
    (row,) = await behind(pool, "refund-latency", START, end, "open")
    assert row.facts[-1].type == "refund.leg_reversed"


async def test_a_refund_without_a_known_outcome_is_open(pool: Pool) -> None:
    story = whole_story("ORD-1")
    unknown = next(n for n, e in enumerate(story.entries) if e.fact.type == "payment.operation_unknown")
    await tell(pool, story.entries[: unknown + 1])
    view = await see(pool, "refund-latency", START, story.now + timedelta(hours=1), dimension="channel")
    assert (view.total.count, view.coverage.open) == (0, 1)
    assert [(g.value, g.count) for g in view.groups] == [("gift_card", 1)]
    (row,) = await behind(pool, "refund-latency", START, story.now + timedelta(hours=1), "open")
    assert row.facts[-1].type == "payment.operation_unknown"


def states(claim: Claim, line_id: str, quantity: int) -> Statement:
    return Statement(claim=claim, line_id=line_id, quantity=quantity, as_of_service="fulfillment", as_of_sequence=1)


def message(
    story: Telling,
    n: int,
    kind: NotificationKind,
    *statements: Statement,
    is_sent: bool = True,
    trigger_id: str | None = None,
) -> None:
    about = {"order_id": story.order_id, "notification_id": f"{story.order_id}-N{n}", "kind": kind}
    queued = {"audience": "customer", "dedupe_key": f"{n}", "trigger_id": trigger_id or f"{n}", "queued_at": story.now}
    story.tell(NotificationQueued(**about, **queued, statements=statements))
    if is_sent:
        story.tell(NotificationSent(**about, title="news", statements=statements), actor="service:notifications")


async def test_one_statement_that_became_untrue_is_one_of_all_due_and_a_mail_never_sent_is_wrong(
    pool: Pool, oracle: Oracle
) -> None:
    """Three mails of eight units: an ETA of two slips, two units are never told of."""
    story = Telling("ORD-1")
    eta = states(Claim.ETA, "chair", 2)
    message(story, 1, NotificationKind.SHIPMENT, states(Claim.SHIPPED, "lamp", 2), eta)
    story.later(hours=5)
    story.tell(NotificationContradicted(order_id="ORD-1", notification_id="ORD-1-N1", by_fact_id="slip", statement=eta))
    message(story, 2, NotificationKind.BACKORDER_REVISED, eta)
    message(story, 3, NotificationKind.SHIPMENT, states(Claim.SHIPPED, "rug", 2), is_sent=False)
    await tell(pool, story.entries)
    await oracle.write(story.entries)

    soon = await see(pool, "unit-accuracy", START, story.now + timedelta(hours=20))
    assert (soon.total.part, soon.total.whole, soon.coverage.open) == (4, 6, 1), "it may still be sent"
    end = story.now + timedelta(days=2)
    await agree(pool, oracle, START, end)
    by_units, by_message = [await see(pool, f"{of}-accuracy", START, end) for of in ("unit", "message")]
    assert (by_units.total.part, by_units.total.whole, by_units.total.share) == (4, 8, 0.5)
    assert (by_message.total.part, by_message.total.whole) == (1, 3)
    wrong = await behind(pool, "message-accuracy", START, end, "rest")
    assert [row.id for row in wrong] == ["ORD-1-N1", "ORD-1-N3"]
    assert wrong[0].facts[-1].type == "notification.contradicted"


async def test_what_no_message_was_ever_prepared_for_was_due_all_the_same_and_is_wrong(
    pool: Pool, oracle: Oracle
) -> None:
    story = whole_story("ORD-1")
    story.entries = [entry for entry in story.entries if entry.service != "notifications"]
    shipped = [entry for entry in story.entries if entry.fact.type == "shipment.shipped"]
    units = sum(line["quantity"] for entry in shipped for line in entry.fact.model_dump()["lines"])
    await tell(pool, story.entries)
    await oracle.write(story.entries)

    async def shipments() -> tuple[int, int | None, int | None]:
        view = await see(pool, "unit-accuracy", START, story.now + timedelta(days=2), dimension="kind")
        return next((group.count, group.part, group.whole) for group in view.groups if group.value == "shipment")

    assert await shipments() == (len(shipped), 0, units)
    assert len(shipped) > 1
    soon = await see(pool, "message-accuracy", START, shipped[0].occurred_at + timedelta(hours=20), dimension="kind")
    assert "shipment" not in {group.value for group in soon.groups}, "it may still be prepared"
    assert soon.coverage.open > 0
    rows = await behind(pool, "message-accuracy", START, story.now + timedelta(days=2), "rest")
    assert {fact.id for row in rows for fact in row.facts} >= {entry.id for entry in shipped}

    told = Telling("ORD-1", shipped[0].occurred_at)
    message(told, 1, NotificationKind.SHIPMENT, states(Claim.SHIPPED, "lamp", 1), trigger_id=shipped[0].id)
    await tell(pool, told.entries)
    await oracle.write(told.entries)
    count, part, _ = await shipments()
    assert (count, part) == (len(shipped), 1)
    await agree(pool, oracle, START, story.now + timedelta(days=2))


async def test_repeat_contacts_are_what_the_definition_says_to_the_instant(pool: Pool, oracle: Oracle) -> None:
    """Three contacts of one customer, two on one order within the window, one merged duplicate, one exactly on the edge."""
    first, other = Telling("ORD-1"), Telling("ORD-2")
    contact(first, 1)
    first.later(days=7)
    contact(first, 2)  # exactly on the edge: a repeat
    first.later(hours=1)
    contact(first, 3, duplicate_of="ORD-1-C2")
    first.later(days=7, seconds=1)
    contact(first, 4)  # a moment past it, and the duplicate is nothing to repeat
    contact(first, 5, customer="c2")
    other.later(days=1)
    contact(other, 1)
    entries = first.entries + other.entries
    await tell(pool, entries)
    await oracle.write(entries)
    end = first.now + timedelta(days=1)
    await agree(pool, oracle, START, end)
    seven, fortnight = [await see(pool, f"repeat-contacts-{days}", START, end) for days in (7, 14)]
    assert (seven.total.part, seven.total.whole, seven.coverage.left_out) == (1, 5, {"duplicate": 1})
    assert fortnight.total.part == 2
    (row,) = await behind(pool, "repeat-contacts-7", START, end, "part")
    assert (row.id, [fact.type for fact in row.facts]) == ("ORD-1-C2", ["contact.received"] * 2)


async def test_a_contact_that_names_no_order_is_not_counted_and_the_coverage_says_so(pool: Pool) -> None:
    values = "('c-1', 'customer:ab', 'ab', 'email', 'inbound', 'late', false, NULL, NULL, $1)"
    await pool.execute(f"INSERT INTO contacts VALUES {values}", START)
    view = await see(pool, "repeat-contacts-7", START, START + timedelta(days=1))
    assert (view.total.count, view.coverage.of_no_order) == (0, 1)


BORNE: Final = EvidencedCause(("f-1",), START, ("carrier:dhl", "sku:A", "sku:B"))


async def test_contacts_are_split_by_the_causes_that_stand_for_their_order(pool: Pool) -> None:
    story = Telling("ORD-1")
    contact(story, 1)
    of = Attributing(story)
    of.find({RootCauseTag.STOCK_OUT: BORNE})
    of.say(OverrideCause(RootCauseTag.STOCK_OUT, RootCauseTag.ADDRESS, "it was the address"))
    await tell(pool, story.entries)
    view = await see(pool, "repeat-contacts-7", START, START + timedelta(days=1), dimension="cause")
    assert [(group.value, group.count) for group in view.groups] == [("address", 1)]


async def test_causes_are_counted_by_whom_they_are_about_and_as_precise_as_people_let_them_stand(
    pool: Pool, oracle: Oracle
) -> None:
    story = split_order("ORD-1")
    backorder = next(entry for entry in story.entries if entry.fact.type == "backorder.created")
    of = Attributing(story)
    short = EvidencedCause((backorder.id,), START, ("sku:A", "sku:B"))
    lost = EvidencedCause(("f-2",), START + timedelta(days=8), ("carrier:ups", "sku:A"))
    of.find({RootCauseTag.STOCK_OUT: short, RootCauseTag.CARRIER_LOSS: lost})
    of.say(OverrideCause(RootCauseTag.CARRIER_LOSS, RootCauseTag.ADDRESS, "nobody lives there"))
    await tell(pool, story.entries)
    await oracle.write(story.entries)
    end = START + timedelta(days=20)
    await agree(pool, oracle, START, end)

    async def split(dimension: str, within: str | None = None) -> dict[str, tuple[int, ...]]:
        async with pool.acquire() as db:
            days = asked(START.date(), end.date(), end)
            view = await read_figure(db, FIGURES["root-causes"], days, "week", dimension, within)
        assert view.coverage.left_out == ({} if within == "cause:stock_out" else {"a person said otherwise": 1})
        return {group.value: group.counts for group in view.groups}

    assert await split("cause") == {"address": (0, 1, 0, 0), "stock_out": (1, 0, 0, 0)}
    assert await split("sku") == {"A": (1, 1, 0, 0), "B": (1, 0, 0, 0)}
    assert await split("carrier") == {"ups": (0, 1, 0, 0)}
    assert await split("sku", "cause:stock_out") == {"A": (1, 0, 0, 0), "B": (1, 0, 0, 0)}
    assert await split("by", "sku:A") == {"person": (0, 1, 0, 0), "rules": (1, 0, 0, 0)}
    rows = await behind(pool, "root-causes", START, end, "counted")
    assert [(row.id, [fact.type for fact in row.facts]) for row in rows] == [
        ("stock_out", ["backorder.created", "root_cause.tagged"]),
        ("address", ["root_cause.overridden"]),
    ]
    precision = await see(pool, "root-cause-precision", START, end, dimension="rule")
    assert (precision.total.part, precision.total.whole) == (1, 2)
    assert {group.value: group.share for group in precision.groups} == {
        "backordered v1": 1.0,
        "lost_on_the_way v1": 0.0,
    }
    (wrong,) = await behind(pool, "root-cause-precision", START, end, "rest")
    assert [fact.type for fact in wrong.facts] == ["root_cause.tagged", "root_cause.overridden"]


async def test_incidents_that_repeat_are_read_by_api_page_and_csv(pool: Pool, client: httpx.AsyncClient) -> None:
    told: list[Entry] = []
    for week in range(3):
        story = split_order(f"ORD-{week}")
        about = (f"sku:S-{week}", "carrier:dhl", "location:BER")[: 2 if week else 3]
        Attributing(story).find(
            {RootCauseTag.STOCK_OUT: EvidencedCause(("f",), START + timedelta(days=7 * week), about)}
        )
        told += story.entries
    await tell(pool, told)
    days = {"from": "2026-10-01", "to": "2026-10-31", "by": "week"}
    path = "/api/figures/root-causes"
    answer = await client.get(path, params=days | {"dimension": "carrier"}, headers=bearer())
    (group,) = answer.json()["groups"]
    assert (group["value"], group["count"], group["counts"]) == ("dhl", 3, [1, 1, 1, 0, 0])
    within = days | {"dimension": "sku", "within": "carrier:dhl"}
    answer = await client.get(path, params=within, headers=bearer())
    assert {group["value"] for group in answer.json()["groups"]} == {"S-0", "S-1", "S-2"}
    rows = days | {"dimension": "sku", "value": "S-1", "within": "carrier:dhl"}
    (row,) = (await client.get(f"{path}/rows", params=rows, headers=bearer())).json()["rows"]
    assert (row["order_id"], row["id"], row["labels"][-2:]) == ("ORD-1", "stock_out", ["sku:S-1", "carrier:dhl"])
    text = (await client.get(f"{path}.csv", params=days | {"dimension": "location"}, headers=bearer())).text
    lines = list(csv.reader(io.StringIO(text)))
    assert lines[0][-5:] == ["2026-09-28", "2026-10-05", "2026-10-12", "2026-10-19", "2026-10-26"]
    assert lines[1][:2] == ["BER", "1"] and lines[1][-5:] == ["1", "0", "0", "0", "0"]
    for odd, field in (("stock_out", "within"), ("mood:bad", "within"), ("cause:", "within")):
        refused = await client.get(path, params=days | {"within": odd}, headers=bearer())
        assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, field)
    lasting = await client.get("/api/figures/refund-latency", params={"within": "kind:return"}, headers=bearer())
    assert lasting.json()["errors"][0]["field"] == "within"
    assert (await client.get(path, headers=bearer("agent"))).status_code == 403


async def test_what_the_provider_says_otherwise_is_added_up_within_its_currency(pool: Pool, oracle: Oracle) -> None:
    story = whole_story("ORD-1")
    for expected, observed in ((500, 450), (100, 130), (None, None)):
        story.tell(
            PaymentAnomalyDetected(
                order_id="ORD-1", operation_id=None, expected_minor=expected, observed_minor=observed, detail="odd"
            )
        )
    opened = next(e for e in story.entries if isinstance(e.fact, OrderPlaced)).fact
    assert isinstance(opened, OrderPlaced)
    told = {"customer_id": "cus-7", "currency": "EUR", "placed_at": START, "shipping_minor": 0, "total_minor": 0}
    story.tell(PaymentOpened(order_id="ORD-1", lines=(), tenders=opened.tenders, **told))
    await tell(pool, story.entries)
    await oracle.write(story.entries)
    await agree(pool, oracle, START, story.now + timedelta(days=1))
    view = await see(pool, "drift", START, story.now + timedelta(days=1), dimension="currency")
    assert [(group.value, group.count, group.amount_minor) for group in view.groups] == [("EUR", 3, 80)]


async def test_the_lag_of_the_view_is_from_a_facts_being_written_to_its_being_seen(pool: Pool) -> None:
    """An id of ours tells when it was made; what happened long ago and was told just now is not late."""
    story = confirmed_order("ORD-1")
    await tell(pool, [entry._replace(id=str(uuid7())) for entry in story.entries])
    seen = sorted(
        (row["seen_at"] - datetime.fromtimestamp((row["id"].int >> 80) / 1000, timezone.utc)).total_seconds()
        for row in await pool.fetch("SELECT id, seen_at FROM timeline")
    )
    today = datetime.now(timezone.utc)
    view = await see(pool, "projection-lag", today, today + timedelta(days=1), dimension="service")
    assert (view.total.count, view.coverage.sampled_percent) == (len(seen), 100.0)
    assert view.total.p90_seconds == seen[ceil(len(seen) * 0.9) - 1]
    assert {group.value for group in view.groups} == {"orders", "payments", "fulfillment", "returns"}
    rows = await behind(pool, "projection-lag", today, today + timedelta(days=1), "counted")
    assert {row.facts[0].id for row in rows} == {str(row["id"]) for row in await pool.fetch("SELECT id FROM timeline")}
    await pool.execute("UPDATE pg_class SET reltuples = 1e6 WHERE oid = 'timeline'::regclass")
    sampled = await see(pool, "projection-lag", today, today + timedelta(days=1))
    assert sampled.coverage.sampled_percent == 2.0


async def test_a_figure_is_read_split_drilled_into_page_by_page_and_taken_along(
    client: httpx.AsyncClient, pool: Pool
) -> None:
    stories = [whole_story(f"ORD-{n}") for n in range(5)]
    await tell(pool, [entry for story in stories for entry in story.entries])
    days = {"from": START.date().isoformat(), "to": (START + timedelta(days=60)).date().isoformat()}

    async def get(path: str, **query: str | int) -> httpx.Response:
        return await client.get(f"/api/figures{path}", params={**days, **query}, headers=bearer())

    known = (await get("")).json()["figures"]
    assert {f["key"]: f["version"] for f in known} == {f.key: f.version for f in FIGURES.values()}
    view = (await get("/return-cycle-time", by="week", dimension="policy")).json()
    assert view["definition"]["version"] == FIGURES["return-cycle-time"].version
    assert [(g["value"], g["count"]) for g in view["groups"]] == [("standard v1", 5)]
    assert sum(period["count"] for period in view["periods"]) == view["total"]["count"] == 5

    ids: list[str] = []
    after: dict[str, str] = {}
    while True:
        page = (await get("/return-cycle-time/rows", dimension="reason", value="unwanted", limit=2, **after)).json()
        ids += [fact["id"] for row in page["rows"] for fact in row["facts"]]
        if page["next"] is None:
            break
        after = {"after": page["next"]}
    told = [
        e.id
        for story in stories
        for e in story.entries
        if getattr(e.fact, "return_id", None) and e.service == "returns"
    ]
    assert sorted(ids) == sorted(told), "every fact of every return, once"

    table = await get("/return-cycle-time.csv", by="week")
    assert table.headers["content-type"].startswith("text/csv") and "attachment" in table.headers["content-disposition"]
    read = list(csv.DictReader(io.StringIO(table.text)))
    assert [int(line["count"]) for line in read] == [period["count"] for period in view["periods"]]
    lines = list(csv.DictReader(io.StringIO((await get("/refund-latency/rows.csv")).text)))
    assert {line["order_id"] for line in lines} == {story.order_id for story in stories}


def test_a_figure_is_found_by_its_key_of_before() -> None:
    assert [figure_of(f"told-truly-{of}s").key for of in ("message", "unit")] == ["message-accuracy", "unit-accuracy"]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n"])
def test_no_cell_is_taken_for_a_formula(start: str) -> None:
    assert neutral(f"{start}cmd|' /C calc'!A0") == f"'{start}cmd|' /C calc'!A0"
    assert neutral("ORD-1") == "ORD-1" and neutral(-1.5) == -1.5


async def test_only_supervisors_and_auditors_read_figures(client: httpx.AsyncClient) -> None:
    for path in (
        "",
        "/return-cycle-time",
        "/return-cycle-time.csv",
        "/refund-latency/rows",
        "/refund-latency/rows.csv",
    ):
        assert (await client.get(f"/api/figures{path}")).status_code == 401
        assert (await client.get(f"/api/figures{path}", headers=bearer("agent"))).status_code == 403
        for role in ("supervisor", "auditor"):
            assert (await client.get(f"/api/figures{path}", headers=bearer(role))).status_code == 200


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/refund-latency?from=9999-12-31", "from"),
        ("/refund-latency?from=2026-02-30", "from"),
        ("/refund-latency?from=2026-02-02&to=2026-01-01", "from"),
        ("/refund-latency?from=2020-01-01&to=2026-01-01", "from"),
        ("/refund-latency?by=year", "by"),
        ("/refund-latency?dimension=weather", "dimension"),
        ("/refund-latency/rows?limit=1000000", "limit"),
        ("/refund-latency/rows?which=all", "which"),
        ("/refund-latency/rows?which=rest", "which"),
        ("/refund-latency/rows?value=card", "value"),
        ("/refund-latency/rows?after=x", "after"),
        ("/refund-latency/rows?after=2026-01-01~a~b", "after"),
        ("/refund-latency/rows?after=2026-01-01T00:00:00%2B00:00~a%00~b", "after"),
    ],
)
async def test_a_bad_question_names_the_field(client: httpx.AsyncClient, path: str, field: str) -> None:
    answer = await client.get(f"/api/figures{path}", headers=bearer())
    assert answer.status_code == 422
    assert field in answer.json()["errors"][0]["field"]
    assert (await client.get("/api/figures/no-such", headers=bearer())).status_code == 404
