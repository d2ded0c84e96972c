"""Allocation turns needs into shipments and backorders, and backorders into shipments. Pure."""

from collections.abc import Sequence
from datetime import datetime

from fulfillment.domain import backorder as backorders_
from fulfillment.domain.planning import Need, Pick, PlannedParcels, Split, plan, shipments_left
from fulfillment.domain.policy import FulfillmentPolicy, in_force
from fulfillment.domain.shipment import Shipment, numbering, quantities, summed
from fulfillment.domain.state import FulfillmentStatus, OrderFulfillment, evolve
from fulfillment.domain.stock import Stock
from shared.contracts.base import Bucket, Fact, LineQuantity
from shared.contracts.fulfillment import (
    BackorderCancelled,
    BackorderConsentSettled,
    BackorderCreated,
    BackorderFilled,
    BackorderSubstituteRefused,
    CancelledUnits,
    FulfillmentLinesCancelled,
    FulfillmentPlanned,
    FulfillmentReplanned,
    PlannedBackorder,
    PlannedShipment,
    ShipmentCreated,
    ShipmentHeld,
    StockAllocated,
    SubstitutedUnits,
)
from shared.contracts.orders import BackorderChoice
from shared.core.machine import Invalid, replace


def binding(state: OrderFulfillment, stock: Stock) -> FulfillmentPolicy:
    """Return the policy that binds the order: the one in force when it was placed."""
    assert state.placed_at is not None
    return in_force(stock.policies, state.placed_at)


def fills_whole(state: OrderFulfillment) -> bool:
    """Say whether its backorders can only be filled all at once."""
    if state.preference.rule == "complete_only":
        return True
    return shipments_left(state.preference, len(state.live_shipments)) == 1


def place(
    state: OrderFulfillment, needs: Sequence[Need], stock: Stock, replaces_shipment_id: str | None = None
) -> list[Fact]:
    """Plan unallocated units: the first plan of an order, or a new one for what has come back or on top."""
    policy = binding(state, stock)
    split = _split(state, needs, stock, policy)
    names = _names(state, split)
    backorders = [
        PlannedBackorder(
            backorder_id=f"{state.order_id}-B{len(state.backorders) + i}",
            line_id=shortage.need.line_id,
            sku=shortage.need.sku,
            quantity=shortage.quantity,
            eta=shortage.eta,
        )
        for i, shortage in enumerate(split.shortages, start=1)
    ]
    planned = tuple(
        PlannedShipment(shipment_id=name, location=parcels.location, lines=_lines(parcels))
        for name, parcels in zip(names, split.shipments, strict=True)
    )
    about = {"order_id": state.order_id, "shipments": planned, "backorders": tuple(backorders)}
    facts: list[Fact] = [
        FulfillmentPlanned(**about, reasons=split.reasons, policy=policy.ref, preference=state.preference)
        if state.status is FulfillmentStatus.OPENED
        else FulfillmentReplanned(**about, reasons=split.reasons, policy=policy.ref)
    ]
    facts += _created(state, split, names, is_waiting=bool(backorders or state.waiting), replaces=replaces_shipment_id)
    facts += [
        BackorderCreated(
            order_id=state.order_id,
            backorder_id=backorder.backorder_id,
            line_id=backorder.line_id,
            sku=backorder.sku,
            quantity=backorder.quantity,
            eta=backorder.eta,
            again=shortage.need.again,
            title=shortage.need.title,
            unit_price_minor=shortage.need.unit_price_minor,
        )
        for backorder, shortage in zip(backorders, split.shortages, strict=True)
    ]
    return facts


def fill(state: OrderFulfillment, stock: Stock, at: datetime) -> list[Fact]:
    """Ship what its backorders wait for as far as it is there; give the rest new dates."""
    waiting = state.waiting
    if not waiting:
        return []
    policy = binding(state, stock)
    needs = [Need(b.line_id, b.sku, b.open, b.backorder_id, b.again, b.title, b.unit_price_minor) for b in waiting]
    split = _split(state, needs, stock, policy)
    facts: list[Fact] = []
    if split.shipments:
        names = _names(state, split)
        planned = tuple(
            PlannedShipment(shipment_id=name, location=parcels.location, lines=_lines(parcels))
            for name, parcels in zip(names, split.shipments, strict=True)
        )
        facts.append(
            FulfillmentReplanned(
                order_id=state.order_id, shipments=planned, backorders=(), reasons=split.reasons, policy=policy.ref
            )
        )
        facts += _created(state, split, names, is_waiting=bool(split.shortages))
    for shortage in split.shortages:
        backorder = state.backorders[str(shortage.need.backorder_id)]
        left = replace(backorder, open=shortage.quantity)
        facts += backorders_.revise(state.order_id, left, shortage.eta, policy, at)
    return facts


def settle_consent(
    state: OrderFulfillment,
    backorder_id: str,
    choice: BackorderChoice,
    substitute_sku: str | None,
    stock: Stock,
    at: datetime,
    *,
    substitute_title: str | None = None,
    substitute_unit_price_minor: int | None = None,
    is_silent: bool = False,
) -> list[Fact]:
    """Do what the customer chose. A backorder that was closed meanwhile needs no choice any more; a substitute that nobody
    ever had on a shelf is refused, and the choice stays open."""
    backorder = state.backorders.get(backorder_id)
    if backorder is None:
        raise Invalid("backorder_id", f"{backorder_id} is not a backorder of {state.order_id}")
    if not backorder.open:
        return []
    if choice is BackorderChoice.SUBSTITUTE and substitute_sku is None:
        raise Invalid("substitute_sku", "is needed to substitute")
    about = {"order_id": state.order_id, "backorder_id": backorder_id, "line_id": backorder.line_id}
    units = backorder.open
    if substitute_sku is not None and not stock.shelves.get(substitute_sku):
        return [
            BackorderSubstituteRefused(
                **about,
                sku=backorder.sku,
                quantity=units,
                substitute_sku=substitute_sku,
                reason_code="unknown_article",
            )
        ]
    settled = BackorderConsentSettled(
        **about,
        sku=backorder.sku,
        quantity=units,
        choice=choice,
        silent=is_silent,
        substitute_sku=substitute_sku,
        substitute_title=substitute_title,
        substitute_unit_price_minor=substitute_unit_price_minor,
        policy=binding(state, stock).ref if is_silent else None,
    )
    closed = BackorderCancelled(**about, sku=backorder.sku, quantity=units, remaining=0)
    facts: list[Fact]
    match choice:
        case BackorderChoice.WAIT:
            return [settled]
        case BackorderChoice.CANCEL:
            gone = CancelledUnits(line_id=backorder.line_id, quantity=units, was=Bucket.BACKORDERED)
            told = FulfillmentLinesCancelled(order_id=state.order_id, cancellation_id=backorder_id, lines=(gone,))
            return [settled, closed, told]
        case BackorderChoice.SUBSTITUTE:
            facts = [settled, closed]
            need = Need(
                backorder.line_id,
                str(substitute_sku),
                units,
                again=backorder.again,
                title=substitute_title,
                unit_price_minor=substitute_unit_price_minor,
            )
            return facts + place(after(state, facts), [need], stock)
        case BackorderChoice.SHIP_AVAILABLE:
            facts = [settled]
            return facts + fill(after(state, facts), stock, at)


def after(state: OrderFulfillment, facts: Sequence[Fact]) -> OrderFulfillment:
    for fact in facts:
        state = evolve(state, fact)
    return state


def _split(state: OrderFulfillment, needs: Sequence[Need], stock: Stock, policy: FulfillmentPolicy) -> Split:
    return plan(state.order_id, needs, stock, state.preference, policy, len(state.live_shipments))


def _names(state: OrderFulfillment, split: Split) -> list[str]:
    first = len(state.shipments) + 1
    return [f"{state.order_id}-S{n}" for n in range(first, first + len(split.shipments))]


def _lines(parcels: PlannedParcels) -> tuple[LineQuantity, ...]:
    return quantities(summed((pick.need.line_id, pick.quantity) for pick in parcels.picks))


def _again(parcels: PlannedParcels) -> tuple[LineQuantity, ...]:
    return quantities(summed((pick.need.line_id, pick.quantity) for pick in parcels.picks if pick.need.again))


def _substituted(state: OrderFulfillment, parcels: PlannedParcels) -> tuple[SubstitutedUnits, ...]:
    sums = summed((pick.need.line_id, pick.quantity) for pick in parcels.picks)
    items = {pick.need.line_id: pick.need for pick in parcels.picks}
    return tuple(
        SubstitutedUnits(
            line_id=line_id,
            quantity=units,
            sku=items[line_id].sku,
            title=items[line_id].title,
            unit_price_minor=items[line_id].unit_price_minor,
        )
        for line_id, units in sums.items()
        if items[line_id].sku != state.lines[line_id].sku
    )


def _created(
    state: OrderFulfillment, split: Split, names: Sequence[str], *, is_waiting: bool, replaces: str | None = None
) -> list[Fact]:
    """Return the facts of new shipments, each followed by where its units come from."""
    new = [Shipment(name, parcels.location) for name, parcels in zip(names, split.shipments, strict=True)]
    numbers = numbering([*state.shipments.values(), *new])
    of = len(numbers) + is_waiting
    left = {b.backorder_id: b.open for b in state.waiting}
    facts: list[Fact] = []
    for shipment, parcels in zip(new, split.shipments, strict=True):
        facts.append(
            ShipmentCreated(
                order_id=state.order_id,
                shipment_id=shipment.shipment_id,
                location=shipment.location,
                lines=_lines(parcels),
                again=_again(parcels),
                number=numbers[shipment.shipment_id],
                of=of,
                replaces_shipment_id=replaces,
                substituted=_substituted(state, parcels),
            )
        )
        for pick in parcels.picks:
            if (backorder_id := pick.need.backorder_id) is not None:
                left[backorder_id] -= pick.quantity
                facts.append(_filled(state, pick, backorder_id, left[backorder_id], shipment.shipment_id))
            facts.append(
                StockAllocated(
                    order_id=state.order_id,
                    sku=pick.need.sku,
                    location=shipment.location,
                    quantity=pick.quantity,
                    line_id=pick.need.line_id,
                    shipment_id=shipment.shipment_id,
                    title=pick.need.title,
                    unit_price_minor=pick.need.unit_price_minor,
                )
            )
        if state.holds:
            facts.append(ShipmentHeld(order_id=state.order_id, shipment_id=shipment.shipment_id, holds=state.holds))
    return facts


def _filled(state: OrderFulfillment, pick: Pick, backorder_id: str, remaining: int, shipment_id: str) -> Fact:
    return BackorderFilled(
        order_id=state.order_id,
        backorder_id=backorder_id,
        line_id=pick.need.line_id,
        sku=pick.need.sku,
        quantity=pick.quantity,
        remaining=remaining,
        shipment_id=shipment_id,
    )
