"""The system's own secrets: made once, kept in the state folder, readable by their owner only."""

import base64
import os
import secrets
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from ops.places import write_whole


class Keys(BaseModel):
    """Webhook secrets are in the `whsec_` form of Standard Webhooks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    auth_key: str
    processor_key: str
    processor_webhook_secret: str
    carrier_webhook_secret: str


def kept_keys(var: Path) -> Keys:
    """The keys in `var/secrets.json`, made now when there are none. `OMS_AUTH_KEY` goes before the stored one."""
    path = var / "secrets.json"
    if not path.exists():
        made = Keys(
            auth_key=secrets.token_urlsafe(32),
            processor_key=f"sk_{secrets.token_urlsafe(24)}",
            processor_webhook_secret=_webhook_secret(),
            carrier_webhook_secret=_webhook_secret(),
        )
        write_whole(path, made.model_dump_json(indent=2) + "\n")
    keys = Keys.model_validate_json(path.read_bytes())
    given = os.environ.get("OMS_AUTH_KEY")
    return keys.model_copy(update={"auth_key": given}) if given else keys


def _webhook_secret() -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
