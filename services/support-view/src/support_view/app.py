"""The support-view service, put together."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import httpx
from fastapi import APIRouter, FastAPI

from shared.runtime import Running, build
from support_view import api, casebook, casework_api, pages, sign_in, store
from support_view.domain.casework import due_command
from support_view.figures import api as figures
from support_view.figures import pages as figure_pages
from support_view.handlers import TOPICS, process
from support_view.settings import SupportViewSettings

router = APIRouter()
for part in (api, casework_api, figures, sign_in, pages, figure_pages):
    router.include_router(part.router)


def extend(app: FastAPI) -> None:
    api.answer_not_seen(app)
    pages.answer_in_pages(app)
    pages.serve_assets(app)


def built(topics: Sequence[str] = ()) -> FastAPI:
    """Without topics it shows what was seen, sees nothing more, and tells nothing of what is done in it."""

    @asynccontextmanager
    async def outside(running: Running) -> AsyncIterator[None]:
        settings = running.settings
        assert isinstance(settings, SupportViewSettings)
        # What this service decides itself is asked of it as of the others: by its API, without a network between.
        itself = {f"http://{running.name}": httpx.ASGITransport(app, raise_app_exceptions=False)}
        async with httpx.AsyncClient(timeout=10, trust_env=False, mounts=itself) as client:
            app.state.client = client
            app.state.services = {**settings.services, running.name: f"http://{running.name}"}
            app.state.provider = sign_in.Provider(settings.sign_in, client) if settings.sign_in else None
            yield

    app = build(
        "support-view",
        settings=SupportViewSettings,
        topics=topics,
        process=process,
        router=router,
        flows=casebook.FLOWS,
        timers=tuple((flow, due_command) for flow in casebook.FLOWS) if topics else (),
        timers_wait=True,
        gauges=store.GAUGES,
        publishes=bool(topics),
        tells="support",
        extend=extend,
        resources=outside,
    )
    return app


app = built(TOPICS)
