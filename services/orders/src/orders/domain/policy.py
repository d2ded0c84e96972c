"""Thresholds of orders are versioned data; the version in force at placement binds the order."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from shared.contracts.base import PolicyRef


@dataclass(frozen=True, slots=True)
class OrderPolicy:
    """`close_after` says how long a completed order stays open for returns and claims."""

    policy_id: str
    version: int
    effective_from: datetime
    close_after: timedelta

    @property
    def ref(self) -> PolicyRef:
        return PolicyRef(policy_id=self.policy_id, version=self.version)


def in_force(policies: Sequence[OrderPolicy], placed_at: datetime) -> OrderPolicy:
    """Return the newest version that was effective then; the oldest of all for an order older than every policy."""
    effective = [policy for policy in policies if policy.effective_from <= placed_at]
    return (
        max(effective, key=lambda p: (p.effective_from, p.version))
        if effective
        else min(policies, key=lambda p: (p.effective_from, p.version))
    )
