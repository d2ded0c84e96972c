"""Which facts are told to the customer, in which message, and what becomes of messages.

Facts come from four topics without order: what cannot be told yet, because it is not known to whom, waits for it.
"""

from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeAlias

from notifications.domain.accuracy import restated, statements, untrue
from notifications.domain.policy import SendingPolicy
from notifications.domain.state import (
    AUDIENCE,
    NOTIFICATION,
    Context,
    Leg,
    Notification,
    OrderNotifications,
    Status,
    evolve,
)
from shared.contracts import fulfillment, orders, payments, returns
from shared.contracts.base import Bucket, Fact, LineQuantity
from shared.contracts.notifications import (
    AddressContent,
    BackorderContent,
    BackorderContext,
    CancellationContent,
    CancellationContext,
    ChargeContext,
    ClaimContent,
    Content,
    Corrected,
    DueContext,
    HoldContent,
    HoldContext,
    LegContent,
    LegStage,
    NotificationBasisNoted,
    NotificationBounced,
    NotificationCoalesced,
    NotificationContradicted,
    NotificationCorrectionSent,
    NotificationDelivered,
    NotificationFailed,
    NotificationKind,
    NotificationKindResumed,
    NotificationKindSuppressed,
    NotificationQueued,
    NotificationRestated,
    NotificationSent,
    NotificationSuppressed,
    NotificationSuppressionRequested,
    OrderContent,
    OrderedLine,
    PaidBy,
    ParcelContent,
    RecipientContext,
    RecoveryContent,
    RefundCauseContext,
    RefundContent,
    RefundContext,
    ReturnContent,
    ReturnContext,
    ReturnedUnits,
    ShipmentContent,
    UnitsContext,
    WaitingContext,
)
from shared.core.machine import Invalid, NotAllowed, replace

RECORDED: Final[tuple[type[Fact], ...]] = (
    orders.OrderPlaced,
    orders.OrderConfirmed,
    orders.OrderRejected,
    orders.OrderLinesCancelled,
    orders.OrderHoldPlaced,
    orders.OrderHoldReleased,
    orders.OrderAddressChanged,
    fulfillment.BackorderCreated,
    fulfillment.BackorderEtaRevised,
    fulfillment.BackorderConsentRequested,
    fulfillment.BackorderFilled,
    fulfillment.BackorderCancelled,
    fulfillment.FulfillmentLinesCancelled,
    fulfillment.ReplacementCreated,
    fulfillment.ShipmentShipped,
    fulfillment.ShipmentTrackingUpdated,
    fulfillment.ShipmentDelayed,
    fulfillment.ShipmentDeliveryAttempted,
    fulfillment.ShipmentDelivered,
    fulfillment.ShipmentLost,
    fulfillment.ShipmentFound,
    fulfillment.ShipmentReturnedToSender,
    fulfillment.FulfillmentDiscrepancyRecorded,
    payments.PaymentCaptured,
    payments.PaymentMovementRecorded,
    payments.PaymentChargeFailed,
    payments.RefundRequested,
    payments.RefundRouted,
    payments.RefundLegSubmitted,
    payments.RefundLegSucceeded,
    payments.RefundLegFailed,
    payments.RefundLegReversed,
    payments.RefundCompleted,
    payments.RefundRejected,
    payments.RefundCancelled,
    returns.ReturnRequested,
    returns.ReturnSentToReview,
    returns.ReturnCancelled,
    returns.ReturnRefundDue,
    returns.ReturnEligibilityEvaluated,
    returns.ReturnLabelIssued,
    returns.ReturnApproved,
    returns.ReturnDeclined,
    returns.ReturnItemsReceived,
    returns.ReturnReceivedUnannounced,
    returns.ReturnItemsInspected,
    returns.ReturnInspectionRevised,
    returns.ReturnExpired,
    returns.ReturnClosed,
    returns.ClaimOpened,
    returns.ClaimResolved,
    returns.ExchangeDifferenceDue,
    returns.ExchangeDifferenceSettled,
    returns.RecoveryOpened,
    returns.RecoveryChargeFailed,
    returns.RecoverySettled,
)
"""The facts that are told to the customer, or that what is told rests on."""


@dataclass(frozen=True, slots=True)
class Outbox:
    """The policy in force, and the messages that no sender is at: `unread` were never attempted, so that nobody can
    have read them; `idle` may have been."""

    policy: SendingPolicy
    unread: frozenset[str] = frozenset()
    idle: frozenset[str] = frozenset()


def evolve_context(outbox: Outbox, fact: Fact) -> Outbox:
    match fact:
        case NotificationQueued(notification_id=id):
            return replace(outbox, unread=outbox.unread | {id})
        case NotificationCoalesced(notification_id=id) | NotificationSuppressed(notification_id=id):
            return replace(outbox, unread=outbox.unread - {id}, idle=outbox.idle - {id})
        case _:
            return outbox


@dataclass(frozen=True, slots=True)
class RecordFact:
    """Take what another service told, and tell the customer what is theirs to know. `sequence` is of that service."""

    fact: Fact
    fact_id: str
    sequence: int
    at: datetime


@dataclass(frozen=True, slots=True)
class RecordSent:
    notification_id: str
    title: str


@dataclass(frozen=True, slots=True)
class RecordFailure:
    notification_id: str
    detail: str


@dataclass(frozen=True, slots=True)
class RecordStale:
    """The sender holds it back: what it tells happened too long ago."""

    notification_id: str
    detail: str


@dataclass(frozen=True, slots=True)
class RecordHeldBack:
    """The attempt that was under way when a person held it back has ended without it having been sent."""

    notification_id: str


@dataclass(frozen=True, slots=True)
class Suppress:
    """A person holds it back: at once, or, while a sender is at it, as soon as that attempt has failed."""

    notification_id: str
    detail: str


@dataclass(frozen=True, slots=True)
class RecordDelivery:
    """The mail provider says so. `title` is of the mail as it was composed: it was sent, whether or not that is recorded."""

    notification_id: str
    title: str


@dataclass(frozen=True, slots=True)
class RecordBounce:
    notification_id: str
    title: str
    detail: str


@dataclass(frozen=True, slots=True)
class SuppressKind:
    kind: NotificationKind
    detail: str


@dataclass(frozen=True, slots=True)
class ResumeKind:
    kind: NotificationKind
    detail: str


Outcome: TypeAlias = RecordSent | RecordFailure | RecordStale | RecordHeldBack | RecordDelivery | RecordBounce
Command: TypeAlias = RecordFact | Outcome | Suppress | SuppressKind | ResumeKind


def decide(state: OrderNotifications, command: Command, outbox: Outbox) -> list[Fact]:
    match command:
        case RecordFact():
            return _recorded(state, command, outbox)
        case SuppressKind(kind=kind, detail=detail):
            is_new = kind not in state.muted
            return [NotificationKindSuppressed(order_id=state.order_id, kind=kind, detail=detail)] if is_new else []
        case ResumeKind(kind=kind, detail=detail):
            is_muted = kind in state.muted
            return [NotificationKindResumed(order_id=state.order_id, kind=kind, detail=detail)] if is_muted else []
        case _:
            return _moved(state, command, outbox)


def _moved(state: OrderNotifications, command: Outcome | Suppress, outbox: Outbox) -> list[Fact]:
    id = command.notification_id
    notification = state.notifications.get(id)
    if notification is None:
        raise Invalid("notification_id", f"{id} is not a notification of this order")
    about = {"order_id": state.order_id, "notification_id": id}
    match notification.status, command:
        case Status.QUEUED, RecordSent(title=title):
            return _sent(about, notification, title)
        case Status.QUEUED, RecordDelivery(title=title):
            return [*_sent(about, notification, title), NotificationDelivered(**about)]
        case Status.QUEUED, RecordBounce(title=title, detail=detail):
            return [*_sent(about, notification, title), NotificationBounced(**about, detail=detail)]
        case Status.QUEUED, RecordFailure(detail=detail):
            return [NotificationFailed(**about, detail=detail)]
        case Status.QUEUED, RecordStale(detail=detail):
            return [NotificationSuppressed(**about, detail=detail)]
        case Status.QUEUED, Suppress(detail=detail) if id in outbox.idle | outbox.unread:
            return [NotificationSuppressed(**about, detail=detail)]
        case Status.QUEUED, Suppress() if notification.held_back is not None:
            return []
        case Status.QUEUED, Suppress(detail=detail):
            return [NotificationSuppressionRequested(**about, detail=detail)]
        case Status.QUEUED, RecordHeldBack() if notification.held_back is not None:
            return [NotificationSuppressed(**about, detail=notification.held_back)]
        case Status.SENT | Status.FAILED | Status.SUPPRESSED, RecordDelivery():
            return [NotificationDelivered(**about)]
        case Status.SENT | Status.DELIVERED, RecordBounce(detail=detail):
            return [NotificationBounced(**about, detail=detail)]
        case (
            # What another attempt came to, where the mail provider said of an earlier one that it arrived.
            (
                Status.SENT | Status.DELIVERED | Status.BOUNCED,
                RecordSent() | RecordFailure() | RecordStale() | RecordHeldBack(),
            )
            | (Status.FAILED, RecordFailure())
            | (Status.SUPPRESSED, RecordStale() | RecordHeldBack() | Suppress())
            | (Status.DELIVERED, RecordDelivery())
            | (Status.BOUNCED, RecordBounce() | RecordDelivery())
            | (Status.FAILED | Status.SUPPRESSED, RecordBounce())
        ):
            return []
        case status, _:
            raise NotAllowed(status, type(command).__name__, NOTIFICATION.allowed(status))


def _sent(about: dict[str, str], notification: Notification, title: str) -> list[Fact]:
    return [
        NotificationSent(**about, kind=notification.kind, title=title, statements=notification.statements),
        *(NotificationCorrectionSent(**about, corrects_id=id) for id in notification.corrected_ids),
    ]


# From facts to messages.


def _recorded(state: OrderNotifications, command: RecordFact, outbox: Outbox) -> list[Fact]:
    if isinstance(command.fact, orders.OrderPlaced):
        return _recipient_known(state, command, command.fact, outbox)
    facts: list[Fact] = []
    for basis in _bases(state, command.fact):
        facts.append(_basis(state, command.fact, basis))
        state = evolve(state, facts[-1])
    told = _told(state, command.fact)
    if told is None:
        return [*facts, *_rewritten(state, command, outbox.unread)]
    kind, matter = told
    telling = WaitingContext(
        kind=kind, trigger_id=command.fact_id, matter=matter, service=command.fact.service, sequence=command.sequence
    )
    if state.recipient is None:
        return [*facts, _basis(state, command.fact, telling)]
    return [*facts, *_tell(state, command, telling, outbox)]


def _basis(state: OrderNotifications, fact: Fact, basis: Context) -> NotificationBasisNoted:
    return NotificationBasisNoted(order_id=state.order_id, heard=fact.type, basis=basis)


def _recipient_known(
    state: OrderNotifications, command: RecordFact, placed: orders.OrderPlaced, outbox: Outbox
) -> list[Fact]:
    """What waited is told now, in the order it happened, resting on all that is known by now."""
    if state.recipient is not None:
        return []
    recipient = RecipientContext(
        email=placed.customer.email,
        name=placed.customer.name,
        currency=placed.currency,
        titles={line.line_id: line.title for line in placed.lines},
        locale=placed.customer.locale,
        lines=tuple(
            OrderedLine(line_id=line.line_id, quantity=line.quantity, goods_minor=line.goods_minor)
            for line in placed.lines
        ),
        shipping_minor=placed.shipping_minor,
        total_minor=placed.total_minor,
        tenders=tuple(PaidBy(tender_id=t.tender_id, kind=t.kind, amount_minor=t.amount_minor) for t in placed.tenders),
    )
    owed = tuple(LineQuantity(line_id=line.line_id, quantity=line.quantity) for line in placed.lines)
    facts: list[Fact] = [_basis(state, placed, recipient), _basis(state, placed, UnitsContext(owed=owed))]
    for fact in facts:
        state = evolve(state, fact)
    for waiting in state.waiting:
        queued = _queued(state, waiting, command.at, outbox)
        facts += queued
        for fact in queued:
            state, outbox = evolve(state, fact), evolve_context(outbox, fact)
    return facts


def _tell(state: OrderNotifications, command: RecordFact, telling: WaitingContext, outbox: Outbox) -> list[Fact]:
    """The message; before it what it sets right, and what other messages say instead that nobody has read yet."""
    about = {"order_id": state.order_id, "by_fact_id": command.fact_id}
    wrong = untrue(state, command.fact, outbox.unread)
    corrects = tuple(Corrected(notification_id=id, statement=statement) for id, statement in wrong)
    queued = _queued(state, telling, command.at, outbox, corrects)
    replaced = {fact.notification_id for fact in queued if isinstance(fact, NotificationCoalesced)}
    return [
        *(
            NotificationContradicted(**about, notification_id=id, statement=statement, heard=command.fact.type)
            for id, statement in wrong
        ),
        *_rewritten(state, command, outbox.unread - replaced),
        *queued,
    ]


def _rewritten(state: OrderNotifications, command: RecordFact, unread: Set[str]) -> Iterator[Fact]:
    """What messages that nobody has read say instead; one of which nothing is left to say is not sent."""
    for id, true in restated(state, command.fact, unread).items():
        n = state.notifications[id]
        if isinstance(n.matter, BackorderContent) and not true and not n.corrects:
            detail = "it was to say that goods are waited for, and they are no more"
            yield NotificationSuppressed(order_id=state.order_id, notification_id=id, detail=detail)
        else:
            yield NotificationRestated(
                order_id=state.order_id, notification_id=id, by_fact_id=command.fact_id, statements=true
            )


def _queued(
    state: OrderNotifications,
    telling: WaitingContext,
    at: datetime,
    outbox: Outbox,
    corrects: tuple[Corrected, ...] = (),
) -> list[Fact]:
    """The message, with what an unread one tells of the same; held back where a person wants none of its kind."""
    replaced = None
    for id, n in state.notifications.items():
        is_changeable = n.status is Status.QUEUED and n.held_back is None and id in outbox.unread | outbox.idle
        if is_changeable and (merged := _merged(n, telling)):
            if id in outbox.idle and telling.kind is not _KIND.REFUND_COMPLETED:
                continue  # somebody may have read it
            replaced, telling = id, merged
            corrects = n.corrects + corrects
    about = {"order_id": state.order_id}
    id = f"{state.order_id}-N{len(state.notifications) + 1}"
    facts: list[Fact] = [
        NotificationQueued(
            **about,
            notification_id=id,
            kind=telling.kind,
            audience=AUDIENCE,
            dedupe_key=f"{telling.trigger_id}:{AUDIENCE}",
            trigger_id=telling.trigger_id,
            statements=statements(state, telling),
            matter=telling.matter,
            queued_at=at,
            corrects=corrects,
        )
    ]
    if replaced is not None:
        facts.append(NotificationCoalesced(**about, notification_id=replaced, into_id=id, policy=outbox.policy.ref))
    if telling.kind in state.muted and not corrects:
        facts.append(NotificationSuppressed(**about, notification_id=id, detail=state.muted[telling.kind]))
    return facts


def _merged(unread: Notification, telling: WaitingContext) -> WaitingContext | None:
    """Both in one, where they are about the same and the newer one does not need the older one to be told first."""
    kind = telling.kind
    match unread.matter, telling.matter:
        case RefundContent() as before, RefundContent() as now if before.refund_id == now.refund_id:
            if kind in (_KIND.REFUND_COMPLETED, _KIND.REFUND_DECLINED):
                return telling  # what was on its way, or took another one, has arrived
            if unread.kind is _KIND.REFUND_COMPLETED and not now.failed:
                return None
            kinds = {unread.kind, kind}
            kind = next(k for k in (_KIND.REFUND_REROUTED, _KIND.REFUND_FAILED, _KIND.REFUND_SUBMITTED) if k in kinds)
            failed = {leg.leg_id: leg for leg in (*before.failed, *now.failed)}
            legs = {leg.leg_id: leg for leg in (*before.legs, *now.legs) if leg.leg_id not in failed}
            matter: Content = now.model_copy(update={"legs": tuple(legs.values()), "failed": tuple(failed.values())})
        case BackorderContent() as before, BackorderContent() as now if before.backorder_id == now.backorder_id:
            kind = unread.kind
            is_first = kind is _KIND.BACKORDER
            asks = now if now.options else before
            matter = now.model_copy(
                update={
                    "previous_eta": None if is_first else before.previous_eta or now.previous_eta,
                    "options": asks.options,
                    "due_at": asks.due_at,
                    "silence": asks.silence,
                }
            )
        case ReturnContent() as before, ReturnContent() as now if before.return_id == now.return_id:
            return telling if unread.kind in _OVERTAKEN else None
        case HoldContent() as before, HoldContent() as now if before.hold is now.hold:
            return telling
        case RecoveryContent() as before, RecoveryContent() as now if before.recovery_id == now.recovery_id:
            return telling
        case ClaimContent() as before, ClaimContent() as now if before.claim_id == now.claim_id:
            return telling
        case AddressContent(), AddressContent():
            return telling
        case ParcelContent() as before, ParcelContent() as now if before.shipment_id == now.shipment_id:
            if before.what == now.what == "delivered":
                both = {"lines": (*before.lines, *now.lines), "substituted": (*before.substituted, *now.substituted)}
                matter = now.model_copy(update=both)
            elif before.tracking == now.tracking:
                matter = now
            else:
                return None
        case _:
            return None
    return telling.model_copy(update={"kind": kind, "matter": matter})


_KIND: Final = NotificationKind

_OVERTAKEN: Final = frozenset({_KIND.RETURN_REQUESTED, _KIND.RETURN_REVIEWED})
"""What is said of a return until it is decided."""

WAITS_FOR_CUSTOMER: Final = frozenset({orders.Hold.PAYMENT, orders.Hold.ADDRESS, orders.Hold.AWAITING_RETURN})
"""Holds that end when the customer does something. Consent to a later date is asked for by the message of that date."""


def _bases(state: OrderNotifications, fact: Fact) -> Iterator[Context]:
    """What later messages rest on."""
    match fact:
        case orders.OrderLinesCancelled(cancellation_id=id, lines=cancelled, remaining_minor=remaining):
            worth = sum(line.goods_minor for line in cancelled)
            yield CancellationContext(cancellation_id=id, worth_minor=worth, remaining_minor=remaining)
        case orders.OrderHoldPlaced(hold=hold):
            yield HoldContext(hold=hold, is_placed=True)
        case orders.OrderHoldReleased(hold=hold):
            yield HoldContext(hold=hold, is_placed=False)
        case fulfillment.BackorderCreated() | fulfillment.BackorderEtaRevised():
            yield _backorder(fact, fact.quantity, fact.eta)
        case fulfillment.BackorderFilled() | fulfillment.BackorderCancelled():
            before = state.backorders.get(fact.backorder_id)
            yield _backorder(fact, fact.remaining, before.eta if before is not None else None)
        case fulfillment.FulfillmentLinesCancelled(lines=lines):
            yield UnitsContext(
                cancelled=_summed(lines),
                cancelled_lost=_summed(u for u in lines if u.was is Bucket.LOST),
                cancelled_returned=_summed(u for u in lines if u.was is Bucket.RETURNED_TO_SENDER),
            )
        case fulfillment.ReplacementCreated(lines=owed):
            yield UnitsContext(owed=owed)
        case fulfillment.ShipmentShipped(lines=shipped):
            yield UnitsContext(shipped=shipped)
        case fulfillment.ShipmentDelivered(lines=lines):
            yield UnitsContext(delivered=lines)
        case fulfillment.ShipmentTrackingUpdated(lines=lines) if lines:
            yield UnitsContext(not_received=lines)
        case fulfillment.ShipmentLost(lines=lines):
            yield UnitsContext(lost=lines)
        case fulfillment.ShipmentFound(lines=lines):
            yield UnitsContext(found=lines)
        case fulfillment.ShipmentReturnedToSender(lines=lines):
            yield UnitsContext(returned=lines)
        case payments.PaymentCaptured(exchange_id=str(), shipment_id=None):
            pass  # what an exchange costs more is charged for no parcel of the order
        case payments.PaymentCaptured(shipment_id=shipment_id, amount_minor=amount, tender_id=tender_id):
            yield ChargeContext(shipment_id=shipment_id, amount_minor=amount, tender_id=tender_id)
        case payments.PaymentMovementRecorded(kind=payments.MovementKind.CAPTURE, tender_id=tender_id):
            yield ChargeContext(shipment_id=None, amount_minor=fact.amount_minor, tender_id=tender_id)
        case payments.PaymentMovementRecorded(kind=payments.MovementKind.REFUND, movement_id=id):
            yield RefundContext(refund_id=id, stage=LegStage.SUCCEEDED, legs=())
        case payments.RefundRequested():
            about = {"refund_id": fact.refund_id, "cause_id": fact.cause_id}
            yield RefundCauseContext(**about, amount_minor=fact.amount_minor)
        case payments.RefundRouted(legs=legs):
            matters = tuple(LegContent(**leg.model_dump(include=set(LegContent.model_fields))) for leg in legs)
            yield RefundContext(refund_id=fact.refund_id, stage=LegStage.ROUTED, legs=matters)
        case payments.RefundLegFact():
            yield RefundContext(refund_id=fact.refund_id, stage=_STAGES[type(fact)], legs=(_leg(state, fact),))
        case returns.ReturnEligibilityEvaluated(return_id=return_id, verdicts=verdicts):
            declined = _reasons(why for v in verdicts if v.outcome == "decline" for why in v.reasons)
            fee = max((v.return_shipping_fee_minor for v in verdicts if v.outcome != "decline"), default=0)
            yield ReturnContext(return_id=return_id, declined=declined, shipping_fee_minor=fee)
        case returns.ReturnRequested(return_id=return_id, resolution=resolution):
            yield ReturnContext(return_id=return_id, resolution=resolution)
        case returns.ReturnItemsReceived(return_id=return_id) | returns.ReturnReceivedUnannounced(return_id=return_id):
            yield ReturnContext(return_id=return_id, has_arrived=True)
        case returns.ReturnRefundDue():
            yield _due(fact)
        case returns.ReturnLabelIssued(return_id=return_id, carrier=carrier, tracking=tracking):
            yield ReturnContext(return_id=return_id, label=f"{carrier} {tracking}")
        case _:
            pass


def _backorder(fact: fulfillment.BackorderFact, quantity: int, eta: datetime | None) -> BackorderContext:
    return BackorderContext(backorder_id=fact.backorder_id, line_id=fact.line_id, quantity=quantity, eta=eta)


def _due(due: returns.ReturnRefundDue) -> DueContext:
    worth = sum(line.gross_minor + line.shipping_minor for line in due.lines)
    return DueContext(
        due_id=due.due_id,
        return_id=due.return_id,
        worth_minor=worth,
        kept_minor=max(0, worth - sum(line.refund_minor for line in due.lines)),
        shipping_fee_minor=due.return_shipping_fee_minor,
        amount_minor=due.amount_minor,
        currency=due.currency,
    )


def _told(state: OrderNotifications, fact: Fact) -> tuple[NotificationKind, Content] | None:
    """The message that the fact leads to; `state` rests on it already."""
    match fact:
        case orders.OrderConfirmed():
            return _KIND.ORDER_CONFIRMED, OrderContent()
        case orders.OrderRejected(reason_code=reason):
            return _KIND.ORDER_REJECTED, OrderContent(reason_code=reason)
        case orders.OrderHoldPlaced(hold=hold):
            return (_KIND.HOLD, HoldContent(hold=hold)) if hold in WAITS_FOR_CUSTOMER else None
        case orders.OrderHoldReleased(hold=hold):
            # Who was not told that it waits need not hear that it goes on.
            is_told = any(isinstance(m, HoldContent) and m.hold is hold and not m.released for _, m in _matters(state))
            return (_KIND.HOLD_RELEASED, HoldContent(hold=hold, released=True)) if is_told else None
        case orders.OrderAddressChanged(ship_to=ship_to):
            return _KIND.ADDRESS_CHANGED, AddressContent(ship_to=ship_to)
        case fulfillment.ShipmentShipped():
            return _KIND.SHIPMENT, _shipment(fact)
        case fulfillment.BackorderFact():
            return _of_backorder(fact)
        case fulfillment.FulfillmentLinesCancelled(cancellation_id=id, lines=lines):
            return _KIND.CANCELLATION, CancellationContent(cancellation_id=id, lines=_summed(lines))
        case fulfillment.ScanFact():
            return _of_parcel(state, fact)
        case fulfillment.FulfillmentDiscrepancyRecorded(contradicts="old_label", shipment_id=str(shipment_id)):
            return _KIND.DELAY, ParcelContent(shipment_id=shipment_id, what="old_label", lines=fact.lines)
        case fulfillment.FulfillmentDiscrepancyRecorded():
            return None  # a person looks at it; what it changed for the customer, other facts tell
        case payments.RefundFact():
            return _of_refund(state, fact)
        case returns.ExchangeDifferenceDue():
            return _KIND.RECOVERY_OPENED, _difference(state, fact)
        case returns.ExchangeDifferenceSettled(exchange_id=id, amount_minor=amount, currency=currency):
            if (asked := _recovery(state, id)) is None or asked.how:
                return None
            settled = RecoveryContent(
                recovery_id=id,
                amount_minor=amount or asked.amount_minor,
                currency=currency,
                cause=asked.cause,
                how="charged" if fact.operation_id else "by_hand" if amount else "not_due",
            )
            return _KIND.RECOVERY_SETTLED, settled
        case payments.PaymentChargeFailed(exchange_id=id):
            # Of a recovery case, returns say it.
            asked = _recovery(state, id)
            if asked is None or not asked.is_charged:
                return None
            return _KIND.RECOVERY_CHARGE_FAILED, asked.model_copy(update={"has_charge_failed": True})
        case returns.ReturnFact():
            return _of_return(fact)
        case returns.ClaimOpened(claim_id=id, lines=lines, decide_by=decide_by):
            return _KIND.CLAIM_OPENED, ClaimContent(claim_id=id, lines=lines, decide_by=decide_by)
        case returns.ClaimResolved(claim_id=id, outcome=outcome):
            claimed = [m for _, m in _matters(state) if isinstance(m, ClaimContent) and m.claim_id == id]
            lines = claimed[-1].lines if claimed else ()
            return _KIND.CLAIM_RESOLVED, ClaimContent(claim_id=id, lines=lines, outcome=outcome)
        case returns.RecoveryOpened(recovery_id=id, amount_minor=amount, currency=currency):
            return _KIND.RECOVERY_OPENED, RecoveryContent(
                recovery_id=id, amount_minor=amount, currency=currency, cause=fact.cause, due_at=fact.due_at
            )
        case returns.RecoveryChargeFailed(recovery_id=id):
            if (open_ := _recovery(state, id)) is None:
                return None
            return _KIND.RECOVERY_CHARGE_FAILED, open_.model_copy(update={"has_charge_failed": True})
        case returns.RecoverySettled(recovery_id=id, amount_minor=amount, currency=currency, how=how):
            if (open_ := _recovery(state, id)) is None:
                return None
            matter = RecoveryContent(recovery_id=id, amount_minor=amount, currency=currency, cause=open_.cause, how=how)
            return _KIND.RECOVERY_SETTLED, matter
        case (
            orders.OrderLinesCancelled()
            | fulfillment.ReplacementCreated()
            | payments.PaymentCaptured()
            | payments.PaymentMovementRecorded()
        ):
            return None
        case _:
            raise TypeError(f"{fact.type} is nothing to tell")


def _shipment(shipped: fulfillment.ShipmentShipped) -> ShipmentContent:
    return ShipmentContent(
        shipment_id=shipped.shipment_id,
        number=shipped.number,
        of=shipped.of,
        carrier=shipped.carrier,
        tracking=tuple(parcel.tracking for parcel in shipped.parcels if parcel.tracking is not None),
        lines=shipped.lines,
        substituted=shipped.substituted,
    )


def _of_backorder(fact: fulfillment.BackorderFact) -> tuple[NotificationKind, Content] | None:
    about = {"backorder_id": fact.backorder_id, "line_id": fact.line_id}
    match fact:
        case fulfillment.BackorderCreated(quantity=quantity, eta=eta):
            return _KIND.BACKORDER, BackorderContent(**about, quantity=quantity, eta=eta)
        case fulfillment.BackorderEtaRevised(quantity=quantity, eta=eta, previous_eta=previous):
            return _KIND.BACKORDER_REVISED, BackorderContent(**about, quantity=quantity, eta=eta, previous_eta=previous)
        case fulfillment.BackorderConsentRequested(quantity=quantity, eta=eta):
            return _KIND.BACKORDER_REVISED, BackorderContent(
                **about,
                quantity=quantity,
                eta=eta,
                options=tuple(orders.BackorderChoice(option) for option in fact.options),
                due_at=fact.due_at,
                silence=fact.silence,
            )
        case _:
            return None


_STOPPED: Final = frozenset({"address", "customs", "damaged"})
"""Codes of scans that stop a parcel."""

_TROUBLES: Final[Mapping[type[Fact], str]] = {
    fulfillment.ShipmentDelayed: "delayed",
    fulfillment.ShipmentDeliveryAttempted: "attempted",
    fulfillment.ShipmentDelivered: "delivered",
    fulfillment.ShipmentLost: "lost",
    fulfillment.ShipmentFound: "found",
    fulfillment.ShipmentReturnedToSender: "returned",
}


def _of_parcel(state: OrderNotifications, fact: fulfillment.ScanFact) -> tuple[NotificationKind, Content] | None:
    """Delivery and trouble; of scans, only those that stop a parcel. The same trouble again is no news."""
    tracking = fact.scan.tracking if fact.scan is not None else getattr(fact, "tracking", None)
    lines: tuple[LineQuantity, ...] = getattr(fact, "lines", ())
    what: str
    match fact:
        case fulfillment.ShipmentTrackingUpdated(code=code) if code in _STOPPED and fact.moved:
            what = code
        case fulfillment.ShipmentTrackingUpdated() if lines:
            what = "not_received"
        case fulfillment.ShipmentTrackingUpdated():
            return None
        case _:
            what = _TROUBLES[type(fact)]
    known = [
        m
        for _, m in _matters(state)
        if isinstance(m, ParcelContent) and (m.shipment_id, m.tracking) == (fact.shipment_id, tracking)
    ]
    if what not in ("delivered", "lost", "found") and known and known[-1].what == what:
        return None
    matter = ParcelContent.model_validate(
        {
            "shipment_id": fact.shipment_id,
            "what": what,
            "tracking": tracking,
            "lines": lines,
            "substituted": getattr(fact, "substituted", ()),
        }
    )
    return (_KIND.DELIVERY if what == "delivered" else _KIND.DELAY), matter


def _of_refund(state: OrderNotifications, fact: payments.RefundFact) -> tuple[NotificationKind, Content] | None:
    legs = state.refunds.get(fact.refund_id, {})
    match fact:
        case payments.RefundRouted():
            # What failed is told before it is routed anew, and named once.
            told = [
                (kind, m)
                for kind, m in _matters(state)
                if isinstance(m, RefundContent) and m.refund_id == fact.refund_id
            ]
            named = {leg.leg_id for kind, m in told if kind is _KIND.REFUND_REROUTED for leg in m.failed}
            failed = tuple(leg for leg in _legs(legs, LegStage.FAILED) if leg.leg_id not in named)
            if not failed:
                return None
            routed = tuple(legs[leg.leg_id].matter for leg in fact.legs)
            return _KIND.REFUND_REROUTED, _refund(fact, told[-1][1].currency, routed, failed)
        case payments.RefundLegSubmitted(currency=currency, leg_id=leg_id):
            return _KIND.REFUND_SUBMITTED, _refund(fact, currency, (legs[leg_id].matter,))
        case payments.RefundLegFailed(currency=currency, leg_id=leg_id):
            return _KIND.REFUND_FAILED, _refund(fact, currency, (), (legs[leg_id].matter,))
        case payments.RefundLegReversed(currency=currency, leg_id=leg_id):
            return _KIND.REFUND_FAILED, _refund(fact, currency, (), (legs[leg_id].matter,))
        case payments.RefundCompleted(currency=currency):
            return _KIND.REFUND_COMPLETED, _refund(fact, currency, _legs(legs, LegStage.SUCCEEDED))
        case payments.RefundRequested() | payments.RefundLegSucceeded():
            return None
        case payments.RefundRejected() | payments.RefundCancelled():
            cause = state.refund_causes.get(fact.refund_id)
            if cause is None or state.recipient is None or cause.cause_id not in {*state.dues, *state.cancellations}:
                return None  # nobody was told of it
            reason = fact.reason_code if isinstance(fact, payments.RefundRejected) else "cancelled"
            matter = _refund(fact, state.recipient.currency, ()).model_copy(update={"reason_code": reason})
            return _KIND.REFUND_DECLINED, matter
        case _:
            raise TypeError(f"{fact.type} is nothing to tell")


def _difference(state: OrderNotifications, due: returns.ExchangeDifferenceDue) -> RecoveryContent:
    """What the article costs more; or all of it, where one was sent ahead and nothing came back for it."""
    known = state.returns.get(due.return_id)
    is_exchange = known is None or known.resolution is returns.Resolution.EXCHANGE
    return RecoveryContent(
        recovery_id=due.exchange_id,
        amount_minor=due.amount_minor,
        currency=due.currency,
        cause="exchange_difference" if is_exchange else "return_not_sent",
        is_charged=True,
    )


def _recovery(state: OrderNotifications, id: str) -> RecoveryContent | None:
    """What a message says last of it; nothing where the customer has heard of none."""
    said = [m for _, m in _matters(state) if isinstance(m, RecoveryContent) and m.recovery_id == id]
    return said[-1] if said else None


def _matters(state: OrderNotifications) -> list[tuple[NotificationKind, Content]]:
    """Of all messages there are, and of those that wait to be."""
    return [(n.kind, n.matter) for n in state.notifications.values()] + [(w.kind, w.matter) for w in state.waiting]


def _refund(
    fact: payments.RefundFact,
    currency: str,
    legs: tuple[LegContent, ...],
    failed: tuple[LegContent, ...] = (),
) -> RefundContent:
    return RefundContent(refund_id=fact.refund_id, currency=currency, legs=legs, failed=failed)


_STAGES: Final[Mapping[type[Fact], LegStage]] = {
    payments.RefundLegSubmitted: LegStage.SUBMITTED,
    payments.RefundLegSucceeded: LegStage.SUCCEEDED,
    payments.RefundLegFailed: LegStage.FAILED,
    payments.RefundLegReversed: LegStage.FAILED,
}


def _leg(state: OrderNotifications, fact: payments.RefundLegFact) -> LegContent:
    leg = state.refunds.get(fact.refund_id, {}).get(fact.leg_id)
    if leg is None:
        raise Invalid("leg_id", f"{fact.leg_id} is not a routed leg of {fact.refund_id}")
    return leg.matter


def _legs(legs: Mapping[str, Leg], stage: LegStage) -> tuple[LegContent, ...]:
    return tuple(leg.matter for leg in legs.values() if leg.stage is stage)


def _of_return(fact: returns.ReturnFact) -> tuple[NotificationKind, Content] | None:
    match fact:
        case returns.ReturnRequested(lines=asked):
            lines = _summed(asked)
            return _KIND.RETURN_REQUESTED, _return(fact, lines)
        case returns.ReturnSentToReview():
            return _KIND.RETURN_REVIEWED, ReturnContent(return_id=fact.return_id)
        case returns.ReturnReceivedUnannounced(lines=arrived):
            return _KIND.RETURN_REVIEWED, _return(fact, arrived)
        case returns.ReturnCancelled():
            return _KIND.RETURN_CANCELLED, ReturnContent(return_id=fact.return_id)
        case returns.ReturnApproved(lines=lines, expires_at=expires_at):
            return _KIND.RETURN_APPROVED, _return(fact, lines, expires_at=expires_at)
        case returns.ReturnDeclined(reasons=reasons):
            return _KIND.RETURN_DECLINED, ReturnContent(return_id=fact.return_id, reasons=_reasons(reasons))
        case returns.ReturnItemsReceived(lines=received, complete=complete):
            return _KIND.RETURN_RECEIVED, _return(fact, received, complete=complete)
        case returns.ReturnItemsInspected(lines=inspected, complete=complete):
            return _KIND.RETURN_INSPECTED, _return(fact, inspected, complete=complete)
        case returns.ReturnInspectionRevised(after=inspected):
            return _KIND.RETURN_INSPECTED, _return(fact, inspected)
        case returns.ReturnExpired():
            return _KIND.RETURN_EXPIRED, ReturnContent(return_id=fact.return_id)
        case returns.ReturnClosed(unresolved=True):
            return _KIND.RETURN_CLOSED, ReturnContent(return_id=fact.return_id)
        case _:
            return None


def _return(
    fact: returns.ReturnFact,
    lines: tuple[LineQuantity | returns.ReceivedLine | returns.InspectedLine, ...],
    *,
    expires_at: datetime | None = None,
    complete: bool = False,
) -> ReturnContent:
    units = tuple(
        ReturnedUnits(
            line_id=line.line_id,
            quantity=line.quantity,
            outcome=line.outcome,
            refund_percent=0 if line.review else line.refund_percent,
            fee_percent=line.fee_percent,
            review=line.review,
        )
        if isinstance(line, returns.InspectedLine)
        else ReturnedUnits(line_id=line.line_id, quantity=line.quantity)
        for line in lines
    )
    return ReturnContent(return_id=fact.return_id, lines=units, expires_at=expires_at, complete=complete)


def _reasons(reasons: Iterable[returns.Why]) -> tuple[str, ...]:
    """Every distinct one, in the order given."""
    return tuple(dict.fromkeys(why.text or why.code for why in reasons))


def _summed(lines: Iterable[fulfillment.CancelledUnits | returns.ReturnLine]) -> tuple[LineQuantity, ...]:
    units: dict[str, int] = {}
    for line in lines:
        units[line.line_id] = units.get(line.line_id, 0) + line.quantity
    return tuple(LineQuantity(line_id=line_id, quantity=n) for line_id, n in units.items())
