"""What there is to be concerned about, read from what each service told of an order. Pure: patience is policy's."""

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final

from shared.contracts.returns import Resolution
from support_view.domain.cases import Support, running_out
from support_view.domain.escalations import Concern, due_at
from support_view.domain.fulfillment import Fulfillment, ShipmentStatus
from support_view.domain.notifications import Notifications
from support_view.domain.orders import Orders, Status
from support_view.domain.payments import DisputeStatus, LegStatus, Payments, RefundStatus, approval_reason
from support_view.domain.policies import EscalationPolicy, RuleName
from support_view.domain.returns import Returns
from support_view.domain.returns import Status as ReturnStatus
from support_view.domain.timeline import day, plural

Concerns = Iterator[Concern]


def of_orders(orders: Orders, _: EscalationPolicy) -> Concerns:
    if orders.status is Status.CANCEL_PENDING:
        for id, asked in orders.pending.items():
            yield Concern(RuleName.CANCELLATION_PENDING, id, asked.at, "a cancellation is not answered yet")


def of_payments(payments: Payments, _: EscalationPolicy) -> Concerns:
    for id, refund in payments.refunds.items():
        for leg in refund.legs.values():
            operation = payments.operations.get(leg.operation_id or "")
            if leg.status is LegStatus.UNKNOWN and operation is not None:
                yield Concern(
                    RuleName.REFUND_UNKNOWN, id, operation.since, "nobody knows yet whether a refund was paid"
                )
        if refund.is_open and refund.promised_at is not None:
            why = f"a refund was promised for {day(refund.promised_at)}"
            yield Concern(RuleName.REFUND_LATE, id, refund.promised_at, why)
        if refund.status is RefundStatus.PENDING_APPROVAL and refund.requested_at is not None:
            why = f"a refund needs an approver: {'; '.join(map(approval_reason, refund.reasons))}"
            yield Concern(RuleName.POLICY_EXCEPTION, id, refund.requested_at, why)
    for id, dispute in payments.disputes.items():
        if dispute.status is DisputeStatus.OPEN:
            yield Concern(RuleName.DISPUTE_OPEN, id, dispute.since, "the customer disputes a payment")
    for anomaly in payments.anomalies[-1:]:
        yield Concern(RuleName.BOOKS_DIFFER, "books", anomaly.mark.at, f"the books differ: {anomaly.detail}")


MOVING: Final = (ShipmentStatus.SHIPPED, ShipmentStatus.IN_TRANSIT, ShipmentStatus.OUT_FOR_DELIVERY)


def of_fulfillment(fulfillment: Fulfillment, policy: EscalationPolicy) -> Concerns:
    limit = policy.rules[RuleName.BACKORDER_SLIPPED].limit
    for id, backorder in fulfillment.backorders.items():
        if not backorder.is_open:
            continue
        slips = [
            slip for slip in backorder.slips if slip.eta is None or slip.previous is None or slip.eta > slip.previous
        ]
        if len(slips) >= limit:
            why = f"a backorder slipped {plural(len(slips), 'time')}"
            yield Concern(RuleName.BACKORDER_SLIPPED, id, slips[limit - 1].at, why)
        if backorder.consent_due_at is not None and backorder.consent_asked_at is not None:
            why = "the customer has not answered about a later date"
            yield Concern(RuleName.BACKORDER_UNCONSENTED, id, backorder.consent_asked_at, why)
    for id, shipment in fulfillment.shipments.items():
        if shipment.status is ShipmentStatus.EXCEPTION and shipment.troubled_at is not None:
            why = f"a shipment is stuck: {shipment.trouble or 'the carrier has a problem'}"
            yield Concern(RuleName.SHIPMENT_EXCEPTION, id, shipment.troubled_at, why)
        moved_at = shipment.moved_at or shipment.shipped_at
        if shipment.status in MOVING and moved_at is not None:
            why = f"nothing was heard of a shipment since {day(moved_at)}"
            yield Concern(RuleName.SHIPMENT_SILENT, id, moved_at, why)


def of_returns(returns: Returns, _: EscalationPolicy) -> Concerns:
    for id, told in returns.returns.items():
        waiting = sum(told.received.values()) - sum(found.quantity for found in told.found if found.bucket is not None)
        if told.is_open and waiting > 0 and told.received_at is not None:
            why = f"{plural(waiting, 'unit')} came back and {'were' if waiting > 1 else 'was'} not inspected"
            yield Concern(RuleName.RETURN_UNINSPECTED, id, told.received_at, why)
        is_awaited = told.status is ReturnStatus.APPROVED and told.resolution is not Resolution.KEEP_IT
        if is_awaited and told.sent_at is None and told.approved_at is not None:
            why = "a return was approved and no carrier has it yet"
            yield Concern(RuleName.RETURN_SILENT, id, told.approved_at, why)


def of_notifications(notifications: Notifications, _: EscalationPolicy) -> Concerns:
    for id, told in notifications.notifications.items():
        if told.contradicted_at is not None and not told.is_corrected:
            why = f"the customer was told what is not true any more: {told.title}"
            yield Concern(RuleName.MESSAGE_UNTRUE, id, told.contradicted_at, why)


_RUN_OUT: Final = {
    RuleName.FIRST_RESPONSE_LATE: "a customer has had no answer yet",
    RuleName.NEXT_RESPONSE_LATE: "a customer wrote again and waits for an answer",
    RuleName.RESOLUTION_LATE: "a case takes longer than it should",
}


def of_support(support: Support, policy: EscalationPolicy) -> Concerns:
    for id, case in support.cases.items():
        if not case.is_live:
            continue
        who = case.customer
        for rule, due in running_out(case):
            yield Concern(rule, id, due, _RUN_OUT[rule], who)
        reopened = policy.rules[RuleName.REOPENED]
        if case.reopened >= reopened.limit and case.reopened_at is not None:
            why = f"a case was reopened {plural(case.reopened, 'time')}"
            yield Concern(RuleName.REOPENED, id, case.reopened_at, why, who)
        repeated = policy.rules[RuleName.CONTACT_REPEATED]
        said = sorted(c.at for c in support.contacts.values() if c.counts and c.customer == who)
        recent = [at for at in said if said[-1] - at <= policy.contacts_within]
        if len(recent) >= repeated.limit:
            why = f"the customer has been in touch {plural(len(recent), 'time')} in {policy.contacts_within.days} days"
            yield Concern(RuleName.CONTACT_REPEATED, id, recent[repeated.limit - 1], why, who)


CONCERNS: Final[Mapping[str, Callable[[Any, EscalationPolicy], Concerns]]] = {
    "orders": of_orders,
    "payments": of_payments,
    "fulfillment": of_fulfillment,
    "returns": of_returns,
    "notifications": of_notifications,
    "support": of_support,
}
"""By service, read from its section. What support does itself is read from its own aggregate."""

SERVICE: Final[Mapping[RuleName, str]] = {
    RuleName.CANCELLATION_PENDING: "orders",
    RuleName.REFUND_UNKNOWN: "payments",
    RuleName.REFUND_LATE: "payments",
    RuleName.POLICY_EXCEPTION: "payments",
    RuleName.DISPUTE_OPEN: "payments",
    RuleName.BOOKS_DIFFER: "payments",
    RuleName.BACKORDER_SLIPPED: "fulfillment",
    RuleName.BACKORDER_UNCONSENTED: "fulfillment",
    RuleName.SHIPMENT_EXCEPTION: "fulfillment",
    RuleName.SHIPMENT_SILENT: "fulfillment",
    RuleName.RETURN_UNINSPECTED: "returns",
    RuleName.RETURN_SILENT: "returns",
    RuleName.MESSAGE_UNTRUE: "notifications",
    RuleName.FIRST_RESPONSE_LATE: "support",
    RuleName.NEXT_RESPONSE_LATE: "support",
    RuleName.RESOLUTION_LATE: "support",
    RuleName.REOPENED: "support",
    RuleName.CONTACT_REPEATED: "support",
}
"""Whose facts a rule is about."""


def rules_of(service: str) -> frozenset[RuleName]:
    return frozenset(rule for rule, of in SERVICE.items() if of == service)


def dues(service: str, state: Any, policy: EscalationPolicy) -> dict[tuple[RuleName, str], datetime]:
    """When somebody must look, by rule and item; none for rules that are switched off."""
    found = ((concern, due_at(concern, policy)) for concern in CONCERNS[service](state, policy))
    return {(concern.rule, concern.item): due for concern, due in found if due is not None}
