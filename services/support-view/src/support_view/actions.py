"""What people may do from the pages. The service that owns the matter does it, with the person's own token and in
its own transaction, or refuses it: its words are shown as they are."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote
from uuid import uuid4

import httpx
import structlog

from shared.contracts.base import Bucket
from shared.contracts.returns import Resolution
from shared.contracts.support import Channel, Direction, RootCauseTag
from shared.web.auth import Caller, Role
from shared.web.middleware import trace
from support_view.api import OrderView
from support_view.casework_api import CaseOut, EscalationOut
from support_view.domain.cases import CaseStatus
from support_view.domain.escalations import EscalationStatus
from support_view.domain.fulfillment import ShipmentStatus
from support_view.domain.orders import Status as OrderStatus
from support_view.domain.payments import RefundStatus
from support_view.domain.returns import Status as ReturnStatus
from support_view.domain.timeline import plain
from support_view.summary.quantities import LineQuantities

log = structlog.get_logger()

Form = Mapping[str, str]

HERE: Final = "support-view"

AGENTS: Final = frozenset({Role.AGENT, Role.SUPERVISOR})
SUPERVISORS: Final = frozenset({Role.SUPERVISOR})


@dataclass(frozen=True, slots=True)
class Field:
    """What a form asks for; `ask` is told to who left it empty. With `choices`, one of them: its value and its words."""

    name: str
    label: str
    ask: str = ""
    choices: Sequence[tuple[str, str]] = ()
    is_long: bool = False
    is_number: bool = False
    value: str = ""

    @property
    def is_required(self) -> bool:
        return bool(self.ask)


REASON: Final = Field("reason", "Why", "Say in a few words why: it stands in the record.")
CHANNEL: Final = Field("channel", "By", "Say by which way.", [(channel, channel) for channel in Channel])


def _reason(form: Form) -> dict[str, Any]:
    return {"reason": form.get("reason", "")}


def _detail(form: Form) -> dict[str, Any]:
    return {"detail": form.get("reason", "")}


def _only(*names: str) -> Callable[[Form], dict[str, Any]]:
    """These fields as they are; one that was left empty is left out."""
    return lambda form: {name: form[name] for name in names if form.get(name)}


def _cancellation(form: Form) -> dict[str, Any]:
    """Raises ValueError where the number of units is none."""
    if not form.get("line"):
        return _detail(form)
    return _detail(form) | {"lines": [{"line_id": form["line"], "quantity": int(form.get("quantity", ""))}]}


def _contact(form: Form) -> dict[str, Any]:
    said = _only("direction", "channel", "topic", "text")(form)
    return {"order_id": form["order"], "customer": {"customer_id": form.get("id", "")}} | said


@dataclass(frozen=True, slots=True)
class Action:
    """`path` is the owning service's; `roles` are those that it will take it from, so that nobody is offered in vain."""

    label: str
    done: str
    service: str
    path: str
    roles: frozenset[Role]
    body: Callable[[Form], dict[str, Any]] = _reason
    fields: Sequence[Field] = (REASON,)


_REFUND: Final = "/orders/{order}/refunds/{id}"
_RETURN: Final = "/orders/{order}/returns/{id}"
_RECOVERY: Final = "/orders/{order}/recoveries/{id}"
_CAUSES: Final = "/api/orders/{order}/causes"
_CASE: Final = "/api/cases/{id}"
_ESCALATION: Final = "/api/escalations/{id}"

_ASSIGNEE: Final = Field("assignee", "To whom", "Say to whom, as agent:anna.")


def _given_to_me(form: Form) -> dict[str, Any]:
    return {"assignee": form["actor"]}


def _work(
    label: str,
    done: str,
    path: str,
    body: Callable[[Form], dict[str, Any]] = _reason,
    fields: Sequence[Field] = (REASON,),
    roles: frozenset[Role] = AGENTS,
) -> Action:
    """What this service does itself."""
    return Action(label, done, HERE, path, roles, body, fields)


CASE_ACTIONS: Final[Mapping[str, Action]] = {
    "answer-case": _work(
        "Record an answer",
        "The answer is on record.",
        f"{_CASE}/answers",
        _only("channel", "text"),
        (CHANNEL, Field("text", "What the customer was answered", "Say what the customer was answered.", is_long=True)),
    ),
    "note-case": _work(
        "Add a note",
        "The note is kept.",
        f"{_CASE}/notes",
        _only("note"),
        (Field("note", "Note, for colleagues only", "Say what is to be kept.", is_long=True),),
    ),
    "take-case": _work("Take it on", "The case is yours.", f"{_CASE}/assign", _given_to_me, ()),
    "give-case": _work(
        "Give it to somebody",
        "The case is given to them.",
        f"{_CASE}/assign",
        _only("assignee"),
        (_ASSIGNEE,),
        SUPERVISORS,
    ),
    "wait-case": _work(
        "Wait",
        "The case waits.",
        f"{_CASE}/wait",
        _only("waits_for", "reason"),
        (
            Field(
                "waits_for", "For", "Say for whom.", [("customer", "the customer"), ("internal", "somebody of ours")]
            ),
            REASON,
        ),
    ),
    "resume-case": _work("Go on", "The case goes on.", f"{_CASE}/resume"),
    "resolve-case": _work(
        "Resolve",
        "The case is resolved.",
        f"{_CASE}/resolve",
        _only("resolution"),
        (Field("resolution", "How it was resolved", "Say how it was resolved.", is_long=True),),
    ),
    "reopen-case": _work("Reopen", "The case is open again.", f"{_CASE}/reopen"),
}

QUEUE_ACTIONS: Final[Mapping[str, Action]] = {
    "acknowledge": _work(
        "Acknowledge",
        "It is acknowledged. What no fact ends is over with that; all else stays here until it is.",
        f"{_ESCALATION}/acknowledge",
        _only("note"),
        (),
    ),
    "take": _work("Take it on", "It is yours.", f"{_ESCALATION}/assign", _given_to_me, ()),
    "give": _work(
        "Give it to somebody",
        "It is given to them.",
        f"{_ESCALATION}/assign",
        _only("assignee"),
        (_ASSIGNEE,),
        SUPERVISORS,
    ),
}

ACTIONS: Final[Mapping[str, Action]] = {
    "approve-refund": Action("Approve", "The refund is approved.", "payments", f"{_REFUND}/approve", SUPERVISORS),
    "reject-refund": Action(
        "Reject",
        "The refund is rejected.",
        "payments",
        f"{_REFUND}/reject",
        SUPERVISORS,
        lambda form: {"reason_code": "rejected_by_person", **_reason(form)},
    ),
    "cancel-refund": Action("Withdraw", "The refund is withdrawn.", "payments", f"{_REFUND}/cancel", AGENTS),
    "approve-return": Action(
        "Approve",
        "The return is approved.",
        "returns",
        f"{_RETURN}/approve",
        AGENTS,
        lambda form: {"note": form.get("reason", "")},
    ),
    "decline-return": Action("Decline", "The return is declined.", "returns", f"{_RETURN}/decline", AGENTS),
    "grant-exception": Action(
        "Grant an exception", "The exception is granted.", "returns", f"{_RETURN}/exception", SUPERVISORS
    ),
    "approve-unannounced": Action(
        "Accept",
        "What came back is accepted.",
        "returns",
        f"{_RETURN}/approve",
        AGENTS,
        lambda form: {"resolution": form.get("choice"), "note": form.get("reason", "")},
        (
            Field(
                "choice",
                "The customer gets",
                "Say what the customer gets for it.",
                [(Resolution.REFUND, "the money back"), (Resolution.STORE_CREDIT, "store credit")],
            ),
            REASON,
        ),
    ),
    "close-return": Action("Close", "The return is closed.", "returns", f"{_RETURN}/close", SUPERVISORS),
    "resolve-claim": Action(
        "Decide",
        "The claim is decided.",
        "returns",
        "/orders/{order}/claims/{id}/resolve",
        AGENTS,
        lambda form: {"outcome": form.get("choice"), **_reason(form)},
        (
            Field(
                "choice",
                "The customer gets",
                "Say how it is decided.",
                [("refunded", "the money back"), ("replaced", "the goods again"), ("rejected", "nothing")],
            ),
            REASON,
        ),
    ),
    "charge-recovery": Action("Charge it", "The charge is asked for.", "returns", f"{_RECOVERY}/charge", SUPERVISORS),
    "settle-recovery": Action(
        "End it without a charge",
        "It is settled.",
        "returns",
        f"{_RECOVERY}/settle",
        SUPERVISORS,
        lambda form: {"how": form.get("choice"), **_reason(form)},
        (
            Field(
                "choice",
                "How",
                "Say how it ends.",
                [("written_off", "nothing is asked of the customer any more"), ("returned", "it came back")],
            ),
            REASON,
        ),
    ),
    "not-received": Action(
        "The customer did not get it",
        "The carrier looks for it.",
        "fulfillment",
        "/shipments/{id}/not-received",
        AGENTS,
        _detail,
    ),
    "send-again": Action(
        "Send it again",
        "What was lost or came back is sent again.",
        "fulfillment",
        "/shipments/{id}/reship",
        AGENTS,
        _detail,
    ),
    "cancel-return": Action("Call off", "The return is called off.", "returns", f"{_RETURN}/cancel", AGENTS),
    "release-hold": Action(
        "Release", "The hold is released.", "orders", "/orders/{order}/holds/{id}/release", AGENTS, _detail
    ),
    "place-hold": Action(
        "Hold the order",
        "The order is held.",
        "orders",
        "/orders/{order}/holds",
        AGENTS,
        lambda form: {"hold": "manual", **_detail(form)},
    ),
    "cancel-units": Action(
        "Cancel units",
        "The cancellation is asked for; fulfillment answers for each unit.",
        "orders",
        "/orders/{order}/cancellations",
        AGENTS,
        _cancellation,
        (
            Field("line", "What"),
            Field("quantity", "How many of a line", is_number=True),
            REASON,
        ),
    ),
    "set-aside-cause": _work(
        "No, or another",
        "It is set aside.",
        f"{_CAUSES}/override",
        lambda form: {"tag": form.get("id"), "replaced_by": form.get("choice") or None, **_reason(form)},
        (Field("choice", "The cause"), REASON),
    ),
    "name-cause": _work(
        "Name a cause",
        "The cause is named.",
        f"{_CAUSES}/override",
        lambda form: {"replaced_by": form.get("choice"), **_reason(form)},
        (Field("choice", "The cause", "Say which cause."), REASON),
    ),
    "withdraw-word": _work("Withdraw it", "It is withdrawn.", f"{_CAUSES}/overrides/{{id}}/withdraw"),
    "contact": _work(
        "Record a contact",
        "The contact is on record.",
        "/api/contacts",
        _contact,
        (
            Field(
                "direction",
                "Who",
                "Say who contacted whom.",
                [(Direction.INBOUND, "the customer contacted us"), (Direction.OUTBOUND, "we contacted the customer")],
            ),
            CHANNEL,
            Field("topic", "About, in a word: where_is_it"),
            Field("text", "What was said", "Say what was said.", is_long=True),
        ),
    ),
    **CASE_ACTIONS,
    **QUEUE_ACTIONS,
}
"""From an order's page."""


@dataclass(frozen=True, slots=True)
class Offer:
    """An action on one thing. `key` makes the form have one effect, however often it is sent; `is_again` where it had none."""

    name: str
    label: str
    id: str
    key: str
    fields: Sequence[Field]
    is_again: bool


@dataclass(frozen=True, slots=True)
class ActionResult:
    """What became of an action, in words; `status` is that of the page that says so. `form` is for another try."""

    status: int
    text: str
    form: Form = field(default_factory=dict)


Choices = Mapping[str, Sequence[tuple[str, str]]]
Offers = Mapping[str, Sequence[Offer]]
"""By the anchor of what they are about."""


def _offer(name: str, id: str, again: Form, label: str = "", choices: Choices | None = None) -> Offer:
    """`again`: a form that had no effect, to be sent again under its key. `choices` that only this thing has, by field."""
    action = ACTIONS[name]
    is_again = (name, id) == (again.get("name"), again.get("id"))
    kept = again if is_again else {}
    fields = [
        replace(f, value=kept.get(f.name, ""), choices=(choices or {}).get(f.name, f.choices)) for f in action.fields
    ]
    return Offer(name, label or action.label, id, kept.get("key") or str(uuid4()), fields, is_again)


def offered(view: OrderView, caller: Caller, services: Mapping[str, str], again: Form) -> Offers:
    """What this person may do about an order now, as far as was seen."""
    offers: dict[str, list[Offer]] = defaultdict(list)
    spoken_of = {cause.tag for cause in view.causes}
    others = [(tag, plain(tag)) for tag in RootCauseTag if tag not in spoken_of]
    for anchor, name, id in _open(view):
        action = ACTIONS[name]
        if action.service in services and not caller.roles.isdisjoint(action.roles):
            label = f"{action.label} “{plain(id)}”" if name == "release-hold" else ""
            choices = {
                "line": [
                    ("", "everything that has not left or came back"),
                    *(
                        (line.line_id, f"{line.title}, {left} at most")
                        for line in view.lines
                        if (left := cancellable(line))
                    ),
                ],
                "choice": [*([("", "this was none")] if name == "set-aside-cause" else ()), *others],
            }
            offers[anchor].append(_offer(name, id, again, label, choices))
    return offers


def of_cases(cases: Sequence[CaseOut], caller: Caller, again: Form, now: datetime) -> Offers:
    """What this person may do about cases."""
    return {
        f"case-{case.case_id}": [
            _offer(name, case.case_id, again)
            for name in _moves(case, caller, now)
            if not caller.roles.isdisjoint(ACTIONS[name].roles)
        ]
        for case in cases
    }


def _may_move(assignee: str | None, caller: Caller) -> bool:
    return assignee in (None, caller.actor) or Role.SUPERVISOR in caller.roles


def _moves(case: CaseOut, caller: Caller, now: datetime) -> Iterator[str]:
    is_live = case.status not in (CaseStatus.RESOLVED, CaseStatus.CLOSED)
    if is_live:
        yield "answer-case"
    yield "note-case"
    if not _may_move(case.assignee, caller):
        return
    if is_live:
        if case.assignee != caller.actor:
            yield "take-case"
        yield "give-case"
        yield "wait-case"
    if case.status in (CaseStatus.WAITING_CUSTOMER, CaseStatus.WAITING_INTERNAL):
        yield "resume-case"
    if is_live:
        yield "resolve-case"
    if case.status is CaseStatus.RESOLVED and case.closes_at is not None and now <= case.closes_at:
        yield "reopen-case"


def attended(escalations: Sequence[EscalationOut], caller: Caller, again: Form) -> Offers:
    """What this person may do about escalations."""
    offers: dict[str, list[Offer]] = {}
    for raised in escalations:
        names = ["acknowledge"] if raised.status == EscalationStatus.RAISED else []
        names += ["take"] if raised.assignee != caller.actor and _may_move(raised.assignee, caller) else []
        offers[raised.escalation_id] = [
            _offer(name, raised.escalation_id, again)
            for name in (*names, "give")
            if not caller.roles.isdisjoint(ACTIONS[name].roles)
        ]
    return offers


_NOT_LEFT: Final = (Bucket.UNALLOCATED, Bucket.ALLOCATED, Bucket.BACKORDERED, Bucket.PACKED)


def here(line: LineQuantities) -> int:
    """Units of a line that have not left: they can be held back."""
    return sum(line.forward[bucket] for bucket in _NOT_LEFT)


def cancellable(line: LineQuantities) -> int:
    """Units of a line that have not left, or came back to us."""
    return here(line) + line.forward[Bucket.RETURNED_TO_SENDER]


def _open(view: OrderView) -> Iterator[tuple[str, str, str]]:
    """Anchor, action and id of all that the states allow."""
    for refund in view.refunds:
        if refund.status == RefundStatus.PENDING_APPROVAL:
            for name in ("approve-refund", "reject-refund", "cancel-refund"):
                yield f"refund-{refund.refund_id}", name, refund.refund_id
    for told in view.returns:
        if told.status == ReturnStatus.UNDER_REVIEW:
            is_announced = not told.announced_as
            approving = ("approve-return", "grant-exception") if is_announced else ("approve-unannounced",)
            names: tuple[str, ...] = (*approving, "decline-return", "close-return")
        elif told.status == ReturnStatus.DECLINED:
            names = ("grant-exception",)
        elif told.status == ReturnStatus.APPROVED:
            names = ("cancel-return", "close-return")
        elif told.status in (ReturnStatus.CLOSED, ReturnStatus.CANCELLED, ReturnStatus.EXPIRED):
            names = ()
        else:
            names = ("close-return",)
        for name in names:
            yield f"return-{told.return_id}", name, told.return_id
    for hold in view.order.holds:
        yield "order", "release-hold", hold.hold
    if view.order.status in (OrderStatus.PLACED, OrderStatus.CONFIRMED):
        if "manual" not in {hold.hold for hold in view.order.holds} and any(map(here, view.lines)):
            yield "order", "place-hold", "manual"
        if any(map(cancellable, view.lines)):
            yield "order", "cancel-units", "units"
    for shipment in view.shipments:
        if shipment.status in (ShipmentStatus.LOST, ShipmentStatus.RETURNED_TO_SENDER) and shipment.waits_for:
            yield f"shipment-{shipment.shipment_id}", "send-again", shipment.shipment_id
        if shipment.status is ShipmentStatus.DELIVERED:
            yield f"shipment-{shipment.shipment_id}", "not-received", shipment.shipment_id
    for recovery in view.recoveries:
        if not recovery.how:
            if not recovery.is_charged:
                yield f"recovery-{recovery.recovery_id}", "charge-recovery", recovery.recovery_id
            yield f"recovery-{recovery.recovery_id}", "settle-recovery", recovery.recovery_id
    for claim in view.claims:
        if not claim.outcome:
            yield f"claim-{claim.claim_id}", "resolve-claim", claim.claim_id
    if view.customer is not None:
        yield "casework", "contact", view.customer.customer_id
    for cause in view.causes:
        if cause.override_id is not None:
            yield f"cause-{cause.tag}", "withdraw-word", cause.override_id
        elif cause.stands:
            yield f"cause-{cause.tag}", "set-aside-cause", cause.tag
    yield "causes", "name-cause", "other"


async def act(
    client: httpx.AsyncClient, services: Mapping[str, str], action: Action, form: Form, token: str
) -> ActionResult:
    """Have it done, by a service that is among `services`. What is not answered may have been done: the same form sent again
    has no second effect."""
    for asked in action.fields:
        if asked.is_required and not form.get(asked.name):
            return ActionResult(422, asked.ask, form)
    try:
        body = action.body(form)
    except ValueError:
        return ActionResult(422, "Say how many units, in digits.", form)
    path = action.path.format(order=quote(form.get("order", ""), safe=""), id=quote(form.get("id", ""), safe=""))
    headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": form.get("key", "")}
    if context := trace.get():
        headers["traceparent"] = context
    try:
        answer = await client.post(services[action.service] + path, json=body, headers=headers)
    except httpx.HTTPError as error:
        log.warning("action.unanswered", action=action.label, service=action.service, error=repr(error))
        text = f"{action.service} does not answer just now. Send it again in a moment: it will be done once."
        return ActionResult(503, text, form)
    if answer.is_success:
        return ActionResult(200, action.done)
    return ActionResult(answer.status_code, f"{action.service} refused: {_words(answer)}", form)


async def evidence_file(
    client: httpx.AsyncClient, services: Mapping[str, str], order_id: str, evidence_id: str, token: str
) -> httpx.Response | None:
    """A file that the returns service has, as who is signed in may see it; None where it does not answer."""
    path = f"/orders/{quote(order_id, safe='')}/evidence/{quote(evidence_id, safe='')}"
    try:
        return await client.get(services["returns"] + path, headers={"Authorization": f"Bearer {token}"})
    except httpx.HTTPError as error:
        log.warning("evidence.unanswered", order_id=order_id, error=repr(error))
        return None


def _words(answer: httpx.Response) -> str:
    """A problem's own words (RFC 9457), with what is allowed instead, where it says so."""
    try:
        problem = answer.json()
        words = str(problem["detail"])
        allowed = [str(name) for name in problem.get("allowed", ())]
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"it answered {answer.status_code}"
    if "current" in problem and allowed:
        words += f" (now {problem['current']}; allowed: {', '.join(allowed)})"
    return words
