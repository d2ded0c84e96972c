"""What may be done with an order's returns: commands, and the facts they lead to."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal, TypeAlias, assert_never

from returns.domain.claims import CLAIM, CLAIMABLE, Claim, ClaimStatus
from returns.domain.dues import (
    consequences,
    difference_settled,
    exchanges_made,
    replaced_for,
    unpaid_advance,
)
from returns.domain.eligibility import LineFacts, OrderFacts, Request, UnitGroup, evaluate, inputs_hash
from returns.domain.evidence import AttachEvidence, attached
from returns.domain.inspections import ReviseInspection, recovery, revised
from returns.domain.owed import Cause, recovered, still_lost
from returns.domain.parcels import (
    UNDECIDED,
    InspectItems,
    Observation,
    ReceiveParcel,
    RecordScan,
    check_named_once,
    decided,
    observe,
    retried,
)
from returns.domain.policies import Binding, Policies
from returns.domain.recoveries import RECOVERY, Recovery, RecoveryStatus
from returns.domain.rma import REPLACEMENT, RETURN, ReturnStatus, Rma, owed_in_exchange
from returns.domain.state import (
    OrderReturns,
    evolve,
    free,
    goods_worth,
    groups,
    left,
    lost_unclaimed,
    room,
    shipping_worth,
    valued,
)
from returns.domain.units import Stage, UnitStatus, is_known, purchase_of
from shared.contracts.base import Fact, LineQuantity, PolicyRef
from shared.contracts.orders import OrderPlaced
from shared.contracts.returns import (
    ClaimOpened,
    ClaimResolved,
    DueLine,
    ExchangeReleased,
    PolicyBound,
    RecordedUnits,
    RecoveryChargeFailed,
    RecoveryChargeRequested,
    RecoverySettled,
    Resolution,
    ReturnApproved,
    ReturnCancelled,
    ReturnClosed,
    ReturnDeclined,
    ReturnDiscrepancyRecorded,
    ReturnDisputeRecorded,
    ReturnEligibilityEvaluated,
    ReturnExceptionGranted,
    ReturnExpired,
    ReturnLabelIssued,
    ReturnLine,
    ReturnReason,
    ReturnRefundDropped,
    ReturnRefundDue,
    ReturnRefundSettled,
    ReturnReopened,
    ReturnRequested,
    ReturnSentToReview,
    ReturnUnexpectedItemSettled,
    ReturnUnitsRecorded,
    Verdict,
    Why,
)
from shared.core.machine import Invalid, NotAllowed, replace
from shared.core.money import format_minor


@dataclass(frozen=True, slots=True)
class RecordPurchase:
    placed: OrderPlaced


@dataclass(frozen=True, slots=True)
class RecordUnits:
    """`lines` are a shipment's when it is shipped, and a parcel's (by its tracking) from then on."""

    source_id: str
    stage: Stage
    lines: tuple[RecordedUnits, ...]
    at: datetime
    tracking: str | None = None
    replaced: tuple[LineQuantity, ...] = ()
    """Units of the parcel that others were sent for."""
    replaces: str | None = None
    """The number by which the parcel was told of until now."""


@dataclass(frozen=True, slots=True)
class RecordDispute:
    dispute_id: str
    is_open: bool


@dataclass(frozen=True, slots=True)
class SettleRefund:
    """Payments completed a refund; it is ours when its cause is something that was stated here."""

    due_id: str
    refund_id: str
    amount_minor: int
    at: datetime


@dataclass(frozen=True, slots=True)
class DropRefund:
    """Payments will not pay what was due: it rejected or cancelled the refund."""

    due_id: str
    refund_id: str
    reason_code: str
    at: datetime


@dataclass(frozen=True, slots=True)
class ChargeRecovery:
    """Asked for by a supervisor; by its deadline, where the policy charges by itself."""

    recovery_id: str
    at: datetime
    approver: str | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class FailCharge:
    """Payments could charge nothing for a recovery case."""

    recovery_id: str
    code: str
    at: datetime


@dataclass(frozen=True, slots=True)
class SettleRecovery:
    recovery_id: str
    how: Literal["written_off", "returned"]
    approver: str
    detail: str
    at: datetime


@dataclass(frozen=True, slots=True)
class SettleItem:
    """A person says where an item went that is none of the return's."""

    return_id: str
    receipt_id: str
    sku: str
    quantity: int
    how: Literal["sent_back", "stocked", "disposed"]
    approver: str
    detail: str
    at: datetime


@dataclass(frozen=True, slots=True)
class RequestReturn:
    """`is_by_clock`: `at` is not what the customer says but what the clock here says, which may run behind."""

    lines: tuple[ReturnLine, ...]
    resolution: Resolution
    note: str
    evidence: tuple[str, ...]
    at: datetime
    membership: str | None = None
    abuse_score: int = 0
    is_by_clock: bool = False


@dataclass(frozen=True, slots=True)
class ApproveReturn:
    """`lines` None: all that the policy does not decline. `resolution` is said of goods that nobody had asked to return."""

    return_id: str
    lines: tuple[LineQuantity, ...] | None
    approver: str
    at: datetime
    resolution: Resolution | None = None


@dataclass(frozen=True, slots=True)
class DeclineReturn:
    return_id: str
    detail: str
    at: datetime


@dataclass(frozen=True, slots=True)
class GrantException:
    """`lines` None: all that was asked for."""

    return_id: str
    lines: tuple[LineQuantity, ...] | None
    approver: str
    detail: str
    at: datetime


@dataclass(frozen=True, slots=True)
class IssueLabel:
    return_id: str
    carrier: str
    tracking: str
    at: datetime


@dataclass(frozen=True, slots=True)
class SettleDifference:
    """A person says that what the exchange costs more is settled."""

    return_id: str
    exchange_id: str
    at: datetime


@dataclass(frozen=True, slots=True)
class RecordCharge:
    """Payments took what the exchange costs more, or what a replacement costs whose return never came."""

    exchange_id: str
    operation_id: str
    amount_minor: int
    at: datetime


@dataclass(frozen=True, slots=True)
class ExpireReturn:
    return_id: str
    at: datetime


@dataclass(frozen=True, slots=True)
class CancelReturn:
    return_id: str
    detail: str
    at: datetime


@dataclass(frozen=True, slots=True)
class CloseReturn:
    """A supervisor closes any return, for a reason; everybody else one that is resolved."""

    return_id: str
    at: datetime
    approver: str | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class ReopenReturn:
    return_id: str
    detail: str
    evidence: tuple[str, ...]
    at: datetime


@dataclass(frozen=True, slots=True)
class OpenClaim:
    lines: tuple[LineQuantity, ...]
    reason: ReturnReason
    evidence: tuple[str, ...]
    at: datetime


@dataclass(frozen=True, slots=True)
class ResolveClaim:
    claim_id: str
    outcome: Literal["refunded", "replaced", "rejected"]
    detail: str
    at: datetime


OrderCommand: TypeAlias = (
    RecordPurchase
    | RecordUnits
    | RecordDispute
    | RecordCharge
    | SettleRefund
    | DropRefund
    | ChargeRecovery
    | FailCharge
    | SettleRecovery
    | AttachEvidence
    | RequestReturn
    | OpenClaim
    | ResolveClaim
)
OneReturnCommand: TypeAlias = (
    ApproveReturn
    | DeclineReturn
    | GrantException
    | IssueLabel
    | ReviseInspection
    | SettleDifference
    | SettleItem
    | ExpireReturn
    | CancelReturn
    | CloseReturn
    | ReopenReturn
)
Command: TypeAlias = OrderCommand | OneReturnCommand | Observation


FOR_UNANNOUNCED: Final = (Resolution.REFUND, Resolution.STORE_CREDIT, Resolution.REPLACE_ON_RECEIPT)


def decide(state: OrderReturns, command: Command, policies: Policies) -> Sequence[Fact]:
    """The facts a command leads to, and what follows from them. Raises NotAllowed and Invalid."""
    facts = _decided(state, command, policies)
    if not facts or isinstance(command, RecordDispute):
        return facts
    after = _fold(state, facts)
    binding = _bound(after, policies)
    if binding is None:
        return facts
    at = command.placed.placed_at if isinstance(command, RecordPurchase) else command.at
    return [*facts, *recovered(after, binding, at, _because(command))]


def _because(command: Command) -> Cause:
    match command:
        case ExpireReturn() | CloseReturn():
            return "return_not_sent"
        case ReviseInspection():
            return "revised_down"
        case _:
            return "return_not_accepted"


def _decided(state: OrderReturns, command: Command, policies: Policies) -> Sequence[Fact]:
    match command:
        case RecordPurchase(placed=placed):
            return _purchased(state, placed, policies)
        case RecordUnits():
            return _recorded(state, command)
        case RecordDispute(dispute_id=dispute_id, is_open=is_open):
            if (dispute_id in state.disputes) == is_open:
                return []
            return [ReturnDisputeRecorded(order_id=state.order_id, dispute_id=dispute_id, is_open=is_open)]
        case RecordCharge():
            return _charged(state, command, policies)
        case SettleRefund() | DropRefund():
            return _settled(state, command, policies)
        case AttachEvidence(about=about):
            if about not in state.returns and about not in state.claims:
                raise Invalid("about", "is no return or claim of this order")
            return attached(state.order_id, state.files, command)
        case ChargeRecovery() | FailCharge() | SettleRecovery():
            return _recovery(state, command, policies)
        case RequestReturn():
            return _requested(state, command, policies)
        case OpenClaim():
            return _claimed(state, command, _bound(state, policies))
        case ResolveClaim():
            return _claim_resolved(state, command, policies)
        case RecordScan() | ReceiveParcel() | InspectItems():
            return observe(state, command, _bound(state, policies))
        case _:
            return _with_consequences(state, command, policies)


def _purchased(state: OrderReturns, placed: OrderPlaced, policies: Policies) -> Sequence[Fact]:
    if state.purchase is not None:
        return []
    recorded = purchase_of(placed)
    bound = policies.in_force(placed.placed_at, placed.return_policy)
    facts: list[Fact] = [recorded, PolicyBound(order_id=state.order_id, policy=bound)] if bound else [recorded]
    return facts + _retried(_fold(state, facts), policies)


def _retried(state: OrderReturns, policies: Policies) -> list[Fact]:
    binding = _bound(state, policies) if state.waiting and state.purchase else None
    return retried(state, binding) if binding else []


def _recorded(state: OrderReturns, command: RecordUnits) -> Sequence[Fact]:
    is_repeat = command.stage not in ("cancelled", "settled") and is_known(
        state.where, command.stage, command.source_id, command.tracking, command.replaces
    )
    if is_repeat or not (command.lines or command.replaced or command.replaces):
        return []
    return [
        ReturnUnitsRecorded(
            order_id=state.order_id,
            source_id=command.source_id,
            tracking=command.tracking,
            stage=command.stage,
            lines=command.lines,
            at=command.at,
            replaced=command.replaced,
            replaces=command.replaces,
        )
    ]


def _bound(state: OrderReturns, policies: Policies) -> Binding | None:
    """The policy that binds the order, where one does."""
    ref = _policy_of(state, policies)
    policy = policies.get(ref) if ref else None
    return Binding(policy, ref) if ref and policy else None


def _binding(state: OrderReturns, policies: Policies) -> Binding:
    """The policy that binds the order. Raises Invalid where none was in force when it was placed."""
    binding = _bound(state, policies)
    if binding is None:
        raise Invalid("policy", "no return policy was in force when the order was placed")
    return binding


def _policy_of(state: OrderReturns, policies: Policies) -> PolicyRef | None:
    """Bound at purchase; else, where it was published later than the order was seen, by the same rule now."""
    if state.policy is not None or state.purchase is None:
        return state.policy
    return policies.in_force(state.purchase.placed_at, state.purchase.pinned)


def _bound_now(state: OrderReturns, binding: Binding) -> list[Fact]:
    return [] if state.policy else [PolicyBound(order_id=state.order_id, policy=binding.ref)]


def _fold(state: OrderReturns, facts: Sequence[Fact]) -> OrderReturns:
    for fact in facts:
        state = evolve(state, fact)
    return state


def _settled(state: OrderReturns, command: SettleRefund | DropRefund, policies: Policies) -> Sequence[Fact]:
    """What payments made of a refund that is due here. One that was dropped may be paid after all."""
    owners: list[Rma | Claim] = [*state.returns.values(), *state.claims.values()]
    for owner in owners:
        due = owner.dues.get(command.due_id)
        if due is None:
            continue
        if due.is_settled and (isinstance(command, DropRefund) or not due.is_dropped):
            return []
        owner_id = owner.return_id if isinstance(owner, Rma) else owner.claim_id
        of = {
            "order_id": state.order_id,
            "return_id": owner_id,
            "due_id": command.due_id,
            "refund_id": command.refund_id,
        }
        facts: list[Fact] = (
            [ReturnRefundDropped(**of, reason_code=command.reason_code)]
            if isinstance(command, DropRefund)
            else [ReturnRefundSettled(**of, amount_minor=command.amount_minor)]
        )
        if isinstance(owner, Rma):
            facts += consequences(_fold(state, facts), owner_id, _binding(state, policies), command.at)
        return facts
    return []


def _requested(state: OrderReturns, command: RequestReturn, policies: Policies) -> Sequence[Fact]:
    if state.purchase is None:
        raise Invalid("order_id", "is not known")
    if command.at < state.purchase.placed_at and not command.is_by_clock:
        raise Invalid("occurred_at", "must not lie before the order was placed")
    _check_lines(state, command)
    binding = _binding(state, policies)
    return_id = f"{state.order_id}-RMA{len(state.returns) + 1}"
    asked = [group for line in command.lines for group in groups(state, line.line_id, line.quantity)]
    if command.is_by_clock:
        # Nobody asks before the goods are there: by such a clock whoever just got them would be declined.
        delivered = (group.delivered_at for group in asked if group.delivered_at is not None)
        command = replace(command, at=max(command.at, state.purchase.placed_at, *delivered))
    request = Request(command.at, command.resolution, command.lines, command.membership, command.abuse_score)
    verdicts, inputs = _judged(state, binding, asked, request)
    facts: list[Fact] = [
        *_bound_now(state, binding),
        ReturnRequested(
            order_id=state.order_id,
            return_id=return_id,
            requested_at=command.at,
            lines=command.lines,
            resolution=command.resolution,
            note=command.note,
            evidence=command.evidence,
            membership=command.membership,
            abuse_score=command.abuse_score,
        ),
        ReturnEligibilityEvaluated(
            order_id=state.order_id, return_id=return_id, verdicts=verdicts, policy=binding.ref, inputs_hash=inputs
        ),
    ]
    if any(v.outcome == "review" for v in verdicts):
        why = _reasons(v for v in verdicts if v.outcome != "approve")
        facts.append(
            ReturnSentToReview(
                order_id=state.order_id,
                return_id=return_id,
                reasons=why,
                policy=binding.ref,
                decide_by=command.at + timedelta(days=binding.policy.review_days),
            )
        )
        return facts
    approved = _summed(v for v in verdicts if v.outcome == "approve")
    if not approved:
        facts.append(
            ReturnDeclined(order_id=state.order_id, return_id=return_id, reasons=_reasons(verdicts), policy=binding.ref)
        )
        return facts
    facts += _approved(_fold(state, facts), return_id, approved, None, binding, command.at)
    return [*facts, *consequences(_fold(state, facts), return_id, binding, command.at)]


def _check_lines(state: OrderReturns, command: RequestReturn) -> None:
    assert state.purchase is not None
    seen: set[str] = set()
    for i, line in enumerate(command.lines):
        where = f"lines.{i}"
        if line.line_id not in state.purchase.lines:
            raise Invalid(f"{where}.line_id", "is not a line of this order")
        if line.line_id in seen:
            raise Invalid(f"{where}.line_id", "is named twice")
        seen.add(line.line_id)
        if line.quantity > left(state, line.line_id):
            raise Invalid(f"{where}.quantity", f"must not be above {left(state, line.line_id)}, which is what is left")
        if line.reason is ReturnReason.NOT_RECEIVED:
            raise Invalid(f"{where}.reason", "what was not received is claimed, not returned")
        is_exchange = command.resolution is Resolution.EXCHANGE
        if is_exchange and line.exchange_sku is None:
            raise Invalid(f"{where}.exchange_sku", "is required for an exchange")
        if not is_exchange and (line.exchange_sku is not None or line.exchange_unit_price_minor is not None):
            raise Invalid(f"{where}.exchange_sku", f"has no place in a return for {command.resolution}")


def _judged(
    state: OrderReturns, binding: Binding, asked: Sequence[UnitGroup], request: Request
) -> tuple[tuple[Verdict, ...], str]:
    """The verdicts and the hash of all that they depend on."""
    assert state.purchase is not None
    bought = state.purchase.lines
    facts = OrderFacts(
        placed_at=state.purchase.placed_at,
        has_open_dispute=bool(state.disputes),
        lines={
            line.line_id: LineFacts(bought[line.line_id].category, bought[line.line_id].final_sale)
            for line in request.lines
        },
    )
    inputs = (binding.policy, facts, asked, request)
    return evaluate(*inputs), inputs_hash(*inputs)


def _reasons(verdicts: Iterator[Verdict] | Sequence[Verdict]) -> tuple[Why, ...]:
    """Every distinct reason, in the order given."""
    return tuple({(why.code, why.text): why for v in verdicts for why in v.reasons}.values())


def _summed(verdicts: Iterator[Verdict]) -> tuple[LineQuantity, ...]:
    units: dict[str, int] = {}
    for v in verdicts:
        units[v.line_id] = units.get(v.line_id, 0) + v.quantity
    return _quantities(units)


def _quantities(units: Mapping[str, int]) -> tuple[LineQuantity, ...]:
    return tuple(LineQuantity(line_id=line_id, quantity=n) for line_id, n in units.items())


def _approved(
    state: OrderReturns,
    return_id: str,
    lines: tuple[LineQuantity, ...],
    approver: str | None,
    binding: Binding,
    at: datetime,
    resolution: Resolution | None = None,
) -> list[Fact]:
    """The approval, and the exchanges it makes."""
    facts: list[Fact] = [
        ReturnApproved(
            order_id=state.order_id,
            return_id=return_id,
            lines=lines,
            expires_at=at + timedelta(days=binding.policy.authorization_days),
            approver=approver,
            policy=binding.ref,
            resolution=resolution,
        )
    ]
    after = _fold(state, facts)
    if after.returns[return_id].resolution in REPLACEMENT:
        facts += exchanges_made(after, after.returns[return_id])
    return facts


def _with_consequences(state: OrderReturns, command: OneReturnCommand, policies: Policies) -> Sequence[Fact]:
    one = state.returns.get(command.return_id)
    if one is None:
        raise Invalid("return_id", "is not known")
    binding = _binding(state, policies)
    facts = _one(state, one, command, binding)
    if facts and one.status in UNDECIDED:
        facts += decided(_fold(state, facts), one.return_id, binding)
    if not facts or isinstance(command, ReopenReturn | CancelReturn | CloseReturn | IssueLabel | DeclineReturn):
        return facts
    return [*facts, *consequences(_fold(state, facts), one.return_id, binding, command.at)]


def _one(state: OrderReturns, one: Rma, command: OneReturnCommand, binding: Binding) -> list[Fact]:
    """Matched on the pair of status and command: what is not written is not allowed."""
    status = ReturnStatus
    order_id, return_id = state.order_id, one.return_id
    match one.status, command:
        case status.UNDER_REVIEW, ApproveReturn(lines=lines, approver=approver, at=at, resolution=resolution):
            granted = _within(one, lines, UnitStatus.PENDING, UnitStatus.UNINSPECTED)
            _check_decision(one, granted, resolution)
            return _approved(state, return_id, granted, approver, binding, at, resolution)
        case status.UNDER_REVIEW, DeclineReturn(detail=detail):
            why = Why(code="declined_by_person", text=detail)
            return [ReturnDeclined(order_id=order_id, return_id=return_id, reasons=(why,), policy=binding.ref)]
        case ((status.UNDER_REVIEW | status.DECLINED), GrantException()):
            return _excepted(state, one, command, binding)
        case (
            (status.APPROVED | status.IN_TRANSIT | status.PARTIALLY_RECEIVED | status.INSPECTING),
            IssueLabel(carrier=carrier, tracking=tracking),
        ):
            return [ReturnLabelIssued(order_id=order_id, return_id=return_id, carrier=carrier, tracking=tracking)]
        case ((status.INSPECTING | status.RESOLVED | status.REOPENED), ReviseInspection()):
            return revised(state, one, command, binding)
        case _, SettleItem():
            return _item_settled(one, command, order_id)
        case _, SettleDifference(exchange_id=exchange_id):
            return _difference_settled(state, one, exchange_id)
        case (
            (status.APPROVED | status.IN_TRANSIT | status.PARTIALLY_RECEIVED | status.INSPECTING),
            ExpireReturn(at=at),
        ) if one.is_expecting and one.expires_at is not None and one.expires_at <= at:
            return _expired(state, one)
        case ((status.UNDER_REVIEW | status.APPROVED | status.IN_TRANSIT), CancelReturn(detail=detail)) if (
            not _is_paid_ahead(one) and not one.received
        ):
            return [ReturnCancelled(order_id=order_id, return_id=return_id, detail=detail)]
        case status.CANCELLED, CancelReturn():
            return []
        case ((status.RESOLVED | status.REOPENED), CloseReturn(detail=detail)):
            return [ReturnClosed(order_id=order_id, return_id=return_id, approver=command.approver, detail=detail)]
        case status.CLOSED, CloseReturn():
            return []
        case _, CloseReturn(approver=str()) if RETURN.admits(one.status, ReturnClosed):
            return _closed(state, one, command)
        case status.CLOSED, ReopenReturn(detail=detail, evidence=evidence):
            return [ReturnReopened(order_id=order_id, return_id=return_id, detail=detail, evidence=evidence)]
        case _:
            raise NotAllowed(one.status, type(command).__name__, RETURN.allowed(one.status))


def _closed(state: OrderReturns, one: Rma, command: CloseReturn) -> list[Fact]:
    """What is awaited is awaited no longer; goods that are here stay where they are, and nothing more is asked of the
    customer for what was not sent."""
    closed = ReturnClosed(
        order_id=state.order_id,
        return_id=one.return_id,
        approver=command.approver,
        detail=command.detail,
        unresolved=True,
    )
    asked = [id for id, e in one.exchanges.items() if e.due_minor and not e.is_settled and not e.released]
    return [closed, *(difference_settled(state, one, id, 0, None) for id in asked)]


def _is_paid_ahead(one: Rma) -> bool:
    """A refund or a replacement was given before anything came back: it can no longer just be called off."""
    return bool(one.dues) or any(exchange.released for exchange in one.exchanges.values())


def _within(one: Rma, lines: tuple[LineQuantity, ...] | None, *statuses: UnitStatus) -> tuple[LineQuantity, ...]:
    """The units named, or all there are in these statuses. Raises Invalid for more than there are."""
    there = {line_id: line.count(*statuses) for line_id, line in one.lines.items()}
    if lines is None:
        return tuple(LineQuantity(line_id=line_id, quantity=n) for line_id, n in there.items() if n)
    check_named_once(lines)
    for i, line in enumerate(lines):
        if line.line_id not in there:
            raise Invalid(f"lines.{i}.line_id", "is not a line of this return")
        if line.quantity > there[line.line_id]:
            raise Invalid(f"lines.{i}.quantity", f"must not be above {there[line.line_id]}")
    return lines


def _check_decision(one: Rma, granted: tuple[LineQuantity, ...], resolution: Resolution | None) -> None:
    """Goods that came without a return have no resolution that anybody asked for: whoever approves them says one."""
    if one.announced_as is None:
        if resolution not in (None, one.resolution):
            raise Invalid("resolution", f"the customer asked for {one.resolution}")
        return
    if not granted:
        raise Invalid("lines", "nothing that came is a unit of the order: decline the return and send it back")
    if resolution not in (None, *FOR_UNANNOUNCED):
        raise Invalid("resolution", f"must be one of {', '.join(FOR_UNANNOUNCED)}: the goods came without a return")


def _excepted(state: OrderReturns, one: Rma, command: GrantException, binding: Binding) -> list[Fact]:
    """The policy is set aside for units that are there to come back; nobody can set aside that they are not."""
    lines = _within(one, command.lines, UnitStatus.PENDING, UnitStatus.UNINSPECTED, UnitStatus.DECLINED)
    if not lines:
        raise Invalid("lines", "must not be empty: nothing of this return can be approved")
    for i, line in enumerate(lines):
        pending = one.lines[line.line_id].count(UnitStatus.PENDING, UnitStatus.UNINSPECTED)
        available = free(state, line.line_id) + pending
        if line.quantity > available:
            rule = f"only {available} delivered and in no other return"
            raise Invalid(f"lines.{i}.quantity" if command.lines else "lines", rule)
    granted = ReturnExceptionGranted(
        order_id=state.order_id,
        return_id=one.return_id,
        approver=command.approver,
        detail=command.detail,
        lines=lines,
        policy=binding.ref,
    )
    after = _fold(state, [granted])
    return [granted, *_approved(after, one.return_id, lines, command.approver, binding, command.at)]


def _item_settled(one: Rma, command: SettleItem, order_id: str) -> list[Fact]:
    of = [item for item in one.unexpected if (item.receipt_id, item.sku) == (command.receipt_id, command.sku)]
    if not of:
        raise Invalid("sku", f"no such item came in receipt {command.receipt_id}")
    left = sum(item.quantity - item.settled for item in of)
    if command.quantity > left:
        raise Invalid("quantity", f"must not be above {left}, which is what is left of it")
    return [
        ReturnUnexpectedItemSettled(
            order_id=order_id,
            return_id=one.return_id,
            receipt_id=command.receipt_id,
            sku=command.sku,
            quantity=command.quantity,
            how=command.how,
            approver=command.approver,
            detail=command.detail,
        )
    ]


def _difference_settled(state: OrderReturns, one: Rma, exchange_id: str) -> list[Fact]:
    exchange = one.exchanges.get(exchange_id)
    if exchange is None:
        raise Invalid("exchange_id", "is not known")
    is_owed = exchange.released > 0 or owed_in_exchange(one, one.lines[exchange.line_id]) > 0
    if exchange.is_settled or (exchange.released and not exchange.due_minor):
        return []
    if not exchange.due_minor or not is_owed:
        raise NotAllowed(one.status, "SettleDifference", RETURN.allowed(one.status), "no difference is due")
    return [difference_settled(state, one, exchange_id, exchange.due_minor, None)]


def _charged(state: OrderReturns, command: RecordCharge, policies: Policies) -> Sequence[Fact]:
    for one in state.returns.values():
        exchange = one.exchanges.get(command.exchange_id)
        if exchange is None:
            continue
        if exchange.charged_minor:
            return []
        settled = difference_settled(state, one, command.exchange_id, command.amount_minor, command.operation_id)
        after = _fold(state, [settled])
        return [settled, *consequences(after, one.return_id, _binding(state, policies), command.at)]
    recovery = state.recoveries.get(command.exchange_id)
    if recovery is None:
        currency = state.purchase.currency if state.purchase else None
        amount = format_minor(command.amount_minor, currency) if currency else f"{command.amount_minor} minor units"
        detail = f"{amount} was charged for {command.exchange_id}, which is not known: give it back"
        return [_charged_in_vain(state, "unknown_charge", None, detail)]
    if recovery.is_open:
        return _recovered(state, recovery, "charged", None, "", policies, command.at, command.operation_id)
    amount = format_minor(command.amount_minor, recovery.currency)
    detail = f"{amount} was charged for {recovery.recovery_id}, which is {recovery.how}: give it back"
    return [_charged_in_vain(state, "recovery_settled", recovery.return_id, detail)]


def _charged_in_vain(
    state: OrderReturns, contradicts: Literal["recovery_settled", "unknown_charge"], return_id: str | None, detail: str
) -> ReturnDiscrepancyRecorded:
    """Money was taken that nothing here is owed: a person gives it back."""
    return ReturnDiscrepancyRecorded(
        order_id=state.order_id,
        discrepancy_id=f"{state.order_id}-RD{state.discrepancies + 1}",
        observation="payment.captured",
        contradicts=contradicts,
        return_id=return_id,
        detail=detail,
    )


def _recovery(
    state: OrderReturns, command: ChargeRecovery | FailCharge | SettleRecovery, policies: Policies
) -> list[Fact]:
    recovery = state.recoveries.get(command.recovery_id)
    if recovery is None:
        if isinstance(command, FailCharge):
            return []  # of an exchange: payments has it, and asks a person
        raise Invalid("recovery_id", "is not known")
    match recovery.status, command:
        case RecoveryStatus.OPEN, ChargeRecovery(approver=approver, detail=detail):
            return [
                RecoveryChargeRequested(
                    order_id=state.order_id,
                    recovery_id=recovery.recovery_id,
                    return_id=recovery.return_id,
                    amount_minor=recovery.amount_minor,
                    currency=recovery.currency,
                    approver=approver,
                    detail=detail,
                )
            ]
        case RecoveryStatus.CHARGE_REQUESTED, FailCharge(code=code):
            return [RecoveryChargeFailed(order_id=state.order_id, recovery_id=recovery.recovery_id, code=code)]
        case (RecoveryStatus.CHARGE_REQUESTED, ChargeRecovery()) | (_, FailCharge()):
            return []
        case ((RecoveryStatus.OPEN | RecoveryStatus.CHARGE_REQUESTED), SettleRecovery()):
            return _recovered(state, recovery, command.how, command.approver, command.detail, policies, command.at)
        case RecoveryStatus.SETTLED, SettleRecovery(how=how) if how == recovery.how:
            return []
        case _:
            raise NotAllowed(recovery.status, type(command).__name__, RECOVERY.allowed(recovery.status))


def _recovered(
    state: OrderReturns,
    recovery: Recovery,
    how: Literal["charged", "written_off", "returned"],
    approver: str | None,
    detail: str,
    policies: Policies,
    at: datetime,
    operation_id: str | None = None,
) -> list[Fact]:
    """It is settled, and so may be the return that it came of."""
    settled = RecoverySettled(
        order_id=state.order_id,
        recovery_id=recovery.recovery_id,
        how=how,
        amount_minor=recovery.amount_minor,
        currency=recovery.currency,
        approver=approver,
        operation_id=operation_id,
        detail=detail,
    )
    if recovery.return_id not in state.returns:
        return [settled]
    after = _fold(state, [settled])
    return [settled, *consequences(after, recovery.return_id, _binding(state, policies), at)]


def _expired(state: OrderReturns, one: Rma) -> list[Fact]:
    fact = ReturnExpired(order_id=state.order_id, return_id=one.return_id)
    then = evolve(state, fact)
    after = then.returns[one.return_id]
    return [fact.model_copy(update={"recovery_minor": recovery(one, after)}), *unpaid_advance(then, after)]


def _claimed(state: OrderReturns, command: OpenClaim, binding: Binding | None) -> Sequence[Fact]:
    if state.purchase is None:
        raise Invalid("order_id", "is not known")
    if command.reason not in CLAIMABLE:
        raise Invalid("reason", f"{command.reason} is a reason to return, not to claim")
    check_named_once(command.lines)
    for i, line in enumerate(command.lines):
        if line.line_id not in state.purchase.lines:
            raise Invalid(f"lines.{i}.line_id", "is not a line of this order")
        is_lost = command.reason is ReturnReason.NOT_RECEIVED
        there = lost_unclaimed(state, line.line_id) if is_lost else free(state, line.line_id)
        if line.quantity > there:
            of = "lost and in no other claim" if is_lost else "delivered and in no return or claim"
            raise Invalid(f"lines.{i}.quantity", f"only {there} {of}")
    return [
        ClaimOpened(
            order_id=state.order_id,
            claim_id=f"{state.order_id}-CL{len(state.claims) + 1}",
            lines=command.lines,
            reason=command.reason,
            evidence=command.evidence,
            decide_by=command.at + timedelta(days=binding.policy.review_days) if binding else None,
        )
    ]


def _claim_resolved(state: OrderReturns, command: ResolveClaim, policies: Policies) -> Sequence[Fact]:
    claim = state.claims.get(command.claim_id)
    if claim is None:
        raise Invalid("claim_id", "is not known")
    if claim.status == command.outcome:
        return []
    if claim.status is not ClaimStatus.OPEN:
        raise NotAllowed(claim.status, "ResolveClaim", CLAIM.allowed(claim.status))
    if claim.is_for_lost and command.outcome != "rejected":
        for line_id, units in claim.units.items():
            if units > (lost := still_lost(state, line_id)):
                rule = (
                    f"only {lost} of line {line_id} are lost now: the others arrived, or were sent again or cancelled"
                )
                raise Invalid("outcome", f"{rule}; reject the claim, and open one for what is lost")
    resolved = ClaimResolved(
        order_id=state.order_id, claim_id=claim.claim_id, outcome=command.outcome, detail=command.detail
    )
    match command.outcome:
        case "rejected":
            return [resolved]
        case "replaced":
            return [resolved, *_replaced(state, claim)]
        case "refunded":
            due = list(_claim_due(state, claim, _binding(state, policies), command.at))
            if claim.is_for_lost and not due:
                resolved = resolved.model_copy(update={"written_off": _quantities(claim.units)})
            return [resolved, *due]
    assert_never(command.outcome)


def _replaced(state: OrderReturns, claim: Claim) -> Iterator[Fact]:
    assert state.purchase is not None
    for number, (line_id, quantity) in enumerate(claim.units.items(), state.exchanges + 1):
        yield ExchangeReleased(
            order_id=state.order_id,
            return_id=claim.claim_id,
            exchange_id=f"{state.order_id}-X{number}",
            lines=(LineQuantity(line_id=line_id, quantity=quantity),),
            sku=state.purchase.lines[line_id].sku,
            reason_code=replaced_for(claim.reason),
        )


def _claim_due(state: OrderReturns, claim: Claim, binding: Binding, at: datetime) -> Iterator[Fact]:
    """The units' whole worth and their part of the shipping: the fault is ours. What was paid for the line too much
    by a return is not paid again."""
    assert state.purchase is not None
    lines = []
    for line_id, quantity in claim.units.items():
        before = valued(state, line_id)
        goods = goods_worth(state, line_id, quantity, before)
        shipping = shipping_worth(state, line_id, quantity, before)
        lines.append(
            DueLine(
                line_id=line_id,
                quantity=quantity,
                gross_minor=goods,
                fee_minor=0,
                shipping_minor=shipping,
                refund_minor=max(0, min(goods + shipping, room(state, line_id, goods + shipping))),
            )
        )
    amount = sum(line.refund_minor for line in lines)
    if amount:
        yield ReturnRefundDue(
            order_id=state.order_id,
            return_id=claim.claim_id,
            due_id=f"{claim.claim_id}-D{sum(claim.units.values())}",
            lines=tuple(lines),
            amount_minor=amount,
            currency=state.purchase.currency,
            trigger_at=at,
            resolution=Resolution.REFUND,
            return_shipping_fee_minor=0,
            policy=binding.ref,
        )


def deadlines(state: OrderReturns) -> Mapping[str, datetime]:
    """When what is awaited expires, when what is resolved is closed, and when what is owed is charged."""
    due: dict[str, datetime] = {}
    for return_id, one in state.returns.items():
        if one.is_expecting and one.expires_at is not None:
            due[f"expire {return_id}"] = one.expires_at
        if one.status is ReturnStatus.RESOLVED and one.closes_at is not None:
            due[f"close {return_id}"] = one.closes_at
    for recovery_id, of in state.recoveries.items():
        if of.status is RecoveryStatus.OPEN and of.is_charged_when_due:
            due[f"recover {recovery_id}"] = of.due_at
    return due


def due_command(_: str, name: str, due_at: datetime) -> Command:
    """The command of a deadline."""
    kind, _, id = name.partition(" ")
    match kind:
        case "expire":
            return ExpireReturn(id, due_at)
        case "recover":
            return ChargeRecovery(id, due_at)
        case _:
            return CloseReturn(id, due_at)
