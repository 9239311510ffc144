"""The JSON API of the served page, through gradio_client and through plain HTTP as curl speaks it."""

import asyncio
import json
from dataclasses import fields
from types import SimpleNamespace
from typing import get_args

import gradio as gr
import pytest

from hfjax_demo.cli import main
from hfjax_demo.comparison import Comparison
from hfjax_demo.errors import InvalidRequestError
from hfjax_demo.events import FailedEvent, FinishedEvent, QueuedEvent, RunRecord, StartedEvent, StepEvent
from hfjax_demo.known_configs import find_known_config
from hfjax_demo.kv_shapes import DTYPE_BYTES
from hfjax_demo.plain_json import event_from_dict, from_dict, to_dict
from hfjax_demo.requests import CacheKind, ExecutionMode, GenerationRequest
from hfjax_demo.settings import Settings
from hfjax_demo.ui import api
from tests.ui.live_page import IGNORED_WARNINGS, LivePage

pytestmark = [
    pytest.mark.xdist_group("smollm2"),
    *(pytest.mark.filterwarnings(warning) for warning in IGNORED_WARNINGS),
]

NAMES = {"generate", "compare", "kv_cache_shapes", "models", "device_info"}
PROMPT = "The secret to baking a good cake is"
LONG = {"prompt": PROMPT, "max_new_tokens": 200, "ignore_eos": True}
PATH_REFUSED = "A path may be used on the command line only"


@pytest.fixture(scope="module")
def page(engine):
    with LivePage(engine) as page:
        yield page


@pytest.fixture
def streams(page, monkeypatch):
    """The streams of the requests that reach the engine from here on; holding them, so that only `close` stops a run."""
    streams, submit = [], page.engine.submit

    def submit_and_keep(request):
        streams.append(submit(request))
        return streams[-1]

    monkeypatch.setattr(page.engine, "submit", submit_and_keep)
    return streams


def last_event(stream):
    """What a run that nobody reads any more ended in."""
    return list(stream)[-1]


def test_the_api_is_five_functions_and_no_handler_of_the_page(page):
    info = page.http.get("/gradio_api/info").json()
    assert set(info["named_endpoints"]) == {f"/{name}" for name in NAMES}
    assert not info["unnamed_endpoints"]


def test_every_function_and_none_of_its_parameters_is_without_a_type(page):
    for name, endpoint in page.http.get("/gradio_api/info").json()["named_endpoints"].items():
        assert endpoint["description"], name
        for parameter in endpoint["parameters"]:
            assert parameter["type"], (name, parameter["parameter_name"])
            assert parameter["parameter_has_default"] == (parameter["parameter_name"] != "prompt")


def test_the_api_offers_what_a_request_takes(page):
    assert [*get_args(api.Mode)] == [*ExecutionMode]
    assert [*get_args(api.Cache)] == [*CacheKind]
    assert [*get_args(api.Dtype)] == [*DTYPE_BYTES]
    parameters = page.http.get("/gradio_api/info").json()["named_endpoints"]["/generate"]["parameters"]
    defaults = {parameter["parameter_name"]: parameter["parameter_default"] for parameter in parameters}
    assert list(defaults) == [*(field.name for field in fields(GenerationRequest)), "include_steps"]
    assert all(defaults[field.name] == field.default for field in fields(GenerationRequest) if field.name != "prompt")


def test_generate_streams_the_events_of_the_run(page):
    *told, last = page.client.submit(PROMPT, max_new_tokens=4, api_name="/generate")
    events = [event_from_dict(event) for event in told]
    assert isinstance(events[0], QueuedEvent)
    assert any(isinstance(event, StartedEvent) for event in events)
    steps = [event for event in events if isinstance(event, StepEvent)]
    record = from_dict(RunRecord, last["record"])
    assert last["type"] == "FinishedEvent"
    assert record.token_ids == tuple(step.token_id for step in steps)
    assert record.text == "".join(step.text for step in steps)
    assert record.token_ids == page.engine.generate(GenerationRequest(PROMPT, max_new_tokens=4)).token_ids


def test_the_record_has_no_steps_unless_asked_for(page):
    assert page.call("generate", prompt=PROMPT, max_new_tokens=2)["record"]["steps"] == []
    *events, last = page.client.submit(PROMPT, max_new_tokens=2, include_steps=True, api_name="/generate")
    streamed = [event for event in events if event["type"] == "StepEvent"]
    assert len(streamed) == 2
    assert [{"type": "StepEvent", **step} for step in last["record"]["steps"]] == streamed


def test_every_argument_reaches_the_run(page):
    arguments = {
        "prompt": "How are you?",
        "model": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "mode": "jit",
        "cache": "static",
        "chat": True,
        "max_new_tokens": 2,
        "ignore_eos": True,
        "temperature": 0.5,
        "top_k": 5,
        "top_p": 0.9,
        "seed": 3,
        "dtype": "float32",
        "tensor_parallel": 1,
        "max_cache_len": 256,
    }
    assert page.call("generate", **arguments)["record"]["request"] == arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompt": " "}, "at least one character"),
        ({"prompt": {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}}, "prompt must be text"),
        ({"mode": "warp"}, "mode must be one of eager, jit"),
        ({"cache": "none"}, "jit needs a cache"),
        ({"max_new_tokens": 5000}, "at most 1024 new tokens"),
        ({"max_new_tokens": None}, "max_new_tokens must be a whole number"),
        ({"max_new_tokens": 8, "max_cache_len": 4}, "cache"),
        ({"prompt": "<img src=x> " * 9000}, "at most 32768 characters"),
        ({"model": "<b>/x/y</b>"}, "<b>/x/y</b>"),
    ],
)
def test_a_failure_says_the_engines_message(page, arguments, message):
    with pytest.raises(Exception, match=message) as caught:
        page.call("generate", **({"prompt": PROMPT} | arguments))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["generate", "compare", "kv_cache_shapes"])
def test_a_path_is_never_read(page, tiny_llama, name):
    arguments = {"model": tiny_llama} | ({} if name == "kv_cache_shapes" else {"prompt": PROMPT})
    with pytest.raises(Exception, match=PATH_REFUSED):
        page.call(name, **arguments)


def test_cancelling_a_job_stops_its_run(page, streams):
    job = page.client.submit(api_name="/generate", **LONG)
    next(event for event in job if event["type"] == "StepEvent")
    job.cancel()
    page.wait_until_idle()
    event = last_event(streams[0])
    assert isinstance(event, FinishedEvent)
    assert event.record.finish_reason == "stopped"


@pytest.mark.parametrize("path", ["call/generate", "call/v2/generate"])
def test_a_client_that_goes_away_stops_its_run(page, streams, path):
    arguments = {field.name: field.default for field in fields(GenerationRequest)} | LONG | {"include_steps": False}
    body = arguments if "v2" in path else {"data": list(arguments.values())}
    with page.streamed(path, body) as events:
        next(data for _, data in events if data[0]["type"] == "StepEvent")
    page.wait_until_idle()
    assert last_event(streams[0]).record.finish_reason == "stopped"


def test_plain_http_gets_every_event_and_then_the_last_one_as_complete(page):
    with page.streamed("call/v2/generate", {"prompt": PROMPT, "max_new_tokens": 3}) as events:
        *generating, (name, (last,)) = events
    assert {name for name, _ in generating} == {"generating"}
    assert [data[0]["type"] for _, data in generating].count("StepEvent") == 3
    assert name == "complete"
    assert len(from_dict(RunRecord, last["record"]).token_ids) == 3


def test_plain_http_is_told_what_was_wrong(page):
    with page.streamed("call/v2/generate", {"prompt": PROMPT, "top_p": 2}) as events:
        ((name, data),) = events
    assert (name, data["error"]) == ("error", "top_p must be above 0 and at most 1 but is 2. Use 1 to turn it off.")


def test_compare_tells_of_both_runs_and_then_compares_them(page):
    *told, answer = page.client.submit(PROMPT, max_new_tokens=3, api_name="/compare")
    tokens = {
        run: [part["event"]["token_id"] for part in told if part["run"] == run and part["event"]["type"] == "StepEvent"]
        for run in ("baseline", "candidate")
    }
    assert [part["run"] for part in told] == sorted(part["run"] for part in told)
    assert answer["schema"] == api.COMPARED_SCHEMA
    records = {run: from_dict(RunRecord, answer[run]) for run in tokens}
    assert {run: list(record.token_ids) for run, record in records.items()} == tokens
    assert [records[run].request.mode for run in ("baseline", "candidate")] == ["eager", "jit"]
    assert all(record.steps == () for record in records.values())
    comparison = from_dict(Comparison, answer["comparison"])
    assert (comparison.num_tokens, comparison.tokens_identical) == (3, True)
    assert comparison.baseline_s > 0
    assert comparison.verdict


def test_compare_gives_each_run_its_own_mode_and_cache(page, streams):
    settings = {"baseline_mode": "jit", "baseline_cache": "static", "mode": "jit", "cache": "dynamic", "seed": 5}
    page.call("compare", prompt=PROMPT, max_new_tokens=1, **settings)
    requests = [stream._job.request for stream in streams]
    assert [(request.mode, request.cache, request.seed) for request in requests] == [
        ("jit", "static", 5),
        ("jit", "dynamic", 5),
    ]


def test_compare_runs_nothing_where_one_of_both_is_invalid(page, streams):
    with pytest.raises(Exception, match="jit needs a cache"):
        page.call("compare", prompt=PROMPT, mode="jit", cache="none")
    assert streams == []


def test_compare_stops_the_first_run_where_there_is_no_place_for_the_second(page, streams, monkeypatch):
    keep = page.engine.submit

    def submit_one(request):
        if streams:
            raise InvalidRequestError("At most 0 requests may wait and 0 do. Try again in a minute.")
        return keep(request)

    monkeypatch.setattr(page.engine, "submit", submit_one)
    with pytest.raises(Exception, match="may wait"):
        page.call("compare", baseline_mode="jit", **LONG)
    event = last_event(streams[0])
    assert isinstance(event, FailedEvent) or event.record.finish_reason == "stopped"


def test_a_client_that_leaves_a_comparison_stops_both_runs(page, streams):
    with page.streamed("call/v2/compare", LONG | {"baseline_mode": "jit"}) as events:
        next(data for _, data in events if data[0]["event"]["type"] == "StepEvent")
    page.wait_until_idle()
    assert last_event(streams[0]).record.finish_reason == "stopped"
    assert last_event(streams[1]).error == "RequestStoppedError"


def test_kv_cache_shapes_is_the_inspection_without_the_table_of_weights(page):
    numbers = {"context_len": 300, "batch_size": 2, "dtype": "bfloat16", "tensor_parallel": 3}
    expected = json.loads(json.dumps(to_dict(page.engine.inspect("SmolLM2-135M-Instruct", **numbers))))
    assert len(expected["weights"].pop("tensors")) > 200
    assert page.call("kv_cache_shapes", **numbers) == expected
    assert page.call("kv_cache_shapes")["context_len"] == 8192


def test_kv_cache_shapes_plans_for_a_config_that_is_given(page):
    known = find_known_config("DeepSeek-V3")
    answer = page.call("kv_cache_shapes", config=(known.folder / "config.json").read_text(), dtype="bfloat16")
    assert (answer["source"], answer["kv_cache"]["bytes_per_token"]) == ("the config given", 70_272)
    assert answer["weights"]["num_parameters"] == known.num_parameters


@pytest.mark.parametrize(
    ("config", "words"),
    [("{", "must be JSON"), ({"model_type": "llama"}, "must be sent as text"), ("x" * 10**7, "at most 256 kB")],
)
def test_kv_cache_shapes_says_what_is_wrong_with_a_given_config(page, config, words):
    with pytest.raises(Exception, match=words):
        page.call("kv_cache_shapes", config=config)


@pytest.mark.parametrize("value", ["3", True, 2.5, [2]])
@pytest.mark.parametrize("name", ["context_len", "batch_size", "tensor_parallel"])
def test_kv_cache_shapes_takes_whole_numbers_only(page, name, value):
    with pytest.raises(Exception, match=f"{name} must be a whole number"):
        page.call("kv_cache_shapes", **{name: value})


def test_a_whole_number_may_be_written_with_a_point(page):
    assert page.call("kv_cache_shapes", context_len=16.0)["context_len"] == 16
    assert page.call("generate", prompt=PROMPT, max_new_tokens=1.0)["record"]["request"]["max_new_tokens"] == 1


def test_models_is_what_the_command_line_says_and_what_is_allowed(page, capsys):
    assert main(["models", "--json"]) == 0
    expected = json.loads(capsys.readouterr().out)
    answer = page.call("models")
    assert all(model.pop("is_allowed") for model in answer["models"])
    assert answer.pop("allowed") == [model["name"] for model in expected["models"]]
    assert answer.pop("may_type_any_model") is True
    assert answer == expected


def test_device_info_is_the_engines_status_and_the_operators_limits(page):
    page.call("generate", prompt=PROMPT, max_new_tokens=1)
    answer, settings = page.call("device_info"), page.engine.settings
    status = json.loads(json.dumps(to_dict(page.engine.status())))
    assert {name: answer[name] for name in ("environment", "model", "is_alive")} == {
        name: status[name] for name in ("environment", "model", "is_alive")
    }
    assert answer.keys() == {"schema", "limits", *status}
    assert answer["limits"]["max_waiting"] == settings.max_waiting
    assert answer["limits"]["time_limit_s"] == settings.time_limit_s


def test_one_post_is_enough_for_what_is_not_queued(page):
    (answer,) = page.http.post("/gradio_api/run/device_info", json={"data": []}).raise_for_status().json()["data"]
    assert answer["schema"] == api.DEVICE_INFO_SCHEMA


CALLER = SimpleNamespace(headers={}, url=SimpleNamespace(path="/gradio_api/run/models"))
CATALOG_ONLY = Settings(models="catalog")


def test_a_model_that_may_not_be_run_may_not_be_inspected_either():
    engine = SimpleNamespace(settings=CATALOG_ONLY, inspect=lambda *_, **__: pytest.fail("was inspected"))
    with pytest.raises(gr.Error, match="The model must be one of"):
        asyncio.run(api.JsonApi(engine).kv_cache_shapes(CALLER, "owner/name"))


def test_a_bundled_or_given_config_may_be_inspected_whatever_may_be_run():
    def inspect(model, config, **_):
        raise InvalidRequestError(f"was asked for {model} {config}")

    engine = SimpleNamespace(settings=CATALOG_ONLY, inspect=inspect)
    with pytest.raises(gr.Error, match="was asked for DEEPSEEK-ai/deepseek-v3 None"):
        asyncio.run(api.JsonApi(engine).kv_cache_shapes(CALLER, "DEEPSEEK-ai/deepseek-v3"))
    with pytest.raises(gr.Error, match=r"was asked for owner/name \{\}"):
        asyncio.run(api.JsonApi(engine).kv_cache_shapes(CALLER, "owner/name", config="{}"))


def test_a_limit_on_new_tokens_does_not_forbid_to_inspect():
    def inspect(*_, **__):
        raise InvalidRequestError("was asked")

    engine = SimpleNamespace(settings=Settings(max_new_tokens=2, max_prompt_chars=1), inspect=inspect)
    with pytest.raises(gr.Error, match="was asked"):
        asyncio.run(api.JsonApi(engine).kv_cache_shapes(CALLER))


def test_models_marks_what_the_operator_does_not_allow(engine):
    settings = Settings(models="SmolLM2-135M-Instruct, owner/name")
    answer = asyncio.run(api.JsonApi(SimpleNamespace(settings=settings, models=engine.models)).models(CALLER))
    assert [model["name"] for model in answer["models"] if model["is_allowed"]] == ["SmolLM2-135M-Instruct"]
    assert answer["allowed"] == ("SmolLM2-135M-Instruct", "owner/name")
    assert answer["may_type_any_model"] is False


def test_the_unexpected_is_logged_and_not_told(caplog):
    def inspect(*_, **__):
        raise RuntimeError("of a folder at /srv/secret")

    engine = SimpleNamespace(settings=CATALOG_ONLY, inspect=inspect)
    with pytest.raises(gr.Error, match="Something went wrong inside the app") as caught:
        asyncio.run(api.JsonApi(engine).kv_cache_shapes(CALLER))
    assert "secret" not in str(caught.value)
    assert "of a folder at /srv/secret" in caplog.text
