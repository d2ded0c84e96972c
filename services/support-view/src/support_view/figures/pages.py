"""The pages of figures: a table of each, drawn too where there are scripts; every number leads to the facts behind it."""

from collections.abc import Mapping, Sequence
from datetime import date, datetime, time, timezone
from http import HTTPStatus
from typing import Annotated, Any, Final, get_args
from urllib.parse import urlencode

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import Response

from shared.core.machine import Invalid
from shared.messaging.database import OUTAGES
from shared.web.auth import Caller
from support_view.api import snapshot
from support_view.domain.timeline import plain
from support_view.figures.api import (
    READERS,
    ROWS_AT_MOST,
    Amounts,
    Asked,
    FigureView,
    Which,
    asked,
    dimension_of,
    figure_csv,
    figure_of,
    now,
    read_figure,
    read_rows,
    rows_csv,
    within_of,
)
from support_view.figures.definitions import FIGURES, Kind
from support_view.figures.store import By
from support_view.pages import away
from support_view.rendering import HEADERS, page, span
from support_view.sign_in import current_user, to_sign_in

router = APIRouter(include_in_schema=False)

ROWS_SHOWN: Final = 50
EARLIEST: Final = date(2000, 1, 1)
LATEST: Final = date(2199, 12, 31)

WORDS: Final[Mapping[str, str]] = {
    "counted": "What was counted",
    "part": "What the share asks for",
    "rest": "What was counted, and the share does not ask for",
    "open": "What was open at the end",
    "left_out": "What was left out",
}

Text = Annotated[str, Query(max_length=200)]


def headline(amounts: Amounts) -> str:
    """What a figure comes to, in a few words."""
    if not amounts.count:
        return "nothing counted"
    if amounts.share is not None:
        return f"{percent(amounts.share)}: {amounts.part} of {amounts.whole}"
    if amounts.p50_seconds is not None and amounts.p90_seconds is not None:
        return f"p50 {span(amounts.p50_seconds)} · p90 {span(amounts.p90_seconds)}"
    return f"{amounts.count} times"


def percent(share: float | None) -> str:
    return "–" if share is None else f"{share * 100:.2f} %"


def epoch(day: date) -> int:
    return int(datetime.combine(day, time(), timezone.utc).timestamp())


SAID: Final[Mapping[str, Any]] = {"headline": headline, "percent": percent, "epoch": epoch}
"""What templates of figures say things with."""


def _day(text: str, field: str) -> date | None:
    """Raises Invalid."""
    if not text:
        return None
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise Invalid(field, "must be a day, as 2026-05-31") from None
    if not EARLIEST <= day <= LATEST:
        raise Invalid(field, f"must be between {EARLIEST} and {LATEST}")
    return day


def _by(text: str) -> By:
    """Raises Invalid."""
    if text not in get_args(By):
        raise Invalid("by", "must be day or week")
    return "day" if text == "day" else "week"


def _which(text: str) -> Which:
    """Raises Invalid."""
    known: tuple[Which, ...] = get_args(Which)
    found = next((one for one in known if one == text), None)
    if found is None:
        raise Invalid("which", f"must be one of: {', '.join(known)}")
    return found


DRAWN_AT_MOST: Final = 5


def _series(view: FigureView) -> list[dict[str, Any]]:
    """What is drawn of the periods, and in which unit; of a count that is split, the greatest of its parts."""
    match view.definition.kind:
        case Kind.DURATION:
            longest = max((period.p90_seconds or 0 for period in view.periods), default=0)
            size, unit = next(
                (s, u)
                for s, u in ((86_400, " d"), (3_600, " h"), (60, " min"), (1, " s"))
                if longest >= 2 * s or s == 1
            )
            return [
                _drawn(name, [getattr(period, f"{name}_seconds") for period in view.periods], unit, size)
                for name in ("p50", "p90")
            ]
        case Kind.SHARE:
            return [_drawn("share", [period.share for period in view.periods], " %", 0.01, least=100)]
        case Kind.COUNT if any(group.counts for group in view.groups):
            return [_drawn(plain(group.value), group.counts) for group in view.groups[:DRAWN_AT_MOST]]
        case Kind.AMOUNT | Kind.COUNT:
            return [_drawn("times", [period.count for period in view.periods])]


def _drawn(
    label: str, values: Sequence[float | None], unit: str = "", size: float = 1, *, least: int = 1
) -> dict[str, Any]:
    """`least`: up to where the axis goes at least."""
    scaled = [None if value is None else value / size for value in values]
    return {"label": label, "values": scaled, "unit": unit, "least": least}


async def _reader(request: Request) -> Caller | Response:
    """Who looks; or the answer where nobody may."""
    caller = await current_user(request)
    if caller is None:
        return to_sign_in(request)
    if caller.roles.isdisjoint(READERS):
        text = f"Figures are for {' and '.join(READERS)} to see."
        return page("message.html", HTTPStatus.FORBIDDEN, caller=caller, title="Not for you", text=text)
    return caller


def _refused(caller: Caller, error: Invalid | HTTPException) -> Response:
    if isinstance(error, HTTPException):
        return page("message.html", error.status_code, caller=caller, title="Nothing there", text=f"{error.detail}.")
    return page("message.html", 422, caller=caller, title="That cannot be shown", text=f"{error}.")


def _days(chosen: Asked) -> dict[str, str]:
    return {"from": chosen.from_on.isoformat(), "to": chosen.to_on.isoformat()}


@router.get("/figures")
async def figures(
    request: Request, since: Annotated[str, Query(alias="from", max_length=20)] = "", to: Text = "", by: Text = "week"
) -> Response:
    caller = await _reader(request)
    if isinstance(caller, Response):
        return caller
    try:
        chosen, period = asked(_day(since, "from"), _day(to, "to"), now()), _by(by)
        async with snapshot(request) as db:
            views = [await read_figure(db, figure, chosen, period, None) for figure in FIGURES.values()]
    except Invalid as error:
        return _refused(caller, error)
    except OUTAGES:
        return away(caller)

    def query(**more: str) -> str:
        return urlencode(_days(chosen) | more)

    return page("figures.html", **SAID, caller=caller, views=views, asked=chosen, by=period, query=query)


@router.get("/figures/{key}")
@router.get("/figures/{key}.csv")  # the lower one is asked first
async def figure(
    request: Request,
    key: str,
    since: Annotated[str, Query(alias="from", max_length=20)] = "",
    to: Text = "",
    by: Text = "week",
    dimension: Text = "",
    within: Text = "",
) -> Response:
    caller = await _reader(request)
    if isinstance(caller, Response):
        return caller
    try:
        found = figure_of(key)
        chosen, period = asked(_day(since, "from"), _day(to, "to"), now()), _by(by)
        split, only = dimension_of(found, dimension), within_of(found, within)
        async with snapshot(request) as db:
            view = await read_figure(db, found, chosen, period, split, only)
    except (Invalid, HTTPException) as error:
        return _refused(caller, error)
    except OUTAGES:
        return away(caller)
    if request.url.path.endswith(".csv"):
        return _taken_along(figure_csv(view))
    kept = {"within": only} if only else {}

    def query(**more: str) -> str:
        return urlencode(_days(chosen) | kept | more)

    def behind(which: str = "counted", period: date | None = None, value: str | None = None) -> str:
        """The rows behind a number: of the whole window, of a period of it, or of a value of the dimension."""
        days = _days(_within(chosen, period, view.by)) if period else _days(chosen)
        split = {"dimension": view.dimension, "value": value} if value is not None and view.dimension else {}
        return f"/figures/{key}/facts?{urlencode(days | {'which': which} | split | kept)}"

    return page(
        "figure.html",
        **SAID,
        caller=caller,
        view=view,
        asked=chosen,
        by=period,
        query=query,
        behind=behind,
        series=_series(view),
    )


def _within(chosen: Asked, period: date, by: By) -> Asked:
    """The days of a period that the window has."""
    last = period if by == "day" else date.fromordinal(period.toordinal() + 6)
    return Asked(max(chosen.from_on, period), min(chosen.to_on, last), chosen.as_of)


def _taken_along(response: Response) -> Response:
    response.headers.update(HEADERS)
    return response


@router.get("/figures/{key}/facts.csv")
@router.get("/figures/{key}/facts")
async def facts(
    request: Request,
    key: str,
    since: Annotated[str, Query(alias="from", max_length=20)] = "",
    to: Text = "",
    which: Text = "counted",
    dimension: Text = "",
    value: Annotated[str | None, Query(max_length=200)] = None,
    within: Text = "",
    after: Annotated[str | None, Query(max_length=300)] = None,
) -> Response:
    caller = await _reader(request)
    if isinstance(caller, Response):
        return caller
    is_csv = request.url.path.endswith(".csv")
    try:
        found = figure_of(key)
        chosen, kind = asked(_day(since, "from"), _day(to, "to"), now()), _which(which)
        split, only = dimension_of(found, dimension), within_of(found, within)
        limit = ROWS_AT_MOST if is_csv else ROWS_SHOWN
        async with snapshot(request) as db:
            rows = await read_rows(db, found, chosen, kind, split, value, after, limit, only)
    except (Invalid, HTTPException) as error:
        return _refused(caller, error)
    except OUTAGES:
        return away(caller)
    if is_csv:
        return _taken_along(rows_csv(found, rows))
    kept = {"within": only} if only else {}

    def query(**more: str) -> str:
        return urlencode(_days(chosen) | kept | more)

    def again(after: str | None = None, csv: bool = False) -> str:
        """The same, further on or to be taken along."""
        of = {"dimension": split, "value": value} if split and value is not None else {}
        further = {"after": after} if after else {}
        return f"/figures/{key}/facts{'.csv' if csv else ''}?{query(which=which, **of, **further)}"

    return page(
        "figure_rows.html",
        caller=caller,
        figure=found,
        rows=rows,
        which=which,
        words=WORDS[which],
        dimension=split,
        value=value,
        within=only,
        asked=chosen,
        query=query,
        again=again,
    )
