"""The invariants of domain.md that no service can see alone, over the states of one order; the answer is always none.

What a service's own state can say is in its flow's `invariants`. Here are the sentences that need two of them. Some hold at
every moment, since whoever is told of a fact is never ahead of whoever told it; the others once every message of the
order has been delivered and every operation has its outcome: at rest.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from fulfillment.domain.shipment import BEFORE_HAND_OVER, Shipment
from fulfillment.domain.state import FulfillmentStatus, OrderFulfillment
from orders.domain.state import Order, Status
from payments.domain.charge import ChargeStatus
from payments.domain.refund import Refund, RefundStatus
from payments.domain.state import Account
from payments.domain.tender import DisputeStatus
from returns.domain.recoveries import RecoveryStatus
from returns.domain.rma import Due
from returns.domain.state import OrderReturns, rma_lines
from shared.contracts.base import Bucket
from shared.contracts.fulfillment import StockFact, StockRestocked, StockWithdrawn
from shared.contracts.orders import DisputeStage, RefundStage
from shared.contracts.payments import RefundKind
from shared.contracts.returns import Disposition


@dataclass(frozen=True, slots=True)
class States:
    """One order as its four services have it; None where a service has not heard of it."""

    order: Order | None = None
    account: Account | None = None
    fulfillment: OrderFulfillment | None = None
    returns: OrderReturns | None = None


def broken(states: States, stock: Sequence[StockFact] = (), *, at_rest: bool) -> list[str]:
    """The laws that the states break together, in words, each by its invariant.

    `stock` are the order's own stock facts in fulfillment's journal. A page of states is at rest only if no message
    of the order is on its way and no operation is without its outcome: what holds at rest is not asked before.
    """
    order, account, shipped, returned = states.order, states.account, states.fulfillment, states.returns
    found: list[str] = []
    if order and account and account.is_open:
        found += _agreed(order, account)
    if order and shipped:
        found += _told_of_units(order, shipped)
        found += _units(order, shipped) if at_rest and order.status is not Status.REJECTED else ()
    if order and account:
        found += _told_of_money(order, account)
        found += _money(order, account) if at_rest else ()
    if account and shipped:
        found += _captured_for(account, shipped, at_rest=at_rest)
    if account and returned:
        found += _refunds_of_returns(account, returned, at_rest=at_rest)
        found += _charges(order, account, returned, at_rest=at_rest)
    if shipped and returned:
        found += _delivered(shipped, returned, at_rest=at_rest)
        found += _restocked(shipped, returned, stock, at_rest=at_rest)
    if account:
        found += _named(account)
        found += _settled(account) if at_rest else ()
    if account and shipped and returned and at_rest:
        found += _made_good_once(account, shipped, returned)
    return found


def _agreed(order: Order, account: Account) -> Iterator[str]:
    """What is split at placement is the same everywhere, and sums to the whole."""
    placed = {id: (n.placed.quantity, n.placed.goods_minor, n.placed.shipping_minor) for id, n in order.lines.items()}
    paid = {id: (n.quantity, n.goods_minor, n.shipping_minor) for id, n in account.lines.items()}
    if placed != paid:
        yield f"I10: orders split the lines as {placed}, payments has {paid}"
    if sum(goods + shipping for _, goods, shipping in placed.values()) != order.total_minor:
        yield f"I10: the lines do not sum to the total of {order.total_minor}"
    if sum(t.amount_minor for t in account.order_tenders) != order.total_minor:
        yield f"I10: the tenders do not sum to the total of {order.total_minor}"


def _told_of_units(order: Order, shipped: OrderFulfillment) -> Iterator[str]:
    for id, told in order.shipments.items():
        shipment = shipped.shipments.get(id)
        if shipment is None:
            yield f"I4: orders has shipment {id}, fulfillment has not"
        elif told.stage is Bucket.IN_TRANSIT and not _is_handed_over(shipment):
            yield f"I4: shipment {id} was handed over for orders, and is {shipment.status}"
    for id, line in order.lines.items():
        if id in shipped.lines and line.cancelled > shipped.lines[id].of(Bucket.CANCELLED):
            yield f"I1: line {id} has {line.cancelled} units cancelled for orders, more than fulfillment cancelled"


def _units(order: Order, shipped: OrderFulfillment) -> Iterator[str]:
    for id, line in order.lines.items():
        there = shipped.lines.get(id)
        if there is None:
            yield f"I1: fulfillment does not know line {id}"
            continue
        ours, theirs = ({b: n for b in Bucket if (n := count(b))} for count in (line.count, there.of))
        if ours != theirs:
            yield f"I1: line {id} is {_said(ours)} for orders and {_said(theirs)} for fulfillment"
    ours_in = {id: (dict(s.units), s.stage is Bucket.IN_TRANSIT) for id, s in order.shipments.items()}
    theirs_in = {s.shipment_id: (_lines_of(s), _is_handed_over(s)) for s in shipped.live_shipments}
    if ours_in != theirs_in:
        yield f"I4: orders has the shipments {ours_in}, fulfillment {theirs_in}"
    waiting, open_there = ({id: b.quantity for id, b in order.backorders.items()}, _open(shipped))
    if waiting != open_there:
        yield f"I1: orders waits for the backorders {waiting}, fulfillment for {open_there}"
    if shipped.status is not FulfillmentStatus.UNOPENED and set(order.holds) != set(shipped.holds):
        yield f"I13: orders holds for {sorted(order.holds)}, fulfillment for {sorted(shipped.holds)}"


def _told_of_money(order: Order, account: Account) -> Iterator[str]:
    for id, told in order.tenders.items():
        tender = account.tenders.get(id)
        captured = tender.captured_minor if tender else 0
        if told.captured_minor > captured:
            yield f"I6: tender {id} is captured {told.captured_minor} for orders, and was captured {captured}"
    if order.status is Status.REJECTED:
        return
    for id, line in order.lines.items():
        if account.of_line(id).cancelled > line.cancelled:
            yield f"I8: payments has {account.of_line(id).cancelled} units of line {id} cancelled, orders {line.cancelled}"


def _money(order: Order, account: Account) -> Iterator[str]:
    for id, told in order.tenders.items():
        tender = account.tenders[id]
        ours, theirs = (told.authorized_minor, told.captured_minor), (tender.open_minor, tender.captured_minor)
        if ours != theirs:
            yield f"I6: tender {id} is (open, captured) {ours} for orders and {theirs} for payments"
    ours_paid = {id: (r.amount_minor, r.paid_minor, r.stage) for id, r in order.refunds.items()}
    theirs_paid = {r.id: (r.amount_minor, account.paid_out_minor(r), _stage(r)) for r in account.refunds.values()}
    if ours_paid != theirs_paid:
        yield f"I7: orders has the refunds {ours_paid}, payments {theirs_paid}"
    open_here = {id for id, stage in order.disputes.items() if stage is DisputeStage.OPEN}
    if open_here != _disputed(account):
        yield f"I6: orders has the disputes {sorted(open_here)} open, payments {sorted(_disputed(account))}"
    if order.status is not Status.REJECTED:
        for id, line in order.lines.items():
            if account.of_line(id).cancelled != line.cancelled:
                yield f"I8: line {id} has {line.cancelled} units cancelled, payments {account.of_line(id).cancelled}"


def _captured_for(account: Account, shipped: OrderFulfillment, *, at_rest: bool) -> Iterator[str]:
    """Nothing is captured for goods that are in the house; replacements were paid for."""
    left = [shipment for shipment in shipped.shipments.values() if _is_handed_over(shipment)]
    went = _summed(_lines_of(shipment) for shipment in left)
    went.subtract(_summed(shipment.again for shipment in left))
    for id in {*account.units, *went}:
        units = account.of_line(id)
        if units.handed_over > went[id]:
            yield f"I7: payments captures for {units.handed_over} units of line {id}, {went[id]} were handed over"
        if at_rest and units.handed_over < went[id]:
            yield f"I7: payments captures for {units.handed_over} units of line {id} of {went[id]} handed over"
        line = shipped.lines.get(id)
        again = sum(s.reshipped.get(id, 0) for s in shipped.shipments.values())
        settled = sum(s.settled.get(id, 0) for s in shipped.shipments.values())
        if at_rest and line and not again:
            astray = line.of(Bucket.LOST, Bucket.RETURNED_TO_SENDER) + settled
            if units.undelivered - units.found != astray:
                yield f"I8: line {id} has {astray} units astray, payments {units.undelivered - units.found}"


def _refunds_of_returns(account: Account, returned: OrderReturns, *, at_rest: bool) -> Iterator[str]:
    """What returns states is refunded once: the same cause, the same amount, less what was given back before."""
    dues = _dues(returned)
    kinds = (RefundKind.RETURN, RefundKind.LOST)
    stated = {r.cause_id: r for r in account.refunds.values() if r.kind in kinds and not r.is_dead}
    for cause, refund in stated.items():
        if cause not in dues:
            yield f"I8: refund {refund.id} is for {cause}, which returns never stated"
        elif dues[cause].amount_minor != (refund.amount_minor if refund.stated_minor is None else refund.stated_minor):
            yield f"I10: {cause} states {dues[cause].amount_minor}, refund {refund.id} is of {refund.amount_minor}"
        elif refund.amount_minor > dues[cause].amount_minor:
            yield f"I7: refund {refund.id} is of {refund.amount_minor}, {dues[cause].amount_minor} is due for {cause}"
    for cause, due in dues.items():
        of_it = [r for r in account.refunds.values() if r.cause_id == cause]
        is_answered = any(account.paid_out_minor(r) or r.legs or r.is_dead or not r.amount_minor for r in of_it)
        if due.is_settled and not is_answered:
            yield f"I8: returns takes {cause} for refunded, and nothing was paid for it"
        if at_rest and len(of_it) < 1:
            yield f"I8: {cause} is due, and no refund was asked for"
        if at_rest and not due.is_settled and any(r.status is RefundStatus.SUCCEEDED for r in of_it):
            yield f"I8: {cause} is refunded, and returns waits for it"
    if at_rest and (ours := set(returned.disputes)) != _disputed(account):
        yield f"I6: returns has the disputes {sorted(ours)} open, payments {sorted(_disputed(account))}"


def _delivered(shipped: OrderFulfillment, returned: OrderReturns, *, at_rest: bool) -> Iterator[str]:
    for id in returned.where.shipments:
        if id not in shipped.shipments or not _is_handed_over(shipped.shipments[id]):
            yield f"I3: returns has units of shipment {id}, which was not handed over"
    if not at_rest:
        return
    for id, line in shipped.lines.items():
        there = returned.where.counted(id, "delivered")
        if there != line.of(Bucket.DELIVERED):
            yield f"I3: line {id} has {line.of(Bucket.DELIVERED)} units delivered, its reverse buckets have {there}"
        again = sum(s.reshipped.get(id, 0) for s in shipped.shipments.values())
        settled = sum(s.settled.get(id, 0) for s in shipped.shipments.values())
        astray = line.of(Bucket.LOST) + line.of(Bucket.RETURNED_TO_SENDER) + settled
        if not again and returned.where.counted(id, "lost") != astray:
            yield f"I5: line {id} has {astray} that never arrived, returns {returned.where.counted(id, 'lost')}"
        cancelled = returned.where.cancelled.get(id)
        units = cancelled.units if cancelled else 0
        if shipped.status is not FulfillmentStatus.WITHDRAWN and units != line.of(Bucket.CANCELLED):
            yield f"I8: line {id} has {line.of(Bucket.CANCELLED)} cancelled, returns {units}"


def _restocked(
    shipped: OrderFulfillment, returned: OrderReturns, stock: Sequence[StockFact], *, at_rest: bool
) -> Iterator[str]:
    """Sellable again once per unit. Of a revised inspection, units that were sold meanwhile could not be withdrawn."""
    sums: Counter[tuple[str, str]] = Counter()
    for fact in stock:
        if isinstance(fact, StockRestocked | StockWithdrawn):
            sums[fact.cause_id, fact.line_id] += fact.quantity * (1 if isinstance(fact, StockRestocked) else -1)
    may: Counter[tuple[str, str]] = Counter()
    revised: set[str] = set()
    for one in returned.returns.values():
        for id, inspection in one.inspections.items():
            if inspection.revisions:
                revised.add(id)
            for line in inspection.lines:
                if line.disposition is Disposition.RESTOCK:
                    may[id, line.line_id] += line.quantity
    for shipment in shipped.shipments.values():
        for parcel in shipment.parcels.values():
            if "returned" in parcel.scans:
                may.update({(shipment.shipment_id, id): units for id, units in parcel.lines.items()})
        for units_gone in (shipment.reshipped, shipment.settled):
            may.update({(shipment.shipment_id, id): units for id, units in units_gone.items()})
    for (cause, id), units in sums.items():
        if units > may[cause, id] and cause not in revised:
            yield f"I9: {units} units of line {id} were restocked by {cause}, which gave back {may[cause, id]}"
    for (cause, id), units in may.items():
        if at_rest and cause not in shipped.shipments and cause not in revised and sums[cause, id] < units:
            yield f"I9: {units} units of line {id} are to be restocked by {cause}, {sums[cause, id]} were"


def _named(account: Account) -> Iterator[str]:
    for refund in account.refunds.values():
        if refund.kind is RefundKind.GOODWILL and refund.is_approved and refund.approver is None:
            yield f"I7: refund {refund.id} is of goodwill, and nobody approved it"


def _settled(account: Account) -> Iterator[str]:
    """Nothing stays reserved or kept for what will not come."""
    if excess := account.excess_minor(with_dead=True) if account.is_open else 0:
        yield f"I7: {excess} is captured above what the order is worth, and nobody has asked for it back"
    owed = account.worth_minor - account.order_captured_minor
    for tender in account.tenders.values():
        is_needed = owed > 0 and tender.exchange_id is None
        if not is_needed and tender.open_minor and not tender.is_void_refused:
            yield f"I6: tender {tender.id} holds {tender.open_minor} authorized that nothing will be captured of"


def _made_good_once(account: Account, shipped: OrderFulfillment, returned: OrderReturns) -> Iterator[str]:
    """A unit that never arrived is refunded or sent again, by its claim: one of them, once."""
    for id in account.lines:
        astray = account.of_line(id).undelivered
        lost = account.refunded_units(id, frozenset({RefundKind.LOST}))
        again = sum(s.reshipped.get(id, 0) for s in shipped.shipments.values())
        settled = sum(s.settled.get(id, 0) for s in shipped.shipments.values())
        if lost + again + settled > astray:
            gone = f"{lost} were refunded, {again} sent again and {settled} cancelled"
            yield f"I8: line {id} had {astray} units astray; {gone}"
        stated = sum(line.stated.units for _, line in rma_lines(returned, id))
        stated += sum(c.worth[id].units for c in returned.claims.values() if id in c.worth and not c.is_for_lost)
        due = account.refunded_units(id, frozenset({RefundKind.RETURN}))
        if due > stated:
            yield f"I8: line {id} has {due} units refunded by returns, which stated {stated}"


def _charges(order: Order | None, account: Account, returned: OrderReturns, *, at_rest: bool) -> Iterator[str]:
    """What returns states as owed for an exchange is charged once, and what was charged is known."""
    exchanges = {id: e for one in returned.returns.values() for id, e in one.exchanges.items()}
    taken = {t.exchange_id: t.captured_minor for t in account.tenders.values() if t.exchange_id and t.captured_minor}
    for id in account.charges:
        if id not in exchanges and id not in returned.recoveries:
            yield f"I7: payments charges for {id}, which returns never asked for"
    for id, recovery in returned.recoveries.items():
        captured = taken.get(id, 0)
        if recovery.how == "charged" and captured != recovery.amount_minor:
            yield f"I7: {captured} was charged for recovery case {id}, returns has {recovery.amount_minor}"
        if at_rest and recovery.is_open and (captured or recovery.status is RecoveryStatus.CHARGE_REQUESTED):
            yield f"I7: recovery case {id} is {recovery.status}, and {captured} was charged for it"
    for id, exchange in exchanges.items():
        captured, known = taken.get(id, 0), exchange.charged_minor
        if (known or at_rest) and captured != known:
            yield f"I7: {captured} was charged for exchange {id}, returns has {known}"
        told = order.charges.get(id, 0) if order else captured
        if (told or at_rest) and told != captured:
            yield f"I7: {captured} was charged for exchange {id}, orders has {told}"
        charge = account.charges.get(id)
        if not at_rest:
            continue
        is_due = exchange.due_minor > 0 and not exchange.is_settled
        if is_due and (charge is None or charge.status is not ChargeStatus.FAILED):
            yield f"I7: {exchange.due_minor} is due for exchange {id}, and its charge is {charge and charge.status}"
        if not is_due and charge is not None and charge.status not in (ChargeStatus.CAPTURED, ChargeStatus.DROPPED):
            yield f"I7: nothing is due for exchange {id}, and its charge is {charge.status}"


def _dues(returned: OrderReturns) -> Mapping[str, Due]:
    of_returns = {id: due for one in returned.returns.values() for id, due in one.dues.items()}
    return of_returns | {id: due for one in returned.claims.values() for id, due in one.dues.items()}


def _disputed(account: Account) -> set[str]:
    disputes = ((id, d) for t in account.tenders.values() for id, d in t.all_disputes.items())
    return {id for id, dispute in disputes if dispute.status is DisputeStatus.OPEN}


def _open(shipped: OrderFulfillment) -> dict[str, int]:
    return {backorder.backorder_id: backorder.open for backorder in shipped.waiting}


def _is_handed_over(shipment: Shipment) -> bool:
    return shipment.is_live and shipment.status not in BEFORE_HAND_OVER


def _lines_of(shipment: Shipment) -> dict[str, int]:
    return dict(_summed({item.line_id: item.quantity} for item in shipment.items))


def _summed(parts: Iterable[Mapping[str, int]]) -> Counter[str]:
    sums: Counter[str] = Counter()
    for part in parts:
        sums.update(part)
    return sums


def _stage(refund: Refund) -> RefundStage:
    """Payments' status in orders' words."""
    match refund.status:
        case RefundStatus.SUCCEEDED:
            return RefundStage.DONE
        case RefundStatus.REJECTED | RefundStatus.CANCELLED:
            return RefundStage.DROPPED
        case RefundStatus.PARTIALLY_SUCCEEDED | RefundStatus.FAILED | RefundStatus.ATTENTION:
            return RefundStage.ATTENTION
        case _:
            return RefundStage.OPEN


def _said(units: Mapping[Bucket, int]) -> str:
    return ", ".join(f"{count} {bucket}" for bucket, count in units.items()) or "nowhere"
