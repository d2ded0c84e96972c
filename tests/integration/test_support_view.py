"""The view on a real PostgreSQL: any delivery gives the same rows, bad records park, and who may read what over HTTP."""

import asyncio
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from itertools import count
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest

from shared.contracts.fulfillment import StockReceived
from shared.messaging.parking import Record
from shared.messaging.shell import StateCache
from shared.web.auth import issue
from support_view import api, store
from support_view.app import built
from support_view.handlers import process
from support_view.sign_in import SESSION
from tests.backends import Backends
from tests.databases import AUTH_KEY, SUPPORT_SETTINGS
from tests.telling import Telling, confirmed_order, record_of, split_order, whole_story

NewDatabase = Callable[[str], Awaitable[str]]


@pytest.fixture
async def dsn(new_database: NewDatabase) -> str:
    return await new_database("support_view")


@pytest.fixture
async def pool(dsn: str) -> AsyncIterator["asyncpg.Pool[asyncpg.Record]"]:
    async with asyncpg.create_pool(dsn, min_size=0, max_size=10) as pool:
        yield pool


@pytest.fixture
def desk() -> str:
    """Whose pages may show the panel."""
    return ""


@pytest.fixture
async def client(
    backends: Backends, dsn: str, monkeypatch: pytest.MonkeyPatch, desk: str
) -> AsyncIterator[httpx.AsyncClient]:
    monkeypatch.setenv("OMS_FRAME_ANCESTORS", desk)
    monkeypatch.setenv("OMS_DATABASE_URL", dsn)
    monkeypatch.setenv("OMS_KAFKA", backends.kafka)
    monkeypatch.setenv("OMS_AUTH_KEY", AUTH_KEY)
    for name, value in SUPPORT_SETTINGS.items():
        monkeypatch.setenv(name, value)
    app = built()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(app.router.lifespan_context(app))
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        yield await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://view.test"))


def bearer(role: str = "agent") -> dict[str, str]:
    return {"Authorization": f"Bearer {issue(AUTH_KEY, subject='ann', roles=[role])}"}


async def deliver(pool: "asyncpg.Pool[asyncpg.Record]", records: Sequence[Record]) -> list[str]:
    """One batch, as the consumer takes it; the reasons of what it would park."""
    async with pool.acquire() as db, db.transaction():
        return [parked.reason for parked in await process(db, records)]


def records_of(*stories: Telling) -> list[Record]:
    return [record_of(entry, n) for n, entry in enumerate(entry for story in stories for entry in story.entries)]


async def rows(pool: "asyncpg.Pool[asyncpg.Record]") -> list[Any]:
    """All that is derived, and all of the timeline but when it was seen."""
    return [
        await pool.fetch("SELECT subject, service, next, waiting, state::text FROM sections ORDER BY 1, 2"),
        await pool.fetch("SELECT kind, value, subject FROM finds ORDER BY 1, 2, 3"),
        await pool.fetch("SELECT * FROM measured ORDER BY subject, service, measure, id"),
        await pool.fetch("SELECT id, subject, service, sequence, type, data::text FROM timeline ORDER BY id"),
    ]


async def test_shuffled_doubled_and_cut_anyhow_the_facts_leave_the_same_rows(
    pool: "asyncpg.Pool[asyncpg.Record]", new_database: NewDatabase
) -> None:
    stories = [whole_story("ORD-1"), split_order("ORD-2"), confirmed_order("ORD-3"), whole_story("ORD-4")]
    straight = records_of(*stories)
    assert len(straight) >= store.WORTH_COPYING
    await deliver(pool, straight)
    told_straight = await rows(pool)
    assert len(told_straight[-1]) == len(straight)
    for seed, most in enumerate((20, 20, 2 * store.WORTH_COPYING)):
        chance = random.Random(seed)
        anyhow = [*straight, *chance.sample(straight, 30)]
        chance.shuffle(anyhow)
        async with asyncpg.create_pool(await new_database("support_view"), min_size=0) as other:
            while anyhow:
                size = chance.randint(most // 20, most)
                batch, anyhow = anyhow[:size], anyhow[size:]
                assert await deliver(other, batch) == []
            assert await rows(other) == told_straight
            assert await deliver(other, straight) == []
            assert await rows(other) == told_straight


async def test_several_consumers_told_the_same_facts_at_once_leave_the_same_rows(
    pool: "asyncpg.Pool[asyncpg.Record]", new_database: NewDatabase
) -> None:
    straight = records_of(whole_story("ORD-1"), split_order("ORD-2"))
    async with asyncpg.create_pool(await new_database("support_view"), min_size=0) as other:
        await deliver(other, straight)
        told_straight = await rows(other)

    async def consumer(seed: int) -> None:
        chance = random.Random(seed)
        mine = straight.copy()
        chance.shuffle(mine)
        for start in range(0, len(mine), 7):
            while True:
                try:
                    await deliver(pool, mine[start : start + 7])
                    break
                except asyncpg.TransactionRollbackError:
                    continue  # a deadlock's victim: the consumer gives its batch back and reads it again

    await asyncio.gather(*(consumer(seed) for seed in range(6)))
    assert await rows(pool) == told_straight


async def test_a_remembered_section_counts_only_while_its_row_is_the_one_that_was_written(
    pool: "asyncpg.Pool[asyncpg.Record]", new_database: NewDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = records_of(whole_story("ORD-1"), split_order("ORD-2"))
    async with asyncpg.create_pool(await new_database("support_view"), min_size=0) as other:
        await deliver(other, straight)
        told_straight = await rows(other)
    chance = random.Random(7)
    processes: list[StateCache[Any]] = [StateCache(), StateCache(), StateCache()]
    while straight:
        monkeypatch.setattr(store, "SECTION_CACHE", chance.choice(processes))
        async with pool.acquire() as db:
            transaction = db.transaction()
            await transaction.start()
            await process(db, straight[:5])
            if chance.random() < 0.4:
                await transaction.rollback()
                continue
            await transaction.commit()
        straight = straight[5:]
    assert await rows(pool) == told_straight


async def test_a_fact_about_no_order_is_on_the_timeline_and_nowhere_else(pool: "asyncpg.Pool[asyncpg.Record]") -> None:
    shelf = Telling("stock:SKU-lamp@BER")
    shelf.tell(StockReceived(sku="SKU-lamp", location="BER", quantity=5, receipt_id="rcp-1"))
    await deliver(pool, records_of(shelf))
    assert await pool.fetchval("SELECT subject FROM timeline") == "stock:SKU-lamp@BER"
    assert await pool.fetchval("SELECT count(*) FROM sections") == 0


async def test_what_cannot_be_read_is_parked_and_delays_nothing_else(pool: "asyncpg.Pool[asyncpg.Record]") -> None:
    good = records_of(confirmed_order("ORD-1"))
    bad = [
        good[3]._replace(value=b""),
        good[3]._replace(value=b"{"),
        good[3]._replace(value=b"null"),
        good[3]._replace(headers=[]),
        good[3]._replace(headers=[(n, b"\xff" if n == "ce_actor" else v) for n, v in good[3].headers]),
    ]
    assert await deliver(pool, [*bad, *good[:3], *good[4:]]) == [
        "empty",
        "bad_data",
        "bad_data",
        "bad_header",
        "bad_header",
    ]
    assert await pool.fetchval("SELECT count(*) FROM timeline") == len(good) - 1
    await deliver(pool, [good[3]])
    assert await pool.fetchval("SELECT count(*) FROM sections WHERE waiting <> '{}'") == 0


async def test_a_batch_costs_the_same_few_statements_whatever_its_size(pool: "asyncpg.Pool[asyncpg.Record]") -> None:
    async def statements(*stories: Telling) -> list[str]:
        said: list[str] = []
        async with pool.acquire() as db, db.transaction():
            with db.query_logger(lambda logged: said.append(re.sub(r"savepoint_\w+", "savepoint", logged.query))):
                await process(db, records_of(*stories))
        return said

    number = count()
    sizes = (1, 4, 1, 2, 4, 40)
    *_, one, two, few, many = [await statements(*[whole_story(f"ORD-{next(number)}") for _ in range(n)]) for n in sizes]
    assert two == one
    assert many == few, "both are copied"
    assert len(one) <= 10
    assert len(many) <= len(one) + 3


async def test_only_those_who_answer_for_orders_may_read(
    client: httpx.AsyncClient, pool: "asyncpg.Pool[asyncpg.Record]"
) -> None:
    await deliver(pool, records_of(split_order("ORD-1")))
    for path in ("/api/orders/ORD-1", "/api/orders/ORD-1/timeline", "/api/search?q=ORD-1"):
        assert (await client.get(path)).status_code == 401
        assert (await client.get(path, headers=bearer("storefront"))).status_code == 403
        for role in ("agent", "supervisor", "operator", "auditor"):
            assert (await client.get(path, headers=bearer(role))).status_code == 200


async def test_the_summary_says_how_fresh_it_is_and_what_is_missing(
    client: httpx.AsyncClient, pool: "asyncpg.Pool[asyncpg.Record]"
) -> None:
    story = split_order("ORD-1")
    await deliver(pool, [r for r in records_of(story) if r.position != story.entries.index(_of(story, "payments", 4))])
    body = (await client.get("/api/orders/ORD-1", headers=bearer())).json()
    assert body["freshness"]["facts"] == len(story.entries) - 1
    assert [hole["text"] for hole in body["freshness"]["holes"]] == ["fact 4 of payments not seen yet"]
    assert body["rollups"]["fulfillment_status"] == "partly_shipped" and body["rollups"]["has_backorder"]


def _of(story: Telling, service: str, sequence: int) -> Any:
    return next(e for e in story.entries if (e.service, e.sequence) == (service, sequence))


async def test_an_order_nobody_told_of_is_not_known(client: httpx.AsyncClient) -> None:
    for path in ("/api/orders/ORD-9", "/api/orders/ORD-9/timeline"):
        answer = await client.get(path, headers=bearer())
        assert answer.status_code == 404
        assert answer.headers["content-type"] == "application/problem+json"


async def test_the_timeline_is_read_in_pages_and_by_domain(
    client: httpx.AsyncClient, pool: "asyncpg.Pool[asyncpg.Record]"
) -> None:
    story = whole_story("ORD-1")
    await deliver(pool, records_of(story))
    titles: list[str] = []
    after: dict[str, str] = {}
    while True:
        page = (await client.get("/api/orders/ORD-1/timeline", params={"limit": 7, **after}, headers=bearer())).json()
        titles += [entry["title"] for entry in page["entries"]]
        if page["next"] is None:
            break
        after = {"after": page["next"]}
    assert len(titles) == page["total"] == len(story.entries)
    assert titles[0] == "Order placed: 5 units in 3 lines for €414.70"

    chosen = await client.get("/api/orders/ORD-1/timeline?domain=return&domain=order", headers=bearer())
    assert {entry["domain"] for entry in chosen.json()["entries"]} == {"return", "order"}

    about = await client.get("/api/orders/ORD-1/timeline?about=shipment:ORD-1-S2&limit=3", headers=bearer())
    assert all({"kind": "shipment", "id": "ORD-1-S2"} in entry["links"] for entry in about.json()["entries"])
    assert len(about.json()["entries"]) == 3


async def test_what_is_seen_meanwhile_is_streamed_and_a_stream_goes_on_from_its_last_event(
    client: httpx.AsyncClient, pool: "asyncpg.Pool[asyncpg.Record]", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "LIVE_SECONDS", 1.0)
    monkeypatch.setattr(api, "LOOK_SECONDS", 0.01)
    story = records_of(confirmed_order("ORD-1"))
    await deliver(pool, story[:3])

    async def events(**headers: str) -> list[str]:
        answer = await client.get("/api/orders/ORD-1/live?seen=3", headers=bearer() | headers)
        assert answer.headers["content-type"].startswith("text/event-stream")
        return [line for line in answer.text.splitlines() if line.startswith(("event", "id", "data"))]

    listening = asyncio.create_task(events())
    await deliver(pool, story[3:])
    assert await listening == ["event: seen", f'data: {{"facts":{len(story)}}}', f"id: {len(story)}"]
    assert await events(**{"Last-Event-ID": str(len(story))}) == []
    assert (await client.get("/api/orders/ORD-1/live")).status_code == 401


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=501", "limit"),
        ("limit=x", "limit"),
        ("domain=weather", "domain"),
        ("after=nothing", "after"),
    ],
)
async def test_a_bad_question_names_the_field(
    client: httpx.AsyncClient, pool: "asyncpg.Pool[asyncpg.Record]", query: str, field: str
) -> None:
    await deliver(pool, records_of(confirmed_order("ORD-1")))
    answer = await client.get(f"/api/orders/ORD-1/timeline?{query}", headers=bearer())
    assert answer.status_code == 422
    assert field in answer.json()["errors"][0]["field"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("ORD-1", ["ORD-1", "ORD-10"]),
        ("ord-10", ["ORD-10"]),
        ("ADA@example.com", ["ORD-1", "ORD-10"]),
        ("ada@example", []),
        ("JD014711RD-1", ["ORD-1"]),
        ("ret-9911", ["ORD-10"]),
        ("ORD-10-RMA1", ["ORD-10"]),
        ("%", []),
        ("\x00", []),
        ("' OR 1=1 --", []),
    ],
)
async def test_an_order_is_found_by_what_a_caller_can_name(
    client: httpx.AsyncClient, pool: "asyncpg.Pool[asyncpg.Record]", text: str, found: list[str]
) -> None:
    await deliver(pool, records_of(split_order("ORD-1"), whole_story("ORD-10")))
    answer = await client.post("/api/search", json={"q": text}, headers=bearer())
    assert [order["order_id"] for order in answer.json()["orders"]] == found
    if "@example.com" not in text:
        same = await client.get("/api/search", params={"q": text}, headers=bearer())
        assert same.json() == answer.json()


async def test_an_email_address_has_no_place_in_a_url(client: httpx.AsyncClient) -> None:
    refused = await client.get("/api/search", params={"q": "ada@example.com"}, headers=bearer())
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "q")


async def test_a_customers_contact_is_masked_until_somebody_says_why_and_is_kept(
    client: httpx.AsyncClient, pool: "asyncpg.Pool[asyncpg.Record]"
) -> None:
    await deliver(pool, records_of(split_order("ORD-1")))
    customer = (await client.get("/api/orders/ORD-1", headers=bearer())).json()["customer"]
    assert (customer["email"], customer["ship_to"]) == ("a•••@example.com", ["•••", "••• Berlin", "DE"])
    everything = await client.get("/api/orders/ORD-1/timeline?limit=500", headers=bearer())
    assert "ada@example.com" not in everything.text and "Mill Lane" not in everything.text

    asked = await client.post("/api/orders/ORD-1/contact", json={"reason": "asks where it is"}, headers=bearer())
    assert (asked.json()["email"], asked.json()["ship_to"][1]) == ("ada@example.com", "1 Mill Lane")
    for body, field in (({"reason": " "}, "reason"), ({}, "reason"), ({"reason": "x", "to": "y"}, "to")):
        refused = await client.post("/api/orders/ORD-1/contact", json=body, headers=bearer())
        assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, field)
    assert (await client.post("/api/orders/no/contact", json={"reason": "x"}, headers=bearer())).status_code == 404
    denied = await client.post("/api/orders/ORD-1/contact", json={"reason": "x"}, headers=bearer("auditor"))
    assert denied.status_code == 403

    kept = (await client.get("/api/reveals?order_id=ORD-1", headers=bearer("auditor"))).json()
    assert [(r["actor"], r["reason"]) for r in kept["reveals"]] == [("agent:ann", "asks where it is")]
    assert (await client.get("/api/reveals", headers=bearer())).status_code == 403


async def test_the_page_shows_a_contact_once_it_was_told_why_and_takes_no_form_of_another_site(
    client: httpx.AsyncClient, pool: "asyncpg.Pool[asyncpg.Record]"
) -> None:
    await deliver(pool, records_of(split_order("ORD-1")))
    client.cookies.set(SESSION, issue(AUTH_KEY, subject="ann", roles=["agent"]))
    assert "ada@example.com" not in (await client.get("/orders/ORD-1")).text
    for foreign in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": "null"}):
        for path in ("/orders/ORD-1/contact", "/find", "/sign-out", "/sign-in"):
            assert (await client.post(path, data={"reason": "x", "q": "x"}, headers=foreign)).status_code == 403
    assert (await client.post("/orders/ORD-1/contact", data={"reason": " "})).status_code == 422
    assert await pool.fetchval("SELECT count(*) FROM reveals") == 0
    shown = await client.post("/orders/ORD-1/contact", data={"reason": "asks where it is"})
    assert "ada@example.com" in shown.text and "1 Mill Lane" in shown.text
    assert await pool.fetchval("SELECT actor FROM reveals") == "agent:ann"
    assert (await client.post("/orders/no/contact", data={"reason": "x"})).status_code == 404
    client.cookies.set(SESSION, issue(AUTH_KEY, subject="max", roles=["auditor"]))
    assert (await client.post("/orders/ORD-1/contact", data={"reason": "x"})).status_code == 403


async def test_an_order_nobody_told_of_yet_is_not_seen_yet_and_a_wrong_id_is_wrong(client: httpx.AsyncClient) -> None:
    for path in ("/api/orders/ORD-9", "/api/orders/ORD-9/timeline", f"/api/orders/ORD-9/facts/{UUID(int=1)}"):
        answer = await client.get(path, headers=bearer())
        assert (answer.status_code, answer.json()["type"]) == (404, "urn:order-workflows:not-seen-yet")
        assert answer.headers["retry-after"]
    assert (await client.get("/api/orders/%20", headers=bearer())).status_code == 422
    client.cookies.set(SESSION, issue(AUTH_KEY, subject="ann", roles=["agent"]))
    page = await client.get("/orders/ORD-9")
    assert page.status_code == 404 and "Nothing has been seen of order ORD-9 as of" in page.text
    assert "is no order id" in (await client.get("/orders/%20")).text


async def test_a_fact_is_read_as_it_travelled_but_for_contacts_and_tokens(
    client: httpx.AsyncClient, pool: "asyncpg.Pool[asyncpg.Record]"
) -> None:
    await deliver(pool, records_of(split_order("ORD-1"), split_order("ORD-2")))
    entries = (await client.get("/api/orders/ORD-1/timeline?limit=500", headers=bearer())).json()["entries"]
    told = {entry["type"]: entry for entry in reversed(entries)}
    read = await client.get(f"/api/orders/ORD-1/facts/{told['order.placed']['id']}", headers=bearer("auditor"))
    fact = read.json()
    assert {name: fact[name] for name in told["order.placed"]} == told["order.placed"]
    assert (fact["data"]["customer"]["email"], fact["data"]["ship_to"]["street"]) == ("a•••@example.com", "•••")
    assert fact["data"]["lines"][0]["sku"] == "SKU-lamp"
    client.cookies.set(SESSION, issue(AUTH_KEY, subject="ann", roles=["agent"]))
    for entry in entries:
        page = await client.get(f"/orders/ORD-1/facts/{entry['id']}")
        assert page.status_code == 200 and entry["type"] in page.text
        for secret in ("ada@example.com", "Mill Lane", "tok_"):
            assert secret not in page.text, entry["type"]
        assert (await client.get(f"/orders/ORD-2/facts/{entry['id']}")).status_code == 404, "it is another order's"
    for odd in (str(UUID(int=1)), "nonsense", "%00"):
        assert (await client.get(f"/orders/ORD-1/facts/{odd}")).status_code == 404
        assert (await client.get(f"/api/orders/ORD-1/facts/{odd}", headers=bearer())).status_code in (404, 422)
    assert (await client.get(f"/api/orders/ORD-1/facts/{odd}", headers=bearer("storefront"))).status_code == 403


@pytest.mark.parametrize("desk", ["", "https://desk.example.com https://help.example.com:8443"])
async def test_only_the_panel_may_stand_in_a_frame_and_only_in_the_help_desks(
    client: httpx.AsyncClient, pool: "asyncpg.Pool[asyncpg.Record]", desk: str
) -> None:
    await deliver(pool, records_of(split_order("ORD-1")))
    panel = await client.get("/embed/ORD-1")
    assert "Nobody is signed in" in panel.text and "partly shipped" not in panel.text
    client.cookies.set(SESSION, issue(AUTH_KEY, subject="ann", roles=["agent"]))
    panel = await client.get("/embed/ORD-1")
    assert "partly shipped" in panel.text and panel.headers["content-security-policy"].endswith(
        f"frame-ancestors {desk or repr('none')}"
    )
    assert "Nothing has been seen" in (await client.get("/embed/ORD-9")).text
    whole = await client.get("/orders/ORD-1")
    assert whole.headers["content-security-policy"].endswith("frame-ancestors 'none'")


async def test_a_search_text_is_bounded(client: httpx.AsyncClient) -> None:
    for text in ("", "x" * 321):
        assert (await client.get("/api/search", params={"q": text}, headers=bearer())).status_code == 422


async def test_the_page_asks_who_looks_and_keeps_the_token_out_of_addresses_and_scripts(
    client: httpx.AsyncClient, pool: "asyncpg.Pool[asyncpg.Record]"
) -> None:
    await deliver(pool, records_of(split_order("ORD-1")))
    token = issue(AUTH_KEY, subject="ann", roles=["agent"])
    turned_away = await client.get("/orders/ORD-1?domain=order")
    assert turned_away.status_code == 303
    assert turned_away.headers["location"] == "/sign-in?next=%2Forders%2FORD-1%3Fdomain%3Dorder"
    by_address = await client.get(f"/sign-in?token={token}")
    assert by_address.status_code == 200 and not by_address.headers.get("set-cookie")

    signed_in = await client.post("/sign-in", data={"token": token, "next": "/orders/ORD-1"})
    assert (signed_in.status_code, signed_in.headers["location"]) == (303, "/orders/ORD-1")
    cookie = signed_in.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie
    page = await client.get("/orders/ORD-1")
    assert page.status_code == 200 and "partly shipped" in page.text
    assert "script-src 'self';" in page.headers["content-security-policy"]
    assert "unsafe" not in page.headers["content-security-policy"]
    assert "'unsafe-inline'" not in page.headers["content-security-policy"]
    assert page.headers["cache-control"] == "no-store"
    assert token not in page.text

    await client.post("/sign-out")
    assert (await client.get("/orders/ORD-1")).status_code == 303


@pytest.mark.parametrize(
    ("token", "status"),
    [
        ("nonsense", 401),
        (issue("another key, at least thirty-two bytes long", subject="eve", roles=["agent"]), 401),
        (issue(AUTH_KEY, subject="late", roles=["agent"], ttl=timedelta(minutes=-5)), 401),
        (issue(AUTH_KEY, subject="shop", roles=["storefront"]), 403),
    ],
    ids=["nonsense", "forged", "expired", "another role"],
)
async def test_a_token_that_does_not_open_the_page_says_why(client: httpx.AsyncClient, token: str, status: int) -> None:
    answer = await client.post("/sign-in", data={"token": token})
    assert answer.status_code == status
    assert 'role="alert"' in answer.text and "set-cookie" not in answer.headers


async def test_what_people_wrote_is_shown_literally(
    client: httpx.AsyncClient, pool: "asyncpg.Pool[asyncpg.Record]"
) -> None:
    await deliver(pool, records_of(whole_story("ORD-1")))
    client.cookies.set(SESSION, issue(AUTH_KEY, subject="<i>ann</i>", roles=["agent"]))
    page = await client.get("/orders/ORD-1")
    assert "too bright &lt;b&gt;for us&lt;/b&gt;" in page.text and "<b>for us" not in page.text
    assert "&lt;i&gt;ann" in page.text
    for path in ("/orders/%3Cscript%3E", "/orders/ORD-9", "/?q=%3Cscript%3E", "/orders/ORD-1?after=%3Cscript%3E"):
        assert "<script>" not in (await client.get(path)).text


async def test_a_search_with_one_answer_leads_straight_to_it(
    client: httpx.AsyncClient, pool: "asyncpg.Pool[asyncpg.Record]"
) -> None:
    await deliver(pool, records_of(split_order("ORD-1"), split_order("ORD-2")))
    client.cookies.set(SESSION, issue(AUTH_KEY, subject="ann", roles=["auditor"]))
    assert (await client.get("/?q=ord-2")).headers["location"] == "/orders/ORD-2"
    both = await client.post("/find", data={"q": "ADA@example.com"})
    assert "2 orders" in both.text
    assert "2 orders" not in (await client.get("/?q=ada@example.com")).text, "it has no place in an address"
    assert (await client.post("/find", data={"q": "ord-2"})).headers["location"] == "/?q=ord-2"
    assert (await client.post("/find", data={"q": "x" * 10_000})).status_code == 422
    assert "Nothing found" in (await client.get("/?q=nobody")).text


async def test_every_detail_is_on_the_page_only_when_asked_for(
    client: httpx.AsyncClient, pool: "asyncpg.Pool[asyncpg.Record]"
) -> None:
    await deliver(pool, records_of(split_order("ORD-1")))
    client.cookies.set(SESSION, issue(AUTH_KEY, subject="ann", roles=["agent"]))
    assert "set aside in BER" not in (await client.get("/orders/ORD-1")).text
    assert "set aside in BER" in (await client.get("/orders/ORD-1?detail=all")).text
    only = (await client.get("/orders/ORD-1?domain=payment")).text
    assert "captured for shipment 1 of 3" in only and "Order placed" not in only


async def test_what_nobody_expected_is_a_page_with_a_way_back_and_an_id_that_stands_in_the_log(
    client: httpx.AsyncClient,
    pool: "asyncpg.Pool[asyncpg.Record]",
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fails(*_: object) -> None:
        raise ZeroDivisionError("a fault of ours")

    await deliver(pool, records_of(split_order("ORD-1")))
    await client.post("/sign-in", data={"token": issue(AUTH_KEY, subject="ann", roles=["agent"])})
    monkeypatch.setattr("support_view.pages.draw", fails)
    monkeypatch.setattr("support_view.api.summarize", fails)
    for path, headers in (
        ("/orders/ORD-1", {"accept": "text/html,*/*", "referer": "http://view.test/queue"}),
        ("/embed/ORD-1", {"accept": "text/html,*/*"}),
        ("/api/orders/ORD-1", {"accept": "text/html,*/*"} | bearer()),
        ("/orders/ORD-1", {}),
    ):
        caplog.clear()
        answer = await client.get(path, headers=headers)
        assert answer.status_code == 500 and "a fault of ours" not in answer.text
        [failure] = re.findall(r"urn:uuid:[0-9a-f-]{36}", answer.text)[:1]
        [logged] = [record.getMessage() for record in caplog.records if "request.failed" in record.getMessage()]
        assert failure in logged and "a fault of ours" in logged
        is_page = path.startswith(("/orders", "/embed")) and bool(headers)
        kind = "text/html; charset=utf-8" if is_page else "application/problem+json"
        assert answer.headers["content-type"] == kind
        assert not is_page or 'href="/"' in answer.text
        assert ('href="http://view.test/queue"' in answer.text) == ("referer" in headers)


@pytest.mark.parametrize(
    ("path", "status"), [("/nowhere", 404), ("/queue?mine=perhaps", 422), ("/cases?of=everybody", 422)]
)
async def test_what_a_person_mistypes_is_answered_by_a_page_and_a_program_by_problem_details(
    client: httpx.AsyncClient, path: str, status: int
) -> None:
    page = await client.get(path, headers={"accept": "text/html", "referer": "http://elsewhere.test/"})
    assert (page.status_code, page.headers["content-type"]) == (status, "text/html; charset=utf-8")
    assert "elsewhere" not in page.text and 'href="/"' in page.text
    program = await client.get(path)
    assert (program.status_code, program.headers["content-type"]) == (status, "application/problem+json")
