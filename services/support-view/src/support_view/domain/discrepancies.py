"""What a partner says has happened and the plan has not (I16): kept until somebody has looked at what it means."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Discrepancy:
    """`contradicts` is a code; `about` is what it is about, as the page anchors it."""

    at: datetime
    contradicts: str
    detail: str
    about: str


Discrepancies = Mapping[str, Discrepancy]
"""By id."""
