"""Alert rules and dashboard as files: they parse, lead to the runbook, and raise what they should."""

import json
import re
import shutil
import subprocess
from typing import Any, Final

import pytest
import yaml
from promql_parser import parse

from tests.observing import ALERTS, DASHBOARD, ROOT, expressions

RULES: Final[list[dict[str, Any]]] = [
    rule for group in yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]
]
RUNBOOK: Final = (ROOT / "docs/runbook.md").read_text(encoding="utf-8")


def anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


SECTIONS: Final = {anchor(text.partition("\n")[0]): text for text in re.split(r"^## ", RUNBOOK, flags=re.MULTILINE)[1:]}


@pytest.mark.parametrize("expression", expressions())
def test_every_expression_is_promql(expression: str) -> None:
    parse(expression)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_every_alert_has_its_section_with_meaning_command_and_what_is_good(rule: dict[str, Any]) -> None:
    path, _, name = rule["annotations"]["runbook_url"].partition("#")
    assert path == "docs/runbook.md"
    section = SECTIONS[name]
    assert f"`{rule['alert']}`" in section
    for part in ("- Seen: ", "- Meaning: ", "- Run", "- Good: "):
        assert part in section, f"{name} lacks {part}"
    assert rule["labels"]["severity"] in ("page", "ticket")


def test_the_runbook_names_no_alert_that_does_not_exist() -> None:
    named = {
        name
        for text in re.findall(r"^- Seen: (alerts? .*?[.;]$|alerts? [^;]*;)", RUNBOOK, re.MULTILINE | re.DOTALL)
        for name in re.findall(r"`([A-Z]\w+)`", text)
    }
    assert named == {rule["alert"] for rule in RULES}


def test_links_within_the_runbook_lead_somewhere() -> None:
    assert set(re.findall(r"\]\(#([\w-]+)\)", RUNBOOK)) <= SECTIONS.keys()


def test_panels_have_room_of_their_own() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells


def test_the_rules_raise_what_they_should() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool here (Debian's package prometheus has it): the rules' own tests were not run")
    told = subprocess.run(
        [promtool, "test", "rules", "alerts_test.yaml"], cwd=ALERTS.parent, capture_output=True, text=True
    )
    assert told.returncode == 0, told.stdout + told.stderr
