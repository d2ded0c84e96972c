"""The system's topics: made when missing, never changed. One per service that tells facts, and the partners' own."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from shared.settings import brokers_in

TOPICS: Final = (
    "orders.events",
    "payments.events",
    "fulfillment.events",
    "returns.events",
    "notifications.events",
    "support.events",
    "warehouse.events",
)
PARTITIONS: Final = 6
_REPLICAS: Final = 3
KEPT_FOREVER: Final = {"retention.ms": "-1", "retention.bytes": "-1", "cleanup.policy": "delete"}
"""How every topic is configured: views are rebuilt from topics, so no fact expires and none is compacted away."""
_SPREAD_S: Final = 30.0
_POLL_S: Final = 0.05
_READ_MS: Final = 1000
_READ_RECORDS: Final = 5000


class TopicsWrong(Exception):
    """The topics are not as the system needs them; the text names each and what to do."""


@dataclass(frozen=True, slots=True)
class Topic:
    name: str
    partitions: int
    is_new: bool


async def ensure_topics(kafka: str) -> list[Topic]:
    """Create what is missing and wait until every partition has a leader. `TopicsWrong` when that cannot be.

    A different number of partitions would break the promise that all topics of an order meet in the same partition.
    """
    async with _admin(kafka) as admin:
        brokers = (await admin.describe_cluster())["brokers"]
        replicas = min(_REPLICAS, len(brokers))
        made = await admin.create_topics(
            [NewTopic(name, PARTITIONS, replicas, topic_configs=dict(KEPT_FOREVER)) for name in TOPICS]
        )
        new, wrong = set(), []
        for name, code, message in made.topic_errors:
            error = for_code(code)
            if code == 0:
                new.add(name)
            elif error is not TopicAlreadyExistsError:
                wrong.append(f"{name} cannot be created: {message or error.__name__}")
        if wrong:
            raise TopicsWrong("; ".join(wrong))
        counts = await _partition_counts(admin)
        expiring = await _expiring(admin)
    if wrong := [f"{name} has {count} partitions" for name, count in counts.items() if count != PARTITIONS]:
        raise TopicsWrong(f"{'; '.join(wrong)}: {PARTITIONS} are needed, so give the system topics of its own")
    if expiring:
        raise TopicsWrong("; ".join(expiring))
    return [Topic(name, counts[name], name in new) for name in TOPICS]


async def expiring(kafka: str) -> list[str]:
    """A sentence for each topic that does not keep its facts for ever. Raises TopicsWrong when the broker is away."""
    async with _admin(kafka) as admin:
        return await _expiring(admin)


async def whole_topic(kafka: str, topic: str) -> AsyncIterator[list[ConsumerRecord[bytes | None, bytes | None]]]:
    """All records that the topic has now, in batches, read in no group. Raises TopicsWrong when the broker is away."""
    reader = AIOKafkaConsumer(
        bootstrap_servers=kafka, group_id=None, enable_auto_commit=False, auto_offset_reset="earliest"
    )
    try:
        await reader.start()
        partitions = [TopicPartition(topic, each) for each in range(PARTITIONS)]
        reader.assign(partitions)
        first, end = await reader.beginning_offsets(partitions), await reader.end_offsets(partitions)
        left = {each for each in partitions if first[each] < end[each]}
        while left:
            found = await reader.getmany(*left, timeout_ms=_READ_MS, max_records=_READ_RECORDS)
            if records := [record for each in found.values() for record in each]:
                yield records
            left = {each for each in left if await reader.position(each) < end[each]}
    except (KafkaError, OSError) as error:
        raise TopicsWrong(f"{topic} cannot be read from {kafka}: {error}") from error
    finally:
        await reader.stop()


async def _expiring(admin: AIOKafkaAdminClient) -> list[str]:
    asked = [ConfigResource(ConfigResourceType.TOPIC, name) for name in TOPICS]
    found = []
    for answer in await admin.describe_configs(asked):
        for code, _, _, name, entries in answer.resources:
            has = {entry[0]: entry[1] for entry in entries} if code == 0 else {}
            wrong = {key: has[key] for key, value in KEPT_FOREVER.items() if has.get(key, value) != value}
            if wrong:
                said, wanted = (",".join(f"{key}={each[key]}" for key in wrong) for each in (wrong, KEPT_FOREVER))
                found.append(
                    f"{name} has {said}, so that facts are deleted from which views are rebuilt: "
                    f"kafka-configs.sh --alter --entity-type topics --entity-name {name} --add-config {wanted}"
                )
    return found


@contextlib.asynccontextmanager
async def _admin(kafka: str) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(bootstrap_servers=brokers_in(kafka))
    try:
        await admin.start()
        yield admin
    except (KafkaError, OSError) as error:
        raise TopicsWrong(f"the broker at {kafka} does not answer: {error}") from error
    finally:
        await admin.close()


async def _partition_counts(admin: AIOKafkaAdminClient) -> dict[str, int]:
    """Asked until every topic is known with a leader for each partition: a new one takes a moment to spread."""
    try:
        async with asyncio.timeout(_SPREAD_S):
            while True:
                told = await admin.describe_topics(list(TOPICS))
                if all(topic["error_code"] == 0 and _is_led(topic) for topic in told):
                    return {topic["topic"]: len(topic["partitions"]) for topic in told}
                await asyncio.sleep(_POLL_S)
    except TimeoutError as late:
        raise TopicsWrong(f"some topics still have no leader after {_SPREAD_S:.0f} s") from late


def _is_led(topic: dict[str, object]) -> bool:
    partitions = topic["partitions"]
    assert isinstance(partitions, list)
    return bool(partitions) and all(each["error_code"] == 0 and each["leader"] >= 0 for each in partitions)
