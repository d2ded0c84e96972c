"""The sections of one order side by side, and what things in it are called."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pydantic import Field

from shared.contracts.base import Model
from shared.contracts.fulfillment import SubstitutedUnits
from support_view.domain.fulfillment import Fulfillment, Shipment
from support_view.domain.notifications import Notifications
from support_view.domain.orders import Orders
from support_view.domain.payments import Payments
from support_view.domain.returns import Returns
from support_view.domain.support import Support
from support_view.domain.timeline import Words, plain
from support_view.projection import DOMAINS, Projection


class Amount(Model):
    minor: int = Field(description="in minor units of the order's currency")
    text: str


@dataclass(frozen=True, slots=True)
class Sections:
    """What is known of an order by each service that tells of it; empty where nothing was seen."""

    orders: Orders
    payments: Payments
    fulfillment: Fulfillment
    returns: Returns
    notifications: Notifications
    support: Support
    words: Words

    @property
    def states(self) -> Mapping[str, Any]:
        """By service; what support does itself is read from its own aggregate, not from its section."""
        names = ("orders", "payments", "fulfillment", "returns", "notifications")
        return {name: getattr(self, name) for name in names}

    def amount(self, minor: int) -> Amount:
        return _amount(minor, self.words.currency)

    def contents(self, units: Mapping[str, int], substituted: Sequence[SubstitutedUnits] = ()) -> str:
        """`2 × CommandBus lamp and 1 × Chair`."""
        return self.words.listed(self.words.articles(units, substituted)) or "nothing"


@lru_cache(maxsize=1024)
def _amount(minor: int, currency: str | None) -> Amount:
    return Amount(minor=minor, text=Words(currency).money(minor))


def side_by_side(sections: Mapping[str, Projection[Any]]) -> Sections:
    states = {service: sections[service].state if service in sections else d.initial for service, d in DOMAINS.items()}
    return Sections(**states, words=_words(states["orders"], states["payments"], states["fulfillment"]))


def _words(orders: Orders, payments: Payments, fulfillment: Fulfillment) -> Words:
    placed = orders.placed
    kinds = {tender.tender_id: tender.kind for tender in placed.tenders} if placed else {}
    kinds |= {id: tender.kind for id, tender in payments.tenders.items() if tender.kind}
    return Words(
        currency=placed.currency if placed else payments.currency,
        titles={line.line_id: line.title for line in placed.lines} if placed else {},
        tenders={id: plain(kind) for id, kind in kinds.items()},
        shipments={id: name for id, shipment in fulfillment.shipments.items() if (name := _number(shipment))},
        sent=tuple(_sent(fulfillment)),
    )


def _sent(fulfillment: Fulfillment) -> Iterator[SubstitutedUnits]:
    """Of each line that left as one other article only, that article."""
    left: dict[str, int] = {}
    others: dict[str, list[SubstitutedUnits]] = {}
    for shipment in fulfillment.shipments.values():
        if shipment.shipped_at is not None:
            for line_id, quantity in shipment.lines.items():
                left[line_id] = left.get(line_id, 0) + quantity
            for other in shipment.substituted:
                others.setdefault(other.line_id, []).append(other)
    for line_id, found in others.items():
        quantity = sum(other.quantity for other in found)
        if quantity == left.get(line_id) and len({other.sku for other in found}) == 1:
            yield found[0].model_copy(update={"quantity": quantity})


def _number(shipment: Shipment) -> str:
    return f"shipment {shipment.number} of {shipment.of}" if shipment.of else ""
