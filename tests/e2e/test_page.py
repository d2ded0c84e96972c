"""The page of the running system: people sign in at the provider, and act by the owning services."""

import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from uuid import uuid4

import httpx

from ops.actors import Actors
from ops.stories import place
from ops.system import System
from shared.web.auth import Role
from support_view.sign_in import SESSION


@asynccontextmanager
async def signed_in(system: System, subject: str) -> AsyncIterator[httpx.AsyncClient]:
    """A browser without scripts, its cookies and all, whose person signed in at the sandbox's identity provider."""
    page = system.endpoints.url("support-view")
    async with httpx.AsyncClient(base_url=page, timeout=15, headers={"Origin": page}) as browser:
        sent = await browser.get("/sign-in/start")
        asked = await browser.get(sent.headers["location"])
        fields = dict(re.findall(r'name="(\w+)" value="([^"]*)"', asked.text))
        fields["subject"] = subject
        back = await browser.post(str(asked.url.copy_with(query=None)), data=fields)
        assert (await browser.get(back.headers["location"])).status_code == 200
        yield browser


async def test_every_service_knows_who_signed_in(system: System) -> None:
    async with signed_in(system, "sam") as browser:
        bearer = {"Authorization": f"Bearer {browser.cookies[SESSION]}"}
        for service, of_order in {
            "orders": "",
            "payments": "/payments",
            "returns": "/returns",
            "fulfillment": "/fulfillment",
        }.items():
            answer = await browser.get(f"{system.endpoints.url(service)}/orders/nothing{of_order}", headers=bearer)
            assert answer.status_code == 404, f"{service}: {answer.text}"


async def test_a_refund_is_approved_from_the_page_by_who_may_and_once(system: System, actors: Actors) -> None:
    line = {"line_id": "1", "sku": f"GIFT-{actors.run}", "title": "Gift", "quantity": 1, "unit_price_minor": 5000}
    tender = {"tender_id": "gift", "kind": "gift_card", "token": "tok_ok", "amount_minor": 5000}
    order_id = (await place(actors, "acted", [line], [tender]))["order_id"]
    await actors.sees(order_id, "captured", lambda v: v["totals"]["captured"]["minor"] == 5000)
    body = {"kind": "goodwill", "amount_minor": 700, "currency": "EUR", "reason": "came late"}
    await actors.post("payments", f"/orders/{order_id}/refunds", body, Role.AGENT)
    view = await actors.sees(order_id, "a refund to approve", lambda v: v["refunds"])
    refund_id = view["refunds"][0]["refund_id"]
    form = {"id": refund_id, "key": str(uuid4()), "reason": "came late indeed"}
    approve = f"/orders/{order_id}/actions/approve-refund"

    async with AsyncExitStack() as stack:
        agent = await stack.enter_async_context(signed_in(system, "anna"))
        supervisor = await stack.enter_async_context(signed_in(system, "sam"))
        assert approve not in (await agent.get(f"/orders/{order_id}")).text
        refused = await agent.post(approve, data=form)
        assert refused.status_code == 403 and "payments refused: needs one of the roles supervisor" in refused.text
        foreign = await supervisor.post(approve, data=form, headers={"Origin": "https://evil.example"})
        assert foreign.status_code == 403
        offered = (await supervisor.get(f"/orders/{order_id}")).text
        assert approve in offered and f'value="{refund_id}"' in offered
        wordless = await supervisor.post(approve, data=form | {"reason": " "})
        assert wordless.status_code == 422 and "Say in a few words why" in wordless.text
        for _ in range(2):  # pressed twice
            done = await supervisor.post(approve, data=form)
            assert done.headers["location"] == f"/orders/{order_id}?done=approve-refund"
        assert "The refund is approved." in (await supervisor.get(done.headers["location"])).text
        await actors.sees(order_id, "refunded", lambda v: v["totals"]["refunded"]["minor"] == 700)
        approvals = [e for e in await actors.timeline(order_id) if e["type"] == "refund.approved"]
        assert [(e["actor"], e["reason"]) for e in approvals] == [("supervisor:sam", "came late indeed")]
        reject = f"/orders/{order_id}/actions/reject-refund"
        late = await supervisor.post(reject, data=form | {"key": str(uuid4())})
        assert late.status_code == 409 and "payments refused:" in late.text

        hold = f"/orders/{order_id}/actions/place-hold"
        assert (await agent.post(hold, data=form | {"reason": "call them first"})).status_code == 303
        await actors.sees(order_id, "held", lambda v: [h["hold"] for h in v["order"]["holds"]] == ["manual"])
        assert "Release “manual”" in (await agent.get(f"/orders/{order_id}")).text
        release = f"/orders/{order_id}/actions/release-hold"
        assert (await agent.post(release, data=form | {"id": "manual", "reason": "called"})).status_code == 303
        await actors.sees(order_id, "free", lambda v: not v["order"]["holds"])
        cancel = f"/orders/{order_id}/actions/cancel-units"
        units = {"line": "1", "quantity": "many", "key": str(uuid4()), "reason": "wants none"}
        assert (await agent.post(cancel, data=units)).status_code == 422
        assert (await agent.post(cancel, data=units | {"quantity": "1"})).status_code == 303
        await actors.sees(order_id, "cancelled", lambda v: v["order"]["status"] == "cancelled")
