"""The relay publishes the outbox: one leader per service sends in position order and deletes after the broker's
acknowledgement.

Leadership is a session advisory lock on the same direct connection that reads and deletes, so a leader that loses its
connection loses both at once. What was acknowledged but not deleted is published again, in order; consumers claim ids. A fact
that the broker finds too large is withheld with all that follows it under its key; the other keys go on.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import asyncpg
import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, ProducerClosed, RecordListTooLargeError
from aiokafka.partitioner import DefaultPartitioner

from shared.contracts.base import SCHEMAS
from shared.messaging.database import OUTAGES
from shared.messaging.envelope import source_of
from shared.messaging.shell import Db, linger
from shared.messaging.topics import note_partitions
from shared.settings import Settings

if TYPE_CHECKING:
    from shared.web.tracing import Tracing

log = structlog.get_logger()

LEAD = "SELECT pg_try_advisory_lock(7236, 1)"
# Simple protocol, since a pooler may lose prepared statements: whoever is between us and the server shows another pid.
ASSERT_DIRECT = "DO $$ BEGIN ASSERT pg_backend_pid() = {pid}; END $$"
# A leader that is paused, or whose machine is gone, must not keep the lock: the server ends a session that is silent
# for longer than a round may take, or whose packets nobody acknowledges.
LEASE = """
SET idle_session_timeout = '30s'; SET tcp_user_timeout = '20s';
SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3"""
NEXT = """
SELECT position, subject, id::text, type, schema_version, data::text, occurred_at, sequence, actor, reason,
       correlation_id, causation_id, traceparent
FROM outbox JOIN events ON id = event_id
WHERE NOT EXISTS (SELECT FROM withheld WHERE withheld.subject = events.subject AND released_at IS NULL)
ORDER BY position LIMIT $1"""
DELETE = "DELETE FROM outbox WHERE position = ANY($1::bigint[])"
WITHHOLD = """
INSERT INTO withheld (subject, event_id, reason, detail) VALUES ($1, $2::text::uuid, 'too_large', $3)
ON CONFLICT (subject) WHERE released_at IS NULL DO NOTHING"""

BATCH: Final = 1000
BATCH_BYTES: Final = 256 * 1024
POLL_SECONDS: Final = (0.02, 0.1)
"""How soon after something was published it looks again without being woken, and how rarely in the end: each look that
finds nothing is a round trip."""
ROUND_SECONDS: Final = 20.0
"""How long a round's acknowledgements are waited for; then another producer tries. Shorter than the lease."""

TOO_LARGE: Final = (MessageSizeTooLargeError, RecordListTooLargeError)

_choose = DefaultPartitioner()


class Pooled(Exception):
    """It is raised where the relay's connection is not its own; the text says what to set."""


@dataclass(slots=True)
class RelayProgress:
    is_leader: bool = False
    published: int = 0
    failing_since: float | None = None


@dataclass(slots=True)
class _Round:
    """A round says what became of the rows of one read. Nothing is sent after a failure in the same partition: a later fact
    of a key must not be on the topic before an earlier one."""

    acknowledged: list[int] = field(default_factory=list)
    too_large: list[asyncpg.Record] = field(default_factory=list)
    too_many: bool = False
    failure: BaseException | None = None


class Relay:
    """The relay runs in every replica and publishes in one."""

    def __init__(
        self, settings: Settings, service: str, topic: str | None = None, tracing: "Tracing | None" = None
    ) -> None:
        """`topic` is `<service>.events` unless said otherwise."""
        self.progress = RelayProgress()
        self._settings = settings
        self._topic = topic or f"{service}.events"
        self._source = source_of(service).encode()
        self._notified = asyncio.Event()
        self._tracing = tracing
        self._continued: Mapping[str, str] = {}

    def wake(self) -> None:
        """Publish now rather than at the next poll, since something was committed here."""
        self._notified.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Lead when possible, until stopped. A lost connection, database or broker means starting over. Raises Pooled
        and PartitionsChanged."""
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
                await stopped_within(stop, pause)
            finally:
                self.progress.is_leader = False

    async def _lead(self, stop: asyncio.Event) -> None:
        db = await asyncpg.connect(
            self._settings.direct_url, timeout=5, command_timeout=15, max_cached_statement_lifetime=0
        )
        try:
            try:
                await db.execute(ASSERT_DIRECT.format(pid=db.get_server_pid()))
            except asyncpg.AssertError:
                raise Pooled(
                    "the relay's connection goes through a pooler, and its lock would not be its own: "
                    "set OMS_DATABASE_DIRECT_URL to the database itself"
                ) from None
            await db.execute(LEASE)
            # Prepared before there is a lock to lose: a session whose client falls silent between preparing and
            # executing counts as busy, and is not ended.
            await db.fetch(NEXT, 0)
            await db.execute(DELETE, [])
            while not await db.fetchval(LEAD):
                self.progress.failing_since = None
                if await stopped_within(stop, 1.0):
                    return
            batch_bytes = BATCH_BYTES
            while not stop.is_set():
                # A new producer per leadership and after every refusal: an idempotent one sticks on the gap in its
                # sequence that a refused batch leaves.
                async with self._producer(batch_bytes) as producer:
                    refused = await self._publish_until_refused(db, producer, stop)
                if refused is not None and refused.too_many:
                    batch_bytes //= 2
        finally:
            self.progress.is_leader = False
            await db.close(timeout=2)

    @asynccontextmanager
    async def _producer(self, batch_bytes: int) -> AsyncIterator[AIOKafkaProducer]:
        producer = AIOKafkaProducer(
            bootstrap_servers=self._settings.brokers,
            enable_idempotence=True,
            acks="all",
            max_batch_size=batch_bytes,
            request_timeout_ms=10_000,
            metadata_max_age_ms=10_000,
        )
        try:
            await producer.start()
            yield producer
        finally:
            # `stop` waits for what is unsent, and while the broker is away it would for ever.
            sender, unsent = producer._sender, producer._message_accumulator  # noqa: SLF001
            try:
                async with asyncio.timeout(15):
                    await sender.close()
            finally:
                unsent.fail_all(ProducerClosed())
                await producer.stop()

    async def _publish_until_refused(
        self, db: "asyncpg.Connection[asyncpg.Record]", producer: AIOKafkaProducer, stop: asyncio.Event
    ) -> _Round | None:
        """Publish until the broker refuses something for its size, and return that round; None when stopped."""
        if not self.progress.is_leader:
            self.progress.is_leader = True
            log.info("relay.leads", topic=self._topic)
        partitions = 0
        idle, longest = POLL_SECONDS
        while not stop.is_set():
            self._notified.clear()
            if (count := len(await producer.partitions_for(self._topic))) != partitions:
                await note_partitions(db, {self._topic: count})
                partitions = count
            rows = await db.fetch(NEXT, BATCH)
            if not rows:
                self.progress.failing_since = None
                await self._wait(stop, idle)
                idle = min(longest, idle * 2)
                continue
            idle, began = POLL_SECONDS[0], time.perf_counter()
            done = await self._publish(producer, rows, partitions)
            await db.execute(DELETE, done.acknowledged)
            self.progress.published += len(done.acknowledged)
            for row in done.too_large:
                detail = f"{row['type']} {row['id']}: the broker refused its {len(row['data'].encode())} bytes"
                await db.execute(WITHHOLD, row["subject"], row["id"], detail)
                log.error("key.withheld", key=row["subject"], topic=self._topic, detail=detail)
            if done.failure is not None:
                raise done.failure
            self.progress.failing_since = None
            if done.too_large or done.too_many:
                return done
            if len(rows) < BATCH:
                await linger(len(rows), time.perf_counter() - began)
                await self._wait(stop, idle)
        return None

    async def _publish(self, producer: AIOKafkaProducer, rows: Sequence[asyncpg.Record], partitions: int) -> _Round:
        """Publish each partition's rows in order, the partitions side by side."""
        placed: dict[int, list[asyncpg.Record]] = {}
        for row in rows:
            placed.setdefault(_partition(row["subject"], partitions), []).append(row)
        done = _Round()
        spans: AbstractContextManager[Mapping[str, str]] = nullcontext({})
        if self._tracing is not None:
            spans = self._tracing.publishing(self._topic, rows)
        with spans as self._continued:
            async with asyncio.timeout(ROUND_SECONDS):
                await asyncio.gather(*(self._send(producer, place, each, done) for place, each in placed.items()))
        return done

    async def _send(
        self, producer: AIOKafkaProducer, partition: int, rows: Sequence[asyncpg.Record], done: _Round
    ) -> None:
        sent = 0
        while sent < len(rows):
            batch = producer.create_batch()
            first = sent
            # A batch takes its first fact whatever its size.
            while sent < len(rows) and batch.append(
                timestamp=None,
                key=rows[sent]["subject"].encode(),
                value=rows[sent]["data"].encode(),
                headers=self._headers(rows[sent]),
            ):
                sent += 1
            batch.close()
            try:
                await (await producer.send_batch(batch, self._topic, partition=partition))
            except TOO_LARGE:
                if sent - first > 1:
                    done.too_many = True
                else:
                    done.too_large.append(rows[first])
                return
            except KafkaError as error:
                done.failure = error
                return
            done.acknowledged += [row["position"] for row in rows[first:sent]]

    def _headers(self, row: asyncpg.Record) -> list[tuple[str, bytes]]:
        headers = [
            ("ce_specversion", b"1.0"),
            ("ce_id", row["id"].encode()),
            ("ce_source", self._source),
            ("ce_type", row["type"].encode()),
            ("ce_subject", row["subject"].encode()),
            ("ce_time", row["occurred_at"].isoformat().encode()),
            ("ce_sequence", str(row["sequence"]).encode()),
            # As it was written: by a newer image, it may be of a type that is not known here.
            ("ce_dataschema", f"{SCHEMAS}{row['type']}:{row['schema_version']}".encode()),
            ("ce_correlationid", row["correlation_id"].encode()),
            ("ce_actor", row["actor"].encode()),
            ("ce_reason", row["reason"].encode()),
            ("content-type", b"application/json"),
        ]
        if row["causation_id"]:
            headers.append(("ce_causationid", row["causation_id"].encode()))
        if traceparent := self._continued.get(row["id"], row["traceparent"]):
            headers.append(("traceparent", traceparent.encode()))
        return headers

    async def _wait(self, stop: asyncio.Event, seconds: float) -> None:
        """Wait until notified, or until the poll is due: what another replica committed notifies nobody here."""
        if self._notified.is_set() or stop.is_set():
            return
        try:
            await asyncio.wait_for(self._notified.wait(), seconds)
        except TimeoutError:
            return


@dataclass(frozen=True, slots=True)
class Withheld:
    """A withheld key has facts that wait in the outbox; it says how many. `id` rises with every key that is withheld."""

    id: int
    key: str
    reason: str
    detail: str
    facts: int
    withheld_at: datetime


WITHHELD_KEYS = """
SELECT id, subject AS key, reason, detail, withheld_at,
       (SELECT count(*) FROM outbox JOIN events ON events.id = outbox.event_id
        WHERE events.subject = withheld.subject) AS facts
FROM withheld WHERE released_at IS NULL AND id > $1 ORDER BY id LIMIT $2"""
RELEASE = """
UPDATE withheld SET released_at = now(), released_by = $2 WHERE subject = $1 AND released_at IS NULL RETURNING true"""


async def withheld(db: Db, after: int = 0, limit: int = 1000) -> list[Withheld]:
    """List withheld keys, the oldest first, those after `after`."""
    return [Withheld(**row) for row in await db.fetch(WITHHELD_KEYS, after, limit)]


async def release(db: Db, key: str, actor: str) -> bool:
    """Let the relay try the key's facts again, from the first; False when the key is not withheld."""
    return bool(await db.fetchval(RELEASE, key, actor))


@lru_cache(maxsize=4096)
def _partition(subject: str, partitions: int) -> int:
    """Compute the partition that every client of Kafka puts this key into; here, since a batch is made for one partition."""
    chosen: int = _choose(subject.encode(), range(partitions), None)
    return chosen


async def stopped_within(stop: asyncio.Event, seconds: float) -> bool:
    """Wait, and say whether a stop came meanwhile."""
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return False
    return True
