"""What an operator asks of the running system: how far behind it is, and what is parked, set right under their name."""

import asyncio
import getpass
import json
import os
import signal
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest
from aiokafka import AIOKafkaProducer
from typer.testing import CliRunner

from ops import open_work, verify
from ops.actors import Actors
from ops.cli import app
from ops.control import NotScalable
from ops.endpoints import live_endpoints
from ops.keys import kept_keys
from ops.stories import _line, _tender, place
from shared.messaging.journal import LINKED, link, link_first_form
from shared.messaging.parking import Record
from shared.web.auth import Role, issue
from support_view.rebuild import HORIZON
from tests.e2e.conftest import Oms
from tests.integration.delivery import until

TOPIC = "warehouse.events"


async def parked(oms: Oms, *keys: str) -> dict[str, tuple[int, str]]:
    """Of these keys, how many messages fulfillment has parked, and why the first."""
    _, found = await oms("dlq", "ls", "fulfillment")
    return {each["key"]: (each["messages"], each["reason"]) for each in found["keys"] if each["key"] in keys}


async def shared_out(oms: Oms, replicas: Mapping[str, Any]) -> None:
    """Wait until these replicas of returns have all its partitions between them, and each a share."""
    token = issue(kept_keys(oms.system.endpoints.secrets.parent).auth_key, subject="test", roles=[Role.OPERATOR])
    _, whole = await oms("lag")
    places = sorted((each["topic"], each["partition"]) for each in whole["services"]["returns"]["partitions"])
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {token}"}) as client:

        async def are() -> bool:
            shares = [
                [(each["topic"], each["partition"]) for each in answer.json()["partitions"]]
                for replica in replicas.values()
                if (answer := await client.get(f"{replica['url']}/operations/lag")).is_success
            ]
            return all(shares) and sorted(place for share in shares for place in share) == places

        await until(are, 60)


@pytest.fixture
async def poisoned(oms: Oms) -> AsyncIterator[list[str]]:
    """Two keys with a message each that cannot be read and one behind it, parked by fulfillment; gone afterwards. One
    is longer than any key of ours."""
    made = [f"poison-{uuid4().hex[:8]}", f"poison-{uuid4().hex[:8]}" * 400]
    keys = [Record(TOPIC, 0, 0, 0, key.encode(), [], None).parking_key() for key in made]
    async with AIOKafkaProducer(bootstrap_servers=oms.system.endpoints.kafka, acks="all") as producer:
        for key in made:
            for number in range(2):
                headers = [("ce_id", str(uuid4()).encode()), ("ce_type", b"warehouse.packed"), ("ce_time", b"never")]
                await producer.send_and_wait(TOPIC, b"{" if number == 0 else b"[]", key.encode(), headers=headers)
    async with asyncio.timeout(60):
        while [count for count, _ in (await parked(oms, *keys)).values()] != [2, 2]:  # noqa: ASYNC110  # in other processes
            await asyncio.sleep(0.2)
    yield keys
    for key in keys:
        await oms("dlq", "discard", "fulfillment", key, "--reason", "the test is over")
    assert await parked(oms, *keys) == {}


async def test_parked_keys_are_listed_redriven_and_discarded_together_under_a_name(
    oms: Oms, poisoned: list[str]
) -> None:
    before = await parked(oms, *poisoned)
    reason = before[poisoned[0]][1]
    code, would = await oms("dlq", "redrive", "fulfillment", poisoned[0], "--dry-run")
    assert (code, len(would["would_redrive"])) == (0, 2)
    code, would = await oms("dlq", "discard", "--all", "--parked-for", "no such reason", "--reason", "x", "--dry-run")
    assert (code, would["would_discard"]) == (0, [])
    assert await parked(oms, *poisoned) == before, "a dry run changes nothing"

    code, lagging = await oms("lag")
    assert code == 1
    assert any("fulfillment has parked keys" in told for told in lagging["attention"])

    code, told = await oms("dlq", "redrive", "fulfillment", "--all", "--parked-for", reason, "--reason", "fixed?")
    assert (code, told["done"]) == (1, 0)
    assert {each["key"]: each["still_parked"] for each in told["keys"]}.items() >= dict.fromkeys(poisoned, 2).items()

    code, gone = await oms("dlq", "discard", "fulfillment", poisoned[0], "--reason", "never was a message")
    assert (code, [each["key"] for each in gone["discarded"]]) == (0, [poisoned[0]] * 2)
    assert list(await parked(oms, *poisoned)) == poisoned[1:]
    db = await asyncpg.connect(oms.system.endpoints.database("fulfillment"))
    try:
        kept = await db.fetch("SELECT status, settled_by, settled_reason FROM parked WHERE key = $1", poisoned[0])
    finally:
        await db.close()
    assert {(row["status"], row["settled_reason"]) for row in kept} == {("discarded", "never was a message")}
    assert all(row["settled_by"].endswith(getpass.getuser()) for row in kept)


async def test_withheld_keys_are_listed_and_released_under_a_name(oms: Oms, actors: Actors) -> None:
    """What the relay does when the broker refuses a fact, done here by hand to one that was published before: once
    released, it goes out again."""
    sku = f"WITHHELD-{actors.run}"
    await actors.stocks([(sku, "BER", 1)], actors.ago(minutes=1))
    key = f"stock:{sku}@BER"
    db = await asyncpg.connect(oms.system.endpoints.database("fulfillment"))
    try:
        async with db.transaction():
            id = await db.fetchval("SELECT id FROM events WHERE subject = $1", key)
            await db.execute(
                "INSERT INTO withheld (subject, event_id, reason, detail) VALUES ($1, $2, 'too_large', '[bold]')",
                key,
                id,
            )
            await db.execute("INSERT INTO outbox (event_id) VALUES ($1)", id)

        code, listed = await oms("withheld", "ls")
        assert (code, [(each["service"], each["key"], each["facts"]) for each in listed["keys"]]) == (
            1,
            [("fulfillment", key, 1)],
        )
        assert (await oms("withheld", "ls", "orders"))[0] == 0
        _, lagging = await oms("lag")
        assert any("fulfillment withholds keys" in told for told in lagging["attention"])
        code, would = await oms("withheld", "release", "--all", "--dry-run")
        assert (code, would["would_release"]) == (0, [{"service": "fulfillment", "key": key}])
        code, none = await oms("withheld", "release", "fulfillment", "no-such-key")
        assert (code, none["released"]) == (1, [])
        assert await db.fetchval("SELECT count(*) FROM outbox WHERE event_id = $1", id) == 1, "it is withheld still"

        code, gone = await oms("withheld", "release", "fulfillment", key)
        assert (code, gone["released"]) == (0, [{"service": "fulfillment", "key": key}])
        async with asyncio.timeout(30):
            while await db.fetchval("SELECT count(*) FROM outbox WHERE event_id = $1", id):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        by = await db.fetchval("SELECT released_by FROM withheld WHERE subject = $1", key)
    finally:
        await db.close()
    assert by.endswith(getpass.getuser())
    assert await oms("withheld", "ls") == (0, {"keys": [], "unanswered": []})


@pytest.mark.parametrize(
    "words",
    [
        ["dlq", "redrive"],
        ["dlq", "redrive", "orders", "k", "--all"],
        ["dlq", "discard", "--reason", "x", "--id", "1", "--all"],
        ["dlq", "ls", "no"],
        ["withheld", "release"],
        ["withheld", "release", "orders", "k", "--all"],
        ["withheld", "ls", "sandbox"],
    ],
)
async def test_what_is_not_said_clearly_is_refused(oms: Oms, words: list[str]) -> None:
    result = await asyncio.to_thread(CliRunner().invoke, app, words)
    assert result.exit_code == 2


async def test_replicas_share_the_partitions_come_back_and_go(oms: Oms) -> None:
    code, told = await oms.apart("scale", "returns=3")
    assert code == 0
    replicas = told["services"]["returns"]
    assert list(replicas) == ["returns", "returns-2", "returns-3"]
    assert len({each["url"] for each in replicas.values()}) == 3
    assert len(told["services"]["orders"]) == 1
    await shared_out(oms, replicas)

    second = replicas["returns-2"]["process"]["pid"]
    os.kill(second, signal.SIGKILL)

    async def is_back() -> bool:
        process = live_endpoints(oms.system.endpoints.secrets.parent).services["returns"].others["returns-2"].process
        return process is not None and process.pid != second

    await until(is_back, 60)
    await oms.system.ready(within=60)
    _, lagging = await oms("lag")
    assert (lagging["services"]["returns"]["replicas"], lagging["services"]["returns"]["is_ready"]) == (3, True)

    code, told = await oms.apart("scale", "returns=1")
    assert (code, list(told["services"]["returns"])) == (0, ["returns"])
    assert not any(name.startswith("returns-") for name in oms.system.processes)
    async with httpx.AsyncClient() as client:
        with pytest.raises(httpx.ConnectError):
            await client.get(f"{replicas['returns-3']['url']}/livez")
    # Before others need it: the group takes a while to see that a member will not come back.
    await shared_out(oms, {"returns": replicas["returns"]})


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        ("support-view=7", "6 partitions"),
        ("support-view=0", "1 to 6 replicas"),
        ("sandbox=2", "not one of orders, payments"),
        ("nobody=2", "not one of orders, payments"),
    ],
)
async def test_replicas_that_would_have_nothing_to_read_are_refused(oms: Oms, wanted: str, why: str) -> None:
    before = set(oms.system.processes)
    result = await asyncio.to_thread(CliRunner().invoke, app, ["scale", "returns=2", wanted])
    assert isinstance(result.exception, NotScalable)
    assert why in str(result.exception)
    assert set(oms.system.processes) == before, "all of what was asked for, or nothing"


async def test_the_supervisor_is_told_by_operators_only(oms: Oms) -> None:
    host, _, port = oms.system.endpoints.control.partition(":")
    agent = issue(kept_keys(oms.system.endpoints.secrets.parent).auth_key, subject="anna", roles=[Role.AGENT])
    for said in (b"", b"{}", json.dumps({"token": agent, "replicas": {"returns": 2}}).encode()):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(said + b"\n")
        assert json.loads(await reader.readline())["outcome"] == "refused"
        writer.close()
    assert "returns-2" not in oms.system.processes


async def test_lag_is_whole_while_a_service_does_not_answer(oms: Oms) -> None:
    """Stopped, not ended: its supervisor would start it again at once."""
    pid = oms.system.processes["returns"].pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        async with AIOKafkaProducer(bootstrap_servers=oms.system.endpoints.kafka, acks="all") as producer:
            await producer.send_and_wait(TOPIC, b"{}", b"whatever", headers=[("ce_type", b"of.no.interest")])
        code, found = await oms("lag")
        listed = await asyncio.to_thread(CliRunner().invoke, app, ["dlq", "ls", "orders", "--json"])
    finally:
        os.kill(pid, signal.SIGCONT)
    assert code == 1
    returns = found["services"]["returns"]
    assert not returns["is_ready"]
    assert any(told.startswith("returns: it is down") for told in found["attention"])
    waiting = [each for each in returns["partitions"] if each["topic"] == TOPIC and each["messages"]]
    assert [each["group"] for each in waiting] == ["returns"]
    assert waiting[0]["seconds"] > 0
    assert len(returns["partitions"]) == 6 * len({each["topic"] for each in returns["partitions"]})
    assert found["services"]["orders"]["is_ready"] and found["services"]["support-view"]["owed"]["holes"] == 0
    assert json.loads(listed.stdout)["unanswered"] == []
    await oms.system.ready(within=60)

    async def is_read() -> bool:
        _, again = await oms("lag")
        return all(each["messages"] == 0 for each in again["services"]["returns"]["partitions"])

    async with asyncio.timeout(60):
        while not await is_read():  # noqa: ASYNC110  # what is waited for is in other processes
            await asyncio.sleep(0.2)


@dataclass
class Shelf:
    """A shelf's journal in fulfillment, and ways to spoil it that no service of ours would take."""

    actors: Actors
    db: "asyncpg.Connection[asyncpg.Record]"
    sku: str

    @property
    def key(self) -> str:
        return f"stock:{self.sku}@BER"

    async def receives(self) -> UUID:
        """The id of the fact; nothing that a run begun now would still wait for is as old as it."""
        id = f"{self.sku}-{uuid4().hex[:8]}"
        body = {"receipt_id": id, "sku": self.sku, "location": "BER", "quantity": 1}
        await self.actors.post("fulfillment", "/stock/receipts", body, Role.WAREHOUSE)
        fact: UUID = await self.db.fetchval(
            "SELECT id FROM events WHERE subject = $1 AND data->>'receipt_id' = $2", self.key, id
        )

        async def is_past() -> bool:
            return bool(await self.db.fetchval(f"SELECT ({HORIZON}) > recorded_at FROM events WHERE id = $1", fact))

        await until(is_past)
        return fact

    async def has_published(self) -> bool:
        return not await self.db.fetchval(
            "SELECT count(*) FROM outbox JOIN events ON id = event_id WHERE subject = $1", self.key
        )

    async def counts(self, received: int) -> None:
        await self.db.execute(
            "UPDATE states SET state = jsonb_set(state::jsonb, '{received}', $2::text::jsonb)::json WHERE key = $1",
            self.key,
            str(received),
        )

    async def relinks(self) -> None:
        """What it takes to make a journal look untouched: each chain from the one before, past the trigger."""
        chain = b""
        async with self.db.transaction():
            await self.db.execute("ALTER TABLE events DISABLE TRIGGER append_only")
            for e in await self.db.fetch("SELECT * FROM events WHERE subject = $1 ORDER BY sequence", self.key):
                chain = link(chain, *(e[name] for name in LINKED))
                await self.db.execute("UPDATE events SET chain = $2 WHERE id = $1", e["id"], chain)
            await self.db.execute("UPDATE states SET chain = $2 WHERE key = $1", self.key, chain)
            await self.db.execute("ALTER TABLE events ENABLE TRIGGER append_only")


@pytest.fixture
async def shelf(oms: Oms, actors: Actors, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Shelf]:
    """With facts that were verified, and a verification that is told nothing twice and has no patience."""
    monkeypatch.setattr(verify, "OVERLAP", timedelta(0))
    db = await asyncpg.connect(oms.system.endpoints.database("fulfillment"))
    try:
        shelf = Shelf(actors, db, f"SHELF-{uuid4().hex[:8]}")
        await shelf.receives()
        assert await verified(oms, "--full") == []
        monkeypatch.setattr(verify, "CATCH_UP_S", 1.0)
        yield shelf
    finally:
        await db.close()
    monkeypatch.setattr(verify, "CATCH_UP_S", 30.0)
    assert await verified(oms, "--full") == []


async def verified(oms: Oms, *words: str) -> list[tuple[str, str]]:
    """(promise, where) of what is wrong."""
    code, told = await oms("verify", *words)
    assert told["everything"] == ("--full" in words)
    assert code == bool(told["findings"])
    return [(each["promise"], each["where"]) for each in told["findings"]]


async def test_verify_looks_at_what_is_new_and_again_at_what_was_wrong(oms: Oms, shelf: Shelf) -> None:
    spoiled = [("state is a fold", f"fulfillment {shelf.key}")]
    await shelf.counts(9)
    assert await verified(oms) == [], "nothing was told of it since"
    await shelf.counts(1)
    await shelf.receives()
    await shelf.counts(9)
    assert await verified(oms) == spoiled
    assert await verified(oms) == spoiled, "the marks were set past it, and it is not forgotten"
    await shelf.counts(2)
    assert await verified(oms) == []
    await shelf.counts(9)
    assert await verified(oms) == [], "what was set right is as old as the rest"
    assert await verified(oms, "--full") == spoiled
    assert await verified(oms) == spoiled
    await shelf.counts(2)


async def test_verify_names_what_no_service_can_have_written(oms: Oms, shelf: Shelf) -> None:
    """Facts without a state, and a state of a kind that nobody decides about."""
    await shelf.db.execute("UPDATE states SET key = 'moon:' || key WHERE key = $1", shelf.key)
    forged = [f"fulfillment moon:{shelf.key}", f"fulfillment {shelf.key}"]
    assert await verified(oms, "--full") == [("state is a fold", where) for where in forged]
    assert await verified(oms) == [("state is a fold", where) for where in forged]
    await shelf.db.execute("UPDATE states SET key = $1 WHERE key = 'moon:' || $1", shelf.key)


async def test_verify_sees_a_chain_that_breaks_between_old_and_new_facts(oms: Oms, shelf: Shelf) -> None:
    await shelf.db.execute("UPDATE states SET chain = sha256('forged') WHERE key = $1", shelf.key)
    await shelf.receives()
    broken = [("the chain is unbroken", f"fulfillment {shelf.key}")]
    assert await verified(oms) == broken
    await shelf.relinks()
    assert await verified(oms) == []


@dataclass
class Tampering:
    """What somebody with the databases' passwords can do to a shelf's journal and its copies; all of it is undone."""

    shelf: Shelf
    view: "asyncpg.Connection[asyncpg.Record]"

    async def changes(self, statement: str, *values: object) -> None:
        """In the journal, past its trigger. The statement's first parameter is the shelf."""
        async with self.shelf.db.transaction():
            await self.shelf.db.execute("ALTER TABLE events DISABLE TRIGGER append_only")
            await self.shelf.db.execute(statement, self.shelf.key, *values)
            await self.shelf.db.execute("ALTER TABLE events ENABLE TRIGGER append_only")

    async def forgets_in_timeline(self) -> None:
        await self.view.execute("DELETE FROM timeline WHERE subject = $1", self.shelf.key)


@pytest.fixture
async def tampering(oms: Oms, shelf: Shelf) -> AsyncIterator[Tampering]:
    """Of a shelf with two facts that everybody has heard of."""
    await shelf.receives()
    view = await asyncpg.connect(oms.system.endpoints.database("support-view"))
    tampering = Tampering(shelf, view)

    async def is_told() -> bool:
        return bool(await view.fetchval("SELECT count(*) = 2 FROM timeline WHERE subject = $1", shelf.key))

    await until(is_told)
    kept = [
        (db, table, await db.fetch(f"SELECT * FROM {table} WHERE {column} = $1", shelf.key))  # of ours
        for db, table, column in (
            (shelf.db, "events", "subject"),
            (shelf.db, "states", "key"),
            (view, "timeline", "subject"),
        )
    ]
    try:
        yield tampering
    finally:
        await tampering.changes("DELETE FROM events WHERE subject = $1")
        await shelf.db.execute("DELETE FROM states WHERE key = $1", shelf.key)
        await tampering.forgets_in_timeline()
        for db, table, rows in kept:
            await db.copy_records_to_table(table, records=map(tuple, rows), columns=list(rows[0].keys()))
        await view.close()


async def taken_out(oms: Oms, key: str) -> list[str]:
    """What a full verification says was taken out of the journal of this shelf."""
    code, told = await oms("verify", "--full")
    promise, where = "nothing is taken out of a journal", f"fulfillment {key}"
    assert code == bool(told["findings"])
    return [each["what"] for each in told["findings"] if (each["promise"], each["where"]) == (promise, where)]


async def test_verify_names_a_subject_that_vanished_from_journal_and_states(oms: Oms, tampering: Tampering) -> None:
    key = tampering.shelf.key
    assert await taken_out(oms, key) == []
    await tampering.changes("DELETE FROM events WHERE subject = $1")
    await tampering.shelf.db.execute("DELETE FROM states WHERE key = $1", key)
    seen, published = await taken_out(oms, key)
    assert "is in the timeline, and the journal has no fact of it" in seen
    assert published.startswith("facts 1 to 2 are on the topic")
    await tampering.forgets_in_timeline()
    assert await taken_out(oms, key) == [published], "the topic has it still"


async def test_verify_names_a_tail_that_was_cut_with_its_state_set_back(oms: Oms, tampering: Tampering) -> None:
    shelf = tampering.shelf
    await tampering.changes("DELETE FROM events WHERE subject = $1 AND sequence = 2")
    await shelf.db.execute(
        "UPDATE states SET sequence = 1, chain = (SELECT chain FROM events WHERE subject = key) WHERE key = $1",
        shelf.key,
    )
    await shelf.counts(1)
    await shelf.db.execute(
        "UPDATE states SET state = jsonb_set(state::jsonb, '{on_hand}', '1')::json WHERE key = $1", shelf.key
    )
    seen, published = await taken_out(oms, shelf.key)
    assert seen.startswith("fact 2 is in the timeline")
    assert published.startswith("fact 2 is on the topic")


@pytest.mark.parametrize(
    ("column", "value"),
    [("reason", "'other'"), ("data", "'{}'"), ("occurred_at", "occurred_at - interval '1 day'"), ("sequence", "9")],
)
async def test_verify_names_a_row_of_the_timeline_that_was_changed(
    oms: Oms, tampering: Tampering, column: str, value: str
) -> None:
    await tampering.view.execute(
        f"UPDATE timeline SET {column} = {value} WHERE subject = $1 AND sequence = 2",  # of this test
        tampering.shelf.key,
    )
    code, told = await oms("verify", "--full")
    assert code == 1
    [found] = told["findings"]
    assert (found["promise"], found["where"]) == (
        "the timeline says what the journal says",
        f"fulfillment {tampering.shelf.key}",
    )
    assert f"another {column} in the timeline" in found["what"]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("schema_version", "9"),
        ("correlation_id", "'other'"),
        ("causation_id", "'other'"),
        ("traceparent", "'other'"),
        ("policy_id", "'other'"),
        ("policy_version", "9"),
    ],
)
async def test_verify_names_a_fact_whatever_column_of_it_was_changed(
    oms: Oms, tampering: Tampering, column: str, value: str
) -> None:
    await tampering.changes(f"UPDATE events SET {column} = {value} WHERE subject = $1 AND sequence = 2")
    found = await verified(oms, "--full")
    assert ("the chain is unbroken", f"fulfillment {tampering.shelf.key}") in found


async def test_facts_of_before_keep_their_chains_and_verify_says_what_those_leave_out(
    oms: Oms, tampering: Tampering
) -> None:
    shelf, chain = tampering.shelf, b""
    for e in await shelf.db.fetch("SELECT * FROM events WHERE subject = $1 ORDER BY sequence", shelf.key):
        said = (e["sequence"], e["type"], e["data"], e["occurred_at"], e["actor"], e["reason"])
        chain = link_first_form(chain, e["id"], shelf.key, *said)
        await tampering.changes("UPDATE events SET chain = $2 WHERE subject = $1 AND id = $3", chain, e["id"])
    await shelf.db.execute("UPDATE states SET chain = $2 WHERE key = $1", shelf.key, chain)
    code, told = await oms("verify", "--full")
    assert (code, told["findings"]) == (0, [])
    assert any("of 2 facts" in each for each in told["not_looked_at"])
    await tampering.changes("UPDATE events SET reason = 'other' WHERE subject = $1 AND sequence = 1")
    assert ("the chain is unbroken", f"fulfillment {shelf.key}") in await verified(oms, "--full")


async def test_verify_says_that_a_state_of_another_version_was_not_compared(oms: Oms, shelf: Shelf) -> None:
    await shelf.db.execute("UPDATE states SET shape = 'of another version' WHERE key = $1", shelf.key)
    await shelf.counts(9)
    code, told = await oms("verify", "--full")
    assert (code, told["findings"]) == (0, [])
    assert any(
        each.startswith("states that another version wrote") and each.endswith(": 1") for each in told["not_looked_at"]
    )
    await shelf.receives()
    assert await shelf.db.fetchval("SELECT state::jsonb ->> 'received' FROM states WHERE key = $1", shelf.key) == "2"


async def test_verify_waits_for_what_is_not_published_and_names_it_when_it_does_not_arrive(
    oms: Oms, shelf: Shelf
) -> None:
    await until(shelf.has_published)
    old = await shelf.db.fetchval("SELECT id FROM events WHERE subject = $1", shelf.key)
    await shelf.db.execute(
        "INSERT INTO withheld (subject, event_id, reason, detail) VALUES ($1, $2, 'too_large', 'test')", shelf.key, old
    )
    new = await shelf.receives()
    await shelf.db.execute(
        "INSERT INTO outbox (event_id) VALUES ($1)", new
    )  # to be published again, as the runbook says
    for _ in range(2):
        code, told = await oms("verify")
        assert (code, told["looked_at"]["unpublished"]) == (0, 1)
    await shelf.db.execute("DELETE FROM outbox WHERE event_id = $1", new)
    lost = [("every fact is in the timeline once", f"fulfillment {shelf.key} {new}")]
    assert await verified(oms) == lost, "it is not in the outbox any more, and never was on the topic"
    assert await verified(oms) == lost
    await oms("withheld", "release", "fulfillment", shelf.key)
    await shelf.db.execute("INSERT INTO outbox (event_id) VALUES ($1)", new)

    async def is_well() -> bool:
        return await verified(oms) == []

    await until(shelf.has_published)
    await until(is_well)


async def test_verify_follows_an_order_through_all_services(oms: Oms, actors: Actors, shelf: Shelf) -> None:
    id = f"verified-{uuid4().hex[:8]}"
    order = await place(actors, id, [_line("a", shelf.sku, "Lamp", 1, 1000)], [_tender("t1", "card", 1000)])
    await actors.sees(order["order_id"], "a shipment", lambda view: bool(view["shipments"]))

    async def is_well() -> bool:
        code, told = await oms("verify")
        looked_at = told["looked_at"]
        return code == 0 and looked_at["orders"] >= 1 and looked_at["operations"] >= 1 and looked_at["in_timeline"] > 5

    await until(is_well)


async def test_verify_names_an_observation_that_was_parked_although_it_could_be_read(oms: Oms, shelf: Shelf) -> None:
    key = f"refused-{uuid4().hex[:8]}"
    park = """
        INSERT INTO parked (key, topic, partition, position, header_names, header_values, reason, detail)
        VALUES ($1, 'warehouse.events', 0, $2, '{}', '{}', $3, 'it left although held')"""
    try:
        await shelf.db.execute(park, key, -1, "not_allowed")
        await shelf.db.execute(park, key, -2, "behind")
        await shelf.db.execute(park, f"{key}-2", -3, "bad_data")
        _, told = await oms("verify", "--full")
        assert [(each["where"], each["what"][:3]) for each in told["findings"]] == [(f"fulfillment {key}", "I16")]
        assert "not_allowed" in told["findings"][0]["what"]
    finally:
        await shelf.db.execute("DELETE FROM parked WHERE key LIKE $1 || '%'", key)


async def test_verify_names_what_is_late_and_was_brought_to_nobody(
    oms: Oms, actors: Actors, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refund waits for its approver. Who must look was told, until somebody made support forget it."""
    monkeypatch.setattr(open_work, "RAISED_WITHIN", timedelta(0))
    id = f"late-{uuid4().hex[:8]}"
    order = await place(actors, id, [_line("a", f"NONE-{id}", "Lamp", 1, 1000)], [_tender("t1", "gift_card", 1000)])
    key = order["order_id"]
    await actors.sees(key, "captured", lambda view: view["totals"]["captured"]["minor"] == 1000)
    goodwill = {"kind": "goodwill", "currency": "EUR", "amount_minor": 100, "reason": "sorry"}
    await actors.post("payments", f"/orders/{key}/refunds", goodwill, Role.AGENT)
    await actors.reads(
        "support-view", "/api/queue?limit=500", "a task", lambda q: any(e["order_id"] == key for e in q["escalations"])
    )

    async def unattended() -> list[str]:
        _, told = await oms("verify", "--full")
        return [each["what"] for each in told["findings"] if each["where"] == key]

    assert await unattended() == []
    view = await asyncpg.connect(oms.system.endpoints.database("support-view"))
    try:
        kept = await view.fetchval("SELECT state::text FROM states WHERE key = $1", key)
        forgotten = json.dumps(json.loads(kept) | {"escalations": {}})
        await view.execute("UPDATE states SET state = $2::text::json WHERE key = $1", key, forgotten)
        [what] = await unattended()
        assert what.startswith(f"I15: {key}-R1 is late since ")
        assert what.endswith("(policy_exception), and nobody was told")
        await view.execute("UPDATE states SET state = $2::text::json WHERE key = $1", key, kept)
    finally:
        await view.close()
    await actors.post("payments", f"/orders/{key}/refunds/{key}-R1/approve", {"reason": "fine"}, Role.SUPERVISOR)


async def test_verify_names_a_discrepancy_of_a_shelf_without_its_escalation_until_the_shelf_is_counted(
    oms: Oms, actors: Actors, shelf: Shelf
) -> None:
    receipt = await shelf.db.fetchval("SELECT data->>'receipt_id' FROM events WHERE subject = $1", shelf.key)
    again = {"receipt_id": receipt, "sku": shelf.sku, "location": "BER", "quantity": 9}
    await actors.post("fulfillment", "/stock/receipts", again, Role.WAREHOUSE)

    def of_it(queue: Any) -> list[Any]:
        return [each for each in queue["escalations"] if each["shelf"] == f"{shelf.sku}@BER"]

    await actors.reads("support-view", "/api/queue?limit=500", "the shelf", lambda queue: bool(of_it(queue)))
    assert await verified(oms, "--full") == []
    view = await asyncpg.connect(oms.system.endpoints.database("support-view"))
    try:
        kept = await view.fetchval("SELECT state::text FROM states WHERE key = $1", shelf.key)
        forgotten = json.dumps(json.loads(kept) | {"escalations": {}})
        await view.execute("UPDATE states SET state = $2::text::json WHERE key = $1", shelf.key, forgotten)
        _, told = await oms("verify", "--full")
        what = f"I16: fulfillment recorded {receipt}, and no escalation was raised for it"
        assert (shelf.key, what) in [(each["where"], each["what"]) for each in told["findings"]]
        assert ("a law of the domain", shelf.key) in await verified(oms), "it is not forgotten"
        await view.execute("UPDATE states SET state = $2::text::json WHERE key = $1", shelf.key, kept)
    finally:
        await view.close()
    assert await verified(oms) == []
    count = {"sku": shelf.sku, "location": "BER", "counted": 1, "reason": "counted again"}
    await actors.post("fulfillment", "/stock/counts", count, Role.WAREHOUSE)
    await actors.reads("support-view", "/api/queue?limit=500", "the end of it", lambda queue: not of_it(queue))


async def test_verify_names_what_the_provider_did_unasked_and_was_brought_to_nobody(
    oms: Oms, actors: Actors, shelf: Shelf
) -> None:
    """Money was charged by hand in the provider's dashboard; each movement is brought to somebody."""
    id = f"moved-{uuid4().hex[:8]}"
    order = await place(actors, id, [_line("a", f"NONE-{id}", "Lamp", 1, 1000)], [_tender("t1", "card", 1000)])
    key = order["order_id"]
    await actors.sees(key, "authorized", lambda seen: seen["totals"]["authorized"]["minor"] == 1000)
    by_hand = {"order_id": key, "amount_minor": 300, "currency": "EUR", "key": f"{key}-by-hand"}
    there = {"Authorization": f"Bearer {kept_keys(oms.system.endpoints.secrets.parent).processor_key}"}
    async with httpx.AsyncClient(headers=there, base_url=oms.system.endpoints.url("sandbox")) as dashboard:
        (await dashboard.post("/processor/control/charge", json=by_hand)).raise_for_status()
    await actors.reads(
        "support-view",
        "/api/queue?limit=500",
        "the movement",
        lambda queue: any((e["order_id"], e["item"]) == (key, f"{key}-M1") for e in queue["escalations"]),
    )
    view = await asyncpg.connect(oms.system.endpoints.database("support-view"))
    try:
        moved = await view.fetchval(
            "SELECT count(*) FROM timeline WHERE subject = $1 AND type = 'payment.movement_recorded'", key
        )
        assert moved and await verified(oms, "--full") == []
        kept = await view.fetchval("SELECT state::text FROM states WHERE key = $1", key)
        forgotten = json.dumps(json.loads(kept) | {"escalations": {}})
        await view.execute("UPDATE states SET state = $2::text::json WHERE key = $1", key, forgotten)
        _, told = await oms("verify", "--full")
        found = [each["what"] for each in told["findings"] if each["where"] == key]
        assert f"I16: payments recorded {key}-M1, and no escalation was raised for it" in found
        await view.execute("UPDATE states SET state = $2::text::json WHERE key = $1", key, kept)
    finally:
        await view.close()


async def test_marks_that_are_not_of_these_databases_are_none(oms: Oms, shelf: Shelf) -> None:
    var = oms.system.endpoints.secrets.parent
    marks = verify.Marks.read(var)
    later = marks.services["orders"].looked_to + timedelta(hours=1)
    others = marks.services["orders"].model_copy(update={"database": "another/1"})
    for wrong in (others, marks.services["orders"].model_copy(update={"looked_to": later})):
        marks.model_copy(update={"services": dict.fromkeys(marks.services, wrong)}).write(var, verify.Marks.read(var))
        _, told = await oms("verify")
        assert told["everything"]
    (var / "verified.json").write_text("{")
    assert (await oms("verify"))[1]["everything"]
    assert not (await oms("verify"))[1]["everything"]
