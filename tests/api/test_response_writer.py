"""What is written is what protobuf would write."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tensorflow_serving.apis import predict_pb2

from app.api.response_writer import ResponseWriter
from app.api.tensor_proto import can_send, from_array
from app.engine import dtypes
from app.engine.signature import TensorSpec

TYPES = [dtype for dtype in map(dtypes.from_number, range(1, 24)) if can_send(dtype)]
NUMERIC = [dtype for dtype in TYPES if dtype.numpy.kind in "fiubc"]


def spec() -> Any:
    response = predict_pb2.PredictResponse()
    response.model_spec.name = "m"
    response.model_spec.version.value = 7
    return response


@given(st.sampled_from(NUMERIC), st.booleans(), st.data())
def test_one_output_is_written_byte_for_byte(dtype: dtypes.DType, as_content: bool, data: Any) -> None:
    shape = data.draw(arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=40))
    array = data.draw(arrays.arrays(dtype.numpy, shape, fill=st.just(dtype.numpy.type(1))))
    writer = ResponseWriter(
        spec().SerializeToString(), [TensorSpec("out", "o:0", dtype, None)], as_content=as_content
    )
    expected = spec()
    from_array(array, dtype, as_content=as_content, into=expected.outputs["out"])
    for _ in range(2):  # the second time from memory
        assert writer.write([array]) == expected.SerializeToString()


def test_all_types_and_many_outputs() -> None:
    values = {
        dtype.name: np.array([b"a", b"bc"], object) if dtype is dtypes.STRING else np.ones(2, dtype.numpy)
        for dtype in TYPES
    }
    for as_content in (False, True):
        specs = [TensorSpec(dtype.name, "o:0", dtype, None) for dtype in TYPES]
        writer = ResponseWriter(spec().SerializeToString(), specs, as_content=as_content)
        expected = spec()
        for dtype in TYPES:
            from_array(values[dtype.name], dtype, as_content=as_content, into=expected.outputs[dtype.name])
        written = writer.write(list(values.values()))
        assert predict_pb2.PredictResponse.FromString(written) == expected


def test_views_are_written_in_their_order() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    dtype = dtypes.of_array(array)
    writer = ResponseWriter(b"", [TensorSpec("out", "o:0", dtype, None)], as_content=False)
    tensor = predict_pb2.PredictResponse.FromString(writer.write([array])).outputs["out"]
    assert list(tensor.float_val) == [0, 3, 1, 4, 2, 5]
