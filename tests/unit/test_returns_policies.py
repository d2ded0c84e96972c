"""Returns: what may come back, by which policy, and how policies are made."""

from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Any

import pytest

from returns.domain.decide import RecordPurchase
from returns.domain.eligibility import LineFacts, OrderFacts, Request, UnitGroup, evaluate, inputs_hash
from returns.domain.policies import Policies, PublishPolicy, RetirePolicy, canonical, diff, initial
from returns.domain.policies import decide as decide_policy
from returns.domain.policies import evolve as evolve_policy
from shared.contracts.base import PolicyRef
from shared.contracts.returns import (
    InspectionRule,
    PolicyBound,
    PolicyPublished,
    PolicyRetired,
    Resolution,
    ReturnApproved,
    ReturnEligibilityEvaluated,
    ReturnPolicy,
    ReturnReason,
    WindowTier,
)
from shared.core.machine import Invalid, NotAllowed
from tests.returns_story import (
    NOON,
    RULES,
    V1,
    Story,
    asking,
    day,
    delivered,
    only,
    placed,
    policies,
    policy,
    returning,
    shipped,
)


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

    def test_a_verdict_names_no_fee_that_will_not_be_taken(self) -> None:
        """Nothing is refunded of what is declined or replaced, so no fee can be kept of it."""
        terms = policy(return_shipping_fee_minor=495, resolutions=tuple(Resolution))
        assert self.judge(terms, at=day(90)).return_shipping_fee_minor == 0
        assert self.judge(terms, at=day(5), resolution=Resolution.REPLACE_ON_RECEIPT).return_shipping_fee_minor == 0

    def test_a_reason_names_the_day_as_a_person_says_it(self) -> None:
        [why] = self.judge(policy(), at=day(90)).reasons
        assert why.text == "Requested after the window ended on 1 July 2026"

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
