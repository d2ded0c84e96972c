"""All SQL of returns: law rows and published policies beside the states, and reads for the API."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from pydantic import TypeAdapter

from returns.domain import decide, policies, state
from returns.domain.decide import Command
from returns.domain.policies import Policies, Policy, PolicyCommand
from returns.domain.state import OrderReturns, law, law_lines
from returns.domain.units import ReverseBucket
from shared.contracts.returns import PolicyPublished, ReturnPolicy
from shared.messaging.database import Pool
from shared.messaging.shell import Db, Flow, LockedAggregate, Message

ORDER_STATE: Final = TypeAdapter(OrderReturns)
POLICY_STATE: Final = TypeAdapter(Policy)

VERSIONS = "SELECT policy_id, version, digest, retired_at FROM policies"
CONTENTS = "SELECT digest, document FROM policies WHERE digest = ANY($1::text[])"

KEEP_POLICIES = """
INSERT INTO policies (policy_id, version, effective_from, digest, document)
SELECT * FROM unnest($1::text[], $2::int[], $3::timestamptz[], $4::text[], $5::json[])"""
RETIRE_POLICIES = """
UPDATE policies SET retired_at = gone.retired_at
FROM unnest($1::text[], $2::int[], $3::timestamptz[]) AS gone (policy_id, version, retired_at)
WHERE policies.policy_id = gone.policy_id AND policies.version = gone.version AND policies.retired_at IS NULL"""

KEEP_LINES = """
INSERT INTO lines (order_id, line_id, ordered, delivered, lost, undone, contested, lost_claimed, refunded, in_advance,
    restocked, stated_minor, value_minor, with_customer, return_open, return_in_transit, received_uninspected, accepted,
    rejected_held, rejected_sent_back, kept_by_customer)
SELECT * FROM unnest($1::text[], $2::text[], $3::int[], $4::int[], $5::int[], $6::int[], $7::int[], $8::int[], $9::int[],
    $10::int[], $11::int[], $12::bigint[], $13::bigint[], $14::int[], $15::int[], $16::int[], $17::int[], $18::int[],
    $19::int[], $20::int[], $21::int[])
ON CONFLICT (order_id, line_id) DO UPDATE SET ordered = excluded.ordered, delivered = excluded.delivered,
    lost = excluded.lost, undone = excluded.undone, contested = excluded.contested,
    lost_claimed = excluded.lost_claimed, refunded = excluded.refunded, in_advance = excluded.in_advance,
    restocked = excluded.restocked, stated_minor = excluded.stated_minor, value_minor = excluded.value_minor,
    with_customer = excluded.with_customer, return_open = excluded.return_open,
    return_in_transit = excluded.return_in_transit, received_uninspected = excluded.received_uninspected,
    accepted = excluded.accepted, rejected_held = excluded.rejected_held,
    rejected_sent_back = excluded.rejected_sent_back, kept_by_customer = excluded.kept_by_customer"""

FIND = "SELECT state FROM states WHERE key = $1 AND sequence > 0"
STORE_EVIDENCE = """
INSERT INTO evidence (order_id, sha256, media_type, content) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING"""
FIND_EVIDENCE = "SELECT media_type, content FROM evidence WHERE order_id = $1 AND sha256 = $2"
LIST_POLICIES = """
SELECT policy_id, version, effective_from, retired_at FROM policies ORDER BY policy_id, version LIMIT $1"""
FIND_POLICY = "SELECT document FROM policies WHERE policy_id = $1 AND version = $2"

_read: dict[str, ReturnPolicy] = {}
"""Contents by their digest, parsed once in a process."""


async def published(db: Db, messages: Sequence[Message[Command]], states: Mapping[str, OrderReturns]) -> Policies:
    """Every version there is: bound ones by their content, the one in force at purchase by its time."""
    rows = await db.fetch(VERSIONS)
    if missing := [row["digest"] for row in rows if row["digest"] not in _read]:
        for digest, document in await db.fetch(CONTENTS, missing):
            _read[digest] = ReturnPolicy.model_validate_json(document)
    contents = {(row["policy_id"], row["version"]): _read[row["digest"]] for row in rows}
    retired = {(row["policy_id"], row["version"]): row["retired_at"] for row in rows if row["retired_at"]}
    return Policies(contents, retired)


async def keep_lines(db: Db, touched: Sequence[LockedAggregate[OrderReturns]], _: Policies) -> None:
    """Lines whose counters moved."""
    rows = []
    for held in touched:
        for line_id in law_lines(held.state):
            row = law(held.state, line_id)
            if not held.is_new and law(held.before, line_id) == row and line_id in law_lines(held.before):
                continue
            rows.append(
                (
                    held.key,
                    line_id,
                    row.ordered,
                    row.delivered,
                    row.lost,
                    row.undone,
                    row.contested,
                    row.lost_claimed,
                    row.refunded,
                    row.in_advance,
                    row.restocked,
                    row.stated_minor,
                    row.value_minor,
                    *(row.buckets[bucket] for bucket in ReverseBucket),
                )
            )
    if rows:
        await db.execute(KEEP_LINES, *zip(*rows, strict=True))


async def keep_policies(db: Db, touched: Sequence[LockedAggregate[Policy]], _: None) -> None:
    """What was published and what was retired."""
    new = [fact.policy for held in touched for fact in held.facts if isinstance(fact, PolicyPublished)]
    if new:
        await db.execute(
            KEEP_POLICIES,
            [p.policy_id for p in new],
            [p.version for p in new],
            [p.effective_from for p in new],
            [policies.digest(p) for p in new],
            [p.model_dump_json() for p in new],
        )
    gone = [
        (held.state.policy_id, number, version.retired_at)
        for held in touched
        for number, version in held.state.versions.items()
        if version.retired_at is not None
    ]
    if gone:
        await db.execute(RETIRE_POLICIES, *zip(*gone, strict=True))


async def find(pool: Pool, order_id: str) -> OrderReturns | None:
    """The returns of an order, or None where it is not known."""
    async with pool.acquire(timeout=5) as db:
        document = await db.fetchval(FIND, order_id)
    return None if document is None else ORDER_STATE.validate_json(document)


async def store_evidence(pool: Pool, order_id: str, sha256: str, media_type: str, content: bytes) -> None:
    """Before the fact that names it: there is no fact of a file that is not there."""
    async with pool.acquire(timeout=5) as db:
        await db.execute(STORE_EVIDENCE, order_id, sha256, media_type, content)


async def find_evidence(pool: Pool, order_id: str, sha256: str) -> tuple[str, bytes] | None:
    """(media type, content)"""
    async with pool.acquire(timeout=5) as db:
        row = await db.fetchrow(FIND_EVIDENCE, order_id, sha256)
    return None if row is None else (row["media_type"], row["content"])


async def find_policy(pool: Pool, policy_id: str, version: int) -> ReturnPolicy | None:
    async with pool.acquire(timeout=5) as db:
        document = await db.fetchval(FIND_POLICY, policy_id, version)
    return None if document is None else ReturnPolicy.model_validate_json(document)


async def list_policies(pool: Pool, limit: int) -> list[tuple[str, int, datetime, datetime | None]]:
    """(policy, version, effective from, retired at), in the order of their names."""
    async with pool.acquire(timeout=5) as db:
        return [tuple(row) for row in await db.fetch(LIST_POLICIES, limit)]


ORDER_RETURNS: Final[Flow[OrderReturns, Command, Policies]] = Flow(
    service="returns",
    state=ORDER_STATE,
    initial=state.initial,
    decide=decide.decide,
    evolve=state.evolve,
    load_context=published,
    save_tables=keep_lines,
    deadlines=decide.deadlines,
    invariants=state.invariants,
)

POLICIES: Final[Flow[Policy, PolicyCommand, None]] = Flow(
    service="returns",
    state=POLICY_STATE,
    initial=policies.initial,
    decide=policies.decide,
    evolve=policies.evolve,
    save_tables=keep_policies,
    prefix="policy",
)
