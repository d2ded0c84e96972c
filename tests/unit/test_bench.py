"""What the table of figures says of measurements, and that the committed page is made from the committed figures."""

from pathlib import Path

import pytest
from bench.contest import Measured
from bench.figures import CPU, RATE, TIME, Figure, Results, Side, alone, compared
from bench.report import chart, committed, generated, merged


def runs(*seconds: float, cpu: float = 1.0, **values: float) -> list[Measured]:
    return [Measured(1_000, s, cpu, values) for s in seconds]


def figure(**more: object) -> Figure:
    return compared(
        1, "what", Side("ours", runs(2)), Side("floor", runs(1)), RATE, size="", must=0.4, aim=0.5
    ).model_copy(update=more)


@pytest.mark.parametrize(
    ("by", "score", "at_least"),
    [
        pytest.param(RATE, 0.5, True, id="half the rate is half as good"),
        pytest.param(CPU, 0.25, True, id="four times the CPU time is a quarter as good per CPU second"),
        pytest.param(TIME, 2.0, False, id="a time is a share of theirs"),
        pytest.param("p99", 3.0, False, id="a latency is a share of theirs"),
    ],
)
def test_the_score_says_how_many_times_as_good_or_as_long(by: str, score: float, at_least: bool) -> None:
    ours, theirs = runs(2, 2, cpu=4, p99=30), runs(1, 1, cpu=1, p99=10)
    found = compared(1, "what", Side("ours", ours), Side("theirs", theirs), by, size="")
    assert (found.score, found.at_least) == (score, at_least)


def test_the_range_is_that_of_pairs_of_runs_and_the_score_that_of_medians() -> None:
    found = compared(1, "what", Side("ours", runs(1, 2, 4)), Side("theirs", runs(1, 1, 1)), RATE, size="")
    assert (found.score, found.low, found.high) == (0.5, 0.25, 1.0)


@pytest.mark.parametrize(
    ("score", "verdict"), [(0.39, "missed"), (0.4, "met"), (0.5, "aim met"), (None, "not measured")]
)
def test_a_bound_from_below_is_met_from_there_on(score: float | None, verdict: str) -> None:
    assert figure(score=score).verdict == verdict


def test_a_bound_from_above_is_met_up_to_there() -> None:
    side = Side("ours", [Measured(values={"resident": 120})])
    told = alone(10, "memory", side, "resident", size="", at_least=False, unit=" MB", must=150, aim=100)
    assert (told.verdict, told.bound(told.must)) == ("met", "≤ 150 MB")


def test_a_rival_that_cannot_be_had_is_said_to_be() -> None:
    found = compared(3, "what", Side("ours", runs(1)), Side("Rival", []), CPU, size="", must=1)
    assert (found.verdict, found.note) == ("not measured", "Rival cannot be had on this machine")


def test_figures_that_were_not_measured_anew_stay() -> None:
    before = Results(taken_on="1", machine="", figures=[figure(number=1), figure(number=2)], configurations={"A": "a"})
    now = Results(taken_on="2", machine="", figures=[figure(number=2, what="new")], configurations={"B": "b"})
    both = merged(before, now)
    assert [(f.number, f.what) for f in both.figures] == [(1, "what"), (2, "new")]
    assert both.configurations == {"A": "a", "B": "b"} and both.taken_on == "2"


def test_the_chart_shows_every_figure_that_has_a_bound_and_escapes_its_words() -> None:
    drawn = chart([figure(what="a < b"), figure(must=None)])
    assert drawn.count("<rect") == 1 and "a &lt; b" in drawn


def test_a_rise_of_less_than_nothing_is_as_good_as_can_be() -> None:
    fell, rose = (figure(score=score, at_least=False, must=5.0, aim=0.0) for score in (-0.5, 7.0))
    assert 'class="met"' in chart([fell]) and 'class="missed"' in chart([rose])


def test_the_page_and_the_chart_are_made_from_the_committed_figures() -> None:
    results = committed()
    assert results is not None and {f.number for f in results.figures} <= set(range(1, 11))
    stale: list[Path] = [path for path, text in generated().items() if path.read_text(encoding="utf-8") != text]
    assert not stale
