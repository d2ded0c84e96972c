"""What people may do from an order's page. The service that owns the matter does it, with the person's own token and in
its own transaction, or refuses it: its words are shown as they are."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote
from uuid import uuid4

import httpx
import structlog

from shared.auth import Caller, Role
from shared.contracts.support import RootCauseTag
from shared.http import trace
from support_view.api import OrderView
from support_view.casework_api import Queue
from support_view.domain.escalations import EscalationStatus
from support_view.domain.orders import Status as OrderStatus
from support_view.domain.payments import RefundStatus
from support_view.domain.returns import Status as ReturnStatus
from support_view.domain.timeline import plain

log = structlog.get_logger()

Form = Mapping[str, str]

AGENTS: Final = frozenset({Role.AGENT, Role.SUPERVISOR})
SUPERVISORS: Final = frozenset({Role.SUPERVISOR})


def _reason(form: Form) -> dict[str, Any]:
    return {"reason": form.get("reason", "")}


def _detail(form: Form) -> dict[str, Any]:
    return {"detail": form.get("reason", "")}


def _cancellation(form: Form) -> dict[str, Any]:
    """Raises ValueError where the number of units is none."""
    if not form.get("line"):
        return _detail(form)
    return _detail(form) | {"lines": [{"line_id": form["line"], "quantity": int(form.get("quantity", ""))}]}


@dataclass(frozen=True, slots=True)
class Action:
    """`path` is the owning service's; `roles` are those that it will take it from, so that nobody is offered in vain."""

    label: str
    done: str
    service: str
    path: str
    roles: frozenset[Role]
    body: Callable[[Form], dict[str, Any]] = _reason
    wants_reason: bool = True


_REFUND: Final = "/orders/{order}/refunds/{id}"
_RETURN: Final = "/orders/{order}/returns/{id}"
_CAUSES: Final = "/api/orders/{order}/causes"

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
    ),
    "set-aside-cause": Action(
        "No, or another",
        "It is set aside.",
        "support-view",
        f"{_CAUSES}/override",
        AGENTS,
        lambda form: {"tag": form.get("id"), "replaced_by": form.get("choice") or None, **_reason(form)},
    ),
    "name-cause": Action(
        "Name a cause",
        "The cause is named.",
        "support-view",
        f"{_CAUSES}/override",
        AGENTS,
        lambda form: {"replaced_by": form.get("choice"), **_reason(form)},
    ),
    "withdraw-word": Action(
        "Withdraw it", "It is withdrawn.", "support-view", f"{_CAUSES}/overrides/{{id}}/withdraw", AGENTS
    ),
}


QUEUE_ACTIONS: Final[Mapping[str, Action]] = {
    "acknowledge": Action(
        "Acknowledge",
        "It is acknowledged, and stays here until what it is about is over.",
        "support-view",
        "/api/escalations/{id}/acknowledge",
        AGENTS,
        lambda form: {"note": form.get("reason", "")},
        wants_reason=False,
    ),
    "take": Action(
        "Take it on",
        "It is yours.",
        "support-view",
        "/api/escalations/{id}/assign",
        AGENTS,
        lambda form: {"assignee": form["actor"]},
        wants_reason=False,
    ),
}


@dataclass(frozen=True, slots=True)
class Offer:
    """An action on one thing. `key` makes the form have one effect, however often it is sent."""

    name: str
    label: str
    id: str
    key: str
    reason: str
    lines: Sequence[tuple[str, str]]
    """To choose from, for cancellations: line ids and their titles."""
    causes: Sequence[str] = ()
    """To choose from, for causes."""


@dataclass(frozen=True, slots=True)
class Told:
    """What became of an action, in words; `status` is that of the page that says so. `form` is for another try."""

    status: int
    text: str
    form: Form = field(default_factory=dict)


def offered(view: OrderView, caller: Caller, services: Mapping[str, str], again: Form) -> Mapping[str, Sequence[Offer]]:
    """By the anchor of what it is about: what this person may do now, as far as was seen. `again`: a form that had no
    effect, to be sent again under its key."""
    offers: dict[str, list[Offer]] = defaultdict(list)
    spoken_of = {cause.tag for cause in view.causes}
    others = [tag for tag in RootCauseTag if tag not in spoken_of]
    for anchor, name, id in _open(view):
        action = ACTIONS[name]
        if action.service in services and not caller.roles.isdisjoint(action.roles):
            label = f"{action.label} “{plain(id)}”" if name == "release-hold" else action.label
            lines = [(line.line_id, line.title) for line in view.lines] if name == "cancel-units" else []
            kept = again if (name, id) == (again.get("name"), again.get("id")) else {}
            key, reason = kept.get("key") or str(uuid4()), kept.get("reason", "")
            causes = others if name in ("set-aside-cause", "name-cause") else []
            offers[anchor].append(Offer(name, label, id, key, reason, lines, causes))
    return offers


def attended(queue: Queue, caller: Caller, again: Form) -> Mapping[str, Sequence[Offer]]:
    """By escalation: what this person may do about it."""
    offers: dict[str, list[Offer]] = defaultdict(list)
    for raised in queue.escalations:
        for name, action in QUEUE_ACTIONS.items():
            is_over = (
                raised.status != EscalationStatus.RAISED if name == "acknowledge" else raised.assignee == caller.actor
            )
            if not is_over and not caller.roles.isdisjoint(action.roles):
                id = raised.escalation_id
                key = again.get("key", "") if again.get("id") == id else ""
                offers[id].append(Offer(name, action.label, id, key or str(uuid4()), "", ()))
    return offers


def _open(view: OrderView) -> Iterator[tuple[str, str, str]]:
    """Anchor, action and id of all that the states allow."""
    for refund in view.refunds:
        if refund.status == RefundStatus.PENDING_APPROVAL:
            for name in ("approve-refund", "reject-refund", "cancel-refund"):
                yield f"refund-{refund.refund_id}", name, refund.refund_id
    for told in view.returns:
        if told.status == ReturnStatus.UNDER_REVIEW:
            names: tuple[str, ...] = ("approve-return", "decline-return", "grant-exception")
        elif told.status == ReturnStatus.DECLINED:
            names = ("grant-exception",)
        elif told.status == ReturnStatus.APPROVED:
            names = ("cancel-return",)
        else:
            names = ()
        for name in names:
            yield f"return-{told.return_id}", name, told.return_id
    for hold in view.order.holds:
        yield "order", "release-hold", hold.hold
    if view.order.status in (OrderStatus.PLACED, OrderStatus.CONFIRMED):
        if "manual" not in {hold.hold for hold in view.order.holds}:
            yield "order", "place-hold", "manual"
        yield "order", "cancel-units", "units"
    for cause in view.causes:
        if cause.override_id is not None:
            yield f"cause-{cause.tag}", "withdraw-word", cause.override_id
        elif cause.stands:
            yield f"cause-{cause.tag}", "set-aside-cause", cause.tag
    yield "causes", "name-cause", "other"


async def act(client: httpx.AsyncClient, services: Mapping[str, str], action: Action, form: Form, token: str) -> Told:
    """Have it done, by a service that is among `services`. What is not answered may have been done: the same form sent again
    has no second effect."""
    if action.wants_reason and not form.get("reason"):
        return Told(422, "Say in a few words why: it stands in the record.", form)
    try:
        body = action.body(form)
    except ValueError:
        return Told(422, "Say how many units, in digits.", form)
    path = action.path.format(order=quote(form.get("order", ""), safe=""), id=quote(form.get("id", ""), safe=""))
    headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": form.get("key", "")}
    if context := trace.get():
        headers["traceparent"] = context
    try:
        answer = await client.post(services[action.service] + path, json=body, headers=headers)
    except httpx.HTTPError as error:
        log.warning("action.unanswered", action=action.label, service=action.service, error=repr(error))
        text = f"{action.service} does not answer just now. Send it again in a moment: it will be done once."
        return Told(503, text, form)
    if answer.is_success:
        return Told(200, action.done)
    return Told(answer.status_code, f"{action.service} refused: {_words(answer)}", form)


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
