"""One real Kafka and one real PostgreSQL per test session: given by the environment, else containers, else embedded.

`OMS_TEST_BACKEND=env|containers|embedded` forces one of the three; what was taken is said in pytest's header.
"""

import asyncio
import contextlib
import functools
import gc
import io
import os
import tarfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import docker
import pytest
from docker.errors import APIError, DockerException, ImageNotFound
from testcontainers.community.postgres import PostgresContainer
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer
from testcontainers.core.wait_strategies import LogMessageWaitStrategy

from ops.embedded import throwaway

KAFKA_IMAGE: Final = "apache/kafka:4.3.1"
POSTGRES_IMAGE: Final = "postgres:18"
_CONTAINER_START_S: Final = 120
_DOCKER_ANSWERS_S: Final = 5


class Kind(StrEnum):
    """Where the backends of a session come from, first choice first."""

    ENV = "env"
    CONTAINERS = "containers"
    EMBEDDED = "embedded"


@dataclass(frozen=True, slots=True)
class Backends:
    """`kafka` is a bootstrap server, `postgres` the DSN of a role that may create databases."""

    kind: Kind
    kafka: str
    postgres: str


def pytest_report_header() -> str:
    kind, reason = _choice()
    return f"backends: {kind} ({reason})"


@pytest.fixture(scope="session")
def backends(pytestconfig: pytest.Config) -> Iterator[Backends]:
    """Started when the first test asks, gone when the session ends."""
    kind, _ = _choice()
    if kind is Kind.CONTAINERS and (missing := _missing_image()):
        if "OMS_TEST_BACKEND" in os.environ:
            pytest.exit(f"OMS_TEST_BACKEND=containers, but {missing}", returncode=pytest.ExitCode.USAGE_ERROR)
        terminal = pytestconfig.pluginmanager.get_plugin("terminalreporter")
        if terminal is not None:
            terminal.write_line(f"backends: embedded after all ({missing})")
        kind = Kind.EMBEDDED
    with _STARTS[kind]() as started:
        yield started


@functools.cache
def _choice() -> tuple[Kind, str]:
    """The kind and, in a few words, why."""
    given = [name for name in ("OMS_KAFKA", "OMS_POSTGRES_URL") if name in os.environ]
    if forced := os.environ.get("OMS_TEST_BACKEND"):
        if forced not in list(Kind):
            raise pytest.UsageError(f"OMS_TEST_BACKEND is {forced!r}; use one of {', '.join(Kind)}")
        kind, reason = Kind(forced), "forced by OMS_TEST_BACKEND"
    elif given:
        kind, reason = Kind.ENV, "OMS_KAFKA and OMS_POSTGRES_URL"
    elif _docker_answers():
        kind, reason = Kind.CONTAINERS, "Docker answers"
    else:
        kind, reason = Kind.EMBEDDED, "no endpoints in the environment, no Docker"
    if kind is Kind.ENV and len(given) < 2:
        raise pytest.UsageError("backends from the environment need both OMS_KAFKA and OMS_POSTGRES_URL")
    if kind is Kind.CONTAINERS and not _docker_answers():
        raise pytest.UsageError("OMS_TEST_BACKEND=containers, but no Docker engine answers")
    return kind, reason


@functools.cache
def _docker_answers() -> bool:
    try:
        with contextlib.closing(docker.from_env(timeout=_DOCKER_ANSWERS_S)) as client:
            return bool(client.ping())
    except DockerException:
        pass
    # Where nobody listens, the client leaves its socket in a cycle: collected later, it would fail whichever test runs.
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):
        gc.collect()
    return False


def _missing_image() -> str | None:
    """None when every image is here or could be pulled."""
    with contextlib.closing(docker.from_env()) as client:
        for image in (KAFKA_IMAGE, POSTGRES_IMAGE):
            try:
                client.images.get(image)
            except ImageNotFound:
                try:
                    client.images.pull(image)
                except APIError as error:
                    return f"{image} cannot be pulled: {error.explanation or error}"
    return None


@contextlib.contextmanager
def _from_env() -> Iterator[Backends]:
    yield Backends(kind=Kind.ENV, kafka=os.environ["OMS_KAFKA"], postgres=os.environ["OMS_POSTGRES_URL"])


@contextlib.contextmanager
def _from_containers() -> Iterator[Backends]:
    with contextlib.closing(docker.from_env()) as client:
        try:
            client.images.get(testcontainers_config.ryuk_image)
        except ImageNotFound:
            # Its reaper only matters when a session is killed; without its image nothing would start at all.
            testcontainers_config.ryuk_disabled = True
    postgres = PostgresContainer(POSTGRES_IMAGE, driver=None).with_command("postgres -c max_connections=200")
    with ApacheKafkaContainer() as kafka, postgres:
        yield Backends(kind=Kind.CONTAINERS, kafka=kafka.bootstrap, postgres=postgres.get_connection_url())


@contextlib.contextmanager
def _from_embedded() -> Iterator[Backends]:
    # A loop of its own, entered only to start and to stop: the tests' loops come and go in between.
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        running = throwaway()
        started = runner.run(running.__aenter__())
        try:
            yield Backends(kind=Kind.EMBEDDED, kafka=started.kafka, postgres=started.postgres)
        finally:
            runner.run(running.__aexit__(None, None, None))


_STARTS: Final = {Kind.ENV: _from_env, Kind.CONTAINERS: _from_containers, Kind.EMBEDDED: _from_embedded}


class ApacheKafkaContainer(DockerContainer):
    """One broker of the official image. It must advertise the host's port, which Docker picks when it starts.

    So the container first waits for a file with the advertised listeners, and becomes the broker when it is there.
    """

    _CLIENTS: Final = 9092
    _LISTENERS: Final = "/tmp/advertised"

    def __init__(self) -> None:
        super().__init__(KAFKA_IMAGE)
        self.with_exposed_ports(self._CLIENTS)
        self.with_envs(
            KAFKA_NODE_ID="1",
            KAFKA_PROCESS_ROLES="broker,controller",
            KAFKA_CONTROLLER_QUORUM_VOTERS="1@localhost:9094",
            KAFKA_CONTROLLER_LISTENER_NAMES="CONTROLLER",
            KAFKA_INTER_BROKER_LISTENER_NAME="BROKER",
            KAFKA_LISTENERS=f"CLIENTS://:{self._CLIENTS},BROKER://:9093,CONTROLLER://:9094",
            KAFKA_LISTENER_SECURITY_PROTOCOL_MAP="CLIENTS:PLAINTEXT,BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT",
            KAFKA_AUTO_CREATE_TOPICS_ENABLE="false",
            KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS="0",
            KAFKA_OFFSETS_TOPIC_NUM_PARTITIONS="1",
            KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR="1",
            KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR="1",
            KAFKA_TRANSACTION_STATE_LOG_MIN_ISR="1",
        )
        wait = f"until [ -f {self._LISTENERS} ]; do sleep 0.1; done"
        launch = f"KAFKA_ADVERTISED_LISTENERS=$(cat {self._LISTENERS}) exec /etc/kafka/docker/run"
        self.with_command(["sh", "-c", f"{wait}; {launch}"])

    @property
    def bootstrap(self) -> str:
        return f"{self.get_container_host_ip()}:{self.get_exposed_port(self._CLIENTS)}"

    def start(self) -> "ApacheKafkaContainer":
        super().start()
        listeners = f"CLIENTS://{self.bootstrap},BROKER://localhost:9093".encode()
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            entry = tarfile.TarInfo(self._LISTENERS.lstrip("/"))
            entry.size, entry.mode = len(listeners), 0o644
            tar.addfile(entry, io.BytesIO(listeners))
        self.get_wrapped_container().put_archive("/", archive.getvalue())
        started = LogMessageWaitStrategy("Kafka Server started").with_startup_timeout(_CONTAINER_START_S)
        started.wait_until_ready(self)
        return self
