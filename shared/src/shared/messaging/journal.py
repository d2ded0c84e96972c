"""The journal keeps every fact for ever, in order per subject and chained by hash."""

from collections.abc import Sequence
from datetime import datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Final, NamedTuple
from uuid import UUID

from asyncpg.pgproto.pgproto import UUID as DriversUUID
from uuid_utils import uuid7

from shared.contracts.base import FACTS, Fact, PolicyRef
from shared.core.machine import Invalid
from shared.messaging.envelope import Cause

if TYPE_CHECKING:
    from shared.messaging.shell import Db

WORTH_COPYING = 32
"""Rows; below it, the two round trips of a COPY cost more than it saves."""
LARGEST = 700_000
"""Bytes of a fact's JSON. A broker with its defaults takes 1 MiB with headers; a fact it refused would block its outbox."""


class Entry(NamedTuple):
    """An entry is one row of the journal. `chain` is SHA-256 of the chain before it and of what this row says."""

    id: UUID
    subject: str
    sequence: int
    type: str
    schema_version: int
    data: str
    occurred_at: datetime
    actor: str
    reason: str
    correlation_id: str
    causation_id: str | None
    traceparent: str | None
    policy_id: str | None
    policy_version: int | None
    chain: bytes


def link(
    before: bytes,
    id: UUID,
    subject: str,
    sequence: int,
    type: str,
    schema_version: int,
    data: str,
    occurred_at: datetime,
    actor: str,
    reason: str,
    correlation_id: str,
    causation_id: str | None,
    traceparent: str | None,
    policy_id: str | None,
    policy_version: int | None,
) -> bytes:
    """Compute the next hash of a chain, from the one before and all that the row says but `recorded_at`, which the database
    sets. The separator occurs in no part but the last, which is the JSON; no text of PostgreSQL has the sign for NULL."""
    parts = (
        *("2", str(id), subject, str(sequence), type, str(schema_version)),
        *(str(int(occurred_at.timestamp() * 1_000_000)), actor, reason, correlation_id),
        *("\0" if part is None else str(part) for part in (causation_id, traceparent, policy_id, policy_version)),
        data,
    )
    return sha256(before + "\x1f".join(parts).encode()).digest()


LINKED: Final = Entry._fields[:-1]
"""The columns that `link` takes after the chain before, in its order."""


def link_first_form(
    before: bytes, id: UUID, subject: str, sequence: int, type: str, data: str, at: datetime, actor: str, reason: str
) -> bytes:
    """Compute the hash as rows were chained at first, without correlation, cause, trace, policy and schema version. Such
    hashes are never made anew."""
    said = "\x1f".join(
        (str(id), subject, str(sequence), type, str(int(at.timestamp() * 1_000_000)), actor, reason, data)
    )
    return sha256(before + said.encode()).digest()


def entries(facts: Sequence[Fact], subject: str, sequence: int, before: bytes, cause: Cause) -> list[Entry]:
    """Give facts their ids and places after `sequence`. Raises Invalid for one too large for the broker to take."""
    added: list[Entry] = []
    for fact in facts:
        id = DriversUUID(uuid7().bytes)  # made, written and sent at a fifth of what the standard one takes
        data = fact.model_dump_json()
        if len(data) > LARGEST // 4 and len(data.encode()) > LARGEST:
            raise Invalid(fact.type, f"must not be larger than {LARGEST} bytes")
        sequence += 1
        policy = vars(fact).get("policy")
        ref = policy if isinstance(policy, PolicyRef) else None
        said = (
            *(id, subject, sequence, fact.type, fact.schema_version, data),
            *(cause.at, cause.actor, cause.reason, cause.correlation_id, cause.causation_id, cause.traceparent),
            *(ref.policy_id if ref else None, ref.version if ref else None),
        )
        before = link(before, *said)
        added.append(Entry(*said, before))
    return added


READ: Final = "SELECT subject, type, data FROM events WHERE subject = ANY($1::text[]) ORDER BY subject, sequence"


async def read(db: "Db", subjects: Sequence[str]) -> dict[str, list[Fact]]:
    """Read the facts of each subject in order. A subject with a fact of a type that this image does not know is left out."""
    facts: dict[str, list[Fact]] = {}
    unknown: set[str] = set()
    for subject, type, data in await db.fetch(READ, subjects):
        if (model := FACTS.get(type)) is None:
            unknown.add(subject)
        else:
            facts.setdefault(subject, []).append(model.model_validate_json(data))
    return {subject: of for subject, of in facts.items() if subject not in unknown}


async def append(db: "Db", entries: Sequence[Entry]) -> None:
    """Write the rows by COPY: the journal is most of what a large batch writes. The caller makes their places in the outbox."""
    await db.copy_records_to_table("events", records=entries, columns=Entry._fields)
