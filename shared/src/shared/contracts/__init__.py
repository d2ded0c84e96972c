"""The facts that travel between services and the messages partners may send."""

from shared.contracts import fulfillment, notifications, orders, partners, payments, returns, support
from shared.contracts.base import FACTS, Fact, OrderFact, facts_of, schema_id

__all__ = [
    "FACTS",
    "Fact",
    "OrderFact",
    "facts_of",
    "fulfillment",
    "notifications",
    "orders",
    "partners",
    "payments",
    "returns",
    "schema_id",
    "support",
]
