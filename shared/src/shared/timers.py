"""Deadlines: rows that say what must fire and when, told to their flow once, through the same shell as everything else."""

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import structlog

from shared.database import OUTAGES, Pool
from shared.envelope import Cause
from shared.shell import Flow, Told, apply

log = structlog.get_logger()

Fire = Callable[[str, str, datetime], Any]
"""(key, name, due) -> the command to tell."""

DUE = "SELECT key, name, due_at FROM deadlines WHERE due_at <= now() ORDER BY due_at LIMIT 500"
# Only as it was read: a deadline that the state has moved meanwhile stays.
FIRED = """
DELETE FROM deadlines USING unnest($1::text[], $2::text[], $3::timestamptz[]) AS fired (key, name, due_at)
WHERE deadlines.key = fired.key AND deadlines.name = fired.name AND deadlines.due_at = fired.due_at"""
POLL_SECONDS = 0.5


class Timers:
    """Fires the deadlines of one service; several replicas may run it, each deadline has one effect."""

    def __init__(
        self, pool: Pool, service: str, fires: Mapping[str, tuple[Flow[Any, Any, Any], Fire]], woken: Callable[[], None]
    ) -> None:
        """`fires` by the prefix of the key, "" for orders' own keys."""
        self._pool = pool
        self._service = service
        self._fires = fires
        self._woken = woken

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            fired = 0
            try:
                fired = await self.fire()
            except OUTAGES as error:
                log.warning("deadlines.deferred", error=repr(error))
            if not fired:
                try:
                    await asyncio.wait_for(stop.wait(), POLL_SECONDS)
                except TimeoutError:
                    continue

    async def fire(self) -> int:
        """Tell what is due; returns how many. What is refused was overtaken by the facts, and is dropped."""
        async with self._pool.acquire(timeout=5) as db, db.transaction():
            due = await db.fetch(DUE)
            if not due:
                return 0
            batches: dict[int, tuple[Flow[Any, Any, Any], list[Told[Any]]]] = {}
            for key, name, due_at in due:
                prefix = key.partition(":")[0] if ":" in key else ""
                flow, fire = self._fires[prefix]
                cause = Cause(
                    id=uuid5(NAMESPACE_URL, f"{key}|{name}|{due_at.isoformat()}"),
                    at=due_at,
                    actor=f"service:{self._service}",
                    reason=f"deadline {name}",
                    correlation_id=f"deadline:{key}:{name}",
                )
                batches.setdefault(id(flow), (flow, []))[1].append(Told(key, fire(key, name, due_at), cause))
            for flow, told in batches.values():
                outcomes, _ = await apply(db, flow, told)
                for t, outcome in zip(told, outcomes, strict=True):
                    if outcome.error is not None:
                        log.info("deadline.overtaken", key=t.key, reason=t.cause.reason, error=str(outcome.error))
            await db.execute(FIRED, [d["key"] for d in due], [d["name"] for d in due], [d["due_at"] for d in due])
        self._woken()
        return len(due)
