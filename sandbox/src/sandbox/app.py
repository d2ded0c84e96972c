"""The sandbox, put together: the only place that builds things. One process, one ledger, healthy as a whole or ended."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Never

import httpx
import structlog
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from fastapi_offline import FastAPIOffline
from httpx_aiohttp import HttpxAiohttpClient
from standardwebhooks import Webhook

from sandbox import books, identity, mailbox, notices, processor, streams, warehouse
from sandbox.ledger import Ledger, UnknownSubject
from sandbox.notices import Courier, Endpoint, Receiver
from sandbox.settings import Settings
from sandbox.streams import Streams
from sandbox.warehouse import Warehouse
from shared.runtime import Readiness
from shared.settings import brokers_in
from shared.web.logs import configure, configure_under_server
from shared.web.middleware import BodyLimit
from shared.web.problems import PROBLEMS, install_problems, problem

log = structlog.get_logger()

SCHEMAS = (books.SCHEMA, identity.SCHEMA, notices.SCHEMA, mailbox.SCHEMA, streams.SCHEMA, warehouse.SCHEMA)


def endpoints(settings: Settings) -> dict[Receiver, Endpoint]:
    """Where each signed webhook goes."""
    processor_secret = Webhook(settings.processor_webhook_secret.get_secret_value())
    carrier_secret = Webhook(settings.carrier_webhook_secret.get_secret_value())
    mail_secret = Webhook(settings.mail_webhook_secret.get_secret_value())
    return {
        Receiver.PAYMENTS: Endpoint(str(settings.payments_webhook_url), processor_secret),
        Receiver.FULFILLMENT: Endpoint(str(settings.carrier_webhook_url), carrier_secret),
        Receiver.RETURNS: Endpoint(str(settings.returns_webhook_url), carrier_secret),
        Receiver.NOTIFICATIONS: Endpoint(str(settings.mail_webhook_url), mail_secret),
    }


@asynccontextmanager
async def running(
    app: FastAPI, settings: Settings, transport: httpx.AsyncBaseTransport | None = None
) -> AsyncIterator[None]:
    """Everything that works behind the routes; `transport` is how webhooks travel, if not by the network."""
    async with AsyncExitStack() as stack:
        ledger = Ledger(settings.sandbox_data, SCHEMAS)
        stack.callback(ledger.close)
        client = await stack.enter_async_context(HttpxAiohttpClient(trust_env=False, transport=transport))
        mail = await mailbox.listen(
            ledger, settings.sandbox_smtp_host, settings.sandbox_smtp_port, settings.sandbox_late_seconds
        )
        stack.callback(mail.close)
        player = Warehouse(settings.sandbox_pace)
        pace = processor.pace_of(settings)
        parts: dict[str, Awaitable[Never]] = {
            **{to: Courier(ledger, client, to, endpoint).run() for to, endpoint in endpoints(settings).items()},
            "sequels": ledger.play(lambda db: books.play_sequels(db, pace, datetime.now(UTC))),
            "warehouse": ledger.play(player.play),
        }
        troubles = {"kafka": "OMS_KAFKA is not set"}
        if settings.kafka:
            kafka = Streams(ledger, brokers_in(settings.kafka), player.hear)
            parts |= {"kafka out": kafka.tell(), "kafka in": kafka.hear()}
            troubles = kafka.troubles
        tasks = [asyncio.create_task(_or_end(part, work), name=part) for part, work in parts.items()]
        stack.push_async_callback(_cancel, tasks)
        app.state.settings, app.state.ledger, app.state.troubles = settings, ledger, troubles
        app.state.smtp_port = mail.sockets[0].getsockname()[1]
        log.info("sandbox.started", smtp_port=app.state.smtp_port)
        yield


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    settings = Settings()
    configure("sandbox", settings.log_level)
    async with running(app, settings):
        yield


async def _or_end(part: str, work: Awaitable[Never]) -> None:
    """A part that fails takes the process with it: never alive but stuck."""
    try:
        await work
    except Exception as error:
        log.critical("part.failed", part=part, exc_info=error)
        os.kill(os.getpid(), signal.SIGTERM)


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


configure_under_server("sandbox")
app = FastAPIOffline(
    title="Order Workflows: sandbox",
    description=processor.DESCRIPTION,
    version=version("sandbox"),
    lifespan=lifespan,
    responses=PROBLEMS,
    redoc_url=None,
)
install_problems(app)
app.add_middleware(BodyLimit)
for part in (processor, warehouse, mailbox, identity):
    app.include_router(part.routes)


@app.exception_handler(UnknownSubject)
async def not_known(_: Request, error: UnknownSubject) -> JSONResponse:
    return problem(404, "Not known", str(error))


@app.get("/livez", tags=["health"], responses={})
async def livez() -> dict[str, str]:
    """The process answers."""
    return {"status": "alive"}


@app.get("/readyz", tags=["health"], response_model=Readiness, responses={503: {"model": Readiness}})
async def readyz(request: Request) -> Response:
    """Whether it can work, with reasons; 503 while it cannot."""
    await request.app.state.ledger.run(lambda db: db.execute("select 1"))
    reasons = [f"{what}: {trouble}" for what, trouble in request.app.state.troubles.items()]
    state = Readiness(ready=not reasons, reasons=reasons)
    return JSONResponse(state.model_dump(), 200 if state.ready else 503)
