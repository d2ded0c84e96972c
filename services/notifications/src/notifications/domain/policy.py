"""How messages are sent, as versioned data: which wait for what belongs in them, and how often sending is tried."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from shared.contracts.base import PolicyRef
from shared.contracts.notifications import NotificationKind


@dataclass(frozen=True, slots=True)
class SendingPolicy:
    """`gather`: how long a message waits for what belongs in it, where `windows` does not name its kind; `stale_after`:
    what is older is told to nobody."""

    policy_id: str
    version: int
    effective_from: datetime
    gather: timedelta
    first_pause: timedelta
    longest_pause: timedelta
    max_attempts: int
    stale_after: timedelta
    windows: Mapping[NotificationKind, timedelta]

    @property
    def ref(self) -> PolicyRef:
        return PolicyRef(policy_id=self.policy_id, version=self.version)

    def window(self, kind: NotificationKind) -> timedelta:
        return self.windows.get(kind, self.gather)

    def pause_after(self, attempts: int) -> timedelta:
        """Doubled with every attempt, up to the longest."""
        return min(self.longest_pause, self.first_pause * (1 << min(attempts - 1, 30)))
