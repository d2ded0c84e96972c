"""The returns of one order: all its returns and claims, under one lock, and what its units may still be asked for."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from hashlib import sha256
from typing import TypeAlias

from returns.domain import claims, recoveries, rma, units
from returns.domain.claims import Claim, ClaimFact, ClaimStatus
from returns.domain.eligibility import UnitGroup
from returns.domain.evidence import File, file_of
from returns.domain.recoveries import Recovery
from returns.domain.rma import (
    MONEY,
    Exchange,
    Rma,
    RmaLine,
    given_back,
    is_refunded,
    is_valued,
    refund_of,
    status_of,
)
from returns.domain.units import BUCKET_OF, HELD, Purchase, ReverseBucket, UnitStatus, Whereabouts
from shared.contracts.base import Fact, PolicyRef
from shared.contracts.returns import (
    ClaimOpened,
    ClaimResolved,
    Disposition,
    ExchangeCreated,
    ExchangeReleased,
    PolicyBound,
    RecoveryFact,
    RecoveryOpened,
    Resolution,
    ReturnDiscrepancyRecorded,
    ReturnDisputeRecorded,
    ReturnEvidenceAttached,
    ReturnFact,
    ReturnObservationRecorded,
    ReturnPurchaseRecorded,
    ReturnReceivedUnannounced,
    ReturnRefundDropped,
    ReturnRefundDue,
    ReturnRefundSettled,
    ReturnRequested,
    ReturnUnitsRecorded,
)
from shared.core.machine import remembering_last_fold, replace
from shared.core.money import cumulative


@dataclass(frozen=True, slots=True)
class OrderReturns:
    """`exchanges` counts those ever made, which names the next one; `discrepancies` likewise.

    `observed` has, by what was reported, the digests of all that was said under that name; `waiting` are reports that
    cannot be applied yet.
    """

    order_id: str
    purchase: Purchase | None = None
    policy: PolicyRef | None = None
    where: Whereabouts = field(default_factory=Whereabouts)
    disputes: tuple[str, ...] = ()
    returns: dict[str, Rma] = field(default_factory=dict)
    claims: dict[str, Claim] = field(default_factory=dict)
    exchanges: int = 0
    observed: dict[str, tuple[str, ...]] = field(default_factory=dict)
    waiting: tuple[ReturnObservationRecorded, ...] = ()
    discrepancies: int = 0
    recoveries: dict[str, Recovery] = field(default_factory=dict)
    files: dict[str, File] = field(default_factory=dict)


def initial(order_id: str) -> OrderReturns:
    return OrderReturns(order_id=order_id)


@remembering_last_fold
def evolve(state: OrderReturns, fact: Fact) -> OrderReturns:
    match fact:
        case ReturnUnitsRecorded():
            return replace(state, where=units.record(state.where, fact))
        case ReturnPurchaseRecorded():
            purchase = Purchase(
                placed_at=fact.placed_at.astimezone(timezone.utc),
                currency=fact.currency,
                lines={line.line_id: line for line in fact.lines},
                pinned=fact.pinned,
            )
            return replace(state, purchase=purchase)
        case PolicyBound(policy=policy):
            return replace(state, policy=policy)
        case ReturnDisputeRecorded(dispute_id=dispute_id, is_open=is_open):
            others = tuple(d for d in state.disputes if d != dispute_id)
            return replace(state, disputes=(*others, dispute_id) if is_open else others)
        case ReturnObservationRecorded():
            return _observed(state, fact)
        case ReturnEvidenceAttached(evidence_id=evidence_id):
            return replace(state, files={**state.files, evidence_id: file_of(fact)})
        case ReturnDiscrepancyRecorded(recovery_id=recovery_id, amount_minor=amount):
            cases = dict(state.recoveries)
            if recovery_id is not None:
                case_ = cases[recovery_id]
                cases[recovery_id] = replace(case_, undue_minor=case_.undue_minor + (amount or 0))
            return replace(state, recoveries=cases, discrepancies=state.discrepancies + 1)
        case ReturnReceivedUnannounced(return_id=return_id) if return_id not in state.returns:
            one = rma.evolve(rma.unannounced(fact), fact)
            return replace(state, returns={**state.returns, return_id: one})
        case ReturnRequested(return_id=return_id):
            return replace(state, returns={**state.returns, return_id: rma.requested(fact)})
        case ClaimOpened(claim_id=claim_id):
            return replace(state, claims={**state.claims, claim_id: claims.opened(fact)})
        case ClaimResolved(claim_id=claim_id):
            return _claim(state, claim_id, fact)
        case (
            ReturnRefundDue(return_id=claim_id)
            | ReturnRefundSettled(return_id=claim_id)
            | ReturnRefundDropped(return_id=claim_id)
            | ExchangeReleased(return_id=claim_id)
        ) if claim_id in state.claims:
            return _claim(state, claim_id, fact)
        case RecoveryOpened(recovery_id=recovery_id):
            return replace(state, recoveries={**state.recoveries, recovery_id: recoveries.opened(fact)})
        case RecoveryFact(recovery_id=recovery_id):
            case_ = recoveries.evolve(state.recoveries[recovery_id], fact)
            return replace(state, recoveries={**state.recoveries, recovery_id: case_})
        case ReturnFact(return_id=return_id):
            changed = rma.evolve(state.returns[return_id], fact)
            new = state.exchanges + isinstance(fact, ExchangeCreated)
            return replace(state, returns={**state.returns, return_id: changed}, exchanges=new)
        case _:
            raise TypeError(f"{type(fact).__name__} is no fact of an order's returns")


def name_of(fact: ReturnObservationRecorded) -> str:
    """Return what the report is known by: a second one of this name is a repeat, or contradicts it."""
    return f"{fact.observation} {fact.return_id} {fact.observation_id}"


def digest_of(fact: ReturnObservationRecorded) -> str:
    """Hash what was said, in whatever order its lines came."""
    said = [[sorted(one.model_dump_json() for one in ones)] for ones in (fact.lines, fact.unexpected)]
    return sha256(json.dumps(said).encode()).hexdigest()[:16]


def _observed(state: OrderReturns, fact: ReturnObservationRecorded) -> OrderReturns:
    name, digest = name_of(fact), digest_of(fact)
    known = state.observed.get(name, ())
    returns = dict(state.returns)
    for seen in fact.confirms:
        one = returns[seen.return_id]
        line = one.lines[seen.line_id]
        lines = {**one.lines, seen.line_id: replace(line, ahead=line.ahead - seen.quantity)}
        returns[seen.return_id] = replace(one, lines=lines)
    others = tuple(one for one in state.waiting if (name_of(one), digest_of(one)) != (name, digest))
    return replace(
        state,
        returns=returns,
        observed={**state.observed, name: known if digest in known else (*known, digest)},
        waiting=(*others, fact) if fact.waits else others,
    )


def _claim(state: OrderReturns, claim_id: str, fact: ClaimFact) -> OrderReturns:
    changed = claims.evolve(state.claims[claim_id], fact)
    new = state.exchanges + isinstance(fact, ExchangeReleased)
    return replace(state, claims={**state.claims, claim_id: changed}, exchanges=new)


def rma_lines(state: OrderReturns, line_id: str) -> Iterator[tuple[Rma, RmaLine]]:
    return ((one, one.lines[line_id]) for one in state.returns.values() if line_id in one.lines)


def live_claims(state: OrderReturns, line_id: str, *, for_lost: bool) -> int:
    """Count units of the line that are under claim, or were made good by one."""
    return sum(
        claim.units.get(line_id, 0)
        for claim in state.claims.values()
        if claim.is_for_lost == for_lost and claim.status is not ClaimStatus.REJECTED
    )


def in_returns(state: OrderReturns, line_id: str) -> int:
    """Count units of the line that a return holds or has taken."""
    return sum(_held(one, line) for one, line in rma_lines(state, line_id))


def _held(one: Rma, line: RmaLine) -> int:
    """Count what the return holds. A unit that was replaced stays the return's, also where it never came: the customer has
    another for it."""
    replaced = sum(e.released for e in one.exchanges.values() if e.line_id == line.asked.line_id)
    return max(line.count(*HELD), replaced)


def left(state: OrderReturns, line_id: str) -> int:
    """Count how many units of the line could be asked for at most: bought or delivered, and in no return."""
    assert state.purchase is not None
    cancelled = state.where.cancelled.get(line_id)
    bought = state.purchase.lines[line_id].quantity - (cancelled.units if cancelled else 0)
    return max(0, max(bought, state.where.counted(line_id, "delivered")) - in_returns(state, line_id))


def free(state: OrderReturns, line_id: str) -> int:
    """Count delivered units that are with the customer, in no return and under no claim."""
    taken = in_returns(state, line_id) + live_claims(state, line_id, for_lost=False)
    return max(0, state.where.counted(line_id, "delivered") - taken - _found_again(state, line_id))


def _found_again(state: OrderReturns, line_id: str) -> int:
    """Count units that were claimed as lost and turned up after all: the claim has them."""
    return max(0, live_claims(state, line_id, for_lost=True) - state.where.counted(line_id, "lost"))


def lost_unclaimed(state: OrderReturns, line_id: str) -> int:
    """Count lost units under no claim; nor those lost, by a late word, that a return or another claim had as delivered."""
    taken = in_returns(state, line_id) + live_claims(state, line_id, for_lost=False)
    contested = max(0, taken - state.where.counted(line_id, "delivered"))
    lost = state.where.counted(line_id, "lost") - state.where.settled.get(line_id, 0)
    return max(0, lost - live_claims(state, line_id, for_lost=True) - contested)


Delivery: TypeAlias = tuple[datetime, datetime | None, int]
"""Delivered, shipped, units."""


def groups(state: OrderReturns, line_id: str, quantity: int) -> list[UnitGroup]:
    """Group `quantity` units by history: free ones first, oldest delivery first; then claimed, then undelivered ones."""
    deliveries = state.where.deliveries(line_id)
    for delivered_at, n in _taken(state, line_id):
        _, deliveries = _split(deliveries, delivered_at, n)
    under_claim = live_claims(state, line_id, for_lost=False) + _found_again(state, line_id)
    claimed, deliveries = _split(deliveries, None, under_claim)
    found: list[UnitGroup] = []
    for is_claimed, those in ((False, deliveries), (True, claimed)):
        for delivered_at, shipped_at, n in those:
            take = min(quantity, n)
            quantity -= take
            if take and found and (found[-1].delivered_at, found[-1].is_claimed) == (delivered_at, is_claimed):
                found[-1] = replace(found[-1], quantity=found[-1].quantity + take)
            elif take:
                found.append(UnitGroup(line_id, take, shipped_at, delivered_at, is_claimed))
    if quantity:
        found.append(UnitGroup(line_id, quantity, None, None))
    return found


def _taken(state: OrderReturns, line_id: str) -> Iterator[tuple[datetime | None, int]]:
    """Return (delivery, units) of what earlier returns hold: of their approved groups before reviewed, before declined ones."""
    for one, line in rma_lines(state, line_id):
        held = _held(one, line)
        verdicts = [v for v in one.verdicts if v.line_id == line_id]
        for verdict in sorted(verdicts, key=lambda v: ("approve", "review", "decline").index(v.outcome)):
            n = min(held, verdict.quantity)
            held -= n
            if n:
                yield verdict.delivered_at, n
        if held:
            yield None, held


def _split(
    deliveries: list[Delivery], delivered_at: datetime | None, quantity: int
) -> tuple[list[Delivery], list[Delivery]]:
    """Take units out, of the delivery named first, then of the oldest: (taken, rest), both oldest first."""
    taken, rest = [], []
    for delivered, shipped, n in sorted(deliveries, key=lambda d: d[0] != delivered_at):
        take = min(quantity, n)
        quantity -= take
        if take:
            taken.append((delivered, shipped, take))
        if n - take:
            rest.append((delivered, shipped, n - take))
    return sorted(taken, key=lambda d: d[0]), sorted(rest, key=lambda d: d[0])


@dataclass(frozen=True, slots=True)
class Valued:
    """Units of a line that have been given a worth, and what it was."""

    units: int
    goods_minor: int
    shipping_units: int
    shipping_minor: int


def valued(state: OrderReturns, line_id: str) -> Valued:
    """Return what returns and claims for money have valued so far. Cancelled units are not in it."""
    n = goods = shipping_n = shipping = 0
    for one, line in rma_lines(state, line_id):
        if one.resolution in MONEY:
            inspected = [i for i in one.inspected(line_id) if is_valued(i)]
            n += line.advanced_units + sum(i.quantity for i in inspected)
            goods += line.advanced_minor + sum(i.worth_minor for i in inspected)
            shipping_n += sum(i.quantity for i in inspected)
            shipping += sum(i.shipping_minor for i in inspected)
    for claim in state.claims.values():
        if line_id in claim.worth:
            worth = claim.worth[line_id]
            n, goods = n + worth.units, goods + worth.goods_minor
            shipping_n, shipping = shipping_n + worth.units, shipping + worth.shipping_minor
    return Valued(n, goods, shipping_n, shipping)


def goods_worth(state: OrderReturns, line_id: str, quantity: int, before: Valued) -> int:
    """Return what `quantity` more units are worth: round(total x k / q) less what the k before them were worth.

    Units are counted from the line's first, as what was shipped and charged is; cancelled units are its last.
    """
    assert state.purchase is not None
    line = state.purchase.lines[line_id]
    k = min(line.quantity, before.units + quantity)
    return max(0, cumulative(goods_minor(state, line_id), k, line.quantity) - before.goods_minor)


def shipping_worth(state: OrderReturns, line_id: str, quantity: int, before: Valued) -> int:
    """Return their part of what was paid for shipping; it stays due for a line while any of it ships, so the rest bears it."""
    assert state.purchase is not None
    line = state.purchase.lines[line_id]
    whole = line.quantity - state.where.cancelled.get(line_id, units.Cancelled()).units
    k = min(whole, before.shipping_units + quantity)
    return max(0, cumulative(line.shipping_minor, k, whole) - before.shipping_minor) if whole > 0 else 0


def target(one: Rma, line: RmaLine) -> int:
    """Return what this line's units should have been refunded, as they now stand; minor units."""
    if one.resolution not in MONEY:
        exchanges = [e for e in one.exchanges.values() if e.line_id == line.asked.line_id]
        return sum(_owed_to_customer(e) + given_back(one, e) for e in exchanges)
    refunds = [refund_of(i) for i in one.inspected(line.asked.line_id)]
    return line.advanced_minor + sum(goods - fee + shipping for goods, fee, shipping in refunds)


def _owed_to_customer(exchange: Exchange) -> int:
    """Return what the units that were sent cost less."""
    return cumulative(max(0, -exchange.difference_minor), exchange.released, exchange.quantity)


def charged_minor(state: OrderReturns, line_id: str) -> int:
    """Return what was taken for exchanges of the line on top of what it cost."""
    return sum(
        e.charged_minor for one, _ in rma_lines(state, line_id) for e in one.exchanges.values() if e.line_id == line_id
    )


def goods_minor(state: OrderReturns, line_id: str) -> int:
    """Return what the line's units cost in all: as bought, and what their exchanges cost more or less.

    Units of a line are not told apart, so an exchange's difference is spread over the line like its price. What a replacement
    cost whose return never came buys a unit beside the line's, and is not in it.
    """
    assert state.purchase is not None
    of_exchanges = (
        e.charged_minor - given_back(one, e) - _owed_to_customer(e)
        for one, _ in rma_lines(state, line_id)
        if one.resolution is Resolution.EXCHANGE
        for e in one.exchanges.values()
        if e.line_id == line_id
    )
    return max(0, state.purchase.lines[line_id].goods_minor + sum(of_exchanges))


def too_much(one: Rma) -> int:
    """Return what was stated above what the units now stand for: to be recovered."""
    return sum(max(0, line.stated.refund_minor - target(one, line)) for line in one.lines.values())


def room(state: OrderReturns, line_id: str, more: int) -> int:
    """Return how much more may be stated for the line if `more` is wanted: over all its returns and claims, what one of them
    has too much is not paid again to another."""
    assert state.purchase is not None
    purchased = state.purchase.lines[line_id]
    wanted = stated = 0
    for one, line in rma_lines(state, line_id):
        wanted += target(one, line)
        stated += line.stated.refund_minor
    for claim in state.claims.values():
        if line_id in claim.worth:
            worth = claim.worth[line_id]
            wanted += worth.goods_minor + worth.shipping_minor
            stated += worth.refund_minor
    paid = purchased.goods_minor + purchased.shipping_minor + charged_minor(state, line_id)
    return min(wanted + more, paid) - stated


@dataclass(frozen=True, slots=True)
class LineLaw:
    """One row of the table that holds a line to I3, I5, I8 and I9 in the database."""

    line_id: str
    ordered: int | None
    delivered: int
    lost: int
    undone: int
    contested: int
    buckets: dict[ReverseBucket, int]
    lost_claimed: int
    refunded: int
    in_advance: int
    restocked: int
    stated_minor: int
    value_minor: int | None

    @property
    def taken(self) -> int:
        """Count what is open, accepted or kept, and what was claimed as lost."""
        without = (ReverseBucket.WITH_CUSTOMER, ReverseBucket.REJECTED_HELD, ReverseBucket.REJECTED_SENT_BACK)
        return sum(n for bucket, n in self.buckets.items() if bucket not in without) + self.lost_claimed


def law(state: OrderReturns, line_id: str) -> LineLaw:
    """Return the line's counters. `contested`: units that returns hold and that, as is said now, were not delivered."""
    purchased = state.purchase.lines.get(line_id) if state.purchase else None
    buckets = dict.fromkeys(ReverseBucket, 0)
    refunded = in_advance = restocked = stated = 0
    for one, line in rma_lines(state, line_id):
        for status, n in line.units.items():
            buckets[BUCKET_OF[status]] += n
        inspected = one.inspected(line_id)
        restocked += sum(
            i.quantity
            for i in inspected
            if i.disposition is Disposition.RESTOCK and status_of(i) is UnitStatus.ACCEPTED
        )
        if one.resolution in MONEY:
            refunded += line.advanced_units + sum(i.quantity for i in inspected if is_refunded(i))
            in_advance += max(0, line.advanced_units - line.count(UnitStatus.KEPT))
        stated += line.stated.refund_minor
    for claim in state.claims.values():
        n = claim.units.get(line_id, 0)
        if not claim.is_for_lost and claim.status is not ClaimStatus.REJECTED:
            is_open = claim.status is ClaimStatus.OPEN
            buckets[ReverseBucket.RETURN_OPEN if is_open else ReverseBucket.KEPT_BY_CUSTOMER] += n
        if line_id in claim.worth:
            refunded += n
            stated += claim.worth[line_id].refund_minor
    delivered = state.where.counted(line_id, "delivered")
    # What was sent back is with the customer again, and may be in a later return: there it counts.
    with_us = sum(buckets.values()) - buckets[ReverseBucket.WITH_CUSTOMER] - buckets[ReverseBucket.REJECTED_SENT_BACK]
    sent_back = min(buckets[ReverseBucket.REJECTED_SENT_BACK], max(0, delivered - with_us))
    buckets[ReverseBucket.REJECTED_SENT_BACK] = sent_back
    elsewhere = with_us + sent_back
    buckets[ReverseBucket.WITH_CUSTOMER] = max(0, delivered - elsewhere)
    return LineLaw(
        line_id=line_id,
        ordered=purchased.quantity if purchased else None,
        delivered=delivered,
        lost=state.where.counted(line_id, "lost"),
        undone=state.where.undone(line_id),
        contested=max(0, elsewhere - delivered),
        buckets=buckets,
        lost_claimed=live_claims(state, line_id, for_lost=True),
        refunded=refunded,
        in_advance=in_advance,
        restocked=restocked,
        stated_minor=stated,
        value_minor=purchased.goods_minor + purchased.shipping_minor + charged_minor(state, line_id)
        if purchased
        else None,
    )


def invariants(state: OrderReturns) -> list[str]:
    """Return the invariants that the state breaks, in words: the same that the database holds, line by line."""
    broken = []
    for line_id in law_lines(state):
        row = law(state, line_id)
        b = row.buckets
        held = {
            "I2: a bucket is below zero": min(b.values()) >= 0,
            "I3: delivered is not the sum of reverse buckets": sum(b.values()) == row.delivered + row.contested,
            "I3: more is contested than was delivered once": row.contested <= row.lost + row.undone,
            "I5: more is returned, kept or claimed than was delivered or lost": row.taken
            <= row.delivered + row.lost + row.undone,
            "I8: more units are refunded than there is a ground for": row.refunded
            <= b[ReverseBucket.ACCEPTED] + b[ReverseBucket.KEPT_BY_CUSTOMER] + row.lost_claimed + row.in_advance,
            "I9: more is restocked than was accepted": row.restocked <= b[ReverseBucket.ACCEPTED],
            "I10: more money is stated than the line is worth": row.value_minor is None
            or row.stated_minor <= row.value_minor,
        }
        broken += [f"{line_id}: {law}" for law, holds in held.items() if not holds]
    return broken


def law_lines(state: OrderReturns) -> list[str]:
    """Return every line there is anything to count of."""
    bought = dict.fromkeys(state.purchase.lines) if state.purchase else {}
    return list(bought | dict.fromkeys(state.where.lines()))
