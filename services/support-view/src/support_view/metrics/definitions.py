"""What each figure means, as versioned data: the page, the API, the documents and the checks read it here. Pure.

A definition that changes gets a new version; every answer says by which it was made.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Final


class Kind(StrEnum):
    """A duration is told by p50 and p90, and by the age of what is open; a share by part and whole."""

    DURATION = "duration"
    SHARE = "share"


@dataclass(frozen=True, slots=True)
class Figure:
    """`measure` names the rows it counts; `dimensions` those of each way to split it, where they are others."""

    key: str
    version: int
    title: str
    kind: Kind
    measure: str
    meaning: str
    counts: str
    left_out: str
    dimensions: Mapping[str, str] = field(default_factory=dict)

    def measure_of(self, dimension: str | None) -> str:
        return self.dimensions[dimension] if dimension else self.measure


AGES: Final = tuple(timedelta(days=days) for days in (1, 3, 7, 14, 30))
"""Where the classes of age of what is open end."""

_FIGURES: Final = (
    Figure(
        key="return-cycle-time",
        version=1,
        title="Return cycle time",
        kind=Kind.DURATION,
        measure="return",
        meaning="How long it takes from the request of a return until it is resolved.",
        counts="Returns by the day they were resolved: `return.resolved` less the time in `return.requested`. A return that "
        "was reopened, or whose inspection was revised, is open again from its request on. Stages are decided, sent "
        "(first scan), received, inspected and resolved, each from the end of the one before; a stage that a return did "
        "not go through is not counted for it. A return with lines of several reasons counts under each of them.",
        left_out="Declined, cancelled and expired returns: they end without a resolution.",
        dimensions={"stage": "return_stage", "reason": "return", "policy": "return"},
    ),
    Figure(
        key="refund-latency",
        version=1,
        title="Refund completion latency",
        kind=Kind.DURATION,
        measure="refund",
        meaning="How long it takes from what makes a refund due until the last of its money has arrived.",
        counts="Refunds by the day they were completed: the last `refund.leg_succeeded` less `trigger_at` of "
        "`refund.requested`. A payout that is reversed reopens the clock, which then runs from the trigger on; one "
        "without a known outcome is open. By channel: the last payout of the refund on that channel; a payout that "
        "failed leaves its channel when the refund is routed anew.",
        left_out="Rejected and cancelled refunds: nothing is due for them.",
        dimensions={"channel": "payout", "kind": "refund"},
    ),
)

FIGURES: Final[Mapping[str, Figure]] = {figure.key: figure for figure in _FIGURES}
"""By key, in the order they are shown."""
