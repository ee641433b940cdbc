"""Each stack of compose/, started and called. Those of one model alone are in test_compose.py."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import grpc
import pytest
import requests
from tensorflow_serving.apis import get_model_status_pb2, model_service_pb2_grpc

from tests.container.containers import HARDENED, MODEL, docker_command, make_readable, predict_grpc, started
from tests.container.stacks import COMPOSE, Images, Stack, up
from tests.support.process import REPOSITORY, wait_until

pytestmark = pytest.mark.container

ANSWER = {"predictions": [2.5, 3.0, 4.5]}
X = {"instances": [1.0, 2.0, 5.0]}


def quiet(ask: Callable[[], Any]) -> Any:
    """What `ask` answers; None while nobody listens or a front has nobody behind it."""
    try:
        answer = ask()
    except (requests.ConnectionError, requests.exceptions.SSLError):
        return None
    return answer if answer.ok else None


def test_models_follow_the_mounted_file(
    client: docker.DockerClient, images: Images, samples: Path, tmp_path: Path
) -> None:
    shutil.copytree(samples, models := tmp_path / "models")
    shutil.copytree(models / MODEL / "00000123", models / MODEL / "00000124")
    config = shutil.copytree(COMPOSE / "models", tmp_path / "config") / "models.config"
    make_readable(tmp_path)
    variables = {"MODELS_DIR": str(models), "CONFIG_DIR": str(config.parent), "POLL_SECONDS": "1"}
    with up(client, "models", {**images("models"), **variables}) as stack:
        server = stack.server().wait_ready()
        root = f"http://127.0.0.1:{server.port(8501)}/v1/models"

        def versions(model: str) -> set[str]:
            status = requests.get(f"{root}/{model}", timeout=10).json().get("model_version_status", [])
            return {entry["version"] for entry in status if entry["state"] == "AVAILABLE"}

        def version_of(url: str) -> Any:
            return requests.get(f"{url}/metadata", timeout=10).json()["model_spec"]["version"]

        # The file as it is delivered: policies, and a label that names the older of two versions.
        assert versions(MODEL) == {"123", "124"}
        assert versions("image_classifier") == versions("text_classifier") == {"1"}
        stable = f"{root}/{MODEL}/labels/stable"
        assert requests.post(f"{stable}:predict", json=X, timeout=30).json() == ANSWER
        assert version_of(stable) == "123"

        # An edit as editors make it, by a new file: a model goes, a label moves and another comes.
        text = re.sub(r"  # Every.*?\n  }\n(?=})", "", config.read_text(), flags=re.DOTALL)
        labels = 'version_labels { key: "stable" value: 124 } version_labels { key: "old" value: 123 }'
        text = text.replace('version_labels { key: "stable" value: 123 }', labels)
        (new := config.with_suffix(".new")).write_text(text)
        make_readable(tmp_path)
        os.replace(new, config)
        wait_until(lambda: not versions("text_classifier"), "text_classifier is gone")
        wait_until(
            lambda: requests.get(f"{root}/{MODEL}/labels/old", timeout=10).ok, "the new label is there"
        )
        assert version_of(stable) == "124"


def test_tls_and_tokens_on_both_ports(
    client: docker.DockerClient, images: Images, sample: Path, tmp_path: Path
) -> None:
    private = tmp_path / "private"
    subprocess.run([COMPOSE / "tls" / "prepare", private], check=True)
    before = (private / "token").read_text()
    subprocess.run([COMPOSE / "tls" / "prepare", private], check=True)
    assert (private / "token").read_text() == before
    assert (private / "tls.key").stat().st_mode & 0o077 == 0
    variables = {"MODEL_DIR": str(sample), "TLS_DIR": str(private), "FERRY_USER": str(os.getuid())}
    authority = str(private / "tls.crt")
    token = {"Authorization": f"Bearer {before.strip()}"}
    with up(client, "tls", {**images("tls"), **variables}) as stack:
        server = stack.server()
        url = f"https://localhost:{server.port(8501)}/v1/models/{MODEL}"
        wait_until(
            lambda: quiet(lambda: requests.get(url, headers=token, verify=authority, timeout=10)), "REST"
        )
        answer = requests.post(f"{url}:predict", json=X, headers=token, verify=authority, timeout=30)
        assert answer.json() == ANSWER
        assert requests.post(f"{url}:predict", json=X, verify=authority, timeout=30).status_code == 401
        with pytest.raises(requests.ConnectionError):
            requests.get(url.replace("https", "http"), headers=token, timeout=10)

        credentials = grpc.ssl_channel_credentials(Path(authority).read_bytes())
        with grpc.secure_channel(f"localhost:{server.port(8500)}", credentials) as channel:
            stub = model_service_pb2_grpc.ModelServiceStub(channel)
            request = get_model_status_pb2.GetModelStatusRequest()
            request.model_spec.name = MODEL
            metadata = [("x-api-key", before.strip())]
            (status,) = stub.GetModelStatus(request, timeout=30, metadata=metadata).model_version_status
            assert status.version == 123
            with pytest.raises(grpc.RpcError) as error:
                stub.GetModelStatus(request, timeout=30)
            assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_s3_is_filled_and_served(client: docker.DockerClient, images: Images, sample: Path) -> None:
    variables = {"MODEL_DIR": str(sample), "POLL_SECONDS": "1"}
    with up(client, "s3", {**images("s3"), **variables}) as stack:
        assert stack.server().wait_ready().predict(X["instances"]) == ANSWER
        upload = stack.server("upload")
        assert upload.wait_exit() == 0
        assert "1 versions uploaded" in upload.log
        # Nothing is written twice: a stack that starts again leaves what is served alone.
        upload.container.start()
        assert upload.wait_exit() == 0
        assert upload.log.splitlines()[-1] == "0 versions uploaded"


@pytest.fixture(scope="module")
def web(client: docker.DockerClient, images: Images, samples: Path) -> Iterator[Stack]:
    variables = {"MODEL_DIR": str(samples / "image_classifier")}
    with up(client, "web", {**images("web"), **variables}) as stack:
        yield stack


@pytest.fixture(scope="module")
def front(web: Stack) -> str:
    """The address of the page, once a picture is classified through it."""
    address = f"http://127.0.0.1:{web.server('web').port(8080)}"
    wait_healthy(web)
    wait_until(lambda: quiet(lambda: ask(address)), "a picture is classified")
    return address


def wait_healthy(web: Stack) -> None:
    """Wait for the model from within: the front answers only so many questions, good or bad."""
    check = ["/usr/bin/tensorflow_model_server", "healthcheck"]
    wait_until(lambda: web.container("ferry").exec_run(check).exit_code == 0, "the model is available")


def ask(address: str) -> requests.Response:
    """What the page sends for a picture."""
    encoded = base64.b64encode((REPOSITORY / "examples" / "sample.jpg").read_bytes()).decode()
    body = {"instances": [{"image_bytes": {"b64": encoded}}]}
    return requests.post(f"{address}/classify", json=body, timeout=30)


def test_the_page_comes_whole(front: str) -> None:
    page = requests.get(front, timeout=10)
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    links = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert set(links) == {"style.css", "page.js"}
    for link, kind in (
        ("style.css", "text/css"),
        ("page.js", "text/javascript"),
        ("classify.js", "text/javascript"),
    ):
        file = requests.get(f"{front}/{link}", timeout=10)
        assert file.ok
        assert file.headers["Content-Type"].startswith(kind)


def test_the_page_shows_classes(front: str) -> None:
    (answer,) = ask(front).json()["predictions"]
    assert len(answer["classes"]) == len(answer["scores"]) == 5
    if shutil.which("node") is None:
        pytest.skip("node is not installed: the page's own script was not run")
    script = """
      const [module, picture, address] = process.argv.slice(1);
      const { classify } = await import(module);
      const { readFile } = await import("node:fs/promises");
      const ask = (path, options) => fetch(`${address}/${path}`, options);
      const good = await classify(new Blob([await readFile(picture)]), ask);
      const bad = await classify(new Blob(["no picture"]), ask).catch((error) => error.message);
      const away = () => Promise.reject(new Error());
      const none = await classify(new Blob([]), away).catch((error) => error.message);
      console.log(JSON.stringify({ good, bad, none }));
    """
    command = ["node", "--input-type=module", "-e", script]
    arguments = [COMPOSE / "web" / "page" / "classify.js", REPOSITORY / "examples" / "sample.jpg", front]
    run = subprocess.run([*command, *map(str, arguments)], check=True, capture_output=True, text=True)
    shown = json.loads(run.stdout)
    assert [entry["name"] for entry in shown["good"]] == answer["classes"]
    assert "cannot read this file" in shown["bad"]
    assert "cannot be reached" in shown["none"]


def test_the_front_passes_one_question_only(front: str, web: Stack) -> None:
    assert requests.get(f"{front}/classify", timeout=10).status_code == 403
    assert requests.get(f"{front}/v1/models/image_classifier", timeout=10).status_code == 404
    assert requests.post(f"{front}/classify", data=b"x" * (12 << 20), timeout=30).status_code == 413
    container = web.container("ferry")
    assert not any(container.ports.values())


def test_the_front_outlives_a_restart_of_the_server(front: str, web: Stack) -> None:
    web.container("ferry").restart(timeout=10)
    wait_healthy(web)
    wait_until(lambda: quiet(lambda: ask(front)), "a picture is classified again")


def test_monitoring_scrapes_without_grafana(
    client: docker.DockerClient, images: Images, sample: Path
) -> None:
    """What of compose/monitoring.yml runs where Grafana's image cannot be pulled; see test_compose.py."""
    found = images("monitoring")
    if "GRAFANA_IMAGE" in found:
        pytest.skip("test_compose.py starts the whole of it")
    variables = {"MODEL_DIR": str(sample)}
    with up(client, "monitoring", {**found, **variables}, ["ferry", "prometheus"]) as stack:
        stack.server().wait_ready().predict([1.0])
        query = f"http://127.0.0.1:{stack.server('prometheus').port(9090)}/api/v1/query"
        dashboard = json.loads((COMPOSE / "monitoring/grafana/dashboards/ferry.json").read_text())
        expressions = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]

        def asked(expression: str) -> Any:
            answer = quiet(lambda: requests.get(query, params={"query": expression}, timeout=10))
            return answer and answer.json()["data"]["result"]

        wait_until(lambda: asked("ferry_ready == 1"), "Prometheus has scraped a server that is ready")
        # Every question of the dashboard is one that Prometheus understands.
        assert len(expressions) > 5
        for expression in expressions:
            plain = expression.replace("$__rate_interval", "1m").replace("$__interval", "1m")
            plain = re.sub(r"\$\{?\w+\}?", ".*", plain)
            assert requests.get(query, params={"query": plain}, timeout=10).json()["status"] == "success", (
                expression
            )


def test_a_model_baked_in_by_a_dockerfile(
    client: docker.DockerClient, image: str, sample: Path, tmp_path: Path
) -> None:
    shutil.copytree(sample, tmp_path / MODEL)
    recipe = f"FROM {image}\nCOPY {MODEL} /models/{MODEL}\nENV MODEL_NAME={MODEL}\n"
    (tmp_path / "Dockerfile").write_text(recipe)
    built, _ = client.images.build(path=str(tmp_path), rm=True)
    _serves_alone(client, built.id)


def test_a_model_baked_in_by_docker_commit(client: docker.DockerClient, image: str, sample: Path) -> None:
    """The recipe that TensorFlow Serving's users know, word for word."""
    container = client.containers.run(image, detach=True)
    try:
        subprocess.run([docker_command(), "cp", str(sample), f"{container.id}:/models/{MODEL}"], check=True)
        committed = container.commit(changes=f"ENV MODEL_NAME {MODEL}")
    finally:
        container.remove(force=True)
    _serves_alone(client, committed.id)


def _serves_alone(client: docker.DockerClient, image: str | None) -> None:
    """Serves what is in the image, on a read-only root, and removes the image."""
    assert image is not None
    try:
        with started(client, image, **HARDENED) as server:
            assert server.wait_ready().predict(X["instances"]) == ANSWER
            assert predict_grpc(server.port(8500), [1.0]) == [2.5]
    finally:
        client.images.remove(image, force=True)
