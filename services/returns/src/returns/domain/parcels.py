"""Parcels of a return: scanned on their way, received in any number, each once; what nobody expected is said so."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from returns.domain.order import OrderReturns, free
from returns.domain.policies import Binding
from returns.domain.rma import ReturnStatus, Rma
from returns.domain.units import EXPECTED, UnitStatus
from shared.contracts.base import Fact, LineQuantity
from shared.contracts.partners import WarehouseUnexpectedItem
from shared.contracts.returns import (
    ReceivedLine,
    ReturnItemsReceived,
    ReturnReopened,
    ReturnUnexpectedItemReceived,
)
from shared.machine import Invalid


@dataclass(frozen=True, slots=True)
class RecordScan:
    return_id: str
    tracking: str
    at: datetime


@dataclass(frozen=True, slots=True)
class ReceiveParcel:
    return_id: str
    receipt_id: str
    location: str
    lines: tuple[LineQuantity, ...]
    unexpected: tuple[WarehouseUnexpectedItem, ...]
    at: datetime


AWAITS: Final = frozenset(
    {
        ReturnStatus.APPROVED,
        ReturnStatus.IN_TRANSIT,
        ReturnStatus.PARTIALLY_RECEIVED,
        ReturnStatus.RECEIVED,
        ReturnStatus.INSPECTING,
        ReturnStatus.REOPENED,
    }
)
"""A parcel that arrives in these is looked for among what is expected; in all others it is unexpected."""


def check_named_once(lines: Sequence[LineQuantity]) -> None:
    named = [line.line_id for line in lines]
    for i, line_id in enumerate(named):
        if line_id in named[:i]:
            raise Invalid(f"lines.{i}.line_id", "is named twice")


def arrived(state: OrderReturns, one: Rma, command: ReceiveParcel, binding: Binding) -> list[Fact]:
    """What was expected is received; all else in the parcel is unexpected, and recorded as that."""
    assert state.purchase is not None
    if not command.lines and not command.unexpected:
        raise Invalid("lines", "must not be empty: a parcel has something in it")
    check_named_once(command.lines)
    is_late = one.status is ReturnStatus.EXPIRED and binding.policy.late_parcel_reopens
    lines: list[ReceivedLine] = []
    extra = [(item.sku, item.quantity) for item in command.unexpected]
    for i, line in enumerate(command.lines):
        if line.line_id not in state.purchase.lines:
            raise Invalid(f"lines.{i}.line_id", "is not a line of this order")
        known = one.lines.get(line.line_id)
        n = 0
        if known is not None and (is_late or one.status in AWAITS):
            expected = known.count(*EXPECTED)
            if binding.policy.late_parcel_reopens:
                expected += min(known.count(UnitStatus.NOT_ARRIVED), free(state, line.line_id))
            n = min(line.quantity, expected)
        if known is not None and n:
            lines.append(ReceivedLine(line_id=line.line_id, quantity=n, total=known.received + n))
        if line.quantity > n:
            extra.append((state.purchase.lines[line.line_id].sku, line.quantity - n))
    facts: list[Fact] = []
    if lines:
        if is_late:
            detail = f"Parcel {command.receipt_id} arrived after the return had expired"
            facts.append(ReturnReopened(order_id=state.order_id, return_id=one.return_id, detail=detail))
        still = one.count(*EXPECTED) - sum(
            min(line.quantity, one.lines[line.line_id].count(*EXPECTED)) for line in lines
        )
        facts.append(
            ReturnItemsReceived(
                order_id=state.order_id,
                return_id=one.return_id,
                receipt_id=command.receipt_id,
                location=command.location,
                lines=tuple(lines),
                complete=still == 0,
            )
        )
    return facts + [
        ReturnUnexpectedItemReceived(
            order_id=state.order_id, return_id=one.return_id, receipt_id=command.receipt_id, sku=sku, quantity=n
        )
        for sku, n in extra
    ]
