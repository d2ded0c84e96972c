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
from support_view.domain.signs import Gone, Sign, SignKind
from support_view.domain.support import Support
from support_view.domain.timeline import Entry, Mark

News: TypeAlias = Iterable[Sign | Gone]
Showing: TypeAlias = Mapping[type[Fact], Callable[[Any, Any, Entry], News]]
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


def _held(_: Orders, fact: OrderHoldPlaced, entry: Entry) -> Iterator[Sign]:
    if fact.hold is Hold.ADDRESS:
        yield Sign(SignKind.UNDELIVERABLE, "order", _mark(entry))


def _called_off(_: Orders, fact: OrderCancellationRequested, entry: Entry) -> Iterator[Sign]:
    yield Sign(SignKind.CALLED_OFF, fact.cancellation_id, _mark(entry))


ORDERS: Final[Showing] = {OrderHoldPlaced: _held, OrderCancellationRequested: _called_off}


def _backordered(_: Fulfillment, fact: BackorderCreated, entry: Entry) -> Iterator[Sign]:
    yield Sign(SignKind.BACKORDERED, fact.backorder_id, _mark(entry), (f"sku:{fact.sku}",))


def about_shipment(state: Fulfillment, shipment_id: str) -> tuple[str, ...]:
    """Who carries it, from where, and what is in it; nothing of what is no shipment."""
    if (shipment := state.shipments.get(shipment_id)) is None:
        return ()
    about = [f"carrier:{shipment.carrier}"] if shipment.carrier else []
    about += [f"location:{shipment.location}"] if shipment.location else []
    return (*about, *_skus(state.skus, shipment.lines))


def _on_the_way(kind: SignKind, state: Fulfillment, shipment_id: str, entry: Entry) -> Sign:
    return Sign(kind, shipment_id, _mark(entry), about_shipment(state, shipment_id))


def _part_shipped(state: Fulfillment, fact: ShipmentShipped, entry: Entry) -> Iterator[Sign]:
    if fact.of > 1 and state.shipments[fact.shipment_id].replaces is None:
        yield _on_the_way(SignKind.PART_SHIPPED, state, fact.shipment_id, entry)


def _arrived(state: Fulfillment, fact: ShipmentDelivered, entry: Entry) -> News:
    """What arrived was not lost; a part is one whose departure was one."""
    id = fact.shipment_id
    if any((sign.kind, sign.item) == (SignKind.PART_SHIPPED, id) for sign in state.signs):
        yield _on_the_way(SignKind.PART_DELIVERED, state, id, entry)
    yield Gone(SignKind.LOST, id)


_SCANS: Final = {
    "customs": SignKind.DELAYED,
    "damaged": SignKind.DAMAGED,
    "address": SignKind.UNDELIVERABLE,
    "not_received": SignKind.LOST,
}


def _scanned(state: Fulfillment, fact: ShipmentTrackingUpdated, entry: Entry) -> Iterator[Sign]:
    if fact.moved and fact.code in _SCANS:
        yield _on_the_way(_SCANS[fact.code], state, fact.shipment_id, entry)


def _found_again(state: Fulfillment, fact: ShipmentFound, entry: Entry) -> News:
    """What was lost and found was late."""
    yield Gone(SignKind.LOST, fact.shipment_id)
    yield _on_the_way(SignKind.DELAYED, state, fact.shipment_id, entry)


def _shipment(kind: SignKind) -> Callable[[Fulfillment, ScanFact, Entry], News]:
    return lambda state, fact, entry: [_on_the_way(kind, state, fact.shipment_id, entry)]


FULFILLMENT: Final[Showing] = {
    BackorderCreated: _backordered,
    ShipmentShipped: _part_shipped,
    ShipmentDelivered: _arrived,
    ShipmentTrackingUpdated: _scanned,
    ShipmentDelayed: _shipment(SignKind.DELAYED),
    ShipmentLost: _shipment(SignKind.LOST),
    ShipmentFound: _found_again,
    ShipmentReturnStarted: _shipment(SignKind.UNDELIVERABLE),
}


def _declined(_: Payments, fact: PaymentDeclined | PaymentCaptureFailed, entry: Entry) -> Iterator[Sign]:
    yield Sign(SignKind.DECLINED, fact.tender_id, _mark(entry))


def _unanswered(_: Payments, fact: PaymentOperationUnknown, entry: Entry) -> Iterator[Sign]:
    yield Sign(SignKind.UNANSWERED, fact.operation_id, _mark(entry))


def _books_differ(_: Payments, fact: PaymentAnomalyDetected, entry: Entry) -> Iterator[Sign]:
    yield Sign(SignKind.BOOKS_DIFFER, fact.operation_id or "books", _mark(entry))


def _refund(kind: SignKind, state: Payments, fact: RefundFact, entry: Entry) -> Sign:
    return Sign(kind, fact.refund_id, _mark(entry), _policy(state.refunds[fact.refund_id].policy))


def _asked_back(state: Payments, fact: RefundRequested, entry: Entry) -> Iterator[Sign]:
    if fact.kind is RefundKind.OVERPAID:
        yield _refund(SignKind.OVERPAID, state, fact, entry)


def _goodwill(state: Payments, fact: RefundApproved, entry: Entry) -> Iterator[Sign]:
    if state.refunds[fact.refund_id].kind is RefundKind.GOODWILL:
        yield _refund(SignKind.EXCEPTION, state, fact, entry)


def _paid_out(state: Payments, fact: RefundCompleted, entry: Entry) -> Iterator[Sign]:
    promised_at = state.refunds[fact.refund_id].promised_at
    if promised_at is not None and entry.occurred_at > promised_at:
        yield _refund(SignKind.REFUND_LATE, state, fact, entry)


def _not_paid_out(state: Payments, fact: RefundFact, entry: Entry) -> Iterator[Sign]:
    yield _refund(SignKind.REFUND_FAILED, state, fact, entry)


PAYMENTS: Final[Showing] = {
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
    ReturnReason.UNWANTED: SignKind.UNWANTED,
    ReturnReason.SIZE: SignKind.UNWANTED,
    ReturnReason.DEFECTIVE: SignKind.DEFECTIVE,
    ReturnReason.NOT_AS_DESCRIBED: SignKind.WRONG_ITEM,
    ReturnReason.WRONG_ITEM: SignKind.WRONG_ITEM,
    ReturnReason.DAMAGED_IN_TRANSIT: SignKind.DAMAGED,
    ReturnReason.LATE: SignKind.DELAYED,
    ReturnReason.NOT_RECEIVED: SignKind.LOST,
}
_OUTCOMES: Final = {
    InspectionOutcome.DEFECTIVE: SignKind.DEFECTIVE,
    InspectionOutcome.WRONG_ITEM: SignKind.WRONG_ITEM,
}
_TELLING: Final = frozenset({SignKind.DEFECTIVE, SignKind.WRONG_ITEM, SignKind.UNWANTED})
"""What an inspection can say better than who sent it back."""


def _sent_back(state: Returns, fact: ReturnRequested, entry: Entry) -> Iterator[Sign]:
    for line in fact.lines:
        about = (*_skus(state.skus, [line.line_id]), *_policy(state.policy))
        yield Sign(_REASONS[line.reason], f"{fact.return_id}/{line.line_id}", _mark(entry), about)


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
        still = shown or ({reason} if reason is SignKind.UNWANTED else set())
        yield from (Gone(kind, item) for kind in sorted(_TELLING - still))
        about = (*_skus(state.skus, [line_id]), *_policy(state.policy))
        yield from (Sign(kind, item, _mark(entry), about) for kind in sorted(filter(None, still)))


def _refused(state: Returns, fact: ReturnDeclined | ReturnSentToReview, entry: Entry) -> Iterator[Sign]:
    about = (*_skus(state.skus, state.returns.get(fact.return_id, Return()).asked), *_policy(fact.policy))
    yield Sign(SignKind.REFUSED, fact.return_id, _mark(entry), about)


def _approved(_: Returns, fact: ReturnApproved, entry: Entry) -> Iterator[Gone]:
    yield Gone(SignKind.REFUSED, fact.return_id)


def _excepted(state: Returns, fact: ReturnExceptionGranted, entry: Entry) -> Iterator[Sign]:
    about = (*_skus(state.skus, [line.line_id for line in fact.lines]), *_policy(fact.policy))
    yield Sign(SignKind.EXCEPTION, fact.return_id, _mark(entry), about)


def _claimed(state: Returns, fact: ClaimOpened, entry: Entry) -> Iterator[Sign]:
    about = (*_skus(state.skus, [line.line_id for line in fact.lines]), *_policy(state.policy))
    yield Sign(_REASONS[fact.reason], fact.claim_id, _mark(entry), about)


def _claim_settled(_: Returns, fact: ClaimResolved, entry: Entry) -> Iterator[Gone]:
    if fact.outcome == "rejected":
        yield from (Gone(kind, fact.claim_id) for kind in sorted(set(_REASONS.values())))


RETURNS: Final[Showing] = {
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


def _untrue(_: Notifications, fact: NotificationContradicted, entry: Entry) -> Iterator[Sign]:
    yield Sign(SignKind.UNTRUE, fact.notification_id, _mark(entry))


def _untold(_: Notifications, fact: NotificationFailed | NotificationBounced, entry: Entry) -> Iterator[Sign]:
    yield Sign(SignKind.UNTOLD, fact.notification_id, _mark(entry))


def _held_back(state: Notifications, fact: NotificationSuppressed, entry: Entry) -> Iterator[Sign]:
    if state.notifications[fact.notification_id].is_stale:
        yield Sign(SignKind.UNTOLD, fact.notification_id, _mark(entry))


NOTIFICATIONS: Final[Showing] = {
    NotificationContradicted: _untrue,
    NotificationFailed: _untold,
    NotificationBounced: _untold,
    NotificationSuppressed: _held_back,
}

_RAISED: Final[Mapping[str, SignKind]] = {
    RuleName.REFUND_LATE: SignKind.REFUND_LATE,
    RuleName.SHIPMENT_SILENT: SignKind.DELAYED,
}
"""What only time shows, since no fact tells of what does not happen: it was looked for."""


def _asked(state: Support, fact: ContactReceived, entry: Entry) -> Iterator[Sign]:
    if state.contacted[fact.contact_id].left_out is None:
        yield Sign(SignKind.ASKED, fact.contact_id, Mark(entry.sequence, fact.received_at))


def _raised(_: Support, fact: EscalationRaised, entry: Entry) -> Iterator[Sign]:
    if (kind := _RAISED.get(fact.rule)) is not None:
        yield Sign(kind, fact.item, Mark(entry.sequence, fact.since))


SUPPORT: Final[Showing] = {ContactReceived: _asked, EscalationRaised: _raised}

SHOWING: Final[Mapping[str, Showing]] = {
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
