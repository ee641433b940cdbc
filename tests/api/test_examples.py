from __future__ import annotations

import pytest
from tensorflow_serving.apis import input_pb2

from app.api.examples import example_tensor
from app.errors import ServingError
from tests.support.models import tensorflow


def test_examples_become_a_string_vector() -> None:
    message = input_pb2.Input()
    for value in (1, 2):
        message.example_list.examples.add().features.feature["x"].int64_list.value.append(value)
    tensor = example_tensor(message)
    assert tensor.shape == (2,)
    assert [tensorflow().train.Example.FromString(item) for item in tensor] == list(
        message.example_list.examples
    )


def test_an_example_s_features_win_over_the_context_s() -> None:
    message = input_pb2.Input()
    inner = message.example_list_with_context
    inner.context.features.feature["both"].int64_list.value.append(1)
    inner.context.features.feature["context"].int64_list.value.append(2)
    inner.examples.add().features.feature["both"].int64_list.value.append(3)
    parsed = tensorflow().train.Example.FromString(example_tensor(message)[0])
    assert list(parsed.features.feature["both"].int64_list.value) == [3]
    assert list(parsed.features.feature["context"].int64_list.value) == [2]


@pytest.mark.parametrize("kind", ["", "example_list", "example_list_with_context"])
def test_no_examples_is_an_error(kind: str) -> None:
    message = input_pb2.Input()
    if kind:
        getattr(message, kind).SetInParent()
    with pytest.raises(ServingError, match=r"Input is empty\."):
        example_tensor(message)
