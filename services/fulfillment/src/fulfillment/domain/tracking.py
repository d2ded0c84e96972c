"""Where a parcel is, by its scans: a function of the latest scan of each kind, so that their order of arrival is nothing.

Scans move a parcel by rank only. The listed reversals need a later scan: an exception is cleared, a lost parcel found, a
delivered one not received.
"""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Final, NamedTuple


class ShipmentStatus(StrEnum):
    CREATED = "created"
    PACKED = "packed"
    HELD = "held"
    SHIPPED = "shipped"
    IN_TRANSIT = "in_transit"
    OUT_FOR_DELIVERY = "out_for_delivery"
    EXCEPTION = "exception"
    DELIVERED = "delivered"
    LOST = "lost"
    RETURNING_TO_SENDER = "returning_to_sender"
    RETURNED_TO_SENDER = "returned_to_sender"
    CANCELLED = "cancelled"


class Standing(NamedTuple):
    """A status, and for an exception its kind."""

    status: ShipmentStatus
    kind: str | None = None


EXCEPTIONS: Final = ("delayed", "attempted", "address", "customs", "damaged", "not_received")
PROGRESS: Final = {
    "in_transit": ShipmentStatus.IN_TRANSIT,
    "found": ShipmentStatus.IN_TRANSIT,
    "out_for_delivery": ShipmentStatus.OUT_FOR_DELIVERY,
}
"""In the order of their ranks."""
OUTCOMES: Final = (
    ("returning", None, ShipmentStatus.RETURNING_TO_SENDER),
    ("recalled", None, ShipmentStatus.RETURNING_TO_SENDER),
    ("lost", "found", ShipmentStatus.LOST),
    ("delivered", "not_received", ShipmentStatus.DELIVERED),
)
"""A scan's code, the code that undoes it when it is later, and the status."""


def with_scan(scans: Mapping[str, datetime], code: str, at: datetime) -> dict[str, datetime]:
    """The latest scan of each kind."""
    return {**scans, code: max(at, scans.get(code, at))}


def standing(scans: Mapping[str, datetime]) -> Standing:
    """What a handed-over parcel's scans say in all. Back at the sender is the end, whatever else is told."""
    if "returned" in scans:
        return Standing(ShipmentStatus.RETURNED_TO_SENDER)
    if outcome := _outcome(scans):
        return Standing(outcome)
    exception = max(((scans[code], code) for code in EXCEPTIONS if code in scans), default=None)
    moved = [PROGRESS[code] for code in PROGRESS if code in scans and (not exception or scans[code] > exception[0])]
    if moved:
        return Standing(moved[-1])
    return Standing(ShipmentStatus.EXCEPTION, exception[1]) if exception else Standing(ShipmentStatus.SHIPPED)


def _outcome(scans: Mapping[str, datetime]) -> ShipmentStatus | None:
    """The latest of returning, lost and delivered that no later scan undoes; at one instant the later in this order."""
    told: list[tuple[datetime, int, ShipmentStatus]] = []
    for rank, (code, undone_by, status) in enumerate(OUTCOMES):
        at = scans.get(code)
        if at is None:
            continue
        undone_at = scans.get(undone_by) if undone_by else None
        if undone_at is None or undone_at <= at:
            told.append((at, rank, status))
    return max(told)[2] if told else None
