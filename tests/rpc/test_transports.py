from __future__ import annotations

import asyncio
import logging
import queue
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import wrappers_pb2

from app.errors import Code, ServingError
from app.options import Options
from app.rpc.grpcio_transport import GrpcServer
from app.rpc.http2.transport import Http2Server
from app.rpc.method import Call, Method, StreamMethod
from app.rpc.methods import method_table
from tests.rpc.conftest import Served, refuse
from tests.rpc.test_methods import HALF, PREDICT, X
from tests.support.process import accepts, free_port, wait_until

Text = wrappers_pb2.StringValue
ECHO, FAIL, CRASH, WAIT = (
    "/test.Service/Echo",
    "/test.Service/Fail",
    "/test.Service/Crash",
    "/test.Service/Wait",
)


class Service:
    """A method table whose handlers show what the transport does with them."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.entered = threading.Semaphore(0)
        self.release = threading.Event()
        self.table: Mapping[str, Method | StreamMethod] = {
            ECHO: Method(Text, self._echo),
            FAIL: Method(Text, self._fail),
            CRASH: Method(Text, self._crash),
            WAIT: Method(Text, self._wait),
        }

    def _echo(self, request: Any, call: Call) -> Any:
        self.calls.append(call)
        return request

    def _fail(self, request: Any, call: Call) -> Any:
        del call
        code, _, message = request.value.partition(" ")
        raise ServingError(Code[code], message)

    def _crash(self, request: Any, call: Call) -> Any:
        del call
        raise KeyError(request.value)

    def _wait(self, request: Any, call: Call) -> Any:
        del call
        self.entered.release()
        assert self.release.wait(60)
        return request


Start = Callable[..., tuple[GrpcServer | Http2Server, grpc.Channel]]
Transport = type[GrpcServer] | type[Http2Server]


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service()
    yield service
    service.release.set()


@pytest.fixture(params=[GrpcServer, Http2Server], ids=["grpcio", "http2"])
def transport(request: pytest.FixtureRequest) -> Transport:
    """Each test is about both."""
    chosen: Transport = request.param
    return chosen


@pytest.fixture
def start(service: Service, transport: Transport) -> Iterator[Start]:
    """Starts a server with the given options; the server and a channel to it."""
    servers: list[GrpcServer | Http2Server] = []
    channels: list[grpc.Channel] = []

    def begin(
        table: Mapping[str, Method | StreamMethod] = service.table, **options: Any
    ) -> tuple[GrpcServer | Http2Server, grpc.Channel]:
        options = {"port": free_port(), "grpc_max_threads": 4, **options}
        server = transport(table, Options(**options))
        server.start()
        servers.append(server)
        port, path = options["port"], options.get("grpc_socket_path")
        large = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        channels.append(grpc.insecure_channel(f"127.0.0.1:{port}" if port else f"unix:{path}", large))
        return server, channels[-1]

    yield begin
    service.release.set()
    for channel in channels:
        channel.close()
    for server in servers:
        server.stop(10)


def method(channel: grpc.Channel, path: str) -> Any:
    return channel.unary_unary(
        path, request_serializer=Text.SerializeToString, response_deserializer=Text.FromString
    )


def failure(channel: grpc.Channel, path: str, text: str = "", timeout: float = 30) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as raised:
        method(channel, path)(Text(value=text), timeout=timeout)
    error: Any = raised.value
    return error.code().name, error.details()


def test_a_message_goes_in_and_one_comes_out(start: Start) -> None:
    _, channel = start()
    assert method(channel, ECHO)(Text(value="hello"), timeout=30).value == "hello"


def test_messages_may_be_larger_than_grpcs_default(start: Start) -> None:
    _, channel = start()
    text = "x" * (6 << 20)
    assert method(channel, ECHO)(Text(value=text), timeout=30).value == text


@pytest.mark.parametrize("code", [code for code in Code if code is not Code.OK])
def test_an_error_arrives_with_code_and_text(start: Start, code: Code) -> None:
    _, channel = start()
    message = 'ü "quoted"\n\t [[{{node add}}]]'
    assert failure(channel, FAIL, f"{code.name} {message}") == (code.name, message)


def test_a_long_error_is_cut(start: Start) -> None:
    _, channel = start()
    assert failure(channel, FAIL, "NOT_FOUND " + "a" * 3000) == ("NOT_FOUND", "a" * 1024 + "...TRUNCATED")


def test_an_unexpected_failure_is_internal_and_logged(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    _, channel = start()
    assert failure(channel, CRASH, "why") == ("INTERNAL", "KeyError: 'why'")
    (record,) = [record for record in caplog.records if record.name.startswith("app.")]
    assert record.levelno == logging.ERROR
    assert CRASH in record.getMessage()
    assert record.exc_info


@pytest.mark.parametrize(
    "path", ["/test.Service/Nope", "/no.Service/Echo", "/tensorflow.serving.SessionService/SessionRun"]
)
def test_a_method_that_is_not_in_the_table_is_unimplemented(start: Start, path: str) -> None:
    _, channel = start()
    assert failure(channel, path)[0] == "UNIMPLEMENTED"


def test_bytes_that_are_no_message_are_an_error_of_that_call_only(start: Start) -> None:
    _, channel = start()
    with pytest.raises(grpc.RpcError):
        channel.unary_unary(ECHO, bytes, bytes)(b"\xff\xff", timeout=30)
    assert method(channel, ECHO)(Text(value="hello"), timeout=30).value == "hello"


def test_the_deadline_reaches_the_handler(start: Start, service: Service) -> None:
    _, channel = start()
    before = time.monotonic()
    method(channel, ECHO)(Text(), timeout=1000)
    method(channel, ECHO)(Text())
    first, second = service.calls
    assert first.deadline is not None
    assert before + 900 < first.deadline < time.monotonic() + 1100
    assert second.deadline is None


def test_a_call_that_takes_longer_ends_at_its_deadline(start: Start, service: Service) -> None:
    _, channel = start()
    assert failure(channel, WAIT, timeout=0.2)[0] == "DEADLINE_EXCEEDED"
    service.release.set()
    assert method(channel, ECHO)(Text(value="hello"), timeout=30).value == "hello"


def test_a_cancelled_call_runs_to_its_end_and_harms_nobody(start: Start, service: Service) -> None:
    _, channel = start(grpc_max_threads=1)
    call = method(channel, WAIT).future(Text(), timeout=60)
    assert service.entered.acquire(timeout=30)
    assert call.cancel()
    after = method(channel, ECHO).future(Text(value="hello"), timeout=60)
    assert not after.done(), "the only thread is still at the cancelled call"
    service.release.set()
    assert after.result().value == "hello"


def test_calls_run_side_by_side_in_as_many_threads_as_allowed(start: Start, service: Service) -> None:
    _, channel = start(grpc_max_threads=2)
    calls = [method(channel, WAIT).future(Text(), timeout=60) for _ in range(3)]
    assert service.entered.acquire(timeout=30)
    assert service.entered.acquire(timeout=30)
    assert not service.entered.acquire(blocking=False)
    service.release.set()
    assert all(call.result() is not None for call in calls)


def test_a_unix_socket_instead_of_a_port(start: Start, tmp_path: Path) -> None:
    _, channel = start(port=0, grpc_socket_path=str(tmp_path / "grpc.sock"))
    assert method(channel, ECHO)(Text(value="hello"), timeout=30).value == "hello"


def test_a_unix_socket_beside_a_port(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "grpc.sock"
    _, channel = start(grpc_socket_path=str(path))
    assert method(channel, ECHO)(Text(value="tcp"), timeout=30).value == "tcp"
    with grpc.insecure_channel(f"unix:{path}") as other:
        assert method(other, ECHO)(Text(value="unix"), timeout=30).value == "unix"


def test_channel_arguments_reach_grpc_as_numbers(start: Start) -> None:
    port = free_port()
    start(port=port)
    start(port=port)  # gRPC shares ports with itself, unless told not to
    with pytest.raises(ServingError, match="address in use"):
        start(port=port, grpc_channel_arguments="grpc.so_reuseport=0")


def test_channel_arguments_win_over_ours(start: Start) -> None:
    _, channel = start(grpc_channel_arguments="grpc.max_receive_message_length=1000")
    assert method(channel, ECHO)(Text(value="x" * 900), timeout=30).value
    assert failure(channel, ECHO, "x" * 1100)[0] == "RESOURCE_EXHAUSTED"


@pytest.mark.parametrize("value", ["text", "", "99999999999", "1_0", "-99999999999", "a=b", "\u0661"])
def test_channel_arguments_that_are_no_int32_are_text(start: Start, value: str) -> None:
    _, channel = start(grpc_channel_arguments=f"test.argument={value},")
    assert method(channel, ECHO)(Text(value="hello"), timeout=30).value == "hello"


def test_nothing_listens_before_the_start(service: Service, transport: Transport) -> None:
    port = free_port()
    transport(service.table, Options(port=port)).stop(0)
    assert not accepts(port)


def test_a_port_in_use_is_told(service: Service, transport: Transport) -> None:
    with socket.create_server(("0.0.0.0", 0)) as other:
        port = other.getsockname()[1]
        server = transport(service.table, Options(port=port))
        with pytest.raises(ServingError) as raised:
            server.start()
    assert str(raised.value) == (f"UNAVAILABLE: Cannot listen for gRPC on 0.0.0.0:{port}: address in use.")


def test_a_socket_path_that_cannot_be_is_told(service: Service, transport: Transport, tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "grpc.sock"
    server = transport(service.table, Options(port=0, grpc_socket_path=str(path)))
    with pytest.raises(ServingError) as raised:
        server.start()
    assert raised.value.code is Code.UNAVAILABLE
    assert raised.value.message.startswith(f"Cannot listen for gRPC on unix:{path}: ")


def test_stop_lets_a_running_call_finish_and_takes_no_new_one(start: Start, service: Service) -> None:
    server, channel = start()
    running = method(channel, WAIT).future(Text(value="slow"), timeout=60)
    assert service.entered.acquire(timeout=30)
    with ThreadPoolExecutor(1) as pool:
        stopping = pool.submit(server.stop, 60)

        def refused() -> bool:
            try:
                method(channel, ECHO)(Text(), timeout=5)
            except grpc.RpcError as error:
                answer: Any = error
                return bool(answer.code() is grpc.StatusCode.UNAVAILABLE)
            return False

        wait_until(refused, "new calls are refused")
        assert not stopping.done()
        assert not running.done()
        service.release.set()
        assert running.result().value == "slow"
        stopping.result(30)


def test_stop_ends_a_call_that_takes_longer_than_the_grace(start: Start, service: Service) -> None:
    server, channel = start()
    running = method(channel, WAIT).future(Text(), timeout=60)
    assert service.entered.acquire(timeout=30)
    server.stop(0.1)
    with pytest.raises(grpc.RpcError):
        running.result(30)


def test_an_idle_server_stops_at_once(start: Start) -> None:
    server, channel = start()
    method(channel, ECHO)(Text(), timeout=30)
    stopping = threading.Thread(target=server.stop, args=(3600,), daemon=True)
    stopping.start()
    stopping.join(30)
    assert not stopping.is_alive()


def test_the_real_table_over_a_real_port(start: Start, served: Served) -> None:
    from google.protobuf import text_format
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    _, channel = start(method_table(served.manager, served.board, Options(), refuse))
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    request = text_format.Parse(HALF + X, predict_pb2.PredictRequest())
    assert list(stub.Predict(request, timeout=30).outputs["y"].float_val) == [3.5, 4.0]
    request.model_spec.name = "nope"
    with pytest.raises(grpc.RpcError) as raised:
        stub.Predict(request, timeout=30)
    error: Any = raised.value
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert error.details() == "Servable not found for request: Latest(nope)"
    assert failure(channel, PREDICT)[1] == "Missing ModelSpec"


# --- streams ---

PARROT = "/test.Service/Parrot"


class Parrot:
    """A method that repeats what it hears, until it is told to do something else."""

    def __init__(self) -> None:
        self.ended = threading.Semaphore(0)
        self.table: Mapping[str, Method | StreamMethod] = {PARROT: StreamMethod(Text, self._answer)}

    async def _answer(self, requests: AsyncIterator[Any], call: Call) -> AsyncIterator[Any]:
        try:
            async for request in requests:
                word, _, rest = request.value.partition(" ")
                if word == "FAIL":
                    raise ServingError(Code.NOT_FOUND, rest)
                if word == "CRASH":
                    raise KeyError(rest)
                if word == "DEADLINE":
                    yield Text(value="none" if call.deadline is None else "some")
                elif word == "WAIT":
                    await asyncio.sleep(3600)
                else:
                    for _ in range(int(rest or 1)):
                        yield Text(value=word)
        finally:
            self.ended.release()


def parrot_call(channel: grpc.Channel, texts: Iterable[str], timeout: float | None = 60) -> Any:
    call = channel.stream_stream(
        PARROT, request_serializer=Text.SerializeToString, response_deserializer=Text.FromString
    )
    return call((Text(value=text) for text in texts), timeout=timeout)


def stream_failure(call: Any) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as raised:
        list(call)
    error: Any = raised.value
    return error.code().name, error.details()


@pytest.mark.parametrize("texts", [[], ["a"], ["a", "b 3", "c"], ["a 0"], ["word 2000"]])
def test_a_stream_of_answers_to_a_stream_of_requests(start: Start, texts: list[str]) -> None:
    parrot = Parrot()
    _, channel = start(parrot.table)
    expected = [word for text in texts for word, _, n in [text.partition(" ")] for _ in range(int(n or 1))]
    assert [answer.value for answer in parrot_call(channel, texts)] == expected


def test_one_request_and_many_answers(start: Start) -> None:
    _, channel = start(Parrot().table)
    call = channel.unary_stream(
        PARROT, request_serializer=Text.SerializeToString, response_deserializer=Text.FromString
    )
    assert [answer.value for answer in call(Text(value="a 3"), timeout=60)] == ["a"] * 3


def test_an_answer_arrives_before_the_next_request_is_sent(start: Start) -> None:
    _, channel = start(Parrot().table)
    requests: queue.Queue[str | None] = queue.Queue()
    call = parrot_call(channel, iter(requests.get, None))
    for text in ("a", "b", "c"):
        requests.put(text)
        assert next(call).value == text
    requests.put(None)
    assert list(call) == []


def test_large_messages_in_streams(start: Start) -> None:
    _, channel = start(Parrot().table)
    text = "x" * (3 << 20)
    answers = [answer.value for answer in parrot_call(channel, [text + " 4", "a", text])]
    assert answers == [*[text] * 4, "a", text]


@pytest.mark.parametrize("before", [[], ["a", "b 2"]])
def test_a_stream_ends_with_an_error(
    start: Start, before: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    _, channel = start(Parrot().table)
    assert stream_failure(parrot_call(channel, [*before, "FAIL why \u00fc"])) == ("NOT_FOUND", "why \u00fc")
    assert stream_failure(parrot_call(channel, [*before, "CRASH why"])) == ("INTERNAL", "KeyError: 'why'")
    assert [record.levelno for record in caplog.records if record.name.startswith("app.")] == [logging.ERROR]


def test_a_stream_knows_its_deadline_and_ends_there(start: Start) -> None:
    parrot = Parrot()
    _, channel = start(parrot.table)
    assert [answer.value for answer in parrot_call(channel, ["DEADLINE"])] == ["some"]
    assert [answer.value for answer in parrot_call(channel, ["DEADLINE"], timeout=None)] == ["none"]
    assert parrot.ended.acquire(timeout=30)
    assert parrot.ended.acquire(timeout=30)
    assert stream_failure(parrot_call(channel, ["WAIT"], timeout=0.2))[0] == "DEADLINE_EXCEEDED"
    assert parrot.ended.acquire(timeout=30)


def test_a_cancelled_stream_ends_its_method(start: Start) -> None:
    parrot = Parrot()
    _, channel = start(parrot.table)
    call = parrot_call(channel, ["a", "WAIT"])
    assert next(call).value == "a"
    call.cancel()
    assert parrot.ended.acquire(timeout=30)


def test_stop_ends_a_stream(start: Start) -> None:
    parrot = Parrot()
    server, channel = start(parrot.table)
    call = parrot_call(channel, ["a", "WAIT"])
    assert next(call).value == "a"
    server.stop(0.1)
    assert stream_failure(call)[0] in ("UNAVAILABLE", "CANCELLED")
    assert parrot.ended.acquire(timeout=30)
