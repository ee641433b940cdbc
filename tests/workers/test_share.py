from __future__ import annotations

from app.options import Options
from app.workers.share import share_of


def test_the_only_worker_has_all() -> None:
    options = Options()
    assert share_of(options, 0) is options


def test_limits_are_divided_and_caches_are_apart() -> None:
    options = Options(
        server_workers=2,
        max_in_flight_requests=5,
        max_requests_per_second_per_model=1.0,
        max_connections=0,
        grpc_max_threads=1,
        model_cache_dir="/cache",
    )
    share = share_of(options, 1)
    assert (share.max_in_flight_requests, share.max_requests_per_second_per_model) == (3, 0.5)
    assert (share.max_connections, share.grpc_max_threads) == (0, 1)
    assert share.model_cache_dir == "/cache/worker-1"
    assert share_of(Options(server_workers=2), 0).model_cache_dir == ""
