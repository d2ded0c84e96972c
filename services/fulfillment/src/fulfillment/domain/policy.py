"""What fulfillment decides by, as versioned data: the policy in force when an order was placed binds it."""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from pydantic import Field

from shared.contracts.base import Id, Model, PolicyRef
from shared.contracts.orders import BackorderChoice


class FulfillmentPolicy(Model):
    """Locations not named in `location_priority` come after those that are, by name."""

    policy_id: Id
    version: int = Field(ge=1)
    effective_from: datetime
    location_priority: tuple[Id, ...]
    consent_after_days: int = Field(ge=0, description="a slip of more than this asks for the customer's consent")
    consent_hours: int = Field(ge=1, description="how long the customer has to answer")
    consent_options: tuple[BackorderChoice, ...]
    silence: Literal[BackorderChoice.WAIT, BackorderChoice.CANCEL, BackorderChoice.SHIP_AVAILABLE] = Field(
        description="what happens when nobody answers"
    )
    tracking_days: int = Field(
        default=60, ge=1, description="a number handed over twice within so many days is of both parcels"
    )

    @property
    def ref(self) -> PolicyRef:
        return PolicyRef(policy_id=self.policy_id, version=self.version)

    def rank(self, location: str) -> tuple[int, str]:
        """Sorts locations by priority."""
        named = self.location_priority
        return (named.index(location) if location in named else len(named), location)


def in_force(policies: Sequence[FulfillmentPolicy], at: datetime) -> FulfillmentPolicy:
    """The newest that was effective then; the oldest for what lies before all of them."""
    by_age = sorted(policies, key=lambda p: (p.effective_from, p.version))
    return next((p for p in reversed(by_age) if p.effective_from <= at), by_age[0])
