"""Returns under any sequence of commands: the laws of units and money hold, and the state is the fold of its facts."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from random import Random
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from returns.domain import state as states
from returns.domain.claims import CLAIM, CLAIMABLE
from returns.domain.decide import (
    ApproveReturn,
    CancelReturn,
    ChargeRecovery,
    CloseReturn,
    Command,
    DeclineReturn,
    DropRefund,
    ExpireReturn,
    FailCharge,
    GrantException,
    IssueLabel,
    OpenClaim,
    RecordCharge,
    RecordDispute,
    RecordPurchase,
    RecordUnits,
    ReopenReturn,
    RequestReturn,
    ResolveClaim,
    SettleDifference,
    SettleRecovery,
    SettleRefund,
    decide,
)
from returns.domain.eligibility import LineFacts, OrderFacts, Request, UnitGroup, evaluate, window_end
from returns.domain.inspections import RevisedUnits, ReviseInspection
from returns.domain.owed import Source, all_owed
from returns.domain.parcels import InspectItems, ReceiveParcel, RecordScan
from returns.domain.policies import POLICY
from returns.domain.recoveries import RECOVERY, Recovery, RecoveryStatus
from returns.domain.rma import RETURN, ReturnStatus, Rma, status_of
from returns.domain.state import OrderReturns, invariants, rma_lines, valued
from returns.domain.units import EXPECTED, FREED, INSPECTED, RETURN_LINE, Stage, UnitStatus
from shared.contracts.base import Fact, LineQuantity
from shared.contracts.partners import InspectedUnits, WarehouseUnexpectedItem
from shared.contracts.returns import (
    DeclaredCondition,
    InspectionOutcome,
    ObservedLine,
    RecordedUnits,
    Resolution,
    ReturnFact,
    ReturnLine,
    ReturnPolicy,
    ReturnReason,
    ReturnRefundDue,
    ReturnRequested,
)
from shared.core.machine import Invalid, Machine, NotAllowed
from shared.core.money import cumulative
from tests.returns_story import (
    LINES,
    Story,
    asking,
    day,
    looked_at,
    order_line,
    parcel,
    placed,
    policies,
    policy,
    returning,
    shipped,
)

STATE = TypeAdapter(OrderReturns)
CHANCE = st.randoms(use_true_random=False)


def some_lines(chance: Random, line_ids: Sequence[str], most: int = 3) -> tuple[LineQuantity, ...]:
    chosen = chance.sample(line_ids, chance.randint(1, len(line_ids)))
    return tuple(LineQuantity(line_id=line_id, quantity=chance.randint(1, most)) for line_id in chosen)


def any_request(chance: Random, at: datetime) -> RequestReturn:
    resolution = chance.choice([*Resolution, *[Resolution.REFUND] * 4])
    is_exchange = resolution is Resolution.EXCHANGE
    lines = tuple(
        ReturnLine(
            line_id=line.line_id,
            quantity=line.quantity,
            reason=chance.choice(list(ReturnReason)),
            condition=chance.choice([DeclaredCondition.UNOPENED, DeclaredCondition.OPENED, DeclaredCondition.DAMAGED]),
            exchange_sku="other" if is_exchange else None,
            exchange_unit_price_minor=chance.choice([None, 100, 900]) if is_exchange else None,
        )
        for line in some_lines(chance, ["mug", "tea"], 2)
    )
    return RequestReturn(lines, resolution, "", (), at, abuse_score=chance.choice([0, 0, 0, 90]))


OUTCOMES = (*InspectionOutcome, *[InspectionOutcome.AS_NEW] * 5)


def about_one(chance: Random, one: Rma, at: datetime) -> Command:
    """Something that could be told of this return, in its place or not."""
    lines = some_lines(chance, list(one.lines) or ["mug"])
    found = tuple(
        InspectedUnits(line_id=line.line_id, quantity=chance.randint(1, 2), outcome=chance.choice(OUTCOMES))
        for line in lines
    )
    inspection_id, inspection = chance.choice([*one.inspections.items(), ("i0", None)])
    revised = tuple(
        RevisedUnits(
            line.line_id,
            line.quantity,
            chance.choice(OUTCOMES),
            refund_percent=chance.choice([None, None, 0, 50]),
        )
        for line in (inspection.lines if inspection else ())
        if status_of(line) is not None
    )
    rid = one.return_id
    came = tuple(ObservedLine(line_id=line.line_id, quantity=line.quantity) for line in lines)
    receipt = f"r{chance.randint(0, 9)}"
    is_over = one.status in (ReturnStatus.RESOLVED, ReturnStatus.CLOSED, ReturnStatus.REOPENED)
    told: list[Command] = [
        ApproveReturn(rid, None, "agent:a", at),
        ApproveReturn(rid, lines, "agent:a", at),
        DeclineReturn(rid, "no", at),
        GrantException(rid, None, "supervisor:s", "because", at),
        IssueLabel(rid, "dhl", "T1", at),
        *[RecordScan(rid, f"T{chance.randint(1, 3)}", at)] * 3,
        *[ReceiveParcel(rid, receipt, "main", came, (), at)] * 4,
        *[InspectItems(rid, f"i{chance.randint(1, 6)}", "main", found, at)] * 4,
        *[ReviseInspection(rid, inspection_id, revised, at)] * (4 if revised else 0),
        SettleDifference(rid, chance.choice([*one.exchanges, "A1-X0"]), at),
        *[SettleRefund(chance.choice([*one.dues, "other"]), "A1-R1", 1, at)] * 4,
        DropRefund(chance.choice([*one.dues, "other"]), "A1-R1", "not_due", at),
        *([ExpireReturn(rid, one.expires_at)] if one.expires_at else []),
        *[CancelReturn(rid, "no", at)] * 2,
        CloseReturn(rid, at, chance.choice([None, "supervisor:s"]), "enough"),
        *[CloseReturn(rid, at)] * (5 if is_over else 0),
        *[ReopenReturn(rid, "photos", ("a.jpg",), at)] * (5 if is_over else 1),
    ]
    return chance.choice(told)


def about_a_case(chance: Random, case: Recovery, at: datetime) -> Command:
    told: list[Command] = [
        ChargeRecovery(case.recovery_id, at, chance.choice([None, "supervisor:s"])),
        FailCharge(case.recovery_id, "declined", at),
        SettleRecovery(case.recovery_id, "written_off", "supervisor:s", "", at),
        SettleRecovery(case.recovery_id, "returned", "supervisor:s", "", at),
    ]
    if case.status is not RecoveryStatus.OPEN:
        told.append(RecordCharge(case.recovery_id, "op", case.amount_minor, at))
    return chance.choice(told)


REPORTED: Final = ("mug", "tea", "cup")
"""Lines that a warehouse may name; the last is none of the order."""


def any_report(chance: Random, state: OrderReturns, at: datetime) -> Command:
    """Of any return: one that is there, in whatever status, or one that nobody knows."""
    return_id = chance.choice([*state.returns, "A1-RMA9", "box"])
    lines = tuple(
        ObservedLine(
            line_id=line_id, quantity=chance.randint(1, 3), sku=chance.choice([None, None, f"sku-{line_id}", "x"])
        )
        for line_id in chance.sample(REPORTED, chance.randint(0, 3))
    )
    found = tuple(
        InspectedUnits(line_id=line.line_id, quantity=line.quantity, outcome=chance.choice(OUTCOMES), sku=line.sku)
        for line in lines
    )
    strange = (WarehouseUnexpectedItem(sku="sock", quantity=1),) if chance.random() < 0.2 else ()
    told: list[Command] = [
        RecordScan(return_id, f"T{chance.randint(1, 5)}", at),
        ReceiveParcel(return_id, f"r{chance.randint(0, 6)}", "main", lines, strange, at),
        InspectItems(return_id, f"i{chance.randint(1, 6)}", "main", found, at),
    ]
    return chance.choice(told)


def any_command(chance: Random, state: OrderReturns, at: datetime) -> Command:
    if chance.random() < 0.15:
        return any_report(chance, state, at)
    if state.returns and chance.random() < 0.75:
        return about_one(chance, chance.choice(list(state.returns.values())[-2:]), at)
    if state.recoveries and chance.random() < 0.2:
        return about_a_case(chance, chance.choice(list(state.recoveries.values())), at)
    shipment_id = chance.choice(list(state.where.shipments))
    parcels = state.where.shipments[shipment_id].parcels
    parcel = parcels[chance.choice(list(parcels))]
    there = tuple(RecordedUnits(line_id=k, quantity=n) for k, n in parcel.units.get(parcel.stage, {}).items())
    steps: dict[str, list[Stage]] = {
        "delivered": ["withdrawn"],
        "lost": ["withdrawn"],
        "withdrawn": ["delivered", "lost"],
    }
    stage = chance.choice(steps[parcel.stage])
    told: list[Command] = [
        *[any_request(chance, at)] * 4,
        OpenClaim(some_lines(chance, ["mug", "tea"], 2), chance.choice(sorted(CLAIMABLE)), (), at),
        ResolveClaim("A1-CL1", chance.choice(["refunded", "replaced", "rejected"]), "", at),
        RecordDispute("d1", chance.random() < 0.3),
        RecordUnits("A1-C1", "cancelled", (RecordedUnits(line_id="mug", quantity=1, goods_minor=334),), at),
        RecordUnits(shipment_id, stage, there, at),
    ]
    return chance.choice(told)


def any_policy(chance: Random) -> ReturnPolicy:
    return policy(
        refund_trigger=chance.choice(["inspection", "inspection", "receipt", "carrier_scan", "at_once"]),
        return_shipping_fee_minor=chance.choice([0, 150]),
        late_parcel_reopens=chance.random() < 0.7,
        window_days=chance.choice([10, 30, 30]),
    )


@dataclass
class Walk:
    """A random story: what happened in it, and which arrows of the return machine it took."""

    state: OrderReturns = field(default_factory=lambda: states.initial("A1"))
    facts: list[Fact] = field(default_factory=list)
    arrows: set[tuple[ReturnStatus, type[Fact], ReturnStatus]] = field(default_factory=set)

    def take(self, command: Command, terms: ReturnPolicy) -> None:
        """Told; what is refused changes nothing, and a report is never refused. The laws hold after every command."""
        try:
            new = decide(self.state, command, policies(terms))
        except (NotAllowed, Invalid) as error:
            assert not isinstance(command, RecordScan | ReceiveParcel | InspectItems), f"{command} was refused: {error}"
            return
        before = self.state
        for fact in new:
            after = states.evolve(self.state, fact)
            if (
                isinstance(fact, ReturnFact)
                and fact.return_id in after.returns
                and not isinstance(fact, ReturnRequested)
            ):
                known = self.state.returns.get(fact.return_id)
                was, now = known.status if known else RETURN.initial, after.returns[fact.return_id].status
                if RETURN.admits(was, type(fact)) or was is not now:
                    self.arrows.add((was, type(fact), now))
            self.state = after
        self.facts += new
        assert invariants(self.state) == [], command
        nobody_keeps_what_is_not_paid(self.state)
        money_keeps_its_word(before, self.state)


def walk(chance: Random, steps: int) -> Walk:
    """Three mugs in two shipments, two teas in one of them: sent, mostly delivered, and then anything."""
    terms, story = any_policy(chance), Walk()
    for command in (
        RecordPurchase(placed()),
        shipped("shipped", day(1), mug=2, tea=2),
        shipped("delivered", day(2), mug=2, tea=2),
        shipped("shipped", day(1), shipment="A1-S2", mug=1),
        shipped(chance.choice(["delivered", "lost"]), day(3), shipment="A1-S2", mug=1),
    ):
        story.take(command, terms)
    for n in range(steps):
        story.take(any_command(chance, story.state, day(4 + n * 0.5)), terms)
    return story


def nobody_keeps_what_is_not_paid(state: OrderReturns) -> None:
    """What is owed has a case with an owner and a date, until it was charged, written off or came back; nothing that is owed
    counts as resolved."""
    answered: dict[Source, int] = {}
    for case in state.recoveries.values():
        if case.answers:
            answered[case.source] = answered.get(case.source, 0) + case.amount_minor
    for source, owed in all_owed(state).items():
        assert answered.get(source, 0) >= owed.amount_minor, source
    for one in state.returns.values():
        open_cases = [case for case in state.recoveries.values() if case.return_id == one.return_id and case.is_open]
        is_surprised = any(due.paid_minor is not None for due in one.dues.values())
        assert is_surprised or not (open_cases and one.status is ReturnStatus.RESOLVED), (
            "never resolved while something is owed"
        )


def money_keeps_its_word(before: OrderReturns, after: OrderReturns) -> None:
    for line in LINES:
        worth = valued(after, line.line_id)
        assert 0 <= worth.goods_minor <= line.goods_minor
        assert 0 <= worth.shipping_minor <= line.shipping_minor
        stated = sum(one.stated.refund_minor for _, one in rma_lines(after, line.line_id))
        assert stated <= line.goods_minor + line.shipping_minor
    for return_id, one in before.returns.items():
        amounts = {due_id: due.amount_minor for due_id, due in one.dues.items()}
        later = {due_id: due.amount_minor for due_id, due in after.returns[return_id].dues.items()}
        assert amounts.items() <= later.items(), "what was stated is never unsaid"


def header_follows_lines(one: Rma) -> None:
    """requested = open + approved + let go; received = uninspected + outcomes."""
    approved = {*EXPECTED, *INSPECTED, UnitStatus.NOT_ARRIVED, UnitStatus.UNINSPECTED, UnitStatus.KEPT}
    for line in one.lines.values():
        assert sum(line.units.values()) == line.asked.quantity
        assert line.approved == line.count(*approved)
        found = [(status_of(i), i.quantity) for i in one.inspected(line.asked.line_id)]
        outcomes = {to: sum(n for status, n in found if status is to) for to in INSPECTED}
        back = UnitStatus.REJECTED_SENT_BACK
        assert all(outcomes[to] == line.count(to) for to in INSPECTED if to is not back)
        assert outcomes[back] <= line.count(back), "what is declined goes back without a look at it"
    if one.status in (ReturnStatus.DECLINED, ReturnStatus.CANCELLED, ReturnStatus.EXPIRED):
        assert one.count(*FREED) == sum(line.asked.quantity for line in one.lines.values())
    if one.status is ReturnStatus.RESOLVED:
        assert not one.has_open_units
    if one.status is ReturnStatus.CLOSED:
        assert not one.count(UnitStatus.PENDING, *EXPECTED), (
            "a supervisor may close it with goods here, and none awaited"
        )
    if one.status is ReturnStatus.RESOLVED:
        assert all(due.is_settled for due in one.dues.values())


@settings(max_examples=60, deadline=None)
@given(CHANCE, st.integers(1, 40))
def test_whatever_is_told_the_laws_hold_and_the_state_is_the_fold(chance: Random, steps: int) -> None:
    story = walk(chance, steps)
    folded = states.initial("A1")
    for fact in story.facts:
        folded = states.evolve(folded, type(fact).model_validate_json(fact.model_dump_json()))
    assert folded == story.state
    assert STATE.validate_json(STATE.dump_json(story.state)) == story.state
    for one in story.state.returns.values():
        header_follows_lines(one)
    dues = [fact.due_id for fact in story.facts if isinstance(fact, ReturnRefundDue)]
    assert len(dues) == len(set(dues)), "no two dues have one id"


def test_every_arrow_of_the_return_machine_is_taken_and_no_other() -> None:
    """An arrow that no story takes would be a lie in the picture."""
    taken: set[tuple[ReturnStatus, type[Fact], ReturnStatus]] = set()
    for seed in range(1500):
        taken |= walk(Random(seed), 40).arrows
        if taken == set(RETURN.edges()):
            break
    assert taken == set(RETURN.edges())


@settings(max_examples=80, deadline=None)
@given(CHANCE, st.integers(0, 12), st.integers(0, 12))
def test_whatever_the_warehouse_reports_the_orders_real_parcel_is_received_as_always(
    chance: Random, before: int, after: int
) -> None:
    """I16: reports of any return in any order, also before the order is known, are recorded and hold up nothing."""
    terms, story = any_policy(chance), Walk()
    for n in range(before):
        story.take(any_report(chance, story.state, day(n * 0.1)), terms)
    for command in (
        RecordPurchase(placed()),
        shipped("shipped", day(1), mug=3, tea=2),
        shipped("delivered", day(2), mug=3, tea=2),
    ):
        story.take(command, terms)
    for n in range(after):
        story.take(any_report(chance, story.state, day(3 + n * 0.1)), terms)
    assert {one.status for one in story.state.returns.values()} <= {ReturnStatus.UNDER_REVIEW}, "all is a person's task"
    story.take(shipped("shipped", day(4), shipment="A1-S2", mug=1), terms)
    story.take(shipped("delivered", day(5), shipment="A1-S2", mug=1), terms)
    story.take(asking(day(6), mug=1), terms)
    real = list(story.state.returns.values())[-1]
    assert (real.announced_as, real.status) == (None, ReturnStatus.APPROVED)
    story.take(parcel("real-receipt", day(7), real.return_id, mug=1), terms)
    received = story.state.returns[real.return_id].lines["mug"]
    assert received.units == {UnitStatus.UNINSPECTED: 1}
    story.take(looked_at("real-look", day(8), ("mug", 1, "as_new"), return_id=real.return_id), terms)
    assert story.state.returns[real.return_id].lines["mug"].units == {UnitStatus.ACCEPTED: 1}


@given(st.integers(0, 10_000), st.lists(st.integers(1, 4), min_size=1, max_size=6), CHANCE)
def test_partial_returns_of_a_line_sum_to_the_whole_in_any_portions_and_order(
    goods: int, portions: list[int], chance: Random
) -> None:
    quantity = sum(portions)
    story = Story(policies(policy()))
    story.then(
        RecordPurchase(placed(order_line("mug", quantity, goods))),
        shipped("shipped", day(1), mug=quantity),
        shipped("delivered", day(2), mug=quantity),
    )
    for n, portion in enumerate(portions):
        story.then(asking(day(3), mug=portion), parcel(f"r{n}", day(4), f"A1-RMA{n + 1}", mug=portion))
    inspected = chance.sample(range(len(portions)), len(portions))
    for n in inspected:
        story.then(looked_at(f"i{n}", day(5), ("mug", portions[n], "as_new"), return_id=f"A1-RMA{n + 1}"))
    dues = [fact.amount_minor for fact in story.facts if isinstance(fact, ReturnRefundDue)]
    units = [sum(portions[n] for n in inspected[:i]) for i in range(len(inspected) + 1)]
    expected = [
        cumulative(goods, now, quantity) - cumulative(goods, before, quantity) for before, now in pairwise(units)
    ]
    assert dues == [amount for amount in expected if amount]
    assert sum(dues) == goods


@given(st.permutations([0, 0, 1, 1, 2, 2]), st.integers(0, 5))
def test_facts_of_three_topics_in_any_weave_give_the_same_counters(weave: list[int], twice: int) -> None:
    """Each topic keeps its own order; between them anything goes, and one fact comes again at the end."""
    cancelled = (RecordedUnits(line_id="tea", quantity=1, goods_minor=500),)
    topics: list[list[Command]] = [
        [RecordPurchase(placed()), RecordUnits("A1-C1", "cancelled", cancelled, day(3))],
        [shipped("shipped", day(1), mug=3), shipped("delivered", day(2), mug=3)],
        [RecordDispute("d1", True), RecordDispute("d2", True)],
    ]
    plain = Story()
    plain.then(*(command for topic in topics for command in topic))
    queues = [list(topic) for topic in topics]
    woven = [queues[topic].pop(0) for topic in weave]
    again = woven[twice]
    story = Story()
    story.then(*woven)
    if not (isinstance(again, RecordUnits) and again.stage == "cancelled"):
        assert story.then(again) == []
    assert story.state == plain.state


@given(st.integers(0, 400), st.integers(0, 60), st.booleans(), st.sets(st.integers(0, 90), max_size=20))
def test_a_window_never_ends_early_nor_on_a_closed_day(days: int, grace: int, business: bool, closed: set[int]) -> None:
    terms = policy(
        window_days=days,
        grace_days=grace,
        extend_to_business_day=business,
        holidays=tuple(day(n).date() for n in closed),
    )
    facts = OrderFacts(day(0), False, {"mug": LineFacts("general", False)})
    group = UnitGroup("mug", 1, day(1), day(2))
    end = window_end(terms, facts, group, DeclaredCondition.OPENED, None)
    assert end is not None
    assert end >= day(2 + days + grace)
    assert end.date() not in terms.holidays
    assert not business or end.weekday() < 5
    asked = Request(end, Resolution.REFUND, (returning("mug", 1, condition=DeclaredCondition.OPENED),))
    [verdict] = evaluate(terms, facts, [group], asked)
    assert verdict.outcome == "approve"


@pytest.mark.parametrize("machine", [RETURN, RETURN_LINE, CLAIM, POLICY, RECOVERY], ids=lambda machine: machine.name)
def test_machines_keep_their_laws(machine: Machine[Any]) -> None:
    assert machine.broken_laws() == []
