"""Notices of the provider become commands of an order's account. One that fits nothing here is kept, tried again and shown."""

from typing import Any, Final

import structlog

from payments.domain.decide import Command, Dispute, RecordMovement, RecordOutcome, Report
from payments.gateway import Notice, Processor
from payments.store import (
    PAYMENTS,
    claim_notices,
    currency_of,
    keep_notice,
    order_of,
    settle_notice,
)
from shared.contracts.payments import MovementKind
from shared.core.machine import Invalid, NotAllowed
from shared.core.money import format_minor
from shared.messaging.database import BROKEN_LAWS, OUTAGES, Pool
from shared.messaging.shell import Message
from shared.web.commands import CommandBus
from shared.web.webhooks import webhook_cause

log = structlog.get_logger()

BATCH: Final = 100

MOVED: Final = {
    "authorization.succeeded": MovementKind.AUTHORIZATION,
    "capture.succeeded": MovementKind.CAPTURE,
    "void.succeeded": MovementKind.VOID,
    "refund.succeeded": MovementKind.REFUND,
    "refund.bounced": MovementKind.REFUND_REVERSED,
}


async def hear(
    pool: Pool, commands: CommandBus, processor: Processor, notice: Notice, webhook_id: str, body: str
) -> None:
    """Apply what the provider says has happened; it is never refused. Raises an outage, and Unanswered where the provider had
    to be asked."""
    if reason := await _tell(pool, commands, processor, notice, webhook_id):
        await keep_notice(pool, webhook_id, notice.type, notice.data.order_id, body, notice.occurred_at, reason)


async def hear_again(pool: Pool, commands: CommandBus, processor: Processor) -> int:
    """Try the kept notices again; one that fails holds up no other. Returns how many were due."""
    due = await claim_notices(pool, BATCH)
    for kept in due:
        try:
            notice = Notice.model_validate_json(kept.body)
            reason = await _tell(pool, commands, processor, notice, kept.notice_id)
        except Exception as error:
            if isinstance(error, OUTAGES) and not isinstance(error, BROKEN_LAWS):
                raise
            log.error("notice.failed", notice=kept.notice_id, error=repr(error), exc_info=error)
            continue
        if reason is None:
            await settle_notice(pool, kept.notice_id, "service:payments")
    return len(due)


async def _tell(pool: Pool, commands: CommandBus, processor: Processor, notice: Notice, webhook_id: str) -> str | None:
    """Apply the notice; return None when it had its effect, else what it does not fit, in words."""
    data = notice.data
    asked = await order_of(pool, data.operation_key, None) if data.operation_key else None
    found = asked or (await order_of(pool, None, data.authorization_id) if data.authorization_id else None)
    if found is None:
        currency = await currency_of(pool, data.order_id)
        if currency is None:
            return f"order {data.order_id} is not known, and nothing was asked for under {_subject(notice)}"
        found = (data.order_id, currency)
    order_id, currency = found
    if data.order_id != order_id:
        return f"it names order {data.order_id}, and {_subject(notice)} belongs to order {order_id}"
    if data.currency != currency:
        return f"it names {data.currency}, and order {order_id} is in {currency}"
    command = await _command(notice, processor, is_asked_for=asked is not None)
    cause = webhook_cause("processor", webhook_id, notice.occurred_at, notice.type)
    message: Message[Command] = Message(order_id, command, cause)
    try:
        [refusal] = await commands.process(PAYMENTS, [message])
    except BROKEN_LAWS as error:
        refusal = error
    if refusal is None:
        return None
    if isinstance(refusal, OUTAGES) and not isinstance(refusal, BROKEN_LAWS):
        raise refusal
    if isinstance(refusal, NotAllowed | Invalid):
        return str(refusal)
    return f"our books contradict it: {refusal!r}"


async def _command(notice: Notice, processor: Processor, *, is_asked_for: bool) -> Command:
    """Make the command. A notice of an authorization that does not say how long it lasts is completed by asking. Raises
    Unanswered."""
    data, at = notice.data, notice.occurred_at
    if notice.type == "dispute.opened" or notice.type == "dispute.won" or notice.type == "dispute.lost":
        change: Any = notice.type.partition(".")[2]
        return Dispute(data.authorization_id, data.reference, change, data.amount_minor, at)
    if data.operation_key is not None and is_asked_for:
        if notice.type == "authorization.succeeded" and data.expires_at is None:
            return RecordOutcome(data.operation_key, await processor.find(data.operation_key) or notice.verdict())
        return RecordOutcome(data.operation_key, notice.verdict())
    kind = MOVED.get(notice.type)
    said = f"{notice.type} of {format_minor(data.amount_minor, data.currency)} under {_subject(notice)}, not asked for by us"
    if kind is None:
        return Report(f"the provider tells of {said}: {data.code or 'no reason given'}", data.amount_minor, at)
    return RecordMovement(
        kind, data.authorization_id, data.reference, data.amount_minor, at, f"The provider tells of {said}"
    )


def _subject(notice: Notice) -> str:
    return notice.data.operation_key or notice.data.authorization_id or notice.data.reference
