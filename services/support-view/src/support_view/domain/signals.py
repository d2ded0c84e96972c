"""Signs of trouble: what single facts of a service show, as it is kept with the service's section, so that causes are
found from all services' signs of an order without reading its facts again. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from support_view.domain.timeline import Mark


class SignalKind(StrEnum):
    BACKORDERED = "backordered"
    PART_SHIPPED = "part_shipped"
    PART_DELIVERED = "part_delivered"
    DELAYED = "delayed"
    LOST = "lost"
    DAMAGED = "damaged"
    UNDELIVERABLE = "undeliverable"
    CALLED_OFF = "called_off"
    DECLINED = "declined"
    UNANSWERED = "unanswered"
    BOOKS_DIFFER = "books_differ"
    OVERPAID = "overpaid"
    REFUND_LATE = "refund_late"
    REFUND_FAILED = "refund_failed"
    EXCEPTION = "exception"
    REFUSED = "refused"
    WRONG_ITEM = "wrong_item"
    DEFECTIVE = "defective"
    UNWANTED = "unwanted"
    UNTRUE = "untrue"
    UNTOLD = "untold"
    ASKED = "asked"


ASKED_ABOUT: Final = frozenset({SignalKind.PART_SHIPPED, SignalKind.PART_DELIVERED, SignalKind.REFUSED})
"""They bear nothing out unless the customer asked."""


@dataclass(frozen=True, slots=True)
class Signal:
    """`item` is what shows it: a shipment, a refund, a line of a return. `about`: `carrier:dhl`, `sku:LAMP`."""

    kind: SignalKind
    item: str
    mark: Mark
    about: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Cleared:
    """A later fact shows that it was not so, or is not so any more."""

    kind: SignalKind
    item: str


MOST: Final = 100
"""Signals of one projection; an order with more of them has its causes all the same."""


def with_signals(signs: tuple[Signal, ...], news: Iterable[Signal | Cleared]) -> tuple[Signal, ...]:
    """Of one kind and item the first stays, so that what keeps showing is one signal."""
    for one in news:
        place = (one.kind, one.item)
        if isinstance(one, Cleared):
            signs = tuple(signal for signal in signs if (signal.kind, signal.item) != place)
        elif len(signs) < MOST and all((signal.kind, signal.item) != place for signal in signs):
            signs = (*signs, one)
    return signs
