from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.models import ModelSpec
from app.errors import ServingError
from app.rest.paths import Action, EmptyBadRequestError, Route, route

M = ModelSpec("m")


@pytest.mark.parametrize(
    ("method", "target", "action", "spec"),
    [
        ("POST", "/v1/models/m:predict", Action.PREDICT, M),
        ("POST", "/v1/models/m:classify", Action.CLASSIFY, M),
        ("POST", "/v1/models/m:regress", Action.REGRESS, M),
        ("POST", "/v1/models/m/versions/3:predict", Action.PREDICT, ModelSpec("m", 3)),
        ("POST", "/v1/models/m/versions/0:predict", Action.PREDICT, ModelSpec("m", 0)),
        ("POST", "/v1/models/m/labels/a%20b:predict", Action.PREDICT, ModelSpec("m", label="a b")),
        ("POST", "/V1/Models/M/Versions/3:predict", Action.PREDICT, ModelSpec("M", 3)),
        ("POST", "/v1/models/a%2Fb%3Ac:predict", Action.PREDICT, ModelSpec("a/b:c")),
        ("POST", "/v1/models/a+b%zz%C3%BC:predict", Action.PREDICT, ModelSpec("a+b%zzü")),
        ("POST", "/v1/models/m?k=v:predict", Action.PREDICT, ModelSpec("m?k=v")),
        ("POST", "/v1/models/a.b-c_d~1:predict", Action.PREDICT, ModelSpec("a.b-c_d~1")),
        ("GET", "/v1/models/m", Action.STATUS, M),
        ("GET", "/V1/MODELS/mIxEd", Action.STATUS, ModelSpec("mIxEd")),
        ("GET", "/v1/models/m/versions/00012", Action.STATUS, ModelSpec("m", 12)),
        ("GET", "/v1/models/m/versions/9223372036854775807", Action.STATUS, ModelSpec("m", 2**63 - 1)),
        ("GET", "/v1/models/m/versions/" + "0" * 5000 + "7", Action.STATUS, ModelSpec("m", 7)),
        ("GET", "/v1/models/m/labels/stable", Action.STATUS, ModelSpec("m", label="stable")),
        ("GET", "/v1/models/m/metadata", Action.METADATA, M),
        ("GET", "/v1/models/m/versions/1/metadata", Action.METADATA, ModelSpec("m", 1)),
        ("GET", "/v1/models/m/labels/x/metadata", Action.METADATA, ModelSpec("m", label="x")),
        ("GET", "/v1/models/m/METADATA", Action.STATUS, M),
        ("GET", "/v1/models/metadata", Action.STATUS, ModelSpec("metadata")),
        ("GET", "/v1/models/metadata/metadata", Action.METADATA, ModelSpec("metadata")),
        ("GET", "/v1/models/versions", Action.STATUS, ModelSpec("versions")),
        ("GET", "/v1/models/m?k=v", Action.STATUS, ModelSpec("m?k=v")),
        ("GET", "/v1/models/m#part", Action.STATUS, ModelSpec("m#part")),
        ("GET", "/v1/models", Action.MODELS, ModelSpec("")),
        ("GET", "/V1/Models", Action.MODELS, ModelSpec("")),
    ],
)
def test_what_a_request_asks_for(method: str, target: str, action: Action, spec: ModelSpec) -> None:
    assert route(method, target) == Route(action, spec)


@pytest.mark.parametrize(
    "target",
    [
        "/v1/models/versions/1",
        "/v1/models/labels/x",
        "/v1/models/labels/x/metadata",
        "/v1/models/versions/1/metadata",
    ],
)
def test_a_request_without_a_model_name(target: str) -> None:
    with pytest.raises(ServingError) as raised:
        route("GET", target)
    assert str(raised.value) == "INVALID_ARGUMENT: Missing model name in request."


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/v1/models/"),
        ("GET", "/v1/models/m/"),
        ("GET", "/v1/models/m/foo"),
        ("GET", "/v1/models/m/versions"),
        ("GET", "/v1/models/m/versions/"),
        ("GET", "/v1/models/m/versions/abc"),
        ("GET", "/v1/models/m/versions/-1"),
        ("GET", "/v1/models/m/versions/+1"),
        ("GET", "/v1/models/m/versions/1.0"),
        ("GET", "/v1/models/m/versions/1/labels/x"),
        ("GET", "/v1/models/m/labels/"),
        ("GET", "/v1/models/m/metadata/"),
        ("GET", "/v1/models/m/metadata?x=1"),
        ("GET", "/v1/models/m/versions/1?x"),
        ("GET", "/v1/models/m:predict"),
        ("GET", "/v1/models?x"),
        ("GET", "/v1/foo"),
        ("GET", "/v1/"),
        ("POST", "/v1/models"),
        ("POST", "/v1/models/m"),
        ("POST", "/v1/models/m/metadata"),
        ("POST", "/v1/models/:predict"),
        ("POST", "/v1/models/m/version/1:predict"),
        ("POST", "/v1/models/m/versions/x:predict"),
        ("POST", "/v1/models/m/versions/:predict"),
        ("POST", "/v1/models/m/labels/:predict"),
        ("POST", "/v1/models/m/versions/1/labels/x:predict"),
        ("POST", "/v1/models/m:predict?k=v"),
        ("POST", "/v1/models/m:predict/"),
        ("POST", "/v1/models/m:predict:predict"),
        ("POST", "/v1/models/m:PREDICT"),
        ("POST", "/v1/models/m:Predict"),
        ("POST", "/v1/models/m:status"),
        ("POST", "/v1/models/m:metadata"),
        ("POST", "/v1/models/m:explain"),
        ("POST", "x/v1/models/m:predict"),
        ("HEAD", "/v1/models/m"),
        ("PUT", "/v1/models/m:predict"),
        ("DELETE", "/v1/models/m"),
        ("PATCH", "/v1/models/m"),
    ],
)
def test_what_the_grammar_does_not_have(method: str, target: str) -> None:
    with pytest.raises(ServingError) as raised:
        route(method, target)
    assert str(raised.value) == f"INVALID_ARGUMENT: Malformed request: {method} {target}"


@pytest.mark.parametrize("version", [str(2**63), str(2**64 - 1), "9" * 5000])
@pytest.mark.parametrize(
    ("method", "end"), [("GET", ""), ("GET", "/metadata"), ("POST", ":predict"), ("POST", ":classify")]
)
def test_a_version_above_int64(method: str, end: str, version: str) -> None:
    with pytest.raises(EmptyBadRequestError):
        route(method, f"/v1/models/m/versions/{version}{end}")


@given(
    st.sampled_from(["GET", "POST", "PUT"]),
    st.lists(
        st.one_of(st.sampled_from(["v1", "models", "versions", "labels", "metadata", "m:predict"]), st.text())
    ),
)
def test_any_target_has_a_route_or_a_clean_error(method: str, parts: list[str]) -> None:
    try:
        found = route(method, "/" + "/".join(parts))
    except (ServingError, EmptyBadRequestError):
        return
    assert found.spec.name or found.action is Action.MODELS  # the list of them
