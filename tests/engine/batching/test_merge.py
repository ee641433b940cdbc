from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.batching.merge import family, merge, rows_of, split, target_size
from app.errors import Code, ServingError

Array = np.ndarray[Any, np.dtype[Any]]


def floats(*values: Any) -> Array:
    return np.array(values, np.float32)


@pytest.mark.parametrize(
    ("values", "pad", "message"),
    [
        ([], False, "Batching Run() must have at least one input tensor"),
        ([floats(1), np.float32(1)], False, "Batching Run() input tensors must have at least one dimension"),
        (
            [floats(1), floats(1, 2)],
            False,
            "Batching Run() input tensors must have equal 0th-dimension size",
        ),
        ([np.zeros([1] * 7)], True, "Only tensors with rank from 1 to 6 can be padded."),
    ],
)
def test_what_cannot_be_batched(values: list[Any], pad: bool, message: str) -> None:
    with pytest.raises(ServingError) as raised:
        rows_of([np.asarray(value) for value in values], pad=pad)
    assert (raised.value.code, raised.value.message) == (Code.INVALID_ARGUMENT, message)


def test_the_rows_of_a_task() -> None:
    assert rows_of([np.zeros((3, 2)), np.zeros(3)]) == 3
    assert rows_of([np.zeros((0, 2))]) == 0
    assert rows_of([np.zeros([2] * 7)]) == 2
    assert rows_of([np.zeros([2] * 6)], pad=True) == 2


def test_which_tasks_can_be_merged() -> None:
    one, other, flat, empty = np.zeros((1, 2)), np.zeros((2, 3)), np.zeros(4), np.zeros((1, 0))
    assert family([one], pad=False) == family([one], pad=False)
    assert family([one], pad=False) != family([other], pad=False)
    assert family([one], pad=False) != family([flat], pad=False)
    assert family([one], pad=True) == family([other], pad=True)
    assert family([one], pad=True) != family([flat], pad=True)
    assert family([one], pad=True) != family([empty], pad=True)
    assert family([empty], pad=True) == family([empty], pad=True)
    assert family([one, one], pad=True) != family([one, flat], pad=True)


@pytest.mark.parametrize(
    ("rows", "allowed", "expected"),
    [(3, (), 3), (3, (2, 4, 8), 4), (4, (2, 4, 8), 4), (5, (8, 6), 6), (9, (2, 8), 9)],
)
def test_the_size_to_which_a_batch_is_padded(rows: int, allowed: tuple[int, ...], expected: int) -> None:
    assert target_size(rows, allowed) == expected


def test_one_task_without_padding_is_not_copied() -> None:
    values = [floats(1, 2), floats(3, 4)]
    merged = merge([values], 2)
    assert all(one is other for one, other in zip(merged, values, strict=True))


def crooked(*values: float) -> Array:
    """An array whose elements do not stand at multiples of their size, as bytes of the wire may lie."""
    found = np.ndarray(len(values), np.float32, bytearray(4 * len(values) + 1), 1)
    found[:] = values
    assert not found.flags.aligned
    return found


def test_what_no_model_could_take_as_it_stands_is_copied_even_alone() -> None:
    (alone,) = merge([[crooked(1, 2)]], 2)
    assert alone.flags.aligned
    assert alone.tolist() == [1, 2]
    assert merge([[crooked(1, 2)], [crooked(3)]], 4)[0].tolist() == [1, 2, 3, 3]


def test_tasks_stand_one_behind_the_other() -> None:
    first, second = [floats(1, 2), floats([1], [2])], [floats(3), floats([3])]
    merged = merge([first, second], 3)
    np.testing.assert_array_equal(merged[0], floats(1, 2, 3), strict=True)
    np.testing.assert_array_equal(merged[1], floats([1], [2], [3]), strict=True)


def test_rows_are_padded_with_the_first_of_the_last_task() -> None:
    assert merge([[floats(1, 2)], [floats(3, 4)]], 6)[0].tolist() == [1, 2, 3, 4, 3, 3]
    assert merge([[floats([1, 2], [3, 4])]], 3)[0].tolist() == [[1, 2], [3, 4], [1, 2]]


def test_other_dimensions_are_padded_with_the_first_element_of_the_own_array() -> None:
    merged = merge([[floats([1, 2])], [floats([3, 4, 5], [6, 7, 8])], [floats([9])]], 5)[0]
    assert merged.tolist() == [[1, 2, 1], [3, 4, 5], [6, 7, 8], [9, 9, 9], [9, 9, 9]]
    deep = merge([[np.full((1, 1, 2), 5)], [np.full((1, 2, 1), 6)]], 2)[0]
    assert deep.tolist() == [[[5, 5], [5, 5]], [[6, 6], [6, 6]]]


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.bool_, np.complex128, np.uint8])
def test_any_type_and_large_arrays_start_where_tensorflow_need_not_copy_them(dtype: Any) -> None:
    part = np.arange(24).reshape(2, 3, 4).astype(dtype)
    merged = merge([[part], [part]], 5)[0]
    np.testing.assert_array_equal(merged, np.concatenate([part, part, part[:1]]), strict=True)
    assert merged.ctypes.data % 64 == 0


def test_strings() -> None:
    objects = np.array([[b"a", b"b\0"]], object)
    merged = merge([[np.array([[b"x"]])], [objects]], 3)[0]
    assert merged.dtype == object
    assert merged.tolist() == [[b"x", b"x"], [b"a", b"b\0"], [b"a", b"b\0"]]


@given(
    lengths=st.lists(st.tuples(st.integers(1, 4), st.integers(0, 5)), min_size=1, max_size=5),
    extra=st.integers(0, 3),
    pad=st.booleans(),
)
def test_every_task_gets_its_own_rows_back(lengths: list[tuple[int, int]], extra: int, pad: bool) -> None:
    numbers = iter(range(10_000))
    tasks = [
        [np.array([[next(numbers) for _ in range(width if pad else 3)] for _ in range(rows)], np.int64)]
        for rows, width in lengths
    ]
    kind = family(tasks[0], pad=pad)
    tasks = [task for task in tasks if family(task, pad=pad) == kind]
    counts = [len(task[0]) for task in tasks]
    size = sum(counts) + extra
    (merged,) = merge(tasks, size)
    assert len(merged) == size
    for task, (found,) in zip(tasks, split([merged], counts, size), strict=True):
        np.testing.assert_array_equal(found[:, : task[0].shape[1]], task[0])
        assert (found[:, task[0].shape[1] :] == task[0].flat[:1]).all()


def test_outputs_are_split_without_a_copy() -> None:
    output = np.arange(10).reshape(5, 2)
    first, second = split([output, output[:, 0]], [1, 3], 5)
    assert [value.tolist() for value in first] == [[[0, 1]], [0]]
    assert [value.tolist() for value in second] == [[[2, 3], [4, 5], [6, 7]], [2, 4, 6]]
    assert first[0].base is not None
    assert np.shares_memory(second[0], output)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (np.array(1), "Batched output tensor has 0 dimensions"),
        *(
            (
                np.zeros(rows),
                "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes "
                "of the input tensors",
            )
            for rows in (0, 1, 2, 4)
        ),
    ],
)
def test_outputs_that_are_not_made_of_the_rows(output: Array, message: str) -> None:
    with pytest.raises(ServingError) as raised:
        split([np.zeros(3), output], [2], 3)
    assert (raised.value.code, raised.value.message) == (Code.FAILED_PRECONDITION, message)
