from __future__ import annotations

from math import inf

import pytest

from app.rpc.channel_arguments import channel_arguments
from app.rpc.http2.limits import Limits, Patience, PingWatch, limits_of


def of(text: str) -> Limits:
    return limits_of(channel_arguments(text))


def test_without_arguments_the_limits_are_the_defaults() -> None:
    assert of("") == Limits()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("grpc.max_receive_message_length=10", {"max_receive": 10}),
        ("grpc.max_send_message_length=10", {"max_send": 10}),
        ("grpc.max_concurrent_streams=10", {"max_streams": 10}),
        ("grpc.max_concurrent_streams=-1", {"max_streams": 1}),
        ("grpc.http2.max_frame_size=1", {"max_frame": 16384}),
        ("grpc.http2.max_frame_size=100000", {"max_frame": 100000}),
        ("grpc.server_handshake_timeout_ms=500", {"handshake_seconds": 0.5}),
        ("grpc.keepalive_time_ms=2147483647", {"keepalive_seconds": inf}),
        ("grpc.keepalive_time_ms=1000", {"keepalive_seconds": 1}),
        ("grpc.keepalive_timeout_ms=1000", {"keepalive_timeout_seconds": 1}),
        ("grpc.keepalive_permit_without_calls=1", {"keepalive_without_calls": True}),
        ("grpc.http2.min_ping_interval_without_data_ms=5000", {"ping_seconds": 5}),
        ("grpc.http2.max_ping_strikes=0", {"ping_strikes": 0}),
        ("grpc.max_connection_idle_ms=1000", {"idle_seconds": 1}),
        ("grpc.max_connection_age_ms=1000", {"age_seconds": 1}),
        ("grpc.max_connection_age_grace_ms=1000", {"age_grace_seconds": 1}),
        ("grpc.default_compression_algorithm=2", {"compression": "gzip"}),
        ("grpc.default_compression_algorithm=1", {"compression": "deflate"}),
        ("grpc.default_compression_algorithm=7", {}),
        ("grpc.so_reuseport=0", {"share_port": False}),
        ("grpc.max_receive_message_length=text,grpc.keepalive_time_ms=text,other=1", {}),
    ],
)
def test_arguments_that_mean_something(text: str, expected: dict[str, object]) -> None:
    default = Limits()
    found = of(text)
    for name in Limits.__dataclass_fields__:
        assert getattr(found, name) == expected.get(name, getattr(default, name)), name


def test_clocks_are_looked_at_as_often_as_the_shortest_needs() -> None:
    assert Limits().tick_seconds == 1
    assert of("grpc.max_connection_idle_ms=400").tick_seconds == pytest.approx(0.1)
    assert of("grpc.max_connection_idle_ms=0").tick_seconds == pytest.approx(0.01)


def test_patience_runs_out_and_grows_back() -> None:
    patience = Patience(3, per_second=2)
    assert [patience.spend(10) for _ in range(4)] == [True, True, True, False]
    assert [patience.spend(11) for _ in range(3)] == [True, True, False]
    assert [patience.spend(1000) for _ in range(4)] == [True, True, True, False]
    patience.regain()
    assert [patience.spend(1000) for _ in range(2)] == [True, False]


@pytest.mark.parametrize(
    ("gaps", "has_calls", "without_calls", "borne"),
    [
        ([300] * 10, True, False, 10),
        ([1] * 10, True, False, 3),
        ([300] * 10, False, False, 3),
        ([7200] * 10, False, False, 10),
        ([300] * 10, False, True, 10),
    ],
)
def test_pings_in_the_pace_that_grpc_allows(
    gaps: list[int], has_calls: bool, without_calls: bool, borne: int
) -> None:
    watch, now, count = PingWatch(Limits(keepalive_without_calls=without_calls)), 100.0, 0
    for gap in gaps:
        if not watch.tolerates(now, has_calls=has_calls):
            break
        count += 1
        now += gap
    assert count == borne


def test_an_answer_forgives_pings_and_no_strikes_forgive_all() -> None:
    watch = PingWatch(Limits())
    for _ in range(10):
        assert watch.tolerates(100, has_calls=True)
        watch.answered()
    lenient = PingWatch(Limits(ping_strikes=0))
    assert all(lenient.tolerates(100, has_calls=False) for _ in range(10))
