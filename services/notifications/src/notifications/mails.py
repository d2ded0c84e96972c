"""The words of a message: text and HTML from one template a kind, and from nothing but what the notifications of the
order rest on. English, with figures and dates as the customer's locale writes them."""

import re
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any, Final

from babel import Locale, UnknownLocaleError
from babel.dates import format_date, format_time
from jinja2 import Environment, PackageLoader, StrictUndefined

from notifications.domain.state import Notification, OrderNotifications, Status
from shared.contracts.base import PREPAID, LineQuantity, TenderKind
from shared.contracts.fulfillment import SubstitutedUnits
from shared.contracts.notifications import (
    AddressContent,
    BackorderContent,
    CancellationContent,
    Claim,
    ClaimContent,
    Corrected,
    DueContext,
    HoldContent,
    LegContent,
    NotificationKind,
    OrderContent,
    ParcelContent,
    RecipientContext,
    RecoveryContent,
    RefundContent,
    ReturnContent,
    ReturnedUnits,
    ShipmentContent,
)
from shared.contracts.orders import BackorderChoice, Hold
from shared.contracts.payments import RefundChannel
from shared.contracts.returns import InspectionOutcome, Resolution
from shared.core.money import format_minor

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

_ON_ACCOUNT: Final = frozenset({TenderKind.CASH_ON_DELIVERY, TenderKind.INVOICE})
"""Tenders that the customer pays later than we book them."""

_OWNED: Final = {TenderKind.GIFT_CARD: "gift card", TenderKind.STORE_CREDIT: "store credit"}

_HOLDS: Final = {
    Hold.PAYMENT: "waits for a payment",
    Hold.ADDRESS: "waits for your address",
    Hold.AWAITING_RETURN: "waits for your return",
}

_WAITS: Final = {
    Hold.PAYMENT: "It waits until its payment goes through: please reply to this mail with another way to pay.",
    Hold.ADDRESS: "It waits until we know where to send it: please reply to this mail with your whole address.",
    Hold.AWAITING_RETURN: "It waits until what you send back has arrived.",
    Hold.CUSTOMER_CONSENT: "It waits until you have answered what we asked about its date.",
}

_MONEY: Final = frozenset({None, Resolution.REFUND, Resolution.STORE_CREDIT, Resolution.KEEP_IT})
"""Resolutions that pay money back; None: of a return whose request was not heard."""

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
    "old_label": "left with the old address",
}

_REFUNDS: Final = {
    NotificationKind.REFUND_SUBMITTED: "is on its way",
    NotificationKind.REFUND_COMPLETED: "is complete",
    NotificationKind.REFUND_FAILED: "could not be paid out",
    NotificationKind.REFUND_REROUTED: "takes another way",
    NotificationKind.REFUND_DECLINED: "is not paid",
}

_RETURNS: Final = {
    NotificationKind.RETURN_REQUESTED: "was asked for",
    NotificationKind.RETURN_REVIEWED: "is being looked at",
    NotificationKind.RETURN_CANCELLED: "is called off",
    NotificationKind.RETURN_APPROVED: "is approved",
    NotificationKind.RETURN_DECLINED: "cannot be accepted",
    NotificationKind.RETURN_RECEIVED: "has arrived",
    NotificationKind.RETURN_INSPECTED: "has been inspected",
    NotificationKind.RETURN_EXPIRED: "has expired",
    NotificationKind.RETURN_CLOSED: "is closed",
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


LONGEST_SUBJECT: Final = 78
"""Characters: what mail programs show of one, and what needs no second line in a header."""


@dataclass(frozen=True, slots=True)
class _Subject:
    """`text` names `values`, of which the longest are shortened where a subject has no room for all of them."""

    text: str
    values: Mapping[str, object]

    def whole(self) -> str:
        return self.text.format(**{name: _line(value) for name, value in self.values.items()})

    def within(self, most: int) -> str:
        whole = self.whole()
        lines = {name: _line(value) for name, value in self.values.items()}
        room = most - (len(whole) - sum(map(len, lines.values())))
        longest = max(map(len, lines.values()))
        while sum(min(len(line), longest) for line in lines.values()) > room and longest > 1:
            longest -= 1
        short = {name: line if len(line) <= longest else line[: longest - 1] + "…" for name, line in lines.items()}
        return self.text.format(**short)


@dataclass(frozen=True, slots=True)
class _Writer:
    """What the words of one message are made of; figures as the customer's locale writes them."""

    state: OrderNotifications
    notification: Notification
    recipient: RecipientContext
    locale: Locale

    def money(self, minor: int, currency: str | None = None) -> str:
        return format_minor(minor, currency or self.recipient.currency, str(self.locale))

    def day(self, at: datetime) -> str:
        return format_date(at, format="medium", locale=self.locale)

    def moment(self, at: datetime) -> str:
        return f"{self.day(at)}, {format_time(at, format='short', locale=self.locale)} UTC"

    def item(self, quantity: int, line_id: str, note: str = "") -> dict[str, Any]:
        return {"quantity": quantity, "title": self.state.title(line_id), "note": note}

    def items(
        self, lines: tuple[LineQuantity, ...], substituted: tuple[SubstitutedUnits, ...] = ()
    ) -> list[dict[str, Any]]:
        """Each article by its own title; one that goes instead of another names both."""
        found = []
        for u in lines:
            others = [other for other in substituted if other.line_id == u.line_id]
            as_ordered = u.quantity - sum(other.quantity for other in others)
            if as_ordered > 0:
                found.append(self.item(as_ordered, u.line_id))
        for other in substituted:
            instead = f"instead of {self.state.title(other.line_id)}"
            if other.unit_price_minor is not None:
                instead += f", for {self.money(other.unit_price_minor)} each"
            found.append({"quantity": other.quantity, "title": other.title or other.sku, "note": instead})
        return found

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
            yield self.item(remaining, line_id, "waits" if self.state.holds else "is being prepared")

    def under_way(self) -> list[dict[str, Any]]:
        """What left and has not ended anywhere."""
        units = self.state.units.items()
        return [self.item(u.under_way, line_id) for line_id, u in units if u.under_way]

    def waits(self) -> list[str]:
        """What keeps what is still to come from leaving, and is the customer's to do."""
        return [_WAITS[hold] for hold in sorted(self.state.holds) if hold in _WAITS]

    def kinds(self) -> set[TenderKind]:
        """By what the order is paid; none where it is not known."""
        return {tender.kind for tender in self.recipient.tenders}

    def charged(self, shipment_id: str | None = None) -> dict[TenderKind | None, int]:
        """What was charged for a shipment, or in all, by the kind of what it was charged to; None: not known to what."""
        kinds = {tender.tender_id: tender.kind for tender in self.recipient.tenders}
        charged: dict[TenderKind | None, int] = {}
        for id, minor in self.state.charges.items():
            if shipment_id in (None, id):
                to = self.state.charges_to.get(id, {})
                parts = [(kinds.get(tender_id), part) for tender_id, part in to.items()]
                for kind, part in [*parts, (None, minor - sum(to.values()))]:
                    charged[kind] = charged.get(kind, 0) + part
        return charged


def composed(state: OrderNotifications, notification: Notification) -> Mail:
    """The message as of what is known now. What it states of units and refunds is what was stored with it."""
    recipient = state.recipient
    assert recipient is not None
    writer = _Writer(state, notification, recipient, _locale(recipient.locale))
    subject, words = _WORDS[type(notification.matter)](writer, notification.matter)
    prefix = "Correction: " if notification.corrects else ""
    title = prefix + subject.within(LONGEST_SUBJECT - len(prefix))
    words |= {
        "kind": notification.kind,
        "name": recipient.name,
        "order_id": state.order_id,
        "title": title,
        "headline": subject.whole(),
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


def _order(writer: _Writer, matter: OrderContent) -> tuple[_Subject, dict[str, Any]]:
    recipient, id = writer.recipient, writer.state.order_id
    words = {
        "items": [writer.item(line.quantity, line.line_id, writer.money(line.goods_minor)) for line in recipient.lines],
        "shipping": writer.money(recipient.shipping_minor) if recipient.shipping_minor else "",
        "total": writer.money(recipient.total_minor),
        "reason": matter.reason_code or "",
        "paying": list(_paying(writer)),
    }
    what = "could not be accepted" if matter.reason_code else "is confirmed"
    return _Subject(f"Your order {{order}} {what}", {"order": id}), words


def _paying(writer: _Writer) -> Iterator[str]:
    """How the order is paid, and when: tender by tender where it is more than one."""
    sums: dict[TenderKind, int] = {}
    for tender in writer.recipient.tenders:
        sums[tender.kind] = sums.get(tender.kind, 0) + tender.amount_minor
    by_parcel = sum(minor for kind, minor in sums.items() if kind not in PREPAID | _ON_ACCOUNT)
    for kind, minor in sums.items():
        amount = writer.money(minor)
        if kind in PREPAID:
            yield f"{amount} is taken from your {_OWNED[kind]} at once."
        elif kind is TenderKind.CASH_ON_DELIVERY:
            yield f"You pay {amount} when it is handed to you, parcel by parcel."
        elif kind is TenderKind.INVOICE:
            yield f"You pay {amount} by invoice."
    if by_parcel and by_parcel == sum(sums.values()):
        yield "Each parcel is charged when it leaves."
    elif by_parcel:
        yield f"{writer.money(by_parcel)} is charged parcel by parcel, when each leaves."


def _when_paid(writer: _Writer) -> str:
    """When what has not left yet is paid."""
    kinds = writer.kinds()
    owned = " and ".join(_OWNED[kind] for kind in _OWNED if kind in kinds)
    later = kinds - PREPAID
    if not kinds:
        return ""
    if not later:
        return f"It is paid with your {owned}."
    what = f"What your {owned} does not cover" if owned else "It"
    if later == {TenderKind.CASH_ON_DELIVERY}:
        return f"{what} is paid when it is handed to you."
    if later == {TenderKind.INVOICE}:
        return f"{what} is paid by invoice."
    if later & _ON_ACCOUNT:
        return f"{what} is not charged before it leaves."
    return f"{what} is charged when it leaves, and not before."


def _charged(writer: _Writer, shipment_id: str) -> Iterator[str]:
    """What was charged for a parcel and so far, and what of it is paid later."""
    of_it, in_all = writer.charged(shipment_id), writer.charged()
    now = sum(minor for kind, minor in of_it.items() if kind not in _ON_ACCOUNT)
    so_far = sum(minor for kind, minor in in_all.items() if kind not in _ON_ACCOUNT)
    if now:
        yield f"For this parcel we charged {writer.money(now)}; for the whole order so far, {writer.money(so_far)}."
    elif so_far:
        yield f"For this parcel nothing more has been charged so far; for the whole order, {writer.money(so_far)}."
    elif not writer.kinds() & _ON_ACCOUNT:
        yield "Nothing has been charged for this order yet."
    if cash := of_it.get(TenderKind.CASH_ON_DELIVERY):
        yield f"You pay {writer.money(cash)} when it is handed to you."
    if invoiced := of_it.get(TenderKind.INVOICE):
        yield f"You pay {writer.money(invoiced)} for it by invoice."


def _shipment(writer: _Writer, matter: ShipmentContent) -> tuple[_Subject, dict[str, Any]]:
    words = {
        "number": matter.number,
        "of": matter.of,
        "carrier": matter.carrier,
        "tracking": matter.tracking,
        "items": writer.items(matter.lines, matter.substituted),
        "remaining": writer.remaining(),
        "waits": writer.waits(),
        "cancelled": [
            writer.item(s.quantity, s.line_id)
            for s in writer.notification.statements
            if s.claim is Claim.CANCELLED and s.line_id is not None
        ],
        "charged": " ".join(_charged(writer, matter.shipment_id)),
    }
    which = f"Parcel {matter.number} of {matter.of} of" if matter.of > 1 else "The parcel of"
    return _Subject(f"{which} your order {{order}} is on its way", {"order": writer.state.order_id}), words


def _backorder(writer: _Writer, matter: BackorderContent) -> tuple[_Subject, dict[str, Any]]:
    said = next(iter(writer.notification.statements), None)  # none where nothing is waited for any more
    quantity, eta = (said.quantity, said.at) if said else (matter.quantity, None)
    options = matter.options if said else ()
    words = {
        "is_waited_for": said is not None,
        "item": writer.item(quantity, matter.line_id),
        "eta": writer.day(eta) if eta else "",
        "previous": writer.day(matter.previous_eta) if matter.previous_eta else "",
        "options": [_CHOICES[option] for option in options],
        "due": writer.moment(matter.due_at) if matter.due_at else "",
        "silence": _SILENCE[matter.silence] if matter.silence else "",
        "waits": writer.waits(),
        "when_paid": _when_paid(writer),
    }
    if writer.notification.kind is NotificationKind.BACKORDER:
        starts = "Not in stock just now:"
    elif options:
        starts = "Please choose:"
    else:
        starts = "New date for" if said else "Waited for no more:"
    return _Subject(
        f"{starts} {quantity} × {{title}} of your order {{order}}",
        {"title": writer.state.title(matter.line_id), "order": writer.state.order_id},
    ), words


def _parcel(writer: _Writer, matter: ParcelContent) -> tuple[_Subject, dict[str, Any]]:
    words = {
        "what": matter.what,
        "items": writer.items(matter.lines, matter.substituted),
        "tracking": matter.tracking or "",
    }
    which = "The parcel" if matter.tracking is None else "Parcel {tracking}"
    values = {"tracking": matter.tracking or "", "order": writer.state.order_id}
    return _Subject(f"{which} of your order {{order}} {_PARCELS[matter.what]}", values), words


def _cancellation(writer: _Writer, matter: CancellationContent) -> tuple[_Subject, dict[str, Any]]:
    state = writer.state
    worth = state.cancellations.get(matter.cancellation_id)
    charged = sum(state.charges.values())
    words = {
        "items": writer.items(matter.lines),
        "remaining": writer.remaining(),
        "under_way": writer.under_way(),
        "waits": writer.waits(),
        "worth": writer.money(worth.worth_minor) if worth else "",
        "left": writer.money(worth.remaining_minor) if worth and worth.remaining_minor else "",
        "charged": writer.money(charged) if charged else "",
        "is_overpaid": worth is not None and charged > worth.remaining_minor and not state.refunds,
        "is_settled": worth is not None and charged <= worth.remaining_minor,
    }
    is_all = not any(units.owed > units.cancelled for units in state.units.values())
    text = "Your order {order} is cancelled" if is_all else "Part of your order {order} is cancelled"
    return _Subject(text, {"order": state.order_id}), words


def _hold(writer: _Writer, matter: HoldContent) -> tuple[_Subject, dict[str, Any]]:
    units = writer.state.units.items()
    words = {
        "hold": matter.hold,
        "released": matter.released,
        "is_held": matter.hold in writer.state.holds,
        "waits": writer.waits(),
        "items": [writer.item(u.remaining, line_id) for line_id, u in units if u.remaining],
    }
    what = "goes on" if matter.released else _HOLDS[matter.hold]
    return _Subject(f"Your order {{order}} {what}", {"order": writer.state.order_id}), words


_RECOVERIES: Final = {
    "return_not_accepted": "What you sent back could not be accepted, and was paid back or replaced before",
    "return_not_sent": "What was to be sent back has not arrived, and was paid back or replaced before",
    "found_after_refund": "What had been lost was found after it was paid back to you",
    "found_after_replacement": "What had been lost was found after it was sent to you again",
    "sent_again_beside_refund": "What had been lost was paid back to you and sent to you again as well",
    "exchange_difference": "What you chose in exchange costs more than what you send back for it",
    "revised_down": "More was paid back to you than was due",
}

_SETTLED: Final = {
    "charged": "{amount} was charged for it. With that it is settled.",
    "by_hand": "With what we agreed with you, it is settled.",
    "not_due": "You need not pay it any more: it is settled.",
    "written_off": "You need not pay anything for it: it is settled.",
    "returned": "The goods are back with us. With that it is settled.",
}


def _recovery(writer: _Writer, matter: RecoveryContent) -> tuple[_Subject, dict[str, Any]]:
    amount = writer.money(matter.amount_minor, matter.currency)
    words = {
        "amount": amount,
        "why": _RECOVERIES.get(matter.cause or "", "Something of your order is with you and is not paid"),
        "is_known": matter.cause in _RECOVERIES,
        "due": writer.day(matter.due_at) if matter.due_at else "",
        "settled": _SETTLED[matter.how].format(amount=amount) if matter.how else "",
        "has_charge_failed": matter.has_charge_failed,
        "is_charged": matter.is_charged,
    }
    what = "is settled" if matter.how else "could not be charged" if matter.has_charge_failed else "is open"
    return _Subject(
        f"{{amount}} of your order {{order}} {what}", {"amount": amount, "order": writer.state.order_id}
    ), words


_CLAIMS: Final = {
    None: "is being looked at",
    "refunded": "is accepted",
    "replaced": "is accepted",
    "rejected": "cannot be accepted",
}


def _claim(writer: _Writer, matter: ClaimContent) -> tuple[_Subject, dict[str, Any]]:
    due = _open_due(writer.state, matter.claim_id)
    words = {
        "claim_id": matter.claim_id,
        "items": writer.items(matter.lines),
        "outcome": matter.outcome,
        "decide": writer.day(matter.decide_by) if matter.decide_by else "",
        "due": writer.money(_left(writer.state, due), due.currency) if due and _left(writer.state, due) else "",
    }
    return _Subject(f"Your claim {{id}} {_CLAIMS[matter.outcome]}", {"id": matter.claim_id}), words


def _address(writer: _Writer, matter: AddressContent) -> tuple[_Subject, dict[str, Any]]:
    to = matter.ship_to
    words = {
        "lines": (to.name, to.street, f"{to.postal_code} {to.city}", to.country),
        "under_way": writer.under_way(),
    }
    return _Subject("New address for your order {order}", {"order": writer.state.order_id}), words


def _return(writer: _Writer, matter: ReturnContent) -> tuple[_Subject, dict[str, Any]]:
    known = writer.state.returns.get(matter.return_id)
    resolution = known.resolution if known else None
    kind = writer.notification.kind
    fee = known.shipping_fee_minor if known else None
    due = _open_due(writer.state, matter.return_id) if kind is NotificationKind.RETURN_INSPECTED else None
    if due and not _left(writer.state, due):
        due = None
    words = {
        "return_id": matter.return_id,
        "items": [writer.item(u.quantity, u.line_id, _found(u, resolution)) for u in matter.lines],
        "reasons": matter.reasons,
        "expires": writer.day(matter.expires_at) if matter.expires_at else "",
        "complete": matter.complete,
        "label": known.label if known else "",
        "declined": known.declined if known else (),
        "is_kept": resolution is Resolution.KEEP_IT,
        "has_arrived": bool(known and known.has_arrived),
        "fee": writer.money(fee) if fee and resolution in _MONEY else "",
        "due": writer.money(_left(writer.state, due), due.currency) if due else "",
        "kept": _kept(writer, due) if due else [],
        "pays": resolution in _MONEY,
        "sends": resolution in (Resolution.EXCHANGE, Resolution.REPLACE_ON_RECEIPT)
        and any(u.refund_percent for u in matter.lines),
    }
    is_part = kind is NotificationKind.RETURN_RECEIVED and not matter.complete
    which = "Part of your return" if is_part else "Your return"
    return _Subject(f"{which} {{id}} {_RETURNS[kind]}", {"id": matter.return_id}), words


def _found(units: ReturnedUnits, resolution: Resolution | None) -> str:
    if units.outcome is None:
        return ""
    if units.review:
        return f"{_OUTCOMES[units.outcome]}; a person decides what follows"
    if resolution not in _MONEY:
        return f"{_OUTCOMES[units.outcome]}; {'accepted' if units.refund_percent else 'not accepted'}"
    if not units.refund_percent:
        return f"{_OUTCOMES[units.outcome]}; nothing is paid back"
    fee = f", less a fee of {units.fee_percent} %" if units.fee_percent else ""
    return f"{_OUTCOMES[units.outcome]}; accepted at {units.refund_percent} % of its price{fee}"


def _open_due(state: OrderNotifications, return_id: str) -> DueContext | None:
    """The newest sum that a return came to, unless the customer has heard of its payment or there is none."""
    heard = {
        n.matter.refund_id
        for n in state.notifications.values()
        if isinstance(n.matter, RefundContent)
        and (n.status in (Status.SENT, Status.DELIVERED) or n.kind is NotificationKind.REFUND_DECLINED)
    }
    over = {cause.cause_id for id, cause in state.refund_causes.items() if id in heard}
    dues = [due for due in state.dues.values() if due.return_id == return_id and due.due_id not in over]
    return dues[-1] if dues else None


def _left(state: OrderNotifications, due: DueContext) -> int:
    """What of it is still owed: less what was given back for the same units before."""
    amounts = [c.amount_minor for c in state.refund_causes.values() if c.cause_id == due.due_id]
    return min([due.amount_minor, *(minor for minor in amounts if minor is not None)])


def _kept(writer: _Writer, due: DueContext) -> list[tuple[str, str]]:
    """What of its worth is not paid back, and why; nothing where all of it is."""
    kept = [
        ("Less, for the condition it came in", due.kept_minor),
        ("Less, for sending it back", due.shipping_fee_minor),
    ]
    kept.append(("Less, paid back to you before", due.amount_minor - _left(writer.state, due)))
    rows = [(why, writer.money(minor, due.currency)) for why, minor in kept if minor]
    return [("Worth of what you returned", writer.money(due.worth_minor, due.currency)), *rows] if rows else []


def _refund(writer: _Writer, matter: RefundContent) -> tuple[_Subject, dict[str, Any]]:
    kind = writer.notification.kind
    is_failed = kind is NotificationKind.REFUND_FAILED
    total = writer.money(
        sum(leg.amount_minor for leg in (matter.failed if is_failed else matter.legs)), matter.currency
    )

    is_done = kind is NotificationKind.REFUND_COMPLETED

    def row(leg: LegContent, what: str) -> tuple[str, str]:
        return f"{writer.money(leg.amount_minor, matter.currency)} {_where(leg)}", what

    legs = [row(leg, "paid" if is_done else f"expected by {writer.day(leg.promised_at)}") for leg in matter.legs]
    failed = [row(leg, "could not be paid out") for leg in matter.failed]
    cause = writer.state.refund_causes.get(matter.refund_id)
    due = writer.state.dues.get(cause.cause_id) if cause else None
    kept = _kept(writer, due) if due and not is_failed else []
    if kind is NotificationKind.REFUND_DECLINED and cause and cause.amount_minor is not None:
        total = writer.money(cause.amount_minor, matter.currency)
    words = {"total": total, "legs": legs + failed, "kept": kept, "reason": matter.reason_code}
    return _Subject(
        f"Your refund of {{total}} for order {{order}} {_REFUNDS[kind]}",
        {"total": total, "order": writer.state.order_id},
    ), words


def _where(leg: LegContent) -> str:
    match leg.channel:
        case RefundChannel.STORE_CREDIT:
            return "as store credit"
        case RefundChannel.BANK_TRANSFER:
            return "to your bank account"
        case RefundChannel.ORIGINAL:
            return _TENDERS[leg.tender_kind]


_WORDS: Final[dict[type, Callable[[_Writer, Any], tuple[_Subject, dict[str, Any]]]]] = {
    HoldContent: _hold,
    RecoveryContent: _recovery,
    AddressContent: _address,
    OrderContent: _order,
    ShipmentContent: _shipment,
    BackorderContent: _backorder,
    ParcelContent: _parcel,
    CancellationContent: _cancellation,
    ReturnContent: _return,
    ClaimContent: _claim,
    RefundContent: _refund,
}
