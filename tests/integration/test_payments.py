"""Payments on a real PostgreSQL, before the sandbox's processor: money under concurrency, lost answers and signed notices."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest
from fastapi import FastAPI
from standardwebhooks import Webhook

from payments.api import router
from payments.app import expire
from payments.gateway import SandboxProcessor, Unanswered
from payments.handlers import ROUTE
from payments.reconciliation import Auditor
from payments.settings import PaymentsSettings
from payments.store import PAYMENTS, Call
from payments.work import Reconciler, Submitter
from shared.contracts.base import Fact, LineQuantity, PolicyRef, TenderKind
from shared.contracts.fulfillment import Parcel, ShipmentShipped
from shared.contracts.orders import Address, Customer, OrderConfirmed, OrderLine, OrderPlaced, TenderSpec
from shared.contracts.returns import DueLine, ExchangeDifferenceDue, Resolution, ReturnRefundDue
from shared.messaging.consumer import Consumer
from shared.messaging.database import Pool
from shared.messaging.parking import Record
from shared.messaging.router import Router
from shared.messaging.timers import Timers
from shared.web.auth import Tokens, issue
from shared.web.commands import CommandBus
from shared.web.middleware import BodyLimit
from shared.web.problems import install_problems
from tests.backends import Backends
from tests.databases import AUTH_KEY, settings_for
from tests.unit.sandbox_world import KEY, PROCESSOR_SECRET, System, World, sandbox

NewDatabase = Callable[[str], Awaitable[str]]
THEN = datetime(2026, 3, 1, 10, tzinfo=timezone.utc)


@dataclass
class Payments:
    """The service without Kafka: facts are told to its consumer, its workers step when they are told to."""

    pool: Pool
    http: httpx.AsyncClient
    app: FastAPI
    consumer: Consumer
    processor: SandboxProcessor
    there: World
    position: int = 0
    calls: list[Call] = field(default_factory=list)

    @property
    def commands(self) -> CommandBus:
        commands: CommandBus = self.app.state.commands
        return commands

    def submitter(self) -> Submitter:
        return Submitter(self.pool, self.commands, self, 16)

    async def perform(self, call: Call) -> Any:
        self.calls.append(call)
        return await self.processor.perform(call)

    async def find(self, operation_id: str) -> Any:
        return await self.processor.find(operation_id)

    async def books(self, order_ids: Any) -> Any:
        return await self.processor.books(order_ids)

    async def hear(self, *facts: Fact, at: datetime = THEN) -> None:
        records = []
        for fact in facts:
            self.position += 1
            headers = {
                "ce_id": str(uuid4()),
                "ce_source": f"urn:order-workflows:{fact.service}",
                "ce_type": fact.type,
                "ce_time": at.isoformat(),
                "ce_actor": "service:test",
            }
            named = [(name, value.encode()) for name, value in headers.items()]
            value = fact.model_dump_json().encode()
            records.append(Record("test", 0, self.position, 0, fact.subject.encode(), named, value))
        await self.consumer.process(records)
        assert await self.pool.fetch("SELECT key, reason, detail FROM parked") == []

    async def work(self) -> None:
        """Until nothing is due: what is asked for is submitted, what lost its answer is asked after."""
        submitter, reconciler = self.submitter(), Reconciler(self.pool, self.commands, self, 16)
        while await submitter.step() or not submitter.is_idle or await self._lost():
            await self.pool.execute(
                "UPDATE operations SET next_attempt_at = now() WHERE status IN ('submitted', 'unknown')"
            )
            await reconciler.step()

    async def _lost(self) -> int:
        found: int = await self.pool.fetchval(
            "SELECT count(*) FROM operations WHERE status IN ('submitted', 'unknown')"
        )
        return found

    async def account(self, order: str = "o1") -> dict[str, Any]:
        answer = await self.http.get(f"/orders/{order}/payments", headers=bearer("auditor"))
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def types(self, order: str = "o1") -> list[str]:
        return [
            r[0] for r in await self.pool.fetch("SELECT type FROM events WHERE subject = $1 ORDER BY sequence", order)
        ]

    async def shipped(self, *tenders: TenderSpec, quantity: int = 2, order: str = "o1") -> None:
        """An order that is placed, confirmed, handed over and captured."""
        await self.hear(placed(*tenders, quantity=quantity, order=order))
        await self.work()
        total = sum(t.amount_minor for t in tenders)
        await self.hear(
            OrderConfirmed(order_id=order, authorized_minor=total, total_minor=total),
            handed_over(quantity, order=order),
        )
        await self.work()

    async def refund(
        self, key: str | None = None, order: str = "o1", role: str = "agent", **more: Any
    ) -> httpx.Response:
        body = {
            "kind": "price_adjustment",
            "currency": "EUR",
            "amount_minor": 1_000,
            "reason": "late",
            "occurred_at": THEN.isoformat(),
        } | more
        headers = bearer(role) | {"Idempotency-Key": key or str(uuid4())}
        return await self.http.post(f"/orders/{order}/refunds", json=body, headers=headers)

    async def on_refund(self, id: str, what: str, role: str, **body: Any) -> httpx.Response:
        headers = bearer(role) | {"Idempotency-Key": str(uuid4())}
        return await self.http.post(
            f"/orders/o1/refunds/{id}/{what}",
            json={"reason": "as agreed", "occurred_at": THEN.isoformat()} | body,
            headers=headers,
        )


def bearer(role: str, subject: str | None = None) -> dict[str, str]:
    return {"Authorization": f"Bearer {issue(AUTH_KEY, subject=subject or role, roles=[role])}"}


def card(amount: int = 10_000, token: str = "tok_ok", id: str = "t1", kind: TenderKind = TenderKind.CARD) -> TenderSpec:
    return TenderSpec(tender_id=id, kind=kind, token=token, amount_minor=amount)


def placed(*tenders: TenderSpec, quantity: int = 2, order: str = "o1") -> OrderPlaced:
    total = sum(t.amount_minor for t in tenders)
    return OrderPlaced(
        order_id=order,
        placed_at=THEN,
        customer=Customer(customer_id="c1", email="ada@example.org", name="Ada"),
        ship_to=Address(name="Ada", street="Main 1", city="Bonn", postal_code="53111", country="DE"),
        currency="EUR",
        lines=(
            OrderLine(
                line_id="a",
                sku="mug",
                title="Mug",
                quantity=quantity,
                unit_price_minor=total // quantity,
                discount_minor=0,
                tax_minor=0,
                shipping_minor=0,
                goods_minor=total,
            ),
        ),
        goods_minor=total,
        shipping_minor=0,
        total_minor=total,
        tenders=tenders,
    )


def handed_over(quantity: int, shipment: str = "S1", order: str = "o1") -> ShipmentShipped:
    lines = (LineQuantity(line_id="a", quantity=quantity),)
    return ShipmentShipped(
        order_id=order,
        shipment_id=f"{order}-{shipment}",
        carrier="dhl",
        parcels=(Parcel(parcel_id="p1", lines=lines),),
        lines=lines,
        number=1,
        of=1,
    )


def due(amount: int) -> ReturnRefundDue:
    return ReturnRefundDue(
        order_id="o1",
        return_id="o1-RMA1",
        due_id="o1-RMA1-due-1",
        lines=(
            DueLine(line_id="a", quantity=1, gross_minor=amount, fee_minor=0, shipping_minor=0, refund_minor=amount),
        ),
        amount_minor=amount,
        currency="EUR",
        trigger_at=THEN,
        resolution=Resolution.REFUND,
        return_shipping_fee_minor=0,
        policy=PolicyRef(policy_id="returns", version=1),
    )


@pytest.fixture
async def payments(new_database: NewDatabase, backends: Backends, tmp_path: Path) -> AsyncIterator[Payments]:
    """The service and the sandbox before it, in this process; the sandbox's notices come back by HTTP."""
    settings = PaymentsSettings.model_validate(
        settings_for("postgresql://unused", backends).model_dump()
        | {
            "processor_url": "http://sandbox/processor",
            "processor_key": KEY,
            "processor_webhook_secret": PROCESSOR_SECRET,
        }
    )
    app = FastAPI()
    install_problems(app)
    app.add_middleware(BodyLimit)
    app.include_router(router)
    async with (
        asyncpg.create_pool(await new_database("payments"), min_size=0, max_size=20) as pool,
        sandbox(tmp_path) as there,
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://payments") as http,
    ):
        processor = SandboxProcessor(httpx.ASGITransport(there.app), "http://sandbox/processor", KEY)
        app.state.settings, app.state.pool, app.state.commands = settings, pool, CommandBus(pool, lambda: None)
        app.state.processor, app.state.tokens = processor, Tokens(AUTH_KEY)
        consumer = Consumer(pool, Router([ROUTE]).process, settings, "payments", lambda: None)
        yield Payments(pool, http, app, consumer, processor, there)


async def forward(payments: Payments, system: System, count: int) -> list[int]:
    """Hand the sandbox's next notices to the service, as they were signed."""
    statuses = []
    for _ in range(count):
        async with asyncio.timeout(10):
            request = await system.received.get()
        answer = await payments.http.post("/webhooks/processor", content=request.content, headers=dict(request.headers))
        statuses.append(answer.status_code)
    return statuses


def notice(kind: str, at: datetime = THEN, **data: Any) -> bytes:
    given = {"reference": "r1", "order_id": "o1", "amount_minor": 5_000, "currency": "EUR"}
    return json.dumps({"id": "evt1", "type": kind, "occurred_at": at.isoformat(), "data": given | data}).encode()


def signature(
    body: bytes, id: str = "evt1", secret: str = PROCESSOR_SECRET, at: datetime | None = None
) -> dict[str, str]:
    at = at or datetime.now(timezone.utc)
    return {
        "webhook-id": id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(secret).sign(id, at, body.decode()),
    }


async def test_a_story_from_placement_to_refund_agrees_with_the_processors_books(payments: Payments) -> None:
    await payments.shipped(card(4_000, id="t1", kind=TenderKind.GIFT_CARD), card(6_001, id="t2"), quantity=3)
    await payments.hear(due(3_334))
    await payments.work()
    account = await payments.account()
    assert (account["captured_minor"], account["refunded_minor"]) == (10_001, 3_334)
    assert [t["refunded_minor"] for t in account["tenders"]] == [1_333, 2_001]
    [refund] = account["refunds"]
    assert (refund["status"], refund["cause_id"], refund["return_id"]) == ("succeeded", "o1-RMA1-due-1", "o1-RMA1")
    report = await payments.http.get("/reconciliation", headers=bearer("operator"))
    assert report.json() == {"orders": 1, "operations": 6, "under_way": 0, "drift": [], "next": None}
    # A story told in the past stays there, in our journal and in the processor's books.
    times = await payments.pool.fetch("SELECT DISTINCT occurred_at FROM events")
    assert [t[0] for t in times] == [THEN]
    assert {o["processed_at"] for o in (await payments.there.books("o1"))["operations"]} == {"2026-03-01T10:00:00Z"}


async def test_fifty_refunds_of_one_capture_at_once_never_exceed_it(payments: Payments) -> None:
    await payments.shipped(card(10_000))
    answers = await asyncio.gather(*(payments.refund(amount_minor=700) for _ in range(50)))
    statuses = [a.status_code for a in answers]
    assert (statuses.count(201), statuses.count(422)) == (14, 36)
    await payments.work()
    account = await payments.account()
    assert account["refunded_minor"] == 14 * 700
    assert (await payments.there.account("o1"))["refunded_minor"] == 14 * 700
    refused = next(a.json() for a in answers if a.status_code == 422)
    assert refused["errors"] == [{"field": "amount_minor", "rule": "only €2.00 is left to refund"}]


async def test_fifty_approvals_at_once_reserve_no_more_than_there_is(payments: Payments) -> None:
    await payments.shipped(card(100_000))
    asked = [await payments.refund(amount_minor=30_000, kind="goodwill") for _ in range(5)]
    # Those that cannot be granted beside the ones that wait are refused at once.
    assert [a.status_code for a in asked] == [201, 201, 201, 422, 422]
    ids = [a.json()["refund_id"] for a in asked[:3]]
    answers = await asyncio.gather(*(payments.on_refund(id, "approve", "supervisor") for id in ids * 10))
    # Approving one again is a repeat.
    assert {a.status_code for a in answers} == {200}
    assert (await payments.account())["refunding_minor"] == 90_000


async def test_one_idempotency_key_fifty_times_is_one_refund(payments: Payments) -> None:
    await payments.shipped(card(10_000))
    answers = await asyncio.gather(*(payments.refund("once") for _ in range(50)))
    assert {a.status_code for a in answers} == {201}
    assert len({a.text for a in answers}) == 1
    assert sum("Idempotency-Replayed" not in a.headers for a in answers) == 1
    assert await payments.pool.fetchval("SELECT count(*) FROM refunds") == 1
    other = await payments.refund("once", amount_minor=1)
    assert (other.status_code, other.json()["errors"][0]["field"]) == (422, "Idempotency-Key")


async def test_the_notice_and_the_answer_race_and_have_one_effect(payments: Payments) -> None:
    for n in range(12):
        await payments.hear(placed(card(1_000 + n), order=f"o{n}"))
    submitter = payments.submitter()
    statuses: list[int] = []

    async def notices() -> None:
        statuses.extend(await forward(payments, payments.there.system, 12))

    async def answers() -> None:
        while await submitter.step() or not submitter.is_idle:
            continue

    await asyncio.gather(notices(), answers())
    assert statuses == [204] * 12
    for n in range(12):
        assert (await payments.types(f"o{n}")).count("payment.authorized") == 1
    # However it was told, it is known until when each of them lasts.
    assert await payments.pool.fetchval("SELECT count(*) FROM deadlines") == 12


async def test_many_workers_ask_for_each_operation_once(payments: Payments) -> None:
    await payments.hear(*(placed(card(1_000 + n), order=f"o{n}") for n in range(30)))
    submitters = [payments.submitter() for _ in range(6)]

    async def until_idle(submitter: Submitter) -> None:
        while await submitter.step() or not submitter.is_idle:
            continue

    await asyncio.gather(*(until_idle(s) for s in submitters))
    assert len(payments.calls) == len({call.operation_id for call in payments.calls}) == 30
    assert await payments.pool.fetchval("SELECT count(*) FROM tenders WHERE status = 'authorized'") == 30


@pytest.mark.parametrize(
    ("token", "outcome"), [("tok_capture_timeout_after", "succeeded"), ("tok_capture_timeout_before", "never_seen")]
)
async def test_a_capture_without_an_answer_is_unknown_until_the_processor_is_asked(
    payments: Payments, token: str, outcome: str
) -> None:
    await payments.shipped(card(10_000, token))
    types = await payments.types()
    assert types.count("payment.operation_unknown") == 1
    assert types.count("payment.captured") == 1
    told = await payments.pool.fetchval(
        "SELECT data ->> 'outcome' FROM events WHERE type = 'payment.operation_reconciled'"
    )
    assert told == outcome
    assert (await payments.there.account("o1"))["captured_minor"] == 10_000
    captures = [o for o in (await payments.there.books("o1"))["operations"] if o["kind"] == "capture"]
    assert len(captures) == 1


@pytest.mark.parametrize("token", ["tok_refund_timeout_after", "tok_refund_timeout_before"])
async def test_a_refund_without_an_answer_is_paid_once(payments: Payments, token: str) -> None:
    await payments.shipped(card(10_000, token))
    await payments.hear(due(2_500))
    await payments.work()
    assert (await payments.account())["refunds"][0]["status"] == "succeeded"
    assert (await payments.there.account("o1"))["refunded_minor"] == 2_500


class Killed(BaseException):
    """The process is gone."""


async def test_a_worker_that_dies_after_the_call_leaves_the_truth_to_the_next(payments: Payments) -> None:
    await payments.hear(placed(card(10_000)))

    class Dying:
        async def perform(self, call: Call) -> Any:
            await payments.processor.perform(call)
            raise Killed

    dying = Submitter(payments.pool, payments.commands, Dying(), 4)  # type: ignore[arg-type]
    with pytest.raises(Killed):
        while True:
            await dying.step()
    assert await payments.pool.fetchval("SELECT status FROM operations") == "submitted"
    # Before the lease is over nobody takes it for dead.
    assert not await Reconciler(payments.pool, payments.commands, payments, 4).step()
    await payments.work()
    assert payments.calls == []
    assert (await payments.account())["authorized_minor"] == 10_000


async def test_an_outage_of_the_processor_is_waited_out_and_nothing_happens_twice(payments: Payments) -> None:
    await payments.hear(placed(card(10_000)))

    class Away:
        async def perform(self, call: Call) -> Any:
            raise Unanswered("away")

        async def find(self, operation_id: str) -> Any:
            raise Unanswered("away")

    away: Any = Away()
    submitter = Submitter(payments.pool, payments.commands, away, 4)
    while await submitter.step():
        continue
    assert await payments.pool.fetchval("SELECT status FROM operations") == "unknown"
    await payments.pool.execute("UPDATE operations SET next_attempt_at = now()")
    assert await Reconciler(payments.pool, payments.commands, away, 4).step()
    wait = await payments.pool.fetchval("SELECT next_attempt_at - now() FROM operations")
    assert timedelta(0) < wait <= timedelta(seconds=1)
    await payments.work()
    assert (await payments.types()).count("payment.authorized") == 1


async def test_a_refund_that_bounces_is_reversed_by_its_notice_and_its_balance_is_free_again(
    payments: Payments,
) -> None:
    await payments.shipped(card(10_000, "tok_refund_bounces"))
    await payments.hear(due(2_500))
    await payments.work()
    system = payments.there.system
    assert await forward(payments, system, 3) == [204, 204, 204]
    bounce = await payments.there.http.post("/processor/control/bounce", json={"operation_key": "o1-R1L1"})
    assert bounce.status_code == 200
    assert await forward(payments, system, 1) == [204]
    account = await payments.account()
    assert (account["refunds"][0]["status"], account["refundable_minor"]) == ("attention", 10_000)
    assert (await payments.types())[-2:] == ["refund.leg_reversed", "refund.attention_needed"]
    nowhere = await payments.on_refund("o1-R1", "reroute", "supervisor", channel="bank_transfer")
    assert (nowhere.status_code, nowhere.json()["errors"][0]["field"]) == (422, "account")
    account = {"iban": "DE89 3704 0044 0532 0130 00"}
    rerouted = await payments.on_refund("o1-R1", "reroute", "supervisor", channel="bank_transfer", account=account)
    assert rerouted.status_code == 200, rerouted.text
    await payments.work()
    assert (await payments.account())["refunds"][0]["status"] == "succeeded"
    report = await payments.http.get("/reconciliation", headers=bearer("auditor"))
    assert report.json()["drift"] == []


async def test_a_dispute_blocks_refunds_until_it_is_won(payments: Payments) -> None:
    await payments.shipped(card(10_000))
    reference = (await payments.account())["operations"][0]["reference"]
    opened = notice("dispute.opened", authorization_id=reference, reference="d1")
    assert (await _post(payments, opened, signature(opened))).status_code == 204
    refused = await payments.refund()
    assert (refused.status_code, refused.json()["current"]) == (409, "disputed")
    won = notice("dispute.won", authorization_id=reference, reference="d1")
    assert (await _post(payments, won, signature(won, id="evt2"))).status_code == 204
    assert (await payments.refund()).status_code == 201


async def _post(payments: Payments, body: bytes, headers: dict[str, str]) -> httpx.Response:
    return await payments.http.post("/webhooks/processor", content=body, headers=headers)


async def test_a_notice_that_is_forged_stale_or_written_anew_is_refused(payments: Payments) -> None:
    await payments.hear(placed(card(5_000)))
    body = notice("authorization.succeeded", operation_key="o1-P1", authorization_id="r1")
    other = "whsec_b3RoZXItc2VjcmV0LW9mLXNvbWVib2R5LWVsc2U="
    stale = datetime.now(timezone.utc) - timedelta(seconds=301)
    anew = json.dumps(json.loads(body), indent=1).encode()
    attempts = [
        (body, signature(body, secret=other)),
        (body, signature(body, at=stale)),
        (anew, signature(body)),
        (body, {k: v for k, v in signature(body).items() if k != "webhook-id"}),
        (body, {}),
    ]
    for content, headers in attempts:
        assert (await _post(payments, content, headers)).status_code == 401
    assert await payments.types() == ["payment.opened", "payment.authorization_requested"]


async def test_a_notice_replayed_has_no_second_effect(payments: Payments) -> None:
    await payments.shipped(card(5_000))
    body = notice("capture.failed", operation_key="o1-P2", code="late")
    headers = signature(body)
    before = len(await payments.types())
    assert [(await _post(payments, body, headers)).status_code for _ in range(3)] == [204] * 3
    assert (await payments.types())[before:] == ["payment.anomaly_detected"]


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"[]", 422, "body"),
        (notice("capture.exploded", operation_key="o1-P1"), 422, "type"),
        (notice("capture.succeeded", operation_key="o1-P1", amount_minor=-1), 422, "data.amount_minor"),
        (notice("capture.succeeded", operation_key="o1-P1", amount_minor=1.5), 422, "data.amount_minor"),
    ],
)
async def test_a_notice_that_makes_no_sense_is_answered_clearly(
    payments: Payments, body: bytes, status: int, said: str
) -> None:
    await payments.hear(placed(card(5_000)))
    answer = await _post(payments, body, signature(body))
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert said in answer.text
    assert await payments.types() == ["payment.opened", "payment.authorization_requested"]
    # What could not be understood was not claimed: the same notice put right is heard.
    assert await payments.pool.fetchval("SELECT count(*) FROM inbox") == 1


async def test_a_notice_of_a_clock_that_is_ahead_is_taken_at_the_time_it_came(payments: Payments) -> None:
    await payments.hear(placed(card(5_000)))
    body = notice("dispute.opened", datetime.now(timezone.utc) + timedelta(hours=1), authorization_id="ref-o1-P1")
    assert (await _post(payments, body, signature(body))).status_code == 204
    assert "dispute.opened" in await payments.types()
    assert await payments.pool.fetchval("SELECT max(occurred_at) <= now() FROM events")


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"amount_minor": 0}, "amount_minor"),
        ({"amount_minor": -1}, "amount_minor"),
        ({"amount_minor": 1.5}, "amount_minor"),
        ({"amount_minor": 10_001}, "amount_minor"),
        ({"currency": "USD"}, "currency"),
        ({"currency": "XXY"}, "currency"),
        ({"kind": "return"}, "kind"),
        ({"kind": "lost"}, "kind"),
        ({"kind": "gift"}, "kind"),
        ({"lines": [{"line_id": "zz", "amount_minor": 5}], "amount_minor": None}, "lines.0.line_id"),
        ({"lines": [{"line_id": "a", "quantity": -1, "amount_minor": 5}]}, "lines.0.quantity"),
        ({"lines": [{"line_id": "a", "quantity": 1, "amount_minor": 5}], "amount_minor": 5}, "lines.0.quantity"),
        ({"lines": [{"line_id": "a"}]}, "lines.0.amount_minor"),
        ({"reason": ""}, "reason"),
        ({"channel": "bank_transfer"}, "account"),
        ({"channel": "bank_transfer", "account": {"iban": "DE89370400440532013001"}}, "account.iban"),
        ({"channel": "bank_transfer", "account": {}}, "account"),
        ({"lines": [{"line_id": "a", "amount_minor": 1}] * 2, "amount_minor": None}, "lines"),
        ({"reason": "card 4111 1111 1111 1111"}, "reason"),
        ({"surprise": 1}, "surprise"),
        ({"occurred_at": "2999-01-01T00:00:00Z"}, "occurred_at"),
    ],
)
async def test_a_bad_refund_is_answered_with_its_field_and_nothing_is_stored(
    payments: Payments, more: dict[str, Any], field: str
) -> None:
    await payments.shipped(card(10_000))
    before = await payments.types()
    answer = await payments.refund(**more)
    assert answer.status_code == 422, answer.text
    assert field in [e["field"] for e in answer.json()["errors"]]
    assert await payments.types() == before


async def test_who_may_do_what(payments: Payments) -> None:
    await payments.shipped(card(100_000))
    assert (await payments.refund(role="warehouse")).status_code == 403
    assert (await payments.http.get("/orders/o1/payments")).status_code == 401
    assert (await payments.refund(order="unknown")).status_code == 404
    pending = (await payments.refund(amount_minor=60_000, role="supervisor")).json()
    assert pending["status"] == "pending_approval"
    assert (await payments.on_refund("o1-R1", "approve", "agent")).status_code == 403
    own = await payments.on_refund("o1-R1", "approve", "supervisor")
    assert (own.status_code, own.json()["current"]) == (409, "pending_approval")
    assert (await payments.on_refund("o1-R9", "approve", "supervisor")).status_code == 404
    rejected = await payments.on_refund("o1-R1", "reject", "supervisor", reason_code="duplicate")
    assert rejected.json()["status"] == "rejected"
    cancelled = await payments.on_refund("o1-R1", "cancel", "agent")
    assert cancelled.status_code == 409


async def test_a_preview_stores_nothing(payments: Payments) -> None:
    await payments.shipped(card(100_000))
    at = THEN.isoformat()
    body = {"kind": "goodwill", "currency": "EUR", "amount_minor": 60_000, "reason": "sorry", "occurred_at": at}
    answer = await payments.http.post("/orders/o1/refunds/preview", json=body, headers=bearer("agent"))
    shown = answer.json()
    assert shown["approval_reasons"] == ["kind_goodwill", "above_threshold"]
    assert [leg["amount_minor"] for leg in shown["legs"]] == [60_000]
    assert await payments.pool.fetchval("SELECT count(*) FROM refunds") == 0


async def test_a_published_policy_never_changes_and_the_next_one_takes_its_turn(payments: Payments) -> None:
    [first] = (await payments.http.get("/routing-policies", headers=bearer("agent"))).json()

    async def publish(**more: Any) -> httpx.Response:
        body = {"policy": first | {"strategy": "card_first"} | more, "reason": "cheaper"}
        return await payments.http.post("/routing-policies", json=body, headers=bearer("operator"))

    assert (await publish()).status_code == 422
    assert (await publish(version=3, effective_from="2026-01-01T00:00:00Z")).status_code == 422
    assert (await publish(version=2)).status_code == 422
    assert (await publish(version=2, effective_from="2026-01-01T00:00:00Z")).status_code == 201
    assert (await publish(version=2, effective_from="2026-01-01T00:00:00Z")).status_code == 200
    with pytest.raises(asyncpg.RaiseError, match="never changes"):
        await payments.pool.execute("DELETE FROM policies")
    await payments.shipped(card(4_000, id="t1", kind=TenderKind.GIFT_CARD), card(6_000, id="t2"))
    await payments.hear(due(5_000))
    assert [leg["tender_id"] for leg in (await payments.account())["refunds"][0]["legs"]] == ["t2"]


@pytest.mark.parametrize(
    ("statement", "law"),
    [
        ("UPDATE tenders SET captured_minor = authorized_minor + 1", "captured_within_authorized"),
        ("UPDATE tenders SET refunding_minor = captured_minor - refunded_minor + 1", "refunds_within_captured"),
        ("UPDATE tenders SET voided_minor = -1", "nothing_below_zero"),
        ("UPDATE accounts SET refunded_minor = captured_minor + 1", "refunds_within_captured"),
        ("UPDATE lines SET refunded = due_back + cancelled + undelivered + 1", "refunded_for_a_reason"),
        ("UPDATE refunds SET paid_minor = amount_minor + 1", "paid_once"),
        ("UPDATE refunds SET approver = 'supervisor:agent'", "four_eyes"),
        ("UPDATE operations SET next_attempt_at = now()", "open_ones_are_attempted"),
    ],
)
async def test_the_database_holds_the_laws_itself(payments: Payments, statement: str, law: str) -> None:
    await payments.shipped(card(10_000))
    assert (await payments.refund()).status_code == 201
    await payments.work()
    with pytest.raises(asyncpg.CheckViolationError, match=law):
        await payments.pool.execute(statement)


async def test_an_authorization_that_runs_out_is_asked_for_again_in_its_time(payments: Payments) -> None:
    await payments.hear(placed(card(10_000)))
    await payments.work()
    due_at = datetime.now(timezone.utc) - timedelta(seconds=1)
    # As if it had been given thirty days ago.
    text = await payments.pool.fetchval("SELECT state FROM states")
    state = json.loads(text)
    state["tenders"]["t1"]["authorizations"][0]["expires_at"] = due_at.isoformat()
    await payments.pool.execute("UPDATE states SET state = $1", json.dumps(state))
    await payments.pool.execute("UPDATE deadlines SET due_at = $1", due_at)
    PAYMENTS.cache.put("o1", b"", PAYMENTS.state.validate_json(text))
    assert await Timers(payments.pool, "payments", [(PAYMENTS, expire)], lambda: None).fire() == 1
    assert (await payments.types())[-2:] == ["payment.authorization_expired", "payment.authorization_requested"]
    await payments.work()
    assert (await payments.account())["tenders"][0]["status"] == "authorized"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (notice("capture.succeeded", operation_key="o9-P9", order_id="o9"), "order o9 is not known"),
        (notice("dispute.opened", authorization_id="elsewhere", order_id="o9"), "order o9 is not known"),
        (notice("capture.succeeded", operation_key="o1-P1", order_id="o2"), "belongs to order o1"),
        (notice("capture.succeeded", operation_key="o1-P1", currency="USD"), "order o1 is in EUR"),
    ],
)
async def test_a_notice_that_fits_nothing_here_is_kept_and_shown_until_a_person_has_seen_to_it(
    payments: Payments, body: bytes, said: str
) -> None:
    await payments.hear(placed(card(5_000)))
    for _ in range(2):
        assert (await _post(payments, body, signature(body))).status_code == 204
    assert await payments.types() == ["payment.opened", "payment.authorization_requested"]
    [kept] = (await payments.http.get("/provider-notices", headers=bearer("operator"))).json()
    assert said in kept["reason"]
    settle = {"reason": "another shop's", "occurred_at": THEN.isoformat()}
    for status in (204, 404):
        answer = await payments.http.post("/provider-notices/evt1/settle", json=settle, headers=bearer("operator"))
        assert answer.status_code == status
    assert (await payments.http.get("/provider-notices", headers=bearer("operator"))).json() == []


def auditor(payments: Payments) -> Auditor:
    return Auditor(payments.pool, payments.commands, payments, 300)


async def audited(payments: Payments) -> None:
    """All orders once, whatever had been compared before."""
    await payments.pool.execute("UPDATE reconciliation SET after = '', next_at = now()")
    await payments.pool.execute("UPDATE provider_notices SET next_attempt_at = now() WHERE settled_at IS NULL")
    while await auditor(payments).step():
        continue


async def test_a_notice_that_comes_before_its_order_has_its_effect_when_the_order_comes(payments: Payments) -> None:
    refunded = notice("refund.succeeded", operation_key="dash-1", reference="re_1", amount_minor=700)
    assert (await _post(payments, refunded, signature(refunded))).status_code == 204
    await payments.shipped(card(10_000))
    await audited(payments)
    assert (await payments.types())[-1] == "payment.movement_recorded"
    assert (await payments.account())["refunded_minor"] == 700
    assert (await payments.http.get("/provider-notices", headers=bearer("operator"))).json() == []


async def test_a_refund_in_the_providers_dashboard_is_booked_by_its_notice_and_lowers_what_is_left(
    payments: Payments,
) -> None:
    await payments.shipped(card(10_000))
    reference = (await payments.account())["operations"][0]["reference"]
    assert await forward(payments, payments.there.system, 2) == [204, 204]
    await payments.there.pay(f"authorizations/{reference}/refunds", "by-hand", amount_minor=4_000)
    assert await forward(payments, payments.there.system, 1) == [204]
    assert (await payments.types())[-1] == "payment.movement_recorded"
    refused = await payments.refund(amount_minor=6_001)
    assert refused.json()["errors"] == [{"field": "amount_minor", "rule": "only €60.00 is left to refund"}]
    assert (await payments.refund(amount_minor=6_000)).status_code == 201
    await payments.work()
    assert (await payments.there.account("o1"))["refunded_minor"] == 10_000
    report = await payments.http.get("/reconciliation", headers=bearer("auditor"))
    assert report.json()["drift"] == []


async def test_what_no_notice_told_is_booked_by_the_comparison_of_books_that_runs_by_itself(payments: Payments) -> None:
    await payments.shipped(card(10_000))
    reference = (await payments.account())["operations"][0]["reference"]
    await payments.there.pay(f"authorizations/{reference}/refunds", "by-hand", amount_minor=1_000)
    charged = {
        "order_id": "o1",
        "amount_minor": 10_000,
        "currency": "EUR",
        "key": "twice",
        "occurred_at": THEN.isoformat(),
    }
    await payments.there.http.post("/processor/control/charge", json=charged)
    for id, outcome in (("d1", "opened"), ("d2", "opened"), ("d1", "won"), ("d2", "lost")):
        disputed = {"authorization_id": reference, "dispute_id": id, "outcome": outcome, "amount_minor": 2_000}
        answer = await payments.there.http.post("/processor/control/dispute", json=disputed)
        assert answer.status_code == 200, answer.text
    await audited(payments)
    account = await payments.account()
    assert (account["captured_minor"], account["refunded_minor"]) == (20_000, 1_000)
    assert [(r["kind"], r["status"], r["amount_minor"]) for r in account["refunds"]] == [
        ("overpaid", "processing", 10_000)
    ]
    await payments.work()
    account = await payments.account()
    assert (account["refunded_minor"], account["refunds"][0]["status"]) == (11_000, "succeeded")
    assert account["refundable_minor"] == 20_000 - 2_000 - 11_000
    assert await payments.pool.fetchval("SELECT count(*) FROM differences WHERE resolved_at IS NULL") == 0
    assert await payments.pool.fetchval("SELECT ended_at IS NOT NULL FROM reconciliation")
    before = await payments.types()
    await audited(payments)
    assert await payments.types() == before


async def test_a_difference_that_cannot_be_booked_is_kept_counted_and_told(payments: Payments) -> None:
    await payments.shipped(card(10_000))
    await payments.pool.execute("UPDATE operations SET amount_minor = 9_999 WHERE kind = 'capture'")
    await audited(payments)
    [row] = await payments.pool.fetch("SELECT * FROM differences WHERE resolved_at IS NULL")
    assert (row["difference"], row["ours"], row["theirs"]) == ("amount", "succeeded 9999", "succeeded 10000")
    await payments.pool.execute("UPDATE operations SET amount_minor = 10_000 WHERE kind = 'capture'")
    await audited(payments)
    assert await payments.pool.fetchval("SELECT count(*) FROM differences WHERE resolved_at IS NULL") == 0


async def test_replicas_take_turns_in_comparing_the_books(payments: Payments) -> None:
    await payments.shipped(card(10_000))
    assert sorted(await asyncio.gather(*(auditor(payments).step() for _ in range(4)))) == [False, False, False, True]


async def test_a_refund_that_failed_was_paid_by_transfer_and_then_arrived_is_booked_twice(payments: Payments) -> None:
    await payments.shipped(card(10_000, "tok_refund_fails"))
    consents = ["bank_transfer"]
    asked = await payments.refund(
        amount_minor=5_000, consents=consents, account={"iban": "DE89 3704 0044 0532 0130 00"}
    )
    assert (asked.status_code, asked.json()["account"]) == (201, "DE…3000"), asked.text
    await payments.work()
    assert [c.account for c in payments.calls if c.channel == "bank_transfer"] == ["DE89370400440532013000"]
    journal = await payments.pool.fetch("SELECT data::text FROM events")
    assert not [row for row in journal if "0532013000" in row[0]]
    assert (await payments.account())["refunds"][0]["status"] == "succeeded"
    assert len(await forward(payments, payments.there.system, 4)) == 4
    late = await payments.there.http.post("/processor/control/succeed", json={"operation_key": "o1-R1L1"})
    assert late.status_code == 200, late.text
    assert await forward(payments, payments.there.system, 1) == [204]
    account = await payments.account()
    assert (account["refunded_minor"], account["refundable_minor"]) == (10_000, 0)
    assert (await payments.refund(amount_minor=1)).status_code == 422
    report = await payments.http.get("/reconciliation", headers=bearer("auditor"))
    assert report.json()["drift"] == []


async def test_one_operation_that_cannot_be_dealt_with_holds_up_no_other_and_is_shown(payments: Payments) -> None:
    await payments.hear(placed(card(10_000)), placed(card(5_000), order="o2"))

    class Breaking:
        """A fault of ours with one operation alone."""

        async def perform(self, call: Call) -> Any:
            if call.order_id == "o1":
                raise ValueError("no such thing")
            return await payments.processor.perform(call)

        async def find(self, operation_id: str) -> Any:
            raise ValueError("no such thing")

    breaking: Any = Breaking()
    submitter = Submitter(payments.pool, payments.commands, breaking, 4)
    while await submitter.step() or not submitter.is_idle:
        continue
    assert (await payments.account("o2"))["authorized_minor"] == 5_000
    reconciler = Reconciler(payments.pool, payments.commands, breaking, 4)
    for _ in range(12):
        await payments.pool.execute("UPDATE operations SET next_attempt_at = now() WHERE status = 'unknown'")
        assert await reconciler.step()
    [row] = await payments.pool.fetch("SELECT status, failure, failures FROM operations WHERE order_id = 'o1'")
    assert (row["status"], row["failure"], row["failures"]) == ("unknown", "ValueError('no such thing')", 13)
    assert (await payments.types()).count("payment.anomaly_detected") == 1
    pause = await payments.pool.fetchval("SELECT next_attempt_at - now() FROM operations WHERE order_id = 'o1'")
    assert pause > timedelta(minutes=50)
    await payments.work()
    assert (await payments.account())["authorized_minor"] == 10_000


async def test_a_law_that_one_operation_breaks_holds_up_no_other(payments: Payments) -> None:
    await payments.hear(placed(card(10_000)), placed(card(5_000), order="o2"))
    await payments.pool.execute("ALTER TABLE tenders ADD CONSTRAINT broken CHECK (authorized_minor <> 10000)")
    submitter = payments.submitter()
    while await submitter.step() or not submitter.is_idle:
        continue
    assert (await payments.account("o2"))["authorized_minor"] == 5_000
    row = await payments.pool.fetchrow("SELECT status, failure FROM operations WHERE order_id = 'o1'")
    assert row is not None and row["status"] == "submitted" and "broken" in row["failure"]
    await payments.pool.execute("ALTER TABLE tenders DROP CONSTRAINT broken")
    await payments.work()
    assert (await payments.account())["authorized_minor"] == 10_000


async def test_drift_is_found_and_named(payments: Payments) -> None:
    await payments.shipped(card(10_000))
    body = {"amount_minor": 100, "requested_at": THEN.isoformat()}
    reference = (await payments.account())["operations"][0]["reference"]
    await payments.there.pay(f"authorizations/{reference}/refunds", "by-hand", **body)
    report = (await payments.http.get("/reconciliation", headers=bearer("operator"))).json()
    assert [(d["operation_id"], d["difference"]) for d in report["drift"]] == [("by-hand", "unknown_here")]
    for orders, found in ((["o1", "o2"], 1), (["o2"], 0)):
        some = await payments.http.get("/reconciliation", params={"order": orders}, headers=bearer("operator"))
        assert (len(some.json()["drift"]), some.json()["next"]) == (found, None)


async def test_the_reconciliation_goes_page_by_page(payments: Payments) -> None:
    for n in range(5):
        await payments.shipped(card(1_000), order=f"o{n}")
    seen, after = 0, ""
    while after is not None:
        page = await payments.http.get(
            "/reconciliation", params={"after": after, "limit": 2}, headers=bearer("operator")
        )
        seen, after = seen + page.json()["orders"], page.json()["next"]
    assert seen == 5


async def test_everything_in_one_batch_comes_to_the_same(payments: Payments) -> None:
    await payments.hear(handed_over(2), placed(card(10_000)), due(2_000))
    await payments.work()
    account = await payments.account()
    assert (account["captured_minor"], account["refunded_minor"]) == (10_000, 2_000)


async def test_what_an_exchange_costs_more_is_charged_and_a_decline_is_asked_again(payments: Payments) -> None:
    """The card declines whatever comes after its order's first authorization; the wallet then loses its answer."""
    wallet = card(4_000, token="tok_authorization_timeout_after", id="t2", kind=TenderKind.WALLET)
    await payments.shipped(card(6_000, token="tok_decline_again"), wallet)
    due = ExchangeDifferenceDue(
        order_id="o1", return_id="o1-RMA1", exchange_id="o1-X1", amount_minor=1_500, currency="EUR"
    )
    await payments.hear(due)
    await payments.work()
    account = await payments.account()
    assert (account["charges"][0]["status"], account["captured_minor"]) == ("failed", 10_000)
    key = bearer("agent") | {"Idempotency-Key": str(uuid4())}
    body = {"reason": "the customer agrees", "occurred_at": THEN.isoformat()}
    for _ in range(2):
        answer = await payments.http.post("/orders/o1/charges/o1-X1/retry", json=body, headers=key)
        assert answer.status_code == 202, answer.text
    await payments.work()
    await payments.hear(due)
    await payments.work()
    account = await payments.account()
    assert (account["charges"][0]["status"], account["captured_minor"]) == ("captured", 11_500)
    attempts = [
        (t["charged_tender_id"], t["status"], t["captured_minor"]) for t in account["tenders"] if t["exchange_id"]
    ]
    assert attempts == [("t1", "declined", 0), ("t2", "captured", 1_500)]
    books = await payments.there.books("o1")
    assert sorted(a["captured_minor"] for a in books["authorizations"]) == [1_500, 4_000, 6_000]
    refused = await payments.http.post(
        "/orders/o1/charges/o1-X1/retry", json=body, headers=bearer("agent") | {"Idempotency-Key": str(uuid4())}
    )
    assert (refused.status_code, refused.json()["current"]) == (409, "captured")
