"""Every state that the whole system reaches has its page: it is rendered, leads nowhere that is not there, and denies nothing."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from html import escape, unescape
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from notifications.domain.decide import (
    RECORDED,
    Command,
    Outbox,
    RecordFact,
    RecordFailure,
    RecordSent,
    decide,
    evolve_context,
)
from notifications.domain.state import OrderNotifications, Status, evolve
from notifications.mails import composed
from orders.domain.decide import Place
from orders.domain.placement import LineRequest, PlacementRequest, TenderRequest
from shared.contracts.base import Bucket, PolicyRef, TenderKind
from shared.contracts.notifications import (
    NotificationFailed,
    NotificationQueued,
    NotificationRestated,
    NotificationSent,
)
from shared.contracts.orders import ShippingPreference
from shared.contracts.partners import WarehouseGoodsReceived
from shared.contracts.returns import ReturnResolved
from shared.contracts.support import CaseOpened, CaseResolved, Clocks
from shared.core.money import format_minor
from shared.web.auth import Caller, Role
from support_view.actions import attended, of_cases, offered
from support_view.api import Findings, Found, OrderView, Timeline, entry_of
from support_view.casework_api import CaseEntry, CaseOut, Cases, CaseStory, EscalationOut, Queue, Work
from support_view.casework_api import entry_of as case_entry_of
from support_view.domain.cases import CASE
from support_view.domain.escalations import Look, settle
from support_view.domain.obligations import OBLIGATIONS, obligations, rules_of
from support_view.domain.timeline import Entry, arrange, plain
from support_view.domain.timeline import Place as Spot
from support_view.pages import Shown, order_content
from support_view.projection import Projection, fold_contiguous, projection_of
from support_view.rendering import anchor, page
from support_view.store import Seen
from support_view.summary import Freshness, summarize
from support_view.summary.sections import side_by_side
from tests.properties.test_support_view import entry_of as written
from tests.properties.test_system import CUSTOMER, HOME, KINDS, Step, begin, go_well, step
from tests.properties.test_truth_of_mails import transactions
from tests.properties.world import NOON, Service, World
from tests.telling import ESCALATIONS, whole_story
from tests.unit.notifications_story import POLICY

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


def told_customer(world: World, id: str, how: int) -> list[Any]:
    """What notifications tell of an order: what is queued after each transaction is sent, or fails, or waits."""
    state, outbox, facts = OrderNotifications(id), Outbox(POLICY), list[Any]()

    def tell(command: Command) -> None:
        nonlocal state, outbox
        for fact in decide(state, command, outbox):
            state, outbox = evolve(state, fact), evolve_context(outbox, fact)
            facts.append(fact)

    for number, together in enumerate(transactions(world, id), how):
        for entry in together:
            if type(entry.fact) in RECORDED:
                assert entry.cause.sequence is not None
                tell(RecordFact(entry.fact, str(entry.cause.id), entry.cause.sequence, entry.cause.at))
        for message_id, message in list(state.notifications.items()):
            if message.status is Status.QUEUED and number % 4:
                said = composed(state, message).title
                tell(RecordSent(message_id, said) if number % 5 else RecordFailure(message_id, "no such mailbox"))
    return facts


def viewed(id: str, journals: Mapping[str, Sequence[Any]]) -> tuple[OrderView, Timeline, Mapping[str, Projection[Any]]]:
    entries: list[Entry] = []
    sections = {}
    for number, (service, facts) in enumerate(journals.items(), 1):
        if facts:
            told = [written(fact, n, id=number * 100_000 + n) for n, fact in enumerate(facts, 1)]
            entries += told
            sections[service] = fold_contiguous(service, projection_of(service), {e.sequence for e in told}, told, None)
    summary = summarize(id, sections, ESCALATIONS)
    freshness = Freshness(facts=len(entries), occurred_at=NOON, seen_at=NOON, services={}, holes=())
    view = OrderView(freshness=freshness, **dict(summary))
    words, by_id = side_by_side(sections).words, {entry.id: entry for entry in entries}
    spots = arrange(Spot(e.id, e.service, e.sequence, e.occurred_at, e.causation_id) for e in entries)
    shown = tuple(entry_of(Seen(by_id[spot.id], NOON), words) for spot in spots)
    return view, Timeline(entries=shown, next=None, total=len(shown)), sections


def spoken(facts: Sequence[Any]) -> list[CaseEntry]:
    """The facts of a case as its page has them."""
    rows = [
        {"id": n, "type": fact.type, "data": fact.model_dump_json(), "occurred_at": NOON, "actor": "agent:ann"}
        for n, fact in enumerate(facts, 1)
    ]
    return [case_entry_of(row) for row in reversed(rows)]


def work_of(id: str, sections: Mapping[str, Projection[Any]]) -> Work:
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


def words_of(html: str) -> str:
    """What a page says, as it is read."""
    return unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html)))


def rendered(name: str, **content: Any) -> str:
    html = bytes(page(name, **content).body).decode()
    leads_somewhere(html)
    return html


def the_mails_stand(view: OrderView, told: Sequence[Any], html: str) -> None:
    """Each message that was queued has its place, with what it says and what became of it."""
    queued = [fact for fact in told if isinstance(fact, NotificationQueued)]
    assert [message.notification_id for message in view.told] == [fact.notification_id for fact in queued]
    text = words_of(html)
    says = {f.notification_id: f.statements for f in told if isinstance(f, NotificationQueued | NotificationRestated)}
    for message in view.told:
        assert f'id="{anchor(f"message-{message.notification_id}")}"' in html
        assert len(message.statements) == len(says[message.notification_id])
        assert all(words_of(escape(said)) in text for said in (message.title, *message.statements))
    ends = {fact.notification_id for fact in told if isinstance(fact, NotificationSent | NotificationFailed)}
    assert {message.notification_id for message in view.told if message.status in ("sent", "failed")} <= ends


def lists_agree(view: OrderView, work: Work, said: Sequence[CaseEntry], caller: Caller, now: datetime) -> None:
    """What the queue, the cases and the search say of an order, its own page says."""
    shown: dict[str, Any] = {"caller": caller, "after": None, "now": now}
    offers = attended(work.escalations, caller, {})
    queue = rendered(
        "queue.html",
        result=None,
        mine=False,
        queue=Queue(escalations=work.escalations, next=None),
        offers=offers,
        **shown,
    )
    text = words_of(queue)
    open_items = {step.link for step in view.next_steps}
    assert ("Nobody needs attention just now" in text) == (not work.escalations)
    for raised in work.escalations:
        assert words_of(escape(raised.why[1:])) in text and words_of(escape(raised.to_do)) in text
        assert f'href="/orders/{raised.order_id}"' in queue
    assert not work.escalations or open_items, "somebody must look, and the order says that nothing is open"
    found = Cases(cases=tuple(work.cases), next=None)
    listed = rendered("cases.html", cases=found, of="", over=True, address=lambda **_: "/cases", **shown)
    for case in work.cases:
        assert f'href="/cases/{case.case_id}"' in listed
        offered_here = of_cases([case], caller, {}, now)
        story = CaseStory(**dict(case), entries=tuple(said))
        one = rendered("case.html", result=None, case=story, offers=offered_here, caller=caller, now=now)
        assert all(words_of(escape(entry.title)) in words_of(one) for entry in said)
        assert f'href="/orders/{view.order_id}"' in one
    hit = Found(
        order_id=view.order_id,
        customer=view.customer.name if view.customer else None,
        placed_at=view.placed_at,
        total=view.totals.ordered.text,
        order_status=view.order.status,
        rollups=view.rollups,
    )
    result = rendered("find.html", caller=caller, q="A", findings=Findings(orders=(hit,), is_cut=False))
    chips = [words_of(chip).strip() for chip in re.findall(r'<span class="chip[^>]*>(.*?)</span>', result, re.DOTALL)]
    assert chips[:3] == [plain(status or "none") for status in (hit.order_status, *_statuses(view))]


def _statuses(view: OrderView) -> tuple[str, str]:
    return view.rollups.payment_status, view.rollups.fulfillment_status


def denies_nothing(view: OrderView, html: str) -> None:
    """No part of the page says what the summary does not."""
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))
    assert ("Nothing is open." in text) == (not view.next_steps)
    if view.order.status in ("closed", "cancelled", "rejected"):
        assert "Cancel units" not in text and "Hold the order" not in text
    if not any(line.forward[bucket] for line in view.lines for bucket in OURS):
        assert "Hold the order" not in text, "nothing is left to hold"
    if not any(line.forward[bucket] for line in view.lines for bucket in (*OURS, Bucket.RETURNED_TO_SENDER)):
        assert "Cancel units" not in text, "nothing is left to cancel"
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
        journals["notifications"] = told_customer(world, id, how)
        if how % 2:
            journals["support"] = with_case(id, is_over=bool(which % 2))
        view, timeline, sections = viewed(id, journals)
        assert OrderView.model_validate_json(view.model_dump_json()) == view
        now = NOON + timedelta(days=which)
        work = work_of(id, sections)
        offers = {**offered(view, caller, SERVICES, {}), **attended(work.escalations, caller, {})}
        offers |= of_cases(work.cases, caller, {}, now)
        content = order_content(view, timeline, work, {}, offers, Shown(every=True), now)
        told: dict[str, Any] = {"caller": caller, "result": None, "is_awaited": False, "may_reveal": True}
        html = bytes(page("order.html", **told, **content).body).decode()
        leads_somewhere(html)
        denies_nothing(view, html)
        the_mails_stand(view, journals["notifications"], html)
        lists_agree(view, work, spoken(journals.get("support", ())), caller, now)
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


def test_a_fee_larger_than_the_goods_is_said_to_be_withheld_in_full() -> None:
    t = whole_story("ORD-9")
    journals: dict[str, list[Any]] = {}
    for entry in t.entries:
        fact = entry.fact
        if isinstance(fact, ReturnResolved):
            fact = fact.model_copy(update={"refunded_minor": 0, "withheld_minor": 333})
        journals.setdefault(entry.service, []).append(fact)
    view, timeline, _ = viewed("ORD-9", journals)
    caller = CALLERS[0]
    content = order_content(view, timeline, Work([], [], {}), {}, {}, Shown(every=True), NOON)
    text = words_of(rendered("order.html", caller=caller, result=None, is_awaited=False, may_reveal=False, **content))
    assert ", withheld in full by fees" in text
    fee = format_minor(333, "EUR")
    assert f"{fee} withheld in full, nothing is refunded" in text
    assert f"Fees kept {fee}" in re.sub(r" +", " ", text)
    [told] = view.returns
    assert told.refunded is not None and told.refunded.minor == 0
