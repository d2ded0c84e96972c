"""Customers may hold what they did not pay for. This computes it from the facts, and opens and ends recovery cases for it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, TypeAlias

from returns.domain.claims import Claim, ClaimStatus
from returns.domain.policies import Binding
from returns.domain.recoveries import Recovery
from returns.domain.rma import REPLACEMENT, Exchange, Rma
from returns.domain.state import OrderReturns, evolve, goods_minor, target
from returns.domain.units import OPEN, UnitStatus
from shared.contracts.base import Fact
from shared.contracts.returns import RecoveryOpened, RecoverySettled, ReturnDiscrepancyRecorded
from shared.core.money import cumulative, format_minor

Cause: TypeAlias = Literal[
    "return_not_accepted",
    "return_not_sent",
    "found_after_refund",
    "found_after_replacement",
    "sent_again_beside_refund",
    "revised_down",
]
Source: TypeAlias = tuple[str | None, str | None, str | None]
"""Return or claim, shipment, tracking."""


@dataclass(frozen=True, slots=True)
class Owed:
    amount_minor: int
    cause: Cause


def of_return(state: OrderReturns, one: Rma) -> int:
    """Return money refunded too much, and what replacements cost that nothing came back for, beside what was asked for them."""
    paid = sum(due.settled_minor if due.is_settled else due.amount_minor for due in one.dues.values())
    entitled = max(0, sum(target(one, line) for line in one.lines.values()) - one.fee_charged_minor)
    goods = 0
    for exchange in one.exchanges.values() if one.resolution in REPLACEMENT else ():
        goods += _worth(state, exchange.line_id, _unreturned(one, exchange))
    return max(0, paid - entitled) + goods


def _unreturned(one: Rma, exchange: Exchange) -> int:
    """Count units that were replaced and neither accepted nor still to be decided on, nor asked to be paid already."""
    line = one.lines[exchange.line_id]
    reviewed = sum(i.quantity for i in one.inspected(exchange.line_id) if i.review)
    back = line.count(UnitStatus.ACCEPTED, *OPEN) + reviewed
    return max(0, exchange.released - back - (exchange.due_units if exchange.due_minor else 0))


def _worth(state: OrderReturns, line_id: str, units: int) -> int:
    assert state.purchase is not None
    quantity = state.purchase.lines[line_id].quantity
    return cumulative(goods_minor(state, line_id), min(units, quantity), quantity)


def all_owed(state: OrderReturns, because: Cause = "return_not_accepted") -> Mapping[Source, Owed]:
    """Return what is owed by where it came from; `because`: of a return, by what was done just now."""
    owed: dict[Source, Owed] = {}
    if state.purchase is None:
        return owed
    for return_id, one in state.returns.items():
        if amount := of_return(state, one):
            owed[return_id, None, None] = Owed(amount, because)
    for claim_id, amount in _refunded_too_much(state, is_sent_again=True):
        owed[claim_id, None, None] = Owed(amount, "sent_again_beside_refund")
    for claim_id, amount in _refunded_too_much(state, is_sent_again=False):
        if amount == owed[claim_id, None, None].amount_minor:
            owed[claim_id, None, None] = Owed(amount, "found_after_refund")
    for shipment_id, shipment in state.where.shipments.items():
        for tracking, parcel in shipment.parcels.items():
            known = {k: n for k, n in parcel.replaced.items() if k in state.purchase.lines}
            amount = sum(_worth(state, line_id, n) for line_id, n in known.items())
            if parcel.stage == "delivered" and amount:
                owed[None, shipment_id, tracking or None] = Owed(amount, "found_after_replacement")
    return owed


def _refunded_too_much(state: OrderReturns, *, is_sent_again: bool) -> Iterator[tuple[str, int]]:
    """Find claims of lost units that were refunded, and what was paid for units that the customer has or gets all the same;
    the newest claims first.

    Such units were found and delivered; or, with `is_sent_again`, they were sent again or cancelled before fulfillment heard
    of the claim. Fulfillment sends nothing for a claim of such units, so that a replacing one uses them up.
    """
    has: dict[str, int] = {}
    sent: dict[str, int] = {}
    lost = [claim for claim in state.claims.values() if claim.is_for_lost]
    for line_id in dict.fromkeys(line_id for claim in lost for line_id in claim.units):
        sent[line_id] = _sent_again(state, line_id) if is_sent_again else 0
        has[line_id] = sent[line_id] - _unanswered(state, line_id)
    for claim in reversed(lost):
        if claim.status is ClaimStatus.REPLACED:
            for line_id, units in claim.units.items():
                taken = max(0, min(has[line_id], sent[line_id], units))
                has[line_id] -= taken
                sent[line_id] -= taken
        if claim.status is ClaimStatus.REFUNDED and any(not due.is_dropped for due in claim.dues.values()):
            amount = sum(_taken(claim, line_id, has) for line_id in claim.units)
            if amount:
                yield claim.claim_id, amount


def still_lost(state: OrderReturns, line_id: str) -> int:
    """Count units that a claim under decision can make good: they are lost, and neither sent again nor answered otherwise."""
    return max(0, _unanswered(state, line_id) - _sent_again(state, line_id))


def _unanswered(state: OrderReturns, line_id: str) -> int:
    """Count lost units less those that claims were granted for; below zero where more were granted than are lost now."""
    granted = sum(
        claim.units.get(line_id, 0)
        for claim in state.claims.values()
        if claim.is_for_lost and claim.status in (ClaimStatus.REFUNDED, ClaimStatus.REPLACED)
    )
    # Of a parcel that was found, what a claim replaced is owed by itself.
    owed = max(0, state.where.replaced(line_id) - state.where.settled.get(line_id, 0))
    return _lost(state, line_id) + owed - granted


def _sent_again(state: OrderReturns, line_id: str) -> int:
    """Count lost units that fulfillment itself sent again or cancelled, and that were not found since."""
    again = state.where.settled.get(line_id, 0) - state.where.replaced(line_id)
    return min(max(0, again), _lost(state, line_id))


def _lost(state: OrderReturns, line_id: str) -> int:
    return state.where.counted(line_id, "lost") + state.where.counted(line_id, "withdrawn")


def _taken(claim: Claim, line_id: str, has: dict[str, int]) -> int:
    worth = claim.worth.get(line_id)
    units = max(0, min(has[line_id], claim.units[line_id]))
    has[line_id] -= units
    return cumulative(worth.refund_minor, units, worth.units) if worth and units else 0


def is_settled(state: OrderReturns, one: Rma) -> bool:
    """Say that nothing that came of the return is held and unpaid."""
    answered = sum(r.answered_minor for r in _cases(state, (one.return_id, None, None)) if r.answers and not r.is_open)
    return of_return(state, one) <= answered


def _cases(state: OrderReturns, source: Source) -> list[Recovery]:
    return [recovery for recovery in state.recoveries.values() if recovery.source == source]


def recovered(state: OrderReturns, binding: Binding, at: datetime, because: Cause) -> Iterator[Fact]:
    """Open cases for what is owed and has none. End those that are no longer owed; what was charged of them is for a person
    to give back."""
    owed = all_owed(state, because)
    known = {recovery.source: None for recovery in state.recoveries.values() if recovery.answers}
    for source in dict.fromkeys([*known, *owed]):
        wanted = owed[source].amount_minor if source in owed else 0
        cases = [recovery for recovery in _cases(state, source) if recovery.answers]
        answered = sum(recovery.answered_minor for recovery in cases)
        for recovery in reversed([recovery for recovery in cases if recovery.is_open]):
            if answered <= wanted:
                break
            answered -= recovery.amount_minor
            settled = RecoverySettled(
                order_id=state.order_id,
                recovery_id=recovery.recovery_id,
                how="returned",
                amount_minor=recovery.amount_minor,
                currency=recovery.currency,
                detail="It is no longer owed, as the facts stand now",
            )
            yield settled
            state = evolve(state, settled)
        for recovery, amount in _undue(cases, answered - wanted):
            answered -= amount
            discrepancy = ReturnDiscrepancyRecorded(
                order_id=state.order_id,
                discrepancy_id=f"{state.order_id}-RD{state.discrepancies + 1}",
                observation="payment.captured",
                contradicts="recovery_settled",
                return_id=recovery.return_id,
                detail=f"{format_minor(amount, recovery.currency)} of what was charged for {recovery.recovery_id} is not owed "
                "any more: give it back",
                recovery_id=recovery.recovery_id,
                amount_minor=amount,
            )
            yield discrepancy
            state = evolve(state, discrepancy)
        if answered < wanted:
            opened = _opened(state, source, Owed(wanted - answered, owed[source].cause), binding, at)
            yield opened
            state = evolve(state, opened)


def _undue(cases: list[Recovery], excess: int) -> Iterator[tuple[Recovery, int]]:
    """Return what was charged and is not owed any more, since the goods came after all; the newest case first."""
    for recovery in reversed([recovery for recovery in cases if recovery.how == "charged"]):
        if (amount := min(excess, recovery.answered_minor)) > 0:
            excess -= amount
            yield recovery, amount


def _opened(state: OrderReturns, source: Source, owed: Owed, binding: Binding, at: datetime) -> RecoveryOpened:
    assert state.purchase is not None
    return_id, shipment_id, tracking = source
    return RecoveryOpened(
        order_id=state.order_id,
        recovery_id=f"{state.order_id}-RC{len(state.recoveries) + 1}",
        amount_minor=owed.amount_minor,
        currency=state.purchase.currency,
        cause=owed.cause,
        return_id=return_id,
        shipment_id=shipment_id,
        tracking=tracking,
        # What is sent again may still be stopped: a person looks before anybody is charged.
        owner="system" if binding.policy.recovery_charged and owed.cause != "sent_again_beside_refund" else "support",
        due_at=at + timedelta(days=binding.policy.recovery_days),
        policy=binding.ref,
    )
