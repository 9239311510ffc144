"""The health check: 200 where the engine answers, 503 where it does not, and nothing in it that is not for everyone."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from hfjax_demo.events import EngineStatus
from hfjax_demo.inference.engine import InferenceEngine
from hfjax_demo.requests import GenerationRequest
from hfjax_demo.settings import Settings
from hfjax_demo.ui.health import GRACE_S, health
from tests.ui.live_page import IGNORED_WARNINGS, LivePage

pytestmark = [
    pytest.mark.xdist_group("smollm2"),
    *(pytest.mark.filterwarnings(warning) for warning in IGNORED_WARNINGS),
]

IDLE = EngineStatus(
    is_alive=True,
    environment=None,
    model=None,
    num_running=0,
    num_waiting=0,
    busy_s=0.0,
    rss_bytes=1,
    peak_rss_bytes=2,
)
TIME_LIMIT_S = 5.0


def engine_with(**changes):
    """Stands in for an engine in a state that a real one reaches only after minutes."""
    status = dataclasses.replace(IDLE, **changes)
    return SimpleNamespace(status=lambda: status, settings=Settings(time_limit_s=TIME_LIMIT_S))


def strings_in(value):
    if isinstance(value, dict):
        return strings_in([*value, *value.values()])
    if isinstance(value, list | tuple):
        return [text for item in value for text in strings_in(item)]
    return [value] if isinstance(value, str) else []


def test_an_engine_that_answers_is_200(engine):
    with LivePage(engine) as page:
        answer = page.http.get("/healthz")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert (answer.json()["status"], answer.json()["is_alive"]) == ("ok", True)


def test_a_closed_engine_is_503(settings):
    with InferenceEngine(settings) as engine, LivePage(engine) as page:
        assert page.http.get("/healthz").status_code == 200
        engine.close()
        answer = page.http.get("/healthz")
    assert answer.status_code == 503
    assert (answer.json()["status"], answer.json()["reason"]) == ("unavailable", "the engine has stopped")


def test_a_step_that_takes_longer_than_a_whole_request_may_is_503():
    status, body = health(engine_with(busy_s=TIME_LIMIT_S + GRACE_S + 1))
    assert status == 503
    assert body["reason"] == "one step has taken 66 s; a whole request may take 5 s"


def test_a_long_step_within_the_limit_is_200():
    assert health(engine_with(busy_s=TIME_LIMIT_S + GRACE_S - 1))[0] == 200


def test_an_engine_that_is_still_starting_is_200():
    assert health(engine_with())[0] == 200


def test_the_answer_is_json_and_has_no_path_nor_secret(engine, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_not_for_everyone")
    engine.generate(GenerationRequest("hi", max_new_tokens=1))
    _, body = health(engine)
    texts = strings_in(body)
    assert body["model"]["name"] in texts
    assert "not_for_everyone" not in json.dumps(body)
    assert not [text for text in texts if "/" in text or "\\" in text or str(Path.home()) in text]
