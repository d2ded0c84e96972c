"""Operations are what an operator may ask of any service: its lag, and its parked messages, redriven or discarded by a named
person."""

from dataclasses import asdict
from datetime import datetime
from typing import Annotated

import structlog
from fastapi import APIRouter, HTTPException, Query, Request
from pydantic import BaseModel, Field

from shared.contracts.base import Input, Name
from shared.messaging.parking import settle, waiting, waiting_keys
from shared.messaging.relay import release, withheld
from shared.messaging.timers import RETRY
from shared.web.auth import Caller, Role
from shared.web.callers import needs

log = structlog.get_logger()

router = APIRouter(prefix="/operations", tags=["operations"])

Operator = Annotated[Caller, needs(Role.OPERATOR)]
Reader = Annotated[Caller, needs(Role.OPERATOR, Role.SUPERVISOR, Role.AUDITOR)]


class ParkedMessage(BaseModel):
    id: int
    key: str
    topic: str
    partition: int
    position: int
    type: str | None
    reason: str
    detail: str
    parked_at: datetime
    headers: dict[str, str]
    value: str = Field(description="as text, what is not UTF-8 escaped; at most 64 KiB of it")


class ParkedKey(BaseModel):
    key: str
    messages: int
    type: str | None = Field(description="the first message's, as are reason and detail")
    reason: str
    detail: str
    parked_at: datetime


class PartitionLag(BaseModel):
    group: str
    topic: str
    partition: int
    messages: int
    seconds: float


class Lag(BaseModel):
    partitions: list[PartitionLag]
    unpublished: int = Field(description="facts not yet on the topic, those of withheld keys among them")
    oldest_unpublished_seconds: float = Field(description="of those that are not withheld")
    parked_keys: int
    locked: list[str] = Field(description="keys that wait for a row which another session of the database holds")
    failing: list[str] = Field(description="deadlines that are due and do not fire, each with its fault")
    withheld_keys: int = Field(description="keys that are not published, since the broker refused one of their facts")


class WithheldKey(BaseModel):
    id: int
    key: str
    reason: str
    detail: str
    facts: int
    withheld_at: datetime


class Release(Input):
    key: Name


class Released(BaseModel):
    released: bool


class Redrive(Input):
    key: Name
    reason: Name = "redrive"


class Redriven(BaseModel):
    done: int
    still_parked: int


class Retry(Input):
    key: Name
    reason: Name


class Retried(BaseModel):
    names: list[str] = Field(description="of the deadlines that are tried again")


class Discard(Input):
    ids: Annotated[tuple[int, ...], Field(min_length=1, max_length=1000)]
    reason: Name


class Discarded(BaseModel):
    discarded: list[int]


def _text(value: bytes | None) -> str:
    return (value or b"")[: 64 * 1024].decode("utf-8", "backslashreplace")


@router.get("/parked")
async def parked(
    request: Request,
    _: Reader,
    key: Annotated[str | None, Query(max_length=200)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> list[ParkedMessage]:
    """Open parked messages, by key, in the order they came."""
    async with request.app.state.pool.acquire(timeout=5) as db:
        found = await waiting(db, key, limit)
    shown = []
    for w in found:
        headers = {name: _text(value) for name, value in w.record.headers}
        shown.append(
            ParkedMessage(
                id=w.id,
                key=w.key,
                topic=w.record.topic,
                partition=w.record.partition,
                position=w.record.position,
                type=headers.get("ce_type"),
                reason=w.reason,
                detail=w.detail,
                parked_at=w.parked_at,
                headers=headers,
                value=_text(w.record.value),
            )
        )
    return shown


@router.get("/parked/keys")
async def parked_keys(
    request: Request,
    _: Reader,
    reason: Annotated[str | None, Query(max_length=200)] = None,
    after: Annotated[str, Query(max_length=200)] = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> list[ParkedKey]:
    """Keys with parked messages, those for a `reason` where one is given; the next page is `after` the last one's."""
    async with request.app.state.pool.acquire(timeout=5) as db:
        found = await waiting_keys(db, reason, after, limit)
    return [ParkedKey(**asdict(each) | {"type": None if each.type is None else _text(each.type)}) for each in found]


@router.post("/parked/redrive")
async def redrive(request: Request, body: Redrive, who: Operator) -> Redriven:
    """Process a key's parked messages again, in order, until one is refused again."""
    consumers = request.app.state.running.consumers
    if not consumers:
        raise HTTPException(404, "this service consumes nothing")
    done, left = await consumers[0].redrive(body.key, who.actor, body.reason)
    return Redriven(done=done, still_parked=left)


@router.post("/parked/discard")
async def discard(request: Request, body: Discard, who: Operator) -> Discarded:
    """Set messages aside for good. What is queued behind them stays until it is redriven."""
    async with request.app.state.pool.acquire(timeout=5) as db, db.transaction():
        return Discarded(discarded=await settle(db, body.ids, "discarded", who.actor, body.reason))


@router.post("/deadlines/retry")
async def retry_deadlines(request: Request, body: Retry, who: Operator) -> Retried:
    """Fire a key's failing deadlines again, those that were given up among them, and count their attempts anew."""
    async with request.app.state.pool.acquire(timeout=5) as db:
        names = [row["name"] for row in await db.fetch(RETRY, body.key)]
    log.warning("deadlines.retried", key=body.key, names=names, actor=who.actor, reason=body.reason)
    return Retried(names=names)


@router.get("/withheld")
async def withheld_keys(
    request: Request,
    _: Reader,
    after: Annotated[int, Query(ge=0, lt=2**63)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> list[WithheldKey]:
    """Keys whose facts are not published, since the broker found one of them too large; oldest first. The next page is
    `after` the last one's id."""
    async with request.app.state.pool.acquire(timeout=5) as db:
        return [WithheldKey(**asdict(key)) for key in await withheld(db, after, limit)]


@router.post("/withheld/release")
async def release_key(request: Request, body: Release, who: Operator) -> Released:
    """Publish a key's facts again, from the first: for when the broker takes larger ones."""
    async with request.app.state.pool.acquire(timeout=5) as db:
        released = Released(released=await release(db, body.key, who.actor))
    request.app.state.running.notify_relay()
    return released


LOCKED = """
SELECT DISTINCT ON (key) key || ' waits: ' || detail FROM parked WHERE status = 'open' AND reason = 'locked'
ORDER BY key, id LIMIT 20"""
FAILING = """
SELECT 'deadline ' || name || ' of ' || key || CASE WHEN given_up_at IS NULL THEN ' fails: ' ELSE ' was given up: ' END || failure
FROM deadlines WHERE failure IS NOT NULL ORDER BY key, name LIMIT 20"""
UNPUBLISHED = """
SELECT (SELECT count(*) FROM outbox) AS unpublished,
       coalesce((SELECT extract(epoch FROM now() - recorded_at) FROM outbox JOIN events ON id = event_id
                 WHERE NOT EXISTS (SELECT FROM withheld
                                   WHERE withheld.subject = events.subject AND released_at IS NULL)
                 ORDER BY position LIMIT 1), 0)::float AS oldest,
       (SELECT count(DISTINCT key) FROM parked WHERE status = 'open' AND key NOT IN (
            SELECT key FROM parked WHERE status = 'open' AND reason = 'locked')) AS parked_keys,
       ARRAY({LOCKED}) AS locked,
       ARRAY({FAILING}) AS failing,
       (SELECT count(*) FROM deadlines WHERE failure IS NOT NULL AND given_up_at IS NOT NULL) AS given_up,
       (SELECT count(*) FROM withheld WHERE released_at IS NULL) AS withheld_keys""".replace(
    "{LOCKED}", LOCKED
).replace("{FAILING}", FAILING)


@router.get("/lag")
async def lag(request: Request, _: Reader) -> Lag:
    """Return what this process has still to read, per partition, and what it has still to publish."""
    running = request.app.state.running
    partitions = [
        PartitionLag(group=consumer.group, topic=topic, partition=partition, messages=behind, seconds=round(seconds, 3))
        for consumer in running.consumers
        for (topic, partition), (behind, seconds) in sorted((await consumer.lag()).items())
    ]
    async with running.pool.acquire(timeout=5) as db:
        row = await db.fetchrow(UNPUBLISHED)
    return Lag(
        partitions=partitions,
        unpublished=row["unpublished"],
        oldest_unpublished_seconds=row["oldest"],
        parked_keys=row["parked_keys"],
        locked=[*row["locked"], *running.commands.waiting],
        failing=row["failing"],
        withheld_keys=row["withheld_keys"],
    )
