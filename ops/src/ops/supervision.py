"""Keeps programs running: each in a process group of its own, restarted when it dies, gone when we are."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import structlog

_DIE_WITH_PARENT: Final = Path(__file__).with_name("die_with_parent.py")
_POLL_S: Final = 0.05
_FIRST_PAUSE_S: Final = 0.2
_LONGEST_PAUSE_S: Final = 5.0
# A program that lived this long had started well: its next death is a new story, not one more failed start.
_STEADY_S: Final = 20.0
# Deaths in a row, before it was ever ready, after which waiting longer is of no use.
_FAILED_STARTS: Final = 3
_STOP_S: Final = 30.0
_TAIL_LINES: Final = 15

log = structlog.get_logger(__name__)

T = TypeVar("T")
Report = Callable[[str, str], None]
"""Told (name of the process, what it is doing now in plain words)."""


def silent(name: str, doing: str) -> None:
    """A report nobody reads."""


class NotReady(Exception):
    """A probe's answer while its program cannot serve yet; the text says why."""


class StartFailed(Exception):
    """A program did not become ready; the text says why and ends with the tail of its log."""


@dataclass(frozen=True, slots=True)
class Program:
    """What to run and how to tell that it serves. `probe` raises `NotReady` until it does."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    log: Path
    probe: Callable[[], Awaitable[None]]
    stop_signal: signal.Signals = signal.SIGTERM
    # What the kernel sends when we are killed: nothing graceful is left to wait for then.
    orphan_signal: signal.Signals = signal.SIGKILL
    user: str | None = None
    ended: Callable[[], None] | None = None


async def run_once(program: tuple[str, ...], *, environment: Mapping[str, str], user: str | None = None) -> str:
    """Run a command to its end and return what it printed; a failure raises `StartFailed` with that text."""
    child = await asyncio.create_subprocess_exec(
        *_dying_with_us(program, signal.SIGKILL, user),
        env=dict(environment),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        printed, _ = await child.communicate()
    finally:
        if child.returncode is None:
            os.killpg(child.pid, signal.SIGKILL)
            await child.wait()
    text = printed.decode(errors="replace")
    if child.returncode:
        raise StartFailed(f"{' '.join(program[:4])} … ended with {child.returncode}:\n{_last_lines(text)}")
    return text


async def together(*work: Coroutine[Any, Any, T]) -> list[T]:
    """Run all at once; the first failure ends the others before it is raised."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            # One that is cleaning up already is not interrupted again.
            if not task.cancelling():
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


async def until_signalled(work: Coroutine[Any, Any, None]) -> bool:
    """Run `work`. The first SIGINT or SIGTERM cancels it, later ones let it clean up; True when one came."""
    task = asyncio.ensure_future(work)
    signalled = False

    def ask() -> None:
        nonlocal signalled
        if not signalled:
            signalled = True
            task.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ask)
    try:
        await task
    except asyncio.CancelledError:
        if not signalled:
            raise
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
    return signalled


class Process:
    """One program under supervision. Restarted with growing pauses for as long as nobody asks it to stop."""

    def __init__(
        self, program: Program, *, report: Report = silent, respawned: Callable[[], None] | None = None
    ) -> None:
        self.program = program
        self._report = report
        self._respawned = respawned
        self._child: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._deaths = 0

    @property
    def name(self) -> str:
        return self.program.name

    @property
    def pid(self) -> int | None:
        """None while it is down."""
        return self._child.pid if self._child is not None and self._child.returncode is None else None

    async def start(self, *, within: float) -> None:
        """Spawn it and wait until it is ready; whatever goes wrong, nothing of it stays behind."""
        self.program.log.parent.mkdir(parents=True, exist_ok=True)
        if self.program.log.exists():
            self.program.log.replace(self.program.log.with_name(f"{self.program.log.name}.1"))
        self._keeper = asyncio.create_task(self._keep(), name=f"keep {self.name}")
        try:
            await self.ready(within=within, deaths_allowed=_FAILED_STARTS)
        except BaseException:
            await self.stop()
            raise

    async def ready(self, *, within: float, deaths_allowed: int | None = None) -> None:
        """Poll the probe until it passes. `StartFailed` at the deadline, or after `deaths_allowed` more deaths."""
        deaths = self._deaths
        reason = "it has not answered yet"
        try:
            async with asyncio.timeout(within):
                while True:
                    if deaths_allowed is not None and self._deaths - deaths >= deaths_allowed:
                        raise StartFailed(f"{self.name} died {deaths_allowed} times while starting; {self._log_tail()}")
                    try:
                        await self.program.probe()
                    except NotReady as why:
                        if str(why) != reason:
                            reason = str(why)
                            self._report(self.name, reason)
                        await asyncio.sleep(_POLL_S)
                    else:
                        if self.pid is not None:
                            self._report(self.name, "ready")
                            return
        except TimeoutError as late:
            waited = f"{self.name} was not ready within {within:.0f} s: {reason}"
            raise StartFailed(f"{waited}; {self._log_tail()}") from late

    async def stop(self) -> None:
        """Ask it to end, insist at the deadline, and return when it is gone."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await keeper
        child, self._child = self._child, None
        if child is None:
            return
        self._report(self.name, "stopping")
        with contextlib.suppress(ProcessLookupError):
            child.send_signal(self.program.stop_signal)
        try:
            await asyncio.wait_for(child.wait(), _STOP_S)
        except TimeoutError:
            log.warning("process.killed", process=self.name, pid=child.pid, after_s=_STOP_S)
        finally:
            if child.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
                await child.wait()
        if self.program.ended is not None:
            self.program.ended()
        self._report(self.name, "stopped")

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        pause = _FIRST_PAUSE_S
        while True:
            began = loop.time()
            try:
                self._child = await self._spawn()
            except OSError as error:
                ending = f"could not be started: {error}"
            else:
                log.info("process.started", process=self.name, pid=self._child.pid)
                if self._deaths and self._respawned is not None:
                    self._respawned()
                ending = f"died ({_ending(await self._child.wait())})"
            self._deaths += 1
            if loop.time() - began > _STEADY_S:
                pause = _FIRST_PAUSE_S
            log.warning("process.died", process=self.name, ending=ending, deaths=self._deaths, again_in_s=pause)
            self._report(self.name, f"{ending}, starts again in {pause:.1f} s")
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_S)

    async def _spawn(self) -> asyncio.subprocess.Process:
        with self.program.log.open("ab") as output:
            return await asyncio.create_subprocess_exec(
                *_dying_with_us(self.program.command, self.program.orphan_signal, self.program.user),
                env=dict(self.program.environment),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )

    def _log_tail(self) -> str:
        try:
            text = self.program.log.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return "it wrote no log"
        return f"the end of {self.program.log}:\n{_last_lines(text)}"


def _dying_with_us(command: tuple[str, ...], orphan_signal: signal.Signals, user: str | None) -> tuple[str, ...]:
    # -I -S: it needs the standard library only, and must start in a blink.
    wrapper = (
        sys.executable,
        "-I",
        "-S",
        str(_DIE_WITH_PARENT),
        str(os.getpid()),
        str(int(orphan_signal)),
        user or "-",
    )
    return wrapper + command


def _last_lines(text: str) -> str:
    return "\n".join(text.rstrip().splitlines()[-_TAIL_LINES:])


def _ending(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
