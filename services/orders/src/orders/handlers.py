"""Kafka in: which facts of other services an order takes note of."""

from typing import Final

from orders.domain.decide import Note
from orders.domain.progress import NOTED
from orders.store import ORDERS
from shared.consumer import Route
from shared.contracts.base import Fact
from shared.envelope import Cause
from shared.shell import Told


def note(fact: Fact, cause: Cause) -> Told[Note]:
    return Told(fact.subject, Note(fact, cause.at), cause)


ROUTE: Final = Route(ORDERS, dict.fromkeys(NOTED, note))
