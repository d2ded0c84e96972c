"""The identity provider: signs anybody in as whom they choose, by OpenID Connect's code flow with PKCE, in real tokens.

It checks what a real one checks of its client; of people it asks no password. Codes work once and for a minute.
"""

import base64
import json
import secrets
import sqlite3
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from hmac import compare_digest
from html import escape
from http import HTTPStatus
from typing import Annotated, Any, Final
from urllib.parse import parse_qs, urlencode

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from jwt.algorithms import ECAlgorithm
from pydantic import BaseModel, Field

from sandbox.ledger import AtLedger
from sandbox.settings import Chosen, Settings
from shared.web.auth import Role

SCHEMA = """
create table if not exists identity_keys (
    pem blob not null  -- the one that signs: tokens outlive this process
) strict;
"""

PEOPLE: Final = {
    "anna": ("Anna Agent", Role.AGENT),
    "sam": ("Sam Supervisor", Role.SUPERVISOR),
    "olga": ("Olga Operator", Role.OPERATOR),
    "max": ("Max Auditor", Role.AUDITOR),
    "wendy": ("Wendy, of the warehouse", Role.WAREHOUSE),
}
CODE_SECONDS: Final = 60
HEADERS: Final = {"Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'", "Cache-Control": "no-store"}

routes = APIRouter(prefix="/identity", tags=["identity provider"])


class Wish(BaseModel):
    """What a client asks for at the front door."""

    response_type: Annotated[str, Field(pattern="^code$")]
    client_id: str
    redirect_uri: str
    scope: Annotated[str, Field(pattern=r"\bopenid\b")]
    state: Annotated[str, Field(min_length=8, max_length=500)]
    nonce: Annotated[str, Field(min_length=8, max_length=500)]
    code_challenge: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{43}$")]
    code_challenge_method: Annotated[str, Field(pattern="^S256$")]


@dataclass(frozen=True, slots=True)
class Granted:
    wish: Wish
    subject: str
    until: float


granted: dict[str, Granted] = {}
"""By code. A code that was asked for again after a restart is just unknown."""


def _key(db: sqlite3.Connection) -> ec.EllipticCurvePrivateKey:
    row = db.execute("select pem from identity_keys").fetchone()
    if row is None:
        made = ec.generate_private_key(ec.SECP256R1())
        pem = made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        db.execute("insert into identity_keys values (?)", (pem,))
        return made
    found = load_pem_private_key(row["pem"], None)
    assert isinstance(found, ec.EllipticCurvePrivateKey)
    return found


def _public(key: ec.EllipticCurvePrivateKey) -> dict[str, Any]:
    public: dict[str, Any] = json.loads(ECAlgorithm.to_jwk(key.public_key()))
    return public | {"kid": public["x"][:16], "alg": "ES256", "use": "sig"}


def _known(wish: Wish, settings: Settings) -> Wish:
    """Raises HTTPException 400: a client that is not known is told here, never sent to where it says."""
    if wish.client_id != settings.identity_client_id or wish.redirect_uri != str(settings.identity_redirect_url):
        raise HTTPException(400, "the client or the address it wants to go back to is not known")
    return wish


@routes.get("/.well-known/openid-configuration")
async def configuration(request: Request, settings: Chosen) -> dict[str, Any]:
    """People are sent to the issuer's own address; programs go on asking where they asked this."""
    issuer, here = str(settings.identity_url).rstrip("/"), str(request.base_url).rstrip("/") + "/identity"
    return {
        "issuer": issuer,
        "authorization_endpoint": f"{issuer}/authorize",
        "token_endpoint": f"{here}/token",
        "jwks_uri": f"{here}/jwks",
        "end_session_endpoint": f"{issuer}/signed-out",
        "response_types_supported": ["code"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
        "code_challenge_methods_supported": ["S256"],
        "token_endpoint_auth_methods_supported": ["none"],
        "authorization_response_iss_parameter_supported": True,
    }


@routes.get("/jwks")
async def jwks(ledger: AtLedger) -> dict[str, Any]:
    return {"keys": [_public(await ledger.run(_key))]}


@routes.get("/authorize", response_class=HTMLResponse)
async def authorize(wish: Annotated[Wish, Query()], settings: Chosen) -> HTMLResponse:
    """Asks who one is."""
    _known(wish, settings)
    fields = "".join(
        f'<input type="hidden" name="{name}" value="{escape(value)}">' for name, value in wish.model_dump().items()
    )
    people = "".join(
        f'<p><button name="subject" value="{id}">{name}</button> {role}</p>' for id, (name, role) in PEOPLE.items()
    )
    return HTMLResponse(
        '<!doctype html><html lang="en"><meta name="viewport" content="width=device-width"><title>Who are you?</title>'
        f'<main><h1>Who are you?</h1><form method="post">{fields}{people}</form>'
        "<p>This is the sandbox's identity provider: it takes everybody at their word.</p></main></html>",
        headers=HEADERS,
    )


async def _form(request: Request) -> dict[str, str]:
    fields = parse_qs((await request.body()).decode("utf-8", "replace"), max_num_fields=20)
    return {name: values[0] for name, values in fields.items()}


@routes.post("/authorize", status_code=303, response_class=RedirectResponse)
async def sign_in(request: Request, settings: Chosen) -> RedirectResponse:
    form = await _form(request)
    wish = _known(Wish.model_validate(form), settings)
    if (subject := form.get("subject", "")) not in PEOPLE:
        raise HTTPException(400, "nobody of that name is known")
    now = time.monotonic()
    for code in [code for code, grant in granted.items() if grant.until < now]:
        del granted[code]
    code = secrets.token_urlsafe(24)
    granted[code] = Granted(wish, subject, now + CODE_SECONDS)
    back = {"code": code, "state": wish.state, "iss": str(settings.identity_url).rstrip("/")}
    return RedirectResponse(f"{wish.redirect_uri}?{urlencode(back)}", HTTPStatus.SEE_OTHER, HEADERS)


class TokensOut(BaseModel):
    access_token: str
    id_token: str
    token_type: str = Field(default="Bearer")
    expires_in: int


@routes.post("/token", response_model=TokensOut)
async def token(request: Request, ledger: AtLedger, settings: Chosen) -> Response | TokensOut:
    """A code for tokens, once, and only for who holds the secret that its challenge was made from."""
    form = await _form(request)
    grant = granted.pop(form.get("code", ""), None)
    challenge = base64.urlsafe_b64encode(sha256(form.get("code_verifier", "").encode()).digest()).rstrip(b"=").decode()
    if (
        grant is None
        or grant.until < time.monotonic()
        or form.get("grant_type") != "authorization_code"
        or (form.get("client_id"), form.get("redirect_uri")) != (grant.wish.client_id, grant.wish.redirect_uri)
        or not compare_digest(challenge, grant.wish.code_challenge)
    ):
        return Response('{"error": "invalid_grant"}', 400, HEADERS, "application/json")
    key = await ledger.run(_key)
    now, life = datetime.now(UTC), timedelta(minutes=settings.identity_minutes)
    name, role = PEOPLE[grant.subject]
    common = {"iss": str(settings.identity_url).rstrip("/"), "sub": grant.subject, "iat": now, "exp": now + life}
    about: dict[str, dict[str, Any]] = {
        "access_token": {"aud": settings.auth_audience, "roles": [role], "client_id": grant.wish.client_id},
        "id_token": {"aud": grant.wish.client_id, "nonce": grant.wish.nonce, "name": name},
    }
    signed = {
        kind: jwt.encode(common | claims, key, algorithm="ES256", headers={"kid": _public(key)["kid"]})
        for kind, claims in about.items()
    }
    return TokensOut(**signed, expires_in=int(life.total_seconds()))


@routes.get("/signed-out", response_class=HTMLResponse)
async def signed_out() -> HTMLResponse:
    text = '<!doctype html><html lang="en"><title>Signed out</title><main><h1>Signed out</h1></main></html>'
    return HTMLResponse(text, headers=HEADERS)
