"""The support-view service, put together."""

from collections.abc import Sequence

from fastapi import APIRouter, FastAPI

from shared.runtime import build
from support_view import api, pages, store
from support_view.handlers import TOPICS, take
from support_view.metrics import api as figures
from support_view.settings import SupportViewSettings

router = APIRouter()
router.include_router(api.router)
router.include_router(figures.router)
router.include_router(pages.router)


def extend(app: FastAPI) -> None:
    api.answer_not_seen(app)
    pages.serve_assets(app)


def built(topics: Sequence[str] = ()) -> FastAPI:
    """Without topics it shows what was seen, and sees nothing more."""
    return build(
        "support-view",
        settings=SupportViewSettings,
        topics=topics,
        take=take,
        router=router,
        gauges=store.GAUGES,
        publishes=False,
        extend=extend,
    )


app = built(TOPICS)
