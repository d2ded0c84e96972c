"""What the notifications service tells: topic `notifications.events`."""

from datetime import datetime
from enum import StrEnum

from pydantic import Field

from shared.contracts.base import Id, Model, OrderFact, Text
from shared.money import Currency, Minor


class NotificationKind(StrEnum):
    SHIPMENT = "shipment"
    REFUND_SUBMITTED = "refund_submitted"
    REFUND_COMPLETED = "refund_completed"


class Claim(StrEnum):
    SHIPPED = "shipped"
    DELIVERED = "delivered"
    REMAINING = "remaining"
    ETA = "eta"
    CANCELLED = "cancelled"
    REFUND_SUBMITTED = "refund_submitted"
    REFUNDED = "refunded"


class Statement(Model):
    """One thing the customer was told, checkable against later facts. `as_of_sequence` is of the service it rests on."""

    claim: Claim
    line_id: Id | None
    quantity: int = Field(ge=0)
    amount_minor: Minor | None = None
    currency: Currency | None = None
    at: datetime | None = Field(default=None, description="an ETA or a promised date")
    as_of_service: Id
    as_of_sequence: int


class NotificationFact(OrderFact, service="notifications"):
    notification_id: Id


class NotificationQueued(NotificationFact, type="notification.queued"):
    kind: NotificationKind
    audience: Id
    dedupe_key: str
    trigger_id: str = Field(description="id of the fact that caused it")
    statements: tuple[Statement, ...]


class NotificationSuppressed(NotificationFact, type="notification.suppressed"):
    detail: Text


class NotificationCoalesced(NotificationFact, type="notification.coalesced"):
    into_id: Id


class NotificationSent(NotificationFact, type="notification.sent"):
    kind: NotificationKind
    title: Text
    statements: tuple[Statement, ...]


class NotificationFailed(NotificationFact, type="notification.failed"):
    detail: Text


class NotificationBounced(NotificationFact, type="notification.bounced"):
    detail: Text


class NotificationContradicted(NotificationFact, type="notification.contradicted"):
    by_fact_id: str
    statement: Statement


class NotificationCorrectionSent(NotificationFact, type="notification.correction_sent"):
    corrects_id: Id
