"""The shell processes a batch of messages in one transaction. The pure core decides; this commits, and nobody else does.

A batch costs a fixed number of statements whatever its size: claim and load with locks, what the flow keeps beside its
states, save, append. A refused message takes nothing with it: its claim is given back and the others commit.
"""

import asyncio
import gc
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from typing import Any, Final, Generic, TypeAlias, TypeVar
from uuid import UUID
from weakref import WeakKeyDictionary

import asyncpg
import structlog
from pydantic import TypeAdapter

from shared.contracts.base import Fact
from shared.core.machine import Invalid, NotAllowed
from shared.messaging import journal
from shared.messaging.database import array, transposed
from shared.messaging.envelope import Cause, Undecodable

log = structlog.get_logger()

S = TypeVar("S")
C = TypeVar("C")
X = TypeVar("X")
T = TypeVar("T")

Db: TypeAlias = "asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"


@dataclass(frozen=True, slots=True)
class Message(Generic[C]):
    """A message is a command for one aggregate and its cause. `command` is an Undecodable where it could not be read."""

    key: str
    command: C | Undecodable
    cause: Cause


@dataclass(slots=True)
class LockedAggregate(Generic[S]):
    """An aggregate whose row this transaction has locked, and what happened to it so far in the batch."""

    key: str
    before: S
    state: S
    sequence: int
    chain: bytes
    is_new: bool
    is_outdated: bool = False
    """Its row was written with another shape of state, by an older or newer image: deadlines may be missing beside it."""
    facts: list[Fact] = field(default_factory=list)
    causes: list[Cause] = field(default_factory=list)
    """Of each of the facts."""

    def cause_of(self, name: str, id: str) -> Cause:
        """Of the first fact with this id under this name; of the last of all facts where none has it."""
        for fact, cause in zip(self.facts, self.causes, strict=True):
            if getattr(fact, name, None) == id:
                return cause
        return self.causes[-1]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one message: its facts; or a repeat; or a refusal with its error; or queued behind a parked one."""

    facts: Sequence[Fact] = ()
    is_repeat: bool = False
    error: Exception | None = None
    is_behind: bool = False


ITEMS_PER_YIELD: Final = 64
"""Items processed before yielding to the event loop, so that requests, and the other transaction of a batch, are not held up.
What the driver writes out for one statement is not cut up."""


def freeze_gc() -> None:
    """Exclude everything built so far from garbage collection, and collect rarely.

    What was imported lives as long as the process, and reference counting frees the tens of thousands of objects of a batch.
    A process whose work is batches calls this once, when it has all it needs."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


async def yielding_every(things: Iterable[T]) -> AsyncIterator[T]:
    """Iterate, and yield to the event loop after every `ITEMS_PER_YIELD` items."""
    for number, thing in enumerate(things, 1):
        yield thing
        if not number % ITEMS_PER_YIELD:
            await asyncio.sleep(0)


_turns: Final = WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock]()


def one_batch_at_a_time(count: int) -> AbstractAsyncContextManager[object]:
    """A lock under which this process decides large batches one after the other, while the database works on a statement of
    the other one. Decided side by side, both would be ready at the same time and wait for the database together. Nothing is
    awaited under the lock but `yielding_every`."""
    if count <= ITEMS_PER_YIELD:
        return nullcontext()
    return _turns.setdefault(asyncio.get_running_loop(), asyncio.Lock())


async def _no_context(db: Db, messages: Sequence[Message[Any]], states: Mapping[str, Any]) -> None:
    return None


def _no_invariants(state: Any) -> Sequence[str]:
    return ()


async def _save_nothing(db: Db, touched: Sequence[LockedAggregate[Any]], context: Any) -> None:
    return None


class StateCache(Generic[S]):
    """A cache of recent states by the hash of their last fact. The chain fixes everything that happened before it, so a state
    found under it is the state, whoever wrote the row since and whether or not its transaction was committed."""

    def __init__(self, most: int = 2048) -> None:
        self._most = most
        self._states: dict[str, tuple[bytes, S]] = {}

    def find(self, key: str) -> tuple[bytes, S] | None:
        return self._states.get(key)

    def put(self, key: str, chain: bytes, state: S) -> None:
        """The one written longest ago makes room."""
        self._states.pop(key, None)
        self._states[key] = (chain, state)
        if len(self._states) > self._most:
            del self._states[next(iter(self._states))]


@dataclass(frozen=True, slots=True)
class Flow(Generic[S, C, X]):
    """A flow says how one kind of aggregate is decided, folded and saved.

    `decide(state, command, context)` and `evolve(state, fact)` are pure. `load_context` loads (and locks, in key
    order) what decisions need beside the aggregate; `evolve_context` folds facts into it; `save_tables` writes the rows that carry
    the laws and the look-ups, one statement per table. `deadlines(state)` names what must fire and when. `invariants(state)`
    names the invariants of domain.md that the state breaks, in words: always none. `prefix` is what keys start with
    before a colon, "" for order ids.
    """

    service: str
    state: TypeAdapter[S]
    initial: Callable[[str], S]
    decide: Callable[[S, C, X], Sequence[Fact]]
    evolve: Callable[[S, Fact], S]
    load_context: Callable[[Db, Sequence[Message[C]], Mapping[str, S]], Awaitable[X]] = _no_context  # type: ignore[assignment]
    evolve_context: Callable[[X, Fact], X] | None = None
    save_tables: Callable[[Db, Sequence[LockedAggregate[S]], X], Awaitable[None]] = _save_nothing
    deadlines: Callable[[S], Mapping[str, datetime]] | None = None
    invariants: Callable[[S], Sequence[str]] = _no_invariants
    prefix: str = ""
    cache: "StateCache[S]" = field(default_factory=lambda: StateCache(), compare=False)
    shape: str = field(init=False, compare=False)
    """Identifies the fields that the state has and their defaults: rows of another shape are folded anew."""

    def __post_init__(self) -> None:
        schema = self.state.json_schema(mode="serialization")
        object.__setattr__(self, "shape", sha256(json.dumps(_without_prose(schema)).encode()).hexdigest()[:16])

    def fold(self, key: str, facts: Sequence[Fact]) -> S:
        """The state that a journal gives."""
        state = self.initial(key)
        for fact in facts:
            state = self.evolve(state, fact)
        return state


def _without_prose(schema: Any) -> Any:
    """The JSON schema without titles and descriptions, which may change while the fields do not."""
    if isinstance(schema, dict):
        return {
            name: _without_prose(part)
            for name, part in sorted(schema.items())
            if not (name in ("title", "description") and isinstance(part, str))
        }
    return [_without_prose(part) for part in schema] if isinstance(schema, list) else schema


UNCLAIM = "DELETE FROM inbox WHERE id = ANY($1::uuid[])"
# The document is not sent where the state at this very chain is remembered here.
READ = """
SELECT key, CASE WHEN states.chain IS DISTINCT FROM known.chain THEN state END AS state, sequence, states.chain,
    CASE WHEN shaped_at = sequence THEN shape END AS shape
FROM unnest($1::text[], $2::bytea[]) AS known (key, chain) JOIN states USING (key)"""
LOAD = f"{READ} ORDER BY key FOR UPDATE OF states"
# Returns the ids that had been claimed before, most often none, and the states. A first command needs its lock too: the row
# is made before it is locked, and removed again if nothing comes of it. All do it in this order: claim, make, lock.
CLAIM_AND_LOCK = """
WITH claimed AS (INSERT INTO inbox (id) SELECT DISTINCT unnest($3::text::uuid[]) ON CONFLICT DO NOTHING RETURNING id),
made AS (
    INSERT INTO states (key, state, sequence, chain) SELECT key, 'null', 0, '' FROM unnest($1::text[]) AS key ORDER BY key
    ON CONFLICT DO NOTHING RETURNING key),
locked AS (
    {load})
SELECT id, NULL::text AS key, NULL::json AS state, NULL::bigint AS sequence, NULL::bytea AS chain, NULL AS shape
FROM (SELECT unnest($3::text::uuid[]) EXCEPT SELECT id FROM claimed) AS repeats (id)
UNION ALL SELECT NULL, key, NULL, 0, '', NULL FROM made UNION ALL SELECT NULL, * FROM locked""".replace("{load}", LOAD)
UNMAKE = "DELETE FROM states WHERE key = ANY($1::text[]) AND sequence = 0"
# All that a batch leaves, but what the flow keeps beside its states and a journal worth copying: a round trip for each is
# most of the price of a small batch. The places in the outbox are in the order the facts were decided.
SAVE = """
WITH saved AS (
    UPDATE states SET state = new.state, sequence = new.sequence, chain = new.chain, updated_at = now(),
        shape = $26, shaped_at = new.sequence
    FROM unnest($2::text[], $3::json[], $4::text::bigint[], $5::bytea[]) AS new (key, state, sequence, chain)
    WHERE states.key = new.key),
due AS (
    INSERT INTO deadlines (key, name, due_at) SELECT * FROM unnest($6::text[], $7::text[], $8::timestamptz[])
    ON CONFLICT (key, name) DO UPDATE
    SET due_at = excluded.due_at, attempts = 0, failure = NULL, retry_at = NULL, given_up_at = NULL),
gone AS (
    DELETE FROM deadlines USING unnest($9::text[], $10::text[]) AS gone (key, name)
    WHERE deadlines.key = gone.key AND deadlines.name = gone.name),
told AS (
    INSERT INTO events (id, subject, sequence, type, schema_version, data, occurred_at, actor, reason, correlation_id,
        causation_id, traceparent, policy_id, policy_version, chain)
    SELECT id, subject, sequence, type, schema_version, data::json, occurred_at, actor, reason, correlation_id,
        causation_id, traceparent, policy_id, policy_version, chain
    FROM unnest($11::uuid[], $12::text[], $13::bigint[], $14::text[], $15::int[], $16::text[], $17::timestamptz[],
        $18::text[], $19::text[], $20::text[], $21::text[], $22::text[], $23::text[], $24::int[], $25::bytea[])
        AS new (id, subject, sequence, type, schema_version, data, occurred_at, actor, reason, correlation_id,
            causation_id, traceparent, policy_id, policy_version, chain))
INSERT INTO outbox (event_id) SELECT * FROM unnest($1::text::uuid[])"""
BLOCKED = "SELECT DISTINCT key FROM parked WHERE key = ANY($1::text[]) AND status = 'open'"


async def _claim_and_lock(
    db: Db, flow: Flow[S, Any, Any], ids: Iterable[UUID], keys: Sequence[str]
) -> tuple[set[UUID], dict[str, LockedAggregate[S]]]:
    """The ids that had been claimed before; and the aggregates, locked in key order and read. Those that do not exist yet
    are locked in their initial state."""
    chains, remembered = _known(flow, keys)
    seen: set[UUID] = set()
    rows = []
    for id, *row in await db.fetch(CLAIM_AND_LOCK, keys, chains, array(ids)):
        if id is None:
            rows.append(row)
        else:
            seen.add(id)
    held = await _held(db, flow, rows, remembered)
    # Made by somebody else since this statement began.
    if late := [key for key in keys if key not in held]:
        chains, remembered = _known(flow, late)
        held |= await _held(db, flow, await db.fetch(LOAD, late, chains), remembered)
    return seen, held


async def read(db: Db, flow: Flow[S, Any, Any], keys: Sequence[str]) -> dict[str, S]:
    """The aggregates that exist, as they are just now; nothing is locked."""
    chains, remembered = _known(flow, keys)
    found = await _held(db, flow, await db.fetch(READ, keys, chains), remembered)
    return {key: h.state for key, h in found.items() if not h.is_new}


async def refold(db: Db, flow: Flow[S, Any, Any], keys: Sequence[str]) -> list[str]:
    """Fold these aggregates anew from their journals and save states and deadlines, inside the caller's transaction;
    returns the keys whose journal this image cannot fold."""
    _, held = await _claim_and_lock(db, flow, (), keys)
    outdated = [h for h in held.values() if h.is_outdated]
    if outdated:
        await db.execute(SAVE, array([]), *await _saved(flow, outdated, ()))
    return [h.key for h in held.values() if not h.is_outdated]


def _known(flow: Flow[S, Any, Any], keys: Sequence[str]) -> tuple[list[bytes | None], dict[str, S]]:
    """The chains of the states that are remembered, and those states: taken out before waiting, since another transaction
    of this process may remember something else meanwhile."""
    known = [flow.cache.find(key) for key in keys]
    remembered = {key: found[1] for key, found in zip(keys, known, strict=True) if found is not None}
    return [found and found[0] for found in known], remembered


async def _held(
    db: Db, flow: Flow[S, Any, Any], rows: Iterable[Iterable[Any]], remembered: Mapping[str, S]
) -> dict[str, LockedAggregate[S]]:
    """The aggregates of these rows by key. A document of another shape than the flow's is not read: fields that it lacks
    would have their defaults whatever happened, so the state is folded anew."""
    held: dict[str, LockedAggregate[S]] = {}
    outdated: dict[str, Any] = {}
    for key, document, sequence, chain, shape in rows:
        is_outdated = bool(sequence) and shape != flow.shape
        if not sequence:
            state = flow.initial(key)
        elif document is None:
            state = remembered[key]
        elif is_outdated:
            outdated[key] = document
            state = flow.initial(key)
        else:
            state = flow.state.validate_json(document)
        held[key] = LockedAggregate(key, state, state, sequence, chain, is_new=not sequence, is_outdated=is_outdated)
    if outdated:
        journals = await journal.read(db, list(outdated))
        for key, document in outdated.items():
            h = held[key]
            facts = journals.get(key)
            if facts is not None and len(facts) == h.sequence:
                h.before = h.state = flow.fold(key, facts)
                flow.cache.put(key, h.chain, h.state)
            else:  # by a newer image, or cut: what the row says is all there is
                log.warning("state.not_folded", key=key, service=flow.service)
                h.before = h.state = flow.state.validate_json(document)
                h.is_outdated = False
    return held


async def apply(
    db: Db, flow: Flow[S, C, X], messages: Sequence[Message[C]], *, queue_behind: bool = False
) -> tuple[list[Outcome], dict[str, LockedAggregate[S]]]:
    """Fold each key's messages in order, inside the caller's transaction; outcomes stand in the order of `messages`.

    With `queue_behind`, a key that has a parked message, or gets one here, decides nothing more: what follows is
    refused as `is_behind`, for the caller to park. Raises only what the database raises.
    """
    keys = sorted({t.key for t in messages if not isinstance(t.command, Undecodable)})
    seen, held = await _claim_and_lock(db, flow, (t.cause.id for t in messages), keys)
    blocked: set[str] = set()
    if queue_behind:
        blocked = {row["key"] for row in await db.fetch(BLOCKED, sorted({t.key for t in messages}))}
    context = await flow.load_context(db, messages, {key: h.state for key, h in held.items()})

    outcomes: list[Outcome] = []
    entries: list[journal.Entry] = []
    refused: list[UUID] = []
    async with one_batch_at_a_time(len(messages)):
        async for t in yielding_every(messages):
            if t.cause.id in seen:
                outcomes.append(Outcome(is_repeat=True))
                continue
            if t.key in blocked:
                refused.append(t.cause.id)
                outcomes.append(Outcome(is_behind=True))
                continue
            seen.add(t.cause.id)
            try:
                if isinstance(t.command, Undecodable):
                    raise t.command
                aggregate = held[t.key]
                state, decided_in = aggregate.state, context
                facts = flow.decide(state, t.command, decided_in)
                for fact in facts:
                    state = flow.evolve(state, fact)
                    if flow.evolve_context is not None:
                        decided_in = flow.evolve_context(decided_in, fact)
                added = journal.entries(facts, aggregate.key, aggregate.sequence, aggregate.chain, t.cause)
            except Exception as error:  # noqa: BLE001  # a rule that fails on one message must not stop the others
                refused.append(t.cause.id)
                if queue_behind:
                    blocked.add(t.key)
                outcomes.append(Outcome(error=error))
                continue
            aggregate.state, context = state, decided_in
            if added:
                aggregate.sequence, aggregate.chain = added[-1].sequence, added[-1].chain
                aggregate.facts += facts
                aggregate.causes += [t.cause] * len(facts)
                entries += added
            outcomes.append(Outcome(facts=facts))

        touched = [h for h in held.values() if h.facts]
        for h in touched:
            flow.cache.put(h.key, h.chain, h.state)
        is_copied = len(entries) >= journal.WORTH_COPYING
        saved = await _saved(flow, touched, () if is_copied else entries) if touched else ()

    if touched:
        await db.execute(SAVE, array(entry.id for entry in entries), *saved)
        await flow.save_tables(db, touched, context)
        if is_copied:
            await journal.append(db, entries)
    if refused:
        await db.execute(UNCLAIM, refused)
    if idle := [h.key for h in held.values() if h.is_new and not h.facts]:
        await db.execute(UNMAKE, idle)
    return outcomes, held


async def _saved(
    flow: Flow[S, Any, Any], touched: Sequence[LockedAggregate[S]], entries: Sequence[journal.Entry]
) -> tuple[Any, ...]:
    """The columns of their states, deadlines and of these rows of the journal."""
    new, gone = _deadlines(flow.deadlines, touched) if flow.deadlines is not None else ((), ())
    return (
        [h.key for h in touched],
        [flow.state.dump_json(h.state).decode() async for h in yielding_every(touched)],
        array(h.sequence for h in touched),
        [h.chain for h in touched],
        *transposed(new, 3),
        *transposed(gone, 2),
        *transposed(entries, len(journal.Entry._fields)),
        flow.shape,
    )


def _deadlines(
    deadlines: Callable[[S], Mapping[str, datetime]], touched: Sequence[LockedAggregate[S]]
) -> tuple[Sequence[tuple[str, str, datetime]], Sequence[tuple[str, str]]]:
    """Only what changed, since most facts move no deadline: keys, names and instants of those to be set, keys and names
    of those that are gone."""
    new: list[tuple[str, str, datetime]] = []
    gone: list[tuple[str, str]] = []
    for h in touched:
        before = {} if h.is_new or h.is_outdated else deadlines(h.before)
        after = deadlines(h.state)
        new += [(h.key, name, due) for name, due in after.items() if before.get(name) != due]
        gone += [(h.key, name) for name in before.keys() - after.keys()]
    return new, gone


GATHERED: Final = range(32, 256)
"""Of a batch: with fewer, nobody else is in a hurry; with more, round trips weigh little, or a backlog is to be worked off."""
GATHERS_FOR: Final = 0.1


async def linger(count: int, took: float) -> None:
    """Wait after a batch of middling size, since the next one costs as many round trips whatever it holds: no longer than
    this one took, which is long only where the machine is short of time."""
    if count in GATHERED:
        await asyncio.sleep(min(took, GATHERS_FOR))


def is_refusal(error: Exception | None) -> bool:
    """A refusal by the rules, as against a fault of ours."""
    return isinstance(error, NotAllowed | Invalid | Undecodable)
