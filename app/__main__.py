"""`tensorflow_model_server`: argv to `Options`, ports, and the processes that serve."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import TYPE_CHECKING

from app import __version__, healthcheck
from app.command_line import check, parse, usage
from app.errors import ServingError
from app.options import Options

if TYPE_CHECKING:
    from app.lifecycle.black_box import BlackBox
    from app.rest.worker import Serving
    from app.workers.crew import Crew

_FAILED = 255
_SWITCH_SECONDS = 2e-3


def main(arguments: Sequence[str] | None = None, program: str = "tensorflow_model_server") -> int:
    """Run the command line.

    Args:
        arguments: without the program's name; the process's own if None.
        program: the name for the usage text.

    Returns:
        The exit status: 0, or 255 as TensorFlow Serving does for usage and failed starts.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["healthcheck"]:
        return healthcheck.main(given[1:])
    line = parse(given)
    if line.bad_values or line.wants_help:
        for value, name in line.bad_values:
            print(f"Couldn't interpret value {value} for flag {name}.", file=sys.stderr)
        print(usage(program), end="", flush=True)
        return _FAILED
    if line.options.version:
        print(f"TensorFlow ModelServer: {__version__}+ferry")
        print(f"TensorFlow Library: {_tensorflow_version()}")
        return 0
    if line.unknown:
        print(f"unknown argument: {line.unknown[0]}\n{usage(program)}", end="", flush=True)
    try:
        return _serve(line.options)
    except ServingError as error:
        print(f"Failed to start server. Error: {error}", flush=True)
        return _FAILED


def _serve(options: Options) -> int:
    # Imported late: --help, --version and mistakes in flags answer without gunicorn.
    from app.rest import ports
    from app.rest.supervisor import supervise
    from app.telemetry import logs
    from app.telemetry.native_output import as_events

    check(options)
    # The runtime logs every failed request as a warning unless told otherwise; clients get the text.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if options.xla_cpu_compilation_enabled:
        # Read once for the process. Only sessions that ask for it are compiled.
        own = os.environ.get("TF_XLA_FLAGS", "")
        os.environ["TF_XLA_FLAGS"] = f"--tf_xla_cpu_global_jit {own}".strip()
    sockets = []
    with contextlib.ExitStack() as until_the_end:
        stream = until_the_end.enter_context(as_events()) if options.log_format == "json" else None
        logs.configure(options.log_format, stream, processes=options.server_workers > 1)
        if options.port:
            until_the_end.callback(ports.reserve_grpc(options.port).close)
        if options.admin_port:
            admin = ports.reserve_grpc(options.admin_port, options.admin_host, "admin_port")
            until_the_end.callback(admin.close)
        if options.rest_api_port and options.rest_api_port == options.port:
            logging.getLogger(__name__).error(
                "server_options.http_port cannot be same as grpc_port. Please use a different port for "
                "HTTP/REST API. Skipped exporting HTTP/REST API."
            )
        elif options.rest_api_port:
            sockets.append(ports.reserve_rest(options.rest_api_port))
            if options.server_workers > 1:
                ports.share(sockets[0])
        return supervise(options, sockets, _make_server)


def _make_server(options: Options, black_box: BlackBox, crew: Crew | None) -> Serving:
    """The server; called in the worker, as importing it takes TensorFlow's seconds and memory."""
    from app.server import Server

    # A thread that computes in Python keeps the GIL so long from one that waits for it: 5 ms by default.
    sys.setswitchinterval(_SWITCH_SECONDS)
    server = Server(options, black_box, crew)
    # What is there by now stays, TensorFlow's 300,000 objects above all. A look at them for garbage would
    # stop every request for a quarter of a second.
    gc.collect()
    gc.freeze()
    return server


def _tensorflow_version() -> str:
    for distribution in ("tensorflow-cpu", "tensorflow"):
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return "not installed"


if __name__ == "__main__":
    sys.exit(main())
