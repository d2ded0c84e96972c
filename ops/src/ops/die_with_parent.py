"""Becomes another program that ends with its parent: `die_with_parent.py PARENT SIGNAL USER PROGRAM ARGUMENT...`.

Run as a file by a bare interpreter, before the program, because none of this may happen between fork and exec of a
process that has threads. USER is a name or `-`. Where the kernel knows no parent-death signal, the program just runs.
"""

import ctypes
import os
import pwd
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_SECUREBITS: Final = 28
_SECBIT_NO_SETUID_FIXUP: Final = 1 << 2
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_RAISE: Final = 2
_CAP_DAC_OVERRIDE: Final = 1
_CAPABILITY_VERSION_3: Final = 0x20080522


def become(user: str) -> None:
    """Drop root for `user`, keeping at most the right to pass folders that only root may enter.

    A checkout often lies below a folder that is closed to others (a home, a temporary folder); PostgreSQL refuses
    root, yet must reach its binaries and its data there. Where the right cannot be kept, open folders still work.
    """
    entry = pwd.getpwnam(user)
    libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
    if libc is not None:
        # Rights survive the change of user, and count in access(2) as well, by which PostgreSQL looks for its binaries.
        libc.prctl(_PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP, 0, 0, 0)
    os.setgroups([])
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)
    if libc is not None:
        # The one right, or none of root's where that one is not ours to keep.
        if _set_capabilities(libc, 1 << _CAP_DAC_OVERRIDE):
            libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, _CAP_DAC_OVERRIDE, 0, 0)
        else:
            _set_capabilities(libc, 0)


def _set_capabilities(libc: ctypes.CDLL, kept: int) -> bool:
    """Effective, permitted and inheritable alike."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    return bool(libc.capset(header, (ctypes.c_uint32 * 6)(kept, kept, kept, 0, 0, 0)) == 0)


def main() -> None:
    parent, signal, user, *command = sys.argv[1:]
    if user != "-":
        become(user)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal), 0, 0, 0)
        if os.getppid() != int(parent):
            sys.exit("die_with_parent: the parent died before the program began")
    os.execv(command[0], command)  # noqa: S606 -- becoming the program is the point


if __name__ == "__main__":
    main()
