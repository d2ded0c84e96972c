"""One way an order is paid: what was authorized on it, captured, released and disputed, to the minor unit."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

from shared.contracts.base import PREPAID, TenderKind
from shared.contracts.payments import (
    DisputeFact,
    DisputeLost,
    DisputeOpened,
    DisputeWon,
    PaymentAuthorizationExpired,
    PaymentAuthorizationRequested,
    PaymentAuthorized,
    PaymentCaptured,
    PaymentCaptureFailed,
    PaymentCaptureRequested,
    PaymentDeclined,
    PaymentMovementRecorded,
    PaymentReauthorized,
    PaymentVoided,
    PaymentVoidFailed,
    PaymentVoidRequested,
)
from shared.core.machine import Machine, replace

OWN: Final = frozenset({TenderKind.CASH_ON_DELIVERY, TenderKind.INVOICE})
"""Authorized and captured by ourselves; no provider knows of them."""


class TenderStatus(StrEnum):
    CREATED = "created"
    AUTHORIZING = "authorizing"
    AUTHORIZED = "authorized"
    PARTIALLY_CAPTURED = "partially_captured"
    CAPTURED = "captured"
    DECLINED = "declined"
    VOIDING = "voiding"
    VOIDED = "voided"
    AUTHORIZATION_EXPIRED = "authorization_expired"
    EXPIRED_FINAL = "expired_final"


class DisputeStatus(StrEnum):
    NONE = "none"
    OPEN = "open"
    WON = "won"
    LOST = "lost"


TENDER: Final = Machine(
    "tender",
    TenderStatus.CREATED,
    {
        TenderStatus.CREATED: {PaymentAuthorizationRequested: TenderStatus.AUTHORIZING},
        TenderStatus.AUTHORIZING: {
            PaymentAuthorized: TenderStatus.AUTHORIZED,
            PaymentReauthorized: frozenset({TenderStatus.AUTHORIZED, TenderStatus.PARTIALLY_CAPTURED}),
            PaymentDeclined: TenderStatus.DECLINED,
        },
        # A movement: the provider captured some of it without having been asked.
        TenderStatus.AUTHORIZED: {
            PaymentMovementRecorded: frozenset({TenderStatus.PARTIALLY_CAPTURED, TenderStatus.CAPTURED}),
            PaymentCaptureRequested: TenderStatus.AUTHORIZED,
            PaymentCaptureFailed: TenderStatus.AUTHORIZED,
            PaymentCaptured: frozenset({TenderStatus.PARTIALLY_CAPTURED, TenderStatus.CAPTURED}),
            PaymentVoidRequested: TenderStatus.VOIDING,
            PaymentAuthorizationExpired: frozenset({TenderStatus.AUTHORIZATION_EXPIRED, TenderStatus.EXPIRED_FINAL}),
        },
        # What remains may be released after a partial capture too; then nothing is left to capture.
        TenderStatus.PARTIALLY_CAPTURED: {
            PaymentMovementRecorded: frozenset({TenderStatus.PARTIALLY_CAPTURED, TenderStatus.CAPTURED}),
            PaymentCaptureRequested: TenderStatus.PARTIALLY_CAPTURED,
            PaymentCaptureFailed: TenderStatus.PARTIALLY_CAPTURED,
            PaymentCaptured: frozenset({TenderStatus.PARTIALLY_CAPTURED, TenderStatus.CAPTURED}),
            PaymentVoidRequested: TenderStatus.PARTIALLY_CAPTURED,
            PaymentVoidFailed: TenderStatus.PARTIALLY_CAPTURED,
            PaymentVoided: TenderStatus.CAPTURED,
            PaymentAuthorizationExpired: frozenset({TenderStatus.AUTHORIZATION_EXPIRED, TenderStatus.CAPTURED}),
        },
        TenderStatus.CAPTURED: {},
        TenderStatus.DECLINED: {},
        TenderStatus.VOIDING: {
            PaymentVoided: TenderStatus.VOIDED,
            PaymentVoidFailed: TenderStatus.AUTHORIZED,
        },
        TenderStatus.VOIDED: {},
        TenderStatus.AUTHORIZATION_EXPIRED: {
            PaymentAuthorizationRequested: TenderStatus.AUTHORIZING,
            PaymentAuthorizationExpired: frozenset({TenderStatus.EXPIRED_FINAL, TenderStatus.CAPTURED}),
        },
        TenderStatus.EXPIRED_FINAL: {},
    },
)

DISPUTE: Final = Machine(
    "dispute",
    DisputeStatus.NONE,
    {
        DisputeStatus.NONE: {DisputeOpened: DisputeStatus.OPEN},
        DisputeStatus.OPEN: {DisputeWon: DisputeStatus.WON, DisputeLost: DisputeStatus.LOST},
        # A bank may take up again under the same id what had ended, or correct its end.
        DisputeStatus.WON: {DisputeOpened: DisputeStatus.OPEN, DisputeLost: DisputeStatus.LOST},
        DisputeStatus.LOST: {DisputeOpened: DisputeStatus.OPEN, DisputeWon: DisputeStatus.WON},
    },
)

RANK: Final = (DisputeStatus.OPEN, DisputeStatus.WON, DisputeStatus.LOST)
"""What counts where the provider says that several happened at the same instant: the last of them."""

CAPTURABLE: Final = frozenset({TenderStatus.AUTHORIZED, TenderStatus.PARTIALLY_CAPTURED})
PROMISED: Final = frozenset({TenderStatus.CREATED, TenderStatus.AUTHORIZING, TenderStatus.AUTHORIZATION_EXPIRED})
"""Nothing can be captured on it now, but it may be authorized yet."""


@dataclass(frozen=True, slots=True)
class Authorization:
    """What the provider holds ready under one reference. `captured_at` is when the first of it was captured."""

    reference: str
    amount_minor: int
    requested_at: datetime
    expires_at: datetime | None
    captured_minor: int = 0
    voided_minor: int = 0
    lapsed_minor: int = 0
    captured_at: datetime | None = None

    @property
    def open_minor(self) -> int:
        return self.amount_minor - self.captured_minor - self.voided_minor - self.lapsed_minor


@dataclass(frozen=True, slots=True)
class Dispute:
    """`at` is when it came to its status, as the provider says; `authorization` its reference of what is disputed."""

    amount_minor: int
    status: DisputeStatus
    at: datetime | None = None
    authorization: str | None = None

    @property
    def is_lost(self) -> bool:
        return self.status is DisputeStatus.LOST

    def is_before(self, at: datetime, status: DisputeStatus) -> bool:
        """Whether what is told happened after what is known of it."""
        if self.at is None or self.at == at:
            return RANK.index(self.status) < RANK.index(status)
        return self.at < at


@dataclass(frozen=True, slots=True)
class Tender:
    """`amount_minor` is what the order wants of it; the authorizations say what there is, the newest last."""

    id: str
    kind: TenderKind
    token: str
    amount_minor: int
    status: TenderStatus = TenderStatus.CREATED
    attempts: int = 0
    authorizations: tuple[Authorization, ...] = ()
    is_capture_refused: bool = False
    """A capture was declined; no other is tried on it by itself."""
    is_void_refused: bool = False
    exchange_id: str | None = None
    """It charges for this exchange, and for nothing of the order itself."""
    charged_tender_id: str | None = None
    """The tender of the order whose token it charges."""
    dispute: DisputeStatus = DisputeStatus.NONE
    """Of all its disputes: open where one is, else lost where one is."""
    dispute_id: str | None = None
    disputed_minor: int = 0
    """Of the dispute that moved last; states from before `disputes` have no other."""
    disputes: Mapping[str, Dispute] = field(default_factory=dict)
    overdrawn_minor: int = 0
    """What the provider let go of it beyond what was captured, without having been asked."""

    @property
    def is_prepaid(self) -> bool:
        return self.kind in PREPAID

    @property
    def is_own(self) -> bool:
        return self.kind in OWN

    @property
    def is_disputed(self) -> bool:
        """No refund goes to it. What a lost dispute left can be refunded."""
        return self.dispute is DisputeStatus.OPEN

    @property
    def all_disputes(self) -> Mapping[str, Dispute]:
        if self.disputes or self.dispute_id is None:
            return self.disputes
        return {self.dispute_id: Dispute(self.disputed_minor, self.dispute)}

    def disputed(self, status: DisputeStatus) -> int:
        """The sum of its disputes in that status."""
        return sum(d.amount_minor for d in self.all_disputes.values() if d.status is status)

    @property
    def authorized_minor(self) -> int:
        return sum(a.amount_minor - a.lapsed_minor for a in self.authorizations)

    @property
    def captured_minor(self) -> int:
        return sum(a.captured_minor for a in self.authorizations)

    @property
    def voided_minor(self) -> int:
        return sum(a.voided_minor for a in self.authorizations)

    @property
    def open_minor(self) -> int:
        """Authorized and neither captured nor released."""
        return sum(a.open_minor for a in self.authorizations)

    @property
    def current(self) -> Authorization:
        return self.authorizations[-1]

    @property
    def last_captured_at(self) -> datetime | None:
        return max((a.captured_at for a in self.authorizations if a.captured_at), default=None)


def authorize(tender: Tender, fact: PaymentAuthorized | PaymentReauthorized, requested_at: datetime) -> Tender:
    to = None
    if isinstance(fact, PaymentReauthorized):
        to = TenderStatus.PARTIALLY_CAPTURED if tender.captured_minor else TenderStatus.AUTHORIZED
    given = Authorization(fact.reference, fact.amount_minor, requested_at, fact.expires_at)
    others = tuple(a for a in tender.authorizations if a.reference != fact.reference)
    for taken in (a for a in tender.authorizations if a.reference == fact.reference):
        # Captured at the provider before its authorization was heard of here.
        given = replace(
            given,
            amount_minor=max(given.amount_minor, taken.captured_minor),
            captured_minor=taken.captured_minor,
            captured_at=taken.captured_at,
        )
    return replace(
        tender,
        status=TENDER.step(tender.status, fact, to),
        authorizations=(*others, given),
        is_capture_refused=False,
    )


def capture(tender: Tender, fact: PaymentCaptured, reference: str, requested_at: datetime) -> Tender:
    """A final capture releases what remains of the authorization it was made on. Where the provider took more than was left of
    it, it had authorized more."""
    authorizations = []
    for a in tender.authorizations:
        if a.reference == reference:
            a = replace(a, amount_minor=a.amount_minor + max(0, fact.amount_minor - a.open_minor))
            a = replace(
                a, captured_minor=a.captured_minor + fact.amount_minor, captured_at=a.captured_at or requested_at
            )
            a = replace(a, voided_minor=a.voided_minor + a.open_minor) if fact.final else a
        authorizations.append(a)
    after = replace(tender, authorizations=tuple(authorizations), is_capture_refused=False)
    is_whole = not after.open_minor
    to = TenderStatus.CAPTURED if is_whole else TenderStatus.PARTIALLY_CAPTURED
    return replace(after, status=TENDER.step(tender.status, fact, to))


def capture_unasked(tender: Tender, fact: PaymentMovementRecorded) -> Tender:
    """On the authorization that it names; the provider had authorized as much as it took, there or by another that is not
    known here."""
    authorizations = list(tender.authorizations)
    at = next((i for i, a in enumerate(authorizations) if a.reference == fact.authorization), None)
    if at is None:
        reference, amount, when = fact.authorization or fact.reference, fact.amount_minor, fact.occurred_at
        # The newest authorization stays the last: it is the one that is captured and renewed.
        extra = Authorization(reference, amount, when, None, captured_minor=amount, captured_at=when)
        authorizations.insert(max(0, len(authorizations) - 1), extra)
        return replace(tender, authorizations=tuple(authorizations))
    a = authorizations[at]
    authorizations[at] = replace(
        a,
        amount_minor=a.amount_minor + max(0, fact.amount_minor - a.open_minor),
        captured_minor=a.captured_minor + fact.amount_minor,
        captured_at=a.captured_at or fact.occurred_at,
    )
    after = replace(tender, authorizations=tuple(authorizations))
    if tender.status not in CAPTURABLE:
        return after
    to = TenderStatus.PARTIALLY_CAPTURED if after.open_minor else TenderStatus.CAPTURED
    return replace(after, status=TENDER.step(tender.status, fact, to))


def dispute(tender: Tender, fact: DisputeFact) -> Tender:
    was = tender.all_disputes.get(fact.dispute_id)
    status = DISPUTE.step(was.status if was else DISPUTE.initial, fact)
    told = Dispute(fact.amount_minor, status, fact.at, fact.authorization or (was.authorization if was else None))
    disputes = {**tender.all_disputes, fact.dispute_id: told}
    weight = (DisputeStatus.OPEN, DisputeStatus.LOST, DisputeStatus.WON)
    return replace(
        tender,
        dispute=min((d.status for d in disputes.values()), key=weight.index),
        dispute_id=fact.dispute_id,
        disputed_minor=fact.amount_minor,
        disputes=disputes,
    )


def release(tender: Tender, fact: PaymentVoided) -> Tender:
    authorizations = tuple(replace(a, voided_minor=a.voided_minor + a.open_minor) for a in tender.authorizations)
    return replace(tender, status=TENDER.step(tender.status, fact), authorizations=authorizations)


def expire(tender: Tender, fact: PaymentAuthorizationExpired) -> Tender:
    if not fact.final:
        to = TenderStatus.AUTHORIZATION_EXPIRED
    else:
        to = TenderStatus.CAPTURED if tender.captured_minor else TenderStatus.EXPIRED_FINAL
    authorizations = tuple(replace(a, lapsed_minor=a.lapsed_minor + a.open_minor) for a in tender.authorizations)
    return replace(tender, status=TENDER.step(tender.status, fact, to), authorizations=authorizations)
