from __future__ import annotations

import math
import queue
import random
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from app.engine.batching import adaptive as adaptive_module
from app.engine.batching.adaptive import AdaptiveModel
from app.engine.batching.sizes import BatchSizes
from app.engine.dtypes import Array
from app.engine.model import Model
from app.errors import Code, ServingError, invalid_argument
from app.telemetry.instruments import Distribution
from app.telemetry.serving_metrics import BatchingMetrics
from tests.engine.batching.conftest import observed
from tests.support.process import wait_until


class Paced(Model):
    """The signature `pair` of the probe; each run is told to the test, and waits until it lets it go on."""

    def __init__(self, probe: Model) -> None:
        super().__init__({"pair": probe.signature_defs["pair"]})
        self.runs: queue.SimpleQueue[tuple[list[float], int]] = queue.SimpleQueue()
        self.go = threading.Semaphore(0)

    def call(
        self,
        feeds: tuple[str, ...],
        values: Sequence[Array],
        fetches: tuple[str, ...],
        deadline: float | None,
    ) -> list[Array]:
        del feeds, deadline
        a, b = values
        self.runs.put((a.tolist(), threading.get_ident()))
        assert self.go.acquire(timeout=60)
        if (a < 0).any():
            raise invalid_argument(f"negative: {a.tolist()}")
        return [a + b for _ in fetches]

    def close(self) -> None:
        pass


class Scene:
    """Requests to a paced model with room for one run, sent one after the other."""

    def __init__(self, probe: Model, metrics: BatchingMetrics, pool: ThreadPoolExecutor) -> None:
        self.paced = Paced(probe)
        self.model = AdaptiveModel(self.paced, 1, 0, metrics)
        self._pool = pool

    def send(self, *values: float, deadline: float | None = None) -> Future[list[float]]:
        """Send a request, and wait until it runs or waits."""
        before = self._line()
        future = self._pool.submit(self._ask, values, deadline)
        wait_until(lambda: self._line() != before, "the request has arrived")
        return future

    def _line(self) -> tuple[int, int]:
        """How many runs there are, and how many requests wait."""
        signature = self.model.signatures["pair"]
        feeds = tuple(sorted(spec.tensor for spec in signature.inputs.values()))
        line, _ = self.model._place(feeds, (signature.outputs["y"].tensor,))
        assert line is not None
        return line._runs, len(line._waiting)

    def _ask(self, values: Sequence[float], deadline: float | None) -> list[float]:
        signature = self.model.signatures["pair"]
        pair = np.array(values, np.float32)
        found = self.model.run(signature, {"a": pair, "b": pair}, ["y"], deadline=deadline)
        return [float(value) for value in found["y"]]

    def next_run(self) -> list[float]:
        """The first input of the run that begins next, which is then let go on."""
        rows, _ = self.paced.runs.get(timeout=60)
        self.paced.go.release()
        return rows


@pytest.fixture
def scene(probe: Model, metrics: BatchingMetrics, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setattr(adaptive_module, "_CHEAP", 0.0)  # a run may be let go on at once
    with ThreadPoolExecutor(16) as pool:
        made = Scene(probe, metrics, pool)
        yield made
        made.model.close()


@pytest.fixture
def batches_of_eight(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is learned from real times differs from run to run."""
    monkeypatch.setattr(BatchSizes, "limit", property(lambda _: 8))


def test_an_idle_model_runs_a_request_at_once_in_its_own_thread(scene: Scene) -> None:
    scene.paced.go.release()
    assert scene._ask([1, 2], None) == [2, 4]
    assert scene.paced.runs.get() == ([1, 2], threading.get_ident())


@pytest.mark.usefixtures("batches_of_eight")
def test_what_comes_while_it_is_busy_runs_together_in_order_of_arrival(scene: Scene) -> None:
    answers = [scene.send(1), scene.send(2), scene.send(3, 4), scene.send(5, 6, 7, 8, 9, 10), scene.send(11)]
    assert [scene.next_run() for _ in range(3)] == [[1], [2, 3, 4], [5, 6, 7, 8, 9, 10, 11]]
    assert [answer.result(60) for answer in answers] == [[2], [4], [6, 8], [10, 12, 14, 16, 18, 20], [22]]


@pytest.mark.usefixtures("batches_of_eight")
def test_a_request_above_the_size_runs_alone(scene: Scene) -> None:
    answers = [scene.send(1), scene.send(*range(20)), scene.send(3)]
    assert [len(scene.next_run()) for _ in range(3)] == [1, 20, 1]
    assert [len(answer.result(60)) for answer in answers] == [1, 20, 1]


@pytest.mark.usefixtures("batches_of_eight")
def test_a_bad_request_fails_alone(scene: Scene) -> None:
    answers = [scene.send(1), scene.send(2), scene.send(-3), scene.send(4)]
    assert [scene.next_run() for _ in range(5)] == [[1], [2, -3, 4], [2], [-3], [4]]
    assert [answers[index].result(60) for index in (0, 1, 3)] == [[2], [4], [8]]
    with pytest.raises(ServingError, match=r"negative: \[-3.0\]"):
        answers[2].result(60)


@pytest.mark.usefixtures("batches_of_eight")
def test_requests_that_all_waited_past_their_deadline_are_not_run(scene: Scene) -> None:
    first = scene.send(1)
    late = [scene.send(2, deadline=0.0), scene.send(3, deadline=0.0)]
    assert scene.next_run() == [1]
    assert first.result(60) == [2]
    for answer in late:
        with pytest.raises(ServingError) as raised:
            answer.result(60)
        assert raised.value.code is Code.RESOURCE_EXHAUSTED
    again = scene.send(4)
    assert scene.next_run() == [4]
    assert again.result(60) == [8]


@pytest.mark.usefixtures("batches_of_eight")
def test_the_metrics_are_those_of_batching(scene: Scene, metrics: BatchingMetrics) -> None:
    answers = [scene.send(1), scene.send(2), scene.send(3)]
    for _ in range(2):
        scene.next_run()
    for answer in answers:
        answer.result(60)
    assert observed(metrics.processed_batch_size) == {(): (2, 3)}
    assert metrics.wrapped_runs.cells() == [((), 2)]


def test_short_runs_go_one_at_a_time_and_long_ones_side_by_side(
    probe: Model, metrics: BatchingMetrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ThreadPoolExecutor(4) as pool:
        for short, waiting in ((math.inf, 1), (0.0, 0)):
            monkeypatch.setattr(adaptive_module, "_SHORT", short)
            monkeypatch.setattr(adaptive_module, "_CHEAP", 0.0)
            scene = Scene(probe, metrics, pool)
            scene.model = AdaptiveModel(scene.paced, 2, 0, metrics)
            first = scene.send(1)
            assert scene.next_run() == [1]
            first.result(60)
            answers = [scene.send(2), scene.send(3)]
            assert scene._line() == (2 - waiting, waiting)
            assert sorted(scene.next_run() + scene.next_run()) == [2, 3]
            for answer in answers:
                answer.result(60)


@pytest.mark.usefixtures("batches_of_eight")
def test_batches_run_one_after_the_other_in_a_thread_for_them(scene: Scene) -> None:
    answers = [scene.send(value) for value in range(1, 7)]
    threads = []
    for _ in range(2):
        _, thread = scene.paced.runs.get(timeout=60)
        threads.append(thread)
        if len(threads) == 1:
            scene.paced.go.release()
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    assert names[threads[1]] == "ferry-batch"
    answers.extend([scene.send(7), scene.send(8)])
    scene.paced.go.release(2)
    rows, thread = scene.paced.runs.get(timeout=60)
    assert (rows, thread) == ([7, 8], threads[1])
    assert [answer.result(60) for answer in answers] == [[2 * value] for value in range(1, 9)]
    scene.model.close()
    wait_until(lambda: not any(each.name == "ferry-batch" for each in threading.enumerate()), "it ends")


def test_runs_that_cost_next_to_nothing_are_never_held_up(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adaptive_module, "_CHEAP", math.inf)
    scene.paced.go.release()
    assert scene._ask([1], None) == [2]
    with ThreadPoolExecutor(3) as pool:  # the room is for one
        answers = [pool.submit(scene._ask, [value], None) for value in (2.0, 3.0, 4.0)]
        runs = [scene.paced.runs.get(timeout=60)[0] for _ in range(4)]
        scene.paced.go.release(3)
        assert [answer.result(60) for answer in answers] == [[4], [6], [8]]
    assert sorted(runs) == [[1], [2], [3], [4]]


# The real model: what cannot share a batch answers as without batching.


@pytest.fixture
def adaptive(probe: Model, metrics: BatchingMetrics) -> AdaptiveModel:
    return AdaptiveModel(probe, 1, 0, metrics)


@pytest.mark.parametrize(
    ("name", "inputs"),
    [
        ("serving_default", {"x": np.array([[1, 2]], np.float32)}),
        ("scalar", {"x": np.array([1, 2], np.float32)}),
        ("positive", {"x": np.array([1, -2, 3], np.float32)}),
        ("positive", {"x": np.empty(0, np.float32)}),
        ("constant", {}),
        ("pair", {"a": np.ones(1, np.float32), "b": np.array([1, 2], np.float32)}),
        ("words", {"x": np.array([b"a"], object)}),
    ],
)
def test_a_request_alone_is_answered_as_without_batching(
    probe: Model, adaptive: AdaptiveModel, name: str, inputs: dict[str, Any]
) -> None:
    expected = probe.run(probe.signatures[name], inputs)
    found = adaptive.run(adaptive.signatures[name], inputs)
    assert found.keys() == expected.keys()
    for alias, value in expected.items():
        np.testing.assert_array_equal(found[alias], value)


@pytest.mark.usefixtures("batches_of_eight")
@pytest.mark.parametrize("runs_at_a_time", [1, 2])
def test_everybody_gets_their_own_answer_under_load(
    probe: Model, metrics: BatchingMetrics, runs_at_a_time: int
) -> None:
    model = AdaptiveModel(probe, runs_at_a_time, 0, metrics)
    wrong: list[object] = []

    def client(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(60):
            values = np.array([chance.uniform(1, 9) for _ in range(chance.randint(1, 5))], np.float32)
            name = chance.choice(["pair", "pair", "positive", "words", "negative"])
            try:
                if name == "pair":
                    found = model.run(model.signatures[name], {"a": values, "b": values})["y"]
                    right = np.array_equal(found, values + values)
                elif name == "positive":  # an output that is not made of the batch's rows
                    signs = values * chance.choice([-1, 1])
                    found = model.run(model.signatures[name], {"x": signs})["y"]
                    right = np.array_equal(found, signs[signs > 0])
                elif name == "words":
                    texts = np.array([str(value).encode() for value in values], object)
                    found = model.run(model.signatures[name], {"x": texts})["y"]
                    right = found.tolist() == texts.tolist()
                else:
                    model.run(model.signatures["serving_default"], {"x": -values})
                    right = False
            except ServingError as error:
                right = name == "negative" and "negative" in error.message
            if not right:
                wrong.append((seed, name, values))

    threads = [threading.Thread(target=client, args=(seed,)) for seed in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    ((_, sizes),) = metrics.processed_batch_size.cells()
    assert isinstance(sizes, Distribution)
    assert sizes.sum > sum(sizes.counts), "some requests shared a batch"


# Company.


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """For as long as it takes: the runs of the tests are short."""
    monkeypatch.setattr(adaptive_module, "_SHORTEST_PATIENCE", 0.0)
    monkeypatch.setattr(adaptive_module, "_LONGEST_PATIENCE", math.inf)
    monkeypatch.setattr(adaptive_module, "_PATIENCE", 1e9)


@pytest.mark.usefixtures("batches_of_eight", "patient")
def test_clients_that_were_answered_together_run_together_again(scene: Scene) -> None:
    first = [scene.send(1), scene.send(2), scene.send(3), scene.send(4)]
    assert [scene.next_run() for _ in range(2)] == [[1], [2, 3, 4]]
    for answer in first:
        answer.result(60)
    again = [scene.send(5), scene.send(6)]
    assert scene.paced.runs.empty(), "three came last time"
    again.append(scene.send(7))
    assert scene.next_run() == [5, 6, 7]
    assert [answer.result(60) for answer in again] == [[10], [12], [14]]


@pytest.mark.usefixtures("batches_of_eight")
def test_company_that_does_not_come_is_not_waited_for_long(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adaptive_module, "_SHORTEST_PATIENCE", 0.0)
    first = [scene.send(1), scene.send(2), scene.send(3)]
    assert [scene.next_run() for _ in range(2)] == [[1], [2, 3]]
    for answer in first:
        answer.result(60)
    alone = scene.send(4)
    assert scene.next_run() == [4]
    assert alone.result(60) == [8]


@pytest.mark.usefixtures("batches_of_eight", "patient")
def test_after_a_request_that_ran_alone_nobody_waits_for_company(scene: Scene) -> None:
    first = scene.send(1, 2, 3)
    assert scene.next_run() == [1, 2, 3]
    assert first.result(60) == [2, 4, 6]
    second = scene.send(4)
    assert scene.next_run() == [4]
    assert second.result(60) == [8]


@pytest.mark.usefixtures("batches_of_eight", "patient")
def test_a_model_that_has_been_idle_answers_at_once(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    first = [scene.send(1), scene.send(2), scene.send(3)]
    assert [scene.next_run() for _ in range(2)] == [[1], [2, 3]]
    for answer in first:
        answer.result(60)
    monkeypatch.setattr(adaptive_module, "_LONGEST_PATIENCE", 1e-9)  # a moment ago is long ago
    alone = scene.send(4)
    assert scene.next_run() == [4]
    assert alone.result(60) == [8]


def test_what_did_not_run_tells_nothing_of_run_times(scene: Scene) -> None:
    """Nor does what failed: a heavy model would pass for a cheap one, whose requests are never held up."""
    signature = scene.model.signatures["pair"]
    feeds = tuple(sorted(spec.tensor for spec in signature.inputs.values()))
    line, _ = scene.model._place(feeds, (signature.outputs["y"].tensor,))
    assert line is not None
    with pytest.raises(ServingError, match="timeout exceeded"):
        scene._ask([1], 0.0)
    scene.paced.go.release()
    with pytest.raises(ServingError, match="negative"):
        scene._ask([-1], None)
    assert (line._quickest, line._runs, line._requests_running) == (math.inf, 0, 0)
    scene.paced.go.release()
    assert scene._ask([1], None) == [2]
    assert line._quickest < math.inf


def test_arrays_that_no_model_could_take_as_they_stand(adaptive: AdaptiveModel) -> None:
    crooked = np.ndarray(2, np.float32, bytearray(9), 1)
    crooked[:] = [1, 2]
    for name in ("pair", "scalar"):  # in a batch, and by itself
        signature = adaptive.signatures[name]
        found = adaptive.run(signature, dict.fromkeys(signature.inputs, crooked))
        assert found["y"].tolist() == ([2, 4] if name == "pair" else [1, 2])
