"""What a person who answers for an order needs to see of it: computed from its sections, decided by nobody here."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime
from typing import Any, Final, Literal, cast

from pydantic import Field

from shared.contracts.base import Bucket, Model, TenderKind
from shared.contracts.payments import OperationKind, RefundKind
from support_view.domain.fulfillment import Backorder, Fulfillment, Shipment, ShipmentStatus
from support_view.domain.notifications import Notifications, statement
from support_view.domain.notifications import Status as NotificationStatus
from support_view.domain.orders import Orders
from support_view.domain.orders import Status as OrderStatus
from support_view.domain.payments import (
    CHANNELS,
    DisputeStatus,
    Leg,
    LegStatus,
    OperationStatus,
    Payments,
    Refund,
    RefundStatus,
    Tender,
    TenderStatus,
)
from support_view.domain.returns import Return, Returns, ReverseBucket
from support_view.domain.returns import Status as ReturnStatus
from support_view.domain.timeline import SERVICES, Words, day, plain, plural
from support_view.projection import DOMAINS, Section


class Amount(Model):
    minor: int = Field(description="in minor units of the order's currency")
    text: str


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
    captured: Amount
    voided: Amount
    refunded: Amount
    refund_pending: Amount
    store_credit: Amount


class ParcelState(Model):
    parcel_id: str
    carrier: str | None
    tracking: str | None
    contents: str


class ShipmentState(Model):
    shipment_id: str
    title: str = Field(description="n of m")
    status: ShipmentStatus
    location: str
    contents: str
    waits_for: str
    holds: tuple[str, ...]
    parcels: tuple[ParcelState, ...]
    captured: Amount | None = Field(description="money taken for it")
    replaces_shipment_id: str | None
    created_at: datetime | None
    shipped_at: datetime | None
    delivered_at: datetime | None


class EtaRevision(Model):
    revised_at: datetime
    previous: datetime | None
    eta: datetime | None


class BackorderState(Model):
    backorder_id: str
    status: str
    contents: str
    remaining: int
    eta: datetime | None
    revisions: tuple[EtaRevision, ...]
    consent_due_at: datetime | None
    choice: str | None
    waits_for: str


class ReturnState(Model):
    return_id: str
    status: ReturnStatus
    text: str
    contents: str
    resolution: str
    policy: str
    decision: str
    reasons: tuple[str, ...]
    inputs_hash: str
    exception: str
    approver: str | None
    expires_at: datetime | None
    tracking: tuple[str, ...]
    received: str
    inspection: tuple[str, ...]
    due: Amount | None
    fees: Amount | None
    refunded: Amount | None
    requested_at: datetime | None
    resolved_at: datetime | None
    cycle_seconds: float | None = Field(description="resolved less requested; None while it is open")
    is_open: bool


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


class LineQuantities(Model):
    """Forward buckets sum to `owed`, reverse buckets to the delivered units."""

    line_id: str
    sku: str
    title: str
    price: Amount
    ordered: int
    owed: int = Field(description="ordered, and owed again as replacements")
    promised_on: date | None
    forward: dict[Bucket, int]
    reverse: dict[ReverseBucket, int]


class MessageState(Model):
    notification_id: str
    status: NotificationStatus
    title: str
    statements: tuple[str, ...]
    sent_at: datetime | None
    warning: str


class Step(Model):
    """What has to happen next, by whom, and by when if that is known."""

    text: str
    owner: str
    due_at: datetime | None = None
    link: str | None = Field(default=None, description="anchor of what it is about")
    urgent: bool = False


class Rollups(Model):
    """Side by side: none masks another."""

    payment_status: Literal[
        "not_required",
        "pending",
        "declined",
        "partly_authorized",
        "authorized",
        "partly_captured",
        "captured",
        "voided",
    ]
    refund_status: Literal["none", "pending", "partly_refunded", "refunded"]
    fulfillment_status: Literal[
        "unfulfilled", "partly_shipped", "shipped", "partly_delivered", "delivered", "cancelled"
    ]
    return_status: Literal["none", "requested", "approved", "partly_returned", "returned", "declined"]
    dispute_status: Literal["none", "open", "won", "lost"]
    has_backorder: bool
    has_lost: bool
    has_exception: bool
    has_unknown: bool


class Customer(Model):
    customer_id: str
    name: str
    email: str
    ship_to: tuple[str, ...]


class Summary(Model):
    """A pure function of the sections, `freshness` aside."""

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
    claims: tuple[str, ...]
    return_policy: str
    refunds: tuple[RefundState, ...]
    told: tuple[MessageState, ...]
    next_steps: tuple[Step, ...]


def holes(sections: Mapping[str, Section[Any]]) -> Iterator[Hole]:
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


class _Reader:
    """The sections of one order, side by side, and what takes more than one of them to say."""

    def __init__(self, sections: Mapping[str, Section[Any]]) -> None:
        def state(service: str) -> Any:
            return sections[service].state if service in sections else DOMAINS[service].initial

        self.orders = cast(Orders, state("orders"))
        self.payments = cast(Payments, state("payments"))
        self.fulfillment = cast(Fulfillment, state("fulfillment"))
        self.returns = cast(Returns, state("returns"))
        self.notifications = cast(Notifications, state("notifications"))
        self.w: Words = self.orders.words

    def amount(self, minor: int) -> Amount:
        return Amount(minor=minor, text=self.w.money(minor))

    def contents(self, units: Mapping[str, int]) -> str:
        return self.w.listed(self.w.some(quantity, line_id) for line_id, quantity in units.items()) or "nothing"

    # -- quantities

    def line_ids(self) -> list[str]:
        """As ordered; before the order was seen, as shipments, backorders and returns name them."""
        ids = [line.line_id for line in self.orders.placed.lines] if self.orders.placed else []
        for units in [
            *(shipment.lines for shipment in self.fulfillment.shipments.values()),
            *({backorder.line_id: 1} for backorder in self.fulfillment.backorders.values()),
            self.fulfillment.cancelled,
        ]:
            ids += [line_id for line_id in units if line_id not in ids]
        return ids

    def forward(self, line_id: str, owed: int | None) -> dict[Bucket, int]:
        """Where the units are; those that nobody has said anything of are unallocated."""
        units = dict.fromkeys(Bucket, 0)
        for shipment in self.fulfillment.shipments.values():
            if shipment.is_live:
                units[_bucket(shipment)] += shipment.lines.get(line_id, 0)
        for backorder in self.fulfillment.backorders.values():
            if backorder.line_id == line_id and backorder.is_open:
                units[Bucket.BACKORDERED] += backorder.remaining
        units[Bucket.CANCELLED] += self.fulfillment.cancelled.get(line_id, 0)
        if owed is not None:
            units[Bucket.UNALLOCATED] = max(0, owed - sum(units.values()))
        return units

    def reverse(self, line_id: str, delivered: int) -> dict[ReverseBucket, int]:
        units = dict.fromkeys(ReverseBucket, 0)
        for told in self.returns.returns.values():
            for bucket, quantity in told.units(line_id).items():
                if bucket != ReverseBucket.WITH_CUSTOMER:
                    units[bucket] += quantity
        units[ReverseBucket.WITH_CUSTOMER] = max(0, delivered - sum(units.values()))
        return units

    def lines(self) -> Iterator[LineQuantities]:
        placed = {line.line_id: line for line in self.orders.placed.lines} if self.orders.placed else {}
        for line_id in self.line_ids():
            line = placed.get(line_id)
            ordered = line.quantity if line else 0
            owed = ordered + self.fulfillment.owed_again.get(line_id, 0)
            forward = self.forward(line_id, owed if line else None)
            yield LineQuantities(
                line_id=line_id,
                sku=line.sku if line else "",
                title=line.title if line else f"line {line_id}",
                price=self.amount(line.goods_minor if line else 0),
                ordered=ordered,
                owed=owed,
                promised_on=line.promised_on if line else None,
                forward=forward,
                reverse=self.reverse(line_id, forward[Bucket.DELIVERED]),
            )

    # -- money

    def legs(self, tender_id: str) -> list[Leg]:
        return [leg for r in self.payments.refunds.values() for leg in r.legs.values() if leg.tender_id == tender_id]

    def tenders(self) -> Iterator[TenderState]:
        planned = {tender.tender_id: tender for tender in self.orders.placed.tenders} if self.orders.placed else {}
        disputes = {dispute.tender_id: dispute.status for dispute in self.payments.disputes.values()}
        for id in [*planned, *(id for id in self.payments.tenders if id not in planned)]:
            tender, spec, legs = self.payments.tenders.get(id, Tender()), planned.get(id), self.legs(id)
            in_flight = [
                operation
                for operation in self.payments.operations.values()
                if operation.tender_id == id and operation.kind != OperationKind.REFUND
            ]
            yield TenderState(
                tender_id=id,
                kind=tender.kind or (spec.kind if spec else None),
                status=tender.status,
                text=_tender_words(tender, self.w),
                planned=self.amount(spec.amount_minor) if spec else None,
                authorized=self.amount(tender.authorized_minor),
                captured=self.amount(tender.captured_minor),
                voided=self.amount(tender.voided_minor),
                refunded=self.amount(sum(leg.amount_minor for leg in legs if leg.status == LegStatus.SUCCEEDED)),
                refund_pending=self.amount(sum(leg.amount_minor for leg in legs if leg.is_pending)),
                in_flight=self.amount(sum(o.amount_minor for o in in_flight if o.kind == OperationKind.CAPTURE)),
                dispute=disputes.get(id),
            )

    def totals(self) -> Totals:
        tenders = self.payments.tenders.values()
        refunds = self.payments.refunds.values()
        ordered = self.orders.placed.total_minor if self.orders.placed else 0
        remaining = self.orders.remaining_minor
        ended = self.orders.standing in (OrderStatus.CANCELLED, OrderStatus.REJECTED)
        return Totals(
            ordered=self.amount(ordered),
            remaining=self.amount(0 if ended else ordered if remaining is None else remaining),
            authorized=self.amount(sum(tender.authorized_minor for tender in tenders)),
            captured=self.amount(sum(tender.captured_minor for tender in tenders)),
            voided=self.amount(sum(tender.voided_minor for tender in tenders)),
            refunded=self.amount(sum(refund.settled_minor for refund in refunds)),
            refund_pending=self.amount(sum(refund.pending_minor for refund in refunds)),
            store_credit=self.amount(self.payments.store_credit_minor),
        )

    def refunds(self) -> Iterator[RefundState]:
        for id, refund in self.payments.refunds.items():
            done, trigger = refund.completed_at, refund.trigger_at
            yield RefundState(
                refund_id=id,
                kind=refund.kind,
                status=refund.status,
                text=_refund_words(refund, self.w),
                amount=self.amount(refund.amount_minor),
                settled=self.amount(refund.settled_minor),
                return_id=refund.return_id,
                approver=refund.approver,
                policy=refund.policy,
                reasons=tuple(plain(reason) for reason in refund.reasons),
                legs=tuple(self.leg(leg_id, leg) for leg_id, leg in refund.legs.items()),
                excluded=refund.excluded,
                trigger_at=trigger,
                promised_at=refund.promised_at,
                completed_at=done,
                latency_seconds=(done - trigger).total_seconds() if done and trigger else None,
                is_open=refund.is_open,
            )

    def leg(self, id: str, leg: Leg) -> LegState:
        kind = leg.tender_kind or self.payments.tenders.get(leg.tender_id, Tender()).kind
        is_original = leg.channel.value == "original"
        return LegState(
            leg_id=id,
            amount=self.amount(leg.amount_minor),
            channel=plain(kind) if is_original and kind else CHANNELS[leg.channel],
            status=leg.status,
            reasons=tuple(plain(reason) for reason in leg.reasons),
            promised_at=leg.promised_at,
            settled_at=leg.settled_at,
            code=plain(leg.code),
        )

    # -- goods

    def shipments(self) -> Iterator[ShipmentState]:
        """Live ones first, as they were planned; cancelled ones last."""
        found = self.fulfillment.shipments
        for id in sorted(found, key=lambda id: (not found[id].is_live, found[id].number, id)):
            shipment = found[id]
            captured = self.payments.captured_by_shipment.get(id)
            yield ShipmentState(
                shipment_id=id,
                title=f"Shipment {shipment.number} of {shipment.of}" if shipment.of else f"Shipment {id}",
                status=shipment.status,
                location=shipment.location,
                contents=self.contents(shipment.lines),
                waits_for=self.awaited(id, shipment),
                holds=shipment.holds,
                parcels=tuple(
                    ParcelState(
                        parcel_id=box.parcel_id,
                        carrier=box.carrier or shipment.carrier,
                        tracking=box.tracking,
                        contents=self.contents(box.lines),
                    )
                    for box in shipment.boxes
                ),
                captured=self.amount(captured) if captured is not None else None,
                replaces_shipment_id=shipment.replaces,
                created_at=shipment.created_at,
                shipped_at=shipment.shipped_at,
                delivered_at=shipment.delivered_at,
            )

    def awaited(self, id: str, shipment: Shipment) -> str:
        """What has to happen before this shipment moves on, in words; empty when nothing has."""
        match shipment.status:
            case ShipmentStatus.CREATED | ShipmentStatus.PACKED if self.orders.holds:
                return f"the order's hold to be released: {_held(self.orders)}"
            case ShipmentStatus.CREATED:
                return f"the warehouse in {shipment.location} to pack it"
            case ShipmentStatus.PACKED:
                return "the carrier to take it"
            case ShipmentStatus.HELD:
                holds = Words.listed(plain(hold) for hold in shipment.holds) or _held(self.orders)
                return f"its hold to be released: {holds}"
            case ShipmentStatus.SHIPPED if shipment.is_recalled:
                return f"{shipment.carrier or 'the carrier'} to turn it round"
            case ShipmentStatus.SHIPPED:
                return f"its first scan by {shipment.carrier or 'the carrier'}"
            case ShipmentStatus.IN_TRANSIT:
                return f"{shipment.carrier or 'the carrier'} to bring it to the customer's area"
            case ShipmentStatus.OUT_FOR_DELIVERY:
                return "its delivery today"
            case ShipmentStatus.EXCEPTION:
                return f"the carrier to clear what is in the way: {shipment.trouble or 'an exception'}"
            case ShipmentStatus.LOST if not self.is_made_good(id):
                return "a replacement or a refund"
            case ShipmentStatus.RETURNING_TO_SENDER:
                return "its arrival back at the warehouse"
            case _:
                return ""

    def is_made_good(self, shipment_id: str) -> bool:
        """A lost shipment was replaced, or a refund for lost goods was asked for."""
        is_replaced = any(shipment.replaces == shipment_id for shipment in self.fulfillment.shipments.values())
        return is_replaced or any(refund.kind == RefundKind.LOST for refund in self.payments.refunds.values())

    def backorders(self) -> Iterator[BackorderState]:
        for id, backorder in self.fulfillment.backorders.items():
            choice = self.orders.choices.get(id)
            yield BackorderState(
                backorder_id=id,
                status=backorder.status.value,
                contents=self.w.some(backorder.quantity, backorder.line_id),
                remaining=backorder.remaining,
                eta=backorder.eta,
                revisions=tuple(EtaRevision(revised_at=s.at, previous=s.previous, eta=s.eta) for s in backorder.slips),
                consent_due_at=backorder.consent_due_at,
                choice=plain(choice) if choice else None,
                waits_for=_goods_awaited(backorder) if backorder.is_open else "",
            )

    # -- returns and messages

    def returned(self) -> Iterator[ReturnState]:
        for id, told in self.returns.returns.items():
            since, until = told.requested_at, told.resolved_at
            yield ReturnState(
                return_id=id,
                status=told.status,
                text=_return_words(told),
                contents=self.contents({line_id: asked.quantity for line_id, asked in told.asked.items()}),
                resolution=plain(told.resolution) if told.resolution else "",
                policy=told.policy or self.returns.policy,
                decision=_decision(told),
                reasons=self.reasons(told),
                inputs_hash=told.inputs_hash,
                exception=told.exception,
                approver=told.approver,
                expires_at=told.expires_at,
                tracking=told.trackings,
                received=self.contents(told.received) if told.received else "",
                inspection=tuple(
                    f"{self.w.some(found.quantity, found.line_id)}: {plain(found.outcome)}, to {plain(found.disposition)}, "
                    f"{found.refund_percent}% refunded"
                    + (f" less {found.fee_percent}% fee" if found.fee_percent else "")
                    for found in told.found
                ),
                due=self.amount(told.due_minor) if told.due_minor else None,
                fees=self.amount(told.fees_minor) if told.fees_minor else None,
                refunded=self.amount(told.refunded_minor) if told.refunded_minor is not None else None,
                requested_at=since,
                resolved_at=until,
                cycle_seconds=(until - since).total_seconds() if until and since else None,
                is_open=told.is_open,
            )

    def reasons(self, told: Return) -> tuple[str, ...]:
        """All that the policy said, group by group; else what was said of the whole."""
        by_group = tuple(
            f"{self.w.some(judged.quantity, judged.line_id)}: {reason}"
            for judged in told.verdicts
            for reason in judged.reasons
        )
        return by_group or told.reasons

    def claims(self) -> Iterator[str]:
        for id, claim in self.returns.claims.items():
            yield f"Claim {id}: {self.contents(claim.lines)}, {plain(claim.reason)}; {claim.outcome or 'open'}"

    def told(self) -> Iterator[MessageState]:
        for id, message in self.notifications.notifications.items():
            warning = message.detail
            if message.contradictions:
                fixed = "and was corrected" if message.is_corrected else "and is not corrected yet"
                warning = f"{plural(message.contradictions, 'statement')} in it became untrue {fixed}"
            yield MessageState(
                notification_id=id,
                status=message.status,
                title=message.title or (plain(message.kind).capitalize() if message.kind else id),
                statements=tuple(statement(said, self.w) for said in message.said),
                sent_at=message.sent_at,
                warning=warning,
            )

    # -- roll-ups

    def rollups(self, lines: Sequence[LineQuantities], totals: Totals) -> Rollups:
        units = {bucket: sum(line.forward[bucket] for line in lines) for bucket in Bucket}
        disputes = {dispute.status for dispute in self.payments.disputes.values()}
        shipments = [shipment.status for shipment in self.fulfillment.shipments.values()]
        return Rollups(
            payment_status=self.payment_status(totals),
            refund_status=_refund_status(self.payments, totals),
            fulfillment_status=_fulfillment_status(units),
            return_status=self.return_status(lines, units[Bucket.DELIVERED]),
            dispute_status=next((status.value for status in _BY_WEIGHT if status in disputes), "none"),
            has_backorder=units[Bucket.BACKORDERED] > 0,
            has_lost=units[Bucket.LOST] > 0,
            has_exception=units[Bucket.RETURNED_TO_SENDER] > 0 or not _IN_TROUBLE.isdisjoint(shipments),
            has_unknown=any(o.status == OperationStatus.UNKNOWN for o in self.payments.operations.values()),
        )

    def payment_status(self, totals: Totals) -> Any:
        tenders = self.payments.tenders.values()
        due = totals.remaining.minor
        if totals.captured.minor:
            return "captured" if totals.captured.minor >= due else "partly_captured"
        if self.orders.placed and totals.ordered.minor == 0:
            return "not_required"
        if any(tender.status == TenderStatus.DECLINED for tender in tenders):
            return "declined"
        if open_minor := sum(tender.open_minor for tender in tenders):
            return "authorized" if open_minor >= due else "partly_authorized"
        return "voided" if self.orders.standing == OrderStatus.CANCELLED else "pending"

    def return_status(self, lines: Sequence[LineQuantities], delivered: int) -> Any:
        if returned := sum(line.reverse[ReverseBucket.ACCEPTED] for line in lines):
            return "returned" if returned >= delivered else "partly_returned"
        statuses = {told.status for told in self.returns.returns.values()}
        if not statuses.isdisjoint(_UNDER_WAY):
            return "approved"
        if not statuses.isdisjoint({ReturnStatus.REQUESTED, ReturnStatus.UNDER_REVIEW}):
            return "requested"
        return "declined" if ReturnStatus.DECLINED in statuses else "none"

    # -- what comes next

    def next_steps(self) -> Iterator[Step]:
        """What is open, from what a person must do to what happens by itself."""
        yield from self.steps_of_people()
        yield from self.steps_of_money()
        yield from self.steps_of_goods()
        yield from self.steps_of_returns()

    def steps_of_people(self) -> Iterator[Step]:
        for id, dispute in self.payments.disputes.items():
            if dispute.status == DisputeStatus.OPEN:
                text = f"Answer the dispute {id} over {self.w.money(dispute.amount_minor)}; refunds to it are blocked"
                yield Step(text=text, owner="payments desk", link="money", urgent=True)
        for id, refund in self.payments.refunds.items():
            link = f"refund-{id}"
            if refund.status in (RefundStatus.ATTENTION, RefundStatus.FAILED, RefundStatus.PARTIALLY_SUCCEEDED):
                text = f"Find a way for {self.w.money(refund.outstanding_minor)} of refund {id}"
                yield Step(text=text, owner="payments desk", link=link, urgent=True)
            if refund.status == RefundStatus.PENDING_APPROVAL:
                text = f"Approve or reject refund {id} of {self.w.money(refund.amount_minor)}"
                yield Step(text=text, owner="supervisor", link=link, urgent=True)
        for id, told in self.returns.returns.items():
            if told.status == ReturnStatus.UNDER_REVIEW:
                yield Step(text=f"Decide on return {id}", owner="supervisor", link=f"return-{id}", urgent=True)
        for code in self.payments.capture_failures.values():
            text = f"Find another way to pay: a capture failed, {plain(code)}; the next shipments are held"
            yield Step(text=text, owner="agent", link="money", urgent=True)
        for name, hold in self.orders.holds.items():
            text = f"Release the hold “{plain(name)}”" + (f": {hold.detail}" if hold.detail else "")
            yield Step(text=text, owner="agent", link="order", urgent=True)

    def steps_of_money(self) -> Iterator[Step]:
        for operation in self.payments.operations.values():
            if operation.status == OperationStatus.UNKNOWN:
                text = f"Learn whether a {operation.kind.value} of {self.w.money(operation.amount_minor)} happened"
                yield Step(text=text, owner="reconciler, by itself", link="money")
        if self.orders.standing == OrderStatus.PLACED and not self.orders.pending:
            yield Step(text="Authorize the payment", owner="payment provider", link="money")
        for id, cancellation in self.orders.pending.items():
            text = f"Answer cancellation {id}: {self.contents(cancellation.asked)}"
            yield Step(text=text, owner="warehouse", link="order")
        for id, refund in self.payments.refunds.items():
            if refund.status in (RefundStatus.REQUESTED, RefundStatus.APPROVED, RefundStatus.PROCESSING):
                text = f"Pay out refund {id} of {self.w.money(refund.amount_minor)}"
                due = refund.promised_at
                yield Step(text=text, owner="payment provider", due_at=due, link=f"refund-{id}")

    def steps_of_goods(self) -> Iterator[Step]:
        for id, backorder in self.fulfillment.backorders.items():
            what = self.w.some(backorder.remaining, backorder.line_id)
            link = f"backorder-{id}"
            if backorder.is_open and backorder.consent_due_at:
                text = f"Choose what to do about the later date of {what}"
                yield Step(text=text, owner="customer", due_at=backorder.consent_due_at, link=link)
            if backorder.is_open:
                yield Step(text=f"Receive {what}", owner="supplier", due_at=backorder.eta, link=link)
        for state in self.shipments():
            if state.waits_for:
                text = f"{state.title} waits for {state.waits_for}"
                yield Step(text=text, owner=_OWNERS.get(state.status, "carrier"), link=f"shipment-{state.shipment_id}")

    def steps_of_returns(self) -> Iterator[Step]:
        for id, told in self.returns.returns.items():
            if (step := _RETURN_STEPS.get(told.status)) is not None:
                text, owner = step
                due = told.expires_at if told.status == ReturnStatus.APPROVED else None
                yield Step(text=f"{text} {id}", owner=owner, due_at=due, link=f"return-{id}")


_IN_TROUBLE: Final = frozenset({ShipmentStatus.EXCEPTION, ShipmentStatus.RETURNING_TO_SENDER})
_BY_WEIGHT: Final = (DisputeStatus.OPEN, DisputeStatus.LOST, DisputeStatus.WON)
_UNDER_WAY: Final = frozenset(
    {
        ReturnStatus.APPROVED,
        ReturnStatus.IN_TRANSIT,
        ReturnStatus.PARTIALLY_RECEIVED,
        ReturnStatus.RECEIVED,
        ReturnStatus.INSPECTING,
        ReturnStatus.REOPENED,
    }
)
_OWNERS: Final = {
    ShipmentStatus.CREATED: "warehouse",
    ShipmentStatus.HELD: "agent",
    ShipmentStatus.LOST: "agent",
}
_RETURN_STEPS: Final = {
    ReturnStatus.REQUESTED: ("Check the policy for return", "returns desk"),
    ReturnStatus.APPROVED: ("Send the parcel of return", "customer"),
    ReturnStatus.IN_TRANSIT: ("Bring the parcel of return", "carrier"),
    ReturnStatus.PARTIALLY_RECEIVED: ("Receive the rest of return", "warehouse"),
    ReturnStatus.RECEIVED: ("Inspect return", "warehouse"),
    ReturnStatus.INSPECTING: ("Settle return", "warehouse and payments"),
    ReturnStatus.REOPENED: ("Look again at return", "returns desk"),
}
_BUCKETS: Final = {
    ShipmentStatus.DELIVERED: Bucket.DELIVERED,
    ShipmentStatus.LOST: Bucket.LOST,
    ShipmentStatus.RETURNED_TO_SENDER: Bucket.RETURNED_TO_SENDER,
}


def _bucket(shipment: Shipment) -> Bucket:
    if shipment.status in (ShipmentStatus.CREATED, ShipmentStatus.PACKED, ShipmentStatus.HELD):
        return Bucket.PACKED if shipment.is_packed else Bucket.ALLOCATED
    return _BUCKETS.get(shipment.status, Bucket.IN_TRANSIT)


def _held(orders: Orders) -> str:
    return Words.listed(plain(hold) for hold in orders.holds)


def _goods_awaited(backorder: Backorder) -> str:
    goods = f"{backorder.remaining} × {backorder.sku} to arrive"
    if backorder.eta is None:
        return f"{goods}; no date is known"
    moved = f", moved {plural(len(backorder.slips), 'time')}" if backorder.slips else ""
    return f"{goods}, expected {day(backorder.eta)}{moved}"


def _refund_status(payments: Payments, totals: Totals) -> Any:
    if totals.refunded.minor:
        return "refunded" if totals.refunded.minor >= totals.captured.minor else "partly_refunded"
    return "pending" if any(refund.is_open for refund in payments.refunds.values()) else "none"


def _fulfillment_status(units: Mapping[Bucket, int]) -> Any:
    """Of the units that were not cancelled: partly shipped until the last one has left."""
    live = sum(units.values()) - units[Bucket.CANCELLED]
    delivered = units[Bucket.DELIVERED]
    shipped = delivered + units[Bucket.IN_TRANSIT] + units[Bucket.LOST] + units[Bucket.RETURNED_TO_SENDER]
    if not live:
        return "cancelled" if units[Bucket.CANCELLED] else "unfulfilled"
    if not shipped:
        return "unfulfilled"
    if shipped < live:
        return "partly_shipped"
    if delivered == live:
        return "delivered"
    return "partly_delivered" if delivered else "shipped"


def _order_words(orders: Orders) -> str:
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
            return "nothing is open any more"
        case OrderStatus.REJECTED:
            return orders.rejection
        case OrderStatus.CANCELLED:
            return "nothing will be delivered"


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


def _refund_words(refund: Refund, w: Words) -> str:
    match refund.status:
        case RefundStatus.PENDING_APPROVAL:
            return "waits for an approval: " + Words.listed(plain(reason) for reason in refund.reasons)
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


def _return_words(told: Return) -> str:
    match told.status:
        case ReturnStatus.APPROVED:
            return f"to be sent by {day(told.expires_at)}"
        case ReturnStatus.UNDER_REVIEW:
            return "waits for a person to decide"
        case ReturnStatus.DECLINED:
            return "see the reasons"
        case ReturnStatus.RESOLVED | ReturnStatus.CLOSED:
            return f"resolved on {day(told.resolved_at)}" if told.resolved_at else ""
        case _:
            return ""


def _decision(told: Return) -> str:
    if told.exception:
        return f"exception granted by {told.approver}: {told.exception}"
    if told.approved_at:
        return f"approved by {told.approver}" if told.approver else "approved by policy"
    return "declined by policy" if told.status == ReturnStatus.DECLINED else ""


def _cancellations(reader: _Reader) -> Iterator[CancellationState]:
    for id, cancellation in reader.orders.cancellations.items():
        parts = [f"asked for {'the whole order' if cancellation.whole else reader.contents(cancellation.asked)}"]
        if cancellation.cancelled:
            parts.append(f"cancelled {reader.contents(cancellation.cancelled)}")
        if cancellation.refused:
            why = Words.listed(dict.fromkeys(cancellation.refusals))
            parts.append(f"refused {reader.contents(cancellation.refused)} ({why})")
        yield CancellationState(
            cancellation_id=id, requested_at=cancellation.at, is_open=cancellation.is_open, text="; ".join(parts)
        )


def summarize(order_id: str, sections: Mapping[str, Section[Any]]) -> Summary:
    """The whole summary, as far as the sections go."""
    reader = _Reader(sections)
    orders, placed = reader.orders, reader.orders.placed
    lines, totals = tuple(reader.lines()), reader.totals()
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
            text=_order_words(orders),
            holds=tuple(
                HoldState(hold=name, detail=hold.detail, since=hold.since, actor=hold.actor)
                for name, hold in orders.holds.items()
            ),
            cancellations=tuple(_cancellations(reader)),
        ),
        rollups=reader.rollups(lines, totals),
        lines=lines,
        totals=totals,
        tenders=tuple(reader.tenders()),
        anomalies=reader.payments.anomalies,
        split_reasons=reader.fulfillment.reasons,
        shipments=tuple(reader.shipments()),
        backorders=tuple(reader.backorders()),
        returns=tuple(reader.returned()),
        claims=tuple(reader.claims()),
        return_policy=reader.returns.policy,
        refunds=tuple(reader.refunds()),
        told=tuple(reader.told()),
        next_steps=tuple(reader.next_steps()),
    )
