from __future__ import annotations

import contextlib
import time
from typing import Any

import pytest
from google.protobuf import text_format
from tensorflow_serving.apis import get_model_metadata_pb2, prediction_service_pb2

from app.errors import Code, ServingError
from app.options import Options
from app.rpc.method import Call, wire_message
from app.rpc.methods import method_table
from app.telemetry.serving_metrics import ServingMetrics
from tests.rpc.conftest import Served, refuse

EXAMPLES = tuple(
    f"/tensorflow.serving.PredictionService/{name}" for name in ("Classify", "Regress", "MultiInference")
)
PREDICT = "/tensorflow.serving.PredictionService/Predict"
METADATA = "/tensorflow.serving.PredictionService/GetModelMetadata"
RELOAD = "/tensorflow.serving.ModelService/HandleReloadConfigRequest"
STATUS = "/tensorflow.serving.ModelService/GetModelStatus"

HALF = 'model_spec { name: "half_plus_two" }'
X = 'inputs { key: "x" value { dtype: DT_FLOAT tensor_shape { dim { size: 2 } } float_val: 1 float_val: 2 } }'
Z = 'inputs { key: "z" value { dtype: DT_FLOAT tensor_shape { dim { size: 1 } } float_val: 1 } }'
A = (
    'inputs { key: "a" value { dtype: DT_FLOAT tensor_shape { dim { size: 1 } dim { size: 2 } } float_val: 1 '
    "} }"
)
B = 'inputs { key: "b" value { dtype: DT_INT64 tensor_shape { dim { size: 1 } } int64_val: 5 } }'


def call(served: Served, path: str, text: str, deadline: float | None = None, **options: Any) -> Any:
    method = method_table(served.manager, served.board, Options(**options), refuse)[path]
    return method.handle(text_format.Parse(text, method.request()), Call(deadline))


def failure(served: Served, path: str, text: str, deadline: float | None = None, **options: Any) -> str:
    with pytest.raises(ServingError) as raised:
        call(served, path, text, deadline, **options)
    return str(raised.value)


def x(value: str) -> str:
    return f'inputs {{ key: "x" value {{ {value} }} }}'


def y(value: str, version: int = 124) -> str:
    return f"""
        outputs {{ key: "y" value {{ dtype: DT_FLOAT {value} }} }}
        model_spec {{
          name: "half_plus_two" version {{ value: {version} }} signature_name: "serving_default"
        }}
    """


def test_the_table_holds_methods_of_the_services(served: Served) -> None:
    table = method_table(served.manager, served.board, Options(), refuse)
    assert set(table) == {PREDICT, METADATA, STATUS, RELOAD, *EXAMPLES}
    service = prediction_service_pb2.DESCRIPTOR.services_by_name["PredictionService"]
    for path in (PREDICT, METADATA):
        declared = service.methods_by_name[path.rpartition("/")[2]]
        assert table[path].request.DESCRIPTOR.full_name == declared.input_type.full_name


@pytest.mark.parametrize(
    ("request_text", "expected"),
    [
        (HALF + X, y("tensor_shape { dim { size: 2 } } float_val: 3.5 float_val: 4")),
        (
            'model_spec { name: "half_plus_two" version { value: 123 } }' + X,
            y("tensor_shape { dim { size: 2 } } float_val: 2.5 float_val: 3", 123),
        ),
        (
            'model_spec { name: "half_plus_two" signature_name: "serving_default" }' + X,
            y("tensor_shape { dim { size: 2 } } float_val: 3.5 float_val: 4"),
        ),
        (HALF + X + 'output_filter: "y"', y("tensor_shape { dim { size: 2 } } float_val: 3.5 float_val: 4")),
        (
            HALF + x("dtype: DT_FLOAT tensor_shape { dim { size: 3 } } float_val: 4"),
            y("tensor_shape { dim { size: 3 } } float_val: 5 float_val: 5 float_val: 5"),
        ),
        (
            HALF + x("dtype: DT_FLOAT tensor_shape { dim { size: 3 } } float_val: 4 float_val: 6"),
            y("tensor_shape { dim { size: 3 } } float_val: 5 float_val: 6 float_val: 6"),
        ),
        (
            HALF + x("dtype: DT_FLOAT tensor_shape { dim { size: 2 } }"),
            y("tensor_shape { dim { size: 2 } } float_val: 3 float_val: 3"),
        ),
        (
            HALF + x("dtype: DT_FLOAT tensor_shape { dim { size: 0 } }"),
            y("tensor_shape { dim { size: 0 } }"),
        ),
        (HALF + x("dtype: DT_FLOAT tensor_shape { } float_val: 1"), y("tensor_shape { } float_val: 3.5")),
        (
            HALF + x(r'dtype: DT_FLOAT tensor_shape { dim { size: 1 } } tensor_content: "\000\000\200?"'),
            y("tensor_shape { dim { size: 1 } } float_val: 3.5"),
        ),
        (
            'model_spec { name: "multi" }' + A + B + 'output_filter: "twice"',
            """
            outputs { key: "twice" value { dtype: DT_INT64 tensor_shape { dim { size: 1 } } int64_val: 10 } }
            model_spec { name: "multi" version { value: 7 } signature_name: "serving_default" }
            """,
        ),
    ],
)
def test_predict(served: Served, request_text: str, expected: str) -> None:
    response = call(served, PREDICT, request_text)
    assert response == text_format.Parse(expected, type(response)())


@pytest.mark.parametrize(
    ("dtype", "name", "values"),
    [
        ("DT_HALF", "float16", "half_val: 15872"),
        ("DT_BFLOAT16", "bfloat16", "half_val: 16320"),
        ("DT_INT8", "int8", "int_val: -1"),
        ("DT_INT16", "int16", "int_val: -300"),
        ("DT_INT32", "int32", "int_val: 7"),
        ("DT_INT64", "int64", "int64_val: 9223372036854775807"),
        ("DT_UINT8", "uint8", "int_val: 255"),
        ("DT_UINT16", "uint16", "int_val: 65535"),
        ("DT_UINT32", "uint32", "uint32_val: 4294967295"),
        ("DT_UINT64", "uint64", "uint64_val: 18446744073709551615"),
        ("DT_BOOL", "bool", "bool_val: true"),
        ("DT_COMPLEX64", "complex64", "scomplex_val: 1 scomplex_val: -2"),
        ("DT_COMPLEX128", "complex128", "dcomplex_val: 1 dcomplex_val: -2"),
        ("DT_DOUBLE", "float64", "double_val: 0.1"),
        ("DT_STRING", "string", r'string_val: "\377"'),
    ],
)
@pytest.mark.parametrize("shape", ["dim { size: 1 }", ""])
def test_every_type_goes_through_in_its_field(
    served: Served, dtype: str, name: str, values: str, shape: str
) -> None:
    spec = f'model_spec {{ name: "dtypes" signature_name: "id_{name}" }}'
    value = f"dtype: {dtype} tensor_shape {{ {shape} }} {values}"
    response = call(served, PREDICT, spec + x(value))
    assert response.outputs["y"] == text_format.Parse(value, type(response.outputs["y"])())


def test_outputs_as_tensor_content(served: Served) -> None:
    response = call(served, PREDICT, HALF + X, enable_serialization_as_tensor_content=True)
    expected = y(r'tensor_shape { dim { size: 2 } } tensor_content: "\000\000`@\000\000\200@"')
    assert response == text_format.Parse(expected, type(response)())


@pytest.mark.parametrize(
    ("request_text", "message"),
    [
        (X, "INVALID_ARGUMENT: Missing ModelSpec"),
        ("model_spec { }" + X, "INVALID_ARGUMENT: ModelSpec has no name specified."),
        (
            'model_spec { version_label: "x" }' + X,
            "INVALID_ARGUMENT: ModelSpec has no name specified.",
        ),
        ('model_spec { name: "nope" }' + X, "NOT_FOUND: Servable not found for request: Latest(nope)"),
        ('model_spec { name: "broken" }' + X, "NOT_FOUND: Servable not found for request: Latest(broken)"),
        (
            'model_spec { name: "half_plus_two" version { value: 1 } }' + X,
            "NOT_FOUND: Servable not found for request: Specific(half_plus_two, 1)",
        ),
        (
            'model_spec { name: "half_plus_two" version { } }' + X,
            "NOT_FOUND: Servable not found for request: Specific(half_plus_two, 0)",
        ),
        (
            'model_spec { name: "half_plus_two" version_label: "stable" }' + X,
            "INVALID_ARGUMENT: Unrecognized servable version label: stable",
        ),
        (
            'model_spec { name: "half_plus_two" version_label: "" }' + X,
            "INVALID_ARGUMENT: Unrecognized servable version label: ",
        ),
        (
            'model_spec { name: "half_plus_two" signature_name: "nope" }' + X,
            'FAILED_PRECONDITION: Serving signature key "nope" not found.',
        ),
        (
            HALF,
            "INVALID_ARGUMENT: input size does not match signature: 0!=1 len({}) != len({x}). "
            "Sent extra: {}. Missing but required: {x}.",
        ),
        (
            HALF + X + Z,
            "INVALID_ARGUMENT: input size does not match signature: 2!=1 len({x,z}) != len({x}). "
            "Sent extra: {z}. Missing but required: {}.",
        ),
        (
            HALF + Z,
            "INVALID_ARGUMENT: Signature input alias: x(feed name: serving_default_x:0) not found in request "
            "and no default value provided. Inputs expected to be in the request {z}, or default input alias "
            "set: ",
        ),
        (
            HALF + X + 'output_filter: "zz"',
            "INVALID_ARGUMENT: output tensor alias not found in signature: zz "
            "Outputs expected to be in the set {y}.",
        ),
        (
            HALF + X + 'output_filter: "y" output_filter: "y"',
            "INVALID_ARGUMENT: duplicate output tensor alias: y",
        ),
        (
            HALF + x("dtype: DT_INT32 tensor_shape { dim { size: 1 } } int_val: 1"),
            "INVALID_ARGUMENT: Expects arg[0] to be float but int32 is provided",
        ),
        (
            HALF + x("dtype: DT_FLOAT tensor_shape { dim { size: -1 } } float_val: 1"),
            "INVALID_ARGUMENT: tensor parsing error: x",
        ),
        (
            HALF + x("tensor_shape { dim { size: 1 } } float_val: 1"),
            "INVALID_ARGUMENT: tensor parsing error: x",
        ),
    ],
)
def test_predict_refuses(served: Served, request_text: str, message: str) -> None:
    assert failure(served, PREDICT, request_text) == message


def test_an_error_of_the_run_is_tensorflows(served: Served) -> None:
    wrong = B.replace("size: 1", "size: 3")
    a = A.replace("size: 1", "size: 2")
    message = failure(served, PREDICT, 'model_spec { name: "multi" }' + a + wrong)
    assert message.startswith("INVALID_ARGUMENT: Incompatible shapes: [3,1] vs. [2,2]\n\t [[{{")


def test_the_init_op_of_a_model_is_no_method(served: Served) -> None:
    spec = 'model_spec { name: "half_plus_two" signature_name: "__saved_model_init_op" }'
    assert failure(served, PREDICT, spec)


def test_the_method_name_check_is_an_option(served: Served) -> None:
    spec = 'model_spec { name: "half_plus_two" signature_name: "__saved_model_init_op" }'
    assert failure(served, PREDICT, spec, enable_signature_method_name_check=True).startswith(
        "INTERNAL: Expected prediction signature method_name to be one of {"
    )
    assert call(served, PREDICT, HALF + X, enable_signature_method_name_check=True).outputs


def test_a_run_is_not_begun_after_the_deadline(served: Served) -> None:
    late = "DEADLINE_EXCEEDED: Timed out waiting for notification"
    assert failure(served, PREDICT, HALF + X, time.monotonic()) == late
    assert call(served, PREDICT, HALF + X, time.monotonic() + 60).outputs


def test_metadata(served: Served) -> None:
    response = call(served, METADATA, HALF + 'metadata_field: "signature_def"')
    assert (response.model_spec.name, response.model_spec.version.value) == ("half_plus_two", 124)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    assert signatures.signature_def["serving_default"].inputs["x"].name == "serving_default_x:0"
    assert "__saved_model_init_op" in signatures.signature_def


@pytest.mark.parametrize(
    ("request_text", "message"),
    [
        ('metadata_field: "signature_def"', "INVALID_ARGUMENT: Missing ModelSpec"),
        (
            "model_spec { }",
            "INVALID_ARGUMENT: GetModelMetadataRequest must specify at least one metadata_field",
        ),
        (
            'model_spec { name: "nope" } metadata_field: "foo"',
            "INVALID_ARGUMENT: Metadata field foo is not supported",
        ),
        (
            'model_spec { } metadata_field: "signature_def"',
            "INVALID_ARGUMENT: ModelSpec has no name specified.",
        ),
        (
            'model_spec { name: "nope" } metadata_field: "signature_def"',
            "NOT_FOUND: Servable not found for request: Latest(nope)",
        ),
        (
            'model_spec { name: "multi" version { value: 1 } } metadata_field: "signature_def"',
            "NOT_FOUND: Servable not found for request: Specific(multi, 1)",
        ),
    ],
)
def test_metadata_refuses_in_this_order(served: Served, request_text: str, message: str) -> None:
    assert failure(served, METADATA, request_text) == message


@pytest.mark.parametrize("choice", ["", 'version_label: "none"'])
def test_status(served: Served, choice: str) -> None:
    response = call(served, STATUS, f'model_spec {{ name: "half_plus_two" {choice} }}')
    expected = """
        model_version_status { version: 124 state: AVAILABLE status { } }
        model_version_status { version: 123 state: AVAILABLE status { } }
    """
    assert response == text_format.Parse(expected, type(response)())


def test_the_status_of_a_version_that_failed(served: Served) -> None:
    (entry,) = call(served, STATUS, 'model_spec { name: "broken" }').model_version_status
    assert (entry.version, entry.State.Name(entry.state)) == (1, "END")
    assert entry.status.error_code == int(Code.NOT_FOUND)
    assert entry.status.error_message.startswith("Specified file path does not appear to contain")


@pytest.mark.parametrize(
    ("request_text", "message"),
    [
        ("", "INVALID_ARGUMENT: Missing ModelSpec"),
        ("model_spec { }", "NOT_FOUND: Could not find any versions of model "),
        ('model_spec { name: "nope" }', "NOT_FOUND: Could not find any versions of model nope"),
        (
            'model_spec { name: "multi" version { value: 9 } }',
            "NOT_FOUND: Could not find version 9 of model multi",
        ),
    ],
)
def test_status_refuses(served: Served, request_text: str, message: str) -> None:
    assert failure(served, STATUS, request_text) == message


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("short", "short"),
        ("a" * 1024, "a" * 1024),
        ("a" * 1025, "a" * 1024 + "...TRUNCATED"),
        ("ü" * 512, "ü" * 512),
        ("ü" * 513, "ü" * 512 + "...TRUNCATED"),
        ("a" + "ü" * 512, "a" + "ü" * 511 + "...TRUNCATED"),
    ],
)
def test_a_message_is_cut_to_1024_bytes(message: str, expected: str) -> None:
    assert wire_message(ServingError(Code.INTERNAL, message)) == expected


@pytest.mark.parametrize(
    ("method", "text", "error"),
    [
        ("Classify", "", "INVALID_ARGUMENT: Missing ModelSpec"),
        ("Classify", "model_spec {}", "INVALID_ARGUMENT: ModelSpec has no name specified."),
        ("Regress", 'model_spec { name: "nope" }', "NOT_FOUND: Servable not found for request: Latest(nope)"),
        ("Regress", HALF, "INVALID_ARGUMENT: No regression inputs found in SignatureDef: "),
        ("MultiInference", "", "INVALID_ARGUMENT: ModelSpec has no name specified."),
        ("MultiInference", "tasks {}", "INVALID_ARGUMENT: ModelSpec has no name specified."),
        (
            "MultiInference",
            'tasks { model_spec { name: "nope" } }',
            "NOT_FOUND: Servable not found for request: Latest(nope)",
        ),
        (
            "MultiInference",
            f'tasks {{ {HALF} method_name: "m" }}',
            "UNIMPLEMENTED: Unsupported signature method_name: m",
        ),
        (
            "MultiInference",
            'tasks { model_spec { name: "half_plus_two" version_label: "l" } }',
            "INVALID_ARGUMENT: Unrecognized servable version label: l",
        ),
    ],
)
def test_methods_that_take_examples_resolve_and_check_their_model(
    served: Served, method: str, text: str, error: str
) -> None:
    assert failure(served, f"/tensorflow.serving.PredictionService/{method}", text).startswith(error)


def test_the_method_name_check_reaches_methods_that_take_examples(served: Served) -> None:
    text = f"{HALF} input {{ example_list {{ examples {{}} }} }}"
    path = "/tensorflow.serving.PredictionService/Classify"
    assert failure(served, path, text, enable_signature_method_name_check=True) == (
        "INVALID_ARGUMENT: Expected classification signature method_name to be tensorflow/serving/classify. "
        "Was: tensorflow/serving/predict"
    )


def counted(served: Served, *requests: tuple[str, str]) -> ServingMetrics:
    """What is counted of these requests, whatever becomes of them."""
    metrics = ServingMetrics.make()
    table = method_table(served.manager, served.board, Options(), refuse, metrics)
    for path, text in requests:
        method = table[path]
        with contextlib.suppress(ServingError):
            method.handle(text_format.Parse(text, method.request()), Call())
    return metrics


def test_requests_are_counted_by_model_and_code(served: Served) -> None:
    classify, regress, multi_inference = EXAMPLES
    metrics = counted(
        served,
        (PREDICT, HALF + X),
        (PREDICT, HALF + X),
        (PREDICT, HALF + Z),
        (PREDICT, 'model_spec { name: "nope" }'),
        (PREDICT, ""),
        (classify, HALF),
        (regress, HALF),
        (multi_inference, ""),
        (METADATA, 'model_spec { name: "nope" } metadata_field: "signature_def"'),
        (STATUS, 'model_spec { name: "nope" }'),
        (RELOAD, ""),
    )
    assert metrics.request_count.cells() == [
        (("", "INVALID_ARGUMENT"), 1),
        (("half_plus_two", "INVALID_ARGUMENT"), 3),
        (("half_plus_two", "OK"), 2),
        (("nope", "NOT_FOUND"), 1),
    ]
    assert [labels for labels, _ in metrics.request_micros.cells()] == [("half_plus_two", "Predict", "GRPC")]
    assert [labels for labels, _ in metrics.runtime_micros.cells()] == [("half_plus_two", "Predict", "TF1")]


def test_the_stages_of_requests_that_ran_a_model_are_told_apart(served: Served) -> None:
    metrics = counted(served, (PREDICT, HALF + X), (PREDICT, HALF + Z), (STATUS, HALF))
    assert [labels for labels, _ in metrics.ferry.stages.cells()] == [
        ("half_plus_two", "Predict", "GRPC", stage) for stage in ("decode", "run", "encode")
    ]


def test_a_mistake_of_ours_is_counted_as_internal(served: Served) -> None:
    metrics = ServingMetrics.make()
    method = method_table(None, served.board, Options(), refuse, metrics)[PREDICT]  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        method.handle(text_format.Parse(HALF + X, method.request()), Call())
    assert metrics.request_count.cells() == [(("half_plus_two", "INTERNAL"), 1)]
