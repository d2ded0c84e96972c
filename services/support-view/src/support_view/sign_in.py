"""Signing in and out: at an identity provider (OpenID Connect, code flow with PKCE), or with a token one was given.

What proves who somebody is stays in a cookie that scripts and other sites cannot use; no address holds it.
"""

import asyncio
import base64
import re
import secrets
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from hashlib import sha256
from hmac import compare_digest
from http import HTTPStatus
from typing import Annotated, Any, Final
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import jwt
import structlog
from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from pydantic import BaseModel, HttpUrl, ValidationError

from shared.web.auth import BadToken, Caller, KeysAway
from shared.web.callers import tokens_of
from support_view.api import READERS
from support_view.rendering import HEADERS, page
from support_view.settings import SignIn

log = structlog.get_logger()
router = APIRouter(include_in_schema=False)

SESSION: Final = "oms_session"
UNDER_WAY: Final = "oms_sign_in"
UNDER_WAY_FOR: Final = timedelta(minutes=10)
TICKETS: Final = "order-workflows/sign-in"
"""Who makes the tickets of sign-ins under way: not who makes tokens, so that none can stand in for the other."""
LARGEST_COOKIE: Final = 3800
KNOWN_FOR_SECONDS: Final = 600.0


class ProviderMetadata(BaseModel):
    """Where the provider lets people in and out, as it publishes it."""

    issuer: str
    authorization_endpoint: HttpUrl
    token_endpoint: HttpUrl
    end_session_endpoint: HttpUrl | None = None


class PendingSignIn(BaseModel):
    """What a sign-in under way must come back with. The browser keeps it, signed by us."""

    state: str
    nonce: str
    verifier: str
    onward: str


class Failed(Exception):
    """A sign-in that did not work; the message tells the person why, the status what kind of why it is."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Provider:
    """The identity provider as a client sees it."""

    def __init__(self, settings: SignIn, client: httpx.AsyncClient) -> None:
        self._settings = settings
        self._client = client
        self._provider_metadata: tuple[float, ProviderMetadata] | None = None

    async def provider_metadata(self) -> ProviderMetadata:
        """Asked for once in ten minutes. Raises Failed."""
        now = asyncio.get_running_loop().time()
        if self._provider_metadata is None or self._provider_metadata[0] < now:
            answer = await self._ask("GET", self._settings.discovery_url)
            try:
                provider_metadata = ProviderMetadata.model_validate_json(answer.content)
            except ValidationError as error:
                raise self._away(error) from None
            if provider_metadata.issuer != self._settings.issuer:
                raise self._away(f"it calls itself {provider_metadata.issuer}")
            self._provider_metadata = now + KNOWN_FOR_SECONDS, provider_metadata
        return self._provider_metadata[1]

    async def _ask(self, method: str, url: str, **what: Any) -> httpx.Response:
        try:
            answer = await self._client.request(method, url, **what)
        except httpx.HTTPError as error:
            raise self._away(error) from None
        if answer.status_code >= 500:
            raise self._away(answer.status_code)
        return answer

    @staticmethod
    def _away(error: object) -> Failed:
        log.warning("sign_in.provider_away", error=repr(error))
        return Failed(503, "the identity provider does not answer just now, try again in a moment")

    async def address(self, pending: PendingSignIn) -> str:
        """Where the person is sent. Raises Failed."""
        challenge = base64.urlsafe_b64encode(sha256(pending.verifier.encode()).digest()).rstrip(b"=").decode()
        asked = {
            "response_type": "code",
            "client_id": self._settings.client_id,
            "redirect_uri": self._settings.redirect_url,
            "scope": self._settings.scope,
            "state": pending.state,
            "nonce": pending.nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        provider_metadata = str((await self.provider_metadata()).authorization_endpoint)
        return f"{provider_metadata}{'&' if '?' in provider_metadata else '?'}{urlencode(asked)}"

    async def tokens(self, code: str, pending: PendingSignIn) -> tuple[str, str]:
        """The access token and the ID token that a code is worth, once. Raises Failed."""
        told = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._settings.redirect_url,
            "client_id": self._settings.client_id,
            "code_verifier": pending.verifier,
        }
        secret = self._settings.client_secret
        proof: Mapping[str, Any] = {"auth": (self._settings.client_id, secret)} if secret else {}
        answer = await self._ask("POST", str((await self.provider_metadata()).token_endpoint), data=told, **proof)
        try:
            body = answer.raise_for_status().json()
            return str(body["access_token"]), str(body["id_token"])
        except (httpx.HTTPStatusError, ValueError, KeyError, TypeError):
            log.warning("sign_in.code_refused", status=answer.status_code)
            raise Failed(400, "the identity provider did not take the code it had given") from None


def _provider(request: Request) -> Provider | None:
    found: Provider | None = request.app.state.provider
    return found


def _sealed(request: Request, pending: PendingSignIn) -> str:
    claims = {"iss": TICKETS, "exp": datetime.now(timezone.utc) + UNDER_WAY_FOR, **pending.model_dump()}
    return jwt.encode(claims, request.app.state.settings.auth_key.get_secret_value(), algorithm="HS256")


def _pending(request: Request) -> PendingSignIn:
    """Raises Failed."""
    key = request.app.state.settings.auth_key.get_secret_value()
    try:
        claims = jwt.decode(request.cookies.get(UNDER_WAY, ""), key, algorithms=["HS256"], issuer=TICKETS)
    except jwt.InvalidTokenError:
        raise Failed(400, "it took longer than ten minutes, or began in another browser; begin again") from None
    return PendingSignIn.model_validate(claims)


def _cookie(request: Request, *, path: str = "/", samesite: Any = "strict") -> dict[str, Any]:
    page_url = request.app.state.settings.page_url
    is_secure = request.url.scheme == "https" or (page_url is not None and page_url.scheme == "https")
    return {"path": path, "httponly": True, "samesite": samesite, "secure": is_secure}


async def current_user(request: Request) -> Caller | None:
    """Who the session cookie says is looking; None where it is absent, stale, or of a role that may not."""
    token = request.cookies.get(SESSION)
    if not token:
        return None
    try:
        caller = await tokens_of(request).verify(token)
    except (BadToken, KeysAway):
        return None
    return None if caller.roles.isdisjoint(READERS) else caller


def to_sign_in(request: Request) -> Response:
    """Back here afterwards: the address holds no token, only where to go on."""
    here = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    if request.method != "GET":
        order = re.match(r"/orders/[^/]+", here)  # a form of its page, which is to be filled in again
        here = order[0] if order else "/"
    return RedirectResponse(f"/sign-in?{urlencode({'next': here})}", HTTPStatus.SEE_OTHER, HEADERS)


def local(path: str) -> str:
    """A path of this site, or its start: a sign-in must not lead elsewhere."""
    return path if re.fullmatch(r"/(?![/\\])[\x21-\x7e]*", path) and "\\" not in path else "/"


async def form_of(request: Request) -> dict[str, str]:
    """The fields of a form of this site. Raises HTTPException 403 for another site's: the browser says whose it is."""
    origin = request.headers.get("Origin")
    is_ours = origin is None or urlsplit(origin).netloc == request.url.netloc
    if request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin" or not is_ours:
        raise HTTPException(403, "this form was sent from another site")
    fields = parse_qs((await request.body()).decode("utf-8", "replace"), max_num_fields=10)
    return {name: values[0].strip() for name, values in fields.items()}


def _entrance(request: Request, status: int, onward: str, error: str = "", out_at: str = "") -> HTMLResponse:
    has_provider = _provider(request) is not None
    return page("sign_in.html", status, caller=None, next=onward, error=error, has_provider=has_provider, out_at=out_at)


@router.get("/sign-in")
async def entrance(
    request: Request, next: Annotated[str, Query(max_length=2000)] = "/", left: Annotated[bool, Query()] = False
) -> Response:
    """Where one signs in; and why one has to again, where a session has ended."""
    error, out_at = "", ""
    if token := request.cookies.get(SESSION):
        try:
            await _admitted(request, token)
        except Failed as failed:
            error = f"Your sign-in has ended: {failed}."
    provider = _provider(request)
    if left and provider is not None:
        try:
            out_at = str((await provider.provider_metadata()).end_session_endpoint or "")
        except Failed:
            out_at = ""
    return _entrance(request, 200, local(next), error, out_at)


async def _admitted(request: Request, token: str) -> Caller:
    """Whom a token lets in here. Raises Failed."""
    try:
        caller = await tokens_of(request).verify(token)
    except BadToken as error:
        raise Failed(401, str(error)) from None
    except KeysAway as error:
        raise Failed(503, str(error)) from None
    if caller.roles.isdisjoint(READERS):
        raise Failed(403, f"this page is for {', '.join(READERS)}, and you have none of these roles")
    return caller


@router.post("/sign-in")
async def with_token(request: Request) -> Response:
    """The token comes in the body, and leads where it was given."""
    form = await form_of(request)
    token, onward = form.get("token", ""), local(form.get("next", "/"))
    try:
        await _admitted(request, token)
    except Failed as failed:
        return _entrance(request, failed.status, onward, f"That did not work: {failed}.")
    response = RedirectResponse(onward, HTTPStatus.SEE_OTHER, HEADERS)
    response.set_cookie(SESSION, token, **_cookie(request))
    return response


@router.get("/sign-in/start")
async def to_provider(request: Request, next: Annotated[str, Query(max_length=2000)] = "/") -> Response:
    """Off to the identity provider, with a ticket to come back on."""
    provider = _provider(request)
    if provider is None:
        return _entrance(request, 404, local(next), "No identity provider is set up here.")
    pending = PendingSignIn(
        state=secrets.token_urlsafe(24),
        nonce=secrets.token_urlsafe(24),
        verifier=secrets.token_urlsafe(48),
        onward=local(next),
    )
    try:
        response = RedirectResponse(await provider.address(pending), HTTPStatus.SEE_OTHER, HEADERS)
    except Failed as failed:
        return _entrance(request, failed.status, pending.onward, f"That did not work: {failed}.")
    # Lax: the way back begins on the provider's site, and a strict one would stay behind.
    response.set_cookie(
        UNDER_WAY, _sealed(request, pending), max_age=int(UNDER_WAY_FOR.total_seconds()), **_back_cookie(request)
    )
    return response


def _back_cookie(request: Request) -> dict[str, Any]:
    return _cookie(request, path="/sign-in", samesite="lax")


@router.get("/sign-in/back")
async def from_provider(
    request: Request,
    state: Annotated[str, Query(max_length=500)] = "",
    code: Annotated[str, Query(max_length=2000)] = "",
    error: Annotated[str, Query(max_length=100)] = "",
    iss: Annotated[str | None, Query(max_length=2000)] = None,
) -> Response:
    """Back from the identity provider. What it says counts only if it answers what was asked in this very browser."""
    onward = "/"
    try:
        provider = _provider(request)
        if provider is None:
            raise Failed(404, "no identity provider is set up here")
        pending = _pending(request)
        onward = pending.onward
        if not compare_digest(pending.state.encode(), state.encode()):
            raise Failed(400, "the answer belongs to another sign-in; begin again")
        if error or not code:
            raise Failed(403, f"the identity provider turned you away ({error or 'it gave no code'})")
        if iss not in (None, (await provider.provider_metadata()).issuer):
            raise Failed(400, "the answer comes from another identity provider")
        token, identity = await provider.tokens(code, pending)
        settings: SignIn = request.app.state.settings.sign_in
        try:
            subject = await tokens_of(request).identify(identity, settings.client_id, pending.nonce)
        except (BadToken, KeysAway) as wrong:
            raise Failed(400, f"the identity provider's word does not hold: {wrong}") from None
        caller = await _admitted(request, token)
        if caller.subject != subject:
            raise Failed(400, "the identity provider speaks of two people at once")
        if len(token) > LARGEST_COOKIE:
            raise Failed(400, "the identity provider's token is too large for a cookie")
    except Failed as failed:
        response = _entrance(request, failed.status, onward, f"That did not work: {failed}.")
    else:
        # A page, not a redirect: strict cookies are not sent along a way that began on the provider's site.
        response = page("signed_in.html", caller=None, who=caller, next=onward)
        response.set_cookie(SESSION, token, **_cookie(request))
    response.delete_cookie(UNDER_WAY, **_back_cookie(request))
    return response


@router.post("/sign-out")
async def sign_out(request: Request) -> Response:
    await form_of(request)
    response = RedirectResponse("/sign-in" + ("?left=1" if _provider(request) else ""), HTTPStatus.SEE_OTHER, HEADERS)
    response.delete_cookie(SESSION, **_cookie(request))
    return response
