"""A new generation of everything derived, beside the live one: built from the timeline, compared, swapped in, rolled back.

Consumers go on meanwhile; they wait only while three tables change their names. Progress is kept with each chunk, so that
a rebuild which was killed goes on where it was. Nothing but the view's own tables is written, so nothing is sent again.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, TypeAlias

import asyncpg

from support_view.domain.timeline import Entry
from support_view.figures.measures import Measured
from support_view.projection import Projection
from support_view.store import (
    MEASURE,
    OF_NO_ORDER,
    Find,
    Key,
    columns,
    folded,
    measured_columns,
    measures_of,
    read_all,
    written,
)

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

LOCK: Final = "SELECT pg_try_advisory_lock(7236, 9)"
STATE: Final = "SELECT state, after_subject, after_service, caught_up_to FROM generations"
ALONE: Final = "another process is rebuilding this view"
CHUNK: Final = 200
"""Sections of a transaction: what a live consumer waits for where it waits for the disk or a core."""
SHOWN: Final = 20

MAKE_BESIDE: Final = """
CREATE TABLE {table}_next (LIKE {table} INCLUDING ALL) {options}"""
OPTIONS: Final = "SELECT array_to_string(reloptions, ', ') FROM pg_class WHERE oid = $1::regclass"
KEYS: Final = """
SELECT DISTINCT subject, service FROM timeline WHERE (subject, service) > ($1, $2) AND strpos(subject, $3) = 0
ORDER BY subject, service LIMIT $4"""
# A fact that is committed after this was read belongs to a transaction that runs now or starts later: it is not older.
# A vacuum tells no facts, and may run for hours.
HORIZON: Final = """
SELECT least(statement_timestamp(), min(xact_start)) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"""
TOUCHED: Final = """
SELECT DISTINCT subject, service FROM timeline WHERE seen_at >= $1 AND strpos(subject, $2) = 0 ORDER BY subject, service"""
WRITE_SECTIONS: Final = """
INSERT INTO sections_{which} (subject, service, next, waiting, state)
SELECT subject, service, next, waiting::bigint[], state::json
FROM unnest($1::text[], $2::text[], $3::text::bigint[], $4::text[], $5::text[]) AS new (subject, service, next, waiting, state)
ON CONFLICT (subject, service) DO UPDATE
SET next = excluded.next, waiting = excluded.waiting, state = excluded.state"""
WRITE_FINDS: Final = """
INSERT INTO finds_{which} (kind, value, subject) SELECT * FROM unnest($1::text[], $2::text[], $3::text[])
ON CONFLICT DO NOTHING"""
CLEAR_MEASURED: Final = """
DELETE FROM measured_{which} AS m USING unnest($1::text[], $2::text[]) AS k (subject, service)
WHERE m.subject = k.subject AND m.service = k.service"""
REMEMBER: Final = """
UPDATE generations SET state = $1, after_subject = $2, after_service = $3, caught_up_to = $4, changed_at = clock_timestamp()"""
DIFFERENT: Final = """
SELECT coalesce(live.subject, made.subject) AS subject, coalesce(live.service, made.service) AS service
FROM sections AS live FULL JOIN sections_next AS made USING (subject, service)
WHERE (live.next, live.waiting, live.state::text) IS DISTINCT FROM (made.next, made.waiting, made.state::text)
ORDER BY 1, 2"""
DIFFERENT_FINDS: Final = """
SELECT count(*) FROM finds AS live FULL JOIN finds_next AS made USING (kind, value, subject)
WHERE live.subject IS NULL OR made.subject IS NULL"""
DIFFERENT_MEASURED: Final = """
SELECT count(*) FROM measured AS live FULL JOIN measured_next AS made USING (subject, service, measure, id)
WHERE live IS DISTINCT FROM made"""
HASH: Final = """
SELECT count(*), to_hex(coalesce(bit_xor(('x' || left(md5(concat_ws(' ', subject, service, next, waiting, state)), 16))::bit(64)
    ::bigint), 0)) FROM {table}"""
EXCLUDE: Final = "SET LOCAL lock_timeout = '2s'; LOCK TABLE sections, finds, measured IN ACCESS EXCLUSIVE MODE"


KEY: Final = ("subject", "service")
SECTION: Final = (*KEY, "next", "waiting", "state")
TABLES: Final = ("sections", "finds", "measured")
"""What is derived: a generation is one of each."""


class State(StrEnum):
    """Of the generation beside the live one. `previous`: it was live until the last swap."""

    NONE = "none"
    BUILDING = "building"
    READY = "ready"
    PREVIOUS = "previous"


class Refused(Exception):
    """What was asked for cannot be done as things stand; the message says why."""


@dataclass(frozen=True, slots=True)
class Parity:
    """The live sections beside the new ones, in one snapshot. `differing` are live ones that their facts do not give."""

    sections: int
    live_hash: str
    new_hash: str
    differing: tuple[Key, ...]
    differing_finds: int
    differing_measured: int

    @property
    def holds(self) -> bool:
        return self.live_hash == self.new_hash and not (
            self.differing or self.differing_finds or self.differing_measured
        )


Report = Callable[[str, int], None]
"""(what is being done, how many sections more)"""


@dataclass(slots=True)
class Rebuild:
    """One rebuild at a time, by whoever has the lock on this connection."""

    db: Connection
    report: Report = field(default=lambda *_: None)
    chunk: int = CHUNK

    async def begin(self) -> State:
        """Take the lock; where the generation beside the live one stands. Raises Refused while another process has it."""
        if not await self.db.fetchval(LOCK):
            raise Refused(ALONE)
        return State(await self.db.fetchval("SELECT state FROM generations"))

    async def build(self) -> Parity:
        """Make the new generation, or go on with it, and compare; Raises Refused while a previous one is kept."""
        state = await self.begin()
        if state is State.PREVIOUS:
            raise Refused("the generation before is still kept: discard it first, or roll back to it")
        if state is State.NONE:
            await self._make()
        if state is not State.READY:
            await self._fill()
        await self._catch_up("next", State.READY)
        return await self.parity()

    async def _make(self) -> None:
        async with self.db.transaction():
            horizon = await self.db.fetchval(HORIZON)
            for table in TABLES:
                options = await self.db.fetchval(OPTIONS, table)
                await self.db.execute(MAKE_BESIDE.format(table=table, options=f"WITH ({options})" if options else ""))
            await self.db.execute(REMEMBER, State.BUILDING, "", "", horizon)

    async def _fill(self) -> None:
        row = await self.db.fetchrow(STATE)
        assert row is not None
        read = await self._read((row["after_subject"], row["after_service"]))
        while read:
            after = [*read][-1]
            async with self.db.transaction():
                # The database reads the next ones while these are folded here.
                following, derived = await asyncio.gather(self._read(after), folded(read))
                await self._copy(*derived)
                await self.db.execute(REMEMBER, State.BUILDING, *after, row["caught_up_to"])
            self.report("folding the timeline", len(read))
            read = following

    async def _read(self, after: Key) -> Mapping[Key, Sequence[Entry]]:
        """The facts of the next sections."""
        rows = await self.db.fetch(KEYS, *after, OF_NO_ORDER, self.chunk)
        return await read_all(self.db, [(row["subject"], row["service"]) for row in rows])

    async def _copy(self, sections: Mapping[Key, Projection[Any]], finds: Set[Find]) -> None:
        """Sections that the new generation does not have yet, by COPY."""
        rows = [
            (*key, section.next, sorted(section.waiting), state)
            for (key, section), state in zip(sections.items(), written(sections)[-1], strict=True)
        ]
        await self.db.copy_records_to_table("sections_next", records=rows, columns=SECTION)
        if counted := [(*key, *row) for key, row in measures_of(sections)]:
            await self.db.copy_records_to_table("measured_next", records=counted, columns=(*KEY, *Measured._fields))
        await self._find("next", finds)

    async def _find(self, which: str, finds: Set[Find]) -> None:
        if finds:
            await self.db.execute(WRITE_FINDS.format(which=which), *map(list, zip(*sorted(finds), strict=True)))

    async def _write(self, which: str, keys: Sequence[Key]) -> None:
        sections, finds = await folded(await read_all(self.db, keys))
        await self.db.execute(WRITE_SECTIONS.format(which=which), *written(sections))
        await self._find(which, finds)
        await self.db.execute(CLEAR_MEASURED.format(which=which), *columns(keys))
        if rows := measures_of(sections):
            await self.db.execute(MEASURE.format(table=f"measured_{which}"), *measured_columns(rows))

    async def _catch_up(self, which: str, state: State) -> None:
        """Fold again whatever was seen meanwhile, until little is left, or no less than the last time."""
        before = None
        while (news := await self._pass(which, state)) > self.chunk and (before is None or news < before):
            before = news

    async def _pass(self, which: str, state: State) -> int:
        """How many sections had news. In one transaction, or in that of the caller."""
        horizon = await self.db.fetchval(HORIZON)
        since = await self.db.fetchval("SELECT caught_up_to FROM generations")
        keys = [(r["subject"], r["service"]) for r in await self.db.fetch(TOUCHED, since, OF_NO_ORDER)]
        for start in range(0, len(keys), self.chunk):
            part = keys[start : start + self.chunk]
            await self._write(which, part)
            self.report("catching up", len(part))
        await self._remember(state, horizon)
        return len(keys)

    async def _remember(self, state: State, caught_up_to: datetime | None) -> None:
        await self.db.execute(REMEMBER, state, "", "", caught_up_to)

    async def parity(self) -> Parity:
        """Compare in one snapshot. What live consumers did meanwhile is folded first, so that it does not count."""
        async with self.db.transaction(isolation="repeatable_read"):
            rows = await self.db.fetch(DIFFERENT)
            keys = [(row["subject"], row["service"]) for row in rows]
            for start in range(0, len(keys), self.chunk):
                await self._write("next", keys[start : start + self.chunk])
            differing = tuple((row["subject"], row["service"]) for row in await self.db.fetch(DIFFERENT))
            sections, live_hash = await self.db.fetchrow(HASH.format(table="sections")) or (0, "")
            _, new_hash = await self.db.fetchrow(HASH.format(table="sections_next")) or (0, "")
            finds = await self.db.fetchval(DIFFERENT_FINDS)
            counted = await self.db.fetchval(DIFFERENT_MEASURED)
        return Parity(sections, live_hash, new_hash, differing, finds, counted)

    async def swap(self) -> None:
        """The new generation becomes the live one, and the live one is kept as the previous. Raises Refused without one,
        and an outage when the tables cannot be had for two seconds."""
        if await self.begin() is not State.READY:
            raise Refused("there is no new generation that is ready: rebuild first")
        await self._exchange("next", "previous")

    async def roll_back(self) -> None:
        """The previous generation becomes the live one again, caught up with what was seen since; the one that was live is
        kept as the new one. Raises Refused without one."""
        if await self.begin() is not State.PREVIOUS:
            raise Refused("there is no previous generation to go back to")
        await self._exchange("previous", "next")

    async def _exchange(self, coming: str, going: str) -> None:
        state = State.PREVIOUS if going == "previous" else State.READY
        await self._catch_up(coming, State.READY if coming == "next" else State.PREVIOUS)
        async with self.db.transaction():
            await self.db.execute(EXCLUDE)
            await self._pass(coming, state)
            for table in TABLES:
                await self.db.execute(f"ALTER TABLE {table} RENAME TO {table}_{going}")
                await self.db.execute(f"ALTER TABLE {table}_{coming} RENAME TO {table}")

    async def discard(self) -> None:
        """Drop the generation that is not live, whichever it is."""
        await self.begin()
        async with self.db.transaction():
            beside = [f"{table}_{which}" for table in TABLES for which in ("next", "previous")]
            await self.db.execute(f"DROP TABLE IF EXISTS {', '.join(beside)}")
            await self._remember(State.NONE, None)
