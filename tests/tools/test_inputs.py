from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.engine import dtypes
from app.engine.signature import Signature, TensorSpec
from app.errors import ServingError
from app.tools.inputs import read_requests

A = TensorSpec("a", "a:0", dtypes.from_number(1), (-1,))
T = TensorSpec("t", "t:0", dtypes.STRING, (-1,))
BOTH = Signature("serving_default", "tensorflow/serving/predict", {"a": A, "t": T}, {"a": A}, {})
ONE = Signature("one", "tensorflow/serving/predict", {"a": A}, {"a": A}, {})
REGRESS = Signature("regress", "tensorflow/serving/regress", {"inputs": T}, {"outputs": A}, {})
ALL = {signature.name: signature for signature in (BOTH, ONE, REGRESS)}


def test_json_bodies_are_read(tmp_path: Path) -> None:
    file = tmp_path / "in.json"
    bodies: list[dict[str, Any]] = [
        {"instances": [{"a": 1, "t": "x"}, {"a": 2.5, "t": {"b64": "eQ=="}}]},
        {"signature_name": "regress", "examples": [{"f": 1.0}]},
    ]
    file.write_text(json.dumps(bodies))
    predict, regress = read_requests(str(file), ALL)
    message = predict.message("m")
    assert list(message.inputs["a"].float_val) == [1.0, 2.5]
    assert list(message.inputs["t"].string_val) == [b"x", b"y"]
    assert json.loads(predict.rest_body()) == {"signature_name": "serving_default", **bodies[0]}
    message = regress.message("m")
    assert message.model_spec.signature_name == "regress"
    assert list(message.input.example_list.examples[0].features.feature["f"].float_list.value) == [1.0]


def test_arrays_are_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", a=np.array([1.0]), t=np.array([b"\xff"]))
    (request,) = read_requests(str(tmp_path / "in.npz"), ALL)
    assert request.inputs["a"].dtype == np.float32
    assert json.loads(request.rest_body())["inputs"] == {"a": [1.0], "t": [{"b64": "/w=="}]}
    np.save(tmp_path / "in.npy", np.array([7], np.float32))
    (request,) = read_requests(str(tmp_path / "in.npy"), ALL, "one")
    assert list(request.message("m", 4).inputs["a"].float_val) == [7.0]


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("a.json", "{", "Expecting property name"),
        ("a.json", "[1]", "a request is a JSON object"),
        ("a.json", '{"signature_name": "none", "inputs": 1}', "there is no signature none"),
        ("a.json", '{"examples": [{}]}', "takes no examples"),
        ("a.json", '{"inputs": {"a": "x", "t": "x"}}', "JSON Value"),
        ("a.txt", "", "has to end in"),
        ("a.npy", "no array", "a.npy"),
        ("gone/a.json", None, "No such file"),
    ],
)
def test_mistakes_are_told_with_the_file(tmp_path: Path, name: str, content: str | None, text: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(ServingError, match=text) as caught:
        read_requests(str(tmp_path / name), ALL)
    assert name in caught.value.message


def test_arrays_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", b=np.array([1], np.float32))
    with pytest.raises(ServingError, match="has the inputs a, t; the file has b"):
        read_requests(str(tmp_path / "in.npz"), ALL)
    np.save(tmp_path / "in.npy", np.array(["x"]))
    with pytest.raises(ServingError, match="input a is float"):
        read_requests(str(tmp_path / "in.npy"), ALL, "one")
    with pytest.raises(ServingError, match="has 2 inputs"):
        read_requests(str(tmp_path / "in.npy"), ALL)
