from __future__ import annotations

from typing import Any

import pytest
from tensorflow_serving.apis import inference_pb2, predict_pb2

from app.placement import INLINE_SECONDS, STALL_SECONDS, Placement, kind_of

FAST, SLOW = INLINE_SECONDS / 5, STALL_SECONDS * 5


def in_thread(placement: Placement, seconds: float, times: int = 1, *, cpu: float | None = None) -> None:
    for _ in range(times):
        placement.ran("k", seconds, seconds if cpu is None else cpu, inline=False)


def inline(placement: Placement, seconds: float, times: int = 1, *, cpu: float | None = None) -> None:
    for _ in range(times):
        placement.ran("k", seconds, seconds if cpu is None else cpu, inline=True)


def trial(placement: Placement) -> int:
    """How many fast calls it takes until the loop is trusted with the next."""
    count = 0
    while not placement.inline("k"):
        in_thread(placement, FAST)
        count += 1
    return count


def test_what_is_not_known_runs_in_a_thread() -> None:
    placement = Placement()
    assert not placement.inline("k")
    in_thread(placement, FAST)
    assert not placement.inline("k"), "one call proves little"
    in_thread(placement, FAST)
    assert placement.inline("k")
    assert not placement.inline("another")


def test_slow_calls_stay_in_threads() -> None:
    placement = Placement()
    in_thread(placement, SLOW, 100)
    assert not placement.inline("k")
    in_thread(placement, FAST)
    in_thread(placement, SLOW)
    in_thread(placement, FAST)
    assert not placement.inline("k"), "cheap calls count in a row"


def test_one_stall_on_the_loop_is_enough() -> None:
    placement = Placement()
    trial(placement)
    inline(placement, FAST, 50)
    inline(placement, SLOW)
    assert not placement.inline("k")


def test_calls_that_are_all_a_little_too_slow_leave_the_loop() -> None:
    placement = Placement()
    trial(placement)
    inline(placement, INLINE_SECONDS * 1.5, 30)
    assert not placement.inline("k")


def test_the_way_back_grows_longer_and_is_forgotten_in_time() -> None:
    placement = Placement()
    trials = []
    for _ in range(4):
        trials.append(trial(placement))
        inline(placement, SLOW)
    assert trials == [2, 4, 8, 16]
    assert trial(placement) == 32
    inline(placement, FAST, 10_000)
    inline(placement, SLOW)
    assert trial(placement) == 4


def test_time_that_other_processes_took_is_not_held_against_a_call() -> None:
    placement = Placement()
    in_thread(placement, SLOW, 2, cpu=FAST)
    assert placement.inline("k")
    inline(placement, SLOW, cpu=FAST)
    assert placement.inline("k")


def test_calls_that_wait_leave_the_loop_after_a_few() -> None:
    placement = Placement()
    trial(placement)
    inline(placement, SLOW, 5, cpu=FAST)
    assert not placement.inline("k")


def test_one_call_that_waits_long_leaves_the_loop() -> None:
    placement = Placement()
    in_thread(placement, 0.1, 10, cpu=FAST)
    assert not placement.inline("k")
    trial(placement)
    inline(placement, 0.1, cpu=FAST)
    assert not placement.inline("k")


def test_a_result_that_comes_late_changes_nothing() -> None:
    placement = Placement()
    trial(placement)
    in_thread(placement, SLOW)  # begun before the loop was trusted
    assert placement.inline("k")
    inline(placement, SLOW)
    inline(placement, SLOW)
    assert trial(placement) == 4


def test_the_memory_for_kinds_is_bounded() -> None:
    placement = Placement()
    for number in range(10_000):
        placement.ran(number, FAST, FAST, inline=False)
    assert len(placement._records) <= 4096


def request(model: str, values: int, signature: str = "") -> bytes:
    message = predict_pb2.PredictRequest()
    message.model_spec.name = model
    message.model_spec.signature_name = signature
    message.inputs["x"].float_val.extend([1.0] * values)
    return bytes(message.SerializeToString())


def test_a_kind_is_method_model_and_size() -> None:
    one = kind_of("/p", request("a", 10))
    assert one == kind_of("/p", request("a", 11))
    others: list[Any] = [("b", 10), ("a", 100), ("a", 10, "s")]
    assert len({one, *(kind_of("/p", request(*other)) for other in others)}) == 4
    assert kind_of("/q", request("a", 10)) != one


def test_a_task_names_the_model_too() -> None:
    message = inference_pb2.MultiInferenceRequest()
    message.tasks.add().model_spec.name = "a"
    first = kind_of("/m", message.SerializeToString())
    message.tasks[0].model_spec.name = "b"
    assert kind_of("/m", message.SerializeToString()) != first


@pytest.mark.parametrize("message", [b"", b"\x0a", b"\x0a\xff", b"\x12\x01a", b"\x0a\x7fab"])
def test_every_message_has_a_kind(message: bytes) -> None:
    assert hash(kind_of("/p", message)) == hash(kind_of("/p", message))


def test_a_long_wait_now_and_then_in_a_thread_is_forgiven() -> None:
    placement = Placement()
    in_thread(placement, 0.02, cpu=FAST)
    in_thread(placement, FAST, 2)
    assert placement.inline("k"), "threads wait for each other"


def test_waits_on_the_loop_for_calls_that_still_run_in_threads_do_not_count() -> None:
    placement = Placement()
    trial(placement)
    for _ in range(10):
        inline(placement, SLOW, cpu=FAST)
        in_thread(placement, FAST)
    assert placement.inline("k")
