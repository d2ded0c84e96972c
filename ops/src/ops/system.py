"""The whole system as processes of this machine: started in order, watched, and ended without a trace.

`running_system` is what `oms up`, the demo and the end-to-end tests stand on.
"""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import httpx
import psutil
import structlog
from pydantic_settings import BaseSettings, SettingsConfigDict

from ops.control import NotScalable, listening
from ops.databases import ensure_databases
from ops.embedded import embedded
from ops.endpoints import Endpoints, Replica, RunningProcess, ServiceEndpoint, path_in, recorded_endpoints
from ops.keys import Keys, kept_keys
from ops.paths import LOOPBACK, AlreadyLocked, Ports, locked
from ops.supervision import NotReady, Process, Program, Report, StartFailed, silent, together
from ops.topics import PARTITIONS, TOPICS, ensure_topics

SMTP_PORT: Final = 8025
_START_S: Final = 120.0
_PROBE_S: Final = 5.0
_GONE_S: Final = 90.0
_ORPHAN_S: Final = 15.0
_POLL_S: Final = 0.1
_SHOWN_REASON: Final = 200

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Service:
    """A process that speaks HTTP: `python -m uvicorn <package>.app:app`. `settings` may name `{values}` of the system:
    `{var}`, `{smtp_port}`, every key by its name, and every service's URL by its package."""

    name: str
    port: int
    has_database: bool = True
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def package(self) -> str:
        return self.name.replace("-", "_")


SERVICES: Final = (
    Service("orders", 8001),
    Service(
        "payments",
        8002,
        settings={
            "OMS_PROCESSOR_URL": "{sandbox}/processor",
            "OMS_PROCESSOR_KEY": "{processor_key}",
            "OMS_PROCESSOR_WEBHOOK_SECRET": "{processor_webhook_secret}",
        },
    ),
    Service("fulfillment", 8003, settings={"OMS_CARRIER_WEBHOOK_SECRET": "{carrier_webhook_secret}"}),
    Service("returns", 8004, settings={"OMS_CARRIER_WEBHOOK_SECRET": "{carrier_webhook_secret}"}),
    Service(
        "notifications",
        8005,
        settings={
            "OMS_SMTP_URL": f"smtp://{LOOPBACK}:{{smtp_port}}",
            "OMS_MAIL_WEBHOOK_SECRET": "{mail_webhook_secret}",
        },
    ),
    Service(
        "support-view",
        8000,
        settings={
            "OMS_CRM_WEBHOOK_SECRET": "{crm_webhook_secret}",
            "OMS_IDENTITY_KEY": "{identity_key}",
            "OMS_ORDERS_URL": "{orders}",
            "OMS_PAYMENTS_URL": "{payments}",
            "OMS_FULFILLMENT_URL": "{fulfillment}",
            "OMS_RETURNS_URL": "{returns}",
        },
    ),
    Service(
        "sandbox",
        8090,
        has_database=False,
        settings={
            "OMS_SANDBOX_DATA": "{var}/sandbox",
            "OMS_SANDBOX_SMTP_PORT": "{smtp_port}",
            "OMS_PROCESSOR_KEY": "{processor_key}",
            "OMS_PROCESSOR_WEBHOOK_SECRET": "{processor_webhook_secret}",
            "OMS_CARRIER_WEBHOOK_SECRET": "{carrier_webhook_secret}",
            "OMS_MAIL_WEBHOOK_SECRET": "{mail_webhook_secret}",
            "OMS_MAIL_WEBHOOK_URL": "{notifications}/webhooks/mail",
            "OMS_PAYMENTS_WEBHOOK_URL": "{payments}/webhooks/processor",
            "OMS_CARRIER_WEBHOOK_URL": "{fulfillment}/webhooks/carrier",
            "OMS_RETURNS_WEBHOOK_URL": "{returns}/webhooks/carrier",
            "OMS_IDENTITY_URL": "{sandbox}/identity",
            "OMS_IDENTITY_REDIRECT_URL": "{support_view}/sign-in/back",
        },
    ),
)

DECIDING: Final = tuple(each.name for each in SERVICES if each.has_database)

IDENTITY: Final = {
    "OMS_AUTH_JWKS_URL": "{sandbox}/identity/jwks",
    "OMS_AUTH_ISSUER": "{sandbox}/identity",
    "OMS_AUTH_AUDIENCE": "order-workflows",
    "OMS_SIGN_IN_CLIENT_ID": "support-view",
    "OMS_PAGE_URL": "{support_view}",
}
"""Whose tokens are taken beside our own: the sandbox's, unless the environment names a provider."""


class Given(BaseSettings):
    """Endpoints of a cluster that is there already; what is not given is embedded."""

    model_config = SettingsConfigDict(env_prefix="OMS_", frozen=True)

    postgres_url: str | None = None
    kafka: str | None = None


class AlreadyUp(Exception):
    """Another process runs the system on this state folder."""

    def __init__(self, pid: int | None) -> None:
        super().__init__(f"the system is up already (process {pid or '?'}): end it with `oms down`")
        self.pid = pid


@dataclass(frozen=True, slots=True)
class _Backends:
    """`processes` are those that are ours to watch: none when the endpoints were given."""

    kafka: str
    postgres: str
    processes: tuple[Process, ...]


@dataclass(frozen=True, slots=True)
class _Placed:
    """A replica of a service with the port it got, its database, and everything it is told."""

    service: Service
    instance: int
    database: str | None
    environment: Mapping[str, str]
    port: int

    @property
    def name(self) -> str:
        return self.service.name if self.instance == 1 else f"{self.service.name}-{self.instance}"

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"


class System:
    """The running system. Its processes are restarted behind it; `endpoints` is always the present truth."""

    def __init__(
        self, var: Path, backends: _Backends, placed: Sequence[_Placed], ports: Ports, smtp_port: int, report: Report
    ) -> None:
        self._var = var
        self._backends = backends
        self._placed: dict[str, _Placed] = {}
        self._ports = ports
        self._smtp_port = smtp_port
        self._report = report
        self._supervisor = RunningProcess.ours()
        self._scaling = asyncio.Lock()
        self._control = ""
        self._is_published = False
        self.processes = {process.name: process for process in backends.processes}
        self._add(placed, {each.name: self._process(each) for each in placed})

    def _process(self, placed: _Placed, report: Report = silent) -> Process:
        def told(name: str, doing: str) -> None:
            self._report(name, doing)
            report(name, doing)

        return Process(_program(placed, self._var), report=told, respawned=self.publish)

    def _add(self, placed: Sequence[_Placed], processes: Mapping[str, Process]) -> None:
        self._placed |= {each.name: each for each in placed}
        self.processes |= processes

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Every service ready on entry, all their replicas gone on exit."""
        try:
            await together(*(self.processes[name].start(within=_START_S) for name in self._placed))
            yield
        finally:
            await asyncio.gather(*(self.processes[name].stop() for name in self._placed))

    @contextlib.asynccontextmanager
    async def published(self) -> AsyncIterator[None]:
        """For others to find, as it changes, and to scale."""
        async with listening(self._scale_for, self._var) as self._control:
            try:
                self.endpoints.write(self._var)
                self._is_published = True
                yield
            finally:
                self._is_published = False
                path_in(self._var).unlink(missing_ok=True)

    def publish(self) -> None:
        if not self._is_published:
            return
        try:
            self.endpoints.write(self._var)
        except OSError as error:
            # A full disk must not keep anything from running.
            log.error("endpoints.write_failed", reason=str(error))

    async def _scale_for(self, actor: str, wanted: Mapping[str, int], report: Report) -> None:
        await self.scale(wanted, report)
        log.info("services.scaled", by=actor, replicas=dict(wanted))

    async def scale(self, wanted: Mapping[str, int], report: Report = silent) -> list[Process]:
        """So many replicas of these services, each with an instance name, a port and a log of its own; those that are
        new, once they are ready. Raises NotScalable, and StartFailed when one cannot be: then none is added."""
        async with self._scaling:
            for name, count in wanted.items():
                self._check_scale(name, count)
            gone = [p for p in self._placed.values() if p.instance > wanted.get(p.service.name, sys.maxsize)]
            processes = [self.processes.pop(each.name) for each in gone]
            for each in gone:
                del self._placed[each.name]
            self.publish()
            await asyncio.gather(*(process.stop() for process in processes))
            new = [
                self._replica(self._placed[name], instance)
                for name, count in wanted.items()
                for instance in range(1, count + 1)
                if not any(p.service.name == name and p.instance == instance for p in self._placed.values())
            ]
            made = {each.name: self._process(each, report) for each in new}
            await together(*(process.start(within=_START_S) for process in made.values()))
            self._add(new, made)
            self.publish()
            return list(made.values())

    def _check_scale(self, name: str, count: int) -> None:
        placed = self._placed.get(name)
        if placed is None or placed.instance > 1 or not placed.service.has_database:
            known = [p.name for p in self._placed.values() if p.service.has_database and p.instance == 1]
            raise NotScalable(f"{name} is not one of {', '.join(known)}")
        if not 1 <= count <= PARTITIONS:
            raise NotScalable(
                f"{name} can have 1 to {PARTITIONS} replicas, not {count}: its topics have {PARTITIONS} partitions, "
                "and what is more would have nothing to read"
            )

    def _replica(self, first: _Placed, instance: int) -> _Placed:
        environment = {**first.environment, "OMS_INSTANCE": str(instance)}
        return replace(first, instance=instance, port=self._ports.take(first.port), environment=environment)

    async def ready(self, *, within: float = _START_S) -> None:
        """Wait until every process answers; after a kill, until it does again."""
        await together(*(process.ready(within=within) for process in self.processes.values()))

    @property
    def endpoints(self) -> Endpoints:
        return Endpoints(
            supervisor=self._supervisor,
            control=self._control,
            kafka=self._backends.kafka,
            kafka_process=self._running("kafka"),
            postgres=self._backends.postgres,
            postgres_process=self._running("postgres"),
            topics=TOPICS,
            services={
                each.name: ServiceEndpoint(
                    url=each.url,
                    docs=f"{each.url}/docs",
                    database=each.database,
                    log=self.processes[each.name].program.log,
                    process=self._running(each.name),
                    others=self._others(each.service),
                )
                for each in self._placed.values()
                if each.instance == 1
            },
            smtp=f"smtp://{LOOPBACK}:{self._smtp_port}",
            secrets=self._var / "secrets.json",
        )

    def _others(self, service: Service) -> dict[str, Replica]:
        return {
            each.name: Replica(
                url=each.url, log=self.processes[each.name].program.log, process=self._running(each.name)
            )
            for each in self._placed.values()
            if each.service is service and each.instance > 1
        }

    def _running(self, name: str) -> RunningProcess | None:
        process = self.processes.get(name)
        return RunningProcess.of(process.pid) if process is not None and process.pid is not None else None


@contextlib.asynccontextmanager
async def running_system(
    var: Path,
    *,
    auto_ports: bool,
    services: Sequence[Service] = SERVICES,
    settings: Mapping[str, str] | None = None,
    report: Report = silent,
) -> AsyncIterator[System]:
    """Everything up and ready on entry, everything gone on exit; state stays in `var`.

    `auto_ports` takes free ports for all, else the usual ones where they are free. `settings` are environment
    variables for every service, before its own. `AlreadyUp`, `StartFailed` or `TopicsWrong` when it cannot be.
    """
    system: System | None = None

    def respawned() -> None:
        if system is not None:
            system.publish()

    async with contextlib.AsyncExitStack() as stack:
        try:
            stack.enter_context(locked(_lock(var), wait=False))
        except AlreadyLocked as held:
            raise AlreadyUp(held.pid) from held
        ports, keys = Ports(auto=auto_ports), kept_keys(var)
        backends = await stack.enter_async_context(_backends(var, ports, report, respawned))
        packages = [each.package for each in services if each.has_database]
        databases = await ensure_databases(backends.postgres, packages, auth_key=keys.auth_key, report=report)
        report("topics", "creating")
        await ensure_topics(backends.kafka)
        report("topics", "ready")
        smtp_port = ports.take(SMTP_PORT)
        placed = _place(services, ports, backends.kafka, databases, keys, var, smtp_port, settings or {})
        system = System(var, backends, placed, ports, smtp_port, report)
        await stack.enter_async_context(system.running())
        await stack.enter_async_context(system.published())
        yield system


def bring_down(var: Path, *, report: Report = silent) -> bool:
    """End the system that runs on `var`, whoever started it, and return when all of it is gone; False: none ran.

    What a killed supervisor left behind, where the kernel does not see to that itself, is ended here.
    """
    asked = False
    deadline = time.monotonic() + _GONE_S
    while time.monotonic() < deadline:
        try:
            with locked(_lock(var), wait=False):
                _end_orphans(var)
                path_in(var).unlink(missing_ok=True)
                return asked
        except AlreadyLocked as held:
            if held.pid is not None and not asked:
                report("system", f"stopping (process {held.pid})")
                with contextlib.suppress(ProcessLookupError):
                    os.kill(held.pid, signal.SIGTERM)
                asked = True
        time.sleep(_POLL_S)
    raise StartFailed(f"the system is still not gone after {_GONE_S:.0f} s: see {var / 'log'}")


def _lock(var: Path) -> Path:
    return var / ".lock"


@contextlib.asynccontextmanager
async def _backends(var: Path, ports: Ports, report: Report, respawned: Callable[[], None]) -> AsyncIterator[_Backends]:
    given = Given()
    if given.kafka and given.postgres_url:
        yield _Backends(given.kafka, given.postgres_url, ())
    elif given.kafka or given.postgres_url:
        raise StartFailed("set both OMS_KAFKA and OMS_POSTGRES_URL, or neither to have both embedded")
    else:
        async with embedded(var, logs=var / "log", ports=ports, report=report, respawned=respawned) as own:
            yield _Backends(own.kafka, own.postgres, (own.kafka_process, own.postgres_process))


def _place(
    services: Sequence[Service],
    ports: Ports,
    kafka: str,
    databases: Mapping[str, str],
    keys: Keys,
    var: Path,
    smtp_port: int,
    settings: Mapping[str, str],
) -> list[_Placed]:
    """Give every service its port first: what one is told names the others."""
    taken = [(each, ports.take(each.port)) for each in services]
    urls = {each.package: f"http://{LOOPBACK}:{port}" for each, port in taken}
    values = {**urls, **keys.model_dump(), "var": str(var), "smtp_port": str(smtp_port)}
    is_ours = {"sandbox", "support_view"} <= urls.keys() and "OMS_AUTH_JWKS_URL" not in os.environ
    identity = {name: value.format_map(values) for name, value in IDENTITY.items()} if is_ours else {}
    placed = []
    for each, port in taken:
        environment = {
            **os.environ,
            **identity,
            **settings,
            "OMS_KAFKA": kafka,
            "OMS_AUTH_KEY": keys.auth_key,
            "OMS_INSTANCE": "1",
            **{name: value.format_map(values) for name, value in each.settings.items()},
        }
        if database := databases.get(each.package):
            environment["OMS_DATABASE_URL"] = database
        placed.append(_Placed(each, 1, database, environment, port))
    return placed


def _program(placed: _Placed, var: Path) -> Program:
    async def probe() -> None:
        await _probe_http(f"{placed.url}/readyz")

    return Program(
        name=placed.name,
        command=(
            sys.executable,
            *("-m", "uvicorn", f"{placed.service.package}.app:app"),
            *("--host", LOOPBACK, "--port", str(placed.port), "--no-access-log"),
        ),
        environment=placed.environment,
        log=var / "log" / f"{placed.name}.log",
        probe=probe,
    )


async def _probe_http(url: str) -> None:
    async with httpx.AsyncClient(timeout=_PROBE_S, trust_env=False) as client:
        try:
            answer = await client.get(url)
        except httpx.HTTPError as error:
            raise NotReady("it does not answer yet") from error
    if answer.status_code != httpx.codes.OK:
        raise NotReady(f"{answer.status_code}: {answer.text[:_SHOWN_REASON]}")


def _end_orphans(var: Path) -> None:
    recorded = recorded_endpoints(var)
    orphans = [found for each in (recorded.processes() if recorded else []) if (found := each.found()) is not None]
    for orphan in orphans:
        orphan.terminate()
    _, deaf = psutil.wait_procs(orphans, timeout=_ORPHAN_S)
    for orphan in deaf:
        orphan.kill()
    psutil.wait_procs(deaf, timeout=_ORPHAN_S)
