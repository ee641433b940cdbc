"""What holds for every tensor and for every sequence of bytes, against one server of an identity model."""

from __future__ import annotations

import base64
import contextlib
import gzip
import http.client
import json
import math
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import pytest
from google.protobuf.message import DecodeError
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    predict_pb2,
)

from app.options import TRANSPORTS
from tests.support import models
from tests.support.models import tensorflow
from tests.support.process import ServerProcess

Array = npt.NDArray[Any]

NAME = "id"
TIMEOUT_SECONDS = 30  # an answer that takes longer hangs
PREDICT = "/tensorflow.serving.PredictionService/Predict"
METHODS = (
    PREDICT,
    "/tensorflow.serving.PredictionService/Classify",
    "/tensorflow.serving.PredictionService/Regress",
    "/tensorflow.serving.PredictionService/MultiInference",
    "/tensorflow.serving.PredictionService/GetModelMetadata",
    "/tensorflow.serving.ModelService/GetModelStatus",
)
# The element types that TensorFlow Serving reads from JSON.
JSON_DTYPES = (
    *("float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint32", "uint64"),
    *("bool", "string"),
)
# What grpcio answers by itself to bytes that are no message of the method's request type.
NOT_A_MESSAGE = "Exception deserializing request!"
# A repeated value may fill a large tensor by a few bytes; the examples here stay small.
MOST_ELEMENTS = 100_000


# --- tensors ---


def numpy_dtype(name: str) -> Any:
    """The NumPy type of an element type other than string."""
    return np.dtype(tensorflow().as_dtype(name).as_numpy_dtype)


def special_elements(name: str) -> list[bytes]:
    """The bits of values that conversions get wrong."""
    dtype = numpy_dtype(name)
    if dtype == np.bool_:
        return [b"\0", b"\1"]
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return [np.array(value, dtype).tobytes() for value in (0, limits.min, limits.max)]
    reals = [0.0, -0.0, 1.0, math.inf, -math.inf, math.nan, -math.nan, 1e-45, 5e-324]
    return [np.array(value).astype(dtype).tobytes() for value in reals]


def quiet(array: Array) -> Array:
    """`array` with its NaNs made quiet: Python's float, which clients read with, keeps no signalling ones."""
    if array.dtype.name in ("float32", "complex64"):
        parts = array.view(np.float32)
        parts.view(np.uint32)[np.isnan(parts)] |= 1 << 22
    return array


@st.composite
def tensors(draw: st.DrawFn, name: str) -> Array:
    """A tensor of any bits and of any small shape; strings are objects."""
    shape = tuple(draw(st.lists(st.integers(0, 3), max_size=4)))
    count = math.prod(shape)
    if name == "string":
        array = np.empty(count, object)
        array[:] = draw(st.lists(st.binary(max_size=20), min_size=count, max_size=count))
        return array.reshape(shape)
    dtype = numpy_dtype(name)
    element: st.SearchStrategy[bytes] = st.sampled_from(special_elements(name))
    if dtype != np.bool_:
        element |= st.binary(min_size=dtype.itemsize, max_size=dtype.itemsize)
    bits = b"".join(draw(st.lists(element, min_size=count, max_size=count)))
    return quiet(np.frombuffer(bytearray(bits), dtype)).reshape(shape)


def bits_of(array: Array) -> Any:
    """What has to be equal for tensors to be equal bit for bit."""
    return array.shape, array.ravel().tolist() if array.dtype == object else (array.dtype, array.tobytes())


def fill_field(proto: Any, name: str, array: Array) -> None:
    """Put the elements into the type's own field."""
    flat = array.ravel()
    match name:
        case "string":
            proto.string_val.extend(flat.tolist())
        case "float16" | "bfloat16":
            proto.half_val.extend(flat.view(np.uint16).tolist())
        case "float32":
            proto.float_val.extend(flat.tolist())
        case "float64":
            proto.double_val.extend(flat.tolist())
        case "complex64":
            proto.scomplex_val.extend(flat.view(np.float32).tolist())
        case "complex128":
            proto.dcomplex_val.extend(flat.view(np.float64).tolist())
        case "int64" | "bool" | "uint32" | "uint64":
            getattr(proto, f"{name}_val").extend(flat.tolist())
        case _:
            proto.int_val.extend(flat.tolist())


def fill_content(proto: Any, name: str, array: Array) -> None:
    """Put the elements into `tensor_content`; the length of a string stands before all strings."""
    if name == "string":
        strings = array.ravel().tolist()
        proto.tensor_content = bytes(map(len, strings)) + b"".join(strings)
    else:
        proto.tensor_content = array.tobytes()


FILL: Mapping[str, Callable[[Any, str, Array], None]] = {"field": fill_field, "content": fill_content}


def predict_request(name: str, array: Array, fill: Callable[[Any, str, Array], None] = fill_field) -> Any:
    """A request that has `array` sent back."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = NAME
    request.model_spec.signature_name = f"id_{name}"
    proto = request.inputs["x"]
    proto.dtype = tensorflow().as_dtype(name).as_datatype_enum
    proto.tensor_shape.SetInParent()
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    fill(proto, name, array)
    return request


# --- the server ---

# What concerns REST alone is not asked twice.
over_rest = pytest.mark.parametrize("server", TRANSPORTS[:1], indirect=True)


@pytest.fixture(scope="module", params=TRANSPORTS)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """One server of the identity model, which has to outlive all that is sent to it."""
    directory = tmp_path_factory.mktemp("identity")
    models.save_identity(directory / "model" / "1")
    flags = [f"--grpc_transport={request.param}"]
    process = ServerProcess(directory / "model", directory / "server.log", name=NAME, flags=flags)
    try:
        yield process.wait_ready()
    finally:
        process.kill()


@pytest.fixture
def unharmed(server: ServerProcess) -> Iterator[ServerProcess]:
    """The server; after the test the same process serves, and it reported no mistake of its own."""
    worker, written = server.worker_pid(), len(server.log)
    yield server
    assert server.process.poll() is None
    assert server.worker_pid() == worker
    new = server.log[written:]
    assert "failed unexpectedly" not in new
    assert "Exception in ASGI application" not in new
    assert server.predict([1.5], signature_name="id_float32").json() == {"predictions": [1.5]}
    good = predict_request("float32", np.array([1.5], np.float32))
    assert server.prediction.Predict(good, timeout=TIMEOUT_SECONDS).outputs["y"].float_val == [1.5]


class Rest:
    """A keep-alive connection to the REST port, made anew when the server has closed it."""

    def __init__(self, server: ServerProcess) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=TIMEOUT_SECONDS)

    def post(self, path: str, body: bytes, **headers: str) -> tuple[int, bytes]:
        """Status and body of the answer. The first error on an old connection is answered by a new one."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        for attempt in range(2):
            fresh = self._connection.sock is None
            try:
                self._connection.request("POST", path, body, named)
                answer = self._connection.getresponse()
                return answer.status, answer.read()
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                self._connection.close()
                if fresh or attempt:
                    raise
        raise AssertionError("unreachable")

    def close(self) -> None:
        self._connection.close()


@pytest.fixture
def rest(unharmed: ServerProcess) -> Iterator[Rest]:
    connection = Rest(unharmed)
    yield connection
    connection.close()


def check_rest_works(rest: Rest) -> None:
    """A good request is answered well, on a connection that is kept alive."""
    body = b'{"signature_name": "id_int32", "instances": [7]}'
    assert rest.post(f"/v1/models/{NAME}:predict", body) == (200, b'{"predictions":[7]}')


# --- round trips ---


@pytest.mark.parametrize("fill", FILL)
@pytest.mark.parametrize("name", models.DTYPES)
def test_every_tensor_survives_grpc(server: ServerProcess, name: str, fill: str) -> None:
    predict = server.prediction.Predict

    @settings(max_examples=25)
    @given(tensors(name))
    def survives(array: Array) -> None:
        answer = predict(predict_request(name, array, FILL[fill]), timeout=TIMEOUT_SECONDS)
        assert bits_of(tensorflow().make_ndarray(answer.outputs["y"])) == bits_of(array)

    survives()


def json_value(name: str, array: Array) -> Any:
    """`array` as a client writes it; strings that are no UTF-8 need base64."""
    if name != "string":
        return array.tolist()
    if array.ndim:
        return [json_value(name, np.asarray(item, object)) for item in array]
    value = array.item()
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(value).decode()}


def from_json(name: str, value: Any) -> Any:
    """An answer's value with its elements as they have to be compared; a NaN is as good as another."""
    if isinstance(value, list):
        return [from_json(name, item) for item in value]
    if name == "string":
        return value.encode("utf-8", "surrogateescape")
    if name in ("float32", "float64"):
        assert isinstance(value, float)
        return "NaN" if math.isnan(value) else numpy_dtype(name).type(value).tobytes()
    return type(value), value


def nested(name: str, array: Array) -> Any:
    """`from_json` of what `array` has to be answered with."""
    return array.tolist() if name == "string" else from_json(name, array.tolist())


def outer(array: Array) -> Array:
    """`array` as far as JSON can tell: dimensions within an empty one cannot be written."""
    if 0 not in array.shape:
        return array
    return array.reshape(array.shape[: array.shape.index(0) + 1])


@over_rest
@pytest.mark.parametrize("name", JSON_DTYPES)
def test_every_tensor_survives_rest(server: ServerProcess, name: str) -> None:
    rest = Rest(server)

    @settings(max_examples=40)
    @given(tensors(name))
    def survives(array: Array) -> None:
        sent = {"signature_name": f"id_{name}", "inputs": json_value(name, array)}
        status, body = rest.post(f"/v1/models/{NAME}:predict", json.dumps(sent).encode())
        assert status == 200, body
        text = body.decode("utf-8", "surrogateescape")
        expected = nested(name, outer(array))
        if name == "string" and not array.ndim:
            expected = array.item()
        assert from_json(name, json.loads(text)["outputs"]) == expected

    try:
        survives()
    finally:
        rest.close()


@over_rest
@pytest.mark.parametrize("name", ["float32", "float64"])
def test_numbers_that_are_not_finite_are_words_in_both_directions(server: ServerProcess, name: str) -> None:
    rest = Rest(server)
    sent = b'{"signature_name": "id_%s", "instances": [NaN, Infinity, -Infinity, 0.5]}' % name.encode()
    status, body = rest.post(f"/v1/models/{NAME}:predict", sent)
    rest.close()
    assert (status, body) == (200, b'{"predictions":[NaN,Infinity,-Infinity,0.5]}')


# --- any bytes ---


@st.composite
def mutated(draw: st.DrawFn, valid: st.SearchStrategy[bytes]) -> bytes:
    """Valid bytes after a few accidents."""
    data = bytearray(draw(valid))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(["flip", "insert", "delete", "truncate", "repeat"])):
            case "flip" if at < len(data):
                data[at] ^= 1 << draw(st.integers(0, 7))
            case "insert":
                data[at:at] = draw(st.binary(min_size=1, max_size=4))
            case "delete":
                del data[at : at + draw(st.integers(1, 4))]
            case "truncate":
                del data[at:]
            case "repeat":
                data[at:at] = data[at : at + draw(st.integers(1, 20))]
    return bytes(data)


def any_bytes(valid: list[bytes]) -> st.SearchStrategy[bytes]:
    return st.binary(max_size=100) | mutated(st.sampled_from(valid)) | mutated(st.sampled_from(valid))


BODIES = [
    b'{"instances": [1.0, 2.5, -3e7]}',
    b'{"signature_name": "id_float64", "inputs": [[NaN, Infinity], [-Infinity, 1e308]]}',
    b'{"signature_name": "id_string", "instances": ["a\\u00e9\\n", {"b64": "AAH/"}, "\xc3\xa9"]}',
    b'{"signature_name": "id_string", "inputs": {"x": [["", "b"], ["c", {"b64": ""}]]}}',
    b'{"signature_name": "id_int64", "instances": [{"x": [9223372036854775807]}, {"x": [-1]}]}',
    b'{"signature_name": "id_uint64", "inputs": 18446744073709551615}',
    b'{"signature_name": "id_uint32", "inputs": [[[]], [[]]]}',
    b'{"signature_name": "id_bool", "instances": [true, false]}',
    b'{"signature_name": "id_int8", "inputs": {"x": [1, -128]}}',
    b'{"context": {"c": "d"}, "examples": [{"a": 1.0, "b": [1, 2], "c": {"b64": "AAH/"}}, {"a": [2.0]}]}',
]


@over_rest
@pytest.mark.parametrize("verb", ["predict", "classify", "regress"])
def test_no_body_breaks_rest(rest: Rest, verb: str) -> None:
    @settings(max_examples=150)
    @given(any_bytes(BODIES))
    @example(b"")
    @example(b'{"instances": ' + b"[" * 5000)
    @example(b'{"instances": ' + b"[" * 5000 + b"]" * 5000 + b"}")
    @example(b'{"signature_name": "\xff\xfe\\ud800", "instances": ["\\udfff\xed\xa0\x80"]}')
    @example(b'{"signature_name": "id_int64", "instances": [1' + b"0" * 5000 + b"]}")
    @example(b'{"instances": [1e' + b"9" * 5000 + b"]}")
    def survives(body: bytes) -> None:
        status, answer = rest.post(f"/v1/models/{NAME}:{verb}", body)
        assert status < 500, answer
        assert status == 200 or answer.startswith(b'{\n    "error": "')
        check_rest_works(rest)

    survives()


@over_rest
def test_no_gzip_body_breaks_rest(rest: Rest) -> None:
    @settings(max_examples=100)
    @given(any_bytes([gzip.compress(body, mtime=0) for body in BODIES]))
    def survives(body: bytes) -> None:
        status, answer = rest.post(f"/v1/models/{NAME}:predict", body, Content_Encoding="gzip")
        assert status < 500, answer
        check_rest_works(rest)

    survives()


HTTP_REQUESTS = [
    b"GET /v1/models/id HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /v1/models/id/metadata HTTP/1.0\r\n\r\n",
    b"GET http://a/v1/models/id/versions/1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    b"GET /v1/models/id/labels/a%2Fb%00?a=b#c HTTP/1.1\r\nHost: a\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: a\r\nOrigin: http://a\r\n\r\n",
    b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET /v1/models/id HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
    b"GET /v1/models/id HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    b"HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
    b"POST /v1/models/id:predict HTTP/1.1\r\nHost: a\r\nContent-Length: 18\r\n\r\n" + b'{"instances": [1]}',
    b"POST /v1/models/id:predict HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 18\r\n\r\n"
    b'{"instances": [1]}',
    b"POST /v1/models/id:predict HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    b'8;a=b\r\n{"instan\r\na\r\nces": [1]}\r\n0\r\nTrailer: a\r\n\r\n',
    b"POST /v1/models/id:predict HTTP/1.1\r\nHost: a\r\nContent-Length: 18446744073709551616\r\n\r\n{}",
    b"POST /v1/models/id:predict HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n"
    b"\r\n0\r\n\r\n",
]


def exchange(port: int, data: bytes) -> bytes:
    """What comes back for `data` and the end of sending, until the server closes, which it has to do."""
    received = bytearray()
    with socket.create_connection(("127.0.0.1", port), TIMEOUT_SECONDS) as connection:
        with contextlib.suppress(OSError):  # it may have closed before all was sent
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            while block := connection.recv(1 << 16):
                received += block
    return bytes(received)


def check_http(server: ServerProcess, data: bytes) -> None:
    answered = exchange(server.rest_port, data)
    assert answered == b"" or answered.startswith(b"HTTP/1.")
    statuses = [int(status) for status in re.findall(rb"^HTTP/1\.[01] ([0-9]{3}) ", answered, re.MULTILINE)]
    assert all(status < 500 for status in statuses), answered


@over_rest
def test_no_bytes_break_the_rest_port(unharmed: ServerProcess, rest: Rest) -> None:
    @settings(max_examples=200)
    @given(any_bytes(HTTP_REQUESTS))
    @example(b"")
    @example(b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\n\r\n")
    @example(b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 20_000 + b"\r\n")
    @example(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")  # TLS
    def survives(data: bytes) -> None:
        check_http(unharmed, data)
        check_rest_works(rest)

    survives()


@over_rest
@pytest.mark.parametrize("line", ["GET /v1/models/id", "GET /v1/models/id HTTP/2.0"])
def test_other_http_versions_are_no_mistake_of_the_server(server: ServerProcess, line: str) -> None:
    answered = exchange(server.rest_port, f"{line}\r\n\r\n".encode())
    assert not answered.startswith(b"HTTP/1.1 5")


@over_rest
def test_no_target_or_header_breaks_rest(unharmed: ServerProcess, rest: Rest) -> None:
    segment = st.sampled_from(
        [
            "v1",
            "models",
            NAME,
            "versions",
            "labels",
            "metadata",
            "1",
            "99999999999999999999",
            "-1",
            ":predict",
        ]
    ) | st.text(st.characters(codec="latin-1"), max_size=8)
    target = st.lists(segment, max_size=6).map("/".join)
    method = st.sampled_from(
        ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "get", "X"]
    )
    name = st.sampled_from(
        [
            *("Content-Length", "Content-Encoding", "Transfer-Encoding", "Connection", "Host", "Expect"),
            *("Origin", "Upgrade", "Accept", "Range", "Cookie", "Content-Type"),
        ]
    )
    value = st.sampled_from(
        ["0", "1", "-1", "gzip", "chunked", "close", "keep-alive", "100-continue", "websocket", "http://a"]
    ) | st.text(st.characters(codec="latin-1"), max_size=12)
    body = st.sampled_from(["", "{", '{"instances": [1]}', "0\r\n\r\n"])

    @settings(max_examples=200)
    @given(method, target, st.lists(st.tuples(name, value), max_size=5), body)
    def survives(method: str, target: str, headers: list[tuple[str, str]], body: str) -> None:
        lines = [f"{method} /{target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
        check_http(unharmed, "\r\n".join([*lines, "", body]).encode("latin-1"))
        check_rest_works(rest)

    survives()


@pytest.fixture(scope="module")
def messages() -> list[bytes]:
    """Requests that are answered well, or that at least are requests."""
    valid = [
        predict_request("float32", np.array([1.0, -2.5, math.nan], np.float32)),
        predict_request("float32", np.array([[1, 2], [3, 4]], np.float32), fill_content),
        predict_request("string", np.array([b"a", b"", b"\xff"], object)),
        predict_request("string", np.array([b"a", b"bc"], object), fill_content),
        predict_request("complex64", np.array(1 + 2j, np.complex64)),
        predict_request("float16", np.array([1, 2], np.float16)),
        predict_request("int8", np.array([[1], [2]], np.int8)),
        predict_request("uint64", np.array([2**64 - 1], np.uint64)),
        predict_request("bool", np.zeros((0, 3), np.bool_)),
    ]
    valid[0].output_filter.append("y")
    valid[1].model_spec.version.value = 1
    valid[2].model_spec.version_label = "stable"
    classify = classification_pb2.ClassificationRequest()
    classify.model_spec.name = NAME
    features = classify.input.example_list.examples.add().features
    features.feature["x"].float_list.value.append(1.0)
    metadata = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    metadata.model_spec.name = NAME
    status = get_model_status_pb2.GetModelStatusRequest()
    status.model_spec.name = NAME
    return [bytes(message.SerializeToString()) for message in (*valid, classify, metadata, status)]


def is_small(data: bytes) -> bool:
    """Whether these bytes declare no large tensor."""
    try:
        request = predict_pb2.PredictRequest.FromString(data)
    except DecodeError:
        return True
    sizes = [[dim.size for dim in proto.tensor_shape.dim] for proto in request.inputs.values()]
    return all(math.prod(size) <= MOST_ELEMENTS for size in sizes)


@pytest.mark.parametrize("method", METHODS, ids=lambda path: path.rpartition("/")[2])
def test_no_message_breaks_grpc(unharmed: ServerProcess, messages: list[bytes], method: str) -> None:
    call = unharmed.channel.unary_unary(method, bytes, bytes)
    predict = unharmed.channel.unary_unary(PREDICT, bytes, bytes)
    good = messages[-5]

    @settings(max_examples=200 if method == PREDICT else 60)
    @given(any_bytes(messages))
    def survives(data: bytes) -> None:
        assume(is_small(data))
        answer = call.future(data, timeout=TIMEOUT_SECONDS)
        code, details = answer.code(), answer.details()
        if details != NOT_A_MESSAGE:
            assert code not in (
                grpc.StatusCode.INTERNAL,
                grpc.StatusCode.UNKNOWN,
                grpc.StatusCode.DEADLINE_EXCEEDED,
                grpc.StatusCode.UNAVAILABLE,
            ), details
        assert predict(good, timeout=TIMEOUT_SECONDS)

    survives()


# A preface with an empty SETTINGS frame, then a HEADERS frame that begins a call.
HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
HTTP2_STREAMS = [
    HTTP2,
    HTTP2 + b"\0\0\4\1\4\0\0\0\1\x83\x86\x44\x00",
    HTTP2 + b"\0\0\x08\6\0\0\0\0\0pingpong",
    HTTP2 + b"\0\0\4\x08\0\0\0\0\0\x7f\xff\xff\xff" + b"\0\0\4\3\0\0\0\0\1\0\0\0\x08",
]


def test_no_bytes_break_the_grpc_port(unharmed: ServerProcess, messages: list[bytes]) -> None:
    predict = unharmed.channel.unary_unary(PREDICT, bytes, bytes)

    @settings(max_examples=100)
    @given(any_bytes(HTTP2_STREAMS + HTTP_REQUESTS[:2]))
    @example(b"")
    @example(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")  # TLS
    def survives(data: bytes) -> None:
        exchange(unharmed.grpc_port, data)
        assert predict(messages[-5], timeout=TIMEOUT_SECONDS)

    survives()
