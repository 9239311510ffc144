"""Between what an attention projection may be cut: its heads, or the groups of heads that a fused matrix keeps together.

A projection is split between heads, never inside one. A fused matrix that has all queries, then all keys, then all values is
cut without regard to them, so its outputs have to be gathered. Pure functions of a config and an attention module's numbers;
knows nothing of meshes.
"""

import re
from dataclasses import dataclass
from typing import Any

from hfjax_demo.inference.config_fields import layer_number

ATTENTION = re.compile(r"(^|\.)(self_attn|self_attention|attn|attention)\.")
_PROJECTION = re.compile(r"\.(q|k|v|o)_proj$")
_KEYS_OR_VALUES = re.compile(r"\.(k_proj|v_proj|key|value)$")
_FUSED = re.compile(r"\.(c_attn|query_key_value|qkv_proj|Wqkv)$")
_FUSED_HEAD_BY_HEAD = re.compile(r"\.query_key_value$")
_CODEGEN_BLOCKS = 4
"""CodeGen's matrix is made of as many blocks, each with its own queries, values and keys: a number in its code, no field."""


@dataclass(frozen=True)
class Cut:
    """Where a projection may be cut.

    Attributes:
        units: (count, what) that must each divide by the number of devices.
        gathered_because: why the outputs must be gathered after it; empty where each device's own will do.
    """

    units: tuple[tuple[int, str], ...] = ()
    gathered_because: str = ""


def projection_cut(path: str, attention: Any, config: Any) -> Cut:
    """Where the projection at `path` may be cut.

    Args:
        path: a weight's name without ".weight" or ".bias"; one that is no attention's may be cut anywhere.
        attention: the module that owns it, asked how many query heads share a KV head.
        config: the text config.
    """
    if not ATTENTION.search(path) and not _PROJECTION.search(path):
        return Cut()
    layer = int(found[0]) if (found := re.search(r"(?<=\.)\d+(?=\.)", path)) else 0
    num_heads = layer_number(config, "num_attention_heads", layer)
    if not num_heads:
        return Cut()
    num_kv_heads = _num_kv_heads(attention, config, layer, num_heads)
    if _KEYS_OR_VALUES.search(path):
        return Cut(((num_kv_heads, "KV heads"),))
    if _FUSED.search(path):
        return _fused_cut(path, config, num_heads, num_kv_heads)
    return Cut(((num_heads, "query heads"),))


def _num_kv_heads(attention: Any, config: Any, layer: int, num_heads: int) -> int:
    if getattr(config, "multi_query", False) and not getattr(config, "new_decoder_architecture", False):
        return 1
    if isinstance(groups := getattr(attention, "num_key_value_groups", None), int) and groups > 0:
        return num_heads // groups
    return layer_number(config, "num_key_value_heads", layer) or layer_number(config, "num_kv_heads", layer) or num_heads


def _fused_cut(path: str, config: Any, num_heads: int, num_kv_heads: int) -> Cut:
    """Of a matrix of queries, keys and values that lie head by head, group by group, block by block, or kind by kind."""
    heads = (num_heads, "query heads")
    if getattr(config, "new_decoder_architecture", False):
        return Cut(((num_kv_heads, "groups of query heads with one KV head"),))
    if config.model_type == "codegen":
        return Cut((heads, (_CODEGEN_BLOCKS, "blocks of queries, values and keys")))
    is_by_head = _FUSED_HEAD_BY_HEAD.search(path) or config.model_type == "gpt_bigcode"
    if is_by_head and not getattr(config, "multi_query", False):
        return Cut((heads,))
    together = (num_heads + 2 * num_kv_heads, "query, key and value heads of one matrix")
    return Cut((heads, together), "queries, keys and values are one matrix, one kind after another")
