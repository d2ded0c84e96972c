"""What comes in, over every model and route of every service: no card number is stored, and an error is said in words."""

import re
from collections.abc import Iterable, Iterator
from datetime import datetime, timezone
from importlib import import_module
from types import SimpleNamespace, UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram
from pydantic import BaseModel, Field, ValidationError, create_model

from shared.contracts.base import WRITTEN_KIB, Input, Observation, Reply
from shared.core.card_numbers import has_card_number, masked
from shared.core.errors import PATTERNS, RULES, problems_of
from shared.messaging.envelope import Undecodable, context_of, data_of
from shared.settings import Settings
from support_view.casework_api import CrmContact

SERVICES: Final = ("orders", "payments", "fulfillment", "returns", "notifications", "support_view")
APPS: Final[dict[str, FastAPI]] = {name: import_module(f"{name}.app").app for name in SERVICES}
CARD: Final = "4111111111111111"

CARDS: Final = {
    "bare": CARD,
    "in a sentence": "my card is 4111 1111 1111 1111, thanks",
    "hyphens": "4111-1111-1111-1111",
    "dots": "4111.1111.1111.1111",
    "slashes": "4111/1111/1111/1111",
    "underscores": "4111_1111_1111_1111",
    "non-breaking blanks": "4111\u00a01111\u00a01111\u00a01111",
    "several blanks": "4111   1111  1111     1111",
    "a line each": "4111\n1111\n1111\n1111",
    "zero width": "4111\u200b1111\u200b1111\u200b1111",
    "soft hyphens in it": "41\u00ad11111111111111",
    "mixed": "4111 1111-1111.1111",
    "blank and hyphen": "4111 - 1111 - 1111 - 1111",
    "digit by digit": "4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1",
    "beside a number": "room 5 4111 1111 1111 1111",
    "behind letters": "card4111111111111111",
    "Arabic digits": "٤١١١ ١١١١ ١١١١ ١١١١",
    "full width": "４１１１１１１１１１１１１１１１",
    "Devanagari": "४१११११११११११११११",
    "Amex": "3782 822463 10005",
    "Mastercard": "5555555555554444",
    "Mastercard, 2-series": "2223003122003222",
    "Discover": "6011000990139424",
    "Diners": "30569309025904",
    "JCB": "3530111333300000",
    "UnionPay": "6212345678901232",
    "Visa of 13": "4222222222222",
    "Visa of 19": "4000000000000000006",
}
OTHERS: Final = {
    "a wrong check digit": "4111111111111112",
    "an IMEI": "490154203237518",
    "another IMEI": "IMEI 35-209900-176148-1",
    "no scheme begins so": "1234567812345670",
    "too short": "4111 1111 1111",
    "too long": "12345678901234567890",
    "a UUID": "41111111-1111-4111-8111-111111111111",
    "an IBAN": "FR76 3000 6000 0112 3456 7890 189",
    "another IBAN": "DE89370400440532013000",
    "an article of Germany": "4006381333931",
    "a telephone number": "+49 176 1234 5678 90",
    "an instant": "2026-11-30T22:15:59.123456Z",
    "a token": "tok_ok",
    "nothing": "",
}


@pytest.mark.parametrize("text", CARDS.values(), ids=CARDS)
def test_a_card_number_is_found_however_it_is_written(text: str) -> None:
    assert has_card_number(text)
    assert not has_card_number(masked(text))
    assert len(masked(text)) == len(text)


@pytest.mark.parametrize("text", OTHERS.values(), ids=OTHERS)
def test_what_is_no_card_number_stays(text: str) -> None:
    assert not has_card_number(text)
    assert masked(text) == text


@given(
    st.text(max_size=40),
    st.text(max_size=40),
    st.sampled_from([" ", "-", ".", "/", "\u00a0", "  ", "\u2009", "\u2013", "*"]),
)
def test_a_number_as_it_stands_on_cards_is_found_between_any_words(before: str, after: str, separator: str) -> None:
    number = separator.join(("5555", "5555", "5555", "4444"))
    text = f"{before}, {number}, {after}"
    if any(character.isdigit() for character in before + after):
        text = f"x{number}x"
    assert has_card_number(text)
    assert number not in masked(text)


def models(kind: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for model in kind.__subclasses__():
        yield model
        yield from models(model)


def holds_text(annotation: Any) -> bool:
    """Whether free text or an id may be in it, and not in a model of its own."""
    if annotation is str:
        return True
    if get_origin(annotation) is Literal:
        return False
    if get_origin(annotation) in (Annotated, Union, UnionType, tuple, list, dict, frozenset):
        return any(map(holds_text, get_args(annotation)))
    return False


def sample(annotation: Any) -> Any:
    """A value of that shape with a card number for each text."""
    origin, args = get_origin(annotation), get_args(annotation)
    if annotation is str:
        return CARD
    if origin in (Union, UnionType):
        return sample(next(each for each in args if holds_text(each)))
    if origin is Annotated:
        return sample(args[0])
    if origin in (tuple, list, frozenset):
        return [sample(args[0])]
    if origin is dict:
        return {sample(args[0]) if args[0] is str else "key": sample(args[1]) if holds_text(args[1]) else 1}
    raise AssertionError(annotation)


TEXTS: Final = [
    pytest.param(model, name, id=f"{model.__module__}.{model.__name__}.{name}")
    for kind in (Input, Reply)
    for model in dict.fromkeys(models(kind))
    if not model.__module__.startswith(("tests", "pydantic"))
    for name, field in model.model_fields.items()
    if holds_text(field.annotation)
]


def test_texts_of_every_service_are_among_them() -> None:
    found = {param.values[0].__module__.partition(".")[0] for param in TEXTS}
    assert found >= {*SERVICES, "shared"}


@pytest.mark.parametrize(("model", "name"), TEXTS)
def test_no_text_or_id_takes_a_card_number(model: type[BaseModel], name: str) -> None:
    field = model.model_fields[name]
    base = next(each for each in (Observation, Reply, Input) if issubclass(model, each))
    # The field alone, as the class has it, so that what else the class needs does not matter.
    alone = create_model("Alone", __base__=base, field=(field.annotation, field))  # type: ignore[arg-type]
    given = sample(field.annotation)
    try:
        read = alone.model_validate({field.alias or "field": given})
    except ValidationError as error:
        rules = [each["rule"] for each in problems_of(error.errors())]
        # One that is written by a pattern of its own is refused by that, and holds no card number either.
        assert rules == ["must not hold a card number"] or all(rule.startswith("must") for rule in rules)
        return
    assert base is not Input
    assert CARD not in str(read)


def routes() -> Iterator[Any]:
    for service, app in APPS.items():
        for route in every_route(app.routes):
            for method in sorted((route.methods or set()) - {"GET", "HEAD"}):
                for name in sorted(route.param_convertors):
                    yield pytest.param(app, method, route.path, name, id=f"{service} {method} {route.path} {name}")


def every_route(routes: Iterable[Any]) -> Iterator[APIRoute]:
    for route in routes:
        if isinstance(route, APIRoute):
            yield route
        elif (included := getattr(route, "original_router", None)) is not None:
            yield from every_route(included.routes)


async def asked(app: FastAPI, method: str, path: str, **headers: str) -> Any:
    """The errors of the answer, as from a service that has not started: nothing is asked of its database."""
    if not hasattr(app.state, "request_seconds"):
        labels = ["service", "method", "route", "status"]
        app.state.request_seconds = Histogram("seconds", "of requests", labels, registry=CollectorRegistry())
        app.state.tracing = None
        app.state.settings = SimpleNamespace(evidence_bytes=1000)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
        answer = await client.request(method, path, headers=headers)
    assert answer.status_code == 422
    return answer.json()["errors"]


@pytest.mark.parametrize(("app", "method", "path", "name"), list(routes()))
async def test_no_command_is_addressed_by_a_card_number(app: FastAPI, method: str, path: str, name: str) -> None:
    address = re.sub(r"\{\w+(:\w+)?\}", "x", path.replace(f"{{{name}}}", CARD))
    assert await asked(app, method, address) == [{"field": name, "rule": "must not hold a card number"}]


async def test_no_command_has_a_card_number_for_its_idempotency_key() -> None:
    errors = await asked(APPS["orders"], "POST", "/orders", **{"Idempotency-Key": CARD})
    assert errors == [{"field": "Idempotency-Key", "rule": "must not hold a card number"}]


def bodies() -> list[type[BaseModel]]:
    """Every model that a route reads, and those inside."""
    found: dict[type[BaseModel], None] = {}

    def add(annotation: Any) -> None:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            if annotation not in found:
                found[annotation] = None
                for field in annotation.model_fields.values():
                    add(field.annotation)
        else:
            for each in get_args(annotation):
                add(each)

    for app in APPS.values():
        for route in every_route(app.routes):
            if route.body_field is not None:
                add(route.body_field.field_info.annotation)
    return list(found)


def test_every_body_is_a_model_that_looks_for_card_numbers() -> None:
    assert len(bodies()) > 50
    assert [model for model in bodies() if not issubclass(model, Input)] == []


# Errors in words

JARGON: Final = re.compile(
    r"[Ii]nput should|[Ss]tring should|[Tt]uple|pydantic|regular expression|pattern|\^|\$|validat|Value error|\bitems?\b"
)
BAD: Final[tuple[Any, ...]] = (
    None, True, -1, 10**30, 1.5, "", " ", "not here", "\x00", "x" * 100_000, "ü", [], {}, [[]], [{}] * 600, {"x": 1},
    "2026-13-45", "2026-11-30T00:00:00", float("nan"), "4111111111111111", "\ud800",
)  # fmt: skip


@pytest.mark.parametrize("model", bodies(), ids=lambda model: f"{model.__module__}.{model.__name__}")
def test_every_error_of_every_field_is_said_in_words(model: type[BaseModel]) -> None:
    for value in BAD:
        with pytest.raises(ValidationError) as refused:
            model.model_validate(dict.fromkeys([*model.model_fields, "unheard_of"], value))
        for raw in refused.value.errors():
            assert raw["type"] in RULES, raw
        for each in problems_of(refused.value.errors()):
            assert each["rule"].startswith(("must ", "is ")), each
            assert not JARGON.search(each["rule"]), each
            assert not JARGON.search(each["field"]), each


def patterns(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if isinstance(schema.get("pattern"), str):
            yield schema["pattern"]
        for each in schema.values():
            yield from patterns(each)
    elif isinstance(schema, list):
        for each in schema:
            yield from patterns(each)


def sendable(document: dict[str, Any]) -> Iterator[Any]:
    """Of an OpenAPI document, what may be sent."""
    for path in document["paths"].values():
        for operation in path.values():
            yield operation.get("parameters", [])
            yield operation.get("requestBody", {})
    yield document["components"]["schemas"]


@pytest.mark.parametrize("service", SERVICES)
def test_every_pattern_that_is_documented_has_its_words(service: str) -> None:
    found = {each for part in sendable(APPS[service].openapi()) for each in patterns(part)}
    assert sorted(found - PATTERNS.keys()) == []


def named(schema: Any, names: frozenset[str]) -> Iterator[Any]:
    """The schemas of parameters and fields with such a name, wherever they stand."""
    if isinstance(schema, dict):
        if "schema" in schema and schema.get("name") in names:
            yield schema["schema"]
        for name, each in schema.items():
            if name in names and isinstance(each, dict):
                yield each
            yield from named(each, names)
    elif isinstance(schema, list):
        for each in schema:
            yield from named(each, names)


@pytest.mark.parametrize("other", ["policy:standard", "stock:mug@berlin", "customer:1f"])
def test_no_way_in_takes_another_aggregates_key_for_an_orders(other: str) -> None:
    """It would be decided and kept under the key of a policy, a shelf or a customer."""
    ways_in: list[Any] = [
        operation.get("parameters", [])
        for app in APPS.values()
        for path in app.openapi()["paths"].values()
        for operation in path.values()
    ]
    ways_in += [model.model_json_schema() for model in bodies()]
    found = [
        pattern
        for part in ways_in
        for schema in named(part, frozenset({"order_id", "shipment_id"}))
        for pattern in patterns(schema)
    ]
    assert len(found) > 50
    assert [pattern for pattern in found if re.search(pattern, other)] == []


async def test_a_topic_that_is_no_code_is_refused_in_words() -> None:
    who = b'"contact_id": "c1", "customer": {"customer_id": "c"}, "channel": "email"'
    body = b'{"topic": "not here", "occurred_at": "2026-05-04T12:00:00Z", %b}' % who
    with pytest.raises(Undecodable) as refused:
        data_of(CrmContact, body)
    assert str(refused.value) == (
        "topic: must be letters, digits and . _ : @ - without blanks, and begin with a letter or digit"
    )


def test_a_list_is_not_too_short_for_what_is_wrong_with_its_entries() -> None:
    class Line(Input):
        quantity: int

    class Lines(Input):
        lines: Annotated[tuple[Line, ...], Field(min_length=1)]

    with pytest.raises(ValidationError) as refused:
        Lines.model_validate({"lines": [{"quantity": "many"}]})
    assert problems_of(refused.value.errors()) == [{"field": "lines.0.quantity", "rule": "must be a whole number"}]
    with pytest.raises(ValidationError) as refused:
        Lines.model_validate({"lines": []})
    assert problems_of(refused.value.errors()) == [{"field": "lines", "rule": "must have at least 1 entry"}]


# What a customer wrote


def contact(text: str) -> str:
    read = CrmContact(
        contact_id="c1",
        customer={"customer_id": "c"},
        channel="email",
        text=text,
        occurred_at=datetime(2026, 5, 4, tzinfo=timezone.utc),
    )
    return read.text


@pytest.mark.parametrize(
    ("written", "taken"),
    [
        ("Hello,\r\nwhere is it?\rBye", "Hello,\nwhere is it?\nBye"),
        ("bell\x07 and nul\x00", "bell and nul"),
        ("a" * 2001, "a" * 2001),
        ("ü" * 32_768, "ü" * 32_768),
        (f"I paid with {CARD}!", "I paid with 411111xxxxxx1111!"),
        ("IMEI 490154203237518", "IMEI 490154203237518"),
    ],
    ids=["line ends", "controls", "2001 characters", "64 KiB", "a card number", "an IMEI"],
)
def test_what_a_customer_wrote_is_taken(written: str, taken: str) -> None:
    assert contact(written) == taken


def test_more_than_64_kib_is_refused_in_words() -> None:
    with pytest.raises(ValidationError) as refused:
        contact("a" * (WRITTEN_KIB * 1024 + 1))
    assert problems_of(refused.value.errors()) == [{"field": "text", "rule": "must be at most 64 KiB"}]


# Topics

HEADERS: Final = [
    ("ce_id", b"1"),
    ("ce_source", b"urn:wms"),
    ("ce_type", b"warehouse.packed"),
    ("ce_time", b"2026-05-04T12:00:00Z"),
]


def test_a_foreign_header_that_is_no_utf_8_is_not_looked_at() -> None:
    plain = context_of(b"o1", HEADERS)
    assert context_of(b"o1", [*HEADERS, ("x-their-own", b"\xff\xfe"), ("another", None)]) == plain
    assert context_of(b"o1", [*HEADERS, ("traceparent", b"\xff\xfe")]) == plain
    with pytest.raises(Undecodable, match="header ce_actor: must be UTF-8"):
        context_of(b"o1", [*HEADERS, ("ce_actor", b"\xff")])


def test_a_partners_headers_bring_no_card_number_into_the_journal() -> None:
    said = [("ce_actor", f"clerk {CARD}".encode()), ("ce_reason", CARD.encode()), ("ce_correlationid", CARD.encode())]
    context = context_of(b"o1", [("ce_id", CARD.encode()), *HEADERS[1:], *said])
    assert CARD not in str(context.cause())


# Webhooks


@pytest.mark.parametrize(
    "secret", ["", "whsec_", "short", "whsec_c2hvcnQ=", "whsec_not base64 at all, however long it is"]
)
@pytest.mark.parametrize("service", ["payments", "fulfillment", "returns", "notifications", "support_view"])
def test_a_service_with_an_empty_or_short_webhook_secret_does_not_start(service: str, secret: str) -> None:
    module = import_module(f"{service}.settings")
    [settings] = [
        each
        for each in vars(module).values()
        if isinstance(each, type) and issubclass(each, Settings) and each is not Settings
    ]
    [name] = [name for name in settings.model_fields if name.endswith("webhook_secret")]
    with pytest.raises(ValidationError) as refused:
        settings.model_validate({name: secret})
    [error] = [each for each in refused.value.errors() if each["loc"] == (name,)]
    assert "must be" in error["msg"]
    assert "input_value" not in str(refused.value)
