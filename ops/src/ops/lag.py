"""`oms lag`: what every consumer has still to do, what is not yet published, what is parked, and what the view misses.

Asked of the databases and the broker, not of the services: the answer is whole however many replicas share the
partitions, and while a service is down.
"""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from importlib import import_module
from typing import Annotated, Final

import asyncpg
import httpx
import typer
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from rich.markup import escape
from rich.table import Table

from ops.admin_client import AsJson, console, errors
from ops.endpoints import NotGiven, Place, place
from ops.paths import state_folder
from ops.system import DECIDING
from ops.topics import PARTITIONS, TopicsWrong, expiring
from shared.messaging.database import OUTAGES
from shared.messaging.offsets import WHERE_TO_READ
from shared.settings import brokers_in
from shared.web.operations import UNPUBLISHED

HOLES: Final = "SELECT count(*) FROM sections WHERE waiting <> '{}'"
ANSWER_S: Final = 10.0
READY_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Behind:
    """`seconds` is the age of the first record that was not processed; 0 when nothing is waiting."""

    group: str
    topic: str
    partition: int
    messages: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Owed:
    """What a service's database says it has not published, and what it has set aside. `holes` are sections of orders
    that wait for a fact that was not seen; None where there are no sections."""

    unpublished: int
    oldest_unpublished_seconds: float
    parked_keys: int
    withheld_keys: int
    holes: int | None


@dataclass(slots=True)
class State:
    """A service as it is now, ready when all its replicas are. What could not be found out is None, and `troubles` says
    why; whether it is ready, when nobody says where it answers."""

    is_ready: bool | None = False
    replicas: int = 1
    partitions: list[Behind] | None = None
    owed: Owed | None = None
    troubles: list[str] = field(default_factory=list)

    def attention(self, name: str, most_seconds: float) -> list[str]:
        """What an operator has to look at, a sentence each."""
        told = [f"{name}: {trouble}" for trouble in self.troubles]
        if (late := max((each.seconds for each in self.partitions or ()), default=0)) > most_seconds:
            told.append(f"{name} is {late:.0f} s behind")
        if (owed := self.owed) is not None:
            if owed.oldest_unpublished_seconds > most_seconds:
                told.append(f"{name} has facts that are not published since {owed.oldest_unpublished_seconds:.0f} s")
            if owed.parked_keys:
                told.append(f"{name} has parked keys ({owed.parked_keys}): see `oms dlq ls`")
            if owed.withheld_keys:
                told.append(f"{name} withholds keys ({owed.withheld_keys}): see `oms withheld ls`")
            if owed.holes:
                told.append(f"{name} waits for facts in sections ({owed.holes}) of orders: see `oms dlq ls`")
        return told


async def look(at: Place) -> dict[str, State]:
    """Every service that consumes, all at once; what does not answer is said in its `troubles`."""
    names = at.consuming
    return dict(zip(names, await asyncio.gather(*(_look_at(at, name) for name in names)), strict=True))


async def expiring_topics(at: Place) -> list[str]:
    """Topics that lose facts; nothing while the broker is away, which every service's state says already."""
    try:
        return await expiring(at.kafka)
    except TopicsWrong:
        return []


async def _look_at(at: Place, name: str) -> State:
    state = State()
    topics = import_module(f"{name.replace('-', '_')}.app").app.state.topics
    places = [TopicPartition(topic, partition) for topic in topics for partition in range(PARTITIONS)]
    try:
        await _ask_ready(state, at.replica_urls(name))
    except NotGiven:
        state.is_ready = None
    try:
        async with asyncio.timeout(ANSWER_S):
            db = await asyncpg.connect(at.database(name))
            try:
                positions = {TopicPartition(t, p): next for t, p, next in await db.fetch(WHERE_TO_READ, name)}
                [owed] = await db.fetch(UNPUBLISHED)
                holes = await db.fetchval(HOLES) if name == "support-view" else None
            finally:
                await db.close()
    except OUTAGES as error:
        state.troubles.append(f"its database does not answer: {error!r}")
        return state
    state.troubles += [*owed["locked"], *owed["failing"]]
    state.owed = Owed(owed["unpublished"], round(owed["oldest"], 3), owed["parked_keys"], owed["withheld_keys"], holes)
    try:
        state.partitions, lost = await behind(at.kafka, name, places, positions)
        state.troubles += lost
    except (KafkaError, OSError) as error:  # a time-out is an OSError too
        state.troubles.append(f"the broker does not answer: {error!r}")
    return state


async def _ask_ready(state: State, replicas: Mapping[str, str]) -> None:
    reasons = await asyncio.gather(*(_not_ready(url) for url in replicas.values()))
    state.replicas = len(replicas)
    state.is_ready = not any(reasons)
    for which, (name, why) in enumerate(zip(replicas, reasons, strict=True)):
        state.troubles += [f"{name}: {reason}" if which else reason for reason in why]


async def _not_ready(url: str) -> list[str]:
    """Why it is not; nothing when it is."""
    try:
        async with httpx.AsyncClient(timeout=READY_S, trust_env=False) as client:
            answer = await client.get(f"{url}/readyz")
            return list(answer.json()["reasons"])
    except (httpx.HTTPError, ValueError) as error:
        return [f"it is down ({type(error).__name__})"]


async def behind(
    kafka: str, group: str, places: Sequence[TopicPartition], positions: Mapping[TopicPartition, int]
) -> tuple[list[Behind], list[str]]:
    """Per partition; and in words the places that the topics do not hold. `positions` were read before: the ends only
    rise meanwhile. Raises KafkaError or a time-out."""
    async with _reader(kafka) as reader, asyncio.timeout(ANSWER_S):
        first, end = await reader.beginning_offsets(places), await reader.end_offsets(places)
        to_read = {place: positions.get(place, first[place]) for place in places}
        lost = [
            f"{place.topic}/{place.partition} is to be read from {to_read[place]} and holds {first[place]} to {end[place]}"
            for place in places
            if not first[place] <= to_read[place] <= end[place]
        ]
        waiting = [place for place in places if first[place] <= to_read[place] < end[place]]
        ages = dict.fromkeys(places, 0.0)
        reader.assign(waiting)
        for place in waiting:
            reader.seek(place, to_read[place])
        for place in waiting:
            record = await reader.getone(place)
            ages[place] = max(0.0, time.time() - record.timestamp / 1000)
    return [
        Behind(group, place.topic, place.partition, max(0, end[place] - to_read[place]), round(ages[place], 3))
        for place in places
    ], lost


@asynccontextmanager
async def _reader(kafka: str) -> AsyncIterator[AIOKafkaConsumer]:
    """In no group: looking must not take part in sharing out."""
    reader = AIOKafkaConsumer(
        bootstrap_servers=brokers_in(kafka),
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="none",
        max_partition_fetch_bytes=64 * 1024,
    )
    try:
        await reader.start()
        yield reader
    finally:
        await reader.stop()


def lag(
    as_json: AsJson = False,
    most_seconds: Annotated[float, typer.Option("--max-seconds", help="Older than this needs attention.")] = 60.0,
) -> None:
    """Show lag per group, topic and partition in messages and seconds, the outbox, parked keys and holes.

    Exit code 1 when something needs attention: a service that is down or not ready, parked or withheld keys, holes,
    topics that lose facts, or something older than --max-seconds. Lag that comes and goes under load is none.
    """
    at = place(DECIDING, state_folder())
    _ = at.kafka, at.database(at.consuming[0])  # without them there is nothing to say
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # what it has to say is in the answer
    with errors.status("asking"):
        found, losing = asyncio.run(_all_of(at))
    attention = losing + [told for name, state in found.items() for told in state.attention(name, most_seconds)]
    if as_json:
        services = {name: asdict(state) for name, state in found.items()}
        console.print_json(json.dumps({"services": services, "attention": attention}))
    else:
        console.print(_table(found, most_seconds))
        for told in attention:
            console.print(f"[red]![/] {escape(told)}", highlight=False, soft_wrap=True)
    raise typer.Exit(1 if attention else 0)


async def _all_of(at: Place) -> tuple[dict[str, State], list[str]]:
    return await asyncio.gather(look(at), expiring_topics(at))


def _table(found: Mapping[str, State], most_seconds: float) -> Table:
    table = Table(
        "service", "", "behind", "seconds", "partitions behind", "unpublished", "oldest, s", "parked", "holes"
    )

    def seconds(number: float) -> str:
        return f"[red]{number:.1f}[/]" if number > most_seconds else f"{number:.1f}"

    def count(number: int) -> str:
        return f"[red]{number}[/]" if number else "0"

    for name, state in found.items():
        many = f", {state.replicas} replicas" if state.replicas > 1 else ""
        row = [name, {True: "[green]ready[/]", False: "[red]down[/]", None: "[dim]not asked[/]"}[state.is_ready] + many]
        if state.partitions is None:
            row += ["?", "?", "?"]
        else:
            late = [each for each in state.partitions if each.messages]
            row += [
                str(sum(each.messages for each in late)),
                seconds(max((each.seconds for each in late), default=0)),
                "\n".join(f"{each.topic}/{each.partition}: {each.messages}" for each in late) or "none",
            ]
        if (owed := state.owed) is None:
            row += ["?", "?", "?", "?"]
        else:
            row += [str(owed.unpublished), seconds(owed.oldest_unpublished_seconds), count(owed.parked_keys)]
            row += ["-" if owed.holes is None else count(owed.holes)]
        table.add_row(*row)
    return table
