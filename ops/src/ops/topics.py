"""The system's topics: made when missing, never changed. One per service that tells facts, and the partners' own."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
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
# A view is rebuilt from the topics: facts do not expire.
_CONFIGS: Final = {"retention.ms": "-1"}
_SPREAD_S: Final = 30.0
_POLL_S: Final = 0.05


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
            [NewTopic(name, PARTITIONS, replicas, topic_configs=dict(_CONFIGS)) for name in TOPICS]
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
    if wrong := [f"{name} has {count} partitions" for name, count in counts.items() if count != PARTITIONS]:
        raise TopicsWrong(f"{'; '.join(wrong)}: {PARTITIONS} are needed, so give the system topics of its own")
    return [Topic(name, counts[name], name in new) for name in TOPICS]


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
