"""What payments is told by its environment beyond what every service is."""

from pydantic import AnyHttpUrl, Field, SecretStr

from shared.settings import Settings


class PaymentsSettings(Settings):
    processor_url: AnyHttpUrl
    processor_key: SecretStr
    processor_webhook_secret: SecretStr = Field(description="standardwebhooks, `whsec_…`")
    processor_timeout_seconds: float = Field(
        default=3, gt=0, le=20, description="a call unanswered for this long has an unknown outcome"
    )
    processor_calls: int = Field(default=32, ge=1, le=500, description="calls to the processor at the same time")
