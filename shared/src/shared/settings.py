"""Settings come from the environment only, prefix `OMS_`; a missing or bad one stops the process with its name."""

from base64 import b64decode, b64encode
from dataclasses import dataclass
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, HttpUrl, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

EXAMPLE: Final = "for-this-machine-only"
"""What every secret of the published demo says, in plain text or in base64: `ops/compose/demo.env`."""
_EXAMPLES: Final = (EXAMPLE, b64encode(EXAMPLE.encode()).decode())


@dataclass(frozen=True, slots=True)
class Provider:
    """An identity provider (OpenID Connect): where its keys are, and what its tokens must say."""

    jwks_url: str
    issuer: str
    audience: str
    roles_claim: str


def brokers_in(text: str) -> list[str]:
    """Return the addresses of a list as `OMS_KAFKA` writes it. FastStream takes a string for one address, whatever is in it."""
    return [address.strip() for address in text.split(",") if address.strip()]


def _is_long_enough(secret: SecretStr) -> SecretStr:
    try:
        key = b64decode(secret.get_secret_value().removeprefix("whsec_"), validate=True)
    except ValueError:
        raise ValueError("must be whsec_ and base64") from None
    if len(key) < SECRET_BYTES:
        raise ValueError(f"must be at least {SECRET_BYTES} random bytes in base64, whsec_ before them")
    return secret


SECRET_BYTES: Final = 16
WebhookSecret = Annotated[SecretStr, AfterValidator(_is_long_enough)]
"""As standardwebhooks writes one, `whsec_…`. An empty or a short one would let anybody sign."""


class Settings(BaseSettings):
    """Settings that every service needs. A service with more subclasses this."""

    model_config = SettingsConfigDict(env_prefix="OMS_", frozen=True, hide_input_in_errors=True)

    database_url: SecretStr = Field(description="this service's own database")
    database_direct_url: SecretStr | None = Field(
        default=None, description="where the relay connects; needed when database_url is a transaction pooler"
    )
    database_pool: int = Field(default=8, ge=2, le=100)
    statement_cache_size: int = Field(default=256, ge=0, description="0 behind a transaction pooler")
    statement_seconds: float = Field(default=30, gt=0, description="how long the database may take for one statement")
    lock_seconds: float = Field(
        default=1, ge=0.05, le=30, description="how long a row that another session holds is waited for"
    )
    kafka: str = Field(description="bootstrap servers, with commas between them")
    auth_key: SecretStr = Field(min_length=32, description="HS256 key of bearer tokens")
    auth_jwks_url: HttpUrl | None = Field(
        default=None, description="where an OpenID Connect provider publishes its keys; needs issuer and audience"
    )
    auth_issuer: str | None = Field(default=None, description="`iss` of the provider's tokens")
    auth_audience: str | None = Field(default=None, description="`aud` of the provider's tokens")
    auth_roles_claim: str = Field(default="roles", description="dotted path of their list of roles")
    demo: bool = Field(default=False, description="whether the published example secrets are taken")
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    traces_url: HttpUrl | None = Field(
        default=None, description="where spans go, by OTLP over HTTP (`…/v1/traces`); without it nothing is traced"
    )
    traces_share: float = Field(default=1, ge=0, le=1, description="of the traces that begin here")
    instance: str | None = Field(default=None, description="stable name of this replica: static group membership")
    batch_records: int = Field(default=1000, ge=1, le=10_000)
    max_poll_seconds: float = Field(
        default=300, gt=0, description="a batch that takes longer loses its partitions to another replica"
    )
    stuck_after_seconds: float = Field(
        default=120, gt=0, description="a consumer that lags and attempts nothing for this long ends the process"
    )

    @model_validator(mode="after")
    def _provider_is_whole(self) -> "Settings":
        if self.auth_jwks_url is not None and not (self.auth_issuer and self.auth_audience):
            raise ValueError("OMS_AUTH_JWKS_URL needs OMS_AUTH_ISSUER and OMS_AUTH_AUDIENCE beside it")
        return self

    @model_validator(mode="after")
    def _secrets_are_ones_own(self) -> "Settings":
        if not self.demo:
            for name in type(self).model_fields:
                secret = getattr(self, name)
                if isinstance(secret, SecretStr) and any(known in secret.get_secret_value() for known in _EXAMPLES):
                    raise ValueError(
                        f"OMS_{name.upper()} is an example that everybody knows: set your own, or OMS_DEMO=true for a demo"
                    )
        return self

    @property
    def provider(self) -> Provider | None:
        """Return the identity provider whose tokens are accepted beside ours."""
        if self.auth_jwks_url is None or self.auth_issuer is None or self.auth_audience is None:
            return None
        return Provider(str(self.auth_jwks_url), self.auth_issuer, self.auth_audience, self.auth_roles_claim)

    inbox_days: int = Field(
        default=90, ge=7, description="claims are kept so long; longer than any sender repeats a message after"
    )
    answers_days: int = Field(default=7, ge=7, description="idempotency keys and their answers are kept so long")
    settled_days: int = Field(
        default=365, ge=30, description="who redrove, discarded or released what, and why, is kept so long"
    )

    @property
    def brokers(self) -> list[str]:
        return brokers_in(self.kafka)

    @property
    def direct_url(self) -> str:
        return (self.database_direct_url or self.database_url).get_secret_value()
