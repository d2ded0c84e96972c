"""The system's own secrets: made once, kept in the state folder, readable by their owner only."""

import base64
import json
import os
import secrets
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict

from ops.paths import write_whole


class Keys(BaseModel):
    """Webhook secrets are in the `whsec_` form of Standard Webhooks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    auth_key: str
    processor_key: str
    processor_webhook_secret: str
    carrier_webhook_secret: str
    mail_webhook_secret: str
    crm_webhook_secret: str
    identity_key: str


def kept_keys(var: Path) -> Keys:
    """The keys in `var/secrets.json`; those that are not there are made now. `OMS_AUTH_KEY` goes before the stored one."""
    path = var / "secrets.json"
    stored = json.loads(path.read_bytes()) if path.exists() else {}
    if missing := [name for name in Keys.model_fields if name not in stored]:
        stored |= {name: _MADE[name]() for name in missing}
        write_whole(path, json.dumps(stored, indent=2) + "\n")
    keys = Keys.model_validate(stored)
    given = os.environ.get("OMS_AUTH_KEY")
    return keys.model_copy(update={"auth_key": given}) if given else keys


def _key() -> str:
    return secrets.token_urlsafe(32)


def _webhook_secret() -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


_MADE: Final = {
    "auth_key": _key,
    "processor_key": lambda: f"sk_{secrets.token_urlsafe(24)}",
    "processor_webhook_secret": _webhook_secret,
    "carrier_webhook_secret": _webhook_secret,
    "mail_webhook_secret": _webhook_secret,
    "crm_webhook_secret": _webhook_secret,
    "identity_key": _key,
}
