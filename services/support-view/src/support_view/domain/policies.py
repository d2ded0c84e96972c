"""What support goes by, as versioned data: its calendar, how long a case may take, and when somebody must look."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Final

from pydantic import Field

from shared.contracts.base import Input, PolicyRef
from support_view.domain.business import Calendar

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


CASES: Final = "cases"


@dataclass(frozen=True, slots=True)
class Cases:
    """The case policy in force, and which it is."""

    policy: CasePolicy
    ref: PolicyRef
