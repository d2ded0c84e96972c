"""Parked messages could not be decoded or decided. They are kept with their key, shown, redriven in order, or discarded by a
named person."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Final, NamedTuple

from shared.messaging.envelope import Headers
from shared.messaging.shell import Db

LONGEST: Final = 200
"""Of a key, in characters: an index takes no entry of any length, and operators name keys in requests."""
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class Record(NamedTuple):
    """A record as it came from a topic; `timestamp_ms` is the broker's. It is a tuple, since there is one for each record."""

    topic: str
    partition: int
    position: int
    timestamp_ms: int
    key: bytes | None
    headers: Headers
    value: bytes | None

    def parking_key(self) -> str:
        """Return the key that its successors queue behind, as an operator can name it: the key as text, a long one by its
        beginning and its hash; the record's own place when it has none."""
        if not self.key:
            return f"{self.topic}/{self.partition}/{self.position}"
        text = _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", self.key.decode("utf-8", "backslashreplace"))
        return text if len(text) <= LONGEST else f"{text[:100]}…{sha256(self.key).hexdigest()}"


@dataclass(frozen=True, slots=True)
class Parked:
    """A record that is to be parked, and why: a code and a sentence."""

    record: Record
    key: str
    reason: str
    detail: str


# One statement. A record's headers travel as one JSON text, values in hex: arrays of arrays must all have one length.
PARK = """
INSERT INTO parked (key, topic, partition, position, header_names, header_values, record_key, value, reason, detail)
SELECT key, topic, partition, position,
       ARRAY(SELECT header ->> 0 FROM json_array_elements(headers) WITH ORDINALITY AS h (header, place) ORDER BY place),
       ARRAY(SELECT decode(header ->> 1, 'hex')
             FROM json_array_elements(headers) WITH ORDINALITY AS h (header, place) ORDER BY place),
       record_key, value, reason, detail
FROM unnest($1::text[], $2::text[], $3::int[], $4::bigint[], $5::json[], $6::bytea[], $7::bytea[], $8::text[],
    $9::text[]) WITH ORDINALITY AS told (key, topic, partition, position, headers, record_key, value, reason, detail, place)
ORDER BY told.place ON CONFLICT (topic, partition, position) DO NOTHING"""

OPEN = """
SELECT id, key, topic, partition, position, header_names, header_values, record_key, value, reason, detail, parked_at
FROM parked WHERE status = 'open' AND ($1::text IS NULL OR key = $1) ORDER BY key, id LIMIT $2"""

KEYS = """
SELECT key, count(*) AS messages, min(parked_at) AS parked_at, (array_agg(reason ORDER BY id))[1] AS reason,
       (array_agg(detail ORDER BY id))[1] AS detail,
       (array_agg(header_values[array_position(header_names, 'ce_type')] ORDER BY id))[1] AS type
FROM parked WHERE status = 'open' AND key > $1
GROUP BY key HAVING $2::text IS NULL OR bool_or(reason = $2) ORDER BY key LIMIT $3"""

SETTLE = """
UPDATE parked SET status = $2, settled_at = now(), settled_by = $3, settled_reason = $4
WHERE id = ANY($1::bigint[]) AND status = 'open' RETURNING id"""


async def park(db: Db, parked: Sequence[Parked]) -> None:
    """Park records in the caller's transaction, in order. A record that was parked before is not parked twice."""
    if not parked:
        return
    await db.execute(
        PARK,
        [p.key for p in parked],
        [p.record.topic for p in parked],
        [p.record.partition for p in parked],
        [p.record.position for p in parked],
        [_headers(p.record.headers) for p in parked],
        [p.record.key for p in parked],
        [p.record.value for p in parked],
        [p.reason for p in parked],
        [_storable(p.detail)[:4000] for p in parked],
    )


def _storable(text: str) -> str:
    """Make text that the database can store: without NUL, and with what is not UTF-8 escaped."""
    return text.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode()


def _headers(headers: Headers) -> str:
    return json.dumps([(_storable(name), None if value is None else bytes(value).hex()) for name, value in headers])


@dataclass(frozen=True, slots=True)
class Waiting:
    """A parked message as an operator sees it."""

    id: int
    key: str
    record: Record
    reason: str
    detail: str
    parked_at: datetime


async def waiting(db: Db, key: str | None = None, limit: int = 1000) -> list[Waiting]:
    """List open parked messages, by key, in the order they came."""
    return [
        Waiting(
            id=row["id"],
            key=row["key"],
            record=Record(
                topic=row["topic"],
                partition=row["partition"],
                position=row["position"],
                timestamp_ms=0,
                key=row["record_key"],
                headers=list(zip(row["header_names"], row["header_values"], strict=True)),
                value=row["value"],
            ),
            reason=row["reason"],
            detail=row["detail"],
            parked_at=row["parked_at"],
        )
        for row in await db.fetch(OPEN, key, limit)
    ]


async def settle(db: Db, ids: Sequence[int], status: str, actor: str, reason: str) -> list[int]:
    """Settle parked messages. `status` is redriven or discarded; who did it and why is kept. Returns those that were still
    open."""
    return [row["id"] for row in await db.fetch(SETTLE, ids, status, actor, reason)]


@dataclass(frozen=True, slots=True)
class WaitingKey:
    """A key with open parked messages; type, reason and detail are the first one's."""

    key: str
    messages: int
    type: bytes | None
    reason: str
    detail: str
    parked_at: datetime


async def waiting_keys(db: Db, reason: str | None, after: str, limit: int) -> list[WaitingKey]:
    """List keys with open parked messages, those after `after`, with a message parked for this reason."""
    rows = await db.fetch(KEYS, after, reason, limit)
    return [WaitingKey(**row) for row in rows]
