"""Contacts and cases: whose case a contact belongs to, who owes what by when, and what ends it."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import date, datetime, time, timedelta, timezone
from typing import Any

import pytest
from pydantic import ValidationError

from shared.contracts.base import Fact, PolicyRef
from shared.contracts.support import (
    CaseAssigned,
    CaseClosed,
    CaseLinked,
    CaseNoted,
    CaseOpened,
    CaseReopened,
    CaseResumed,
    Channel,
    ContactReceived,
    Direction,
    EscalationAcknowledged,
    EscalationCleared,
    EscalationRaised,
    RootCauseTag,
)
from shared.core.machine import Invalid, NotAllowed
from support_view.domain.business import Calendar, Hours, Patience, Unit, after, between, over_at
from support_view.domain.cases import CaseStatus, Support, deadlines, evolve, invariants
from support_view.domain.casework import (
    Acknowledge,
    AnswerCustomer,
    Around,
    AsAgent,
    AssignCase,
    AssignEscalation,
    CheckEscalations,
    Command,
    NoteOnCase,
    ReceiveContact,
    ReopenCase,
    ResolveCase,
    ResumeCase,
    WaitFor,
    decide,
    due_command,
)
from support_view.domain.escalations import EscalationStatus, Obligation, Owner
from support_view.domain.obligations import OBLIGATIONS, SERVICE
from support_view.domain.policies import (
    CasePolicy,
    CausePolicy,
    CauseRule,
    EscalationPolicy,
    Policies,
    Rule,
    RuleName,
)

HOURS = (Hours(opens=time(9), closes=time(17)),)
CALENDAR = Calendar(
    zone="Europe/Berlin", week=dict.fromkeys(range(5), HOURS), holidays=frozenset({date(2026, 5, 1), date(2026, 5, 14)})
)
PATIENCE_MINUTES = {
    RuleName.REFUND_UNKNOWN: 30,
    RuleName.CASE_WAITING: 6 * 24 * 60,
    RuleName.CASE_UNCLOSED: 24 * 60,
}
POLICY = Policies(
    cases=CasePolicy(
        calendar=CALENDAR,
        first_response=timedelta(hours=2),
        next_response=timedelta(hours=4),
        resolve=timedelta(hours=16),
        grace=timedelta(hours=72),
        merge_within=timedelta(minutes=10),
    ),
    cases_ref=PolicyRef(policy_id="cases", version=1),
    escalations=EscalationPolicy(
        calendar=CALENDAR,
        contacts_within=timedelta(days=14),
        rules={
            rule: Rule(
                after=Patience(amount=PATIENCE_MINUTES.get(rule, 0), unit=Unit.MINUTES),
                limit={RuleName.CONTACT_REPEATED: 3, RuleName.REOPENED: 2, RuleName.BACKORDER_SLIPPED: 2}.get(rule, 1),
                level=2 if rule is RuleName.REOPENED else 1,
                to_do="look into it",
            )
            for rule in RuleName
        },
    ),
    escalations_ref=PolicyRef(policy_id="escalations", version=1),
    causes=CausePolicy(rules=dict.fromkeys(RootCauseTag, CauseRule(confidence_percent=80))),
    causes_ref=PolicyRef(policy_id="root-causes", version=1),
)
MONDAY = datetime(2026, 5, 4, 8, 0, tzinfo=timezone.utc)
"""Ten o'clock in Berlin, an hour after opening."""
HOUR = timedelta(hours=1)


class Desk:
    """A subject and what it was told."""

    def __init__(self, subject: str = "o-1") -> None:
        self.state = Support(subject)
        self.around = Around(POLICY, MONDAY)
        self.facts: list[Fact] = []

    def tell(self, command: Command) -> Sequence[Fact]:
        facts = decide(self.state, command, self.around)
        for fact in facts:
            self.state = evolve(self.state, fact)
            self.facts.append(fact)
        assert invariants(self.state) == []
        return facts

    def writes(self, id: str, at: datetime, text: str = "", **more: Any) -> Sequence[Fact]:
        said = ReceiveContact(id, at, "ada", Channel.EMAIL, Direction.INBOUND, "where_is_it", text or f"this is {id}")
        return self.tell(replace(said, **more))

    def answers(self, id: str, at: datetime) -> Sequence[Fact]:
        return self.tell(AnswerCustomer("o-1-C1", id, at, Channel.EMAIL, "we look into it", "agent:ann"))

    def look(self, service: str, at: datetime, *seen: Obligation, policies: Policies = POLICY) -> Sequence[Fact]:
        self.around = Around(policies, at, {(self.state.subject, service): seen})
        return self.tell(CheckEscalations(service))

    @property
    def raised(self) -> list[tuple[str, int]]:
        return [(e.rule, e.level) for e in self.state.escalations.values() if e.is_open]

    @property
    def case(self) -> Any:
        return self.state.cases["o-1-C1"]


def types(facts: Sequence[Fact]) -> list[type[Fact]]:
    return [type(fact) for fact in facts]


def test_business_time_counts_open_hours_only() -> None:
    friday = datetime(2026, 4, 30, 14, 0, tzinfo=timezone.utc)  # Thursday, an hour before closing; Friday is a holiday
    assert after(CALENDAR, friday, HOUR) == friday + HOUR
    assert after(CALENDAR, friday, 2 * HOUR) == datetime(2026, 5, 4, 8, 0, tzinfo=timezone.utc)
    assert between(CALENDAR, friday, MONDAY) == 2 * HOUR
    assert between(CALENDAR, MONDAY, friday) == timedelta()
    assert after(CALENDAR, friday, timedelta()) == friday


def test_hours_follow_the_clocks_of_their_zone_through_a_change_of_time() -> None:
    before = datetime(2026, 3, 27, 15, 0, tzinfo=timezone.utc)  # Friday 16:00 in winter time
    assert after(CALENDAR, before, 2 * HOUR) == datetime(2026, 3, 30, 8, 0, tzinfo=timezone.utc)  # 10:00 in summer time


@pytest.mark.parametrize(
    ("patience", "end"),
    [
        (Patience(amount=30, unit=Unit.MINUTES), MONDAY + HOUR / 2),
        (Patience(amount=10, unit=Unit.DAYS), MONDAY + timedelta(days=10)),
        (Patience(amount=8, unit=Unit.BUSINESS_HOURS), MONDAY + timedelta(days=1)),
        (Patience(amount=4, unit=Unit.BUSINESS_DAYS), MONDAY + timedelta(days=4)),
        (Patience(amount=8, unit=Unit.BUSINESS_DAYS), MONDAY + timedelta(days=11)),  # over a weekend and a holiday
    ],
)
def test_patience_is_over_when_its_unit_says_so(patience: Patience, end: datetime) -> None:
    assert over_at(CALENDAR, patience, MONDAY) == end


@pytest.mark.parametrize(
    ("zone", "week"),
    [
        ("Atlantis/Capital", {0: [{"opens": "09:00", "closes": "17:00"}]}),
        ("Europe/Berlin", {0: []}),
        ("Europe/Berlin", {0: [{"opens": "17:00", "closes": "09:00"}]}),
        ("Europe/Berlin", {0: [{"opens": "09:00", "closes": "12:00"}, {"opens": "11:00", "closes": "17:00"}]}),
        ("Europe/Berlin", {7: [{"opens": "09:00", "closes": "17:00"}]}),
    ],
)
def test_a_calendar_that_cannot_be_is_refused(zone: str, week: dict[int, Any]) -> None:
    with pytest.raises(ValidationError):
        Calendar.model_validate({"zone": zone, "week": week})


def test_the_first_contact_opens_a_case_and_starts_its_clocks() -> None:
    desk = Desk()
    assert types(desk.writes("c1", MONDAY)) == [CaseOpened, ContactReceived]
    assert desk.case.status is CaseStatus.OPEN
    assert desk.case.clocks.first_response_due == MONDAY + 2 * HOUR
    assert desk.case.clocks.resolve_due == MONDAY + timedelta(days=2)
    assert desk.case.clocks.next_response_due is None


def test_who_answers_takes_the_case_and_the_next_response_is_owed_only_while_the_customer_spoke_last() -> None:
    desk = Desk()
    desk.writes("c1", MONDAY)
    assert types(desk.answers("a1", MONDAY + HOUR)) == [ContactReceived, CaseAssigned]
    assert (desk.case.status, desk.case.assignee) == (CaseStatus.IN_PROGRESS, "agent:ann")
    assert desk.case.clocks.first_response_due is None
    assert desk.case.clocks.next_response_due is None
    desk.writes("c2", MONDAY + 2 * HOUR)
    desk.writes("c3", MONDAY + 3 * HOUR)
    assert desk.case.clocks.next_response_due == MONDAY + 6 * HOUR, "owed since the first of the two"
    desk.answers("a2", MONDAY + 4 * HOUR)
    assert desk.case.clocks.next_response_due is None
    assert desk.case.clocks.first_response_at == MONDAY + HOUR


def test_clocks_stand_while_the_customer_is_waited_for() -> None:
    desk = Desk()
    desk.writes("c1", MONDAY)
    desk.answers("a1", MONDAY + HOUR)
    desk.tell(WaitFor("o-1-C1", "customer", "a photograph", MONDAY + 2 * HOUR))
    assert desk.case.clocks.resolve_due is None
    assert desk.case.clocks.resolve_left == 14 * HOUR
    assert desk.tell(WaitFor("o-1-C1", "customer", "a photograph", MONDAY + 3 * HOUR)) == []
    wednesday = MONDAY + timedelta(days=2)
    assert types(desk.writes("c2", wednesday)) == [ContactReceived, CaseResumed]
    assert desk.case.status is CaseStatus.IN_PROGRESS
    assert desk.case.clocks.resolve_due == wednesday + timedelta(days=1) + 6 * HOUR
    assert desk.case.clocks.next_response_due == wednesday + 4 * HOUR


def test_clocks_run_while_the_customer_waits_for_us() -> None:
    desk = Desk()
    desk.writes("c1", MONDAY)
    due = desk.case.clocks.resolve_due
    desk.tell(WaitFor("o-1-C1", "internal", "the warehouse", MONDAY + HOUR))
    assert desk.case.clocks.resolve_due == due
    desk.tell(ResumeCase("o-1-C1", "it was found", MONDAY + 2 * HOUR))
    assert (desk.case.status, desk.case.clocks.resolve_due) == (CaseStatus.IN_PROGRESS, due)


def test_a_contact_within_the_grace_reopens_a_case_to_the_very_moment() -> None:
    desk = Desk()
    desk.writes("c1", MONDAY)
    desk.tell(ResolveCase("o-1-C1", "it was next door", MONDAY + HOUR))
    end = MONDAY + HOUR + timedelta(hours=72)
    assert deadlines(desk.state)["close o-1-C1"] == end
    reopened, contact = desk.writes("c2", end)
    assert isinstance(reopened, CaseReopened)
    assert isinstance(contact, ContactReceived)
    assert (reopened.times, contact.case_id) == (1, "o-1-C1")
    assert "close o-1-C1" not in deadlines(desk.state)
    assert desk.case.clocks.first_response_due is not None, "nobody has answered yet"


def test_a_contact_after_it_was_closed_opens_a_linked_case() -> None:
    desk = Desk()
    desk.writes("c1", MONDAY)
    desk.tell(ResolveCase("o-1-C1", "it was next door", MONDAY))
    due = deadlines(desk.state)["close o-1-C1"]
    desk.tell(due_command("o-1", "close o-1-C1", due))
    assert desk.case.status is CaseStatus.CLOSED
    facts = desk.writes("c2", due + HOUR)
    assert types(facts) == [CaseOpened, CaseLinked, ContactReceived]
    assert desk.state.cases["o-1-C2"].linked_to == "o-1-C1"


def test_a_contact_that_overtakes_the_closing_finds_the_case_closed_all_the_same() -> None:
    desk = Desk()
    desk.writes("c1", MONDAY)
    desk.tell(ResolveCase("o-1-C1", "it was next door", MONDAY))
    facts = desk.writes("c2", MONDAY + timedelta(hours=72, microseconds=1))
    assert types(facts) == [CaseClosed, CaseOpened, CaseLinked, ContactReceived]
    with pytest.raises(NotAllowed):
        desk.tell(due_command("o-1", "close o-1-C1", MONDAY))


def test_a_person_reopens_a_case_within_its_grace_and_not_later() -> None:
    desk = Desk()
    desk.writes("c1", MONDAY)
    desk.tell(ResolveCase("o-1-C1", "done", MONDAY))
    desk.tell(ReopenCase("o-1-C1", "it was not", MONDAY + HOUR))
    desk.tell(ResolveCase("o-1-C1", "now it is", MONDAY + 2 * HOUR))
    with pytest.raises(NotAllowed, match="grace is over"):
        desk.tell(ReopenCase("o-1-C1", "it was not", MONDAY + timedelta(days=4)))
    assert desk.case.reopened == 1


def test_the_same_words_by_the_same_way_within_a_moment_are_one_contact() -> None:
    desk = Desk()
    desk.writes("c1", MONDAY, "Where is my LAMP?")
    edge = MONDAY + timedelta(minutes=10)
    [again] = desk.writes("c2", edge, "where  is my lamp?")
    assert isinstance(again, ContactReceived)
    assert (again.duplicate_of, again.case_id) == ("c1", "o-1-C1")
    assert not desk.state.contacts["c2"].counts
    [by_phone, *_] = desk.writes("c3", MONDAY, "Where is my lamp?", channel=Channel.PHONE)
    [too_late, *_] = desk.writes("c4", edge + timedelta(microseconds=1), "Where is my lamp?")
    assert [fact.duplicate_of for fact in (by_phone, too_late) if isinstance(fact, ContactReceived)] == [None, None]


def test_what_repeats_a_repetition_is_merged_into_the_first() -> None:
    desk = Desk()
    desk.writes("c1", MONDAY, "hello")
    desk.writes("c2", MONDAY, "hello")
    [third, *_] = desk.writes("c3", MONDAY + timedelta(days=1), "as I said", duplicate_of="c2")
    assert isinstance(third, ContactReceived)
    assert third.duplicate_of == "c1"
    with pytest.raises(Invalid, match="no contact of this customer"):
        desk.writes("c4", MONDAY, duplicate_of="c9")
    with pytest.raises(Invalid, match="no contact of this customer"):
        desk.writes("c4", MONDAY, duplicate_of="c1", customer="bob")


def test_a_contact_told_again_is_no_news_and_its_id_is_nobody_elses() -> None:
    desk = Desk()
    desk.writes("c1", MONDAY, "hello")
    assert desk.writes("c1", MONDAY, "hello") == []
    with pytest.raises(Invalid, match="used for another contact"):
        desk.writes("c1", MONDAY, "goodbye")


def test_what_no_person_wrote_opens_no_case_and_neither_does_what_we_say_first() -> None:
    desk = Desk()
    [_] = desk.writes("c1", MONDAY, is_automated=True)
    [_] = desk.writes("c2", MONDAY, direction=Direction.OUTBOUND)
    assert desk.state.cases == {}
    assert not any(contact.counts for contact in desk.state.contacts.values())


def test_two_customers_of_one_order_have_a_case_each() -> None:
    desk = Desk()
    desk.writes("c1", MONDAY)
    desk.writes("c2", MONDAY, customer="bob")
    assert {id: case.customer for id, case in desk.state.cases.items()} == {"o-1-C1": "ada", "o-1-C2": "bob"}


def test_a_contact_about_no_order_is_the_customers() -> None:
    desk = Desk("customer:ada")
    opened, _ = desk.writes("c1", MONDAY)
    assert isinstance(opened, CaseOpened)
    assert (opened.order_id, opened.subject, opened.case_id) == (None, "customer:ada", "customer:ada-C1")


def test_what_a_colleague_has_taken_on_is_added_to_and_not_moved_unless_by_a_supervisor() -> None:
    desk = Desk()
    desk.writes("c1", MONDAY)
    desk.tell(AsAgent("agent:ann", AssignCase("o-1-C1", "agent:ann")))
    for command in (
        AssignCase("o-1-C1", "agent:bob"),
        WaitFor("o-1-C1", "customer", "", MONDAY),
        ResumeCase("o-1-C1", "", MONDAY),
        ResolveCase("o-1-C1", "", MONDAY),
        ReopenCase("o-1-C1", "", MONDAY),
    ):
        with pytest.raises(NotAllowed, match="o-1-C1 is with agent:ann: they or a supervisor"):
            desk.tell(AsAgent("agent:bob", command))
    assert types(desk.tell(AsAgent("agent:bob", NoteOnCase("o-1-C1", "they called again")))) == [CaseNoted]
    said = AnswerCustomer("o-1-C1", "a1", MONDAY, Channel.PHONE, "tomorrow", "agent:bob")
    assert types(desk.tell(AsAgent("agent:bob", said))) == [ContactReceived]
    desk.tell(AssignCase("o-1-C1", "agent:bob"))
    desk.tell(AsAgent("agent:bob", ResolveCase("o-1-C1", "done", MONDAY + HOUR)))
    assert desk.case.status is CaseStatus.RESOLVED


def test_a_closed_case_takes_notes_and_nothing_else() -> None:
    desk = Desk()
    desk.writes("c1", MONDAY)
    desk.tell(AssignCase("o-1-C1", "agent:ann"))
    assert desk.tell(AssignCase("o-1-C1", "agent:ann")) == []
    desk.tell(ResolveCase("o-1-C1", "done", MONDAY))
    desk.tell(due_command("o-1", "close o-1-C1", MONDAY))
    assert len(desk.tell(NoteOnCase("o-1-C1", "=1+1 <script>"))) == 1
    for command in (
        AssignCase("o-1-C1", "agent:bob"),
        WaitFor("o-1-C1", "customer", "", MONDAY),
        ResumeCase("o-1-C1", "", MONDAY),
        ResolveCase("o-1-C1", "", MONDAY),
        ReopenCase("o-1-C1", "", MONDAY),
        AnswerCustomer("o-1-C1", "a1", MONDAY, Channel.EMAIL, "", "agent:ann"),
    ):
        with pytest.raises(NotAllowed):
            desk.tell(command)
    with pytest.raises(Invalid, match="o-1-C7 is not known"):
        desk.tell(NoteOnCase("o-1-C7", ""))


def waits(rule: RuleName, item: str, since: datetime, why: str) -> Obligation:
    return Obligation(rule, item, since, why, Owner.SUPPORT, lambda words: why, "order")


UNKNOWN = waits(RuleName.REFUND_UNKNOWN, "o-1-R1", MONDAY, "nobody knows yet whether a refund was paid")
OFF = replace(
    POLICY,
    escalations=POLICY.escalations.model_copy(
        update={
            "rules": {name: rule.model_copy(update={"is_on": False}) for name, rule in POLICY.escalations.rules.items()}
        }
    ),
)


def test_a_refund_unknown_for_too_long_is_raised_once_and_cleared_when_it_is_known_and_the_record_is_kept() -> None:
    desk = Desk()
    assert desk.look("payments", MONDAY + timedelta(minutes=29), UNKNOWN) == []
    [raised] = desk.look("payments", MONDAY + timedelta(minutes=30), UNKNOWN)
    assert isinstance(raised, EscalationRaised)
    assert (raised.rule, raised.level, raised.due_at) == ("refund_unknown", 1, MONDAY + timedelta(minutes=30))
    assert desk.look("payments", MONDAY + HOUR, UNKNOWN) == []
    assert types(desk.look("payments", MONDAY + 2 * HOUR)) == [EscalationCleared]
    assert desk.look("payments", MONDAY + 3 * HOUR) == []
    assert [e.status for e in desk.state.escalations.values()] == [EscalationStatus.CLEARED]


def test_the_same_episode_is_never_raised_again_and_each_new_one_is_a_level_higher_up_to_three() -> None:
    desk = Desk()
    for n, level in enumerate((1, 2, 3, 3)):
        began = replace(UNKNOWN, since=MONDAY + n * HOUR)
        [raised] = desk.look("payments", MONDAY + timedelta(days=1), began)
        assert isinstance(raised, EscalationRaised)
        assert (raised.level, raised.episode) == (level, n + 1)
        desk.look("payments", MONDAY + timedelta(days=1))
        assert desk.look("payments", MONDAY + timedelta(days=1), began) == []


def test_another_item_is_another_escalation_and_another_services_concerns_clear_nothing() -> None:
    desk = Desk()
    desk.look("payments", MONDAY + HOUR, UNKNOWN, replace(UNKNOWN, item="o-1-R2"))
    assert desk.raised == [("refund_unknown", 1), ("refund_unknown", 1)]
    assert desk.look("orders", MONDAY + HOUR) == []
    desk.look("payments", MONDAY + HOUR, replace(UNKNOWN, item="o-1-R2"))
    assert [e.item for e in desk.state.escalations.values() if e.is_open] == ["o-1-R2"]


def test_a_rule_that_is_switched_off_clears_what_it_raised_and_raises_it_again_when_it_is_on() -> None:
    desk = Desk()
    desk.look("payments", MONDAY + HOUR, UNKNOWN)
    [cleared] = desk.look("payments", MONDAY + HOUR, UNKNOWN, policies=OFF)
    assert isinstance(cleared, EscalationCleared)
    assert cleared.is_switched_off
    assert desk.look("payments", MONDAY + HOUR, UNKNOWN, policies=OFF) == []
    [raised] = desk.look("payments", MONDAY + HOUR, UNKNOWN)
    assert isinstance(raised, EscalationRaised)
    assert (raised.level, raised.episode) == (1, 1)


def test_people_acknowledge_and_assign_and_it_stays_open_until_it_is_over() -> None:
    desk = Desk()
    desk.look("payments", MONDAY + HOUR, UNKNOWN)
    desk.tell(AsAgent("agent:ann", AssignEscalation("o-1-E1", "agent:ann")))
    with pytest.raises(NotAllowed, match="o-1-E1 is with agent:ann"):
        desk.tell(AsAgent("agent:bob", AssignEscalation("o-1-E1", "agent:bob")))
    assert types(desk.tell(Acknowledge("o-1-E1", "I ask the bank"))) == [EscalationAcknowledged]
    assert desk.tell(Acknowledge("o-1-E1", "again")) == []
    escalation = desk.state.escalations["o-1-E1"]
    assert (escalation.status, escalation.assignee) == (EscalationStatus.ACKNOWLEDGED, "agent:ann")
    desk.look("payments", MONDAY + HOUR)
    with pytest.raises(NotAllowed):
        desk.tell(Acknowledge("o-1-E1", "too late"))
    with pytest.raises(Invalid, match="o-1-E7 is not known"):
        desk.tell(Acknowledge("o-1-E7", ""))


def test_what_only_a_person_can_end_is_over_once_it_is_acknowledged() -> None:
    desk = Desk()
    differ = waits(RuleName.BOOKS_DIFFER, "books", MONDAY, "the books differ")
    desk.look("payments", MONDAY, differ)
    assert types(desk.tell(Acknowledge("o-1-E1", "set right"))) == [EscalationAcknowledged, EscalationCleared]
    assert desk.look("payments", MONDAY + HOUR, differ) == []


def test_the_third_contact_within_fourteen_days_is_raised_once_edge_included_and_cleared_with_its_case() -> None:
    desk = Desk()
    desk.writes("c1", MONDAY)
    desk.writes("c2", MONDAY, "this is c1")  # the same again: it counts for nothing
    desk.answers("a1", MONDAY)
    desk.writes("c3", MONDAY + timedelta(days=1))
    desk.answers("a2", MONDAY + timedelta(days=1))
    assert ("contact_repeated", 1) not in desk.raised
    desk.writes("c4", MONDAY + timedelta(days=14))
    assert ("contact_repeated", 1) in desk.raised
    desk.writes("c5", MONDAY + timedelta(days=14))
    assert [rule for rule, _ in desk.raised].count("contact_repeated") == 1
    desk.tell(ResolveCase("o-1-C1", "done", MONDAY + timedelta(days=14)))
    assert desk.raised == []


def test_a_contact_a_moment_beyond_the_window_is_not_the_third() -> None:
    desk = Desk()
    for n, at in enumerate((timedelta(), timedelta(days=1), timedelta(days=14, microseconds=1))):
        desk.writes(f"c{n}", MONDAY + at)
    assert ("contact_repeated", 1) not in desk.raised


def test_a_case_reopened_twice_is_raised_at_level_two_once() -> None:
    desk = Desk()
    desk.writes("c1", MONDAY)
    for n in range(1, 3):
        desk.tell(ResolveCase("o-1-C1", "done", MONDAY + n * HOUR / 4))
        desk.tell(ReopenCase("o-1-C1", "it was not", MONDAY + n * HOUR / 4))
    assert desk.raised == [("reopened", 2)]
    assert desk.look("support", MONDAY + HOUR) == []
    desk.tell(ResolveCase("o-1-C1", "done", MONDAY + HOUR))
    assert desk.raised == []


def test_a_customer_who_is_answered_in_time_escalates_nothing_and_one_who_is_not_does() -> None:
    desk = Desk()
    desk.writes("c1", MONDAY)
    due = deadlines(desk.state)["look support"]
    assert due == MONDAY + 2 * HOUR
    desk.answers("a1", MONDAY + HOUR)
    assert desk.look("support", due) == []
    desk.writes("c2", MONDAY + 2 * HOUR)
    due = deadlines(desk.state)["look support"]
    desk.look("support", due)
    assert desk.raised == [("next_response_late", 1)]
    assert deadlines(desk.state)["look support"] > due, "it looks on at the others"
    desk.answers("a2", due + HOUR)
    assert desk.raised == []


def test_every_rule_is_of_one_service_that_can_be_looked_at() -> None:
    assert set(SERVICE) == set(RuleName)
    assert set(SERVICE.values()) == set(OBLIGATIONS)
    assert SERVICE.keys() == set(RuleName)
