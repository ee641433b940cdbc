from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from app.errors import ServingError
from app.tools.export_savedmodel import convert
from app.tools.local_model import LocalModel
from tests.support import models


def test_chosen_signatures_stay_with_variables(zoo: Path, tmp_path: Path) -> None:
    convert(str(zoo / "counting"), str(tmp_path), ["serve"], ["serving_default", "count"])
    model = LocalModel(str(tmp_path))
    assert set(model.describe().signatures) == {"serving_default", "count"}
    loaded = model.loaded()
    loaded.run(loaded.signatures["serving_default"], {"x": np.array([1], np.float32)})
    assert loaded.run(loaded.signatures["count"], {})["predict"] == 1
    model.close()
    tf = models.tensorflow()
    assert set(tf.saved_model.load(str(tmp_path)).signatures) == {"serving_default", "count"}


def test_assets_stay(zoo: Path, tmp_path: Path) -> None:
    convert(str(zoo / "words" / "1" / "saved_model.pb"), str(tmp_path), ["serve"], [])
    model = LocalModel(str(tmp_path))
    loaded = model.loaded()
    words = np.array([b"bad", b"else"], object)
    np.testing.assert_array_equal(
        loaded.run(loaded.signatures["serving_default"], {"word": words})["number"], [1, -1]
    )
    model.close()


def test_signatures_that_are_not_there_are_told_with_those_that_are(zoo: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ServingError, match="has no signature nope; it has: classify, count, regress, serving"
    ):
        convert(str(zoo / "counting"), str(tmp_path), ["serve"], ["count", "nope"])
