"""The running system, once for all end-to-end tests: real processes, real Kafka and PostgreSQL, a state folder of its own."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from ops.demo import run_name
from ops.keys import kept_keys
from ops.people import People
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
async def people(system: System, run: str) -> AsyncIterator[People]:
    key = kept_keys(system.endpoints.secrets.parent).auth_key
    async with People(system.endpoints, key, run, lambda _: None) as everyone:
        yield everyone
