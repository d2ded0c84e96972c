"""A TCP proxy between a service and its database or broker, to make connections go silent without an end."""

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import pytest

Change = Callable[[bytes], bytes]
HERE: Final = "127.0.0.1"


class Proxy:
    """Forwards to one address. What is silenced stays open and moves no more bytes, as after a cut cable."""

    def __init__(self, host: str, port: int, *, answers: Change = lambda data: data) -> None:
        """`answers` may change what the server sends."""
        self._target = host, port
        self._answers = answers
        self._open: set[asyncio.Task[None]] = set()
        self._gates: dict[asyncio.Task[None], asyncio.Event] = {}
        self._is_silent = False
        self.delay_s = 0.0
        """How much later everything comes through."""

    @classmethod
    def to_database(cls, dsn: str, *, answers: Change = lambda data: data) -> "Proxy":
        where = urlsplit(dsn)
        assert where.hostname and where.port
        return cls(where.hostname, where.port, answers=answers)

    def by_way_of(self, dsn: str) -> str:
        """The same database, from here."""
        where = urlsplit(dsn)
        user, at, _ = where.netloc.rpartition("@")
        return urlunsplit(where._replace(netloc=f"{user}{at}{HERE}:{self.port}"))

    async def __aenter__(self) -> "Proxy":
        self._server = await asyncio.start_server(self._serve, HERE, 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    def stand_before(self, port: int) -> None:
        """Forward to this port from now on."""
        self._target = self._target[0], port

    def silence(self, *, new_ones: bool, which: Callable[[], bool] = lambda: True) -> None:
        """Every connection there is, or those that are picked, go silent, for good; with `new_ones` those made until
        `resume`, too."""
        for task in [task for task in self._gates if which()]:
            self._gates.pop(task).clear()
        self._is_silent = new_ones

    def cut(self, which: Callable[[], bool] = lambda: True) -> None:
        """The connections there are, or those that are picked, end in the middle of what they carry."""
        for task in [task for task in self._open if which()]:
            task.cancel()

    def stands_between(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """From now on this loop's connections to the target go through here, whatever addresses the target tells."""
        loop = asyncio.get_running_loop()
        connect = loop.create_connection

        async def through(protocol: Any, host: Any = None, port: Any = None, **more: Any) -> Any:
            if port == self._target[1] and asyncio.current_task() not in self._open:
                host, port = HERE, self.port
            return await connect(protocol, host, port, **more)

        monkeypatch.setattr(loop, "create_connection", through)

    def resume(self) -> None:
        self._is_silent = False

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        gate = asyncio.Event()
        if not self._is_silent:
            gate.set()
            self._gates[task] = gate
        try:
            async with _connected(*self._target) as (server_reader, server_writer), asyncio.TaskGroup() as pumps:
                pumps.create_task(self._pump(reader, server_writer, gate, lambda data: data))
                pumps.create_task(self._pump(server_reader, writer, gate, self._answers))
        except* (OSError, EOFError):
            pass  # either side has gone; so does the other
        except* asyncio.CancelledError:
            pass
        finally:
            self._gates.pop(task, None)
            self._open.discard(task)
            writer.close()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gate: asyncio.Event, change: Change
    ) -> None:
        while data := await reader.read(64 * 1024):
            await gate.wait()
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            writer.write(change(data))
            await writer.drain()
        raise EOFError


@contextlib.asynccontextmanager
async def _connected(host: str, port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        yield reader, writer
    finally:
        writer.close()


def as_a_pooler(data: bytes) -> bytes:
    """PostgreSQL's BackendKeyData as a pooler tells it: with a key and a process id of its own."""
    mark = b"K" + struct.pack("!i", 12)
    place = data.find(mark)
    if place < 0:
        return data
    [pid] = struct.unpack_from("!i", data, place + len(mark))
    return data[: place + len(mark)] + struct.pack("!i", pid + 1) + data[place + len(mark) + 4 :]
