"""Returns and claims: how each was decided and why, what was found, what is due, how long it took."""

from collections.abc import Iterator
from datetime import datetime

from pydantic import Field

from shared.contracts.base import Model
from support_view.domain.returns import Return
from support_view.domain.returns import Status as ReturnStatus
from support_view.domain.timeline import day, plain
from support_view.summary.sections import Amount, Sections


class ReturnState(Model):
    return_id: str
    status: ReturnStatus
    text: str
    contents: str
    resolution: str
    policy: str
    decision: str
    reasons: tuple[str, ...]
    inputs_hash: str
    announced_as: str = Field(description="of goods that came without a return: the name they came under")
    exception: str
    approver: str | None
    expires_at: datetime | None
    tracking: tuple[str, ...]
    received: str
    inspection: tuple[str, ...]
    due: Amount | None
    fees: Amount | None = Field(description="withheld of what the goods are worth")
    refunded: Amount | None
    recovery: Amount | None = Field(description="refunded too much, by a later inspection")
    unexpected: tuple[str, ...] = Field(description="in the parcel, and not part of the return")
    note: str
    requested_at: datetime | None
    approved_at: datetime | None
    sent_at: datetime | None
    received_at: datetime | None
    inspected_at: datetime | None
    resolved_at: datetime | None
    cycle_seconds: float | None = Field(description="resolved less requested; None while it is open")
    is_open: bool
    files: tuple["FileState", ...] = Field(description="evidence that was uploaded")


def return_states(s: Sections) -> Iterator[ReturnState]:
    for id, told in s.returns.returns.items():
        since, until = told.requested_at, told.resolved_at
        yield ReturnState(
            return_id=id,
            status=told.status,
            text=_return_words(told),
            contents=s.contents({line_id: asked.quantity for line_id, asked in told.asked.items()}, s.words.sent),
            resolution=plain(told.resolution) if told.resolution else "",
            policy=told.policy or s.returns.policy,
            decision=decision(told),
            reasons=_reasons(s, told),
            inputs_hash=told.inputs_hash,
            announced_as=told.announced_as,
            exception=told.exception,
            approver=told.approver,
            expires_at=told.expires_at,
            tracking=told.trackings,
            received=s.contents(told.received, s.words.sent) if told.received else "",
            inspection=tuple(inspection(s, told)),
            due=s.amount(told.due_minor) if told.due_minor else None,
            fees=s.amount(fees) if (fees := told.withheld_minor or told.fees_minor) else None,
            refunded=s.amount(told.refunded_minor) if told.refunded_minor is not None else None,
            recovery=s.amount(told.recovery_minor) if told.recovery_minor else None,
            unexpected=tuple(f"{quantity} × {sku}" for sku, quantity in told.unexpected.items()),
            note=told.note,
            requested_at=since,
            approved_at=told.approved_at,
            sent_at=told.sent_at,
            received_at=told.received_at,
            inspected_at=told.inspected_at,
            resolved_at=until,
            cycle_seconds=(until - since).total_seconds() if until and since else None,
            is_open=told.is_open,
            files=tuple(files(s, id)),
        )


def inspection(s: Sections, told: Return) -> Iterator[str]:
    for found in told.found:
        fee = f" less {found.fee_percent}% fee" if found.fee_percent else ""
        what = f"{s.words.some(found.quantity, found.line_id)}: {plain(found.outcome)}, to {plain(found.disposition)}"
        yield f"{what}, {found.refund_percent}% refundable{fee}"


def _reasons(s: Sections, told: Return) -> tuple[str, ...]:
    """All that the policy said, group by group; else what was said of the whole."""
    by_group = tuple(
        f"{s.words.some(judged.quantity, judged.line_id)}: {reason}"
        for judged in told.verdicts
        for reason in judged.reasons
    )
    return by_group or told.reasons


def _return_words(told: Return) -> str:
    match told.status:
        case ReturnStatus.APPROVED:
            return f"to be sent by {day(told.expires_at)}"
        case ReturnStatus.UNDER_REVIEW:
            return "waits for a person to decide"
        case ReturnStatus.DECLINED:
            return "see the reasons"
        case ReturnStatus.RESOLVED | ReturnStatus.CLOSED:
            in_full = ", withheld in full by fees" if told.withheld_minor and not told.refunded_minor else ""
            return f"resolved on {day(told.resolved_at)}{in_full}" if told.resolved_at else ""
        case _:
            return ""


def decision(told: Return) -> str:
    if told.exception:
        return f"exception granted by {told.approver}: {told.exception}"
    if told.approved_at:
        return f"approved by {told.approver}" if told.approver else "approved by policy"
    return "declined by policy" if told.status == ReturnStatus.DECLINED else ""


class FileState(Model):
    """A file of evidence; the page asks the returns service for its content."""

    evidence_id: str
    name: str
    media_type: str
    size_bytes: int


def files(s: Sections, about: str) -> Iterator[FileState]:
    """What the customer gave to show a return's or a claim's reason."""
    for id, file in s.returns.files.items():
        if file.about == about:
            yield FileState(evidence_id=id, name=file.name, media_type=file.media_type, size_bytes=file.size_bytes)


class ClaimState(Model):
    claim_id: str
    text: str
    outcome: str = Field(description="refunded, replaced or rejected; empty while it is open")
    evidence: tuple[str, ...] = Field(description="names of what the customer gave to show it")
    files: tuple[FileState, ...] = Field(description="what of it was uploaded")


class RecoveryState(Model):
    recovery_id: str
    text: str
    amount: Amount
    due_at: datetime
    how: str = Field(description="charged, written_off or returned; empty while it is open")
    is_charged: bool = Field(description="a charge for it was asked for, and there is no answer yet")


def recoveries(s: Sections) -> Iterator[RecoveryState]:
    """What the customer holds and did not pay for."""
    for id, recovery in s.returns.recoveries.items():
        yield RecoveryState(
            recovery_id=id,
            text=f"{s.words.money(recovery.amount_minor)} that the customer holds and did not pay for: "
            + f"{plain(recovery.cause)}; {plain(recovery.how) if recovery.how else 'open'}",
            amount=s.amount(recovery.amount_minor),
            due_at=recovery.due_at,
            how=recovery.how,
            is_charged=recovery.is_charged,
        )


def claims(s: Sections) -> Iterator[ClaimState]:
    for id, claim in s.returns.claims.items():
        due = f", {s.words.money(claim.due_minor)} due" if claim.due_minor else ""
        text = f"Claim {id}: {s.contents(claim.lines, s.words.sent)}, {plain(claim.reason)}; {claim.outcome or 'open'}{due}"
        uploaded = tuple(files(s, id))
        yield ClaimState(claim_id=id, text=text, outcome=claim.outcome, evidence=claim.evidence, files=uploaded)
