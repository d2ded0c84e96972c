"""What the sandbox is told by its environment."""

from pathlib import Path
from typing import Annotated, Literal

from fastapi import Depends, Request
from pydantic import AnyHttpUrl, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.settings import WebhookSecret


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="OMS_", frozen=True)

    sandbox_data: Path
    kafka: str | None = None
    """Without it the warehouse neither hears nor tells, and the sandbox says that it is not ready."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    processor_key: SecretStr = Field(min_length=8)
    processor_webhook_secret: WebhookSecret
    payments_webhook_url: AnyHttpUrl = AnyHttpUrl("http://127.0.0.1:8002/webhooks/processor")
    sandbox_hang_seconds: float = Field(default=30, ge=0)
    """How long a call that is not to be answered keeps its caller waiting."""
    sandbox_late_seconds: float = Field(default=20, ge=0)
    sandbox_settle_seconds: float = Field(default=2, ge=0)
    sandbox_bounce_seconds: float = Field(default=2, ge=0)
    """0: only by the control call."""

    carrier_webhook_secret: WebhookSecret
    carrier_webhook_url: AnyHttpUrl = AnyHttpUrl("http://127.0.0.1:8003/webhooks/carrier")
    returns_webhook_url: AnyHttpUrl = AnyHttpUrl("http://127.0.0.1:8004/webhooks/carrier")
    sandbox_pace: float = Field(default=0, ge=0)
    """Seconds between two steps of a shipment; 0: only by hand."""
    sandbox_patience_seconds: float = Field(default=5, ge=0)
    """How long a call about a shipment waits for the system to tell what the call needs."""

    identity_url: AnyHttpUrl = AnyHttpUrl("http://127.0.0.1:8090/identity")
    """Where people reach the identity provider; the issuer in its tokens."""
    identity_client_id: str = "support-view"
    identity_redirect_url: AnyHttpUrl = AnyHttpUrl("http://127.0.0.1:8000/sign-in/back")
    identity_minutes: int = Field(default=480, ge=1)
    """How long one stays signed in."""
    auth_audience: str = "order-workflows"

    mail_webhook_secret: WebhookSecret
    mail_webhook_url: AnyHttpUrl = AnyHttpUrl("http://127.0.0.1:8005/webhooks/mail")
    sandbox_smtp_host: str = "127.0.0.1"
    sandbox_smtp_port: int = Field(default=8025, ge=0, le=65535)


async def _of_app(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


Chosen = Annotated[Settings, Depends(_of_app)]
