"""A row that another session of the database holds holds up its own key and no other: over Kafka, over HTTP, for timers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import httpx
import pytest
from fastapi import FastAPI

from shared.messaging.locks import LOCK_TIMEOUT, Locked, give_up_after, holders
from shared.messaging.parking import waiting
from shared.messaging.timers import RETRY, Timers
from shared.runtime import build
from shared.web.auth import Role, issue
from shared.web.commands import CommandBus
from shared.web.operations import UNPUBLISHED
from tests.databases import AUTH_KEY
from tests.integration.delivery import Bench, once, until
from tests.integration.tally import FLOW, Add, add
from tests.integration.test_http import router

KEYS = [f"o{n}" for n in range(200)]
HELD = "another session of the database holds its row"


@asynccontextmanager
async def locked(bench: Bench, statement: str = "SELECT FROM states WHERE key = 'o7' FOR UPDATE") -> AsyncIterator[int]:
    """Held by a session of somebody else's, whose process id this is, until left."""
    db = await asyncpg.connect(bench.dsn, server_settings={"application_name": "somebody's script"})
    try:
        async with db.transaction():
            await db.execute(statement)
            yield db.get_server_pid()
    finally:
        await db.close()


async def ready(app: FastAPI) -> dict[str, Any]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://tallies") as client:
        answer = await client.get("/readyz")
        found: dict[str, Any] = answer.json()
        return found


async def queue(bench: Bench) -> list[tuple[str, str]]:
    async with bench.pool.acquire() as db:
        return [(w.key, w.reason) for w in await waiting(db)]


async def test_records_of_a_locked_key_wait_by_themselves_and_are_told_in_order_when_it_is_free(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = bench.consuming(monkeypatch, lock_seconds=0.3)
    async with app.router.lifespan_context(app):
        await bench.produce(*[(key, 1) for key in KEYS])
        await bench.counts(once(KEYS, 1))
        async with locked(bench) as pid:
            await bench.produce(*[(key, f"{n} {n}") for n in (1, 2, 3) for key in KEYS])
            others = once(KEYS, 7) | {"o7": 1}
            await bench.counts(others, 15)
            await until(lambda: _is_told(bench, f"backend {pid} (somebody's script"))
            await bench.produce(*[(key, "4 4") for key in KEYS])
            await bench.counts(once(KEYS, 11) | {"o7": 1}, 15)
            assert await queue(bench) == [("o7", "locked")] * 4
            found = await ready(app)
            assert found["ready"]
            [said] = found["locked"]
            assert said.startswith(f"o7 waits: {HELD}: backend {pid} (somebody's script")
        await bench.counts(once(KEYS, 11))
        assert await queue(bench) == []
        assert (await ready(app))["locked"] == []
    state = FLOW.state.validate_json(await bench.pool.fetchval("SELECT state FROM states WHERE key = 'o7'"))
    assert state.added == ("", "1", "2", "3", "4")


async def _is_told(bench: Bench, text: str) -> bool:
    async with bench.pool.acquire() as db:
        return any(text in w.detail for w in await waiting(db))


async def test_a_locked_key_waits_over_a_restart_and_nothing_of_it_is_lost(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = bench.consuming(monkeypatch, lock_seconds=0.3)
    async with first.router.lifespan_context(first):
        await bench.produce(("o7", 1), ("o8", 1))
        await bench.counts({"o7": 1, "o8": 1})
    async with locked(bench):
        second = bench.consuming(monkeypatch, lock_seconds=0.3)
        async with second.router.lifespan_context(second):
            await bench.produce(("o7", "2 a"), ("o8", 2))
            await bench.counts({"o7": 1, "o8": 3})
        third = bench.consuming(monkeypatch, lock_seconds=0.3)
        async with third.router.lifespan_context(third):
            await bench.produce(("o7", "3 b"), ("o8", 3))
            await bench.counts({"o7": 1, "o8": 6})
    fourth = bench.consuming(monkeypatch, lock_seconds=0.3)
    async with fourth.router.lifespan_context(fourth):
        await bench.counts({"o7": 6, "o8": 6})


async def test_an_aggregate_that_somebody_else_is_just_making_holds_up_itself_only(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    making = "INSERT INTO states (key, state, sequence, chain) VALUES ('o7', 'null', 0, '')"
    app = bench.consuming(monkeypatch, lock_seconds=0.3)
    async with app.router.lifespan_context(app):
        with pytest.raises(RuntimeError, match="never mind"):
            async with locked(bench, making):
                await bench.produce(*[(key, 1) for key in KEYS])
                await bench.counts(once((key for key in KEYS if key != "o7"), 1))
                raise RuntimeError("never mind")
        await bench.counts(once(KEYS, 1))


async def test_a_locked_table_parks_nothing_and_is_waited_for(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    app = bench.consuming(monkeypatch, lock_seconds=0.3)
    async with app.router.lifespan_context(app):
        async with locked(bench, "LOCK TABLE outbox IN EXCLUSIVE MODE"):
            await bench.produce(*[(key, 1) for key in KEYS])
            consumer = app.state.running.consumers[0]
            await until(lambda: _fails(consumer))
            assert await queue(bench) == []
        await bench.counts(once(KEYS, 1))


async def _fails(consumer: Any) -> bool:
    return consumer.progress.failing_since is not None


@asynccontextmanager
async def service(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[httpx.AsyncClient]:
    for name, value in {
        "DATABASE_URL": bench.dsn,
        "KAFKA": "none",
        "AUTH_KEY": AUTH_KEY,
        "LOCK_SECONDS": "0.3",
    }.items():
        monkeypatch.setenv(f"OMS_{name}", value)
    app = build("tallies", router=router, flows=[FLOW], publishes=False)
    async with app.router.lifespan_context(app):
        token = issue(AUTH_KEY, subject="shop", roles=[Role.STOREFRONT], ttl=timedelta(hours=1))
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app),
            base_url="http://tallies",
            headers={"Authorization": f"Bearer {token}"},
        ) as client:
            yield client


async def test_requests_for_a_locked_key_are_answered_503_and_hold_up_no_other(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.commit(*(add(key, 1) for key in KEYS))

    async def post(client: httpx.AsyncClient, key: str, n: int) -> httpx.Response:
        return await client.post(f"/tallies/{key}", json={"amount": 1}, headers={"Idempotency-Key": f"{key}-{n}"})

    async with service(bench, monkeypatch) as client:
        async with locked(bench) as pid:
            stuck = [asyncio.create_task(post(client, "o7", n)) for n in range(50)]
            await asyncio.sleep(0)
            others = [await post(client, key, n) for n in range(2) for key in KEYS[10:60]]
            assert {answer.status_code for answer in others} == {201}
            said = (await client.get("/readyz")).json()
            assert said["ready"]
            assert said["locked"][0].startswith(f"o7 waits: it is locked by backend {pid} (somebody's script")
            refused = await asyncio.gather(*stuck)
            assert {answer.status_code for answer in refused} == {503}
            assert {answer.headers["Retry-After"] for answer in refused} == {"2"}
            assert (await bench.totals())["o7"] == 1
            late = asyncio.create_task(post(client, "o7", 1000))
            await asyncio.sleep(0.5)
            assert not late.done()
        # Free within the time that a request waits: it has its effect, and so has what was refused and is sent again.
        assert (await late).status_code == 201
        again = await asyncio.gather(*(post(client, "o7", n) for n in range(50)))
        assert {answer.status_code for answer in again} == {201}
    assert (await bench.totals())["o7"] == 1 + 1 + 50


async def test_who_waits_for_the_row_too_is_not_named_as_its_holder(bench: Bench) -> None:
    await bench.commit(add("o7", 1))
    taking = "SELECT FROM states WHERE key = 'o7' FOR UPDATE"
    async with bench.pool.acquire() as first, bench.pool.acquire() as second:
        async with locked(bench) as pid:
            ahead = asyncio.create_task(first.execute(taking))

            async def waits() -> bool:
                return bool(await second.fetchval("SELECT cardinality(pg_blocking_pids($1))", first.get_server_pid()))

            await until(waits)
            async with holders(bench.pool, second) as found:
                with pytest.raises(LOCK_TIMEOUT):
                    async with second.transaction():
                        await give_up_after(second, 1)
                        await second.execute(taking)
            assert [who.partition(" (")[0] for who in found] == [f"backend {pid}"]
        await ahead


async def test_a_workers_batch_commits_but_for_the_locked_key_which_it_is_told_of(bench: Bench) -> None:
    await bench.commit(*(add(key, 1) for key in KEYS))
    pool = await asyncpg.create_pool(bench.dsn, min_size=0, max_size=8, server_settings={"lock_timeout": "300ms"})
    try:
        commands = CommandBus(pool, lambda: None)
        async with locked(bench) as pid:
            errors = await commands.process(FLOW, [add(key, 2) for key in ("o6", "o7", "o8", "o7", "o9")])
            held = errors[1]
            assert isinstance(held, Locked)
            assert f"backend {pid}" in held.holder
            assert [type(error) for error in errors] == [type(None), Locked, type(None), Locked, type(None)]
        assert await commands.process(FLOW, [add("o7", 2)]) == [None]
    finally:
        await pool.close()
    totals = await bench.totals()
    assert [totals[key] for key in ("o6", "o7", "o8", "o9")] == [3, 3, 3, 3]


def fire(key: str, name: str, at: datetime) -> Add:
    return Add(0 if name == "broken" else 1, name)


async def test_a_deadline_of_a_locked_key_waits_and_one_that_breaks_is_kept_with_its_fault_and_given_up_at_last(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.messaging.timers.GIVES_UP_AFTER", 2)
    await bench.commit(*(add(key, 1) for key in KEYS))
    await bench.pool.execute(
        """INSERT INTO deadlines (key, name, due_at) SELECT 'o' || n, 'check', now() FROM generate_series(5, 9) AS n
        UNION ALL SELECT 'o8', 'broken', now() UNION ALL SELECT 'nobody:1', 'check', now()"""
    )
    pool = await asyncpg.create_pool(bench.dsn, min_size=0, max_size=8, server_settings={"lock_timeout": "300ms"})
    timers = Timers(pool, "tallies", [(FLOW, fire)], lambda: None)

    async def left() -> dict[str, tuple[int, str, bool]]:
        rows = await bench.pool.fetch(
            "SELECT key, name, attempts, failure, given_up_at FROM deadlines ORDER BY key, name"
        )
        return {f"{r['key']} {r['name']}": (r["attempts"], r["failure"], r["given_up_at"] is not None) for r in rows}

    async def again() -> dict[str, tuple[int, str, bool]]:
        await bench.pool.execute("UPDATE deadlines SET retry_at = now() WHERE retry_at IS NOT NULL")
        await timers.fire()
        return await left()

    try:
        async with locked(bench) as pid:
            await timers.fire()
            found = await left()
            assert {key: (n, given_up) for key, (n, _, given_up) in found.items()} == {
                "nobody:1 check": (1, False),
                "o7 check": (0, False),
                "o8 broken": (1, False),
            }
            assert found["o7 check"][1].startswith(f"its row is locked by backend {pid} (somebody's script")
            assert "ZeroDivisionError" in found["o8 broken"][1]
            assert await bench.pool.fetchval("SELECT count(*) FROM deadlines WHERE retry_at IS NULL") == 0
        assert {key: n for key, (n, _, given_up) in (await again()).items() if given_up} == {
            "nobody:1 check": 2,
            "o8 broken": 2,
        }
        assert await timers.fire() == 0
        async with bench.pool.acquire() as db:
            [row] = await db.fetch(UNPUBLISHED)
        assert row["given_up"] == 2
        assert row["failing"][1] == "deadline broken of o8 was given up: ZeroDivisionError('division by zero')"
        assert [row["name"] for row in await bench.pool.fetch(RETRY, "o8")] == ["broken"]
        assert (await again())["o8 broken"][0] == 1
    finally:
        await pool.close()
    totals = await bench.totals()
    assert [totals[f"o{n}"] for n in range(5, 10)] == [2] * 5
