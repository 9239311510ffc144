"""Where arrays lie on a mesh: a weight by its rule (`parallel_rules`), the cache by its heads, everything else whole.

One mesh axis, tensor parallelism. Whatever does not divide is replicated, and the reason says so with the numbers. Pure
functions of shapes and rules; knows nothing of how weights are loaded.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax
from jax.sharding import NamedSharding, PartitionSpec

from hfjax_demo.inference.device_mesh import MODEL_AXIS
from hfjax_demo.inference.parallel_rules import WeightRule
from hfjax_demo.kv_shapes import LayerGeometry, heads_divide

Spec = tuple[str | None, ...]


@dataclass(frozen=True)
class Placement:
    """Where one array lies.

    Attributes:
        spec: mesh axis per array axis, None for not split; empty for replicated.
        shard_shape: shape of one device's part.
        reason: why, in words.
    """

    spec: Spec
    shard_shape: tuple[int, ...]
    reason: str

    @property
    def is_split(self) -> bool:
        """Whether the mesh divides it."""
        return MODEL_AXIS in self.spec

    @property
    def num_elements(self) -> int:
        """Numbers in one device's part."""
        return math.prod(self.shard_shape)


def place_weight(shape: Sequence[int], rule: WeightRule | None, parts: int) -> Placement:
    """Where one weight or buffer lies on a mesh of `parts` devices.

    Args:
        shape: of the whole array.
        rule: see `parallel_rules.read_rules`; None for a buffer.
        parts: devices of the mesh.
    """
    shape = tuple(shape)
    if parts == 1:
        return Placement((), shape, "one device holds everything")
    if rule is None:
        return Placement((), shape, "replicated: a buffer, no weight")
    if rule.axis is None:
        return Placement((), shape, f"replicated: {rule.reason}")
    for count, what in rule.units:
        if count % parts:
            return Placement((), shape, f"replicated: {count} {what} do not divide by {parts} devices")
    assert shape[rule.axis] % parts == 0
    spec = tuple(MODEL_AXIS if index == rule.axis else None for index in range(len(shape)))
    shard_shape = tuple(size // parts if index == rule.axis else size for index, size in enumerate(shape))
    return Placement(spec, shard_shape, rule.reason)


def place_kv(layer: LayerGeometry, parts: int) -> Placement:
    """Where one layer's keys (and values) lie: split over KV heads, or replicated where they do not divide."""
    return place_heads(layer.num_kv_heads, parts)


def place_heads(num_kv_heads: int, parts: int) -> Placement:
    """Where keys or values [B, K, L, D] lie; `num_kv_heads` is K, 0 for a layer without its own."""
    if parts > 1 and num_kv_heads and heads_divide(num_kv_heads, parts):
        return Placement((None, MODEL_AXIS, None, None), (), "split over KV heads, beside the projections that fill it")
    return Placement((), (), f"replicated: {num_kv_heads} KV heads over {parts} device{'s' if parts > 1 else ''}")


def named_sharding(mesh: jax.sharding.Mesh, spec: Spec) -> NamedSharding:
    """A placement's spec on a real mesh; an empty one means whole on every device."""
    return NamedSharding(mesh, PartitionSpec(*spec))
