"""The consumer under faults: what is read has its effect once, what cannot be read stops nobody, and a place that is
lost stops the process."""

import asyncio
import json
import os
import signal
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import NewPartitions, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.admin.records_to_delete import RecordsToDelete

from shared.messaging.parking import Record, waiting
from shared.runtime import FAILED
from tests.databases import AUTH_KEY
from tests.integration.delivery import ROOT, Bench, keys_by_partition, once, run, until
from tests.integration.tally import add, raw, record
from tests.proxy import Proxy

VERSION_9 = b"urn:order-workflows:order.hold_placed:9"
POISON: dict[str, tuple[bytes | None, dict[str, bytes | None], str]] = {
    "not JSON": (b"{nope", {}, "bad_data"),
    "not UTF-8": (b'{"order_id": "\xff\xfe"}', {}, "bad_data"),
    "empty": (b"", {}, "empty"),
    "null": (None, {}, "empty"),
    "a null header": (b"{}", {"ce_id": None}, "bad_header"),
    "a header that is not UTF-8": (b"{}", {"ce_source": b"\xff"}, "bad_header"),
    "an unknown version": (b"{}", {"ce_dataschema": VERSION_9}, "unknown_version"),
    "an unknown type": (b"{}", {"ce_type": b"order.exploded"}, "unknown_type"),
    "five megabytes": (b'{"order_id": "' + b"x" * 5_000_000 + b'"}', {}, "bad_data"),
    "ten thousand deep": (b"[" * 10_000 + b"]" * 10_000, {}, "too_deep"),
    "ten thousand deep beside a fact": (
        b'{"order_id": "a", "hold": "manual", "detail": "1", "more": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
        {},
        "too_deep",
    ),
    "not a number": (b'{"order_id": "a", "hold": "manual", "detail": "1", "more": NaN}', {}, "bad_data"),
    "a name twice": (b'{"order_id": "a", "order_id": "b", "hold": "manual", "detail": "1"}', {}, "bad_data"),
    "a name twice, further in": (
        b'{"order_id": "a", "hold": "manual", "detail": "1", "more": [{"x": 1, "x" : 2}]}',
        {},
        "bad_data",
    ),
}


async def parked(bench: Bench) -> dict[str, list[str]]:
    async with bench.pool.acquire() as db:
        found: dict[str, list[str]] = {}
        for w in await waiting(db):
            found.setdefault(w.key, []).append(w.reason)
        return found


async def test_poison_of_every_kind_parks_itself_and_its_keys_successors_only(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    resource = ConfigResource(ConfigResourceType.TOPIC, bench.topic, configs={"max.message.bytes": "8000000"})
    await bench.admin.alter_configs([resource])
    told: list[Record] = []
    reasons: dict[str, list[str]] = {}
    sound: dict[str, int] = {}
    for n, (value, headers, reason) in enumerate(POISON.values()):
        key, partition = f"poisoned-{n}", n % 3
        told += [
            record(key, 1, 0, partition=partition),
            record(f"sound-{n}", 1, 0, partition=partition),
            raw(key.encode(), value, 0, partition=partition, headers=headers),
            record(key, 2, 0, partition=partition),
            record(f"sound-{n}", 1, 0, partition=partition),
        ]
        reasons[key] = [reason, "behind"]
        sound |= {key: 1, f"sound-{n}": 2}
    # Without a key nothing can queue behind it.
    told += [raw(None, b"{nope", 0, partition=1), record("sound-0", 1, 0, partition=0)]
    await bench.produce(*told)
    app = bench.consuming(monkeypatch)
    async with app.router.lifespan_context(app):
        await bench.counts(sound | {"sound-0": 3})
        await bench.produce(record("poisoned-0", 3, 0), record("sound-1", 1, 0, partition=1))
        await bench.counts(sound | {"sound-0": 3, "sound-1": 3})

        async def last_is_parked() -> bool:
            return len((await parked(bench))["poisoned-0"]) == 3

        await until(last_is_parked)
        found = await parked(bench)
        without_key = {key: found.pop(key) for key in list(found) if key.startswith(bench.topic)}
        assert list(without_key.values()) == [["bad_data"]]
        assert found == reasons | {"poisoned-0": ["bad_data", "behind", "behind"]}
        assert await bench.pool.fetchval("SELECT value FROM parked WHERE length(value) > 5000000") is not None


async def test_several_keys_are_redriven_each_in_its_order(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message that is refused again stays the first of its key; what is sound behind it waits on."""
    app = bench.consuming(monkeypatch)
    async with app.router.lifespan_context(app):
        consumer = app.state.running.consumers[0]
        for key in ("a", "b", "c"):
            await bench.produce((key, 13), (key, "1 first"), (key, "2 second"))

        async def all_parked() -> bool:
            return bool(await bench.pool.fetchval("SELECT count(*) = 9 FROM parked WHERE status = 'open'"))

        await until(all_parked)
        # What was wrong with the first one of two keys is mended; the third's is as it was.
        await bench.pool.execute(
            "UPDATE parked SET value = convert_to(replace(convert_from(value, 'UTF8'), '\"13\"', '\"5 mended\"'), 'UTF8') "
            "WHERE key IN ('a', 'b')"
        )
        assert await consumer.redrive("c", "operator:op") == (0, 3)
        assert await consumer.redrive("a", "operator:op") == (3, 0)
        assert await consumer.redrive("b", "operator:op") == (3, 0)
        assert await bench.totals() == {"a": 8, "b": 8}
        states = [json.loads(row[0])["added"] for row in await bench.pool.fetch("SELECT state FROM states")]
        assert states == [["mended", "first", "second"]] * 2
        assert await parked(bench) == {"c": ["not_allowed", "behind", "behind"]}
        # And what comes later queues behind it still.
        await bench.produce(("c", 3), ("a", 1))
        await bench.counts({"a": 9, "b": 8})

        async def queued() -> bool:
            return await parked(bench) == {"c": ["not_allowed", "behind", "behind", "behind"]}

        await until(queued)


async def test_where_reading_goes_on_is_the_databases_word_and_survives_the_brokers(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The group's offsets are set back to the beginning and the claims are gone: nothing has a second effect."""
    await bench.produce(*[(f"o{n % 10}", 1) for n in range(200)])
    app = bench.consuming(monkeypatch)
    async with app.router.lifespan_context(app):
        await bench.counts(once((f"o{n}" for n in range(10)), 20))
    async with AIOKafkaConsumer(
        bootstrap_servers=bench.backends.kafka, group_id=bench.group, enable_auto_commit=False
    ) as group:
        places = [TopicPartition(bench.topic, n) for n in range(3)]
        group.assign(places)
        await group.commit(dict.fromkeys(places, 0))
    await bench.pool.execute("TRUNCATE inbox")
    await bench.produce(*[(f"o{n % 10}", 1) for n in range(50)])
    app = bench.consuming(monkeypatch)
    async with app.router.lifespan_context(app):
        await bench.counts(once((f"o{n}" for n in range(10)), 25))


async def test_facts_that_were_deleted_unread_stop_the_process_with_an_alarm(bench: Bench, tmp_path: Path) -> None:
    places = [TopicPartition(bench.topic, n) for n in range(3)]
    [[first, second], *_] = keys_by_partition(3, 2)
    await bench.produce(*[(first, 1)] * 20)
    # A new group may begin after what is no longer there.
    await bench.admin.delete_records({places[0]: RecordsToDelete(before_offset=5)})
    async with bench.process(tmp_path / "first.log") as reader:
        await bench.counts({first: 15})
        reader.signal(signal.SIGTERM)
        await reader.ended()
    await bench.produce(*[(second, 1)] * 20)
    await bench.admin.delete_records({places[0]: RecordsToDelete(before_offset=30)})
    async with bench.process(tmp_path / "second.log") as reader:
        assert await reader.ended() == FAILED
        [said] = reader.logged("part.failed")
    assert said["level"] == "critical"
    assert f"{bench.topic}/0 is to be read from 20 and holds 30 to 40" in said["error"]
    assert await bench.totals() == {first: 15}


async def test_a_topic_that_was_made_anew_stops_the_process_with_an_alarm(bench: Bench, tmp_path: Path) -> None:
    [[key], *_] = keys_by_partition(3, 1)
    await bench.produce(*[(key, 1)] * 20)
    async with bench.process(tmp_path / "first.log") as reader:
        await bench.counts({key: 20})
        reader.signal(signal.SIGTERM)
        await reader.ended()
    await bench.admin.delete_topics([bench.topic])

    async def is_there_again() -> bool:
        made = await bench.admin.create_topics([NewTopic(bench.topic, num_partitions=3, replication_factor=1)])
        return bool(made.topic_errors[0][1] == 0)

    await until(is_there_again)
    await bench.produce(*[(key, 1)] * 5)
    async with bench.process(tmp_path / "second.log") as reader:
        assert await reader.ended() == FAILED
        [said] = reader.logged("part.failed")
    assert f"{bench.topic}/0 is to be read from 20 and holds 0 to 5" in said["error"]
    assert await bench.totals() == {key: 20}


async def test_another_number_of_partitions_stops_the_process_with_an_alarm(bench: Bench, tmp_path: Path) -> None:
    await bench.produce(("a", 1))
    async with bench.process(tmp_path / "reader.log") as reader:
        await bench.counts({"a": 1})

        async def is_noted() -> bool:
            return bool(await bench.pool.fetchval("SELECT partitions = 3 FROM topics WHERE name = $1", bench.topic))

        await until(is_noted)
        await bench.admin.create_partitions({bench.topic: NewPartitions(total_count=4)})
        await bench.produce(record("new", 1, 0, partition=3))
        assert await reader.ended() == FAILED
        [said] = reader.logged("part.failed")
    assert "had 3 partitions and has 4" in said["error"]
    async with bench.process(tmp_path / "again.log") as reader:
        assert await reader.ended() == FAILED
    assert await bench.totals() == {"a": 1}


async def test_a_consumer_that_lags_and_does_nothing_ends_itself(bench: Bench, tmp_path: Path) -> None:
    await bench.produce(*[(f"o{n}", 1) for n in range(20)])
    async with bench.process(tmp_path / "reader.log", stuck_after_seconds=2) as reader:
        await bench.counts(once((f"o{n}" for n in range(20)), 1))
        await bench.produce(("o1", "1 hang"), ("o2", 1))
        assert await reader.ended() == FAILED
        [said] = reader.logged("part.failed")
    assert said["part"] == "watch"
    assert "lags and has attempted nothing" in said["error"]
    assert await bench.totals() == once((f"o{n}" for n in range(20)), 1)


async def test_a_stop_in_the_middle_of_a_long_batch_loses_and_doubles_nothing(bench: Bench, tmp_path: Path) -> None:
    await bench.produce(*[(f"o{n % 50}", "1 slow" if n == 0 else 1) for n in range(2000)])

    async def is_in_the_middle() -> bool:
        running = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%pg_sleep%'"
        return bool(await bench.pool.fetchval(f"{running} AND pid <> pg_backend_pid()"))

    async with bench.process(tmp_path / "first.log", batch_records=100) as reader:
        await until(is_in_the_middle)
        reader.signal(signal.SIGTERM)
        assert await reader.ended() == -signal.SIGTERM
        assert not reader.logged("part.abandoned")
    done = await bench.pool.fetchval("SELECT count(*) FROM inbox")
    assert 0 < done < 2000
    assert done == await bench.pool.fetchval("SELECT sum(next) FROM positions")
    async with bench.process(tmp_path / "second.log"):
        await bench.counts(once((f"o{n}" for n in range(50)), 40))


async def test_a_batch_slower_than_the_poll_interval_loses_and_doubles_nothing(bench: Bench, tmp_path: Path) -> None:
    await bench.produce(*[(f"o{n % 50}", "1 slow" if n in (10, 600) else 1) for n in range(1000)])
    async with AsyncExitStack() as stack:
        for name in ("one", "two"):
            await stack.enter_async_context(
                bench.process(tmp_path / f"{name}.log", max_poll_seconds=1, batch_records=100)
            )
        await bench.counts(once((f"o{n}" for n in range(50)), 20), 60)

        async def none_waits() -> bool:
            return await parked(bench) == {}

        await until(none_waits)  # what met a row that the slow batch held tells itself again


async def test_replicas_that_come_and_go_lose_and_double_nothing(bench: Bench, tmp_path: Path) -> None:
    """A storm of rebalances: replicas join, are killed, paused for longer than their session, and leave."""
    sent = 0

    async def send() -> None:
        nonlocal sent
        await bench.produce(*[(f"o{n}", 1) for n in range(50)])
        sent += 1

    async with AsyncExitStack() as stack:
        await stack.enter_async_context(bench.process(tmp_path / "stays.log", batch_records=20))
        for n, end in enumerate((signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP, signal.SIGKILL)):
            other = await stack.enter_async_context(bench.process(tmp_path / f"{n}.log", batch_records=20))
            await send()
            await other.logs("service.started")
            await send()
            other.signal(end)
            await send()
        await bench.counts(once((f"o{n}" for n in range(50)), sent), 60)
    assert await parked(bench) == {}


async def test_a_database_that_goes_silent_is_left_and_found_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Proxy.to_database(bench.dsn) as cable:
        through = cable.by_way_of(bench.dsn)
        app = bench.consuming(monkeypatch, database_url=through, statement_seconds=2)
        async with app.router.lifespan_context(app):
            await bench.produce(*[(f"o{n % 10}", 1) for n in range(100)])
            await bench.counts(once((f"o{n}" for n in range(10)), 10))
            cable.silence(new_ones=True)
            await bench.produce(*[(f"o{n % 10}", 1) for n in range(100)])
            consumer = app.state.running.consumers[0]

            async def is_failing() -> bool:
                return consumer.progress.failing_since is not None

            await until(is_failing)
            cable.resume()
            await bench.counts(once((f"o{n}" for n in range(10)), 20), 60)


async def test_a_broker_that_goes_silent_is_left_and_found_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    host, port = bench.backends.kafka.split(":")
    async with Proxy(host, int(port)) as cable:
        app = bench.consuming(monkeypatch)
        with monkeypatch.context() as wiring:
            cable.stands_between(wiring)
            async with app.router.lifespan_context(app):
                await bench.produce(*[(f"o{n % 10}", 1) for n in range(100)])
                await bench.counts(once((f"o{n}" for n in range(10)), 10))
                cable.silence(new_ones=False)
                await bench.produce(*[(f"o{n % 10}", 1) for n in range(100)])
                await bench.counts(once((f"o{n}" for n in range(10)), 20), 90)


async def test_a_list_of_brokers_is_a_list_for_the_consumer_and_the_relay(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    brokers = f"127.0.0.1:9, {bench.backends.kafka}"  # nothing listens on the first
    app = bench.consuming(monkeypatch, kafka=brokers)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(app.router.lifespan_context(app))
        await run(stack, bench.relay(kafka=brokers))
        await bench.commit(add("o1", 5))
        await until(bench.is_published)
        await bench.counts({"o1": 10})  # once as it was committed here, once as it was read


async def test_a_stop_while_the_broker_takes_no_offsets_ends_every_part_of_the_process(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    was_asked = asyncio.Event()

    async def never(*_: object) -> None:
        was_asked.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(AIOKafkaConsumer, "commit", never)
    monkeypatch.setattr("shared.messaging.consumer.COMMITS_WITHIN_SECONDS", 0.5)
    monkeypatch.setattr("shared.runtime.PARTS_STOP_WITHIN", 5.0)
    app = bench.consuming(monkeypatch)
    async with app.router.lifespan_context(app):
        await bench.produce(("o1", 1))
        await bench.counts({"o1": 1})
        await asyncio.wait_for(was_asked.wait(), 30)
    said = capsys.readouterr().out
    assert "service.stopped" in said
    assert "offset.not_committed" in said
    assert "part.abandoned" not in said


async def test_where_the_topics_end_is_not_known_before_a_slow_broker_has_let_the_consumer_begin(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    knows_the_topics, may_begin = asyncio.Event(), asyncio.Event()
    wait_topics = AIOKafkaConsumer._wait_topics

    async def slowly(client: AIOKafkaConsumer) -> None:
        await wait_topics(client)
        knows_the_topics.set()
        await may_begin.wait()

    monkeypatch.setattr(AIOKafkaConsumer, "_wait_topics", slowly)
    app = bench.consuming(monkeypatch)
    async with app.router.lifespan_context(app):
        consumer = app.state.running.consumers[0]
        await asyncio.wait_for(knows_the_topics.wait(), 30)
        assert await consumer.ends() is None
        may_begin.set()

        async def are_known() -> bool:
            return await consumer.ends() is not None

        await until(are_known)


@pytest.mark.parametrize("can_start", [True, False], ids=["one that runs", "one that cannot start"])
async def test_every_line_of_a_services_log_is_json(bench: Bench, tmp_path: Path, can_start: bool) -> None:
    log = tmp_path / "log"
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            *(
                sys.executable,
                "-m",
                "uvicorn",
                "--factory",
                "tests.integration.counting:from_environment",
                "--port",
                "0",
            ),
            cwd=ROOT,
            env=os.environ
            | {"TALLY_NAME": bench.group, "TALLY_READS": bench.topic, "OMS_LOG_LEVEL": "debug"}
            | {"OMS_DATABASE_URL": bench.dsn, "OMS_KAFKA": bench.backends.kafka}
            | {"OMS_AUTH_KEY": AUTH_KEY if can_start else "short"},
            stdout=out,
            stderr=out,
        )
    try:
        if can_start:
            await bench.produce(("o1", 1), ("o1", -1))
            await bench.counts({"o1": 1})
            process.terminate()
        async with asyncio.timeout(60):
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    lines = log.read_text(encoding="utf-8").splitlines()
    events = [json.loads(line)["event"] for line in lines]
    assert any("Started server process" in event for event in events)
    assert ("service.stopped" in events) is can_start
    assert "\x1b" not in log.read_text(encoding="utf-8")
