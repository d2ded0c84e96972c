"""Inspections give outcomes by the policy's table, what the units are worth, and revisions with what they take back."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from returns.domain.policies import Binding, rule_for
from returns.domain.rma import MONEY, Rma, RmaLine, from_advanced, is_valued, status_of
from returns.domain.state import OrderReturns, Valued, evolve, free, goods_worth, shipping_worth, too_much, valued
from returns.domain.units import EXPECTED, FREED, Purchase, UnitStatus
from shared.contracts.base import Fact
from shared.contracts.returns import (
    NOT_HERE,
    Disposition,
    InspectedLine,
    InspectionOutcome,
    ObservedLine,
    ReturnInspectionRevised,
    ReturnItemsInspected,
)
from shared.core.machine import Invalid, replace
from shared.core.money import cumulative


@dataclass(frozen=True, slots=True)
class RevisedUnits:
    """Units as they are after a revision. What is None is as the policy's table has it."""

    line_id: str
    quantity: int
    outcome: InspectionOutcome
    disposition: Disposition | None = None
    refund_percent: int | None = None
    fee_percent: int | None = None


@dataclass(frozen=True, slots=True)
class ReviseInspection:
    """`lines` replace all that the inspection said of the lines they name."""

    return_id: str
    inspection_id: str
    lines: tuple[RevisedUnits, ...]
    at: datetime


def inspected(
    state: OrderReturns,
    one: Rma,
    inspection_id: str,
    location: str,
    found: Sequence[ObservedLine],
    binding: Binding,
) -> ReturnItemsInspected:
    """Return outcomes by the policy's table, and what the units are worth. All that is `found` of units is here, uninspected."""
    assert state.purchase is not None
    before = {line_id: valued(state, line_id) for line_id in one.lines}
    lines: list[InspectedLine] = []
    after = one
    for units in _by_article(state.purchase, one, found):
        assert units.outcome is not None
        rule = rule_for(binding.policy, units.outcome)
        inspected = InspectedLine(
            line_id=units.line_id,
            quantity=units.quantity,
            sku=units.sku,
            outcome=units.outcome,
            disposition=rule.disposition,
            refund_percent=rule.refund_percent,
            fee_percent=rule.fee_percent,
            refund_shipping=rule.refund_shipping,
            review=rule.review and units.outcome not in NOT_HERE,
        )
        if status_of(inspected) is not None:
            line = after.lines[units.line_id]
            waiting = line.count(UnitStatus.UNINSPECTED)
            advanced = from_advanced(line, units.quantity)
            if is_valued(inspected):
                known = before[units.line_id]
                goods, shipping = _worth(state, one, line, units.quantity, known, advanced)
                inspected = inspected.model_copy(update={"worth_minor": goods, "shipping_minor": shipping})
                before[units.line_id] = _and(known, inspected, advanced)
            left_over = {**line.units, UnitStatus.UNINSPECTED: waiting - units.quantity}
            changed = replace(
                line,
                units=left_over,
                advanced_units=line.advanced_units - advanced[0],
                advanced_minor=line.advanced_minor - advanced[1],
            )
            after = replace(after, lines={**after.lines, units.line_id: changed})
        lines.append(inspected)
    fact = ReturnItemsInspected(
        order_id=state.order_id,
        return_id=one.return_id,
        inspection_id=inspection_id,
        location=location,
        lines=tuple(lines),
        policy=binding.ref,
        complete=after.count(UnitStatus.UNINSPECTED, *EXPECTED) == 0,
    )
    then = evolve(state, fact)
    return fact.model_copy(update={"recovery_minor": recovery(one, then.returns[one.return_id])})


def _by_article(purchase: Purchase, one: Rma, found: Sequence[ObservedLine]) -> Iterator[ObservedLine]:
    """Divide units by the article they are, None for the one that was ordered. Where the inspection does not say, it is what
    the receipt said: the ordered ones first."""
    others = {line_id: dict(line.others) for line_id, line in one.lines.items()}
    for units in found:
        ordered = purchase.lines[units.line_id].sku if units.line_id in purchase.lines else None
        if units.outcome in NOT_HERE or units.line_id not in others:
            yield units
            continue
        there = others[units.line_id]
        if units.sku is not None:
            if units.sku in there:
                there[units.sku] = max(0, there[units.sku] - units.quantity)
            yield units.model_copy(update={"sku": None if units.sku == ordered else units.sku})
            continue
        left = units.quantity
        as_ordered = one.lines[units.line_id].count(UnitStatus.UNINSPECTED) - sum(
            one.lines[units.line_id].others.values()
        )
        for sku, n in ((None, max(0, as_ordered)), *there.items()):
            if taken := min(left, n):
                left -= taken
                if sku is not None:
                    there[sku] -= taken
                yield units.model_copy(update={"sku": sku, "quantity": taken})
        if left:
            yield units.model_copy(update={"quantity": left})


def _and(known: Valued, line: InspectedLine, advanced: tuple[int, int]) -> Valued:
    """Add both. Units refunded in advance were valued before; for shipping none was."""
    units, minor = advanced
    return Valued(
        known.units + line.quantity - units,
        known.goods_minor + line.worth_minor - minor,
        known.shipping_units + line.quantity,
        known.shipping_minor + line.shipping_minor,
    )


def recovery(before: Rma, after: Rma) -> int:
    return max(0, too_much(after) - too_much(before))


def revised(state: OrderReturns, one: Rma, command: ReviseInspection, binding: Binding) -> list[Fact]:
    inspection = one.inspections.get(command.inspection_id)
    if inspection is None:
        raise Invalid("inspection_id", "is not known")
    named = {units.line_id for units in command.lines}
    before = tuple(line for line in inspection.lines if line.line_id in named and status_of(line) is not None)
    inspected = {line_id: sum(line.quantity for line in before if line.line_id == line_id) for line_id in named}
    lines: list[InspectedLine] = []
    for i, units in enumerate(command.lines):
        if units.outcome is InspectionOutcome.EXTRA_ITEM:
            raise Invalid(f"lines.{i}.outcome", "what was a unit of the return cannot become an extra item")
        lines.append(_by_hand(f"lines.{i}", units, binding))
    for line_id, quantity in inspected.items():
        given = sum(units.quantity for units in command.lines if units.line_id == line_id)
        if given != quantity:
            raise Invalid("lines", f"must account for all {quantity} inspected units of {line_id}, not {given}")
        back = _let_go(before, line_id) - _let_go(lines, line_id)
        if back > free(state, line_id):
            raise Invalid("lines", f"units of {line_id} that the customer had are in another return by now")
    after = tuple(_revalued(state, one, before, lines))
    if after == before:
        return []
    fact = ReturnInspectionRevised(
        order_id=state.order_id,
        return_id=one.return_id,
        inspection_id=command.inspection_id,
        location=inspection.location,
        before=before,
        after=after,
        policy=binding.ref,
        recovery_minor=0,
    )
    then = evolve(state, fact)
    return [fact.model_copy(update={"recovery_minor": recovery(one, then.returns[one.return_id])})]


def _let_go(lines: Sequence[InspectedLine], line_id: str) -> int:
    """Count units that were not in the box, or were sent back."""
    return sum(line.quantity for line in lines if line.line_id == line_id and status_of(line) in FREED)


def _by_hand(where: str, units: RevisedUnits, binding: Binding) -> InspectedLine:
    """Return the table's answer, or a person's where one was given; a person has looked, so it needs no review."""
    rule = rule_for(binding.policy, units.outcome)
    line = InspectedLine(
        line_id=units.line_id,
        quantity=units.quantity,
        outcome=units.outcome,
        disposition=units.disposition or rule.disposition,
        refund_percent=rule.refund_percent if units.refund_percent is None else units.refund_percent,
        fee_percent=rule.fee_percent if units.fee_percent is None else units.fee_percent,
        refund_shipping=rule.refund_shipping,
    )
    if units.outcome in NOT_HERE and (line.refund_percent or line.disposition is not rule.disposition):
        raise Invalid(where, "what was not in the box can neither be refunded nor put anywhere")
    if line.disposition is Disposition.SEND_BACK and line.refund_percent:
        raise Invalid(where, "what is sent back is not refunded")
    return line


def _revalued(
    state: OrderReturns, one: Rma, before: Sequence[InspectedLine], lines: Sequence[InspectedLine]
) -> Iterator[InspectedLine]:
    """Keep the worth that units had together; such as had none get theirs now."""
    had = {line.line_id: [0, 0, 0] for line in lines}
    for line in before:
        if is_valued(line):
            had[line.line_id][0] += line.quantity
            had[line.line_id][1] += line.worth_minor
            had[line.line_id][2] += line.shipping_minor
    known = {line_id: valued(state, line_id) for line_id in had}
    for line in lines:
        if not is_valued(line):
            yield line
            continue
        units, goods, shipping = had[line.line_id]
        kept = min(units, line.quantity)
        worth = [cumulative(total, kept, units) if kept else 0 for total in (goods, shipping)]
        had[line.line_id] = [units - kept, goods - worth[0], shipping - worth[1]]
        new = line.quantity - kept
        if new:
            more = _worth(state, one, one.lines[line.line_id], new, known[line.line_id], (0, 0))
            worth = [worth[0] + more[0], worth[1] + more[1]]
            added = line.model_copy(update={"quantity": new, "worth_minor": more[0], "shipping_minor": more[1]})
            known[line.line_id] = _and(known[line.line_id], added, (0, 0))
        yield line.model_copy(update={"worth_minor": worth[0], "shipping_minor": worth[1]})


def _worth(
    state: OrderReturns, one: Rma, line: RmaLine, quantity: int, before: Valued, advanced: tuple[int, int]
) -> tuple[int, int]:
    """Return (goods, shipping) of units now inspected; `advanced` of them have their worth already: (units, minor)."""
    if one.resolution not in MONEY:
        return 0, 0
    units, minor = advanced
    line_id = line.asked.line_id
    return (
        minor + (goods_worth(state, line_id, quantity - units, before) if quantity > units else 0),
        shipping_worth(state, line_id, quantity, before),
    )
