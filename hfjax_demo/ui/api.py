"""The JSON API and the tools that agents see (MCP): five functions with stable names, types and descriptions.

Gradio makes the documents of both from signatures and docstrings: of an argument's text it takes the first line alone, and
what comes back must be said before `Args`. Nothing here may name a local path. Knows nothing of the page.
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Literal

import gradio as gr
from gradio.events import api as add_endpoint

from hfjax_demo.catalog import DEFAULT_MODEL
from hfjax_demo.comparison import compare_runs
from hfjax_demo.errors import HfJaxDemoError, InvalidRequestError
from hfjax_demo.events import Event, FailedEvent, FinishedEvent, RunRecord
from hfjax_demo.limits import allowed_catalog, check_may_inspect, may_type_any_model, offered_models
from hfjax_demo.plain_json import to_dict
from hfjax_demo.requests import GenerationRequest, shown_value
from hfjax_demo.ui.inputs import request_from

if TYPE_CHECKING:
    from hfjax_demo.inference.engine import InferenceEngine

logger = logging.getLogger(__name__)

COMPARED_SCHEMA = "hfjax_demo.compared.v1"
DEVICE_INFO_SCHEMA = "hfjax_demo.device_info.v1"
MODELS_SCHEMA = "hfjax_demo.models.v1"
SHOWN_LIMITS = (
    "max_new_tokens",
    "max_prompt_chars",
    "max_cache_len",
    "jit_growing_max_new_tokens",
    "time_limit_s",
    "max_waiting",
)
UNEXPECTED = "Something went wrong inside the app; the log has the details. Try again, or try another model."

Mode = Literal["eager", "jit"]
Cache = Literal["none", "dynamic", "static"]
Dtype = Literal["float32", "bfloat16", "float16"]


def create_api(engine: "InferenceEngine") -> None:
    """Registers the five functions in the current Blocks."""
    api = JsonApi(engine)
    for function in (api.generate, api.compare):
        add_endpoint(function, api_name=function.__name__, concurrency_limit=None)
    # Not queued: agents need no place among the runs for these, and POST /gradio_api/run/models answers by itself.
    for quick in (api.kv_cache_shapes, api.models, api.device_info):
        add_endpoint(quick, api_name=quick.__name__, concurrency_limit=None, queue=False)


class ApiError(gr.Error):
    """Its message goes to a program: it is not escaped, and without the quotes that Gradio's own has for agents."""

    def __init__(self, message: str) -> None:
        """Leaves no traceback in the log: that is for the unexpected, which is logged where it is caught."""
        super().__init__(message, print_exception=False)

    def __str__(self) -> str:
        return str(self.message)


class JsonApi:
    """The functions, each a coroutine or an asynchronous generator: nobody who waits holds a thread."""

    def __init__(self, engine: "InferenceEngine") -> None:
        """Takes the engine that serves the requests."""
        self._engine = engine

    async def generate(
        self,
        caller: gr.Request,
        prompt: str,
        model: str = DEFAULT_MODEL,
        mode: Mode = "jit",
        cache: Cache | None = None,
        chat: bool = False,
        max_new_tokens: int = 64,
        ignore_eos: bool = False,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        dtype: Dtype = "float32",
        tensor_parallel: int = 1,
        max_cache_len: int | None = None,
        include_steps: bool = False,
    ) -> AsyncIterator[Any]:
        """Continue a prompt with a language model on JAX, and tell what every step did, compiled and cost.

        Streams the run's events, JSON objects with a `type`: QueuedEvent, LoadingEvent, StartedEvent, CompilingEvent, a
        StepEvent for each token (text, shapes, seconds, compilations and why, every layer's KV cache), and last a
        FinishedEvent. Its `record` is the whole run: `text`, `token_ids`, `finish_reason` ("eos", "length" or "time_limit"),
        `model`, `environment`, and in `summary` seconds, tokens per second, number of compilations and bytes.
        A tool call returns the FinishedEvent alone and runs to its end; leaving a stream stops its run within one step.

        Args:
            caller: of the call; Gradio gives it.
            prompt: Text to continue, or the user's message if `chat`.
            model: Name from `models`, or a Hugging Face Hub id where `models` says that any may be typed.
            mode: "jit" runs one compiled program a token, "eager" operator by operator.
            cache: KV cache, "static" (fixed), "dynamic" (grows) or "none" (eager only). Default: jit static, eager dynamic.
            chat: Whether to wrap the prompt in the model's chat template. Default: false.
            max_new_tokens: Tokens to generate at most, from 1; `device_info` has the operator's limit. Default: 64.
            ignore_eos: Whether to go on after the end-of-sequence token. Default: false.
            temperature: 0 is greedy, always the likeliest token; about 0.7 to sample. Default: 0.
            top_k: Sample among the k likeliest tokens; 0 is off. Default: 0.
            top_p: Sample among the likeliest tokens whose probabilities reach p, above 0 to 1; 1 is off. Default: 1.
            seed: Of the random numbers, 0 to 4294967295. Default: 0.
            dtype: Of weights and cache; tokens are exact in float32. Default: "float32".
            tensor_parallel: Devices that weights and cache are split over, from 1; `device_info` says how many there are.
            max_cache_len: Positions of the fixed cache; left out, the smallest size that fits prompt and new tokens.
            include_steps: Whether the FinishedEvent's record repeats every StepEvent in its `steps`. Default: false.
        """
        with _errors_told():
            fields = (prompt, model, mode, cache, chat, max_new_tokens, ignore_eos, temperature, top_k, top_p, seed, dtype)
            stream = self._engine.submit(request_from((*fields, tensor_parallel, max_cache_len)))
            try:
                async for event in stream:
                    yield _said(caller, await _event_json(event, include_steps))
            finally:
                stream.close()

    async def compare(
        self,
        caller: gr.Request,
        prompt: str,
        model: str = DEFAULT_MODEL,
        baseline_mode: Mode = "eager",
        baseline_cache: Cache | None = None,
        mode: Mode = "jit",
        cache: Cache | None = None,
        chat: bool = False,
        max_new_tokens: int = 16,
        ignore_eos: bool = False,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        dtype: Dtype = "float32",
        tensor_parallel: int = 1,
        max_cache_len: int | None = None,
    ) -> AsyncIterator[Any]:
        """Run the same prompt in two settings, one after the other, and tell which is faster and whether the tokens agree.

        The last object is the answer: `comparison` has `verdict` in sentences, `speedup_warm`, `speedup_with_compile`,
        `break_even_step` (at which the candidate has paid for its compilation), `tokens_identical`, `first_difference` and
        `caveats`; `baseline` and `candidate` are the two run records without their steps. Before it the stream has both
        runs' events as {"run": "baseline" or "candidate", "event": as of `generate`}; a tool call returns the answer alone.
        Eager takes seconds a token on small machines: ask for few tokens. Leaving the stream stops both runs.

        Args:
            caller: of the call; Gradio gives it.
            prompt: Text to continue, or the user's message if `chat`.
            model: Name from `models`, or a Hugging Face Hub id where `models` says that any may be typed.
            baseline_mode: Mode of the run to measure against: "eager" or "jit". Default: "eager".
            baseline_cache: Its KV cache: "static", "dynamic", "none" (eager only). Default: jit static, eager dynamic.
            mode: Mode of the candidate: "eager" or "jit". Default: "jit".
            cache: The candidate's KV cache: "static", "dynamic", "none" (eager only). Default: as `baseline_cache`'s.
            chat: Whether to wrap the prompt in the model's chat template. Default: false.
            max_new_tokens: Tokens to generate at most in each run, from 1. Default: 16.
            ignore_eos: Whether to go on after the end-of-sequence token. Default: false.
            temperature: 0 is greedy, always the likeliest token; about 0.7 to sample. Default: 0.
            top_k: Sample among the k likeliest tokens; 0 is off. Default: 0.
            top_p: Sample among the likeliest tokens whose probabilities reach p, above 0 to 1; 1 is off. Default: 1.
            seed: Of the random numbers, the same for both, 0 to 4294967295. Default: 0.
            dtype: Of weights and cache; tokens are exact in float32. Default: "float32".
            tensor_parallel: Devices that weights and cache are split over, from 1; `device_info` says how many there are.
            max_cache_len: Positions of a fixed cache; left out, the smallest size that fits prompt and new tokens.
        """
        with _errors_told():
            rest = (chat, max_new_tokens, ignore_eos, temperature, top_k, top_p, seed, dtype, tensor_parallel, max_cache_len)
            requests = {
                "baseline": request_from((prompt, model, baseline_mode, baseline_cache, *rest)),
                "candidate": request_from((prompt, model, mode, cache, *rest)),
            }
            # Queued together, so that nobody's run comes between and both are refused where there is no place for two.
            streams = {}
            records: dict[str, RunRecord] = {}
            try:
                for run, request in requests.items():
                    streams[run] = self._engine.submit(request)
                for run, stream in streams.items():
                    async for event in stream:
                        yield _said(caller, {"run": run, "event": await _event_json(event)})
                        if isinstance(event, FinishedEvent):
                            records[run] = event.record
            finally:
                for stream in streams.values():
                    stream.close()
            comparison = await asyncio.to_thread(compare_runs, **records)
            without_steps = {run: to_dict(replace(record, steps=())) for run, record in records.items()}
            yield _said(caller, {"schema": COMPARED_SCHEMA, "comparison": to_dict(comparison), **without_steps})

    async def kv_cache_shapes(
        self,
        caller: gr.Request,
        model: str = DEFAULT_MODEL,
        context_len: int | None = None,
        batch_size: int = 1,
        dtype: Dtype = "float32",
        tensor_parallel: int = 1,
        config: str | None = None,
    ) -> dict[str, Any]:
        """Plan a model's KV cache and weights from its config alone, without loading it: shapes, bytes and what fits where.

        Returns a JSON object: `kv_cache` has each layer's kind, key and value shape and bytes, bytes per token, in all and
        per device; `weights` has total_bytes, bytes_per_device and num_parameters; then `architecture`, `max_context_len`
        and the numbers planned with. `formulas` has the formula with its numbers, each factor with its source; `forms` the
        bytes with windows respected, of a growing cache and with full heads; `accelerators` what fits on common devices, the
        longest context, the largest batch and the tokens per second that memory bandwidth allows at most; `curve` bytes by
        context length. The table of every weight is left out: `python -m hfjax_demo inspect --json` has it.

        Args:
            caller: of the call; Gradio gives it.
            model: Name from `models`, a well-known model's Hub id, or any Hub id where `models` says that it may be typed.
            context_len: Positions, 1 to 100000000; left out, the model's own context, or 2048 where that has no limit.
            batch_size: Sequences, 1 to 1000000. Default: 1.
            dtype: Of weights and cache. Default: "float32".
            tensor_parallel: Devices of the planned mesh, 1 to 65536; may be more than there are. Default: 1.
            config: Text of a config.json to plan for in place of `model`'s; nothing that it names is fetched or run.
        """
        with _errors_told():
            numbers: dict[str, Any] = {"batch_size": _whole("batch_size", batch_size), "dtype": dtype}
            numbers["tensor_parallel"] = _whole("tensor_parallel", tensor_parallel)
            if context_len is not None:
                numbers["context_len"] = _whole("context_len", context_len)
            # Whoever may not run a model may not read its config either.
            request = GenerationRequest("?", model, max_new_tokens=1, dtype=dtype)
            if config is None:
                check_may_inspect(request, self._engine.settings)
            inspection = await asyncio.to_thread(self._engine.inspect, model, config=config, **numbers)
            answer = to_dict(replace(inspection, weights=replace(inspection.weights, tensors=())))
            del answer["weights"]["tensors"]
            return _said(caller, answer)

    async def models(self, caller: gr.Request) -> dict[str, Any]:
        """List the models that can be run here.

        Returns a JSON object: `models` is the catalog, each with `name`, `hub_id`, `num_parameters`, `status` ("packaged",
        "downloaded" or "on the Hub"), `is_default` and `is_allowed`, whether the operator lets visitors run it; `allowed`
        has the names to use for `model`; `may_type_any_model` says whether any other Hugging Face Hub id will do as well.

        Args:
            caller: of the call; Gradio gives it.
        """
        with _errors_told():
            statuses, settings = await asyncio.to_thread(self._engine.models), self._engine.settings
            allowed = allowed_catalog(settings)
            rows = [
                to_dict(model)
                | {"status": status, "is_default": model.name == DEFAULT_MODEL, "is_allowed": model in allowed}
                for model, status in statuses
            ]
            answer = {"schema": MODELS_SCHEMA, "models": rows, "allowed": offered_models(settings)}
            return _said(caller, answer | {"may_type_any_model": may_type_any_model(settings)})

    async def device_info(self, caller: gr.Request) -> dict[str, Any]:
        """Tell what this server runs on, what it is doing now and what it allows.

        Returns a JSON object: `environment` (backend, devices, versions), `model` (the loaded one, or null), `num_running`,
        `num_waiting`, `busy_s` (seconds of the present step), `rss_bytes`, and `limits`, the operator's: tokens, characters,
        cache positions, seconds of a request, requests that may wait.

        Args:
            caller: of the call; Gradio gives it.
        """
        with _errors_told():
            settings = asdict(self._engine.settings)
            limits = {name: settings[name] for name in SHOWN_LIMITS}
            return _said(caller, {"schema": DEVICE_INFO_SCHEMA, **to_dict(self._engine.status()), "limits": limits})


async def _event_json(event: Event, include_steps: bool = False) -> dict[str, Any]:
    """An event as JSON; the last one with or without the steps.

    Raises:
        ApiError: the event says that the run failed.
    """
    if isinstance(event, FailedEvent):
        raise ApiError(event.message)
    if isinstance(event, FinishedEvent):
        record = event.record if include_steps else replace(event.record, steps=())
        plain: dict[str, Any] = await asyncio.to_thread(to_dict, FinishedEvent(record))
        return plain
    return to_dict(event)


def _said(caller: gr.Request, answer: dict[str, Any]) -> Any:
    """The answer as the caller needs it: an agent gets JSON text, because Gradio writes what it sees with Python's `str`."""
    is_agent = caller.headers.get("x-gradio-user") == "mcp" or "/gradio_api/mcp" in caller.url.path
    return json.dumps(answer, ensure_ascii=False) if is_agent else answer


@contextlib.contextmanager
def _errors_told() -> Iterator[None]:
    """Expected errors become their message; the others are logged and not shown."""
    try:
        yield
    except ApiError:
        raise
    except HfJaxDemoError as err:
        raise ApiError(str(err)) from err
    except Exception as err:
        logger.exception("a call of the JSON API failed")
        raise ApiError(UNEXPECTED) from err


def _whole(name: str, value: object) -> int:
    """`value` as an int: in JSON 8.0 is one too."""
    if isinstance(value, bool) or not (isinstance(value, int) or (isinstance(value, float) and value.is_integer())):
        raise InvalidRequestError(
            f"{name} must be a whole number but is {shown_value(value)}. Leave it out for the default.", field=name
        )
    return int(value)
