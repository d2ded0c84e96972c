"""Every story of the demo, played on the running system through its public interfaces; then everything is verified."""

import asyncio
from datetime import datetime, timedelta, timezone
from typing import Final

import asyncpg
import pytest
from playwright.async_api import Page

from ops.actors import Actors, View
from ops.demo import play, supervised
from ops.keys import kept_keys
from ops.stories import STORIES, Story, is_because_of
from ops.system import System
from ops.verify import check
from support_view.domain.timeline import SERVICES
from support_view.sign_in import SESSION
from tests.chromium import chromium, needs_chromium
from tests.e2e.conftest import Oms
from tests.e2e.test_page import signed_in
from tests.oracle import Oracle, agree, see

told: dict[str, str] = {}
"""The order of each story that was played."""


@pytest.mark.parametrize(("name", "story"), STORIES.items(), ids=[name.replace(" ", "-") for name in STORIES])
async def test_the_story_reaches_its_end(actors: Actors, name: str, story: Story) -> None:
    told[name] = await play(name, story, actors)
    if name == "unknown outcome":
        # Undisturbed, that is: where a process is killed just then, the processor's late notice may be heard before.
        for order in ("unknown", "unknown-refund"):
            types = [entry["type"] for entry in await actors.timeline(f"{order}-{actors.run}")]
            assert {"payment.operation_unknown", "payment.operation_reconciled"} <= set(types)
            await is_because_of(actors, f"{order}-{actors.run}", "system_fault")


@needs_chromium
async def test_every_story_that_was_played_is_read_from_the_page(system: System, actors: Actors) -> None:
    if not told:
        pytest.skip("no story was played in this run")
    url = system.endpoints.url("support-view")
    async with signed_in(system, "max") as reader, chromium() as browser:
        context = await browser.new_context(base_url=url, java_script_enabled=False)
        await context.add_cookies([{"name": SESSION, "value": reader.cookies[SESSION], "url": url}])
        page = await context.new_page()
        for name, order_id in told.items():
            view, entries = await settled(actors, page, order_id)
            shown = [entry["title"] for entry in entries if not entry["is_quiet"]]
            assert await page.locator(".entry .title").all_inner_texts() == shown, name
            states = await page.get_by_label("Four states, side by side").locator("article > .chip").all_inner_texts()
            rolled = [view["rollups"][f"{of}_status"] for of in ("payment", "fulfillment", "return")]
            assert states == [status.replace("_", " ") for status in (view["order"]["status"], *rolled)], name
            why = await page.locator(".sentence").first.inner_text()
            assert all(clause["text"] in why for clause in view["explanations"][0]["clauses"]), name
            assert await page.locator("[id^=message-] h3").all_inner_texts() == [m["title"] for m in view["told"]], name
            assert await page.get_by_text("Not the whole story").count() == 0, name


async def settled(actors: Actors, page: Page, order_id: str) -> tuple[View, list[View]]:
    """What the API tells of the order, and the page at the same facts: late notices may still come."""
    deadline = asyncio.get_running_loop().time() + 60
    while True:
        view, entries = await actors.get("support-view", f"/api/orders/{order_id}"), await actors.timeline(order_id)
        await page.goto(f"/orders/{order_id}")
        on_page = await page.locator("#news").get_attribute("data-seen")
        if str(len(entries)) == str(view["freshness"]["facts"]) == on_page:
            return view, entries
        assert asyncio.get_running_loop().time() < deadline, f"{order_id} does not come to rest"


async def test_a_supervisor_finds_a_queue_and_figures_that_say_something(actors: Actors) -> None:
    if not told.keys() >= {"asked three times", "return under policy"}:
        pytest.skip("what they are made of was not played in this run")
    await supervised(actors)


async def test_after_the_stories_nothing_is_wrong(system: System) -> None:
    key = kept_keys(system.endpoints.secrets.parent).auth_key
    counted, findings = await check(system.endpoints, key, lambda *_: None)
    assert findings == []
    assert counted.facts > 100
    assert counted.in_timeline > 100
    assert counted.operations > 10


async def test_the_figures_of_what_happened_are_those_of_the_journals(system: System) -> None:
    """Mails go out all the time, so what is told meanwhile is waited for."""
    end = datetime.now(timezone.utc) + timedelta(days=1)
    start = end - timedelta(days=120)
    view = system.endpoints.database("support-view")
    deadline = asyncio.get_running_loop().time() + 60
    async with asyncpg.create_pool(view, min_size=0, max_size=2) as pool:
        while True:
            oracle = await journals(system, view)
            try:
                await agree(pool, oracle, start, end)
                break
            except AssertionError:
                if asyncio.get_running_loop().time() > deadline:
                    raise
            finally:
                await oracle.db.close()
            await asyncio.sleep(1)
        for figure in ("return-cycle-time", "refund-latency", "unit-accuracy"):
            assert (await see(pool, figure, start, end)).total.count, f"no story is in {figure}"


async def journals(system: System, view: str) -> Oracle:
    """As they stand, in a table of a connection of their own."""
    oracle = Oracle(await asyncpg.connect(view))
    await oracle.begin()
    for service in SERVICES:
        source = await asyncpg.connect(system.endpoints.database(JOURNALS.get(service, service)))
        await oracle.copy(service, source)
        await source.close()
    return oracle


JOURNALS: Final = {"support": "support-view"}
"""Where a service's facts are written, if not in a database of its own name."""


async def test_the_view_is_rebuilt_swapped_and_rolled_back_while_it_is_used(oms: Oms) -> None:
    code, told = await oms.apart("rebuild", "support-view")
    assert (code, told["parity"], told["swapped"], told["differing"]) == (0, True, True, [])
    assert await oms.apart("rebuild", "support-view", "--roll-back") == (0, {"done": "rolled_back"})
    assert await oms.apart("rebuild", "support-view", "--discard") == (0, {"done": "discarded"})
