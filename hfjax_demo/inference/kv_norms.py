"""What is in a KV cache, as numbers small enough to keep: the L2 norm of every key and value, computed on the device.

Only the norms leave the device, and only those of filled positions stay. Knows nothing of records, requests or plots.
"""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from hfjax_demo.cache_norms import MAX_LEVEL, encode_levels, fitting_positions_per_column
from hfjax_demo.events import CacheNorms, LayerNorms
from hfjax_demo.inference.kv_cache import KVCache


@functools.partial(jax.jit, static_argnames="mesh")
def _norms(keys: jax.Array, values: jax.Array, mesh: jax.sharding.Mesh | None) -> tuple[jax.Array, jax.Array]:
    """L2 norms over the head dimension: of keys [B, K, L, Dk] and values [B, K, L, Dv] float32[B, K, L] each.

    One small program for each shape of layer: over all layers at once it would take three times as long to compile, and a
    cache that grows needs it anew at each length. On a mesh every device gets all of them: any process can read them.
    """
    norms = _l2(keys), _l2(values)
    return norms if mesh is None else jax.lax.with_sharding_constraint(norms, NamedSharding(mesh, PartitionSpec()))


def _mesh_of(array: jax.Array) -> Any:
    """The mesh that an array lies on, None for an array that was put on no mesh."""
    return array.sharding.mesh if isinstance(array.sharding, NamedSharding) else None


def _l2(array: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.sum(jnp.square(array.astype(jnp.float32)), axis=-1))


@dataclass(frozen=True)
class _HeldNorms:
    """One layer's norms of the positions it holds: float32[K, n] each, the first of position `first_position`."""

    layer: int
    first_position: int
    keys: np.ndarray
    values: np.ndarray


def cache_norms(cache: KVCache | None, filled_len: int) -> CacheNorms | None:
    """The norms of what is in the cache of one request.

    Args:
        cache: as the last step left it.
        filled_len: positions of the sequence that have been read into it.

    Returns:
        None without a cache, or where nothing has been read.
    """
    if cache is None or filled_len == 0:
        return None
    pairs = zip(cache.keys, cache.values, strict=True)
    on_device = [None if keys is None or values is None else _norms(keys, values, _mesh_of(keys)) for keys, values in pairs]
    held = [_held(index, filled_len, *norms) for index, norms in enumerate(jax.device_get(on_device)) if norms is not None]
    finite = [layer for layer in held if np.isfinite(layer.keys).all() and np.isfinite(layer.values).all()]
    per_column = fitting_positions_per_column(
        [(len(layer.keys), layer.first_position, layer.keys.shape[1]) for layer in finite]
    )
    return CacheNorms(per_column, tuple(_layer_norms(layer, per_column) for layer in finite))


def _held(index: int, filled_len: int, keys: np.ndarray, values: np.ndarray) -> _HeldNorms:
    """Cuts off what a fixed cache has beyond its filled positions; a window that grows holds the last ones only."""
    num_positions = min(filled_len, keys.shape[2])
    return _HeldNorms(index, filled_len - num_positions, keys[0, :, :num_positions], values[0, :, :num_positions])


def _layer_norms(held: _HeldNorms, per_column: int) -> LayerNorms:
    key_levels, key_max = _levels(_columns(held.keys, held.first_position, per_column))
    value_levels, value_max = _levels(_columns(held.values, held.first_position, per_column))
    num_heads, num_positions = held.keys.shape
    return LayerNorms(
        held.layer, held.first_position, num_positions, num_heads, key_max, value_max, key_levels, value_levels
    )


def _columns(norms: np.ndarray, first_position: int, per_column: int) -> np.ndarray:
    """The greatest norm of each column: float32[K, n] to float32[K, C]."""
    end = first_position + norms.shape[1]
    first_of_next = np.arange(first_position // per_column + 1, -(-end // per_column)) * per_column
    starts = np.concatenate([[0], first_of_next - first_position])
    return np.maximum.reduceat(norms, starts, axis=1)


def _levels(norms: np.ndarray) -> tuple[str, float]:
    greatest = float(norms.max())
    shares = norms.astype(np.float64) / (greatest or 1.0)
    return encode_levels(np.rint(shares * MAX_LEVEL).astype(np.uint8).tobytes()), greatest
