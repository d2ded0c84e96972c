"""Whose tokens are taken: ours by our key, an identity provider's by the keys it publishes, and nobody else's."""

import asyncio
import json
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm
from pydantic import ValidationError

from shared.settings import Provider, Settings
from shared.web import auth
from shared.web.auth import BadToken, KeysAway, Role, Tokens, issue

KEY = "a key for tests, at least thirty-two bytes long"
PROVIDER = Provider("https://id.example/keys", "https://id.example", "oms", "realm_access.roles")


class IdentityProvider:
    """Signs tokens, publishes its keys, turns them over, and can be away."""

    def __init__(self) -> None:
        self.keys = {"k1": ec.generate_private_key(ec.SECP256R1())}
        self.is_away = False
        self.asked = 0

    def publish(self, _: httpx.Request) -> httpx.Response:
        self.asked += 1
        if self.is_away:
            return httpx.Response(503)
        keys = [
            {**json.loads(ECAlgorithm.to_jwk(key.public_key())), "kid": kid, "alg": "ES256", "use": "sig"}
            for kid, key in self.keys.items()
        ]
        return httpx.Response(200, json={"keys": keys})

    def sign(self, kid: str = "k1", **more: Any) -> str:
        claims = {
            "iss": PROVIDER.issuer,
            "aud": PROVIDER.audience,
            "sub": "anna",
            "exp": datetime.now(timezone.utc) + timedelta(minutes=5),
            "realm_access": {"roles": ["agent", "offline_access"]},
        } | more
        return jwt.encode(claims, self.keys[kid], algorithm="ES256", headers={"kid": kid})


@pytest.fixture
def provider() -> IdentityProvider:
    return IdentityProvider()


@pytest.fixture
def tokens(provider: IdentityProvider) -> Tokens:
    return Tokens(KEY, PROVIDER, httpx.AsyncClient(transport=httpx.MockTransport(provider.publish)))


async def test_a_token_from_a_clock_that_is_ahead_is_taken(tokens: Tokens, provider: IdentityProvider) -> None:
    later = datetime.now(timezone.utc) + timedelta(hours=1)
    token = provider.sign(iat=later, exp=later + timedelta(minutes=5))
    assert (await tokens.verify(token)).actor == "agent:anna"


async def test_a_providers_token_names_the_caller_by_the_roles_that_are_ours(
    tokens: Tokens, provider: IdentityProvider
) -> None:
    caller = await tokens.verify(provider.sign())
    assert (caller.subject, set(caller.roles), caller.actor) == ("anna", {Role.AGENT}, "agent:anna")


async def test_our_own_tokens_are_taken_beside_a_providers(tokens: Tokens, provider: IdentityProvider) -> None:
    assert (await tokens.verify(issue(KEY, subject="oms", roles=["operator"]))).actor == "operator:oms"
    assert provider.asked == 0


@pytest.mark.parametrize(
    "forge",
    [
        lambda p: p.sign(iss="https://elsewhere.example"),
        lambda p: p.sign(aud="another service"),
        lambda p: p.sign(exp=datetime.now(timezone.utc) - timedelta(minutes=1)),
        lambda p: p.sign(realm_access={"roles": ["emperor"]}),
        lambda p: p.sign(realm_access={"roles": "agent"}),
        lambda p: p.sign(realm_access=7),
        lambda p: p.sign()[:-4] + "AAAA",
        lambda p: jwt.encode({"sub": "anna", "roles": ["agent"]}, "", algorithm="none"),
        lambda p: issue("another key, long enough to be one, but not ours", subject="a", roles=["agent"]),
        lambda _: "not a token",
    ],
    ids=["issuer", "audience", "expired", "role", "roles as a word", "no roles", "signature", "none", "key", "noise"],
)
async def test_a_token_that_is_not_what_it_must_be_is_refused(
    tokens: Tokens, provider: IdentityProvider, forge: Callable[[IdentityProvider], str]
) -> None:
    with pytest.raises(BadToken):
        await tokens.verify(forge(provider))


async def test_an_id_token_names_who_signed_in_to_its_client_in_its_sign_in_alone(
    tokens: Tokens, provider: IdentityProvider
) -> None:
    assert await tokens.identify(provider.sign(aud="page", nonce="n-1"), "page", "n-1") == "anna"
    assert await tokens.identify(provider.sign(aud=["page", "x"], azp="page", nonce="n-1"), "page", "n-1") == "anna"
    wrong: tuple[dict[str, Any], ...] = (
        {"nonce": "n-2"},
        {},
        {"aud": "another page", "nonce": "n-1"},
        {"aud": ["page", "x"], "azp": "x", "nonce": "n-1"},
        {"iss": "https://elsewhere.example", "nonce": "n-1"},
        {"exp": datetime.now(timezone.utc) - timedelta(minutes=1), "nonce": "n-1"},
    )
    for more in wrong:
        with pytest.raises(BadToken):
            await tokens.identify(provider.sign(**{"aud": "page", **more}), "page", "n-1")
    ours = issue(KEY, subject="eve", roles=["agent"])
    with pytest.raises(BadToken):
        await tokens.identify(ours, "page", "n-1")


async def test_without_a_provider_only_our_own_tokens_count(provider: IdentityProvider) -> None:
    with pytest.raises(BadToken):
        await Tokens(KEY).verify(provider.sign())
    with pytest.raises(BadToken):
        await Tokens(KEY).identify(provider.sign(aud="page", nonce="n-1"), "page", "n-1")


async def test_keys_that_were_turned_over_are_fetched_once_and_unknown_ones_not_again_and_again(
    tokens: Tokens, provider: IdentityProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    await tokens.verify(provider.sign())
    provider.keys["k2"] = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(BadToken):
        await tokens.verify(provider.sign("k2"))
    assert provider.asked == 1, "fetched a moment ago"
    monkeypatch.setattr(auth, "KEYS_PAUSE_SECONDS", 0.0)
    fresh = Tokens(KEY, PROVIDER, httpx.AsyncClient(transport=httpx.MockTransport(provider.publish)))
    await fresh.verify(provider.sign())
    provider.keys["k3"] = ec.generate_private_key(ec.SECP256R1())
    assert (await fresh.verify(provider.sign("k3"))).subject == "anna"


async def test_a_provider_that_is_away_stops_nobody_whose_key_is_known(
    tokens: Tokens, provider: IdentityProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider.is_away = True
    with pytest.raises(KeysAway):
        await tokens.verify(provider.sign())
    monkeypatch.setattr(auth, "KEYS_RETRY_SECONDS", 0.0)
    monkeypatch.setattr(auth, "KEYS_LIVE_SECONDS", 0.0)
    fresh = Tokens(KEY, PROVIDER, httpx.AsyncClient(transport=httpx.MockTransport(provider.publish)))
    provider.is_away = False
    await fresh.verify(provider.sign())
    provider.is_away = True
    assert (await fresh.verify(provider.sign())).subject == "anna"


def test_a_provider_is_set_whole_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"DATABASE_URL": "postgresql://x", "KAFKA": "x", "AUTH_KEY": KEY}.items():
        monkeypatch.setenv(f"OMS_{name}", value)
    assert Settings().provider is None
    monkeypatch.setenv("OMS_AUTH_JWKS_URL", PROVIDER.jwks_url)
    with pytest.raises(ValidationError, match="OMS_AUTH_ISSUER"):
        Settings()


async def test_a_token_that_was_taken_a_moment_ago_is_refused_once_it_has_expired(tokens: Tokens) -> None:
    token = issue(KEY, subject="anna", roles=["agent"], ttl=timedelta(seconds=1 - auth.LEEWAY_SECONDS))
    assert (await tokens.verify(token)).subject == "anna"
    with pytest.raises(BadToken, match="expired"):
        for _ in range(100):
            await tokens.verify(token)
            await asyncio.sleep(0.05)


async def test_a_token_that_was_taken_a_moment_ago_is_refused_once_its_key_is_withdrawn(
    tokens: Tokens, provider: IdentityProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = provider.sign()
    assert await tokens.verify(token) == await tokens.verify(token)
    monkeypatch.setattr(auth, "KEYS_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(auth, "KEYS_LIVE_SECONDS", 0.0)
    fresh = Tokens(KEY, PROVIDER, httpx.AsyncClient(transport=httpx.MockTransport(provider.publish)))
    await fresh.verify(token)
    provider.keys = {"k2": ec.generate_private_key(ec.SECP256R1())}
    with pytest.raises(BadToken):
        await fresh.verify(token)


async def test_no_more_tokens_are_remembered_than_fit(tokens: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "KNOWN_TOKENS", 2)
    for name in ("anna", "ben", "cleo"):
        assert (await tokens.verify(issue(KEY, subject=name, roles=["agent"]))).subject == name
    assert len(tokens._known) <= 2
