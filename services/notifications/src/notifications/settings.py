"""Settings of notifications beside those of every service."""

from urllib.parse import urlsplit

from pydantic import EmailStr, Field, field_validator

from shared.settings import Settings, WebhookSecret


class NotificationsSettings(Settings):
    smtp_url: str = Field(description="smtp://host:port, or smtps://user:password@host:port")
    mail_from: EmailStr = "orders@shop.example"
    mail_webhook_secret: WebhookSecret = Field(description="`whsec_…`, shared with the mail provider")
    smtp_timeout_seconds: float = Field(default=10, gt=0)

    @field_validator("smtp_url")
    @classmethod
    def _has_host(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("smtp", "smtps") or not parts.hostname:
            raise ValueError("must be smtp://host:port or smtps://host:port")
        return url
