"""The running system, once for all end-to-end tests: real processes, real Kafka and PostgreSQL, a state folder of its own."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ops.actors import Actors
from ops.cli import app
from ops.demo import run_name
from ops.keys import kept_keys
from ops.system import System, running_system
from tests.backends import Backends


@pytest.fixture(scope="session")
async def system(backends: Backends, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    var: Path = tmp_path_factory.mktemp("system")
    async with AsyncExitStack() as stack:
        with (
            pytest.MonkeyPatch.context() as environment
        ):  # only while it starts: other tests have backends of their own
            environment.setenv("OMS_KAFKA", backends.kafka)
            environment.setenv("OMS_POSTGRES_URL", backends.postgres)
            running = await stack.enter_async_context(running_system(var, auto_ports=True))
        yield running


@pytest.fixture(scope="session")
def run() -> str:
    """Keeps this session's ids apart."""
    return run_name()


@pytest.fixture
async def actors(system: System, run: str) -> AsyncIterator[Actors]:
    key = kept_keys(system.endpoints.secrets.parent).auth_key
    async with Actors(system.endpoints, key, run, lambda _: None) as everyone:
        yield everyone


class Oms:
    """`oms`, asked for JSON; it has an event loop of its own, so it runs in a thread."""

    def __init__(self, system: System) -> None:
        self.system = system

    async def __call__(self, *words: str) -> tuple[int, Any]:
        result = await asyncio.to_thread(CliRunner().invoke, app, [*words, "--json"])
        assert result.stdout, result.output
        return result.exit_code, json.loads(result.stdout)

    async def apart(self, *words: str) -> tuple[int, Any]:
        """The same in a process of its own: while this one does as it is told, it logs, and to the same output."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "ops.cli", *words, "--json"),
            env={**os.environ, "OMS_VAR": str(self.system.endpoints.secrets.parent)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        said, _ = await asyncio.wait_for(process.communicate(), 120)
        return process.returncode or 0, json.loads(said)


@pytest.fixture
def oms(system: System, monkeypatch: pytest.MonkeyPatch) -> Oms:
    monkeypatch.setenv("OMS_VAR", str(system.endpoints.secrets.parent))
    return Oms(system)
