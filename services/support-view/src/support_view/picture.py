"""Where the boxes of a dependency picture stand: columns by how far a node is from its units, rows so that none overlap."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from support_view.summary.dependencies import Dependencies, Node

WIDTH, HEIGHT, GAP, SPACE = 216, 46, 64, 14
LETTERS, LINES = 25, 2


@dataclass(frozen=True, slots=True)
class Box:
    node: Node
    x: int
    y: float
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Picture:
    """In units of the drawing; an arrow is from the right of one box to the left of another."""

    boxes: tuple[Box, ...]
    arrows: tuple[tuple[Box, Box], ...]
    width: int
    height: float


def draw(dependencies: Dependencies) -> Picture:
    """Each box beside the middle of those that lead to it, or below the one above it."""
    before: dict[str, list[str]] = {node.node_id: [] for node in dependencies.nodes}
    for source, target in dependencies.edges:
        before[target].append(source)
    columns = {id: column for column, ids in enumerate(_columns(before)) for id in ids}
    boxes: dict[str, Box] = {}
    free: dict[int, float] = {}
    for node in sorted(dependencies.nodes, key=lambda node: columns[node.node_id]):
        column, sources = columns[node.node_id], before[node.node_id]
        middle = sum(boxes[source].y for source in sources) / len(sources) if sources else 0.0
        y = max(middle, free.get(column, 0.0))
        free[column] = y + HEIGHT + SPACE
        lines = textwrap.wrap(node.text, LETTERS, max_lines=LINES, placeholder=" …")
        boxes[node.node_id] = Box(node, column * (WIDTH + GAP), y, tuple(lines))
    return Picture(
        boxes=tuple(boxes.values()),
        arrows=tuple((boxes[source], boxes[target]) for source, target in dependencies.edges),
        width=max((box.x for box in boxes.values()), default=0) + WIDTH,
        height=max((box.y for box in boxes.values()), default=0.0) + HEIGHT,
    )


def _columns(before: Mapping[str, Sequence[str]]) -> Iterator[Sequence[str]]:
    """Nodes by the longest way that leads to them: first those that nothing leads to. Raises ValueError for a circle."""
    placed: set[str] = set()
    while waiting := [id for id in before if id not in placed]:
        column = [id for id in waiting if placed.issuperset(before[id])]
        if not column:
            raise ValueError(f"these wait for each other: {', '.join(waiting)}")
        placed.update(column)
        yield column
