"""What every refund policy has: it is data, it has versions, and a published version never changes."""

from collections.abc import Sequence
from datetime import datetime
from typing import TypeVar

from pydantic import AwareDatetime, Field

from shared.contracts.base import Id, Input, PolicyRef


class Policy(Input):
    policy_id: Id
    version: int = Field(ge=1, le=1_000_000, strict=True)
    effective_from: AwareDatetime

    @property
    def ref(self) -> PolicyRef:
        return PolicyRef(policy_id=self.policy_id, version=self.version)


P = TypeVar("P", bound=Policy)


def in_force(versions: Sequence[P], at: datetime) -> P:
    """The newest that had come into force; the first one, before any had."""
    had = [p for p in versions if p.effective_from <= at]
    if not had:
        return min(versions, key=lambda p: p.version)
    return max(had, key=lambda p: (p.effective_from, p.version))
