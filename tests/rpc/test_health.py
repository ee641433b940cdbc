"""The health service over a real port, driven by a real readiness."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from google.protobuf import empty_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from app.config.model_config import ModelConfig
from app.lifecycle.readiness import Readiness
from app.lifecycle.states import State, StateBoard, VersionStatus
from app.options import Options
from app.rpc.grpcio_transport import GrpcServer
from app.rpc.health import health_methods
from app.rpc.http2.transport import Http2Server
from app.rpc.method import AnyMethod, Call, Method
from tests.support.process import free_port, wait_until

FULL = "tensorflow.serving.PredictionService"
UNKNOWN, SERVING, NOT_SERVING, SERVICE_UNKNOWN = range(4)
BLOCK = "/test.Service/Block"


class Server:
    """A gRPC server with the health service and a method that takes a thread for as long as wanted."""

    def __init__(self, transport: type[GrpcServer] | type[Http2Server]) -> None:
        self.board = StateBoard()
        self.readiness = Readiness(lambda: {"m": ModelConfig("m", "/m")}, self.board)
        self.readiness.start()
        self.entered, self.release = threading.Semaphore(0), threading.Event()
        methods: dict[str, AnyMethod] = {BLOCK: Method(empty_pb2.Empty, self._block, blocks=True)}
        methods |= health_methods(self.readiness, [FULL])
        port = free_port()
        self.grpc = transport(methods, Options(port=port, grpc_max_threads=1))
        self.grpc.start()
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        self.stub: Any = health_pb2_grpc.HealthStub(self.channel)

    def _block(self, request: Any, call: Call) -> Any:
        del call
        self.entered.release()
        assert self.release.wait(60)
        return request

    def block(self) -> Any:
        call = self.channel.unary_unary(BLOCK, bytes, bytes).future(b"", timeout=60)
        assert self.entered.acquire(timeout=30)
        return call

    def publish(self, state: State) -> None:
        self.board.publish("m", VersionStatus(1, state))

    def check(self, service: str = "") -> int:
        return int(self.stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=30).status)

    def watch(self, service: str = "") -> tuple[Any, Callable[[], int | None]]:
        """The call, and a function that waits for the next status; None is the end."""
        call = self.stub.Watch(health_pb2.HealthCheckRequest(service=service), timeout=60)
        found: queue.SimpleQueue[int | None] = queue.SimpleQueue()

        def read() -> None:
            try:
                for answer in call:
                    found.put(answer.status)
            except grpc.RpcError:
                pass
            found.put(None)

        threading.Thread(target=read, daemon=True).start()
        return call, lambda: found.get(timeout=30)

    def close(self) -> None:
        self.release.set()
        self.channel.close()
        self.grpc.stop(0)
        self.readiness.stop()


@pytest.fixture(params=[GrpcServer, Http2Server])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    server = Server(request.param)
    yield server
    server.close()


@pytest.mark.parametrize("service", ["", FULL, "PredictionService", "ModelService"])
def test_check_follows_the_readiness(server: Server, service: str) -> None:
    assert server.check(service) == NOT_SERVING
    server.publish(State.AVAILABLE)
    assert server.check(service) == SERVING
    server.readiness.begin_drain()
    assert server.check(service) == NOT_SERVING


@pytest.mark.parametrize("service", ["nope", "tensorflow.serving.Nope", "predictionservice"])
def test_other_names_are_not_found(server: Server, service: str) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        server.check(service)
    error: Any = raised.value
    assert error.code() is grpc.StatusCode.NOT_FOUND


def test_watch_is_told_of_changes_and_ends_with_the_drain(server: Server) -> None:
    watches = [server.watch(service) for service in ("", FULL)]
    assert [following() for _, following in watches] == [NOT_SERVING] * 2
    server.publish(State.AVAILABLE)
    assert [following() for _, following in watches] == [SERVING] * 2
    server.publish(State.UNLOADING)
    assert [following() for _, following in watches] == [NOT_SERVING] * 2
    server.publish(State.AVAILABLE)
    assert [following() for _, following in watches] == [SERVING] * 2
    server.readiness.begin_drain()
    for call, following in watches:
        assert following() == NOT_SERVING
        assert following() is None
        assert call.code() is grpc.StatusCode.OK


def test_watch_of_an_unknown_service_says_so_and_ends_with_the_drain(server: Server) -> None:
    _, following = server.watch("nope")
    assert following() == SERVICE_UNKNOWN
    server.publish(State.AVAILABLE)
    server.readiness.begin_drain()
    assert following() is None


def test_watches_and_busy_threads_do_not_keep_a_check_waiting(server: Server) -> None:
    server.publish(State.AVAILABLE)
    watches = [server.watch() for _ in range(20)]
    assert [following() for _, following in watches] == [SERVING] * 20
    running = server.block()  # the only thread of the server
    assert server.check() == SERVING
    server.release.set()
    running.result()


def test_a_cancelled_watch_is_forgotten_and_harms_nobody(server: Server) -> None:
    calls = [server.watch() for _ in range(10)]
    for _, following in calls:
        assert following() == NOT_SERVING
    for call, _ in calls[1:]:
        call.cancel()
        server.publish(State.AVAILABLE)
        server.publish(State.UNLOADING)
    server.publish(State.AVAILABLE)
    _, following = calls[0]
    while following() != SERVING:
        pass
    assert server.check() == SERVING
    wait_until(lambda: len(server.readiness._listeners) == 1, "the others are forgotten")


def test_a_watch_does_not_hold_up_the_stop(server: Server) -> None:
    _, following = server.watch()
    assert following() == NOT_SERVING
    server.readiness.begin_drain()
    stopping = threading.Thread(target=server.grpc.stop, args=(3600,), daemon=True)
    stopping.start()
    stopping.join(30)
    assert not stopping.is_alive()
