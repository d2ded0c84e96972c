"""What each figure means, as versioned data: the page, the API, the documents and the checks read it here. Pure.

A definition that changes gets a new version; every answer says by which it was made.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Final


class Kind(StrEnum):
    """A duration is told by p50 and p90, and by the age of what is open; a share by part and whole; an amount by its sum; a
    count by itself, and where it is split, by how it went from period to period."""

    DURATION = "duration"
    SHARE = "share"
    AMOUNT = "amount"
    COUNT = "count"


@dataclass(frozen=True, slots=True)
class Figure:
    """`measure` names the rows it counts; `dimensions` those of each way to split it, where they are others.

    A share counts things, or the units in them. One that is not decided yet is not counted, until `patience` is over.
    """

    key: str
    version: int
    title: str
    kind: Kind
    measure: str
    meaning: str
    counts: str
    left_out: str
    dimensions: Mapping[str, str] = field(default_factory=dict)
    counts_units: bool = False
    patience: timedelta = timedelta()
    is_of_contacts: bool = False
    is_of_causes: bool = False

    def measure_of(self, dimension: str | None) -> str:
        return self.dimensions[dimension] if dimension else self.measure


AGES: Final = tuple(timedelta(days=days) for days in (1, 3, 7, 14, 30))
"""Where the classes of age of what is open end."""

NEVER: Final = timedelta(days=36_500)
"""Patience that no time is over: what is not decided stays so."""

MESSAGE: Final = "message"
"""Counted from sections, and from facts of the timeline that no message tells of."""

LAG: Final = "lag"
"""Not counted from sections, but from the timeline itself."""

_TOLD: Final = (
    "Messages about shipments, backorders, cancellations and deliveries, by the time of the fact they tell of. One is due as "
    "soon as that fact is there; it is right when it was prepared (`notification.queued`) and sent, and nothing in it became "
    "untrue (`notification.contradicted`) while it stood, that is, before a newer message said the same of the same. One "
    "that bounced, failed, was held back as too old, or was not prepared and sent within a day, is wrong."
)

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
    Figure(
        key="message-accuracy",
        version=2,
        title="Partial-shipment communication accuracy, by message",
        kind=Kind.SHARE,
        measure=MESSAGE,
        meaning="How many of the messages due about what comes when were sent, and stayed true while they stood.",
        counts=_TOLD,
        left_out="Messages whose content went into another one, and those that a person held back.",
        dimensions={"kind": MESSAGE},
        patience=timedelta(days=1),
    ),
    Figure(
        key="unit-accuracy",
        version=2,
        title="Partial-shipment communication accuracy, by line quantity",
        kind=Kind.SHARE,
        measure=MESSAGE,
        meaning="The same, by the units that the messages speak of, once for each statement.",
        counts=_TOLD
        + " Of a message that was sent, the units of its untrue statements are wrong and no others; one that was never prepared "
        "has the units of its fact.",
        left_out="Messages whose content went into another one, and those that a person held back.",
        dimensions={"kind": MESSAGE},
        counts_units=True,
        patience=timedelta(days=1),
    ),
    Figure(
        key="exception-rate",
        version=1,
        title="Policy exceptions",
        kind=Kind.SHARE,
        measure="return_decision",
        meaning="How many decisions on returns set the policy aside.",
        counts="Returns by the day they were approved or declined, last; an exception is one with `return.exception_granted`.",
        left_out="Returns that nobody decided on yet.",
        dimensions={"policy": "return_decision"},
    ),
    Figure(
        key="refund-errors",
        version=1,
        title="Refund errors",
        kind=Kind.SHARE,
        measure="refund_error",
        meaning="How many refunds had a payout that failed or bounced, or needed a person.",
        counts="Refunds by the day their first payout was sent; wrong is one with `refund.leg_failed`, `refund.leg_reversed` or "
        "`refund.attention_needed`, whatever became of it in the end.",
        left_out="Refunds of which nothing was sent yet.",
        dimensions={"kind": "refund_error"},
    ),
    Figure(
        key="reopen-rate",
        version=1,
        title="Reopened",
        kind=Kind.SHARE,
        measure="resolution",
        meaning="How many resolutions did not last.",
        counts="Each `return.resolved` and `case.resolved`, by its day; undone by a `return.reopened`, a "
        "`return.inspection_revised` or a `case.reopened` after it.",
        left_out="Nothing.",
        dimensions={"of": "resolution"},
    ),
    *(
        Figure(
            key=f"repeat-contacts-{days}",
            version=1,
            title=f"Repeat contacts within {days} days",
            kind=Kind.SHARE,
            measure=f"contact_{days}",
            meaning="How many of the customers' contacts about an order come after another one about it.",
            counts=f"Each `contact.received` about an order, by its time; a repeat is one with an earlier one of the same customer "
            f"on the same order at most {days} days before it, to the instant. By cause: the root causes that stand for the "
            "order by now; a contact counts under each of them.",
            left_out="Duplicates, automated and outbound contacts: they are no repeats, and nothing repeats them. Contacts that "
            "name no order are not in it; the coverage says how many.",
            dimensions={"cause": f"contact_{days}"},
            is_of_contacts=True,
        )
        for days in (7, 14, 45)
    ),
    Figure(
        key="escalation-precision",
        version=1,
        title="Escalation precision",
        kind=Kind.SHARE,
        measure="escalation",
        meaning="How many escalations a person took up; the others went away by themselves.",
        counts="Each `escalation.raised`, once an episode, by its day; taken up by `escalation.acknowledged` or "
        "`escalation.assigned`. One that is neither taken up nor cleared is not decided, and not counted yet.",
        left_out="Those cleared because their rule was switched off; those of no order: of a shelf, or of a customer who named none.",
        dimensions={"rule": "escalation"},
        patience=NEVER,
    ),
    Figure(
        key="root-causes",
        version=1,
        title="Root causes",
        kind=Kind.COUNT,
        measure="cause",
        meaning="What goes wrong with orders, how often, and whether it keeps coming back with the same carrier, place, goods or "
        "policy.",
        counts="Causes that stand, each once an order, by the day of the first fact that bears it out: those that rules found "
        "(`root_cause.tagged`) and later facts did not refute, less those that a person said were none, and with those that a "
        "person named (`root_cause.overridden`), unless that was withdrawn. A cause that is about several carriers, locations, "
        "skus or policies counts under each of them.",
        left_out="Causes that later facts or people refuted, and those of rules that were switched off.",
        dimensions=dict.fromkeys(("cause", "carrier", "location", "sku", "policy", "by"), "cause"),
        is_of_causes=True,
    ),
    Figure(
        key="root-cause-precision",
        version=1,
        title="Precision of root causes",
        kind=Kind.SHARE,
        measure="cause_found",
        meaning="How many of the causes that rules found people let stand.",
        counts="Each cause that a rule found, once an order, rule and version, by the day it was first told "
        "(`root_cause.tagged`). It is right unless a person said that it was none, or another (`root_cause.overridden` naming "
        "that version), and did not withdraw it; one that nobody looked at counts as right.",
        left_out="Causes that later facts refuted, that were found again after a person had set them aside, or whose rule was "
        "switched off.",
        dimensions=dict.fromkeys(("rule", "cause"), "cause_found"),
        is_of_causes=True,
    ),
    Figure(
        key="drift",
        version=1,
        title="Drift against the provider",
        kind=Kind.AMOUNT,
        measure="drift",
        meaning="By how much the payment provider's word differed from our books.",
        counts="Each `payment.anomaly_detected` by its day, with the difference between the amount observed and the one expected, "
        "0 where it is not about an amount. In minor units, to be added up within one currency only.",
        left_out="Nothing. What is under way at the provider is no drift.",
        dimensions={"currency": "drift"},
    ),
    Figure(
        key="projection-lag",
        version=1,
        title="Projection lag",
        kind=Kind.DURATION,
        measure=LAG,
        meaning="How long it takes from a fact's being written by its service until this view has seen it.",
        counts="Facts by the day they were seen here, less the time in their id, which is when they were written. Where the "
        "timeline is long, a sample of it, spread evenly over it.",
        left_out="Facts that were not seen yet: their lag stands among the operators' gauges.",
        dimensions={"service": LAG},
    ),
)

FIGURES: Final[Mapping[str, Figure]] = {figure.key: figure for figure in _FIGURES}

RENAMED: Final = {"told-truly-messages": "message-accuracy", "told-truly-units": "unit-accuracy"}
"""Keys of before, which are read as the new ones for one version."""
"""By key, in the order they are shown."""
