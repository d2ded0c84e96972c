"""The support-view service, put together."""

from fastapi import APIRouter

from shared.runtime import build
from support_view import api, pages, store
from support_view.handlers import TOPICS, take

router = APIRouter()
router.include_router(api.router)
router.include_router(pages.router)

app = build(
    "support-view",
    topics=TOPICS,
    take=take,
    router=router,
    gauges=store.GAUGES,
    publishes=False,
    extend=pages.serve_assets,
)
