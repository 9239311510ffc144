"""Small models of many architectures, random weights, with a tokenizer of one byte per token, written as folders.

All share one set of sizes, so that their eager operators share compilations. `initializer_range` is large: with the
default, a random model repeats one token and every comparison passes vacuously.
"""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

VOCAB_SIZE = 256
INITIALIZER_RANGE = 0.3
SIZES = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": INITIALIZER_RANGE,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
GPT2_SIZES = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512, "vocab_size": VOCAB_SIZE}
WINDOW = {"sliding_window": 8}
# Tied to the head, large random embeddings drown what the layers add, and the model repeats a few tokens.
UNTIED = {"tie_word_embeddings": False}
EXPERTS = {"num_experts_per_tok": 2}

ARCHITECTURES: dict[str, dict[str, object]] = {
    "llama": SIZES,
    "mistral": SIZES | WINDOW | {"head_dim": 16},
    "qwen2": SIZES,
    "qwen3": SIZES | {"head_dim": 16},
    "gemma": SIZES | {"num_key_value_heads": 1, "head_dim": 16},
    "gemma2": SIZES | WINDOW | UNTIED | {"head_dim": 16},
    "gemma3_text": SIZES | WINDOW | UNTIED | {"head_dim": 16, "layer_types": ["sliding_attention", "full_attention"]},
    "phi": SIZES,
    "phi3": SIZES,
    "gpt2": GPT2_SIZES | UNTIED | {"initializer_range": INITIALIZER_RANGE, "bos_token_id": None, "eos_token_id": None},
    "gpt_neox": SIZES | UNTIED,
    "olmo2": SIZES,
    "granite": SIZES,
    "stablelm": SIZES,
    "falcon": SIZES | {"multi_query": True, "new_decoder_architecture": False, "parallel_attn": True},
    "starcoder2": SIZES | {"sliding_window": None},
    "cohere": SIZES,
    "smollm3": SIZES,
    "glm4": SIZES | {"head_dim": 16},
    "ernie4_5": SIZES | {"head_dim": 16},
    "exaone4": SIZES | {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]},
    "mixtral": SIZES | EXPERTS | {"num_local_experts": 4},
    "qwen3_moe": SIZES | EXPERTS | {"head_dim": 16, "num_experts": 4, "moe_intermediate_size": 32},
    "gpt_oss": SIZES
    | WINDOW
    | EXPERTS
    | {"head_dim": 16, "num_local_experts": 4, "layer_types": ["sliding_attention", "full_attention"]},
    "deepseek_v3": SIZES
    | EXPERTS
    | {
        "num_key_value_heads": 4,
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 16,
        "v_head_dim": 16,
        "n_routed_experts": 4,
        "n_group": 1,
        "topk_group": 1,
        "moe_intermediate_size": 32,
        "first_k_dense_replace": 1,
    },
    "opt": {
        "hidden_size": 64,
        "ffn_dim": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": VOCAB_SIZE,
        "word_embed_proj_dim": 64,
        "max_position_embeddings": 512,
        "init_std": INITIALIZER_RANGE,
        "bos_token_id": None,
        "eos_token_id": None,
        **UNTIED,
    },
    "mamba": {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "vocab_size": VOCAB_SIZE,
        "bos_token_id": None,
        "eos_token_id": None,
    },
    "bloom": {
        **UNTIED,
        "hidden_size": 64,
        "n_layer": 2,
        "n_head": 4,
        "vocab_size": VOCAB_SIZE,
        "initializer_range": INITIALIZER_RANGE,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    },
}


def write_architecture(name: str, folder: Path, **overrides: object) -> Path:
    """Writes a random model of the architecture `name` and its tokenizer to `folder`."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **(ARCHITECTURES[name] | overrides))
    model = AutoModelForCausalLM.from_config(config)
    model.generation_config.eos_token_id = None
    model.generation_config.bos_token_id = None
    model.generation_config.pad_token_id = None
    model.save_pretrained(folder)
    write_byte_tokenizer(folder)
    return folder


def write_byte_tokenizer(folder: Path) -> None:
    """Writes a byte-level tokenizer without merges: one token per byte, so most random tokens are broken UTF-8."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    byte_level = Tokenizer(models.BPE({symbol: index for index, symbol in enumerate(alphabet)}, merges=[]))
    byte_level.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    byte_level.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=byte_level).save_pretrained(folder)


def prompt_of(num_tokens: int) -> str:
    """A prompt of exactly `num_tokens` tokens."""
    return "".join(chr(ord("a") + (7 * index + 3) % 26) for index in range(num_tokens))


def torch_tokens(folder: Path, prompt_ids: list[int], max_new_tokens: int) -> tuple[int, ...]:
    """The reference: greedy `model.generate` of plain torch."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    input_ids = torch.tensor([prompt_ids])
    output = model.generate(
        input_ids, attention_mask=torch.ones_like(input_ids), max_new_tokens=max_new_tokens, do_sample=False
    )
    return tuple(output[0, len(prompt_ids) :].tolist())
