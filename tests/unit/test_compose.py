"""The compose file as it is written: what is reachable, what starts again, which secrets it takes, what topics keep."""

import re
from base64 import b64decode
from typing import Any, Final

import pytest
import yaml
from pydantic import ValidationError

from ops.system import SERVICES
from ops.topics import KEPT_FOREVER, PARTITIONS, TOPICS
from shared.settings import EXAMPLE, Settings
from support_view.actions import ACTIONS, HERE
from support_view.settings import SupportViewSettings
from tests.observing import ROOT

COMPOSE: Final = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
ENV_FILE: Final = ROOT / "ops/compose/demo.env"
DEMO: Final = dict(
    line.split("=", 1) for line in ENV_FILE.read_text(encoding="utf-8").splitlines() if line and line[0] != "#"
)
ONE_SHOT: Final = {"topics"}
OUTSIDE: Final = {"sandbox"}
WITHIN: Final = {each.name for each in SERVICES} - OUTSIDE


def environment(service: str) -> dict[str, Any]:
    return dict(COMPOSE["services"][service].get("environment", {}))


def variables(text: object) -> dict[str, str]:
    """Those that a value asks the environment for, each with what stands behind its name."""
    return dict(re.findall(r"\$\{(\w+)([^}]*)\}", str(text)))


def test_every_process_is_started_again_when_it_dies() -> None:
    for name, service in COMPOSE["services"].items():
        assert service.get("restart") == ("on-failure" if name in ONE_SHOT else "unless-stopped"), name


def test_the_page_can_ask_every_service_that_its_actions_name() -> None:
    asked = {action.service for action in ACTIONS.values()} - {HERE}
    manifest = yaml.safe_load_all((ROOT / "ops/k8s/base/support-view.yaml").read_text(encoding="utf-8"))
    [pod] = [each["spec"]["template"]["spec"] for each in manifest if each["kind"] == "StatefulSet"]
    local = next(each for each in SERVICES if each.name == "support-view").settings
    for given in (environment("support-view"), local, {each["name"] for each in pod["containers"][0]["env"]}):
        assert {f"OMS_{service.upper()}_URL" for service in asked} <= set(given)
    urls: dict[str, Any] = {f"{service}_url": f"http://{service}" for service in asked}
    settings = SupportViewSettings.model_construct(**urls)
    assert settings.services == {service: f"http://{service}" for service in asked}


def test_every_port_is_published_on_the_loopback_only() -> None:
    published = {name: port for name, service in COMPOSE["services"].items() for port in service.get("ports", ())}
    assert published.keys() == {each.name for each in SERVICES} | {"postgres", "kafka"}
    for name, port in published.items():
        assert re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port), f"{name} is published as {port}"
    for each in SERVICES:
        assert published[each.name] == f"127.0.0.1:{each.port}:8000"
    _, theirs, inside = published["kafka"].split(":")
    assert theirs == inside, "Kafka tells its clients the address under which they find it again"
    assert f"HOST://127.0.0.1:{theirs}" in environment("kafka")["KAFKA_ADVERTISED_LISTENERS"]


def test_the_sandbox_and_its_identity_provider_run_in_the_demo_only() -> None:
    for name, service in COMPOSE["services"].items():
        assert service.get("profiles", []) == (["demo"] if name in OUTSIDE else []), name
    for name in WITHIN:
        for key, value in environment(name).items():
            assert "sandbox" not in str(value), f"{name}: {key} names the sandbox outside the demo"
        assert OUTSIDE.isdisjoint(COMPOSE["services"][name]["depends_on"])
    assert DEMO["COMPOSE_PROFILES"] == "demo"
    assert DEMO["OMS_DEMO"] == "true"


def test_no_secret_has_a_value_unless_somebody_sets_it() -> None:
    """A variable is required (`:?` and what to do), or passed on where it is set; the demo's file sets all."""
    asked: dict[str, str] = {}
    for service in COMPOSE["services"].values():
        asked |= variables(service)
        asked |= {key: "" for key, value in service.get("environment", {}).items() if value is None}
    for name, rest in asked.items():
        if re.search(r"KEY|SECRET|PASSWORD", name):
            assert rest.startswith(":?") or name == "OMS_SIGN_IN_CLIENT_SECRET", f"{name} has {rest or 'nothing'}"
        assert not rest.startswith(":-"), f"{name} has a default: {rest}"
        if rest.startswith(":?"):
            assert "demo.env" in rest
            assert name in DEMO, f"the demo does not set {name}"
    for key, value in environment("orders").items():
        assert value is None or variables(value) or not re.search(r"KEY|SECRET|PASSWORD", key), f"{key} is published"


@pytest.mark.parametrize("name", sorted(name for name in DEMO if re.search(r"KEY|SECRET|PASSWORD", name)))
def test_every_secret_of_the_demo_is_known_as_an_example(name: str) -> None:
    secret = DEMO[name]
    said = b64decode(secret.removeprefix("whsec_")).decode() if secret.startswith("whsec_") else secret
    assert EXAMPLE in said


@pytest.mark.parametrize("name", ["OMS_AUTH_KEY", "OMS_DATABASE_URL"])
def test_a_secret_of_the_demo_starts_no_service_outside_of_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    own = {"OMS_AUTH_KEY": "k" * 32, "OMS_DATABASE_URL": "postgresql://oms:own@db/orders", "OMS_KAFKA": "kafka:9092"}
    example = DEMO["OMS_AUTH_KEY"]
    of_demo = {"OMS_AUTH_KEY": example, "OMS_DATABASE_URL": f"postgresql://oms:{example}@db/orders"}
    monkeypatch.delenv("OMS_DEMO", raising=False)
    for key, value in {**own, name: of_demo[name]}.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(ValidationError, match=f"{name} is an example.*OMS_DEMO=true"):
        Settings()
    monkeypatch.setenv("OMS_DEMO", "true")
    Settings()
    monkeypatch.setenv(name, own[name])
    monkeypatch.delenv("OMS_DEMO")
    Settings()


def test_topics_keep_facts_for_ever() -> None:
    [script] = COMPOSE["services"]["topics"]["command"]
    [names] = re.findall(r"for service in ([a-z ]+);", script)
    assert {f"{name}.events" for name in names.split()} == set(TOPICS)
    assert f"--partitions {PARTITIONS}" in script
    for name, value in KEPT_FOREVER.items():
        assert f"--config {name}={value}" in script
    assert environment("kafka")["KAFKA_LOG_RETENTION_MS"] == -1, "of topics of an earlier version too"
