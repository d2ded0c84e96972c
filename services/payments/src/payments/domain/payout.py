"""Refunds from request to completion: checked against what is left, reserved when approved, routed, paid out in legs.

Everything of an order is decided under its one row lock, so that no two refunds count on the same money.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from payments.domain.operation import Operation
from payments.domain.policy import in_force
from payments.domain.refund import (
    PAYOUT_FAILED,
    REFUND,
    REPAYS_EXCESS,
    ApprovalPolicy,
    Refund,
    RefundStatus,
    is_same_person,
)
from payments.domain.routing import NOTHING_LEFT, Request, RoutingPolicy, Share, Unroutable, fall_back, route
from payments.domain.state import Account, evolve
from shared.contracts.base import Fact, LineQuantity, TenderKind
from shared.contracts.payments import (
    PaymentUnitsNoted,
    PayoutAccount,
    RefundApprovalRequired,
    RefundApproved,
    RefundAttentionNeeded,
    RefundCancelled,
    RefundChannel,
    RefundCompleted,
    RefundKind,
    RefundLeg,
    RefundLegFailed,
    RefundLegReversed,
    RefundLegSubmitted,
    RefundLegSucceeded,
    RefundLine,
    RefundPartiallyCompleted,
    RefundReduced,
    RefundRejected,
    RefundRequested,
    RefundRouted,
    StoreCreditClawedBack,
    StoreCreditIssued,
    TenderExcluded,
    UnitsChange,
)
from shared.core.machine import Invalid, NotAllowed
from shared.core.money import format_minor

DISPUTED: Final = "disputed"
"""Reason of attention: an open dispute holds the money; it is looked at again when the dispute ends."""
NOT_DUE: Final = "not_due"
"""Reason of a rejection: what it is for was given back before, or nothing of it is left."""

NO_ACCOUNT: Final = "is required: a bank transfer goes to an IBAN, or to the partner's payout reference"

NOT_PAID_ELSEWHERE: Final = frozenset({"disputed", "exceeds_captured"})
"""Failures that mean the money is not ours to pay, by whatever channel."""


@dataclass(frozen=True, slots=True)
class Policies:
    """All published versions. The routing in force at purchase binds an order, the approval rules in force at request."""

    routing: tuple[RoutingPolicy, ...]
    approval: tuple[ApprovalPolicy, ...]

    def routing_for(self, state: Account, at: datetime) -> RoutingPolicy:
        return in_force(self.routing, state.placed_at or at)

    def approval_at(self, at: datetime) -> ApprovalPolicy:
        return in_force(self.approval, at)


@dataclass(frozen=True, slots=True)
class Asked:
    """A line of a refund that is asked for. Units (`quantity`) are refused."""

    line_id: str
    quantity: int
    amount_minor: int


@dataclass(frozen=True, slots=True)
class RequestRefund:
    """Asked for by a person, who waits for the answer: what cannot be is refused and nothing is stored."""

    kind: RefundKind
    lines: tuple[Asked, ...]
    amount_minor: int | None
    currency: str
    requester: str
    at: datetime
    cause_id: str | None = None
    channel: RefundChannel = RefundChannel.ORIGINAL
    consents: tuple[RefundChannel, ...] = ()
    account: PayoutAccount | None = None


@dataclass(frozen=True, slots=True)
class OweRefund:
    """Stated by a fact, once per cause. It is recorded whatever the balance, and waits for money under way."""

    kind: RefundKind
    cause_id: str
    return_id: str | None
    lines: tuple[RefundLine, ...]
    amount_minor: int
    currency: str
    trigger_at: datetime
    channel: RefundChannel
    requester: str
    at: datetime


@dataclass(frozen=True, slots=True)
class ApproveRefund:
    refund_id: str
    approver: str
    at: datetime


@dataclass(frozen=True, slots=True)
class RejectRefund:
    refund_id: str
    reason_code: str
    detail: str
    at: datetime


@dataclass(frozen=True, slots=True)
class CancelRefund:
    """What was not paid of it is given up."""

    refund_id: str
    detail: str
    at: datetime


@dataclass(frozen=True, slots=True)
class RerouteRefund:
    """A person sends what is outstanding another way; the customer has agreed to the channel."""

    refund_id: str
    channel: RefundChannel
    at: datetime
    account: PayoutAccount | None = None


def request(state: Account, command: RequestRefund, policies: Policies) -> list[Fact]:
    """Raises Invalid naming the field, or NotAllowed where a dispute stands in the way."""
    if command.currency != state.currency:
        raise Invalid("currency", f"must be {state.currency}, as the order")
    if command.kind in (RefundKind.RETURN, RefundKind.LOST):
        raise Invalid(
            "kind", "refunds of returns and of lost units are stated by the return or the claim, not asked for"
        )
    if command.cause_id is not None and _of_cause(state, command.cause_id):
        raise Invalid("cause_id", "a refund was asked for by this cause already")
    lines = [_valued(state, i, line, command.lines[:i]) for i, line in enumerate(command.lines)]
    amount = sum(line.amount_minor for line in lines) if lines else command.amount_minor
    if command.kind is RefundKind.SHIPPING:
        left = max(0, state.shipping_minor - state.shipping_refunded_minor)
        if lines:
            raise Invalid("lines", "must not be given: shipping is of the order as a whole")
        amount = left if amount is None else amount
        if amount > left:
            raise Invalid("amount_minor", f"only {_text(state, left)} of the shipping is left to refund")
    if RefundChannel.BANK_TRANSFER in (command.channel, *command.consents) and command.account is None:
        raise Invalid("account", NO_ACCOUNT)
    if amount is None:
        raise Invalid("amount_minor", "is required where no lines are given")
    if command.amount_minor not in (None, amount):
        raise Invalid("amount_minor", f"must be the sum of the lines, {amount}")
    if amount <= 0:
        raise Invalid("amount_minor", "must be above zero")
    if command.kind in REPAYS_EXCESS and amount > (excess := state.excess_minor(with_dead=False)):
        raise Invalid("amount_minor", f"only {_text(state, excess)} was captured above what the order is worth")
    _check_left(state, amount)
    id = state.refund_id()
    requested = RefundRequested(
        order_id=state.order_id,
        refund_id=id,
        kind=command.kind,
        cause_id=command.cause_id or id,
        lines=tuple(lines),
        amount_minor=amount,
        currency=state.currency,
        trigger_at=command.at,
        channel=command.channel,
        consents=command.consents,
        requester=command.requester,
        account=command.account,
    )
    return [requested, *consider(evolve(state, requested), id, policies, command.at)]


def preview(state: Account, command: RequestRefund, policies: Policies) -> list[Fact]:
    """What the request would lead to, an approval that it needs taken as given. Raises as `request` does."""
    facts, id = request(state, command, policies), state.refund_id()
    for fact in facts:
        state = evolve(state, fact)
    refund = state.refunds[id]
    if refund.status is not RefundStatus.PENDING_APPROVAL:
        return facts
    return [*facts, *_approved(state, refund, None, policies, command.at)]


def owe(state: Account, command: OweRefund, policies: Policies) -> list[Fact]:
    """What is still owed of what the cause states. A cause told again is no second refund; what a claim of units that never
    arrived states is of kind lost.

    Raises Invalid for another currency.
    """
    if _of_cause(state, command.cause_id):
        return []
    if state.is_open and command.currency != state.currency:
        raise Invalid("currency", f"must be {state.currency}, as the order")
    id = state.refund_id()
    is_lost = command.kind is RefundKind.RETURN and command.return_id in state.claims
    lines = state.still_due(command.lines)
    paid_before = sum(n.amount_minor for n in command.lines) - sum(n.amount_minor for n in lines)
    requested = RefundRequested(
        order_id=state.order_id,
        refund_id=id,
        kind=RefundKind.LOST if is_lost else command.kind,
        cause_id=command.cause_id,
        return_id=command.return_id,
        lines=lines,
        amount_minor=max(0, command.amount_minor - paid_before),
        stated_minor=command.amount_minor,
        currency=command.currency,
        trigger_at=command.trigger_at,
        channel=command.channel,
        requester=command.requester,
    )
    facts: list[Fact] = []
    if units := tuple(LineQuantity(line_id=n.line_id, quantity=n.quantity) for n in command.lines if n.quantity):
        facts.append(
            PaymentUnitsNoted(
                order_id=state.order_id, change=UnitsChange.DUE_BACK, cause_id=command.cause_id, lines=units
            )
        )
    facts.append(requested)
    for fact in facts:
        state = evolve(state, fact)
    return facts + consider(state, id, policies, command.at)


def cheaper_substitutes(state: Account, policies: Policies, at: datetime) -> list[Fact]:
    """Give back what substitutes that were handed over cost less than the units they stand for, once per shipment."""
    facts: list[Fact] = []
    asked = {r.cause_id for r in state.refunds.values()}
    for shipment_id, lines in state.cheaper_substitutes():
        cause_id = f"{shipment_id}-cheaper"
        if cause_id in asked or not lines:
            continue
        command = OweRefund(
            kind=RefundKind.PRICE_ADJUSTMENT,
            cause_id=cause_id,
            return_id=None,
            lines=lines,
            amount_minor=sum(line.amount_minor for line in lines),
            currency=state.currency,
            trigger_at=at,
            channel=RefundChannel.ORIGINAL,
            requester="service:payments",
            at=at,
        )
        more = owe(state, command, policies)
        for fact in more:
            state = evolve(state, fact)
        facts += more
    return facts


def excess(state: Account, policies: Policies, at: datetime) -> list[Fact]:
    """Give back what was captured above what is left of the order."""
    amount = state.excess_minor(with_dead=True) if state.is_open else 0
    if not amount:
        return []
    kind = RefundKind.CANCELLATION if state.last_cancellation else RefundKind.OVERPAID
    cause = state.last_cancellation or f"{state.order_id}-overpaid"
    again = sum(1 for r in state.refunds.values() if r.cause_id == cause or r.cause_id.startswith(f"{cause}."))
    command = OweRefund(
        kind=kind,
        cause_id=f"{cause}.{again + 1}" if again else cause,
        return_id=None,
        lines=(),
        amount_minor=amount,
        currency=state.currency,
        trigger_at=at,
        channel=RefundChannel.ORIGINAL,
        requester="service:payments",
        at=at,
    )
    return owe(state, command, policies)


def waiting(state: Account, policies: Policies, at: datetime) -> list[Fact]:
    """Look again at refunds that wait: for money under way, for an approval, for the end of a dispute, or for a person."""
    facts: list[Fact] = []
    for id in state.refunds:
        more = _look_again(state, state.refunds[id], policies, at)
        for fact in more:
            state = evolve(state, fact)
        facts += more
    return facts


def _look_again(state: Account, refund: Refund, policies: Policies, at: datetime) -> list[Fact]:
    match refund.status:
        case RefundStatus.REQUESTED:
            return consider(state, refund.id, policies, at)
        case RefundStatus.PENDING_APPROVAL:
            return _cut(state, refund)
        case RefundStatus.ATTENTION if not refund.is_approved:
            again = consider(state, refund.id, policies, at)
            return [] if again and isinstance(again[-1], RefundAttentionNeeded) else again
        case RefundStatus.ATTENTION | RefundStatus.FAILED | RefundStatus.PARTIALLY_SUCCEEDED:
            return _cut(state, refund) or _undisputed(state, refund, policies, at)
        case _:
            return []


def _undisputed(state: Account, refund: Refund, policies: Policies, at: datetime) -> list[Fact]:
    """A dispute that stood in the way of an approved refund is over."""
    if refund.attention != DISPUTED or refund.status is not RefundStatus.ATTENTION:
        return []
    routed = _routed(state, refund, _outstanding(state, refund), refund.channel, policies, at)
    return [] if isinstance(routed, Unroutable) else [routed]


def _cut(state: Account, refund: Refund) -> list[Fact]:
    """A refund is never above what is left: less is due then, or nothing.

    What a person asked for is granted or refused as it was asked for. While money is under way, or an open dispute holds
    some, what is left is not known yet.
    """
    outstanding = _outstanding(state, refund)
    left = state.refundable_minor
    if outstanding <= left or state.is_more_coming or state.is_held_open or _is_missing(state, refund):
        return []
    if not refund.is_stated and not refund.is_approved:
        detail = f"only {_text(state, left)} is left to refund"
        return [_rejected(state, refund, "exceeds_left", detail)]
    paid = refund.amount_minor - outstanding
    if not paid and not left:
        return [_rejected(state, refund, NOT_DUE, "what it is for was given back before, or nothing of it is left")]
    reduced = _reduced(state, refund, paid + left, NOT_DUE)
    return [reduced, *([] if left else finished(evolve(state, reduced), refund.id))]


def _is_missing(state: Account, refund: Refund) -> bool:
    """Units it is for were handed over and could not be charged: whether anything is due for them is for a person to say."""
    return not refund.is_approved and refund.is_stated and state.handed_over_minor > state.order_captured_minor


def _outstanding(state: Account, refund: Refund) -> int:
    return refund.amount_minor - state.paid_out_minor(refund) - state.paying_out_minor(refund)


def _reduced(state: Account, refund: Refund, amount: int, reason: str) -> RefundReduced:
    return RefundReduced(
        order_id=state.order_id,
        refund_id=refund.id,
        amount_minor=amount,
        before_minor=refund.amount_minor,
        currency=refund.currency,
        reason_code=reason,
    )


def _rejected(state: Account, refund: Refund, reason: str, detail: str) -> RefundRejected:
    return RefundRejected(
        order_id=state.order_id,
        refund_id=refund.id,
        reason_code=reason,
        detail=detail,
        cause_id=refund.cause_id,
        return_id=refund.return_id,
    )


def consider(state: Account, refund_id: str, policies: Policies, at: datetime) -> list[Fact]:
    """Send a refund to approval, approve it by policy, let it wait, or end it where nothing is due; what can never be is for
    a person to see."""
    refund = state.refunds[refund_id]
    if not state.is_open:
        return []
    if refund.currency != state.currency:
        return [_attention(state, refund, "other_currency")]
    if not refund.amount_minor:
        return [_rejected(state, refund, NOT_DUE, "what it is for was given back before")]
    if cut := _cut(state, refund):
        state = evolve(state, cut[0])
        refund = state.refunds[refund_id]
        return cut if refund.is_dead else [*cut, *consider(state, refund_id, policies, at)]
    policy = policies.approval_at(at)
    is_exception = refund.return_id in state.exceptions
    others = 0 if refund.is_stated else _asked_by_persons(state, refund, policy.window_days, at)
    reasons = policy.reasons(refund.kind, refund.amount_minor, refund.currency, is_exception, others)
    if reasons:
        return [
            RefundApprovalRequired(order_id=state.order_id, refund_id=refund_id, reasons=reasons, policy=policy.ref)
        ]
    if refund.amount_minor > state.refundable_minor:
        if state.is_more_coming:
            return []
        return [_attention(state, refund, DISPUTED if state.is_held_open else "not_captured")]
    return _approved(state, refund, None, policies, at)


def _asked_by_persons(state: Account, refund: Refund, window_days: int | None, at: datetime) -> int:
    """What people asked for on the order within the window, of whatever kind, and no second person has seen."""
    if window_days is None:
        return 0
    since = at - timedelta(days=window_days)
    return sum(
        r.amount_minor
        for r in state.refunds.values()
        if r.id != refund.id and not r.is_stated and not r.is_dead and r.approver is None and r.trigger_at > since
    )


def approve(state: Account, command: ApproveRefund, policies: Policies) -> list[Fact]:
    """Raises NotAllowed for the requester's own approval, and where the balance has gone meanwhile."""
    refund = _refund(state, command.refund_id)
    if refund.approver is not None and is_same_person(refund.approver, command.approver):
        return []
    if refund.status is not RefundStatus.PENDING_APPROVAL:
        raise _not_allowed(refund, "approve")
    if is_same_person(refund.requester, command.approver):
        raise _not_allowed(refund, "approve", "whoever approves a refund must not be who asked for it")
    if refund.amount_minor > state.refundable_minor:
        raise _not_allowed(refund, "approve", f"only {_text(state, state.refundable_minor)} is left to refund")
    return _approved(state, refund, command.approver, policies, command.at)


def reject(state: Account, command: RejectRefund) -> list[Fact]:
    refund = _refund(state, command.refund_id)
    if refund.status is RefundStatus.REJECTED:
        return []
    if not REFUND.admits(refund.status, RefundRejected) or refund.is_approved:
        raise _not_allowed(refund, "reject")
    return [_rejected(state, refund, command.reason_code, command.detail)]


def cancel(state: Account, command: CancelRefund) -> list[Fact]:
    """Only while no leg of it may be on its way. What was paid of it stays paid, and the rest is given up."""
    refund = _refund(state, command.refund_id)
    if refund.status is RefundStatus.CANCELLED:
        return []
    legs = [state.operations[id] for id in refund.legs]
    paid = state.paid_out_minor(refund)
    if any(leg.is_in_flight and leg.submissions for leg in legs) or (paid and state.paying_out_minor(refund)):
        raise _not_allowed(refund, "cancel", "its money may be on its way already")
    if paid and REFUND.admits(refund.status, RefundReduced):
        reduced = _reduced(state, refund, paid, "given_up")
        return [reduced, *finished(evolve(state, reduced), refund.id)]
    if paid or not REFUND.admits(refund.status, RefundCancelled):
        raise _not_allowed(refund, "cancel", "its money is paid" if paid else "")
    return [
        RefundCancelled(
            order_id=state.order_id,
            refund_id=refund.id,
            detail=command.detail,
            cause_id=refund.cause_id,
            return_id=refund.return_id,
        )
    ]


def reroute(state: Account, command: RerouteRefund, policies: Policies) -> list[Fact]:
    refund = _refund(state, command.refund_id)
    outstanding = _outstanding(state, refund)
    is_stuck = refund.status in (RefundStatus.ATTENTION, RefundStatus.FAILED, RefundStatus.PARTIALLY_SUCCEEDED)
    if not is_stuck or not outstanding:
        raise _not_allowed(refund, "reroute")
    if not refund.is_approved:
        again = consider(state, refund.id, policies, command.at)
        if not again or isinstance(again[-1], RefundAttentionNeeded):
            raise _not_allowed(refund, "reroute", f"only {_text(state, state.refundable_minor)} is left to refund")
        return again
    account = command.account or refund.account
    if command.channel is RefundChannel.BANK_TRANSFER and account is None:
        raise Invalid("account", NO_ACCOUNT)
    routed = _routed(state, refund, outstanding, command.channel, policies, command.at)
    if isinstance(routed, Unroutable):
        raise _not_allowed(refund, "reroute", f"no way to pay {_text(state, outstanding)}: {routed.reason}")
    return [routed.model_copy(update={"account": command.account}) if command.account else routed]


def leg_succeeded(state: Account, leg: Operation, reference: str) -> list[Fact]:
    refund = state.refunds[leg.refund_id or ""]
    paid = RefundLegSucceeded(**_of_leg(state, leg), reference=reference)
    facts: list[Fact] = [paid]
    if _is_store_credit(state, leg):
        facts.append(StoreCreditIssued(**_credit(state, leg)))
    return facts + finished(evolve(state, paid), refund.id)


def leg_failed(state: Account, leg: Operation, code: str, policies: Policies, at: datetime) -> list[Fact]:
    """For good: the same money goes by the next channel the customer agrees to, or a person looks at it."""
    failed = RefundLegFailed(**_of_leg(state, leg), code=code)
    after = evolve(state, failed)
    if code not in NOT_PAID_ELSEWHERE and (again := _by_fallback(after, leg, code, policies, at)):
        return [failed, again]
    return [failed, *finished(after, leg.refund_id or "")]


def withdrawn(state: Account, leg: Operation) -> RefundLegFailed:
    return RefundLegFailed(**_of_leg(state, leg), code="paid_otherwise")


def leg_blocked(state: Account, leg: Operation, code: str, policies: Policies, at: datetime) -> list[Fact]:
    """A leg that was not sent yet has no money to draw on, by a dispute or since more has left: the other tenders give it."""
    failed = RefundLegFailed(**_of_leg(state, leg), code=code)
    after = evolve(state, failed)
    refund = after.refunds[leg.refund_id or ""]
    routed = _routed(after, refund, leg.amount_minor, refund.channel, policies, at)
    if isinstance(routed, Unroutable):
        return [failed, *finished(after, refund.id, DISPUTED if code == DISPUTED else PAYOUT_FAILED)]
    return [failed, routed]


def leg_reversed(state: Account, leg: Operation, code: str, policies: Policies, at: datetime) -> list[Fact]:
    """It bounced after it had succeeded: its balance is free again, and it goes another way or to a person."""
    bounced = RefundLegReversed(**_of_leg(state, leg), code=code)
    facts: list[Fact] = [bounced]
    if _is_store_credit(state, leg):
        facts.append(StoreCreditClawedBack(**_credit(state, leg)))
    after = evolve(state, bounced)
    refund = after.refunds[leg.refund_id or ""]
    if again := _by_fallback(after, leg, code, policies, at):
        return [*facts, again]
    if refund.status is RefundStatus.REVERSED:
        return [*facts, _attention(after, refund, "payout_bounced")]
    return facts + finished(after, refund.id)


def finished(state: Account, refund_id: str, why_unpaid: str = PAYOUT_FAILED) -> list[Fact]:
    """What the refund comes to once no leg is under way; nothing while one is."""
    refund = state.refunds[refund_id]
    if state.paying_out_minor(refund):
        return []
    paid = state.paid_out_minor(refund)
    if paid == refund.amount_minor:
        return [
            RefundCompleted(
                order_id=state.order_id,
                refund_id=refund.id,
                kind=refund.kind,
                cause_id=refund.cause_id,
                return_id=refund.return_id,
                amount_minor=refund.amount_minor,
                currency=refund.currency,
                trigger_at=refund.trigger_at,
            )
        ]
    if not paid:
        return [_attention(state, refund, why_unpaid)]
    return [
        RefundPartiallyCompleted(
            order_id=state.order_id,
            refund_id=refund.id,
            succeeded_minor=paid,
            failed_minor=refund.amount_minor - paid,
            currency=refund.currency,
        )
    ]


def submitted(state: Account, leg: Operation) -> RefundLegSubmitted:
    return RefundLegSubmitted(**_of_leg(state, leg))


def _approved(state: Account, refund: Refund, approver: str | None, policies: Policies, at: datetime) -> list[Fact]:
    """Approving reserves: the legs that hold the money are made in the same decision."""
    approved = RefundApproved(
        order_id=state.order_id,
        refund_id=refund.id,
        amount_minor=refund.amount_minor,
        currency=refund.currency,
        approver=approver,
    )
    after = evolve(state, approved)
    routed = _routed(after, refund, refund.amount_minor, refund.channel, policies, at)
    if isinstance(routed, Unroutable):
        return [approved, _attention(after, refund, routed.reason)]
    if refund.amount_minor:
        return [approved, routed]
    return [approved, routed, *finished(evolve(after, routed), refund.id)]


def _routed(
    state: Account, refund: Refund, amount: int, channel: RefundChannel, policies: Policies, at: datetime
) -> RefundRouted | Unroutable:
    if amount > state.refundable_minor:
        disputed = tuple(TenderExcluded(tender_id=id, reason=DISPUTED) for id in state.disputed_tenders)
        return Unroutable(DISPUTED if disputed else NOTHING_LEFT, amount - state.refundable_minor, disputed)
    policy = policies.routing_for(state, at)
    trigger_at = at if refund.legs else refund.trigger_at
    asked = Request(
        amount_minor=amount,
        channel=channel,
        consents=refund.all_consents,
        trigger_at=trigger_at,
        at=at,
        disputed=state.disputed_tenders,
    )
    found = route(policy, state.sources(), asked)
    if isinstance(found, Unroutable):
        return found
    return RefundRouted(
        order_id=state.order_id,
        refund_id=refund.id,
        legs=_legs(refund, found.shares),
        excluded=found.excluded,
        policy=policy.ref,
        promised_at=max((s.promised_at for s in found.shares), default=trigger_at),
        requested_at=at,
    )


def _by_fallback(state: Account, leg: Operation, code: str, policies: Policies, at: datetime) -> RefundRouted | None:
    """None where nothing is left to try, or its tender has no balance for it any more."""
    refund = state.refunds[leg.refund_id or ""]
    tender = state.tenders[leg.tender_id]
    if tender.is_disputed or min(state.left_minor(tender), state.refundable_minor) < leg.amount_minor:
        return None
    policy = policies.routing_for(state, at)
    channel = leg.channel or RefundChannel.ORIGINAL
    share = Share(tender.id, tender.kind, channel, leg.amount_minor, leg.authorization, (), at)
    asked = Request(leg.amount_minor, channel, refund.all_consents, at, at)
    again = fall_back(policy, share, code, asked)
    if again is None:
        return None
    return RefundRouted(
        order_id=state.order_id,
        refund_id=refund.id,
        legs=_legs(refund, [again]),
        excluded=(),
        policy=policy.ref,
        promised_at=again.promised_at,
        requested_at=at,
    )


def _legs(refund: Refund, shares: Sequence[Share]) -> tuple[RefundLeg, ...]:
    return tuple(
        RefundLeg(
            leg_id=f"{refund.id}L{number}",
            tender_id=share.tender_id,
            tender_kind=share.tender_kind,
            channel=share.channel,
            amount_minor=share.amount_minor,
            reasons=share.reasons,
            promised_at=share.promised_at,
            authorization=share.authorization,
        )
        for number, share in enumerate(shares, len(refund.legs) + 1)
    )


def _valued(state: Account, index: int, asked: Asked, before: Sequence[Asked]) -> RefundLine:
    """A line of a person's request: money of the line, and never units, which a return or a claim makes good (I8)."""
    at = f"lines.{index}"
    line = state.lines.get(asked.line_id)
    if line is None:
        raise Invalid(f"{at}.line_id", "is no line of this order")
    if any(other.line_id == asked.line_id for other in before):
        raise Invalid(f"{at}.line_id", "is named twice: name each line once, with its sum")
    if asked.quantity:
        raise Invalid(f"{at}.quantity", "must be 0: refunds of units are stated by the return or the claim")
    left = line.goods_minor + line.shipping_minor - state.refunded_value(asked.line_id)
    if asked.amount_minor > left:
        raise Invalid(f"{at}.amount_minor", f"only {_text(state, max(0, left))} of this line is left to refund")
    return RefundLine(line_id=asked.line_id, quantity=0, amount_minor=asked.amount_minor)


def _check_left(state: Account, amount: int) -> None:
    """What waits for an approval was promised first: refused at once is better than at its approval."""
    left = state.refundable_minor
    waiting = sum(r.amount_minor for r in state.refunds.values() if r.status is RefundStatus.PENDING_APPROVAL)
    if amount <= left - waiting:
        return
    if amount <= left:
        rule = f"only {_text(state, max(0, left - waiting))} is left: {_text(state, waiting)} waits for an approval"
        raise Invalid("amount_minor", rule)
    held = sum(state.held_minor(t) - state.lost_minor(t) for t in state.tenders.values())
    if state.disputed_tenders and amount <= sum(state.left_minor(t) for t in state.tenders.values()) + held:
        raise NotAllowed("disputed", "refund", (), "an open dispute holds the money this refund would need")
    raise Invalid("amount_minor", f"only {_text(state, state.refundable_minor)} is left to refund")


def _of_cause(state: Account, cause_id: str) -> bool:
    return any(r.cause_id == cause_id and not r.is_dead for r in state.refunds.values())


def _refund(state: Account, refund_id: str) -> Refund:
    found = state.refunds.get(refund_id)
    if found is None:
        raise Invalid("refund_id", "is no refund of this order")
    return found


def _not_allowed(refund: Refund, command: str, detail: str = "") -> NotAllowed:
    return NotAllowed(refund.status, command, REFUND.allowed(refund.status), detail)


def _attention(state: Account, refund: Refund, reason: str) -> RefundAttentionNeeded:
    refund = state.refunds[refund.id]
    return RefundAttentionNeeded(
        order_id=state.order_id,
        refund_id=refund.id,
        reason_code=reason,
        outstanding_minor=refund.amount_minor - state.paid_out_minor(refund),
        currency=refund.currency,
        cause_id=refund.cause_id,
        return_id=refund.return_id,
    )


def _of_leg(state: Account, leg: Operation) -> dict[str, Any]:
    return {
        "order_id": state.order_id,
        "refund_id": leg.refund_id,
        "leg_id": leg.id,
        "operation_id": leg.id,
        "tender_id": leg.tender_id,
        "channel": leg.channel,
        "amount_minor": leg.amount_minor,
        "currency": state.currency,
    }


def _is_store_credit(state: Account, leg: Operation) -> bool:
    if leg.channel is RefundChannel.ORIGINAL:
        return state.tenders[leg.tender_id].kind is TenderKind.STORE_CREDIT
    return leg.channel is RefundChannel.STORE_CREDIT


def _credit(state: Account, leg: Operation) -> dict[str, Any]:
    return {
        "order_id": state.order_id,
        "credit_id": leg.id,
        "customer_id": state.customer_id,
        "amount_minor": leg.amount_minor,
        "currency": state.currency,
        "refund_id": leg.refund_id,
    }


def _text(state: Account, minor: int) -> str:
    return format_minor(minor, state.currency)
