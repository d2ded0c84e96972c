"""The embedded backends are the real ones: they take and give data, and keep it through `kill -9`."""

import asyncio
import contextlib
import os
import signal
from pathlib import Path

import asyncpg
import psutil
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from ops.embedded import Embedded, embedded, throwaway
from ops.paths import Ports
from ops.supervision import Process

TOPIC = "stories.events"
RESTART_S = 60.0

pytestmark = pytest.mark.timeout(180)


async def create_topic(kafka: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        answer = await admin.create_topics([NewTopic(name=TOPIC, num_partitions=1, replication_factor=1)])
    finally:
        await admin.close()
    assert [(topic, code) for topic, code, *_ in answer.topic_errors] == [(TOPIC, 0)]


async def produce(kafka: str, *values: bytes) -> None:
    async with AIOKafkaProducer(bootstrap_servers=kafka, acks="all", enable_idempotence=True) as producer:
        for value in values:
            await producer.send_and_wait(TOPIC, value)


async def consume(kafka: str, count: int) -> list[bytes | None]:
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka, auto_offset_reset="earliest", enable_auto_commit=False)
    consumer.assign([TopicPartition(TOPIC, 0)])
    async with consumer, asyncio.timeout(RESTART_S):
        return [(await consumer.getone()).value for _ in range(count)]


async def kill(process: Process) -> None:
    """`kill -9`, then wait until supervision has put another one in its place."""
    killed = process.pid
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    async with asyncio.timeout(RESTART_S):
        while process.pid in (None, killed):  # noqa: ASYNC110 -- a process id changes without telling
            await asyncio.sleep(0.01)
    await process.ready(within=RESTART_S)


async def ask(postgres: str, query: str) -> list[tuple[object, ...]]:
    connection = await asyncpg.connect(postgres)
    try:
        return [tuple(row) for row in await connection.fetch(query)]
    finally:
        await connection.close()


def pids(backends: Embedded) -> list[int]:
    return [pid for pid in (backends.kafka_process.pid, backends.postgres_process.pid) if pid is not None]


async def test_facts_and_rows_survive_kill_minus_9_and_nothing_runs_afterwards() -> None:
    async with throwaway() as backends:
        await create_topic(backends.kafka)
        await produce(backends.kafka, b"placed", b"confirmed")
        await ask(backends.postgres, "CREATE TABLE kept AS SELECT 'before' AS word")

        await asyncio.gather(kill(backends.kafka_process), kill(backends.postgres_process))

        await produce(backends.kafka, b"completed")
        assert await consume(backends.kafka, 3) == [b"placed", b"confirmed", b"completed"]
        assert await ask(backends.postgres, "SELECT word FROM kept") == [("before",)]
        running = pids(backends)
        assert len(running) == 2
    assert not [pid for pid in running if psutil.pid_exists(pid)]


async def test_a_second_start_finds_what_the_first_one_stored(tmp_path: Path) -> None:
    def start() -> contextlib.AbstractAsyncContextManager[Embedded]:
        return embedded(tmp_path / "state", logs=tmp_path / "log", ports=Ports(auto=True))

    async with start() as backends:
        await create_topic(backends.kafka)
        await produce(backends.kafka, b"placed")
        await ask(backends.postgres, "CREATE DATABASE orders")
    async with start() as backends:
        assert await consume(backends.kafka, 1) == [b"placed"]
        assert await ask(backends.postgres, "SELECT 1 FROM pg_database WHERE datname = 'orders'") == [(1,)]
        settings = (
            "SELECT current_setting('fsync'), current_setting('max_connections'), current_setting('server_version')"
        )
        ((fsync, connections, version),) = await ask(backends.postgres, settings)
        assert (fsync, connections, str(version).split(".")[0]) == ("on", "200", "18")

        forged = backends.postgres.replace("postgres:", "postgres:not-", 1)
        with pytest.raises(asyncpg.InvalidPasswordError):
            await ask(forged, "SELECT 1")
