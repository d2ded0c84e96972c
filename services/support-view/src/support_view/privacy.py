"""What a page shows of a person before somebody has a reason to see more."""

import re
from typing import Final

from support_view.summary import Customer

EMAIL: Final = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")
HIDDEN: Final = "•••"


def masked(customer: Customer) -> Customer:
    """The e-mail by its first letter and its domain, the address by its last lines: city and country."""
    name, _, domain = customer.email.rpartition("@")
    address = (HIDDEN, *(re.sub(r"^\S+", HIDDEN, line) for line in customer.ship_to[-2:-1]), *customer.ship_to[-1:])
    return customer.model_copy(update={"email": f"{name[:1]}{HIDDEN}@{domain}", "ship_to": address, "is_masked": True})
