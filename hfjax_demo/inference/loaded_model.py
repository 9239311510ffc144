"""A model ready to run: its code, its weights on the mesh, and what can be read off them.

Knows nothing of how it was loaded (`model_loading`) or of requests.
"""

import gc
import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax

from hfjax_demo.errors import UnsupportedModelError
from hfjax_demo.events import ModelFacts
from hfjax_demo.inference import sharding
from hfjax_demo.inference.decoding import CausalLM, Weights
from hfjax_demo.inference.device_mesh import num_memories
from hfjax_demo.inference.kv_cache import layer_geometry
from hfjax_demo.inference.mesh_reading import PlacedArrays, read_arrays
from hfjax_demo.inference.model_config import context_len_of, head_counts
from hfjax_demo.kv_shapes import LayerGeometry


@dataclass(frozen=True)
class ModelKey:
    """What makes two loaded models the same one.

    Attributes:
        name: catalog name, Hub id, or path.
        dtype: of the weights.
        tensor_parallel: devices they are split over.
        allow_local: whether `name` may be a path: one who may not use paths gets no model that was loaded from one.
    """

    name: str
    dtype: str
    tensor_parallel: int
    allow_local: bool


@dataclass
class LoadedModel:
    """A model ready to run. Owned by the engine's thread.

    Attributes:
        key: what was asked for.
        source: label of where it came from.
        causal_lm: the code, weightless.
        tokenizer: of Transformers.
        weights: canonical name -> array on the mesh; tied weights once.
        mesh: the devices.
        eos_token_ids: ids that end a text, from the generation config, else the config.
        load_s: seconds it took.
    """

    key: ModelKey
    source: str
    causal_lm: CausalLM
    tokenizer: Any
    weights: Weights
    mesh: jax.sharding.Mesh
    eos_token_ids: tuple[int, ...]
    load_s: float
    _is_deleted: bool = field(default=False, repr=False)

    @cached_property
    def geometry(self) -> tuple[LayerGeometry, ...]:
        """Per layer, the shape of its keys and values.

        Raises:
            UnsupportedModelError: the model's state is more than keys and values.
        """
        return layer_geometry(self.causal_lm.module)

    @cached_property
    def kv_shardings(self) -> tuple[jax.sharding.Sharding | None, ...]:
        """Per layer, how its keys and values lie on the mesh; None for a layer without its own."""
        return tuple(
            sharding.named_sharding(self.mesh, sharding.place_kv(layer, self.mesh.size).spec) if layer.holds_kv else None
            for layer in self.geometry
        )

    @cached_property
    def placed_weights(self) -> PlacedArrays:
        """How the weights lie on the mesh, read off them once: they stay where they are."""
        return read_arrays(self.weights.items(), self.mesh)

    @property
    def weights_bytes(self) -> int:
        """Bytes of all weights, counted once however many devices hold them."""
        return sum(int(array.nbytes) for array in self.weights.values())

    @property
    def held_bytes(self) -> int:
        """Bytes that the weights take of this host's memory, or of one accelerator's; replicas counted."""
        return sum(_bytes_per_device(array) for array in self.weights.values()) * num_memories(self.mesh)

    @property
    def max_context_len(self) -> int | None:
        """Positions the model was made for, None where its positions have no end."""
        return context_len_of(self.causal_lm.config)

    @cached_property
    def facts(self) -> ModelFacts:
        """The model as plain data for a run record."""
        config = self.causal_lm.config.get_text_config(decoder=True)
        heads = head_counts(config)
        try:
            with_kv = [layer for layer in self.geometry if layer.holds_kv]
        except UnsupportedModelError:
            with_kv = []  # runs without a cache only
        parameters = dict(self.causal_lm.module.named_parameters())
        return ModelFacts(
            name=self.key.name,
            source=self.source,
            architecture=type(self.causal_lm.module).__name__,
            dtype=self.key.dtype,
            num_parameters=sum(int(array.size) for name, array in self.weights.items() if name in parameters),
            weights_bytes=self.weights_bytes,
            num_layers=config.num_hidden_layers,
            num_attention_heads=heads.num_attention_heads,
            num_kv_heads=with_kv[0].num_kv_heads if with_kv else 0,
            head_dim=with_kv[0].key_head_dim if with_kv else 0,
            vocab_size=config.vocab_size,
            max_context_len=self.max_context_len,
            eos_token_ids=self.eos_token_ids,
        )

    def delete(self) -> None:
        """Gives the devices' memory back now, whoever else still refers to this object."""
        if not self._is_deleted:
            self._is_deleted = True
            for array in self.weights.values():
                array.delete()
            self.weights.clear()
            gc.collect()


def _bytes_per_device(array: jax.Array) -> int:
    return math.prod(array.sharding.shard_shape(array.shape)) * array.dtype.itemsize
