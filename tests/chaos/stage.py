"""The whole system on a stage: its Kafka and PostgreSQL behind proxies, its processes within reach, replicas at will."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from unittest import mock
from urllib.parse import urlsplit

import asyncpg
import httpx

from ops.databases import database_url
from ops.embedded import Embedded, embedded
from ops.paths import LOOPBACK, Ports
from ops.supervision import Process, Report, silent
from ops.system import SERVICES, System, running_system
from tests.proxy import Proxy

DECIDING: Final = ("orders", "payments", "fulfillment", "returns", "notifications")
CONSUMING: Final = (*DECIDING, "support-view")
SETTINGS: Final = {
    # Short, so that a silent connection and a slow handler are met within a strike.
    "OMS_STATEMENT_SECONDS": "8",
    "OMS_MAX_POLL_SECONDS": "10",
    "OMS_SANDBOX_PACE": "0.05",
    "OMS_SANDBOX_HANG_SECONDS": "8",
    "OMS_SANDBOX_LATE_SECONDS": "6",
}
READY_S: Final = 120.0


@dataclass(slots=True)
class Stage:
    """What a nemesis can reach. `system` sees Kafka and PostgreSQL through the proxies, `backends` as they are."""

    system: System
    backends: Embedded
    kafka: Proxy
    postgres: Proxy

    def process(self, name: str) -> Process:
        """A service, the sandbox, kafka or postgres."""
        own = {"kafka": self.backends.kafka_process, "postgres": self.backends.postgres_process}
        return own[name] if name in own else self.system.processes[name]

    @property
    def processes(self) -> list[Process]:
        own = [self.backends.kafka_process, self.backends.postgres_process]
        return [*own, *self.system.processes.values()]

    async def ready(self) -> None:
        """All of it answers, and can work."""
        await asyncio.gather(*(process.ready(within=READY_S) for process in self.processes))

    async def connect(self, service: str) -> "asyncpg.Connection[asyncpg.Record]":
        """The service's database itself, past the proxy."""
        return await asyncpg.connect(database_url(self.backends.postgres, service.replace("-", "_")), timeout=10)

    def url(self, process: Process) -> str:
        return f"http://{LOOPBACK}:{process.program.command[process.program.command.index('--port') + 1]}"

    async def leads(self, process: Process) -> bool:
        """Whether its relay is the one that publishes."""
        async with httpx.AsyncClient(timeout=5, trust_env=False) as client:
            try:
                answer = await client.get(f"{self.url(process)}/metrics")
            except httpx.HTTPError:
                return False
        lines = answer.text.splitlines() if answer.is_success else []
        return any(line.startswith("oms_relay_leads{") and line.endswith(" 1.0") for line in lines)


def send(process: Process, number: signal.Signals) -> bool:
    """Whether there was a process to signal."""
    if process.pid is None:
        return False
    os.kill(process.pid, number)
    return True


@asynccontextmanager
async def staged(var: Path, report: Report = silent) -> AsyncIterator[Stage]:
    """Everything up and ready on entry; on exit everything is gone, whatever state it was left in."""
    async with AsyncExitStack() as stack:
        kafka, postgres = Proxy(LOOPBACK, 0), Proxy(LOOPBACK, 0)
        for proxy in (kafka, postgres):
            await stack.enter_async_context(proxy)
        ports = Ports(auto=True)

        def behind_proxy(port: int) -> int:
            kafka.stand_before(port)
            return kafka.port

        backends = await stack.enter_async_context(
            embedded(var, logs=var / "log", ports=ports, report=report, kafka_told_at=behind_proxy)
        )
        address = urlsplit(backends.postgres)
        assert address.port is not None
        postgres.stand_before(address.port)
        given = {
            "OMS_KAFKA": f"{LOOPBACK}:{kafka.port}",
            "OMS_POSTGRES_URL": backends.postgres.replace(f":{address.port}/", f":{postgres.port}/"),
        }
        with mock.patch.dict(os.environ, given):
            system = await stack.enter_async_context(
                running_system(var, auto_ports=True, services=SERVICES, settings=SETTINGS, report=report)
            )
        yield Stage(system, backends, kafka, postgres)
