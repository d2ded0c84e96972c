"""HTTP in: bearer tokens, problem details (RFC 9457), idempotency keys with replayed answers, signed webhooks."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from hashlib import sha256
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from uuid import NAMESPACE_URL, uuid5

import structlog
from fastapi import Depends, FastAPI, Header, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from prometheus_client import Histogram
from pydantic import AwareDatetime, BaseModel, Field
from standardwebhooks.webhooks import Webhook, WebhookVerificationError
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uuid_utils.compat import uuid7

from shared import auth
from shared.auth import Caller, Role
from shared.contracts.base import Fact
from shared.database import BROKEN_LAWS, OUTAGES, Pool
from shared.envelope import Cause, traceparent_in
from shared.machine import Invalid, NotAllowed
from shared.shell import Flow, Held, Told, apply

if TYPE_CHECKING:
    from shared.tracing import Tracing

log = structlog.get_logger()

S = TypeVar("S")
C = TypeVar("C")

BODY_LIMIT = 256 * 1024
CLOCK_SKEW = timedelta(minutes=5)
RETRY_AFTER = 2
WEBHOOK_TOLERANCE = timedelta(seconds=300)


class Problem(BaseModel):
    """RFC 9457, with the fields an integrator acts on."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    errors: list[dict[str, str]] | None = Field(default=None, description="field and rule, for bad input")
    current: str | None = Field(default=None, description="the current state, for 409")
    allowed: list[str] | None = Field(default=None, description="what is allowed in it, for 409")


PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": description}
    for status, description in {
        400: "malformed",
        401: "no valid token or signature",
        403: "the role is not enough",
        404: "not known",
        409: "not allowed in the current state",
        413: "body over 256 KiB",
        422: "a field breaks a rule",
        503: "the database is away; try again",
    }.items()
}


def document_problems(app: FastAPI) -> None:
    """FastAPI documents every model as application/json; problems have a media type of their own."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        document = generate()
        for path in document["paths"].values():
            for operation in path.values():
                for response in operation["responses"].values():
                    content = response.get("content", {})
                    schema = content.get("application/json", {}).get("schema", {})
                    if schema.get("$ref") == "#/components/schemas/Problem":
                        content["application/problem+json"] = content.pop("application/json")
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend the document


def problem(status: int, title: str, detail: str, headers: dict[str, str] | None = None, **more: Any) -> JSONResponse:
    body = Problem(title=title, status=status, detail=detail, **more)
    return JSONResponse(
        body.model_dump(exclude_none=True), status, headers=headers, media_type="application/problem+json"
    )


def _of_not_allowed(error: NotAllowed) -> JSONResponse:
    return problem(409, "Not allowed", error.detail, current=error.status, allowed=list(error.allowed))


def _of_invalid(error: Invalid) -> JSONResponse:
    return problem(422, "Invalid", str(error), errors=[{"field": error.field, "rule": error.rule}])


def _of_outage(error: Exception) -> JSONResponse:
    log.warning("request.deferred", error=repr(error))
    detail = "The database cannot be reached just now; nothing was stored. Send the same request again."
    return problem(503, "Try again", detail, headers={"Retry-After": str(RETRY_AFTER)})


def install_problems(app: FastAPI) -> None:
    """Every error leaves as problem details, and none shows what it should not."""

    @app.exception_handler(RequestValidationError)
    async def bad_input(_: Request, error: RequestValidationError) -> JSONResponse:
        errors = [
            {"field": ".".join(str(p) for p in e["loc"] if p != "body") or "body", "rule": str(e["msg"])}
            for e in error.errors()[:20]
        ]
        malformed = any(e["type"] == "json_invalid" for e in error.errors())
        detail = "; ".join(f"{e['field']}: {e['rule']}" for e in errors)
        return problem(400 if malformed else 422, "Malformed" if malformed else "Invalid", detail, errors=errors)

    @app.exception_handler(StarletteHTTPException)
    async def http_error(_: Request, error: StarletteHTTPException) -> JSONResponse:
        headers = dict(error.headers) if error.headers else None
        return problem(
            error.status_code, "Refused" if error.status_code < 500 else "Failed", str(error.detail), headers
        )

    @app.exception_handler(NotAllowed)
    async def not_allowed(_: Request, error: NotAllowed) -> JSONResponse:
        return _of_not_allowed(error)

    @app.exception_handler(Invalid)
    async def invalid(_: Request, error: Invalid) -> JSONResponse:
        return _of_invalid(error)

    async def outage(_: Request, error: Exception) -> JSONResponse:
        return _of_outage(error)

    for kind in OUTAGES:
        app.add_exception_handler(kind, outage)

    async def data_error(_: Request, error: Exception) -> JSONResponse:
        log.error("request.broke_a_law", error=repr(error))
        return problem(422, "Invalid", "a value is outside what can be stored")

    for law in BROKEN_LAWS:
        app.add_exception_handler(law, data_error)


trace: ContextVar[str | None] = ContextVar("trace", default=None)
"""The W3C trace context of the request under way: it is written beside its facts and sent on."""

HEALTH = ("/livez", "/readyz", "/metrics")


class Requests:
    """Counts and times every request, up to the start of its answer, by the template of its route; and takes its
    caller's trace on, in a span where spans are wanted."""

    def __init__(self, app: ASGIApp, service: str) -> None:
        self.app = app
        self.service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in HEALTH:
            await self.app(scope, receive, send)
            return
        seconds: Histogram = scope["app"].state.request_seconds
        tracing: Tracing | None = scope["app"].state.tracing
        given = traceparent_in(dict(scope["headers"]).get(b"traceparent", b"").decode("latin-1"))
        span = tracing.request(scope["method"], scope["path"], given) if tracing else None
        trace.set(span.traceparent if span else given)
        began = time.perf_counter()
        answered = False

        def answer(status: int) -> None:
            nonlocal answered
            answered = True
            route = getattr(scope.get("route"), "path", "none")
            seconds.labels(self.service, scope["method"], route, str(status)).observe(time.perf_counter() - began)
            if span is not None:
                span.answered(scope["method"], route, status)

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer(message["status"])
            await send(message)

        try:
            await self.app(scope, receive, sending)
        finally:
            if not answered:  # it failed; the answer is made outside
                answer(500)


class BodyLimit:
    """Refuses a body over the limit before it is parsed, by its length if declared and by counting if not."""

    def __init__(self, app: ASGIApp, limit: int = BODY_LIMIT) -> None:
        self.app = app
        self.limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refusal = problem(413, "Too large", f"body: must not be larger than {self.limit} bytes")
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > self.limit:
            await refusal(scope, receive, send)
            return
        chunks: list[bytes] = []
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            more = message.get("more_body", False)
            if size > self.limit:
                await refusal(scope, receive, send)
                return
        body: Message | None = {"type": "http.request", "body": b"".join(chunks), "more_body": False}

        async def replay() -> Message:
            nonlocal body
            if body is not None:
                message, body = body, None
                return message
            return await receive()

        await self.app(scope, replay, send)


_bearer = HTTPBearer(auto_error=False, description="a token with a role; `oms token` makes one")


def tokens_of(request: Request) -> auth.Tokens:
    found: auth.Tokens = request.app.state.tokens
    return found


async def caller(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> Caller:
    """Who asks. 401 without a valid bearer token."""
    challenge = {"WWW-Authenticate": "Bearer"}
    if credentials is None:
        raise HTTPException(401, "a bearer token is required", challenge)
    try:
        who = await tokens_of(request).verify(credentials.credentials)
    except auth.BadToken as error:
        raise HTTPException(401, str(error), challenge) from None
    except auth.KeysAway as error:
        raise HTTPException(503, str(error), {"Retry-After": str(RETRY_AFTER)}) from None
    structlog.contextvars.bind_contextvars(actor=who.actor)
    return who


def needs(*roles: Role) -> Any:
    """A dependency: the caller, who has one of these roles. 403 otherwise."""

    async def check(who: Annotated[Caller, Depends(caller)]) -> Caller:
        if who.roles.isdisjoint(roles):
            raise HTTPException(403, f"needs one of the roles {', '.join(sorted(roles))}")
        return who

    return Depends(check)


IdempotencyKey = Annotated[
    str,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        pattern=r"^[\x21-\x7e]+$",
        description="the same key and body give the same answer and one effect; with another body it is refused",
    ),
]


def business_time(occurred_at: datetime | None) -> datetime:
    """When it happened: as the caller says, else now. Raises Invalid for the future."""
    now = datetime.now(timezone.utc)
    if occurred_at is None:
        return now
    if occurred_at > now + CLOCK_SKEW:
        raise Invalid("occurred_at", "must not lie in the future")
    if occurred_at.year < 2000:
        raise Invalid("occurred_at", "must not lie before the year 2000")
    return occurred_at.astimezone(timezone.utc)


OccurredAt = Annotated[
    AwareDatetime | None, Field(default=None, description="when it happened, if not now; must have an offset")
]

Answer = Callable[[S, Sequence[Fact]], tuple[int, BaseModel]]

TAKE = """
INSERT INTO answers (scope, key, fingerprint) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING RETURNING true"""
FIND = "SELECT fingerprint, status, body FROM answers WHERE scope = $1 AND key = $2"
REMEMBER = "UPDATE answers SET status = $3, body = $4 WHERE scope = $1 AND key = $2"


async def patiently(work: Callable[[], Awaitable[S]], seconds: float = 3.0) -> S:
    """Wait out a short outage before a request is answered 503: a failover is over within moments."""
    deadline = asyncio.get_running_loop().time() + seconds
    pause = 0.05
    while True:
        try:
            return await work()
        except BROKEN_LAWS:
            raise
        except OUTAGES:
            if asyncio.get_running_loop().time() + pause > deadline:
                raise
            await asyncio.sleep(pause)
            pause *= 2


@dataclass(frozen=True, slots=True)
class Desk:
    """Where commands from outside are told to a flow: one transaction each, answered once per idempotency key."""

    pool: Pool
    woken: Callable[[], None]

    async def answer_once(
        self,
        flow: Flow[S, C, Any],
        told: Told[C],
        answer: Answer[S],
        *,
        scope: str,
        idempotency_key: str,
        fingerprint: bytes,
    ) -> Response:
        """Decide and commit, or replay the answer that `idempotency_key` got before in its scope.

        Raises NotAllowed and Invalid as the flow does (nothing is stored, the key stays free), and an outage.
        """
        async with self.pool.acquire(timeout=5) as db, db.transaction():
            if not await db.fetchval(TAKE, scope, idempotency_key, fingerprint):
                seen = await db.fetchrow(FIND, scope, idempotency_key)
                if seen is None or seen["fingerprint"] != fingerprint:
                    raise Invalid("Idempotency-Key", "was used with another body")
                return Response(
                    seen["body"],
                    seen["status"],
                    media_type="application/json",
                    headers={"Idempotency-Replayed": "true"},
                )
            [outcome], held = await apply(db, flow, [told])
            if outcome.error is not None:
                raise outcome.error
            aggregate: Held[S] = held[told.key]
            status, body = answer(aggregate.state, outcome.facts)
            text = body.model_dump_json()
            await db.execute(REMEMBER, scope, idempotency_key, status, text)
        self.woken()
        return Response(text, status, media_type="application/json", headers={"ETag": f'"{aggregate.sequence}"'})

    async def take(self, flow: Flow[S, C, Any], told: Sequence[Told[C]]) -> list[Exception | None]:
        """Tell a batch without idempotency keys (webhooks, timers, workers): what was refused comes back as its error."""
        async with self.pool.acquire(timeout=5) as db, db.transaction():
            outcomes, _ = await apply(db, flow, told)
        if any(outcome.facts for outcome in outcomes):
            self.woken()
        return [outcome.error for outcome in outcomes]


async def desk(request: Request) -> Desk:
    found: Desk = request.app.state.desk
    return found


AtDesk = Annotated[Desk, Depends(desk)]


@dataclass(frozen=True, slots=True)
class Asking:
    """Who asks for a change, at which desk, and under which idempotency key."""

    desk: Desk
    request: Request
    caller: Caller
    idempotency_key: str

    @property
    def actor(self) -> str:
        return self.caller.actor

    async def tell(
        self,
        flow: Flow[S, C, Any],
        aggregate: str,
        command: C,
        answer: Answer[S],
        *,
        reason: str,
        at: datetime | None = None,
    ) -> Response:
        """The answer to the command, its effect committed; the first one again where the key was used before.

        Raises as `Desk.answer_once` does; a short outage is waited out.
        """
        scope = f"{self.actor} {self.request.method} {self.request.url.path}"
        fingerprint = sha256(await self.request.body()).digest()
        cause = Cause(
            id=uuid7(),
            at=at or datetime.now(timezone.utc),
            actor=self.actor,
            reason=reason,
            correlation_id=str(uuid5(NAMESPACE_URL, f"{scope} {self.idempotency_key}")),
            traceparent=trace.get(),
        )
        told = Told(aggregate, command, cause)
        return await patiently(
            lambda: self.desk.answer_once(
                flow, told, answer, scope=scope, idempotency_key=self.idempotency_key, fingerprint=fingerprint
            )
        )


def asks(*roles: Role) -> Any:
    """A dependency: an `Asking` whose caller has one of these roles. 403 otherwise."""

    async def asking(
        request: Request,
        desk: AtDesk,
        caller: Annotated[Caller, needs(*roles)],
        idempotency_key: IdempotencyKey,
    ) -> Asking:
        return Asking(desk, request, caller, idempotency_key)

    return Depends(asking)


@dataclass(frozen=True, slots=True)
class SignedBody:
    """A verified webhook: its id, and the bytes that were signed."""

    id: str
    body: bytes


def signed(secret: Callable[[Any], str]) -> Any:
    """A dependency: the raw body of a webhook whose signature holds (standardwebhooks, 300 s tolerance).

    `secret` picks it from the app's settings. 401 for a forged, stale or re-serialised one. Replays are the claim's job:
    the id comes back with the body, and the shell lets it have one effect.
    """

    async def check(request: Request) -> SignedBody:
        body = await request.body()
        try:
            Webhook(secret(request.app.state.settings)).verify(body, dict(request.headers))
        except WebhookVerificationError as error:
            raise HTTPException(401, f"webhook: {error}") from None
        except ValueError:  # the signature holds; the library parses the body after it
            raise HTTPException(400, "webhook: the body must be JSON") from None
        return SignedBody(id=request.headers["webhook-id"], body=body)

    return Depends(check)


def webhook_cause(source: str, webhook_id: str, at: datetime, reason: str) -> Cause:
    """A webhook's cause: claimed by (source, id), so that a replay has no second effect."""
    return Cause(
        id=uuid5(NAMESPACE_URL, f"{source}|{webhook_id}"),
        at=at,
        actor=f"partner:{source}",
        reason=reason,
        correlation_id=webhook_id,
        causation_id=webhook_id,
        traceparent=trace.get(),
    )
