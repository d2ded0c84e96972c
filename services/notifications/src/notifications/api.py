"""HTTP in: what the customer of an order was told and what became of each message, people who hold messages back, and
the mail provider's signed webhook."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal

import structlog
from fastapi import APIRouter, HTTPException, Path, Request, Response
from pydantic import AwareDatetime, BaseModel, Field

from notifications.domain.decide import Command, RecordBounce, RecordDelivery, ResumeKind, Suppress, SuppressKind
from notifications.domain.policy import SendingPolicy
from notifications.domain.state import AUDIENCE, OrderNotifications, Status
from notifications.store import NOTIFICATIONS, find, of_message, policies
from shared.contracts import base
from shared.contracts.base import Fact, Id, Input, Observation, Remark, Text
from shared.contracts.notifications import Corrected, NotificationKind, Statement
from shared.messaging.envelope import observed_time
from shared.messaging.shell import Message
from shared.web.auth import Caller, Role
from shared.web.callers import needs
from shared.web.commands import CommandRequest, Commands, asks
from shared.web.webhooks import SignedBody, read_signed, signed, webhook_cause

log = structlog.get_logger()
router = APIRouter(tags=["notifications"])

Reader = Annotated[Caller, needs(*Role)]
Support = Annotated[CommandRequest, asks(Role.AGENT, Role.SUPERVISOR)]
OrderId = Annotated[base.OrderId, Path()]


class NotificationOut(BaseModel):
    notification_id: str
    kind: NotificationKind
    audience: str
    status: Status
    trigger_id: str = Field(description="id of the fact that caused it")
    queued_at: datetime
    attempts: int
    title: str | None = Field(description="None until it was composed, just before the first attempt")
    text: str | None
    html: str | None
    detail: str | None = Field(description="why it failed, bounced or was not sent; or why it is tried again")
    statements: list[Statement] = Field(description="what it says, checkable against later facts")
    contradicted: list[int] = Field(description="places in `statements`: what a later fact made untrue")
    corrects: list[Corrected] = Field(description="statements of earlier messages that it sets right")


class NotificationsOut(BaseModel):
    """`waiting`: messages that are not queued yet, since it is not known to whom they go; `suppressed`: kinds of which
    none is sent, with the reason."""

    order_id: str
    waiting: int
    suppressed: dict[NotificationKind, str]
    notifications: list[NotificationOut]


class Reason(Input):
    reason: Text = Field(min_length=1)


class KindOut(BaseModel):
    order_id: str
    kind: NotificationKind
    suppressed: bool


class SuppressedOut(BaseModel):
    notification_id: str
    status: Status


@router.get("/orders/{order_id}/notifications")
async def read_notifications(order_id: OrderId, request: Request, _: Reader) -> NotificationsOut:
    """What the customer was told, oldest first, with the statements of each message."""
    found = await find(request.app.state.pool, order_id)
    if found is None:
        raise _unknown(order_id)
    state, texts = found
    return NotificationsOut(
        order_id=order_id,
        waiting=len(state.waiting),
        suppressed=dict(state.muted),
        notifications=[
            NotificationOut(
                notification_id=id,
                kind=n.kind,
                audience=AUDIENCE,
                status=n.status,
                trigger_id=n.trigger_id,
                queued_at=n.queued_at,
                attempts=texts[id]["attempts"],
                title=texts[id]["title"],
                text=texts[id]["body"],
                html=texts[id]["html"],
                detail=n.detail or (texts[id]["last_error"] if n.status is Status.QUEUED else None),
                statements=list(n.statements),
                contradicted=list(n.contradicted),
                corrects=list(n.corrects),
            )
            for id, n in state.notifications.items()
        ],
    )


@router.post("/orders/{order_id}/notifications/{notification_id}/suppression", response_model=SuppressedOut)
async def suppress(
    order_id: OrderId, notification_id: Annotated[Id, Path()], body: Reason, asking: Support
) -> Response:
    """Hold back a message that is not sent yet. While an attempt is under way it takes effect as soon as that has failed: the
    message is `queued` until then, or `sent` if it had not. 409 when it was sent."""
    await _known(asking, order_id)

    def answer(state: OrderNotifications, _: Sequence[Fact]) -> tuple[int, BaseModel]:
        status = state.notifications[notification_id].status
        return 200, SuppressedOut(notification_id=notification_id, status=status)

    command = Suppress(notification_id, f"held back by {asking.actor}: {body.reason}")
    return await asking.tell(NOTIFICATIONS, order_id, command, answer, reason=body.reason)


@router.post("/orders/{order_id}/suppressed-kinds/{kind}", response_model=KindOut)
async def suppress_kind(order_id: OrderId, kind: NotificationKind, body: Reason, asking: Support) -> Response:
    """Send no message of this kind for this order from now on. What sets an earlier message right is sent all the same."""
    return await _switch(
        order_id, kind, SuppressKind(kind, f"held back by {asking.actor}: {body.reason}"), body, asking
    )


@router.post("/orders/{order_id}/suppressed-kinds/{kind}/end", response_model=KindOut)
async def resume_kind(order_id: OrderId, kind: NotificationKind, body: Reason, asking: Support) -> Response:
    """Send messages of this kind again. What was held back meanwhile stays so."""
    return await _switch(order_id, kind, ResumeKind(kind, body.reason), body, asking)


async def _switch(
    order_id: str, kind: NotificationKind, command: Command, body: Reason, asking: CommandRequest
) -> Response:
    await _known(asking, order_id)

    def answer(state: OrderNotifications, _: Sequence[Fact]) -> tuple[int, BaseModel]:
        return 200, KindOut(order_id=order_id, kind=kind, suppressed=kind in state.muted)

    return await asking.tell(NOTIFICATIONS, order_id, command, answer, reason=body.reason)


async def _known(asking: CommandRequest, order_id: str) -> None:
    if await find(asking.commands.pool, order_id) is None:
        raise _unknown(order_id)


def _unknown(order_id: str) -> HTTPException:
    return HTTPException(404, f"nothing was heard of order {order_id}")


@router.get("/sending-policies", tags=["policies"])
async def read_policies(request: Request, _: Reader) -> list[SendingPolicy]:
    """Every version, oldest first; the newest one that is effective is in force."""
    return await policies(request.app.state.pool)


class MailNotice(Observation):
    """What became of a mail that the provider took."""

    id: str = Field(min_length=1, max_length=200)
    type: Literal["mail.delivered", "mail.bounced"]
    message_id: str = Field(min_length=3, max_length=998, description="the mail's Message-ID, angle brackets included")
    occurred_at: AwareDatetime
    detail: Remark = Field(default="", description="the recipient's server in its own words")


class NoticeOut(BaseModel):
    notification_id: str | None = Field(description="none: the mail is none of ours, and the notice is logged")


@router.post("/webhooks/mail", tags=["webhooks"], status_code=202)
async def mail_notice(
    body: Annotated[SignedBody, signed(lambda settings: settings.mail_webhook_secret.get_secret_value())],
    commands: Commands,
) -> NoticeOut:
    """A mail provider's notice, signed; one id has one effect. What has happened is never refused: a notice that overtakes
    the record of its mail's sending says that it was sent, and one of a mail that is none of ours is logged."""
    notice = read_signed(MailNotice, body)
    at = observed_time(notice.occurred_at)
    found = await of_message(commands.pool, notice.message_id)
    if found is None:
        # Nothing to try again: the Message-ID of each of our mails is stored before it is sent.
        log.warning("mail_notice.unmatched", type=notice.type, message_id=notice.message_id, detail=notice.detail)
        return NoticeOut(notification_id=None)
    order_id, notification_id, title = found
    command: Command = (
        RecordDelivery(notification_id, title)
        if notice.type == "mail.delivered"
        else RecordBounce(notification_id, title, notice.detail or "the recipient's server refused it")
    )
    message: Message[Command] = Message(order_id, command, webhook_cause("mail", body.id, at, notice.type))
    [refusal] = await commands.process(NOTIFICATIONS, [message])
    if refusal is not None:
        raise refusal
    return NoticeOut(notification_id=notification_id)
