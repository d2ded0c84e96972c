"""Returns on a real PostgreSQL: told by topics and over HTTP, raced for the last unit, held to the laws by the database."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import datetime, timedelta, timezone
from itertools import count
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest
from fastapi import FastAPI
from standardwebhooks.webhooks import Webhook

from returns.api import router, uploads
from returns.app import default_policy
from returns.domain.decide import due_command
from returns.domain.state import OrderReturns
from returns.handlers import ROUTE
from returns.settings import ReturnsSettings
from returns.store import ORDER_RETURNS, ORDER_STATE, POLICIES
from shared.contracts import fulfillment as f
from shared.contracts import payments as p
from shared.contracts.base import FACTS, Fact, Input, schema_id
from shared.contracts.orders import CancelledValue, OrderLinesCancelled
from shared.contracts.partners import (
    WAREHOUSE_MESSAGES,
    ReturnedUnits,
    WarehouseItemsInspected,
    WarehouseParcelReceived,
)
from shared.messaging.database import Pool
from shared.messaging.parking import Parked, Record
from shared.messaging.router import Router
from shared.messaging.timers import Timers
from shared.runtime import Running
from shared.web.auth import Tokens, issue
from shared.web.commands import CommandBus
from shared.web.middleware import BodyLimit
from shared.web.problems import install_problems
from tests.backends import Backends
from tests.databases import AUTH_KEY, settings_for
from tests.returns_story import day, of, order_line, placed, policy

NewDatabase = Callable[[str], Awaitable[str]]
SECRET = "whsec_dGhlIHNlY3JldCBvZiBhIHRlc3QgY2Fycmllcg=="
POSITION = count()


@pytest.fixture
async def pool(new_database: NewDatabase) -> AsyncIterator[Pool]:
    async with asyncpg.create_pool(await new_database("returns"), min_size=0, max_size=10) as pool:
        yield pool


@pytest.fixture
async def client(pool: Pool, backends: Backends) -> AsyncIterator[httpx.AsyncClient]:
    """Returns' HTTP surface, without Kafka."""
    app = FastAPI()
    install_problems(app)
    app.add_middleware(BodyLimit, uploads=uploads)
    app.include_router(router)
    app.state.settings = ReturnsSettings.model_validate(
        {
            "database_url": "postgresql://unused",
            "kafka": backends.kafka,
            "auth_key": AUTH_KEY,
            "carrier_webhook_secret": SECRET,
        }
    )
    app.state.pool, app.state.commands, app.state.tokens = pool, CommandBus(pool, lambda: None), Tokens(AUTH_KEY)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://returns") as client:
        yield client


def by(*roles: str, key: str | None = None) -> dict[str, str]:
    token = issue(AUTH_KEY, subject="anna", roles=roles)
    return {"Authorization": f"Bearer {token}", "Idempotency-Key": key or str(uuid4())}


def record(said: Fact | Input, at: datetime = day(0), *, id: str | None = None) -> Record:
    """As it comes from its topic."""
    if isinstance(said, Fact):
        kind, source = said.type, f"urn:order-workflows:{said.service}"
    else:
        kind = next(name for name, model in WAREHOUSE_MESSAGES.items() if isinstance(said, model))
        source = "warehouse-1"
    headers = {"ce_id": id or str(uuid4()), "ce_source": source, "ce_type": kind, "ce_time": at.isoformat()}
    if isinstance(said, Fact):
        headers["ce_dataschema"] = schema_id(type(said))
    named = [(name, value.encode()) for name, value in headers.items()]
    return Record(f"{kind}s", 0, next(POSITION), 0, b"A1", named, said.model_dump_json().encode())


async def hear(pool: Pool, *records: Record) -> list[Parked]:
    async with pool.acquire() as db, db.transaction():
        return await Router([ROUTE]).process(db, records)


def sent(number: int, stage: str, at: datetime, *, tracking: str = "T1", **units: int) -> Record:
    """What fulfillment tells of a shipment, and from its hand-over on of each parcel."""
    common: dict[str, Any] = {"order_id": "A1", "shipment_id": f"A1-S{number}", "lines": of(**units)}
    if stage == "shipped":
        return record(f.ShipmentShipped(**common, carrier="dhl", parcels=(), number=1, of=1), at)
    common["scan"] = f.Scan(carrier="dhl", tracking=tracking, code=stage, at=at)
    if stage == "not_received":
        questioned = f.ShipmentTrackingUpdated(
            **common, tracking=tracking, code="not_received", moved=True, detail="says Ada"
        )
        return record(questioned, at)
    return record({"delivered": f.ShipmentDelivered, "lost": f.ShipmentLost}[stage](**common), at)


async def publish(client: httpx.AsyncClient, **more: Any) -> httpx.Response:
    document = json.loads(policy(**more).model_dump_json())
    return await client.post("/policies", json=document, headers=by("supervisor"))


async def delivered(client: httpx.AsyncClient, pool: Pool, **more: Any) -> None:
    assert (await publish(client, **more)).status_code == 201
    assert (
        await hear(
            pool,
            record(placed(), day(0)),
            sent(1, "shipped", day(1), mug=3, tea=2),
            sent(1, "delivered", day(2), mug=3, tea=2),
        )
        == []
    )


def wanted(at: datetime = day(3), **units: int) -> dict[str, Any]:
    lines = [
        {"line_id": line_id, "quantity": n, "reason": "unwanted", "condition": "unopened"}
        for line_id, n in units.items()
    ]
    return {"lines": lines, "occurred_at": at.isoformat()}


async def ask(client: httpx.AsyncClient, at: datetime = day(3), **units: int) -> httpx.Response:
    return await client.post("/orders/A1/returns", json=wanted(at, **units), headers=by("storefront"))


async def kinds(pool: Pool) -> list[str]:
    return [row["type"] for row in await pool.fetch("SELECT type FROM events WHERE subject = 'A1' ORDER BY sequence")]


async def is_fold_of_its_journal(pool: Pool) -> OrderReturns:
    rows = await pool.fetch("SELECT type, data FROM events WHERE subject = 'A1' ORDER BY sequence")
    fold = ORDER_RETURNS.fold("A1", [FACTS[row["type"]].model_validate_json(row["data"]) for row in rows])
    state = ORDER_STATE.validate_json(await pool.fetchval("SELECT state FROM states WHERE key = 'A1'"))
    assert fold == state
    assert ORDER_RETURNS.invariants(state) == []
    return state


async def test_a_return_from_purchase_to_close(client: httpx.AsyncClient, pool: Pool) -> None:
    await delivered(client, pool)
    await publish(client, version=2, window_days=10)
    asked = await ask(client, day(22), tea=2)
    assert (asked.status_code, asked.json()["status"]) == (201, "approved")
    assert asked.json()["policy"] == {"policy_id": "standard", "version": 1}
    scan = {"order_id": "A1", "return_id": "A1-RMA1", "tracking": "T1", "occurred_at": day(24).isoformat()}
    assert (await webhook(client, scan)).status_code == 200

    first = WarehouseParcelReceived.model_validate(
        {
            "order_id": "A1",
            "return_id": "A1-RMA1",
            "location": "main",
            "receipt_id": "r1",
            "occurred_at": day(25),
            "lines": [{"line_id": "tea", "quantity": 1}],
        }
    )
    same_message = record(first, id="m1")
    assert await hear(pool, same_message, same_message, record(first, id="m2")) == []
    second = {"receipt_id": "r2", "location": "main", "lines": [{"line_id": "tea", "quantity": 1}]}
    received = await client.post("/orders/A1/returns/A1-RMA1/receipts", json=second, headers=by("warehouse"))
    assert (received.status_code, received.json()["status"]) == (201, "received")
    found = WarehouseItemsInspected.model_validate(
        {
            "order_id": "A1",
            "return_id": "A1-RMA1",
            "location": "main",
            "inspection_id": "i1",
            "occurred_at": day(27),
            "lines": [
                {"line_id": "tea", "quantity": 1, "outcome": "as_new"},
                {"line_id": "tea", "quantity": 1, "outcome": "opened"},
            ],
        }
    )
    assert await hear(pool, record(found, day(27))) == []
    state = await is_fold_of_its_journal(pool)
    [(due_id, due)] = state.returns["A1-RMA1"].dues.items()
    assert due.amount_minor == 949
    completed = p.RefundCompleted(
        order_id="A1",
        refund_id="A1-R1",
        kind=p.RefundKind.RETURN,
        cause_id=due_id,
        return_id="A1-RMA1",
        amount_minor=949,
        currency="EUR",
        trigger_at=day(27),
    )
    assert await hear(pool, record(completed, day(29)), record(completed, day(29))) == []
    assert (await kinds(pool))[2:] == [
        "return.units_recorded",
        "return.units_recorded",
        "return.requested",
        "return.eligibility_evaluated",
        "return.approved",
        "return.in_transit",
        "return.observation_recorded",
        "return.items_received",
        "return.observation_recorded",
        "return.items_received",
        "return.observation_recorded",
        "return.items_inspected",
        "return.refund_due",
        "return.refund_settled",
        "return.resolved",
    ]
    timers = Timers(pool, "returns", ((ORDER_RETURNS, due_command),), lambda: None)
    assert await timers.fire() == 1
    shown = await client.get("/orders/A1/returns", headers=by("auditor"))
    assert shown.json()["returns"][0]["status"] == "closed"
    buckets = {line["line_id"]: line["buckets"] for line in shown.json()["lines"]}
    assert (buckets["tea"]["accepted"], buckets["tea"]["with_customer"], buckets["mug"]["with_customer"]) == (2, 0, 3)
    row = await pool.fetchrow("SELECT accepted, restocked, stated_minor FROM lines WHERE line_id = 'tea'")
    assert row is not None
    assert tuple(row) == (2, 1, 949)
    await is_fold_of_its_journal(pool)
    decided = await pool.fetchrow("SELECT policy_id, policy_version, actor FROM events WHERE type = 'return.approved'")
    assert decided is not None
    assert tuple(decided) == ("standard", 1, "storefront:anna")


async def webhook(client: httpx.AsyncClient, body: dict[str, Any], id: str = "w1", **more: str) -> httpx.Response:
    text = json.dumps(body)
    now = datetime.now(timezone.utc)
    headers = {
        "webhook-id": id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(SECRET).sign(id, now, text),
    }
    return await client.post("/webhooks/carrier", content=text, headers=headers | more)


async def test_two_at_once_for_the_last_unit_are_one_return(client: httpx.AsyncClient, pool: Pool) -> None:
    await delivered(client, pool)
    await ask(client, mug=2)
    answers = await asyncio.gather(*(ask(client, mug=1) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [201, *[422] * 7]
    refused = next(answer for answer in answers if answer.status_code == 422)
    assert refused.json()["errors"] == [
        {"field": "lines.0.quantity", "rule": "must not be above 0, which is what is left"}
    ]
    assert await pool.fetchval("SELECT return_open FROM lines WHERE line_id = 'mug'") == 3
    assert len((await is_fold_of_its_journal(pool)).returns) == 2


async def test_a_claim_and_a_return_race_for_the_same_unit_and_one_wins(client: httpx.AsyncClient, pool: Pool) -> None:
    await delivered(client, pool)
    claim = {"lines": [{"line_id": "tea", "quantity": 2}], "reason": "defective"}
    answers = await asyncio.gather(
        ask(client, tea=2), client.post("/orders/A1/claims", json=claim, headers=by("agent"))
    )
    outcomes = {answer.json().get("status") for answer in answers if answer.status_code == 201}
    assert outcomes in ({"approved"}, {"declined", "open"})
    assert await pool.fetchval("SELECT return_open FROM lines WHERE line_id = 'tea'") == 2


async def test_topics_told_in_another_order_and_batched_otherwise_end_the_same(
    client: httpx.AsyncClient, pool: Pool, new_database: NewDatabase
) -> None:
    await publish(client)
    orders = [
        record(placed(), day(0)),
        record(
            OrderLinesCancelled(
                order_id="A1",
                cancellation_id="A1-C1",
                lines=(CancelledValue(line_id="tea", quantity=1, goods_minor=500),),
                remaining_minor=1,
            ),
            day(1),
        ),
    ]
    shipments = [
        sent(1, "shipped", day(1), mug=3),
        sent(1, "delivered", day(2), mug=2),
        sent(1, "delivered", day(3), tracking="T2", mug=1),
        sent(1, "not_received", day(4), mug=2),
        sent(2, "shipped", day(1), tea=1),
        sent(2, "lost", day(5), tea=1),
    ]
    shared: dict[str, Any] = {"order_id": "A1", "tender_id": "t1", "amount_minor": 1, "currency": "EUR"}
    payments = [
        record(p.DisputeOpened(dispute_id="d1", **shared), day(3)),
        record(p.DisputeWon(dispute_id="d1", **shared), day(4)),
    ]
    ends: list[OrderReturns] = []
    rows: list[Sequence[Any]] = []
    weave = [
        payments[0],
        *shipments[:2],
        orders[0],
        *shipments[2:4],
        payments[1],
        shipments[4],
        orders[1],
        shipments[5],
    ]
    other = await new_database("returns")
    async with asyncpg.create_pool(other, min_size=0, max_size=2) as fresh:
        await fresh.execute(
            "INSERT INTO policies (policy_id, version, effective_from, digest, document)"
            " VALUES ('standard', 1, $1, 'x', $2)",
            day(-100),
            policy().model_dump_json(),
        )
        assert await hear(pool, *orders, *shipments, *payments) == []
        for one in (*weave, *weave):
            assert await hear(fresh, one) == []
        for each in (pool, fresh):
            ends.append(await is_fold_of_its_journal(each))
            rows.append([tuple(row) for row in await each.fetch("SELECT * FROM lines ORDER BY line_id")])
    assert ends[0] == ends[1]
    assert rows[0] == rows[1]
    assert ends[0].policy is not None
    mug = await pool.fetchrow("SELECT delivered, undone, with_customer FROM lines WHERE line_id = 'mug'")
    assert mug is not None
    assert tuple(mug) == (1, 2, 1)


async def test_an_exception_needs_a_supervisor_and_a_reason(client: httpx.AsyncClient, pool: Pool) -> None:
    await delivered(client, pool)
    declined = await ask(client, day(40), mug=1)
    assert (declined.status_code, declined.json()["status"]) == (201, "declined")
    url = "/orders/A1/returns/A1-RMA1/exception"
    assert (await client.post(url, json={"reason": "x"}, headers=by("agent"))).status_code == 403
    assert (await client.post(url, json={}, headers=by("supervisor"))).status_code == 422
    assert (await client.post(url, json={"reason": "  "}, headers=by("supervisor"))).status_code == 422
    granted = await client.post(url, json={"reason": "was in hospital"}, headers=by("supervisor"))
    assert (granted.status_code, granted.json()["status"], granted.json()["approver"]) == (
        200,
        "approved",
        "supervisor:anna",
    )
    row = await pool.fetchrow(
        "SELECT actor, reason, policy_version FROM events WHERE type = 'return.exception_granted'"
    )
    assert row is not None
    assert tuple(row) == ("supervisor:anna", "was in hospital", 1)


@pytest.fixture
def running(pool: Pool, backends: Backends) -> Running:
    return Running("returns", settings_for("postgresql://unused", backends), pool, None)


async def test_an_order_of_before_the_merchants_first_policy_is_returned_by_the_default_one(
    client: httpx.AsyncClient, pool: Pool, running: Running
) -> None:
    for _ in range(2):  # each replica, at each start
        await asyncio.wait_for(default_policy(running, asyncio.Event()), 10)
    await delivered(client, pool, effective_from=day(1))
    assert (await ask(client, mug=1)).status_code == 201
    bound = await pool.fetchval("SELECT policy_id FROM events WHERE type = 'return.approved'")
    assert bound == "default"
    assert await pool.fetchval("SELECT count(*) FROM events WHERE subject = 'policy:default'") == 1


async def test_a_merchants_own_policy_of_the_defaults_name_stays_as_it_is(
    client: httpx.AsyncClient, pool: Pool, running: Running
) -> None:
    assert (await publish(client, policy_id="default", window_days=7)).status_code == 201
    await asyncio.wait_for(default_policy(running, asyncio.Event()), 10)
    assert (await client.get("/policies/default/1", headers=by("auditor"))).json()["window_days"] == 7


async def test_policies_are_published_listed_compared_and_retired(client: httpx.AsyncClient, pool: Pool) -> None:
    assert (await publish(client)).status_code == 201
    assert (await publish(client)).status_code == 200
    changed = await publish(client, window_days=5)
    assert (changed.status_code, changed.json()["current"]) == (409, "published")
    assert (await publish(client, version=2, window_days=5)).status_code == 201
    difference = await client.get("/policies/standard/diff?from=1&to=2", headers=by("auditor"))
    assert difference.json()["changes"] == [{"field": "window_days", "before": 30, "after": 5}]
    one = await client.get("/policies/standard/2", headers=by("auditor"))
    assert one.json()["window_days"] == 5
    retired = await client.post("/policies/standard/2/retire", json={"reason": "too strict"}, headers=by("operator"))
    assert retired.json()["status"] == "retired"
    listed = await client.get("/policies", headers=by("auditor"))
    assert [(v["version"], v["status"]) for v in listed.json()] == [(1, "published"), (2, "retired")]
    assert (await client.get("/policies/standard/3", headers=by("auditor"))).status_code == 404
    assert await hear(pool, record(placed(placed_at=datetime.now(timezone.utc)))) == []
    bound = await pool.fetchrow("SELECT policy_version FROM events WHERE type = 'policy.bound'")
    assert bound is not None
    assert bound["policy_version"] == 1
    rows = await pool.fetch("SELECT type, data FROM events WHERE subject = 'policy:standard' ORDER BY sequence")
    fold = POLICIES.fold("policy:standard", [FACTS[row["type"]].model_validate_json(row["data"]) for row in rows])
    kept = await pool.fetchval("SELECT state FROM states WHERE key = 'policy:standard'")
    assert fold == POLICIES.state.validate_json(kept)


async def test_a_bad_policy_is_refused_by_field_and_nothing_is_stored(client: httpx.AsyncClient, pool: Pool) -> None:
    changes: list[tuple[dict[str, Any], str]] = [
        ({"window_days": -1}, "window_days"),
        ({"surprise": 1}, "surprise"),
        ({"version": 2}, "version"),
        ({"effective_from": "2026-01-01T00:00:00"}, "effective_from"),
        ({"effective_from": "0001-01-01T00:00:00+14:00"}, "effective_from"),
        ({"inspection": []}, "inspection"),
        ({"tiers": [{"days": 5, "colour": "red"}]}, "tiers.0.colour"),
        ({"resolutions": ["gold"]}, "resolutions.0"),
    ]
    for change, field in changes:
        document = json.loads(policy().model_dump_json()) | change
        answer = await client.post("/policies", json=document, headers=by("supervisor"))
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field)
    assert await pool.fetchval("SELECT count(*) FROM states") == 0


async def test_a_bad_request_is_refused_by_field_and_nothing_is_stored(client: httpx.AsyncClient, pool: Pool) -> None:
    await delivered(client, pool)
    before = await kinds(pool)
    line = {"line_id": "mug", "quantity": 1, "reason": "size", "condition": "used"}
    changes: list[tuple[dict[str, Any], str]] = [
        ({"lines": []}, "lines"),
        ({"lines": [line | {"quantity": 0}]}, "lines.0.quantity"),
        ({"lines": [line | {"quantity": 1.5}]}, "lines.0.quantity"),
        ({"lines": [line | {"quantity": 4}]}, "lines.0.quantity"),
        ({"lines": [line | {"line_id": "cup"}]}, "lines.0.line_id"),
        ({"resolution": "gold"}, "resolution"),
        ({"occurred_at": "2999-01-01T00:00:00Z"}, "occurred_at"),
        ({"occurred_at": "2026-06-04T00:00:00"}, "occurred_at"),
        ({"abuse_score": 101}, "abuse_score"),
        ({"mood": "blue"}, "mood"),
    ]
    for change, field in changes:
        answer = await client.post("/orders/A1/returns", json=wanted(mug=1) | change, headers=by("storefront"))
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field)
    assert await kinds(pool) == before


async def test_what_nobody_knows_is_not_found_and_what_is_not_allowed_says_what_is(
    client: httpx.AsyncClient, pool: Pool
) -> None:
    assert (await ask(client, mug=1)).status_code == 404
    assert (await client.get("/orders/A1/returns", headers=by("agent"))).status_code == 404
    await delivered(client, pool)
    reason = {"reason": "because"}
    unknown = await client.post("/orders/A1/returns/A1-RMA9/cancel", json=reason, headers=by("agent"))
    assert unknown.status_code == 404
    await ask(client, mug=1)
    closed = await client.post("/orders/A1/returns/A1-RMA1/close", json=reason, headers=by("agent"))
    assert (closed.status_code, closed.json()["current"]) == (409, "approved")
    assert "return.cancelled" in closed.json()["allowed"]
    assert (await client.post("/orders/A1/returns", json=wanted(mug=1))).status_code == 401


async def test_only_a_supervisor_says_otherwise_than_the_table(client: httpx.AsyncClient, pool: Pool) -> None:
    await delivered(client, pool)
    await ask(client, mug=1)
    url = "/orders/A1/returns/A1-RMA1"
    parcel = {"receipt_id": "r1", "location": "main", "lines": [{"line_id": "mug", "quantity": 1}]}
    await client.post(f"{url}/receipts", json=parcel, headers=by("warehouse"))
    found = {
        "inspection_id": "i1",
        "location": "main",
        "lines": [{"line_id": "mug", "quantity": 1, "outcome": "incomplete"}],
    }
    inspected = await client.post(f"{url}/inspections", json=found, headers=by("warehouse"))
    assert (inspected.json()["status"], inspected.json()["dues"]) == ("inspecting", [])
    by_hand = {"lines": [{**found["lines"][0], "refund_percent": 40}], "reason": "the lid is missing"}  # type: ignore[dict-item]
    revisions = f"{url}/inspections/i1/revisions"
    assert (await client.post(revisions, json=by_hand, headers=by("warehouse"))).status_code == 403
    revised = await client.post(revisions, json=by_hand, headers=by("supervisor"))
    assert [due["amount_minor"] for due in revised.json()["dues"]] == [133]


async def test_a_webhook_is_believed_only_if_signed_and_has_one_effect(client: httpx.AsyncClient, pool: Pool) -> None:
    await delivered(client, pool)
    scan = {"order_id": "A1", "return_id": "A1-RMA1", "tracking": "T1", "occurred_at": day(4).isoformat()}
    early = await webhook(client, scan, id="w0")
    assert early.status_code == 200
    assert (await kinds(pool)).count("return.discrepancy_recorded") == 1
    await ask(client, mug=1)
    scan |= {"tracking": "T2"}
    assert (await webhook(client, scan, **{"webhook-signature": "v1,Zm9yZ2Vk"})).status_code == 401
    assert (await webhook(client, scan | {"mood": "blue"}, id="w2")).status_code == 422
    assert [(await webhook(client, scan)).status_code for _ in range(2)] == [200, 200]
    assert (await kinds(pool)).count("return.in_transit") == 1


async def test_what_the_warehouse_says_of_an_unknown_return_or_order_holds_nothing_up(
    client: httpx.AsyncClient, pool: Pool
) -> None:
    """I16: a blind return, an inspection that overtakes its receipt, an order that is not known yet; none is parked, and the
    order's real parcel is received as always."""
    await delivered(client, pool)
    message = WarehouseParcelReceived.model_validate(
        {
            "order_id": "A1",
            "return_id": "A1-RMA7",
            "location": "main",
            "receipt_id": "r1",
            "occurred_at": day(25),
            "lines": [{"line_id": "tea", "quantity": 1}],
        }
    )
    ahead = WarehouseItemsInspected.model_validate(
        {
            "order_id": "A1",
            "return_id": "A1-RMA7",
            "location": "main",
            "inspection_id": "i1",
            "occurred_at": day(25),
            "lines": [{"line_id": "tea", "quantity": 2, "outcome": "as_new"}],
        }
    )
    nobodys = message.model_copy(update={"order_id": "A2"})
    assert await hear(pool, record(ahead), record(message), record(nobodys)) == []
    blind = (await client.get("/orders/A1/returns", headers=by("agent"))).json()["returns"][0]
    assert (blind["status"], blind["announced_as"]) == ("under_review", "A1-RMA7")
    assert await pool.fetchval("SELECT received_uninspected FROM lines WHERE line_id = 'tea'") == 2
    assert (await ask(client, mug=1)).json()["status"] == "approved"
    real = message.model_copy(
        update={"return_id": "A1-RMA2", "receipt_id": "r2", "lines": (ReturnedUnits(line_id="mug", quantity=1),)}
    )
    assert await hear(pool, record(real)) == []
    shown = (await client.get("/orders/A1/returns", headers=by("agent"))).json()["returns"][1]
    assert shown["lines"][0]["units"] == {"uninspected": 1}


async def test_a_parcel_by_http_for_a_return_that_nobody_knows_is_answered_with_what_became_of_it(
    client: httpx.AsyncClient, pool: Pool
) -> None:
    await delivered(client, pool)
    parcel = {"receipt_id": "r1", "location": "main", "lines": [{"line_id": "mug", "quantity": 1}]}
    opened = await client.post("/orders/A1/returns/BOX-1/receipts", json=parcel, headers=by("warehouse"))
    assert (opened.status_code, opened.json()["status"]) == (201, "under_review")
    early = await client.post("/orders/A9/returns/BOX-1/receipts", json=parcel, headers=by("warehouse"))
    assert (early.status_code, early.json()) == (202, {"recorded": True})
    url = f"/orders/A1/returns/{opened.json()['return_id']}"
    approved = await client.post(f"{url}/approve", json={"resolution": "store_credit"}, headers=by("agent"))
    assert (approved.json()["status"], approved.json()["resolution"]) == ("received", "store_credit")
    refused = await client.post(f"{url}/close", json={"reason": "enough"}, headers=by("agent"))
    assert refused.status_code == 409
    closed = await client.post(f"{url}/close", json={"reason": "enough"}, headers=by("supervisor"))
    assert closed.json()["status"] == "closed"
    row = await pool.fetchrow("SELECT data->>'approver', data->>'detail' FROM events WHERE type = 'return.closed'")
    assert row is not None and row[1] == "enough" and row[0]


async def test_what_a_customer_holds_and_did_not_pay_is_charged_or_written_off_by_a_supervisor(
    client: httpx.AsyncClient, pool: Pool
) -> None:
    await delivered(client, pool)
    line = {"line_id": "mug", "quantity": 1, "reason": "defective", "condition": "used"}
    body = {"lines": [line], "resolution": "replace_in_advance", "occurred_at": day(3).isoformat()}
    await client.post("/orders/A1/returns", json=body, headers=by("storefront"))
    found = {
        "inspection_id": "i1",
        "location": "main",
        "lines": [{"line_id": "mug", "quantity": 1, "outcome": "wrong_item"}],
    }
    await client.post("/orders/A1/returns/A1-RMA1/inspections", json=found, headers=by("warehouse"))
    shown = (await client.get("/orders/A1/returns", headers=by("agent"))).json()
    [case] = shown["recoveries"]
    assert (case["amount_minor"], case["status"], shown["returns"][0]["status"]) == (333, "open", "inspecting")
    url = f"/orders/A1/recoveries/{case['recovery_id']}"
    assert (await client.post(f"{url}/charge", json={"reason": "x"}, headers=by("agent"))).status_code == 403
    asked = await client.post(f"{url}/charge", json={"reason": "an empty box"}, headers=by("supervisor"))
    assert asked.json()["status"] == "charge_requested"
    off = {"how": "written_off", "reason": "a good customer"}
    assert (await client.post(f"{url}/settle", json=off, headers=by("supervisor"))).json()["status"] == "settled"
    assert (await client.post(f"{url}/charge", json={"reason": "x"}, headers=by("supervisor"))).status_code == 409
    unknown = await client.post("/orders/A1/recoveries/A1-RC9/settle", json=off, headers=by("supervisor"))
    assert unknown.status_code == 404
    shown = (await client.get("/orders/A1/returns", headers=by("agent"))).json()
    assert shown["returns"][0]["status"] == "resolved"


PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 1200
"""More than other requests may bring."""


async def test_evidence_is_stored_beside_the_journal_by_its_hash_and_read_by_those_who_may(
    client: httpx.AsyncClient, pool: Pool
) -> None:
    await delivered(client, pool)
    await ask(client, mug=1)

    async def give(content: bytes, name: str = "seal broken.png", about: str = "A1-RMA1") -> httpx.Response:
        file = {"file": (name, content, "image/png")}
        form = {"about": about}
        return await client.post("/orders/A1/evidence", data=form, files=file, headers=by("storefront"))

    given = await give(PNG)
    assert given.status_code == 201, given.text
    file = given.json()
    assert (file["media_type"], file["size_bytes"], file["name"]) == ("image/png", len(PNG), "seal broken.png")
    assert (await give(PNG)).json() == file, "the same file again is no second one"
    assert (await kinds(pool)).count("return.evidence_attached") == 1
    said = await pool.fetchval("SELECT data FROM events WHERE type = 'return.evidence_attached'")
    assert len(said) < 1000, "the journal has the hash, and not the file"
    got = await client.get(file["href"], headers=by("agent"))
    assert (got.content, got.headers["content-type"]) == (PNG, "image/png")
    assert got.headers["x-content-type-options"] == "nosniff"
    assert got.headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert got.headers["content-disposition"] == "attachment; filename*=UTF-8''seal%20broken.png"
    shown = (await client.get("/orders/A1/returns", headers=by("agent"))).json()
    assert shown["files"] == [file]
    assert (await client.get(file["href"], headers=by("operator"))).status_code == 403
    assert (await client.get("/orders/A1/evidence/A1-EV9", headers=by("agent"))).status_code == 404
    for refused, field in (
        (await give(b"<svg onload=alert(1)>", "x.png"), "file"),
        (await give(PNG, about="A1-RMA9"), "about"),
        (await client.post("/orders/A1/evidence", json={}, headers=by("storefront")), "Content-Type"),
        (await client.post("/orders/A1/evidence", files={"file": ("x", PNG)}, headers=by("storefront")), "about"),
    ):
        assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, field)
    assert (await give(PNG + bytes(5_000_000))).status_code == 413
    assert await pool.fetchval("SELECT count(*) FROM evidence") == 1


async def test_the_database_itself_holds_the_laws(client: httpx.AsyncClient, pool: Pool) -> None:
    await delivered(client, pool)
    for change, law in (
        ("with_customer = -1, return_open = 4", "no_bucket_below_zero"),
        ("with_customer = with_customer + 1", "every_delivered_unit_in_one_bucket"),
        ("contested = 1, with_customer = 4", "contested_once_delivered"),
        ("lost_claimed = 1, return_open = 3, with_customer = 0", "returned_within_delivered_and_lost"),
        ("refunded = 1", "refunded_for_a_ground"),
        ("restocked = 1", "restocked_within_accepted"),
        ("stated_minor = value_minor + 1", "stated_within_worth"),
    ):
        with pytest.raises(asyncpg.CheckViolationError, match=law):
            await pool.execute(f"UPDATE lines SET {change} WHERE line_id = 'mug'")
    for change in ("effective_from = now()", "document = '{}'", "version = 7"):
        with pytest.raises(asyncpg.RaiseError, match="never changes"):
            await pool.execute(f"UPDATE policies SET {change}")
    with pytest.raises(asyncpg.RaiseError, match="never changes"):
        await pool.execute("DELETE FROM policies")


async def test_many_orders_in_one_batch_cost_a_fixed_number_of_statements(
    client: httpx.AsyncClient, pool: Pool
) -> None:
    await publish(client)
    told = []
    for n in range(200):
        line = order_line("mug", 3, 1000)
        told.append(record(placed(line, order_id=f"B{n}", placed_at=day(0)), day(0)))
    counted: list[str] = []
    async with pool.acquire() as db, db.transaction():
        db.add_query_logger(lambda query: counted.append(query.query))
        assert await Router([ROUTE]).process(db, told) == []
    assert await pool.fetchval("SELECT count(*) FROM lines") == 200
    assert len(counted) < 20


async def test_a_return_that_is_not_sent_expires_by_its_deadline(client: httpx.AsyncClient, pool: Pool) -> None:
    await delivered(client, pool)
    await ask(client, mug=1)
    due = await pool.fetchval("SELECT due_at FROM deadlines WHERE key = 'A1'")
    assert due == day(3) + timedelta(days=30)
    timers = Timers(pool, "returns", ((ORDER_RETURNS, due_command),), lambda: None)
    assert (await timers.fire(), await timers.fire()) == (1, 0)
    row = await pool.fetchrow("SELECT occurred_at, actor FROM events WHERE type = 'return.expired'")
    assert row is not None
    assert tuple(row) == (due, "service:returns")
    assert await pool.fetchval("SELECT with_customer FROM lines WHERE line_id = 'mug'") == 3
