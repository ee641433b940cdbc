"""Which requests are answered on the event loop, and that they are counted as any other."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from app.lifecycle.states import StateBoard
from app.options import Options
from app.placement import Placement
from app.rest.direct import Direct, held_seconds, kind_of, target_of
from app.rest.service import Reply, RestService
from app.telemetry.observer import Observer
from app.telemetry.serving_metrics import ServingMetrics

URL = "/v1/models/m:predict"


class Service(RestService):
    """Answers with what it was asked; stands where a loaded model would."""

    def __init__(self) -> None:
        self.metrics = ServingMetrics.make()
        super().__init__(None, StateBoard(), Options(), self.metrics)  # type: ignore[arg-type]
        self.work: Callable[[], None] = lambda: None
        self.stages: tuple[int, ...] = ()

    def answer(
        self,
        method: str,
        target: str,
        body: bytes,
        deadline: float | None = None,  # noqa: ARG002
    ) -> Reply:
        self.work()
        return Reply(200, f"{method} {target} ".encode() + body, model="m", stages=self.stages)


def direct(
    service: RestService,
    body: bytes | None = b"body",
    options: Options | None = None,
    observer: Observer | None = None,
) -> Direct:
    """One that knows requests with such a body to be fast."""
    placement = Placement()
    if body is not None:
        for _ in range(5):
            placement.ran(kind_of(URL, body), 1e-5, 1e-5, inline=False)
    return Direct(service, options or Options(), placement, lambda: False, observer=observer)


def test_a_request_that_is_known_to_be_fast_is_answered_and_counted() -> None:
    service = Service()
    reply = direct(service).answer(URL, b"body")
    assert reply is not None
    assert reply.body == b"POST /v1/models/m:predict body"
    assert service.metrics.request_count.cells() == [(("m", "OK"), 1)]
    requests, responses = service.metrics.ferry.traffic("predict", "REST").sizes()
    assert (requests.sum, responses.sum) == (4, len(reply.body))


def test_what_is_not_known_or_of_another_size_is_not() -> None:
    service = Service()
    assert direct(service, None).answer(URL, b"body") is None
    assert direct(service).answer(URL, bytes(1000)) is None
    assert direct(service).answer("/v1/models/other:predict", b"body") is None
    assert service.metrics.request_count.cells() == []


def test_a_slow_one_goes_back_to_the_threads() -> None:
    service = Service()
    asked = direct(service)

    def work() -> None:
        sum(range(2_000_000))

    service.work = work
    answers = [asked.answer(URL, b"body") for _ in range(4)]
    assert answers[0] is not None
    assert answers[-1] is None


def test_what_would_stall_the_loop_from_a_thread_as_well_is_not_held_against_it() -> None:
    ms = 1_000_000
    reply = Reply(200, b"", stages=(6 * ms, 1 * ms, 2 * ms))
    assert held_seconds(reply, 9e-3) == pytest.approx(8e-3)
    assert held_seconds(reply, 16e-3) == 0, "so long a request should be one that the loop can interrupt"
    assert held_seconds(Reply(200, b""), 9e-3) == 0, "no model was run"


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_long_decoding_stays_on_the_loop_and_a_long_run_does_not(stage: int) -> None:
    service = Service()
    asked = direct(service)

    def work() -> None:
        start = time.perf_counter_ns()
        while (spent := time.perf_counter_ns() - start) < 3_000_000:
            pass
        service.stages = tuple(spent * (stage == index) for index in range(3))

    service.work = work
    answers = [asked.answer(URL, b"body") for _ in range(20)]
    assert (answers[-1] is None) == (stage == 1)


@pytest.mark.parametrize(
    "options",
    [
        Options(rest_api_enable_cors_support=True),
        Options(enable_batching=True),
        Options(adaptive_batching=True),
    ],
)
def test_some_options_leave_nothing_to_answer(options: Options) -> None:
    assert direct(Service()).enabled
    assert not direct(Service(), options=options).enabled


def test_tokens_are_not_asked_for_here() -> None:
    assert not Direct(Service(), Options(), Placement(), lambda: False, guarded=True).enabled


def test_a_request_that_somebody_wants_to_see_goes_the_usual_way() -> None:
    observer = Observer()
    asked = direct(Service(), observer=observer)
    observer.active = True
    assert asked.answer(URL, b"body") is None
    observer.active = False
    assert asked.answer(URL, b"body") is not None


@pytest.mark.parametrize(
    "url",
    [
        b"/v1/models/m:predict",
        b"/v1/models/a.b-c%2F:classify",
        b"/v1/models/m/versions/12:regress",
        b"/v1/models/m/labels/stable:predict",
    ],
)
def test_plain_targets(url: bytes) -> None:
    assert target_of(url) == url.decode()


@pytest.mark.parametrize(
    "url",
    [
        b"/v1/models/m",
        b"/v1/models/m:predict?x=1",
        b"/v1/models/m:predict#x",
        b"/V1/models/m:predict",
        b"/v1/models/m:PREDICT",
        b"http://h/v1/models/m:predict",
        b"/v1/models/\xc3\xa4:predict",
        b"/v1/models/" + b"m" * 300 + b":predict",
    ],
)
def test_other_targets(url: bytes) -> None:
    assert target_of(url) is None
