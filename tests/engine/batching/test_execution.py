"""What becomes of a batch whose tasks and order the test chooses."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from app.config.batching import BatchingParameters
from app.engine.batching.execution import Executor, Task
from app.engine.batching.queue import Batch, Piece
from app.engine.dtypes import Array
from app.engine.model import Model
from app.errors import Code, ServingError
from app.telemetry.serving_metrics import BatchingMetrics
from tests.engine.batching.conftest import observed


def floats(*values: Any) -> Array:
    return np.array(values, np.float32)


class Runner:
    """Runs batches of one signature; what a task gets: its outputs as lists, or the text of its error."""

    def __init__(
        self,
        model: Model,
        metrics: BatchingMetrics,
        signature: str = "serving_default",
        **parameters: Any,
    ) -> None:
        found = model.signatures[signature]
        self.feeds = tuple(sorted(spec.tensor for spec in found.inputs.values()))
        self.fetches = tuple(spec.tensor for _, spec in sorted(found.outputs.items()))
        self.executor = Executor(model, BatchingParameters(**parameters), metrics)

    def __call__(self, *tasks: Any, deadlines: Sequence[float] = ()) -> list[Any]:
        made = []
        for index, values in enumerate(tasks):
            arrays = values if isinstance(values, list) else [values]
            made.append(Task(arrays, len(arrays[0]), deadlines[index] if deadlines else math.inf))
        pieces = [Piece(task, 0, task.rows) for task in made]
        self.executor.execute(self.feeds, self.fetches, Batch(pieces, sum(task.rows for task in made)))
        return [told(task) for task in made]


def told(task: Task) -> Any:
    try:
        return [output.tolist() for output in task.result()]
    except ServingError as error:
        return str(error)


def test_tasks_run_together_and_get_their_own_rows(probe: Model, metrics: BatchingMetrics) -> None:
    assert Runner(probe, metrics)(floats(1), floats(2, 3), floats(4)) == [
        [[4], [2]],
        [[4, 4], [3, 4]],
        [[4], [5]],
    ]


def test_the_metrics_of_a_batch(probe: Model, metrics: BatchingMetrics) -> None:
    run = Runner(probe, metrics, max_batch_size=8, allowed_batch_sizes=(4, 8))
    assert run(floats(1), floats(2, 3)) == [[[4], [2]], [[4, 4], [3, 4]]]
    assert run(floats(*range(5))) == [[[8] * 5, [1, 2, 3, 4, 5]]]
    assert run(floats(*range(8))) == [[[8] * 8, [1, 2, 3, 4, 5, 6, 7, 8]]]
    assert observed(metrics.processed_batch_size) == {(): (3, 20.0)}
    assert observed(metrics.padding_size) == {("4",): (1, 1.0), ("8",): (2, 3.0)}
    assert metrics.wrapped_runs.cells() == [((), 3)]
    ((labels, (count, micros)),) = observed(metrics.queuing_micros).items()
    assert (labels, count) == (("",), 4)
    assert micros >= 0


def test_padding_reaches_the_model_and_no_answer(probe: Model, metrics: BatchingMetrics) -> None:
    run = Runner(probe, metrics, "words", max_batch_size=4, allowed_batch_sizes=(4,))
    words = np.array([b"a", b"b"], object)
    assert run(words, words[:1]) == [[[4, 4], [b"a", b"b"]], [[4], [b"a"]]]


def test_one_bad_task_fails_alone(probe: Model, metrics: BatchingMetrics) -> None:
    good, bad, other = Runner(probe, metrics)(floats(1), floats(2, -3), floats(4))
    assert (good, other) == ([[1], [2]], [[1], [5]])
    assert bad.startswith("INVALID_ARGUMENT: assertion failed: [negative.")
    # The batch once, each task once more.
    assert metrics.wrapped_runs.cells() == [((), 4)]
    assert observed(metrics.queuing_micros)[("",)][0] == 3


def test_a_single_task_that_fails_is_not_run_again(probe: Model, metrics: BatchingMetrics) -> None:
    (bad,) = Runner(probe, metrics)(floats(-1))
    assert bad.startswith("INVALID_ARGUMENT: assertion failed: [negative.")
    assert metrics.wrapped_runs.cells() == [((), 1)]


def test_other_shapes_run_as_batches_of_their_own(probe: Model, metrics: BatchingMetrics) -> None:
    found = Runner(probe, metrics)(floats(1), floats([2, 3]), floats(4), floats([5]), floats([6, 7]))
    assert found == [
        [[2], [2]],
        [[2], [[3, 4]]],
        [[2], [5]],
        [[1], [[6]]],
        [[2], [[7, 8]]],
    ]
    assert metrics.wrapped_runs.cells() == [((), 3)]


def test_a_group_that_fails_does_not_touch_the_others(probe: Model, metrics: BatchingMetrics) -> None:
    found = Runner(probe, metrics)(floats(1), floats([-2]), floats(3))
    assert found[0] == [[2], [2]]
    assert found[1].startswith("INVALID_ARGUMENT")
    assert found[2] == [[2], [4]]


def test_with_padding_answers_may_be_wider_than_what_was_sent(probe: Model, metrics: BatchingMetrics) -> None:
    run = Runner(probe, metrics, pad_variable_length_inputs=True)
    assert run(floats([1, 2]), floats([3, 4, 5])) == [[[2], [[2, 3, 2]]], [[2], [[4, 5, 6]]]]


def test_with_padding_ranks_and_empty_arrays_stay_apart(probe: Model, metrics: BatchingMetrics) -> None:
    run = Runner(probe, metrics, pad_variable_length_inputs=True)
    found = run(floats([1, 2]), floats(3), floats([]), floats([4]), np.zeros((2, 0), np.float32))
    assert found == [[[2], [[2, 3]]], [[1], [4]], [[3], [[]]], [[2], [[5, 5]]], [[3, 3], [[], []]]]


@pytest.mark.parametrize("count", [1, 2])
def test_a_scalar_output(probe: Model, metrics: BatchingMetrics, count: int) -> None:
    error = "FAILED_PRECONDITION: Batched output tensor has 0 dimensions"
    assert Runner(probe, metrics, "scalar")(*[floats(1, 2)] * count) == [error] * count


def test_an_output_with_other_rows(probe: Model, metrics: BatchingMetrics) -> None:
    error = (
        "FAILED_PRECONDITION: Batched output tensor's 0th dimension does not equal the sum of the 0th "
        "dimension sizes of the input tensors"
    )
    run = Runner(probe, metrics, "positive")
    assert run(floats(1, -2)) == [error]
    assert run(floats(1), floats(-2), floats(3)) == [[[1]], error, [[3]]]


def test_two_inputs(probe: Model, metrics: BatchingMetrics) -> None:
    run = Runner(probe, metrics, "pair")
    assert run([floats(1), floats(10)], [floats(2, 3), floats(20, 30)]) == [[[3], [11]], [[3, 3], [22, 33]]]


def test_deadlines(probe: Model, metrics: BatchingMetrics) -> None:
    run = Runner(probe, metrics)
    past = time.monotonic()
    late = "RESOURCE_EXHAUSTED: Run() timeout exceeded while waiting in batching queue"
    assert run(floats(1), floats(2), deadlines=[past, past - 1]) == [late, late]
    assert metrics.wrapped_runs.cells() == []
    assert run(floats(1), floats(2), deadlines=[past, math.inf]) == [[[2], [2]], [[2], [3]]]


class Keeping(Model):
    """A model that keeps the deadlines of its runs."""

    def __init__(self) -> None:
        super().__init__({})
        self.deadlines: list[float | None] = []

    def call(self, *arguments: Any) -> list[Array]:
        self.deadlines.append(arguments[-1])
        return list(arguments[1])

    def close(self) -> None:
        pass


def test_a_batch_runs_with_the_latest_deadline(metrics: BatchingMetrics) -> None:
    model, later = Keeping(), time.monotonic() + 60
    tasks = [Task([floats(1)], 1, deadline) for deadline in (later - 30, later, 0.0)]
    Executor(model, BatchingParameters(), metrics).execute(
        ("x",), ("y",), Batch([Piece(task, 0, 1) for task in tasks], 3)
    )
    assert [told(task) for task in tasks] == [[[1]]] * 3
    assert model.deadlines == [later]


class Broken(Model):
    """A model that fails in a way that no model should."""

    def __init__(self, error: BaseException) -> None:
        super().__init__({})
        self.error = error

    def call(self, *_: Any) -> list[Array]:
        raise self.error

    def close(self) -> None:
        pass


@pytest.mark.parametrize("error", [RuntimeError("gone"), MemoryError("gone"), SystemExit("gone")])
def test_every_task_is_answered_whatever_happens(
    metrics: BatchingMetrics, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    executor = Executor(Broken(error), BatchingParameters(), metrics)
    tasks = [Task([floats(1)], 1, math.inf) for _ in range(2)]
    executor.execute(("x",), ("y",), Batch([Piece(task, 0, 1) for task in tasks], 2))
    assert [told(task) for task in tasks] == [f"INTERNAL: {type(error).__name__}: gone"] * 2
    assert "A batch ended in an unexpected error" in caplog.text


def test_callers_do_not_share_an_error(probe: Model, metrics: BatchingMetrics) -> None:
    runner = Runner(probe, metrics, "scalar")
    tasks = [Task([floats(1)], 1, 0.0) for _ in range(2)]
    runner.executor.execute(runner.feeds, runner.fetches, Batch([Piece(task, 0, 1) for task in tasks], 2))
    errors = []
    for task in tasks:
        with pytest.raises(ServingError) as raised:
            task.result()
        errors.append(raised.value)
    assert errors[0] is not errors[1]


def test_a_task_that_was_cut_comes_back_whole_whatever_order_its_pieces_run_in(
    probe: Model, metrics: BatchingMetrics
) -> None:
    runner = Runner(probe, metrics)
    task = Task([floats(*range(7))], 7, math.inf)
    for start, stop in ((5, 7), (0, 2), (2, 5)):
        batch = Batch([Piece(task, start, stop)], stop - start)
        runner.executor.execute(runner.feeds, runner.fetches, batch)
    assert told(task) == [[2, 2, 3, 3, 3, 2, 2], [1, 2, 3, 4, 5, 6, 7]]


def test_the_first_error_of_a_piece_fails_the_task_once_all_have_run(
    probe: Model, metrics: BatchingMetrics
) -> None:
    runner = Runner(probe, metrics)
    task = Task([floats(1, -2, 3)], 3, math.inf)
    for start in (0, 1, 2):
        runner.executor.execute(runner.feeds, runner.fetches, Batch([Piece(task, start, start + 1)], 1))
    assert told(task).startswith("INVALID_ARGUMENT: assertion failed: [negative.")
    assert metrics.wrapped_runs.cells() == [((), 3)]


def test_pieces_whose_outputs_do_not_fit_together() -> None:
    task = Task([floats(1, 2)], 2, math.inf)
    task.answer(Piece(task, 0, 1), [np.zeros((1, 3))])
    task.answer(Piece(task, 1, 2), [np.zeros((1, 4))])
    with pytest.raises(ServingError, match=r"shapes are \[1, 3\], \[1, 4\]") as raised:
        task.result()
    assert raised.value.code is Code.FAILED_PRECONDITION


def test_what_runs_at_once_is_counted_as_a_batch_of_its_own(probe: Model, metrics: BatchingMetrics) -> None:
    run = Runner(probe, metrics)
    expected = run(floats(1, 2))
    found = run.executor.execute_alone(run.feeds, run.fetches, [floats(1, 2)], math.inf)
    assert [[output.tolist() for output in found]] == expected
    assert observed(metrics.processed_batch_size) == {(): (2, 4.0)}
    assert observed(metrics.padding_size) == {("2",): (2, 0.0)}
    assert metrics.wrapped_runs.cells() == [((), 2)]
    assert observed(metrics.queuing_micros)[("",)][0] == 2


def test_what_comes_past_its_deadline_does_not_run(probe: Model, metrics: BatchingMetrics) -> None:
    run = Runner(probe, metrics)
    with pytest.raises(ServingError, match="timeout exceeded while waiting in batching queue") as late:
        run.executor.execute_alone(run.feeds, run.fetches, [floats(1)], time.monotonic())
    assert late.value.code is Code.RESOURCE_EXHAUSTED
    assert observed(metrics.processed_batch_size) == {}
