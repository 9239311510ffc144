"""Requests, events and settings: plain data that checks itself and survives JSON."""

import json

import pytest

from hfjax_demo import events
from hfjax_demo.catalog import CATALOG, find_in_catalog
from hfjax_demo.errors import InvalidRequestError
from hfjax_demo.events import CompiledProgram, LayerState, StepEvent
from hfjax_demo.plain_json import event_from_dict, from_dict, to_dict
from hfjax_demo.requests import CacheKind, ExecutionMode, GenerationRequest
from hfjax_demo.settings import Settings

STEP = StepEvent(
    index=3,
    phase="decode",
    token_id=17,
    text=" é",
    input_shape=(1, 1),
    output_shape=(1, 1),
    position=10,
    seen_len=10,
    filled_len=11,
    duration_s=0.5,
    trace_s=0.1,
    compile_s=0.2,
    num_traces=1,
    num_compiles=1,
    compiled=(CompiledProgram("decode_step", 1, 0.1, 0.2, "the cache grew"),),
    kv=(
        LayerState(0, "full_attention", (1, 3, 11, 64), (1, 3, 11, 32), 11, 11, 12672),
        LayerState(1, "shared", (), (), 0, 0, 0),
    ),
)
OTHER_EVENTS = [
    events.QueuedEvent(2),
    events.LoadingEvent("reading weights", None, 1.5),
    events.LoadingEvent("moving", 0.25, 1.5),
    events.CompilingEvent("tracing", "prefill", "first"),
    events.FailedEvent("CapacityError", "Prompt and ...", "prompt"),
]


@pytest.mark.parametrize("event", [STEP, *OTHER_EVENTS], ids=lambda event: type(event).__name__)
def test_an_event_survives_json(event):
    assert event_from_dict(json.loads(json.dumps(to_dict(event)))) == event


def test_a_request_survives_json():
    request = GenerationRequest("hi", mode="eager", cache="static", temperature=1, max_cache_len=32)
    assert from_dict(GenerationRequest, json.loads(json.dumps(request.to_dict()))) == request


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"type": "Nonsense"}, "type must be one of"),
        ({"index": "3"}, r"StepEvent\.index must be int but is str"),
        ({"index": True}, r"StepEvent\.index must be int but is bool"),
        ({"kv": [{"layer": 0}]}, r"StepEvent\.kv\[0\] lacks"),
        ({"surprise": 1}, "unknown surprise"),
    ],
)
def test_a_damaged_event_is_refused_with_the_place(change, message):
    with pytest.raises(InvalidRequestError, match=message):
        event_from_dict(to_dict(STEP) | change)


def test_a_record_of_another_schema_is_refused():
    with pytest.raises(InvalidRequestError, match=r"must have schema 'hfjax_demo\.run\.v1' but has 'v0'"):
        from_dict(events.RunRecord, {"schema": "v0"})


@pytest.mark.parametrize(("mode", "cache"), [("eager", CacheKind.DYNAMIC), ("jit", CacheKind.STATIC)])
def test_each_mode_has_its_default_cache(mode, cache):
    assert GenerationRequest("hi", mode=mode).cache_kind is cache


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"prompt": ""}, "prompt", "at least one character"),
        ({"prompt": " \n\t "}, "prompt", "at least one character"),
        ({"prompt": "\udcff"}, "prompt", "lone surrogate at character 0"),
        ({"model": " "}, "model", "must be named"),
        ({"mode": "warp"}, "mode", "eager, jit but is 'warp'"),
        ({"cache": "huge"}, "cache", "none, dynamic, static but is 'huge'"),
        ({"mode": "jit", "cache": "none"}, "cache", "jit needs a cache"),
        ({"max_new_tokens": 0}, "max_new_tokens", "at least 1 but is 0"),
        ({"max_new_tokens": "5"}, "max_new_tokens", "whole number but is '5'"),
        ({"max_new_tokens": True}, "max_new_tokens", "whole number but is True"),
        ({"temperature": -0.1}, "temperature", "but is -0.1"),
        ({"temperature": float("nan")}, "temperature", "finite number but is nan"),
        ({"temperature": float("inf")}, "temperature", "finite number but is inf"),
        ({"top_p": 0}, "top_p", "above 0 and at most 1 but is 0"),
        ({"top_p": 1.01}, "top_p", "but is 1.01"),
        ({"top_k": -1}, "top_k", "from 0 to"),
        ({"seed": 2**32}, "seed", "but is 4294967296"),
        ({"dtype": "int4"}, "dtype", "float32, bfloat16, float16 but is 'int4'"),
        ({"tensor_parallel": 0}, "tensor_parallel", "at least 1 but is 0"),
        ({"max_cache_len": 0}, "max_cache_len", "at least 1 but is 0"),
    ],
)
def test_a_bad_field_is_named_with_its_rule_and_value(fields, field, message):
    with pytest.raises(InvalidRequestError, match=message) as caught:
        GenerationRequest(**({"prompt": "hi"} | fields))
    assert caught.value.field == field
    assert "\n" not in str(caught.value)


def test_modes_are_spelled_as_on_the_command_line():
    assert [*ExecutionMode] == ["eager", "jit"]
    assert [*CacheKind] == ["none", "dynamic", "static"]


def test_settings_come_from_the_environment_and_flags_win(tmp_path):
    environ = {"HFJAX_DEMO_DEVICES": "4", "HFJAX_DEMO_CACHE_DIR": str(tmp_path), "HFJAX_DEMO_MAX_WAITING": ""}
    settings = Settings.from_environment(environ, devices=None, max_cache_len=64)
    assert (settings.devices, settings.cache_dir, settings.max_cache_len) == (4, tmp_path, 64)
    assert settings.max_waiting == Settings().max_waiting
    assert Settings.from_environment(environ, devices=2).devices == 2


@pytest.mark.parametrize("text", ["two", "0", "-1", "1.5"])
def test_a_bad_setting_is_refused_by_its_variable(text):
    with pytest.raises(InvalidRequestError, match="HFJAX_DEMO_DEVICES"):
        Settings.from_environment({"HFJAX_DEMO_DEVICES": text})


def test_catalog_names_aliases_and_hub_ids_are_unique_and_found_in_any_case():
    spellings = [spelling for model in CATALOG for spelling in (model.name, model.hub_id, *model.aliases)]
    assert len({spelling.casefold() for spelling in spellings}) == len(spellings)
    for model in CATALOG:
        assert find_in_catalog(model.hub_id.upper()) is model
    assert find_in_catalog("no such model") is None
