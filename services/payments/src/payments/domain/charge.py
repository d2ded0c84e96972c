"""What a customer owes for an exchange: charged to a tender of the order, beside what the order itself is worth.

Every attempt is a tender of its own, authorized and captured whole, so that what was taken can be given back to where it
came from, and counts for nothing that is captured for shipments.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from payments.domain.tender import DisputeStatus, Tender, TenderStatus
from shared.contracts.base import TenderKind
from shared.contracts.payments import (
    PaymentCaptured,
    PaymentChargeDropped,
    PaymentChargeFailed,
    PaymentChargeRequested,
    TenderExcluded,
)
from shared.core.machine import Machine

CHARGEABLE: Final = frozenset({TenderKind.CARD, TenderKind.WALLET, TenderKind.BANK_DEBIT})
NO_TENDER: Final = "no_chargeable_tender"


class ChargeStatus(StrEnum):
    REQUESTED = "requested"
    FAILED = "failed"
    CAPTURED = "captured"
    DROPPED = "dropped"


CHARGE: Final = Machine(
    "charge",
    ChargeStatus.REQUESTED,
    {
        ChargeStatus.REQUESTED: {
            PaymentCaptured: ChargeStatus.CAPTURED,
            PaymentChargeFailed: ChargeStatus.FAILED,
            PaymentChargeDropped: ChargeStatus.DROPPED,
        },
        # What the provider had declined may turn out to be taken, as with any capture.
        ChargeStatus.FAILED: {
            PaymentChargeRequested: ChargeStatus.REQUESTED,
            PaymentChargeDropped: ChargeStatus.DROPPED,
            PaymentCaptured: ChargeStatus.CAPTURED,
        },
        # Dropped while its capture was under way: returns gives back what it is told of.
        ChargeStatus.DROPPED: {
            PaymentChargeRequested: ChargeStatus.REQUESTED,
            PaymentCaptured: ChargeStatus.CAPTURED,
        },
        ChargeStatus.CAPTURED: {},
    },
)


@dataclass(frozen=True, slots=True)
class Charge:
    exchange_id: str
    return_id: str
    amount_minor: int
    status: ChargeStatus = ChargeStatus.REQUESTED


@dataclass(frozen=True, slots=True)
class Choice:
    """The tender to charge, and why not the others; none where none can be."""

    tender: Tender | None
    reasons: tuple[str, ...]
    excluded: tuple[TenderExcluded, ...]


def choose(tenders: list[Tender], exchange_id: str) -> Choice:
    """The first of the order's tenders that can be charged again; those that said no for this exchange come last."""
    refused = [t.charged_tender_id for t in tenders if t.exchange_id == exchange_id]
    usable, excluded = [], []
    for tender in tenders:
        if tender.exchange_id is not None:
            continue
        if why := "".join(_against(tender)):
            excluded.append(TenderExcluded(tender_id=tender.id, reason=why))
        else:
            usable.append(tender)
    chosen = min(usable, key=lambda t: refused.count(t.id), default=None)
    if chosen is None:
        return Choice(None, (), tuple(excluded))
    reasons = ("first_chargeable",) if chosen is usable[0] else ("asked_less_often",)
    return Choice(chosen, reasons, tuple(excluded))


def _against(tender: Tender) -> Iterator[str]:
    """Why it cannot be charged again, the first reason alone."""
    if tender.kind not in CHARGEABLE:
        yield "kind_not_chargeable"
    elif tender.dispute in (DisputeStatus.OPEN, DisputeStatus.LOST):
        yield "disputed"
    elif not tender.authorizations:
        yield "never_authorized"


def is_tried(tender: Tender) -> bool:
    """An attempt that may still take the money."""
    over = (TenderStatus.DECLINED, TenderStatus.VOIDING, TenderStatus.VOIDED, TenderStatus.EXPIRED_FINAL)
    return tender.status not in over and not tender.is_capture_refused and not tender.is_void_refused
