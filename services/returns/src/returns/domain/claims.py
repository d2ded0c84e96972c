"""Claims: lost, wrong, damaged or defective units that are made good without a parcel coming back first."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, TypeAlias

from returns.domain.rma import Due
from shared.contracts.returns import (
    ClaimOpened,
    ClaimResolved,
    ExchangeReleased,
    ReturnReason,
    ReturnRefundDropped,
    ReturnRefundDue,
    ReturnRefundSettled,
)
from shared.core.machine import Machine, replace


class ClaimStatus(StrEnum):
    OPEN = "open"
    REFUNDED = "refunded"
    REPLACED = "replaced"
    REJECTED = "rejected"


CLAIM: Final = Machine(
    "claim",
    ClaimStatus.OPEN,
    {
        ClaimStatus.OPEN: {
            ClaimResolved: frozenset({ClaimStatus.REFUNDED, ClaimStatus.REPLACED, ClaimStatus.REJECTED})
        },
        ClaimStatus.REFUNDED: {},
        ClaimStatus.REPLACED: {},
        ClaimStatus.REJECTED: {},
    },
)

CLAIMABLE: Final = frozenset(
    {
        ReturnReason.NOT_RECEIVED,
        ReturnReason.WRONG_ITEM,
        ReturnReason.DEFECTIVE,
        ReturnReason.DAMAGED_IN_TRANSIT,
        ReturnReason.NOT_AS_DESCRIBED,
    }
)


@dataclass(frozen=True, slots=True)
class Worth:
    """What claimed units were worth when the claim was refunded, and what was stated as due for them."""

    units: int
    goods_minor: int
    shipping_minor: int
    refund_minor: int


@dataclass(frozen=True, slots=True)
class Claim:
    """`units` by line. Units not received are lost ones; all others are with the customer, who keeps them."""

    claim_id: str
    status: ClaimStatus
    reason: ReturnReason
    units: dict[str, int]
    evidence: tuple[str, ...]
    worth: dict[str, Worth] = field(default_factory=dict)
    dues: dict[str, Due] = field(default_factory=dict)

    @property
    def is_for_lost(self) -> bool:
        return self.reason is ReturnReason.NOT_RECEIVED


def opened(fact: ClaimOpened) -> Claim:
    return Claim(
        claim_id=fact.claim_id,
        status=CLAIM.initial,
        reason=fact.reason,
        units={line.line_id: line.quantity for line in fact.lines},
        evidence=fact.evidence,
    )


ClaimFact: TypeAlias = ClaimResolved | ReturnRefundDue | ReturnRefundSettled | ReturnRefundDropped | ExchangeReleased


def evolve(claim: Claim, fact: ClaimFact) -> Claim:
    match fact:
        case ClaimResolved(outcome=outcome):
            return replace(claim, status=CLAIM.step(claim.status, fact, ClaimStatus(outcome)))
        case ReturnRefundDue(due_id=due_id, amount_minor=amount, lines=lines):
            worth = {
                line.line_id: Worth(line.quantity, line.gross_minor, line.shipping_minor, line.refund_minor)
                for line in lines
            }
            return replace(claim, worth=worth, dues={**claim.dues, due_id: Due(amount)})
        case ReturnRefundSettled(due_id=due_id) | ReturnRefundDropped(due_id=due_id):
            return replace(claim, dues={**claim.dues, due_id: claim.dues[due_id].after(fact)})
        case ExchangeReleased():
            return claim
