"""The services' databases: one each, named as its package, made when missing and brought to the newest version."""

import asyncio
import contextlib
import os
import sys
from collections.abc import Sequence
from urllib.parse import urlsplit

import asyncpg

from ops.supervision import Report, StartFailed, run_once, silent, together


def database_url(postgres: str, package: str) -> str:
    """The DSN of the package's database on the server that an administrator's DSN names."""
    return urlsplit(postgres)._replace(path=f"/{package}").geturl()


async def ensure_databases(
    postgres: str, packages: Sequence[str], *, auth_key: str, report: Report = silent
) -> dict[str, str]:
    """Every package's DSN, its database migrated. `StartFailed` with the migration's own words when one cannot be."""
    urls = {package: database_url(postgres, package) for package in packages}
    report("databases", "creating")
    await _create_missing(postgres, packages)
    # Migrations are short and bound by the interpreter's start: more at once than processors only makes each slower.
    turns = asyncio.Semaphore(os.cpu_count() or 1)

    async def migrate(package: str) -> None:
        async with turns:
            report("databases", f"migrating {package}")
            # They read the service's settings, of which only the database matters to them.
            settings = {"OMS_DATABASE_URL": urls[package], "OMS_AUTH_KEY": auth_key, "OMS_KAFKA": "none"}
            command = (sys.executable, "-m", "shared.migrations", package)
            await run_once(command, environment=os.environ | settings)

    await together(*(migrate(package) for package in packages))
    report("databases", "ready")
    return urls


async def _create_missing(postgres: str, packages: Sequence[str]) -> None:
    try:
        connection = await asyncpg.connect(postgres)
    except (OSError, asyncpg.PostgresError) as error:
        raise StartFailed(f"PostgreSQL does not take our connection: {error}") from error
    try:
        present = {name for (name,) in await connection.fetch("SELECT datname FROM pg_database")}
        for package in packages:
            if package not in present:
                # Another process may be making it at this moment.
                with contextlib.suppress(asyncpg.DuplicateDatabaseError):
                    await connection.execute(f'CREATE DATABASE "{package}"')
    finally:
        await connection.close()
