"""The files of `ops/observe`, and the PromQL in them."""

import json
from pathlib import Path
from typing import Final

import yaml

ROOT: Final = Path(__file__).parent.parent
ALERTS: Final = ROOT / "ops/observe/alerts.yaml"
DASHBOARD: Final = ROOT / "ops/observe/dashboard.json"


def expressions() -> list[str]:
    """Of every alert and panel; Grafana's own interval as Prometheus reads one."""
    rules = [rule for group in yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]]
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    shown = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    return [rule["expr"] for rule in rules] + [expr.replace("$__rate_interval", "5m") for expr in shown]
