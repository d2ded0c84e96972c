"""The database pool, and what counts as an outage: something to wait out, never a bad message."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias
from uuid import UUID

import asyncpg

from shared.settings import Settings

Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

OUTAGES = (
    OSError,
    asyncio.TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresError,
)
"""What a database that is away, starting, full, not migrated or choosing a deadlock's victim raises, and a connection
that is cut in the middle of an answer: the same work succeeds later. BROKEN_LAWS are not among them although they are
PostgresErrors: catch those first."""

BROKEN_LAWS = (asyncpg.IntegrityConstraintViolationError, asyncpg.DataError)
"""A row breaks a constraint or a type: the same work never succeeds."""


LEASE = {
    "idle_in_transaction_session_timeout": "60s",
    "tcp_user_timeout": "20s",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "client_connection_check_interval": "10s",
}
"""How long the server keeps what a paused, killed or unplugged process had locked. A transaction pooler takes none of
these; behind one, they belong to the settings of the database."""


def array(values: Iterable[int | UUID]) -> str:
    """Write numbers or ids as an array literal, for a parameter cast as `$1::text::int[]`. The driver asks of each element of
    a list whether it is a sequence itself, which costs more than all the rest."""
    return f"{{{','.join(map(str, values))}}}"


def transposed(rows: Iterable[Sequence[Any]], width: int) -> Sequence[tuple[Any, ...]]:
    """Turn rows into the columns that `unnest` takes; no rows become empty columns."""
    return [*zip(*rows, strict=True)] or [()] * width


async def _nothing_to_undo(_: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Replace the round trip after each use: the pool has rolled back what was left open, and nobody sets, locks or listens
    for the length of a session on its connections."""


def _limits(settings: Settings) -> dict[str, str]:
    return LEASE | {"lock_timeout": f"{round(settings.lock_seconds * 1000)}ms"}


async def connect(settings: Settings) -> Pool:
    """Open a pool whose statements time out; connections are made as they are needed."""
    return await asyncpg.create_pool(
        settings.database_url.get_secret_value(),
        min_size=0,
        max_size=settings.database_pool,
        statement_cache_size=settings.statement_cache_size,
        command_timeout=settings.statement_seconds,
        timeout=5,
        reset=_nothing_to_undo,
        server_settings={"application_name": "order-workflows"}
        | (_limits(settings) if settings.statement_cache_size else {}),
    )
