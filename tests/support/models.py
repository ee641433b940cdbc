"""Small SavedModels that tests serve. Each function writes one version directory."""

from __future__ import annotations

import os
import shutil
import uuid
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def tensorflow() -> Any:
    """TensorFlow, imported with its own deprecation warnings out of the way."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import tensorflow as tf
    return tf


def save(module: Any, path: Path, signatures: Any) -> Path:
    """Export beside `path` and rename into place, as a careful user publishes a version."""
    tf = tensorflow()
    path.parent.mkdir(parents=True, exist_ok=True)
    building = path.parent / f".{uuid.uuid4().hex}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tf.saved_model.save(module, str(building), signatures=signatures)
    if path.exists():
        shutil.rmtree(path)
    building.rename(path)
    return path


def save_half_plus(path: Path, constant: float = 2.0) -> Path:
    """y = x / 2 + constant, with a variable; x is float [None]."""
    tf = tensorflow()
    module = tf.Module()
    module.constant = tf.Variable(float(constant))
    module.function = tf.function(
        lambda x: {"y": x * 0.5 + module.constant},
        input_signature=[tf.TensorSpec([None], tf.float32, name="x")],
    )
    return save(module, path, module.function)


def save_first_pixel(path: Path) -> Path:
    """y = x[:, 0, 0, 0] / 2 + 2; x is float [None, 224, 224, 3]: much to receive, nothing to compute."""
    tf = tensorflow()
    module = tf.Module()
    module.function = tf.function(
        lambda x: {"y": x[:, 0, 0, 0] * 0.5 + 2.0},
        input_signature=[tf.TensorSpec([None, 224, 224, 3], tf.float32, name="x")],
    )
    return save(module, path, module.function)


def save_length(path: Path) -> Path:
    """y = the length of each string of x; x is string [None]."""
    tf = tensorflow()
    module = tf.Module()
    module.function = tf.function(
        lambda x: {"y": tf.strings.length(x)},
        input_signature=[tf.TensorSpec([None], tf.string, name="x")],
    )
    return save(module, path, module.function)


def save_large(path: Path, megabytes: int) -> Path:
    """y = x + w[0], where the variable w holds `megabytes` of random float32; x is float [None]."""
    tf = tensorflow()
    module = tf.Module()
    module.weights = tf.Variable(tf.random.uniform([megabytes, 250_000]))
    module.function = tf.function(
        lambda x: {"y": x + tf.reduce_sum(module.weights[0]) / 250_000},
        input_signature=[tf.TensorSpec([None], tf.float32, name="x")],
    )
    return save(module, path, module.function)


def save_convolutions(path: Path, megabytes: int) -> Path:
    """y = mean(conv(… relu(batch_norm(conv(z))))), 8 times, where z = x everywhere; x is float [None].

    The filters hold about `megabytes` of random float32. Such a model is made fast at load.
    """
    tf = tensorflow()
    depth = 8
    channels = round((megabytes * 1e6 / depth / 4 / 9) ** 0.5 / 32) * 32
    module = tf.Module()
    shape = [3, 3, channels, channels]
    module.filters = [tf.Variable(tf.random.normal(shape) / (3 * channels**0.5)) for _ in range(depth)]
    module.norms = [
        [tf.Variable(tf.random.uniform([channels]) + 0.5) for _ in range(4)] for _ in range(depth)
    ]

    def network(x: Any) -> Any:
        y = tf.tile(x[:, None, None, None], [1, 6, 6, channels])
        for filters, norm in zip(module.filters, module.norms, strict=True):
            y = tf.nn.conv2d(y, filters, 1, "SAME")
            y = tf.nn.relu(tf.compat.v1.nn.fused_batch_norm(y, *norm, is_training=False)[0])
        return {"y": tf.reduce_mean(y, [1, 2, 3])}

    spec = tf.TensorSpec([None], tf.float32, name="x")
    module.function = tf.function(network, input_signature=[spec], autograph=False)
    return save(module, path, module.function)


DTYPES = (
    *("float32", "float64", "float16", "bfloat16", "int8", "int16", "int32", "int64", "uint8", "uint16"),
    *("uint32", "uint64", "bool", "string", "complex64", "complex128"),
)


def save_identity(path: Path) -> Path:
    """One signature `id_DTYPE` for every element type: x of any shape comes back as y."""
    tf = tensorflow()
    module = tf.Module()
    signatures = {}
    for name in DTYPES:
        function = tf.function(
            lambda x: {"y": tf.identity(x)},
            input_signature=[tf.TensorSpec(None, tf.as_dtype(name), name="x")],
        )
        setattr(module, f"id_{name}", function)
        signatures[f"id_{name}"] = function
    signatures["serving_default"] = signatures["id_float32"]
    return save(module, path, signatures)


def save_two_inputs(path: Path) -> Path:
    """`serving_default`: a float [None, 2] and b int64 [None] to sum [None, 2] and twice [None]."""
    tf = tensorflow()
    module = tf.Module()
    module.function = tf.function(
        lambda a, b: {"sum": a + tf.cast(b, tf.float32)[:, None], "twice": b * 2},
        input_signature=[
            tf.TensorSpec([None, 2], tf.float32, name="a"),
            tf.TensorSpec([None], tf.int64, name="b"),
        ],
    )
    return save(module, path, module.function)


def save_busy(path: Path) -> Path:
    """x int64 [] to y int64 []: counts to x, some 100 ns a step or more, so that a run can take long."""
    tf = tensorflow()
    module = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec([], tf.int64, name="x")])  # type: ignore[untyped-decorator]
    def count(x: Any) -> Any:
        zero = tf.constant(0, tf.int64)
        (steps,) = tf.while_loop(lambda i: i < x, lambda i: (i + 1,), (zero,))
        return {"y": steps}

    module.count = count
    return save(module, path, count)


def save_gated(path: Path) -> Path:
    """y = x, string [], answered when a test lets it: see `tests.support.gate.Gate`.

    A run with the empty string is done at once. Any other names a directory: the run makes a file `entered`
    in it, and then opens the named pipe `gate` for writing, which takes until somebody opens it for reading.
    """
    tf = tensorflow()
    module = tf.Module()

    def enter(directory: Any) -> Any:
        with tf.control_dependencies([tf.io.write_file(directory + "/entered", "")]):
            gate = tf.io.write_file(directory + "/gate", "")
        with tf.control_dependencies([gate]):
            return tf.identity(directory)

    spec = tf.TensorSpec([], tf.string, name="x")
    module.wait = tf.function(
        lambda x: {"y": tf.cond(tf.equal(x, ""), lambda: tf.identity(x), lambda: enter(x))},
        input_signature=[spec],
        autograph=False,
    )
    return save(module, path, module.wait)


def save_vocabulary(path: Path, words: Sequence[str]) -> Path:
    """A TF1 export that looks words up: string [None] to int64 [None], -1 for others.

    The table is filled by an initialiser from a vocabulary file, which is an asset.
    """
    tf = tensorflow()
    tf1 = tf.compat.v1
    path.parent.mkdir(parents=True, exist_ok=True)
    source = path.parent / f"words-{uuid.uuid4().hex}.txt"
    source.write_text("\n".join(words))
    with warnings.catch_warnings(), tf1.Graph().as_default() as graph, tf1.Session(graph=graph) as session:
        warnings.simplefilter("ignore")
        asset = tf.constant(str(source))
        tf1.add_to_collection(tf1.GraphKeys.ASSET_FILEPATHS, asset)
        initialiser = tf.lookup.TextFileInitializer(
            asset,
            tf.string,
            tf.lookup.TextFileIndex.WHOLE_LINE,
            tf.int64,
            tf.lookup.TextFileIndex.LINE_NUMBER,
        )
        table = tf.lookup.StaticHashTable(initialiser, -1)
        word = tf1.placeholder(tf.string, [None], name="word")
        number = tf.identity(table.lookup(word), name="number")
        session.run(tf1.tables_initializer())
        builder = tf1.saved_model.Builder(str(path))
        signature = tf1.saved_model.signature_def_utils.predict_signature_def(
            {"word": word}, {"number": number}
        )
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            signature_def_map={"serving_default": signature},
            assets_collection=tf1.get_collection(tf1.GraphKeys.ASSET_FILEPATHS),
            main_op=tf1.tables_initializer(),
        )
        builder.save()
    source.unlink()
    return path


def save_function_op(path: Path) -> Path:
    """y = x / 2 + 2 as TensorFlow 1 wrote functions: the name of one is the op of a node."""
    tf = tensorflow()
    from tensorflow.python.framework import function

    half_plus_two = function.Defun(tf.float32, func_name="half_plus_two")(lambda x: x * 0.5 + 2.0)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        x = tf.compat.v1.placeholder(tf.float32, [None], name="x")
        y = tf.identity(half_plus_two(x), name="y")
        tf.compat.v1.saved_model.simple_save(session, str(path), {"x": x}, {"y": y})
    return path


def edit_meta_graph(path: Path, change: Callable[[Any], None]) -> Path:
    """Change the one meta graph of the SavedModel in `path`, in place."""
    from tensorflow.core.protobuf import saved_model_pb2

    file = path / "saved_model.pb"
    saved_model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    change(saved_model.meta_graphs[0])
    file.write_bytes(saved_model.SerializeToString())
    return path


def save_counting(path: Path) -> Path:
    """A model that counts its runs. `count` has no input and gives predict, classify and regress, int64 [].

    `serving_default`: x float [None] to y = x / 2 + 2. `classify` and `regress`: serialized Examples with a
    float x; scores float [None, 1] and outputs float [None] are what x was.
    """
    tf = tensorflow()
    module = tf.Module()
    module.runs = {name: tf.Variable(0, dtype=tf.int64) for name in ("predict", "classify", "regress")}
    examples = tf.TensorSpec([None], tf.string, name="inputs")

    def x_of(inputs: Any) -> Any:
        return tf.io.parse_example(inputs, {"x": tf.io.FixedLenFeature([1], tf.float32)})["x"]

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, name="x")])  # type: ignore[untyped-decorator]
    def predict(x: Any) -> Any:
        module.runs["predict"].assign_add(1)
        return {"y": x / 2.0 + 2.0}

    @tf.function(input_signature=[examples])  # type: ignore[untyped-decorator]
    def classify(inputs: Any) -> Any:
        module.runs["classify"].assign_add(1)
        return {"scores": x_of(inputs)}

    @tf.function(input_signature=[examples])  # type: ignore[untyped-decorator]
    def regress(inputs: Any) -> Any:
        module.runs["regress"].assign_add(1)
        return {"outputs": x_of(inputs)[:, 0]}

    @tf.function(input_signature=[])  # type: ignore[untyped-decorator]
    def count() -> Any:
        return {name: tf.identity(runs) for name, runs in module.runs.items()}

    signatures = {"serving_default": predict, "classify": classify, "regress": regress, "count": count}
    return save(module, path, signatures)


def save_batch_probe(path: Path) -> Path:
    """A model that tells which batch a row was in. `serving_default`: x float, any shape but a scalar's.

    y is x + 1, n int64 [None] the number of rows of the run; a run with a negative x fails. `pair`: a
    and b float [None] to their sum y, and n. `words`: string x to itself, and n. `regress`: serialized
    Examples to outputs float [None], their number. What does not fit batching: `scalar` (an output total
    of x float [None]), `positive` (those of x float [None] that are above 0) and `constant` (no input).
    """
    tf = tensorflow()
    module = tf.Module()
    flat = tf.TensorSpec([None], tf.float32, name="x")

    def rows_of(tensor: Any, dtype: Any) -> Any:
        return tf.fill(tf.shape(tensor)[:1], tf.cast(tf.shape(tensor)[0], dtype))

    def signature(function: Callable[..., Any], *specs: Any) -> Any:
        made = tf.function(function, input_signature=specs)
        setattr(module, function.__name__, made)
        return made

    def probe(x: Any) -> Any:
        with tf.control_dependencies([tf.debugging.assert_non_negative(x, message="negative")]):
            return {"y": x + 1.0, "n": rows_of(x, tf.int64)}

    def scalar(x: Any) -> Any:
        return {"y": x, "total": tf.reduce_sum(x)}

    def positive(x: Any) -> Any:
        return {"y": tf.boolean_mask(x, x > 0)}

    def constant() -> Any:
        return {"y": tf.constant([1.0])}

    def pair(a: Any, b: Any) -> Any:
        return {"y": a + b, "n": rows_of(a, tf.int64)}

    def words(x: Any) -> Any:
        return {"y": tf.identity(x), "n": rows_of(x, tf.int64)}

    def regress(inputs: Any) -> Any:
        return {"outputs": rows_of(inputs, tf.float32)}

    signatures = {
        "serving_default": signature(probe, tf.TensorSpec(None, tf.float32, name="x")),
        "scalar": signature(scalar, flat),
        "positive": signature(positive, flat),
        "constant": signature(constant),
        "pair": signature(
            pair, tf.TensorSpec([None], tf.float32, name="a"), tf.TensorSpec([None], tf.float32, name="b")
        ),
        "words": signature(words, tf.TensorSpec(None, tf.string, name="x")),
        "regress": signature(regress, tf.TensorSpec([None], tf.string, name="inputs")),
    }
    return save(module, path, signatures)


def write_warmup(path: Path, *records: Any) -> Path:
    """Give the version directory `path` a warm-up file of PredictionLogs, or of bytes; the file."""
    tf = tensorflow()
    file = path / "assets.extra" / "tf_serving_warmup_requests"
    file.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(file)) as writer:
        for record in records:
            writer.write(record if isinstance(record, bytes) else record.SerializeToString())
    return file


def save_reaching(path: Path) -> Path:
    """A model that reads and writes files and prints: x string [] is a file's name, y its content.

    The write hides in a function of a loop, the rest in a branch; a dataset reads records too.
    """
    tf = tensorflow()
    module = tf.Module()

    @tf.function(input_signature=[tf.TensorSpec([], tf.string, name="x")])  # type: ignore[untyped-decorator]
    def read(x: Any) -> Any:
        def written(i: Any) -> Any:
            tf.io.write_file(tf.strings.join([x, ".copy"]), "seen")
            return (i + 1,)

        tf.while_loop(lambda i: i < 1, written, (tf.constant(0),))
        tf.print("reading", x)
        records = tf.data.TFRecordDataset(tf.constant([], tf.string))
        count = records.reduce(tf.constant(0, tf.int64), lambda total, _: total + 1)
        content = tf.cond(tf.strings.length(x) > 0, lambda: tf.io.read_file(x), lambda: x)
        return {"y": content, "n": count}

    module.read = read
    return save(module, path, read)


def save_vocabulary_function(path: Path, words: Sequence[str]) -> Path:
    """A TF2 export with a table from a vocabulary file, which is an asset: string [None] to int64."""
    tf = tensorflow()
    path.parent.mkdir(parents=True, exist_ok=True)
    source = path.parent / f"words-{uuid.uuid4().hex}.txt"
    source.write_text("\n".join(words))
    initialiser = tf.lookup.TextFileInitializer(
        str(source),
        tf.string,
        tf.lookup.TextFileIndex.WHOLE_LINE,
        tf.int64,
        tf.lookup.TextFileIndex.LINE_NUMBER,
    )
    module = tf.Module()
    module.table = tf.lookup.StaticHashTable(initialiser, -1)
    module.weights = tf.Variable(1)
    module.function = tf.function(
        lambda x: {"y": module.table.lookup(x) * tf.cast(module.weights, tf.int64)},
        input_signature=[tf.TensorSpec([None], tf.string, name="x")],
    )
    save(module, path, module.function)
    source.unlink()
    return path


def save_crashing(path: Path) -> Path:
    """A model that ends the process when it is loaded: a function calls itself and is a node's op."""
    tf = tensorflow()
    module = tf.Module()
    floats = tf.TensorSpec([None], tf.float32, name="x")
    inner = tf.function(lambda x: x + 1.0, input_signature=[floats])
    module.function = tf.function(lambda x: {"y": inner(x) * 2.0}, input_signature=[floats])
    save(module, path, module.function)

    def recurse(meta_graph: Any) -> None:
        graph = meta_graph.graph_def
        for function in graph.library.function:
            signature = function.signature
            for node in function.node_def:
                if "PartitionedCall" in node.op and len(signature.input_arg) == 1:
                    node.attr["f"].func.name = signature.name
                    endless = signature.name
        placeholder = next(node.name for node in graph.node if node.op == "Placeholder")
        graph.node.add(name="endless", op=endless, input=[placeholder])

    return edit_meta_graph(path, recurse)
