"""The view and the service that told the facts agree, whatever happened: on every status, and on where every unit is."""

from collections.abc import Sequence
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from fulfillment.domain.ledger import OrderFulfillment
from returns.domain.units import BUCKET_OF
from shared.contracts import Fact, OrderFact
from shared.contracts.base import Bucket
from support_view.domain.fulfillment import Fulfillment
from support_view.domain.returns import ReverseBucket
from support_view.projection import Section, advance, section_of
from support_view.summary.quantities import forward
from support_view.summary.sections import side_by_side
from tests.properties.test_fulfillment import worlds
from tests.properties.test_returns import walk
from tests.properties.test_support_view import entry_of
from tests.unit.fulfillment_world import World


def seen(facts: Sequence[Fact]) -> dict[str, Section[Any]]:
    """Sections of the facts one service told of one order."""
    told = [entry_of(fact, n) for n, fact in enumerate((f for f in facts if isinstance(f, OrderFact)), 1)]
    service = told[0].service
    section = advance(service, section_of(service), {e.sequence for e in told}, told, None)
    assert section.next == len(told) + 1
    return {service: section}


@settings(max_examples=60, deadline=None)
@given(worlds())
def test_shipments_backorders_and_units_are_where_fulfillment_has_them(world: World) -> None:
    for order_id, order in world.orders.items():
        sections = seen(world.journal[order_id])
        view: Fulfillment = sections["fulfillment"].state
        told: OrderFulfillment = order
        live = {id: s for id, s in view.shipments.items() if s.is_live}
        assert {id: s.status.value for id, s in live.items()} == {
            id: s.status.value for id, s in told.shipments.items() if s.status.value != "cancelled"
        }
        assert {id: b.remaining for id, b in view.backorders.items() if b.is_open} == {
            b.backorder_id: b.open for b in told.waiting
        }
        s = side_by_side(sections)
        for line_id, line in told.lines.items():
            units = {bucket: n for bucket, n in forward(s, line_id, line.ordered).items() if n}
            assert units == {bucket: n for bucket, n in line.units.items() if n}, line_id


@settings(max_examples=60, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 40))
def test_returns_and_their_units_are_where_returns_has_them(chance: Random, steps: int) -> None:
    story = walk(chance, steps)
    view = seen(story.facts)["returns"].state
    assert {id: r.status.value for id, r in view.returns.items()} == {
        id: one.status.value for id, one in story.state.returns.items()
    }
    for id, one in story.state.returns.items():
        for line_id, line in one.lines.items():
            told = dict.fromkeys(ReverseBucket, 0)
            for status, n in line.units.items():
                told[ReverseBucket(BUCKET_OF[status].value)] += n
            read = view.returns[id].units(line_id)
            held = [bucket for bucket in ReverseBucket if bucket != ReverseBucket.WITH_CUSTOMER]
            assert {b: read[b] for b in held} == {b: told[b] for b in held}, (id, line_id)


def test_the_words_for_buckets_are_the_same() -> None:
    assert [bucket.value for bucket in ReverseBucket] == [bucket.value for bucket in dict.fromkeys(BUCKET_OF.values())] or {
        bucket.value for bucket in ReverseBucket
    } == {bucket.value for bucket in BUCKET_OF.values()}
    assert Bucket.UNALLOCATED.value == "unallocated"
