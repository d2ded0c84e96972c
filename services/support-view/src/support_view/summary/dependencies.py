"""What every unit on its way waits for: unit, shipment or backorder, and the thing that has to happen first."""

from collections.abc import Iterator, Sequence

from pydantic import Field

from shared.contracts.base import Model
from support_view.domain.fulfillment import Backorder, ShipmentStatus
from support_view.domain.orders import Status as OrderStatus
from support_view.domain.timeline import Words, day, plain
from support_view.summary.goods import ShipmentState
from support_view.summary.sections import Sections


class Node(Model):
    node_id: str
    kind: str = Field(description="units, shipment, backorder, goods, consent, hold, payment, warehouse or carrier")
    text: str
    about: str | None = Field(description="kind:id whose facts it rests on; a filter of the timeline")
    blocks: bool = Field(description="it is what everything before it waits for")


class Dependencies(Model):
    """A node waits for those that its edges lead to. `text` says the same in a sentence for each that blocks."""

    nodes: tuple[Node, ...]
    edges: tuple[tuple[str, str], ...]
    text: tuple[str, ...]


_OVER = frozenset({ShipmentStatus.DELIVERED, ShipmentStatus.CANCELLED, ShipmentStatus.RETURNED_TO_SENDER})
_IN_HOUSE = frozenset({ShipmentStatus.CREATED, ShipmentStatus.PACKED, ShipmentStatus.HELD})


class _Graph:
    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.edges: dict[tuple[str, str], None] = {}

    def wait(self, waiting: str, id: str, kind: str, text: str, *, about: str | None = None, blocks: bool) -> str:
        """Let `waiting` wait for a node, which is made where it is not there yet."""
        self.nodes.setdefault(id, Node(node_id=id, kind=kind, text=text, about=about, blocks=blocks))
        if waiting:
            self.edges[waiting, id] = None
        return id

    def waiting_for(self, id: str) -> list[str]:
        """Texts of the units behind a node, nearest first written."""
        before = [source for source, target in self.edges if target == id]
        return [text for source in before for text in self.waiting_for(source) or [self.nodes[source].text]]


def dependencies(s: Sections, goods: Sequence[ShipmentState]) -> Dependencies:
    """Of what is not there yet; empty when nothing is awaited."""
    graph = _Graph()
    for state in goods:
        if state.status not in _OVER and state.waits_for:
            _of_shipment(s, graph, state)
    for id, backorder in s.fulfillment.backorders.items():
        if backorder.is_open:
            _of_backorder(s, graph, id, backorder)
    if s.orders.standing == OrderStatus.PLACED and s.orders.placed is not None and not graph.nodes:
        ordered = {line.line_id: line.quantity for line in s.orders.placed.lines}
        units = graph.wait("", "units", "units", s.contents(ordered), blocks=False)
        graph.wait(units, "payment", "payment", "the payment to be authorized", blocks=True)
    return Dependencies(nodes=tuple(graph.nodes.values()), edges=tuple(graph.edges), text=tuple(_sentences(graph)))


def _of_shipment(s: Sections, graph: _Graph, state: ShipmentState) -> None:
    about = f"shipment:{state.shipment_id}"
    shipment = ""
    for line_id, quantity in state.lines.items():
        units = graph.wait(
            "", f"units:{line_id}:{state.shipment_id}", "units", s.words.some(quantity, line_id), blocks=False
        )
        shipment = graph.wait(
            units, about, "shipment", f"{state.title}, {plain(state.status)}", about=about, blocks=False
        )
    if not shipment:
        return
    if state.status not in _IN_HOUSE:
        graph.wait(shipment, f"carrier:{about}", "carrier", state.waits_for, about=about, blocks=True)
    elif holds := [*s.orders.holds] or [*state.holds]:
        for name in holds:
            _of_hold(s, graph, shipment, name)
    else:
        graph.wait(shipment, f"warehouse:{about}", "warehouse", state.waits_for, about=about, blocks=True)


def _of_hold(s: Sections, graph: _Graph, shipment: str, name: str) -> None:
    failures = s.payments.capture_failures if name == "payment" else {}
    hold = graph.wait(shipment, f"hold:{name}", "hold", f"the hold “{plain(name)}” to be released", blocks=not failures)
    for tender_id, code in failures.items():
        text = f"another way to pay: a charge to the {s.words.tender(tender_id)} failed, {plain(code)}"
        graph.wait(hold, f"payment:{tender_id}", "payment", text, about=f"tender:{tender_id}", blocks=True)


def _of_backorder(s: Sections, graph: _Graph, id: str, backorder: Backorder) -> None:
    about = f"backorder:{id}"
    what = s.words.some(backorder.remaining, backorder.line_id)
    units = graph.wait("", f"units:{backorder.line_id}:{id}", "units", what, blocks=False)
    node = graph.wait(units, about, "backorder", f"Backorder of {backorder.remaining}", about=about, blocks=False)
    due = f"due {day(backorder.eta)}" if backorder.eta else "without a date"
    graph.wait(node, f"goods:{backorder.sku}", "goods", f"goods {backorder.sku} {due}", about=about, blocks=True)
    if backorder.consent_due_at:
        text = f"the customer’s choice by {day(backorder.consent_due_at)}"
        graph.wait(node, f"consent:{id}", "consent", text, about=about, blocks=True)


def _sentences(graph: _Graph) -> Iterator[str]:
    """`1 × Chair: waits for goods CHAIR due 12 May 2026`."""
    for id, node in graph.nodes.items():
        if node.blocks:
            yield f"{Words.listed(graph.waiting_for(id))}: waits for {node.text}"
