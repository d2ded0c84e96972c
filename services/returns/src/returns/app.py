"""The returns service, put together."""

import asyncio
from datetime import datetime, timezone
from typing import Final
from uuid import NAMESPACE_URL, uuid5

import structlog

from returns.api import router, uploads
from returns.domain import policies
from returns.domain.decide import due_command
from returns.handlers import ROUTE
from returns.settings import ReturnsSettings
from returns.store import ORDER_RETURNS, POLICIES
from shared.core.machine import NotAllowed
from shared.messaging.database import BROKEN_LAWS, OUTAGES
from shared.messaging.envelope import Cause
from shared.messaging.relay import stopped_within
from shared.messaging.shell import Message
from shared.runtime import Running, build

log = structlog.get_logger()

RETRY_SECONDS: Final = 2.0


async def default_policy(running: Running, stop: asyncio.Event) -> None:
    """Publish the default policy, where that has not been done; an outage is waited out."""
    name = f"{policies.subject(policies.DEFAULT.policy_id)}|{policies.DEFAULT.version}"
    cause = Cause(
        id=uuid5(NAMESPACE_URL, name),
        at=datetime.now(timezone.utc),
        actor="service:returns",
        reason="a return needs a policy, also where a merchant has published none",
        correlation_id=name,
    )
    message: Message[policies.PolicyCommand] = Message(
        policies.subject(policies.DEFAULT.policy_id), policies.PublishPolicy(policies.DEFAULT), cause
    )
    while True:
        error: Exception | None
        try:
            [error] = await running.commands.process(POLICIES, [message])
        except BROKEN_LAWS:
            raise
        except OUTAGES as outage:
            error = outage
        if error is None or isinstance(error, NotAllowed):  # refused where the merchant's own policy has this name
            return
        log.warning("default_policy.deferred", error=repr(error))
        if await stopped_within(stop, RETRY_SECONDS):
            return


app = build(
    "returns",
    settings=ReturnsSettings,
    flows=(ORDER_RETURNS, POLICIES),
    topics=("orders.events", "fulfillment.events", "payments.events", "warehouse.events"),
    routes=(ROUTE,),
    router=router,
    uploads=uploads,
    timers=((ORDER_RETURNS, due_command),),
    workers=(default_policy,),
)
