"""What support goes by, as versioned data: its calendar, how long a case may take, and when somebody must look."""

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Final

from pydantic import Field, model_validator

from shared.contracts.base import Input, PolicyRef, Text
from shared.contracts.support import RootCauseTag
from support_view.domain.business import Calendar, Patience

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


class Rule(Input):
    """`after`: how long it may last before somebody must look. `limit`: how often, for rules that count."""

    is_on: bool = True
    after: Patience
    limit: int = Field(default=1, ge=1, le=100)
    level: int = Field(ge=0, le=3)
    to_do: Annotated[Text, Field(min_length=1)]


class EscalationPolicy(Input):
    calendar: Calendar
    contacts_within: Span
    rules: dict[RuleName, Rule]

    @model_validator(mode="after")
    def _is_whole(self) -> "EscalationPolicy":
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
