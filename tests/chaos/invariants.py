"""What must be so once everything has come to rest, whatever was done before. Each finding names what broke, and where."""

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

import httpx
from aiokafka import AIOKafkaConsumer, TopicPartition

from ops.keys import kept_keys
from ops.topics import PARTITIONS
from ops.verify import Finding, Report, check
from shared.web.auth import Role, issue
from support_view.domain.timeline import Entry
from support_view.projection import ALL, DOMAINS, fold_contiguous, projection_of
from support_view.store import OF_NO_ORDER
from tests.chaos.load import History
from tests.chaos.stage import CONSUMING, DECIDING, Stage
from tests.telling import entry_in

STILL_S: Final = 3.0
PAGE: Final = 2000

WORK: Final = """
SELECT (SELECT count(*) FROM events) AS facts, (SELECT count(*) FROM outbox) AS unpublished,
       (SELECT count(*) FROM deadlines WHERE due_at <= now()) AS due"""
UNDER_WAY: Final = "SELECT count(*) FROM operations WHERE status IN ('requested', 'submitted', 'unknown')"
SEEN: Final = "SELECT count(*) FROM timeline"
JOURNAL: Final = """
SELECT id, subject, sequence, type, data, occurred_at, actor, reason, correlation_id, causation_id
FROM events ORDER BY subject, sequence"""
PLACES: Final = "SELECT id, subject, sequence, data FROM events"
EFFECTS: Final = "SELECT subject, type, count(*) FROM events WHERE type = ANY($1::text[]) GROUP BY subject, type"
PARKED: Final = "SELECT id, key, reason, detail FROM parked WHERE status = 'open'"
BOOKED: Final = """
SELECT kind, sum(amount_minor)::bigint FROM operations WHERE status IN ('succeeded', 'reversed') GROUP BY kind"""

# A process that ends itself names the part that failed. None of these strikes is a reason to.
EXPECTED_ENDINGS: Final[tuple[str, ...]] = ()
BAD_LOGS: Final = re.compile(r'"(part\.failed|part\.abandoned|section\.stuck|operation\.undecided|key\.withheld)"')


@dataclass(slots=True)
class Asked:
    """How much each answer rests on."""

    counted: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)

    def found(self, promise: str, where: str, what: str) -> None:
        self.findings.append(Finding(promise, where, what))


async def rest(stage: Stage, within: float) -> str | None:
    """Wait until nothing is on its way and nothing has happened for a moment; else what still goes on."""
    async with AsyncExitStack() as stack:
        dbs = {}
        for service in CONSUMING:
            dbs[service] = await stage.connect(service)
            stack.push_async_callback(dbs[service].close)
        loop = asyncio.get_running_loop()
        deadline, still_since, before = loop.time() + within, loop.time(), None
        while True:
            state = await _state(stage, dbs)
            is_busy = any(state[what] for what in ("unpublished", "due", "under way", "behind", "unseen"))
            if is_busy or state != before:
                still_since, before = loop.time(), state
            elif loop.time() - still_since > STILL_S:
                return None
            if loop.time() > deadline:
                return ", ".join(f"{count} {what}" for what, count in state.items() if count)
            await asyncio.sleep(0.3)


def facts_of(service: str) -> str:
    """The service that its facts and their topic name."""
    return "support" if service == "support-view" else service


async def _state(stage: Stage, dbs: Mapping[str, Any]) -> dict[str, int]:
    facts = unpublished = due = 0
    for service in CONSUMING:
        row = await dbs[service].fetchrow(WORK)
        facts, unpublished, due = facts + row["facts"], unpublished + row["unpublished"], due + row["due"]
    return {
        "facts": facts,
        "unpublished": unpublished,
        "due": due,
        "under way": await dbs["payments"].fetchval(UNDER_WAY),
        "unseen": facts - await dbs["support-view"].fetchval(SEEN),
        "behind": await _behind(stage),
    }


async def _behind(stage: Stage) -> int:
    behind = 0
    async with _operator(stage) as client:
        for service in CONSUMING:
            answer = await client.get(f"{stage.system.endpoints.url(service)}/operations/lag")
            answer.raise_for_status()
            behind += sum(partition["messages"] for partition in answer.json()["partitions"])
    return behind


def _operator(stage: Stage) -> httpx.AsyncClient:
    key = kept_keys(stage.system.endpoints.secrets.parent).auth_key
    token = issue(key, subject="chaos", roles=[Role.OPERATOR])
    return httpx.AsyncClient(headers={"Authorization": f"Bearer {token}"}, timeout=30, trust_env=False)


async def ask(stage: Stage, history: History, report: Report) -> Asked:
    """All of them: what can be told from outside, and what `oms verify` asks."""
    asked = await ask_outside(stage, history, report)
    key = kept_keys(stage.system.endpoints.secrets.parent).auth_key
    counted, findings = await check(stage.system.endpoints, key, report)
    asked.counted.update(aggregates=counted.aggregates, orders=counted.orders, operations=counted.operations)
    asked.findings += findings
    return asked


async def ask_outside(stage: Stage, history: History, report: Report) -> Asked:
    """The history held against the journals, and these against topics, timeline, view, processor and processes."""
    asked = Asked()
    await _acknowledged_once(stage, history, asked, report)
    await _on_topics(stage, asked, report)
    await _on_timeline(stage, asked, report)
    await _folded(stage, asked, report)
    await _parked_and_reported(stage, asked)
    await _same_totals(stage, asked)
    await _healthy(stage, asked)
    return asked


async def _acknowledged_once(stage: Stage, history: History, asked: Asked, report: Report) -> None:
    """Whatever was answered 2xx, or acknowledged by the broker, is there once; what was refused, not at all."""
    effects = {*history.acknowledged, *history.awaited}
    types = sorted({type for _, _, type in effects})
    for service in DECIDING:
        db = await stage.connect(service)
        try:
            there = {(service, subject, type): count for subject, type, count in await db.fetch(EFFECTS, types)}
        finally:
            await db.close()
        for effect in (e for e in effects if e[0] == service):
            least = history.acknowledged[effect]
            most = least + history.awaited[effect]
            if not least <= there.get(effect, 0) <= most:
                what = f"{effect[2]} is there {there.get(effect, 0)} times, acknowledged {least} times"
                asked.found("what is acknowledged has one effect", f"{service} {effect[1]}", what)
        asked.counted["acknowledged requests"] += sum(n for e, n in history.acknowledged.items() if e[0] == service)
        report(f"{service}: acknowledged requests", len(there))


async def _on_topics(stage: Stage, asked: Asked, report: Report) -> None:
    """Every fact is on its topic, as it stands in the journal, and for the first time in sequence; nothing else is."""
    for service in CONSUMING:
        db = await stage.connect(service)
        try:
            journal: dict[str, tuple[str, int, int]] = {}
            async with db.transaction(isolation="repeatable_read", readonly=True):
                async for row in db.cursor(PLACES, prefetch=PAGE):
                    journal[str(row["id"])] = row["subject"], row["sequence"], hash(row["data"].encode())
        finally:
            await db.close()
        reached: Counter[str] = Counter()
        published: set[str] = set()
        async for record in _records(stage, f"{facts_of(service)}.events"):
            asked.counted["records"] += 1
            headers = dict(record.headers)
            id, subject = headers["ce_id"].decode(), record.key.decode()
            where = f"{record.topic}/{record.partition}/{record.offset}"
            if id not in journal:
                asked.found("only facts are on the topics", where, f"{id} is in no journal")
                continue
            if (subject, int(headers["ce_sequence"]), hash(record.value)) != journal[id]:
                asked.found("a fact travels as it was written", where, f"{id} differs from the journal")
            if id in published:
                continue
            published.add(id)
            reached[subject] += 1
            if journal[id][1] != reached[subject]:
                what = f"{subject}: {journal[id][1]} came before {reached[subject]}"
                asked.found("first publication is in sequence", where, what)
        for id in journal.keys() - published:
            asked.found("every fact is on its topic", service, f"{journal[id][0]} {journal[id][1]} ({id}) is not there")
        asked.counted["facts"] += len(journal)
        report(f"{service}: topic", len(journal))


async def _records(stage: Stage, topic: str) -> AsyncIterator[Any]:
    consumer = AIOKafkaConsumer(bootstrap_servers=stage.system.endpoints.kafka, auto_offset_reset="none")
    await consumer.start()
    try:
        places = [TopicPartition(topic, n) for n in range(PARTITIONS)]
        consumer.assign(places)
        ends = await consumer.end_offsets(places)
        await consumer.seek_to_beginning(*places)
        left = {place for place, end in ends.items() if end}
        while left:
            for place, records in (await consumer.getmany(*left, timeout_ms=1000, max_records=5000)).items():
                for record in records:
                    yield record
                if records[-1].offset + 1 >= ends[place]:
                    left.discard(place)
    finally:
        await consumer.stop()


async def _on_timeline(stage: Stage, asked: Asked, report: Report) -> None:
    """The timeline is the union of the journals, a row each."""
    told: dict[UUID, tuple[str, str, int]] = {}
    for service in CONSUMING:
        db = await stage.connect(service)
        try:
            for id, subject, sequence in await db.fetch("SELECT id, subject, sequence FROM events"):
                told[id] = service, subject, sequence
        finally:
            await db.close()
    view = await stage.connect("support-view")
    try:
        seen = Counter(row["id"] for row in await view.fetch("SELECT id FROM timeline"))
    finally:
        await view.close()
    for id in told.keys() - seen.keys():
        asked.found("every fact is in the timeline once", "support-view", f"{told[id]} ({id}) is not there")
    for id, count in seen.items():
        if id not in told or count != 1:
            asked.found("every fact is in the timeline once", "support-view", f"{id} is there {count} times")
    asked.counted["timeline"] = seen.total()
    report("support-view: timeline", len(seen))


async def _folded(stage: Stage, asked: Asked, report: Report) -> None:
    """Each section of the view is the fold of the journal of its service, made here by the view's own pure fold."""
    view = await stage.connect("support-view")
    kept = {}
    try:
        for row in await view.fetch("SELECT subject, service, next, waiting, state FROM sections"):
            kept[row["subject"], row["service"]] = row["next"], sorted(row["waiting"]), json.loads(row["state"])
    finally:
        await view.close()
    for service in CONSUMING:
        db = await stage.connect(service)
        try:
            async with db.transaction(isolation="repeatable_read", readonly=True):
                subject, entries = "", list[Entry]()
                async for row in db.cursor(JOURNAL, prefetch=PAGE):
                    if OF_NO_ORDER in row["subject"]:
                        continue
                    if row["subject"] != subject:
                        _compare(facts_of(service), subject, entries, kept, asked)
                        subject, entries = row["subject"], []
                    entries.append(entry_in(facts_of(service), row))
                _compare(facts_of(service), subject, entries, kept, asked)
        finally:
            await db.close()
        report(f"{service}: folded again", asked.counted["sections"])
    for subject, service in kept:
        asked.found("the view is a fold of the facts", f"{service} {subject}", "is a section of no facts")


def _compare(
    service: str,
    subject: str,
    entries: list[Entry],
    kept: dict[tuple[str, str], tuple[int, list[int], Any]],
    asked: Asked,
) -> None:
    """Takes the section out of `kept`: what is left over has no facts."""
    if not entries:
        return
    asked.counted["sections"] += 1
    folded = fold_contiguous(service, projection_of(service), set(), entries, ALL)
    document = json.loads(DOMAINS[service].state.dump_json(folded.state))
    there = kept.pop((subject, service), None)
    where = f"{service} {subject}"
    if there is None:
        asked.found("the view is a fold of the facts", where, "has no section")
    elif there[:2] != (folded.next, sorted(folded.waiting)):
        what = f"expects {there[0]} with {there[1]} waiting, the fold expects {folded.next}"
        asked.found("the view is a fold of the facts", where, what)
    elif there[2] != document:
        differing = sorted(name for name in document if document[name] != there[2].get(name))
        asked.found("the view is a fold of the facts", where, f"differs in {', '.join(differing)}")


async def _parked_and_reported(stage: Stage, asked: Asked) -> None:
    """No bad message was sent, so nothing is parked; what is, operators are shown."""
    async with _operator(stage) as client:
        for service in CONSUMING:
            db = await stage.connect(service)
            try:
                parked = {row["id"]: row for row in await db.fetch(PARKED)}
            finally:
                await db.close()
            url = f"{stage.system.endpoints.url(service)}/operations/parked"
            answer = await client.get(url, params={"limit": 1000})
            answer.raise_for_status()
            shown = {message["id"] for message in answer.json()}
            for id, row in parked.items():
                what = f"{row['reason']}: {row['detail']}" + ("" if id in shown else " (and operators are not told)")
                asked.found("nothing is parked", f"{service} {row['key']}", what)


async def _same_totals(stage: Stage, asked: Asked) -> None:
    """To the minor unit: what payments says succeeded, and what the processor's books say it did."""
    db = await stage.connect("payments")
    try:
        ours = {kind: amount for kind, amount in await db.fetch(BOOKED)}
    finally:
        await db.close()
    keys = kept_keys(stage.system.endpoints.secrets.parent)
    headers = {"Authorization": f"Bearer {keys.processor_key}"}
    async with httpx.AsyncClient(headers=headers, timeout=30, trust_env=False) as client:
        answer = await client.get(f"{stage.system.endpoints.url('sandbox')}/processor/ledger/totals")
        answer.raise_for_status()
        theirs = answer.json()
    asked.counted["minor units captured"] = ours.get("capture", 0)
    for kind, total in (("authorize", "authorized_minor"), ("capture", "captured_minor")):
        if (there := sum(row[total] for row in theirs)) != ours.get(kind, 0):
            what = f"{kind}: {ours.get(kind, 0)} here, {there} there"
            asked.found("both books are equal to the minor unit", "payments", what)


async def _healthy(stage: Stage, asked: Asked) -> None:
    """Every process answers that it can work, and none ended itself for a reason that was not expected."""
    for process in stage.processes:
        try:
            await process.program.probe()
        except Exception as error:  # noqa: BLE001 -- whatever it is, it is the finding
            asked.found("every process is healthy", process.name, repr(error))
    for name, line in _complaints(stage):
        asked.found("no process ends for a reason of its own", name, line)


def _complaints(stage: Stage) -> Iterator[tuple[str, str]]:
    """What the logs of the services say that they must not have come to."""
    folder = stage.system.endpoints.services["orders"].log.parent
    for path in sorted(folder.glob("*.log*")):
        with path.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if BAD_LOGS.search(line) and not any(re.search(expected, line) for expected in EXPECTED_ENDINGS):
                    yield path.name, line[:500].rstrip()
