"""Dependencies of routes that say who calls, by a bearer token."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import structlog
from fastapi import Depends, HTTPException, Request
from fastapi.security import HTTPBearer
from fastapi.security.base import SecurityBase

from shared.web import auth
from shared.web.auth import Caller, Role

if TYPE_CHECKING:
    pass
from shared.web.problems import RETRY_AFTER

_bearer = HTTPBearer(auto_error=False, description="a token with a role; `oms token` makes one")


def tokens_of(request: Request) -> auth.Tokens:
    found: auth.Tokens = request.app.state.tokens
    return found


class _Needs(SecurityBase):
    """It finds the caller by a bearer token: 401 without a valid one, 403 without one of the roles."""

    def __init__(self, roles: Sequence[Role]) -> None:
        self.model, self.scheme_name = _bearer.model, _bearer.scheme_name
        self._roles = frozenset(roles)

    async def __call__(self, request: Request) -> Caller:
        credentials = await _bearer(request)
        challenge = {"WWW-Authenticate": "Bearer"}
        if credentials is None:
            raise HTTPException(401, "a bearer token is required", challenge)
        try:
            who = await tokens_of(request).verify(credentials.credentials)
        except auth.BadToken as error:
            raise HTTPException(401, str(error), challenge) from None
        except auth.KeysAway as error:
            raise HTTPException(503, str(error), {"Retry-After": str(RETRY_AFTER)}) from None
        structlog.contextvars.bind_contextvars(actor=who.actor)
        if who.roles.isdisjoint(self._roles):
            raise HTTPException(403, f"needs one of the roles {', '.join(sorted(self._roles))}")
        return who


def needs(*roles: Role) -> Any:
    """Make a dependency: the caller, who has one of these roles."""
    return Depends(_Needs(roles))
