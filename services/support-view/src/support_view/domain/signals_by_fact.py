"""What facts show of trouble, by the service that tells them. Pure: from the fact and its section's state with it."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Final, TypeAlias

from shared.contracts.base import Fact, PolicyRef
from shared.contracts.fulfillment import (
    BackorderCreated,
    ScanFact,
    ShipmentDelayed,
    ShipmentDelivered,
    ShipmentFound,
    ShipmentLost,
    ShipmentReturnStarted,
    ShipmentShipped,
    ShipmentTrackingUpdated,
)
from shared.contracts.notifications import (
    NotificationBounced,
    NotificationContradicted,
    NotificationFailed,
    NotificationSuppressed,
)
from shared.contracts.orders import Hold, OrderCancellationRequested, OrderHoldPlaced
from shared.contracts.payments import (
    PaymentAnomalyDetected,
    PaymentCaptureFailed,
    PaymentDeclined,
    PaymentOperationUnknown,
    RefundApproved,
    RefundAttentionNeeded,
    RefundCompleted,
    RefundFact,
    RefundKind,
    RefundLegFailed,
    RefundLegReversed,
    RefundRequested,
)
from shared.contracts.returns import (
    ClaimOpened,
    ClaimResolved,
    InspectedLine,
    InspectionOutcome,
    ReturnApproved,
    ReturnDeclined,
    ReturnExceptionGranted,
    ReturnInspectionRevised,
    ReturnItemsInspected,
    ReturnReason,
    ReturnRequested,
    ReturnSentToReview,
)
from shared.contracts.support import ContactReceived, EscalationRaised, RootCauseTag
from support_view.domain.causes import Found, find
from support_view.domain.fulfillment import Fulfillment
from support_view.domain.notifications import Notifications
from support_view.domain.orders import Orders
from support_view.domain.payments import Payments
from support_view.domain.policies import RuleName
from support_view.domain.returns import Return, Returns
from support_view.domain.signals import Cleared, Signal, SignalKind
from support_view.domain.support import Support
from support_view.domain.timeline import Entry, Mark

News: TypeAlias = Iterable[Signal | Cleared]
SignalsOf: TypeAlias = Mapping[type[Fact], Callable[[Any, Any, Entry], News]]
"""Per class of fact that shows something: by the state, the fact and its entry."""

SKUS_AT_MOST: Final = 10


def _mark(entry: Entry) -> Mark:
    return Mark(entry.sequence, entry.occurred_at)


def _skus(known: Mapping[str, str], lines: Iterable[str]) -> tuple[str, ...]:
    found = sorted({known[line] for line in lines if line in known})
    return tuple(f"sku:{sku}" for sku in found[:SKUS_AT_MOST])


def _policy(policy: PolicyRef | str) -> tuple[str, ...]:
    name = policy if isinstance(policy, str) else f"{policy.policy_id} v{policy.version}"
    return (f"policy:{name}",) if name else ()


def _held(_: Orders, fact: OrderHoldPlaced, entry: Entry) -> Iterator[Signal]:
    if fact.hold is Hold.ADDRESS:
        yield Signal(SignalKind.UNDELIVERABLE, "order", _mark(entry))


def _called_off(_: Orders, fact: OrderCancellationRequested, entry: Entry) -> Iterator[Signal]:
    yield Signal(SignalKind.CALLED_OFF, fact.cancellation_id, _mark(entry))


ORDERS: Final[SignalsOf] = {OrderHoldPlaced: _held, OrderCancellationRequested: _called_off}


def _backordered(_: Fulfillment, fact: BackorderCreated, entry: Entry) -> Iterator[Signal]:
    yield Signal(SignalKind.BACKORDERED, fact.backorder_id, _mark(entry), (f"sku:{fact.sku}",))


def about_shipment(state: Fulfillment, shipment_id: str) -> tuple[str, ...]:
    """Who carries it, from where, and what is in it; nothing of what is no shipment."""
    if (shipment := state.shipments.get(shipment_id)) is None:
        return ()
    about = [f"carrier:{shipment.carrier}"] if shipment.carrier else []
    about += [f"location:{shipment.location}"] if shipment.location else []
    return (*about, *_skus(state.skus, shipment.lines))


def _on_the_way(kind: SignalKind, state: Fulfillment, shipment_id: str, entry: Entry) -> Signal:
    return Signal(kind, shipment_id, _mark(entry), about_shipment(state, shipment_id))


def _part_shipped(state: Fulfillment, fact: ShipmentShipped, entry: Entry) -> Iterator[Signal]:
    if fact.of > 1 and state.shipments[fact.shipment_id].replaces is None:
        yield _on_the_way(SignalKind.PART_SHIPPED, state, fact.shipment_id, entry)


def _arrived(state: Fulfillment, fact: ShipmentDelivered, entry: Entry) -> News:
    """What arrived was not lost; a part is one whose departure was one."""
    id = fact.shipment_id
    if any((sign.kind, sign.item) == (SignalKind.PART_SHIPPED, id) for sign in state.signs):
        yield _on_the_way(SignalKind.PART_DELIVERED, state, id, entry)
    yield Cleared(SignalKind.LOST, id)


_SCANS: Final = {
    "customs": SignalKind.DELAYED,
    "damaged": SignalKind.DAMAGED,
    "address": SignalKind.UNDELIVERABLE,
    "not_received": SignalKind.LOST,
}


def _scanned(state: Fulfillment, fact: ShipmentTrackingUpdated, entry: Entry) -> Iterator[Signal]:
    if fact.moved and fact.code in _SCANS:
        yield _on_the_way(_SCANS[fact.code], state, fact.shipment_id, entry)


def _found_again(state: Fulfillment, fact: ShipmentFound, entry: Entry) -> News:
    """What was lost and found was late."""
    yield Cleared(SignalKind.LOST, fact.shipment_id)
    yield _on_the_way(SignalKind.DELAYED, state, fact.shipment_id, entry)


def _shipment(kind: SignalKind) -> Callable[[Fulfillment, ScanFact, Entry], News]:
    return lambda state, fact, entry: [_on_the_way(kind, state, fact.shipment_id, entry)]


FULFILLMENT: Final[SignalsOf] = {
    BackorderCreated: _backordered,
    ShipmentShipped: _part_shipped,
    ShipmentDelivered: _arrived,
    ShipmentTrackingUpdated: _scanned,
    ShipmentDelayed: _shipment(SignalKind.DELAYED),
    ShipmentLost: _shipment(SignalKind.LOST),
    ShipmentFound: _found_again,
    ShipmentReturnStarted: _shipment(SignalKind.UNDELIVERABLE),
}


def _declined(_: Payments, fact: PaymentDeclined | PaymentCaptureFailed, entry: Entry) -> Iterator[Signal]:
    yield Signal(SignalKind.DECLINED, fact.tender_id, _mark(entry))


def _unanswered(_: Payments, fact: PaymentOperationUnknown, entry: Entry) -> Iterator[Signal]:
    yield Signal(SignalKind.UNANSWERED, fact.operation_id, _mark(entry))


def _books_differ(_: Payments, fact: PaymentAnomalyDetected, entry: Entry) -> Iterator[Signal]:
    yield Signal(SignalKind.BOOKS_DIFFER, fact.operation_id or "books", _mark(entry))


def _refund(kind: SignalKind, state: Payments, fact: RefundFact, entry: Entry) -> Signal:
    return Signal(kind, fact.refund_id, _mark(entry), _policy(state.refunds[fact.refund_id].policy))


def _asked_back(state: Payments, fact: RefundRequested, entry: Entry) -> Iterator[Signal]:
    if fact.kind is RefundKind.OVERPAID:
        yield _refund(SignalKind.OVERPAID, state, fact, entry)


def _goodwill(state: Payments, fact: RefundApproved, entry: Entry) -> Iterator[Signal]:
    if state.refunds[fact.refund_id].kind is RefundKind.GOODWILL:
        yield _refund(SignalKind.EXCEPTION, state, fact, entry)


def _paid_out(state: Payments, fact: RefundCompleted, entry: Entry) -> Iterator[Signal]:
    promised_at = state.refunds[fact.refund_id].promised_at
    if promised_at is not None and entry.occurred_at > promised_at:
        yield _refund(SignalKind.REFUND_LATE, state, fact, entry)


def _not_paid_out(state: Payments, fact: RefundFact, entry: Entry) -> Iterator[Signal]:
    yield _refund(SignalKind.REFUND_FAILED, state, fact, entry)


PAYMENTS: Final[SignalsOf] = {
    PaymentDeclined: _declined,
    PaymentCaptureFailed: _declined,
    PaymentOperationUnknown: _unanswered,
    PaymentAnomalyDetected: _books_differ,
    RefundRequested: _asked_back,
    RefundApproved: _goodwill,
    RefundCompleted: _paid_out,
    RefundLegFailed: _not_paid_out,
    RefundLegReversed: _not_paid_out,
    RefundAttentionNeeded: _not_paid_out,
}

_REASONS: Final = {
    ReturnReason.UNWANTED: SignalKind.UNWANTED,
    ReturnReason.SIZE: SignalKind.UNWANTED,
    ReturnReason.DEFECTIVE: SignalKind.DEFECTIVE,
    ReturnReason.NOT_AS_DESCRIBED: SignalKind.WRONG_ITEM,
    ReturnReason.WRONG_ITEM: SignalKind.WRONG_ITEM,
    ReturnReason.DAMAGED_IN_TRANSIT: SignalKind.DAMAGED,
    ReturnReason.LATE: SignalKind.DELAYED,
    ReturnReason.NOT_RECEIVED: SignalKind.LOST,
}
_OUTCOMES: Final = {
    InspectionOutcome.DEFECTIVE: SignalKind.DEFECTIVE,
    InspectionOutcome.WRONG_ITEM: SignalKind.WRONG_ITEM,
}
_TELLING: Final = frozenset({SignalKind.DEFECTIVE, SignalKind.WRONG_ITEM, SignalKind.UNWANTED})
"""What an inspection can say better than who sent it back."""


def _sent_back(state: Returns, fact: ReturnRequested, entry: Entry) -> Iterator[Signal]:
    for line in fact.lines:
        about = (*_skus(state.skus, [line.line_id]), *_policy(state.policy))
        yield Signal(_REASONS[line.reason], f"{fact.return_id}/{line.line_id}", _mark(entry), about)


def _inspected(state: Returns, fact: ReturnItemsInspected, entry: Entry) -> News:
    return _judged(state, fact.return_id, fact.lines, entry)


def _judged_anew(state: Returns, fact: ReturnInspectionRevised, entry: Entry) -> News:
    return _judged(state, fact.return_id, (*fact.before, *fact.after), entry)


def _judged(state: Returns, return_id: str, lines: Iterable[InspectedLine], entry: Entry) -> News:
    """Goods that were looked at show what they are, whatever was said of them: of lines looked at, what their outcomes
    say by now stands; the customer's word stays where they do not contradict it."""
    told = state.returns.get(return_id, Return())
    for line_id in sorted({line.line_id for line in lines}):
        item = f"{return_id}/{line_id}"
        shown = {_OUTCOMES.get(found.outcome) for found in told.found if found.line_id == line_id} - {None}
        asked = told.asked.get(line_id)
        reason = _REASONS.get(ReturnReason(asked.reason)) if asked is not None else None
        still = shown or ({reason} if reason is SignalKind.UNWANTED else set())
        yield from (Cleared(kind, item) for kind in sorted(_TELLING - still))
        about = (*_skus(state.skus, [line_id]), *_policy(state.policy))
        yield from (Signal(kind, item, _mark(entry), about) for kind in sorted(filter(None, still)))


def _refused(state: Returns, fact: ReturnDeclined | ReturnSentToReview, entry: Entry) -> Iterator[Signal]:
    about = (*_skus(state.skus, state.returns.get(fact.return_id, Return()).asked), *_policy(fact.policy))
    yield Signal(SignalKind.REFUSED, fact.return_id, _mark(entry), about)


def _approved(_: Returns, fact: ReturnApproved, entry: Entry) -> Iterator[Cleared]:
    yield Cleared(SignalKind.REFUSED, fact.return_id)


def _excepted(state: Returns, fact: ReturnExceptionGranted, entry: Entry) -> Iterator[Signal]:
    about = (*_skus(state.skus, [line.line_id for line in fact.lines]), *_policy(fact.policy))
    yield Signal(SignalKind.EXCEPTION, fact.return_id, _mark(entry), about)


def _claimed(state: Returns, fact: ClaimOpened, entry: Entry) -> Iterator[Signal]:
    about = (*_skus(state.skus, [line.line_id for line in fact.lines]), *_policy(state.policy))
    yield Signal(_REASONS[fact.reason], fact.claim_id, _mark(entry), about)


def _claim_settled(_: Returns, fact: ClaimResolved, entry: Entry) -> Iterator[Cleared]:
    if fact.outcome == "rejected":
        yield from (Cleared(kind, fact.claim_id) for kind in sorted(set(_REASONS.values())))


RETURNS: Final[SignalsOf] = {
    ReturnRequested: _sent_back,
    ReturnItemsInspected: _inspected,
    ReturnInspectionRevised: _judged_anew,
    ReturnDeclined: _refused,
    ReturnSentToReview: _refused,
    ReturnApproved: _approved,
    ReturnExceptionGranted: _excepted,
    ClaimOpened: _claimed,
    ClaimResolved: _claim_settled,
}


def _untrue(_: Notifications, fact: NotificationContradicted, entry: Entry) -> Iterator[Signal]:
    yield Signal(SignalKind.UNTRUE, fact.notification_id, _mark(entry))


def _dirty(_: Notifications, fact: NotificationFailed | NotificationBounced, entry: Entry) -> Iterator[Signal]:
    yield Signal(SignalKind.UNTOLD, fact.notification_id, _mark(entry))


def _held_back(state: Notifications, fact: NotificationSuppressed, entry: Entry) -> Iterator[Signal]:
    if state.notifications[fact.notification_id].is_stale:
        yield Signal(SignalKind.UNTOLD, fact.notification_id, _mark(entry))


NOTIFICATIONS: Final[SignalsOf] = {
    NotificationContradicted: _untrue,
    NotificationFailed: _dirty,
    NotificationBounced: _dirty,
    NotificationSuppressed: _held_back,
}

_RAISED: Final[Mapping[str, SignalKind]] = {
    RuleName.REFUND_LATE: SignalKind.REFUND_LATE,
    RuleName.SHIPMENT_SILENT: SignalKind.DELAYED,
}
"""What only time shows, since no fact tells of what does not happen: it was looked for."""


def _asked(state: Support, fact: ContactReceived, entry: Entry) -> Iterator[Signal]:
    if state.contacted[fact.contact_id].left_out is None:
        yield Signal(SignalKind.ASKED, fact.contact_id, Mark(entry.sequence, fact.received_at))


def _raised(_: Support, fact: EscalationRaised, entry: Entry) -> Iterator[Signal]:
    if (kind := _RAISED.get(fact.rule)) is not None:
        yield Signal(kind, fact.item, Mark(entry.sequence, fact.since))


SUPPORT: Final[SignalsOf] = {ContactReceived: _asked, EscalationRaised: _raised}

SIGNALS_BY_FACT: Final[Mapping[str, SignalsOf]] = {
    "orders": ORDERS,
    "payments": PAYMENTS,
    "fulfillment": FULFILLMENT,
    "returns": RETURNS,
    "notifications": NOTIFICATIONS,
    "support": SUPPORT,
}
"""By the service that tells the facts."""


def causes_in(states: Mapping[str, Any]) -> dict[RootCauseTag, Found]:
    """The causes that the rules find in the states of an order's sections, by service, as far as they were seen."""
    fulfillment = states.get("fulfillment", Fulfillment())
    return find({of: state.signs for of, state in states.items()}, partial(about_shipment, fulfillment))
