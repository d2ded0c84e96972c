"""The port to a provider, whatever processor is behind it, and the sandbox's adapter. The outcome of an unanswered call is
unknown."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, Protocol, TypeVar

import aiohttp
import httpx
import stamina
from pydantic import AwareDatetime, Field, ValidationError

from payments.domain.operation import ProviderResult, Result
from payments.settings import PaymentsSettings
from payments.store import Call
from shared.contracts.base import Id, Model, Reply
from shared.contracts.payments import OperationKind, RefundChannel
from shared.core.money import Minor


class Unanswered(Exception):
    """It is raised where the provider did not answer: the call may or may not have had an effect."""


@dataclass(frozen=True, slots=True)
class ProviderRecord:
    """It is an operation as the provider's books have it. `reference` is the provider's, of the operation; `authorization` of
    what it is about."""

    operation_id: str
    order_id: str
    result: Result
    amount_minor: int
    kind: OperationKind
    reference: str
    authorization: str | None
    at: datetime


@dataclass(frozen=True, slots=True)
class DisputedThere:
    dispute_id: str
    order_id: str
    change: Literal["opened", "won", "lost"]
    amount_minor: int
    authorization: str
    at: datetime


@dataclass(frozen=True, slots=True)
class TheirBooks:
    operations: list[ProviderRecord]
    disputes: list[DisputedThere]


class Processor(Protocol):
    """It is what payments asks of a provider of any kind."""

    async def perform(self, call: Call) -> ProviderResult:
        """Perform the operation, with its id as the idempotency key. Raises Unanswered."""
        ...

    async def find(self, operation_id: str) -> ProviderResult | None:
        """Return what became of it; None when the provider has never seen the key. Raises Unanswered."""
        ...

    async def books(self, order_ids: Sequence[str]) -> TheirBooks:
        """Return everything in its books of these orders. Raises Unanswered."""
        ...


NEVER_SENT: Final = httpx.ConnectError
"""The request did not leave: the only failure that is tried again at once."""

REFUSED: Final = frozenset({400, 404, 413, 422})
"""It was understood and not performed. Any other error may come from something on the way that knows nothing of it."""

RESULTS: Final = {
    "authorized": Result.SUCCEEDED,
    "succeeded": Result.SUCCEEDED,
    "declined": Result.FAILED,
    "failed": Result.FAILED,
    "pending": Result.PENDING,
    "bounced": Result.REVERSED,
}


KINDS: Final = {
    "authorization": OperationKind.AUTHORIZE,
    "capture": OperationKind.CAPTURE,
    "void": OperationKind.VOID,
    "refund": OperationKind.REFUND,
    "payout": OperationKind.REFUND,
}


class _Operation(Reply):
    """An operation in the sandbox's own words."""

    id: str
    operation_key: str
    kind: Literal["authorization", "capture", "void", "refund", "payout"]
    authorization_id: str | None
    status: Literal["authorized", "declined", "succeeded", "pending", "failed", "bounced"]
    code: str | None
    order_id: str
    amount_minor: int
    processed_at: AwareDatetime
    expires_at: AwareDatetime | None

    def verdict(self) -> ProviderResult:
        return ProviderResult(
            result=RESULTS[self.status],
            amount_minor=self.amount_minor,
            at=self.processed_at,
            reference=self.id,
            code=self.code or "",
            expires_at=self.expires_at,
        )


class _Dispute(Reply):
    id: str
    authorization_id: str
    order_id: str
    outcome: Literal["opened", "won", "lost"]
    amount_minor: int
    occurred_at: AwareDatetime


class _Books(Reply):
    operations: tuple[_Operation, ...]
    disputes: tuple[_Dispute, ...] = ()


class SandboxProcessor:
    """The card processor of the sandbox, over HTTP. The transport is called without a client around it: what a client adds
    (redirects, cookies, addresses merged) takes longer than the call, and none of it is wanted."""

    def __init__(self, transport: httpx.AsyncBaseTransport, url: str, key: str) -> None:
        self._transport = transport
        self._url = url.removesuffix("/")
        self._headers = {"Authorization": f"Bearer {key}"}

    async def perform(self, call: Call) -> ProviderResult:
        path, body = _request(call)
        response = await self._sent("POST", path, json=body, headers={"Idempotency-Key": call.operation_id})
        if response.status_code in REFUSED:
            code = f"refused_{response.status_code}"
            return ProviderResult(Result.FAILED, call.amount_minor, call.requested_at, call.operation_id, code)
        return _read(response, _Operation).verdict()

    async def find(self, operation_id: str) -> ProviderResult | None:
        response = await self._sent("GET", "operations", params={"idempotency_key": operation_id})
        return None if response.status_code == 404 else _read(response, _Operation).verdict()

    async def books(self, order_ids: Sequence[str]) -> TheirBooks:
        response = await self._sent("GET", "ledger", params={"order_id": list(order_ids)})
        books = _read(response, _Books)
        return TheirBooks(
            operations=[
                ProviderRecord(
                    o.operation_key,
                    o.order_id,
                    RESULTS[o.status],
                    o.amount_minor,
                    KINDS[o.kind],
                    o.id,
                    o.authorization_id,
                    o.processed_at,
                )
                for o in books.operations
            ],
            disputes=[
                DisputedThere(d.id, d.order_id, d.outcome, d.amount_minor, d.authorization_id, d.occurred_at)
                for d in books.disputes
            ],
        )

    async def _sent(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, **what: Any
    ) -> httpx.Response:
        request = httpx.Request(method, f"{self._url}/{path}", headers={**self._headers, **(headers or {})}, **what)
        try:
            async for attempt in stamina.retry_context(
                on=NEVER_SENT, attempts=3, wait_initial=0.05, wait_max=0.3, timeout=None
            ):
                with attempt:
                    response = await self._transport.handle_async_request(request)
                    await response.aread()
                    return response
        except httpx.HTTPError as error:
            raise Unanswered(repr(error)) from error
        raise AssertionError("a retry context ends by an answer or an error")


def _request(call: Call) -> tuple[str, dict[str, object]]:
    """Return the path and body of a call; the same in every attempt, or the key would be refused."""
    requested_at = call.requested_at.isoformat()
    match call.kind:
        case OperationKind.AUTHORIZE:
            return "authorizations", {
                "token": call.token,
                "amount_minor": call.amount_minor,
                "currency": call.currency,
                "order_id": call.order_id,
                "channel": call.tender_kind,
                "requested_at": requested_at,
            }
        case OperationKind.CAPTURE:
            return f"authorizations/{call.authorization}/captures", {
                "amount_minor": call.amount_minor,
                "final": call.final,
                "requested_at": requested_at,
            }
        case OperationKind.VOID:
            return f"authorizations/{call.authorization}/void", {"requested_at": requested_at}
        case OperationKind.REFUND if call.channel == RefundChannel.ORIGINAL:
            return f"authorizations/{call.authorization}/refunds", {
                "amount_minor": call.amount_minor,
                "requested_at": requested_at,
            }
        case OperationKind.REFUND:
            payee = {"account": call.account} if call.account else {}
            return "payouts", {
                "channel": call.channel,
                "amount_minor": call.amount_minor,
                "currency": call.currency,
                "order_id": call.order_id,
                "requested_at": requested_at,
                **payee,
            }
    raise ValueError(f"{call.kind} is no kind of operation")


M = TypeVar("M", bound=Model)


def _read(response: httpx.Response, model: type[M]) -> M:
    """Read the answer. Raises Unanswered for anything that we do not understand: what it means is asked again later."""
    if not response.is_success:
        raise Unanswered(f"answered {response.status_code}")
    try:
        return model.model_validate_json(response.content)
    except ValidationError as error:
        raise Unanswered(f"answered what cannot be read: {error}") from error


class NoticeData(Reply):
    operation_key: Id | None = None
    reference: str = Field(min_length=1, max_length=200)
    authorization_id: str | None = Field(default=None, max_length=200)
    order_id: Id
    amount_minor: Minor
    currency: str = Field(max_length=3)
    code: str | None = Field(default=None, max_length=200)
    expires_at: AwareDatetime | None = None


class Notice(Reply):
    """It is a webhook of the processor. Fields that it may add some day are ignored."""

    id: str = Field(min_length=1, max_length=200)
    type: Literal[
        "authorization.succeeded",
        "authorization.declined",
        "capture.succeeded",
        "capture.failed",
        "void.succeeded",
        "refund.succeeded",
        "refund.failed",
        "refund.bounced",
        "dispute.opened",
        "dispute.won",
        "dispute.lost",
    ]
    occurred_at: AwareDatetime
    data: NoticeData

    def verdict(self) -> ProviderResult:
        """Return what the notice says of an operation; a dispute says nothing of one."""
        return ProviderResult(
            result=RESULTS[self.type.partition(".")[2]],
            amount_minor=self.data.amount_minor,
            at=self.occurred_at,
            reference=self.data.reference,
            code=self.data.code or "",
            expires_at=self.data.expires_at,
        )


class AiohttpTransport(httpx.AsyncBaseTransport):
    """It sends httpx's requests on connections of aiohttp: a call takes a quarter of the CPU time that it takes on httpx's
    own.

    The published transport (httpx-aiohttp 0.2) reports a refused connection and one that broke after the request was sent as
    one error, and only the first may be tried again at once.
    """

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        headers = request.headers.multi_items()
        asking = self._session.request(
            request.method, str(request.url), headers=headers, data=request.content, allow_redirects=False
        )
        try:
            async with asking as answer:
                content = await answer.read()
        except aiohttp.ClientConnectorError as error:
            raise httpx.ConnectError(repr(error)) from error
        except (aiohttp.ClientError, TimeoutError) as error:
            raise httpx.ReadError(repr(error)) from error
        return httpx.Response(answer.status, headers=answer.raw_headers, content=content)


@asynccontextmanager
async def sandbox_processor(settings: PaymentsSettings) -> AsyncIterator[SandboxProcessor]:
    """Make the processor. Connections are kept; a call that is not answered in time is given up, and its outcome is unknown."""
    connector = aiohttp.TCPConnector(
        limit=settings.processor_calls, ssl=httpx.create_ssl_context(trust_env=False), keepalive_timeout=5
    )
    async with aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=settings.processor_timeout_seconds),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
    ) as session:
        key = settings.processor_key.get_secret_value()
        yield SandboxProcessor(AiohttpTransport(session), str(settings.processor_url), key)
