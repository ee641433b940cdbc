"""Ferry's own metrics, beside TensorFlow Serving's: in a registry of their own, for its page stays as it is.

What a request adds is kept as it is and put into buckets later, many at a time or when the page is read:
that takes a tenth of a microsecond. What is under way is the difference of two counts that need no lock.
"""

from __future__ import annotations

import itertools
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from app.telemetry.instruments import Cells, Counter, Distribution, Histogram, Labels
from app.telemetry.metrics import Registry
from app.telemetry.observation import note_run

STAGES = ("decode", "run", "encode")

_SECONDS = (*(digit * 10**exponent for exponent in range(-5, 1) for digit in (1.0, 2.5, 5.0)), 10.0)
_NANOSECONDS = tuple(round(bound * 1e9) for bound in _SECONDS)
_BYTES = tuple(64 * 4**exponent for exponent in range(12))
# So many requests wait at most to be put into buckets.
_LATER = 256
_LOAD_SECONDS = (0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 120, 300, 600, 1800)


class Traffic:
    """The requests of one API over one entrypoint: how many are under way, and their sizes."""

    def __init__(self) -> None:
        """None yet."""
        # One call into C, which other threads cannot interrupt; an addition would need a lock.
        self.begin: Callable[[], int] = itertools.count().__next__
        self._reads = 0
        self._ended = 0
        self._requests, self._request_bytes = _counts(_BYTES), 0
        self._responses, self._response_bytes = _counts(_BYTES), 0
        self._later: list[tuple[int, int]] = []
        self._put = self._later.append
        self._lock = threading.Lock()

    def end(self, request_bytes: int, response_bytes: int) -> None:
        """A request that began is over; sizes without headers, as received; 0 for no answer."""
        self._put((request_bytes, response_bytes))  # no other thread interrupts it; sorted later
        if len(self._later) >= _LATER:
            with self._lock:
                self._settle()

    def _settle(self) -> None:
        """Put into buckets what waits for it. Under the lock; others may end meanwhile."""
        sizes = self._later[:]
        del self._later[: len(sizes)]
        self._ended += len(sizes)
        for request_bytes, response_bytes in sizes:
            self._requests[bisect_left(_BYTES, request_bytes)] += 1
            self._request_bytes += request_bytes
            self._responses[bisect_left(_BYTES, response_bytes)] += 1
            self._response_bytes += response_bytes

    @property
    def used(self) -> bool:
        """Whether some request has ended: what was never asked for does not fill the page."""
        return self._ended > 0 or bool(self._later)

    def in_flight(self) -> int:
        """How many requests have begun and not ended."""
        with self._lock:
            self._settle()
            self._reads += 1
            return self.begin() - (self._reads - 1) - self._ended

    def sizes(self) -> tuple[Distribution, Distribution]:
        """The bytes of requests and of responses."""
        with self._lock:
            self._settle()
            return (
                Distribution(_BYTES, tuple(self._requests), self._request_bytes),
                Distribution(_BYTES, tuple(self._responses), self._response_bytes),
            )


class RunClock:
    """Told of the run of one request; tells afterwards how long came before and after it."""

    __slots__ = ("_ended", "_histogram", "_micros", "_model")

    def __init__(self, histogram: Histogram, model: str) -> None:
        """Begin with no run; `histogram` is told as well, by model, API and runtime."""
        self._histogram = histogram
        self._model = model
        self._micros = self._ended = 0

    def __call__(self, api: str, micros: int) -> None:
        """A run has just ended that took so many microseconds."""
        self._ended = time.perf_counter_ns()
        self._micros = micros
        self._histogram.observe(micros, self._model, api, "TF1")
        note_run(api, micros)

    def stages(self, start: int, end: int) -> tuple[int, ...]:
        """Nanoseconds before, in and after the run, of a request from `start` to `end`; empty without a run.

        Args:
            start: a reading of `time.perf_counter_ns`.
            end: one as well.
        """
        if not self._ended:
            return ()
        run = self._micros * 1000
        before = self._ended - run - start
        return before if before > 0 else 0, run, end - self._ended


class Stages:
    """How long requests take to decode, run and encode, by model, API and entrypoint.

    Attributes:
        sources: called before it is read: they add what they kept to themselves so far.
    """

    def __init__(self) -> None:
        """None yet."""
        self.sources: list[Callable[[], None]] = []
        self._cells: dict[Labels, _StageCell] = {}
        self._lock = threading.Lock()

    def observe(self, nanoseconds: tuple[int, ...], *labels: str) -> None:
        """Add a request: its nanoseconds in each of STAGES; model, API and entrypoint."""
        cell = self._cells.get(labels)
        add = cell.add if cell is not None else self.series(*labels)
        add(nanoseconds)

    def series(self, *labels: str) -> Callable[[tuple[int, ...]], None]:
        """A function that adds a request's nanoseconds, for a model, API and entrypoint."""
        cell = self._cells.get(labels)
        if cell is None:
            with self._lock:
                cell = self._cells.setdefault(labels, _StageCell())
        return cell.add

    def cells(self) -> Cells:
        """Distributions in seconds; the stage is the last label."""
        for source in list(self.sources):
            source()
        with self._lock:
            cells = sorted(self._cells.items())
        return [
            ((*labels, stage), found)
            for labels, cell in cells
            if cell.used
            for stage, found in zip(STAGES, cell.read(), strict=True)
        ]


class _StageCell:
    def __init__(self) -> None:
        self.decode, self.run, self.encode = (_counts(_NANOSECONDS) for _ in STAGES)
        self.decode_sum = self.run_sum = self.encode_sum = 0
        self._later: list[tuple[int, ...]] = []
        self._put = self._later.append
        self._lock = threading.Lock()

    def add(self, nanoseconds: tuple[int, ...]) -> None:
        self._put(nanoseconds)  # no other thread interrupts it; sorted later
        if len(self._later) >= _LATER:
            self._settle()

    @property
    def used(self) -> bool:
        self._settle()
        return any(self.run)

    def _settle(self) -> None:
        with self._lock:
            taken = self._later[:]
            del self._later[: len(taken)]
            for decode, run, encode in taken:
                # Written out: a loop or a call for each stage would double the time.
                self.decode[bisect_left(_NANOSECONDS, decode)] += 1
                self.run[bisect_left(_NANOSECONDS, run)] += 1
                self.encode[bisect_left(_NANOSECONDS, encode)] += 1
                self.decode_sum += decode
                self.run_sum += run
                self.encode_sum += encode

    def read(self) -> Iterator[Distribution]:
        counts = (self.decode, self.run, self.encode)
        sums = (self.decode_sum, self.run_sum, self.encode_sum)
        for values, total in zip(counts, sums, strict=True):
            yield Distribution(_SECONDS, tuple(values), total / 1e9)


def _counts(bounds: Sequence[float]) -> list[int]:
    """One bucket for each bound and one above; a value that equals a bound lies in its bucket."""
    return [0] * (len(bounds) + 1)


@dataclass(frozen=True)
class FerryMetrics:
    """The instruments.

    Attributes:
        registry: holds them, for the metrics page.
        stages: of the requests that ran a model.
        load_seconds: of each load with its warm-up, by model and name of the status code.
        refused: requests and connections that a limit refused, by its name.
    """

    registry: Registry
    stages: Stages
    load_seconds: Histogram
    refused: Counter
    _traffic: dict[Labels, Traffic] = field(default_factory=dict)

    @staticmethod
    def make(registry: Registry | None = None) -> FerryMetrics:
        """The instruments, in a registry of their own if none is given."""
        registry = registry or Registry()
        stages = Stages()
        registry.view(
            "/ferry/request_stage_seconds",
            "histogram",
            ("model_name", "api", "entrypoint", "stage"),
            stages.cells,
            "Successful requests: decode (from the message to arrays), run (queue included), encode.",
        )
        load_seconds = registry.histogram(
            "/ferry/model_load_seconds",
            _LOAD_SECONDS,
            "model_name",
            "status",
            text="Attempts to load a version, warm-up included, by the code that they ended with.",
        )
        refused = registry.counter(
            "/ferry/requests_refused", "reason", text="Requests and connections that a limit refused."
        )
        metrics = FerryMetrics(registry, stages, load_seconds, refused)
        metrics._add_traffic()
        return metrics

    def _add_traffic(self) -> None:
        labels = ("api", "entrypoint")

        def in_flight() -> Cells:
            return [(key, traffic.in_flight()) for key, traffic in sorted(self._traffic.items())]

        def sizes(index: int) -> Cells:
            return [
                (key, traffic.sizes()[index])
                for key, traffic in sorted(self._traffic.items())
                if traffic.used
            ]

        self.registry.view(
            "/ferry/requests_in_flight", "gauge", labels, in_flight, "Requests that are being worked on."
        )
        self.registry.view(
            "/ferry/request_bytes", "histogram", labels, lambda: sizes(0), "Bodies or messages received."
        )
        self.registry.view(
            "/ferry/response_bytes", "histogram", labels, lambda: sizes(1), "Bodies or messages sent."
        )

    def traffic(self, api: str, entrypoint: str) -> Traffic:
        """Where requests of `api` (as in TensorFlow Serving's labels) over `entrypoint` are counted.

        To be called while the server is put together: the page reads what is there then.
        """
        return self._traffic.setdefault((api, entrypoint), Traffic())

    def add_build_info(self, versions: Mapping[str, str]) -> None:
        """Tell which versions of what make up this server."""
        self.registry.view(
            "/ferry/build_info",
            "gauge",
            tuple(versions),
            lambda: [(tuple(versions.values()), 1)],
            "1; the labels say what this server is made of.",
        )
