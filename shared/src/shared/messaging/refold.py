"""Refold folds states again whose rows were written by an image with another shape of state, once per start of a service.

An older row lacks a field that the state gained, and would read as if nothing had happened that the field tells of. Commands
therefore fold such a row from its journal before they decide (`shell`). Refold does it for the rows that no command touches,
whose deadlines and pages would otherwise stay as they were. Several replicas may do it side by side.
"""

import asyncio
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

import structlog

from shared.messaging.database import BROKEN_LAWS, OUTAGES, Pool
from shared.messaging.relay import stopped_within
from shared.messaging.shell import Flow, refold

log = structlog.get_logger()

PAGE: Final = 100
BREATH_SECONDS: Final = 0.02
"""Between pages, so that a large table is nobody's outage."""
WAITS_SECONDS: Final = 5.0

# Ranges, so that the index finds few rows among many. Rows that others hold are theirs to fold anew.
OUTDATED = """
SELECT key FROM states WHERE ({ranges}) AND sequence > 0 AND key <> ALL($1::text[])
LIMIT $2 FOR UPDATE SKIP LOCKED"""


class Refold:
    """Folds one service's outdated states anew."""

    def __init__(self, pool: Pool, flows: Sequence[Flow[Any, Any, Any]]) -> None:
        self._pool = pool
        self._flows = {flow.prefix: flow for flow in flows}
        self._statement = OUTDATED.format(ranges=_other_than({flow.shape for flow in flows}))
        self._failed: list[str] = []

    async def run(self, stop: asyncio.Event) -> None:
        """Work through all outdated rows, then end; an outage is waited out."""
        count = 0
        while not stop.is_set():
            try:
                done = await self._page(PAGE)
            except OUTAGES as error:
                log.warning("refold.deferred", error=repr(error))
                await stopped_within(stop, WAITS_SECONDS)
                continue
            count += done
            if not done or await stopped_within(stop, BREATH_SECONDS):
                break
        if count:
            log.info("states.folded_anew", states=count - len(self._failed), failed=len(self._failed))

    async def _page(self, size: int) -> int:
        """Fold a page of rows; return how many were looked at. A row that cannot be folded, or whose state breaks a
        constraint, is left and named in the log. Raises what is no fault of a row."""
        keys: list[str] = []
        try:
            async with self._pool.acquire(timeout=5) as db, db.transaction():
                keys = [row[0] for row in await db.fetch(self._statement, self._failed, size)]
                for flow in self._flows.values():
                    of_flow = sorted(key for key in keys if self._flow_of(key) is flow)
                    if of_flow:
                        self._failed += await refold(db, flow, of_flow)
        except Exception as error:
            if not keys or (isinstance(error, OUTAGES) and not isinstance(error, BROKEN_LAWS)):
                raise
            if size > 1:
                return sum([await self._page(1) for _ in keys])
            self._failed += keys
            log.error("state.not_folded", key=keys[0], error=repr(error), exc_info=error)
        return len(keys)

    def _flow_of(self, key: str) -> Flow[Any, Any, Any]:
        return self._flows[key.partition(":")[0] if ":" in key else ""]


def _other_than(shapes: set[str]) -> str:
    """Return a condition on the column, in ranges between the shapes."""
    known = sorted(shapes)
    between = [f"shape > '{low}' AND shape < '{high}'" for low, high in pairwise(known)]
    return " OR ".join(["shape IS NULL", f"shape < '{known[0]}'", *between, f"shape > '{known[-1]}'"])
