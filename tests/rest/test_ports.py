from __future__ import annotations

import socket

import pytest

from app.errors import Code, ServingError
from app.rest.ports import prepare_to_listen, reserve_grpc, reserve_rest, stop_listening
from tests.support.process import accepts, free_port


@pytest.mark.parametrize("reserve", [reserve_rest, reserve_grpc])
def test_a_reserved_port_is_closed_to_clients_and_taken_for_servers(reserve) -> None:  # type: ignore[no-untyped-def]
    port = free_port()
    with reserve(port):
        assert not accepts(port)
        with pytest.raises(ServingError) as raised:
            reserve(port)
    assert raised.value.code is Code.UNAVAILABLE
    assert f"Cannot listen on port {port}: Address already in use." in raised.value.message


def test_a_listening_port_is_refused() -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        with pytest.raises(ServingError, match="choose another port with --rest_api_port"):
            reserve_rest(taken.getsockname()[1])


def test_a_port_whose_old_connections_linger_can_be_taken() -> None:
    port = free_port()
    with reserve_rest(port) as server:
        prepare_to_listen(server)
        server.listen()
        with socket.create_connection(("127.0.0.1", port)) as client:
            accepted, _ = server.accept()
            accepted.close()  # the side that closes first keeps the address in TIME_WAIT
            assert client.recv(1) == b""
    reserve_rest(port).close()


def test_grpc_can_listen_beside_its_reservation() -> None:
    port = free_port()
    with reserve_grpc(port), socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        server.bind(("0.0.0.0", port))
        server.listen()
        # Every connection goes to the one that listens.
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", port)):
                server.accept()[0].close()


def test_rest_is_reached_over_ipv4_and_can_stop_and_start_listening() -> None:
    port = free_port()
    with reserve_rest(port) as reserved:
        stop_listening(reserved)  # harmless before it listens
        for _ in range(2):
            prepare_to_listen(reserved)
            reserved.listen()
            assert accepts(port)
            stop_listening(reserved)
            assert not accepts(port)
        assert reserved.getsockname()[1] == port


def test_a_port_that_was_closed_before_it_ever_listened_serves_later() -> None:
    """A worker that dies while it loads has not listened yet."""
    port = free_port()
    with reserve_rest(port) as reserved:
        stop_listening(reserved)
        prepare_to_listen(reserved)
        reserved.listen()
        with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
            server, _ = reserved.accept()
            with server:
                server.sendall(b"here")
                assert client.recv(4) == b"here"
