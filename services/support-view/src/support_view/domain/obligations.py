"""Nobody's task (I15): of each thing of an order that is not at its end, the next step, whose it is, and since when it waits.

One reading for two readers. The summary shows the steps; escalations are raised for those that are late. How long
each may take is the policy's, so that every step has a date, and a rule whose escalation stands once it is past.
"""

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from functools import partial
from typing import Any, Final, TypeVar

from shared.contracts.base import Bucket
from shared.contracts.orders import Hold as HoldName
from shared.contracts.payments import MovementKind, OperationKind, RefundKind
from shared.contracts.returns import Resolution, ReturnReason
from support_view.domain import support
from support_view.domain.cases import Case, CaseStatus, Support, last_word, running_out
from support_view.domain.escalations import Obligation, Owner, due_at
from support_view.domain.fulfillment import Backorder, Fulfillment, Shipment, ShipmentStatus
from support_view.domain.notifications import Notifications
from support_view.domain.notifications import Status as NotificationStatus
from support_view.domain.orders import Orders, Status
from support_view.domain.payments import (
    ChargeStatus,
    DisputeStatus,
    LegStatus,
    OperationStatus,
    Payments,
    Refund,
    RefundStatus,
    Tender,
    TenderStatus,
    approval_reason,
)
from support_view.domain.policies import EscalationPolicy, RuleName
from support_view.domain.returns import Claim, Return, Returns, ReverseBucket
from support_view.domain.returns import Status as ReturnStatus
from support_view.domain.shelves import STOCK, Shelf, obligations_of
from support_view.domain.timeline import Words, day, plain, plural

S = TypeVar("S")

Obligations = Iterator[Obligation]
States = Mapping[str, Any]
"""What each service told of one order, by service, as far as it is known to who asks."""

OVER: Final = frozenset({Status.CANCELLED, Status.REJECTED, Status.CLOSED})


def _say(text: str) -> Callable[[Words], str]:
    return lambda words: text


def _known(states: States, service: str, nothing: S) -> S:
    found: S = states.get(service, nothing)
    return found


def _contradiction(id: str, at: datetime, detail: str, link: str) -> Obligation:
    return Obligation(
        RuleName.CONTRADICTED_PLAN,
        id,
        at,
        f"what happened is not what was planned: {detail}",
        owner=Owner.SUPPORT,
        step=_say(f"See what it means for the order: {detail}"),
        link=link,
    )


# Orders.

_HELD_FOR: Final = frozenset({HoldName.CUSTOMER_CONSENT, HoldName.AWAITING_RETURN})
"""Holds that the customer ends."""


def of_orders(states: States, _: EscalationPolicy) -> Obligations:
    orders = _known(states, "orders", Orders())
    if orders.standing in OVER or orders.standing is None:
        return
    for name, hold in orders.holds.items():
        is_customers = name in _HELD_FOR
        detail = f": {hold.detail}" if hold.detail else ""
        yield Obligation(
            RuleName.HOLD_OF_CUSTOMER if is_customers else RuleName.HOLD_STANDING,
            name,
            hold.since,
            f"an order is held: {plain(name)}",
            owner=Owner.CUSTOMER if is_customers else Owner.SUPPORT,
            step=_say(f"Release the hold “{plain(name)}”{detail}"),
            link="order",
        )
    for id, asked in orders.pending.items():
        yield Obligation(
            RuleName.CANCELLATION_PENDING,
            id,
            asked.at,
            "a cancellation is not answered yet",
            owner=Owner.WAREHOUSE,
            step=partial(_answer_cancellation, id, asked.asked),
            link="order",
        )
    if orders.placed is None:
        return
    placed_at = orders.placed.at
    whole = partial(Obligation, item="order", link="order")
    if orders.standing is Status.PLACED:
        yield whole(
            RuleName.ORDER_UNCONFIRMED,
            since=placed_at,
            why="an order was placed and its payment is not authorized",
            owner=Owner.PROVIDER,
            step=_say("Authorize the payment"),
        )
    elif orders.standing is Status.CONFIRMED:
        promised = max((line.promised_on for line in orders.placed.lines if line.promised_on), default=None)
        since = orders.confirmed_at or placed_at
        if promised is not None:
            since = max(since, datetime.combine(promised, since.timetz()))
        yield whole(
            RuleName.ORDER_UNFINISHED,
            since=since,
            why="an order is long past its date and not all of it is delivered or settled",
            owner=Owner.SYSTEM,
            step=_say("Complete the order, by itself, once each unit is delivered, cancelled or settled"),
        )
    else:
        yield whole(
            RuleName.ORDER_UNCLOSED,
            since=orders.closes_at or orders.completed_at or placed_at,
            why="an order is complete and does not close",
            owner=Owner.SYSTEM,
            step=_say("Close the order, by itself, once no return is possible any more and nothing is open"),
        )


def _answer_cancellation(id: str, asked: Mapping[str, int], words: Words) -> str:
    return f"Answer cancellation {id}: {_contents(words, asked)}"


def _contents(words: Words, lines: Mapping[str, int]) -> str:
    return words.listed(words.some(n, line_id) for line_id, n in lines.items()) or "nothing"


# Payments.


def of_payments(states: States, _: EscalationPolicy) -> Obligations:
    payments, orders = _known(states, "payments", Payments()), _known(states, "orders", Orders())
    for id, operation in payments.operations.items():
        if operation.kind is not OperationKind.REFUND:
            verb = "Learn whether" if operation.status is OperationStatus.UNKNOWN else "Answer whether"
            yield Obligation(
                RuleName.OPERATION_UNANSWERED,
                id,
                operation.since,
                f"the provider does not say whether a {operation.kind.value} happened",
                owner=Owner.PROVIDER,
                step=partial(_with_money, f"{verb} a {operation.kind.value} of {{}} happened", operation.amount_minor),
                link="money",
            )
    for id, refund in payments.refunds.items():
        yield from _of_refund(payments, id, refund)
    for id, dispute in payments.disputes.items():
        if dispute.status is DisputeStatus.OPEN:
            yield Obligation(
                RuleName.DISPUTE_OPEN,
                id,
                dispute.since,
                "the customer disputes a payment",
                owner=Owner.SUPPORT,
                step=partial(
                    _with_money, f"Answer the dispute {id} over {{}}; refunds to it are blocked", dispute.amount_minor
                ),
                link="money",
            )
    for id, movement in payments.movements.items():
        did = "holds" if movement.kind is MovementKind.AUTHORIZATION else "moved"
        yield Obligation(
            RuleName.BOOKS_DIFFER,
            id,
            movement.mark.at,
            f"the provider {did} money that was not asked for: {movement.detail}",
            owner=Owner.SUPPORT,
            step=_say(f"See why the provider {did} money that was not asked for: {movement.detail}"),
            link="money",
        )
    for anomaly in payments.anomalies[-1:]:
        yield Obligation(
            RuleName.BOOKS_DIFFER,
            "books",
            anomaly.mark.at,
            f"the books differ: {anomaly.detail}",
            owner=Owner.SUPPORT,
            step=_say(f"Set the books right: {anomaly.detail}"),
            link="money",
        )
    if orders.standing not in OVER:
        yield from _of_tenders(payments, orders)
    for id, charge in payments.charges.items():
        yield from _of_charge(id, charge.return_id, charge.status, charge.since, charge.amount_minor, charge.code)


def _with_money(text: str, minor: int, words: Words) -> str:
    return text.format(words.money(minor))


def _of_charge(id: str, return_id: str, status: ChargeStatus, since: datetime, minor: int, code: str) -> Obligations:
    if status is ChargeStatus.FAILED:
        text = f"Have {{}} for exchange {id} charged again, or settle it otherwise: {plain(code)}"
        yield Obligation(
            RuleName.CHARGE_FAILED,
            id,
            since,
            "a difference of an exchange could not be charged",
            owner=Owner.SUPPORT,
            step=partial(_with_money, text, minor),
            link=f"return-{return_id}",
        )
    elif status is ChargeStatus.REQUESTED:
        yield Obligation(
            RuleName.OPERATION_UNANSWERED,
            id,
            since,
            "a difference of an exchange is not charged yet",
            owner=Owner.PROVIDER,
            step=partial(_with_money, f"Charge {{}} for exchange {id}", minor),
            link=f"return-{return_id}",
        )


_STUCK: Final = frozenset(
    {RefundStatus.ATTENTION, RefundStatus.FAILED, RefundStatus.PARTIALLY_SUCCEEDED, RefundStatus.REVERSED}
)


def _of_refund(payments: Payments, id: str, refund: Refund) -> Obligations:
    if not refund.is_open:
        return
    of = partial(Obligation, item=id, link=f"refund-{id}")
    since = refund.since or refund.requested_at
    is_stuck = refund.status in _STUCK
    minor = refund.outstanding_minor if is_stuck and refund.outstanding_minor else refund.amount_minor
    text = f"Find a way for {{}} of refund {id}" if is_stuck else f"Pay out refund {id} of {{}}"
    pay = partial(_with_money, text, minor)
    owner = Owner.SUPPORT if is_stuck else Owner.PROVIDER
    for leg in refund.legs.values():
        operation = payments.operations.get(leg.operation_id or "")
        if leg.status is LegStatus.UNKNOWN and operation is not None:
            yield of(
                RuleName.REFUND_UNKNOWN,
                since=operation.since,
                why="nobody knows yet whether a refund was paid",
                owner=Owner.PROVIDER,
                step=partial(_with_money, "Learn whether a refund of {} happened", leg.amount_minor),
            )
    if refund.status is RefundStatus.PENDING_APPROVAL and since is not None:
        yield of(
            RuleName.POLICY_EXCEPTION,
            since=refund.requested_at or since,
            why=f"a refund needs an approver: {'; '.join(map(approval_reason, refund.reasons))}",
            owner=Owner.SUPPORT,
            step=partial(_with_money, f"Approve or reject refund {id} of {{}}", refund.amount_minor),
        )
    elif is_stuck and since is not None:
        yield of(RuleName.REFUND_STUCK, since=since, why="a refund cannot be paid out by itself", owner=owner, step=pay)
    if refund.promised_at is not None:
        why = f"a refund was promised for {day(refund.promised_at)}"
        yield of(RuleName.REFUND_LATE, since=refund.promised_at, why=why, owner=owner, step=pay)
    elif refund.status not in {RefundStatus.PENDING_APPROVAL, *_STUCK} and since is not None:
        yield of(
            RuleName.REFUND_WAITING, since=since, why="a refund is not on its way yet", owner=Owner.SYSTEM, step=pay
        )


_LAPSED: Final = frozenset({TenderStatus.AUTHORIZATION_EXPIRED, TenderStatus.DECLINED})


def _of_tenders(payments: Payments, orders: Orders) -> Obligations:
    """Money of an order under way that cannot be drawn as things are."""
    for id, code in payments.capture_failures.items():
        tender = payments.tenders.get(id, Tender())
        since = tender.failed_at or _earliest(payments) or (orders.placed.at if orders.placed else None)
        if since is not None:
            yield Obligation(
                RuleName.PAYMENT_FAILED,
                id,
                since,
                f"a capture failed: {plain(code)}",
                owner=Owner.SUPPORT,
                step=_say(f"Find another way to pay: a capture failed, {plain(code)}; the next shipments are held"),
                link="money",
            )
    if not _is_unfunded(payments, orders):
        return
    for id, tender in payments.tenders.items():
        # One that was never authorized has its order rejected; one that was is missed at the next hand-over.
        since = tender.since or tender.expires_at
        if tender.status in _LAPSED and tender.expires_at is not None and tender.exchange_id is None and since:
            why = f"declined, {plain(tender.code)}" if tender.status is TenderStatus.DECLINED else "expired"
            yield Obligation(
                RuleName.AUTHORIZATION_LAPSED,
                id,
                since,
                f"an authorization is {why} before all of the order was charged",
                owner=Owner.SUPPORT,
                step=_say(f"Find another way to pay: an authorization is {why}"),
                link="money",
            )


def _earliest(payments: Payments) -> datetime | None:
    return min((operation.since for operation in payments.operations.values()), default=None)


def _is_unfunded(payments: Payments, orders: Orders) -> bool:
    """Less is charged and held than the order is worth, as far as both are known."""
    if orders.placed is None or orders.remaining_minor is None:
        return True
    tenders = [tender for tender in payments.tenders.values() if tender.exchange_id is None]
    has = sum(tender.captured_minor + tender.open_minor for tender in tenders)
    return not orders.placed.terms and has < orders.remaining_minor


# Fulfillment.

MOVING: Final = (ShipmentStatus.SHIPPED, ShipmentStatus.IN_TRANSIT, ShipmentStatus.OUT_FOR_DELIVERY)


def of_fulfillment(states: States, policy: EscalationPolicy) -> Obligations:
    fulfillment = _known(states, "fulfillment", Fulfillment())
    limit = policy.rules[RuleName.BACKORDER_SLIPPED].limit
    for id, backorder in fulfillment.backorders.items():
        if backorder.is_open:
            yield from _of_backorder(id, backorder, limit)
    for id, shipment in fulfillment.shipments.items():
        yield from _of_shipment(states, id, shipment)
    for id, found in fulfillment.discrepancies.items():
        yield _contradiction(id, found.at, found.detail, found.about)


def _of_backorder(id: str, backorder: Backorder, limit: int) -> Obligations:
    of = partial(Obligation, item=id, link=f"backorder-{id}")

    def some(text: str) -> Callable[[Words], str]:
        return lambda words: text.format(words.some(backorder.remaining, backorder.line_id))

    slips = [s for s in backorder.slips if s.eta is None or s.previous is None or s.eta > s.previous]
    if len(slips) >= limit:
        yield of(
            RuleName.BACKORDER_SLIPPED,
            since=slips[limit - 1].at,
            why=f"a backorder slipped {plural(len(slips), 'time')}",
            owner=Owner.SUPPORT,
            step=some("Offer something else for {}: its date slipped again and again"),
        )
    if backorder.consent_due_at is not None and backorder.consent_asked_at is not None:
        yield of(
            RuleName.BACKORDER_UNCONSENTED,
            since=backorder.consent_asked_at,
            why="the customer has not answered about a later date",
            owner=Owner.CUSTOMER,
            step=some("Choose what to do about the later date of {}"),
        )
    if backorder.eta is not None:
        yield of(
            RuleName.BACKORDER_OVERDUE,
            since=backorder.eta,
            why=f"goods for a backorder were due {day(backorder.eta)} and are not there",
            owner=Owner.SUPPLIER,
            step=some("Receive {}"),
        )
    elif (since := backorder.since) is not None:
        yield of(
            RuleName.BACKORDER_DATELESS,
            since=since,
            why="a backorder has no date",
            owner=Owner.SUPPLIER,
            step=some("Name a date for {}"),
        )


def _of_shipment(states: States, id: str, shipment: Shipment) -> Obligations:
    of = partial(Obligation, item=id, link=f"shipment-{id}")
    since = shipment.since or shipment.moved_at or shipment.shipped_at or shipment.created_at
    if since is None:
        return

    def named(text: str) -> Callable[[Words], str]:
        return lambda words: text.format(words.shipment(id))

    moved_at, carrier = shipment.moved_at or shipment.shipped_at or since, shipment.carrier or "the carrier"
    match shipment.status:
        case ShipmentStatus.CREATED:
            yield of(
                RuleName.SHIPMENT_UNPACKED,
                since=since,
                why="a shipment is not packed",
                owner=Owner.WAREHOUSE,
                step=named("Pack {}" + (f" in {shipment.location}" if shipment.location else "")),
            )
        case ShipmentStatus.PACKED:
            yield of(
                RuleName.SHIPMENT_UNCOLLECTED,
                since=since,
                why="a packed shipment is not handed over",
                owner=Owner.WAREHOUSE,
                step=named("Hand {} over to the carrier"),
            )
        case ShipmentStatus.HELD:
            yield of(
                RuleName.SHIPMENT_HELD,
                since=since,
                why="a shipment is held",
                owner=Owner.SUPPORT,
                step=named(f"Release what holds {{}}: {Words.listed(map(plain, shipment.holds)) or 'a hold'}"),
            )
        case ShipmentStatus.SHIPPED | ShipmentStatus.IN_TRANSIT | ShipmentStatus.OUT_FOR_DELIVERY:
            verb = "Turn" if shipment.is_recalled else "Deliver"
            yield of(
                RuleName.SHIPMENT_SILENT,
                since=moved_at,
                why=f"nothing was heard of a shipment since {day(moved_at)}",
                owner=Owner.CARRIER,
                step=named(f"{verb} {{}}{' round' if shipment.is_recalled else ''} ({carrier})"),
            )
        case ShipmentStatus.EXCEPTION:
            trouble = shipment.trouble or "the carrier has a problem"
            yield of(
                RuleName.SHIPMENT_EXCEPTION,
                since=shipment.troubled_at or since,
                why=f"a shipment is stuck: {trouble}",
                owner=Owner.CARRIER,
                step=named(f"Clear what is in the way of {{}}: {trouble}"),
            )
        case ShipmentStatus.LOST if is_unsettled(states, shipment, Bucket.LOST):
            yield of(
                RuleName.SHIPMENT_LOST,
                since=since,
                why="a shipment is lost, and neither replaced nor refunded",
                owner=Owner.SUPPORT,
                step=named("Replace {}, or refund it: it is lost"),
            )
        case ShipmentStatus.RETURNING_TO_SENDER:
            yield of(
                RuleName.SHIPMENT_RETURNING,
                since=moved_at,
                why="a shipment is on its way back and has not arrived",
                owner=Owner.CARRIER,
                step=named(f"Bring {{}} back to the warehouse ({carrier})"),
            )
        case ShipmentStatus.RETURNED_TO_SENDER if is_unsettled(states, shipment, Bucket.RETURNED_TO_SENDER):
            yield of(
                RuleName.SHIPMENT_CAME_BACK,
                since=since,
                why="a shipment came back to its sender, and nobody has decided what becomes of it",
                owner=Owner.SUPPORT,
                step=named("Send {} again, or cancel it: it came back"),
            )
        case ShipmentStatus.CANCELLED if shipment.is_recalled:
            yield of(
                RuleName.SHIPMENT_RECALLED,
                since=since,
                why="a shipment left although it was cancelled, and is not back",
                owner=Owner.CARRIER,
                step=named(f"Bring {{}} back ({carrier}): it left although it was cancelled"),
            )
        case _:
            return


def is_unsettled(states: States, shipment: Shipment, bucket: Bucket) -> bool:
    """Units of it are lost, or came back to us, and no refund and no claim takes care of them: what is made good is first
    what is lost. Refunds and claims name lines and no parcel: where a line is lost in several, all of them wait until as
    many are made good as are lost."""
    units = _known(states, "fulfillment", Fulfillment()).units
    good: dict[str, int] = {}
    for refund in _known(states, "payments", Payments()).refunds.values():
        if _settles(refund):
            for line_id, quantity in refund.lines.items():
                good[line_id] = good.get(line_id, 0) + quantity
    claimed: dict[str, int] = {}
    for claim in _known(states, "returns", Returns()).claims.values():
        if _makes_good(claim):
            for line_id, quantity in claim.lines.items():
                claimed[line_id] = claimed.get(line_id, 0) + quantity
    status = ShipmentStatus.LOST if bucket is Bucket.LOST else ShipmentStatus.RETURNED_TO_SENDER
    for line_id in shipment.lines:
        if not shipment.astray(line_id, status):
            continue
        left = max(good.get(line_id, 0), claimed.get(line_id, 0))
        counted = units.get(line_id, {})
        if bucket is not Bucket.LOST:
            left = max(0, left - counted.get(Bucket.LOST, 0))
        if counted.get(bucket, 0) > left:
            return True
    return False


def _makes_good(claim: Claim) -> bool:
    """Its units never arrived, and are refunded or wait for a decision; those that are sent again are not lost any more.
    A claim of what is defective or another article is of units that another parcel brought."""
    return claim.reason == ReturnReason.NOT_RECEIVED and claim.outcome in ("", "refunded")


def _settles(refund: Refund) -> bool:
    return refund.kind is RefundKind.LOST and refund.status not in (RefundStatus.REJECTED, RefundStatus.CANCELLED)


# Returns.


_BEFORE_GOODS: Final = frozenset({ReturnStatus.APPROVED, ReturnStatus.IN_TRANSIT, ReturnStatus.PARTIALLY_RECEIVED})
_AT_REST: Final = frozenset({ReturnStatus.DECLINED, ReturnStatus.CLOSED, ReturnStatus.EXPIRED, ReturnStatus.CANCELLED})


def of_returns(states: States, _: EscalationPolicy) -> Obligations:
    returns = _known(states, "returns", Returns())
    for id, told in returns.returns.items():
        yield from _of_return(id, told)
    for id, claim in returns.claims.items():
        if not claim.outcome:
            yield Obligation(
                RuleName.DECISION_LATE if claim.decide_by else RuleName.CLAIM_OPEN,
                id,
                claim.decide_by or claim.since,
                "a claim is not decided",
                owner=Owner.SUPPORT,
                step=partial(_decide_claim, id, claim.lines),
                link=f"claim-{id}",
            )
    for id, recovery in returns.recoveries.items():
        if not recovery.how:
            asked = " and its charge has no answer yet" if recovery.is_charged else ""
            yield Obligation(
                RuleName.RECOVERY_LATE,
                id,
                recovery.due_at,
                "the customer holds what was not paid for, and it is not settled",
                owner=Owner.PROVIDER if recovery.is_charged else Owner(recovery.owner),
                step=partial(
                    _with_money,
                    f"Settle {{}} that the customer holds and did not pay for{asked}",
                    recovery.amount_minor,
                ),
                link=f"recovery-{id}",
            )
    for id, found in returns.discrepancies.items():
        about = f"return-{found.return_id}" if found.return_id in returns.returns else "order"
        yield _contradiction(id, found.at, found.detail, about)


def _decide_claim(id: str, lines: Mapping[str, int], words: Words) -> str:
    return f"Decide on claim {id}: {_contents(words, lines)}"


def _of_return(id: str, told: Return) -> Obligations:
    of = partial(Obligation, item=id, link=f"return-{id}")
    since = told.since or told.requested_at
    if since is None:
        return
    waiting = sum(told.received.values()) - sum(found.quantity for found in told.found if found.bucket is not None)
    waiting -= sum(told.sent_back.values())
    if told.status not in _AT_REST:
        held = sum(found.quantity for found in told.found if found.bucket is ReverseBucket.REJECTED_HELD)
        if held and told.inspected_at is not None:
            yield of(
                RuleName.RETURN_HELD,
                since=told.inspected_at,
                why=f"{plural(held, 'unit')} of a return {'are' if held > 1 else 'is'} held after the inspection",
                owner=Owner.SUPPORT,
                step=_say(f"Decide what becomes of {plural(held, 'unit')} of return {id} held after the inspection"),
            )
    if told.unexpected and (told.unexpected_at or told.received_at) is not None:
        what = Words.listed(f"{quantity} × {sku}" for sku, quantity in told.unexpected.items())
        yield of(
            RuleName.RETURN_UNEXPECTED,
            since=told.unexpected_at or told.received_at or since,
            why=f"a return parcel held what nobody announced: {what}",
            owner=Owner.SUPPORT,
            step=_say(f"Decide what becomes of what else was in the parcel of return {id}: {what}"),
        )
    if told.status in (ReturnStatus.REQUESTED, ReturnStatus.UNDER_REVIEW, ReturnStatus.REOPENED) and not (
        waiting and told.status is ReturnStatus.REOPENED
    ):
        is_system = told.status is ReturnStatus.REQUESTED
        yield of(
            RuleName.DECISION_LATE if told.decide_by and not is_system else RuleName.RETURN_UNDECIDED,
            since=told.decide_by or since,
            why="a return is not decided",
            owner=Owner.SYSTEM if is_system else Owner.SUPPORT,
            step=_say(f"Check the policy for return {id}" if is_system else f"Decide on return {id}"),
        )
    elif told.status in _BEFORE_GOODS or waiting > 0:
        yield from _of_goods(of, id, told, waiting, since)
    elif told.status in (ReturnStatus.RECEIVED, ReturnStatus.INSPECTING):
        yield of(
            RuleName.RETURN_UNSETTLED,
            since=told.inspected_at or since,
            why="a return was inspected and is not settled",
            owner=Owner.SYSTEM,
            step=_say(f"Settle return {id}: pay, exchange or send back what was found"),
        )
    elif told.status is ReturnStatus.RESOLVED:
        yield of(
            RuleName.RETURN_UNCLOSED,
            since=told.closes_at or told.resolved_at or since,
            why="a return is resolved and does not close",
            owner=Owner.SYSTEM,
            step=_say(f"Close return {id}, by itself"),
        )


def _of_goods(of: Callable[..., Obligation], id: str, told: Return, waiting: int, since: datetime) -> Obligations:
    """Goods that are to come, or came and are not inspected."""
    if waiting > 0:
        yield of(
            RuleName.RETURN_UNINSPECTED,
            since=told.received_at or since,
            why=f"{plural(waiting, 'unit')} came back and {'were' if waiting > 1 else 'was'} not inspected",
            owner=Owner.WAREHOUSE,
            step=_say(f"Inspect return {id}"),
        )
    if told.status is ReturnStatus.APPROVED and told.resolution is Resolution.KEEP_IT:
        yield of(
            RuleName.RETURN_UNSETTLED,
            since=told.approved_at or since,
            why="a return that the customer keeps is not settled",
            owner=Owner.SYSTEM,
            step=_say(f"Settle return {id}: the customer keeps the goods"),
        )
    elif told.status is ReturnStatus.APPROVED:
        until = f" (until {day(told.expires_at)})" if told.expires_at else ""
        yield of(
            RuleName.RETURN_SILENT,
            since=told.approved_at or since,
            why="a return was approved and no carrier has it yet",
            owner=Owner.CUSTOMER,
            step=_say(f"Send the parcel of return {id}{until}"),
        )
    elif told.status is ReturnStatus.IN_TRANSIT:
        yield of(
            RuleName.RETURN_LATE,
            since=told.sent_at or since,
            why="a return is on its way and does not arrive",
            owner=Owner.CARRIER,
            step=_say(f"Bring the parcel of return {id}"),
        )
    elif told.status is ReturnStatus.PARTIALLY_RECEIVED:
        yield of(
            RuleName.RETURN_LATE,
            since=told.received_at or since,
            why="a part of a return does not arrive",
            owner=Owner.CUSTOMER,
            step=_say(f"Send the rest of return {id}"),
        )


# Notifications.


def of_notifications(states: States, _: EscalationPolicy) -> Obligations:
    for id, told in _known(states, "notifications", Notifications()).notifications.items():
        of = partial(Obligation, item=id, link=f"message-{id}")
        title = told.title or (plain(told.kind) if told.kind else id)
        if told.contradicted_at is not None and not told.is_corrected:
            yield of(
                RuleName.MESSAGE_UNTRUE,
                since=told.contradicted_at,
                why=f"the customer was told what is not true any more: {told.title}",
                owner=Owner.SYSTEM,
                step=_say(f"Correct what the customer was told: {title}"),
            )
        if told.status in (NotificationStatus.FAILED, NotificationStatus.BOUNCED) and told.ended_at is not None:
            yield of(
                RuleName.MESSAGE_FAILED,
                since=told.ended_at,
                why=f"a message did not reach the customer: {title}",
                owner=Owner.SUPPORT,
                step=_say(f"Tell the customer by another way: {title} did not arrive"),
            )
        elif told.status is NotificationStatus.QUEUED and told.queued_at is not None:
            yield of(
                RuleName.MESSAGE_UNSENT,
                since=told.queued_at,
                why=f"a message to the customer is not sent: {title}",
                owner=Owner.SYSTEM,
                step=_say(f"Send the customer the message: {title}"),
            )


# Support's own.

_RUN_OUT: Final = {
    RuleName.FIRST_RESPONSE_LATE: ("a customer has had no answer yet", "Answer the customer on case {}"),
    RuleName.NEXT_RESPONSE_LATE: (
        "a customer wrote again and waits for an answer",
        "Answer the customer again on case {}",
    ),
    RuleName.RESOLUTION_LATE: ("a case takes longer than it should", "Resolve case {}"),
}


def of_case(id: str, case: Case | support.Case, spoken_at: datetime | None) -> Obligations:
    """`spoken_at`: when somebody last said something in it."""
    of = partial(Obligation, item=id, link=f"case-{id}", customer=case.customer)
    if case.status is CaseStatus.CLOSED:
        return
    if case.status is CaseStatus.RESOLVED:
        if case.closes_at is not None:
            yield of(
                RuleName.CASE_UNCLOSED,
                since=case.closes_at,
                why="a case is resolved and does not close",
                owner=Owner.SYSTEM,
                step=_say(f"Close case {id}, by itself, if nobody comes back to it"),
            )
        return
    running = running_out(case)
    for rule, due in running:
        why, text = _RUN_OUT[rule]
        yield of(rule, since=due, why=why, owner=Owner.SUPPORT, step=_say(text.format(id)))
    since = spoken_at or case.reopened_at or case.opened_at
    if (case.status is CaseStatus.WAITING_CUSTOMER or not running) and since is not None:
        yield of(
            RuleName.CASE_WAITING,
            since=since,
            why="a case waits for its customer for long",
            owner=Owner.CUSTOMER,
            step=_say(f"Answer what was asked on case {id}"),
        )


def of_support(states: States, policy: EscalationPolicy) -> Obligations:
    """Of support's own aggregate, which knows when each said what."""
    known: Support = states.get("support", Support())
    for id, case in known.cases.items():
        yield from of_case(id, case, last_word(known, id))
        if not case.is_live:
            continue
        of = partial(Obligation, item=id, link=f"case-{id}", customer=case.customer, owner=Owner.SUPPORT)
        reopened = policy.rules[RuleName.REOPENED]
        if case.reopened >= reopened.limit and case.reopened_at is not None:
            why = f"a case was reopened {plural(case.reopened, 'time')}"
            step = _say(f"Have somebody else look at case {id}: it was reopened {plural(case.reopened, 'time')}")
            yield of(RuleName.REOPENED, since=case.reopened_at, why=why, step=step)
        repeated = policy.rules[RuleName.CONTACT_REPEATED]
        said = sorted(c.at for c in known.contacts.values() if c.counts and c.customer == case.customer)
        recent = [at for at in said if said[-1] - at <= policy.contacts_within]
        if len(recent) >= repeated.limit:
            why = f"the customer has been in touch {plural(len(recent), 'time')} in {policy.contacts_within.days} days"
            step = _say(f"Call the customer of case {id}: they asked {plural(len(recent), 'time')}")
            yield of(RuleName.CONTACT_REPEATED, since=recent[repeated.limit - 1], why=why, step=step)


def of_stock(states: States, _: EscalationPolicy) -> Obligations:
    """Of a shelf, which is no order's."""
    return obligations_of(_known(states, STOCK, Shelf()))


OBLIGATIONS: Final[Mapping[str, Callable[[States, EscalationPolicy], Obligations]]] = {
    "orders": of_orders,
    "payments": of_payments,
    "fulfillment": of_fulfillment,
    "returns": of_returns,
    "notifications": of_notifications,
    "support": of_support,
    STOCK: of_stock,
}
"""By the service whose facts they are about. What support does itself is read from its own aggregate."""

SERVICE: Final[Mapping[RuleName, str]] = {
    **dict.fromkeys(
        (
            RuleName.CANCELLATION_PENDING,
            RuleName.HOLD_STANDING,
            RuleName.HOLD_OF_CUSTOMER,
            RuleName.ORDER_UNCONFIRMED,
            RuleName.ORDER_UNFINISHED,
            RuleName.ORDER_UNCLOSED,
        ),
        "orders",
    ),
    **dict.fromkeys(
        (
            RuleName.REFUND_UNKNOWN,
            RuleName.REFUND_LATE,
            RuleName.REFUND_WAITING,
            RuleName.REFUND_STUCK,
            RuleName.POLICY_EXCEPTION,
            RuleName.DISPUTE_OPEN,
            RuleName.BOOKS_DIFFER,
            RuleName.OPERATION_UNANSWERED,
            RuleName.PAYMENT_FAILED,
            RuleName.AUTHORIZATION_LAPSED,
            RuleName.CHARGE_FAILED,
        ),
        "payments",
    ),
    **dict.fromkeys(
        (
            RuleName.BACKORDER_SLIPPED,
            RuleName.BACKORDER_UNCONSENTED,
            RuleName.BACKORDER_OVERDUE,
            RuleName.BACKORDER_DATELESS,
            RuleName.SHIPMENT_UNPACKED,
            RuleName.SHIPMENT_UNCOLLECTED,
            RuleName.SHIPMENT_HELD,
            RuleName.SHIPMENT_EXCEPTION,
            RuleName.SHIPMENT_SILENT,
            RuleName.SHIPMENT_LOST,
            RuleName.SHIPMENT_RETURNING,
            RuleName.SHIPMENT_CAME_BACK,
            RuleName.SHIPMENT_RECALLED,
        ),
        "fulfillment",
    ),
    **dict.fromkeys(
        (
            RuleName.RETURN_UNDECIDED,
            RuleName.RETURN_UNINSPECTED,
            RuleName.RETURN_SILENT,
            RuleName.RETURN_LATE,
            RuleName.RETURN_HELD,
            RuleName.RETURN_UNEXPECTED,
            RuleName.RETURN_UNSETTLED,
            RuleName.RETURN_UNCLOSED,
            RuleName.CLAIM_OPEN,
            RuleName.DECISION_LATE,
            RuleName.RECOVERY_LATE,
        ),
        "returns",
    ),
    RuleName.CONTRADICTED_PLAN: "fulfillment",
    RuleName.SHELF_CONTRADICTED: STOCK,
    **dict.fromkeys((RuleName.MESSAGE_UNTRUE, RuleName.MESSAGE_FAILED, RuleName.MESSAGE_UNSENT), "notifications"),
    **dict.fromkeys(
        (
            RuleName.FIRST_RESPONSE_LATE,
            RuleName.NEXT_RESPONSE_LATE,
            RuleName.RESOLUTION_LATE,
            RuleName.CASE_WAITING,
            RuleName.CASE_UNCLOSED,
            RuleName.REOPENED,
            RuleName.CONTACT_REPEATED,
        ),
        "support",
    ),
}
"""Whose facts a rule is about, or those of the first of them."""


def rules_of(service: str) -> frozenset[RuleName]:
    return frozenset(rule for rule, of in SERVICE.items() if of == service)


def obligations(service: str, states: States, policy: EscalationPolicy) -> tuple[Obligation, ...]:
    return tuple(OBLIGATIONS[service](states, policy))


def due_times(service: str, states: States, policy: EscalationPolicy) -> dict[tuple[RuleName, str], datetime]:
    """When somebody must look, by rule and item; none for rules that are switched off."""
    found = ((one, due_at(one, policy)) for one in obligations(service, states, policy))
    return {(one.rule, one.item): due for one, due in found if due is not None}


def nobodys_tasks(states: States, policy: EscalationPolicy) -> Iterator[str]:
    """What is not at its end and has no next step (I15), in words: none."""
    owned = {(service, one.item) for service in OBLIGATIONS for one in obligations(service, states, policy)}
    for service, item, what in _unfinished(states):
        if (service, item) not in owned:
            yield f"{what} has no next step"


def _unfinished(states: States) -> Iterator[tuple[str, str, str]]:
    """By service and item, in words. Read from statuses alone, so that a status that no obligation knows is missed here."""
    orders, payments = _known(states, "orders", Orders()), _known(states, "payments", Payments())
    fulfillment, returns = _known(states, "fulfillment", Fulfillment()), _known(states, "returns", Returns())
    if orders.standing is not None and orders.standing not in OVER:
        things: dict[str, Any] = {"order": orders, **orders.holds, **orders.pending}
        yield from (("orders", name, f"the order, {orders.standing.value}: {name}") for name in things)
    for id, refund in payments.refunds.items():
        if refund.status not in (RefundStatus.SUCCEEDED, RefundStatus.REJECTED, RefundStatus.CANCELLED):
            yield "payments", id, f"refund {id}, {refund.status.value},"
    for id, dispute in payments.disputes.items():
        if dispute.status not in (DisputeStatus.WON, DisputeStatus.LOST):
            yield "payments", id, f"dispute {id}, {dispute.status.value},"
    for id, backorder in fulfillment.backorders.items():
        if backorder.is_open:
            yield "fulfillment", id, f"backorder {id}, {backorder.status.value},"
    for id, shipment in fulfillment.shipments.items():
        match shipment.status:
            case ShipmentStatus.DELIVERED:
                is_over = True
            case ShipmentStatus.CANCELLED:
                is_over = not shipment.is_recalled
            case ShipmentStatus.LOST:
                is_over = not is_unsettled(states, shipment, Bucket.LOST)
            case ShipmentStatus.RETURNED_TO_SENDER:
                is_over = not is_unsettled(states, shipment, Bucket.RETURNED_TO_SENDER)
            case _:
                is_over = False
        if not is_over:
            yield "fulfillment", id, f"shipment {id}, {shipment.status.value},"
    for id, told in returns.returns.items():
        if told.status not in _AT_REST:
            yield "returns", id, f"return {id}, {told.status.value},"
    for id, claim in returns.claims.items():
        if not claim.outcome:
            yield "returns", id, f"claim {id}"
    for id, recovery in returns.recoveries.items():
        if not recovery.how:
            yield "returns", id, f"recovery case {id}"
    for id, message in _known(states, "notifications", Notifications()).notifications.items():
        if message.status is NotificationStatus.QUEUED:
            yield "notifications", id, f"message {id}, queued,"
    known: Support = states.get("support", Support())
    for id, case in known.cases.items():
        if case.status is not CaseStatus.CLOSED:
            yield "support", id, f"case {id}, {case.status.value},"


READS: Final[Mapping[str, frozenset[str]]] = {
    "payments": frozenset({"orders"}),
    "fulfillment": frozenset({"payments", "returns"}),
}
"""By service: whose facts end its obligations too."""


def answers(service: str, state: Any) -> frozenset[tuple[str, Any]]:
    """What the facts of this service settle for others: for which, and what. Others are looked at where it changes."""
    found: set[tuple[str, Any]] = set()
    match service:
        case "orders":
            orders: Orders = state
            if orders.standing in OVER:
                found.add(("payments", "over"))
            if orders.placed is not None and orders.remaining_minor != orders.placed.total_minor:
                found.add(("payments", orders.remaining_minor))
        case "payments":
            payments: Payments = state
            found = {("fulfillment", id) for id, refund in payments.refunds.items() if _settles(refund)}
        case "returns":
            returns: Returns = state
            found = {("fulfillment", id) for id, claim in returns.claims.items() if _makes_good(claim)}
    return frozenset(found)
