"""The outside world of a whole system, as light as it can be: storefront, processor, warehouse, carrier, customer, mailbox.

It follows the system by its topics and answers at once, so that what is measured is the system. Its CPU time is its own.
"""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiosmtpd.smtp import SMTP
from standardwebhooks import Webhook

from bench.rivals.story import LINES, RETURNED, TOTAL_MINOR
from ops.endpoints import Endpoints
from ops.keys import Keys, kept_keys
from ops.paths import LOOPBACK
from ops.stories import ADDRESS, CUSTOMER, INSPECTION
from ops.system import SERVICES, Service, System, running_system
from ops.topics import PARTITIONS
from shared.messaging.envelope import type_of
from shared.web.auth import Role, issue

Json = dict[str, Any]
Answer = Callable[[str, str, Mapping[str, str], bytes], Json]

LONG_AGO: Final = "2026-01-01T00:00:00+00:00"
PLENTY: Final = 100_000
SHELVES: Final = 20
"""Articles of each line, so that not every order waits for the same shelf."""
CARRIER: Final = "swift"
RETURNED_TO: Final = next(location for line, _, location, _, _ in LINES if line == RETURNED[0])
CONNECTIONS: Final = 32


class Caller:
    """Kept connections to one service. HTTP/1.1 by hand: a client of full size would take the cores it measures."""

    def __init__(self, url: str) -> None:
        self._host = urlsplit(url).netloc
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._room = asyncio.Semaphore(CONNECTIONS)

    async def post(self, path: str, body: Json, **headers: str) -> int:
        """The answer's status."""
        code, content = await self.ask("POST", path, json.dumps(body).encode(), **headers)
        if code >= 500:
            raise AssertionError(f"{path} answered {code}: {content[:300]!r}")
        return code

    async def ask(self, method: str, path: str, content: bytes = b"", **headers: str) -> tuple[int, bytes]:
        """The answer's status and content."""
        given = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        request = (
            f"{method} {path} HTTP/1.1\r\nhost: {self._host}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(content)}\r\n{given}\r\n"
        ).encode() + content
        async with self._room:
            status, answered, _ = await self._answer(request)
        if not status.startswith("HTTP/1.1"):
            raise AssertionError(f"{path} answered {status!r}")
        return int(status.split()[1]), answered

    async def _answer(self, request: bytes) -> tuple[str, bytes, dict[str, str]]:
        """By a kept connection, or a new one where the server has closed it meanwhile."""
        while True:
            is_kept = bool(self._idle)
            reader, writer = self._idle.pop() if is_kept else await asyncio.open_connection(*self._host.split(":"))
            try:
                writer.write(request)
                answer = await _message(reader)
            except (asyncio.IncompleteReadError, ConnectionError):
                writer.close()
                if not is_kept:
                    raise
            else:
                self._idle.append((reader, writer))
                return answer

    def close(self) -> None:
        for _, writer in self._idle:
            writer.close()


async def _message(reader: asyncio.StreamReader) -> tuple[str, bytes, dict[str, str]]:
    """First line, body and headers of a message whose length is told."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    return head[0], await reader.readexactly(int(headers.get("content-length", 0))), headers


class Processor:
    """Whatever it is asked for succeeds at once; the same key gets the same answer."""

    def __init__(self) -> None:
        self._answers: dict[str, bytes] = {}
        self._orders: dict[str, str] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                request, body, headers = await _message(reader)
                writer.write(self._answer(request, body, headers["idempotency-key"]))
        except asyncio.IncompleteReadError:
            writer.close()

    def _answer(self, request: str, body: bytes, key: str) -> bytes:
        if key not in self._answers:
            asked, path = json.loads(body), request.split()[1].split("/")
            is_authorization = path[-1] == "authorizations"
            reference = f"{path[-1]}-{key}"
            if is_authorization:
                self._orders[reference] = asked["order_id"]
            told = {
                "id": reference,
                "operation_key": key,
                "status": "authorized" if is_authorization else "succeeded",
                "code": None,
                "order_id": self._orders[reference if is_authorization else path[-2]],
                "amount_minor": asked.get("amount_minor", 0),
                "processed_at": asked["requested_at"],
                "expires_at": None,
            }
            content = json.dumps(told).encode()
            self._answers[key] = (
                f"HTTP/1.1 201 Created\r\ncontent-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
            ).encode() + content
        return self._answers[key]


class Mailbox:
    """Takes every mail and keeps none."""

    async def handle_DATA(self, *_: object) -> str:
        return "250 OK"


class World:
    """Plays stories with a running system; `finished` counts them, `took` says how long each."""

    def __init__(self, system: System, keys: Keys, producer: AIOKafkaProducer, run: str) -> None:
        self._keys = keys
        self.run = run
        self._producer = producer
        self._webhook = Webhook(keys.carrier_webhook_secret)
        self._services = {name: Caller(each.url) for name, each in system.endpoints.services.items()}
        self._tokens = {role: f"Bearer {issue(keys.auth_key, subject='bench', roles=[role])}" for role in Role}
        self._began: dict[str, float] = {}
        self._shelved = 0
        self._delivered: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._room = asyncio.Semaphore(0)
        self.failure: BaseException | None = None
        self.took: list[float] = []

    @property
    def finished(self) -> int:
        return len(self.took)

    @property
    def begun(self) -> int:
        return len(self._began)

    async def _post(self, service: str, path: str, body: Json, role: Role, key: str) -> None:
        code = await self._services[service].post(path, body, authorization=self._tokens[role], idempotency_key=key)
        if code >= 400:
            raise AssertionError(f"{service} {path} answered {code}")

    async def _tell(self, type: str, key: str, id: str, data: Json) -> None:
        now = datetime.now(timezone.utc).isoformat()
        headers = {"specversion": "1.0", "id": id, "source": "warehouse", "type": f"warehouse.{type}", "time": now}
        await self._producer.send(
            "warehouse.events",
            json.dumps({"occurred_at": now, **data}).encode(),
            key.encode(),
            headers=[(f"ce_{name}", value.encode()) for name, value in headers.items()],
        )

    async def prepare(self) -> None:
        """Goods on the shelves, and a policy that returns are judged by."""
        policy = {"policy_id": "bench", "version": 1, "effective_from": LONG_AGO, "window_days": 30}
        await self._post("returns", "/policies", policy | {"inspection": INSPECTION}, Role.SUPERVISOR, self.run)
        for sku, location in [(self._sku(line[1], n), line[2]) for line in LINES for n in range(SHELVES)]:
            receipt = f"receipt-{sku}"
            goods = {"receipt_id": receipt, "sku": sku, "location": location, "quantity": PLENTY}
            await self._tell("goods_received", f"stock:{sku}@{location}", receipt, goods)
        await self.until(lambda: self._shelved == len(LINES) * SHELVES)

    def _sku(self, sku: str, n: int) -> str:
        return f"{self.run}-{sku}-{n % SHELVES}"

    async def begins(self, n: int) -> None:
        """The storefront places the order of a story."""
        order_id = f"{self.run}-{n}"
        self._began[order_id] = time.perf_counter()
        lines = [
            {
                "line_id": line,
                "sku": self._sku(sku, n),
                "title": "A thing",
                "quantity": quantity,
                "unit_price_minor": price,
            }
            for line, sku, _, quantity, price in LINES
        ]
        tender = {"tender_id": "card", "kind": "card", "token": "tok_ok", "amount_minor": TOTAL_MINOR}
        body = {
            "order_id": order_id,
            "placed_at": datetime.now(timezone.utc).isoformat(),
            "customer": CUSTOMER,
            "ship_to": ADDRESS,
            "currency": "EUR",
            "lines": lines,
            "tenders": [tender],
        }
        await self._post("orders", "/orders", body, Role.STOREFRONT, order_id)

    async def plays(self, count: int, at_once: int) -> None:
        """So many stories, each begun when there is room for it; returns when all have ended."""
        ended = self.finished + count
        self._room = asyncio.Semaphore(at_once)
        for n in range(self.begun, self.begun + count):
            await self._room.acquire()
            self._start(self.begins(n))
            self._raise()
        await self.until(lambda: self.finished >= ended)

    async def plays_at(self, rate: float, seconds: float) -> None:
        """A story every so often, whatever becomes of the others; returns when the time is over."""
        began, first = time.perf_counter(), self.begun
        for n in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, began + n / rate - time.perf_counter()))
            self._start(self.begins(first + n))
            self._raise()

    async def until(self, is_so: Callable[[], object], within: float = 300) -> None:
        async with asyncio.timeout(within):
            while True:
                self._raise()
                if is_so():
                    return
                await asyncio.sleep(0.05)

    def _raise(self) -> None:
        if self.failure is not None:
            raise self.failure

    def _start(self, work: Awaitable[None]) -> None:
        async def watched() -> None:
            try:
                await work
            except Exception as error:  # noqa: BLE001 -- raised where the stories are waited for
                self.failure = self.failure or error

        task = asyncio.create_task(watched())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def follows(self, consumer: AIOKafkaConsumer) -> None:
        """React to what is told of the stories of this run."""
        mine = f"{self.run}-".encode()
        while True:
            for records in (await consumer.getmany(timeout_ms=20, max_records=1000)).values():
                for record in records:
                    reaction = self._REACTIONS.get(type_of(record.headers) or "")
                    if reaction is not None and mine in record.key:
                        self._start(reaction(self, json.loads(record.value)))

    async def _shelves(self, fact: Json) -> None:
        self._shelved += 1

    async def _packs(self, fact: Json) -> None:
        shipment = {"order_id": fact["order_id"], "shipment_id": fact["shipment_id"]}
        await self._tell("packed", fact["order_id"], f"pack-{fact['shipment_id']}", shipment)

    async def _hands_over(self, fact: Json) -> None:
        tracking = [{"parcel_id": p["parcel_id"], "tracking": f"T-{p['parcel_id']}"} for p in fact["parcels"]]
        shipment = {"order_id": fact["order_id"], "shipment_id": fact["shipment_id"]}
        data = shipment | {"carrier": CARRIER, "tracking": tracking}
        await self._tell("handed_over", fact["order_id"], f"hand-over-{fact['shipment_id']}", data)

    async def _delivers(self, fact: Json) -> None:
        now = datetime.now(timezone.utc)
        for parcel in fact["parcels"]:
            scan = {"carrier": CARRIER, "tracking": parcel["tracking"], "code": "delivered"}
            scan["occurred_at"] = now.isoformat()
            id = f"{parcel['tracking']}-delivered"
            code = await self._services["fulfillment"].post(
                "/webhooks/carrier",
                scan,
                webhook_id=id,
                webhook_timestamp=str(int(now.timestamp())),
                webhook_signature=self._webhook.sign(id, now, json.dumps(scan)),
            )
            if code >= 400:
                raise AssertionError(f"the scan of {parcel['tracking']} was answered {code}")

    async def _sends_back(self, fact: Json) -> None:
        """When all has arrived, the customer asks to return a part of it."""
        order_id = fact["order_id"]
        if fact["stage"] != "delivered":
            return
        self._delivered[order_id] += 1
        if self._delivered[order_id] == len(LINES):
            del self._delivered[order_id]
            line, quantity = RETURNED
            asked = {"line_id": line, "quantity": quantity, "reason": "unwanted", "condition": "unopened"}
            body = {"lines": [asked], "resolution": "refund"}
            await self._post("returns", f"/orders/{order_id}/returns", body, Role.AGENT, f"return-{order_id}")

    async def _receives(self, fact: Json) -> None:
        line, quantity = RETURNED
        data = {"order_id": fact["order_id"], "return_id": fact["return_id"], "location": RETURNED_TO}
        data |= {"receipt_id": fact["return_id"], "lines": [{"line_id": line, "quantity": quantity}]}
        await self._tell("parcel_received", fact["order_id"], f"receive-{fact['return_id']}", data)

    async def _inspects(self, fact: Json) -> None:
        line, quantity = RETURNED
        data = {"order_id": fact["order_id"], "return_id": fact["return_id"], "location": RETURNED_TO}
        data |= {"inspection_id": f"{fact['return_id']}-I"}
        data |= {"lines": [{"line_id": line, "quantity": quantity, "outcome": "as_new"}]}
        await self._tell("items_inspected", fact["order_id"], f"inspect-{fact['return_id']}", data)

    async def _ends(self, fact: Json) -> None:
        self.took.append(time.perf_counter() - self._began[fact["order_id"]])
        self._room.release()

    _REACTIONS: Final = {
        "stock.received": _shelves,
        "shipment.created": _packs,
        "shipment.packed": _hands_over,
        "shipment.shipped": _delivers,
        "return.units_recorded": _sends_back,
        "return.approved": _receives,
        "return.items_received": _inspects,
        "return.resolved": _ends,
    }

    def close(self) -> None:
        for service in self._services.values():
            service.close()


def _services(processor: int, mailbox: int) -> tuple[Service, ...]:
    """The system without its sandbox: this world is in its place."""
    told = {
        "OMS_PROCESSOR_URL": f"http://{LOOPBACK}:{processor}/processor",
        "OMS_SMTP_URL": f"smtp://{LOOPBACK}:{mailbox}",
    }
    return tuple(
        replace(each, settings={name: told.get(name, value) for name, value in each.settings.items()})
        for each in SERVICES
        if each.has_database
    )


async def all_seen(endpoints: Endpoints, within: float = 120) -> None:
    """Nothing is on its way: every journal's facts are published, and on the timeline. Raises AssertionError saying what
    still is, where that takes longer."""
    databases = {name: await asyncpg.connect(each.database) for name, each in endpoints.services.items()}
    on_its_way = ""
    try:
        async with asyncio.timeout(within):
            while True:
                told, unpublished, parked = [
                    {name: await db.fetchval(f"SELECT count(*) FROM {rows}") for name, db in databases.items()}
                    for rows in ("events", "outbox", "parked WHERE status = 'open'")
                ]
                seen = await databases["support-view"].fetchval("SELECT count(*) FROM timeline")
                if not any(unpublished.values()) and sum(told.values()) == seen:
                    return
                on_its_way = f"told {told}, {seen} on the timeline; unpublished {unpublished}; parked {parked}"
                await asyncio.sleep(0.2)
    except TimeoutError as error:
        raise AssertionError(f"not everything was seen within {within:g} s: {on_its_way}") from error
    finally:
        for db in databases.values():
            await db.close()


@asynccontextmanager
async def world(var: Path) -> AsyncIterator[tuple[System, World]]:
    """All services as processes, at the endpoints that the environment gives, and a world around them."""
    async with AsyncExitStack() as stack:
        ports = []
        for serve in (Processor().serve, None):
            if serve is not None:
                server = await asyncio.start_server(serve, LOOPBACK, 0)
            else:
                server = await asyncio.get_running_loop().create_server(
                    lambda: SMTP(Mailbox(), loop=asyncio.get_running_loop()), LOOPBACK, 0
                )
            stack.callback(server.close)
            ports.append(server.sockets[0].getsockname()[1])
        system = await stack.enter_async_context(
            running_system(var, auto_ports=True, services=_services(*ports), settings={"OMS_LOG_LEVEL": "error"})
        )
        kafka = system.endpoints.kafka
        producer = await stack.enter_async_context(AIOKafkaProducer(bootstrap_servers=kafka, linger_ms=2))
        consumer = await stack.enter_async_context(AIOKafkaConsumer(bootstrap_servers=kafka))
        topics = ("fulfillment.events", "returns.events")
        consumer.assign([TopicPartition(topic, n) for topic in topics for n in range(PARTITIONS)])
        await consumer.seek_to_end()
        playing = World(system, kept_keys(var), producer, f"s{uuid4().hex[:8]}")
        stack.callback(playing.close)
        following = asyncio.create_task(playing.follows(consumer))
        try:
            await playing.prepare()
            yield system, playing
        finally:
            following.cancel()
            await asyncio.wait([following])
