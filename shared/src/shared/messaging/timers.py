"""Timers fire deadlines: rows that say what must fire and when. Each is applied to its flow once, through the same shell as
everything else."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from datetime import datetime
from typing import Any, Final
from uuid import NAMESPACE_URL, uuid5

import structlog
from aiokafka.errors import KafkaError

from shared.messaging.database import BROKEN_LAWS, OUTAGES, Pool, transposed
from shared.messaging.envelope import Cause
from shared.messaging.locks import LOCK_TIMEOUT, RETRY_SECONDS, give_up_after, holders, in_words
from shared.messaging.shell import Db, Flow, Message, apply, is_refusal

log = structlog.get_logger()

Fire = Callable[[str, str, datetime], Any]
"""(key, name, due) -> the command to tell."""

# So few at a time that what they load fits beside everything else: the next are asked for at once.
DUE = """
SELECT key, name, due_at FROM deadlines
WHERE due_at <= now() AND given_up_at IS NULL AND (retry_at IS NULL OR retry_at <= now()) ORDER BY due_at LIMIT 100"""
# Only as it was read: a deadline that the state has moved meanwhile stays.
FIRED = """
DELETE FROM deadlines USING unnest($1::text[], $2::text[], $3::timestamptz[]) AS fired (key, name, due_at)
WHERE deadlines.key = fired.key AND deadlines.name = fired.name AND deadlines.due_at = fired.due_at"""
FAILED = """
UPDATE deadlines SET attempts = attempts + 1, failure = $4, given_up_at = CASE WHEN attempts + 1 >= $5 THEN now() END,
    retry_at = now() + least(interval '5 seconds' * 2 ^ attempts, interval '1 hour')
WHERE key = $1 AND name = $2 AND due_at = $3 RETURNING attempts, given_up_at"""
WAITS = """
UPDATE deadlines SET failure = $4, retry_at = now() + interval '2 seconds'
WHERE key = $1 AND name = $2 AND due_at = $3"""
RETRY = """
UPDATE deadlines SET attempts = 0, retry_at = NULL, given_up_at = NULL WHERE key = $1 AND failure IS NOT NULL
RETURNING name"""
POLL_SECONDS = 0.5
GIVES_UP_AFTER: Final = 20
"""Attempts, the last ones an hour apart: about half a day."""

Due = tuple[str, str, datetime]


class Timers:
    """Timers fire the deadlines of one service. Several replicas may run them; each deadline has one effect."""

    def __init__(
        self,
        pool: Pool,
        service: str,
        fires: Sequence[tuple[Flow[Any, Any, Any], Fire]],
        notify_relay: Callable[[], None],
        caught_up: Callable[[], Awaitable[datetime | None]] | None = None,
    ) -> None:
        """`caught_up` says up to which instant everything has been processed; what is due later waits."""
        self._pool = pool
        self._service = service
        self._fires = {flow.prefix: (flow, fire) for flow, fire in fires}
        self._notify_relay = notify_relay
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
        """Fire what is due, and return how many. What is refused was overtaken by the facts and is dropped. What breaks on a
        fault of ours, or waits for a locked row, is tried again later and holds up no other."""
        async with self._pool.acquire(timeout=5) as db:
            due = [(row["key"], row["name"], row["due_at"]) for row in await db.fetch(DUE)]
        if due and self._caught_up is not None:
            until = await self._caught_up()
            due = [one for one in due if until is not None and one[2] <= until]
        try:
            await self._fire(due)
        except Exception as error:
            if isinstance(error, OUTAGES) and not isinstance(error, (*BROKEN_LAWS, LOCK_TIMEOUT)):
                raise
            for one in due:
                await self._fire_alone(one)
        if due:
            self._notify_relay()
        return len(due)

    async def _fire_alone(self, due: Due) -> None:
        """Fire one deadline by itself; what became of it stands beside it."""
        async with self._pool.acquire(timeout=5) as db, holders(self._pool, db) as found:
            try:
                await self._fire([due], db, RETRY_SECONDS)
            except LOCK_TIMEOUT:
                log.warning("key.locked", key=due[0], name=due[1], held_by=found)
                await db.execute(WAITS, *due, f"its row is locked by {in_words(found)}")
            except Exception as error:
                if isinstance(error, OUTAGES) and not isinstance(error, BROKEN_LAWS):
                    raise
                await self._failed(db, due, error)

    @staticmethod
    async def _failed(db: Db, due: Due, error: Exception) -> None:
        row = await db.fetchrow(FAILED, *due, f"{error!r}"[:1000].replace("\x00", ""), GIVES_UP_AFTER)
        if row is not None:
            of_it = {
                "key": due[0],
                "name": due[1],
                "attempts": row["attempts"],
                "given_up": row["given_up_at"] is not None,
            }
            log.error("deadline.failed", **of_it, error=repr(error), exc_info=error)

    async def _fire(self, due: Sequence[Due], given: "Db | None" = None, waits: float | None = None) -> None:
        if not due:
            return
        batches: dict[int, tuple[Flow[Any, Any, Any], list[Message[Any]], list[Due]]] = {}
        for key, name, due_at in due:
            flow, fire = self._fires[key.partition(":")[0] if ":" in key else ""]
            cause = Cause(
                id=uuid5(NAMESPACE_URL, f"{key}|{name}|{due_at.isoformat()}"),
                at=due_at,
                actor=f"service:{self._service}",
                reason=f"deadline {name}",
                correlation_id=f"deadline:{key}:{name}",
            )
            _, messages, sources = batches.setdefault(id(flow), (flow, [], []))
            messages.append(Message(key, fire(key, name, due_at), cause))
            sources.append((key, name, due_at))
        async with nullcontext(given) if given else self._pool.acquire(timeout=5) as db, db.transaction():
            if waits is not None:
                await give_up_after(db, waits)
            broken: list[Due] = []
            for flow, messages, sources in batches.values():
                outcomes, _ = await apply(db, flow, messages)
                for one, outcome in zip(sources, outcomes, strict=True):
                    if is_refusal(outcome.error):
                        log.info("deadline.overtaken", key=one[0], name=one[1], error=str(outcome.error))
                    elif outcome.error is not None:
                        broken.append(one)
                        await self._failed(db, one, outcome.error)
            fired = [one for one in due if one not in broken]
            await db.execute(FIRED, *transposed(fired, 3))
