"""What is to be authorized, captured and released: after each shipment the value handed over, and never a unit's more.

Captured in all = max(value handed over, prepaid). What is missing is drawn from the other tenders in their order; what
is no longer needed is released, as soon as nothing on its tender is in flight.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from payments.domain.charge import NO_TENDER, Charge, ChargeStatus, choose, is_tried
from payments.domain.operation import Operation
from payments.domain.state import Account, evolve
from payments.domain.tender import CAPTURABLE, PROMISED, Tender, TenderStatus
from shared.contracts.base import Fact, TenderKind
from shared.contracts.payments import (
    OperationKind,
    PaymentAuthorizationExpired,
    PaymentAuthorizationRequested,
    PaymentAuthorized,
    PaymentCaptured,
    PaymentCaptureRequested,
    PaymentChargeFailed,
    PaymentVoided,
    PaymentVoidRequested,
    StoreCreditSpent,
)


def authorizations(state: Account, at: datetime) -> list[Fact]:
    """Ask for every tender that nothing was asked for yet; what is ours is authorized at once."""
    facts: list[Fact] = []
    wanted = [t for t in state.order_tenders if t.status is TenderStatus.CREATED and t.amount_minor]
    for ahead, tender in enumerate(wanted):
        facts.append(_ask(state, tender, tender.amount_minor, at, ahead))
        if tender.is_own:
            facts.append(_own_authorization(state, tender, state.operation_id(ahead)))
    return facts


def prepaid_captures(state: Account, at: datetime) -> list[Fact]:
    """Gift cards and store credit, whole, as far as the order is worth it."""
    facts: list[Fact] = []
    rest = state.worth_minor - state.drawn_minor
    for tender in state.order_tenders:
        amount = min(_capturable(state, tender), rest) if tender.is_prepaid else 0
        if amount > 0:
            facts.append(_capture(state, tender, amount, None, at, len(facts)))
            rest -= amount
    return facts


def captures(state: Account, at: datetime, *, again: bool = False) -> list[Fact]:
    """What was handed over and is not captured. `again`: tenders that declined a capture are asked too, after the others."""
    missing = state.handed_over_minor - state.drawn_minor
    facts: list[Fact] = []
    requests = 0
    for tender in sorted(_in_drawing_order(state), key=lambda t: t.is_capture_refused):
        if missing <= 0:
            break
        if has_run_out(state, tender, at):
            # Whether or not its timer has fired: the provider would decline the capture.
            facts += expiry(state, tender, at, requests)
            requests += 1
            missing -= tender.amount_minor - tender.captured_minor
            continue
        if tender.status is TenderStatus.AUTHORIZATION_EXPIRED:
            facts.append(_ask(state, tender, _still_needed(state, tender), at, requests))
            requests += 1
        if tender.status in PROMISED:
            # It may be authorized yet, and is drawn on then: none of the tenders after it gives its part.
            missing -= tender.amount_minor - tender.captured_minor
            continue
        amount = min(_capturable(state, tender), missing)
        if amount <= 0 or (tender.is_capture_refused and not again):
            continue
        missing -= amount
        request = _capture(state, tender, amount, state.last_shipment, at, requests)
        requests += 1
        facts.append(request)
        if tender.is_own:
            after = _after(state, facts)
            facts.append(captured(after, after.operations[request.operation_id], request.operation_id))
    return facts


def releases(state: Account, at: datetime) -> list[Fact]:
    """Void what no longer can be needed. Nothing is released while a declined capture may still be drawn elsewhere."""
    rest = max(0, state.worth_minor - state.drawn_minor)
    if rest and any(t.is_capture_refused for t in state.order_tenders):
        return []
    facts: list[Fact] = []
    requests = 0
    for tender in _in_drawing_order(state):
        if tender.status in PROMISED:
            needed = min(rest, tender.amount_minor - tender.captured_minor)
        else:
            needed = min(rest, _capturable(state, tender))
        rest -= needed
        if needed or state.is_busy(tender.id):
            continue
        if tender.status is TenderStatus.AUTHORIZATION_EXPIRED:
            lapsed = sum(a.lapsed_minor for a in tender.authorizations)
            facts.append(
                PaymentAuthorizationExpired(
                    order_id=state.order_id, tender_id=tender.id, amount_minor=lapsed, final=True
                )
            )
        elif tender.status in CAPTURABLE and tender.open_minor and not tender.is_void_refused:
            facts += _void(state, tender, at, requests)
            requests += 1
    return facts


def charges(state: Account, at: datetime) -> list[Fact]:
    """What exchanges cost more: asked of a tender, captured as soon as it is authorized, released where it is not wanted."""
    facts: list[Fact] = []
    requests = 0
    for tender in state.tenders.values():
        if tender.exchange_id is None or tender.status is not TenderStatus.AUTHORIZED or state.is_busy(tender.id):
            continue
        is_wanted = state.charges[tender.exchange_id].status is ChargeStatus.REQUESTED
        if is_wanted and is_tried(tender):
            facts.append(_capture(state, tender, tender.open_minor, None, at, requests))
        elif tender.is_void_refused:
            continue
        else:
            facts += _void(state, tender, at, requests)
        requests += 1
    for charge in state.charges.values():
        tried = [t for t in state.tenders.values() if t.exchange_id == charge.exchange_id]
        if charge.status is not ChargeStatus.REQUESTED or any(is_tried(t) for t in tried):
            continue
        chosen = choose(list(state.tenders.values()), charge.exchange_id)
        if chosen.tender is None:
            facts.append(charge_failed(state, charge, NO_TENDER))
            continue
        facts.append(
            PaymentAuthorizationRequested(
                order_id=state.order_id,
                tender_id=f"{charge.exchange_id}-C{len(tried) + 1}",
                operation_id=state.operation_id(requests),
                amount_minor=charge.amount_minor,
                currency=state.currency,
                exchange_id=charge.exchange_id,
                tender_kind=chosen.tender.kind,
                attempt=1,
                requested_at=at,
                charged_tender_id=chosen.tender.id,
                reasons=chosen.reasons,
                excluded=chosen.excluded,
            )
        )
        requests += 1
    return facts


def charge_failed(state: Account, charge: Charge, code: str) -> PaymentChargeFailed:
    return PaymentChargeFailed(**charge_fields(state, charge), code=code)


def charge_fields(state: Account, charge: Charge) -> dict[str, Any]:
    return {
        "order_id": state.order_id,
        "exchange_id": charge.exchange_id,
        "return_id": charge.return_id,
        "amount_minor": charge.amount_minor,
        "currency": state.currency,
    }


def has_run_out(state: Account, tender: Tender, at: datetime) -> bool:
    """Nothing while an operation is in flight: its outcome will tell."""
    if tender.status not in CAPTURABLE or not tender.open_minor or state.is_busy(tender.id):
        return False
    expires_at = tender.current.expires_at
    return expires_at is not None and expires_at > tender.current.requested_at and expires_at <= at


def expiry(state: Account, tender: Tender, at: datetime, ahead: int = 0) -> list[Fact]:
    """An authorization has run out. It is asked for again, unless it had run out by the time it was asked for."""
    expired = PaymentAuthorizationExpired(
        order_id=state.order_id,
        tender_id=tender.id,
        amount_minor=tender.open_minor,
        final=False,
        exchange_id=tender.exchange_id,
    )
    needed = _still_needed(state, tender)
    if needed <= 0:
        return [expired.model_copy(update={"final": True})]
    lived = tender.current.expires_at is None or tender.current.expires_at > tender.current.requested_at
    if tender.attempts > 1 and not lived:
        return [expired]
    return [expired, _ask(state, tender, needed, at, ahead)]


def captured(state: Account, operation: Operation, reference: str) -> PaymentCaptured:
    """The fact of a capture that succeeded, with the sums after it."""
    tender = state.tenders[operation.tender_id]
    return PaymentCaptured(
        order_id=state.order_id,
        tender_id=tender.id,
        operation_id=operation.id,
        amount_minor=operation.amount_minor,
        currency=state.currency,
        shipment_id=operation.shipment_id,
        final=operation.final,
        exchange_id=tender.exchange_id,
        reference=reference,
        tender_captured_minor=tender.captured_minor + operation.amount_minor,
        order_captured_minor=state.captured_minor + operation.amount_minor,
    )


def spent(state: Account, fact: PaymentCaptured) -> list[Fact]:
    """A capture of store credit spends it."""
    if state.tenders[fact.tender_id].kind is not TenderKind.STORE_CREDIT:
        return []
    return [
        StoreCreditSpent(
            order_id=state.order_id,
            credit_id=f"{state.order_id}-{fact.tender_id}",
            customer_id=state.customer_id,
            amount_minor=fact.amount_minor,
            currency=fact.currency,
            tender_id=fact.tender_id,
        )
    ]


def _after(state: Account, facts: Sequence[Fact]) -> Account:
    for fact in facts:
        state = evolve(state, fact)
    return state


def _in_drawing_order(state: Account) -> list[Tender]:
    """Prepaid tenders before the others, each in the order of the order."""
    return sorted(state.order_tenders, key=lambda t: not t.is_prepaid)


def _capturable(state: Account, tender: Tender) -> int:
    """What can be asked of it now. While a void or a final capture is in flight there is nothing: they release the rest."""
    is_releasing = tender.status in CAPTURABLE and any(
        o.tender_id == tender.id and o.is_in_flight and (o.kind is OperationKind.VOID or o.final)
        for o in state.operations.values()
    )
    if tender.status not in CAPTURABLE or is_releasing:
        return 0
    return tender.open_minor - state.capturing_minor(tender.id)


def _still_needed(state: Account, tender: Tender) -> int:
    """Of a tender whose authorization has run out: what it has not given, as far as the order is worth it. A charge for an
    exchange is asked for anew instead."""
    if tender.exchange_id is not None:
        return 0
    rest = state.worth_minor - state.drawn_minor
    return min(tender.amount_minor - tender.captured_minor, rest)


def _ask(state: Account, tender: Tender, amount: int, at: datetime, ahead: int) -> PaymentAuthorizationRequested:
    return PaymentAuthorizationRequested(
        order_id=state.order_id,
        tender_id=tender.id,
        operation_id=state.operation_id(ahead),
        amount_minor=amount,
        currency=state.currency,
        tender_kind=tender.kind,
        attempt=tender.attempts + 1,
        requested_at=at,
    )


def _own_authorization(state: Account, tender: Tender, operation_id: str) -> PaymentAuthorized:
    return PaymentAuthorized(
        order_id=state.order_id,
        tender_id=tender.id,
        operation_id=operation_id,
        amount_minor=tender.amount_minor,
        currency=state.currency,
        tender_kind=tender.kind,
        reference=operation_id,
        expires_at=None,
    )


def _capture(
    state: Account, tender: Tender, amount: int, shipment_id: str | None, at: datetime, ahead: int
) -> PaymentCaptureRequested:
    """Final when nothing follows; never beside another operation, whose money it would release."""
    return PaymentCaptureRequested(
        order_id=state.order_id,
        tender_id=tender.id,
        operation_id=state.operation_id(ahead),
        amount_minor=amount,
        currency=state.currency,
        shipment_id=shipment_id,
        final=tender.exchange_id is not None or (state.is_all_settled and not state.is_busy(tender.id)),
        exchange_id=tender.exchange_id,
        requested_at=at,
    )


def _void(state: Account, tender: Tender, at: datetime, ahead: int) -> list[Fact]:
    request = PaymentVoidRequested(
        order_id=state.order_id,
        tender_id=tender.id,
        operation_id=state.operation_id(ahead),
        amount_minor=tender.open_minor,
        currency=state.currency,
        exchange_id=tender.exchange_id,
        requested_at=at,
    )
    if not tender.is_own:
        return [request]
    fields = request.model_dump(exclude={"requested_at"})
    return [request, PaymentVoided(**fields)]
