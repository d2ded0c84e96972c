"""The relay under faults: whatever is killed, paused or refused, a key's facts stand on the topic first in their order."""

import asyncio
import random
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from aiokafka.admin import NewPartitions
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from shared.messaging.relay import Pooled, Relay, release, withheld
from shared.messaging.topics import PartitionsChanged
from tests.integration.delivery import Bench, in_order, keys_by_partition, run, until
from tests.integration.tally import add
from tests.proxy import Proxy, as_a_pooler


async def limit(bench: Bench, size: int) -> None:
    """What the broker takes on the bench's topic, from now on."""
    resource = ConfigResource(ConfigResourceType.TOPIC, bench.topic, configs={"max.message.bytes": str(size)})
    await bench.admin.alter_configs([resource])


@asynccontextmanager
async def load(bench: Bench, keys: int = 20) -> AsyncIterator[None]:
    """Commits without a pause while it lasts, several at a time."""
    is_over = False

    async def commit(worker: int) -> None:
        amount = 0
        while not is_over:
            amount += 1
            await bench.commit(*(add(f"k{(worker * 7 + n) % keys}", 1) for n in range(10)))
            await asyncio.sleep(0.01)

    async with asyncio.TaskGroup() as workers:
        for worker in range(3):
            workers.create_task(commit(worker))
        try:
            yield
        finally:
            is_over = True


async def everything_arrived_in_order(bench: Bench) -> None:
    await until(bench.is_published, 60)
    told = await bench.sequences()
    assert told == await bench.journal()
    assert all(map(in_order, told.values()))
    assert told


async def leads(relay: Relay) -> bool:
    return relay.progress.is_leader


async def test_what_is_too_large_for_the_broker_withholds_its_key_until_it_is_released(bench: Bench) -> None:
    [[large, small], *_] = keys_by_partition(3, 2)
    await limit(bench, 1500)
    await bench.commit(
        add(large, 1), add(small, 1), add(large, 2, "x" * 1900), *(add(small, 1) for _ in range(50)), add(large, 3)
    )
    async with AsyncExitStack() as stack:
        await run(stack, bench.relay())

        async def is_withheld() -> bool:
            return bool(
                await bench.pool.fetchval(
                    "SELECT count(*) = 1 FROM withheld WHERE subject = $1 AND released_at IS NULL", large
                )
            )

        async def only_its_facts_are_left() -> bool:
            return bool(await bench.pool.fetchval("SELECT count(*) = 3 FROM outbox"))

        await until(is_withheld)
        await bench.commit(add(large, 4), add(small, 3))
        await until(only_its_facts_are_left)
        assert await bench.sequences() == {large: [1], small: list(range(1, 53))}
        async with bench.pool.acquire() as db:
            [key] = await withheld(db)
            assert (key.key, key.facts, key.reason) == (large, 3, "too_large")
            # Released while the broker is as it was: withheld again, and nothing is lost or overtaken.
            assert await release(db, large, "operator:op")
            await until(is_withheld)
            assert await bench.sequences() == {large: [1], small: list(range(1, 53))}
            await limit(bench, 1_000_000)
            assert await release(db, large, "operator:op")
            assert not await release(db, small, "operator:op")
        await until(bench.is_published)
    assert await bench.sequences() == {large: [1, 2, 3, 4], small: list(range(1, 53))}


async def test_three_relays_at_once_and_leaders_that_lose_their_connections(bench: Bench) -> None:
    relays = [bench.relay() for _ in range(3)]
    chance = random.Random(4)
    async with AsyncExitStack() as stack:
        for relay in relays:
            await run(stack, relay)
        async with load(bench):
            for _ in range(6):
                await asyncio.sleep(chance.uniform(0.1, 0.8))  # the moment is what is tried out, not waited for
                assert sum(relay.progress.is_leader for relay in relays) <= 1
                await bench.end_leader()

                async def one_leads() -> bool:
                    return any(relay.progress.is_leader for relay in relays)

                await until(one_leads)
        await everything_arrived_in_order(bench)


@pytest.mark.parametrize("session", ["ended by somebody", "ended by the server, for its silence"])
async def test_a_paused_leader_that_wakes_after_another_took_over_overtakes_nothing(
    bench: Bench, tmp_path: Path, session: str
) -> None:
    for n in range(3 if session == "ended by somebody" else 1):
        async with bench.process(tmp_path / f"{n}.log", reads=False) as first, AsyncExitStack() as stack:
            await first.logs("relay.leads")
            second = bench.relay()
            async with load(bench):
                await asyncio.sleep(0.3 + n / 10)  # in full flow
                first.signal(signal.SIGSTOP)
                await run(stack, second)
                if session == "ended by somebody":
                    await bench.end_leader()
                await until(lambda: leads(second), 60)  # noqa: B023
                published = second.progress.published

                async def has_gone_on() -> bool:
                    return second.progress.published > published + 100  # noqa: B023

                await until(has_gone_on)
                first.signal(signal.SIGCONT)
                await first.logs("relay.restarted")
            await everything_arrived_in_order(bench)


async def test_killed_between_acknowledgement_and_delete_it_publishes_again_and_nothing_is_overtaken(
    bench: Bench, tmp_path: Path
) -> None:
    await bench.commit(*(add(f"k{n % 5}", 1) for n in range(100)))
    # Deleting waits for a lock that the test holds: the acknowledgement has come by then.
    await bench.pool.execute(
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM pg_advisory_xact_lock_shared(42); RETURN OLD; END $$; "
        "CREATE TRIGGER wait BEFORE DELETE ON outbox FOR EACH ROW EXECUTE FUNCTION wait()"
    )
    async with bench.pool.acquire() as holder:
        await holder.execute("SELECT pg_advisory_lock(42)")
        async with bench.process(tmp_path / "relay.log", reads=False) as killed:

            async def deletes() -> bool:
                found = await bench.pool.fetchval(
                    "SELECT pid FROM pg_stat_activity WHERE datname = current_database() "
                    "AND query LIKE 'DELETE FROM outbox%' AND wait_event_type = 'Lock'"
                )
                return found is not None

            await until(deletes)
            killed.signal(signal.SIGKILL)
            await killed.ended()
        await bench.end_leader()
        await holder.execute("SELECT pg_advisory_unlock(42)")
    assert await bench.pool.fetchval("SELECT count(*) FROM outbox") == 100
    assert len(await bench.read()) == 100
    async with AsyncExitStack() as stack:
        await run(stack, bench.relay())
        await everything_arrived_in_order(bench)
    assert len(await bench.read()) == 200


async def test_a_pooler_in_front_of_it_is_refused_in_words(bench: Bench) -> None:
    async with Proxy.to_database(bench.dsn, answers=as_a_pooler) as pooler:
        pooled = pooler.by_way_of(bench.dsn)
        with pytest.raises(Pooled, match="OMS_DATABASE_DIRECT_URL"):
            await asyncio.wait_for(bench.relay(database_url=pooled).run(asyncio.Event()), 30)
        # Only the relay needs a connection of its own.
        await bench.commit(add("a", 1))
        async with AsyncExitStack() as stack:
            await run(stack, bench.relay(database_url=pooled, database_direct_url=bench.dsn))
            await everything_arrived_in_order(bench)


async def test_another_number_of_partitions_stops_it_before_a_key_moves(bench: Bench) -> None:
    stop = asyncio.Event()
    running = asyncio.create_task(bench.relay().run(stop))
    await bench.commit(*(add(f"k{n}", 1) for n in range(20)))
    await until(bench.is_published)
    await bench.admin.create_partitions({bench.topic: NewPartitions(total_count=4)})
    with pytest.raises(PartitionsChanged, match="had 3 partitions and has 4"):
        await asyncio.wait_for(running, 60)
    await bench.commit(*(add(f"k{n}", 1) for n in range(20)))
    with pytest.raises(PartitionsChanged):
        await asyncio.wait_for(bench.relay().run(stop), 30)
    assert {each.partition for each in await bench.read()} == {0, 1, 2}


async def test_a_database_that_goes_silent_is_left_and_found_again(bench: Bench) -> None:
    async with Proxy.to_database(bench.dsn) as cable, AsyncExitStack() as stack:
        through = cable.by_way_of(bench.dsn)
        await run(stack, bench.relay(database_url=through))
        await bench.commit(add("a", 1))
        await until(bench.is_published)
        cable.silence(new_ones=False)
        await bench.commit(add("a", 2))
        await until(bench.is_published, 60)
        await everything_arrived_in_order(bench)


async def test_a_broker_that_goes_silent_is_left_and_found_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    host, port = bench.backends.kafka.split(":")
    async with Proxy(host, int(port)) as cable, AsyncExitStack() as stack:
        cable.stands_between(monkeypatch)
        await run(stack, bench.relay())
        await bench.commit(add("a", 1))
        await until(bench.is_published)
        cable.silence(new_ones=False)
        await bench.commit(add("a", 2))
        await until(bench.is_published, 60)
        assert await bench.sequences() == {"a": [1, 2]}


async def test_a_fact_of_a_newer_image_is_published_after_a_rollback_as_it_was_written(bench: Bench) -> None:
    await bench.commit(add("o1", 1), add("o2", 1))
    newer = (
        "SELECT 'order.exploded' AS type, 3 AS schema_version, 'o1' AS subject, 2 AS sequence, gen_random_uuid() AS id"
    )
    await bench.pool.execute(
        f"""WITH newer AS ({newer}), told AS (
            INSERT INTO events (id, subject, sequence, type, schema_version, data, occurred_at, actor, reason,
                correlation_id, chain)
            SELECT id, subject, sequence, type, schema_version, '{{}}', now(), 'a', 'b', 'c', '' FROM newer)
        INSERT INTO outbox (event_id) SELECT id FROM newer"""
    )
    async with AsyncExitStack() as stack:
        await run(stack, bench.relay())
        await until(bench.is_published)
    schemas = {dict(each.headers)["ce_dataschema"] for each in await bench.read()}
    assert schemas == {b"urn:order-workflows:order.hold_placed:1", b"urn:order-workflows:order.exploded:3"}
