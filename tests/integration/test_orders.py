"""Orders on a real PostgreSQL: answers replayed, laws held by the database, deadlines fired, nothing stored of bad input."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime, timedelta, timezone
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest
from fastapi import FastAPI

from orders.api import router
from orders.domain.decide import Close, Command, RecordFact
from orders.store import ORDERS
from shared.contracts import fulfillment as f
from shared.contracts import payments as p
from shared.contracts.base import FACTS, Fact, LineQuantity, TenderKind
from shared.messaging.database import Pool
from shared.messaging.envelope import Cause
from shared.messaging.shell import Message
from shared.messaging.timers import Timers
from shared.web.auth import Tokens, issue
from shared.web.commands import CommandBus
from shared.web.middleware import BodyLimit
from shared.web.problems import install_problems
from tests.backends import Backends
from tests.databases import AUTH_KEY, settings_for

NewDatabase = Callable[[str], Awaitable[str]]
NOON = datetime(2025, 5, 4, 12, tzinfo=timezone.utc)


@pytest.fixture
async def pool(new_database: NewDatabase) -> AsyncIterator[Pool]:
    async with asyncpg.create_pool(await new_database("orders"), min_size=0, max_size=20) as pool:
        yield pool


@pytest.fixture
async def storefront(pool: Pool, backends: Backends) -> AsyncIterator[httpx.AsyncClient]:
    """Orders' HTTP surface, without Kafka."""
    app = FastAPI()
    install_problems(app)
    app.add_middleware(BodyLimit)
    app.include_router(router)
    app.state.settings = settings_for("postgresql://unused", backends)
    app.state.pool, app.state.commands, app.state.tokens = pool, CommandBus(pool, lambda: None), Tokens(AUTH_KEY)
    token = issue(AUTH_KEY, subject="shop", roles=["storefront"])
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://orders", headers={"Authorization": f"Bearer {token}"}
    ) as client:
        yield client


def body(**more: Any) -> dict[str, Any]:
    return {
        "order_id": "o1",
        "placed_at": NOON.isoformat(),
        "customer": {"customer_id": "c1", "email": "ada@example.org", "name": "Ada"},
        "ship_to": {"name": "Ada", "street": "Main 1", "city": "Bonn", "postal_code": "53111", "country": "DE"},
        "currency": "EUR",
        "lines": [{"sku": "mug", "title": "Mug", "quantity": 3, "unit_price_minor": 1000}],
        "shipping_minor": 500,
        "tenders": [{"kind": "card", "token": "tok_ok", "amount_minor": 3500}],
    } | more


def keyed(key: str | None = None) -> dict[str, str]:
    return {"Idempotency-Key": key or str(uuid4())}


async def hear(pool: Pool, *facts: Fact, at: datetime = NOON) -> None:
    messages: list[Message[Command]] = [
        Message(
            "o1",
            RecordFact(fact, at),
            Cause(id=uuid4(), at=at, actor="service:test", reason="test", correlation_id="test"),
        )
        for fact in facts
    ]
    assert await CommandBus(pool, lambda: None).process(ORDERS, messages) == [None] * len(facts)


AUTHORIZED = p.PaymentAuthorized(
    order_id="o1",
    tender_id="t1",
    operation_id="o1-P1",
    amount_minor=3500,
    currency="EUR",
    tender_kind=TenderKind.CARD,
    reference="ref",
    expires_at=None,
)
UNITS = (LineQuantity(line_id="1", quantity=3),)
ARRIVED = (
    f.StockAllocated(order_id="o1", sku="mug", location="x", quantity=3, line_id="1", shipment_id="o1-S1"),
    f.ShipmentPacked(order_id="o1", shipment_id="o1-S1", parcels=(f.Parcel(parcel_id="p", lines=UNITS),)),
    f.ShipmentShipped(order_id="o1", shipment_id="o1-S1", carrier="c", parcels=(), lines=UNITS, number=1, of=1),
    f.ShipmentDelivered(order_id="o1", shipment_id="o1-S1", lines=UNITS),
)


async def test_the_same_key_fifty_times_at_once_places_one_order(storefront: httpx.AsyncClient, pool: Pool) -> None:
    key = keyed()
    answers = await asyncio.gather(*(storefront.post("/orders", json=body(), headers=key) for _ in range(50)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.text for answer in answers}) == 1
    assert sum("Idempotency-Replayed" not in answer.headers for answer in answers) == 1
    assert await pool.fetchval("SELECT count(*) FROM events") == 1
    other = await storefront.post("/orders", json=body(shipping_minor=0), headers=key)
    assert (other.status_code, other.json()["errors"][0]["field"]) == (422, "Idempotency-Key")


@pytest.mark.parametrize(
    ("role", "email", "street"),
    [
        ("storefront", "ada@example.org", "Main 1"),
        ("warehouse", "a•••@example.org", "Main 1"),
        *((role, "a•••@example.org", "•••") for role in ("agent", "supervisor", "operator", "auditor")),
    ],
)
async def test_everybody_sees_of_the_customer_what_is_theirs_to_see(
    storefront: httpx.AsyncClient, role: str, email: str, street: str
) -> None:
    placed = await storefront.post("/orders", json=body(), headers=keyed())
    assert (placed.json()["customer"]["email"], placed.json()["ship_to"]["street"]) == ("ada@example.org", "Main 1")
    token = {"Authorization": f"Bearer {issue(AUTH_KEY, subject='somebody', roles=[role])}"}
    seen = [(await storefront.get("/orders/o1", headers=token)).json()]
    if role in ("agent", "supervisor", "warehouse", "storefront"):
        hold = {"hold": "manual", "detail": "wait"}
        seen.append((await storefront.post("/orders/o1/holds", json=hold, headers=token | keyed())).json())
    for order in seen:
        assert (order["customer"]["email"], order["ship_to"]["street"]) == (email, street)
        assert (order["customer"]["name"], order["ship_to"]["city"]) == ("Ada", "Bonn")


async def test_an_order_is_made_an_id_where_the_storefront_has_none(storefront: httpx.AsyncClient) -> None:
    without = body()
    del without["order_id"], without["placed_at"]
    key = keyed()
    placed = await storefront.post("/orders", json=without, headers=key)
    again = await storefront.post("/orders", json=without, headers=key)
    assert again.json() == placed.json()
    read = await storefront.get(f"/orders/{placed.json()['order_id']}")
    assert read.json() == placed.json()


JSON = {"Content-Type": "application/json"}
CARD = "4111 1111 1111 1111"
LINE = {"sku": "mug", "title": "Mug", "quantity": 3, "unit_price_minor": 1000}
TENDER = {"kind": "card", "token": "tok_ok", "amount_minor": 3500}


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"lines": [LINE | {"quantity": 0}]}, "lines.0.quantity"),
        ({"lines": [LINE | {"quantity": -1}]}, "lines.0.quantity"),
        ({"lines": [LINE | {"quantity": 1.5}]}, "lines.0.quantity"),
        ({"lines": [LINE | {"quantity": "3"}]}, "lines.0.quantity"),
        ({"lines": [LINE | {"unit_price_minor": 9.99}]}, "lines.0.unit_price_minor"),
        ({"lines": [LINE] * 201}, "lines"),
        ({"lines": []}, "lines"),
        ({"lines": [LINE | {"title": CARD}]}, "lines.0.title"),
        ({"currency": "XXQ"}, "currency"),
        ({"tenders": [TENDER | {"amount_minor": 3499}]}, "tenders"),
        ({"tenders": [TENDER | {"currency": "USD"}]}, "tenders.0.currency"),
        ({"tenders": [TENDER | {"token": CARD}]}, "tenders.0.token"),
        ({"customer": {"customer_id": "c1", "email": "ada@example.org", "name": CARD}}, "customer.name"),
        ({"customer": {"customer_id": "c1", "email": "nobody", "name": "Ada"}}, "customer.email"),
        ({"tenders": [TENDER | {"token": "nul\x00"}]}, "tenders.0.token"),
        ({"ship_to": body()["ship_to"] | {"postal_code": "nul\x00"}}, "ship_to.postal_code"),
        ({"ship_to": body()["ship_to"] | {"postal_code": "1" * 21}}, "ship_to.postal_code"),
        ({"placed_at": "2999-01-01T00:00:00Z"}, "placed_at"),
        ({"placed_at": "2026-01-01T00:00:00"}, "placed_at"),
        ({"order_id": "stock:mug@berlin"}, "order_id"),
        ({"coupon": "x"}, "coupon"),
        ({"lines": [LINE | {"title": "nul\x00"}]}, "lines.0.title"),
    ],
)
async def test_bad_input_is_refused_by_field_and_nothing_is_stored(
    storefront: httpx.AsyncClient, pool: Pool, more: dict[str, Any], field: str
) -> None:
    answer = await storefront.post("/orders", json=body(**more), headers=keyed())
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field)
    assert await pool.fetchval("SELECT count(*) FROM states") == 0
    assert await pool.fetchval("SELECT count(*) FROM answers") == 0


async def test_who_may_not_is_refused_and_what_is_not_known_is_not_found(
    storefront: httpx.AsyncClient, pool: Pool
) -> None:
    warehouse = {"Authorization": f"Bearer {issue(AUTH_KEY, subject='w', roles=['warehouse'])}"}
    assert (await storefront.post("/orders", json=body(), headers=keyed() | warehouse)).status_code == 403
    assert (await storefront.post("/orders", json=body(), headers=keyed() | {"Authorization": "x"})).status_code == 401
    assert (await storefront.post("/orders", json=body())).status_code == 422
    assert (await storefront.post("/orders", content=b"{", headers=keyed() | JSON)).status_code == 400
    assert (await storefront.post("/orders", content=b" " * 300_000, headers=keyed() | JSON)).status_code == 413
    assert (await storefront.get("/orders/o1")).status_code == 404
    assert (await storefront.post("/orders/o1/cancellations", json={}, headers=keyed())).status_code == 404
    await storefront.post("/orders", json=body(), headers=keyed())
    release = await storefront.post("/orders/o1/holds/manual/release", json={"detail": ""}, headers=keyed())
    assert release.status_code == 403
    again = await storefront.post("/orders", json=body(), headers=keyed())
    assert (again.status_code, again.json()["current"]) == (409, "placed")
    assert await pool.fetchval("SELECT count(*) FROM events") == 1


async def test_the_version_is_the_etag_and_guards_changes(storefront: httpx.AsyncClient, pool: Pool) -> None:
    placed = await storefront.post("/orders", json=body(), headers=keyed())
    assert placed.headers["ETag"] == '"1"'
    await hear(pool, AUTHORIZED)
    read = await storefront.get("/orders/o1")
    assert (read.headers["ETag"], read.json()["status"]) == ('"3"', "confirmed")
    assert (await storefront.get("/orders/o1", headers={"If-None-Match": '"3"'})).status_code == 304
    hold = {"hold": "manual", "detail": "called"}
    stale = await storefront.post("/orders/o1/holds", json=hold, headers=keyed() | {"If-Match": '"1"'})
    assert stale.status_code == 409
    fresh = await storefront.post("/orders/o1/holds", json=hold, headers=keyed() | {"If-Match": '"3"'})
    assert (fresh.status_code, fresh.headers["ETag"]) == (201, '"4"')
    row = await pool.fetchrow("SELECT actor, reason FROM events WHERE type = 'order.hold_placed'")
    assert row is not None
    assert (row["actor"], row["reason"]) == ("storefront:shop", "called")


async def test_of_cancellations_at_once_one_is_asked_and_the_others_wait(
    storefront: httpx.AsyncClient, pool: Pool
) -> None:
    await storefront.post("/orders", json=body(), headers=keyed())
    await hear(pool, AUTHORIZED)
    answers = await asyncio.gather(
        *(storefront.post("/orders/o1/cancellations", json={}, headers=keyed()) for _ in range(20))
    )
    assert sorted(answer.status_code for answer in answers) == [202, *[409] * 19]
    assert await pool.fetchval("SELECT count(*) FROM events WHERE type = 'order.cancellation_requested'") == 1


async def test_a_completed_order_closes_by_its_deadline_at_its_own_time(
    storefront: httpx.AsyncClient, pool: Pool
) -> None:
    await storefront.post("/orders", json=body(), headers=keyed())
    await hear(pool, AUTHORIZED, *ARRIVED)
    due = await pool.fetchval("SELECT due_at FROM deadlines WHERE key = 'o1' AND name = 'close'")
    assert due == NOON + timedelta(days=60)
    timers = Timers(pool, "orders", ((ORDERS, lambda _, __, due_at: Close(due_at)),), lambda: None)
    assert await timers.fire() == 1
    row = await pool.fetchrow("SELECT occurred_at, actor, policy_version FROM events WHERE type = 'order.closed'")
    assert row is not None
    assert (row["occurred_at"], row["actor"]) == (due, "service:orders")
    assert await pool.fetchval("SELECT count(*) FROM deadlines") == 0


async def test_state_rows_and_law_rows_equal_the_fold_of_the_journal(storefront: httpx.AsyncClient, pool: Pool) -> None:
    await storefront.post("/orders", json=body(), headers=keyed())
    await hear(pool, AUTHORIZED, *ARRIVED[:3])
    rows = await pool.fetch("SELECT type, data FROM events WHERE subject = 'o1' ORDER BY sequence")
    fold = ORDERS.fold("o1", [FACTS[row["type"]].model_validate_json(row["data"]) for row in rows])
    assert fold == ORDERS.state.validate_json(await pool.fetchval("SELECT state FROM states WHERE key = 'o1'"))
    line = await pool.fetchrow("SELECT ordered, owed, in_transit, unallocated FROM lines WHERE order_id = 'o1'")
    assert line is not None
    assert tuple(line) == (3, 3, 3, 0)


async def test_the_database_itself_refuses_units_that_are_nowhere_and_a_changed_policy(
    storefront: httpx.AsyncClient, pool: Pool
) -> None:
    await storefront.post("/orders", json=body(), headers=keyed())
    with pytest.raises(asyncpg.CheckViolationError, match="every_unit_in_one_bucket"):
        await pool.execute("UPDATE lines SET delivered = 1")
    with pytest.raises(asyncpg.CheckViolationError, match="no_bucket_below_zero"):
        await pool.execute("UPDATE lines SET delivered = -1, packed = 1")
    with pytest.raises(asyncpg.RaiseError, match="never changes"):
        await pool.execute("UPDATE policies SET close_after = '1 day'")
