"""A config.json that anybody may paste: planned for where it is one, refused with a sentence where it is not."""

import json
import subprocess
import sys
import time

import pytest

from hfjax_demo.config_text import MAX_CONFIG_BYTES, MAX_LAYERS, parse_config
from hfjax_demo.errors import InvalidRequestError
from hfjax_demo.inference import anatomy
from hfjax_demo.inference.inspection import inspect_config, inspect_model
from hfjax_demo.known_configs import KNOWN_CONFIGS
from hfjax_demo.settings import Settings

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 256,
    "max_position_embeddings": 512,
}


def without(*names):
    return {name: value for name, value in LLAMA.items() if name not in names}


def refusal(config, **numbers):
    with pytest.raises(InvalidRequestError) as caught:
        inspect_config(config if isinstance(config, str) else json.dumps(config), **numbers)
    message = str(caught.value)
    assert caught.value.field == "config", message
    assert len(message.splitlines()) == 1
    assert len(message) < 600
    assert message.endswith("."), "a message ends with its way out"
    return message


def test_a_given_config_is_planned_like_the_same_files(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    numbers = {"context_len": 100, "batch_size": 3, "dtype": "bfloat16", "tensor_parallel": 2}
    given = inspect_config(json.dumps(LLAMA), **numbers)
    of_files = inspect_model(str(tmp_path), Settings(), lambda *_: None, allow_local=True, **numbers)
    assert given.kv_cache == of_files.kv_cache
    assert given.weights == of_files.weights
    assert given.accelerators == of_files.accelerators
    assert (given.model, given.source, given.assumed) == ("llama config", "the config given", {})


@pytest.mark.parametrize("known", KNOWN_CONFIGS, ids=lambda known: known.name)
def test_no_public_config_is_out_of_bounds(known):
    assert parse_config((known.folder / "config.json").read_text())["model_type"]


def test_what_a_config_leaves_to_defaults_is_told():
    given = inspect_config(json.dumps(without("vocab_size", "num_key_value_heads")))
    assert given.assumed == {"vocab_size": 32000, "num_key_value_heads": 4}


def test_a_nested_text_config_is_the_one_that_counts():
    text = {**LLAMA, "model_type": "gemma3_text", "head_dim": 16, "sliding_window": 32}
    given = inspect_config(json.dumps({"model_type": "gemma3", "architectures": ["Gemma3ForCausalLM"], "text_config": text}))
    assert given.kv_cache.layers[0].key_shape == (1, 2, 512, 16)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("", ["must be JSON", "line 1, column 1"]),
        ("{nope", ["must be JSON", "column 2"]),
        ("[1]", ["JSON object", "a list"]),
        ("null", ["JSON object", "None"]),
        ('{"model_type": "llama", "hidden_size": NaN}', ["must be JSON", "NaN"]),
        ('{"model_type": "llama", "hidden_size": -Infinity}', ["must be JSON", "-Infinity"]),
        ('{"model_type": "llama", "hidden_size": 1' + "0" * 5000 + "}", ["must be JSON", "digits"]),
        ("[" * 100_000, ["nest at most"]),
        ('{"a":' * 100 + "1" + "}" * 100, ["nest at most", "deeper"]),
        ('{"a":[' * 50 + "1" + "]}" * 50, ["nest at most", "deeper"]),
        (" " * 10_000_000, ["at most 256 kB", "10.00 MB"]),
        ({}, ["model_type", "has none"]),
        (without("model_type"), ["model_type", "has none"]),
        (LLAMA | {"model_type": 7}, ["model_type", "has 7"]),
        (LLAMA | {"model_type": "no_such"}, ["knows without running", "'no_such'"]),
        (LLAMA | {"model_type": "no_such", "auto_map": {"AutoModelForCausalLM": "evil.Model"}}, ["'no_such'"]),
        (LLAMA | {"model_type": "bert", "architectures": ["BertForMaskedLM"]}, ["causal language model", "bert"]),
        (LLAMA | {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]}, ["causal language model", "t5"]),
        (
            LLAMA | {"architectures": ["LlamaForSequenceClassification"]},
            ["causal language model", "ForSequenceClassification"],
        ),
        (LLAMA | {"model_type": "mamba", "state_size": 8}, ["keys and values only"]),
        (without("hidden_size"), ["its own hidden_size", "has none"]),
        (without("num_hidden_layers"), ["its own num_hidden_layers", "has none"]),
        ({"model_type": "gpt2"}, ["its own n_embd", "has none"]),
        (LLAMA | {"hidden_size": -64}, ["hidden_size must be from 1", "is -64"]),
        (LLAMA | {"hidden_size": 0}, ["hidden_size must be from 1", "is 0"]),
        (LLAMA | {"num_key_value_heads": 0}, ["num_key_value_heads must be from 1", "is 0"]),
        (LLAMA | {"hidden_size": 10**15}, ["hidden_size must be from 1 to 1,048,576"]),
        (LLAMA | {"hidden_size": "64"}, ["hidden_size must be a whole number", "'64'"]),
        (LLAMA | {"hidden_size": 64.5}, ["hidden_size must be a whole number", "64.5"]),
        (LLAMA | {"hidden_size": True}, ["hidden_size must be a whole number", "True"]),
        (LLAMA | {"num_hidden_layers": 1_000_000}, ["num_hidden_layers must be from 1 to 512", "1000000"]),
        (LLAMA | {"num_attention_heads": 10**6}, ["num_attention_heads must be from 1 to 4,096"]),
        (LLAMA | {"vocab_size": 10**9}, ["vocab_size must be from 1 to 16,777,216"]),
        (LLAMA | {"max_position_embeddings": 10**10}, ["max_position_embeddings must be from 1 to 100,000,000"]),
        (LLAMA | {"model_type": "mixtral", "num_local_experts": 10**6}, ["num_local_experts must be from -1 to 4,096"]),
        (LLAMA | {"text_config": {"num_hidden_layers": 10**6}}, ["text_config.num_hidden_layers must be from 1 to 512"]),
        (LLAMA | {"some_number": 10**13}, ["some_number must be from"]),
        (LLAMA | {"num_attention_heads": 4, "num_key_value_heads": 3}, ["fit together", "llama"]),
        (LLAMA | {"hidden_act": "no_such"}, ["no_such"]),
        (LLAMA | {"rope_scaling": {"rope_type": "no_such", "factor": 2.0}}, ["llama"]),
        (LLAMA | {"rope_scaling": [1, 2]}, ["llama"]),
        (LLAMA | {"layer_types": ["full_attention"]}, ["llama"]),
        (LLAMA | {"dtype": "int3"}, ["llama"]),
        (LLAMA | {"pad_token_id": 10**9}, ["llama"]),
        (LLAMA | {"per_layer_config": {"0": {"max_position_embeddings": 7}}}, ["llama"]),
        (LLAMA | {"head_dim": 1_000_000, "num_attention_heads": 4096, "hidden_size": 7}, ["llama"]),
    ],
    ids=lambda value: "" if isinstance(value, list) else json.dumps(value)[:60],
)
def test_a_config_that_cannot_be_planned_for_is_refused(config, words):
    message = refusal(config)
    for word in words:
        assert word in message, message


def test_the_numbers_asked_for_are_refused_under_their_own_names():
    with pytest.raises(InvalidRequestError) as caught:
        inspect_config(json.dumps(LLAMA), batch_size=0)
    assert caught.value.field == "batch_size"


def test_no_random_damage_to_a_config_escapes_as_another_kind_of_error():
    """Each value of a real config replaced by each of these: planned for, or refused with a sentence."""
    odd = [None, True, -1, 0, 1, 3, 2.5, "x", "", [], [1, "x"], {}, {"a": 1}, 10**7]
    fields = []
    for base in ("Gemma-3-1B", "DeepSeek-V3"):
        known = next(known for known in KNOWN_CONFIGS if known.name == base)
        config = json.loads((known.folder / "config.json").read_text()) | {"num_hidden_layers": 2}
        for place, name in enumerate(config):
            for value in odd[place % 3 :: 3]:
                try:
                    inspect_config(json.dumps(config | {name: value}), context_len=16)
                except InvalidRequestError as err:
                    fields.append(err.field)
    assert set(fields) == {"config"}
    assert len(fields) > 50


def test_a_config_names_no_code_and_no_kernel_that_would_be_fetched_or_run():
    """Left in, each of these makes Transformers look for files, ask the Hub, or look for a library."""
    traps = {
        "auto_map": {"AutoConfig": "evil--evil.Config", "AutoModelForCausalLM": "evil--evil.Model"},
        "_name_or_path": "/etc",
        "_attn_implementation": "kernels-community/evil",
        "_attn_implementation_internal": "kernels-community/evil",
        "attn_implementation": "kernels-community/evil",
        "experts_implementation": "kernels-community/evil",
        "quantization_config": {"quant_method": "fp8"},
        "trust_remote_code": True,
    }
    plain = inspect_config(json.dumps(LLAMA))
    assert inspect_config(json.dumps(LLAMA | traps)).weights == plain.weights


def test_a_model_of_too_many_parts_is_given_up_and_leaves_nothing_behind(monkeypatch):
    monkeypatch.setattr(anatomy, "MAX_MODULES", 50)
    config = LLAMA | {"num_hidden_layers": 40, "rms_norm_eps": 1e-7}
    assert "at most 50 parts, but this llama has more" in refusal(config)
    monkeypatch.undo()
    assert len(inspect_config(json.dumps(config)).kv_cache.layers) == 40


def test_a_model_that_takes_too_long_is_given_up(monkeypatch):
    monkeypatch.setattr(anatomy, "TIME_LIMIT_S", 0.0)
    assert "at most what 0 s can build" in refusal(LLAMA | {"rms_norm_eps": 1e-8})


def test_the_largest_config_that_is_allowed_is_planned_within_the_limit():
    started = time.monotonic()
    config = LLAMA | {"num_hidden_layers": MAX_LAYERS, "num_attention_heads": 64, "hidden_size": 2**20}
    assert len(inspect_config(json.dumps(config)).kv_cache.layers) == MAX_LAYERS
    assert time.monotonic() - started < anatomy.TIME_LIMIT_S


def test_the_same_config_is_built_once(monkeypatch):
    text = json.dumps(LLAMA | {"rms_norm_eps": 1e-9})
    first = inspect_config(text, context_len=10)
    monkeypatch.setattr(anatomy, "build_on_meta", lambda _: pytest.fail("built twice"))
    again = inspect_config(text, context_len=20, dtype="bfloat16")
    assert first.kv_cache.total_bytes == again.kv_cache.total_bytes


def test_parsing_needs_no_library():
    code = "import hfjax_demo.config_text, sys; print(*[n for n in ('torch', 'transformers', 'numpy') if n in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip() == ""
    assert MAX_CONFIG_BYTES < 10_000_000
