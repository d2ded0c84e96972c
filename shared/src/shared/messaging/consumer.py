"""Kafka in: raw batches through FastStream, read record by record, told to flows in one transaction, or by keys in two.

An outage is waited out: the batch is given back and read again. A bad message is parked with its key and stops nobody
else. Effects are once per message, since the claim commits with them. The place where reading goes on never commits before.
"""

import asyncio
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import KafkaError
from faststream import AckPolicy
from faststream.kafka import KafkaBroker, KafkaMessage
from faststream.kafka.message import KafkaAckableMessage
from faststream.kafka.subscriber.usecase import BatchSubscriber
from prometheus_client import CollectorRegistry, Histogram

from shared.messaging.database import BROKEN_LAWS, OUTAGES, Pool
from shared.messaging.locks import (
    LOCK_TIMEOUT,
    MOST_LOCKED,
    RETRY_SECONDS,
    give_up_after,
    holders,
    in_words,
    locked_keys,
)
from shared.messaging.parking import Parked, Record, park, settle, waiting
from shared.messaging.relay import stopped_within
from shared.messaging.shell import Db, linger
from shared.messaging.topics import known_partitions, note_partitions
from shared.settings import Settings

if TYPE_CHECKING:
    from shared.web.tracing import Tracing
from shared.messaging.offsets import STORE_OFFSETS, WHERE_TO_READ, OffsetsLost
from shared.messaging.router import LOCKED, Process, reason_of

log = structlog.get_logger()


@dataclass(slots=True)
class Progress:
    """What a consumer has done and has still to do; metrics, readiness and the watch for a stuck one read it."""

    attempted_at: float = field(default_factory=time.monotonic)
    records: int = 0
    parked: int = 0
    batches: int = 0
    commit_errors: int = 0
    failing_since: float | None = None
    is_assigned: bool = False
    done: dict[TopicPartition, tuple[int, int]] = field(default_factory=dict)
    """By partition: the next position, and the broker's time of the last record processed."""


class Stuck(Exception):
    """The consumer lags and does nothing about it."""


class _Assignment(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka is untyped here
    """It waits for the batch in flight before partitions are revoked, and seeks to the stored offsets when they are assigned."""

    def __init__(self, consumer: "Consumer") -> None:
        self._consumer = consumer

    async def on_partitions_revoked(self, revoked: Any) -> None:
        await self._consumer.on_revoked()

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        await self._consumer.on_assigned(assigned)


COMMITS_EVERY_SECONDS = 1.0
COMMITS_WITHIN_SECONDS = 5.0
"""Without a limit Kafka's client retries a commit for as long as no broker answers, even after it was closed."""
LISTENS_MS: Final = 200

RETRIES_EVERY_SECONDS: Final = 0.5
WAITING_FOR_LOCKS = """
SELECT key FROM parked WHERE status = 'open' AND reason = 'locked' GROUP BY key ORDER BY min(id) LIMIT $1"""
SAY_WHO_HOLDS = """
UPDATE parked SET detail = $2 WHERE detail <> $2
AND id = (SELECT min(id) FROM parked WHERE status = 'open' AND reason = 'locked' AND key = $1) RETURNING true"""

AGES = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)


SHARDS: Final = 2
RECORDS_PER_SHARD: Final = 100
"""Below it a second transaction costs more than it saves."""


def _shards(records: Sequence[Record]) -> list[Sequence[Record]]:
    """Split the batch by key, for transactions side by side: the database works on one while the next is decided. Records of
    one key stay in one shard, in order."""
    if len(records) < SHARDS * RECORDS_PER_SHARD:
        return [records]
    shards: list[list[Record]] = [[] for _ in range(SHARDS)]
    for record in records:
        shards[hash(record.key) % SHARDS].append(record)
    return [shard for shard in shards if shard]


def _last(records: Sequence[Record]) -> dict[tuple[str, int], Record]:
    """The last record of each partition, by topic and number."""
    return {(record.topic, record.partition): record for record in records}


class Consumer:
    """A consumer is one subscription of one group; each batch is committed as a whole or given back."""

    def __init__(
        self,
        pool: Pool,
        process: Process,
        settings: Settings,
        group: str,
        notify_relay: Callable[[], None],
        registry: CollectorRegistry | None = None,
        tracing: "Tracing | None" = None,
    ) -> None:
        self.pool = pool
        self.group = group
        self.progress = Progress()
        self._process = process
        self._settings = settings
        self._notify_relay = notify_relay
        self._topics: Sequence[str] = ()
        self._tracing = tracing
        self._batch_seconds = Histogram(
            "oms_consumer_batch_seconds", "from reading a batch to its commit", ["service"], registry=registry
        ).labels(group)
        self._age_seconds = Histogram(
            "oms_consumer_age_seconds",
            "age, by the broker's clock, of the oldest record of a batch when it was committed",
            ["service"],
            registry=registry,
            buckets=AGES,
        ).labels(group)
        self._subscriber: BatchSubscriber | None = None
        self._failures = 0
        self._at_work = asyncio.Lock()
        self._positions: dict[TopicPartition, int] = {}
        self._committed_at = 0.0
        self._dirty = False
        self._partitions: Mapping[str, int] = {}
        self._suspected: str | None = None
        self._behind_since: float | None = None
        self._locked: set[str] = set()

    def subscribe(self, broker: KafkaBroker, topics: Sequence[str]) -> None:
        """`MANUAL`: `on_batch` says itself what is done and what comes again. `none`: `on_assigned` says where to read, and a
        place that the topic does not have is an error, never another place."""
        self._topics = topics
        subscriber = broker.subscriber(
            *topics,
            batch=True,
            group_id=self.group,
            group_instance_id=f"{self.group}-{self._settings.instance}" if self._settings.instance else None,
            auto_offset_reset="none",
            ack_policy=AckPolicy.MANUAL,
            max_partition_fetch_bytes=4 * 1024 * 1024,
            parser=self._parse,
            decoder=self._decode,
            max_poll_interval_ms=int(self._settings.max_poll_seconds * 1000),
            listener=_Assignment(self),
            no_reply=True,
        )
        assert isinstance(subscriber, BatchSubscriber)
        # FastStream's own sleeps, deaf to what comes, as long as it listened before.
        subscriber.get_msg = self._poll  # type: ignore[method-assign]
        self._subscriber = subscriber
        subscriber(self.on_batch)

    async def _poll(self, consumer: AIOKafkaConsumer) -> tuple[Any, ...]:
        """What is there as soon as anything is; nothing when that takes long."""
        polled = await consumer.getmany(timeout_ms=LISTENS_MS, max_records=self._settings.batch_records)
        return tuple(chain.from_iterable(polled.values()))

    async def _parse(self, records: tuple[Any, ...], _: Any) -> KafkaAckableMessage:
        """Headers and bodies are left raw: one that cannot be read must not lose its batch."""
        assert self._subscriber is not None and self._subscriber.consumer is not None
        return KafkaAckableMessage(
            body=b"",
            raw_message=records,
            consumer=self._subscriber.consumer,
            message_id=f"{records[0].offset}-{records[-1].offset}",
            correlation_id="batch",
        )

    async def _decode(self, message: KafkaMessage) -> KafkaMessage:
        """What a handler gets where the broker injects nothing."""
        return message

    async def on_revoked(self) -> None:
        """Before a rebalance: wait for the batch in flight, reload the stored offsets."""
        self.progress.is_assigned = False
        pause = 0.1
        async with self._at_work:
            while True:
                try:
                    async with self.pool.acquire(timeout=5) as db:
                        rows = await db.fetch(WHERE_TO_READ, self.group)
                        self._partitions = await known_partitions(db)
                    break
                except OUTAGES as error:
                    self.progress.failing_since = self.progress.failing_since or time.monotonic()
                    log.warning("positions.awaited", error=repr(error), pause_seconds=pause)
                    await asyncio.sleep(pause)
                    pause = min(5.0, pause * 2)
            self.progress.failing_since = None
            self._positions = {TopicPartition(row["topic"], row["partition"]): row["next"] for row in rows}
            self.progress.done.clear()
            self._dirty = False

    async def on_assigned(self, assigned: set[TopicPartition]) -> None:
        """Seek to the stored offsets; a partition that was never read begins with its first record."""
        assert self._subscriber is not None and self._subscriber.consumer is not None
        consumer = self._subscriber.consumer
        # A partition that should not be there is not read; `watch` ends the process.
        expected = {place for place in assigned if place.partition < self._partitions.get(place.topic, sys.maxsize)}
        # Before anything is awaited: else the client looks for a place itself.
        for place in expected & self._positions.keys():
            consumer.seek(place, self._positions[place])
        self.progress.is_assigned = True
        if new := expected - self._positions.keys():
            await consumer.seek_to_beginning(*new)

    async def on_batch(self, message: KafkaMessage) -> None:
        """Apply and acknowledge, or give back: an outage is waited out, by reading the same batch again after a pause."""
        async with self._at_work:
            await self._on_batch(message)

    async def _on_batch(self, message: KafkaMessage) -> None:
        raw = message.raw_message
        assert isinstance(raw, tuple)
        records = [Record(r.topic, r.partition, r.offset, r.timestamp, r.key, r.headers, r.value) for r in raw]
        self.progress.attempted_at = time.monotonic()
        began = time.perf_counter()
        try:
            with self._tracing.consuming(self.group, records) if self._tracing else nullcontext(records) as traced:
                await self.process(traced)
        except OUTAGES as error:
            self._failures += 1
            self.progress.failing_since = self.progress.failing_since or time.monotonic()
            pause = min(10.0, 0.1 * 2 ** min(self._failures, 7)) * random.uniform(0.5, 1.0)
            log.warning("batch.given_back", error=repr(error), records=len(records), pause_seconds=round(pause, 2))
            await asyncio.sleep(pause)
            self.progress.attempted_at = time.monotonic()
            try:
                await message.nack()
            except KafkaError as lost:  # the partitions are somebody else's by now, and the records with them
                log.warning("batch.lost", error=repr(lost), records=len(records))
            return
        # What was begun meanwhile, a connection say, holds the message as its context for as long as it lives.
        message.raw_message = ()
        self._failures = 0
        self.progress.failing_since = None
        self.progress.records += len(records)
        self.progress.batches += 1
        took = time.perf_counter() - began
        self._batch_seconds.observe(took)
        self._age_seconds.observe(max(0.0, time.time() - min(r.timestamp_ms for r in records) / 1000))
        for (topic, partition), last in _last(records).items():
            self.progress.done[TopicPartition(topic, partition)] = (last.position + 1, last.timestamp_ms)
        self._dirty = True
        if time.monotonic() - self._committed_at > COMMITS_EVERY_SECONDS:
            await self.commit_offsets()
        await linger(len(records), took)

    async def commit_offsets(self) -> None:
        """Commit the offsets to Kafka, for others to look at. The table `positions` decides, so once in a while is enough."""
        consumer = self._subscriber.consumer if self._subscriber is not None else None
        if consumer is None or not self._dirty:
            return
        self._dirty, self._committed_at = False, time.monotonic()
        try:
            async with asyncio.timeout(COMMITS_WITHIN_SECONDS):
                await consumer.commit({place: position for place, (position, _) in self.progress.done.items()})
        except (KafkaError, TimeoutError) as error:
            self._dirty = True
            self.progress.commit_errors += 1
            log.warning("offset.not_committed", error=repr(error))

    async def process(self, records: Sequence[Record]) -> None:
        """Commit the batch, and then the offsets: never before all the effects."""
        shards = _shards(records)
        ended = await asyncio.gather(
            *(self._commit(shard, is_whole=len(shards) == 1) for shard in shards), return_exceptions=True
        )
        self._notify_relay()
        for error in ended:
            if isinstance(error, BaseException):
                raise error
        if not all(ended):
            async with self.pool.acquire(timeout=5) as db:
                await self._advance(db, records)

    async def _commit(self, records: Sequence[Record], is_whole: bool) -> bool:
        """Apply the records in one transaction, or in smaller ones where that fails. Returns whether the offsets were stored in
        the same transaction, as they may be when the records are the whole batch."""
        set_aside = [r for r in records if r.parking_key() in self._locked] if self._locked else ()
        if set_aside:
            await self._set_aside(set_aside)
            records = [r for r in records if r.parking_key() not in self._locked]
            is_whole = False
        if not records:
            return False
        try:
            async with self.pool.acquire(timeout=5) as db, db.transaction():
                parked = await self._process(db, records)
                await park(db, parked)
                if is_whole:
                    await self._advance(db, records)
        except LOCK_TIMEOUT as error:
            locked = await locked_keys(self.pool, {record.parking_key() for record in records})
            await self._set_aside([r for r in records if r.parking_key() in locked])
            if free := [r for r in records if r.parking_key() not in locked]:
                # Without a row that is known to be locked it is another one: a shelf's, or one that is being made.
                await self._take_apart(free, error) if not locked else await self._commit(free, is_whole=False)
            return False
        except Exception as error:
            if isinstance(error, OUTAGES) and not isinstance(error, BROKEN_LAWS):
                raise
            await self._take_apart(records, error)
            return False
        self.progress.parked += len(parked)
        return is_whole

    async def _set_aside(self, records: Sequence[Record]) -> None:
        """Park what another session's lock holds up, and whatever of its key comes later, until `retry_locked` has told
        it. Its key is remembered, so that the next batch does not wait for the row again."""
        if not records:
            return
        parked = [Parked(r, r.parking_key(), LOCKED, "another session of the database holds its row") for r in records]
        async with self.pool.acquire(timeout=5) as db, db.transaction():
            await park(db, parked)
        self._locked |= {p.key for p in parked}

    async def _take_apart(self, records: Sequence[Record], error: Exception) -> None:
        """What breaks on one key (a law of the database, a fault of ours) must not hold the others: halves are tried
        until that key is alone, and parked."""
        keys = list(dict.fromkeys(record.parking_key() for record in records))
        if len(keys) == 1 and isinstance(error, LOCK_TIMEOUT):
            await self._set_aside(records)
            return
        if len(keys) == 1:
            log.error("message.parked", key=keys[0], error=repr(error), records=len(records), exc_info=error)
            parked = [
                Parked(r, keys[0], reason_of(error) if i == 0 else "behind", str(error)) for i, r in enumerate(records)
            ]
            async with self.pool.acquire(timeout=5) as db, db.transaction():
                await park(db, parked)
            self.progress.parked += len(parked)
            return
        first = set(keys[: len(keys) // 2])
        for half in (
            [r for r in records if r.parking_key() in first],
            [r for r in records if r.parking_key() not in first],
        ):
            try:
                async with self.pool.acquire(timeout=5) as db, db.transaction():
                    if isinstance(error, LOCK_TIMEOUT):
                        await give_up_after(db, RETRY_SECONDS)
                    parked = await self._process(db, half)
                    await park(db, parked)
                self.progress.parked += len(parked)
            except Exception as again:
                if isinstance(again, OUTAGES) and not isinstance(again, (*BROKEN_LAWS, LOCK_TIMEOUT)):
                    raise
                await self._take_apart(half, again)

    async def _advance(self, db: Db, records: Sequence[Record]) -> None:
        ends = _last(records)
        next = [record.position + 1 for record in ends.values()]
        await db.execute(STORE_OFFSETS, self.group, [t for t, _ in ends], [p for _, p in ends], next)

    async def retry_locked(self, stop: asyncio.Event) -> None:
        """Tell again what waits for locked rows, each key by itself, until stopped. Any replica may have set it aside."""
        while not await stopped_within(stop, RETRIES_EVERY_SECONDS):
            try:
                known = set(self._locked)
                async with self.pool.acquire(timeout=5) as db:
                    keys = [row["key"] for row in await db.fetch(WAITING_FOR_LOCKS, MOST_LOCKED)]
                self._locked = (self._locked - known) | set(keys)
                for key in keys:
                    await self._retry_locked(key)
            except OUTAGES as error:
                log.warning("locked_keys.deferred", error=repr(error))

    async def _retry_locked(self, key: str) -> None:
        async with self.pool.acquire(timeout=5) as watched, holders(self.pool, watched) as found:
            try:
                await self.redrive(key, f"service:{self.group}", "its row is locked no longer", watched)
            except LOCK_TIMEOUT:
                detail = f"another session of the database holds its row: {in_words(found)}"
                if await watched.fetchval(SAY_WHO_HOLDS, key, detail):
                    log.warning("key.locked", key=key, held_by=found)
                return
        self._locked.discard(key)
        log.info("key.unlocked", key=key)

    async def redrive(self, key: str, actor: str, reason: str = "redrive", db: "Db | None" = None) -> tuple[int, int]:
        """Tell a key's parked messages again, in order, until one is refused again: (done, still parked)."""
        done, most = 0, sys.maxsize
        while True:
            try:
                told, left, refused = await self._redrive(key, actor, reason, most, db)
            except Exception as error:
                if isinstance(error, OUTAGES) and not isinstance(error, BROKEN_LAWS):
                    raise
                # One of them breaks the transaction of all: fewer are told at a time, until it is the first, and alone.
                if most == 1:
                    log.error("message.refused_again", key=key, error=repr(error), exc_info=error)
                    async with self.pool.acquire(timeout=5) as other:
                        queue = await waiting(other, key)
                        await other.execute(REOPEN, [queue[0].id], [reason_of(error)], [f"{error}" or repr(error)])
                    return done, len(queue)
                most = min(most, await self._parked(key)) // 2 or 1
                continue
            done += told
            # Asked again when all went through: some may have queued up behind them meanwhile.
            if refused or not told:
                return done, left

    async def _redrive(self, key: str, actor: str, reason: str, most: int, given: "Db | None") -> tuple[int, int, bool]:
        """Done, still parked, and whether one was refused, of the first `most` of the key."""
        async with nullcontext(given) if given else self.pool.acquire(timeout=5) as db, db.transaction():
            await give_up_after(db, RETRY_SECONDS)
            queue = await waiting(db, key)
            # Settled first, so that they do not queue behind themselves; what is refused or not told is opened again.
            await settle(db, [w.id for w in queue], "redriven", actor, reason)
            refused = await self._process(db, [w.record for w in queue[:most]])
            places = {(p.record.topic, p.record.partition, p.record.position): p for p in refused}
            again: list[tuple[int, str, str]] = []
            for number, w in enumerate(queue):
                why = places.get((w.record.topic, w.record.partition, w.record.position))
                if why is not None:
                    again.append((w.id, why.reason, why.detail))
                elif number >= most:
                    again.append((w.id, w.reason, w.detail))
            if again:
                await db.execute(REOPEN, *map(list, zip(*again, strict=True)))
        self._notify_relay()
        return len(queue) - len(again), len(again), bool(refused)

    async def _parked(self, key: str) -> int:
        async with self.pool.acquire(timeout=5) as db:
            return len(await waiting(db, key))

    async def lag(self) -> dict[tuple[str, int], tuple[int, float]]:
        """Per topic and partition: messages not yet processed, and the age in seconds of the last one processed
        (0 when nothing is waiting)."""
        consumer = self._subscriber.consumer if self._subscriber is not None else None
        if consumer is None:
            return {}
        lags = {}
        for place in consumer.assignment():
            end = consumer.highwater(place)
            if end is None:
                continue
            _, seen_ms = self.progress.done.get(place, (0, None))
            behind = max(0, end - self._next(place, 0))
            age = max(0.0, time.time() - seen_ms / 1000) if seen_ms is not None and behind else 0.0
            lags[place.topic, place.partition] = (behind, age)
        return lags

    async def ends(self) -> dict[TopicPartition, int] | None:
        """Where each partition of the topics ends, those of other replicas too; None while they are not known, and while
        this replica is no member of the group: its client cannot ask before."""
        consumer = self._subscriber.consumer if self._subscriber is not None else None
        if consumer is None or not self.progress.is_assigned:
            return None
        found = {topic: consumer.partitions_for_topic(topic) for topic in self._topics}
        if not all(found.values()):
            return None
        async with asyncio.timeout(10):
            ends: dict[TopicPartition, int] = await consumer.end_offsets(
                [TopicPartition(topic, partition) for topic, partitions in found.items() for partition in partitions]
            )
        return ends

    def _next(self, place: TopicPartition, unread: int) -> int:
        """The position to be read next; `unread` where nothing was read yet."""
        position, _ = self.progress.done.get(place, (None, None))
        return self._positions.get(place, unread) if position is None else position

    async def watch(self) -> None:
        """Tell the broker how far this is, and ask it what the topics hold. Raises OffsetsLost, PartitionsChanged or Stuck
        for what no waiting mends, and an outage for what does."""
        consumer = self._subscriber.consumer if self._subscriber is not None else None
        if consumer is None or not self.progress.is_assigned:
            return
        await self.commit_offsets()
        counts = {topic: len(consumer.partitions_for_topic(topic) or ()) for topic in self._topics}
        if all(counts.values()) and any(self._partitions.get(topic) != count for topic, count in counts.items()):
            async with self.pool.acquire(timeout=5) as db:
                await note_partitions(db, counts)
                self._partitions = await known_partitions(db)
        places = sorted(consumer.assignment())
        if not places:
            return
        # Looked up before the broker is asked: meanwhile both only rise.
        to_read = {place: self._next(place, -1) for place in places}
        async with asyncio.timeout(10):
            first = await consumer.beginning_offsets(places)
            end = await consumer.end_offsets(places)
        lost = [
            f"{place.topic}/{place.partition} is to be read from {position} and holds {first[place]} to {end[place]}"
            for place, position in to_read.items()
            if position >= 0 and not first[place] <= position <= end[place]
        ]
        # A broker that has just become the leader may answer with an older end.
        if lost and "; ".join(lost) == self._suspected:
            raise OffsetsLost(self._suspected)
        self._suspected = "; ".join(lost) or None
        if any(end[place] > max(position, first[place]) for place, position in to_read.items()):
            now = time.monotonic()
            self._behind_since = self._behind_since or now
            idle = now - max(self._behind_since, self.progress.attempted_at)
            if idle > self._settings.stuck_after_seconds:
                raise Stuck(f"group {self.group} lags and has attempted nothing for {idle:.0f} s")
        else:
            self._behind_since = None


REOPEN = """
UPDATE parked SET status = 'open', settled_at = NULL, settled_by = NULL, settled_reason = NULL,
    reason = again.reason, detail = again.detail
FROM unnest($1::bigint[], $2::text[], $3::text[]) AS again (id, reason, detail) WHERE parked.id = again.id"""
