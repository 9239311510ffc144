"""One model's layout on one real mesh: the rules of `parallel_rules` and the arithmetic of `sharding` as JAX's shardings.

Loading asks it where each weight goes; a forward pass asks it what must be whole, or by heads, in between. Knows nothing of
how weights are read or of requests.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
from jax.sharding import NamedSharding

from hfjax_demo.inference.device_mesh import MODEL_AXIS
from hfjax_demo.inference.parallel_rules import GATHERS, WeightRule, read_rules
from hfjax_demo.inference.sharding import named_sharding, place_heads, place_weight


@dataclass(frozen=True)
class MeshLayout:
    """How a model lies on a mesh.

    Attributes:
        mesh: the devices.
        rules: of each weight, by its name.
        gathered: modules (paths) whose outputs each device needs all of -> whether each computes a share of them.
    """

    mesh: jax.sharding.Mesh
    rules: Mapping[str, WeightRule]
    gathered: Mapping[str, bool]

    @classmethod
    def of(cls, module: Any, mesh: jax.sharding.Mesh) -> "MeshLayout":
        """The layout of a Transformers model, whose parameters may be on "meta"."""
        rules = read_rules(module)
        gathered = {
            name.rpartition(".")[0]: place_weight(parameter.shape, rule, mesh.size).is_split
            for name, parameter in module.named_parameters()
            if mesh.size > 1 and (rule := rules.get(name)) and any(step.after in GATHERS for step in rule.exchanges)
        }
        return cls(mesh, rules, gathered)

    def weight(self, name: str, shape: Sequence[int]) -> NamedSharding:
        """Where the weight or buffer `name` (a tied one's first name) of `shape` lies."""
        return named_sharding(self.mesh, place_weight(shape, self.rules.get(name), self.mesh.size).spec)

    @cached_property
    def whole(self) -> NamedSharding:
        """Whole on every device."""
        return named_sharding(self.mesh, ())

    def heads(self, array: jax.Array) -> jax.Array:
        """Keys or values [B, K, L, D], as they must lie: over KV heads, or whole where those do not divide.

        Without this XLA lets a cache that every device has whole follow the query heads inside a step, and gathers all of it
        at the end of each.
        """
        return self._as(array, named_sharding(self.mesh, place_heads(array.shape[1], self.mesh.size).spec))

    def joined(self, array: jax.Array) -> jax.Array:
        """An array of which each device may have its share only, whole on all of them."""
        return self._as(array, self.whole)

    def joined_outputs(self, array: jax.Array) -> jax.Array:
        """Outputs [..., features] of which each device computed a share, whole on all of them.

        Asked for the whole at once, XLA joins the weights instead of the outputs.
        """
        split = (*(None,) * (array.ndim - 1), MODEL_AXIS)
        return self.joined(self._as(array, named_sharding(self.mesh, split)))

    def _as(self, array: jax.Array, sharding: NamedSharding) -> jax.Array:
        return array if self.mesh.size == 1 else jax.lax.with_sharding_constraint(array, sharding)
