"""The order as its own facts tell it: where it stands, what holds it, what was asked to be cancelled."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from enum import StrEnum
from typing import Final

from shared.contracts.base import TenderKind
from shared.contracts.orders import (
    Address,
    Customer,
    OrderAddressChanged,
    OrderBackorderConsentGiven,
    OrderCancellationRefused,
    OrderCancellationRequested,
    OrderCancelled,
    OrderClosed,
    OrderCompleted,
    OrderConfirmed,
    OrderFundingChanged,
    OrderHoldPlaced,
    OrderHoldReleased,
    OrderLine,
    OrderLinesCancelled,
    OrderPlaced,
    OrderProgressed,
    OrderRejected,
    OrderReopened,
    TenderSpec,
)
from shared.core.machine import replace
from support_view.domain.signals import Signal
from support_view.domain.timeline import Details, Entry, Quiet, Sentences, Words, add, day, plain, plural, put


class Status(StrEnum):
    PLACED = "placed"
    CONFIRMED = "confirmed"
    CANCEL_PENDING = "cancel_pending"
    COMPLETED = "completed"
    CLOSED = "closed"
    REJECTED = "rejected"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Line:
    line_id: str
    sku: str
    title: str
    quantity: int
    unit_price_minor: int
    discount_minor: int
    tax_minor: int
    shipping_minor: int
    goods_minor: int
    promised_on: date | None
    final_sale: bool


@dataclass(frozen=True, slots=True)
class Tender:
    tender_id: str
    kind: TenderKind
    amount_minor: int


@dataclass(frozen=True, slots=True)
class Placed:
    """The order as it was placed; a slim copy, since it is read with every fact of the order."""

    at: datetime
    currency: str
    customer_id: str
    customer_name: str
    email: str
    ship_to: tuple[str, ...]
    lines: tuple[Line, ...]
    tenders: tuple[Tender, ...]
    preference: str
    goods_minor: int
    shipping_minor: int
    total_minor: int
    terms: bool


@dataclass(frozen=True, slots=True)
class Hold:
    detail: str
    since: datetime
    actor: str


@dataclass(frozen=True, slots=True)
class Cancellation:
    """What was asked for and, per line, how much of it was answered with yes and with no."""

    at: datetime
    actor: str
    detail: str
    whole: bool
    asked: Mapping[str, int]
    cancelled: Mapping[str, int] = field(default_factory=dict)
    refused: Mapping[str, int] = field(default_factory=dict)
    refusals: tuple[str, ...] = ()

    @property
    def is_open(self) -> bool:
        return any(
            self.cancelled.get(line, 0) + self.refused.get(line, 0) < asked for line, asked in self.asked.items()
        )


@dataclass(frozen=True, slots=True)
class Orders:
    """`standing` is the status apart from pending cancellations, which lie over it."""

    standing: Status | None = None
    placed: Placed | None = None
    rejection: str = ""
    holds: Mapping[str, Hold] = field(default_factory=dict)
    cancellations: Mapping[str, Cancellation] = field(default_factory=dict)
    remaining_minor: int | None = None
    choices: Mapping[str, str] = field(default_factory=dict)
    confirmed_at: datetime | None = None
    completed_at: datetime | None = None
    closed_at: datetime | None = None
    closes_at: datetime | None = None
    """When it closes if nothing is open then, once it is complete."""
    signs: tuple[Signal, ...] = ()

    @property
    def pending(self) -> Mapping[str, Cancellation]:
        return {id: cancellation for id, cancellation in self.cancellations.items() if cancellation.is_open}

    @property
    def status(self) -> Status | None:
        is_under_way = self.standing in (Status.PLACED, Status.CONFIRMED)
        return Status.CANCEL_PENDING if is_under_way and self.pending else self.standing


def fold(orders: Orders, entry: Entry) -> Orders:
    """Total: any fact of the service, in any state, leads somewhere."""
    at = entry.occurred_at
    match entry.fact:
        case OrderPlaced() as fact:
            return replace(orders, standing=Status.PLACED, placed=_placed(fact), remaining_minor=fact.total_minor)
        case OrderConfirmed():
            return replace(orders, standing=Status.CONFIRMED, confirmed_at=at)
        case OrderRejected(reason_code=code, detail=detail):
            return replace(orders, standing=Status.REJECTED, rejection=detail or plain(code))
        case OrderHoldPlaced(hold=hold, detail=detail):
            return replace(orders, holds=put(orders.holds, hold.value, Hold(detail, at, entry.actor)))
        case OrderHoldReleased(hold=hold):
            return replace(orders, holds={name: held for name, held in orders.holds.items() if name != hold.value})
        case OrderCancellationRequested() as fact:
            asked = Cancellation(at, entry.actor, fact.detail, fact.whole, add({}, fact.lines))
            return replace(orders, cancellations=put(orders.cancellations, fact.cancellation_id, asked))
        case OrderLinesCancelled() as fact:
            asked = _cancellation(orders, fact.cancellation_id, entry)
            asked = replace(asked, cancelled=add(asked.cancelled, fact.lines))
            return replace(
                orders,
                cancellations=put(orders.cancellations, fact.cancellation_id, asked),
                remaining_minor=fact.remaining_minor,
            )
        case OrderCancellationRefused() as fact:
            asked = _cancellation(orders, fact.cancellation_id, entry)
            asked = replace(
                asked, refused=add(asked.refused, fact.lines), refusals=(*asked.refusals, plain(fact.reason_code))
            )
            return replace(orders, cancellations=put(orders.cancellations, fact.cancellation_id, asked))
        case OrderCancelled():
            return replace(orders, standing=Status.CANCELLED)
        case OrderCompleted(closes_at=closes_at):
            return replace(orders, standing=Status.COMPLETED, completed_at=at, closes_at=closes_at)
        case OrderClosed():
            return replace(orders, standing=Status.CLOSED, closed_at=at)
        case OrderReopened(cause=cause):
            standing = Status.CONFIRMED if cause == "replacement" else Status.COMPLETED
            return replace(orders, standing=standing, closed_at=None)
        case OrderAddressChanged(ship_to=ship_to):
            if orders.placed is None:
                return orders
            return replace(orders, placed=replace(orders.placed, ship_to=_address(ship_to)))
        case OrderBackorderConsentGiven(backorder_id=id, choice=choice):
            return replace(orders, choices=put(orders.choices, id, choice.value))
        case OrderProgressed() | OrderFundingChanged():
            return orders  # what another service told; its own section carries it
        case _:
            raise TypeError(f"{entry.fact.type} is no fact of orders")


def _cancellation(orders: Orders, id: str, entry: Entry) -> Cancellation:
    return orders.cancellations.get(id) or Cancellation(entry.occurred_at, entry.actor, "", False, {})


def _placed(fact: OrderPlaced) -> Placed:
    customer: Customer = fact.customer
    return Placed(
        at=fact.placed_at,
        currency=fact.currency,
        customer_id=customer.customer_id,
        customer_name=customer.name,
        email=customer.email,
        ship_to=_address(fact.ship_to),
        lines=tuple(_line(line) for line in fact.lines),
        tenders=tuple(_tender(tender) for tender in fact.tenders),
        preference=fact.preference.rule,
        goods_minor=fact.goods_minor,
        shipping_minor=fact.shipping_minor,
        total_minor=fact.total_minor,
        terms=fact.terms,
    )


def _line(line: OrderLine) -> Line:
    return Line(
        line_id=line.line_id,
        sku=line.sku,
        title=line.title,
        quantity=line.quantity,
        unit_price_minor=line.unit_price_minor,
        discount_minor=line.discount_minor,
        tax_minor=line.tax_minor,
        shipping_minor=line.shipping_minor,
        goods_minor=line.goods_minor,
        promised_on=line.promised_on,
        final_sale=line.final_sale,
    )


def _tender(tender: TenderSpec) -> Tender:
    return Tender(tender.tender_id, tender.kind, tender.amount_minor)


def _address(address: Address) -> tuple[str, ...]:
    return (address.name, address.street, f"{address.postal_code} {address.city}", address.country)


SENTENCES: Final[Sentences] = {
    OrderPlaced: lambda f, w: (
        f"Order placed: {plural(sum(line.quantity for line in f.lines), 'unit')} in "
        f"{plural(len(f.lines), 'line')} for {w.money(f.total_minor, f.currency)}"
    ),
    OrderConfirmed: lambda f, w: (
        f"Order confirmed: {w.money(f.authorized_minor)} of {w.money(f.total_minor)} authorized"
    ),
    OrderRejected: lambda f, w: f"Order rejected: {plain(f.reason_code)}",
    OrderHoldPlaced: lambda f, w: f"Held: {plain(f.hold)}. Nothing is handed over until it is released",
    OrderHoldReleased: lambda f, w: f"Hold released: {plain(f.hold)}",
    OrderFundingChanged: lambda f, w: (
        f"Paid for until {day(f.funded_until)}, by what is authorized"
        if f.funded_until
        else "What has not left is paid for, and nothing of it runs out"
    ),
    OrderCancellationRequested: lambda f, w: (
        f"Cancellation requested: {'the whole order' if f.whole else w.units(f.lines)}"
    ),
    OrderLinesCancelled: lambda f, w: (
        f"Cancelled: {w.units(f.lines)}; {w.money(f.remaining_minor)} of the order is left"
    ),
    OrderCancellationRefused: lambda f, w: f"Not cancelled: {w.units(f.lines)}, {plain(f.reason_code)}",
    OrderCancelled: lambda f, w: "Order cancelled",
    OrderCompleted: lambda f, w: f"Order completed: {_ends(f)}",
    OrderClosed: lambda f, w: "Order closed: nothing is open any more",
    OrderReopened: lambda f, w: f"Order reopened for a {plain(f.cause)}",
    OrderAddressChanged: lambda f, w: f"Delivery address changed: now {f.ship_to.city}, {f.ship_to.country}",
    OrderBackorderConsentGiven: lambda f, w: f"Customer's choice for backorder {f.backorder_id}: {plain(f.choice)}",
    OrderProgressed: lambda f, w: f"The order took note of {f.heard}",
}

QUIET: Final[Quiet] = frozenset({OrderProgressed, OrderFundingChanged})

DETAILS: Final[Details] = {
    OrderPlaced: lambda f, w: [f"{w.some(line.quantity, line.line_id)}, {line.sku}" for line in f.lines],
    OrderRejected: lambda f, w: [f.detail],
    OrderHoldPlaced: lambda f, w: [f.detail],
    OrderHoldReleased: lambda f, w: [f.detail],
    OrderCancellationRequested: lambda f, w: [f.detail],
}


def _ends(fact: OrderCompleted) -> str:
    counts = {"delivered": fact.delivered, "cancelled": fact.cancelled, "lost": fact.lost}
    return Words.listed(f"{count} {name}" for name, count in counts.items() if count) or "nothing was ordered"
