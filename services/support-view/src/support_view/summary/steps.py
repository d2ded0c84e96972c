"""What has to happen next, by whom, and by when: from what a person must do to what happens by itself."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final

from pydantic import Field

from shared.contracts.base import Model
from support_view.domain.fulfillment import ShipmentStatus
from support_view.domain.orders import Status as OrderStatus
from support_view.domain.payments import ChargeStatus, DisputeStatus, OperationStatus, RefundStatus
from support_view.domain.returns import Status as ReturnStatus
from support_view.domain.timeline import plain
from support_view.summary.goods import ShipmentState
from support_view.summary.sections import Sections


class Step(Model):
    """What has to happen next, by whom, and by when if that is known."""

    text: str
    owner: str
    due_at: datetime | None = None
    link: str | None = Field(default=None, description="anchor of what it is about")
    urgent: bool = False


_OWNERS: Final = {
    ShipmentStatus.CREATED: "warehouse",
    ShipmentStatus.HELD: "agent",
    ShipmentStatus.LOST: "agent",
}
_RETURN_STEPS: Final = {
    ReturnStatus.REQUESTED: ("Check the policy for return", "returns desk"),
    ReturnStatus.APPROVED: ("Send the parcel of return", "customer"),
    ReturnStatus.IN_TRANSIT: ("Bring the parcel of return", "carrier"),
    ReturnStatus.PARTIALLY_RECEIVED: ("Receive the rest of return", "warehouse"),
    ReturnStatus.RECEIVED: ("Inspect return", "warehouse"),
    ReturnStatus.INSPECTING: ("Settle return", "warehouse and payments"),
    ReturnStatus.REOPENED: ("Look again at return", "returns desk"),
}


def next_steps(s: Sections, goods: Sequence[ShipmentState]) -> Iterator[Step]:
    """What is open, from what a person must do to what happens by its."""
    yield from _steps_of_people(s)
    yield from _steps_of_money(s)
    yield from _steps_of_goods(s, goods)
    yield from _steps_of_returns(s)


def _steps_of_people(s: Sections) -> Iterator[Step]:
    for id, dispute in s.payments.disputes.items():
        if dispute.status == DisputeStatus.OPEN:
            text = f"Answer the dispute {id} over {s.words.money(dispute.amount_minor)}; refunds to it are blocked"
            yield Step(text=text, owner="payments desk", link="money", urgent=True)
    for id, refund in s.payments.refunds.items():
        link = f"refund-{id}"
        if refund.status in (RefundStatus.ATTENTION, RefundStatus.FAILED, RefundStatus.PARTIALLY_SUCCEEDED):
            text = f"Find a way for {s.words.money(refund.outstanding_minor)} of refund {id}"
            yield Step(text=text, owner="payments desk", link=link, urgent=True)
        if refund.status == RefundStatus.PENDING_APPROVAL:
            text = f"Approve or reject refund {id} of {s.words.money(refund.amount_minor)}"
            yield Step(text=text, owner="supervisor", link=link, urgent=True)
    for id, told in s.returns.returns.items():
        if told.status == ReturnStatus.UNDER_REVIEW:
            yield Step(text=f"Decide on return {id}", owner="supervisor", link=f"return-{id}", urgent=True)
    for code in s.payments.capture_failures.values():
        text = f"Find another way to pay: a capture failed, {plain(code)}; the next shipments are held"
        yield Step(text=text, owner="agent", link="money", urgent=True)
    for id, charge in s.payments.charges.items():
        if charge.status == ChargeStatus.FAILED:
            text = (
                f"Have {s.words.money(charge.amount_minor)} for exchange {id} charged again, or settle it otherwise: "
                + plain(charge.code)
            )
            yield Step(text=text, owner="agent", link=f"return-{charge.return_id}", urgent=True)
    for name, hold in s.orders.holds.items():
        text = f"Release the hold “{plain(name)}”" + (f": {hold.detail}" if hold.detail else "")
        yield Step(text=text, owner="agent", link="order", urgent=True)


def _steps_of_money(s: Sections) -> Iterator[Step]:
    for operation in s.payments.operations.values():
        if operation.status == OperationStatus.UNKNOWN:
            text = f"Learn whether a {operation.kind.value} of {s.words.money(operation.amount_minor)} happened"
            yield Step(text=text, owner="reconciler, by itself", link="money")
    if s.orders.standing == OrderStatus.PLACED and not s.orders.pending:
        yield Step(text="Authorize the payment", owner="payment provider", link="money")
    for id, cancellation in s.orders.pending.items():
        text = f"Answer cancellation {id}: {s.contents(cancellation.asked)}"
        yield Step(text=text, owner="warehouse", link="order")
    for id, refund in s.payments.refunds.items():
        if refund.status in (RefundStatus.REQUESTED, RefundStatus.APPROVED, RefundStatus.PROCESSING):
            text = f"Pay out refund {id} of {s.words.money(refund.amount_minor)}"
            due = refund.promised_at
            yield Step(text=text, owner="payment provider", due_at=due, link=f"refund-{id}")


def _steps_of_goods(s: Sections, goods: Sequence[ShipmentState]) -> Iterator[Step]:
    for id, backorder in s.fulfillment.backorders.items():
        what = s.words.some(backorder.remaining, backorder.line_id)
        link = f"backorder-{id}"
        if backorder.is_open and backorder.consent_due_at:
            text = f"Choose what to do about the later date of {what}"
            yield Step(text=text, owner="customer", due_at=backorder.consent_due_at, link=link)
        if backorder.is_open:
            yield Step(text=f"Receive {what}", owner="supplier", due_at=backorder.eta, link=link)
    for state in goods:
        if state.waits_for:
            text = f"{state.title} waits for {state.waits_for}"
            yield Step(text=text, owner=_OWNERS.get(state.status, "carrier"), link=f"shipment-{state.shipment_id}")


def _steps_of_returns(s: Sections) -> Iterator[Step]:
    for id, told in s.returns.returns.items():
        if (step := _RETURN_STEPS.get(told.status)) is not None:
            text, owner = step
            due = told.expires_at if told.status == ReturnStatus.APPROVED else None
            yield Step(text=f"{text} {id}", owner=owner, due_at=due, link=f"return-{id}")
