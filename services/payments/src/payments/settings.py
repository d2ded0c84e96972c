"""Settings of payments beyond those of every service."""

from pydantic import AnyHttpUrl, Field, SecretStr

from shared.settings import Settings, WebhookSecret


class PaymentsSettings(Settings):
    processor_url: AnyHttpUrl
    processor_key: SecretStr
    processor_webhook_secret: WebhookSecret = Field(description="standardwebhooks, `whsec_…`")
    processor_timeout_seconds: float = Field(
        default=3, gt=0, le=20, description="a call unanswered for this long has an unknown outcome"
    )
    reconciliation_seconds: float = Field(
        default=300, gt=0, le=86_400, description="from the end of a comparison with the processor's books to the next"
    )
    processor_calls: int = Field(default=32, ge=1, le=500, description="calls to the processor at the same time")
