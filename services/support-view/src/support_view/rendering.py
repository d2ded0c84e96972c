"""How pages are rendered: templates, the words and colours in them, and the headers that keep a page to itself."""

import re
from collections.abc import Mapping
from datetime import datetime, timezone
from functools import cache
from typing import Any, Final
from urllib.parse import quote

from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined

from support_view.domain.timeline import day, plain, plural

POLICY: Final = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors "
)
HEADERS: Final = {
    "Content-Security-Policy": f"{POLICY}'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}

TONES: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        (
            "completed",
            "closed",
            "captured",
            "delivered",
            "filled",
            "succeeded",
            "resolved",
            "returned",
            "refunded",
            "won",
            "sent",
            "not_required",
        ),
        "good",
    ),
    **dict.fromkeys(
        (
            "cancel_pending",
            "held",
            "exception",
            "under_review",
            "pending_approval",
            "unknown",
            "partially_succeeded",
            "expired",
            "authorization_expired",
            "reopened",
            "returning_to_sender",
            "reversed",
            "suppressed",
        ),
        "warn",
    ),
    **dict.fromkeys(
        ("rejected", "declined", "lost", "failed", "attention", "returned_to_sender", "bounced", "expired_final"), "bad"
    ),
    **dict.fromkeys(("none", "cancelled", "voided", "created", "unfulfilled", "queued", "coalesced"), "idle"),
}
"""How a status is coloured; what is not named is under way."""


def tone(status: str | None) -> str:
    return TONES.get(status or "none", "busy")


def instant(at: datetime | None) -> str:
    """`24 Nov 2026, 14:03 UTC`."""
    return f"{day(at)}, {at.astimezone(timezone.utc):%H:%M} UTC" if at else "—"


def span(seconds: float) -> str:
    """The two largest parts of a duration: `19 days 4 hours`."""
    parts = []
    for size, noun in ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second")):
        count, seconds = divmod(int(seconds), size)
        if count:
            parts.append(plural(count, noun))
    return " ".join(parts[:2]) or "under a second"


def anchor(id: str) -> str:
    """An element id that is also a fragment."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", id)


_templates = Environment(
    loader=PackageLoader("support_view"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    auto_reload=False,
)
_templates.filters |= {
    "tone": tone,
    "plain": plain,
    "day": day,
    "instant": instant,
    "span": span,
    "plural": plural,
    "anchor": anchor,
    "path": lambda text: quote(text, safe=""),
}


@cache
def drawn(name: str) -> str:
    """An icon. A page has a hundred and more of them, of a dozen kinds."""
    icon: str = vars(_templates.get_template("icons.html").module)["icon"](name)
    return icon


_templates.globals["drawn"] = drawn


def page(name: str, status: int = 200, **content: Any) -> HTMLResponse:
    return HTMLResponse(_templates.get_template(name).render(**content), status, HEADERS)
