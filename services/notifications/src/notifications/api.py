"""HTTP in: what the customer of an order was told, and what became of each message."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, HTTPException, Path, Request
from pydantic import BaseModel, Field

from notifications.domain import AUDIENCE, Status
from notifications.store import find
from shared.auth import Caller, Role
from shared.contracts.base import Id
from shared.contracts.notifications import NotificationKind, Statement
from shared.http import needs

router = APIRouter(tags=["notifications"])


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
    detail: str | None = Field(description="why it failed, bounced or was not sent; or why it is tried again")
    statements: list[Statement] = Field(description="what it says, checkable against later facts")


class NotificationsOut(BaseModel):
    """`waiting`: messages that are not queued yet, since it is not known to whom they go."""

    order_id: str
    waiting: int
    notifications: list[NotificationOut]


@router.get("/orders/{order_id}/notifications")
async def read_notifications(
    order_id: Annotated[Id, Path()], request: Request, _: Annotated[Caller, needs(*Role)]
) -> NotificationsOut:
    """What the customer was told, oldest first, with the statements of each message."""
    found = await find(request.app.state.pool, order_id)
    if found is None:
        raise HTTPException(404, f"nothing was heard of order {order_id}")
    state, texts = found
    return NotificationsOut(
        order_id=order_id,
        waiting=len(state.waiting),
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
                detail=n.detail or (texts[id]["last_error"] if n.status is Status.QUEUED else None),
                statements=list(n.statements),
            )
            for id, n in state.notifications.items()
        ],
    )
