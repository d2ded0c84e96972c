"""Kafka in: which facts of other services an order takes note of."""

from typing import Final

from orders.domain.decide import Note
from orders.domain.progress import NOTED
from orders.store import ORDERS
from shared.consumer import Route
from shared.contracts.base import Fact
from shared.envelope import Cause
from shared.shell import Message


def note(fact: Fact, cause: Cause) -> Message[Note]:
    return Message(fact.subject, Note(fact, cause.at), cause)


ROUTE: Final = Route(ORDERS, dict.fromkeys(NOTED, note))
