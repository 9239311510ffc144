"""The KV cache as arrays, and its translation to and from Transformers' cache objects. The only file that knows those.

Between steps a cache is a plain pytree of arrays: `FixedCache` (allocated once, written in place) or `GrowingCache`
(one position longer each step). Inside a step it is dressed as the `transformers.Cache` the unchanged model expects, and
undressed after. Knows nothing of requests, programs or text.
"""

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import torch
from transformers.cache_utils import (
    Cache,
    CacheLayerMixin,
    DummyLayer,
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    StaticLayer,
)

from hfjax_demo.errors import UnsupportedModelError
from hfjax_demo.events import LayerState
from hfjax_demo.inference.config_fields import layer_number
from hfjax_demo.inference.environment import call_jax, jax_view, torch_view
from hfjax_demo.inference.mesh_layout import MeshLayout
from hfjax_demo.kv_shapes import LayerGeometry

SUPPORTED_LAYERS = (DynamicLayer, DynamicSlidingWindowLayer, DummyLayer)


@functools.partial(jax.tree_util.register_dataclass, data_fields=["keys", "values"], meta_fields=[])
@dataclass(frozen=True)
class FixedCache:
    """A cache of fixed size.

    Attributes:
        keys: per layer float[B, K, L, Dk]; None for a layer without its own.
        values: per layer float[B, K, L, Dv]; None likewise.
    """

    keys: tuple[jax.Array | None, ...]
    values: tuple[jax.Array | None, ...]


@functools.partial(jax.tree_util.register_dataclass, data_fields=["keys", "values"], meta_fields=["seen_len"])
@dataclass(frozen=True)
class GrowingCache:
    """A cache that grows by each step's tokens.

    Attributes:
        keys: per layer float[B, K, n, Dk], n = seen_len (a sliding layer keeps its window only); None before the prefill.
        values: per layer float[B, K, n, Dv]; None likewise.
        seen_len: tokens read so far; a Python int, so part of a compiled program's identity.
    """

    keys: tuple[jax.Array | None, ...]
    values: tuple[jax.Array | None, ...]
    seen_len: int


KVCache = FixedCache | GrowingCache


class FixedLayer(StaticLayer):
    """One full-length layer whose update is one `lax.dynamic_update_slice` for keys and one for values.

    Sliding-window layers get one too: the model's own mask enforces the window, where `StaticSlidingWindowLayer` keeps a
    Python int and goes silently wrong under jit. Lives inside one forward pass.
    """

    def __init__(
        self, keys: torch.Tensor, values: torch.Tensor, position: torch.Tensor, layout: MeshLayout | None = None
    ) -> None:
        """Wraps keys [B, K, L, Dk], values [B, K, L, Dv] and position (0-dim int32, positions filled so far)."""
        CacheLayerMixin.__init__(self)
        self.layout = layout
        self.keys, self.values = keys, values
        self.max_cache_len = keys.shape[2]
        self.cumulative_length = position
        self.dtype, self.device = keys.dtype, keys.device
        self.batch_size, self.num_heads = keys.shape[:2]
        self.k_head_dim, self.v_head_dim = keys.shape[-1], values.shape[-1]
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes key_states [B, K, S, Dk] and value_states [B, K, S, Dv] at the current position; returns the whole."""
        self.keys = call_jax(self._written, self.keys, key_states, self.cumulative_length)
        self.values = call_jax(self._written, self.values, value_states, self.cumulative_length)
        self.cumulative_length = self.cumulative_length + key_states.shape[2]
        return self.keys, self.values

    def _written(self, buffer: jax.Array, new: jax.Array, position: jax.Array) -> jax.Array:
        if self.layout is None:
            return _write(buffer, new, position)
        return self.layout.heads(_write(buffer, self.layout.heads(new), position))


def _write(buffer: jax.Array, new: jax.Array, position: jax.Array) -> jax.Array:
    """`buffer` [B, K, L, D] with `new` [B, K, S, D] at `position`; out of bounds is clamped, so check before calling."""
    return jax.lax.dynamic_update_slice(buffer, new.astype(buffer.dtype), (0, 0, position, 0))


def layer_geometry(model: Any) -> tuple[LayerGeometry, ...]:
    """The shape of each layer's keys and values, read off a forward pass of two tokens on torch's meta device.

    Nothing is computed or allocated, and no formula over config fields can disagree with the model: multi-query,
    grouped, shared and latent attention come out as the model's own code makes them.

    Args:
        model: a Transformers causal language model whose parameters and buffers are on "meta".

    Returns:
        One `LayerGeometry` per layer of the cache.

    Raises:
        UnsupportedModelError: some layer's state is more than keys and values.
    """
    cache = DynamicCache(config=model.config)
    for index, layer in enumerate(cache.layers):
        if type(layer) not in SUPPORTED_LAYERS:
            raise UnsupportedModelError(
                f"A KV cache holds keys and values only, but layer {index} of {len(cache.layers)} of this "
                f"{model.config.model_type} model keeps a {type(layer).__name__}. Run it with --mode eager --cache none."
            )
    input_ids = torch.zeros((1, 2), dtype=torch.long, device="meta")
    kwargs = {"input_ids": input_ids, "past_key_values": cache, "use_cache": True}
    config = model.config.get_text_config(decoder=True)
    with torch.no_grad(), _no_padding(config):
        torch.func.functional_call(model, _as_bfloat16(model), (), kwargs)
    return tuple(_geometry_of(index, layer, config) for index, layer in enumerate(cache.layers))


@contextmanager
def _no_padding(config: Any) -> Iterator[None]:
    """Without a padding id: GPT-2 and others would compare the token ids with it to warn, and on meta there are none."""
    pad_token_id, config.pad_token_id = getattr(config, "pad_token_id", None), None
    try:
        yield
    finally:
        config.pad_token_id = pad_token_id


def _as_bfloat16(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The model's meta tensors in bfloat16: the only dtype torch's grouped matmul (mixture of experts) knows on meta."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: tensor.bfloat16() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def _geometry_of(index: int, layer: Any, config: Any) -> LayerGeometry:
    if layer.keys is None:
        return LayerGeometry(index, "shared", 0, 0, 0)
    is_sliding = isinstance(layer, DynamicSlidingWindowLayer)
    return LayerGeometry(
        layer=index,
        kind="sliding_attention" if is_sliding else "full_attention",
        num_kv_heads=layer.keys.shape[1],
        key_head_dim=layer.keys.shape[-1],
        value_head_dim=layer.values.shape[-1],
        num_attention_heads=layer_number(config, "num_attention_heads", index),
        window=int(layer.sliding_window) if is_sliding else None,
        expanded_head_dims=_expanded_head_dims(index, layer, config),
    )


def _expanded_head_dims(index: int, layer: Any, config: Any) -> tuple[int, int] | None:
    """Key and value sizes that a latent layer's heads unfold it to (multi-head latent attention), None for other layers.

    Transformers keeps the compressed vector where keys usually are and the rotary part of the keys in the values' place.
    """
    names = ("kv_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim")
    latent, rotary, unrotated, value = (layer_number(config, name, index) for name in names)
    is_latent = (layer.keys.shape[1], layer.keys.shape[-1], layer.values.shape[-1]) == (1, latent, rotary)
    return (unrotated + rotary, value) if is_latent else None


def empty_fixed_cache(
    geometry: Sequence[LayerGeometry],
    batch_size: int,
    capacity: int,
    dtype: str,
    shardings: Sequence[jax.sharding.Sharding | None],
) -> FixedCache:
    """A zeroed cache of `capacity` positions; `shardings` says per layer how it lies on the mesh."""

    def zeros(layer: LayerGeometry, head_dim: int, sharding: jax.sharding.Sharding | None) -> jax.Array | None:
        if not layer.holds_kv:
            return None
        shape = (batch_size, layer.num_kv_heads, capacity, head_dim)
        return jnp.zeros(shape, dtype, device=sharding)

    pairs = list(zip(geometry, shardings, strict=True))
    return FixedCache(
        keys=tuple(zeros(layer, layer.key_head_dim, sharding) for layer, sharding in pairs),
        values=tuple(zeros(layer, layer.value_head_dim, sharding) for layer, sharding in pairs),
    )


def empty_growing_cache(num_layers: int) -> GrowingCache:
    """A cache that has seen nothing yet."""
    return GrowingCache(keys=(None,) * num_layers, values=(None,) * num_layers, seen_len=0)


def to_hf_cache(cache: KVCache, position: jax.Array, config: Any, layout: MeshLayout | None = None) -> Cache:
    """The arrays dressed as the cache object the model expects. Call inside the torchax environment.

    Args:
        cache: what the last step returned.
        position: int32 scalar, positions filled so far; a growing cache counts its own.
        config: the model's config, which names each layer's kind.
        layout: how keys and values must lie on the mesh; None for one device.
    """
    if isinstance(cache, FixedCache):
        filled = torch_view(jnp.asarray(position))
        return Cache(
            layers=[
                DummyLayer() if keys is None else FixedLayer(torch_view(keys), torch_view(values), filled, layout)
                for keys, values in zip(cache.keys, cache.values, strict=True)
            ]
        )
    hf_cache = DynamicCache(config=config)
    for layer, keys, values in zip(hf_cache.layers, cache.keys, cache.values, strict=True):
        if keys is not None:
            layer.keys, layer.values = torch_view(keys), torch_view(values)
            layer.dtype, layer.device = layer.keys.dtype, layer.keys.device
            layer.is_initialized = True
            if isinstance(layer, DynamicSlidingWindowLayer):
                layer.cumulative_length = cache.seen_len
    return hf_cache


def from_hf_cache(hf_cache: Cache, before: KVCache, num_new: int) -> KVCache:
    """The arrays inside `hf_cache` after a forward pass over `num_new` tokens, as the same kind of cache as `before`."""
    keys = tuple(None if layer.keys is None else jax_view(layer.keys) for layer in hf_cache.layers)
    values = tuple(None if layer.values is None else jax_view(layer.values) for layer in hf_cache.layers)
    if isinstance(before, FixedCache):
        return FixedCache(keys, values)
    return GrowingCache(keys, values, before.seen_len + num_new)


def layer_states(cache: KVCache | None, geometry: Sequence[LayerGeometry], filled_len: int) -> tuple[LayerState, ...]:
    """Every layer's shapes and bytes as plain data; reads no array's contents and keeps no array."""
    if cache is None:
        return ()
    return tuple(
        _layer_state(layer, keys, values, filled_len)
        for layer, keys, values in zip(geometry, cache.keys, cache.values, strict=True)
    )


def _layer_state(layer: LayerGeometry, keys: jax.Array | None, values: jax.Array | None, filled_len: int) -> LayerState:
    if keys is None or values is None:
        return LayerState(layer.layer, layer.kind, (), (), 0, 0, 0)
    capacity = keys.shape[2]
    return LayerState(
        layer=layer.layer,
        kind=layer.kind,
        key_shape=keys.shape,
        value_shape=values.shape,
        filled_len=min(filled_len, capacity),
        capacity=capacity,
        bytes=keys.nbytes + values.nbytes,
    )
