"""Commands of requests, webhooks and workers are decided in batches, and answered once per idempotency key."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextvars import Context
from dataclasses import dataclass, field
from datetime import datetime, timezone
from hashlib import sha256
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from uuid import NAMESPACE_URL, uuid5

import asyncpg
import structlog
from fastapi import Depends, Header, Request, Response
from pydantic import AwareDatetime, BaseModel, Field
from uuid_utils.compat import uuid7

from shared.contracts.base import Fact
from shared.core.card_numbers import has_card_number
from shared.core.machine import Invalid
from shared.messaging.database import BROKEN_LAWS, OUTAGES, Pool
from shared.messaging.envelope import CLOCK_SKEW, EARLIEST, Cause
from shared.messaging.locks import LOCK_TIMEOUT, RETRY_SECONDS, Locked, give_up_after, holders, in_words, locked_keys
from shared.messaging.shell import Db, Flow, LockedAggregate, Message, Outcome, apply
from shared.web.auth import Caller, Role

if TYPE_CHECKING:
    pass
from shared.web.callers import needs
from shared.web.middleware import trace

log = structlog.get_logger()

S = TypeVar("S")
C = TypeVar("C")


def check_parameters(request: Request) -> None:
    """Refuse a card number in the address of a request that changes something, or in its idempotency key. Raises Invalid."""
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
    """Return when it happened: as the caller says, else now. Raises Invalid for the future."""
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
    """It is a request that is answered once, and how its answer is made."""

    scope: str
    key: str
    fingerprint: bytes
    answer: Answer[Any]

    @property
    def name(self) -> tuple[str, str]:
        return self.scope, self.key


@dataclass(frozen=True, slots=True, eq=False)
class _Asked:
    """It has messages that come together, and who waits for the result: a response, or the errors of `process`."""

    messages: Sequence[Message[Any]]
    once: _Once | None
    done: asyncio.Future[Any]

    @property
    def names(self) -> set[tuple[str, str]]:
        """Return what no other of the same batch may name."""
        return {("", t.key) for t in self.messages} | ({self.once.name} if self.once is not None else set())

    def settle(self, result: Any) -> None:
        """Hand over the result, unless the caller has gone."""
        if self.done.done():
            return
        if isinstance(result, Exception):
            self.done.set_exception(result)
        else:
            self.done.set_result(result)


@dataclass(slots=True)
class _Queue:
    """It holds what waits for a flow, in the order it came."""

    flow: Flow[Any, Any, Any]
    waiting: list[_Asked] = field(default_factory=list)
    at_work: int = 0

    def batch(self) -> list[_Asked]:
        """Take the first that go together: no aggregate twice, so that each is answered with the state that its own commands
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
    """It says whose session holds the row of a key, as far as is known, and when that was tried last."""

    holder: str = "another session of the database"
    tried_at: float = field(default_factory=lambda: time.monotonic() - TRIES_LOCKED_EVERY_S)


PATIENCE_S = 0.01
"""How long what was asked waits to be committed with whatever else comes while another is being committed: most of the
price of a transaction is the same for one and for ten."""


class CommandBus:
    """The command bus gives messages from outside to a flow, and answers once per idempotency key. Messages that come while
    others are being committed wait for them and are committed together: many in one transaction under load, one at rest.
    """

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
        """Process a batch without idempotency keys (webhooks, timers, workers). What was refused comes back as its error.
        What waited in vain for a row that another session holds comes back as a Locked, and was not stored."""
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
        """Say in words which keys were asked for of late and have rows that other sessions of the database hold."""
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
        """Begin one more transaction, unless what was asked is in another by now or too many are at work already."""
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
        """Answer everybody. What breaks on one of them (a constraint, a fault of ours) affects that one only."""
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
        """Let what another session's lock holds up wait by itself, and serve the rest now. Nothing is left to be settled, but
        for an outage."""
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
        """Wait by itself, with all that wait for locks on one connection, so that it takes nobody else's slot."""
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
        """Return its response or errors; a Locked where the row cannot be had yet."""
        async with self.pool.acquire(timeout=5) as db, holders(self.pool, db) as found:
            try:
                [result] = await self._commit(db, flow, [asked], RETRY_SECONDS)
            except LOCK_TIMEOUT:
                return Locked(asked.messages[0].key, in_words(found))
            return result

    async def _commit(
        self, db: Db, flow: Flow[Any, Any, Any], batch: Sequence[_Asked], waits: float | None = None
    ) -> list[Any]:
        """Commit all in one transaction; return for each its response or errors, or what it raises."""
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
    """Claim the keys, and return the answers of those that were claimed before. A key that somebody claims just now is waited
    for."""
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
    """It says who asks for a change, on which command bus, and under which idempotency key."""

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
        """Submit the command; return its answer, its effect committed, or the first answer again where the key was used
        before.

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
    """Make a dependency: a `CommandRequest` whose caller has one of these roles; 403 otherwise."""

    async def asking(
        request: Request,
        commands: Commands,
        caller: Annotated[Caller, needs(*roles)],
        idempotency_key: IdempotencyKey,
    ) -> CommandRequest:
        return CommandRequest(commands, request, caller, idempotency_key)

    return Depends(asking)
