"""Kafka in: which facts of other services are told to the customer, or are what that rests on."""

from typing import Final

from notifications.domain.decide import RECORDED, RecordFact
from notifications.store import NOTIFICATIONS
from shared.contracts.base import Fact
from shared.messaging.envelope import Cause
from shared.messaging.router import Route
from shared.messaging.shell import Message


def record(fact: Fact, cause: Cause) -> Message[RecordFact]:
    return Message(
        fact.subject, RecordFact(fact, cause.causation_id or str(cause.id), cause.sequence or 0, cause.at), cause
    )


ROUTE: Final = Route(NOTIFICATIONS, dict.fromkeys(RECORDED, record))
