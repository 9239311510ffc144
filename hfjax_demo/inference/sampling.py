"""From logits to the next token, on device. Pure; knows nothing of models, caches or text.

Temperature, top-k, top-p and the seed are array arguments, so changing them compiles nothing. The key of a token
depends on the seed and the token's position alone: every mode and cache samples the same tokens.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hfjax_demo.requests import GenerationRequest


class SamplingParams(NamedTuple):
    """The sampling arguments of a step, all scalars.

    Attributes:
        seed: uint32.
        temperature: float32; 0 is greedy.
        top_k: int32; 0 is off.
        top_p: float32; 1 is off.
    """

    seed: np.uint32
    temperature: np.float32
    top_k: np.int32
    top_p: np.float32

    @classmethod
    def of(cls, request: GenerationRequest) -> "SamplingParams":
        """The request's parameters with the exact dtypes that keep a compiled step from retracing."""
        return cls(
            np.uint32(request.seed),
            np.float32(request.temperature),
            np.int32(request.top_k),
            np.float32(request.top_p),
        )


@jax.jit
def sample(logits: jax.Array, params: SamplingParams, position: jax.Array) -> jax.Array:
    """The next token of each sequence. Compiled on its own, so eager steps do not retrace its branches.

    Args:
        logits: float[B, V].
        params: scalars; see `SamplingParams`.
        position: int32 scalar, the new token's index in its sequence.

    Returns:
        int32[B]: the likeliest token if temperature is 0, else one drawn from what top-k and top-p leave.
    """
    logits = logits.astype(jnp.float32)
    return jax.lax.cond(
        params.temperature > 0,
        lambda: _draw(logits, params, position),
        lambda: jnp.argmax(logits, axis=-1).astype(jnp.int32),
    )


def _draw(logits: jax.Array, params: SamplingParams, position: jax.Array) -> jax.Array:
    """Draws by the order of Transformers' warpers: temperature, then top-k, then top-p of what is left."""
    scaled = logits / params.temperature
    descending = -jnp.sort(-scaled, axis=-1)
    vocab_size = logits.shape[-1]
    kept = jnp.where(params.top_k > 0, jnp.minimum(params.top_k, vocab_size), vocab_size)
    rank = jnp.arange(vocab_size)
    probabilities = jax.nn.softmax(jnp.where(rank < kept, descending, -jnp.inf), axis=-1)
    before = jnp.cumsum(probabilities, axis=-1) - probabilities
    # The likeliest token always stays: the probability before it is 0, and top_p is above 0. Rounding lets `before` end a
    # little off 1, so neither "off" nor top-k may depend on it.
    is_kept = (rank < kept) & ((before < params.top_p) | (params.top_p >= 1))
    smallest = jnp.min(jnp.where(is_kept, descending, jnp.inf), axis=-1, keepdims=True)
    allowed = jnp.where(scaled >= smallest, scaled, -jnp.inf)
    key = jax.random.fold_in(jax.random.key(params.seed), position)
    return jax.random.categorical(key, allowed, axis=-1).astype(jnp.int32)
