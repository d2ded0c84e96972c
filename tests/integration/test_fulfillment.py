"""Fulfillment on a real PostgreSQL: the last unit sold once, the queue served in order, the shelves proven by the journal."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest
from fastapi import FastAPI
from standardwebhooks.webhooks import Webhook

from fulfillment.api import router
from fulfillment.domain.decide import (
    Cancel,
    ChangeAddress,
    Command,
    Fill,
    HandOver,
    Inspect,
    Open,
    Pack,
    PlaceHold,
    Plan,
    Replace,
    ShortPick,
    TakeSilence,
)
from fulfillment.domain.shelf import Expect, Receive, ShelfCommand
from fulfillment.domain.state import OrderFulfillment
from fulfillment.domain.tracking import ShipmentStatus
from fulfillment.filler import serve
from fulfillment.handlers import ROUTES
from fulfillment.scans import match
from fulfillment.settings import FulfillmentSettings
from fulfillment.store import ORDERS, SHELVES, STOCK_DRIFT, find, places_of
from shared.contracts.base import FACTS, LineQuantity
from shared.contracts.fulfillment import OpenedLine, shelf_key
from shared.contracts.orders import Address, Hold, ShippingPreference
from shared.contracts.partners import WarehouseGoodsReceived
from shared.contracts.returns import Disposition, InspectedLine, InspectionOutcome
from shared.messaging.database import Pool
from shared.messaging.envelope import Cause
from shared.messaging.parking import Record
from shared.messaging.router import Router
from shared.messaging.shell import Message
from shared.messaging.timers import Timers
from shared.web.auth import Tokens, issue
from shared.web.commands import CommandBus, patiently
from shared.web.middleware import BodyLimit
from shared.web.problems import install_problems
from tests.backends import Backends
from tests.databases import AUTH_KEY

NewDatabase = Callable[[str], Awaitable[str]]
NOON = datetime(2025, 5, 4, 12, tzinfo=timezone.utc)
SECRET = "whsec_dGhlIHNlY3JldCBvZiBhIHRlc3QgY2Fycmllci4="


@pytest.fixture
async def pool(new_database: NewDatabase) -> AsyncIterator[Pool]:
    async with asyncpg.create_pool(await new_database("fulfillment"), min_size=0, max_size=20) as pool:
        yield pool


@pytest.fixture(autouse=True)
async def _proven(pool: Pool) -> AsyncIterator[None]:
    """After every test: the shelves and the queue are the sums of their facts, each state the fold of its journal."""
    yield
    assert [dict(row) for row in await pool.fetch(STOCK_DRIFT)] == []
    for flow, pattern in ((ORDERS, "o%"), (SHELVES, "stock:%")):
        for key, document in await pool.fetch("SELECT key, state FROM states WHERE key LIKE $1", pattern):
            rows = await pool.fetch("SELECT type, data FROM events WHERE subject = $1 ORDER BY sequence", key)
            facts = [FACTS[row["type"]].model_validate_json(row["data"]) for row in rows]
            assert flow.fold(key, facts) == flow.state.validate_json(document)


def cause(at: datetime = NOON) -> Cause:
    return Cause(id=uuid4(), at=at, actor="service:test", reason="test", correlation_id="test")


async def tell(pool: Pool, order_id: str, *commands: Command, at: datetime = NOON) -> list[Exception | None]:
    messages: list[Message[Command]] = [Message(order_id, command, cause(at)) for command in commands]
    # Many at once wait for a connection, on a busy machine for long.
    return await patiently(lambda: CommandBus(pool, lambda: None).process(ORDERS, messages), seconds=60)


async def stock(pool: Pool, sku: str, location: str, quantity: int, at: datetime = NOON) -> None:
    message: Message[ShelfCommand] = Message(
        shelf_key(sku, location), Receive(str(uuid4()), sku, location, quantity), cause(at)
    )
    assert await CommandBus(pool, lambda: None).process(SHELVES, [message]) == [None]


async def expect(pool: Pool, sku: str, incoming: int, eta: datetime | None, at: datetime = NOON) -> None:
    message: Message[ShelfCommand] = Message(shelf_key(sku, "berlin"), Expect(sku, "berlin", incoming, eta), cause(at))
    assert await CommandBus(pool, lambda: None).process(SHELVES, [message]) == [None]


def opened(at: datetime = NOON, rule: str = "as_available", **quantities: int) -> Open:
    """Lines are named as their skus."""
    lines = tuple(OpenedLine(line_id=sku, sku=sku, quantity=units) for sku, units in quantities.items())
    return Open(at, lines, ShippingPreference.model_validate({"rule": rule}))


async def order(pool: Pool, order_id: str) -> OrderFulfillment:
    found = await find(pool, order_id)
    assert found is not None
    return found


async def units(pool: Pool, order_id: str, line_id: str = "mug") -> dict[str, int]:
    return {bucket.value: n for bucket, n in (await order(pool, order_id)).lines[line_id].units.items()}


async def shelf(pool: Pool, sku: str = "mug", location: str = "berlin") -> tuple[int, int]:
    row = await pool.fetchrow("SELECT on_hand, allocated FROM stock WHERE sku = $1 AND location = $2", sku, location)
    assert row is not None
    return row["on_hand"], row["allocated"]


async def test_fifty_orders_for_the_last_unit_and_one_gets_it(pool: Pool) -> None:
    await stock(pool, "mug", "berlin", 1)
    ids = [f"o{n}" for n in range(50)]
    answers = await asyncio.gather(*(tell(pool, order_id, opened(mug=1), Plan()) for order_id in ids))
    assert answers == [[None, None]] * 50
    got = [order_id for order_id in ids if (await units(pool, order_id)) == {"allocated": 1}]
    assert len(got) == 1
    assert await shelf(pool) == (1, 1)
    assert await pool.fetchval("SELECT sum(open) FROM backorders") == 49


async def test_orders_that_need_the_same_shelves_in_another_order_do_not_block_each_other(pool: Pool) -> None:
    for sku in ("mug", "tea", "pot"):
        for location in ("berlin", "hamburg"):
            await stock(pool, sku, location, 60)
    ways = (opened(mug=1, tea=1, pot=1), opened(pot=1, tea=1, mug=1), opened(tea=2, mug=1))
    answers = await asyncio.gather(*(tell(pool, f"o{n}", ways[n % 3], Plan()) for n in range(60)))
    assert answers == [[None, None]] * 60
    allocated = await pool.fetchval("SELECT sum(allocated) FROM stock")
    assert allocated == 180
    assert await pool.fetchval("SELECT count(*) FROM backorders") == 0


async def test_goods_that_come_back_where_none_ever_lay_are_on_a_shelf_there(pool: Pool) -> None:
    await stock(pool, "mug", "berlin", 1)
    handed_over = HandOver("o1-S1", "dhl", (("o1-S1-P1", "T1"),))
    assert await tell(pool, "o1", opened(mug=1), Plan(), Pack("o1-S1"), handed_over) == [None] * 4
    found = InspectedLine(
        line_id="mug",
        quantity=1,
        outcome=InspectionOutcome.AS_NEW,
        disposition=Disposition.RESTOCK,
        refund_percent=100,
        fee_percent=0,
    )
    assert await tell(pool, "o1", Inspect("i1", "hamburg", (found,))) == [None]
    assert await shelf(pool, location="hamburg") == (1, 0)


async def test_goods_go_to_whoever_was_placed_first(pool: Pool) -> None:
    for number in reversed(range(5)):
        placed_at = NOON + timedelta(hours=number)
        await tell(pool, f"o{number}", opened(placed_at, mug=2), Plan(), at=placed_at)
    received_at = NOON + timedelta(days=3)
    await stock(pool, "mug", "berlin", 5, received_at)
    assert await serve(pool) == 3
    states = [await units(pool, f"o{number}") for number in range(5)]
    assert states == [{"allocated": 2}, {"allocated": 2}, {"backordered": 1, "allocated": 1}] + [{"backordered": 2}] * 2
    at = await pool.fetchval("SELECT occurred_at FROM events WHERE type = 'backorder.filled' LIMIT 1")
    assert at == received_at, "as past as what caused it"
    assert await serve(pool) == 0


async def test_an_order_placed_later_takes_nothing_that_the_queue_waits_for(pool: Pool) -> None:
    await tell(pool, "o1", opened(mug=2), Plan())
    await stock(pool, "mug", "berlin", 3)
    await tell(pool, "o2", opened(NOON + timedelta(hours=1), mug=2), Plan())
    assert await units(pool, "o2") == {"allocated": 1, "backordered": 1}
    await serve(pool)
    assert await units(pool, "o1") == {"allocated": 2}


async def test_within_one_batch_the_queue_holds_as_well(pool: Pool) -> None:
    await stock(pool, "mug", "berlin", 3)
    commands: list[tuple[str, Command]] = [
        ("o1", opened(rule="complete_only", mug=2, tea=1)),
        ("o1", Plan()),
        ("o2", opened(NOON + timedelta(hours=1), mug=2)),
        ("o2", Plan()),
    ]
    messages: list[Message[Command]] = [Message(order_id, command, cause()) for order_id, command in commands]
    assert await CommandBus(pool, lambda: None).process(ORDERS, messages) == [None] * 4
    assert await units(pool, "o1") == {"backordered": 2}
    assert await units(pool, "o2") == {"allocated": 1, "backordered": 1}


async def test_who_takes_all_or_nothing_does_not_keep_the_queue_behind_other_goods_waiting(pool: Pool) -> None:
    await tell(pool, "o1", opened(rule="complete_only", mug=1, tea=1), Plan())
    await tell(pool, "o2", opened(NOON + timedelta(hours=1), pot=1), Plan())
    await stock(pool, "mug", "berlin", 1)
    await stock(pool, "pot", "berlin", 1)
    await serve(pool)
    assert await units(pool, "o1") == {"backordered": 1}
    assert await units(pool, "o2", "pot") == {"allocated": 1}
    claims = await pool.fetchval("SELECT count(*) FROM inbox")
    assert await serve(pool) == 0
    assert await pool.fetchval("SELECT count(*) FROM inbox") == claims, "waiting leaves nothing behind"
    await stock(pool, "tea", "hamburg", 1)
    assert await serve(pool) == 1
    assert await units(pool, "o1") == {"allocated": 1}


async def test_what_a_cancellation_frees_goes_to_the_queue(pool: Pool) -> None:
    await stock(pool, "mug", "berlin", 1)
    await tell(pool, "o1", opened(mug=1), Plan())
    await tell(pool, "o2", opened(NOON + timedelta(hours=1), mug=1), Plan())
    await tell(pool, "o1", Cancel("c1", (LineQuantity(line_id="mug", quantity=1),)))
    assert await serve(pool) == 1
    assert await units(pool, "o2") == {"allocated": 1}
    assert await shelf(pool) == (1, 1)


async def test_two_fillers_at_once_serve_nobody_twice(pool: Pool) -> None:
    for number in range(20):
        await tell(pool, f"o{number:02}", opened(NOON + timedelta(minutes=number), mug=1), Plan())
    await stock(pool, "mug", "berlin", 12)
    await asyncio.gather(serve(pool), serve(pool), serve(pool))
    assert await shelf(pool) == (12, 12)
    filled = [number for number in range(20) if await units(pool, f"o{number:02}") == {"allocated": 1}]
    assert filled == list(range(12))


async def test_a_cancellation_racing_the_hand_over_has_one_winner_and_the_goods_have_left(pool: Pool) -> None:
    await stock(pool, "mug", "berlin", 20)
    ids = [f"o{n}" for n in range(20)]
    for order_id in ids:
        await tell(pool, order_id, opened(mug=1), Plan(), Pack(f"{order_id}-S1"))
    races = []
    for order_id in ids:
        name = f"{order_id}-S1"
        hand_over = HandOver(name, "dhl", ((f"{name}-P1", f"T-{name}"),))
        races += [
            tell(pool, order_id, hand_over),
            tell(pool, order_id, Cancel("c1", (LineQuantity(line_id="mug", quantity=1),))),
        ]
    answers = await asyncio.gather(*races)
    assert answers == [[None]] * 40, "what has left is not refused, and a cancellation is answered by facts"
    for order_id in ids:
        found = await order(pool, order_id)
        if found.shipments[f"{order_id}-S1"].status is ShipmentStatus.SHIPPED:
            assert (await units(pool, order_id), found.discrepancies) == ({"in_transit": 1}, 0)
        else:
            assert (await units(pool, order_id), found.discrepancies) == ({"cancelled": 1}, 1)
    assert await shelf(pool) == (0, 0)


async def test_goods_found_missing_and_sent_again_keep_the_shelves_true(pool: Pool) -> None:
    await stock(pool, "mug", "berlin", 2)
    await stock(pool, "mug", "hamburg", 1)
    one = (LineQuantity(line_id="mug", quantity=1),)
    await tell(pool, "o1", opened(mug=2), Plan(), ShortPick("o1-S1", one))
    assert (await shelf(pool), await shelf(pool, location="hamburg")) == ((1, 1), (1, 1))
    await tell(pool, "o1", Replace("x1", "r1", one, "mug", "damaged"))
    assert await units(pool, "o1") == {"allocated": 2}, "nothing was delivered that could be replaced"


async def test_a_date_that_slips_is_told_to_whoever_waits_and_silence_is_taken(pool: Pool) -> None:
    await pool.execute(
        "INSERT INTO policies VALUES ('fulfillment', 2, '2025-01-01T00:00:00Z', '{}', 7, 48, '{wait,cancel}', 'cancel')"
    )
    await expect(pool, "mug", 5, NOON + timedelta(days=5))
    await tell(pool, "o1", opened(mug=1), Plan())
    await expect(pool, "mug", 5, NOON + timedelta(days=30), NOON + timedelta(days=1))
    assert await serve(pool) == 1
    assert await serve(pool) == 0
    rows = await pool.fetch("SELECT name, due_at FROM deadlines")
    assert [tuple(row) for row in rows] == [("consent o1-B1", NOON + timedelta(days=3))]
    silence = (ORDERS, lambda _, name, due_at: TakeSilence(name.removeprefix("consent "), due_at))
    assert await Timers(pool, "fulfillment", (silence,), lambda: None).fire() == 1
    assert await units(pool, "o1") == {"cancelled": 1}
    assert await pool.fetchval("SELECT policy_version FROM events WHERE type = 'backorder.consent_settled'") == 2


async def test_the_database_itself_refuses_to_oversell(pool: Pool) -> None:
    await stock(pool, "mug", "berlin", 1)
    with pytest.raises(asyncpg.CheckViolationError, match="never_oversold"):
        await pool.execute("UPDATE stock SET allocated = 2")
    await tell(pool, "o1", opened(mug=1), Plan())
    for change, law in (
        ("allocated = 2", "every_unit_in_one_bucket"),
        ("allocated = 2, backordered = -1", "no_bucket_below_zero"),
        ("in_shipments = 0", "shipments_hold_what_is_counted"),
    ):
        with pytest.raises(asyncpg.CheckViolationError, match=law):
            await pool.execute(f"UPDATE lines SET {change}")


async def test_a_shelf_that_drifts_from_its_journal_is_named(pool: Pool) -> None:
    await stock(pool, "mug", "berlin", 3)
    await tell(pool, "o1", opened(mug=5), Plan())
    await pool.execute("UPDATE stock SET on_hand = 4")
    await pool.execute("UPDATE backorders SET open = 1")
    assert [row["what"] for row in await pool.fetch(STOCK_DRIFT)] == ["stock mug at berlin", "backorder o1-B1"]
    await pool.execute("UPDATE stock SET on_hand = 3")
    await pool.execute("UPDATE backorders SET open = 2")


# HTTP


@pytest.fixture
async def site(pool: Pool, backends: Backends) -> AsyncIterator[httpx.AsyncClient]:
    """Fulfillment's HTTP surface, without Kafka."""
    app = FastAPI()
    install_problems(app)
    app.add_middleware(BodyLimit)
    app.include_router(router)
    app.state.settings = FulfillmentSettings.model_validate(
        {
            "database_url": "postgresql://unused",
            "kafka": backends.kafka,
            "auth_key": AUTH_KEY,
            "carrier_webhook_secret": SECRET,
        }
    )
    app.state.pool, app.state.commands, app.state.tokens = pool, CommandBus(pool, lambda: None), Tokens(AUTH_KEY)
    token = issue(AUTH_KEY, subject="hall-1", roles=["warehouse"])
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://fulfillment", headers={"Authorization": f"Bearer {token}"}
    ) as client:
        yield client


async def post(site: httpx.AsyncClient, path: str, **body: Any) -> httpx.Response:
    return await site.post(path, json=body, headers={"Idempotency-Key": str(uuid4())})


async def scan(site: httpx.AsyncClient, secret: str = SECRET, **body: Any) -> httpx.Response:
    at = datetime.now(timezone.utc)
    text = httpx.Request("POST", "http://x", json=body).content.decode()
    signature = Webhook(secret).sign(id := str(uuid4()), at, text)
    headers = {"webhook-id": id, "webhook-timestamp": str(int(at.timestamp())), "webhook-signature": signature}
    return await site.post("/webhooks/carrier", content=text, headers=headers)


async def test_a_shipment_from_the_shelf_to_the_door(pool: Pool, site: httpx.AsyncClient) -> None:
    goods = {"receipt_id": "r1", "sku": "mug", "location": "berlin", "quantity": 2}
    assert (await post(site, "/stock/receipts", **goods)).status_code == 201
    again = await post(site, "/stock/receipts", **goods)
    assert (again.status_code, again.json()["received"], again.json()["applied"]) == (200, 2, False)
    await tell(pool, "o1", opened(mug=3), Plan())
    [shown] = (await site.get("/stock")).json()["shelves"]
    assert (shown["free"], shown["allocated"], shown["backordered"]) == (0, 2, 1)
    assert (await post(site, "/shipments/o1-S1/pack")).status_code == 200
    tracking = [{"parcel_id": "o1-S1-P1", "tracking": "T1"}]
    handed = await post(site, "/shipments/o1-S1/hand-over", carrier="dhl", tracking=tracking)
    [shipment] = handed.json()["shipments"]
    assert (shipment["status"], shipment["number"], shipment["of"]) == ("shipped", 1, 2)
    told = {"carrier": "dhl", "tracking": "T1", "code": "delivered", "occurred_at": NOON.isoformat()}
    assert [(await scan(site, **told)).status_code for _ in range(2)] == [202, 202]
    found = (await site.get("/orders/o1/fulfillment")).json()
    assert found["lines"][0]["units"] == {"backordered": 1, "delivered": 2}
    rows = await pool.fetch("SELECT occurred_at, actor FROM events WHERE type = 'shipment.delivered'")
    assert [tuple(row) for row in rows] == [(NOON, "partner:carrier:dhl")], "one effect, when it happened"
    assert await places_of(pool, "dhl", "T1") == [("o1", "o1-S1")]


async def test_what_cannot_be_is_refused_in_words(pool: Pool, site: httpx.AsyncClient) -> None:
    await stock(pool, "mug", "berlin", 1)
    await tell(pool, "o1", opened(mug=1), Plan())
    facts = await pool.fetchval("SELECT count(*) FROM events")
    cases: Sequence[tuple[str, dict[str, Any], int, str]] = (
        ("/shipments/o9-S1/pack", {}, 404, "o9-S1 is not known"),
        ("/shipments/o1-S9/pack", {}, 404, "o1-S9 is not known"),
        ("/shipments/nothing/pack", {}, 404, "not known"),
        ("/shipments/o1-S1/recall", {}, 409, "recall is not allowed while created"),
        ("/shipments/o1-S1/short-pick", {"lines": [{"line_id": "mug", "quantity": 2}]}, 422, "o1-S1 has 1"),
        ("/shipments/o1-S1/short-pick", {"lines": [{"line_id": "mug", "quantity": 0}]}, 422, "quantity"),
        ("/shipments/o1-S1/short-pick", {"lines": [{"line_id": "mug", "quantity": 1.5}]}, 422, "quantity"),
        ("/shipments/o1-S1/pack", {"colour": "red"}, 422, "colour"),
    )
    for path, body, status, words in cases:
        answer = await post(site, path, **body)
        assert (answer.status_code, words in answer.json()["detail"]) == (status, True), answer.text
    assert (await site.get("/orders/o9/fulfillment")).status_code == 404
    assert await pool.fetchval("SELECT count(*) FROM events") == facts


async def test_a_scan_that_is_forged_or_nonsense_has_no_effect(pool: Pool, site: httpx.AsyncClient) -> None:
    told = {"carrier": "dhl", "tracking": "T1", "code": "delivered", "occurred_at": NOON.isoformat()}
    assert (await scan(site, secret="whsec_Zm9yZ2VkIHNlY3JldCBvZiBub2JvZHkgYXQgYWxs", **told)).status_code == 401
    nonsense = await scan(site, **told | {"code": "teleported"})
    assert (nonsense.status_code, nonsense.json()["errors"][0]["field"]) == (422, "code")
    assert await pool.fetchval("SELECT count(*) FROM events") == 0


async def handed_over(pool: Pool, order_id: str, tracking: str, at: datetime = NOON) -> None:
    """One mug of an order, in one parcel."""
    await stock(pool, "mug", "berlin", 1)
    left = HandOver(f"{order_id}-S1", "dhl", ((f"{order_id}-S1-P1", tracking),))
    commands = (opened(mug=1), Plan(), Pack(f"{order_id}-S1"), left)
    assert await tell(pool, order_id, *commands, at=at) == [None] * 4


@pytest.mark.parametrize("said", ["1970-01-01T00:00:00Z", "2999-01-01T00:00:00Z"])
async def test_a_scan_of_a_clock_that_is_wrong_is_taken_at_the_time_it_came(
    pool: Pool, site: httpx.AsyncClient, said: str
) -> None:
    await handed_over(pool, "o1", "T1")
    before = datetime.now(timezone.utc)
    answer = await scan(site, carrier="dhl", tracking="T1", code="delivered", occurred_at=said)
    assert (answer.status_code, answer.json()["order_id"]) == (202, "o1")
    at = await pool.fetchval("SELECT occurred_at FROM events WHERE type = 'shipment.delivered'")
    assert before <= at <= datetime.now(timezone.utc)


async def test_goods_are_received_with_an_at_sign_in_their_number_and_whatever_the_warehouses_clock_says(
    pool: Pool,
) -> None:
    skus = ["a@b", "a:b", "7-8.B"]
    records = [
        Record(
            "warehouse.events",
            0,
            number,
            0,
            b"any",
            [
                ("ce_id", f"m{number}".encode()),
                ("ce_source", b"warehouse-1"),
                ("ce_type", b"warehouse.goods_received"),
                ("ce_time", b"2999-01-01T00:00:00Z"),
            ],
            WarehouseGoodsReceived(
                receipt_id=f"r{number}",
                sku=sku,
                location="B@C",
                quantity=2,
                occurred_at=datetime(2999, 1, 1, tzinfo=timezone.utc),
            )
            .model_dump_json()
            .encode(),
        )
        for number, sku in enumerate(skus)
    ]
    async with pool.acquire() as db, db.transaction():
        assert await Router(ROUTES).process(db, records) == []
    assert [await shelf(pool, sku, "B@C") for sku in skus] == [(2, 0)] * 3
    assert await pool.fetchval("SELECT max(occurred_at) <= now() FROM events")


async def test_a_scan_that_comes_before_its_parcel_is_kept_and_applied_when_the_parcel_is_known(
    pool: Pool, site: httpx.AsyncClient
) -> None:
    commands = CommandBus(pool, lambda: None)
    told = {"carrier": "dhl", "tracking": "T1", "code": "delivered", "occurred_at": NOON.isoformat()}
    for _ in range(2):
        answer = await scan(site, **told)
        assert (answer.status_code, answer.json()["order_id"]) == (202, None)
    [kept] = (await site.get("/scans/unmatched")).json()
    assert (kept["tracking"], kept["code"]) == ("T1", "delivered")
    assert await match(commands) == 0, "nobody has the number yet"
    await handed_over(pool, "o1", "T1")
    assert await match(commands) == 1
    assert await units(pool, "o1") == {"delivered": 1}
    assert (await site.get("/scans/unmatched")).json() == []
    answer = await scan(site, **told)
    assert answer.json()["order_id"] == "o1"
    assert await pool.fetchval("SELECT count(*) FROM events WHERE type = 'shipment.delivered'") == 1


async def test_a_scan_of_the_number_that_a_second_hand_over_tells_is_applied_and_the_first_number_is_still_known(
    pool: Pool, site: httpx.AsyncClient
) -> None:
    await handed_over(pool, "o1", "T1")
    told = {"carrier": "ups", "tracking": "T2", "code": "delivered", "occurred_at": NOON.isoformat()}
    assert (await scan(site, **told)).json()["order_id"] is None
    tracking = [{"parcel_id": "o1-S1-P1", "tracking": "T2"}]
    for _ in range(2):
        answer = await post(site, "/shipments/o1-S1/hand-over", carrier="ups", tracking=tracking)
        [shipment] = answer.json()["shipments"]
        assert (shipment["carrier"], shipment["parcels"][0]["tracking"]) == ("ups", "T2")
    assert await match(CommandBus(pool, lambda: None)) == 1
    assert await units(pool, "o1") == {"delivered": 1}
    old = await scan(site, **told | {"carrier": "dhl", "tracking": "T1"})
    assert (old.status_code, old.json()["order_id"]) == (202, "o1")
    assert await pool.fetchval("SELECT count(*) FROM events WHERE type = 'shipment.delivered'") == 1
    assert await pool.fetchval("SELECT count(*) FROM events WHERE type = 'fulfillment.discrepancy_recorded'") == 1


async def test_one_number_on_the_goods_of_two_orders_is_scanned_for_both_and_long_after_for_the_newer(
    pool: Pool, site: httpx.AsyncClient
) -> None:
    long_ago = NOON - timedelta(days=100)
    await handed_over(pool, "o1", "T1", long_ago)
    for order_id in ("o2", "o3"):
        await handed_over(pool, order_id, "T1")
    answer = await scan(site, carrier="dhl", tracking="T1", code="delivered", occurred_at=NOON.isoformat())
    assert (answer.status_code, answer.json()["order_ids"]) == (202, ["o3", "o2"])
    assert [await units(pool, id) for id in ("o1", "o2", "o3")] == [{"in_transit": 1}, *[{"delivered": 1}] * 2]


async def test_what_left_although_it_was_held_is_recorded_over_http(pool: Pool, site: httpx.AsyncClient) -> None:
    await stock(pool, "mug", "berlin", 1)
    await tell(pool, "o1", opened(mug=1), Plan(), PlaceHold(Hold.FRAUD), Pack("o1-S1"))
    tracking = [{"parcel_id": "o1-S1-P1", "tracking": "T1"}]
    answer = await post(site, "/shipments/o1-S1/hand-over", carrier="dhl", tracking=tracking)
    assert (answer.status_code, answer.json()["discrepancies"]) == (200, 1)
    assert await units(pool, "o1") == {"in_transit": 1}


async def test_goods_received_twice_under_one_id_with_other_contents_are_recorded_and_block_nothing(
    pool: Pool, site: httpx.AsyncClient
) -> None:
    goods = {"receipt_id": "r1", "sku": "mug", "location": "berlin", "quantity": 2}
    assert (await post(site, "/stock/receipts", **goods)).status_code == 201
    answer = await post(site, "/stock/receipts", **goods | {"quantity": 3})
    assert (answer.status_code, answer.json()["applied"], answer.json()["received"]) == (200, False, 2)
    assert "received before with 2 units" in answer.json()["contradicts"]
    assert await pool.fetchval("SELECT count(*) FROM events WHERE type = 'stock.discrepancy_recorded'") == 1
    assert await shelf(pool) == (2, 0)


async def test_a_backorder_that_cannot_be_served_keeps_its_failure_and_the_others_are_served(
    pool: Pool, site: httpx.AsyncClient
) -> None:
    for n, order_id in enumerate(("o1", "o2", "o3")):
        await tell(pool, order_id, opened(NOON + timedelta(hours=n), mug=1), Plan())
    await pool.execute("ALTER TABLE backorders ADD CONSTRAINT broken CHECK (order_id <> 'o2' OR open > 0)")
    await stock(pool, "mug", "berlin", 3)
    assert await serve(pool) == 2
    assert [await units(pool, id) for id in ("o1", "o3")] == [{"allocated": 1}] * 2
    [failed] = (await site.get("/backorders/failures")).json()
    assert (failed["order_id"], failed["attempts"], "broken" in failed["error"]) == ("o2", 1, True)
    await serve(pool)
    assert await pool.fetchval("SELECT attempts FROM backorder_failures") == 1, "not before its time"
    await pool.execute("UPDATE backorder_failures SET next_at = now(), attempts = 24")
    await serve(pool)
    [failed] = (await site.get("/backorders/failures")).json()
    assert (failed["attempts"], failed["next_at"]) == (25, None), "given up, and shown"
    await pool.execute("ALTER TABLE backorders DROP CONSTRAINT broken")
    assert await serve(pool) == 0
    operator = {"Authorization": f"Bearer {issue(AUTH_KEY, subject='ops-1', roles=['operator'])}"}
    assert (await site.post("/backorders/failures/o2/retry", headers=operator)).status_code == 202
    assert await serve(pool) == 1
    assert await units(pool, "o2") == {"allocated": 1}
    assert (await site.get("/backorders/failures")).json() == []
    assert (await site.post("/backorders/failures/o2/retry", headers=operator)).status_code == 404


async def test_a_shelf_is_counted_and_the_books_say_so_from_then_on(pool: Pool, site: httpx.AsyncClient) -> None:
    await stock(pool, "mug", "berlin", 5)
    await tell(pool, "o1", opened(mug=3), Plan())
    counts = ((7, 7, 2, 0), (4, 4, -3, 0), (1, 3, -1, 2), (9, 9, 6, 0))
    for counted, on_hand, change, missing in counts:
        answer = await post(site, "/stock/counts", sku="mug", location="berlin", counted=counted, reason="stocktaking")
        assert answer.json() == {
            "sku": "mug",
            "location": "berlin",
            "on_hand": on_hand,
            "change": change,
            "missing": missing,
        }
        assert await shelf(pool) == (on_hand, 3)
    refused = await post(site, "/stock/counts", sku="mug", location="berlin", counted=-1, reason="stocktaking")
    assert (refused.status_code, "counted" in refused.json()["detail"]) == (422, True)
    new = await post(site, "/stock/counts", sku="tea", location="berlin", counted=2, reason="found behind the mugs")
    assert (new.status_code, await shelf(pool, "tea")) == (200, (2, 0))
    rows = await pool.fetch("SELECT actor, data->>'detail' AS why FROM events WHERE type = 'stock.counted'")
    assert {row["actor"] for row in rows} == {"warehouse:hall-1"}
    assert len(rows) == 5 and {row["why"] for row in rows} == {"stocktaking", "found behind the mugs"}


async def test_support_says_over_http_that_a_delivered_parcel_did_not_arrive(
    pool: Pool, site: httpx.AsyncClient
) -> None:
    await handed_over(pool, "o1", "T1")
    agent = {"Authorization": f"Bearer {issue(AUTH_KEY, subject='anna', roles=['agent'])}"}

    async def say(detail: str) -> httpx.Response:
        headers = agent | {"Idempotency-Key": str(uuid4())}
        return await site.post("/shipments/o1-S1/not-received", json={"detail": detail}, headers=headers)

    early = await say("where is it?")
    assert (early.status_code, "nothing of it is said to be delivered" in early.json()["detail"]) == (409, True)
    await scan(site, carrier="dhl", tracking="T1", code="delivered", occurred_at=NOON.isoformat())
    assert (await say("")).status_code == 422
    answer = await say("not in the letter box")
    assert answer.json()["shipments"][0]["waits_for"] == "the carrier's search"
    assert await units(pool, "o1") == {"in_transit": 1}
    row = await pool.fetchrow("SELECT actor, reason FROM events ORDER BY recorded_at DESC, sequence DESC LIMIT 1")
    assert tuple(row or ()) == ("agent:anna", "not in the letter box")


async def test_an_address_that_changes_holds_the_parcel_until_the_warehouse_says_that_it_has_its_label(
    pool: Pool, site: httpx.AsyncClient
) -> None:
    home = Address(name="Ada", street="Side 2", city="Kiel", postal_code="24103", country="DE")
    await stock(pool, "mug", "berlin", 1)
    await tell(pool, "o1", opened(mug=1), Plan(), Pack("o1-S1"), ChangeAddress(home, NOON))
    [shipment] = (await site.get("/orders/o1/fulfillment")).json()["shipments"]
    assert (shipment["status"], shipment["waits_for"]) == ("held", "a label of its new address")
    answer = await post(site, "/shipments/o1-S1/relabelled")
    assert answer.json()["shipments"][0]["status"] == "packed"


async def test_the_policies_can_be_read_and_never_changed(pool: Pool, site: httpx.AsyncClient) -> None:
    [policy] = (await site.get("/policies")).json()
    assert (policy["version"], policy["silence"]) == (1, "wait")
    with pytest.raises(asyncpg.RaiseError, match="never changes"):
        await pool.execute("UPDATE policies SET consent_hours = 1")


async def test_goods_may_be_announced_and_listed_page_by_page(pool: Pool, site: httpx.AsyncClient) -> None:
    for sku in ("mug", "pot", "tea"):
        answer = await post(
            site,
            "/stock/expectations",
            sku=sku,
            location="berlin",
            incoming=2,
            eta=(NOON + timedelta(days=9)).isoformat(),
        )
        assert answer.status_code == 201
    first = (await site.get("/stock", params={"limit": 2})).json()
    rest = (await site.get("/stock", params={"limit": 2, "after": first["next"]})).json()
    assert [shelf["sku"] for page in (first, rest) for shelf in page["shelves"]] == ["mug", "pot", "tea"]
    assert rest["next"] is None
    assert await tell(pool, "o1", opened(mug=1), Plan(), Fill(NOON)) == [None] * 3
    assert (await order(pool, "o1")).backorders["o1-B1"].eta == NOON + timedelta(days=9)
