"""Every way to decode gives the tokens of plain torch's `model.generate`, architecture by architecture, in float32."""

import pytest

from hfjax_demo.buckets import SMALLEST_PREFILL
from hfjax_demo.errors import UnsupportedModelError
from hfjax_demo.requests import GenerationRequest
from tests.architectures import ARCHITECTURES, prompt_of, torch_tokens, write_architecture

NEW_TOKENS = 24
NEW_TOKENS_GROWING = 10
"""A step over shapes that grow compiles dozens of operators: fewer of them, compared with the reference's beginning."""
MIN_DISTINCT_TOKENS = 12
PROMPT_LENS = (SMALLEST_PREFILL, SMALLEST_PREFILL + 1)
"""Both sides of a bucket's edge, which only a fixed cache knows."""

# Eager decoding over growing shapes compiles dozens of operators a step. These share most of them: grouped, multi-query and
# full attention, windows, tied and untied heads, rotary and learned positions.
IN_EVERY_WAY = (
    "llama", "mistral", "qwen2", "qwen3", "olmo2", "granite", "smollm3", "phi3", "gemma", "gpt2",
)  # fmt: skip
PARTLY_SUPPORTED = ("opt", "mamba")
OVER_A_FIXED_CACHE = tuple(name for name in ARCHITECTURES if name not in IN_EVERY_WAY + PARTLY_SUPPORTED)
FIXED_WAYS = (("jit", "static"), ("eager", "static"))
GROWING_WAYS = (("eager", "dynamic"), ("eager", "none"))

pytestmark = pytest.mark.xdist_group("architectures")  # one process, so that they share compiled operators


def assert_same_tokens(engine, folder, ways, prompt_lens, min_distinct=MIN_DISTINCT_TOKENS, num_tokens=NEW_TOKENS):
    for prompt_len in prompt_lens:
        expected = None
        for mode, cache in ways:
            request = GenerationRequest(
                prompt_of(prompt_len), str(folder), mode=mode, cache=cache, max_new_tokens=num_tokens, ignore_eos=True
            )
            record = engine.generate(request, allow_local=True)
            assert len(record.prompt_ids) == prompt_len
            expected = expected or torch_tokens(folder, list(record.prompt_ids), NEW_TOKENS)
            assert record.token_ids == expected[:num_tokens], (mode, cache, prompt_len)
        assert len(set(expected)) >= min_distinct


@pytest.mark.parametrize("name", IN_EVERY_WAY)
def test_every_way_to_decode_gives_the_tokens_of_plain_torch(engine, tmp_path, name):
    folder = write_architecture(name, tmp_path / name)
    assert_same_tokens(engine, folder, FIXED_WAYS, PROMPT_LENS)
    assert_same_tokens(engine, folder, GROWING_WAYS, PROMPT_LENS[1:], num_tokens=NEW_TOKENS_GROWING)


@pytest.mark.parametrize("name", OVER_A_FIXED_CACHE)
def test_a_fixed_cache_gives_the_tokens_of_plain_torch(engine, tmp_path, name):
    folder = write_architecture(name, tmp_path / name)
    assert_same_tokens(engine, folder, FIXED_WAYS, PROMPT_LENS, min_distinct=5)


def test_a_model_that_cannot_be_traced_is_refused_and_runs_eagerly(engine, tmp_path):
    """OPT builds its mask from the length of the past, which is an array under jit."""
    folder = write_architecture("opt", tmp_path / "opt")
    with pytest.raises(UnsupportedModelError, match=r"OPTForCausalLM has some that do .* --mode eager"):
        engine.generate(GenerationRequest(prompt_of(9), str(folder)), allow_local=True)
    assert_same_tokens(engine, folder, (("eager", "dynamic"),), (9,), min_distinct=3)


def test_a_model_whose_state_is_no_kv_cache_is_refused_and_runs_without_one(engine, tmp_path, tiny_llama):
    """Asking the loaded Mamba for its memory once failed for its cache's sake, and with it every request after it."""
    folder = write_architecture("mamba", tmp_path / "mamba")
    with pytest.raises(UnsupportedModelError, match=r"keeps a LinearAttentionLayer. Run it with --mode eager --cache none"):
        engine.generate(GenerationRequest(prompt_of(9), str(folder)), allow_local=True)
    record = engine.generate(GenerationRequest(prompt_of(9), tiny_llama, max_new_tokens=2), allow_local=True)
    assert len(record.token_ids) == 2


def test_jit_over_a_growing_cache_gives_them_too_and_compiles_every_step(engine, tiny_llama):
    request = GenerationRequest(prompt_of(9), tiny_llama, mode="jit", cache="dynamic", max_new_tokens=6, ignore_eos=True)
    record = engine.generate(request, allow_local=True)
    assert record.token_ids == torch_tokens(tiny_llama, list(record.prompt_ids), 6)
    assert [step.num_traces for step in record.steps] == [1] * 6
    assert all(step.num_compiles >= 1 for step in record.steps)
    assert "changed its length from 9 to 10" in record.steps[2].compiled[0].reason
