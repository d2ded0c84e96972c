"""`docs/performance.md`'s table and chart, made from the committed `docs/performance.json`.

`python -m bench.report` writes them; `--check` fails when one is stale.
"""

import math
import sys
from html import escape
from pathlib import Path
from typing import Final

from bench.figures import Figure, Results, Spread, number
from ops.docs import BLOCK, DOCS

FIGURES: Final = DOCS / "performance.json"
PAGE: Final = DOCS / "performance.md"
CHART: Final = DOCS / "performance.svg"

WIDTH: Final = 980
ROW: Final = 30
TOP: Final = 56
LABELS: Final = 430
BARS: Final = 400
RANGE: Final = 32
"""Times as good as it must be, and as bad, that the chart has room for."""

STYLE: Final = """
text { font: 13px system-ui, sans-serif; fill: #1f2328; } .dim { fill: #59636e; font-size: 11px; }
.met { fill: #1a7f37; } .missed { fill: #cf222e; } .line { stroke: #59636e; } .grid { stroke: #d1d9e0; } .aim { stroke: #1a7f37; }
@media (prefers-color-scheme: dark) { text { fill: #f0f6fc; } .dim { fill: #9198a1; } .met { fill: #3fb950; }
.missed { fill: #f85149; } .line { stroke: #9198a1; } .grid { stroke: #3d444d; } .aim { stroke: #3fb950; } }
"""


def merged(before: Results | None, now: Results) -> Results:
    """`now`, and the figures that it did not measure as they were before."""
    measured = {figure.number for figure in now.figures}
    kept = [figure for figure in before.figures if figure.number not in measured] if before else []
    configurations = (before.configurations if before else {}) | now.configurations
    figures = sorted([*kept, *now.figures], key=lambda figure: figure.number)
    return now.model_copy(update={"figures": figures, "configurations": configurations})


def committed() -> Results | None:
    return Results.model_validate_json(FIGURES.read_bytes()) if FIGURES.exists() else None


def publish(results: Results) -> None:
    """Make a run the one that is documented."""
    FIGURES.write_text(merged(committed(), results).model_dump_json(indent=1) + "\n", encoding="utf-8")
    for path, text in generated().items():
        path.write_text(text, encoding="utf-8")


def generated() -> dict[Path, str]:
    """Every generated file and what should be in it."""
    results = committed()
    if results is None:
        raise FileNotFoundError(f"{FIGURES} is gone: `make bench ARGS=--publish` makes it")
    blocks = {"figures": _table(results), "misses": _misses(results), "rivals": _rivals(results)}
    page = BLOCK.sub(lambda m: f"{m[1]}{blocks[m['name']]}{m[3]}", PAGE.read_text(encoding="utf-8"))
    return {PAGE: page, CHART: chart(results.figures)}


def _table(results: Results) -> str:
    lines = [
        f"Taken on {results.taken_on}; {results.machine}. Medians of interleaved runs, ranges in brackets.",
        "",
        "| # | what | ours | beside | score | must | aim | |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for f in results.figures:
        score = "" if f.score is None else f"**{number(f.score)}{f.unit}**{_range(f.low, f.high)}"
        beside = _spread(f.theirs) if f.theirs else f.note
        size = f"{f.size}{'; quick, for a rough look' if f.is_quick else ''}"
        verdict = {"missed": "**missed**", "told": ""}.get(f.verdict, f.verdict)
        lines.append(
            f"| {f.number} | {f.what} <br><sub>{size}</sub> | {_spread(f.ours)} | {beside} | {score} | "
            f"{f.bound(f.must)} | {f.bound(f.aim)} | {verdict} |"
        )
    return "\n".join([*lines, ""])


def _range(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None or low == high else f" ({number(low)} – {number(high)})"


def _spread(spread: Spread) -> str:
    cpu = f"<br><sub>{spread.cpu:.3f} CPU-s per 1,000</sub>" if spread.cpu is not None else ""
    return f"{spread.name}: {number(spread.median)}{spread.unit}{_range(spread.low, spread.high)}{cpu}"


def _misses(results: Results) -> str:
    missed = [f for f in results.figures if f.verdict in ("missed", "not measured")]
    if not missed:
        return "None.\n"
    return "".join(
        f"- {f.number}, {f.what} ({_much(f)})"
        + (f" beside {f.theirs.name}" if f.theirs else "")
        + (f": {number(f.score)}{f.unit}, must be {f.bound(f.must)}\n" if f.score is not None else f": {f.note}\n")
        for f in missed
    )


def _rivals(results: Results) -> str:
    return "".join(f"- {name}: {configuration}\n" for name, configuration in sorted(results.configurations.items()))


def chart(figures: list[Figure]) -> str:
    """A bar per figure that has a bound: how many times as good as it must be, on a logarithmic scale."""
    shown = [f for f in figures if f.must and f.score is not None]
    height = TOP + ROW * len(shown) + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="Figures against what they must be"><style>{STYLE}</style>',
        f'<text x="{LABELS}" y="20">times as good as it must be</text>',
    ]
    for tick in (1 / 16, 1 / 4, 1, 4, 16):
        at = _x(tick)
        name = "must" if tick == 1 else f"{tick:g}" if tick > 1 else f"1/{1 / tick:g}"
        parts.append(
            f'<line x1="{at}" x2="{at}" y1="{TOP - 12}" y2="{height - 24}" class="{"line" if tick == 1 else "grid"}"/>'
        )
        parts.append(f'<text x="{at}" y="{TOP - 16}" text-anchor="middle" class="dim">{name}</text>')
    for n, f in enumerate(shown):
        assert f.must and f.score is not None
        y = TOP + ROW * n
        good = f.score / f.must if f.at_least else f.must / f.score if f.score > 0 else RANGE
        left, right = sorted((_x(1), _x(good)))
        beside = f"{_much(f)}, beside {f.theirs.name}" if f.theirs else f.ours.name
        parts.append(f'<text x="0" y="{y + 10}">{f.number} {escape(_short(f.what))}</text>')
        parts.append(f'<text x="14" y="{y + 23}" class="dim">{escape(_short(beside))}</text>')
        kind = "met" if f.meets(f.must) else "missed"
        parts.append(f'<rect x="{left}" y="{y + 4}" width="{max(2, right - left)}" height="14" rx="2" class="{kind}"/>')
        if f.aim is not None:
            aim = _x(f.aim / f.must if f.at_least else f.must / f.aim if f.aim > 0 else RANGE)
            parts.append(f'<line x1="{aim}" x2="{aim}" y1="{y + 1}" y2="{y + 21}" class="aim" stroke-width="2"/>')
        parts.append(
            f'<text x="{LABELS + BARS + 12}" y="{y + 15}">{number(f.score)}{f.unit}'
            f' <tspan class="dim">must {f.bound(f.must)}</tspan></text>'
        )
    parts.append(f'<text x="{LABELS}" y="{height - 6}" class="dim">a green mark is the aim</text></svg>')
    return "\n".join(parts) + "\n"


def _x(times: float) -> float:
    share = math.log(min(max(times, 1 / RANGE), RANGE), RANGE)
    return round(LABELS + BARS / 2 * (1 + share), 1)


def _much(figure: Figure) -> str:
    """How much was done, without how."""
    return figure.size.split(", ")[0]


def _short(text: str) -> str:
    return text if len(text) <= 62 else f"{text[:60]} …"


def main() -> int:
    """0 when everything is as it should be, 1 with what is not."""
    stale = [
        path for path, text in generated().items() if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    for path in stale:
        if sys.argv[1:] == ["--check"]:
            print(f"stale: docs/{path.name}; run `make docs`", file=sys.stderr)
        else:
            path.write_text(generated()[path], encoding="utf-8")
    return 1 if stale and sys.argv[1:] == ["--check"] else 0


if __name__ == "__main__":
    sys.exit(main())
