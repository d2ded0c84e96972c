"""The life of a shipment, and of each of its parcels once it is handed over: both step through the one table.

A shipment of several parcels stands where the parcel that needs most attention stands.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from fulfillment.domain.tracking import EXCEPTIONS, ShipmentStatus, Standing, standing, with_scan
from shared.contracts.base import Fact, LineQuantity
from shared.contracts.fulfillment import (
    Parcel as ToldParcel,
)
from shared.contracts.fulfillment import (
    Scan,
    ScanFact,
    ShipmentCancelled,
    ShipmentDelayed,
    ShipmentDelivered,
    ShipmentDeliveryAttempted,
    ShipmentFact,
    ShipmentFound,
    ShipmentHeld,
    ShipmentLinesRemoved,
    ShipmentLost,
    ShipmentPacked,
    ShipmentRecalled,
    ShipmentRecallRequested,
    ShipmentRelabelled,
    ShipmentRelabelRequested,
    ShipmentReleased,
    ShipmentRepacked,
    ShipmentReturnedToSender,
    ShipmentReturnStarted,
    ShipmentShipped,
    ShipmentTrackingUpdated,
    StockRestocked,
    SubstitutedUnits,
)
from shared.core.machine import Invalid, Machine, NotAllowed, replace

_S = ShipmentStatus
_ON_ITS_WAY: Final[dict[type[Fact], _S | frozenset[_S]]] = {
    ShipmentDelayed: _S.EXCEPTION,
    ShipmentDeliveryAttempted: _S.EXCEPTION,
    ShipmentDelivered: _S.DELIVERED,
    ShipmentLost: _S.LOST,
    ShipmentReturnStarted: _S.RETURNING_TO_SENDER,
    ShipmentRecalled: _S.RETURNING_TO_SENDER,
}

SHIPMENT: Final = Machine(
    name="shipment",
    initial=_S.CREATED,
    transitions={
        _S.CREATED: {
            ShipmentPacked: _S.PACKED,
            ShipmentRelabelRequested: _S.CREATED,
            ShipmentHeld: _S.HELD,
            ShipmentLinesRemoved: _S.CREATED,
            ShipmentCancelled: _S.CANCELLED,
        },
        _S.PACKED: {
            ShipmentShipped: _S.SHIPPED,
            ShipmentRepacked: _S.PACKED,
            ShipmentRelabelRequested: _S.PACKED,
            ShipmentHeld: _S.HELD,
            ShipmentLinesRemoved: _S.PACKED,
            ShipmentCancelled: _S.CANCELLED,
        },
        # A hold blocks the hand-over, not the packing, and holds come and go while it is held. What leaves all the same
        # has left.
        _S.HELD: {
            ShipmentShipped: _S.SHIPPED,
            ShipmentRepacked: _S.HELD,
            ShipmentRelabelRequested: _S.HELD,
            ShipmentRelabelled: _S.HELD,
            ShipmentReleased: frozenset({_S.CREATED, _S.PACKED}),
            ShipmentHeld: _S.HELD,
            ShipmentPacked: _S.HELD,
            ShipmentLinesRemoved: _S.HELD,
            ShipmentCancelled: _S.CANCELLED,
        },
        _S.SHIPPED: {
            ShipmentTrackingUpdated: frozenset({_S.IN_TRANSIT, _S.OUT_FOR_DELIVERY, _S.EXCEPTION}),
            ShipmentRecallRequested: _S.SHIPPED,
            **_ON_ITS_WAY,
        },
        _S.IN_TRANSIT: {
            ShipmentTrackingUpdated: frozenset({_S.OUT_FOR_DELIVERY, _S.EXCEPTION}),
            ShipmentRecallRequested: _S.IN_TRANSIT,
            **_ON_ITS_WAY,
        },
        _S.OUT_FOR_DELIVERY: {
            ShipmentTrackingUpdated: _S.EXCEPTION,
            ShipmentRecallRequested: _S.OUT_FOR_DELIVERY,
            **_ON_ITS_WAY,
        },
        _S.EXCEPTION: {
            ShipmentTrackingUpdated: frozenset({_S.IN_TRANSIT, _S.OUT_FOR_DELIVERY, _S.EXCEPTION}),
            ShipmentRecallRequested: _S.EXCEPTION,
            **_ON_ITS_WAY,
        },
        # The customer says that it was not received.
        _S.DELIVERED: {ShipmentTrackingUpdated: _S.EXCEPTION},
        _S.LOST: {ShipmentFound: _S.IN_TRANSIT},
        # On its way back it may still get lost, or be delivered after all.
        _S.RETURNING_TO_SENDER: {
            ShipmentReturnedToSender: _S.RETURNED_TO_SENDER,
            ShipmentLost: _S.LOST,
            ShipmentDelivered: _S.DELIVERED,
        },
        _S.RETURNED_TO_SENDER: {},
        _S.CANCELLED: {},
    },
)

BEFORE_HAND_OVER: Final = frozenset({_S.CREATED, _S.PACKED, _S.HELD})
ON_ITS_WAY: Final = frozenset({_S.SHIPPED, _S.IN_TRANSIT, _S.OUT_FOR_DELIVERY, _S.EXCEPTION})

_ATTENTION: Final = (
    _S.EXCEPTION,
    _S.LOST,
    _S.RETURNING_TO_SENDER,
    _S.SHIPPED,
    _S.IN_TRANSIT,
    _S.OUT_FOR_DELIVERY,
    _S.RETURNED_TO_SENDER,
    _S.DELIVERED,
)
"""Of parcels that stand differently, the first of these is where the shipment stands."""


@dataclass(frozen=True, slots=True)
class Item:
    """`title` and price are of a substitute, as the customer was told them."""

    line_id: str
    sku: str
    quantity: int
    title: str | None = None
    unit_price_minor: int | None = None


@dataclass(frozen=True, slots=True)
class Parcel:
    """`lines` are the units that count in the ledger: those owed again by a replacement count no longer. `carrier` None: the
    shipment's.

    `scans` is the latest scan of each kind; `reshipped` says that something of it is owed again, `owed` which units.
    """

    parcel_id: str
    lines: dict[str, int]
    tracking: str | None = None
    status: ShipmentStatus = _S.SHIPPED
    scans: dict[str, datetime] = field(default_factory=dict)
    reshipped: bool = False
    owed: dict[str, int] = field(default_factory=dict)
    carrier: str | None = None

    @property
    def has_arrived(self) -> bool:
        """At the customer or back with us, by its scans; a word that it was lost aside."""
        scans = {code: at for code, at in self.scans.items() if code != "lost"}
        return standing(scans).status in (_S.DELIVERED, _S.RETURNED_TO_SENDER)


@dataclass(frozen=True, slots=True)
class Shipment:
    """`number` is what was said of it ("n of m") when it was handed over.

    `again` units of it replace others; `reshipped` units of it are themselves owed again, `settled` ones
    came back and were cancelled. `released` is what was taken out
    of it at last and is still on the shelf, as far as is known: of a cancelled one, what it held. `relabel`
    is since when it needs another label. `others` are numbers (carrier, tracking) that it was said to have and
    that no parcel of it is followed by: their scans are entries and no more.
    """

    shipment_id: str
    location: str
    status: ShipmentStatus = _S.CREATED
    items: tuple[Item, ...] = ()
    parcels: dict[str, Parcel] = field(default_factory=dict)
    carrier: str | None = None
    number: int | None = None
    recall: bool = False
    reshipped: dict[str, int] = field(default_factory=dict)
    again: dict[str, int] = field(default_factory=dict)
    settled: dict[str, int] = field(default_factory=dict)
    released: tuple[Item, ...] = ()
    relabel: datetime | None = None
    others: tuple[tuple[str, str], ...] = ()

    def number_of(self, parcel: Parcel) -> tuple[str, str]:
        """What a carrier scans it by."""
        return parcel.carrier or self.carrier or "", parcel.tracking or ""

    @property
    def is_packed(self) -> bool:
        return bool(self.parcels)

    @property
    def is_live(self) -> bool:
        return self.status is not _S.CANCELLED

    def quantity(self, line_id: str) -> int:
        return sum(item.quantity for item in self.items if item.line_id == line_id)

    def sku(self, line_id: str) -> str:
        return self.article(line_id).sku

    def article(self, line_id: str) -> Item:
        """What its units of a line are: of one article, in one shipment."""
        return next(item for item in (*self.items, *self.released) if item.line_id == line_id)

    def astray(self, line_id: str, *statuses: ShipmentStatus) -> int:
        """Units of its parcels that are lost, or came back: those that stand at one of `statuses`."""
        return sum(p.lines.get(line_id, 0) for p in self.parcels.values() if p.status in statuses)

    @property
    def contents(self) -> dict[str, dict[str, int]]:
        """Units by parcel, as packed."""
        return {name: parcel.lines for name, parcel in self.parcels.items()}

    def again_without(self, line_id: str, quantity: int) -> int:
        """Units of a line that replace others once so many are taken out: the ordered ones go first."""
        return min(self.again.get(line_id, 0), self.quantity(line_id) - quantity)


def quantities(lines: Mapping[str, int]) -> tuple[LineQuantity, ...]:
    return tuple(LineQuantity(line_id=line_id, quantity=units) for line_id, units in lines.items() if units)


def summed(lines: Iterable[tuple[str, int]]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for line_id, units in lines:
        sums[line_id] = sums.get(line_id, 0) + units
    return sums


def numbering(shipments: Iterable[Shipment]) -> dict[str, int]:
    """The n of "n of m": what was said at hand-over stays, the others take the free numbers in their order."""
    live = [shipment for shipment in shipments if shipment.is_live]
    said = {shipment.shipment_id: shipment.number for shipment in live if shipment.number is not None}
    free = iter(sorted(set(range(1, len(live) + 1 + len(said))) - set(said.values())))
    return {s.shipment_id: said[s.shipment_id] if s.shipment_id in said else next(free) for s in live}


def substituted(
    shipment: Shipment, lines: Mapping[str, int], ordered: Mapping[str, str]
) -> tuple[SubstitutedUnits, ...]:
    """Those of the lines that are another article than the one ordered, by line."""
    articles = ((shipment.article(line_id), units) for line_id, units in lines.items() if units)
    return tuple(
        SubstitutedUnits(
            line_id=item.line_id,
            quantity=units,
            sku=item.sku,
            title=item.title,
            unit_price_minor=item.unit_price_minor,
        )
        for item, units in articles
        if item.sku != ordered[item.line_id]
    )


def told_parcels(boxes: Mapping[str, Mapping[str, int]]) -> tuple[ToldParcel, ...]:
    return tuple(ToldParcel(parcel_id=name, lines=quantities(lines)) for name, lines in boxes.items())


def held_by(shipment: Shipment) -> dict[str, int]:
    """Its units by line."""
    return summed((item.line_id, item.quantity) for item in shipment.items)


def pack(order_id: str, shipment: Shipment, parcels: Mapping[str, Mapping[str, int]]) -> Sequence[Fact]:
    """No parcels: everything is in one. What is packed must be what the shipment has."""
    match shipment.status:
        case _S.CREATED | _S.HELD if not shipment.is_packed:
            boxes = parcels or {f"{shipment.shipment_id}-P1": held_by(shipment)}
            _check_packed(shipment, boxes)
            about = {"order_id": order_id, "shipment_id": shipment.shipment_id}
            return [ShipmentPacked(**about, parcels=told_parcels(boxes))]
        case status if status is not _S.CANCELLED and (not parcels or parcels.keys() == shipment.parcels.keys()):
            return []
        case status:
            raise NotAllowed(status, "pack", SHIPMENT.allowed(status))


def _check_packed(shipment: Shipment, parcels: Mapping[str, Mapping[str, int]]) -> None:
    packed = summed((line_id, units) for lines in parcels.values() for line_id, units in lines.items())
    for line_id in {*packed, *(item.line_id for item in shipment.items)}:
        if packed.get(line_id, 0) != shipment.quantity(line_id):
            rule = f"{packed.get(line_id, 0)} of line {line_id} packed, the shipment has {shipment.quantity(line_id)}"
            raise Invalid("parcels.lines", rule)


def recall(order_id: str, shipment: Shipment, detail: str) -> Sequence[Fact]:
    match shipment.status:
        case status if status in ON_ITS_WAY and not shipment.recall:
            return [ShipmentRecallRequested(order_id=order_id, shipment_id=shipment.shipment_id, detail=detail)]
        case status if shipment.recall and status in ON_ITS_WAY | {_S.RETURNING_TO_SENDER, _S.RETURNED_TO_SENDER}:
            return []
        case status:
            raise NotAllowed(status, "recall", SHIPMENT.allowed(status))


def parcel_of(shipments: Iterable[Shipment], carrier: str, tracking: str) -> tuple[Shipment, Parcel] | None:
    """The newest, should a carrier use a number again."""
    found = None
    for shipment in shipments:
        for parcel in shipment.parcels.values():
            if shipment.number_of(parcel) == (carrier, tracking):
                found = shipment, parcel
    return found


def scan_entry(order_id: str, shipments: Iterable[Shipment], scan: Scan, detail: str) -> Sequence[Fact] | None:
    """A scan of a number that none of their parcels is followed by, though one was said to have it; None: none was."""
    for shipment in shipments:
        if (scan.carrier, scan.tracking) in shipment.others:
            told = detail or f"{scan.code.replace('_', ' ')}, of a number that no parcel of it is followed by"
            return [_entry(order_id, shipment, scan, told)]
    return None


def track(
    order_id: str, shipment: Shipment, parcel: Parcel, scan: Scan, detail: str, ordered: Mapping[str, str]
) -> Sequence[Fact]:
    """What a scan makes of its parcel: the facts that lead from where it stood to where all its scans put it.

    `ordered` is the article of each line as ordered.
    """
    if parcel.scans.get(scan.code) == scan.at:
        return []
    was, now = standing(parcel.scans), standing(with_scan(parcel.scans, scan.code, scan.at))
    if shipment.status is _S.CANCELLED:
        is_back = scan.code == "returned" and "returned" not in parcel.scans
        back = _restocked(order_id, shipment, parcel) if is_back else ()
        return [_entry(order_id, shipment, scan, detail), *back]
    if was == now:
        return [_entry(order_id, shipment, scan, detail)]
    facts: list[Fact] = []
    while was != now:
        step = _next(was, now, scan.code)
        facts += _arrive(order_id, shipment, parcel, was, step, scan, detail, ordered)
        was = step
    return facts


def not_received(
    order_id: str, shipment: Shipment, tracking: str | None, at: datetime, detail: str, ordered: Mapping[str, str]
) -> Sequence[Fact]:
    """The customer says that its delivered parcels, or the one named, did not arrive: the carrier has to look for them."""
    named = [p for p in shipment.parcels.values() if tracking in (None, p.tracking)]
    if not named:
        raise Invalid("tracking", f"{tracking} is not a parcel of {shipment.shipment_id}")
    delivered = [p for p in named if p.status is _S.DELIVERED]
    if not delivered and any(standing(p.scans) == Standing(_S.EXCEPTION, "not_received") for p in named):
        return []
    if not delivered or not shipment.is_live:
        raise NotAllowed(shipment.status, "report as not received", (), "nothing of it is said to be delivered")
    facts: list[Fact] = []
    for parcel in delivered:
        # Said of the delivery, whatever the carrier's clock says of it.
        after = max(at, parcel.scans["delivered"] + timedelta(seconds=1))
        carrier, number = shipment.number_of(parcel)
        scan = Scan(carrier=carrier, tracking=number, code="not_received", at=after)
        facts += track(order_id, shipment, parcel, scan, detail, ordered)
    return facts


def _next(was: Standing, now: Standing, code: str) -> Standing:
    """The next step on the way. What no listed step reaches goes by a listed reversal, or by the way back.

    A parcel steps down in rank only after an exception: one that is told late, of before its last scan.
    """
    if was.status is _S.DELIVERED:
        return Standing(_S.EXCEPTION, "not_received")
    if any(source is was.status and target is now.status for source, _, target in _EDGES):
        return now
    if was.status is _S.LOST:
        return Standing(_S.IN_TRANSIT)
    if now.status is _S.RETURNED_TO_SENDER:
        return Standing(_S.RETURNING_TO_SENDER)
    return Standing(_S.EXCEPTION, code)


_EDGES: Final = tuple(SHIPMENT.edges())


def _entry(order_id: str, shipment: Shipment, scan: Scan, detail: str) -> Fact:
    code = scan.code if scan.code in ("in_transit", "out_for_delivery", *EXCEPTIONS[2:]) else "info"
    return ShipmentTrackingUpdated.model_validate(
        {
            "order_id": order_id,
            "shipment_id": shipment.shipment_id,
            "tracking": scan.tracking,
            "code": code,
            "moved": False,
            "detail": detail or (scan.code.replace("_", " ") if code == "info" else ""),
            "scan": scan,
        }
    )


def _arrive(
    order_id: str,
    shipment: Shipment,
    parcel: Parcel,
    was: Standing,
    now: Standing,
    scan: Scan,
    detail: str,
    ordered: Mapping[str, str],
) -> Iterator[Fact]:
    """The facts of one step."""
    about = {"order_id": order_id, "shipment_id": shipment.shipment_id, "scan": scan}
    told = about | {"tracking": scan.tracking, "detail": detail}
    lines = quantities(parcel.lines)
    named = about | {"lines": lines, "substituted": substituted(shipment, parcel.lines, ordered)}
    match now:
        case Standing(_S.IN_TRANSIT) if was.status is _S.LOST:
            yield ShipmentFound(**named, review=parcel.reshipped, replaced=quantities(parcel.owed))
        case Standing(_S.IN_TRANSIT | _S.OUT_FOR_DELIVERY as status):
            yield ShipmentTrackingUpdated(**told, code=status.value, moved=True)
        case Standing(_S.EXCEPTION, "delayed"):
            yield ShipmentDelayed(**told)
        case Standing(_S.EXCEPTION, "attempted"):
            yield ShipmentDeliveryAttempted(**told)
        case Standing(_S.EXCEPTION, kind):
            again = lines if was.status is _S.DELIVERED else ()
            yield ShipmentTrackingUpdated(**told, code=kind, moved=True, lines=again)
        case Standing(_S.DELIVERED):
            yield ShipmentDelivered(**named, replaced=quantities(parcel.owed))
        case Standing(_S.LOST):
            yield ShipmentLost(**named)
        case Standing(_S.RETURNING_TO_SENDER) if scan.code == "recalled":
            yield ShipmentRecalled(**about)
        case Standing(_S.RETURNING_TO_SENDER):
            yield ShipmentReturnStarted(**told)
        case Standing(_S.RETURNED_TO_SENDER):
            yield ShipmentReturnedToSender(**named)
            yield from _restocked(order_id, shipment, parcel)


def _restocked(order_id: str, shipment: Shipment, parcel: Parcel) -> Iterator[Fact]:
    """All that was in it, also what others were sent for."""
    inside = summed((*parcel.lines.items(), *parcel.owed.items()))
    for line_id, units in inside.items():
        yield StockRestocked(
            order_id=order_id,
            sku=shipment.sku(line_id),
            location=shipment.location,
            quantity=units,
            line_id=line_id,
            cause_id=shipment.shipment_id,
        )


def evolve(shipment: Shipment, fact: ShipmentFact) -> Shipment:
    """A shipment after one of its facts; its items change by the facts of their stock."""
    if isinstance(fact, ScanFact):
        return _scanned(shipment, fact)
    if isinstance(fact, ShipmentRecallRequested) and fact.carrier:
        return replace(shipment, carrier=fact.carrier, parcels=_boxes(fact.parcels), recall=True)
    if isinstance(fact, ShipmentRelabelled) and fact.parcel:
        return _renumbered(shipment, fact.parcel)
    target = None
    if isinstance(fact, ShipmentReleased):
        target = _S.PACKED if fact.packed else _S.CREATED
    shipment = replace(shipment, status=SHIPMENT.step(shipment.status, fact, target))
    match fact:
        case ShipmentPacked(parcels=parcels) | ShipmentRepacked(parcels=parcels):
            return replace(shipment, parcels=_boxes(parcels))
        case ShipmentShipped(carrier=carrier, parcels=parcels, number=number):
            return replace(shipment, carrier=carrier, parcels=_boxes(parcels), number=number, relabel=None)
        case ShipmentLinesRemoved(lines=lines):
            return replace(shipment, parcels=_unpacked(shipment.parcels, lines), released=())
        case ShipmentRelabelRequested(requested_at=since):
            return replace(shipment, relabel=since)
        case ShipmentRelabelled():
            return replace(shipment, relabel=None)
        case ShipmentRecallRequested():
            return replace(shipment, recall=True)
        case ShipmentCancelled() | ShipmentHeld() | ShipmentReleased():
            return shipment
        case _:
            raise TypeError(f"{fact.type} is no fact of a shipment's life")


def _boxes(parcels: Iterable[ToldParcel]) -> dict[str, Parcel]:
    return {
        p.parcel_id: Parcel(p.parcel_id, {line.line_id: line.quantity for line in p.lines}, p.tracking) for p in parcels
    }


def _unpacked(parcels: Mapping[str, Parcel], lines: Iterable[LineQuantity]) -> dict[str, Parcel]:
    """Units leave the last parcels first; a parcel that is empty then stays known, since the warehouse may name it."""
    left = {line.line_id: line.quantity for line in lines}
    kept: dict[str, Parcel] = {}
    for name, parcel in reversed(list(parcels.items())):
        inside = dict(parcel.lines)
        for line_id, units in parcel.lines.items():
            taken = min(units, left.get(line_id, 0))
            left[line_id] = left.get(line_id, 0) - taken
            inside[line_id] = units - taken
        kept[name] = replace(parcel, lines={line_id: units for line_id, units in inside.items() if units})
    return dict(reversed(list(kept.items())))


def _scanned(shipment: Shipment, fact: ScanFact) -> Shipment:
    scan = fact.scan
    assert scan is not None
    found = parcel_of([shipment], scan.carrier, scan.tracking)
    if found is None:
        return shipment
    _, parcel = found
    status = parcel.status
    if not isinstance(fact, ShipmentTrackingUpdated):
        status = SHIPMENT.step(status, fact)
    elif fact.moved:
        status = SHIPMENT.step(status, fact, _MOVED_TO.get(fact.code, _S.EXCEPTION))
    parcel = replace(parcel, status=status, scans=with_scan(parcel.scans, scan.code, scan.at))
    return _with_parcels(shipment, {**shipment.parcels, parcel.parcel_id: parcel})


def _with_parcels(shipment: Shipment, parcels: dict[str, Parcel]) -> Shipment:
    """One that was cancelled stays so, wherever its parcels are."""
    status = shipment.status if shipment.status is _S.CANCELLED else overall(parcels.values())
    return replace(shipment, parcels=parcels, status=status)


def _renumbered(shipment: Shipment, told: ToldParcel) -> Shipment:
    """A parcel that is followed by another number starts anew under it; those under one number are one."""
    assert told.carrier is not None and told.tracking is not None
    parcels = {name: replace(p, carrier=p.carrier or shipment.carrier) for name, p in shipment.parcels.items()}
    was = parcels[told.parcel_id]
    known = parcel_of([shipment], told.carrier, told.tracking)
    if known is None:
        now = replace(was, carrier=told.carrier, tracking=told.tracking, status=_S.SHIPPED, scans={})
    else:
        del parcels[was.parcel_id]
        now = parcels[known[1].parcel_id]
        now = replace(
            now,
            lines=summed((*now.lines.items(), *was.lines.items())),
            owed=summed((*now.owed.items(), *was.owed.items())),
            reshipped=now.reshipped or was.reshipped,
        )
    shipment = known_as(replace(shipment, carrier=told.carrier), [shipment.number_of(was)])
    return _with_parcels(shipment, {**parcels, now.parcel_id: now})


def known_as(shipment: Shipment, numbers: Iterable[tuple[str, str]]) -> Shipment:
    """It is, or was, said to have these numbers."""
    return replace(shipment, others=tuple(dict.fromkeys((*shipment.others, *numbers))))


_MOVED_TO: Final = {"in_transit": _S.IN_TRANSIT, "out_for_delivery": _S.OUT_FOR_DELIVERY}


def overall(parcels: Iterable[Parcel]) -> ShipmentStatus:
    """Where a shipment stands that was handed over."""
    return min((parcel.status for parcel in parcels), key=_ATTENTION.index)


def without(shipment: Shipment, line_id: str, sku: str, quantity: int, *, is_on_hand: bool) -> Shipment:
    """Less items: their stock was released."""
    was = next((item for item in shipment.items if item.line_id == line_id), Item(line_id, sku, quantity))
    gone = replace(was, sku=sku, quantity=quantity)
    released = (*shipment.released, gone) if is_on_hand else shipment.released
    again = {**shipment.again, line_id: shipment.again_without(line_id, quantity)}
    items = []
    for item in shipment.items:
        if item.line_id == line_id and item.sku == sku:
            taken = min(item.quantity, quantity)
            quantity -= taken
            item = replace(item, quantity=item.quantity - taken)
        if item.quantity:
            items.append(item)
    again = {name: units for name, units in again.items() if units}
    return replace(shipment, items=tuple(items), again=again, released=released)


def owed_again(
    shipments: Mapping[str, Shipment],
    line_id: str,
    quantity: int,
    was: ShipmentStatus,
    shipment_id: str | None = None,
) -> dict[str, Shipment]:
    """The shipments after units of parcels that stand at `was` have been promised anew: they count no longer there."""
    changed = dict(shipments)
    for id, name, taken in _taken_from(shipments, line_id, quantity, was, shipment_id):
        now = changed[id]
        parcel = _less(now.parcels[name], line_id, taken)
        parcel = replace(parcel, reshipped=True, owed={**parcel.owed, line_id: parcel.owed.get(line_id, 0) + taken})
        changed[id] = replace(
            now,
            parcels={**now.parcels, name: parcel},
            reshipped={**now.reshipped, line_id: now.reshipped.get(line_id, 0) + taken},
        )
    return changed


def settled(shipments: Mapping[str, Shipment], line_id: str, quantity: int) -> dict[str, Shipment]:
    """The shipments after units of parcels that came back were cancelled: they count no longer there."""
    changed = dict(shipments)
    for id, name, taken in _taken_from(shipments, line_id, quantity, _S.RETURNED_TO_SENDER, None):
        now = changed[id]
        changed[id] = replace(
            now,
            parcels={**now.parcels, name: _less(now.parcels[name], line_id, taken)},
            settled={**now.settled, line_id: now.settled.get(line_id, 0) + taken},
        )
    return changed


def _taken_from(
    shipments: Mapping[str, Shipment], line_id: str, quantity: int, was: ShipmentStatus, shipment_id: str | None
) -> Iterator[tuple[str, str, int]]:
    """Shipment, parcel and units: of this shipment first, then of the oldest."""
    for shipment in sorted(shipments.values(), key=lambda s: s.shipment_id != shipment_id):
        for name, parcel in shipment.parcels.items():
            is_counted = parcel.status is was and shipment.is_live
            taken = min(quantity, parcel.lines.get(line_id, 0)) if is_counted else 0
            if taken:
                quantity -= taken
                yield shipment.shipment_id, name, taken


def _less(parcel: Parcel, line_id: str, quantity: int) -> Parcel:
    left = {**parcel.lines, line_id: parcel.lines[line_id] - quantity}
    return replace(parcel, lines={id: units for id, units in left.items() if units})
