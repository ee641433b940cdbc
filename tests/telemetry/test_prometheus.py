from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from app.telemetry.metrics import Registry, exponential
from app.telemetry.prometheus import page


def text(registry: Registry) -> str:
    return page(registry).decode()


def test_scalars_with_and_without_labels() -> None:
    registry = Registry()
    registry.counter("/serving/count", "model_name", "status").increment("m", "OK", by=3)
    registry.counter("/core/runs").increment(by=1_234_567)
    registry.gauge("/core/created").set(to=True)
    assert text(registry) == (
        "# TYPE :core:created gauge\n"
        ":core:created{} 0\n"
        "# TYPE :core:runs counter\n"
        ":core:runs{} 1234567\n"
        "# TYPE :serving:count counter\n"
        ':serving:count{model_name="m",status="OK"} 3\n'
    )


def test_histograms_are_cumulative() -> None:
    registry = Registry()
    plain = registry.histogram("/plain", (1, 2.5))
    labelled = registry.histogram("/with", (1_274_823.0,), "a")
    plain.observe(1)
    plain.observe(9_999_999)
    labelled.observe(0.5, "x")
    assert text(registry) == (
        "# TYPE :plain histogram\n"
        ':plain_bucket{le="1"} 0\n'
        ':plain_bucket{le="2.5"} 1\n'
        ':plain_bucket{le="+Inf"} 2\n'
        ":plain_sum{} 1e+07\n"
        ":plain_count{} 2\n"
        "# TYPE :with histogram\n"
        ':with_bucket{a="x",le="1.27482e+06"} 1\n'
        ':with_bucket{a="x",le="+Inf"} 1\n'
        ':with_sum{a="x"} 0.5\n'
        ':with_count{a="x"} 1\n'
    )


def test_the_order_is_that_of_internal_names_not_of_printed_ones() -> None:
    registry = Registry()
    for name in ("/a_b", "/a/b", "/a.b"):
        registry.counter(name)
    assert text(registry) == "# TYPE :a:b counter\n" * 2 + "# TYPE :a_b counter\n"


def test_without_cells_there_is_the_type_alone_and_for_a_lazy_metric_nothing() -> None:
    registry = Registry()
    registry.counter("/c", "l")
    lazy = registry.histogram("/h", (1,), lazy=True)
    assert text(registry) == "# TYPE :c counter\n"
    lazy.observe(0)
    assert "# TYPE :h histogram\n" in text(registry)


def test_names_are_made_fit() -> None:
    registry = Registry()
    registry.counter("1/a-b_c", "2l.m").increment("v")
    assert text(registry) == '# TYPE _1:a:b_c counter\n_1:a:b_c{_2l_m="v"} 1\n'


def test_a_line_feed_stays_and_bytes_of_a_file_name_come_back() -> None:
    registry = Registry()
    registry.counter("/c", "l").increment("a\nb\udcff")
    assert page(registry) == b'# TYPE :c counter\n:c{l="a\nb\xff"} 1\n'


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_label_value_can_be_read_back(value: str) -> None:
    registry = Registry()
    registry.counter("/c", "l").increment(value)
    match = re.fullmatch(r'# TYPE :c counter\n:c\{l="((?:[^"\\]|\\["\\])*)"\} 1\n', text(registry))
    assert match is not None
    assert re.sub(r'\\(["\\])', r"\1", match[1]) == value


@given(st.lists(st.floats(0, 1e9), min_size=1), st.integers(1, 40))
def test_buckets_never_fall_and_end_with_the_count(values: list[float], buckets: int) -> None:
    registry = Registry()
    histogram = registry.histogram("/h", exponential(10, 1.8, buckets))
    for value in values:
        histogram.observe(value)
    counts = [int(count) for count in re.findall(r"^:h_bucket.* (\d+)$", text(registry), re.MULTILINE)]
    assert counts == sorted(counts)
    assert len(counts) == buckets + 1
    assert counts[-1] == len(values)
    assert f":h_count{{}} {len(values)}\n" in text(registry)
