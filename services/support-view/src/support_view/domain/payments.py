"""The money as the payments service tells it: tenders, operations under way, refunds with their legs, disputes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

from shared.contracts.base import TenderKind
from shared.contracts.payments import (
    ChargeFact,
    DisputeLost,
    DisputeOpened,
    DisputeWon,
    MovementKind,
    OperationKind,
    PaymentAnomalyDetected,
    PaymentAuthorizationExpired,
    PaymentAuthorizationRequested,
    PaymentAuthorized,
    PaymentCaptured,
    PaymentCaptureFailed,
    PaymentCaptureRequested,
    PaymentChargeDropped,
    PaymentChargeFailed,
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
    PaymentVoidRequested,
    RefundApprovalRequired,
    RefundApproved,
    RefundAttentionNeeded,
    RefundCancelled,
    RefundChannel,
    RefundCompleted,
    RefundKind,
    RefundLegFact,
    RefundLegFailed,
    RefundLegReversed,
    RefundLegSubmitted,
    RefundLegSucceeded,
    RefundPartiallyCompleted,
    RefundReduced,
    RefundRejected,
    RefundRequested,
    RefundRouted,
    StoreCreditClawedBack,
    StoreCreditIssued,
    StoreCreditSpent,
    TenderFact,
)
from shared.core.machine import replace
from support_view.domain.signals import Signal
from support_view.domain.timeline import Details, Entry, Mark, Quiet, Sentences, Words, add, day, plain, put


class TenderStatus(StrEnum):
    CREATED = "created"
    AUTHORIZING = "authorizing"
    AUTHORIZED = "authorized"
    PARTIALLY_CAPTURED = "partially_captured"
    CAPTURED = "captured"
    DECLINED = "declined"
    VOIDING = "voiding"
    VOIDED = "voided"
    AUTHORIZATION_EXPIRED = "authorization_expired"
    EXPIRED_FINAL = "expired_final"


class RefundStatus(StrEnum):
    REQUESTED = "requested"
    PENDING_APPROVAL = "pending_approval"
    APPROVED = "approved"
    PROCESSING = "processing"
    SUCCEEDED = "succeeded"
    PARTIALLY_SUCCEEDED = "partially_succeeded"
    ATTENTION = "attention"
    FAILED = "failed"
    REJECTED = "rejected"
    CANCELLED = "cancelled"
    REVERSED = "reversed"


class LegStatus(StrEnum):
    REQUESTED = "requested"
    SUBMITTED = "submitted"
    UNKNOWN = "unknown"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REVERSED = "reversed"


class OperationStatus(StrEnum):
    REQUESTED = "requested"
    SUBMITTED = "submitted"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Tender:
    """`open_minor` is authorized and neither captured, released nor lapsed."""

    kind: TenderKind | None = None
    status: TenderStatus = TenderStatus.CREATED
    open_minor: int = 0
    captured_minor: int = 0
    voided_minor: int = 0
    expires_at: datetime | None = None
    code: str = ""
    """Why the provider last said no; empty after a yes."""
    exchange_id: str | None = None
    """It charges for this exchange, and for nothing of the order itself."""
    since: datetime | None = None
    """When it came to its status."""
    failed_at: datetime | None = None
    """When the provider last refused a capture."""

    @property
    def authorized_minor(self) -> int:
        return self.open_minor + self.captured_minor + self.voided_minor


@dataclass(frozen=True, slots=True)
class Operation:
    """A call to the provider without a known outcome; it leaves when the outcome is known."""

    kind: OperationKind
    tender_id: str
    amount_minor: int
    status: OperationStatus
    since: datetime
    shipment_id: str | None = None


@dataclass(frozen=True, slots=True)
class Leg:
    tender_id: str
    channel: RefundChannel
    amount_minor: int
    status: LegStatus
    tender_kind: TenderKind | None = None
    promised_at: datetime | None = None
    reasons: tuple[str, ...] = ()
    operation_id: str | None = None
    code: str = ""
    settled_at: datetime | None = None
    is_replaced: bool = False
    """It failed or bounced, and its refund was routed anew since."""

    @property
    def is_pending(self) -> bool:
        return self.status in (LegStatus.REQUESTED, LegStatus.SUBMITTED, LegStatus.UNKNOWN)


@dataclass(frozen=True, slots=True)
class Refund:
    kind: RefundKind | None = None
    requester: str = ""
    status: RefundStatus = RefundStatus.REQUESTED
    amount_minor: int = 0
    cause_id: str = ""
    return_id: str | None = None
    requested_at: datetime | None = None
    trigger_at: datetime | None = None
    promised_at: datetime | None = None
    completed_at: datetime | None = None
    approver: str | None = None
    policy: str = ""
    reasons: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    legs: Mapping[str, Leg] = field(default_factory=dict)
    outstanding_minor: int = 0
    submitted_at: datetime | None = None
    """When a payout was first sent."""
    errors: tuple[str, ...] = ()
    """What went wrong with its payouts, by code, in order."""
    ended_at: datetime | None = None
    """Rejected or cancelled."""
    facts: tuple[int, ...] = ()
    """Sequences of all that was told of it."""
    since: datetime | None = None
    """When it came to its status."""
    lines: Mapping[str, int] = field(default_factory=dict)
    """Units that it is for, by line."""

    @property
    def settled_minor(self) -> int:
        return sum(leg.amount_minor for leg in self.legs.values() if leg.status == LegStatus.SUCCEEDED)

    @property
    def is_open(self) -> bool:
        """Money is still owed or on its way."""
        return self.status not in (RefundStatus.SUCCEEDED, RefundStatus.REJECTED, RefundStatus.CANCELLED)

    @property
    def pending_minor(self) -> int:
        """Reserved and not paid out yet: legs under way, or the whole amount between approval and routing."""
        if self.status == RefundStatus.APPROVED:
            return self.amount_minor - self.settled_minor
        return sum(leg.amount_minor for leg in self.legs.values() if leg.is_pending)


class DisputeStatus(StrEnum):
    OPEN = "open"
    WON = "won"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Dispute:
    tender_id: str
    amount_minor: int
    status: DisputeStatus
    since: datetime


class ChargeStatus(StrEnum):
    REQUESTED = "requested"
    FAILED = "failed"
    CAPTURED = "captured"
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True)
class Charge:
    """What the customer owes for an exchange, beside what the order is worth."""

    return_id: str
    amount_minor: int
    status: ChargeStatus
    since: datetime
    code: str = ""


@dataclass(frozen=True, slots=True)
class Anomaly:
    """The provider says what our books do not: amounts in minor units, None where it is not about one."""

    mark: Mark
    detail: str
    expected_minor: int | None
    observed_minor: int | None


@dataclass(frozen=True, slots=True)
class Movement:
    """Money that the provider moved without having been asked to."""

    mark: Mark
    kind: MovementKind
    tender_id: str | None
    amount_minor: int
    reference: str
    detail: str


@dataclass(frozen=True, slots=True)
class Payments:
    currency: str | None = None
    tenders: Mapping[str, Tender] = field(default_factory=dict)
    operations: Mapping[str, Operation] = field(default_factory=dict)
    captured_by_shipment: Mapping[str, int] = field(default_factory=dict)
    capture_failures: Mapping[str, str] = field(default_factory=dict)
    """By tender: the code of the last capture that failed and was not made good since."""
    refunds: Mapping[str, Refund] = field(default_factory=dict)
    disputes: Mapping[str, Dispute] = field(default_factory=dict)
    charges: Mapping[str, Charge] = field(default_factory=dict)
    """By exchange."""
    store_credit_minor: int = 0
    """Issued for this order, less what was clawed back."""
    anomalies: tuple[Anomaly, ...] = ()
    signs: tuple[Signal, ...] = ()
    movements: Mapping[str, Movement] = field(default_factory=dict)

    def refunded_unasked_minor(self, tender_id: str | None = None) -> int:
        """Given back by the provider without having been asked to, less what of it came back."""
        came_back = {m.reference for m in self.movements.values() if m.kind == MovementKind.REFUND_REVERSED}
        return sum(
            m.amount_minor
            for m in self.movements.values()
            if m.kind == MovementKind.REFUND and tender_id in (None, m.tender_id) and m.reference not in came_back
        )


def fold(payments: Payments, entry: Entry) -> Payments:
    """Total: any fact of the service, in any state, leads somewhere."""
    after = _fold(payments, entry)
    tenders = {id: t for id, t in after.tenders.items() if _has_moved(payments.tenders.get(id), t)}
    refunds = {id: r for id, r in after.refunds.items() if _has_moved(payments.refunds.get(id), r)}
    if not tenders and not refunds:
        return after
    return replace(
        after,
        tenders={**after.tenders, **{id: replace(tender, since=entry.occurred_at) for id, tender in tenders.items()}},
        refunds={**after.refunds, **{id: replace(refund, since=entry.occurred_at) for id, refund in refunds.items()}},
    )


def _has_moved(before: "Tender | Refund | None", after: "Tender | Refund") -> bool:
    return before is not after and (before is None or before.status is not after.status)


def _fold(payments: Payments, entry: Entry) -> Payments:
    match entry.fact:
        case TenderFact() as fact:
            return replace(_operate(payments, fact, entry), currency=fact.currency)
        case ChargeFact() as fact:
            return replace(payments, charges=put(payments.charges, fact.exchange_id, _charge(fact, entry)))
        case PaymentAuthorizationExpired(tender_id=id, final=final):
            tender = payments.tenders.get(id) or Tender()
            status = TenderStatus.AUTHORIZATION_EXPIRED
            if final:
                status = TenderStatus.CAPTURED if tender.captured_minor else TenderStatus.EXPIRED_FINAL
            return _tender(payments, id, replace(tender, status=status, open_minor=0))
        case PaymentMovementRecorded() as fact:
            movement = Movement(
                Mark(entry.sequence, entry.occurred_at),
                fact.kind,
                fact.tender_id,
                fact.amount_minor,
                fact.reference,
                fact.detail,
            )
            payments = replace(payments, movements=put(payments.movements, fact.movement_id, movement))
            return _captured_unasked(payments, fact) if fact.kind == MovementKind.CAPTURE else payments
        case PaymentAnomalyDetected(detail=detail, expected_minor=ours, observed_minor=theirs):
            anomaly = Anomaly(Mark(entry.sequence, entry.occurred_at), detail, ours, theirs)
            return replace(payments, anomalies=(*payments.anomalies, anomaly))
        case DisputeOpened() | DisputeWon() | DisputeLost() as fact:
            was = payments.disputes.get(fact.dispute_id)
            dispute = Dispute(
                fact.tender_id, fact.amount_minor, _DISPUTES[type(fact)], was.since if was else entry.occurred_at
            )
            return replace(payments, disputes=put(payments.disputes, fact.dispute_id, dispute))
        case RefundLegFact() as fact:
            return _pay_out(payments, fact, entry)
        case (
            RefundRequested()
            | RefundApprovalRequired()
            | RefundApproved()
            | RefundReduced()
            | RefundRejected()
            | RefundCancelled()
            | RefundRouted()
            | RefundCompleted()
            | RefundPartiallyCompleted()
            | RefundAttentionNeeded() as fact
        ):
            refund = _refund(payments.refunds.get(fact.refund_id) or Refund(), entry)
            refund = replace(refund, facts=(*refund.facts, entry.sequence))
            return replace(payments, refunds=put(payments.refunds, fact.refund_id, refund))
        case StoreCreditIssued(amount_minor=amount):
            return replace(payments, store_credit_minor=payments.store_credit_minor + amount)
        case StoreCreditClawedBack(amount_minor=amount):
            return replace(payments, store_credit_minor=payments.store_credit_minor - amount)
        case PaymentOpened(currency=currency):
            return replace(payments, currency=currency)
        case StoreCreditSpent() | PaymentUnitsNoted():
            return payments  # told on the timeline; the tenders and refunds carry what follows from it
        case _:
            raise TypeError(f"{entry.fact.type} is no fact of payments")


def _captured_unasked(payments: Payments, fact: PaymentMovementRecorded) -> Payments:
    if fact.tender_id is None:
        return payments
    tender = payments.tenders.get(fact.tender_id) or Tender()
    is_taken = tender.status in (TenderStatus.AUTHORIZED, TenderStatus.PARTIALLY_CAPTURED)
    status = TenderStatus.PARTIALLY_CAPTURED if fact.tender_open_minor else TenderStatus.CAPTURED
    tender = replace(
        tender,
        captured_minor=fact.tender_captured_minor,
        open_minor=fact.tender_open_minor,
        status=status if is_taken else tender.status,
    )
    return _tender(payments, fact.tender_id, tender)


_DISPUTES: Final = {
    DisputeOpened: DisputeStatus.OPEN,
    DisputeWon: DisputeStatus.WON,
    DisputeLost: DisputeStatus.LOST,
}


def _charge(fact: ChargeFact, entry: Entry) -> Charge:
    status, code = ChargeStatus.REQUESTED, ""
    if isinstance(fact, PaymentChargeFailed):
        status, code = ChargeStatus.FAILED, fact.code
    elif isinstance(fact, PaymentChargeDropped):
        status = ChargeStatus.DROPPED
    return Charge(fact.return_id, fact.amount_minor, status, entry.occurred_at, code)


def _tender(payments: Payments, id: str, tender: Tender) -> Payments:
    return replace(payments, tenders=put(payments.tenders, id, tender))


def _begin(
    payments: Payments, fact: TenderFact, kind: OperationKind, at: datetime, shipment_id: str | None
) -> Payments:
    operation = Operation(kind, fact.tender_id, fact.amount_minor, OperationStatus.REQUESTED, at, shipment_id)
    return replace(payments, operations=put(payments.operations, fact.operation_id, operation))


def _move(payments: Payments, fact: TenderFact, kind: OperationKind, to: OperationStatus, entry: Entry) -> Payments:
    was = payments.operations.get(fact.operation_id)
    shipment_id = was.shipment_id if was else None
    operation = Operation(kind, fact.tender_id, fact.amount_minor, to, entry.occurred_at, shipment_id)
    moved = replace(payments, operations=put(payments.operations, fact.operation_id, operation))
    if kind == OperationKind.REFUND:
        return _mark_leg(moved, fact.operation_id, LegStatus(to.value), entry.sequence)
    return moved


def _end(payments: Payments, operation_id: str) -> Payments:
    operations = {id: operation for id, operation in payments.operations.items() if id != operation_id}
    return replace(payments, operations=operations)


def _mark_leg(payments: Payments, operation_id: str, status: LegStatus, sequence: int) -> Payments:
    for refund_id, refund in payments.refunds.items():
        for leg_id, leg in refund.legs.items():
            if leg.operation_id == operation_id and leg.is_pending:
                legs = put(refund.legs, leg_id, replace(leg, status=status))
                marked = replace(refund, legs=legs, facts=(*refund.facts, sequence))
                return replace(payments, refunds=put(payments.refunds, refund_id, marked))
    return payments


def _operate(payments: Payments, fact: TenderFact, entry: Entry) -> Payments:
    """Authorizations, captures and voids of one tender."""
    at = entry.occurred_at
    id, amount = fact.tender_id, fact.amount_minor
    tender = payments.tenders.get(id) or Tender(exchange_id=fact.exchange_id)
    match fact:
        case PaymentAuthorizationRequested(tender_kind=kind):
            tender = replace(tender, kind=kind, status=TenderStatus.AUTHORIZING)
            return _begin(_tender(payments, id, tender), fact, OperationKind.AUTHORIZE, at, None)
        case PaymentAuthorized() | PaymentReauthorized():
            tender = replace(
                tender,
                kind=fact.tender_kind,
                status=TenderStatus.PARTIALLY_CAPTURED if tender.captured_minor else TenderStatus.AUTHORIZED,
                open_minor=amount,
                expires_at=fact.expires_at,
                code="",
            )
            return _end(_tender(payments, id, tender), fact.operation_id)
        case PaymentDeclined(code=code):
            tender = replace(tender, status=TenderStatus.DECLINED, code=code)
            return _end(_tender(payments, id, tender), fact.operation_id)
        case PaymentCaptureRequested(shipment_id=shipment_id):
            return _begin(payments, fact, OperationKind.CAPTURE, at, shipment_id)
        case PaymentCaptured(shipment_id=shipment_id):
            left = max(0, tender.open_minor - amount)
            tender = replace(
                tender,
                captured_minor=fact.tender_captured_minor,
                open_minor=0 if fact.final else left,
                voided_minor=tender.voided_minor + (left if fact.final else 0),
                status=TenderStatus.CAPTURED if fact.final or not left else TenderStatus.PARTIALLY_CAPTURED,
                code="",
            )
            payments = replace(
                _tender(payments, id, tender),
                capture_failures={other: code for other, code in payments.capture_failures.items() if other != id},
            )
            if charge := payments.charges.get(fact.exchange_id or ""):
                charged = replace(charge, status=ChargeStatus.CAPTURED, since=at, code="")
                payments = replace(payments, charges=put(payments.charges, fact.exchange_id or "", charged))
            if shipment_id is not None:
                so_far = payments.captured_by_shipment.get(shipment_id, 0)
                by_shipment = put(payments.captured_by_shipment, shipment_id, so_far + amount)
                payments = replace(payments, captured_by_shipment=by_shipment)
            return _end(payments, fact.operation_id)
        case PaymentCaptureFailed(code=code):
            payments = _tender(payments, id, replace(tender, code=code, failed_at=at))
            if fact.exchange_id is None:
                payments = replace(payments, capture_failures=put(payments.capture_failures, id, code))
            return _end(payments, fact.operation_id)
        case PaymentVoidRequested():
            tender = replace(tender, status=tender.status if tender.captured_minor else TenderStatus.VOIDING)
            return _begin(_tender(payments, id, tender), fact, OperationKind.VOID, at, None)
        case PaymentVoided():
            tender = replace(
                tender,
                open_minor=max(0, tender.open_minor - amount),
                voided_minor=tender.voided_minor + amount,
                status=TenderStatus.CAPTURED if tender.captured_minor else TenderStatus.VOIDED,
            )
            return _end(_tender(payments, id, tender), fact.operation_id)
        case PaymentVoidFailed(code=code):
            status = tender.status if tender.captured_minor else TenderStatus.AUTHORIZED
            return _end(_tender(payments, id, replace(tender, status=status, code=code)), fact.operation_id)
        case PaymentOperationSubmitted(kind=kind):
            return _move(payments, fact, kind, OperationStatus.SUBMITTED, entry)
        case PaymentOperationUnknown(kind=kind):
            return _move(payments, fact, kind, OperationStatus.UNKNOWN, entry)
        case PaymentOperationReconciled(kind=kind, outcome=outcome):
            # What did or did not happen is told by a fact of its own; what was never seen is asked again.
            if outcome != "never_seen" or fact.operation_id not in payments.operations:
                return payments
            return _move(payments, fact, kind, OperationStatus.REQUESTED, entry)
        case _:
            raise TypeError(f"{fact.type} is no fact of a tender")


def _refund(refund: Refund, entry: Entry) -> Refund:
    at = entry.occurred_at
    match entry.fact:
        case RefundRequested() as fact:
            return replace(
                refund,
                kind=fact.kind,
                status=RefundStatus.REQUESTED,
                amount_minor=fact.amount_minor,
                cause_id=fact.cause_id,
                return_id=fact.return_id,
                requester=fact.requester,
                lines=add({}, fact.lines),
                requested_at=at,
                trigger_at=fact.trigger_at,
            )
        case RefundApprovalRequired(reasons=reasons, policy=policy):
            return replace(
                refund,
                status=RefundStatus.PENDING_APPROVAL,
                reasons=reasons,
                policy=f"{policy.policy_id} v{policy.version}",
            )
        case RefundApproved() as fact:
            return replace(refund, status=RefundStatus.APPROVED, amount_minor=fact.amount_minor, approver=fact.approver)
        case RefundReduced(amount_minor=amount):
            gone = max(0, refund.amount_minor - amount)
            return replace(refund, amount_minor=amount, outstanding_minor=max(0, refund.outstanding_minor - gone))
        case RefundRejected(reason_code=code, detail=detail):
            return replace(refund, status=RefundStatus.REJECTED, reasons=(detail or plain(code),), ended_at=at)
        case RefundCancelled(detail=detail):
            return replace(refund, status=RefundStatus.CANCELLED, reasons=(detail,) if detail else (), ended_at=at)
        case RefundRouted() as fact:
            legs = {
                id: replace(leg, is_replaced=True) if leg.status in (LegStatus.FAILED, LegStatus.REVERSED) else leg
                for id, leg in refund.legs.items()
            }
            for leg in fact.legs:
                was = legs.get(leg.leg_id)
                legs[leg.leg_id] = Leg(
                    tender_id=leg.tender_id,
                    channel=leg.channel,
                    amount_minor=leg.amount_minor,
                    status=was.status if was else LegStatus.REQUESTED,
                    tender_kind=leg.tender_kind,
                    promised_at=leg.promised_at,
                    reasons=leg.reasons,
                    operation_id=was.operation_id if was else None,
                    code=was.code if was else "",
                    settled_at=was.settled_at if was else None,
                )
            return replace(
                refund,
                status=RefundStatus.PROCESSING,
                legs=legs,
                excluded=tuple(f"{tender.tender_id}: {plain(tender.reason)}" for tender in fact.excluded),
                policy=f"{fact.policy.policy_id} v{fact.policy.version}",
                promised_at=fact.promised_at,
                outstanding_minor=0,
            )
        case RefundCompleted() as fact:
            return replace(
                refund,
                kind=fact.kind,
                status=RefundStatus.SUCCEEDED,
                amount_minor=fact.amount_minor,
                cause_id=fact.cause_id,
                return_id=fact.return_id,
                trigger_at=fact.trigger_at,
                completed_at=at,
                outstanding_minor=0,
            )
        case RefundPartiallyCompleted(failed_minor=failed):
            return replace(refund, status=RefundStatus.PARTIALLY_SUCCEEDED, outstanding_minor=failed)
        case RefundAttentionNeeded(reason_code=code, outstanding_minor=outstanding):
            status = RefundStatus.FAILED if code == "payout_failed" else RefundStatus.ATTENTION
            return replace(
                refund,
                status=status,
                reasons=(plain(code),),
                outstanding_minor=outstanding,
                errors=(*refund.errors, code),
            )
        case _:
            raise TypeError(f"{entry.fact.type} is no fact of a refund")


def _pay_out(payments: Payments, fact: RefundLegFact, entry: Entry) -> Payments:
    refund = payments.refunds.get(fact.refund_id) or Refund()
    leg = refund.legs.get(fact.leg_id) or Leg(fact.tender_id, fact.channel, fact.amount_minor, LegStatus.REQUESTED)
    leg = replace(leg, operation_id=fact.operation_id)
    match fact:
        case RefundLegSubmitted():
            # Told again while the outcome is unknown, it is still unknown.
            status = leg.status if leg.status == LegStatus.UNKNOWN else LegStatus.SUBMITTED
            leg = replace(leg, status=status)
            payments = replace(
                payments,
                operations=put(
                    payments.operations,
                    fact.operation_id,
                    Operation(
                        OperationKind.REFUND,
                        fact.tender_id,
                        fact.amount_minor,
                        OperationStatus(status.value),
                        entry.occurred_at,
                    ),
                ),
            )
            refund = replace(
                refund, status=RefundStatus.PROCESSING, submitted_at=refund.submitted_at or entry.occurred_at
            )
        case RefundLegSucceeded():
            leg = replace(leg, status=LegStatus.SUCCEEDED, settled_at=entry.occurred_at, code="")
            refund = replace(refund, status=RefundStatus.PROCESSING)
            payments = _end(payments, fact.operation_id)
        case RefundLegFailed(code=code):
            leg = replace(leg, status=LegStatus.FAILED, code=code)
            refund = replace(refund, errors=(*refund.errors, code))
            payments = _end(payments, fact.operation_id)
        case RefundLegReversed(code=code):
            leg = replace(leg, status=LegStatus.REVERSED, settled_at=None, code=code)
            refund = replace(refund, errors=(*refund.errors, code))
            if refund.status != RefundStatus.PROCESSING:
                refund = replace(refund, status=RefundStatus.REVERSED, completed_at=None)
        case _:
            raise TypeError(f"{fact.type} is no fact of a refund leg")
    refund = replace(refund, legs=put(refund.legs, fact.leg_id, leg), facts=(*refund.facts, entry.sequence))
    return replace(payments, refunds=put(payments.refunds, fact.refund_id, refund))


def _for(shipment_id: str | None, w: Words) -> str:
    return f" for {w.shipment(shipment_id)}" if shipment_id else ""


def _extra(exchange_id: str | None) -> str:
    return f" for exchange {exchange_id}" if exchange_id else ""


def _to(leg: RefundLegFact, w: Words) -> str:
    return w.tender(leg.tender_id) if leg.channel == RefundChannel.ORIGINAL else CHANNELS[leg.channel]


def approval_reason(code: str) -> str:
    """Why a refund needs a second person."""
    kind = code.removeprefix("kind_")
    return plain(code) if kind == code else f"{plain(kind)} always needs one"


CHANNELS: Final = {
    RefundChannel.ORIGINAL: "the tender it came from",
    RefundChannel.STORE_CREDIT: "store credit",
    RefundChannel.BANK_TRANSFER: "bank transfer",
}

_OUTCOMES: Final = {
    "succeeded": "did happen",
    "failed": "did not happen",
    "never_seen": "never arrived there; it is sent again under the same key",
}

_MOVED: Final = {
    MovementKind.CAPTURE: "took",
    MovementKind.REFUND: "gave back",
    MovementKind.REFUND_REVERSED: "got back a refund of",
    MovementKind.VOID: "released",
    MovementKind.AUTHORIZATION: "authorized",
}

_CONTRADICTS: Final = {
    "not_asked_for": ", and nobody here asked for it",
    "failed_before": ", which had failed before",
    "other_amount": " more than was asked of it",
}

SENTENCES: Final[Sentences] = {
    PaymentOpened: lambda f, w: (
        f"To be paid: {w.money(f.total_minor, f.currency)} by {w.listed(plain(tender.kind) for tender in f.tenders)}"
    ),
    PaymentUnitsNoted: lambda f, w: f"Payments took note: {w.units(f.lines)} {plain(f.change)}",
    PaymentVoidFailed: lambda f, w: (
        f"Release of {w.money(f.amount_minor, f.currency)} failed: {plain(f.code)}; it stands until it expires"
    ),
    PaymentAuthorizationRequested: lambda f, w: (
        f"Authorization of {w.money(f.amount_minor, f.currency)} by {plain(f.tender_kind)}"
        f"{_extra(f.exchange_id)} requested" + (f", attempt {f.attempt}" if f.attempt > 1 else "")
    ),
    PaymentOperationSubmitted: lambda f, w: f"Provider asked to {plain(f.kind)} {w.money(f.amount_minor, f.currency)}",
    PaymentAuthorized: lambda f, w: f"{w.money(f.amount_minor, f.currency)} authorized by {plain(f.tender_kind)}",
    PaymentReauthorized: lambda f, w: (
        f"{w.money(f.amount_minor, f.currency)} authorized again by {plain(f.tender_kind)}"
    ),
    PaymentDeclined: lambda f, w: (
        f"Payment of {w.money(f.amount_minor, f.currency)}{_extra(f.exchange_id)} declined: {plain(f.code)}"
        + (", suspected fraud" if f.fraud else "")
    ),
    PaymentAuthorizationExpired: lambda f, w: (
        f"Authorization of {w.money(f.amount_minor)} expired"
        + (", and is not needed any more" if f.final else "; it is authorized again")
    ),
    PaymentCaptureRequested: lambda f, w: (
        f"Capture of {w.money(f.amount_minor, f.currency)}{_for(f.shipment_id, w)} requested"
    ),
    PaymentCaptured: lambda f, w: (
        f"{w.money(f.amount_minor, f.currency)} captured{_for(f.shipment_id, w)}{_extra(f.exchange_id)}; "
        f"{w.money(f.order_captured_minor, f.currency)} in all"
    ),
    PaymentCaptureFailed: lambda f, w: (
        f"Capture of {w.money(f.amount_minor, f.currency)}{_for(f.shipment_id, w)} failed: {plain(f.code)}"
    ),
    PaymentChargeRequested: lambda f, w: (
        f"{w.money(f.amount_minor, f.currency)} is to be charged for exchange {f.exchange_id}"
    ),
    PaymentChargeFailed: lambda f, w: (
        f"{w.money(f.amount_minor, f.currency)} for exchange {f.exchange_id} could not be charged: {plain(f.code)}"
    ),
    PaymentChargeDropped: lambda f, w: (
        f"{w.money(f.amount_minor, f.currency)} for exchange {f.exchange_id} is not charged any more"
    ),
    PaymentVoidRequested: lambda f, w: f"Release of {w.money(f.amount_minor, f.currency)} requested",
    PaymentVoided: lambda f, w: f"{w.money(f.amount_minor, f.currency)} released to the customer; it was never taken",
    PaymentOperationUnknown: lambda f, w: (
        f"No answer from the provider: {plain(f.kind)} of {w.money(f.amount_minor, f.currency)} may or may not have happened"
    ),
    PaymentOperationReconciled: lambda f, w: (
        f"Provider asked again: {plain(f.kind)} of {w.money(f.amount_minor, f.currency)} {_OUTCOMES[f.outcome]}"
    ),
    PaymentAnomalyDetected: lambda f, w: "The provider's word contradicts our books",
    DisputeOpened: lambda f, w: f"Dispute over {w.money(f.amount_minor, f.currency)} opened; refunds to it are blocked",
    DisputeWon: lambda f, w: f"Dispute over {w.money(f.amount_minor, f.currency)} won",
    DisputeLost: lambda f, w: f"Dispute over {w.money(f.amount_minor, f.currency)} lost; the money is gone",
    PaymentMovementRecorded: lambda f, w: (
        f"The provider {_MOVED[f.kind]} {w.money(f.amount_minor, f.currency)}" + _CONTRADICTS[f.contradicts]
    ),
    RefundRequested: lambda f, w: f"Refund of {w.money(f.amount_minor, f.currency)} requested: {plain(f.kind)}",
    RefundApprovalRequired: lambda f, w: f"Refund {f.refund_id} needs an approval",
    RefundApproved: lambda f, w: (
        f"Refund of {w.money(f.amount_minor, f.currency)} approved"
        + (f" by {f.approver}" if f.approver else ", as policy allows")
    ),
    RefundReduced: lambda f, w: (
        f"Refund {f.refund_id} is of {w.money(f.amount_minor, f.currency)} now, not {w.money(f.before_minor, f.currency)}: "
        + ("the rest was given up" if f.reason_code == "given_up" else "no more is left to give back")
    ),
    RefundRejected: lambda f, w: (
        f"Refund {f.refund_id}: nothing is due any more"
        if f.reason_code == "not_due"
        else f"Refund {f.refund_id} rejected: {plain(f.reason_code)}"
    ),
    RefundCancelled: lambda f, w: f"Refund {f.refund_id} cancelled",
    RefundRouted: lambda f, w: (
        "Refund routed: "
        + w.listed(f"{w.money(leg.amount_minor)} to {_payee(leg.channel, leg.tender_kind)}" for leg in f.legs)
        + f"; promised by {day(f.promised_at)}"
    ),
    RefundLegSubmitted: lambda f, w: f"Refund of {w.money(f.amount_minor, f.currency)} sent to {_to(f, w)}",
    RefundLegSucceeded: lambda f, w: f"{w.money(f.amount_minor, f.currency)} refunded to {_to(f, w)}",
    RefundLegFailed: lambda f, w: (
        f"Refund of {w.money(f.amount_minor, f.currency)} to {_to(f, w)} failed: {plain(f.code)}"
    ),
    RefundLegReversed: lambda f, w: (
        f"Refund of {w.money(f.amount_minor, f.currency)} bounced: {plain(f.code)}; its balance is free again"
    ),
    RefundCompleted: lambda f, w: f"Refund of {w.money(f.amount_minor, f.currency)} completed",
    RefundPartiallyCompleted: lambda f, w: (
        f"Refund partly completed: {w.money(f.succeeded_minor, f.currency)} paid out, "
        f"{w.money(f.failed_minor, f.currency)} failed"
    ),
    RefundAttentionNeeded: lambda f, w: (
        f"Refund {f.refund_id} needs attention: {w.money(f.outstanding_minor, f.currency)} cannot be paid out by itself"
    ),
    StoreCreditIssued: lambda f, w: f"Store credit of {w.money(f.amount_minor, f.currency)} issued",
    StoreCreditSpent: lambda f, w: f"Store credit of {w.money(f.amount_minor, f.currency)} spent",
    StoreCreditClawedBack: lambda f, w: f"Store credit of {w.money(f.amount_minor, f.currency)} taken back",
}

QUIET: Final[Quiet] = frozenset(
    {
        PaymentOpened,
        PaymentUnitsNoted,
        PaymentOperationSubmitted,
        PaymentCaptureRequested,
        PaymentVoidRequested,
        RefundLegSubmitted,
    }
)

DETAILS: Final[Details] = {
    PaymentAuthorizationRequested: lambda f, w: [
        *(
            [f"charged to {w.tender(f.charged_tender_id)}: {w.listed(map(plain, f.reasons))}"]
            if f.charged_tender_id
            else []
        ),
        *(f"not to {w.tender(tender.tender_id)}: {plain(tender.reason)}" for tender in f.excluded),
    ],
    PaymentMovementRecorded: lambda f, w: [f.detail, f"the provider's reference is {f.reference}"],
    PaymentAnomalyDetected: lambda f, w: [
        f.detail,
        *([f"expected {w.money(f.expected_minor)}"] if f.expected_minor is not None else []),
        *([f"observed {w.money(f.observed_minor)}"] if f.observed_minor is not None else []),
    ],
    RefundRequested: lambda f, w: [
        *(
            [f"{w.money(f.stated_minor, f.currency)} was stated; the rest was given back before"]
            if f.stated_minor is not None and f.stated_minor > f.amount_minor
            else []
        ),
        *([f"a bank transfer goes to account {f.account.masked}"] if f.account else []),
    ],
    RefundApprovalRequired: lambda f, w: [approval_reason(code) for code in f.reasons],
    RefundRejected: lambda f, w: [f.detail],
    RefundCancelled: lambda f, w: [f.detail],
    RefundRouted: lambda f, w: [
        *(
            f"{w.money(leg.amount_minor)} to {_payee(leg.channel, leg.tender_kind)}: "
            + w.listed(plain(reason) for reason in leg.reasons)
            for leg in f.legs
        ),
        *(f"not to tender {tender.tender_id}: {plain(tender.reason)}" for tender in f.excluded),
        *([f"a bank transfer goes to account {f.account.masked}"] if f.account else []),
    ],
    RefundAttentionNeeded: lambda f, w: [plain(f.reason_code)],
}


def _payee(channel: RefundChannel, kind: TenderKind) -> str:
    return plain(kind) if channel == RefundChannel.ORIGINAL else CHANNELS[channel]
