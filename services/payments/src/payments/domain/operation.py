"""One thing asked of the provider under one key for life: asked once, answered by whoever knows first, never twice performed."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from shared.contracts.base import Fact
from shared.contracts.payments import (
    OperationKind,
    PaymentAuthorized,
    PaymentCaptured,
    PaymentCaptureFailed,
    PaymentDeclined,
    PaymentOperationReconciled,
    PaymentOperationSubmitted,
    PaymentOperationUnknown,
    PaymentReauthorized,
    PaymentVoided,
    PaymentVoidFailed,
    RefundCancelled,
    RefundChannel,
    RefundLegFailed,
    RefundLegReversed,
    RefundLegSubmitted,
    RefundLegSucceeded,
)
from shared.core.machine import Machine


class OperationStatus(StrEnum):
    REQUESTED = "requested"
    SUBMITTED = "submitted"
    UNKNOWN = "unknown"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REVERSED = "reversed"


_SUCCESS: Final[dict[type[Fact], OperationStatus | frozenset[OperationStatus]]] = {
    PaymentAuthorized: OperationStatus.SUCCEEDED,
    PaymentReauthorized: OperationStatus.SUCCEEDED,
    PaymentCaptured: OperationStatus.SUCCEEDED,
    PaymentVoided: OperationStatus.SUCCEEDED,
    RefundLegSucceeded: OperationStatus.SUCCEEDED,
}
_FAILURE: Final[dict[type[Fact], OperationStatus | frozenset[OperationStatus]]] = {
    PaymentDeclined: OperationStatus.FAILED,
    PaymentCaptureFailed: OperationStatus.FAILED,
    PaymentVoidFailed: OperationStatus.FAILED,
    RefundLegFailed: OperationStatus.FAILED,
}

OPERATION: Final = Machine(
    "operation",
    OperationStatus.REQUESTED,
    {
        # What we perform ourselves (cash on delivery, invoice) is never submitted, and a request that the provider
        # denied having seen may still arrive there and be told of.
        OperationStatus.REQUESTED: {
            PaymentOperationSubmitted: OperationStatus.SUBMITTED,
            RefundLegSubmitted: OperationStatus.SUBMITTED,
            RefundCancelled: OperationStatus.FAILED,
            **_SUCCESS,
            **_FAILURE,
        },
        OperationStatus.SUBMITTED: {PaymentOperationUnknown: OperationStatus.UNKNOWN, **_SUCCESS, **_FAILURE},
        # Never seen there: asked again under the same key.
        OperationStatus.UNKNOWN: {
            PaymentOperationReconciled: frozenset({OperationStatus.UNKNOWN, OperationStatus.REQUESTED}),
            **_SUCCESS,
            **_FAILURE,
        },
        OperationStatus.SUCCEEDED: {RefundLegReversed: OperationStatus.REVERSED},
        # A logged correction: the provider had said no, and then yes.
        OperationStatus.FAILED: {
            PaymentCaptured: OperationStatus.SUCCEEDED,
            PaymentVoided: OperationStatus.SUCCEEDED,
            RefundLegSucceeded: OperationStatus.SUCCEEDED,
        },
        OperationStatus.REVERSED: {},
    },
)

IN_FLIGHT: Final = frozenset({OperationStatus.REQUESTED, OperationStatus.SUBMITTED, OperationStatus.UNKNOWN})
"""It may still happen, or may have: its money is spoken for."""


@dataclass(frozen=True, slots=True)
class Operation:
    """`authorization` is the provider's reference of what it captures, voids or refunds; a refund leg is one too."""

    id: str
    kind: OperationKind
    tender_id: str
    amount_minor: int
    requested_at: datetime
    status: OperationStatus = OperationStatus.REQUESTED
    submissions: int = 0
    authorization: str | None = None
    final: bool = False
    shipment_id: str | None = None
    refund_id: str | None = None
    channel: RefundChannel | None = None
    account_id: str | None = None
    reference: str | None = None
    code: str | None = None
    has_anomaly: bool = False
    """The provider contradicted what was asked for: said once, as an anomaly."""

    @property
    def is_in_flight(self) -> bool:
        return self.status in IN_FLIGHT

    @property
    def holds_minor(self) -> int:
        """Money it took or may yet take."""
        return self.amount_minor if self.is_in_flight or self.status is OperationStatus.SUCCEEDED else 0


class Result(StrEnum):
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    PENDING = "pending"
    REVERSED = "reversed"


@dataclass(frozen=True, slots=True)
class ProviderResult:
    """What the provider says became of an operation: in its answer, in a notice, or when asked."""

    result: Result
    amount_minor: int
    at: datetime
    reference: str
    code: str = ""
    expires_at: datetime | None = None
