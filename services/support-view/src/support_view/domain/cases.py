"""Contacts, cases, escalations and causes of one order, or of a customer who named none: the state that facts give."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from hashlib import sha256
from typing import Final, Protocol

from shared.contracts.base import Fact
from shared.contracts.support import (
    CaseAssigned,
    CaseClosed,
    CaseFact,
    CaseLinked,
    CaseNoted,
    CaseOpened,
    CaseReopened,
    CaseResolved,
    CaseResumed,
    CaseWaiting,
    Channel,
    Clocks,
    ContactReceived,
    Direction,
    EscalationFact,
    RootCauseOverridden,
    RootCauseOverrideWithdrawn,
    RootCauseRefuted,
    RootCauseTagged,
)
from shared.core.machine import Machine, replace
from support_view.domain import causes, escalations
from support_view.domain.causes import Causes
from support_view.domain.escalations import Escalation
from support_view.domain.policies import RuleName


class CaseStatus(StrEnum):
    OPEN = "open"
    IN_PROGRESS = "in_progress"
    WAITING_CUSTOMER = "waiting_customer"
    WAITING_INTERNAL = "waiting_internal"
    RESOLVED = "resolved"
    CLOSED = "closed"


_WAITS: Final = {"customer": CaseStatus.WAITING_CUSTOMER, "internal": CaseStatus.WAITING_INTERNAL}

CASE: Final = Machine(
    "case",
    CaseStatus.OPEN,
    {
        CaseStatus.OPEN: {
            CaseAssigned: CaseStatus.IN_PROGRESS,
            CaseWaiting: frozenset(_WAITS.values()),
            CaseResolved: CaseStatus.RESOLVED,
        },
        CaseStatus.IN_PROGRESS: {
            CaseAssigned: CaseStatus.IN_PROGRESS,
            CaseWaiting: frozenset(_WAITS.values()),
            CaseResolved: CaseStatus.RESOLVED,
        },
        CaseStatus.WAITING_CUSTOMER: {
            CaseAssigned: CaseStatus.WAITING_CUSTOMER,
            CaseWaiting: frozenset({CaseStatus.WAITING_INTERNAL}),
            CaseResumed: CaseStatus.IN_PROGRESS,
            CaseResolved: CaseStatus.RESOLVED,
        },
        CaseStatus.WAITING_INTERNAL: {
            CaseAssigned: CaseStatus.WAITING_INTERNAL,
            CaseWaiting: frozenset({CaseStatus.WAITING_CUSTOMER}),
            CaseResumed: CaseStatus.IN_PROGRESS,
            CaseResolved: CaseStatus.RESOLVED,
        },
        CaseStatus.RESOLVED: {CaseReopened: CaseStatus.OPEN, CaseClosed: CaseStatus.CLOSED},
        CaseStatus.CLOSED: {},
    },
)


@dataclass(frozen=True, slots=True)
class Contact:
    at: datetime
    customer: str
    channel: Channel
    direction: Direction
    topic: str
    is_automated: bool
    words: str
    """A digest of what was said, to know it again."""
    duplicate_of: str | None
    case_id: str | None

    @property
    def counts(self) -> bool:
        """Somebody had to come to us: what repeat contacts are counted from."""
        return self.direction is Direction.INBOUND and not self.is_automated and self.duplicate_of is None


@dataclass(frozen=True, slots=True)
class Case:
    status: CaseStatus
    customer: str | None
    topic: str
    opened_at: datetime
    clocks: Clocks
    assignee: str | None = None
    reopened: int = 0
    reopened_at: datetime | None = None
    resolved_at: datetime | None = None
    closes_at: datetime | None = None
    linked_to: str | None = None

    @property
    def is_live(self) -> bool:
        return self.status not in (CaseStatus.RESOLVED, CaseStatus.CLOSED)


@dataclass(frozen=True, slots=True)
class Support:
    """`subject` is the order, `customer:<hash>`, or `stock:<sku>@<location>`."""

    subject: str = ""
    contacts: Mapping[str, Contact] = field(default_factory=dict)
    cases: Mapping[str, Case] = field(default_factory=dict)
    escalations: Mapping[str, Escalation] = field(default_factory=dict)
    causes: Causes = field(default_factory=Causes)


def words_of(text: str) -> str:
    """A digest by which the same words are known again, however they are spaced; "" for none."""
    said = " ".join(text.casefold().split())
    return sha256(said.encode()).hexdigest()[:16] if said else ""


def evolve(state: Support, fact: Fact) -> Support:
    """The state after one of its own facts. Raises NotAllowed where the machine does."""
    match fact:
        case ContactReceived():
            return _contacted(state, fact)
        case CaseOpened():
            opened = Case(CASE.initial, fact.customer, fact.topic, fact.opened_at, fact.clocks)
            return replace(state, cases={**state.cases, fact.case_id: opened})
        case EscalationFact():
            return replace(state, escalations=escalations.evolve(state.escalations, fact))
        case RootCauseTagged() | RootCauseRefuted() | RootCauseOverridden() | RootCauseOverrideWithdrawn():
            return replace(state, causes=causes.evolve(state.causes, fact))
        case CaseFact():
            after = _moved(state.cases[fact.case_id], fact)
            return replace(state, cases={**state.cases, fact.case_id: after})
        case _:
            raise TypeError(f"{fact.type} is not a fact of support")


def _contacted(state: Support, fact: ContactReceived) -> Support:
    assert fact.customer is not None
    contact = Contact(
        at=fact.received_at,
        customer=fact.customer,
        channel=fact.channel,
        direction=fact.direction,
        topic=fact.topic,
        is_automated=fact.is_automated,
        words=words_of(fact.text),
        duplicate_of=fact.duplicate_of,
        case_id=fact.case_id,
    )
    state = replace(state, contacts={**state.contacts, fact.contact_id: contact})
    if fact.clocks is None or fact.case_id is None:
        return state
    case = replace(state.cases[fact.case_id], clocks=fact.clocks)
    return replace(state, cases={**state.cases, fact.case_id: case})


def _moved(case: Case, fact: CaseFact) -> Case:
    match fact:
        case CaseNoted():
            return case
        case CaseLinked(to_case_id=other):
            return replace(case, linked_to=other)
        case CaseAssigned(assignee=assignee):
            return replace(case, status=CASE.step(case.status, fact), assignee=assignee)
        case CaseWaiting(waits_for=whom, clocks=clocks):
            return replace(case, status=CASE.step(case.status, fact, _WAITS[whom]), clocks=clocks)
        case CaseResumed(clocks=clocks):
            return replace(case, status=CASE.step(case.status, fact), clocks=clocks)
        case CaseResolved(resolved_at=at, closes_at=closes_at, clocks=clocks):
            status = CASE.step(case.status, fact)
            return replace(case, status=status, resolved_at=at, closes_at=closes_at, clocks=clocks)
        case CaseReopened(times=times, reopened_at=at, clocks=clocks):
            case = replace(case, status=CASE.step(case.status, fact), reopened=times, reopened_at=at, clocks=clocks)
            return replace(case, resolved_at=None, closes_at=None)
        case CaseClosed():
            return replace(case, status=CASE.step(case.status, fact), closes_at=None)
        case _:
            raise TypeError(f"{fact.type} does not change a case")


def last_word(state: Support, case_id: str) -> datetime | None:
    """When somebody last said something in a case."""
    return max((contact.at for contact in state.contacts.values() if contact.case_id == case_id), default=None)


def deadlines(state: Support) -> dict[str, datetime]:
    """When a resolved case closes for good, and when a clock of one runs out. One that did, and was told, is no more."""
    found = {f"close {id}": case.closes_at for id, case in state.cases.items() if case.closes_at is not None}
    told = {(escalation.rule, escalation.item) for escalation in state.escalations.values() if escalation.is_open}
    due = [at for id, case in state.cases.items() for rule, at in running_out(case) if (rule, id) not in told]
    due += [
        last_word(state, id) or case.reopened_at or case.opened_at
        for id, case in state.cases.items()
        if case.status is CaseStatus.WAITING_CUSTOMER and (RuleName.CASE_WAITING, id) not in told
    ]
    due += [
        case.closes_at
        for id, case in state.cases.items()
        if case.closes_at is not None and (RuleName.CASE_UNCLOSED, id) not in told
    ]
    return found | ({LOOK_HERE: min(due)} if due else {})


LOOK_HERE: Final = "look support"


class HasClocks(Protocol):
    @property
    def clocks(self) -> Clocks: ...


def running_out(case: HasClocks) -> list[tuple[RuleName, datetime]]:
    """The clocks that run, by the rule that watches each, and when they are over."""
    clocks = case.clocks
    watched = (
        (RuleName.FIRST_RESPONSE_LATE, clocks.first_response_due),
        (RuleName.NEXT_RESPONSE_LATE, clocks.next_response_due),
        (RuleName.RESOLUTION_LATE, clocks.resolve_due),
    )
    return [(rule, due) for rule, due in watched if due is not None]


def invariants(state: Support) -> list[str]:
    """Which promises the state breaks: always none."""
    broken = []
    for id, case in state.cases.items():
        if not case.is_live and (case.clocks.resolve_due or case.clocks.next_response_due):
            broken.append(f"case {id} is {case.status} and a clock runs")
        if case.linked_to is not None and state.cases[case.linked_to].status is not CaseStatus.CLOSED:
            broken.append(f"case {id} goes on with {case.linked_to}, which is not closed")
    live = [case.customer for case in state.cases.values() if case.status is not CaseStatus.CLOSED]
    broken += [f"customer {who} has two cases at once" for who in sorted({w or "" for w in live if live.count(w) > 1})]
    for id, contact in state.contacts.items():
        first = state.contacts.get(contact.duplicate_of or "")
        if contact.duplicate_of is not None and (first is None or first.duplicate_of is not None):
            broken.append(f"contact {id} is merged into {contact.duplicate_of}, which is no first contact")
    is_open = [(e.rule, e.item) for e in state.escalations.values() if e.is_open]
    broken += [
        f"{rule} is raised twice for {item}" for rule, item in sorted(set(is_open)) if is_open.count((rule, item)) > 1
    ]
    return broken + causes.invariants(state.causes)
