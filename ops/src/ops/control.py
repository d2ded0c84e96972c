"""What the running system is told from outside: `oms scale`, by whoever has the key in `var/`.

One connection, one request: a line of JSON with a token and what is wanted; back come lines of what is being done, and
a last one with the outcome.
"""

import asyncio
import contextlib
import getpass
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import Field, ValidationError

from ops.keys import kept_keys
from ops.paths import LOOPBACK
from ops.supervision import Report, StartFailed
from shared.contracts.base import Input
from shared.web.auth import BadToken, Role, issue, verify

REQUEST_S: Final = 5.0


class NotScalable(Exception):
    """A service cannot have that many replicas; the text says why."""


class Wanted(Input):
    """How many replicas of which services, and an operator's token."""

    token: str
    replicas: Annotated[dict[str, int], Field(min_length=1)]


Scale = Callable[[str, Mapping[str, int], Report], Awaitable[None]]
"""(who asks, how many of which, what hears of the progress); raises NotScalable and StartFailed"""


@contextlib.asynccontextmanager
async def listening(scale: Scale, var: Path) -> AsyncIterator[str]:
    """Take requests, on the loopback, until the block ends; what is under way then is called off. Gives the address."""
    under_way: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        under_way.add(task)
        try:
            await _answer(reader, writer, scale, var)
        finally:
            writer.close()
            under_way.discard(task)

    server = await asyncio.start_server(serve, LOOPBACK, 0)
    try:
        yield f"{LOOPBACK}:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, scale: Scale, var: Path) -> None:
    def say(**line: str) -> None:
        if not writer.is_closing():
            writer.write(json.dumps(line).encode() + b"\n")

    try:
        async with asyncio.timeout(REQUEST_S):
            wanted = Wanted.model_validate_json(await reader.readline())
        caller = verify(kept_keys(var).auth_key, wanted.token)
        if Role.OPERATOR not in caller.roles:
            raise BadToken("an operator's token is needed")
        await scale(caller.actor, wanted.replicas, lambda name, doing: say(name=name, doing=doing))
        say(outcome="done")
    except (NotScalable, BadToken, ValidationError, TimeoutError, ValueError) as error:
        say(outcome="refused", why=str(error))
    except (StartFailed, OSError) as error:
        say(outcome="failed", why=str(error))
    with contextlib.suppress(OSError):
        await writer.drain()


async def ask_scale(address: str, var: Path, replicas: Mapping[str, int], report: Report) -> None:
    """Returns when the running system has that many replicas, all ready. Raises NotScalable and StartFailed."""
    host, _, port = address.rpartition(":")
    token = issue(kept_keys(var).auth_key, subject=getpass.getuser(), roles=[Role.OPERATOR])
    try:
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(json.dumps({"token": token, "replicas": replicas}).encode() + b"\n")
            while line := await reader.readline():
                told: dict[str, Any] = json.loads(line)
                match told.get("outcome"):
                    case "done":
                        return
                    case "refused":
                        raise NotScalable(told["why"])
                    case "failed":
                        raise StartFailed(told["why"])
                report(told["name"], told["doing"])
        finally:
            writer.close()
    except OSError as error:
        raise StartFailed(f"the system does not answer at {address}: {error}") from error
    raise StartFailed("the system went down meanwhile: see var/log/oms.log")
