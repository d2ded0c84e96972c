"""All SQL of figures: each panel is one query over the rows that its figure counts, by an index on when they happened."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Final, Literal
from uuid import UUID

from asyncpg import Record as Row

from shared.shell import Db
from support_view.metrics.definitions import AGES

By = Literal["day", "week"]

# Clocks of two producers may be minutes apart: what ended before it began took no time, and is counted as such.
DURATIONS = """
SELECT date_trunc($4, ended_at, 'UTC') AS period, count(*) AS n,
    percentile_disc(ARRAY[0.5, 0.9]) WITHIN GROUP (ORDER BY greatest(ended_at - began_at, interval '0')) AS percentiles,
    count(*) FILTER (WHERE ended_at < began_at) AS before_begun
FROM measured WHERE measure = $1 AND ended_at >= $2 AND ended_at < $3 AND left_out IS NULL
GROUP BY GROUPING SETS ((date_trunc($4, ended_at, 'UTC')), ()) ORDER BY period NULLS LAST"""
DURATIONS_BY = """
SELECT substr(label, length($4) + 2) AS value, count(*) AS n,
    percentile_disc(ARRAY[0.5, 0.9]) WITHIN GROUP (ORDER BY greatest(ended_at - began_at, interval '0')) AS percentiles,
    count(*) FILTER (WHERE ended_at < began_at) AS before_begun
FROM measured, unnest(labels) AS label
WHERE measure = $1 AND ended_at >= $2 AND ended_at < $3 AND left_out IS NULL AND starts_with(label, $4 || ':')
GROUP BY label ORDER BY n DESC, label"""
OPEN = """
SELECT width_bucket($2 - began_at, $3::interval[]) AS class, count(*) AS n, max($2 - began_at) AS oldest
FROM measured WHERE measure = $1 AND began_at < $2 AND (ended_at IS NULL OR ended_at >= $2)
GROUP BY class ORDER BY class"""
LEFT_OUT = """
SELECT left_out AS why, count(*) AS n FROM measured
WHERE measure = $1 AND ended_at >= $2 AND ended_at < $3 AND left_out IS NOT NULL GROUP BY left_out ORDER BY n DESC, left_out"""

CHOSEN: Final = {
    "counted": "ended_at >= $2 AND ended_at < $3 AND left_out IS NULL",
    "open": "began_at < $3 AND (ended_at IS NULL OR ended_at >= $3) AND $2::timestamptz IS NOT NULL",
    "left_out": "ended_at >= $2 AND ended_at < $3 AND left_out IS NOT NULL",
}
ROWS = """
SELECT subject, service, id, began_at, ended_at, part, whole, labels, left_out, facts FROM measured
WHERE measure = $1 AND {chosen} AND ($4::text IS NULL OR $4 = ANY(labels)) AND (began_at, subject, id) > ($5, $6, $7)
ORDER BY began_at, subject, id LIMIT $8"""
# Of two facts with one sequence the one with the smaller id counts, as in the fold.
FACTS = """
SELECT DISTINCT ON (t.subject, t.service, t.sequence) t.subject, t.service, t.sequence, t.id, t.type, t.occurred_at
FROM unnest($1::text[], $2::text[], $3::bigint[]) AS f (subject, service, sequence)
JOIN timeline AS t USING (subject, service, sequence) ORDER BY t.subject, t.service, t.sequence, t.id"""


@dataclass(frozen=True, slots=True)
class Window:
    """From its start on, up to but not with its end; both are instants."""

    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class Spread:
    """How long some things took: nearest-rank percentiles, so each is the time of one of them."""

    count: int
    p50: timedelta | None
    p90: timedelta | None
    before_begun: int


def _spread(row: Row) -> Spread:
    p50, p90 = row["percentiles"] or (None, None)
    return Spread(row["n"], p50, p90, row["before_begun"])


async def durations(db: Db, measure: str, window: Window, by: By) -> tuple[dict[datetime, Spread], Spread]:
    """By period, those with none aside; and of the whole window."""
    *periods, whole = await db.fetch(DURATIONS, measure, window.start, window.end, by)
    return {row["period"]: _spread(row) for row in periods}, _spread(whole)


async def durations_by(db: Db, measure: str, window: Window, dimension: str) -> dict[str, Spread]:
    rows = await db.fetch(DURATIONS_BY, measure, window.start, window.end, dimension)
    return {row["value"]: _spread(row) for row in rows}


@dataclass(frozen=True, slots=True)
class Aged:
    count: int
    oldest: timedelta


async def open_ones(db: Db, measure: str, at: datetime) -> dict[int, Aged]:
    """What was open at that instant, by class of age."""
    rows = await db.fetch(OPEN, measure, at, AGES)
    return {row["class"]: Aged(row["n"], row["oldest"]) for row in rows}


async def left_out(db: Db, measure: str, window: Window) -> dict[str, int]:
    return {row["why"]: row["n"] for row in await db.fetch(LEFT_OUT, measure, window.start, window.end)}


@dataclass(frozen=True, slots=True)
class Behind:
    """A fact behind a figure."""

    id: UUID
    type: str
    occurred_at: datetime


@dataclass(frozen=True, slots=True)
class Counted:
    order_id: str
    id: str
    began_at: datetime
    ended_at: datetime | None
    part: int
    whole: int
    labels: tuple[str, ...]
    left_out: str | None
    facts: tuple[Behind, ...]


After = tuple[datetime, str, str]
"""When the last row of a page began, its order and its id: the next page begins behind it."""

BEGINNING: Final = datetime(1, 1, 1, tzinfo=timezone.utc)


async def rows(
    db: Db, measure: str, window: Window, chosen: str, label: str | None, after: After | None, limit: int
) -> Sequence[Counted]:
    """The rows behind a figure in the order they began, with the facts behind each."""
    since, subject, id = after or (BEGINNING, "", "")
    found = await db.fetch(
        ROWS.format(chosen=CHOSEN[chosen]), measure, window.start, window.end, label, since, subject, id, limit
    )
    places = [(row["subject"], row["service"], sequence) for row in found for sequence in row["facts"]]
    facts = (
        {
            (row["subject"], row["service"], row["sequence"]): Behind(row["id"], row["type"], row["occurred_at"])
            for row in await db.fetch(FACTS, *map(list, zip(*places, strict=True)))
        }
        if places
        else {}
    )
    return [
        Counted(
            row["subject"],
            row["id"],
            row["began_at"],
            row["ended_at"],
            row["part"],
            row["whole"],
            tuple(row["labels"]),
            row["left_out"],
            tuple(facts[row["subject"], row["service"], sequence] for sequence in row["facts"]),
        )
        for row in found
    ]
