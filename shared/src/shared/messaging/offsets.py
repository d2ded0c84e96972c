"""Where reading goes on: offsets are stored in our database with the effects; Kafka's are informational."""

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from aiokafka import TopicPartition

if TYPE_CHECKING:
    pass

if TYPE_CHECKING:
    from shared.messaging.consumer import Consumer

WHERE_TO_READ = "SELECT topic, partition, next FROM positions WHERE consumer_group = $1"
STORE_OFFSETS = """
INSERT INTO positions (consumer_group, topic, partition, next)
SELECT $1, * FROM unnest($2::text[], $3::int[], $4::bigint[]) AS t (topic, partition, next) ORDER BY topic, partition
ON CONFLICT (consumer_group, topic, partition) DO UPDATE SET next = greatest(positions.next, excluded.next)"""


class OffsetsLost(Exception):
    """The next offset is not in the topic (retention or truncation); the text says what the topic holds."""


class CaughtUp:
    """It says until when a group, whichever of its replicas, has processed everything that was on its topics.

    It reads the ends of the topics and the time. That time counts once the group's stored offsets are past those ends. A
    steady stream of facts therefore delays nothing; a backlog delays until it is worked off.
    """

    def __init__(self, consumer: "Consumer") -> None:
        self._consumer = consumer
        self._until: datetime | None = None
        self._next: tuple[datetime, Mapping[TopicPartition, int]] | None = None

    async def __call__(self) -> datetime | None:
        """None while that is not known. Raises an outage, of the broker too."""
        if self._next is None:
            async with self._consumer.pool.acquire(timeout=5) as db:
                now: datetime = await db.fetchval("SELECT clock_timestamp()")
            ends = await self._consumer.ends()
            self._next = None if ends is None else (now, ends)
        if self._next is not None:
            async with self._consumer.pool.acquire(timeout=5) as db:
                rows = await db.fetch(WHERE_TO_READ, self._consumer.group)
            places = {TopicPartition(row["topic"], row["partition"]): row["next"] for row in rows}
            seen_at, until = self._next
            if all(places.get(place, 0) >= end for place, end in until.items()):
                self._until, self._next = seen_at, None
        return self._until
