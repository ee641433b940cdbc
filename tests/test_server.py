from __future__ import annotations

import time
from pathlib import Path

import pytest

from app.errors import Code, ServingError
from app.options import Options
from app.server import Server
from tests.support.process import accepts, free_port


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


def test_a_bad_monitoring_file_fails_before_anything_is_loaded(half_plus_two: Path, tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    options = Options(
        port=free_port(),
        rest_api_port=free_port(),
        model_base_path=str(half_plus_two),
        monitoring_config_file=missing,
    )
    with pytest.raises(ServingError) as raised:
        Server(options)
    assert str(raised.value) == f"NOT_FOUND: {missing}; No such file or directory"


@pytest.mark.parametrize("rest_api_port", [0, 8500])
def test_without_a_rest_port_of_its_own_the_monitoring_file_is_not_read(
    half_plus_two: Path, rest_api_port: int
) -> None:
    Server(
        Options(
            rest_api_port=rest_api_port,
            model_base_path=str(half_plus_two),
            monitoring_config_file="/missing",
        )
    )
