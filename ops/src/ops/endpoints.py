"""`var/endpoints.json`: where everything of a running system is found. There exactly while the system is up."""

import os
from pathlib import Path
from typing import Self

import psutil
from pydantic import BaseModel, ConfigDict

from ops.places import write_whole


class NotUp(Exception):
    """There is no running system to ask; the text says how to get one."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RunningProcess(_Record):
    """A process id together with the moment it began, so that a number used again is not mistaken for it."""

    pid: int
    began_at: float

    @classmethod
    def ours(cls) -> Self:
        return cls(pid=os.getpid(), began_at=psutil.Process().create_time())

    @classmethod
    def of(cls, pid: int) -> Self | None:
        """None when it has just died."""
        try:
            return cls(pid=pid, began_at=psutil.Process(pid).create_time())
        except psutil.NoSuchProcess:
            return None

    def found(self) -> psutil.Process | None:
        """The very process, while it lives."""
        try:
            process = psutil.Process(self.pid)
            is_same = process.create_time() == self.began_at and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return None
        return process if is_same else None


class Replica(_Record):
    """One process of a service; `process` is None for the moment in which it has died and is being started again."""

    url: str
    log: Path
    process: RunningProcess | None


class ServiceEndpoint(Replica):
    """A service by its first replica; `others` are those that `oms scale` added, by the names of their processes."""

    docs: str
    database: str | None
    others: dict[str, Replica]

    def replicas(self, name: str) -> dict[str, Replica]:
        """All of them, by the names of their processes; `name` is the service's."""
        return {name: self, **self.others}


class Endpoints(_Record):
    """Everything a person, a test or a command needs to talk to the system. `postgres` and `kafka` as in the settings
    of the cluster; their processes are None when they were given and are not ours. `control`: where the supervisor
    listens to `oms scale`."""

    supervisor: RunningProcess
    control: str
    kafka: str
    kafka_process: RunningProcess | None
    postgres: str
    postgres_process: RunningProcess | None
    topics: tuple[str, ...]
    services: dict[str, ServiceEndpoint]
    smtp: str
    secrets: Path

    def url(self, service: str) -> str:
        return self.services[service].url

    def database(self, service: str) -> str:
        """The service's own database; `KeyError` for one that has none."""
        if (dsn := self.services[service].database) is None:
            raise KeyError(service)
        return dsn

    def write(self, var: Path) -> None:
        write_whole(path_in(var), self.model_dump_json(indent=2) + "\n")

    def processes(self) -> list[RunningProcess]:
        """All but the supervisor."""
        replicas = [each for name, service in self.services.items() for each in service.replicas(name).values()]
        found = [self.kafka_process, self.postgres_process, *(each.process for each in replicas)]
        return [process for process in found if process is not None]


def path_in(var: Path) -> Path:
    return var / "endpoints.json"


def recorded_endpoints(var: Path) -> Endpoints | None:
    """What was last written, by a system that may be gone."""
    try:
        return Endpoints.model_validate_json(path_in(var).read_bytes())
    except FileNotFoundError:
        return None


def live_endpoints(var: Path) -> Endpoints:
    """Those of the running system; `NotUp` without one."""
    endpoints = recorded_endpoints(var)
    if endpoints is None or endpoints.supervisor.found() is None:
        raise NotUp("the system is not up: start it with `oms up --detach`")
    return endpoints
