"""What support goes by, as versioned data: its calendar, how long a case may take, and when somebody must look."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Final

from pydantic import Field, model_validator

from shared.contracts.base import Input, PolicyRef, Text
from shared.contracts.support import RootCauseTag
from support_view.domain.business import Calendar, Patience, Unit

Span = Annotated[timedelta, Field(ge=timedelta(), le=timedelta(days=365))]


class CasePolicy(Input):
    """The clocks count business hours; `grace` and `merge_within` any. `merge_within`: a customer who says the same
    again so soon said it once."""

    calendar: Calendar
    first_response: Span
    next_response: Span
    resolve: Span
    grace: Span
    merge_within: Span


class RuleName(StrEnum):
    REFUND_UNKNOWN = "refund_unknown"
    REFUND_LATE = "refund_late"
    POLICY_EXCEPTION = "policy_exception"
    DISPUTE_OPEN = "dispute_open"
    BOOKS_DIFFER = "books_differ"
    RETURN_UNINSPECTED = "return_uninspected"
    RETURN_SILENT = "return_silent"
    BACKORDER_SLIPPED = "backorder_slipped"
    BACKORDER_UNCONSENTED = "backorder_unconsented"
    SHIPMENT_EXCEPTION = "shipment_exception"
    SHIPMENT_SILENT = "shipment_silent"
    MESSAGE_UNTRUE = "message_untrue"
    CANCELLATION_PENDING = "cancellation_pending"
    CONTACT_REPEATED = "contact_repeated"
    REOPENED = "reopened"
    FIRST_RESPONSE_LATE = "first_response_late"
    NEXT_RESPONSE_LATE = "next_response_late"
    RESOLUTION_LATE = "resolution_late"
    ORDER_UNCONFIRMED = "order_unconfirmed"
    ORDER_UNFINISHED = "order_unfinished"
    ORDER_UNCLOSED = "order_unclosed"
    HOLD_STANDING = "hold_standing"
    HOLD_OF_CUSTOMER = "hold_of_customer"
    OPERATION_UNANSWERED = "operation_unanswered"
    PAYMENT_FAILED = "payment_failed"
    AUTHORIZATION_LAPSED = "authorization_lapsed"
    CHARGE_FAILED = "charge_failed"
    REFUND_WAITING = "refund_waiting"
    REFUND_STUCK = "refund_stuck"
    SHIPMENT_UNPACKED = "shipment_unpacked"
    SHIPMENT_UNCOLLECTED = "shipment_uncollected"
    SHIPMENT_HELD = "shipment_held"
    SHIPMENT_LOST = "shipment_lost"
    SHIPMENT_RETURNING = "shipment_returning"
    SHIPMENT_CAME_BACK = "shipment_came_back"
    SHIPMENT_RECALLED = "shipment_recalled"
    BACKORDER_OVERDUE = "backorder_overdue"
    BACKORDER_DATELESS = "backorder_dateless"
    RETURN_UNDECIDED = "return_undecided"
    RETURN_LATE = "return_late"
    RETURN_HELD = "return_held"
    RETURN_UNEXPECTED = "return_unexpected"
    RETURN_UNSETTLED = "return_unsettled"
    RETURN_UNCLOSED = "return_unclosed"
    CLAIM_OPEN = "claim_open"
    DECISION_LATE = "decision_late"
    RECOVERY_LATE = "recovery_late"
    MESSAGE_FAILED = "message_failed"
    MESSAGE_UNSENT = "message_unsent"
    CASE_WAITING = "case_waiting"
    CASE_UNCLOSED = "case_unclosed"
    CONTRADICTED_PLAN = "contradicted_plan"
    SHELF_CONTRADICTED = "shelf_contradicted"


class Rule(Input):
    """`after`: how long it may last before somebody must look. `limit`: how often, for rules that count."""

    is_on: bool = True
    after: Patience
    limit: int = Field(default=1, ge=1, le=100)
    level: int = Field(ge=0, le=3)
    to_do: Annotated[Text, Field(min_length=1)]


def _rule(amount: int, unit: Unit, level: int, to_do: str, limit: int = 1) -> Rule:
    return Rule(after=Patience(amount=amount, unit=unit), level=level, to_do=to_do, limit=limit)


_STANDARD: Final[Mapping[RuleName, Rule]] = {
    RuleName.ORDER_UNCONFIRMED: _rule(
        24, Unit.HOURS, 1, "Ask the provider what became of it, or for another way to pay."
    ),
    RuleName.ORDER_UNFINISHED: _rule(30, Unit.DAYS, 1, "Find which unit is on nobody's way, and settle it."),
    RuleName.ORDER_UNCLOSED: _rule(30, Unit.DAYS, 0, "See what keeps it open."),
    RuleName.HOLD_STANDING: _rule(2, Unit.BUSINESS_DAYS, 1, "Clear up why it is held, and release it or cancel."),
    RuleName.HOLD_OF_CUSTOMER: _rule(14, Unit.DAYS, 0, "Ask the customer again, by another way."),
    RuleName.OPERATION_UNANSWERED: _rule(2, Unit.HOURS, 1, "Ask the provider what became of it, or reconcile by hand."),
    RuleName.PAYMENT_FAILED: _rule(0, Unit.MINUTES, 1, "Ask the customer for another way to pay."),
    RuleName.AUTHORIZATION_LAPSED: _rule(0, Unit.MINUTES, 1, "Ask the customer for another way to pay."),
    RuleName.CHARGE_FAILED: _rule(1, Unit.BUSINESS_DAYS, 1, "Have it charged again, or settle it otherwise."),
    RuleName.REFUND_WAITING: _rule(24, Unit.HOURS, 1, "See what it waits for, and have it paid out."),
    RuleName.REFUND_STUCK: _rule(4, Unit.BUSINESS_HOURS, 2, "Find a way to pay it out, and tell the customer."),
    RuleName.SHIPMENT_UNPACKED: _rule(3, Unit.BUSINESS_DAYS, 1, "Ask the warehouse why it is not packed."),
    RuleName.SHIPMENT_UNCOLLECTED: _rule(2, Unit.BUSINESS_DAYS, 1, "Ask the warehouse why it was not handed over."),
    RuleName.SHIPMENT_HELD: _rule(5, Unit.BUSINESS_DAYS, 0, "Clear up why it is held, and release it or cancel."),
    RuleName.SHIPMENT_LOST: _rule(1, Unit.BUSINESS_DAYS, 1, "Replace it or refund it, and tell the customer."),
    RuleName.SHIPMENT_RETURNING: _rule(14, Unit.DAYS, 1, "Ask the carrier where it is."),
    RuleName.SHIPMENT_CAME_BACK: _rule(1, Unit.BUSINESS_DAYS, 1, "Ask the customer; send it again, or cancel it."),
    RuleName.SHIPMENT_RECALLED: _rule(7, Unit.DAYS, 1, "Ask the carrier where it is."),
    RuleName.BACKORDER_OVERDUE: _rule(2, Unit.DAYS, 1, "Ask the supplier for a new date, and tell the customer."),
    RuleName.BACKORDER_DATELESS: _rule(7, Unit.DAYS, 1, "Ask the supplier for a date, or offer something else."),
    RuleName.RETURN_UNDECIDED: _rule(2, Unit.BUSINESS_DAYS, 1, "Decide on it, and tell the customer."),
    RuleName.RETURN_LATE: _rule(14, Unit.DAYS, 0, "Ask the carrier where it is."),
    RuleName.RETURN_HELD: _rule(2, Unit.BUSINESS_DAYS, 1, "Decide what becomes of the goods, and tell the customer."),
    RuleName.RETURN_UNEXPECTED: _rule(
        0, Unit.MINUTES, 0, "Ask the customer; send it back or keep it, and acknowledge this."
    ),
    RuleName.RETURN_UNSETTLED: _rule(10, Unit.DAYS, 1, "See what it waits for, and settle it."),
    RuleName.RETURN_UNCLOSED: _rule(3, Unit.DAYS, 0, "See what keeps it open."),
    RuleName.CLAIM_OPEN: _rule(2, Unit.BUSINESS_DAYS, 1, "Decide on it, and tell the customer."),
    RuleName.DECISION_LATE: _rule(0, Unit.MINUTES, 1, "Decide on it, and tell the customer."),
    RuleName.RECOVERY_LATE: _rule(0, Unit.MINUTES, 1, "Charge it, write it off, or say that it came back."),
    RuleName.MESSAGE_FAILED: _rule(0, Unit.MINUTES, 0, "Tell the customer by another way, and acknowledge this."),
    RuleName.MESSAGE_UNSENT: _rule(
        24, Unit.HOURS, 0, "See whether mails leave; else tell the customer by another way."
    ),
    RuleName.CASE_WAITING: _rule(14, Unit.DAYS, 0, "Ask the customer again, or resolve it."),
    RuleName.CASE_UNCLOSED: _rule(24, Unit.HOURS, 0, "See what keeps it open."),
    RuleName.CONTRADICTED_PLAN: _rule(0, Unit.MINUTES, 1, "See what it means for the order, and acknowledge this."),
    RuleName.SHELF_CONTRADICTED: _rule(
        0, Unit.MINUTES, 1, "Have the warehouse count the shelf; if its books are right as they are, acknowledge this."
    ),
}
"""Rules that came after the first version of the policy: a version that has none of its own goes by these."""


class EscalationPolicy(Input):
    calendar: Calendar
    contacts_within: Span
    rules: dict[RuleName, Rule]

    @model_validator(mode="after")
    def _is_whole(self) -> "EscalationPolicy":
        for rule in _STANDARD.keys() - self.rules.keys():
            self.rules[rule] = _STANDARD[rule]
        if missing := sorted(set(RuleName) - set(self.rules)):
            raise ValueError(f"must have a rule for {', '.join(missing)}")
        return self


class CauseRule(Input):
    """`confidence_percent`: how often it is right, as far as is known; precision is measured from what people override."""

    is_on: bool = True
    confidence_percent: int = Field(ge=1, le=100)


class CausePolicy(Input):
    rules: dict[RootCauseTag, CauseRule]

    @model_validator(mode="after")
    def _is_whole(self) -> "CausePolicy":
        if missing := sorted(set(RootCauseTag) - set(self.rules)):
            raise ValueError(f"must have a rule for {', '.join(missing)}")
        return self


CASES: Final = "cases"
ESCALATIONS: Final = "escalations"
CAUSES: Final = "root-causes"


@dataclass(frozen=True, slots=True)
class Policies:
    """Those in force, each with which version it is."""

    cases: CasePolicy
    cases_ref: PolicyRef
    escalations: EscalationPolicy
    escalations_ref: PolicyRef
    causes: CausePolicy
    causes_ref: PolicyRef
