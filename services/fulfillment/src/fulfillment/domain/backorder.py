"""A backorder has units of a line that wait for goods, with a date that may slip and a customer who may object."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from fulfillment.domain.policy import FulfillmentPolicy
from shared.contracts.base import Fact
from shared.contracts.fulfillment import (
    BackorderCancelled,
    BackorderConsentRequested,
    BackorderConsentSettled,
    BackorderCreated,
    BackorderEtaRevised,
    BackorderFact,
    BackorderFilled,
    BackorderSubstituteRefused,
)
from shared.core.machine import Machine, replace


class BackorderStatus(StrEnum):
    OPEN = "open"
    PARTIALLY_FILLED = "partially_filled"
    FILLED = "filled"
    CANCELLED = "cancelled"


_S = BackorderStatus

BACKORDER: Final = Machine(
    name="backorder",
    initial=_S.OPEN,
    transitions={
        _S.OPEN: {
            BackorderFilled: frozenset({_S.PARTIALLY_FILLED, _S.FILLED}),
            BackorderCancelled: frozenset({_S.OPEN, _S.CANCELLED}),
            BackorderEtaRevised: _S.OPEN,
            BackorderConsentRequested: _S.OPEN,
            BackorderConsentSettled: _S.OPEN,
            BackorderSubstituteRefused: _S.OPEN,
        },
        _S.PARTIALLY_FILLED: {
            BackorderFilled: frozenset({_S.PARTIALLY_FILLED, _S.FILLED}),
            BackorderCancelled: frozenset({_S.PARTIALLY_FILLED, _S.CANCELLED}),
            BackorderEtaRevised: _S.PARTIALLY_FILLED,
            BackorderConsentRequested: _S.PARTIALLY_FILLED,
            BackorderConsentSettled: _S.PARTIALLY_FILLED,
            BackorderSubstituteRefused: _S.PARTIALLY_FILLED,
        },
        _S.FILLED: {},
        _S.CANCELLED: {},
    },
)


@dataclass(frozen=True, slots=True)
class Backorder:
    """`open` of `quantity` still wait. `promised` is the date the customer last agreed to, `earlier` the dates before.

    `again`: its units replace others. `title` and price are of a substitute.
    """

    backorder_id: str
    line_id: str
    sku: str
    quantity: int
    open: int
    eta: datetime | None
    promised: datetime | None
    earlier: tuple[datetime | None, ...] = ()
    status: BackorderStatus = _S.OPEN
    consent_due: datetime | None = None
    again: bool = False
    title: str | None = None
    unit_price_minor: int | None = None

    @property
    def revision(self) -> int:
        return len(self.earlier)


def created(fact: BackorderCreated) -> Backorder:
    return Backorder(
        backorder_id=fact.backorder_id,
        line_id=fact.line_id,
        sku=fact.sku,
        quantity=fact.quantity,
        open=fact.quantity,
        eta=fact.eta,
        promised=fact.eta,
        again=fact.again,
        title=fact.title,
        unit_price_minor=fact.unit_price_minor,
    )


def revise(
    order_id: str, backorder: Backorder, eta: datetime | None, policy: FulfillmentPolicy, at: datetime
) -> Sequence[Fact]:
    """Revise the date; ask for the customer's consent, once, when it slips beyond the policy."""
    if eta == backorder.eta:
        return []
    facts: list[Fact] = [
        BackorderEtaRevised(
            order_id=order_id,
            backorder_id=backorder.backorder_id,
            line_id=backorder.line_id,
            sku=backorder.sku,
            quantity=backorder.open,
            previous_eta=backorder.eta,
            eta=eta,
            revision=backorder.revision + 1,
        )
    ]
    if backorder.consent_due is None and _slips(backorder.promised, eta, policy):
        facts.append(
            BackorderConsentRequested(
                order_id=order_id,
                backorder_id=backorder.backorder_id,
                line_id=backorder.line_id,
                sku=backorder.sku,
                quantity=backorder.open,
                eta=eta,
                options=policy.consent_options,
                due_at=at + timedelta(hours=policy.consent_hours),
                silence=policy.silence,
                policy=policy.ref,
            )
        )
    return facts


def _slips(promised: datetime | None, eta: datetime | None, policy: FulfillmentPolicy) -> bool:
    """Compare with what the customer last agreed to, so that many small slips count as the one they are."""
    if promised is None:
        return False
    return eta is None or eta - promised > timedelta(days=policy.consent_after_days)


def evolve(backorder: Backorder, fact: BackorderFact) -> Backorder:
    match fact:
        case BackorderFilled(quantity=units, remaining=remaining):
            to = _S.PARTIALLY_FILLED if remaining else _S.FILLED
            status = BACKORDER.step(backorder.status, fact, to)
            return replace(
                backorder, open=backorder.open - units, status=status, consent_due=_due(backorder, remaining)
            )
        case BackorderCancelled(quantity=units, remaining=remaining):
            status = BACKORDER.step(backorder.status, fact, backorder.status if remaining else _S.CANCELLED)
            return replace(
                backorder, open=backorder.open - units, status=status, consent_due=_due(backorder, remaining)
            )
    backorder = replace(backorder, status=BACKORDER.step(backorder.status, fact))
    match fact:
        case BackorderEtaRevised(eta=eta):
            return replace(backorder, eta=eta, earlier=(*backorder.earlier, backorder.eta))
        case BackorderConsentRequested(due_at=due_at):
            return replace(backorder, consent_due=due_at)
        case BackorderSubstituteRefused():
            return backorder
        case BackorderConsentSettled():
            return replace(backorder, consent_due=None, promised=backorder.eta)
        case _:
            raise TypeError(f"{fact.type} is no fact of a backorder's life")


def _due(backorder: Backorder, remaining: int) -> datetime | None:
    return backorder.consent_due if remaining else None
