"""Settings of fulfillment beyond those of every service."""

from pydantic import Field

from shared.settings import Settings, WebhookSecret


class FulfillmentSettings(Settings):
    carrier_webhook_secret: WebhookSecret = Field(description="standardwebhooks, `whsec_…`")
    unmatched_scans_days: int = Field(
        default=90,
        ge=7,
        description="scans of numbers that no shipment has are kept so long; longer than a warehouse takes to tell of one",
    )
