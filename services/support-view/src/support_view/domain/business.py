"""Business hours: when people are at work, and when so much of that will have passed. Pure; the calendar is data."""

from collections.abc import Iterator
from datetime import date, datetime, time, timedelta, timezone
from enum import StrEnum
from functools import cache
from itertools import pairwise
from typing import Annotated, Final
from zoneinfo import ZoneInfo, available_timezones

from pydantic import AfterValidator, Field, model_validator

from shared.contracts.base import Input


def _zone(name: str) -> str:
    if name not in available_timezones():
        raise ValueError("must be the name of a time zone, such as Europe/Berlin")
    return name


class Hours(Input):
    """Open from an hour of the day until a later one."""

    opens: time
    closes: time

    @model_validator(mode="after")
    def _is_not_empty(self) -> "Hours":
        if self.opens.tzinfo or self.closes.tzinfo or self.opens >= self.closes:
            raise ValueError("must open before it closes, both without a zone")
        return self


class Calendar(Input):
    """Opening hours by weekday (0 is Monday) in one time zone. No hour is open on a holiday."""

    zone: Annotated[str, AfterValidator(_zone)]
    week: Annotated[dict[Annotated[int, Field(ge=0, le=6)], tuple[Hours, ...]], Field(min_length=1)]
    holidays: Annotated[frozenset[date], Field(max_length=2000)] = frozenset()

    @model_validator(mode="after")
    def _is_ever_open(self) -> "Calendar":
        if not any(self.week.values()):
            raise ValueError("must be open some time in the week")
        for spans in self.week.values():
            if any(before.closes > after.opens for before, after in pairwise(spans)):
                raise ValueError("hours of a day must follow each other")
        return self


FARTHEST: Final = timedelta(days=4000)
"""Holidays without a gap must not make the search for an open hour endless."""


class Unit(StrEnum):
    MINUTES = "minutes"
    HOURS = "hours"
    DAYS = "days"
    BUSINESS_HOURS = "business_hours"
    BUSINESS_DAYS = "business_days"


class Patience(Input):
    """How long something may take."""

    amount: int = Field(ge=0, le=10_000)
    unit: Unit

    def __str__(self) -> str:
        unit = self.unit.replace("_", " ")
        return f"{self.amount} {unit if self.amount != 1 else unit.removesuffix('s')}"


_FIXED: Final = {
    Unit.MINUTES: timedelta(minutes=1),
    Unit.HOURS: timedelta(hours=1),
    Unit.DAYS: timedelta(days=1),
}


@cache
def _zone_of(name: str) -> ZoneInfo:
    return ZoneInfo(name)


def _spans(calendar: Calendar, since: datetime) -> Iterator[tuple[datetime, datetime]]:
    """Open hours from `since` on, in UTC, in order; the first begins no earlier."""
    zone = _zone_of(calendar.zone)
    first = since.astimezone(zone).date()
    for days in range(FARTHEST.days):
        on = first + timedelta(days=days)
        if on in calendar.holidays:
            continue
        for hours in calendar.week.get(on.weekday(), ()):
            opens, closes = (
                datetime.combine(on, at, zone).astimezone(timezone.utc) for at in (hours.opens, hours.closes)
            )
            if closes > since and closes > opens:
                yield max(opens, since), closes


def after(calendar: Calendar, at: datetime, business: timedelta) -> datetime:
    """The instant by which so much business time has passed; `at` itself for none."""
    left = business
    if left <= timedelta():
        return at
    end = at + FARTHEST
    for opens, closes in _spans(calendar, at):
        if closes - opens >= left:
            return opens + left
        left -= closes - opens
    return end


def between(calendar: Calendar, start: datetime, end: datetime) -> timedelta:
    """The business time from `start` to `end`; none where it is the other way round."""
    total = timedelta()
    for opens, closes in _spans(calendar, start):
        if opens >= end:
            break
        total += min(closes, end) - opens
    return total


def over_at(calendar: Calendar, patience: Patience, since: datetime) -> datetime:
    """When patience is over. A business day is one with open hours, from an hour of one day to that hour of the next."""
    if fixed := _FIXED.get(patience.unit):
        return since + patience.amount * fixed
    if patience.unit is Unit.BUSINESS_HOURS:
        return after(calendar, since, timedelta(hours=patience.amount))
    zone = _zone_of(calendar.zone)
    local = since.astimezone(zone)
    on, left = local.date(), patience.amount
    for _ in range(FARTHEST.days):
        if not left:
            break
        on += timedelta(days=1)
        left -= bool(calendar.week.get(on.weekday())) and on not in calendar.holidays
    return datetime.combine(on, local.timetz()).astimezone(timezone.utc)
