"""The transport over real sockets: what `tests/rpc/test_transports.py` does not ask of both transports."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import select
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import hpack
import pytest
import uvloop
from google.protobuf import wrappers_pb2

from app.options import Options
from app.rpc.http2 import frames
from app.rpc.http2.frames import FrameParser
from app.rpc.http2.messages import prefixed
from app.rpc.http2.transport import Http2Server
from app.rpc.method import Call, Method, StreamMethod
from tests.rpc.http2.wire import HELLO, REQUEST, headers
from tests.support.certificates import Authority
from tests.support.process import accepts, free_port, wait_until

Text = wrappers_pb2.StringValue
Bytes = wrappers_pb2.BytesValue
ECHO = "/test.Service/Echo"
LARGE_ANSWER = 1 << 20


class Service:
    """Echo, and what it saw of the threads and connections."""

    def __init__(self) -> None:
        self.threads: list[str] = []
        self.most_waiting = 0
        self.handled = 0
        self.server: Http2Server | None = None
        self.work: Callable[[], None] = lambda: None
        self.table: Mapping[str, Method | StreamMethod] = {
            ECHO: Method(Text, self._echo),
            "/test.Service/Blocks": Method(Text, self._echo, blocks=True),
            "/test.Service/Large": Method(Text, self._large),
            "/test.Service/Streams": Method(Text, self._streams, quick=True),
        }

    def _echo(self, request: Any, call: Call) -> Any:
        del call
        self.threads.append(threading.current_thread().name)
        self.work()
        return request

    def _streams(self, request: Any, call: Call) -> Any:
        del request, call
        assert self.server is not None
        return Text(value=str([len(protocol.connection.streams) for protocol in self.server._connections]))

    def _large(self, request: Any, call: Call) -> Any:
        del request, call
        assert self.server is not None
        waiting = [protocol.connection.outbox.waiting_bytes for protocol in list(self.server._connections)]
        self.most_waiting = max(self.most_waiting, *waiting)
        self.handled += 1
        return Bytes(value=bytes(LARGE_ANSWER))


Start = Callable[..., Http2Server]


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def start(service: Service) -> Iterator[Start]:
    """Starts a server: options, and limits that no flag sets."""
    servers: list[Http2Server] = []

    def begin(
        *, limits: Mapping[str, Any] | None = None, tls: ssl.SSLContext | None = None, **options: Any
    ) -> Http2Server:
        server = Http2Server(service.table, Options(**{"grpc_max_threads": 4, **options}), tls=tls)
        server._limits = dataclasses.replace(server._limits, **(limits or {}))
        service.server = server
        server.start()
        servers.append(server)
        return server

    yield begin
    for server in servers:
        server.stop(0)


def echo(channel: grpc.Channel, text: str = "hello", path: str = ECHO, **options: Any) -> str:
    call = channel.unary_unary(
        path, request_serializer=Text.SerializeToString, response_deserializer=Text.FromString
    )
    return str(call(Text(value=text), timeout=60, **options).value)


class Peer:
    """A client of frames over a real socket."""

    def __init__(self, port: int, hello: bytes = HELLO) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.socket.sendall(hello)
        self._parser = FrameParser(1 << 24, 1 << 24)
        self._decoder = hpack.Decoder()
        self._encoder = hpack.Encoder()
        self._frames: list[tuple[int, int, int, bytes]] = []

    def begin(self, number: int, path: str, *more: tuple[str, str]) -> None:
        fields = tuple((name, path if name == ":path" else value) for name, value in REQUEST)
        self.socket.sendall(headers(number, (*fields, *more), self._encoder))

    def send_request(self, number: int, path: str) -> None:
        self.begin(number, path)
        self.socket.sendall(frames.frame(frames.DATA, frames.END_STREAM, number, prefixed(b"")))

    def next_frame(self) -> tuple[int, int, int, bytes] | None:
        """The next frame or piece of data; None at the end."""
        while not self._frames:
            try:
                received = self.socket.recv(1 << 16)
            except ConnectionResetError:
                return None
            if not received:
                return None
            self._frames += [(k, f, n, bytes(p)) for k, f, n, p in self._parser.feed(received)]
        return self._frames.pop(0)

    def until(self, kind: int) -> tuple[int, int, int, bytes]:
        """The next frame of a kind."""
        while (frame := self.next_frame()) is not None:
            if frame[0] == kind:
                return frame
        raise AssertionError("the connection was closed")

    def headers(self) -> dict[str, str]:
        """The next headers."""
        fields = self._decoder.decode(self.until(frames.HEADERS)[3])
        return {str(name): str(value) for name, value in fields}

    def close(self) -> None:
        self.socket.close()


@pytest.fixture
def connect() -> Iterator[Callable[..., Peer]]:
    """Opens connections that are closed after the test."""
    with contextlib.ExitStack() as stack:

        def begin(port: int, hello: bytes = HELLO) -> Peer:
            peer = Peer(port, hello)
            stack.callback(peer.close)
            return peer

        yield begin


# --- where calls run ---


@pytest.mark.parametrize("timeout", [60, None])
def test_requests_as_grpc_sends_them_need_no_stream(start: Start, timeout: float | None) -> None:
    port = free_port()
    start(port=port)
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary("/test.Service/Streams", Text.SerializeToString, Text.FromString)
        seen = [call(Text(), timeout=timeout).value for _ in range(20)]
    assert seen[0] == "[1]", "its headers were not seen before"
    assert seen.count("[0]") > 10


def test_fast_calls_come_to_run_on_the_loop_and_slow_ones_leave_it(start: Start, service: Service) -> None:
    port = free_port()
    start(port=port)
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        echo(channel)
        assert service.threads[0].startswith("ferry-grpc")

        def on_loop() -> bool:
            echo(channel)
            return service.threads[-1] == "ferry-http2"

        wait_until(on_loop, "a call runs on the loop")
        service.work = lambda: time.sleep(0.05)
        wait_until(lambda: not on_loop(), "a slow call runs in a thread")


def test_a_method_that_blocks_never_runs_on_the_loop(start: Start, service: Service) -> None:
    port = free_port()
    start(port=port)
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        for _ in range(50):
            echo(channel, path="/test.Service/Blocks")
    assert all(name.startswith("ferry-grpc") for name in service.threads)


def test_a_loop_that_runs_already_can_be_shared(service: Service) -> None:
    port = free_port()
    server = Http2Server(service.table, Options(port=port, grpc_max_threads=1))
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="shared")
    thread.start()
    server.start(loop)
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        wait_until(lambda: echo(channel) and service.threads[-1] == "shared", "a call runs on the loop")
    server.stop(10)
    assert not accepts(port)
    assert asyncio.run_coroutine_threadsafe(asyncio.sleep(0, "alive"), loop).result(30) == "alive"
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


# --- compression, limits, and what is not gRPC ---


@pytest.mark.parametrize("algorithm", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_requests(start: Start, algorithm: grpc.Compression) -> None:
    port = free_port()
    start(port=port)
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        assert echo(channel, "x" * 100_000, compression=algorithm) == "x" * 100_000


@pytest.mark.parametrize(("number", "name"), [(0, "identity"), (1, "deflate"), (2, "gzip")])
def test_compressed_answers_on_request(
    start: Start, connect: Callable[..., Peer], number: int, name: str
) -> None:
    port = free_port()
    start(port=port, grpc_channel_arguments=f"grpc.default_compression_algorithm={number}")
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        assert echo(channel, "x" * 100_000) == "x" * 100_000
    peer = connect(port)
    fields = (*REQUEST, ("grpc-accept-encoding", name))
    body = frames.frame(frames.DATA, 1, 1, prefixed(Text(value="x" * 1000).SerializeToString()))
    peer.socket.sendall(headers(1, fields) + body)
    answer = peer.headers()
    assert answer.get("grpc-encoding", "identity") == name
    assert (len(peer.until(frames.DATA)[3]) < 200) == (number > 0)


def test_an_answer_above_the_limit_is_an_error(start: Start) -> None:
    port = free_port()
    start(port=port, grpc_channel_arguments="grpc.max_send_message_length=1000")
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        assert echo(channel, "x" * 900)
        with pytest.raises(grpc.RpcError) as raised:
            echo(channel, "x" * 1100)
    error: Any = raised.value
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("size", [1000, 30_000])
def test_metadata_has_a_limit_and_the_connection_survives_it(start: Start, size: int) -> None:
    port = free_port()
    start(port=port)
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        metadata = [("x", "v" * size)]
        if size < 16384:
            assert echo(channel, metadata=metadata) == "hello"
        else:
            with pytest.raises(grpc.RpcError) as raised:
                echo(channel, metadata=metadata)
            error: Any = raised.value
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert echo(channel) == "hello"


@pytest.mark.parametrize(
    ("name", "value", "status"), [(":method", "GET", "405"), ("content-type", "application/json", "415")]
)
def test_http_that_is_not_grpc(
    start: Start, connect: Callable[..., Peer], name: str, value: str, status: str
) -> None:
    port = free_port()
    start(port=port)
    peer = connect(port)
    fields = tuple((field, value if field == name else kept) for field, kept in REQUEST)
    peer.socket.sendall(headers(1, fields, flags=5))
    assert peer.headers() == {":status": status}


@pytest.mark.parametrize("bodies", [b"", prefixed(b"") * 2, prefixed(b"ab")[:-1]])
def test_a_unary_call_takes_exactly_one_message(
    start: Start, connect: Callable[..., Peer], bodies: bytes
) -> None:
    port = free_port()
    start(port=port)
    peer = connect(port)
    peer.socket.sendall(headers(1) + frames.frame(frames.DATA, 1, 1, bodies))
    answer = peer.headers()
    assert answer["grpc-status"] == "12"
    assert answer["grpc-message"] == f'"{ECHO}" requires exactly one request message.'


# --- clients that do not take their answers ---


@pytest.mark.parametrize("stalled_by", ["window", "socket"])
def test_answers_that_nobody_takes_are_few(
    start: Start, service: Service, connect: Callable[..., Peer], stalled_by: str
) -> None:
    """A client asks for 64 MB; requests wait until it takes what there is, and then all are answered."""
    port, calls = free_port(), 64
    start(port=port, limits={"max_output": 4 << 20})
    window = 0 if stalled_by == "window" else 2**31 - 1
    wide = frames.window_update(0, 2**31 - 1 - 65535)
    peer = connect(port, frames.PREFACE + frames.settings({frames.INITIAL_WINDOW_SIZE: window}) + wide)

    def ask() -> None:
        for number in range(1, 2 * calls, 2):
            peer.send_request(number, "/test.Service/Large")

    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(ask)
        wait_until(lambda: service.handled >= 4, "the first answers wait")
        if stalled_by == "window":
            sending.result(60)
            peer.socket.sendall(frames.frame(frames.PING, 0, 0, bytes(8)))
            while peer.until(frames.PING)[1] != frames.ACK:
                pass
            assert service.handled <= 4 + 1 + 4, "the bound, the one that crosses it, one for each thread"
            peer.socket.sendall(frames.settings({frames.INITIAL_WINDOW_SIZE: 2**31 - 1}))
        received = ended = 0
        while ended < calls:
            kind, flags, _, payload = peer.next_frame() or (frames.GOAWAY, 0, 0, b"")
            assert kind != frames.GOAWAY
            received += len(payload) if kind == frames.DATA else 0
            ended += kind == frames.HEADERS and flags & frames.END_STREAM
        sending.result(60)
    assert received > calls * LARGE_ANSWER
    assert service.handled == calls
    assert service.most_waiting <= (4 + 1 + 4) * (LARGE_ANSWER + 100)


def test_a_client_that_takes_nothing_for_long_is_left(
    start: Start, service: Service, connect: Callable[..., Peer]
) -> None:
    port = free_port()
    server = start(port=port, limits={"stall_seconds": 0.3})
    peer = connect(port, frames.PREFACE + frames.settings({frames.INITIAL_WINDOW_SIZE: 0}))
    peer.send_request(1, "/test.Service/Large")
    wait_until(lambda: service.handled, "the answer waits")
    wait_until(lambda: not server._connections, "the connection is closed")


def test_a_client_that_does_not_read_answers_to_pings_is_not_read(
    start: Start, connect: Callable[..., Peer]
) -> None:
    port = free_port()
    server = start(port=port, grpc_channel_arguments="grpc.http2.max_ping_strikes=0")
    peer = connect(port)
    peer.until(frames.SETTINGS)
    peer.socket.setblocking(False)
    pings = frames.frame(frames.PING, 0, 0, bytes(8)) * 1000
    sent = 0
    while select.select([], [peer.socket], [], 1)[1]:
        sent += peer.socket.send(pings)
        assert sent < 1 << 30, "the server reads on and on"
    (protocol,) = server._connections
    assert protocol._paused
    assert protocol._transport.get_write_buffer_size() < 1 << 20
    assert protocol.connection.outbox.waiting_bytes == 0
    peer.socket.setblocking(True)
    received = 0
    while received < sent // 2:  # what the server has read it has answered, or will
        assert peer.next_frame() is not None
        received += 17


# --- streams of messages ---


@pytest.fixture
def streaming(service: Service) -> Iterator[Service]:
    """Methods with as many answers as the first request says, or that take no requests at all."""

    async def count(requests: AsyncIterator[Any], call: Call) -> AsyncIterator[Any]:
        del call
        async for request in requests:
            for _ in range(int(request.value)):
                service.handled += 1
                yield Text(value="x" * 1000)
            return

    async def deaf(requests: AsyncIterator[Any], call: Call) -> AsyncIterator[Any]:
        del requests, call
        yield Text(value="I do not listen")
        await asyncio.sleep(3600)

    methods = {"Count": StreamMethod(Text, count), "Deaf": StreamMethod(Text, deaf)}
    service.table = {f"/test.Service/{name}": method for name, method in methods.items()}
    yield service
    service.work = lambda: None


def text(value: str) -> bytes:
    return prefixed(Text(value=value).SerializeToString())


def test_a_stream_of_answers_waits_for_its_client(
    start: Start, streaming: Service, connect: Callable[..., Peer]
) -> None:
    port = free_port()
    start(port=port)
    peer = connect(port)
    peer.begin(1, "/test.Service/Count")
    peer.socket.sendall(frames.frame(frames.DATA, 0, 1, text("500")))
    assert peer.headers()[":status"] == "200"
    received = sum(len(peer.until(frames.DATA)[3]) for _ in range(66))
    assert received <= 65535
    assert streaming.handled <= 66, "one answer waits, the others are not made"
    # The client ends its side while the answer waits.
    peer.socket.sendall(frames.frame(frames.DATA, frames.END_STREAM, 1))
    peer.socket.sendall(frames.window_update(0, 2**30) + frames.window_update(1, 2**30))
    assert peer.headers() == {"grpc-status": "0"}
    assert streaming.handled == 500


def test_requests_that_a_method_does_not_take_are_held_back_in_the_client(
    start: Start, streaming: Service, connect: Callable[..., Peer]
) -> None:
    port = free_port()
    start(port=port, limits={"stream_window": 100_000})
    assert streaming.table
    peer = connect(port)
    peer.begin(1, "/test.Service/Deaf")
    for _ in range(100):
        peer.socket.sendall(frames.frame(frames.DATA, 0, 1, text("x" * 985)))
    peer.socket.sendall(frames.frame(frames.DATA, 0, 1, bytes(50_000)))
    assert frames.ErrorCode(frames.word(peer.until(frames.RST_STREAM)[3])).name == "FLOW_CONTROL_ERROR"


def test_a_stream_that_has_begun_ends_with_trailers_alone(
    start: Start, streaming: Service, connect: Callable[..., Peer]
) -> None:
    port = free_port()
    start(port=port, grpc_channel_arguments="grpc.max_receive_message_length=100")
    assert streaming.table
    peer = connect(port)
    peer.begin(1, "/test.Service/Deaf", ("grpc-timeout", "300m"))
    peer.begin(3, "/test.Service/Deaf")
    ends = []
    for _ in range(2):
        assert peer.headers()[":status"] == "200"
    peer.socket.sendall(frames.frame(frames.DATA, 0, 3, text("x" * 200)))
    ends = [peer.headers() for _ in range(2)]
    assert {end["grpc-status"] for end in ends} == {"4", "8"}
    assert all(":status" not in end for end in ends)


# --- the end of connections ---


def test_a_connection_without_a_greeting_is_closed(start: Start) -> None:
    port = free_port()
    start(port=port, grpc_channel_arguments="grpc.server_handshake_timeout_ms=100")
    with socket.create_connection(("127.0.0.1", port), timeout=60) as silent:
        while silent.recv(1000):
            pass


@pytest.mark.parametrize("argument", ["max_connection_idle_ms=100", "max_connection_age_ms=100"])
def test_idle_and_old_connections_are_told_to_go(
    start: Start, connect: Callable[..., Peer], argument: str
) -> None:
    port = free_port()
    start(port=port, grpc_channel_arguments=f"grpc.{argument}")
    peer = connect(port)
    last, code = peer.until(frames.GOAWAY)[3][:4], peer.until(frames.GOAWAY)[3][4:8]
    assert (frames.word(last), frames.word(code)) == (2**31 - 1, 0)
    assert peer.next_frame() is None
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        assert [echo(channel) for _ in range(3)] == ["hello"] * 3


def test_a_quiet_client_is_pinged(start: Start, connect: Callable[..., Peer]) -> None:
    port = free_port()
    arguments = (
        "grpc.keepalive_time_ms=100,grpc.keepalive_timeout_ms=100,grpc.keepalive_permit_without_calls=1"
    )
    start(port=port, grpc_channel_arguments=arguments)
    peer = connect(port)
    assert peer.until(frames.PING)[1] == 0
    while peer.next_frame() is not None:
        pass


def test_a_dead_peers_calls_are_let_go(start: Start, service: Service, connect: Callable[..., Peer]) -> None:
    port = free_port()
    server = start(port=port)
    entered, release = threading.Event(), threading.Event()

    def work() -> None:
        entered.set()
        assert release.wait(60)

    service.work = work
    peer = connect(port)
    peer.send_request(1, ECHO)
    assert entered.wait(60)
    peer.close()
    wait_until(lambda: not server._connections, "the connection is forgotten")
    service.work = lambda: None
    release.set()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        assert echo(channel) == "hello"


def test_a_socket_that_a_dead_server_left_is_replaced_and_removed(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "grpc.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    server = start(port=0, grpc_socket_path=str(path))
    with grpc.insecure_channel(f"unix:{path}") as channel:
        assert echo(channel) == "hello"
    server.stop(0)
    assert not path.exists()


# --- TLS ---


@pytest.fixture(scope="session")
def certificates(authority: Authority) -> Path:
    """`ca.pem`, and key and certificate, signed by it, of `server` (127.0.0.1) and `client`."""
    return authority.directory


def server_context(certificates: Path, *, alpn: str = "h2", mutual: bool = False) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "server.pem", certificates / "server.key")
    context.set_alpn_protocols([alpn])
    if mutual:
        context.load_verify_locations(certificates / "ca.pem")
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def secure_channel(port: int, certificates: Path, *, certificate: bool) -> grpc.Channel:
    read = {name: (certificates / name).read_bytes() for name in ("ca.pem", "client.key", "client.pem")}
    pair = (read["client.key"], read["client.pem"]) if certificate else (None, None)
    return grpc.secure_channel(f"127.0.0.1:{port}", grpc.ssl_channel_credentials(read["ca.pem"], *pair))


@pytest.mark.parametrize("mutual", [False, True])
def test_tls(start: Start, certificates: Path, mutual: bool) -> None:
    port = free_port()
    start(port=port, tls=server_context(certificates, mutual=mutual))
    with secure_channel(port, certificates, certificate=mutual) as channel:
        assert echo(channel) == "hello"
        assert echo(channel, "x" * 3_000_000) == "x" * 3_000_000


def test_a_client_without_a_certificate_is_refused_if_one_is_needed(start: Start, certificates: Path) -> None:
    port = free_port()
    start(port=port, tls=server_context(certificates, mutual=True))
    with (
        secure_channel(port, certificates, certificate=False) as channel,
        pytest.raises(grpc.RpcError) as raised,
    ):
        echo(channel)
    error: Any = raised.value
    assert error.code() is grpc.StatusCode.UNAVAILABLE


def test_tls_without_http2_is_closed(start: Start, certificates: Path) -> None:
    port = free_port()
    server = start(port=port, tls=server_context(certificates))
    context = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
    with (
        socket.create_connection(("127.0.0.1", port), timeout=60) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
        contextlib.suppress(ConnectionResetError, ssl.SSLError),
    ):
        assert secure.recv(1000) == b""
    wait_until(lambda: not server._connections, "nothing is kept")
