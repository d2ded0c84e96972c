"""HTTP in, as every service has it: who may, once per key, bounded, signed; on a real PostgreSQL."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import datetime, timedelta, timezone
from typing import Annotated

import asyncpg
import httpx
import jwt
import pytest
from fastapi import APIRouter, Response
from pydantic import BaseModel
from standardwebhooks.webhooks import Webhook

import shared.web.commands
from shared.contracts.base import Input, Quantity
from shared.messaging.shell import Message
from shared.runtime import build
from shared.web.auth import Role, issue
from shared.web.commands import TOGETHER, CommandBus, CommandRequest, Commands, asks
from shared.web.webhooks import SignedBody, signed, webhook_cause
from tests.backends import Backends
from tests.databases import AUTH_KEY
from tests.integration.tally import FLOW, Add, cause

NewDatabase = Callable[[str], Awaitable[str]]
SECRET = "whsec_dGhlIHNlY3JldCBvZiBhIHRlc3QgcGFydG5lcg=="
router = APIRouter()


class Addition(Input):
    amount: Quantity


class Total(BaseModel):
    total: int


@router.post("/tallies/{key}", status_code=201)
async def add(key: str, body: Addition, by: Annotated[CommandRequest, asks(Role.STOREFRONT)]) -> Response:
    return await by.tell(
        FLOW, key, Add(body.amount), lambda state, facts: (201, Total(total=state.total)), reason="counted"
    )


@router.post("/webhooks/counter")
async def counter(body: Annotated[SignedBody, signed(lambda settings: SECRET)], commands: Commands) -> dict[str, str]:
    cause = webhook_cause("counter", body.id, datetime.now(timezone.utc), "counter")
    told = json.loads(body.body)
    [error] = await commands.process(FLOW, [Message(told["key"], Add(told["amount"]), cause)])
    return {"error": str(error)}


@router.get("/faulty")
async def faulty() -> None:
    raise ZeroDivisionError("a fault of ours")


@pytest.fixture
async def dsn(new_database: NewDatabase) -> str:
    return await new_database("tests.integration.plumbing")


@pytest.fixture
async def client(backends: Backends, dsn: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[httpx.AsyncClient]:
    monkeypatch.setenv("OMS_DATABASE_URL", dsn)
    monkeypatch.setenv("OMS_KAFKA", backends.kafka)
    monkeypatch.setenv("OMS_AUTH_KEY", AUTH_KEY)
    app = build("tallies", router=router, flows=[FLOW], publishes=False)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(app.router.lifespan_context(app))
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        yield await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://tallies"))


def bearer(*roles: Role, key: str = AUTH_KEY, ttl: timedelta = timedelta(hours=1)) -> dict[str, str]:
    return {"Authorization": f"Bearer {issue(key, subject='shop', roles=roles or [Role.STOREFRONT], ttl=ttl)}"}


async def post(client: httpx.AsyncClient, amount: object, key: str = "k1", **headers: str) -> httpx.Response:
    return await client.post(
        "/tallies/a", json={"amount": amount}, headers=bearer() | {"Idempotency-Key": key} | headers
    )


async def count(dsn: str, table: str) -> int:
    db = await asyncpg.connect(dsn)
    try:
        return int(await db.fetchval(f"SELECT count(*) FROM {table}"))
    finally:
        await db.close()


async def test_the_same_key_fifty_times_at_once_is_one_effect_and_one_answer(
    client: httpx.AsyncClient, dsn: str
) -> None:
    answers = await asyncio.gather(*(post(client, 7) for _ in range(50)))
    assert {(a.status_code, a.text) for a in answers} == {(201, '{"total":7}')}
    assert sum(a.headers.get("Idempotency-Replayed") != "true" for a in answers) == 1
    assert await count(dsn, "events") == 1


async def test_the_same_key_with_another_body_is_refused_and_changes_nothing(
    client: httpx.AsyncClient, dsn: str
) -> None:
    await post(client, 7)
    answer = await post(client, 8)
    assert answer.status_code == 422
    assert answer.json()["errors"] == [{"field": "Idempotency-Key", "rule": "was used with another body"}]
    assert await count(dsn, "events") == 1


async def test_a_refused_command_leaves_nothing_and_its_key_stays_free(client: httpx.AsyncClient, dsn: str) -> None:
    refused = await post(client, 13)
    assert refused.status_code == 409
    assert refused.headers["content-type"] == "application/problem+json"
    assert (refused.json()["current"], refused.json()["allowed"]) == ("counting", ["anything else"])
    for table in ("events", "states", "inbox", "answers", "outbox"):
        assert await count(dsn, table) == 0
    assert (await post(client, 5)).status_code == 201


async def post_to(client: httpx.AsyncClient, key: str, amount: int, idempotency_key: str) -> httpx.Response:
    headers = bearer() | {"Idempotency-Key": idempotency_key}
    return await client.post(f"/tallies/{key}", json={"amount": amount}, headers=headers)


async def test_what_is_asked_at_once_is_committed_together_and_answered_each_by_itself(
    client: httpx.AsyncClient, dsn: str
) -> None:
    asked = [(f"t{n % 50}", n) for n in range(1, 101) if n != 13]
    answers = await asyncio.gather(*(post_to(client, key, n, f"k{n}") for key, n in asked))
    assert {answer.status_code for answer in answers} == {201}
    # Two of each key, in either order: the first sees its own amount alone.
    firsts = {
        (key, answer.json()["total"])
        for (key, n), answer in zip(asked, answers, strict=True)
        if answer.json()["total"] == n
    }
    assert {key for key, _ in firsts} == {key for key, _ in asked}
    db = await asyncpg.connect(dsn)
    assert await db.fetchval("SELECT count(*) FROM events") == len(asked)
    assert await db.fetchval("SELECT count(DISTINCT xmin::text) FROM events") < len(asked) // 2
    await db.close()


async def test_large_batches_told_at_once_are_committed_apart(dsn: str) -> None:
    async with asyncpg.create_pool(dsn, min_size=0, max_size=4) as pool:
        commands = CommandBus(pool, lambda: None)
        batches = [[Message(f"{name}{n}", Add(1), cause()) for n in range(TOGETHER)] for name in "ab"]
        assert await asyncio.gather(*(commands.process(FLOW, batch) for batch in batches)) == [[None] * TOGETHER] * 2
        assert await pool.fetchval("SELECT count(DISTINCT xmin::text) FROM states") == 2


async def test_what_comes_while_another_is_committed_goes_together_and_waits_for_no_row_but_its_own(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared.web.commands, "PATIENCE_S", 0.5)
    async with asyncpg.create_pool(dsn, min_size=0, max_size=4) as pool:
        commands = CommandBus(pool, lambda: None)
        await commands.process(FLOW, [Message("held", Add(1), cause())])
        asked = []
        async with pool.acquire() as db, db.transaction():
            await db.execute("SELECT FROM states WHERE key = 'held' FOR UPDATE")
            for key in ("held", *map(str, range(8))):
                asked.append(asyncio.create_task(commands.process(FLOW, [Message(key, Add(1), cause())])))
                await asyncio.sleep(0)
            assert await asyncio.gather(*asked[1:]) == [[None]] * 8
            assert not asked[0].done()
        assert await asked[0] == [None]
        assert await pool.fetchval("SELECT count(DISTINCT xmin::text) FROM states WHERE key <> 'held'") == 1


async def test_what_is_refused_or_breaks_a_law_takes_nothing_with_it_that_was_asked_at_once(
    client: httpx.AsyncClient, dsn: str
) -> None:
    db = await asyncpg.connect(dsn)
    await db.execute("ALTER TABLE states ADD CONSTRAINT law CHECK (key <> 't3')")
    await db.close()
    for replayed in (None, "true"):
        answers = await asyncio.gather(*(post_to(client, f"t{n}", 13 if n == 5 else 1, f"k{n}") for n in range(8)))
        assert [answer.status_code for answer in answers] == [201, 201, 201, 422, 201, 409, 201, 201]
        assert {answer.headers.get("Idempotency-Replayed") for answer in answers if answer.is_success} == {replayed}
    for table in ("events", "answers", "states"):
        assert await count(dsn, table) == 6


@pytest.mark.parametrize("amount", [0, -1, 1.5, "1", 10**9, None, True])
async def test_a_bad_quantity_is_named(client: httpx.AsyncClient, amount: object) -> None:
    answer = await post(client, amount)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "amount"


async def test_an_unknown_field_malformed_json_and_a_missing_key_are_named(client: httpx.AsyncClient) -> None:
    headers = bearer() | {"Idempotency-Key": "k"}
    unknown = await client.post("/tallies/a", json={"amount": 1, "colour": "red"}, headers=headers)
    assert (unknown.status_code, unknown.json()["errors"][0]["field"]) == (422, "colour")
    malformed = await client.post(
        "/tallies/a", content=b"{nope", headers=headers | {"content-type": "application/json"}
    )
    assert malformed.status_code == 400
    keyless = await client.post("/tallies/a", json={"amount": 1}, headers=bearer())
    assert keyless.status_code == 422
    assert "Idempotency-Key" in keyless.json()["detail"]


async def test_a_body_over_the_limit_is_refused_before_it_is_read(client: httpx.AsyncClient, dsn: str) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(300):
            yield b" " * 1024

    declared = await client.post("/tallies/a", content=b" " * 300_000, headers=bearer() | {"Idempotency-Key": "k"})
    counted = await client.post("/tallies/a", content=endless(), headers=bearer() | {"Idempotency-Key": "k"})
    assert declared.status_code == counted.status_code == 413
    assert await count(dsn, "events") == 0


def _token(**claims: object) -> dict[str, str]:
    now = datetime.now(timezone.utc)
    whole = {"iss": "order-workflows", "sub": "x", "roles": ["storefront"], "exp": now + timedelta(hours=1)} | claims
    return {"Authorization": f"Bearer {jwt.encode(whole, AUTH_KEY, algorithm='HS256')}"}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer nonsense"}, 401),
        ({"Authorization": "Basic eDp5"}, 401),
        (bearer(key="another key, long enough to be one, but not ours"), 401),
        (bearer(ttl=timedelta(hours=-1)), 401),
        ({"Authorization": f"Bearer {jwt.encode({'sub': 'x'}, '', algorithm='none')}"}, 401),
        (_token(iss="someone else"), 401),
        (_token(roles=[]), 401),
        (_token(roles=["emperor"]), 401),
        (_token(roles=7), 401),
        (bearer(Role.AUDITOR), 403),
    ],
    ids=[
        "none",
        "nonsense",
        "basic",
        "forged",
        "stale",
        "alg none",
        "issuer",
        "no role",
        "no such role",
        "odd roles",
        "role",
    ],
)
async def test_nobody_gets_in_without_a_token_of_the_right_role(
    client: httpx.AsyncClient, dsn: str, headers: dict[str, str], status: int
) -> None:
    answer = await client.post("/tallies/a", json={"amount": 1}, headers=headers | {"Idempotency-Key": "k"})
    assert answer.status_code == status
    assert await count(dsn, "events") == 0


async def test_health_answers_everyone_and_operations_only_operators(client: httpx.AsyncClient) -> None:
    assert (await client.get("/livez")).status_code == 200
    ready = await client.get("/readyz")
    assert (ready.status_code, ready.json()) == (200, {"ready": True, "reasons": [], "locked": []})
    assert b"oms_parked_messages" in (await client.get("/metrics")).content
    assert (await client.get("/operations/lag")).status_code == 401
    assert (await client.get("/operations/lag", headers=bearer(Role.AGENT))).status_code == 403
    assert (await client.get("/operations/lag", headers=bearer(Role.OPERATOR))).json()["unpublished"] == 0


async def test_while_the_database_is_away_a_write_is_told_to_try_again_and_the_service_says_why(
    client: httpx.AsyncClient, backends: Backends, dsn: str
) -> None:
    name = dsn.rpartition("/")[2]
    admin = await asyncpg.connect(backends.postgres)
    try:
        await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
        answer = await post(client, 1)
        assert answer.status_code == 503
        assert answer.headers["Retry-After"] == "2"
        ready = await client.get("/readyz")
        assert ready.status_code == 503
        assert "database does not answer" in ready.json()["reasons"][0]
    finally:
        await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        await admin.close()
    assert (await post(client, 1)).json() == {"total": 1}


@pytest.mark.parametrize(
    "fault",
    [
        "ALTER DATABASE {name} SET default_transaction_read_only = on",
        """CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE disk_full USING MESSAGE = 'could not extend file: No space left on device'; END $$;
        CREATE TRIGGER no_room BEFORE INSERT ON write_check EXECUTE FUNCTION no_room()""",
    ],
    ids=["read only", "disk full"],
)
async def test_a_service_whose_database_takes_no_writes_is_not_ready(
    client: httpx.AsyncClient, dsn: str, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.runtime.WRITES_EVERY_SECONDS", 0.0)
    for _ in range(2):
        assert (await client.get("/readyz")).status_code == 200
    assert await count(dsn, "write_check") == 0
    db = await asyncpg.connect(dsn)
    try:
        name = await db.fetchval("SELECT current_database()")
        await db.execute(fault.format(name=name))
        await db.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND pid <> pg_backend_pid()",
            name,
        ) if "ALTER" in fault else None
    finally:
        await db.close()
    ready = await client.get("/readyz")
    if "does not answer" in str(ready.json()["reasons"]):  # by a connection that was ended
        ready = await client.get("/readyz")
    assert ready.status_code == 503
    assert ready.json()["reasons"][0].startswith("the database takes no writes: ")


def signature(body: bytes, id: str = "msg_1", at: datetime | None = None, secret: str = SECRET) -> dict[str, str]:
    at = at or datetime.now(timezone.utc)
    return {
        "webhook-id": id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(secret).sign(id, at, body.decode()),
    }


async def test_a_webhook_replayed_has_one_effect(client: httpx.AsyncClient, dsn: str) -> None:
    body = b'{"key": "a", "amount": 3}'
    for _ in range(3):
        answer = await client.post("/webhooks/counter", content=body, headers=signature(body))
        assert answer.status_code == 200
    assert await count(dsn, "events") == 1


DEEP = b"[" * 100_000 + b"]" * 100_000


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b'{"amount": 1, "amount": 2}', "amount: stands twice in one object"),
        (b'{"amount": 1, "more": [{"x": 1, "x": 2}]}', "x: stands twice in one object"),
        (b'{"amount": NaN}', "data: NaN is not a number of JSON"),
        (DEEP, "body: must not nest deeper than 64"),
    ],
    ids=["a name twice", "a name twice, further in", "not a number", "a hundred thousand deep"],
)
async def test_json_that_readers_understand_differently_is_refused_at_every_way_in(
    client: httpx.AsyncClient, dsn: str, body: bytes, detail: str
) -> None:
    headers = bearer() | {"Idempotency-Key": "k1", "content-type": "application/json"}
    answer = await client.post("/tallies/a", content=body, headers=headers)
    assert (answer.status_code, answer.json()["detail"]) == (400, detail)
    for content_type in ("application/json", "text/plain"):
        headers = signature(body) | {"content-type": content_type}
        answer = await client.post("/webhooks/counter", content=body, headers=headers)
        assert answer.status_code == 400
    assert await count(dsn, "events") == 0


@pytest.mark.parametrize("bad", ["forged", "stale", "early", "re-serialised", "unsigned", "other id"])
async def test_a_webhook_that_is_not_as_signed_is_refused(client: httpx.AsyncClient, dsn: str, bad: str) -> None:
    body = b'{"key": "a", "amount": 3}'
    now = datetime.now(timezone.utc)
    headers = {
        "forged": signature(body, secret="whsec_c29tZW9uZSBlbHNlJ3Mgc2VjcmV0IGVudGlyZWx5"),
        "stale": signature(body, at=now - timedelta(seconds=301)),
        "early": signature(body, at=now + timedelta(seconds=310)),
        "re-serialised": signature(b'{"key":"a","amount":3}'),
        "unsigned": {},
        "other id": signature(body) | {"webhook-id": "msg_2"},
    }[bad]
    answer = await client.post("/webhooks/counter", content=body, headers=headers)
    assert answer.status_code == 401
    assert await count(dsn, "events") == 0


async def test_what_nobody_expected_is_a_problem_with_an_id_that_stands_in_the_log(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await client.get("/faulty")
    assert (answer.status_code, answer.headers["content-type"]) == (500, "application/problem+json")
    assert "a fault of ours" not in answer.text
    told = answer.json()
    assert told["instance"] in told["detail"]
    [logged] = [record.getMessage() for record in caplog.records if "request.failed" in record.getMessage()]
    assert told["instance"] in logged and "/faulty" in logged and "a fault of ours" in logged
