"""`oms verify`: what the system promises, checked on live data. Nothing found is the only good answer.

Per service, in pages: the state equals the fold of the journal, the chain is unbroken, `sequence` has no holes, no law
of domain.md is broken. Across services: every journal fact is in the timeline once, delivered units have one reverse
bucket, money and units agree, and our books equal the processor's.
"""

import asyncio
import importlib
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final, TypeAlias
from uuid import UUID

import asyncpg
import httpx

from fulfillment.store import STOCK_DRIFT
from ops.endpoints import Endpoints
from ops.laws import States
from ops.laws import broken as broken_laws
from shared.auth import Role, issue
from shared.contracts.base import FACTS
from shared.contracts.fulfillment import StockFact
from shared.journal import link
from shared.shell import Flow

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

DECIDING: Final = ("orders", "payments", "fulfillment", "returns", "notifications")
PAGE: Final = 500

STATES: Final = """
SELECT key, state, sequence, chain FROM states WHERE key > $1 AND sequence > 0 ORDER BY key LIMIT $2"""
JOURNAL: Final = """
SELECT id, subject, sequence, type, data, occurred_at, actor, reason, chain
FROM events WHERE subject = ANY($1::text[]) ORDER BY subject, sequence"""
ORPHANS: Final = """
SELECT subject FROM events WHERE NOT EXISTS (SELECT FROM states WHERE key = subject) GROUP BY subject LIMIT 20"""
PUBLISHED: Final = """
SELECT id FROM events WHERE NOT EXISTS (SELECT FROM outbox WHERE event_id = id) AND id > $1 ORDER BY id LIMIT 5000"""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that should not be: which promise, where, and what was seen."""

    promise: str
    where: str
    what: str


@dataclass(slots=True)
class Counted:
    """How much was looked at, so that a clean answer says what it rests on."""

    aggregates: int = 0
    orders: int = 0
    facts: int = 0
    in_timeline: int = 0
    operations: int = 0


Report = Callable[[str, int], None]
"""(what is being checked, how many so far)"""


def flows_of(package: str) -> tuple[Flow[Any, Any, Any], ...]:
    """The flows a service decides by, as its application is built."""
    flows: tuple[Flow[Any, Any, Any], ...] = importlib.import_module(f"{package}.app").app.state.flows
    return flows


def _flow_for(flows: Sequence[Flow[Any, Any, Any]], key: str) -> Flow[Any, Any, Any]:
    prefix = key.partition(":")[0] if ":" in key else ""
    return next(flow for flow in flows if flow.prefix == prefix)


async def journals(database: str, package: str, counted: Counted, report: Report) -> AsyncIterator[Finding]:
    """One service's states against its journal, each page read at one instant."""
    flows = flows_of(package)
    db = await asyncpg.connect(database)
    try:
        for row in await db.fetch(ORPHANS):
            yield Finding("state is a fold", f"{package} {row['subject']}", "has facts and no state")
        after = ""
        while True:
            async with db.transaction(isolation="repeatable_read", readonly=True):
                rows = await db.fetch(STATES, after, PAGE)
                entries = await db.fetch(JOURNAL, [row["key"] for row in rows])
            if not rows:
                return
            after = rows[-1]["key"]
            by_subject: dict[str, list[asyncpg.Record]] = {}
            for entry in entries:
                by_subject.setdefault(entry["subject"], []).append(entry)
            for row in rows:
                for finding in _judge(package, _flow_for(flows, row["key"]), row, by_subject.get(row["key"], [])):
                    yield finding
            counted.aggregates += len(rows)
            counted.facts += len(entries)
            report(f"{package}: states, chains and laws", len(rows))
    finally:
        await db.close()


def _judge(
    package: str, flow: Flow[Any, Any, Any], row: asyncpg.Record, entries: Sequence[asyncpg.Record]
) -> list[Finding]:
    where = f"{package} {row['key']}"
    if [e["sequence"] for e in entries] != list(range(1, row["sequence"] + 1)):
        return [Finding("I14 sequence rises by one", where, f"{len(entries)} facts, sequence {row['sequence']}")]
    chain = b""
    for e in entries:
        chain = link(
            chain, e["id"], e["subject"], e["sequence"], e["type"], e["data"], e["occurred_at"], e["actor"], e["reason"]
        )
        if chain != e["chain"]:
            return [Finding("the chain is unbroken", where, f"fact {e['sequence']} was changed after it was written")]
    findings = []
    if chain != row["chain"]:
        findings.append(Finding("the chain is unbroken", where, "the state's chain is not the last fact's"))
    facts = [FACTS[e["type"]].model_validate_json(e["data"]) for e in entries]
    stored = flow.state.validate_json(row["state"])
    folded, kept = (json.loads(flow.state.dump_json(s)) for s in (flow.fold(row["key"], facts), stored))
    if folded != kept:
        differing = sorted(name for name in folded if folded[name] != kept.get(name))
        findings.append(Finding("state is a fold", where, f"differs from its journal in {', '.join(differing)}"))
    findings += [Finding("a law of the domain", where, broken) for broken in flow.laws(stored)]
    return findings


TIMELINE: Final = "SELECT id FROM timeline WHERE id = ANY($1::uuid[])"
CATCH_UP_S: Final = 30.0


async def timeline(endpoints: Endpoints, counted: Counted, report: Report) -> AsyncIterator[Finding]:
    """Every published fact of every journal is in the timeline; it is there once, since its id is the key.

    What is on its way is waited for, a while.
    """
    view = await asyncpg.connect(endpoints.database("support-view"))
    try:
        for service in DECIDING:
            db = await asyncpg.connect(endpoints.database(service))
            try:
                after = UUID(int=0)
                while page := [row["id"] for row in await db.fetch(PUBLISHED, after)]:
                    after = page[-1]
                    missing = await _missing(view, page)
                    counted.in_timeline += len(page) - len(missing)
                    report(f"{service}: timeline", len(page))
                    for id in missing:
                        yield Finding("every fact is in the timeline once", f"{service} {id}", "is not there")
            finally:
                await db.close()
    finally:
        await view.close()


async def _missing(view: Connection, ids: Sequence[UUID]) -> list[UUID]:
    deadline = asyncio.get_running_loop().time() + CATCH_UP_S
    while True:
        seen = {row["id"] for row in await view.fetch(TIMELINE, ids)}
        missing = [id for id in ids if id not in seen]
        if not missing or asyncio.get_running_loop().time() > deadline:
            return missing
        await asyncio.sleep(0.2)


ORDERS: Final = "SELECT key FROM states WHERE key > $1 AND sequence > 0 ORDER BY key LIMIT $2"
STATES_OF: Final = "SELECT key, state FROM states WHERE key = ANY($1::text[]) AND sequence > 0"
STOCK_OF: Final = """
SELECT subject, type, data FROM events WHERE subject = ANY($1::text[]) AND type LIKE 'stock.%' ORDER BY subject, sequence"""
SHARING: Final = ("orders", "payments", "fulfillment", "returns")


async def across(endpoints: Endpoints, counted: Counted, report: Report) -> AsyncIterator[Finding]:
    """The laws that need several services' states, order by order; what is under way is given time to come to rest."""
    async with AsyncExitStack() as stack:
        databases = {}
        for service in SHARING:
            databases[service] = await asyncpg.connect(endpoints.database(service))
            stack.push_async_callback(databases[service].close)
        for drift in await databases["fulfillment"].fetch(STOCK_DRIFT):
            yield Finding(
                "stock is the sum of its facts", "fulfillment", ", ".join(f"{k} {v}" for k, v in drift.items())
            )
        after = ""
        while keys := [row["key"] for row in await databases["orders"].fetch(ORDERS, after, PAGE)]:
            after = keys[-1]
            broken = await _broken(databases, keys)
            deadline = asyncio.get_running_loop().time() + CATCH_UP_S
            while broken and asyncio.get_running_loop().time() < deadline:
                await asyncio.sleep(0.5)
                broken = await _broken(databases, list(broken))
            for key, laws in broken.items():
                for law in laws:
                    yield Finding("a law of the domain", key, law)
            counted.orders += len(keys)
            report("orders: laws across services", len(keys))


async def _broken(databases: Mapping[str, Connection], keys: Sequence[str]) -> dict[str, list[str]]:
    states: dict[str, dict[str, Any]] = {key: {} for key in keys}
    for service, db in databases.items():
        flow = _flow_for(flows_of(service), keys[0])
        for row in await db.fetch(STATES_OF, keys):
            states[row["key"]][service] = flow.state.validate_json(row["state"])
    stock: dict[str, list[StockFact]] = {}
    for row in await databases["fulfillment"].fetch(STOCK_OF, keys):
        fact = FACTS[row["type"]].model_validate_json(row["data"])
        assert isinstance(fact, StockFact)
        stock.setdefault(row["subject"], []).append(fact)
    found = {}
    for key, of in states.items():
        shared = States(of.get("orders"), of.get("payments"), of.get("fulfillment"), of.get("returns"))
        if laws := broken_laws(shared, stock.get(key, ()), at_rest=True):
            found[key] = laws
    return found


async def books(endpoints: Endpoints, auth_key: str, counted: Counted, report: Report) -> AsyncIterator[Finding]:
    """Our operations against the processor's, one by one, as payments reconciles them; the processor may be slow."""
    token = issue(auth_key, subject="oms-verify", roles=[Role.AUDITOR])
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {token}"}, timeout=60) as client:
        after: str | None = ""
        while after is not None:
            answer = await client.get(
                f"{endpoints.url('payments')}/reconciliation", params={"after": after, "limit": 200}
            )
            answer.raise_for_status()
            page = answer.json()
            after = page["next"]
            counted.operations += page["operations"]
            report("payments: our books and the processor's", page["operations"])
            for drift in page["drift"]:
                yield Finding(
                    "our books equal the processor's",
                    f"payments {drift['order_id']} {drift['operation_id']}",
                    str(drift["difference"]),
                )


async def check(endpoints: Endpoints, auth_key: str, report: Report) -> tuple[Counted, list[Finding]]:
    """Everything, over all services."""
    counted = Counted()
    findings: list[Finding] = []
    for service in DECIDING:
        findings += [f async for f in journals(endpoints.database(service), service, counted, report)]
    findings += [f async for f in across(endpoints, counted, report)]
    findings += [f async for f in timeline(endpoints, counted, report)]
    findings += [f async for f in books(endpoints, auth_key, counted, report)]
    return counted, findings
