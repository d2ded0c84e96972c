"""Settings of the returns service beyond every service's."""

from pydantic import Field

from shared.settings import Settings, WebhookSecret


class ReturnsSettings(Settings):
    evidence_bytes: int = Field(
        default=5_000_000, ge=1, le=50_000_000, description="how large a file of evidence may be"
    )
    evidence_files: int = Field(default=20, ge=1, le=200, description="how many of them a return or a claim may have")
    carrier_webhook_secret: WebhookSecret = Field(description="`whsec_…`, shared with the carrier")
