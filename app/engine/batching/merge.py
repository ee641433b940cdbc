"""Arrays of several tasks to the arrays of one batch, and back. Rows are the first dimension."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from app.engine.dtypes import Array
from app.errors import Code, ServingError, invalid_argument

# TensorFlow takes an array as it stands if its memory is aligned so; else it copies it.
_ALIGNMENT = 64
_HIGHEST_PADDED_RANK = 6


def rows_of(values: Sequence[Array], *, pad: bool = False) -> int:
    """The number of rows of a task, which all its arrays must share.

    Args:
        values: an array for each input.
        pad: whether dimensions other than the first may have to be padded.

    Raises:
        ServingError: INVALID_ARGUMENT with TensorFlow Serving's text for what cannot be batched.
    """
    if not values:
        raise invalid_argument("Batching Run() must have at least one input tensor")
    if any(value.ndim == 0 for value in values):
        raise invalid_argument("Batching Run() input tensors must have at least one dimension")
    rows = len(values[0])
    if any(len(value) != rows for value in values):
        raise invalid_argument("Batching Run() input tensors must have equal 0th-dimension size")
    if pad and any(value.ndim > _HIGHEST_PADDED_RANK for value in values):
        raise invalid_argument("Only tensors with rank from 1 to 6 can be padded.")
    return rows


def family(values: Sequence[Array], *, pad: bool) -> Hashable:
    """Tasks with equal families can be merged.

    Without padding their rows have the same shapes. With it the ranks suffice, except for arrays
    without elements, which have none to pad with.
    """
    if pad:
        return tuple(value.ndim if value.size else value.shape[1:] for value in values)
    return tuple(value.shape[1:] for value in values)


def target_size(rows: int, allowed: Sequence[int]) -> int:
    """The size to which a batch of `rows` rows is padded: the smallest allowed one that holds them."""
    return min((size for size in allowed if size >= rows), default=rows)


def merge(tasks: Sequence[Sequence[Array]], size: int) -> list[Array]:
    """One array for each input, of `size` rows: those of all tasks, then copies of the last task's first.

    Dimensions in which the tasks differ are padded at the end, with the first element of a task's own
    array. Each array is copied once; those of a single task that has `size` rows only if no model could
    take them as they stand.

    Args:
        tasks: for each task an array for each input; all of one `family`.
        size: at least the sum of the rows.
    """
    if len(tasks) == 1 and len(tasks[0][0]) == size:
        return aligned(tasks[0])
    return [_merge_input(parts, size) for parts in zip(*tasks, strict=True)]


def aligned(values: Sequence[Array]) -> list[Array]:
    """`values`, copied where elements do not stand at multiples of their size: no model can take those."""
    return [value if value.flags.aligned else value.copy() for value in values]


def _merge_input(parts: Sequence[Array], size: int) -> Array:
    first = parts[0]
    shapes = {part.shape[1:] for part in parts}
    shape = tuple(max(lengths) for lengths in zip(*shapes, strict=True))
    merged = _empty((size, *shape), np.dtype(object) if first.dtype.kind in "OSU" else first.dtype)
    rows = sum(map(len, parts))
    if len(shapes) == 1:
        np.concatenate(parts, out=merged[:rows])
    else:
        start = 0
        for part in parts:
            into = merged[start : start + len(part)]
            into[...] = part.flat[0]
            into[tuple(slice(length) for length in part.shape)] = part
            start += len(part)
    merged[rows:] = merged[rows - len(parts[-1])]
    return merged


def _empty(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> Array:
    if dtype.hasobject:
        return np.empty(shape, dtype)
    count = int(np.prod(shape)) * dtype.itemsize
    memory = np.empty(count + _ALIGNMENT, np.uint8)
    skip = -memory.ctypes.data % _ALIGNMENT
    return memory[skip : skip + count].view(dtype).reshape(shape)


def split(outputs: Sequence[Array], counts: Sequence[int], size: int) -> list[list[Array]]:
    """For each task its rows of every output, as views; rows of padding are left out.

    Args:
        outputs: of a batch.
        counts: the number of rows of each task.
        size: the number of rows of the batch, padding included.

    Raises:
        ServingError: FAILED_PRECONDITION for an output that is not made of the batch's rows.
    """
    for output in outputs:
        if output.ndim == 0:
            raise ServingError(Code.FAILED_PRECONDITION, "Batched output tensor has 0 dimensions")
        if len(output) != size:
            raise ServingError(
                Code.FAILED_PRECONDITION,
                "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes "
                "of the input tensors",
            )
    tasks, start = [], 0
    for count in counts:
        tasks.append([output[start : start + count] for output in outputs])
        start += count
    return tasks


def reordered(results: Sequence[Array], names: Sequence[str], wanted: Sequence[str]) -> list[Array]:
    """`results`, which are those of `names`, in the order of `wanted`.

    Queues are known by sorted names, so that the order in which a client lists outputs does not keep
    requests apart.
    """
    by_name = dict(zip(names, results, strict=True))
    return [by_name[name] for name in wanted]
