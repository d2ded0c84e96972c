"""Outbox to topic: one leader per service publishes in position order and deletes after the broker's acknowledgement.

Leadership is a session advisory lock on the same direct connection that reads and deletes, so a leader that loses its
connection loses both at once. What was acknowledged but not deleted is published again, in order; consumers claim ids.
"""

import asyncio
import time
from dataclasses import dataclass

import asyncpg
import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from shared.contracts.base import FACTS, schema_id
from shared.database import OUTAGES
from shared.envelope import source_of
from shared.settings import Settings

log = structlog.get_logger()

LEAD = "SELECT pg_try_advisory_lock(7236, 1)"
STILL_LEADING = """
SELECT EXISTS (SELECT FROM pg_locks
WHERE locktype = 'advisory' AND classid = 7236 AND objid = 1 AND objsubid = 2 AND pid = pg_backend_pid())"""
NEXT = """
SELECT position, subject, id::text, type, schema_version, data::text, occurred_at, sequence, actor, reason,
       correlation_id, causation_id, traceparent
FROM (SELECT position, event_id FROM outbox ORDER BY position LIMIT $1) AS unpublished
JOIN events ON id = event_id ORDER BY position"""
DELETE = "DELETE FROM outbox WHERE position = ANY($1::bigint[])"

BATCH = 1000


@dataclass(slots=True)
class RelayProgress:
    is_leader: bool = False
    published: int = 0
    failing_since: float | None = None


class Relay:
    """Runs in every replica; publishes in one."""

    def __init__(self, settings: Settings, service: str, topic: str | None = None) -> None:
        """`topic` is `<service>.events` unless said otherwise."""
        self.progress = RelayProgress()
        self._settings = settings
        self._topic = topic or f"{service}.events"
        self._source = source_of(service).encode()
        self._schemas = {t: schema_id(fact).encode() for t, fact in FACTS.items()}
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Something was committed here: publish now rather than at the next poll."""
        self._woken.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Lead when possible, until stopped. A lost connection, database or broker means starting over."""
        failures = 0
        while not stop.is_set():
            try:
                await self._lead(stop)
                failures = 0
            except (*OUTAGES, KafkaError) as error:
                failures += 1
                self.progress.failing_since = self.progress.failing_since or time.monotonic()
                pause = min(5.0, 0.1 * 2 ** min(failures, 6))
                log.warning("relay.restarted", error=repr(error), pause_seconds=pause)
                await _sleep(stop, pause)
            finally:
                self.progress.is_leader = False

    async def _lead(self, stop: asyncio.Event) -> None:
        db = await asyncpg.connect(self._settings.direct_url, timeout=5, command_timeout=30)
        producer = None
        try:
            while not await db.fetchval(LEAD):
                self.progress.failing_since = None
                if await _sleep(stop, 1.0):
                    return
            if not await db.fetchval(STILL_LEADING):
                raise RuntimeError(
                    "the relay's lock is not on its own connection: it is behind a transaction pooler; "
                    "set OMS_DATABASE_DIRECT_URL to the database itself"
                )
            # A new producer per leadership: an idempotent one can stick on an out-of-sequence error.
            producer = AIOKafkaProducer(
                bootstrap_servers=self._settings.kafka,
                enable_idempotence=True,
                acks="all",
                linger_ms=1,
                max_batch_size=256 * 1024,
                request_timeout_ms=15_000,
            )
            await producer.start()
            self.progress.is_leader = True
            log.info("relay.leads", topic=self._topic)
            idle = 0.005
            while not stop.is_set():
                self._woken.clear()
                published = await self._publish(db, producer)
                self.progress.failing_since = None
                if published:
                    idle = 0.005
                    continue
                await self._wait(stop, idle)
                idle = min(0.1, idle * 2)
        finally:
            self.progress.is_leader = False
            if producer is not None:
                await producer.stop()
            await db.close(timeout=2)

    async def _publish(self, db: "asyncpg.Connection[asyncpg.Record]", producer: AIOKafkaProducer) -> int:
        """One batch: send all, await all, delete what was acknowledged; raise if one was not, after deleting the rest
        that precede it per key."""
        rows = await db.fetch(NEXT, BATCH)
        if not rows:
            return 0
        sends = [
            await producer.send(self._topic, row["data"].encode(), row["subject"].encode(), headers=self._headers(row))
            for row in rows
        ]
        results = await asyncio.gather(*sends, return_exceptions=True)
        failed_keys: set[str] = set()
        done: list[int] = []
        failure: BaseException | None = None
        for row, result in zip(rows, results, strict=True):
            if isinstance(result, BaseException):
                failure = result
                failed_keys.add(row["subject"])
            elif row["subject"] not in failed_keys:
                done.append(row["position"])
        await db.execute(DELETE, done)
        self.progress.published += len(done)
        if failure is not None:
            raise failure
        return len(done)

    def _headers(self, row: asyncpg.Record) -> list[tuple[str, bytes]]:
        headers = [
            ("ce_specversion", b"1.0"),
            ("ce_id", row["id"].encode()),
            ("ce_source", self._source),
            ("ce_type", row["type"].encode()),
            ("ce_subject", row["subject"].encode()),
            ("ce_time", row["occurred_at"].isoformat().encode()),
            ("ce_sequence", str(row["sequence"]).encode()),
            ("ce_dataschema", self._schemas[row["type"]]),
            ("ce_correlationid", row["correlation_id"].encode()),
            ("ce_actor", row["actor"].encode()),
            ("ce_reason", row["reason"].encode()),
            ("content-type", b"application/json"),
        ]
        if row["causation_id"]:
            headers.append(("ce_causationid", row["causation_id"].encode()))
        if row["traceparent"]:
            headers.append(("traceparent", row["traceparent"].encode()))
        return headers

    async def _wait(self, stop: asyncio.Event, seconds: float) -> None:
        """Until woken, or the poll is due: what another replica committed wakes nobody here."""
        if self._woken.is_set() or stop.is_set():
            return
        try:
            await asyncio.wait_for(self._woken.wait(), seconds)
        except TimeoutError:
            return


async def _sleep(stop: asyncio.Event, seconds: float) -> bool:
    """Whether it was stopped meanwhile."""
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return False
    return True
