"""The HTTP API of payments: an order's payments and refunds, the processor's signed webhook, refund policies, and the
reconciliation."""

from collections.abc import Callable, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Annotated, Any, Final, Self

from fastapi import APIRouter, Depends, HTTPException, Path, Query, Request, Response
from pydantic import AfterValidator, BaseModel, Field, model_validator
from stdnum import iban
from stdnum.exceptions import ValidationError as StdnumError

from payments.domain import payout
from payments.domain.charge import ChargeStatus
from payments.domain.decide import Command, RetryCaptures, RetryCharge
from payments.domain.operation import Operation, OperationStatus
from payments.domain.payout import ApproveRefund, Asked, CancelRefund, RejectRefund, RequestRefund, RerouteRefund
from payments.domain.policy import Policy
from payments.domain.refund import ApprovalPolicy, Refund, RefundStatus
from payments.domain.routing import RoutingPolicy
from payments.domain.state import Account
from payments.domain.tender import DisputeStatus, TenderStatus
from payments.gateway import Notice, Unanswered
from payments.notices import hear
from payments.reconciliation import Report, held_against
from payments.store import (
    PAYMENTS,
    all_policies,
    find,
    is_known,
    keep_account,
    kept_notices,
    orders_after,
    publish,
    settle_notice,
)
from shared.contracts import base
from shared.contracts.base import EachLineOnce, Fact, Id, Input, PolicyRef, TenderKind, Text
from shared.contracts.payments import (
    OperationKind,
    PayoutAccount,
    RefundApprovalRequired,
    RefundAttentionNeeded,
    RefundChannel,
    RefundKind,
    RefundLeg,
    RefundLine,
    RefundRequested,
    RefundRouted,
    TenderExcluded,
)
from shared.core.machine import Invalid
from shared.core.money import ActiveCurrency, Minor
from shared.messaging.envelope import observed_time
from shared.web.auth import Caller, Role
from shared.web.callers import needs
from shared.web.commands import CommandRequest, Commands, OccurredAt, asks, business_time
from shared.web.webhooks import SignedBody, read_signed, signed

router = APIRouter(tags=["payments"])

MAX_LINES: Final = 200

Reason = Annotated[Text, Field(min_length=1)]
OrderId = Annotated[base.OrderId, Path()]
Part = Annotated[int, Field(ge=0, le=100_000, strict=True)]


class LineIn(Input):
    """It is money of a line. `quantity` is 0: refunds of units are stated by the return or the claim."""

    line_id: Id
    quantity: Part = 0
    amount_minor: Minor


def _iban(text: str) -> str:
    try:
        return str(iban.validate(text))
    except StdnumError:
        raise ValueError("must be an IBAN: two letters of its country, two check digits, then the account") from None


class AccountIn(Input):
    """It says where a bank transfer goes to: an IBAN, or the reference by which the partner who pays it knows the payee."""

    iban: Annotated[str, Field(max_length=50), AfterValidator(_iban)] | None = None
    reference: Id | None = None

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if (self.iban is None) == (self.reference is None):
            raise ValueError("must have either iban or reference")
        return self

    @property
    def number(self) -> str:
        return self.iban or self.reference or ""

    def of_order(self, order_id: str) -> PayoutAccount:
        """Its id is the same for the same number of the same order; shown are country and last digits alone."""
        id = f"acc-{sha256(f'{order_id} {self.number}'.encode()).hexdigest()[:24]}"
        return PayoutAccount(account_id=id, masked=f"{self.iban[:2] if self.iban else ''}…{self.number[-4:]}")


class RefundIn(Input):
    """It names `lines`, or an amount for the order as a whole.

    Refunds of returns and of lost units are stated by the return or the claim, and not asked for.
    """

    kind: RefundKind
    currency: ActiveCurrency
    lines: Annotated[tuple[LineIn, ...], Field(max_length=MAX_LINES), EachLineOnce] = ()
    amount_minor: Minor | None = None
    reason: Reason
    cause_id: Id | None = Field(default=None, description="what makes it due; one refund per cause")
    channel: RefundChannel = Field(default=RefundChannel.ORIGINAL, description="where the customer wants it")
    consents: Annotated[tuple[RefundChannel, ...], Field(max_length=3)] = Field(
        default=(), description="fallbacks the customer agrees to"
    )
    account: AccountIn | None = Field(default=None, description="required for a bank transfer")
    occurred_at: OccurredAt


class ReasonIn(Input):
    reason: Reason
    occurred_at: OccurredAt


class RejectIn(Input):
    reason_code: Id
    reason: Reason
    occurred_at: OccurredAt


class RerouteIn(Input):
    """It says where the customer wants what is outstanding."""

    channel: RefundChannel
    account: AccountIn | None = Field(default=None, description="required for a bank transfer, unless it is known")
    reason: Reason
    occurred_at: OccurredAt


class PublishRouting(Input):
    policy: RoutingPolicy
    reason: Reason


class PublishApproval(Input):
    policy: ApprovalPolicy
    reason: Reason


class TenderOut(BaseModel):
    tender_id: str
    kind: TenderKind
    status: TenderStatus
    dispute: DisputeStatus
    amount_minor: int = Field(description="what the order wants of it")
    authorized_minor: int
    captured_minor: int
    voided_minor: int
    refunded_minor: int
    refunding_minor: int
    disputed_minor: int
    refundable_minor: int
    expires_at: datetime | None
    exchange_id: str | None = Field(description="the exchange this charges for; none: the order itself")
    charged_tender_id: str | None = Field(description="whose card, wallet or account a charge goes to")


class ChargeOut(BaseModel):
    exchange_id: str
    return_id: str
    amount_minor: int
    status: ChargeStatus


class OperationOut(BaseModel):
    operation_id: str
    kind: OperationKind
    tender_id: str
    status: OperationStatus
    amount_minor: int
    requested_at: datetime
    final: bool
    shipment_id: str | None
    reference: str | None
    code: str | None


class LegOut(BaseModel):
    leg_id: str
    tender_id: str
    channel: RefundChannel
    amount_minor: int
    status: OperationStatus
    reference: str | None
    code: str | None


class RefundOut(BaseModel):
    order_id: str
    refund_id: str
    kind: RefundKind
    status: RefundStatus
    cause_id: str
    return_id: str | None
    amount_minor: int
    paid_minor: int
    paying_minor: int
    currency: str
    lines: list[RefundLine]
    channel: RefundChannel
    consents: list[RefundChannel]
    account: str | None = Field(description="where a bank transfer goes to, masked")
    requester: str
    approver: str | None
    trigger_at: datetime
    promised_at: datetime | None
    legs: list[LegOut]


class PaymentsOut(BaseModel):
    """An order's money: what it is worth, what was taken and given back, tender by tender."""

    order_id: str
    currency: str
    total_minor: int
    worth_minor: int = Field(description="the total less what was cancelled")
    handed_over_minor: int = Field(description="the value of what was handed over")
    authorized_minor: int
    captured_minor: int
    capturing_minor: int
    refunded_minor: int
    refunding_minor: int
    refundable_minor: int
    tenders: list[TenderOut]
    operations: list[OperationOut]
    refunds: list[RefundOut]
    charges: list[ChargeOut] = Field(description="what exchanges cost more, beside the order's worth")


class PreviewOut(BaseModel):
    """It says what a refund would come to; nothing was stored."""

    amount_minor: int
    currency: str
    lines: list[RefundLine]
    approval_reasons: list[str] = Field(description="why it needs an approval; empty when it needs none")
    legs: list[RefundLeg]
    excluded: list[TenderExcluded]
    promised_at: datetime | None
    obstacle: str | None = Field(description="why it could not be paid out, as a code")
    policies: list[PolicyRef]


def _leg(operation: Operation) -> LegOut:
    return LegOut(
        leg_id=operation.id,
        tender_id=operation.tender_id,
        channel=operation.channel or RefundChannel.ORIGINAL,
        amount_minor=operation.amount_minor,
        status=operation.status,
        reference=operation.reference,
        code=operation.code,
    )


def _refund(state: Account, refund: Refund) -> RefundOut:
    return RefundOut(
        order_id=state.order_id,
        refund_id=refund.id,
        kind=refund.kind,
        status=refund.status,
        cause_id=refund.cause_id,
        return_id=refund.return_id,
        amount_minor=refund.amount_minor,
        paid_minor=state.paid_out_minor(refund),
        paying_minor=state.paying_out_minor(refund),
        currency=refund.currency,
        lines=list(refund.lines),
        channel=refund.channel,
        consents=list(refund.consents),
        account=refund.account.masked if refund.account else None,
        requester=refund.requester,
        approver=refund.approver,
        trigger_at=refund.trigger_at,
        promised_at=refund.promised_at,
        legs=[_leg(state.operations[id]) for id in refund.legs],
    )


def shown(state: Account) -> PaymentsOut:
    return PaymentsOut(
        order_id=state.order_id,
        currency=state.currency,
        total_minor=state.total_minor,
        worth_minor=state.worth_minor,
        handed_over_minor=state.handed_over_minor,
        authorized_minor=sum(t.authorized_minor for t in state.tenders.values()),
        captured_minor=state.captured_minor,
        capturing_minor=state.capturing_minor(),
        refunded_minor=state.refunded_minor(),
        refunding_minor=state.refunding_minor(),
        refundable_minor=state.refundable_minor,
        tenders=[
            TenderOut(
                tender_id=t.id,
                kind=t.kind,
                status=t.status,
                dispute=t.dispute,
                amount_minor=t.amount_minor,
                authorized_minor=t.authorized_minor,
                captured_minor=t.captured_minor,
                voided_minor=t.voided_minor,
                refunded_minor=state.refunded_minor(t.id),
                refunding_minor=state.refunding_minor(t.id),
                disputed_minor=state.held_minor(t),
                refundable_minor=0 if t.is_disputed else state.left_minor(t),
                expires_at=t.current.expires_at if t.authorizations else None,
                exchange_id=t.exchange_id,
                charged_tender_id=t.charged_tender_id,
            )
            for t in state.tenders.values()
        ],
        operations=[
            OperationOut(
                operation_id=o.id,
                kind=o.kind,
                tender_id=o.tender_id,
                status=o.status,
                amount_minor=o.amount_minor,
                requested_at=o.requested_at,
                final=o.final,
                shipment_id=o.shipment_id,
                reference=o.reference,
                code=o.code,
            )
            for o in state.operations.values()
        ],
        refunds=[_refund(state, r) for r in state.refunds.values()],
        charges=[
            ChargeOut(exchange_id=c.exchange_id, return_id=c.return_id, amount_minor=c.amount_minor, status=c.status)
            for c in state.charges.values()
        ],
    )


async def _known(request: Request, order_id: OrderId) -> str:
    if not await is_known(request.app.state.pool, order_id):
        raise HTTPException(404, f"order {order_id} is not known")
    return order_id


KnownOrder = Annotated[str, Depends(_known)]


async def _known_refund(request: Request, order_id: KnownOrder, refund_id: Annotated[Id, Path()]) -> str:
    if not await is_known(request.app.state.pool, order_id, refund_id):
        raise HTTPException(404, f"refund {refund_id} is not known")
    return refund_id


KnownRefund = Annotated[str, Depends(_known_refund)]
Reader = Annotated[Caller, needs(*Role)]
Previewer = Annotated[Caller, needs(Role.AGENT, Role.SUPERVISOR)]
Asker = Annotated[CommandRequest, asks(Role.AGENT, Role.SUPERVISOR)]
Approver = Annotated[CommandRequest, asks(Role.SUPERVISOR)]
Publisher = Annotated[Caller, needs(Role.OPERATOR, Role.SUPERVISOR)]
Operator = Annotated[CommandRequest, asks(Role.OPERATOR, Role.SUPERVISOR)]
Auditor = Annotated[Caller, needs(Role.OPERATOR, Role.SUPERVISOR, Role.AUDITOR)]


def _of_refund(refund_id: str) -> Callable[[Account, Sequence[Fact]], tuple[int, BaseModel]]:
    return lambda state, _: (200, _refund(state, state.refunds[refund_id]))


async def _kept(request: Request, order_id: str, account: AccountIn | None) -> PayoutAccount | None:
    """Store the number before the refund that names it: the number of a refused refund belongs to nobody."""
    if account is None:
        return None
    of_order = account.of_order(order_id)
    kind = "iban" if account.iban else "reference"
    await keep_account(request.app.state.pool, of_order.account_id, order_id, kind, account.number)
    return of_order


def _asked(body: RefundIn, who: Caller, account: PayoutAccount | None) -> RequestRefund:
    return RequestRefund(
        kind=body.kind,
        lines=tuple(Asked(n.line_id, n.quantity, n.amount_minor) for n in body.lines),
        amount_minor=body.amount_minor,
        currency=body.currency,
        requester=who.actor,
        at=business_time(body.occurred_at),
        cause_id=body.cause_id,
        channel=body.channel,
        consents=body.consents,
        account=account,
    )


@router.get("/orders/{order_id}/payments", response_model=PaymentsOut)
async def read_payments(order_id: OrderId, request: Request, _: Reader) -> Response:
    """The order's money as it is now. The ETag is its version."""
    found = await find(request.app.state.pool, order_id)
    if found is None:
        raise HTTPException(404, f"order {order_id} is not known")
    state, version = found
    return Response(shown(state).model_dump_json(), media_type="application/json", headers={"ETag": f'"{version}"'})


@router.post("/orders/{order_id}/captures", status_code=202, response_model=PaymentsOut)
async def retry_captures(order_id: KnownOrder, body: ReasonIn, by: Operator) -> Response:
    """Ask once more for what was handed over and declined."""
    at = business_time(body.occurred_at)
    return await by.tell(
        PAYMENTS, order_id, RetryCaptures(at), lambda state, _: (202, shown(state)), reason=body.reason, at=at
    )


@router.post("/orders/{order_id}/charges/{exchange_id}/retry", status_code=202, response_model=PaymentsOut)
async def retry_charge(order_id: KnownOrder, exchange_id: Annotated[Id, Path()], body: ReasonIn, by: Asker) -> Response:
    """Ask once more for what an exchange costs more, where the charge had failed."""
    at = business_time(body.occurred_at)
    command = RetryCharge(exchange_id, at)
    return await by.tell(PAYMENTS, order_id, command, lambda state, _: (202, shown(state)), reason=body.reason, at=at)


@router.post("/orders/{order_id}/refunds", status_code=201, response_model=RefundOut)
async def request_refund(order_id: KnownOrder, body: RefundIn, request: Request, by: Asker) -> Response:
    """Ask for a refund. Below the policy's threshold it is approved and routed at once."""
    command = _asked(body, by.caller, await _kept(request, order_id, body.account))

    def answer(state: Account, facts: Sequence[Fact]) -> tuple[int, BaseModel]:
        [requested] = [f for f in facts if isinstance(f, RefundRequested)]
        return 201, _refund(state, state.refunds[requested.refund_id])

    return await by.tell(PAYMENTS, order_id, command, answer, reason=body.reason, at=command.at)


@router.post("/orders/{order_id}/refunds/preview")
async def preview_refund(order_id: KnownOrder, body: RefundIn, request: Request, who: Previewer) -> PreviewOut:
    """What the refund would come to, with its approval and its route; nothing is stored."""
    found = await find(request.app.state.pool, order_id)
    policies = await all_policies(request.app.state.pool)
    if found is None or not found[0].is_open:
        raise HTTPException(404, f"order {order_id} is not known")
    state, _ = found
    account = body.account.of_order(order_id) if body.account else None
    facts = payout.preview(state, _asked(body, who, account), policies)
    [requested] = [f for f in facts if isinstance(f, RefundRequested)]
    required = [f for f in facts if isinstance(f, RefundApprovalRequired)]
    routed = [f for f in facts if isinstance(f, RefundRouted)]
    stuck = [f for f in facts if isinstance(f, RefundAttentionNeeded)]
    return PreviewOut(
        amount_minor=requested.amount_minor,
        currency=requested.currency,
        lines=list(requested.lines),
        approval_reasons=[reason for f in required for reason in f.reasons],
        legs=[leg for f in routed for leg in f.legs],
        excluded=[tender for f in routed for tender in f.excluded],
        promised_at=routed[0].promised_at if routed else None,
        obstacle=stuck[0].reason_code if stuck else None,
        policies=[*(f.policy for f in required), *(f.policy for f in routed)],
    )


async def _told(
    by: CommandRequest, order_id: str, refund_id: str, command: Command, reason: str, at: datetime
) -> Response:
    return await by.tell(PAYMENTS, order_id, command, _of_refund(refund_id), reason=reason, at=at)


@router.post("/orders/{order_id}/refunds/{refund_id}/approve", response_model=RefundOut)
async def approve_refund(order_id: KnownOrder, refund_id: KnownRefund, body: ReasonIn, by: Approver) -> Response:
    """Approve another person's refund: its money is reserved and routed at once."""
    at = business_time(body.occurred_at)
    command = ApproveRefund(refund_id, by.actor, at)
    return await _told(by, order_id, refund_id, command, body.reason, at)


@router.post("/orders/{order_id}/refunds/{refund_id}/reject", response_model=RefundOut)
async def reject_refund(order_id: KnownOrder, refund_id: KnownRefund, body: RejectIn, by: Approver) -> Response:
    at = business_time(body.occurred_at)
    command = RejectRefund(refund_id, body.reason_code, body.reason, at)
    return await _told(by, order_id, refund_id, command, body.reason, at)


@router.post("/orders/{order_id}/refunds/{refund_id}/cancel", response_model=RefundOut)
async def cancel_refund(order_id: KnownOrder, refund_id: KnownRefund, body: ReasonIn, by: Asker) -> Response:
    """Withdraw a refund, or give up what could not be paid of it; only while no leg of it may be on its way."""
    at = business_time(body.occurred_at)
    command = CancelRefund(refund_id, body.reason, at)
    return await _told(by, order_id, refund_id, command, body.reason, at)


@router.post("/orders/{order_id}/refunds/{refund_id}/reroute", response_model=RefundOut)
async def reroute_refund(
    order_id: KnownOrder, refund_id: KnownRefund, body: RerouteIn, request: Request, by: Approver
) -> Response:
    """Send what is outstanding of a refund that is stuck another way, which the customer has agreed to."""
    at = business_time(body.occurred_at)
    command = RerouteRefund(refund_id, body.channel, at, await _kept(request, order_id, body.account))
    return await _told(by, order_id, refund_id, command, body.reason, at)


def _secret(settings: Any) -> str:
    secret: str = settings.processor_webhook_secret.get_secret_value()
    return secret


@router.post("/webhooks/processor", status_code=204)
async def hear_processor(
    request: Request, commands: Commands, signed_body: Annotated[SignedBody, signed(_secret)]
) -> None:
    """A notice of the processor, signed. Each has one effect, however often and in whatever order it comes.

    What has happened is never refused: a notice that fits no order here is kept, tried again and shown.
    """
    notice = read_signed(Notice, signed_body)
    notice = notice.model_copy(update={"occurred_at": observed_time(notice.occurred_at)})
    try:
        await hear(
            request.app.state.pool,
            commands,
            request.app.state.processor,
            notice,
            signed_body.id,
            signed_body.body.decode(),
        )
    except Unanswered as error:
        detail = f"the processor did not say how long the authorization lasts: {error}"
        raise HTTPException(503, detail, {"Retry-After": "5"}) from None


class NoticeOut(BaseModel):
    """A notice of the provider that fits no order here, or that our books contradict. It is tried again by itself."""

    notice_id: str
    type: str
    order_id: str
    occurred_at: datetime
    received_at: datetime
    reason: str = Field(description="what it does not fit, in words")
    attempts: int
    body: str


@router.get("/provider-notices", tags=["reconciliation"])
async def provider_notices(
    request: Request, _: Auditor, limit: Annotated[int, Query(ge=1, le=1000)] = 100
) -> list[NoticeOut]:
    """Those that are open, the oldest first."""
    return [NoticeOut.model_validate(row) for row in await kept_notices(request.app.state.pool, limit)]


@router.post("/provider-notices/{notice_id}/settle", status_code=204, tags=["reconciliation"])
async def settle_provider_notice(
    notice_id: Annotated[str, Path(max_length=200)], body: ReasonIn, request: Request, who: Publisher
) -> None:
    """A person has seen to it: it is not tried again."""
    if not await settle_notice(request.app.state.pool, notice_id, who.actor, body.reason):
        raise HTTPException(404, f"notice {notice_id} is not open")


@router.get("/routing-policies", tags=["policies"])
async def routing_policies(request: Request, _: Reader) -> list[RoutingPolicy]:
    """Every version; the one in force at purchase binds an order."""
    return list((await all_policies(request.app.state.pool)).routing)


@router.post("/routing-policies", status_code=201, tags=["policies"])
async def publish_routing_policy(
    body: PublishRouting, request: Request, response: Response, who: Publisher
) -> RoutingPolicy:
    """Publish the next version. Publishing the same one again changes nothing; a published one never changes."""
    known = (await all_policies(request.app.state.pool)).routing
    await _publish(request, response, known, body.policy, who, body.reason)
    return body.policy


@router.get("/approval-policies", tags=["policies"])
async def approval_policies(request: Request, _: Reader) -> list[ApprovalPolicy]:
    """Every version; the one in force when a refund is asked for binds it."""
    return list((await all_policies(request.app.state.pool)).approval)


@router.post("/approval-policies", status_code=201, tags=["policies"])
async def publish_approval_policy(
    body: PublishApproval, request: Request, response: Response, who: Publisher
) -> ApprovalPolicy:
    """Publish the next version. Publishing the same one again changes nothing; a published one never changes."""
    known = (await all_policies(request.app.state.pool)).approval
    await _publish(request, response, known, body.policy, who, body.reason)
    return body.policy


async def _publish(
    request: Request, response: Response, known: Sequence[Policy], policy: Policy, who: Caller, reason: str
) -> None:
    newest = max(known, key=lambda p: p.version)
    if policy.version > newest.version + 1:
        raise Invalid("policy.version", f"must be {newest.version + 1}, the next")
    if policy.version > newest.version and policy.effective_from <= newest.effective_from:
        raise Invalid("policy.effective_from", "must be later than that of the version before")
    try:
        is_new = await publish(request.app.state.pool, policy, who.actor, reason)
    except ValueError as error:
        raise Invalid("policy.version", str(error)) from None
    if not is_new:
        response.status_code = 200


@router.get("/reconciliation", tags=["reconciliation"])
async def reconcile(
    request: Request,
    _: Auditor,
    after: Annotated[str, Query(max_length=64, pattern=r"^[A-Za-z0-9._:@-]*$")] = "",
    limit: Annotated[int, Query(ge=1, le=200)] = 100,
    order: Annotated[list[Id] | None, Query(max_length=200, description="only these, instead of all")] = None,
) -> Report:
    """Hold a page of orders against the processor's books. What seems to differ is read again before it is told."""
    pool = request.app.state.pool
    orders = order or await orders_after(pool, after, limit)
    try:
        found = await held_against(pool, request.app.state.processor, orders)
    except Unanswered as error:
        raise HTTPException(503, f"the processor did not show its books: {error}", {"Retry-After": "5"}) from None
    return Report(
        orders=len(orders),
        operations=found.operations,
        under_way=found.under_way,
        drift=list(found.drift),
        next=orders[-1] if not order and len(orders) == limit else None,
    )
