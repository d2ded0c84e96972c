"""The support page in a real Chromium: signing in, reading, filtering, on wide and narrow screens, light and dark."""

import asyncio
import contextlib
import os
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Literal

import asyncpg
import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from playwright.async_api import Browser, ConsoleMessage, Page, expect

from shared.contracts import Fact
from shared.web.auth import issue
from support_view.app import built
from support_view.handlers import process
from support_view.sign_in import SESSION
from tests.backends import Backends
from tests.chromium import chromium, needs_chromium
from tests.databases import AUTH_KEY, SUPPORT_SETTINGS
from tests.integration.test_casework import hear, look, until_unknown
from tests.telling import Telling, record_of, split_order, whole_story
from tests.unit.sandbox_world import sandbox

NewDatabase = Callable[[str], Awaitable[str]]
Tell = Callable[[Telling], Awaitable[None]]

pytestmark = needs_chromium


def hole_in_payments() -> Telling:
    story = split_order("ORD-3")
    story.entries = [e for e in story.entries if not (e.service == "payments" and e.sequence in (4, 5))]
    return story


class Announced(uvicorn.Server):
    """Says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


@pytest.fixture(scope="module")
async def dsn(new_database: NewDatabase) -> str:
    return await new_database("support_view")


@pytest.fixture(scope="module")
async def tell(dsn: str) -> AsyncIterator[Tell]:
    """Takes a story into the view, as its consumer would, and has its timers fire."""
    async with asyncpg.create_pool(dsn, min_size=0) as pool:

        async def telling(story: Telling) -> None:
            async with pool.acquire() as db, db.transaction():
                await process(db, [record_of(entry) for entry in story.entries])
            await look(pool)

        yield telling


def bound() -> tuple[socket.socket, int]:
    """A free port that is ours from now on."""
    held = socket.socket()
    held.bind(("127.0.0.1", 0))
    return held, held.getsockname()[1]


@contextlib.asynccontextmanager
async def served(app: FastAPI, held: socket.socket, *, lifespan: Literal["on", "off"]) -> AsyncIterator[None]:
    server = Announced(uvicorn.Config(app, log_config=None, access_log=False, lifespan=lifespan))
    # The test's own process keeps its signals.
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign, assignment]
    serving = asyncio.create_task(server.serve([held]))
    await asyncio.wait_for(server.ready.wait(), 20)
    yield
    server.should_exit = True
    await serving


@pytest.fixture(scope="module")
async def site(
    backends: Backends, dsn: str, tell: Tell, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[str]:
    """The page on a free port, with four stories told, and the sandbox's identity provider on what is, to a browser,
    another site."""
    unknown = split_order("ORD-6")
    unknown.entries, _ = until_unknown("ORD-6")
    for story in (split_order("ORD-1"), whole_story("ORD-2"), hole_in_payments(), unknown):
        await tell(story)
    (page, page_port), (provider, provider_port) = bound(), bound()
    url, issuer = f"http://127.0.0.1:{page_port}", f"http://localhost:{provider_port}/identity"
    async with contextlib.AsyncExitStack() as stack:
        environment = stack.enter_context(pytest.MonkeyPatch.context())
        for name, value in {
            "DATABASE_URL": dsn,
            "KAFKA": backends.kafka,
            "AUTH_KEY": AUTH_KEY,
            "AUTH_JWKS_URL": f"{issuer}/jwks",
            "AUTH_ISSUER": issuer,
            "AUTH_AUDIENCE": "order-workflows",
            "SIGN_IN_CLIENT_ID": "support-view",
            "PAGE_URL": url,
        }.items():
            environment.setenv(f"OMS_{name}", value)
        for name, value in SUPPORT_SETTINGS.items():
            environment.setenv(name, value)
        told = {"identity_url": issuer, "identity_redirect_url": f"{url}/sign-in/back"}
        world = await stack.enter_async_context(sandbox(tmp_path_factory.mktemp("sandbox"), **told))
        await stack.enter_async_context(served(world.app, provider, lifespan="off"))
        await stack.enter_async_context(served(built(), page, lifespan="on"))
        async with httpx.AsyncClient(base_url=url) as crm:
            for n, text in enumerate(("Where is my chair?", "x" * 300, "<b>Nobody</b> answers")):
                contact = {"customer": {"customer_id": "c-1"}, "order_id": "ORD-2", "channel": "email", "text": text}
                headers = {"Authorization": f"Bearer {issue(AUTH_KEY, subject='ann', roles=['agent'])}"}
                answer = await crm.post("/api/contacts", json=contact, headers=headers | {"Idempotency-Key": f"{n}"})
                assert answer.status_code == 201, answer.text
        yield url


@pytest.fixture(scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as launched:
        yield launched


@contextlib.asynccontextmanager
async def opened(
    browser: Browser, site: str, *, width: int = 1400, dark: bool = False, scripts: bool = False
) -> AsyncIterator[Page]:
    """A signed-in page, with scripts if they are asked for. Anything the content policy refuses, or from elsewhere, fails.
    That a page itself says 404 or 422 is its answer."""
    complaints: list[str] = []
    context = await browser.new_context(
        base_url=site,
        viewport={"width": width, "height": 900},
        color_scheme="dark" if dark else "light",
        java_script_enabled=scripts,
    )
    page = await context.new_page()

    def hear(message: ConsoleMessage) -> None:
        is_answer = re.search("status of 4(04|22)", message.text) and message.location["url"] == page.url
        if message.type == "error" and not is_answer:
            complaints.append(message.text)

    page.on("console", hear)
    page.on("request", lambda r: complaints.append(r.url) if not r.url.startswith(site) else None)
    await page.goto("/orders/ORD-1?domain=payment")
    await page.get_by_text("With a token you were given").click()
    await page.get_by_label("Token").fill(issue(AUTH_KEY, subject="ann", roles=["agent"]))
    await page.get_by_role("button", name="Sign in with the token").click()
    await page.wait_for_url("**/orders/ORD-1?domain=payment")
    yield page
    await context.close()
    assert not complaints


async def test_signing_in_leads_to_where_one_was_going_and_signing_out_ends_it(browser: Browser, site: str) -> None:
    async with opened(browser, site) as page:
        await expect(page.get_by_role("heading", name="ORD-1")).to_be_visible()
        await page.get_by_role("button", name="Sign out").click()
        await page.wait_for_url("**/sign-in?left=1")
        await page.goto("/orders/ORD-1")
        assert page.url.endswith("/sign-in?next=%2Forders%2FORD-1")


async def test_signing_in_at_a_provider_on_another_site_leads_back_to_where_one_was_going(
    browser: Browser, site: str
) -> None:
    context = await browser.new_context(base_url=site, java_script_enabled=False)
    page = await context.new_page()
    await page.goto("/orders/ORD-1?domain=payment")
    await page.get_by_role("link", name="Sign in").click()
    await expect(page.get_by_role("heading", name="Who are you?")).to_be_visible()
    await page.get_by_role("button", name="Sam Supervisor").click()
    await page.wait_for_url("**/orders/ORD-1?domain=payment")
    await expect(page.get_by_role("heading", name="ORD-1")).to_be_visible()
    await expect(page.locator(".who")).to_contain_text("sam")
    session = {cookie["name"]: cookie for cookie in await context.cookies()}
    assert set(session) == {SESSION}
    assert (session[SESSION]["httpOnly"], session[SESSION]["sameSite"]) == (True, "Strict")
    await page.get_by_role("button", name="Sign out").click()
    await page.get_by_role("link", name="Sign out there too").click()
    await expect(page.get_by_role("heading", name="Signed out")).to_be_visible()
    await context.close()


async def test_the_four_states_stand_side_by_side_and_none_masks_another(browser: Browser, site: str) -> None:
    async with opened(browser, site) as page:
        states = page.get_by_label("Four states, side by side").locator("article")
        assert await states.count() == 4
        boxes = [await states.nth(n).bounding_box() for n in range(4)]
        assert len({box["y"] for box in boxes if box}) == 1
        fulfillment = await states.nth(2).inner_text()
        assert "partly shipped" in fulfillment and "backordered" in fulfillment and "exception" in fulfillment


async def test_an_order_is_found_by_its_customers_email(browser: Browser, site: str) -> None:
    async with opened(browser, site) as page:
        await page.get_by_label("Find an order").fill("ada@example.com")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", name="orders")).to_be_visible()
        await page.get_by_role("link", name="ORD-2").click()
        await expect(page.get_by_role("heading", name="ORD-2")).to_be_visible()


async def test_a_customers_contact_is_shown_to_who_says_why(browser: Browser, site: str) -> None:
    async with opened(browser, site) as page:
        await page.goto("/orders/ORD-1")
        await expect(page.get_by_text("a•••@example.com")).to_be_visible()
        await page.get_by_text("Show e-mail and address").click()
        await page.get_by_label("Why you need it").fill("asks where it is")
        await page.get_by_role("button", name="Show", exact=True).click()
        await expect(page.get_by_text("ada@example.com")).to_be_visible()


async def test_the_timeline_is_filtered_by_links_that_hold_the_filter(browser: Browser, site: str) -> None:
    async with opened(browser, site) as page:
        entries = page.locator(".entry")
        assert await entries.count() == await page.locator(".entry.payment").count() > 0
        filters = page.get_by_role("navigation", name="Filter the timeline")
        await filters.get_by_role("link", name="return").click()
        await page.wait_for_url("**/orders/ORD-1?domain=payment&domain=return#timeline")
        await expect(page.locator(".entry.return")).to_have_count(1)
        await filters.get_by_role("link", name="All").click()
        await expect(page.get_by_text("Order placed: 5 units in 3 lines")).to_be_visible()
        brief = await entries.count()
        await filters.get_by_role("link", name="every detail").click()
        await page.wait_for_url("**detail=all**")
        assert await entries.count() > brief


async def test_who_did_it_and_why_opens_without_a_script(browser: Browser, site: str) -> None:
    async with opened(browser, site) as page:
        entry = page.locator(".entry").first
        await expect(entry.get_by_text("Reason")).to_be_hidden()
        await entry.locator("summary").first.click()
        await expect(entry.get_by_text("order.placed")).to_be_visible()


async def test_a_fact_as_it_travelled_is_loaded_into_its_fold_and_stands_on_a_page_of_its_own(
    browser: Browser, site: str
) -> None:
    async with opened(browser, site, scripts=True) as page:
        await page.goto("/orders/ORD-1")
        entry = page.locator(".entry").first
        await entry.locator("summary").first.click()
        assert await entry.locator("pre").count() == 0
        await entry.get_by_text("As it travelled").click()
        await expect(entry.locator("pre")).to_contain_text('"email": "a•••@example.com"')
    async with opened(browser, site) as page:
        entry = page.locator(".entry").first
        await entry.locator("summary").first.click()
        await entry.get_by_text("As it travelled").click()
        await entry.get_by_role("link", name="on a page of its own").click()
        await expect(page.locator("pre")).to_contain_text('"amount_minor"')


async def test_an_order_that_is_not_seen_yet_is_announced_when_it_comes(
    browser: Browser, site: str, tell: Tell
) -> None:
    async with opened(browser, site, scripts=True) as page:
        await page.goto("/orders/ORD-5")
        await expect(page.get_by_role("heading", name="Not seen yet")).to_be_visible()
        await tell(split_order("ORD-5"))
        await page.get_by_role("link", name="28 more facts were seen").click()
        await expect(page.get_by_role("heading", name="ORD-5")).to_be_visible()


async def test_paper_shows_what_a_screen_folds_and_nothing_to_press(browser: Browser, site: str) -> None:
    async with opened(browser, site) as page:
        await page.goto("/orders/ORD-2")
        reason = page.locator(".entry").first.get_by_text("Reason")
        await expect(reason).to_be_hidden()
        await page.emulate_media(media="print")
        await expect(reason).to_be_visible()
        for pressed in await page.locator("button, input, nav").all():
            await expect(pressed).to_be_hidden()
        last = await page.locator(".entry").last.bounding_box()
        story = await page.locator(".story").bounding_box()
        assert last and story and last["y"] + last["height"] <= story["y"] + story["height"] + 1, "cut off"


async def test_the_queue_says_who_needs_attention_and_somebody_takes_it_on(browser: Browser, site: str) -> None:
    async with opened(browser, site) as page:
        await page.get_by_role("link", name="Queue").click()
        raised = page.locator(".raised > li").filter(has_text="refund unknown")
        await expect(raised).to_contain_text("nobody yet")
        await raised.get_by_role("button", name="Take it on").click()
        await expect(page.get_by_role("status")).to_contain_text("It is yours.")
        await expect(raised).to_contain_text("agent:ann")
        await raised.get_by_role("link", name="ORD-6").click()
        await expect(page.get_by_role("heading", name="ORD-6")).to_be_visible()


async def test_a_contact_opens_a_case_that_is_worked_on_by_keyboard_and_without_a_script(
    browser: Browser, site: str
) -> None:
    async with opened(browser, site) as page:
        support = page.locator("#casework")
        await expect(support).to_contain_text("The customer has not been in touch about it.")
        await support.get_by_text("Record a contact").first.focus()
        await page.keyboard.press("Enter")
        await support.get_by_label("By").select_option("phone")
        await support.get_by_label("What was said").fill("\u202egnp.tohs <script>alert(1)</script> =1+1")
        await page.keyboard.press("Tab")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("status")).to_contain_text("The contact is on record.")
        await expect(support.locator(".quoted")).to_have_text("\u202egnp.tohs <script>alert(1)</script> =1+1")
        await support.get_by_role("button", name="Take it on of case ORD-1-C1").click()
        await page.get_by_role("link", name="Cases").click()
        await page.get_by_role("link", name="Mine").click()
        await page.locator(".raised > li").filter(has_text="ORD-1-C1").get_by_role("link").click()
        await expect(page.get_by_text("agent:ann").first).to_be_visible()
        await page.get_by_text("Add a note").first.click()
        note = page.get_by_label("Note, for colleagues only")
        await note.fill("4111 1111 1111 1111")
        await page.get_by_role("button", name="Add a note").click()
        await expect(page.get_by_role("alert")).to_contain_text("must not hold a card number")
        await expect(note).to_have_value("4111 1111 1111 1111")
        await note.fill("a tall customer")
        await page.get_by_role("button", name="Add a note").click()
        await expect(page.locator(".quoted").first).to_have_text("a tall customer")
        await page.locator("summary", has_text="Resolve").click()
        await page.get_by_label("How it was resolved").fill("It was next door.")
        await page.get_by_role("button", name="Resolve").click()
        await expect(page.locator(".chip").first).to_have_text("resolved")


async def test_a_supervisor_gives_what_needs_attention_to_somebody(browser: Browser, site: str) -> None:
    async with supervised(browser, site) as page:
        await page.goto("/queue")
        raised = page.locator(".raised > li").filter(has_text="refund unknown")
        await raised.get_by_text("Give it to somebody").first.click()
        await raised.get_by_label("To whom").fill("agent:bob")
        await raised.get_by_role("button", name="Give it to somebody").click()
        await expect(raised).to_contain_text("agent:bob")


async def test_a_hole_is_shown_above_everything_it_touches(browser: Browser, site: str) -> None:
    async with opened(browser, site) as page:
        await page.goto("/orders/ORD-3")
        await expect(page.get_by_text("facts 4–5 of payments not seen yet")).to_be_visible()


async def test_the_sentence_of_an_order_leads_to_the_facts_behind_each_clause(browser: Browser, site: str) -> None:
    async with opened(browser, site) as page:
        await page.get_by_role("link", name="1 waits for goods due 21 Oct 2026, slipped once").click()
        await page.wait_for_url("**about=backorder**")
        titles = await page.locator(".entry .title").all_inner_texts()
        assert len(titles) == 2 and all("chair" in title.lower() for title in titles), titles
        await page.get_by_role("link", name="show all").click()
        assert await page.locator(".entry").count() > 2


async def test_what_blocks_is_drawn_and_said(browser: Browser, site: str) -> None:
    async with opened(browser, site) as page:
        await expect(page.locator(".dependency .blocks")).to_have_count(2)
        for box in await page.locator(".dependency .node").all():
            frame, words = await box.locator("rect").bounding_box(), await box.locator("text").last.bounding_box()
            assert frame and words and words["x"] + words["width"] < frame["x"] + frame["width"]
        await expect(page.locator(".blocking")).to_contain_text("1 × Oak chair: waits for goods SKU-chair")


async def test_a_fact_that_is_seen_meanwhile_is_announced(browser: Browser, site: str, tell: Tell) -> None:
    story = split_order("ORD-4")
    later = story.entries.pop()
    await tell(story)
    async with opened(browser, site, scripts=True) as page:
        await page.goto("/orders/ORD-4")
        await expect(page.locator("#news")).to_be_hidden()
        story.entries = [later]
        await tell(story)
        await page.get_by_role("link", name="1 more fact was seen").click()
        await expect(page.get_by_text("28 facts seen")).to_be_visible()


async def test_the_keys_of_the_page(browser: Browser, site: str) -> None:
    async with opened(browser, site, scripts=True) as page:
        await page.goto("/orders/ORD-1")
        await page.keyboard.press("/")
        await expect(page.get_by_label("Find an order")).to_be_focused()
        await page.keyboard.type("j?")
        await expect(page.get_by_label("Find an order")).to_have_value("j?")
        await page.locator("h1").click()
        for key in "jjk":
            await page.keyboard.press(key)
        first = page.locator(".entry").first
        await expect(first).to_be_focused()
        await page.keyboard.press("Enter")
        await expect(first.get_by_text("order.placed")).to_be_visible()
        await page.keyboard.press("?")
        await expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
        await page.keyboard.press("Escape")
        await expect(page.get_by_role("dialog", name="Keys")).to_be_hidden()


DAYS: Final = "from=2026-10-01&to=2026-11-30"
"""In which the stories happen."""


@contextlib.asynccontextmanager
async def supervised(
    browser: Browser, site: str, *, width: int = 1400, dark: bool = False, scripts: bool = False
) -> AsyncIterator[Page]:
    """A supervisor's page. Anything the content policy refuses, or from elsewhere, fails."""
    complaints: list[str] = []
    context = await browser.new_context(
        base_url=site,
        viewport={"width": width, "height": 900},
        color_scheme="dark" if dark else "light",
        java_script_enabled=scripts,
    )
    token = issue(AUTH_KEY, subject="sue", roles=["supervisor"])
    await context.add_cookies([{"name": SESSION, "value": token, "url": site}])
    page = await context.new_page()
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda r: complaints.append(r.url) if not r.url.startswith(site) else None)
    yield page
    await context.close()
    assert not complaints


@pytest.mark.parametrize("scripts", [False, True], ids=["plain", "scripts"])
async def test_every_number_of_a_figure_leads_to_the_facts_behind_it(
    browser: Browser, site: str, scripts: bool
) -> None:
    async with supervised(browser, site, scripts=scripts) as page:
        await page.goto(f"/figures?{DAYS}")
        await page.get_by_role("link", name="Return cycle time").click()
        await expect(page.locator(".headline")).to_have_text("p50 4 days 20 hours · p90 4 days 20 hours")
        await page.get_by_label("Split by").select_option("stage")
        await page.get_by_role("button", name="Show").click()
        stages = page.get_by_role("region", name="Table by stage")
        await expect(stages.get_by_role("rowheader")).to_have_count(5)
        await expect(page.locator("#chart canvas")).to_have_count(1 if scripts else 0)
        await page.get_by_role("region", name="Table by week").get_by_role("link", name="1", exact=True).click()
        await expect(page.get_by_role("rowheader", name="ORD-2")).to_be_visible()
        await page.get_by_text("8 facts").click()
        await page.get_by_role("link", name="return.resolved").click()
        await expect(page.locator("pre")).to_contain_text('"resolution": "refund"')


async def test_a_chart_draws_no_line_across_weeks_in_which_nothing_was_counted(browser: Browser, site: str) -> None:
    async with supervised(browser, site, scripts=True) as page:
        await page.goto("/figures/refund-latency?from=2026-08-01&to=2026-11-15")
        await expect(page.locator("#chart canvas")).to_be_visible()
        values = await page.evaluate("Array.from(plot.data[1])")
        counted = [value is not None for value in values]
        assert counted.count(True) >= 1 and counted.count(False) >= 1
        assert not await page.evaluate("plot.series.slice(1).some((drawn) => drawn.spanGaps)")


async def test_a_mistyped_address_is_answered_by_a_page_with_a_way_back(browser: Browser, site: str) -> None:
    async with opened(browser, site) as page:
        await page.goto("/nowhere")
        await expect(page.get_by_role("heading", name="Nothing there")).to_be_visible()
        await page.get_by_role("link", name="Find an order").click()
        await expect(page).to_have_url(re.compile("/$"))


@pytest.mark.parametrize("scripts", [False, True], ids=["plain", "scripts"])
async def test_what_keeps_going_wrong_is_seen_by_week_and_leads_to_the_facts_that_bear_it_out(
    browser: Browser, site: str, tell: Tell, dsn: str, scripts: bool
) -> None:
    await tell(split_order("ORD-77"))
    async with asyncpg.create_pool(dsn, min_size=0) as pool:
        await hear(pool, "ORD-77")
    axe = pytest.importorskip("axe_playwright_python.async_playwright", reason="axe is not installed: NOT tested")
    async with supervised(browser, site, scripts=scripts) as page:
        await page.goto("/orders/ORD-77")
        assert not scripts or (await axe.Axe().run(page)).response["violations"] == []
        cause = page.locator("#cause-stock_out")
        await expect(cause).to_contain_text("backordered v1 · 95 % sure")
        await cause.get_by_text("1 fact behind it").click()
        await expect(cause.get_by_role("link").first).to_contain_text("chair")
        await page.goto(f"/figures/root-causes?{DAYS}&dimension=cause")
        assert not scripts or (await axe.Axe().run(page)).response["violations"] == []
        await expect(page.locator("#chart canvas")).to_have_count(1 if scripts else 0)
        causes = page.get_by_role("region", name="Table by cause")
        row = causes.get_by_role("row").filter(has=page.get_by_role("rowheader", name="carrier delay"))
        await row.get_by_role("link", name="only these").click()
        await expect(page.locator(".about")).to_contain_text("Only cause carrier delay")
        await page.get_by_label("Split by").select_option("carrier")
        await page.get_by_role("button", name="Show").click()
        carriers = page.get_by_role("region", name="Table by carrier")
        await expect(carriers.get_by_role("rowheader")).to_have_text(["DHL"])
        await carriers.get_by_role("link", name="1", exact=True).last.click()
        await expect(page.get_by_role("rowheader", name="ORD-77")).to_be_visible()
        await page.get_by_text("2 facts").click()
        await page.get_by_role("link", name="shipment.tracking_updated").click()
        await expect(page.locator("pre")).to_contain_text('"customs"')


async def test_a_figure_is_not_for_everybody_and_a_bad_question_is_answered_in_words(
    browser: Browser, site: str
) -> None:
    async with opened(browser, site) as page:
        for path in (
            "/figures",
            "/figures/drift",
            "/figures/drift/facts",
            "/figures/drift.csv",
            "/figures/drift/facts.csv",
        ):
            answer = await page.request.get(path)
            assert answer.status == 403 and "Figures are for supervisor and auditor" in await answer.text()
    async with supervised(browser, site) as page:
        for query in ("from=9999-12-31", "from=2026-02-30", "by=year", "dimension=weather", "from=1&to=%3Cscript%3E"):
            answer = await page.request.get(f"/figures/refund-latency?{query}")
            assert answer.status == 422 and "That cannot be shown" in await answer.text(), query
            assert "<script>" not in await answer.text()
        for query in ("which=all", "after=x", "value=card", "which=rest"):
            answer = await page.request.get(f"/figures/refund-latency/facts?{query}")
            assert answer.status == 422 and "That cannot be shown" in await answer.text(), query
        assert (await page.request.get("/figures/nothing")).status == 404
        table = await page.request.get(f"/figures/refund-latency.csv?{DAYS}&dimension=channel")
        rows = {line.split(",")[0]: line.split(",") for line in (await table.text()).splitlines()}
        assert rows["card"][-2:] == ["refund-latency", "1"] and float(rows["card"][2]) > 0


def earlier(story: Telling, days: int, slower: int) -> Telling:
    """The same some days before; its return was waited for longer."""

    def at(instant: datetime, of: str) -> datetime:
        waited = slower if of in ("return.items_received", "return.items_inspected", "return.resolved") else 0
        return instant - timedelta(days=days - waited)

    def moved(fact: Fact) -> Fact:
        times = {name: at(value, "") for name, value in fact if isinstance(value, datetime)}
        return fact.model_copy(update=times)

    story.entries = [
        entry._replace(occurred_at=at(entry.occurred_at, entry.fact.type), fact=moved(entry.fact))
        for entry in story.entries
    ]
    return story


@pytest.mark.skipif("OMS_PICTURES" not in os.environ, reason="the pictures in docs/ are made by `make pictures`")
async def test_pictures_of_the_page_for_the_documents(browser: Browser, site: str, tell: Tell) -> None:
    async with opened(browser, site, width=1280) as page:
        await page.goto("/orders/ORD-6")
        support = page.locator("#casework")
        await support.get_by_text("Record a contact").first.click()
        await support.get_by_label("By").select_option("phone")
        await support.get_by_label("What was said").fill("My refund was promised for Tuesday. Where is it?")
        await support.get_by_role("button", name="Record a contact").click()
        await page.goto("/cases/ORD-6-C1")
        await page.get_by_role("button", name="Take it on").click()
        await page.get_by_text("Add a note").first.click()
        await page.get_by_label("Note, for colleagues only").fill(
            "The processor has not answered; asked them by phone."
        )
        await page.get_by_role("button", name="Add a note").click()
        await expect(page.locator(".quoted").first).to_contain_text("asked them by phone")
        shown = {"page": "/orders/ORD-1", "queue": "/queue", "search": "/?q=ORD", "case": "/cases/ORD-6-C1"}
        for name, path in shown.items():
            await page.goto(path)
            await page.screenshot(path=Path(os.environ["OMS_PICTURES"]) / f"{name}.png")
    for n in range(24):
        await tell(earlier(whole_story(f"ORD-9{n:02}"), days=3 * n, slower=(n * 7) % 5))
    async with supervised(browser, site, width=1280, scripts=True) as page:
        await page.goto("/figures/return-cycle-time?from=2026-08-01&to=2026-11-15&dimension=stage")
        await expect(page.locator("#chart canvas")).to_be_visible()
        await page.screenshot(path=Path(os.environ["OMS_PICTURES"]) / "figures.png")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 800, 1400])
async def test_the_page_fits_every_screen(browser: Browser, site: str, width: int, dark: bool) -> None:
    async with opened(browser, site, width=width, dark=dark) as page:
        for path in ("/orders/ORD-2?detail=all", "/?q=ORD", "/", "/embed/ORD-2", "/queue", "/cases", "/cases/ORD-2-C1"):
            await page.goto(path)
            for act in await page.locator(".acts summary").all():
                await act.click()
            main = await page.locator("main").bounding_box()
            assert main is not None and main["x"] >= 0 and main["x"] + main["width"] <= width
            for box in [await card.bounding_box() for card in await page.locator(".card, .state, .acts button").all()]:
                assert box is not None and box["x"] + box["width"] <= width


FIGURE_PAGES: Final = (
    f"/figures?{DAYS}",
    f"/figures/return-cycle-time?{DAYS}&dimension=stage",
    f"/figures/unit-accuracy?{DAYS}&dimension=kind&by=day",
    f"/figures/drift?{DAYS}",
    f"/figures/refund-latency/facts?{DAYS}",
)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 1400])
async def test_figures_fit_every_screen_and_shut_nobody_out(
    browser: Browser, site: str, width: int, dark: bool
) -> None:
    axe = pytest.importorskip("axe_playwright_python.async_playwright", reason="axe is not installed: NOT tested")
    async with supervised(browser, site, width=width, dark=dark, scripts=True) as page:
        for path in FIGURE_PAGES:
            await page.goto(path)
            assert await page.evaluate("document.documentElement.scrollWidth") <= width, path
            assert (await axe.Axe().run(page)).response["violations"] == [], path


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
async def test_axe_finds_nothing_that_shuts_people_out(browser: Browser, site: str, dark: bool) -> None:
    axe = pytest.importorskip("axe_playwright_python.async_playwright", reason="axe is not installed: NOT tested")
    context = await browser.new_context(base_url=site, color_scheme="dark" if dark else "light")
    page = await context.new_page()
    await page.goto("/sign-in")
    assert (await axe.Axe().run(page)).response["violations"] == []
    token = issue(AUTH_KEY, subject="ann", roles=["agent"])
    await context.add_cookies([{"name": SESSION, "value": token, "url": site}])
    fact = await page.goto("/orders/ORD-1") and await page.locator(".raw a").first.get_attribute("href")
    assert fact
    panels = ("/embed/ORD-3", "/embed/nothing", "/queue", "/queue?mine=true", "/cases", "/cases/ORD-2-C1")
    for path in ("/", "/?q=ORD", "/orders/ORD-2?detail=all", "/orders/ORD-3", "/orders/nothing", fact, *panels):
        await page.goto(path)
        assert (await axe.Axe().run(page)).response["violations"] == [], path
    await context.close()
