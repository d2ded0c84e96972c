"""What the notifications service tells: topic `notifications.events`."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from shared.contracts.base import Count, Id, LineQuantity, Model, Name, OrderFact, PolicyRef, Quantity, TenderKind, Text
from shared.contracts.fulfillment import SubstitutedUnits
from shared.contracts.orders import Address, BackorderChoice, Hold
from shared.contracts.payments import RefundChannel
from shared.contracts.returns import InspectionOutcome, Resolution
from shared.core.money import Currency, Minor


class NotificationKind(StrEnum):
    ORDER_CONFIRMED = "order_confirmed"
    ORDER_REJECTED = "order_rejected"
    SHIPMENT = "shipment"
    BACKORDER = "backorder"
    BACKORDER_REVISED = "backorder_revised"
    DELAY = "delay"
    DELIVERY = "delivery"
    CANCELLATION = "cancellation"
    HOLD = "hold"
    HOLD_RELEASED = "hold_released"
    ADDRESS_CHANGED = "address_changed"
    RECOVERY_OPENED = "recovery_opened"
    RECOVERY_SETTLED = "recovery_settled"
    RECOVERY_CHARGE_FAILED = "recovery_charge_failed"
    RETURN_REQUESTED = "return_requested"
    RETURN_REVIEWED = "return_reviewed"
    RETURN_CANCELLED = "return_cancelled"
    RETURN_APPROVED = "return_approved"
    RETURN_DECLINED = "return_declined"
    RETURN_RECEIVED = "return_received"
    RETURN_INSPECTED = "return_inspected"
    RETURN_EXPIRED = "return_expired"
    RETURN_CLOSED = "return_closed"
    CLAIM_OPENED = "claim_opened"
    CLAIM_RESOLVED = "claim_resolved"
    REFUND_SUBMITTED = "refund_submitted"
    REFUND_COMPLETED = "refund_completed"
    REFUND_FAILED = "refund_failed"
    REFUND_REROUTED = "refund_rerouted"
    REFUND_DECLINED = "refund_declined"


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
    about_id: Id | None = Field(default=None, description="the shipment, backorder or payout that it is said of")
    quantity: int = Field(ge=0)
    amount_minor: Minor | None = None
    currency: Currency | None = None
    at: datetime | None = Field(default=None, description="an ETA or a promised date")
    as_of_service: Id
    as_of_sequence: int


class ShipmentContent(Model):
    """The shipment that a message is about: its own units, and which of how many it is."""

    about: Literal["shipment"] = "shipment"
    shipment_id: Id
    number: int = Field(ge=1)
    of: int = Field(ge=1)
    carrier: Id
    tracking: tuple[Id, ...]
    lines: tuple[LineQuantity, ...]
    substituted: tuple[SubstitutedUnits, ...] = ()


class HoldContent(Model):
    """What keeps the order from leaving until the customer does something, or did: `released`."""

    about: Literal["hold"] = "hold"
    hold: Hold
    released: bool = False


class AddressContent(Model):
    """Where what has not left yet goes from now on."""

    about: Literal["address"] = "address"
    ship_to: Address


class RecoveryContent(Model):
    """What the customer holds and did not pay for, or what an exchange costs more (`is_charged` at once); `how` it was settled,
    or that it was to be charged and could not be."""

    about: Literal["recovery"] = "recovery"
    recovery_id: Id
    amount_minor: Minor
    currency: Currency
    cause: Id | None = None
    due_at: datetime | None = None
    how: Literal["charged", "written_off", "returned", "by_hand", "not_due"] | None = None
    is_charged: bool = False
    has_charge_failed: bool = False


class OrderContent(Model):
    """The order as a whole: confirmed, or rejected with a reason."""

    about: Literal["order"] = "order"
    reason_code: Id | None = None


class BackorderContent(Model):
    """Units that wait for goods. `options` are what the customer may choose until `due_at`; then `silence` is chosen."""

    about: Literal["backorder"] = "backorder"
    backorder_id: Id
    line_id: Id
    quantity: Quantity
    eta: datetime | None
    previous_eta: datetime | None = None
    options: tuple[BackorderChoice, ...] = ()
    due_at: datetime | None = None
    silence: BackorderChoice | None = None


class ParcelContent(Model):
    """What became of a shipment, or of a parcel of it: delivered, or in trouble."""

    about: Literal["parcel"] = "parcel"
    shipment_id: Id
    what: Literal[
        "delivered",
        "delayed",
        "attempted",
        "address",
        "customs",
        "damaged",
        "not_received",
        "lost",
        "found",
        "returned",
        "old_label",
    ]
    tracking: Id | None = None
    lines: tuple[LineQuantity, ...] = ()
    substituted: tuple[SubstitutedUnits, ...] = ()


class CancellationContent(Model):
    about: Literal["cancellation"] = "cancellation"
    cancellation_id: Id
    lines: tuple[LineQuantity, ...]


class ReturnedUnits(Model):
    """Units of a return; once inspected, how they were found and what is paid back for them."""

    line_id: Id
    quantity: Quantity
    outcome: InspectionOutcome | None = None
    refund_percent: int = 0
    fee_percent: int = 0
    review: bool = Field(default=False, description="a person decides what is paid back for them")


class ReturnContent(Model):
    """A return. `reasons` are all of them; `complete`: nothing of it is awaited any more."""

    about: Literal["return"] = "return"
    return_id: Id
    lines: tuple[ReturnedUnits, ...] = ()
    reasons: tuple[Text, ...] = ()
    expires_at: datetime | None = None
    complete: bool = False


class ClaimContent(Model):
    """Units that are to be made good without a parcel coming back; once it is decided, how."""

    about: Literal["claim"] = "claim"
    claim_id: Id
    lines: tuple[LineQuantity, ...]
    decide_by: datetime | None = None
    outcome: Literal["refunded", "replaced", "rejected"] | None = None


class LegContent(Model):
    leg_id: Id
    channel: RefundChannel
    tender_kind: TenderKind
    amount_minor: Minor
    promised_at: datetime


class RefundContent(Model):
    """The payouts that a message is about, by channel; `failed` are those that did not reach the customer."""

    about: Literal["refund"] = "refund"
    refund_id: Id
    currency: Currency
    legs: tuple[LegContent, ...]
    failed: tuple[LegContent, ...] = ()
    reason_code: Id | None = Field(default=None, description="why it is not paid")


Content = Annotated[
    ShipmentContent
    | RefundContent
    | OrderContent
    | BackorderContent
    | ParcelContent
    | CancellationContent
    | ReturnContent
    | HoldContent
    | AddressContent
    | RecoveryContent
    | ClaimContent,
    Field(discriminator="about"),
]


class Corrected(Model):
    """A statement of an earlier message that is not true any more."""

    notification_id: Id
    statement: Statement


class OrderedLine(Model):
    line_id: Id
    quantity: Quantity
    goods_minor: Minor


class PaidBy(Model):
    """One of the tenders an order is paid by."""

    tender_id: Id
    kind: TenderKind
    amount_minor: Minor


class RecipientContext(Model):
    """Whom to tell, in which locale, what was ordered, and how it is paid."""

    about: Literal["recipient"] = "recipient"
    email: str = Field(
        description="as it was ordered with: not every one takes mail", json_schema_extra={"format": "email"}
    )
    name: Name
    currency: Currency
    titles: dict[Id, Name]
    locale: str = "en"
    lines: tuple[OrderedLine, ...] = ()
    shipping_minor: Minor = 0
    total_minor: Minor = 0
    tenders: tuple[PaidBy, ...] = ()


class UnitsContext(Model):
    """Units of lines that were owed, shipped or cancelled by this fact, or what became of those that were shipped.

    `not_received` are delivered no more: the customer says so. `found` are lost no more. Both are under way again.
    """

    about: Literal["units"] = "units"
    owed: tuple[LineQuantity, ...] = ()
    shipped: tuple[LineQuantity, ...] = ()
    cancelled: tuple[LineQuantity, ...] = ()
    delivered: tuple[LineQuantity, ...] = ()
    not_received: tuple[LineQuantity, ...] = ()
    lost: tuple[LineQuantity, ...] = ()
    found: tuple[LineQuantity, ...] = ()
    returned: tuple[LineQuantity, ...] = ()
    cancelled_lost: tuple[LineQuantity, ...] = Field(default=(), description="those of `cancelled` that were lost")
    cancelled_returned: tuple[LineQuantity, ...] = Field(
        default=(), description="those of `cancelled` that had come back to us"
    )


class HoldContext(Model):
    about: Literal["hold"] = "hold"
    hold: Hold
    is_placed: bool


class BackorderContext(Model):
    """A backorder after it; nothing is left of it at quantity 0."""

    about: Literal["backorder"] = "backorder"
    backorder_id: Id
    line_id: Id
    quantity: Count
    eta: datetime | None


class ChargeContext(Model):
    about: Literal["charge"] = "charge"
    shipment_id: Id | None
    amount_minor: Minor
    tender_id: Id | None = None


class CancellationContext(Model):
    """What cancelled units were worth, and what the order is worth without them."""

    about: Literal["cancellation"] = "cancellation"
    cancellation_id: Id
    worth_minor: Minor
    remaining_minor: Minor


class ReturnContext(Model):
    """What is known of a return: its label, why the policy declines units of it, what it is to lead to, what sending it
    back costs."""

    about: Literal["return"] = "return"
    return_id: Id
    label: str = ""
    declined: tuple[Text, ...] = ()
    resolution: Resolution | None = None
    shipping_fee_minor: Minor | None = None
    has_arrived: bool | None = Field(default=None, description="something of it is with us")


class DueContext(Model):
    """Money that a return comes to: what its goods are worth, what of that is kept, and what is left to be paid."""

    about: Literal["due"] = "due"
    due_id: Id
    return_id: Id
    worth_minor: Minor
    kept_minor: Minor = Field(description="by the condition they came in, and as fees of restocking")
    shipping_fee_minor: Minor = Field(description="kept for sending it back")
    amount_minor: Minor
    currency: Currency


class RefundCauseContext(Model):
    """What a refund is for, and how much of that is still owed."""

    about: Literal["refund_cause"] = "refund_cause"
    refund_id: Id
    cause_id: Id
    amount_minor: Minor | None = None


class LegStage(StrEnum):
    ROUTED = "routed"
    SUBMITTED = "submitted"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


class RefundContext(Model):
    """The legs of a refund that this fact concerns, and how far they are now."""

    about: Literal["refund"] = "refund"
    refund_id: Id
    stage: LegStage
    legs: tuple[LegContent, ...]


class WaitingContext(Model):
    """Something to tell, as soon as it is known to whom."""

    about: Literal["waiting"] = "waiting"
    kind: NotificationKind
    trigger_id: str
    matter: Content
    service: Id
    sequence: int


class NotificationBasisNoted(OrderFact, service="notifications", type="notification.basis_noted"):
    """What messages of this order rest on, as another service told it."""

    heard: str = Field(description="type of the fact that was heard; its id is the causation id")
    basis: Annotated[
        RecipientContext
        | UnitsContext
        | BackorderContext
        | ChargeContext
        | RefundContext
        | WaitingContext
        | CancellationContext
        | ReturnContext
        | HoldContext
        | DueContext
        | RefundCauseContext,
        Field(discriminator="about"),
    ]


class NotificationKindSuppressed(OrderFact, service="notifications", type="notification.kind_suppressed"):
    """From now on no message of this kind is sent for this order, corrections aside."""

    kind: NotificationKind
    detail: Text


class NotificationKindResumed(OrderFact, service="notifications", type="notification.kind_resumed"):
    kind: NotificationKind
    detail: Text


class NotificationFact(OrderFact, service="notifications"):
    notification_id: Id


class NotificationQueued(NotificationFact, type="notification.queued"):
    kind: NotificationKind
    audience: Id
    dedupe_key: str
    trigger_id: str = Field(description="id of the fact that caused it")
    statements: tuple[Statement, ...]
    matter: Content | None = None
    queued_at: datetime | None = None
    corrects: tuple[Corrected, ...] = ()


class NotificationRestated(NotificationFact, type="notification.restated"):
    """Nobody has read it yet, and a fact made what it says untrue: it says this instead."""

    by_fact_id: str
    statements: tuple[Statement, ...]


class NotificationSuppressed(NotificationFact, type="notification.suppressed"):
    detail: Text


class NotificationSuppressionRequested(NotificationFact, type="notification.suppression_requested"):
    """A person holds it back while an attempt to send it is under way: it is not tried again, should that attempt fail."""

    detail: Text


class NotificationCoalesced(NotificationFact, type="notification.coalesced"):
    into_id: Id
    policy: PolicyRef | None = None


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
    """What the customer was told is not true any more, by this fact. Said once of a statement."""

    by_fact_id: str
    statement: Statement
    heard: str | None = Field(default=None, description="type of that fact")


class NotificationCorrectionSent(NotificationFact, type="notification.correction_sent"):
    """It told the customer what of the message `corrects_id` is not true any more."""

    corrects_id: Id
