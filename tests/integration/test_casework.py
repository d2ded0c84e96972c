"""Contacts and cases over HTTP, on a real PostgreSQL: who may do what, what the CRM's webhook does once, what is kept."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from datetime import datetime, timedelta, timezone
from html import escape, unescape
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest
from aiokafka import TopicPartition
from fastapi import FastAPI
from standardwebhooks import Webhook

from shared.contracts.base import FACTS
from shared.contracts.fulfillment import (
    ShipmentFound,
    ShipmentLost,
    StockCounted,
    StockDiscrepancyRecorded,
    StockReceived,
)
from shared.contracts.payments import PaymentOperationUnknown, RefundKind, RefundLine, RefundRequested
from shared.messaging.database import Pool
from shared.messaging.offsets import CaughtUp
from shared.messaging.timers import Timers
from shared.web.auth import Role, issue
from support_view.app import built
from support_view.casebook import FLOWS, STATE, flow_of, schedule_checks
from support_view.domain.cases import invariants
from support_view.domain.casework import due_command
from support_view.domain.timeline import Entry
from support_view.handlers import process
from support_view.rebuild import Rebuild
from support_view.sign_in import SESSION
from tests.backends import Backends
from tests.databases import AUTH_KEY, CRM_SECRET, SUPPORT_SETTINGS
from tests.telling import Telling, confirmed_order, entry_in, record_of, split_order, units, whole_story

NewDatabase = Callable[[str], Awaitable[str]]
LONG_AGO = datetime(2026, 5, 4, 8, 0, tzinfo=timezone.utc)


@pytest.fixture
async def dsn(new_database: NewDatabase) -> str:
    return await new_database("support_view")


@pytest.fixture
async def pool(dsn: str) -> AsyncIterator[Pool]:
    async with asyncpg.create_pool(dsn, min_size=0, max_size=10) as pool:
        yield pool


@pytest.fixture
async def app(backends: Backends, dsn: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FastAPI]:
    told = {"OMS_DATABASE_URL": dsn, "OMS_KAFKA": backends.kafka, "OMS_AUTH_KEY": AUTH_KEY}
    for name, value in (told | SUPPORT_SETTINGS).items():
        monkeypatch.setenv(name, value)
    app = built()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(app.router.lifespan_context(app))
        yield app


class Desk:
    """Somebody at the API."""

    def __init__(self, client: httpx.AsyncClient, role: Role, name: str) -> None:
        self._client = client
        self.actor = f"{role}:{name}"
        self._token = {"Authorization": f"Bearer {issue(AUTH_KEY, subject=name, roles=[role])}"}

    async def post(self, path: str, key: str | None = None, status: int | None = None, **body: Any) -> Any:
        headers = self._token | {"Idempotency-Key": key or uuid4().hex}
        answer = await self._client.post(f"/api{path}", json=body, headers=headers)
        if status is None:
            assert answer.is_success, answer.text
        else:
            assert answer.status_code == status, answer.text
        return answer.json()

    async def get(self, path: str, expected: int = 200, **params: Any) -> Any:
        answer = await self._client.get(f"/api{path}", params=params, headers=self._token)
        assert answer.status_code == expected, answer.text
        return answer.json()

    async def contact(self, at: datetime = LONG_AGO, status: int | None = None, **more: Any) -> Any:
        body = {"customer": {"email": "ada@example.org"}, "order_id": "ORD-1", "channel": "email"} | more
        return await self.post("/contacts", status=status, occurred_at=at.isoformat(), **body)


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://view.test") as client:
        yield client


@pytest.fixture
def ann(client: httpx.AsyncClient) -> Desk:
    return Desk(client, Role.AGENT, "ann")


@pytest.fixture
def sue(client: httpx.AsyncClient) -> Desk:
    return Desk(client, Role.SUPERVISOR, "sue")


async def told(pool: Pool) -> list[str]:
    return [row["type"] for row in await pool.fetch("SELECT type FROM events ORDER BY id")]


async def is_what_the_journal_gives(pool: Pool) -> bool:
    """Every state is the fold of its facts, and breaks no law."""
    for key, state in await pool.fetch("SELECT key, state FROM states"):
        told = await pool.fetch("SELECT type, data FROM events WHERE subject = $1 ORDER BY sequence", key)
        facts = [FACTS[type].model_validate_json(data) for type, data in told]
        kept = STATE.validate_json(state)
        if flow_of(key).fold(key, facts) != kept or invariants(kept):
            return False
    return True


async def test_a_case_from_the_first_contact_to_its_resolution(ann: Desk, sue: Desk, pool: Pool) -> None:
    first = await ann.contact(text="Where is my lamp?", topic="where_is_it")
    assert first["case_status"] == "open"
    case_id = first["case_id"]
    answered = await ann.post(f"/cases/{case_id}/answers", channel="email", text="It is on its way.")
    assert (answered["status"], answered["assignee"]) == ("in_progress", ann.actor)
    await ann.post(f"/cases/{case_id}/assign", assignee="agent:bob", status=403)
    await sue.post(f"/cases/{case_id}/assign", assignee="agent:bob")
    foreign = await ann.post(f"/cases/{case_id}/wait", waits_for="customer", reason="a photograph", status=409)
    assert "is with agent:bob: they or a supervisor may do that" in foreign["detail"]
    await ann.post(f"/cases/{case_id}/assign", assignee=ann.actor, status=409)
    odd = await sue.post(f"/cases/{case_id}/assign", assignee="ann", status=422)
    assert odd["errors"][0]["field"] == "assignee"
    await sue.post(f"/cases/{case_id}/assign", assignee=ann.actor)
    await ann.post(f"/cases/{case_id}/wait", waits_for="customer", reason="a photograph")
    await ann.post(f"/cases/{case_id}/resume", reason="it came")
    refused = await ann.post(f"/cases/{case_id}/resume", reason="again", status=409)
    assert "case.resolved" in refused["allowed"]
    await ann.post(f"/cases/{case_id}/resolve", resolution="It arrived.")
    await ann.post(f"/cases/{case_id}/reopen", reason="It was another lamp.")
    story = await ann.get(f"/cases/{case_id}")
    assert (story["status"], story["reopened"], story["order_id"]) == ("open", 1, "ORD-1")
    assert [entry["type"] for entry in reversed(story["entries"])] == [
        "case.opened",
        "contact.received",
        "contact.received",
        *(
            "case.assigned",
            "case.assigned",
            "case.assigned",
            "case.waiting",
            "case.resumed",
            "case.resolved",
            "case.reopened",
        ),
    ]
    assert await is_what_the_journal_gives(pool)
    await ann.get("/cases/ORD-1-C9", expected=404)
    await ann.post("/cases/ORD-1-C9/notes", note="?", status=404)


async def test_nobody_is_named_in_a_fact_and_one_person_is_one_by_whatever_way_they_come(ann: Desk, pool: Pool) -> None:
    order = confirmed_order("ORD-1")
    async with pool.acquire() as db, db.transaction():
        await process(db, [record_of(entry, n) for n, entry in enumerate(order.entries)])
    [placed] = [entry.fact for entry in order.entries if entry.fact.type == "order.placed"]
    customer = placed.model_dump()["customer"]
    by_mail = await ann.contact(customer={"email": customer["email"].upper()}, topic="a")
    by_id = await ann.contact(customer={"customer_id": customer["customer_id"]}, topic="b")
    by_phone = await ann.contact(customer={"phone": "+4930123456"}, topic="c")
    assert by_mail["case_id"] == by_id["case_id"] != by_phone["case_id"]
    journal = "".join(row["data"] for row in await pool.fetch("SELECT data FROM events"))
    assert customer["email"] not in journal.lower()
    assert "4930123456" not in journal


async def test_the_same_key_gives_the_same_answer_and_one_contact(ann: Desk, pool: Pool) -> None:
    body: Any = {"customer": {"customer_id": "c-1"}, "channel": "phone", "topic": "refund"}
    first = await ann.post("/contacts", key="once", **body)
    assert await ann.post("/contacts", key="once", **body) == first
    assert first["case_id"].startswith("customer:")
    assert await told(pool) == ["case.opened", "contact.received"]


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"customer": {}}, "customer"),
        ({"customer": {"email": "ada@example.org", "customer_id": "c-1"}}, "customer"),
        ({"customer": {"email": "ada"}}, "customer.email"),
        ({"order_id": "../etc"}, "order_id"),
        ({"channel": "telepathy"}, "channel"),
        ({"text": "x" * (64 * 1024 + 1)}, "text"),
        ({"topic": "not here"}, "topic"),
        ({"mood": "bad"}, "mood"),
        ({"occurred_at": "9999-01-01T00:00:00Z"}, "occurred_at"),
        ({"occurred_at": "2026-05-04T12:00:00"}, "occurred_at"),
    ],
)
async def test_a_bad_contact_is_refused_by_its_field_and_nothing_is_stored(
    ann: Desk, pool: Pool, changed: dict[str, Any], field: str
) -> None:
    body = {"customer": {"email": "ada@example.org"}, "order_id": "ORD-1", "channel": "email"} | changed
    refused = await ann.post("/contacts", status=422, **body)
    assert [error["field"] for error in refused["errors"]] == [field]
    assert await told(pool) == []


async def test_what_a_customer_wrote_is_taken_as_it_is_but_for_card_numbers(ann: Desk, pool: Pool) -> None:
    for text in ("Hello,\r\nmy IMEI is 490154203237518\rBye\x00", "x" * 2001, "I paid with 4111.1111.1111.1111"):
        await ann.post("/contacts", customer={"customer_id": "c-1"}, channel="email", topic="refund", text=text)
    texts = await pool.fetch(
        "SELECT data ->> 'text' AS text FROM events WHERE type = 'contact.received' ORDER BY sequence"
    )
    assert [row["text"] for row in texts] == [
        "Hello,\nmy IMEI is 490154203237518\nBye",
        "x" * 2001,
        "I paid with 4111.11xx.xxxx.1111",
    ]


HOSTILE = (
    "<script>alert(1)</script>",
    "'; DROP TABLE cases; --",
    '=HYPERLINK("http://evil.example")',
    "\u202egnp.tohs",
    "{{ 7 * 7 }} ${7 * 7}",
)


async def test_notes_are_kept_literally_and_a_card_number_is_refused_by_its_field(ann: Desk, pool: Pool) -> None:
    case_id = (await ann.contact())["case_id"]
    for note in HOSTILE:
        await ann.post(f"/cases/{case_id}/notes", note=note)
    story = await ann.get(f"/cases/{case_id}")
    assert [entry["details"] for entry in reversed(story["entries"])][-len(HOSTILE) :] == [[note] for note in HOSTILE]
    before = await told(pool)
    refused = await ann.post(f"/cases/{case_id}/notes", note="4111-1111-1111-1111", status=422)
    assert refused["errors"] == [{"field": "note", "rule": "must not hold a card number"}]
    assert await told(pool) == before


async def test_lists_go_on_where_a_page_ended(ann: Desk) -> None:
    for n in range(5):
        await ann.contact(LONG_AGO + timedelta(minutes=n), order_id=f"ORD-{n}")
    seen: list[str] = []
    after: str | None = None
    while True:
        query: Any = {"after": after} if after else {}
        page = await ann.get("/cases", limit=2, status="open", **query)
        seen += [case["order_id"] for case in page["cases"]]
        after = page["next"]
        if after is None:
            break
    assert seen == [f"ORD-{n}" for n in range(5)]
    await ann.get("/cases", limit=1_000_000, expected=422)
    refused = await ann.get("/cases", after="yesterday", expected=422)
    assert refused["errors"][0]["field"] == "after"


def of_crm(**changed: Any) -> str:
    body = {
        "contact_id": "crm-17",
        "customer": {"email": "ada@example.org"},
        "order_id": "ORD-1",
        "channel": "email",
        "text": "Where is it?",
        "occurred_at": LONG_AGO.isoformat(),
    }
    return json.dumps(body | changed)


async def send(client: httpx.AsyncClient, body: str, id: str = "msg-1", at: datetime | None = None) -> httpx.Response:
    at = at or datetime.now(timezone.utc)
    signature = Webhook(CRM_SECRET).sign(id, at, body)
    headers = {"webhook-id": id, "webhook-timestamp": str(int(at.timestamp())), "webhook-signature": signature}
    return await client.post("/webhooks/crm", content=body, headers=headers)


async def test_a_contact_of_the_crm_counts_once_however_often_it_is_sent(client: httpx.AsyncClient, pool: Pool) -> None:
    for id in ("msg-1", "msg-1", "msg-2"):
        answer = await send(client, of_crm(), id)
        assert (answer.status_code, answer.json()) == (202, {"contact_id": "crm-17"})
    assert await told(pool) == ["case.opened", "contact.received"]
    actor, causation = (await pool.fetch("SELECT actor, causation_id FROM events"))[0]
    assert (actor, causation) == ("partner:crm", "msg-1")
    refused = await send(client, of_crm(order_id="ORD-2"), "msg-3")
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "contact_id")
    refused = await send(client, of_crm(text="Something else"), "msg-4")
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "contact_id")


async def test_a_webhook_that_is_stale_forged_or_not_signed_is_refused(client: httpx.AsyncClient, pool: Pool) -> None:
    now = datetime.now(timezone.utc)
    assert (await send(client, of_crm(), at=now - timedelta(seconds=310))).status_code == 401
    assert (await send(client, of_crm(), at=now + timedelta(seconds=310))).status_code == 401
    assert (await client.post("/webhooks/crm", content=of_crm())).status_code == 401
    signature = Webhook(CRM_SECRET).sign("msg-1", now, of_crm())
    headers = {"webhook-id": "msg-1", "webhook-timestamp": str(int(now.timestamp())), "webhook-signature": signature}
    spaced = json.dumps(json.loads(of_crm()), indent=1)
    assert (await client.post("/webhooks/crm", content=spaced, headers=headers)).status_code == 401
    bad = await send(client, of_crm(channel="telepathy"))
    assert (bad.status_code, bad.json()["errors"][0]["field"]) == (422, "channel")
    assert await told(pool) == []


async def test_a_rebuild_of_the_view_touches_nothing_of_it(ann: Desk, pool: Pool, dsn: str) -> None:
    async def kept() -> list[Any]:
        return [
            await pool.fetch(f"SELECT * FROM {table} ORDER BY 1")
            for table in ("events", "states", "cases", "contacts", "escalations", "outbox", "deadlines")
        ]

    case_id = (await ann.contact())["case_id"]
    await ann.post(f"/cases/{case_id}/resolve", resolution="done")
    before = await kept()
    for step in (Rebuild.build, Rebuild.swap, Rebuild.discard):
        db = await asyncpg.connect(dsn)
        await step(Rebuild(db))
        await db.close()
    assert await kept() == before


async def test_an_auditor_reads_and_changes_nothing(client: httpx.AsyncClient, ann: Desk) -> None:
    case_id = (await ann.contact())["case_id"]
    auditor = Desk(client, Role.AUDITOR, "max")
    await auditor.get(f"/cases/{case_id}")
    await auditor.contact(status=403)
    await auditor.post(f"/cases/{case_id}/notes", note="seen", status=403)


async def deliver(pool: Pool, entries: Sequence[Entry]) -> None:
    async with pool.acquire() as db, db.transaction():
        assert await process(db, [record_of(entry, n) for n, entry in enumerate(entries)]) == []


async def look(pool: Pool) -> None:
    """All that is due fires, and what that makes due."""
    timers = Timers(pool, "support-view", [(flow, due_command) for flow in FLOWS], lambda: None)
    for _ in range(10):
        if not await timers.fire():
            return
    raise AssertionError("something is due for ever")


def until_unknown(order_id: str) -> tuple[list[Entry], list[Entry]]:
    """A story up to where nobody knows of a refund, and what follows."""
    entries = whole_story(order_id).entries
    at = next(n for n, entry in enumerate(entries) if isinstance(entry.fact, PaymentOperationUnknown)) + 1
    return entries[:at], entries[at:]


async def rules(pool: Pool) -> list[tuple[str, str]]:
    rows = await pool.fetch("SELECT rule, status FROM escalations ORDER BY rule, escalation_id")
    return [(row["rule"], row["status"]) for row in rows]


async def test_a_refund_nobody_knows_of_is_in_the_queue_until_it_is_known_and_its_record_is_kept(
    ann: Desk, sue: Desk, pool: Pool
) -> None:
    before, after = until_unknown("ORD-1")
    await deliver(pool, before)
    assert await rules(pool) == [], "nothing is raised while facts are taken"
    await look(pool)
    await look(pool)
    assert [rule for rule, _ in await rules(pool)].count("refund_unknown") == 1
    queue = (await ann.get("/queue"))["escalations"]
    [unknown] = [one for one in queue if one["rule"] == "refund_unknown"]
    assert (unknown["order_id"], unknown["item"], unknown["level"]) == ("ORD-1", "ORD-1-R1", 1)
    assert unknown["why"] and unknown["to_do"] and unknown["since"] < unknown["due_at"]
    path = f"/escalations/{unknown['escalation_id']}"
    assert (await ann.post(f"{path}/acknowledge", note="I ask the processor"))["status"] == "acknowledged"
    await ann.post(f"{path}/assign", assignee="agent:bob", status=403)
    await ann.post(f"{path}/assign", assignee=ann.actor)
    await sue.post(f"{path}/assign", assignee="agent:bob")
    await deliver(pool, after)
    await look(pool)
    assert ("refund_unknown", "cleared") in await rules(pool)
    record = await ann.get(path)
    assert (record["status"], record["assignee"]) == ("cleared", "agent:bob")
    assert all(one["rule"] != "refund_unknown" for one in (await ann.get("/queue"))["escalations"])
    await ann.post(f"{path}/acknowledge", status=409)
    await ann.get("/escalations/ORD-1-E99", expected=404)
    assert await is_what_the_journal_gives(pool)


async def test_a_view_that_is_built_anew_from_the_topics_raises_and_clears_nothing(ann: Desk, pool: Pool) -> None:
    before, after = until_unknown("ORD-1")
    for part in (before, after):
        await deliver(pool, part)
        await look(pool)
    await ann.contact()
    await look(pool)
    done = await told(pool), await rules(pool)
    assert done[1]
    await pool.execute("TRUNCATE timeline, sections, finds, measured, positions")
    for part in (before, after):
        await deliver(pool, part)  # timers wait meanwhile: not all of it has been taken
    await look(pool)
    assert (await told(pool), await rules(pool)) == done


async def test_a_rule_that_is_switched_off_clears_what_it_raised(ann: Desk, sue: Desk, pool: Pool) -> None:
    await deliver(pool, until_unknown("ORD-1")[0])
    await look(pool)
    [policy] = [p for p in await ann.get("/support-policies") if p["policy_id"] == "escalations"]
    document = policy["document"]
    document["rules"]["refund_unknown"]["is_on"] = False
    await ann.post("/support-policies/escalations", reason="too loud", policy=document, status=403)
    published = await sue.post("/support-policies/escalations", reason="too loud", policy=document)
    assert published == {"policy_id": "escalations", "version": 2}
    await look(pool)
    assert ("refund_unknown", "cleared") in await rules(pool)
    del document["rules"]["refund_late"]
    refused = await sue.post("/support-policies/escalations", reason="none", policy=document, status=422)
    assert refused["errors"][0]["field"] == "policy"


async def test_the_queue_goes_on_where_a_page_ended_highest_level_first(ann: Desk, pool: Pool) -> None:
    for n in range(3):
        await deliver(pool, until_unknown(f"ORD-{n}")[0])
    await look(pool)
    whole = (await ann.get("/queue", limit=500))["escalations"]
    seen: list[Any] = []
    after: str | None = None
    while True:
        query: Any = {"after": after} if after else {}
        page = await ann.get("/queue", limit=2, **query)
        seen += page["escalations"]
        after = page["next"]
        if after is None:
            break
    assert seen == whole
    assert [one["level"] for one in whole] == sorted((one["level"] for one in whole), reverse=True)
    assert len({one["order_id"] for one in whole}) == 3
    for after in ("x", "99 x", "1 yesterday x"):
        assert (await ann.get("/queue", after=after, expected=422))["errors"][0]["field"] == "after"


async def test_nothing_fires_before_all_that_was_on_the_topics_has_been_taken(pool: Pool) -> None:
    class Lagging:
        """A consumer of one partition that holds seven records."""

        group = "support-view"

        def __init__(self) -> None:
            self.pool = pool
            self.end = 7

        async def ends(self) -> dict[TopicPartition, int]:
            return {TopicPartition("orders.events", 0): self.end}

    lagging = Lagging()
    caught_up = CaughtUp(lagging)  # type: ignore[arg-type]
    await deliver(pool, until_unknown("ORD-1")[0])
    timers = Timers(pool, "support-view", [(flow, due_command) for flow in FLOWS], lambda: None, caught_up)
    place = "INSERT INTO positions VALUES ('support-view', 'orders.events', 0, $1) ON CONFLICT DO NOTHING"
    assert await timers.fire() == 0
    await pool.execute(place, 6)
    assert await timers.fire() == 0
    assert await rules(pool) == []
    lagging.end = 9  # what comes later is not waited for
    await pool.execute("UPDATE positions SET next = 7")
    assert await timers.fire() > 0
    assert await rules(pool) != []


async def test_the_queue_is_read_and_attended_to_on_its_page(client: httpx.AsyncClient, pool: Pool) -> None:
    def come(name: str, role: Role) -> None:
        client.cookies.set(SESSION, issue(AUTH_KEY, subject=name, roles=[role]))

    assert (await client.get("/queue")).headers["location"] == "/sign-in?next=%2Fqueue"
    come("sue", Role.SUPERVISOR)
    assert "Nobody needs attention just now" in (await client.get("/queue")).text
    before, after = until_unknown("ORD-1")
    await deliver(pool, before)
    for _ in range(2):
        await look(pool)
    [row] = await pool.fetch("SELECT escalation_id, why, to_do FROM escalations WHERE rule = 'refund_unknown'")
    id, why, to_do = row
    page = (await client.get("/queue")).text
    assert escape(why[1:]) in page and escape(to_do) in page and 'href="/orders/ORD-1"' in page
    assert "Nothing is yours just now" in (await client.get("/queue?mine=true")).text

    path, form = f"/queue/{id}", {"key": uuid4().hex}
    assert (await client.post(f"{path}/take", data=form, headers={"Origin": "https://evil.example"})).status_code == 403
    come("max", Role.AUDITOR)
    assert f"{path}/take" not in (await client.get("/queue")).text
    denied = await client.post(f"{path}/take", data=form)
    assert denied.status_code == 403 and "support-view refused: needs one of the roles" in denied.text
    come("sue", Role.SUPERVISOR)
    for name in ("acknowledge", "acknowledge", "take"):
        assert f"{path}/take" in (await client.get("/queue")).text
        done = await client.post(f"{path}/{name}", data=form)
        assert (done.status_code, done.headers["location"]) == (303, f"/queue?done={name}")
    assert "It is yours." in (await client.get("/queue?done=take")).text
    mine = (await client.get("/queue?mine=true")).text
    assert escape(why[1:]) in mine and "supervisor:sue" in mine and f"{path}/take" not in mine
    nobody = await client.post(f"{path}/give", data={"key": uuid4().hex})
    assert nobody.status_code == 422 and "Say to whom, as agent:anna." in nobody.text
    given = await client.post(f"{path}/give", data={"key": uuid4().hex, "assignee": "agent:bob"})
    assert given.status_code == 303 and "Nothing is yours" in (await client.get("/queue?mine=true")).text
    assert "agent:bob" in (await client.get("/orders/ORD-1")).text
    assert (await told(pool)).count("escalation.acknowledged") == 1
    for odd, status in (("/queue/no/take", 404), (f"{path}/burn", 404)):
        assert (await client.post(odd, data=form)).status_code == status
    assert (await client.get("/queue?after=nonsense")).status_code == 404

    await deliver(pool, after)
    await look(pool)
    late = await client.post(f"{path}/acknowledge", data={"key": uuid4().hex})
    assert late.status_code == 409 and "support-view refused:" in late.text


async def test_what_another_services_fact_settles_is_looked_at_again_when_that_comes(pool: Pool) -> None:
    """A lost parcel waits for somebody until it is refunded, which payments tell; where that comes first, nobody is told."""

    def story(order_id: str) -> tuple[list[Entry], Entry, Entry]:
        t = split_order(order_id)
        rug = units(rug=1)
        lost = t.tell(ShipmentLost(order_id=order_id, shipment_id=f"{order_id}-S2", lines=rug))
        line = RefundLine(line_id="rug", quantity=1, amount_minor=100)
        asked = RefundRequested(
            order_id=order_id,
            refund_id=f"{order_id}-R1",
            kind=RefundKind.LOST,
            cause_id="lost",
            lines=(line,),
            amount_minor=100,
            currency="EUR",
            trigger_at=t.now,
            requester="service:payments",
        )
        return t.entries[:-1], lost, t.tell(asked)

    async def stand(order_id: str) -> list[str]:
        found = "SELECT status FROM escalations WHERE subject = $1 AND rule = 'shipment_lost'"
        return [row["status"] for row in await pool.fetch(found, order_id)]

    async def deadline(order_id: str) -> datetime | None:
        at = "SELECT due_at FROM deadlines WHERE key = $1 AND name = 'look fulfillment'"
        due: datetime | None = await pool.fetchval(at, order_id)
        return due

    before, lost, refunded = story("ORD-1")
    await deliver(pool, [*before, lost])
    await look(pool)
    assert await stand("ORD-1") == ["raised"]
    await deliver(pool, [refunded])
    due = await deadline("ORD-1")
    assert due is not None and due <= datetime.now(timezone.utc), "what fulfillment told is looked at again, at once"
    await look(pool)
    assert await stand("ORD-1") == ["cleared"]

    before, lost, refunded = story("ORD-2")
    await deliver(pool, [*before, refunded])
    await look(pool)
    await deliver(pool, [lost])
    await look(pool)
    assert await stand("ORD-2") == [], "it was settled before it was late"

    before, _, refunded = story("ORD-3")
    await deliver(pool, before)
    await pool.execute("DELETE FROM deadlines")
    await deliver(pool, [refunded])
    assert await pool.fetchval("SELECT waiting = '{}' FROM sections WHERE subject = 'ORD-3' AND service = 'payments'")
    assert await deadline("ORD-3") is None, "where nothing waits, there is nothing to look at"


async def test_a_shelf_that_the_warehouse_contradicts_is_in_the_queue_until_it_is_counted(
    client: httpx.AsyncClient, ann: Desk, pool: Pool
) -> None:
    of_shelf = {"sku": "LAMP", "location": "BER"}
    t = Telling("none", datetime.now(timezone.utc) - timedelta(hours=1))

    def contradict(receipt: str) -> Entry:
        differs = {"contradicts": "receipt", "reference": receipt, "quantity": 7, "recorded": 5}
        said = f"{receipt} was received before with 5 units, and is said to have 7"
        return t.tell(
            StockDiscrepancyRecorded(**of_shelf, observation="warehouse.goods_received", **differs, detail=said)
        )

    received = t.tell(StockReceived(**of_shelf, quantity=5, receipt_id="r1"))
    await deliver(pool, [received, contradict("r1"), contradict("r2")])
    assert await rules(pool) == [], "nothing is raised while facts are taken"
    await look(pool)
    await look(pool)
    first, second = (await ann.get("/queue"))["escalations"]
    assert [(one["rule"], one["item"]) for one in (first, second)] == [
        ("shelf_contradicted", "r1"),
        ("shelf_contradicted", "r2"),
    ]
    assert (first["subject"], first["shelf"], first["order_id"]) == ("stock:LAMP@BER", "LAMP@BER", None)
    assert first["to_do"].startswith("Have the warehouse count the shelf") and first["due_at"]
    client.cookies.set(SESSION, issue(AUTH_KEY, subject="ann", roles=[Role.AGENT]))
    page = (await client.get("/queue")).text
    assert "Shelf of LAMP in BER" in page and "he warehouse contradicts itself on LAMP in BER: r1 was received" in page
    assert "/orders/stock" not in page, "a shelf has no order's page"
    taken = await client.post(f"/queue/{first['escalation_id']}/take", data={"key": uuid4().hex})
    assert taken.status_code == 303 and "agent:ann" in (await client.get("/queue?mine=true")).text

    await ann.post(f"/escalations/{second['escalation_id']}/acknowledge", note="r2 was mistyped")
    assert await rules(pool) == [("shelf_contradicted", "raised"), ("shelf_contradicted", "cleared")]
    await deliver(pool, [t.tell(StockCounted(**of_shelf, counted=7, before=5, change=2, missing=0, detail="counted"))])
    await look(pool)
    assert (await ann.get("/queue"))["escalations"] == []
    assert (await ann.get(f"/escalations/{first['escalation_id']}"))["status"] == "cleared"
    assert await is_what_the_journal_gives(pool)

    done = await told(pool)
    await hear(pool, "stock:LAMP@BER")
    assert await pool.fetchval("SELECT count(*) FROM sections") == 0, (
        "a shelf is no order, in search and figures neither"
    )
    async with pool.acquire() as db, db.transaction():  # a look that goes on just now
        await schedule_checks(db, {}, {}, {"stock:LAMP@BER"})
    await look(pool)
    assert await told(pool) == done, "what was told of it before is no new episode"


async def test_a_shelf_is_not_looked_at_past_what_is_told_of_it_just_now(ann: Desk, pool: Pool) -> None:
    """A count that is being taken while its shelf is looked at ends what the look would leave standing."""
    of_shelf = {"sku": "LAMP", "location": "BER"}
    differs = {"contradicts": "receipt", "reference": "r1", "quantity": 7, "recorded": 5, "detail": "7, not 5"}
    t = Telling("none", datetime.now(timezone.utc) - timedelta(hours=1))
    said = StockDiscrepancyRecorded(**of_shelf, observation="warehouse.goods_received", **differs)
    await deliver(pool, [t.tell(said)])
    counted = t.tell(StockCounted(**of_shelf, counted=7, before=5, change=2, missing=0, detail="counted"))
    async with pool.acquire() as db, db.transaction():
        assert await process(db, [record_of(counted)]) == []
        looking = asyncio.create_task(look(pool))
        async with pool.acquire() as other:
            while not await other.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    await looking
    await look(pool)
    assert await rules(pool) == [], "it was counted before anybody looked"


async def hear(pool: Pool, order_id: str) -> None:
    """What support told of it comes back to its view, as all facts do."""
    rows = await pool.fetch("SELECT * FROM events WHERE subject = $1 ORDER BY id", order_id)
    await deliver(pool, [entry_in("support", row) for row in rows])


async def causes_of(ann: Desk, pool: Pool, order_id: str = "ORD-1") -> dict[str, Any]:
    """By tag, once all was looked at and heard."""
    await look(pool)
    await hear(pool, order_id)
    return {cause["tag"]: cause for cause in (await ann.get(f"/orders/{order_id}"))["causes"]}


async def test_causes_are_found_from_the_facts_of_all_services_once_each_with_what_bears_them_out(
    ann: Desk, pool: Pool
) -> None:
    story = whole_story("ORD-1")
    await deliver(pool, story.entries[::-1])
    found = await causes_of(ann, pool)
    assert set(found) == {"stock_out", "carrier_delay", "system_fault", "customer_remorse"}
    stock_out = found["stock_out"]
    assert (stock_out["rule"], stock_out["version"], stock_out["confidence_percent"]) == ("backordered", 1, 95)
    assert (stock_out["stands"], stock_out["about"], stock_out["said_by"]) == (True, ["sku:SKU-chair"], None)
    types = {entry.id: entry.fact.type for entry in story.entries}
    assert [types[id] for id in stock_out["evidence"]] == ["backorder.created"]
    before = await told(pool)
    assert before.count("root_cause.tagged") == 4
    await deliver(pool, story.entries)
    assert await causes_of(ann, pool) == found
    assert await told(pool) == before
    assert await is_what_the_journal_gives(pool)


async def test_a_cause_that_later_facts_do_not_bear_out_is_refuted(ann: Desk, pool: Pool) -> None:
    story = split_order("ORD-1")
    parcel = {"order_id": "ORD-1", "shipment_id": "ORD-1-S2", "lines": units(rug=1)}
    story.tell(ShipmentLost(**parcel))
    await deliver(pool, story.entries)
    assert "carrier_loss" in await causes_of(ann, pool)
    found = story.tell(ShipmentFound(**parcel, review=False))
    await deliver(pool, [found])
    assert "carrier_loss" not in await causes_of(ann, pool)
    assert "root_cause.refuted" in await told(pool)


async def test_an_agents_word_goes_before_the_rules_until_it_is_withdrawn_and_outlives_a_rebuild(
    ann: Desk, pool: Pool, dsn: str
) -> None:
    await deliver(pool, split_order("ORD-1").entries)
    assert (await causes_of(ann, pool))["stock_out"]["stands"]
    path = "/orders/ORD-1/causes"
    said = await ann.post(f"{path}/override", tag="stock_out", replaced_by="address", reason="there was enough")
    assert said == {"order_id": "ORD-1", "causes": ["carrier_delay", "address"], "override_id": "ORD-1-O1"}
    again = await ann.post(f"{path}/override", status=422, tag="carrier_delay", replaced_by="stock_out", reason="no")
    assert [error["field"] for error in again["errors"]] == ["replaced_by"]
    assert "ORD-1-O1 speaks of stock out already" in again["detail"]
    for step in (Rebuild.build, Rebuild.swap, Rebuild.discard):
        found = await causes_of(ann, pool)
        stood = {tag: (cause["stands"], cause["said_by"], cause["said"]) for tag, cause in found.items()}
        assert stood == {
            "stock_out": (False, ann.actor, "there was enough"),
            "address": (True, ann.actor, "there was enough"),
            "carrier_delay": (True, None, None),
        }
        db = await asyncpg.connect(dsn)
        await step(Rebuild(db))
        await db.close()
    entries = (await ann.get("/orders/ORD-1/timeline", domain="support"))["entries"]
    [word] = [entry for entry in entries if entry["type"] == "root_cause.overridden"]
    assert (word["actor"], word["reason"]) == (ann.actor, "there was enough")
    assert word["title"] == "Cause: address, not stock out"
    await ann.post(f"{path}/overrides/ORD-1-O1/withdraw", reason="there was not")
    stands = {tag: cause["stands"] for tag, cause in (await causes_of(ann, pool)).items()}
    assert stands == {"stock_out": True, "carrier_delay": True}
    assert await is_what_the_journal_gives(pool)


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"tag": None}, "tag"),
        ({"tag": "bad_luck"}, "tag"),
        ({"tag": "defect"}, "tag"),
        ({"replaced_by": "stock_out"}, "replaced_by"),
        ({"replaced_by": "carrier_delay"}, "replaced_by"),
        ({"reason": " "}, "reason"),
        ({"reason": "by card 4111 1111 1111 1111"}, "reason"),
        ({"mood": "bad"}, "mood"),
    ],
)
async def test_a_word_on_a_cause_that_does_not_fit_is_refused_by_its_field(
    ann: Desk, pool: Pool, changed: dict[str, Any], field: str
) -> None:
    await deliver(pool, split_order("ORD-1").entries)
    await causes_of(ann, pool)
    before = await told(pool)
    body = {"tag": "stock_out", "reason": "no"} | changed
    refused = await ann.post("/orders/ORD-1/causes/override", status=422, **body)
    assert [error["field"] for error in refused["errors"]] == [field]
    assert await told(pool) == before


async def test_only_who_works_on_orders_speaks_of_their_causes_and_only_of_orders_that_were_seen(
    client: httpx.AsyncClient, ann: Desk, pool: Pool
) -> None:
    await ann.post("/orders/ORD-9/causes/override", status=404, replaced_by="defect", reason="?")
    await deliver(pool, split_order("ORD-1").entries)
    await ann.post("/orders/ORD-1/causes/overrides/ORD-1-O7/withdraw", status=422, reason="?")
    for role in (Role.AUDITOR, Role.STOREFRONT):
        somebody = Desk(client, role, "al")
        await somebody.post("/orders/ORD-1/causes/override", status=403, replaced_by="defect", reason="?")
    assert "root_cause.overridden" not in await told(pool)


async def test_a_rule_for_causes_that_is_switched_off_refutes_what_it_found(ann: Desk, sue: Desk, pool: Pool) -> None:
    await deliver(pool, split_order("ORD-1").entries)
    assert "stock_out" in await causes_of(ann, pool)
    [policy] = [p for p in await ann.get("/support-policies") if p["policy_id"] == "root-causes"]
    document = policy["document"]
    document["rules"]["stock_out"]["is_on"] = False
    await ann.post("/support-policies/root-causes", reason="too loud", policy=document, status=403)
    published = await sue.post("/support-policies/root-causes", reason="too loud", policy=document)
    assert published == {"policy_id": "root-causes", "version": 2}
    assert "stock_out" not in await causes_of(ann, pool)
    del document["rules"]["defect"]
    refused = await sue.post("/support-policies/root-causes", reason="none", policy=document, status=422)
    assert refused["errors"][0]["field"] == "policy"


async def test_a_look_for_causes_that_goes_on_just_now_does_not_remove_what_is_to_be_looked_at_since(
    pool: Pool,
) -> None:
    async def due() -> datetime:
        at: datetime = await pool.fetchval("SELECT due_at FROM deadlines WHERE name = 'look causes'")
        return at

    story = whole_story("ORD-1").entries
    await deliver(pool, [entry for entry in story if entry.service == "fulfillment"])
    read = await due()
    await deliver(pool, [entry for entry in story if entry.service == "returns"])
    assert await due() > read


async def test_an_order_in_parts_is_looked_at_for_causes_once_its_customer_has_asked_whichever_comes_first(
    ann: Desk, pool: Pool
) -> None:
    async def is_due(order_id: str) -> bool:
        sql = "SELECT EXISTS (SELECT FROM deadlines WHERE key = $1 AND name = 'look causes')"
        return bool(await pool.fetchval(sql, order_id))

    for order_id, is_asked_first in (("ORD-1", False), ("ORD-2", True)):
        story = Telling(order_id)
        for entry in split_order(order_id).entries:
            if not entry.fact.type.startswith("backorder.") and entry.fact.type != "shipment.tracking_updated":
                story.now = entry.occurred_at
                story.tell(entry.fact)
        parts = story.entries
        if not is_asked_first:
            await deliver(pool, parts)
            assert not await is_due(order_id), "nobody has asked"
        await ann.contact(story.now, order_id=order_id)
        await hear(pool, order_id)
        assert await is_due(order_id)
        if is_asked_first:
            await look(pool)
            assert not await is_due(order_id)
            await deliver(pool, parts)
        assert set(await causes_of(ann, pool, order_id)) == {"split_confusion"}


async def test_what_went_wrong_is_read_and_put_right_on_the_orders_page(
    client: httpx.AsyncClient, ann: Desk, pool: Pool
) -> None:
    await deliver(pool, split_order("ORD-1").entries)
    found = await causes_of(ann, pool)
    client.cookies.set(SESSION, issue(AUTH_KEY, subject="ann", roles=[Role.AGENT]))
    page = (await client.get("/orders/ORD-1")).text
    assert "Stock out" in page and "backordered v1" in page and "95 % sure" in page
    assert f"/orders/ORD-1/facts/{found['stock_out']['evidence'][0]}" in page
    action = "/orders/ORD-1/actions/set-aside-cause"
    form = {"id": "stock_out", "key": uuid4().hex, "reason": "there was enough", "choice": "defect"}
    assert (await client.post(action, data=form)).status_code == 303
    assert (await client.post(action, data=form)).status_code == 303, "sent again, it has no second effect"
    assert (await told(pool)).count("root_cause.overridden") == 1
    assert {tag for tag, cause in (await causes_of(ann, pool)).items() if cause["stands"]} == {
        "carrier_delay",
        "defect",
    }
    refused = await client.post(action, data=form | {"key": uuid4().hex})
    assert refused.status_code == 422 and "support-view refused:" in refused.text
    page = (await client.get("/orders/ORD-1")).text
    assert "there was enough" in page and "set aside" in page
    withdrawn = {"id": "ORD-1-O1", "key": uuid4().hex, "reason": "after all"}
    assert (await client.post("/orders/ORD-1/actions/withdraw-word", data=withdrawn)).status_code == 303
    named = {"id": "other", "key": uuid4().hex, "reason": "she told me", "choice": "split_confusion"}
    assert (await client.post("/orders/ORD-1/actions/name-cause", data=named)).status_code == 303
    standing = {tag for tag, cause in (await causes_of(ann, pool)).items() if cause["stands"]}
    assert standing == {"stock_out", "carrier_delay", "split_confusion"}


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/cases?of=weather", 422),
        ("/cases?over=perhaps", 422),
        ("/cases?after=9999-12-31T23:59:59-23:59%20x", 404),
        (f"/cases?after={'x' * 1000}", 422),
        ("/cases/%00", 404),
        ("/cases?after=2026-01-01T00:00:00Z%20%00", 404),
        ("/queue?after=1%202026-01-01T00:00:00Z%20%00", 404),
        ("/cases/%3Cscript%3E", 404),
        (f"/cases/{'x' * 10_000}", 404),
        (f"/queue?after={'x' * 1000}", 422),
        (f"/?q={'x' * 10_000}", 422),
        ("/?q=%00%1b%E2%80%AE", 200),
    ],
)
async def test_what_cannot_be_asked_of_a_page_is_answered_clearly_and_runs_nothing(
    client: httpx.AsyncClient, path: str, status: int
) -> None:
    client.cookies.set(SESSION, issue(AUTH_KEY, subject="ann", roles=[Role.AGENT]))
    answer = await client.get(path)
    assert (answer.status_code, "<script>" in answer.text) == (status, False), answer.text


async def test_a_case_is_opened_worked_on_and_resolved_from_the_order_and_its_own_page(
    client: httpx.AsyncClient, pool: Pool
) -> None:
    await deliver(pool, confirmed_order("ORD-1").entries)

    def come(name: str, role: Role) -> None:
        client.cookies.set(SESSION, issue(AUTH_KEY, subject=name, roles=[role]))

    async def send_form(path: str, status: int = 303, **form: str) -> str:
        answer = await client.post(path, data={"key": uuid4().hex} | form)
        assert answer.status_code == status, answer.text
        return answer.headers.get("location") or answer.text

    come("ann", Role.AGENT)
    page = (await client.get("/orders/ORD-1")).text
    [customer] = re.findall(r'/actions/contact" method="post">\s*<input type="hidden" name="id" value="([^"]+)"', page)
    contact = {"id": customer, "direction": "inbound", "channel": "phone", "topic": "where_is_it"}
    acts = "/orders/ORD-1/actions"
    wordless = await send_form(f"{acts}/contact", 422, **contact)
    assert "Say what was said." in wordless and '<option value="phone" selected>' in wordless
    assert await send_form(f"{acts}/contact", text=HOSTILE[0], **contact) == "/orders/ORD-1?done=contact"
    for note in HOSTILE[1:]:
        await send_form(f"{acts}/note-case", id="ORD-1-C1", note=note)
    card = await send_form(f"{acts}/note-case", 422, id="ORD-1-C1", note="4111 1111 1111 1111")
    assert "must not hold a card number" in card
    for path in ("/orders/ORD-1", "/cases/ORD-1-C1"):
        shown = (await client.get(path)).text
        assert "<script>alert" not in shown
        assert all(words in unescape(shown) for words in HOSTILE)

    case = "/cases/ORD-1-C1"
    assert "ORD-1-C1" in (await client.get("/cases?of=unassigned")).text
    assert "No case is yours just now" in (await client.get("/cases?of=mine")).text
    assert await send_form(f"{case}/take-case") == f"{case}?done=take-case"
    assert "The case is yours." in (await client.get(f"{case}?done=take-case")).text
    assert "ORD-1-C1" in (await client.get("/cases?of=mine")).text
    assert f"{case}/give-case" not in (await client.get(case)).text
    assert "support-view refused: needs the role supervisor" in await send_form(
        f"{case}/give-case", 403, assignee="agent:bob"
    )
    come("sue", Role.SUPERVISOR)
    await send_form(f"{case}/give-case", assignee="agent:bob")
    come("ann", Role.AGENT)
    theirs = (await client.get(case)).text
    assert f"{case}/note-case" in theirs and f"{case}/resolve-case" not in theirs
    foreign = await send_form(f"{case}/resolve-case", 409, resolution="mine")
    assert "ORD-1-C1 is with agent:bob: they or a supervisor may do that" in unescape(foreign)
    come("sue", Role.SUPERVISOR)
    await send_form(f"{case}/answer-case", channel="phone", text="It is on its way.")
    await send_form(f"{case}/wait-case", waits_for="customer", reason="a photograph")
    await send_form(f"{case}/resume-case", reason="it came")
    await send_form(f"{case}/resolve-case", resolution="It arrived.")
    late = await send_form(f"{case}/resume-case", 409, reason="again")
    assert "support-view refused:" in late and "now resolved" in late
    await send_form(f"{case}/reopen-case", reason="It was another lamp.")
    await send_form(f"{case}/resolve-case", resolution="Now it is right.")
    assert "ORD-1-C1" not in (await client.get("/cases")).text
    assert "ORD-1-C1" in (await client.get("/cases?over=true")).text
    evil = await client.post(f"{case}/note-case", data={"note": "x"}, headers={"Origin": "https://evil.example"})
    assert evil.status_code == 403
    for odd in (f"{case}/burn", "/cases/ORD-9-C1/note-case"):
        assert (await client.post(odd, data={"key": "k", "note": "x"})).status_code == 404
    assert (await client.get("/cases/ORD-9-C1")).status_code == 404
    assert (await client.get("/cases?after=nonsense")).status_code == 404
    come("max", Role.AUDITOR)
    assert 'method="post"' not in (await client.get(case)).text.partition("</header>")[2]
    assert await is_what_the_journal_gives(pool)
