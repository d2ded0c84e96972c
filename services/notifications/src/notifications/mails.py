"""The words of a message: text and HTML from one template a kind, and from nothing but what the notifications of the
order rest on. English, with figures and dates as the customer's locale writes them."""

import re
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any, Final

from babel import Locale, UnknownLocaleError
from babel.dates import format_date, format_time
from jinja2 import Environment, PackageLoader, StrictUndefined

from notifications.domain.messages import Notification, OrderNotifications
from shared.contracts.base import LineQuantity, TenderKind
from shared.contracts.notifications import (
    BackorderMatter,
    CancellationMatter,
    Claim,
    Corrected,
    LegMatter,
    NotificationKind,
    OrderMatter,
    ParcelMatter,
    RecipientBasis,
    RefundMatter,
    ReturnedUnits,
    ReturnMatter,
    ShipmentMatter,
)
from shared.contracts.orders import BackorderChoice
from shared.contracts.payments import RefundChannel
from shared.contracts.returns import InspectionOutcome
from shared.money import format_minor

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

_CHOICES: Final = {
    BackorderChoice.WAIT: "wait for it",
    BackorderChoice.CANCEL: "cancel it",
    BackorderChoice.SUBSTITUTE: "take something else instead",
    BackorderChoice.SHIP_AVAILABLE: "have us ship what is there",
}

_SILENCE: Final = {
    BackorderChoice.WAIT: "we keep it on order for you",
    BackorderChoice.CANCEL: "we cancel it for you",
    BackorderChoice.SUBSTITUTE: "we replace it for you",
    BackorderChoice.SHIP_AVAILABLE: "we ship what is there",
}

_OUTCOMES: Final = {
    InspectionOutcome.AS_NEW: "as new",
    InspectionOutcome.OPENED: "opened",
    InspectionOutcome.DEFECTIVE: "defective",
    InspectionOutcome.CUSTOMER_DAMAGE: "damaged",
    InspectionOutcome.INCOMPLETE: "incomplete",
    InspectionOutcome.WRONG_ITEM: "not the item you bought",
    InspectionOutcome.COUNTERFEIT: "not the item you bought",
    InspectionOutcome.NOT_IN_BOX: "not in the box",
    InspectionOutcome.EXTRA_ITEM: "not part of this return",
}

_PARCELS: Final = {
    "delivered": "has arrived",
    "delayed": "is delayed",
    "attempted": "could not be handed to you",
    "address": "is held up: the address is not clear",
    "customs": "is held up by customs",
    "damaged": "was damaged on its way",
    "not_received": "is being looked for",
    "lost": "was lost on its way",
    "found": "was found again, and is on its way",
    "returned": "came back to us",
}

_REFUNDS: Final = {
    NotificationKind.REFUND_SUBMITTED: "is on its way",
    NotificationKind.REFUND_COMPLETED: "is complete",
    NotificationKind.REFUND_FAILED: "could not be paid out",
    NotificationKind.REFUND_REROUTED: "takes another way",
}

_RETURNS: Final = {
    NotificationKind.RETURN_APPROVED: "is approved",
    NotificationKind.RETURN_DECLINED: "cannot be accepted",
    NotificationKind.RETURN_RECEIVED: "has arrived",
    NotificationKind.RETURN_INSPECTED: "has been inspected",
    NotificationKind.RETURN_EXPIRED: "has expired",
}

_GAPS: Final = re.compile(r"\n{3,}")
_BLANKS: Final = re.compile(r"[ \t\n]+")
"""Not those that keep an amount and its currency on one line."""


def _line(text: object) -> str:
    return _BLANKS.sub(" ", str(text)).strip()


def _paragraph(text: object) -> str:
    return textwrap.fill(_line(text), 76, break_long_words=False, break_on_hyphens=False)


@cache
def _environment(form: str) -> Environment:
    """Templates of kinds call the parts `m`, which are made once for text and once for HTML."""
    environment = Environment(
        loader=PackageLoader("notifications"),
        undefined=StrictUndefined,
        autoescape=form == "html",  # noqa: S701  # plain text is never shown as HTML
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters |= {"line": _line, "paragraph": _paragraph}
    environment.globals["m"] = environment.get_template(f"parts.{form}").module
    return environment


@dataclass(frozen=True, slots=True)
class Mail:
    """`to` is the address, `name` the person."""

    to: str
    name: str
    title: str
    text: str
    html: str


@dataclass(frozen=True, slots=True)
class _Writer:
    """What the words of one message are made of; figures as the customer's locale writes them."""

    state: OrderNotifications
    notification: Notification
    recipient: RecipientBasis
    locale: Locale

    def money(self, minor: int, currency: str | None = None) -> str:
        return format_minor(minor, currency or self.recipient.currency, str(self.locale))

    def day(self, at: datetime) -> str:
        return format_date(at, format="medium", locale=self.locale)

    def moment(self, at: datetime) -> str:
        return f"{self.day(at)}, {format_time(at, format='short', locale=self.locale)} UTC"

    def item(self, quantity: int, line_id: str, note: str = "") -> dict[str, Any]:
        return {"quantity": quantity, "title": self.state.title(line_id), "note": note}

    def items(self, lines: tuple[LineQuantity, ...]) -> list[dict[str, Any]]:
        return [self.item(u.quantity, u.line_id) for u in lines]

    def remaining(self) -> list[dict[str, Any]]:
        """What the message states is still to come: why and when, for each part of a line."""
        return [
            part
            for s in self.notification.statements
            if s.claim is Claim.REMAINING and s.line_id is not None
            for part in self._parts(s.line_id, s.quantity)
        ]

    def _parts(self, line_id: str, remaining: int) -> Iterator[dict[str, Any]]:
        for statement in self.notification.statements:
            if statement.claim is Claim.ETA and statement.line_id == line_id:
                why = (
                    f"we wait for goods, expected on {self.day(statement.at)}"
                    if statement.at is not None
                    else "we wait for goods, and will write when they have a date"
                )
                waiting = min(statement.quantity, remaining)
                yield self.item(waiting, line_id, why)
                remaining -= waiting
        if remaining:
            yield self.item(remaining, line_id, "is being prepared")


def composed(state: OrderNotifications, notification: Notification) -> Mail:
    """The message as of what is known now. What it states of units and refunds is what was stored with it."""
    recipient = state.recipient
    assert recipient is not None
    writer = _Writer(state, notification, recipient, _locale(recipient.locale))
    subject, words = _WORDS[type(notification.matter)](writer, notification.matter)
    title = _line(f"Correction: {subject}" if notification.corrects else subject)
    words |= {
        "kind": notification.kind,
        "name": recipient.name,
        "order_id": state.order_id,
        "title": title,
        "headline": subject,
        "corrections": [_correction(writer, c) for c in notification.corrects],
    }
    template = f"{str(notification.kind).partition('_')[0]}.j2"
    text, html = (_rendered(form, template, words) for form in ("txt", "html"))
    return Mail(to=recipient.email, name=recipient.name, title=title, text=text, html=html)


def _rendered(form: str, template: str, words: dict[str, Any]) -> str:
    environment = _environment(form)
    body = environment.get_template(template).render(words)
    whole = environment.get_template(f"mail.{form}").render(words | {"body": body.strip()}).strip() + "\n"
    return _GAPS.sub("\n\n", whole) if form == "txt" else whole


@cache
def _locale(name: str) -> Locale:
    """English where the name is none that figures are known for."""
    try:
        return Locale.parse(name, sep="-")
    except (UnknownLocaleError, ValueError):
        return Locale("en")


def _correction(writer: _Writer, corrected: Corrected) -> str:
    """What was told, as it was told."""
    said = corrected.statement
    what = f"{said.quantity} × {writer.state.title(said.line_id)}" if said.line_id is not None else ""
    match said.claim:
        case Claim.ETA:
            said_of_it = f"is expected on {writer.day(said.at)}" if said.at else "has no date yet"
        case Claim.REMAINING:
            said_of_it = "is still to come"
        case Claim.DELIVERED:
            said_of_it = "has arrived"
        case Claim.REFUND_SUBMITTED | Claim.REFUNDED:
            what = writer.money(said.amount_minor or 0, said.currency)
            said_of_it = "was on its way to you" if said.claim is Claim.REFUND_SUBMITTED else "was paid back to you"
        case _:
            said_of_it = f"is {said.claim}"
    written = writer.state.notifications[corrected.notification_id].queued_at
    return f"On {writer.day(written)} we wrote that {what} {said_of_it}. That is not so any more."


def _order(writer: _Writer, matter: OrderMatter) -> tuple[str, dict[str, Any]]:
    recipient, id = writer.recipient, writer.state.order_id
    words = {
        "items": [writer.item(line.quantity, line.line_id, writer.money(line.goods_minor)) for line in recipient.lines],
        "shipping": writer.money(recipient.shipping_minor) if recipient.shipping_minor else "",
        "total": writer.money(recipient.total_minor),
        "reason": matter.reason_code or "",
    }
    return f"Your order {id} could not be accepted" if matter.reason_code else f"Your order {id} is confirmed", words


def _shipment(writer: _Writer, matter: ShipmentMatter) -> tuple[str, dict[str, Any]]:
    state = writer.state
    charged, in_all = state.charges.get(matter.shipment_id, 0), sum(state.charges.values())
    words = {
        "number": matter.number,
        "of": matter.of,
        "carrier": matter.carrier,
        "tracking": matter.tracking,
        "items": writer.items(matter.lines),
        "remaining": writer.remaining(),
        "cancelled": [
            writer.item(s.quantity, s.line_id)
            for s in writer.notification.statements
            if s.claim is Claim.CANCELLED and s.line_id is not None
        ],
        "charged": writer.money(charged) if charged else "",
        "charged_in_all": writer.money(in_all) if in_all else "",
    }
    which = f"Parcel {matter.number} of {matter.of} of" if matter.of > 1 else "The parcel of"
    return f"{which} your order {state.order_id} is on its way", words


def _backorder(writer: _Writer, matter: BackorderMatter) -> tuple[str, dict[str, Any]]:
    [said] = writer.notification.statements
    words = {
        "item": writer.item(said.quantity, matter.line_id),
        "eta": writer.day(said.at) if said.at else "",
        "previous": writer.day(matter.previous_eta) if matter.previous_eta else "",
        "options": [_CHOICES[option] for option in matter.options],
        "due": writer.moment(matter.due_at) if matter.due_at else "",
        "silence": _SILENCE[matter.silence] if matter.silence else "",
    }
    what = f"{said.quantity} × {writer.state.title(matter.line_id)} of your order {writer.state.order_id}"
    if writer.notification.kind is NotificationKind.BACKORDER:
        return f"Not in stock just now: {what}", words
    return f"Please choose: {what}" if matter.options else f"New date for {what}", words


def _parcel(writer: _Writer, matter: ParcelMatter) -> tuple[str, dict[str, Any]]:
    words = {"what": matter.what, "items": writer.items(matter.lines), "tracking": matter.tracking or ""}
    which = "The parcel" if matter.tracking is None else f"Parcel {matter.tracking}"
    return f"{which} of your order {writer.state.order_id} {_PARCELS[matter.what]}", words


def _cancellation(writer: _Writer, matter: CancellationMatter) -> tuple[str, dict[str, Any]]:
    worth = writer.state.cancellations.get(matter.cancellation_id)
    charged = sum(writer.state.charges.values())
    words = {
        "items": writer.items(matter.lines),
        "remaining": writer.remaining(),
        "worth": writer.money(worth.worth_minor) if worth else "",
        "left": writer.money(worth.remaining_minor) if worth and worth.remaining_minor else "",
        "charged": writer.money(charged) if charged else "",
    }
    is_all = not any(units.owed > units.cancelled for units in writer.state.units.values())
    id = writer.state.order_id
    return f"Your order {id} is cancelled" if is_all else f"Part of your order {id} is cancelled", words


def _return(writer: _Writer, matter: ReturnMatter) -> tuple[str, dict[str, Any]]:
    known = writer.state.returns.get(matter.return_id)
    words = {
        "return_id": matter.return_id,
        "items": [writer.item(u.quantity, u.line_id, _found(u)) for u in matter.lines],
        "reasons": matter.reasons,
        "expires": writer.day(matter.expires_at) if matter.expires_at else "",
        "complete": matter.complete,
        "label": known.label if known else "",
        "declined": known.declined if known else (),
    }
    kind = writer.notification.kind
    is_part = kind is NotificationKind.RETURN_RECEIVED and not matter.complete
    which = "Part of your return" if is_part else "Your return"
    return f"{which} {matter.return_id} {_RETURNS[kind]}", words


def _found(units: ReturnedUnits) -> str:
    if units.outcome is None:
        return ""
    back = f"{units.refund_percent} % of its price is paid back" if units.refund_percent else "nothing is paid back"
    fee = f", less a fee of {units.fee_percent} %" if units.fee_percent else ""
    return f"{_OUTCOMES[units.outcome]}; {back}{fee}"


def _refund(writer: _Writer, matter: RefundMatter) -> tuple[str, dict[str, Any]]:
    kind = writer.notification.kind
    is_failed = kind is NotificationKind.REFUND_FAILED
    total = writer.money(
        sum(leg.amount_minor for leg in (matter.failed if is_failed else matter.legs)), matter.currency
    )

    is_done = kind is NotificationKind.REFUND_COMPLETED

    def row(leg: LegMatter, what: str) -> tuple[str, str]:
        return f"{writer.money(leg.amount_minor, matter.currency)} {_where(leg)}", what

    legs = [row(leg, "paid" if is_done else f"expected by {writer.day(leg.promised_at)}") for leg in matter.legs]
    failed = [row(leg, "could not be paid out") for leg in matter.failed]
    words = {"total": total, "legs": legs + failed}
    return f"Your refund of {total} for order {writer.state.order_id} {_REFUNDS[kind]}", words


def _where(leg: LegMatter) -> str:
    match leg.channel:
        case RefundChannel.STORE_CREDIT:
            return "as store credit"
        case RefundChannel.BANK_TRANSFER:
            return "to your bank account"
        case RefundChannel.ORIGINAL:
            return _TENDERS[leg.tender_kind]


_WORDS: Final[dict[type, Callable[[_Writer, Any], tuple[str, dict[str, Any]]]]] = {
    OrderMatter: _order,
    ShipmentMatter: _shipment,
    BackorderMatter: _backorder,
    ParcelMatter: _parcel,
    CancellationMatter: _cancellation,
    ReturnMatter: _return,
    RefundMatter: _refund,
}
