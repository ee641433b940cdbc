"""tensorflow.ProfilerService of a real server, asked by TensorFlow's own client and by hand."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import empty_pb2
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from app.errors import ServingError
from app.rpc.method import Call
from app.rpc.profiler import Profiler, ProfileRequest, ProfileResponse, TerminateRequest
from tests.conftest import StartServer
from tests.support.process import ServerProcess, wait_until

# In a process of its own: TensorFlow's client and its profiler share state with whoever else traces.
CLIENT = """
import sys, tensorflow as tf
tf.profiler.experimental.client.trace(sys.argv[1], sys.argv[2], 300)
"""
PROFILE = "/tensorflow.ProfilerService/Profile"
HOUR_MS = 3_600_000


def ask(server: ServerProcess, method: str, request: Any, answer: Any = empty_pb2.Empty) -> Any:
    """A call in flight."""
    stub = server.channel.unary_unary(
        f"/tensorflow.ProfilerService/{method}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=answer.FromString,
    )
    return stub.future(request, timeout=60)


def profile(server: ServerProcess, root: Path, session: str, duration_ms: int = HOUR_MS, **more: Any) -> Any:
    request = ProfileRequest(repository_root=str(root), session_id=session, host_name="host:1", **more)
    request.opts.duration_ms = duration_ms
    return ask(server, "Profile", request, ProfileResponse)


def begin(server: ServerProcess, root: Path) -> tuple[Any, str, Any]:
    """A long profile that runs for certain, its session, and another one that was refused because of it."""
    first, second = profile(server, root, "first"), profile(server, root, "second")
    wait_until(lambda: first.done() or second.done(), "one of two is refused")
    return (second, "second", first) if first.done() else (first, "first", second)


def refusal(call: Any) -> tuple[grpc.StatusCode, str]:
    error = call.exception()
    assert error is not None
    return error.code(), error.details()


def test_tensorflows_client_captures_a_profile_while_the_server_serves(
    shared_server: ServerProcess, tmp_path: Path
) -> None:
    address = f"grpc://localhost:{shared_server.grpc_port}"
    client = subprocess.Popen([sys.executable, "-c", CLIENT, address, str(tmp_path)])
    try:
        while client.poll() is None:
            answer = shared_server.prediction.Predict(shared_server.predict_request([1.0]), timeout=60)
            assert list(answer.outputs["y"].float_val) == [2.5]
    finally:
        client.kill()
    assert client.returncode == 0
    (path,) = tmp_path.glob("plugins/profile/*/*.xplane.pb")
    assert path.name == f"localhost_{shared_server.grpc_port}.xplane.pb"
    space = xplane_pb2.XSpace.FromString(path.read_bytes())
    names = {meta.name for plane in space.planes for meta in plane.event_metadata.values()}
    # Which ops fall into so short a time is chance; that the model ran is not.
    assert "SessionRun" in names, names
    assert "Profiler service is enabled" in shared_server.log


def test_one_profile_at_a_time_which_can_be_ended_early(shared_server: ServerProcess, tmp_path: Path) -> None:
    running, name, refused = begin(shared_server, tmp_path)
    assert refusal(refused) == (grpc.StatusCode.INTERNAL, "Another profiling session active.")
    assert ask(shared_server, "Terminate", TerminateRequest(session_id="no such")).exception() is None
    assert not running.done()
    assert ask(shared_server, "Terminate", TerminateRequest(session_id=name)).exception() is None
    assert running.exception() is None
    assert [path.name for path in (tmp_path / name).iterdir()] == ["host_1.xplane.pb"]


def test_a_profile_in_the_answer(shared_server: ServerProcess, tmp_path: Path) -> None:
    answer = profile(shared_server, tmp_path, "s", duration_ms=0, emit_xspace=True).result()
    assert xplane_pb2.XSpace.FromString(answer.xspace).hostnames
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_is_an_error_and_blocks_nobody(
    shared_server: ServerProcess, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    for _ in range(2):
        code, text = refusal(profile(shared_server, tmp_path / "file", "s", duration_ms=0))
        assert code is grpc.StatusCode.INTERNAL
        assert "file" in text
    assert profile(shared_server, tmp_path, "s", duration_ms=0).exception() is None


def test_monitoring_is_for_tpus(shared_server: ServerProcess) -> None:
    call = ask(shared_server, "Monitor", empty_pb2.Empty())
    assert refusal(call) == (grpc.StatusCode.UNIMPLEMENTED, "unimplemented.")


def test_a_disabled_service_is_unimplemented(half_plus_two: Path, start_server: StartServer) -> None:
    server = start_server(half_plus_two, flags=["--enable_profiler=false"]).wait_ready()
    for method in ("Profile", "Terminate", "Monitor"):
        assert refusal(ask(server, method, empty_pb2.Empty())) == (grpc.StatusCode.UNIMPLEMENTED, "")
    assert "Profiler service is enabled" not in server.log


def test_a_profile_ends_with_the_deadline_of_its_call(tmp_path: Path) -> None:
    request = ProfileRequest(repository_root=str(tmp_path), session_id="s")
    request.opts.duration_ms = HOUR_MS
    with pytest.raises(ServingError, match="DEADLINE_EXCEEDED"):
        Profiler().methods()[PROFILE].handle(request, Call(time.monotonic()))
    assert not list(tmp_path.iterdir())


def test_a_running_profile_does_not_hold_up_the_end_of_the_server(
    half_plus_two: Path, start_server: StartServer, tmp_path: Path
) -> None:
    server = start_server(half_plus_two).wait_ready()
    running, name, _ = begin(server, tmp_path)
    server.terminate()
    assert server.wait_exit() == 0
    assert running.exception() is None
    assert (tmp_path / name / "host_1.xplane.pb").stat().st_size
