"""What support did, in words: who asked, who took it on, what needed somebody, and why things went wrong."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

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
    Clocks,
    ContactReceived,
    Direction,
    EscalationAcknowledged,
    EscalationAssigned,
    EscalationCleared,
    EscalationFact,
    EscalationRaised,
    RootCauseOverridden,
    RootCauseOverrideWithdrawn,
    RootCauseRefuted,
    RootCauseTag,
    RootCauseTagged,
)
from shared.core.machine import replace
from support_view.domain import causes
from support_view.domain.cases import CaseStatus
from support_view.domain.causes import Causes, override_id
from support_view.domain.signals import Signal
from support_view.domain.timeline import (
    Details,
    Entry,
    Mark,
    Quiet,
    Resolved,
    Sentences,
    plain,
    plural,
    put,
    undone,
)


@dataclass(frozen=True, slots=True)
class Contact:
    """`left_out` is why it is none that repeat contacts are counted from."""

    mark: Mark
    customer: str | None
    left_out: str | None = None


@dataclass(frozen=True, slots=True)
class Case:
    status: CaseStatus = CaseStatus.OPEN
    topic: str = ""
    assignee: str | None = None
    reopened: int = 0
    due_at: datetime | None = None
    """By when it is to be resolved; None while the customer is waited for."""
    customer: str | None = None
    clocks: Clocks = field(default_factory=Clocks)
    opened_at: datetime | None = None
    reopened_at: datetime | None = None
    closes_at: datetime | None = None
    spoken_at: datetime | None = None
    """When somebody last said something in it."""
    resolutions: tuple[Resolved, ...] = ()


@dataclass(frozen=True, slots=True)
class Escalation:
    rule: str = ""
    item: str = ""
    why: str = ""
    to_do: str = ""
    level: int = 0
    since: datetime | None = None
    assignee: str | None = None
    is_acknowledged: bool = False
    is_open: bool = True
    raised_at: datetime | None = None
    taken_at: datetime | None = None
    """When a person first took it up."""
    cleared_at: datetime | None = None
    is_switched_off: bool = False
    facts: tuple[int, ...] = ()
    """Sequences of all that was told of it."""


@dataclass(frozen=True, slots=True)
class Tagged:
    """When which rule said that something is a cause, and at which version."""

    mark: Mark
    rule: str
    version: int


@dataclass(frozen=True, slots=True)
class Word:
    """Who said otherwise than rules, and when."""

    mark: Mark
    actor: str


@dataclass(frozen=True, slots=True)
class Support:
    """What the page says of it. `words` are of `causes.overrides`, by their id."""

    contacts: int = 0
    contacted: Mapping[str, Contact] = field(default_factory=dict)
    cases: Mapping[str, Case] = field(default_factory=dict)
    escalations: Mapping[str, Escalation] = field(default_factory=dict)
    causes: Causes = field(default_factory=Causes)
    tagged: Mapping[RootCauseTag, tuple[Tagged, ...]] = field(default_factory=dict)
    words: Mapping[str, Word] = field(default_factory=dict)
    signs: tuple[Signal, ...] = ()


def fold(support: Support, entry: Entry) -> Support:
    """Total: any fact of the service, in any state, leads somewhere."""
    match entry.fact:
        case ContactReceived(contact_id=id) as fact:
            contact = Contact(Mark(entry.sequence, fact.received_at), fact.customer, _left_out(fact))
            counted = support.contacts + (contact.left_out is None)
            support = replace(support, contacts=counted, contacted=put(support.contacted, id, contact))
            if fact.case_id is None:
                return support
            case = support.cases.get(fact.case_id, Case())
            spoken_at = max(filter(None, (case.spoken_at, fact.received_at)))
            case = replace(case, clocks=fact.clocks or case.clocks, spoken_at=spoken_at)
            return replace(support, cases=put(support.cases, fact.case_id, case))
        case CaseFact(case_id=id) as fact:
            case = _case(support.cases.get(id, Case()), fact)
            case = replace(case, resolutions=_resolutions(case.resolutions, fact, entry.sequence))
            return replace(support, cases=put(support.cases, id, case))
        case EscalationFact(escalation_id=id) as fact:
            after = _escalation(support.escalations.get(id, Escalation()), fact, entry.occurred_at)
            after = replace(after, facts=(*after.facts, entry.sequence))
            return replace(support, escalations=put(support.escalations, id, after))
        case RootCauseTagged() | RootCauseRefuted() | RootCauseOverridden() | RootCauseOverrideWithdrawn() as fact:
            return replace(_said(support, fact, entry), causes=causes.evolve(support.causes, fact))
        case _:
            raise TypeError(f"{entry.fact.type} is no fact of support")


def _said(support: Support, fact: causes.CauseFact, entry: Entry) -> Support:
    mark = Mark(entry.sequence, entry.occurred_at)
    match fact:
        case RootCauseTagged(tag=tag):
            told = (*support.tagged.get(tag, ()), Tagged(mark, fact.rule, fact.policy.version))
            return replace(support, tagged=put(support.tagged, tag, told))
        case RootCauseOverridden():
            words = put(support.words, override_id(fact, support.causes), Word(mark, entry.actor))
            return replace(support, words=words)
        case _:
            return support


def _left_out(contact: ContactReceived) -> str | None:
    if contact.duplicate_of is not None:
        return "duplicate"
    if contact.is_automated:
        return "automated"
    return "outbound" if contact.direction is Direction.OUTBOUND else None


def _resolutions(resolutions: tuple[Resolved, ...], fact: CaseFact, sequence: int) -> tuple[Resolved, ...]:
    match fact:
        case CaseResolved(resolved_at=at):
            return (*resolutions, Resolved(Mark(sequence, at)))
        case CaseReopened():
            return undone(resolutions, sequence)
        case _:
            return resolutions


def _case(case: Case, fact: CaseFact) -> Case:
    match fact:
        case CaseOpened(topic=topic, clocks=clocks) as opened:
            case = replace(case, status=CaseStatus.OPEN, topic=topic, due_at=clocks.resolve_due, clocks=clocks)
            return replace(case, customer=opened.customer, opened_at=opened.opened_at)
        case CaseAssigned(assignee=assignee):
            status = CaseStatus.IN_PROGRESS if case.status is CaseStatus.OPEN else case.status
            return replace(case, status=status, assignee=assignee)
        case CaseWaiting(waits_for=whom, clocks=clocks):
            status = CaseStatus.WAITING_CUSTOMER if whom == "customer" else CaseStatus.WAITING_INTERNAL
            return replace(case, status=status, due_at=clocks.resolve_due, clocks=clocks)
        case CaseResumed(clocks=clocks):
            return replace(case, status=CaseStatus.IN_PROGRESS, due_at=clocks.resolve_due, clocks=clocks)
        case CaseResolved(closes_at=closes_at, clocks=clocks):
            return replace(case, status=CaseStatus.RESOLVED, due_at=None, closes_at=closes_at, clocks=clocks)
        case CaseReopened(times=times, clocks=clocks, reopened_at=reopened_at):
            case = replace(case, status=CaseStatus.OPEN, reopened=times, due_at=clocks.resolve_due, clocks=clocks)
            return replace(case, reopened_at=reopened_at, closes_at=None)
        case CaseClosed():
            return replace(case, status=CaseStatus.CLOSED, due_at=None, closes_at=None)
        case CaseNoted() | CaseLinked():
            return case
        case _:
            raise TypeError(f"{fact.type} is no fact of a case")


def _escalation(escalation: Escalation, fact: EscalationFact, at: datetime) -> Escalation:
    match fact:
        case EscalationRaised(rule=rule, item=item, why=why, to_do=to_do, level=level, since=since):
            escalation = replace(escalation, rule=rule, item=item, why=why, to_do=to_do, level=level, since=since)
            return replace(escalation, raised_at=escalation.raised_at or at)
        case EscalationCleared(is_switched_off=is_switched_off):
            return replace(escalation, is_open=False, is_switched_off=is_switched_off, cleared_at=at)
        case EscalationAcknowledged():
            return replace(escalation, is_acknowledged=True, taken_at=escalation.taken_at or at)
        case EscalationAssigned(assignee=assignee):
            return replace(escalation, assignee=assignee, taken_at=escalation.taken_at or at)
        case _:
            raise TypeError(f"{fact.type} is no fact of an escalation")


def _contact(f: ContactReceived) -> str:
    if f.duplicate_of is not None:
        return f"The customer said the same again ({f.channel})"
    who = "Customer contacted" if f.direction is Direction.OUTBOUND else "The customer got in touch"
    return f"{who} by {f.channel}: {plain(f.topic)}" + (", automatically" if f.is_automated else "")


def _overridden(f: RootCauseOverridden) -> str:
    if f.replaced_by is None:
        return f"Not a cause: {plain(f.tag or '')}"
    return f"Cause: {plain(f.replaced_by)}" + (f", not {plain(f.tag)}" if f.tag else "")


SENTENCES: Final[Sentences] = {
    ContactReceived: lambda f, w: _contact(f),
    CaseOpened: lambda f, w: f"Case {f.case_id} opened: {plain(f.topic)}",
    CaseLinked: lambda f, w: f"Case {f.case_id} goes on with {f.to_case_id}",
    CaseAssigned: lambda f, w: f"Case {f.case_id} taken on by {f.assignee}",
    CaseWaiting: lambda f, w: f"Case {f.case_id} waits for {'the customer' if f.waits_for == 'customer' else 'us'}",
    CaseResumed: lambda f, w: f"Case {f.case_id} goes on",
    CaseNoted: lambda f, w: f"Note on case {f.case_id}",
    CaseResolved: lambda f, w: f"Case {f.case_id} resolved",
    CaseReopened: lambda f, w: f"Case {f.case_id} reopened" + (f", {f.times} times by now" if f.times > 1 else ""),
    CaseClosed: lambda f, w: f"Case {f.case_id} closed",
    EscalationRaised: lambda f, w: f"Needs attention (level {f.level}): {f.why}",
    EscalationCleared: lambda f, w: "Needs attention no more",
    EscalationAcknowledged: lambda f, w: "Somebody is looking at what needed attention",
    EscalationAssigned: lambda f, w: f"What needs attention was given to {f.assignee}",
    RootCauseTagged: lambda f, w: f"Likely cause ({f.confidence_percent} %): {plain(f.tag)}",
    RootCauseRefuted: lambda f, w: f"Not a cause after all: {plain(f.tag)}",
    RootCauseOverridden: lambda f, w: _overridden(f),
    RootCauseOverrideWithdrawn: lambda f, w: (
        "What a person said of a cause was withdrawn: the rules' word counts again"
    ),
}

DETAILS: Final[Details] = {
    ContactReceived: lambda f, w: [f.text],
    CaseWaiting: lambda f, w: [f.detail],
    CaseResumed: lambda f, w: [f.detail],
    CaseNoted: lambda f, w: [f.note],
    CaseResolved: lambda f, w: [f.resolution],
    CaseReopened: lambda f, w: [f.detail],
    CaseClosed: lambda f, w: [f.detail],
    EscalationRaised: lambda f, w: [f.to_do],
    EscalationCleared: lambda f, w: [f.detail],
    EscalationAcknowledged: lambda f, w: [f.note],
    RootCauseTagged: lambda f, w: [
        f"rule {f.rule}, version {f.policy.version}, from {plural(len(f.evidence), 'fact')}",
        ", ".join(f.about),
    ],
    RootCauseRefuted: lambda f, w: [f.detail],
    RootCauseOverridden: lambda f, w: [f.detail],
    RootCauseOverrideWithdrawn: lambda f, w: [f.detail],
}

QUIET: Final[Quiet] = frozenset()
