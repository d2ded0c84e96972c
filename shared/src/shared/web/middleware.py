"""Middleware counts, times and traces every request, bounds its body, and refuses JSON that readers understand differently."""

import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING

from fastapi import Response
from fastapi.responses import JSONResponse
from prometheus_client import Histogram
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.types import Message as AsgiMessage

from shared.messaging.envelope import Undecodable, check_body, traceparent_in

if TYPE_CHECKING:
    from shared.web.tracing import Tracing
from shared.web.problems import problem

BODY_LIMIT = 256 * 1024

trace: ContextVar[str | None] = ContextVar("trace", default=None)
"""The W3C trace context of the request under way: it is written beside its facts and sent on."""

HEALTH = ("/livez", "/readyz", "/metrics")


class Requests:
    """It counts and times every request, up to the start of its answer, by the template of its route; and it continues the
    caller's trace, in a span where spans are wanted."""

    def __init__(self, app: ASGIApp, service: str) -> None:
        self.app = app
        self.service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in HEALTH:
            await self.app(scope, receive, send)
            return
        seconds: Histogram = scope["app"].state.request_seconds
        tracing: Tracing | None = scope["app"].state.tracing
        given = traceparent_in(dict(scope["headers"]).get(b"traceparent", b"").decode("latin-1"))
        span = tracing.request(scope["method"], scope["path"], given) if tracing else None
        trace.set(span.traceparent if span else given)
        began = time.perf_counter()
        answered = False

        def answer(status: int) -> None:
            nonlocal answered
            answered = True
            route = getattr(scope.get("route"), "path", "none")
            seconds.labels(self.service, scope["method"], route, str(status)).observe(time.perf_counter() - began)
            if span is not None:
                span.answered(scope["method"], route, status)

        async def sending(message: AsgiMessage) -> None:
            if message["type"] == "http.response.start":
                answer(message["status"])
            await send(message)

        try:
            await self.app(scope, receive, sending)
        finally:
            if not answered:  # it failed; the answer is made outside
                answer(500)


def _malformed(error: Undecodable) -> JSONResponse:
    field, _, rule = str(error).partition(": ")
    return problem(400, "Malformed", str(error), errors=[{"field": field, "rule": rule}])


class BodyLimit:
    """It refuses a body over the limit before it is parsed, by its length if declared and by counting if not, and JSON that
    readers understand differently. `uploads` returns the limit of requests that bring files, and None for all others."""

    def __init__(
        self, app: ASGIApp, limit: int = BODY_LIMIT, uploads: Callable[[Scope], int | None] | None = None
    ) -> None:
        self.app = app
        self.limit = limit
        self.uploads = uploads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit = (self.uploads and self.uploads(scope)) or self.limit
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > limit:
            await _too_large(limit)(scope, receive, send)
            return
        chunks: list[bytes] = []
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            more = message.get("more_body", False)
            if size > limit:
                await _too_large(limit)(scope, receive, send)
                return
        whole = b"".join(chunks)
        if b"json" in dict(scope["headers"]).get(b"content-type", b""):
            try:
                check_body(whole)
            except Undecodable as error:
                await _malformed(error)(scope, receive, send)
                return
        body: AsgiMessage | None = {"type": "http.request", "body": whole, "more_body": False}

        async def replay() -> AsgiMessage:
            nonlocal body
            if body is not None:
                message, body = body, None
                return message
            return await receive()

        await self.app(scope, replay, send)


def _too_large(limit: int) -> Response:
    return problem(413, "Too large", f"body: must not be larger than {limit} bytes")
