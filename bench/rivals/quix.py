"""Quix Streams, by the script beside this."""

import asyncio
import os
import shutil
from pathlib import Path
from typing import Final

import asyncpg

from bench.contest import Measured, Meter, Place, Unavailable
from bench.load import Topics, check_timeline

SCRIPT: Final = Path(__file__).with_name("quix_sink.py")
CONFIGURATION: Final = "commit_every=5000, commit_interval=1, on_conflict_do_nothing, schema_auto_update=False"


async def sink(place: Place, topics: Topics) -> Measured:
    """Its start does not count, its rebalance and its last flush do."""
    uv = os.environ.get("UV") or shutil.which("uv")
    if uv is None:
        raise Unavailable("its environment is made by uv, which is not here: use `make bench`")
    async with place.database(await place.template("support_view")) as dsn:
        child = await asyncio.create_subprocess_exec(
            *(uv, "run", "--quiet", "--script", str(SCRIPT)),
            *(place.kafka, dsn, str(topics.facts), *topics.names.values()),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert child.stdin is not None and child.stdout is not None and child.stderr is not None
        try:
            if await child.stdout.readline() != b"ready\n":
                said = (await child.stderr.read()).decode(errors="replace").strip().splitlines()
                raise Unavailable(said[-1] if said else "its script ended without a word")
            async with Meter(place) as meter:
                await child.communicate(b"go\n")
            if child.returncode:
                raise AssertionError(f"Quix Streams ended with {child.returncode}")
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
        db = await asyncpg.connect(dsn)
        await check_timeline(db, topics)
        await db.close()
    return meter.measured(topics.facts, CONFIGURATION)
