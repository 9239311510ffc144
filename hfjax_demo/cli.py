"""The command line: `python -m hfjax_demo generate | inspect | models`.

JSON goes to stdout alone; text streams to stdout where no JSON is asked for; progress and logs go to stderr. An expected
failure prints one line and exits 2. Imports torch and JAX only once a command needs them, so `--help` is instant. Knows
nothing of how anything is computed.
"""

import argparse
import contextlib
import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from hfjax_demo import __version__
from hfjax_demo.catalog import DEFAULT_MODEL
from hfjax_demo.config_text import MAX_CONFIG_BYTES
from hfjax_demo.csv_text import csv_text
from hfjax_demo.errors import HfJaxDemoError, InvalidRequestError
from hfjax_demo.events import (
    CompilingEvent,
    Event,
    FinishedEvent,
    LoadingEvent,
    RunRecord,
    StartedEvent,
    StepEvent,
)
from hfjax_demo.flags import add_engine_flags, settings_from, whole_number
from hfjax_demo.kv_shapes import DTYPE_BYTES
from hfjax_demo.mesh_report import MeshReport
from hfjax_demo.plain_json import to_dict
from hfjax_demo.plan_tables import TABLES
from hfjax_demo.plan_text import plan_lines
from hfjax_demo.requests import ExecutionMode, GenerationRequest
from hfjax_demo.settings import Settings

EXPECTED_FAILURE = 2
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: without the program's name; None means the process's own.

    Returns:
        The exit status: 0, 2 for an expected failure, 130 when interrupted.
    """
    logging.basicConfig(level=os.environ.get("HFJAX_DEMO_LOG_LEVEL", "WARNING"), stream=sys.stderr)
    try:
        options = _parser().parse_args(arguments)
        status: int = options.run(options)
        return status
    except HfJaxDemoError as err:
        print("error:", *str(err).split(), file=sys.stderr)  # one line, whatever a file name or a library put into it
        return EXPECTED_FAILURE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output went away, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes it once more at exit
        return 0


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are this project's: one line, exit 2."""

    def error(self, message: str) -> NoReturn:
        """Raises instead of printing the usage."""
        raise InvalidRequestError(f"{message}. See `{self.prog} --help`.")


def _real(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number but is {text!r}") from None


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m hfjax_demo", description="Hugging Face models on JAX through torchax, made visible.")
    parser.add_argument("--version", action="version", version=f"hfjax_demo {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_generate(commands.add_parser("generate", help="continue a prompt and record every step"))
    _add_inspect(commands.add_parser("inspect", help="plan a model's cache and weights from its config"))
    models = commands.add_parser("models", help="list the models of the picker")
    models.add_argument("--json", action="store_true", help="print JSON")
    models.set_defaults(run=_run_models)
    return parser


def _add_model_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--model", default=DEFAULT_MODEL, help="catalog name, Hub id, or local folder or .gguf file")
    command.add_argument("--dtype", default="float32", help=f"of weights and cache: {', '.join(DTYPE_BYTES)}")
    command.add_argument("--tensor-parallel", type=whole_number, metavar="T", help="devices to split over; 1 for no split")
    command.add_argument("--json", action="store_true", help="print one JSON object to stdout")


def _add_generate(command: argparse.ArgumentParser) -> None:
    _add_model_options(command)
    command.add_argument("--prompt", required=True, help="the text to continue; '-' reads it from stdin")
    command.add_argument("--mode", default=ExecutionMode.JIT, help="eager or jit")
    command.add_argument("--cache", help="none, dynamic or static; default: eager dynamic, jit static")
    command.add_argument("--chat", action="store_true", help="wrap the prompt in the model's chat template")
    command.add_argument("--max-new-tokens", type=whole_number, default=64, metavar="N", help="the first one included")
    command.add_argument("--ignore-eos", action="store_true", help="do not stop at the end-of-sequence token")
    command.add_argument("--temperature", type=_real, default=0.0, metavar="T", help="0 is greedy")
    command.add_argument("--top-k", type=whole_number, default=0, metavar="K", help="0 is off")
    command.add_argument("--top-p", type=_real, default=1.0, metavar="P", help="1 is off")
    command.add_argument("--seed", type=whole_number, default=0, metavar="S")
    command.add_argument("--max-cache-len", type=whole_number, metavar="L", help="positions of the fixed cache")
    add_engine_flags(command)
    command.set_defaults(run=_run_generate)


def _add_inspect(command: argparse.ArgumentParser) -> None:
    _add_model_options(command)
    command.add_argument("--context-len", type=whole_number, metavar="L", help="positions; default: the model's context")
    command.add_argument("--batch-size", type=whole_number, default=1, metavar="B")
    command.add_argument("--config", metavar="FILE", help="a config.json to plan for in place of --model; '-' reads stdin")
    command.add_argument("--csv", choices=tuple(TABLES), help="print one table as CSV instead")
    command.set_defaults(run=_run_inspect)


def _run_generate(options: argparse.Namespace) -> int:
    settings = settings_from(options)
    request = GenerationRequest(
        prompt=_read_stdin() if options.prompt == "-" else options.prompt,
        model=options.model,
        mode=options.mode,
        cache=options.cache,
        chat=options.chat,
        max_new_tokens=options.max_new_tokens,
        ignore_eos=options.ignore_eos,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        seed=options.seed,
        dtype=options.dtype,
        tensor_parallel=settings.num_processes if options.tensor_parallel is None else options.tensor_parallel,
        max_cache_len=options.max_cache_len,
    )
    status = _StatusLine()
    with _library_output_to_stderr(even_native=settings.num_processes > 1) as stdout:
        from hfjax_demo.inference.engine import InferenceEngine
        from hfjax_demo.inference.follower import follow

        if settings.process_id > 0:
            follow(settings)
            return 0
        with InferenceEngine(settings) as engine:
            stream = engine.submit(request, allow_local=True)
            record: RunRecord | None = None
            for event in stream:
                status.show(event)
                if isinstance(event, StepEvent) and not options.json:
                    status.clear()
                    print(event.text, end="", file=stdout, flush=True)
                if isinstance(event, FinishedEvent):
                    record = event.record
            status.clear()
            if record is None:
                raise stream.error
            if options.json:
                json.dump(to_dict(record), stdout)  # ASCII: any stdout can take it
            print(file=stdout, flush=True)
            _print_summary(record)
    return 0


def _read_stdin() -> str:
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as err:
        raise InvalidRequestError(
            f"The prompt must be {err.encoding} text but byte {err.start} of stdin is not. Send it in that encoding, or set "
            "PYTHONUTF8=1 and send UTF-8.",
            field="prompt",
        ) from err


def _run_inspect(options: argparse.Namespace) -> int:
    if options.csv and options.json:
        raise InvalidRequestError("--csv and --json each print one thing alone, but both were given. Use one of them.")
    status = _StatusLine()
    config = _read_config(options.config)
    with _library_output_to_stderr() as stdout:
        from hfjax_demo.inference.inspection import inspect_config, inspect_model

        numbers = {name: getattr(options, name) for name in ("context_len", "batch_size", "dtype")}
        numbers["tensor_parallel"] = 1 if options.tensor_parallel is None else options.tensor_parallel
        if config is None:
            settings = Settings.from_environment()
            inspection = inspect_model(options.model, settings, status.show_stage, allow_local=True, **numbers)
        else:
            inspection = inspect_config(config, **numbers)
        status.clear()
        if options.json:
            json.dump(to_dict(inspection), stdout)
            print(file=stdout)
        elif options.csv:
            print(csv_text(*TABLES[options.csv](inspection)), end="", file=stdout)
        else:
            print(*plan_lines(inspection), sep="\n", file=stdout)
    return 0


def _read_config(place: str | None) -> str | None:
    """The text of `--config`, one character more than is allowed at most, so that a huge file is not read."""
    if place is None:
        return None
    try:
        with contextlib.nullcontext(sys.stdin) if place == "-" else Path(place).open(encoding="utf-8") as file:
            return file.read(MAX_CONFIG_BYTES + 1)
    except (OSError, ValueError) as err:
        reason = "it is not UTF-8 text" if isinstance(err, UnicodeDecodeError) else getattr(err, "strerror", None) or err
        raise InvalidRequestError(
            f"--config must be a file that can be read but {place[:200]!r} is not ({reason}). Check the path.",
            field="config",
        ) from err


def _run_models(options: argparse.Namespace) -> int:
    with _library_output_to_stderr() as stdout:
        from hfjax_demo.inference.model_sources import catalog_status

        statuses = catalog_status()
        if options.json:
            rows = [
                {**to_dict(model), "status": status, "is_default": model.name == DEFAULT_MODEL} for model, status in statuses
            ]
            json.dump({"schema": "hfjax_demo.models.v1", "models": rows}, stdout)
            print(file=stdout)
            return 0
        for model, status in statuses:
            size = f"{model.num_parameters / 1e6:,.0f} M"
            print(f"{model.name:24s}{size:>9s}  {status:11s} {model.hub_id:40s} {model.note}", file=stdout)
    return 0


def _print_summary(record: RunRecord) -> None:
    summary = record.summary
    last = record.steps[-1] if record.steps else None
    shape = f"{len(last.kv)} layers x 2 x {last.kv[0].key_shape}" if last and last.kv else "no cache"
    print(
        f"{len(record.token_ids)} tokens ({record.finish_reason}) · {record.request.mode}, cache {record.request.cache} · "
        f"load {summary.load_s:.1f} s · first token {summary.time_to_first_token_s:.2f} s · prefill "
        f"{summary.prefill_s:.3f} s · trace {summary.trace_s:.2f} s · compile {summary.compile_s:.2f} s "
        f"({summary.num_compiles}) · decode {summary.decode_s:.2f} s · {summary.tokens_per_s:.1f} tokens/s · KV cache "
        f"{shape} {summary.kv_bytes / 1e6:.1f} MB · peak memory {summary.peak_rss_bytes / 1e9:.2f} GB",
        file=sys.stderr,
    )
    if record.mesh is not None:
        _print_mesh(record.mesh)


def _print_mesh(mesh: MeshReport) -> None:
    """What the run's devices held, and what its last program (in jit, the decode step) communicates."""
    most = {what: max(getattr(device, what) for device in mesh.devices) for what in ("weights_bytes", "kv_bytes")}
    line = (
        f"mesh of {len(mesh.devices)} devices · on each, weights {most['weights_bytes'] / 1e6:.1f} MB, KV cache "
        f"{most['kv_bytes'] / 1e6:.1f} MB"
    )
    if mesh.programs:
        last = mesh.programs[-1]
        every_call = [collective for collective in last.collectives if not collective.is_conditional]
        parts = [f"{each.count} {each.kind} ({each.bytes / 1e3:.1f} kB)" for each in every_call]
        line += f" · {last.program}: {', '.join(parts) or 'no communication'}"
    print(line, file=sys.stderr)


@contextlib.contextmanager
def _library_output_to_stderr(even_native: bool = False) -> Any:
    """Gives the real stdout to the block and sends everyone else's prints to stderr: JSON is alone on stdout.

    Args:
        even_native: also what C++ prints past Python, as the collectives of several processes do.
    """
    stdout = sys.stdout
    if even_native:
        stdout.flush()
        stdout = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding=stdout.encoding)
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    with contextlib.redirect_stdout(sys.stderr):
        yield stdout


class _StatusLine:
    """What is happening now, on stderr: one line that is written over on a terminal, a line per change elsewhere."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._stage = ""
        self._shown_at = 0.0

    def show(self, event: Event) -> None:
        """Shows what an event says is happening; tokens are shown by their text."""
        if isinstance(event, LoadingEvent):
            self.show_stage(event.stage, event.fraction)
        elif isinstance(event, StartedEvent):
            self.show_stage(f"running on {event.environment.backend}, {len(event.prompt_ids)} prompt tokens", None)
        elif isinstance(event, CompilingEvent):
            self.show_stage(f"{event.stage} {event.program} ({event.reason})", None)

    def show_stage(self, stage: str, fraction: float | None) -> None:
        """Shows a stage and how far it is."""
        now = time.monotonic()
        if self._is_terminal:
            if stage == self._stage and now - self._shown_at < 0.1 and fraction != 1.0:
                return
            percent = "" if fraction is None else f" {fraction:.0%}"
            print(f"\r\x1b[K{stage}{percent}"[:200], end="", file=sys.stderr, flush=True)
        elif stage != self._stage:
            print(stage, file=sys.stderr, flush=True)
        self._stage, self._shown_at = stage, now

    def clear(self) -> None:
        """Wipes the line, so that what follows starts clean."""
        if self._is_terminal and self._stage:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            self._stage = ""
