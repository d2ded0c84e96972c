"""Workers submit operations and ask after those without an answer, never inside a transaction.

An operation is recorded as submitted before the provider is called, so that one that may have happened is never taken for one
that has not. A worker that dies leaves it to the next, which asks before it does anything.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import structlog
from uuid_utils.compat import uuid7

from payments.domain.decide import Command, GiveUp, MarkUnknown, RecordOutcome, Submit
from payments.domain.operation import ProviderResult
from payments.gateway import Processor, Unanswered
from payments.reconciliation import Auditor
from payments.store import PAYMENTS, Call, claim, failed, submitted
from shared.messaging.database import BROKEN_LAWS, OUTAGES, Pool
from shared.messaging.envelope import Cause
from shared.messaging.shell import Message
from shared.web.commands import CommandBus

log = structlog.get_logger()

POLL_SECONDS: Final = 0.1
ASKS_SECONDS: Final = 0.5
"""Between two looks for operations whose answer is missing: none is missed sooner than that."""
AUDITS_SECONDS: Final = 1.0
"""Between two looks for notices to try again, and for a page of books to compare."""
TELLS_AFTER: Final = 10
"""Failures of one operation after which an anomaly is told of it."""
PAUSE_SECONDS: Final = 1.0
LEASE_SECONDS: Final = 15.0
"""From taking an operation up to telling that it is submitted; whoever takes longer is taken for dead."""


@dataclass(frozen=True, slots=True)
class News:
    """It is a command about an operation, and when it is true."""

    call: Call
    command: Command
    at: datetime


async def _tell(pool: Pool, commands: CommandBus, news: Sequence[News], reason: str) -> None:
    """Apply the news. What cannot be applied to one operation is kept with it, and holds up no other. Raises an outage."""
    if not news:
        return
    messages: list[Message[Command]] = [
        Message(
            n.call.order_id,
            n.command,
            Cause(
                id=uuid7(),
                at=n.at,
                actor="service:payments",
                reason=reason,
                correlation_id=n.call.operation_id,
                traceparent=n.call.traceparent,
            ),
        )
        for n in news
    ]
    errors: Sequence[Exception | None]
    try:
        errors = await commands.process(PAYMENTS, messages)
    except Exception as broken:
        if isinstance(broken, OUTAGES) and not isinstance(broken, BROKEN_LAWS):
            raise
        if len(news) > 1:
            for one in news:
                await _tell(pool, commands, [one], reason)
            return
        errors = [broken]
    for one, error in zip(news, errors, strict=True):
        if error is not None:
            log.error("operation.undecided", operation=one.call.operation_id, error=repr(error), exc_info=error)
            await _keep_failure(pool, commands, one.call, f"{reason}: {error!r}")


async def _keep_failure(pool: Pool, commands: CommandBus, call: Call, why: str) -> None:
    """Store the failure with its row; it is tried again less and less often, and a person is told once it is clear that this
    leads nowhere."""
    if await failed(pool, call.operation_id, why) != TELLS_AFTER:
        return
    cause = Cause(
        id=uuid7(),
        at=call.requested_at,
        actor="service:payments",
        reason="it cannot be dealt with",
        correlation_id=call.operation_id,
        traceparent=call.traceparent,
    )
    message: Message[Command] = Message(call.order_id, GiveUp(call.operation_id, why), cause)
    try:
        [error] = await commands.process(PAYMENTS, [message])
    except BROKEN_LAWS as broken:
        error = broken
    if error is not None:
        log.error("failure.untold", operation=call.operation_id, error=repr(error), exc_info=error)


class Submitter:
    """It keeps up to `calls` calls in flight; one that hangs holds up no other."""

    def __init__(self, pool: Pool, commands: CommandBus, processor: Processor, calls: int) -> None:
        self._pool = pool
        self._commands = commands
        self._processor = processor
        self._calls = calls
        self._flying: dict[asyncio.Task[News], Call] = {}
        self._answered: list[News] = []

    @property
    def is_idle(self) -> bool:
        return not self._flying and not self._answered

    async def step(self, *, takes_up: bool = True) -> bool:
        """Take up what is due and tell what was answered; whether there was anything to do.

        Raises an outage; the answers that could not be told are kept for the next step.
        """
        taken = await self._take_up() if takes_up else 0
        if self._flying:
            done, _ = await asyncio.wait(self._flying, timeout=POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                del self._flying[task]
                self._answered.append(task.result())
        answered = len(self._answered)
        await _tell(self._pool, self._commands, self._answered, "provider answered")
        del self._answered[:answered]
        return bool(taken or answered or self._flying)

    async def _take_up(self) -> int:
        room = self._calls - len(self._flying)
        taken = await claim(self._pool, ["requested"], room, LEASE_SECONDS) if room else []
        if not taken:
            return 0
        news = [News(call, Submit(call.operation_id), call.requested_at) for call in taken]
        await _tell(self._pool, self._commands, news, "provider asked")
        # What was concluded or withdrawn meanwhile is not asked for.
        for call in await submitted(self._pool, [call.operation_id for call in taken]):
            self._flying[asyncio.create_task(self._perform(call))] = call
        return len(taken)

    async def _perform(self, call: Call) -> News:
        try:
            verdict = await self._processor.perform(call)
        except Unanswered as error:
            log.warning("operation.unanswered", operation=call.operation_id, kind=call.kind, error=str(error))
            return News(call, MarkUnknown(call.operation_id), call.requested_at)
        except Exception as error:  # a fault of ours with this one: whether it was sent is not known
            log.error("operation.failed", operation=call.operation_id, error=repr(error), exc_info=error)
            await failed(self._pool, call.operation_id, repr(error))
            return News(call, MarkUnknown(call.operation_id), call.requested_at)
        return News(call, RecordOutcome(call.operation_id, verdict), verdict.at)


class Reconciler:
    """It asks the provider what became of operations whose answer is missing, less and less often, until it is known."""

    def __init__(self, pool: Pool, commands: CommandBus, processor: Processor, calls: int) -> None:
        self._pool = pool
        self._commands = commands
        self._processor = processor
        self._calls = calls

    async def step(self) -> bool:
        """Whether there was anything to ask after. Raises an outage."""
        taken = await claim(self._pool, ["submitted", "unknown"], self._calls, 0)
        found = await asyncio.gather(*(self._find(call) for call in taken))
        news = [one for one in found if one is not None]
        await _tell(self._pool, self._commands, news, "provider asked what became of it")
        return bool(taken)

    async def _find(self, call: Call) -> News | None:
        try:
            verdict: ProviderResult | None = await self._processor.find(call.operation_id)
        except Unanswered as error:
            log.warning("operation.still_unknown", operation=call.operation_id, kind=call.kind, error=str(error))
            return None
        except Exception as error:
            log.error("operation.failed", operation=call.operation_id, error=repr(error), exc_info=error)
            await _keep_failure(self._pool, self._commands, call, repr(error))
            return None
        return News(call, RecordOutcome(call.operation_id, verdict), verdict.at if verdict else call.requested_at)


async def keep_submitting(submitter: Submitter, stop: asyncio.Event) -> None:
    """Submit until stopped; what is in flight then is waited for."""
    await _keep_at(submitter.step, POLL_SECONDS, stop)
    while not submitter.is_idle:
        try:
            await submitter.step(takes_up=False)
        except OUTAGES as error:
            log.warning("answers.lost", error=repr(error))
            return


async def keep_reconciling(reconciler: Reconciler, stop: asyncio.Event) -> None:
    await _keep_at(reconciler.step, ASKS_SECONDS, stop)


async def keep_auditing(auditor: Auditor, stop: asyncio.Event) -> None:
    await _keep_at(auditor.step, AUDITS_SECONDS, stop)


async def _keep_at(step: Callable[[], Awaitable[bool]], seconds: float, stop: asyncio.Event) -> None:
    """Repeat the step; an outage is waited out."""
    while not stop.is_set():
        pause = seconds
        try:
            if await step():
                continue
        except OUTAGES as error:
            log.warning("work.deferred", error=repr(error))
            pause = PAUSE_SECONDS
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), pause)
