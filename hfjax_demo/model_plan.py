"""What a model would need, as plain data: the contract of `inspect --json` and of what the page plans with.

Knows nothing of how a plan is made (`inference.inspection`), nor of who shows it.
"""

from dataclasses import dataclass

from hfjax_demo.cache_formula import CacheFormula
from hfjax_demo.cache_plan import CacheBytes
from hfjax_demo.events import Mesh
from hfjax_demo.kv_shapes import KVCachePlan, LayerGeometry
from hfjax_demo.planning import AcceleratorFit, ContextPoint

INSPECTION_SCHEMA = "hfjax_demo.inspection.v1"


@dataclass(frozen=True)
class WeightPlan:
    """One weight as it would lie on the mesh.

    Attributes:
        name: parameter name; a tied weight is listed once, under its first name.
        shape: whole.
        spec: mesh axis per array axis, None where not split.
        shard_shape: one device's part.
        bytes_per_device: of that part.
        reason: why it lies so.
    """

    name: str
    shape: tuple[int, ...]
    spec: tuple[str | None, ...]
    shard_shape: tuple[int, ...]
    bytes_per_device: int
    reason: str


@dataclass(frozen=True)
class ParallelRule:
    """One row of the table of rules: weights of one name pattern, shape and fate.

    Attributes:
        pattern: their name, `*` for a layer's (or an expert's) number.
        style: "column-parallel", "row-parallel", "vocabulary-parallel", "expert-internal" or "replicated".
        origin: "the model's own plan", "our table", or "no rule" for what neither splits.
        shape: of each, whole.
        spec: what the rule comes to on this mesh; empty for replicated.
        shard_shape: one device's part of each.
        reason: why, in words.
        num_weights: weights that the row stands for.
        total_bytes: of all of them, each once.
        bytes_per_device: of all their parts on one device.
    """

    pattern: str
    style: str
    origin: str
    shape: tuple[int, ...]
    spec: tuple[str | None, ...]
    shard_shape: tuple[int, ...]
    reason: str
    num_weights: int
    total_bytes: int
    bytes_per_device: int


@dataclass(frozen=True)
class ExpectedCollective:
    """Communication that theory asks of one decode step of one sequence.

    Attributes:
        kind: "all-reduce" or "all-gather".
        count: a step.
        bytes: that one device receives of them a step, in all.
        reason: where it comes from, in words, such as "one after each row-parallel projection: o_proj in 30 layers".
    """

    kind: str
    count: int
    bytes: int
    reason: str


@dataclass(frozen=True)
class WeightsPlan:
    """All weights: bytes in all (each once), bytes one device holds, unique parameters, and each tensor."""

    total_bytes: int
    bytes_per_device: int
    num_parameters: int
    tensors: tuple[WeightPlan, ...]


@dataclass(frozen=True)
class DecodeReads:
    """What decoding one token reads of the weights at least.

    Attributes:
        num_active_parameters: that one token passes through, embeddings included: all, less the experts not chosen for it.
        read_bytes: of all devices together; of an embedding table that is no output layer, nothing is counted.
        read_bytes_per_device: one device's part.
        rule: what was counted, in words.
    """

    num_active_parameters: int
    read_bytes: int
    read_bytes_per_device: int
    rule: str


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """The answer to "what would this model need": the contract of `inspect --json`.

    Attributes:
        schema: `INSPECTION_SCHEMA`.
        model: as asked for.
        source: where the config came from.
        architecture: the Transformers class.
        num_attention_heads: H, query heads.
        max_context_len: positions the model was made for, None for no limit.
        batch_size: B of the plan.
        context_len: L of the plan.
        dtype: of weights and cache.
        kv_cache: shapes and bytes of a fixed cache.
        weights: shapes, bytes and placement.
        mesh: planned, not real: `devices` names none.
        layers: what each layer's shapes follow from: heads, head sizes, window, what a latent unfolds to.
        forms: bytes of the cache in every form, the fixed one first.
        formulas: the formula with its numbers, one for each form.
        bytes_per_token_full_heads: of one position if every query head had its own keys and values; `kv_cache`'s is what
            grouped heads or latents leave of it.
        decode: what one token reads of the weights.
        accelerators: what fits on common devices, one of which each device of the mesh is.
        curve: bytes of the cache by context length, to the longer of the context asked for and the model's own.
        rules: the table that places the weights, in the order of the model.
        collectives: what one decode step would have to communicate; empty on one device.
        assumed: fields that a given config left to Transformers' defaults, with the values that those have.
    """

    schema: str = INSPECTION_SCHEMA
    model: str
    source: str
    architecture: str
    num_attention_heads: int
    max_context_len: int | None
    batch_size: int
    context_len: int
    dtype: str
    kv_cache: KVCachePlan
    weights: WeightsPlan
    mesh: Mesh
    layers: tuple[LayerGeometry, ...]
    forms: tuple[CacheBytes, ...]
    formulas: tuple[CacheFormula, ...]
    bytes_per_token_full_heads: int
    decode: DecodeReads
    accelerators: tuple[AcceleratorFit, ...]
    curve: tuple[ContextPoint, ...]
    rules: tuple[ParallelRule, ...]
    collectives: tuple[ExpectedCollective, ...]
    assumed: dict[str, int]
