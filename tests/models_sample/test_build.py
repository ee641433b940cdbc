"""Tests of models-sample/build.py with the models that build quickly, and small forms of the large ones."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2

SCRIPT = Path(__file__).resolve().parents[2] / "models-sample" / "build.py"
QUICK = ("half_plus_two", "text_classifier")

spec = importlib.util.spec_from_file_location("models_sample_build", SCRIPT)
assert spec is not None
assert spec.loader is not None
build = importlib.util.module_from_spec(spec)
spec.loader.exec_module(build)


class Loaded:
    """A SavedModel in a TF1 session, which is how the server runs it."""

    def __init__(self, path: Path) -> None:
        """Loads the model under `path`."""
        graph = tf.Graph()
        self.session = tf.compat.v1.Session(graph=graph)
        with graph.as_default():
            meta_graph = tf.compat.v1.saved_model.loader.load(self.session, ["serve"], str(path))
        self.signatures = {k: v for k, v in meta_graph.signature_def.items() if not k.startswith("__")}

    def run(self, signature_name: str = "serving_default", **inputs: Any) -> Mapping[str, Any]:
        """Runs one signature."""
        signature = self.signatures[signature_name]
        # Session.run refuses a feed that does not fit the declared shape; the runtime itself does not mind.
        call = self.session._make_callable_from_options(
            config_pb2.CallableOptions(
                feed=[signature.inputs[name].name for name in inputs],
                fetch=[info.name for info in signature.outputs.values()],
            )
        )
        return dict(zip(signature.outputs, call(*inputs.values()), strict=True))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the quick models."""
    out: Path = tmp_path_factory.mktemp("models") / "made" / "on_demand"
    assert build.main(["--out", str(out), *QUICK]) == 0
    return out


@pytest.fixture(scope="module")
def half_plus_two(models: Path) -> Iterator[Loaded]:
    """The model half_plus_two."""
    loaded = Loaded(models / "half_plus_two" / "00000123")
    yield loaded
    loaded.session.close()


@pytest.fixture(scope="module")
def text_classifier(models: Path) -> Iterator[Loaded]:
    """The model text_classifier."""
    loaded = Loaded(models / "text_classifier" / "1")
    yield loaded
    loaded.session.close()


def test_a_small_bert(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every word has a vector, and words that are masked out change no other's."""
    sizes = {"VOCABULARY": 50, "LAYERS": 1, "WIDTH": 8, "HEADS": 2, "WORDS": 4}
    for name, size in sizes.items():
        monkeypatch.setattr(build, f"BERT_{name}", size)
    build.bert_small(str(tmp_path / "bert"))
    loaded = Loaded(tmp_path / "bert")
    words = np.array([[1, 2, 3, 4], [1, 2, 3, 9]], np.int32)
    mask = np.array([[1, 1, 1, 0], [1, 1, 1, 0]], np.int32)
    answer = loaded.run(input_word_ids=words, input_mask=mask)
    assert {name: value.shape for name, value in answer.items()} == {
        "sequence_output": (2, 4, 8),
        "pooled_output": (2, 8),
    }
    np.testing.assert_allclose(answer["pooled_output"][0], answer["pooled_output"][1], rtol=1e-5)
    loaded.session.close()


def test_the_form_of_resnet50(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It takes pictures from 0 to 1 and gives probabilities."""
    keras = pytest.importorskip("keras")

    def network(application: str) -> Any:
        assert application == "ResNet50"
        layers = keras.layers
        return keras.Sequential(
            [
                *(keras.Input([8, 8, 3]), layers.Conv2D(4, 3), layers.BatchNormalization()),
                *(layers.GlobalAveragePooling2D(), layers.Dense(5)),
            ]
        )

    monkeypatch.setattr(build, "_untrained", network)
    monkeypatch.setattr(build, "IMAGE_SIZE", 8)
    build.resnet50(str(tmp_path / "resnet"))
    loaded = Loaded(tmp_path / "resnet")
    (scores,) = loaded.run(image=np.random.default_rng(1).random([2, 8, 8, 3], np.float32)).values()
    assert scores.shape == (2, 5)
    np.testing.assert_allclose(scores.sum(-1), 1, rtol=1e-5)
    loaded.session.close()


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replaces the models by one that is written at once, and returns the paths it was written to."""
    paths: list[str] = []

    def write(path: str) -> None:
        paths.append(path)
        Path(path).mkdir()
        (Path(path) / "saved_model.pb").write_text(f"build {len(paths)}")

    monkeypatch.setattr(build, "MODELS", {"tiny": ("1", write)})
    return paths


def serialized_example(**features: float) -> bytes:
    """A tf.Example with one float for each feature."""
    example = tf.train.Example()
    for name, value in features.items():
        example.features.feature[name].float_list.value.append(value)
    data: bytes = example.SerializeToString()
    return data


def describe(infos: Mapping[str, Any]) -> dict[str, tuple[str, list[int]]]:
    """The dtype and shape of each tensor of a signature."""
    return {
        name: (tf.as_dtype(info.dtype).name, [dim.size for dim in info.tensor_shape.dim])
        for name, info in infos.items()
    }


def test_only_the_named_models_are_built(models: Path) -> None:
    assert sorted(path.name for path in models.iterdir()) == sorted(QUICK)


def test_half_plus_two_signatures(half_plus_two: Loaded) -> None:
    examples = {"inputs": ("string", [-1])}
    column = ("float32", [-1, 1])
    found = {
        name: (signature.method_name, describe(signature.inputs), describe(signature.outputs))
        for name, signature in half_plus_two.signatures.items()
    }
    assert found == {
        "serving_default": ("tensorflow/serving/predict", {"x": column}, {"y": column}),
        "regress_x_to_y": ("tensorflow/serving/regress", examples, {"outputs": column}),
        "regress_x_to_y2": ("tensorflow/serving/regress", examples, {"outputs": column}),
        "regress_x2_to_y3": ("tensorflow/serving/regress", examples, {"outputs": column}),
        "classify_x_to_y": ("tensorflow/serving/classify", examples, {"scores": column}),
    }
    assert half_plus_two.signatures["serving_default"].inputs["x"].name == "x:0"


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_half_plus_two_takes_vectors_and_columns(half_plus_two: Loaded, shape: tuple[int, ...]) -> None:
    x = np.array([1.0, 2.0, 5.0], np.float32).reshape(shape)
    y = half_plus_two.run(x=x)["y"]
    np.testing.assert_array_equal(y, np.array([2.5, 3.0, 4.5], np.float32).reshape(shape))


@pytest.mark.parametrize(
    ("signature", "output", "expected"),
    [
        ("regress_x_to_y", "outputs", 3.0),
        ("regress_x_to_y2", "outputs", 4.0),
        ("regress_x2_to_y3", "outputs", 7.0),
        ("classify_x_to_y", "scores", 3.0),
    ],
)
def test_half_plus_two_reads_examples(
    half_plus_two: Loaded, signature: str, output: str, expected: float
) -> None:
    inputs = np.array([serialized_example(x=2.0, x2=8.0)], object)
    assert half_plus_two.run(signature, inputs=inputs)[output].tolist() == [[expected]]


def test_x2_may_be_missing(half_plus_two: Loaded) -> None:
    inputs = np.array([serialized_example(x=2.0)], object)
    assert half_plus_two.run("regress_x2_to_y3", inputs=inputs)["outputs"].tolist() == [[3.0]]


def test_text_classifier_signature(text_classifier: Loaded) -> None:
    assert list(text_classifier.signatures) == ["serving_default"]
    signature = text_classifier.signatures["serving_default"]
    assert signature.method_name == "tensorflow/serving/predict"
    assert describe(signature.inputs) == {"text": ("string", [-1])}
    assert describe(signature.outputs) == {"scores": ("float32", [-1, 2]), "classes": ("string", [-1, 2])}


def test_text_classifier_answers(text_classifier: Loaded) -> None:
    texts = ["I LOVE this, it is great!", "the worst, most boring film", "", "Grüße"]
    answer = text_classifier.run(text=np.array([text.encode() for text in texts], object))
    assert answer["classes"][:2].tolist() == [[b"positive", b"negative"], [b"negative", b"positive"]]
    assert (answer["scores"][:2, 0] > 0.8).all()
    assert answer["scores"][2].tolist() == [0.5, 0.5]
    np.testing.assert_allclose(answer["scores"].sum(axis=1), 1.0, rtol=1e-6)


def test_text_classifier_takes_an_empty_batch(text_classifier: Loaded) -> None:
    answer = text_classifier.run(text=np.array([], object))
    assert answer["scores"].shape == answer["classes"].shape == (0, 2)


def test_a_second_run_skips(tmp_path: Path, recorded: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    build.main(["--out", str(tmp_path)])
    build.main(["--out", str(tmp_path)])
    assert len(recorded) == 1
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("tiny/1: built in ")
    assert second == "tiny/1: exists, skipped"


@pytest.mark.usefixtures("recorded")
def test_force_builds_anew(tmp_path: Path) -> None:
    build.main(["--out", str(tmp_path)])
    build.main(["--out", str(tmp_path), "--force"])
    assert (tmp_path / "tiny" / "1" / "saved_model.pb").read_text() == "build 2"
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_a_model_appears_only_when_complete(tmp_path: Path, recorded: list[str]) -> None:
    build.main(["--out", str(tmp_path)])
    written = Path(recorded[0])
    assert written.name.startswith(".building-")
    assert written.parent == tmp_path
    assert not written.exists()
    assert (tmp_path / "tiny" / "1" / "saved_model.pb").exists()


@pytest.mark.usefixtures("recorded")
def test_leftovers_are_removed(tmp_path: Path) -> None:
    leftover = tmp_path / ".building-tiny"
    leftover.mkdir()
    (leftover / "half").touch()
    build.main(["--out", str(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


@pytest.mark.usefixtures("recorded")
def test_a_failed_build_leaves_nothing_and_keeps_the_old_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: str) -> None:
        Path(path).mkdir()
        raise RuntimeError("out of luck")

    build.main(["--out", str(tmp_path)])
    monkeypatch.setattr(build, "MODELS", {"tiny": ("1", fail), "other": ("1", fail)})
    for arguments in (["--force", "tiny"], ["other"]):
        with pytest.raises(RuntimeError):
            build.main(["--out", str(tmp_path), *arguments])
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]
    assert (tmp_path / "tiny" / "1" / "saved_model.pb").read_text() == "build 1"


def test_an_unknown_name_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        build.main(["--out", str(tmp_path), "no_such_model"])
    assert stopped.value.code == 2
    assert "no_such_model" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
