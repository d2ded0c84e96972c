"""What support-view is told by its environment beyond what every service is."""

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import Field, HttpUrl, SecretStr, model_validator

from shared.settings import Settings, WebhookSecret


@dataclass(frozen=True, slots=True)
class SignIn:
    """The page as a client of the identity provider."""

    issuer: str
    discovery_url: str
    client_id: str
    client_secret: str | None
    scope: str
    redirect_url: str


class SupportViewSettings(Settings):
    batch_records: int = Field(
        default=2000,
        ge=1,
        le=10_000,
        description="it reads all topics: the more of a section at once, the less it costs",
    )
    crm_webhook_secret: WebhookSecret = Field(description="`whsec_…`, shared with the CRM")
    identity_key: SecretStr = Field(
        min_length=32, description="key of the hashes that stand for customers in facts; changed, nobody is known again"
    )
    page_url: HttpUrl | None = Field(default=None, description="where people reach the page")
    sign_in_client_id: str | None = Field(
        default=None, description="the page's name at the provider of OMS_AUTH_ISSUER: people sign in there"
    )
    sign_in_client_secret: SecretStr | None = Field(default=None, description="where the provider wants one")
    sign_in_scope: str = Field(default="openid", pattern=r"\bopenid\b", description="with what brings the roles along")
    sign_in_discovery_url: HttpUrl | None = Field(
        default=None, description="where the provider publishes its endpoints, if not below its issuer"
    )
    orders_url: HttpUrl | None = Field(default=None, description="where what is done from the page is asked for")
    payments_url: HttpUrl | None = None
    fulfillment_url: HttpUrl | None = None
    returns_url: HttpUrl | None = None
    frame_ancestors: str = Field(
        default="",
        pattern=r"^(https?://[A-Za-z0-9.*:\[\]-]+( |$))*$",
        description="origins of the help desk that may show `/embed` in a frame, with blanks between; none: nobody",
    )

    @model_validator(mode="after")
    def _sign_in_is_whole(self) -> "SupportViewSettings":
        if self.sign_in_client_id and (self.provider is None or self.page_url is None):
            raise ValueError("OMS_SIGN_IN_CLIENT_ID needs OMS_AUTH_JWKS_URL and OMS_PAGE_URL beside it")
        return self

    @property
    def services(self) -> Mapping[str, str]:
        """Those that the page can ask to do something."""
        urls = {
            "orders": self.orders_url,
            "payments": self.payments_url,
            "fulfillment": self.fulfillment_url,
            "returns": self.returns_url,
        }
        return {name: str(url).rstrip("/") for name, url in urls.items() if url is not None}

    @property
    def sign_in(self) -> SignIn | None:
        """How people sign in by a provider, where one is set up."""
        if self.sign_in_client_id is None or self.provider is None or self.page_url is None:
            return None
        issuer, secret = self.provider.issuer, self.sign_in_client_secret
        return SignIn(
            issuer,
            str(self.sign_in_discovery_url or f"{issuer.rstrip('/')}/.well-known/openid-configuration"),
            self.sign_in_client_id,
            secret.get_secret_value() if secret else None,
            self.sign_in_scope,
            f"{str(self.page_url).rstrip('/')}/sign-in/back",
        )
