"""Test tokens and addresses: a tender's token chooses how the card processor behaves, the way card networks do it, and
the name before the `@` (and before a `+`) how the mailbox does."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Kind(StrEnum):
    AUTHORIZATION = "authorization"
    CAPTURE = "capture"
    VOID = "void"
    REFUND = "refund"
    PAYOUT = "payout"


class Answer(StrEnum):
    """What becomes of the answer to a call: `LOST` is performed and not answered, `UNHEARD` is not even performed."""

    LOST = "lost"
    UNHEARD = "unheard"


class Notices(StrEnum):
    PROMPT = "prompt"
    LATE = "late"
    DUPLICATE = "duplicate"
    REORDERED = "reordered"


class Sequel(StrEnum):
    """What happens later, by itself."""

    BOUNCE = "bounce"
    SETTLE = "settle"
    DISPUTE = "dispute"


@dataclass(frozen=True, slots=True)
class Fault:
    """How calls of the kinds in `on` go; calls of other kinds, and everything not said here, go well.

    `notices` is the manner of all notices, whatever they are about.
    """

    story: str
    on: frozenset[Kind] = frozenset()
    code: str | None = None
    answer: Answer | None = None
    notices: Notices = Notices.PROMPT
    sequel: Sequel | None = None
    expires: bool = False
    is_first_spared: bool = False
    """It befalls what comes after an order's first authorization."""


_AUTHORIZATION: Final = frozenset({Kind.AUTHORIZATION})
_CAPTURE: Final = frozenset({Kind.CAPTURE})
_REFUND: Final = frozenset({Kind.REFUND, Kind.PAYOUT})

GOOD: Final = "tok_ok"

FAULTS: Final[dict[str, Fault]] = {
    GOOD: Fault("Everything succeeds."),
    "tok_decline_insufficient_funds": Fault(
        "The authorization is declined: insufficient_funds.", _AUTHORIZATION, code="insufficient_funds"
    ),
    "tok_decline_again": Fault(
        "The first authorization of an order succeeds, any further one is declined: insufficient_funds.",
        _AUTHORIZATION,
        code="insufficient_funds",
        is_first_spared=True,
    ),
    "tok_decline_fraud": Fault("The authorization is declined: fraud.", _AUTHORIZATION, code="fraud"),
    "tok_authorization_timeout_after": Fault(
        "The authorization is performed and never answered in time; its notice comes late.",
        _AUTHORIZATION,
        answer=Answer.LOST,
    ),
    "tok_authorization_timeout_before": Fault(
        "The first try of an authorization is not performed and not answered; a second one succeeds.",
        _AUTHORIZATION,
        answer=Answer.UNHEARD,
    ),
    "tok_authorization_expires": Fault(
        "The authorization expires as soon as it is given.", _AUTHORIZATION, expires=True
    ),
    "tok_capture_declined": Fault("Captures fail: card_declined.", _CAPTURE, code="card_declined"),
    "tok_capture_timeout_after": Fault(
        "Captures are performed and never answered in time; their notices come late.", _CAPTURE, answer=Answer.LOST
    ),
    "tok_capture_timeout_before": Fault(
        "The first try of a capture is not performed and not answered; a second one succeeds.",
        _CAPTURE,
        answer=Answer.UNHEARD,
    ),
    "tok_refund_timeout_after": Fault(
        "Refunds are performed and never answered in time; their notices come late.", _REFUND, answer=Answer.LOST
    ),
    "tok_refund_timeout_before": Fault(
        "The first try of a refund is not performed and not answered; a second one succeeds.",
        _REFUND,
        answer=Answer.UNHEARD,
    ),
    "tok_refund_pending": Fault(
        "Refunds are pending at first and succeed later, by notice.", _REFUND, sequel=Sequel.SETTLE
    ),
    "tok_refund_fails": Fault("Refunds fail: account_closed.", _REFUND, code="account_closed"),
    "tok_refund_bounces": Fault("Refunds succeed, and bounce later, by notice.", _REFUND, sequel=Sequel.BOUNCE),
    "tok_notices_late": Fault("Notices come late.", notices=Notices.LATE),
    "tok_notices_duplicate": Fault("Every notice comes twice, under one id.", notices=Notices.DUPLICATE),
    "tok_notices_reordered": Fault(
        "Notices of an authorization come in pairs, the later one first.", notices=Notices.REORDERED
    ),
    "tok_dispute": Fault("The first capture is disputed by the cardholder.", _CAPTURE, sequel=Sequel.DISPUTE),
}
"""Every test token there is; any other token is refused."""


def fault_for(token: str, kind: Kind) -> Fault:
    """How a call of this kind goes with this token."""
    fault = FAULTS[token]
    return fault if kind in fault.on else FAULTS[GOOD]


@dataclass(frozen=True, slots=True)
class MailFault:
    """What becomes of a mail. `refusal` is the SMTP answer to its recipient; `defers` puts its first attempt off; `is_ascii_only`
    refuses a mail that needs SMTPUTF8."""

    story: str
    refusal: str | None = None
    is_ascii_only: bool = False
    defers: bool = False
    bounces: bool = False
    is_silent: bool = False
    notices: Notices = Notices.PROMPT


MAIL_FAULTS: Final = {
    "refused": MailFault("The server refuses the recipient for good: 550.", refusal="550 5.1.1 no such mailbox"),
    "ascii": MailFault(
        "The recipient's server knows no SMTPUTF8: `ascii+jörg@…` is refused for good, 553, `ascii+joe@…` is taken.",
        is_ascii_only=True,
    ),
    "later": MailFault("The server puts the first attempt off: 451. The next one is taken.", defers=True),
    "bounces": MailFault("The mail is taken, and bounces later, by notice.", bounces=True),
    "silent": MailFault("The mail is taken; no notice comes.", is_silent=True),
    "late": MailFault("The mail is taken; its notice comes late.", notices=Notices.LATE),
    "twice": MailFault("The mail is taken; its notice comes twice, under one id.", notices=Notices.DUPLICATE),
}
"""Names of test addresses; mail to any other is taken, and a notice says that it was delivered."""

_DELIVERED: Final = MailFault("The mail is taken, and a notice says that it was delivered.")


def mail_fault_for(address: str) -> MailFault:
    """How mail to this address goes: `bounces@…` and `bounces+anything@…` bounce."""
    return MAIL_FAULTS.get(address.partition("@")[0].partition("+")[0].lower(), _DELIVERED)
