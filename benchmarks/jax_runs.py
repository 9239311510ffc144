"""This project's prefill and decode step, eager and compiled, timed without the engine around them.

Makes the same calls as the engine, on token ids. Knows nothing of tokenizers, requests or what is compared.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.llama_shape import ShapedModel
from benchmarks.measuring import StepTime, TimedRun
from hfjax_demo.inference import compile_log
from hfjax_demo.inference.decoding import decode_step, prefill
from hfjax_demo.inference.sampling import SamplingParams

GREEDY = SamplingParams(np.uint32(0), np.float32(0), np.int32(0), np.float32(1))

Step = Callable[..., tuple[jax.Array, Any]]


@dataclass(frozen=True)
class Steps:
    """The two functions of a way to decode, both `(weights, cache, scalar, tokens or ids, sampling) -> (token, cache)`."""

    prefill: Step
    decode_step: Step


def eager_steps(model: ShapedModel) -> Steps:
    """Operator by operator; the scalars go to the device as they do in the engine."""

    def call(function: Callable[..., Any], weights: Any, cache: Any, first: Any, second: Any, sampling: Any) -> Any:
        return function(model.causal_lm, weights, cache, jnp.asarray(first), jnp.asarray(second), sampling)

    return Steps(partial(call, prefill), partial(call, decode_step))


def jit_steps(model: ShapedModel) -> Steps:
    """As compiled programs; the first call of each compiles it."""

    def silent(_: object) -> None:
        """Nobody watches the compilations."""

    programs = model.programs
    return Steps(partial(programs.prefill, on_compile=silent), partial(programs.decode_step, on_compile=silent))


def timed_run(model: ShapedModel, steps: Steps, is_fixed: bool, num_tokens: int, limit_s: float) -> TimedRun:
    """One generation, each token brought to the host before the next; ends after the token at which `limit_s` is over."""
    cache = model.empty_cache(is_fixed)
    token: jax.Array | None = None
    token_ids: list[int] = []
    times: list[StepTime] = []
    started = time.perf_counter()
    while not token_ids or (len(token_ids) < num_tokens and time.perf_counter() - started < limit_s):
        with compile_log.recording() as log:
            step_started = time.perf_counter()
            if token is None:
                prompt_len = np.int32(len(model.prompt_ids))
                token, cache = steps.prefill(model.weights, cache, model.input_ids(is_fixed), prompt_len, GREEDY)
            else:
                position = np.int32(len(model.prompt_ids) + len(token_ids) - 1)
                token, cache = steps.decode_step(model.weights, cache, position, token, GREEDY)
            token_ids.append(int(np.asarray(token)[0]))  # waits for the device
            duration_s = time.perf_counter() - step_started
        times.append(StepTime(duration_s, log.trace_s, log.compile_s, log.num_compiles))
    return TimedRun(tuple(token_ids), tuple(times))


def timed_run_ahead(model: ShapedModel, steps: Steps, num_tokens: int) -> TimedRun:
    """One generation over a fixed cache whose decode steps are all dispatched before the first token is fetched."""
    marks = [time.perf_counter()]
    prompt_len = len(model.prompt_ids)
    cache = model.empty_cache(is_fixed=True)
    token, cache = steps.prefill(model.weights, cache, model.input_ids(True), np.int32(prompt_len), GREEDY)
    tokens = [jax.block_until_ready(token)]
    marks.append(time.perf_counter())
    for position in range(prompt_len, prompt_len + num_tokens - 1):
        token, cache = steps.decode_step(model.weights, cache, np.int32(position), token, GREEDY)
        tokens.append(token)
    token_ids = tuple(int(np.asarray(token)[0]) for token in tokens)
    marks.append(time.perf_counter())
    return TimedRun(token_ids, (StepTime(marks[1] - marks[0]), StepTime(marks[2] - marks[1])))
