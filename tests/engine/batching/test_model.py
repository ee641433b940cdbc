"""Requests from many threads through one model with batching."""

from __future__ import annotations

import random
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.config.batching import BatchingParameters
from app.engine.batching.model import BatchedModel
from app.engine.batching.scheduler import Scheduler
from app.engine.dtypes import Array
from app.engine.model import Model, sorted_feeds
from app.errors import Code, ServingError
from app.lifecycle.manager import Manager
from app.lifecycle.states import State, StateBoard
from app.telemetry.serving_metrics import BatchingMetrics
from tests.engine.batching.conftest import Batched, observed
from tests.engine.conftest import load
from tests.support.process import wait_until

LONG = 3600 * 1_000_000
SECONDS = 60.0


def run(model: Model, *outputs: str, name: str = "serving_default", **inputs: Any) -> dict[str, Any]:
    arrays = {alias: np.asarray(value, np.float32) for alias, value in inputs.items()}
    found = model.run(model.signatures[name], arrays, outputs)
    return {alias: value.tolist() for alias, value in found.items()}


def together(*calls: Callable[[], Any]) -> list[Any]:
    """Make the calls at the same time, each in a thread of its own; what they return or raise."""

    def outcome(future: Future[Any]) -> Any:
        error = future.exception(SECONDS)
        return str(error) if error is not None else future.result()

    with ThreadPoolExecutor(len(calls)) as pool:
        return [outcome(future) for future in [pool.submit(call) for call in calls]]


def test_requests_meet_in_one_batch(batched: Batched) -> None:
    model = batched(max_batch_size=6, batch_timeout_micros=LONG)
    found = together(lambda: run(model, x=[1]), lambda: run(model, x=[2, 3]), lambda: run(model, x=[4, 5, 6]))
    assert found == [
        {"y": [2], "n": [6]},
        {"y": [3, 4], "n": [6, 6]},
        {"y": [5, 6, 7], "n": [6, 6, 6]},
    ]


def test_the_order_of_outputs_does_not_keep_requests_apart_but_their_choice_does(batched: Batched) -> None:
    model = batched(max_batch_size=2, batch_timeout_micros=LONG)
    found = together(
        lambda: list(run(model, "n", "y", x=[1]).items()),
        lambda: list(run(model, "y", "n", x=[2]).items()),
        lambda: run(model, "n", x=[3]),
        lambda: run(model, "n", x=[4]),
    )
    assert found == [[("n", [2]), ("y", [2])], [("y", [3]), ("n", [2])], {"n": [2]}, {"n": [2]}]


def test_signatures_do_not_share_batches(batched: Batched) -> None:
    model = batched(max_batch_size=2, batch_timeout_micros=LONG)
    found = together(
        lambda: run(model, x=[1]),
        lambda: run(model, x=[2]),
        lambda: run(model, name="pair", a=[1], b=[2]),
        lambda: run(model, name="pair", a=[3], b=[4]),
    )
    assert found == [
        {"y": [2], "n": [2]},
        {"y": [3], "n": [2]},
        {"y": [3], "n": [2]},
        {"y": [7], "n": [2]},
    ]


def test_runs_by_tensor_names_are_batched_too(batched: Batched) -> None:
    model = batched(max_batch_size=3, batch_timeout_micros=LONG)
    signatures = [model.signatures["serving_default"], model.signatures["scalar"]]
    feeds = sorted_feeds(signature.inputs["x"] for signature in signatures)
    fetches = tuple(signature.outputs["y"].tensor for signature in signatures)

    def both(*x: float) -> list[Any]:
        values = {spec.tensor: np.array(x, np.float32) for spec in feeds}
        return [value.tolist() for value in model.run_tensors(feeds, values, fetches).values()]

    assert together(lambda: both(1), lambda: both(2, 3)) == [[[2], [1]], [[3, 4], [2, 3]]]


@pytest.mark.parametrize(
    ("signature", "inputs", "message"),
    [
        ("constant", {}, "Batching Run() must have at least one input tensor"),
        (
            "serving_default",
            {"x": np.float32(1)},
            "Batching Run() input tensors must have at least one dimension",
        ),
        (
            "pair",
            {"a": np.zeros(1, np.float32), "b": np.zeros(2, np.float32)},
            "Batching Run() input tensors must have equal 0th-dimension size",
        ),
        # What is wrong for batching is told first, as in the reference; then the type; then the size.
        (
            "serving_default",
            {"x": np.array(1, np.int32)},
            "Batching Run() input tensors must have at least one dimension",
        ),
        (
            "serving_default",
            {"x": np.zeros(5, np.int32)},
            "Expects arg[0] to be float but int32 is provided",
        ),
        (
            "serving_default",
            {"x": np.zeros(5, np.float32)},
            "Task size 5 is larger than maximum input batch size 4",
        ),
    ],
)
def test_what_is_refused_at_once(
    batched: Batched, metrics: BatchingMetrics, signature: str, inputs: dict[str, Array], message: str
) -> None:
    model = batched(max_batch_size=4, batch_timeout_micros=LONG)
    with pytest.raises(ServingError) as raised:
        model.run(model.signatures[signature], {alias: np.asarray(value) for alias, value in inputs.items()})
    assert (raised.value.code, raised.value.message) == (Code.INVALID_ARGUMENT, message)
    assert observed(metrics.input_batch_size) == ({(): (1, 5.0)} if "Task size" in message else {})


def test_a_rank_that_cannot_be_padded(batched: Batched) -> None:
    x = np.zeros([1] * 7, np.float32)
    assert run(batched(), x=x)["n"] == [1]
    with pytest.raises(ServingError, match=r"^INVALID_ARGUMENT: Only tensors with rank from 1 to 6 can be"):
        run(batched(pad_variable_length_inputs=True), x=x)


def test_a_full_queue_refuses_at_once(batched: Batched) -> None:
    model = batched(max_batch_size=4, batch_timeout_micros=LONG, max_enqueued_batches=1)
    full = "currently 1 batches enqueued and max_enqueued_batches is 1"
    with ThreadPoolExecutor(3) as pool:
        # Whichever of the two comes second does not fit.
        calls = [pool.submit(run, model, x=[1, 2, 3]) for _ in range(2)]
        refused = wait_until(lambda: [call for call in calls if call.done()], "one is refused")
        with pytest.raises(ServingError, match=full) as raised:
            refused[0].result()
        assert raised.value.code is Code.UNAVAILABLE
        assert run(model, x=[9]) == {"y": [10], "n": [4]}
        (other,) = [call for call in calls if call is not refused[0]]
        assert other.result(SECONDS)["n"] == [4, 4, 4]


def test_each_input_tensor_is_counted(batched: Batched, metrics: BatchingMetrics) -> None:
    run(batched(), name="pair", a=[1, 2, 3], b=[1, 2, 3])
    assert observed(metrics.input_batch_size) == {(): (2, 6.0)}


def test_a_request_without_rows_does_not_wait(batched: Batched, metrics: BatchingMetrics) -> None:
    model = batched(max_batch_size=4, batch_timeout_micros=LONG, allowed_batch_sizes=(4,))
    assert run(model, x=[]) == {"y": [], "n": []}
    with pytest.raises(ServingError, match="has 0 dimensions"):
        run(model, name="scalar", x=[])
    assert observed(metrics.processed_batch_size) == {(): (2, 0.0)}


def test_a_large_request_is_cut_and_comes_back_whole(batched: Batched) -> None:
    model = batched(
        max_batch_size=10,
        max_execution_batch_size=4,
        enable_large_batch_splitting=True,
        max_enqueued_batches=9,
    )
    assert run(model, x=range(10)) == {"y": list(range(1, 11)), "n": [4] * 8 + [2] * 2}


def test_a_request_that_waits_past_its_deadline(batched: Batched, scheduler: Scheduler) -> None:
    model = batched(batch_timeout_micros=LONG)
    x = {"x": np.zeros(1, np.float32)}
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(model.run, model.signatures["serving_default"], x, deadline=time.monotonic())
        scheduler.drain()
        with pytest.raises(ServingError, match=r"Run\(\) timeout exceeded") as raised:
            call.result(SECONDS)
    assert raised.value.code is Code.RESOURCE_EXHAUSTED


def test_combinations_of_outputs_that_clients_ask_for_do_not_pile_up(
    probe: Model, scheduler: Scheduler, metrics: BatchingMetrics
) -> None:
    model = BatchedModel(probe, BatchingParameters(), scheduler, metrics)
    spec = model.signatures["serving_default"].inputs["x"]
    names = [spec.tensor for spec in model.signatures["serving_default"].outputs.values()]
    for _ in range(3):
        for fetches in ((names[0],), (names[1],), tuple(names), tuple(reversed(names))):
            model.run_tensors((spec,), {spec.tensor: np.zeros(1, np.float32)}, fetches)
    found = model._queue.cache_info()
    assert found.currsize == 3
    assert found.maxsize is not None


def test_a_closed_model_is_freed_at_once_without_a_collection(
    probe_path: Path, scheduler: Scheduler, metrics: BatchingMetrics
) -> None:
    inner = load(probe_path)
    model: Model = BatchedModel(inner, BatchingParameters(), scheduler, metrics)
    run(model, x=[1])
    with pytest.raises(ServingError):
        run(model, x=[-1])
    model.close()
    with pytest.raises((ServingError, RuntimeError)):
        inner.run(inner.signatures["serving_default"], {"x": np.zeros(1, np.float32)})
    freed = [weakref.ref(model), weakref.ref(inner)]
    del model, inner
    # A thread of the pool may still be on its way from the last batch to its sleep.
    wait_until(lambda: not any(ref() for ref in freed), "the memory is free")


class Traffic:
    """Random requests from many threads; each must get its own rows, or an error that it has earned."""

    def __init__(self, seed: int, acquire: Callable[[], Any], most_rows: int) -> None:
        self.seed, self.acquire, self.most_rows = seed, acquire, most_rows
        self.outcomes: list[str] = []

    def client(self, number: int) -> None:
        chance = random.Random(self.seed * 1000 + number)
        for turn in range(60):
            first = float(number * 10_000 + turn * 100)
            x = np.arange(first, first + chance.randrange(self.most_rows + 1), dtype=np.float32)
            if chance.random() < 0.2:
                x = np.stack([x, x], axis=1)
            bad = len(x) > 0 and chance.random() < 0.1
            if bad:
                x[-1] = -1
            expired = chance.random() < 0.05
            outputs = chance.choice([(), ("y",), ("n", "y")])
            self.outcomes.append(self.request(x, outputs, bad=bad, expired=expired))

    def request(self, x: Array, outputs: tuple[str, ...], *, bad: bool, expired: bool) -> str:
        deadline = time.monotonic() + (-1 if expired else SECONDS)
        with self.acquire() as handle:
            model = handle.servable
            try:
                found = model.run(model.signatures["serving_default"], {"x": x}, outputs, deadline=deadline)
            except ServingError as error:
                earned = {
                    Code.INVALID_ARGUMENT: bad and "[negative." in error.message,
                    Code.RESOURCE_EXHAUSTED: expired,
                    Code.UNAVAILABLE: "queue to which this task was submitted is full" in error.message,
                }
                return error.code.name if earned.get(error.code) else f"{error} for {x} {bad} {expired}"
        if bad or not np.array_equal(found["y"], x + 1):
            return f"{found} for {x}"
        return "OK"


@pytest.mark.parametrize(
    "parameters",
    [
        {"max_batch_size": 8},
        {"max_batch_size": 8, "max_enqueued_batches": 1},
        {"max_batch_size": 16, "batch_timeout_micros": 500, "allowed_batch_sizes": (4, 8, 16)},
        {
            "max_batch_size": 8,
            "max_execution_batch_size": 3,
            "enable_large_batch_splitting": True,
            "allowed_batch_sizes": (2, 8),
            "batch_timeout_micros": 200,
        },
    ],
)
def test_everybody_gets_their_own_rows_whatever_else_happens(
    probe_path: Path, scheduler: Scheduler, metrics: BatchingMetrics, parameters: dict[str, Any]
) -> None:
    checked = BatchingParameters(**parameters)
    checked.check_queues()
    loaded: list[weakref.ref[BatchedModel]] = []

    def load_batched(_name: str, _number: int, path: str) -> Model:
        model = BatchedModel(load(Path(path)), checked, scheduler, metrics)
        loaded.append(weakref.ref(model))
        return model

    board = StateBoard()
    manager: Manager[Model] = Manager(load_batched, board)
    manager.start()
    versions = iter(range(1, 1000))

    def swap() -> None:
        number = next(versions)
        manager.set_aspired("m", {number: str(probe_path)})
        assert board.wait(
            lambda: any(
                status.version == number and status.state is State.AVAILABLE for status in board.versions("m")
            ),
            time.monotonic() + SECONDS,
        )

    swap()
    traffic = Traffic(len(parameters), lambda: manager.acquire("m"), checked.max_batch_size)
    clients = [threading.Thread(target=traffic.client, args=(number,)) for number in range(12)]
    for thread in clients:
        thread.start()
    while any(thread.is_alive() for thread in clients):
        swap()
    for thread in clients:
        thread.join()
    assert len(traffic.outcomes) == 12 * 60
    known = {"OK", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "UNAVAILABLE"}
    assert [outcome for outcome in traffic.outcomes if outcome not in known] == []
    assert {"OK", "INVALID_ARGUMENT"} <= set(traffic.outcomes)
    manager.set_aspired("m", {})
    wait_until(lambda: not any(ref() for ref in loaded), "no version, queue or task is left")
    assert not scheduler._waiting
    manager.stop()
