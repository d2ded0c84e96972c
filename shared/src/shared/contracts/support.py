"""What support-view tells of its own: contacts, cases, escalations and root causes. Topic `support.events`."""

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from shared.contracts.base import Fact, Id, LongText, Model, Name, PolicyRef, Text
from shared.contracts.fulfillment import SHELF


class SupportFact(Fact, service="support"):
    """Of an order; or, where no order was named, of a customer; or of a shelf."""

    order_id: Id | None
    customer: Id | None = Field(
        description="keyed hash of the customer's identity: the same person, and nobody by name"
    )
    shelf: str | None = Field(
        default=None, max_length=129, description="`<sku>@<location>`: of no order and no customer"
    )

    @property
    def subject(self) -> str:
        if self.shelf is not None:
            return f"{SHELF}:{self.shelf}"
        return self.order_id or f"{CUSTOMER}:{self.customer}"


CUSTOMER = "customer"
"""What subjects of no order start with, before a colon."""


class Channel(StrEnum):
    EMAIL = "email"
    PHONE = "phone"
    CHAT = "chat"
    WEB = "web"
    SOCIAL = "social"
    LETTER = "letter"
    OTHER = "other"


class Direction(StrEnum):
    INBOUND = "inbound"
    OUTBOUND = "outbound"


class Clocks(Model):
    """By when somebody owes something, in business hours; None where nothing is owed, or the clock stands.

    `resolve_left` is what was left of the time to resolve, business hours, when its clock last stopped.
    """

    first_response_due: datetime | None = None
    first_response_at: datetime | None = None
    next_response_due: datetime | None = None
    resolve_due: datetime | None = None
    resolve_left: timedelta | None = None


class ContactReceived(SupportFact, type="contact.received"):
    """Somebody wrote, called or was written to. `duplicate_of` was merged into an earlier one, and counts for nothing."""

    contact_id: Id
    received_at: datetime
    channel: Channel
    direction: Direction
    topic: Id
    is_automated: bool = False
    text: LongText = ""
    duplicate_of: Id | None = None
    case_id: Id | None
    clocks: Clocks | None = None
    policy: PolicyRef


class CaseFact(SupportFact):
    case_id: Id


class CaseOpened(CaseFact, type="case.opened"):
    topic: Id
    opened_at: datetime
    contact_id: Id
    clocks: Clocks
    policy: PolicyRef


class CaseLinked(CaseFact, type="case.linked"):
    """Goes on with what a closed case was about."""

    to_case_id: Id


class CaseAssigned(CaseFact, type="case.assigned"):
    assignee: Name


class CaseWaiting(CaseFact, type="case.waiting"):
    waits_for: Literal["customer", "internal"]
    detail: Text
    clocks: Clocks


class CaseResumed(CaseFact, type="case.resumed"):
    """Nobody is waited for any more."""

    detail: Text
    clocks: Clocks


class CaseNoted(CaseFact, type="case.noted"):
    note: Text


class CaseResolved(CaseFact, type="case.resolved"):
    """`closes_at`: until then a contact reopens it."""

    resolution: Text
    resolved_at: datetime
    clocks: Clocks
    closes_at: datetime
    policy: PolicyRef


class CaseReopened(CaseFact, type="case.reopened"):
    """`times`: how often by now."""

    contact_id: Id | None
    detail: Text
    times: int = Field(ge=1)
    reopened_at: datetime
    clocks: Clocks
    policy: PolicyRef


class CaseClosed(CaseFact, type="case.closed"):
    detail: Text


class EscalationFact(SupportFact):
    escalation_id: Id


class EscalationRaised(EscalationFact, type="escalation.raised"):
    """A rule found that somebody must look. `item` is what it is about within the subject: a refund, a return, a case.

    `since` is when what it rests on began: together they are one episode. `episode` counts those of this rule and item.
    """

    rule: Id
    item: Id
    since: datetime
    due_at: datetime = Field(description="when the rule's patience was over")
    level: int = Field(ge=0, le=3)
    episode: int = Field(ge=1)
    why: Text
    to_do: Text
    policy: PolicyRef


class EscalationCleared(EscalationFact, type="escalation.cleared"):
    """What it rested on is over, or its rule was switched off. The record stays."""

    is_switched_off: bool = False
    detail: Text


class EscalationAcknowledged(EscalationFact, type="escalation.acknowledged"):
    note: Text


class EscalationAssigned(EscalationFact, type="escalation.assigned"):
    assignee: Name


class RootCauseTag(StrEnum):
    STOCK_OUT = "stock_out"
    SPLIT_CONFUSION = "split_confusion"
    CARRIER_DELAY = "carrier_delay"
    CARRIER_LOSS = "carrier_loss"
    WRONG_ITEM = "wrong_item"
    DEFECT = "defect"
    DAMAGE_TRANSIT = "damage_transit"
    ADDRESS = "address"
    PAYMENT_DECLINE = "payment_decline"
    REFUND_SLOW = "refund_slow"
    REFUND_FAILED = "refund_failed"
    POLICY_UNCLEAR = "policy_unclear"
    POLICY_EXCEPTION = "policy_exception"
    DUPLICATE_CHARGE = "duplicate_charge"
    COMMS_INACCURATE = "comms_inaccurate"
    COMMS_MISSING = "comms_missing"
    SYSTEM_FAULT = "system_fault"
    CUSTOMER_REMORSE = "customer_remorse"


Label = Annotated[str, Field(max_length=100, pattern=r"^[a-z]+:[A-Za-z0-9][A-Za-z0-9 ._:@-]*$")]


class RootCauseTagged(SupportFact, type="root_cause.tagged"):
    """Rules found a cause. `evidence` are ids of the facts it rests on; where they become others, it is told again."""

    cause_id: Id
    tag: RootCauseTag
    rule: Id
    confidence_percent: int = Field(ge=1, le=100)
    evidence: tuple[Id, ...] = Field(min_length=1, max_length=200)
    policy: PolicyRef
    since: datetime | None = Field(default=None, description="when the first fact it rests on happened")
    about: tuple[Label, ...] = Field(
        default=(), max_length=40, description="carriers, locations, skus and policies concerned: `carrier:dhl`"
    )


class RootCauseRefuted(SupportFact, type="root_cause.refuted"):
    """By later facts it is no cause after all, or its rule was switched off. The record stays."""

    cause_id: Id
    tag: RootCauseTag
    is_switched_off: bool = False
    detail: Text


class RootCauseOverridden(SupportFact, type="root_cause.overridden"):
    """A person knows better, whatever rules find until it is withdrawn.

    `replaced_by` None: it was no cause; `cause_id` None: rules had missed it. `policy` is that by which rules had found it.
    """

    cause_id: Id | None
    tag: RootCauseTag | None
    replaced_by: RootCauseTag | None
    detail: Text
    override_id: Id | None = None
    policy: PolicyRef | None = None


class RootCauseOverrideWithdrawn(SupportFact, type="root_cause.override_withdrawn"):
    """The rules' word counts again."""

    override_id: Id
    detail: Text
