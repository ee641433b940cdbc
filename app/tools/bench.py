"""`ferry bench`: a load test of any server with TensorFlow Serving's API."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from app.cpus import usable_cpus
from app.engine.signature import DEFAULT_SIGNATURE
from app.errors import Code, ServingError, invalid_argument
from app.tools.access import OPEN, Access
from app.tools.bench_client import Load
from app.tools.described import working_example
from app.tools.inputs import read_requests
from app.tools.remote_model import RestModel, parse_address, remote_models

_METHOD = "/tensorflow.serving.PredictionService/"
_DEFAULT_PORTS = {"rest": 8501, "grpc": 8500}
_BUSY = 0.9


@dataclass(frozen=True)
class Request:
    """What is sent to one server again and again.

    Attributes:
        host: as the user wrote it.
        protocol: `http`, `https`, `grpc` or `grpcs`.
        address: HOST:PORT.
        target: the path of the URL, or the full name of the gRPC method.
        payload: the bytes.
        model: its name.
        version: its number when the test began.
        signature: its name.
        access: what the server wants to see.
    """

    host: str
    protocol: str
    address: str
    target: str
    payload: bytes
    model: str
    version: int | None
    signature: str
    access: Access = OPEN


@dataclass(frozen=True)
class Step:
    """What one server did at one number of clients.

    Attributes:
        host: as the user wrote it.
        concurrency: the number of clients, each with a connection of its own.
        answers: requests that were answered well; only these count in rate and latencies.
        errors: how many others, by code.
        first_error: the text of one; empty if there is none.
        seconds: from the beginning to the last answer.
        rate: answers a second.
        p50, p90, p99, mean, highest: latency in milliseconds; NaN without answers.
        client_cpu: the part of the CPU time that one thread has, which the busiest client process took.
    """

    host: str
    concurrency: int
    answers: int
    errors: dict[str, int]
    first_error: str
    seconds: float
    rate: float
    p50: float
    p90: float
    p99: float
    mean: float
    highest: float
    client_cpu: float

    @property
    def client_bound(self) -> bool:
        """Whether the clients were busy all the time: the server may do more than this says."""
        return self.client_cpu > _BUSY


def prepare(
    host: str,
    *,
    protocol: str = "rest",
    model: str = "",
    signature: str = "",
    input_file: str = "",
    batch: int = 1,
    timeout: float = 30.0,
    access: Access = OPEN,
) -> Request:
    """Make a request for the server at `host`, and have it answered once.

    Args:
        host: HOST, HOST:PORT or the URL of a model.
        protocol: `rest` or `grpc`.
        model: its name; may be left out if the server lists a single one.
        signature: its name; empty for `serving_default`.
        input_file: see `read_requests`; its first request is sent. Empty: one is made from the metadata.
        batch: rows of a request that is made.
        timeout: of each request, in seconds.
        access: what the server wants to see.

    Raises:
        ServingError: nobody answers, or not well.
    """
    address = parse_address(with_port(host, protocol))
    if address.protocol:
        protocol = "grpc" if address.protocol.startswith("grpc") else "rest"
    found = remote_models(with_port(host, protocol), model, protocol, timeout, access)
    if len(found) != 1:
        names = ", ".join(target.describe().model for target in found) or "none"
        raise invalid_argument(f"{host} has several models or none ({names}): name one with --model.")
    (target,) = found
    described = target.describe()
    name = signature or DEFAULT_SIGNATURE
    if name not in described.signatures:
        names = ", ".join(described.signatures)
        raise invalid_argument(f"{host}: {described.model} has no signature {name}; it has: {names}.")
    if input_file:
        request = read_requests(input_file, described.signatures, name)[0]
        method, body = request.method, request.rest_body()
        message = request.message(described.model, address.version).SerializeToString()
    else:
        example, error = working_example(target, described.signatures[name], None, batch)
        if example is None or error:
            raise ServingError(
                Code.FAILED_PRECONDITION,
                f"{host}: no request that was made up for {name} is answered; give one with --input. {error}",
            )
        method, body = example.method, json.dumps(example.rest_body()).encode()
        message = example.message(described.model, address.version).SerializeToString()
    is_rest = isinstance(target, RestModel)
    return Request(
        host=host,
        protocol=address.protocol or ("http" if is_rest else "grpc"),
        address=address.host,
        target=f"{target.path}:{method}" if isinstance(target, RestModel) else _METHOD + method.capitalize(),
        payload=body if is_rest else message,
        model=described.model,
        version=described.version,
        signature=name,
        access=access,
    )


def with_port(host: str, protocol: str) -> str:
    """`host` with the protocol's usual port if it has none."""
    scheme, separator, rest = host.rpartition("://")
    place, slash, path = rest.partition("/")
    if ":" in place or scheme == "https":
        return host
    port = _DEFAULT_PORTS["grpc" if scheme.startswith("grpc") else "rest" if scheme else protocol]
    return f"{scheme}{separator}{place}:{port}{slash}{path}"


def measure(
    requests: Sequence[Request],
    concurrencies: Sequence[int],
    *,
    seconds: float,
    warm_seconds: float = 1.0,
    timeout: float = 30.0,
    begun: Callable[[str], None] = lambda text: None,  # noqa: ARG005 - says nothing
) -> Iterator[Step]:
    """Load each server at each number of clients, the servers taking turns.

    Args:
        requests: what to send where.
        concurrencies: numbers of clients.
        seconds: how long each step takes.
        warm_seconds: how long before it clients send what is not counted.
        timeout: of each request.
        begun: told of every step before it begins.

    Raises:
        ServingError: a server cannot be reached at the beginning of a step.
    """
    for concurrency in concurrencies:
        for request in requests:
            begun(f"{request.host}, {concurrency} clients")
            load = Load(
                protocol=request.protocol,
                host=with_tls_port(request),
                target=request.target,
                bytes=len(request.payload),
                clients=0,
                warm_seconds=warm_seconds,
                seconds=seconds,
                timeout=timeout,
                access=request.access,
            )
            yield _step(request, concurrency, load)


def with_tls_port(request: Request) -> str:
    """HOST:PORT of a request: HTTPS may leave its port out."""
    return request.address if ":" in request.address else f"{request.address}:443"


def _step(request: Request, concurrency: int, load: Load) -> Step:
    processes = min(usable_cpus(), concurrency)
    shares = [concurrency // processes + (number < concurrency % processes) for number in range(processes)]
    clients = [_start({**asdict(load), "clients": share}, request.payload) for share in shares]
    try:
        for client in clients:
            line = _line(client)
            if line.strip() != b"ready":
                raise ServingError(Code.UNAVAILABLE, f"{request.host}: {json.loads(line)['error']}")
        for client in clients:
            _write(client, b"go\n")
        tallies = [json.loads(_line(client)) for client in clients]
    finally:
        for client in clients:
            client.kill()
            client.communicate()
    return _made_step(request.host, concurrency, tallies)


def _made_step(host: str, concurrency: int, tallies: Sequence[dict[str, Any]]) -> Step:
    latencies = np.concatenate([np.asarray(tally["latencies"], float) for tally in tallies]) * 1e3
    errors = sum((Counter(tally["errors"]) for tally in tallies), Counter[str]())
    elapsed = max(tally["elapsed"] for tally in tallies)
    nothing = float("nan")
    p50, p90, p99 = np.percentile(latencies, (50, 90, 99)) if len(latencies) else (nothing,) * 3
    return Step(
        host=host,
        concurrency=concurrency,
        answers=len(latencies),
        errors=dict(errors),
        first_error=next((tally["first_error"] for tally in tallies if tally["first_error"]), ""),
        seconds=elapsed,
        rate=len(latencies) / elapsed,
        p50=float(p50),
        p90=float(p90),
        p99=float(p99),
        mean=float(latencies.mean()) if len(latencies) else nothing,
        highest=float(latencies.max()) if len(latencies) else nothing,
        client_cpu=max(tally["cpu"] / tally["elapsed"] for tally in tallies),
    )


def _start(load: dict[str, Any], payload: bytes) -> subprocess.Popen[bytes]:
    # A process of its own, not a fork: this one has used gRPC.
    client = subprocess.Popen(
        [sys.executable, "-m", "app.tools.bench_client"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    _write(client, json.dumps(load).encode() + b"\n" + payload)
    return client


def _write(client: subprocess.Popen[bytes], data: bytes) -> None:
    assert client.stdin is not None
    client.stdin.write(data)
    client.stdin.flush()


def _line(client: subprocess.Popen[bytes]) -> bytes:
    assert client.stdout is not None
    line = client.stdout.readline()
    if not line:
        raise ServingError(Code.INTERNAL, f"A client process ended with status {client.wait()}.")
    return line
