from __future__ import annotations

import orjson

from app.config.model_config import ModelConfig
from app.errors import Code, ServingError
from app.lifecycle.readiness import Readiness
from app.lifecycle.states import State, StateBoard, VersionStatus
from app.rest.pages import Content, probes


def test_live_is_live() -> None:
    pages = probes(Readiness(dict, StateBoard()))
    assert pages["/livez"].render("") == Content(b"ok", "text/plain", 200)


def test_readyz_says_what_is_missing_and_why() -> None:
    board = StateBoard()
    models = {name: ModelConfig(name, f"/models/{name}") for name in ("absent", "failed", "loading")}
    readiness = Readiness(lambda: models, board)
    page = probes(readiness)["/readyz"]
    board.publish("failed", VersionStatus(7, State.END, ServingError(Code.NOT_FOUND, "no file")))
    board.publish("loading", VersionStatus(2**60, State.LOADING))
    body, content_type, status = page.render("")
    assert (content_type, status) == ("application/json", 503)
    assert orjson.loads(body) == {
        "ready": False,
        "draining": False,
        "missing": [
            {
                "model": "absent",
                "version": None,
                "state": None,
                "error": "no version was found in /models/absent",
            },
            {"model": "failed", "version": "7", "state": "END", "error": "NOT_FOUND: no file"},
            {"model": "loading", "version": str(2**60), "state": "LOADING", "error": ""},
        ],
    }
    for name in models:
        board.publish(name, VersionStatus(8, State.AVAILABLE))
    assert page.render("") == Content(b'{"ready":true}', "application/json", 200)
    readiness.begin_drain()
    body, _, status = page.render("")
    assert status == 503
    assert orjson.loads(body) == {"ready": False, "draining": True, "missing": []}
