"""Figures on a real PostgreSQL: the same to the digit as the oracle has them from the journals, and their scenarios."""

import csv
import io
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Final, TypeAlias
from uuid import NAMESPACE_OID, uuid5

import asyncpg
import httpx
import pytest

from shared.auth import issue
from shared.contracts.payments import RefundLegReversed, RefundLegSucceeded, RefundRequested
from shared.runtime import build
from support_view import store
from support_view.app import router
from support_view.domain.timeline import Entry
from support_view.metrics.api import CountedRow, FigureView, asked, neutral, read_figure, read_rows
from support_view.metrics.definitions import FIGURES
from support_view.metrics.store import By
from tests.backends import Backends
from tests.databases import AUTH_KEY
from tests.oracle import FIGURES as ORACLE
from tests.oracle import Oracle
from tests.properties.test_system import KINDS, begin
from tests.properties.world import NOON, World
from tests.telling import START, Telling, whole_story

NewDatabase = Callable[[str], Awaitable[str]]
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"


@pytest.fixture
async def dsn(new_database: NewDatabase) -> str:
    return await new_database("support_view")


@pytest.fixture
async def pool(dsn: str) -> AsyncIterator[Pool]:
    async with asyncpg.create_pool(dsn, min_size=0, max_size=4) as pool:
        yield pool


@pytest.fixture
async def oracle(dsn: str) -> AsyncIterator[Oracle]:
    db = await asyncpg.connect(dsn)
    made = Oracle(db)
    await made.begin()
    yield made
    await db.close()


@pytest.fixture
async def client(backends: Backends, dsn: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[httpx.AsyncClient]:
    monkeypatch.setenv("OMS_DATABASE_URL", dsn)
    monkeypatch.setenv("OMS_KAFKA", backends.kafka)
    monkeypatch.setenv("OMS_AUTH_KEY", AUTH_KEY)
    app = build("support-view", router=router, publishes=False)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(app.router.lifespan_context(app))
        transport = httpx.ASGITransport(app)
        yield await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://view.test"))


def bearer(role: str = "supervisor") -> dict[str, str]:
    return {"Authorization": f"Bearer {issue(AUTH_KEY, subject='sue', roles=[role])}"}


async def tell(pool: Pool, entries: Sequence[Entry], *, size: int = 500) -> None:
    """In batches, as the consumer takes them."""
    for start in range(0, len(entries), size):
        told = [store.Told(entry, entry.fact.model_dump_json()) for entry in entries[start : start + size]]
        async with pool.acquire() as db, db.transaction():
            await store.add(db, told)


async def see(
    pool: Pool, key: str, start: datetime, end: datetime, *, by: By = "day", dimension: str | None = None
) -> FigureView:
    async with pool.acquire() as db:
        return await read_figure(db, FIGURES[key], asked(start.date(), end.date(), end), by, dimension)


async def behind(pool: Pool, key: str, start: datetime, end: datetime, which: str) -> Sequence[CountedRow]:
    async with pool.acquire() as db:
        days = asked(start.date(), end.date(), end)
        return (await read_rows(db, FIGURES[key], days, which, None, None, None, 1000)).rows  # type: ignore[arg-type]


async def agree(pool: Pool, oracle: Oracle, start: datetime, end: datetime) -> None:
    """Every figure, by day and week, by every dimension, with what is open and what is left out."""
    since = datetime.combine(start.date(), datetime.min.time(), timezone.utc)
    for key, dimension in ORACLE:
        for by in ("day", "week"):
            view = await see(pool, key, start, end, by=by, dimension=dimension)
            periods = {
                datetime.combine(p.starts_on, datetime.min.time(), timezone.utc): (
                    p.count,
                    p.p50_seconds,
                    p.p90_seconds,
                )
                for p in view.periods
                if p.count
            }
            assert periods == await oracle.took(key, None, since, end, by=by), (key, by)
        whole = {None: (view.total.count, view.total.p50_seconds, view.total.p90_seconds)} if view.total.count else {}
        assert whole == await oracle.took(key, None, since, end), key
        if dimension:
            groups = {g.value: (g.count, g.p50_seconds, g.p90_seconds) for g in view.groups}
            assert groups == await oracle.took(key, dimension, since, end), (key, dimension)
        else:
            assert view.coverage.left_out == await oracle.left_out(key, since, end), key
        async with pool.acquire() as db:
            days = asked(start.date(), end.date(), end)
            rows = await read_rows(db, FIGURES[key], days, "open", dimension, None, None, 100_000)
        ages = await oracle.still_open(key, dimension, end)
        assert sorted((row.order_id, row.id, row.seconds) for row in rows.rows) == sorted(ages), (key, dimension)


def journals_of(world: World, name: str) -> list[Entry]:
    """What the four services told of the world's orders, under names of its own."""
    return [
        Entry(
            id=str(uuid5(NAMESPACE_OID, f"{name} {entry.cause.id}")),
            service=service,
            subject=f"{name}-{key}",
            sequence=sequence,
            fact=entry.fact.model_copy(update={"order_id": f"{name}-{key}"}),
            occurred_at=entry.cause.at,
            actor=entry.cause.actor,
            reason=entry.cause.reason,
            correlation_id=entry.cause.correlation_id,
        )
        for (service, key), written in world.journal.items()
        if key in world.orders
        for sequence, entry in enumerate(written, 1)
    ]


LIVELY: Final = (
    "ask return",
    "decide return",
    "receive",
    "inspect",
    "revise",
    "ask processor",
    "let flow",
    "scan",
    "bounce",
)
"""Steps that figures count are taken more often than others."""


def some_world(chance: random.Random) -> World:
    world = World(now=NOON + timedelta(days=chance.randint(0, 20), minutes=chance.randint(0, 900)))
    begin(world, chance.randint(0, 26), chance.choice((3, 5, 6, 7, 7)))
    kinds = [kind for kind, (weight, _) in KINDS.items() for _ in range(weight)] + [*LIVELY] * 6
    for _ in range(chance.randint(20, 120)):
        world.now += timedelta(minutes=chance.randint(1, 300))
        KINDS[chance.choice(kinds)][1](world, chance.randint(0, 15), chance.randint(0, 15))
    if chance.random() < 0.5:
        world.come_to_rest()
    return world


async def test_every_figure_agrees_to_the_digit_with_the_journals_whatever_happened(pool: Pool, oracle: Oracle) -> None:
    chance = random.Random(5)
    entries = [entry for n in range(80) for entry in journals_of(some_world(chance), f"W{n}")]
    await oracle.write(entries)
    chance.shuffle(entries)
    await tell(pool, entries)
    for days in (30, 60, 120):
        await agree(pool, oracle, NOON, NOON + timedelta(days=days))
    for measure in {measure for f in FIGURES.values() for measure in (f.measure, *f.dimensions.values())}:
        some = "SELECT count(ended_at) > 20 AND count(*) > count(ended_at) FROM measured WHERE measure = $1"
        assert await pool.fetchval(some, measure), f"nothing much was asked of {measure}"


def in_two_minds(order_id: str) -> tuple[Telling, Telling]:
    """A return that is resolved, and one that is not."""
    done, begun = whole_story(f"{order_id}-1"), whole_story(f"{order_id}-2")
    begun.entries = [e for e in begun.entries if e.fact.type not in ("refund.completed", "return.resolved")]
    return done, begun


async def test_returns_still_open_at_the_end_of_the_period_are_in_the_table_of_ages(pool: Pool) -> None:
    done, begun = in_two_minds("ORD")
    await tell(pool, done.entries + begun.entries)
    requested_at = next(e.occurred_at for e in begun.entries if e.fact.type == "return.requested")
    end = requested_at + timedelta(days=10)
    view = await see(pool, "return-cycle-time", START, end)
    assert (view.total.count, view.coverage.open) == (1, 1)
    assert [(age.from_days, age.count, age.oldest_seconds) for age in view.ages if age.count] == [(7, 1, 864_000.0)]
    (row,) = await behind(pool, "return-cycle-time", START, end, "open")
    assert (row.order_id, row.seconds) == ("ORD-2", 864_000.0)
    assert row.facts[0].type == "return.requested"
    early = await see(pool, "return-cycle-time", START, requested_at + timedelta(days=1))
    assert (early.total.count, early.coverage.open) == (0, 2), "what is over by now was open then"


async def test_clocks_minutes_apart_make_no_negative_time_and_the_coverage_says_so(pool: Pool) -> None:
    story = whole_story("ORD-1")
    trigger = next(e.fact.trigger_at for e in story.entries if isinstance(e.fact, RefundRequested))
    early = {"return.approved": START, "refund.leg_succeeded": trigger - timedelta(minutes=5)}
    await tell(pool, [replace(e, occurred_at=early.get(e.fact.type, e.occurred_at)) for e in story.entries])
    end = story.now + timedelta(days=1)
    view = await see(pool, "return-cycle-time", START, end, dimension="stage")
    assert next((g.count, g.p50_seconds, g.p90_seconds) for g in view.groups if g.value == "decided") == (1, 0.0, 0.0)
    view = await see(pool, "refund-latency", START, end)
    assert (view.total.count, view.total.p50_seconds, view.coverage.before_begun) == (1, 0.0, 1)


def reversal(story: Telling) -> None:
    """Days later the card's payout bounces."""
    paid = next(e.fact for e in reversed(story.entries) if isinstance(e.fact, RefundLegSucceeded))
    story.later(days=3)
    story.tell(RefundLegReversed(**paid.model_dump(exclude={"reference"}), code="account_closed"))


async def test_a_reversal_reopens_the_clock_from_its_trigger_on(pool: Pool) -> None:
    story = whole_story("ORD-1")
    await tell(pool, story.entries)
    end = story.now + timedelta(days=10)
    before = await see(pool, "refund-latency", START, end, dimension="channel")
    assert (before.total.count, before.coverage.open, before.total.p50_seconds) == (1, 0, 270.0)
    assert [(g.value, g.count) for g in before.groups] == [("card", 1), ("gift_card", 1)]

    told = len(story.entries)
    reversal(story)
    await tell(pool, story.entries[told:])
    after = await see(pool, "refund-latency", START, end, dimension="channel")
    assert (after.total.count, after.coverage.open) == (0, 1)
    assert [(g.value, g.count) for g in after.groups] == [("gift_card", 1)]
    (row,) = await behind(pool, "refund-latency", START, end, "open")
    assert row.facts[-1].type == "refund.leg_reversed"


async def test_a_refund_without_a_known_outcome_is_open(pool: Pool) -> None:
    story = whole_story("ORD-1")
    unknown = next(n for n, e in enumerate(story.entries) if e.fact.type == "payment.operation_unknown")
    await tell(pool, story.entries[: unknown + 1])
    view = await see(pool, "refund-latency", START, story.now + timedelta(hours=1), dimension="channel")
    assert (view.total.count, view.coverage.open) == (0, 1)
    assert [(g.value, g.count) for g in view.groups] == [("gift_card", 1)]
    (row,) = await behind(pool, "refund-latency", START, story.now + timedelta(hours=1), "open")
    assert row.facts[-1].type == "payment.operation_unknown"


async def test_a_figure_is_read_split_drilled_into_page_by_page_and_taken_along(
    client: httpx.AsyncClient, pool: Pool
) -> None:
    stories = [whole_story(f"ORD-{n}") for n in range(5)]
    await tell(pool, [entry for story in stories for entry in story.entries])
    days = {"from": START.date().isoformat(), "to": (START + timedelta(days=60)).date().isoformat()}

    async def get(path: str, **query: str | int) -> httpx.Response:
        return await client.get(f"/api/figures{path}", params={**days, **query}, headers=bearer())

    known = (await get("")).json()["figures"]
    assert {f["key"]: f["version"] for f in known} == {f.key: f.version for f in FIGURES.values()}
    view = (await get("/return-cycle-time", by="week", dimension="policy")).json()
    assert view["definition"]["version"] == FIGURES["return-cycle-time"].version
    assert [(g["value"], g["count"]) for g in view["groups"]] == [("standard v1", 5)]
    assert sum(period["count"] for period in view["periods"]) == view["total"]["count"] == 5

    ids: list[str] = []
    after: dict[str, str] = {}
    while True:
        page = (await get("/return-cycle-time/rows", dimension="reason", value="unwanted", limit=2, **after)).json()
        ids += [fact["id"] for row in page["rows"] for fact in row["facts"]]
        if page["next"] is None:
            break
        after = {"after": page["next"]}
    told = [
        e.id
        for story in stories
        for e in story.entries
        if getattr(e.fact, "return_id", None) and e.service == "returns"
    ]
    assert sorted(ids) == sorted(told), "every fact of every return, once"

    table = await get("/return-cycle-time.csv", by="week")
    assert table.headers["content-type"].startswith("text/csv") and "attachment" in table.headers["content-disposition"]
    read = list(csv.DictReader(io.StringIO(table.text)))
    assert [int(line["count"]) for line in read] == [period["count"] for period in view["periods"]]
    lines = list(csv.DictReader(io.StringIO((await get("/refund-latency/rows.csv")).text)))
    assert {line["order_id"] for line in lines} == {story.order_id for story in stories}


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n"])
def test_no_cell_is_taken_for_a_formula(start: str) -> None:
    assert neutral(f"{start}cmd|' /C calc'!A0") == f"'{start}cmd|' /C calc'!A0"
    assert neutral("ORD-1") == "ORD-1" and neutral(-1.5) == -1.5


async def test_only_supervisors_and_auditors_read_figures(client: httpx.AsyncClient) -> None:
    for path in (
        "",
        "/return-cycle-time",
        "/return-cycle-time.csv",
        "/refund-latency/rows",
        "/refund-latency/rows.csv",
    ):
        assert (await client.get(f"/api/figures{path}")).status_code == 401
        assert (await client.get(f"/api/figures{path}", headers=bearer("agent"))).status_code == 403
        for role in ("supervisor", "auditor"):
            assert (await client.get(f"/api/figures{path}", headers=bearer(role))).status_code == 200


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/refund-latency?from=9999-12-31", "from"),
        ("/refund-latency?from=2026-02-30", "from"),
        ("/refund-latency?from=2026-02-02&to=2026-01-01", "from"),
        ("/refund-latency?from=2020-01-01&to=2026-01-01", "from"),
        ("/refund-latency?by=year", "by"),
        ("/refund-latency?dimension=weather", "dimension"),
        ("/refund-latency/rows?limit=1000000", "limit"),
        ("/refund-latency/rows?which=all", "which"),
        ("/refund-latency/rows?value=card", "value"),
        ("/refund-latency/rows?after=x", "after"),
        ("/refund-latency/rows?after=2026-01-01~a~b", "after"),
        ("/refund-latency/rows?after=2026-01-01T00:00:00%2B00:00~a%00~b", "after"),
    ],
)
async def test_a_bad_question_names_the_field(client: httpx.AsyncClient, path: str, field: str) -> None:
    answer = await client.get(f"/api/figures{path}", headers=bearer())
    assert answer.status_code == 422
    assert field in answer.json()["errors"][0]["field"]
    assert (await client.get("/api/figures/no-such", headers=bearer())).status_code == 404
