"""The `oms` command: one place for operators to start the system, look into it and set it right."""

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final

import httpx
import structlog
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from ops.actors import StoryFailed
from ops.admin_client import AsJson, Unanswered, console, errors
from ops.control import NotScalable, ask_scale
from ops.databases import ensure_databases
from ops.dlq import app as dlq
from ops.endpoints import Endpoints, NotUp, live_endpoints, place, signing_key
from ops.keys import kept_keys
from ops.lag import lag
from ops.paths import state_folder
from ops.rebuild import rebuild
from ops.supervision import StartFailed, until_signalled
from ops.system import DECIDING, SERVICES, AlreadyUp, Given, bring_down, running_system
from ops.topics import TopicsWrong, ensure_topics
from ops.verify import Marks, Verification
from ops.withheld import app as withheld
from shared.messaging.database import OUTAGES
from shared.messaging.shell import freeze_gc
from shared.web.auth import Role, issue

FAILED: Final = 1
NOT_UP: Final = 3

_POLL_S: Final = 0.2
_TTL = re.compile(r"(\d+)([smhd])")
_TTL_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}

app = typer.Typer(
    name="oms",
    help="Run and operate Order Workflows: start it, end it, look into it, set it right.",
    epilog="Exit codes: 0 done, 1 a check failed, 2 wrong usage, 3 the system is not up or could not be started. "
    "State lives in var/ of the checkout, or where OMS_VAR says. OMS_KAFKA and OMS_POSTGRES_URL name a cluster "
    "to use instead of the embedded one; with them, OMS_AUTH_KEY and the services' URLs (OMS_ORDERS_URL, …) lag, dlq, "
    "withheld, verify and rebuild look into a system that runs elsewhere.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


@app.command()
def up(
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return when everything is ready.")] = False,
) -> None:
    """Start Kafka, PostgreSQL and every service, and keep them running until Ctrl-C or `oms down`.

    Whatever dies is started again. When all is ready, var/endpoints.json names every URL, topic, DSN and process.
    """
    var = state_folder()
    if detach:
        if _supervisor(var) is None:
            _up_detached(var)
        _show(live_endpoints(var))
        console.print("[dim]ends with[/] oms down")
        return

    async def run() -> None:
        screen = _Screen()
        async with contextlib.AsyncExitStack() as stack:
            with screen.starting():
                system = await stack.enter_async_context(running_system(var, auto_ports=False, report=screen))
            _show(system.endpoints)
            console.print("[dim]Ctrl-C ends it[/]")
            await asyncio.Event().wait()

    with _log_to(var / "log" / "oms.log"):
        _await(run())


@app.command()
def down() -> None:
    """End the running system and return when all of its processes are gone. Its state stays."""
    with console.status("stopping"):
        was_up = bring_down(state_folder())
    console.print("the system is down" if was_up else "nothing was up")


@app.command()
def scale(
    wanted: Annotated[
        list[str] | None, typer.Argument(metavar="SERVICE=N", help="How many replicas; left out: what there is.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Add or remove replicas of services, as in `oms scale support-view=3`; they last until `oms down`.

    Each has a port, a log and an instance name of its own, and is started again when it dies. More than a topic has
    partitions would have nothing to read, and are refused.
    """
    var = state_folder()
    try:
        endpoints = live_endpoints(var)
    except NotUp as error:
        raise NotUp(f"{error}; where something else runs it, replicas are its own to add, as in ops/k8s") from error
    if wanted:
        replicas = dict(map(_replicas, wanted))
        screen = _Screen(errors)
        with screen.starting():
            asyncio.run(ask_scale(endpoints.control, var, replicas, screen))
        endpoints = live_endpoints(var)
    if as_json:
        shown = {"url", "log", "process"}
        told = {
            name: {each: r.model_dump(mode="json", include=shown) for each, r in service.replicas(name).items()}
            for name, service in endpoints.services.items()
        }
        console.print_json(data={"services": told})
    else:
        _show(endpoints)


def _replicas(text: str) -> tuple[str, int]:
    name, _, count = text.partition("=")
    if not name or not count.isdecimal():
        raise typer.BadParameter("give a service and a number, as in support-view=3")
    return name, int(count)


@app.command()
def migrate() -> None:
    """Make every service's database where it is missing and bring it to the newest version. May be run any time."""

    async def run() -> None:
        var = state_folder()
        postgres = Given().postgres_url or live_endpoints(var).postgres
        packages = [service.package for service in SERVICES if service.has_database]
        screen = _Screen()
        with screen.starting():
            await ensure_databases(postgres, packages, auth_key=kept_keys(var).auth_key, report=screen)

    _await(run())


@app.command()
def topics() -> None:
    """Create the topics that are missing and list all. One with another number of partitions is an error."""

    async def run() -> None:
        found = await ensure_topics(Given().kafka or live_endpoints(state_folder()).kafka)
        table = Table("topic", "partitions", "")
        for topic in found:
            table.add_row(topic.name, str(topic.partitions), "created" if topic.is_new else "")
        console.print(table)

    _await(run())


def _ttl(text: str) -> timedelta:
    parts = _TTL.fullmatch(text)
    if parts is None or int(parts[1]) == 0:
        raise typer.BadParameter("give a number and s, m, h or d, as in 30m or 8h")
    return timedelta(**{_TTL_UNITS[parts[2]]: int(parts[1])})


@app.command()
def token(
    role: Annotated[list[Role], typer.Option(help="What the caller may do; give it several times for several roles.")],
    subject: Annotated[str, typer.Option(help="Who the caller is; stands as the actor in every fact.")],
    ttl: Annotated[timedelta, typer.Option(parser=_ttl, metavar="30m|8h|7d", help="How long it is valid.")] = "8h",  # type: ignore[assignment]
) -> None:
    """Print a bearer token for this system's services.

    Signed with OMS_AUTH_KEY, else with the key kept in var/secrets.json.
    """
    typer.echo(issue(kept_keys(state_folder()).auth_key, subject=subject, roles=role, ttl=ttl))


@app.command()
def demo(
    once: Annotated[bool, typer.Option("--once", help="End when the stories have ended; else stay up.")] = False,
) -> None:
    """Start everything and play every story; exit code 1 names the story and the step that failed."""
    # Here, since what the stories need takes as long to import as all the rest of this command.
    from ops.demo import demo as play_stories
    from ops.demo import footer

    var = state_folder()
    screen = _Screen()

    async def play(endpoints: Endpoints) -> None:
        await play_stories(endpoints, kept_keys(var).auth_key, console)
        console.print(footer(endpoints))

    async def run() -> None:
        async with contextlib.AsyncExitStack() as stack:
            if _supervisor(var) is not None:
                await play(live_endpoints(var))
                return
            with screen.starting():
                system = await stack.enter_async_context(running_system(var, auto_ports=False, report=screen))
            await play(system.endpoints)
            if not once:
                console.print("[dim]Ctrl-C ends it[/]")
                await asyncio.Event().wait()

    with _log_to(var / "log" / "oms.log"):
        _await(run())


@app.command()
def verify(
    full: Annotated[
        bool, typer.Option("--full", help="Everything, instead of what is new since the last run.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check what is promised on live data: folds, chains, laws, timeline, books; exit code 1 with what is wrong.

    The first run looks at everything, later ones at the aggregates with new facts, and at those that something was
    wrong with: fit to run every minute. What changed in old rows without a fact, what vanished, and what topics have that
    journals have not, only --full finds. The last line says what was not looked at. Marks are kept in var/verified.json.
    """
    var = state_folder()
    where = place(DECIDING, var)
    _ = where.kafka, where.database("orders"), where.url("payments")  # so that what is missing is said at once
    key = signing_key(where, var)
    freeze_gc()
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TextColumn("{task.completed:,}"), TimeElapsedColumn())
    with Progress(*columns, console=errors) as progress:
        tasks: dict[str, TaskID] = {}

        def report(what: str, number: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=None)
            progress.advance(tasks[what], number)

        before = Marks.read(var)
        looked = Verification(where, key, report, Marks() if full else before)
        try:
            asyncio.run(looked.run())
        except (*OUTAGES, httpx.HTTPError, TopicsWrong) as error:
            raise Unanswered(f"not everything could be looked at, see `oms lag`: {error!r}") from error
        looked.marks.write(var, before)
    counted, findings = looked.counted, looked.findings
    if as_json:
        told = {
            "everything": looked.is_of_all,
            "everything_at": looked.marks.all_at,
            "looked_at": asdict(counted),
            "not_looked_at": looked.not_looked_at,
            "findings": [asdict(f) for f in findings],
        }
        console.print_json(data=told, default=datetime.isoformat)
    else:
        table = Table("promise", "where", "what is wrong")
        for f in findings:
            table.add_row(*map(escape, (f.promise, f.where, f.what)))
        if findings:
            console.print(table)
        scope = "everything" if looked.is_of_all else "what is new"
        at = looked.marks.all_at.isoformat(timespec="seconds") if looked.marks.all_at else "never"
        console.print(
            f"{scope}: {counted.orders} orders, {counted.aggregates} aggregates, {counted.facts} facts, "
            f"{counted.in_timeline} of them found in the timeline and {counted.unpublished} not published yet, "
            f"{counted.published} on the topics, {counted.operations} operations compared with the processor: "
            + (f"[red]{len(findings)} wrong[/]" if findings else "[green]nothing wrong[/]")
            + f" [dim](everything: {at})[/]",
            highlight=False,
        )
        console.print(f"[dim]not looked at: {'; '.join(looked.not_looked_at)}[/]", highlight=False)
    raise typer.Exit(FAILED if findings else 0)


app.command()(lag)
app.command()(rebuild)
app.add_typer(dlq, name="dlq")
app.add_typer(withheld, name="withheld")


def main(words: Sequence[str] | None = None) -> None:
    """Every expected failure ends in one line that says what to do, and in its exit code. `words`: instead of those the
    process was started with."""
    try:
        app(words)
    except (NotUp, StartFailed, Unanswered) as error:
        _fail(error, NOT_UP)
    except (AlreadyUp, NotScalable, TopicsWrong, StoryFailed) as error:
        _fail(error, FAILED)


def _fail(error: Exception, code: int) -> None:
    errors.print(f"[red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
    sys.exit(code)


def _await(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(_interruptible(work))


async def _interruptible(work: Coroutine[Any, Any, None]) -> None:
    if await until_signalled(work):
        console.print("stopped")


def _up_detached(var: Path) -> None:
    """Start `oms up` in a session of its own and return when it is ready; when it fails, fail with its words."""
    log = var / "log" / "up.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        child = subprocess.Popen(
            (sys.executable, "-m", "ops.cli", "up"),
            env=os.environ | {"OMS_VAR": str(var)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        with console.status("starting") as status:
            while _supervisor(var) != child.pid:
                if child.poll() is not None:
                    raise StartFailed(log.read_text(encoding="utf-8", errors="replace").strip().removeprefix("error: "))
                if lines := log.read_text(encoding="utf-8", errors="replace").splitlines():
                    status.update(escape(lines[-1]))
                time.sleep(_POLL_S)
    except BaseException:
        if child.poll() is None:
            child.send_signal(signal.SIGTERM)
            child.wait()
        raise


def _supervisor(var: Path) -> int | None:
    """The process that runs the system, once it is up."""
    try:
        return live_endpoints(var).supervisor.pid
    except NotUp:
        return None


def _show(endpoints: Endpoints) -> None:
    table = Table("", "URL", "process", "log", box=None)
    for service_name, service in endpoints.services.items():
        for name, each in service.replicas(service_name).items():
            table.add_row(name, each.url, str(each.process.pid if each.process else "-"), str(each.log))
    table.add_row("kafka", endpoints.kafka, str(endpoints.kafka_process.pid if endpoints.kafka_process else "given"))
    process = endpoints.postgres_process
    table.add_row("postgres", endpoints.postgres.rpartition("@")[2], str(process.pid if process else "given"))
    console.print(table)


class _Screen:
    """Shows what every process is doing: a line each while a terminal watches the start, plain lines otherwise."""

    def __init__(self, on: Console = console) -> None:
        columns = (SpinnerColumn(finished_text="[green]✓[/]"), TextColumn("{task.description}"), TimeElapsedColumn())
        self._console = on
        self._bars = Progress(*columns, TextColumn("[dim]{task.fields[doing]}[/]"), console=on)
        self._rows: dict[str, TaskID] = {}
        self._is_live = False

    def __call__(self, name: str, doing: str) -> None:
        if not self._is_live:
            self._console.print(f"{name}: {doing}", markup=False, highlight=False, soft_wrap=True)
            return
        if name not in self._rows:
            self._rows[name] = self._bars.add_task(name, total=1, doing="")
        is_ready = doing == "ready"
        self._bars.update(self._rows[name], completed=int(is_ready), doing="" if is_ready else escape(doing))

    @contextlib.contextmanager
    def starting(self) -> Iterator[None]:
        """Until the block ends, lines are redrawn in place, where there is a terminal to redraw."""
        if not self._console.is_terminal:
            yield
            return
        self._is_live = True
        try:
            with self._bars:
                yield
        finally:
            self._is_live = False


@contextlib.contextmanager
def _log_to(path: Path) -> Iterator[None]:
    """Our own log goes beside those of the processes: the terminal is for people."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        structlog.configure(
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.processors.JSONRenderer(),
            ],
            logger_factory=structlog.WriteLoggerFactory(file),
        )
        yield


if __name__ == "__main__":
    main()
