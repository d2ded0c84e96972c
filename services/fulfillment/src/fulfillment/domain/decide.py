"""Decisions of fulfillment: the one place where commands meet the state of an order. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, TypeAlias

from fulfillment.domain import allocation, cancellation, goods, observations
from fulfillment.domain import shipment as shipments_
from fulfillment.domain.planning import Need
from fulfillment.domain.quantities import HANDED_OVER
from fulfillment.domain.shipment import BEFORE_HAND_OVER, Shipment, quantities, summed
from fulfillment.domain.state import FULFILLMENT, FulfillmentStatus, OrderFulfillment, replaced_on_top, unclaimed
from fulfillment.domain.stock import Stock
from fulfillment.domain.tracking import ShipmentStatus
from shared.contracts.base import Bucket, Fact, LineQuantity
from shared.contracts.fulfillment import (
    CancelledUnits,
    FulfillmentClaimRecorded,
    FulfillmentFundingChanged,
    FulfillmentHoldsChanged,
    FulfillmentOpened,
    FulfillmentPlanned,
    FulfillmentWithdrawn,
    OpenedLine,
    ReplacementCreated,
    Scan,
    ShipmentHeld,
    ShipmentRelabelled,
    ShipmentRelabelRequested,
    ShipmentReleased,
)
from shared.contracts.orders import Address, BackorderChoice, Hold, ShippingPreference
from shared.contracts.returns import InspectedLine
from shared.core.machine import Invalid, NotAllowed

ReplacementReason: TypeAlias = Literal["lost", "damaged", "wrong_item", "exchange"]


@dataclass(frozen=True, slots=True)
class Open:
    placed_at: datetime
    lines: tuple[OpenedLine, ...]
    preference: ShippingPreference


@dataclass(frozen=True, slots=True)
class Plan:
    """The order is confirmed, and paid for until then by what is authorized."""

    funded_until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Fund:
    """An authorization ran out, was renewed, or is not needed any more."""

    until: datetime | None


@dataclass(frozen=True, slots=True)
class Withdraw:
    """The order is rejected."""


@dataclass(frozen=True, slots=True)
class PlaceHold:
    hold: Hold


@dataclass(frozen=True, slots=True)
class ReleaseHold:
    hold: Hold


@dataclass(frozen=True, slots=True)
class ChangeAddress:
    """The address changed: what has not left needs another label, from `at` on."""

    ship_to: Address
    at: datetime


@dataclass(frozen=True, slots=True)
class Relabel:
    """The warehouse put a label of the new address on it, at `at`."""

    shipment_id: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Cancel:
    cancellation_id: str
    lines: tuple[LineQuantity, ...]


@dataclass(frozen=True, slots=True)
class Pack:
    """Parcels by id; none: everything is in one. `is_awaited`: somebody waits for the answer, and may be refused. What is
    said on a topic has happened. `at`: when it was packed; from an address changed before on, under its label."""

    shipment_id: str
    parcels: tuple[tuple[str, tuple[LineQuantity, ...]], ...] = ()
    is_awaited: bool = True
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ShortPick:
    """`is_awaited`: as of Pack."""

    shipment_id: str
    lines: tuple[LineQuantity, ...]
    is_awaited: bool = True


@dataclass(frozen=True, slots=True)
class HandOver:
    """The shipment has left, whoever says so and whatever was planned. Tracking numbers are by parcel id."""

    shipment_id: str
    carrier: str
    tracking: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Track:
    """`shipment_id` None: of the newest shipment that has the number."""

    scan: Scan
    detail: str = ""
    shipment_id: str | None = None


@dataclass(frozen=True, slots=True)
class Recall:
    shipment_id: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class ReportMissing:
    """The customer did not receive what was delivered; `tracking` None: no parcel of the shipment."""

    shipment_id: str
    at: datetime
    detail: str
    tracking: str | None = None


@dataclass(frozen=True, slots=True)
class Reship:
    """Send again what is lost, or came back to us. No lines: all of it that no claim settles."""

    shipment_id: str
    lines: tuple[LineQuantity, ...] = ()


@dataclass(frozen=True, slots=True)
class NoteClaim:
    """The customer claims units that never arrived; none: the claim was rejected."""

    claim_id: str
    lines: tuple[LineQuantity, ...]


@dataclass(frozen=True, slots=True)
class Fill:
    """Goods may have come in, or been announced anew."""

    at: datetime


@dataclass(frozen=True, slots=True)
class SettleConsent:
    backorder_id: str
    choice: BackorderChoice
    substitute_sku: str | None
    at: datetime
    substitute_title: str | None = None
    substitute_unit_price_minor: int | None = None


@dataclass(frozen=True, slots=True)
class TakeSilence:
    """The customer has not answered by `at`."""

    backorder_id: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Inspect:
    inspection_id: str
    location: str
    lines: tuple[InspectedLine, ...]


@dataclass(frozen=True, slots=True)
class ReviseInspection:
    inspection_id: str
    location: str
    before: tuple[InspectedLine, ...]
    after: tuple[InspectedLine, ...]


@dataclass(frozen=True, slots=True)
class Replace:
    """Units to send again; `cause_id` is the return or claim it answers."""

    replacement_id: str
    cause_id: str
    lines: tuple[LineQuantity, ...]
    sku: str
    reason_code: ReplacementReason


Command: TypeAlias = (
    Open
    | Plan
    | Fund
    | Withdraw
    | PlaceHold
    | ReleaseHold
    | ChangeAddress
    | Relabel
    | Cancel
    | Pack
    | ShortPick
    | HandOver
    | Track
    | Recall
    | ReportMissing
    | Reship
    | NoteClaim
    | Fill
    | SettleConsent
    | TakeSilence
    | Inspect
    | ReviseInspection
    | Replace
)

_S: Final = FulfillmentStatus


def decide(state: OrderFulfillment, command: Command, stock: Stock) -> Sequence[Fact]:
    match state.status, command:
        case _, HandOver() | Pack(is_awaited=False) | ShortPick(is_awaited=False):
            facts = _observed(state, command, stock)
            return [*facts, *_labelled(state, command, facts)] if isinstance(command, Pack) else facts
        case _, Relabel(shipment_id=shipment_id):
            if shipment_id not in state.shipments:
                return observations.of_nothing_known(state, observations.RELABELLED, shipment_id, {})
            return _labelled(state, command, ())
        case _, ChangeAddress():
            return _to_relabel(state, command)
        case _S.UNOPENED, Open(placed_at=placed_at, lines=lines, preference=preference):
            return [FulfillmentOpened(order_id=state.order_id, placed_at=placed_at, lines=lines, preference=preference)]
        case ((_S.OPENED | _S.PLANNED | _S.WITHDRAWN), Open()):
            return []
        case _S.OPENED, Plan():
            needs = [
                Need(line.line_id, line.sku, line.of(Bucket.UNALLOCATED))
                for line in state.lines.values()
                if line.of(Bucket.UNALLOCATED)
            ]
            return _funded(allocation.place(state, needs, stock), command.funded_until) if needs else []
        case _S.PLANNED, Plan():
            return []
        case _S.PLANNED, Fund(until=until):
            about = {"order_id": state.order_id, "funded_until": until}
            return [] if until == state.funded_until else [FulfillmentFundingChanged(**about)]
        case _, Fund():
            return []
        case _S.OPENED, Withdraw():
            left = {line_id: line.of(Bucket.UNALLOCATED) for line_id, line in state.lines.items()}
            return [FulfillmentWithdrawn(order_id=state.order_id, lines=quantities(left))]
        case _S.WITHDRAWN, Withdraw() | PlaceHold() | ReleaseHold():
            return []
        case ((_S.OPENED | _S.PLANNED), PlaceHold(hold=hold)):
            return _with_holds(state, sorted({*state.holds, hold}))
        case ((_S.OPENED | _S.PLANNED), ReleaseHold(hold=hold)):
            return _with_holds(state, sorted({*state.holds} - {hold}))
        case ((_S.OPENED | _S.PLANNED | _S.WITHDRAWN), Cancel(cancellation_id=cancellation_id, lines=lines)):
            return cancellation.cancel(state, cancellation_id, lines)
        case _S.PLANNED, Pack() if state.is_unfunded(stock.told_at.get(state.order_id)):
            assert state.funded_until is not None
            detail = f"its payment ran out on {state.funded_until:%d %b %Y}, and is to be authorized again first"
            raise NotAllowed("unfunded", "pack", (), detail)
        case _S.PLANNED, Pack(shipment_id=shipment_id, parcels=parcels):
            facts = shipments_.pack(state.order_id, _shipment(state, shipment_id), _by_parcel(parcels))
            return [*facts, *_labelled(state, command, facts)]
        case _S.PLANNED, ShortPick(shipment_id=shipment_id, lines=lines):
            return cancellation.short_pick(state, _shipment(state, shipment_id), _sums(lines), stock)
        case _S.PLANNED, Track(scan=scan, detail=detail):
            among = [s for s in state.shipments.values() if command.shipment_id in (None, s.shipment_id)]
            found = shipments_.parcel_of(among, scan.carrier, scan.tracking)
            if found is None:
                if scan_entry := shipments_.scan_entry(state.order_id, among, scan, detail):
                    return scan_entry
                raise Invalid("tracking", f"{scan.tracking} of {scan.carrier} is not known")
            recorded = observations.scanned(state, *found, scan.code)
            return [*recorded, *shipments_.track(state.order_id, *found, scan, detail, state.articles)]
        case _S.PLANNED, Recall(shipment_id=shipment_id, detail=detail):
            return shipments_.recall(state.order_id, _shipment(state, shipment_id), detail)
        case _S.PLANNED, ReportMissing(shipment_id=shipment_id, at=at, detail=detail, tracking=tracking):
            shipment = _shipment(state, shipment_id)
            return shipments_.not_received(state.order_id, shipment, tracking, at, detail, state.articles)
        case _S.PLANNED, Reship(shipment_id=shipment_id, lines=lines):
            return _reship(state, _shipment(state, shipment_id), _sums(lines), stock)
        case _, NoteClaim(claim_id=claim_id, lines=lines):
            return _claimed(state, claim_id, _sums(lines))
        case _S.PLANNED, Fill(at=at):
            return allocation.fill(state, stock, at)
        case _S.PLANNED, SettleConsent(backorder_id=backorder_id, choice=choice, substitute_sku=sku, at=at):
            return allocation.settle_consent(
                state,
                backorder_id,
                choice,
                sku,
                stock,
                at,
                substitute_title=command.substitute_title,
                substitute_unit_price_minor=command.substitute_unit_price_minor,
            )
        case _S.PLANNED, TakeSilence(backorder_id=backorder_id, at=at):
            due = state.backorders[backorder_id].consent_due
            if due is None or due > at:
                return []
            choice = allocation.binding(state, stock).silence
            return allocation.settle_consent(state, backorder_id, choice, None, stock, at, is_silent=True)
        case _S.PLANNED, Inspect(inspection_id=inspection_id, location=location, lines=lines):
            return goods.inspect(state, inspection_id, location, lines)
        case _S.PLANNED, ReviseInspection(inspection_id=inspection_id, location=location):
            return goods.revise(state, inspection_id, location, command.before, command.after, stock)
        case _S.PLANNED, Replace():
            return _replace(state, command, stock)
        case status, _:
            raise NotAllowed(status, type(command).__name__, FULFILLMENT.allowed(status))


def _observed(state: OrderFulfillment, command: HandOver | Pack | ShortPick, stock: Stock) -> Sequence[Fact]:
    shipment = state.shipments.get(command.shipment_id)
    match command:
        case HandOver(shipment_id=id, carrier=carrier, tracking=tracking):
            if shipment is None:
                return observations.of_nothing_known(state, observations.HANDED_OVER, id, {})
            return observations.hand_over(state, shipment, carrier, dict(tracking), stock)
        case Pack(shipment_id=id, parcels=parcels):
            # A parcel that is named twice is one parcel.
            boxes = {name: _sums(line for n, lines in parcels if n == name for line in lines) for name, _ in parcels}
            if shipment is None:
                inside = _sums(line for _, lines in parcels for line in lines)
                return observations.of_nothing_known(state, observations.PACKED, id, inside)
            return observations.pack(state, shipment, boxes, stock)
        case ShortPick(shipment_id=id, lines=lines):
            if shipment is None:
                return observations.of_nothing_known(state, observations.SHORT_PICKED, id, _sums(lines))
            return observations.short_pick(state, shipment, _sums(lines), stock)


def _funded(facts: Sequence[Fact], until: datetime | None) -> list[Fact]:
    return [
        fact.model_copy(update={"funded_until": until}) if until and isinstance(fact, FulfillmentPlanned) else fact
        for fact in facts
    ]


def _shipment(state: OrderFulfillment, shipment_id: str) -> Shipment:
    shipment = state.shipments.get(shipment_id)
    if shipment is None:
        raise Invalid("shipment_id", f"{shipment_id} is not a shipment of {state.order_id}")
    return shipment


def _sums(lines: Iterable[LineQuantity]) -> dict[str, int]:
    return summed((line.line_id, line.quantity) for line in lines)


def _by_parcel(parcels: Iterable[tuple[str, tuple[LineQuantity, ...]]]) -> dict[str, dict[str, int]]:
    boxes: dict[str, dict[str, int]] = {}
    for parcel_id, lines in parcels:
        if parcel_id in boxes:
            raise Invalid("parcels.parcel_id", f"{parcel_id} is named twice")
        boxes[parcel_id] = _sums(lines)
    return boxes


def _with_holds(state: OrderFulfillment, holds: Sequence[Hold]) -> list[Fact]:
    """Hold what has not been handed over, as any hold of the order does; what is on its way goes on."""
    if tuple(holds) == state.holds:
        return []
    here = [shipment for shipment in state.shipments.values() if shipment.status in BEFORE_HAND_OVER]
    changed = FulfillmentHoldsChanged(order_id=state.order_id, holds=tuple(holds))
    return [changed, *(_held_or_released(state.order_id, shipment, holds) for shipment in here)]


def _held_or_released(order_id: str, shipment: Shipment, holds: Sequence[Hold]) -> Fact:
    """Hold or release by the order's holds, and by the shipment's own where it needs another label."""
    about = {"order_id": order_id, "shipment_id": shipment.shipment_id}
    if shipment.relabel is not None:
        holds = sorted({*holds, Hold.ADDRESS})
    if holds:
        return ShipmentHeld(**about, holds=tuple(holds))
    return ShipmentReleased(**about, packed=shipment.is_packed)


def _to_relabel(state: OrderFulfillment, command: ChangeAddress) -> list[Fact]:
    """Hold every shipment that is still here until it has another label."""
    facts: list[Fact] = []
    for shipment in state.shipments.values():
        if shipment.status in BEFORE_HAND_OVER:
            asked = ShipmentRelabelRequested(
                order_id=state.order_id,
                shipment_id=shipment.shipment_id,
                ship_to=command.ship_to,
                requested_at=command.at,
            )
            facts += [asked, _held_or_released(state.order_id, shipments_.evolve(shipment, asked), state.holds)]
    return facts


def _labelled(state: OrderFulfillment, command: Pack | Relabel, facts: Sequence[Fact]) -> list[Fact]:
    """Note that it has the label that was asked for, unless what is said happened before that. What is packed is labelled
    anew."""
    shipment = allocation.after(state, facts).shipments.get(command.shipment_id)
    if shipment is None or shipment.relabel is None or shipment.status not in BEFORE_HAND_OVER:
        return []
    if command.at is not None and command.at < shipment.relabel:
        return []
    if isinstance(command, Pack) and not shipment.is_packed:
        return []
    done = ShipmentRelabelled(order_id=state.order_id, shipment_id=shipment.shipment_id)
    return [done, _held_or_released(state.order_id, shipments_.evolve(shipment, done), state.holds)]


def _replace(state: OrderFulfillment, command: Replace, stock: Stock) -> list[Fact]:
    """Owe units again, none of them twice: those that never arrived in their place, all others on top.

    Where returns had them when it promised this, and where the carrier has them now, may differ: of units that were
    handed over none is refused for it.
    """
    if command.replacement_id in state.replacements:
        return []
    moved: list[CancelledUnits] = []
    wanted = _sums(command.lines)
    recorded: list[Fact] = []
    if command.reason_code == "lost" and command.cause_id in state.claims:
        # Of what the claim asks for, what was cancelled or sent again before it was heard of is not owed once more.
        there = {id: min(units, state.claims[command.cause_id].get(id, 0)) for id, units in wanted.items()}
        if there != wanted:
            settled = {id: units - there[id] for id, units in wanted.items()}
            recorded = _settled_before(state, command.replacement_id, settled)
        wanted = {id: units for id, units in there.items() if units}
        if not wanted:
            return recorded
    settled_meanwhile: dict[str, int] = {}
    for line_id, units in wanted.items():
        line = state.lines.get(line_id)
        if line is None:
            raise Invalid("lines.line_id", f"{line_id} is not a line of {state.order_id}")
        sent = line.of(*HANDED_OVER)
        if command.reason_code == "lost":
            for bucket in (Bucket.LOST, Bucket.RETURNED_TO_SENDER):
                gone = min(units, line.of(bucket))
                units, sent = units - gone, sent - gone
                if gone:
                    moved.append(CancelledUnits(line_id=line_id, quantity=gone, was=bucket))
        if (excess := units - max(0, sent - replaced_on_top(state, line_id))) > 0:
            settled_meanwhile[line_id] = excess
    if settled_meanwhile:
        # They came back or were sent again while returns promised this: a person sees to it, and nothing is sent twice.
        recorded += _settled_before(state, command.replacement_id, settled_meanwhile)
        left = {line_id: units - settled_meanwhile.get(line_id, 0) for line_id, units in wanted.items()}
        wanted = {line_id: units for line_id, units in left.items() if units}
        if not wanted:
            return recorded
    created = ReplacementCreated(
        order_id=state.order_id,
        replacement_id=command.replacement_id,
        cause_id=command.cause_id,
        lines=quantities(wanted),
        moved=tuple(moved),
        sku=command.sku,
        reason_code=command.reason_code,
    )
    lost_in = next((s.shipment_id for s in state.shipments.values() if s.status is ShipmentStatus.LOST), None)
    facts = [*recorded, created]
    needs = [Need(line_id, command.sku, units, again=True) for line_id, units in wanted.items()]
    return facts + allocation.place(allocation.after(state, facts), needs, stock, lost_in if moved else None)


_ASTRAY: Final = (ShipmentStatus.LOST, ShipmentStatus.RETURNED_TO_SENDER)


def _reship(state: OrderFulfillment, shipment: Shipment, lines: dict[str, int], stock: Stock) -> Sequence[Fact]:
    """Take units that are lost or came back out of their bucket, and plan them again, as the article that they were."""
    about = shipment.shipment_id
    there: dict[str, int] = {}
    for line_id in dict.fromkeys(item.line_id for item in shipment.items):
        if units := min(shipment.astray(line_id, *_ASTRAY), unclaimed(state, line_id)):
            there[line_id] = units
    for line_id, units in lines.items():
        if units > there.get(line_id, 0):
            rule = f"only {there.get(line_id, 0)} of line {line_id} of {about} are lost or came back and under no claim"
            raise Invalid("lines.quantity", rule)
    wanted = lines or there
    if not wanted:
        detail = f"nothing of {about} is lost or came back that no claim settles: settle the claim, or nothing is owed"
        raise NotAllowed(shipment.status, "reship", (), detail)
    moved: list[CancelledUnits] = []
    for line_id, units in wanted.items():
        left = units
        for status, bucket in zip(_ASTRAY, (Bucket.LOST, Bucket.RETURNED_TO_SENDER), strict=True):
            taken = min(left, shipment.astray(line_id, status))
            left -= taken
            if taken:
                moved.append(CancelledUnits(line_id=line_id, quantity=taken, was=bucket))
    articles = {line_id: shipment.article(line_id) for line_id in wanted}
    skus = {item.sku for item in articles.values()}
    created = ReplacementCreated(
        order_id=state.order_id,
        replacement_id=f"{state.order_id}-A{len(state.replacements) + 1}",
        cause_id=about,
        lines=quantities(wanted),
        moved=tuple(moved),
        sku=next(iter(skus)) if len(skus) == 1 else None,
        reason_code="lost" if any(units.was is Bucket.LOST for units in moved) else "returned_to_sender",
        shipment_id=about,
    )
    needs = [
        Need(line_id, articles[line_id].sku, units, again=True, title=articles[line_id].title)
        for line_id, units in wanted.items()
    ]
    return [created, *allocation.place(allocation.after(state, [created]), needs, stock, about)]


def _claimed(state: OrderFulfillment, claim_id: str, lines: dict[str, int]) -> list[Fact]:
    """Let a claim settle these units from now on. What was cancelled or sent again before it was heard of, it cannot settle
    once more; that is for somebody to look at."""
    before = state.claims.get(claim_id)
    if not lines:
        return (
            [] if before is None else [FulfillmentClaimRecorded(order_id=state.order_id, claim_id=claim_id, lines=())]
        )
    if before is not None:
        return []
    settled: dict[str, int] = {}
    for line_id, units in lines.items():
        if line_id in state.lines:
            ours = state.resent.get(line_id, 0) + sum(s.settled.get(line_id, 0) for s in state.shipments.values())
            settled[line_id] = min(max(0, units - unclaimed(state, line_id)), ours)
    recorded = _settled_before(state, claim_id, settled) if any(settled.values()) else []
    left = quantities({line_id: units - settled.get(line_id, 0) for line_id, units in lines.items()})
    claim = FulfillmentClaimRecorded(order_id=state.order_id, claim_id=claim_id, lines=left)
    return [*recorded, claim] if left else recorded


def _settled_before(state: OrderFulfillment, cause_id: str, lines: dict[str, int]) -> list[Fact]:
    detail = f"{cause_id} is to make good what was cancelled or sent again already"
    return observations.discrepancies(state, "returns.claim", None, [("settled", lines, detail)])
