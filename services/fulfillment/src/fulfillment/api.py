"""The HTTP API of fulfillment: the warehouse works on shipments and stock, carriers scan, support recalls; everyone reads."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Final

from fastapi import APIRouter, HTTPException, Path, Query, Request, Response
from pydantic import AwareDatetime, BaseModel, Field

from fulfillment import scans, store
from fulfillment.domain.backorder import BackorderStatus
from fulfillment.domain.decide import Command, HandOver, Pack, Recall, Relabel, ReportMissing, Reship, ShortPick
from fulfillment.domain.policy import FulfillmentPolicy
from fulfillment.domain.shelf import CountUnits, Expect, Receive, ShelfCommand, ShelfState
from fulfillment.domain.shipment import Shipment, numbering
from fulfillment.domain.state import FulfillmentStatus, OrderFulfillment
from fulfillment.domain.tracking import ShipmentStatus, standing
from fulfillment.handlers import units
from fulfillment.settings import FulfillmentSettings
from fulfillment.store import ORDERS, SHELVES
from shared.contracts import base
from shared.contracts.base import Bucket, Fact, Id, Input, Observation, Quantity, Text
from shared.contracts.fulfillment import Scan, StockCounted, StockDiscrepancyRecorded, shelf_key
from shared.contracts.orders import Hold, ShippingPreference
from shared.contracts.partners import CarrierScan, ParcelTracking, PartnerLine, WarehouseParcel
from shared.messaging.envelope import observed_time
from shared.web.auth import Caller, Role
from shared.web.callers import needs
from shared.web.commands import CommandRequest, Commands, OccurredAt, asks, business_time
from shared.web.webhooks import SignedBody, read_signed, signed

router = APIRouter(tags=["fulfillment"])

Warehouse = Annotated[CommandRequest, asks(Role.WAREHOUSE, Role.OPERATOR)]
Support = Annotated[CommandRequest, asks(Role.AGENT, Role.SUPERVISOR, Role.WAREHOUSE)]
Operator = Annotated[Caller, needs(Role.OPERATOR)]
Reader = Annotated[Caller, needs(*Role)]
OrderId = Annotated[base.OrderId, Path()]
ShipmentId = Annotated[base.OrderId, Path(description="`<order>-S<n>`")]


class ReceiveGoods(Observation):
    """Goods received. A receipt counts once per shelf, whatever brings it."""

    receipt_id: Id
    sku: Id
    location: Id
    quantity: Quantity
    occurred_at: OccurredAt


class ExpectGoods(Observation):
    """Goods announced: what is incoming in all, replacing what was announced before; `eta` None: no date is known."""

    sku: Id
    location: Id
    incoming: Annotated[int, Field(ge=0, le=1_000_000, strict=True)]
    eta: AwareDatetime | None
    occurred_at: OccurredAt


class CountGoods(Input):
    """A count of a shelf: what lies there, packed goods that have not left included, and why it was counted."""

    sku: Id
    location: Id
    counted: Annotated[int, Field(ge=0, le=1_000_000, strict=True)]
    reason: Annotated[Text, Field(min_length=1)]
    occurred_at: OccurredAt


class PackShipment(Observation):
    """Parcels as packed. No parcels named: everything is in one."""

    parcels: Annotated[tuple[WarehouseParcel, ...], Field(max_length=100)] = ()
    occurred_at: OccurredAt


class HandOverShipment(Observation):
    """Tracking numbers by parcel, as packed."""

    carrier: Id
    tracking: Annotated[tuple[ParcelTracking, ...], Field(min_length=1, max_length=100)]
    occurred_at: OccurredAt


class RelabelShipment(Observation):
    """All parcels carry a label of the address that was asked for last."""

    occurred_at: OccurredAt


class ShortPickShipment(Observation):
    """Units that could not be found; they are planned again."""

    lines: Annotated[tuple[PartnerLine, ...], Field(min_length=1, max_length=500)]
    occurred_at: OccurredAt


class RecallShipment(Input):
    detail: Text = ""
    occurred_at: OccurredAt


class ReportNotReceived(Input):
    """The customer did not get it. No tracking number: no delivered parcel of the shipment arrived."""

    detail: Annotated[Text, Field(min_length=1)]
    tracking: Id | None = None
    occurred_at: OccurredAt


class ReshipShipment(Input):
    """Units to send again. No lines: all that is lost or came back and that no claim settles."""

    lines: Annotated[tuple[PartnerLine, ...], Field(max_length=500)] = ()
    detail: Text = ""
    occurred_at: OccurredAt


class LineOut(BaseModel):
    line_id: str
    sku: str
    ordered: int = Field(description="units owed, those on top by replacements included")
    again: int = Field(description="of them on top by replacements")
    units: dict[Bucket, int] = Field(description="units by forward bucket; empty buckets are left out")


class ItemOut(BaseModel):
    line_id: str
    sku: str
    quantity: int


class ParcelOut(BaseModel):
    parcel_id: str
    units: dict[str, int] = Field(description="units by line that count here; those promised anew do not")
    tracking: str | None
    status: ShipmentStatus | None = Field(description="none before the hand-over")
    exception: str | None = Field(description="the kind of exception it stands in")
    scanned_at: datetime | None


class ShipmentOut(BaseModel):
    """`number` of `of`: of counts the live shipments and one more for what is still backordered."""

    shipment_id: str
    location: str
    status: ShipmentStatus
    number: int | None = Field(description="none for a cancelled one")
    of: int
    carrier: str | None
    items: list[ItemOut]
    parcels: list[ParcelOut]
    recall_requested: bool
    waits_for: str | None = Field(description="what it needs next, in words; none when it has arrived or ended")


class BackorderOut(BaseModel):
    backorder_id: str
    line_id: str
    sku: str
    status: BackorderStatus
    quantity: int
    open: int
    eta: datetime | None
    earlier_etas: list[datetime | None]
    consent_due_at: datetime | None = Field(description="until when the customer has to say whether to wait")


class FulfillmentOut(BaseModel):
    order_id: str
    status: FulfillmentStatus
    preference: ShippingPreference
    holds: list[Hold]
    lines: list[LineOut]
    shipments: list[ShipmentOut]
    backorders: list[BackorderOut]
    discrepancies: int = Field(description="how often a partner said something that contradicts the plan")


class ShelfOut(BaseModel):
    sku: str
    location: str
    on_hand: int
    allocated: int
    free: int
    incoming: int
    eta: datetime | None
    backordered: int = Field(description="units of the sku that orders wait for, wherever they will come from")


class StockOut(BaseModel):
    shelves: list[ShelfOut]
    next: str | None = Field(description="what `after` takes to go on; none at the end")


class GoodsOut(BaseModel):
    """The shelf after the goods. `applied` false: they were reported before. `contradicts`: they were reported before with
    another quantity; that is recorded, and the shelf stays as it was until it is counted."""

    sku: str
    location: str
    received: int = Field(description="units received there in all")
    incoming: int
    eta: datetime | None
    applied: bool
    contradicts: str | None = None


class CountOut(BaseModel):
    """The shelf after its count. `missing`: allocated units that were not found, to be picked short."""

    sku: str
    location: str
    on_hand: int
    change: int
    missing: int


class ScanOut(BaseModel):
    """A scan as it was applied. `order_id` is none while no shipment has the number: the scan is kept until one has."""

    order_id: str | None
    order_ids: list[str] = Field(description="every order that has a parcel under the number")
    tracking: str


class UnmatchedScanOut(BaseModel):
    """A scan of a number that no shipment has yet; `error` where it has one, and applying the scan failed."""

    carrier: str
    tracking: str
    code: str
    occurred_at: datetime
    detail: str
    received_at: datetime
    error: str | None


class FailureOut(BaseModel):
    """An order whose backorders cannot be served, for a fault of ours."""

    order_id: str
    attempts: int
    error: str
    failed_at: datetime
    next_at: datetime | None = Field(description="none: given up, until somebody asks for it to be tried again")


def shown(order: OrderFulfillment) -> FulfillmentOut:
    numbers = numbering(order.shipments.values())
    of = len(numbers) + bool(order.waiting)
    return FulfillmentOut(
        order_id=order.order_id,
        status=order.status,
        preference=order.preference,
        holds=list(order.holds),
        lines=[
            LineOut(line_id=x.line_id, sku=x.sku, ordered=x.ordered, again=x.again, units=x.units)
            for x in order.lines.values()
        ],
        shipments=[_shipment(s, numbers.get(s.shipment_id), of, order.holds) for s in order.shipments.values()],
        backorders=[
            BackorderOut(
                backorder_id=b.backorder_id,
                line_id=b.line_id,
                sku=b.sku,
                status=b.status,
                quantity=b.quantity,
                open=b.open,
                eta=b.eta,
                earlier_etas=list(b.earlier),
                consent_due_at=b.consent_due,
            )
            for b in order.backorders.values()
        ],
        discrepancies=order.discrepancies,
    )


def _shipment(shipment: Shipment, number: int | None, of: int, holds: Sequence[Hold]) -> ShipmentOut:
    return ShipmentOut(
        shipment_id=shipment.shipment_id,
        location=shipment.location,
        status=shipment.status,
        number=number,
        of=of,
        carrier=shipment.carrier,
        items=[ItemOut(line_id=i.line_id, sku=i.sku, quantity=i.quantity) for i in shipment.items],
        parcels=[
            ParcelOut(
                parcel_id=p.parcel_id,
                units=p.lines,
                tracking=p.tracking,
                status=p.status if p.tracking else None,
                exception=standing(p.scans).kind,
                scanned_at=max(p.scans.values(), default=None),
            )
            for p in shipment.parcels.values()
        ],
        recall_requested=shipment.recall,
        waits_for=_waits_for(shipment, holds),
    )


def _waits_for(shipment: Shipment, holds: Sequence[Hold]) -> str | None:
    match shipment.status:
        case ShipmentStatus.CREATED:
            return f"to be packed at {shipment.location}"
        case ShipmentStatus.HELD if shipment.relabel is not None:
            return "a label of its new address"
        case ShipmentStatus.HELD:
            return f"the release of its holds: {', '.join(holds)}"
        case ShipmentStatus.PACKED:
            return "to be handed over to a carrier"
        case ShipmentStatus.SHIPPED:
            return "the carrier's first scan"
        case ShipmentStatus.IN_TRANSIT | ShipmentStatus.OUT_FOR_DELIVERY:
            return "its delivery"
        case ShipmentStatus.EXCEPTION if any(
            standing(p.scans).kind == "not_received" for p in shipment.parcels.values()
        ):
            return "the carrier's search"
        case ShipmentStatus.EXCEPTION:
            return "the carrier to move it on"
        case ShipmentStatus.LOST:
            return "a claim, to be sent again, or to be found"
        case ShipmentStatus.RETURNED_TO_SENDER if any(p.lines for p in shipment.parcels.values()):
            return "to be sent again, or cancelled"
        case ShipmentStatus.RETURNING_TO_SENDER:
            return "its arrival back at the warehouse"
        case _:
            return None


def _answer(order: OrderFulfillment, _: Sequence[Fact]) -> tuple[int, FulfillmentOut]:
    return 200, shown(order)


@router.get("/orders/{order_id}/fulfillment")
async def read_order(order_id: OrderId, request: Request, _: Reader) -> FulfillmentOut:
    """The order's units, shipments and backorders as they are now."""
    return shown(await _known(request, order_id, f"order {order_id} is not known"))


async def _known(request: Request, order_id: str, refusal: str) -> OrderFulfillment:
    order = await store.find(request.app.state.pool, order_id)
    if order is None:
        raise HTTPException(404, refusal)
    return order


async def _tell(by: CommandRequest, shipment_id: str, command: Command, reason: str, at: datetime) -> Response:
    """Submit a command for a shipment. Its id starts with its order's."""
    order_id = shipment_id.rpartition("-S")[0]
    refusal = f"shipment {shipment_id} is not known"
    if shipment_id not in (await _known(by.request, order_id, refusal)).shipments:
        raise HTTPException(404, refusal)
    return await by.tell(ORDERS, order_id, command, _answer, reason=reason, at=at)


@router.post("/shipments/{shipment_id}/pack", response_model=FulfillmentOut)
async def pack(shipment_id: ShipmentId, body: PackShipment, by: Warehouse) -> Response:
    """What is packed must be what the shipment has: units that are missing are a short pick first."""
    parcels = tuple((parcel.parcel_id, units(parcel.lines)) for parcel in body.parcels)
    at = observed_time(body.occurred_at)
    return await _tell(by, shipment_id, Pack(shipment_id, parcels, at=at), "packed", at)


@router.post("/shipments/{shipment_id}/hand-over", response_model=FulfillmentOut)
async def hand_over(shipment_id: ShipmentId, body: HandOverShipment, by: Warehouse) -> Response:
    """The parcels are the carrier's from now on: they have left, so that nothing of it is refused. What contradicts the
    plan (a hold, a cancellation, other parcels) is recorded for somebody to look at."""
    tracking = tuple((parcel.parcel_id, parcel.tracking) for parcel in body.tracking)
    at = observed_time(body.occurred_at)
    command = HandOver(shipment_id, body.carrier, tracking)
    return await _tell(by, shipment_id, command, "handed over", at)


@router.post("/shipments/{shipment_id}/relabelled", response_model=FulfillmentOut)
async def relabelled(shipment_id: ShipmentId, body: RelabelShipment, by: Warehouse) -> Response:
    """Say that it has a label of its new address, and may leave. Packing it anew says so too."""
    at = observed_time(body.occurred_at)
    return await _tell(by, shipment_id, Relabel(shipment_id, at), "relabelled", at)


@router.post("/shipments/{shipment_id}/short-pick", response_model=FulfillmentOut)
async def short_pick(shipment_id: ShipmentId, body: ShortPickShipment, by: Warehouse) -> Response:
    """Report units that are not on their shelf: they leave the shipment and the stock, and are planned again."""
    at = observed_time(body.occurred_at)
    command = ShortPick(shipment_id, units(body.lines))
    return await _tell(by, shipment_id, command, "short pick", at)


@router.post("/shipments/{shipment_id}/recall", response_model=FulfillmentOut)
async def recall(shipment_id: ShipmentId, body: RecallShipment, by: Support) -> Response:
    """Ask the carrier to turn round what is on its way; before the hand-over cancel instead."""
    at = business_time(body.occurred_at)
    command = Recall(shipment_id, body.detail)
    return await _tell(by, shipment_id, command, body.detail or "recall", at)


@router.post("/shipments/{shipment_id}/not-received", response_model=FulfillmentOut)
async def report_not_received(shipment_id: ShipmentId, body: ReportNotReceived, by: Support) -> Response:
    """Report that the customer did not get what the carrier says was delivered: it is in transit again, and the carrier looks
    for it."""
    at = business_time(body.occurred_at)
    command = ReportMissing(shipment_id, at, body.detail, body.tracking)
    return await _tell(by, shipment_id, command, body.detail, at)


@router.post("/shipments/{shipment_id}/reship", response_model=FulfillmentOut)
async def reship(shipment_id: ShipmentId, body: ReshipShipment, by: Support) -> Response:
    """Send again what is lost or came back to us. Cancel it instead where the customer wants the money."""
    at = business_time(body.occurred_at)
    command = Reship(shipment_id, units(body.lines))
    return await _tell(by, shipment_id, command, body.detail or "sent again", at)


@router.get("/stock", tags=["stock"])
async def read_stock(
    request: Request,
    _: Reader,
    sku: Annotated[Id | None, Query()] = None,
    after: Annotated[str | None, Query(max_length=200, description="`next` of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> StockOut:
    """Read the shelves, by sku and location."""
    last_sku, __, last_location = (after or "").partition("@")
    last_sku = last_sku.replace("%40", "@")
    rows = await store.shelves(request.app.state.pool, sku, (last_sku, last_location), limit)
    found = [ShelfOut(**dict(row), free=row["on_hand"] - row["allocated"]) for row in rows]
    return StockOut(
        shelves=found,
        next=shelf_key(found[-1].sku, found[-1].location).removeprefix("stock:") if len(found) == limit else None,
    )


async def _goods(by: CommandRequest, sku: str, location: str, command: ShelfCommand, at: datetime) -> Response:
    def answer(shelf: ShelfState, facts: Sequence[Fact]) -> tuple[int, GoodsOut]:
        recorded = next((fact for fact in facts if isinstance(fact, StockDiscrepancyRecorded)), None)
        is_applied = bool(facts) and recorded is None
        return 201 if is_applied else 200, GoodsOut(
            sku=sku,
            location=location,
            received=shelf.received,
            incoming=shelf.incoming,
            eta=shelf.eta,
            applied=is_applied,
            contradicts=recorded.detail if recorded else None,
        )

    return await by.tell(
        SHELVES,
        shelf_key(sku, location),
        command,
        answer,
        reason="goods received" if isinstance(command, Receive) else "goods expected",
        at=at,
    )


TOLD_BEFORE: Final[dict[int | str, dict[str, Any]]] = {
    200: {"model": GoodsOut, "description": "told before; nothing changed"}
}


@router.post("/stock/receipts", tags=["stock"], status_code=201, response_model=GoodsOut, responses=TOLD_BEFORE)
async def receive_goods(body: ReceiveGoods, by: Warehouse) -> Response:
    """Receive goods. Whoever waits for them is served at once, first placed first."""
    command = Receive(body.receipt_id, body.sku, body.location, body.quantity)
    at = observed_time(body.occurred_at)
    return await _goods(by, body.sku, body.location, command, at)


@router.post("/stock/expectations", tags=["stock"], status_code=201, response_model=GoodsOut, responses=TOLD_BEFORE)
async def expect_goods(body: ExpectGoods, by: Warehouse) -> Response:
    """Announce goods, or announce them anew: backorders get their dates from it."""
    command = Expect(body.sku, body.location, body.incoming, body.eta)
    at = business_time(body.occurred_at)
    return await _goods(by, body.sku, body.location, command, at)


@router.post("/stock/counts", tags=["stock"], response_model=CountOut)
async def count_goods(body: CountGoods, by: Warehouse) -> Response:
    """Count a shelf: the books say so from now on. What is allocated and was not found stays promised until the warehouse
    picks it short; nothing of the shelf is free meanwhile."""

    def answer(_: ShelfState, facts: Sequence[Fact]) -> tuple[int, CountOut]:
        [counted] = [fact for fact in facts if isinstance(fact, StockCounted)]
        on_hand = counted.before + counted.change
        about = {"sku": body.sku, "location": body.location}
        return 200, CountOut(**about, on_hand=on_hand, change=counted.change, missing=counted.missing)

    command = CountUnits(body.sku, body.location, body.counted, body.reason)
    at = observed_time(body.occurred_at)
    return await by.tell(SHELVES, shelf_key(body.sku, body.location), command, answer, reason=body.reason, at=at)


@router.get("/policies", tags=["policies"])
async def read_policies(request: Request, _: Reader) -> list[FulfillmentPolicy]:
    """Read every version of what fulfillment decides by; the one in force when an order was placed binds it."""
    async with request.app.state.pool.acquire(timeout=5) as db:
        return list(await store.policies(db))


def _carrier_secret(settings: FulfillmentSettings) -> str:
    return settings.carrier_webhook_secret.get_secret_value()


@router.post("/webhooks/carrier", tags=["webhooks"], status_code=202)
async def scanned(body: Annotated[SignedBody, signed(_carrier_secret)], commands: Commands) -> ScanOut:
    """Take a carrier's scan, signed. The same scan sent again has no second effect. It is of every parcel that has the
    number; where none has, it is kept and applied when one has: the warehouse may still be reporting the hand-over."""
    told = read_signed(CarrierScan, body)
    at = observed_time(told.occurred_at)
    scan = Scan(carrier=told.carrier, tracking=told.tracking, code=told.code, at=at)
    order_ids, refusal = await scans.track(commands, scans.Scanned(scan, told.detail), at)
    if refusal is not None:
        raise refusal
    if not order_ids:
        await store.keep_scan(commands.pool, scan, told.detail)
    return ScanOut(order_id=next(iter(order_ids), None), order_ids=order_ids, tracking=told.tracking)


@router.get("/scans/unmatched")
async def read_unmatched(
    request: Request, _: Reader, limit: Annotated[int, Query(ge=1, le=500)] = 100
) -> list[UnmatchedScanOut]:
    """Read scans of numbers that no shipment has yet, the newest first."""
    rows = await store.unmatched_scans(request.app.state.pool, limit)
    return [UnmatchedScanOut(**dict(row)) for row in rows]


@router.get("/backorders/failures")
async def read_failures(
    request: Request, _: Reader, limit: Annotated[int, Query(ge=1, le=500)] = 100
) -> list[FailureOut]:
    """Read orders whose backorders could not be served, the newest failure first."""
    return [FailureOut(**dict(row)) for row in await store.failures(request.app.state.pool, limit)]


@router.post("/backorders/failures/{order_id}/retry", status_code=202)
async def retry_backorders(order_id: OrderId, request: Request, _: Operator) -> None:
    """Try to serve them again now, also where that was given up."""
    if not await store.retry(request.app.state.pool, order_id):
        raise HTTPException(404, f"the backorders of {order_id} have not failed")
