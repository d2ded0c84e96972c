"""The notifications of one order, their life, and what they rest on."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final, TypeAlias

from shared.contracts.base import Fact
from shared.contracts.notifications import (
    BackorderContext,
    CancellationContext,
    ChargeContext,
    Content,
    Corrected,
    DueContext,
    HoldContext,
    LegContent,
    LegStage,
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
    RecipientContext,
    RefundCauseContext,
    RefundContext,
    ReturnContext,
    Statement,
    UnitsContext,
    WaitingContext,
)
from shared.contracts.orders import Hold
from shared.core.machine import Machine, remembering_last_fold, replace

Context: TypeAlias = (
    RecipientContext
    | UnitsContext
    | BackorderContext
    | ChargeContext
    | CancellationContext
    | ReturnContext
    | RefundContext
    | WaitingContext
    | HoldContext
    | DueContext
    | RefundCauseContext
)

AUDIENCE: Final = "customer"


class Status(StrEnum):
    QUEUED = "queued"
    SENT = "sent"
    DELIVERED = "delivered"
    BOUNCED = "bounced"
    FAILED = "failed"
    SUPPRESSED = "suppressed"


NOTIFICATION: Final = Machine(
    "notification",
    Status.QUEUED,
    {
        Status.QUEUED: {
            NotificationRestated: Status.QUEUED,
            NotificationSuppressionRequested: Status.QUEUED,
            NotificationContradicted: Status.QUEUED,
            NotificationSent: Status.SENT,
            NotificationFailed: Status.FAILED,
            NotificationSuppressed: Status.SUPPRESSED,
            NotificationCoalesced: Status.SUPPRESSED,
        },
        Status.SENT: {
            NotificationContradicted: Status.SENT,
            NotificationCorrectionSent: Status.SENT,
            NotificationDelivered: Status.DELIVERED,
            NotificationBounced: Status.BOUNCED,
        },
        Status.DELIVERED: {NotificationContradicted: Status.DELIVERED, NotificationBounced: Status.BOUNCED},
        Status.BOUNCED: {},
        # An attempt that went unanswered may have succeeded: what the mail provider says of it counts.
        Status.FAILED: {NotificationDelivered: Status.DELIVERED},
        Status.SUPPRESSED: {NotificationDelivered: Status.DELIVERED},
    },
)


@dataclass(frozen=True, slots=True)
class Units:
    """Of a line. Shipped counts every hand-over, so a replacement's too; the last three say where those ended."""

    owed: int = 0
    shipped: int = 0
    cancelled: int = 0
    delivered: int = 0
    lost: int = 0
    returned: int = 0

    @property
    def remaining(self) -> int:
        return max(0, self.owed - self.shipped - self.cancelled)

    @property
    def under_way(self) -> int:
        return max(0, self.shipped - self.delivered - self.lost - self.returned)


@dataclass(frozen=True, slots=True)
class Leg:
    matter: LegContent
    stage: LegStage


@dataclass(frozen=True, slots=True)
class Notification:
    """`contradicted` are places in `statements`: what is not true any more. `corrects`: what it sets right."""

    status: Status
    kind: NotificationKind
    trigger_id: str
    dedupe_key: str
    queued_at: datetime
    statements: tuple[Statement, ...]
    matter: Content
    corrects: tuple[Corrected, ...] = ()
    contradicted: tuple[int, ...] = ()
    title: str | None = None
    detail: str | None = None
    held_back: str | None = None
    """Why it is not tried again once the attempt that is under way has ended."""

    @property
    def corrected_ids(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(c.notification_id for c in self.corrects))


@dataclass(frozen=True, slots=True)
class OrderNotifications:
    """All notifications of one order, and what they rest on. `charges` by shipment, "" for those of no shipment;
    `charges_to` the same by shipment and tender; `dues` by due id; `refund_causes` by refund;
    `muted` kinds are not sent, with the reason."""

    order_id: str
    recipient: RecipientContext | None = None
    units: Mapping[str, Units] = field(default_factory=dict)
    backorders: Mapping[str, BackorderContext] = field(default_factory=dict)
    charges: Mapping[str, int] = field(default_factory=dict)
    charges_to: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    cancellations: Mapping[str, CancellationContext] = field(default_factory=dict)
    returns: Mapping[str, ReturnContext] = field(default_factory=dict)
    refunds: Mapping[str, Mapping[str, Leg]] = field(default_factory=dict)
    refund_causes: Mapping[str, RefundCauseContext] = field(default_factory=dict)
    dues: Mapping[str, DueContext] = field(default_factory=dict)
    holds: frozenset[Hold] = frozenset()
    waiting: tuple[WaitingContext, ...] = ()
    muted: Mapping[NotificationKind, str] = field(default_factory=dict)
    notifications: Mapping[str, Notification] = field(default_factory=dict)

    def title(self, line_id: str) -> str:
        return self.recipient.titles.get(line_id, line_id) if self.recipient is not None else line_id


@remembering_last_fold
def evolve(state: OrderNotifications, fact: Fact) -> OrderNotifications:
    """The notifications after one of their own facts. Raises NotAllowed where the machine does."""
    match fact:
        case NotificationBasisNoted(basis=basis):
            return _resting_on(state, basis)
        case NotificationKindSuppressed(kind=kind, detail=detail):
            return replace(state, muted={**state.muted, kind: detail})
        case NotificationKindResumed(kind=kind):
            return replace(state, muted={k: why for k, why in state.muted.items() if k is not kind})
        case NotificationQueued():
            return _queued(state, fact)
        case NotificationFact(notification_id=id):
            after = _moved(state.notifications[id], fact)
            return replace(state, notifications={**state.notifications, id: after})
        case _:
            raise TypeError(f"{fact.type} is not a fact of notifications")


def _queued(state: OrderNotifications, fact: NotificationQueued) -> OrderNotifications:
    assert fact.matter is not None
    assert fact.queued_at is not None
    queued = Notification(
        status=NOTIFICATION.initial,
        kind=fact.kind,
        trigger_id=fact.trigger_id,
        dedupe_key=fact.dedupe_key,
        queued_at=fact.queued_at,
        statements=fact.statements,
        matter=fact.matter,
        corrects=fact.corrects,
    )
    waiting = tuple(w for w in state.waiting if w.trigger_id != fact.trigger_id)
    return replace(state, waiting=waiting, notifications={**state.notifications, fact.notification_id: queued})


def _moved(before: Notification, fact: NotificationFact) -> Notification:
    after = replace(before, status=NOTIFICATION.step(before.status, fact))
    match fact:
        case NotificationSent(title=title):
            return replace(after, title=title)
        case NotificationRestated(statements=statements):
            return replace(after, statements=statements)
        case NotificationContradicted(statement=statement):
            place = before.statements.index(statement)
            return replace(after, contradicted=(*before.contradicted, place))
        case (
            NotificationFailed(detail=detail)
            | NotificationBounced(detail=detail)
            | NotificationSuppressed(detail=detail)
        ):
            return replace(after, detail=detail)
        case NotificationSuppressionRequested(detail=detail):
            return replace(after, held_back=detail)
        case NotificationCoalesced(into_id=into_id):
            return replace(after, detail=f"told in {into_id}")
        case NotificationDelivered() | NotificationCorrectionSent():
            return after
        case _:
            raise TypeError(f"{fact.type} does not change a notification")


def _resting_on(state: OrderNotifications, basis: Context) -> OrderNotifications:
    match basis:
        case RecipientContext():
            return replace(state, recipient=basis)
        case UnitsContext():
            units = dict(state.units)
            for name, sign, lines in (
                ("owed", 1, basis.owed),
                ("shipped", 1, basis.shipped),
                ("cancelled", 1, basis.cancelled),
                ("delivered", 1, basis.delivered),
                ("delivered", -1, basis.not_received),
                ("lost", 1, basis.lost),
                ("lost", -1, basis.found),
                ("returned", 1, basis.returned),
                ("lost", -1, basis.cancelled_lost),
                ("returned", -1, basis.cancelled_returned),
                ("shipped", -1, (*basis.cancelled_lost, *basis.cancelled_returned)),
            ):
                for u in lines:
                    before = units.get(u.line_id, Units())
                    units[u.line_id] = replace(before, **{name: getattr(before, name) + sign * u.quantity})
            return replace(state, units=units)
        case BackorderContext(backorder_id=id, quantity=0):
            return replace(state, backorders={k: b for k, b in state.backorders.items() if k != id})
        case BackorderContext(backorder_id=id):
            return replace(state, backorders={**state.backorders, id: basis})
        case ChargeContext(shipment_id=shipment_id, amount_minor=amount, tender_id=tender_id):
            shipment = shipment_id or ""
            charges = {**state.charges, shipment: state.charges.get(shipment, 0) + amount}
            of_it = state.charges_to.get(shipment, {})
            if tender_id is not None:
                of_it = {**of_it, tender_id: of_it.get(tender_id, 0) + amount}
            return replace(state, charges=charges, charges_to={**state.charges_to, shipment: of_it})
        case HoldContext(hold=hold, is_placed=is_placed):
            return replace(state, holds=state.holds | {hold} if is_placed else state.holds - {hold})
        case DueContext(due_id=id):
            return replace(state, dues={**state.dues, id: basis})
        case RefundCauseContext(refund_id=id):
            return replace(state, refund_causes={**state.refund_causes, id: basis})
        case CancellationContext(cancellation_id=id):
            return replace(state, cancellations={**state.cancellations, id: basis})
        case ReturnContext(return_id=id):
            known = state.returns.get(id, basis)
            more = basis.model_dump(exclude={"about", "return_id"}, exclude_none=True)
            known = known.model_copy(update={name: value for name, value in more.items() if value not in ("", ())})
            return replace(state, returns={**state.returns, id: known})
        case RefundContext(refund_id=id, stage=stage, legs=legs):
            after = {**state.refunds.get(id, {}), **{leg.leg_id: Leg(leg, stage) for leg in legs}}
            return replace(state, refunds={**state.refunds, id: after})
        case WaitingContext():
            return replace(state, waiting=(*state.waiting, basis))


def invariants(state: OrderNotifications) -> list[str]:
    """Which promises the notifications break: always none."""
    keys = [n.dedupe_key for n in state.notifications.values()]
    broken = [f"{key} is told more than once" for key in sorted({key for key in keys if keys.count(key) > 1})]
    if state.recipient is not None and state.waiting:
        broken.append("something waits although it is known to whom")
    corrected = [
        (c.notification_id, c.statement)
        for n in state.notifications.values()
        if n.status is not Status.SUPPRESSED
        for c in n.corrects
    ]
    broken += [f"a statement of {id} is corrected twice" for id, s in corrected if corrected.count((id, s)) > 1]
    return broken
