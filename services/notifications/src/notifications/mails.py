"""The words of a message: plain text from a template, and from nothing but what the notifications of the order rest on."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from babel.dates import format_date
from jinja2 import Environment, PackageLoader, StrictUndefined

from notifications.domain import Notification, OrderNotifications
from shared.contracts.base import TenderKind
from shared.contracts.notifications import (
    Claim,
    LegMatter,
    NotificationKind,
    RecipientBasis,
    RefundMatter,
    ShipmentMatter,
)
from shared.contracts.payments import RefundChannel
from shared.money import format_minor

# Plain text: nothing is escaped, and nothing of it is ever shown as HTML.
_TEMPLATES: Final = Environment(
    loader=PackageLoader("notifications"),
    undefined=StrictUndefined,
    keep_trailing_newline=True,
    autoescape=False,  # noqa: S701
)

_TENDERS: Final = {
    TenderKind.CARD: "to your card",
    TenderKind.WALLET: "to your wallet",
    TenderKind.BANK_DEBIT: "to your bank account",
    TenderKind.BANK_TRANSFER: "to your bank account",
    TenderKind.GIFT_CARD: "to your gift card",
    TenderKind.STORE_CREDIT: "as store credit",
    TenderKind.CASH_ON_DELIVERY: "in cash",
    TenderKind.INVOICE: "on your invoice",
}


@dataclass(frozen=True, slots=True)
class Mail:
    """`to` is the address, `name` the person."""

    to: str
    name: str
    title: str
    text: str


def composed(state: OrderNotifications, notification: Notification) -> Mail:
    """The message as of what is known now. What it states of units and refunds is what was stored when it was queued."""
    recipient = state.recipient
    assert recipient is not None
    match notification.matter:
        case ShipmentMatter() as matter:
            title, words = _shipment(state, notification, matter, recipient)
        case RefundMatter() as matter:
            title, words = _refund(state, notification, matter)
    text = _TEMPLATES.get_template(f"{notification.kind}.txt").render(
        name=recipient.name, order_id=state.order_id, **words
    )
    return Mail(to=recipient.email, name=recipient.name, title=title, text=text)


def _shipment(
    state: OrderNotifications, notification: Notification, matter: ShipmentMatter, recipient: RecipientBasis
) -> tuple[str, dict[str, Any]]:
    said = notification.statements
    charged, in_all = state.charges.get(matter.shipment_id, 0), sum(state.charges.values())
    words = {
        "number": matter.number,
        "of": matter.of,
        "carrier": matter.carrier,
        "tracking": matter.tracking,
        "items": [{"title": state.title(u.line_id), "quantity": u.quantity} for u in matter.lines],
        "still_to_come": [
            part
            for s in said
            if s.claim is Claim.REMAINING and s.line_id is not None
            for part in _still_to_come(state, notification, s.line_id, s.quantity)
        ],
        "cancelled": [
            {"title": state.title(s.line_id), "quantity": s.quantity}
            for s in said
            if s.claim is Claim.CANCELLED and s.line_id is not None
        ],
        "charged": format_minor(charged, recipient.currency) if charged else "",
        "charged_in_all": format_minor(in_all, recipient.currency) if in_all else "",
    }
    which = f"Parcel {matter.number} of {matter.of} of" if matter.of > 1 else "The parcel of"
    return f"{which} your order {state.order_id} is on its way", words


def _still_to_come(
    state: OrderNotifications, notification: Notification, line_id: str, remaining: int
) -> list[dict[str, Any]]:
    """Why and when, for each part of a line: what waits for goods with its date, and what is being prepared."""
    parts = []
    title = state.title(line_id)
    for statement in notification.statements:
        if statement.claim is Claim.ETA and statement.line_id == line_id:
            why = (
                f"we wait for goods, expected on {_day(statement.at)}"
                if statement.at is not None
                else "we wait for goods, and will write when they have a date"
            )
            waiting = min(statement.quantity, remaining)
            parts.append({"title": title, "quantity": waiting, "why": why})
            remaining -= waiting
    if remaining:
        parts.append({"title": title, "quantity": remaining, "why": "is being prepared and follows in another parcel"})
    return parts


def _refund(state: OrderNotifications, notification: Notification, matter: RefundMatter) -> tuple[str, dict[str, Any]]:
    total = format_minor(sum(leg.amount_minor for leg in matter.legs), matter.currency)
    legs = [
        {
            "amount": format_minor(leg.amount_minor, matter.currency),
            "where": _where(leg),
            "promised_on": _day(leg.promised_at),
        }
        for leg in matter.legs
    ]
    verb = "is on its way" if notification.kind is NotificationKind.REFUND_SUBMITTED else "is complete"
    return f"Your refund of {total} for order {state.order_id} {verb}", {"total": total, "legs": legs}


def _where(leg: LegMatter) -> str:
    match leg.channel:
        case RefundChannel.STORE_CREDIT:
            return "as store credit"
        case RefundChannel.BANK_TRANSFER:
            return "to your bank account"
        case RefundChannel.ORIGINAL:
            return _TENDERS[leg.tender_kind]


def _day(at: datetime) -> str:
    return format_date(at, format="long", locale="en")
