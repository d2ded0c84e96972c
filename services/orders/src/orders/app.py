"""The application of the orders service."""

from orders.api import router
from orders.domain.decide import Close
from orders.handlers import ROUTE
from orders.store import ORDERS
from shared.runtime import build

app = build(
    "orders",
    flows=(ORDERS,),
    topics=("payments.events", "fulfillment.events", "returns.events"),
    routes=(ROUTE,),
    router=router,
    timers=((ORDERS, lambda _, __, due_at: Close(due_at)),),
)
