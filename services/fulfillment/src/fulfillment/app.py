"""The application of the fulfillment service."""

from fulfillment.api import router
from fulfillment.domain.decide import TakeSilence
from fulfillment.filler import filler
from fulfillment.handlers import ROUTES
from fulfillment.scans import UNMATCHED, matcher
from fulfillment.settings import FulfillmentSettings
from fulfillment.store import ORDERS, SHELVES
from shared.runtime import build

app = build(
    "fulfillment",
    settings=FulfillmentSettings,
    flows=(ORDERS, SHELVES),
    topics=("orders.events", "returns.events", "warehouse.events"),
    routes=ROUTES,
    router=router,
    timers=((ORDERS, lambda _, name, due_at: TakeSilence(name.removeprefix("consent "), due_at)),),
    workers=(filler, matcher),
    retention=(UNMATCHED,),
)
