"""The table of rules, from configs alone: what is split between what, what stays whole and why, and what a step costs."""

import re

import pytest
from transformers import AutoConfig

from hfjax_demo.inference.anatomy import read_anatomy
from hfjax_demo.inference.mesh_plan import expected_collectives, plan_rules
from hfjax_demo.inference.model_config import quiet_transformers
from hfjax_demo.inference.parallel_rules import COLUMN, EXPERT, NO_RULE, OUR_PLAN, OWN_PLAN, REPLICATED, ROW, VOCABULARY
from hfjax_demo.inference.sharding import MODEL_AXIS
from tests.architectures import ARCHITECTURES, GPT2_SIZES, SIZES

pytestmark = pytest.mark.xdist_group("known_configs")

ENDS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
OTHERS = {
    "gptj": GPT2_SIZES | {"rotary_dim": 8},
    "codegen": GPT2_SIZES | {"rotary_dim": 8},
    "gpt_bigcode": GPT2_SIZES,
    "gpt_neo": {"hidden_size": 64, "num_layers": 2, "num_heads": 4, "attention_types": [[["global"], 2]], "vocab_size": 256},
    "xglm": {"d_model": 64, "num_layers": 2, "attention_heads": 4, "ffn_dim": 128, "vocab_size": 256},
    "mpt": {"d_model": 64, "n_heads": 4, "n_layers": 2, "vocab_size": 256},
    "persimmon": SIZES,
    "llama4_text": SIZES | {"num_local_experts": 4, "intermediate_size_mlp": 128, "head_dim": 16, "num_experts_per_tok": 1},
}
COLUMNS, ROWS = (MODEL_AXIS, None), (None, MODEL_AXIS)
LAYERS = 2


def anatomy(name, **overrides):
    sizes = OTHERS[name] | ENDS if name in OTHERS else ARCHITECTURES[name]
    with quiet_transformers():
        return read_anatomy(AutoConfig.for_model(name, **(sizes | overrides)))


def rules(name, parts, **overrides):
    """By the end of the pattern, from its last "*" or the model's top on."""
    table = plan_rules(anatomy(name, **overrides), "float32", parts)
    assert sum(rule.num_weights for rule in table) == len(anatomy(name, **overrides).weights)
    return {rule.pattern.rpartition("*.")[2].removesuffix(".weight"): rule for rule in table}


def costs(name, parts, **overrides):
    """Kind -> (count, bytes) of a step."""
    total = {}
    for each in expected_collectives(anatomy(name, **overrides), "float32", parts):
        count, num_bytes = total.get(each.kind, (0, 0))
        total[each.kind] = (count + each.count, num_bytes + each.bytes)
    return total


def test_llama_is_split_by_its_own_plan_and_its_embedding_by_our_table():
    table = rules("llama", 2, tie_word_embeddings=True)
    for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj"):
        assert (table[name].style, table[name].spec, table[name].origin) == (COLUMN, COLUMNS, OWN_PLAN)
    for name in ("self_attn.o_proj", "mlp.down_proj"):
        assert (table[name].style, table[name].spec, table[name].origin) == (ROW, ROWS, OWN_PLAN)
    embedding = table["model.embed_tokens"]
    assert (embedding.style, embedding.spec, embedding.origin) == (VOCABULARY, COLUMNS, OUR_PLAN)
    assert "as the output layer too" in embedding.reason
    assert (table["self_attn.q_proj"].num_weights, table["self_attn.q_proj"].bytes_per_device) == (
        LAYERS,
        LAYERS * 32 * 64 * 4,
    )


def test_two_all_reduces_a_layer_one_of_the_lookup_and_the_logits_gathered():
    num_reduces = 2 * LAYERS + 1
    assert costs("llama", 2) == {"all-reduce": (num_reduces, num_reduces * 64 * 4), "all-gather": (1, 256 * 4)}
    assert costs("llama", 1) == {}


@pytest.mark.parametrize("name", [name for name in (*ARCHITECTURES, *OTHERS) if name != "mamba"])  # which has no plan
def test_every_architecture_splits_its_layers_and_no_norm(name):
    table = rules(name, 2)
    norms = [rule for pattern, rule in table.items() if "norm" in pattern or "ln_" in pattern]
    assert norms
    assert all(rule.spec == () and rule.style == REPLICATED for rule in norms)
    assert {ROW, VOCABULARY} <= {rule.style for rule in table.values() if rule.spec}
    positions = re.compile(r"wpe|embed_positions")
    whole = sum(rule.total_bytes for rule in table.values() if not rule.spec and not positions.search(rule.pattern))
    allowed = 0.5 if name == "deepseek_v3" else 0.2  # its own plan leaves attention whole
    assert whole < allowed * sum(rule.total_bytes for rule in table.values()), name


def test_what_does_not_divide_is_whole_and_says_so_with_the_numbers():
    table = rules("llama", 2, hidden_size=72, num_attention_heads=9, num_key_value_heads=3, vocab_size=257)
    assert table["self_attn.q_proj"].reason == "replicated: 9 query heads do not divide by 2 devices"
    assert table["self_attn.v_proj"].reason == "replicated: 3 KV heads do not divide by 2 devices"
    assert table["self_attn.o_proj"].spec == ()
    assert table["model.embed_tokens"].reason == "replicated: 257 tokens of the vocabulary do not divide by 2 devices"
    assert table["mlp.down_proj"].spec == ROWS


def test_one_kv_head_is_whole_beside_split_queries():
    table = rules("gemma", 4)
    assert [table[f"self_attn.{name}_proj"].spec for name in "qkvo"] == [COLUMNS, (), (), ROWS]
    assert table["self_attn.k_proj"].reason == "replicated: 1 KV heads do not divide by 4 devices"


def test_gpt2_matrices_are_transposed_and_its_fused_outputs_are_gathered():
    table = rules("gpt2", 2)
    assert {table[name].origin for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")} == {OUR_PLAN}
    assert (table["attn.c_attn"].style, table["attn.c_attn"].spec) == (COLUMN, ROWS)  # [in, out]
    assert (table["attn.c_proj"].style, table["attn.c_proj"].spec) == (ROW, COLUMNS)
    assert (table["attn.c_attn.bias"].spec, table["attn.c_proj.bias"].spec) == ((MODEL_AXIS,), ())
    assert "one all-gather joins them" in table["attn.c_attn"].reason
    assert costs("gpt2", 2)["all-gather"] == (LAYERS + 1, (LAYERS * 3 * 64 + 256) * 4)


def test_fused_matrices_that_lie_head_by_head_need_no_gathering():
    for name, fused in (("bloom", "self_attention.query_key_value"), ("gpt_neox", "attention.query_key_value")):
        assert "gather" not in rules(name, 4)[fused].reason
        assert rules(name, 8)[fused].reason == "replicated: 4 query heads do not divide by 8 devices"
    assert "gather" not in rules("codegen", 4)["attn.qkv_proj"].reason
    assert rules("codegen", 8, n_head=8)["attn.qkv_proj"].spec == ()  # cut into four blocks by its code


def test_the_three_forms_of_falcon():
    fused = "self_attention.query_key_value"
    assert "gather" in rules("falcon", 2)[fused].reason
    assert (
        rules("falcon", 4)[fused].reason
        == "replicated: 6 query, key and value heads of one matrix do not divide by 4 devices"
    )
    grouped = {"new_decoder_architecture": True, "num_kv_heads": 2}
    assert rules("falcon", 2, **grouped)[fused].spec == COLUMNS
    assert "2 groups of query heads with one KV head do not divide by 4" in rules("falcon", 4, **grouped)[fused].reason
    full = rules("falcon", 4, multi_query=False)[fused]
    assert full.spec == COLUMNS
    assert "gather" not in full.reason


def test_experts_are_split_inside_each():
    table = rules("qwen3_moe", 2)
    for name, spec in (("gate_up_proj", (None, MODEL_AXIS, None)), ("down_proj", (None, None, MODEL_AXIS))):
        assert (table[f"mlp.experts.{name}"].style, table[f"mlp.experts.{name}"].spec) == (EXPERT, spec)
    assert "gather" in table["mlp.experts.gate_up_proj"].reason
    assert table["mlp.gate"].origin == NO_RULE
    interleaved = rules("gpt_oss", 2)  # [experts, in, out]
    assert interleaved["mlp.experts.gate_up_proj"].spec == (None, None, MODEL_AXIS)
    assert "gather" not in interleaved["mlp.experts.gate_up_proj"].reason
    assert interleaved["mlp.experts.gate_up_proj_bias"].spec == (None, MODEL_AXIS)
    assert interleaved["mlp.experts.down_proj"].spec == (None, MODEL_AXIS, None)
    assert interleaved["mlp.experts.down_proj_bias"].spec == ()
    assert rules("qwen3_moe", 64)["mlp.experts.down_proj"].reason.startswith("replicated: 32 inner features of an expert")


def test_a_latent_is_whole_and_what_unfolds_it_is_split_by_heads():
    sizes = ARCHITECTURES["deepseek_v3"]
    with quiet_transformers():
        read = read_anatomy(AutoConfig.for_model("deepseek_v2", **sizes))
    table = {rule.pattern.rpartition("*.")[2]: rule for rule in plan_rules(read, "float32", 4)}
    assert table["self_attn.q_b_proj.weight"].spec == table["self_attn.kv_b_proj.weight"].spec == COLUMNS
    assert table["self_attn.o_proj.weight"].spec == ROWS
    latent = table["self_attn.kv_a_proj_with_mqa.weight"]
    assert (latent.spec, latent.origin) == ((), OWN_PLAN)
    assert "latent that all heads read" in latent.reason


def test_a_multimodal_model_is_split_by_its_text_models_plan():
    """Its layers lie deeper than the plan's names, which once matched none of them."""
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28}
    config = {"text_config": ARCHITECTURES["gemma3_text"], "vision_config": vision | {"patch_size": 14}}
    with quiet_transformers():
        read = read_anatomy(AutoConfig.for_model("gemma3", **config))
    table = {rule.pattern: rule for rule in plan_rules(read, "float32", 2)}
    assert table["model.language_model.layers.*.mlp.down_proj.weight"].origin == OWN_PLAN
