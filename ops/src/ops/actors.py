"""Everyone outside the system, as stories need them: storefront, supplier, warehouse, customer, CRM, agent and supervisor.

They use public interfaces only. A process that is gone for a moment delays them and no more: requests are repeated
with their idempotency key, and what must come true is waited for until a deadline.
"""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Any, Final
from uuid import uuid4

import httpx
from httpx_aiohttp import HttpxAiohttpClient
from standardwebhooks import Webhook

from ops.endpoints import Endpoints
from ops.keys import Keys
from shared.web.auth import Role, issue

PATIENCE_S: Final = 90.0
POLL_S: Final = 0.1
JSON: Final = {"Content-Type": "application/json"}

View = dict[str, Any]


class StoryFailed(Exception):
    """A story did not go as it should: which, at what step, and what was seen instead."""

    def __init__(self, story: str, step: str, seen: str) -> None:
        self.story = story
        self.step = step
        super().__init__(f"{story}: {step}: {seen}")


class Refused(Exception):
    """The system answered with a problem."""

    def __init__(self, answer: httpx.Response) -> None:
        self.status = answer.status_code
        try:
            self.problem: View = answer.json()
        except ValueError:
            self.problem = {"detail": answer.text[:200]}
        super().__init__(
            f"{answer.request.method} {answer.request.url.path}: {self.status} {self.problem.get('detail')}"
        )


class Actors:
    """Plays every part of one story; `run` keeps its ids apart from those of other runs, `patience` is in seconds."""

    def __init__(
        self,
        endpoints: Endpoints,
        auth_key: str,
        run: str,
        report: Callable[[str], None],
        patience: float = PATIENCE_S,
    ) -> None:
        self._patience = patience
        self.endpoints = endpoints
        self.run = run
        self.now = datetime.now(timezone.utc)
        self.step = "begins"
        self._report = report
        self._client = HttpxAiohttpClient(timeout=15, trust_env=False)
        self._tokens = {role: issue(auth_key, subject=f"demo-{role}", roles=[role]) for role in Role}

    async def __aenter__(self) -> "Actors":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    def says(self, step: str) -> None:
        """What the story is at now; a failure names it."""
        self.step = step
        self._report(step)

    def ago(self, days: float = 0, minutes: float = 0) -> datetime:
        return self.now - timedelta(days=days, minutes=minutes)

    async def _call(self, method: str, url: str, headers: Mapping[str, str], content: str | None = None) -> Any:
        """Repeat until the system takes it: what it did not answer, it did not do, or does once."""
        deadline = asyncio.get_running_loop().time() + self._patience
        while True:
            try:
                answer = await self._client.request(method, url, content=content, headers=headers)
                if answer.status_code < 500:
                    break
                seen: object = answer.status_code
            except httpx.TransportError as error:
                seen = error
            if asyncio.get_running_loop().time() > deadline:
                raise TimeoutError(f"{method} {url}: {seen!r}")
            await asyncio.sleep(POLL_S)
        if answer.is_error:
            raise Refused(answer)
        return answer.json()

    def _as(self, role: Role) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._tokens[role]}"}

    async def post(self, service: str, path: str, body: View, role: Role = Role.STOREFRONT) -> Any:
        headers = self._as(role) | JSON | {"Idempotency-Key": str(uuid4())}
        return await self._call("POST", self.endpoints.url(service) + path, headers, json.dumps(body))

    async def get(self, service: str, path: str, role: Role = Role.AUDITOR) -> Any:
        return await self._call("GET", self.endpoints.url(service) + path, self._as(role))

    async def crm(self, contact: View) -> Any:
        """The CRM tells of a contact by its signed webhook."""
        id, now, content = f"crm-{contact['contact_id']}", datetime.now(timezone.utc), json.dumps(contact)
        signature = Webhook(self._keys().crm_webhook_secret).sign(id, now, content)
        signed = {"webhook-id": id, "webhook-timestamp": str(int(now.timestamp())), "webhook-signature": signature}
        return await self._call("POST", f"{self.endpoints.url('support-view')}/webhooks/crm", JSON | signed, content)

    def _keys(self) -> Keys:
        return Keys.model_validate_json(self.endpoints.secrets.read_bytes())

    async def outside(self, path: str, body: View) -> Any:
        """Tell the sandbox, which tells the system as a partner would."""
        deadline = asyncio.get_running_loop().time() + self._patience
        while True:
            try:
                return await self._call("POST", self.endpoints.url("sandbox") + path, JSON, json.dumps(body))
            except Refused as refused:
                # The warehouse has not heard of it yet: fulfillment's fact is on its way.
                if refused.status not in (404, 409) or asyncio.get_running_loop().time() > deadline:
                    raise
                await asyncio.sleep(POLL_S)

    async def ledger(self, order_id: str) -> View:
        """The processor's own books of an order."""
        headers = {"Authorization": f"Bearer {self._keys().processor_key}"}
        answer = await self._client.get(
            f"{self.endpoints.url('sandbox')}/processor/ledger", params={"order_id": order_id}, headers=headers
        )
        answer.raise_for_status()
        books: View = answer.json()
        return books

    async def sees(
        self, order_id: str, what: str, is_so: Callable[[View], object], never: Callable[[View], object] | None = None
    ) -> View:
        """Wait until support-view shows it. `never` must not hold at any look meanwhile."""
        deadline = asyncio.get_running_loop().time() + self._patience
        view: View | None = None
        while asyncio.get_running_loop().time() < deadline:
            try:
                view = await self.get("support-view", f"/api/orders/{order_id}")
            except Refused as refused:
                if refused.status != 404:
                    raise
            else:
                if never is not None and never(view):
                    raise AssertionError(
                        f"{order_id} at no moment should be other than: {what}; it shows {_brief(view)}"
                    )
                if is_so(view):
                    return view
            await asyncio.sleep(POLL_S)
        raise AssertionError(f"{order_id} should show: {what}; it shows {_brief(view) if view else 'nothing'}")

    async def reads(
        self, service: str, path: str, what: str, is_so: Callable[[Any], object], role: Role = Role.AUDITOR
    ) -> Any:
        """Wait until a service's own API says so."""
        deadline = asyncio.get_running_loop().time() + self._patience
        seen: Any = None
        while asyncio.get_running_loop().time() < deadline:
            try:
                seen = await self.get(service, path, role)
            except Refused as refused:
                if refused.status != 404:
                    raise
            else:
                if is_so(seen):
                    return seen
            await asyncio.sleep(POLL_S)
        raise AssertionError(f"{service} {path} should say: {what}; it says {str(seen)[:600]}")

    async def timeline(self, order_id: str) -> list[View]:
        """Every entry, page by page."""
        entries: list[View] = []
        after = ""
        while True:
            page = await self.get("support-view", f"/api/orders/{order_id}/timeline?limit=200{after}")
            entries += page["entries"]
            if page["next"] is None:
                return entries
            after = f"&after={page['next']}"

    async def stocks(self, receipts: Sequence[tuple[str, str, int]], at: datetime) -> None:
        """Goods arrive: (sku, location, quantity)."""
        for n, (sku, location, quantity) in enumerate(receipts):
            body = {"sku": sku, "location": location, "quantity": quantity, "occurred_at": at.isoformat()}
            await self.outside("/warehouse/goods-received", body | {"receipt_id": f"{self.run}-{sku}-{location}-{n}"})
        for sku, location, quantity in receipts:
            await self.reads(
                "fulfillment",
                f"/stock?sku={sku}",
                f"{quantity} of {sku} at {location}",
                partial(_holds, location, quantity),
            )

    async def ships(self, shipment_id: str, at: datetime) -> None:
        """The warehouse packs it and hands it over."""
        await self.outside(f"/warehouse/shipments/{shipment_id}/pack", {"occurred_at": at.isoformat()})
        later = at + timedelta(minutes=2)
        await self.outside(f"/warehouse/shipments/{shipment_id}/hand-over", {"occurred_at": later.isoformat()})

    async def scans(self, shipment_id: str, code: str, at: datetime) -> None:
        await self.outside(f"/warehouse/shipments/{shipment_id}/scan", {"code": code, "occurred_at": at.isoformat()})

    async def delivers(self, shipment_id: str, at: datetime) -> None:
        """The carrier scans it on its way and at the door."""
        await self.scans(shipment_id, "in_transit", at)
        await self.scans(shipment_id, "out_for_delivery", at + timedelta(minutes=1))
        await self.scans(shipment_id, "delivered", at + timedelta(minutes=2))


def _holds(location: str, quantity: int, answer: Any) -> bool:
    return any(row["location"] == location and row["on_hand"] >= quantity for row in _rows(answer))


def _rows(answer: Any) -> list[View]:
    return answer if isinstance(answer, list) else next(v for v in answer.values() if isinstance(v, list))


def _brief(view: View) -> str:
    return (
        f"order {view['order']['status']}, {view['rollups']}, "
        f"shipments {[(s['shipment_id'], s['status']) for s in view['shipments']]}, "
        f"tenders {[(t['tender_id'], t['status'], t['captured']['minor'], t['refunded']['minor']) for t in view['tenders']]}, "
        f"returns {[(r['return_id'], r['status']) for r in view['returns']]}, "
        f"refunds {[(r['refund_id'], r['status'], r['settled']['minor']) for r in view['refunds']]}"
    )
