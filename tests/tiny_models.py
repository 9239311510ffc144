"""Models small enough to write in a test: random weights, byte-level tokenizers, the real file formats."""

from pathlib import Path
from typing import Any

import gguf
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

EOS_TOKEN = "<|end|>"
MERGES = (("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"))
NUM_LAYERS = 2
NUM_ATTENTION_HEADS = 4
NUM_KV_HEADS = 2
HEAD_DIM = 8
HIDDEN_SIZE = NUM_ATTENTION_HEADS * HEAD_DIM
CONTEXT_LEN = 128


def vocabulary() -> list[str]:
    """Every byte, the merges, the end of a text: any prompt has tokens."""
    return [*sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(pair) for pair in MERGES), EOS_TOKEN]


def tiny_config(**changes: Any) -> LlamaConfig:
    """Llama with grouped-query attention; weights spread widely, so that greedy tokens differ."""
    sizes = {
        "hidden_size": HIDDEN_SIZE,
        "intermediate_size": 64,
        "num_hidden_layers": NUM_LAYERS,
        "num_attention_heads": NUM_ATTENTION_HEADS,
        "num_key_value_heads": NUM_KV_HEADS,
        "vocab_size": len(vocabulary()),
        "max_position_embeddings": CONTEXT_LEN,
    }
    eos = vocabulary().index(EOS_TOKEN)
    return LlamaConfig(**(sizes | changes), initializer_range=0.3, bos_token_id=None, eos_token_id=eos)


def write_tiny_llama(folder: Path, seed: int = 0, max_shard_size: str = "1GB", **changes: Any) -> Path:
    """Writes config, safetensors and tokenizer as `save_pretrained` does; `changes` go to the config."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(tiny_config(**changes))
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    write_tokenizer(folder)
    return folder


def write_tokenizer(folder: Path) -> None:
    """Writes a byte-level BPE tokenizer without a chat template."""
    vocab = {token: index for index, token in enumerate(vocabulary())}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=list(MERGES)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=EOS_TOKEN).save_pretrained(folder)


def write_tiny_gguf(path: Path, architecture: str = "llama", seed: int = 0) -> Path:
    """Writes the same kind of model as one GGUF file, float32 weights and tokenizer inside."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        weights = LlamaForCausalLM(tiny_config()).state_dict()
    writer = gguf.GGUFWriter(path, architecture)
    _add_sizes(writer)
    _add_tokenizer(writer)
    for name, tensor in weights.items():
        writer.add_tensor(_gguf_name(name), _as_llama_cpp(name, tensor.detach()).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_sizes(writer: gguf.GGUFWriter) -> None:
    writer.add_name("tiny")
    writer.add_context_length(CONTEXT_LEN)
    writer.add_embedding_length(HIDDEN_SIZE)
    writer.add_block_count(NUM_LAYERS)
    writer.add_feed_forward_length(64)
    writer.add_head_count(NUM_ATTENTION_HEADS)
    writer.add_head_count_kv(NUM_KV_HEADS)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(len(vocabulary()))


def _add_tokenizer(writer: gguf.GGUFWriter) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(vocabulary())
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_token_types([control if token == EOS_TOKEN else normal for token in vocabulary()])
    writer.add_token_merges([" ".join(pair) for pair in MERGES])
    writer.add_eos_token_id(vocabulary().index(EOS_TOKEN))


def _as_llama_cpp(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Queries and keys with the rotated halves of each head interleaved, as llama.cpp's converter leaves them."""
    if not name.endswith(("q_proj.weight", "k_proj.weight")):
        return tensor
    return tensor.reshape(-1, 2, HEAD_DIM // 2, HIDDEN_SIZE).swapaxes(1, 2).reshape(tensor.shape).contiguous()


def _gguf_name(name: str) -> str:
    parts = {
        "embed_tokens": "token_embd",
        "lm_head": "output",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "post_attention_layernorm": "ffn_norm",
        "input_layernorm": "attn_norm",
        "layers": "blk",
    }
    name = name.removeprefix("model.")
    if name == "norm.weight":
        return "output_norm.weight"
    for theirs, ours in parts.items():
        name = name.replace(theirs, ours)
    return name
