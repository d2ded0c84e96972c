"""A sandbox in this process, on books of its own, with what it posts caught in a queue: nothing leaves the process."""

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI
from standardwebhooks import Webhook

from sandbox.app import app, running
from sandbox.ledger import Ledger
from sandbox.settings import Settings

KEY = "processor-key-of-tests"
PROCESSOR_SECRET = "whsec_cHJvY2Vzc29yLXNlY3JldC1vZi10ZXN0cw=="
CARRIER_SECRET = "whsec_Y2Fycmllci1zZWNyZXQtb2YtdGVzdHMtMDA="
MAIL_SECRET = "whsec_bWFpbC1zZWNyZXQtb2YtdGVzdHMtMDAwMDA="
SECRETS = {"processor": PROCESSOR_SECRET, "carrier": CARRIER_SECRET, "mail": MAIL_SECRET}
THEN = "2026-03-01T10:00:00Z"


@dataclass
class System:
    """The receiving side of the webhooks: answers what it is told to, 204 when told nothing, and keeps what came."""

    answers: deque[int] = field(default_factory=deque)
    received: asyncio.Queue[httpx.Request] = field(default_factory=asyncio.Queue)

    async def receive(self, request: httpx.Request) -> httpx.Response:
        await self.received.put(request)
        return httpx.Response(self.answers.popleft() if self.answers else 204)

    async def notices(self, count: int) -> list[dict[str, Any]]:
        """The next ones, in the order in which they came, their signatures checked."""
        async with asyncio.timeout(10):
            requests = [await self.received.get() for _ in range(count)]
        return [self._read(request) for request in requests]

    @staticmethod
    def _read(request: httpx.Request) -> dict[str, Any]:
        secret = SECRETS[request.url.path.rpartition("/")[2]]
        Webhook(secret).verify(request.content, dict(request.headers))
        body: dict[str, Any] = json.loads(request.content)
        return {"webhook_id": request.headers["webhook-id"], "url": str(request.url)} | body


@dataclass
class World:
    """The sandbox as its callers see it."""

    http: httpx.AsyncClient
    system: System
    app: FastAPI

    @property
    def ledger(self) -> Ledger:
        ledger: Ledger = self.app.state.ledger
        return ledger

    async def pay(self, path: str, key: str, **body: Any) -> httpx.Response:
        """A call that moves money, told in the past unless said otherwise."""
        return await self.http.post(
            f"/processor/{path}", json={"requested_at": THEN} | body, headers={"Idempotency-Key": key}
        )

    async def authorized(self, token: str = "tok_ok", amount: int = 10_000, order: str = "order-1") -> str:
        """An authorization, its own key; returns its id."""
        body = {"token": token, "amount_minor": amount, "currency": "EUR", "order_id": order}
        answer = await self.pay("authorizations", f"auth-{order}-{token}", **body)
        assert answer.json()["status"] == "authorized", answer.text
        return str(answer.json()["id"])

    async def captured(self, token: str = "tok_ok", amount: int = 10_000, order: str = "order-1") -> str:
        authorization = await self.authorized(token, amount, order)
        answer = await self.pay(f"authorizations/{authorization}/captures", f"capture-{order}", amount_minor=amount)
        assert answer.json()["status"] == "succeeded", answer.text
        return authorization

    async def account(self, order: str = "order-1") -> dict[str, Any]:
        """The books of the order's only authorization."""
        (account,) = (await self.books(order))["authorizations"]
        found: dict[str, Any] = account
        return found

    async def books(self, order: str = "order-1") -> dict[str, Any]:
        answer = await self.http.get("/processor/ledger", params={"order_id": order})
        found: dict[str, Any] = answer.json()
        return found


@asynccontextmanager
async def sandbox(directory: Path, **settings: Any) -> AsyncIterator[World]:
    """Late notices take an hour, calls that hang give up at once, and nothing happens by itself, unless `settings`
    say otherwise."""
    chosen: dict[str, Any] = {
        "sandbox_data": directory,
        "processor_key": KEY,
        "processor_webhook_secret": PROCESSOR_SECRET,
        "carrier_webhook_secret": CARRIER_SECRET,
        "mail_webhook_secret": MAIL_SECRET,
        "payments_webhook_url": "http://payments/webhooks/processor",
        "carrier_webhook_url": "http://fulfillment/webhooks/carrier",
        "returns_webhook_url": "http://returns/webhooks/carrier",
        "mail_webhook_url": "http://notifications/webhooks/mail",
        "sandbox_hang_seconds": 0,
        "sandbox_late_seconds": 3600,
        "sandbox_settle_seconds": 3600,
        "sandbox_bounce_seconds": 0,
        "sandbox_patience_seconds": 0,
        "sandbox_smtp_port": 0,
        "kafka": None,
    }
    system = System()
    async with (
        running(app, Settings(**(chosen | settings)), httpx.MockTransport(system.receive)),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://sandbox", headers={"Authorization": f"Bearer {KEY}"}
        ) as http,
    ):
        yield World(http, system, app)
