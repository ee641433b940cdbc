"""Tokens and TLS over both transports, and which method needs which token."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import wrappers_pb2

from app.config.auth_tokens import Group, Token
from app.errors import ServingError
from app.options import Options
from app.rpc.access import Access, group_of
from app.rpc.grpcio_transport import GrpcServer
from app.rpc.http2.transport import Http2Server
from app.rpc.method import Call, DialogueMethod, Method, Table
from app.security import tls
from app.security.guard import Guard
from app.security.tls import LiveContext, WatchedTls
from tests.security.test_tls import mounted
from tests.support.certificates import Authority, Secret, ssl_config
from tests.support.process import free_port

Text = wrappers_pb2.StringValue
PREDICT = "/tensorflow.serving.PredictionService/Predict"
RELOAD = "/tensorflow.serving.ModelService/HandleReloadConfigRequest"
TALK = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
CHECK = "/grpc.health.v1.Health/Check"


@pytest.mark.parametrize(
    ("path", "group"),
    [
        (PREDICT, Group.PREDICT),
        ("/tensorflow.serving.PredictionService/MultiInference", Group.PREDICT),
        ("/tensorflow.serving.PredictionService/GetModelMetadata", Group.STATUS),
        ("/tensorflow.serving.ModelService/GetModelStatus", Group.STATUS),
        (RELOAD, Group.ADMIN),
        ("/tensorflow.ProfilerService/Profile", Group.ADMIN),
        ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", Group.STATUS),
        (TALK, Group.STATUS),
        (CHECK, None),
        ("/somebody.else.Service/Method", Group.ADMIN),
        ("", Group.ADMIN),
    ],
)
def test_what_a_method_needs(path: str, group: Group | None) -> None:
    assert group_of(path) is group


def tokens() -> list[Token]:
    return [
        Token(group.value, hashlib.sha256(group.value.encode()).digest(), frozenset({group}))
        for group in Group
    ]


class Service:
    def __init__(self) -> None:
        self.asked: list[str] = []
        echo = Method(Text, self._echo)
        self.table: Table = {
            PREDICT: echo,
            RELOAD: echo,
            CHECK: echo,
            TALK: DialogueMethod(Text, self._answer),
        }

    def _echo(self, request: Any, call: Call) -> Any:
        del call
        return self._answer(request)

    def _answer(self, request: Any) -> Any:
        self.asked.append(request.value)
        return request


Start = Callable[..., int]


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture(params=["grpcio", "http2"])
def start(service: Service, request: pytest.FixtureRequest) -> Iterator[Start]:
    """Starts a server, perhaps with TLS and tokens; its port."""
    servers: list[GrpcServer | Http2Server] = []

    def begin(watched: WatchedTls | None = None, *, guarded: bool = False, **more: Any) -> int:
        options = Options(**{"port": free_port(), "grpc_max_threads": 4, **more})
        access = Access(Guard(tokens)) if guarded else None
        server: GrpcServer | Http2Server
        if request.param == "grpcio":
            server = GrpcServer(service.table, options, tls=watched, access=access)
        else:
            context = None if watched is None else LiveContext.of(watched, "h2")
            server = Http2Server(service.table, options, tls=context, access=access)
        server.start()
        servers.append(server)
        return options.port

    yield begin
    for server in servers:
        server.stop(10)


def ask(
    channel: grpc.Channel, path: str = PREDICT, text: str = "x", metadata: Any = None, **more: Any
) -> str:
    """The answer, or the code's name."""
    call = channel.unary_unary(
        path, request_serializer=Text.SerializeToString, response_deserializer=Text.FromString
    )
    try:
        return str(call(Text(value=text), metadata=metadata, timeout=60, **more).value)
    except grpc.RpcError as error:
        failed: Any = error
        return str(failed.code().name)


def test_tokens(start: Start, service: Service) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{start(guarded=True)}") as channel:
        for metadata, outcomes in (
            (None, ("UNAUTHENTICATED", "UNAUTHENTICATED", "x")),
            ([("authorization", "Bearer nobody")], ("UNAUTHENTICATED", "UNAUTHENTICATED", "x")),
            ([("authorization", "Bearer predict")], ("x", "PERMISSION_DENIED", "x")),
            ([("x-api-key", "admin")], ("PERMISSION_DENIED", "x", "x")),
        ):
            assert tuple(ask(channel, path, "x", metadata) for path in (PREDICT, RELOAD, CHECK)) == outcomes
        assert service.asked == ["x"] * 6
        assert ask(channel, "/no.Service/Method") == "UNIMPLEMENTED"


def test_a_large_request_without_a_token_is_refused(start: Start, service: Service) -> None:
    with grpc.insecure_channel(
        f"127.0.0.1:{start(guarded=True)}", [("grpc.max_send_message_length", -1)]
    ) as channel:
        for _ in range(3):
            assert ask(channel, PREDICT, "x" * 20_000_000) == "UNAUTHENTICATED"
        assert ask(channel, PREDICT, "x", [("x-api-key", "predict")]) == "x"
    assert service.asked == ["x"]


def test_a_dialogue_needs_a_token(start: Start, service: Service) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{start(guarded=True)}") as channel:
        talk: Any = channel.stream_stream(
            TALK, request_serializer=Text.SerializeToString, response_deserializer=Text.FromString
        )
        done = threading.Event()

        def requests() -> Iterator[Any]:
            yield Text(value="x")
            done.wait(60)

        with pytest.raises(grpc.RpcError) as raised:
            next(talk(requests(), timeout=60))
        error: Any = raised.value
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED
        done.set()
        answers = talk(iter([Text(value="y")]), timeout=60, metadata=[("authorization", "Bearer status")])
        assert [answer.value for answer in answers] == ["y"]
    assert service.asked == ["y"]


@pytest.fixture
def secret(tmp_path: Path, authority: Authority) -> Secret:
    return Secret(tmp_path / "secret", mounted(authority, "server"))


def watch(secret: Secret, *, client_verify: bool = False) -> WatchedTls:
    file = secret.directory.parent / "ssl.config"
    text = ssl_config("secret/tls.key", "secret/tls.crt", "secret/ca.crt", client_verify=client_verify)
    file.write_text(text)
    return tls.watch("ssl_config_file", str(file))


def test_only_tls_is_answered(start: Start, authority: Authority, secret: Secret, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    port = start(watch(secret), grpc_socket_path=str(path))
    with authority.channel(port) as secure, grpc.insecure_channel(f"127.0.0.1:{port}") as plain:
        assert ask(secure, text="x" * 3_000_000) == "x" * 3_000_000
        assert ask(plain) == "UNAVAILABLE"
    with grpc.insecure_channel(f"unix:{path}") as local:  # the socket has the credentials of the port
        assert ask(local) == "UNAVAILABLE"


def test_clients_without_a_certificate_are_refused_if_they_are_verified(
    start: Start, authority: Authority, secret: Secret
) -> None:
    port = start(watch(secret, client_verify=True))
    with authority.channel(port, "client") as known, authority.channel(port) as unknown:
        assert ask(known) == "x"
        assert ask(unknown) == "UNAVAILABLE"


def test_certificates_and_roots_change_under_open_connections(
    start: Start, tmp_path: Path, authority: Authority, secret: Secret
) -> None:
    second = Authority(tmp_path / "second")
    for name in ("server", "client"):
        second.issue(name)
    watched = watch(secret, client_verify=True)
    port = start(watched)
    with (
        authority.channel(port, "client") as before,
        authority.channel(port, "client") as outdated,
        second.channel(port, "client") as after,
    ):
        assert ask(before) == "x"
        assert ask(after) == "UNAVAILABLE"
        secret.swap(mounted(second, "server"))
        watched.look()
        assert ask(before) == "x"  # its connection goes on
        assert ask(after, wait_for_ready=True) == "x"
        assert ask(outdated) == "UNAVAILABLE"


def test_a_pair_that_does_not_match_changes_nothing(
    start: Start, authority: Authority, secret: Secret
) -> None:
    watched = watch(secret)
    port = start(watched)
    certificate = (authority.directory / "other.pem").read_bytes()
    secret.swap({**mounted(authority, "server"), "tls.crt": certificate})
    watched.look()
    with authority.channel(port) as channel:
        assert ask(channel) == "x"


def test_an_address_of_another_version(service: Service) -> None:
    for kind in (GrpcServer, Http2Server):
        port = free_port()
        server = kind(service.table, Options(port=port, grpc_max_threads=2), host="::1")
        try:
            server.start()
        except ServingError:
            pytest.skip("no IPv6")
        with grpc.insecure_channel(f"[::1]:{port}") as channel:
            assert ask(channel) == "x"
        server.stop(0)
