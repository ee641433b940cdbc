from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.conftest import StartServer
from tests.support import models
from tests.support.process import ServerProcess, wait_until
from tests.support.stores import Proxy, S3Server, WebServer

FLAGS = ("--remote_poll_wait_seconds=1", "--load_retry_interval_micros=100000")


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directories 1, 2 and 3 with models y = x / 2 + N."""
    directory = tmp_path_factory.mktemp("versions")
    for number in (1, 2, 3):
        models.save_half_plus(directory / str(number), float(number))
    return directory


def answer(server: ServerProcess, **more: Any) -> Any:
    return server.predict([1.0], **more).json()


def wait_for_version(server: ServerProcess, number: int) -> None:
    wait_until(lambda: answer(server) == {"predictions": [0.5 + number]}, f"version {number} answers")


def kept(cache: Path) -> list[Path]:
    """The versions in a cache directory, and what is half there."""
    return [*(cache / "versions").iterdir(), *(cache / "partial").iterdir()]


def test_versions_in_s3_come_and_go(
    s3: S3Server, bucket: str, versions: Path, start_server: StartServer, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    s3.upload(versions / "1", bucket, "models/m/1")
    flags = (*FLAGS, f"--model_cache_dir={cache}")
    server = start_server(f"s3://{bucket}/models/m/", flags=flags, environment=s3.environment())
    server.wait_ready()
    assert answer(server) == {"predictions": [1.5]}
    s3.upload(versions / "2", bucket, "models/m/2")
    wait_for_version(server, 2)
    wait_until(lambda: server.states() == {1: "END", 2: "AVAILABLE"}, "version 1 is unloaded")
    wait_until(lambda: len(kept(cache)) == 1, "version 1 is removed from the cache")
    s3.remove(bucket, "models/m/2/")
    wait_for_version(server, 1)
    wait_until(lambda: server.states() == {1: "AVAILABLE", 2: "END"}, "version 2 is unloaded")
    wait_until(lambda: len(kept(cache)) == 1, "version 2 is removed from the cache")
    s3.remove(bucket, "models/m/1/")
    server.wait_log("What is loaded stays")
    assert answer(server) == {"predictions": [1.5]}, "nothing there is no order to unload everything"


def test_a_version_is_not_loaded_before_its_last_object_is_there(
    s3: S3Server, bucket: str, versions: Path, start_server: StartServer
) -> None:
    s3.upload(versions / "1", bucket, "m/1")
    server = start_server(f"s3://{bucket}/m", flags=FLAGS, environment=s3.environment()).wait_ready()
    data = "variables/variables.data-00000-of-00001"
    for file in ("saved_model.pb", "variables/variables.index"):
        s3.client.put_object(Bucket=bucket, Key=f"m/2/{file}", Body=(versions / "2" / file).read_bytes())
    server.wait_log("Version 2 of servable model is still being written. It has no variables.data yet.")
    assert server.states() == {1: "AVAILABLE"}
    s3.client.put_object(Bucket=bucket, Key=f"m/2/{data}", Body=(versions / "2" / data).read_bytes())
    wait_for_version(server, 2)


def test_a_store_that_fails_half_way_is_tried_again(
    s3: S3Server, bucket: str, versions: Path, start_server: StartServer, proxy: Proxy, tmp_path: Path
) -> None:
    s3.upload(versions / "1", bucket, "m/1")
    faults = iter(["damage", "damage", "cut", "cut", "error"])

    def fault(path: str) -> str:
        return next(faults, "") if path.endswith("variables.data-00000-of-00001") else ""

    proxy.fault = fault
    cache = tmp_path / "cache"
    flags = (*FLAGS, f"--model_cache_dir={cache}")
    environment = s3.environment(proxy.endpoint)
    server = start_server(f"s3://{bucket}/m", flags=flags, environment=environment).wait_ready()
    assert answer(server) == {"predictions": [1.5]}
    assert next(faults, None) is None
    assert len(kept(cache)) == 1


def test_a_store_that_always_fails_half_way_ends_the_start_and_leaves_nothing(
    s3: S3Server, bucket: str, versions: Path, start_server: StartServer, proxy: Proxy, tmp_path: Path
) -> None:
    s3.upload(versions / "1", bucket, "m/1")
    proxy.fault = lambda path: "cut" if path.endswith("saved_model.pb") else ""
    cache = tmp_path / "cache"
    flags = (*FLAGS, f"--model_cache_dir={cache}", "--max_num_load_retries=1")
    server = start_server(f"s3://{bucket}/m", flags=flags, environment=s3.environment(proxy.endpoint))
    assert server.wait_exit() == 255
    assert f"Could not fetch from s3://{bucket}: " in server.log
    assert "given up after 2 attempts" in server.log
    assert kept(cache) == []


def test_a_restart_fetches_nothing_that_is_kept(
    s3: S3Server, bucket: str, versions: Path, start_server: StartServer, proxy: Proxy, tmp_path: Path
) -> None:
    s3.upload(versions / "1", bucket, "m/1")
    flags = (*FLAGS, f"--model_cache_dir={tmp_path / 'cache'}")
    environment = s3.environment(proxy.endpoint)
    first = start_server(f"s3://{bucket}/m", flags=flags, environment=environment).wait_ready()
    assert any(path.endswith("saved_model.pb") for path in proxy.paths)
    first.terminate()
    assert first.wait_exit() == 0
    proxy.paths.clear()
    second = start_server(f"s3://{bucket}/m", flags=flags, environment=environment).wait_ready()
    assert answer(second) == {"predictions": [1.5]}
    assert not any(path.endswith("saved_model.pb") for path in proxy.paths)


def test_a_temporary_cache_goes_with_the_server_or_with_the_next(
    s3: S3Server, bucket: str, versions: Path, start_server: StartServer, tmp_path: Path
) -> None:
    s3.upload(versions / "1", bucket, "m/1")
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    environment = {**s3.environment(), "TMPDIR": str(temporary)}
    server = start_server(f"s3://{bucket}/m", flags=FLAGS, environment=environment).wait_ready()
    (first,) = temporary.glob("ferry-models-*")
    assert first.stat().st_mode & 0o777 == 0o700
    server.kill()
    assert first.exists()
    server = start_server(f"s3://{bucket}/m", flags=FLAGS, environment=environment).wait_ready()
    (second,) = temporary.glob("ferry-models-*")
    assert second != first
    server.process.send_signal(signal.SIGTERM)
    assert server.wait_exit() == 0
    assert list(temporary.glob("*ferry*")) == []


def test_a_store_that_hangs_holds_up_no_other_model(
    s3: S3Server, bucket: str, versions: Path, start_server: StartServer, proxy: Proxy, tmp_path: Path
) -> None:
    s3.upload(versions / "1", bucket, "m/1")
    local = tmp_path / "local"
    models.save_half_plus(local / "1", 1.0)
    remote = f"config {{ name: 'remote' base_path: 's3://{bucket}/m' model_platform: 'tensorflow' }}"
    near = f"config {{ name: 'model' base_path: '{local}' model_platform: 'tensorflow' }}"
    config = tmp_path / "models.config"
    config.write_text(f"model_config_list {{ {remote} {near} }}")
    server = start_server(
        "", flags=(*FLAGS, f"--model_config_file={config}"), environment=s3.environment(proxy.endpoint)
    ).wait_ready()
    proxy.fault = lambda _: "hang"
    proxy.paths.clear()
    wait_until(lambda: proxy.paths, "the store is asked, and hangs")
    models.save_half_plus(local / "2", 2.0)
    wait_for_version(server, 2)
    url = f"{server.rest}/v1/models/remote:predict"
    assert requests.post(url, json={"instances": [1.0]}, timeout=30).json() == {"predictions": [1.5]}


def test_a_model_from_a_web_server(
    web: WebServer, versions: Path, start_server: StartServer, tmp_path: Path
) -> None:
    (tmp_path / "web" / "m").symlink_to(versions)
    server = start_server(f"{web.address}/m", flags=FLAGS).wait_ready()
    assert answer(server) == {"predictions": [3.5]}
