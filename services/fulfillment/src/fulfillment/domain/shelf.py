"""A shelf, one sku at one location, as goods come in: received once per receipt, announced with a date. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeAlias

from fulfillment.domain.stock import Shelf
from shared.contracts.base import Fact
from shared.contracts.fulfillment import StockCounted, StockDiscrepancyRecorded, StockExpected, StockReceived
from shared.core.machine import replace


@dataclass(frozen=True, slots=True)
class ShelfState:
    """`incoming` is what is announced and not yet here; `corrected` what counts changed in all."""

    key: str
    received: int = 0
    corrected: int = 0
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


@dataclass(frozen=True, slots=True)
class CountUnits:
    """So many units lie there, packed ones that have not left included."""

    sku: str
    location: str
    counted: int
    detail: str


ShelfCommand: TypeAlias = Receive | Expect | CountUnits


@dataclass(frozen=True, slots=True)
class Receipts:
    """Of the receipts that a batch names, the quantities of those that had their effect, by (shelf's key, receipt id).

    `told_at` is when the latest of what is told of a shelf happened. `shelves` are those that are counted, locked.
    """

    known: Mapping[tuple[str, str], int] = field(default_factory=dict)
    told_at: Mapping[str, datetime] = field(default_factory=dict)
    shelves: Mapping[str, Shelf] = field(default_factory=dict)


def decide(state: ShelfState, command: ShelfCommand, receipts: Receipts) -> Sequence[Fact]:
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
        case CountUnits(sku=sku, location=location, counted=counted, detail=detail):
            shelf = receipts.shelves.get(state.key, Shelf())
            return [
                StockCounted(
                    sku=sku,
                    location=location,
                    counted=counted,
                    before=shelf.on_hand,
                    change=max(counted, shelf.allocated) - shelf.on_hand,
                    missing=max(0, shelf.allocated - counted),
                    detail=detail,
                )
            ]


def evolve(state: ShelfState, fact: Fact) -> ShelfState:
    match fact:
        case StockReceived(quantity=quantity):
            left = max(0, state.incoming - quantity)
            eta = state.eta if left else None
            return replace(state, received=state.received + quantity, incoming=left, eta=eta)
        case StockExpected(incoming=incoming, eta=eta):
            return replace(state, incoming=incoming, eta=eta)
        case StockCounted(change=change):
            return replace(state, corrected=state.corrected + change)
        case StockDiscrepancyRecorded():
            return state
        case _:
            raise TypeError(f"{fact.type} is no fact of a shelf")


def evolve_context(receipts: Receipts, fact: Fact) -> Receipts:
    match fact:
        case StockReceived(receipt_id=receipt_id, quantity=quantity):
            receipts = replace(receipts, known={**receipts.known, (fact.subject, receipt_id): quantity})
            return _with(receipts, fact.subject, quantity)
        case StockCounted(change=change):
            return _with(receipts, fact.subject, change)
        case _:
            return receipts


def _with(receipts: Receipts, key: str, units: int) -> Receipts:
    if key not in receipts.shelves:
        return receipts
    shelf = receipts.shelves[key]
    return replace(receipts, shelves={**receipts.shelves, key: replace(shelf, on_hand=shelf.on_hand + units)})
