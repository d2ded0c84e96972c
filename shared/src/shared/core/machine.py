"""State machines are tables. Code steps by the table, tests hold it to its rules, pictures are drawn from it."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from functools import cache, wraps
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

from shared.contracts.base import Fact

S = TypeVar("S", bound=StrEnum)

if TYPE_CHECKING:
    from dataclasses import replace as replace  # so that the fields given are checked
else:

    def replace(state, /, **changes):
        """`dataclasses.replace` for a frozen slotted state without `__post_init__`. A fold does little else, and states
        are wide: the standard one costs many times as much, since it names every field to `__init__` again."""
        kind = type(state)
        after = _copier(kind)(state)
        for name, value in changes.items():
            setattr(after, name, value)
        after.__class__ = kind
        return after


@cache
def _copier(kind: type[Any]) -> Callable[[Any], Any]:
    """Copies field by field into an object that is laid out the same and not frozen yet, in code made once a class, as
    dataclasses make `__init__`."""
    thawed = type(kind.__name__, kind.__bases__, {"__slots__": kind.__slots__, "__setattr__": object.__setattr__})
    code = ["def copy(before):", "    after = new(thawed)"]
    code += [f"    after.{field.name} = before.{field.name}" for field in fields(kind)]
    scope: dict[str, Any] = {"new": object.__new__, "thawed": thawed}
    exec("\n".join([*code, "    return after"]), scope)  # noqa: S102  # nothing in it comes from outside
    copy: Callable[[Any], Any] = scope["copy"]
    return copy


E = TypeVar("E", bound=Callable[[Any, Any], Any])

KNOWN: Final = 32


def remembering_last_fold(evolve: E) -> E:
    """Wrap a fold so that it remembers its last answers: a decision folds its own facts to see what follows from them, and
    the shell folds them again."""
    known: dict[int, tuple[object, object, object]] = {}

    @wraps(evolve)
    def evolved(state: object, fact: object) -> object:
        before, told, after = known.get(id(fact), (None, None, None))
        if told is fact and before is state:
            return after
        after = evolve(state, fact)
        if len(known) >= KNOWN:
            known.clear()
        known[id(fact)] = (state, fact, after)
        return after

    return cast(E, evolved)


Transitions = Mapping[S, Mapping[type[Fact], S | frozenset[S]]]
"""From a status, by a fact, to a status; to one of several where the fact's own content picks."""


CAPITAL: Final = re.compile(r"(?<=[a-z])(?=[A-Z])")


class NotAllowed(Exception):
    """It is raised where the command does not fit the state. It is answered 409, or parked; no state was changed. `command`
    is a verb, or the name of the command's class, which is said in words."""

    def __init__(self, status: str, command: str, allowed: tuple[str, ...] = (), detail: str = "") -> None:
        self.status = status
        self.command = CAPITAL.sub(" ", command).lower()
        self.allowed = allowed
        self.detail = detail or f"{self.command} is not allowed while {status.replace('_', ' ')}"
        super().__init__(self.detail)


class Invalid(Exception):
    """It is raised where the command contradicts what is known; it names the field and the rule. It is answered 422, or
    parked."""

    def __init__(self, field: str, rule: str) -> None:
        self.field = field
        self.rule = rule
        super().__init__(f"{field}: {rule}")


@dataclass(frozen=True, slots=True)
class Machine(Generic[S]):
    """A machine is a named transition table. Every status has a row, terminal ones an empty one; `initial` is entered by
    creation."""

    name: str
    initial: S
    transitions: Transitions[S]

    def step(self, status: S, fact: Fact, to: S | None = None) -> S:
        """Return the status after `fact`; `to` picks where the table leaves a choice. Raises NotAllowed when it is not
        listed."""
        target = self.transitions[status].get(type(fact))
        if target is None:
            raise NotAllowed(status, fact.type, self.allowed(status))
        if isinstance(target, frozenset):
            if to not in target:
                raise NotAllowed(status, f"{fact.type} to {to}", self.allowed(status))
            return to
        if to is not None and to != target:
            raise NotAllowed(status, f"{fact.type} to {to}", self.allowed(status))
        return target

    def admits(self, status: S, fact: type[Fact]) -> bool:
        return fact in self.transitions[status]

    def allowed(self, status: S) -> tuple[str, ...]:
        """Return what may follow, as fact types."""
        return tuple(fact.type for fact in self.transitions[status])

    def is_terminal(self, status: S) -> bool:
        return not self.transitions[status]

    def edges(self) -> Iterator[tuple[S, type[Fact], S]]:
        for source, row in self.transitions.items():
            for fact, target in row.items():
                for one in sorted(target) if isinstance(target, frozenset) else [target]:
                    yield source, fact, one

    def broken_laws(self) -> list[str]:
        """Return what is wrong with the table: nothing when every status has a row, is reachable, and the initial one is
        among them."""
        statuses = set(type(self.initial))
        broken = [f"{status} has no row" for status in sorted(statuses - set(self.transitions))]
        reached, frontier = {self.initial}, [self.initial]
        following: dict[S, set[S]] = {}
        for source, _, target in self.edges():
            following.setdefault(source, set()).add(target)
        while frontier:
            for target in following.get(frontier.pop(), set()) - reached:
                reached.add(target)
                frontier.append(target)
        return broken + [f"{status} is unreachable" for status in sorted(statuses - reached)]

    def mermaid(self) -> str:
        """Draw a state diagram of the table."""
        lines = ["stateDiagram-v2", f"    [*] --> {self.initial}"]
        labels: dict[tuple[S, S], list[str]] = {}
        for source, fact, target in self.edges():
            labels.setdefault((source, target), []).append(fact.type)
        lines += [f"    {source} --> {target}: {'<br/>'.join(facts)}" for (source, target), facts in labels.items()]
        lines += [f"    {status} --> [*]" for status in self.transitions if self.is_terminal(status)]
        return "\n".join(lines)
