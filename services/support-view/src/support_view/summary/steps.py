"""What has to happen next, by whom, and by when: what a person of ours must do first, what happens by itself last."""

from collections.abc import Iterator
from datetime import datetime
from typing import Final

from pydantic import Field

from shared.contracts.base import Model
from support_view.domain.escalations import UNTIL_SEEN, Obligation, Owner, late_at
from support_view.domain.obligations import OBLIGATIONS, of_case
from support_view.domain.policies import EscalationPolicy, RuleName
from support_view.summary.sections import Sections


class Step(Model):
    """What has to happen next, by whom, and by when it is late: then the rule it names escalates it."""

    text: str
    owner: Owner
    due_at: datetime
    rule: RuleName
    link: str = Field(description="anchor of what it is about")
    urgent: bool = Field(default=False, description="somebody of ours has to do it, and at once")


DATED: Final = frozenset(
    {
        RuleName.REFUND_LATE,
        RuleName.DECISION_LATE,
        RuleName.RECOVERY_LATE,
        RuleName.FIRST_RESPONSE_LATE,
        RuleName.NEXT_RESPONSE_LATE,
        RuleName.RESOLUTION_LATE,
    }
)
"""Rules that go by a date that somebody was given, which may be days ahead."""
_LAST: Final = len(Owner)
_PLACES: Final = {Owner.SUPPORT: 0, Owner.SYSTEM: _LAST}


def next_steps(s: Sections, policy: EscalationPolicy) -> Iterator[Step]:
    """All that is not at its end; nothing where everything is."""
    steps: dict[tuple[str, str], Step] = {}
    for one in open_obligations(s, policy):
        due = late_at(one, policy)
        is_urgent = one.owner is Owner.SUPPORT and due <= one.since and one.rule not in DATED
        step = Step(text=one.step(s.words), owner=one.owner, due_at=due, rule=one.rule, link=one.link, urgent=is_urgent)
        same = steps.setdefault((step.link, step.text), step)
        if step.due_at < same.due_at:
            steps[step.link, step.text] = step
    yield from sorted(steps.values(), key=lambda step: (_PLACES.get(step.owner, 1), not step.urgent, step.due_at))


def open_obligations(s: Sections, policy: EscalationPolicy) -> Iterator[Obligation]:
    """Of all services' facts; without what somebody has acknowledged, where nothing else would end it."""
    states = s.states
    seen = {
        (e.rule, e.item, e.since) for e in s.support.escalations.values() if not e.is_open and not e.is_switched_off
    }
    for service, of in OBLIGATIONS.items():
        if service == "support":
            continue
        for one in of(states, policy):
            if one.rule not in UNTIL_SEEN or (one.rule, one.item, one.since) not in seen:
                yield one
    for id, case in s.support.cases.items():
        yield from of_case(id, case, case.spoken_at)
