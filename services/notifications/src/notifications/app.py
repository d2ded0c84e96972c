"""The notifications service, put together."""

from notifications.api import router
from notifications.handlers import ROUTE
from notifications.sender import sender
from notifications.settings import NotificationsSettings
from notifications.store import GAUGES, NOTIFICATIONS
from shared.runtime import build

app = build(
    "notifications",
    settings=NotificationsSettings,
    flows=(NOTIFICATIONS,),
    topics=("orders.events", "fulfillment.events", "payments.events", "returns.events"),
    routes=(ROUTE,),
    router=router,
    workers=(sender,),
    gauges=GAUGES,
)
