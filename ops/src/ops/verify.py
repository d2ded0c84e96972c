"""`oms verify`: what the system promises, checked on live data. Nothing found is the only good answer.

Per service, in pages: the state equals the fold of the journal, the chain is unbroken, `sequence` has no holes, no law
of domain.md is broken. Across services: the timeline has every fact of the journals as it stands there, and none that
they have not, delivered units have one reverse bucket, money and units agree, whatever is not at its end is somebody's
task, and our books equal the processor's. When everything is looked at, the topics are read too: what was published is
in the journal, as it was published. So what was taken out of a journal or changed in it shows by the copies that others
have of it.

With marks of a run before, only the aggregates whose journals grew since are looked at, each from its first fact; and
those that something was wrong with, until nothing is. So no mark is ever set past a finding.
"""

import asyncio
import contextlib
import importlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, Self, TypeAlias, TypeVar
from uuid import UUID

import asyncpg
import httpx
from aiokafka import ConsumerRecord
from pydantic import BaseModel, ConfigDict, ValidationError

from fulfillment.store import STOCK_DRIFT
from ops.endpoints import Place
from ops.invariants import States
from ops.invariants import broken as broken_laws
from ops.open_work import contradicted_shelves, refused_observations, unattended, unattended_shelves
from ops.paths import locked, write_whole
from ops.system import DECIDING
from ops.topics import expiring, whole_topic
from shared.contracts.base import FACTS
from shared.contracts.fulfillment import SHELF, StockFact
from shared.messaging.journal import LINKED, link, link_first_form
from shared.messaging.shell import Flow
from shared.web.auth import Role, issue
from support_view.rebuild import HORIZON

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
T = TypeVar("T")

SHARING: Final = ("orders", "payments", "fulfillment", "returns")
PAGE: Final = 500
BOOKS_PAGE: Final = 100
CATCH_UP_S: Final = 30.0
"""How long what is on its way is waited for, all of it together."""
OVERLAP: Final = timedelta(seconds=10)
"""How far a database's clock may be set back between two runs without a fact being missed."""
MOST_AGAIN: Final = 10_000
"""Where more aggregates than this have to be looked at again, the next run looks at all of them."""

DATABASE: Final = """
SELECT (SELECT system_identifier FROM pg_control_system()) || '/' || oid FROM pg_database
WHERE datname = current_database()"""
# Of both tables, so that facts without a state are met too.
SUBJECTS: Final = """
(SELECT key FROM states WHERE key > $1 AND sequence > 0 ORDER BY key LIMIT $2)
UNION (SELECT DISTINCT subject FROM events WHERE subject > $1 ORDER BY subject LIMIT $2) ORDER BY key LIMIT $2"""
GROWN: Final = "SELECT DISTINCT subject FROM events WHERE recorded_at >= $1"
STATES: Final = """
SELECT key, state, sequence, chain, CASE WHEN shaped_at = sequence THEN shape END AS shape
FROM states WHERE key = ANY($1::text[]) AND sequence > 0"""
JOURNAL: Final = """
SELECT id, subject, sequence, type, schema_version, data, occurred_at, actor, reason, correlation_id, causation_id,
    traceparent, policy_id, policy_version, chain
FROM events WHERE subject = ANY($1::text[]) ORDER BY subject, sequence"""
SHOWN: Final = (
    "subject",
    "sequence",
    "type",
    "data",
    "occurred_at",
    "actor",
    "reason",
    "correlation_id",
    "causation_id",
)
"""What a row of the timeline says as its journal does."""
TIMELINE: Final = """
SELECT id, subject, sequence, type, data, occurred_at, actor, reason, correlation_id, causation_id
FROM timeline WHERE subject = ANY($1::text[]) AND service = $2"""
TIMELINE_BY_ID: Final = """
SELECT id, subject, sequence, type, data, occurred_at, actor, reason, correlation_id, causation_id
FROM timeline WHERE id = ANY($1::uuid[])"""
TIMELINE_SUBJECTS: Final = """
SELECT DISTINCT subject, service FROM timeline WHERE (subject, service) > ($1, $2) ORDER BY subject, service LIMIT $3"""
WITH_FACTS: Final = "SELECT DISTINCT subject FROM events WHERE subject = ANY($1::text[])"
PUBLISHED: Final = "SELECT id, subject, sequence, type, data FROM events WHERE id = ANY($1::uuid[])"
ORPHANS: Final = "SELECT event_id FROM outbox WHERE NOT EXISTS (SELECT FROM events WHERE id = event_id)"
UNPUBLISHED: Final = "SELECT DISTINCT event_id FROM outbox WHERE event_id = ANY($1::uuid[])"
ORDERS: Final = "SELECT key FROM states WHERE key > $1 AND sequence > 0 ORDER BY key LIMIT $2"
KNOWN: Final = "SELECT key FROM states WHERE key = ANY($1::text[]) AND sequence > 0"
STOCK_OF: Final = """
SELECT subject, type, data FROM events WHERE subject = ANY($1::text[]) AND type LIKE 'stock.%' ORDER BY subject, sequence"""


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
    published: int = 0
    unpublished: int = 0
    operations: int = 0


class _Kept(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Mark(_Kept):
    """Of a service: what was recorded before `looked_to` was looked at; `again`: subjects to be looked at once more,
    since something was wrong with them or their facts were not published yet. Of that very `database` only."""

    database: str
    looked_to: datetime
    again: tuple[str, ...]


class Marks(_Kept):
    """What a run leaves to the next one, in `var/verified.json`. `shelves`: they drifted, and are to be summed again."""

    services: dict[str, Mark] = {}
    shelves: bool = False
    all_at: datetime | None = None

    @classmethod
    def read(cls, var: Path) -> Self:
        """Empty where there are none, or none that can be read: then everything is looked at."""
        try:
            return cls.model_validate_json((var / "verified.json").read_bytes())
        except (FileNotFoundError, ValidationError):
            return cls()

    def write(self, var: Path, before: "Marks") -> None:
        """`before` is what was there when the run began. What another run has left there since counts as well: a long
        run and many short ones may go on side by side, and neither forgets what the other found."""
        with locked(var / ".verified.lock", wait=True):
            meanwhile = Marks.read(var)
            left = self if meanwhile == before else self.beside(meanwhile)
            write_whole(var / "verified.json", left.model_dump_json(indent=2) + "\n")

    def beside(self, other: "Marks") -> "Marks":
        """What both have looked at, and what either found."""
        services = {}
        for name, mark in self.services.items():
            theirs = other.services.get(name)
            if theirs is not None and theirs.database == mark.database:
                looked_to, again = min(mark.looked_to, theirs.looked_to), {*mark.again, *theirs.again}
                services[name] = Mark(database=mark.database, looked_to=looked_to, again=tuple(sorted(again)))
        all_at = max((at for at in (self.all_at, other.all_at) if at), default=None)
        return Marks(services=services, shelves=self.shelves or other.shelves, all_at=all_at)


Report = Callable[[str, int], None]
"""(what is being checked, how many more)"""


def flows_of(service: str) -> tuple[Flow[Any, Any, Any], ...]:
    """The flows a service decides by, as its application is built."""
    flows: tuple[Flow[Any, Any, Any], ...] = importlib.import_module(f"{service.replace('-', '_')}.app").app.state.flows
    return flows


def _flow_for(flows: Sequence[Flow[Any, Any, Any]], key: str) -> Flow[Any, Any, Any] | None:
    prefix = key.partition(":")[0] if ":" in key else ""
    return next((flow for flow in flows if flow.prefix == prefix), None)


async def check(place: Place, auth_key: str, report: Report) -> tuple[Counted, list[Finding]]:
    """Everything, over all services."""
    verification = Verification(place, auth_key, report)
    await verification.run()
    return verification.counted, verification.findings


@dataclass(slots=True)
class Verification:
    """One run. `since`: the marks of the one before; without them, everything is looked at."""

    place: Place
    auth_key: str
    report: Report
    since: Marks = field(default_factory=Marks)
    counted: Counted = field(default_factory=Counted)
    findings: list[Finding] = field(default_factory=list)
    marks: Marks = field(default_factory=Marks)
    _dbs: dict[str, Connection] = field(default_factory=dict)
    _from: dict[str, Mark] = field(default_factory=dict)
    """Of the services of which only what is new is looked at."""
    _looked_at: dict[str, list[str]] = field(default_factory=dict)
    """The subjects of those."""
    _again: dict[str, set[str]] = field(default_factory=lambda: {service: set() for service in DECIDING})
    _unseen: dict[str, dict[UUID, asyncpg.Record]] = field(default_factory=dict)
    """By service: facts that the timeline did not have."""
    _forms: Counter[bool] = field(default_factory=Counter)
    _outdated: int = 0
    """How many facts are chained in the first form, which leaves some columns out, and how many in today's."""

    @property
    def is_of_all(self) -> bool:
        return not self._from

    def _found(self, promise: str, service: str, subject: str, what: str, where: str | None = None) -> None:
        self.findings.append(Finding(promise, where or f"{service} {subject}", what))
        self._again[service].add(subject)

    async def run(self) -> None:
        """Look, and set the marks for the next run. Raises what databases, broker and payments raise when away."""
        async with AsyncExitStack() as stack:
            for service in DECIDING:
                self._dbs[service] = await asyncpg.connect(self.place.database(service))
                stack.push_async_callback(self._dbs[service].close)
            marks = {service: await self._mark(service) for service in DECIDING}
            self.findings += [
                Finding("facts stay on their topics", "kafka", each) for each in await expiring(self.place.kafka)
            ]
            for service in DECIDING:
                await self._journals(service)
            if self.is_of_all:
                await self._vanished()
                await self._published()
            for service in DECIDING:
                for key, what in await refused_observations(self._dbs[service]):
                    self._found("a law of the domain", service, key, what)
            shelves = await self._shelves()
            await self._arrivals(await self._across())
            await self._books()
        again = {service: tuple(sorted(subjects)) for service, subjects in self._again.items()}
        self.marks = Marks(
            services={
                service: mark.model_copy(update={"again": again[service]})
                for service, mark in marks.items()
                if len(again[service]) <= MOST_AGAIN
            },
            shelves=shelves,
            all_at=min(mark.looked_to for mark in marks.values()) if self.is_of_all else self.since.all_at,
        )

    async def _mark(self, service: str) -> Mark:
        """Taken before anything is looked at. A mark of another database, or from a future of this one, is none."""
        db = self._dbs[service]
        mark = Mark(database=await db.fetchval(DATABASE), looked_to=await db.fetchval(HORIZON), again=())
        before = self.since.services.get(service)
        if before is not None and before.database == mark.database and before.looked_to - OVERLAP <= mark.looked_to:
            self._from[service] = before
        return mark

    async def _subjects(self, service: str) -> AsyncIterator[list[str]]:
        """Pages of them, those that are to be looked at."""
        db = self._dbs[service]
        if (mark := self._from.get(service)) is not None:
            rows = await db.fetch(GROWN, mark.looked_to - OVERLAP)
            self._looked_at[service] = sorted({row["subject"] for row in rows}.union(mark.again))
            for page in _pages(self._looked_at[service], PAGE):
                yield page
            return
        after = ""
        while page := [row["key"] for row in await db.fetch(SUBJECTS, after, PAGE)]:
            yield page
            after = page[-1]

    async def _journals(self, service: str) -> None:
        """One service's states against its journal, each page read at one instant; and its facts in the timeline, which is
        read before: what it had then, the journal has."""
        flows, db = flows_of(service), self._dbs[service]
        async for subjects in self._subjects(service):
            timeline = await self._dbs["support-view"].fetch(TIMELINE, subjects, _teller(service))
            async with db.transaction(isolation="repeatable_read", readonly=True):
                states = {row["key"]: row for row in await db.fetch(STATES, subjects)}
                entries = await db.fetch(JOURNAL, subjects)
            by_subject: dict[str, list[asyncpg.Record]] = {}
            for entry in entries:
                by_subject.setdefault(entry["subject"], []).append(entry)
            for subject in subjects:
                state, told, flow = states.get(subject), by_subject.get(subject, []), _flow_for(flows, subject)
                self._outdated += bool(state and flow and state["shape"] != flow.shape)
                for promise, what in _judge(flow, state, told, self._forms):
                    self._found(promise, service, subject, what)
            self.counted.aggregates += len(states)
            self.counted.facts += len(entries)
            self._more_than(service, {entry["id"] for entry in entries}, timeline, "in the timeline")
            unseen = self._compared_with({entry["id"]: entry for entry in entries}, timeline, service)
            # Of another subject there, or come since.
            unseen = await self._not_in_timeline(service, unseen)
            self.counted.in_timeline += len(entries) - len(unseen)
            self._unseen.setdefault(service, {}).update(unseen)
            self.report(f"{service}: states, chains, laws, timeline", len(subjects))

    def _more_than(self, service: str, ids: set[UUID], rows: Iterable[asyncpg.Record], where: str) -> None:
        """Facts that somebody else has of subjects, and their journal has not."""
        surplus: dict[str, list[int]] = {}
        for row in rows:
            if row["id"] not in ids:
                surplus.setdefault(row["subject"], []).append(row["sequence"])
        for subject, sequences in surplus.items():
            what = f"{_spans(sequences)} {where}, and not in the journal: removed after it was told"
            self._found("nothing is taken out of a journal", service, subject, what)

    def _compared_with(
        self, facts: Mapping[UUID, asyncpg.Record], timeline: Iterable[asyncpg.Record], service: str
    ) -> dict[UUID, asyncpg.Record]:
        """Those of the facts that are not among these rows of the timeline; of the others, what their rows say otherwise."""
        left = dict(facts)
        for row in timeline:
            if (entry := left.pop(row["id"], None)) is not None and (
                differing := [name for name in SHOWN if row[name] != entry[name]]
            ):
                what = (
                    f"fact {entry['sequence']} has another {', '.join(differing)} in the timeline than in the journal"
                )
                self._found("the timeline says what the journal says", service, entry["subject"], what)
        return left

    async def _not_in_timeline(self, service: str, facts: Mapping[UUID, asyncpg.Record]) -> dict[UUID, asyncpg.Record]:
        rows = await self._dbs["support-view"].fetch(TIMELINE_BY_ID, list(facts)) if facts else []
        return self._compared_with(facts, rows, service)

    async def _vanished(self) -> None:
        """Subjects that the timeline knows, and of which a service has neither journal nor state."""
        tellers, after = {_teller(service): service for service in DECIDING}, ("", "")
        while page := await self._dbs["support-view"].fetch(TIMELINE_SUBJECTS, *after, PAGE):
            after = page[-1]["subject"], page[-1]["service"]
            for teller, service in tellers.items():
                subjects = {row["subject"] for row in page if row["service"] == teller}
                there = {row["subject"] for row in await self._dbs[service].fetch(WITH_FACTS, list(subjects))}
                for subject in sorted(subjects - there):
                    what = "is in the timeline, and the journal has no fact of it"
                    self._found("nothing is taken out of a journal", service, subject, what)
            self.report("timeline: what journals should have", len(page))

    async def _published(self) -> None:
        """The topics, record by record, against the journals of who tells them: what was published stands there."""
        for service in DECIDING:
            for orphan in await self._dbs[service].fetch(ORPHANS):
                what = f"{orphan['event_id']} is to be published, and is not in the journal"
                self.findings.append(Finding("nothing is taken out of a journal", service, what))
            gone: dict[str, list[int]] = {}
            async for records in whole_topic(self.place.kafka, f"{_teller(service)}.events"):
                told = {UUID(_header(record, "ce_id")): record for record in records}
                rows = {row["id"]: row for row in await self._dbs[service].fetch(PUBLISHED, list(told))}
                for id, record in told.items():
                    subject, sequence = (record.key or b"").decode(), int(_header(record, "ce_sequence"))
                    row, data = rows.get(id), (record.value or b"").decode()
                    if row is None:
                        gone.setdefault(subject, []).append(sequence)
                    elif (row["subject"], row["sequence"], row["data"]) != (subject, sequence, data):
                        what = f"fact {sequence} is not what was published as it"
                        self._found("what was published is in the journal", service, subject, what)
                self.counted.published += len(records)
                self.report(f"{service}: what was published", len(records))
            for subject, sequences in gone.items():
                what = f"{_spans(sequences)} on the topic, and not in the journal: removed after publication"
                self._found("nothing is taken out of a journal", service, subject, what)

    @property
    def not_looked_at(self) -> list[str]:
        """What a clean answer does not speak of."""
        if not self.is_of_all:
            return [
                "aggregates without new facts",
                "what vanished whole, and what was published: only --full reads all of the timeline and the topics",
            ]
        left = [
            "what was changed alike in journal, state, timeline and topic: nothing is kept elsewhere to compare with",
            "when facts were recorded, and rows that are derived from states",
        ]
        if self._outdated:
            left.append(
                f"states that another version wrote, which services fold anew before they use them: {self._outdated}"
            )
        if older := self._forms[True]:
            left.append(f"trace, policy and schema version of {older} facts, which older chains leave out")
        return left

    async def _across(self) -> list[str]:
        """The orders that break laws which need several services' states, and shelves that nobody looks at; they may be
        under way."""
        broken: list[str] = []
        async for page in self._orders():
            broken += await self._broken(page)
            self.counted.orders += len(page)
            self.report("orders: laws across services", len(page))
        return [*broken, *(await self._broken(await self._contradicted()))]

    async def _orders(self) -> AsyncIterator[list[str]]:
        db = self._dbs["orders"]
        if self._from.keys() >= set(SHARING):
            looked_at = sorted({key for service in SHARING for key in self._looked_at[service] if ":" not in key})
            for page in _pages(looked_at, PAGE):
                yield [row["key"] for row in await db.fetch(KNOWN, page)]
            return
        after = ""
        while page := [row["key"] for row in await db.fetch(ORDERS, after, PAGE)]:
            yield page
            after = page[-1]

    async def _contradicted(self) -> list[str]:
        """The shelves of which the warehouse contradicted itself; or, where only what is new is looked at, all of those."""
        if "fulfillment" not in self._from:
            return await contradicted_shelves(self._dbs["support-view"])
        return [key for key in self._looked_at["fulfillment"] if key.startswith(f"{SHELF}:")]

    async def _broken(self, subjects: Sequence[str]) -> dict[str, list[str]]:
        """What is wrong with these orders and shelves, in words."""
        keys = [subject for subject in subjects if ":" not in subject]
        others = [subject for subject in subjects if ":" in subject]
        of_shelves = await unattended_shelves(self._dbs["support-view"], others) if others else {}
        return await self._broken_orders(keys) | of_shelves

    async def _broken_orders(self, keys: Sequence[str]) -> dict[str, list[str]]:
        states: dict[str, dict[str, Any]] = {key: {} for key in keys}
        stock: dict[str, list[StockFact]] = {}
        for service in SHARING if keys else ():
            flow = _flow_for(flows_of(service), "")
            assert flow is not None
            for row in await self._dbs[service].fetch(STATES, keys):
                with contextlib.suppress(ValidationError):  # found where its journal was looked at
                    states[row["key"]][service] = flow.state.validate_json(row["state"])
        for row in await self._dbs["fulfillment"].fetch(STOCK_OF, keys):
            fact = FACTS[row["type"]].model_validate_json(row["data"])
            assert isinstance(fact, StockFact)
            stock.setdefault(row["subject"], []).append(fact)
        found = {}
        for key, of in states.items():
            shared = States(of.get("orders"), of.get("payments"), of.get("fulfillment"), of.get("returns"))
            if invariants := broken_laws(shared, stock.get(key, ()), at_rest=True):
                found[key] = invariants
        for key, unmet in (await unattended(self._dbs["support-view"], keys) if keys else {}).items():
            found[key] = found.get(key, []) + unmet
        return found

    async def _arrivals(self, broken: Sequence[str]) -> None:
        """Every published fact is in the timeline, and every order keeps the laws: what is on its way to that is waited
        for, together. What is not published yet is no finding, and is looked at again in the next run."""
        for service, facts in self._unseen.items():
            for page in _pages(list(facts), 10 * PAGE):
                for row in await self._dbs[service].fetch(UNPUBLISHED, page):
                    self._again[service].add(facts.pop(row["event_id"])["subject"])
                    self.counted.unpublished += 1
        loop = asyncio.get_running_loop()
        deadline = loop.time() + CATCH_UP_S
        while True:
            for service, facts in self._unseen.items():
                left: dict[UUID, asyncpg.Record] = {}
                for page in _pages(list(facts), 10 * PAGE):
                    left |= await self._not_in_timeline(service, {id: facts[id] for id in page})
                self.counted.in_timeline += len(facts) - len(left)
                self._unseen[service] = left
            invariants: dict[str, list[str]] = {}
            for orders in _pages(broken, PAGE):
                invariants |= await self._broken(orders)
            broken = list(invariants)
            waiting = sum(map(len, self._unseen.values())) + len(broken)
            if not waiting or loop.time() > deadline:
                break
            self.report("waiting for what may be on its way", 0)
            await asyncio.sleep(0.5)
        for service, facts in self._unseen.items():
            for id, fact in facts.items():
                where = f"{service} {fact['subject']} {id}"
                self._found("every fact is in the timeline once", service, fact["subject"], "is not there", where)
        for key, broken_there in invariants.items():
            for law in broken_there:
                self._found("a law of the domain", "fulfillment" if ":" in key else "orders", key, law, key)

    async def _shelves(self) -> bool:
        """Whether they drifted. They are summed over the whole journal: when all is looked at, or they drifted before."""
        if "fulfillment" in self._from and not self.since.shelves:
            return False
        drifts = await self._dbs["fulfillment"].fetch(STOCK_DRIFT)
        for drift in drifts:
            what = ", ".join(f"{k} {v}" for k, v in drift.items())
            self.findings.append(Finding("stock is the sum of its facts", "fulfillment", what))
        return bool(drifts)

    async def _books(self) -> None:
        """Our operations against the processor's, one by one, as payments reconciles them; the processor may be slow."""
        token = issue(self.auth_key, subject="oms-verify", roles=[Role.AUDITOR])
        headers = {"Authorization": f"Bearer {token}"}
        async with httpx.AsyncClient(headers=headers, timeout=60, trust_env=False) as client:
            if "payments" in self._from:
                orders = [key for key in self._looked_at["payments"] if ":" not in key]
                for page in _pages(orders, BOOKS_PAGE):
                    await self._compared(client, {"order": page, "limit": BOOKS_PAGE})
                return
            after: str | None = ""
            while after is not None:
                after = await self._compared(client, {"after": after, "limit": BOOKS_PAGE})

    async def _compared(self, client: httpx.AsyncClient, page: Mapping[str, Any]) -> str | None:
        """Where the next page begins. A service that is being started again is asked again for a while."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + CATCH_UP_S
        while True:
            try:
                answer = await client.get(f"{self.place.url('payments')}/reconciliation", params=page)
                answer.raise_for_status()
                break
            except (httpx.TransportError, httpx.HTTPStatusError) as error:
                is_refusal = isinstance(error, httpx.HTTPStatusError) and error.response.status_code < 500
                if is_refusal or loop.time() > deadline:
                    raise
                self.report("payments: waiting for its answer", 0)
                await asyncio.sleep(0.5)
        told = answer.json()
        self.counted.operations += told["operations"]
        self.report("payments: our books and the processor's", told["operations"])
        for drift in told["drift"]:
            order, where = drift["order_id"], f"payments {drift['order_id']} {drift['operation_id']}"
            self._found("our books equal the processor's", "payments", order, str(drift["difference"]), where)
        next: str | None = told["next"]
        return next


def _pages(items: Sequence[T], size: int) -> Iterator[list[T]]:
    return (list(items[at : at + size]) for at in range(0, len(items), size))


def _teller(service: str) -> str:
    """Its name in topics and on the timeline."""
    return service.partition("-")[0]


def _header(record: ConsumerRecord[bytes | None, bytes | None], name: str) -> str:
    return next((value.decode() for key, value in record.headers if key == name), "")


def _spans(sequences: Iterable[int]) -> str:
    """In words which facts: `fact 7 is`, `facts 3, 5 to 9 are`."""
    spans: list[list[int]] = []
    for number in sorted(set(sequences)):
        if spans and number == spans[-1][-1] + 1:
            spans[-1] = [spans[-1][0], number]
        else:
            spans.append([number])
    said = ", ".join(" to ".join(map(str, span)) for span in spans)
    return f"fact {said} is" if len(spans) == len(spans[0]) == 1 else f"facts {said} are"


def _links(before: bytes, entry: asyncpg.Record) -> tuple[bytes, bytes]:
    """What the chain may be after this fact: in the form of today, or in the first one."""
    first = (entry[name] for name in ("id", "subject", "sequence", "type", "data", "occurred_at", "actor", "reason"))
    return link(before, *(entry[name] for name in LINKED)), link_first_form(before, *first)


def _judge(
    flow: Flow[Any, Any, Any] | None,
    row: asyncpg.Record | None,
    entries: Sequence[asyncpg.Record],
    forms: Counter[bool],
) -> Iterable[tuple[str, str]]:
    """Each promise that is broken, and what was seen. Without facts and state there is nothing to judge."""
    if row is None:
        if entries:
            yield "state is a fold", "has facts and no state"
        return
    if flow is None:
        yield "state is a fold", "is a state of nothing that this service decides about"
        return
    if [e["sequence"] for e in entries] != list(range(1, row["sequence"] + 1)):
        yield "I14 sequence rises by one", f"{len(entries)} facts, sequence {row['sequence']}"
        return
    chain = b""
    for e in entries:
        today, first = _links(chain, e)
        forms[e["chain"] == first] += 1
        if e["chain"] not in (today, first):
            yield "the chain is unbroken", f"fact {e['sequence']} was changed after it was written"
            return
        chain = e["chain"]
    if chain != row["chain"]:
        yield "the chain is unbroken", "the state's chain is not the last fact's"
    facts = [FACTS[e["type"]].model_validate_json(e["data"]) for e in entries]
    if row["shape"] != flow.shape:
        return  # by an image of another version: the services fold it anew before they use it
    try:
        stored = flow.state.validate_json(row["state"])
    except ValidationError as error:
        yield "state is a fold", f"is no state: {error.errors()[0]['msg']}"
        return
    folded, kept = (json.loads(flow.state.dump_json(s)) for s in (flow.fold(row["key"], facts), stored))
    if folded != kept:
        differing = sorted(name for name in folded if folded[name] != kept.get(name))
        yield "state is a fold", f"differs from its journal in {', '.join(differing)}"
    for broken in flow.invariants(stored):
        yield "a law of the domain", broken
