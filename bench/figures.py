"""What a measurement says: medians and ranges of interleaved runs, a score, and what it must and should be."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from bench.contest import Measured

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured: `is_quick` says roughly what there is to see, within minutes. `soak_minutes` is how long
    memory is watched under load; when quick, by figure 5 for figure 10, so that the system is started once."""

    is_quick: bool
    runs: int
    soak_minutes: float
    figures: Sequence[int]
    soaked: list[Measured] = field(default_factory=list)

    def pick(self, full: T, quick: T) -> T:
        return quick if self.is_quick else full


@dataclass(frozen=True, slots=True)
class Side:
    """A contender's runs under the name that people read; none when it could not be had, with why."""

    name: str
    runs: Sequence[Measured]
    missing: str = "cannot be had on this machine"


class Spread(BaseModel):
    """Median and range over the runs. `cpu` is CPU seconds per 1,000, where CPU was measured."""

    model_config = ConfigDict(frozen=True)

    name: str
    unit: str
    median: float
    low: float
    high: float
    cpu: float | None
    runs: int
    configuration: str = Field(default="", exclude=True)


class Figure(BaseModel):
    """`score` is what `must` and `aim` bound: from below where `at_least`, else from above; None: it was not measured,
    and `note` says why."""

    model_config = ConfigDict(frozen=True)

    number: int
    what: str
    size: str
    ours: Spread
    theirs: Spread | None = None
    score: float | None
    low: float | None
    high: float | None
    unit: str
    at_least: bool
    must: float | None
    aim: float | None
    note: str = ""
    is_quick: bool = False

    def meets(self, bound: float | None) -> bool | None:
        """None where there is nothing to meet or nothing was measured."""
        if bound is None or self.score is None:
            return None
        return self.score >= bound if self.at_least else self.score <= bound

    @property
    def verdict(self) -> Literal["aim met", "met", "missed", "not measured", "told"]:
        if self.score is None:
            return "not measured"
        if self.must is None:
            return "told"
        if self.meets(self.aim):
            return "aim met"
        return "met" if self.meets(self.must) else "missed"

    def bound(self, bound: float | None) -> str:
        return "" if bound is None else f"{'≥' if self.at_least else '≤'} {number(bound)}{self.unit}"


def number(value: float) -> str:
    """Three digits that count."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 1 else f"{value:.2g}"


Reading = Callable[[Measured], float]
RATE: Final = "rate"
CPU: Final = "cpu"
TIME: Final = "time"


def reading(by: str) -> tuple[Reading, str, bool]:
    """How to read a run, in what unit, and whether more is better; what is neither rate nor CPU is one of its values."""
    if by == RATE:
        return lambda run: run.rate, "/s", True
    if by == CPU:
        return lambda run: run.cpu_per_1000, " CPU-s/1,000", False
    if by == TIME:
        return lambda run: run.seconds * 1e6 / run.count, " ms/1,000", False
    return lambda run: run.values[by], " ms", False


def _spread(side: Side, read: Reading, unit: str) -> Spread:
    values = [read(run) for run in side.runs]
    cpu = median(run.cpu_per_1000 for run in side.runs) if all(r.count and r.cpu_seconds for r in side.runs) else None
    return Spread(
        name=side.name,
        unit=unit,
        median=median(values),
        low=min(values),
        high=max(values),
        cpu=cpu,
        runs=len(values),
        configuration=side.runs[0].configuration,
    )


def compared(
    place: int,
    what: str,
    ours: Side,
    theirs: Side,
    by: str,
    *,
    size: str,
    must: float | None = None,
    aim: float | None = None,
    is_cost: bool = False,
) -> Figure:
    """How many times as good ours is: by rate, ours to theirs; by CPU time, theirs to ours; a latency, or with
    `is_cost` a CPU time, as a share of theirs. The range is that of pairs of runs that followed each other."""
    read, unit, more_is_better = reading(by)
    mine = _spread(ours, read, unit)
    if not theirs.runs:
        return Figure(
            number=place, what=what, size=size, ours=mine, score=None, low=None, high=None, unit=" x",
            at_least=True, must=must, aim=aim, note=f"{theirs.name} {theirs.missing}",
        )  # fmt: skip
    other = _spread(theirs, read, unit)
    is_share = more_is_better or by != CPU or is_cost

    def ratio(a: float, b: float) -> float:
        return a / b if is_share else b / a

    ratios = [ratio(read(a), read(b)) for a, b in zip(ours.runs, theirs.runs, strict=False)]
    return Figure(
        number=place,
        what=what,
        size=size,
        ours=mine,
        theirs=other,
        score=ratio(mine.median, other.median),
        low=min(ratios),
        high=max(ratios),
        unit=" x",
        at_least=more_is_better or not is_share,
        must=must,
        aim=aim,
    )


def alone(
    place: int,
    what: str,
    ours: Side,
    by: str,
    *,
    size: str,
    at_least: bool,
    unit: str | None = None,
    must: float | None = None,
    aim: float | None = None,
    note: str = "",
) -> Figure:
    """A figure by itself."""
    read, usual, _ = reading(by)
    mine = _spread(ours, read, unit or usual)
    return Figure(
        number=place,
        what=what,
        size=size,
        ours=mine,
        score=mine.median,
        low=mine.low,
        high=mine.high,
        unit=mine.unit,
        at_least=at_least,
        must=must,
        aim=aim,
        note=note,
    )


class Results(BaseModel):
    """A whole run and where it was taken."""

    model_config = ConfigDict(frozen=True)

    taken_on: str
    machine: str
    figures: list[Figure]
    configurations: dict[str, str]
