"""Kafka in: the facts of other services that an order records."""

from typing import Final

from orders.domain.decide import RecordFact
from orders.domain.progress import RECORDED
from orders.store import ORDERS
from shared.contracts.base import Fact
from shared.messaging.envelope import Cause
from shared.messaging.router import Route
from shared.messaging.shell import Message


def record(fact: Fact, cause: Cause) -> Message[RecordFact]:
    return Message(fact.subject, RecordFact(fact, cause.at), cause)


ROUTE: Final = Route(ORDERS, dict.fromkeys(RECORDED, record))
