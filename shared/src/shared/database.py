"""The pool, and what counts as an outage: something to wait out, never a bad message."""

import asyncio
from typing import TypeAlias

import asyncpg

from shared.settings import Settings

Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

OUTAGES = (OSError, asyncio.TimeoutError, asyncpg.InterfaceError, asyncpg.PostgresError)
"""What a database that is away, starting, full, not migrated or choosing a deadlock's victim raises: the same work
succeeds later. BROKEN_LAWS are not among them although they are PostgresErrors: catch those first."""

BROKEN_LAWS = (asyncpg.IntegrityConstraintViolationError, asyncpg.DataError)
"""A row breaks a constraint or a type: the same work never succeeds."""


async def connect(settings: Settings) -> Pool:
    """A pool whose statements give up after half a minute; connections are made as they are needed."""
    return await asyncpg.create_pool(
        settings.database_url.get_secret_value(),
        min_size=0,
        max_size=settings.database_pool,
        statement_cache_size=settings.statement_cache_size,
        command_timeout=30,
        timeout=5,
        server_settings={"application_name": "order-workflows"},
    )
