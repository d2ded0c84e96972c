"""A bench for each test that asks for one."""

from collections.abc import AsyncIterator

import pytest

from tests.backends import Backends
from tests.integration.delivery import Bench, NewDatabase, bench_of


@pytest.fixture
async def bench(backends: Backends, new_database: NewDatabase) -> AsyncIterator[Bench]:
    async with bench_of(backends, new_database) as made:
        yield made
