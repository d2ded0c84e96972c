"""The whole system in memory: the pure cores behind their real translations, topics that cross, and a world that errs.

Nothing is decided here. Messages of one key of one topic arrive in order, everything else in any order; a message may
come again; the processor may lose a request or an answer; people, warehouse and carrier act when they like. Every
sentence of what happened is kept, so that a story which breaks a law can be read.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from enum import StrEnum
from typing import Any, Final, Literal
from uuid import UUID

from fulfillment.domain.allocation import fills_whole
from fulfillment.domain.decide import Fill, TakeSilence
from fulfillment.domain.policy import FulfillmentPolicy
from fulfillment.domain.shelf import Receipts
from fulfillment.domain.state import OrderFulfillment
from fulfillment.domain.stock import Shelf, Stock
from fulfillment.handlers import ROUTES as FULFILLMENT_ROUTES
from fulfillment.store import ORDERS as FULFILLMENT
from fulfillment.store import SHELVES
from ops.invariants import States, broken
from orders.domain.decide import Close
from orders.domain.policy import OrderPolicy
from orders.domain.state import Order
from orders.handlers import ROUTE as ORDERS_ROUTE
from orders.store import ORDERS
from payments.domain.decide import Dispute, ExpireAuthorization, MarkUnknown, RecordMovement, RecordOutcome, Submit
from payments.domain.operation import Operation, OperationStatus, ProviderResult, Result
from payments.domain.payout import Policies as RefundPolicies
from payments.domain.refund import ApprovalPolicy
from payments.domain.routing import Fallback, RoutingPolicy
from payments.domain.state import Account
from payments.domain.tender import Tender
from payments.handlers import ROUTE as PAYMENTS_ROUTE
from payments.store import PAYMENTS
from returns.domain.decide import due_command
from returns.domain.policies import Policies as ReturnPolicies
from returns.domain.state import OrderReturns
from returns.handlers import ROUTE as RETURNS_ROUTE
from returns.store import ORDER_RETURNS
from shared.contracts.base import Fact, TenderKind
from shared.contracts.fulfillment import (
    BackorderCreated,
    BackorderFilled,
    ReplacementCreated,
    StockAllocated,
    StockExpected,
    StockFact,
    StockReceived,
)
from shared.contracts.orders import BackorderChoice
from shared.contracts.partners import PartnerMessage
from shared.contracts.payments import MovementKind, OperationKind, PaymentAnomalyDetected, RefundChannel, RefundKind
from shared.contracts.returns import InspectionRule, Resolution, ReturnPolicy
from shared.core.machine import Invalid, NotAllowed
from shared.messaging.envelope import Cause
from shared.messaging.router import Route
from shared.messaging.shell import Flow, Message

NOON: Final = datetime(2026, 6, 1, 12, tzinfo=timezone.utc)
EVER: Final = datetime(2000, 1, 1, tzinfo=timezone.utc)

ORDER_POLICIES: Final = [OrderPolicy("orders", 1, EVER, timedelta(days=60))]
REFUND_POLICIES: Final = RefundPolicies(
    routing=(
        RoutingPolicy(
            version=1,
            effective_from=EVER,
            limit_days={TenderKind.CARD: 180},
            no_refunds_to=(TenderKind.CASH_ON_DELIVERY, TenderKind.INVOICE),
            fallbacks=(
                Fallback(channel=RefundChannel.BANK_TRANSFER, needs_consent=True, days=3),
                Fallback(channel=RefundChannel.STORE_CREDIT, needs_consent=False, days=0),
            ),
            promise_days={TenderKind.CARD: 7},
        ),
    ),
    approval=(
        ApprovalPolicy(version=1, effective_from=EVER, threshold_minor={"EUR": 2_000}, always=(RefundKind.GOODWILL,)),
    ),
)
FULFILLMENT_POLICY: Final = FulfillmentPolicy(
    policy_id="fulfillment",
    version=1,
    effective_from=EVER,
    location_priority=("berlin", "hamburg"),
    consent_after_days=7,
    consent_hours=72,
    consent_options=(BackorderChoice.WAIT, BackorderChoice.CANCEL),
    silence=BackorderChoice.CANCEL,
)
INSPECTION: Final = (
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
RETURN_POLICY: Final = ReturnPolicy(
    policy_id="standard",
    version=1,
    effective_from=EVER,
    window_days=60,
    resolutions=tuple(Resolution),
    return_shipping_fee_minor=150,
    inspection=INSPECTION,
)


class Service(StrEnum):
    ORDERS = "orders"
    PAYMENTS = "payments"
    FULFILLMENT = "fulfillment"
    RETURNS = "returns"


ROUTES: Final[Mapping[Service, Sequence[Route]]] = {
    Service.ORDERS: (ORDERS_ROUTE,),
    Service.PAYMENTS: (PAYMENTS_ROUTE,),
    Service.FULFILLMENT: FULFILLMENT_ROUTES,
    Service.RETURNS: (RETURNS_ROUTE,),
}
HEARD: Final = {
    (service, kind): (route.flow, translate)
    for service, routes in ROUTES.items()
    for route in routes
    for kind, translate in route.translations.items()
}
"""By listener and class: which flow takes it, and what makes a command of it."""
FLOWS: Final[Mapping[Service, Flow[Any, Any, Any]]] = {
    Service.ORDERS: ORDERS,
    Service.PAYMENTS: PAYMENTS,
    Service.FULFILLMENT: FULFILLMENT,
    Service.RETURNS: ORDER_RETURNS,
}


@dataclass(frozen=True, slots=True)
class Entry:
    """A fact in a journal, as it travels; `cause` is what its listeners are told by."""

    fact: Fact
    cause: Cause


@dataclass(slots=True)
class Holding:
    """What the processor holds under one authorization."""

    amount_minor: int
    expires_at: datetime
    captured_minor: int = 0
    voided_minor: int = 0
    refunded_minor: int = 0
    disputed_minor: int = 0

    @property
    def left_minor(self) -> int:
        return self.amount_minor - self.captured_minor - self.voided_minor

    @property
    def refundable_minor(self) -> int:
        return self.captured_minor - self.refunded_minor - self.disputed_minor


@dataclass(slots=True)
class Processor:
    """The card processor: one effect per key, whatever it is asked and however often. Tokens say what it refuses."""

    booked: dict[str, ProviderResult] = field(default_factory=dict)
    holdings: dict[str, Holding] = field(default_factory=dict)
    of: dict[str, tuple[str, Operation]] = field(default_factory=dict)

    def perform(self, order_id: str, operation: Operation, tender: Tender, at: datetime) -> ProviderResult:
        known = self.booked.get(operation.id)
        if known is None:
            known = self.booked[operation.id] = self._done(operation, tender, at)
            self.of[operation.id] = (order_id, operation)
        return known

    def _done(self, operation: Operation, tender: Tender, at: datetime) -> ProviderResult:
        def verdict(result: Result, code: str = "", **more: Any) -> ProviderResult:
            return ProviderResult(result, operation.amount_minor, at, f"ref-{operation.id}", code, **more)

        if operation.kind is OperationKind.AUTHORIZE:
            if tender.token == "declines" or (tender.token == "once" and tender.exchange_id is not None):
                return verdict(Result.FAILED, "insufficient_funds")
            holding = Holding(operation.amount_minor, at + timedelta(days=30))
            self.holdings[f"ref-{operation.id}"] = holding
            return verdict(Result.SUCCEEDED, expires_at=holding.expires_at)
        if operation.authorization is None:
            return verdict(Result.SUCCEEDED)
        if operation.authorization not in self.holdings:
            # What we authorized ourselves, and what is drawn on it, nobody else knows of.
            return verdict(Result.FAILED, "unknown_authorization")
        holding = self.holdings[operation.authorization]
        match operation.kind:
            case OperationKind.CAPTURE:
                if holding.expires_at <= at:
                    return verdict(Result.FAILED, "authorization_expired")
                if tender.token == "no_capture" or operation.amount_minor > holding.left_minor:
                    return verdict(Result.FAILED, "capture_declined")
                holding.captured_minor += operation.amount_minor
                if operation.final:
                    holding.voided_minor += holding.left_minor
                return verdict(Result.SUCCEEDED)
            case OperationKind.VOID:
                if tender.token == "no_void" or not holding.left_minor:
                    return verdict(Result.FAILED, "void_declined")
                released = holding.left_minor
                holding.voided_minor += released
                return replace(verdict(Result.SUCCEEDED), amount_minor=released)
            case _:
                if tender.token == "no_refund":
                    return verdict(Result.FAILED, "account_closed")
                if operation.amount_minor > holding.refundable_minor:
                    return verdict(Result.FAILED, "disputed" if holding.disputed_minor else "exceeds_captured")
                holding.refunded_minor += operation.amount_minor
                return verdict(Result.SUCCEEDED)

    def bounce(self, operation: Operation, at: datetime) -> ProviderResult:
        """A refund comes back days later."""
        bounced = replace(self.booked[operation.id], result=Result.REVERSED, code="account_closed", at=at)
        self.booked[operation.id] = bounced
        if operation.authorization is not None:
            self.holdings[operation.authorization].refunded_minor -= operation.amount_minor
        return bounced


class Broken(AssertionError):
    """A law does not hold; the story says how it came to that."""


@dataclass(slots=True)
class World:
    """`said` is the story so far. A queue is a listener's view of one key of one topic."""

    now: datetime = NOON
    said: list[str] = field(default_factory=list)
    states: dict[tuple[Service, str], Any] = field(default_factory=dict)
    journal: dict[tuple[Service, str], list[Entry]] = field(default_factory=dict)
    claimed: set[tuple[Service, UUID]] = field(default_factory=set)
    queues: dict[tuple[Service, Service, str], list[Entry]] = field(default_factory=dict)
    heard: list[tuple[Service, Entry]] = field(default_factory=list)
    shelves: dict[str, dict[str, Shelf]] = field(default_factory=dict)
    receipts: dict[tuple[str, str], int] = field(default_factory=dict)
    processor: Processor = field(default_factory=Processor)
    late_requests: list[tuple[str, str]] = field(default_factory=list)
    late_answers: list[tuple[str, str, ProviderResult]] = field(default_factory=list)
    notices: list[tuple[str, UUID, str, ProviderResult]] = field(default_factory=list)
    fired: set[tuple[Service, str, str, datetime]] = field(default_factory=set)
    orders: list[str] = field(default_factory=list)
    numbers: int = 0

    # What each service knows.

    def order(self, id: str) -> Order:
        state = self.states[Service.ORDERS, id]
        assert isinstance(state, Order)
        return state

    def account(self, id: str) -> Account:
        found: Account = self.states.get((Service.PAYMENTS, id)) or Account(id)
        return found

    def fulfillment(self, id: str) -> OrderFulfillment:
        found: OrderFulfillment = self.states.get((Service.FULFILLMENT, id)) or OrderFulfillment(id)
        return found

    def returns(self, id: str) -> OrderReturns:
        found: OrderReturns = self.states.get((Service.RETURNS, id)) or OrderReturns(id)
        return found

    def facts(self, service: Service, key: str) -> list[Fact]:
        return [entry.fact for entry in self.journal.get((service, key), ())]

    # Telling.

    def number(self) -> int:
        self.numbers += 1
        return self.numbers

    def say(self, sentence: str) -> None:
        self.said.append(f"{self.now:%d %b %H:%M}  {sentence}")

    def cause(self, actor: str, reason: str, at: datetime | None = None) -> Cause:
        n = self.number()
        return Cause(UUID(int=n), at or self.now, actor, reason, f"story-{n}")

    def tell(self, service: Service, flow: Flow[Any, Any, Any], message: Message[Any]) -> list[Fact]:
        """One transaction: claimed once, decided, folded, appended, put into the queues. Raises what the core raises."""
        if (service, message.cause.id) in self.claimed:
            return []
        place = (service, message.key)
        state = self.states[place] if place in self.states else flow.initial(message.key)
        around = self._surroundings(flow, message)
        facts = list(flow.decide(state, message.command, around))
        for fact in facts:
            state = flow.evolve(state, fact)
            if flow.evolve_context is not None:
                around = flow.evolve_context(around, fact)
        self.claimed.add((service, message.cause.id))
        if facts:
            self.states[place] = state
            if isinstance(around, Stock):
                self.shelves = {sku: dict(at) for sku, at in around.shelves.items()}
            for fact in facts:
                self._append(service, message, fact)
            self._hold_laws(flow, message.key, state)
        return facts

    def _surroundings(self, flow: Flow[Any, Any, Any], message: Message[Any]) -> Any:
        if flow is ORDERS:
            return ORDER_POLICIES
        if flow is PAYMENTS:
            return REFUND_POLICIES
        if flow is ORDER_RETURNS:
            return ReturnPolicies({("standard", 1): RETURN_POLICY}, {})
        if flow is SHELVES:
            return Receipts(self.receipts, {message.key: message.cause.at})
        return self._stock(message)

    def _stock(self, message: Message[Any]) -> Stock:
        waiting = [self.fulfillment(id) for id in self.orders]
        places = {one.order_id: (one.placed_at, one.order_id) for one in waiting if one.placed_at is not None}
        ahead: dict[tuple[str, str], int] = {}
        for one in waiting:
            for backorder in one.waiting:
                if message.key in places and places[one.order_id] < places[message.key]:
                    at = (message.key, backorder.sku)
                    ahead[at] = ahead.get(at, 0) + backorder.open
        return Stock(self.shelves, places, ahead, {}, (FULFILLMENT_POLICY,), {message.key: message.cause.at})

    def _append(self, service: Service, message: Message[Any], fact: Fact) -> None:
        written = self.journal.setdefault((service, message.key), [])
        id = UUID(int=self.number())
        cause = message.cause._replace(
            id=id, reason=fact.type, causation_id=str(message.cause.id), sequence=len(written) + 1
        )
        entry = Entry(fact, cause)
        written.append(entry)
        if isinstance(fact, StockReceived | StockExpected):
            self._shelve(fact)
        for listener in Service:
            if listener is not service and (listener, type(fact)) in HEARD:
                self.queues.setdefault((listener, service, message.key), []).append(entry)

    def _shelve(self, fact: StockReceived | StockExpected) -> None:
        at = self.shelves.setdefault(fact.sku, {})
        shelf = at.get(fact.location, Shelf())
        if isinstance(fact, StockReceived):
            self.receipts[fact.subject, fact.receipt_id] = fact.quantity
            left = max(0, shelf.incoming - fact.quantity)
            shelf = replace(
                shelf, on_hand=shelf.on_hand + fact.quantity, incoming=left, eta=shelf.eta if left else None
            )
        else:
            shelf = replace(shelf, incoming=fact.incoming, eta=fact.eta)
        at[fact.location] = shelf

    def states_of(self, id: str) -> States:
        known = [self.states.get((service, id)) for service in Service]
        return States(*known)

    def stock_facts(self, id: str) -> list[StockFact]:
        return [fact for fact in self.facts(Service.FULFILLMENT, id) if isinstance(fact, StockFact)]

    def _hold_laws(self, flow: Flow[Any, Any, Any], key: str, state: Any) -> None:
        """After every step: each service's laws, the shelves, and what must hold across services at any moment."""
        found = list(flow.invariants(state))
        found += [
            f"{sku} at {location}: {shelf.allocated} allocated of {shelf.on_hand} on hand"
            for sku, at in self.shelves.items()
            for location, shelf in at.items()
            if not 0 <= shelf.allocated <= shelf.on_hand
        ]
        if key in self.orders:
            found += broken(self.states_of(key), self.stock_facts(key), at_rest=False)
        if found:
            raise Broken("; ".join(found))

    # Messages.

    def pending(self) -> list[tuple[Service, Service, str]]:
        return [queue for queue, entries in self.queues.items() if entries]

    def deliver(self, queue: tuple[Service, Service, str]) -> None:
        listener, _, _ = queue
        entry = self.queues[queue].pop(0)
        self.heard.append((listener, entry))
        self._hear(listener, entry)

    def repeat(self, which: int) -> None:
        """An old message comes again, as it was."""
        listener, entry = self.heard[which % len(self.heard)]
        self._hear(listener, entry, " again")

    def _hear(self, listener: Service, entry: Entry, how: str = "") -> None:
        flow, translate = HEARD[listener, type(entry.fact)]
        told = translate(entry.fact, entry.cause)
        try:
            facts = self.tell(listener, flow, told) if told is not None else []
        except (NotAllowed, Invalid) as error:
            self.say(f"{listener} hears {_said(entry.fact)}{how}")
            raise Broken(f"{listener} parks {entry.fact.type}: {error}") from error
        self.say(f"{listener} hears {_said(entry.fact)}{how}{_then(facts)}")

    # People, partners and clocks.

    def act(
        self, service: Service, id: str, command: Any, actor: str, sentence: str, at: datetime | None = None
    ) -> bool:
        """Somebody who waits for the answer; a refusal is one. Whether anything came of it."""
        message = Message(id, command, self.cause(actor, sentence, at))
        return self._answered(sentence, lambda: self.tell(service, FLOWS[service], message))

    def partner(self, service: Service, message: PartnerMessage, sentence: str) -> bool:
        """The warehouse, by its topic. What it says of goods has happened, and is never refused (I16)."""
        flow, translate = HEARD[service, type(message)]
        told = translate(message, self.cause("partner:warehouse", sentence))
        assert told is not None
        try:
            facts = self.tell(service, flow, told)
        except (NotAllowed, Invalid) as error:
            raise Broken(f"I16: {sentence}: refused, {error}") from error
        finally:
            self.say(sentence)
        self.said[-1] += _then(facts)
        return bool(facts)

    def _answered(self, sentence: str, tell: Callable[[], list[Fact]]) -> bool:
        try:
            facts = tell()
        except (NotAllowed, Invalid) as error:
            self.say(f"{sentence}: refused, {error}")
            return False
        except Broken:
            self.say(sentence)
            raise
        self.say(f"{sentence}{_then(facts)}")
        return bool(facts)

    def serve_the_queue(self) -> bool:
        """The filler: who was placed first is served first."""
        is_any = False
        for id in sorted(self.orders, key=lambda id: (self.fulfillment(id).placed_at or NOON, id)):
            state = self.fulfillment(id)
            if state.waiting:
                how = " whole" if fills_whole(state) else ""
                is_any |= self.act(
                    Service.FULFILLMENT, id, Fill(self.now), "service:fulfillment", f"The filler serves {id}{how}"
                )
        return is_any

    def pass_time(self, how_long: timedelta, *, is_punctual: bool) -> None:
        """Deadlines fire on their way, or all at the end."""
        until = self.now + how_long
        if not is_punctual:
            self.now = until
        while due := min(self._due(until), default=None):
            at, service, id, name = due
            self.fired.add((service, id, name, at))
            self.now = max(self.now, at)
            command = _fire(service, id, name, at, self.now)
            self.act(service, id, command, f"service:{service}", f"The deadline {name} of {id} fires", at)
        self.now = until
        self.say(f"{how_long.days} days pass")

    def _due(self, until: datetime) -> Iterator[tuple[datetime, Service, str, str]]:
        for service, flow in FLOWS.items():
            for id in self.orders:
                if flow.deadlines is not None and (service, id) in self.states:
                    for name, at in flow.deadlines(self.states[service, id]).items():
                        if at <= until and (service, id, name, at) not in self.fired:
                            yield at, service, id, name

    # The processor, and the workers that ask it.

    def operations(self, *statuses: OperationStatus) -> list[tuple[str, Operation]]:
        """Those that the processor is asked for; what is ours we perform ourselves."""
        return [
            (id, operation)
            for id in self.orders
            for operation in self.account(id).operations.values()
            if operation.status in statuses
            and (operation.kind is OperationKind.REFUND or not self.account(id).tenders[operation.tender_id].is_own)
        ]

    def submit(self, id: str, operation: Operation, fate: str = "answered") -> None:
        """The worker takes it up; then the request and its answer meet their fate."""
        what = f"the processor for {operation.kind} {operation.id} of {operation.amount_minor}"
        self._worker(id, Submit(operation.id), f"Payments asks {what}")
        if self.account(id).operations[operation.id].status is not OperationStatus.SUBMITTED:
            return
        match fate:
            case "answered":
                verdict = self._perform(id, operation.id)
                self._conclude(id, operation.id, verdict, "The processor answers")
            case "request lost":
                self._worker(id, MarkUnknown(operation.id), "The request is lost; payments does not know")
            case "answer lost":
                self._perform(id, operation.id)
                self._worker(id, MarkUnknown(operation.id), "It is done, the answer is lost; payments does not know")
            case "request late":
                self.late_requests.append((id, operation.id))
                self._worker(
                    id, MarkUnknown(operation.id), "The request is on its way for long; payments does not know"
                )
            case "worker dies":
                self.late_requests.append((id, operation.id))
                self.say("The worker dies with the request on its way")
            case _:
                self.late_answers.append((id, operation.id, self._perform(id, operation.id)))
                self.say("It is done, and the answer takes long")

    def _worker(self, id: str, command: Any, sentence: str) -> None:
        self.act(Service.PAYMENTS, id, command, "service:payments", sentence)

    def _perform(self, id: str, operation_id: str) -> ProviderResult:
        account = self.account(id)
        operation = account.operations[operation_id]
        is_new = operation_id not in self.processor.booked
        verdict = self.processor.perform(id, operation, account.tenders[operation.tender_id], self.now)
        if is_new:
            self.notices.append((id, UUID(int=self.number()), operation_id, verdict))
        return verdict

    def _conclude(self, id: str, operation_id: str, verdict: ProviderResult | None, who: str) -> None:
        said = f"{verdict.result} {verdict.code}".strip() if verdict else "never seen"
        self._worker(id, RecordOutcome(operation_id, verdict), f"{who}: {operation_id} {said}")

    def request_arrives(self, which: int) -> None:
        id, operation_id = self.late_requests.pop(which % len(self.late_requests))
        self.say(f"The late request {operation_id} arrives at the processor")
        self._perform(id, operation_id)

    def answer_arrives(self, which: int) -> None:
        id, operation_id, verdict = self.late_answers.pop(which % len(self.late_answers))
        self._conclude(id, operation_id, verdict, "The late answer arrives")

    def reconcile(self, id: str, operation: Operation) -> None:
        self._conclude(id, operation.id, self.processor.booked.get(operation.id), "The reconciler asks")

    def notice(self, which: int, *, is_kept: bool) -> None:
        """A webhook, in any order; one that is kept comes again, under the id it had."""
        at = which % len(self.notices)
        id, notice_id, operation_id, verdict = self.notices[at]
        if not is_kept:
            del self.notices[at]
        cause = Cause(notice_id, verdict.at, "partner:processor", "notice", f"notice-{operation_id}")
        message = Message(id, RecordOutcome(operation_id, verdict), cause)
        sentence = f"The processor gives notice: {operation_id} {verdict.result}"
        self._answered(sentence, lambda: self.tell(Service.PAYMENTS, PAYMENTS, message))

    def bounce(self, which: int) -> None:
        paid = [
            key
            for key, verdict in self.processor.booked.items()
            if verdict.result is Result.SUCCEEDED and self.processor.of[key][1].kind is OperationKind.REFUND
        ]
        if paid:
            key = paid[which % len(paid)]
            id, operation = self.processor.of[key]
            verdict = self.processor.bounce(operation, self.now)
            self.notices.append((id, UUID(int=self.number()), key, verdict))
            self.say(f"The refund {key} bounces at the bank")

    def dispute(self, which: int) -> None:
        known = {a.reference for id in self.orders for t in self.account(id).tenders.values() for a in t.authorizations}
        open_to = [ref for ref, held in self.processor.holdings.items() if held.refundable_minor > 0 and ref in known]
        if open_to:
            reference = open_to[which % len(open_to)]
            holding, (id, _) = self.processor.holdings[reference], self.processor.of[reference.removeprefix("ref-")]
            if holding.disputed_minor:
                return
            amount = holding.disputed_minor = holding.refundable_minor
            command = Dispute(reference, f"disp-{reference}", "opened", amount, self.now)
            self.act(Service.PAYMENTS, id, command, "partner:processor", f"The cardholder disputes {amount} of {id}")

    def dashboard(self, which: int) -> None:
        """Somebody gives money back in the processor's own dashboard, while nothing of ours is on its way there."""
        known = {
            a.reference: id for id in self.orders for t in self.account(id).tenders.values() for a in t.authorizations
        }
        open_to = [
            ref
            for ref, held in self.processor.holdings.items()
            if held.refundable_minor > 0
            and ref in known
            and not any(o.is_in_flight for o in self.account(known[ref]).legs() if o.authorization == ref)
        ]
        if open_to:
            reference = open_to[which % len(open_to)]
            id, holding = known[reference], self.processor.holdings[reference]
            amount = 1 + which % holding.refundable_minor
            holding.refunded_minor += amount
            command = RecordMovement(
                MovementKind.REFUND, reference, f"dash-{self.number()}", amount, self.now, "by hand, in the dashboard"
            )
            self.act(Service.PAYMENTS, id, command, "partner:processor", f"The dashboard gives {amount} of {id} back")

    def end_dispute(self, which: int, *, is_won: bool) -> None:
        for id in self.orders:
            for tender in self.account(id).tenders.values():
                if tender.dispute == "open" and tender.dispute_id is not None:
                    reference = tender.dispute_id.removeprefix("disp-")
                    if is_won:
                        self.processor.holdings[reference].disputed_minor = 0
                    change: Literal["won", "lost"] = "won" if is_won else "lost"
                    command = Dispute(reference, tender.dispute_id, change, tender.disputed_minor, self.now)
                    sentence = f"The dispute on {tender.id} of {id} is {change}"
                    self.act(Service.PAYMENTS, id, command, "partner:processor", sentence)
                    return

    # Rest.

    def flow(self, first: int = 0) -> None:
        """Every message that is on its way arrives, the queues by turns from `first`."""
        while queues := self.pending():
            self.deliver(queues[first % len(queues)])

    def come_to_rest(self) -> None:
        """Everything on its way arrives, every operation gets its outcome, whoever waits is served as far as may be."""
        self.say("Everything comes to rest")
        for _ in range(200):
            self.flow()
            while self.late_requests:
                self.request_arrives(0)
            while self.late_answers:
                self.answer_arrives(0)
            for id, operation in self.operations(OperationStatus.SUBMITTED, OperationStatus.UNKNOWN):
                self.reconcile(id, operation)
            for id, operation in self.operations(OperationStatus.REQUESTED):
                self.submit(id, operation)
            while self.notices:
                self.notice(0, is_kept=False)
            is_served = self.serve_the_queue()
            if not (is_served or self.pending() or self.operations(*_IN_FLIGHT)):
                return
        raise Broken("the system does not come to rest")

    def broken_at_rest(self) -> list[str]:
        """All that must hold once nothing is on its way."""
        found: list[str] = []
        for id in self.orders:
            found += broken(self.states_of(id), self.stock_facts(id), at_rest=True)
            found += self._books(id) + self._captured_early(id)
            if self.order(id).version != len(self.journal[Service.ORDERS, id]):
                found.append(f"I14: {id} is at version {self.order(id).version}, not at its sequence")
        for (service, key), state in self.states.items():
            found += self._fold(service, key, state)
        return found + self._stock_drift()

    def _fold(self, service: Service, key: str, state: Any) -> list[str]:
        """The state is the fold of its journal as it is read back, and is itself read back as it was."""
        flow = SHELVES if key.startswith("stock:") else FLOWS[service]
        facts = [type(fact).model_validate_json(fact.model_dump_json()) for fact in self.facts(service, key)]
        found = []
        if flow.fold(key, facts) != state:
            found.append(f"the state of {service} {key} is not the fold of its journal")
        if flow.state.validate_json(flow.state.dump_json(state)) != state:
            found.append(f"the state of {service} {key} is not read back as it was written")
        return found

    def _captured_early(self, id: str) -> list[str]:
        """Payments counts a unit as handed over once: one that is sent again was paid for when it was first sent."""
        owed_again: set[str] = set()
        first: dict[tuple[str, str], int] = {}
        again_for: tuple[str, str] | None = None
        replacing: str | None = None
        for entry in self.journal.get((Service.FULFILLMENT, id), ()):
            fact = entry.fact
            if isinstance(fact, ReplacementCreated):
                replacing = entry.cause.causation_id
            is_again = entry.cause.causation_id == replacing
            if isinstance(fact, BackorderCreated) and is_again:
                owed_again.add(fact.backorder_id)
            elif isinstance(fact, BackorderFilled):
                again_for = (fact.shipment_id, fact.line_id) if fact.backorder_id in owed_again else None
            elif isinstance(fact, StockAllocated):
                place = (fact.shipment_id, fact.line_id)
                if not is_again and place != again_for:
                    first[place] = first.get(place, 0) + fact.quantity
                again_for = None
        out = {s.shipment_id for s in self.fulfillment(id).shipments.values() if s.carrier}
        found = []
        for line_id, units in self.account(id).units.items():
            went = sum(n for (shipment, line), n in first.items() if shipment in out and line == line_id)
            most = max(0, self.account(id).lines[line_id].quantity - units.cancelled)
            if min(units.handed_over, most) > min(went, most):
                found.append(f"I7: payments takes {units.handed_over} of line {line_id} for handed over, not {went}")
        return found

    def _books(self, id: str) -> list[str]:
        """Ours and the processor's, operation by operation and authorization by authorization."""
        found, account = [], self.account(id)
        for _, operation in self.operations(*OperationStatus):
            if operation.id not in account.operations:
                continue
            there = self.processor.booked.get(operation.id)
            was_never_sent = there is None and operation.status is OperationStatus.FAILED
            if not was_never_sent and (there is None or there.result.value != operation.status.value):
                found.append(f"{operation.id} is {operation.status} here, {there.result if there else 'unknown'} there")
        for tender in account.tenders.values():
            for a in tender.authorizations:
                holding = self.processor.holdings.get(a.reference)
                if holding is None:
                    continue
                back = sum(
                    o.amount_minor
                    for o in account.legs(tender.id)
                    if o.authorization == a.reference and o.status is OperationStatus.SUCCEEDED
                )
                back += sum(m.amount_minor for m in account.unasked_refunds() if m.authorization == a.reference)
                ours, theirs = (a.captured_minor, back), (holding.captured_minor, holding.refunded_minor)
                if ours != theirs:
                    found.append(f"(captured, refunded) of {a.reference} is {ours} here and {theirs} there")
        found += [
            f"anomaly: {fact.detail}"
            for fact in self.facts(Service.PAYMENTS, id)
            if isinstance(fact, PaymentAnomalyDetected) and fact.operation_id is not None
        ]
        return found

    def _stock_drift(self) -> list[str]:
        """What is allocated on the shelves is what shipments that are here hold, and nothing else."""
        held: dict[tuple[str, str], int] = {}
        for id in self.orders:
            for shipment in self.fulfillment(id).shipments.values():
                if shipment.carrier is None:
                    for item in shipment.items:
                        at = (item.sku, shipment.location)
                        held[at] = held.get(at, 0) + item.quantity
        on_shelves = {(sku, at): s.allocated for sku, places in self.shelves.items() for at, s in places.items()}
        drift = {place: n for place, n in on_shelves.items() if n} != {place: n for place, n in held.items() if n}
        return [f"I9: {on_shelves} allocated, shipments hold {held}"] if drift else []


_IN_FLIGHT: Final = (OperationStatus.REQUESTED, OperationStatus.SUBMITTED, OperationStatus.UNKNOWN)


def _fire(service: Service, id: str, name: str, due_at: datetime, now: datetime) -> Any:
    """A deadline's command, as the service's app makes it."""
    match service:
        case Service.ORDERS:
            return Close(due_at)
        case Service.PAYMENTS:
            return ExpireAuthorization(name.partition(":")[2], due_at, now - due_at)
        case Service.FULFILLMENT:
            return TakeSilence(name.partition(" ")[2], due_at)
        case Service.RETURNS:
            return due_command(id, name, due_at)


def _said(fact: Fact) -> str:
    """A fact with what tells it from others of its type."""
    told = fact.model_dump(
        include={"shipment_id", "tender_id", "refund_id", "return_id", "cancellation_id", "backorder_id"}
    )
    return f"{fact.type} {' '.join([fact.subject, *map(str, told.values())])}"


def _then(facts: Sequence[Fact]) -> str:
    return f" -> {', '.join(fact.type for fact in facts)}" if facts else ""
