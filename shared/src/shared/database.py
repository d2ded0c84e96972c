"""The pool, and what counts as an outage: something to wait out, never a bad message."""

import asyncio
from typing import TypeAlias

import asyncpg

from shared.settings import Settings

Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

OUTAGES = (
    OSError,
    asyncio.TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.CannotConnectNowError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.TransactionRollbackError,
)
"""The database is away, shutting down, full, or chose us as a deadlock's victim: the same work succeeds later."""


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
