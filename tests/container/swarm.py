"""A stack on a swarm, and clients that ask it all the time."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

import docker
import grpc
from docker.models.containers import Container
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from tests.container.containers import MODEL, PYTHON
from tests.support.process import wait_until

TOKEN = "swarm"
DAMPER = 0.02
"""Seconds between two requests of a client: the machine has other things to do than this load.

A REST request's body follows its head as late, as it may from any client: a balancer that passes on a head
before it has the body cannot ask again.
"""


@dataclass
class Load:
    """Clients that ask all the time.

    Attributes:
        counts: answered requests by transport.
        lost: what went wrong.
    """

    rest: str
    grpc: str
    counts: dict[str, int] = field(default_factory=lambda: {"rest": 0, "grpc": 0})
    lost: list[str] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        """Begin, with one client for each transport."""
        for transport, run in (("rest", self._rest), ("grpc", self._grpc)):
            thread = threading.Thread(target=self._repeat, args=(transport, run))
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """End."""
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def goes_on(self, requests_each: int = 100) -> None:
        """Wait until both have been answered that often again, and nothing was lost."""
        goal = {transport: count + requests_each for transport, count in self.counts.items()}
        wait_until(
            lambda: self.lost or all(self.counts[key] >= goal[key] for key in goal), "requests are answered"
        )
        assert not self.lost, self.lost[:10]

    def _repeat(self, transport: str, run: Callable[[], contextlib.AbstractContextManager[Any]]) -> None:
        with run() as ask:
            while not self._ended.wait(DAMPER):
                try:
                    answer = ask()
                    assert answer == [2.5], answer
                    self.counts[transport] += 1
                except Exception as error:  # each is told in the end
                    self.lost.append(f"{transport}: {error!r}")

    @contextlib.contextmanager
    def _rest(self) -> Iterator[Callable[[], Any]]:
        url = urllib.parse.urlsplit(f"{self.rest}:predict")
        body = b'{"instances": [1.0]}'
        with contextlib.closing(http.client.HTTPConnection(url.netloc, timeout=30)) as connection:

            def ask() -> Any:
                connection.putrequest("POST", url.path)
                connection.putheader("Authorization", f"Bearer {TOKEN}")
                connection.putheader("Content-Length", str(len(body)))
                connection.endheaders()
                self._ended.wait(DAMPER)
                connection.send(body)
                answer = connection.getresponse()
                text = answer.read()
                return json.loads(text)["predictions"] if answer.status == HTTPStatus.OK else text

            yield ask

    @contextlib.contextmanager
    def _grpc(self) -> Iterator[Callable[[], Any]]:
        request = predict_pb2.PredictRequest()
        request.model_spec.name = MODEL
        request.inputs["x"].dtype = 1
        request.inputs["x"].tensor_shape.dim.add(size=1)
        request.inputs["x"].float_val.append(1.0)
        # One connection for everything: the balancer has to spread its requests.
        with grpc.insecure_channel(self.grpc, [("grpc.enable_retries", 0)]) as channel:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
            metadata = [("authorization", f"Bearer {TOKEN}")]
            yield lambda: list(stub.Predict(request, timeout=30, metadata=metadata).outputs["y"].float_val)


@dataclass
class Swarm:
    """The stack, deployed, with a load on it."""

    client: docker.DockerClient
    name: str
    models: Path
    load: Load

    @property
    def service(self) -> Any:
        """The service of the replicas."""
        return self.client.services.get(f"{self.name}_ferry")  # type: ignore[no-untyped-call]

    def replicas(self) -> list[Container]:
        """The containers that run and are healthy, with the newest last."""
        label = f"com.docker.swarm.service.name={self.name}_ferry"
        found = self.client.containers.list(filters={"label": label, "health": "healthy"})
        return sorted(found, key=lambda container: str(container.attrs["Created"]))

    def wait_replicas(self, count: int, image: str | None = None) -> list[Container]:
        """Wait for so many, with nothing else left and none of another image."""

        def there() -> list[Container]:
            label = f"com.docker.swarm.service.name={self.name}_ferry"
            everything = self.client.containers.list(filters={"label": label})
            good = [one for one in self.replicas() if image in (None, one.image and one.image.id)]
            return good if len(good) == len(everything) == count else []

        found: list[Container] = wait_until(there, f"{count} replicas", 300)
        return found

    def scale(self, count: int) -> list[Container]:
        """Wait for so many replicas after asking for them."""
        self.service.scale(count)
        return self.wait_replicas(count)

    def answered(self, container: Container) -> dict[str, int]:
        """How many predictions a replica has answered since its start, by transport."""
        code = (
            "import urllib.request as u; print(u.urlopen(u.Request('http://127.0.0.1:8501/metrics', "
            f"headers={{'x-api-key': '{TOKEN}'}})).read().decode())"
        )
        output = container.exec_run([PYTHON, "-c", code]).output
        assert isinstance(output, bytes)  # not streamed
        page = output.decode()
        counts = {"rest": 0, "grpc": 0}
        for line in page.splitlines():
            if line.startswith("tensorflow_serving_request_latency_count") and 'redict"' in line:
                counts["grpc" if 'entrypoint="GRPC"' in line else "rest"] += int(float(line.split()[-1]))
        return counts

    def spread(self) -> dict[str, float]:
        """Over some requests, the busiest replica's share beside the idlest's, as a ratio by transport."""
        replicas = self.replicas()
        before = [self.answered(one) for one in replicas]
        self.load.goes_on(150)
        after = [self.answered(one) for one in replicas]
        ratios = {}
        for transport in ("rest", "grpc"):
            parts = [now[transport] - then[transport] for now, then in zip(after, before, strict=True)]
            ratios[transport] = max(parts) / max(min(parts), 1)
        return ratios
