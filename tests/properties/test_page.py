"""Every state that the whole system reaches has its page: it is rendered, leads nowhere that is not there, and denies nothing."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from orders.domain.decide import Place
from orders.domain.placement import LineRequest, PlacementRequest, TenderRequest
from shared.auth import Caller, Role
from shared.contracts.base import Bucket, PolicyRef, TenderKind
from shared.contracts.orders import ShippingPreference
from shared.contracts.partners import WarehouseGoodsReceived
from shared.contracts.support import CaseOpened, CaseResolved, Clocks
from support_view.actions import attended, of_cases, offered
from support_view.api import OrderView, Timeline, entry_of
from support_view.casework_api import CaseOut, EscalationOut, Work
from support_view.domain.cases import CASE
from support_view.domain.escalations import Look, settle
from support_view.domain.obligations import OBLIGATIONS, obligations, rules_of
from support_view.domain.timeline import Entry, arrange
from support_view.domain.timeline import Place as Spot
from support_view.pages import Shown, order_content
from support_view.projection import Section, advance, section_of
from support_view.rendering import page
from support_view.store import Seen
from support_view.summary import Freshness, summarize
from support_view.summary.sections import side_by_side
from tests.properties.test_support_view import entry_of as written
from tests.properties.test_system import CUSTOMER, HOME, KINDS, Step, begin, go_well, step
from tests.properties.world import NOON, Service, World
from tests.telling import ESCALATIONS

SERVICES = {"orders": "", "payments": "", "fulfillment": "", "returns": "", "support-view": ""}
CALLERS = [Caller(role.value, frozenset({role})) for role in (Role.AGENT, Role.SUPERVISOR, Role.AUDITOR)]
OURS = (Bucket.UNALLOCATED, Bucket.ALLOCATED, Bucket.BACKORDERED, Bucket.PACKED)
REF = PolicyRef(policy_id="escalations", version=1)


def place_lines(world: World, count: int) -> None:
    """An order of so many lines, all of which lie in one place: they leave in one shipment."""
    lines = tuple(LineRequest(f"sku-{n}", f"Ärmel & <Söhne> {n}", 1 + n % 3, 100 + n) for n in range(count))
    for n, line in enumerate(lines):
        message = WarehouseGoodsReceived(
            occurred_at=world.now, receipt_id=f"all-{n}", sku=line.sku, location="berlin", quantity=line.quantity
        )
        world.partner(Service.FULFILLMENT, message, f"{line.quantity} {line.sku} lie in berlin")
    total = sum(line.quantity * line.unit_price_minor for line in lines)
    request = PlacementRequest(
        placed_at=world.now,
        customer=CUSTOMER,
        ship_to=HOME,
        currency="EUR",
        lines=lines,
        tenders=(TenderRequest(TenderKind.CARD, "ok", total),),
        preference=ShippingPreference(),
    )
    world.orders.append("A")
    world.act(Service.ORDERS, "A", Place("A", request, world.now), "storefront:shop", f"Ada places {count} lines")


def journeyed(lines: int, which: int, how: int, steps: Sequence[Step]) -> World:
    world = World()
    if lines:
        place_lines(world, lines)
        go_well(world, which, how)
    else:
        begin(world, which, how)
    for kind, of, manner in steps:
        world.now += timedelta(hours=1)
        KINDS[kind][1](world, of, manner)
    return world


def with_case(id: str, is_over: bool) -> list[Any]:
    opened = CaseOpened(
        order_id=id,
        customer="c",
        case_id=f"{id}-C1",
        contact_id="x",
        policy=REF,
        topic="where",
        opened_at=NOON,
        clocks=Clocks(resolve_due=NOON),
    )
    resolved = CaseResolved(
        order_id=id,
        customer="c",
        case_id=f"{id}-C1",
        policy=REF,
        resolution="it is there",
        resolved_at=NOON,
        closes_at=NOON + timedelta(days=3),
        clocks=Clocks(),
    )
    return [opened, resolved] if is_over else [opened]


def viewed(id: str, journals: Mapping[str, Sequence[Any]]) -> tuple[OrderView, Timeline, Mapping[str, Section[Any]]]:
    entries: list[Entry] = []
    sections = {}
    for number, (service, facts) in enumerate(journals.items(), 1):
        if facts:
            told = [written(fact, n, id=number * 100_000 + n) for n, fact in enumerate(facts, 1)]
            entries += told
            sections[service] = advance(service, section_of(service), {e.sequence for e in told}, told, None)
    summary = summarize(id, sections, ESCALATIONS)
    freshness = Freshness(facts=len(entries), occurred_at=NOON, seen_at=NOON, services={}, holes=())
    view = OrderView(freshness=freshness, **dict(summary))
    words, by_id = side_by_side(sections).words, {entry.id: entry for entry in entries}
    spots = arrange(Spot(e.id, e.service, e.sequence, e.occurred_at, e.causation_id) for e in entries)
    shown = tuple(entry_of(Seen(by_id[spot.id], NOON), words) for spot in spots)
    return view, Timeline(entries=shown, next=None, total=len(shown)), sections


def work_of(id: str, sections: Mapping[str, Section[Any]]) -> Work:
    """All escalations that are ever due, raised."""
    states = {service: section.state for service, section in sections.items() if service != "support"}
    raised: list[EscalationOut] = []
    for service in OBLIGATIONS:
        look = Look(rules_of(service), obligations(service, states, ESCALATIONS), NOON + timedelta(days=10_000))
        for fact in settle(id, {}, look, ESCALATIONS, REF):
            known = fact.model_dump(include=set(EscalationOut.model_fields))
            known |= {"escalation_id": f"{service}-{fact.model_dump()['escalation_id']}", "subject": id}
            raised.append(EscalationOut(**known, raised_at=NOON, cleared_at=None, status="raised", assignee=None))
    cases = [
        CaseOut(
            case_id=case_id,
            subject=id,
            order_id=id,
            customer="c",
            status=case.status,
            topic=case.topic,
            assignee=case.assignee,
            opened_at=NOON,
            first_response_due=case.clocks.first_response_due,
            next_response_due=case.clocks.next_response_due,
            resolve_due=case.clocks.resolve_due,
            closes_at=case.closes_at,
            reopened=case.reopened,
            linked_to=None,
            allowed=CASE.allowed(case.status),
        )
        for case_id, case in (sections["support"].state.cases.items() if "support" in sections else ())
    ]
    return Work(raised, cases, {})


def denies_nothing(view: OrderView, html: str) -> None:
    """No part of the page says what the summary does not."""
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))
    assert ("Nothing is open." in text) == (not view.next_steps)
    if view.order.status in ("closed", "cancelled", "rejected"):
        assert "Cancel units" not in text and "Hold the order" not in text
    if not any(line.forward[bucket] for line in view.lines for bucket in OURS):
        assert "Cancel units" not in text and "Hold the order" not in text, "nothing is left to cancel or to hold"
    assert "It shows below as soon as its fact is seen" not in text
    for one in view.next_steps:
        assert one.due_at is not None and one.owner
    if view.order.status == "closed" and view.next_steps:
        assert "nothing is open any more" not in view.order.text


def leads_somewhere(html: str) -> None:
    ids = Counter(re.findall(r'\sid="([^"]*)"', html))
    assert not [id for id, n in ids.items() if n > 1], "an id stands twice on the page"
    inside = {target for target in re.findall(r'href="#([^"]*)"', html) if not target.startswith("fact-")}
    assert inside <= ids.keys(), f"no such place on the page: {sorted(inside - ids.keys())}"
    labelled = set(re.findall(r'<label for="([^"]*)"', html))
    assert labelled <= ids.keys()


@settings(max_examples=40, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(st.integers(0, 5), st.integers(0, 23), st.integers(0, 7), st.lists(step, max_size=40), st.sampled_from(CALLERS))
def test_every_state_that_the_system_reaches_is_shown_and_the_page_denies_nothing_of_it(
    lines: int, which: int, how: int, steps: list[Step], caller: Caller
) -> None:
    world = journeyed(lines, which, how, steps)
    for id in world.orders:
        journals: dict[str, Sequence[Any]] = {service.value: world.facts(service, id) for service in Service}
        if how % 2:
            journals["support"] = with_case(id, is_over=bool(which % 2))
        view, timeline, sections = viewed(id, journals)
        assert OrderView.model_validate_json(view.model_dump_json()) == view
        now = NOON + timedelta(days=which)
        work = work_of(id, sections)
        offers = {**offered(view, caller, SERVICES, {}), **attended(work.escalations, caller, {})}
        offers |= of_cases(work.cases, caller, {}, now)
        content = order_content(view, timeline, work, {}, offers, Shown(every=True), now)
        told: dict[str, Any] = {"caller": caller, "told": None, "is_awaited": False, "may_reveal": True}
        html = bytes(page("order.html", **told, **content).body).decode()
        leads_somewhere(html)
        denies_nothing(view, html)
        panel = page("embed.html", caller=caller, order_id=id, order=view, text="", now=now)
        denies_nothing(view, bytes(panel.body).decode())
        for entry in timeline.entries:
            page("fact.html", caller=caller, order_id=id, fact=entry, raw="{}")


@pytest.mark.parametrize("lines", range(1, 6))
def test_an_order_of_one_to_five_lines_in_one_shipment_is_drawn(lines: int) -> None:
    world = journeyed(lines, 0, 2, [])
    view, _, _ = viewed("A", {service.value: world.facts(service, "A") for service in Service})
    [shipment] = view.shipments
    assert len(shipment.lines) == lines
    kinds = Counter(node.kind for node in view.dependencies.nodes)
    assert (kinds["units"], kinds["shipment"]) == (lines, 1)
