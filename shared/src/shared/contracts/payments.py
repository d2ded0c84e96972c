"""What the payments service tells: topic `payments.events`."""

from datetime import datetime
from enum import StrEnum
from typing import Literal

from pydantic import Field

from shared.contracts.base import Id, LineQuantity, Model, OrderFact, PolicyRef, Quantity, TenderKind, Text
from shared.contracts.orders import TenderSpec
from shared.core.money import Currency, Minor


class PaymentsFact(OrderFact, service="payments"):
    pass


class PayableLine(Model):
    """What the units of a line are worth, as placed."""

    line_id: Id
    quantity: Quantity
    goods_minor: Minor
    shipping_minor: Minor


class PaymentOpened(PaymentsFact, type="payment.opened"):
    """What is to be paid, for what and by what: taken from the order once, never computed again."""

    customer_id: Id
    currency: Currency
    lines: tuple[PayableLine, ...]
    shipping_minor: Minor
    total_minor: Minor
    tenders: tuple[TenderSpec, ...]
    placed_at: datetime


class UnitsChange(StrEnum):
    """What happened to units, as payments counts them.

    `handed_over`: for the first time, replacements aside; `due_back`: a return states a refund for them;
    `exceptional`: by a policy exception; `claimed`: as never received.
    """

    HANDED_OVER = "handed_over"
    CLAIMED = "claimed"
    CANCELLED = "cancelled"
    UNDELIVERED = "undelivered"
    FOUND = "found"
    DUE_BACK = "due_back"
    EXCEPTIONAL = "exceptional"


class SubstituteUnits(Model):
    """Units of a line that are another article, at what the customer pays for one of it."""

    line_id: Id
    quantity: Quantity
    unit_price_minor: Minor


class PaymentUnitsNoted(PaymentsFact, type="payment.units_noted"):
    """Something happened to units that moves what is to be captured or may be refunded; `cause_id` says what.

    `substitutes` are those of `lines` that are another article at a price of its own; `returned`, of cancelled ones, those that
    had been handed over and came back to their sender.
    """

    change: UnitsChange
    cause_id: Id
    lines: tuple[LineQuantity, ...]
    substitutes: tuple[SubstituteUnits, ...] = ()
    returned: tuple[LineQuantity, ...] = ()


class OperationKind(StrEnum):
    AUTHORIZE = "authorize"
    CAPTURE = "capture"
    VOID = "void"
    REFUND = "refund"


class TenderExcluded(Model):
    tender_id: Id
    reason: Id


class TenderFact(PaymentsFact):
    """A fact about one tender and one operation on it; the operation id is its idempotency key, for life."""

    tender_id: Id
    operation_id: Id
    amount_minor: Minor
    currency: Currency
    exchange_id: Id | None = Field(
        default=None, description="the exchange whose difference this charges, on a tender of its own; none: the order"
    )


class PaymentAuthorizationRequested(TenderFact, type="payment.authorization_requested"):
    """`requested_at`, here and below, is the business time the provider is told.

    A charge for an exchange goes to the card, wallet or account of `charged_tender_id`, chosen for `reasons`.
    """

    tender_kind: TenderKind
    attempt: int = Field(ge=1)
    requested_at: datetime
    charged_tender_id: Id | None = None
    reasons: tuple[Id, ...] = ()
    excluded: tuple[TenderExcluded, ...] = ()


class PaymentOperationSubmitted(TenderFact, type="payment.operation_submitted"):
    """The call may have reached the provider from now on."""

    kind: OperationKind


class PaymentAuthorized(TenderFact, type="payment.authorized"):
    tender_kind: TenderKind
    reference: str
    expires_at: datetime | None


class PaymentReauthorized(TenderFact, type="payment.reauthorized"):
    tender_kind: TenderKind
    reference: str
    expires_at: datetime | None


class PaymentDeclined(TenderFact, type="payment.declined"):
    code: str
    fraud: bool = False


class PaymentAuthorizationExpired(PaymentsFact, type="payment.authorization_expired"):
    """`final`: nothing is left to ship on it, so it is not authorized again."""

    tender_id: Id
    amount_minor: Minor
    final: bool
    exchange_id: Id | None = None


class PaymentCaptureRequested(TenderFact, type="payment.capture_requested"):
    """`final`: the provider releases what remains of the authorization."""

    shipment_id: Id | None
    final: bool
    requested_at: datetime


class PaymentCaptured(TenderFact, type="payment.captured"):
    shipment_id: Id | None
    final: bool
    reference: str
    tender_captured_minor: Minor
    order_captured_minor: Minor


class PaymentCaptureFailed(TenderFact, type="payment.capture_failed"):
    shipment_id: Id | None
    code: str


class PaymentVoidRequested(TenderFact, type="payment.void_requested"):
    requested_at: datetime


class PaymentVoided(TenderFact, type="payment.voided"):
    """The remainder of the authorization is released; nothing moved."""


class PaymentVoidFailed(TenderFact, type="payment.void_failed"):
    """The provider would not release it; the authorization stands until it expires."""

    code: str


class PaymentOperationUnknown(TenderFact, type="payment.operation_unknown"):
    """The provider did not answer: it may or may not have happened, until reconciled."""

    kind: OperationKind


class PaymentOperationReconciled(TenderFact, type="payment.operation_reconciled"):
    kind: OperationKind
    outcome: Literal["succeeded", "failed", "never_seen"]


class PaymentAnomalyDetected(PaymentsFact, type="payment.anomaly_detected"):
    """The provider said something our books contradict. Money that moved all the same is booked by facts of its own."""

    operation_id: Id | None
    expected_minor: Minor | None
    observed_minor: Minor | None
    detail: Text


class ChargeFact(PaymentsFact):
    """About what a customer owes for an exchange, beside what the order is worth."""

    exchange_id: Id
    return_id: Id
    amount_minor: Minor
    currency: Currency


class PaymentChargeRequested(ChargeFact, type="payment.charge_requested"):
    """It is to be charged to a tender of the order; again where that had failed."""


class PaymentChargeFailed(ChargeFact, type="payment.charge_failed"):
    """Declined, or no tender can be charged: nothing was taken, and a person is to see to it."""

    code: Id


class PaymentChargeDropped(ChargeFact, type="payment.charge_dropped"):
    """Settled otherwise, or no longer due: nothing more is charged for it."""


class MovementKind(StrEnum):
    """What the provider did with money: it took it, gave it back, got it back, released it, or may take it."""

    CAPTURE = "capture"
    REFUND = "refund"
    REFUND_REVERSED = "refund_reversed"
    VOID = "void"
    AUTHORIZATION = "authorization"


class PaymentMovementRecorded(PaymentsFact, type="payment.movement_recorded"):
    """The provider moved money in a way that we did not ask for. It is booked: by a capture more can be refunded, by a refund
    less.

    `not_asked_for`: under a key of nobody here, in the provider's dashboard for example; `failed_before`: the operation had
    failed for us, and its money went another way since; `other_amount`: it is what an operation of ours moved beyond what was
    asked for. `authorization` is the provider's reference of what it moved on.
    """

    movement_id: Id
    tender_id: Id | None
    kind: MovementKind
    amount_minor: Minor
    currency: Currency
    reference: str = Field(description="the provider's")
    authorization: str | None = None
    operation_id: Id | None = Field(default=None, description="the operation of ours that it contradicts")
    occurred_at: datetime
    contradicts: Literal["not_asked_for", "failed_before", "other_amount"]
    detail: Text
    tender_captured_minor: Minor = Field(description="of the tender, with it")
    tender_open_minor: Minor = Field(description="authorized on the tender and neither captured nor released, with it")


class DisputeFact(PaymentsFact):
    """A tender may have several disputes, each with its amount, and one that was won may be opened or lost again."""

    dispute_id: Id
    tender_id: Id
    amount_minor: Minor
    currency: Currency
    at: datetime | None = Field(default=None, description="when it happened, as the provider says")
    authorization: str | None = Field(default=None, description="the provider's reference of what is disputed")


class DisputeOpened(DisputeFact, type="dispute.opened"):
    """The money is held until it ends."""


class DisputeWon(DisputeFact, type="dispute.won"):
    """The money is ours again."""


class DisputeLost(DisputeFact, type="dispute.lost"):
    """The amount has left for good."""


class RefundKind(StrEnum):
    RETURN = "return"
    CANCELLATION = "cancellation"
    SHORT_SHIP = "short_ship"
    LOST = "lost"
    GOODWILL = "goodwill"
    PRICE_ADJUSTMENT = "price_adjustment"
    OVERPAID = "overpaid"
    SHIPPING = "shipping"


class RefundChannel(StrEnum):
    """Where the money goes: back to the tender it came from, or to a fallback."""

    ORIGINAL = "original"
    STORE_CREDIT = "store_credit"
    BANK_TRANSFER = "bank_transfer"


class RefundLine(Model):
    """Units and their money in this refund; `quantity` 0 is money without units (a price adjustment, shipping)."""

    line_id: Id
    quantity: int = Field(ge=0)
    amount_minor: Minor
    already_minor: Minor = Field(
        default=0, description="of what these units are worth, given back for them before: not in the amount"
    )
    shipping_minor: Minor = Field(default=0, description="of the amount, what was paid for shipping")


class PayoutAccount(Model):
    """Where a bank transfer goes to. The number itself is kept by payments and never travels."""

    account_id: Id
    masked: str = Field(description="as it may be shown")


class RefundFact(PaymentsFact):
    refund_id: Id


class RefundRequested(RefundFact, type="refund.requested"):
    kind: RefundKind
    cause_id: Id = Field(description="what makes it due: a refund-due id, a cancellation, a dispute; once per cause")
    return_id: Id | None = None
    lines: tuple[RefundLine, ...]
    amount_minor: Minor
    stated_minor: Minor | None = Field(
        default=None, description="what its cause states; the amount is what of it is still owed"
    )
    currency: Currency
    trigger_at: datetime = Field(description="when the refund clock started, by policy")
    channel: RefundChannel = RefundChannel.ORIGINAL
    consents: tuple[RefundChannel, ...] = Field(default=(), description="fallbacks the customer has agreed to")
    requester: str = Field(description="the actor; whoever approves must be another")
    account: PayoutAccount | None = Field(default=None, description="where a bank transfer goes to")


class RefundApprovalRequired(RefundFact, type="refund.approval_required"):
    reasons: tuple[str, ...]
    policy: PolicyRef


class RefundApproved(RefundFact, type="refund.approved"):
    """The balance is reserved from this fact on. `approver` is None where policy asked for none."""

    amount_minor: Minor
    currency: Currency
    approver: str | None


class RefundReduced(RefundFact, type="refund.reduced"):
    """No more than `amount_minor` of it is left to give back, or a person gave up the rest: the rest is not owed any more."""

    amount_minor: Minor
    before_minor: Minor
    currency: Currency
    reason_code: Id


class RefundRejected(RefundFact, type="refund.rejected"):
    """A person turned it down, or nothing is due for it: reason `not_due` where everything was given back before."""

    reason_code: Id
    detail: Text
    cause_id: Id | None = None
    return_id: Id | None = None


class RefundCancelled(RefundFact, type="refund.cancelled"):
    detail: Text
    cause_id: Id | None = None
    return_id: Id | None = None


class RefundLeg(Model):
    """One payout. `tender_id` is whose captured balance it draws on, whatever the channel.

    `authorization` is the provider's reference that it goes back to; None for a payout to another channel.
    """

    leg_id: Id
    tender_id: Id
    tender_kind: TenderKind
    channel: RefundChannel
    amount_minor: Minor
    reasons: tuple[str, ...]
    promised_at: datetime
    authorization: str | None = None


class RefundRouted(RefundFact, type="refund.routed"):
    legs: tuple[RefundLeg, ...]
    excluded: tuple[TenderExcluded, ...]
    policy: PolicyRef
    promised_at: datetime
    requested_at: datetime
    account: PayoutAccount | None = Field(default=None, description="where bank transfers go to from now on")


class RefundLegFact(RefundFact):
    leg_id: Id
    operation_id: Id
    tender_id: Id
    channel: RefundChannel
    amount_minor: Minor
    currency: Currency


class RefundLegSubmitted(RefundLegFact, type="refund.leg_submitted"):
    pass


class RefundLegSucceeded(RefundLegFact, type="refund.leg_succeeded"):
    reference: str


class RefundLegFailed(RefundLegFact, type="refund.leg_failed"):
    code: str


class RefundLegReversed(RefundLegFact, type="refund.leg_reversed"):
    """The payout bounced after it had succeeded: its balance is free again."""

    code: str


class RefundCompleted(RefundFact, type="refund.completed"):
    kind: RefundKind
    cause_id: Id
    return_id: Id | None
    amount_minor: Minor
    currency: Currency
    trigger_at: datetime


class RefundPartiallyCompleted(RefundFact, type="refund.partially_completed"):
    succeeded_minor: Minor
    failed_minor: Minor
    currency: Currency


class RefundAttentionNeeded(RefundFact, type="refund.attention_needed"):
    reason_code: Id
    outstanding_minor: Minor
    currency: Currency
    cause_id: Id | None = None
    return_id: Id | None = None


class StoreCreditFact(PaymentsFact):
    credit_id: Id
    customer_id: Id
    amount_minor: Minor
    currency: Currency


class StoreCreditIssued(StoreCreditFact, type="store_credit.issued"):
    refund_id: Id


class StoreCreditSpent(StoreCreditFact, type="store_credit.spent"):
    tender_id: Id


class StoreCreditClawedBack(StoreCreditFact, type="store_credit.clawed_back"):
    refund_id: Id
