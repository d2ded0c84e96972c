"""All SQL of the view: a batch costs a fixed number of statements, and every read of an order is one snapshot."""

from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeAlias
from uuid import UUID

from asyncpg import Record as Row
from asyncpg import UniqueViolationError
from uuid_utils.compat import uuid7

from shared.contracts import FACTS
from shared.messaging.database import Pool, array, transposed
from shared.messaging.shell import Db, StateCache, one_batch_at_a_time, yielding_every
from shared.web.metrics import Gauge
from support_view.domain.policies import EscalationPolicy
from support_view.domain.timeline import Entry, Place
from support_view.figures.measures import Measured, measured, news
from support_view.projection import (
    ALL,
    DOMAINS,
    Projection,
    Span,
    fold_contiguous,
    projection_of,
    search_keys,
    span_to_read,
)

Key = tuple[str, str]
"""Subject and service."""

Find = tuple[str, str, str]
"""Kind, value and the order it leads to."""


class StoredFact(NamedTuple):
    """An entry and its data as it travelled."""

    entry: Entry
    data: str


# A version of a row is named by the transaction that wrote it: the state of one that is remembered is not read again.
LOCK = """
SELECT subject, service, next, waiting, CASE WHEN sections.xmin::text IS DISTINCT FROM known THEN state END AS state,
    pg_current_xact_id()::xid::text AS writer, false AS is_new
FROM sections JOIN unnest($1::text[], $2::text[], $3::text[]) AS k (subject, service, known) USING (subject, service)
ORDER BY subject, service FOR UPDATE OF sections"""
# Returns the ids that stood on the timeline before, most often none, and the sections. All do it in this order, each in the
# order of its key, so that two processes that are told the same facts cannot wait for each other in a circle: facts are
# kept, sections that are new made, the others locked.
CLAIM_AND_LOCK = """
WITH told AS (SELECT * FROM unnest($4::uuid[], $5::text[], $6::text[], $7::bigint[], $8::text[], $9::text[],
        $10::timestamptz[], $11::text[], $12::text[], $13::text[], $14::text[], $15::text[])
    AS t (id, service, subject, sequence, type, data, occurred_at, actor, reason, correlation_id, causation_id, trace_id)),
kept AS (INSERT INTO timeline (id, subject, service, sequence, type, data, occurred_at, actor, reason, correlation_id,
        causation_id, trace_id)
    SELECT id, subject, service, sequence, type, data::json, occurred_at, actor, reason, correlation_id, causation_id, trace_id
    FROM told ON CONFLICT (id) DO NOTHING RETURNING id),
made AS (
    INSERT INTO sections (subject, service) SELECT * FROM unnest($1::text[], $2::text[]) ON CONFLICT DO NOTHING
    RETURNING subject, service, next, waiting, state, pg_current_xact_id()::xid::text AS writer, true AS is_new),
locked AS (
    {lock})
SELECT id, NULL::text AS subject, NULL::text AS service, NULL::bigint AS next, NULL::bigint[] AS waiting,
    NULL::json AS state, NULL::text AS writer, NULL::bool AS is_new
FROM told WHERE NOT EXISTS (SELECT FROM kept WHERE kept.id = told.id)
UNION ALL SELECT NULL, * FROM made UNION ALL SELECT NULL, * FROM locked""".replace("{lock}", LOCK)
READ_SPANS = """
SELECT t.id, t.subject, t.service, t.sequence, t.type, t.data, t.occurred_at, t.actor, t.reason, t.correlation_id,
    t.causation_id, t.trace_id
FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[]) AS s (subject, service, first, last)
JOIN timeline AS t ON t.subject = s.subject AND t.service = s.service AND t.sequence BETWEEN s.first AND s.last"""
# In the order of their key, as everything that two processes may write at once.
MEASURE = """
INSERT INTO {table} (subject, service, measure, id, began_at, ended_at, part, whole, labels, left_out, facts)
SELECT subject, service, measure, id, began_at, ended_at, part, whole, labels::text[], left_out, facts::bigint[]
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::timestamptz[], $7::text::bigint[],
    $8::text::bigint[], $9::text[], $10::text[], $11::text[])
    AS new (subject, service, measure, id, began_at, ended_at, part, whole, labels, left_out, facts)
ORDER BY subject, service, measure, id
ON CONFLICT (subject, service, measure, id) DO UPDATE SET (began_at, ended_at, part, whole, labels, left_out, facts) =
    (excluded.began_at, excluded.ended_at, excluded.part, excluded.whole, excluded.labels, excluded.left_out, excluded.facts)"""
FORGET = """
DELETE FROM measured USING unnest($1::text[], $2::text[], $3::text[], $4::text[]) AS gone (subject, service, measure, id)
WHERE (measured.subject, measured.service, measured.measure, measured.id) = (gone.subject, gone.service, gone.measure, gone.id)"""
# What was folded, what figures count of it and what it is found by; in one, since round trips are the price of a small batch.
FOLDED = """
WITH saved AS (
    UPDATE sections SET next = new.next, waiting = new.waiting::bigint[], state = new.state::json
    FROM unnest($12::text[], $13::text[], $14::text::bigint[], $15::text[], $16::text[])
        AS new (subject, service, next, waiting, state)
    WHERE sections.subject = new.subject AND sections.service = new.service),
found AS (
    INSERT INTO finds (kind, value, subject) SELECT * FROM unnest($17::text[], $18::text[], $19::text[])
    ON CONFLICT DO NOTHING)"""
SAVE: Final = FOLDED + MEASURE.format(table="measured")


Sections: TypeAlias = Mapping[Key, Projection[Any]]


async def add(db: Db, told: Sequence[StoredFact]) -> tuple[Sections, Sections]:
    """Put facts on the timeline, once each, and fold what they make foldable, in the caller's transaction. The touched
    sections, as they were and as they are."""
    if not told:
        return {}, {}
    told = sorted(told, key=lambda t: t.entry.id)
    repeats, made, sections, writer = await _claim_and_lock(db, told)
    by_section: dict[Key, list[Entry]] = defaultdict(list)
    for entry, _ in told:
        if entry.id not in repeats and OF_NO_ORDER not in entry.subject:
            by_section[entry.subject, entry.service].append(entry)
    before = {key: sections[key] for key in sorted(by_section)}
    if not before:
        return {}, {}
    sequences = {key: {entry.sequence for entry in entries} for key, entries in by_section.items()}
    spans = {key: span_to_read(section, sequences[key]) for key, section in before.items()}
    read = await _read_spans(db, {key: span for key, span in spans.items() if span is not None})
    async with one_batch_at_a_time(len(told)):
        after = {
            key: fold_contiguous(
                key[1], section, sequences[key], read[key] if spans[key] else by_section[key], spans[key]
            )
            async for key, section in yielding_every(before.items())
        }
        changed, gone = await _news(before, after)
        saved = (*measured_columns(changed), *written(after))
    for key, section in after.items():
        SECTION_CACHE.put(" ".join(key), writer, section)
    if gone:
        await db.execute(FORGET, *transposed(gone, 4))
    await db.execute(SAVE, *saved, *transposed(sorted(_finds(made, by_section)), 3))
    return before, after


COLUMNS: Final = (
    *("id", "service", "subject", "sequence", "type", "data", "occurred_at"),
    *("actor", "reason", "correlation_id", "causation_id", "trace_id"),
)
"""Of the timeline, in the order of an entry, with type and data for its fact."""
WORTH_COPYING: Final = 100
"""Facts; below it, what COPY has around it costs more than it saves."""


SECTION_CACHE: Final = StateCache[Projection[Any]](most=512)
"""By the transaction that wrote them: one that was not committed wrote no row that is found. Three to four kB each."""


async def _claim_and_lock(
    db: Db, stored: Sequence[StoredFact]
) -> tuple[Set[str], list[Key], dict[Key, Projection[Any]], bytes]:
    """Put facts on the timeline and lock their sections: the ids of those that stood there before; which sections are new;
    all of them; and by what name what is written now is known."""
    facts = [(*entry[:4], entry.fact.type, data, *entry[5:]) for entry, data in stored]
    is_copied = len(facts) >= WORTH_COPYING and await _copied(db, facts)
    keys = sorted({(entry.subject, entry.service) for entry, _ in stored if OF_NO_ORDER not in entry.subject})
    known = {key: held for key in keys if (held := SECTION_CACHE.find(" ".join(key)))}
    versions = [known[key][0].decode() if key in known else None for key in keys]
    rows = await db.fetch(
        CLAIM_AND_LOCK, *columns(keys), versions, *transposed(() if is_copied else facts, len(COLUMNS))
    )
    repeats = {str(row["id"]) for row in rows if row["id"]}
    found = [row for row in rows if not row["id"]]
    if len(found) < len(keys):  # some were made by others since this statement began
        late = sorted(set(keys) - {(row["subject"], row["service"]) for row in found})
        found += await db.fetch(LOCK, *columns(late), [None] * len(late))
    made: list[Key] = []
    sections = {}
    for row in found:
        key = row["subject"], row["service"]
        if row["is_new"]:
            made.append(key)
            sections[key] = projection_of(key[1])
        else:
            sections[key] = known[key][1] if row["state"] is None else _section(row)
    return repeats, made, sections, found[0]["writer"].encode() if found else b""


async def _copied(db: Db, facts: Sequence[tuple[Any, ...]]) -> bool:
    """Whether they stand on the timeline now; not where some did before: the statement that bears repeats says which."""
    try:
        async with db.transaction():
            await db.copy_records_to_table("timeline", records=facts, columns=COLUMNS)
    except UniqueViolationError:
        return False
    return True


def columns(keys: Sequence[Key]) -> tuple[list[str], list[str]]:
    return [subject for subject, _ in keys], [service for _, service in keys]


def _section(row: Row) -> Projection[Any]:
    return Projection(DOMAINS[row["service"]].state.validate_json(row["state"]), row["next"], frozenset(row["waiting"]))


async def _news(before: Sections, after: Sections) -> tuple[list[tuple[Key, Measured]], list[tuple[str, ...]]]:
    """Of what figures count: the rows that are new or other than they were, and the keys of those that are gone."""
    changed: list[tuple[Key, Measured]] = []
    gone: list[tuple[str, ...]] = []
    async for key, section in yielding_every(after.items()):
        rows, places = news(key[1], before[key].state, section.state)
        changed += [(key, row) for row in rows]
        gone += [(*key, *place) for place in places]
    return changed, gone


def measured_columns(rows: Sequence[tuple[Key, Measured]]) -> tuple[Any, ...]:
    """The columns of their rows. Labels hold no character that an array quotes but spaces, so all are quoted."""
    keys = columns([key for key, _ in rows])
    found = [row for _, row in rows]
    return (
        *keys,
        [row.measure for row in found],
        [row.id for row in found],
        [row.began_at for row in found],
        [row.ended_at for row in found],
        array(row.part for row in found),
        array(row.whole for row in found),
        ["{" + ",".join(f'"{label}"' for label in row.labels) + "}" for row in found],
        [row.left_out for row in found],
        [array(row.facts) for row in found],
    )


async def _read_spans(db: Db, spans: Mapping[Key, Span]) -> Mapping[Key, Sequence[Entry]]:
    entries: dict[Key, list[Entry]] = defaultdict(list)
    if spans:
        firsts, lasts = [span.first for span in spans.values()], [span.last for span in spans.values()]
        for row in await db.fetch(READ_SPANS, *columns([*spans]), firsts, lasts):
            entry = _entry(row)
            entries[entry.subject, entry.service].append(entry)
    return entries


def written(sections: Mapping[Key, Projection[Any]]) -> tuple[Any, ...]:
    """The columns of their rows."""
    return (
        *columns([*sections]),
        array(section.next for section in sections.values()),
        [array(sorted(section.waiting)) for section in sections.values()],
        [DOMAINS[service].state.dump_json(s.state).decode() for (_, service), s in sections.items()],
    )


def _finds(made: Sequence[Key], told: Mapping[Key, Sequence[Entry]]) -> set[Find]:
    finds = {("order", subject.lower(), subject) for subject, _ in made}
    for (subject, _), entries in told.items():
        finds |= {(kind, value, subject) for entry in entries for kind, value in search_keys(entry.fact)}
    return finds


def _entry(row: Row) -> Entry:
    """Of a row of the timeline that begins with its columns as they are kept: thousands are read at a time."""
    (
        id,
        subject,
        service,
        sequence,
        type,
        data,
        occurred_at,
        actor,
        reason,
        correlation_id,
        causation_id,
        trace_id,
        *_,
    ) = row
    fact = FACTS[type].model_validate_json(data)
    return Entry(
        *(str(id), service, subject, sequence, fact, occurred_at),
        *(actor, reason, correlation_id, causation_id, trace_id),
    )


GAUGES: Final = (
    Gauge(
        "oms_view_holes",
        "sections of orders with a fact missing below one that was seen",
        "SELECT count(*) FROM sections WHERE waiting <> '{}' AND next <> ALL(waiting)",
    ),
    Gauge(
        "oms_view_stuck",
        "sections of orders whose next fact was seen and could not be folded",
        "SELECT count(*) FROM sections WHERE waiting <> '{}' AND next = ANY(waiting)",
    ),
)

OF_NO_ORDER: Final = ":"
"""In the subjects of shelves, policies and customers, and in no order's id: those have no sections."""


async def read_all(db: Db, keys: Sequence[Key]) -> Mapping[Key, Sequence[Entry]]:
    """All that the timeline has of these sections."""
    read = await _read_spans(db, dict.fromkeys(keys, ALL))
    return {key: read[key] for key in keys}


async def folded(read: Mapping[Key, Sequence[Entry]]) -> tuple[dict[Key, Projection[Any]], set[Find]]:
    """What these sections and finds are by all that the timeline has of them, whatever is kept."""
    sections = {
        key: fold_contiguous(key[1], projection_of(key[1]), set(), entries, ALL)
        async for key, entries in yielding_every(read.items())
    }
    return sections, _finds([*read], read)


def measures_of(sections: Mapping[Key, Projection[Any]]) -> list[tuple[Key, Measured]]:
    """All that figures count of them."""
    return [(key, row) for key, section in sections.items() for row in measured(key[1], section.state)]


SECTIONS = "SELECT subject, service, next, waiting, state FROM sections WHERE subject = ANY($1::text[])"
# One statement, so that what is folded and how fresh it is are of one moment.
ESCALATION_POLICY = """
SELECT document::text FROM support_policies WHERE policy_id = 'escalations' AND effective_from <= now()
ORDER BY effective_from DESC, version DESC LIMIT 1"""
STORY = """
SELECT service, next, waiting, state, facts, occurred_at, seen_at
FROM sections,
    (SELECT count(*) AS facts, max(occurred_at) AS occurred_at, max(seen_at) AS seen_at FROM timeline WHERE subject = $1) AS t
WHERE subject = $1"""
PLACES = "SELECT id, service, sequence, occurred_at, causation_id FROM timeline WHERE subject = $1"
ENTRIES = """
SELECT id, subject, service, sequence, type, data, occurred_at, actor, reason, correlation_id, causation_id, trace_id,
    seen_at
FROM timeline WHERE id = ANY($1::uuid[])"""
# By the start of an order id, and by the whole of anything else.
FIND = """
SELECT DISTINCT subject FROM finds
WHERE (kind = 'order' AND value >= $1 AND value < $2) OR (kind IN ('email', 'tracking', 'return') AND value = $1)
ORDER BY subject LIMIT $3"""
ABOVE_ALL: Final = "\U0010ffff"
"""No text that starts with another comes after that other and this."""


@dataclass(frozen=True, slots=True)
class Story:
    """What was seen of an order adds up to this: `facts` of them, the last of which happened and was seen then. The policy
    in force says when next steps are late."""

    order_id: str
    sections: Mapping[str, Projection[Any]]
    policy: EscalationPolicy
    facts: int
    occurred_at: datetime
    seen_at: datetime


REVEAL = "INSERT INTO reveals (id, order_id, actor, reason) VALUES ($1, $2, $3, $4)"
REVEALS = """
SELECT id, order_id, actor, reason, revealed_at FROM reveals
WHERE id < $1 AND ($2::text IS NULL OR order_id = $2) ORDER BY id DESC LIMIT $3"""
NEWEST: Final = UUID(int=2**128 - 1)


async def record_reveal(db: Db, order_id: str, actor: str, reason: str) -> None:
    await db.execute(REVEAL, uuid7(), order_id, actor, reason)


async def reveals(pool: Pool, order_id: str | None, before: UUID, limit: int) -> list[Row]:
    """Newest first. Raises an outage."""
    async with pool.acquire(timeout=5) as db:
        return await db.fetch(REVEALS, before, order_id, limit)


SEEN = "SELECT count(*) FROM timeline WHERE subject = $1"


async def facts_seen(pool: Pool, order_id: str) -> int:
    """It only grows. Raises an outage."""
    async with pool.acquire(timeout=5) as db:
        count: int = await db.fetchval(SEEN, order_id)
    return count


@dataclass(frozen=True, slots=True)
class Seen:
    entry: Entry
    seen_at: datetime


async def story(db: Db, order_id: str) -> Story | None:
    """None when nothing was seen of it."""
    rows = await db.fetch(STORY, order_id)
    if not rows:
        return None
    sections = {row["service"]: _section(row) for row in rows}
    policy = await escalation_policy(db)
    return Story(order_id, sections, policy, rows[0]["facts"], rows[0]["occurred_at"], rows[0]["seen_at"])


async def escalation_policy(db: Db) -> EscalationPolicy:
    """The one in force."""
    return _read_policy(await db.fetchval(ESCALATION_POLICY))


@lru_cache(maxsize=8)
def _read_policy(document: str) -> EscalationPolicy:
    return EscalationPolicy.model_validate_json(document)


async def places(db: Db, order_id: str) -> list[Place]:
    """Of all its facts, in no order."""
    return [
        Place(str(row["id"]), row["service"], row["sequence"], row["occurred_at"], row["causation_id"])
        for row in await db.fetch(PLACES, order_id)
    ]


async def entries(db: Db, ids: Sequence[str]) -> list[Seen]:
    """In the order of the ids."""
    rows = {str(row["id"]): Seen(_entry(row), row["seen_at"]) for row in await db.fetch(ENTRIES, ids)}
    return [rows[id] for id in ids]


DATA = "SELECT data FROM timeline WHERE id = $1 AND subject = $2"


async def data_of(db: Db, order_id: str, fact: UUID) -> str | None:
    """A fact's data as it travelled; None where the order has no such fact."""
    data: str | None = await db.fetchval(DATA, fact, order_id)
    return data


async def search(db: Db, text: str, limit: int) -> dict[str, dict[str, Projection[Any]]]:
    """Orders found by a folded text, with their sections."""
    subjects = [row["subject"] for row in await db.fetch(FIND, text, text + ABOVE_ALL, limit)]
    found: dict[str, dict[str, Projection[Any]]] = {subject: {} for subject in subjects}
    for row in await db.fetch(SECTIONS, subjects):
        found[row["subject"]][row["service"]] = _section(row)
    return found
