"""Who asks: bearer tokens (JWT, HS256 by the configured key) with a subject and roles; the subject is every fact's actor."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from enum import StrEnum

import jwt

ISSUER = "order-workflows"


class Role(StrEnum):
    STOREFRONT = "storefront"
    WAREHOUSE = "warehouse"
    AGENT = "agent"
    SUPERVISOR = "supervisor"
    OPERATOR = "operator"
    AUDITOR = "auditor"


class BadToken(Exception):
    """The token is forged, stale or not ours; the message says which, and nothing else."""


@dataclass(frozen=True, slots=True)
class Caller:
    subject: str
    roles: frozenset[Role]

    @property
    def actor(self) -> str:
        """`agent:anna`: the first of the caller's roles and who they are, as it stands in facts."""
        return f"{min(self.roles)}:{self.subject}"


def issue(key: str, *, subject: str, roles: Sequence[str], ttl: timedelta = timedelta(hours=8)) -> str:
    """Make a token. Raises ValueError for a role that does not exist."""
    now = datetime.now(timezone.utc)
    claims = {"iss": ISSUER, "sub": subject, "roles": sorted(Role(r) for r in roles), "iat": now, "exp": now + ttl}
    return jwt.encode(claims, key, algorithm="HS256")


def verify(key: str, token: str) -> Caller:
    """Raises BadToken."""
    try:
        claims = jwt.decode(
            token, key, algorithms=["HS256"], issuer=ISSUER, options={"require": ["exp", "sub", "iss"]}, leeway=5
        )
        roles = frozenset(Role(role) for role in claims.get("roles", ()))
    except jwt.ExpiredSignatureError:
        raise BadToken("the token has expired") from None
    except (jwt.InvalidTokenError, ValueError, TypeError):
        raise BadToken("the token is not valid") from None
    if not roles or not claims["sub"]:
        raise BadToken("the token names no role")
    return Caller(subject=claims["sub"], roles=roles)
