"""HTTP in: policies are published, returns asked for, decided, received, inspected and settled; everyone reads."""

from collections.abc import Callable, Sequence
from datetime import date, datetime, timezone
from email.message import Message as Form
from email.parser import BytesParser
from email.policy import HTTP
from hashlib import sha256
from typing import Annotated, Any, Final, Literal
from urllib.parse import quote

from fastapi import APIRouter, HTTPException, Path, Query, Request, Response
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter
from starlette.types import Scope

from returns.domain import policies
from returns.domain.claims import Claim, ClaimStatus
from returns.domain.decide import (
    ApproveReturn,
    CancelReturn,
    ChargeRecovery,
    CloseReturn,
    Command,
    DeclineReturn,
    GrantException,
    IssueLabel,
    OpenClaim,
    ReopenReturn,
    RequestReturn,
    ResolveClaim,
    SettleDifference,
    SettleItem,
    SettleRecovery,
)
from returns.domain.evidence import AttachEvidence, media_type
from returns.domain.inspections import RevisedUnits, ReviseInspection
from returns.domain.parcels import InspectItems, ReceiveParcel, RecordScan
from returns.domain.policies import Policy, PublishPolicy, RetirePolicy, VersionStatus
from returns.domain.recoveries import Recovery, RecoveryStatus
from returns.domain.rma import Due, Exchange, ReturnStatus, Rma, UnexpectedItem
from returns.domain.state import OrderReturns, law, law_lines, left
from returns.domain.units import ReverseBucket, UnitStatus
from returns.handlers import reported, summed
from returns.settings import ReturnsSettings
from returns.store import (
    ORDER_RETURNS,
    POLICIES,
    find,
    find_evidence,
    find_policy,
    list_policies,
    store_evidence,
)
from shared.contracts import base
from shared.contracts.base import Fact, Id, Input, LineQuantity, Name, Observation, PolicyRef, Quantity, Text
from shared.contracts.partners import InspectedUnits, PartnerLine, ReturnedUnits, ReturnScan, WarehouseUnexpectedItem
from shared.contracts.returns import (
    DeclaredCondition,
    Disposition,
    InspectedLine,
    InspectionOutcome,
    InspectionRule,
    PolicyPublished,
    Resolution,
    ReturnLine,
    ReturnPolicy,
    ReturnReason,
    Verdict,
    WindowTier,
)
from shared.core.machine import Invalid
from shared.core.money import Minor
from shared.messaging.envelope import observed_time
from shared.messaging.shell import Message
from shared.web.auth import Caller, Role
from shared.web.callers import needs
from shared.web.commands import CommandRequest, Commands, OccurredAt, asks, business_time
from shared.web.webhooks import SignedBody, read_signed, signed, webhook_cause

router = APIRouter(tags=["returns"])

MAX_LINES = 200
MAX_POLICIES = 1000

Publisher = Annotated[CommandRequest, asks(Role.SUPERVISOR, Role.OPERATOR)]
Customer = Annotated[CommandRequest, asks(Role.STOREFRONT, Role.AGENT, Role.SUPERVISOR)]
Reviewer = Annotated[CommandRequest, asks(Role.AGENT, Role.SUPERVISOR)]
Approver = Annotated[CommandRequest, asks(Role.SUPERVISOR)]
Receiver = Annotated[CommandRequest, asks(Role.WAREHOUSE, Role.SUPERVISOR)]
Reader = Annotated[Caller, needs(*Role)]
EvidenceReader = Annotated[Caller, needs(Role.STOREFRONT, Role.AGENT, Role.SUPERVISOR, Role.WAREHOUSE)]

Reason = Annotated[Text, Field(min_length=1, pattern=r"\S", description="why; it stands in the audit record")]
Evidence = Annotated[tuple[Name, ...], Field(max_length=20, description="names of images")]
Number = Annotated[int, Field(ge=1, le=1_000_000)]


def _within_reason(instant: datetime) -> datetime:
    if not 2000 <= instant.year < 2200:
        raise ValueError("must lie between the years 2000 and 2200")
    return instant.astimezone(timezone.utc)


class TierIn(Input, WindowTier):
    model_config = ConfigDict(extra="forbid")


class RuleIn(Input, InspectionRule):
    model_config = ConfigDict(extra="forbid")


class PolicyIn(Input, ReturnPolicy):
    """A policy to publish. `version` is the next one; it names every inspection outcome once."""

    model_config = ConfigDict(extra="forbid")

    version: Number
    effective_from: Annotated[AwareDatetime, AfterValidator(_within_reason)]
    tiers: Annotated[tuple[TierIn, ...], Field(max_length=100)] = ()
    holidays: Annotated[tuple[date, ...], Field(max_length=1000)] = ()
    excluded_categories: Annotated[tuple[Id, ...], Field(max_length=200)] = ()
    inspection: Annotated[tuple[RuleIn, ...], Field(max_length=20)]


class RetireIn(Input):
    reason: Reason
    occurred_at: OccurredAt


class PolicyVersionOut(BaseModel):
    policy_id: str
    version: int
    status: VersionStatus
    effective_from: datetime
    retired_at: datetime | None


class ChangeOut(BaseModel):
    field: str
    before: Any
    after: Any


class DiffOut(BaseModel):
    policy_id: str
    before: int
    after: int
    changes: list[ChangeOut]


class LineIn(Input):
    """`exchange_unit_price_minor` left out: an even exchange."""

    line_id: Id
    quantity: Quantity
    reason: ReturnReason
    condition: DeclaredCondition
    exchange_sku: Id | None = None
    exchange_unit_price_minor: Minor | None = None


class RequestReturnIn(Input):
    """`membership` and `abuse_score` are what the storefront knows of the customer; policies may ask for them."""

    lines: Annotated[tuple[LineIn, ...], Field(min_length=1, max_length=MAX_LINES)]
    resolution: Resolution = Resolution.REFUND
    note: Text = ""
    evidence: Evidence = ()
    membership: Id | None = None
    abuse_score: int = Field(default=0, ge=0, le=100, strict=True)
    occurred_at: OccurredAt


Lines = Annotated[tuple[PartnerLine, ...], Field(min_length=1, max_length=MAX_LINES)]


class ApproveIn(Input):
    """No lines: all that the policy does not decline. Goods that came without a return are approved with a resolution."""

    lines: Lines | None = None
    resolution: Resolution | None = None
    note: Text = ""
    occurred_at: OccurredAt


class ExceptionIn(Input):
    """No lines: all that was asked for."""

    lines: Lines | None = None
    reason: Reason
    occurred_at: OccurredAt


class ReasonIn(Input):
    reason: Reason
    occurred_at: OccurredAt


class LabelIn(Input):
    carrier: Id
    tracking: Id
    occurred_at: OccurredAt


class ReceiptIn(Observation):
    receipt_id: Id
    location: Id
    lines: Annotated[tuple[ReturnedUnits, ...], Field(max_length=500)] = ()
    unexpected: Annotated[tuple[WarehouseUnexpectedItem, ...], Field(max_length=100)] = ()
    occurred_at: OccurredAt


class InspectionIn(Observation):
    inspection_id: Id
    location: Id
    lines: Annotated[tuple[InspectedUnits, ...], Field(min_length=1, max_length=500)]
    occurred_at: OccurredAt


class RevisedIn(Input):
    """What is left out is as the policy's table has it; to say otherwise takes a supervisor."""

    line_id: Id
    quantity: Quantity
    outcome: InspectionOutcome
    disposition: Disposition | None = None
    refund_percent: Annotated[int, Field(ge=0, le=100, strict=True)] | None = None
    fee_percent: Annotated[int, Field(ge=0, le=100, strict=True)] | None = None


class RevisionIn(Input):
    """The lines account for all units that the inspection had of the lines they name."""

    lines: Annotated[tuple[RevisedIn, ...], Field(min_length=1, max_length=500)]
    reason: Reason
    occurred_at: OccurredAt


class ReopenIn(Input):
    reason: Reason
    evidence: Evidence = ()
    occurred_at: OccurredAt


class ClaimIn(Input):
    lines: Lines
    reason: ReturnReason
    evidence: Evidence = ()
    occurred_at: OccurredAt


class ResolveClaimIn(Input):
    outcome: Literal["refunded", "replaced", "rejected"]
    reason: Reason
    occurred_at: OccurredAt


class ItemIn(Input):
    """Where an item went that is none of the return's."""

    receipt_id: Id
    sku: Id
    quantity: Quantity
    how: Literal["sent_back", "stocked", "disposed"]
    reason: Reason
    occurred_at: OccurredAt


class SettleRecoveryIn(Input):
    """`written_off`: nothing is asked of the customer any more. `returned`: the goods, or the money, came back."""

    how: Literal["written_off", "returned"]
    reason: Reason
    occurred_at: OccurredAt


class ReturnLineOut(BaseModel):
    asked: ReturnLine
    units: dict[UnitStatus, int]
    stated_minor: int = Field(description="refund stated as due, before the return shipping fee")


class DueOut(BaseModel):
    due_id: str
    amount_minor: int
    is_settled: bool = Field(description="payments paid it, or what of it was still owed; or dropped it")
    is_dropped: bool = Field(description="payments will not pay it")
    paid_minor: int


class RecoveryOut(BaseModel):
    """What the customer holds and did not pay for."""

    order_id: str
    recovery_id: str
    status: RecoveryStatus
    amount_minor: int
    currency: str
    cause: str
    return_id: str | None
    shipment_id: str | None
    due_at: datetime
    is_charged_when_due: bool
    how: str | None = Field(description="how it was settled")
    approver: str | None


class ExchangeOut(BaseModel):
    exchange_id: str
    line_id: str
    sku: str
    quantity: int
    difference_minor: int
    is_difference_due: bool = Field(description="asked of the customer, and settled neither by a charge nor by hand")
    charged_minor: int
    released: int


class InspectionOut(BaseModel):
    inspection_id: str
    location: str
    lines: tuple[InspectedLine, ...]
    revisions: int


class ReturnOut(BaseModel):
    """A return with why it was decided as it was, where its units are, and the money stated for them."""

    order_id: str
    return_id: str
    status: ReturnStatus
    policy: PolicyRef | None
    requested_at: datetime
    resolution: Resolution
    note: str
    evidence: tuple[str, ...]
    verdicts: tuple[Verdict, ...]
    approver: str | None
    announced_as: str | None = Field(description="of goods that came without a return: the name they came under")
    decide_by: datetime | None = Field(description="a person decides by then, where one has to")
    expires_at: datetime | None
    closes_at: datetime | None
    lines: list[ReturnLineOut]
    tracking: tuple[str, ...]
    receipts: tuple[str, ...]
    unexpected: tuple[UnexpectedItem, ...]
    inspections: list[InspectionOut]
    dues: list[DueOut]
    return_shipping_fee_minor: int
    exchanges: list[ExchangeOut]


class ClaimOut(BaseModel):
    order_id: str
    claim_id: str
    status: ClaimStatus
    reason: ReturnReason
    units: dict[str, int]
    evidence: tuple[str, ...]
    dues: list[DueOut]


class UnitsOut(BaseModel):
    line_id: str
    delivered: int
    lost: int
    left: int | None = Field(description="units that could still be asked for; unknown until the order is known")
    buckets: dict[ReverseBucket, int]


class EvidenceOut(BaseModel):
    evidence_id: str
    about: str = Field(description="the return or the claim")
    name: str
    sha256: str
    media_type: str
    size_bytes: int
    href: str = Field(description="where the file is read")


class OrderReturnsOut(BaseModel):
    order_id: str
    policy: PolicyRef | None = Field(description="the policy in force at purchase")
    lines: list[UnitsOut]
    returns: list[ReturnOut]
    claims: list[ClaimOut]
    recoveries: list[RecoveryOut]
    files: list[EvidenceOut]


def shown_file(state: OrderReturns, evidence_id: str) -> EvidenceOut:
    file = state.files[evidence_id]
    return EvidenceOut(
        evidence_id=evidence_id,
        about=file.about,
        name=file.name,
        sha256=file.sha256,
        media_type=file.media_type,
        size_bytes=file.size_bytes,
        href=f"/orders/{state.order_id}/evidence/{evidence_id}",
    )


def _dues(dues: dict[str, Due]) -> list[DueOut]:
    return [
        DueOut(
            due_id=id,
            amount_minor=d.amount_minor,
            is_settled=d.is_settled,
            is_dropped=d.is_dropped,
            paid_minor=d.settled_minor,
        )
        for id, d in dues.items()
    ]


def _exchange(exchange_id: str, e: Exchange) -> ExchangeOut:
    return ExchangeOut(
        exchange_id=exchange_id,
        line_id=e.line_id,
        sku=e.sku,
        quantity=e.quantity,
        difference_minor=e.difference_minor,
        is_difference_due=e.due_minor > 0 and not e.is_settled,
        charged_minor=e.charged_minor,
        released=e.released,
    )


def shown_return(state: OrderReturns, one: Rma) -> ReturnOut:
    return ReturnOut(
        order_id=state.order_id,
        return_id=one.return_id,
        status=one.status,
        policy=state.policy,
        requested_at=one.requested_at,
        resolution=one.resolution,
        note=one.note,
        evidence=one.evidence,
        verdicts=one.verdicts,
        approver=one.approver,
        announced_as=one.announced_as,
        decide_by=one.decide_by if not one.is_decided else None,
        expires_at=one.expires_at,
        closes_at=one.closes_at,
        lines=[
            ReturnLineOut(asked=line.asked, units=line.units, stated_minor=line.stated.refund_minor)
            for line in one.lines.values()
        ],
        tracking=one.tracking,
        receipts=one.receipts,
        unexpected=one.unexpected,
        inspections=[
            InspectionOut(inspection_id=id, location=i.location, lines=i.lines, revisions=i.revisions)
            for id, i in one.inspections.items()
        ],
        dues=_dues(one.dues),
        return_shipping_fee_minor=one.fee_charged_minor,
        exchanges=[_exchange(id, exchange) for id, exchange in one.exchanges.items()],
    )


def shown_claim(state: OrderReturns, claim: Claim) -> ClaimOut:
    return ClaimOut(
        order_id=state.order_id,
        claim_id=claim.claim_id,
        status=claim.status,
        reason=claim.reason,
        units=claim.units,
        evidence=claim.evidence,
        dues=_dues(claim.dues),
    )


def shown_recovery(state: OrderReturns, recovery: Recovery) -> RecoveryOut:
    return RecoveryOut(
        order_id=state.order_id,
        recovery_id=recovery.recovery_id,
        status=recovery.status,
        amount_minor=recovery.amount_minor,
        currency=recovery.currency,
        cause=recovery.cause,
        return_id=recovery.return_id,
        shipment_id=recovery.shipment_id,
        due_at=recovery.due_at,
        is_charged_when_due=recovery.is_charged_when_due,
        how=recovery.how,
        approver=recovery.approver,
    )


def shown(state: OrderReturns) -> OrderReturnsOut:
    rows = [law(state, line_id) for line_id in law_lines(state)]
    bought = state.purchase.lines if state.purchase else {}
    return OrderReturnsOut(
        order_id=state.order_id,
        policy=state.policy,
        lines=[
            UnitsOut(
                line_id=row.line_id,
                delivered=row.delivered,
                lost=row.lost,
                left=left(state, row.line_id) if row.line_id in bought else None,
                buckets=row.buckets,
            )
            for row in rows
        ],
        returns=[shown_return(state, one) for one in state.returns.values()],
        claims=[shown_claim(state, claim) for claim in state.claims.values()],
        recoveries=[shown_recovery(state, recovery) for recovery in state.recoveries.values()],
        files=[shown_file(state, evidence_id) for evidence_id in state.files],
    )


NAMED_IN_PATH = frozenset({"order_id", "return_id", "claim_id", "exchange_id", "inspection_id", "recovery_id"})
Answer = Callable[[OrderReturns, Sequence[Fact]], tuple[int, BaseModel]]


async def _tell(
    by: CommandRequest, order_id: str, command: Command, at: datetime, reason: str, answer: Answer
) -> Response:
    """Tell it; what the path names and nobody knows is 404."""
    try:
        return await by.tell(ORDER_RETURNS, order_id, command, answer, reason=reason, at=at)
    except Invalid as error:
        if error.field in NAMED_IN_PATH and error.rule == "is not known":
            raise HTTPException(404, str(error)) from None
        raise


def _the(return_id: str, status: int = 200) -> Answer:
    return lambda state, _: (status, shown_return(state, state.returns[return_id]))


def _newest_return(state: OrderReturns, _: Sequence[Fact]) -> tuple[int, ReturnOut]:
    return 201, shown_return(state, list(state.returns.values())[-1])


def _newest_claim(state: OrderReturns, _: Sequence[Fact]) -> tuple[int, ClaimOut]:
    return 201, shown_claim(state, list(state.claims.values())[-1])


def _optional(lines: tuple[PartnerLine, ...] | None) -> tuple[LineQuantity, ...] | None:
    return None if lines is None else summed(lines)


@router.post("/policies", status_code=201, response_model=ReturnPolicy, tags=["policies"])
async def publish_policy(body: PolicyIn, by: Publisher) -> Response:
    """Publish the next version of a policy. It never changes; it binds orders placed from `effective_from` on."""
    policy = ReturnPolicy.model_validate(body.model_dump())

    def answer(_: Policy, facts: Sequence[Fact]) -> tuple[int, ReturnPolicy]:
        return 201 if any(isinstance(fact, PolicyPublished) for fact in facts) else 200, policy

    return await by.tell(
        POLICIES, policies.subject(policy.policy_id), PublishPolicy(policy), answer, reason="publish policy"
    )


@router.get("/policies", tags=["policies"])
async def read_policies(request: Request, _: Reader) -> list[PolicyVersionOut]:
    """Every version of every policy."""
    return [
        PolicyVersionOut(
            policy_id=policy_id,
            version=version,
            status=VersionStatus.RETIRED if retired_at else VersionStatus.PUBLISHED,
            effective_from=effective_from,
            retired_at=retired_at,
        )
        for policy_id, version, effective_from, retired_at in await list_policies(request.app.state.pool, MAX_POLICIES)
    ]


async def _policy(request: Request, policy_id: str, version: int) -> ReturnPolicy:
    policy = await find_policy(request.app.state.pool, policy_id, version)
    if policy is None:
        raise HTTPException(404, f"version {version} of policy {policy_id} is not known")
    return policy


@router.get("/policies/{policy_id}/diff", tags=["policies"])
async def read_difference(
    policy_id: Annotated[Id, Path()],
    before: Annotated[Number, Query(alias="from")],
    after: Annotated[Number, Query(alias="to")],
    request: Request,
    _: Reader,
) -> DiffOut:
    """Which fields differ between two versions, and how."""
    changes = policies.diff(await _policy(request, policy_id, before), await _policy(request, policy_id, after))
    return DiffOut(
        policy_id=policy_id,
        before=before,
        after=after,
        changes=[ChangeOut(field=c.field, before=c.before, after=c.after) for c in changes],
    )


@router.get("/policies/{policy_id}/{version}", tags=["policies"])
async def read_policy(
    policy_id: Annotated[Id, Path()], version: Annotated[Number, Path()], request: Request, _: Reader
) -> ReturnPolicy:
    """A policy at a version."""
    return await _policy(request, policy_id, version)


@router.post("/policies/{policy_id}/{version}/retire", response_model=PolicyVersionOut, tags=["policies"])
async def retire_policy(
    policy_id: Annotated[Id, Path()], version: Annotated[Number, Path()], body: RetireIn, by: Publisher
) -> Response:
    """From now on it binds no purchase; what it bound before stays bound."""
    at = business_time(body.occurred_at)
    await _policy(by.request, policy_id, version)

    def answer(state: Policy, _: Sequence[Fact]) -> tuple[int, PolicyVersionOut]:
        known = state.versions[version]
        return 200, PolicyVersionOut(
            policy_id=policy_id,
            version=version,
            status=known.status,
            effective_from=known.effective_from,
            retired_at=known.retired_at,
        )

    return await by.tell(
        POLICIES, policies.subject(policy_id), RetirePolicy(version, at), answer, reason=body.reason, at=at
    )


OrderId = Annotated[base.OrderId, Path()]
ReturnId = Annotated[Id, Path()]


@router.post("/orders/{order_id}/returns", status_code=201, response_model=ReturnOut)
async def request_return(order_id: OrderId, body: RequestReturnIn, by: Customer) -> Response:
    """Ask for units to come back. The answer is decided by the policy in force at purchase, with every reason."""
    at = business_time(body.occurred_at)
    command = RequestReturn(
        lines=tuple(ReturnLine(**line.model_dump()) for line in body.lines),
        resolution=body.resolution,
        note=body.note,
        evidence=body.evidence,
        at=at,
        membership=body.membership,
        abuse_score=body.abuse_score,
        is_by_clock=body.occurred_at is None,
    )
    return await _tell(by, order_id, command, at, body.note or "request return", _newest_return)


@router.get("/orders/{order_id}/returns")
async def read_returns(order_id: OrderId, request: Request, _: Reader) -> OrderReturnsOut:
    """All returns and claims of an order, and which reverse bucket each of its delivered units is in."""
    state = await find(request.app.state.pool, order_id)
    if state is None:
        raise HTTPException(404, f"order {order_id} is not known")
    return shown(state)


@router.post("/orders/{order_id}/returns/{return_id}/approve", response_model=ReturnOut)
async def approve(order_id: OrderId, return_id: ReturnId, body: ApproveIn, by: Reviewer) -> Response:
    """End a review in the customer's favour; units that are not named are declined."""
    at = business_time(body.occurred_at)
    command = ApproveReturn(return_id, _optional(body.lines), by.actor, at, body.resolution)
    return await _tell(by, order_id, command, at, body.note or "approve", _the(return_id))


@router.post("/orders/{order_id}/returns/{return_id}/decline", response_model=ReturnOut)
async def decline(order_id: OrderId, return_id: ReturnId, body: ReasonIn, by: Reviewer) -> Response:
    """End a review against the customer."""
    at = business_time(body.occurred_at)
    command = DeclineReturn(return_id, body.reason, at)
    return await _tell(by, order_id, command, at, body.reason, _the(return_id))


@router.post("/orders/{order_id}/returns/{return_id}/exception", response_model=ReturnOut)
async def grant_exception(order_id: OrderId, return_id: ReturnId, body: ExceptionIn, by: Approver) -> Response:
    """Set the policy aside, by name and for a reason."""
    at = business_time(body.occurred_at)
    command = GrantException(return_id, _optional(body.lines), by.actor, body.reason, at)
    return await _tell(by, order_id, command, at, body.reason, _the(return_id))


@router.post("/orders/{order_id}/returns/{return_id}/cancel", response_model=ReturnOut)
async def cancel(order_id: OrderId, return_id: ReturnId, body: ReasonIn, by: Customer) -> Response:
    """Call it off while nothing was received and nothing was paid."""
    at = business_time(body.occurred_at)
    command = CancelReturn(return_id, body.reason, at)
    return await _tell(by, order_id, command, at, body.reason, _the(return_id))


@router.post("/orders/{order_id}/returns/{return_id}/labels", status_code=201, response_model=ReturnOut)
async def issue_label(order_id: OrderId, return_id: ReturnId, body: LabelIn, by: Customer) -> Response:
    """Note the label that the customer was given."""
    at = business_time(body.occurred_at)
    command = IssueLabel(return_id, body.carrier, body.tracking, at)
    return await _tell(by, order_id, command, at, "issue label", _the(return_id, 201))


class Recorded(BaseModel):
    """It is recorded, and no return of the order has it: the order is not known yet, or nothing could be made of it."""

    recorded: Literal[True] = True


RECORDED: dict[int | str, dict[str, Any]] = {202: {"model": Recorded, "description": Recorded.__doc__}}


def _observed(return_id: str) -> Answer:
    """The return that was named; else the one that took the goods."""

    def answer(state: OrderReturns, facts: Sequence[Fact]) -> tuple[int, BaseModel]:
        named = [one for one in state.returns.values() if return_id in (one.return_id, one.announced_as)]
        one = state.returns.get(return_id) or (named[-1] if named else None)
        return (202, Recorded()) if one is None else (201, shown_return(state, one))

    return answer


@router.post(
    "/orders/{order_id}/returns/{return_id}/receipts", status_code=201, response_model=ReturnOut, responses=RECORDED
)
async def receive(order_id: OrderId, return_id: ReturnId, body: ReceiptIn, by: Receiver) -> Response:
    """A parcel arrived. The same `receipt_id` again changes nothing; what no return expects waits for a person."""
    at = observed_time(body.occurred_at)
    command = ReceiveParcel(return_id, body.receipt_id, body.location, reported(body.lines), body.unexpected, at)
    return await _tell(by, order_id, command, at, "receive parcel", _observed(return_id))


@router.post(
    "/orders/{order_id}/returns/{return_id}/inspections", status_code=201, response_model=ReturnOut, responses=RECORDED
)
async def inspect(order_id: OrderId, return_id: ReturnId, body: InspectionIn, by: Receiver) -> Response:
    """What was found. Disposition, refund and fee follow from the policy's table."""
    at = observed_time(body.occurred_at)
    command = InspectItems(return_id, body.inspection_id, body.location, body.lines, at)
    return await _tell(by, order_id, command, at, "inspect", _observed(return_id))


@router.post(
    "/orders/{order_id}/returns/{return_id}/inspections/{inspection_id}/revisions",
    status_code=201,
    response_model=ReturnOut,
)
async def revise(
    order_id: OrderId, return_id: ReturnId, inspection_id: Annotated[Id, Path()], body: RevisionIn, by: Receiver
) -> Response:
    """Look again, while the return is not closed. What it pays too much by then is to be recovered."""
    at = business_time(body.occurred_at)
    by_hand = any(
        (line.disposition, line.refund_percent, line.fee_percent) != (None, None, None) for line in body.lines
    )
    if by_hand and Role.SUPERVISOR not in by.caller.roles:
        raise HTTPException(403, "needs the role supervisor to say otherwise than the policy's table")
    lines = tuple(RevisedUnits(**line.model_dump()) for line in body.lines)
    command = ReviseInspection(return_id, inspection_id, lines, at)
    return await _tell(by, order_id, command, at, body.reason, _the(return_id, 201))


@router.post("/orders/{order_id}/returns/{return_id}/exchanges/{exchange_id}/release", response_model=ReturnOut)
async def release_exchange(
    order_id: OrderId, return_id: ReturnId, exchange_id: Annotated[Id, Path()], body: ReasonIn, by: Reviewer
) -> Response:
    """What the customer owes for it is settled otherwise than by a charge: a replacement that waits for it may leave."""
    at = business_time(body.occurred_at)
    command = SettleDifference(return_id, exchange_id, at)
    return await _tell(by, order_id, command, at, body.reason, _the(return_id))


@router.post("/orders/{order_id}/returns/{return_id}/close", response_model=ReturnOut)
async def close(order_id: OrderId, return_id: ReturnId, body: ReasonIn, by: Reviewer) -> Response:
    """Close a resolved return before its time; a supervisor closes any return that is not at its end."""
    at = business_time(body.occurred_at)
    approver = by.actor if Role.SUPERVISOR in by.caller.roles else None
    command = CloseReturn(return_id, at, approver, body.reason)
    return await _tell(by, order_id, command, at, body.reason, _the(return_id))


@router.post("/orders/{order_id}/returns/{return_id}/reopen", response_model=ReturnOut)
async def reopen(order_id: OrderId, return_id: ReturnId, body: ReopenIn, by: Reviewer) -> Response:
    """New evidence: look at a closed return again."""
    at = business_time(body.occurred_at)
    command = ReopenReturn(return_id, body.reason, body.evidence, at)
    return await _tell(by, order_id, command, at, body.reason, _the(return_id))


@router.post("/orders/{order_id}/claims", status_code=201, response_model=ClaimOut)
async def open_claim(order_id: OrderId, body: ClaimIn, by: Customer) -> Response:
    """Units were lost, wrong, damaged or defective: to be made good without a parcel coming back first."""
    at = business_time(body.occurred_at)
    command = OpenClaim(summed(body.lines), body.reason, body.evidence, at)
    return await _tell(by, order_id, command, at, "open claim", _newest_claim)


@router.post("/orders/{order_id}/claims/{claim_id}/resolve", response_model=ClaimOut)
async def resolve_claim(
    order_id: OrderId, claim_id: Annotated[Id, Path()], body: ResolveClaimIn, by: Reviewer
) -> Response:
    """Refund, replace or reject: one of them, once."""
    at = business_time(body.occurred_at)
    command = ResolveClaim(claim_id, body.outcome, body.reason, at)
    return await _tell(
        by,
        order_id,
        command,
        at,
        body.reason,
        lambda state, _: (200, shown_claim(state, state.claims[claim_id])),
    )


@router.post("/orders/{order_id}/returns/{return_id}/unexpected", response_model=ReturnOut)
async def settle_item(order_id: OrderId, return_id: ReturnId, body: ItemIn, by: Reviewer) -> Response:
    """Say where an item went that was in the parcel and is none of the return's."""
    at = business_time(body.occurred_at)
    command = SettleItem(return_id, body.receipt_id, body.sku, body.quantity, body.how, by.actor, body.reason, at)
    return await _tell(by, order_id, command, at, body.reason, _the(return_id))


RecoveryId = Annotated[Id, Path()]


def _the_recovery(recovery_id: str) -> Answer:
    return lambda state, _: (200, shown_recovery(state, state.recoveries[recovery_id]))


@router.post("/orders/{order_id}/recoveries/{recovery_id}/charge", response_model=RecoveryOut)
async def charge_recovery(order_id: OrderId, recovery_id: RecoveryId, body: ReasonIn, by: Approver) -> Response:
    """Charge what the customer holds and did not pay for to a tender of the order; again where that failed."""
    at = business_time(body.occurred_at)
    command = ChargeRecovery(recovery_id, at, by.actor, body.reason)
    return await _tell(by, order_id, command, at, body.reason, _the_recovery(recovery_id))


@router.post("/orders/{order_id}/recoveries/{recovery_id}/settle", response_model=RecoveryOut)
async def settle_recovery(order_id: OrderId, recovery_id: RecoveryId, body: SettleRecoveryIn, by: Approver) -> Response:
    """End it without a charge: written off, or what was owed came back."""
    at = business_time(body.occurred_at)
    command = SettleRecovery(recovery_id, body.how, by.actor, body.reason, at)
    return await _tell(by, order_id, command, at, body.reason, _the_recovery(recovery_id))


MULTIPART: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["about", "file"],
                    "properties": {
                        "about": {
                            "type": "string",
                            "description": "the return or the claim that it shows something of",
                        },
                        "file": {"type": "string", "format": "binary", "description": "PNG, JPEG, GIF, WebP or PDF"},
                    },
                }
            }
        },
    }
}
_ID: Final = TypeAdapter(Id)
_NAME: Final = TypeAdapter(Name)


def uploads(scope: Scope) -> int | None:
    """A file of evidence may be larger than other requests; the rest of its form is small."""
    if scope["method"] == "POST" and scope["path"].endswith("/evidence"):
        most: int = scope["app"].state.settings.evidence_bytes
        return most + 16_384
    return None


def evidence_form(content_type: str, body: bytes) -> tuple[str, str, bytes]:
    """(about, file name, content). Raises Invalid, by the name of the part."""
    if not content_type.startswith("multipart/form-data"):
        raise Invalid("Content-Type", "must be multipart/form-data")
    message = BytesParser(policy=HTTP).parsebytes(b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body)
    parts: dict[str, Form] = {}
    for part in message.iter_parts() if message.is_multipart() else ():
        name = part.get_param("name", header="content-disposition")
        if name in parts:
            raise Invalid(str(name), "is given twice")
        parts[str(name)] = part
    if unknown := sorted(set(parts) - {"about", "file"}):
        raise Invalid(unknown[0], "is not known")
    for needed in ("about", "file"):
        if needed not in parts:
            raise Invalid(needed, "is required")
    about = parts["about"].get_payload(decode=True)
    content = parts["file"].get_payload(decode=True)
    assert isinstance(about, bytes) and isinstance(content, bytes)
    try:
        id = _ID.validate_python(about.decode().strip())
    except ValueError:
        raise Invalid("about", "must be the id of a return or a claim") from None
    try:
        name = _NAME.validate_python((parts["file"].get_filename() or "evidence").rpartition("/")[2])
    except ValueError:
        raise Invalid("file", "its name must have 1 to 200 characters, and no control characters") from None
    return id, name, content


@router.post("/orders/{order_id}/evidence", status_code=201, response_model=EvidenceOut, openapi_extra=MULTIPART)
async def attach_evidence(order_id: OrderId, by: Customer) -> Response:
    """A photo or a document that shows what the customer says. What it is, its content says, and not its name."""
    request = by.request
    body = await request.body()
    about, name, content = evidence_form(request.headers.get("content-type", ""), body)
    settings: ReturnsSettings = request.app.state.settings
    if len(content) > settings.evidence_bytes:
        raise HTTPException(413, f"file: must not be larger than {settings.evidence_bytes} bytes")
    kind = media_type(content)
    if kind is None:
        raise Invalid("file", "must be a PNG, JPEG, GIF or WebP image, or a PDF")
    pool = request.app.state.pool
    state = await find(pool, order_id)
    if state is None:
        raise HTTPException(404, f"order {order_id} is not known")
    digest = sha256(content).hexdigest()
    at = business_time(None)
    command = AttachEvidence(about, name, digest, kind, len(content), settings.evidence_files, at)
    if about in state.returns or about in state.claims:
        await store_evidence(pool, order_id, digest, kind, content)

    def answer(state: OrderReturns, _: Sequence[Fact]) -> tuple[int, EvidenceOut]:
        found = (id for id, file in state.files.items() if (file.about, file.sha256) == (about, digest))
        return 201, shown_file(state, next(found))

    return await _tell(by, order_id, command, at, "attach evidence", answer)


@router.get("/orders/{order_id}/evidence/{evidence_id}", response_class=Response)
async def read_evidence(
    order_id: OrderId, evidence_id: Annotated[Id, Path()], request: Request, _: EvidenceReader
) -> Response:
    """The file itself. A browser saves it and runs nothing of it."""
    pool = request.app.state.pool
    state = await find(pool, order_id)
    file = state.files.get(evidence_id) if state else None
    found = await find_evidence(pool, order_id, file.sha256) if file else None
    if file is None or found is None:
        raise HTTPException(404, f"evidence {evidence_id} of order {order_id} is not known")
    kind, content = found
    headers = {
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(file.name, safe='')}",
        "Cache-Control": "private, max-age=31536000, immutable",
        "ETag": f'"{file.sha256}"',
    }
    return Response(content, media_type=kind, headers=headers)


class Accepted(BaseModel):
    """The scan has had its effect, now or before."""

    accepted: Literal[True] = True


@router.post("/webhooks/carrier")
async def carrier(
    body: Annotated[SignedBody, signed(lambda settings: settings.carrier_webhook_secret.get_secret_value())],
    commands: Commands,
) -> Accepted:
    """A scan of a customer's parcel on its way back; of whatever return, it is recorded."""
    scan = read_signed(ReturnScan, body)
    at = observed_time(scan.occurred_at)
    message: Message[Command] = Message(
        scan.order_id,
        RecordScan(scan.return_id, scan.tracking, at),
        webhook_cause("carrier", body.id, at, "carrier scan"),
    )
    [refused] = await commands.process(ORDER_RETURNS, [message])
    if refused is not None:
        raise refused
    return Accepted()
