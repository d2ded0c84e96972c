"""What support does on the page of the running system, and what comes of it: each service decides, and the page shows it."""

import re
import struct
import zlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import httpx
import pytest
from playwright.async_api import expect

from ops.actors import Actors, View
from ops.keys import kept_keys
from ops.stories import ADDRESS, _line, _tender, place
from ops.system import System
from shared.web.auth import Role, issue
from support_view.sign_in import SESSION
from tests.chromium import chromium, needs_chromium
from tests.e2e.test_page import signed_in

PATIENCE: Final = 10_000
"""Milliseconds that a browser waits for what it is to see."""


@dataclass
class Page:
    """An order's page, as somebody who signed in uses it."""

    browser: httpx.AsyncClient
    actors: Actors
    order_id: str

    async def html(self) -> str:
        answer = await self.browser.get(f"/orders/{self.order_id}")
        assert answer.status_code == 200, answer.text
        return answer.text

    def offers(self, html: str, name: str, id: str) -> bool:
        form = rf'actions/{name}" method="post">\s*<input type="hidden" name="id" value="{re.escape(id)}"'
        return re.search(form, html) is not None

    async def press(self, name: str, id: str, **form: str) -> None:
        """What the page offers is sent, and done; the page that comes back says so."""
        html = await self.html()
        assert self.offers(html, name, id), f"{name} of {id} is not offered"
        sent = {"id": id, "key": str(uuid4()), "reason": "the customer called", **form}
        done = await self.browser.post(f"/orders/{self.order_id}/actions/{name}", data=sent)
        assert done.status_code == 303, done.text
        after = await self.browser.get(done.headers["location"])
        assert 'class="alert good"' in after.text

    async def sees(self, what: str, is_so: Callable[[View], Any]) -> View:
        return await self.actors.sees(self.order_id, what, is_so)


@dataclass
class Shop:
    system: System
    actors: Actors

    async def sends(self, units: int = 1, stock: int = 1) -> str:
        """An order of lamps, by card; its shipment is with the carrier."""
        name = f"acts-{uuid4().hex[:6]}"
        sku = f"LAMP-{name}"
        await self.actors.stocks([(sku, "BER", stock)], self.actors.ago(minutes=60))
        lines, tenders = [_line("1", sku, "Desk lamp", units, 1000)], [_tender("card", "card", 1000 * units)]
        order = await place(self.actors, name, lines, tenders)
        order_id: str = order["order_id"]
        await self.actors.sees(order_id, "planned", lambda v: v["shipments"])
        return order_id

    async def delivered(self, units: int = 1, stock: int = 1) -> str:
        order_id = await self.sends(units, stock)
        await self.actors.ships(f"{order_id}-S1", self.actors.ago(minutes=25))
        await self.actors.delivers(f"{order_id}-S1", self.actors.ago(minutes=20))
        await self.actors.sees(order_id, "delivered", lambda v: v["lines"][0]["forward"]["delivered"] == units)
        return order_id

    async def changes_address(self, order_id: str, to: View) -> None:
        headers = self._as(Role.STOREFRONT) | {"Idempotency-Key": str(uuid4())}
        async with httpx.AsyncClient(base_url=self.system.endpoints.url("orders"), headers=headers) as client:
            answer = await client.put(f"/orders/{order_id}/address", json=to)
            assert answer.is_success, answer.text

    async def uploads(self, order_id: str, about: str, name: str, content: bytes) -> None:
        headers = self._as(Role.STOREFRONT) | {"Idempotency-Key": str(uuid4())}
        async with httpx.AsyncClient(base_url=self.system.endpoints.url("returns"), headers=headers) as client:
            files = {"file": (name, content, "image/png")}
            answer = await client.post(f"/orders/{order_id}/evidence", data={"about": about}, files=files)
            assert answer.is_success, answer.text

    def _as(self, role: Role) -> dict[str, str]:
        key = kept_keys(self.system.endpoints.secrets.parent).auth_key
        return {"Authorization": f"Bearer {issue(key, subject='shop', roles=[role])}"}


@pytest.fixture
def shop(system: System, actors: Actors) -> Shop:
    return Shop(system, actors)


@pytest.fixture
async def anna(system: System) -> AsyncIterator[httpx.AsyncClient]:
    """An agent."""
    async with signed_in(system, "anna") as browser:
        yield browser


@pytest.fixture
async def sam(system: System) -> AsyncIterator[httpx.AsyncClient]:
    """A supervisor."""
    async with signed_in(system, "sam") as browser:
        yield browser


def _shipment(view: View, id: str) -> View:
    found: View = next(one for one in view["shipments"] if one["shipment_id"] == id)
    return found


async def test_what_did_not_arrive_is_looked_for_and_once_it_is_lost_sent_again(
    shop: Shop, actors: Actors, anna: httpx.AsyncClient
) -> None:
    order_id = await shop.delivered(stock=2)
    page, first = Page(anna, actors, order_id), f"{order_id}-S1"
    await page.press("not-received", first)
    view = await page.sees("looked for", lambda v: _shipment(v, first)["status"] == "exception")
    assert view["lines"][0]["forward"]["in_transit"] == 1
    assert "the customer called" in await page.html(), "why it is looked for"
    await actors.scans(first, "lost", actors.ago(minutes=10))
    view = await page.sees("lost", lambda v: _shipment(v, first)["status"] == "lost")
    assert any(step["owner"] == "support" for step in view["next_steps"])
    await page.press("send-again", first)
    view = await page.sees("sent again", lambda v: len([s for s in v["shipments"] if s["status"] == "created"]) == 1)
    assert view["lines"][0]["forward"]["lost"] == 0
    assert not page.offers(await page.html(), "send-again", first), "it is made good"
    await actors.ships(f"{order_id}-S2", actors.ago(minutes=5))
    await actors.delivers(f"{order_id}-S2", actors.ago(minutes=2))
    await page.sees("completed", lambda v: v["order"]["status"] == "completed")


async def test_a_claim_is_decided_and_what_comes_after_its_refund_is_settled(
    shop: Shop, actors: Actors, anna: httpx.AsyncClient, sam: httpx.AsyncClient
) -> None:
    order_id = await shop.sends()
    shipment = f"{order_id}-S1"
    await actors.ships(shipment, actors.ago(minutes=25))
    await actors.scans(shipment, "lost", actors.ago(minutes=20))
    agents, supervisors = Page(anna, actors, order_id), Page(sam, actors, order_id)
    await agents.sees("lost", lambda v: _shipment(v, shipment)["status"] == "lost")
    claim = {"lines": [{"line_id": "1", "quantity": 1}], "reason": "not_received"}
    made = await actors.post("returns", f"/orders/{order_id}/claims", claim, Role.AGENT)
    await agents.sees("a claim", lambda v: v["claims"])
    await agents.press("resolve-claim", made["claim_id"], choice="refunded")
    await agents.sees("refunded", lambda v: v["totals"]["refunded"]["minor"] == 1000)
    assert not agents.offers(await agents.html(), "resolve-claim", made["claim_id"])

    await actors.scans(shipment, "found", actors.ago(minutes=10))
    await actors.delivers(shipment, actors.ago(minutes=8))
    view = await agents.sees("held unpaid", lambda v: v["recoveries"])
    recovery = view["recoveries"][0]["recovery_id"]
    assert not agents.offers(await agents.html(), "settle-recovery", recovery), "it takes a supervisor"
    await supervisors.press("settle-recovery", recovery, choice="written_off")
    view = await agents.sees("settled", lambda v: v["recoveries"][0]["how"])
    assert view["recoveries"][0]["how"] == "written_off"
    assert "written off" in await agents.html()


async def test_a_return_is_closed_with_a_reason_by_who_may(
    shop: Shop, actors: Actors, anna: httpx.AsyncClient, sam: httpx.AsyncClient
) -> None:
    order_id = await shop.delivered()
    request = {"lines": [{"line_id": "1", "quantity": 1, "reason": "unwanted", "condition": "unopened"}]}
    await actors.reads("returns", f"/orders/{order_id}/returns", "delivered", lambda r: r["lines"][0]["delivered"])
    told = await actors.post("returns", f"/orders/{order_id}/returns", request, Role.AGENT)
    return_id = told["return_id"]
    agents, supervisors = Page(anna, actors, order_id), Page(sam, actors, order_id)
    await agents.sees("a return", lambda v: v["returns"])
    assert not agents.offers(await agents.html(), "close-return", return_id), "it takes a supervisor"
    await supervisors.press("close-return", return_id, reason="they keep it after all")
    await agents.sees("closed", lambda v: v["returns"][0]["status"] == "closed")
    [closed] = [entry for entry in await actors.timeline(order_id) if entry["type"] == "return.closed"]
    assert (closed["actor"], closed["reason"]) == ("supervisor:sam", "they keep it after all")


async def test_a_packed_parcel_waits_for_the_label_of_its_new_address(
    shop: Shop, actors: Actors, anna: httpx.AsyncClient
) -> None:
    order_id = await shop.sends()
    page, shipment = Page(anna, actors, order_id), f"{order_id}-S1"
    await actors.outside(f"/warehouse/shipments/{shipment}/pack", {"occurred_at": actors.ago(minutes=20).isoformat()})
    await page.sees("packed", lambda v: _shipment(v, shipment)["status"] == "packed")
    moved = {"ship_to": ADDRESS | {"street": "Neue Straße 1"}}
    await shop.changes_address(order_id, moved)
    await page.sees("held", lambda v: _shipment(v, shipment)["holds"] == ["address"])
    html = await page.html()
    assert "needs a label of its new address: Berlin, DE" in html
    labelled = {"occurred_at": datetime.now(timezone.utc).isoformat()}
    await actors.outside(f"/warehouse/shipments/{shipment}/relabel", labelled)
    view = await page.sees("free to leave", lambda v: _shipment(v, shipment)["status"] == "packed")
    assert _shipment(view, shipment)["holds"] == []
    assert "has a label of its new address" in await page.html()


def image() -> bytes:
    """A red PNG of two by two dots."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\x00" + b"\xff\x00\x00" * 2 for _ in range(2))
    header = struct.pack(">IIBBBBB", 2, 2, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@needs_chromium
async def test_evidence_that_was_uploaded_is_seen_as_an_image_in_a_browser(
    shop: Shop, actors: Actors, anna: httpx.AsyncClient, tmp_path: Path
) -> None:
    order_id = await shop.delivered()
    await actors.reads("returns", f"/orders/{order_id}/returns", "delivered", lambda r: r["lines"][0]["delivered"])
    claim = {"lines": [{"line_id": "1", "quantity": 1}], "reason": "defective"}
    made = await actors.post("returns", f"/orders/{order_id}/claims", claim, Role.AGENT)
    await shop.uploads(order_id, made["claim_id"], "the lamp.png", image())
    page = Page(anna, actors, order_id)
    await page.sees("the file", lambda v: v["claims"] and v["claims"][0]["files"])
    async with chromium() as launched:
        site = shop.system.endpoints.url("support-view")
        context = await launched.new_context(base_url=site, viewport={"width": 1280, "height": 900})
        await context.add_cookies([{"name": SESSION, "value": anna.cookies[SESSION] or "", "url": site}])
        seen = await context.new_page()
        await seen.goto(f"/orders/{order_id}")
        picture = seen.locator(".evidence img")
        await picture.scroll_into_view_if_needed(timeout=PATIENCE)
        await expect(picture).to_have_js_property("naturalWidth", 2, timeout=PATIENCE)
        async with seen.expect_download() as saving:
            await seen.get_by_role("link", name="the lamp.png").click()
        saved = await saving.value
        await saved.save_as(tmp_path / "saved.png")
        assert (tmp_path / "saved.png").read_bytes() == image()
        await context.close()
