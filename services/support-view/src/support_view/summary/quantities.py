"""Where every unit is: forward until it is delivered, and reverse from there."""

from collections.abc import Iterator
from datetime import date
from typing import Final

from pydantic import Field

from shared.contracts.base import Bucket, Model
from support_view.domain.returns import NO_UNITS, ReverseBucket
from support_view.summary.sections import Amount, Sections


class LineQuantities(Model):
    """Forward buckets sum to `owed`, reverse buckets to the delivered units."""

    line_id: str
    sku: str
    title: str
    price: Amount
    ordered: int
    owed: int = Field(description="ordered, and owed again as replacements")
    promised_on: date | None
    instead: tuple[str, ...] = Field(description="other articles that some of its units ship as, by title")
    forward: dict[Bucket, int]
    reverse: dict[ReverseBucket, int]


_NO_FORWARD: Final = dict.fromkeys(Bucket, 0)


def _line_ids(s: Sections) -> list[str]:
    """As ordered; before the order was seen, as fulfillment names them."""
    placed = [line.line_id for line in s.orders.placed.lines] if s.orders.placed else []
    return [*placed, *(line_id for line_id in s.fulfillment.units if line_id not in placed)]


def _forward(s: Sections, line_id: str, ordered: int) -> dict[Bucket, int]:
    """As fulfillment counts them; all are unallocated before it has told of any."""
    told = s.fulfillment.units.get(line_id, {Bucket.UNALLOCATED: ordered})
    return {**_NO_FORWARD, **told}


def _reverse(s: Sections, line_id: str, delivered: int) -> dict[ReverseBucket, int]:
    units = dict(NO_UNITS)
    for told in s.returns.returns.values():
        for bucket, quantity in told.units(line_id).items():
            if bucket != ReverseBucket.WITH_CUSTOMER:
                units[bucket] += quantity
    # What was sent back is with the customer again, and may be in a later return: there it counts.
    sent_back = units.pop(ReverseBucket.REJECTED_SENT_BACK)
    units[ReverseBucket.REJECTED_SENT_BACK] = min(sent_back, max(0, delivered - sum(units.values())))
    units[ReverseBucket.WITH_CUSTOMER] = max(0, delivered - sum(units.values()))
    return units


def _instead(s: Sections, line_id: str) -> tuple[str, ...]:
    held = [one.substituted for one in s.fulfillment.shipments.values() if one.is_live]
    held += [one.substituted for one in s.fulfillment.backorders.values() if one.is_open]
    titles = (other.title or other.sku for others in held for other in others if other.line_id == line_id)
    return tuple(dict.fromkeys(titles))


def line_quantities(s: Sections) -> Iterator[LineQuantities]:
    placed = {line.line_id: line for line in s.orders.placed.lines} if s.orders.placed else {}
    for line_id in _line_ids(s):
        line = placed.get(line_id)
        ordered = line.quantity if line else 0
        units = _forward(s, line_id, ordered)
        yield LineQuantities(
            line_id=line_id,
            sku=line.sku if line else "",
            title=line.title if line else f"line {line_id}",
            price=s.amount(line.goods_minor if line else 0),
            ordered=ordered,
            owed=sum(units.values()),
            promised_on=line.promised_on if line else None,
            instead=_instead(s, line_id),
            forward=units,
            reverse=_reverse(s, line_id, units[Bucket.DELIVERED]),
        )
