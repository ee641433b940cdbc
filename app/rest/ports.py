"""Ports that are taken early and answered late.

A port in use must be found at once, not after minutes of loading; yet a probe that connects must
see a closed port until requests can be answered. So ports are bound at the start and listened on
when the models are there.
"""

from __future__ import annotations

import errno
import socket

from app.errors import Code, ServingError


def reserve_rest(port: int) -> socket.socket:
    """Bind the REST port on all addresses, IPv6 and IPv4 (IPv4 alone where there is no IPv6).

    Raises:
        ServingError: UNAVAILABLE, saying which port and why.
    """
    try:
        return _bind(socket.AF_INET6, "::", port, "rest_api_port")
    except OSError:  # no IPv6 on this machine
        return _bind(socket.AF_INET, "0.0.0.0", port, "rest_api_port")


def reserve_grpc(port: int, host: str = "0.0.0.0", flag: str = "port") -> socket.socket:
    """Bind a gRPC port; grpcio may bind it again beside this socket, which never listens.

    Args:
        port: to bind.
        host: IP address to bind it on.
        flag: that names the port.

    Raises:
        ServingError: UNAVAILABLE, saying which port and why.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    reserved = _bind(family, host, port, flag)
    share(reserved)  # only now: had it been set before, a second server could bind here as well
    return reserved


def _bind(family: socket.AddressFamily, host: str, port: int, flag: str) -> socket.socket:
    # Exclusively at first: with SO_REUSEADDR, two servers that do not listen yet could both bind the
    # port. It is needed after a restart, while old connections linger in TIME_WAIT.
    for reuse in (0, 1):
        reserved = socket.socket(family, socket.SOCK_STREAM)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
        if family == socket.AF_INET6:
            reserved.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        try:
            reserved.bind((host, port))
        except OSError as error:
            reserved.close()
            if error.errno == errno.EADDRINUSE and not reuse:
                continue
            if error.errno in (errno.EADDRINUSE, errno.EACCES, errno.EADDRNOTAVAIL):
                raise ServingError(
                    Code.UNAVAILABLE,
                    f"Cannot listen on port {port}: {error.strerror}. "
                    f"Stop what uses it or choose another port with --{flag}.",
                ) from None
            raise
        return reserved
    raise AssertionError("unreachable")


def share(reserved: socket.socket) -> None:
    """Let several processes listen on the port of `reserved`, each on a socket of its own."""
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)


def beside(reserved: socket.socket) -> socket.socket:
    """A socket of this process on the port of `reserved`, which is shared: it ends when the process does."""
    own = socket.socket(reserved.family, socket.SOCK_STREAM)
    share(own)
    if own.family == socket.AF_INET6:
        own.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    own.bind(reserved.getsockname())
    return own


def probe_address(port: int) -> str:
    """The abstract UNIX socket for health checks of the server whose REST port is `port`."""
    return f"\0ferry-probes-{port}"


def prepare_to_listen(reserved: socket.socket) -> None:
    """Call it just before `reserved` listens: its connections may then linger without harm.

    A connection inherits SO_REUSEADDR; without it the next server could not bind the port while
    connections of this one are in TIME_WAIT.
    """
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)


def stop_listening(reserved: socket.socket) -> None:
    """Close the port to clients again but keep it bound; harmless if it does not listen.

    On Linux a shutdown ends a socket's listening state and leaves its address; connections that
    nobody accepted are reset, so that no client waits for a process that has died.
    """
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)  # exclusive again
    # A shutdown before it listens would stay with the socket: its connections would be born closed.
    if reserved.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        reserved.shutdown(socket.SHUT_RDWR)
