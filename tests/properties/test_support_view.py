"""The view is a pure function of the set of facts, whatever they say and however they come."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fulfillment.domain.backorder import BACKORDER
from fulfillment.domain.shipment import SHIPMENT
from orders.domain.state import ORDER
from payments.domain.refund import REFUND
from payments.domain.tender import TENDER
from returns.domain.rma import RETURN
from shared.contracts import FACTS, Fact, OrderFact
from shared.contracts.payments import OperationKind, PaymentOperationUnknown, RefundChannel
from shared.contracts.support import SupportFact
from shared.core.machine import Machine
from support_view.domain import fulfillment, orders, payments, returns
from support_view.domain.signals_by_fact import causes_in
from support_view.domain.timeline import SERVICES, Entry, Place, Words, arrange
from support_view.figures.measures import Measured, measured, news
from support_view.projection import ALL, DOMAINS, Projection, fold_contiguous, projection_of, span_to_read
from support_view.summary import holes, summarize
from tests.invented import facts
from tests.telling import ESCALATIONS, START, whole_story

ORDER_FACTS = sorted(
    (fact for fact in FACTS.values() if issubclass(fact, OrderFact | SupportFact)), key=lambda fact: fact.type
)


def entry_of(fact: Fact, sequence: int, id: int = 0) -> Entry:
    return Entry(
        id=str(UUID(int=id or sequence)),
        service=fact.service,
        subject=fact.subject,
        sequence=sequence,
        fact=fact,
        occurred_at=START,
        actor="system:test",
        reason="test",
        correlation_id="test",
    )


class View:
    """What the store does, without a database: rows by id, sections by service, batch by batch."""

    def __init__(self) -> None:
        self.timeline: dict[str, Entry] = {}
        self.sections: dict[str, Projection[Any]] = {}

    def take(self, batch: Iterable[Entry]) -> None:
        told: dict[str, list[Entry]] = defaultdict(list)
        for entry in batch:
            if entry.id not in self.timeline:
                self.timeline[entry.id] = entry
                told[entry.service].append(entry)
        for service, entries in told.items():
            section = self.sections.get(service, projection_of(service))
            sequences = {entry.sequence for entry in entries}
            span = span_to_read(section, sequences)
            if span is not None:
                rows = self.timeline.values()
                entries = [e for e in rows if e.service == service and span.first <= e.sequence <= span.last]
            self.sections[service] = fold_contiguous(service, section, sequences, entries, span)


def viewed(batches: Iterable[Sequence[Entry]]) -> Mapping[str, Projection[Any]]:
    view = View()
    for batch in batches:
        view.take(batch)
    return view.sections


@st.composite
def deliveries(draw: st.DrawFn, entries: Sequence[Entry]) -> list[list[Entry]]:
    """The entries in some order, some of them repeatedly, cut into batches somewhere."""
    again = draw(st.lists(st.sampled_from(entries), max_size=10))
    order = draw(st.permutations([*entries, *again]))
    cuts = sorted(draw(st.sets(st.integers(1, len(order) - 1), max_size=6)))
    return [order[start:end] for start, end in zip([0, *cuts], [*cuts, len(order)], strict=True)]


STORY = whole_story().entries


@settings(max_examples=40, deadline=None)
@given(deliveries(STORY))
def test_any_order_repetition_and_batching_of_the_facts_give_the_same_view(batches: list[list[Entry]]) -> None:
    told_straight = viewed([[entry] for entry in STORY])
    told_anyhow = viewed(batches)
    assert told_anyhow == told_straight
    assert summarize("ORD-1042", told_anyhow, ESCALATIONS) == summarize("ORD-1042", told_straight, ESCALATIONS)


@settings(max_examples=40, deadline=None)
@given(deliveries(STORY))
def test_any_order_repetition_and_batching_of_the_facts_give_the_same_causes_from_facts_that_are_there(
    batches: list[list[Entry]],
) -> None:
    sections = viewed(batches)
    causes = causes_in({service: section.state for service, section in sections.items()})
    straight = viewed([STORY])
    assert causes == causes_in({service: section.state for service, section in straight.items()})
    assert {cause.value for cause in causes} == {"stock_out", "carrier_delay", "system_fault", "customer_remorse"}
    told = {(entry.service, entry.sequence) for entry in STORY}
    assert all(told.issuperset(cause.evidence) for cause in causes.values())


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_causes_of_facts_that_say_anything_rest_on_some_of_them(data: st.DataObject) -> None:
    sections, told = {}, set()
    for service in SERVICES:
        kinds = st.sampled_from([kind for kind in ORDER_FACTS if kind.service == service])
        said = data.draw(st.lists(kinds.flatmap(lambda kind: facts(kind, order_id="a")), max_size=6))
        entries = [entry_of(fact, n) for n, fact in enumerate(said, 1)]
        section = fold_contiguous(service, projection_of(service), {e.sequence for e in entries}, entries, None)
        assert section.next == len(entries) + 1
        sections[service] = section
        told |= {(service, entry.sequence) for entry in entries}
    for cause in causes_in({service: section.state for service, section in sections.items()}).values():
        assert cause.evidence and told.issuperset(cause.evidence)


def counted(sections: Mapping[str, Projection[Any]]) -> dict[tuple[str, str, str], Measured]:
    found = [(service, row) for service, section in sections.items() for row in measured(service, section.state)]
    rows = {(service, row.measure, row.id): row for service, row in found}
    assert len(rows) == len(found), "a row is there twice"
    return rows


@settings(max_examples=40, deadline=None)
@given(deliveries(STORY))
def test_what_figures_count_is_kept_in_step_batch_by_batch_and_depends_on_the_facts_only(
    batches: list[list[Entry]],
) -> None:
    view = View()
    kept: dict[tuple[str, str, str], Measured] = {}
    for batch in batches:
        before = dict(view.sections)
        view.take(batch)
        for service, section in view.sections.items():
            was = before.get(service, projection_of(service))
            changed, gone = news(service, was.state, section.state)
            kept |= {(service, row.measure, row.id): row for row in changed}
            for measure, id in gone:
                del kept[service, measure, id]
    assert kept == counted(view.sections) == counted(viewed([STORY]))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_facts_beyond_a_hole_wait_and_the_hole_is_shown_until_it_closes(data: st.DataObject) -> None:
    late = data.draw(st.sampled_from([entry for entry in STORY if entry.service == "payments"][:-1]))
    seen = [entry for entry in STORY if entry is not late]
    view = View()
    for batch in data.draw(deliveries(seen)):
        view.take(batch)
    assert view.sections["payments"].next == late.sequence
    assert [(hole.service, hole.first, hole.last) for hole in holes(view.sections)] == [
        ("payments", late.sequence, late.sequence)
    ]
    view.take([late])
    assert not list(holes(view.sections))
    assert view.sections == viewed([STORY])


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_of_two_facts_with_one_sequence_the_same_one_counts_whichever_came_first(data: st.DataObject) -> None:
    told = [entry for entry in STORY if entry.service == "payments"][:6]
    rivals = [
        entry_of(data.draw(facts(type(entry.fact), order_id=entry.subject)), entry.sequence, id=10 + entry.sequence)
        for entry in told[:3]
    ]
    assert viewed(data.draw(deliveries([*told, *rivals]))) == viewed([[*told, *rivals]])


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_whatever_valid_facts_say_in_any_sequence_they_fold_are_told_and_can_be_stored(data: st.DataObject) -> None:
    sections = {}
    words = Words()
    for service in SERVICES:
        kinds = [fact for fact in ORDER_FACTS if fact.service == service]
        chosen = data.draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=6), label=service)
        entries = [entry_of(data.draw(facts(kind, order_id="a")), n) for n, kind in enumerate(chosen, 1)]
        section = fold_contiguous(service, projection_of(service), {e.sequence for e in entries}, entries, None)
        assert section.next == len(entries) + 1, "a fact of this service could not be folded"
        domain = DOMAINS[service]
        assert domain.state.validate_json(domain.state.dump_json(section.state)) == section.state
        sections[service] = section
        counted({service: section})
        for entry in entries:
            assert domain.sentences[type(entry.fact)](entry.fact, words)
            if detailed := domain.details.get(type(entry.fact)):
                assert all(isinstance(line, str) for line in detailed(entry.fact, words))
    assert summarize("a", sections, ESCALATIONS)


@pytest.mark.parametrize("kind", ORDER_FACTS, ids=lambda kind: kind.type)
def test_every_class_of_fact_folds_into_its_section(kind: type[Fact]) -> None:
    @settings(max_examples=5, deadline=None, database=None)
    @given(facts(kind, order_id="a"))
    def folds(fact: Fact) -> None:
        entry = entry_of(fact, 1)
        assert fold_contiguous(kind.service, projection_of(kind.service), {1}, [entry], None).next == 2
        assert DOMAINS[kind.service].sentences[kind](fact, Words())

    folds()


def test_every_fact_of_every_service_has_a_sentence() -> None:
    untold = {fact.type for fact in FACTS.values()} - {
        kind.type for domain in DOMAINS.values() for kind in domain.sentences
    }
    assert not untold


@given(st.permutations([Place(e.id, e.service, e.sequence, e.occurred_at, e.causation_id) for e in STORY]))
def test_the_timeline_reads_the_same_whatever_the_rows_come_in(places: list[Place]) -> None:
    read = arrange(places)
    position = {place.id: n for n, place in enumerate(read)}
    assert [place.occurred_at for place in read] == sorted(place.occurred_at for place in places)
    for place in read:
        if place.causation_id is not None:
            assert position[place.causation_id] < position[place.id]
    assert [place.id for place in read] == [place.id for place in arrange(reversed(places))]


def a_tender(status: Any) -> payments.Payments:
    captured = 5 if status == payments.TenderStatus.PARTIALLY_CAPTURED else 0
    tender = payments.Tender(status=status, open_minor=10, captured_minor=captured)
    return payments.Payments(tenders={"a": tender})


def a_refund(status: Any) -> payments.Payments:
    leg = payments.Leg("a", RefundChannel.ORIGINAL, 5, payments.LegStatus.SUBMITTED)
    return payments.Payments(refunds={"a": payments.Refund(status=status, legs={"a": leg})})


def a_shipment(status: Any) -> fulfillment.Fulfillment:
    box = fulfillment.Box("a", {"a": 2}, "a", "a", status)
    boxes = (box,) if status in fulfillment.ATTENTION else ()
    return fulfillment.Fulfillment(shipments={"a": fulfillment.Shipment(status=status, lines={"a": 2}, boxes=boxes)})


def a_backorder(status: Any) -> fulfillment.Fulfillment:
    waiting = fulfillment.Backorder("a", "a", 5, 5, None, status=status)
    return fulfillment.Fulfillment(backorders={"a": waiting})


def a_return(status: Any) -> returns.Returns:
    return returns.Returns(returns={"a": returns.Return(status=status)})


MACHINES: dict[str, tuple[Machine[Any], str, Any, Any, dict[str, Any]]] = {
    "tender": (TENDER, "payments", a_tender, lambda s: s.tenders["a"].status, {"tender_id": "a"}),
    "refund": (REFUND, "payments", a_refund, lambda s: s.refunds["a"].status, {"refund_id": "a", "leg_id": "a"}),
    "shipment": (SHIPMENT, "fulfillment", a_shipment, lambda s: s.shipments["a"].status, {"shipment_id": "a"}),
    "backorder": (BACKORDER, "fulfillment", a_backorder, lambda s: s.backorders["a"].status, {"backorder_id": "a"}),
    "return": (RETURN, "returns", a_return, lambda s: s.returns["a"].status, {"return_id": "a"}),
}
EDGES = [
    (name, source, kind)
    for name, (machine, *_) in MACHINES.items()
    for source, row in machine.transitions.items()
    for kind in row
]


@pytest.mark.parametrize(("name", "source", "kind"), EDGES, ids=lambda part: getattr(part, "type", str(part)))
def test_a_status_is_read_off_the_facts_as_the_machine_of_their_service_moves_it(
    name: str, source: Any, kind: type[Fact]
) -> None:
    machine, service, state_in, status_of, ids = MACHINES[name]
    target = machine.transitions[source][kind]
    allowed = target if isinstance(target, frozenset) else {target}
    fixed = {"order_id": "a"} | {field: id for field, id in ids.items() if field in kind.model_fields}
    if kind.type == "shipment.tracking_updated":
        fixed["moved"] = True
    if "scan" in kind.model_fields:
        fixed["scan"] = {"carrier": "a", "tracking": "a", "code": "a", "at": START}
    reached = set()

    @settings(max_examples=30, deadline=None, database=None, derandomize=True)
    @given(facts(kind, **fixed))
    def moves(fact: Fact) -> None:
        state = DOMAINS[service].fold(state_in(source), entry_of(fact, 1))
        reached.add(str(status_of(state)))

    moves()
    assert reached & {str(status) for status in allowed}
    if not isinstance(target, frozenset) and kind.type not in {"shipment.tracking_updated", "payment.captured"}:
        assert reached == {str(target)}


@pytest.mark.parametrize(
    ("source", "kind"),
    [(source, kind) for source, row in ORDER.transitions.items() for kind in row],
    ids=lambda part: getattr(part, "type", str(part)),
)
def test_the_order_is_read_as_its_machine_moves_it(source: Any, kind: type[Fact]) -> None:
    target = ORDER.transitions[source][kind]
    allowed = {str(status) for status in (target if isinstance(target, frozenset) else [target])}
    pending = orders.Cancellation(START, "agent:ann", "", False, {"a": 1_000_000})
    state = orders.Orders(
        standing=orders.Status.CONFIRMED if str(source) == "cancel_pending" else orders.Status(str(source)),
        cancellations={"c": pending} if str(source) == "cancel_pending" else {},
    )
    fixed: dict[str, Any] = {"order_id": "a"}
    if kind.type == "order.reopened" and allowed == {"confirmed"}:
        fixed["cause"] = "replacement"
    if kind.type == "order.cancellation_requested":
        fixed["lines"] = [{"line_id": "a", "quantity": 1}]

    @settings(max_examples=20, deadline=None, database=None, derandomize=True)
    @given(facts(kind, **fixed))
    def moves(fact: Fact) -> None:
        assert str(orders.fold(state, entry_of(fact, 1)).status) in allowed

    moves()


def test_folding_everything_anew_gives_what_was_folded_bit_by_bit() -> None:
    for service, section in viewed([[entry] for entry in STORY]).items():
        rows = [entry for entry in STORY if entry.service == service]
        assert fold_contiguous(service, section, set(), rows, ALL) == section


def test_an_operation_of_every_kind_is_shown_as_unknown_until_it_is_answered() -> None:
    for kind in OperationKind:
        fact = PaymentOperationUnknown(
            order_id="a", tender_id="a", operation_id="a", amount_minor=5, currency="EUR", kind=kind
        )
        state = payments.fold(payments.Payments(), entry_of(fact, 1))
        assert state.operations["a"].status == payments.OperationStatus.UNKNOWN
