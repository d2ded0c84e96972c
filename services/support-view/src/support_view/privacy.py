"""What a page shows of a person before somebody has a reason to see more."""

import re
from collections.abc import Mapping
from typing import Any, Final

from shared.contracts.orders import HIDDEN, masked_email
from support_view.summary import Customer

EMAIL: Final = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")
UNSEEN: Final = frozenset({"email", "street", "postal_code", "token"})
"""Fields of facts, at any depth, whose words are for nobody without a reason; a tender's token is for nobody at all."""


def masked(customer: Customer) -> Customer:
    """The e-mail by its first letter and its domain, the address by its last lines: city and country."""
    address = (HIDDEN, *(re.sub(r"^\S+", HIDDEN, line) for line in customer.ship_to[-2:-1]), *customer.ship_to[-1:])
    return customer.model_copy(update={"email": masked_email(customer.email), "ship_to": address, "is_masked": True})


def redacted(data: Any, name: str = "") -> Any:
    """A fact's data as it travelled, without what is `UNSEEN`."""
    match data:
        case Mapping():
            return {key: redacted(value, key) for key, value in data.items()}
        case list():
            return [redacted(value, name) for value in data]
        case str() if name in UNSEEN:
            return masked_email(data) if name == "email" else HIDDEN
        case _:
            return data
