"""Llama-shaped models with random weights, made where they will be used: no download, no copy through the host.

Speed depends on shapes, not on what the weights say. The same memory serves both frameworks: torch's model borrows JAX's
arrays (DLPack). Knows nothing of what is measured.
"""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch.utils.dlpack import from_dlpack
from transformers import LlamaConfig, LlamaForCausalLM

from hfjax_demo import buckets
from hfjax_demo.inference import sharding
from hfjax_demo.inference.decoding import CausalLM, Weights
from hfjax_demo.inference.device_mesh import make_mesh
from hfjax_demo.inference.kv_cache import KVCache, empty_fixed_cache, empty_growing_cache, layer_geometry
from hfjax_demo.inference.programs import Programs
from hfjax_demo.kv_shapes import LayerGeometry

BATCH_SIZE = 1


@dataclass(frozen=True)
class Shape:
    """A model's sizes, without its weights.

    Attributes:
        name: for people.
        config: of Transformers' LlamaConfig.
        dtype: of weights and cache.
        weights_std: standard deviation of the random weights; a tiny model repeats one token forever if it is small.
    """

    name: str
    config: dict[str, Any]
    dtype: str
    weights_std: float


SHAPES = {
    "llama-2-7b": Shape(
        name="Llama-2-7B's shape",
        config={
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "vocab_size": 32000,
            "max_position_embeddings": 4096,
        },
        dtype="bfloat16",
        weights_std=0.02,
    ),
    "small": Shape(
        name="a small Llama shape",
        config={
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": 256,
            "max_position_embeddings": 512,
        },
        dtype="float32",
        weights_std=0.3,
    ),
}


@dataclass(frozen=True)
class ShapedModel:
    """A model ready to run on JAX's first device.

    Attributes:
        shape: its sizes.
        causal_lm: the code.
        weights: canonical name -> array.
        geometry: per layer, the shape of its keys and values.
        programs: its compiled programs.
        prompt_ids: what every run starts from.
        capacity: positions of a fixed cache.
    """

    shape: Shape
    causal_lm: CausalLM
    weights: Weights
    geometry: tuple[LayerGeometry, ...]
    programs: Programs
    prompt_ids: tuple[int, ...]
    capacity: int

    def empty_cache(self, is_fixed: bool) -> KVCache:
        """A new cache of either kind."""
        if not is_fixed:
            return empty_growing_cache(len(self.geometry))
        return empty_fixed_cache(self.geometry, BATCH_SIZE, self.capacity, self.shape.dtype, self.programs.kv_shardings)

    def input_ids(self, is_fixed: bool) -> np.ndarray:
        """The prompt as int32[1, S], right-padded to the app's bucket where the cache is fixed."""
        length = len(self.prompt_ids)
        padded_len = buckets.prefill_bucket(length, self.capacity) if is_fixed else length
        padded = np.zeros((BATCH_SIZE, padded_len), np.int32)
        padded[0, :length] = self.prompt_ids
        return padded


def make_model(shape: Shape, prompt_len: int, num_tokens: int) -> ShapedModel:
    """The model with random weights on JAX's first device, and a prompt of `prompt_len` tokens.

    Raises:
        CapacityError: prompt and new tokens do not fit the shape's context.
    """
    mesh = make_mesh(1)
    module = _on_meta(shape)
    weights = _random_weights(module, shape, sharding.named_sharding(mesh, ()))
    causal_lm = CausalLM(module, {name: name for name in weights})
    geometry = layer_geometry(module)
    config = module.config
    capacity = buckets.cache_capacity(prompt_len, num_tokens, config.max_position_embeddings, 8192, None)
    prompt = np.random.default_rng(0).integers(config.vocab_size, size=prompt_len)
    kv_shardings = (sharding.named_sharding(mesh, ()),) * len(geometry)
    programs = Programs(causal_lm, mesh, kv_shardings)
    return ShapedModel(shape, causal_lm, weights, geometry, programs, tuple(prompt.tolist()), capacity)


def torch_twin(model: ShapedModel) -> Any:
    """The same model in plain torch, on the same device, over the same memory. Keep `model` while it lives."""
    module = _on_meta(model.shape)
    borrowed = {name: from_dlpack(array) for name, array in model.weights.items()}
    module.load_state_dict({name: borrowed[name] for name, _ in module.named_parameters()}, assign=True)
    for name, _ in list(module.named_buffers()):
        path, _, attribute = name.rpartition(".")
        setattr(module.get_submodule(path), attribute, borrowed[name])
    return module.requires_grad_(False)


def _on_meta(shape: Shape) -> Any:
    """The model's code, its parameters in the shape's dtype without memory behind them."""
    with torch.device("meta"):
        module = LlamaForCausalLM(LlamaConfig(**shape.config, tie_word_embeddings=False))
    return module.to(getattr(torch, shape.dtype)).eval()


def _random_weights(module: Any, shape: Shape, placed: jax.sharding.Sharding) -> Weights:
    """Every parameter and buffer under its name: norms one, matrices random, rotary frequencies as they must be."""
    dtype = jnp.dtype(shape.dtype)
    key = jax.random.key(0)
    weights: Weights = {}
    for index, (name, parameter) in enumerate(module.named_parameters()):
        if parameter.ndim == 1:
            array = jnp.ones(tuple(parameter.shape), dtype)
        else:
            array = _normal(jax.random.fold_in(key, index), tuple(parameter.shape), dtype, shape.weights_std)
        weights[name] = jax.device_put(array, placed)
    rotary = type(module.model.rotary_emb)(module.config)  # outside the meta device, so its buffers are computed
    for name, buffer in rotary.named_buffers():
        weights[f"model.rotary_emb.{name}"] = jax.device_put(buffer.numpy(), placed)
    return jax.block_until_ready(weights)


@functools.partial(jax.jit, static_argnames=("shape", "dtype"))
def _normal(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype, std: float) -> jax.Array:
    return (std * jax.random.normal(key, shape)).astype(dtype)
