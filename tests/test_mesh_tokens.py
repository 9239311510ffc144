"""A model split over a mesh gives the tokens of one device, lies as planned, and communicates what theory asks, no more.

In float32 the tokens are exact here: an all-reduce adds in another order, but no two likeliest tokens lie that close.
"""

import math
import re
from collections import Counter

import pytest

from hfjax_demo.inference.inspection import inspect_model
from hfjax_demo.kv_shapes import DTYPE_BYTES
from hfjax_demo.requests import GenerationRequest
from tests.architectures import ARCHITECTURES, GPT2_SIZES, INITIALIZER_RANGE, prompt_of, write_architecture

NEW_TOKENS = 8
NEW_TOKENS_EAGER = 3
MIN_DISTINCT_TOKENS = 3

# 24 query heads divide by every size here, and so do 264 tokens of the vocabulary; 6 KV heads do by 2 and 3.
WIDE = {"hidden_size": 96, "intermediate_size": 192, "num_attention_heads": 24, "num_key_value_heads": 6, "vocab_size": 264}
WIDE_GPT2 = {"n_embd": 96, "n_head": 24, "vocab_size": 264}
FULL_HEADS = {"num_key_value_heads": 24}
ONE_KV_HEAD = {"num_key_value_heads": 1}
HEAD_DIM = {"head_dim": 4}
EXPERT = {"moe_intermediate_size": 24}

CASES = {
    "llama": ("llama", WIDE | FULL_HEADS, (2, 3, 4, 8)),
    "llama, grouped heads": ("llama", WIDE, (3,)),
    "llama, fewer KV heads than devices": ("llama", WIDE | {"num_key_value_heads": 2}, (8,)),
    "llama, nothing divides": ("llama", {"vocab_size": 257, "intermediate_size": 127}, (3,)),
    "gemma, one KV head": ("gemma", WIDE | ONE_KV_HEAD | HEAD_DIM, (8,)),
    "gpt2": ("gpt2", WIDE_GPT2, (3, 8)),
    "gpt_bigcode, one KV head": ("gpt_bigcode", {}, (2,)),
    "bloom": ("bloom", {}, (4,)),
    "stablelm": ("stablelm", WIDE, (3,)),
    "falcon, one KV head": ("falcon", {}, (2, 4)),
    "falcon, grouped heads": ("falcon", WIDE | {"new_decoder_architecture": True, "num_kv_heads": 6}, (3,)),
    "gpt_neox": ("gpt_neox", WIDE, (8,)),
    "phi3": ("phi3", WIDE | FULL_HEADS, (4,)),
    "olmo2": ("olmo2", WIDE, (3,)),
    "gemma3_text": ("gemma3_text", WIDE | HEAD_DIM, (3,)),
    "qwen3_moe": ("qwen3_moe", WIDE | HEAD_DIM | EXPERT, (2,)),
    "gpt_oss": ("gpt_oss", WIDE | HEAD_DIM, (8,)),
    "deepseek_v3": ("deepseek_v3", {}, (4,)),
}

pytestmark = pytest.mark.xdist_group("architectures")  # one process, so that they share compiled operators


def run(engine, folder, size, mode="jit", cache="static"):
    new_tokens = NEW_TOKENS if mode == "jit" else NEW_TOKENS_EAGER
    request = GenerationRequest(
        prompt_of(9), str(folder), mode=mode, cache=cache, max_new_tokens=new_tokens, ignore_eos=True, tensor_parallel=size
    )
    return engine.generate(request, allow_local=True)


def collectives_in(hlo):
    """Kind -> (arrays, their bytes) of a compiled program; XLA may put several arrays into one operation."""
    found = Counter()
    kinds = "all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute"
    for result, kind in re.findall(rf"= (.*?) ({kinds})(?:-start)?\(", hlo):
        for shape in re.findall(r"f32\[([\d,]*)\]", result):
            found[kind, "arrays"] += 1
            found[kind, "bytes"] += math.prod(int(size) for size in shape.split(",")) * DTYPE_BYTES["float32"]
    return found


def collectives_planned(inspection):
    planned = Counter()
    for each in inspection.collectives:
        planned[each.kind, "arrays"] += each.count
        planned[each.kind, "bytes"] += each.bytes
    return planned


def assert_lies_as_planned(engine, inspection):
    real = {
        name: (tuple(array.sharding.spec), array.sharding.shard_shape(array.shape))
        for name, array in engine._worker.model.weights.items()
    }
    for tensor in inspection.weights.tensors:
        assert (tensor.name, real[tensor.name]) == (tensor.name, (tensor.spec, tensor.shard_shape))


@pytest.fixture
def small_gpt_bigcode(monkeypatch):
    ends = {"bos_token_id": None, "eos_token_id": None}
    sizes = GPT2_SIZES | ends | {"initializer_range": INITIALIZER_RANGE}
    monkeypatch.setitem(ARCHITECTURES, "gpt_bigcode", sizes)


@pytest.mark.usefixtures("small_gpt_bigcode")
@pytest.mark.parametrize("case", CASES)
def test_every_size_gives_the_tokens_of_one_device_and_costs_what_is_planned(engine, tmp_path, case):
    name, overrides, sizes = CASES[case]
    folder = write_architecture(name, tmp_path / "model", **overrides)
    expected = run(engine, folder, 1).token_ids
    assert len(set(expected)) >= MIN_DISTINCT_TOKENS
    for size in sizes:
        record = run(engine, folder, size)
        assert record.token_ids == expected, size
        assert [step.num_traces for step in record.steps] == [1, 1] + [0] * (NEW_TOKENS - 2)
        inspection = inspect_model(str(folder), engine.settings, lambda *_: None, allow_local=True, tensor_parallel=size)
        assert_lies_as_planned(engine, inspection)
        (hlo,) = [
            program.as_text() for key, program in engine._worker._programs._executables.items() if key.phase == "decode_step"
        ]
        assert collectives_in(hlo) == collectives_planned(inspection), size


@pytest.mark.parametrize(("name", "cache"), [("opt", "dynamic"), ("llama", "static")])
def test_eager_steps_over_a_mesh_give_them_too(engine, tmp_path, name, cache):
    folder = write_architecture(name, tmp_path / name)
    expected = run(engine, folder, 1, "eager", cache).token_ids
    assert len(set(expected)) >= 2
    assert run(engine, folder, 2, "eager", cache).token_ids == expected
