"""What the warehouse says of a shelf and contradicts what it said before: open until the shelf is counted (I16)."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from shared.contracts.base import Fact
from shared.contracts.fulfillment import StockCounted, StockDiscrepancyRecorded
from support_view.domain.discrepancies import Discrepancies, Discrepancy
from support_view.domain.escalations import Obligation, Owner
from support_view.domain.policies import RuleName

STOCK: Final = "stock"
"""Stands for a service where obligations are looked at: shelves have no section."""

READ: Final = (StockDiscrepancyRecorded, StockCounted)
"""The facts of a shelf that say whether it is contradicted."""


@dataclass(frozen=True, slots=True)
class Shelf:
    """`discrepancies`: by the receipt that was contradicted, each since it was first."""

    sku: str = ""
    location: str = ""
    discrepancies: Discrepancies = field(default_factory=dict)


def shelf(facts: Iterable[tuple[Fact, datetime]]) -> Shelf:
    """What the facts of one shelf, in sequence, each with when it happened, add up to."""
    found = Shelf()
    for fact, at in facts:
        match fact:
            case StockDiscrepancyRecorded(sku=sku, location=location):
                said = Discrepancy(at, fact.contradicts, fact.detail, fact.reference)
                since = found.discrepancies.get(fact.reference, said)
                found = Shelf(sku, location, {**found.discrepancies, fact.reference: since})
            case StockCounted(sku=sku, location=location):
                found = Shelf(sku, location)
    return found


def obligations_of(known: Shelf) -> Iterator[Obligation]:
    """A count of the shelf, for each receipt that was contradicted."""
    for reference, said in known.discrepancies.items():
        yield Obligation(
            RuleName.SHELF_CONTRADICTED,
            reference,
            said.at,
            f"the warehouse contradicts itself on {known.sku} in {known.location}: {said.detail}",
            owner=Owner.WAREHOUSE,
            step=lambda words: f"Count {known.sku} in {known.location}",
            link=f"{known.sku}@{known.location}",
        )


Shelves = Mapping[str, Shelf]
"""By subject."""
