"""The batch shell on a real PostgreSQL: one effect per message, one lock per key, refusals that take nothing with them."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from uuid import uuid4

import asyncpg
import pytest

from shared.contracts.base import Fact
from shared.contracts.orders import OrderHoldPlaced
from shared.core.machine import Invalid, NotAllowed
from shared.messaging.consumer import Consumer
from shared.messaging.database import Pool
from shared.messaging.envelope import Cause
from shared.messaging.journal import LINKED, WORTH_COPYING, link
from shared.messaging.parking import Parked, Record, Waiting, waiting, waiting_keys
from shared.messaging.router import Route, Router
from shared.messaging.shell import ITEMS_PER_YIELD, Db, Message, apply
from shared.web.operations import Redrive
from tests.backends import Backends
from tests.databases import settings_for
from tests.integration.tally import FLOW, Add, Tally, add, cause, decide, raw, record

NewDatabase = Callable[[str], Awaitable[str]]


@pytest.fixture
async def pool(new_database: NewDatabase) -> Pool:
    return await asyncpg.create_pool(await new_database("tests.integration.plumbing"), min_size=0, max_size=20)


@pytest.fixture(autouse=True)
async def _close(pool: Pool) -> object:
    yield
    await pool.close()


async def tell(pool: Pool, *told: Message[Add]) -> list[Exception | None]:
    async with pool.acquire() as db, db.transaction():
        outcomes, _ = await apply(db, FLOW, told)
    return [o.error for o in outcomes]


async def waiting_in(pool: Pool, key: str) -> list[Waiting]:
    async with pool.acquire() as db:
        return await waiting(db, key)


async def tally(pool: Pool, key: str) -> Tally:
    text = await pool.fetchval("SELECT state FROM states WHERE key = $1", key)
    return FLOW.state.validate_json(text) if text else Tally(key)


def translate(fact: OrderHoldPlaced, why: Cause) -> Message[Add]:
    return Message(fact.order_id, Add(int(fact.detail)), why)


@pytest.fixture
def consumer(pool: Pool, backends: Backends) -> Consumer:
    settings = settings_for("postgresql://unused", backends)
    routes = [Route(FLOW, {OrderHoldPlaced: translate})]
    return Consumer(pool, Router(routes).process, settings, "test", lambda: None)


async def test_a_batch_folds_each_keys_messages_in_order(pool: Pool) -> None:
    await tell(pool, add("a", 1, "first"), add("b", 5), add("a", 2, "second"), add("a", 3, "third"))
    assert await tally(pool, "a") == Tally("a", 6, ("first", "second", "third"))
    assert (await tally(pool, "b")).total == 5
    rows = await pool.fetch("SELECT sequence FROM events WHERE subject = 'a' ORDER BY sequence")
    assert [r[0] for r in rows] == [1, 2, 3]


async def test_a_message_delivered_again_has_no_second_effect(pool: Pool) -> None:
    once = add("a", 4)
    await tell(pool, once, once)
    await tell(pool, once)
    assert (await tally(pool, "a")).total == 4


@pytest.mark.parametrize("count", [2, WORTH_COPYING])
async def test_every_fact_of_the_journal_is_chained_to_the_one_before(pool: Pool, count: int) -> None:
    """With all that its row says but when it was recorded, which the database sets."""
    columns = await pool.fetch("SELECT column_name FROM information_schema.columns WHERE table_name = 'events'")
    assert {name for (name,) in columns} == {*LINKED, "recorded_at", "chain"}
    await tell(pool, *(add("a", 1) for _ in range(count)))
    await tell(pool, add("a", 3))
    before = b""
    rows = await pool.fetch("SELECT * FROM events ORDER BY sequence")
    assert len(rows) == count + 1
    for row in rows:
        before = link(before, *(row[name] for name in LINKED))
        assert row["chain"] == before
    assert await pool.fetchval("SELECT chain FROM states WHERE key = 'a'") == before


@pytest.mark.parametrize(
    "statement", ["UPDATE events SET actor = 'x'", "DELETE FROM events", "TRUNCATE events CASCADE"]
)
async def test_the_journal_cannot_be_changed(pool: Pool, statement: str) -> None:
    await tell(pool, add("a", 1))
    with pytest.raises(asyncpg.RaiseError, match="append-only"):
        await pool.execute(statement)


async def test_a_refused_message_takes_nothing_with_it_and_leaves_nothing_behind(pool: Pool) -> None:
    errors = await tell(pool, add("a", 1), add("b", -1), add("c", 13), add("d", 0), add("a", 2))
    assert [type(e) for e in errors] == [type(None), Invalid, NotAllowed, ZeroDivisionError, type(None)]
    assert (await tally(pool, "a")).total == 3
    assert [r[0] for r in await pool.fetch("SELECT key FROM states")] == ["a"]
    assert await pool.fetchval("SELECT count(*) FROM inbox") == 2


async def test_others_go_on_while_a_large_batch_is_decided(pool: Pool) -> None:
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    decided_at = []

    def noting(state: Tally, command: Add, around: None) -> Sequence[Fact]:
        decided_at.append(turns)
        return decide(state, command, around)

    going = asyncio.create_task(others())
    async with pool.acquire() as db, db.transaction():
        await apply(db, replace(FLOW, decide=noting), [add("a", 1) for _ in range(3 * ITEMS_PER_YIELD)])
    going.cancel()
    assert sorted(Counter(decided_at).values()) == [ITEMS_PER_YIELD] * 3


async def test_of_two_large_batches_one_is_decided_before_the_other_while_a_small_one_waits_for_neither(
    pool: Pool,
) -> None:
    decided: list[str] = []
    has_begun = asyncio.Event()

    def noting(state: Tally, command: Add, around: None) -> Sequence[Fact]:
        decided.append(state.key)
        has_begun.set()
        return decide(state, command, around)

    async def tell_of(key: str, count: int) -> None:
        async with pool.acquire() as db, db.transaction():
            await apply(db, replace(FLOW, decide=noting), [add(key, 1) for _ in range(count)])

    large = 40 * ITEMS_PER_YIELD
    both = [asyncio.create_task(tell_of(key, large)) for key in ("a", "b")]
    await has_begun.wait()
    await tell_of("small", 1)
    await asyncio.gather(*both)
    assert decided[-1] != "small"
    order = [key for key in decided if key != "small"]
    assert order in (["a"] * large + ["b"] * large, ["b"] * large + ["a"] * large)


async def test_fifty_writers_of_one_new_key_lose_no_update(pool: Pool) -> None:
    await asyncio.gather(*(tell(pool, add("a", 1)) for _ in range(50)))
    assert (await tally(pool, "a")).total == 50
    sequences = [r[0] for r in await pool.fetch("SELECT sequence FROM events ORDER BY sequence")]
    assert sequences == list(range(1, 51))


async def test_writers_of_many_keys_in_opposite_order_do_not_deadlock(pool: Pool) -> None:
    keys = [f"k{i}" for i in range(30)]
    batches = [[add(k, 1) for k in (keys if i % 2 else reversed(keys))] for i in range(12)]
    await asyncio.gather(*(tell(pool, *batch) for batch in batches))
    assert {(await tally(pool, k)).total for k in keys} == {12}


async def test_a_crash_before_the_commit_leaves_no_trace(pool: Pool) -> None:
    once = add("a", 1)
    with pytest.raises(ConnectionResetError):
        async with pool.acquire() as db, db.transaction():
            await apply(db, FLOW, [once])
            raise ConnectionResetError
    assert await pool.fetchval("SELECT (SELECT count(*) FROM inbox) + (SELECT count(*) FROM events)") == 0
    await tell(pool, once)
    assert (await tally(pool, "a")).total == 1


async def test_a_message_that_cannot_be_decided_is_parked_and_its_successors_wait_behind_it(
    pool: Pool, consumer: Consumer
) -> None:
    await consumer.process([record("a", 1, 0), record("a", 13, 1), record("b", 1, 2), record("a", 2, 3)])
    await consumer.process([record("a", 3, 4), record("b", 2, 5)])
    assert (await tally(pool, "a")).total == 1
    assert (await tally(pool, "b")).total == 3
    async with pool.acquire() as db:
        parked = await waiting(db)
    assert [(w.record.position, w.reason) for w in parked] == [(1, "not_allowed"), (3, "behind"), (4, "behind")]


@pytest.mark.parametrize(
    ("name", "poison", "reason"),
    [
        ("not JSON", raw(b"a", b"{nope", 1), "bad_data"),
        ("not UTF-8", raw(b"a", b"\xff\xfe", 1), "bad_data"),
        ("empty", raw(b"a", b"", 1), "empty"),
        ("null", raw(b"a", None, 1), "empty"),
        ("a header that is null", raw(b"a", b"{}", 1, headers={"ce_time": None}), "bad_header"),
        ("a header that is not UTF-8", raw(b"a", b"{}", 1, headers={"ce_source": b"\xff"}), "bad_header"),
        ("no id", raw(b"a", b"{}", 1, headers={"ce_id": b""}), "bad_header"),
        ("an unknown type", raw(b"a", b"{}", 1, headers={"ce_type": b"order.exploded"}), "unknown_type"),
        (
            "an unknown version",
            raw(b"a", b"{}", 1, headers={"ce_dataschema": b"urn:order-workflows:order.hold_placed:9"}),
            "unknown_version",
        ),
        ("a field missing", raw(b"a", b'{"order_id": "a"}', 1), "bad_data"),
        ("ten thousand deep", raw(b"a", b"[" * 10_000 + b"]" * 10_000, 1), "too_deep"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_poison_parks_itself_and_its_keys_successors_only(
    pool: Pool, consumer: Consumer, name: str, poison: object, reason: str
) -> None:
    await consumer.process([record("a", 1, 0), poison, record("a", 2, 2), record("b", 7, 3, partition=1)])  # type: ignore[list-item]
    assert (await tally(pool, "a")).total == 1
    assert (await tally(pool, "b")).total == 7
    async with pool.acquire() as db:
        assert [w.reason for w in await waiting(db)] == [reason, "behind"]


@pytest.mark.parametrize(
    "key",
    [b"k" * 201, bytes(random.Random(7).choices(range(32, 127), k=9000)), b"a\x01b\x7f", b"\xff\x00\xfe" * 90],
    ids=["long", "longer than an index takes", "control characters", "not UTF-8"],
)
async def test_a_key_that_no_key_of_ours_looks_like_is_parked_and_can_be_redriven(
    pool: Pool, consumer: Consumer, key: bytes
) -> None:
    other = key[:-1] + b"y"
    await consumer.process([raw(key, b"{", 0), record("b", 1, 1), raw(key, b"{}", 2), raw(other, b"{", 3)])
    assert (await tally(pool, "b")).total == 1
    async with pool.acquire() as db:
        first, second = sorted(await waiting_keys(db, None, "", 10), key=lambda each: each.messages)[::-1]
    assert (first.messages, second.messages) == (2, 1)
    asked = Redrive(key=first.key)
    assert await consumer.redrive(asked.key, "operator:op") == (0, 2)
    assert (await waiting_in(pool, first.key))[0].record.key == key


async def test_a_redrive_tells_a_keys_messages_again_in_order(
    pool: Pool, consumer: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(state: Tally, command: Add, _: None) -> list[Fact]:
        raise NotAllowed("closed", "add")

    order: list[int] = []

    def accept(state: Tally, command: Add, _: None) -> list[Fact]:
        order.append(command.amount)
        if command.amount == 3:
            raise NotAllowed("full", "add")
        return [OrderHoldPlaced(order_id=state.key, hold="manual", detail=f"{command.amount} ")]

    current = refuse
    flow = FLOW.__class__(
        service="orders", state=FLOW.state, initial=Tally, decide=lambda s, c, x: current(s, c, x), evolve=FLOW.evolve
    )
    consumer._process = Router([Route(flow, {OrderHoldPlaced: translate})]).process
    await consumer.process([record("a", n, n) for n in (1, 2, 3, 4)])
    assert await pool.fetchval("SELECT count(*) FROM parked WHERE status = 'open'") == 4
    current = accept
    assert await consumer.redrive("a", "operator:op") == (2, 2)
    assert order == [1, 2, 3]
    assert (await tally(pool, "a")).total == 3
    async with pool.acquire() as db:
        assert [(w.record.position, w.reason) for w in await waiting(db, "a")] == [(3, "not_allowed"), (4, "behind")]
    settled = await pool.fetch("SELECT settled_by FROM parked WHERE status = 'redriven'")
    assert [row[0] for row in settled] == ["operator:op", "operator:op"]


async def test_a_law_of_the_database_that_one_key_breaks_does_not_hold_the_others(
    pool: Pool, consumer: Consumer
) -> None:
    await pool.execute("ALTER TABLE states ADD CONSTRAINT small CHECK (key <> 'k3' OR sequence = 0)")
    await consumer.process([record(f"k{n}", 1, n) for n in range(8)])
    totals = {f"k{n}": (await tally(pool, f"k{n}")).total for n in range(8)}
    assert totals == {f"k{n}": 0 if n == 3 else 1 for n in range(8)}
    async with pool.acquire() as db:
        assert [(w.key, w.reason) for w in await waiting(db)] == [("k3", "breaks_a_law")]


def large_batch() -> list[Record]:
    """Of forty keys, ten messages each, in turns."""
    return [record(f"k{n % 40}", 1 + n // 40, n) for n in range(400)]


async def test_a_large_batch_is_committed_by_keys_in_two_transactions_each_key_in_order(
    pool: Pool, consumer: Consumer
) -> None:
    poisoned = [raw(b"k7", b"{", r.position) if r.position == 127 else r for r in large_batch()]
    await consumer.process(poisoned)
    rows = await pool.fetch("SELECT subject, data ->> 'detail' AS detail FROM events ORDER BY subject, sequence")
    told = {key: [int(row["detail"]) for row in rows if row["subject"] == key] for key in {r["subject"] for r in rows}}
    assert told == {f"k{n}": list(range(1, 4 if n == 7 else 11)) for n in range(40)}
    assert [w.reason for w in await waiting_in(pool, "k7")] == ["bad_data"] + 6 * ["behind"]
    assert await pool.fetchval("SELECT count(DISTINCT xmin::text) FROM events") == 2
    assert await pool.fetchval("SELECT next FROM positions") == 400


async def test_where_an_outage_stops_one_of_the_two_nothing_counts_as_read_and_what_comes_again_has_one_effect(
    pool: Pool, consumer: Consumer
) -> None:
    process, batch = consumer._process, large_batch()

    async def meet_an_outage(db: Db, records: Sequence[Record]) -> list[Parked]:
        parked = await process(db, records)
        if any(r.key == b"k8" for r in records):
            raise ConnectionResetError
        return parked

    consumer._process = meet_an_outage
    with pytest.raises(ConnectionResetError):
        await consumer.process(batch)
    assert (await tally(pool, "k8")).total == 0
    assert await pool.fetchval("SELECT count(*) FROM events") > 0
    assert await pool.fetchval("SELECT count(*) FROM positions") == 0
    consumer._process = process
    await consumer.process(batch)
    assert {(await tally(pool, f"k{n}")).total for n in range(40)} == {55}
    assert await pool.fetchval("SELECT next FROM positions") == 400


async def test_a_redrive_that_breaks_a_law_again_tells_what_is_before_it_and_no_more(
    pool: Pool, consumer: Consumer
) -> None:
    process = consumer._process

    async def refuse(db: Db, records: Sequence[Record]) -> list[Parked]:
        return [Parked(r, "a", "not_allowed", "not yet") for r in records]

    consumer._process = refuse
    await consumer.process([record("a", n, n) for n in (1, 2, 3, 4, 5)])
    consumer._process = process
    await pool.execute("ALTER TABLE events ADD CONSTRAINT three CHECK (sequence <> 3)")
    assert await consumer.redrive("a", "operator:op") == (2, 3)
    assert (await tally(pool, "a")).total == 3
    async with pool.acquire() as db:
        queue = await waiting(db, "a")
    assert queue[0].reason == "breaks_a_law"
    assert [w.record.position for w in queue] == [3, 4, 5]
    await pool.execute("ALTER TABLE events DROP CONSTRAINT three")
    assert await consumer.redrive("a", "operator:op") == (3, 0)
    assert (await tally(pool, "a")).total == 15


async def test_a_partners_ids_are_its_own(pool: Pool) -> None:
    same = str(uuid4())
    ids = [raw(b"a", b"{}", 0, id=same, headers={"ce_source": source}).headers for source in (b"wms-1", b"wms-2")]
    from shared.messaging.envelope import context_of

    first, second = (context_of(b"a", headers).message_id for headers in ids)
    assert first != second
    assert cause().id != cause().id
