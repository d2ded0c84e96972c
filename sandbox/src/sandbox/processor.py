"""The card processor over HTTP: bearer key, an Idempotency-Key on every call that moves money, faults by test token."""

import asyncio
import hashlib
import secrets
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Header, HTTPException, Path, Query, Response, Security
from fastapi import Request as Incoming
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import AfterValidator, AwareDatetime, Field

from sandbox import books
from sandbox.books import Authorization, CurrencyTotals, DisputeOutcome, Operation, Pace, Request, Terms
from sandbox.faults import FAULTS, GOOD, Kind
from sandbox.ledger import Ledger
from sandbox.notices import Notice, Receiver, notices_about, release
from shared.contracts.base import Id, Input, Model, TenderKind, Text
from shared.money import MAX_MINOR, Currency


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
Token = Annotated[str, Field(max_length=64), AfterValidator(_test_token)]
Metadata = Annotated[dict[Id, Annotated[Text, Field(max_length=500)]], Field(max_length=20)]
Key = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[\x21-\x7e]+$")]


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


class BounceRequest(Input):
    operation_key: Key
    occurred_at: Instant | None = None


class DisputeRequest(Input):
    """`amount_minor` counts when it opens: nothing said, all that could be refunded."""

    authorization_id: Id
    outcome: DisputeOutcome
    amount_minor: Amount | None = None
    occurred_at: Instant | None = None


class ReleaseRequest(Input):
    """Late and held-back notices of an authorization are due now."""

    authorization_id: Id


class Released(Model):
    notices: int


class Books(Model):
    authorizations: list[Authorization]
    operations: list[Operation]


DESCRIPTION = """
A card processor that keeps its own books. Every call that moves money needs an `Idempotency-Key`: the same key and body
get the same answer for ever, another body under it is refused. What the books do not admit is an operation that
`failed` with its `code`. `processed_at` is `requested_at` where that has passed, so that stories told in the past stay
there.

The tender's token chooses the fault:

| token | what happens |
|---|---|
""" + "\n".join(f"| `{token}` | {fault.story} |" for token, fault in FAULTS.items())


def processor_routes(ledger: Ledger, api_key: str, pace: Pace, hang_seconds: float) -> APIRouter:
    bearer = HTTPBearer(auto_error=False)

    def authenticated(credentials: Annotated[HTTPAuthorizationCredentials | None, Security(bearer)]) -> None:
        given = credentials.credentials if credentials else ""
        if not secrets.compare_digest(given.encode(), api_key.encode()):
            raise HTTPException(401, "the processor's key is needed as a bearer token", {"WWW-Authenticate": "Bearer"})

    async def answer(incoming: Incoming, response: Response, request: Request) -> Operation:
        reply = await ledger.run(lambda db: books.perform(db, request, pace, datetime.now(UTC)))
        if reply.operation is None or reply.is_lost:
            await _keep_waiting(incoming, hang_seconds)
            raise HTTPException(504, "the processor did not answer in time")
        if reply.is_replayed:
            response.headers["Idempotency-Replayed"] = "true"
        return reply.operation

    routes = APIRouter(prefix="/processor", tags=["processor"], dependencies=[Depends(authenticated)])
    key_header = Annotated[Key, Header(alias="Idempotency-Key")]
    reference = Annotated[str, Path(max_length=64)]

    @routes.post("/authorizations", status_code=201)
    async def authorize(
        body: AuthorizationRequest, key: key_header, incoming: Incoming, response: Response
    ) -> Operation:
        terms = Terms(body.order_id, body.channel, body.currency, body.token)
        request = Request(
            Kind.AUTHORIZATION,
            key,
            _fingerprint(Kind.AUTHORIZATION, "", body),
            body.requested_at,
            terms,
            body.amount_minor,
            metadata=body.metadata,
        )
        return await answer(incoming, response, request)

    @routes.post("/authorizations/{authorization_id}/captures", status_code=201)
    async def capture(
        authorization_id: reference, body: CaptureRequest, key: key_header, incoming: Incoming, response: Response
    ) -> Operation:
        fingerprint = _fingerprint(Kind.CAPTURE, authorization_id, body)
        request = Request(
            Kind.CAPTURE, key, fingerprint, body.requested_at, authorization_id, body.amount_minor, final=body.final
        )
        return await answer(incoming, response, request)

    @routes.post("/authorizations/{authorization_id}/void", status_code=201)
    async def void(
        authorization_id: reference, body: VoidRequest, key: key_header, incoming: Incoming, response: Response
    ) -> Operation:
        fingerprint = _fingerprint(Kind.VOID, authorization_id, body)
        request = Request(Kind.VOID, key, fingerprint, body.requested_at, authorization_id)
        return await answer(incoming, response, request)

    @routes.post("/authorizations/{authorization_id}/refunds", status_code=201)
    async def refund(
        authorization_id: reference, body: RefundRequest, key: key_header, incoming: Incoming, response: Response
    ) -> Operation:
        fingerprint = _fingerprint(Kind.REFUND, authorization_id, body)
        request = Request(Kind.REFUND, key, fingerprint, body.requested_at, authorization_id, body.amount_minor)
        return await answer(incoming, response, request)

    @routes.post("/payouts", status_code=201)
    async def pay_out(body: PayoutRequest, key: key_header, incoming: Incoming, response: Response) -> Operation:
        """Money to a channel without an authorization of its own to refund."""
        terms = Terms(body.order_id, body.channel, body.currency, body.token)
        fingerprint = _fingerprint(Kind.PAYOUT, "", body)
        request = Request(Kind.PAYOUT, key, fingerprint, body.requested_at, terms, body.amount_minor)
        return await answer(incoming, response, request)

    @routes.get("/operations")
    async def operation(idempotency_key: Annotated[Key, Query()]) -> Operation:
        """What became of the request under this key; 404 when it was never seen, so that it may be sent again."""
        found, _ = await ledger.run(lambda db: books.find_operation(db, idempotency_key))
        return found

    @routes.get("/ledger")
    async def books_of(order_id: Annotated[list[Id], Query(min_length=1, max_length=200)]) -> Books:
        authorizations, operations = await ledger.run(lambda db: books.books_of(db, order_id))
        return Books(authorizations=authorizations, operations=operations)

    @routes.get("/ledger/totals")
    async def totals() -> list[CurrencyTotals]:
        return await ledger.run(books.totals)

    @routes.post("/control/bounce")
    async def bounce(body: BounceRequest) -> Operation:
        """A refund or payout that succeeded comes back."""
        return await ledger.run(
            lambda db: books.bounce(db, body.operation_key, body.occurred_at, pace, datetime.now(UTC))
        )

    @routes.post("/control/dispute")
    async def dispute(body: DisputeRequest) -> Authorization:
        occurred_at = body.occurred_at or datetime.now(UTC)
        return await ledger.run(
            lambda db: books.dispute(db, body.authorization_id, body.outcome, body.amount_minor, occurred_at, pace)
        )

    @routes.post("/control/release-notices")
    async def release_notices(body: ReleaseRequest) -> Released:
        return Released(notices=await ledger.run(lambda db: release(db, Receiver.PAYMENTS, body.authorization_id)))

    @routes.get("/control/notices")
    async def notices(authorization_id: Annotated[Id, Query()]) -> list[Notice]:
        return await ledger.run(lambda db: notices_about(db, Receiver.PAYMENTS, authorization_id))

    return routes


def _fingerprint(kind: Kind, subject: str, body: Input) -> str:
    return hashlib.sha256(f"{kind}\n{subject}\n{body.model_dump_json()}".encode()).hexdigest()


async def _keep_waiting(incoming: Incoming, seconds: float) -> None:
    """Until the caller gives up; `seconds` at most."""
    try:
        async with asyncio.timeout(seconds):
            while (await incoming.receive())["type"] != "http.disconnect":
                continue
    except TimeoutError:
        return
