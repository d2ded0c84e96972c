"""The view and the services that told the facts agree, whatever happened: on every status, every unit, every amount."""

from collections.abc import Sequence
from datetime import timedelta
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from orders.domain.rollups import rollups
from payments.domain.operation import OperationStatus
from payments.domain.state import Account
from returns.domain.state import OrderReturns
from returns.domain.units import BUCKET_OF
from shared.contracts import Fact
from support_view.domain.returns import ReverseBucket
from support_view.picture import draw
from support_view.projection import Projection, fold_contiguous, projection_of
from support_view.summary import Summary, summarize
from tests.properties.test_returns import walk
from tests.properties.test_support_view import entry_of
from tests.properties.test_system import KINDS, Step, begin, step
from tests.properties.world import Service, World
from tests.telling import ESCALATIONS


def seen(*journals: Sequence[Fact]) -> dict[str, Projection[Any]]:
    """The sections of one order, of all that its services told."""
    sections = {}
    for told in filter(None, journals):
        service = told[0].service
        entries = [entry_of(fact, n) for n, fact in enumerate(told, 1)]
        sections[service] = fold_contiguous(
            service, projection_of(service), {e.sequence for e in entries}, entries, None
        )
        assert sections[service].next == len(told) + 1, "a fact could not be folded"
    return sections


def agree_on_fulfillment(order: Any, summary: Summary) -> None:
    told = {id: shipment.status.value for id, shipment in order.shipments.items() if shipment.status != "cancelled"}
    assert {s.shipment_id: s.status.value for s in summary.shipments if s.status != "cancelled"} == told
    waiting = {backorder.backorder_id: backorder.open for backorder in order.waiting}
    assert {b.backorder_id: b.remaining for b in summary.backorders if b.waits_for} == waiting
    for line in summary.lines:
        if line.line_id in order.lines:
            units = {bucket: n for bucket, n in line.forward.items() if n}
            assert units == {bucket: n for bucket, n in order.lines[line.line_id].units.items() if n}, line.line_id


def agree_on_returns(order: OrderReturns, sections: dict[str, Projection[Any]]) -> None:
    if "returns" not in sections:
        return
    view = sections["returns"].state.returns
    assert {id: told.status.value for id, told in view.items()} == {
        id: one.status.value for id, one in order.returns.items()
    }
    for id, one in order.returns.items():
        for line_id, line in one.lines.items():
            units = dict.fromkeys(ReverseBucket, 0)
            for status, n in line.units.items():
                units[ReverseBucket(BUCKET_OF[status].value)] += n
            # What the return has let go of is with the customer, where the view looks for the rest of the delivered.
            units[ReverseBucket.WITH_CUSTOMER] = view[id].units(line_id)[ReverseBucket.WITH_CUSTOMER]
            assert view[id].units(line_id) == units, (id, line_id)


def agree_on_money(account: Account, summary: Summary) -> None:
    view = {tender.tender_id: tender for tender in summary.tenders}
    for id, tender in account.tenders.items():
        amounts = (view[id].authorized.minor, view[id].captured.minor, view[id].voided.minor)
        assert amounts == (tender.authorized_minor, tender.captured_minor, tender.voided_minor), id
        assert view[id].status.value == tender.status.value, id
    refunds = {refund.refund_id: refund for refund in summary.refunds}
    assert {id: refund.status.value for id, refund in refunds.items()} == {
        id: refund.status.value for id, refund in account.refunds.items()
    }
    for id, refund in account.refunds.items():
        legs = [account.operations[leg] for leg in refund.legs]
        paid = sum(leg.amount_minor for leg in legs if leg.status is OperationStatus.SUCCEEDED)
        assert refunds[id].settled.minor == paid, id
    unknown = any(o.status is OperationStatus.UNKNOWN for o in account.operations.values())
    assert summary.rollups.has_unknown == unknown


def agree_on_the_order(order: Any, summary: Summary) -> None:
    assert summary.order.status is not None and summary.order.status.value == order.status.value
    assert {hold.hold for hold in summary.order.holds} == {hold.value for hold in order.holds}
    assert summary.totals.remaining.minor == order.due_minor or order.status in ("cancelled", "rejected")


def agree(world: World) -> None:
    for id in world.orders:
        sections = seen(*(world.facts(service, id) for service in Service))
        summary = summarize(id, sections, ESCALATIONS)
        assert len(draw(summary.dependencies).boxes) == len(summary.dependencies.nodes)
        agree_on_the_order(world.order(id), summary)
        agree_on_money(world.account(id), summary)
        agree_on_fulfillment(world.fulfillment(id), summary)
        agree_on_returns(world.returns(id), sections)


def agree_on_rollups(world: World) -> None:
    """At rest the order has heard all that the view has seen, so both roll up the same."""
    for id in world.orders:
        told = rollups(world.order(id))
        summary = summarize(id, seen(*(world.facts(service, id) for service in Service)), ESCALATIONS)
        view = summary.rollups
        names = {"payment_status", "refund_status", "fulfillment_status", "return_status", "dispute_status"}
        for name in names:
            assert getattr(view, name).value == getattr(told, name).value, name
        assert (view.has_backorder, view.has_lost, view.has_exception) == (
            told.has_backorder,
            told.has_lost,
            told.has_exception,
        )


def play(which: int, how: int, steps: Sequence[Step]) -> World:
    world = World()
    begin(world, which, how)
    for kind, of, manner in steps:
        world.now += timedelta(hours=1)
        KINDS[kind][1](world, of, manner)
    return world


@settings(max_examples=60)
@given(st.integers(0, 23), st.integers(0, 7), st.lists(step, max_size=40))
def test_at_any_moment_the_view_agrees_with_each_service_and_at_rest_with_the_order_on_its_rollups(
    which: int, how: int, steps: list[Step]
) -> None:
    world = play(which, how, steps)
    agree(world)
    world.come_to_rest()
    agree(world)
    agree_on_rollups(world)


@settings(max_examples=60)
@given(st.randoms(use_true_random=False), st.integers(1, 40))
def test_returns_and_their_units_are_where_the_returns_service_has_them(chance: Random, steps: int) -> None:
    story = walk(chance, steps)
    agree_on_returns(story.state, seen(story.facts))
