"""Recovery cases are about what a customer holds and did not pay for. Each is charged, written off, or given back."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from shared.contracts.returns import (
    RecoveryChargeFailed,
    RecoveryChargeRequested,
    RecoveryFact,
    RecoveryOpened,
    RecoverySettled,
)
from shared.core.machine import Machine, replace


class RecoveryStatus(StrEnum):
    OPEN = "open"
    CHARGE_REQUESTED = "charge_requested"
    SETTLED = "settled"


RECOVERY: Final = Machine(
    "recovery case",
    RecoveryStatus.OPEN,
    {
        RecoveryStatus.OPEN: {
            RecoveryChargeRequested: RecoveryStatus.CHARGE_REQUESTED,
            # What had been declined may turn out to be taken.
            RecoverySettled: RecoveryStatus.SETTLED,
        },
        RecoveryStatus.CHARGE_REQUESTED: {
            RecoveryChargeFailed: RecoveryStatus.OPEN,
            RecoverySettled: RecoveryStatus.SETTLED,
        },
        RecoveryStatus.SETTLED: {},
    },
)


@dataclass(frozen=True, slots=True)
class Recovery:
    """`is_charged_when_due`: by policy, and nothing was declined yet. `undue_minor`: what was charged and is not owed any
    more, as a person was told."""

    recovery_id: str
    status: RecoveryStatus
    amount_minor: int
    currency: str
    cause: str
    return_id: str | None
    shipment_id: str | None
    tracking: str | None
    due_at: datetime
    is_charged_when_due: bool
    undue_minor: int = 0
    how: str | None = None
    approver: str | None = None

    @property
    def source(self) -> tuple[str | None, str | None, str | None]:
        return self.return_id, self.shipment_id, self.tracking

    @property
    def is_open(self) -> bool:
        return self.status is not RecoveryStatus.SETTLED

    @property
    def answered_minor(self) -> int:
        return self.amount_minor - self.undue_minor

    @property
    def answers(self) -> bool:
        """Say whether it answers for its amount; one that the facts made undue answers for nothing, and may be due again."""
        return self.how != "returned" or self.approver is not None


def opened(fact: RecoveryOpened) -> Recovery:
    return Recovery(
        recovery_id=fact.recovery_id,
        status=RECOVERY.initial,
        amount_minor=fact.amount_minor,
        currency=fact.currency,
        cause=fact.cause,
        return_id=fact.return_id,
        shipment_id=fact.shipment_id,
        tracking=fact.tracking,
        due_at=fact.due_at,
        is_charged_when_due=fact.owner == "system",
    )


def evolve(recovery: Recovery, fact: RecoveryFact) -> Recovery:
    recovery = replace(recovery, status=RECOVERY.step(recovery.status, fact))
    match fact:
        case RecoveryChargeFailed():
            return replace(recovery, is_charged_when_due=False)
        case RecoverySettled(how=how, approver=approver):
            return replace(recovery, how=how, approver=approver)
        case _:
            return recovery
