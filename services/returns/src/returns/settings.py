"""Settings of the returns service beyond every service's."""

from pydantic import Field, SecretStr

from shared.settings import Settings


class ReturnsSettings(Settings):
    carrier_webhook_secret: SecretStr = Field(min_length=8, description="`whsec_…`, shared with the carrier")
