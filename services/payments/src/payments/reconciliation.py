"""Reconciliation compares our books with the provider's, operation by operation: what differs is named, what is in flight is
no drift.

A person may ask for it, and it runs by itself, page by page through all orders, in one replica at a time. It books what the
provider moved and we had not booked; what stays different is kept and counted.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from enum import StrEnum
from typing import Final

import structlog
from pydantic import BaseModel, Field
from uuid_utils.compat import uuid7

from payments.domain.decide import Command, Dispute, RecordMovement, RecordOutcome
from payments.domain.operation import IN_FLIGHT, OperationStatus, Result
from payments.gateway import DisputedThere, Processor, ProviderRecord, TheirBooks, Unanswered
from payments.notices import hear_again
from payments.store import PAYMENTS, Booked, OurBooks, booked, claim_page, end_page, keep_differences, orders_after
from shared.contracts.payments import MovementKind, OperationKind
from shared.messaging.database import BROKEN_LAWS, OUTAGES, Pool
from shared.messaging.envelope import Cause
from shared.messaging.shell import Message
from shared.web.commands import CommandBus

log = structlog.get_logger()

PAGE: Final = 100
LEASE_SECONDS: Final = 60.0
PATIENCE: Final = 3
"""Times that a page is asked for whole; after them order by order, so that one that cannot be read holds no other."""


class Difference(StrEnum):
    UNKNOWN_THERE = "unknown_there"
    UNKNOWN_HERE = "unknown_here"
    AMOUNT = "amount"
    STATUS = "status"
    DISPUTE = "dispute"
    UNREADABLE = "unreadable"


class Drift(BaseModel):
    """It is one operation or dispute that the two books do not have alike; None where one has nothing."""

    order_id: str
    operation_id: str = Field(description="or the dispute's id")
    difference: Difference
    our_status: str | None
    our_amount_minor: int | None
    their_status: str | None
    their_amount_minor: int | None


class Report(BaseModel):
    """It reports on one page of orders."""

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
DISPUTED: Final = {"opened": "open", "won": "won", "lost": "lost"}
MOVED: Final = {
    OperationKind.AUTHORIZE: MovementKind.AUTHORIZATION,
    OperationKind.CAPTURE: MovementKind.CAPTURE,
    OperationKind.VOID: MovementKind.VOID,
    OperationKind.REFUND: MovementKind.REFUND,
}


def compare(ours: OurBooks, theirs: TheirBooks) -> list[Drift]:
    """Compare both books. What failed here may be unknown there: it was refused, or withdrawn before it was submitted. What
    moved without having been asked for is booked under the provider's reference. Amounts are compared of what moved: a
    failure moved nothing, and a void releases what is left, whatever amount is named."""
    there = {o.operation_id: o for o in theirs.operations if o.reference not in ours.moved}
    moved = {o.operation_id for o in theirs.operations if o.reference in ours.moved}
    drift = []
    for our in ours.operations:
        their = there.pop(our.operation_id, None)
        status = OperationStatus(our.status)
        if status in IN_FLIGHT or our.operation_id in moved:
            continue
        difference = None
        if their is None:
            difference = None if status is OperationStatus.FAILED else Difference.UNKNOWN_THERE
        elif their.result is not EXPECTED[status]:
            difference = Difference.STATUS
        elif their.amount_minor != our.amount_minor:
            has_moved = status is not OperationStatus.FAILED and our.kind != OperationKind.VOID
            difference = Difference.AMOUNT if has_moved else None
        if difference is not None:
            drift.append(_drift(our.order_id, our.operation_id, difference, our, their))
    # What failed there and is unknown here moved nothing.
    drift += [
        _drift(o.order_id, o.operation_id, Difference.UNKNOWN_HERE, None, o)
        for o in there.values()
        if o.result in (Result.SUCCEEDED, Result.REVERSED)
    ]
    return drift + list(_disputes(ours, theirs))


def _disputes(ours: OurBooks, theirs: TheirBooks) -> Iterator[Drift]:
    known = {d.dispute_id: (d.status, d.amount_minor) for d in ours.disputes}
    for their in theirs.disputes:
        our = known.get(their.dispute_id)
        status = DISPUTED[their.change]
        if our != (status, their.amount_minor):
            yield Drift(
                order_id=their.order_id,
                operation_id=their.dispute_id,
                difference=Difference.DISPUTE,
                our_status=our[0] if our else None,
                our_amount_minor=our[1] if our else None,
                their_status=status,
                their_amount_minor=their.amount_minor,
            )


def _drift(
    order_id: str, operation_id: str, difference: Difference, our: Booked | None, their: ProviderRecord | None
) -> Drift:
    return Drift(
        order_id=order_id,
        operation_id=operation_id,
        difference=difference,
        our_status=our.status if our else None,
        our_amount_minor=our.amount_minor if our else None,
        their_status=their.result if their else None,
        their_amount_minor=their.amount_minor if their else None,
    )


@dataclass(frozen=True, slots=True)
class Compared:
    """It holds what was found different, and the provider's books in which it was found."""

    drift: tuple[Drift, ...]
    theirs: TheirBooks
    operations: int
    under_way: int


async def held_against(pool: Pool, processor: Processor, orders: Sequence[str]) -> Compared:
    """Read again what seems to differ, and return what still does. Raises Unanswered."""
    ours = await booked(pool, orders)
    theirs = await processor.books(orders) if orders else TheirBooks([], [])
    drift = compare(ours, theirs)
    if drift:
        suspects = sorted({d.order_id for d in drift})
        theirs = await processor.books(suspects)
        named = {(d.operation_id, d.difference) for d in drift}
        again = compare(await booked(pool, suspects), theirs)
        drift = [d for d in again if (d.operation_id, d.difference) in named]
    under_way = sum(1 for o in ours.operations if OperationStatus(o.status) in IN_FLIGHT)
    return Compared(tuple(drift), theirs, len(ours.operations), under_way)


class Auditor:
    """It compares all orders with the provider's books, a page a step, and begins again `every_seconds` after the last.

    Replicas take turns: who claims a page has it until its lease is over.
    """

    def __init__(self, pool: Pool, commands: CommandBus, processor: Processor, every_seconds: float) -> None:
        self._pool = pool
        self._commands = commands
        self._processor = processor
        self._every_seconds = every_seconds

    async def step(self) -> bool:
        """Compare a page; return whether there was anything to do. Raises an outage."""
        heard = await hear_again(self._pool, self._commands, self._processor)
        claimed = await claim_page(self._pool, LEASE_SECONDS)
        if claimed is None:
            return heard > 0
        after, failures = claimed
        orders = await orders_after(self._pool, after, PAGE)
        unreadable: list[Drift] = []
        try:
            await self._audit(orders)
        except Unanswered as error:
            log.warning("reconciliation.deferred", after=after, error=str(error))
            if failures < PATIENCE:
                await end_page(self._pool, after, min(60.0, 2.0**failures), failures + 1)
                return True
            unreadable = await self._one_by_one(orders)
            if len(unreadable) == len(orders):  # it is the provider that is away
                await end_page(self._pool, after, 60.0, failures + 1)
                return True
        is_last = len(orders) < PAGE
        await end_page(self._pool, "" if is_last else orders[-1], self._every_seconds if is_last else 0.0)
        return True

    async def _one_by_one(self, orders: Sequence[str]) -> list[Drift]:
        unreadable = []
        for order_id in orders:
            try:
                await self._audit([order_id])
            except Unanswered as error:
                unreadable.append(
                    Drift(
                        order_id=order_id,
                        operation_id=order_id,
                        difference=Difference.UNREADABLE,
                        our_status=None,
                        our_amount_minor=None,
                        their_status=str(error),
                        their_amount_minor=None,
                    )
                )
        for drift in unreadable:
            await keep_differences(self._pool, [drift.order_id], [_row(drift)])
        return unreadable

    async def _audit(self, orders: Sequence[str]) -> None:
        """Book what can be booked, and keep what stays different."""
        found = await held_against(self._pool, self._processor, orders)
        drift = found.drift
        if drift:
            for one in drift:
                await self._book(one, found.theirs)
            drift = (await held_against(self._pool, self._processor, orders)).drift
            log.warning("books.differ", orders=sorted({d.order_id for d in drift}), differences=len(drift))
        await keep_differences(self._pool, orders, [_row(d) for d in drift])

    async def _book(self, drift: Drift, theirs: TheirBooks) -> None:
        """Book as a notice would have it booked. What breaks on one difference leaves it different, and the others go on."""
        try:
            for command, at in await self._commands_for(drift, theirs):
                cause = Cause(
                    id=uuid7(),
                    at=at,
                    actor="partner:processor",
                    reason="the provider's books",
                    correlation_id=drift.operation_id,
                )
                message: Message[Command] = Message(drift.order_id, command, cause)
                [refusal] = await self._commands.process(PAYMENTS, [message])
                if refusal is not None:
                    raise refusal
        except Exception as error:
            is_outage = isinstance(error, OUTAGES) and not isinstance(error, BROKEN_LAWS)
            if is_outage or isinstance(error, Unanswered):
                raise
            log.error("difference.not_booked", subject=drift.operation_id, error=repr(error), exc_info=error)

    async def _commands_for(self, drift: Drift, theirs: TheirBooks) -> list[tuple[Command, datetime]]:
        if drift.difference is Difference.DISPUTE:
            return [(_disputed(d), d.at) for d in theirs.disputes if d.dispute_id == drift.operation_id]
        if drift.difference is not Difference.UNKNOWN_HERE:
            verdict = await self._processor.find(drift.operation_id)
            if verdict is not None:
                return [(RecordOutcome(drift.operation_id, verdict), verdict.at)]
            return [(RecordOutcome(drift.operation_id, None), datetime.now(timezone.utc))]
        there = next(o for o in theirs.operations if o.operation_id == drift.operation_id)
        said = f"In the provider's books under the key {there.operation_id}, not asked for by us"
        kinds = [MOVED[there.kind]]
        if there.result is Result.REVERSED:
            kinds.append(MovementKind.REFUND_REVERSED)
        return [
            (RecordMovement(k, there.authorization, there.reference, there.amount_minor, there.at, said), there.at)
            for k in kinds
        ]


def _disputed(their: DisputedThere) -> Dispute:
    return Dispute(their.authorization, their.dispute_id, their.change, their.amount_minor, their.at)


def _row(drift: Drift) -> tuple[str, str, str, str | None, str | None]:
    ours = None if drift.our_status is None else f"{drift.our_status} {drift.our_amount_minor}"
    theirs = None if drift.their_status is None else f"{drift.their_status} {drift.their_amount_minor}"
    return drift.order_id, drift.operation_id, drift.difference, ours, theirs
