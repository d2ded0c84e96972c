"""A return authorization has a header, which follows its lines, and the money that was stated for them."""

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

from returns.domain.units import EXPECTED, INSPECTED, OPEN, RETURN_LINE, Units, UnitStatus, move
from shared.contracts.returns import (
    DeclaredCondition,
    Disposition,
    DueLine,
    ExchangeCreated,
    ExchangeDifferenceDue,
    ExchangeDifferenceSettled,
    ExchangeReleased,
    InspectedLine,
    InspectionOutcome,
    Resolution,
    ReturnApproved,
    ReturnCancelled,
    ReturnClosed,
    ReturnDeclined,
    ReturnEligibilityEvaluated,
    ReturnExceptionGranted,
    ReturnExpired,
    ReturnFact,
    ReturnInspectionRevised,
    ReturnInTransit,
    ReturnItemsInspected,
    ReturnItemsReceived,
    ReturnLabelIssued,
    ReturnLine,
    ReturnReason,
    ReturnReceivedUnannounced,
    ReturnRefundDropped,
    ReturnRefundDue,
    ReturnRefundSettled,
    ReturnReopened,
    ReturnRequested,
    ReturnResolved,
    ReturnSentToReview,
    ReturnUnexpectedItemReceived,
    ReturnUnexpectedItemSettled,
    Verdict,
)
from shared.core.machine import Machine, replace
from shared.core.money import cumulative


class ReturnStatus(StrEnum):
    REQUESTED = "requested"
    UNDER_REVIEW = "under_review"
    APPROVED = "approved"
    DECLINED = "declined"
    IN_TRANSIT = "in_transit"
    PARTIALLY_RECEIVED = "partially_received"
    RECEIVED = "received"
    INSPECTING = "inspecting"
    RESOLVED = "resolved"
    CLOSED = "closed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    REOPENED = "reopened"


_ARRIVED: Final = frozenset({ReturnStatus.PARTIALLY_RECEIVED, ReturnStatus.RECEIVED})

RETURN: Final = Machine(
    "return",
    ReturnStatus.REQUESTED,
    {
        ReturnStatus.REQUESTED: {
            ReturnEligibilityEvaluated: ReturnStatus.REQUESTED,
            ReturnSentToReview: ReturnStatus.UNDER_REVIEW,
            ReturnReceivedUnannounced: ReturnStatus.UNDER_REVIEW,
            ReturnApproved: ReturnStatus.APPROVED,
            ReturnDeclined: ReturnStatus.DECLINED,
        },
        ReturnStatus.UNDER_REVIEW: {
            ReturnExceptionGranted: ReturnStatus.UNDER_REVIEW,
            ReturnReceivedUnannounced: ReturnStatus.UNDER_REVIEW,
            ReturnItemsReceived: ReturnStatus.UNDER_REVIEW,
            ReturnApproved: frozenset({ReturnStatus.APPROVED, *_ARRIVED}),
            ReturnDeclined: ReturnStatus.DECLINED,
            ReturnClosed: ReturnStatus.CLOSED,
            ReturnCancelled: ReturnStatus.CANCELLED,
        },
        ReturnStatus.DECLINED: {ReturnExceptionGranted: ReturnStatus.UNDER_REVIEW},
        ReturnStatus.APPROVED: {
            ReturnLabelIssued: ReturnStatus.APPROVED,
            ReturnInTransit: ReturnStatus.IN_TRANSIT,
            ReturnItemsReceived: _ARRIVED,
            ReturnResolved: ReturnStatus.RESOLVED,
            ReturnExpired: ReturnStatus.EXPIRED,
            ReturnClosed: ReturnStatus.CLOSED,
            ReturnCancelled: ReturnStatus.CANCELLED,
        },
        ReturnStatus.IN_TRANSIT: {
            ReturnLabelIssued: ReturnStatus.IN_TRANSIT,
            ReturnInTransit: ReturnStatus.IN_TRANSIT,
            ReturnItemsReceived: _ARRIVED,
            ReturnExpired: ReturnStatus.EXPIRED,
            ReturnClosed: ReturnStatus.CLOSED,
            ReturnCancelled: ReturnStatus.CANCELLED,
        },
        ReturnStatus.PARTIALLY_RECEIVED: {
            ReturnLabelIssued: ReturnStatus.PARTIALLY_RECEIVED,
            ReturnInTransit: ReturnStatus.PARTIALLY_RECEIVED,
            ReturnItemsReceived: _ARRIVED,
            ReturnItemsInspected: ReturnStatus.INSPECTING,
            ReturnExpired: ReturnStatus.RECEIVED,
            ReturnClosed: ReturnStatus.CLOSED,
        },
        ReturnStatus.RECEIVED: {
            ReturnItemsReceived: ReturnStatus.RECEIVED,
            ReturnItemsInspected: ReturnStatus.INSPECTING,
            ReturnClosed: ReturnStatus.CLOSED,
        },
        ReturnStatus.INSPECTING: {
            ReturnLabelIssued: ReturnStatus.INSPECTING,
            ReturnInTransit: ReturnStatus.INSPECTING,
            ReturnItemsReceived: ReturnStatus.INSPECTING,
            ReturnItemsInspected: ReturnStatus.INSPECTING,
            ReturnInspectionRevised: ReturnStatus.INSPECTING,
            ReturnExpired: ReturnStatus.INSPECTING,
            ReturnResolved: ReturnStatus.RESOLVED,
            ReturnClosed: ReturnStatus.CLOSED,
        },
        ReturnStatus.RESOLVED: {
            ReturnInspectionRevised: ReturnStatus.INSPECTING,
            ReturnClosed: ReturnStatus.CLOSED,
        },
        ReturnStatus.CLOSED: {ReturnReopened: ReturnStatus.REOPENED},
        ReturnStatus.EXPIRED: {ReturnReopened: ReturnStatus.REOPENED},
        ReturnStatus.CANCELLED: {},
        ReturnStatus.REOPENED: {
            ReturnItemsReceived: ReturnStatus.RECEIVED,
            ReturnItemsInspected: ReturnStatus.INSPECTING,
            ReturnInspectionRevised: ReturnStatus.INSPECTING,
            ReturnClosed: ReturnStatus.CLOSED,
        },
    },
)
"""Declined, closed and expired are left by what is listed here only. Money, exchanges and unexpected items stand beside
the status: they happen, and move nothing."""

MONEY: Final = frozenset({Resolution.REFUND, Resolution.STORE_CREDIT, Resolution.KEEP_IT})
REPLACEMENT: Final = frozenset({Resolution.EXCHANGE, Resolution.REPLACE_ON_RECEIPT, Resolution.REPLACE_IN_ADVANCE})


def status_of(line: InspectedLine) -> UnitStatus | None:
    """Return where an inspection puts these units; None for an item that is none of the return's."""
    if line.outcome is InspectionOutcome.EXTRA_ITEM:
        return None
    if line.outcome is InspectionOutcome.NOT_IN_BOX:
        return UnitStatus.NOT_IN_BOX
    if line.is_accepted:
        return UnitStatus.ACCEPTED
    is_sent_back = line.disposition is Disposition.SEND_BACK and not line.review
    return UnitStatus.REJECTED_SENT_BACK if is_sent_back else UnitStatus.REJECTED_HELD


def is_valued(line: InspectedLine) -> bool:
    """Say whether these units stay in our hands, and have a worth. What is sent back may be returned again, and has it then."""
    return status_of(line) not in (None, UnitStatus.NOT_IN_BOX, UnitStatus.REJECTED_SENT_BACK)


def is_refunded(line: InspectedLine) -> bool:
    return is_valued(line) and not line.review and line.refund_percent > 0


@dataclass(frozen=True, slots=True)
class Stated:
    """Sums over what was stated as due. They never shrink: what turns out too much is recovered, not unsaid."""

    units: int = 0
    gross_minor: int = 0
    fee_minor: int = 0
    shipping_minor: int = 0
    refund_minor: int = 0

    def plus(self, due: DueLine) -> "Stated":
        return Stated(
            self.units + due.quantity,
            self.gross_minor + due.gross_minor,
            self.fee_minor + due.fee_minor,
            self.shipping_minor + due.shipping_minor,
            self.refund_minor + due.refund_minor,
        )


@dataclass(frozen=True, slots=True)
class RmaLine:
    """`advanced`: units refunded before their inspection, or never to be inspected, and what they were worth.

    `ahead` are units that an inspection reported before their receipt did; `others` are uninspected units that are
    another article than the one ordered, by SKU.
    """

    asked: ReturnLine
    units: Units
    advanced_units: int = 0
    advanced_minor: int = 0
    stated: Stated = Stated()
    ahead: int = 0
    others: dict[str, int] = field(default_factory=dict)

    def count(self, *statuses: UnitStatus) -> int:
        return sum(self.units.get(status, 0) for status in statuses)

    @property
    def received(self) -> int:
        return self.count(UnitStatus.UNINSPECTED, *INSPECTED)

    @property
    def approved(self) -> int:
        return self.received + self.count(*EXPECTED, UnitStatus.NOT_ARRIVED, UnitStatus.KEPT)


@dataclass(frozen=True, slots=True)
class Inspection:
    location: str
    lines: tuple[InspectedLine, ...]
    revisions: int = 0


@dataclass(frozen=True, slots=True)
class Due:
    """`paid_minor`: what payments paid of it, where that is not the amount. What is dropped is settled too."""

    amount_minor: int
    is_settled: bool = False
    is_dropped: bool = False
    paid_minor: int | None = None

    @property
    def settled_minor(self) -> int:
        if not self.is_settled or self.is_dropped:
            return 0
        return self.amount_minor if self.paid_minor is None else self.paid_minor

    def after(self, fact: "ReturnRefundSettled | ReturnRefundDropped") -> "Due":
        if isinstance(fact, ReturnRefundDropped):
            return replace(self, is_settled=True, is_dropped=True)
        paid = None if fact.amount_minor == self.amount_minor else fact.amount_minor
        return replace(self, is_settled=True, is_dropped=False, paid_minor=paid)


@dataclass(frozen=True, slots=True)
class Exchange:
    """Units owed for returned ones. `difference_minor` is for all of `quantity`: positive, the customer owes it.

    `due_minor` is what was asked of the customer for `due_units`, `charged_minor` what payments took of it.
    """

    line_id: str
    sku: str
    quantity: int
    difference_minor: int
    due_minor: int = 0
    due_units: int = 0
    charged_minor: int = 0
    is_settled_by_hand: bool = False
    released: int = 0

    @property
    def is_settled(self) -> bool:
        return self.charged_minor > 0 or self.is_settled_by_hand

    def price_of(self, units: int) -> int:
        """Return what the customer owes for so many of them on top."""
        return cumulative(max(0, self.difference_minor), units, self.quantity)


@dataclass(frozen=True, slots=True)
class UnexpectedItem:
    """`settled`: of the quantity, those of which a person said where they went."""

    receipt_id: str
    sku: str
    quantity: int
    settled: int = 0


@dataclass(frozen=True, slots=True)
class Rma:
    return_id: str
    status: ReturnStatus
    requested_at: datetime
    resolution: Resolution
    lines: dict[str, RmaLine]
    note: str
    evidence: tuple[str, ...]
    verdicts: tuple[Verdict, ...] = ()
    approver: str | None = None
    expires_at: datetime | None = None
    closes_at: datetime | None = None
    tracking: tuple[str, ...] = ()
    receipts: tuple[str, ...] = ()
    unexpected: tuple[UnexpectedItem, ...] = ()
    inspections: dict[str, Inspection] = field(default_factory=dict)
    dues: dict[str, Due] = field(default_factory=dict)
    fee_charged_minor: int = 0
    exchanges: dict[str, Exchange] = field(default_factory=dict)
    announced_as: str | None = None
    """The return that the warehouse named when these goods came, which none expected."""
    decide_by: datetime | None = None

    @property
    def is_decided(self) -> bool:
        return self.status not in (ReturnStatus.REQUESTED, ReturnStatus.UNDER_REVIEW, ReturnStatus.DECLINED)

    def inspected(self, line_id: str) -> list[InspectedLine]:
        return [line for i in self.inspections.values() for line in i.lines if line.line_id == line_id]

    def count(self, *statuses: UnitStatus) -> int:
        return sum(line.count(*statuses) for line in self.lines.values())

    @property
    def received(self) -> int:
        return sum(line.received for line in self.lines.values())

    @property
    def is_expecting(self) -> bool:
        return self.count(*EXPECTED) > 0

    @property
    def has_open_units(self) -> bool:
        """Say whether units are undecided, on their way or uninspected; or an inspection that a person must look at, or that
        only holds them."""
        found = (line for i in self.inspections.values() for line in i.lines)
        return self.count(*OPEN) > 0 or any(line.review or line.disposition is Disposition.HOLD for line in found)

    @property
    def settled_minor(self) -> int:
        return sum(due.settled_minor for due in self.dues.values())


def owed_in_exchange(one: Rma, line: RmaLine) -> int:
    """Count how many units may be sent for this line's units as they stand; 0 while that is not known."""
    if one.resolution is Resolution.REPLACE_IN_ADVANCE:
        return line.approved
    if line.count(*EXPECTED):
        return 0
    if one.resolution is Resolution.REPLACE_ON_RECEIPT:
        return line.received - line.count(UnitStatus.NOT_IN_BOX)
    return 0 if is_undecided(one, line) else line.count(UnitStatus.ACCEPTED)


def is_undecided(one: Rma, line: RmaLine) -> bool:
    """Say whether units are still to come or to be looked at."""
    return line.count(*OPEN) > 0 or any(i.review for i in one.inspected(line.asked.line_id))


def still_owes(one: Rma, exchange: Exchange) -> int:
    """Return what the customer owes for the exchange on top of the order, as its units stand; minor units.

    Of an exchange, it is the price of what may be sent; of a replacement sent ahead, the worth of what did not come back.
    """
    line = one.lines[exchange.line_id]
    if one.resolution is not Resolution.REPLACE_IN_ADVANCE:
        return exchange.price_of(exchange.released or owed_in_exchange(one, line))
    withheld = line.count(*OPEN, UnitStatus.NOT_ARRIVED, UnitStatus.NOT_IN_BOX, UnitStatus.REJECTED_SENT_BACK)
    units = min(withheld, exchange.due_units)
    return cumulative(exchange.due_minor, units, exchange.due_units) if exchange.due_units else 0


def given_back(one: Rma, exchange: Exchange) -> int:
    """Return what is owed back to the customer of what was charged for it, as its units stand."""
    if exchange.is_settled_by_hand:
        return exchange.charged_minor
    if (
        one.resolution is Resolution.EXCHANGE
        and not exchange.released
        and is_undecided(one, one.lines[exchange.line_id])
    ):
        return 0
    return max(0, exchange.charged_minor - still_owes(one, exchange))


def refund_of(line: InspectedLine) -> tuple[int, int, int]:
    """Return (goods after the percentage withheld, restocking fee, shipping) in minor units; zeros while nothing is refunded."""
    if not is_refunded(line):
        return 0, 0, 0
    goods = cumulative(line.worth_minor, line.refund_percent, 100)
    return goods, cumulative(goods, line.fee_percent, 100), line.shipping_minor if line.refund_shipping else 0


def requested(fact: ReturnRequested) -> Rma:
    return Rma(
        return_id=fact.return_id,
        status=RETURN.initial,
        requested_at=fact.requested_at,
        resolution=fact.resolution,
        lines={line.line_id: RmaLine(line, {RETURN_LINE.initial: line.quantity}) for line in fact.lines},
        note=fact.note,
        evidence=fact.evidence,
    )


def unannounced(fact: ReturnReceivedUnannounced) -> Rma:
    """Make a blind return. Nobody gave a reason, so the goods count as unwanted until a person says otherwise."""
    return Rma(
        return_id=fact.return_id,
        status=RETURN.initial,
        requested_at=fact.received_at,
        resolution=Resolution.REFUND,
        lines={},
        note="",
        evidence=(),
        announced_as=fact.announced_as,
    )


def evolve(rma: Rma, fact: ReturnFact) -> Rma:
    """Fold one fact of this return in. Raises NotAllowed where the table does not list it."""
    match fact:
        case ReturnRefundDue() | ReturnRefundSettled() | ReturnRefundDropped():
            return _money(rma, fact)
        case ExchangeCreated() | ExchangeDifferenceDue() | ExchangeDifferenceSettled() | ExchangeReleased():
            return _exchange(rma, fact)
        case ReturnUnexpectedItemSettled():
            return replace(rma, unexpected=_settled_items(rma.unexpected, fact))
        case ReturnUnexpectedItemReceived(receipt_id=receipt_id, sku=sku, quantity=quantity):
            unexpected = (*rma.unexpected, UnexpectedItem(receipt_id, sku, quantity))
            return replace(rma, unexpected=unexpected, receipts=_with(rma.receipts, receipt_id))
        case ReturnItemsReceived():
            return _received(rma, fact)
        case ReturnApproved():
            return _approved(rma, fact)
    rma = replace(rma, status=RETURN.step(rma.status, fact))
    match fact:
        case ReturnEligibilityEvaluated(verdicts=verdicts):
            lines = dict(rma.lines)
            for v in verdicts:
                if v.outcome == "decline":
                    lines[v.line_id] = _moved(lines[v.line_id], fact, UnitStatus.PENDING, v.quantity)
            return replace(rma, lines=lines, verdicts=verdicts)
        case ReturnReceivedUnannounced():
            return _came(rma, fact)
        case ReturnDeclined():
            return _all(rma, fact, UnitStatus.PENDING, UnitStatus.UNINSPECTED)
        case ReturnExceptionGranted(lines=granted):
            lines = dict(rma.lines)
            for line in granted:
                missing = line.quantity - lines[line.line_id].count(UnitStatus.PENDING, UnitStatus.UNINSPECTED)
                lines[line.line_id] = _moved(lines[line.line_id], fact, UnitStatus.DECLINED, max(0, missing))
            return replace(rma, lines=lines)
        case ReturnInTransit(tracking=tracking, expires_at=expires_at):
            return _all(replace(rma, tracking=_with(rma.tracking, tracking), expires_at=expires_at), fact, EXPECTED[1])
        case ReturnItemsInspected():
            return _inspected(rma, fact)
        case ReturnInspectionRevised():
            return _revised(rma, fact)
        case ReturnExpired():
            rma = _all(rma, fact, *EXPECTED)
            return replace(rma, lines={line_id: _unadvanced(line) for line_id, line in rma.lines.items()})
        case ReturnCancelled():
            return _all(rma, fact, UnitStatus.PENDING, *EXPECTED)
        case ReturnResolved(closes_at=closes_at):
            return replace(rma, closes_at=closes_at)
        case ReturnReopened(evidence=evidence):
            return replace(rma, evidence=(*rma.evidence, *evidence))
        case ReturnSentToReview(decide_by=decide_by):
            return replace(rma, decide_by=decide_by)
        case ReturnClosed():
            return _all(rma, fact, UnitStatus.PENDING, *EXPECTED)
        case ReturnLabelIssued():
            return rma
        case _:
            raise TypeError(f"{type(fact).__name__} is no fact of a return")


def _settled_items(items: tuple[UnexpectedItem, ...], fact: ReturnUnexpectedItemSettled) -> tuple[UnexpectedItem, ...]:
    left = fact.quantity
    after = []
    for item in items:
        n = 0
        if (item.receipt_id, item.sku) == (fact.receipt_id, fact.sku):
            n = min(left, item.quantity - item.settled)
        left -= n
        after.append(replace(item, settled=item.settled + n) if n else item)
    return tuple(after)


def _with(known: tuple[str, ...], one: str) -> tuple[str, ...]:
    return known if one in known else (*known, one)


def _moved(line: RmaLine, fact: ReturnFact, source: UnitStatus, n: int, to: UnitStatus | None = None) -> RmaLine:
    return replace(line, units=move(line.units, fact, source, n, to)) if n else line


def _all(rma: Rma, fact: ReturnFact, *sources: UnitStatus) -> Rma:
    """Move every unit in these statuses where the fact sends it."""
    lines = dict(rma.lines)
    for line_id in lines:
        for source in sources:
            lines[line_id] = _moved(lines[line_id], fact, source, lines[line_id].count(source))
    return replace(rma, lines=lines)


def _came(rma: Rma, fact: ReturnReceivedUnannounced) -> Rma:
    lines = dict(rma.lines)
    for came in fact.lines:
        known = lines.get(came.line_id)
        n = came.quantity + (known.asked.quantity if known else 0)
        asked = ReturnLine(
            line_id=came.line_id, quantity=n, reason=ReturnReason.UNWANTED, condition=DeclaredCondition.OPENED
        )
        units = known.units if known else {}
        units = {**units, RETURN_LINE.initial: units.get(RETURN_LINE.initial, 0) + came.quantity}
        lines[came.line_id] = replace(known or RmaLine(asked, {}), asked=asked, units=units)
    return replace(rma, lines=lines, decide_by=fact.decide_by)


def _approved(rma: Rma, fact: ReturnApproved) -> Rma:
    """Approve the units. What is not named is declined, or sent back where it is here already; what the customer keeps is not
    awaited."""
    to = UnitStatus.KEPT if rma.resolution is Resolution.KEEP_IT else UnitStatus.AWAITING
    approved = {line.line_id: line.quantity for line in fact.lines}
    lines = dict(rma.lines)
    for line_id, line in lines.items():
        here = min(approved.get(line_id, 0), line.count(UnitStatus.UNINSPECTED))
        line = _moved(line, fact, UnitStatus.UNINSPECTED, line.count(UnitStatus.UNINSPECTED) - here)
        line = _moved(line, fact, UnitStatus.PENDING, approved.get(line_id, 0) - here, to)
        lines[line_id] = _moved(line, fact, UnitStatus.PENDING, line.count(UnitStatus.PENDING), UnitStatus.DECLINED)
    after = replace(rma, lines=lines, expires_at=fact.expires_at, approver=fact.approver)
    status = ReturnStatus.APPROVED
    if after.count(UnitStatus.UNINSPECTED):
        status = ReturnStatus.PARTIALLY_RECEIVED if after.is_expecting else ReturnStatus.RECEIVED
    return replace(after, status=RETURN.step(rma.status, fact, status), resolution=fact.resolution or rma.resolution)


def _received(rma: Rma, fact: ReturnItemsReceived) -> Rma:
    to = ReturnStatus.RECEIVED if fact.complete else ReturnStatus.PARTIALLY_RECEIVED
    has_choice = RETURN.transitions[rma.status].get(ReturnItemsReceived) is _ARRIVED
    status = RETURN.step(rma.status, fact, to if has_choice else None)
    lines = dict(rma.lines)
    for received in fact.lines:
        left = received.quantity
        for source in (*EXPECTED, UnitStatus.NOT_ARRIVED, UnitStatus.PENDING):
            n = min(left, lines[received.line_id].count(source))
            lines[received.line_id] = _moved(lines[received.line_id], fact, source, n)
            left -= n
        if left:
            raise ValueError(f"{left} units of {received.line_id} were received that nobody expected")
        line = lines[received.line_id]
        if received.sku is not None:
            others = {**line.others, received.sku: line.others.get(received.sku, 0) + received.quantity}
            line = replace(line, others=others)
        lines[received.line_id] = replace(line, ahead=line.ahead + received.quantity * fact.by_inspection)
    return replace(rma, status=status, lines=lines, receipts=_with(rma.receipts, fact.receipt_id))


def _inspected(rma: Rma, fact: ReturnItemsInspected) -> Rma:
    lines = dict(rma.lines)
    for one in fact.lines:
        to = status_of(one)
        if to is not None:
            line = _moved(lines[one.line_id], fact, UnitStatus.UNINSPECTED, one.quantity, to)
            taken, worth = from_advanced(line, one.quantity)
            others = dict(line.others)
            if one.sku in others:
                others[one.sku] -= min(one.quantity, others[one.sku])
            lines[one.line_id] = replace(
                line,
                advanced_units=line.advanced_units - taken,
                advanced_minor=line.advanced_minor - worth,
                others={sku: n for sku, n in others.items() if n},
            )
    inspection = Inspection(fact.location, fact.lines)
    return replace(rma, lines=lines, inspections={**rma.inspections, fact.inspection_id: inspection})


def from_advanced(line: RmaLine, quantity: int) -> tuple[int, int]:
    """Count how many of these units were refunded in advance, and their part of what those were worth."""
    taken = min(quantity, line.advanced_units)
    return taken, cumulative(line.advanced_minor, taken, line.advanced_units) if taken else 0


def _unadvanced(line: RmaLine) -> RmaLine:
    """Take back the advance of units that did not come: what was paid for them is to be recovered."""
    here = line.count(UnitStatus.UNINSPECTED, UnitStatus.KEPT)
    gone, worth = from_advanced(line, max(0, line.advanced_units - here))
    return replace(line, advanced_units=line.advanced_units - gone, advanced_minor=line.advanced_minor - worth)


def _revised(rma: Rma, fact: ReturnInspectionRevised) -> Rma:
    """Move each unit from where the old outcome put it to where the new one does."""
    named = {line.line_id for line in fact.before}
    lines = dict(rma.lines)
    for line_id in named:
        moves = Counter(zip(_one_by_one(fact.before, line_id), _one_by_one(fact.after, line_id), strict=True))
        for (source, to), quantity in moves.items():
            if source is not to:
                lines[line_id] = _moved(lines[line_id], fact, source, quantity, to)
    inspection = rma.inspections[fact.inspection_id]
    kept = [line for line in inspection.lines if line.line_id not in named or status_of(line) is None]
    revised = replace(inspection, lines=(*kept, *fact.after), revisions=inspection.revisions + 1)
    return replace(rma, lines=lines, inspections={**rma.inspections, fact.inspection_id: revised})


def _one_by_one(lines: tuple[InspectedLine, ...], line_id: str) -> list[UnitStatus]:
    """Return the status of each unit; what is no unit of the return has none."""
    statuses = [(status_of(line), line.quantity) for line in lines if line.line_id == line_id]
    return [status for status, quantity in statuses if status is not None for _ in range(quantity)]


def _money(rma: Rma, fact: ReturnRefundDue | ReturnRefundSettled | ReturnRefundDropped) -> Rma:
    if not isinstance(fact, ReturnRefundDue):
        return replace(rma, dues={**rma.dues, fact.due_id: rma.dues[fact.due_id].after(fact)})
    lines = dict(rma.lines)
    for due_line in fact.lines:
        line = lines[due_line.line_id]
        lines[due_line.line_id] = replace(
            line,
            advanced_units=line.advanced_units + due_line.advanced_units,
            advanced_minor=line.advanced_minor + due_line.advanced_minor,
            stated=line.stated.plus(due_line),
        )
    return replace(
        rma,
        lines=lines,
        dues={**rma.dues, fact.due_id: Due(fact.amount_minor)},
        fee_charged_minor=rma.fee_charged_minor + fact.return_shipping_fee_minor,
    )


def _exchange(
    rma: Rma, fact: ExchangeCreated | ExchangeDifferenceDue | ExchangeDifferenceSettled | ExchangeReleased
) -> Rma:
    match fact:
        case ExchangeCreated(lines=(line,), sku=sku, difference_minor=difference):
            exchange = Exchange(line.line_id, sku, line.quantity, difference)
        case ExchangeDifferenceDue(exchange_id=exchange_id, amount_minor=amount):
            exchange = rma.exchanges[exchange_id]
            of = rma.lines[exchange.line_id]
            units = of.count(UnitStatus.NOT_ARRIVED) if exchange.released else owed_in_exchange(rma, of)
            exchange = replace(exchange, due_minor=amount, due_units=units)
        case ExchangeDifferenceSettled(exchange_id=exchange_id, amount_minor=0):
            exchange = replace(rma.exchanges[exchange_id], due_minor=0, due_units=0)
        case ExchangeDifferenceSettled(exchange_id=exchange_id, operation_id=None):
            exchange = replace(rma.exchanges[exchange_id], is_settled_by_hand=True)
        case ExchangeDifferenceSettled(exchange_id=exchange_id, amount_minor=amount):
            exchange = replace(rma.exchanges[exchange_id], charged_minor=amount)
        case ExchangeReleased(exchange_id=exchange_id, lines=(line,)):
            exchange = replace(rma.exchanges[exchange_id], released=line.quantity)
        case _:
            raise ValueError(f"{fact.type} of a return is about one line")
    return replace(rma, exchanges={**rma.exchanges, fact.exchange_id: exchange})
