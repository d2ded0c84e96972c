"""HTTP in: bearer tokens, problem details (RFC 9457), idempotency keys with replayed answers, signed webhooks."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextvars import Context, ContextVar
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from hashlib import sha256
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from uuid import NAMESPACE_URL, uuid5

import asyncpg
import structlog
from fastapi import Depends, FastAPI, Header, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from fastapi.security.base import SecurityBase
from prometheus_client import Histogram
from pydantic import AwareDatetime, BaseModel, Field, ValidationError
from standardwebhooks.webhooks import Webhook, WebhookVerificationError
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.types import Message as AsgiMessage
from uuid_utils.compat import uuid7

from shared.contracts.base import Fact
from shared.core.card_numbers import has_card_number, masked
from shared.core.errors import in_words as errors_in_words
from shared.core.errors import problems_of
from shared.core.machine import Invalid, NotAllowed
from shared.messaging.database import BROKEN_LAWS, OUTAGES, Pool
from shared.messaging.envelope import CLOCK_SKEW, DEPTH, EARLIEST, Cause, Undecodable, check_body, traceparent_in
from shared.messaging.locks import LOCK_TIMEOUT, RETRY_SECONDS, Locked, give_up_after, holders, in_words, locked_keys
from shared.messaging.shell import Db, Flow, LockedAggregate, Message, Outcome, apply
from shared.web import auth
from shared.web.auth import Caller, Role

if TYPE_CHECKING:
    from shared.web.tracing import Tracing

log = structlog.get_logger()

S = TypeVar("S")
C = TypeVar("C")
M = TypeVar("M", bound=BaseModel)

BODY_LIMIT = 256 * 1024
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
    instance: str | None = Field(default=None, description="id of this failure, by which it is found in the log")


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
        500: "something that no code expected; `instance` stands in the log",
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
    if isinstance(error, LOCK_TIMEOUT | Locked):
        detail = "Something else holds what this would change; nothing was stored. Send the same request again."
    return problem(503, "Try again", detail, headers={"Retry-After": str(RETRY_AFTER)})


def log_failure(request: Request, error: Exception) -> str:
    """An id for what no code expected; it stands in the log beside what happened, and is told to who asked."""
    failure = f"urn:uuid:{uuid7()}"
    where = {"method": request.method, "path": request.url.path}
    log.error("request.failed", failure=failure, **where, error=repr(error), exc_info=error)
    return failure


def install_problems(app: FastAPI) -> None:
    """Every error leaves as problem details, and none shows what it should not."""

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        failure = log_failure(request, error)
        detail = (
            f"Something failed here that nobody expected. Who looks after the system finds it in the log as {failure}."
        )
        return problem(500, "Failed", detail, instance=failure)

    @app.exception_handler(RequestValidationError)
    async def bad_input(_: Request, error: RequestValidationError) -> JSONResponse:
        errors = problems_of(error.errors())
        malformed = any(e["type"] == "json_invalid" for e in error.errors())
        return problem(
            400 if malformed else 422, "Malformed" if malformed else "Invalid", errors_in_words(errors), errors=errors
        )

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

    for kind in (*OUTAGES, Locked):
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

        async def sending(message: AsgiMessage) -> None:
            if message["type"] == "http.response.start":
                answer(message["status"])
            await send(message)

        try:
            await self.app(scope, receive, sending)
        finally:
            if not answered:  # it failed; the answer is made outside
                answer(500)


def _malformed(error: Undecodable) -> JSONResponse:
    field, _, rule = str(error).partition(": ")
    return problem(400, "Malformed", str(error), errors=[{"field": field, "rule": rule}])


class BodyLimit:
    """Refuses a body over the limit before it is parsed, by its length if declared and by counting if not, and JSON that
    readers understand differently. `uploads` says the limit of requests that bring files, and None of all others."""

    def __init__(
        self, app: ASGIApp, limit: int = BODY_LIMIT, uploads: Callable[[Scope], int | None] | None = None
    ) -> None:
        self.app = app
        self.limit = limit
        self.uploads = uploads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit = (self.uploads and self.uploads(scope)) or self.limit
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > limit:
            await _too_large(limit)(scope, receive, send)
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
            if size > limit:
                await _too_large(limit)(scope, receive, send)
                return
        whole = b"".join(chunks)
        if b"json" in dict(scope["headers"]).get(b"content-type", b""):
            try:
                check_body(whole)
            except Undecodable as error:
                await _malformed(error)(scope, receive, send)
                return
        body: AsgiMessage | None = {"type": "http.request", "body": whole, "more_body": False}

        async def replay() -> AsgiMessage:
            nonlocal body
            if body is not None:
                message, body = body, None
                return message
            return await receive()

        await self.app(scope, replay, send)


def _too_large(limit: int) -> Response:
    return problem(413, "Too large", f"body: must not be larger than {limit} bytes")


_bearer = HTTPBearer(auto_error=False, description="a token with a role; `oms token` makes one")


def tokens_of(request: Request) -> auth.Tokens:
    found: auth.Tokens = request.app.state.tokens
    return found


class _Needs(SecurityBase):
    """Who asks, by a bearer token; 401 without a valid one, 403 without one of the roles."""

    def __init__(self, roles: Sequence[Role]) -> None:
        self.model, self.scheme_name = _bearer.model, _bearer.scheme_name
        self._roles = frozenset(roles)

    async def __call__(self, request: Request) -> Caller:
        credentials = await _bearer(request)
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
        if who.roles.isdisjoint(self._roles):
            raise HTTPException(403, f"needs one of the roles {', '.join(sorted(self._roles))}")
        return who


def needs(*roles: Role) -> Any:
    """A dependency: the caller, who has one of these roles."""
    return Depends(_Needs(roles))


def check_parameters(request: Request) -> None:
    """Of what is in a request's address or names it, nothing may hold a card number where something is to be changed.
    Raises Invalid."""
    if request.method in ("GET", "HEAD", "OPTIONS"):
        return
    given = {
        **request.path_params,
        **request.query_params,
        "Idempotency-Key": request.headers.get("idempotency-key", ""),
    }
    for name, value in given.items():
        if has_card_number(str(value)):
            raise Invalid(name, "must not hold a card number")


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
    if occurred_at.year < EARLIEST:
        raise Invalid("occurred_at", f"must not lie before the year {EARLIEST}")
    return occurred_at.astimezone(timezone.utc)


OccurredAt = Annotated[
    AwareDatetime | None, Field(default=None, description="when it happened, if not now; must have an offset")
]

Answer = Callable[[S, Sequence[Fact]], tuple[int, BaseModel]]

# In the order of keys, so that two batches with the same ones cannot wait for each other in a circle.
CLAIM = """
INSERT INTO answers (scope, key, fingerprint)
SELECT scope, key, fingerprint FROM unnest($1::text[], $2::text[], $3::bytea[]) AS asked (scope, key, fingerprint)
ORDER BY scope, key ON CONFLICT DO NOTHING RETURNING scope, key"""
FIND = """
SELECT scope, key, fingerprint, status, body FROM answers JOIN unnest($1::text[], $2::text[]) AS asked (scope, key)
USING (scope, key)"""
GIVE_BACK = """
DELETE FROM answers USING unnest($1::text[], $2::text[]) AS asked (scope, key)
WHERE answers.scope = asked.scope AND answers.key = asked.key"""
REMEMBER = """
UPDATE answers SET status = given.status, body = given.body
FROM unnest($1::text[], $2::text[], $3::int[], $4::json[]) AS given (scope, key, status, body)
WHERE answers.scope = given.scope AND answers.key = given.key"""


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
class _Once:
    """A request that is answered once, and how its answer is made."""

    scope: str
    key: str
    fingerprint: bytes
    answer: Answer[Any]

    @property
    def name(self) -> tuple[str, str]:
        return self.scope, self.key


@dataclass(frozen=True, slots=True, eq=False)
class _Asked:
    """Commands that come together, and who waits for what becomes of them: a response, or the errors of `process`."""

    messages: Sequence[Message[Any]]
    once: _Once | None
    done: asyncio.Future[Any]

    @property
    def names(self) -> set[tuple[str, str]]:
        """What no other of the same batch may name."""
        return {("", t.key) for t in self.messages} | ({self.once.name} if self.once is not None else set())

    def settle(self, result: Any) -> None:
        """Unless whoever asked has gone."""
        if self.done.done():
            return
        if isinstance(result, Exception):
            self.done.set_exception(result)
        else:
            self.done.set_result(result)


@dataclass(slots=True)
class _Queue:
    """What waits for a flow, in the order it came."""

    flow: Flow[Any, Any, Any]
    waiting: list[_Asked] = field(default_factory=list)
    at_work: int = 0

    def batch(self) -> list[_Asked]:
        """The first that go together: no aggregate twice, so that each is answered with the state that its own commands
        left, and no idempotency key twice."""
        together: list[_Asked] = []
        later: list[_Asked] = []
        named: set[tuple[str, str]] = set()
        commands = 0
        for asked in self.waiting:
            is_free = commands < TOGETHER and named.isdisjoint(asked.names)
            (together if is_free else later).append(asked)
            commands += len(asked.messages) if is_free else 0
            named |= asked.names
        self.waiting = later
        return together


TOGETHER = 100
"""Commands of a transaction, from which on nobody else's are added to it."""
BESIDE = 3
"""Transactions of a flow side by side: one that waits for a row does not hold the others for longer than `PATIENCE_S`."""
WAITS_FOR_LOCKS_S = 3.0
"""How long a request waits for a row that another session holds, before it is answered 503."""
TRIES_LOCKED_EVERY_S = 0.3
FORGETS_LOCKED_AFTER_S = 60.0


@dataclass(slots=True)
class _LockedKey:
    """Whose row another session holds, as far as is known, and when that was tried last."""

    holder: str = "another session of the database"
    tried_at: float = field(default_factory=lambda: time.monotonic() - TRIES_LOCKED_EVERY_S)


PATIENCE_S = 0.01
"""How long what was asked waits to be committed with whatever else comes while another is being committed: most of the
price of a transaction is the same for one and for ten."""


class CommandBus:
    """Where commands from outside are told to a flow, answered once per idempotency key. Those that come while others are
    being committed wait for them, and are committed together: one transaction for many under load, for one at rest."""

    def __init__(self, pool: Pool, notify_relay: Callable[[], None]) -> None:
        self.pool = pool
        self._notify_relay = notify_relay
        self._queues: dict[int, _Queue] = {}
        self._locked: dict[str, _LockedKey] = {}
        self._one_locked = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def answer_once(
        self,
        flow: Flow[S, C, Any],
        message: Message[C],
        answer: Answer[S],
        *,
        scope: str,
        idempotency_key: str,
        fingerprint: bytes,
    ) -> Response:
        """Decide and commit, or replay the answer that `idempotency_key` got before in its scope.

        Raises NotAllowed and Invalid as the flow does (nothing is stored, the key stays free), and an outage.
        """
        response: Response = await self._submit(flow, [message], _Once(scope, idempotency_key, fingerprint, answer))
        return response

    async def process(self, flow: Flow[S, C, Any], messages: Sequence[Message[C]]) -> list[Exception | None]:
        """Tell a batch without idempotency keys (webhooks, timers, workers): what was refused comes back as its error, and
        as a Locked what waited in vain for a row that another session holds; that was not stored."""
        if not messages:
            return []
        try:
            errors: list[Exception | None] = await self._submit(flow, messages, None)
            return errors
        except Locked as error:
            keys = list(dict.fromkeys(t.key for t in messages))
            if len(keys) == 1:
                return [error] * len(messages)
        by_key = [[t for t in messages if t.key == key] for key in keys]
        found = await asyncio.gather(*(self.process(flow, each) for each in by_key))
        of_message = {id(t): e for each, es in zip(by_key, found, strict=True) for t, e in zip(each, es, strict=True)}
        return [of_message[id(t)] for t in messages]

    @property
    def waiting(self) -> list[str]:
        """Keys whose rows other sessions of the database hold, in words: those that were asked for of late."""
        recent = time.monotonic() - 2 * WAITS_FOR_LOCKS_S
        return [
            f"{key} waits: it is locked by {each.holder}"
            for key, each in self._locked.items()
            if each.tried_at > recent
        ]

    async def _submit(self, flow: Flow[Any, Any, Any], messages: Sequence[Message[Any]], once: _Once | None) -> Any:
        queue = self._queues.setdefault(id(flow), _Queue(flow))
        loop = asyncio.get_running_loop()
        asked = _Asked(messages, once, loop.create_future())
        if any(t.key in self._locked for t in messages):
            self._run(self._wait_for_lock(flow, asked))
            return await asked.done
        queue.waiting.append(asked)
        if not queue.at_work or len(messages) >= TOGETHER:
            self._begin(queue, asked)
        else:
            loop.call_later(PATIENCE_S, self._begin, queue, asked)
        return await asked.done

    def _begin(self, queue: _Queue, asked: _Asked) -> None:
        """One more transaction, unless this one is in another by now or too many are at work already."""
        if queue.at_work < BESIDE and asked in queue.waiting:
            queue.at_work += 1
            self._run(self._work(queue))

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        # Not in the context of the one who happened to come first.
        task = asyncio.create_task(work, context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _work(self, queue: _Queue) -> None:
        try:
            while batch := queue.batch():
                await self._serve(queue.flow, batch)
        finally:
            queue.at_work -= 1

    async def _serve(self, flow: Flow[Any, Any, Any], batch: Sequence[_Asked]) -> None:
        """Everybody gets an answer. What breaks on one of them (a law of the database, a fault of ours) is that one's."""
        results: Sequence[Any]
        try:
            async with self.pool.acquire(timeout=5) as db:
                results = await self._commit(db, flow, batch)
        except LOCK_TIMEOUT as error:
            results = await self._go_on_without_locked(flow, batch, error)
        except Exception as error:  # noqa: BLE001 -- raised where it is waited for
            is_outage = isinstance(error, OUTAGES) and not isinstance(error, BROKEN_LAWS)
            if len(batch) > 1 and not is_outage:
                for asked in batch:
                    await self._serve(flow, [asked])
                return
            results = [error] * len(batch)
        except asyncio.CancelledError:
            for asked in batch:
                asked.done.cancel()
            raise
        for asked, result in zip(batch, results, strict=False):
            asked.settle(result)

    async def _go_on_without_locked(
        self, flow: Flow[Any, Any, Any], batch: Sequence[_Asked], error: Exception
    ) -> Sequence[Any]:
        """What another session's lock holds up waits by itself, the rest is served now. Nothing is left to be settled,
        but for an outage."""
        try:
            locked = await locked_keys(self.pool, {t.key for asked in batch for t in asked.messages})
        except OUTAGES as outage:
            return [outage] * len(batch)
        # Without a row that is known to be locked it is another one: a shelf's, or one that is being made.
        waiting = [asked for asked in batch if not locked or any(t.key in locked for t in asked.messages)]
        for key in locked:
            self._locked.setdefault(key, _LockedKey())
        for asked in waiting:
            self._run(self._wait_for_lock(flow, asked))
        if rest := [asked for asked in batch if asked not in waiting]:
            await self._serve(flow, rest)
        return ()

    async def _wait_for_lock(self, flow: Flow[Any, Any, Any], asked: _Asked) -> None:
        """By itself, and with all that wait for locks on one connection: nobody else's slot is taken."""
        key = asked.messages[0].key
        if len({t.key for t in asked.messages}) > 1:
            asked.settle(Locked(key, _LockedKey().holder))  # each of them by itself: see `process`
            return
        deadline = time.monotonic() + WAITS_FOR_LOCKS_S
        while not asked.done.done():
            async with self._one_locked:
                known = self._locked.get(key)
                if known is None or time.monotonic() - known.tried_at > TRIES_LOCKED_EVERY_S:
                    try:
                        result = await self._try_locked(flow, asked)
                    except Exception as error:  # noqa: BLE001 -- raised where it is waited for
                        result = error
                    if not isinstance(result, Locked):
                        if self._locked.pop(key, None) is not None:
                            log.info("key.unlocked", key=key)
                        asked.settle(result)
                        return
                    self._note_locked(key, result.holder)
            if time.monotonic() > deadline:
                asked.settle(Locked(key, self._locked.get(key, _LockedKey()).holder))
                return
            await asyncio.sleep(TRIES_LOCKED_EVERY_S / 3)

    def _note_locked(self, key: str, holder: str) -> None:
        known = self._locked.setdefault(key, _LockedKey())
        if known.holder != holder:
            log.warning("key.locked", key=key, held_by=holder)
        known.holder, known.tried_at = holder, time.monotonic()
        forgotten = known.tried_at - FORGETS_LOCKED_AFTER_S
        for other in [other for other, each in self._locked.items() if each.tried_at < forgotten]:
            del self._locked[other]

    async def _try_locked(self, flow: Flow[Any, Any, Any], asked: _Asked) -> Any:
        """Its response or errors; a Locked where the row cannot be had yet."""
        async with self.pool.acquire(timeout=5) as db, holders(self.pool, db) as found:
            try:
                [result] = await self._commit(db, flow, [asked], RETRY_SECONDS)
            except LOCK_TIMEOUT:
                return Locked(asked.messages[0].key, in_words(found))
            return result

    async def _commit(
        self, db: Db, flow: Flow[Any, Any, Any], batch: Sequence[_Asked], waits: float | None = None
    ) -> list[Any]:
        """What becomes of each, in one transaction: its response or errors, or what it raises."""
        async with db.transaction():
            if waits is not None:
                await give_up_after(db, waits)
            settled = await _settled_before(db, [asked.once for asked in batch if asked.once is not None])
            fresh = [asked for asked in batch if asked.once is None or asked.once.name not in settled]
            outcomes: list[Outcome] = []
            held: dict[str, LockedAggregate[Any]] = {}
            if fresh:
                outcomes, held = await apply(db, flow, [t for asked in fresh for t in asked.messages])
            became = iter(outcomes)
            of_asked = {id(asked): [next(became) for _ in asked.messages] for asked in fresh}
            results: list[Any] = []
            refused: list[tuple[str, str]] = []
            answered: list[tuple[str, str, int, str]] = []
            for asked in batch:
                if asked.once is None:
                    results.append([outcome.error for outcome in of_asked[id(asked)]])
                elif asked.once.name in settled:
                    results.append(_replayed(settled[asked.once.name], asked.once))
                else:
                    [outcome] = of_asked[id(asked)]
                    if outcome.error is not None:
                        refused.append(asked.once.name)
                        results.append(outcome.error)
                        continue
                    aggregate = held[asked.messages[0].key]
                    status, body = asked.once.answer(aggregate.state, outcome.facts)
                    text = body.model_dump_json()
                    answered.append((*asked.once.name, status, text))
                    etag = {"ETag": f'"{aggregate.sequence}"'}
                    results.append(Response(text, status, media_type="application/json", headers=etag))
            if answered:
                await db.execute(REMEMBER, *zip(*answered, strict=True))
            if refused:
                await db.execute(GIVE_BACK, *zip(*refused, strict=True))
        if any(outcome.facts for outcome in outcomes):
            self._notify_relay()
        return results


async def _settled_before(db: Db, asked: Sequence[_Once]) -> dict[tuple[str, str], asyncpg.Record]:
    """Take the keys; what those that were taken before were answered. Whoever takes one just now is waited for."""
    settled: dict[tuple[str, str], asyncpg.Record] = {}
    while asked:
        scopes, keys = [once.scope for once in asked], [once.key for once in asked]
        taken = {tuple(row) for row in await db.fetch(CLAIM, scopes, keys, [once.fingerprint for once in asked])}
        if len(taken) < len(asked):
            found = await db.fetch(FIND, scopes, keys)
            settled |= {name: row for row in found if (name := (row["scope"], row["key"])) not in taken}
        # One that was there and is not any more was pruned in between: it can be taken now.
        asked = [once for once in asked if once.name not in taken and once.name not in settled]
    return settled


def _replayed(row: asyncpg.Record, once: _Once) -> Response | Invalid:
    if row["fingerprint"] != once.fingerprint:
        return Invalid("Idempotency-Key", "was used with another body")
    return Response(row["body"], row["status"], media_type="application/json", headers={"Idempotency-Replayed": "true"})


async def commands(request: Request) -> CommandBus:
    found: CommandBus = request.app.state.commands
    return found


Commands = Annotated[CommandBus, Depends(commands)]


@dataclass(frozen=True, slots=True)
class CommandRequest:
    """Who asks for a change, at which desk, and under which idempotency key."""

    commands: CommandBus
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

        Raises as `CommandBus.answer_once` does; a short outage is waited out.
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
        message = Message(aggregate, command, cause)
        return await patiently(
            lambda: self.commands.answer_once(
                flow, message, answer, scope=scope, idempotency_key=self.idempotency_key, fingerprint=fingerprint
            )
        )


def asks(*roles: Role) -> Any:
    """A dependency: an `CommandRequest` whose caller has one of these roles. 403 otherwise."""

    async def asking(
        request: Request,
        commands: Commands,
        caller: Annotated[Caller, needs(*roles)],
        idempotency_key: IdempotencyKey,
    ) -> CommandRequest:
        return CommandRequest(commands, request, caller, idempotency_key)

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
        except (ValueError, RecursionError):  # the signature holds; the library parses the body after it
            raise HTTPException(400, f"webhook: the body must be JSON that nests no deeper than {DEPTH}") from None
        try:
            check_body(body)  # whatever content type it was sent as
        except Undecodable as error:
            raise HTTPException(400, f"webhook: {error}") from None
        return SignedBody(id=request.headers["webhook-id"], body=body)

    return Depends(check)


def read_signed(model: type[M], signed_body: SignedBody) -> M:
    """The notice. Raises RequestValidationError, as for a body that the framework reads."""
    try:
        return model.model_validate_json(signed_body.body)
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from None


def webhook_cause(source: str, webhook_id: str, at: datetime, reason: str) -> Cause:
    """A webhook's cause: claimed by (source, id), so that a replay has no second effect."""
    return Cause(
        id=uuid5(NAMESPACE_URL, f"{source}|{webhook_id}"),
        at=at,
        actor=f"partner:{source}",
        reason=reason,
        correlation_id=masked(webhook_id),
        causation_id=masked(webhook_id),
        traceparent=trace.get(),
    )
