"""The peer: the same model in plain PyTorch, no JAX anywhere, by `generate` and by the leanest loop.

`generate` does bookkeeping at every token that a hand-written loop leaves out, so both are measured and the better one is
what this project is compared with. Knows nothing of where a model comes from.
"""

import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from transformers import DynamicCache, StaticCache
from transformers.generation.streamers import BaseStreamer

from benchmarks.measuring import StepTime, TimedRun


class _Clock(BaseStreamer):
    """Notes when `generate` hands out the prompt (just before the prefill) and each token."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, _value: torch.Tensor) -> None:
        """Called by `generate`, with values that are on the host already."""
        self.times.append(time.perf_counter())

    def end(self) -> None:
        """Called by `generate` after the last token."""


def timed_generate(model: Any, prompt_ids: Sequence[int], num_tokens: int) -> TimedRun:
    """`model.generate`, greedy, exactly `num_tokens` new tokens, each step timed."""
    clock = _Clock()
    input_ids = torch.tensor([list(prompt_ids)], device=model.device)
    with torch.inference_mode():
        output = model.generate(
            input_ids,
            attention_mask=torch.ones_like(input_ids),
            max_new_tokens=num_tokens,
            do_sample=False,
            streamer=clock,
        )
    steps = tuple(StepTime(after - before) for before, after in pairwise(clock.times))
    return TimedRun(tuple(output[0, len(prompt_ids) :].tolist()), steps)


def never_stop(model: Any) -> None:
    """Makes `generate` go on past end-of-sequence tokens, so that every path makes the same number of tokens."""
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0


def timed_loop(
    model: Any, prompt_ids: Sequence[int], num_tokens: int, capacity: int | None, fetch_each: bool = True
) -> TimedRun:
    """Forward and argmax, nothing else.

    Args:
        model: a Transformers causal language model with real weights.
        prompt_ids: the prompt's tokens.
        num_tokens: new tokens, the first one included.
        capacity: positions of a fixed cache, None for one that grows.
        fetch_each: bring each token to the host before the next step, as a program that shows them must; else all at
            the end, where an accelerator may run ahead of Python.

    Returns:
        The run; without `fetch_each` its decode is one entry.
    """
    config = model.config
    cache = DynamicCache(config=config) if capacity is None else StaticCache(config=config, max_cache_len=capacity)
    input_ids = torch.tensor([list(prompt_ids)], device=model.device)
    tokens: list[torch.Tensor] = []
    marks = [time.perf_counter()]
    with torch.inference_mode():
        for index in range(num_tokens):
            logits = model(input_ids=input_ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
            input_ids = logits[:, -1].argmax(dim=-1, keepdim=True)
            tokens.append(input_ids.cpu() if fetch_each or index == 0 else input_ids)  # .cpu() waits for the device
            if fetch_each or index == 0:
                marks.append(time.perf_counter())
        token_ids = torch.cat([token.cpu() for token in tokens], dim=1)[0].tolist()
    if not fetch_each:
        marks.append(time.perf_counter())
    steps = tuple(StepTime(after - before) for before, after in pairwise(marks))
    return TimedRun(tuple(token_ids), steps)


def weight_bytes_per_token(model: Any) -> int:
    """Bytes of weights that one decode step must read: all, less an input embedding that is not also the output's.

    Of a separate input embedding a step reads one row. Works on a model without memory ("meta") too.
    """
    total = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    return total if embedding is head else total - embedding.numel() * embedding.element_size()
