"""Prefill and decode step: pure functions from weights, cache, position and tokens to the next token and cache.

One request, batch B (the app uses 1). Called as they are they run eagerly, operator by operator; called through `jax.jit`
(see `programs`) they become one compiled program. Everything that changes is an argument: weights closed over would
become constants of the program. Knows nothing of requests, text or when to stop.
"""

import inspect
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import torch

from hfjax_demo.errors import UnsupportedModelError
from hfjax_demo.inference.environment import OperatorNotFound, jax_view, torch_view, torchax_env
from hfjax_demo.inference.gathered_outputs import outputs_joined
from hfjax_demo.inference.kv_cache import KVCache, from_hf_cache, to_hf_cache
from hfjax_demo.inference.mesh_layout import MeshLayout
from hfjax_demo.inference.sampling import SamplingParams, sample

Weights = dict[str, jax.Array]


@dataclass(frozen=True)
class CausalLM:
    """A Transformers causal language model as code without weights.

    Attributes:
        module: the model, its parameters and buffers on torch's meta device.
        aliases: every parameter and buffer name -> the name its array has in `Weights`; tied names share one.
        layout: how it lies on its mesh; None for none, which is one device.
    """

    module: torch.nn.Module
    aliases: dict[str, str]
    layout: MeshLayout | None = None

    @property
    def config(self) -> Any:
        """The model's Transformers config."""
        return self.module.config

    @property
    def keeps_chosen_logits(self) -> bool:
        """Whether `forward` can compute the logits of chosen positions only."""
        return "logits_to_keep" in inspect.signature(self.module.forward).parameters


def forward(
    model: CausalLM,
    weights: Weights,
    cache: KVCache | None,
    position: jax.Array,
    input_ids: jax.Array,
    last_index: jax.Array,
) -> tuple[jax.Array, KVCache | None]:
    """One pass of the unchanged PyTorch model over JAX arrays.

    Args:
        model: the code.
        weights: canonical name -> array, parameters and buffers.
        cache: keys and values of earlier positions, or None to use no cache.
        position: int32 scalar, positions filled so far.
        input_ids: int32[B, S]; right-padding is allowed where the cache is fixed: causal masks never look right.
        last_index: int32 scalar, index in S of the last real token.

    Returns:
        Logits float[B, V] after that token, and the cache with the S new positions written.

    Raises:
        UnsupportedModelError: the model uses an operator that torchax cannot lower.
    """
    kwargs: dict[str, Any] = {"use_cache": cache is not None}
    if model.keeps_chosen_logits:
        kwargs["logits_to_keep"] = torch_view(jnp.asarray(last_index)[None])
    with torchax_env(), torch.no_grad(), outputs_joined(model.module, model.layout):
        if cache is not None:
            kwargs["past_key_values"] = to_hf_cache(cache, position, model.config, model.layout)
        dressed = {name: torch_view(weights[canonical]) for name, canonical in model.aliases.items()}
        inputs = (torch_view(jnp.asarray(input_ids)),)
        try:
            output = torch.func.functional_call(model.module, dressed, inputs, kwargs, tie_weights=False)
        except OperatorNotFound as err:
            raise UnsupportedModelError(
                f"Every operator of a model needs a JAX lowering, but {type(model.module).__name__} uses one that torchax "
                f"lacks: {err}. Use another model."
            ) from err
        logits = jax_view(output.logits)
    if cache is not None:
        cache = from_hf_cache(kwargs["past_key_values"], cache, input_ids.shape[1])
    if model.keeps_chosen_logits:
        last_logits = logits[:, -1]
    else:
        last_logits = jax.lax.dynamic_index_in_dim(logits, last_index, axis=1, keepdims=False)
    return _joined(last_logits, model.layout), cache


def _joined(logits: jax.Array, layout: MeshLayout | None) -> jax.Array:
    """Each device's share of the logits [B, V] made whole on all of them: one all-gather of V numbers.

    Left to itself XLA gathers inside each branch of the sampling: little where that is greedy, and all of it several times
    where it sorts. Joined here, a step's communication is the same whatever the sampling, and every device draws the same.
    """
    return logits if layout is None else layout.joined(logits)


def prefill(
    model: CausalLM,
    weights: Weights,
    cache: KVCache | None,
    input_ids: jax.Array,
    prompt_len: jax.Array,
    sampling: SamplingParams,
) -> tuple[jax.Array, KVCache | None]:
    """Reads the whole prompt into an empty cache and gives the first new token.

    Without a cache this is also every later step: the whole sequence again.

    Args:
        model: the code.
        weights: canonical name -> array.
        cache: empty, or None.
        input_ids: int32[B, S], right-padded where S > prompt_len.
        prompt_len: int32 scalar, real tokens in `input_ids`.
        sampling: scalars.

    Returns:
        Next token int32[B] and the cache holding the prompt.
    """
    last_index = prompt_len - 1
    logits, cache = forward(model, weights, cache, jnp.zeros((), jnp.int32), input_ids, last_index)
    return sample(logits, sampling, prompt_len), cache


def decode_step(
    model: CausalLM,
    weights: Weights,
    cache: KVCache,
    position: jax.Array,
    token_ids: jax.Array,
    sampling: SamplingParams,
) -> tuple[jax.Array, KVCache | None]:
    """Reads one token and gives the next.

    Args:
        model: the code.
        weights: canonical name -> array.
        cache: holds `position` positions; donated where this is compiled over a fixed cache.
        position: int32 scalar, index in the sequence of the token read.
        token_ids: int32[B], the token read.
        sampling: scalars.

    Returns:
        Next token int32[B] and the cache with one position more.
    """
    input_ids = jnp.asarray(token_ids)[:, None]
    logits, new_cache = forward(model, weights, cache, position, input_ids, jnp.zeros((), jnp.int32))
    return sample(logits, sampling, position + 1), new_cache
