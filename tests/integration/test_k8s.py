"""Kubernetes manifests, rendered by kustomize offline: of Kubernetes' schemas, and true to the code."""

import importlib
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any, Final

import kubernetes_validate
import pytest
import yaml
from pydantic_settings import BaseSettings

from ops.system import SERVICES, Service
from ops.topics import PARTITIONS
from shared.runtime import PARTS_STOP_WITHIN, POOL_CLOSES_WITHIN
from shared.settings import Settings
from tests.observing import ROOT

OVERLAYS: Final = ("production", "demo")
KUBERNETES: Final = "1.33"
# Of operators, whose schemas Kubernetes does not have.
FOREIGN: Final = {"ScaledObject", "PodMonitor"}
OURS: Final = [service for service in SERVICES if service.has_database]
COMPOSE: Final = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
DOCKERFILE: Final = (ROOT / "Dockerfile").read_text(encoding="utf-8")


KUBECTL: Final = Path(sys.executable).parent / "kubectl"

pytestmark = pytest.mark.skipif(
    not KUBECTL.exists(), reason="no kubectl for this machine: the Kubernetes manifests are NOT tested"
)


@cache
def rendered(overlay: str) -> list[dict[str, Any]]:
    told = subprocess.run([KUBECTL, "kustomize", ROOT / "ops/k8s/overlays" / overlay], capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    return list(yaml.safe_load_all(told.stdout))


def found(overlay: str, kind: str) -> dict[str, dict[str, Any]]:
    return {each["metadata"]["name"]: each for each in rendered(overlay) if each["kind"] == kind}


def pod(overlay: str, service: str) -> dict[str, Any]:
    spec: dict[str, Any] = found(overlay, "StatefulSet")[service]["spec"]["template"]["spec"]
    return spec


def container(overlay: str, service: str) -> dict[str, Any]:
    [only] = pod(overlay, service)["containers"]
    return dict(only)


def settings_of(service: Service) -> type[Any]:
    """The class that reads its environment: its own where it has one."""
    try:
        module = importlib.import_module(f"{service.package}.settings")
    except ModuleNotFoundError:
        return Settings
    [own] = [
        each
        for each in vars(module).values()
        if isinstance(each, type) and issubclass(each, BaseSettings) and each.__module__ == module.__name__
    ]
    return own


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_everything_is_of_kubernetes_schemas(overlay: str) -> None:
    checked = 0
    for each in rendered(overlay):
        if each["kind"] not in FOREIGN:
            kubernetes_validate.validate(each, KUBERNETES, strict=True)
            checked += 1
    assert checked > 3 * len(OURS)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_service_is_deployed_with_an_address_a_budget_and_scaling(overlay: str) -> None:
    names = {service.name for service in OURS}
    assert found(overlay, "PodDisruptionBudget").keys() == found(overlay, "ScaledObject").keys() == names
    expected = names | ({"sandbox"} if overlay == "demo" else set())
    assert found(overlay, "StatefulSet").keys() == found(overlay, "Service").keys() == expected
    for name, each in found(overlay, "StatefulSet").items():
        labels = each["spec"]["template"]["metadata"]["labels"]
        for selector in (
            each["spec"]["selector"]["matchLabels"],
            found(overlay, "Service")[name]["spec"]["selector"],
        ):
            assert selector == {"app.kubernetes.io/name": name}
            assert selector.items() <= labels.items()
        assert each["spec"]["serviceName"] == name
    for name, budget in found(overlay, "PodDisruptionBudget").items():
        assert budget["spec"]["selector"]["matchLabels"] == {"app.kubernetes.io/name": name}


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("service", OURS, ids=lambda service: service.name)
def test_scaling_is_by_lag_up_to_the_partitions(overlay: str, service: Service) -> None:
    scaled = found(overlay, "ScaledObject")[service.name]["spec"]
    assert scaled["scaleTargetRef"] == {"kind": "StatefulSet", "name": service.name}
    assert 1 <= scaled["minReplicaCount"] <= scaled["maxReplicaCount"] == PARTITIONS
    [trigger] = scaled["triggers"]
    app = importlib.import_module(f"{service.package}.app").app
    assert trigger["type"] == "kafka"
    assert trigger["metadata"]["consumerGroup"] == service.name
    assert app.state.topics
    named = {each["name"] for each in container(overlay, service.name)["env"]}
    assert trigger["metadata"]["bootstrapServersFromEnv"] in named


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("service", OURS, ids=lambda service: service.name)
def test_the_environment_is_what_the_settings_ask_for(overlay: str, service: Service) -> None:
    fields = settings_of(service).model_fields
    known = {f"OMS_{name.upper()}" for name in fields}
    needed = {f"OMS_{name.upper()}" for name, field in fields.items() if field.is_required()}
    named = {each["name"]: each for each in container(overlay, service.name)["env"]}
    assert needed <= named.keys() <= known
    [migrate] = pod(overlay, service.name)["initContainers"]
    needed_by_all = {f"OMS_{name.upper()}" for name, field in Settings.model_fields.items() if field.is_required()}
    assert {each["name"] for each in migrate["env"]} == needed_by_all
    for name, each in named.items():
        if "Secret" in str(fields[name.removeprefix("OMS_").lower()].annotation):
            assert "secretKeyRef" in each["valueFrom"], f"{name} is a secret"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_images_ports_and_probes_are_those_that_exist(overlay: str) -> None:
    [port] = re.findall(r"^EXPOSE (\d+)$", DOCKERFILE, re.MULTILINE)
    assert f"PORT={port}" in DOCKERFILE
    for service in SERVICES:
        if service.name not in found(overlay, "StatefulSet"):
            continue
        each = container(overlay, service.name)
        image = each["image"].rpartition("/")[2].partition(":")[0]
        assert image == f"{COMPOSE['name']}-{service.name}"
        assert service.name in COMPOSE["services"]
        ports = {exposed["name"]: exposed["containerPort"] for exposed in each["ports"]}
        assert ports["http"] == int(port)
        routes = importlib.import_module(f"{service.package}.app").app.openapi()["paths"]
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            asked = each[probe]["httpGet"]
            assert asked["path"] in routes
            assert asked["port"] in ports
        for exposed in found(overlay, "Service")[service.name]["spec"]["ports"]:
            assert exposed["targetPort"] in ports


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_may_do_little_and_have_the_time_to_stop(overlay: str) -> None:
    user = int(re.findall(r"--uid (\d+)", DOCKERFILE)[0])
    for name in found(overlay, "StatefulSet"):
        spec = pod(overlay, name)
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] == user
        assert spec["automountServiceAccountToken"] is False
        for each in spec["containers"] + spec.get("initContainers", []):
            assert each["securityContext"]["readOnlyRootFilesystem"] is True
            assert each["securityContext"]["allowPrivilegeEscalation"] is False
            assert each["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert each["resources"]["limits"]["memory"]
            assert each["resources"]["requests"].keys() == {"cpu", "memory"}
        if name != "sandbox":
            pause = int(container(overlay, name)["lifecycle"]["preStop"]["exec"]["command"][1])
            assert spec["terminationGracePeriodSeconds"] > pause + PARTS_STOP_WITHIN + POOL_CLOSES_WITHIN
            [spread] = spec["topologySpreadConstraints"]
            assert spread["labelSelector"]["matchLabels"] == {"app.kubernetes.io/name": name}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_pod_is_scraped_under_the_job_that_the_alerts_ask_for(overlay: str) -> None:
    [monitor] = found(overlay, "PodMonitor").values()
    [endpoint] = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["path"] == "/metrics"
    assert {"targetLabel": "job", "replacement": "order-workflows"} in endpoint["relabelings"]
    assert 'up{job="order-workflows"}' in (ROOT / "ops/observe/alerts.yaml").read_text(encoding="utf-8")
    [policy] = found(overlay, "NetworkPolicy").values()
    for service in OURS:
        labels = found(overlay, "StatefulSet")[service.name]["spec"]["template"]["metadata"]["labels"]
        assert monitor["spec"]["selector"]["matchLabels"].items() <= labels.items()
        assert policy["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
