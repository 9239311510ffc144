"""Bundled configs agree with what is published of their models, and are planned for without a network."""

import json
import socket

import pytest

from hfjax_demo.cache_plan import CacheForm
from hfjax_demo.catalog import CATALOG, find_in_catalog
from hfjax_demo.inference.inspection import inspect_model
from hfjax_demo.inference.model_sources import resolve_config
from hfjax_demo.known_configs import FOLDER, KNOWN_CONFIGS, find_known_config
from hfjax_demo.settings import Settings

pytestmark = pytest.mark.xdist_group("known_configs")  # one process, so that each is built once

NAMES = [known.name for known in KNOWN_CONFIGS]

BYTES_PER_TOKEN = {
    # "Insights into DeepSeek-V3", arXiv 2505.09343, table 1: KV cache per token in BF16, in KB of 1000 bytes.
    "DeepSeek-V3": 70_272,
    "Qwen2.5-72B": 327_680,
    "Llama-3.1-405B": 516_096,
    # "Unlocking Longer Generation with Key-Value Cache Quantization", huggingface.co/blog/kv-cache-quantization: about 5 GB
    # for 10,000 tokens of a 7B Llama-2 in half precision.
    "Llama-2-7B": 2**19,
    # "The Llama 3 Herd of Models", arXiv 2407.21783, table 3: 8 KV heads of 128 in 32 and in 80 layers.
    "Llama-3.1-8B": 2 * 32 * 8 * 128 * 2,
    "Llama-3.1-70B": 2 * 80 * 8 * 128 * 2,
    # "Mistral 7B", arXiv 2310.06825, table 1: 32 layers, 8 KV heads of 128.
    "Mistral-7B-v0.1": 2 * 32 * 8 * 128 * 2,
    # "The Falcon Series of Open Language Models", arXiv 2311.16867: 7B has 32 layers and one KV head of 64.
    "Falcon-7B": 2 * 32 * 64 * 2,
    # "Language Models are Unsupervised Multitask Learners": 12 layers of width 768.
    "GPT-2": 2 * 12 * 768 * 2,
}

ACTIVE_BILLIONS = {
    # "Mixtral of Experts", arXiv 2401.04088: "47B parameters, but only uses 13B active parameters".
    "Mixtral-8x7B-v0.1": 13,
    # "DeepSeek-V3 Technical Report", arXiv 2412.19437: "671B total parameters with 37B activated for each token" (37.6 with
    # the embedding table).
    "DeepSeek-V3": 38,
    # Model card of Qwen3-30B-A3B: 30.5B in total, 3.3B activated.
    "Qwen3-30B-A3B": 3,
}


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: pytest.fail("asked the network"))


def plan(name, **numbers):
    return inspect_model(name, Settings(), lambda *_: None, allow_local=False, **{"dtype": "bfloat16"} | numbers)


@pytest.mark.parametrize("name", NAMES)
def test_a_bundled_config_builds_the_model_that_is_published(name):
    """Parameter counts are those of the Hub's safetensors; DeepSeek-V3's without the layer that predicts a second token."""
    known = find_known_config(name)
    inspection = plan(known.hub_id)
    assert inspection.weights.num_parameters == known.num_parameters
    if not (find_in_catalog(name) and find_in_catalog(name).packaged):
        assert inspection.source == f"bundled config of {known.hub_id}"


@pytest.mark.parametrize("name", BYTES_PER_TOKEN)
def test_bytes_per_token_are_those_published(name):
    assert plan(name, context_len=64).kv_cache.bytes_per_token == BYTES_PER_TOKEN[name]


@pytest.mark.parametrize("name", ACTIVE_BILLIONS)
def test_active_parameters_are_those_published(name):
    decode = plan(name, context_len=64).decode
    assert round(decode.num_active_parameters / 1e9) == ACTIVE_BILLIONS[name]
    assert "experts" in decode.rule


def test_gpt_oss_reads_the_published_active_parameters_without_its_embedding_table():
    """The gpt-oss model card, arXiv 2508.10925, table 1: 20.91B in total, 3.61B active (the output layer, no embeddings)."""
    inspection = plan("openai/gpt-oss-20b", context_len=64)
    assert round(inspection.weights.num_parameters / 1e9, 2) == 20.91
    assert round(inspection.decode.read_bytes / 2 / 1e9, 2) == 3.61


def test_windows_hold_gemma_3_to_a_sixth_of_its_cache_at_a_long_context():
    """ "Gemma 3 Technical Report", arXiv 2503.19786: windows of 1024 in 5 layers of 6 instead of global layers alone."""
    forms = {form.form: form.total_bytes for form in plan("Gemma-3-27B", context_len=131_072).forms}
    per_position = 2 * 16 * 128 * 2
    assert forms[CacheForm.FIXED] == 62 * 131_072 * per_position
    assert forms[CacheForm.WINDOWED] == (10 * 131_072 + 52 * 1024) * per_position


def test_mistral_holds_at_most_its_window():
    """ "Mistral 7B", section 2: a rolling buffer of the window's 4096 positions saves 8 x at a length of 32k."""
    forms = {form.form: form.total_bytes for form in plan("Mistral-7B-v0.1", context_len=32_768).forms}
    assert forms[CacheForm.FIXED] == 8 * forms[CacheForm.WINDOWED]


def test_the_formula_names_the_configs_own_fields():
    (term,) = plan("gpt2", context_len=1024).formulas[0].terms
    assert (term.symbols, term.numbers) == ("2 x N x K x L x D x bytes x B", "2 x 12 x 12 x 1024 x 64 x 2 x 1")
    assert [factor.source for factor in term.factors[1:3]] == ["config: n_layer", "config: n_head"]
    (latent,) = plan("DeepSeek-V3", context_len=1).formulas[0].terms
    assert latent.numbers == "61 x 1 x 1 x 576 x 2 x 1"
    assert latent.factors[3].source == "config: kv_lora_rank + config: qk_rope_head_dim"


def test_every_catalog_model_and_every_folder_has_its_entry():
    assert {path.name for path in FOLDER.iterdir() if path.is_dir()} == set(NAMES)
    for model in CATALOG:
        known = find_known_config(model.hub_id)
        assert (known.name, known.num_parameters) == (model.name, model.num_parameters)


def test_names_lead_to_one_config_each_in_any_case():
    assert find_known_config("MISTRALAI/mistral-7b-V0.1") is find_known_config("Mistral-7B-v0.1")
    assert find_known_config("mistral") is None
    spellings = [spelling.casefold() for known in KNOWN_CONFIGS for spelling in (known.name, known.hub_id, *known.aliases)]
    assert len(spellings) == len(set(spellings))


def test_a_bundled_folder_holds_a_config_and_nothing_else():
    source = resolve_config("meta-llama/Llama-2-7b-hf", lambda *_: None, allow_local=False)
    assert [path.name for path in source.folder.iterdir()] == ["config.json"]
    assert json.loads((source.folder / "config.json").read_text())["num_hidden_layers"] == 32
    assert not source.is_complete
