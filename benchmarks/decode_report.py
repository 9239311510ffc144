"""What `benchmarks.decode` measured, and how it reads as tables and verdicts. Pure; measures nothing."""

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks import measuring
from benchmarks.measuring import Spread, TimedRun, pairwise_ratio, spread

JIT = "jit, fixed cache"
GENERATE = "plain torch, generate"
TORCH_GROWING = "plain torch, loop, growing cache"
TORCH_FIXED = "plain torch, loop, fixed cache"
TORCH_ONE_THREAD = "plain torch, loop, growing cache, 1 thread"
EAGER_GROWING = "eager, growing cache"
EAGER_FIXED = "eager, fixed cache"
COLD = ", cold"
TORCH_PATHS = (GENERATE, TORCH_GROWING, TORCH_FIXED, TORCH_ONE_THREAD)
WARM_PATHS = (JIT, *TORCH_PATHS, EAGER_GROWING, EAGER_FIXED)
QUIET_LOAD = 0.5
"""A one-minute load average above this is somebody else's work: torch's spinning threads suffer from it most."""
EXPECTED_OVER_TORCH = 1.0
EXPECTED_OVER_EAGER = 20.0


@dataclass(frozen=True)
class Round:
    """Every path once: the run of each by name, and the read bandwidth (1e9 bytes/s) just before them."""

    read_gb_per_s: float
    runs: dict[str, TimedRun]


@dataclass(frozen=True)
class Measurement:
    """What one call of this benchmark measured.

    Attributes:
        conditions: name -> text.
        load_average: of the minute before the start.
        bytes_per_token: weights read by a decode step.
        load_s: seconds to load the model for the first run.
        first_jit: the first run, which traces and compiles.
        rounds: the rest.
    """

    conditions: dict[str, str]
    load_average: float
    bytes_per_token: int
    load_s: float
    first_jit: TimedRun
    rounds: list[Round]

    def speeds(self, path: str, with_compile: bool = False) -> list[float]:
        """Decode tokens per second of `path`, per round."""
        runs = [one.runs[path] for one in self.rounds]
        return [run.tokens_per_s_with_compile if with_compile else run.tokens_per_s for run in runs]

    def limits(self) -> list[float]:
        """Tokens per second at which reading the weights alone would fill the memory's bandwidth, per round."""
        return [one.read_gb_per_s * 1e9 / self.bytes_per_token for one in self.rounds]

    def differing(self) -> list[str]:
        """The paths whose tokens are not those of the first run."""
        reference = self.first_jit.token_ids
        runs = [item for one in self.rounds for item in one.runs.items()]
        return sorted({name for name, run in runs if run.token_ids != reference[: len(run.token_ids)]})


def report(measured: Measurement) -> str:
    """The whole measurement as text."""
    limit = spread(measured.limits())
    bandwidth = spread(one.read_gb_per_s for one in measured.rounds)
    differing = measured.differing()
    lines = [f"{name}: {text}" for name, text in measured.conditions.items()]
    lines += [
        f"memory read bandwidth: {bandwidth.text()} GB/s",
        f"weights read per token: {measured.bytes_per_token / 1e6:.1f} MB, so the limit is {limit.text()} tokens/s",
        *_busy_warning(measured),
        "",
        "Warm: everything compiled before. Medians over the rounds (least–most); ratios taken within a round.",
        _warm_table(measured),
        "",
        "Cold: what the first run (jit) or a run after jax.clear_caches() (eager) had to trace and compile.",
        _cold_table(measured),
        "",
        f"tokens identical: {'no: ' + '; '.join(differing) if differing else 'yes'}",
        *verdicts(measured),
    ]
    return "\n".join(lines)


def _busy_warning(measured: Measurement) -> list[str]:
    """A line where something else was running: the machine's cores are shared, and ratios suffer too."""
    if measured.load_average <= QUIET_LOAD:
        return []
    return [
        f"NOT QUIET: the load average was {measured.load_average:.2f} before the start. Measure again on an idle machine."
    ]


def _warm_table(measured: Measurement) -> str:
    def row(path: str) -> list[str]:
        speeds = measured.speeds(path)
        return [
            path,
            spread(1000 * one.runs[path].prefill_s for one in measured.rounds).text(0),
            spread(speeds).text(2 if path in (EAGER_GROWING, EAGER_FIXED) else 1),
            f"{100 * pairwise_ratio(speeds, measured.limits()).median:.0f} %",
            pairwise_ratio(measured.speeds(JIT), speeds).text(2),
        ]

    header = ("path", "prefill, ms", "decode, tokens/s", "of the limit", "jit / this")
    return measuring.markdown_table(header, map(row, WARM_PATHS))


def _cold_table(measured: Measurement) -> str:
    def row(path: str, runs: Sequence[TimedRun], load_s: str, ratio: Spread | None) -> list[str]:
        return [
            path,
            load_s,
            spread(run.trace_s for run in runs).text(),
            spread(run.compile_s for run in runs).text(),
            spread(run.num_compiles for run in runs).text(0),
            spread(run.tokens_per_s for run in runs).text(2),
            spread(run.tokens_per_s_with_compile for run in runs).text(2),
            ratio.text(1) if ratio else "",
        ]

    rows = [row(JIT + ", first run", [measured.first_jit], f"{measured.load_s:.1f}", None)]
    for path in (EAGER_GROWING + COLD, EAGER_FIXED + COLD):
        ratio = pairwise_ratio(measured.speeds(JIT), measured.speeds(path, with_compile=True))
        rows.append(row(path, [one.runs[path] for one in measured.rounds], "", ratio))
    header = (
        "path",
        "load, s",
        "trace, s",
        "compile, s",
        "compilations",
        "decode without",
        "decode with",
        "warm jit / with",
    )
    return measuring.markdown_table(header, rows)


def verdicts(measured: Measurement) -> list[str]:
    """The two expectations and the figure for each."""
    best = max(TORCH_PATHS, key=lambda path: spread(measured.speeds(path)).median)
    jit = measured.speeds(JIT)
    over_torch = pairwise_ratio(jit, measured.speeds(best))
    over_eager = pairwise_ratio(jit, measured.speeds(EAGER_GROWING + COLD, with_compile=True))
    over_warm = pairwise_ratio(jit, measured.speeds(EAGER_GROWING))
    return [
        measuring.verdict(f"jit decode / {best} (torch's best here)", over_torch.median, EXPECTED_OVER_TORCH),
        measuring.verdict("jit decode / eager decode with its compilations", over_eager.median, EXPECTED_OVER_EAGER)
        + f" (without compilations: {over_warm.median:.2f})",
    ]
