from __future__ import annotations

import pytest

from app.errors import Code
from app.telemetry.observation import Observation
from app.telemetry.tracing import Tracing, route_of, stages


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/v1/models", "/v1/models"),
        ("/v1/models/m", "/v1/models/{model}"),
        ("/v1/models/m?x=1", "/v1/models/{model}"),
        ("/v1/models/m:predict", "/v1/models/{model}:predict"),
        ("/v1/models/m/versions/12:regress", "/v1/models/{model}/versions/{version}:regress"),
        ("/v1/models/m/labels/stable:classify", "/v1/models/{model}/labels/{label}:classify"),
        ("/v1/models/m/versions/1/metadata", "/v1/models/{model}/versions/{version}/metadata"),
        ("/v1/models/m:nonsense", ""),
        ("/other", ""),
    ],
)
def test_a_route_has_names_in_place_of_values(path: str, route: str) -> None:
    assert route_of(path) == route


def names(seen: Observation) -> list[str]:
    return [name for name, *_ in stages(seen)]


def test_stages_follow_each_other_as_far_as_they_are_known() -> None:
    seen = Observation("REST", "POST", "/x")
    seen.began = 0
    seen.ended = 1000
    assert list(stages(seen)) == [("receive", 0, 1000, {})]
    seen.started = 100
    assert list(stages(seen)) == [("receive", 0, 100, {})]
    seen.received = 50
    assert names(seen) == ["receive", "queue"]
    seen.ran = 300, 600
    seen.handled = 900
    assert names(seen) == ["receive", "queue", "decode", "run", "encode"]
    seen.queued = 200, 300
    assert list(stages(seen)) == [
        ("receive", 0, 50, {}),
        ("queue", 50, 100, {"ferry.queue": "threads"}),
        ("decode", 100, 200, {}),
        ("queue", 200, 300, {"ferry.queue": "batch"}),
        ("run", 300, 600, {}),
        ("encode", 600, 900, {}),
    ]


def test_a_request_that_is_not_sampled_keeps_its_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0")
    tracing = Tracing()
    trace = "0af7651916cd43dd8448eb211c80319c"
    seen = Observation("GRPC", "POST", "/a.B/C", traceparent=f"00-{trace}-b7ad6b7169203331-00")
    tracing.begin(seen)
    assert seen.trace_id == trace
    assert not seen.span.is_recording()
    seen.answered(Code.OK)
    seen.ended = seen.began
    tracing.end(seen)
    other = Observation("REST", "odd", "/x")
    tracing.begin(other)
    assert len(other.trace_id) == 32
    tracing.close(0)
