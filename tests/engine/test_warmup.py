from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from app.engine.model import Model
from app.engine.warmup import warm_up_from_signatures
from tests.engine.conftest import edited, load


def test_warm_up_runs_every_signature_that_can_be_called(
    half_plus_two: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "app")
    model = load(half_plus_two / "1")
    caplog.clear()
    warm_up_from_signatures(model)
    (message,) = caplog.messages
    assert message.startswith("Signature serving_default warmed up in ")
    model.close()


def test_a_signature_that_refuses_an_example_stays_cold(
    half_plus_two: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def change(meta_graph: Any) -> None:
        signature = meta_graph.signature_def["broken"]
        signature.CopyFrom(meta_graph.signature_def["serving_default"])
        signature.outputs["y"].name = "nowhere:0"

    caplog.set_level(logging.INFO, "app")
    model = edited(half_plus_two / "1", change, tmp_path)
    warm_up_from_signatures(model)
    assert sum(message.startswith("Signature serving_default warmed up") for message in caplog.messages) == 1
    (cold,) = [message for message in caplog.messages if "cold" in message]
    assert cold.startswith("Signature broken stays cold: ")
    assert "\n" not in cold
    model.close()


def test_warm_up_skips_inputs_of_unknown_rank(identity: Model, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "app")
    warm_up_from_signatures(identity)
    assert not caplog.messages
