"""One refund: asked for once per cause, approved by policy or by another person, paid out in legs until nothing is owed."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Final, Literal

from pydantic import Field

from payments.domain.policy import Policy
from shared.contracts.payments import (
    PayoutAccount,
    RefundApprovalRequired,
    RefundApproved,
    RefundAttentionNeeded,
    RefundCancelled,
    RefundChannel,
    RefundCompleted,
    RefundKind,
    RefundLegFailed,
    RefundLegReversed,
    RefundLegSubmitted,
    RefundLegSucceeded,
    RefundLine,
    RefundPartiallyCompleted,
    RefundReduced,
    RefundRejected,
    RefundRouted,
)
from shared.core.machine import Machine
from shared.core.money import Currency, Minor


class RefundStatus(StrEnum):
    REQUESTED = "requested"
    PENDING_APPROVAL = "pending_approval"
    APPROVED = "approved"
    PROCESSING = "processing"
    SUCCEEDED = "succeeded"
    PARTIALLY_SUCCEEDED = "partially_succeeded"
    FAILED = "failed"
    ATTENTION = "attention"
    REVERSED = "reversed"
    REJECTED = "rejected"
    CANCELLED = "cancelled"


PAYOUT_FAILED: Final = "payout_failed"
"""Reason of attention: every leg failed for good and nothing was paid. The refund has failed."""

_ATTENTION: Final = frozenset({RefundStatus.ATTENTION, RefundStatus.FAILED})

REFUND: Final = Machine(
    "refund",
    RefundStatus.REQUESTED,
    {
        # What is left to give back may become less for as long as it is not paid.
        RefundStatus.REQUESTED: {
            RefundReduced: RefundStatus.REQUESTED,
            RefundApprovalRequired: RefundStatus.PENDING_APPROVAL,
            RefundApproved: RefundStatus.APPROVED,
            RefundRejected: RefundStatus.REJECTED,
            RefundCancelled: RefundStatus.CANCELLED,
            RefundAttentionNeeded: RefundStatus.ATTENTION,
        },
        RefundStatus.PENDING_APPROVAL: {
            RefundReduced: RefundStatus.PENDING_APPROVAL,
            RefundApproved: RefundStatus.APPROVED,
            RefundRejected: RefundStatus.REJECTED,
            RefundCancelled: RefundStatus.CANCELLED,
        },
        RefundStatus.APPROVED: {
            RefundRouted: RefundStatus.PROCESSING,
            RefundAttentionNeeded: RefundStatus.ATTENTION,
        },
        # Cancelled only before its first leg is submitted.
        RefundStatus.PROCESSING: {
            RefundLegSubmitted: RefundStatus.PROCESSING,
            RefundLegSucceeded: RefundStatus.PROCESSING,
            RefundLegFailed: RefundStatus.PROCESSING,
            RefundLegReversed: RefundStatus.PROCESSING,
            RefundRouted: RefundStatus.PROCESSING,
            RefundCompleted: RefundStatus.SUCCEEDED,
            RefundPartiallyCompleted: RefundStatus.PARTIALLY_SUCCEEDED,
            RefundAttentionNeeded: _ATTENTION,
            RefundCancelled: RefundStatus.CANCELLED,
        },
        RefundStatus.SUCCEEDED: {RefundLegReversed: RefundStatus.REVERSED},
        # Routed again by a person, put right by a leg that succeeded after all, or the rest is not owed any more.
        RefundStatus.PARTIALLY_SUCCEEDED: {
            RefundReduced: RefundStatus.PARTIALLY_SUCCEEDED,
            RefundCompleted: RefundStatus.SUCCEEDED,
            RefundRouted: RefundStatus.PROCESSING,
            RefundLegSucceeded: RefundStatus.PROCESSING,
            RefundLegReversed: RefundStatus.REVERSED,
        },
        RefundStatus.FAILED: {
            RefundReduced: RefundStatus.FAILED,
            RefundRouted: RefundStatus.PROCESSING,
            RefundLegSucceeded: RefundStatus.PROCESSING,
            RefundRejected: RefundStatus.REJECTED,
            RefundCancelled: RefundStatus.CANCELLED,
        },
        RefundStatus.ATTENTION: {
            RefundReduced: RefundStatus.ATTENTION,
            RefundCompleted: RefundStatus.SUCCEEDED,
            RefundApprovalRequired: RefundStatus.PENDING_APPROVAL,
            RefundApproved: RefundStatus.APPROVED,
            RefundRouted: RefundStatus.PROCESSING,
            RefundLegSucceeded: RefundStatus.PROCESSING,
            RefundLegReversed: RefundStatus.REVERSED,
            RefundRejected: RefundStatus.REJECTED,
            RefundCancelled: RefundStatus.CANCELLED,
        },
        RefundStatus.REVERSED: {
            RefundRouted: RefundStatus.PROCESSING,
            RefundAttentionNeeded: RefundStatus.ATTENTION,
        },
        RefundStatus.REJECTED: {},
        RefundStatus.CANCELLED: {},
    },
)

DEAD: Final = frozenset({RefundStatus.REJECTED, RefundStatus.CANCELLED})
"""Nothing was paid and nothing will be: its cause and its units are free again."""

REPAYS_EXCESS: Final = frozenset({RefundKind.CANCELLATION, RefundKind.SHORT_SHIP, RefundKind.OVERPAID})
"""Kinds that give back what was captured above what the order is worth; the others are about what was handed over."""

REDUCES_PRICE: Final = frozenset({RefundKind.GOODWILL, RefundKind.PRICE_ADJUSTMENT})
"""Kinds that give back a part of what units cost, so that less is due for the units when they are cancelled or come back."""


@dataclass(frozen=True, slots=True)
class Refund:
    """`legs` are operations. `is_approved` stays, so that a refund routed again is not approved twice."""

    id: str
    kind: RefundKind
    cause_id: str
    amount_minor: int
    currency: str
    trigger_at: datetime
    requester: str
    return_id: str | None = None
    lines: tuple[RefundLine, ...] = ()
    channel: RefundChannel = RefundChannel.ORIGINAL
    consents: tuple[RefundChannel, ...] = ()
    status: RefundStatus = RefundStatus.REQUESTED
    is_approved: bool = False
    approver: str | None = None
    legs: tuple[str, ...] = ()
    promised_at: datetime | None = None
    stated_minor: int | None = None
    """What its cause states, where a fact states it."""
    account: PayoutAccount | None = None
    """Where a bank transfer of it goes to."""
    attention: str = ""
    """Why a person was last asked to look at it, as a code."""

    @property
    def is_dead(self) -> bool:
        return self.status in DEAD

    @property
    def is_stated(self) -> bool:
        """By a return, a claim or the account itself; the others were asked for by a person."""
        return self.kind in (RefundKind.RETURN, RefundKind.LOST) or self.requester.startswith("service:")

    @property
    def is_of_substitutes(self) -> bool:
        """What substitutes cost less, of units that were handed over: units that are cancelled have no share of it."""
        return self.kind is RefundKind.PRICE_ADJUSTMENT and self.stated_minor is not None

    @property
    def all_consents(self) -> frozenset[RefundChannel]:
        """Who wants a channel agrees to it."""
        return frozenset({*self.consents, self.channel})

    def lines_of(self, line_id: str) -> Iterator[RefundLine]:
        return (line for line in self.lines if line.line_id == line_id)

    def units_of(self, line_id: str) -> int:
        return sum(line.quantity for line in self.lines_of(line_id))


class ApprovalPolicy(Policy):
    """Which refunds need a second person. The version in force when a refund is asked for binds it."""

    policy_id: Literal["refund-approval"] = "refund-approval"
    threshold_minor: dict[Currency, Minor] = Field(
        description="refunds above it need an approval; in a currency that is not here, all do"
    )
    always: tuple[RefundKind, ...] = Field(max_length=10, description="kinds that always need one")
    window_days: Annotated[int, Field(ge=1, le=3650, strict=True)] | None = Field(
        default=None,
        description="what people ask for on one order within so many days counts together, whatever its kind; none: each alone",
    )

    def reasons(
        self, kind: RefundKind, amount_minor: int, currency: str, is_exception: bool, others_minor: int = 0
    ) -> tuple[str, ...]:
        """All reasons for which it needs an approval, as codes; empty when it needs none. `others_minor` was asked for within
        the window, and approved by nobody."""
        limit = self.threshold_minor.get(currency)
        is_above = limit is not None and amount_minor > limit
        given = {
            f"kind_{kind}": kind in self.always,
            "above_threshold": is_above,
            "above_threshold_together": limit is not None and not is_above and amount_minor + others_minor > limit,
            "no_threshold_for_currency": limit is None,
            "policy_exception": is_exception,
        }
        return tuple(reason for reason, applies in given.items() if applies)


def is_same_person(one: str, other: str) -> bool:
    """Actors are `role:subject`; a person with two roles is still one pair of eyes."""
    return one.partition(":")[2] == other.partition(":")[2]
