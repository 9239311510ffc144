"""Decode speed on this machine's CPU: jit and eager through torchax against plain torch, in turns, in one process.

    python -m benchmarks.decode [--rounds N --new-tokens N --eager-new-tokens N --model M --json FILE]

Every round runs every path once, one after the other. Cold and warm runs are separate rows; tracing and compiling are
reported apart. Goes through the engine's public parts only.
"""

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import torch
from transformers import AutoModelForCausalLM

from benchmarks import measuring, torch_peer
from benchmarks.decode_report import (
    COLD,
    EAGER_FIXED,
    EAGER_GROWING,
    GENERATE,
    JIT,
    TORCH_FIXED,
    TORCH_GROWING,
    TORCH_ONE_THREAD,
    Measurement,
    Round,
    report,
)
from benchmarks.measuring import StepTime, TimedRun
from hfjax_demo.catalog import DEFAULT_MODEL
from hfjax_demo.errors import HfJaxDemoError
from hfjax_demo.events import RunRecord
from hfjax_demo.inference.engine import InferenceEngine
from hfjax_demo.inference.environment import num_cores
from hfjax_demo.inference.gguf_conversion import prefer_converted
from hfjax_demo.inference.model_config import quiet_transformers
from hfjax_demo.inference.model_sources import resolve
from hfjax_demo.requests import CacheKind, ExecutionMode, GenerationRequest
from hfjax_demo.settings import Settings

PROMPT = "The secret to baking a good cake is"
Contestant = Callable[[], TimedRun]


def run_of(record: RunRecord) -> TimedRun:
    """A run record's tokens and times."""
    steps = (StepTime(step.duration_s, step.trace_s, step.compile_s, step.num_compiles) for step in record.steps)
    return TimedRun(record.token_ids, tuple(steps))


def measure(options: argparse.Namespace) -> Measurement:
    """Loads the model twice (once for JAX, once for torch) and runs the rounds; progress goes to stderr."""
    facts, load_average = measuring.conditions(), os.getloadavg()[0]  # first: loading raises the load average
    torch.set_num_threads(num_cores())
    settings = Settings.from_environment()
    with InferenceEngine(settings) as engine:
        _say("jit, first run")
        first = engine.generate(_request(options, ExecutionMode.JIT, CacheKind.STATIC), allow_local=True)
        with quiet_transformers():
            peer = _load_peer(options.model, settings)
        paths = _paths(engine, options, first, peer)
        torch_peer.timed_loop(peer, first.prompt_ids, 4, None)  # torch's first run sets up its threads and buffers
        rounds = []
        for number in range(options.rounds):
            _say(f"round {number + 1} of {options.rounds}")
            bandwidth = measuring.host_read_gb_per_s()
            rounds.append(Round(bandwidth, {name: run() for name, run in paths.items()}))
    facts |= {
        "model": f"{first.model.name} ({first.model.num_parameters:,} parameters), {first.model.dtype}, on the CPU",
        "prompt, new tokens": f"{len(first.prompt_ids)}, {options.new_tokens} (eager: {options.eager_new_tokens}), greedy",
        "fixed cache": f"{first.steps[0].kv[0].capacity} positions, batch 1",
        "rounds, threads": f"{options.rounds}, {torch.get_num_threads()} (torch), {num_cores()} (XLA)",
    }
    num_bytes = torch_peer.weight_bytes_per_token(peer)
    return Measurement(facts, load_average, num_bytes, first.summary.load_s, run_of(first), rounds)


def _load_peer(model: str, settings: Settings) -> Any:
    """The same weights in plain torch, read from the same files."""
    source = prefer_converted(resolve(model, lambda *_: None, allow_local=True), settings.cache_dir)
    peer = AutoModelForCausalLM.from_pretrained(source.folder, dtype=torch.float32, local_files_only=True).eval()
    torch_peer.never_stop(peer)
    return peer


def _request(options: argparse.Namespace, mode: ExecutionMode, cache: CacheKind) -> GenerationRequest:
    num_tokens = options.new_tokens if mode is ExecutionMode.JIT else options.eager_new_tokens
    return GenerationRequest(
        prompt=options.prompt, model=options.model, mode=mode, cache=cache, max_new_tokens=num_tokens, ignore_eos=True
    )


def _paths(engine: InferenceEngine, options: argparse.Namespace, first: RunRecord, peer: Any) -> dict[str, Contestant]:
    """Name -> what runs it once, in the order of a round; those closest in speed stand beside each other."""

    def by_engine(mode: ExecutionMode, cache: CacheKind, is_cold: bool = False) -> TimedRun:
        if is_cold:
            jax.clear_caches()  # eager operators compile again; the engine's own compiled programs stay
        return run_of(engine.generate(_request(options, mode, cache), allow_local=True))

    def by_one_thread() -> TimedRun:
        torch.set_num_threads(1)
        try:
            return loop(None)
        finally:
            torch.set_num_threads(num_cores())

    growing = partial(by_engine, ExecutionMode.EAGER, CacheKind.DYNAMIC)
    fixed = partial(by_engine, ExecutionMode.EAGER, CacheKind.STATIC)
    loop = partial(torch_peer.timed_loop, peer, first.prompt_ids, options.new_tokens)
    return {
        JIT: partial(by_engine, ExecutionMode.JIT, CacheKind.STATIC),
        GENERATE: partial(torch_peer.timed_generate, peer, first.prompt_ids, options.new_tokens),
        TORCH_GROWING: partial(loop, None),
        TORCH_FIXED: partial(loop, first.steps[0].kv[0].capacity),
        TORCH_ONE_THREAD: by_one_thread,
        EAGER_GROWING + COLD: partial(growing, is_cold=True),
        EAGER_GROWING: growing,
        EAGER_FIXED + COLD: partial(fixed, is_cold=True),
        EAGER_FIXED: fixed,
    }


def to_json(measured: Measurement) -> str:
    """Every step of every run."""
    return json.dumps({"schema": "hfjax_demo.benchmarks.decode.v1", **dataclasses.asdict(measured)}, indent=1)


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decode", description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default=DEFAULT_MODEL, help="catalog name, Hub id, or local folder")
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument("--new-tokens", type=int, default=64, metavar="N", help="of jit and torch, the first included")
    parser.add_argument("--eager-new-tokens", type=int, default=8, metavar="N", help="eager takes about a second each")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every step's figures")
    options = parser.parse_args(arguments)
    if options.rounds < 1 or not 2 <= options.eager_new_tokens <= options.new_tokens:
        parser.error("--rounds must be at least 1, and 2 <= --eager-new-tokens <= --new-tokens")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints; 1 where the paths' tokens differ, 2 where something expected failed."""
    options = parse(arguments)
    try:
        measured = measure(options)
    except HfJaxDemoError as err:
        _say(str(err))
        return 2
    print(report(measured))
    if options.json:
        options.json.write_text(to_json(measured) + "\n")
    return 1 if measured.differing() else 0


if __name__ == "__main__":
    sys.exit(main())
