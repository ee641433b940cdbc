from __future__ import annotations

import gzip
import hashlib
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from falcon import testing

from app.config.auth_tokens import Group, Token
from app.lifecycle.states import StateBoard
from app.options import Options
from app.rest.application import make_application
from app.rest.body import unzip
from app.rest.pages import Content, Page
from app.rest.service import Reply, RestService
from app.security.guard import Guard
from app.telemetry.serving_metrics import ServingMetrics


class Service(RestService):
    """Answers with what it was asked; stands where a loaded model would."""

    def __init__(self) -> None:
        self.metrics = ServingMetrics.make()
        super().__init__(None, StateBoard(), Options(), self.metrics)  # type: ignore[arg-type]
        self.asked: list[tuple[str, str, bytes]] = []
        self.hold: threading.Event | None = None
        self.answered = threading.Event()
        self.asking: Callable[[], None] = lambda: None
        self.seen: list[int] = []

    def answer(self, method: str, target: str, body: bytes, deadline: float | None = None) -> Reply:
        self.asked.append((method, target, body))
        self.asking()
        if self.hold is not None:
            self.hold.wait(30)
        assert deadline is None or deadline > time.monotonic() - 60
        self.answered.set()
        return Reply(200, b"{}")


def client(service: Service, pages: Mapping[str, Page] | None = None, **options: Any) -> testing.TestClient:
    return testing.TestClient(make_application(service, Options(**options), pages))


def reference_page(path: str, body: bytes = b"") -> Mapping[str, Page]:
    """A page that behaves like TensorFlow Serving's."""
    return {path: Page(lambda accept: Content(body), slow=True, methods=(), takes_query=False)}  # noqa: ARG005


def test_method_target_and_body_reach_the_service_as_they_came() -> None:
    service = Service()
    answer = client(service).simulate_post("/v1/models/a%2Fb:predict", query_string="x=1&y", body=b"body")
    assert (answer.status_code, answer.content) == (200, b"{}")
    assert answer.headers["content-type"] == "application/json"
    assert service.asked == [("POST", "/v1/models/a%2Fb:predict?x=1&y", b"body")]


def test_prefix_in_any_letter_case() -> None:
    service = Service()
    assert client(service).simulate_get("/V1/MODELS/m").status_code == 200


@pytest.mark.parametrize("path", ["/", "/v1", "/v2/models/m", "/models/m:predict"])
def test_other_paths_get_the_page(path: str) -> None:
    answer = client(Service()).simulate_get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (404, "text/html")
    assert answer.headers["connection"] == "close"
    assert answer.text.startswith("<HTML><HEAD>\n<TITLE>404 Not Found</TITLE>")


@pytest.mark.parametrize(
    ("origin", "status"), [("https://a.example", 200), ("http://a", 200), ("HTTP://a", 400), (None, 400)]
)
def test_options_answers_by_origin_without_a_body(origin: str | None, status: int) -> None:
    headers = {} if origin is None else {"Origin": origin}
    service = Service()
    answer = client(service).simulate_options("/v1/anything", headers=headers)
    assert (answer.status_code, answer.content) == (status, b"")
    name = {200: "OK", 400: "INVALID_ARGUMENT"}[status]
    assert service.metrics.request_count.cells() == [(("", name), 1)]
    latencies = [labels for labels, _ in service.metrics.request_micros.cells()]
    assert latencies == ([("", "", "REST")] if status == 200 else [])
    assert "access-control-allow-origin" not in answer.headers


def test_cors_headers_are_on_every_v1_answer_when_asked_for() -> None:
    cors = client(Service(), rest_api_enable_cors_support=True)
    for answer in (cors.simulate_get("/v1/models/m"), cors.simulate_options("/v1/models/m")):
        assert answer.headers["access-control-allow-origin"] == "*"
        assert answer.headers["access-control-allow-methods"] == "POST, GET"
        assert answer.headers["access-control-allow-headers"] == "Content-Type"
    assert "access-control-allow-origin" not in cors.simulate_get("/").headers


def test_a_gzip_body_is_unzipped() -> None:
    service = Service()
    client(service).simulate_post(
        "/v1/models/m:predict", body=gzip.compress(b"text"), headers={"Content-Encoding": "x, gzip"}
    )
    assert service.asked[0][2] == b"text"


@pytest.mark.parametrize("body", [b"", b"not gzip", gzip.compress(b"text", mtime=0)[:-6]])
def test_a_bad_gzip_body_is_an_empty_one(body: bytes) -> None:
    assert unzip(body) == b""


def test_a_gzip_bomb_is_not_unzipped() -> None:
    assert unzip(gzip.compress(bytes(101 * 1024 * 1024), compresslevel=9)) == b""


def test_the_timeout_answers_while_the_work_goes_on() -> None:
    service = Service()
    service.hold = threading.Event()
    try:
        answer = client(service, rest_api_timeout_in_ms=50).simulate_get("/v1/models/m")
    finally:
        service.hold.set()
    assert service.answered.wait(30)
    assert service.metrics.request_count.cells() == [(("m", "DEADLINE_EXCEEDED"), 1)]
    assert answer.status_code == 504
    assert answer.json == {"error": "Timed out waiting for notification"}


def test_a_timeout_of_zero_is_none() -> None:
    assert client(Service(), rest_api_timeout_in_ms=0).simulate_get("/v1/models/m").status_code == 200


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("path", ["/metrics", "/v1/models/m"])
def test_the_metrics_page_is_served_to_any_method_and_wins(method: str, path: str) -> None:
    service = Service()
    pages = reference_page(path, b"# TYPE m counter\n")
    answer = client(service, pages, rest_api_enable_cors_support=True).simulate_request(method, path)
    assert (answer.status_code, answer.content) == (200, b"# TYPE m counter\n")
    assert answer.headers["content-type"] == "text/plain"
    assert "access-control-allow-origin" not in answer.headers
    assert service.asked == []
    assert service.metrics.request_count.cells() == []


def test_the_metrics_page_takes_no_query_and_has_no_other_paths() -> None:
    asked = client(Service(), reference_page("/metrics"))
    answer = asked.simulate_get("/metrics", query_string="name[]=x")
    assert (answer.status_code, answer.headers["content-type"]) == (400, "text/plain")
    assert answer.text == "Unexpected path: /metrics?name[]=x. Should be /metrics"
    for path in ("/metrics/", "/metric", "/Metrics", "/"):
        assert asked.simulate_get(path).status_code == 404


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_page_of_ours_is_told_the_accept_header_and_ignores_a_query(method: str) -> None:
    service = Service()
    pages = {"/p": Page(lambda accept: Content(accept.encode(), "text/x", 503))}
    answer = client(service, pages).simulate_request(
        method, "/p", query_string="x=1", headers={"Accept": "text/y"}
    )
    assert (answer.status_code, answer.headers["content-type"]) == (503, "text/x")
    assert answer.text == ("text/y" if method == "GET" else "")
    assert service.metrics.request_count.cells() == []


def test_a_page_of_ours_refuses_other_methods() -> None:
    answer = client(Service(), {"/p": Page(lambda accept: Content(b""))}).simulate_post("/p")  # noqa: ARG005
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")
    assert answer.text == "/p answers GET and HEAD."


@pytest.mark.parametrize("path", ["/p", "/v1/models/m", "/nowhere"])
def test_during_a_drain_each_answer_ends_its_connection(path: str) -> None:
    pages = {"/p": Page(lambda accept: Content(b""))}  # noqa: ARG005
    draining = False
    asked = testing.TestClient(make_application(Service(), Options(), pages, lambda: draining))
    if path != "/nowhere":  # whose answer always does
        assert "connection" not in asked.simulate_get(path).headers
    draining = True
    assert asked.simulate_get(path).headers["connection"] == "close"


@pytest.mark.parametrize(
    ("method", "path", "api"),
    [("POST", "/v1/models/m:predict", "predict"), ("GET", "/v1/models/m", ""), ("GET", "/v1/x:nope", "")],
)
def test_requests_under_way_and_their_bytes_are_counted(method: str, path: str, api: str) -> None:
    service = Service()
    traffic = service.metrics.ferry.traffic(api, "REST")
    service.asking = lambda: service.seen.append(traffic.in_flight())
    client(service).simulate_request(method, path, body=b"12345")
    requests, responses = traffic.sizes()
    assert (service.seen, traffic.in_flight()) == ([1], 0)
    assert (sum(requests.counts), requests.sum, responses.sum) == (1, 5, 2)


def test_replies_are_counted() -> None:
    service = Service()
    asked = client(service)
    asked.simulate_get("/v1/models/m")
    asked.simulate_post("/elsewhere")
    assert service.metrics.request_count.cells() == [(("", "OK"), 1)]


def guarded(service: Service, **options: Any) -> testing.TestClient:
    """A client of a server where `p` may predict and `s` ask for the status."""
    groups = {"p": Group.PREDICT, "s": Group.STATUS}
    tokens = [
        Token("", hashlib.sha256(value.encode()).digest(), frozenset({group}))
        for value, group in groups.items()
    ]
    pages = {
        "/metrics": Page(lambda accept: Content(b"m")),  # noqa: ARG005
        "/livez": Page(lambda accept: Content(b"ok"), open=True),  # noqa: ARG005
    }
    options = {"auth_tokens_file": "x", **options}
    guard = Guard(lambda: tokens)
    return testing.TestClient(make_application(service, Options(**options), pages, guard=guard))


@pytest.mark.parametrize(
    ("method", "path", "statuses"),  # without a token, with p, with s
    [
        ("POST", "/v1/models/m:predict", (401, 200, 403)),
        ("GET", "/v1/models/m", (401, 403, 200)),
        ("GET", "/v1/models/m/metadata", (401, 403, 200)),
        ("GET", "/metrics", (401, 403, 200)),
        ("GET", "/livez", (200, 200, 200)),
        ("GET", "/", (404, 404, 404)),
    ],
)
def test_tokens_are_good_for_their_group(method: str, path: str, statuses: tuple[int, ...]) -> None:
    service = Service()
    asked = guarded(service)
    all_headers: list[dict[str, str]] = [{}, {"Authorization": "Bearer p"}, {"X-API-Key": "s"}]
    answers = [asked.simulate_request(method, path, headers=headers, body="{}") for headers in all_headers]
    assert tuple(answer.status_code for answer in answers) == statuses
    for answer in answers:
        assert (answer.headers.get("www-authenticate") == "Bearer") == (answer.status_code == 401)
        if answer.status_code in (401, 403):
            assert answer.json["error"].startswith(("A token is needed", "The token is not good for"))
    assert len(service.asked) == (statuses.count(200) if path.startswith("/v1") else 0)


def test_a_refusal_is_counted_and_has_cors_headers() -> None:
    service = Service()
    answer = guarded(service, rest_api_enable_cors_support=True).simulate_get("/v1/models/m")
    assert answer.headers["access-control-allow-headers"] == "Content-Type, Authorization, X-API-Key"
    assert service.metrics.request_count.cells() == [(("", "UNAUTHENTICATED"), 1)]


def test_a_preflight_needs_no_token() -> None:
    answer = guarded(Service()).simulate_options("/v1/models/m", headers={"Origin": "https://a"})
    assert answer.status_code == 200


def test_only_listed_origins_get_cors_headers() -> None:
    cors = client(
        Service(), rest_api_enable_cors_support=True, cors_allowed_origins="https://a.example,http://b:81"
    )
    for origin in ("https://a.example", "http://b:81"):
        for method in ("GET", "OPTIONS"):
            headers = cors.simulate_request(method, "/v1/models/m", headers={"Origin": origin}).headers
            assert (headers["access-control-allow-origin"], headers["vary"]) == (origin, "Origin")
    headers = cors.simulate_get("/v1/models/m", headers={"Origin": "https://c.example"}).headers
    assert "access-control-allow-origin" not in headers
    assert headers["vary"] == "Origin"
