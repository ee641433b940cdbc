"""deploy/kubernetes against the published schemas; no cluster is needed."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from app.options import Options, flags

REPOSITORY = Path(__file__).resolve().parents[2]
ROOT = REPOSITORY / "deploy" / "kubernetes"
VERSIONS = ("1.31", kubernetes_validate.latest_version())
OVERLAYS = ("cpu", "gpu", "s3")
CUSTOM = ("ServiceMonitor", "ClusterServingRuntime")

Manifest = dict[str, Any]


def built(directory: str) -> list[Manifest]:
    """What kustomize makes of a directory; skips the test where it is not installed."""
    for command in (["kustomize", "build"], ["kubectl", "kustomize"]):
        if shutil.which(command[0]):
            run = subprocess.run(
                [*command, str(ROOT / directory)], check=True, capture_output=True, text=True
            )
            return list(yaml.safe_load_all(run.stdout))
    pytest.skip("neither kustomize nor kubectl is installed")


def of_kind(manifests: list[Manifest], kind: str) -> Manifest:
    """The one of a kind."""
    (one,) = (manifest for manifest in manifests if manifest["kind"] == kind)
    return one


def container(manifests: list[Manifest]) -> Manifest:
    """The server's container in a Deployment."""
    (one,) = of_kind(manifests, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert isinstance(one, dict)
    return one


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlays_fit_the_schemas_of_kubernetes(overlay: str, version: str) -> None:
    manifests = built(f"overlays/{overlay}")
    kinds = {manifest["kind"] for manifest in manifests}
    assert kinds == {
        "Deployment",
        "HorizontalPodAutoscaler",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "Service",
        "ServiceAccount",
        "ServiceMonitor",
        *([] if overlay == "s3" else ["PersistentVolumeClaim"]),
    }
    for manifest in manifests:
        assert manifest["metadata"]["namespace"] == "models"
        if manifest["kind"] not in CUSTOM:
            kubernetes_validate.validate(manifest, version, strict=True)


def test_the_base_fits_without_kustomize() -> None:
    """Each file of the base but for the selectors, which kustomize adds."""
    for file in sorted((ROOT / "base").glob("*.yaml")):
        for manifest in yaml.safe_load_all(file.read_text()):
            if manifest["kind"] == "Kustomization":
                continue
            if manifest["kind"] == "Deployment":
                labels = {"app.kubernetes.io/name": "ferry"}
                manifest["spec"]["selector"] = {"matchLabels": labels}
                manifest["spec"]["template"]["metadata"] = {"labels": labels}
            kubernetes_validate.validate(manifest, VERSIONS[-1], strict=True)


def test_a_mistake_does_not_fit() -> None:
    manifest = yaml.safe_load((ROOT / "base" / "poddisruptionbudget.yaml").read_text())
    manifest["spec"]["maxUnavailabel"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(manifest, VERSIONS[-1], strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_part_finds_the_pods(overlay: str) -> None:
    manifests = built(f"overlays/{overlay}")
    deployment = of_kind(manifests, "Deployment")
    pod = deployment["spec"]["template"]
    labels = pod["metadata"]["labels"].items()
    selectors = [
        deployment["spec"]["selector"]["matchLabels"],
        of_kind(manifests, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        of_kind(manifests, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        pod["spec"]["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"],
        *(one["spec"]["selector"] for one in manifests if one["kind"] == "Service"),
    ]
    for selector in selectors:
        assert selector
        assert selector.items() <= labels
    target = of_kind(manifests, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", deployment["metadata"]["name"])
    named = {port["name"] for port in container(manifests)["ports"]}
    rules = of_kind(manifests, "NetworkPolicy")["spec"]["ingress"]
    assert {port["port"] for rule in rules for port in rule["ports"]} == named
    for service in (one for one in manifests if one["kind"] == "Service"):
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= named
    claims = {one["metadata"]["name"] for one in manifests if one["kind"] == "PersistentVolumeClaim"}
    used = {
        volume["persistentVolumeClaim"]["claimName"]
        for volume in pod["spec"]["volumes"]
        if "persistentVolumeClaim" in volume
    }
    assert used == claims


def test_a_disruption_leaves_a_replica() -> None:
    manifests = built("overlays/cpu")
    budget = of_kind(manifests, "PodDisruptionBudget")["spec"]["maxUnavailable"]
    assert budget < of_kind(manifests, "HorizontalPodAutoscaler")["spec"]["minReplicas"]


def test_pods_leave_in_time() -> None:
    """The grace period covers preStop, the drain and the time after which the server kills what is left."""
    spec = of_kind(built("overlays/cpu"), "Deployment")["spec"]["template"]["spec"]
    (server,) = spec["containers"]
    wait = float(server["lifecycle"]["preStop"]["exec"]["command"][1])
    drain = next(float(text.partition("=")[2]) for text in server["args"] if "drain_seconds" in text)
    assert drain == Options().drain_seconds
    assert wait + drain + 1.5 < spec["terminationGracePeriodSeconds"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_probes_ask_what_the_server_answers(overlay: str) -> None:
    server = container(built(f"overlays/{overlay}"))
    ports = {port["name"]: port["containerPort"] for port in server["ports"]}
    assert ports == {"grpc": 8500, "http": 8501}
    paths = {name: server[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert {name: probe["path"] for name, probe in paths.items()} == {
        "startup": "/livez",
        "liveness": "/livez",
        "readiness": "/readyz",
    }
    assert {probe["port"] for probe in paths.values()} == {"http"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_sets_the_model_once(overlay: str) -> None:
    entries = container(built(f"overlays/{overlay}"))["env"]
    names = [entry["name"] for entry in entries]
    assert len(names) == len(set(names))
    values = {entry["name"]: entry["value"] for entry in entries}
    assert values["MODEL_NAME"] == "half_plus_two"
    assert values["MODEL_BASE_PATH"] == ("s3://models" if overlay == "s3" else "/models")


def test_variants_ask_for_what_they_need() -> None:
    gpu = container(built("overlays/gpu"))
    assert gpu["image"].endswith(":gpu")
    assert gpu["resources"]["limits"]["nvidia.com/gpu"] == "1"
    s3 = built("overlays/s3")
    (ports,) = (
        rule["ports"] for rule in of_kind(s3, "NetworkPolicy")["spec"]["egress"] if len(rule["ports"]) == 1
    )
    assert ports[0]["port"] == 443
    (volume,) = (mount for mount in container(s3)["volumeMounts"] if mount["name"] == "models")
    assert not volume["readOnly"]


def test_one_service_is_scraped_and_by_a_metric_that_exists() -> None:
    manifests = built("overlays/cpu")
    monitor = of_kind(manifests, "ServiceMonitor")["spec"]
    wanted = monitor["selector"]["matchLabels"].items()
    services = [
        manifest["metadata"]
        for manifest in manifests
        if manifest["kind"] == "Service" and wanted <= manifest["metadata"]["labels"].items()
    ]
    assert len(services) == 1
    scaler = of_kind(manifests, "HorizontalPodAutoscaler")["spec"]
    cpu, queue = scaler["metrics"]
    assert cpu["resource"]["name"] == "cpu"
    metric = queue["pods"]["metric"]["name"]
    rules = yaml.safe_load((ROOT / "components" / "queue" / "adapter-values.yaml").read_text())["rules"]
    assert rules["custom"][0]["name"]["as"] == metric
    assert f"`{metric}`" in (REPOSITORY / "docs" / "operations.md").read_text()


def test_flags_of_all_manifests_exist() -> None:
    known = {flag.name for flag in flags()}
    for file in ROOT.rglob("*.yaml"):
        for name in re.findall(r"^\s*- --(\w+)=", file.read_text(), re.MULTILINE):
            assert name in known, f"{file}: {name}"


def test_the_runtime_is_kserves_with_another_image() -> None:
    runtime = yaml.safe_load((ROOT / "kserve" / "clusterservingruntime.yaml").read_text())
    assert runtime["metadata"]["name"] == "kserve-tensorflow-serving"
    spec = runtime["spec"]
    assert spec["protocolVersions"] == ["v1", "grpc-v1"]
    assert {form["version"] for form in spec["supportedModelFormats"]} == {"1", "2"}
    (server,) = spec["containers"]
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "x"},
        "spec": {"containers": [server]},
    }
    kubernetes_validate.validate(pod, VERSIONS[-1], strict=True)
    assert server["command"] == ["/usr/bin/tensorflow_model_server"]
    assert server["args"] == [
        "--model_name={{.Name}}",
        "--port=9000",
        "--rest_api_port=8080",
        "--model_base_path=/mnt/models",
        "--rest_api_timeout_in_ms=60000",
    ]
    assert spec["annotations"]["prometheus.kserve.io/path"] == Options().metrics_path
