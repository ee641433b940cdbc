from __future__ import annotations

import json
import math
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest

from app.errors import ServingError
from app.tools.bench import Request, _made_step, measure, prepare, with_port
from app.tools.bench_report import as_json, check_plot, notes, plot
from tests.support.process import ServerProcess, free_port
from tests.tools.conftest import ferry, ferry_json, run_ferry

QUICK = ("--seconds", "0.3", "--warm-seconds", "0", "--concurrency", "1,3")


@pytest.fixture
def half_broken() -> Iterator[str]:
    """A server that answers every second request of a connection with 503; HOST:PORT."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        count = 0

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.count += 1
            self.send_response(200 if self.count % 2 else 503)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_rest_is_measured_and_drawn(zoo_server: ServerProcess, tmp_path: Path) -> None:
    host = f"127.0.0.1:{zoo_server.rest_port}"
    printed = ferry("bench", host, "--model", "half", *QUICK, "--plot", str(tmp_path / "p.svg"))
    assert printed.startswith("half, serving_default, http, requests of ")
    assert [line.split()[0] for line in printed.splitlines()[2:4]] == ["1", "3"]
    assert "<svg" in (tmp_path / "p.svg").read_text()


def test_grpc_is_measured_with_a_users_request(zoo_server: ServerProcess, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", a=np.array([[1, 2]], np.float32), b=np.array([3]))
    found = ferry_json(
        *("bench", f"grpc://127.0.0.1:{zoo_server.grpc_port}", "--model", "two", *QUICK),
        *("--input", str(tmp_path / "in.npz")),
    )
    assert found["servers"][0]["protocol"] == "grpc"
    for step, clients in zip(found["steps"], (1, 3), strict=True):
        assert (step["concurrency"], step["errors"]) == (clients, {})
        assert step["answers"] > 0
        assert 0 < step["p50"] <= step["p90"] <= step["p99"] <= step["highest"]
        assert step["rate"] == pytest.approx(step["answers"] / step["seconds"])


def test_errors_are_not_answers(half_broken: str) -> None:
    request = Request(half_broken, "http", half_broken, "/v1/models/m:predict", b"{}", "m", 1, "s")
    (step,) = measure([request], [2], seconds=0.3, warm_seconds=0)
    assert set(step.errors) == {"HTTP 503"}
    assert abs(step.answers - step.errors["HTTP 503"]) <= 2
    assert step.rate == pytest.approx(step.answers / step.seconds)
    assert step.first_error == "HTTP 503: {}"
    assert "HTTP 503" in notes([step])[0]


def test_a_signature_that_fails_is_refused_before_the_load(zoo_server: ServerProcess) -> None:
    host = f"127.0.0.1:{zoo_server.rest_port}"
    for arguments, said in {
        (host,): "name one with --model",
        (host, "--model", "half", "--signature", "no"): "has no signature no; it has: serving_default",
        (host, "--model", "identity", "--signature", "id_float16"): "JSON cannot carry",
        (f"127.0.0.1:{free_port()}",): "does not answer",
    }.items():
        done = run_ferry("bench", *arguments)
        assert done.returncode == 1
        assert said in done.stderr
        assert "Traceback" not in done.stderr
    assert run_ferry("bench", host, "--concurrency", "1,x").returncode == 2


def test_steps_of_several_processes_are_put_together() -> None:
    tallies = [
        {"latencies": [0.001] * 98, "errors": {"A": 1}, "first_error": "", "elapsed": 1.0, "cpu": 0.5},
        {
            "latencies": [0.1, 0.2],
            "errors": {"A": 2, "B": 1},
            "first_error": "A: x",
            "elapsed": 2.0,
            "cpu": 1.9,
        },
    ]
    step = _made_step("h", 2, tallies)
    assert (step.answers, step.errors, step.rate) == (100, {"A": 3, "B": 1}, 50.0)
    assert step.p50 == pytest.approx(1.0)
    assert step.highest == pytest.approx(200.0)
    assert step.client_bound
    nothing = _made_step("h", 1, [{**tallies[0], "latencies": []}])
    assert math.isnan(nothing.p99)
    assert json.dumps(as_json([], [nothing], 1.0), allow_nan=False)


def test_ports_are_the_usual_ones_unless_given() -> None:
    assert with_port("h", "rest") == "h:8501"
    assert with_port("h", "grpc") == "h:8500"
    assert with_port("grpc://h", "rest") == "grpc://h:8500"
    assert with_port("http://h/v1/models/m", "grpc") == "http://h:8501/v1/models/m"
    assert with_port("h:1", "rest") == "h:1"


def test_plots_are_checked_before_the_load(tmp_path: Path) -> None:
    with pytest.raises(ServingError, match=r"has to end in \.png"):
        check_plot("p.gif")
    check_plot("p.png")
    step = _made_step("h", 1, [{"latencies": [1.0], "errors": {}, "first_error": "", "elapsed": 1, "cpu": 0}])
    plot([step], "title", str(tmp_path / "p.png"))
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_a_request_can_have_rows(zoo_server: ServerProcess) -> None:
    host = f"127.0.0.1:{zoo_server.rest_port}"
    request = prepare(host, model="half", batch=3)
    assert json.loads(request.payload) == {"instances": [1.0, 1.0, 1.0]}
