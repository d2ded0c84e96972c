"""From facts in any order to what they add up to: per order and service a section, folded in sequence, holes waited for.

A section is a pure function of the set of its facts: permuted, repeated or cut into batches differently, they give the
same section. Facts beyond a hole stay on the timeline until the hole closes.
"""

from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Generic, TypeVar

import structlog
from pydantic import TypeAdapter

from shared.contracts import Fact
from shared.contracts.orders import OrderPlaced
from shared.core.machine import replace
from support_view.domain import fulfillment, notifications, orders, payments, returns, support
from support_view.domain.signals import with_signals
from support_view.domain.signals_by_fact import SIGNALS_BY_FACT, SignalsOf
from support_view.domain.timeline import Details, Entry, Quiet, Sentences

log = structlog.get_logger()

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Domain(Generic[S]):
    """What one service's facts of an order add up to, and in what words they are told."""

    name: str
    initial: S
    state: TypeAdapter[S]
    fold: Callable[[S, Entry], S]
    sentences: Sentences
    details: Details
    quiet: Quiet


def _domain(name: str, initial: Any, telling: Any, signals_of: SignalsOf) -> Domain[Any]:
    fold_alone = telling.fold

    def fold(state: Any, entry: Entry) -> Any:
        state = fold_alone(state, entry)
        shown = signals_of.get(type(entry.fact))
        if shown is None:
            return state
        signs = with_signals(state.signs, shown(state, entry.fact, entry))
        return state if signs is state.signs else replace(state, signs=signs)

    return Domain(name, initial, TypeAdapter(type(initial)), fold, telling.SENTENCES, telling.DETAILS, telling.QUIET)


DOMAINS: Final[Mapping[str, Domain[Any]]] = {
    "orders": _domain("order", orders.Orders(), orders, SIGNALS_BY_FACT["orders"]),
    "payments": _domain("payment", payments.Payments(), payments, SIGNALS_BY_FACT["payments"]),
    "fulfillment": _domain("fulfillment", fulfillment.Fulfillment(), fulfillment, SIGNALS_BY_FACT["fulfillment"]),
    "returns": _domain("return", returns.Returns(), returns, SIGNALS_BY_FACT["returns"]),
    "notifications": _domain(
        "notification", notifications.Notifications(), notifications, SIGNALS_BY_FACT["notifications"]
    ),
    "support": _domain("support", support.Support(), support, SIGNALS_BY_FACT["support"]),
}
"""By the service that tells the facts."""


@dataclass(frozen=True, slots=True)
class Projection(Generic[S]):
    """`next` is the sequence expected; `waiting` are those on the timeline that could not be folded yet."""

    state: S
    next: int = 1
    waiting: frozenset[int] = frozenset()

    def missing(self) -> list[tuple[int, int]]:
        """The holes: first and last sequence not seen, below one that was."""
        seen = sorted(self.waiting)
        before = self.next - 1
        holes = []
        for sequence in seen:
            if sequence > before + 1:
                holes.append((before + 1, sequence - 1))
            before = sequence
        return holes

    @property
    def is_stuck(self) -> bool:
        """The fact that comes next was seen, and could not be folded: a fault of ours."""
        return self.next in self.waiting


def projection_of(service: str) -> Projection[Any]:
    return Projection(DOMAINS[service].initial)


@dataclass(frozen=True, slots=True)
class Span:
    """Sequences to be read from the timeline, both ends included."""

    first: int
    last: int


ALL: Final = Span(1, 2**63 - 1)


def span_to_read(section: Projection[Any], told: Set[int]) -> Span | None:
    """What has to be read from the timeline before the facts just `told` can be folded; None when they suffice.

    A sequence that was folded before has a rival now: all of the section is read and folded again, from the first.
    """
    if any(sequence < section.next for sequence in told):
        return ALL
    known = told | section.waiting
    reach = section.next
    while reach in known:
        reach += 1
    if any(section.next <= sequence < reach for sequence in section.waiting):
        return Span(section.next, reach - 1)
    return None


def fold_contiguous(
    service: str, section: Projection[S], told: Set[int], entries: Iterable[Entry], span: Span | None
) -> Projection[S]:
    """Fold as far as there is no hole. `entries` are those told, or those read for `span`.

    Of two facts with one sequence the one with the smaller id counts, whichever came first. A fact that cannot be
    folded stops its own section and no other; it is tried again with the next fact of the section.
    """
    domain: Domain[S] = DOMAINS[service]
    by_sequence: dict[int, Entry] = {}
    for entry in entries:
        rival = by_sequence.get(entry.sequence)
        if rival is None or entry.id < rival.id:
            by_sequence[entry.sequence] = entry
    if span == ALL:
        section, told = Projection(domain.initial), by_sequence.keys()
    state, following = section.state, section.next
    while (found := by_sequence.get(following)) is not None:
        try:
            state = domain.fold(state, found)
        except Exception as error:  # a fault of ours on one order must not stop the facts of all others
            where = {"order_id": found.subject, "service": service, "sequence": following}
            log.error("section.stuck", **where, error=repr(error), exc_info=error)
            break
        following += 1
    waiting = frozenset(sequence for sequence in section.waiting | told if sequence >= following)
    return Projection(state, following, waiting)


@cache
def _named_in(kind: type[Fact]) -> frozenset[str]:
    """The fields of a class of facts that orders are found by; asked of every fact, so looked up once a class."""
    customer = {"customer"} if issubclass(kind, OrderPlaced) else set()
    return frozenset({"return_id", "tracking", "parcels"} & kind.model_fields.keys() | customer)


def search_keys(fact: Fact) -> list[tuple[str, str]]:
    """What an order can be found by: kind and value, folded to lower case."""
    found: list[tuple[str, str]] = []
    for name in _named_in(type(fact)):
        value = getattr(fact, name)
        if name == "customer":
            found.append(("email", value.email.lower()))
        elif name == "parcels":
            found += (("tracking", parcel.tracking.lower()) for parcel in value if parcel.tracking)
        elif value is not None:
            found.append(("return" if name == "return_id" else "tracking", value.lower()))
    return found
