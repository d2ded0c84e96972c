"""What the customer was told, when, and whether it still holds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

from shared.contracts.notifications import (
    Claim,
    NotificationBasisNoted,
    NotificationBounced,
    NotificationCoalesced,
    NotificationContradicted,
    NotificationCorrectionSent,
    NotificationDelivered,
    NotificationFact,
    NotificationFailed,
    NotificationKind,
    NotificationKindResumed,
    NotificationKindSuppressed,
    NotificationQueued,
    NotificationRestated,
    NotificationSent,
    NotificationSuppressed,
    NotificationSuppressionRequested,
    Statement,
)
from shared.core.machine import replace
from support_view.domain.signals import Signal
from support_view.domain.timeline import Details, Entry, Quiet, Sentences, Words, day, plain, put


class Status(StrEnum):
    QUEUED = "queued"
    SENT = "sent"
    DELIVERED = "delivered"
    COALESCED = "coalesced"
    SUPPRESSED = "suppressed"
    FAILED = "failed"
    BOUNCED = "bounced"


@dataclass(frozen=True, slots=True)
class Said:
    claim: Claim
    line_id: str | None
    quantity: int
    amount_minor: int | None
    currency: str | None
    at: datetime | None


@dataclass(frozen=True, slots=True)
class Notification:
    status: Status = Status.QUEUED
    kind: NotificationKind | None = None
    title: str = ""
    said: tuple[Said, ...] = ()
    detail: str = ""
    contradictions: int = 0
    contradicted_at: datetime | None = None
    """When it first became untrue."""
    is_corrected: bool = False
    sent_at: datetime | None = None
    queued_at: datetime | None = None
    """When that happened which it tells of."""
    untrue_units: int = 0
    """Of the units it speaks of, once a statement: those of statements that became untrue while they stood."""
    is_held_back: bool = False
    """A person wanted it not to be tried again, while it was being sent."""
    is_stale: bool = False
    """The sender held it back, since what it tells happened too long ago; else a person did."""
    ended_at: datetime | None = None
    """Sent, or given up."""
    facts: tuple[int, ...] = ()
    """Sequences of all that was told of it."""


@dataclass(frozen=True, slots=True)
class Notifications:
    notifications: Mapping[str, Notification] = field(default_factory=dict)
    signs: tuple[Signal, ...] = ()


def fold(notifications: Notifications, entry: Entry) -> Notifications:
    """Total: any fact of the service, in any state, leads somewhere."""
    if isinstance(entry.fact, NotificationBasisNoted):
        return notifications  # what another service told; its own section carries it
    if isinstance(entry.fact, NotificationKindSuppressed | NotificationKindResumed):
        return notifications  # what it holds back is told of each message
    if not isinstance(entry.fact, NotificationFact):
        raise TypeError(f"{entry.fact.type} is no fact of notifications")
    told = notifications.notifications
    id = entry.fact.notification_id
    if isinstance(entry.fact, NotificationCorrectionSent) and entry.fact.corrects_id in told:
        told = put(told, entry.fact.corrects_id, replace(told[entry.fact.corrects_id], is_corrected=True))
    notification = _move(told.get(id, Notification()), entry.fact, entry.occurred_at)
    notification = replace(notification, facts=(*notification.facts, entry.sequence))
    if isinstance(entry.fact, NotificationSuppressed):
        is_stale = entry.actor == SENDER and not notification.is_held_back
        notification = replace(notification, is_stale=is_stale)
    return replace(notifications, notifications=put(told, id, notification))


SENDER: Final = "service:notifications"
"""The actor of what the sender found out by itself."""


def _move(notification: Notification, fact: NotificationFact, at: datetime) -> Notification:
    match fact:
        case NotificationQueued(kind=kind, statements=statements, queued_at=queued_at):
            said = _said(statements)
            return replace(notification, status=Status.QUEUED, kind=kind, said=said, queued_at=queued_at or at)
        case NotificationSent(kind=kind, title=title, statements=statements):
            said = _said(statements)
            return replace(notification, status=Status.SENT, kind=kind, title=title, said=said, sent_at=at, ended_at=at)
        case NotificationRestated(statements=statements):
            return replace(notification, said=_said(statements))
        case NotificationSuppressionRequested():
            return replace(notification, is_held_back=True)
        case NotificationDelivered():
            return replace(notification, status=Status.DELIVERED)
        case NotificationSuppressed(detail=detail):
            return replace(notification, status=Status.SUPPRESSED, detail=detail, ended_at=at)
        case NotificationCoalesced(into_id=into):
            return replace(notification, status=Status.COALESCED, detail=f"told together with {into}", ended_at=at)
        case NotificationFailed(detail=detail):
            return replace(notification, status=Status.FAILED, detail=detail, ended_at=at)
        case NotificationBounced(detail=detail):
            return replace(notification, status=Status.BOUNCED, detail=detail, ended_at=at)
        case NotificationContradicted(statement=untrue):
            return replace(
                notification,
                contradictions=notification.contradictions + 1,
                contradicted_at=notification.contradicted_at or at,
                untrue_units=notification.untrue_units + untrue.quantity,
            )
        case NotificationCorrectionSent():
            return replace(notification, status=Status.SENT, title=notification.title or "Correction", sent_at=at)
        case _:
            raise TypeError(f"{fact.type} is no fact of a notification")


def _said(statements: tuple[Statement, ...]) -> tuple[Said, ...]:
    return tuple(Said(s.claim, s.line_id, s.quantity, s.amount_minor, s.currency, s.at) for s in statements)


_CLAIMS: Final = {
    Claim.SHIPPED: "shipped",
    Claim.DELIVERED: "delivered",
    Claim.REMAINING: "still to come",
    Claim.ETA: "expected",
    Claim.CANCELLED: "cancelled",
    Claim.REFUND_SUBMITTED: "on its way back",
    Claim.REFUNDED: "refunded",
}


def statement(said: Said | Statement, w: Words) -> str:
    """`2 × CommandBus lamp shipped`, `€12.00 refunded`, with its date where it names one."""
    subject = [w.some(said.quantity, said.line_id)] if said.line_id is not None else []
    if said.amount_minor is not None:
        subject.append(w.money(said.amount_minor, said.currency))
    when = f", {'by ' if said.claim != Claim.ETA else ''}{day(said.at)}" if said.at else ""
    return f"{w.listed(subject)} {_CLAIMS[said.claim]}{when}".strip()


SENTENCES: Final[Sentences] = {
    NotificationQueued: lambda f, w: f"Message to the customer prepared: {plain(f.kind)}",
    NotificationSuppressed: lambda f, w: "Message to the customer held back",
    NotificationSuppressionRequested: lambda f, w: "Message to the customer is not to be tried again",
    NotificationCoalesced: lambda f, w: f"Message joined with {f.into_id}",
    NotificationSent: lambda f, w: f"Customer told: {f.title}",
    NotificationBasisNoted: lambda f, w: f"Notifications took note of {f.heard}",
    NotificationRestated: lambda f, w: "Message to the customer changed before anybody read it",
    NotificationKindSuppressed: lambda f, w: f"No more messages of this kind for this order: {plain(f.kind)}",
    NotificationKindResumed: lambda f, w: f"Messages of this kind again: {plain(f.kind)}",
    NotificationDelivered: lambda f, w: "Message to the customer arrived",
    NotificationFailed: lambda f, w: "Message to the customer could not be sent",
    NotificationBounced: lambda f, w: "Message to the customer came back",
    NotificationContradicted: lambda f, w: f"No longer true: the customer was told “{statement(f.statement, w)}”",
    NotificationCorrectionSent: lambda f, w: f"Customer told the correction of {f.corrects_id}",
}

QUIET: Final[Quiet] = frozenset(
    {NotificationQueued, NotificationBasisNoted, NotificationRestated, NotificationCoalesced, NotificationDelivered}
)

DETAILS: Final[Details] = {
    NotificationQueued: lambda f, w: [statement(said, w) for said in f.statements],
    NotificationSent: lambda f, w: [statement(said, w) for said in f.statements],
    NotificationRestated: lambda f, w: [statement(said, w) for said in f.statements],
    NotificationSuppressed: lambda f, w: [f.detail],
    NotificationSuppressionRequested: lambda f, w: [f.detail],
    NotificationKindSuppressed: lambda f, w: [f.detail],
    NotificationKindResumed: lambda f, w: [f.detail],
    NotificationFailed: lambda f, w: [f.detail],
    NotificationBounced: lambda f, w: [f.detail],
}
