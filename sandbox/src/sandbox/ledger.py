"""The sandbox's own books: one SQLite file, one writer thread, and what was committed survives kill -9."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Never, TypeVar

import uuid_utils
from fastapi import Depends, Request

T = TypeVar("T")

SCHEMA_VERSION = 1


class UnknownSubject(Exception):
    """What was asked about is not in the books."""


class Ledger:
    """Runs one transaction at a time, so a check and the write that relies on it are never apart."""

    def __init__(self, directory: Path, schemas: Iterable[str]) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ledger")
        self._watchers: list[asyncio.Event] = []
        self._db = sqlite3.connect(directory / "sandbox.sqlite3", isolation_level=None, check_same_thread=False)
        self._db.row_factory = sqlite3.Row
        self._db.executescript("pragma journal_mode = wal; pragma synchronous = full; pragma foreign_keys = on;")
        (version,) = self._db.execute("pragma user_version").fetchone()
        if version not in (0, SCHEMA_VERSION):
            self._db.close()
            raise RuntimeError(f"{directory} holds books of version {version}, not {SCHEMA_VERSION}: remove it")
        for schema in schemas:
            self._db.executescript(schema)
        self._db.execute(f"pragma user_version = {SCHEMA_VERSION}")

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """One transaction: committed and on disk when this returns, undone when `work` raises."""
        done = asyncio.get_running_loop().run_in_executor(self._thread, self._transact, work)
        done.add_done_callback(self._announce)
        # Shielded: a caller that goes away does not stop its transaction, and the watchers still hear of it.
        result, _ = await asyncio.shield(done)
        return result

    def _transact(self, work: Callable[[sqlite3.Connection], T]) -> tuple[T, bool]:
        before = self._db.total_changes
        self._db.execute("begin immediate")
        try:
            result = work(self._db)
        except BaseException:
            self._db.execute("rollback")
            raise
        self._db.execute("commit")
        return result, self._db.total_changes != before

    def _announce(self, done: asyncio.Future[tuple[Any, bool]]) -> None:
        if done.cancelled() or done.exception():
            return
        _, has_changed = done.result()
        if has_changed:
            for event in self._watchers:
                event.set()

    async def keep_up(self, work: Callable[[], Awaitable[float | None]]) -> Never:
        """Repeat `work` for ever: once anything changed in the books, and after the seconds it returned.

        Zero repeats at once; None waits for a change only.
        """
        changed = asyncio.Event()
        self._watchers.append(changed)
        while True:
            changed.clear()
            pause = await work()
            if pause == 0:
                continue
            try:
                async with asyncio.timeout(pause):
                    await changed.wait()
            except TimeoutError:
                continue

    async def play(self, step: Callable[[sqlite3.Connection], float | None]) -> Never:
        """`keep_up` with a step that is a transaction of its own."""
        await self.keep_up(lambda: self.run(step))

    async def wait_for(self, find: Callable[[sqlite3.Connection], T | None], seconds: float) -> T | None:
        """What `find` finds, as soon as it finds something; None when it has not after `seconds`."""
        changed = asyncio.Event()
        self._watchers.append(changed)
        try:
            found = await self.run(find)
            async with asyncio.timeout(seconds):
                while found is None:
                    await changed.wait()
                    changed.clear()
                    found = await self.run(find)
        except TimeoutError:
            return None
        finally:
            self._watchers.remove(changed)
        return found

    def close(self) -> None:
        self._thread.shutdown()
        self._db.close()


async def _of_app(request: Request) -> Ledger:
    ledger: Ledger = request.app.state.ledger
    return ledger


AtLedger = Annotated[Ledger, Depends(_of_app)]


def new_id(prefix: str) -> str:
    return f"{prefix}_{uuid_utils.uuid7().hex}"
