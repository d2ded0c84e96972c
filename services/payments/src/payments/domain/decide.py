"""What payments decides: every command of an order's account, and what follows from it, as facts.

What follows is one rule for all commands: release what is not needed, give back what is too much, look again at refunds
that wait. It is computed from the account alone, so whichever message comes first, the account comes to the same rest.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal, TypeAlias

from payments.domain import capture, payout
from payments.domain.charge import CHARGE, Charge, ChargeStatus
from payments.domain.operation import Operation, OperationStatus, ProviderResult, Result
from payments.domain.payout import (
    ApproveRefund,
    CancelRefund,
    OweRefund,
    Policies,
    RejectRefund,
    RequestRefund,
    RerouteRefund,
)
from payments.domain.state import EXPIRED_AUTHORIZATION, Account, evolve
from payments.domain.tender import CAPTURABLE, DisputeStatus, Tender, TenderStatus
from shared.contracts.base import Fact, LineQuantity
from shared.contracts.orders import TenderSpec
from shared.contracts.payments import (
    DisputeLost,
    DisputeOpened,
    DisputeWon,
    MovementKind,
    OperationKind,
    PayableLine,
    PaymentAnomalyDetected,
    PaymentAuthorized,
    PaymentCaptureFailed,
    PaymentChargeDropped,
    PaymentChargeRequested,
    PaymentDeclined,
    PaymentMovementRecorded,
    PaymentOpened,
    PaymentOperationReconciled,
    PaymentOperationSubmitted,
    PaymentOperationUnknown,
    PaymentReauthorized,
    PaymentUnitsNoted,
    PaymentVoided,
    PaymentVoidFailed,
    SubstituteUnits,
    UnitsChange,
)
from shared.core.machine import Invalid, NotAllowed, replace

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
class RecordUnitsChange:
    """Something happened to units; `cause_id` is the shipment, cancellation or return."""

    change: UnitsChange
    cause_id: str
    lines: tuple[LineQuantity, ...]
    at: datetime
    substitutes: tuple[SubstituteUnits, ...] = ()
    returned: tuple[LineQuantity, ...] = ()


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
class MarkUnknown:
    """The provider did not answer: it may or may not have happened."""

    operation_id: str


@dataclass(frozen=True, slots=True)
class RecordOutcome:
    """What the provider says became of an operation. `verdict` None: asked, it has never seen the key."""

    operation_id: str
    verdict: ProviderResult | None


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The workers could not deal with an operation time and again: a person is to look at it."""

    operation_id: str
    why: str


@dataclass(frozen=True, slots=True)
class Report:
    """The provider tells of something that moved no money, and that we did not ask for."""

    detail: str
    amount_minor: int
    at: datetime


@dataclass(frozen=True, slots=True)
class RecordMovement:
    """The provider moved money that we did not ask for, or not so."""

    kind: MovementKind
    authorization: str | None
    reference: str
    amount_minor: int
    at: datetime
    detail: str
    contradicts: Literal["not_asked_for", "failed_before", "other_amount"] = "not_asked_for"
    operation_id: str | None = None


@dataclass(frozen=True, slots=True)
class Dispute:
    """`authorization` is the provider's reference of what is disputed, as far as it says one."""

    authorization: str | None
    dispute_id: str
    change: Literal["opened", "won", "lost"]
    amount_minor: int
    at: datetime


Command: TypeAlias = (
    Open
    | Confirm
    | RecordUnitsChange
    | CancelRest
    | RetryCaptures
    | OweCharge
    | DropCharge
    | RetryCharge
    | ExpireAuthorization
    | Submit
    | MarkUnknown
    | RecordOutcome
    | Dispute
    | RecordMovement
    | Report
    | GiveUp
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
        case RecordUnitsChange(change=UnitsChange.HANDED_OVER):
            return _and_then(
                state, _units_recorded(state, command, command.lines), policies, command.at, capture.captures
            )
        case RecordUnitsChange():
            return _and_then(state, _units_recorded(state, command, command.lines), policies, command.at)
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
        case MarkUnknown(operation_id=id):
            operation = _operation(state, id)
            return [_unknown(state, operation)] if operation.status is OperationStatus.SUBMITTED else []
        case RecordOutcome(operation_id=id, verdict=verdict):
            operation = _operation(state, id)
            return _conclude(state, operation, verdict, policies) if verdict else _never_seen(state, operation)
        case Dispute():
            return _dispute(state, command, policies)
        case RecordMovement():
            return _moved(state, command, policies)
        case GiveUp(operation_id=id, why=why):
            said = f"this {_operation(state, id).kind} could not be dealt with: {why}"
            return [_anomaly(state, _operation(state, id), None, None, said[:2000])]
        case Report():
            return [_anomaly(state, None, None, command.amount_minor, command.detail)]
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

    def cheaper(state: Account, at: datetime) -> Sequence[Fact]:
        return payout.cheaper_substitutes(state, policies, at)

    def waiting(state: Account, at: datetime) -> Sequence[Fact]:
        return payout.waiting(state, policies, at)

    for rule in (*rules, capture.charges, capture.releases, cheaper, owed, waiting):
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


def _units_recorded(state: Account, command: RecordUnitsChange, lines: tuple[LineQuantity, ...]) -> list[Fact]:
    """Nothing is recorded of no units."""
    if not lines:
        return []
    return [
        PaymentUnitsNoted(
            order_id=state.order_id,
            change=command.change,
            cause_id=command.cause_id,
            lines=lines,
            substitutes=command.substitutes,
            returned=command.returned,
        )
    ]


def _cancel_rest(state: Account, command: CancelRest) -> list[Fact]:
    lines = tuple(LineQuantity(line_id=id, quantity=n) for id in state.lines if (n := state.unsettled_units(id)))
    return _units_recorded(state, RecordUnitsChange(UnitsChange.CANCELLED, command.cause_id, lines, command.at), lines)


def _retry(state: Account, command: RetryCaptures) -> Sequence[Fact]:
    missing = state.handed_over_minor - state.drawn_minor
    if missing <= 0:
        raise NotAllowed("captured", "retry captures", (), "everything handed over is captured or being captured")
    facts = capture.captures(state, command.at, again=True)
    if not facts:
        raise NotAllowed("exhausted", "retry captures", (), "no tender has anything left to capture")
    return facts


def _charged(state: Account, command: OweCharge) -> list[Fact]:
    """Told again is no second charge; what was no longer due, or could not be charged, may be asked for again. Raises
    Invalid for another currency."""
    if state.is_open and command.currency != state.currency:
        raise Invalid("currency", f"must be {state.currency}, as the order")
    known = state.charges.get(command.exchange_id)
    if known is not None and known.status not in (ChargeStatus.DROPPED, ChargeStatus.FAILED):
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
        case OperationStatus.SUCCEEDED if not operation.has_anomaly:
            return [_anomaly(state, operation, operation.amount_minor, None, "the provider does not know it")]
        case _:
            return []


def _conclude(state: Account, operation: Operation, verdict: ProviderResult, policies: Policies) -> Sequence[Fact]:
    """Whoever knows first concludes; told again is no fact; money that moved is booked, whatever our books say."""
    if verdict.result is Result.PENDING:
        return []
    if verdict.amount_minor != operation.amount_minor:
        return _conclude_otherwise(state, operation, verdict, policies)
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
            if status is OperationStatus.FAILED:
                if replaced := _withdrawn(state, operation):
                    after = evolve(state, replaced)
                    return [replaced, *_succeed(after, operation, verdict, policies)]
                if (moved := _contradicted(state, operation, verdict, policies)) is not None:
                    return moved
            if operation.has_anomaly:
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


def _conclude_otherwise(
    state: Account, operation: Operation, verdict: ProviderResult, policies: Policies
) -> Sequence[Fact]:
    """The provider names another amount than was asked for: what it moved is booked, and a person looks at it.

    What moved less comes to less; what moved more succeeded as asked, and the rest is a movement beside it. A success that is
    corrected downwards, or that comes back in part, stays as it is booked: more may not be refunded for it.
    """
    asked, named, kind = (
        operation.amount_minor,
        verdict.amount_minor,
        _MOVEMENTS.get((operation.kind, Result.SUCCEEDED)),
    )
    said = f"the provider names another amount for this {operation.kind}, which {verdict.result}"
    anomaly = [] if operation.has_anomaly else [_anomaly(state, operation, asked, named, said)]
    beside = state.moved_beside_minor(operation.id)
    match operation.status, verdict.result:
        case OperationStatus.FAILED, Result.FAILED:
            return []
        case OperationStatus.FAILED, Result.SUCCEEDED | Result.REVERSED:
            booked = _contradicted(state, operation, verdict, policies)
            return anomaly if booked is None else booked
        case OperationStatus.SUCCEEDED | OperationStatus.REVERSED, Result.SUCCEEDED if named == asked + beside:
            return []
        case OperationStatus.SUCCEEDED, Result.SUCCEEDED if kind is not None and named > asked and not beside:
            return _moved(state, _beside(operation, verdict, kind, named - asked, said), policies)
        case OperationStatus.SUCCEEDED, Result.REVERSED if beside and named == asked + beside:
            back = _conclude(state, operation, replace(verdict, amount_minor=asked), policies)
            came_back = _beside(operation, verdict, MovementKind.REFUND_REVERSED, beside, said)
            return [*back, *_moved(_after(state, back), came_back, policies)]
        case OperationStatus.SUCCEEDED | OperationStatus.REVERSED, _:
            return [] if beside else anomaly
        case _, Result.FAILED:
            as_asked = replace(verdict, amount_minor=asked)
            return [*anomaly, *_conclude(_after(state, anomaly), operation, as_asked, policies)]
    if not named:
        return anomaly
    match operation.kind:
        case OperationKind.AUTHORIZE:
            amount = named
        case OperationKind.VOID:
            amount = asked
        case OperationKind.CAPTURE | OperationKind.REFUND:
            amount = min(asked, named)
    is_more = kind is not None and named > asked
    facts: list[Fact] = [] if is_more else [*anomaly]
    happened = replace(verdict, result=Result.SUCCEEDED, amount_minor=amount)
    facts += _conclude(_after(state, facts), replace(operation, amount_minor=amount), happened, policies)
    if is_more and kind is not None:
        facts += _moved(_after(state, facts), _beside(operation, verdict, kind, named - asked, said), policies)
    if verdict.result is Result.REVERSED:
        after = _after(state, facts)
        facts += _conclude(after, after.operations[operation.id], verdict, policies)
    return facts


def _beside(
    operation: Operation, verdict: ProviderResult, kind: MovementKind, amount: int, detail: str
) -> RecordMovement:
    """What the provider moved for an operation beyond what was asked for."""
    return RecordMovement(
        kind,
        operation.authorization,
        verdict.reference,
        amount,
        verdict.at,
        detail,
        "other_amount",
        operation.id,
    )


def _after(state: Account, facts: Sequence[Fact]) -> Account:
    for fact in facts:
        state = evolve(state, fact)
    return state


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
            left = state.left_minor(tender) - state.tenders[tender.id].overdrawn_minor
            return is_owed and left >= operation.amount_minor


def _withdrawn(state: Account, operation: Operation) -> Fact | None:
    """The payout that was to replace one that had failed, as long as it was not sent: the failed one did happen after all."""
    if operation.kind is not OperationKind.REFUND:
        return None
    refund = state.refunds[operation.refund_id or ""]
    for leg in (state.operations[id] for id in refund.legs):
        is_unsent = leg.status is OperationStatus.REQUESTED and not leg.submissions
        if is_unsent and leg.amount_minor == operation.amount_minor:
            withdrawn = payout.withdrawn(state, leg)
            return withdrawn if _is_room_for(evolve(state, withdrawn), operation) else None
    return None


def _succeed(state: Account, operation: Operation, verdict: ProviderResult, policies: Policies) -> Sequence[Fact]:
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
            taken = capture.captured(state, operation, verdict.reference)
            is_less = operation.amount_minor < state.operations[operation.id].amount_minor
            missing = [capture.captures] if is_less else []
            return _and_then(state, [taken, *capture.spent(state, taken)], policies, verdict.at, *missing)
        case OperationKind.VOID:
            return _and_then(state, [PaymentVoided(**_of(state, operation))], policies, verdict.at)
        case OperationKind.REFUND:
            return _and_then(state, payout.leg_succeeded(state, operation, verdict.reference), policies, verdict.at)


def _fail(state: Account, operation: Operation, verdict: ProviderResult, policies: Policies) -> Sequence[Fact]:
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
            if code == "exceeds_captured" and not operation.has_anomaly:
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
    """What happened before what is known of the dispute, or is told again, changes nothing."""
    tender = _about(state, command.authorization, command.dispute_id)
    fields = {
        "order_id": state.order_id,
        "dispute_id": command.dispute_id,
        "tender_id": tender.id,
        "amount_minor": command.amount_minor,
        "currency": state.currency,
        "at": command.at,
        "authorization": command.authorization,
    }
    status, kind = _DISPUTES[command.change]
    known = tender.all_disputes.get(command.dispute_id)
    if known is not None and not known.is_before(command.at, status):
        return []
    facts: list[Fact] = []
    if known is None and kind is not DisputeOpened:
        facts.append(DisputeOpened(**fields))  # told out of order: the opening is part of what the end says
    facts.append(kind(**fields))
    return _and_then(state, _gone(state, facts, policies, command.at), policies, command.at)


_DISPUTES: Final[Mapping[str, tuple[DisputeStatus, type[DisputeOpened | DisputeWon | DisputeLost]]]] = {
    "opened": (DisputeStatus.OPEN, DisputeOpened),
    "won": (DisputeStatus.WON, DisputeWon),
    "lost": (DisputeStatus.LOST, DisputeLost),
}


def _moved(state: Account, command: RecordMovement, policies: Policies) -> Sequence[Fact]:
    """What the provider did is booked, whoever asked for it; once per kind and reference."""
    if not state.is_open:
        raise NotAllowed("not opened", "record a movement")
    ours = next((o for o in state.operations.values() if o.reference == command.reference), None)
    if state.has_moved(command.kind, command.reference) or (ours is not None and command.operation_id is None):
        return []
    tender = _about(state, command.authorization)
    moved = PaymentMovementRecorded(
        order_id=state.order_id,
        movement_id=state.movement_id,
        tender_id=tender.id,
        kind=command.kind,
        amount_minor=command.amount_minor,
        currency=state.currency,
        reference=command.reference,
        authorization=command.authorization,
        operation_id=command.operation_id,
        occurred_at=command.at,
        contradicts=command.contradicts,
        detail=command.detail,
        tender_captured_minor=0,
        tender_open_minor=0,
    )
    now = evolve(state, moved).tenders[tender.id]
    sums = {"tender_captured_minor": now.captured_minor, "tender_open_minor": now.open_minor}
    moved = moved.model_copy(update=sums)
    facts = _gone(state, [moved], policies, command.at)
    after = state
    for fact in facts:
        after = evolve(after, fact)
    tender = after.tenders[tender.id]
    is_released = command.kind is MovementKind.VOID and tender.status in CAPTURABLE and not after.is_busy(tender.id)
    if is_released and tender.current.reference == command.authorization:
        facts = [*facts, *capture.expiry(after, tender, command.at)]
    return _and_then(state, facts, policies, command.at)


def _gone(state: Account, facts: Sequence[Fact], policies: Policies, at: datetime) -> list[Fact]:
    """The provider's facts and what they do to refunds: what was not sent yet is drawn from where there is money, or not at
    all; what was sent may still come back. More gone than was captured is an anomaly."""
    before = sum(t.overdrawn_minor for t in state.tenders.values())
    told = list(facts)
    for fact in facts:
        state = evolve(state, fact)
    overdrawn = [t for t in state.tenders.values() if t.overdrawn_minor]
    for tender in state.tenders.values():
        if not tender.is_disputed and not overdrawn:
            continue
        for leg in list(state.legs(tender.id)):
            if leg.status is not OperationStatus.REQUESTED or leg.submissions:
                continue
            code = "disputed" if tender.is_disputed else "nothing_left"
            more = payout.leg_blocked(state, leg, code, policies, at)
            for fact in more:
                state = evolve(state, fact)
            told += more
    after = sum(t.overdrawn_minor for t in state.tenders.values())
    if after > before:
        said = f"{after} more than was captured has left the order's tenders, by refunds and disputes"
        told.append(_anomaly(state, None, state.captured_minor, state.captured_minor + after, said))
    return told


_MOVEMENTS: Final[Mapping[tuple[OperationKind, Result], MovementKind]] = {
    (OperationKind.CAPTURE, Result.SUCCEEDED): MovementKind.CAPTURE,
    (OperationKind.REFUND, Result.SUCCEEDED): MovementKind.REFUND,
    (OperationKind.REFUND, Result.REVERSED): MovementKind.REFUND_REVERSED,
}


def _contradicted(
    state: Account, operation: Operation, verdict: ProviderResult, policies: Policies
) -> Sequence[Fact] | None:
    """A capture or refund that had failed did happen after all, and its money went another way since: both are booked."""
    kind = _MOVEMENTS.get((operation.kind, verdict.result))
    if kind is None:
        return None
    moved = RecordMovement(
        kind,
        operation.authorization,
        verdict.reference,
        verdict.amount_minor,
        verdict.at,
        f"the provider says that this {operation.kind} {verdict.result}, after it had {operation.status}",
        "failed_before",
        operation.id,
    )
    return _moved(state, moved, policies)


def _awaited_authorizations(state: Account) -> list[Operation]:
    """Those that the provider was asked for, and whose outcome is not known here."""
    under_way = (OperationStatus.SUBMITTED, OperationStatus.UNKNOWN)
    return [o for o in state.operations.values() if o.kind is OperationKind.AUTHORIZE and o.status in under_way]


def _about(state: Account, authorization: str | None, dispute_id: str = "") -> Tender:
    """The tender that the provider speaks of: by its authorization; where that is not known here, the one whose authorization
    is awaited, if that is one; else the one that most was captured of."""
    tenders = list(state.tenders.values())
    for tender in tenders:
        if dispute_id in tender.all_disputes or any(a.reference == authorization for a in tender.authorizations):
            return tender
    if not tenders:
        raise NotAllowed("not opened", "record what the provider reports")
    awaited = _awaited_authorizations(state)
    if authorization is not None and len(awaited) == 1:
        return state.tenders[awaited[0].tender_id]
    return max(tenders, key=lambda t: t.captured_minor)


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
