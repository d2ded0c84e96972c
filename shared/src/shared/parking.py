"""Messages that could not be decoded or decided, kept with their key: shown, redriven in order, or discarded, by name."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from shared.envelope import Headers
from shared.shell import Db


@dataclass(frozen=True, slots=True)
class Record:
    """A record as it came from a topic; `timestamp_ms` is the broker's."""

    topic: str
    partition: int
    position: int
    timestamp_ms: int
    key: bytes | None
    headers: Headers
    value: bytes | None

    def parking_key(self) -> str:
        """What its successors queue behind: the key as text, or its own place when it has none."""
        if self.key:
            return self.key.decode("utf-8", "backslashreplace").replace("\x00", "\\x00")
        return f"{self.topic}/{self.partition}/{self.position}"


@dataclass(frozen=True, slots=True)
class Parked:
    """A record and why it is parked: a code and a sentence."""

    record: Record
    key: str
    reason: str
    detail: str


PARK = """
INSERT INTO parked (key, topic, partition, position, header_names, header_values, record_key, value, reason, detail)
SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10 ON CONFLICT (topic, partition, position) DO NOTHING"""

OPEN = """
SELECT id, key, topic, partition, position, header_names, header_values, record_key, value, reason, detail, parked_at
FROM parked WHERE status = 'open' AND ($1::text IS NULL OR key = $1) ORDER BY key, id LIMIT $2"""

SETTLE = """
UPDATE parked SET status = $2, settled_at = now(), settled_by = $3, settled_reason = $4
WHERE id = ANY($1::bigint[]) AND status = 'open' RETURNING id"""


async def park(db: Db, parked: Sequence[Parked]) -> None:
    """In the caller's transaction, in order. A record parked before is not parked twice."""
    if not parked:
        return
    await db.executemany(
        PARK,
        [
            (
                p.key,
                p.record.topic,
                p.record.partition,
                p.record.position,
                [name for name, _ in p.record.headers],
                [bytes(value) if value is not None else None for _, value in p.record.headers],
                p.record.key,
                p.record.value,
                p.reason,
                p.detail.replace("\x00", "")[:4000],
            )
            for p in parked
        ],
    )


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
    """Open parked messages, by key, in the order they came."""
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
    """`status` is redriven or discarded; who did it and why is kept. Returns those that were still open."""
    return [row["id"] for row in await db.fetch(SETTLE, ids, status, actor, reason)]
