"""What payments decides: every command of an order's account, and what follows from it, as facts.

What follows is one rule for all commands: release what is not needed, give back what is too much, look again at refunds
that wait. It is computed from the account alone, so whichever message comes first, the account comes to the same rest.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal, TypeAlias

from payments.domain import capture, payout
from payments.domain.account import EXPIRED_AUTHORIZATION, Account, evolve
from payments.domain.charge import CHARGE, Charge, ChargeStatus
from payments.domain.operation import Operation, OperationStatus, Result, Verdict
from payments.domain.payout import (
    ApproveRefund,
    CancelRefund,
    OweRefund,
    Policies,
    RejectRefund,
    RequestRefund,
    RerouteRefund,
)
from payments.domain.tender import CAPTURABLE, DisputeStatus, Tender, TenderStatus
from shared.contracts.base import Fact, LineQuantity
from shared.contracts.orders import TenderSpec
from shared.contracts.payments import (
    DisputeLost,
    DisputeOpened,
    DisputeWon,
    OperationKind,
    PayableLine,
    PaymentAnomalyDetected,
    PaymentAuthorized,
    PaymentCaptureFailed,
    PaymentChargeDropped,
    PaymentChargeRequested,
    PaymentDeclined,
    PaymentOpened,
    PaymentOperationReconciled,
    PaymentOperationSubmitted,
    PaymentOperationUnknown,
    PaymentReauthorized,
    PaymentUnitsNoted,
    PaymentVoided,
    PaymentVoidFailed,
    UnitsChange,
)
from shared.machine import Invalid, NotAllowed

FRAUD: Final = "fraud"
TOLD_LATE: Final = timedelta(hours=1)
"""An expiry that is told this long after it happened belongs to a story told in the past: the capture will show."""


@dataclass(frozen=True, slots=True)
class Open:
    customer_id: str
    currency: str
    lines: tuple[PayableLine, ...]
    shipping_minor: int
    total_minor: int
    tenders: tuple[TenderSpec, ...]
    placed_at: datetime
    at: datetime


@dataclass(frozen=True, slots=True)
class Confirm:
    at: datetime


@dataclass(frozen=True, slots=True)
class NoteUnits:
    """Something happened to units; `cause_id` is the shipment, cancellation or return."""

    change: UnitsChange
    cause_id: str
    lines: tuple[LineQuantity, ...]
    at: datetime


@dataclass(frozen=True, slots=True)
class CancelRest:
    """The order is over: whatever was not handed over is cancelled."""

    cause_id: str
    at: datetime


@dataclass(frozen=True, slots=True)
class RetryCaptures:
    """A person asks for what was handed over and declined, once more."""

    at: datetime


@dataclass(frozen=True, slots=True)
class OweCharge:
    """Returns states what the customer owes for an exchange."""

    exchange_id: str
    return_id: str
    amount_minor: int
    currency: str
    at: datetime


@dataclass(frozen=True, slots=True)
class DropCharge:
    """Returns says that it is settled otherwise, or no longer due."""

    exchange_id: str
    at: datetime


@dataclass(frozen=True, slots=True)
class RetryCharge:
    """A person asks for a charge that failed, once more."""

    exchange_id: str
    at: datetime


@dataclass(frozen=True, slots=True)
class ExpireAuthorization:
    """`late` is how long after it this is told."""

    tender_id: str
    at: datetime
    late: timedelta


@dataclass(frozen=True, slots=True)
class Submit:
    """The provider is about to be asked."""

    operation_id: str


@dataclass(frozen=True, slots=True)
class LoseSight:
    """The provider did not answer: it may or may not have happened."""

    operation_id: str


@dataclass(frozen=True, slots=True)
class Conclude:
    """What the provider says became of an operation. `verdict` None: asked, it has never seen the key."""

    operation_id: str
    verdict: Verdict | None


@dataclass(frozen=True, slots=True)
class Dispute:
    authorization: str
    dispute_id: str
    change: Literal["opened", "won", "lost"]
    amount_minor: int
    at: datetime


Command: TypeAlias = (
    Open
    | Confirm
    | NoteUnits
    | CancelRest
    | RetryCaptures
    | OweCharge
    | DropCharge
    | RetryCharge
    | ExpireAuthorization
    | Submit
    | LoseSight
    | Conclude
    | Dispute
    | RequestRefund
    | OweRefund
    | ApproveRefund
    | RejectRefund
    | CancelRefund
    | RerouteRefund
)


def decide(state: Account, command: Command, policies: Policies) -> Sequence[Fact]:
    """The facts of the command, then what follows from them."""
    match command:
        case Open():
            facts = _open(state, command)
            return _and_then(state, facts, policies, command.at, capture.authorizations, capture.captures)
        case Confirm() if state.is_open:
            return _and_then(state, [], policies, command.at, capture.prepaid_captures)
        case Confirm():
            raise NotAllowed("not opened", "confirm")
        case NoteUnits(change=UnitsChange.HANDED_OVER):
            return _and_then(state, _noted(state, command, command.lines), policies, command.at, capture.captures)
        case NoteUnits():
            return _and_then(state, _noted(state, command, command.lines), policies, command.at)
        case CancelRest():
            return _and_then(state, _cancel_rest(state, command), policies, command.at)
        case RetryCaptures():
            return _retry(state, command)
        case OweCharge():
            return _and_then(state, _charged(state, command), policies, command.at)
        case DropCharge(exchange_id=id):
            return _and_then(state, _dropped(state, id), policies, command.at)
        case RetryCharge():
            return _and_then(state, _charged_again(state, command), policies, command.at)
        case ExpireAuthorization():
            return _and_then(state, _expire(state, command), policies, command.at)
        case Submit(operation_id=id):
            return _submit(state, _operation(state, id))
        case LoseSight(operation_id=id):
            operation = _operation(state, id)
            return [_unknown(state, operation)] if operation.status is OperationStatus.SUBMITTED else []
        case Conclude(operation_id=id, verdict=verdict):
            operation = _operation(state, id)
            return _conclude(state, operation, verdict, policies) if verdict else _never_seen(state, operation)
        case Dispute():
            return _dispute(state, command, policies)
        case RequestRefund() if state.is_open:
            return _and_then(state, payout.request(state, command, policies), policies, command.at)
        case RequestRefund():
            raise NotAllowed("not opened", "refund")
        case OweRefund():
            return _and_then(state, payout.owe(state, command, policies), policies, command.at)
        case ApproveRefund():
            return _and_then(state, payout.approve(state, command, policies), policies, command.at)
        case RejectRefund():
            return _and_then(state, payout.reject(state, command), policies, command.at)
        case CancelRefund():
            return _and_then(state, payout.cancel(state, command), policies, command.at)
        case RerouteRefund():
            return _and_then(state, payout.reroute(state, command, policies), policies, command.at)


Rule: TypeAlias = Callable[[Account, datetime], Sequence[Fact]]


def deadlines(state: Account) -> dict[str, datetime]:
    """When authorizations run out."""
    return {
        f"expiry:{t.id}": t.current.expires_at
        for t in state.tenders.values()
        if t.status in CAPTURABLE and t.current.expires_at is not None
    }


def _and_then(state: Account, facts: Sequence[Fact], policies: Policies, at: datetime, *rules: Rule) -> Sequence[Fact]:
    """The facts, and what the rules and the account make of them, each rule on the state the one before it left."""
    told = list(facts)
    for fact in facts:
        state = evolve(state, fact)
    if not state.is_open:
        return told

    def owed(state: Account, at: datetime) -> Sequence[Fact]:
        return payout.excess(state, policies, at)

    def waiting(state: Account, at: datetime) -> Sequence[Fact]:
        return payout.waiting(state, policies, at)

    for rule in (*rules, capture.charges, capture.releases, owed, waiting):
        more = rule(state, at)
        for fact in more:
            state = evolve(state, fact)
        told += more
    return told


def _open(state: Account, command: Open) -> list[Fact]:
    if state.is_open:
        raise NotAllowed("opened", "open")
    return [
        PaymentOpened(
            order_id=state.order_id,
            customer_id=command.customer_id,
            currency=command.currency,
            lines=command.lines,
            shipping_minor=command.shipping_minor,
            total_minor=command.total_minor,
            tenders=command.tenders,
            placed_at=command.placed_at,
        )
    ]


def _noted(state: Account, command: NoteUnits, lines: tuple[LineQuantity, ...]) -> list[Fact]:
    """Nothing is noted of no units."""
    if not lines:
        return []
    return [PaymentUnitsNoted(order_id=state.order_id, change=command.change, cause_id=command.cause_id, lines=lines)]


def _cancel_rest(state: Account, command: CancelRest) -> list[Fact]:
    left = {
        id: line.quantity - state.of_line(id).cancelled - state.of_line(id).handed_over
        for id, line in state.lines.items()
    }
    lines = tuple(LineQuantity(line_id=id, quantity=n) for id, n in left.items() if n > 0)
    return _noted(state, NoteUnits(UnitsChange.CANCELLED, command.cause_id, lines, command.at), lines)


def _retry(state: Account, command: RetryCaptures) -> Sequence[Fact]:
    missing = state.handed_over_minor - state.drawn_minor
    if missing <= 0:
        raise NotAllowed("captured", "retry captures", (), "everything handed over is captured or being captured")
    facts = capture.captures(state, command.at, again=True)
    if not facts:
        raise NotAllowed("exhausted", "retry captures", (), "no tender has anything left to capture")
    return facts


def _charged(state: Account, command: OweCharge) -> list[Fact]:
    """Told again is no second charge; what was no longer due may be due again. Raises Invalid for another currency."""
    if state.is_open and command.currency != state.currency:
        raise Invalid("currency", f"must be {state.currency}, as the order")
    known = state.charges.get(command.exchange_id)
    if known is not None and known.status is not ChargeStatus.DROPPED:
        return []
    return [
        PaymentChargeRequested(
            order_id=state.order_id,
            exchange_id=command.exchange_id,
            return_id=command.return_id,
            amount_minor=command.amount_minor,
            currency=command.currency,
        )
    ]


def _dropped(state: Account, exchange_id: str) -> list[Fact]:
    charge = state.charges.get(exchange_id)
    if charge is None or not CHARGE.admits(charge.status, PaymentChargeDropped):
        return []
    return [PaymentChargeDropped(**capture.charge_fields(state, charge))]


def _charged_again(state: Account, command: RetryCharge) -> list[Fact]:
    charge = state.charges.get(command.exchange_id)
    if charge is None:
        raise Invalid("exchange_id", "is no exchange that is charged for")
    if charge.status is not ChargeStatus.FAILED:
        raise NotAllowed(charge.status, "retry charge", CHARGE.allowed(charge.status))
    return [PaymentChargeRequested(**capture.charge_fields(state, charge))]


def _charge_of(state: Account, operation: Operation) -> Charge | None:
    """What an operation charges for, as long as it is wanted."""
    charge = state.charges.get(state.tenders[operation.tender_id].exchange_id or "")
    return charge if charge is not None and charge.status is ChargeStatus.REQUESTED else None


def _expire(state: Account, command: ExpireAuthorization) -> list[Fact]:
    """Nothing while an operation is in flight: its outcome will tell."""
    tender = state.tenders.get(command.tender_id)
    if tender is None or tender.status not in CAPTURABLE or state.is_busy(tender.id) or command.late > TOLD_LATE:
        return []
    expires_at = tender.current.expires_at
    if expires_at is None or expires_at > command.at:
        return []
    return capture.expiry(state, tender, command.at)


def _operation(state: Account, id: str) -> Operation:
    found = state.operations.get(id)
    if found is None:
        raise Invalid("operation_key", "is no operation of this order")
    return found


def _submit(state: Account, operation: Operation) -> list[Fact]:
    if operation.status is not OperationStatus.REQUESTED:
        return []
    if operation.kind is OperationKind.REFUND:
        return [payout.submitted(state, operation)]
    return [PaymentOperationSubmitted(**_of(state, operation), kind=operation.kind)]


def _unknown(state: Account, operation: Operation) -> PaymentOperationUnknown:
    return PaymentOperationUnknown(**_of(state, operation), kind=operation.kind)


def _reconciled(
    state: Account, operation: Operation, outcome: Literal["succeeded", "failed", "never_seen"]
) -> PaymentOperationReconciled:
    return PaymentOperationReconciled(**_of(state, operation), kind=operation.kind, outcome=outcome)


def _never_seen(state: Account, operation: Operation) -> list[Fact]:
    """It is asked for again under the same key, so that even a request still under way has one effect."""
    never_seen = _reconciled(state, operation, "never_seen")
    match operation.status:
        case OperationStatus.UNKNOWN:
            return [never_seen]
        case OperationStatus.SUBMITTED:
            return [_unknown(state, operation), never_seen]
        case OperationStatus.SUCCEEDED if not operation.is_questioned:
            return [_anomaly(state, operation, operation.amount_minor, None, "the provider does not know it")]
        case _:
            return []


def _conclude(state: Account, operation: Operation, verdict: Verdict, policies: Policies) -> Sequence[Fact]:
    """Whoever knows first concludes; told again is no fact; what contradicts our books changes nothing in them."""
    if verdict.result is Result.PENDING:
        return []
    if verdict.amount_minor != operation.amount_minor:
        if operation.is_questioned:
            return []
        said = f"the provider names another amount for this {operation.kind}, which {verdict.result}"
        return [_anomaly(state, operation, operation.amount_minor, verdict.amount_minor, said)]
    match operation.status, verdict.result:
        case OperationStatus.SUCCEEDED, Result.SUCCEEDED:
            return []
        case OperationStatus.SUCCEEDED, Result.REVERSED if operation.kind is OperationKind.REFUND:
            facts = payout.leg_reversed(state, operation, verdict.code, policies, verdict.at)
            return _and_then(state, facts, policies, verdict.at)
        case OperationStatus.REVERSED, Result.SUCCEEDED | Result.REVERSED:
            return []
        case OperationStatus.FAILED, Result.FAILED:
            return []
        case OperationStatus.FAILED, Result.SUCCEEDED if _is_room_for(state, operation):
            return _succeed(state, operation, verdict, policies)
        case (OperationStatus.SUCCEEDED | OperationStatus.REVERSED | OperationStatus.FAILED) as status, result:
            if operation.is_questioned:
                return []
            said = f"the provider says that this {operation.kind} {result}, after it had {status}"
            return [_anomaly(state, operation, operation.amount_minor, verdict.amount_minor, said)]
    known: list[Fact] = []
    if operation.status is OperationStatus.UNKNOWN:
        outcome: Literal["succeeded", "failed"] = "failed" if verdict.result is Result.FAILED else "succeeded"
        known = [_reconciled(state, operation, outcome)]
        state = evolve(state, known[0])
    if verdict.result is Result.FAILED:
        return [*known, *_fail(state, operation, verdict, policies)]
    facts = list(_succeed(state, operation, verdict, policies))
    if verdict.result is Result.REVERSED:
        for fact in facts:
            state = evolve(state, fact)
        facts += _conclude(state, state.operations[operation.id], verdict, policies)
    return [*known, *facts]


def _is_room_for(state: Account, operation: Operation) -> bool:
    """Whether a failure can be put right: its money must not have been spent on another way meanwhile."""
    tender = state.tenders[operation.tender_id]
    match operation.kind:
        case OperationKind.AUTHORIZE:
            return False
        case OperationKind.CAPTURE:
            free = tender.open_minor - state.capturing_minor(tender.id)
            charge = state.charges.get(tender.exchange_id or "")
            if charge is not None and charge.status in (ChargeStatus.REQUESTED, ChargeStatus.CAPTURED):
                return False  # another attempt takes it
            return tender.status in CAPTURABLE and free >= operation.amount_minor
        case OperationKind.VOID:
            is_whole = tender.open_minor == operation.amount_minor
            return tender.status is TenderStatus.PARTIALLY_CAPTURED and is_whole and not state.is_busy(tender.id)
        case OperationKind.REFUND:
            refund = state.refunds[operation.refund_id or ""]
            owed = refund.amount_minor - state.paid_out_minor(refund) - state.paying_out_minor(refund)
            is_owed = owed >= operation.amount_minor and not refund.is_dead and operation.submissions > 0
            return is_owed and state.left_minor(tender) >= operation.amount_minor


def _succeed(state: Account, operation: Operation, verdict: Verdict, policies: Policies) -> Sequence[Fact]:
    tender = state.tenders[operation.tender_id]
    match operation.kind:
        case OperationKind.AUTHORIZE:
            kind = PaymentAuthorized if tender.attempts == 1 else PaymentReauthorized
            authorized = kind(
                **_of(state, operation),
                tender_kind=tender.kind,
                reference=verdict.reference,
                expires_at=verdict.expires_at,
            )
            return _and_then(state, [authorized], policies, verdict.at, capture.captures)
        case OperationKind.CAPTURE:
            taken = capture.captured(state, operation.id, verdict.reference)
            return _and_then(state, [taken, *capture.spent(state, taken)], policies, verdict.at)
        case OperationKind.VOID:
            return _and_then(state, [PaymentVoided(**_of(state, operation))], policies, verdict.at)
        case OperationKind.REFUND:
            return _and_then(state, payout.leg_succeeded(state, operation, verdict.reference), policies, verdict.at)


def _fail(state: Account, operation: Operation, verdict: Verdict, policies: Policies) -> Sequence[Fact]:
    of, code, at = _of(state, operation), verdict.code or "unspecified", verdict.at
    charge = _charge_of(state, operation)
    given_up = [capture.charge_failed(state, charge, code)] if charge else []
    match operation.kind:
        case OperationKind.AUTHORIZE:
            declined = PaymentDeclined(**of, code=code, fraud=code == FRAUD)
            return _and_then(state, [declined, *given_up], policies, at, capture.captures)
        case OperationKind.CAPTURE:
            failed = PaymentCaptureFailed(**of, shipment_id=operation.shipment_id, code=code)
            return _and_then(
                state, [failed, *given_up], policies, at, *([_reauthorize(operation)] if _has_expired(code) else [])
            )
        case OperationKind.VOID:
            return _and_then(state, [PaymentVoidFailed(**of, code=code)], policies, at)
        case OperationKind.REFUND:
            facts = payout.leg_failed(state, operation, code, policies, at)
            if code == "exceeds_captured" and not operation.is_questioned:
                said = "the provider says that less was captured than we refund"
                facts = [_anomaly(state, operation, operation.amount_minor, None, said), *facts]
            return _and_then(state, facts, policies, at)


def _has_expired(code: str) -> bool:
    return code == EXPIRED_AUTHORIZATION


def _reauthorize(operation: Operation) -> Rule:
    def rule(state: Account, at: datetime) -> Sequence[Fact]:
        tender = state.tenders[operation.tender_id]
        is_current = tender.status in CAPTURABLE and tender.current.reference == operation.authorization
        return capture.expiry(state, tender, at) if is_current and not state.is_busy(tender.id) else []

    return rule


def _dispute(state: Account, command: Dispute, policies: Policies) -> Sequence[Fact]:
    tender = _of_authorization(state, command.authorization)
    fields = {
        "order_id": state.order_id,
        "dispute_id": command.dispute_id,
        "tender_id": tender.id,
        "amount_minor": command.amount_minor,
        "currency": state.currency,
    }
    is_known = tender.dispute_id == command.dispute_id
    match tender.dispute, command.change:
        case DisputeStatus.NONE, "opened":
            return _opened(state, tender, DisputeOpened(**fields), policies, command.at)
        case DisputeStatus.NONE, change:
            # Told out of order: the opening is part of what the end says.
            before = _opened(state, tender, DisputeOpened(**fields), policies, command.at)
            return [*before, DisputeWon(**fields) if change == "won" else DisputeLost(**fields)]
        case DisputeStatus.OPEN, "won" if is_known:
            return _and_then(state, [DisputeWon(**fields)], policies, command.at)
        case DisputeStatus.OPEN, "lost" if is_known:
            return _and_then(state, [DisputeLost(**fields)], policies, command.at)
        case _ if is_known:
            return []
        case status, change:
            said = f"dispute {command.dispute_id} {change} on tender {tender.id}, whose dispute is {status}"
            return [_anomaly(state, None, None, command.amount_minor, said)]


def _opened(state: Account, tender: Tender, opened: DisputeOpened, policies: Policies, at: datetime) -> Sequence[Fact]:
    """Refunds to the tender that were not sent yet are drawn from elsewhere; what was sent may still come back."""
    facts: list[Fact] = [opened]
    known = tender.captured_minor + state.capturing_minor(tender.id) - state.refunded_minor(tender.id)
    if opened.amount_minor > known:
        said = f"dispute {opened.dispute_id} is about more than was captured on tender {tender.id} and kept"
        facts.append(_anomaly(state, None, known, opened.amount_minor, said))
    for fact in facts:
        state = evolve(state, fact)
    told = list(facts)
    for leg in list(state.legs(tender.id)):
        if leg.status is OperationStatus.REQUESTED and not leg.submissions:
            more = payout.leg_blocked(state, leg, policies, at)
            for fact in more:
                state = evolve(state, fact)
            told += more
    return told


def _of_authorization(state: Account, reference: str) -> Tender:
    for tender in state.tenders.values():
        if any(a.reference == reference for a in tender.authorizations):
            return tender
    raise Invalid("authorization_id", "is no authorization of this order")


def _anomaly(
    state: Account, operation: Operation | None, expected: int | None, observed: int | None, detail: str
) -> PaymentAnomalyDetected:
    return PaymentAnomalyDetected(
        order_id=state.order_id,
        operation_id=operation.id if operation else None,
        expected_minor=expected,
        observed_minor=observed,
        detail=detail,
    )


def _of(state: Account, operation: Operation) -> dict[str, object]:
    return {
        "order_id": state.order_id,
        "tender_id": operation.tender_id,
        "operation_id": operation.id,
        "amount_minor": operation.amount_minor,
        "currency": state.currency,
        "exchange_id": state.tenders[operation.tender_id].exchange_id,
    }
