"""What the customer of an order is told, and what was told. Pure: no I/O, no clock, no identifier is made here.

Facts come from three topics without order: what cannot be told yet, because it is not known to whom, waits for it.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final, TypeAlias

from shared.contracts import fulfillment, orders, payments
from shared.contracts.base import Fact, LineQuantity
from shared.contracts.notifications import (
    BackorderBasis,
    ChargeBasis,
    Claim,
    LegMatter,
    LegStage,
    NotificationBasisNoted,
    NotificationBounced,
    NotificationCoalesced,
    NotificationDelivered,
    NotificationFact,
    NotificationFailed,
    NotificationKind,
    NotificationQueued,
    NotificationSent,
    NotificationSuppressed,
    RecipientBasis,
    RefundBasis,
    RefundMatter,
    ShipmentMatter,
    Statement,
    UnitsBasis,
    WaitingBasis,
)
from shared.machine import Invalid, Machine, NotAllowed, replace

Basis: TypeAlias = RecipientBasis | UnitsBasis | BackorderBasis | ChargeBasis | RefundBasis | WaitingBasis
Matter: TypeAlias = ShipmentMatter | RefundMatter

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
            NotificationSent: Status.SENT,
            NotificationFailed: Status.FAILED,
            NotificationSuppressed: Status.SUPPRESSED,
            NotificationCoalesced: Status.SUPPRESSED,
        },
        Status.SENT: {NotificationDelivered: Status.DELIVERED, NotificationBounced: Status.BOUNCED},
        Status.DELIVERED: {},
        Status.BOUNCED: {},
        Status.FAILED: {},
        Status.SUPPRESSED: {},
    },
)

NOTED: Final[tuple[type[Fact], ...]] = (
    orders.OrderPlaced,
    fulfillment.BackorderCreated,
    fulfillment.BackorderEtaRevised,
    fulfillment.BackorderFilled,
    fulfillment.BackorderCancelled,
    fulfillment.FulfillmentLinesCancelled,
    fulfillment.ReplacementCreated,
    fulfillment.ShipmentShipped,
    payments.PaymentCaptured,
    payments.RefundRouted,
    payments.RefundLegSubmitted,
    payments.RefundLegSucceeded,
    payments.RefundLegFailed,
    payments.RefundLegReversed,
    payments.RefundCompleted,
)
"""The facts that are told to the customer, or that what is told rests on."""


@dataclass(frozen=True, slots=True)
class Units:
    """Of a line. Shipped counts every hand-over, so a replacement's too."""

    owed: int = 0
    shipped: int = 0
    cancelled: int = 0

    @property
    def remaining(self) -> int:
        return max(0, self.owed - self.shipped - self.cancelled)


@dataclass(frozen=True, slots=True)
class Leg:
    matter: LegMatter
    stage: LegStage


@dataclass(frozen=True, slots=True)
class Notification:
    status: Status
    kind: NotificationKind
    trigger_id: str
    dedupe_key: str
    queued_at: datetime
    statements: tuple[Statement, ...]
    matter: ShipmentMatter | RefundMatter
    title: str | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class OrderNotifications:
    """All notifications of one order, and what they rest on. `charges` by shipment, "" for those of no shipment."""

    order_id: str
    recipient: RecipientBasis | None = None
    units: Mapping[str, Units] = field(default_factory=dict)
    backorders: Mapping[str, BackorderBasis] = field(default_factory=dict)
    charges: Mapping[str, int] = field(default_factory=dict)
    refunds: Mapping[str, Mapping[str, Leg]] = field(default_factory=dict)
    waiting: tuple[WaitingBasis, ...] = ()
    notifications: Mapping[str, Notification] = field(default_factory=dict)

    def title(self, line_id: str) -> str:
        return self.recipient.titles.get(line_id, line_id) if self.recipient is not None else line_id

    def told_legs(self) -> set[str]:
        """Payouts whose submission was told, or waits to be."""
        matters = [n.matter for n in self.notifications.values() if n.kind is NotificationKind.REFUND_SUBMITTED]
        matters += [w.matter for w in self.waiting if w.kind is NotificationKind.REFUND_SUBMITTED]
        return {leg.leg_id for matter in matters if isinstance(matter, RefundMatter) for leg in matter.legs}


@dataclass(frozen=True, slots=True)
class Note:
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
class Suppress:
    notification_id: str
    detail: str


@dataclass(frozen=True, slots=True)
class RecordDelivery:
    notification_id: str


@dataclass(frozen=True, slots=True)
class RecordBounce:
    notification_id: str
    detail: str


Outcome: TypeAlias = RecordSent | RecordFailure | Suppress | RecordDelivery | RecordBounce
Command: TypeAlias = Note | Outcome


def decide(state: OrderNotifications, command: Command, _: object = None) -> list[Fact]:
    if isinstance(command, Note):
        return _noted(state, command)
    notification = state.notifications.get(command.notification_id)
    if notification is None:
        raise Invalid("notification_id", f"{command.notification_id} is not a notification of this order")
    about = {"order_id": state.order_id, "notification_id": command.notification_id}
    match notification.status, command:
        case Status.QUEUED, RecordSent(title=title):
            return [NotificationSent(**about, kind=notification.kind, title=title, statements=notification.statements)]
        case Status.QUEUED, RecordFailure(detail=detail):
            return [NotificationFailed(**about, detail=detail)]
        case Status.QUEUED, Suppress(detail=detail):
            return [NotificationSuppressed(**about, detail=detail)]
        case Status.SENT, RecordDelivery():
            return [NotificationDelivered(**about)]
        case Status.SENT, RecordBounce(detail=detail):
            return [NotificationBounced(**about, detail=detail)]
        case (
            (Status.SENT | Status.DELIVERED | Status.BOUNCED, RecordSent())
            | (Status.FAILED, RecordFailure())
            | (Status.SUPPRESSED, Suppress())
            | (Status.DELIVERED, RecordDelivery())
            | (Status.BOUNCED, RecordBounce())
        ):
            return []
        case status, _:
            raise NotAllowed(status, type(command).__name__, NOTIFICATION.allowed(status))


def _noted(state: OrderNotifications, note: Note) -> list[Fact]:
    match note.fact:
        case orders.OrderPlaced() as placed:
            return _recipient_known(state, note, placed)
        case fulfillment.BackorderCreated() | fulfillment.BackorderEtaRevised() as fact:
            return [_backorder(state, fact, fact.quantity, fact.eta)]
        case fulfillment.BackorderFilled() | fulfillment.BackorderCancelled() as fact:
            before = state.backorders.get(fact.backorder_id)
            return [_backorder(state, fact, fact.remaining, before.eta if before is not None else None)]
        case fulfillment.FulfillmentLinesCancelled(lines=lines):
            units = tuple(LineQuantity(line_id=c.line_id, quantity=c.quantity) for c in lines)
            return [_basis(state, note.fact, UnitsBasis(cancelled=units))]
        case fulfillment.ReplacementCreated(lines=lines):
            return [_basis(state, note.fact, UnitsBasis(owed=lines))]
        case fulfillment.ShipmentShipped() as shipped:
            noted = _basis(state, shipped, UnitsBasis(shipped=shipped.lines))
            return [noted, _tell(evolve(state, noted), note, NotificationKind.SHIPMENT, _shipment(shipped))]
        case payments.PaymentCaptured(exchange_id=str(), shipment_id=None):
            return []
        case payments.PaymentCaptured(shipment_id=id, amount_minor=amount):
            return [_basis(state, note.fact, ChargeBasis(shipment_id=id, amount_minor=amount))]
        case payments.RefundFact() as fact:
            return _refund(state, note, fact)
        case _:
            raise TypeError(f"{note.fact.type} is nothing to tell")


def _basis(state: OrderNotifications, fact: Fact, basis: Basis) -> NotificationBasisNoted:
    return NotificationBasisNoted(order_id=state.order_id, heard=fact.type, basis=basis)


def _backorder(
    state: OrderNotifications, fact: fulfillment.BackorderFact, quantity: int, eta: datetime | None
) -> NotificationBasisNoted:
    basis = BackorderBasis(backorder_id=fact.backorder_id, line_id=fact.line_id, quantity=quantity, eta=eta)
    return _basis(state, fact, basis)


def _shipment(shipped: fulfillment.ShipmentShipped) -> ShipmentMatter:
    return ShipmentMatter(
        shipment_id=shipped.shipment_id,
        number=shipped.number,
        of=shipped.of,
        carrier=shipped.carrier,
        tracking=tuple(parcel.tracking for parcel in shipped.parcels if parcel.tracking is not None),
        lines=shipped.lines,
    )


def _recipient_known(state: OrderNotifications, note: Note, placed: orders.OrderPlaced) -> list[Fact]:
    """What waited is told now, in the order it happened, resting on all that is known by now."""
    if state.recipient is not None:
        return []
    recipient = RecipientBasis(
        email=placed.customer.email,
        name=placed.customer.name,
        currency=placed.currency,
        titles={line.line_id: line.title for line in placed.lines},
    )
    owed = tuple(LineQuantity(line_id=line.line_id, quantity=line.quantity) for line in placed.lines)
    facts: list[Fact] = [_basis(state, placed, recipient), _basis(state, placed, UnitsBasis(owed=owed))]
    for fact in facts:
        state = evolve(state, fact)
    for waiting in state.waiting:
        queued = _queued(state, waiting, note.at)
        facts.append(queued)
        state = evolve(state, queued)
    return facts


def _tell(state: OrderNotifications, note: Note, kind: NotificationKind, matter: Matter) -> Fact:
    """Queued where it is known to whom, else waiting for that."""
    waiting = WaitingBasis(
        kind=kind, trigger_id=note.fact_id, matter=matter, service=note.fact.service, sequence=note.sequence
    )
    return _basis(state, note.fact, waiting) if state.recipient is None else _queued(state, waiting, note.at)


def _queued(state: OrderNotifications, waiting: WaitingBasis, at: datetime) -> NotificationQueued:
    matter = waiting.matter
    if isinstance(matter, ShipmentMatter):
        statements = _of_shipment(state, matter, waiting.service, waiting.sequence)
    else:
        statements = _of_refund(matter, waiting)
    return NotificationQueued(
        order_id=state.order_id,
        notification_id=f"{state.order_id}-N{len(state.notifications) + 1}",
        kind=waiting.kind,
        audience=AUDIENCE,
        dedupe_key=f"{waiting.trigger_id}:{AUDIENCE}",
        trigger_id=waiting.trigger_id,
        statements=statements,
        matter=matter,
        queued_at=at,
    )


def _of_shipment(
    state: OrderNotifications, matter: ShipmentMatter, service: str, sequence: int
) -> tuple[Statement, ...]:
    """Its own units, what is still to come of the order, when (None: no date is known), and what will not come."""
    basis = {"as_of_service": service, "as_of_sequence": sequence}
    said = [Statement(claim=Claim.SHIPPED, line_id=u.line_id, quantity=u.quantity, **basis) for u in matter.lines]
    said += [
        Statement(claim=Claim.REMAINING, line_id=line_id, quantity=units.remaining, **basis)
        for line_id, units in state.units.items()
        if units.remaining
    ]
    said += [
        Statement(claim=Claim.ETA, line_id=b.line_id, quantity=b.quantity, at=b.eta, **basis)
        for b in state.backorders.values()
    ]
    said += [
        Statement(claim=Claim.CANCELLED, line_id=line_id, quantity=units.cancelled, **basis)
        for line_id, units in state.units.items()
        if units.cancelled
    ]
    return tuple(said)


def _of_refund(matter: RefundMatter, waiting: WaitingBasis) -> tuple[Statement, ...]:
    is_done = waiting.kind is NotificationKind.REFUND_COMPLETED
    return tuple(
        Statement(
            claim=Claim.REFUNDED if is_done else Claim.REFUND_SUBMITTED,
            line_id=None,
            quantity=0,
            amount_minor=leg.amount_minor,
            currency=matter.currency,
            at=None if is_done else leg.promised_at,
            as_of_service=waiting.service,
            as_of_sequence=waiting.sequence,
        )
        for leg in matter.legs
    )


def _refund(state: OrderNotifications, note: Note, fact: payments.RefundFact) -> list[Fact]:
    match fact:
        case payments.RefundRouted(legs=legs):
            matters = tuple(LegMatter(**leg.model_dump(include=set(LegMatter.model_fields))) for leg in legs)
            return [_basis(state, fact, RefundBasis(refund_id=fact.refund_id, stage=LegStage.ROUTED, legs=matters))]
        case payments.RefundLegFact() as leg:
            noted = _basis(state, fact, _leg(state, leg))
            after = evolve(state, noted).refunds[fact.refund_id]
            untold = _legs(after, LegStage.SUBMITTED, apart=state.told_legs())
            is_all = not _legs(after, LegStage.ROUTED)
            if not isinstance(leg, payments.RefundLegSubmitted) or not untold or not is_all:
                return [noted]
            matter = RefundMatter(refund_id=fact.refund_id, currency=leg.currency, legs=untold)
            return [noted, _tell(state, note, NotificationKind.REFUND_SUBMITTED, matter)]
        case payments.RefundCompleted(currency=currency):
            paid = _legs(state.refunds.get(fact.refund_id, {}), LegStage.SUCCEEDED)
            matter = RefundMatter(refund_id=fact.refund_id, currency=currency, legs=paid)
            return [_tell(state, note, NotificationKind.REFUND_COMPLETED, matter)]
        case _:
            raise TypeError(f"{fact.type} is nothing to tell")


_STAGES: Final[Mapping[type[Fact], LegStage]] = {
    payments.RefundLegSubmitted: LegStage.SUBMITTED,
    payments.RefundLegSucceeded: LegStage.SUCCEEDED,
    payments.RefundLegFailed: LegStage.FAILED,
    payments.RefundLegReversed: LegStage.FAILED,
}


def _leg(state: OrderNotifications, fact: payments.RefundLegFact) -> RefundBasis:
    leg = state.refunds.get(fact.refund_id, {}).get(fact.leg_id)
    if leg is None:
        raise Invalid("leg_id", f"{fact.leg_id} is not a routed leg of {fact.refund_id}")
    return RefundBasis(refund_id=fact.refund_id, stage=_STAGES[type(fact)], legs=(leg.matter,))


def _legs(legs: Mapping[str, Leg], stage: LegStage, apart: Set[str] = frozenset()) -> tuple[LegMatter, ...]:
    return tuple(leg.matter for id, leg in legs.items() if leg.stage is stage and id not in apart)


def evolve(state: OrderNotifications, fact: Fact) -> OrderNotifications:
    """The notifications after one of their own facts. Raises NotAllowed where the machine does."""
    if isinstance(fact, NotificationBasisNoted):
        return _resting_on(state, fact.basis)
    if not isinstance(fact, NotificationFact):
        raise TypeError(f"{fact.type} is not a fact of notifications")
    id = fact.notification_id
    if isinstance(fact, NotificationQueued):
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
        )
        waiting = tuple(w for w in state.waiting if w.trigger_id != fact.trigger_id)
        return replace(state, waiting=waiting, notifications={**state.notifications, id: queued})
    before = state.notifications[id]
    after = replace(before, status=NOTIFICATION.step(before.status, fact))
    match fact:
        case NotificationSent(title=title):
            after = replace(after, title=title)
        case NotificationFailed(detail=detail) | NotificationBounced(detail=detail):
            after = replace(after, detail=detail)
        case NotificationSuppressed(detail=detail):
            after = replace(after, detail=detail)
        case NotificationCoalesced(into_id=into_id):
            after = replace(after, detail=f"told in {into_id}")
        case NotificationDelivered():
            pass
        case _:
            raise TypeError(f"{fact.type} does not change a notification")
    return replace(state, notifications={**state.notifications, id: after})


def _resting_on(state: OrderNotifications, basis: Basis) -> OrderNotifications:
    match basis:
        case RecipientBasis():
            return replace(state, recipient=basis)
        case UnitsBasis():
            units = dict(state.units)
            for u in basis.owed:
                units[u.line_id] = replace(before := units.get(u.line_id, Units()), owed=before.owed + u.quantity)
            for u in basis.shipped:
                units[u.line_id] = replace(before := units.get(u.line_id, Units()), shipped=before.shipped + u.quantity)
            for u in basis.cancelled:
                units[u.line_id] = replace(
                    before := units.get(u.line_id, Units()), cancelled=before.cancelled + u.quantity
                )
            return replace(state, units=units)
        case BackorderBasis(backorder_id=id, quantity=0):
            return replace(state, backorders={k: b for k, b in state.backorders.items() if k != id})
        case BackorderBasis(backorder_id=id):
            return replace(state, backorders={**state.backorders, id: basis})
        case ChargeBasis(shipment_id=shipment_id, amount_minor=amount):
            shipment = shipment_id or ""
            return replace(state, charges={**state.charges, shipment: state.charges.get(shipment, 0) + amount})
        case RefundBasis(refund_id=id, stage=stage, legs=legs):
            after = {**state.refunds.get(id, {}), **{leg.leg_id: Leg(leg, stage) for leg in legs}}
            return replace(state, refunds={**state.refunds, id: after})
        case WaitingBasis():
            return replace(state, waiting=(*state.waiting, basis))


def laws(state: OrderNotifications) -> list[str]:
    """Which promises the notifications break: always none."""
    keys = [n.dedupe_key for n in state.notifications.values()]
    broken = [f"{key} is told more than once" for key in sorted({key for key in keys if keys.count(key) > 1})]
    if state.recipient is not None and state.waiting:
        broken.append("something waits although it is known to whom")
    return broken
