"""`python -m ops.pins UV`: resolve everything anew and write the versions into the root's `constraint-dependencies`."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Final

_ROOT: Final = Path("pyproject.toml")
_PINS = re.compile(r"^constraint-dependencies = \[.*?\]$", re.DOTALL | re.MULTILINE)
_EXPORT: Final = (
    *("export", "--quiet", "--all-packages", "--all-groups", "--all-extras", "--no-emit-workspace"),
    *("--no-hashes", "--no-annotate", "--no-header", "--format", "requirements.txt"),
)


def with_pins(project: str, pins: list[str]) -> str:
    """The project file's text with these pins in place of its own. ValueError when it has no place for them."""
    block = "\n".join(["constraint-dependencies = [", *(f'    "{pin}",' for pin in pins), "]"])
    text, count = _PINS.subn(lambda _: block if pins else "constraint-dependencies = []", project)
    if count != 1:
        raise ValueError(f"{_ROOT} must have exactly one constraint-dependencies list")
    return text


def _uv(*arguments: str) -> str:
    """Run uv, which the Makefile names, and return what it printed."""
    command = (sys.argv[1], *arguments)
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout  # noqa: S603 -- our own tool


def main() -> None:
    before = _ROOT.read_text(encoding="utf-8")
    try:
        # The old pins would hold every version where it is.
        _ROOT.write_text(with_pins(before, []), encoding="utf-8")
        _uv("lock", "--upgrade")
        exported = _uv(*_EXPORT)
    except subprocess.CalledProcessError as error:
        _ROOT.write_text(before, encoding="utf-8")
        sys.exit(f"error: nothing was changed, {' '.join(error.cmd[:2])} failed")
    _ROOT.write_text(with_pins(before, exported.splitlines()), encoding="utf-8")
    _uv("sync")


if __name__ == "__main__":
    main()
