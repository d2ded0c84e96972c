"""The runtime runs a service in one way: HTTP, consumers, relay, timers and workers in one process, healthy together or
ended.

Each part waits out an outage. A part that ends by anything else ends the process with an error, so that its supervisor starts
it again: never alive but stuck.
"""

import asyncio
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, TypeAlias

import asyncpg
import httpx
import structlog
from aiokafka.errors import KafkaError
from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from fastapi_offline import FastAPIOffline
from faststream.kafka import KafkaBroker
from faststream.kafka.prometheus import KafkaPrometheusMiddleware
from prometheus_client import CollectorRegistry, Histogram, ProcessCollector
from pydantic import BaseModel, Field
from starlette.types import Scope

from shared.messaging.consumer import Consumer
from shared.messaging.database import OUTAGES, Pool, connect
from shared.messaging.locks import LOCK_TIMEOUT
from shared.messaging.offsets import CaughtUp
from shared.messaging.refold import Refold
from shared.messaging.relay import Relay, stopped_within
from shared.messaging.retention import Retention, Rule
from shared.messaging.router import Process, Route, Router
from shared.messaging.shell import Db, Flow, freeze_gc
from shared.messaging.timers import Fire, Timers
from shared.settings import Settings
from shared.web import metrics, operations
from shared.web.auth import Tokens
from shared.web.commands import CommandBus, check_parameters
from shared.web.logs import configure, configure_under_server
from shared.web.metrics import Gauge
from shared.web.middleware import BodyLimit, Requests
from shared.web.operations import LOCKED
from shared.web.problems import PROBLEMS, document_problems, install_problems

if TYPE_CHECKING:
    from shared.web.tracing import Tracing

log = structlog.get_logger()

Worker: TypeAlias = Callable[["Running", asyncio.Event], Awaitable[None]]
"""A part of a service that works by itself until stopped; outages are its own to wait out."""

OUTAGE_SHOWS_AFTER = 10.0
"""Seconds a relay or consumer may fail before the service says that it is not ready."""
WATCH_SECONDS = 5.0
WRITES_EVERY_SECONDS = 10.0
# A new file, since an old one may have room where the disk has none. Rolled back.
WRITE = "TRUNCATE write_check; INSERT INTO write_check VALUES (repeat('x', 2000))"
NO_WRITES = (asyncpg.DiskFullError, asyncpg.ReadOnlySQLTransactionError, asyncpg.PostgresIOError)
PARTS_STOP_WITHIN = 40.0
POOL_CLOSES_WITHIN = 5.0
"""Seconds of a graceful stop: whoever kills a process waits for longer than both."""
FAILED = 70
"""Exit code of a process that ended itself: the log's `part.failed` says why."""


class Running:
    """A started service has what its workers and routes work with."""

    def __init__(
        self, name: str, settings: Settings, pool: Pool, tells: str | None, tracing: "Tracing | None" = None
    ) -> None:
        self.name = name
        self.settings = settings
        self.pool = pool
        self.relay = Relay(settings, tells, tracing=tracing) if tells is not None else None
        self.consumers: list[Consumer] = []
        self.commands = CommandBus(pool, self.notify_relay)
        self.writes = Writes()
        self.has_failed = False

    def notify_relay(self) -> None:
        """Let the relay publish now the facts that were committed."""
        if self.relay is not None:
            self.relay.wake()


class Writes:
    """It checks whether the database takes writes: it may answer every question and have no room, or be a copy."""

    def __init__(self) -> None:
        self._checked_at = -WRITES_EVERY_SECONDS

    async def check(self, db: Db) -> None:
        """Raise what a write raises; once in a while, since each writes a file to the disk and removes it."""
        if time.monotonic() - self._checked_at < WRITES_EVERY_SECONDS:
            return
        transaction = db.transaction()
        await transaction.start()
        try:
            await db.execute(WRITE)
        except LOCK_TIMEOUT:
            pass  # another replica checks just now
        finally:
            await transaction.rollback()
        self._checked_at = time.monotonic()


class Readiness(BaseModel):
    ready: bool
    reasons: list[str]
    locked: list[str] = Field(
        default=[], description="keys that wait for a row which another session of the database holds; the others go on"
    )


async def readiness(running: Running) -> Readiness:
    """Say whether this process can do its work, and in words what is missing."""
    reasons, locked = [], running.commands.waiting
    try:
        async with running.pool.acquire(timeout=2) as db:
            if not await db.fetchval("SELECT to_regclass('public.parked') IS NOT NULL"):
                reasons.append("the database is not migrated")
            else:
                locked += [row[0] for row in await db.fetch(LOCKED)]
                await running.writes.check(db)
    except OUTAGES as error:
        what = "takes no writes" if isinstance(error, NO_WRITES) else "does not answer"
        reasons.append(f"the database {what}: {error!r}")
    now = time.monotonic()
    for consumer in running.consumers:
        if not consumer.progress.is_assigned:
            reasons.append(f"group {consumer.group} has not been given its partitions")
        failing = consumer.progress.failing_since
        if failing is not None and now - failing > OUTAGE_SHOWS_AFTER:
            reasons.append(f"group {consumer.group} has not been able to commit for {now - failing:.0f} s")
    if running.relay is not None and running.relay.progress.failing_since is not None:
        failing = running.relay.progress.failing_since
        if now - failing > OUTAGE_SHOWS_AFTER:
            reasons.append(f"the relay has not been able to publish for {now - failing:.0f} s")
    return Readiness(ready=not reasons, reasons=reasons, locked=locked)


async def _consume(broker: KafkaBroker, consumer: Consumer, stop: asyncio.Event) -> None:
    """Subscribe as soon as the broker answers, and leave the group when stopped."""
    pause = 0.2
    while not stop.is_set():
        try:
            await broker.start()
            break
        except (KafkaError, OSError) as error:
            log.warning("broker.awaited", error=repr(error), pause_seconds=pause)
            await broker.stop()
            await asyncio.sleep(pause)
            pause = min(5.0, pause * 2)
    await stop.wait()
    await consumer.commit_offsets()
    await broker.stop()


async def _watch(running: Running, stop: asyncio.Event) -> None:
    """End a process whose consumer stands still or has lost its place, and replace connections that do not answer."""
    while not await stopped_within(stop, WATCH_SECONDS):
        try:
            async with running.pool.acquire(timeout=5) as db:
                await db.fetchval("SELECT 1", timeout=5)
        except TimeoutError:
            # One that leads nowhere is noticed when it is used; the others would be tried one by one.
            log.warning("database.silent")
            await running.pool.expire_connections()
        except OUTAGES:
            continue
        for consumer in running.consumers:
            try:
                await consumer.watch()
            except (*OUTAGES, KafkaError) as error:
                log.debug("watch.deferred", error=repr(error))


def build(
    name: str,
    *,
    settings: type[Settings] = Settings,
    topics: Sequence[str] = (),
    routes: Sequence[Route] = (),
    process: Process | None = None,
    router: APIRouter,
    flows: Sequence[Flow[Any, Any, Any]] = (),
    timers: Sequence[tuple[Flow[Any, Any, Any], Fire]] = (),
    timers_wait: bool = False,
    workers: Sequence[Worker] = (),
    gauges: Sequence[Gauge] = (),
    retention: Sequence[Rule] = (),
    publishes: bool = True,
    tells: str | None = None,
    extend: Callable[[FastAPI], None] | None = None,
    uploads: Callable[[Scope], int | None] | None = None,
    resources: Callable[[Running], AbstractAsyncContextManager[None]] | None = None,
) -> FastAPI:
    """The application of a service. Settings are read and connections made when it starts, not when it is imported.

    `flows` are all it decides by; `process` replaces `routes` where it decides nothing; `timers` say which command a
    deadline of a flow becomes, and `timers_wait` that none fires before what was on the topics has been
    taken; `uploads` says how large a request may be that
    brings a file; `tells` is the service its facts name, where that is not its own name; `gauges` are for `/metrics`; `retention` says
    what goes after a while of the tables that only this service has; `resources`
    opens and closes what only this service has (an HTTP client, say), around everything.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        chosen = settings()
        configure(name, chosen.log_level)
        registry = CollectorRegistry()
        pool = await connect(chosen)
        tracing = _tracing(name, chosen)
        running = Running(name, chosen, pool, (tells or name) if publishes else None, tracing)
        app.state.settings, app.state.commands, app.state.pool, app.state.running = (
            chosen,
            running.commands,
            pool,
            running,
        )
        app.state.registry, app.state.tracing = registry, tracing
        app.state.request_seconds = Histogram(
            "oms_http_request_seconds",
            "from a request to the start of its answer",
            ["service", "method", "route", "status"],
            registry=registry,
        )
        ProcessCollector(registry=registry)
        stop = asyncio.Event()
        parts: list[tuple[str, Awaitable[None]]] = []
        if topics:
            broker = KafkaBroker(
                chosen.brokers,
                client_id=chosen.instance or name,
                graceful_timeout=30,
                request_timeout_ms=15_000,
                metadata_max_age_ms=10_000,
                log_level=logging.DEBUG,
                logger=logging.getLogger("broker"),  # its own writes coloured lines
                middlewares=[KafkaPrometheusMiddleware(registry=registry, app_name=name)],
                allow_auto_create_topics=False,
                apply_types=False,  # to inject one argument takes half a millisecond of CPU time a batch
            )
            consumer = Consumer(
                pool, process or Router(routes).process, chosen, name, running.notify_relay, registry, tracing
            )
            consumer.subscribe(broker, topics)
            running.consumers.append(consumer)
            parts.append(("consumer", _consume(broker, consumer, stop)))
            parts.append(("locked keys", consumer.retry_locked(stop)))
        parts.append(("watch", _watch(running, stop)))
        if running.relay is not None:
            parts.append(("relay", running.relay.run(stop)))
        parts.append(("retention", Retention(pool, name, chosen, registry, retention).run(stop)))
        if flows:
            parts.append(("refold", Refold(pool, flows).run(stop)))
        if timers:
            caught_up = CaughtUp(running.consumers[0]) if timers_wait else None
            parts.append(("timers", Timers(pool, name, timers, running.notify_relay, caught_up).run(stop)))
        async with (
            httpx.AsyncClient(timeout=5, trust_env=False) as client,
            resources(running) if resources else _nothing(),
        ):
            app.state.tokens = Tokens(chosen.auth_key.get_secret_value(), chosen.provider, client)
            parts += [(worker.__name__, worker(running, stop)) for worker in workers]
            freeze_gc()
            tasks = [asyncio.create_task(_end_with(running, part, work), name=part) for part, work in parts]
            log.info("service.started", service=name)
            try:
                yield
            finally:
                stop.set()
                # Where a part has failed, another may wait for it in vain.
                grace = 5 if running.has_failed else PARTS_STOP_WITHIN
                _, late = await asyncio.wait(tasks, timeout=grace) if tasks else (None, set())
                for task in late:
                    log.error("part.abandoned", part=task.get_name())
                    task.cancel()
                try:
                    await asyncio.wait_for(pool.close(), POOL_CLOSES_WITHIN)
                except TimeoutError:
                    pool.terminate()
                if tracing is not None:
                    await asyncio.to_thread(tracing.close)
                log.info("service.stopped", service=name)
                if running.has_failed:
                    # The server would end by the signal, as if somebody had asked it to.
                    os._exit(FAILED)

    configure_under_server(name)
    app = FastAPIOffline(
        title=f"Order Workflows: {name}",
        version=version("shared"),
        lifespan=lifespan,
        dependencies=[Depends(check_parameters)],
        responses=PROBLEMS,
        redoc_url=None,
        # Spans are ours (`shared.web.tracing`), and so are the metrics; asking the framework's each time costs every request.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    install_problems(app)
    document_problems(app)
    app.add_middleware(BodyLimit, uploads=uploads)
    app.add_middleware(Requests, service=name)
    app.include_router(router)
    app.include_router(operations.router)
    _health(app, gauges)
    app.state.flows, app.state.topics, app.state.retention = tuple(flows), tuple(topics), tuple(retention)
    if extend is not None:
        extend(app)
    return app


def _tracing(name: str, settings: Settings) -> "Tracing | None":
    """Raises ImportError, naming the extra, where spans are wanted and cannot be made."""
    if settings.traces_url is None:
        return None
    try:
        from shared.web.tracing import Tracing, otlp
    except ImportError as error:
        raise ImportError("OMS_TRACES_URL needs the extra `traces` of the service's package") from error
    return Tracing(name, otlp(str(settings.traces_url)), settings.traces_share)


@asynccontextmanager
async def _nothing() -> AsyncIterator[None]:
    yield


async def _end_with(running: Running, part: str, work: Awaitable[None]) -> None:
    """End the process where a part fails; the log says which and why."""
    try:
        await work
    except Exception as error:
        log.critical("part.failed", part=part, error=repr(error), exc_info=error)
        running.has_failed = True
        os.kill(os.getpid(), signal.SIGTERM)


def _health(app: FastAPI, gauges: Sequence[Gauge]) -> None:
    @app.get("/livez", tags=["health"], responses={})
    async def livez() -> dict[str, str]:
        """The process answers."""
        return {"status": "alive"}

    @app.get("/readyz", tags=["health"], response_model=Readiness, responses={503: {"model": Readiness}})
    async def readyz(request: Request) -> Response:
        """Whether it can work, with reasons; 503 while it cannot."""
        state = await readiness(request.app.state.running)
        return JSONResponse(state.model_dump(), 200 if state.ready else 503)

    @app.get("/metrics", tags=["health"], response_class=Response)
    async def prometheus(request: Request) -> Response:
        """Prometheus' text format."""
        running: Running = request.app.state.running
        text = await metrics.exposition(
            running.name, running.pool, running.consumers, running.relay, request.app.state.registry, gauges
        )
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")
