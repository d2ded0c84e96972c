"""HTTP in, for support's own work: contacts that come in, by people and by the CRM's signed webhook, and cases."""

import hmac
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from hashlib import sha256
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, HTTPException, Path, Query, Request, Response
from pydantic import AwareDatetime, EmailStr, Field, model_validator
from uuid_utils.compat import uuid7

from shared.contracts.base import FACTS, Fact, Id, Input, Model, Observation, Text, Written
from shared.contracts.support import (
    CUSTOMER,
    CaseClosed,
    CaseNoted,
    CaseReopened,
    CaseResolved,
    CaseResumed,
    CaseWaiting,
    Channel,
    Clocks,
    ContactReceived,
    Direction,
    RootCauseOverridden,
    RootCauseTag,
)
from shared.core.machine import Invalid
from shared.messaging.shell import Db, Message
from shared.web.auth import Caller, Role
from shared.web.callers import needs
from shared.web.commands import CommandRequest, Commands, OccurredAt, asks, business_time
from shared.web.webhooks import SignedBody, read_signed, signed, webhook_cause
from support_view import casebook, store
from support_view.api import READERS, NotSeen, OrderId, snapshot
from support_view.domain.cases import CASE, CaseStatus, Support
from support_view.domain.casework import (
    Acknowledge,
    AnswerCustomer,
    AsAgent,
    AssignCase,
    AssignEscalation,
    Command,
    NoteOnCase,
    ReceiveContact,
    ReopenCase,
    ResolveCase,
    ResumeCase,
    WaitFor,
)
from support_view.domain.causes import OverrideCause, WithdrawOverride
from support_view.domain.escalations import EscalationStatus, order_of, shelf_of
from support_view.domain.policies import (
    CASES,
    CAUSES,
    ESCALATIONS,
    CasePolicy,
    CausePolicy,
    EscalationPolicy,
    RuleName,
)
from support_view.domain.support import DETAILS, SENTENCES
from support_view.domain.timeline import Words
from support_view.settings import SupportViewSettings

router = APIRouter(tags=["casework"])

WORKERS: Final = (Role.AGENT, Role.SUPERVISOR)
Worker = Annotated[CommandRequest, asks(*WORKERS)]
Reader = Annotated[Caller, needs(*READERS)]
CaseId = Annotated[Id, Path(description="the case")]
Reason = Annotated[Text, Field(min_length=1, pattern=r"\S")]
GENERAL: Final = "general"


class Identity(Observation):
    """Who it was, by one of these."""

    customer_id: Id | None = None
    email: EmailStr | None = None
    phone: (
        Annotated[str, Field(pattern=r"^\+[1-9][0-9]{5,14}$", description="with its country: +4930123456")] | None
    ) = None

    @model_validator(mode="after")
    def _is_one(self) -> "Identity":
        if sum(known is not None for known in (self.customer_id, self.email, self.phone)) != 1:
            raise ValueError("must have exactly one of customer_id, email, phone")
        return self


class ContactIn(Observation):
    """About an order where one is named. A contact id that was seen before is the same contact again."""

    customer: Identity
    order_id: Annotated[OrderId, Field(max_length=40)] | None = None
    topic: Id = Field(default=GENERAL, description="what it is about, as a code: `where_is_it`")
    channel: Channel
    direction: Direction = Direction.INBOUND
    is_automated: bool = Field(default=False, description="no person wrote it: an out-of-office reply, a survey")
    text: Written = ""
    contact_id: Id | None = Field(default=None, description="the sender's own id of it; else one is made")
    duplicate_of: Id | None = Field(
        default=None, description="an earlier contact of this customer that this one repeats"
    )
    occurred_at: OccurredAt


class CrmContact(ContactIn):
    """What the CRM sends: it has ids and times of its own."""

    contact_id: Id
    occurred_at: AwareDatetime


class ContactOut(Model):
    contact_id: str
    duplicate_of: str | None
    case_id: str | None = Field(description="the case it is part of; None for what needs none")
    case_status: CaseStatus | None


class AnswerIn(Input):
    channel: Channel
    text: Reason
    occurred_at: OccurredAt


class AssignIn(Input):
    assignee: str = Field(
        max_length=200,
        pattern=r"^(agent|supervisor):[^\x00-\x1f\x7f]+$",
        description="who takes it on, as tokens name them: `agent:ann`",
    )


class WaitIn(Input):
    waits_for: Literal["customer", "internal"]
    reason: Reason
    occurred_at: OccurredAt


class ReasonIn(Input):
    reason: Reason
    occurred_at: OccurredAt


class NoteIn(Input):
    note: Reason


class ResolveIn(Input):
    resolution: Reason
    occurred_at: OccurredAt


class CaseOut(Model):
    """A case and who owes what by when; `allowed`: fact types that may follow."""

    case_id: str
    subject: str = Field(description="the order, or `customer:<hash>`")
    order_id: str | None
    customer: str = Field(description="keyed hash of the customer's identity")
    status: CaseStatus
    topic: str
    assignee: str | None
    opened_at: datetime
    first_response_due: datetime | None
    next_response_due: datetime | None
    resolve_due: datetime | None
    closes_at: datetime | None = Field(description="until then a contact reopens it")
    reopened: int
    linked_to: str | None = Field(description="the closed case that it goes on with")
    allowed: tuple[str, ...]


class CaseEntry(Model):
    """A fact of a case, in words; `text` is what was said, literally."""

    id: str
    type: str
    title: str
    details: tuple[str, ...]
    occurred_at: datetime
    actor: str


class CaseStory(CaseOut):
    entries: tuple[CaseEntry, ...] = Field(description="newest first, 200 at most")


class Cases(Model):
    """Oldest first. `next` continues them, None at their end."""

    cases: tuple[CaseOut, ...]
    next: str | None


def settings_of(request: Request) -> SupportViewSettings:
    settings = request.app.state.settings
    assert isinstance(settings, SupportViewSettings)
    return settings


async def hashed(request: Request, who: Identity) -> str:
    """A keyed hash: one customer is one, whether by e-mail address or customer id, once an order of theirs was seen."""
    kind, value = next((kind, value) for kind, value in who if value is not None)
    if kind == "email":
        value = value.lower()
        known = await casebook.customer_of(request.app.state.pool, value)
        kind, value = ("email", value) if known is None else ("customer_id", known)
    key = settings_of(request).identity_key.get_secret_value().encode()
    return hmac.new(key, f"{kind}:{value}".encode(), sha256).hexdigest()[:24]


async def read_contact(request: Request, body: ContactIn, agent: str | None) -> tuple[str, ReceiveContact]:
    """Subject and command. Raises Invalid for an id that another order's contact has."""
    at = business_time(body.occurred_at)
    customer = await hashed(request, body.customer)
    subject = body.order_id or f"{CUSTOMER}:{customer}"
    contact_id = body.contact_id or f"contact-{uuid7()}"
    if body.contact_id is not None:
        known = await casebook.subject_of(request.app.state.pool, casebook.SUBJECT_OF_CONTACT, contact_id)
        if known not in (None, subject):
            raise Invalid("contact_id", "was used for another contact")
    return subject, ReceiveContact(
        contact_id=contact_id,
        at=at,
        customer=customer,
        channel=body.channel,
        direction=body.direction,
        topic=body.topic,
        text=body.text,
        is_automated=body.is_automated,
        duplicate_of=body.duplicate_of,
        agent=agent,
    )


def _contact_out(state: Support, contact_id: str) -> ContactOut:
    contact = state.contacts[contact_id]
    case = state.cases[contact.case_id] if contact.case_id is not None else None
    return ContactOut(
        contact_id=contact_id,
        duplicate_of=contact.duplicate_of,
        case_id=contact.case_id,
        case_status=case and case.status,
    )


@router.post("/api/contacts", status_code=201, response_model=ContactOut)
async def contact(body: ContactIn, asking: Worker, request: Request) -> Response:
    """Record a contact. It belongs to the customer's case: the live one, or one that is opened, reopened or linked."""
    subject, command = await read_contact(request, body, asking.actor)

    def answer(state: Support, _: Sequence[Fact]) -> tuple[int, Model]:
        return 201, _contact_out(state, command.contact_id)

    return await asking.tell(
        casebook.flow_of(subject), subject, command, answer, reason=f"contact by {body.channel}", at=command.at
    )


class Taken(Model):
    contact_id: str


@router.post("/webhooks/crm", status_code=202, tags=["webhooks"])
async def crm(
    request: Request,
    body: Annotated[SignedBody, signed(lambda settings: settings.crm_webhook_secret.get_secret_value())],
    commands: Commands,
) -> Taken:
    """A contact from the CRM, signed; one id has one effect."""
    told = read_signed(CrmContact, body)
    subject, command = await read_contact(request, told, None)
    cause = webhook_cause("crm", body.id, command.at, f"contact by {told.channel}")
    commanded: Message[Command] = Message(subject, command, cause)
    [refusal] = await commands.process(casebook.flow_of(subject), [commanded])
    if refusal is not None:
        raise refusal
    return Taken(contact_id=command.contact_id)


def case_of(row: Any) -> CaseOut:
    subject = row["subject"]
    return CaseOut(
        order_id=order_of(subject),
        allowed=CASE.allowed(CaseStatus(row["status"])),
        **dict(row),
    )


def entry_of(row: Any) -> CaseEntry:
    fact = FACTS[row["type"]].model_validate_json(row["data"])
    told = DETAILS.get(type(fact))
    return CaseEntry(
        id=str(row["id"]),
        type=row["type"],
        title=SENTENCES[type(fact)](fact, Words()),
        details=tuple(line for line in told(fact, Words()) if line) if told else (),
        occurred_at=row["occurred_at"],
        actor=row["actor"],
    )


def place_of(text: str | None, name: str) -> tuple[datetime, str]:
    """A place in a list ordered by time and id, as its page's `next` says it. Raises Invalid."""
    if text is None:
        return datetime.fromtimestamp(0, timezone.utc), ""
    at, _, id = text.partition(" ")
    try:
        if not id.isprintable():
            raise ValueError(id)
        return datetime.fromisoformat(at).astimezone(timezone.utc), id
    except (ValueError, OverflowError):
        raise Invalid(name, "must be `next` of the page before") from None


After = Annotated[str | None, Query(max_length=120, description="`next` of the page before")]
Limit = Annotated[int, Query(ge=1, le=500)]


async def read_cases(db: Db, wanted: casebook.Wanted, after: str | None, limit: int) -> Cases:
    """Raises Invalid where `after` is no place in them."""
    rows = await casebook.cases(db, place_of(after, "after"), wanted, limit + 1)
    shown = rows[:limit]
    following = f"{shown[-1]['opened_at'].isoformat()} {shown[-1]['case_id']}" if len(rows) > limit else None
    return Cases(cases=tuple(case_of(row) for row in shown), next=following)


@router.get("/api/cases")
async def cases(
    request: Request,
    _: Reader,
    status: CaseStatus | None = None,
    assignee: Annotated[str | None, Query(max_length=200)] = None,
    subject: Annotated[str | None, Query(max_length=64, description="of this order, or `customer:<hash>`")] = None,
    unassigned: Annotated[bool, Query(description="only those that nobody has taken on")] = False,
    live: Annotated[bool, Query(description="only those that are not resolved or closed")] = False,
    after: After = None,
    limit: Limit = 50,
) -> Cases:
    """Cases by age, oldest first."""
    wanted = casebook.Wanted(status, assignee, subject, unassigned, live)
    async with snapshot(request) as db:
        return await read_cases(db, wanted, after, limit)


async def read_case(db: Db, case_id: str) -> CaseStory:
    """Raises HTTPException 404."""
    row = await casebook.case(db, case_id)
    if row is None:
        raise _unknown(case_id)
    said = await casebook.said(db, row["subject"], case_id, 200)
    return CaseStory(**dict(case_of(row)), entries=tuple(entry_of(one) for one in said))


@router.get("/api/cases/{case_id}")
async def case(request: Request, case_id: CaseId, _: Reader) -> CaseStory:
    """A case with its contacts, notes and steps."""
    async with snapshot(request) as db:
        return await read_case(db, case_id)


class EscalationOut(Model):
    """Who, why, since when, what to do."""

    escalation_id: str
    subject: str = Field(description="the order, `customer:<hash>`, or `stock:<sku>@<location>`")
    order_id: str | None
    shelf: str | None = Field(description="`<sku>@<location>`, where it is of a shelf and no order")
    customer: str | None = Field(description="keyed hash of the customer's identity, where a contact began it")
    rule: RuleName
    item: str = Field(
        description="what it is about within the subject: a refund, a return, a shipment, a case, a receipt"
    )
    why: str
    to_do: str
    since: datetime = Field(description="when what it rests on began")
    due_at: datetime = Field(description="when the patience of its rule was over")
    raised_at: datetime
    cleared_at: datetime | None
    level: int
    episode: int = Field(description="the how-manieth time for this rule and item")
    status: EscalationStatus
    assignee: str | None


class Queue(Model):
    """Open escalations, highest level first, then oldest. `next` continues them, None at their end."""

    escalations: tuple[EscalationOut, ...]
    next: str | None


def escalation_of(row: Any) -> EscalationOut:
    subject = row["subject"]
    about = {"order_id": order_of(subject), "shelf": shelf_of(subject)}
    return EscalationOut(**about, **{name: value for name, value in row.items() if name != "service"})


async def read_queue(db: Db, after: str | None, assignee: str | None, limit: int) -> Queue:
    """Raises Invalid where `after` is no place in it."""
    level, _, place = (after or "4 ").partition(" ")
    if not level.isdigit() or len(level) > 1:
        raise Invalid("after", "must be `next` of the page before")
    rows = await casebook.queue(db, (-int(level), *place_of(place or None, "after")), assignee, limit + 1)
    shown = rows[:limit]
    last = shown[-1] if len(rows) > limit else None
    following = f"{last['level']} {last['raised_at'].isoformat()} {last['escalation_id']}" if last is not None else None
    return Queue(escalations=tuple(escalation_of(row) for row in shown), next=following)


@router.get("/api/queue")
async def queue(
    request: Request,
    _: Reader,
    assignee: Annotated[str | None, Query(max_length=200)] = None,
    after: After = None,
    limit: Limit = 50,
) -> Queue:
    """Who needs attention now, why, since when, and what to do."""
    async with snapshot(request) as db:
        return await read_queue(db, after, assignee, limit)


EscalationId = Annotated[Id, Path(description="the escalation")]


@router.get("/api/escalations/{escalation_id}")
async def escalation(request: Request, escalation_id: EscalationId, _: Reader) -> EscalationOut:
    """One of them, also when it is over."""
    async with snapshot(request) as db:
        row = await db.fetchrow(casebook.ESCALATION, escalation_id)
    if row is None:
        raise HTTPException(404, f"there is no escalation {escalation_id}")
    return escalation_of(row)


SAYING: Final = tuple(
    fact.type for fact in (ContactReceived, CaseNoted, CaseWaiting, CaseResumed, CaseResolved, CaseReopened, CaseClosed)
)


@dataclass(frozen=True, slots=True)
class Work:
    """What support has with an order. `said` is what people said, by case, newest first; under None of no case."""

    escalations: Sequence[EscalationOut]
    cases: Sequence[CaseOut]
    said: Mapping[str | None, Sequence[CaseEntry]]


async def read_work(db: Db, order_id: str) -> Work:
    """The newest hundred of each."""
    escalations, cases, facts = await casebook.work_on(db, order_id, SAYING, 100)
    said = defaultdict(list)
    for row in facts:
        said[row["case_id"]].append(entry_of(row))
    return Work([escalation_of(row) for row in escalations], [case_of(row) for row in cases], said)


class AcknowledgeIn(Input):
    note: Text = ""


class EscalationStep(Model):
    escalation_id: str
    status: EscalationStatus
    assignee: str | None


async def _attend(asking: CommandRequest, escalation_id: str, command: Command, reason: str) -> Response:
    subject = await casebook.subject_of(asking.commands.pool, casebook.SUBJECT_OF_ESCALATION, escalation_id)
    if subject is None:
        raise HTTPException(404, f"there is no escalation {escalation_id}")

    def answer(state: Support, _: Sequence[Fact]) -> tuple[int, Model]:
        after = state.escalations[escalation_id]
        return 200, EscalationStep(escalation_id=escalation_id, status=after.status, assignee=after.assignee)

    if not _directs(asking):
        command = AsAgent(asking.actor, command)
    return await asking.tell(casebook.flow_of(subject), subject, command, answer, reason=reason)


@router.post("/api/escalations/{escalation_id}/acknowledge", response_model=EscalationStep)
async def acknowledge(escalation_id: EscalationId, body: AcknowledgeIn, asking: Worker) -> Response:
    """Somebody is looking. It stays in the queue until what it is about is over; what a person only has to look at, such as
    a report that contradicts the plan, is over with this."""
    return await _attend(asking, escalation_id, Acknowledge(escalation_id, body.note), body.note or "acknowledged")


@router.post("/api/escalations/{escalation_id}/assign", response_model=EscalationStep)
async def assign_escalation(escalation_id: EscalationId, body: AssignIn, asking: Worker) -> Response:
    """Agents take on what nobody has; a supervisor gives escalations to others."""
    _may_assign(asking, body.assignee)
    command = AssignEscalation(escalation_id, body.assignee)
    return await _attend(asking, escalation_id, command, f"given to {body.assignee}")


def _directs(asking: CommandRequest) -> bool:
    return Role.SUPERVISOR in asking.caller.roles


def _may_assign(asking: CommandRequest, assignee: str) -> None:
    if not _directs(asking) and assignee != asking.actor:
        raise HTTPException(403, "needs the role supervisor to give it to somebody else")


class OverrideIn(Input):
    """`tag` is no cause of the order; `replaced_by` is one. At least one of them."""

    tag: RootCauseTag | None = Field(default=None, description="a cause that stands; none where rules missed one")
    replaced_by: RootCauseTag | None = Field(default=None, description="a cause that does not stand yet")
    reason: Reason


class WithdrawIn(Input):
    reason: Reason


class CausesStep(Model):
    order_id: str
    causes: tuple[RootCauseTag, ...] = Field(description="those that stand now")
    override_id: str | None = Field(description="of what was said now; by it, it can be withdrawn")


async def _on_causes(
    asking: CommandRequest, order_id: str, command: OverrideCause | WithdrawOverride, reason: str
) -> Response:
    if not await store.facts_seen(asking.commands.pool, order_id):
        raise NotSeen(order_id)

    def answer(state: Support, facts: Sequence[Fact]) -> tuple[int, Model]:
        said = next((fact.override_id for fact in facts if isinstance(fact, RootCauseOverridden)), None)
        return 200, CausesStep(order_id=order_id, causes=tuple(state.causes.standing), override_id=said)

    return await asking.tell(casebook.ORDERS, order_id, command, answer, reason=reason)


@router.post("/api/orders/{order_id}/causes/override", response_model=CausesStep, tags=["causes"])
async def override_cause(order_id: OrderId, body: OverrideIn, asking: Worker) -> Response:
    """Say that a cause is none, is another, or was missed. It goes before what rules find, until it is withdrawn."""
    return await _on_causes(asking, order_id, OverrideCause(body.tag, body.replaced_by, body.reason), body.reason)


@router.post(
    "/api/orders/{order_id}/causes/overrides/{override_id}/withdraw", response_model=CausesStep, tags=["causes"]
)
async def withdraw_override(
    order_id: OrderId,
    override_id: Annotated[Id, Path(description="as the order's causes name it")],
    body: WithdrawIn,
    asking: Worker,
) -> Response:
    """The rules' word counts again."""
    return await _on_causes(asking, order_id, WithdrawOverride(override_id, body.reason), body.reason)


class PolicyOut(Model):
    policy_id: str
    version: int
    effective_from: datetime
    document: dict[str, Any]
    published_by: str
    reason: str


class CasesIn(Input):
    reason: Reason
    policy: CasePolicy


class EscalationsIn(Input):
    reason: Reason
    policy: EscalationPolicy


class CausesIn(Input):
    reason: Reason
    policy: CausePolicy


class Published(Model):
    policy_id: str
    version: int


Supervisor = Annotated[Caller, needs(Role.SUPERVISOR)]


@router.get("/api/support-policies", tags=["policies"])
async def policies(request: Request, _: Reader) -> list[PolicyOut]:
    """Every version of what support goes by; of each policy, the newest one that is effective is in force."""
    async with snapshot(request) as db:
        rows = await db.fetch(casebook.POLICIES)
    return [PolicyOut(**{**row, "document": json.loads(row["document"])}) for row in rows]


async def _published(request: Request, policy_id: str, policy: Input, who: Caller, reason: str) -> Published:
    async with request.app.state.pool.acquire(timeout=5) as db, db.transaction():
        version = await casebook.publish(db, policy_id, policy.model_dump_json(), who.actor, reason)
    return Published(policy_id=policy_id, version=version)


@router.post("/api/support-policies/cases", tags=["policies"], status_code=201)
async def publish_cases(request: Request, body: CasesIn, who: Supervisor) -> Published:
    """The next version of how long cases may take, in force at once. Clocks that run go on as they were set."""
    return await _published(request, CASES, body.policy, who, body.reason)


@router.post("/api/support-policies/escalations", tags=["policies"], status_code=201)
async def publish_escalations(request: Request, body: EscalationsIn, who: Supervisor) -> Published:
    """The next version of when somebody must look, in force at once. A rule that is switched off clears what it raised;
    one that is switched on sees what happens from then on."""
    return await _published(request, ESCALATIONS, body.policy, who, body.reason)


@router.post("/api/support-policies/root-causes", tags=["policies"], status_code=201)
async def publish_causes(request: Request, body: CausesIn, who: Supervisor) -> Published:
    """The next version of the rules that find causes, in force at once. A rule that is switched off refutes what it found; one
    that is switched on sees what happens from then on."""
    return await _published(request, CAUSES, body.policy, who, body.reason)


def _unknown(case_id: str) -> HTTPException:
    return HTTPException(404, f"there is no case {case_id}")


class CaseStep(Model):
    case_id: str
    status: CaseStatus
    assignee: str | None
    clocks: Clocks
    allowed: tuple[str, ...]


async def _step(
    asking: CommandRequest, case_id: str, command: Command, reason: str, at: datetime | None = None
) -> Response:
    subject = await casebook.subject_of(asking.commands.pool, casebook.SUBJECT_OF_CASE, case_id)
    if subject is None:
        raise _unknown(case_id)

    def answer(state: Support, _: Sequence[Fact]) -> tuple[int, Model]:
        case = state.cases[case_id]
        return 200, CaseStep(
            case_id=case_id,
            status=case.status,
            assignee=case.assignee,
            clocks=case.clocks,
            allowed=CASE.allowed(case.status),
        )

    if not _directs(asking):
        command = AsAgent(asking.actor, command)
    return await asking.tell(casebook.flow_of(subject), subject, command, answer, reason=reason, at=at)


@router.post("/api/cases/{case_id}/answers", response_model=CaseStep)
async def answer_customer(case_id: CaseId, body: AnswerIn, asking: Worker) -> Response:
    """What the customer was answered. It is recorded here, not sent. Who answers an open case takes it on."""
    at = business_time(body.occurred_at)
    command = AnswerCustomer(case_id, f"contact-{uuid7()}", at, body.channel, body.text, asking.actor)
    return await _step(asking, case_id, command, f"answered by {body.channel}", at)


@router.post("/api/cases/{case_id}/assign", response_model=CaseStep)
async def assign(case_id: CaseId, body: AssignIn, asking: Worker) -> Response:
    """Give a case to somebody. Agents take on what nobody has; a supervisor gives cases to others. Whose case it is moves it
    on; others may add to it."""
    _may_assign(asking, body.assignee)
    return await _step(asking, case_id, AssignCase(case_id, body.assignee), f"given to {body.assignee}")


@router.post("/api/cases/{case_id}/wait", response_model=CaseStep)
async def wait(case_id: CaseId, body: WaitIn, asking: Worker) -> Response:
    """Its clocks stand while the customer is waited for, and run while we are."""
    at = business_time(body.occurred_at)
    return await _step(asking, case_id, WaitFor(case_id, body.waits_for, body.reason, at), body.reason, at)


@router.post("/api/cases/{case_id}/resume", response_model=CaseStep)
async def resume(case_id: CaseId, body: ReasonIn, asking: Worker) -> Response:
    at = business_time(body.occurred_at)
    return await _step(asking, case_id, ResumeCase(case_id, body.reason, at), body.reason, at)


@router.post("/api/cases/{case_id}/notes", response_model=CaseStep)
async def note(case_id: CaseId, body: NoteIn, asking: Worker) -> Response:
    """Kept literally. A card number is refused."""
    return await _step(asking, case_id, NoteOnCase(case_id, body.note), "a note")


@router.post("/api/cases/{case_id}/resolve", response_model=CaseStep)
async def resolve(case_id: CaseId, body: ResolveIn, asking: Worker) -> Response:
    """Resolved; closed when nobody comes back to it within its grace."""
    at = business_time(body.occurred_at)
    return await _step(asking, case_id, ResolveCase(case_id, body.resolution, at), body.resolution, at)


@router.post("/api/cases/{case_id}/reopen", response_model=CaseStep)
async def reopen(case_id: CaseId, body: ReasonIn, asking: Worker) -> Response:
    """Within its grace."""
    at = business_time(body.occurred_at)
    return await _step(asking, case_id, ReopenCase(case_id, body.reason, at), body.reason, at)
