"""What fulfillment is told by its environment beyond what every service is."""

from pydantic import Field, SecretStr

from shared.settings import Settings


class FulfillmentSettings(Settings):
    carrier_webhook_secret: SecretStr = Field(description="standardwebhooks, `whsec_…`")
