"""Locked rows are held by another session of the database. This says which keys wait for them, and who holds them."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Final

import asyncpg

from shared.messaging.database import Pool
from shared.messaging.shell import Db

LOCK_TIMEOUT: Final = asyncpg.LockNotAvailableError
RETRY_SECONDS: Final = 0.2
"""How long work on a key that is known to be locked waits for the row: it is tried again soon, and others go on meanwhile."""
LOOKS_AFTER: Final = 0.05
"""Who still waits after this long is not waiting for a transaction of ours that is about to end."""
MOST_LOCKED: Final = 200
"""Keys of a batch. With more, it is the database that does not answer, and not one row."""

# Of the aggregates that exist; what another transaction is just inserting is not seen.
LOCKED_KEYS = """
WITH free AS MATERIALIZED (SELECT key FROM states WHERE key = ANY($1::text[]) FOR UPDATE SKIP LOCKED)
SELECT key FROM states WHERE key = ANY($1::text[]) EXCEPT SELECT key FROM free"""
TABLE_IS_LOCKED = """
SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'relation' AND granted AND pid <> pg_backend_pid()
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock'))"""
# Who waits for the row too, and is ahead in its queue, holds nothing.
HOLDERS = """
WITH RECURSIVE ahead (pid) AS (
    SELECT unnest(pg_blocking_pids($1)) UNION SELECT unnest(pg_blocking_pids(pid)) FROM ahead)
SELECT pid, usename, application_name, host(client_addr) AS client, xact_start
FROM pg_stat_activity JOIN ahead USING (pid) WHERE pg_blocking_pids(pid) = '{}' ORDER BY xact_start"""


class Locked(Exception):
    """The key's row is held by another session of the database; nothing was stored."""

    def __init__(self, key: str, holder: str) -> None:
        self.key, self.holder = key, holder
        super().__init__(f"{key} is locked by {holder}")


async def locked_keys(pool: Pool, keys: Iterable[str]) -> set[str]:
    """Return the keys whose rows somebody else holds just now. Raises a lock time-out where a whole table is locked."""
    async with pool.acquire(timeout=5) as db:
        found = {row["key"] for row in await db.fetch(LOCKED_KEYS, sorted(keys))}
        if len(found) > MOST_LOCKED or (not found and await db.fetchval(TABLE_IS_LOCKED)):
            raise LOCK_TIMEOUT("more than a few rows are locked by other sessions of the database")
    return found


async def give_up_after(db: Db, seconds: float) -> None:
    """Limit, in this transaction, how long each locked row is waited for."""
    await db.execute("SELECT set_config('lock_timeout', $1, true)", f"{round(seconds * 1000)}ms")


@asynccontextmanager
async def holders(pool: Pool, db: Db) -> AsyncIterator[list[str]]:
    """Say in words who holds what `db` waits for meanwhile; nobody where it hardly waits."""
    pid, found = db.get_server_pid(), list[str]()

    async def look() -> None:
        await asyncio.sleep(LOOKS_AFTER)
        async with pool.acquire(timeout=5) as other:
            found.extend(_words(row) for row in await other.fetch(HOLDERS, pid))

    looking = asyncio.create_task(look())
    try:
        yield found
    finally:
        looking.cancel()
        with suppress(asyncio.CancelledError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            await looking


def in_words(found: Iterable[str]) -> str:
    return " and ".join(found) or "another session of the database"


def _words(row: asyncpg.Record) -> str:
    who = " ".join(filter(None, (row["application_name"], row["usename"], row["client"])))
    since = row["xact_start"].isoformat(timespec="seconds") if row["xact_start"] else "?"
    return f"backend {row['pid']} ({who}, in a transaction since {since})"
