from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from app.errors import ServingError
from app.tools import export_keras
from app.tools.local_model import LocalModel
from tests.tools.sources import save_keras


@pytest.mark.parametrize("ending", ["keras", "h5"])
def test_both_formats_are_exported(tmp_path: Path, ending: str) -> None:
    source, target = save_keras(tmp_path / f"m.{ending}"), tmp_path / "1"
    export_keras.convert(str(source), str(target))
    model = LocalModel(str(target))
    loaded = model.loaded()
    signature = loaded.signatures["serving_default"]
    (alias,) = signature.inputs
    (value,) = loaded.run(signature, {alias: np.array([[1, 1, 1]], np.float32)}).values()
    np.testing.assert_array_equal(value, [[6, 6]])
    model.close()


def test_what_keras_cannot_load_is_told(tmp_path: Path) -> None:
    (tmp_path / "m.keras").write_text("no archive")
    with pytest.raises(ServingError, match=r"Keras cannot export .*m\.keras: "):
        export_keras.convert(str(tmp_path / "m.keras"), str(tmp_path / "1"))


def test_without_keras_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_keras, "find_spec", lambda name: None)  # noqa: ARG005
    with pytest.raises(ServingError, match=r"pip install 'ferry-model-server\[keras\]'"):
        export_keras.convert(str(tmp_path / "m.keras"), str(tmp_path / "1"))
