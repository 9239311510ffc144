"""The source article's case: a Llama-2-7B-shaped model in bfloat16, a short prompt, 50 new tokens, on one GPU.

    python3 -m benchmarks.article [--shape llama-2-7b|small --new-tokens N --eager-new-tokens N --limit-s S --out FILE]

Random weights are made on the device, so nothing is downloaded. `--shape small` tries the command out on a CPU; its figures
are not the article's. A GPU machine's own torch and JAX will do, but torchax and Transformers must be those of
requirements.txt (their wheels on PYTHONPATH). Knows nothing of the engine: it calls the same prefill, decode step and
programs as the engine does.
"""

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import jax

from benchmarks import measuring, torch_peer
from benchmarks.jax_runs import Steps, eager_steps, jit_steps, timed_run, timed_run_ahead
from benchmarks.llama_shape import SHAPES, ShapedModel, make_model, torch_twin
from benchmarks.measuring import TimedRun, spread
from hfjax_demo.errors import DeviceError, HfJaxDemoError

RESULTS = Path(__file__).parent / "results"
BANDWIDTH_BYTES = {"gpu": 4 * 2**30, "cpu": 64 * 2**20}

EAGER_GROWING = "eager, growing cache"
EAGER_FIXED = "eager, fixed cache"
JIT_COLD = "jit, fixed cache, with compilation"
JIT_WARM = "jit, fixed cache, compiled already"
JIT_AHEAD = "jit, fixed cache, compiled already, tokens fetched at the end"
TORCH_GROWING = "plain torch, growing cache"
TORCH_FIXED = "plain torch, fixed cache"
TORCH_AHEAD = "plain torch, growing cache, tokens fetched at the end"
ARTICLE_S = {EAGER_GROWING: 130.9, EAGER_FIXED: 88.4, JIT_COLD: 14.77}
"""Seconds for 50 tokens in the source article, on its author's machine."""
ROWS = (EAGER_GROWING, EAGER_FIXED, JIT_COLD, JIT_WARM, JIT_AHEAD, TORCH_GROWING, TORCH_FIXED, TORCH_AHEAD)

TRIAL = "GPU ROW OPEN"
"""The condition that marks a run as no measurement of the article's case."""

Runs = dict[str, list[TimedRun]]


def measure(model: ShapedModel, options: argparse.Namespace, save: Callable[[Runs], None]) -> Runs:
    """Every row, the sure and quick ones first; `save` gets what there is after each."""
    runs: Runs = {}

    def cold(row: str, steps: Steps, is_fixed: bool, num_tokens: int) -> None:
        _say(row)
        jax.clear_caches()  # no row profits from what another compiled
        runs[row] = [timed_run(model, steps, is_fixed, num_tokens, options.limit_s)]
        save(runs)

    cold(JIT_COLD, jit_steps(model), True, options.new_tokens)
    _measure_warm(model, options, runs)
    save(runs)
    cold(EAGER_FIXED, eager_steps(model), True, options.eager_new_tokens)
    cold(EAGER_GROWING, eager_steps(model), False, options.eager_new_tokens)
    return runs


def _measure_warm(model: ShapedModel, options: argparse.Namespace, runs: Runs) -> None:
    """Jit and torch in turns, after a round that is not counted."""
    steps, twin, num_tokens = jit_steps(model), torch_twin(model), options.new_tokens
    loop = partial(torch_peer.timed_loop, twin, model.prompt_ids, num_tokens)
    warm: dict[str, Callable[[], TimedRun]] = {
        JIT_WARM: partial(timed_run, model, steps, True, num_tokens, options.limit_s),
        JIT_AHEAD: partial(timed_run_ahead, model, steps, num_tokens),
        TORCH_GROWING: partial(loop, None),
        TORCH_FIXED: partial(loop, model.capacity),
        TORCH_AHEAD: partial(loop, None, fetch_each=False),
    }
    for number in range(options.rounds + 1):
        _say(f"warm rounds: {number} of {options.rounds}")
        for row, run in warm.items():
            measured = run()
            if number:
                runs.setdefault(row, []).append(measured)


def report(runs: Runs, facts: dict[str, str], limit_tokens_per_s: float, wanted: dict[str, int]) -> str:
    """The measurement as Markdown; rows without runs yet stand as open."""
    reference = runs[JIT_COLD][0].token_ids
    rows = [_row(row, runs.get(row, []), limit_tokens_per_s, wanted[row], reference, TRIAL not in facts) for row in ROWS]
    header = (
        "row", "article, s", "here, s", "tokens", "of which trace + compile, s", "compilations", "prefill, ms",
        "decode, tokens/s", "of the limit", "tokens as jit's",
    )  # fmt: skip
    notes = [f"- {name}: {text}" for name, text in facts.items()]
    return "\n".join(["# The article's case", "", *notes, "", measuring.markdown_table(header, rows), ""])


def _row(
    row: str, runs: Sequence[TimedRun], limit: float, wanted: int, reference: Sequence[int], is_article: bool
) -> tuple[str, ...]:
    article = f"{ARTICLE_S[row]:g}" if row in ARTICLE_S and is_article else ""
    if not runs:
        return (row, article, "open", *[""] * 7)
    made = len(runs[0].token_ids)
    speeds = spread(run.tokens_per_s for run in runs)
    agreeing = min(measuring.agreeing_len(run.token_ids, reference) for run in runs)
    return (
        row,
        article,
        spread(run.total_s for run in runs).text(3),
        f"{made}" if made == wanted else f"{made} of {wanted} (time limit)",
        f"{spread(run.trace_s + run.compile_s for run in runs).median:.2f}",
        f"{runs[0].num_compiles:,}",
        spread(1000 * run.prefill_s for run in runs).text(),
        speeds.text(2 if speeds.median < 10 else 1),
        f"{100 * speeds.median / limit:.1f} %",
        f"{agreeing} of {made}",
    )


def all_tokens_agree(runs: Runs) -> bool:
    """Whether every row's tokens are those of the compiled run, as far as both go."""
    reference = runs[JIT_COLD][0].token_ids
    everything = [run.token_ids for row in runs.values() for run in row]
    return all(measuring.agreeing_len(tokens, reference) == min(len(tokens), len(reference)) for tokens in everything)


def facts_of(model: ShapedModel, options: argparse.Namespace) -> tuple[dict[str, str], float]:
    """The conditions, and the tokens per second at which reading weights fills the device's memory bandwidth."""
    device = jax.devices()[0]
    bandwidth = measuring.device_gb_per_s(BANDWIDTH_BYTES["gpu" if device.platform == "gpu" else "cpu"])
    num_bytes = torch_peer.weight_bytes_per_token(model.causal_lm.module)
    limit = max(bandwidth.values()) * 1e9 / num_bytes
    facts = {
        "device": f"{device.device_kind} ({device.platform}), driver {measuring.nvidia_driver()}",
        **measuring.conditions(),
        "model": f"{model.shape.name}, {model.shape.dtype}, random weights made on the device; {model.shape.config}",
        "tokens": f"prompt {len(model.prompt_ids)}, new {options.new_tokens} (eager {options.eager_new_tokens}), batch 1, "
        f"greedy; fixed cache of {model.capacity} positions",
        "memory bandwidth": f"{bandwidth['read']:,.1f} GB/s read (a sum), {bandwidth['copy']:,.1f} GB/s read and written",
        "limit": f"{limit:,.1f} tokens/s: a step reads {num_bytes / 1e6:,.1f} MB of weights",
        "how": f"eager and 'with compilation': one run each, after jax.clear_caches(), at most {options.limit_s:g} s; the "
        f"others: medians of {options.rounds} runs in turns (least–most). 'decode, tokens/s' is without trace and compile.",
    }
    if device.platform != "gpu" or options.shape != "llama-2-7b":
        facts[TRIAL] = "this is a trial of the command, NOT the article's case, so its seconds are left out"
    return facts, limit


def run(options: argparse.Namespace) -> int:
    """Measures, prints, and writes the report where asked."""
    device = jax.devices()[0]
    if options.shape == "llama-2-7b" and device.platform != "gpu":
        raise DeviceError(
            f"Llama-2-7B's shape needs a GPU with about 16 GB, but JAX's first device is {device.device_kind} "
            f"({device.platform}). Run it on such a machine, or try the command out with --shape small."
        )
    model = make_model(SHAPES[options.shape], options.prompt_len, max(options.new_tokens, options.eager_new_tokens))
    facts, limit = facts_of(model, options)
    wanted = {row: options.eager_new_tokens if row in (EAGER_GROWING, EAGER_FIXED) else options.new_tokens for row in ROWS}
    slug = re.sub(r"[^a-z0-9]+", "-", device.device_kind.lower()).strip("-")
    out = options.out or (RESULTS / f"article-{slug}.md" if device.platform == "gpu" else None)

    def save(runs: Runs) -> None:
        if out:
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(report(runs, facts, limit, wanted))

    runs = measure(model, options, save)
    print(report(runs, facts, limit, wanted))
    if model.shape.dtype == "float32" and not all_tokens_agree(runs):
        _say("The rows' tokens must be the same in float32, but they are not; see the last column.")
        return 1
    return 0


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python3 -m benchmarks.article", description=__doc__.partition("\n")[0])
    parser.add_argument("--shape", choices=sorted(SHAPES), default="llama-2-7b", help="small runs on a CPU")
    parser.add_argument("--prompt-len", type=int, default=8, metavar="N")
    parser.add_argument("--new-tokens", type=int, default=50, metavar="N", help="of jit and torch, the first included")
    parser.add_argument("--eager-new-tokens", type=int, metavar="N", help="default: 50, for the small shape 8")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="of the rows that run warm")
    parser.add_argument("--limit-s", type=float, default=150.0, metavar="S", help="seconds that a row may take")
    parser.add_argument("--out", type=Path, metavar="FILE", help="default on a GPU: benchmarks/results/article-<device>.md")
    options = parser.parse_args(arguments)
    if options.eager_new_tokens is None:
        options.eager_new_tokens = 8 if options.shape == "small" else 50
    if min(options.prompt_len, options.rounds) < 1 or min(options.new_tokens, options.eager_new_tokens) < 2:
        parser.error("--prompt-len and --rounds must be at least 1, token counts at least 2")
    if options.limit_s <= 0:
        parser.error("--limit-s must be above 0")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark; 1 where float32 tokens differ, 2 where something expected failed."""
    options = parse(arguments)
    # Read when JAX first touches a device: torch needs room beside it, and JAX would take 75 % of the memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    try:
        return run(options)
    except HfJaxDemoError as err:
        _say(str(err))
        return 2


if __name__ == "__main__":
    sys.exit(main())
