"""Whatever the system has come to, each page and each answer of the API is there, and what they lead to is there too."""

import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from html import unescape
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest
from fastapi import FastAPI

from shared.contracts import Fact
from shared.messaging.database import Pool
from shared.messaging.timers import Timers
from shared.web.auth import Role, issue
from support_view.app import built
from support_view.casebook import FLOWS
from support_view.domain.casework import due_command
from support_view.domain.timeline import Entry
from support_view.handlers import process
from support_view.sign_in import SESSION
from tests.backends import Backends
from tests.databases import AUTH_KEY, SUPPORT_SETTINGS
from tests.properties.test_page import journeyed, told_customer
from tests.properties.test_system import KINDS, Step
from tests.properties.world import World
from tests.telling import entry_in, record_of

KINDS_OF_STEPS = [kind for kind, (weight, _) in KINDS.items() for _ in range(weight)]


@pytest.fixture
async def dsn(new_database: Callable[[str], Awaitable[str]]) -> str:
    return await new_database("support_view")


@pytest.fixture
async def pool(dsn: str) -> AsyncIterator[Pool]:
    async with asyncpg.create_pool(dsn, min_size=0, max_size=4) as pool:
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


def story(seed: int) -> World:
    """An order of one to five lines, or of the small kind, and what came of it."""
    chance = random.Random(seed)
    steps = [
        Step(chance.choice(KINDS_OF_STEPS), chance.randrange(16), chance.randrange(16))
        for _ in range(chance.randrange(10, 60))
    ]
    return journeyed(seed % 6, chance.randrange(24), seed % 8, steps)


def entries(world: World) -> list[Entry]:
    """All that was told of all orders and shelves, as it travels."""
    found: list[Entry] = []

    def told(service: str, subject: str, facts: Sequence[tuple[Fact, Any]]) -> None:
        for n, (fact, at) in enumerate(facts, 1):
            id = UUID(int=len(found) + 1)
            found.append(Entry(str(id), service, subject, n, fact, at, "system:test", "test", "test"))

    for (service, key), journal in world.journal.items():
        told(service.value, key, [(entry.fact, entry.cause.at) for entry in journal])
    for id in world.orders:
        told("notifications", id, [(fact, world.now) for fact in told_customer(world, id, 1)])
    return found


async def hear(pool: Pool, told: Sequence[Entry]) -> None:
    async with pool.acquire() as db, db.transaction():
        assert await process(db, [record_of(entry, n) for n, entry in enumerate(told)]) == []


async def look(pool: Pool) -> None:
    """Until nothing is due; and support's own facts come back to its view."""
    timers = Timers(pool, "support-view", [(flow, due_command) for flow in FLOWS], lambda: None)
    while await timers.fire():
        pass
    assert await pool.fetch("SELECT * FROM deadlines WHERE failure IS NOT NULL") == []
    await hear(pool, [entry_in("support", row) for row in await pool.fetch("SELECT * FROM events ORDER BY id")])


class Reader:
    """Somebody who opens whatever a page leads to."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self.read: dict[str, str] = {}

    async def opens(self, address: str, depth: int) -> None:
        path, _, _ = address.partition("#")
        if path in self.read:
            return
        answer = await self._client.get(path, follow_redirects=True)
        assert answer.status_code == 200, f"{path}: {answer.status_code} {answer.text[:1000]}"
        self.read[path] = answer.text
        if not answer.headers["content-type"].startswith("text/html"):
            return
        ids = set(re.findall(r'\sid="([^"]*)"', answer.text))
        for link in dict.fromkeys(re.findall(r'href="([^"]*)"', answer.text)):
            to, _, place = unescape(link).partition("#")
            if place and not to and not place.startswith("fact-"):
                assert place in ids, f"{path} leads to #{place}, which is not there"
            if depth and to.startswith("/") and not to.startswith("/assets/"):
                await self.opens(to, depth - 1)


@pytest.mark.parametrize("seed", range(6))
async def test_every_page_and_whatever_it_leads_to_is_there(app: FastAPI, pool: Pool, seed: int) -> None:
    world = story(seed)
    await hear(pool, entries(world))
    await look(pool)
    token = issue(AUTH_KEY, subject="sue", roles=[Role.SUPERVISOR])
    bearer = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://view.test") as client:
        for id in world.orders:
            contact = {"customer": {"customer_id": "ada"}, "order_id": id, "channel": "email", "text": "Where is it?"}
            made = await client.post("/api/contacts", json=contact, headers=bearer | {"Idempotency-Key": f"k-{id}"})
            assert made.is_success, made.text
        await look(pool)
        client.cookies.set(SESSION, token)
        sue = Reader(client)
        for start in ("/", "/queue", "/cases", "/cases?over=true", "/figures"):
            await sue.opens(start, depth=2)
        for id in world.orders:
            for page in (f"/?q={id}", f"/orders/{id}?detail=all", f"/embed/{id}"):
                await sue.opens(page, depth=1)
        cases = [row["case_id"] for row in await pool.fetch("SELECT case_id FROM cases")]
        raised = [row["escalation_id"] for row in await pool.fetch("SELECT escalation_id FROM escalations")]
        asked = [
            *(f"orders/{id}{part}" for id in world.orders for part in ("", "/timeline?limit=500")),
            *(f"cases/{id}" for id in cases),
            *(f"escalations/{id}" for id in raised),
            *("queue?limit=500", "cases?limit=500", "figures", f"search?q={world.orders[0]}"),
        ]
        for path in asked:
            answer = await client.get(f"/api/{path}", headers=bearer)
            assert answer.status_code == 200, f"{path}: {answer.text[:1000]}"
    queue = sue.read["/queue"]
    assert all(f'href="/cases/{id}"' in sue.read["/cases"] for id in cases) and cases
    assert ("Nobody needs attention just now" in queue) == (
        not await pool.fetchval("SELECT count(*) FROM escalations WHERE status <> 'cleared'")
    )
