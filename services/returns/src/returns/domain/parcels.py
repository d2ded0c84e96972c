"""Reports of the warehouse and the carrier about parcels that come back are never refused: they are applied where they fit,
and recorded where they contradict what is known (I16)."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal, TypeAlias

from returns.domain.dues import consequences
from returns.domain.inspections import inspected
from returns.domain.policies import Binding
from returns.domain.rma import RETURN, ReturnStatus, Rma
from returns.domain.state import OrderReturns, digest_of, evolve, free, name_of
from returns.domain.units import EXPECTED, UnitStatus
from shared.contracts.base import Fact, LineQuantity
from shared.contracts.partners import InspectedUnits, WarehouseUnexpectedItem
from shared.contracts.returns import (
    NOT_HERE,
    ConfirmedUnits,
    InspectionOutcome,
    ObservedItem,
    ObservedLine,
    ReceivedLine,
    ReturnDiscrepancyRecorded,
    ReturnInTransit,
    ReturnItemsInspected,
    ReturnItemsReceived,
    ReturnObservationRecorded,
    ReturnReceivedUnannounced,
    ReturnReopened,
    ReturnUnexpectedItemReceived,
)
from shared.core.machine import Invalid


@dataclass(frozen=True, slots=True)
class RecordScan:
    return_id: str
    tracking: str
    at: datetime


@dataclass(frozen=True, slots=True)
class ReceiveParcel:
    return_id: str
    receipt_id: str
    location: str
    lines: tuple[ObservedLine, ...]
    unexpected: tuple[WarehouseUnexpectedItem, ...]
    at: datetime


@dataclass(frozen=True, slots=True)
class InspectItems:
    return_id: str
    inspection_id: str
    location: str
    lines: tuple[InspectedUnits, ...]
    at: datetime


Observation: TypeAlias = RecordScan | ReceiveParcel | InspectItems
Contradiction: TypeAlias = Literal[
    "unknown_order",
    "no_policy",
    "unknown_return",
    "unknown_line",
    "return_over",
    "quantities",
    "not_delivered",
    "other_article",
    "other_content",
    "empty",
]

AWAITS: Final = frozenset(
    {
        ReturnStatus.APPROVED,
        ReturnStatus.IN_TRANSIT,
        ReturnStatus.PARTIALLY_RECEIVED,
        ReturnStatus.RECEIVED,
        ReturnStatus.INSPECTING,
        ReturnStatus.REOPENED,
    }
)
"""A parcel that arrives in these is looked for among what is expected; in all others it is unexpected."""
UNDECIDED: Final = frozenset({ReturnStatus.REQUESTED, ReturnStatus.UNDER_REVIEW})


def check_named_once(lines: Sequence[LineQuantity]) -> None:
    named = [line.line_id for line in lines]
    for i, line_id in enumerate(named):
        if line_id in named[:i]:
            raise Invalid(f"lines.{i}.line_id", "is named twice")


def observe(state: OrderReturns, command: Observation, binding: Binding | None) -> list[Fact]:
    """Return what follows from a report. `binding` is None where the order is not known yet, or no policy binds it."""
    report = _report(state, command)
    known = state.observed.get(name_of(report), ())
    if digest_of(report) in known or (not known and _is_applied(state, report)):
        return []
    if known:
        detail = f"{report.observation_id} was reported before, with other content"
        return [report, _contradicted(state, report, "other_content", report.lines, detail)]
    if state.purchase is None or binding is None:
        why: Contradiction = "unknown_order" if state.purchase is None else "no_policy"
        text = "the order is not known" if state.purchase is None else "no return policy binds the order"
        waits = report.model_copy(update={"waits": True})
        return [waits, _contradicted(state, waits, why, waits.lines, f"It is applied once it can be: {text}")]
    return applied(state, report, binding)


def applied(state: OrderReturns, report: ReturnObservationRecorded, binding: Binding) -> list[Fact]:
    """Return the report and all that it leads to, of an order that is known."""
    match report.observation:
        case "warehouse.parcel_received":
            return _received(state, report, binding)
        case "warehouse.items_inspected":
            return _inspected(state, report, binding)
        case "carrier.return_scanned":
            return _scanned(state, report, binding)


def retried(state: OrderReturns, binding: Binding) -> list[Fact]:
    """Apply what was reported before the order was known, now that it is."""
    facts: list[Fact] = []
    for report in (one.model_copy(update={"waits": False}) for one in state.waiting):
        one = state.returns.get(report.return_id)
        if one is not None and one.status in UNDECIDED:
            continue
        new = applied(state, report, binding)
        new = new if report.observation != "carrier.return_scanned" or report in new else [report, *new]
        state = _fold(state, new)
        facts += new
    return facts


def decided(state: OrderReturns, return_id: str, binding: Binding) -> list[Fact]:
    """Apply what was reported of a return while it was under review, when it is approved; else it is of no use any more."""
    facts: list[Fact] = []
    for waiting in (one for one in state.waiting if one.return_id == return_id):
        report = waiting.model_copy(update={"waits": False})
        new: list[Fact] = [report]
        after = evolve(state, report)
        one = after.returns[return_id]
        if one.is_decided and report.observation == "carrier.return_scanned":
            new += _in_transit(after, one, report, binding)
        elif one.is_decided:
            found = _divided(one, report.lines)[0]
            new += _told(after, one, report.observation_id, report, found, binding)
        state = _fold(state, new)
        facts += new
    return facts


def _fold(state: OrderReturns, facts: Iterable[Fact]) -> OrderReturns:
    for fact in facts:
        state = evolve(state, fact)
    return state


def _report(state: OrderReturns, command: Observation) -> ReturnObservationRecorded:
    match command:
        case RecordScan():
            return ReturnObservationRecorded(
                order_id=state.order_id,
                observation="carrier.return_scanned",
                observation_id=command.tracking,
                return_id=command.return_id,
                at=command.at,
            )
        case ReceiveParcel():
            return ReturnObservationRecorded(
                order_id=state.order_id,
                observation="warehouse.parcel_received",
                observation_id=command.receipt_id,
                return_id=command.return_id,
                location=command.location,
                lines=command.lines,
                unexpected=tuple(ObservedItem(sku=item.sku, quantity=item.quantity) for item in command.unexpected),
                at=command.at,
            )
        case InspectItems():
            return ReturnObservationRecorded(
                order_id=state.order_id,
                observation="warehouse.items_inspected",
                observation_id=command.inspection_id,
                return_id=command.return_id,
                location=command.location,
                lines=tuple(ObservedLine(**units.model_dump()) for units in command.lines),
                at=command.at,
            )


def _is_applied(state: OrderReturns, report: ReturnObservationRecorded) -> bool:
    """Say whether it was applied: before reports were recorded word by word; or it is a scan, which its tracking number
    tells."""
    one = state.returns.get(report.return_id)
    if one is None:
        return False
    known = {
        "warehouse.parcel_received": one.receipts,
        "warehouse.items_inspected": one.inspections,
        "carrier.return_scanned": one.tracking,
    }
    return report.observation_id in known[report.observation]


def _contradicted(
    state: OrderReturns,
    report: ReturnObservationRecorded,
    contradicts: Contradiction,
    lines: Iterable[ObservedLine],
    detail: str,
) -> ReturnDiscrepancyRecorded:
    return ReturnDiscrepancyRecorded(
        order_id=state.order_id,
        discrepancy_id=f"{state.order_id}-RD{state.discrepancies + 1}",
        observation=report.observation,
        contradicts=contradicts,
        return_id=report.return_id,
        lines=tuple(lines),
        detail=detail,
    )


def _named(state: OrderReturns, return_id: str) -> list[Rma]:
    """Return the return of this id, and the blind ones of goods that came under it; the newest last."""
    return [one for one in state.returns.values() if return_id in (one.return_id, one.announced_as)]


def _about(state: OrderReturns, return_id: str) -> Rma | None:
    """Return the return that is meant: the one of this id, else the newest blind one that came under it."""
    return state.returns.get(return_id) or next(reversed(_named(state, return_id)), None)


def _scanned(state: OrderReturns, report: ReturnObservationRecorded, binding: Binding) -> list[Fact]:
    one = _about(state, report.return_id)
    tracking = report.observation_id
    if one is None:
        detail = f"Parcel {tracking} is on its way back for {report.return_id}, which is no return of the order"
        return [report, _contradicted(state, report, "unknown_return", (), detail)]
    if one.status in UNDECIDED:
        return [report.model_copy(update={"return_id": one.return_id, "waits": True})]
    if moved := _in_transit(state, one, report, binding):
        return moved
    if one.received:
        return []  # a scan that comes after its parcel
    detail = f"Parcel {tracking} is on its way back for {one.return_id}, which is {one.status}"
    return [report, _contradicted(state, report, "return_over", (), detail)]


def _in_transit(state: OrderReturns, one: Rma, report: ReturnObservationRecorded, binding: Binding) -> list[Fact]:
    if not one.is_expecting:
        return []
    moved = ReturnInTransit(
        order_id=state.order_id,
        return_id=one.return_id,
        tracking=report.observation_id,
        expires_at=report.at + timedelta(days=binding.policy.authorization_days),
    )
    return [moved, *consequences(evolve(state, moved), one.return_id, binding, report.at)]


def _received(state: OrderReturns, report: ReturnObservationRecorded, binding: Binding) -> list[Fact]:
    if not report.lines and not report.unexpected:
        detail = f"Parcel {report.observation_id} for {report.return_id} was empty"
        return [report, _contradicted(state, report, "empty", (), detail)]
    ahead = {
        (one.return_id, line_id): line.ahead
        for one in _named(state, report.return_id)
        for line_id, line in one.lines.items()
        if line.ahead
    }
    confirms: list[ConfirmedUnits] = []
    rest: list[ObservedLine] = []
    for line in report.lines:
        left = line.quantity
        for (return_id, line_id), n in ahead.items():
            if line_id == line.line_id and (taken := min(left, n)):
                ahead[return_id, line_id] -= taken
                left -= taken
                confirms.append(ConfirmedUnits(return_id=return_id, line_id=line_id, quantity=taken))
        rest += [line.model_copy(update={"quantity": left})] if left else []
    facts: list[Fact] = [report.model_copy(update={"confirms": tuple(confirms)})]
    return facts + _arrived(_fold(state, facts), report, rest, binding)


def _arrived(
    state: OrderReturns, report: ReturnObservationRecorded, lines: Sequence[ObservedLine], binding: Binding
) -> list[Fact]:
    """Book units that came: as the return expects them; else, where they are the customer's to return, in a blind return,
    which a person decides on; else as items that are none of the order's."""
    one = _about(state, report.return_id)
    facts: list[Fact] = []
    rest: Sequence[ObservedLine] = lines
    if one is not None:
        new, rest = _expected(state, one, report, lines, binding)
        facts += new
        if new and report.observation != "warehouse.items_inspected":
            facts += consequences(_fold(state, new), one.return_id, binding, report.at)
    if not rest and not report.unexpected:
        return facts
    return facts + _unexpected(_fold(state, facts), one, report, rest, binding)


def _expected(
    state: OrderReturns,
    one: Rma,
    report: ReturnObservationRecorded,
    lines: Sequence[ObservedLine],
    binding: Binding,
) -> tuple[list[Fact], list[ObservedLine]]:
    """Return the facts of those that the return expects, and the lines that it does not."""
    reopens = binding.policy.late_parcel_reopens
    is_late = one.status is ReturnStatus.EXPIRED and reopens
    there: dict[str, int] = {}
    for line_id, line in one.lines.items():
        if one.status in UNDECIDED:
            there[line_id] = line.count(UnitStatus.PENDING)
        elif is_late or one.status in AWAITS:
            late = min(line.count(UnitStatus.NOT_ARRIVED), free(state, line_id)) if reopens else 0
            there[line_id] = line.count(*EXPECTED) + late
    came, rest = _least(lines, there)
    if not came:
        return [], rest
    facts: list[Fact] = []
    if is_late:
        detail = f"Parcel {report.observation_id} arrived after the return had expired"
        facts.append(ReturnReopened(order_id=state.order_id, return_id=one.return_id, detail=detail))
    facts.append(_receipt(state, one, report, came))
    strange = [line for line in came if line.sku is not None and not _is_article_of(state, one, line)]
    if strange:
        detail = "Another article came than the one that was ordered or sent"
        facts.append(_contradicted(state, report, "other_article", strange, detail))
    return facts, rest


def _is_article_of(state: OrderReturns, one: Rma, line: ObservedLine) -> bool:
    assert state.purchase is not None
    exchanged = {
        e.sku for other in state.returns.values() for e in other.exchanges.values() if e.line_id == line.line_id
    }
    return line.sku in exchanged | state.where.articles(line.line_id) | {state.purchase.lines[line.line_id].sku}


def _receipt(
    state: OrderReturns, one: Rma, report: ReturnObservationRecorded, came: Iterable[ObservedLine]
) -> ReturnItemsReceived:
    assert state.purchase is not None
    totals = {line_id: line.received for line_id, line in one.lines.items()}
    waiting = {line_id: line.count(*EXPECTED, UnitStatus.PENDING) for line_id, line in one.lines.items()}
    lines = []
    for line in came:
        totals[line.line_id] += line.quantity
        waiting[line.line_id] -= min(line.quantity, waiting[line.line_id])
        is_ordered = line.sku == state.purchase.lines[line.line_id].sku
        lines.append(
            ReceivedLine(
                line_id=line.line_id,
                quantity=line.quantity,
                total=totals[line.line_id],
                sku=None if is_ordered else line.sku,
            )
        )
    return ReturnItemsReceived(
        order_id=state.order_id,
        return_id=one.return_id,
        receipt_id=report.observation_id,
        location=report.location or "",
        lines=tuple(lines),
        complete=not any(waiting.values()),
        by_inspection=report.observation == "warehouse.items_inspected",
    )


def _unexpected(
    state: OrderReturns,
    one: Rma | None,
    report: ReturnObservationRecorded,
    lines: Sequence[ObservedLine],
    binding: Binding,
) -> list[Fact]:
    """Book what no return expects: the order's own units in a blind return, all else beside it; each with what it
    contradicts."""
    assert state.purchase is not None
    bought = state.purchase.lines
    known = [line for line in lines if line.line_id in bought]
    own, surplus = _least(known, {line_id: free(state, line_id) for line_id in bought})
    facts: list[Fact] = []
    blind: Rma | None = None
    if own or one is None:
        opened = _blind(state, report, own, binding)
        facts.append(opened)
        state = evolve(state, opened)
        blind = state.returns[opened.return_id]
        if own:
            facts.append(_receipt(state, blind, report, own))
    beside = one or blind
    assert beside is not None
    items = [(bought[line.line_id].sku if line.sku is None else line.sku, line.quantity) for line in surplus]
    items += [(line.sku, line.quantity) for line in lines if line not in known and line.sku is not None]
    items += [(item.sku, item.quantity) for item in report.unexpected]
    facts += [
        ReturnUnexpectedItemReceived(
            order_id=state.order_id,
            return_id=beside.return_id,
            receipt_id=report.observation_id,
            sku=sku,
            quantity=n,
        )
        for sku, n in items
    ]
    return facts + list(_contradictions(_fold(state, facts), one, report, lines, own, surplus))


def _contradictions(
    state: OrderReturns,
    one: Rma | None,
    report: ReturnObservationRecorded,
    lines: Sequence[ObservedLine],
    own: Sequence[ObservedLine],
    surplus: Sequence[ObservedLine],
) -> Iterator[Fact]:
    assert state.purchase is not None
    found: list[tuple[Contradiction, Sequence[ObservedLine], str]] = []
    if one is not None and own and not (one.announced_as and one.status in UNDECIDED):
        if one.status in AWAITS | UNDECIDED:
            found.append(("quantities", own, f"More came than {one.return_id} expects"))
        else:
            found.append(("return_over", own, f"It came for {one.return_id}, which is {one.status}"))
    if surplus:
        found.append(("not_delivered", surplus, "More came than the customer could send back"))
    if strange := [line for line in lines if line.line_id not in state.purchase.lines]:
        found.append(("unknown_line", strange, "The order has no such line"))
    for contradicts, about, detail in found:
        fact = _contradicted(state, report, contradicts, about, detail)
        yield fact
        state = evolve(state, fact)


def _blind(
    state: OrderReturns, report: ReturnObservationRecorded, lines: Iterable[ObservedLine], binding: Binding
) -> ReturnReceivedUnannounced:
    """Open a blind return under the name that the warehouse gave it; more of what is under review joins it."""
    open_ones = [one for one in _named(state, report.return_id) if one.announced_as and one.status in UNDECIDED]
    return_id = open_ones[-1].return_id if open_ones else f"{state.order_id}-RMA{len(state.returns) + 1}"
    return ReturnReceivedUnannounced(
        order_id=state.order_id,
        return_id=return_id,
        announced_as=report.return_id,
        receipt_id=report.observation_id,
        location=report.location or "",
        lines=tuple(lines),
        received_at=report.at,
        decide_by=report.at + timedelta(days=binding.policy.review_days),
    )


def _least(
    lines: Iterable[ObservedLine], there: Mapping[str, int]
) -> tuple[tuple[ObservedLine, ...], list[ObservedLine]]:
    """Return the lines as far as there are units for them, and what is left over of them."""
    left = dict(there)
    taken: list[ObservedLine] = []
    rest: list[ObservedLine] = []
    for line in lines:
        n = min(line.quantity, left.get(line.line_id, 0))
        left[line.line_id] = left.get(line.line_id, 0) - n
        taken += [line.model_copy(update={"quantity": n})] if n else []
        rest += [line.model_copy(update={"quantity": line.quantity - n})] if line.quantity > n else []
    return tuple(taken), rest


def _inspected(state: OrderReturns, report: ReturnObservationRecorded, binding: Binding) -> list[Fact]:
    """Book an inspection. What is inspected is here: units that no receipt has reported yet count as received by it."""
    facts: list[Fact] = [report]
    here: dict[str, int] = {}
    for one in _named(state, report.return_id):
        for line_id, line in one.lines.items():
            here[line_id] = here.get(line_id, 0) + line.count(UnitStatus.UNINSPECTED)
    came = _least([line for line in report.lines if line.outcome not in NOT_HERE], here)[1]
    if came:
        facts += _arrived(_fold(state, facts), report, came, binding)
    state = _fold(state, facts)
    left: Sequence[ObservedLine] = report.lines
    for one in _named(state, report.return_id):
        found, left = _divided(one, left)
        if not found:
            continue
        inspection_id = report.observation_id
        if one.return_id != report.return_id and report.return_id in state.returns:
            inspection_id = f"{inspection_id[:50]}.{one.return_id.rpartition('-')[2]}"
        new = _told(state, one, inspection_id, report, found, binding)
        state = _fold(state, new)
        facts += new
    if lines := [line for line in left if line.outcome in NOT_HERE]:
        detail = f"No unit of {report.return_id} waits for this finding"
        facts.append(_contradicted(state, report, "quantities", lines, detail))
    return facts


def _divided(one: Rma, lines: Sequence[ObservedLine]) -> tuple[tuple[ObservedLine, ...], list[ObservedLine]]:
    """Divide the findings into those of units that are here in this return, and all others. An item that is none of it is
    found beside."""
    here = {line_id: line.count(UnitStatus.UNINSPECTED) for line_id, line in one.lines.items()}
    extra = [line for line in lines if line.outcome is InspectionOutcome.EXTRA_ITEM]
    units = [line for line in lines if line.outcome is not InspectionOutcome.EXTRA_ITEM]
    # What is in the box comes first: a unit that is not cannot take its place.
    units.sort(key=lambda line: line.outcome is InspectionOutcome.NOT_IN_BOX)
    found, rest = _least(units, here)
    if found or RETURN.admits(one.status, ReturnItemsInspected):
        return (*found, *extra), rest
    return found, rest + extra


def _told(
    state: OrderReturns,
    one: Rma,
    inspection_id: str,
    report: ReturnObservationRecorded,
    found: tuple[ObservedLine, ...],
    binding: Binding,
) -> list[Fact]:
    """Findings of units that a person has to decide on first wait for that; all others are facts at once."""
    if not found:
        return []
    if one.status in UNDECIDED:
        update = {"return_id": one.return_id, "observation_id": inspection_id, "lines": found, "waits": True}
        return [report.model_copy(update=update)]
    facts: list[Fact] = []
    if one.status is ReturnStatus.CLOSED:
        detail = f"Inspection {report.observation_id} came after the return was closed"
        facts.append(ReturnReopened(order_id=state.order_id, return_id=one.return_id, detail=detail))
        state = _fold(state, facts)
    if inspection_id in one.inspections:  # under another name of the same return
        inspection_id = f"{inspection_id[:50]}.{len(one.inspections) + 1}"
    told = inspected(state, state.returns[one.return_id], inspection_id, report.location or "", found, binding)
    return [*facts, told, *consequences(evolve(state, told), one.return_id, binding, report.at)]
