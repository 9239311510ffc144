"""What the engine tells the world: frozen dataclasses of numbers and strings.

A request's stream is `QueuedEvent*`, then `LoadingEvent*`, `StartedEvent`, then `CompilingEvent*` and `StepEvent`s,
then one `FinishedEvent` or `FailedEvent`. Events hold no array, tensor, model or lock; `plain_json` takes them to JSON and
back. Knows nothing of who draws them.
"""

from dataclasses import dataclass

from hfjax_demo.mesh_report import MeshReport
from hfjax_demo.requests import GenerationRequest

RECORD_SCHEMA = "hfjax_demo.run.v1"


@dataclass(frozen=True)
class LayerState:
    """One layer's cache after a step.

    Attributes:
        layer: index, from 0.
        kind: "full_attention", "sliding_attention" or "shared" (no keys and values of its own).
        key_shape: (B, K, L, Dk); empty for a shared layer.
        value_shape: (B, K, L, Dv).
        filled_len: positions that hold a token.
        capacity: L, positions allocated; equals `filled_len` where the cache grows.
        bytes: keys and values together.
    """

    layer: int
    kind: str
    key_shape: tuple[int, ...]
    value_shape: tuple[int, ...]
    filled_len: int
    capacity: int
    bytes: int


@dataclass(frozen=True)
class CompiledProgram:
    """Something that was traced or compiled during a step.

    Attributes:
        name: the program ("decode_step") or, in eager mode, the operator JAX compiled.
        count: how many compilations of that name; 0 where it was only traced.
        trace_s: seconds tracing Python to a jaxpr and lowering it to StableHLO.
        compile_s: seconds in XLA.
        reason: why it had to be compiled, in words; empty for eager operators (first use at these shapes).
    """

    name: str
    count: int
    trace_s: float
    compile_s: float
    reason: str = ""


@dataclass(frozen=True)
class StepEvent:
    """One step: one forward pass and the token it gave.

    Attributes:
        index: from 0; the prefill is step 0.
        phase: "prefill" or "decode".
        token_id: the new token.
        text: what can be shown now; empty while a character's bytes are incomplete.
        input_shape: of `input_ids` as the model saw them, padding included.
        output_shape: of the ids the next step reads: the new token alone, or without a cache the whole sequence.
        position: index in the sequence of the first input token.
        seen_len: positions in the cache before the step.
        filled_len: positions in the cache after it; equals the tokens read so far where there is no cache.
        duration_s: wall seconds, from inputs to the token on the host; tracing and compiling included.
        trace_s: of which tracing and lowering.
        compile_s: of which compiling.
        num_traces: traces of our programs in this step (eager: 0).
        num_compiles: XLA compilations in this step.
        compiled: what was compiled, slowest first.
        kv: every layer's cache after the step; empty where there is no cache.
    """

    index: int
    phase: str
    token_id: int
    text: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    position: int
    seen_len: int
    filled_len: int
    duration_s: float
    trace_s: float
    compile_s: float
    num_traces: int
    num_compiles: int
    compiled: tuple[CompiledProgram, ...]
    kv: tuple[LayerState, ...]

    @property
    def kv_bytes(self) -> int:
        """Bytes of the whole cache after the step."""
        return sum(layer.bytes for layer in self.kv)


@dataclass(frozen=True)
class Mesh:
    """The devices that weights and cache lie on: one axis, its size, the devices' names."""

    axis: str
    size: int
    devices: tuple[str, ...]


@dataclass(frozen=True)
class EnvironmentFacts:
    """Where a run happened.

    Attributes:
        versions: of python and the packages that decide results and speed.
        backend: "cpu", "gpu" or "tpu".
        device_kind: as JAX names it.
        num_devices: devices of all processes together.
        num_cores: CPU cores this process may use.
        mesh: the part of them that was used.
        num_processes: processes that the devices belong to, each as many of them.
    """

    versions: dict[str, str]
    backend: str
    device_kind: str
    num_devices: int
    num_cores: int
    mesh: Mesh
    num_processes: int = 1


@dataclass(frozen=True)
class ModelFacts:
    """The model of a run.

    Attributes:
        name: as asked for.
        source: where the weights came from: a Hub id, a folder, a packaged file.
        architecture: the Transformers class.
        dtype: of weights and cache.
        num_parameters: unique weights; tied ones counted once.
        weights_bytes: of those, on all devices, counted once.
        num_layers: N.
        num_attention_heads: H.
        num_kv_heads: K of the first layer that has keys and values; 0 where none has.
        head_dim: key head size of that layer.
        vocab_size: V.
        max_context_len: positions the model was made for; None where it has no limit.
        eos_token_ids: ids that end a text.
    """

    name: str
    source: str
    architecture: str
    dtype: str
    num_parameters: int
    weights_bytes: int
    num_layers: int
    num_attention_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_context_len: int | None
    eos_token_ids: tuple[int, ...]


@dataclass(frozen=True)
class RunSummary:
    """A run in numbers. Seconds are wall time; none counts another's.

    Attributes:
        load_s: loading the model for this run; 0 where it was loaded already.
        trace_s: tracing and lowering, all steps.
        compile_s: XLA compilation, all steps.
        prefill_s: first step without its tracing and compiling.
        time_to_first_token_s: from the start of the prefill to the first token, tracing and compiling included.
        decode_s: the other steps, without their tracing and compiling.
        total_s: all steps, everything included.
        tokens_per_s: decode steps per second of `decode_s`; 0 where there was none.
        tokens_per_s_with_compile: decode steps per second, their tracing and compiling included.
        num_traces: traces of our programs.
        num_compiles: XLA compilations.
        programs: traces so far of each program this run used, earlier runs included: 1 means compiled once, reused since.
        kv_bytes: bytes of the cache after the last step.
        peak_rss_bytes: most resident memory the process has had so far.
        rss_bytes: resident memory at the end of the run.
    """

    load_s: float
    trace_s: float
    compile_s: float
    prefill_s: float
    time_to_first_token_s: float
    decode_s: float
    total_s: float
    tokens_per_s: float
    tokens_per_s_with_compile: float
    num_traces: int
    num_compiles: int
    programs: dict[str, int]
    kv_bytes: int
    peak_rss_bytes: int
    rss_bytes: int


@dataclass(frozen=True)
class LayerNorms:
    """L2 norms of one layer's keys and values over the head dimension, by head and position.

    Norms are whole levels from 0 to 255, so they are exact to a 510th of the layer's greatest. Where a column is of several
    positions it has the greatest of their norms: what stands out is what one looks for.

    Attributes:
        layer: index, from 0.
        first_position: the first position held; above 0 where a cache that grows keeps a sliding window only.
        num_positions: positions held, that one included.
        num_heads: K, rows.
        key_max: the greatest key norm, level 255.
        value_max: the greatest value norm.
        keys: base64 of one byte per head and column, row by row.
        values: likewise.
    """

    layer: int
    first_position: int
    num_positions: int
    num_heads: int
    key_max: float
    value_max: float
    keys: str
    values: str


@dataclass(frozen=True)
class CacheNorms:
    """What is in a cache after the last step, as norms; `cache_norms` says how columns and levels are counted.

    Attributes:
        positions_per_column: 1, or more where that many columns would be more than a record keeps.
            Column c is of the positions from c times as many on, in every layer.
        layers: those with keys and values of their own, ascending; one whose norms are not all finite is left out.
    """

    positions_per_column: int
    layers: tuple[LayerNorms, ...]


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """A whole run: what was asked, where it ran, every step, the sum of it. The contract of `generate --json`.

    Attributes:
        schema: `RECORD_SCHEMA`.
        request: as served.
        model: facts of the model.
        environment: versions, devices, mesh.
        prompt_ids: the prompt's tokens, chat template included.
        token_ids: the new tokens; the end-of-sequence id, where one came, included.
        text: the new tokens' text; equals the steps' texts joined.
        finish_reason: "eos", "length" (max_new_tokens reached), "stopped" or "time_limit" (the operator's).
        steps: one event per step.
        summary: the times and counts.
        prompt_texts: each prompt token as text, a character at the token that completes it; empty in records of before.
        norms: of the cache's keys and values after the last step; None without a cache, or a step, and in records of before.
        mesh: how weights and cache lay on the devices; None on a mesh of one, and in records of before.
    """

    schema: str = RECORD_SCHEMA
    request: GenerationRequest
    model: ModelFacts
    environment: EnvironmentFacts
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    text: str
    finish_reason: str
    steps: tuple[StepEvent, ...]
    summary: RunSummary
    prompt_texts: tuple[str, ...] = ()
    norms: CacheNorms | None = None
    mesh: MeshReport | None = None


@dataclass(frozen=True)
class EngineStatus:
    """What the engine is doing at a moment.

    Attributes:
        is_alive: whether it takes requests.
        failure: why it takes none any more, None while it does or where it was closed.
        environment: where it runs; None until JAX has come up.
        model: the loaded model, None before the first.
        num_running: requests being decoded.
        num_waiting: requests that wait for their turn.
        busy_s: seconds the present step, loading or compilation has taken so far; 0 when idle.
        rss_bytes: resident memory of the process now.
        peak_rss_bytes: the most it has had.
    """

    is_alive: bool
    environment: EnvironmentFacts | None
    model: ModelFacts | None
    num_running: int
    num_waiting: int
    busy_s: float
    rss_bytes: int
    peak_rss_bytes: int
    failure: str | None = None


@dataclass(frozen=True)
class QueuedEvent:
    """Waiting: `place` requests are served before this one."""

    place: int


@dataclass(frozen=True)
class LoadingEvent:
    """The model is being loaded: what is happening, how far (0 to 1, None if unknown), seconds so far."""

    stage: str
    fraction: float | None
    elapsed_s: float


@dataclass(frozen=True)
class StartedEvent:
    """The model is ready and the prompt is tokens: decoding begins. `capacity` is the fixed cache's L, else None."""

    model: ModelFacts
    environment: EnvironmentFacts
    prompt_ids: tuple[int, ...]
    capacity: int | None


@dataclass(frozen=True)
class CompilingEvent:
    """A program is about to be traced ("tracing") or compiled ("compiling"), and why."""

    stage: str
    program: str
    reason: str


@dataclass(frozen=True)
class FinishedEvent:
    """The run ended as it should; `record` has everything."""

    record: RunRecord


@dataclass(frozen=True)
class FailedEvent:
    """The run ended in an error: the error class's name, its one-line message, the field at fault if there is one."""

    error: str
    message: str
    field: str | None = None


Event = QueuedEvent | LoadingEvent | StartedEvent | CompilingEvent | StepEvent | FinishedEvent | FailedEvent
