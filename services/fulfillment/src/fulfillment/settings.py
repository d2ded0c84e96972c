"""What fulfillment is told by its environment beyond what every service is."""

from pydantic import Field

from shared.settings import Settings, WebhookSecret


class FulfillmentSettings(Settings):
    carrier_webhook_secret: WebhookSecret = Field(description="standardwebhooks, `whsec_…`")
