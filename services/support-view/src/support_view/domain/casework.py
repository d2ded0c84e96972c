"""What may be done with contacts and cases, and what follows from it. Pure: times and ids come with the command."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, TypeAlias

from shared.contracts.base import Fact
from shared.contracts.support import (
    CaseAssigned,
    CaseClosed,
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
    EscalationAcknowledged,
    EscalationAssigned,
    EscalationCleared,
    RootCauseTag,
)
from shared.core.machine import Invalid, NotAllowed
from support_view.domain import causes
from support_view.domain.business import after, between
from support_view.domain.cases import CASE, Case, CaseStatus, Contact, Support, evolve, words_of
from support_view.domain.causes import EvidencedCause, OverrideCause, WithdrawOverride
from support_view.domain.escalations import UNTIL_SEEN, Escalation, EscalationStatus, Look, Obligation, about, settle
from support_view.domain.obligations import obligations, rules_of
from support_view.domain.policies import CasePolicy, Policies


@dataclass(frozen=True, slots=True)
class ReceiveContact:
    """`customer` is the keyed hash of who it was; `agent` who answered, where it is known."""

    contact_id: str
    at: datetime
    customer: str
    channel: Channel
    direction: Direction
    topic: str
    text: str = ""
    is_automated: bool = False
    duplicate_of: str | None = None
    agent: str | None = None


@dataclass(frozen=True, slots=True)
class AnswerCustomer:
    """An agent answered in a case; it is a contact like those that came in."""

    case_id: str
    contact_id: str
    at: datetime
    channel: Channel
    text: str
    agent: str


@dataclass(frozen=True, slots=True)
class AssignCase:
    case_id: str
    assignee: str


@dataclass(frozen=True, slots=True)
class WaitFor:
    case_id: str
    whom: str
    detail: str
    at: datetime


@dataclass(frozen=True, slots=True)
class ResumeCase:
    case_id: str
    detail: str
    at: datetime


@dataclass(frozen=True, slots=True)
class NoteOnCase:
    case_id: str
    note: str


@dataclass(frozen=True, slots=True)
class ResolveCase:
    case_id: str
    resolution: str
    at: datetime


@dataclass(frozen=True, slots=True)
class ReopenCase:
    case_id: str
    detail: str
    at: datetime


@dataclass(frozen=True, slots=True)
class CheckEscalations:
    """See what of this service is late, and who must look."""

    service: str


@dataclass(frozen=True, slots=True)
class FindCauses:
    """See what all services' facts show, and what causes that makes."""


@dataclass(frozen=True, slots=True)
class Acknowledge:
    escalation_id: str
    note: str


@dataclass(frozen=True, slots=True)
class AssignEscalation:
    escalation_id: str
    assignee: str


@dataclass(frozen=True, slots=True)
class CloseCase:
    """Its grace is over."""

    case_id: str


@dataclass(frozen=True, slots=True)
class AsAgent:
    """Asked by somebody who is no supervisor: what somebody else has taken on, they may add to and not move."""

    actor: str
    command: "Command"


Command: TypeAlias = (
    ReceiveContact
    | AnswerCustomer
    | AssignCase
    | WaitFor
    | ResumeCase
    | NoteOnCase
    | ResolveCase
    | ReopenCase
    | CloseCase
    | CheckEscalations
    | Acknowledge
    | AssignEscalation
    | FindCauses
    | OverrideCause
    | WithdrawOverride
    | AsAgent
)


@dataclass(frozen=True, slots=True)
class Around:
    """What decisions need beside the aggregate: the policies, and for each look at a service its obligations, and when."""

    policies: Policies
    now: datetime
    obligations: Mapping[tuple[str, str], tuple[Obligation, ...]] = field(default_factory=dict)
    """By subject and service."""
    causes: Mapping[str, Mapping[RootCauseTag, EvidencedCause]] = field(default_factory=dict)
    """By subject, for each that causes are to be found of."""


FIND_CAUSES: Final = "look causes"
"""The deadline by which causes are found."""

NOBODY_CAME: Final = "nobody came back to it"


def decide(state: Support, command: Command, around: Around) -> Sequence[Fact]:
    """Raises NotAllowed for what the status does not admit, and Invalid for what is not there."""
    match command:
        case CheckEscalations(service="support"):
            return _settled(state, around.now, around.policies)
        case CheckEscalations(service=service):
            seen = around.obligations[state.subject, service]
            return _looked(state, Look(rules_of(service), seen, around.now), around.policies)
        case Acknowledge() | AssignEscalation():
            return _attended(state, command)
        case FindCauses():
            found, policies = around.causes[state.subject], around.policies
            return causes.settle(state.subject, state.causes, found, policies.causes, policies.causes_ref)
        case OverrideCause() | WithdrawOverride():
            return causes.decide(state.subject, state.causes, command, around.policies.causes_ref)
        case AsAgent(actor=actor, command=asked):
            _be_ones_own(state, asked, actor)
            return decide(state, asked, around)
        case _:
            return _worked(state, command, around.policies)


def _be_ones_own(state: Support, command: Command, actor: str) -> None:
    """Raises NotAllowed for a move of what somebody else has."""
    thing: Case | Escalation | None
    match command:
        case (
            AssignCase(case_id=id)
            | WaitFor(case_id=id)
            | ResumeCase(case_id=id)
            | ResolveCase(case_id=id)
            | ReopenCase(case_id=id)
        ):
            thing = state.cases.get(id)
        case AssignEscalation(escalation_id=id):
            thing = state.escalations.get(id)
        case _:
            return
    if thing is not None and thing.assignee not in (None, actor):
        raise NotAllowed(
            thing.status, "this", detail=f"{id} is with {thing.assignee}: they or a supervisor may do that"
        )


def _looked(state: Support, look: Look, policies: Policies) -> list[Fact]:
    return settle(state.subject, state.escalations, look, policies.escalations, policies.escalations_ref)


def _settled(state: Support, at: datetime, policies: Policies) -> list[Fact]:
    """What follows for escalations from contacts and cases as they are."""
    seen = obligations("support", {"support": state}, policies.escalations)
    return _looked(state, Look(rules_of("support"), seen, at), policies)


def _attended(state: Support, command: Acknowledge | AssignEscalation) -> list[Fact]:
    escalation = state.escalations.get(command.escalation_id)
    if escalation is None:
        raise Invalid("escalation_id", f"{command.escalation_id} is not known")
    of = about(state.subject, escalation.customer) | {"escalation_id": command.escalation_id}
    match command:
        case AssignEscalation(assignee=assignee):
            return [] if escalation.assignee == assignee else [EscalationAssigned(**of, assignee=assignee)]
        case Acknowledge() if escalation.status is EscalationStatus.ACKNOWLEDGED:
            return []
        case Acknowledge(note=note):
            seen = [EscalationAcknowledged(**of, note=note)]
            is_over = escalation.rule in UNTIL_SEEN and escalation.is_open
            return [*seen, EscalationCleared(**of, detail="somebody has dealt with it")] if is_over else [*seen]


def _worked(state: Support, command: Command, policies: Policies) -> Sequence[Fact]:
    """Where a case has moved, what needs somebody may have changed too."""
    facts = [*_decided(state, command, policies)]
    at = getattr(command, "at", None)
    if facts and at is not None:
        for fact in facts:
            state = evolve(state, fact)
        facts += _settled(state, at, policies)
    return facts


def _decided(state: Support, command: Command, policies: Policies) -> Sequence[Fact]:
    match command:
        case ReceiveContact():
            return _contact(state, command, policies)
        case AnswerCustomer():
            case = _case(state, command.case_id)
            if not case.is_live:
                raise NotAllowed(case.status, "answering", CASE.allowed(case.status))
            assert case.customer is not None
            said = ReceiveContact(
                contact_id=command.contact_id,
                at=command.at,
                customer=case.customer,
                channel=command.channel,
                direction=Direction.OUTBOUND,
                topic=case.topic,
                text=command.text,
                agent=command.agent,
            )
            return _contact(state, said, policies)
        case _:
            return _case_work(state, command, policies)


def _case(state: Support, case_id: str) -> Case:
    case = state.cases.get(case_id)
    if case is None:
        raise Invalid("case_id", f"{case_id} is not known")
    return case


def _case_work(state: Support, command: Command, policies: Policies) -> Sequence[Fact]:
    assert not isinstance(
        command, ReceiveContact | AnswerCustomer | CheckEscalations | Acknowledge | AssignEscalation | AsAgent
    )
    assert not isinstance(command, FindCauses | OverrideCause | WithdrawOverride)
    case = _case(state, command.case_id)
    of = about(state.subject, case.customer) | {"case_id": command.case_id}
    policy = policies.cases
    match command:
        case AssignCase(assignee=assignee) if assignee == case.assignee and case.is_live:
            return [] if case.status is not CaseStatus.OPEN else [CaseAssigned(**of, assignee=assignee)]
        case AssignCase(assignee=assignee):
            return [CaseAssigned(**of, assignee=assignee)]
        case NoteOnCase(note=note):
            return [CaseNoted(**of, note=note)]
        case WaitFor(whom="customer", detail=detail, at=at):
            if case.status is CaseStatus.WAITING_CUSTOMER:
                return []
            clocks = stopped(case.clocks, policy, at)
            return [CaseWaiting(**of, waits_for="customer", detail=detail, clocks=clocks)]
        case WaitFor(detail=detail, at=at):
            if case.status is CaseStatus.WAITING_INTERNAL:
                return []
            return [CaseWaiting(**of, waits_for="internal", detail=detail, clocks=running(case.clocks, policy, at))]
        case ResumeCase(detail=detail, at=at):
            return [CaseResumed(**of, detail=detail, clocks=running(case.clocks, policy, at))]
        case ResolveCase(resolution=resolution, at=at):
            return [
                CaseResolved(
                    **of,
                    resolution=resolution,
                    resolved_at=at,
                    clocks=stopped(case.clocks, policy, at),
                    closes_at=at + policy.grace,
                    policy=policies.cases_ref,
                )
            ]
        case ReopenCase(at=at) if case.closes_at is not None and at > case.closes_at:
            raise NotAllowed(case.status, "reopening", detail="its grace is over: a new contact opens a linked case")
        case ReopenCase(detail=detail, at=at):
            return [_reopened(state, command.case_id, None, detail, at, policies)]
        case CloseCase():
            return [CaseClosed(**of, detail=NOBODY_CAME)]


def running(clocks: Clocks, policy: CasePolicy, at: datetime) -> Clocks:
    """The clock to resolve goes on with what is left of it."""
    if clocks.resolve_due is not None or clocks.resolve_left is None:
        return clocks
    due = after(policy.calendar, at, clocks.resolve_left)
    return clocks.model_copy(update={"resolve_due": due, "resolve_left": None})


def stopped(clocks: Clocks, policy: CasePolicy, at: datetime) -> Clocks:
    """Nobody here owes anything while the customer is waited for, or once it is resolved."""
    left = clocks.resolve_left
    if clocks.resolve_due is not None:
        left = between(policy.calendar, at, clocks.resolve_due)
    return Clocks(first_response_at=clocks.first_response_at, resolve_left=left)


def _started(policy: CasePolicy, at: datetime) -> Clocks:
    return Clocks(
        first_response_due=after(policy.calendar, at, policy.first_response),
        resolve_due=after(policy.calendar, at, policy.resolve),
    )


def _reopened(
    state: Support, case_id: str, contact_id: str | None, detail: str, at: datetime, policies: Policies
) -> CaseReopened:
    """The time to resolve begins anew: the first resolution was none."""
    case = state.cases[case_id]
    clocks = Clocks(
        first_response_at=case.clocks.first_response_at,
        resolve_due=after(policies.cases.calendar, at, policies.cases.resolve),
    )
    return CaseReopened(
        **about(state.subject, case.customer),
        case_id=case_id,
        contact_id=contact_id,
        detail=detail,
        times=case.reopened + 1,
        reopened_at=at,
        clocks=clocks,
        policy=policies.cases_ref,
    )


def _contact(state: Support, said: ReceiveContact, policies: Policies) -> list[Fact]:
    if (known := state.contacts.get(said.contact_id)) is not None:
        if (known.customer, known.at, known.words) != (said.customer, said.at, words_of(said.text)):
            raise Invalid("contact_id", "was used for another contact")
        return []
    of = about(state.subject, said.customer)
    duplicate_of = _earlier(state, said, policies.cases)
    facts: list[Fact] = []
    if duplicate_of is not None:
        case_id, clocks = state.contacts[duplicate_of].case_id, None
    elif said.is_automated:
        case_id, clocks = None, None
    else:
        facts, case_id = _case_for(state, said, policies)
        for fact in facts:
            state = evolve(state, fact)
        clocks = _clocks_after(state.cases[case_id], said, policies.cases) if case_id is not None else None
    facts.append(
        ContactReceived(
            **of,
            contact_id=said.contact_id,
            received_at=said.at,
            channel=said.channel,
            direction=said.direction,
            topic=said.topic,
            is_automated=said.is_automated,
            text=said.text,
            duplicate_of=duplicate_of,
            case_id=case_id,
            clocks=clocks,
            policy=policies.cases_ref,
        )
    )
    if clocks is not None and case_id is not None:
        facts += _moved_by(state.cases[case_id], said, clocks, policies.cases, of | {"case_id": case_id})
    return facts


def _earlier(state: Support, said: ReceiveContact, policy: CasePolicy) -> str | None:
    """The contact that this one repeats: the one named, or the same words by the same way within a moment."""
    if said.duplicate_of is not None:
        first = state.contacts.get(said.duplicate_of)
        if first is None or first.customer != said.customer:
            raise Invalid("duplicate_of", f"{said.duplicate_of} is no contact of this customer here")
        return first.duplicate_of or said.duplicate_of
    words = words_of(said.text)

    def is_same(contact: Contact) -> bool:
        return (
            contact.duplicate_of is None
            and (contact.customer, contact.channel, contact.direction, contact.topic, contact.words)
            == (said.customer, said.channel, said.direction, said.topic, words)
            and abs(said.at - contact.at) <= policy.merge_within
        )

    return next((id for id, contact in state.contacts.items() if is_same(contact)), None)


def _case_for(state: Support, said: ReceiveContact, policies: Policies) -> tuple[list[Fact], str | None]:
    """The customer's case, reopened where it was resolved; a new one after that was closed, linked to it. Nothing that
    we say opens one."""
    mine = [(id, case) for id, case in state.cases.items() if case.customer == said.customer]
    id, case = mine[-1] if mine else (None, None)
    is_inbound = said.direction is Direction.INBOUND
    if case is not None and id is not None and case.is_live:
        return [], id
    if not is_inbound:
        return [], None
    closed: list[Fact] = []
    if case is not None and id is not None and case.closes_at is not None:
        if said.at <= case.closes_at:
            return [_reopened(state, id, said.contact_id, "the customer came back to it", said.at, policies)], id
        closed = [CaseClosed(**about(state.subject, said.customer), case_id=id, detail=NOBODY_CAME)]
    of = about(state.subject, said.customer) | {"case_id": f"{state.subject}-C{len(state.cases) + 1}"}
    clocks = _started(policies.cases, said.at)
    opened = CaseOpened(
        **of, topic=said.topic, opened_at=said.at, contact_id=said.contact_id, clocks=clocks, policy=policies.cases_ref
    )
    return [*closed, opened, *([CaseLinked(**of, to_case_id=id)] if id is not None else ())], opened.case_id


def _clocks_after(case: Case, said: ReceiveContact, policy: CasePolicy) -> Clocks:
    clocks = case.clocks
    if said.direction is Direction.OUTBOUND:
        first = clocks.first_response_at or said.at
        answered = {"first_response_due": None, "first_response_at": first, "next_response_due": None}
        return clocks.model_copy(update=answered)
    name, time = "first_response_due", policy.first_response
    if clocks.first_response_at is not None:
        name, time = "next_response_due", policy.next_response
    if getattr(clocks, name) is None:
        clocks = clocks.model_copy(update={name: after(policy.calendar, said.at, time)})
    return running(clocks, policy, said.at)


def _moved_by(case: Case, said: ReceiveContact, clocks: Clocks, policy: CasePolicy, of: dict[str, Any]) -> list[Fact]:
    """Who answers has taken it on; a customer who writes is not waited for any more."""
    if said.direction is Direction.OUTBOUND:
        taken = case.status is CaseStatus.OPEN and said.agent is not None
        return [CaseAssigned(**of, assignee=said.agent)] if taken else []
    if case.status is CaseStatus.WAITING_CUSTOMER:
        return [CaseResumed(**of, detail="the customer wrote", clocks=running(clocks, policy, said.at))]
    return []


def due_command(key: str, name: str, due: datetime) -> Command:
    """What a deadline of this state means."""
    what, _, which = name.partition(" ")
    if name == FIND_CAUSES:
        return FindCauses()
    return CheckEscalations(which) if what == "look" else CloseCase(which)
