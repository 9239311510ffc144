"""What every benchmark measures with: timed runs, medians and ratios, memory bandwidth, conditions, tables.

Absolute speeds of a shared machine drift by a third within the hour, so what is compared runs in turns and ratios are taken
inside a round. Knows nothing of models, nor of what is compared.
"""

import os
import platform
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import torch

from hfjax_demo.inference.environment import num_cores

CPU_FACTS = Path("/proc/cpuinfo")
HOST_READ_BYTES = 512 * 2**20
"""Far beyond any cache, so that a sum over it reads memory."""


@dataclass(frozen=True)
class StepTime:
    """One step: wall seconds from inputs to the token on the host, and what of it went into building programs.

    Attributes:
        duration_s: everything included.
        trace_s: of which tracing and lowering.
        compile_s: of which compiling.
        num_compiles: XLA compilations.
    """

    duration_s: float
    trace_s: float = 0.0
    compile_s: float = 0.0
    num_compiles: int = 0

    @property
    def work_s(self) -> float:
        """Seconds without tracing and compiling."""
        return self.duration_s - self.trace_s - self.compile_s


@dataclass(frozen=True)
class TimedRun:
    """One generation: the prefill gives the first token, each decode step one more.

    Attributes:
        token_ids: the new tokens.
        steps: the prefill, then the decode steps; one entry may stand for many steps that were not timed apart.
    """

    token_ids: tuple[int, ...]
    steps: tuple[StepTime, ...]

    @property
    def prefill_s(self) -> float:
        """Seconds to the first token, without tracing and compiling."""
        return self.steps[0].work_s

    @property
    def total_s(self) -> float:
        """Seconds of all steps, everything included."""
        return sum(step.duration_s for step in self.steps)

    @property
    def trace_s(self) -> float:
        """Seconds tracing and lowering."""
        return sum(step.trace_s for step in self.steps)

    @property
    def compile_s(self) -> float:
        """Seconds compiling."""
        return sum(step.compile_s for step in self.steps)

    @property
    def num_compiles(self) -> int:
        """XLA compilations, prefill included."""
        return sum(step.num_compiles for step in self.steps)

    @property
    def tokens_per_s(self) -> float:
        """Decode steps per second, tracing and compiling left out; 0 where there was none."""
        return self._per_s(step.work_s for step in self.steps[1:])

    @property
    def tokens_per_s_with_compile(self) -> float:
        """Decode steps per second, tracing and compiling included; 0 where there was none."""
        return self._per_s(step.duration_s for step in self.steps[1:])

    def _per_s(self, seconds: Iterable[float]) -> float:
        decode_s = sum(seconds)
        return (len(self.token_ids) - 1) / decode_s if decode_s else 0.0


@dataclass(frozen=True)
class Spread:
    """Several measurements of one thing: their median, least and most."""

    median: float
    least: float
    most: float

    def text(self, digits: int = 1) -> str:
        """`median (least–most)`; the median alone where all agree to `digits` decimals."""
        median, least, most = (f"{value:,.{digits}f}" for value in (self.median, self.least, self.most))
        return median if least == most else f"{median} ({least}–{most})"


def spread(values: Iterable[float]) -> Spread:
    """The spread of at least one value."""
    ordered = sorted(values)
    return Spread(statistics.median(ordered), ordered[0], ordered[-1])


def pairwise_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Spread:
    """The spread of the ratios within each round, which a machine's drift between rounds does not touch."""
    return spread(above / below for above, below in zip(numerators, denominators, strict=True))


def agreeing_len(token_ids: Sequence[int], reference: Sequence[int]) -> int:
    """How many tokens at the start of both are the same."""
    pairs = list(zip(token_ids, reference, strict=False))
    return next((index for index, (token, other) in enumerate(pairs) if token != other), len(pairs))


def verdict(expectation: str, measured: float, least: float) -> str:
    """One line that says whether `measured` is at least `least`."""
    word = "holds" if measured >= least else "does not hold"
    return f"{word}: {expectation}: {measured:.2f}, expected at least {least:g}"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table that also reads well as text: first column to the left, the others to the right."""
    table = [tuple(header), *(tuple(row) for row in rows)]
    widths = [max(len(cell) for cell in column) for column in zip(*table, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first = cells[0].ljust(widths[0])
        others = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        return "| " + " | ".join([first, *others]) + " |"

    rule = "|".join(["", "-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:]), ""])
    return "\n".join([line(table[0]), rule, *(line(row) for row in table[1:])])


def host_read_gb_per_s(num_bytes: int = HOST_READ_BYTES, repeats: int = 5) -> float:
    """How fast torch's threads read host memory: the best of `repeats` sums over one array, in 1e9 bytes per second."""
    data = torch.ones(num_bytes // 4, dtype=torch.float32)
    return num_bytes / _least_s(data.sum, repeats) / 1e9


def device_gb_per_s(num_bytes: int, repeats: int = 5) -> dict[str, float]:
    """How fast JAX's first device reads, and reads and writes, its memory, in 1e9 bytes per second.

    Args:
        num_bytes: of the array; a copy of it is made beside it.
        repeats: the best of so many counts.

    Returns:
        "read": of a sum; "copy": of a copy, bytes read and written both counted.
    """
    data = jnp.ones(num_bytes // 4, jnp.float32)
    total = jax.jit(jnp.sum)
    negated = jax.jit(jnp.negative)  # a plain copy might be optimised away
    read_s = _least_s(lambda: jax.block_until_ready(total(data)), repeats)
    copy_s = _least_s(lambda: jax.block_until_ready(negated(data)), repeats)
    return {"read": num_bytes / read_s / 1e9, "copy": 2 * num_bytes / copy_s / 1e9}


def _least_s(work: Callable[[], Any], repeats: int) -> float:
    """Wall seconds of the quickest of `repeats` calls, after one that is not counted."""
    work()
    durations = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        durations.append(time.perf_counter() - started)
    return min(durations)


def conditions() -> dict[str, str]:
    """The machine and the versions that decide speed, and how busy the machine is now."""
    load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
    packages = ("torch", "torchax", "jax", "jaxlib", "transformers")
    return {
        "CPU": f"{cpu_name()}, {num_cores()} cores",
        "load average at the start": f"{load} (1, 5, 15 minutes)",
        "python": platform.python_version(),
        **{name: _version(name) for name in packages},
    }


def cpu_name() -> str:
    """The processor as the system names it."""
    if CPU_FACTS.is_file():
        for line in CPU_FACTS.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def nvidia_driver() -> str:
    """The first NVIDIA card's driver version, "none" where there is no such card."""
    if shutil.which("nvidia-smi") is None:
        return "none"
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, check=False, timeout=30)
    return answer.stdout.strip().partition("\n")[0] or "unknown"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
