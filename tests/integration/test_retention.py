"""What is kept for how long, on a real PostgreSQL: what is over goes, everything else stays, and little lies dead."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

import asyncpg
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from fulfillment.app import app as fulfillment
from fulfillment.settings import FulfillmentSettings
from shared.contracts.orders import OrderHoldPlaced
from shared.messaging.consumer import Consumer
from shared.messaging.parking import settle, waiting
from shared.messaging.retention import BATCH, Retention, sizes
from shared.messaging.router import Route, Router
from tests.databases import AUTH_KEY
from tests.integration.counting import translate
from tests.integration.delivery import Bench, until
from tests.integration.tally import FLOW, add, record

NewDatabase = Callable[[str], Awaitable[str]]


def retention(bench: Bench, registry: CollectorRegistry) -> Retention:
    return Retention(bench.pool, "orders", bench.settings, registry)


async def age(bench: Bench, table: str, column: str, days: int) -> None:
    await bench.pool.execute(f"UPDATE {table} SET {column} = {column} - $1::interval", timedelta(days=days))


async def test_what_is_over_goes_in_batches_and_the_rest_stays(bench: Bench) -> None:
    await bench.commit(*(add(f"k{n}", 1) for n in range(BATCH * 2 + 500)))
    await bench.pool.execute(
        "INSERT INTO answers (scope, key, fingerprint) SELECT 'caller', n::text, '' FROM generate_series(1, 20) AS n"
    )
    await age(bench, "inbox", "claimed_at", 91)
    await age(bench, "answers", "created_at", 8)
    kept = add("kept", 1)
    await bench.commit(kept)
    await bench.pool.execute("INSERT INTO answers (scope, key, fingerprint) VALUES ('caller', 'kept', '')")
    registry = CollectorRegistry()
    gone = await retention(bench, registry).prune(asyncio.Event())
    assert gone == {"inbox": BATCH * 2 + 500, "answers": 20, "parked": 0, "withheld": 0}
    assert await bench.pool.fetchval("SELECT array_agg(id) FROM inbox") == [kept.cause.id]
    assert await bench.pool.fetchval("SELECT array_agg(key) FROM answers") == ["kept"]
    # The journal and the states are kept for ever.
    assert await bench.pool.fetchval("SELECT count(*) FROM events") == BATCH * 2 + 501
    assert await bench.pool.fetchval("SELECT count(*) FROM states") == BATCH * 2 + 501
    said = generate_latest(registry).decode()
    assert 'oms_pruned_rows_total{service="orders",table="inbox"} 2500.0' in said


async def test_what_is_parked_stays_until_it_is_settled_and_then_as_long_as_an_audit_may_ask(bench: Bench) -> None:
    route = Route(FLOW, {OrderHoldPlaced: translate})
    consumer = Consumer(bench.pool, Router([route]).process, bench.settings, "test", lambda: None)
    await consumer.process([record("a", 13, 0), record("b", 13, 1), record("c", 13, 2)])
    async with bench.pool.acquire() as db:
        by_key = {w.key: w.id for w in await waiting(db)}
        await settle(db, [by_key["b"], by_key["c"]], "discarded", "operator:op", "no use")
    await bench.pool.execute("UPDATE parked SET parked_at = now() - interval '5 years'")
    await bench.pool.execute("UPDATE parked SET settled_at = now() - interval '364 days' WHERE key = 'b'")
    await bench.pool.execute("UPDATE parked SET settled_at = now() - interval '366 days' WHERE key = 'c'")
    await retention(bench, CollectorRegistry()).prune(asyncio.Event())
    assert [row[0] for row in await bench.pool.fetch("SELECT key FROM parked ORDER BY key")] == ["a", "b"]


async def test_one_replica_prunes_at_a_time_and_none_waits_for_it(bench: Bench) -> None:
    await bench.commit(add("a", 1))
    await age(bench, "inbox", "claimed_at", 91)
    async with bench.pool.acquire() as other, other.transaction():
        await other.execute("SELECT pg_advisory_xact_lock(7236, 2)")
        gone = await retention(bench, CollectorRegistry()).prune(asyncio.Event())
        assert gone["inbox"] == 0
    gone = await retention(bench, CollectorRegistry()).prune(asyncio.Event())
    assert gone["inbox"] == 1


async def test_a_claim_that_was_pruned_is_out_of_a_topics_reach(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    await bench.produce(*[("a", 1)] * 10)
    app = bench.consuming(monkeypatch)
    async with app.router.lifespan_context(app):
        await bench.counts({"a": 10})
    await age(bench, "inbox", "claimed_at", 91)

    async def is_pruned() -> bool:
        return not await bench.pool.fetchval("SELECT count(*) FROM inbox")

    app = bench.consuming(monkeypatch)
    async with app.router.lifespan_context(app):
        await until(is_pruned)
        await bench.produce(("a", 1))
        await bench.counts({"a": 11})


async def test_scans_of_numbers_that_no_shipment_ever_had_go_after_a_while_and_what_failed_stays(
    new_database: NewDatabase,
) -> None:
    dsn = await new_database("fulfillment")
    settings = FulfillmentSettings.model_validate(
        {
            "database_url": dsn,
            "kafka": "none",
            "auth_key": AUTH_KEY,
            "carrier_webhook_secret": "whsec_dGhlIHNlY3JldCBvZiBhIHRlc3QgY2Fycmllci4=",
        }
    )
    async with asyncpg.create_pool(dsn, min_size=0) as pool:
        for tracking, days, error in (("strange", 91, None), ("recent", 89, None), ("failed", 91, "a fault of ours")):
            await pool.execute(
                """INSERT INTO unmatched_scans (carrier, tracking, code, occurred_at, detail, received_at, error)
                VALUES ('dhl', $1, 'delivered', now(), '', now() - $2::interval, $3)""",
                tracking,
                timedelta(days=days),
                error,
            )
        pruned = Retention(pool, "fulfillment", settings, CollectorRegistry(), fulfillment.state.retention)
        gone = await pruned.prune(asyncio.Event())
        kept = await pool.fetch("SELECT tracking FROM unmatched_scans ORDER BY tracking")
    assert gone["unmatched_scans"] == 1
    assert [row[0] for row in kept] == ["failed", "recent"]


async def test_dead_rows_are_measured_and_updated_states_leave_few_behind(bench: Bench) -> None:
    """A state is updated in place (HOT): its page has room, and no index names what changes. What such updates leave
    is cleared away by whoever reads the page next, without waiting for vacuum."""
    for _ in range(30):
        await bench.commit(*(add(f"k{n}", 1) for n in range(50)))

    async def counted() -> bool:
        await bench.pool.execute("SELECT pg_stat_force_next_flush()")
        changed = await bench.pool.fetchval("SELECT n_tup_upd FROM pg_stat_user_tables WHERE relname = 'states'")
        return bool(changed >= 29 * 50)

    await until(counted)
    row = await bench.pool.fetchrow(
        "SELECT n_tup_upd AS updated, n_tup_hot_upd AS in_place FROM pg_stat_user_tables WHERE relname = 'states'"
    )
    assert row is not None
    assert row["in_place"] > 0.8 * row["updated"]
    async with bench.pool.acquire() as db:
        by_table = {size.table: size for size in await sizes(db)}
    assert by_table["states"].dead < 0.5 * row["updated"]
    assert by_table["events"].dead == 0
    assert by_table["events"].bytes > by_table["states"].bytes > 0
