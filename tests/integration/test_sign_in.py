"""Signing in to the page at an identity provider: the whole way there and back, and every way that leads nowhere."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from fastapi import FastAPI

from shared.web.auth import Tokens, issue
from support_view.app import built
from support_view.sign_in import SESSION, UNDER_WAY, Provider
from tests.backends import Backends
from tests.databases import AUTH_KEY, SUPPORT_SETTINGS
from tests.unit.sandbox_world import sandbox

PAGE: Final = "http://view.test"
PROVIDER: Final = "http://id.test/identity"


class Away(httpx.AsyncBaseTransport):
    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("nobody there", request=request)


@pytest.fixture
async def identity(tmp_path: Path) -> AsyncIterator[FastAPI]:
    async with sandbox(tmp_path, identity_url=PROVIDER, identity_redirect_url=f"{PAGE}/sign-in/back") as world:
        yield world.app


@pytest.fixture
async def view(
    backends: Backends,
    new_database: Callable[[str], Awaitable[str]],
    identity: FastAPI,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[FastAPI]:
    for name, value in {
        "DATABASE_URL": await new_database("support_view"),
        "KAFKA": backends.kafka,
        "AUTH_KEY": AUTH_KEY,
        "AUTH_JWKS_URL": f"{PROVIDER}/jwks",
        "AUTH_ISSUER": PROVIDER,
        "AUTH_AUDIENCE": "order-workflows",
        "SIGN_IN_CLIENT_ID": "support-view",
        "PAGE_URL": PAGE,
    }.items():
        monkeypatch.setenv(f"OMS_{name}", value)
    for name, value in SUPPORT_SETTINGS.items():
        monkeypatch.setenv(name, value)
    app = built()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(app.router.lifespan_context(app))
        connect(app, await stack.enter_async_context(httpx.AsyncClient(transport=httpx.ASGITransport(identity))))
        yield app


def connect(view: FastAPI, client: httpx.AsyncClient) -> None:
    """Let the view reach its provider by this client."""
    settings = view.state.settings
    view.state.tokens = Tokens(AUTH_KEY, settings.provider, client)
    view.state.provider = Provider(settings.sign_in, client)


@pytest.fixture
async def browsers(view: FastAPI, identity: FastAPI) -> AsyncIterator[Callable[[], httpx.AsyncClient]]:
    """Each with cookies of its own."""
    async with AsyncExitStack() as stack:
        mounts = {"http://view.test": httpx.ASGITransport(view), "http://id.test": httpx.ASGITransport(identity)}
        opened = [await stack.enter_async_context(httpx.AsyncClient(mounts=mounts, base_url=PAGE)) for _ in range(2)]
        yield iter(opened).__next__


async def way_back(browser: httpx.AsyncClient, subject: str = "sam", onward: str = "/?q=x") -> str:
    """Off to the provider, and the address that it sends the browser back to."""
    sent = await browser.get("/sign-in/start", params={"next": onward})
    assert sent.status_code == 303
    asked = await browser.get(sent.headers["location"])
    fields = dict(re.findall(r'name="(\w+)" value="([^"]*)"', asked.text))
    fields["subject"] = subject
    back = await browser.post(f"{PROVIDER}/authorize", data=fields)
    assert back.status_code == 303, back.text
    return back.headers["location"]


async def test_the_way_there_and_back(browsers: Callable[[], httpx.AsyncClient]) -> None:
    browser = browsers()
    turned_away = await browser.get("/orders/ORD-1?domain=order")
    entrance = await browser.get(turned_away.headers["location"])
    start = re.search(r'href="(/sign-in/start[^"]*)"', entrance.text)
    assert start
    sent = await browser.get(start[1].replace("&amp;", "&"))
    asked = parse_qs(urlsplit(sent.headers["location"]).query)
    assert asked["code_challenge_method"] == ["S256"] and asked["state"] != asked["nonce"]
    lax = sent.headers["set-cookie"].lower()
    assert "httponly" in lax and "samesite=lax" in lax and "path=/sign-in" in lax

    back = await browser.get(await way_back(browser, onward="/orders/ORD-1?domain=order"))
    assert back.status_code == 200 and 'content="0;url=/orders/ORD-1?domain=order"' in back.text
    [strict] = [cookie.lower() for cookie in back.headers.get_list("set-cookie") if cookie.startswith(SESSION)]
    assert "httponly" in strict and "samesite=strict" in strict and "path=/;" in strict
    token = browser.cookies[SESSION]
    assert token not in back.text
    start_page = await browser.get("/")
    assert "sam" in start_page.text and "supervisor" in start_page.text and token not in start_page.text
    as_bearer = {"Authorization": f"Bearer {token}"}
    assert (await browser.get("/api/search?q=x", headers=as_bearer)).status_code == 200

    out = await browser.post("/sign-out")
    assert SESSION not in browser.cookies
    left = await browser.get(out.headers["location"])
    assert f'href="{PROVIDER}/signed-out"' in left.text
    assert (await browser.get("/")).status_code == 303


async def test_who_is_known_but_has_no_business_here_is_told_so(browsers: Callable[[], httpx.AsyncClient]) -> None:
    browser = browsers()
    told = await browser.get(await way_back(browser, "wendy"))
    assert (told.status_code, SESSION in browser.cookies) == (403, False)
    assert "you have none of these roles" in told.text


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"state": "another"}, "belongs to another sign-in"),
        ({"state": ""}, "belongs to another sign-in"),
        ({"state": "\u00e9"}, "belongs to another sign-in"),
        ({"code": "guessed"}, "did not take the code"),
        ({"code": ""}, "turned you away"),
        ({"error": "access_denied"}, "turned you away (access_denied)"),
        ({"iss": "https://elsewhere.example"}, "comes from another identity provider"),
    ],
)
async def test_an_answer_that_was_tampered_with_signs_nobody_in(
    browsers: Callable[[], httpx.AsyncClient], changed: dict[str, str], why: str
) -> None:
    browser = browsers()
    back = httpx.URL(await way_back(browser)).copy_merge_params(changed)
    refused = await browser.get(back)
    assert refused.status_code in (400, 403) and why in refused.text
    assert SESSION not in browser.cookies and UNDER_WAY not in browser.cookies


async def test_a_code_counts_once_and_in_the_browser_that_asked_for_it(
    browsers: Callable[[], httpx.AsyncClient],
) -> None:
    browser, other = browsers(), browsers()
    back = await way_back(browser)
    assert "began in another browser" in (await other.get(back)).text
    stolen = httpx.URL(back).params["code"]
    mine = httpx.URL(await way_back(other, "anna")).copy_merge_params({"code": stolen})
    assert "did not take the code" in (await other.get(mine)).text, "it was asked for with another secret"
    assert SESSION not in other.cookies
    pending = browser.cookies[UNDER_WAY]
    again = await way_back(browser)
    assert (await browser.get(again)).status_code == 200
    browser.cookies.clear()
    browser.cookies.set(UNDER_WAY, pending, domain="view.test", path="/sign-in")
    assert (await browser.get(again)).status_code == 400


async def test_a_ticket_or_an_id_token_is_no_session(
    browsers: Callable[[], httpx.AsyncClient], view: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = browsers()
    got: list[tuple[str, str]] = []
    ask = Provider.tokens

    async def overheard(self: Provider, *args: object) -> tuple[str, str]:
        got.append(await ask(self, *args))  # type: ignore[arg-type]  # handed on as they came
        return got[-1]

    monkeypatch.setattr(Provider, "tokens", overheard)
    back = await way_back(browser)
    pending = browser.cookies[UNDER_WAY]
    await browser.get(back)
    [(_, identity)] = got
    for token in (identity, pending):
        browser.cookies.clear()
        browser.cookies.set(SESSION, token, domain="view.test")
        assert (await browser.get("/")).status_code == 303
        bearer = {"Authorization": f"Bearer {token}"}
        assert (await browser.get("/api/search?q=x", headers=bearer)).status_code == 401


async def test_a_sign_in_that_has_ended_says_why(browsers: Callable[[], httpx.AsyncClient]) -> None:
    browser = browsers()
    stale = issue(AUTH_KEY, subject="ann", roles=["agent"], ttl=timedelta(minutes=-5))
    browser.cookies.set(SESSION, stale, domain="view.test")
    turned_away = await browser.get("/orders/ORD-1")
    told = await browser.get(turned_away.headers["location"])
    assert "Your sign-in has ended: the token has expired." in told.text


async def test_a_provider_that_is_away_is_said_and_a_token_still_opens(
    browsers: Callable[[], httpx.AsyncClient], view: FastAPI
) -> None:
    browser = browsers()
    async with httpx.AsyncClient(transport=Away()) as nowhere:
        connect(view, nowhere)
        refused = await browser.get("/sign-in/start")
        assert refused.status_code == 503 and "does not answer just now" in refused.text
        token = issue(AUTH_KEY, subject="ann", roles=["agent"])
        assert (await browser.post("/sign-in", data={"token": token})).status_code == 303
        assert (await browser.get("/")).status_code == 200


async def test_the_provider_sends_codes_to_its_client_only_and_wants_proof(
    browsers: Callable[[], httpx.AsyncClient],
) -> None:
    browser = browsers()
    sent = httpx.URL((await browser.get("/sign-in/start")).headers["location"])
    for changed, status in (
        ({"redirect_uri": "https://evil.example/back"}, 400),
        ({"client_id": "another"}, 400),
        ({"code_challenge_method": "plain"}, 422),
        ({"code_challenge": ""}, 422),
        ({"response_type": "token"}, 422),
        ({"scope": "email"}, 422),
    ):
        answer = await browser.get(sent.copy_merge_params(changed))
        assert answer.status_code == status and "location" not in answer.headers
