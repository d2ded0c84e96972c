"""Why orders go wrong: rules that find causes in what services' facts show, and what people say instead. Pure.

The same signs give the same causes, whatever order they came in. A cause that its signs bear out no more is refuted; what
a person says goes before what rules find, until it is withdrawn.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, TypeAlias

from shared.contracts.base import Fact, PolicyRef
from shared.contracts.support import (
    RootCauseOverridden,
    RootCauseOverrideWithdrawn,
    RootCauseRefuted,
    RootCauseTag,
    RootCauseTagged,
)
from shared.core.machine import Invalid, replace
from support_view.domain.escalations import about
from support_view.domain.policies import CausePolicy
from support_view.domain.signals import Signal, SignalKind
from support_view.domain.timeline import SERVICES, plain

CauseFact: TypeAlias = RootCauseTagged | RootCauseRefuted | RootCauseOverridden | RootCauseOverrideWithdrawn


@dataclass(frozen=True, slots=True)
class Evidence:
    """A signal, and the service whose fact shows it."""

    service: str
    signal: Signal


class EvidenceByKind:
    """All signals of an order by kind, each kind by time."""

    def __init__(self, signs: Mapping[str, Iterable[Signal]]) -> None:
        self._by_kind: dict[SignalKind, list[Evidence]] = {}
        for evidence in sorted(
            (Evidence(of, signal) for of, signs_of in signs.items() for signal in signs_of), key=_time
        ):
            self._by_kind.setdefault(evidence.signal.kind, []).append(evidence)

    def of(self, *kinds: SignalKind) -> list[Evidence]:
        return sorted((evidence for kind in kinds for evidence in self._by_kind.get(kind, ())), key=_time)


def _time(evidence: Evidence) -> tuple[datetime, int, int, str, str]:
    mark = evidence.signal.mark
    return mark.at, SERVICES.index(evidence.service), mark.sequence, evidence.signal.kind, evidence.signal.item


@dataclass(frozen=True, slots=True)
class Rule:
    """`finds` are the grounds that bear the cause out, none where it is no cause; `because` says in words why they do."""

    name: str
    because: str
    finds: Callable[[EvidenceByKind], list[Evidence]]


def _shown_by(*kinds: SignalKind) -> Callable[[EvidenceByKind], list[Evidence]]:
    return lambda grounds: grounds.of(*kinds)


def _asked_between_parts(grounds: EvidenceByKind) -> list[Evidence]:
    """A delay, a loss or an untrue message explains a question better than the split does."""
    left, arrived = grounds.of(SignalKind.PART_SHIPPED), grounds.of(SignalKind.PART_DELIVERED)
    if not left or grounds.of(SignalKind.DELAYED, SignalKind.LOST, SignalKind.UNTRUE):
        return []
    ends_at = arrived[-1].signal.mark.at if len(arrived) >= max(2, len(left)) else None
    asked = [
        evidence
        for evidence in grounds.of(SignalKind.ASKED)
        if evidence.signal.mark.at >= left[0].signal.mark.at and (ends_at is None or evidence.signal.mark.at <= ends_at)
    ]
    return [*left, *asked] if asked else []


def _asked_after_refusal(grounds: EvidenceByKind) -> list[Evidence]:
    refused = grounds.of(SignalKind.REFUSED)
    asked = [g for g in grounds.of(SignalKind.ASKED) if refused and g.signal.mark.at >= refused[0].signal.mark.at]
    return [*refused, *asked] if asked else []


def _changed_their_mind(grounds: EvidenceByKind) -> list[Evidence]:
    """Who calls off what is late, lost or not in stock has reason to."""
    called_off = grounds.of(SignalKind.CALLED_OFF)
    if grounds.of(SignalKind.BACKORDERED, SignalKind.DELAYED, SignalKind.LOST, SignalKind.DECLINED):
        called_off = []
    return [*grounds.of(SignalKind.UNWANTED), *called_off]


RULES: Final[Mapping[RootCauseTag, Rule]] = {
    RootCauseTag.STOCK_OUT: Rule(
        "backordered",
        "units that were ordered lay on no shelf: they were backordered",
        _shown_by(SignalKind.BACKORDERED),
    ),
    RootCauseTag.SPLIT_CONFUSION: Rule(
        "asked_between_parts",
        "the customer asked while part of the order had come and part had not, and nothing was late, lost or untrue",
        _asked_between_parts,
    ),
    RootCauseTag.CARRIER_DELAY: Rule(
        "late_on_the_way", "the carrier was late, or was not heard of for long", _shown_by(SignalKind.DELAYED)
    ),
    RootCauseTag.CARRIER_LOSS: Rule(
        "lost_on_the_way", "a parcel was lost, or did not reach the customer", _shown_by(SignalKind.LOST)
    ),
    RootCauseTag.WRONG_ITEM: Rule(
        "other_than_ordered", "the customer got something other than ordered", _shown_by(SignalKind.WRONG_ITEM)
    ),
    RootCauseTag.DEFECT: Rule("defective", "goods were defective when they came", _shown_by(SignalKind.DEFECTIVE)),
    RootCauseTag.DAMAGE_TRANSIT: Rule(
        "damaged_on_the_way", "goods were damaged on their way to the customer", _shown_by(SignalKind.DAMAGED)
    ),
    RootCauseTag.ADDRESS: Rule(
        "not_deliverable", "it could not be delivered to the address", _shown_by(SignalKind.UNDELIVERABLE)
    ),
    RootCauseTag.PAYMENT_DECLINE: Rule(
        "declined", "the customer's bank or card refused to pay", _shown_by(SignalKind.DECLINED)
    ),
    RootCauseTag.REFUND_SLOW: Rule(
        "paid_back_late", "a refund came later than was promised", _shown_by(SignalKind.REFUND_LATE)
    ),
    RootCauseTag.REFUND_FAILED: Rule(
        "not_paid_back", "a refund failed, bounced or needed a person", _shown_by(SignalKind.REFUND_FAILED)
    ),
    RootCauseTag.POLICY_UNCLEAR: Rule(
        "asked_after_refusal", "the customer asked after the policy had kept a return back", _asked_after_refusal
    ),
    RootCauseTag.POLICY_EXCEPTION: Rule(
        "policy_set_aside",
        "a person set the policy aside, or gave back more than it grants",
        _shown_by(SignalKind.EXCEPTION),
    ),
    RootCauseTag.DUPLICATE_CHARGE: Rule(
        "paid_too_much", "more was taken than the order was worth, and had to go back", _shown_by(SignalKind.OVERPAID)
    ),
    RootCauseTag.COMMS_INACCURATE: Rule(
        "told_untruly", "what the customer was told became untrue while it stood", _shown_by(SignalKind.UNTRUE)
    ),
    RootCauseTag.COMMS_MISSING: Rule("not_told", "a message did not reach the customer", _shown_by(SignalKind.UNTOLD)),
    RootCauseTag.SYSTEM_FAULT: Rule(
        "systems_disagreed",
        "a system did not answer, or its books and ours differed",
        _shown_by(SignalKind.UNANSWERED, SignalKind.BOOKS_DIFFER),
    ),
    RootCauseTag.CUSTOMER_REMORSE: Rule(
        "changed_their_mind",
        "the customer did not want it any more, and nothing was wrong with it",
        _changed_their_mind,
    ),
}

EVIDENCE_AT_MOST: Final = 50
ABOUT_AT_MOST: Final = 20


@dataclass(frozen=True, slots=True)
class Found:
    """What a rule makes of an order: the places of its evidence (service and sequence), when the first of it happened, and
    whom and what it is about."""

    evidence: tuple[tuple[str, int], ...]
    since: datetime
    about: tuple[str, ...]


def find(
    signs: Mapping[str, Iterable[Signal]], about_item: Callable[[str], tuple[str, ...]]
) -> dict[RootCauseTag, Found]:
    """The causes that all rules find, by the signs of each service. `about_item` says what an item is about whose sign does
    not: who saw it knows no more of it than its id."""
    grounds = EvidenceByKind(signs)
    found = {}
    for tag, rule in RULES.items():
        if bearing := rule.finds(grounds):
            places = dict.fromkeys((evidence.service, evidence.signal.mark.sequence) for evidence in bearing)
            said = (evidence.signal.about or about_item(evidence.signal.item) for evidence in bearing)
            labels = sorted({label for labels in said for label in labels})
            since = min(evidence.signal.mark.at for evidence in bearing)
            found[tag] = Found(tuple(places)[:EVIDENCE_AT_MOST], since, tuple(labels[:ABOUT_AT_MOST]))
    return found


@dataclass(frozen=True, slots=True)
class EvidencedCause:
    """What was found, with the ids of the facts that bear it out."""

    evidence: tuple[str, ...]
    since: datetime | None
    about: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Cause:
    """What rules said last of a tag: at which version, and whether it is so still."""

    rule: str
    version: int
    confidence_percent: int
    borne: EvidencedCause
    is_refuted: bool = False
    was_switched_off: bool = False


@dataclass(frozen=True, slots=True)
class Override:
    """A person's word: `tag` is no cause, `replaced_by` is one. `version` is that of the rules that had found `tag`."""

    tag: RootCauseTag | None
    replaced_by: RootCauseTag | None
    detail: str
    version: int | None
    is_withdrawn: bool = False


@dataclass(frozen=True, slots=True)
class Causes:
    """Of one order. `overrides` are all there were, by id."""

    found: Mapping[RootCauseTag, Cause] = field(default_factory=dict)
    overrides: Mapping[str, Override] = field(default_factory=dict)

    @property
    def said(self) -> dict[RootCauseTag, str]:
        """The override that speaks of a tag, by tag."""
        standing = [(id, override) for id, override in self.overrides.items() if not override.is_withdrawn]
        return {tag: id for id, one in standing for tag in (one.tag, one.replaced_by) if tag is not None}

    @property
    def standing(self) -> list[RootCauseTag]:
        """Those that are causes by the last word on each, in the order of the tags."""
        said = self.said
        return [
            tag
            for tag in RootCauseTag
            if (
                self.overrides[said[tag]].replaced_by is tag
                if tag in said
                else tag in self.found and not self.found[tag].is_refuted
            )
        ]


def evolve(causes: Causes, fact: CauseFact) -> Causes:
    """Total: what is refuted or withdrawn and was never told stays untold."""
    match fact:
        case RootCauseTagged(tag=tag):
            borne = EvidencedCause(fact.evidence, fact.since, fact.about)
            cause = Cause(fact.rule, fact.policy.version, fact.confidence_percent, borne)
            return replace(causes, found={**causes.found, tag: cause})
        case RootCauseRefuted(tag=tag, is_switched_off=off):
            if (known := causes.found.get(tag)) is None:
                return causes
            return replace(causes, found={**causes.found, tag: replace(known, is_refuted=True, was_switched_off=off)})
        case RootCauseOverridden():
            version = fact.policy.version if fact.policy is not None else None
            override = Override(fact.tag, fact.replaced_by, fact.detail, version)
            return replace(causes, overrides={**causes.overrides, override_id(fact, causes): override})
        case RootCauseOverrideWithdrawn(override_id=id):
            if (was := causes.overrides.get(id)) is None:
                return causes
            return replace(causes, overrides={**causes.overrides, id: replace(was, is_withdrawn=True)})


def override_id(fact: RootCauseOverridden, causes: Causes) -> str:
    return fact.override_id or f"{fact.subject}-O{len(causes.overrides) + 1}"


def settle(
    subject: str, causes: Causes, found: Mapping[RootCauseTag, EvidencedCause], policy: CausePolicy, ref: PolicyRef
) -> list[Fact]:
    """Tell what is found, or found on other grounds than it was; refute what is not found any more. Nothing where nothing
    changed."""
    facts: list[Fact] = []
    of = about(subject, None)
    for tag, rule in RULES.items():
        known, setting = causes.found.get(tag), policy.rules[tag]
        borne = found.get(tag) if setting.is_on else None
        stands = known is not None and not known.is_refuted
        id = f"{subject}-{tag}"
        if borne is not None and not (stands and known is not None and known.borne == borne):
            facts.append(
                RootCauseTagged(
                    **of,
                    cause_id=id,
                    tag=tag,
                    rule=rule.name,
                    confidence_percent=setting.confidence_percent,
                    evidence=borne.evidence,
                    policy=ref,
                    since=borne.since,
                    about=borne.about,
                )
            )
        elif borne is None and stands:
            off = not setting.is_on
            detail = SWITCHED_OFF if off else BORNE_OUT_NO_MORE
            facts.append(RootCauseRefuted(**of, cause_id=id, tag=tag, is_switched_off=off, detail=detail))
    return facts


SWITCHED_OFF: Final = "its rule was switched off"
BORNE_OUT_NO_MORE: Final = "later facts do not bear it out"


@dataclass(frozen=True, slots=True)
class OverrideCause:
    """`tag` was no cause; `replaced_by` was one."""

    tag: RootCauseTag | None
    replaced_by: RootCauseTag | None
    detail: str


@dataclass(frozen=True, slots=True)
class WithdrawOverride:
    override_id: str
    detail: str


def decide(subject: str, causes: Causes, command: OverrideCause | WithdrawOverride, ref: PolicyRef) -> list[Fact]:
    """Raises Invalid for what does not fit what stands."""
    of = about(subject, None)
    if isinstance(command, WithdrawOverride):
        override = causes.overrides.get(command.override_id)
        if override is None:
            raise Invalid("override_id", f"{command.override_id} is not known")
        withdrawn = RootCauseOverrideWithdrawn(**of, override_id=command.override_id, detail=command.detail)
        return [] if override.is_withdrawn else [withdrawn]
    tag, other, standing = command.tag, command.replaced_by, causes.standing
    said = causes.said
    if tag is None and other is None:
        raise Invalid("tag", "must be named, or `replaced_by`, or both")
    for name, one in (("tag", tag), ("replaced_by", other)):
        if one in said:
            raise Invalid(name, f"{said[one]} speaks of {plain(one)} already: withdraw it first")
    if tag is not None and tag not in standing:
        others = ", ".join(standing) or "none"
        raise Invalid("tag", f"must be a cause that stands; those of this order: {others}")
    if other is not None and other in standing:
        raise Invalid("replaced_by", f"must be no cause that stands; {other} is one")
    known = causes.found[tag] if tag is not None else None
    return [
        RootCauseOverridden(
            **of,
            cause_id=f"{subject}-{tag}" if tag is not None else None,
            tag=tag,
            replaced_by=other,
            detail=command.detail,
            override_id=f"{subject}-O{len(causes.overrides) + 1}",
            policy=PolicyRef(policy_id=ref.policy_id, version=known.version) if known is not None else None,
        )
    ]


def invariants(causes: Causes) -> list[str]:
    """Which promises they break: always none."""
    standing = [override for override in causes.overrides.values() if not override.is_withdrawn]
    named = [tag for override in standing for tag in (override.tag, override.replaced_by) if tag is not None]
    return [f"two people's words of {tag} stand" for tag in sorted({tag for tag in named if named.count(tag) > 1})]
