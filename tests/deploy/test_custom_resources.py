"""The custom resources against their definitions, and against what of these is known without reading them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import requests
import yaml

from tests.support.process import REPOSITORY

ROOT = REPOSITORY / "deploy" / "kubernetes"
CUSTOM = {
    "ServiceMonitor": "https://raw.githubusercontent.com/prometheus-operator/prometheus-operator/v0.85.0/"
    "example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml",
    "ClusterServingRuntime": "https://raw.githubusercontent.com/kserve/kserve/v0.15.2/"
    "config/crd/full/serving.kserve.io_clusterservingruntimes.yaml",
}

Manifest = dict[str, Any]


def schema(kind: str) -> Manifest:
    """The published schema of a custom resource.

    From FERRY_TEST_CRDS, a directory of the files that CUSTOM names, or else from there; skips the test
    where neither can be read.
    """
    address = CUSTOM[kind]
    if directory := os.environ.get("FERRY_TEST_CRDS"):
        text = (Path(directory) / address.rpartition("/")[2]).read_text()
    else:
        try:
            answer = requests.get(address, timeout=30)
            answer.raise_for_status()
        except requests.RequestException as error:
            pytest.skip(f"{address} cannot be read: {error}")
        text = answer.text
    definition: Manifest = yaml.safe_load(text)
    one: Manifest = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    result: Manifest = closed(one)
    return result


def closed(part: Any) -> Any:
    """The schema with unknown fields refused, as the API server drops them."""
    if isinstance(part, list):
        return [closed(item) for item in part]
    if not isinstance(part, dict):
        return part
    result = {name: closed(value) for name, value in part.items()}
    open_ended = {"additionalProperties", "x-kubernetes-preserve-unknown-fields"} & part.keys()
    if isinstance(part.get("properties"), dict) and part.get("type") == "object" and not open_ended:
        result["additionalProperties"] = False
    return result


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("ServiceMonitor", "components/monitoring/servicemonitor.yaml"),
        ("ClusterServingRuntime", "kserve/clusterservingruntime.yaml"),
    ],
)
def test_custom_resources_fit_their_definitions(kind: str, path: str) -> None:
    validator = jsonschema.Draft7Validator(schema(kind))
    manifest = yaml.safe_load((ROOT / path).read_text())
    manifest["metadata"] = {}  # the API server's own, which a definition does not describe
    assert [error.message for error in validator.iter_errors(manifest)] == []
    manifest["spec"]["unheard"] = 1
    assert not validator.is_valid(manifest)


# The parts that are used here, for machines that cannot read the definitions: the fields that exist, closed.
_MAP = {"type": "object", "additionalProperties": {"type": "string"}}
_ENDPOINT = {
    "port": {"type": "string"},
    "path": {"type": "string", "pattern": "^/"},
    "interval": {"type": "string", "pattern": "^[0-9]+(ms|s|m)$"},
}
_FORMAT = {
    "name": {"type": "string"},
    "version": {"type": "string"},
    "autoSelect": {"type": "boolean"},
    "priority": {"type": "integer", "minimum": 1},
}


def _only(**fields: Any) -> Manifest:
    return {"type": "object", "properties": fields, "additionalProperties": False, "required": list(fields)}


USED = {
    "components/monitoring/servicemonitor.yaml": (
        "monitoring.coreos.com/v1",
        _only(selector=_only(matchLabels=_MAP), endpoints={"type": "array", "items": _only(**_ENDPOINT)}),
    ),
    "kserve/clusterservingruntime.yaml": (
        "serving.kserve.io/v1alpha1",
        _only(
            annotations=_MAP,
            supportedModelFormats={"type": "array", "items": _only(**_FORMAT)},
            protocolVersions={"type": "array", "items": {"enum": ["v1", "v2", "grpc-v1", "grpc-v2"]}},
            containers={
                "type": "array",
                "items": {"type": "object"},
            },  # those of a pod, which is checked below
        ),
    ),
}


@pytest.mark.parametrize("path", USED)
def test_custom_resources_have_only_fields_that_exist(path: str) -> None:
    version, schema_of_spec = USED[path]
    manifest = yaml.safe_load((ROOT / path).read_text())
    assert manifest["apiVersion"] == version
    assert set(manifest) == {"apiVersion", "kind", "metadata", "spec"}
    jsonschema.validate(manifest["spec"], schema_of_spec)
