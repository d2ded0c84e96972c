"""The support-view service, put together."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import httpx
from fastapi import APIRouter, FastAPI

from shared.runtime import Running, build
from support_view import api, pages, sign_in, store
from support_view.handlers import TOPICS, take
from support_view.metrics import api as figures
from support_view.settings import SupportViewSettings

router = APIRouter()
for part in (api, figures, sign_in, pages):
    router.include_router(part.router)


def extend(app: FastAPI) -> None:
    api.answer_not_seen(app)
    pages.serve_assets(app)


def built(topics: Sequence[str] = ()) -> FastAPI:
    """Without topics it shows what was seen, and sees nothing more."""

    @asynccontextmanager
    async def outside(running: Running) -> AsyncIterator[None]:
        settings = running.settings
        assert isinstance(settings, SupportViewSettings)
        async with httpx.AsyncClient(timeout=10, trust_env=False) as client:
            app.state.provider = sign_in.Provider(settings.sign_in, client) if settings.sign_in else None
            yield

    app = build(
        "support-view",
        settings=SupportViewSettings,
        topics=topics,
        take=take,
        router=router,
        gauges=store.GAUGES,
        publishes=False,
        extend=extend,
        resources=outside,
    )
    return app


app = built(TOPICS)
