"""Callers show bearer tokens (JWT) with a subject and roles; the subject is every fact's actor.

Tokens are ours (HS256 by the configured key), or an OpenID Connect provider's (by the keys it publishes).
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from enum import StrEnum
from hmac import compare_digest
from math import inf
from typing import Any, Final

import httpx
import jwt
import structlog
from jwt.types import Options

from shared.settings import Provider

log = structlog.get_logger()

ISSUER = "order-workflows"
ALGORITHMS: Final = ["RS256", "PS256", "ES256", "EdDSA"]
KEYS_LIVE_SECONDS: Final = 600.0
KEYS_PAUSE_SECONDS: Final = 30.0
"""A token with an unknown key is anybody's to send: it must not make us ask the provider each time."""
KEYS_RETRY_SECONDS: Final = 2.0
LEEWAY_SECONDS: Final = 5
KNOWN_TOKENS: Final = 1_000
"""As many people and programs as ask one process at a time; each shows the same token with every request."""


class Role(StrEnum):
    STOREFRONT = "storefront"
    WAREHOUSE = "warehouse"
    AGENT = "agent"
    SUPERVISOR = "supervisor"
    OPERATOR = "operator"
    AUDITOR = "auditor"


class BadToken(Exception):
    """It is raised where the token is forged, stale or not ours; the message says which, and nothing else."""


@dataclass(frozen=True, slots=True)
class Caller:
    subject: str
    roles: frozenset[Role]

    @property
    def actor(self) -> str:
        """Return the actor as it stands in facts: the first of the caller's roles and who they are, `agent:anna`."""
        return f"{min(self.roles)}:{self.subject}"


def issue(key: str, *, subject: str, roles: Sequence[str], ttl: timedelta = timedelta(hours=8)) -> str:
    """Make a token. Raises ValueError for a role that does not exist."""
    now = datetime.now(timezone.utc)
    claims = {"iss": ISSUER, "sub": subject, "roles": sorted(Role(r) for r in roles), "iat": now, "exp": now + ttl}
    return jwt.encode(claims, key, algorithm="HS256")


def verify(key: str, token: str) -> Caller:
    """The caller of a token of our own making. Raises BadToken."""
    return _caller(_ours(key, token), "roles")


def _ours(key: str, token: str) -> dict[str, Any]:
    return _claims(token, key, algorithms=["HS256"], issuer=ISSUER)


def _claims(token: str, key: str | jwt.PyJWK, **wanted: Any) -> dict[str, Any]:
    # When it was issued is for information (RFC 7519, 4.1.6): a clock that is behind refuses nobody for it.
    options: Options = {"require": ["exp", "sub", "iss"], "verify_iat": False}
    try:
        claims: dict[str, Any] = jwt.decode(token, key, options=options, leeway=LEEWAY_SECONDS, **wanted)
    except jwt.ExpiredSignatureError:
        raise BadToken("the token has expired") from None
    except jwt.InvalidTokenError:
        raise BadToken("the token is not valid") from None
    return claims


def _caller(claims: dict[str, Any], roles_claim: str) -> Caller:
    roles = _roles(claims, roles_claim)
    if not roles or not claims["sub"]:
        raise BadToken("the token names no role")
    return Caller(subject=claims["sub"], roles=roles)


def _roles(claims: Any, path: str) -> frozenset[Role]:
    """Return the roles of ours at a dotted path; others of the provider are ignored. Raises BadToken where there is no list
    of words."""
    found: Any = claims
    for name in path.split("."):
        found = found.get(name, ()) if isinstance(found, dict) else ()
    if not isinstance(found, list | tuple) or not all(isinstance(role, str) for role in found):
        raise BadToken("the token is not valid")
    return frozenset(Role(role) for role in found if role in list(Role))


class KeysAway(Exception):
    """It is raised where the provider's keys could not be fetched, and none are known from before."""


def _header(token: str) -> dict[str, Any]:
    try:
        header: dict[str, Any] = jwt.get_unverified_header(token)
    except jwt.InvalidTokenError:
        raise BadToken("the token is not valid") from None
    return header


class Tokens:
    """It verifies every token: those issued here by our own key, all others by the provider's published ones."""

    def __init__(self, key: str, provider: Provider | None = None, client: httpx.AsyncClient | None = None) -> None:
        self._key = key
        self._provider = provider
        self._client = client
        self._keys: dict[str, jwt.PyJWK] = {}
        self._fetched_at = -inf
        self._next_try_at = -inf
        self._lock = asyncio.Lock()
        self._known: dict[str, tuple[Caller, float]] = {}

    async def verify(self, token: str) -> Caller:
        """Raises BadToken, and KeysAway. A token that was found good is so until it expires, or until the provider's
        keys are to be asked for again."""
        caller, until = self._known.get(token, (None, -inf))
        if caller is not None and time.time() < until:
            return caller
        self._known.pop(token, None)
        # Who made it picks the key before anything it says is believed; an HS256 token is never held against a public key.
        if self._provider is None or _header(token).get("alg") == "HS256":
            claims, path, keys_live = _ours(self._key, token), "roles", inf
        else:
            claims, path = await self._theirs(token, self._provider.audience), self._provider.roles_claim
            keys_live = time.time() + self._fetched_at + KEYS_LIVE_SECONDS - asyncio.get_running_loop().time()
        caller = _caller(claims, path)
        if len(self._known) >= KNOWN_TOKENS:
            self._known.clear()
        self._known[token] = caller, min(int(claims["exp"]) + LEEWAY_SECONDS, keys_live)
        return caller

    async def identify(self, token: str, client_id: str, nonce: str) -> str:
        """Return whom the provider names in an ID token that it issued for this client and this sign-in.

        Raises BadToken, and KeysAway.
        """
        claims = await self._theirs(token, client_id)
        said = str(claims.get("nonce", ""))
        if not compare_digest(said.encode(), nonce.encode()) or claims.get("azp", client_id) != client_id:
            raise BadToken("the token was made for another sign-in")
        return str(claims["sub"])

    async def _theirs(self, token: str, audience: str) -> dict[str, Any]:
        """Return the claims of a token of the provider for this audience."""
        if self._provider is None:
            raise BadToken("the token is not valid")
        key = await self._key_of(str(_header(token).get("kid", "")))
        return _claims(token, key, algorithms=ALGORITHMS, issuer=self._provider.issuer, audience=audience)

    async def _key_of(self, kid: str) -> jwt.PyJWK:
        """Return a key, fetching the keys when they are old or the key is not among them: providers rotate them."""
        now = asyncio.get_running_loop().time()
        if kid not in self._keys or now > self._fetched_at + KEYS_LIVE_SECONDS:
            async with self._lock:
                if now > self._next_try_at:
                    await self._fetch(now)
        if not self._keys:
            raise KeysAway("the identity provider's keys cannot be had just now")
        if kid not in self._keys:
            raise BadToken("the token is not valid")
        return self._keys[kid]

    async def _fetch(self, now: float) -> None:
        assert self._provider is not None and self._client is not None
        try:
            answer = await self._client.get(self._provider.jwks_url)
            answer.raise_for_status()
            found = jwt.PyJWKSet.from_dict(answer.json()).keys
        except (httpx.HTTPError, ValueError, jwt.PyJWTError) as error:
            log.warning("identity_keys.not_fetched", error=repr(error), known=len(self._keys))
            self._next_try_at = now + KEYS_RETRY_SECONDS
            return
        self._keys = {key.key_id: key for key in found if key.key_id}
        self._known.clear()
        self._fetched_at, self._next_try_at = now, now + KEYS_PAUSE_SECONDS
