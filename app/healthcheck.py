"""`tensorflow_model_server healthcheck`: is the server of this machine ready?

For container health checks: no curl needed, and nothing to keep in step, since ports are read from the
running server's own command line.
"""

from __future__ import annotations

import http.client
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from app.command_line import parse
from app.options import Options
from app.rest.ports import probe_address

_PROGRAM = "tensorflow_model_server"
_TIMEOUT_SECONDS = 5.0
_LONGEST_TEXT = 2000


def main(arguments: Sequence[str]) -> int:
    """Check the running server.

    Args:
        arguments: flags that override the running server's, such as `--rest_api_port=8501`.

    Returns:
        0 if it answers and a version is available, else 1; one line says what was found.
    """
    given = parse(arguments)
    wrong = [f"--{name}={value}" for value, name in given.bad_values] + given.unknown
    if wrong:
        print(f"healthcheck does not understand {wrong[0]}: it takes the server's flags.", file=sys.stderr)
        return 1
    line = parse([*_running_server(), *arguments])
    healthy, text = check(line.options)
    print(text, file=sys.stdout if healthy else sys.stderr)
    return 0 if healthy else 1


def check(options: Options) -> tuple[bool, str]:
    """Ask the server that `options` describe, on this machine.

    Returns:
        Whether it is healthy, and what was found. Without a REST port it is asked only whether it
        listens for gRPC, which it does when its model is loaded.
    """
    try:
        if options.rest_api_port:
            # Of several models one may be missing for a while. Whoever ends unhealthy containers would then
            # end the service of all others, so being up, which it is once all had loaded, has to do.
            return _ask_rest(options, "/livez" if options.model_config_file else "/readyz")
        if options.port:
            socket.create_connection(("127.0.0.1", options.port), _TIMEOUT_SECONDS).close()
            return True, f"gRPC port {options.port} answers"
        with socket.socket(socket.AF_UNIX) as unix:
            unix.settimeout(_TIMEOUT_SECONDS)
            unix.connect(options.grpc_socket_path)
        return True, f"gRPC socket {options.grpc_socket_path} answers"
    except (OSError, OverflowError, http.client.HTTPException) as error:
        return False, f"the server does not answer: {error}"


def _ask_rest(options: Options, path: str) -> tuple[bool, str]:
    port = options.rest_api_port
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_SECONDS)
    try:
        if options.rest_ssl_config_file:
            # Certificates are for clients. The server answers probes on this machine without.
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.settimeout(_TIMEOUT_SECONDS)
            connection.sock.connect(probe_address(port))
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read(_LONGEST_TEXT).decode(errors="replace")
    finally:
        connection.close()
    return response.status == http.client.OK, f"port {port}, {path}: HTTP status {response.status} {body}"


def _running_server() -> list[str]:
    """The flags of the server that runs on this machine (in a container: its only one), if any."""
    own = os.getpid()
    for process in sorted(int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()):
        if process == own or _in_another_container(process):
            continue
        try:
            arguments = Path(f"/proc/{process}/cmdline").read_bytes().decode().split("\0")[:-1]
        except (OSError, UnicodeDecodeError):
            continue  # gone, or another user's
        for place, argument in enumerate(arguments):
            if os.path.basename(argument) == _PROGRAM and "healthcheck" not in arguments:
                return arguments[place + 1 :]
            if os.path.basename(argument) == "ferry" and arguments[place + 1 : place + 2] == ["serve"]:
                return arguments[place + 2 :]
    return []


def _in_another_container(process: int) -> bool:
    """Whether a process that a host sees runs in a container, where its ports are not this machine's."""
    try:
        return os.stat(f"/proc/{process}/ns/pid").st_ino != os.stat("/proc/self/ns/pid").st_ino
    except OSError:  # another user's, or gone
        return False
