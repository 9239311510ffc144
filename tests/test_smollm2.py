"""The main job on the real thing: SmolLM2-135M-Instruct, from the packaged GGUF, decodes on JAX."""

import json
import os
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from hfjax_demo.buckets import SMALLEST_PREFILL
from hfjax_demo.catalog import DEFAULT_MODEL, find_in_catalog
from hfjax_demo.events import RunRecord
from hfjax_demo.inference.gguf_conversion import converted_copy
from hfjax_demo.inference.inspection import inspect_model
from hfjax_demo.inference.model_sources import resolve
from hfjax_demo.plain_json import from_dict
from hfjax_demo.requests import GenerationRequest

pytestmark = pytest.mark.xdist_group("smollm2")

NEW_TOKENS = 24
NEW_TOKENS_GROWING = 10
"""A step over shapes that grow compiles dozens of operators: fewer of them, compared with the reference's beginning."""
PASSAGE = (
    "The lighthouse keeper counted the ships each evening, wrote their names in a ledger, and wondered where the wind "
    "would carry them by morning"
)


@pytest.fixture(scope="module")
def converted_folder(engine):
    """The safetensors copy that the engine made of the packaged file."""
    engine.generate(GenerationRequest("hello", max_new_tokens=1))
    source = converted_copy(resolve(DEFAULT_MODEL, lambda *_: None, allow_local=False), engine.settings.cache_dir)
    return source.folder


@pytest.fixture(scope="module")
def torch_tokens_of(converted_folder):
    """Greedy `model.generate` of plain torch over the same weights."""
    model = AutoModelForCausalLM.from_pretrained(converted_folder, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None

    def tokens(prompt_ids):
        input_ids = torch.tensor([prompt_ids])
        mask = torch.ones_like(input_ids)
        output = model.generate(input_ids, attention_mask=mask, max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=0)
        return tuple(output[0, len(prompt_ids) :].tolist())

    return tokens


def prompt_of(tokenizer, num_tokens):
    prompt = tokenizer.decode(tokenizer(PASSAGE)["input_ids"][:num_tokens])
    assert len(tokenizer(prompt)["input_ids"]) == num_tokens
    return prompt


@pytest.mark.parametrize("prompt_len", [SMALLEST_PREFILL, SMALLEST_PREFILL + 1])  # both sides of a bucket's edge
@pytest.mark.parametrize("mode", ["jit", "eager"])
def test_a_fixed_cache_gives_the_tokens_of_plain_torch(engine, converted_folder, torch_tokens_of, mode, prompt_len):
    prompt = prompt_of(AutoTokenizer.from_pretrained(converted_folder), prompt_len)
    record = engine.generate(
        GenerationRequest(prompt, mode=mode, cache="static", max_new_tokens=NEW_TOKENS, ignore_eos=True)
    )
    assert len(record.prompt_ids) == prompt_len
    assert record.token_ids == torch_tokens_of(list(record.prompt_ids))
    assert len(set(record.token_ids)) > NEW_TOKENS // 2


@pytest.mark.parametrize("cache", ["dynamic", "none"])
def test_shapes_that_grow_give_the_tokens_of_plain_torch(engine, torch_tokens_of, cache):
    request = GenerationRequest(PASSAGE, mode="eager", cache=cache, max_new_tokens=NEW_TOKENS_GROWING, ignore_eos=True)
    record = engine.generate(request)
    assert record.token_ids == torch_tokens_of(list(record.prompt_ids))[:NEW_TOKENS_GROWING]
    assert len(set(record.token_ids)) > NEW_TOKENS_GROWING // 2


def test_it_answers_a_question_in_chat_and_stops_by_itself(engine):
    record = engine.generate(GenerationRequest("What is the capital of France?", chat=True, max_new_tokens=40))
    assert record.text == "The capital of France is Paris."
    assert record.finish_reason == "eos"
    assert record.token_ids[-1] in record.model.eos_token_ids
    assert "".join(step.text for step in record.steps) == record.text


def test_the_command_line_answers_the_same_with_the_compilers_own_settings(engine):
    """The tests compile without XLA's optimisations; here is what users run."""
    environ = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    prompt = ["--prompt", PASSAGE, "--max-new-tokens", str(NEW_TOKENS), "--ignore-eos", "--json"]
    command = [sys.executable, "-m", "hfjax_demo", "generate", *prompt]
    output = subprocess.run(command, check=True, capture_output=True, text=True, env=environ).stdout
    record = from_dict(RunRecord, json.loads(output))
    here = engine.generate(GenerationRequest(PASSAGE, max_new_tokens=NEW_TOKENS, ignore_eos=True))
    assert record.token_ids == here.token_ids
    assert record.text == here.text


def test_the_record_tells_the_models_facts(engine):
    model = engine.generate(GenerationRequest("hello", max_new_tokens=1)).model
    assert model.num_parameters == find_in_catalog(DEFAULT_MODEL).num_parameters
    assert (model.num_layers, model.num_attention_heads, model.num_kv_heads, model.head_dim) == (30, 9, 3, 64)
    assert (model.vocab_size, model.max_context_len) == (49152, 8192)
    # Two rotary buffers of 32 frequencies are weights too.
    assert model.weights_bytes == model.num_parameters * 4 + 2 * 32 * 4


def test_the_plan_equals_the_arrays_of_the_run(engine):
    record = engine.generate(GenerationRequest("hello", max_new_tokens=2))
    plan = inspect_model(DEFAULT_MODEL, engine.settings, lambda *_: None, allow_local=False, context_len=256)
    assert plan.kv_cache.total_bytes == record.summary.kv_bytes
    assert [layer.key_shape for layer in plan.kv_cache.layers] == [layer.key_shape for layer in record.steps[-1].kv]
    assert plan.weights.num_parameters == record.model.num_parameters
    assert plan.weights.total_bytes == plan.weights.num_parameters * 4


def test_one_copy_of_the_weights_stays_in_memory(engine):
    """JAX holds 538 MB; a second copy left in torch would show as anonymous memory beyond code and compiled programs."""
    record = engine.generate(GenerationRequest("hello", max_new_tokens=1))
    module = engine._worker.model.causal_lm.module
    assert (
        sum(tensor.untyped_storage().nbytes() for tensor in module.state_dict().values() if tensor.device.type != "meta")
        == 0
    )
    assert record.summary.peak_rss_bytes >= record.summary.rss_bytes > record.model.weights_bytes
