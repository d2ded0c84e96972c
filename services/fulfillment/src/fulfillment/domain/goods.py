"""Goods that came back to the warehouse are sellable again, kept apart or scrapped, once per inspection. Pure."""

from collections.abc import Iterable, Sequence
from typing import Final

from fulfillment.domain.state import OrderFulfillment
from fulfillment.domain.stock import Shelf, Stock
from shared.contracts.base import Fact
from shared.contracts.fulfillment import (
    StockFact,
    StockQuarantined,
    StockRestocked,
    StockScrapped,
    StockWithdrawn,
)
from shared.contracts.returns import Disposition, InspectedLine, InspectionOutcome
from shared.core.machine import Invalid

StockChange = type[StockRestocked] | type[StockQuarantined] | type[StockScrapped]

EFFECTS: Final[dict[Disposition, StockChange | None]] = {
    Disposition.RESTOCK: StockRestocked,
    Disposition.REGRADE: StockQuarantined,
    Disposition.VENDOR: StockQuarantined,
    Disposition.QUARANTINE: StockQuarantined,
    Disposition.HOLD: StockQuarantined,
    Disposition.SCRAP: StockScrapped,
    Disposition.SEND_BACK: None,
    Disposition.NONE: None,
}
"""What each disposition does to the stock here; what is regraded or goes to the vendor is kept apart until then."""


def inspect(
    state: OrderFulfillment, inspection_id: str, location: str, lines: Iterable[InspectedLine]
) -> Sequence[Fact]:
    """Book the inspected units. A repeat has no effect."""
    if inspection_id in state.inspections:
        return []
    return _facts(state, inspection_id, location, _by_effect(state, lines))


def revise(
    state: OrderFulfillment,
    inspection_id: str,
    location: str,
    before: Iterable[InspectedLine],
    after: Iterable[InspectedLine],
    stock: Stock,
) -> Sequence[Fact]:
    """Book the difference that an inspection's revision makes. Units that are sold again meanwhile cannot be withdrawn."""
    was, now = _by_effect(state, before), _by_effect(state, after)
    more = {key: units - was.get(key, 0) for key, units in now.items() if units > was.get(key, 0)}
    facts = _facts(state, inspection_id, location, more)
    for (effect, line_id, sku), units in was.items():
        free = stock.shelves.get(sku, {}).get(location, Shelf()).free
        gone = min(units - now.get((effect, line_id, sku), 0), free) if effect is StockRestocked else 0
        if gone > 0:
            facts.append(
                StockWithdrawn(
                    order_id=state.order_id,
                    sku=sku,
                    location=location,
                    quantity=gone,
                    line_id=line_id,
                    cause_id=inspection_id,
                )
            )
    return facts


def article(state: OrderFulfillment, line: InspectedLine) -> str:
    """Return the article that was inspected: as the warehouse says, else the only one that was ever handed over for the line,
    else the one ordered."""
    sent = {
        item.sku
        for shipment in state.shipments.values()
        if shipment.carrier is not None
        for item in shipment.items
        if item.line_id == line.line_id
    }
    return line.sku or (next(iter(sent)) if len(sent) == 1 else state.lines[line.line_id].sku)


def _by_effect(state: OrderFulfillment, lines: Iterable[InspectedLine]) -> dict[tuple[StockChange, str, str], int]:
    sums: dict[tuple[StockChange, str, str], int] = {}
    for line in lines:
        if line.line_id not in state.lines:
            raise Invalid("lines.line_id", f"{line.line_id} is not a line of {state.order_id}")
        effect = EFFECTS[line.disposition]
        # What was not in the box is on no shelf, wherever it was to go.
        if effect is not None and line.outcome is not InspectionOutcome.NOT_IN_BOX:
            key = (effect, line.line_id, article(state, line))
            sums[key] = sums.get(key, 0) + line.quantity
    return sums


def _facts(
    state: OrderFulfillment, inspection_id: str, location: str, sums: dict[tuple[StockChange, str, str], int]
) -> list[StockFact]:
    return [
        effect(
            order_id=state.order_id,
            sku=sku,
            location=location,
            quantity=units,
            line_id=line_id,
            cause_id=inspection_id,
        )
        for (effect, line_id, sku), units in sums.items()
    ]
