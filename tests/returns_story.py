"""A pure returns service to tell stories to: an order of two lines, policies, and the facts that each command led to."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

from returns.domain import state as states
from returns.domain.decide import Command, RecordPurchase, RecordUnits, RequestReturn, SettleRefund, decide
from returns.domain.parcels import InspectItems, ReceiveParcel
from returns.domain.policies import Policies
from returns.domain.rma import ReturnStatus
from returns.domain.state import OrderReturns
from shared.contracts.base import Fact, LineQuantity, PolicyRef
from shared.contracts.orders import Address, Customer, OrderLine, OrderPlaced
from shared.contracts.partners import InspectedUnits, WarehouseUnexpectedItem
from shared.contracts.returns import (
    DeclaredCondition,
    Disposition,
    InspectionOutcome,
    InspectionRule,
    ObservedLine,
    RecordedUnits,
    Resolution,
    ReturnLine,
    ReturnObservationRecorded,
    ReturnPolicy,
    ReturnReason,
    ReturnRefundDue,
)

NOON = datetime(2026, 6, 1, 12, tzinfo=timezone.utc)
RMA1 = "A1-RMA1"
V1 = PolicyRef(policy_id="standard", version=1)
"""When everything was placed; a Monday."""


def day(days: float, seconds: float = 0) -> datetime:
    return NOON + timedelta(days=days, seconds=seconds)


RULES = (
    InspectionRule(outcome="as_new", disposition="restock", refund_percent=100, fee_percent=0),
    InspectionRule(outcome="opened", disposition="regrade", refund_percent=100, fee_percent=10),
    InspectionRule(outcome="defective", disposition="vendor", refund_percent=100, fee_percent=0, refund_shipping=True),
    InspectionRule(outcome="customer_damage", disposition="quarantine", refund_percent=50, fee_percent=0, review=True),
    InspectionRule(outcome="incomplete", disposition="quarantine", refund_percent=0, fee_percent=0, review=True),
    InspectionRule(outcome="wrong_item", disposition="send_back", refund_percent=0, fee_percent=0),
    InspectionRule(outcome="counterfeit", disposition="hold", refund_percent=0, fee_percent=0),
    InspectionRule(outcome="not_in_box", disposition="none", refund_percent=0, fee_percent=0),
    InspectionRule(outcome="extra_item", disposition="quarantine", refund_percent=0, fee_percent=0),
)


def policy(**more: Any) -> ReturnPolicy:
    """Thirty days from delivery; everything is offered."""
    given: dict[str, Any] = {
        "policy_id": "standard",
        "version": 1,
        "effective_from": NOON - timedelta(days=100),
        "window_days": 30,
        "statutory_days": 0,
        "resolutions": tuple(Resolution),
        "inspection": RULES,
    }
    return ReturnPolicy(**(given | more))


def policies(*versions: ReturnPolicy) -> Policies:
    return Policies({(p.policy_id, p.version): p for p in versions}, {})


def order_line(line_id: str, quantity: int, goods_minor: int, shipping_minor: int = 0, **more: Any) -> OrderLine:
    given: dict[str, Any] = {
        "line_id": line_id,
        "sku": f"sku-{line_id}",
        "title": line_id,
        "quantity": quantity,
        "unit_price_minor": goods_minor // quantity,
        "discount_minor": 0,
        "tax_minor": 0,
        "shipping_minor": shipping_minor,
        "goods_minor": goods_minor,
    }
    return OrderLine(**(given | more))


LINES = (order_line("mug", 3, 1000, 200), order_line("tea", 2, 999, 100))
"""Neither divides by its quantity."""


def placed(*lines: OrderLine, **more: Any) -> OrderPlaced:
    lines = lines or LINES
    goods, shipping = sum(line.goods_minor for line in lines), sum(line.shipping_minor for line in lines)
    given: dict[str, Any] = {
        "order_id": "A1",
        "placed_at": NOON,
        "customer": Customer(customer_id="c1", email="ada@example.org", name="Ada"),
        "ship_to": Address(name="Ada", street="Main 1", city="Bonn", postal_code="53111", country="DE"),
        "currency": "EUR",
        "lines": lines,
        "goods_minor": goods,
        "shipping_minor": shipping,
        "total_minor": goods + shipping,
        "tenders": (),
    }
    return OrderPlaced(**(given | more))


def of(**units: int) -> tuple[LineQuantity, ...]:
    return tuple(LineQuantity(line_id=line_id, quantity=n) for line_id, n in units.items())


def shipped(
    stage: Any, at: datetime, *, shipment: str = "A1-S1", tracking: str | None = None, **units: int
) -> RecordUnits:
    """Parcels are told apart where a story has more than one in a shipment."""
    lines = tuple(RecordedUnits(line_id=line_id, quantity=n) for line_id, n in units.items())
    return RecordUnits(shipment, stage, lines, at, tracking)


def asking(at: datetime, resolution: Resolution = Resolution.REFUND, **units: int) -> RequestReturn:
    """Unopened and unwanted."""
    return RequestReturn(tuple(returning(line_id, n) for line_id, n in units.items()), resolution, "", (), at)


def returning(
    line_id: str,
    quantity: int,
    reason: ReturnReason = ReturnReason.UNWANTED,
    condition: DeclaredCondition = DeclaredCondition.UNOPENED,
    **more: Any,
) -> ReturnLine:
    return ReturnLine(line_id=line_id, quantity=quantity, reason=reason, condition=condition, **more)


def parcel(receipt: str, at: datetime, return_id: str = "A1-RMA1", **units: int) -> ReceiveParcel:
    lines = tuple(ObservedLine(line_id=line_id, quantity=n) for line_id, n in units.items())
    return ReceiveParcel(return_id, receipt, "main", lines, (), at)


def surprise(receipt: str, at: datetime, sku: str, quantity: int) -> ReceiveParcel:
    return ReceiveParcel("A1-RMA1", receipt, "main", (), (WarehouseUnexpectedItem(sku=sku, quantity=quantity),), at)


def looked_at(inspection: str, at: datetime, *found: tuple[str, int, str], return_id: str = "A1-RMA1") -> InspectItems:
    lines = tuple(
        InspectedUnits(line_id=line_id, quantity=n, outcome=InspectionOutcome(outcome)) for line_id, n, outcome in found
    )
    return InspectItems(return_id, inspection, "main", lines, at)


KEEPS = frozenset({Disposition.RESTOCK, Disposition.REGRADE, Disposition.VENDOR, Disposition.SCRAP})


@dataclass
class Story:
    """`then` tells the next command and remembers everything that happened."""

    policies: Policies = field(default_factory=lambda: policies(policy()))
    state: OrderReturns = field(default_factory=lambda: states.initial("A1"))
    facts: list[Fact] = field(default_factory=list)

    def then(self, *commands: Command) -> list[Fact]:
        """The facts of these commands, reports word by word aside; each is folded in before the next is told."""
        before = len(self.facts)
        for command in commands:
            for fact in decide(self.state, command, self.policies):
                self.state = states.evolve(self.state, fact)
                self.facts.append(fact)
            assert states.invariants(self.state) == []
        return [fact for fact in self.facts[before:] if not isinstance(fact, ReturnObservationRecorded)]

    def kinds(self, facts: Sequence[Fact]) -> list[str]:
        return [fact.type for fact in facts]


def delivered(*versions: ReturnPolicy, on: float = 2, **units: int) -> Story:
    """The order, placed on day 0 and delivered (as a whole, if no units are named) `on` a day."""
    story = Story(policies(*(versions or (policy(),))))
    all_of_it: dict[str, Any] = units or {"mug": 3, "tea": 2}
    story.then(
        RecordPurchase(placed()),
        shipped("shipped", day(1), **all_of_it),
        shipped("delivered", day(on), **all_of_it),
    )
    story.facts.clear()
    return story


def only(facts: list[Any], kind: type[Any]) -> Any:
    """The one fact of this kind."""
    [fact] = [fact for fact in facts if isinstance(fact, kind)]
    return fact


def paid(due: ReturnRefundDue, at: datetime, refund_id: str = "A1-R1") -> SettleRefund:
    return SettleRefund(due.due_id, refund_id, due.amount_minor, at)


def units(story: Story, line_id: str, return_id: str = RMA1) -> dict[str, int]:
    return {str(status): n for status, n in story.state.returns[return_id].lines[line_id].units.items()}


def status(story: Story, return_id: str = RMA1) -> ReturnStatus:
    return story.state.returns[return_id].status
