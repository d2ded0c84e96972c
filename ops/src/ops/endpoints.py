"""Where everything of a running system is found: in `var/endpoints.json`, which is there exactly while `oms up` runs it,
or in the environment, wherever it runs."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, Self

import psutil
from pydantic import BaseModel, ConfigDict

from ops.databases import database_url
from ops.keys import kept_keys
from ops.paths import write_whole

KAFKA: Final = "OMS_KAFKA"
POSTGRES: Final = "OMS_POSTGRES_URL"
AUTH_KEY: Final = "OMS_AUTH_KEY"


class NotUp(Exception):
    """There is no running system to ask; the text says how to get one."""


class NotGiven(NotUp):
    """The environment names a system, and not the part of it that is asked for; the text names the variable."""


class Place(Protocol):
    """Where a system is that a command looks into. What is not known raises NotGiven."""

    @property
    def kafka(self) -> str: ...

    @property
    def consuming(self) -> list[str]:
        """The names of the services that have a database."""

    def database(self, service: str) -> str: ...

    def url(self, service: str) -> str: ...

    def replica_urls(self, service: str) -> dict[str, str]:
        """By the names of their processes."""

    def log_of(self, service: str) -> str:
        """Where its log is, in words."""


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

    @property
    def consuming(self) -> list[str]:
        return [name for name, service in self.services.items() if service.database]

    def url(self, service: str) -> str:
        return self.services[service].url

    def replica_urls(self, service: str) -> dict[str, str]:
        return {name: each.url for name, each in self.services[service].replicas(service).items()}

    def log_of(self, service: str) -> str:
        return str(self.services[service].log)

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


@dataclass(frozen=True, slots=True)
class GivenPlace:
    """A system that runs elsewhere, as the environment names it: its broker, its database server, its services' URLs."""

    environment: Mapping[str, str]
    services: tuple[str, ...]

    @property
    def kafka(self) -> str:
        return self._value(KAFKA, "where the broker is, as in kafka:9092")

    @property
    def consuming(self) -> list[str]:
        return list(self.services)

    def database(self, service: str) -> str:
        admin = self._value(
            POSTGRES, "where the databases are, as in postgresql://user:password@host:5432/postgres", "postgres"
        )
        return database_url(admin, service.replace("-", "_"))

    def url(self, service: str) -> str:
        return self._value(url_variable(service), f"where {service} answers, as in http://host:8000", "http").rstrip(
            "/"
        )

    def replica_urls(self, service: str) -> dict[str, str]:
        return {service: self.url(service)}

    def log_of(self, service: str) -> str:
        return f"the log of {service}"

    def _value(self, variable: str, what: str, scheme: str = "") -> str:
        if not (value := self.environment.get(variable)):
            raise NotGiven(f"{variable} is not set: {what}")
        if not value.startswith(scheme) or (scheme and "://" not in value):
            raise NotGiven(f"{variable} is no URL that says {what}")
        return value


def signing_key(at: Place, var: Path) -> str:
    """The key of tokens that the system takes: our own here, and elsewhere the environment's. Raises NotGiven."""
    if isinstance(at, GivenPlace) and not os.environ.get(AUTH_KEY):
        raise NotGiven(f"{AUTH_KEY} is not set: the key of that system's tokens, which its services have as {AUTH_KEY}")
    return kept_keys(var).auth_key


def url_variable(service: str) -> str:
    return f"OMS_{service.replace('-', '_').upper()}_URL"


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


def place(services: tuple[str, ...], var: Path) -> Place:
    """The system that a command looks into: the one that runs here, unless the environment names another. `services`
    are those that have a database. Raises NotUp when there is neither."""
    variables = [KAFKA, POSTGRES, *map(url_variable, services)]
    given = {name: value for name in variables if (value := os.environ.get(name))}
    try:
        here = live_endpoints(var)
    except NotUp as error:
        if not given:
            raise NotUp(f"{error}, or name one that runs elsewhere: {', '.join(variables)}") from error
        return GivenPlace(given, services)
    is_here = {KAFKA: here.kafka, POSTGRES: here.postgres} | {
        url_variable(name): service.url for name, service in here.services.items()
    }
    return here if given.items() <= is_here.items() else GivenPlace(given, services)
