"""The whole system under any schedule: whatever is delivered when, lost or told twice, units and money stay in their places.

A schedule is a list of steps, and every step means something whatever was left out before it, so that a failing one
shrinks to the few sentences that matter. Laws of each service, of the shelves, and across services that hold at any
moment are checked after every step (in `world`); all others once everything has come to rest.
"""

from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final, NamedTuple, TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fulfillment.domain.decide import Recall, Reship, Track
from fulfillment.domain.shipment import BEFORE_HAND_OVER, Shipment
from fulfillment.domain.tracking import ShipmentStatus
from orders.domain.decide import ChangeAddress, GiveConsent, Place, PlaceHold, ReleaseHold, RequestCancellation
from orders.domain.placement import LineRequest, PlacementRequest, TenderRequest
from payments.domain.charge import ChargeStatus
from payments.domain.decide import RetryCaptures, RetryCharge
from payments.domain.operation import OperationStatus
from payments.domain.payout import ApproveRefund as ApproveRefund
from payments.domain.payout import Asked, CancelRefund, RejectRefund, RequestRefund, RerouteRefund
from payments.domain.refund import RefundStatus
from returns.domain.decide import (
    ApproveReturn,
    CancelReturn,
    CloseReturn,
    DeclineReturn,
    GrantException,
    OpenClaim,
    ReopenReturn,
    RequestReturn,
    ResolveClaim,
    SettleDifference,
)
from returns.domain.inspections import RevisedUnits, ReviseInspection
from returns.domain.parcels import RecordScan
from returns.domain.rma import Rma
from returns.domain.units import EXPECTED, UnitStatus
from shared.contracts.base import LineQuantity, TenderKind
from shared.contracts.fulfillment import FulfillmentDiscrepancyRecorded, Scan
from shared.contracts.orders import Address, BackorderChoice, Customer, Hold, ShippingPreference
from shared.contracts.partners import (
    InspectedUnits,
    ParcelTracking,
    PartnerLine,
    PartnerMessage,
    ReturnedUnits,
    WarehouseGoodsExpected,
    WarehouseGoodsReceived,
    WarehouseHandedOver,
    WarehouseItemsInspected,
    WarehousePacked,
    WarehouseParcel,
    WarehouseParcelReceived,
    WarehouseRelabelled,
    WarehouseShortPicked,
)
from shared.contracts.payments import RefundChannel, RefundKind
from shared.contracts.returns import (
    DeclaredCondition,
    Disposition,
    InspectionOutcome,
    Resolution,
    ReturnLine,
    ReturnReason,
)
from tests.properties.world import Broken, Service, World

CUSTOMER: Final = Customer(customer_id="ada", email="ada@example.org", name="Ada")
HOME: Final = Address(name="Ada", street="Main 1", city="Bonn", postal_code="53111", country="DE")
LINES: Final = (
    (LineRequest("mug", "Mug", 2, 1000),),
    (LineRequest("mug", "Mug", 3, 333, tax_minor=7), LineRequest("tea", "Tea", 2, 500, discount_minor=1)),
    (LineRequest("mug", "Mug", 1, 1999), LineRequest("tea", "Tea", 3, 101)),
)
"""Most amounts do not divide by their quantities."""
WIDE: Final = (
    (
        LineRequest("mug", "Mug", 1, 333, tax_minor=7),
        LineRequest("tea", "Tea", 2, 0),
        LineRequest("cup", "Cup", 1, 1),
        LineRequest("mug", "Mug again", 2, 500, discount_minor=1),
        LineRequest("tea", "Tea again", 1, 101),
    ),
    (LineRequest("tea", "Sample", 1, 0), LineRequest("mug", "Mug", 2, 250)),
    (LineRequest("cup", "Cup", 1, 999), LineRequest("mug", "Mug", 1, 0), LineRequest("tea", "Tea", 1, 77)),
)
"""More lines, an article twice, and lines that cost nothing."""
TENDERS: Final[tuple[tuple[tuple[TenderKind, str], ...], ...]] = (
    ((TenderKind.CARD, "ok"),),
    ((TenderKind.GIFT_CARD, "ok"), (TenderKind.CARD, "ok")),
    ((TenderKind.STORE_CREDIT, "ok"), (TenderKind.CARD, "no_capture"), (TenderKind.WALLET, "ok")),
    ((TenderKind.CASH_ON_DELIVERY, "ok"),),
    ((TenderKind.CARD, "no_refund"), (TenderKind.INVOICE, "ok")),
    ((TenderKind.CARD, "ok"), (TenderKind.CARD, "declines")),
    ((TenderKind.CARD, "no_void"), (TenderKind.GIFT_CARD, "ok")),
    ((TenderKind.CARD, "no_capture"),),
    ((TenderKind.CARD, "once"), (TenderKind.WALLET, "ok")),
)
PREFERENCES: Final = (
    ShippingPreference(),
    ShippingPreference(rule="complete_only"),
    ShippingPreference(rule="max_n_shipments", max_shipments=2),
)
SCANS: Final = (
    "delivered",
    "in_transit",
    "lost",
    "returned",
    "not_received",
    "found",
    "delayed",
    "out_for_delivery",
    "returning",
    "recalled",
    "damaged",
    "attempted",
)
FATES: Final = ("answered", "request lost", "answer lost", "request late", "worker dies", "answer late")


class Step(NamedTuple):
    """What is done, to which of those it can be done to, and how; both count round."""

    kind: str
    which: int
    how: int


def pick(candidates: Any, which: int) -> Any:
    """The one that `which` falls on; None where there is none."""
    found = list(candidates)
    return found[which % len(found)] if found else None


# The customer.


def place(world: World, which: int, how: int) -> None:
    if len(world.orders) == 3:
        return
    id = "ABC"[len(world.orders)]
    lines = pick(LINES, which) if which < 27 else pick(WIDE, which)
    tenders, preference = pick(TENDERS, how), pick(PREFERENCES, which + how)
    total = sum(n.quantity * n.unit_price_minor - n.discount_minor + n.tax_minor for n in lines) - 10 + 19 + 401
    first = total // 3 if len(tenders) > 1 else total
    amounts = [first, *[total // 4] * (len(tenders) - 2), total - first - total // 4 * (len(tenders) - 2)]
    request = PlacementRequest(
        placed_at=world.now,
        customer=CUSTOMER,
        ship_to=HOME,
        currency="EUR",
        lines=lines,
        tenders=tuple(
            TenderRequest(kind, token, amount) for (kind, token), amount in zip(tenders, amounts, strict=False)
        ),
        preference=preference,
        discount_minor=10,
        tax_minor=19,
        shipping_minor=401,
    )
    goods = ", ".join(f"{n.quantity} {n.sku}" for n in lines)
    paid = ", ".join(f"{t.amount_minor} by {t.kind} ({t.token})" for t in request.tenders)
    world.orders.append(id)
    world.act(
        Service.ORDERS,
        id,
        Place(id, request, world.now),
        "storefront:shop",
        f"Ada places {id}: {goods}, {preference.rule}, pays {paid}",
    )


def cancel(world: World, which: int, how: int) -> None:
    if id := pick(world.orders, which):
        line_id = pick(world.order(id).lines, how)
        lines = None if how % 3 == 0 else (LineQuantity(line_id=line_id, quantity=1),)
        command = RequestCancellation(at=world.now, lines=lines, detail="changed my mind")
        said = f"Ada cancels {'all' if lines is None else f'1 of line {line_id}'} of {id}"
        world.act(Service.ORDERS, id, command, "customer:ada", said)


def move(world: World, which: int, how: int) -> None:
    if id := pick(world.orders, which):
        command = ChangeAddress(at=world.now, ship_to=HOME.model_copy(update={"street": f"Elsewhere {how}"}))
        world.act(Service.ORDERS, id, command, "customer:ada", f"Ada moves to Elsewhere {how}, {id} is to go there")


def consent(world: World, which: int, how: int) -> None:
    waiting = [(id, b) for id in world.orders for b in world.order(id).backorders]
    if chosen := pick(waiting, which):
        id, backorder_id = chosen
        choice = pick(BackorderChoice, how)
        sku = "cup" if choice is BackorderChoice.SUBSTITUTE else None
        placed = world.order(id).lines[world.order(id).backorders[backorder_id].line_id].placed
        most = placed.goods_minor // placed.quantity
        command = GiveConsent(
            at=world.now,
            backorder_id=backorder_id,
            choice=choice,
            substitute_sku=sku,
            substitute_unit_price_minor=pick((None, most, most - most // 3, 0), which + how) if sku else None,
        )
        world.act(Service.ORDERS, id, command, "customer:ada", f"Ada chooses to {choice} for {backorder_id}")


def ask_return(world: World, which: int, how: int) -> None:
    if id := pick(world.orders, which):
        purchase = world.returns(id).purchase
        if purchase is None:
            return
        line_id = pick(purchase.lines, how)
        resolution = pick((Resolution.REFUND, Resolution.REFUND, *Resolution), how)
        line = ReturnLine(
            line_id=line_id,
            quantity=1 + how % 2,
            reason=pick((ReturnReason.UNWANTED, ReturnReason.DEFECTIVE), which + how),
            condition=pick((DeclaredCondition.UNOPENED, DeclaredCondition.DAMAGED), how // 12),
            exchange_sku="cup" if resolution is Resolution.EXCHANGE else None,
            exchange_unit_price_minor=how * 100 if resolution is Resolution.EXCHANGE and how % 4 else None,
        )
        command = RequestReturn((line,), resolution, "", (), world.now)
        said = f"Ada asks to return {line.quantity} of line {line_id} of {id} for {resolution}"
        world.act(Service.RETURNS, id, command, "customer:ada", said)


PRICES: Final = (None, 40, 2500)
"""Of a cup in exchange: even, cheaper than anything, dearer than anything."""


def exchange(world: World, which: int, how: int) -> None:
    """A unit is exchanged, and comes back as new; or its replacement is sent ahead, and it does not come in time."""
    if (id := pick(world.orders, which)) and (purchase := world.returns(id).purchase):
        line_id = pick(purchase.lines, how)
        is_ahead = how % 4 == 3
        line = ReturnLine(
            line_id=line_id,
            quantity=1,
            reason=ReturnReason.UNWANTED,
            condition=DeclaredCondition.UNOPENED,
            exchange_sku=None if is_ahead else "cup",
            exchange_unit_price_minor=None if is_ahead else pick(PRICES, how % 4),
        )
        resolution = Resolution.REPLACE_IN_ADVANCE if is_ahead else Resolution.EXCHANGE
        said = f"Ada asks for 1 of line {line_id} of {id}: {resolution} at {line.exchange_unit_price_minor}"
        if not world.act(
            Service.RETURNS, id, RequestReturn((line,), resolution, "", (), world.now), "customer:ada", said
        ):
            return
        one = list(world.returns(id).returns.values())[-1]
        if is_ahead:
            world.pass_time(timedelta(days=31), is_punctual=True)
            return
        at = {"occurred_at": world.now, "order_id": id, "return_id": one.return_id, "location": "berlin"}
        back = (ReturnedUnits(line_id=line_id, quantity=1),)
        message = WarehouseParcelReceived(**at, receipt_id=f"p{world.number()}", lines=back)
        world.partner(Service.RETURNS, message, f"It comes back for {one.return_id}")
        as_new = (InspectedUnits(line_id=line_id, quantity=1, outcome=InspectionOutcome.AS_NEW),)
        looked_at = WarehouseItemsInspected(**at, inspection_id=f"i{world.number()}", lines=as_new)
        world.partner(Service.RETURNS, looked_at, f"The warehouse finds it as new for {one.return_id}")


def claim(world: World, which: int, how: int) -> None:
    if id := pick(world.orders, which):
        line_id = pick(world.order(id).lines, how)
        reason = pick((ReturnReason.NOT_RECEIVED, ReturnReason.DEFECTIVE), how // 2)
        command = OpenClaim((LineQuantity(line_id=line_id, quantity=1),), reason, (), world.now)
        world.act(Service.RETURNS, id, command, "customer:ada", f"Ada claims 1 of line {line_id} of {id}: {reason}")


# The shop.


def hold(world: World, which: int, how: int) -> None:
    if id := pick(world.orders, which):
        held = list(world.order(id).holds)
        if held and how % 2:
            released = pick(held, how)
            command: Any = ReleaseHold(at=world.now, hold=released, detail="fine")
            world.act(Service.ORDERS, id, command, "agent:anna", f"Anna releases the hold {released} of {id}")
        else:
            command = PlaceHold(at=world.now, hold=pick((Hold.MANUAL, Hold.FRAUD), how), detail="looks odd")
            world.act(Service.ORDERS, id, command, "agent:anna", f"Anna holds {id} for {command.hold}")


def settle_claim(world: World, which: int, how: int) -> None:
    claims = [(id, c) for id in world.orders for c in world.returns(id).claims]
    if chosen := pick(claims, which):
        id, claim_id = chosen
        outcome = pick(("refunded", "replaced", "rejected"), how)
        command = ResolveClaim(claim_id, outcome, "", world.now)
        world.act(Service.RETURNS, id, command, "agent:anna", f"Anna settles the claim {claim_id}: {outcome}")


def decide_return(world: World, which: int, how: int) -> None:
    if chosen := pick(_returns(world), which):
        id, one = chosen
        about = one.return_id
        command: Any = pick(
            (
                ApproveReturn(about, None, "agent:anna", world.now),
                GrantException(about, None, "supervisor:sam", "kind", world.now),
                DeclineReturn(about, "no", world.now),
                CancelReturn(about, "kept", world.now),
                CloseReturn(about, world.now),
                ReopenReturn(about, "new evidence", (), world.now),
                *(SettleDifference(about, exchange, world.now) for exchange in one.exchanges),
            ),
            how,
        )
        world.act(Service.RETURNS, id, command, "supervisor:sam", f"Sam tells {about}: {type(command).__name__}")


def refund(world: World, which: int, how: int) -> None:
    if id := pick(world.orders, which):
        line_id = pick(world.order(id).lines, how)
        kind = pick((RefundKind.LOST, RefundKind.GOODWILL, RefundKind.PRICE_ADJUSTMENT, RefundKind.CANCELLATION), how)
        lines = {
            RefundKind.LOST: (Asked(line_id, 1, 77),),
            RefundKind.PRICE_ADJUSTMENT: (Asked(line_id, 0, 77),),
        }
        amount = None if kind in lines else 150
        channel = pick((RefundChannel.ORIGINAL, RefundChannel.STORE_CREDIT), how // 4)
        command = RequestRefund(kind, lines.get(kind, ()), amount, "EUR", "agent:anna", world.now, channel=channel)
        is_done = world.act(Service.PAYMENTS, id, command, "agent:anna", f"Anna asks for a refund of {id}, {kind}")
        assert not (is_done and kind is RefundKind.LOST), "lost units are made good by their claim alone"


def decide_refund(world: World, which: int, how: int) -> None:
    refunds = [(id, r.id) for id in world.orders for r in world.account(id).refunds.values()]
    if chosen := pick(refunds, which):
        id, about = chosen
        command: Any = pick(
            (
                ApproveRefund(about, "supervisor:sam", world.now),
                RerouteRefund(about, RefundChannel.STORE_CREDIT, world.now),
                CancelRefund(about, "not needed", world.now),
                RejectRefund(about, "no", "no", world.now),
            ),
            how,
        )
        world.act(Service.PAYMENTS, id, command, "supervisor:sam", f"Sam tells {about}: {type(command).__name__}")


def retry(world: World, which: int, how: int) -> None:
    if id := pick(world.orders, which):
        if exchange := pick(world.account(id).charges, how):
            again = RetryCharge(exchange, world.now)
            world.act(Service.PAYMENTS, id, again, "agent:anna", f"Anna has {exchange} charged again")
        world.act(
            Service.PAYMENTS, id, RetryCaptures(world.now), "agent:anna", f"Anna tries the captures of {id} again"
        )


# Warehouse and carrier.


def _shipments(world: World, *, packed: bool) -> list[tuple[str, Shipment]]:
    return [
        (id, s)
        for id in world.orders
        for s in world.fulfillment(id).shipments.values()
        if s.status in BEFORE_HAND_OVER and s.is_packed == packed
    ]


def pack(world: World, which: int, how: int) -> None:
    if chosen := pick(_shipments(world, packed=False), which):
        id, shipment = chosen
        parcels: tuple[WarehouseParcel, ...] = ()
        if how % 3 == 0 and sum(item.quantity for item in shipment.items) > 1:
            units = [item.line_id for item in shipment.items for _ in range(item.quantity)]
            parcels = tuple(
                WarehouseParcel(parcel_id=f"{shipment.shipment_id}-P{n}", lines=_counted(some))
                for n, some in ((1, units[:1]), (2, units[1:]))
            )
        message = WarehousePacked(occurred_at=world.now, order_id=id, shipment_id=shipment.shipment_id, parcels=parcels)
        said = f"The warehouse packs {shipment.shipment_id} in {len(parcels) or 1}"
        world.partner(Service.FULFILLMENT, message, said)


def _counted(units: list[str]) -> tuple[PartnerLine, ...]:
    return tuple(PartnerLine(line_id=id, quantity=units.count(id)) for id in dict.fromkeys(units))


def short_pick(world: World, which: int, how: int) -> None:
    if chosen := pick(_shipments(world, packed=False), which):
        id, shipment = chosen
        line = PartnerLine(line_id=pick(shipment.items, how).line_id, quantity=1)
        message = WarehouseShortPicked(
            occurred_at=world.now, order_id=id, shipment_id=shipment.shipment_id, lines=(line,)
        )
        said = f"The warehouse cannot find 1 of line {line.line_id} for {shipment.shipment_id}"
        world.partner(Service.FULFILLMENT, message, said)


def hand_over(world: World, which: int, _: int) -> None:
    if chosen := pick(_shipments(world, packed=True), which):
        id, shipment = chosen
        tracking = tuple(
            ParcelTracking(parcel_id=parcel_id, tracking=f"T-{parcel_id}") for parcel_id in shipment.parcels
        )
        message = WarehouseHandedOver(
            occurred_at=world.now, order_id=id, shipment_id=shipment.shipment_id, carrier="dhl", tracking=tracking
        )
        world.partner(Service.FULFILLMENT, message, f"The warehouse hands over {shipment.shipment_id}")


def observe(world: World, which: int, how: int) -> None:
    """The warehouse says anything of any shipment: of one that is held, cancelled, gone or was never planned."""
    known = [(id, s) for id in world.orders for s in world.fulfillment(id).shipments]
    id, shipment_id = pick([*known, ("A", "A-S9"), ("Z", "Z-S1")], which)
    shipment = world.fulfillment(id).shipments.get(shipment_id)
    line_id = pick((*world.fulfillment(id).lines, "X"), how)
    some = (PartnerLine(line_id=line_id, quantity=1 + how % 3),)
    at = {"occurred_at": world.now, "order_id": id, "shipment_id": shipment_id}
    named = [*(shipment.parcels if shipment else ()), f"{shipment_id}-P1", "box"]
    parcels = tuple(dict.fromkeys(named[how % 2 :]))
    message = pick(
        (
            WarehouseHandedOver(
                **at,
                carrier=pick(("dhl", "dhl", "dhl", "ups"), how),
                tracking=tuple(ParcelTracking(parcel_id=n, tracking=f"T-{n}") for n in parcels[: 1 + how % 2]),
            ),
            WarehousePacked(**at, parcels=(WarehouseParcel(parcel_id=parcels[0], lines=some),)),
            WarehousePacked(**at),
            WarehouseShortPicked(**at, lines=some),
            WarehouseRelabelled(**at),
        ),
        how,
    )
    said = f"The warehouse says {type(message).__name__} of {shipment_id}, {some[0].quantity} of line {line_id}"
    world.partner(Service.FULFILLMENT, message, said)


def _under_way(world: World) -> list[tuple[str, tuple[str, str]]]:
    """What a carrier may scan: of which order, by which carrier and number."""
    return [
        (id, number)
        for id in world.orders
        for shipment in world.fulfillment(id).shipments.values()
        if shipment.carrier
        for number in (*(shipment.number_of(parcel) for parcel in shipment.parcels.values()), *shipment.others)
    ]


def scan(world: World, which: int, how: int) -> None:
    """Now and then one that is told late."""
    if chosen := pick(_under_way(world), which):
        id, (carrier, tracking) = chosen
        at = world.now - timedelta(hours=5 if how % 5 == 4 else 0)
        told = Scan(carrier=carrier, tracking=tracking, code=pick(SCANS, how), at=at)
        late = "" if at == world.now else " (5 hours ago)"
        said = f"The carrier scans {told.tracking}: {told.code}{late}"
        world.act(Service.FULFILLMENT, id, Track(told), "partner:carrier", said, at)


def recall(world: World, which: int, _: int) -> None:
    shipped = [(id, s) for id in world.orders for s in world.fulfillment(id).shipments.values() if s.carrier]
    if chosen := pick(shipped, which):
        id, shipment = chosen
        said = f"The shop recalls {shipment.shipment_id}"
        world.act(Service.FULFILLMENT, id, Recall(shipment.shipment_id), "agent:anna", said)


def reship(world: World, which: int, _: int) -> None:
    """What is lost or came back is sent again."""
    astray = (ShipmentStatus.LOST, ShipmentStatus.RETURNED_TO_SENDER)
    shipped = [
        (id, s.shipment_id)
        for id in world.orders
        for s in world.fulfillment(id).shipments.values()
        if any(p.status in astray for p in s.parcels.values())
    ]
    if chosen := pick(shipped, which):
        id, shipment_id = chosen
        world.act(Service.FULFILLMENT, id, Reship(shipment_id), "agent:anna", f"Anna sends {shipment_id} again")


def goods(world: World, which: int, how: int) -> None:
    sku, location = pick(("mug", "tea", "cup"), which), pick(("hamburg", "berlin"), how)
    if how % 4 == 3:
        eta = world.now + timedelta(days=3 * how)
        expected = WarehouseGoodsExpected(occurred_at=world.now, sku=sku, location=location, incoming=how % 3, eta=eta)
        world.partner(Service.FULFILLMENT, expected, f"{how % 3} {sku} are announced in {location}")
        return
    received = WarehouseGoodsReceived(
        occurred_at=world.now, receipt_id=f"g{world.number()}", sku=sku, location=location, quantity=1 + how % 3
    )
    world.partner(Service.FULFILLMENT, received, f"{1 + how % 3} {sku} come in at {location}")


def _returns(world: World) -> list[tuple[str, Rma]]:
    return [(id, one) for id in world.orders for one in world.returns(id).returns.values()]


def receive(world: World, which: int, how: int) -> None:
    if chosen := pick([(id, one) for id, one in _returns(world) if one.is_expecting or how % 5 == 4], which):
        id, one = chosen
        if how % 4 == 3:
            command = RecordScan(one.return_id, f"back-{one.return_id}", world.now)
            said = f"The carrier scans the return {one.return_id}"
            world.act(Service.RETURNS, id, command, "partner:carrier", said)
            return
        line_id = pick(one.lines or world.order(id).lines, how)
        line = one.lines.get(line_id)
        quantity = max(1, line.count(*EXPECTED)) if line and how % 2 else 1
        message = WarehouseParcelReceived(
            occurred_at=world.now,
            order_id=id,
            return_id=one.return_id,
            location="berlin",
            receipt_id=f"p{world.number()}",
            lines=(ReturnedUnits(line_id=line_id, quantity=quantity),),
        )
        said = f"{quantity} of line {line_id} come back for {one.return_id}"
        world.partner(Service.RETURNS, message, said)


def report(world: World, which: int, how: int) -> None:
    """The warehouse says of any return, or of one that nobody knows, whatever it likes; also before the order is known."""
    if id := pick(world.orders, which):
        return_id = pick((*world.returns(id).returns, f"{id}-BOX", f"{id}-BOX", f"{id}-RMA7"), how)
        line_id, quantity = pick((*world.order(id).lines, "none"), which + how), 1 + how % 3
        at = {"occurred_at": world.now, "order_id": id, "return_id": return_id, "location": "berlin"}
        said = f"The warehouse reports {quantity} of line {line_id} for {return_id}"
        if how % 2:
            came = (ReturnedUnits(line_id=line_id, quantity=quantity),)
            message: PartnerMessage = WarehouseParcelReceived(receipt_id=f"p{how % 7}", lines=came, **at)
        else:
            found = (InspectedUnits(line_id=line_id, quantity=quantity, outcome=pick(InspectionOutcome, which)),)
            message = WarehouseItemsInspected(inspection_id=f"i{how % 7}", lines=found, **at)
        world.partner(Service.RETURNS, message, said)


def inspect(world: World, which: int, how: int) -> None:
    waiting = [
        (id, one, line_id)
        for id, one in _returns(world)
        for line_id, line in one.lines.items()
        if line.count(UnitStatus.UNINSPECTED)
    ]
    if chosen := pick(waiting, which):
        id, one, line_id = chosen
        outcome = pick((InspectionOutcome.AS_NEW, *InspectionOutcome), how)
        message = WarehouseItemsInspected(
            occurred_at=world.now,
            order_id=id,
            return_id=one.return_id,
            location="berlin",
            inspection_id=f"i{world.number()}",
            lines=(InspectedUnits(line_id=line_id, quantity=1, outcome=outcome),),
        )
        said = f"The warehouse inspects 1 of line {line_id} of {one.return_id}: {outcome}"
        world.partner(Service.RETURNS, message, said)


def revise(world: World, which: int, how: int) -> None:
    inspected = [(id, one, i) for id, one in _returns(world) for i in one.inspections]
    if chosen := pick(inspected, which):
        id, one, inspection_id = chosen
        line = one.inspections[inspection_id].lines[0]
        outcome = pick(InspectionOutcome, how)
        disposition = Disposition.QUARANTINE if outcome is InspectionOutcome.INCOMPLETE else None
        units = RevisedUnits(line.line_id, line.quantity, outcome, disposition)
        command = ReviseInspection(one.return_id, inspection_id, (units,), world.now)
        said = f"Sam revises the inspection {inspection_id} of {one.return_id}: {outcome}"
        world.act(Service.RETURNS, id, command, "supervisor:sam", said)


# What nobody decides: messages, the processor, time.


def deliver(world: World, which: int, how: int) -> None:
    if queue := pick(world.pending(), which):
        for _ in range(min(1 + how, len(world.queues[queue]))):
            world.deliver(queue)


def let_flow(world: World, which: int, _: int) -> None:
    world.flow(which)


def repeat(world: World, which: int, how: int) -> None:
    if world.heard:
        world.repeat(which * 16 + how)


def ask_processor(world: World, which: int, how: int) -> None:
    if chosen := pick(world.operations(OperationStatus.REQUESTED), which):
        id, operation = chosen
        world.submit(id, operation, pick((*("answered",) * 3, *FATES), how))


def reconcile(world: World, which: int, _: int) -> None:
    if chosen := pick(world.operations(OperationStatus.SUBMITTED, OperationStatus.UNKNOWN), which):
        world.reconcile(*chosen)


def late(world: World, which: int, how: int) -> None:
    if world.late_requests and how % 2:
        world.request_arrives(which)
    elif world.late_answers:
        world.answer_arrives(which)


def notice(world: World, which: int, how: int) -> None:
    if world.notices:
        world.notice(which, is_kept=how % 3 == 0)


def bounce(world: World, which: int, _: int) -> None:
    world.bounce(which)


def dashboard(world: World, which: int, _: int) -> None:
    world.dashboard(which)


def dispute(world: World, which: int, how: int) -> None:
    if how % 2:
        world.end_dispute(which, is_won=how % 4 == 1)
    else:
        world.dispute(which)


def serve(world: World, _: int, __: int) -> None:
    world.serve_the_queue()


def pass_time(world: World, which: int, how: int) -> None:
    world.pass_time(timedelta(days=pick((1, 4, 31, 70), which)), is_punctual=how % 3 > 0)


def go_well(world: World, which: int, how: int) -> None:
    """So far everything goes as it should: a story that begins in the middle."""
    for at in range(how % 8):
        if at == 0 and not world.orders:
            place(world, which, which // 3)
        if at == 1:
            world.come_to_rest()
        if at == 2:
            for _ in range(len(_shipments(world, packed=False))):
                pack(world, 0, which)
        if at == 3:
            for _ in range(len(_shipments(world, packed=True))):
                hand_over(world, 0, 0)
        if at == 4:
            for i in range(len(_under_way(world))):
                scan(world, i, 0)
        if at == 5:
            ask_return(world, 0, which)
        if at == 6:
            receive(world, which, 1)
        if at > 1:
            world.flow(which)


Doing: TypeAlias = Callable[[World, int, int], None]
KINDS: Final[dict[str, tuple[int, Doing]]] = {
    "deliver": (6, deliver),
    "let flow": (5, let_flow),
    "repeat": (2, repeat),
    "ask processor": (7, ask_processor),
    "reconcile": (2, reconcile),
    "late": (2, late),
    "notice": (3, notice),
    "bounce": (1, bounce),
    "dashboard": (1, dashboard),
    "dispute": (1, dispute),
    "serve": (1, serve),
    "time": (1, pass_time),
    "place": (1, place),
    "cancel": (2, cancel),
    "consent": (1, consent),
    "move": (1, move),
    "hold": (1, hold),
    "pack": (3, pack),
    "short pick": (1, short_pick),
    "hand over": (3, hand_over),
    "observe": (3, observe),
    "scan": (5, scan),
    "recall": (1, recall),
    "reship": (1, reship),
    "goods": (2, goods),
    "ask return": (3, ask_return),
    "exchange": (2, exchange),
    "decide return": (2, decide_return),
    "receive": (3, receive),
    "report": (2, report),
    "inspect": (5, inspect),
    "revise": (1, revise),
    "claim": (2, claim),
    "settle claim": (2, settle_claim),
    "refund": (1, refund),
    "decide refund": (2, decide_refund),
    "retry": (1, retry),
    "go well": (3, go_well),
}
"""What may happen next, and how often beside the others."""

step = st.builds(
    Step,
    st.sampled_from([kind for kind, (weight, _) in KINDS.items() for _ in range(weight)]),
    st.integers(0, 15),
    st.integers(0, 15),
)


def begin(world: World, which: int, how: int) -> None:
    """Three mugs and two teas on two shelves, and an order that has come as far as `how` says."""
    for sku, location, quantity in (("mug", "berlin", 2), ("mug", "hamburg", 1), ("tea", "hamburg", 2)):
        message = WarehouseGoodsReceived(
            occurred_at=world.now, receipt_id=f"first-{location}", sku=sku, location=location, quantity=quantity
        )
        world.partner(Service.FULFILLMENT, message, f"{quantity} {sku} lie in {location}")
    place(world, which, which // 3)
    go_well(world, which, how)


def told(which: int, how: int, steps: list[Step]) -> World:
    """The story of a schedule, at rest. What goes wrong in it is raised with its sentences."""
    world = World()
    try:
        begin(world, which, how)
        for kind, of, manner in steps:
            world.now += timedelta(hours=1)
            KINDS[kind][1](world, of, manner)
        world.come_to_rest()
        if found := world.broken_at_rest():
            raise Broken("; ".join(found))
    except Exception as error:
        error.add_note("\n".join(["The story:", *world.said]))
        raise
    return world


@settings(max_examples=2 * settings().max_examples)
@given(st.integers(0, 53), st.integers(0, 7), st.lists(step, max_size=60))
def test_whatever_happens_when_units_and_money_stay_in_their_places(which: int, how: int, steps: list[Step]) -> None:
    told(which, how, steps)


STORIES: Final[dict[str, tuple[int, int, tuple[Step, ...]]]] = {
    "a shipment goes in two parcels, and both are delivered": (0, 5, ()),
    "goods come in and fill a backorder": (2, 2, (Step("goods", 13, 8),)),
    "the customer gives a backorder up and cancels the order before that is heard": (
        2,
        2,
        (Step("consent", 14, 13), Step("cancel", 5, 3)),
    ),
    "a replacement is promised while the carrier takes the delivered parcel back": (
        2,
        5,
        (Step("scan", 0, 8), Step("ask return", 0, 6)),
    ),
    "a lost unit is asked for by hand and refunded by its claim": (
        7,
        4,
        (
            Step("scan", 0, 0),
            Step("scan", 1, 2),
            Step("let flow", 0, 0),
            Step("refund", 0, 0),
            Step("claim", 0, 0),
            Step("settle claim", 0, 0),
        ),
    ),
    "a lost unit is asked for by hand and replaced by its claim": (
        7,
        4,
        (
            Step("scan", 0, 0),
            Step("scan", 1, 2),
            Step("let flow", 0, 0),
            Step("refund", 0, 0),
            Step("claim", 0, 0),
            Step("settle claim", 0, 1),
        ),
    ),
    "a replacement is handed over before the rest of the line": (
        7,
        2,
        (
            Step("pack", 0, 1),
            Step("hand over", 0, 0),
            Step("let flow", 0, 0),
            Step("scan", 0, 0),
            Step("let flow", 0, 0),
            Step("claim", 0, 2),
            Step("settle claim", 0, 1),
            Step("let flow", 0, 0),
            Step("goods", 0, 0),
            Step("serve", 0, 0),
            Step("pack", 1, 1),
            Step("hand over", 0, 0),
        ),
    ),
}
"""Schedules that broke a law once: two that cross, or one that nobody had thought of."""


@pytest.mark.parametrize(("which", "how", "steps"), STORIES.values(), ids=STORIES.keys())
def test_a_story_that_broke_a_law_once_breaks_none(which: int, how: int, steps: tuple[Step, ...]) -> None:
    told(which, how, list(steps))


@pytest.mark.parametrize(("settled", "refunded", "again"), [("refunded", 1, 0), ("replaced", 0, 1)])
def test_a_lost_unit_is_made_good_by_its_claim_and_not_by_a_persons_word(
    settled: str, refunded: int, again: int
) -> None:
    which, how, steps = STORIES[f"a lost unit is asked for by hand and {settled} by its claim"]
    world = told(which, how, list(steps))
    [id] = world.orders
    assert [s for s in world.said if "asks for a refund" in s and "refused" in s]
    [claim] = world.returns(id).claims.values()
    assert claim.is_for_lost and claim.status == settled
    refunds = [r for r in world.account(id).refunds.values() if r.kind is RefundKind.LOST]
    assert [(r.return_id, r.status) for r in refunds] == [(claim.claim_id, RefundStatus.SUCCEEDED)] * refunded
    assert sum(n for s in world.fulfillment(id).shipments.values() for n in s.reshipped.values()) == again


CARD, CASH, TWICE_DECLINED = 0, 3, 8
"""Of `TENDERS`: a card; cash on delivery; a card that declines whatever comes after its order, and a wallet."""
EVEN, CHEAPER, DEARER, AHEAD = range(4)


def exchanged(tenders: int, how: int) -> tuple[World, str]:
    """An order of mugs is delivered, and one of them is exchanged; its rest."""
    world = told(3 * tenders, 5, [Step("exchange", 0, how)])
    return world, world.orders[0]


def at_rest(world: World) -> None:
    world.come_to_rest()
    assert world.broken_at_rest() == []


def standing(world: World, id: str) -> tuple[int, int, ChargeStatus | None]:
    """Of the only exchange: units that may leave, what was charged, and how its charge stands."""
    [found] = [e for one in world.returns(id).returns.values() for e in one.exchanges.values()]
    charges = list(world.account(id).charges.values())
    return found.released, found.charged_minor, charges[0].status if charges else None


@pytest.mark.parametrize(
    ("tenders", "how", "expected"),
    [
        (CARD, EVEN, (1, 0, None)),
        (CARD, CHEAPER, (1, 0, None)),
        (CARD, DEARER, (1, 1495, ChargeStatus.CAPTURED)),
        (CARD, AHEAD, (1, 1005, ChargeStatus.CAPTURED)),
        (TWICE_DECLINED, DEARER, (0, 0, ChargeStatus.FAILED)),
        (CASH, DEARER, (0, 0, ChargeStatus.FAILED)),
    ],
)
def test_an_exchange_leaves_once_its_difference_is_charged(
    tenders: int, how: int, expected: tuple[int, int, ChargeStatus | None]
) -> None:
    world, id = exchanged(tenders, how)
    assert standing(world, id) == expected
    assert Hold.PAYMENT not in world.order(id).holds


def test_a_charge_that_was_declined_goes_to_the_next_tender_when_asked_again() -> None:
    world, id = exchanged(TWICE_DECLINED, DEARER)
    retry(world, 0, 0)
    at_rest(world)
    assert standing(world, id) == (1, 1495, ChargeStatus.CAPTURED)
    [charged] = [t for t in world.account(id).tenders.values() if t.exchange_id and t.captured_minor]
    assert (charged.kind, charged.captured_minor) == (TenderKind.WALLET, 1495)


def test_a_replacement_that_was_charged_is_paid_back_when_its_return_comes_after_all() -> None:
    world, id = exchanged(CARD, AHEAD)
    [one] = world.returns(id).returns.values()
    receive(world, 0, 4)
    inspect(world, 0, 0)
    at_rest(world)
    [due] = world.returns(id).returns[one.return_id].dues.values()
    assert (due.amount_minor, due.is_settled) == (1005, True)
    assert sum(r.amount_minor for r in world.account(id).refunds.values()) == 1005


BACK: Final = (*(Step("scan", n, SCANS.index("returned")) for n in (0, 1)), Step("let flow", 0, 0))
"""Both parcels of two mugs come back to their sender."""


def test_what_came_back_to_its_sender_and_is_cancelled_is_refunded_and_the_order_is_cancelled() -> None:
    world = told(0, 4, [*BACK, Step("cancel", 0, 0)])
    [id] = world.orders
    assert world.order(id).status == "cancelled"
    decide_refund(world, 0, 0)
    at_rest(world)
    account = world.account(id)
    assert account.captured_minor and account.refunded_minor() == account.captured_minor
    assert {sku: at["berlin"].free for sku, at in world.shelves.items() if "berlin" in at} == {"mug": 2}


def test_what_came_back_to_its_sender_and_is_sent_again_completes_the_order_without_a_second_charge() -> None:
    world = told(0, 4, [*BACK, Step("reship", 0, 0)])
    [id] = world.orders
    captured = world.account(id).captured_minor
    for doing in (pack, hand_over, let_flow):
        doing(world, 0, 1)
    scan(world, 2, 0)
    at_rest(world)
    assert world.order(id).status == "completed"
    assert (world.account(id).captured_minor, world.account(id).refunded_minor()) == (captured, 0)


def test_a_claim_of_units_that_were_sent_again_is_refused() -> None:
    world = told(0, 4, [*BACK, Step("reship", 0, 0), Step("let flow", 0, 0), Step("claim", 0, 0)])
    assert [s for s in world.said if "Ada claims" in s and "only 0 lost and in no other claim" in s]


def test_a_cancellation_after_a_held_shipment_left_is_refused_and_the_order_goes_on() -> None:
    """Warehouses hand over what is held; nothing of the order may queue behind that for ever."""
    world = told(0, 2, [Step("pack", 0, 1), Step("hold", 0, 0), Step("let flow", 0, 0), Step("hand over", 0, 0)])
    [id] = world.orders
    assert [f.contradicts for f in discrepancies(world, id)] == ["held"]
    cancel(world, 0, 0)
    assert [s for s in world.said if "Ada cancels all" in s and "nothing is left to cancel" in s]
    hold(world, 0, 1)
    scan(world, 0, 0)
    at_rest(world)
    assert (world.order(id).status, world.order(id).holds) == ("completed", {})


def discrepancies(world: World, id: str) -> list[FulfillmentDiscrepancyRecorded]:
    return [f for f in world.facts(Service.FULFILLMENT, id) if isinstance(f, FulfillmentDiscrepancyRecorded)]
