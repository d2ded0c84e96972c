"""Deadlines: rows that say what must fire and when, told to their flow once, through the same shell as everything else."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import structlog
from aiokafka.errors import KafkaError

from shared.database import BROKEN_LAWS, OUTAGES, Pool
from shared.envelope import Cause
from shared.shell import Flow, Told, apply

log = structlog.get_logger()

Fire = Callable[[str, str, datetime], Any]
"""(key, name, due) -> the command to tell."""

# So few at a time that what they load fits beside everything else: the next are asked for at once.
DUE = "SELECT key, name, due_at FROM deadlines WHERE due_at <= now() ORDER BY due_at LIMIT 100"
# Only as it was read: a deadline that the state has moved meanwhile stays.
FIRED = """
DELETE FROM deadlines USING unnest($1::text[], $2::text[], $3::timestamptz[]) AS fired (key, name, due_at)
WHERE deadlines.key = fired.key AND deadlines.name = fired.name AND deadlines.due_at = fired.due_at"""
POSTPONE = """
UPDATE deadlines SET due_at = now() + interval '5 minutes' WHERE key = $1 AND name = $2 AND due_at = $3"""
POLL_SECONDS = 0.5

Due = tuple[str, str, datetime]


class Timers:
    """Fires the deadlines of one service; several replicas may run it, each deadline has one effect."""

    def __init__(
        self,
        pool: Pool,
        service: str,
        fires: Sequence[tuple[Flow[Any, Any, Any], Fire]],
        woken: Callable[[], None],
        caught_up: Callable[[], Awaitable[datetime | None]] | None = None,
    ) -> None:
        """`caught_up`: up to which instant all that was told has been taken; what is due later waits."""
        self._pool = pool
        self._service = service
        self._fires = {flow.prefix: (flow, fire) for flow, fire in fires}
        self._woken = woken
        self._caught_up = caught_up

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            fired = 0
            try:
                fired = await self.fire()
            except (*OUTAGES, KafkaError) as error:
                log.warning("deadlines.deferred", error=repr(error))
            if not fired:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), POLL_SECONDS)

    async def fire(self) -> int:
        """Tell what is due; returns how many. What is refused was overtaken by the facts, and is dropped; what breaks
        on a fault of ours is tried again later, and holds no other."""
        async with self._pool.acquire(timeout=5) as db:
            due = [(row["key"], row["name"], row["due_at"]) for row in await db.fetch(DUE)]
        if due and self._caught_up is not None:
            until = await self._caught_up()
            due = [one for one in due if until is not None and one[2] <= until]
        try:
            await self._fire(due)
        except Exception as error:
            if isinstance(error, OUTAGES) and not isinstance(error, BROKEN_LAWS):
                raise
            for one in due:
                await self._fire_alone(one)
        if due:
            self._woken()
        return len(due)

    async def _fire_alone(self, due: Due) -> None:
        try:
            await self._fire([due])
        except Exception as error:
            if isinstance(error, OUTAGES) and not isinstance(error, BROKEN_LAWS):
                raise
            log.error("deadline.failed", key=due[0], name=due[1], error=repr(error), exc_info=error)
            async with self._pool.acquire(timeout=5) as db:
                await db.execute(POSTPONE, *due)

    async def _fire(self, due: Sequence[Due]) -> None:
        if not due:
            return
        batches: dict[int, tuple[Flow[Any, Any, Any], list[Told[Any]]]] = {}
        for key, name, due_at in due:
            flow, fire = self._fires[key.partition(":")[0] if ":" in key else ""]
            cause = Cause(
                id=uuid5(NAMESPACE_URL, f"{key}|{name}|{due_at.isoformat()}"),
                at=due_at,
                actor=f"service:{self._service}",
                reason=f"deadline {name}",
                correlation_id=f"deadline:{key}:{name}",
            )
            batches.setdefault(id(flow), (flow, []))[1].append(Told(key, fire(key, name, due_at), cause))
        async with self._pool.acquire(timeout=5) as db, db.transaction():
            for flow, told in batches.values():
                outcomes, _ = await apply(db, flow, told)
                for t, outcome in zip(told, outcomes, strict=True):
                    if outcome.error is not None:
                        log.info("deadline.overtaken", key=t.key, reason=t.cause.reason, error=str(outcome.error))
            await db.execute(FIRED, [d[0] for d in due], [d[1] for d in due], [d[2] for d in due])
