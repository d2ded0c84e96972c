"""The nemesis: what is done to the running system, in an order that the seed decides. It sets right what it did.

A strike says in words what it did, or raises `Missed` when there was nothing to strike.
"""

import asyncio
import contextlib
import glob
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Final

import asyncpg
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from ops.supervision import Process, StartFailed
from ops.topics import PARTITIONS
from shared.messaging.database import OUTAGES
from support_view.handlers import TOPICS
from tests.chaos.stage import CONSUMING, DECIDING, READY_S, Stage, send

CAUGHT_S: Final = 8.0
"""How long a strike waits for the moment it wants."""
_POLL_S: Final = 0.01


class Missed(Exception):
    """The moment did not come; the text says which."""


@dataclass(frozen=True, slots=True)
class Strike:
    """`pause` before it, in seconds; `seconds` it lasts, for those that last; `dice` for whatever else it picks."""

    pause: float
    kind: str
    target: str
    seconds: float
    dice: int

    def __str__(self) -> str:
        return f"{self.kind}: {self.target}" if self.target else self.kind


@dataclass(frozen=True, slots=True)
class Kind:
    """`targets`: one is picked; `lasts`: seconds, at least and at most, scaled down in a short run."""

    does: Callable[[Stage, Strike], Awaitable[str]]
    targets: tuple[str, ...] = ("",)
    lasts: tuple[float, float] = (0, 0)


EVERYBODY: Final = (*CONSUMING, "sandbox")


def schedule(seed: int, between: tuple[float, float], scale: float = 1.0) -> Iterator[Strike]:
    """For ever: every kind once in each round, in an order and with targets that the seed decides."""
    dice = Random(seed)
    decks: dict[str, list[str]] = {}
    while True:
        for kind in dice.sample(sorted(KINDS), len(KINDS)):
            deck = decks.setdefault(kind, [])
            if not deck:
                deck += dice.sample(KINDS[kind].targets, len(KINDS[kind].targets))
            yield Strike(
                round(dice.uniform(*between), 1),
                kind,
                deck.pop(),
                round(dice.uniform(*KINDS[kind].lasts) * scale, 1),
                dice.randrange(2**32),
            )


class Nemesis:
    """Strikes one after the other; what it did is counted by kind, what it missed aside."""

    def __init__(self, stage: Stage, strikes: Iterator[Strike], report: Callable[[str], None]) -> None:
        self._stage = stage
        self._strikes = strikes
        self._report = report
        self.done: Counter[str] = Counter()
        self.missed: Counter[str] = Counter()

    async def strike(self, until: float) -> None:
        """Until the loop's clock says so; a strike that has begun is finished."""
        loop = asyncio.get_running_loop()
        for strike in self._strikes:
            if loop.time() + strike.pause > until:
                return
            await asyncio.sleep(strike.pause)
            try:
                did = await KINDS[strike.kind].does(self._stage, strike)
            except (Missed, *OUTAGES) as missed:  # what it strikes with may be down from the strike before
                self.missed[strike.kind] += 1
                self._report(f"{strike}: missed, {missed!r}")
            else:
                self.done[strike.kind] += 1
                self._report(f"{strike}: {did}")


async def _until(is_so: Callable[[], Awaitable[object]], what: str, within: float = CAUGHT_S) -> None:
    try:
        async with asyncio.timeout(within):
            while not await is_so():  # noqa: ASYNC110 -- no event tells
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        raise Missed(what) from None


def _hit(process: Process, number: signal.Signals) -> str:
    if not send(process, number):
        raise Missed("it was down already")
    return f"{number.name} to process {process.pid}"


@contextlib.contextmanager
def _stopped(process: Process) -> Iterator[None]:
    """Whatever happens meanwhile, it goes on afterwards."""
    pid = process.pid
    _hit(process, signal.SIGSTOP)
    try:
        yield
    finally:
        if process.pid == pid:
            send(process, signal.SIGCONT)


async def _kill(stage: Stage, strike: Strike) -> str:
    return _hit(stage.process(strike.target), signal.SIGKILL)


async def _restart(stage: Stage, strike: Strike) -> str:
    return _hit(stage.process(strike.target), signal.SIGTERM)


async def _pause(stage: Stage, strike: Strike) -> str:
    with _stopped(stage.process(strike.target)):
        await asyncio.sleep(strike.seconds)
    return f"stopped for {strike.seconds} s"


async def _fast(stage: Stage, strike: Strike) -> str:
    return _hit(stage.process("postgres"), signal.SIGINT)


async def _immediate(stage: Stage, strike: Strike) -> str:
    return _hit(stage.process("postgres"), signal.SIGQUIT)


async def _away(stage: Stage, strike: Strike) -> str:
    """Ended, and not started again for a while."""
    process = stage.process("kafka")
    await process.stop()
    await asyncio.sleep(strike.seconds)
    await process.start(within=READY_S)
    return f"down for {strike.seconds} s"


async def _between_acknowledgement_and_delete(stage: Stage, strike: Strike) -> str:
    """Its rows in the outbox are locked, so that its delete waits: the broker has acknowledged them. Then it is killed."""
    db = await stage.connect(strike.target)
    watching = await stage.connect(strike.target)
    try:
        async with db.transaction():

            async def has_rows() -> object:
                return await db.fetchval("SELECT count(*) FROM (SELECT FROM outbox FOR UPDATE) AS held")

            async def waits() -> object:
                return await watching.fetchval(
                    "SELECT true FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' "
                    "AND query ILIKE 'DELETE FROM outbox%'"
                )

            await _until(has_rows, "nothing was in its outbox")
            await _until(waits, "its delete did not come")
            return _hit(stage.process(strike.target), signal.SIGKILL) + " before its delete"
    finally:
        await db.close()
        await watching.close()


@asynccontextmanager
async def _replicas(stage: Stage, service: str, count: int) -> AsyncIterator[list[Process]]:
    try:
        yield await stage.system.scale({service: 1 + count})
    except StartFailed as error:
        raise Missed(str(error)[:200]) from error
    finally:
        await stage.system.scale({service: 1})


async def _wakes_after_another_took_over(stage: Stage, strike: Strike) -> str:
    """The leader is paused and its session ended, as the server does by itself in time; another leads; it wakes."""
    async with _replicas(stage, strike.target, 1) as [second]:
        both = [stage.process(strike.target), second]
        leading: list[Process] = []

        async def found() -> object:
            leading[:] = [process for process in both if await stage.leads(process)]
            return leading

        await _until(found, "no relay leads")
        [leader] = leading
        [other] = [process for process in both if process is not leader]
        with _stopped(leader):
            db = await stage.connect(strike.target)
            try:
                await db.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' "
                    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
                )
            finally:
                await db.close()
            await _until(lambda: stage.leads(other), "the other did not take over", within=30)
            await asyncio.sleep(strike.seconds)
        await asyncio.sleep(strike.seconds)
    return f"paused leader woke {strike.seconds} s after another led"


async def _three_relays(stage: Stage, strike: Strike) -> str:
    async with _replicas(stage, strike.target, 2) as more:
        await asyncio.sleep(strike.seconds / 2)
        for process in (stage.process(strike.target), more[0]):
            send(process, signal.SIGKILL)
        await asyncio.sleep(strike.seconds / 2)
    return f"three replicas for {strike.seconds} s, two of them killed"


async def _rebalance_storm(stage: Stage, strike: Strike) -> str:
    """Replicas join, are killed and leave; the group is shared out anew each time."""
    dice = Random(strike.dice)
    async with _replicas(stage, strike.target, 2) as more:
        for _ in range(6):
            send(dice.choice([stage.process(strike.target), *more]), dice.choice((signal.SIGKILL, signal.SIGTERM)))
            await asyncio.sleep(strike.seconds / 6)
    return f"six joined or left within {strike.seconds} s"


async def _slow_handler(stage: Stage, strike: Strike) -> str:
    """Its batches wait for a table for longer than the group waits for its next poll."""
    db = await stage.connect(strike.target)
    table = "timeline" if strike.target == "support-view" else "inbox"
    try:
        async with db.transaction():
            await db.execute("SET LOCAL lock_timeout = '10s'")
            try:
                await db.execute(f"LOCK TABLE {table} IN EXCLUSIVE MODE")
            except asyncpg.LockNotAvailableError:
                raise Missed(f"{table} was never free") from None
            await asyncio.sleep(strike.seconds)
    finally:
        await db.close()
    return f"its batches waited for {strike.seconds} s"


async def _half_open(stage: Stage, strike: Strike) -> str:
    """Half of the connections stay open and carry nothing more."""
    dice = Random(strike.dice)
    proxy = stage.kafka if strike.target == "kafka" else stage.postgres
    proxy.silence(new_ones=False, which=lambda: dice.random() < 0.5)
    return "half of the connections went silent"


async def _cut(stage: Stage, strike: Strike) -> str:
    dice = Random(strike.dice)
    proxy = stage.kafka if strike.target == "kafka" else stage.postgres
    proxy.cut(lambda: dice.random() < 0.5)
    return "half of the connections were cut in the middle"


async def _delayed(stage: Stage, strike: Strike) -> str:
    proxy = stage.kafka if strike.target == "kafka" else stage.postgres
    proxy.delay_s = 0.05
    try:
        await asyncio.sleep(strike.seconds)
    finally:
        proxy.delay_s = 0
    return f"everything 50 ms later for {strike.seconds} s"


async def _long_transaction(stage: Stage, strike: Strike) -> str:
    """Elsewhere in the cluster and in the service's own database: nothing that is deleted meanwhile can be removed."""
    elsewhere = await asyncpg.connect(stage.backends.postgres, timeout=10)
    here = await stage.connect(strike.target)
    try:
        async with (
            elsewhere.transaction(isolation="repeatable_read"),
            here.transaction(isolation="repeatable_read"),
        ):
            for db in (elsewhere, here):
                await db.fetchval("SELECT pg_current_xact_id()")
            await asyncio.sleep(strike.seconds)
    finally:
        for db in (elsewhere, here):
            await db.close()
    return f"open for {strike.seconds} s"


async def _locked_row(stage: Stage, strike: Strike) -> str:
    """Somebody's session holds the state of the order that was heard of last: it alone waits, and every other goes on."""
    db = await stage.connect(strike.target)
    try:
        async with db.transaction():
            key = await db.fetchval("SELECT subject FROM events ORDER BY recorded_at DESC, id LIMIT 1")
            if key is None or not await db.fetchval("SELECT key FROM states WHERE key = $1 FOR UPDATE", key):
                raise Missed("there is no order yet")
            facts = "SELECT count(*) FROM events WHERE subject <> $1"
            before = await db.fetchval(facts, key)
            await asyncio.sleep(strike.seconds)
            after = await db.fetchval(facts, key)
    finally:
        await db.close()
    return f"{key} for {strike.seconds} s, {after - before} facts of others meanwhile"


async def _told_again(stage: Stage, strike: Strike) -> str:
    """Facts of the past come again, late, shuffled within and across topics, as a producer that repeats itself would."""
    dice = Random(strike.dice)
    kafka = stage.system.endpoints.kafka
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka)
    producer = AIOKafkaProducer(bootstrap_servers=kafka)
    records: list[Any] = []
    try:
        async with asyncio.timeout(60):
            await consumer.start()
            await producer.start()
            places = [TopicPartition(topic, n) for topic in TOPICS for n in range(PARTITIONS)]
            consumer.assign(places)
            ends = await consumer.end_offsets(places)
            for place, end in ends.items():
                consumer.seek(place, dice.randrange(max(1, end)))
            ready = [place for place, end in ends.items() if end]
            for place in ready:
                records += await _some(consumer, place)
            dice.shuffle(records)
            again = records[:500]
            sends = [
                await producer.send(r.topic, r.value, r.key, partition=r.partition, headers=list(r.headers))
                for r in again
            ]
            await asyncio.gather(*sends)
    except (KafkaError, OSError, TimeoutError) as error:
        raise Missed(repr(error)) from error
    finally:
        await consumer.stop()
        await producer.stop()
    return f"{len(again)} facts again, in no order"


async def _some(consumer: AIOKafkaConsumer, place: TopicPartition) -> list[Any]:
    read = await consumer.getmany(place, timeout_ms=1000, max_records=50)
    return [record for records in read.values() for record in records]


def _libfaketime() -> str | None:
    return next(iter(sorted(glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1"))), None)


async def _clock_off(stage: Stage, strike: Strike) -> str:
    """One process lives an hour ahead of all others, or an hour behind."""
    library = _libfaketime()
    if library is None:
        raise Missed("libfaketime is not installed (Debian: apt-get install faketime)")
    process = stage.process(strike.target)
    before = process.program
    by, words = Random(strike.dice).choice((("+1h", "ahead"), ("-1h", "behind")))
    faked = {"LD_PRELOAD": library, "FAKETIME": by, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    process.program = replace(before, environment={**before.environment, **faked})
    try:
        _hit(process, signal.SIGTERM)
        await asyncio.sleep(strike.seconds)
    finally:
        process.program = before
        send(process, signal.SIGTERM)
    return f"an hour {words} for {strike.seconds} s"


KINDS: Final[dict[str, Kind]] = {
    "kill -9": Kind(_kill, EVERYBODY),
    "kill -9 again": Kind(_kill, EVERYBODY),
    "restart": Kind(_restart, EVERYBODY),
    "pause": Kind(_pause, EVERYBODY, (2, 20)),
    "kill between acknowledgement and delete": Kind(_between_acknowledgement_and_delete, DECIDING),
    "paused relay wakes after another took over": Kind(_wakes_after_another_took_over, DECIDING, (1, 5)),
    "three relays": Kind(_three_relays, DECIDING, (6, 12)),
    "rebalance storm": Kind(_rebalance_storm, CONSUMING, (6, 24)),
    "handler slower than the poll interval": Kind(_slow_handler, CONSUMING, (12, 25)),
    "kafka or postgres: kill -9": Kind(_kill, ("kafka", "postgres")),
    "kafka: restart": Kind(_restart, ("kafka",)),
    "kafka: pause": Kind(_pause, ("kafka",), (2, 15)),
    "kafka: away": Kind(_away, ("",), (10, 60)),
    "postgres: fast shutdown": Kind(_fast),
    "postgres: immediate shutdown": Kind(_immediate),
    "half-open connections": Kind(_half_open, ("kafka", "postgres")),
    "cut connections": Kind(_cut, ("kafka", "postgres")),
    "slow network": Kind(_delayed, ("kafka", "postgres"), (3, 10)),
    "long transaction": Kind(_long_transaction, CONSUMING, (10, 40)),
    "a row is locked": Kind(_locked_row, CONSUMING, (5, 25)),
    "facts told again": Kind(_told_again),
    "clock an hour off": Kind(_clock_off, CONSUMING, (15, 40)),
}
