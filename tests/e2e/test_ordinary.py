"""Ordinary days on the running system: `python -m tests.ordinary` lives longer ones."""

import asyncio

import pytest

from ops.keys import kept_keys
from ops.system import System
from tests.e2e.conftest import Oms
from tests.ordinary import Day


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", [1, 2])
async def test_an_ordinary_day_leaves_every_page_mail_book_and_process_in_order(
    system: System, oms: Oms, seed: int
) -> None:
    day = Day(system.endpoints, kept_keys(system.endpoints.secrets.parent), seed, orders=8, steps=8)
    await asyncio.to_thread(day.live)
    assert not day.findings, day.report()
    _, told = await oms("verify", "--full")
    assert [each for each in told["findings"] if day.run in each["where"]] == []
