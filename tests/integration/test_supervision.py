"""Supervised processes come back when they die, end when asked, and never outlive their supervisor."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

from ops.control import ask_scale
from ops.embedded import throwaway
from ops.endpoints import live_endpoints
from ops.supervision import NotReady, Process, Program, StartFailed, run_once, together
from ops.system import AlreadyUp, Service, bring_down, running_system
from ops.topics import PARTITIONS, TOPICS, ensure_topics

WITHIN_S = 60.0

pytestmark = pytest.mark.timeout(180)


def program(tmp_path: Path, code: str) -> Program:
    """Python code that is ready as soon as the file `ready` exists beside its log."""

    async def probe() -> None:
        if not (tmp_path / "ready").exists():
            raise NotReady("not ready")

    return Program(
        name="story",
        command=(sys.executable, "-c", textwrap.dedent(code)),
        environment=os.environ | {"READY": str(tmp_path / "ready")},
        log=tmp_path / "story.log",
        probe=probe,
    )


READY_AND_WAIT = """
    import os, pathlib, signal
    pathlib.Path(os.environ["READY"]).touch()
    signal.pause()
"""


async def test_a_killed_process_is_started_again(tmp_path: Path) -> None:
    respawns = asyncio.Event()
    process = Process(program(tmp_path, READY_AND_WAIT), respawned=respawns.set)
    await process.start(within=WITHIN_S)
    first = process.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    async with asyncio.timeout(WITHIN_S):
        await respawns.wait()
    await process.ready(within=WITHIN_S)
    second = process.pid
    await process.stop()
    assert second not in (None, first)
    assert not psutil.pid_exists(int(second or 0))


async def test_one_that_dies_while_starting_is_given_up_with_its_own_words(tmp_path: Path) -> None:
    process = Process(program(tmp_path, "raise SystemExit('the port is taken')"))
    with pytest.raises(StartFailed, match=r"died 3 times(.|\n)*the port is taken"):
        await process.start(within=WITHIN_S)
    assert process.pid is None


async def test_one_that_never_gets_ready_is_given_up_and_ended(tmp_path: Path) -> None:
    process = Process(program(tmp_path, "import signal; print('still loading', flush=True); signal.pause()"))
    with pytest.raises(StartFailed, match=r"not ready within 1 s: not ready(.|\n)*still loading"):
        await process.start(within=1.0)
    assert process.pid is None


async def test_a_failed_command_says_what_it_printed() -> None:
    with pytest.raises(StartFailed, match=r"ended with 7(.|\n)*no such revision"):
        await run_once((sys.executable, "-c", "print('no such revision'); exit(7)"), environment=os.environ)


async def test_the_first_failure_ends_the_rest() -> None:
    ended = asyncio.Event()

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def failing() -> None:
        raise StartFailed("no")

    with pytest.raises(StartFailed):
        await together(endless(), failing())
    assert ended.is_set()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_a_killed_supervisor_takes_its_processes_along(tmp_path: Path) -> None:
    supervisor = f"""
        import asyncio, os
        from pathlib import Path
        from tests.integration.test_supervision import READY_AND_WAIT, Process, program

        async def main():
            process = Process(program(Path({str(tmp_path)!r}), READY_AND_WAIT))
            await process.start(within=60)
            print(process.pid, flush=True)
            await asyncio.Event().wait()

        asyncio.run(main())
    """
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        (sys.executable, "-c", textwrap.dedent(supervisor)), cwd=root, stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        # Log lines may come before it.
        child = psutil.Process(next(int(line) for line in running.stdout if line.strip().isdigit()))
        running.kill()
    _, alive = psutil.wait_procs([child], timeout=WITHIN_S)
    assert not alive


async def test_topics_are_made_once_with_six_partitions() -> None:
    async with throwaway() as backends:
        made = await ensure_topics(backends.kafka)
        again = await ensure_topics(backends.kafka)
    assert [topic.name for topic in made] == list(TOPICS)
    assert all(topic.partitions == PARTITIONS and topic.is_new for topic in made)
    assert not any(topic.is_new for topic in again)


PLUMBING_ALONE = Path(__file__).parent / "plumbing" / "migrations" / "0001_first.py"

TOY = """
    import os
    from fastapi import FastAPI
    app = FastAPI()
    app.get("/readyz")(lambda: {"auth_key": os.environ["OMS_AUTH_KEY"], "peer": os.environ["OMS_PEER"]})
"""


async def test_the_system_comes_back_from_kills_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for given in (
        "OMS_KAFKA",
        "OMS_POSTGRES_URL",
    ):  # Kafka and PostgreSQL are to be killed too, so they must be its own
        monkeypatch.delenv(given, raising=False)
    for package in ("toy", "toy_two"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
        (tmp_path / package / "migrations").mkdir()
        (tmp_path / package / "migrations" / "0001_first.py").write_text(PLUMBING_ALONE.read_text())
        (tmp_path / package / "app.py").write_text(textwrap.dedent(TOY))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    toys = (
        Service("toy", 8001, settings={"OMS_PEER": "{toy_two}/in"}),
        Service("toy-two", 8002, has_database=False, settings={"OMS_PEER": "{toy}/in"}),
    )
    var = tmp_path / "var"

    async with running_system(var, auto_ports=True, services=toys) as system:
        with pytest.raises(AlreadyUp):
            async with running_system(var, auto_ports=True, services=toys):
                pass
        await system.scale({"toy": 3})
        await system.scale({"toy": 2})
        with pytest.raises(StartFailed, match=r"toy-3 died(.|\n)*the third is too many"):
            (tmp_path / "toy" / "app.py").write_text("raise SystemExit('the third is too many')")
            await system.scale({"toy": 3})
        (tmp_path / "toy" / "app.py").write_text(textwrap.dedent(TOY))
        before = live_endpoints(var)
        assert list(before.services["toy"].others) == ["toy-2"]
        killed = before.processes()
        assert len(killed) == 5
        for process in killed:
            os.kill(process.pid, signal.SIGKILL)
        async with asyncio.timeout(WITHIN_S):
            # The file is what others watch.
            while {each.pid for each in live_endpoints(var).processes()} & {each.pid for each in killed}:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await system.ready(within=WITHIN_S)
        after = live_endpoints(var)
        assert [each.url for each in after.services["toy"].replicas("toy").values()] == [
            each.url for each in before.services["toy"].replicas("toy").values()
        ]
        assert all(process.found() for process in after.processes())

        # Whoever waits for a replica when the system ends is told; and it does not stay behind.
        (tmp_path / "toy" / "app.py").write_text("import signal; signal.pause()")
        begun = asyncio.Event()
        scaling = asyncio.create_task(ask_scale(after.control, var, {"toy": 3}, lambda *_: begun.set()))
        await asyncio.wait_for(begun.wait(), WITHIN_S)

    with pytest.raises(StartFailed, match="went down meanwhile"):
        await scaling
    assert not any("toy.app:app" in child.cmdline() for child in psutil.Process().children())
    assert not any(process.found() for process in after.processes())
    assert not (var / "endpoints.json").exists()
    assert bring_down(var) is False
