"""What a model's cache costs in its different forms: fixed, growing, windows respected, full heads.

The engine's fixed cache holds every position in every layer. A layer with a window needs its latest positions only, and a
model without grouped heads or latents would need more: each is a `CacheForm` over the same layers. Pure functions of plain
numbers; knows nothing of configs, models or devices. Shapes as allocated are `kv_shapes`' to say.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from hfjax_demo.kv_shapes import DTYPE_BYTES, LayerGeometry, heads_divide


class CacheForm(StrEnum):
    """How keys and values are kept."""

    FIXED = "fixed"
    """Every layer holds every position: what this engine allocates under jit, byte for byte."""

    GROWING = "growing"
    """What Transformers keeps between two steps; a layer with a window W keeps its latest W - 1 positions."""

    WINDOWED = "windowed"
    """The least a step needs: a layer with a window W holds at most W positions."""

    FULL_HEADS = "full_heads"
    """Every position, and keys and values of its own for every query head: no grouped heads, no latent. A comparison."""


@dataclass(frozen=True)
class CacheBytes:
    """Bytes of a whole cache in one form: in all (each once), and what one device of the mesh holds."""

    form: CacheForm
    total_bytes: int
    bytes_per_device: int


@dataclass(frozen=True)
class LayerGroup:
    """Layers whose caches are alike: any one of them, and the index of each."""

    geometry: LayerGeometry
    layers: tuple[int, ...]


def positions_held(layer: LayerGeometry, form: CacheForm, context_len: int) -> int:
    """Positions that one layer holds after `context_len` tokens."""
    if layer.window is None or form in (CacheForm.FIXED, CacheForm.FULL_HEADS):
        return context_len
    # Of a window of 1 Transformers keeps everything: its slice [-1 + 1:] is the whole.
    kept = layer.window - 1 or context_len
    return min(context_len, layer.window if form is CacheForm.WINDOWED else kept)


def elements_per_position(layer: LayerGeometry, form: CacheForm) -> int:
    """Numbers that one layer holds for one position of one sequence."""
    return heads_held(layer, form) * sum(head_dims(layer, form))


def heads_held(layer: LayerGeometry, form: CacheForm) -> int:
    """Heads of keys and values that one layer holds."""
    if form is CacheForm.FULL_HEADS and layer.holds_kv:
        return max(layer.num_attention_heads, layer.num_kv_heads)
    return layer.num_kv_heads


def head_dims(layer: LayerGeometry, form: CacheForm) -> tuple[int, int]:
    """Sizes of one head's key and value."""
    if form is CacheForm.FULL_HEADS and layer.expanded_head_dims:
        return layer.expanded_head_dims
    return layer.key_head_dim, layer.value_head_dim


def layer_groups(layers: Sequence[LayerGeometry]) -> tuple[LayerGroup, ...]:
    """The layers that hold keys and values, grouped by everything but their index, in the order of first appearance."""
    groups: dict[tuple[object, ...], list[LayerGeometry]] = {}
    for layer in layers:
        if layer.holds_kv:
            dims = (layer.num_kv_heads, layer.key_head_dim, layer.value_head_dim, layer.expanded_head_dims)
            groups.setdefault((layer.kind, layer.window, layer.num_attention_heads, *dims), []).append(layer)
    return tuple(LayerGroup(group[0], tuple(layer.layer for layer in group)) for group in groups.values())


def cache_bytes(
    groups: Sequence[LayerGroup], form: CacheForm, batch_size: int, context_len: int, dtype: str, tensor_parallel: int = 1
) -> CacheBytes:
    """Bytes of a cache in one form.

    Args:
        groups: of `layer_groups`.
        form: how keys and values are kept.
        batch_size: B, sequences.
        context_len: L, tokens of each sequence.
        dtype: a key of `DTYPE_BYTES`.
        tensor_parallel: devices the heads are split over, where they divide by it; a latent is never split.
    """
    total = per_device = 0
    for group in groups:
        layer = group.geometry
        positions = len(group.layers) * batch_size * positions_held(layer, form, context_len)
        num_bytes = positions * elements_per_position(layer, form) * DTYPE_BYTES[dtype]
        total += num_bytes
        is_split = heads_divide(heads_held(layer, form), tensor_parallel)
        per_device += num_bytes // tensor_parallel if is_split else num_bytes
    return CacheBytes(form, total, per_device)
