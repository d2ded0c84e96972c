"""All SQL of figures: each panel is one query over the rows that its figure counts, by an index on when they happened."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Final, Literal
from uuid import UUID

from asyncpg import Record as Row

from shared.messaging.shell import Db
from support_view.figures.definitions import AGES, LAG, MESSAGE, Figure, Kind

By = Literal["day", "week"]

# Clocks of two producers may be minutes apart: what ended before it began took no time, and is counted as such.
DURATIONS = """
SELECT date_trunc($4, ended_at, 'UTC') AS period, count(*) AS n,
    percentile_disc(ARRAY[0.5, 0.9]) WITHIN GROUP (ORDER BY greatest(ended_at - began_at, interval '0')) AS percentiles,
    count(*) FILTER (WHERE ended_at < began_at) AS before_begun
FROM {rows} WHERE measure = $1 AND ended_at >= $2 AND ended_at < $3 AND left_out IS NULL
GROUP BY GROUPING SETS ((date_trunc($4, ended_at, 'UTC')), ()) ORDER BY period NULLS LAST"""
DURATIONS_BY = """
SELECT substr(label, length($4) + 2) AS value, count(*) AS n,
    percentile_disc(ARRAY[0.5, 0.9]) WITHIN GROUP (ORDER BY greatest(ended_at - began_at, interval '0')) AS percentiles,
    count(*) FILTER (WHERE ended_at < began_at) AS before_begun
FROM {rows}, unnest(labels) AS label
WHERE measure = $1 AND ended_at >= $2 AND ended_at < $3 AND left_out IS NULL AND starts_with(label, $4 || ':')
GROUP BY label ORDER BY n DESC, label LIMIT $5"""
OPEN = """
SELECT width_bucket($2 - began_at, $3::interval[]) AS class, count(*) AS n, max($2 - began_at) AS oldest
FROM {rows}
WHERE measure = $1 AND began_at < $2 AND ((ended_at IS NULL AND left_out IS NULL) OR ended_at >= $2)
GROUP BY class ORDER BY class"""
LEFT_OUT = """
SELECT left_out AS why, count(*) AS n FROM {rows}
WHERE measure = $1 AND ended_at >= $2 AND ended_at < $3 AND left_out IS NOT NULL GROUP BY left_out ORDER BY n DESC, left_out"""

# What is not decided counts from $5 on back: until then it may still come right.
SHARES = """
SELECT date_trunc($4, began_at, 'UTC') AS period, count(*) AS things, count(*) FILTER (WHERE part = whole) AS right_things,
    sum(whole)::bigint AS units, sum(part)::bigint AS right_units
FROM {rows} WHERE measure = $1 AND began_at >= $2 AND began_at < $3 AND left_out IS NULL
    AND (ended_at IS NOT NULL OR began_at < $5) AND ($6::text IS NULL OR $6 = ANY(labels))
GROUP BY GROUPING SETS ((date_trunc($4, began_at, 'UTC')), ()) ORDER BY period NULLS LAST"""
SHARES_BY = """
SELECT substr(label, length($4) + 2) AS value, count(*) AS things, count(*) FILTER (WHERE part = whole) AS right_things,
    sum(whole)::bigint AS units, sum(part)::bigint AS right_units
FROM {rows}, unnest(labels) AS label
WHERE measure = $1 AND began_at >= $2 AND began_at < $3 AND left_out IS NULL AND starts_with(label, $4 || ':')
    AND (ended_at IS NOT NULL OR began_at < $5) AND ($6::text IS NULL OR $6 = ANY(labels))
GROUP BY label ORDER BY things DESC, label LIMIT $7"""
COUNTS_BY = """
SELECT substr(label, length($4) + 2) AS value, date_trunc($5, began_at, 'UTC') AS period, count(*) AS n
FROM {rows}, unnest(labels) AS label
WHERE measure = $1 AND began_at >= $2 AND began_at < $3 AND left_out IS NULL AND starts_with(label, $4 || ':')
    AND substr(label, length($4) + 2) = ANY($7) AND ($6::text IS NULL OR $6 = ANY(labels))
GROUP BY label, period"""
UNDECIDED = """
SELECT coalesce(left_out, '') AS why, count(*) AS n FROM {rows}
WHERE measure = $1 AND began_at >= $2 AND began_at < $3
    AND (left_out IS NOT NULL OR (ended_at IS NULL AND began_at >= $4)) AND ($5::text IS NULL OR $5 = ANY(labels))
GROUP BY why ORDER BY n DESC, why"""

# A table of any length is sampled to some twenty thousand facts by its pages, the same ones each time; a short one is read whole.
# An id that tells no time is not one of ours: then what the fact says of itself has to do.
LAGS = """(
    SELECT 'lag' AS measure, subject, service, id::text AS id, coalesce(uuid_extract_timestamp(id), occurred_at) AS began_at,
        seen_at AS ended_at, 0::bigint AS part, 1::bigint AS whole, ARRAY['service:' || service] AS labels,
        NULL::text AS left_out, ARRAY[sequence] AS facts
    FROM timeline TABLESAMPLE SYSTEM ({percent}) REPEATABLE (1)) AS lags"""
# A fact that leads to a message by itself, and to which there is none: who has not noticed it has not told it either.
MESSAGES = """(
    SELECT measure, subject, service, id, began_at, ended_at, part, whole, labels, left_out, facts
    FROM measured WHERE measure = 'message'
    UNION ALL
    SELECT 'message', subject, service, id::text, occurred_at, NULL, 0, coalesce((data ->> 'quantity')::bigint,
            (SELECT sum((line ->> 'quantity')::bigint) FROM json_array_elements(data -> 'lines') AS line), 1)::bigint,
        ARRAY['kind:' || CASE type WHEN 'shipment.shipped' THEN 'shipment' WHEN 'shipment.delivered' THEN 'delivery'
            WHEN 'backorder.created' THEN 'backorder' WHEN 'fulfillment.lines_cancelled' THEN 'cancellation'
            ELSE 'backorder_revised' END],
        NULL, ARRAY[sequence]
    FROM timeline AS due
    WHERE service = 'fulfillment' AND type IN ('shipment.shipped', 'shipment.delivered', 'backorder.created',
        'backorder.eta_revised', 'backorder.consent_requested', 'fulfillment.lines_cancelled')
        AND NOT EXISTS (SELECT FROM timeline AS told WHERE told.service = 'notifications'
            AND told.type = 'notification.queued' AND told.data ->> 'trigger_id' = due.id::text)) AS messages"""
OF_NO_ORDER = """
SELECT count(*) FROM contacts WHERE strpos(subject, ':') > 0 AND received_at >= $1 AND received_at < $2
    AND direction = 'inbound' AND NOT is_automated AND duplicate_of IS NULL"""
LENGTH = "SELECT greatest(reltuples, 0) FROM pg_class WHERE oid = 'timeline'::regclass"
SAMPLED: Final = 20_000

_ENDED = "ended_at >= $2 AND ended_at < $3 AND $9::timestamptz IS NOT NULL"
_BEGUN = "began_at >= $2 AND began_at < $3 AND $9::timestamptz IS NOT NULL"
_DECIDED = f"{_BEGUN} AND left_out IS NULL AND (ended_at IS NOT NULL OR began_at < $9)"
LASTING: Final = {
    "counted": f"{_ENDED} AND left_out IS NULL",
    "open": "began_at < $3 AND ((ended_at IS NULL AND left_out IS NULL) OR ended_at >= $3)"
    " AND $2 < $3 AND $9::timestamptz IS NOT NULL",
    "left_out": f"{_ENDED} AND left_out IS NOT NULL",
}
"""Which rows of a duration; of the others below."""
HAPPENING: Final = {
    "counted": _DECIDED,
    "part": f"{_DECIDED} AND part = whole",
    "rest": f"{_DECIDED} AND part <> whole",
    "open": f"{_BEGUN} AND left_out IS NULL AND ended_at IS NULL AND began_at >= $9",
    "left_out": f"{_BEGUN} AND left_out IS NOT NULL",
}
ROWS = """
SELECT subject, service, id, began_at, ended_at, part, whole, labels, left_out, facts FROM {rows}
WHERE measure = $1 AND {chosen} AND labels @> $4::text[] AND ({at}, subject, id) > ($5, $6, $7)
ORDER BY {at}, subject, id LIMIT $8"""
# Of two facts with one sequence the one with the smaller id counts, as in the fold.
FACTS = """
SELECT DISTINCT ON (t.subject, t.service, t.sequence) t.subject, t.service, t.sequence, t.id, t.type, t.occurred_at
FROM unnest($1::text[], $2::text[], $3::bigint[]) AS f (subject, service, sequence)
JOIN timeline AS t USING (subject, service, sequence) ORDER BY t.subject, t.service, t.sequence, t.id"""


# Of causes, the facts that bear them out stand in the facts that tell them.
EVIDENCE = """
SELECT told.id AS told, borne.id, borne.type, borne.occurred_at
FROM timeline AS told, json_array_elements_text(told.data -> 'evidence') AS one, timeline AS borne
WHERE told.id = ANY($1::uuid[]) AND told.type = 'root_cause.tagged'
    AND borne.id = CASE WHEN pg_input_is_valid(one, 'uuid') THEN one::uuid END
ORDER BY borne.occurred_at, borne.id"""


@dataclass(frozen=True, slots=True)
class Window:
    """From its start on, up to but not with its end; both are instants."""

    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class Value:
    """What a figure comes to for some things. Percentiles are nearest-rank, so each is the time of one of them; `part` of
    `whole` is the share; `amount` is a sum in minor units."""

    count: int = 0
    p50: timedelta | None = None
    p90: timedelta | None = None
    before_begun: int = 0
    part: int | None = None
    whole: int | None = None
    amount: int | None = None


def _value(figure: Figure, row: Row) -> Value:
    match figure.kind:
        case Kind.DURATION:
            p50, p90 = row["percentiles"] or (None, None)
            return Value(row["n"], p50, p90, row["before_begun"])
        case Kind.SHARE if figure.counts_units:
            return Value(row["things"], part=row["right_units"] or 0, whole=row["units"] or 0)
        case Kind.SHARE:
            return Value(row["things"], part=row["right_things"], whole=row["things"])
        case Kind.AMOUNT:
            return Value(row["things"], amount=row["right_units"] or 0)
        case Kind.COUNT:
            return Value(row["things"])


@dataclass(frozen=True, slots=True)
class Aged:
    count: int
    oldest: timedelta


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
"""When the last row of a page ended or began, its order and its id: the next page begins behind it."""

BEGINNING: Final = datetime(1, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True, slots=True)
class Reading:
    """A figure over a window, in one snapshot of the database; `percent` of the timeline is read, where it reads that."""

    db: Db
    figure: Figure
    window: Window
    rows: str = "measured"
    percent: float = 100.0
    within: str | None = None
    """Only what has this label, `dimension:value`; not of a duration."""

    @property
    def _is_lasting(self) -> bool:
        return self.figure.kind is Kind.DURATION

    @property
    def _decided_before(self) -> datetime:
        return self.window.end - self.figure.patience

    async def _fetch(self, sql: str, measure: str, *more: object) -> list[Row]:
        return await self.db.fetch(sql.format(rows=self.rows), measure, self.window.start, self.window.end, *more)

    async def periods(self, by: By) -> tuple[dict[datetime, Value], Value]:
        """By period, those with none aside; and of the whole window."""
        if self._is_lasting:
            *parts, whole = await self._fetch(DURATIONS, self.figure.measure, by)
        else:
            *parts, whole = await self._fetch(SHARES, self.figure.measure, by, self._decided_before, self.within)
        return {row["period"]: _value(self.figure, row) for row in parts}, _value(self.figure, whole)

    async def groups(self, dimension: str, limit: int) -> dict[str, Value]:
        """Those with the most things first, at most so many."""
        measure = self.figure.measure_of(dimension)
        if self._is_lasting:
            found = await self._fetch(DURATIONS_BY, measure, dimension, limit)
        else:
            found = await self._fetch(SHARES_BY, measure, dimension, self._decided_before, self.within, limit)
        return {row["value"]: _value(self.figure, row) for row in found}

    async def counts(self, dimension: str, by: By, values: Sequence[str]) -> dict[tuple[str, datetime], int]:
        """How many things there are, by value and period, those with none aside."""
        measure = self.figure.measure_of(dimension)
        found = await self._fetch(COUNTS_BY, measure, dimension, by, self.within, values)
        return {(row["value"], row["period"]): row["n"] for row in found}

    async def ages(self) -> dict[int, Aged]:
        """What was open at the end of the window, by class of age."""
        found = await self.db.fetch(OPEN.format(rows=self.rows), self.figure.measure, self.window.end, AGES)
        return {row["class"]: Aged(row["n"], row["oldest"]) for row in found}

    async def left_out(self) -> dict[str, int]:
        """By reason; under "" those of a share that are not decided."""
        if self._is_lasting:
            found = await self._fetch(LEFT_OUT, self.figure.measure)
        else:
            found = await self._fetch(UNDECIDED, self.figure.measure, self._decided_before, self.within)
        return {row["why"]: row["n"] for row in found}

    async def of_no_order(self) -> int:
        """Contacts that would be counted, had they named an order."""
        if not self.figure.is_of_contacts:
            return 0
        count: int = await self.db.fetchval(OF_NO_ORDER, self.window.start, self.window.end)
        return count

    def by_end(self, which: str) -> bool:
        """The rows are chosen by when they ended, so they are read in that order; else by when they began."""
        return self._is_lasting and which != "open"

    async def behind(
        self, which: str, dimension: str | None, label: str | None, after: After | None, limit: int
    ) -> Sequence[Counted]:
        """The rows behind the figure by the time that chose them, with the facts behind each. Raises KeyError for a `which`
        that this figure has not."""
        chosen = (LASTING if self._is_lasting else HAPPENING)[which]
        at = "ended_at" if self.by_end(which) else "began_at"
        since, subject, id = after or (BEGINNING, "", "")
        found = await self.db.fetch(
            ROWS.format(rows=self.rows, chosen=chosen, at=at),
            self.figure.measure_of(dimension),
            self.window.start,
            self.window.end,
            [one for one in (label, self.within) if one is not None],
            since,
            subject,
            id,
            limit,
            self._decided_before,
        )
        facts = await _facts(self.db, found)
        evidence = await _borne_out(self.db, list(facts.values())) if self.figure.is_of_causes else {}

        def behind(row: Row) -> tuple[Behind, ...]:
            told = [facts[row["subject"], row["service"], sequence] for sequence in row["facts"]]
            return tuple(dict.fromkeys([*(fact for one in told for fact in evidence.get(one.id, ())), *told]))

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
                behind(row),
            )
            for row in found
        ]


async def _facts(db: Db, rows: Sequence[Row]) -> dict[tuple[str, str, int], Behind]:
    places = [(row["subject"], row["service"], sequence) for row in rows for sequence in row["facts"]]
    found = await db.fetch(FACTS, *map(list, zip(*places, strict=True))) if places else []
    return {
        (row["subject"], row["service"], row["sequence"]): Behind(row["id"], row["type"], row["occurred_at"])
        for row in found
    }


async def _borne_out(db: Db, told: Sequence[Behind]) -> dict[UUID, list[Behind]]:
    """By the fact that tells of a cause, those that bear it out."""
    evidence: dict[UUID, list[Behind]] = {}
    for row in await db.fetch(EVIDENCE, [fact.id for fact in told if fact.type == "root_cause.tagged"]):
        evidence.setdefault(row["told"], []).append(Behind(row["id"], row["type"], row["occurred_at"]))
    return evidence


async def reading(db: Db, figure: Figure, window: Window, within: str | None = None) -> Reading:
    if figure.measure != LAG:
        return Reading(db, figure, window, MESSAGES if figure.measure == MESSAGE else "measured", within=within)
    length = await db.fetchval(LENGTH)
    percent = min(100.0, 100.0 * SAMPLED / max(1.0, length))
    return Reading(db, figure, window, LAGS.format(percent=percent), percent)
