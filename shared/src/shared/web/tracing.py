"""One trace from click to timeline: spans that continue the context which travels with every fact.

Made only where OMS_TRACES_URL says where spans go; without it nothing here is imported, and a context that comes with a
request still travels on. Per message there is a span only where its trace is sampled.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

import asyncpg
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from shared.messaging.parking import Record

_W3C = TraceContextTextMapPropagator()


def traceparent_of(span: Span) -> str:
    """Return the context that those who continue from here get."""
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def _continuing(traceparent: str | None) -> Context:
    """Return the context to start a span in; an empty one, which starts a trace, where there is none to continue."""
    return _W3C.extract({"traceparent": traceparent} if traceparent else {}, Context())


def _is_sampled(traceparent: str) -> bool:
    return traceparent[-1:] in tuple("13579bdf")


def otlp(url: str) -> SpanExporter:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter(endpoint=url, timeout=3)


class RequestSpan:
    """The span of a request, until the start of its answer."""

    def __init__(self, span: Span) -> None:
        self._span = span
        self.traceparent = traceparent_of(span)

    def answered(self, method: str, route: str, status: int) -> None:
        self._span.update_name(f"{method} {route}")
        self._span.set_attributes({"http.route": route, "http.response.status_code": status})
        if status >= 500:
            self._span.set_status(StatusCode.ERROR)
        self._span.end()


class Tracing:
    """It makes the spans of one service."""

    def __init__(self, service: str, exporter: SpanExporter, share: float) -> None:
        """`share` of the traces that begin here are sampled; one that comes with a decision keeps it."""
        self._provider = TracerProvider(
            resource=Resource.create({"service.name": service}),
            sampler=ParentBased(TraceIdRatioBased(share)),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("order-workflows")

    def close(self) -> None:
        """Send what was not sent yet; blocks while the collector does not answer."""
        self._provider.shutdown()

    def request(self, method: str, path: str, traceparent: str | None) -> "RequestSpan":
        return RequestSpan(
            self._tracer.start_span(
                method,
                _continuing(traceparent),
                SpanKind.SERVER,
                {"http.request.method": method, "url.path": path},
            )
        )

    @contextmanager
    def consuming(self, group: str, records: Sequence[Record]) -> Iterator[Sequence[Record]]:
        """Give the records the contexts of their spans, which the facts decided on them continue. The spans end with the
        batch. A record that comes without a context begins a trace."""
        spans: list[Span] = []
        traced = [self._consumed(group, record, len(records), spans) for record in records]
        with _ended(spans):
            yield traced

    def _consumed(self, group: str, record: Record, batch: int, spans: list[Span]) -> Record:
        headers = dict(record.headers)
        given = (headers.get("traceparent") or b"").decode("ascii", "replace")
        parent = _continuing(given)
        if parent and not _is_sampled(given):
            return record
        type = (headers.get("ce_type") or b"").decode("utf-8", "replace")
        span = self._tracer.start_span(
            f"process {type}",
            parent,
            SpanKind.CONSUMER,
            {
                "messaging.system": "kafka",
                "messaging.operation.name": "process",
                "messaging.consumer.group.name": group,
                "messaging.destination.name": record.topic,
                "messaging.destination.partition.id": str(record.partition),
                "messaging.kafka.offset": record.position,
                "messaging.batch.message_count": batch,
                "messaging.kafka.message.key": record.parking_key(),
            },
        )
        spans.append(span)
        others = [(name, value) for name, value in record.headers if name != "traceparent"]
        return record._replace(headers=[*others, ("traceparent", traceparent_of(span).encode())])

    @contextmanager
    def publishing(self, topic: str, rows: Sequence[asyncpg.Record]) -> Iterator[Mapping[str, str]]:
        """Return, by id of the fact, the context that its record carries, for facts of sampled traces."""
        spans: dict[str, Span] = {}
        for row in rows:
            given = row["traceparent"]
            if given is None or not _is_sampled(given):
                continue
            spans[row["id"]] = self._tracer.start_span(
                f"send {row['type']}",
                _continuing(given),
                SpanKind.PRODUCER,
                {
                    "messaging.system": "kafka",
                    "messaging.operation.name": "send",
                    "messaging.destination.name": topic,
                    "messaging.kafka.message.key": row["subject"],
                    "messaging.message.id": row["id"],
                },
            )
        with _ended(spans.values()):
            yield {id: traceparent_of(span) for id, span in spans.items()}


@contextmanager
def _ended(spans: Collection[Span]) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        for span in spans:
            span.set_status(StatusCode.ERROR, repr(error))
        raise
    finally:
        for span in spans:
            span.end()
