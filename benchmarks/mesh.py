"""Decode speed and bytes per device by tensor-parallel size, in turns, in one process.

    python -m benchmarks.mesh [--sizes 1,2,3,4,8 --rounds N --new-tokens N --model M --json FILE]

On a CPU the devices are virtual and share its cores, so a larger mesh can only be slower: what is measured there is what
splitting costs, and whether tokens and bytes are what they should be. An engine for each size keeps its weights and
programs, so that nothing is loaded or compiled between the rounds.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import measuring
from benchmarks.decode import PROMPT, run_of
from benchmarks.decode_report import QUIET_LOAD
from benchmarks.measuring import TimedRun, pairwise_ratio, spread
from hfjax_demo.catalog import DEFAULT_MODEL
from hfjax_demo.errors import HfJaxDemoError
from hfjax_demo.events import RunRecord
from hfjax_demo.inference.engine import InferenceEngine
from hfjax_demo.kv_shapes import DTYPE_BYTES
from hfjax_demo.model_plan import Inspection
from hfjax_demo.requests import GenerationRequest
from hfjax_demo.settings import Settings

SIZES = (1, 2, 3, 4, 8)
SHARED_CORES = (
    "The devices are virtual and share the CPU's cores: a larger mesh does the same work in smaller parts, what does not "
    "divide once a device, and communicates. The last column shows that overhead; speed needs devices of their own."
)


@dataclass(frozen=True)
class DeviceBytes:
    """What one device holds: read off the arrays, and planned from the config alone. The plan's weights only, no buffers."""

    weights: int
    planned_weights: int
    kv: int
    planned_kv: int

    @property
    def is_as_planned(self) -> bool:
        """To the byte."""
        return (self.weights, self.kv) == (self.planned_weights, self.planned_kv)


@dataclass(frozen=True)
class SizeMeasurement:
    """One tensor-parallel size.

    Attributes:
        size: devices of the mesh.
        bytes_per_device: measured and planned.
        communication: of one decode step, in words; empty where there is none.
        first: the first run, which traces and compiles.
        runs: one a round, warm.
    """

    size: int
    bytes_per_device: DeviceBytes
    communication: str
    first: TimedRun
    runs: list[TimedRun]

    @property
    def speeds(self) -> list[float]:
        """Decode tokens per second, per round."""
        return [run.tokens_per_s for run in self.runs]


@dataclass(frozen=True)
class Measurement:
    """What one call of this benchmark measured: name -> condition, the load average before it, and every size."""

    conditions: dict[str, str]
    load_average: float
    backend: str
    sizes: list[SizeMeasurement]

    def differing(self) -> list[int]:
        """The sizes whose tokens are not those of the first run."""
        reference = self.sizes[0].first.token_ids
        return [each.size for each in self.sizes if any(run.token_ids != reference for run in (each.first, *each.runs))]

    def misplanned(self) -> list[int]:
        """The sizes at which a device holds other bytes than planned."""
        return [each.size for each in self.sizes if not each.bytes_per_device.is_as_planned]


def measure(options: argparse.Namespace) -> Measurement:
    """Loads the model once for each size and runs the rounds; progress goes to stderr."""
    facts, load_average = measuring.conditions(), os.getloadavg()[0]  # first: loading raises the load average
    settings = Settings.from_environment(devices=max(options.sizes))
    with contextlib.ExitStack() as stack:
        engines = {size: stack.enter_context(InferenceEngine(settings)) for size in options.sizes}
        records = {size: _first(engine, options, size) for size, engine in engines.items()}
        sizes = [_measurement(engines[size], record) for size, record in records.items()]
        for number in range(options.rounds):
            _say(f"round {number + 1} of {options.rounds}")
            for each in sizes:
                each.runs.append(run_of(engines[each.size].generate(_request(options, each.size), allow_local=True)))
    record = records[options.sizes[0]]
    facts |= {
        "model": f"{record.model.name} ({record.model.num_parameters:,} parameters), {record.model.dtype}",
        "devices": f"{record.environment.num_devices} of kind {record.environment.device_kind}",
        "prompt, new tokens": f"{len(record.prompt_ids)}, {options.new_tokens}, greedy; jit",
        "fixed cache": f"{record.steps[0].kv[0].capacity} positions, batch 1",
        "rounds": str(options.rounds),
    }
    return Measurement(facts, load_average, record.environment.backend, sizes)


def _first(engine: InferenceEngine, options: argparse.Namespace, size: int) -> RunRecord:
    _say(f"tensor-parallel size {size}, first run")
    return engine.generate(_request(options, size), allow_local=True)


def _request(options: argparse.Namespace, size: int) -> GenerationRequest:
    return GenerationRequest(
        PROMPT, options.model, max_new_tokens=options.new_tokens, ignore_eos=True, tensor_parallel=size
    )  # fmt: skip


def _measurement(engine: InferenceEngine, record: RunRecord) -> SizeMeasurement:
    size = record.request.tensor_parallel
    context_len = record.steps[0].kv[0].capacity
    plan = engine.inspect(record.request.model, allow_local=True, context_len=context_len, tensor_parallel=size)
    return SizeMeasurement(size, bytes_per_device(record, plan), _communication(record), run_of(record), [])


def bytes_per_device(record: RunRecord, plan: Inspection) -> DeviceBytes:
    """What a run's devices held against what was planned; of devices that differ, the fullest."""
    planned = (plan.weights.bytes_per_device, plan.kv_cache.bytes_per_device)
    if record.mesh is None:  # one device holds everything
        weights, kv = record.model.num_parameters * DTYPE_BYTES[record.model.dtype], record.summary.kv_bytes
    else:
        names = {tensor.name for tensor in plan.weights.tensors}
        weights = sum(array.bytes_per_device for array in record.mesh.weights if array.name in names)
        kv = max(device.kv_bytes for device in record.mesh.devices)
    return DeviceBytes(weights, planned[0], kv, planned[1])


def _communication(record: RunRecord) -> str:
    if record.mesh is None:
        return ""
    every_step = [each for each in record.mesh.programs[-1].collectives if not each.is_conditional]
    return ", ".join(f"{each.count} {each.kind} {each.bytes / 1e3:,.0f} kB" for each in every_step)


def report(measured: Measurement) -> str:
    """The whole measurement as text."""
    differing, misplanned = measured.differing(), measured.misplanned()
    lines = [f"{name}: {text}" for name, text in measured.conditions.items()]
    if measured.load_average > QUIET_LOAD:
        lines.append(f"NOT QUIET: the load average was {measured.load_average:.2f} before the start. Measure again later.")
    lines += ["", "Warm: everything compiled before. Medians over the rounds (least–most); ratios taken within a round."]
    lines += [SHARED_CORES] if measured.backend == "cpu" else []
    lines += [
        _speed_table(measured),
        "",
        "Bytes on one device, MB, read off the arrays and planned from the config.",
        _bytes_table(measured),
        "",
        f"tokens identical: {'no: size ' + ', '.join(map(str, differing)) if differing else 'yes'}",
        f"bytes as planned: {'no: size ' + ', '.join(map(str, misplanned)) if misplanned else 'yes, to the byte'}",
    ]
    return "\n".join(lines)


def _speed_table(measured: Measurement) -> str:
    reference = measured.sizes[0]

    def row(each: SizeMeasurement) -> list[str]:
        return [
            str(each.size),
            spread(1000 * run.prefill_s for run in each.runs).text(0),
            spread(each.speeds).text(1),
            each.communication,
            pairwise_ratio(each.speeds, reference.speeds).text(2),
        ]

    header = ("size", "prefill, ms", "decode, tokens/s", "a decode step communicates", f"this / size {reference.size}")
    return measuring.markdown_table(header, map(row, measured.sizes))


def _bytes_table(measured: Measurement) -> str:
    def row(each: SizeMeasurement) -> list[str]:
        held = each.bytes_per_device
        sizes = (held.weights, held.planned_weights, held.kv, held.planned_kv)
        return [str(each.size), *(f"{size / 1e6:,.3f}" for size in sizes)]

    header = ("size", "weights", "planned", "KV cache", "planned")
    return measuring.markdown_table(header, map(row, measured.sizes))


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _sizes(text: str) -> tuple[int, ...]:
    sizes = tuple(int(size) for size in text.split(","))
    if min(sizes) < 1 or len(set(sizes)) < len(sizes):
        raise ValueError(text)
    return sizes


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mesh", description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default=DEFAULT_MODEL, help="catalog name, Hub id, or local folder")
    parser.add_argument("--sizes", type=_sizes, default=SIZES, metavar="T,T", help="ratios are over the first")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument("--new-tokens", type=int, default=32, metavar="N", help="the first included")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every step's figures")
    options = parser.parse_args(arguments)
    if options.rounds < 1 or options.new_tokens < 2:
        parser.error("--rounds must be at least 1 and --new-tokens at least 2")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints; 1 where tokens differ or bytes are not as planned, 2 where something expected failed."""
    options = parse(arguments)
    try:
        measured = measure(options)
    except HfJaxDemoError as err:
        _say(str(err))
        return 2
    print(report(measured))
    if options.json:
        options.json.write_text(
            json.dumps({"schema": "hfjax_demo.benchmarks.mesh.v1", **dataclasses.asdict(measured)}) + "\n"
        )
    return 1 if measured.differing() or measured.misplanned() else 0


if __name__ == "__main__":
    sys.exit(main())
