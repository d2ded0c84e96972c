"""Retention prunes rows whose time is over, in small batches, and measures how many rows are dead.

The journal, states and what a service's invariants rest on are kept for ever. Every replica runs this; one at a time prunes,
and which one does not matter.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from shared.messaging.database import OUTAGES, Pool
from shared.messaging.relay import stopped_within
from shared.messaging.shell import Db
from shared.settings import Settings

log = structlog.get_logger()

BATCH: Final = 1000
EVERY_SECONDS: Final = 60.0
BREATH_SECONDS: Final = 0.05
"""Between batches, so that a backlog of rows to prune is nobody's outage."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule prunes rows of `table` when the instant in `column` is further back than `days`; null stays, and so does what is
    not `over`."""

    table: str
    column: str
    days: Callable[[Any], int]
    """By the settings of the service."""
    over: str = "TRUE"
    """A condition on the row."""


RULES: Final = (
    Rule("inbox", "claimed_at", lambda settings: settings.inbox_days),
    Rule("answers", "created_at", lambda settings: settings.answers_days),
    Rule("parked", "settled_at", lambda settings: settings.settled_days),
    Rule("withheld", "released_at", lambda settings: settings.settled_days),
)
"""Of the tables that every service has."""

# Released with the transaction: nobody keeps it by dying.
MY_TURN = "SELECT pg_try_advisory_xact_lock(7236, 2)"
PRUNE = """
DELETE FROM {table} WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM {table} WHERE {column} < now() - $1::interval AND {over} ORDER BY {column} LIMIT $2))"""
SIZES = """
SELECT relname AS table, n_live_tup AS live, n_dead_tup AS dead, pg_total_relation_size(relid) AS bytes
FROM pg_stat_user_tables WHERE schemaname = 'public' ORDER BY relname"""


@dataclass(frozen=True, slots=True)
class Size:
    """The size of a table: its rows, those that are dead until vacuum removes them, and its bytes with indexes."""

    table: str
    live: int
    dead: int
    bytes: int


async def sizes(db: Db) -> list[Size]:
    """Read the sizes from the server's statistics, which are a moment late."""
    return [Size(**row) for row in await db.fetch(SIZES)]


class Retention:
    """Prunes one service's database by the rules, and by those of its own tables."""

    def __init__(
        self, pool: Pool, service: str, settings: Settings, registry: CollectorRegistry, own: Sequence[Rule] = ()
    ) -> None:
        self._rules = (*RULES, *own)
        self._pool = pool
        self._service = service
        self._settings = settings
        labels = ["service", "table"]
        self._pruned = Counter("oms_pruned_rows", "rows whose time was over", labels, registry=registry)
        self._live = Gauge("oms_table_live_rows", "rows, as estimated by the database", labels, registry=registry)
        self._dead = Gauge("oms_table_dead_rows", "rows that vacuum has still to clear away", labels, registry=registry)
        self._bytes = Gauge("oms_table_bytes", "size of a table with its indexes", labels, registry=registry)

    async def run(self, stop: asyncio.Event) -> None:
        """Prune once a minute, until stopped; an outage is waited out."""
        while True:
            try:
                await self.prune(stop)
                await self._measure()
            except OUTAGES as error:
                log.warning("retention.deferred", error=repr(error))
            if await stopped_within(stop, EVERY_SECONDS):
                return

    async def prune(self, stop: asyncio.Event) -> dict[str, int]:
        """Prune all rows whose time is over, in batches; return how many of which table."""
        gone: dict[str, int] = {}
        for rule in self._rules:
            while not stop.is_set():
                count = await self._prune(rule)
                gone[rule.table] = gone.get(rule.table, 0) + count
                self._pruned.labels(self._service, rule.table).inc(count)
                if count < BATCH or await stopped_within(stop, BREATH_SECONDS):
                    break
        if any(gone.values()):
            log.info("rows.pruned", **gone)
        return gone

    async def _prune(self, rule: Rule) -> int:
        async with self._pool.acquire(timeout=5) as db, db.transaction():
            if not await db.fetchval(MY_TURN):
                return 0
            statement = PRUNE.format(table=rule.table, column=rule.column, over=rule.over)
            done = await db.execute(statement, timedelta(days=rule.days(self._settings)), BATCH)
        return int(done.rpartition(" ")[2])

    async def _measure(self) -> None:
        async with self._pool.acquire(timeout=5) as db:
            for size in await sizes(db):
                self._live.labels(self._service, size.table).set(size.live)
                self._dead.labels(self._service, size.table).set(size.dead)
                self._bytes.labels(self._service, size.table).set(size.bytes)
