"""A new generation of the view beside the live one: killed and resumed, told facts meanwhile, compared, swapped, rolled back."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import asyncpg
import pytest

from ops.rebuild import counted
from shared.contracts.fulfillment import StockReceived
from support_view.handlers import process
from support_view.rebuild import HORIZON, Rebuild, Refused
from tests.telling import Telling, record_of, split_order, whole_story

NewDatabase = Callable[[str], Awaitable[str]]
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"
Rebuilding = Callable[..., Awaitable[Rebuild]]
DERIVED = (
    "SELECT * FROM sections ORDER BY subject, service",
    "SELECT * FROM finds ORDER BY kind, value, subject",
    "SELECT * FROM measured ORDER BY subject, service, measure, id",
)


@pytest.fixture
async def dsn(new_database: NewDatabase) -> str:
    return await new_database("support_view")


@pytest.fixture
async def pool(dsn: str) -> AsyncIterator[Pool]:
    async with asyncpg.create_pool(dsn, min_size=0) as made:
        yield made


@pytest.fixture
async def rebuilding(dsn: str) -> AsyncIterator[Rebuilding]:
    """Each on a connection of its own, which can be cut."""
    opened = []

    async def one(**more: Any) -> Rebuild:
        db = await asyncpg.connect(dsn)
        opened.append(db)
        return Rebuild(db, **more)

    yield one
    for db in opened:
        await db.close()


async def tell(pool: Pool, *stories: Telling, shuffled: bool = False) -> None:
    records = [record_of(entry) for story in stories for entry in story.entries]
    if shuffled:
        random.Random(7).shuffle(records)
    async with pool.acquire() as db, db.transaction():
        assert await process(db, records) == []


async def rows(pool: Pool) -> list[list[Any]]:
    return [[tuple(row) for row in await pool.fetch(query)] for query in DERIVED]


class Killed(Exception):
    pass


async def test_a_new_generation_is_the_live_one_again_and_takes_its_place(pool: Pool, rebuilding: Rebuilding) -> None:
    shelf = Telling("stock:SKU-lamp@BER")
    shelf.tell(StockReceived(sku="SKU-lamp", location="BER", quantity=5, receipt_id="rcp-1"))
    await tell(pool, whole_story("ORD-1"), split_order("ORD-2"), shelf, shuffled=True)
    before = await rows(pool)
    rebuild = await rebuilding(chunk=3)
    parity = await rebuild.build()
    assert parity.holds and parity.sections == 10
    with pytest.raises(Refused, match="another process"):
        await (await rebuilding()).swap()
    await rebuild.swap()
    assert await rows(pool) == before


async def test_killed_at_any_point_and_resumed_it_ends_in_parity(pool: Pool, dsn: str, rebuilding: Rebuilding) -> None:
    await tell(pool, *(split_order(f"ORD-{n}") for n in range(6)))
    there = await pool.fetchval("SELECT count(*) FROM sections")
    assert await counted(dsn) == (there, 0)
    for at in range(1, 8):
        steps = 0

        def die(_: str, __: int, at: int = at) -> None:
            nonlocal steps
            steps += 1
            if steps == at:
                raise Killed

        doomed = await rebuilding(chunk=3, report=die)
        with pytest.raises(Killed):
            await doomed.build()
        await doomed.db.close()
        if at == 1:
            assert await counted(dsn) == (there, 3), "what goes on shows where it was"
        await tell(pool, split_order(f"MORE-{at}"))
    resumed = await rebuilding(chunk=3)
    assert (await resumed.build()).holds
    await resumed.swap()
    assert await pool.fetchval("SELECT count(DISTINCT subject) FROM sections") == 13


async def test_what_is_seen_meanwhile_is_in_both_generations_and_consumers_go_on_through_the_swap(
    pool: Pool, rebuilding: Rebuilding
) -> None:
    await tell(pool, *(split_order(f"ORD-{n}") for n in range(5)))
    is_over = False
    told = 0
    more_told = asyncio.Condition()

    async def consumer(name: str) -> None:
        nonlocal told
        while not is_over:
            await tell(pool, split_order(f"{name}-{told}"))
            async with more_told:
                told += 1
                more_told.notify_all()

    async def ten_more() -> None:
        enough = told + 10
        async with more_told:
            await more_told.wait_for(lambda: told >= enough)

    consumers = [asyncio.create_task(consumer(name)) for name in ("A", "B")]
    rebuild = await rebuilding()
    assert (await rebuild.build()).holds
    await rebuild.swap()
    await ten_more()
    await rebuild.roll_back()
    await ten_more()
    is_over = True
    await asyncio.gather(*consumers)
    assert (await rebuild.build()).holds, "nothing was lost on the way there and back"
    assert await pool.fetchval("SELECT count(DISTINCT subject) FROM sections") == 5 + told


@pytest.mark.parametrize(("who", "holds_it"), [("client backend", True), ("autovacuum worker", False)])
async def test_only_who_may_tell_facts_holds_back_until_when_all_were_seen(
    pool: Pool, who: str, holds_it: bool
) -> None:
    async with pool.acquire() as db:
        await db.execute(f"""
            CREATE SCHEMA pretended;
            CREATE VIEW pretended.pg_stat_activity AS
            SELECT current_database() AS datname, 0 AS pid, now() - interval '1 hour' AS xact_start, '{who}' AS backend_type;
            SET search_path = pretended, pg_catalog, public""")
        old = await db.fetchval(f"SELECT ({HORIZON}) < now() - interval '59 minutes'")
    assert old == holds_it


async def test_a_live_section_that_its_facts_do_not_give_is_found_and_healed_by_the_swap(
    pool: Pool, rebuilding: Rebuilding
) -> None:
    await tell(pool, split_order("ORD-1"), whole_story("ORD-2"))
    right = await rows(pool)
    await pool.execute("UPDATE sections SET state = '{}' WHERE subject = 'ORD-1' AND service = 'payments'")
    await pool.execute("DELETE FROM finds WHERE kind = 'email' AND subject = 'ORD-2'")
    await pool.execute("UPDATE measured SET ended_at = NULL WHERE measure = 'refund'")
    rebuild = await rebuilding()
    parity = await rebuild.build()
    assert not parity.holds
    assert parity.differing == (("ORD-1", "payments"),)
    assert (parity.differing_finds, parity.differing_measured) == (1, 1)
    assert parity.live_hash != parity.new_hash
    await rebuild.swap()
    assert await rows(pool) == right
    with pytest.raises(Refused, match="still kept"):
        await rebuild.build()
    await rebuild.discard()
    assert (await rebuild.build()).holds


async def test_there_is_nothing_to_swap_or_to_go_back_to_before_a_rebuild(rebuilding: Rebuilding) -> None:
    rebuild = await rebuilding()
    with pytest.raises(Refused, match="rebuild first"):
        await rebuild.swap()
    with pytest.raises(Refused, match="no previous"):
        await rebuild.roll_back()
