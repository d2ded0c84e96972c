"""Envelopes are CloudEvents 1.0 in Kafka's binary mode: headers carry the context, the value is the JSON of `data`."""

import json
import re
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any, Final, NamedTuple, TypeVar
from uuid import NAMESPACE_URL, UUID, uuid5

import structlog
from asyncpg.pgproto.pgproto import UUID as DriversUUID
from pydantic import BaseModel, ValidationError

from shared.contracts.base import FACTS, Fact
from shared.core.card_numbers import masked
from shared.core.errors import in_words, problems_of

log = structlog.get_logger()

M = TypeVar("M", bound=BaseModel)

Headers = Sequence[tuple[str, bytes]]

SOURCES = "urn:order-workflows:"
DEPTH = 64
"""No fact nests deeper; a value that does is refused before a parser recurses into it."""

REQUIRED = ("ce_id", "ce_source", "ce_type", "ce_time")
_OPTIONAL = ("subject", "sequence", "dataschema", "correlationid", "causationid", "actor", "reason")
READ = frozenset({*REQUIRED, *(f"ce_{name}" for name in _OPTIONAL)})
"""Whatever else a record carries is its sender's own, and is not looked at."""

CLOCK_SKEW: Final = timedelta(minutes=5)
EARLIEST: Final = 2000
"""The year; a date before it is a clock's that was never set."""

_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def traceparent_in(text: str | None) -> str | None:
    """Return a W3C trace context, if it is one. Another is no fault of the message's, and is not passed on."""
    return text if text and _TRACEPARENT.fullmatch(text) else None


def observed_time(occurred_at: datetime | None) -> datetime:
    """Return when what a partner reports happened (I16). A report is never refused for its sender's clock: a time in the
    future, or of a clock that was never set, is replaced by the time of receipt, and the log says so."""
    now = datetime.now(timezone.utc)
    if occurred_at is None:
        return now
    if occurred_at > now + CLOCK_SKEW or occurred_at.year < EARLIEST:
        log.warning("partner.clock_is_wrong", said=occurred_at.isoformat(), received_at=now.isoformat())
        return now
    return occurred_at.astimezone(timezone.utc)


class Undecodable(Exception):
    """It is raised for a record that is not a fact we can read. `reason` is a code; the message says what is wrong with which
    field."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason = reason
        super().__init__(detail)


class Cause(NamedTuple):
    """A cause says why a command is given. Its `id` is claimed once per consumer and written beside every fact it leads to.

    `sequence` is the causing fact's place in its own service's journal of the subject.
    """

    id: UUID
    at: datetime
    actor: str
    reason: str
    correlation_id: str
    causation_id: str | None = None
    traceparent: str | None = None
    sequence: int | None = None


class Context(NamedTuple):
    """The context has the attributes of one record; offsets and the broker's times are not part of the fact.

    `message_id` is what consumers claim: our own ids as they are, a partner's made unique by its source.
    """

    message_id: UUID
    id: str
    source: str
    type: str
    subject: str
    time: datetime
    sequence: int | None
    dataschema: str | None
    correlation_id: str
    causation_id: str | None
    traceparent: str | None
    actor: str
    reason: str

    def cause(self) -> Cause:
        return Cause(
            id=self.message_id,
            at=self.time,
            actor=self.actor,
            reason=self.type,
            correlation_id=self.correlation_id,
            causation_id=self.id,
            traceparent=self.traceparent,
            sequence=self.sequence,
        )


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def type_of(headers: Headers | Iterable[tuple[str, Any]]) -> str | None:
    """Return the `ce_type`, or None where it is absent or unreadable. Consumers skip by it, without parsing."""
    for name, value in headers:
        if name == "ce_type":
            try:
                return bytes(value).decode() if value is not None else None
            except UnicodeDecodeError:
                return None
    return None


def context_of(key: bytes | None, headers: Headers | Iterable[tuple[str, Any]]) -> Context:
    """Read the headers. Raises Undecodable naming the header."""
    try:
        text = {name: value.decode() if value is not None else "" for name, value in headers if name in READ}
    except UnicodeDecodeError:
        name = next(name for name, value in headers if name in READ and value is not None and not _is_utf8(value))
        raise Undecodable("bad_header", f"header {name}: must be UTF-8") from None
    id, source, type, instant = map(text.get, REQUIRED)
    if not (id and source and type and instant):
        name = next(name for name in REQUIRED if not text.get(name))
        raise Undecodable("bad_header", f"header {name}: is required")
    try:
        time = datetime.fromisoformat(instant)
        utc = time if time.tzinfo is timezone.utc else time.astimezone(timezone.utc)
    except (ValueError, OverflowError):
        raise Undecodable("bad_header", "header ce_time: must be an RFC 3339 instant") from None
    if time.tzinfo is None:
        raise Undecodable("bad_header", "header ce_time: must have an offset")
    try:
        subject = text.get("ce_subject") or (key or b"").decode()
        sequence = int(text["ce_sequence"]) if text.get("ce_sequence") else None
    except ValueError:
        raise Undecodable("bad_header", "header ce_sequence: must be a number, and the key UTF-8") from None
    try:
        message_id = _uuid(id) if source.startswith(SOURCES) else uuid5(NAMESPACE_URL, f"{source}|{id}")
    except ValueError:
        raise Undecodable("bad_header", "header ce_id: must be a UUID from our own sources") from None
    # What stands in the journal beside our facts; our own services have written none in.
    said = str if source.startswith(SOURCES) else masked
    causation_id = text.get("ce_causationid")
    return Context(
        message_id,
        said(id),
        source,
        type,
        subject,
        utc,
        sequence,
        text.get("ce_dataschema"),
        said(text.get("ce_correlationid") or id),
        causation_id and said(causation_id),
        _traceparent(headers),
        said(text.get("ce_actor") or f"partner:{source}"),
        said(text.get("ce_reason", "")),
    )


def _traceparent(headers: Headers | Iterable[tuple[str, Any]]) -> str | None:
    """Read the trace context; one that cannot be read is no fault of the message's."""
    value = next((value for name, value in headers if name == "traceparent"), None)
    return None if value is None else traceparent_in(value.decode("ascii", "replace"))


def _uuid(text: str) -> UUID:
    """Parse as `UUID(text)` does. The driver's own class reads the usual ways to write one in a tenth of the time."""
    try:
        return DriversUUID(text)
    except ValueError:
        return UUID(text)


def _check_depth(value: bytes) -> None:
    depth = deepest = 0
    for byte in value:
        if byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"]}":
            depth -= 1
    if deepest > DEPTH:
        raise Undecodable("too_deep", f"data: must not nest deeper than {DEPTH}")


def _check_json(value: bytes, data: BaseModel) -> None:
    """Refuse what readers of JSON disagree on: a name twice in one object, and numbers that JSON does not have.

    What reads as `data` and is what we would write for it says each name once, so that our own facts are not parsed again.
    """
    if data.__pydantic_serializer__.to_json(data) != value:
        _strict.decode(value.decode())


def check_body(value: bytes) -> None:
    """Refuse a JSON text that nests too deep, has a name twice in one object, or a number that JSON does not have. Raises
    Undecodable; what is no JSON at all is left to whoever reads it."""
    try:
        _strict.decode(value.decode())
    except RecursionError:
        raise Undecodable("too_deep", f"body: must not nest deeper than {DEPTH}") from None
    except ValueError:
        return


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    names = dict(pairs)
    if len(names) < len(pairs):
        twice = next(name for name in names if sum(name == other for other, _ in pairs) > 1)
        raise Undecodable("bad_data", f"{twice}: stands twice in one object")
    return names


def _no_number(name: str) -> None:
    raise Undecodable("bad_data", f"data: {name} is not a number of JSON")


_strict = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_no_number)


def fact_of(context: Context, value: bytes | None) -> Fact:
    """Parse our own fact. Raises Undecodable: unknown type, unknown version, or what field is wrong."""
    known = FACTS.get(context.type)
    if known is None:
        raise Undecodable("unknown_type", f"ce_type: {context.type} is not known")
    version = (context.dataschema or "").rpartition(":")[2]
    if version and version != str(known.schema_version):
        raise Undecodable("unknown_version", f"ce_dataschema: version {version} of {context.type} is not known")
    return data_of(known, value)


def data_of(model: type[M], value: bytes | None) -> M:
    """Parse the value as `model`. Raises Undecodable naming the field and the rule."""
    if not value:
        raise Undecodable("empty", "data: must not be empty")
    try:
        data = model.model_validate_json(value)
        _check_json(value, data)
        return data
    except ValidationError as error:
        if len(value) > DEPTH:
            _check_depth(value)
        raise Undecodable("bad_data", in_words(problems_of(error.errors(), "data")[:5])) from None
    except RecursionError:
        raise Undecodable("too_deep", f"data: must not nest deeper than {DEPTH}") from None


def source_of(service: str) -> str:
    return f"{SOURCES}{service}"
