"""The returns of an order as the returns service tells them: what was asked, decided and why, received, found and due."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

from shared.contracts.base import PolicyRef
from shared.contracts.returns import (
    ClaimOpened,
    ClaimResolved,
    DeclaredCondition,
    Disposition,
    ExchangeCreated,
    ExchangeDifferenceDue,
    ExchangeDifferenceSettled,
    ExchangeReleased,
    InspectedLine,
    InspectionOutcome,
    PolicyBound,
    PolicyPublished,
    PolicyRetired,
    RecoveryChargeFailed,
    RecoveryChargeRequested,
    RecoveryFact,
    RecoveryOpened,
    RecoverySettled,
    Resolution,
    ReturnApproved,
    ReturnCancelled,
    ReturnClosed,
    ReturnDeclined,
    ReturnDiscrepancyRecorded,
    ReturnDisputeRecorded,
    ReturnEligibilityEvaluated,
    ReturnEvidenceAttached,
    ReturnExceptionGranted,
    ReturnExpired,
    ReturnFact,
    ReturnInspectionRevised,
    ReturnInTransit,
    ReturnItemsInspected,
    ReturnItemsReceived,
    ReturnLabelIssued,
    ReturnObservationRecorded,
    ReturnPurchaseRecorded,
    ReturnReason,
    ReturnReceivedUnannounced,
    ReturnRefundDropped,
    ReturnRefundDue,
    ReturnRefundSettled,
    ReturnReopened,
    ReturnRequested,
    ReturnResolved,
    ReturnSentToReview,
    ReturnUnexpectedItemReceived,
    ReturnUnexpectedItemSettled,
    ReturnUnitsRecorded,
    Verdict,
)
from shared.core.machine import replace
from support_view.domain.signals import Signal
from support_view.domain.timeline import (
    Details,
    Entry,
    Mark,
    Quiet,
    Resolved,
    Sentences,
    Words,
    add,
    day,
    plain,
    put,
    undone,
)


class Status(StrEnum):
    REQUESTED = "requested"
    UNDER_REVIEW = "under_review"
    APPROVED = "approved"
    DECLINED = "declined"
    IN_TRANSIT = "in_transit"
    PARTIALLY_RECEIVED = "partially_received"
    RECEIVED = "received"
    INSPECTING = "inspecting"
    RESOLVED = "resolved"
    CLOSED = "closed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    REOPENED = "reopened"


class Stage(StrEnum):
    """What a return goes through, in this order, named by what ends it; not every return goes through each."""

    REQUESTED = "requested"
    DECIDED = "decided"
    SENT = "sent"
    RECEIVED = "received"
    INSPECTED = "inspected"
    RESOLVED = "resolved"


class ReverseBucket(StrEnum):
    """Where a delivered unit is; every one is in exactly one."""

    WITH_CUSTOMER = "with_customer"
    RETURN_OPEN = "return_open"
    RETURN_IN_TRANSIT = "return_in_transit"
    RECEIVED_UNINSPECTED = "received_uninspected"
    ACCEPTED = "accepted"
    REJECTED_HELD = "rejected_held"
    REJECTED_SENT_BACK = "rejected_sent_back"
    KEPT_BY_CUSTOMER = "kept_by_customer"


NO_UNITS: Final[Mapping[ReverseBucket, int]] = dict.fromkeys(ReverseBucket, 0)

ENDED: Final = frozenset({Status.DECLINED, Status.CLOSED, Status.EXPIRED, Status.CANCELLED, Status.RESOLVED})


@dataclass(frozen=True, slots=True)
class Asked:
    quantity: int
    reason: str
    condition: str


@dataclass(frozen=True, slots=True)
class Found:
    """Units of a line with one inspection outcome; `bucket` None for an item that is none of the return's."""

    inspection_id: str
    line_id: str
    quantity: int
    outcome: InspectionOutcome
    disposition: Disposition
    refund_percent: int
    fee_percent: int
    bucket: ReverseBucket | None


@dataclass(frozen=True, slots=True)
class Judged:
    """What the policy said of a group of units, with all its reasons."""

    line_id: str
    quantity: int
    outcome: str
    reasons: tuple[str, ...]
    window_ends_at: datetime | None


@dataclass(frozen=True, slots=True)
class Return:
    status: Status = Status.REQUESTED
    asked: Mapping[str, Asked] = field(default_factory=dict)
    resolution: Resolution | None = None
    note: str = ""
    verdicts: tuple[Judged, ...] = ()
    policy: str = ""
    inputs_hash: str = ""
    reasons: tuple[str, ...] = ()
    """Why it was declined or sent to review."""
    decide_by: datetime | None = None
    announced_as: str = ""
    """Of goods that came without a return: the name they came under."""
    approved: Mapping[str, int] = field(default_factory=dict)
    approver: str | None = None
    exception: str = ""
    """Why the policy was set aside, where it was."""
    expires_at: datetime | None = None
    has_lapsed: bool = False
    """What was not received in time is not awaited any more."""
    trackings: tuple[str, ...] = ()
    received: Mapping[str, int] = field(default_factory=dict)
    sent_back: Mapping[str, int] = field(default_factory=dict)
    """Units that were here when it was decided, and not accepted: they go back without an inspection."""
    unexpected: Mapping[str, int] = field(default_factory=dict)
    found: tuple[Found, ...] = ()
    due_minor: int = 0
    fees_minor: int = 0
    withheld_minor: int = 0
    """Fees kept of what the goods were worth, in all; known when it is resolved."""
    recovery_minor: int = 0
    refunded_minor: int | None = None
    requested_at: datetime | None = None
    approved_at: datetime | None = None
    sent_at: datetime | None = None
    received_at: datetime | None = None
    inspected_at: datetime | None = None
    resolved_at: datetime | None = None
    stages: Mapping[Stage, Mark] = field(default_factory=dict)
    """How far it has come since it was last reopened: the first scan, and of all others the last."""
    ended: Mark | None = None
    """Declined, cancelled, expired or closed."""
    resolutions: tuple[Resolved, ...] = ()
    is_exception: bool = False
    """A person set the policy aside."""
    facts: tuple[int, ...] = ()
    """Sequences of all that was told of it."""
    since: datetime | None = None
    """When it came to its status."""
    unexpected_at: datetime | None = None
    """When last something came that is none of it."""
    closes_at: datetime | None = None

    @property
    def is_open(self) -> bool:
        return self.status not in ENDED

    def units(self, line_id: str) -> Mapping[ReverseBucket, int]:
        """The units of a line that this return has a hold on, by bucket."""
        asked, approved = self.asked.get(line_id), self.approved.get(line_id, 0)
        received = self.received.get(line_id, 0)
        units = dict(NO_UNITS)
        if self.status in (Status.REQUESTED, Status.UNDER_REVIEW) and asked is not None:
            declined = sum(v.quantity for v in self.verdicts if v.line_id == line_id and v.outcome == "decline")
            units[ReverseBucket.RETURN_OPEN] = asked.quantity - (0 if self.exception else declined) - received
        elif approved and self.resolution == Resolution.KEEP_IT:
            units[ReverseBucket.KEPT_BY_CUSTOMER] = max(0, approved - received + self.sent_back.get(line_id, 0))
        elif approved and not self.has_lapsed:
            awaited = ReverseBucket.RETURN_IN_TRANSIT if self.sent_at else ReverseBucket.RETURN_OPEN
            units[awaited] = max(0, approved - received)
        sent_back = self.sent_back.get(line_id, 0)
        units[ReverseBucket.REJECTED_SENT_BACK] = sent_back
        units[ReverseBucket.RECEIVED_UNINSPECTED] = received - sent_back
        for found in self.found:
            if found.line_id == line_id and found.bucket is not None:
                units[found.bucket] += found.quantity
                units[ReverseBucket.RECEIVED_UNINSPECTED] -= found.quantity
        return units


@dataclass(frozen=True, slots=True)
class Claim:
    lines: Mapping[str, int]
    reason: str
    since: datetime
    outcome: str = ""
    due_minor: int = 0
    decide_by: datetime | None = None
    evidence: tuple[str, ...] = ()
    """Names of what the customer gave to show it."""


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """What was reported against what returns know."""

    at: datetime
    contradicts: str
    detail: str
    return_id: str | None


@dataclass(frozen=True, slots=True)
class Evidence:
    """A file that shows what the customer says; the returns service has it."""

    about: str
    name: str
    sha256: str
    media_type: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Recovery:
    """What the customer holds and did not pay for; `how` it was settled, "" while it is open."""

    amount_minor: int
    cause: str
    return_id: str | None
    owner: str
    since: datetime
    due_at: datetime
    is_charged: bool = False
    """It was asked of a tender, and there is no answer yet."""
    how: str = ""


@dataclass(frozen=True, slots=True)
class Returns:
    policy: str = ""
    """The return policy that binds the order since its purchase."""
    returns: Mapping[str, Return] = field(default_factory=dict)
    claims: Mapping[str, Claim] = field(default_factory=dict)
    recoveries: Mapping[str, Recovery] = field(default_factory=dict)
    files: Mapping[str, Evidence] = field(default_factory=dict)
    discrepancies: Mapping[str, Discrepancy] = field(default_factory=dict)
    skus: Mapping[str, str] = field(default_factory=dict)
    """By line."""
    signs: tuple[Signal, ...] = ()


def fold(returns: Returns, entry: Entry) -> Returns:
    """Total: any fact of the service about an order, in any state, leads somewhere."""
    match entry.fact:
        case PolicyBound(policy=policy):
            return replace(returns, policy=_named(policy))
        case ClaimOpened() as fact:
            claim = Claim(
                add({}, fact.lines),
                fact.reason.value,
                entry.occurred_at,
                decide_by=fact.decide_by,
                evidence=fact.evidence,
            )
            return replace(returns, claims=put(returns.claims, fact.claim_id, claim))
        case ClaimResolved(claim_id=id, outcome=outcome):
            claim = returns.claims.get(id) or Claim({}, "", entry.occurred_at)
            return replace(returns, claims=put(returns.claims, id, replace(claim, outcome=outcome)))
        case ReturnPurchaseRecorded(lines=lines):
            return replace(returns, skus={line.line_id: line.sku for line in lines})
        case ReturnUnitsRecorded() | ReturnDisputeRecorded():
            return returns  # what other services told; their own sections carry it
        case ReturnObservationRecorded():
            return returns  # word by word; what was made of it has facts of its own
        case ReturnEvidenceAttached() as fact:
            file = Evidence(fact.about, fact.name, fact.sha256, fact.media_type, fact.size_bytes)
            return replace(returns, files=put(returns.files, fact.evidence_id, file))
        case ReturnDiscrepancyRecorded() as fact:
            found = Discrepancy(entry.occurred_at, fact.contradicts, fact.detail, fact.return_id)
            return replace(returns, discrepancies=put(returns.discrepancies, fact.discrepancy_id, found))
        case RecoveryFact(recovery_id=id) as fact:
            recovery = _recovery(returns.recoveries.get(id), fact, entry.occurred_at)
            return returns if recovery is None else replace(returns, recoveries=put(returns.recoveries, id, recovery))
        case ReturnFact(return_id=id) as fact if id in returns.claims:
            # What is due for a claim is told as for a return, under the claim's id.
            if not isinstance(fact, ReturnRefundDue):
                return returns
            claim = returns.claims[id]
            claim = replace(claim, due_minor=claim.due_minor + fact.amount_minor)
            return replace(returns, claims=put(returns.claims, id, claim))
        case ReturnFact() as fact:
            before = returns.returns.get(fact.return_id) or Return()
            told = _noted(before, _move(before, fact, entry.occurred_at), fact, entry)
            return replace(returns, returns=put(returns.returns, fact.return_id, told))
        case _:
            raise TypeError(f"{entry.fact.type} is no fact of an order's returns")


def _recovery(told: Recovery | None, fact: RecoveryFact, at: datetime) -> Recovery | None:
    match fact:
        case RecoveryOpened():
            return Recovery(fact.amount_minor, fact.cause, fact.return_id, fact.owner, at, fact.due_at)
        case RecoveryChargeRequested() | RecoveryChargeFailed() if told is not None:
            is_failed = isinstance(fact, RecoveryChargeFailed)
            return replace(told, is_charged=not is_failed, owner="support" if is_failed else told.owner)
        case RecoverySettled(how=how) if told is not None:
            return replace(told, is_charged=False, how=how)
        case _:
            return None


def _named(policy: PolicyRef) -> str:
    return f"{policy.policy_id} v{policy.version}"


def _move(told: Return, fact: ReturnFact, at: datetime) -> Return:
    match fact:
        case ReturnRequested():
            return replace(
                told,
                status=Status.REQUESTED,
                asked={
                    line.line_id: Asked(line.quantity, line.reason.value, line.condition.value) for line in fact.lines
                },
                resolution=fact.resolution,
                note=fact.note,
                requested_at=fact.requested_at,
            )
        case ReturnEligibilityEvaluated():
            return replace(
                told,
                verdicts=tuple(_judged(verdict) for verdict in fact.verdicts),
                policy=_named(fact.policy),
                inputs_hash=fact.inputs_hash,
            )
        case ReturnSentToReview():
            reasons = tuple(why.text for why in fact.reasons)
            return replace(told, status=Status.UNDER_REVIEW, reasons=reasons, decide_by=fact.decide_by)
        case ReturnReceivedUnannounced():
            asked = dict(told.asked)
            for line in fact.lines:
                n = line.quantity + (asked[line.line_id].quantity if line.line_id in asked else 0)
                asked[line.line_id] = Asked(n, ReturnReason.UNWANTED.value, DeclaredCondition.OPENED.value)
            return replace(
                told,
                status=Status.UNDER_REVIEW,
                asked=asked,
                resolution=Resolution.REFUND,
                reasons=("The goods came without a return that expects them",),
                announced_as=fact.announced_as,
                decide_by=fact.decide_by,
                requested_at=told.requested_at or fact.received_at,
            )
        case ReturnApproved():
            told = _decided(told, add({}, fact.lines))
            return replace(
                told,
                status=_approved_status(told, add({}, fact.lines)),
                resolution=fact.resolution or told.resolution,
                approved=add({}, fact.lines),
                approver=fact.approver,
                expires_at=fact.expires_at,
                policy=_named(fact.policy),
                approved_at=at,
            )
        case ReturnDeclined():
            return replace(
                _decided(told, {}),
                status=Status.DECLINED,
                reasons=tuple(why.text for why in fact.reasons),
                policy=_named(fact.policy),
            )
        case ReturnExceptionGranted():
            return replace(
                told, status=Status.UNDER_REVIEW, is_exception=True, exception=fact.detail, approver=fact.approver
            )
        case ReturnLabelIssued(tracking=tracking):
            return replace(told, trackings=_with(told.trackings, tracking))
        case ReturnInTransit(tracking=tracking):
            return replace(
                told,
                expires_at=fact.expires_at,
                status=Status.IN_TRANSIT if told.status == Status.APPROVED else told.status,
                trackings=_with(told.trackings, tracking),
                sent_at=told.sent_at or at,
            )
        case ReturnItemsReceived():
            return replace(
                told,
                status=_after_parcel(told.status, fact.complete),
                received={**told.received, **{line.line_id: line.total for line in fact.lines}},
                received_at=at,
            )
        case ReturnUnexpectedItemReceived(sku=sku, quantity=quantity):
            unexpected = put(told.unexpected, sku, told.unexpected.get(sku, 0) + quantity)
            return replace(told, unexpected=unexpected, unexpected_at=at)
        case ReturnUnexpectedItemSettled(sku=sku, quantity=quantity):
            left = {**told.unexpected, sku: told.unexpected.get(sku, 0) - quantity}
            return replace(told, unexpected={of: n for of, n in left.items() if n > 0})
        case ReturnItemsInspected():
            found = tuple(_found(fact.inspection_id, line) for line in fact.lines)
            return replace(
                told,
                status=Status.INSPECTING,
                found=(*told.found, *found),
                recovery_minor=told.recovery_minor + fact.recovery_minor,
                inspected_at=at,
            )
        case ReturnInspectionRevised():
            named = {line.line_id for line in fact.before}
            kept = tuple(
                found
                for found in told.found
                if found.inspection_id != fact.inspection_id or found.line_id not in named or found.bucket is None
            )
            found = tuple(_found(fact.inspection_id, line) for line in fact.after)
            return replace(
                told,
                status=Status.INSPECTING,
                found=(*kept, *found),
                recovery_minor=told.recovery_minor + fact.recovery_minor,
            )
        case ReturnRefundDue():
            fees = sum(line.fee_minor for line in fact.lines) + fact.return_shipping_fee_minor
            return replace(told, due_minor=told.due_minor + fact.amount_minor, fees_minor=told.fees_minor + fees)
        case ReturnResolved():
            return replace(
                told,
                status=Status.RESOLVED,
                resolution=fact.resolution,
                requested_at=fact.requested_at,
                refunded_minor=fact.refunded_minor,
                withheld_minor=fact.withheld_minor,
                resolved_at=at,
                closes_at=fact.closes_at,
            )
        case ReturnExpired():
            return replace(
                told,
                status=_EXPIRED.get(told.status, Status.EXPIRED),
                has_lapsed=True,
                recovery_minor=told.recovery_minor + fact.recovery_minor,
            )
        case ReturnCancelled():
            return replace(told, status=Status.CANCELLED, has_lapsed=True)
        case ReturnClosed():
            return replace(told, status=Status.CLOSED, has_lapsed=True)
        case ReturnReopened():
            return replace(told, status=Status.REOPENED, resolved_at=None)
        case (
            ExchangeCreated()
            | ExchangeDifferenceDue()
            | ExchangeDifferenceSettled()
            | ExchangeReleased()
            | ReturnRefundSettled()
            | ReturnRefundDropped()
        ):
            return told  # told on the timeline; refunds and shipments carry what follows from it
        case _:
            raise TypeError(f"{fact.type} is no fact of a return")


_STAGES: Final[Mapping[type[ReturnFact], Stage]] = {
    ReturnRequested: Stage.REQUESTED,
    ReturnReceivedUnannounced: Stage.REQUESTED,
    ReturnApproved: Stage.DECIDED,
    ReturnDeclined: Stage.DECIDED,
    ReturnInTransit: Stage.SENT,
    ReturnItemsReceived: Stage.RECEIVED,
    ReturnItemsInspected: Stage.INSPECTED,
    ReturnInspectionRevised: Stage.INSPECTED,
    ReturnResolved: Stage.RESOLVED,
}
"""What a fact ends."""


def _noted(before: Return, told: Return, fact: ReturnFact, entry: Entry) -> Return:
    """When what happened, and by which facts: what is measured of a return."""
    at = fact.requested_at if isinstance(fact, ReturnRequested) else entry.occurred_at
    mark = Mark(entry.sequence, at)
    stages, ended, resolutions = told.stages, told.ended, told.resolutions
    stage = _STAGES.get(type(fact))
    if stage is not None and not (stage is Stage.SENT and stage in stages):
        stages = put(stages, stage, mark)
    match fact:
        case ReturnResolved():
            resolutions = (*resolutions, Resolved(mark))
        case ReturnReopened() | ReturnInspectionRevised() if before.status in (Status.RESOLVED, Status.CLOSED):
            stages = {reached: when for reached, when in stages.items() if reached is not Stage.RESOLVED}
            resolutions = undone(resolutions, entry.sequence)
        case ReturnDeclined() | ReturnCancelled() | ReturnClosed():
            ended = mark
        case ReturnExpired() if told.status is Status.EXPIRED:
            ended = mark
        case _:
            pass
    facts = (*told.facts, entry.sequence)
    since = before.since if before.facts and before.status is told.status else entry.occurred_at
    return replace(told, stages=stages, ended=ended, resolutions=resolutions, facts=facts, since=since)


_EXPIRED: Final = {
    Status.PARTIALLY_RECEIVED: Status.RECEIVED,
    Status.RECEIVED: Status.RECEIVED,
    Status.INSPECTING: Status.INSPECTING,
}
"""What has arrived goes on without what has not."""


def _uninspected(told: Return, line_id: str) -> int:
    return told.units(line_id)[ReverseBucket.RECEIVED_UNINSPECTED]


def _decided(told: Return, approved: Mapping[str, int]) -> Return:
    """What is here already and is not approved goes back."""
    sent_back = dict(told.sent_back)
    for line_id in told.received:
        back = _uninspected(told, line_id) - approved.get(line_id, 0)
        sent_back[line_id] = sent_back.get(line_id, 0) + max(0, back)
    return replace(told, sent_back=sent_back)


def _approved_status(told: Return, approved: Mapping[str, int]) -> Status:
    here = {line_id: _uninspected(told, line_id) for line_id in told.received}
    if not any(here.values()):
        return Status.APPROVED
    is_all = all(here.get(line_id, 0) >= n for line_id, n in approved.items()) or told.resolution == Resolution.KEEP_IT
    return Status.RECEIVED if is_all else Status.PARTIALLY_RECEIVED


def _after_parcel(status: Status, is_complete: bool) -> Status:
    if status in (Status.UNDER_REVIEW, Status.RECEIVED, Status.INSPECTING):
        return status
    # Reopened by a late parcel: nothing more is awaited.
    return Status.RECEIVED if is_complete or status == Status.REOPENED else Status.PARTIALLY_RECEIVED


def _with(trackings: tuple[str, ...], tracking: str) -> tuple[str, ...]:
    return trackings if tracking in trackings else (*trackings, tracking)


def _judged(verdict: Verdict) -> Judged:
    return Judged(
        verdict.line_id,
        verdict.quantity,
        verdict.outcome,
        tuple(why.text for why in verdict.reasons),
        verdict.window_ends_at,
    )


def _found(inspection_id: str, line: InspectedLine) -> Found:
    return Found(
        inspection_id,
        line.line_id,
        line.quantity,
        line.outcome,
        line.disposition,
        line.refund_percent,
        line.fee_percent,
        _bucket(line),
    )


def _bucket(line: InspectedLine) -> ReverseBucket | None:
    if line.outcome == InspectionOutcome.EXTRA_ITEM:
        return None
    if line.outcome == InspectionOutcome.NOT_IN_BOX:
        return ReverseBucket.WITH_CUSTOMER
    if line.is_accepted:
        return ReverseBucket.ACCEPTED
    if not line.review and line.disposition == Disposition.SEND_BACK:
        return ReverseBucket.REJECTED_SENT_BACK
    return ReverseBucket.REJECTED_HELD


_WENT: Final = {"sent_back": "was sent back", "stocked": "was put into stock", "disposed": "was disposed of"}
_SETTLED: Final = {"charged": "charged", "written_off": "written off", "returned": "no longer owed"}
_CAUSES: Final = {
    "return_not_accepted": "what came back was not accepted",
    "return_not_sent": "the return was not sent",
    "found_after_refund": "what was refunded as lost was found and delivered",
    "found_after_replacement": "what was replaced was found and delivered too",
    "sent_again_beside_refund": "what was refunded as lost was sent again as well: stop it, if it is still here",
    "revised_down": "the inspection was revised after the refund",
    "other": "see the case",
}

_VERDICTS: Final = {"approve": "approve", "review": "a person must decide on", "decline": "decline"}

SENTENCES: Final[Sentences] = {
    PolicyPublished: lambda f, w: f"Return policy {f.policy.policy_id} v{f.policy.version} published",
    PolicyRetired: lambda f, w: f"Return policy {f.policy_id} v{f.version} retired",
    PolicyBound: lambda f, w: f"Return policy {_named(f.policy)} binds this order, whatever is published later",
    ReturnRequested: lambda f, w: f"Return requested: {w.units(f.lines, w.sent)}, for a {_wish(f.resolution)}",
    ReturnEligibilityEvaluated: lambda f, w: (
        f"Policy {_named(f.policy)} says: "
        + w.listed(
            f"{_VERDICTS[verdict.outcome]} {w.some(verdict.quantity, verdict.line_id)}" for verdict in f.verdicts
        )
    ),
    ReturnSentToReview: lambda f, w: f"Return {f.return_id} waits for a person to decide",
    ReturnApproved: lambda f, w: (
        f"Return approved: {w.units(f.lines, w.sent)}, to be sent by {day(f.expires_at)}"
        + (f"; approved by {f.approver}" if f.approver else "")
    ),
    ReturnDeclined: lambda f, w: f"Return {f.return_id} declined under {_named(f.policy)}",
    ReturnExceptionGranted: lambda f, w: f"Exception granted by {f.approver}: {w.units(f.lines, w.sent)}",
    ReturnLabelIssued: lambda f, w: f"Return label issued: {f.carrier} {f.tracking}",
    ReturnInTransit: lambda f, w: f"Return {f.return_id} is on its way to us",
    ReturnReceivedUnannounced: lambda f, w: (
        f"Goods came back in {f.location} under {f.announced_as}, which no return expects: "
        + (w.units(f.lines, w.sent) if f.lines else "no unit of the order")
        + "; a person decides"
    ),
    ReturnObservationRecorded: lambda f, w: (
        f"Returns took note of what was reported of {f.return_id}"
        + (": it is applied once it can be" if f.waits else "")
    ),
    ReturnDiscrepancyRecorded: lambda f, w: f"What was reported contradicts the plan: {f.detail}",
    ReturnItemsReceived: lambda f, w: (
        f"Return parcel received in {f.location}: {w.units(f.lines, w.sent)}; "
        + ("all is here" if f.complete else "more is awaited")
    ),
    ReturnUnexpectedItemReceived: lambda f, w: f"Not part of the return, but in the parcel: {f.quantity} × {f.sku}",
    ReturnUnexpectedItemSettled: lambda f, w: f"{f.quantity} × {f.sku}, none of the return, {_WENT[f.how]}",
    ReturnItemsInspected: lambda f, w: (
        "Inspected: " + w.listed(f"{w.some(line.quantity, line.line_id)} {plain(line.outcome)}" for line in f.lines)
    ),
    ReturnInspectionRevised: lambda f, w: (
        "Inspection revised: now "
        + w.listed(f"{w.some(line.quantity, line.line_id)} {plain(line.outcome)}" for line in f.after)
        + (f"; {w.money(f.recovery_minor)} was refunded too much" if f.recovery_minor else "")
    ),
    ReturnRefundDue: lambda f, w: (
        f"Refund of {w.money(f.amount_minor, f.currency)} is due for {w.units(f.lines, w.sent)}"
    ),
    ReturnResolved: lambda f, w: (
        f"Return {f.return_id} resolved by {_wish(f.resolution)}: "
        + (
            f"{w.money(f.withheld_minor, f.currency)} withheld in full, nothing is refunded"
            if f.withheld_minor and not f.refunded_minor
            else f"{w.money(f.refunded_minor, f.currency)} refunded"
            + (f", {w.money(f.withheld_minor, f.currency)} withheld" if f.withheld_minor else "")
        )
    ),
    ReturnRefundSettled: lambda f, w: (
        f"Return {f.return_id} took note of its refund: {w.money(f.amount_minor)} paid out"
    ),
    ReturnRefundDropped: lambda f, w: (
        f"Return {f.return_id} gets no refund for {f.due_id}: "
        + ("everything was given back before" if f.reason_code == "not_due" else plain(f.reason_code))
    ),
    ReturnEvidenceAttached: lambda f, w: (
        f"Evidence given for {f.about}: {f.name} ({f.media_type}, {f.size_bytes} bytes)"
    ),
    RecoveryOpened: lambda f, w: (
        f"The customer holds {w.money(f.amount_minor, f.currency)} that is not paid: {_CAUSES[f.cause]}; "
        + ("it is charged" if f.owner == "system" else "a person settles it")
        + f" on {day(f.due_at)}"
    ),
    RecoveryChargeRequested: lambda f, w: (
        f"{w.money(f.amount_minor, f.currency)} is to be charged for {f.recovery_id}"
        + (f", as {f.approver} asks" if f.approver else ", by policy")
    ),
    RecoveryChargeFailed: lambda f, w: f"Nothing could be charged for {f.recovery_id}: {plain(f.code)}",
    RecoverySettled: lambda f, w: (
        f"{w.money(f.amount_minor, f.currency)} of {f.recovery_id} is {_SETTLED[f.how]}"
        + (f" by {f.approver}" if f.approver else "")
    ),
    ReturnPurchaseRecorded: lambda f, w: "Returns took note of the purchase",
    ReturnUnitsRecorded: lambda f, w: f"Returns took note: {w.units(f.lines)} {f.stage}",
    ReturnDisputeRecorded: lambda f, w: (
        f"Returns took note of a dispute: {'open, so returns are reviewed' if f.is_open else 'over'}"
    ),
    ReturnExpired: lambda f, w: f"Return {f.return_id} expired: nothing was sent in time",
    ReturnCancelled: lambda f, w: f"Return {f.return_id} cancelled",
    ReturnClosed: lambda f, w: f"Return {f.return_id} closed" + (f" by {f.approver}" if f.approver else ""),
    ReturnReopened: lambda f, w: f"Return {f.return_id} reopened",
    ExchangeCreated: lambda f, w: f"Exchange agreed: {w.units(f.lines)} for {f.sku}",
    ExchangeDifferenceDue: lambda f, w: (
        f"{w.money(f.amount_minor, f.currency)} is due from the customer for exchange {f.exchange_id}"
    ),
    ExchangeDifferenceSettled: lambda f, w: (
        f"What exchange {f.exchange_id} costs more is "
        + ("no longer due" if not f.amount_minor else "charged" if f.operation_id else "settled, as a person says")
    ),
    ExchangeReleased: lambda f, w: f"Replacement may be sent: {w.units(f.lines)} as {f.sku}",
    ClaimOpened: lambda f, w: f"Claim opened ({plain(f.reason)}): {w.units(f.lines, w.sent)}",
    ClaimResolved: lambda f, w: f"Claim {f.claim_id} {f.outcome}",
}

QUIET: Final[Quiet] = frozenset(
    {
        ReturnPurchaseRecorded,
        ReturnUnitsRecorded,
        ReturnDisputeRecorded,
        ReturnObservationRecorded,
        ReturnRefundSettled,
    }
)

DETAILS: Final[Details] = {
    ReturnRequested: lambda f, w: [
        *(
            f"{w.some(line.quantity, line.line_id)}: {plain(line.reason)}, said to be {plain(line.condition)}"
            for line in f.lines
        ),
        f.note and f"“{f.note}”",
    ],
    ReturnEligibilityEvaluated: lambda f, w: [
        f"{w.some(verdict.quantity, verdict.line_id)}: {why.text}" for verdict in f.verdicts for why in verdict.reasons
    ],
    ReturnSentToReview: lambda f, w: [why.text for why in f.reasons],
    ReturnDiscrepancyRecorded: lambda f, w: [
        f"{line.quantity} × line {line.line_id}" + (f" ({line.sku})" if line.sku else "") for line in f.lines
    ],
    ReturnDeclined: lambda f, w: [why.text for why in f.reasons],
    ReturnExceptionGranted: lambda f, w: [f.detail],
    ReturnItemsInspected: lambda f, w: [_inspection(line, w) for line in f.lines],
    ReturnInspectionRevised: lambda f, w: [_inspection(line, w) for line in f.after],
    ReturnRefundDue: lambda f, w: [
        f"{w.some(line.quantity, line.line_id)}: {w.money(line.gross_minor, f.currency)} worth, "
        f"{w.money(line.fee_minor, f.currency)} fee, {w.money(line.refund_minor, f.currency)} due"
        for line in f.lines
    ],
    ReturnCancelled: lambda f, w: [f.detail],
    ReturnClosed: lambda f, w: [f.detail],
    ReturnUnexpectedItemSettled: lambda f, w: [f.detail],
    RecoveryChargeRequested: lambda f, w: [f.detail],
    RecoverySettled: lambda f, w: [f.detail],
    ReturnReopened: lambda f, w: [f.detail],
    ClaimResolved: lambda f, w: [f.detail],
}


def _wish(resolution: Resolution) -> str:
    return "goodwill, goods kept" if resolution == Resolution.KEEP_IT else plain(resolution)


def _inspection(line: InspectedLine, w: Words) -> str:
    """What the policy's table says of it; what is withheld of the whole return is known when that is resolved."""
    fee = f", {line.fee_percent}% fee" if line.fee_percent else ""
    return (
        f"{w.some(line.quantity, line.line_id)}: {plain(line.outcome)}, "
        f"goes to {plain(line.disposition)}, {line.refund_percent}% refundable{fee}"
    )
