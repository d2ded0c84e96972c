"""A carrier's scans are applied to every parcel that has the tracking number, and kept until there is one.

The warehouse may report after the carrier that a parcel was handed over, hours later where its messages pile up; a carrier
does not repeat a scan for so long, if at all. So a scan of an unknown number is kept and applied when the number is known, or
pruned when it has not become known for long.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import structlog

from fulfillment import store
from fulfillment.domain.decide import Command, Track
from fulfillment.store import ORDERS
from shared.contracts.fulfillment import Scan
from shared.messaging.database import OUTAGES
from shared.messaging.retention import Rule
from shared.messaging.shell import Message
from shared.runtime import Running
from shared.web.commands import CommandBus
from shared.web.webhooks import webhook_cause

log = structlog.get_logger()

POLL_SECONDS: Final = 1.0
PAGE: Final = 200
UNMATCHED: Final = Rule(
    "unmatched_scans", "received_at", lambda settings: settings.unmatched_scans_days, over="error IS NULL"
)
"""A scan that nobody's shipment had all this time is of somebody else's goods. One that failed is ours, and a fault to mend."""


@dataclass(frozen=True, slots=True)
class Scanned:
    scan: Scan
    detail: str


async def track(commands: CommandBus, scanned: Scanned, at: datetime) -> tuple[list[str], Exception | None]:
    """Apply the scan to the orders whose parcels it is of; return them, none where the number is not known yet, and what
    refused it."""
    scan = scanned.scan
    places = await store.places_of(commands.pool, scan.carrier, scan.tracking)
    messages: list[Message[Command]] = []
    for order_id, shipment_id in places:
        id = f"{scan.tracking} {scan.code} {scan.at.isoformat()} {shipment_id}"
        cause = webhook_cause(f"carrier:{scan.carrier}", id, at, scan.code)
        messages.append(Message(order_id, Track(scan, scanned.detail, shipment_id), cause))
    errors = [error for error in await commands.process(ORDERS, messages) if error is not None]
    return list(dict.fromkeys(order_id for order_id, _ in places)), next(iter(errors), None)


async def matcher(running: Running, stop: asyncio.Event) -> None:
    """Apply, until stopped, the scans whose number has become known."""
    while not stop.is_set():
        matched = 0
        try:
            matched = await match(running.commands)
        except OUTAGES as error:
            log.warning("scans.deferred", error=repr(error))
        if not matched:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), POLL_SECONDS)


async def match(commands: CommandBus) -> int:
    """Go once over the scans that wait, oldest first; return how many were applied. One that fails waits by itself."""
    applied: list[store.ScanKey] = []
    failed: list[tuple[*store.ScanKey, str]] = []
    for scanned in await _due(commands):
        scan = scanned.scan
        key = (scan.carrier, scan.tracking, scan.code, scan.at)
        _, error = await track(commands, scanned, scan.at)
        if error is None:
            applied.append(key)
        else:
            log.error("scan.failed", tracking=scan.tracking, code=scan.code, error=repr(error), exc_info=error)
            failed.append((*key, repr(error)[:500]))
    await store.scans_settled(commands.pool, applied, failed)
    return len(applied)


async def _due(commands: CommandBus) -> Sequence[Scanned]:
    rows = await store.matched_scans(commands.pool, PAGE)
    return [Scanned(Scan(carrier=c, tracking=t, code=code, at=at), detail) for c, t, code, at, detail in rows]
