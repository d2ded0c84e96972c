"""The card processor over HTTP: bearer key, an Idempotency-Key on every call that moves money, faults by test token."""

import asyncio
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from sqlite3 import Connection
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Path, Query, Response
from fastapi import Request as Incoming
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import AfterValidator, AwareDatetime, Field

from sandbox import books
from sandbox.books import Authorization, CurrencyTotals, Dispute, DisputeOutcome, Operation, Pace, Request, Terms
from sandbox.faults import FAULTS, GOOD, Kind
from sandbox.ledger import AtLedger
from sandbox.notices import Notice, Receiver, notices_about, release
from sandbox.settings import Chosen
from shared.contracts.base import Id, Input, Model, TenderKind, Text
from shared.core.money import MAX_MINOR, Currency
from shared.web.commands import IdempotencyKey
from shared.web.problems import Problem


def _utc(instant: datetime) -> datetime:
    try:
        return instant.astimezone(UTC)
    except OverflowError:
        raise ValueError("must be within the years 1 to 9999 in UTC") from None


def _test_token(token: str) -> str:
    if token not in FAULTS:
        # The token itself is not repeated: it might be a card number.
        raise ValueError(f"must be one of the test tokens {', '.join(FAULTS)}")
    return token


def _processed(channel: TenderKind) -> TenderKind:
    if channel in (TenderKind.CASH_ON_DELIVERY, TenderKind.INVOICE):
        raise ValueError("is not a channel of the processor")
    return channel


def _paid_out(channel: TenderKind) -> TenderKind:
    if channel is TenderKind.CARD:
        raise ValueError("must not be card: money goes back to a card by a refund of its authorization")
    return _processed(channel)


Instant = Annotated[AwareDatetime, AfterValidator(_utc)]
Amount = Annotated[int, Field(gt=0, le=MAX_MINOR, strict=True, description="amount in minor units of the currency")]
Token = Annotated[str, Field(max_length=64, json_schema_extra={"enum": list(FAULTS)}), AfterValidator(_test_token)]
Metadata = Annotated[dict[Id, Annotated[Text, Field(max_length=500)]], Field(max_length=20)]
Key = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[\x21-\x7e]+$")]


class AuthorizationRequest(Input):
    token: Token
    amount_minor: Amount
    currency: Currency
    order_id: Id
    requested_at: Instant
    channel: Annotated[TenderKind, AfterValidator(_processed)] = TenderKind.CARD
    metadata: Metadata = Field(default_factory=dict)


class CaptureRequest(Input):
    """`final` gives back what remains of the authorization."""

    amount_minor: Amount
    final: bool = Field(default=False, strict=True)
    requested_at: Instant


class VoidRequest(Input):
    requested_at: Instant


class RefundRequest(Input):
    amount_minor: Amount
    requested_at: Instant


class PayoutRequest(Input):
    channel: Annotated[TenderKind, AfterValidator(_paid_out)]
    amount_minor: Amount
    currency: Currency
    order_id: Id
    requested_at: Instant
    token: Token = GOOD
    account: Annotated[str, Field(min_length=1, max_length=64)] | None = None


class BounceRequest(Input):
    operation_key: Key
    occurred_at: Instant | None = None


class DisputeRequest(Input):
    """`amount_minor` counts when it opens and when it is lost: nothing said, all that could be refunded, or all it is about.
    `dispute_id` names one of several; a new one opens another."""

    authorization_id: Id
    outcome: DisputeOutcome
    dispute_id: Id | None = None
    amount_minor: Amount | None = None
    occurred_at: Instant | None = None


class SucceedRequest(Input):
    operation_key: Key


class ChargeRequest(Input):
    """A charge made by hand, in the processor's dashboard: authorized and captured, under keys of its own."""

    order_id: Id
    amount_minor: Amount
    currency: Currency
    key: Key = Field(description="its captures' key; the authorization's is this with `-auth`")
    occurred_at: Instant | None = None


class ReleaseRequest(Input):
    """Late and held-back notices of an authorization are due now."""

    authorization_id: Id


class Released(Model):
    notices: int


class Books(Model):
    authorizations: list[Authorization]
    operations: list[Operation]
    disputes: list[Dispute]


DESCRIPTION = """
A card processor that keeps its own books. Every call that moves money needs an `Idempotency-Key`: the same key and body
get the same answer for ever, another body under it is refused. What the books do not admit is an operation that
`failed` with its `code`. `processed_at` is `requested_at` where that has passed, so that stories told in the past stay
there.

The tender's token chooses the fault:

| token | what happens |
|---|---|
""" + "\n".join(f"| `{token}` | {fault.story} |" for token, fault in FAULTS.items())


def pace_of(settings: Chosen) -> Pace:
    return Pace(
        late=settings.sandbox_late_seconds,
        settle=settings.sandbox_settle_seconds,
        bounce=settings.sandbox_bounce_seconds,
    )


def _authenticated(
    settings: Chosen,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))],
) -> None:
    given = credentials.credentials if credentials else ""
    if not secrets.compare_digest(given.encode(), settings.processor_key.get_secret_value().encode()):
        raise HTTPException(401, "the processor's key is needed as a bearer token", {"WWW-Authenticate": "Bearer"})


AtPace = Annotated[Pace, Depends(pace_of)]
Reference = Annotated[str, Path(max_length=64)]


@dataclass(frozen=True, slots=True)
class Teller:
    """Where a request that moves money is handed in: it is answered, unless its fault says otherwise."""

    ledger: AtLedger
    settings: Chosen
    key: IdempotencyKey
    incoming: Incoming
    outgoing: Response

    async def hand_in(
        self,
        kind: Kind,
        subject: str | Terms,
        body: AuthorizationRequest | CaptureRequest | VoidRequest | RefundRequest | PayoutRequest,
        *,
        amount_minor: int | None = None,
        final: bool = False,
        metadata: Mapping[str, str] | None = None,
    ) -> Operation:
        request = Request(
            kind=kind,
            key=self.key,
            fingerprint=sha256(f"{self.incoming.url.path}\n{body.model_dump_json()}".encode()).hexdigest(),
            requested_at=body.requested_at,
            subject=subject,
            amount_minor=amount_minor,
            final=final,
            metadata=metadata or {},
        )
        pace = pace_of(self.settings)
        reply = await self.ledger.run(lambda db: books.perform(db, request, pace, datetime.now(UTC)))
        if reply.operation is None or reply.is_lost:
            await _keep_waiting(self.incoming, self.settings.sandbox_hang_seconds)
            raise HTTPException(504, "the processor did not answer in time")
        if reply.is_replayed:
            self.outgoing.headers["Idempotency-Replayed"] = "true"
        return reply.operation


AtTeller = Annotated[Teller, Depends()]

UNANSWERED: dict[int | str, dict[str, Any]] = {504: {"model": Problem, "description": "the fault that was chosen"}}

routes = APIRouter(prefix="/processor", tags=["processor"], dependencies=[Depends(_authenticated)])


@routes.post("/authorizations", status_code=201, responses=UNANSWERED)
async def authorize(body: AuthorizationRequest, teller: AtTeller) -> Operation:
    terms = Terms(body.order_id, body.channel, body.currency, body.token)
    return await teller.hand_in(Kind.AUTHORIZATION, terms, body, amount_minor=body.amount_minor, metadata=body.metadata)


@routes.post("/authorizations/{authorization_id}/captures", status_code=201, responses=UNANSWERED)
async def capture(authorization_id: Reference, body: CaptureRequest, teller: AtTeller) -> Operation:
    """Several captures may share an authorization, up to its amount."""
    return await teller.hand_in(Kind.CAPTURE, authorization_id, body, amount_minor=body.amount_minor, final=body.final)


@routes.post("/authorizations/{authorization_id}/void", status_code=201, responses=UNANSWERED)
async def void(authorization_id: Reference, body: VoidRequest, teller: AtTeller) -> Operation:
    """Give back what remains of the authorization."""
    return await teller.hand_in(Kind.VOID, authorization_id, body)


@routes.post("/authorizations/{authorization_id}/refunds", status_code=201, responses=UNANSWERED)
async def refund(authorization_id: Reference, body: RefundRequest, teller: AtTeller) -> Operation:
    """Pay back what was captured, up to what is left of it."""
    return await teller.hand_in(Kind.REFUND, authorization_id, body, amount_minor=body.amount_minor)


@routes.post("/payouts", status_code=201, responses=UNANSWERED)
async def pay_out(body: PayoutRequest, teller: AtTeller) -> Operation:
    """Money to a channel without an authorization of its own to refund."""
    terms = Terms(body.order_id, body.channel, body.currency, body.token)
    return await teller.hand_in(Kind.PAYOUT, terms, body, amount_minor=body.amount_minor)


@routes.get("/operations")
async def operation(idempotency_key: Annotated[Key, Query()], ledger: AtLedger) -> Operation:
    """What became of the request under this key; 404 when it was never seen, so that it may be sent again."""
    found, _ = await ledger.run(lambda db: books.find_operation(db, idempotency_key))
    return found


@routes.get("/ledger")
async def books_of(order_id: Annotated[list[Id], Query(min_length=1, max_length=200)], ledger: AtLedger) -> Books:
    authorizations, operations, disputes = await ledger.run(lambda db: books.books_of(db, order_id))
    return Books(authorizations=authorizations, operations=operations, disputes=disputes)


@routes.get("/ledger/totals")
async def totals(ledger: AtLedger) -> list[CurrencyTotals]:
    return await ledger.run(books.totals)


@routes.post("/control/bounce")
async def bounce(body: BounceRequest, ledger: AtLedger, pace: AtPace) -> Operation:
    """A refund or payout that succeeded comes back."""
    return await ledger.run(lambda db: books.bounce(db, body.operation_key, body.occurred_at, pace, datetime.now(UTC)))


@routes.post("/control/dispute")
async def dispute(body: DisputeRequest, ledger: AtLedger, pace: AtPace) -> Authorization:
    occurred_at = body.occurred_at or datetime.now(UTC)
    return await ledger.run(
        lambda db: books.dispute(
            db, body.authorization_id, body.outcome, body.amount_minor, occurred_at, pace, body.dispute_id
        )
    )


@routes.post("/control/succeed")
async def succeed(body: SucceedRequest, ledger: AtLedger, pace: AtPace) -> Operation:
    """A refund or payout that failed arrives after all."""
    return await ledger.run(lambda db: books.succeed_after_all(db, body.operation_key, pace, datetime.now(UTC)))


@routes.post("/control/charge")
async def charge(body: ChargeRequest, ledger: AtLedger, pace: AtPace) -> Operation:
    """Take money of the order's customer once more, as by hand in the dashboard: nobody here asked for it."""
    at = body.occurred_at or datetime.now(UTC)

    def work(db: Connection) -> Operation:
        terms = Terms(body.order_id, TenderKind.CARD, body.currency, GOOD)
        asked = Request(Kind.AUTHORIZATION, f"{body.key}-auth", body.model_dump_json(), at, terms, body.amount_minor)
        authorized = books.perform(db, asked, pace, datetime.now(UTC)).operation
        assert authorized is not None
        taken = Request(
            Kind.CAPTURE, body.key, body.model_dump_json(), at, authorized.id, body.amount_minor, final=True
        )
        captured = books.perform(db, taken, pace, datetime.now(UTC)).operation
        assert captured is not None
        return captured

    return await ledger.run(work)


@routes.post("/control/release-notices")
async def release_notices(body: ReleaseRequest, ledger: AtLedger) -> Released:
    return Released(notices=await ledger.run(lambda db: release(db, Receiver.PAYMENTS, body.authorization_id)))


@routes.get("/control/notices")
async def notices(authorization_id: Annotated[Id, Query()], ledger: AtLedger) -> list[Notice]:
    """Every notice about the authorization, and how its delivery stands."""
    return await ledger.run(lambda db: notices_about(db, Receiver.PAYMENTS, authorization_id))


async def _keep_waiting(incoming: Incoming, seconds: float) -> None:
    """Until the caller gives up; `seconds` at most."""
    try:
        async with asyncio.timeout(seconds):
            while (await incoming.receive())["type"] != "http.disconnect":
                continue
    except TimeoutError:
        return
