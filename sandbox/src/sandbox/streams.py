"""Kafka in and out: what is told is published in order, at least once; what is read has one effect in the books."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Never

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from sandbox.ledger import Ledger

log = structlog.get_logger()

SCHEMA = """
create table if not exists messages (
    seq integer primary key,
    id text not null,          -- given again when the same thing is told again
    type text not null,
    key text not null,
    occurred_at text not null,
    data text not null,
    copies integer not null
) strict;
create table if not exists positions (
    partition integer primary key,
    position integer not null  -- the next record to read
) strict;
"""

TELL = "insert into messages (id, type, key, occurred_at, data, copies) values (?, ?, ?, ?, ?, ?)"
UNPUBLISHED = "select * from messages order by seq limit 100"
PUBLISHED = "delete from messages where seq = ?"
POSITIONS = "select partition, position from positions"
ADVANCE = """
insert into positions (partition, position) values (?, ?)
on conflict (partition) do update set position = excluded.position
"""

SOURCE = "warehouse"
TOLD_ON = "warehouse.events"
HEARD_ON = "fulfillment.events"
RETRY_SECONDS = 1.0

Record = Any
"""aiokafka's ConsumerRecord; the package has no types."""


def tell(
    db: sqlite3.Connection, message_id: str, kind: str, key: str, occurred_at: str, data: str, copies: int = 1
) -> None:
    """Queue a message to the system in the transaction that causes it."""
    db.execute(TELL, (message_id, kind, key, occurred_at, data, copies))


class Streams:
    """The sandbox's connection to Kafka; a broker that is away is waited for, for ever."""

    def __init__(
        self, ledger: Ledger, servers: Sequence[str], hear: Callable[[sqlite3.Connection, Record], None]
    ) -> None:
        self._ledger = ledger
        self._servers = list(servers)
        self._hear = hear
        self.troubles = {"kafka out": "not connected yet", "kafka in": "not connected yet"}

    async def tell(self) -> Never:
        """Publish what is queued, in order."""
        await self._keep_connected("kafka out", self._publish)

    async def hear(self) -> Never:
        """Take every record: the books and the position in the topic change in one transaction."""
        await self._keep_connected("kafka in", self._consume)

    async def _keep_connected(self, what: str, work: Callable[[], Awaitable[Never]]) -> Never:
        while True:
            try:
                await work()
            except (KafkaError, OSError) as error:
                self.troubles[what] = repr(error)
                log.warning("broker.lost", what=what, error=repr(error))
                await asyncio.sleep(RETRY_SECONDS)

    async def _publish(self) -> Never:
        # A new one per connection: an idempotent producer can stick on an out-of-sequence error.
        producer = AIOKafkaProducer(
            bootstrap_servers=self._servers, enable_idempotence=True, acks="all", request_timeout_ms=15_000
        )
        try:
            await producer.start()
            self.troubles.pop("kafka out", None)
            await self._ledger.keep_up(partial(self._publish_queued, producer))
        finally:
            await producer.stop()

    async def _publish_queued(self, producer: AIOKafkaProducer) -> float | None:
        rows = await self._ledger.run(lambda db: db.execute(UNPUBLISHED).fetchall())
        if not rows:
            return None
        sends = [
            await producer.send(TOLD_ON, row["data"].encode(), row["key"].encode(), headers=headers_of(row))
            for row in rows
            for _ in range(row["copies"])
        ]
        await asyncio.gather(*sends)
        await self._ledger.run(lambda db: db.executemany(PUBLISHED, [(row["seq"],) for row in rows]))
        for row in rows:
            log.info("message.published", message=row["id"], type=row["type"], key=row["key"])
        return 0

    async def _consume(self) -> Never:
        consumer = AIOKafkaConsumer(
            HEARD_ON, bootstrap_servers=self._servers, enable_auto_commit=False, auto_offset_reset="earliest"
        )
        try:
            await consumer.start()
            for row in await self._ledger.run(lambda db: db.execute(POSITIONS).fetchall()):
                consumer.seek(TopicPartition(HEARD_ON, row["partition"]), row["position"])
            self.troubles.pop("kafka in", None)
            while True:
                batches = await consumer.getmany(timeout_ms=500, max_records=500)
                if batches:
                    await self._ledger.run(partial(self.take, batches))
        finally:
            await consumer.stop()

    def take(self, batches: Mapping[TopicPartition, Sequence[Record]], db: sqlite3.Connection) -> None:
        """Whatever its offset, a record is heard: where the topic was made anew, or partitions were added, aiokafka starts
        over at the beginning, and offsets say nothing of what was heard before. Sequences do, and who hears looks at them."""
        for place, records in batches.items():
            for record in records:
                self._hear(db, record)
            db.execute(ADVANCE, (place.partition, records[-1].offset + 1))


def headers_of(row: sqlite3.Row) -> list[tuple[str, bytes]]:
    return [
        ("ce_specversion", b"1.0"),
        ("ce_id", row["id"].encode()),
        ("ce_source", SOURCE.encode()),
        ("ce_type", row["type"].encode()),
        ("ce_subject", row["key"].encode()),
        ("ce_time", row["occurred_at"].encode()),
        ("content-type", b"application/json"),
    ]
