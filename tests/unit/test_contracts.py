"""Facts and envelopes: every fact has one type and one schema, and a record is read or refused by name."""

import json
from datetime import datetime, timezone

import pytest
from pydantic import TypeAdapter, ValidationError

from ops.docs import incompatibilities
from shared.contracts import FACTS
from shared.contracts.base import OrderId
from shared.contracts.orders import OrderHoldPlaced
from shared.messaging.envelope import Undecodable, context_of, fact_of, type_of

HEADERS = {
    "ce_id": b"0198c2f0-0000-7000-8000-000000000001",
    "ce_source": b"urn:order-workflows:orders",
    "ce_type": b"order.hold_placed",
    "ce_time": b"2026-05-04T12:00:00+02:00",
    "ce_sequence": b"3",
}


def headers(**more: bytes) -> list[tuple[str, bytes]]:
    return list((HEADERS | more).items())


def test_types_are_dotted_facts_and_classes_say_the_same() -> None:
    for kind, fact in FACTS.items():
        noun, _, verb = kind.partition(".")
        words = f"{noun}_{verb}".split("_")
        camel = "".join(word.capitalize() for word in words)
        aliases = {camel, camel.removeprefix("Fulfillment") or camel}
        assert fact.__name__ in aliases | {f"Order{camel}"}, kind


def test_a_fact_survives_its_journey() -> None:
    fact = OrderHoldPlaced(order_id="A-1", hold="fraud", detail="score 97 „ü“")
    context = context_of(b"A-1", headers())
    assert fact_of(context, fact.model_dump_json().encode()) == fact
    assert context.time == datetime(2026, 5, 4, 10, tzinfo=timezone.utc)
    assert (context.subject, context.sequence, context.correlation_id) == ("A-1", 3, context.id)


def test_a_reader_ignores_a_field_it_does_not_know() -> None:
    body = b'{"order_id": "A-1", "hold": "fraud", "detail": "", "mood": "blue"}'
    assert fact_of(context_of(b"A-1", headers()), body) == OrderHoldPlaced(order_id="A-1", hold="fraud", detail="")


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"ce_id": b""}, "ce_id"),
        ({"ce_id": b"not a uuid"}, "ce_id"),
        ({"ce_time": b"yesterday"}, "ce_time"),
        ({"ce_time": b"2026-05-04T12:00:00"}, "ce_time"),
        ({"ce_time": b"0001-01-01T00:00:00+05:00"}, "ce_time"),
        ({"ce_sequence": b"three"}, "ce_sequence"),
        ({"ce_source": b"\xff"}, "ce_source"),
    ],
)
def test_a_bad_header_is_named(changed: dict[str, bytes], reason: str) -> None:
    with pytest.raises(Undecodable, match=reason) as refused:
        context_of(b"A-1", headers(**changed))
    assert refused.value.reason == "bad_header"


def test_a_type_is_read_without_parsing_and_an_unreadable_one_is_none() -> None:
    assert type_of(headers()) == "order.hold_placed"
    assert type_of([("ce_type", b"\xff")]) is None
    assert type_of([]) is None


@pytest.mark.parametrize(
    ("change", "broken"),
    [
        ({"properties": {"a": {"type": "string"}}}, [".b: is gone"]),
        ({"properties": {"a": {"type": "integer"}, "b": {"enum": ["x", "y"]}}}, [".a: type 'string' became 'integer'"]),
        ({"required": ["a", "b"]}, [".b: became required"]),
        ({"properties": {"a": {"type": "string"}, "b": {"enum": ["x"]}}}, [".b: y is gone"]),
        ({"properties": {"a": {"type": "string"}, "b": {"enum": ["x", "y", "z"]}, "c": {"type": "null"}}}, []),
    ],
)
def test_a_schema_may_grow_and_may_not_break_its_readers(change: dict[str, object], broken: list[str]) -> None:
    old = {"properties": {"a": {"type": "string"}, "b": {"enum": ["x", "y"]}}, "required": ["a"]}
    assert incompatibilities(old, json.loads(json.dumps(old | change))) == broken


@pytest.mark.parametrize("name", ["policy:standard", "stock:mug@berlin", "customer:1", "v:F"])
def test_the_name_of_another_kind_of_aggregate_is_no_order_id(name: str) -> None:
    """A blind return of it would write an order's state under a policy's or a shelf's key."""
    with pytest.raises(ValidationError):
        TypeAdapter(OrderId).validate_python(name)
