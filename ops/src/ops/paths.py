"""Where things lie on this machine: the state folder, its lock, files written whole, ports nobody holds."""

import contextlib
import errno
import fcntl
import os
import random
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

LOOPBACK: Final = "127.0.0.1"
_CHECKOUT: Final = Path(__file__).resolve().parents[3]

# Below every system's ephemeral range: a port from that range can be taken by a client's own outgoing connection
# in the moment its server is being restarted.
_FREE_PORTS: Final = range(15_000, 32_000)


def state_folder() -> Path:
    """`OMS_VAR`, else `var/` of the checkout, else `var/` here when installed elsewhere."""
    if given := os.environ.get("OMS_VAR"):
        return Path(given).resolve()
    is_checkout = (_CHECKOUT / "ops" / "pyproject.toml").is_file()
    return (_CHECKOUT if is_checkout else Path.cwd()) / "var"


def write_whole(path: Path, text: str) -> None:
    """Replace `path` in one step, readable by its owner only: a reader sees the old text or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


class AlreadyLocked(Exception):
    """Another process holds the lock; `pid` is what it wrote about itself, when it did."""

    def __init__(self, pid: int | None) -> None:
        super().__init__(f"held by process {pid or '?'}")
        self.pid = pid


@contextlib.contextmanager
def locked(path: Path, *, wait: bool) -> Iterator[None]:
    """Hold a lock that the kernel releases with the process, so that it cannot be left behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            raise AlreadyLocked(_pid_in(file.read())) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _pid_in(text: str) -> int | None:
    return int(text) if text.isdigit() else None


class Ports:
    """Hands out loopback ports, none twice: the preferred one when it is free, else any free one."""

    def __init__(self, *, auto: bool) -> None:
        self._auto = auto
        self._given: set[int] = set()

    def take(self, preferred: int) -> int:
        candidates = random.sample(_FREE_PORTS, len(_FREE_PORTS))
        if not self._auto:
            candidates.insert(0, preferred)
        for port in candidates:
            if port not in self._given and _is_free(port):
                self._given.add(port)
                return port
        raise OSError(errno.EADDRINUSE, f"no free port between {_FREE_PORTS.start} and {_FREE_PORTS.stop}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True
