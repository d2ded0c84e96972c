"""The application of the payments service."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timezone

from payments.api import router
from payments.domain.decide import ExpireAuthorization
from payments.gateway import sandbox_processor
from payments.handlers import ROUTE, TOPICS
from payments.reconciliation import Auditor
from payments.settings import PaymentsSettings
from payments.store import GAUGES, PAYMENTS
from payments.work import Reconciler, Submitter, keep_auditing, keep_reconciling, keep_submitting
from shared.runtime import Running, build


def _settings(running: Running) -> PaymentsSettings:
    assert isinstance(running.settings, PaymentsSettings)
    return running.settings


@asynccontextmanager
async def processor(running: Running) -> AsyncIterator[None]:
    async with sandbox_processor(_settings(running)) as port:
        app.state.processor = port
        yield


async def submitter(running: Running, stop: asyncio.Event) -> None:
    calls = _settings(running).processor_calls
    await keep_submitting(Submitter(running.pool, running.commands, app.state.processor, calls), stop)


async def reconciler(running: Running, stop: asyncio.Event) -> None:
    calls = _settings(running).processor_calls
    await keep_reconciling(Reconciler(running.pool, running.commands, app.state.processor, calls), stop)


async def auditor(running: Running, stop: asyncio.Event) -> None:
    every = _settings(running).reconciliation_seconds
    await keep_auditing(Auditor(running.pool, running.commands, app.state.processor, every), stop)


def expire(_: str, name: str, due_at: datetime) -> ExpireAuthorization:
    late = datetime.now(timezone.utc) - due_at
    return ExpireAuthorization(tender_id=name.partition(":")[2], at=due_at, late=late)


app = build(
    "payments",
    settings=PaymentsSettings,
    flows=(PAYMENTS,),
    topics=TOPICS,
    routes=(ROUTE,),
    router=router,
    timers=((PAYMENTS, expire),),
    workers=(submitter, reconciler, auditor),
    gauges=GAUGES,
    resources=processor,
)
