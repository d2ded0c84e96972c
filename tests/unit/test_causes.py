"""Why orders go wrong: what rules find in facts, what refutes it, and what a person's word does."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from shared.contracts.base import Fact, PolicyRef, TenderKind
from shared.contracts.fulfillment import (
    ShipmentDelayed,
    ShipmentDelivered,
    ShipmentFound,
    ShipmentLost,
    ShipmentTrackingUpdated,
)
from shared.contracts.notifications import (
    Claim,
    NotificationBounced,
    NotificationContradicted,
    NotificationKind,
    NotificationSent,
    Statement,
)
from shared.contracts.orders import OrderCancellationRequested
from shared.contracts.payments import (
    OperationKind,
    PaymentAnomalyDetected,
    PaymentCaptureFailed,
    PaymentDeclined,
    PaymentOperationUnknown,
    RefundAttentionNeeded,
    RefundChannel,
    RefundCompleted,
    RefundKind,
    RefundLeg,
    RefundLegReversed,
    RefundRequested,
    RefundRouted,
)
from shared.contracts.returns import (
    ClaimOpened,
    ClaimResolved,
    DeclaredCondition,
    Disposition,
    InspectedLine,
    InspectionOutcome,
    Resolution,
    ReturnApproved,
    ReturnDeclined,
    ReturnExceptionGranted,
    ReturnItemsInspected,
    ReturnLine,
    ReturnReason,
    ReturnRequested,
    Why,
)
from shared.contracts.support import (
    Channel,
    ContactReceived,
    Direction,
    EscalationRaised,
    RootCauseOverridden,
    RootCauseRefuted,
    RootCauseTag,
    RootCauseTagged,
)
from shared.core.machine import Invalid
from support_view.domain.cases import Support, evolve, invariants
from support_view.domain.casework import Around, Command, FindCauses, decide
from support_view.domain.causes import RULES, EvidencedCause, Found, OverrideCause, WithdrawOverride, find
from support_view.domain.policies import CausePolicy, CauseRule
from support_view.domain.signals import ASKED_ABOUT, Signal, SignalKind
from support_view.domain.signals_by_fact import causes_in
from support_view.domain.timeline import Entry, Mark
from support_view.projection import DOMAINS
from tests.telling import POLICY, START, Telling, confirmed_order, split_order, units, whole_story
from tests.unit.test_casework import MONDAY
from tests.unit.test_casework import POLICY as POLICIES

Tag = RootCauseTag


def causes(story: Telling) -> Mapping[RootCauseTag, Found]:
    states = {service: domain.initial for service, domain in DOMAINS.items()}
    for entry in story.entries:
        states[entry.service] = DOMAINS[entry.service].fold(states[entry.service], entry)
    return causes_in(states)


def evidence(story: Telling, tag: RootCauseTag) -> list[str]:
    """Types of the facts that bear it out."""
    places = {(entry.service, entry.sequence): entry.fact.type for entry in story.entries}
    return [places[place] for place in causes(story)[tag].evidence]


def order() -> Telling:
    return confirmed_order("ORD-1")


def about(**more: Any) -> dict[str, Any]:
    return {"order_id": "ORD-1", **more}


def contact(story: Telling, number: int = 1, **more: Any) -> None:
    said = {
        "customer": "c1",
        "contact_id": f"C{number}",
        "received_at": story.now,
        "channel": Channel.EMAIL,
        "direction": Direction.INBOUND,
        "topic": "where_is_it",
        "case_id": None,
        "policy": POLICY,
    }
    story.tell(ContactReceived(**about(**said | more)))


def asks_to_return(story: Telling, reason: ReturnReason) -> dict[str, Any]:
    of = about(return_id="RMA1")
    line = ReturnLine(line_id="lamp", quantity=2, reason=reason, condition=DeclaredCondition.OPENED)
    story.tell(ReturnRequested(**of, lines=(line,), resolution=Resolution.REFUND, requested_at=story.now, note=""))
    return of


def inspects(story: Telling, of: dict[str, Any], outcome: InspectionOutcome) -> None:
    found = InspectedLine(
        line_id="lamp", quantity=2, outcome=outcome, disposition=Disposition.HOLD, refund_percent=100, fee_percent=0
    )
    seen = {"inspection_id": "I1", "location": "BER", "lines": (found,), "policy": POLICY, "complete": True}
    story.tell(ReturnItemsInspected(**of, **seen))


def asks_refund(story: Telling, kind: RefundKind) -> dict[str, Any]:
    of = about(refund_id="R1")
    due = {"cause_id": "D1", "lines": (), "amount_minor": 500, "currency": "EUR", "trigger_at": story.now}
    story.tell(RefundRequested(**of, **due, kind=kind, requester="system:test"))
    return of


def scan(story: Telling, code: Any) -> None:
    of = about(shipment_id="ORD-1-S1", tracking="JD1")
    story.tell(ShipmentTrackingUpdated(**of, code=code, moved=True, detail="as the carrier says"))


def told_again(story: Telling, only: Callable[[Entry], bool]) -> Telling:
    """Some of the facts, in sequence without holes."""
    told = Telling(story.order_id)
    for entry in filter(only, story.entries):
        told.now = entry.occurred_at
        told.tell(entry.fact)
    return told


LATER = {"shipment.delivered", "shipment.tracking_updated"}
S1 = about(shipment_id="ORD-1-S1")


def test_every_tag_has_a_rule_that_says_why() -> None:
    assert set(RULES) == set(RootCauseTag)
    assert len({rule.name for rule in RULES.values()}) == len(RULES)
    assert all(rule.because for rule in RULES.values())


@given(st.sets(st.sampled_from(sorted(ASKED_ABOUT)), min_size=1))
def test_what_is_only_asked_about_is_no_cause_without_a_question(kinds: set[SignalKind]) -> None:
    signs = {"fulfillment": [Signal(kind, f"{kind}-{n}", Mark(n, START)) for n in (1, 2) for kind in sorted(kinds)]}
    assert find(signs, lambda _: ()) == {}
    asked = Signal(SignalKind.ASKED, "C1", Mark(1, START))
    assert find(signs | {"support": [asked]}, lambda _: ()) or SignalKind.PART_DELIVERED in kinds


def test_an_order_that_goes_well_has_no_cause() -> None:
    assert causes(order()) == {}


def test_backordered_units_are_a_stock_out_of_their_sku() -> None:
    story = split_order("ORD-1")
    assert evidence(story, Tag.STOCK_OUT) == ["backorder.created"]
    assert causes(story)[Tag.STOCK_OUT].about == ("sku:SKU-chair",)


def test_who_asks_while_parts_are_under_way_is_confused_by_the_split_unless_something_is_late() -> None:
    story = told_again(
        split_order("ORD-1"), lambda entry: entry.service != "fulfillment" or entry.fact.type not in LATER
    )
    contact(story)
    assert evidence(story, Tag.SPLIT_CONFUSION) == ["shipment.shipped", "shipment.shipped", "contact.received"]
    story.later(hours=1)
    story.tell(ShipmentDelayed(**S1, tracking="JD1", detail="a storm"))
    assert Tag.SPLIT_CONFUSION not in causes(story), "the delay explains the question better"


def test_who_asks_once_everything_has_come_was_not_confused_by_the_split() -> None:
    story = told_again(split_order("ORD-1"), lambda entry: entry.fact.type != "shipment.tracking_updated")
    story.tell(ShipmentDelivered(**about(shipment_id="ORD-1-S2"), lines=units(rug=1)))
    story.later(days=1)
    contact(story)
    assert Tag.SPLIT_CONFUSION not in causes(story)


@pytest.mark.parametrize("told", ["shipment.delayed", "customs"])
def test_what_a_carrier_holds_up_is_its_delay(told: str) -> None:
    story = split_order("ORD-1")
    if told == "shipment.delayed":
        story.tell(ShipmentDelayed(**S1, tracking="JD1", detail="a storm"))
    found = causes(story)[Tag.CARRIER_DELAY]
    assert {"carrier:DHL", "location:LEJ", "sku:SKU-rug"} <= set(found.about)
    assert ("location:BER" in found.about) == (told == "shipment.delayed")


def test_a_carrier_that_is_silent_for_too_long_is_late_and_named() -> None:
    story = told_again(split_order("ORD-1"), lambda entry: entry.fact.type not in LATER)
    raised = {"escalation_id": "E1", "rule": "shipment_silent", "item": "ORD-1-S1", "since": START, "due_at": START}
    words = {"level": 1, "episode": 1, "why": "silence", "to_do": "ask", "policy": POLICY}
    story.tell(EscalationRaised(**about(customer=None), **raised, **words))
    assert evidence(story, Tag.CARRIER_DELAY) == ["escalation.raised"]
    assert {"carrier:DHL", "location:BER"} < {*causes(story)[Tag.CARRIER_DELAY].about}


def test_a_parcel_that_is_lost_is_the_carriers_loss_until_it_is_found_and_was_only_late() -> None:
    story = split_order("ORD-1")
    story.tell(ShipmentLost(**S1, lines=units(lamp=2)))
    assert evidence(story, Tag.CARRIER_LOSS) == ["shipment.lost"]
    story.tell(ShipmentFound(**S1, lines=units(lamp=2), review=False))
    assert Tag.CARRIER_LOSS not in causes(story)
    assert "shipment.found" in evidence(story, Tag.CARRIER_DELAY)


def test_what_was_delivered_and_not_received_is_lost_until_it_arrives() -> None:
    story = split_order("ORD-1")
    scan(story, "not_received")
    assert evidence(story, Tag.CARRIER_LOSS) == ["shipment.tracking_updated"]
    story.tell(ShipmentDelivered(**S1, lines=units(lamp=2, chair=1)))
    assert Tag.CARRIER_LOSS not in causes(story)


@pytest.mark.parametrize(
    ("reason", "tag"),
    [
        (ReturnReason.WRONG_ITEM, Tag.WRONG_ITEM),
        (ReturnReason.NOT_AS_DESCRIBED, Tag.WRONG_ITEM),
        (ReturnReason.DEFECTIVE, Tag.DEFECT),
        (ReturnReason.DAMAGED_IN_TRANSIT, Tag.DAMAGE_TRANSIT),
        (ReturnReason.UNWANTED, Tag.CUSTOMER_REMORSE),
        (ReturnReason.SIZE, Tag.CUSTOMER_REMORSE),
        (ReturnReason.LATE, Tag.CARRIER_DELAY),
        (ReturnReason.NOT_RECEIVED, Tag.CARRIER_LOSS),
    ],
)
def test_why_a_customer_sends_goods_back_is_the_cause_until_somebody_looks(reason: ReturnReason, tag: Tag) -> None:
    story = order()
    asks_to_return(story, reason)
    assert list(causes(story)) == [tag]
    assert evidence(story, tag) == ["return.requested"]


def test_an_inspection_knows_better_than_who_sent_it_back() -> None:
    story = order()
    of = asks_to_return(story, ReturnReason.DEFECTIVE)
    inspects(story, of, InspectionOutcome.AS_NEW)
    assert causes(story) == {}
    story = order()
    of = asks_to_return(story, ReturnReason.UNWANTED)
    inspects(story, of, InspectionOutcome.DEFECTIVE)
    assert list(causes(story)) == [Tag.DEFECT]
    assert evidence(story, Tag.DEFECT) == ["return.items_inspected"]


def test_goods_that_come_back_as_new_and_unwanted_were_unwanted() -> None:
    story = order()
    of = asks_to_return(story, ReturnReason.UNWANTED)
    inspects(story, of, InspectionOutcome.AS_NEW)
    assert evidence(story, Tag.CUSTOMER_REMORSE) == ["return.requested"]


def test_a_claim_is_a_cause_until_it_is_rejected() -> None:
    story = order()
    story.tell(ClaimOpened(**about(claim_id="CL1"), lines=units(lamp=1), reason=ReturnReason.WRONG_ITEM))
    assert evidence(story, Tag.WRONG_ITEM) == ["claim.opened"]
    story.tell(ClaimResolved(**about(claim_id="CL1"), outcome="rejected", detail="the photograph shows a lamp"))
    assert causes(story) == {}


def test_a_damaged_parcel_was_damaged_on_its_way() -> None:
    story = split_order("ORD-1")
    scan(story, "damaged")
    assert evidence(story, Tag.DAMAGE_TRANSIT) == ["shipment.tracking_updated"]


def test_an_address_that_cannot_be_found_is_the_cause() -> None:
    story = split_order("ORD-1")
    scan(story, "address")
    assert evidence(story, Tag.ADDRESS) == ["shipment.tracking_updated"]


@pytest.mark.parametrize("kind", [PaymentDeclined, PaymentCaptureFailed])
def test_a_bank_that_says_no_is_a_decline(kind: Any) -> None:
    story = order()
    of = about(tender_id="card", operation_id="P9", amount_minor=100, currency="EUR", code="insufficient_funds")
    story.tell(kind(**of, **({"shipment_id": None} if kind is PaymentCaptureFailed else {})))
    assert evidence(story, Tag.PAYMENT_DECLINE) == [kind.type]


def test_a_refund_that_comes_after_its_promise_was_slow() -> None:
    story = order()
    of = asks_refund(story, RefundKind.RETURN)
    leg = RefundLeg(
        leg_id="L1",
        tender_id="card",
        tender_kind=TenderKind.CARD,
        channel=RefundChannel.ORIGINAL,
        amount_minor=500,
        reasons=(),
        promised_at=story.now + timedelta(days=5),
    )
    promised = {"promised_at": story.now + timedelta(days=5), "requested_at": story.now}
    story.tell(RefundRouted(**of, legs=(leg,), excluded=(), policy=POLICY, **promised))
    done = {"kind": RefundKind.RETURN, "cause_id": "D1", "return_id": None, "amount_minor": 500, "currency": "EUR"}
    in_time = told_again(story, lambda _: True)
    in_time.later(days=5)
    in_time.tell(RefundCompleted(**of, **done, trigger_at=START))
    assert Tag.REFUND_SLOW not in causes(in_time)
    story.later(days=5, seconds=1)
    story.tell(RefundCompleted(**of, **done, trigger_at=START))
    assert evidence(story, Tag.REFUND_SLOW) == ["refund.completed"]
    assert causes(story)[Tag.REFUND_SLOW].about == ("policy:standard v1",)


@pytest.mark.parametrize("what", ["reversed", "attention"])
def test_a_refund_that_bounces_or_needs_a_person_failed(what: str) -> None:
    story = order()
    of = asks_refund(story, RefundKind.RETURN)
    if what == "attention":
        told: Fact = RefundAttentionNeeded(**of, reason_code="no_channel", outstanding_minor=500, currency="EUR")
    else:
        leg = {"leg_id": "L1", "operation_id": "P9", "tender_id": "card", "channel": RefundChannel.ORIGINAL}
        told = RefundLegReversed(**of, **leg, amount_minor=500, currency="EUR", code="account_closed")
    story.tell(told)
    assert evidence(story, Tag.REFUND_FAILED) == [told.type]


def declines(story: Telling) -> dict[str, Any]:
    of = asks_to_return(story, ReturnReason.UNWANTED)
    story.tell(ReturnDeclined(**of, reasons=(Why(code="window", text="too late"),), policy=POLICY))
    return of


def test_who_asks_after_a_return_was_declined_does_not_understand_the_policy() -> None:
    story = order()
    contact(story)
    story.later(hours=1)
    of = declines(story)
    assert Tag.POLICY_UNCLEAR not in causes(story), "nobody has asked since"
    story.later(hours=1)
    contact(story, 2)
    assert evidence(story, Tag.POLICY_UNCLEAR) == ["return.declined", "contact.received"]
    story.tell(ReturnApproved(**of, lines=units(lamp=2), expires_at=story.now, approver=None, policy=POLICY))
    assert Tag.POLICY_UNCLEAR not in causes(story)


def test_a_policy_that_a_person_sets_aside_is_an_exception_to_it() -> None:
    story = order()
    of = declines(story)
    granted = {"approver": "supervisor:sue", "detail": "loyal", "lines": units(lamp=2), "policy": POLICY}
    story.tell(ReturnExceptionGranted(**of, **granted))
    assert evidence(story, Tag.POLICY_EXCEPTION) == ["return.exception_granted"]
    assert "policy:standard v1" in causes(story)[Tag.POLICY_EXCEPTION].about


def test_money_taken_beyond_the_orders_worth_was_charged_twice() -> None:
    story = order()
    asks_refund(story, RefundKind.OVERPAID)
    assert evidence(story, Tag.DUPLICATE_CHARGE) == ["refund.requested"]


def mails(story: Telling) -> Statement:
    said = Statement(claim=Claim.ETA, line_id="lamp", quantity=1, as_of_service="fulfillment", as_of_sequence=1)
    of = about(notification_id="N1", kind=NotificationKind.BACKORDER, title="Later", statements=(said,))
    story.tell(NotificationSent(**of))
    return said


def test_a_mail_that_becomes_untrue_misinformed_and_one_that_bounces_did_not_inform() -> None:
    story = order()
    said = mails(story)
    story.tell(NotificationContradicted(**about(notification_id="N1"), by_fact_id="f", statement=said))
    assert evidence(story, Tag.COMMS_INACCURATE) == ["notification.contradicted"]
    story.tell(NotificationBounced(**about(notification_id="N1"), detail="no such mailbox"))
    assert evidence(story, Tag.COMMS_MISSING) == ["notification.bounced"]


def test_a_provider_that_does_not_answer_or_keeps_other_books_is_a_system_fault() -> None:
    story = order()
    of = about(tender_id="card", operation_id="P9", amount_minor=100, currency="EUR", kind=OperationKind.CAPTURE)
    story.tell(PaymentOperationUnknown(**of))
    odd = about(operation_id="P9", expected_minor=100, observed_minor=90, detail="odd")
    story.tell(PaymentAnomalyDetected(**odd))
    assert evidence(story, Tag.SYSTEM_FAULT) == ["payment.operation_unknown", "payment.anomaly_detected"]


def test_who_calls_an_order_off_changed_their_mind_unless_we_gave_them_reason_to() -> None:
    story = order()
    asked = about(cancellation_id="X1", lines=units(lamp=2), whole=True, detail="not needed")
    story.tell(OrderCancellationRequested(**asked))
    assert evidence(story, Tag.CUSTOMER_REMORSE) == ["order.cancellation_requested"]
    story = split_order("ORD-1")
    story.tell(OrderCancellationRequested(**asked))
    assert Tag.CUSTOMER_REMORSE not in causes(story), "part of it was not in stock"


def test_the_whole_story_was_a_stock_out_a_delay_a_silent_processor_and_a_change_of_mind() -> None:
    assert list(causes(whole_story("ORD-1"))) == [
        Tag.STOCK_OUT,
        Tag.CARRIER_DELAY,
        Tag.SYSTEM_FAULT,
        Tag.CUSTOMER_REMORSE,
    ]


BORNE = EvidencedCause(("f-1",), START, ("sku:LAMP",))


class Desk:
    """An order of which causes are found, and people who know better."""

    def __init__(self) -> None:
        self.state = Support("o-1")
        self.policies = POLICIES

    def tell(self, command: Command, found: Mapping[RootCauseTag, EvidencedCause] | None = None) -> Sequence[Fact]:
        facts = decide(self.state, command, Around(self.policies, MONDAY, causes={"o-1": found or {}}))
        for fact in facts:
            self.state = evolve(self.state, fact)
        assert invariants(self.state) == []
        return facts

    def finds(self, **found: EvidencedCause) -> Sequence[Fact]:
        return self.tell(FindCauses(), {Tag(tag): borne for tag, borne in found.items()})

    def says(self, tag: Tag | None, replaced_by: Tag | None = None) -> Sequence[Fact]:
        return self.tell(OverrideCause(tag, replaced_by, "I was there"))

    @property
    def standing(self) -> list[RootCauseTag]:
        return self.state.causes.standing


def test_a_cause_is_told_once_and_again_only_where_its_facts_are_others() -> None:
    desk = Desk()
    [told] = desk.finds(stock_out=BORNE)
    assert isinstance(told, RootCauseTagged)
    assert (told.rule, told.policy.version, told.confidence_percent) == ("backordered", 1, 80)
    assert (told.evidence, told.about, told.since) == (("f-1",), ("sku:LAMP",), START)
    assert desk.finds(stock_out=BORNE) == []
    [again] = desk.finds(stock_out=replace(BORNE, evidence=("f-1", "f-2")))
    assert isinstance(again, RootCauseTagged) and again.cause_id == told.cause_id


def test_a_cause_that_later_facts_do_not_bear_out_is_refuted_and_may_come_back() -> None:
    desk = Desk()
    desk.finds(carrier_loss=BORNE)
    [refuted] = desk.finds()
    assert isinstance(refuted, RootCauseRefuted) and not refuted.is_switched_off
    assert desk.standing == [] and desk.finds() == []
    assert [fact.type for fact in desk.finds(carrier_loss=BORNE)] == ["root_cause.tagged"]


def test_a_rule_that_is_switched_off_refutes_what_it_found_and_finds_nothing() -> None:
    desk = Desk()
    desk.finds(defect=BORNE)
    rules = {**POLICIES.causes.rules, Tag.DEFECT: CauseRule(is_on=False, confidence_percent=80)}
    desk.policies = replace(
        POLICIES, causes=CausePolicy(rules=rules), causes_ref=PolicyRef(policy_id="root-causes", version=2)
    )
    [refuted] = desk.finds(defect=BORNE)
    assert isinstance(refuted, RootCauseRefuted) and refuted.is_switched_off
    assert desk.finds(defect=BORNE) == []


def test_a_person_who_says_no_wins_over_the_rules_until_it_is_withdrawn() -> None:
    desk = Desk()
    desk.finds(stock_out=BORNE, defect=BORNE)
    [said] = desk.says(Tag.STOCK_OUT)
    assert isinstance(said, RootCauseOverridden) and said.policy == PolicyRef(policy_id="root-causes", version=1)
    assert desk.standing == [Tag.DEFECT]
    desk.finds(stock_out=replace(BORNE, evidence=("f-9",)), defect=BORNE)
    assert desk.standing == [Tag.DEFECT], "found again, it is still set aside"
    assert said.override_id is not None
    desk.tell(WithdrawOverride(said.override_id, "I was wrong"))
    assert desk.standing == [Tag.STOCK_OUT, Tag.DEFECT]
    assert desk.tell(WithdrawOverride(said.override_id, "I was wrong")) == []


def test_a_person_names_another_cause_or_one_that_rules_missed() -> None:
    desk = Desk()
    desk.finds(carrier_delay=BORNE)
    desk.says(Tag.CARRIER_DELAY, Tag.ADDRESS)
    desk.says(None, Tag.DEFECT)
    assert desk.standing == [Tag.DEFECT, Tag.ADDRESS]
    desk.finds()
    assert desk.standing == [Tag.DEFECT, Tag.ADDRESS], "what rules found is over, what a person says is not"


@pytest.mark.parametrize(
    ("tag", "other", "field"),
    [
        (None, None, "tag"),
        (Tag.DEFECT, None, "tag"),
        (Tag.STOCK_OUT, Tag.STOCK_OUT, "replaced_by"),
        (None, Tag.STOCK_OUT, "replaced_by"),
        (Tag.ADDRESS, None, "tag"),
        (None, Tag.CARRIER_DELAY, "replaced_by"),
    ],
)
def test_a_word_that_does_not_fit_what_stands_is_refused_by_its_field(
    tag: Tag | None, other: Tag | None, field: str
) -> None:
    desk = Desk()
    desk.finds(stock_out=BORNE, carrier_delay=BORNE)
    desk.says(Tag.CARRIER_DELAY, Tag.ADDRESS)
    with pytest.raises(Invalid) as refused:
        desk.says(tag, other)
    assert refused.value.field == field
    with pytest.raises(Invalid, match="override_id"):
        desk.tell(WithdrawOverride("o-1-O9", "?"))


def test_the_policy_of_causes_has_a_rule_for_every_tag() -> None:
    with pytest.raises(ValidationError, match="must have a rule for address"):
        CausePolicy(rules={tag: CauseRule(confidence_percent=1) for tag in Tag if tag is not Tag.ADDRESS})
