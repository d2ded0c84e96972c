"""Spans: from a request over journal, relay and topic to the next service, in one trace; and none where none are wanted."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Annotated, Any
from uuid import uuid4

import asyncpg
import httpx
import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from fastapi import APIRouter, Response
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from pydantic import BaseModel

from shared.contracts.orders import OrderHoldPlaced
from shared.messaging.database import Pool
from shared.messaging.envelope import Cause
from shared.messaging.router import Route
from shared.messaging.shell import Message
from shared.runtime import build
from shared.web.auth import Role, issue
from shared.web.commands import CommandRequest, asks
from tests.backends import Backends
from tests.databases import AUTH_KEY
from tests.integration.tally import FLOW, Add

NewDatabase = Callable[[str], Awaitable[str]]


class Collector(ThreadingHTTPServer):
    """What an OpenTelemetry collector is to an exporter: spans by service."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.spans: list[tuple[str, Span]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1/traces"

    def named(self, service: str, name: str) -> Span:
        [span] = [span for told, span in self.spans if (told, span.name) == (service, name)]
        return span


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        for told in ExportTraceServiceRequest.FromString(body).resource_spans:
            [service] = [a.value.string_value for a in told.resource.attributes if a.key == "service.name"]
            self.server.spans += [(service, span) for scope in told.scope_spans for span in scope.spans]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class Total(BaseModel):
    total: int


router = APIRouter()


@router.post("/tallies/{key}", status_code=201)
async def add(key: str, by: Annotated[CommandRequest, asks(Role.STOREFRONT)]) -> Response:
    return await by.tell(FLOW, key, Add(1), lambda state, _: (201, Total(total=state.total)), reason="counted")


def translate(fact: OrderHoldPlaced, why: Cause) -> Message[Add]:
    return Message(fact.order_id, Add(10), why)


class Pair:
    """A service that is asked, and one that hears of it: their databases, and a client of the first."""

    def __init__(self, name: str, asked: Pool, hears: Pool, client: httpx.AsyncClient, registry: Any) -> None:
        self.name = name
        self.asked = asked
        self.hears = hears
        self.client = client
        self.registry = registry

    async def ask(self, key: str, traceparent: str | None) -> None:
        headers = {"Authorization": f"Bearer {issue(AUTH_KEY, subject='shop', roles=['storefront'])}"}
        headers |= {"Idempotency-Key": key} | ({"traceparent": traceparent} if traceparent else {})
        (await self.client.post(f"/tallies/{key}", headers=headers)).raise_for_status()

    async def told(self) -> tuple[str | None, str | None]:
        """The contexts in the two journals, once the fact has come through."""
        async with asyncio.timeout(30):
            while not (heard := await self.hears.fetch("SELECT traceparent FROM events")):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        return await self.asked.fetchval("SELECT traceparent FROM events"), heard[0][0]


@pytest.fixture
async def pair(
    backends: Backends, new_database: NewDatabase, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Callable[[str | None], Any]]:
    name = f"t{uuid4().hex[:8]}"
    admin = AIOKafkaAdminClient(bootstrap_servers=backends.kafka)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(f"{name}.events", num_partitions=1, replication_factor=1)])
    finally:
        await admin.close()
    monkeypatch.setenv("OMS_KAFKA", backends.kafka)
    monkeypatch.setenv("OMS_AUTH_KEY", AUTH_KEY)

    @asynccontextmanager
    async def running(traces_url: str | None) -> AsyncIterator[Pair]:
        if traces_url is not None:
            monkeypatch.setenv("OMS_TRACES_URL", traces_url)
        asked = build(name, router=router, flows=[FLOW])
        hears = build(
            f"{name}-next",
            topics=[f"{name}.events"],
            routes=[Route(FLOW, {OrderHoldPlaced: translate})],
            router=APIRouter(),
            publishes=False,
        )
        async with AsyncExitStack() as stack:
            pools: dict[str, Pool] = {}
            for app in (asked, hears):
                dsn = await new_database("tests.integration.plumbing")
                monkeypatch.setenv("OMS_DATABASE_URL", dsn)
                await stack.enter_async_context(app.router.lifespan_context(app))
                pools[app.title] = await stack.enter_async_context(asyncpg.create_pool(dsn, min_size=0))
            transport = httpx.ASGITransport(asked)
            client = await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://asked"))
            yield Pair(name, pools[asked.title], pools[hears.title], client, asked.state.registry)

    yield running


CLICK = "4bf92f3577b34da6a3ce929d0e0e4736"


async def test_a_request_and_what_it_leads_to_are_spans_of_one_trace(
    pair: Callable[[str], Any], collector: Collector
) -> None:
    async with pair(collector.url) as two:
        await two.ask("o1", f"00-{CLICK}-00f067aa0ba902b7-01")
        here, there = await two.told()
    asked, hears = two.name, f"{two.name}-next"
    request = collector.named(asked, "POST /tallies/{key}")
    sent = collector.named(asked, "send order.hold_placed")
    processed = collector.named(hears, "process order.hold_placed")
    assert {span.trace_id.hex() for span in (request, sent, processed)} == {CLICK}
    assert request.parent_span_id.hex() == "00f067aa0ba902b7"
    assert sent.parent_span_id == request.span_id
    assert processed.parent_span_id == sent.span_id
    assert here == f"00-{CLICK}-{request.span_id.hex()}-01"
    assert there == f"00-{CLICK}-{processed.span_id.hex()}-01"


async def test_a_trace_begins_with_a_request_that_brings_none(pair: Callable[[str], Any], collector: Collector) -> None:
    async with pair(collector.url) as two:
        await two.ask("o1", None)
        await two.told()
    assert len(collector.spans) == 3
    assert len({span.trace_id for _, span in collector.spans}) == 1


async def test_what_the_caller_does_not_sample_has_no_spans_and_still_one_trace(
    pair: Callable[[str], Any], collector: Collector
) -> None:
    async with pair(collector.url) as two:
        await two.ask("o1", f"00-{CLICK}-00f067aa0ba902b7-00")
        here, there = await two.told()
    assert collector.spans == []
    assert [context.split("-")[1] for context in (here, there)] == [CLICK, CLICK]


async def test_without_a_collector_the_context_travels_as_it_came(pair: Callable[[None], Any]) -> None:
    came = f"00-{CLICK}-00f067aa0ba902b7-01"
    async with pair(None) as two:
        await two.ask("o1", came)
        assert await two.told() == (came, came)


async def test_what_is_no_trace_context_is_not_passed_on(pair: Callable[[None], Any]) -> None:
    async with pair(None) as two:
        await two.ask("o1", f"00-{'0' * 32}-00f067aa0ba902b7-01")
        assert await two.told() == (None, None)


async def test_a_collector_that_is_away_holds_nothing_up(pair: Callable[[str], Any]) -> None:
    async with pair("http://127.0.0.1:9/v1/traces") as two:
        await two.ask("o1", None)
        here, there = await two.told()
    assert here.split("-")[1] == there.split("-")[1]


async def test_a_request_is_timed_by_the_template_of_its_route(pair: Callable[[None], Any]) -> None:
    async with pair(None) as two:
        await two.ask("o1", None)
        await two.ask("o2", None)
        assert (await two.client.get("/no/such/thing")).status_code == 404
        labels = {"service": two.name, "method": "POST", "route": "/tallies/{key}", "status": "201"}
        assert two.registry.get_sample_value("oms_http_request_seconds_count", labels) == 2
        unknown = labels | {"method": "GET", "route": "none", "status": "404"}
        assert two.registry.get_sample_value("oms_http_request_seconds_count", unknown) == 1
