"""What the returns service tells: topic `returns.events`."""

from datetime import date, datetime
from enum import StrEnum
from typing import Final, Literal

from pydantic import Field

from shared.contracts.base import Count, Fact, Id, LineQuantity, Model, Name, OrderFact, PolicyRef, Quantity, Text
from shared.core.money import Currency, Minor


class ReturnsFact(OrderFact, service="returns"):
    pass


class ReturnReason(StrEnum):
    UNWANTED = "unwanted"
    SIZE = "size"
    DEFECTIVE = "defective"
    DAMAGED_IN_TRANSIT = "damaged_in_transit"
    WRONG_ITEM = "wrong_item"
    NOT_AS_DESCRIBED = "not_as_described"
    LATE = "late"
    NOT_RECEIVED = "not_received"


class DeclaredCondition(StrEnum):
    UNOPENED = "unopened"
    OPENED = "opened"
    USED = "used"
    DAMAGED = "damaged"


class Resolution(StrEnum):
    REFUND = "refund"
    STORE_CREDIT = "store_credit"
    EXCHANGE = "exchange"
    REPLACE_ON_RECEIPT = "replace_on_receipt"
    REPLACE_IN_ADVANCE = "replace_in_advance"
    REPAIR = "repair"
    KEEP_IT = "keep_it"


class InspectionOutcome(StrEnum):
    AS_NEW = "as_new"
    OPENED = "opened"
    DEFECTIVE = "defective"
    CUSTOMER_DAMAGE = "customer_damage"
    INCOMPLETE = "incomplete"
    WRONG_ITEM = "wrong_item"
    COUNTERFEIT = "counterfeit"
    NOT_IN_BOX = "not_in_box"
    EXTRA_ITEM = "extra_item"


class Disposition(StrEnum):
    RESTOCK = "restock"
    REGRADE = "regrade"
    VENDOR = "vendor"
    SCRAP = "scrap"
    QUARANTINE = "quarantine"
    HOLD = "hold"
    SEND_BACK = "send_back"
    NONE = "none"


NOT_HERE: Final = frozenset({InspectionOutcome.NOT_IN_BOX, InspectionOutcome.EXTRA_ITEM})
"""Outcomes that say nothing about a unit of the return: it did not come, or it is not one of them."""

KEPT_BY_US: Final = frozenset({Disposition.RESTOCK, Disposition.REGRADE, Disposition.VENDOR, Disposition.SCRAP})


class InspectionRule(Model):
    """One row of the versioned inspection table: what an outcome leads to. `fee_percent` is of the refund."""

    outcome: InspectionOutcome
    disposition: Disposition
    refund_percent: int = Field(ge=0, le=100)
    fee_percent: int = Field(ge=0, le=100)
    refund_shipping: bool = False
    review: bool = False


class WindowTier(Model):
    """A window that replaces the base one where everything it names matches; the longest that matches wins."""

    days: int = Field(ge=0, le=3650)
    category: Id | None = None
    condition: DeclaredCondition | None = None
    membership: Id | None = None
    placed_from: date | None = None
    placed_to: date | None = None


class ReturnPolicy(Model):
    """A return policy at one version. Thresholds live here, never in code."""

    policy_id: Id
    version: int = Field(ge=1)
    effective_from: datetime
    window_days: int = Field(ge=0, le=3650)
    window_anchor: Literal["delivered", "shipped", "ordered"] = "delivered"
    grace_days: int = Field(default=0, ge=0, le=365)
    tiers: tuple[WindowTier, ...] = ()
    extend_to_business_day: bool = False
    holidays: tuple[date, ...] = ()
    final_sale_returnable: bool = False
    excluded_categories: tuple[Id, ...] = ()
    review_conditions: tuple[DeclaredCondition, ...] = (DeclaredCondition.DAMAGED,)
    declined_conditions: tuple[DeclaredCondition, ...] = ()
    review_abuse_score: int = Field(default=70, ge=0, le=100)
    statutory_days: int = Field(default=14, ge=0, le=365, description="no shorter window applies to unopened goods")
    resolutions: tuple[Resolution, ...] = (Resolution.REFUND, Resolution.STORE_CREDIT)
    return_shipping_fee_minor: Minor = 0
    free_return_reasons: tuple[ReturnReason, ...] = (
        ReturnReason.DEFECTIVE,
        ReturnReason.DAMAGED_IN_TRANSIT,
        ReturnReason.WRONG_ITEM,
        ReturnReason.NOT_AS_DESCRIBED,
    )
    authorization_days: int = Field(default=30, ge=1, le=365, description="approved and unscanned after this: expired")
    late_parcel_reopens: bool = Field(default=True, description="of an expired return; else its items are unexpected")
    close_days: int = Field(default=14, ge=0, le=365, description="resolved for this long: closed")
    refund_trigger: Literal["carrier_scan", "receipt", "inspection", "at_once"] = "inspection"
    recovery_days: int = Field(
        default=14, ge=1, le=365, description="what a customer holds and did not pay is to be settled within these"
    )
    recovery_charged: bool = Field(default=False, description="then it is charged by itself; else a person decides")
    review_days: int = Field(
        default=5, ge=1, le=365, description="a person decides on a review or a claim within these"
    )
    inspection: tuple[InspectionRule, ...]


class PolicyPublished(Fact, type="policy.published", service="returns"):
    policy: ReturnPolicy

    @property
    def subject(self) -> str:
        return f"policy:{self.policy.policy_id}"


class PolicyRetired(Fact, type="policy.retired", service="returns"):
    """It binds no purchase from `retired_at` on; those it bound before stay bound."""

    policy_id: Id
    version: int
    retired_at: datetime

    @property
    def subject(self) -> str:
        return f"policy:{self.policy_id}"


class PolicyBound(ReturnsFact, type="policy.bound"):
    """The policy in force at purchase, which binds the order whatever is published later."""

    policy: PolicyRef


class PurchasedLine(Model):
    line_id: Id
    sku: Id
    category: Id
    quantity: Quantity
    goods_minor: Minor
    shipping_minor: Minor
    final_sale: bool


class ReturnPurchaseRecorded(ReturnsFact, type="return.purchase_recorded"):
    """What was bought, as far as a return of it needs to know."""

    placed_at: datetime
    currency: Currency
    lines: tuple[PurchasedLine, ...]
    pinned: PolicyRef | None = Field(default=None, description="the policy the order itself names")


class RecordedUnits(Model):
    line_id: Id
    quantity: Quantity
    goods_minor: Minor = Field(default=0, description="what cancelled units were worth")
    sku: Id | None = Field(default=None, description="of units that are another article than the one ordered")
    returned: Count = Field(default=0, description="cancelled units that had left and came back to their sender")


class ReturnUnitsRecorded(ReturnsFact, type="return.units_recorded"):
    """Where units are, as fulfillment and orders told it: windows start here, and reverse buckets are a part of them.

    `withdrawn`: once delivered or lost and now neither, since the customer did not get them or they were found. `settled`:
    lost or back at the sender, and sent again without a claim. `relabelled`: no units moved, and the parcel is told of by another
    number from now on.
    """

    source_id: Id = Field(description="the shipment, the cancellation, or the replacement")
    tracking: Id | None = Field(default=None, description="the parcel of the shipment that the lines are in")
    stage: Literal["shipped", "delivered", "lost", "withdrawn", "cancelled", "settled", "relabelled"]
    lines: tuple[RecordedUnits, ...]
    at: datetime
    replaced: tuple[LineQuantity, ...] = Field(
        default=(), description="units of the parcel that others were sent for: the customer has both"
    )
    replaces: Id | None = Field(default=None, description="the number by which the parcel was told of until now")


class ReturnDisputeRecorded(ReturnsFact, type="return.dispute_recorded"):
    """An open dispute sends returns of its order to review."""

    dispute_id: Id
    is_open: bool


class ReturnFact(ReturnsFact):
    return_id: Id


class ReturnLine(Model):
    line_id: Id
    quantity: Quantity
    reason: ReturnReason
    condition: DeclaredCondition
    exchange_sku: Id | None = None
    exchange_unit_price_minor: Minor | None = Field(default=None, description="None: an even exchange")


class ReturnRequested(ReturnFact, type="return.requested"):
    requested_at: datetime
    lines: tuple[ReturnLine, ...]
    resolution: Resolution
    note: Text
    evidence: tuple[str, ...] = Field(default=(), description="names of images the customer gave")
    membership: Id | None = None
    abuse_score: int = Field(default=0, ge=0, le=100)


class Why(Model):
    """One reason of a decision: a code to count by and a sentence to read."""

    code: Id
    text: Text


class Verdict(Model):
    """What the policy says of a group of units with one history; all reasons, not the first."""

    line_id: Id
    quantity: Quantity
    outcome: Literal["approve", "review", "decline"]
    reasons: tuple[Why, ...]
    delivered_at: datetime | None = Field(default=None, description="the delivery these units have in common")
    window_ends_at: datetime | None
    allowed_resolutions: tuple[Resolution, ...]
    return_shipping_fee_minor: Minor


class ReturnEligibilityEvaluated(ReturnFact, type="return.eligibility_evaluated"):
    verdicts: tuple[Verdict, ...]
    policy: PolicyRef
    inputs_hash: str = Field(description="SHA-256 of the canonical JSON of policy, order facts, unit facts and request")


class ReturnSentToReview(ReturnFact, type="return.sent_to_review"):
    reasons: tuple[Why, ...]
    policy: PolicyRef
    decide_by: datetime | None = Field(default=None, description="a person decides by then, or it is late")


class ReturnApproved(ReturnFact, type="return.approved"):
    """Units that are here already and are not named are sent back to the customer."""

    lines: tuple[LineQuantity, ...]
    expires_at: datetime
    approver: str | None
    policy: PolicyRef
    resolution: Resolution | None = Field(default=None, description="of goods that came without a return, as decided")


class ReturnDeclined(ReturnFact, type="return.declined"):
    """Units that are here already are sent back to the customer."""

    reasons: tuple[Why, ...]
    policy: PolicyRef


class ReturnExceptionGranted(ReturnFact, type="return.exception_granted"):
    """A supervisor set the policy aside; `return.approved` follows."""

    approver: str
    detail: Text
    lines: tuple[LineQuantity, ...]
    policy: PolicyRef


class ReturnLabelIssued(ReturnFact, type="return.label_issued"):
    carrier: Id
    tracking: Id


class ReturnInTransit(ReturnFact, type="return.in_transit"):
    """All that is awaited is taken to be in it; `expires_at` replaces the authorization's."""

    tracking: Id
    expires_at: datetime


class ObservedLine(LineQuantity):
    """Units of a line as the warehouse reports them: which article they are, and what an inspection found."""

    sku: Id | None = Field(default=None, description="the article that came; None: the warehouse does not say")
    outcome: InspectionOutcome | None = None


class ObservedItem(Model):
    """An item that is none of the order's, as the warehouse reports it."""

    sku: Id
    quantity: Quantity


class ConfirmedUnits(Model):
    return_id: Id
    line_id: Id
    quantity: Quantity


class ReturnObservationRecorded(ReturnsFact, type="return.observation_recorded"):
    """What the warehouse or the carrier reported, word by word, before anything is made of it.

    One that waits is applied when the order is known or the return it is about is decided; a second fact of the same
    observation, which waits no longer, stands for that.
    """

    observation: Literal["warehouse.parcel_received", "warehouse.items_inspected", "carrier.return_scanned"]
    observation_id: Id = Field(description="the receipt, the inspection or the tracking number")
    return_id: Id = Field(description="as the reporter names it")
    location: Id | None = None
    lines: tuple[ObservedLine, ...] = ()
    unexpected: tuple[ObservedItem, ...] = ()
    at: datetime
    waits: bool = False
    confirms: tuple[ConfirmedUnits, ...] = Field(
        default=(), description="units of this receipt that an inspection had reported before"
    )


class ReturnDiscrepancyRecorded(ReturnsFact, type="return.discrepancy_recorded"):
    """What was reported contradicts what returns know. It is recorded all the same; a person should look."""

    discrepancy_id: Id
    observation: Id = Field(description="the type of the message, such as `warehouse.parcel_received`")
    contradicts: Literal[
        "unknown_order",
        "no_policy",
        "unknown_return",
        "unknown_line",
        "return_over",
        "quantities",
        "not_delivered",
        "other_article",
        "other_content",
        "empty",
        "recovery_settled",
        "unknown_charge",
    ]
    return_id: Id | None = None
    lines: tuple[ObservedLine, ...] = ()
    detail: Text
    recovery_id: Id | None = Field(default=None, description="the case of which `amount_minor` was charged too much")
    amount_minor: Minor | None = None


class ReturnReceivedUnannounced(ReturnFact, type="return.received_unannounced"):
    """Goods of the order came back without a return that expected them: a blind return, which a person decides on.

    Again for the same return while it is under review: more of it came.
    """

    announced_as: Id = Field(description="the return that the warehouse named")
    receipt_id: Id
    location: Id
    lines: tuple[ObservedLine, ...]
    received_at: datetime
    decide_by: datetime | None = Field(default=None, description="a person decides by then, or it is late")


class ReceivedLine(Model):
    line_id: Id
    quantity: Quantity = Field(description="in this parcel")
    total: Count = Field(description="received of this line in this return, with this parcel")
    sku: Id | None = Field(
        default=None, description="the article that came, where it is named; not, where it is the one ordered"
    )


class ReturnItemsReceived(ReturnFact, type="return.items_received"):
    receipt_id: Id
    location: Id
    lines: tuple[ReceivedLine, ...]
    complete: bool
    by_inspection: bool = Field(
        default=False, description="an inspection reported them before their receipt, under the inspection's id"
    )


class ReturnUnexpectedItemReceived(ReturnFact, type="return.unexpected_item_received"):
    receipt_id: Id
    sku: Id
    quantity: Quantity


class InspectedLine(Model):
    line_id: Id
    quantity: Quantity
    sku: Id | None = Field(default=None, description="the article, where it is named; not, where it is the one ordered")
    outcome: InspectionOutcome
    disposition: Disposition
    refund_percent: int
    fee_percent: int
    refund_shipping: bool = False
    review: bool = Field(default=False, description="nothing is refunded for them until a person revises it")
    worth_minor: Minor = Field(default=0, description="goods, by cumulative rounding over the line")
    shipping_minor: Minor = Field(default=0, description="their part of what was paid for shipping")

    @property
    def is_accepted(self) -> bool:
        """Whether the units are ours again: refunded at least in part or kept, and nothing of them is for a person to decide."""
        is_ours = self.refund_percent > 0 or self.disposition in KEPT_BY_US
        return is_ours and not self.review and self.outcome not in NOT_HERE


class ReturnItemsInspected(ReturnFact, type="return.items_inspected"):
    inspection_id: Id
    location: Id
    lines: tuple[InspectedLine, ...]
    policy: PolicyRef
    complete: bool = Field(description="nothing received is uninspected and nothing approved is awaited")
    recovery_minor: Minor = Field(default=0, description="refunded before the inspection, and too much by it")


class ReturnInspectionRevised(ReturnFact, type="return.inspection_revised"):
    inspection_id: Id
    location: Id
    before: tuple[InspectedLine, ...]
    after: tuple[InspectedLine, ...]
    policy: PolicyRef
    recovery_minor: Minor = Field(description="what was refunded too much by it; above zero opens a recovery case")


class DueLine(Model):
    """`refund_minor` = gross by cumulative rounding, less the percentage withheld, less fee, plus shipping.

    `quantity` 0 is money without units: a revision in the customer's favour, a difference of an exchange.
    """

    line_id: Id
    quantity: Count
    advanced_units: Count = Field(default=0, description="refunded before their inspection, as policy has it")
    advanced_minor: Minor = Field(default=0, description="what those are worth")
    gross_minor: Minor
    fee_minor: Minor
    shipping_minor: Minor
    refund_minor: Minor


class ReturnRefundDue(ReturnFact, type="return.refund_due"):
    """Money the return states; payments decides the channel. `due_id` derives from return, lines and quantities."""

    due_id: Id
    lines: tuple[DueLine, ...]
    amount_minor: Minor
    currency: Currency
    trigger_at: datetime
    resolution: Resolution
    return_shipping_fee_minor: Minor
    policy: PolicyRef


class ReturnResolved(ReturnFact, type="return.resolved"):
    resolution: Resolution
    requested_at: datetime
    refunded_minor: Minor
    withheld_minor: Minor = Field(default=0, description="fees kept of what the goods were worth, in all")
    currency: Currency
    closes_at: datetime


class ReturnRefundSettled(ReturnFact, type="return.refund_settled"):
    """Payments completed what was due."""

    due_id: Id
    refund_id: Id
    amount_minor: Minor


class ReturnRefundDropped(ReturnFact, type="return.refund_dropped"):
    """What was due will not be paid: payments rejected or cancelled the refund, or nothing of it is owed any more."""

    due_id: Id
    refund_id: Id
    reason_code: Id


class ReturnUnexpectedItemSettled(ReturnFact, type="return.unexpected_item_settled"):
    """Where an item went that is none of the return's."""

    receipt_id: Id
    sku: Id
    quantity: Quantity
    how: Literal["sent_back", "stocked", "disposed"]
    approver: str
    detail: Text


class ReturnEvidenceAttached(ReturnsFact, type="return.evidence_attached"):
    """A file that shows what a customer says. It is stored outside the journal, under its hash."""

    evidence_id: Id
    about: Id = Field(description="the return or the claim")
    name: Name
    sha256: str = Field(description="of the content, in hexadecimal")
    media_type: Literal["image/png", "image/jpeg", "image/gif", "image/webp", "application/pdf"]
    size_bytes: Count


class ReturnExpired(ReturnFact, type="return.expired"):
    """What is awaited did not arrive in time."""

    recovery_minor: Minor = Field(default=0, description="refunded in advance for units that did not come")


class ReturnCancelled(ReturnFact, type="return.cancelled"):
    detail: Text


class ReturnClosed(ReturnFact, type="return.closed"):
    """By its deadline, or by a person; one that was not resolved only by a supervisor, who says why."""

    approver: str | None = None
    detail: Text = ""
    unresolved: bool = False


class ReturnReopened(ReturnFact, type="return.reopened"):
    detail: Text
    evidence: tuple[str, ...] = ()


class ExchangeCreated(ReturnFact, type="exchange.created"):
    exchange_id: Id
    lines: tuple[LineQuantity, ...]
    sku: Id
    difference_minor: int = Field(description="positive: the customer owes it; negative: it is owed to the customer")


class ExchangeDifferenceDue(ReturnFact, type="exchange.difference_due"):
    exchange_id: Id
    amount_minor: int
    currency: Currency


class ExchangeDifferenceSettled(ReturnFact, type="exchange.difference_settled"):
    """Charged by `operation_id`; without one a person says that it is settled, or, of 0, it is no longer due."""

    exchange_id: Id
    amount_minor: int = Field(ge=0)
    currency: Currency
    operation_id: Id | None = None


class ExchangeReleased(ReturnFact, type="exchange.released"):
    """The replacement may be shipped."""

    exchange_id: Id
    lines: tuple[LineQuantity, ...]
    sku: Id
    reason_code: Literal["exchange", "lost", "damaged", "wrong_item"] = "exchange"


class ClaimOpened(ReturnsFact, type="claim.opened"):
    """Lost, wrong or defective units claimed without a parcel coming back first."""

    claim_id: Id
    lines: tuple[LineQuantity, ...]
    reason: ReturnReason
    evidence: tuple[str, ...] = ()
    decide_by: datetime | None = Field(default=None, description="a person decides by then, or it is late")


class ClaimResolved(ReturnsFact, type="claim.resolved"):
    claim_id: Id
    outcome: Literal["refunded", "replaced", "rejected"]
    detail: Text
    written_off: tuple[LineQuantity, ...] = Field(
        default=(), description="lost units that were worth nothing: no refund will settle them"
    )


class RecoveryFact(ReturnsFact):
    """About what a customer holds and did not pay for: goods, or money that was refunded too much."""

    recovery_id: Id


class RecoveryOpened(RecoveryFact, type="recovery.opened"):
    """Opened by policy from the facts of the order. `owner` is who settles it when `due_at` is past."""

    amount_minor: Minor
    currency: Currency
    cause: Literal[
        "return_not_accepted",
        "return_not_sent",
        "found_after_refund",
        "found_after_replacement",
        "sent_again_beside_refund",
        "revised_down",
        "other",
    ]
    return_id: Id | None = Field(default=None, description="the return or the claim it came of")
    shipment_id: Id | None = None
    tracking: Id | None = None
    owner: Literal["support", "system"]
    due_at: datetime
    policy: PolicyRef


class RecoveryChargeRequested(RecoveryFact, type="recovery.charge_requested"):
    """It is to be charged to a tender of the order, by policy where nobody asked for it."""

    return_id: Id | None
    amount_minor: Minor
    currency: Currency
    approver: str | None
    detail: Text = ""


class RecoveryChargeFailed(RecoveryFact, type="recovery.charge_failed"):
    """Nothing could be charged: a person decides."""

    code: Id


class RecoverySettled(RecoveryFact, type="recovery.settled"):
    """Charged by `operation_id`; written off or returned as a supervisor says; returned, without one, as the facts say."""

    how: Literal["charged", "written_off", "returned"]
    amount_minor: Minor
    currency: Currency
    approver: str | None = None
    operation_id: Id | None = None
    detail: Text = ""
