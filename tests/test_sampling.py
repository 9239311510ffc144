"""Sampling on device: what is drawn, what it depends on, and that changing parameters compiles nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from hfjax_demo.inference.compile_log import recording
from hfjax_demo.inference.sampling import SamplingParams, sample


def params(seed=0, temperature=1.0, top_k=0, top_p=1.0):
    return SamplingParams(np.uint32(seed), np.float32(temperature), np.int32(top_k), np.float32(top_p))


def logits_of(vocab_size=50, batch=1):
    return jax.random.normal(jax.random.key(3), (batch, vocab_size)) * 3


def draws(logits, sampling, count=400):
    return {int(sample(logits, sampling, np.int32(position))[0]) for position in range(count)}


def allowed_by_transformers(logits, temperature, top_k, top_p):
    scores = torch.tensor(np.asarray(logits))
    warpers = [TemperatureLogitsWarper(temperature)]
    warpers += [TopKLogitsWarper(top_k)] if top_k else []
    warpers += [TopPLogitsWarper(top_p)] if top_p < 1 else []
    for warper in warpers:
        scores = warper(None, scores)
    return set(torch.nonzero(torch.isfinite(scores[0])).flatten().tolist())


def test_temperature_zero_is_greedy():
    logits = logits_of(batch=4)
    assert sample(logits, params(temperature=0.0), np.int32(5)).tolist() == jnp.argmax(logits, axis=-1).tolist()


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [(1.0, 5, 1.0), (0.7, 0, 0.8), (1.5, 10, 0.9), (2.0, 3, 0.99), (1.0, 1, 1.0), (1.0, 0, 1e-6)],
)
def test_only_tokens_that_transformers_allows_are_drawn_and_all_of_them_are(temperature, top_k, top_p):
    logits = logits_of()
    allowed = allowed_by_transformers(logits, temperature, top_k, top_p)
    seen = draws(logits, params(temperature=temperature, top_k=top_k, top_p=top_p))
    assert seen <= allowed
    likely = {int(token) for token in jnp.argsort(-logits[0])[: min(3, len(allowed))]}
    assert likely <= seen


def test_frequencies_follow_the_probabilities():
    logits = jnp.log(jnp.asarray([[0.5, 0.3, 0.2]]))
    tokens = [int(sample(logits, params(), np.int32(position))[0]) for position in range(2000)]
    frequencies = np.bincount(tokens, minlength=3) / 2000
    np.testing.assert_allclose(frequencies, [0.5, 0.3, 0.2], atol=0.04)


def test_the_same_seed_and_position_give_the_same_token_and_others_differ():
    logits = logits_of(vocab_size=500)
    first = [int(sample(logits, params(seed=7, temperature=3.0), np.int32(p))[0]) for p in range(20)]
    again = [int(sample(logits, params(seed=7, temperature=3.0), np.int32(p))[0]) for p in range(20)]
    other = [int(sample(logits, params(seed=8, temperature=3.0), np.int32(p))[0]) for p in range(20)]
    assert first == again
    assert first != other
    assert len(set(first)) > 5


def test_changing_parameters_compiles_nothing():
    logits = logits_of()
    sample(logits, params(), np.int32(0))
    with recording() as log:
        for sampling in (params(seed=9), params(temperature=0.0), params(top_k=3, top_p=0.5), params(temperature=9.0)):
            sample(logits, sampling, np.int32(4))
    assert log.num_compiles == 0
    assert log.spans == []
