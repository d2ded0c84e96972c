"""The money, to the minor unit: by tender, in all, and every refund with its legs."""

from collections.abc import Iterator
from datetime import datetime

from pydantic import Field

from shared.contracts.base import Model, TenderKind
from shared.contracts.payments import OperationKind, RefundKind
from support_view.domain.orders import Status as OrderStatus
from support_view.domain.payments import (
    CHANNELS,
    DisputeStatus,
    Leg,
    LegStatus,
    Refund,
    RefundStatus,
    Tender,
    TenderStatus,
    approval_reason,
)
from support_view.domain.timeline import Words, day, plain
from support_view.summary.sections import Amount, Sections


class TenderState(Model):
    """Of the authorized: captured, voided, or still open. Of the captured: refunded, or pending to be."""

    tender_id: str
    kind: TenderKind | None
    status: TenderStatus
    text: str
    planned: Amount | None
    authorized: Amount
    captured: Amount
    voided: Amount
    refunded: Amount
    refund_pending: Amount
    in_flight: Amount = Field(description="asked of the provider, without a known outcome")
    dispute: DisputeStatus | None


class Totals(Model):
    ordered: Amount
    remaining: Amount = Field(description="value of the order without what was cancelled")
    authorized: Amount
    captured: Amount = Field(description="for the order itself")
    charged: Amount = Field(description="captured for exchanges, beside what the order is worth")
    voided: Amount
    refunded: Amount
    refund_pending: Amount
    store_credit: Amount


class LegState(Model):
    leg_id: str
    amount: Amount
    channel: str
    status: LegStatus
    reasons: tuple[str, ...]
    promised_at: datetime | None
    settled_at: datetime | None
    code: str


class RefundState(Model):
    refund_id: str
    kind: RefundKind | None
    status: RefundStatus
    text: str
    amount: Amount
    settled: Amount
    return_id: str | None
    requester: str
    approver: str | None
    policy: str
    reasons: tuple[str, ...]
    legs: tuple[LegState, ...]
    excluded: tuple[str, ...]
    trigger_at: datetime | None
    promised_at: datetime | None
    completed_at: datetime | None
    latency_seconds: float | None = Field(description="completed less trigger; None while it is open")
    is_open: bool


def _legs(s: Sections, tender_id: str) -> list[Leg]:
    return [leg for r in s.payments.refunds.values() for leg in r.legs.values() if leg.tender_id == tender_id]


def tenders(s: Sections) -> Iterator[TenderState]:
    planned = {tender.tender_id: tender for tender in s.orders.placed.tenders} if s.orders.placed else {}
    weights = (DisputeStatus.WON, DisputeStatus.LOST, DisputeStatus.OPEN)
    by_weight = sorted(s.payments.disputes.values(), key=lambda dispute: weights.index(dispute.status))
    disputes = {dispute.tender_id: dispute.status for dispute in by_weight}
    for id in [*planned, *(id for id in s.payments.tenders if id not in planned)]:
        tender, spec, legs = s.payments.tenders.get(id, Tender()), planned.get(id), _legs(s, id)
        in_flight = [
            operation
            for operation in s.payments.operations.values()
            if operation.tender_id == id and operation.kind != OperationKind.REFUND
        ]
        yield TenderState(
            tender_id=id,
            kind=tender.kind or (spec.kind if spec else None),
            status=tender.status,
            text="; ".join(filter(None, [_purpose(tender), _tender_words(tender, s.words)])),
            planned=s.amount(spec.amount_minor) if spec else None,
            authorized=s.amount(tender.authorized_minor),
            captured=s.amount(tender.captured_minor),
            voided=s.amount(tender.voided_minor),
            refunded=s.amount(
                sum(leg.amount_minor for leg in legs if leg.status == LegStatus.SUCCEEDED)
                + s.payments.refunded_unasked_minor(id)
            ),
            refund_pending=s.amount(sum(leg.amount_minor for leg in legs if leg.is_pending)),
            in_flight=s.amount(sum(o.amount_minor for o in in_flight if o.kind == OperationKind.CAPTURE)),
            dispute=disputes.get(id),
        )


def totals(s: Sections) -> Totals:
    tenders = [tender for tender in s.payments.tenders.values() if tender.exchange_id is None]
    charged = sum(tender.captured_minor for tender in s.payments.tenders.values() if tender.exchange_id is not None)
    refunds = s.payments.refunds.values()
    ordered = s.orders.placed.total_minor if s.orders.placed else 0
    remaining = s.orders.remaining_minor
    ended = s.orders.standing in (OrderStatus.CANCELLED, OrderStatus.REJECTED)
    return Totals(
        ordered=s.amount(ordered),
        remaining=s.amount(0 if ended else ordered if remaining is None else remaining),
        authorized=s.amount(sum(tender.authorized_minor for tender in tenders)),
        captured=s.amount(sum(tender.captured_minor for tender in tenders)),
        charged=s.amount(charged),
        voided=s.amount(sum(tender.voided_minor for tender in tenders)),
        refunded=s.amount(sum(refund.settled_minor for refund in refunds) + s.payments.refunded_unasked_minor()),
        refund_pending=s.amount(sum(refund.pending_minor for refund in refunds)),
        store_credit=s.amount(s.payments.store_credit_minor),
    )


def refunds(s: Sections) -> Iterator[RefundState]:
    for id, refund in s.payments.refunds.items():
        done, trigger = refund.completed_at, refund.trigger_at
        yield RefundState(
            refund_id=id,
            kind=refund.kind,
            status=refund.status,
            text=refund_words(refund, s.words),
            amount=s.amount(refund.amount_minor),
            settled=s.amount(refund.settled_minor),
            return_id=refund.return_id,
            requester=refund.requester,
            approver=refund.approver,
            policy=refund.policy,
            reasons=tuple(plain(reason) for reason in refund.reasons),
            legs=tuple(_leg(s, leg_id, leg) for leg_id, leg in refund.legs.items()),
            excluded=refund.excluded,
            trigger_at=trigger,
            promised_at=refund.promised_at,
            completed_at=done,
            latency_seconds=(done - trigger).total_seconds() if done and trigger else None,
            is_open=refund.is_open,
        )


def _leg(s: Sections, id: str, leg: Leg) -> LegState:
    kind = leg.tender_kind or s.payments.tenders.get(leg.tender_id, Tender()).kind
    is_original = leg.channel.value == "original"
    return LegState(
        leg_id=id,
        amount=s.amount(leg.amount_minor),
        channel=plain(kind) if is_original and kind else CHANNELS[leg.channel],
        status=leg.status,
        reasons=tuple(plain(reason) for reason in leg.reasons),
        promised_at=leg.promised_at,
        settled_at=leg.settled_at,
        code=plain(leg.code),
    )


def _purpose(tender: Tender) -> str:
    return f"for exchange {tender.exchange_id}" if tender.exchange_id else ""


def _tender_words(tender: Tender, w: Words) -> str:
    match tender.status:
        case TenderStatus.AUTHORIZED | TenderStatus.PARTIALLY_CAPTURED if tender.code:
            return f"last capture failed: {plain(tender.code)}"
        case TenderStatus.AUTHORIZED | TenderStatus.PARTIALLY_CAPTURED:
            until = f" until {day(tender.expires_at)}" if tender.expires_at else ""
            return f"{w.money(tender.open_minor)} held{until}"
        case TenderStatus.DECLINED:
            return plain(tender.code)
        case _:
            return ""


def refund_words(refund: Refund, w: Words) -> str:
    match refund.status:
        case RefundStatus.PENDING_APPROVAL:
            return "waits for an approval: " + Words.listed(map(approval_reason, refund.reasons))
        case RefundStatus.ATTENTION | RefundStatus.FAILED | RefundStatus.PARTIALLY_SUCCEEDED:
            return f"{w.money(refund.outstanding_minor)} cannot be paid out by itself"
        case RefundStatus.REVERSED:
            return "a payout bounced; its balance is free again"
        case RefundStatus.SUCCEEDED:
            return f"paid out on {day(refund.completed_at)}"
        case RefundStatus.REJECTED | RefundStatus.CANCELLED:
            return Words.listed(refund.reasons)
        case _:
            return f"promised by {day(refund.promised_at)}" if refund.promised_at else "being routed"
