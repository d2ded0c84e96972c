"""docs/domain.md says what code, tests and constraints cite by number."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
CITED = re.compile(r"\bI(\d{1,2})\b")


def test_every_invariant_that_code_cites_is_in_the_domain_document() -> None:
    """Breaks where somebody cites a law that nobody can look up."""
    known = set(CITED.findall((ROOT / "docs/domain.md").read_text(encoding="utf-8")))
    cited = {
        (number, str(path.relative_to(ROOT)))
        for folder in ("services", "shared", "ops", "tests", "sandbox")
        for path in (ROOT / folder).rglob("*.py")
        for number in CITED.findall(path.read_text(encoding="utf-8"))
    }
    assert {number for number, _ in cited} >= {"1", "6", "14"}
    assert [each for each in sorted(cited) if each[0] not in known] == []
