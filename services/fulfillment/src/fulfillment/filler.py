"""The filler serves the queue for goods: who waited longest first, as soon as there is something; the rest get new dates."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timezone
from typing import Final

import asyncpg
import structlog
from uuid_utils.compat import uuid7

from fulfillment import store
from fulfillment.domain.decide import Command, Fill
from fulfillment.domain.stock import Place
from fulfillment.store import ORDERS, InQueue
from shared.messaging.database import BROKEN_LAWS, OUTAGES, Pool
from shared.messaging.envelope import Cause
from shared.messaging.shell import Message, apply
from shared.runtime import Running

log = structlog.get_logger()

POLL_SECONDS = 0.3
PAGE = 200
OF_ONE_ROW: Final = (*BROKEN_LAWS, asyncpg.LockNotAvailableError, asyncpg.QueryCanceledError)
"""What one order's row or shelf may do to the whole transaction."""
FIRST: Place = (datetime.min.replace(tzinfo=timezone.utc), "")

Page = Callable[[Place], Awaitable[list[InQueue]]]


async def filler(running: Running, stop: asyncio.Event) -> None:
    """Serve until stopped. Any replica may have made goods free, so the shelves are asked."""
    while not stop.is_set():
        served = 0
        try:
            served = await serve(running.pool)
        except OUTAGES as error:
            log.warning("backorders.deferred", error=repr(error))
        if served:
            running.notify_relay()
        else:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), POLL_SECONDS)


async def serve(pool: Pool) -> int:
    """Serve one round over everybody who may be served; return how many had news. An order that cannot be served for a fault
    of ours waits by itself, and the round goes on."""
    served = await _retry(pool)
    served += await _each(pool, lambda after: store.fillable(pool, after, PAGE))
    shelves = await store.announced(pool)
    if shelves:
        skus = sorted({sku for sku, _, _ in shelves})
        served += await _each(pool, lambda after: store.concerned(pool, skus, after, PAGE))
        await store.heed(pool, shelves)
    return served


async def _each(pool: Pool, page: Page) -> int:
    served, after = 0, FIRST
    while queue := await page(after):
        served += await _fill(pool, queue)
        after = (queue[-1].placed_at, queue[-1].order_id)
    return served


async def _retry(pool: Pool) -> int:
    served = 0
    if queue := await store.to_retry(pool, FIRST, PAGE):
        served = await _fill(pool, queue)
        await store.recovered(pool, [order.order_id for order in queue])
    return served


async def _fill(pool: Pool, queue: Sequence[InQueue]) -> int:
    """Fill these orders in one transaction; one that breaks a constraint or is locked is left out, and the others are served."""
    try:
        return await _apply(pool, [_told(order) for order in queue])
    except OF_ONE_ROW as error:
        if len(queue) == 1:
            await _failed(pool, queue[0].order_id, error)
            return 0
        return sum([await _fill(pool, [order]) for order in queue])


async def _failed(pool: Pool, order_id: str, error: Exception) -> None:
    log.error("backorder.failed", order_id=order_id, error=repr(error), exc_info=error)
    await store.fail(pool, order_id, repr(error)[:500])


def _told(order: InQueue) -> Message[Command]:
    cause = Cause(
        id=uuid7(),
        at=order.at,
        actor="service:fulfillment",
        reason="serve the queue",
        correlation_id=order.order_id,
    )
    return Message(order.order_id, Fill(order.at), cause)


async def _apply(pool: Pool, messages: Sequence[Message[Command]]) -> int:
    """Apply the round. One that serves nobody leaves nothing behind, not even its claims: an order may wait for long."""
    async with pool.acquire(timeout=5) as db:
        transaction = db.transaction()
        await transaction.start()
        try:
            outcomes, _ = await apply(db, ORDERS, messages)
        except BaseException:
            await transaction.rollback()
            raise
        served = sum(bool(outcome.facts) for outcome in outcomes)
        await (transaction.commit() if served else transaction.rollback())
    for t, outcome in zip(messages, outcomes, strict=True):
        if outcome.error is not None:
            await _failed(pool, t.key, outcome.error)
    return served
