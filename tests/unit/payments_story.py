"""An order's account told step by step, for tests: commands in, facts out, and a provider that says what it is told to."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any
from uuid import UUID

from payments.domain.decide import Command, Confirm, Dispute, Open, RecordOutcome, RecordUnitsChange, Submit, decide
from payments.domain.operation import Operation, OperationStatus, ProviderResult, Result
from payments.domain.payout import OweRefund, Policies, RequestRefund
from payments.domain.refund import ApprovalPolicy
from payments.domain.routing import Fallback, RoutingPolicy, Strategy
from payments.domain.state import Account, evolve, invariants
from payments.domain.tender import TenderStatus
from payments.handlers import claimed as open_claim
from shared.contracts.base import Fact, LineQuantity, TenderKind
from shared.contracts.orders import TenderSpec
from shared.contracts.payments import PayableLine, PayoutAccount, RefundChannel, RefundKind, UnitsChange
from shared.contracts.returns import ClaimOpened, ReturnReason
from shared.messaging.envelope import Cause, Undecodable

NOON = datetime(2026, 5, 4, 12, tzinfo=timezone.utc)
EPOCH = datetime(2000, 1, 1, tzinfo=timezone.utc)
ACCOUNT = PayoutAccount(account_id="acc-1", masked="DE…3000")
CARD = TenderKind.CARD
GIFT = TenderKind.GIFT_CARD


def routing(strategy: Strategy = Strategy.PRO_RATA, version: int = 1, since: datetime = EPOCH) -> RoutingPolicy:
    return RoutingPolicy(
        version=version,
        effective_from=since,
        strategy=strategy,
        limit_days={TenderKind.CARD: 180, TenderKind.WALLET: 180, TenderKind.BANK_DEBIT: 91},
        no_refunds_to=(TenderKind.CASH_ON_DELIVERY, TenderKind.INVOICE),
        fallbacks=(
            Fallback(channel=RefundChannel.BANK_TRANSFER, needs_consent=True, days=3),
            Fallback(channel=RefundChannel.STORE_CREDIT, needs_consent=True, days=0),
        ),
        promise_days={TenderKind.CARD: 7, TenderKind.GIFT_CARD: 1},
    )


def approval(threshold: int = 50_000, version: int = 1, since: datetime = EPOCH) -> ApprovalPolicy:
    return ApprovalPolicy(
        version=version, effective_from=since, threshold_minor={"EUR": threshold}, always=(RefundKind.GOODWILL,)
    )


POLICIES = Policies(routing=(routing(),), approval=(approval(),))


def tender(id: str, kind: TenderKind, amount: int, token: str = "tok_ok") -> TenderSpec:
    return TenderSpec(tender_id=id, kind=kind, token=token, amount_minor=amount)


def line(id: str, quantity: int, goods: int) -> PayableLine:
    return PayableLine(line_id=id, quantity=quantity, goods_minor=goods, shipping_minor=0)


def units(**quantities: int) -> tuple[LineQuantity, ...]:
    return tuple(LineQuantity(line_id=id, quantity=n) for id, n in quantities.items())


def opening(lines: Sequence[PayableLine], tenders: Sequence[TenderSpec], shipping: int = 0) -> Open:
    return Open(
        customer_id="c1",
        currency="EUR",
        lines=tuple(lines),
        shipping_minor=shipping,
        total_minor=sum(n.goods_minor for n in lines) + shipping,
        tenders=tuple(tenders),
        placed_at=NOON,
        at=NOON,
    )


@dataclass
class Story:
    """Everything that is told is folded, round-tripped laws included: a broken law fails the test at once."""

    state: Account = field(default_factory=lambda: Account("o1"))
    policies: Policies = POLICIES
    facts: list[Fact] = field(default_factory=list)

    def tell(self, command: Command) -> list[Fact]:
        told = list(decide(self.state, command, self.policies))
        for fact in told:
            self.state = evolve(self.state, fact)
        assert invariants(self.state) == []
        self.facts += told
        return told

    def handed_over(self, shipment: str, at: datetime = NOON, **quantities: int) -> list[Fact]:
        return self.tell(RecordUnitsChange(UnitsChange.HANDED_OVER, shipment, units(**quantities), at))

    def cancelled(self, cancellation: str, at: datetime = NOON, **quantities: int) -> list[Fact]:
        return self.tell(RecordUnitsChange(UnitsChange.CANCELLED, cancellation, units(**quantities), at))

    def lost(self, shipment: str, **quantities: int) -> list[Fact]:
        return self.tell(RecordUnitsChange(UnitsChange.UNDELIVERED, shipment, units(**quantities), NOON))

    def waiting(self) -> list[Operation]:
        return [o for o in self.state.operations.values() if o.status is OperationStatus.REQUESTED]

    def submit(self, id: str) -> list[Fact]:
        return self.tell(Submit(id))

    def answer(
        self,
        id: str,
        result: Result = Result.SUCCEEDED,
        *,
        code: str = "",
        amount: int | None = None,
        at: datetime | None = None,
        expires_at: datetime | None = None,
    ) -> list[Fact]:
        operation = self.state.operations[id]
        verdict = ProviderResult(
            result=result,
            amount_minor=operation.amount_minor if amount is None else amount,
            at=at or operation.requested_at,
            reference=f"ref-{id}",
            code=code,
            expires_at=expires_at,
        )
        return self.tell(RecordOutcome(id, verdict))

    def all_succeed(self) -> None:
        """The provider does everything that is asked of it, and what follows."""
        while waiting := self.waiting():
            for operation in waiting:
                self.submit(operation.id)
                self.answer(operation.id, expires_at=NOON + timedelta(days=30))


def paid(
    *tenders: TenderSpec,
    lines: Sequence[PayableLine],
    shipping: int = 0,
    policies: Policies = POLICIES,
) -> Story:
    """An order that is authorized and confirmed."""
    story = Story(policies=policies)
    story.tell(opening(lines, tenders, shipping))
    story.all_succeed()
    story.tell(Confirm(NOON))
    story.all_succeed()
    return story


def types(facts: list[Any]) -> list[str]:
    return [fact.type for fact in facts]


def refund(amount: int, kind: RefundKind = RefundKind.PRICE_ADJUSTMENT, **more: Any) -> RequestRefund:
    fields = {"lines": (), "currency": "EUR", "requester": "agent:anna", "at": NOON, "account": ACCOUNT}
    return RequestRefund(kind=kind, amount_minor=amount, **{**fields, **more})


def owed(amount: int, cause: str = "due-1", **more: Any) -> OweRefund:
    fields = {
        "kind": RefundKind.RETURN,
        "return_id": "o1-RMA1",
        "lines": (),
        "currency": "EUR",
        "trigger_at": NOON,
        "channel": RefundChannel.ORIGINAL,
        "requester": "partner:wms",
        "at": NOON,
    }
    return OweRefund(cause_id=cause, amount_minor=amount, **{**fields, **more})


def tender_status(story: Story, tender_id: str = "t1") -> TenderStatus:
    return story.state.tenders[tender_id].status


def shipped_card(amount: int = 10_000, **more: Any) -> Story:
    """One line, one card, handed over and captured whole."""
    story = paid(tender("t1", CARD, amount), lines=[line("a", 1, amount)], **more)
    story.handed_over("S1", a=1)
    story.all_succeed()
    return story


def shipped_two(**more: Any) -> Story:
    """Half by gift card, half by card, all handed over and captured."""
    story = paid(tender("t1", GIFT, 4_000), tender("t2", CARD, 6_000), lines=[line("a", 2, 10_000)], **more)
    story.handed_over("S1", a=2)
    story.all_succeed()
    return story


def claimed(story: Story, claim_id: str, n: int, reason: ReturnReason) -> None:
    """As returns says it; what does not concern payments is not told."""
    fact = ClaimOpened(order_id="o1", claim_id=claim_id, lines=units(a=n), reason=reason)
    told = open_claim(fact, Cause(UUID(int=1), NOON, "service:returns", fact.type, "story"))
    if told is not None:
        assert not isinstance(told.command, Undecodable)
        story.tell(told.command)


def legs_of(story: Story, amount: int = 5_000, **more: Any) -> list[tuple[str, str, int]]:
    story.tell(owed(amount, **more))
    return [(o.tender_id, str(o.channel), o.amount_minor) for o in story.waiting()]


def disputed(story: Story, change: Any, amount: int, id: str = "d1") -> list[Any]:
    return story.tell(Dispute("ref-o1-P1", id, change, amount, NOON))
