from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from app.engine import savedmodel_file
from app.tools.graph import Facts, Feature, Graph
from tests.support import models


def facts(path: Path, signature: str = "serving_default") -> Facts:
    meta_graph = savedmodel_file.meta_graph(savedmodel_file.read(str(path)), ["serve"])
    outputs = meta_graph.signature_def[signature].outputs.values()
    return Graph(meta_graph).facts(info.name for info in outputs)


def test_features_are_found_where_a_graph_parses_examples(zoo: Path, tmp_path: Path) -> None:
    assert facts(zoo / "counting" / "1", "regress").features == (Feature("x", "float", 1),)
    assert facts(zoo / "counting" / "1") == Facts()
    tf = models.tensorflow()
    module = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])  # type: ignore[untyped-decorator]
    def parse(examples: Any) -> Any:
        parsed = tf.io.parse_example(
            examples,
            {
                "ids": tf.io.FixedLenFeature([2, 2], tf.int64),
                "word": tf.io.FixedLenFeature([], tf.string, ""),
                "more": tf.io.VarLenFeature(tf.float32),
                "ragged": tf.io.RaggedFeature(tf.int64),
            },
        )
        more = tf.sparse.to_dense(parsed["more"])
        return {
            "ids": parsed["ids"],
            "word": parsed["word"],
            "more": more,
            "rows": parsed["ragged"].row_lengths(),
        }

    module.parse = parse
    models.save(module, tmp_path / "1", parse)
    assert facts(tmp_path / "1").features == (
        Feature("ids", "int64", 4),
        Feature("more", "float", 1),
        Feature("ragged", "int64", 1),
        Feature("word", "bytes", 1),
    )


def test_pictures_are_recognised(tmp_path: Path) -> None:
    tf = models.tensorflow()
    module = tf.Module()
    module.decode = tf.function(
        lambda data: {"rank": tf.rank(tf.io.decode_image(data[0]))},
        input_signature=[tf.TensorSpec([None], tf.string, name="data")],
    )
    models.save(module, tmp_path / "1", module.decode)
    found = facts(tmp_path / "1")
    assert found.decodes_images
    from app.tools.example import PNG, examples
    from app.tools.local_model import LocalModel

    signature = LocalModel(str(tmp_path / "1")).describe().signatures["serving_default"]
    body = next(examples(signature, found)).rest_body()
    assert body == {"inputs": [{"b64": base64.b64encode(PNG).decode()}]}


def test_what_is_not_behind_a_tensor_does_not_count(zoo: Path) -> None:
    meta_graph = savedmodel_file.meta_graph(savedmodel_file.read(str(zoo / "half" / "3")), ["serve"])
    ops = {node.op for function in meta_graph.graph_def.library.function for node in function.node_def}
    ops |= {node.op for node in meta_graph.graph_def.node}
    assert "SaveV2" in ops
    assert facts(zoo / "half" / "3").file_ops == ()
    assert Graph(meta_graph).has("serving_default_x:0")
    assert not Graph(meta_graph).has("nothing:0")
