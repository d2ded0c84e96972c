"""The load: many orders at once, each with a story, driven by the facts the system tells; and the history kept outside it.

What was acknowledged is written down here, in a process that nothing strikes: at the end each has one effect.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import partial
from random import Random
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from ops.actors import Actors, Refused, View
from ops.stories import place
from ops.topics import PARTITIONS
from shared.messaging.envelope import type_of
from shared.web.auth import Role
from support_view.handlers import TOPICS

PLENTY: Final = 100_000
SHELVES: Final = (("PEN", "BER"), ("BOOK", "BER"), ("MUG", "HAM"), ("RUG", "HAM"))
RETRY_S: Final = 0.5

UNKNOWN: Final = (
    "tok_authorization_timeout_after",
    "tok_authorization_timeout_before",
    "tok_capture_timeout_after",
    "tok_capture_timeout_before",
)
NOTICES: Final = ("tok_notices_late", "tok_notices_duplicate", "tok_notices_reordered")
REFUNDS: Final = ("tok_refund_timeout_after", "tok_refund_timeout_before", "tok_refund_pending")
DECLINED: Final = ("tok_decline_insufficient_funds", "tok_decline_fraud")

Effect = tuple[str, str, str]
"""The service whose journal has it, its subject, its type."""


@dataclass(slots=True)
class History:
    """Effects that were acknowledged, and those asked for whose answer is still awaited."""

    acknowledged: Counter[Effect] = field(default_factory=Counter)
    awaited: Counter[Effect] = field(default_factory=Counter)

    async def of(self, effect: Effect, asking: Awaitable[Any]) -> Any:
        """Await the answer; a refusal promises nothing."""
        self.awaited[effect] += 1
        try:
            answer = await asking
        except Refused:
            self.awaited[effect] -= 1
            raise
        self.awaited[effect] -= 1
        self.acknowledged[effect] += 1
        return answer


@dataclass(frozen=True, slots=True)
class Fact:
    type: str
    raw: bytes

    @property
    def data(self) -> View:
        told: View = json.loads(self.raw)
        return told


class Watch:
    """Follows the topics as anybody may: what is told of the subjects that are watched."""

    def __init__(self, kafka: str) -> None:
        self._kafka = kafka
        self._told: dict[str, list[Fact]] = {}
        self._news: dict[str, asyncio.Event] = {}
        self.records = 0

    def begin(self, subject: str) -> None:
        self._told[subject], self._news[subject] = [], asyncio.Event()

    def end(self, subject: str) -> None:
        del self._told[subject], self._news[subject]

    async def until(self, subject: str, is_so: Callable[[Fact], object]) -> Fact:
        """The first fact of the subject that is so, whenever it was told."""
        read = 0
        while True:
            told, self_news = self._told[subject], self._news[subject]
            for fact in told[read:]:
                if is_so(fact):
                    return fact
            read = len(told)
            self_news.clear()
            await self_news.wait()

    async def follow(self) -> None:
        """For ever; a broker that is away is waited for, and read on from where it was left."""
        places = [TopicPartition(topic, n) for topic in TOPICS for n in range(PARTITIONS)]
        next_at = dict.fromkeys(places, 0)
        while True:
            consumer = AIOKafkaConsumer(bootstrap_servers=self._kafka, auto_offset_reset="none")
            try:
                await consumer.start()
                consumer.assign(places)
                for at, offset in next_at.items():
                    consumer.seek(at, offset)
                while True:
                    for at, records in (await consumer.getmany(timeout_ms=200, max_records=2000)).items():
                        self._hear(records)
                        next_at[at] = records[-1].offset + 1
            except (KafkaError, OSError):
                await asyncio.sleep(RETRY_S)
            finally:
                await consumer.stop()

    def _hear(self, records: Sequence[Any]) -> None:
        self.records += len(records)
        for record in records:
            subject = record.key.decode()
            if (told := self._told.get(subject)) is not None:
                told.append(Fact(type_of(record.headers) or "", record.value))
                self._news[subject].set()


class Crowd:
    """Everybody outside: orders with a story each, `at_once` of them under way."""

    def __init__(self, actors: Actors, seed: int, at_once: int) -> None:
        self.actors = actors
        self.watch = Watch(actors.endpoints.kafka)
        self.history = History()
        self.ended: Counter[tuple[str, str]] = Counter()
        self.broken: list[str] = []
        self.begun = 0
        self.under_way: dict[str, str] = {}
        self._seed = seed
        self._room = asyncio.Semaphore(at_once)
        self._stories: set[asyncio.Task[None]] = set()
        self._producer: Any = None
        self._reconnecting = asyncio.Lock()

    async def prepare(self) -> None:
        """Goods for everybody, and a policy that returns are judged by."""
        async with asyncio.TaskGroup() as tasks:
            for sku, location in SHELVES:
                tasks.create_task(self.stocks(self.sku(sku), location, PLENTY))

    def sku(self, name: str) -> str:
        return f"{name}-{self.actors.run}"

    async def begin(self) -> None:
        """One more order, as soon as there is room for it."""
        await self._room.acquire()
        self.begun += 1
        dice = Random(f"{self._seed}/{self.begun}")
        [name] = dice.choices(list(STORIES), [weight for weight, _ in STORIES.values()])
        task = asyncio.create_task(self._play(name, f"{self.begun}", dice))
        self._stories.add(task)
        task.add_done_callback(self._stories.discard)

    async def _play(self, name: str, number: str, dice: Random) -> None:
        order_id = f"{number}-{self.actors.run}"
        self.under_way[order_id] = name
        self.watch.begin(order_id)
        try:
            outcome = await STORIES[name][1](Customer(self, number, order_id, dice))
        except Exception as error:  # noqa: BLE001 -- told at the end, with the order it was about
            self.broken.append(f"{name}, order {order_id}: {error!r}")
        else:
            self.ended[name, outcome] += 1
        finally:
            del self.under_way[order_id]
            self.watch.end(order_id)
            self._room.release()

    async def all_ended(self, within: float) -> None:
        """What has not ended by then is broken, and said to be."""
        if self._stories:
            _, late = await asyncio.wait(self._stories, timeout=within)
            self.broken += [f"{story}, order {order_id}: has not ended" for order_id, story in self.under_way.items()]
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def tells(self, kind: str, key: str, id: str, data: View, effect: Effect, copies: int = 1) -> None:
        """The warehouse tells; told again, under the same id, until the broker has acknowledged it."""
        now = datetime.now(timezone.utc).isoformat()
        context = {"specversion": "1.0", "id": id, "source": "chaos-warehouse", "type": f"warehouse.{kind}"}
        headers = [(f"ce_{name}", value.encode()) for name, value in (context | {"time": now}).items()]
        value = json.dumps({"occurred_at": now} | data).encode()

        async def send() -> None:
            while True:
                producer = await self._connected()
                try:
                    sends = [
                        await producer.send("warehouse.events", value, key.encode(), headers=headers)
                        for _ in range(copies)
                    ]
                    await asyncio.gather(*sends)
                    return
                except KafkaError:
                    await self._forget(producer)
                    await asyncio.sleep(RETRY_S)

        await self.history.of(effect, send())

    async def _connected(self) -> AIOKafkaProducer:
        async with self._reconnecting:
            while self._producer is None:
                producer = AIOKafkaProducer(
                    bootstrap_servers=self.actors.endpoints.kafka, enable_idempotence=True, request_timeout_ms=15_000
                )
                try:
                    await producer.start()
                except (KafkaError, OSError):
                    await producer.stop()
                    await asyncio.sleep(RETRY_S)
                else:
                    self._producer = producer
            return self._producer

    async def _forget(self, producer: AIOKafkaProducer) -> None:
        """An idempotent producer can stick on an out-of-sequence error: a new one takes its place."""
        if self._producer is producer:
            self._producer = None
            await producer.stop()

    async def stocks(self, sku: str, location: str, quantity: int, receipt: str = "1") -> None:
        """Goods arrive, and are on the shelf when this returns."""
        shelf = f"stock:{sku}@{location}"
        receipt_id = f"{sku}-{location}-{receipt}"
        goods = {"receipt_id": receipt_id, "sku": sku, "location": location, "quantity": quantity}
        self.watch.begin(shelf)
        try:
            await self.tells("goods_received", shelf, receipt_id, goods, ("fulfillment", shelf, "stock.received"))
            await self.watch.until(shelf, lambda f: f.type == "stock.received" and f.data["quantity"] == quantity)
        finally:
            self.watch.end(shelf)

    async def close(self) -> None:
        if self._producer is not None:
            await self._producer.stop()


@dataclass(frozen=True, slots=True)
class Customer:
    """One order, and what its customer, the warehouse and support do about it."""

    crowd: Crowd
    number: str
    order_id: str
    dice: Random

    async def orders(self, lines: Sequence[tuple[str, int, int]], token: str, gift: int = 0) -> None:
        """Place it: (sku, quantity, price) per line, with tax and shipping; by card, and a gift card for some of it."""
        tax, shipping = self.dice.randrange(0, 900), 499
        total = sum(quantity * price for _, quantity, price in lines) + tax + shipping
        tenders = [{"tender_id": "gift", "kind": "gift_card", "token": "tok_ok", "amount_minor": gift}] if gift else []
        tenders.append({"tender_id": "card", "kind": "card", "token": token, "amount_minor": total - gift})
        rows = [
            {"line_id": str(n), "sku": sku, "title": "A thing", "quantity": quantity, "unit_price_minor": price}
            for n, (sku, quantity, price) in enumerate(lines, 1)
        ]
        asking = place(self.crowd.actors, self.number, rows, tenders, tax=tax, shipping=shipping)
        await self.crowd.history.of(("orders", self.order_id, "order.placed"), asking)

    async def asks(self, service: str, path: str, body: View, effect: str, role: Role = Role.AGENT) -> View:
        asking = self.crowd.actors.post(service, f"/orders/{self.order_id}{path}", body, role)
        answer: View = await self.crowd.history.of((service, self.order_id, effect), asking)
        return answer

    async def sees(self, *types: str) -> Fact:
        return await self.crowd.watch.until(self.order_id, lambda fact: fact.type in types)

    async def sees_so(self, type: str, is_so: Callable[[View], object]) -> Fact:
        return await self.crowd.watch.until(self.order_id, lambda fact: fact.type == type and is_so(fact.data))

    def shelf(self) -> str:
        return self.crowd.sku(self.dice.choice(SHELVES)[0])

    def some(self, *tokens: str) -> str:
        """Mostly a processor that behaves."""
        return self.dice.choice(tokens) if self.dice.random() < 0.5 else "tok_ok"

    async def arrives(self, token: str) -> None:
        """Two units and one, delivered, so that they may come back."""
        await self.orders([(self.shelf(), 2, 1999), (self.shelf(), 1, 4995)], token, gift=self.dice.choice((0, 1500)))
        await self.sees("order.completed")


async def _split(one: Customer) -> str:
    """Two locations and a shelf that is short: two shipments, a backorder, and a third when goods arrive."""
    lamp = f"LAMP-{one.order_id}"
    await one.crowd.stocks(lamp, "BER", 1)
    lines = [(lamp, 2, 4999), (one.crowd.sku("PEN"), 1, 250), (one.crowd.sku("RUG"), 1, 8900)]
    await one.orders(lines, one.some(*NOTICES), gift=3000)
    await one.sees("backorder.created")
    await one.crowd.stocks(lamp, "BER", 3, "2")
    await one.sees("order.completed")
    return "completed"


async def _cancel(one: Customer) -> str:
    """Everything is cancelled while some of it may have left; what was never there is cancelled for sure."""
    pot = f"POT-{one.order_id}"
    await one.orders([(pot, 1, 3400), (one.shelf(), 2, 1200)], one.some(*NOTICES))
    await one.sees(one.dice.choice(("order.placed", "order.confirmed", "backorder.created", "shipment.shipped")))
    try:
        await one.asks("orders", "/cancellations", {"detail": "changed my mind"}, "order.cancellation_requested")
    except Refused as refused:
        if refused.status != 409:
            raise
        await one.crowd.stocks(pot, "BER", 1)
        await one.sees("order.completed")
        return "too late"
    ended = await one.sees("order.cancelled", "order.completed")
    return "cancelled" if ended.type == "order.cancelled" else "cancelled in part"


async def _return(one: Customer) -> str:
    """Some of it comes back, told twice by the warehouse, and is refunded."""
    await one.arrives(one.some(*REFUNDS))
    here: dict[str, int] = {}

    def are_both_here(recorded: View) -> bool:
        if recorded["stage"] == "delivered":
            units = [line["quantity"] for line in recorded["lines"] if line["line_id"] == "1"]
            here[recorded["source_id"]] = sum(units)
        return sum(here.values()) == 2

    # They may have come in two shipments, facts are told more than once, and returns may hear of them before the order.
    await one.sees("return.purchase_recorded")
    await one.sees_so("return.units_recorded", are_both_here)
    quantity = one.dice.choice((1, 2))
    back = {"line_id": "1", "quantity": quantity}
    asked = {"lines": [back | {"reason": "unwanted", "condition": "unopened"}], "resolution": "refund"}
    answer = await one.asks("returns", "/returns", asked, "return.requested")
    return_id = answer["return_id"]
    await one.sees("return.approved")
    told = {"order_id": one.order_id, "return_id": return_id, "location": "BER"}
    tells = partial(one.crowd.tells, key=one.order_id, copies=one.dice.choice((1, 2)))
    receipt = told | {"receipt_id": f"{return_id}-R", "lines": [back]}
    effect = "returns", one.order_id, "return.items_received"
    await tells("parcel_received", id=f"{return_id}-R", data=receipt, effect=effect)
    await one.sees("return.items_received")
    found = one.dice.choice(("as_new", "opened"))
    inspection = told | {"inspection_id": f"{return_id}-I", "lines": [back | {"outcome": found}]}
    effect = "returns", one.order_id, "return.items_inspected"
    await tells("items_inspected", id=f"{return_id}-I", data=inspection, effect=effect)
    await one.sees("return.resolved")
    return f"refunded, {found.replace('_', ' ')}"


async def _goodwill(one: Customer) -> str:
    # An order may have arrived before the processor has said that it was paid.
    await one.sees_so("payment.captured", lambda d: d["tender_id"] == "card")
    body = {"kind": "goodwill", "amount_minor": 500, "currency": "EUR", "reason": "arrived scratched"}
    asked = await one.asks("payments", "/refunds", body, "refund.requested")
    path = f"/refunds/{asked['refund_id']}/approve"
    await one.asks("payments", path, {"reason": "sorry"}, "refund.approved", Role.SUPERVISOR)
    # In part: the card's share may have come back before the gift card's was told.
    ended = await one.sees("refund.completed", "refund.partially_completed", "refund.attention_needed")
    return ended.type.partition(".")[2]


async def _refund(one: Customer) -> str:
    await one.arrives(one.some(*REFUNDS))
    return await _goodwill(one)


async def _bounce(one: Customer) -> str:
    """The refund succeeds and comes back."""
    await one.arrives("tok_refund_bounces")
    await _goodwill(one)
    await one.sees("refund.leg_reversed")
    return "reversed"


async def _unknown(one: Customer) -> str:
    """The processor does not answer; what it did is found out, once."""
    await one.orders([(one.shelf(), 1, 7000)], one.dice.choice(UNKNOWN))
    await one.sees("order.completed")
    return "completed"


async def _declined(one: Customer) -> str:
    await one.orders([(one.shelf(), 1, 2500)], one.dice.choice(DECLINED))
    await one.sees("order.rejected")
    return "rejected"


Story = Callable[[Customer], Awaitable[str]]

STORIES: Final[dict[str, tuple[int, Story]]] = {
    "split and backorder": (3, _split),
    "cancel in the middle": (2, _cancel),
    "return": (3, _return),
    "refund": (2, _refund),
    "refund that bounces": (1, _bounce),
    "unknown outcome": (1, _unknown),
    "declined": (1, _declined),
}
"""By name: how often beside the others, and what happens; the answer is its outcome."""
