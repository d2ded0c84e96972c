"""What follows when units of a return moved: replacements released, money stated as due, the return resolved."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final, Literal, TypeAlias

from returns.domain.owed import is_settled
from returns.domain.policies import Binding
from returns.domain.rma import (
    MONEY,
    RETURN,
    Exchange,
    Rma,
    RmaLine,
    Stated,
    is_refunded,
    is_undecided,
    owed_in_exchange,
    refund_of,
    still_owes,
)
from returns.domain.state import (
    OrderReturns,
    evolve,
    goods_minor,
    goods_worth,
    room,
    target,
    valued,
)
from returns.domain.units import EXPECTED, OPEN, UnitStatus
from shared.contracts.base import Fact, LineQuantity
from shared.contracts.returns import (
    DueLine,
    ExchangeCreated,
    ExchangeDifferenceDue,
    ExchangeDifferenceSettled,
    ExchangeReleased,
    Resolution,
    ReturnPolicy,
    ReturnReason,
    ReturnRefundDue,
    ReturnResolved,
)
from shared.core.money import cumulative

EARLY: Final[dict[str, tuple[UnitStatus, ...]]] = {
    "at_once": (*EXPECTED, UnitStatus.UNINSPECTED),
    "carrier_scan": (UnitStatus.IN_TRANSIT, UnitStatus.UNINSPECTED),
    "receipt": (UnitStatus.UNINSPECTED,),
    "inspection": (),
}
"""By the policy's trigger: which units are refunded before they are inspected."""


ReplacedFor: TypeAlias = Literal["exchange", "lost", "damaged", "wrong_item"]


def consequences(state: OrderReturns, return_id: str, binding: Binding, at: datetime) -> Iterator[Fact]:
    """Facts that follow from the state as it is, each from the state after the one before."""
    if not state.returns[return_id].is_decided:
        return
    for step in (_lapsed, _releases, _refund_due, _resolved):
        for fact in tuple(step(state, state.returns[return_id], binding, at)):
            yield fact
            state = evolve(state, fact)


def exchanges_made(state: OrderReturns, one: Rma) -> Iterator[ExchangeCreated]:
    """What an approved return for goods is to be answered with: one exchange for each line."""
    assert state.purchase is not None
    number = state.exchanges
    for line_id, line in one.lines.items():
        if not line.approved:
            continue
        purchased = state.purchase.lines[line_id]
        worth = cumulative(goods_minor(state, line_id), min(line.approved, purchased.quantity), purchased.quantity)
        price = line.asked.exchange_unit_price_minor
        number += 1
        yield ExchangeCreated(
            order_id=state.order_id,
            return_id=one.return_id,
            exchange_id=f"{state.order_id}-X{number}",
            lines=(LineQuantity(line_id=line_id, quantity=line.approved),),
            sku=line.asked.exchange_sku or purchased.sku,
            difference_minor=0 if price is None else price * line.approved - worth,
        )


def _releases(state: OrderReturns, one: Rma, _: Binding, __: datetime) -> Iterator[Fact]:
    assert state.purchase is not None
    for exchange_id, exchange in one.exchanges.items():
        line = one.lines[exchange.line_id]
        owed = owed_in_exchange(one, line)
        if exchange.released or not owed:
            continue
        if exchange.is_settled or not exchange.price_of(owed):
            units = _paid_for(exchange, owed, line.stated.refund_minor) if exchange.is_settled else owed
            if units:
                yield _released(state, one, exchange_id, units)
        elif not exchange.due_minor:
            yield _difference_due(state, one, exchange_id, exchange.price_of(owed))


def _paid_for(exchange: Exchange, owed: int, given_back_minor: int) -> int:
    """How many of the units owed are paid for: a revision may have allowed more since."""
    paid = exchange.due_minor if exchange.is_settled_by_hand else exchange.charged_minor - given_back_minor
    return max(units for units in range(owed + 1) if exchange.price_of(units) <= max(0, paid))


def _difference_due(state: OrderReturns, one: Rma, exchange_id: str, amount: int) -> ExchangeDifferenceDue:
    assert state.purchase is not None
    return ExchangeDifferenceDue(
        order_id=state.order_id,
        return_id=one.return_id,
        exchange_id=exchange_id,
        amount_minor=amount,
        currency=state.purchase.currency,
    )


def _lapsed(state: OrderReturns, one: Rma, _: Binding, __: datetime) -> Iterator[Fact]:
    """What was asked of the customer is no longer owed: nothing was accepted after all, or the return came late."""
    for exchange_id, exchange in one.exchanges.items():
        is_open = not exchange.released and is_undecided(one, one.lines[exchange.line_id])
        if exchange.due_minor and not exchange.is_settled and not is_open and not still_owes(one, exchange):
            yield difference_settled(state, one, exchange_id, 0, None)


def difference_settled(
    state: OrderReturns, one: Rma, exchange_id: str, amount: int, operation_id: str | None
) -> ExchangeDifferenceSettled:
    assert state.purchase is not None
    return ExchangeDifferenceSettled(
        order_id=state.order_id,
        return_id=one.return_id,
        exchange_id=exchange_id,
        amount_minor=amount,
        currency=state.purchase.currency,
        operation_id=operation_id,
    )


def _released(state: OrderReturns, one: Rma, exchange_id: str, quantity: int) -> ExchangeReleased:
    """The replacement of what came back (or is to come back) may be shipped."""
    exchange = one.exchanges[exchange_id]
    line = one.lines[exchange.line_id]
    return ExchangeReleased(
        order_id=state.order_id,
        return_id=one.return_id,
        exchange_id=exchange_id,
        lines=(LineQuantity(line_id=exchange.line_id, quantity=quantity),),
        sku=exchange.sku,
        reason_code="exchange" if one.resolution is Resolution.EXCHANGE else replaced_for(line.asked.reason),
    )


def unpaid_advance(state: OrderReturns, one: Rma) -> Iterator[ExchangeDifferenceDue]:
    """A replacement was sent ahead, and its return did not come: the customer owes what those units are worth."""
    assert state.purchase is not None
    for exchange_id, exchange in one.exchanges.items():
        missing = one.lines[exchange.line_id].count(UnitStatus.NOT_ARRIVED)
        if exchange.released and missing and not exchange.due_minor and not exchange.is_settled:
            purchased = state.purchase.lines[exchange.line_id]
            worth = cumulative(
                goods_minor(state, exchange.line_id), min(missing, purchased.quantity), purchased.quantity
            )
            if worth:
                yield _difference_due(state, one, exchange_id, worth)


def _refund_due(state: OrderReturns, one: Rma, binding: Binding, at: datetime) -> Iterator[Fact]:
    """What the units stand for, less what was stated; nothing while that is nothing."""
    assert state.purchase is not None
    lines = [line for line_id in one.lines if (line := _due_line(state, one, line_id, binding.policy))]
    total = sum(line.refund_minor for line in lines)
    fee = max(0, min(total, _shipping_fee(one, lines, binding.policy) - one.fee_charged_minor))
    if total > fee:
        yield ReturnRefundDue(
            order_id=state.order_id,
            return_id=one.return_id,
            due_id=_due_id(one, sum(line.quantity for line in lines)),
            lines=tuple(lines),
            amount_minor=total - fee,
            currency=state.purchase.currency,
            trigger_at=at,
            resolution=one.resolution,
            return_shipping_fee_minor=fee,
            policy=binding.ref,
        )


def _due_id(one: Rma, units: int) -> str:
    """From the return and how many of its units are refunded with this: stating the same units twice is one id."""
    base = f"{one.return_id}-D{units + sum(line.stated.units for line in one.lines.values())}"
    corrections = sum(due_id == base or due_id.startswith(f"{base}.") for due_id in one.dues)
    return f"{base}.{corrections}" if corrections else base


def _due_line(state: OrderReturns, one: Rma, line_id: str, policy: ReturnPolicy) -> DueLine | None:
    line = one.lines[line_id]
    fresh, worth = 0, 0
    if one.resolution in MONEY:
        early = line.count(UnitStatus.KEPT, *EARLY[policy.refund_trigger])
        fresh = max(0, early - line.advanced_units)
        worth = goods_worth(state, line_id, fresh, valued(state, line_id)) if fresh else 0
    wanted = target(one, line) + worth
    refund = min(wanted - line.stated.refund_minor, room(state, line_id, worth))
    if refund <= 0:
        return None
    now = _stands_for(one, line, fresh, worth)
    return DueLine(
        line_id=line_id,
        quantity=max(0, now.units - line.stated.units),
        advanced_units=fresh,
        advanced_minor=worth,
        gross_minor=max(0, now.gross_minor - line.stated.gross_minor),
        fee_minor=max(0, now.fee_minor - line.stated.fee_minor),
        shipping_minor=max(0, now.shipping_minor - line.stated.shipping_minor),
        refund_minor=refund,
    )


def _stands_for(one: Rma, line: RmaLine, fresh: int, worth: int) -> Stated:
    """The sums behind what the line's units should have been refunded."""
    refunded = [i for i in one.inspected(line.asked.line_id) if is_refunded(i)] if one.resolution in MONEY else []
    return Stated(
        units=line.advanced_units + fresh + sum(i.quantity for i in refunded),
        gross_minor=line.advanced_minor + worth + sum(i.worth_minor for i in refunded),
        fee_minor=sum(refund_of(i)[1] for i in refunded),
        shipping_minor=sum(refund_of(i)[2] for i in refunded),
    )


def _shipping_fee(one: Rma, lines: list[DueLine], policy: ReturnPolicy) -> int:
    """Once per return, unless every unit refunded came back by the shop's fault: as declared, or as found. Who sent goods
    back unannounced has paid the postage already."""
    if one.announced_as:
        return 0
    for due in lines:
        found = [i for i in one.inspected(due.line_id) if is_refunded(i)]
        is_found_faulty = bool(found) and all(i.refund_shipping for i in found)
        is_free = one.lines[due.line_id].asked.reason in policy.free_return_reasons
        is_refund = one.resolution in (Resolution.REFUND, Resolution.STORE_CREDIT)
        if due.quantity and not is_free and not is_found_faulty and is_refund:
            return policy.return_shipping_fee_minor
    return 0


def _resolved(state: OrderReturns, one: Rma, binding: Binding, at: datetime) -> Iterator[Fact]:
    """Nothing of it is open: no unit, no replacement, no money."""
    assert state.purchase is not None
    if (
        one.has_open_units
        or not RETURN.admits(one.status, ReturnResolved)
        or not all(due.is_settled for due in one.dues.values())
        or not is_settled(state, one)
        or any(not e.released and _may_still_be_owed(one, one.lines[e.line_id]) for e in one.exchanges.values())
    ):
        return
    yield ReturnResolved(
        order_id=state.order_id,
        return_id=one.return_id,
        resolution=one.resolution,
        requested_at=one.requested_at,
        refunded_minor=one.settled_minor,
        withheld_minor=_withheld(one, binding.policy),
        currency=state.purchase.currency,
        closes_at=at + timedelta(days=binding.policy.close_days),
    )


def _withheld(one: Rma, policy: ReturnPolicy) -> int:
    """Fees kept of what the goods were worth; one larger than the goods is kept as far as they go."""
    if one.resolution not in MONEY:
        return 0
    if not one.dues:
        refunds = [refund_of(i) for line_id in one.lines for i in one.inspected(line_id)]
        return sum(goods + shipping for goods, _, shipping in refunds)
    return sum(line.stated.fee_minor for line in one.lines.values()) + one.fee_charged_minor


def _may_still_be_owed(one: Rma, line: RmaLine) -> bool:
    return line.count(*OPEN) > 0 or owed_in_exchange(one, line) > 0


def replaced_for(reason: ReturnReason) -> ReplacedFor:
    match reason:
        case ReturnReason.WRONG_ITEM | ReturnReason.NOT_AS_DESCRIBED:
            return "wrong_item"
        case ReturnReason.DEFECTIVE | ReturnReason.DAMAGED_IN_TRANSIT:
            return "damaged"
        case ReturnReason.NOT_RECEIVED:
            return "lost"
        case _:
            return "exchange"
