"""One request from prompt to last token, one step per call. The five ways to decode differ only in what a step calls.

    mode x cache        a step                                                     shapes per step
    eager, none         the whole sequence again                                   (1, n) -> (1, n + 1)
    eager, dynamic      one token over a cache that grows                          (1, 1), kvcache(n) -> kvcache(n + 1)
    eager, static       one token over a cache of fixed size                       the same shapes every step
    jit, static         the same step as one program, compiled once, cache donated the same shapes every step
    jit, dynamic        a new program for every length: "even slower than eager"   (1, 1), kvcache(n) -> kvcache(n + 1)

Knows nothing of threads, queues or who is watching.
"""

import logging
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hfjax_demo import buckets
from hfjax_demo.errors import InvalidRequestError, ModelLoadError
from hfjax_demo.events import CacheNorms, CompilingEvent, RunRecord, RunSummary, StartedEvent, StepEvent
from hfjax_demo.inference import compile_log, memory
from hfjax_demo.inference.decoding import decode_step, prefill
from hfjax_demo.inference.detokenizer import IncrementalDetokenizer, token_texts
from hfjax_demo.inference.environment import environment_facts
from hfjax_demo.inference.kv_cache import KVCache, empty_fixed_cache, empty_growing_cache, layer_states
from hfjax_demo.inference.kv_norms import cache_norms
from hfjax_demo.inference.loaded_model import LoadedModel
from hfjax_demo.inference.mesh_reading import mesh_report, read_cache
from hfjax_demo.inference.programs import ProgramKey, Programs, key_of
from hfjax_demo.inference.sampling import SamplingParams
from hfjax_demo.mesh_report import MeshReport
from hfjax_demo.requests import CacheKind, ExecutionMode, GenerationRequest
from hfjax_demo.settings import Settings

logger = logging.getLogger(__name__)

BATCH_SIZE = 1


class Generation:
    """A request being served. Made and advanced on the engine's thread; never holds a torch mode between steps.

    Attributes:
        request: what was asked.
        prompt_ids: the prompt's tokens.
        capacity: positions of the fixed cache, None for other caches.
        steps: the events so far.
        finish_reason: None while there is more to do; then "eos" or "length".
    """

    def __init__(
        self,
        request: GenerationRequest,
        model: LoadedModel,
        programs: Programs | None,
        settings: Settings,
        on_compile: Callable[[CompilingEvent], None],
    ) -> None:
        """Checks the request against the model and allocates the cache.

        Args:
            request: what was asked.
            model: loaded.
            programs: the model's compiled programs; None for a model that can run without a cache only.
            settings: the operator's limits.
            on_compile: told just before a program is traced and compiled.

        Raises:
            InvalidRequestError: a rule that needs the model is broken; nothing was allocated.
        """
        self.request = request
        self.prompt_ids = encode_prompt(model.tokenizer, request, model.facts.vocab_size)
        self.capacity = _check_capacity(request, len(self.prompt_ids), model, settings)
        self.steps: list[StepEvent] = []
        self.finish_reason: str | None = None
        self._model = model
        self._programs = programs
        self._on_compile = on_compile
        self._sampling = SamplingParams.of(request)
        self._traces_before = programs.num_traces.total() if programs else 0
        self._detokenizer = IncrementalDetokenizer(model.tokenizer, self.prompt_ids)
        self._eos_token_ids = frozenset() if request.ignore_eos else frozenset(model.eos_token_ids)
        self._cache = self._empty_cache()
        self._programs_used: dict[ProgramKey, None] = {}  # a set that keeps its order
        self._token_ids: list[int] = []
        self._last_token: jax.Array | None = None
        self._started = time.perf_counter()

    def started_event(self) -> StartedEvent:
        """What is known before the first step."""
        return StartedEvent(self._model.facts, environment_facts(self._model.mesh), tuple(self.prompt_ids), self.capacity)

    def advance(self) -> StepEvent:
        """Runs one step and returns its event; sets `finish_reason` after the last."""
        assert self.finish_reason is None
        filled_before = self._filled_len
        with compile_log.recording() as log:
            traces_before = self._programs.num_traces.total() if self._programs else 0
            reasons: dict[str, str] = {}
            started = time.perf_counter()
            token_ids, self._cache, input_shape = self._run_step(reasons)
            token_id = int(np.asarray(token_ids)[0])  # waits for the device
            duration_s = time.perf_counter() - started
        self._last_token = token_ids
        is_prefill = not self._token_ids
        self._token_ids.append(token_id)
        self.finish_reason = self._reason_to_finish(token_id)
        step = StepEvent(
            index=len(self.steps),
            phase="prefill" if is_prefill else "decode",
            token_id=token_id,
            text=self._text_of(token_id),
            input_shape=input_shape,
            output_shape=(BATCH_SIZE, 1) if self._cache else (BATCH_SIZE, input_shape[1] + 1),
            position=0 if is_prefill or self._cache is None else filled_before,
            seen_len=0 if self._cache is None else filled_before,
            filled_len=self._filled_len,
            duration_s=duration_s,
            trace_s=log.trace_s,
            compile_s=log.compile_s,
            num_traces=(self._programs.num_traces.total() if self._programs else 0) - traces_before,
            num_compiles=log.num_compiles,
            compiled=log.programs(reasons),
            kv=layer_states(self._cache, self._model.geometry if self._cache else (), self._filled_len),
        )
        self.steps.append(step)
        return step

    def record(self, finish_reason: str, load_s: float) -> RunRecord:
        """The whole run; `finish_reason` is "stopped" where the run was cut short, `load_s` this run's loading.

        Computes the cache's norms and reads how everything lay on the mesh, which belongs to no step: outside every
        recording of what was compiled.
        """
        return RunRecord(
            request=self.request,
            model=self._model.facts,
            environment=environment_facts(self._model.mesh),
            prompt_ids=tuple(self.prompt_ids),
            token_ids=tuple(self._token_ids),
            text="".join(step.text for step in self.steps),
            finish_reason=finish_reason,
            steps=tuple(self.steps),
            summary=summarize(self.steps, load_s, dict(self._programs.num_traces) if self._programs else {}),
            prompt_texts=token_texts(self._model.tokenizer, self.prompt_ids),
            norms=self._norms(),
            mesh=self._mesh_report(),
        )

    @property
    def _filled_len(self) -> int:
        """Tokens the model has read so far: the prompt and every new token but the last."""
        return len(self.prompt_ids) + len(self._token_ids) - 1 if self._token_ids else 0

    def _norms(self) -> CacheNorms | None:
        """The cache's norms; None where the device fails at them, say for want of memory: the run itself is done."""
        try:
            return cache_norms(self._cache, self._filled_len)
        except jax.errors.JaxRuntimeError:
            logger.exception("no norms of the cache after %d positions", self._filled_len)
            return None

    def _mesh_report(self) -> MeshReport | None:
        """How weights and cache lie, and what the programs of this run communicate; None where one device has it all."""
        mesh = self._model.mesh
        if mesh.size == 1:
            return None
        programs = self._programs.collectives(self._programs_used) if self._programs else ()
        return mesh_report(mesh, self._model.placed_weights, read_cache(self._cache, mesh), programs)

    def _empty_cache(self) -> KVCache | None:
        if self.request.cache_kind is CacheKind.NONE:
            return None
        geometry = self._model.geometry
        if self.capacity is None:
            return empty_growing_cache(len(geometry))
        return empty_fixed_cache(geometry, BATCH_SIZE, self.capacity, self.request.dtype, self._model.kv_shardings)

    def _run_step(self, reasons: dict[str, str]) -> tuple[jax.Array, KVCache | None, tuple[int, ...]]:
        """One forward pass. Returns the new token int32[1], the cache, and the shape of input_ids."""
        if self._last_token is None or self._cache is None:
            input_ids = self._padded([*self.prompt_ids, *self._token_ids])
            real_len = np.int32(len(self.prompt_ids) + len(self._token_ids))
            token_ids, cache = self._call("prefill", prefill, input_ids, real_len, reasons)
            return token_ids, cache, input_ids.shape
        token_ids, cache = self._call("decode_step", decode_step, np.int32(self._filled_len), self._last_token, reasons)
        return token_ids, cache, (BATCH_SIZE, 1)

    def _call(
        self, name: str, function: Callable[..., Any], first: Any, second: Any, reasons: dict[str, str]
    ) -> tuple[jax.Array, KVCache | None]:
        """The step's function as it is (eager) or as its compiled program (jit)."""
        weights = self._model.weights
        if self.request.mode is ExecutionMode.EAGER:
            return function(
                self._model.causal_lm, weights, self._cache, jnp.asarray(first), jnp.asarray(second), self._sampling
            )
        assert self._programs is not None
        assert self._cache is not None
        self._programs_used[key_of(name, 1 if name == "decode_step" else first.shape[1], self._cache)] = None

        def on_compile(event: CompilingEvent) -> None:
            reasons[f"jit({event.program})"] = reasons[event.program] = event.reason
            self._on_compile(event)

        call = getattr(self._programs, name)
        return call(weights, self._cache, first, second, self._sampling, on_compile=on_compile)

    def _padded(self, token_ids: list[int]) -> np.ndarray:
        """`token_ids` as int32[1, S]; right-padded to a bucket where the cache is fixed."""
        length = len(token_ids)
        if self.capacity is not None:
            length = buckets.prefill_bucket(length, self.capacity)
        padded = np.zeros((BATCH_SIZE, length), np.int32)
        padded[0, : len(token_ids)] = token_ids
        return padded

    def _reason_to_finish(self, token_id: int) -> str | None:
        if token_id in self._eos_token_ids:
            return "eos"
        return "length" if len(self._token_ids) == self.request.max_new_tokens else None

    def _text_of(self, token_id: int) -> str:
        if token_id in self._eos_token_ids:
            return self._detokenizer.finish()
        return self._detokenizer.add(token_id, is_last=self.finish_reason is not None)


def encode_prompt(tokenizer: Any, request: GenerationRequest, vocab_size: int) -> list[int]:
    """The prompt's token ids, wrapped in the chat template where asked.

    Raises:
        InvalidRequestError: the model has no chat template, or the prompt gives no token.
        ModelLoadError: the tokenizer gives ids that the model has no embedding for; JAX would clamp them silently.
    """
    if request.chat:
        if not tokenizer.chat_template:
            raise InvalidRequestError(
                f"Chat needs a chat template, but {request.model} has none: it is not tuned for chat. Turn chat off.",
                field="chat",
            )
        messages = [{"role": "user", "content": request.prompt}]
        encoded = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    else:
        encoded = tokenizer(request.prompt)["input_ids"]
    prompt_ids = [int(token) for token in encoded]
    if not prompt_ids:
        raise InvalidRequestError(
            f"The prompt must give at least one token, but its {len(request.prompt)} characters give none. Type other text.",
            field="prompt",
        )
    if max(prompt_ids) >= vocab_size:
        raise ModelLoadError(
            f"A tokenizer must belong to its model, but that of {request.model} gives token {max(prompt_ids)} where the "
            f"model knows 0 to {vocab_size - 1}. Put the tokenizer files that came with the weights beside them."
        )
    return prompt_ids


def _check_capacity(request: GenerationRequest, prompt_len: int, model: LoadedModel, settings: Settings) -> int | None:
    """The fixed cache's capacity, None for other caches; raises where the tokens do not fit."""
    buckets.check_context(prompt_len, request.max_new_tokens, model.max_context_len)
    if request.cache_kind is CacheKind.STATIC:
        return buckets.cache_capacity(
            prompt_len, request.max_new_tokens, model.max_context_len, settings.max_cache_len, request.max_cache_len
        )
    most = settings.jit_growing_max_new_tokens
    if request.mode is ExecutionMode.JIT and request.max_new_tokens > most:
        raise InvalidRequestError(
            f"jit over a growing cache compiles a new program for every token (seconds each), so it may make at most "
            f"{most} new tokens but {request.max_new_tokens} were asked for. Ask for {most} or fewer, or use "
            "the fixed cache (static).",
            field="max_new_tokens",
        )
    return None


def summarize(steps: list[StepEvent], load_s: float, programs: dict[str, int]) -> RunSummary:
    """A run's times and counts; see `RunSummary` for what each means."""
    decode = steps[1:]
    prefill_wall_s = steps[0].duration_s if steps else 0.0
    decode_wall_s = sum(step.duration_s for step in decode)
    decode_s = sum(step.duration_s - step.trace_s - step.compile_s for step in decode)
    return RunSummary(
        load_s=load_s,
        trace_s=sum(step.trace_s for step in steps),
        compile_s=sum(step.compile_s for step in steps),
        prefill_s=prefill_wall_s - steps[0].trace_s - steps[0].compile_s if steps else 0.0,
        time_to_first_token_s=prefill_wall_s,
        decode_s=decode_s,
        total_s=prefill_wall_s + decode_wall_s,
        tokens_per_s=len(decode) / decode_s if decode_s else 0.0,
        tokens_per_s_with_compile=len(decode) / decode_wall_s if decode_wall_s else 0.0,
        num_traces=sum(step.num_traces for step in steps),
        num_compiles=sum(step.num_compiles for step in steps),
        programs=programs,
        kv_bytes=steps[-1].kv_bytes if steps else 0,
        peak_rss_bytes=memory.peak_rss_bytes(),
        rss_bytes=memory.rss_bytes(),
    )
