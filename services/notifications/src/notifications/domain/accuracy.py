"""What a message states, and which statements a later fact makes untrue.

A statement is held against facts while it is the newest of its subject that the customer was told; one that a newer
message replaced is not. What is queued and was never attempted was told to nobody: it is restated, not contradicted.
"""

from collections.abc import Iterator, Mapping, Set
from datetime import datetime
from typing import Final

from notifications.domain.state import Notification, OrderNotifications, Status
from shared.contracts import fulfillment, payments
from shared.contracts.base import Fact
from shared.contracts.notifications import (
    AddressContent,
    BackorderContent,
    CancellationContent,
    Claim,
    ClaimContent,
    Content,
    HoldContent,
    LegStage,
    NotificationKind,
    OrderContent,
    ParcelContent,
    RecoveryContent,
    RefundContent,
    ReturnContent,
    ShipmentContent,
    Statement,
    WaitingContext,
)

_PAID_OUT: Final = frozenset({LegStage.SUBMITTED, LegStage.SUCCEEDED})


def statements(state: OrderNotifications, telling: WaitingContext) -> tuple[Statement, ...]:
    """What a message of this matter states, as of the fact it tells of."""
    basis = {"as_of_service": telling.service, "as_of_sequence": telling.sequence}
    return tuple(Statement.model_validate(said | basis) for said in _said(state, telling.kind, telling.matter))


def _said(state: OrderNotifications, kind: NotificationKind, matter: Content) -> Iterator[dict[str, object]]:
    match matter:
        case OrderContent():
            if kind is NotificationKind.ORDER_CONFIRMED:
                yield from _remaining(state)
        case ShipmentContent():
            # Its own units, what is still to come of the order, and what will not come.
            for u in matter.lines:
                yield _of_line(Claim.SHIPPED, u.line_id, u.quantity, matter.shipment_id)
            yield from _to_come(state)
            for line_id, units in state.units.items():
                if units.cancelled:
                    yield _of_line(Claim.CANCELLED, line_id, units.cancelled)
        case BackorderContent():
            yield _of_line(Claim.ETA, matter.line_id, matter.quantity, matter.backorder_id, matter.eta)
        case ParcelContent():
            if matter.what == "delivered":
                for u in matter.lines:
                    yield _of_line(Claim.DELIVERED, u.line_id, u.quantity, matter.shipment_id)
        case CancellationContent():
            for u in matter.lines:
                yield _of_line(Claim.CANCELLED, u.line_id, u.quantity, matter.cancellation_id)
            yield from _to_come(state)
        case RefundContent():
            yield from _of_refund(state, kind, matter)
        case ReturnContent() | ClaimContent() | HoldContent() | AddressContent() | RecoveryContent():
            pass


def _of_line(
    claim: Claim, line_id: str, quantity: int, about_id: str | None = None, at: datetime | None = None
) -> dict[str, object]:
    return {"claim": claim, "line_id": line_id, "quantity": quantity, "about_id": about_id, "at": at}


def _remaining(state: OrderNotifications) -> Iterator[dict[str, object]]:
    for line_id, units in state.units.items():
        if units.remaining:
            yield _of_line(Claim.REMAINING, line_id, units.remaining)


def _to_come(state: OrderNotifications) -> Iterator[dict[str, object]]:
    """What is still to come, and of what waits for goods, when (None: no date is known)."""
    yield from _remaining(state)
    for b in state.backorders.values():
        yield _of_line(Claim.ETA, b.line_id, b.quantity, b.backorder_id, b.eta)


def _of_refund(state: OrderNotifications, kind: NotificationKind, matter: RefundContent) -> Iterator[dict[str, object]]:
    known = state.refunds.get(matter.refund_id, {})
    is_done = kind is NotificationKind.REFUND_COMPLETED
    for leg in matter.legs:
        if known[leg.leg_id].stage in _PAID_OUT:
            yield {
                "claim": Claim.REFUNDED if is_done else Claim.REFUND_SUBMITTED,
                "line_id": None,
                "about_id": leg.leg_id,
                "quantity": 0,
                "amount_minor": leg.amount_minor,
                "currency": matter.currency,
                "at": None if is_done else leg.promised_at,
            }


def untrue(state: OrderNotifications, fact: Fact, unread: Set[str]) -> list[tuple[str, Statement]]:
    """Statements the customer was told, by the id of their message, that `fact` contradicts; `state` is after it."""
    newest: dict[tuple[object, ...], tuple[str, int]] = {}
    for id, n in state.notifications.items():
        if _was_told(n) or (n.status is Status.QUEUED and id not in unread):
            newest |= {(s.claim, s.line_id, s.about_id): (id, place) for place, s in enumerate(n.statements)}
    told = [(id, place, state.notifications[id]) for id, place in newest.values()]
    return [
        (id, n.statements[place])
        for id, place, n in told
        if place not in n.contradicted
        and not _is_news(n.statements[place], fact)
        and _now(state, n.statements[place], fact) != n.statements[place]
    ]


def _is_news(said: Statement, fact: Fact) -> bool:
    """Whether the fact takes a statement further and does not make it wrong: what was to come left or was called off, what
    had no date got one, what waited for goods has them."""
    match said.claim:
        case Claim.REMAINING:
            return True
        case Claim.ETA:
            return said.at is None or not isinstance(fact, fulfillment.BackorderEtaRevised)
        case _:
            return False


def restated(state: OrderNotifications, fact: Fact, unread: Set[str]) -> Mapping[str, tuple[Statement, ...]]:
    """The statements of messages nobody read yet that `fact` makes untrue, as they are true; `state` is after it."""
    changed = {}
    for id, n in state.notifications.items():
        if n.status is Status.QUEUED and id in unread:
            true = tuple(now for s in n.statements if (now := _now(state, s, fact)) is not None)
            if true != n.statements:
                changed[id] = true
    return changed


def _was_told(notification: Notification) -> bool:
    """What bounced or was never sent was read by nobody."""
    return notification.status in (Status.SENT, Status.DELIVERED)


def _now(state: OrderNotifications, said: Statement, fact: Fact) -> Statement | None:
    """The statement as it is after the fact; None where nothing is left of it, itself where the fact does not touch it."""
    match fact, said.claim:
        case fulfillment.BackorderEtaRevised(backorder_id=id, eta=eta), Claim.ETA if said.about_id == id:
            return said if _day(said.at) == _day(eta) else said.model_copy(update={"at": eta})
        case (
            fulfillment.FulfillmentLinesCancelled(lines=lines) | fulfillment.ShipmentShipped(lines=lines),
            Claim.REMAINING,
        ) if any(u.line_id == said.line_id for u in lines):
            assert said.line_id is not None
            left = state.units[said.line_id].remaining
            if left >= said.quantity:
                return said
            return said.model_copy(update={"quantity": left}) if left else None
        case (
            fulfillment.BackorderFilled(backorder_id=id, remaining=left)
            | fulfillment.BackorderCancelled(backorder_id=id, remaining=left),
            Claim.ETA,
        ) if said.about_id == id:
            return said.model_copy(update={"quantity": left}) if left else None
        case fulfillment.ShipmentTrackingUpdated(shipment_id=id, lines=lines), Claim.DELIVERED if (
            said.about_id == id and any(u.line_id == said.line_id for u in lines)
        ):
            return None
        case payments.RefundLegFailed(leg_id=id), Claim.REFUND_SUBMITTED if said.about_id == id:
            return None
        case payments.RefundLegReversed(leg_id=id), (Claim.REFUND_SUBMITTED | Claim.REFUNDED) if said.about_id == id:
            return None
        case _:
            return said


def _day(at: datetime | None) -> object:
    """Customers are told days."""
    return at and at.date()
