"""Where the units of a line are: counters by bucket that always sum to what is owed (I1, I2)."""

from dataclasses import dataclass

from shared.contracts.base import Bucket
from shared.core.machine import replace

HANDED_OVER = (Bucket.IN_TRANSIT, Bucket.DELIVERED, Bucket.LOST, Bucket.RETURNED_TO_SENDER)
IN_SHIPMENTS = (Bucket.ALLOCATED, Bucket.PACKED, *HANDED_OVER)
"""The buckets whose units stand in a live shipment (I4)."""


@dataclass(frozen=True, slots=True)
class Line:
    """`ordered` includes `again`, the units that replacements ordered on top. A bucket that is absent is empty."""

    line_id: str
    sku: str
    ordered: int
    units: dict[Bucket, int]
    again: int = 0

    def of(self, *buckets: Bucket) -> int:
        return sum(self.units.get(bucket, 0) for bucket in buckets)

    def moved(self, quantity: int, source: Bucket, target: Bucket) -> "Line":
        units = dict(self.units)
        left = units.get(source, 0) - quantity
        if left:
            units[source] = left
        else:
            units.pop(source, None)
        units[target] = units.get(target, 0) + quantity
        return replace(self, units=units)

    def owed_again(self, quantity: int) -> "Line":
        units = self.units | {Bucket.UNALLOCATED: self.of(Bucket.UNALLOCATED) + quantity}
        return replace(self, ordered=self.ordered + quantity, again=self.again + quantity, units=units)
