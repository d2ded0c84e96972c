"""After an upgrade a state has a field that older rows lack: it is folded from the journal, never given its default."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any, TypeVar

import asyncpg
import pytest
from pydantic import TypeAdapter
from structlog.testing import capture_logs

from shared.contracts.base import Fact
from shared.messaging.database import Pool
from shared.messaging.refold import PAGE, Refold
from shared.messaging.shell import Flow, Message, apply, read
from tests.integration.tally import FLOW, Add, Tally, add, decide, evolve

T = TypeVar("T", bound=Tally)

REVIEW = datetime(2030, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True, slots=True)
class CountedTally(Tally):
    """The state of the next version: it counts, and has to be reviewed once something was counted."""

    count: int = 0


def counting(state: CountedTally, fact: Fact) -> CountedTally:
    grown = evolve(state, fact)
    assert isinstance(grown, CountedTally)
    return replace(grown, count=state.count + 1)


def reviews(state: CountedTally) -> Mapping[str, datetime]:
    return {"review": REVIEW} if state.count else {}


def next_version() -> Flow[CountedTally, Add, None]:
    """A new process of the next version, which remembers nothing."""
    return Flow(
        service="orders",
        state=TypeAdapter(CountedTally),
        initial=CountedTally,
        decide=decide,
        evolve=counting,
        deadlines=reviews,
    )


@pytest.fixture
async def pool(new_database: Callable[[str], Awaitable[str]]) -> AsyncIterator[Pool]:
    pool = await asyncpg.create_pool(await new_database("tests.integration.plumbing"), min_size=0, max_size=4)
    yield pool
    await pool.close()


async def tell(pool: Pool, flow: Flow[T, Add, None], *told: Message[Add]) -> None:
    async with pool.acquire() as db, db.transaction():
        outcomes, _ = await apply(db, flow, told)
    assert [o.error for o in outcomes] == [None] * len(told)


async def count_of(pool: Pool, key: str) -> int:
    """As the row says it, without folding."""
    text = await pool.fetchval("SELECT state FROM states WHERE key = $1", key)
    return TypeAdapter(CountedTally).validate_json(text).count


async def folded_anew(pool: Pool, flow: Flow[CountedTally, Add, None]) -> list[Any]:
    """What the log says of it."""
    with capture_logs() as said:
        await asyncio.wait_for(Refold(pool, [flow]).run(asyncio.Event()), 30)
    return [*said]


async def test_a_command_decides_on_the_folded_state_of_an_older_row(pool: Pool) -> None:
    await tell(pool, FLOW, add("a", 1), add("a", 2))
    await tell(pool, next_version(), add("a", 3))
    assert await count_of(pool, "a") == 3
    assert await pool.fetchval("SELECT due_at FROM deadlines WHERE key = 'a'") == REVIEW


async def test_a_reader_sees_the_folded_state_of_an_older_row(pool: Pool) -> None:
    await tell(pool, FLOW, add("a", 1), add("a", 2))
    async with pool.acquire() as db:
        assert (await read(db, next_version(), ["a", "b"]))["a"].count == 2


async def test_rows_that_nobody_touches_are_folded_when_the_next_version_starts_and_get_their_deadlines(
    pool: Pool,
) -> None:
    keys = [f"o{n}" for n in range(PAGE + 20)]
    await tell(pool, FLOW, *(add(key, 1) for key in keys))
    flow = next_version()
    said = await folded_anew(pool, flow)
    assert [(each["event"], each["states"]) for each in said] == [("states.folded_anew", len(keys))]
    assert {await count_of(pool, key) for key in keys} == {1}
    assert await pool.fetchval("SELECT count(*) FROM deadlines WHERE due_at = $1", REVIEW) == len(keys)
    assert await folded_anew(pool, next_version()) == []


async def test_an_older_image_that_runs_beside_the_next_one_leaves_no_gap(pool: Pool) -> None:
    await tell(pool, next_version(), add("a", 1))
    await tell(pool, FLOW, add("a", 2))
    assert await count_of(pool, "a") == 0
    await tell(pool, next_version(), add("a", 3))
    assert await count_of(pool, "a") == 3
    # One from before there were shapes does not touch the columns.
    await pool.execute("UPDATE states SET state = (state::jsonb - 'count')::json, shaped_at = sequence - 1")
    await tell(pool, next_version(), add("a", 4))
    assert await count_of(pool, "a") == 4


async def test_a_row_that_cannot_be_folded_holds_up_no_other_and_is_said(pool: Pool) -> None:
    await tell(pool, FLOW, add("bad", 1), add("good", 1), add("newer", 1), add("better", 1))
    async with pool.acquire() as db, db.transaction():
        await db.execute("ALTER TABLE events DISABLE TRIGGER append_only")
        await db.execute("UPDATE events SET type = 'order.of_the_future' WHERE subject = 'newer'")
        await db.execute("""UPDATE events SET data = (data::jsonb - 'detail')::json WHERE subject = 'bad'""")
        await db.execute("ALTER TABLE events ENABLE TRIGGER append_only")
    said = await folded_anew(pool, next_version())
    assert {each["key"] for each in said if each["event"] == "state.not_folded"} == {"bad", "newer"}
    assert [each["failed"] for each in said if each["event"] == "states.folded_anew"] == [2]
    assert [await count_of(pool, key) for key in ("good", "better", "bad", "newer")] == [1, 1, 0, 0]


async def test_a_row_whose_key_no_flow_has_holds_up_no_other(pool: Pool) -> None:
    await tell(pool, FLOW, add("a", 1), add("moon:1", 1))
    said = await folded_anew(pool, next_version())
    assert [each["key"] for each in said if each["event"] == "state.not_folded"] == ["moon:1"]
    assert await count_of(pool, "a") == 1


async def test_a_locked_row_does_not_stop_the_others(pool: Pool) -> None:
    await tell(pool, FLOW, add("held", 1), add("free", 1))
    async with pool.acquire() as other, other.transaction():
        await other.execute("SELECT FROM states WHERE key = 'held' FOR UPDATE")
        await folded_anew(pool, next_version())
        assert await count_of(pool, "free") == 1
    await tell(pool, next_version(), add("held", 1))
    assert await count_of(pool, "held") == 2


def test_prose_changes_no_shape_and_a_field_does() -> None:
    assert FLOW.shape == replace(FLOW).shape != next_version().shape
