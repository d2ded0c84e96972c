"""A database of one's own for each test: copied from a migrated template, dropped afterwards."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import pytest

from shared.migrations.__main__ import migrate
from shared.settings import Settings
from tests.backends import Backends, Kind

AUTH_KEY = "a key for tests, at least thirty-two bytes long"
CRM_SECRET = "whsec_Y3JtLXNlY3JldC1vZi10ZXN0cy0wMDAwMDAw"
SUPPORT_SETTINGS = {
    "OMS_CRM_WEBHOOK_SECRET": CRM_SECRET,
    "OMS_IDENTITY_KEY": "a key that stands for customers, in tests",
}


def at(dsn: str, database: str) -> str:
    """The same server, another database."""
    return urlunsplit(urlsplit(dsn)._replace(path=f"/{database}"))


class Databases:
    """Makes databases migrated to a package's newest version; the first of a package takes a second, others moments."""

    def __init__(self, admin: str) -> None:
        self._admin = admin
        self._templates: dict[str, str] = {}
        self._made: list[str] = []
        self._lock = asyncio.Lock()

    async def __call__(self, package: str) -> str:
        """The DSN of a fresh database."""
        name_of = package.replace(".", "_")
        async with self._lock:
            if package not in self._templates:
                name = f"template_{name_of}_{uuid4().hex[:8]}"
                await self._run(f"CREATE DATABASE {name}")
                self._made.append(name)
                await asyncio.to_thread(migrate, package, at(self._admin, name))
                self._templates[package] = name
            name = f"{name_of}_{uuid4().hex[:8]}"
            await self._run(f"CREATE DATABASE {name} TEMPLATE {self._templates[package]}")
            self._made.append(name)
        return at(self._admin, name)

    async def _run(self, statement: str) -> None:
        db = await asyncpg.connect(self._admin)
        try:
            await db.execute(statement)
        finally:
            await db.close()

    async def drop_all(self) -> None:
        for name in reversed(self._made):
            await self._run(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture(scope="session")
async def new_database(backends: Backends) -> AsyncIterator[Callable[[str], Awaitable[str]]]:
    """`await new_database("payments")` -> DSN."""
    databases = Databases(backends.postgres)
    yield databases
    if backends.kind is Kind.ENV:  # a server of our own is thrown away whole
        await databases.drop_all()


def settings_for(dsn: str, backends: Backends, **more: object) -> Settings:
    return Settings.model_validate({"database_url": dsn, "kafka": backends.kafka, "auth_key": AUTH_KEY, **more})
