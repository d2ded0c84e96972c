"""A fact as the timeline keeps it, the order in which entries are read, and the words they are told with."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from heapq import heapify, heappop, heappush
from itertools import groupby
from typing import Any, Final, NamedTuple, Protocol, TypeAlias, TypeVar

from shared.contracts import Fact
from shared.contracts.base import PolicyRef
from shared.contracts.fulfillment import SubstitutedUnits
from shared.core.money import format_minor

K = TypeVar("K")
V = TypeVar("V")


class Entry(NamedTuple):
    """A fact with its context, of which many are made: hence a tuple. `id` is its UUID as text; `sequence` rises by one per
    subject and service, from 1."""

    id: str
    service: str
    subject: str
    sequence: int
    fact: Fact
    occurred_at: datetime
    actor: str
    reason: str
    correlation_id: str
    causation_id: str | None = None
    trace_id: str | None = None

    @property
    def policy(self) -> PolicyRef | None:
        """The policy at the version that decided, where one did."""
        policy = getattr(self.fact, "policy", None)
        return policy if isinstance(policy, PolicyRef) else None


@dataclass(frozen=True, slots=True)
class Mark:
    """When something happened, by whose clock it was told, and which fact of its service says so."""

    sequence: int
    at: datetime


@dataclass(frozen=True, slots=True)
class Resolved:
    """`undone`: the sequence of what opened it again, where something did."""

    mark: Mark
    undone: int | None = None


def undone(resolutions: tuple[Resolved, ...], sequence: int) -> tuple[Resolved, ...]:
    """The last of them did not last."""
    if not resolutions:
        return ()
    return (*resolutions[:-1], Resolved(resolutions[-1].mark, sequence))


SERVICES: Final = ("orders", "payments", "fulfillment", "returns", "notifications", "support")
"""In the order in which a fact of one usually leads to a fact of another."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an entry stands: all that reading in order needs."""

    id: str
    service: str
    sequence: int
    occurred_at: datetime
    causation_id: str | None


def arrange(places: Iterable[Place]) -> list[Place]:
    """By time; within one instant, causes before what they caused, then by service and sequence.

    A reaction carries the time of its cause, so a whole chain may share an instant: without causes, a shipment would be
    read before the order it belongs to. The result depends on the set of places only.
    """
    by_time = sorted(places, key=lambda place: place.occurred_at)
    return [
        place
        for _, at_once in groupby(by_time, key=lambda place: place.occurred_at)
        for place in _causes_first(list(at_once))
    ]


def _rank(place: Place) -> tuple[int, int, str]:
    return (SERVICES.index(place.service), place.sequence, place.id)


def _causes_first(places: list[Place]) -> Iterator[Place]:
    if len(places) == 1:
        yield places[0]
        return
    left = {place.id: place for place in sorted(places, key=_rank)}
    before: dict[str, set[str]] = {id: set() for id in left}
    last: dict[str, str] = {}
    for id, place in left.items():
        if place.causation_id in left:
            before[id].add(place.causation_id)
        if place.service in last:
            before[id].add(last[place.service])
        last[place.service] = id
    after: dict[str, list[str]] = {id: [] for id in left}
    for id, earlier in before.items():
        for other in earlier:
            after[other].append(id)
    ready = [(_rank(place), id) for id, place in left.items() if not before[id]]
    heapify(ready)
    while left:
        if not ready:  # causes that go in a circle are somebody's mistake: the first by rank breaks it
            heappush(ready, min((_rank(place), id) for id, place in left.items()))
        _, id = heappop(ready)
        if id not in left:
            continue
        yield left.pop(id)
        for other in after[id]:
            before[other].discard(id)
            if not before[other] and other in left:
                heappush(ready, (_rank(left[other]), other))


MOST_NAMED: Final = 6


class _Units(Protocol):
    @property
    def line_id(self) -> str: ...
    @property
    def quantity(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Words:
    """What things are called, as far as it has been seen: ids and bare numbers until then."""

    currency: str | None = None
    titles: Mapping[str, str] = field(default_factory=dict)
    tenders: Mapping[str, str] = field(default_factory=dict)
    shipments: Mapping[str, str] = field(default_factory=dict)
    sent: tuple[SubstitutedUnits, ...] = ()
    """Of lines all of whose units that left are one other article than ordered: that one is what comes back."""

    def money(self, minor: int, currency: str | None = None) -> str:
        if chosen := currency or self.currency:
            return format_minor(minor, chosen)
        return f"{minor} minor units"

    def units(self, lines: Iterable[_Units], substituted: Sequence[SubstitutedUnits] = ()) -> str:
        """`2 × CommandBus lamp and 1 × Chair`; a sentence names a few lines and counts the others."""
        named = self.articles(add({}, lines), substituted)
        if len(named) > MOST_NAMED:
            named[MOST_NAMED - 1 :] = [plural(len(named) - MOST_NAMED + 1, "other line")]
        return self.listed(named) or "nothing"

    def articles(self, lines: Mapping[str, int], substituted: Sequence[SubstitutedUnits] = ()) -> list[str]:
        """Each article by its own title: one that goes instead of another names both."""
        named = []
        for line_id, quantity in lines.items():
            left = quantity
            for other in substituted:
                if other.line_id == line_id and (units := min(other.quantity, left)):
                    left -= units
                    ordered = self.titles.get(line_id, f"line {line_id}")
                    named.append(f"{units} × {other.title or other.sku} instead of {ordered}")
            if left:
                named.append(self.some(left, line_id))
        return named

    def some(self, quantity: int, line_id: str) -> str:
        return f"{quantity} × {self.titles.get(line_id, f'line {line_id}')}"

    def shipment(self, id: str) -> str:
        """`shipment 2 of 3`."""
        return self.shipments.get(id, f"shipment {id}")

    def tender(self, id: str) -> str:
        """`gift card`."""
        return self.tenders.get(id, f"tender {id}")

    @staticmethod
    def listed(parts: Iterable[str]) -> str:
        """`a, b and c`."""
        *head, tail = [*parts] or [""]
        return f"{', '.join(head)} and {tail}" if head else tail


MONTHS: Final = ("", "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def day(at: datetime | None) -> str:
    """`24 Nov 2026`, or that no date is known."""
    return f"{at.day} {MONTHS[at.month]} {at.year}" if at else "a date not known yet"


def plain(code: str) -> str:
    """A code as words: `handed_over` -> `handed over`."""
    return code.replace("_", " ")


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


Sentences: TypeAlias = Mapping[type[Fact], Callable[[Any, Words], str]]
"""Per class of fact, what happened in plain words."""

Details: TypeAlias = Mapping[type[Fact], Callable[[Any, Words], Sequence[str]]]
"""Per class of fact that carries reasons or parts worth reading, one line each; an empty line says nothing."""

Quiet: TypeAlias = frozenset[type[Fact]]
"""Facts by which a service takes note of another's, or prepares a step of its own: for those who want every detail."""


def put(mapping: Mapping[K, V], key: K, value: V) -> dict[K, V]:
    """The mapping with one value set; the mapping given stays as it was."""
    return {**mapping, key: value}


def add(counts: Mapping[str, int], lines: Iterable[_Units]) -> dict[str, int]:
    """The counts per line, with the lines' quantities added."""
    total = dict(counts)
    for line in lines:
        total[line.line_id] = total.get(line.line_id, 0) + line.quantity
    return total
