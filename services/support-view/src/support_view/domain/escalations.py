"""Escalations: somebody must look. Raised once per subject, rule, item and episode; cleared when it is over; kept for ever."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from hashlib import sha256
from typing import Any, Final

from shared.contracts.base import Fact, PolicyRef
from shared.contracts.fulfillment import SHELF
from shared.contracts.support import (
    CUSTOMER,
    EscalationAcknowledged,
    EscalationAssigned,
    EscalationCleared,
    EscalationFact,
    EscalationRaised,
)
from shared.core.machine import Machine, replace
from support_view.domain.business import over_at
from support_view.domain.policies import EscalationPolicy, RuleName
from support_view.domain.timeline import Words

HIGHEST: Final = 3


class EscalationStatus(StrEnum):
    RAISED = "raised"
    ACKNOWLEDGED = "acknowledged"
    CLEARED = "cleared"


ESCALATION: Final = Machine(
    "escalation",
    EscalationStatus.RAISED,
    {
        EscalationStatus.RAISED: {
            EscalationAcknowledged: EscalationStatus.ACKNOWLEDGED,
            EscalationAssigned: EscalationStatus.RAISED,
            EscalationCleared: EscalationStatus.CLEARED,
        },
        EscalationStatus.ACKNOWLEDGED: {
            EscalationAssigned: EscalationStatus.ACKNOWLEDGED,
            EscalationCleared: EscalationStatus.CLEARED,
        },
        EscalationStatus.CLEARED: {},
    },
)


@dataclass(frozen=True, slots=True)
class Escalation:
    """`since` is when what it rests on began: with rule and item, its episode."""

    status: EscalationStatus
    rule: RuleName
    item: str
    since: datetime
    due_at: datetime
    level: int
    episode: int
    why: str
    to_do: str
    customer: str | None
    assignee: str | None = None
    was_switched_off: bool = False

    @property
    def is_open(self) -> bool:
        return self.status is not EscalationStatus.CLEARED


class Owner(StrEnum):
    """Whose a next step is."""

    CUSTOMER = "customer"
    SUPPORT = "support"
    WAREHOUSE = "warehouse"
    CARRIER = "carrier"
    SUPPLIER = "supplier"
    PROVIDER = "provider"
    SYSTEM = "system"


@dataclass(frozen=True, slots=True)
class Obligation:
    """The next step of something that is not at its end: by a rule, whose patience counts from `since`.

    `why` is told once it is late; `step` is what to do, in the words of its order. `link` is the page's anchor of it.
    """

    rule: RuleName
    item: str
    since: datetime
    why: str
    owner: Owner
    step: Callable[[Words], str]
    link: str
    customer: str | None = None


def due_at(obligation: Obligation, policy: EscalationPolicy) -> datetime | None:
    """When somebody must look; None where its rule is switched off."""
    return late_at(obligation, policy) if policy.rules[obligation.rule].is_on else None


def late_at(obligation: Obligation, policy: EscalationPolicy) -> datetime:
    """When its step is late, whether or not anybody is to be told."""
    return over_at(policy.calendar, policy.rules[obligation.rule].after, obligation.since)


UNTIL_SEEN: Final = frozenset(
    {
        RuleName.BOOKS_DIFFER,
        RuleName.CONTRADICTED_PLAN,
        RuleName.RETURN_UNEXPECTED,
        RuleName.MESSAGE_FAILED,
        RuleName.SHELF_CONTRADICTED,
    }
)
"""No fact need say that these are over: who acknowledges one has dealt with it."""
OF_SEVERAL: Final = frozenset({RuleName.CONTRADICTED_PLAN})
"""Facts of several services raise these: a look at one does not end what another told."""


def about(subject: str, customer: str | None) -> dict[str, Any]:
    """Whose subject a fact is of."""
    return {"order_id": order_of(subject), "customer": customer, "shelf": shelf_of(subject)}


def order_of(subject: str) -> str | None:
    """The order that it is; None of a customer or a shelf."""
    return None if subject.startswith((f"{CUSTOMER}:", f"{SHELF}:")) else subject


def shelf_of(subject: str) -> str | None:
    """The shelf that it is, as `<sku>@<location>`."""
    return subject.removeprefix(f"{SHELF}:") if subject.startswith(f"{SHELF}:") else None


def _escalation_id(subject: str, number: int) -> str:
    """A shelf's name may be longer than an id: a digest stands for it then."""
    if len(subject) > 56:
        subject = f"{subject.partition(':')[0]}:{sha256(subject.encode()).hexdigest()[:24]}"
    return f"{subject}-E{number}"


@dataclass(frozen=True, slots=True)
class Look:
    """What obligations there are now, by all rules of `of`."""

    of: frozenset[RuleName]
    obligations: tuple[Obligation, ...]
    at: datetime


def settle(
    subject: str, known: Mapping[str, Escalation], look: Look, policy: EscalationPolicy, ref: PolicyRef
) -> list[Fact]:
    """Clear what is over, raise what is due and was not raised before. Nothing where nothing changed."""
    due = {
        (one.rule, one.item): (one, at)
        for one in look.obligations
        if (at := due_at(one, policy)) is not None and at <= look.at
    }
    facts: list[Fact] = []
    still = set()
    for id, escalation in known.items():
        if not escalation.is_open or (escalation.rule not in look.of and escalation.rule not in OF_SEVERAL):
            continue
        if escalation.rule in OF_SEVERAL and policy.rules[escalation.rule].is_on:
            continue
        if (place := (escalation.rule, escalation.item)) in due:
            still.add(place)
        else:
            off = not policy.rules[escalation.rule].is_on
            of = about(subject, escalation.customer) | {"escalation_id": id}
            facts.append(EscalationCleared(**of, is_switched_off=off, detail=SWITCHED_OFF if off else IT_IS_OVER))
    number = len(known)
    for place, (one, at) in due.items():
        earlier = [e for e in known.values() if (e.rule, e.item) == place]
        if place in still or any(e.since == one.since and not e.was_switched_off for e in earlier):
            continue
        number += 1
        episodes = len({e.since for e in earlier} | {one.since})
        rule = policy.rules[one.rule]
        facts.append(
            EscalationRaised(
                **about(subject, one.customer),
                escalation_id=_escalation_id(subject, number),
                rule=one.rule,
                item=one.item,
                since=one.since,
                due_at=at,
                level=min(HIGHEST, rule.level + episodes - 1),
                episode=episodes,
                why=one.why,
                to_do=rule.to_do,
                policy=ref,
            )
        )
    return facts


SWITCHED_OFF: Final = "its rule was switched off"
IT_IS_OVER: Final = "what it was about is over"


def evolve(known: Mapping[str, Escalation], fact: EscalationFact) -> dict[str, Escalation]:
    """Raises NotAllowed where the machine does."""
    if isinstance(fact, EscalationRaised):
        raised = Escalation(
            status=ESCALATION.initial,
            rule=RuleName(fact.rule),
            item=fact.item,
            since=fact.since,
            due_at=fact.due_at,
            level=fact.level,
            episode=fact.episode,
            why=fact.why,
            to_do=fact.to_do,
            customer=fact.customer,
        )
        return {**known, fact.escalation_id: raised}
    before = known[fact.escalation_id]
    after = replace(before, status=ESCALATION.step(before.status, fact))
    match fact:
        case EscalationAssigned(assignee=assignee):
            after = replace(after, assignee=assignee)
        case EscalationCleared(is_switched_off=off):
            after = replace(after, was_switched_off=off)
    return {**known, fact.escalation_id: after}
