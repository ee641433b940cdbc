from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorflow_serving.apis import prediction_log_pb2

from app.recording.prediction_logs import KINDS, prediction_log
from app.telemetry.observation import Observation


def observation() -> Observation:
    seen = Observation("GRPC", "POST", "/tensorflow.serving.PredictionService/Predict")
    seen.asked_for("m", "other")
    seen.served_by(7)
    return seen


@given(st.text(), st.integers(0, 20_000))
def test_messages_go_in_as_they_are(name: str, size: int) -> None:
    log = prediction_log_pb2.PredictionLog()
    log.predict_log.request.model_spec.name = name
    log.predict_log.request.inputs["x"].tensor_content = b"x" * size
    log.predict_log.response.outputs["y"].float_val.append(1.5)
    messages = log.predict_log.request.SerializeToString(), log.predict_log.response.SerializeToString()
    found = prediction_log_pb2.PredictionLog.FromString(
        prediction_log(observation(), "predict_log", messages, 0.25)
    )
    assert found.predict_log == log.predict_log
    assert found.log_metadata.model_spec.name == "m"
    assert found.log_metadata.model_spec.version.value == 7
    assert found.log_metadata.model_spec.signature_name == "other"
    assert found.log_metadata.sampling_config.sampling_rate == 0.25


@pytest.mark.parametrize("kind", sorted(KINDS.values()))
def test_every_kind_has_its_place(kind: str) -> None:
    found = prediction_log_pb2.PredictionLog.FromString(prediction_log(observation(), kind, (b"", b""), 1))
    assert found.WhichOneof("log_type") == kind
