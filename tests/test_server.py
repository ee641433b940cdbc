from __future__ import annotations

import time
from pathlib import Path

import pytest

from app.errors import Code, ServingError
from app.options import Options
from app.server import Server
from tests.support.process import accepts, free_port
from tests.support.stores import WebServer


def test_a_server_starts_with_its_model_and_stops(half_plus_two: Path) -> None:
    port = free_port()
    server = Server(Options(port=port, model_name="m", model_base_path=str(half_plus_two)))
    assert not accepts(port)
    server.start()
    assert accepts(port)
    server.drain(time.monotonic() + 5)
    assert not accepts(port)
    server.stop()


def test_a_model_that_cannot_be_loaded_fails_the_start(tmp_path: Path) -> None:
    (tmp_path / "3").mkdir()
    options = Options(port=free_port(), model_name="m", model_base_path=str(tmp_path), max_num_load_retries=0)
    server = Server(options)
    with pytest.raises(ServingError) as raised:
        server.start()
    assert raised.value.code is Code.UNKNOWN
    assert raised.value.message.startswith(
        "1 servable(s) did not become available: {{{name: m version: 3} due to error: NOT_FOUND: Specified"
    )
    assert raised.value.message.endswith("}, }")
    server.stop()


def test_a_remote_model_that_cannot_be_loaded_is_named_by_its_uri(web: WebServer, tmp_path: Path) -> None:
    (tmp_path / "web/m/3").mkdir(parents=True)
    (tmp_path / "web/m/3/saved_model.pb").write_bytes(b"no model")
    options = Options(
        port=free_port(),
        model_name="m",
        model_base_path=f"{web.address}/m",
        max_num_load_retries=0,
        remote_poll_wait_seconds=1,
        model_cache_dir=str(tmp_path / "cache"),
    )
    server = Server(options)
    with pytest.raises(ServingError) as raised:
        server.start()
    server.stop()
    assert (
        f"due to error: DATA_LOSS: Can't parse {web.address}/m/3/saved_model.pb (8 b" in raised.value.message
    )
    assert list((tmp_path / "cache/versions").iterdir()) == [], "what is damaged is not kept"
