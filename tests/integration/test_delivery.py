"""Relay and consumer on real Kafka and PostgreSQL: every committed fact arrives, in order, and has one effect."""

import json
from contextlib import AsyncExitStack

import asyncpg
import pytest

from shared.messaging.relay import Relay
from tests.integration.delivery import Bench, once, run, until
from tests.integration.tally import add


async def test_a_key_keeps_its_order_and_every_header_is_there(bench: Bench) -> None:
    for n in range(100, 299):
        await bench.commit(add(f"o{n % 7}", n))
    async with AsyncExitStack() as stack:
        await run(stack, bench.relay())
        await until(bench.is_published)
    records = await bench.read()
    by_key: dict[bytes, list[int]] = {}
    for r in records:
        headers = dict(r.headers)
        by_key.setdefault(r.key, []).append(int(headers["ce_sequence"]))
        assert headers["ce_type"] == b"order.hold_placed"
        assert headers["ce_source"].decode() == f"urn:order-workflows:{bench.service}"
        assert headers["ce_actor"] == b"agent:test"
        assert json.loads(r.value)["order_id"].encode() == r.key == headers["ce_subject"]
    assert len(records) == 199
    assert len(by_key) == 7
    for sequences in by_key.values():
        assert sequences == list(range(1, len(sequences) + 1))


async def test_what_was_acknowledged_but_not_deleted_is_published_again_and_has_one_effect(bench: Bench) -> None:
    await bench.commit(add("a", 1), add("a", 2))
    rows = await bench.pool.fetch("SELECT event_id FROM outbox ORDER BY position")
    async with AsyncExitStack() as stack:
        await run(stack, bench.relay())
        await until(bench.is_published)
    # The crash between acknowledgement and delete: the ids are still there when the next leader starts.
    await bench.pool.executemany("INSERT INTO outbox (event_id) VALUES ($1)", rows)
    async with AsyncExitStack() as stack:
        await run(stack, bench.relay())
        await until(bench.is_published)
    records = await bench.read()
    assert [dict(r.headers)["ce_sequence"] for r in records] == [b"1", b"2", b"1", b"2"]
    assert len({dict(r.headers)["ce_id"] for r in records}) == 2


async def test_one_relay_leads_and_another_takes_over_when_its_connection_dies(bench: Bench) -> None:
    first, second = bench.relay(), bench.relay()

    async def leads(relay: Relay) -> bool:
        return relay.progress.is_leader

    async with AsyncExitStack() as stack:
        stop_first = await run(stack, first)
        await until(lambda: leads(first))
        await run(stack, second)
        await bench.commit(add("a", 1))
        await until(bench.is_published)
        assert not second.progress.is_leader
        stop_first.set()
        await bench.end_leader()
        await until(lambda: leads(second))
        assert not first.progress.is_leader
        await bench.commit(add("a", 2))
        await until(bench.is_published)
    assert await bench.sequences() == {"a": [1, 2]}


async def test_a_new_group_sees_the_past_and_poison_stops_nobody(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    await bench.produce(*[(f"o{n % 10}", 1) for n in range(500)], ("bad", 13), ("o1", 5), ("bad", 1))
    app = bench.consuming(monkeypatch)
    async with app.router.lifespan_context(app):
        await bench.counts({f"o{n}": 50 for n in range(10)} | {"o1": 55})

        async def all_parked() -> bool:
            return bool(await bench.pool.fetchval("SELECT count(*) FROM parked") == 2)

        await until(all_parked)


async def test_an_outage_of_the_database_is_waited_out_and_loses_and_doubles_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = bench.consuming(monkeypatch)
    name = bench.dsn.rpartition("/")[2]
    async with app.router.lifespan_context(app):
        admin = await asyncpg.connect(bench.backends.postgres)
        try:
            await bench.produce(*[(f"o{n % 50}", 1) for n in range(1000)])
            await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
            await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
            await bench.produce(*[(f"o{n % 50}", 1) for n in range(1000)])
            consumer = app.state.running.consumers[0]

            async def is_failing() -> bool:
                return consumer.progress.failing_since is not None

            await until(is_failing)
        finally:
            await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
            await admin.close()
        await bench.counts(once((f"o{n}" for n in range(50)), 40))


async def test_lag_is_counted_per_partition_and_falls_to_zero(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    await bench.produce(*[(f"o{n}", 1) for n in range(30)])
    app = bench.consuming(monkeypatch)
    async with app.router.lifespan_context(app):
        consumer = app.state.running.consumers[0]

        async def no_lag() -> bool:
            lag = await consumer.lag()
            return len(lag) == 3 and all(behind == 0 for behind, _ in lag.values())

        await until(no_lag)
    assert sum((await bench.totals()).values()) == 30
