"""Return policies are versioned data: a published version never changes, a retired one binds no new purchase."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from hashlib import sha256
from typing import Any, Final, TypeAlias, assert_never

from shared.contracts.base import Fact, PolicyRef
from shared.contracts.returns import (
    NOT_HERE,
    Disposition,
    InspectionOutcome,
    InspectionRule,
    PolicyPublished,
    PolicyRetired,
    ReturnPolicy,
)
from shared.core.machine import Invalid, Machine, NotAllowed, replace


class VersionStatus(StrEnum):
    PUBLISHED = "published"
    RETIRED = "retired"


POLICY: Final = Machine(
    "policy version",
    VersionStatus.PUBLISHED,
    {VersionStatus.PUBLISHED: {PolicyRetired: VersionStatus.RETIRED}, VersionStatus.RETIRED: {}},
)


@dataclass(frozen=True, slots=True)
class Version:
    """`digest` is the SHA-256 of what was published, to tell a repeat from a contradiction."""

    status: VersionStatus
    digest: str
    effective_from: datetime
    retired_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy has all its versions; the policy is its subject."""

    policy_id: str
    versions: dict[int, Version]


@dataclass(frozen=True, slots=True)
class PublishPolicy:
    policy: ReturnPolicy


@dataclass(frozen=True, slots=True)
class RetirePolicy:
    version: int
    at: datetime


PolicyCommand: TypeAlias = PublishPolicy | RetirePolicy


def subject(policy_id: str) -> str:
    return f"policy:{policy_id}"


def initial(key: str) -> Policy:
    return Policy(policy_id=key.partition(":")[2], versions={})


def canonical(value: Any) -> str:
    """Write the one JSON text of a value: keys sorted, no spaces, so that equal values have equal hashes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


ADDED: Final = ("review_days", "recovery_days", "recovery_charged")
"""Fields that older versions were published without: at their default they are not part of a digest."""


def document(policy: ReturnPolicy) -> dict[str, Any]:
    """Write what was published, as JSON: the same whatever fields were added since."""
    default = {name: ReturnPolicy.model_fields[name].default for name in ADDED}
    dumped = policy.model_dump(mode="json")
    return {name: value for name, value in dumped.items() if name not in default or value != default[name]}


def digest(policy: ReturnPolicy) -> str:
    return sha256(canonical(document(policy)).encode()).hexdigest()


def decide(state: Policy, command: PolicyCommand, _: object) -> Sequence[Fact]:
    match command:
        case PublishPolicy(policy=policy):
            known = state.versions.get(policy.version)
            if known is not None:
                if known.digest == digest(policy):
                    return []
                detail = f"version {policy.version} is published and never changes"
                raise NotAllowed(known.status, "publish", ("policy.published of the next version",), detail)
            if policy.version != len(state.versions) + 1:
                raise Invalid("version", f"must be {len(state.versions) + 1}, the next one")
            check(policy)
            return [PolicyPublished(policy=policy)]
        case RetirePolicy(version=version, at=at):
            known = state.versions.get(version)
            if known is None:
                raise Invalid("version", "is not published")
            if known.status is VersionStatus.RETIRED:
                return []
            return [PolicyRetired(policy_id=state.policy_id, version=version, retired_at=at)]
    assert_never(command)


def evolve(state: Policy, fact: Fact) -> Policy:
    match fact:
        case PolicyPublished(policy=policy):
            new = Version(POLICY.initial, digest(policy), policy.effective_from)
            return replace(state, versions={**state.versions, policy.version: new})
        case PolicyRetired(version=version, retired_at=retired_at):
            known = state.versions[version]
            gone = replace(known, status=POLICY.step(known.status, fact), retired_at=retired_at)
            return replace(state, versions={**state.versions, version: gone})
        case _:
            raise TypeError(f"{type(fact).__name__} is no fact of a policy")


def check(policy: ReturnPolicy) -> None:
    """Check what no type can say of a policy. Raises Invalid."""
    named = [rule.outcome for rule in policy.inspection]
    if len(set(named)) < len(named):
        raise Invalid("inspection", "names an outcome twice")
    if missing := sorted(set(InspectionOutcome) - set(named)):
        raise Invalid("inspection", f"has no rule for {', '.join(missing)}")
    for i, rule in enumerate(policy.inspection):
        _check_rule(f"inspection.{i}", rule)
    for i, tier in enumerate(policy.tiers):
        if not any((tier.category, tier.condition, tier.membership, tier.placed_from, tier.placed_to)):
            raise Invalid(f"tiers.{i}", "must name what it applies to")


def _check_rule(where: str, rule: InspectionRule) -> None:
    if rule.outcome in NOT_HERE and (rule.refund_percent or rule.disposition is Disposition.RESTOCK):
        raise Invalid(where, f"{rule.outcome} can neither be refunded nor restocked: it is no unit of the return")
    if rule.disposition is Disposition.SEND_BACK and rule.refund_percent:
        raise Invalid(where, "what is sent back is not refunded")


def rule_for(policy: ReturnPolicy, outcome: InspectionOutcome) -> InspectionRule:
    return next(rule for rule in policy.inspection if rule.outcome is outcome)


@dataclass(frozen=True, slots=True)
class Change:
    """One field that differs between two versions."""

    field: str
    before: Any
    after: Any


def diff(before: ReturnPolicy, after: ReturnPolicy) -> list[Change]:
    """Return what a reader must know to tell two versions apart, in the order of the fields; JSON values."""
    old, new = before.model_dump(mode="json"), after.model_dump(mode="json")
    return [Change(name, old[name], new[name]) for name in old if old[name] != new[name] and name != "version"]


DEFAULT: Final = ReturnPolicy.model_validate(
    {
        "policy_id": "default",
        "version": 1,
        "effective_from": "2000-01-01T00:00:00Z",
        "window_days": 30,
        "inspection": [
            {"outcome": "as_new", "disposition": "restock", "refund_percent": 100, "fee_percent": 0},
            {"outcome": "opened", "disposition": "regrade", "refund_percent": 100, "fee_percent": 0},
            {
                "outcome": "defective",
                "disposition": "vendor",
                "refund_percent": 100,
                "fee_percent": 0,
                "refund_shipping": True,
            },
            {
                "outcome": "customer_damage",
                "disposition": "quarantine",
                "refund_percent": 50,
                "fee_percent": 0,
                "review": True,
            },
            {
                "outcome": "incomplete",
                "disposition": "quarantine",
                "refund_percent": 50,
                "fee_percent": 0,
                "review": True,
            },
            {"outcome": "wrong_item", "disposition": "hold", "refund_percent": 0, "fee_percent": 0},
            {"outcome": "counterfeit", "disposition": "hold", "refund_percent": 0, "fee_percent": 0},
            {"outcome": "not_in_box", "disposition": "none", "refund_percent": 0, "fee_percent": 0},
            {"outcome": "extra_item", "disposition": "quarantine", "refund_percent": 0, "fee_percent": 0},
        ],
    }
)
"""What binds orders for which a merchant has published nothing, those of before their first policy too. It is published
like any other when the service first starts, and can be followed by a version of their own."""


@dataclass(frozen=True, slots=True)
class Policies:
    """Published versions, as data that decisions need: contents by reference, and what is in force when."""

    contents: dict[tuple[str, int], ReturnPolicy]
    retired: dict[tuple[str, int], datetime]

    def get(self, ref: PolicyRef) -> ReturnPolicy | None:
        return self.contents.get((ref.policy_id, ref.version))

    def in_force(self, placed_at: datetime, pinned: PolicyRef | None) -> PolicyRef | None:
        """Return what binds a purchase: the policy it names; else the last to take effect and not retired by then."""
        if pinned is not None:
            return pinned if self.get(pinned) else None
        candidates = [
            (policy.effective_from, policy.version, policy.policy_id)
            for key, policy in self.contents.items()
            if policy.effective_from <= placed_at and not (key in self.retired and self.retired[key] <= placed_at)
        ]
        if not candidates:
            return None
        _, version, policy_id = max(candidates)
        return PolicyRef(policy_id=policy_id, version=version)


@dataclass(frozen=True, slots=True)
class Binding:
    """The policy that binds the order, and its reference."""

    policy: ReturnPolicy
    ref: PolicyRef
