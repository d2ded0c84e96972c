"""Returns: what may come back, what is due for it, and who pays for what goes wrong; told as stories of one order."""

from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from pydantic import TypeAdapter

from returns.domain.decisions import (
    ApproveReturn,
    CancelReturn,
    CloseReturn,
    DeclineReturn,
    ExpireReturn,
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
    SettleRefund,
    deadlines,
    due_command,
)
from returns.domain.eligibility import (
    LineFacts,
    OrderFacts,
    Request,
    UnitGroup,
    evaluate,
    inputs_hash,
)
from returns.domain.inspections import InspectItems, RevisedUnits, ReviseInspection
from returns.domain.order import OrderReturns, free, law
from returns.domain.parcels import ReceiveParcel, RecordScan
from returns.domain.policies import (
    Policies,
    PublishPolicy,
    RetirePolicy,
    canonical,
    diff,
    initial,
)
from returns.domain.policies import decide as decide_policy
from returns.domain.policies import evolve as evolve_policy
from returns.domain.rma import ReturnStatus
from returns.domain.units import BUCKET_OF, ReverseBucket, UnitStatus
from returns.handlers import ROUTE
from shared.contracts.base import LineQuantity, PolicyRef
from shared.contracts.fulfillment import ShipmentReturnedToSender
from shared.contracts.returns import (
    ClaimResolved,
    DeclaredCondition,
    ExchangeCreated,
    ExchangeDifferenceDue,
    ExchangeDifferenceSettled,
    ExchangeReleased,
    InspectionOutcome,
    InspectionRule,
    PolicyBound,
    PolicyPublished,
    PolicyRetired,
    RecordedUnits,
    Resolution,
    ReturnApproved,
    ReturnDeclined,
    ReturnEligibilityEvaluated,
    ReturnExceptionGranted,
    ReturnExpired,
    ReturnInspectionRevised,
    ReturnItemsInspected,
    ReturnItemsReceived,
    ReturnPolicy,
    ReturnReason,
    ReturnRefundDue,
    ReturnRequested,
    ReturnResolved,
    ReturnSentToReview,
    ReturnUnexpectedItemReceived,
    WindowTier,
)
from shared.envelope import Cause
from shared.machine import Invalid, NotAllowed
from tests.returns_story import (
    LINES,
    NOON,
    RULES,
    Story,
    asking,
    day,
    delivered,
    looked_at,
    of,
    order_line,
    parcel,
    placed,
    policies,
    policy,
    returning,
    shipped,
    surprise,
)

RMA1 = "A1-RMA1"
V1 = PolicyRef(policy_id="standard", version=1)


def only(facts: list[Any], kind: type[Any]) -> Any:
    """The one fact of this kind."""
    [fact] = [fact for fact in facts if isinstance(fact, kind)]
    return fact


def paid(due: ReturnRefundDue, at: datetime, refund_id: str = "A1-R1") -> SettleRefund:
    return SettleRefund(due.due_id, refund_id, due.amount_minor, at)


def units(story: Story, line_id: str, return_id: str = RMA1) -> dict[str, int]:
    return {str(status): n for status, n in story.state.returns[return_id].lines[line_id].units.items()}


def status(story: Story, return_id: str = RMA1) -> ReturnStatus:
    return story.state.returns[return_id].status


class TestEligibility:
    """A table of cases: each says what differs from an ordinary request, and what the policy answers."""

    @staticmethod
    def judge(
        terms: ReturnPolicy | None = None,
        *,
        at: datetime,
        delivered_at: datetime | None = NOON,
        line: dict[str, Any] | None = None,
        facts: LineFacts = LineFacts("general", False),
        disputed: bool = False,
        claimed: bool = False,
        **request: Any,
    ) -> Any:
        asked = returning("mug", 1, **(line or {}))
        [verdict] = evaluate(
            terms or policy(),
            OrderFacts(NOON - timedelta(days=2), disputed, {"mug": facts}),
            [UnitGroup("mug", 1, NOON - timedelta(days=1), delivered_at, claimed)],
            Request(at, request.pop("resolution", Resolution.REFUND), (asked,), **request),
        )
        return verdict

    @pytest.mark.parametrize(
        ("terms", "line", "membership", "last"),
        [
            ({}, {}, None, day(30)),
            ({"window_days": 0}, {}, None, day(0)),
            ({"grace_days": 2}, {}, None, day(32)),
            ({"window_anchor": "shipped"}, {}, None, day(29)),
            ({"window_anchor": "ordered"}, {}, None, day(28)),
            ({"window_days": 7, "statutory_days": 14}, {}, None, day(14)),
            ({"window_days": 7, "statutory_days": 14}, {"condition": "opened"}, None, day(7)),
            ({"tiers": [WindowTier(days=90, membership="gold")]}, {}, "gold", day(90)),
            ({"tiers": [WindowTier(days=90, membership="gold")]}, {}, "silver", day(30)),
            ({"tiers": [WindowTier(days=10, category="general")]}, {}, None, day(10)),
            (
                {"tiers": [WindowTier(days=10, category="general"), WindowTier(days=20, condition="unopened")]},
                {},
                None,
                day(20),
            ),
            ({"tiers": [WindowTier(days=60, placed_from="2026-05-30", placed_to="2026-05-30")]}, {}, None, day(60)),
            ({"tiers": [WindowTier(days=60, placed_from="2026-05-31")]}, {}, None, day(30)),
            ({"tiers": [WindowTier(days=60, category="general", membership="gold")]}, {}, None, day(30)),
            ({"holidays": [date(2026, 7, 1)]}, {}, None, day(31)),
            ({"window_days": 5}, {}, None, day(5)),
            ({"window_days": 5, "extend_to_business_day": True}, {}, None, day(7)),
            ({"window_days": 5, "extend_to_business_day": True, "holidays": [date(2026, 6, 8)]}, {}, None, day(8)),
        ],
    )
    def test_a_window_ends_on_its_second_and_not_one_later(
        self, terms: dict[str, Any], line: dict[str, Any], membership: str | None, last: datetime
    ) -> None:
        inside = self.judge(policy(**terms), at=last, line=line, membership=membership)
        outside = self.judge(policy(**terms), at=last + timedelta(seconds=1), line=line, membership=membership)
        assert (inside.outcome, inside.window_ends_at) == ("approve", last)
        assert [why.code for why in inside.reasons] == ["within_window"]
        assert outside.outcome == "decline"
        assert [why.code for why in outside.reasons] == ["window_over"]

    @pytest.mark.parametrize(
        ("case", "outcome", "codes"),
        [
            ({}, "approve", ["within_window"]),
            ({"delivered_at": None}, "decline", ["not_delivered"]),
            ({"delivered_at": day(6)}, "decline", ["not_delivered"]),
            ({"claimed": True}, "decline", ["already_claimed"]),
            ({"facts": LineFacts("general", True)}, "decline", ["final_sale"]),
            (
                {"facts": LineFacts("general", True), "terms": policy(final_sale_returnable=True)},
                "approve",
                ["within_window"],
            ),
            ({"terms": policy(excluded_categories=("general",))}, "decline", ["category_excluded"]),
            (
                {"terms": policy(declined_conditions=("used",)), "line": {"condition": "used"}},
                "decline",
                ["condition_declined"],
            ),
            ({"line": {"condition": "damaged"}}, "review", ["condition_review"]),
            ({"abuse_score": 69}, "approve", ["within_window"]),
            ({"abuse_score": 70}, "review", ["abuse_score"]),
            ({"disputed": True}, "review", ["dispute_open"]),
            (
                {"terms": policy(resolutions=("refund",)), "resolution": "keep_it"},
                "decline",
                ["resolution_not_offered"],
            ),
        ],
    )
    def test_each_rule_has_its_reason(self, case: dict[str, Any], outcome: str, codes: list[str]) -> None:
        verdict = self.judge(at=day(5), **case)
        assert (verdict.outcome, [why.code for why in verdict.reasons]) == (outcome, codes)

    def test_all_reasons_are_given_at_once(self) -> None:
        verdict = self.judge(
            policy(excluded_categories=("general",), declined_conditions=("damaged",), resolutions=("refund",)),
            at=day(31),
            line={"condition": "damaged"},
            facts=LineFacts("general", True),
            disputed=True,
            claimed=True,
            resolution=Resolution.KEEP_IT,
            abuse_score=100,
        )
        assert verdict.outcome == "decline"
        assert [why.code for why in verdict.reasons] == [
            "already_claimed",
            "window_over",
            "final_sale",
            "category_excluded",
            "condition_declined",
            "resolution_not_offered",
            "condition_review",
            "abuse_score",
            "dispute_open",
        ]

    @pytest.mark.parametrize(("reason", "fee"), [("unwanted", 495), ("size", 495), ("defective", 0), ("wrong_item", 0)])
    def test_sending_it_back_is_free_for_the_reasons_that_policy_lists(self, reason: ReturnReason, fee: int) -> None:
        verdict = self.judge(policy(return_shipping_fee_minor=495), at=day(5), line={"reason": reason})
        assert verdict.return_shipping_fee_minor == fee

    def test_the_hash_is_of_the_inputs_and_of_nothing_else(self) -> None:
        facts = OrderFacts(NOON, False, {"mug": LineFacts("general", False)})
        group = UnitGroup("mug", 1, NOON, NOON)
        request = Request(day(5), Resolution.REFUND, (returning("mug", 1),))
        one = inputs_hash(policy(), facts, [group], request)
        assert one == inputs_hash(policy(), facts, [group], request)
        others = [
            inputs_hash(policy(window_days=31), facts, [group], request),
            inputs_hash(policy(), replace(facts, has_open_dispute=True), [group], request),
            inputs_hash(policy(), facts, [replace(group, delivered_at=day(0, 1))], request),
            inputs_hash(policy(), facts, [group], replace(request, abuse_score=1)),
        ]
        assert len({one, *others}) == 5
        assert len(one) == 64

    def test_a_holiday_calendar_without_a_gap_ends_the_search(self) -> None:
        every_day = tuple(date(2026, 1, 1) + timedelta(days=n) for n in range(1000))
        assert self.judge(policy(holidays=every_day), at=day(5)).outcome == "approve"


class TestPolicies:
    def test_a_published_version_never_changes_and_the_next_is_the_next_number(self) -> None:
        state = initial("policy:standard")
        [published] = decide_policy(state, PublishPolicy(policy()), None)
        assert published == PolicyPublished(policy=policy())
        state = evolve_policy(state, published)
        assert decide_policy(state, PublishPolicy(policy()), None) == []
        with pytest.raises(NotAllowed, match="never changes"):
            decide_policy(state, PublishPolicy(policy(window_days=10)), None)
        with pytest.raises(Invalid, match="version: must be 2"):
            decide_policy(state, PublishPolicy(policy(version=3)), None)

    def test_a_version_is_retired_once_and_only_if_it_exists(self) -> None:
        state = evolve_policy(initial("policy:standard"), PolicyPublished(policy=policy()))
        [retired] = decide_policy(state, RetirePolicy(1, day(5)), None)
        assert retired == PolicyRetired(policy_id="standard", version=1, retired_at=day(5))
        state = evolve_policy(state, retired)
        assert decide_policy(state, RetirePolicy(1, day(6)), None) == []
        with pytest.raises(Invalid, match="version: is not published"):
            decide_policy(state, RetirePolicy(2, day(6)), None)

    @pytest.mark.parametrize(
        ("change", "field"),
        [
            ({"inspection": RULES[1:]}, "inspection: has no rule for as_new"),
            ({"inspection": (*RULES, RULES[0])}, "inspection: names an outcome twice"),
            ({"tiers": (WindowTier(days=5),)}, "tiers.0: must name"),
            (
                {
                    "inspection": (
                        *RULES[:-1],
                        InspectionRule(outcome="extra_item", disposition="restock", refund_percent=0, fee_percent=0),
                    )
                },
                "inspection.8: extra_item can neither",
            ),
            (
                {
                    "inspection": (
                        InspectionRule(outcome="as_new", disposition="send_back", refund_percent=1, fee_percent=0),
                        *RULES[1:],
                    )
                },
                "inspection.0: what is sent back",
            ),
        ],
    )
    def test_a_policy_that_cannot_be_followed_is_refused_with_its_field(
        self, change: dict[str, Any], field: str
    ) -> None:
        with pytest.raises(Invalid, match=field):
            decide_policy(initial("policy:standard"), PublishPolicy(policy(**change)), None)

    def test_a_difference_names_each_field_that_changed(self) -> None:
        changes = diff(policy(), policy(version=2, window_days=10, grace_days=1))
        assert [(c.field, c.before, c.after) for c in changes] == [("window_days", 30, 10), ("grace_days", 0, 1)]

    @pytest.mark.parametrize(
        ("placed_at", "pinned", "bound"),
        [
            (NOON, None, ("standard", 2)),
            (day(-1), None, ("standard", 2)),
            (day(-1, -1), None, ("standard", 1)),
            (day(-101), None, None),
            (day(20), None, ("standard", 1)),
            (NOON, PolicyRef(policy_id="standard", version=1), ("standard", 1)),
            (NOON, PolicyRef(policy_id="outlet", version=1), None),
        ],
    )
    def test_the_last_to_take_effect_binds_unless_it_was_retired_or_another_is_named(
        self, placed_at: datetime, pinned: PolicyRef | None, bound: tuple[str, int] | None
    ) -> None:
        second = policy(version=2, effective_from=day(-1))
        known = Policies({("standard", 1): policy(), ("standard", 2): second}, {("standard", 2): day(20)})
        found = known.in_force(placed_at, pinned)
        assert (found and (found.policy_id, found.version)) == bound

    def test_canonical_json_is_the_same_for_equal_values(self) -> None:
        assert canonical({"b": 1, "a": "ü"}) == canonical({"a": "ü", "b": 1}) == '{"a":"ü","b":1}'


class TestBinding:
    def test_what_is_published_after_the_purchase_changes_nothing(self) -> None:
        story = delivered(policy(), policy(version=2, effective_from=day(1), window_days=10))
        facts = story.then(asking(day(22), mug=1))
        assert only(facts, ReturnApproved).policy == V1
        assert only(facts, ReturnEligibilityEvaluated).policy == V1

    def test_an_order_seen_before_its_policy_is_bound_when_it_is_asked_about(self) -> None:
        story = Story(policies())
        assert [f.type for f in story.then(RecordPurchase(placed()))] == ["return.purchase_recorded"]
        story.then(shipped("shipped", day(1), mug=3), shipped("delivered", day(2), mug=3))
        with pytest.raises(Invalid, match="no return policy was in force"):
            story.then(asking(day(3), mug=1))
        story.policies = policies(policy())
        assert only(story.then(asking(day(3), mug=1)), PolicyBound).policy == V1

    def test_an_order_that_is_not_known_is_not_returned(self) -> None:
        with pytest.raises(Invalid, match="order_id: is not known"):
            Story().then(asking(day(3), mug=1))


class TestArrivalOfFacts:
    def test_topics_may_cross_in_any_way_and_the_counters_are_the_same(self) -> None:
        first = [shipped("shipped", day(1), mug=2), shipped("delivered", day(2), mug=2)]
        second = [
            shipped("shipped", day(1), shipment="A1-S2", mug=1, tea=2),
            shipped("lost", day(4), shipment="A1-S2", mug=1, tea=2),
        ]
        orders: list[Any] = [
            RecordPurchase(placed()),
            RecordUnits("A1-C1", "cancelled", (RecordedUnits(line_id="tea", quantity=1, goods_minor=500),), day(3)),
        ]
        payments: list[Any] = [RecordDispute("d1", True), RecordDispute("d2", True), RecordDispute("d1", False)]
        weaves = [
            [*orders, *first, *second, *payments],
            [*payments, *second, *first, *orders],
            [first[0], orders[0], payments[0], second[0], payments[1], first[1], payments[2], orders[1], second[1]],
            [second[0], first[0], second[1], orders[0], first[1], *payments, orders[1]],
        ]
        ends = []
        for weave in weaves:
            story = Story()
            story.then(*weave)
            ends.append(story.state)
        assert all(end == ends[0] for end in ends)
        assert law(ends[0], "mug").delivered == 2
        assert law(ends[0], "tea").lost == 2

    def test_told_again_nothing_happens(self) -> None:
        story = delivered()
        assert story.then(RecordPurchase(placed()), shipped("delivered", day(2), mug=3, tea=2)) == []
        story.then(RecordDispute("d1", True))
        assert story.then(RecordDispute("d1", True), RecordDispute("d2", False)) == []
        assert story.then(shipped("withdrawn", day(3), shipment="A1-S9", mug=1)) == []

    def test_parcels_of_a_shipment_arrive_each_for_itself(self) -> None:
        story = Story()
        story.then(
            RecordPurchase(placed()),
            shipped("shipped", day(1), mug=3),
            shipped("delivered", day(2), tracking="T1", mug=1),
            shipped("delivered", day(9), tracking="T2", mug=1),
            shipped("lost", day(9), tracking="T3", mug=1),
        )
        assert story.then(shipped("delivered", day(9), tracking="T2", mug=1)) == []
        row = law(story.state, "mug")
        assert (row.delivered, row.lost) == (2, 1)
        [old, new] = only(story.then(asking(day(33), mug=2)), ReturnEligibilityEvaluated).verdicts
        assert [(v.delivered_at, v.outcome) for v in (old, new)] == [(day(2), "decline"), (day(9), "approve")]

    def test_lost_units_that_were_promised_anew_stay_lost_when_the_rest_is_found(self) -> None:
        story = Story()
        story.then(
            RecordPurchase(placed()),
            shipped("shipped", day(1), mug=3),
            shipped("lost", day(4), tracking="T1", mug=3),
            OpenClaim(of(mug=1), ReturnReason.NOT_RECEIVED, (), day(5)),
            ResolveClaim("A1-CL1", "replaced", "", day(6)),
            shipped("withdrawn", day(7), tracking="T1", mug=2),
        )
        assert (law(story.state, "mug").lost, law(story.state, "mug").undone) == (1, 2)
        story.then(shipped("delivered", day(8), tracking="T1", mug=2))
        assert (law(story.state, "mug").lost, free(story.state, "mug")) == (1, 2)

    def test_what_the_customer_did_not_get_cannot_come_back(self) -> None:
        story = delivered()
        story.then(shipped("withdrawn", day(3), mug=3, tea=2))
        facts = story.then(asking(day(4), mug=1))
        assert [why.code for why in only(facts, ReturnDeclined).reasons] == ["not_delivered"]

    def test_a_return_stands_when_the_delivery_under_it_is_contested(self) -> None:
        story = delivered()
        story.then(asking(day(3), mug=2), shipped("withdrawn", day(4), mug=3, tea=2))
        row = law(story.state, "mug")
        assert (row.delivered, row.contested, row.undone) == (0, 2, 3)
        story.then(shipped("delivered", day(6), mug=3, tea=2))
        assert law(story.state, "mug").contested == 0


class TestRequest:
    def test_units_are_judged_by_their_own_delivery_oldest_first(self) -> None:
        story = delivered(mug=1)
        for number, when in ((2, 2.0), (3, 20.0)):
            story.then(
                shipped("shipped", day(1), shipment=f"A1-S{number}", mug=1),
                shipped("delivered", day(when), shipment=f"A1-S{number}", mug=1),
            )
        facts = story.then(asking(day(33), mug=3))
        verdicts = only(facts, ReturnEligibilityEvaluated).verdicts
        assert [(v.delivered_at, v.quantity, v.outcome) for v in verdicts] == [
            (day(2), 2, "decline"),
            (day(20), 1, "approve"),
        ]
        assert only(facts, ReturnApproved).lines == of(mug=1)
        assert units(story, "mug") == {"declined": 2, "awaiting": 1}

    def test_nobody_says_to_have_asked_before_the_order_but_a_clock_that_runs_behind_turns_nobody_away(self) -> None:
        before = asking(day(-1), mug=1)
        with pytest.raises(Invalid, match="occurred_at: must not lie before the order was placed"):
            delivered().then(before)
        facts = delivered().then(replace(before, is_by_clock=True))
        assert only(facts, ReturnRequested).requested_at == day(2), "when they arrived"
        assert only(facts, ReturnApproved).lines == of(mug=1)

    def test_the_unit_of_a_delivery_that_is_in_a_return_is_not_judged_again(self) -> None:
        story = delivered(mug=1)
        story.then(
            shipped("shipped", day(1), shipment="A1-S2", mug=1),
            shipped("delivered", day(20), shipment="A1-S2", mug=1),
            asking(day(33), mug=2),
        )
        [verdict] = only(story.then(asking(day(33), mug=1)), ReturnEligibilityEvaluated).verdicts
        assert (verdict.delivered_at, verdict.outcome) == (day(2), "decline")

    def test_a_unit_is_in_one_open_return(self) -> None:
        story = delivered()
        story.then(asking(day(3), mug=3))
        with pytest.raises(Invalid, match=r"lines\.0.quantity: must not be above 0"):
            story.then(asking(day(3), mug=1))

    def test_a_claimed_unit_is_declined_as_that(self) -> None:
        story = delivered()
        story.then(OpenClaim(of(tea=2), ReturnReason.DEFECTIVE, (), day(3)))
        declined = only(story.then(asking(day(4), tea=1)), ReturnDeclined)
        assert [why.code for why in declined.reasons] == ["already_claimed"]

    @pytest.mark.parametrize(
        ("command", "field"),
        [
            (asking(day(3), cup=1), "lines.0.line_id: is not a line"),
            (asking(day(3), mug=4), "lines.0.quantity: must not be above 3"),
            (asking(day(-1), mug=1), "occurred_at"),
            (
                RequestReturn((returning("mug", 1), returning("mug", 1)), Resolution.REFUND, "", (), day(3)),
                "lines.1.line_id",
            ),
            (
                RequestReturn((returning("mug", 1, ReturnReason.NOT_RECEIVED),), Resolution.REFUND, "", (), day(3)),
                "lines.0.reason",
            ),
            (asking(day(3), Resolution.EXCHANGE, mug=1), "lines.0.exchange_sku: is required"),
            (
                RequestReturn((returning("mug", 1, exchange_sku="x"),), Resolution.REFUND, "", (), day(3)),
                "lines.0.exchange_sku",
            ),
        ],
    )
    def test_a_contradiction_is_named_by_field(self, command: RequestReturn, field: str) -> None:
        with pytest.raises(Invalid, match=field):
            delivered().then(command)

    def test_cancelled_units_are_not_left_to_return(self) -> None:
        story = delivered(mug=1)
        story.then(
            RecordUnits("A1-C1", "cancelled", (RecordedUnits(line_id="mug", quantity=2, goods_minor=667),), day(1))
        )
        with pytest.raises(Invalid, match="must not be above 1"):
            story.then(asking(day(3), mug=2))


class TestReviewAndException:
    def test_a_doubt_goes_to_a_person_who_approves_some_and_so_declines_the_rest(self) -> None:
        story = delivered()
        damaged = RequestReturn(
            (returning("mug", 2, condition=DeclaredCondition.DAMAGED),), Resolution.REFUND, "", (), day(3)
        )
        assert only(story.then(damaged), ReturnSentToReview).reasons[0].code == "condition_review"
        approved = only(story.then(ApproveReturn(RMA1, of(mug=1), "agent:anna", day(4))), ReturnApproved)
        assert (approved.approver, approved.expires_at) == ("agent:anna", day(34))
        assert units(story, "mug") == {"awaiting": 1, "declined": 1}
        assert free(story.state, "mug") == 2

    def test_a_reviewer_declines_in_words(self) -> None:
        story = delivered()
        story.then(RecordDispute("d1", True), asking(day(3), mug=1))
        declined = only(story.then(DeclineReturn(RMA1, "wait for the bank", day(4))), ReturnDeclined)
        assert [why.text for why in declined.reasons] == ["wait for the bank"]

    def test_a_review_cannot_approve_what_the_policy_declines(self) -> None:
        story = delivered(mug=1)
        story.then(
            RecordDispute("d1", True),
            shipped("shipped", day(1), shipment="A1-S2", mug=2),
            shipped("delivered", day(20), shipment="A1-S2", mug=2),
            asking(day(40), mug=3),
        )
        with pytest.raises(Invalid, match=r"lines\.0.quantity: must not be above 2"):
            story.then(ApproveReturn(RMA1, of(mug=3), "agent:anna", day(41)))
        assert only(story.then(ApproveReturn(RMA1, None, "agent:anna", day(41))), ReturnApproved).lines == of(mug=2)

    def test_an_exception_sets_the_policy_aside_with_a_name_and_a_reason(self) -> None:
        story = delivered()
        assert [w.code for w in only(story.then(asking(day(40), mug=1)), ReturnDeclined).reasons] == ["window_over"]
        facts = story.then(GrantException(RMA1, None, "supervisor:eve", "was in hospital", day(41)))
        granted = only(facts, ReturnExceptionGranted)
        assert (granted.approver, granted.detail, granted.policy) == ("supervisor:eve", "was in hospital", V1)
        assert only(facts, ReturnApproved).approver == "supervisor:eve"
        assert (status(story), units(story, "mug")) == (ReturnStatus.APPROVED, {"awaiting": 1})

    def test_an_exception_cannot_bring_back_what_is_not_there(self) -> None:
        story = delivered(mug=1)
        story.then(asking(day(40), mug=1), asking(day(40), mug=1))
        story.then(GrantException("A1-RMA2", None, "supervisor:eve", "goodwill", day(41)))
        with pytest.raises(Invalid, match="lines: only 0 delivered"):
            story.then(GrantException(RMA1, None, "supervisor:eve", "goodwill", day(41)))

    def test_an_approved_return_needs_no_exception(self) -> None:
        story = delivered()
        story.then(asking(day(3), mug=1))
        with pytest.raises(NotAllowed) as refused:
            story.then(GrantException(RMA1, None, "supervisor:eve", "why not", day(4)))
        assert refused.value.status == "approved"
        assert "return.in_transit" in refused.value.allowed


class TestParcels:
    def test_two_parcels_one_of_them_told_twice(self) -> None:
        story = delivered()
        story.then(asking(day(3), mug=2))
        first = only(story.then(parcel("r1", day(5), mug=1)), ReturnItemsReceived)
        assert (first.lines[0].total, first.complete, status(story)) == (1, False, ReturnStatus.PARTIALLY_RECEIVED)
        assert story.then(parcel("r1", day(5), mug=1)) == []
        second = only(story.then(parcel("r2", day(6), mug=1)), ReturnItemsReceived)
        assert (second.lines[0].total, second.complete, status(story)) == (2, True, ReturnStatus.RECEIVED)
        assert units(story, "mug") == {"uninspected": 2}

    def test_what_nobody_expected_is_said_and_is_not_the_returns(self) -> None:
        story = delivered()
        story.then(asking(day(3), mug=1))
        facts = story.then(parcel("r1", day(5), mug=2, tea=1), surprise("r2", day(5), "sock", 4))
        assert only(facts, ReturnItemsReceived).lines[0].quantity == 1
        strange = [(f.sku, f.quantity) for f in facts if isinstance(f, ReturnUnexpectedItemReceived)]
        assert strange == [("sku-mug", 1), ("sku-tea", 1), ("sock", 4)]
        assert story.then(surprise("r2", day(5), "sock", 4)) == []
        with pytest.raises(Invalid, match="lines: must not be empty"):
            story.then(parcel("r3", day(5)))

    def test_a_parcel_for_a_cancelled_return_is_unexpected(self) -> None:
        story = delivered()
        story.then(asking(day(3), mug=1), CancelReturn(RMA1, "changed my mind", day(4)))
        facts = story.then(parcel("r1", day(5), mug=1))
        assert [f.type for f in facts] == ["return.unexpected_item_received"]
        assert status(story) is ReturnStatus.CANCELLED

    def test_a_scan_moves_all_that_is_awaited_and_gives_it_time(self) -> None:
        story = delivered()
        story.then(asking(day(3), mug=2), IssueLabel(RMA1, "dhl", "T1", day(3)), RecordScan(RMA1, "T1", day(20)))
        assert (status(story), units(story, "mug")) == (ReturnStatus.IN_TRANSIT, {"in_transit": 2})
        assert deadlines(story.state) == {f"expire {RMA1}": day(50)}
        assert story.then(RecordScan(RMA1, "T1", day(21))) == []
        story.then(parcel("r1", day(22), mug=2))
        assert story.then(RecordScan(RMA1, "T2", day(23))) == []

    def test_what_does_not_come_in_time_expires_and_is_free_again(self) -> None:
        story = delivered(policy(authorization_days=10))
        story.then(asking(day(3), mug=1))
        [(name, due_at)] = deadlines(story.state).items()
        with pytest.raises(NotAllowed):
            story.then(ExpireReturn(RMA1, due_at - timedelta(seconds=1)))
        expired = only(story.then(due_command("A1", name, due_at)), ReturnExpired)
        assert (expired.recovery_minor, status(story), free(story.state, "mug")) == (0, ReturnStatus.EXPIRED, 3)

    def test_a_late_parcel_reopens_by_policy(self) -> None:
        story = delivered(policy(authorization_days=10))
        story.then(asking(day(3), mug=1), ExpireReturn(RMA1, day(13)))
        facts = story.then(parcel("r1", day(15), mug=1))
        assert [f.type for f in facts] == ["return.reopened", "return.items_received"]
        assert status(story) is ReturnStatus.RECEIVED

    def test_or_it_does_not(self) -> None:
        story = delivered(policy(authorization_days=10, late_parcel_reopens=False))
        story.then(asking(day(3), mug=1), ExpireReturn(RMA1, day(13)))
        assert [f.type for f in story.then(parcel("r1", day(15), mug=1))] == ["return.unexpected_item_received"]
        assert status(story) is ReturnStatus.EXPIRED

    def test_a_late_parcel_cannot_claim_a_unit_that_another_return_holds(self) -> None:
        story = delivered(policy(authorization_days=10), mug=1)
        story.then(asking(day(3), mug=1), ExpireReturn(RMA1, day(13)), asking(day(14), mug=1))
        assert [f.type for f in story.then(parcel("r1", day(15), mug=1))] == ["return.unexpected_item_received"]

    def test_what_came_goes_on_when_the_rest_expires(self) -> None:
        story = delivered(policy(authorization_days=10))
        story.then(asking(day(3), mug=2), parcel("r1", day(5), mug=1), ExpireReturn(RMA1, day(13)))
        assert (status(story), units(story, "mug")) == (ReturnStatus.RECEIVED, {"uninspected": 1, "not_arrived": 1})
        due = only(story.then(looked_at("i1", day(14), ("mug", 1, "as_new"))), ReturnRefundDue)
        assert only(story.then(paid(due, day(15))), ReturnResolved).refunded_minor == 333


class TestMoney:
    def test_the_story_of_a_return(self) -> None:
        """Two parcels; one unit as new, one opened with a fee of 10 percent; 999 for two is 500 and 499."""
        story = delivered()
        story.then(asking(day(22), tea=2), parcel("r1", day(25), tea=1), parcel("r2", day(26), tea=1))
        facts = story.then(looked_at("i1", day(27), ("tea", 1, "as_new"), ("tea", 1, "opened")))
        inspected = only(facts, ReturnItemsInspected)
        assert [(i.worth_minor, i.disposition, i.fee_percent) for i in inspected.lines] == [
            (500, "restock", 0),
            (499, "regrade", 10),
        ]
        assert inspected.complete
        due = only(facts, ReturnRefundDue)
        [line] = due.lines
        assert (line.quantity, line.gross_minor, line.fee_minor, line.refund_minor) == (2, 999, 50, 949)
        assert (due.due_id, due.amount_minor, due.trigger_at) == ("A1-RMA1-D2", 949, day(27))
        assert status(story) is ReturnStatus.INSPECTING
        resolved = only(story.then(paid(due, day(30))), ReturnResolved)
        assert (resolved.refunded_minor, resolved.requested_at, resolved.closes_at) == (949, day(22), day(44))
        assert story.then(paid(due, day(30), "A1-R7")) == []
        assert story.then(due_command("A1", f"close {RMA1}", day(44)))[0].type == "return.closed"

    def test_partial_returns_over_time_sum_to_the_whole(self) -> None:
        story = delivered()
        amounts = []
        for n in (1, 2, 3):
            return_id = f"A1-RMA{n}"
            facts = story.then(
                asking(day(3), mug=1),
                parcel(f"r{n}", day(5), return_id, mug=1),
                looked_at(f"i{n}", day(6), ("mug", 1, "as_new"), return_id=return_id),
            )
            amounts.append(only(facts, ReturnRefundDue).amount_minor)
        assert amounts == [333, 334, 333]

    def test_cancelled_units_count_at_the_worth_they_were_given(self) -> None:
        story = delivered(mug=1)
        story.then(
            RecordUnits("A1-C1", "cancelled", (RecordedUnits(line_id="mug", quantity=2, goods_minor=667),), day(1)),
            asking(day(3), mug=1),
            parcel("r1", day(5), mug=1),
        )
        assert only(story.then(looked_at("i1", day(6), ("mug", 1, "as_new"))), ReturnRefundDue).amount_minor == 333

    def test_sending_it_back_is_charged_once_in_a_return(self) -> None:
        story = delivered(policy(return_shipping_fee_minor=100))
        story.then(asking(day(3), mug=2), parcel("r1", day(5), mug=2))
        first = only(story.then(looked_at("i1", day(6), ("mug", 1, "as_new"))), ReturnRefundDue)
        second = only(story.then(looked_at("i2", day(7), ("mug", 1, "as_new"))), ReturnRefundDue)
        assert (first.amount_minor, first.return_shipping_fee_minor) == (233, 100)
        assert (second.amount_minor, second.return_shipping_fee_minor) == (334, 0)

    def test_a_fee_above_the_refund_leaves_nothing_due_and_the_rest_of_it_waits(self) -> None:
        story = delivered(policy(return_shipping_fee_minor=400))
        story.then(asking(day(3), mug=2), parcel("r1", day(5), mug=2))
        assert [f.type for f in story.then(looked_at("i1", day(6), ("mug", 1, "as_new")))] == ["return.items_inspected"]
        due = only(story.then(looked_at("i2", day(7), ("mug", 1, "as_new"))), ReturnRefundDue)
        assert (due.amount_minor, due.return_shipping_fee_minor) == (667 - 400, 400)

    def test_what_is_found_defective_is_refunded_with_its_shipping_and_without_the_fee(self) -> None:
        story = delivered(policy(return_shipping_fee_minor=100))
        story.then(asking(day(3), mug=1), parcel("r1", day(5), mug=1))
        due = only(story.then(looked_at("i1", day(6), ("mug", 1, "defective"))), ReturnRefundDue)
        assert (due.amount_minor, due.lines[0].shipping_minor, due.return_shipping_fee_minor) == (333 + 67, 67, 0)

    def test_a_fee_is_of_what_is_refunded_not_of_what_it_was_worth(self) -> None:
        half = InspectionRule(outcome="opened", disposition="regrade", refund_percent=50, fee_percent=10)
        story = delivered(policy(inspection=(half, *(rule for rule in RULES if rule.outcome != "opened"))))
        story.then(asking(day(3), mug=1), parcel("r1", day(5), mug=1))
        [line] = only(story.then(looked_at("i1", day(6), ("mug", 1, "opened"))), ReturnRefundDue).lines
        assert (line.gross_minor, line.fee_minor, line.refund_minor) == (333, 17, 167 - 17)

    def test_nothing_refunded_resolves_at_once(self) -> None:
        story = delivered()
        story.then(asking(day(3), mug=3), parcel("r1", day(5), mug=3))
        facts = story.then(
            looked_at("i1", day(6), ("mug", 1, "counterfeit"), ("mug", 1, "wrong_item"), ("mug", 1, "not_in_box"))
        )
        assert only(facts, ReturnResolved).refunded_minor == 0
        buckets = law(story.state, "mug").buckets
        assert (buckets[ReverseBucket.REJECTED_HELD], buckets[ReverseBucket.REJECTED_SENT_BACK]) == (1, 1)
        assert buckets[ReverseBucket.WITH_CUSTOMER] == 1

    @pytest.mark.parametrize("resolution", [Resolution.REFUND, Resolution.STORE_CREDIT])
    def test_a_repeated_or_exaggerated_inspection_pays_nothing_more(self, resolution: Resolution) -> None:
        story = delivered()
        story.then(asking(day(3), resolution, mug=1), parcel("r1", day(5), mug=1))
        due = only(story.then(looked_at("i1", day(6), ("mug", 1, "as_new"))), ReturnRefundDue)
        assert due.resolution is resolution
        assert story.then(looked_at("i1", day(6), ("mug", 1, "as_new"))) == []
        with pytest.raises(Invalid, match=r"lines\.0.quantity: must not be above 0"):
            story.then(looked_at("i2", day(6), ("mug", 1, "as_new")))

    def test_a_refund_of_another_cause_is_none_of_ours(self) -> None:
        assert delivered().then(SettleRefund("A1-C1", "A1-R1", 100, day(5))) == []

    def test_kept_goods_are_refunded_without_coming_back(self) -> None:
        story = delivered(policy(return_shipping_fee_minor=100))
        facts = story.then(asking(day(3), Resolution.KEEP_IT, mug=1))
        due = only(facts, ReturnRefundDue)
        assert (due.amount_minor, units(story, "mug"), deadlines(story.state)) == (333, {"kept": 1}, {})
        assert only(story.then(paid(due, day(4))), ReturnResolved).refunded_minor == 333


class TestTriggers:
    @pytest.mark.parametrize("trigger", ["at_once", "carrier_scan", "receipt", "inspection"])
    def test_the_policy_says_what_makes_it_due_and_it_is_due_once(self, trigger: str) -> None:
        story = delivered(policy(refund_trigger=trigger))
        steps: dict[str, RequestReturn | RecordScan | ReceiveParcel | InspectItems] = {
            "at_once": asking(day(3), mug=2),
            "carrier_scan": RecordScan(RMA1, "T1", day(4)),
            "receipt": parcel("r1", day(5), mug=2),
            "inspection": looked_at("i1", day(6), ("mug", 2, "as_new")),
        }
        dues = {step: [f for f in story.then(c) if isinstance(f, ReturnRefundDue)] for step, c in steps.items()}
        assert [step for step, due in dues.items() if due] == [trigger]
        [due] = dues[trigger]
        assert (due.amount_minor, due.trigger_at) == (667, steps[trigger].at)
        assert only(story.then(paid(due, day(7))), ReturnResolved).refunded_minor == 667

    def test_an_inspection_takes_back_what_was_refunded_too_soon(self) -> None:
        story = delivered(policy(refund_trigger="receipt"))
        due = only(story.then(asking(day(3), mug=2), parcel("r1", day(5), mug=2)), ReturnRefundDue)
        story.then(paid(due, day(5)))
        facts = story.then(looked_at("i1", day(6), ("mug", 1, "as_new"), ("mug", 1, "counterfeit")))
        assert only(facts, ReturnItemsInspected).recovery_minor == 333
        assert [f for f in facts if isinstance(f, ReturnRefundDue)] == []
        assert only(facts, ReturnResolved).refunded_minor == 667

    def test_what_was_to_be_recovered_before_is_not_said_again(self) -> None:
        story = delivered(policy(refund_trigger="receipt"))
        story.then(asking(day(3), tea=2), parcel("r1", day(5), tea=2))
        found = [looked_at(f"i{n}", day(6), ("tea", 1, "counterfeit")) for n in (1, 2)]
        recovered = [only(story.then(one), ReturnItemsInspected).recovery_minor for one in found]
        assert recovered == [500, 499]

    def test_what_was_refunded_at_once_and_never_came_is_recovered_once(self) -> None:
        story = delivered(policy(refund_trigger="at_once"))
        story.then(asking(day(3), mug=1))
        with pytest.raises(NotAllowed):
            story.then(CancelReturn(RMA1, "keep the money and the mug", day(4)))
        assert only(story.then(ExpireReturn(RMA1, day(33))), ReturnExpired).recovery_minor == 333
        facts = story.then(parcel("r1", day(35), mug=1), looked_at("i1", day(36), ("mug", 1, "as_new")))
        assert [f for f in facts if isinstance(f, ReturnRefundDue)] == []

    def test_what_one_return_has_too_much_another_is_not_paid_again(self) -> None:
        story = delivered(policy(refund_trigger="at_once"))
        story.then(asking(day(3), mug=1), ExpireReturn(RMA1, day(33)))
        again = replace(asking(day(30), mug=3), at=day(30))
        due = only(story.then(again), ReturnRefundDue)
        assert due.amount_minor == 1000 - 333


class TestRevision:
    def resolved(self, outcome: str = "opened") -> Story:
        story = delivered()
        story.then(asking(day(3), tea=2), parcel("r1", day(5), tea=2))
        due = only(story.then(looked_at("i1", day(6), ("tea", 2, outcome))), ReturnRefundDue)
        story.then(paid(due, day(7)))
        assert status(story) is ReturnStatus.RESOLVED
        return story

    def revise(self, *found: tuple[str, int, str], **by_hand: Any) -> ReviseInspection:
        lines = tuple(RevisedUnits(line_id, n, InspectionOutcome(o), **by_hand) for line_id, n, o in found)
        return ReviseInspection(RMA1, "i1", lines, day(8))

    def test_in_the_customers_favour_it_pays_the_difference(self) -> None:
        story = self.resolved()
        facts = story.then(self.revise(("tea", 2, "as_new")))
        due = only(facts, ReturnRefundDue)
        assert (due.amount_minor, due.lines[0].quantity, due.due_id) == (100, 0, "A1-RMA1-D2.1")
        assert status(story) is ReturnStatus.INSPECTING
        assert only(story.then(paid(due, day(9))), ReturnResolved).refunded_minor == 999

    def test_against_the_customer_it_opens_a_recovery_and_pays_nothing_back_twice(self) -> None:
        story = self.resolved("as_new")
        facts = story.then(self.revise(("tea", 1, "as_new"), ("tea", 1, "counterfeit")))
        revised = only(facts, ReturnInspectionRevised)
        assert (revised.recovery_minor, [i.worth_minor for i in revised.after]) == (499, [500, 499])
        assert units(story, "tea") == {"accepted": 1, "rejected_held": 1}
        back = story.then(self.revise(("tea", 2, "as_new")))
        assert only(back, ReturnInspectionRevised).recovery_minor == 0
        assert [f for f in back if isinstance(f, ReturnRefundDue)] == []

    def test_it_keeps_the_history_and_says_the_same_only_once(self) -> None:
        story = self.resolved()
        revised = only(story.then(self.revise(("tea", 2, "as_new"))), ReturnInspectionRevised)
        assert [i.outcome for i in revised.before] == ["opened"]
        assert [i.outcome for i in revised.after] == ["as_new"]
        assert story.state.returns[RMA1].inspections["i1"].revisions == 1
        assert story.then(self.revise(("tea", 2, "as_new"))) == []

    def test_a_review_holds_the_money_until_a_person_decides(self) -> None:
        story = delivered()
        story.then(asking(day(3), tea=2), parcel("r1", day(5), tea=2))
        facts = story.then(looked_at("i1", day(6), ("tea", 1, "as_new"), ("tea", 1, "customer_damage")))
        due = only(facts, ReturnRefundDue)
        assert due.amount_minor == 500
        assert [f.type for f in story.then(paid(due, day(7)))] == ["return.refund_settled"]
        facts = story.then(self.revise(("tea", 1, "as_new"), ("tea", 1, "customer_damage")))
        assert only(facts, ReturnRefundDue).amount_minor == 250
        assert units(story, "tea") == {"accepted": 2}

    def test_a_person_may_set_the_percentage_but_not_refund_what_is_sent_back(self) -> None:
        story = self.resolved()
        facts = story.then(self.revise(("tea", 2, "customer_damage"), refund_percent=80))
        assert only(facts, ReturnInspectionRevised).recovery_minor == 899 - 799
        with pytest.raises(Invalid, match=r"lines\.0: what is sent back"):
            story.then(self.revise(("tea", 2, "wrong_item"), refund_percent=80))

    def test_a_unit_that_was_not_in_the_box_may_turn_up_unless_it_was_returned_again(self) -> None:
        story = delivered()
        story.then(
            asking(day(3), tea=2), parcel("r1", day(5), tea=2), looked_at("i1", day(6), ("tea", 2, "not_in_box"))
        )
        due = only(story.then(self.revise(("tea", 1, "as_new"), ("tea", 1, "not_in_box"))), ReturnRefundDue)
        assert due.amount_minor == 500
        story.then(asking(day(8), tea=1))
        with pytest.raises(Invalid, match="in another return"):
            story.then(self.revise(("tea", 2, "as_new")))

    @pytest.mark.parametrize(
        ("found", "field"),
        [
            ((("tea", 1, "as_new"),), "lines: must account for all 2"),
            ((("tea", 2, "extra_item"),), "lines.0.outcome"),
            ((("mug", 1, "as_new"),), "lines: must account for all 0"),
        ],
    )
    def test_it_accounts_for_every_unit(self, found: Any, field: str) -> None:
        with pytest.raises(Invalid, match=field):
            self.resolved().then(self.revise(*found))

    def test_a_closed_return_is_reopened_with_new_evidence_and_revised(self) -> None:
        story = self.resolved()
        story.then(CloseReturn(RMA1, day(20)))
        with pytest.raises(NotAllowed):
            story.then(self.revise(("tea", 2, "as_new")))
        story.then(ReopenReturn(RMA1, "photos of the seal", ("seal.jpg",), day(21)))
        assert story.state.returns[RMA1].evidence == ("seal.jpg",)
        assert only(story.then(self.revise(("tea", 2, "as_new"))), ReturnRefundDue).amount_minor == 100


class TestExchange:
    def exchange(self, price: int | None) -> Story:
        story = delivered()
        line = returning("tea", 2, ReturnReason.SIZE, exchange_sku="big", exchange_unit_price_minor=price)
        created = only(story.then(RequestReturn((line,), Resolution.EXCHANGE, "", (), day(3))), ExchangeCreated)
        assert (created.exchange_id, created.sku) == ("A1-X1", "big")
        story.then(parcel("r1", day(5), tea=2))
        return story

    def test_an_even_one_is_released_when_the_goods_are_accepted(self) -> None:
        story = self.exchange(None)
        facts = story.then(looked_at("i1", day(6), ("tea", 2, "as_new")))
        released = only(facts, ExchangeReleased)
        assert (released.lines, released.sku, released.reason_code) == (of(tea=2), "big", "exchange")
        assert only(facts, ReturnResolved).refunded_minor == 0

    def test_a_dearer_one_waits_for_the_difference(self) -> None:
        story = self.exchange(700)
        facts = story.then(looked_at("i1", day(6), ("tea", 2, "as_new")))
        assert only(facts, ExchangeDifferenceDue).amount_minor == 1400 - 999
        assert status(story) is ReturnStatus.INSPECTING
        facts = story.then(RecordCharge("A1-X1", "A1-P3", 401, day(7)))
        assert [f.type for f in facts] == ["exchange.difference_settled", "exchange.released", "return.resolved"]
        assert only(facts, ExchangeDifferenceSettled).operation_id == "A1-P3"
        assert story.then(RecordCharge("A1-X1", "A1-P3", 401, day(7))) == []
        assert story.then(SettleDifference(RMA1, "A1-X1", day(7))) == []

    def test_a_person_may_settle_the_difference_and_a_charge_that_comes_late_is_given_back(self) -> None:
        story = self.exchange(700)
        story.then(looked_at("i1", day(6), ("tea", 2, "as_new")))
        facts = story.then(SettleDifference(RMA1, "A1-X1", day(7)))
        assert [f.type for f in facts] == ["exchange.difference_settled", "exchange.released", "return.resolved"]
        assert only(facts, ExchangeDifferenceSettled).operation_id is None
        due = only(story.then(RecordCharge("A1-X1", "A1-P3", 401, day(8))), ReturnRefundDue)
        assert (due.amount_minor, due.lines[0].quantity) == (401, 0)

    def test_a_revision_that_accepts_less_gives_the_rest_of_the_charge_back(self) -> None:
        story = self.exchange(700)
        story.then(looked_at("i1", day(6), ("tea", 2, "as_new")))
        lines = (
            RevisedUnits("tea", 1, InspectionOutcome.AS_NEW),
            RevisedUnits("tea", 1, InspectionOutcome.COUNTERFEIT),
        )
        story.then(ReviseInspection(RMA1, "i1", lines, day(7)))
        facts = story.then(RecordCharge("A1-X1", "A1-P3", 401, day(8)))
        assert only(facts, ExchangeReleased).lines == of(tea=1)
        assert only(facts, ReturnRefundDue).amount_minor == 401 - 201

    def test_a_charge_for_what_was_rejected_meanwhile_is_given_back_whole(self) -> None:
        story = self.exchange(700)
        story.then(looked_at("i1", day(6), ("tea", 2, "as_new")))
        facts = story.then(
            ReviseInspection(RMA1, "i1", (RevisedUnits("tea", 2, InspectionOutcome.COUNTERFEIT),), day(7))
        )
        assert only(facts, ExchangeDifferenceSettled).amount_minor == 0
        facts = story.then(RecordCharge("A1-X1", "A1-P3", 401, day(8)))
        assert only(facts, ReturnRefundDue).amount_minor == 401

    @pytest.mark.parametrize(("price", "worth"), [(700, 1400), (400, 800)])
    def test_exchanged_units_come_back_for_what_they_cost_in_all(self, price: int, worth: int) -> None:
        story = self.exchange(price)
        facts = story.then(looked_at("i1", day(6), ("tea", 2, "as_new")))
        if price > 500:
            story.then(RecordCharge("A1-X1", "A1-P3", 401, day(7)))
        else:
            story.then(paid(only(facts, ReturnRefundDue), day(7)))
        story.then(
            shipped("shipped", day(8), shipment="A1-S2", tea=2), shipped("delivered", day(9), shipment="A1-S2", tea=2)
        )
        facts = story.then(
            asking(day(10), tea=2),
            parcel("r2", day(11), "A1-RMA2", tea=2),
            looked_at("i2", day(12), ("tea", 2, "as_new"), return_id="A1-RMA2"),
        )
        assert only(facts, ReturnRefundDue).lines[0].gross_minor == worth

    def test_a_unit_that_was_replaced_and_not_in_the_box_is_not_exchanged_again(self) -> None:
        story = self.exchange(None)
        story.then(looked_at("i1", day(6), ("tea", 2, "as_new")))
        story.then(ReviseInspection(RMA1, "i1", (RevisedUnits("tea", 2, InspectionOutcome.NOT_IN_BOX),), day(7)))
        again = returning("tea", 2, ReturnReason.SIZE, exchange_sku="big")
        with pytest.raises(Invalid, match="must not be above 0"):
            story.then(RequestReturn((again,), Resolution.EXCHANGE, "", (), day(8)))
        story.then(
            shipped("shipped", day(8), shipment="A1-S2", tea=2), shipped("delivered", day(9), shipment="A1-S2", tea=2)
        )
        facts = story.then(RequestReturn((again,), Resolution.EXCHANGE, "", (), day(10)))
        assert "return.approved" in [f.type for f in facts]

    def test_no_difference_is_settled_for_what_was_rejected_after_all(self) -> None:
        story = self.exchange(700)
        story.then(looked_at("i1", day(6), ("tea", 2, "as_new")))
        lines = (RevisedUnits("tea", 2, InspectionOutcome.COUNTERFEIT),)
        facts = story.then(ReviseInspection(RMA1, "i1", lines, day(7)))
        assert only(facts, ReturnResolved).refunded_minor == 0
        with pytest.raises(NotAllowed, match="no difference is due"):
            story.then(SettleDifference(RMA1, "A1-X1", day(8)))

    def test_a_cheaper_one_pays_the_difference_back(self) -> None:
        story = self.exchange(400)
        facts = story.then(looked_at("i1", day(6), ("tea", 2, "as_new")))
        due = only(facts, ReturnRefundDue)
        assert (due.amount_minor, due.lines[0].quantity) == (999 - 800, 0)
        assert only(story.then(paid(due, day(7))), ReturnResolved).refunded_minor == 199

    def test_only_what_is_accepted_is_exchanged(self) -> None:
        story = self.exchange(None)
        facts = story.then(looked_at("i1", day(6), ("tea", 1, "as_new"), ("tea", 1, "counterfeit")))
        assert only(facts, ExchangeReleased).lines == of(tea=1)

    def test_nothing_accepted_is_nothing_exchanged(self) -> None:
        story = self.exchange(700)
        facts = story.then(looked_at("i1", day(6), ("tea", 2, "counterfeit")))
        assert [f.type for f in facts] == ["return.items_inspected", "return.resolved"]

    def test_a_replacement_on_receipt_leaves_when_everything_is_here(self) -> None:
        story = delivered()
        line = returning("tea", 2, ReturnReason.WRONG_ITEM)
        story.then(RequestReturn((line,), Resolution.REPLACE_ON_RECEIPT, "", (), day(3)))
        assert [f.type for f in story.then(parcel("r1", day(5), tea=1))] == ["return.items_received"]
        released = only(story.then(parcel("r2", day(5), tea=1)), ExchangeReleased)
        assert (released.lines, released.sku, released.reason_code) == (of(tea=2), "sku-tea", "wrong_item")

    def test_a_replacement_in_advance_leaves_at_once_and_is_charged_when_nothing_comes_back(self) -> None:
        story = delivered()
        line = returning("tea", 1, ReturnReason.DEFECTIVE)
        facts = story.then(RequestReturn((line,), Resolution.REPLACE_IN_ADVANCE, "", (), day(3)))
        assert only(facts, ExchangeReleased).reason_code == "damaged"
        facts = story.then(ExpireReturn(RMA1, day(33)))
        assert only(facts, ExchangeDifferenceDue).amount_minor == 500
        assert [f.type for f in story.then(RecordCharge("A1-X1", "A1-P3", 500, day(34)))] == [
            "exchange.difference_settled"
        ]
        facts = story.then(parcel("r1", day(40), tea=1), looked_at("i1", day(41), ("tea", 1, "defective")))
        assert only(facts, ReturnRefundDue).amount_minor == 500

    def test_what_comes_late_is_not_charged_any_more(self) -> None:
        story = delivered()
        line = returning("tea", 1, ReturnReason.DEFECTIVE)
        story.then(RequestReturn((line,), Resolution.REPLACE_IN_ADVANCE, "", (), day(3)), ExpireReturn(RMA1, day(33)))
        facts = story.then(parcel("r1", day(40), tea=1), looked_at("i1", day(41), ("tea", 1, "defective")))
        settled = only(facts, ExchangeDifferenceSettled)
        assert (settled.amount_minor, settled.operation_id) == (0, None)

    def test_a_replaced_unit_may_be_returned_for_its_full_worth(self) -> None:
        story = self.exchange(None)
        story.then(looked_at("i1", day(6), ("tea", 2, "as_new")))
        story.then(
            shipped("shipped", day(8), shipment="A1-S2", tea=2), shipped("delivered", day(9), shipment="A1-S2", tea=2)
        )
        facts = story.then(
            asking(day(10), tea=2),
            parcel("r2", day(11), "A1-RMA2", tea=2),
            looked_at("i2", day(12), ("tea", 2, "as_new"), return_id="A1-RMA2"),
        )
        assert only(facts, ReturnRefundDue).amount_minor == 999


class TestClaims:
    def lost(self) -> Story:
        story = delivered(tea=2)
        story.then(
            shipped("shipped", day(1), shipment="A1-S2", mug=3), shipped("lost", day(4), shipment="A1-S2", mug=3)
        )
        return story

    def test_lost_units_are_refunded_with_their_shipping(self) -> None:
        story = self.lost()
        story.then(OpenClaim(of(mug=2), ReturnReason.NOT_RECEIVED, (), day(5)))
        due = only(story.then(ResolveClaim("A1-CL1", "refunded", "carrier confirmed", day(6))), ReturnRefundDue)
        assert (due.return_id, due.due_id, due.amount_minor) == ("A1-CL1", "A1-CL1-D2", 667 + 133)
        assert [f.type for f in story.then(paid(due, day(7)))] == ["return.refund_settled"]
        with pytest.raises(Invalid, match="only 1 lost"):
            story.then(OpenClaim(of(mug=2), ReturnReason.NOT_RECEIVED, (), day(8)))

    def test_lost_units_that_were_worth_nothing_are_written_off(self) -> None:
        story = Story()
        gift = order_line("gift", 2, 0)
        story.then(RecordPurchase(placed(gift)), shipped("shipped", day(1), gift=2), shipped("lost", day(4), gift=2))
        story.then(OpenClaim(of(gift=1), ReturnReason.NOT_RECEIVED, (), day(5)))
        [resolved] = story.then(ResolveClaim("A1-CL1", "refunded", "a gift", day(6)))
        assert isinstance(resolved, ClaimResolved)
        assert resolved.written_off == of(gift=1)

    def test_lost_units_are_claimed_and_never_returned(self) -> None:
        declined = only(self.lost().then(asking(day(5), mug=1)), ReturnDeclined)
        assert [why.code for why in declined.reasons] == ["not_delivered"]

    def test_what_turns_up_after_it_was_made_good_is_not_paid_again(self) -> None:
        story = self.lost()
        story.then(
            OpenClaim(of(mug=3), ReturnReason.NOT_RECEIVED, (), day(5)),
            ResolveClaim("A1-CL1", "refunded", "", day(6)),
            shipped("withdrawn", day(7), shipment="A1-S2", mug=3),
            shipped("delivered", day(8), shipment="A1-S2", mug=3),
        )
        declined = only(story.then(asking(day(9), mug=1)), ReturnDeclined)
        assert [why.code for why in declined.reasons] == ["already_claimed"]
        with pytest.raises(Invalid, match="lines: only 0 delivered"):
            story.then(GrantException(RMA1, None, "supervisor:eve", "it is lovely", day(10)))

    def test_what_is_claimed_as_defective_is_not_claimed_again_when_it_is_said_to_be_lost(self) -> None:
        story = delivered()
        story.then(OpenClaim(of(mug=2), ReturnReason.DEFECTIVE, (), day(5)), shipped("lost", day(6), mug=3, tea=2))
        with pytest.raises(Invalid, match="only 1 lost"):
            story.then(OpenClaim(of(mug=2), ReturnReason.NOT_RECEIVED, (), day(7)))

    def test_a_defective_unit_is_replaced_and_kept(self) -> None:
        story = delivered()
        story.then(OpenClaim(of(mug=1, tea=1), ReturnReason.DEFECTIVE, ("crack.jpg",), day(5)))
        assert law(story.state, "mug").buckets[ReverseBucket.RETURN_OPEN] == 1
        facts = story.then(ResolveClaim("A1-CL1", "replaced", "", day(6)))
        released = [f for f in facts if isinstance(f, ExchangeReleased)]
        assert [(f.exchange_id, f.sku, f.reason_code) for f in released] == [
            ("A1-X1", "sku-mug", "damaged"),
            ("A1-X2", "sku-tea", "damaged"),
        ]
        assert law(story.state, "mug").buckets[ReverseBucket.KEPT_BY_CUSTOMER] == 1
        assert free(story.state, "mug") == 2

    def test_a_rejected_claim_frees_its_units_and_is_decided_once(self) -> None:
        story = delivered()
        story.then(
            OpenClaim(of(mug=3), ReturnReason.WRONG_ITEM, (), day(5)), ResolveClaim("A1-CL1", "rejected", "no", day(6))
        )
        assert free(story.state, "mug") == 3
        assert story.then(ResolveClaim("A1-CL1", "rejected", "no", day(6))) == []
        with pytest.raises(NotAllowed):
            story.then(ResolveClaim("A1-CL1", "refunded", "yes", day(6)))

    def test_a_claim_is_for_our_faults_and_for_units_that_are_free(self) -> None:
        story = delivered()
        with pytest.raises(Invalid, match="reason: unwanted"):
            story.then(OpenClaim(of(mug=1), ReturnReason.UNWANTED, (), day(5)))
        story.then(asking(day(5), mug=3))
        with pytest.raises(Invalid, match=r"lines\.0.quantity: only 0 delivered"):
            story.then(OpenClaim(of(mug=1), ReturnReason.DEFECTIVE, (), day(5)))

    def test_a_claim_is_not_paid_what_a_return_of_the_line_has_too_much(self) -> None:
        story = delivered(policy(refund_trigger="at_once"))
        story.then(
            asking(day(3), tea=1),
            ExpireReturn(RMA1, day(33)),
            OpenClaim(of(tea=2), ReturnReason.DEFECTIVE, (), day(34)),
        )
        due = only(story.then(ResolveClaim("A1-CL1", "refunded", "", day(35))), ReturnRefundDue)
        assert due.amount_minor == 999 + 100 - 500

    def test_claims_and_returns_of_one_line_sum_to_its_worth(self) -> None:
        story = delivered()
        story.then(OpenClaim(of(mug=1), ReturnReason.DEFECTIVE, (), day(5)))
        claimed = only(story.then(ResolveClaim("A1-CL1", "refunded", "", day(6))), ReturnRefundDue)
        story.then(asking(day(7), mug=2), parcel("r1", day(8), mug=2))
        returned = only(story.then(looked_at("i1", day(9), ("mug", 2, "as_new"))), ReturnRefundDue)
        assert claimed.lines[0].gross_minor + returned.lines[0].gross_minor == 1000


def test_a_state_survives_its_way_through_json() -> None:
    story = delivered()
    story.then(
        asking(day(3), mug=2, tea=1),
        RecordScan(RMA1, "T1", day(4)),
        parcel("r1", day(5), mug=2),
        looked_at("i1", day(6), ("mug", 1, "opened"), ("mug", 1, "defective")),
        OpenClaim(of(tea=1), ReturnReason.DEFECTIVE, (), day(6)),
        RecordDispute("d1", True),
    )
    adapter = TypeAdapter(OrderReturns)
    assert adapter.validate_json(adapter.dump_json(story.state)) == story.state


def test_every_unit_status_of_the_machine_has_a_bucket() -> None:
    assert set(BUCKET_OF) == set(UnitStatus)


def test_a_free_line_is_returned_without_money() -> None:
    story = Story(policies(policy()))
    story.then(
        RecordPurchase(placed(*LINES, order_line("gift", 1, 0))),
        shipped("shipped", day(1), gift=1),
        shipped("delivered", day(2), gift=1),
        asking(day(3), gift=1),
        parcel("r1", day(5), gift=1),
    )
    facts = story.then(looked_at("i1", day(6), ("gift", 1, "as_new")))
    assert [f.type for f in facts] == ["return.items_inspected", "return.resolved"]
    assert not [f for f in story.facts if isinstance(f, ClaimResolved)]


def test_units_that_came_back_to_the_sender_may_be_claimed_like_lost_ones() -> None:
    gone = ShipmentReturnedToSender(
        order_id="o1", shipment_id="o1-S1", lines=(LineQuantity(line_id="mug", quantity=2),)
    )
    why = Cause(UUID(int=1), day(3), "partner:carrier", "scan", "c1")
    told = ROUTE.translations[ShipmentReturnedToSender](gone, why)
    assert told is not None
    command = told.command
    assert isinstance(command, RecordUnits)
    assert (command.stage, [(u.line_id, u.quantity) for u in command.lines]) == ("lost", [("mug", 2)])
