"""A shelf, one sku at one location, as goods come in: received once per receipt, announced with a date. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeAlias

from shared.contracts.base import Fact
from shared.contracts.fulfillment import StockDiscrepancyRecorded, StockExpected, StockReceived
from shared.machine import Invalid, replace


@dataclass(frozen=True, slots=True)
class ShelfState:
    """`incoming` is what is announced and not yet here."""

    key: str
    received: int = 0
    incoming: int = 0
    eta: datetime | None = None


@dataclass(frozen=True, slots=True)
class Receive:
    receipt_id: str
    sku: str
    location: str
    quantity: int


@dataclass(frozen=True, slots=True)
class Expect:
    """What is on its way in all, replacing what was announced before."""

    sku: str
    location: str
    incoming: int
    eta: datetime | None


ShelfCommand: TypeAlias = Receive | Expect


@dataclass(frozen=True, slots=True)
class Receipts:
    """Of the receipts that a batch names, the quantities of those that had their effect, by (shelf's key, receipt id).

    `told_at` is when the latest of what is told of a shelf happened.
    """

    known: Mapping[tuple[str, str], int] = field(default_factory=dict)
    told_at: Mapping[str, datetime] = field(default_factory=dict)


def key_of(sku: str, location: str) -> str:
    return f"stock:{sku}@{location}"


def decide(state: ShelfState, command: ShelfCommand, receipts: Receipts) -> Sequence[Fact]:
    # "A@B" at "C" and "A" at "B@C" would be one key.
    if "@" in command.sku:
        raise Invalid("sku", "must not contain @")
    match command:
        case Receive(receipt_id=receipt_id, sku=sku, location=location, quantity=quantity):
            before = receipts.known.get((state.key, receipt_id))
            if before is not None and before != quantity:
                return [
                    StockDiscrepancyRecorded(
                        sku=sku,
                        location=location,
                        observation="warehouse.goods_received",
                        contradicts="receipt",
                        reference=receipt_id,
                        quantity=quantity,
                        recorded=before,
                        detail=f"{receipt_id} was received before with {before} units, and is said to have {quantity}",
                    )
                ]
            if before is not None:
                return []
            return [StockReceived(sku=sku, location=location, quantity=quantity, receipt_id=receipt_id)]
        case Expect(sku=sku, location=location, incoming=incoming):
            eta = command.eta if incoming else None
            if (incoming, eta) == (state.incoming, state.eta):
                return []
            return [StockExpected(sku=sku, location=location, incoming=incoming, eta=eta)]


def evolve(state: ShelfState, fact: Fact) -> ShelfState:
    match fact:
        case StockReceived(quantity=quantity):
            left = max(0, state.incoming - quantity)
            eta = state.eta if left else None
            return replace(state, received=state.received + quantity, incoming=left, eta=eta)
        case StockExpected(incoming=incoming, eta=eta):
            return replace(state, incoming=incoming, eta=eta)
        case StockDiscrepancyRecorded():
            return state
        case _:
            raise TypeError(f"{fact.type} is no fact of a shelf")


def follow(receipts: Receipts, fact: Fact) -> Receipts:
    if isinstance(fact, StockReceived):
        return replace(receipts, known={**receipts.known, (fact.subject, fact.receipt_id): fact.quantity})
    return receipts
