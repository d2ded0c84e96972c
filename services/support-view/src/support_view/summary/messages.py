"""What the customer was told, statement by statement, and whether it still holds."""

from collections.abc import Iterator
from datetime import datetime

from shared.contracts.base import Model
from support_view.domain.notifications import Status as NotificationStatus
from support_view.domain.notifications import statement
from support_view.domain.timeline import plain, plural
from support_view.summary.sections import Sections


class MessageState(Model):
    notification_id: str
    status: NotificationStatus
    title: str
    statements: tuple[str, ...]
    sent_at: datetime | None
    warning: str


def told(s: Sections) -> Iterator[MessageState]:
    for id, message in s.notifications.notifications.items():
        warning = message.detail
        if message.contradictions:
            fixed = "and was corrected" if message.is_corrected else "and is not corrected yet"
            warning = f"{plural(message.contradictions, 'statement')} in it became untrue {fixed}"
        yield MessageState(
            notification_id=id,
            status=message.status,
            title=message.title or (plain(message.kind).capitalize() if message.kind else id),
            statements=tuple(statement(said, s.words) for said in message.said),
            sent_at=message.sent_at,
            warning=warning,
        )
