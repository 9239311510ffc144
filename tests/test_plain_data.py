"""Requests, events and settings: plain data that checks itself and survives JSON."""

import dataclasses
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
        ({"type": 10**5000}, "type must be one of"),
        ({"type": ["StepEvent"]}, "type must be one of"),
        ({"index": "3"}, r"StepEvent\.index must be a whole number but is '3'"),
        ({"index": True}, r"StepEvent\.index must be a whole number but is True"),
        ({"index": 1.0}, r"StepEvent\.index must be a whole number but is 1\.0"),
        ({"index": None}, r"StepEvent\.index must be a whole number but is None"),
        ({"text": 5}, r"StepEvent\.text must be text but is 5"),
        ({"text": "a\ud800"}, r"StepEvent\.text must be Unicode text but has a lone surrogate at character 1"),
        ({"duration_s": "1"}, r"StepEvent\.duration_s must be a number but is '1'"),
        ({"duration_s": True}, r"StepEvent\.duration_s must be a number but is True"),
        ({"duration_s": float("nan")}, r"StepEvent\.duration_s must be a finite number but is nan"),
        ({"duration_s": float("-inf")}, r"StepEvent\.duration_s must be a finite number but is -inf"),
        ({"duration_s": 10**400}, r"StepEvent\.duration_s must be a finite number but is a number of about 400 digits"),
        ({"input_shape": "11"}, r"StepEvent\.input_shape must be a list but is '11'"),
        ({"input_shape": [1, "1"]}, r"StepEvent\.input_shape\[1\] must be a whole number but is '1'"),
        ({"kv": [{"layer": 0}]}, r"StepEvent\.kv\[0\] lacks"),
        ({"kv": [5]}, r"StepEvent\.kv\[0\] must be an object but is 5"),
        ({"kv": {}}, r"StepEvent\.kv must be a list but is a dict"),
        ({"surprise": 1}, "unknown 'surprise'"),
        ({"\udcff" * 1000: 1}, "unknown "),
        ({f"surprise {number}": 1 for number in range(1000)}, "unknown 'surprise 0', 'surprise 1'"),
    ],
)
def test_a_damaged_event_is_refused_with_the_place(change, message):
    with pytest.raises(InvalidRequestError, match=message) as caught:
        event_from_dict(to_dict(STEP) | change)
    assert len(str(caught.value).encode()) < 500


def test_to_dict_gives_what_the_standard_library_gives():
    assert to_dict(STEP) == {"type": "StepEvent"} | dataclasses.asdict(STEP)


def test_names_and_values_of_an_object_are_checked():
    facts = {"versions": {}, "backend": "cpu", "device_kind": "cpu", "num_devices": 1, "num_cores": 1}
    facts["mesh"] = {"axis": "model", "size": 1, "devices": ["cpu:0"]}
    for versions, message in (
        ({"jax": 1}, r"EnvironmentFacts\.versions\['jax'\] must be text but is 1"),
        ({"\ud800": "1"}, r"EnvironmentFacts\.versions must be Unicode text"),
        ({5: "1"}, r"EnvironmentFacts\.versions must be text but is 5"),
        ([], r"EnvironmentFacts\.versions must be an object but is a list"),
    ):
        with pytest.raises(InvalidRequestError, match=message):
            from_dict(events.EnvironmentFacts, facts | {"versions": versions})


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
        ({"prompt": 5}, "prompt", "must be text but is 5"),
        ({"prompt": None}, "prompt", "must be text but is None"),
        ({"model": " "}, "model", "must be named"),
        ({"model": ["m"]}, "model", "must be text but is a list"),
        ({"model": "m\udcff"}, "model", "lone surrogate at character 1"),
        ({"mode": "warp"}, "mode", "eager, jit but is 'warp'"),
        ({"mode": ["jit"]}, "mode", "eager, jit but is a list"),
        ({"mode": "x" * 10**6}, "mode", "eager, jit but is 'xxx"),
        ({"cache": "huge"}, "cache", "none, dynamic, static but is 'huge'"),
        ({"cache": 10**5000}, "cache", "none, dynamic, static but is a number of about 5000 digits"),
        ({"mode": "jit", "cache": "none"}, "cache", "jit needs a cache"),
        ({"max_new_tokens": 0}, "max_new_tokens", "at least 1 but is 0"),
        ({"max_new_tokens": "5"}, "max_new_tokens", "whole number but is '5'"),
        ({"max_new_tokens": True}, "max_new_tokens", "whole number but is True"),
        ({"max_new_tokens": 2**31}, "max_new_tokens", "at most 2147483647 but is 2147483648"),
        ({"max_new_tokens": -(10**5000)}, "max_new_tokens", "at least 1 but is a number of about 5000 digits"),
        ({"max_new_tokens": "5" * 10**6}, "max_new_tokens", "whole number but is '555"),
        ({"temperature": 10**400}, "temperature", "finite number but is a number of about 400 digits"),
        ({"temperature": "hot"}, "temperature", "finite number but is 'hot'"),
        ({"temperature": -0.1}, "temperature", "but is -0.1"),
        ({"temperature": float("nan")}, "temperature", "finite number but is nan"),
        ({"temperature": float("inf")}, "temperature", "finite number but is inf"),
        ({"top_p": 0}, "top_p", "above 0 and at most 1 but is 0"),
        ({"top_p": 1.01}, "top_p", "but is 1.01"),
        ({"top_k": -1}, "top_k", "from 0 to"),
        ({"seed": 2**32}, "seed", "but is 4294967296"),
        ({"seed": 10**5000}, "seed", "from 0 to 4294967295 but is a number of about 5000 digits"),
        ({"seed": -1}, "seed", "from 0 to 4294967295 but is -1"),
        ({"chat": "yes"}, "chat", "true or false but is 'yes'"),
        ({"chat": 1}, "chat", "true or false but is 1"),
        ({"chat": None}, "chat", "true or false but is None"),
        ({"ignore_eos": "false"}, "ignore_eos", "true or false but is 'false'"),
        ({"dtype": ["float32"]}, "dtype", "float32, bfloat16, float16 but is a list"),
        ({"dtype": "int4"}, "dtype", "float32, bfloat16, float16 but is 'int4'"),
        ({"tensor_parallel": 0}, "tensor_parallel", "at least 1 but is 0"),
        ({"tensor_parallel": 2**31}, "tensor_parallel", "at most 2147483647"),
        ({"max_cache_len": 0}, "max_cache_len", "at least 1 but is 0"),
        ({"max_cache_len": 2**31}, "max_cache_len", "at most 2147483647"),
    ],
    ids=lambda value: repr(value)[:40] if not isinstance(value, dict) else "-".join(value),
)
def test_a_bad_field_is_named_with_its_rule_and_value(fields, field, message):
    with pytest.raises(InvalidRequestError, match=message) as caught:
        GenerationRequest(**({"prompt": "hi"} | fields))
    assert caught.value.field == field
    assert "\n" not in str(caught.value)
    assert len(str(caught.value).encode()) < 400


def test_largest_and_smallest_values_are_allowed():
    GenerationRequest("x", max_new_tokens=2**31 - 1, top_k=2**31 - 1, seed=2**32 - 1, tensor_parallel=1, max_cache_len=1)
    GenerationRequest("x", max_new_tokens=1, top_k=0, seed=0, temperature=0, top_p=1, chat=True, ignore_eos=True)


def test_jit_without_a_cache_says_what_to_use_on_a_page_and_on_a_command_line():
    with pytest.raises(InvalidRequestError, match="Use the fixed cache") as caught:
        GenerationRequest("x", mode="jit", cache="none")
    assert "(--cache static)" in str(caught.value)


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
