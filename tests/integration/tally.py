"""The smallest flow there is, to test the plumbing under all of them: a total per key, told by any existing fact."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from types import MappingProxyType
from uuid import uuid4

from pydantic import TypeAdapter

from shared.contracts.base import Fact
from shared.contracts.orders import Hold, OrderHoldPlaced
from shared.core.machine import Invalid, NotAllowed
from shared.messaging.envelope import Cause
from shared.messaging.parking import Record
from shared.messaging.shell import Flow, Message


@dataclass(frozen=True, slots=True)
class Tally:
    key: str
    total: int = 0
    added: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Add:
    """Negative is invalid, 13 is not allowed, 0 divides by it."""

    amount: int
    label: str = ""


def decide(state: Tally, command: Add, _: None) -> Sequence[Fact]:
    if command.amount < 0:
        raise Invalid("amount", "must not be negative")
    if command.amount == 13:
        raise NotAllowed("counting", "add", ("anything else",))
    assert 1 / command.amount
    return [OrderHoldPlaced(order_id=state.key, hold=Hold.MANUAL, detail=f"{command.amount} {command.label}")]


def evolve(state: Tally, fact: Fact) -> Tally:
    assert isinstance(fact, OrderHoldPlaced)
    amount, _, label = fact.detail.partition(" ")
    return replace(state, total=state.total + int(amount), added=(*state.added, label))


FLOW: Flow[Tally, Add, None] = Flow(
    service="orders", state=TypeAdapter(Tally), initial=Tally, decide=decide, evolve=evolve
)


def cause(**more: object) -> Cause:
    given = {
        "id": uuid4(),
        "at": datetime(2026, 5, 4, 12, tzinfo=timezone.utc),
        "actor": "agent:test",
        "reason": "test",
        "correlation_id": "test",
    } | more
    return Cause(**given)  # type: ignore[arg-type]


def add(key: str, amount: int, label: str = "", **more: object) -> Message[Add]:
    return Message(key, Add(amount, label), cause(**more))


def record(key: str, amount: int | str, position: int, *, id: str | None = None, partition: int = 0) -> Record:
    """An order.hold_placed as it comes from `orders.events`; `amount` travels in its detail, a label after it."""
    data = {"order_id": key, "hold": "manual", "detail": str(amount)}
    return raw(key.encode(), json.dumps(data).encode(), position, id=id, partition=partition)


def raw(
    key: bytes | None,
    value: bytes | None,
    position: int,
    *,
    id: str | None = None,
    partition: int = 0,
    headers: Mapping[str, bytes | None] = MappingProxyType({}),
) -> Record:
    given: dict[str, bytes | None] = {
        "ce_id": (id or str(uuid4())).encode(),
        "ce_source": b"urn:order-workflows:orders",
        "ce_type": b"order.hold_placed",
        "ce_time": b"2026-05-04T12:00:00+00:00",
        "ce_sequence": b"1",
        "ce_dataschema": b"urn:order-workflows:order.hold_placed:1",
    }
    given |= headers
    named = [(name, value) for name, value in given.items()]
    return Record("orders.events", partition, position, 0, key, named, value)  # type: ignore[arg-type]
