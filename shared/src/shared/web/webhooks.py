"""Signed webhooks are verified here (standardwebhooks)."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import NAMESPACE_URL, uuid5

from fastapi import Depends, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from shared.core.card_numbers import masked
from shared.messaging.envelope import DEPTH, Cause, Undecodable, check_body

if TYPE_CHECKING:
    pass
from shared.web.middleware import trace

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class SignedBody:
    """A verified webhook: its id, and the bytes that were signed."""

    id: str
    body: bytes


def signed(secret: Callable[[Any], str]) -> Any:
    """Make a dependency: the raw body of a webhook whose signature holds (standardwebhooks, 300 s tolerance).

    `secret` picks the secret from the app's settings. 401 for a forged, stale or re-serialised one. The claim takes care of
    replays: the id comes back with the body, and the shell lets it have one effect.
    """

    async def check(request: Request) -> SignedBody:
        body = await request.body()
        try:
            Webhook(secret(request.app.state.settings)).verify(body, dict(request.headers))
        except WebhookVerificationError as error:
            raise HTTPException(401, f"webhook: {error}") from None
        except (ValueError, RecursionError):  # the signature holds; the library parses the body after it
            raise HTTPException(400, f"webhook: the body must be JSON that nests no deeper than {DEPTH}") from None
        try:
            check_body(body)  # whatever content type it was sent as
        except Undecodable as error:
            raise HTTPException(400, f"webhook: {error}") from None
        return SignedBody(id=request.headers["webhook-id"], body=body)

    return Depends(check)


def read_signed(model: type[M], signed_body: SignedBody) -> M:
    """Read the notice. Raises RequestValidationError, as for a body that the framework reads."""
    try:
        return model.model_validate_json(signed_body.body)
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from None


def webhook_cause(source: str, webhook_id: str, at: datetime, reason: str) -> Cause:
    """Return a webhook's cause: claimed by (source, id), so that a replay has no second effect."""
    return Cause(
        id=uuid5(NAMESPACE_URL, f"{source}|{webhook_id}"),
        at=at,
        actor=f"partner:{source}",
        reason=reason,
        correlation_id=masked(webhook_id),
        causation_id=masked(webhook_id),
        traceparent=trace.get(),
    )
