"""Progress translates facts of other services into an order's own terms: which counters they move, or none.

Topics have no order among each other, so every step holds whatever came before it from another service.
"""

from collections.abc import Sequence
from typing import Final

from orders.domain.quantities import Shipment
from orders.domain.state import Order
from shared.contracts import fulfillment, payments, returns
from shared.contracts.base import Bucket, Fact, LineQuantity
from shared.contracts.orders import (
    ChargeStep,
    DisputeStage,
    DisputeStep,
    OrderProgressed,
    RefundStage,
    RefundStep,
    ReturnStage,
    ReturnStep,
    Step,
    TenderStep,
    UnaskedRefundStep,
    UnitsMoved,
    UnitsStep,
    WrittenOffStep,
)
from shared.core.machine import Invalid

RECORDED: Final[tuple[type[Fact], ...]] = (
    payments.PaymentAuthorized,
    payments.PaymentReauthorized,
    payments.PaymentDeclined,
    payments.PaymentAuthorizationExpired,
    payments.PaymentCaptured,
    payments.PaymentCaptureFailed,
    payments.PaymentVoided,
    payments.PaymentMovementRecorded,
    payments.RefundRequested,
    payments.RefundRouted,
    payments.RefundReduced,
    payments.RefundRejected,
    payments.RefundCancelled,
    payments.RefundLegSucceeded,
    payments.RefundLegReversed,
    payments.RefundCompleted,
    payments.RefundPartiallyCompleted,
    payments.RefundAttentionNeeded,
    payments.DisputeOpened,
    payments.DisputeWon,
    payments.DisputeLost,
    fulfillment.FulfillmentLinesCancelled,
    fulfillment.FulfillmentCancellationRefused,
    fulfillment.FulfillmentWithdrawn,
    fulfillment.BackorderCreated,
    fulfillment.BackorderFilled,
    fulfillment.BackorderCancelled,
    fulfillment.StockAllocated,
    fulfillment.ShipmentLinesRemoved,
    fulfillment.ShipmentCancelled,
    fulfillment.ShipmentPacked,
    fulfillment.ShipmentShipped,
    fulfillment.ShipmentRelabelled,
    fulfillment.ShipmentTrackingUpdated,
    fulfillment.ShipmentDelayed,
    fulfillment.ShipmentDeliveryAttempted,
    fulfillment.ShipmentDelivered,
    fulfillment.ShipmentLost,
    fulfillment.ShipmentFound,
    fulfillment.ShipmentReturnStarted,
    fulfillment.ShipmentRecalled,
    fulfillment.ShipmentReturnedToSender,
    fulfillment.ReplacementCreated,
    returns.ReturnRequested,
    returns.ReturnReceivedUnannounced,
    returns.ReturnApproved,
    returns.ReturnDeclined,
    returns.ReturnItemsReceived,
    returns.ReturnItemsInspected,
    returns.ReturnInspectionRevised,
    returns.ReturnResolved,
    returns.ReturnExpired,
    returns.ReturnCancelled,
    returns.ReturnClosed,
    returns.ReturnReopened,
    returns.ClaimResolved,
)
"""The facts that move an order's counters, or answer it."""

_IN_TROUBLE: Final = frozenset({"address", "customs", "damaged", "not_received"})


def progressed(order: Order, fact: Fact) -> list[OrderProgressed]:
    """Return one fact of the order where its counters move, none where they do not. Raises Invalid for what the order does
    not have."""
    step = _step(order, fact)
    return [] if step is None else [OrderProgressed(order_id=order.order_id, heard=fact.type, step=step)]


def _step(order: Order, fact: Fact) -> Step | None:
    match fact:
        case fulfillment.FulfillmentFact():
            return _units(order, fact)
        case payments.PaymentCaptured(exchange_id=str(id), amount_minor=amount):
            return ChargeStep(exchange_id=id, captured_minor=amount)
        case payments.TenderFact() | payments.PaymentAuthorizationExpired() if fact.exchange_id is not None:
            return None  # a charge for an exchange is no tender of the order, and its refusal holds nothing of it
        case payments.TenderFact() | payments.PaymentAuthorizationExpired():
            return _tender(order, fact)
        case payments.PaymentMovementRecorded(kind=payments.MovementKind.REFUND, reference=reference):
            # Its return may have been recorded before it.
            paid = order.unasked_refunds.get(reference, fact.amount_minor)
            return UnaskedRefundStep(reference=reference, paid_minor=paid)
        case payments.PaymentMovementRecorded(kind=payments.MovementKind.REFUND_REVERSED, reference=reference):
            return UnaskedRefundStep(reference=reference, paid_minor=0)
        case payments.PaymentMovementRecorded(kind=kind, tender_id=id):
            if kind is not payments.MovementKind.CAPTURE or id is None or id not in order.tenders:
                return None
            return TenderStep(
                tender_id=id,
                authorized_minor=fact.tender_open_minor,
                captured_minor=fact.tender_captured_minor,
                expires_at=order.tenders[id].expires_at,
            )
        case payments.RefundFact():
            return _refund(order, fact)
        case payments.DisputeFact():
            return _dispute(fact)
        case returns.ReturnFact():
            return _return(order, fact)
        case returns.ClaimResolved(written_off=lines):
            return WrittenOffStep(lines=lines) if lines else None
        case _:
            raise TypeError(f"{fact.type} does not concern orders")


def _units(order: Order, fact: fulfillment.FulfillmentFact) -> UnitsStep | None:
    match fact:
        case fulfillment.BackorderCreated(backorder_id=id):
            return UnitsStep(backorder_id=id, moves=_moves([_only(fact)], Bucket.UNALLOCATED, Bucket.BACKORDERED))
        case fulfillment.BackorderFilled(backorder_id=id) | fulfillment.BackorderCancelled(backorder_id=id):
            return UnitsStep(backorder_id=id, moves=_moves([_only(fact)], Bucket.BACKORDERED, Bucket.UNALLOCATED))
        case fulfillment.ReplacementCreated():
            return UnitsStep(moves=_owed_again(fact))
        case fulfillment.FulfillmentLinesCancelled(lines=lines):
            back = [line for line in lines if line.was is Bucket.RETURNED_TO_SENDER]
            rest = [line for line in lines if line.was is not Bucket.RETURNED_TO_SENDER]
            moves = _moves(rest, Bucket.UNALLOCATED, Bucket.CANCELLED)
            return UnitsStep(moves=(*moves, *_moves(back, Bucket.RETURNED_TO_SENDER, Bucket.CANCELLED)))
        case fulfillment.FulfillmentWithdrawn(lines=lines):
            return UnitsStep(moves=_moves(lines, Bucket.UNALLOCATED, Bucket.CANCELLED))
        case fulfillment.StockAllocated(shipment_id=id):
            return UnitsStep(shipment_id=id, moves=_moves([_only(fact)], Bucket.UNALLOCATED, Bucket.ALLOCATED))
        case fulfillment.ShipmentFact():
            return _shipment(order, fact)
        case _:
            raise TypeError(f"{fact.type} moves no units")


def _shipment(order: Order, fact: fulfillment.ShipmentFact) -> UnitsStep | None:
    """Move the units that a fact of a scan names: it is about one parcel, wherever the others of the shipment are."""
    id = fact.shipment_id
    if isinstance(fact, fulfillment.ShipmentTrackingUpdated) and not fact.moved:
        return None
    shipment = order.shipments.get(id)
    if isinstance(fact, fulfillment.ShipmentRelabelled):
        # The trouble of a number that is not awaited any more is over.
        if shipment is None or fact.replaces not in shipment.troubled:
            return None
        return UnitsStep(shipment_id=id, parcel=fact.replaces, exception=False)
    if shipment is None:
        raise Invalid("shipment_id", f"{id} is not a shipment of this order")
    if isinstance(fact, fulfillment.ScanFact):
        return _scanned(shipment, fact)
    match fact:
        case fulfillment.ShipmentLinesRemoved(lines=lines) | fulfillment.ShipmentCancelled(lines=lines):
            return UnitsStep(shipment_id=id, moves=_moves(lines, shipment.stage, Bucket.UNALLOCATED))
        case fulfillment.ShipmentPacked(parcels=parcels):
            packed = [line for parcel in parcels for line in parcel.lines]
            return UnitsStep(shipment_id=id, moves=_moves(packed, Bucket.ALLOCATED, Bucket.PACKED))
        case fulfillment.ShipmentShipped(lines=lines):
            return UnitsStep(shipment_id=id, moves=_moves(lines, Bucket.PACKED, Bucket.IN_TRANSIT))
        case _:
            raise TypeError(f"{fact.type} moves no units")


def _scanned(shipment: Shipment, fact: fulfillment.ScanFact) -> UnitsStep | None:
    parcel = fact.scan.tracking if fact.scan is not None else ""
    moves: tuple[UnitsMoved, ...] = ()
    exception = False
    match fact:
        case fulfillment.ShipmentTrackingUpdated(code=code, lines=lines):
            moves, exception = _moves(lines, Bucket.DELIVERED, Bucket.IN_TRANSIT), code in _IN_TROUBLE
        case fulfillment.ShipmentDelivered(lines=lines):
            moves = _moves(lines, Bucket.IN_TRANSIT, Bucket.DELIVERED)
        case fulfillment.ShipmentLost(lines=lines):
            moves = _moves(lines, Bucket.IN_TRANSIT, Bucket.LOST)
        case fulfillment.ShipmentFound(lines=lines):
            moves = _moves(lines, Bucket.LOST, Bucket.IN_TRANSIT)
        case fulfillment.ShipmentReturnedToSender(lines=lines):
            moves = _moves(lines, Bucket.IN_TRANSIT, Bucket.RETURNED_TO_SENDER)
        case (
            fulfillment.ShipmentDelayed()
            | fulfillment.ShipmentDeliveryAttempted()
            | fulfillment.ShipmentReturnStarted()
            | fulfillment.ShipmentRecalled()
        ):
            exception = True
        case _:
            raise TypeError(f"{fact.type} moves no units")
    if not moves and exception is (parcel in shipment.troubled):
        return None
    return UnitsStep(shipment_id=fact.shipment_id, moves=moves, parcel=parcel, exception=exception)


def _owed_again(fact: fulfillment.ReplacementCreated) -> tuple[UnitsMoved, ...]:
    """Take units that never arrived out of their bucket; owe the others on top."""
    on_top = {line.line_id: line.quantity for line in fact.lines}
    moves: list[UnitsMoved] = []
    for gone in fact.moved:
        on_top[gone.line_id] -= gone.quantity
        moves += _moves([gone], gone.was, Bucket.UNALLOCATED)
    moves += _moves(
        [LineQuantity(line_id=line_id, quantity=quantity) for line_id, quantity in on_top.items() if quantity],
        None,
        Bucket.UNALLOCATED,
    )
    return tuple(moves)


def _only(
    fact: fulfillment.BackorderCreated
    | fulfillment.BackorderFilled
    | fulfillment.BackorderCancelled
    | fulfillment.StockAllocated,
) -> LineQuantity:
    return LineQuantity(line_id=fact.line_id, quantity=fact.quantity)


def _moves(
    lines: Sequence[LineQuantity | fulfillment.CancelledUnits], source: Bucket | None, target: Bucket
) -> tuple[UnitsMoved, ...]:
    return tuple(
        UnitsMoved(line_id=line.line_id, quantity=line.quantity, source=source, target=target) for line in lines
    )


def cancelled_units(fact: fulfillment.FulfillmentLinesCancelled) -> list[LineQuantity]:
    """Sum units by line, whatever bucket they came from: shipments and backorders say themselves what they gave up."""
    units: dict[str, int] = {}
    for line in fact.lines:
        units[line.line_id] = units.get(line.line_id, 0) + line.quantity
    return [LineQuantity(line_id=line_id, quantity=quantity) for line_id, quantity in units.items()]


def _tender(order: Order, fact: payments.TenderFact | payments.PaymentAuthorizationExpired) -> TenderStep:
    tender = order.tenders.get(fact.tender_id)
    if tender is None:
        raise Invalid("tender_id", f"{fact.tender_id} is not a tender of this order")
    authorized, captured = tender.authorized_minor, tender.captured_minor
    expires_at, lapsed = tender.expires_at, tender.lapsed
    match fact:
        case payments.PaymentAuthorized(amount_minor=amount) | payments.PaymentReauthorized(amount_minor=amount):
            return TenderStep(
                tender_id=fact.tender_id,
                authorized_minor=amount,
                captured_minor=captured,
                expires_at=fact.expires_at,
            )
        case payments.PaymentDeclined(code=code, fraud=fraud):
            return TenderStep(
                tender_id=fact.tender_id, authorized_minor=0, captured_minor=captured, declined=code, fraud=fraud
            )
        case payments.PaymentAuthorizationExpired(final=final):
            authorized, lapsed = 0, not final
        case payments.PaymentVoided(amount_minor=amount):
            authorized = max(0, authorized - amount)
        case payments.PaymentCaptured(shipment_id=shipment_id, tender_captured_minor=in_all, final=final):
            # Its own figure says how much in all, so that a capture heard twice over counts once.
            left = 0 if final else max(0, authorized - max(0, in_all - captured))
            return TenderStep(
                tender_id=fact.tender_id,
                authorized_minor=left,
                captured_minor=max(in_all, captured),
                shipment_id=shipment_id,
                expires_at=expires_at,
                lapsed=lapsed,
            )
        case payments.PaymentCaptureFailed(shipment_id=shipment_id, amount_minor=amount):
            return TenderStep(
                tender_id=fact.tender_id,
                authorized_minor=authorized,
                captured_minor=captured,
                shipment_id=shipment_id,
                failed_minor=amount,
                expires_at=expires_at,
                lapsed=lapsed,
            )
        case _:
            raise TypeError(f"{fact.type} moves no tender")
    return TenderStep(
        tender_id=fact.tender_id,
        authorized_minor=authorized,
        captured_minor=captured,
        expires_at=expires_at,
        lapsed=lapsed,
    )


def _refund(order: Order, fact: payments.RefundFact) -> RefundStep:
    if isinstance(fact, payments.RefundRequested):
        return RefundStep(
            refund_id=fact.refund_id,
            kind=fact.kind,
            stage=RefundStage.OPEN,
            amount_minor=fact.amount_minor,
            paid_minor=0,
            lines=tuple(LineQuantity(line_id=r.line_id, quantity=r.quantity) for r in fact.lines if r.quantity),
        )
    refund = order.refunds.get(fact.refund_id)
    if refund is None:
        raise Invalid("refund_id", f"{fact.refund_id} is not a refund of this order")
    match fact:
        case payments.RefundRouted():
            return refund.model_copy(update={"stage": RefundStage.OPEN})
        case payments.RefundReduced(amount_minor=amount):
            return refund.model_copy(update={"amount_minor": amount})
        case payments.RefundRejected() | payments.RefundCancelled():
            return refund.model_copy(update={"stage": RefundStage.DROPPED})
        case payments.RefundLegSucceeded(amount_minor=amount):
            return refund.model_copy(update={"paid_minor": refund.paid_minor + amount})
        case payments.RefundLegReversed(amount_minor=amount):
            return refund.model_copy(
                update={"stage": RefundStage.OPEN, "paid_minor": max(0, refund.paid_minor - amount)}
            )
        case payments.RefundCompleted():
            return refund.model_copy(update={"stage": RefundStage.DONE})
        case payments.RefundPartiallyCompleted() | payments.RefundAttentionNeeded():
            return refund.model_copy(update={"stage": RefundStage.ATTENTION})
        case _:
            raise TypeError(f"{fact.type} moves no refund")


def _dispute(fact: payments.DisputeFact) -> DisputeStep:
    match fact:
        case payments.DisputeOpened():
            stage = DisputeStage.OPEN
        case payments.DisputeWon():
            stage = DisputeStage.WON
        case payments.DisputeLost():
            stage = DisputeStage.LOST
        case _:
            raise TypeError(f"{fact.type} moves no dispute")
    return DisputeStep(dispute_id=fact.dispute_id, stage=stage)


def _return(order: Order, fact: returns.ReturnFact) -> ReturnStep:
    before = order.returns.get(fact.return_id)
    if isinstance(fact, returns.ReturnRequested | returns.ReturnReceivedUnannounced):
        returned = before.returned if before else 0
        return ReturnStep(return_id=fact.return_id, stage=ReturnStage.REQUESTED, returned=returned)
    if before is None:
        raise Invalid("return_id", f"{fact.return_id} is not a return of this order")
    stage, returned = before.stage, before.returned
    match fact:
        case returns.ReturnApproved() | returns.ReturnReopened():
            stage = ReturnStage.APPROVED
        case returns.ReturnDeclined():
            stage = ReturnStage.DECLINED
        case returns.ReturnItemsReceived() if stage is ReturnStage.REQUESTED:
            pass  # unannounced: a person has yet to decide on it
        case returns.ReturnItemsReceived():
            stage = ReturnStage.ARRIVED
        case returns.ReturnExpired() if stage is ReturnStage.ARRIVED:
            pass  # only what had not come by then has expired
        case returns.ReturnItemsInspected(lines=lines):
            returned += _taken_back(lines)
        case returns.ReturnInspectionRevised(before=old, after=new):
            returned += _taken_back(new) - _taken_back(old)
        case returns.ReturnResolved() | returns.ReturnExpired() | returns.ReturnCancelled() | returns.ReturnClosed():
            stage = ReturnStage.DECLINED if stage is ReturnStage.DECLINED else ReturnStage.OVER
        case _:
            raise TypeError(f"{fact.type} moves no return")
    return ReturnStep(return_id=fact.return_id, stage=stage, returned=returned)


def _taken_back(lines: Sequence[returns.InspectedLine]) -> int:
    return sum(line.quantity for line in lines if line.is_accepted)
