"""What a person who answers for an order needs to see of it: computed from its sections, decided by nobody here."""

from collections.abc import Iterator, Mapping
from datetime import date, datetime
from typing import Any

from pydantic import Field

from shared.contracts.base import Model
from support_view.domain.orders import Orders
from support_view.domain.orders import Status as OrderStatus
from support_view.domain.policies import EscalationPolicy
from support_view.domain.timeline import SERVICES, Words
from support_view.projection import Projection
from support_view.summary.causes import CauseState, causes
from support_view.summary.dependencies import Dependencies, dependencies
from support_view.summary.explanation import Explanation, explanations
from support_view.summary.goods import BackorderState, ShipmentState, backorders, shipments
from support_view.summary.messages import MessageState, told
from support_view.summary.money import RefundState, TenderState, Totals, refunds, tenders
from support_view.summary.money import totals as totals_of
from support_view.summary.quantities import LineQuantities, line_quantities
from support_view.summary.returns import ClaimState, RecoveryState, ReturnState, claims, recoveries, return_states
from support_view.summary.rollups import Rollups, roll_up
from support_view.summary.sections import Sections, side_by_side
from support_view.summary.steps import Step, next_steps


class Hole(Model):
    """Facts that must exist, since a later one was seen; what they said is missing from this page."""

    service: str
    first: int
    last: int
    text: str


class Freshness(Model):
    """As of when the story is told: the last fact, when it happened and when it was seen."""

    facts: int
    occurred_at: datetime
    seen_at: datetime
    services: dict[str, int] = Field(description="facts folded, by service")
    holes: tuple[Hole, ...]


class HoldState(Model):
    hold: str
    detail: str
    since: datetime
    actor: str


class CancellationState(Model):
    cancellation_id: str
    requested_at: datetime
    is_open: bool
    text: str


class OrderState(Model):
    status: OrderStatus | None
    text: str
    holds: tuple[HoldState, ...]
    cancellations: tuple[CancellationState, ...]


class Customer(Model):
    customer_id: str
    name: str
    email: str
    ship_to: tuple[str, ...]
    is_masked: bool = Field(default=False, description="e-mail and address are shown in part; ask for the contact")


class Summary(Model):
    """A pure function of the sections and the policy for escalations, `freshness` aside."""

    order_id: str
    placed_at: datetime | None
    promised_on: date | None
    currency: str | None
    customer: Customer | None
    order: OrderState
    rollups: Rollups
    lines: tuple[LineQuantities, ...]
    totals: Totals
    tenders: tuple[TenderState, ...]
    anomalies: tuple[str, ...]
    split_reasons: tuple[str, ...]
    shipments: tuple[ShipmentState, ...]
    backorders: tuple[BackorderState, ...]
    returns: tuple[ReturnState, ...]
    claims: tuple[ClaimState, ...]
    recoveries: tuple[RecoveryState, ...]
    return_policy: str
    refunds: tuple[RefundState, ...]
    told: tuple[MessageState, ...]
    next_steps: tuple[Step, ...]
    causes: tuple[CauseState, ...]
    explanations: tuple[Explanation, ...]
    dependencies: Dependencies


def holes(sections: Mapping[str, Projection[Any]]) -> Iterator[Hole]:
    """In words: `facts 6–7 of payments not seen yet`."""
    for service in SERVICES:
        if (section := sections.get(service)) is None:
            continue
        for first, last in section.missing():
            which = f"fact {first}" if first == last else f"facts {first}–{last}"
            yield Hole(service=service, first=first, last=last, text=f"{which} of {service} not seen yet")
        if section.is_stuck:
            text = f"fact {section.next} of {service} was seen but could not be read into this page"
            yield Hole(service=service, first=section.next, last=section.next, text=text)


def _order_words(orders: Orders, has_steps: bool) -> str:
    match orders.status:
        case None:
            return "not seen yet; other services already told of it"
        case OrderStatus.PLACED:
            return "waiting for the payment to be authorized"
        case OrderStatus.CONFIRMED:
            return "paid or promised; being fulfilled"
        case OrderStatus.CANCEL_PENDING:
            return "waiting for the warehouse to answer the cancellation"
        case OrderStatus.COMPLETED:
            return "every unit is delivered, settled or cancelled"
        case OrderStatus.CLOSED:
            return "closed; something has come up since" if has_steps else "nothing is open any more"
        case OrderStatus.REJECTED:
            return orders.rejection
        case OrderStatus.CANCELLED:
            return "nothing will be delivered"


def _cancellations(s: Sections) -> Iterator[CancellationState]:
    for id, cancellation in s.orders.cancellations.items():
        parts = [f"asked for {'the whole order' if cancellation.whole else s.contents(cancellation.asked)}"]
        if cancellation.cancelled:
            parts.append(f"cancelled {s.contents(cancellation.cancelled)}")
        if cancellation.refused:
            why = Words.listed(dict.fromkeys(cancellation.refusals))
            parts.append(f"refused {s.contents(cancellation.refused)} ({why})")
        yield CancellationState(
            cancellation_id=id, requested_at=cancellation.at, is_open=cancellation.is_open, text="; ".join(parts)
        )


def summarize(order_id: str, sections: Mapping[str, Projection[Any]], policy: EscalationPolicy) -> Summary:
    """The whole summary, as far as the sections go. `policy` says by when each next step is late."""
    s = side_by_side(sections)
    orders, placed = s.orders, s.orders.placed
    lines, totals, goods = tuple(line_quantities(s)), totals_of(s), tuple(shipments(s))
    steps = tuple(next_steps(s, policy))
    promised = [line.promised_on for line in placed.lines if line.promised_on] if placed else []
    return Summary(
        order_id=order_id,
        placed_at=placed.at if placed else None,
        promised_on=max(promised, default=None),
        currency=placed.currency if placed else None,
        customer=Customer(
            customer_id=placed.customer_id, name=placed.customer_name, email=placed.email, ship_to=placed.ship_to
        )
        if placed
        else None,
        order=OrderState(
            status=orders.status,
            text=_order_words(orders, bool(steps)),
            holds=tuple(
                HoldState(hold=name, detail=hold.detail, since=hold.since, actor=hold.actor)
                for name, hold in orders.holds.items()
            ),
            cancellations=tuple(_cancellations(s)),
        ),
        rollups=roll_up(s, lines, totals),
        lines=lines,
        totals=totals,
        tenders=tuple(tenders(s)),
        anomalies=tuple(anomaly.detail for anomaly in s.payments.anomalies),
        split_reasons=s.fulfillment.reasons,
        shipments=goods,
        backorders=tuple(backorders(s)),
        returns=tuple(return_states(s)),
        claims=tuple(claims(s)),
        recoveries=tuple(recoveries(s)),
        return_policy=s.returns.policy,
        refunds=tuple(refunds(s)),
        told=tuple(told(s)),
        next_steps=steps,
        causes=tuple(causes(s)),
        explanations=tuple(explanations(s, lines, totals, goods)),
        dependencies=dependencies(s, goods),
    )
