"""What the notifications service tells: topic `notifications.events`."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import EmailStr, Field

from shared.contracts.base import Count, Id, LineQuantity, Model, Name, OrderFact, TenderKind, Text
from shared.contracts.payments import RefundChannel
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


class ShipmentMatter(Model):
    """The shipment that a message is about: its own units, and which of how many it is."""

    about: Literal["shipment"] = "shipment"
    shipment_id: Id
    number: int = Field(ge=1)
    of: int = Field(ge=1)
    carrier: Id
    tracking: tuple[Id, ...]
    lines: tuple[LineQuantity, ...]


class LegMatter(Model):
    leg_id: Id
    channel: RefundChannel
    tender_kind: TenderKind
    amount_minor: Minor
    promised_at: datetime


class RefundMatter(Model):
    """The payouts that a message is about, by channel."""

    about: Literal["refund"] = "refund"
    refund_id: Id
    currency: Currency
    legs: tuple[LegMatter, ...]


Matter = Annotated[ShipmentMatter | RefundMatter, Field(discriminator="about")]


class RecipientBasis(Model):
    """Whom to tell, and what the lines are called."""

    about: Literal["recipient"] = "recipient"
    email: EmailStr
    name: Name
    currency: Currency
    titles: dict[Id, Name]


class UnitsBasis(Model):
    """Units of lines that were owed, shipped or cancelled by this fact."""

    about: Literal["units"] = "units"
    owed: tuple[LineQuantity, ...] = ()
    shipped: tuple[LineQuantity, ...] = ()
    cancelled: tuple[LineQuantity, ...] = ()


class BackorderBasis(Model):
    """A backorder after it; nothing is left of it at quantity 0."""

    about: Literal["backorder"] = "backorder"
    backorder_id: Id
    line_id: Id
    quantity: Count
    eta: datetime | None


class ChargeBasis(Model):
    about: Literal["charge"] = "charge"
    shipment_id: Id | None
    amount_minor: Minor


class LegStage(StrEnum):
    ROUTED = "routed"
    SUBMITTED = "submitted"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


class RefundBasis(Model):
    """The legs of a refund that this fact concerns, and how far they are now."""

    about: Literal["refund"] = "refund"
    refund_id: Id
    stage: LegStage
    legs: tuple[LegMatter, ...]


class WaitingBasis(Model):
    """Something to tell, as soon as it is known to whom."""

    about: Literal["waiting"] = "waiting"
    kind: NotificationKind
    trigger_id: str
    matter: Matter
    service: Id
    sequence: int


class NotificationBasisNoted(OrderFact, service="notifications", type="notification.basis_noted"):
    """What messages of this order rest on, as another service told it."""

    heard: str = Field(description="type of the fact that was heard; its id is the causation id")
    basis: Annotated[
        RecipientBasis | UnitsBasis | BackorderBasis | ChargeBasis | RefundBasis | WaitingBasis,
        Field(discriminator="about"),
    ]


class NotificationFact(OrderFact, service="notifications"):
    notification_id: Id


class NotificationQueued(NotificationFact, type="notification.queued"):
    kind: NotificationKind
    audience: Id
    dedupe_key: str
    trigger_id: str = Field(description="id of the fact that caused it")
    statements: tuple[Statement, ...]
    matter: Matter | None = None
    queued_at: datetime | None = None


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


class NotificationDelivered(NotificationFact, type="notification.delivered"):
    """The recipient's mail server says so."""


class NotificationBounced(NotificationFact, type="notification.bounced"):
    detail: Text


class NotificationContradicted(NotificationFact, type="notification.contradicted"):
    by_fact_id: str
    statement: Statement


class NotificationCorrectionSent(NotificationFact, type="notification.correction_sent"):
    corrects_id: Id
