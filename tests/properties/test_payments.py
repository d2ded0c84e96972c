"""Payments under any order of messages, any faults of the provider: the laws hold at every step, the books agree at rest."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from payments.domain.decide import (
    Confirm,
    Dispute,
    ExpireAuthorization,
    MarkUnknown,
    RecordMovement,
    RecordOutcome,
    RecordUnitsChange,
    RetryCaptures,
)
from payments.domain.operation import OPERATION, Operation, OperationStatus, ProviderResult, Result
from payments.domain.payout import (
    ApproveRefund,
    Asked,
    CancelRefund,
    OweRefund,
    Policies,
    RejectRefund,
    RequestRefund,
    RerouteRefund,
)
from payments.domain.refund import REFUND, RefundStatus
from payments.domain.routing import (
    Request,
    Route,
    Source,
    Strategy,
    Unroutable,
    route,
)
from payments.domain.state import Account, evolve, invariants
from payments.domain.tender import CAPTURABLE, DISPUTE, TENDER, DisputeStatus
from payments.gateway import ProviderRecord, TheirBooks
from payments.reconciliation import compare
from payments.store import STATE, Booked, OurBooks
from shared.contracts.base import Fact, TenderKind
from shared.contracts.payments import MovementKind, OperationKind, RefundChannel, RefundKind, RefundLine, UnitsChange
from shared.core.machine import Invalid, NotAllowed
from shared.core.money import largest_remainder
from tests.unit.payments_story import ACCOUNT, NOON, Story, approval, line, opening, paid, routing, tender, units

KINDS = list(TenderKind)


@dataclass
class There:
    """A provider with books of its own, as strict as a real one: one effect per key, and nothing beyond what it holds."""

    operations: dict[str, tuple[OperationKind, Result, int, str]] = field(default_factory=dict)
    authorized: dict[str, int] = field(default_factory=dict)
    captured: dict[str, int] = field(default_factory=dict)
    released: dict[str, int] = field(default_factory=dict)
    refunded: dict[str, int] = field(default_factory=dict)
    disputed: dict[str, set[str]] = field(default_factory=dict)
    lost: dict[str, dict[str, int]] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)

    def perform(self, o: Operation, refuses: bool, other: int | None = None) -> None:
        """`other`: by a fault of its own it moves so much, whatever was asked for."""
        if o.id in self.operations:
            return
        o = o if other is None else replace(o, amount_minor=other)
        code = "card_declined" if refuses else self._objection(o)
        result = Result.FAILED if code else Result.SUCCEEDED
        self.operations[o.id] = (o.kind, result, o.amount_minor, code)
        self.notices.append(o.id)
        if code:
            return
        ref = o.authorization or ""
        match o.kind:
            case OperationKind.AUTHORIZE:
                self.authorized[f"ref-{o.id}"] = o.amount_minor
            case OperationKind.CAPTURE:
                self.captured[ref] = self.captured.get(ref, 0) + o.amount_minor
                if o.final:
                    self.released[ref] = self.released.get(ref, 0) + self.open(ref)
            case OperationKind.VOID:
                self.released[ref] = self.released.get(ref, 0) + self.open(ref)
            case OperationKind.REFUND if ref:
                self.refunded[ref] = self.refunded.get(ref, 0) + o.amount_minor

    def bounce(self, o: Operation) -> None:
        kind, result, amount, _ = self.operations[o.id]
        if kind is OperationKind.REFUND and result is Result.SUCCEEDED:
            self.operations[o.id] = (kind, Result.REVERSED, amount, "returned_by_bank")
            if o.authorization:
                self.refunded[o.authorization] -= amount

    def verdict(self, o: Operation) -> ProviderResult | None:
        if o.id not in self.operations:
            return None
        _, result, amount, code = self.operations[o.id]
        return ProviderResult(result, amount, o.requested_at, f"ref-{o.id}", code, NOON + timedelta(days=30))

    def kept(self, ref: str) -> int:
        return self.captured.get(ref, 0) - self.refunded.get(ref, 0) - sum(self.lost.get(ref, {}).values())

    def succeed_after_all(self, o: Operation) -> None:
        _, _, amount, _ = self.operations[o.id]
        self.operations[o.id] = (o.kind, Result.SUCCEEDED, amount, "")
        if o.authorization:
            self.refunded[o.authorization] = self.refunded.get(o.authorization, 0) + amount

    def open(self, ref: str) -> int:
        return self.authorized[ref] - self.captured.get(ref, 0) - self.released.get(ref, 0)

    def _objection(self, o: Operation) -> str:
        ref = o.authorization or ""
        match o.kind:
            case OperationKind.CAPTURE if o.amount_minor > self.open(ref):
                return "exceeds_authorization"
            case OperationKind.VOID if not self.open(ref):
                return "nothing_to_void"
            case OperationKind.REFUND if self.disputed.get(ref):
                return "disputed"
            case OperationKind.REFUND if ref and o.amount_minor > self.kept(ref):
                return "exceeds_captured"
        return ""


@dataclass
class World:
    story: Story
    there: There = field(default_factory=There)
    lines: tuple[str, ...] = ()
    causes: int = 0
    is_undisturbed: bool = True
    """No tender was declined, expired or disputed, so that all that was handed over can be captured."""

    def attempt(self, command: object) -> None:
        """What is refused changes nothing; anything else must be decided and keep the laws."""
        before = self.story.state
        try:
            self.story.tell(command)  # type: ignore[arg-type]
        except (NotAllowed, Invalid):
            assert self.story.state is before

    def submit(self, o: Operation, fate: str, n: int = 0) -> None:
        if not self.story.submit(o.id):
            return
        if fate == "in another amount":
            self.is_undisturbed = False
            self.there.perform(o, refuses=False, other=1 + n % (2 * o.amount_minor))
            return
        if fate == "unheard":
            self.story.tell(MarkUnknown(o.id))
            return
        self.there.perform(o, refuses=fate == "refused")
        self.is_undisturbed &= fate != "refused"
        if fate == "unanswered":
            self.story.tell(MarkUnknown(o.id))
        elif fate != "died":
            self.hear(o.id)

    def hear(self, id: str) -> None:
        self.story.tell(RecordOutcome(id, self.there.verdict(self.story.state.operations[id])))

    def rest(self) -> None:
        """Everything that is open comes to its end, however the provider was disturbed before."""
        for _ in range(100):
            open_ = [o for o in self.story.state.operations.values() if o.is_in_flight]
            if not open_:
                break
            for o in open_:
                if self.story.state.operations[o.id].status is OperationStatus.REQUESTED:
                    self.submit(o, "fine")
                else:
                    self.hear(o.id)
        for id in self.there.notices:
            self.hear(id)
        assert not [o for o in self.story.state.operations.values() if o.is_in_flight]


def _unit(change: UnitsChange) -> Callable[[World, int], None]:
    def step(world: World, n: int) -> None:
        id = world.lines[n % len(world.lines)]
        state = world.story.state
        placed = state.lines.get(id)
        done = state.of_line(id)
        if placed and not state.unsettled_units(id) and change is not UnitsChange.UNDELIVERED:
            return
        if change is UnitsChange.UNDELIVERED and done.handed_over <= done.undelivered + done.due_back:
            return
        world.causes += 1
        world.story.tell(RecordUnitsChange(change, f"x{world.causes}", units(**{id: 1}), NOON))

    return step


def _come_back(world: World, n: int) -> None:
    """A unit that was handed over comes back to its sender, and is cancelled instead of being sent again."""
    id = world.lines[n % len(world.lines)]
    done = world.story.state.of_line(id)
    if done.handed_over > done.undelivered + done.due_back:
        world.is_undisturbed = False
        world.causes += 1
        back = units(**{id: 1})
        world.story.tell(RecordUnitsChange(UnitsChange.UNDELIVERED, f"x{world.causes}", back, NOON))
        world.story.tell(RecordUnitsChange(UnitsChange.CANCELLED, f"c{world.causes}", back, NOON, returned=back))


def _submit(fate: str) -> Callable[[World, int], None]:
    def step(world: World, n: int) -> None:
        if waiting := world.story.waiting():
            world.submit(waiting[n % len(waiting)], fate, n)

    return step


def _hear(world: World, n: int) -> None:
    if world.there.notices:
        world.hear(world.there.notices[n % len(world.there.notices)])


def _ask_after(world: World, n: int) -> None:
    if lost := [o for o in world.story.state.operations.values() if o.status in ("submitted", "unknown")]:
        world.hear(lost[n % len(lost)].id)


def _bounce(world: World, n: int) -> None:
    if legs := [o for o in world.story.state.legs() if o.id in world.there.operations]:
        world.there.bounce(legs[n % len(legs)])
        world.hear(legs[n % len(legs)].id)


def _return(world: World, n: int, return_id: str = "rma") -> None:
    id = world.lines[n % len(world.lines)]
    world.causes += 1
    amount = 1 + n % 400
    world.attempt(
        OweRefund(
            kind=RefundKind.RETURN,
            cause_id=f"due{world.causes}",
            return_id=return_id,
            lines=(RefundLine(line_id=id, quantity=n % 2, amount_minor=amount),),
            amount_minor=amount,
            currency="EUR",
            trigger_at=NOON,
            channel=list(RefundChannel)[n % 3],
            requester="partner:wms",
            at=NOON + timedelta(days=n % 300),
        )
    )


def _claim(world: World, n: int) -> None:
    """Of a unit that never arrived, and refunded; its loss may be told later."""
    claim = f"claim{world.causes}"
    world.story.tell(
        RecordUnitsChange(UnitsChange.CLAIMED, claim, units(**{world.lines[n % len(world.lines)]: 1}), NOON)
    )
    _return(world, n, claim)


def _ask(world: World, n: int) -> None:
    kinds = list(RefundKind)
    amount = 1 + n % 700
    world.attempt(
        RequestRefund(
            kind=kinds[n % len(kinds)],
            lines=(Asked(world.lines[n % len(world.lines)], n % 2, amount),) if n % 5 == 0 else (),
            amount_minor=amount,
            currency="EUR",
            requester="agent:anna",
            at=NOON + timedelta(days=n % 300),
            consents=tuple(RefundChannel)[: n % 4],
            account=ACCOUNT,
        )
    )


def _on_refund(world: World, n: int) -> None:
    refunds = list(world.story.state.refunds)
    if not refunds:
        return
    id = refunds[n % len(refunds)]
    world.attempt(
        [
            ApproveRefund(id, "supervisor:ben", NOON),
            ApproveRefund(id, "supervisor:anna", NOON),
            RejectRefund(id, "mistake", "", NOON),
            CancelRefund(id, "", NOON),
            RerouteRefund(id, RefundChannel.BANK_TRANSFER, NOON, ACCOUNT),
            RerouteRefund(id, RefundChannel.ORIGINAL, NOON),
        ][n % 6]
    )


def _dispute(world: World, n: int) -> None:
    refs = [a.reference for t in world.story.state.tenders.values() for a in t.authorizations if not t.is_own]
    if not refs:
        return
    change, at = ("opened", "won", "lost")[n % 3], NOON + timedelta(days=n % 2)
    tell_dispute(world, refs[n % len(refs)], f"d{n % 2}-{refs[n % len(refs)]}", change, 1 + n % 900, at)


def tell_dispute(world: World, ref: str, id: str, change: str, amount: int, at: datetime) -> None:
    """The provider's books follow what payments made of it, since what it tells late or again changes nothing there."""
    world.is_undisturbed = False
    world.story.tell(Dispute(ref, id, change, amount, at))  # type: ignore[arg-type]
    [now] = [t.disputes[id] for t in world.story.state.tenders.values() if id in t.disputes]
    world.there.disputed.setdefault(ref, set()).discard(id)
    world.there.lost.setdefault(ref, {}).pop(id, None)
    if now.status is DisputeStatus.OPEN:
        world.there.disputed[ref].add(id)
    elif now.status is DisputeStatus.LOST:
        world.there.lost[ref][id] = now.amount_minor


def _dashboard(world: World, n: int) -> None:
    """Somebody refunds or captures in the provider's own dashboard."""
    there = world.there
    if not there.authorized:
        return
    ref = list(there.authorized)[n % len(there.authorized)]
    world.is_undisturbed = False
    kind, most = (MovementKind.REFUND, there.kept(ref)) if n % 2 else (MovementKind.CAPTURE, there.open(ref))
    state = world.story.state
    in_flight = [o for o in state.operations.values() if o.authorization == ref and o.is_in_flight]
    awaited = [
        o for o in state.operations.values() if o.kind is OperationKind.AUTHORIZE and o.submissions and o.is_in_flight
    ]
    # Of an authorization that was not heard of here nobody can say whose it is, where several are awaited.
    is_known = any(a.reference == ref for t in state.tenders.values() for a in t.authorizations) or len(awaited) == 1
    if most > 0 and not in_flight and is_known:
        amount = 1 + n % most
        books = there.refunded if kind is MovementKind.REFUND else there.captured
        books[ref] = books.get(ref, 0) + amount
        world.causes += 1
        world.story.tell(RecordMovement(kind, ref, f"dash{world.causes}", amount, NOON, "by hand"))


def _succeed_after_all(world: World, n: int) -> None:
    """A refund that had failed for good arrives, whatever became of it here."""
    failed = [o for o in world.story.state.legs() if o.id in world.there.operations and o.status == "failed"]
    failed = [o for o in failed if world.there.operations[o.id][1] is Result.FAILED]
    if failed:
        o = failed[n % len(failed)]
        world.there.succeed_after_all(o)
        world.hear(o.id)


def _expire(world: World, n: int) -> None:
    tenders = list(world.story.state.tenders)
    world.is_undisturbed = False
    world.attempt(ExpireAuthorization(tenders[n % len(tenders)], NOON + timedelta(days=30), timedelta()))


def _retry(world: World, n: int) -> None:
    world.attempt(RetryCaptures(NOON))


STEPS: dict[str, Callable[[World, int], None]] = {
    "hand over": _unit(UnitsChange.HANDED_OVER),
    "cancel": _unit(UnitsChange.CANCELLED),
    "lose": _unit(UnitsChange.UNDELIVERED),
    "come back": _come_back,
    "submit": _submit("fine"),
    "submit, unanswered": _submit("unanswered"),
    "submit, unheard": _submit("unheard"),
    "submit, died": _submit("died"),
    "submit, refused": _submit("refused"),
    "submit, in another amount": _submit("in another amount"),
    "hear": _hear,
    "ask after": _ask_after,
    "bounce": _bounce,
    "return": _return,
    "claim": _claim,
    "ask": _ask,
    "on refund": _on_refund,
    "dispute": _dispute,
    "dashboard": _dashboard,
    "succeed after all": _succeed_after_all,
    "expire": _expire,
    "retry": _retry,
}


FAULTS = ("submit, refused", "submit, in another amount")


def prepaid(state: Account) -> int:
    return sum(t.captured_minor for t in state.tenders.values() if t.is_prepaid)


step = st.tuples(st.sampled_from(sorted(STEPS)), st.integers(0, 2_000))
steps = st.lists(step, max_size=40)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """An order of a few lines, split over a few tenders to the minor unit."""
    lines = [line(id, draw(st.integers(1, 4)), draw(st.integers(0, 999))) for id in "ab"[: draw(st.integers(1, 2))]]
    shipping = draw(st.integers(1, 99))
    total = sum(n.goods_minor for n in lines) + shipping
    kinds = draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=3))
    parts = largest_remainder(total, [draw(st.integers(1, 9)) for _ in kinds])
    tenders = [tender(f"t{i}", k, n) for i, (k, n) in enumerate(zip(kinds, parts, strict=True)) if n]
    policies = Policies(
        routing=(routing(draw(st.sampled_from(list(Strategy)))),), approval=(approval(draw(st.integers(0, 900))),)
    )
    story = Story(policies=policies)
    world = World(story, lines=tuple(n.line_id for n in lines))
    for n in draw(st.lists(st.integers(0, 3), max_size=2)):
        STEPS["hand over" if n % 2 else "cancel"](world, n)
    story.tell(opening(lines, tenders, shipping))
    if draw(st.booleans()):
        story.all_succeed()
        for o in story.state.operations.values():
            if o.submissions:
                world.there.perform(o, refuses=False)
        story.tell(Confirm(NOON))
    return world


@settings(max_examples=100, deadline=None)
@given(worlds(), steps)
def test_the_laws_hold_at_every_step_and_the_books_agree_at_rest(world: World, told: list[tuple[str, int]]) -> None:
    for name, n in told:
        STEPS[name](world, n)
    world.rest()
    state = world.story.state
    ours = OurBooks(
        [
            Booked(o.id, "o1", o.kind, o.status, o.amount_minor, o.code)
            for o in state.operations.values()
            if not (state.tenders[o.tender_id].is_own and o.kind is not OperationKind.REFUND)
        ],
        [],
        frozenset(m.reference for m in state.movements.values()),
    )
    theirs = [
        ProviderRecord(id, "o1", result, amount, kind, f"ref-{id}", None, NOON)
        for id, (kind, result, amount, _) in world.there.operations.items()
    ]
    assert compare(ours, TheirBooks(theirs, [])) == []
    units_of = [(r.kind, r.return_id) for r in state.refunds.values() if any(n.quantity for n in r.lines)]
    assert [kind for kind, _ in units_of] == [
        RefundKind.LOST if return_id in state.claims else RefundKind.RETURN for _, return_id in units_of
    ]
    assert not [r for r in state.refunds.values() if r.kind is RefundKind.LOST and r.return_id not in state.claims]
    for t in state.tenders.values():
        if not t.is_own:
            there = sum(world.there.captured.get(a.reference, 0) for a in t.authorizations)
            assert t.captured_minor == there


@settings(max_examples=100, deadline=None)
@given(worlds(), steps)
def test_undisturbed_all_that_was_handed_over_is_captured_and_nothing_more_is_kept(
    world: World, told: list[tuple[str, int]]
) -> None:
    for name, n in told:
        if name not in (*FAULTS, "come back", "dispute", "dashboard", "succeed after all", "expire"):
            STEPS[name](world, n)
    world.rest()
    state = world.story.state
    assert world.is_undisturbed
    assert state.captured_minor == max(state.handed_over_minor, prepaid(state))
    assert not [t.id for t in state.tenders.values() if t.is_void_refused]
    if state.is_all_settled:
        assert not [t.id for t in state.tenders.values() if t.status in CAPTURABLE]
    if state.is_all_settled and not state.claims:  # what a claim gives back of a cancelled unit is not given back again
        assert state.captured_minor - state.worth_minor == sum(
            r.amount_minor for r in state.refunds.values() if r.kind is RefundKind.CANCELLATION
        )


@settings(max_examples=60, deadline=None)
@given(worlds(), steps)
def test_the_state_is_the_fold_of_its_facts_and_survives_json(world: World, told: list[tuple[str, int]]) -> None:
    for name, n in told:
        STEPS[name](world, n)
    folded = Account("o1")
    for fact in world.story.facts:
        folded = evolve(folded, fact)
    assert folded == world.story.state
    assert STATE.validate_json(STATE.dump_json(folded)) == folded
    assert invariants(folded) == []


@settings(max_examples=60, deadline=None)
@given(worlds(), steps)
def test_a_completed_refund_is_the_sum_of_its_legs(world: World, told: list[tuple[str, int]]) -> None:
    for name, n in told:
        STEPS[name](world, n)
    world.rest()
    state = world.story.state
    for refund in state.refunds.values():
        paid = state.paid_out_minor(refund)
        assert (paid == refund.amount_minor) or refund.status is not RefundStatus.SUCCEEDED
        if refund.status is RefundStatus.PARTIALLY_SUCCEEDED:
            assert 0 < paid < refund.amount_minor


GIVES_BACK = (
    *("ask", "on refund", "cancel", "return", "claim", "lose", "dispute", "dashboard"),
    *("submit", "submit, refused", "bounce", "succeed after all"),
)


@settings(max_examples=150, deadline=None)
@given(worlds(), st.lists(st.tuples(st.sampled_from(GIVES_BACK), st.integers(0, 2_000)), max_size=30))
def test_whatever_gives_money_back_in_whatever_order_never_gives_back_more_than_was_taken_and_comes_to_an_end(
    world: World, told: list[tuple[str, int]]
) -> None:
    for id in world.lines:
        _unit(UnitsChange.HANDED_OVER)(world, world.lines.index(id))
    world.rest()
    for name, n in told:
        before, unclaimed = set(world.story.state.refunds), world.story.state.unclaimed_minor
        STEPS[name](world, n)
        asked = sum(r.amount_minor for id, r in world.story.state.refunds.items() if id not in before)
        assert name != "cancel" or asked <= max(0, unclaimed), "a cancellation asks for what was given back"
    world.rest()
    end_disputes(world)
    for _ in range(10):
        for refund in world.story.state.refunds.values():
            settle(world, refund.id)
        world.rest()
    state = world.story.state
    unasked = sum(m.amount_minor for m in state.unasked_refunds())
    assert state.refunded_minor() - unasked <= state.captured_minor
    assert sum(r.amount_minor for r in state.refunds.values() if not r.is_dead) <= state.captured_minor
    assert {r.id: r.status for r in state.refunds.values() if not REFUND.is_terminal(r.status)} == {
        r.id: RefundStatus.SUCCEEDED for r in state.refunds.values() if not r.is_dead
    }
    assert not [id for id, bought in state.lines.items() if state.refunded_units(id) > bought.quantity]


def end_disputes(world: World) -> None:
    for t in list(world.story.state.tenders.values()):
        for id, dispute in t.disputes.items():
            if dispute.status is DisputeStatus.OPEN:
                ref, later = dispute.authorization or "", NOON + timedelta(days=9)
                tell_dispute(world, ref, id, "lost", dispute.amount_minor, later)


def settle(world: World, refund_id: str) -> None:
    """A person decides about what waits for one."""
    status = world.story.state.refunds[refund_id].status
    if status is RefundStatus.PENDING_APPROVAL:
        world.attempt(ApproveRefund(refund_id, "supervisor:ben", NOON))
        world.attempt(RejectRefund(refund_id, "no_money", "", NOON))
    elif status is not RefundStatus.SUCCEEDED:
        world.attempt(RerouteRefund(refund_id, RefundChannel.BANK_TRANSFER, NOON, ACCOUNT))
        if world.story.state.refunds[refund_id].status is status:
            world.attempt(CancelRefund(refund_id, "the customer does not answer", NOON))


sources = st.lists(
    st.builds(
        Source,
        tender_id=st.sampled_from(["t1", "t2", "t3", "t4"]),
        kind=st.sampled_from(KINDS),
        reference=st.just("r"),
        left_minor=st.integers(0, 10_000),
        captured_at=st.integers(0, 400).map(lambda days: NOON + timedelta(days=days)),
    ),
    max_size=4,
    unique_by=lambda s: s.tender_id,
)


@settings(max_examples=300, deadline=None)
@given(
    sources,
    st.integers(0, 20_000),
    st.sampled_from(list(Strategy)),
    st.frozensets(st.sampled_from(list(RefundChannel))),
    st.frozensets(st.sampled_from(["t1", "t2"])),
)
def test_any_route_sums_to_the_amount_within_what_is_left_and_is_the_same_again(
    left: list[Source],
    amount: int,
    strategy: Strategy,
    consents: frozenset[RefundChannel],
    disputed: frozenset[str],
) -> None:
    asked = Request(amount, RefundChannel.ORIGINAL, consents, NOON, NOON + timedelta(days=400), tuple(sorted(disputed)))
    found = route(routing(strategy), left, asked)
    assert found == route(routing(strategy), list(left), asked)
    free = {s.tender_id: s.left_minor for s in left if s.tender_id not in disputed}
    if isinstance(found, Unroutable):
        assert sum(free.values()) < amount or not consents >= {RefundChannel.BANK_TRANSFER}
        return
    assert isinstance(found, Route)
    assert sum(s.amount_minor for s in found.shares) == amount
    assert all(0 < s.amount_minor <= free[s.tender_id] for s in found.shares)
    assert {e.tender_id for e in found.excluded} == disputed


def paid_in_part() -> Story:
    """One leg of a refund is paid and the other fails: too rare to wait for."""
    story = paid(
        tender("t1", TenderKind.GIFT_CARD, 400), tender("t2", TenderKind.CARD, 600), lines=[line("a", 1, 1_000)]
    )
    story.handed_over("S1", a=1)
    story.all_succeed()
    world = World(story, lines=("a",))
    _return(world, 399)
    [gift, card] = story.waiting()
    for leg in (gift, card):
        story.submit(leg.id)
    story.answer(gift.id)
    story.answer(card.id, Result.FAILED, code="account_closed")
    return story


def test_every_fact_that_the_machines_list_is_told_by_some_story() -> None:
    told_at_all: set[type[Fact]] = set()

    @settings(max_examples=300, deadline=None, derandomize=True, database=None)
    @given(worlds(), st.lists(step, min_size=40, max_size=60))
    def tell(world: World, told: list[tuple[str, int]]) -> None:
        for name, n in told:
            STEPS[name](world, n)
        told_at_all.update(type(fact) for fact in world.story.facts)

    tell()
    told_at_all.update(type(fact) for fact in paid_in_part().facts)
    listed = {fact for machine in (TENDER, DISPUTE, OPERATION, REFUND) for _, fact, _ in machine.edges()}
    assert {fact.type for fact in listed - told_at_all} == set()
