"""The tally as a service, in this process or in one of its own that can be killed, paused and stopped:
`uvicorn --factory tests.integration.counting:from_environment`."""

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, FastAPI

from shared.contracts.orders import OrderHoldPlaced
from shared.messaging.envelope import Cause
from shared.messaging.router import Route
from shared.messaging.shell import Db, Message
from shared.runtime import build
from tests.integration.tally import FLOW, Add


def translate(fact: OrderHoldPlaced, why: Cause) -> Message[Add]:
    amount, _, label = fact.detail.partition(" ")
    return Message(fact.order_id, Add(int(amount), label), why)


def service(name: str, reads: str | None, *, publishes: bool) -> FastAPI:
    """Counts what it reads. A label `hang` never comes to an end; `slow` takes four seconds, the first time."""
    was_slow = False

    async def dawdle(db: Db, messages: Sequence[Message[Any]], states: Mapping[str, Any]) -> None:
        nonlocal was_slow
        labels = {t.command.label for t in messages if isinstance(t.command, Add)}
        if "hang" in labels:
            await asyncio.Event().wait()
        if "slow" in labels and not was_slow:
            was_slow = True
            await db.execute("SELECT pg_sleep(4)")

    flow = replace(FLOW, load_context=dawdle)
    return build(
        name,
        topics=[reads] if reads else [],
        routes=[Route(flow, {OrderHoldPlaced: translate})],
        router=APIRouter(),
        publishes=publishes,
    )


def from_environment() -> FastAPI:
    reads = os.environ.get("TALLY_READS")
    return service(os.environ["TALLY_NAME"], reads, publishes=reads is None)
