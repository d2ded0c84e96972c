"""Our books held against the provider's, operation by operation: what differs is named, what is under way is not drift."""

from collections.abc import Sequence
from enum import StrEnum

from pydantic import BaseModel, Field

from payments.domain.operation import IN_FLIGHT, OperationStatus, Result
from payments.gateway import BookedThere
from payments.store import Booked


class Difference(StrEnum):
    UNKNOWN_THERE = "unknown_there"
    UNKNOWN_HERE = "unknown_here"
    AMOUNT = "amount"
    STATUS = "status"


class Drift(BaseModel):
    """One operation that the two books do not have alike; None where one has nothing."""

    order_id: str
    operation_id: str
    difference: Difference
    our_status: OperationStatus | None
    our_amount_minor: int | None
    their_status: Result | None
    their_amount_minor: int | None


class Report(BaseModel):
    """One page of orders compared."""

    orders: int
    operations: int
    under_way: int = Field(description="operations without an outcome here: compared when they have one")
    drift: list[Drift]
    next: str | None = Field(description="give it as `after` for the next page; none when this was the last")


EXPECTED = {
    OperationStatus.SUCCEEDED: Result.SUCCEEDED,
    OperationStatus.FAILED: Result.FAILED,
    OperationStatus.REVERSED: Result.REVERSED,
}


def compare(ours: Sequence[Booked], theirs: Sequence[BookedThere]) -> list[Drift]:
    """What failed here may be unknown there: it was refused, or withdrawn before it was submitted."""
    there = {o.operation_id: o for o in theirs}
    drift = []
    for our in ours:
        their = there.pop(our.operation_id, None)
        status = OperationStatus(our.status)
        if status in IN_FLIGHT:
            continue
        difference = None
        if their is None:
            difference = None if status is OperationStatus.FAILED else Difference.UNKNOWN_THERE
        elif their.result is not EXPECTED[status]:
            difference = Difference.STATUS
        elif their.amount_minor != our.amount_minor:
            difference = Difference.AMOUNT
        if difference is not None:
            drift.append(_drift(our.order_id, our.operation_id, difference, our, their))
    return drift + [_drift(o.order_id, o.operation_id, Difference.UNKNOWN_HERE, None, o) for o in there.values()]


def _drift(
    order_id: str, operation_id: str, difference: Difference, our: Booked | None, their: BookedThere | None
) -> Drift:
    return Drift(
        order_id=order_id,
        operation_id=operation_id,
        difference=difference,
        our_status=OperationStatus(our.status) if our else None,
        our_amount_minor=our.amount_minor if our else None,
        their_status=their.result if their else None,
        their_amount_minor=their.amount_minor if their else None,
    )
