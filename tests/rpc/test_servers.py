"""Which port serves which method."""

from __future__ import annotations

from typing import Any

import pytest

from app.options import Options
from app.rpc.methods import method_table, services
from app.rpc.profiler import Profiler
from app.rpc.servers import RELOAD, admin_table, main_table
from tests.rpc.conftest import Served, refuse

PROFILE = "/tensorflow.ProfilerService/Profile"
STATUS = "/tensorflow.serving.ModelService/GetModelStatus"
PREDICT = "/tensorflow.serving.PredictionService/Predict"


@pytest.mark.parametrize(
    ("flags", "main", "admin"),
    [
        ({}, {RELOAD, PROFILE, STATUS, PREDICT}, None),
        ({"enable_reload_config": False}, {PROFILE, STATUS, PREDICT}, None),
        ({"enable_profiler": False}, {RELOAD, STATUS, PREDICT}, None),
        ({"admin_port": 1}, {STATUS, PREDICT}, {RELOAD, PROFILE, STATUS}),
        ({"admin_port": 1, "enable_reload_config": False}, {STATUS, PREDICT}, {PROFILE, STATUS}),
        ({"admin_port": 1, "enable_profiler": False}, {STATUS, PREDICT}, {RELOAD, STATUS}),
    ],
)
def test_what_a_port_serves(
    served: Served, flags: dict[str, Any], main: set[str], admin: set[str] | None
) -> None:
    options, profiler = Options(**flags), Profiler()
    api = method_table(served.manager, served.board, options, refuse)
    told = {RELOAD, PROFILE, STATUS, PREDICT}
    assert told & set(main_table(api, profiler, options)) == main
    if admin is not None:
        table = admin_table(api, profiler, options)
        assert told & set(table) == admin
        assert "tensorflow.serving.PredictionService" not in services(table)
