"""KV-cache arithmetic: shapes and bytes per layer, in all, per token and per device.

The formula, per layer: `B x K x L x (Dk + Dv) x bytes`, with batch B, KV heads K, positions L and the head sizes of
keys and values. Summed over N equal layers this is the familiar `2 x N x K x L x D x bytes x B`. Pure functions of
plain numbers; knows nothing of configs, models or arrays.
"""

from dataclasses import dataclass

DTYPE_BYTES: dict[str, int] = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of one element, for every dtype that weights and cache can have."""


@dataclass(frozen=True)
class LayerGeometry:
    """What the shape of one layer's cache follows from.

    Attributes:
        layer: index, from 0.
        kind: "full_attention", "sliding_attention" (its window masks, the cache still holds every position) or
            "shared" (no keys and values of its own; it reads another layer's).
        num_kv_heads: K; 0 for a shared layer. 1 for a latent layer: all heads read the same latent.
        key_head_dim: Dk; of a latent layer the size of the compressed keys and values.
        value_head_dim: Dv; differs from Dk in a few architectures. Of a latent layer the size of its rotary keys.
        num_attention_heads: H, query heads; 0 where nobody asked.
        window: W, the latest positions that the layer attends to; None for all of them.
        expanded_head_dims: of a latent layer the key and value sizes of each query head that its latent unfolds to while
            it is read; None for a layer that keeps keys and values as they are.
    """

    layer: int
    kind: str
    num_kv_heads: int
    key_head_dim: int
    value_head_dim: int
    num_attention_heads: int = 0
    window: int | None = None
    expanded_head_dims: tuple[int, int] | None = None

    @property
    def holds_kv(self) -> bool:
        """Whether this layer has keys and values of its own."""
        return self.num_kv_heads > 0


@dataclass(frozen=True)
class LayerPlan:
    """One layer's cache as it would be allocated.

    Attributes:
        layer: index, from 0.
        kind: see `LayerGeometry.kind`.
        key_shape: (B, K, L, Dk).
        value_shape: (B, K, L, Dv).
        bytes: of keys and values together, over all devices, counted once.
        bytes_per_device: less than `bytes` only where K divides by the tensor-parallel size.
        is_split: whether the KV heads are split over the mesh; else every device holds them all.
    """

    layer: int
    kind: str
    key_shape: tuple[int, ...]
    value_shape: tuple[int, ...]
    bytes: int
    bytes_per_device: int
    is_split: bool


@dataclass(frozen=True)
class KVCachePlan:
    """A whole cache as it would be allocated.

    Attributes:
        total_bytes: all layers, counted once.
        bytes_per_token: bytes of one position of one sequence, all layers.
        bytes_per_device: what one device of the mesh holds.
        layers: one entry per layer.
    """

    total_bytes: int
    bytes_per_token: int
    bytes_per_device: int
    layers: tuple[LayerPlan, ...]


def plan_kv_cache(
    layers: tuple[LayerGeometry, ...], batch_size: int, context_len: int, dtype: str, tensor_parallel: int = 1
) -> KVCachePlan:
    """The shapes and bytes of a fixed cache.

    Args:
        layers: geometry of each layer.
        batch_size: B, sequences.
        context_len: L, positions.
        dtype: a key of `DTYPE_BYTES`.
        tensor_parallel: devices the KV heads are split over, where K divides by it.

    Returns:
        The plan; its bytes equal those of the arrays the engine allocates for the same numbers.
    """
    planned = tuple(_plan_layer(layer, batch_size, context_len, DTYPE_BYTES[dtype], tensor_parallel) for layer in layers)
    total_bytes = sum(layer.bytes for layer in planned)
    return KVCachePlan(
        total_bytes=total_bytes,
        bytes_per_token=total_bytes // (batch_size * context_len),
        bytes_per_device=sum(layer.bytes_per_device for layer in planned),
        layers=planned,
    )


def _plan_layer(geometry: LayerGeometry, batch_size: int, context_len: int, itemsize: int, parts: int) -> LayerPlan:
    if not geometry.holds_kv:
        return LayerPlan(geometry.layer, geometry.kind, (), (), 0, 0, is_split=False)
    slots = (batch_size, geometry.num_kv_heads, context_len)
    head_dims = geometry.key_head_dim + geometry.value_head_dim
    num_bytes = batch_size * geometry.num_kv_heads * context_len * head_dims * itemsize
    is_split = parts > 1 and heads_divide(geometry.num_kv_heads, parts)
    return LayerPlan(
        layer=geometry.layer,
        kind=geometry.kind,
        key_shape=(*slots, geometry.key_head_dim),
        value_shape=(*slots, geometry.value_head_dim),
        bytes=num_bytes,
        bytes_per_device=num_bytes // parts if is_split else num_bytes,
        is_split=is_split,
    )


def heads_divide(num_heads: int, parts: int) -> bool:
    """Whether `num_heads` can be split evenly over `parts` devices; what cannot is replicated."""
    return num_heads % parts == 0
