"""The returns service, put together."""

from returns.api import router, uploads
from returns.domain.decisions import due_command
from returns.handlers import ROUTE
from returns.settings import ReturnsSettings
from returns.store import ORDER_RETURNS, POLICIES
from shared.runtime import build

app = build(
    "returns",
    settings=ReturnsSettings,
    flows=(ORDER_RETURNS, POLICIES),
    topics=("orders.events", "fulfillment.events", "payments.events", "warehouse.events"),
    routes=(ROUTE,),
    router=router,
    uploads=uploads,
    timers=((ORDER_RETURNS, due_command),),
)
