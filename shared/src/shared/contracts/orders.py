"""What the orders service tells: topic `orders.events`."""

from datetime import date, datetime
from enum import StrEnum
from typing import Annotated, Final, Literal, TypeAlias

from pydantic import Field

from shared.contracts.base import (
    Bucket,
    Count,
    Id,
    LineQuantity,
    Model,
    Name,
    OrderFact,
    PolicyRef,
    Quantity,
    TenderKind,
    Text,
)
from shared.core.money import Currency, Minor


class OrdersFact(OrderFact, service="orders"):
    pass


class Customer(Model):
    customer_id: Id
    email: str = Field(min_length=3, max_length=320, description="checked where it came in")
    name: Name
    locale: str = Field(default="en", pattern=r"^[a-z]{2}(-[A-Z]{2})?$")


HIDDEN: Final = "•••"


def masked_email(email: str) -> str:
    """Its first letter and its domain: what is shown of it where there is no reason to see more."""
    name, _, domain = email.rpartition("@")
    return f"{name[:1]}{HIDDEN}@{domain}"


class Address(Model):
    name: Name
    street: Name
    city: Name
    postal_code: str = Field(min_length=1, max_length=20)
    country: str = Field(pattern=r"^[A-Z]{2}$", description="ISO 3166-1 alpha-2")


class OrderLine(Model):
    """A line as placed. `goods_minor` = quantity x unit price - discount + tax; never computed again."""

    line_id: Id
    sku: Id
    title: Name
    category: Id = "general"
    quantity: Quantity
    unit_price_minor: Minor
    discount_minor: Minor
    tax_minor: Minor
    shipping_minor: Minor
    goods_minor: Minor
    final_sale: bool = False
    promised_on: date | None = None


class TenderSpec(Model):
    """How much of the order is to be paid by what. `token` is the provider's, never a card number."""

    tender_id: Id
    kind: TenderKind
    token: str = Field(min_length=1, max_length=200)
    amount_minor: Minor


class ShippingPreference(Model):
    """`max_n_shipments` needs `max_shipments`."""

    rule: Literal["as_available", "complete_only", "max_n_shipments"] = "as_available"
    max_shipments: int | None = Field(default=None, ge=1, le=100)


class Hold(StrEnum):
    PAYMENT = "payment"
    FRAUD = "fraud"
    ADDRESS = "address"
    STOCK = "stock"
    CUSTOMER_CONSENT = "customer_consent"
    AWAITING_RETURN = "awaiting_return"
    MANUAL = "manual"


class OrderPlaced(OrdersFact, type="order.placed"):
    placed_at: datetime
    customer: Customer
    ship_to: Address
    currency: Currency
    lines: tuple[OrderLine, ...]
    goods_minor: Minor
    shipping_minor: Minor
    total_minor: Minor
    tenders: tuple[TenderSpec, ...]
    preference: ShippingPreference = ShippingPreference()
    terms: bool = False
    return_policy: PolicyRef | None = None


class OrderConfirmed(OrdersFact, type="order.confirmed"):
    authorized_minor: Minor
    total_minor: Minor
    funded_until: datetime | None = Field(
        default=None, description="from when on an authorization has run out; none: nothing of it runs out"
    )


class OrderFundingChanged(OrdersFact, type="order.funding_changed"):
    """Until when what has not left is paid for: an authorization ran out, was renewed, or is not needed any more."""

    funded_until: datetime | None


class OrderRejected(OrdersFact, type="order.rejected"):
    reason_code: Literal["payment_declined", "fraud"]
    detail: Text


class OrderHoldPlaced(OrdersFact, type="order.hold_placed"):
    hold: Hold
    detail: Text


class OrderHoldReleased(OrdersFact, type="order.hold_released"):
    hold: Hold
    detail: Text


class OrderCancellationRequested(OrdersFact, type="order.cancellation_requested"):
    """`lines` are the units asked for; fulfillment answers each of them, cancelled or refused."""

    cancellation_id: Id
    lines: tuple[LineQuantity, ...]
    whole: bool
    detail: Text


class CancelledValue(Model):
    """What the units were worth: by cumulative rounding, goods only (shipping stays due while anything ships)."""

    line_id: Id
    quantity: Quantity
    goods_minor: Minor


class OrderLinesCancelled(OrdersFact, type="order.lines_cancelled"):
    """`returned` are those of `lines` that had been handed over and came back to their sender."""

    cancellation_id: Id
    lines: tuple[CancelledValue, ...]
    remaining_minor: Minor = Field(description="value of the order that is left, shipping included")
    returned: tuple[LineQuantity, ...] = ()


class OrderCancellationRefused(OrdersFact, type="order.cancellation_refused"):
    cancellation_id: Id
    lines: tuple[LineQuantity, ...]
    reason_code: Id


class OrderCancelled(OrdersFact, type="order.cancelled"):
    cancellation_id: Id


class OrderCompleted(OrdersFact, type="order.completed"):
    """`closes_at` is by the order policy in force at placement."""

    delivered: Count
    cancelled: Count
    lost: Count
    closes_at: datetime | None = None
    policy: PolicyRef | None = None


class OrderClosed(OrdersFact, type="order.closed"):
    pass


class OrderReopened(OrdersFact, type="order.reopened"):
    cause: Literal["dispute", "goodwill", "replacement"]
    closes_at: datetime | None = None
    policy: PolicyRef | None = None


class OrderAddressChanged(OrdersFact, type="order.address_changed"):
    ship_to: Address


class BackorderChoice(StrEnum):
    WAIT = "wait"
    CANCEL = "cancel"
    SUBSTITUTE = "substitute"
    SHIP_AVAILABLE = "ship_available"


class OrderBackorderConsentGiven(OrdersFact, type="order.backorder_consent_given"):
    backorder_id: Id
    choice: BackorderChoice
    substitute_sku: Id | None = None
    substitute_title: Name | None = None
    substitute_unit_price_minor: Minor | None = Field(default=None, description="none: the line's own price")


class UnitsMoved(Model):
    """Units of a line from one forward bucket to another; `source` None: owed anew, by a replacement."""

    line_id: Id
    quantity: Quantity
    source: Bucket | None
    target: Bucket


class UnitsStep(Model):
    """Where units are now, and whose move it was. `exception`: whether `parcel` is in trouble now; None: as before."""

    about: Literal["units"] = "units"
    moves: tuple[UnitsMoved, ...] = ()
    shipment_id: Id | None = None
    backorder_id: Id | None = None
    parcel: str | None = Field(default=None, description="tracking number")
    exception: bool | None = None


class TenderStep(Model):
    """A tender's amounts after it: still authorized, captured in all. `failed_minor` could not be captured just now."""

    about: Literal["tender"] = "tender"
    tender_id: Id
    authorized_minor: Minor
    captured_minor: Minor
    declined: Text | None = None
    fraud: bool = False
    shipment_id: Id | None = None
    failed_minor: Minor = 0
    expires_at: datetime | None = Field(default=None, description="when what is authorized runs out")
    lapsed: bool = Field(default=False, description="it has run out, and is to be authorized again")


class RefundStage(StrEnum):
    OPEN = "open"
    DONE = "done"
    ATTENTION = "attention"
    DROPPED = "dropped"


class RefundStep(Model):
    """A refund after it: what has been paid out, and whether more is to come."""

    about: Literal["refund"] = "refund"
    refund_id: Id
    kind: Id
    stage: RefundStage
    amount_minor: Minor
    paid_minor: Minor
    lines: tuple[LineQuantity, ...] = ()


class ReturnStage(StrEnum):
    REQUESTED = "requested"
    APPROVED = "approved"
    ARRIVED = "arrived"
    DECLINED = "declined"
    OVER = "over"


class ReturnStep(Model):
    """A return after it. `returned` units were taken back at inspection."""

    about: Literal["return"] = "return"
    return_id: Id
    stage: ReturnStage
    returned: Count


class DisputeStage(StrEnum):
    OPEN = "open"
    WON = "won"
    LOST = "lost"


class DisputeStep(Model):
    about: Literal["dispute"] = "dispute"
    dispute_id: Id
    stage: DisputeStage


class ChargeStep(Model):
    """What was captured for an exchange, beside what the order is worth."""

    about: Literal["charge"] = "charge"
    exchange_id: Id
    captured_minor: Minor


class WrittenOffStep(Model):
    """Units that went astray and were worth nothing: no refund settles them."""

    about: Literal["written_off"] = "written_off"
    lines: tuple[LineQuantity, ...]


class UnaskedRefundStep(Model):
    """What the provider gave back without having been asked, under its own reference; 0 once it came back."""

    about: Literal["unasked_refund"] = "unasked_refund"
    reference: str
    paid_minor: Minor


Step: TypeAlias = (
    UnitsStep | TenderStep | RefundStep | ReturnStep | DisputeStep | WrittenOffStep | ChargeStep | UnaskedRefundStep
)


class OrderProgressed(OrdersFact, type="order.progressed"):
    """What another service told of the order, taken into its counters: the roll-ups are functions of these."""

    heard: str = Field(description="type of the fact that was heard; its id is the causation id")
    step: Annotated[Step, Field(discriminator="about")]
