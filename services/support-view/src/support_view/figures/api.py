"""HTTP in, for programs: figures with their definition, coverage and the facts behind them; as JSON, and as CSV."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone
from typing import Annotated, Final, Literal

from fastapi import APIRouter, HTTPException, Path, Query, Request, Response
from pydantic import Field

from shared.contracts.base import Model
from shared.core.machine import Invalid
from shared.messaging.shell import Db
from shared.web.auth import Role
from shared.web.callers import needs
from support_view.api import snapshot
from support_view.figures import store
from support_view.figures.definitions import AGES, FIGURES, RENAMED, Figure, Kind
from support_view.figures.store import By, Value, Window

router = APIRouter(prefix="/api/figures", tags=["figures"])

READERS: Final = (Role.SUPERVISOR, Role.AUDITOR)
DAYS: Final = 28
LONGEST: Final = 400
ROWS_AT_MOST: Final = 1000
GROUPS_AT_MOST: Final = 200
COUNTED_PERIODS_AT_MOST: Final = 60

Day = Annotated[date, Field(ge=date(2000, 1, 1), le=date(2199, 12, 31))]
Which = Literal["counted", "part", "rest", "open", "left_out"]


class Definition(Model):
    """What the figure means, at its version."""

    key: str
    version: int
    title: str
    kind: Kind
    meaning: str
    counts: str
    left_out: str
    dimensions: tuple[str, ...]


class Amounts(Model):
    """What it comes to: a duration has percentiles (nearest rank, None where nothing is counted), a share its part and
    whole, an amount its sum in minor units, within one currency."""

    count: int
    p50_seconds: float | None = None
    p90_seconds: float | None = None
    part: int | None = None
    whole: int | None = None
    share: float | None = Field(default=None, description="part of whole, to four digits")
    amount_minor: int | None = None


class Period(Amounts):
    starts_on: date


class Group(Amounts):
    value: str
    counts: tuple[int, ...] = Field(
        default=(), description="of a count, by period, in their order; none where there are more than 60 periods"
    )


class Age(Model):
    """Those open for at least `from_days` and less than `to_days`."""

    from_days: int
    to_days: int | None
    count: int
    oldest_seconds: float | None


class Coverage(Model):
    """What the figure rests on, and what it does not say."""

    counted: int
    open: int = Field(description="not over at the end of the window; of a share: not decided, and not counted yet")
    left_out: Mapping[str, int]
    before_begun: int = Field(description="ended before they began, by their producers' clocks: they count as no time")
    of_no_order: int = Field(
        description="contacts of customers that named no order: no figure of orders speaks of them"
    )
    sampled_percent: float = Field(description="of the facts there are; less than 100 only where a sample is read")


class FigureView(Model):
    """A figure over a window of days, both included. Open ones are as of its end, or of now."""

    definition: Definition
    from_on: date
    to_on: date
    as_of: datetime
    by: By
    total: Amounts
    periods: tuple[Period, ...]
    within: str | None = Field(description="only what has this value of this dimension: `cause:stock_out`")
    dimension: str | None
    groups: tuple[Group, ...] = Field(description="those with the most things, 200 at most")
    groups_are_cut: bool = Field(description="there are more; ask for fewer days, or within a value")
    ages: tuple[Age, ...]
    coverage: Coverage


class Definitions(Model):
    figures: tuple[Definition, ...]


class FactRef(Model):
    id: str
    type: str
    occurred_at: datetime


class CountedRow(Model):
    """One thing that was counted, with the facts behind it."""

    order_id: str
    id: str
    began_at: datetime
    ended_at: datetime | None
    seconds: float = Field(description="how long it took; or its age, where it was open")
    part: int
    whole: int
    labels: tuple[str, ...]
    left_out: str | None
    facts: tuple[FactRef, ...]


class Rows(Model):
    """By when they ended, those of a duration that are over; else by when they began. `next` continues them, None at
    their end."""

    rows: tuple[CountedRow, ...]
    next: str | None


@dataclass(frozen=True, slots=True)
class Asked:
    """The days asked for, both included, and the instants they come to."""

    from_on: date
    to_on: date
    as_of: datetime

    @property
    def window(self) -> Window:
        return Window(_midnight(self.from_on), self.as_of)


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), timezone.utc)


def asked(from_on: date | None, to_on: date | None, now: datetime) -> Asked:
    """Four weeks up to today where nothing is named. Raises Invalid naming the field."""
    until = to_on or now.date()
    since = from_on or until - timedelta(days=DAYS - 1)
    if since > until:
        raise Invalid("from", "must not be after `to`")
    if (until - since).days >= LONGEST:
        raise Invalid("from", f"must be less than {LONGEST} days before `to`")
    return Asked(since, until, max(_midnight(since), min(_midnight(until) + timedelta(days=1), now)))


def figure_of(key: str) -> Figure:
    """Raises HTTPException 404."""
    key = RENAMED.get(key, key)
    if key not in FIGURES:
        raise HTTPException(404, f"there is no figure {key}")
    return FIGURES[key]


def dimension_of(figure: Figure, dimension: str | None) -> str | None:
    """Raises Invalid."""
    if dimension and dimension not in figure.dimensions:
        raise Invalid("dimension", f"must be one of: {', '.join(figure.dimensions)}")
    return dimension or None


def within_of(figure: Figure, within: str | None) -> str | None:
    """Raises Invalid."""
    if not within:
        return None
    dimension, _, value = within.partition(":")
    if figure.kind is Kind.DURATION:
        raise Invalid("within", "is for shares, counts and amounts; split a duration instead")
    if dimension not in figure.dimensions or not value:
        raise Invalid(
            "within", f"must be a dimension and its value, as `cause:stock_out`: {', '.join(figure.dimensions)}"
        )
    return within


def definition_of(figure: Figure) -> Definition:
    return Definition(
        key=figure.key,
        version=figure.version,
        title=figure.title,
        kind=figure.kind,
        meaning=figure.meaning,
        counts=figure.counts,
        left_out=figure.left_out,
        dimensions=tuple(figure.dimensions),
    )


def _amounts(value: Value) -> dict[str, float | None]:
    return {
        "count": value.count,
        "p50_seconds": value.p50.total_seconds() if value.p50 is not None else None,
        "p90_seconds": value.p90.total_seconds() if value.p90 is not None else None,
        "part": value.part,
        "whole": value.whole,
        "share": round(value.part / value.whole, 4) if value.part is not None and value.whole else None,
        "amount_minor": value.amount,
    }


def starts(asked: Asked, by: By) -> Iterable[date]:
    """The first day of every period that the window touches: weeks start on Monday."""
    day = asked.from_on if by == "day" else asked.from_on - timedelta(days=asked.from_on.weekday())
    while day <= asked.to_on:
        yield day
        day += timedelta(days=1 if by == "day" else 7)


async def read_figure(
    db: Db, figure: Figure, asked: Asked, by: By, dimension: str | None, within: str | None = None
) -> FigureView:
    reading = await store.reading(db, figure, asked.window, within)
    found, whole = await reading.periods(by)
    days = list(starts(asked, by))
    split = await reading.groups(dimension, GROUPS_AT_MOST + 1) if dimension else {}
    groups = dict(list(split.items())[:GROUPS_AT_MOST])
    is_counted = figure.kind is Kind.COUNT and len(days) <= COUNTED_PERIODS_AT_MOST
    counts = await reading.counts(dimension, by, list(groups)) if dimension and is_counted else {}
    aged = await reading.ages() if figure.kind is Kind.DURATION else {}
    left_out = await reading.left_out()
    undecided = left_out.pop("", 0)
    classes = [0, *(age.days for age in AGES)]
    return FigureView(
        definition=definition_of(figure),
        from_on=asked.from_on,
        to_on=asked.to_on,
        as_of=asked.as_of,
        by=by,
        total=Amounts.model_validate(_amounts(whole)),
        periods=tuple(
            Period.model_validate({"starts_on": day, **_amounts(found.get(_midnight(day), Value()))}) for day in days
        ),
        within=within,
        dimension=dimension,
        groups=tuple(
            Group.model_validate(
                {
                    "value": value,
                    "counts": tuple(counts.get((value, _midnight(day)), 0) for day in days) if is_counted else (),
                    **_amounts(of),
                }
            )
            for value, of in groups.items()
        ),
        groups_are_cut=len(split) > len(groups),
        ages=tuple(
            Age(
                from_days=start,
                to_days=end,
                count=aged[n].count if n in aged else 0,
                oldest_seconds=aged[n].oldest.total_seconds() if n in aged else None,
            )
            for n, (start, end) in enumerate(zip(classes, [*classes[1:], None], strict=True))
        )
        if figure.kind is Kind.DURATION
        else (),
        coverage=Coverage(
            counted=whole.count,
            open=undecided + sum(one.count for one in aged.values()),
            left_out=left_out,
            before_begun=whole.before_begun,
            of_no_order=await reading.of_no_order(),
            sampled_percent=round(reading.percent, 2),
        ),
    )


def _cursor(row: store.Counted, by_end: bool) -> str:
    at = row.ended_at if by_end and row.ended_at else row.began_at
    return f"{at.isoformat()}~{row.order_id}~{row.id}"


def _after(cursor: str | None) -> store.After | None:
    """Raises Invalid."""
    if cursor is None:
        return None
    try:
        began_at, order_id, id = cursor.split("~")
        at = datetime.fromisoformat(began_at)
        if at.tzinfo is None or not f"{order_id}{id}".isprintable():
            raise ValueError(cursor)
    except ValueError:
        raise Invalid("after", "must be `next` of the page before") from None
    return at, order_id, id


def _end(row: store.Counted, which: Which, asked: Asked) -> datetime:
    """What was open then may be over by now: its age is as of then."""
    return asked.as_of if which == "open" or row.ended_at is None else row.ended_at


async def read_rows(
    db: Db,
    figure: Figure,
    asked: Asked,
    which: Which,
    dimension: str | None,
    value: str | None,
    after: str | None,
    limit: int,
    within: str | None = None,
) -> Rows:
    """Raises Invalid when `after` is no cursor, or a value is named without its dimension."""
    if value is not None and dimension is None:
        raise Invalid("value", "needs the dimension it is of")
    label = f"{dimension}:{value}" if value is not None else None
    reading = await store.reading(db, figure, asked.window, within)
    try:
        found = await reading.behind(which, dimension, label, _after(after), limit + 1)
    except KeyError:
        raise Invalid("which", f"a {figure.kind} has no {which}") from None
    return Rows(
        rows=tuple(
            CountedRow(
                order_id=row.order_id,
                id=row.id,
                began_at=row.began_at,
                ended_at=row.ended_at,
                seconds=max(0.0, (_end(row, which, asked) - row.began_at).total_seconds()),
                part=row.part,
                whole=row.whole,
                labels=row.labels,
                left_out=row.left_out,
                facts=tuple(FactRef(id=str(f.id), type=f.type, occurred_at=f.occurred_at) for f in row.facts),
            )
            for row in found[:limit]
        ),
        next=_cursor(found[limit - 1], reading.by_end(which)) if len(found) > limit else None,
    )


def neutral(cell: object) -> object:
    """A cell no spreadsheet takes for a formula: one that starts like it is quoted by an apostrophe."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else cell


def as_csv(name: str, head: Sequence[str], lines: Iterable[Sequence[object]]) -> Response:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(head)
    writer.writerows([neutral(cell) for cell in line] for line in lines)
    headers = {"Content-Disposition": f'attachment; filename="{name}.csv"', "X-Content-Type-Options": "nosniff"}
    return Response(text.getvalue(), media_type="text/csv; charset=utf-8", headers=headers)


def figure_csv(view: FigureView) -> Response:
    """The table of periods, or of groups where the figure is split."""
    definition = view.definition
    columns = ("count", "p50_seconds", "p90_seconds", "part", "whole", "share", "amount_minor")
    parts: Sequence[Period | Group] = view.groups if view.dimension else view.periods
    lines = (
        [
            part.value if isinstance(part, Group) else part.starts_on.isoformat(),
            *(getattr(part, column) for column in columns),
            definition.key,
            definition.version,
            *(part.counts if isinstance(part, Group) else ()),
        ]
        for part in parts
    )
    head = [view.dimension or f"{view.by} from", *columns, "figure", "version"]
    counted = [p.starts_on.isoformat() for p in view.periods] if any(group.counts for group in view.groups) else []
    return as_csv(definition.key, [*head, *counted], lines)


def rows_csv(figure: Figure, rows: Rows) -> Response:
    """One page of what was counted; `X-Next` is the cursor of the next."""
    head = ["order_id", "id", "began_at", "ended_at", "seconds", "part", "whole", "labels", "left_out", "facts"]
    response = as_csv(
        f"{figure.key}-rows",
        head,
        (
            [
                row.order_id,
                row.id,
                row.began_at.isoformat(),
                row.ended_at.isoformat() if row.ended_at else "",
                row.seconds,
                row.part,
                row.whole,
                " ".join(row.labels),
                row.left_out or "",
                " ".join(fact.id for fact in row.facts),
            ]
            for row in rows.rows
        ),
    )
    if rows.next:
        response.headers["X-Next"] = rows.next
    return response


FigureKey = Annotated[str, Path(max_length=64, description="as `GET /api/figures` names it")]
From = Annotated[Day | None, Query(alias="from", description="first day (UTC); four weeks before `to` when absent")]
To = Annotated[Day | None, Query(description="last day (UTC), included; today when absent")]
Dimension = Annotated[str | None, Query(max_length=32, description="also split by this; see the definition")]
OfValue = Annotated[str | None, Query(max_length=200, description="only of this value of the dimension")]
Within = Annotated[
    str | None, Query(max_length=200, description="only what has this value of a dimension: `cause:stock_out`")
]
Cursor = Annotated[str | None, Query(max_length=300, description="`next` of the page before")]
Limit = Annotated[int, Query(ge=1, le=ROWS_AT_MOST)]


def now() -> datetime:
    return datetime.now(timezone.utc)


@router.get("", dependencies=[needs(*READERS)])
async def figures() -> Definitions:
    """Every figure there is, with its definition."""
    return Definitions(figures=tuple(definition_of(figure) for figure in FIGURES.values()))


async def _read(db: Db, figure: Figure, asked: Asked, by: By, dimension: str | None, within: str | None) -> FigureView:
    """Raises Invalid."""
    return await read_figure(db, figure, asked, by, dimension_of(figure, dimension), within_of(figure, within))


@router.get("/{key}.csv", dependencies=[needs(*READERS)], response_class=Response)
async def one_as_csv(
    request: Request,
    key: FigureKey,
    since: From = None,
    to: To = None,
    by: By = "week",
    dimension: Dimension = None,
    within: Within = None,
) -> Response:
    """The same as CSV: by period, or by value where it is split."""
    figure = figure_of(key)
    async with snapshot(request) as db:
        return figure_csv(await _read(db, figure, asked(since, to, now()), by, dimension, within))


@router.get("/{key}", dependencies=[needs(*READERS)])
async def one(
    request: Request,
    key: FigureKey,
    since: From = None,
    to: To = None,
    by: By = "week",
    dimension: Dimension = None,
    within: Within = None,
) -> FigureView:
    """A figure by day or week, what is open by age, and what it rests on."""
    figure = figure_of(key)
    async with snapshot(request) as db:
        return await _read(db, figure, asked(since, to, now()), by, dimension, within)


@router.get("/{key}/rows.csv", dependencies=[needs(*READERS)], response_class=Response)
async def rows_as_csv(
    request: Request,
    key: FigureKey,
    since: From = None,
    to: To = None,
    which: Which = "counted",
    dimension: Dimension = None,
    value: OfValue = None,
    within: Within = None,
    after: Cursor = None,
    limit: Limit = ROWS_AT_MOST,
) -> Response:
    """The same as CSV; the header X-Next is `after` of the next page."""
    figure = figure_of(key)
    async with snapshot(request) as db:
        chosen, only = dimension_of(figure, dimension), within_of(figure, within)
        found = await read_rows(db, figure, asked(since, to, now()), which, chosen, value, after, limit, only)
        return rows_csv(figure, found)


@router.get("/{key}/rows", dependencies=[needs(*READERS)])
async def rows(
    request: Request,
    key: FigureKey,
    since: From = None,
    to: To = None,
    which: Which = "counted",
    dimension: Dimension = None,
    value: OfValue = None,
    within: Within = None,
    after: Cursor = None,
    limit: Limit = 100,
) -> Rows:
    """What was counted, open or left out, with the ids of the facts behind each."""
    figure = figure_of(key)
    async with snapshot(request) as db:
        chosen, only = dimension_of(figure, dimension), within_of(figure, within)
        return await read_rows(db, figure, asked(since, to, now()), which, chosen, value, after, limit, only)
