"""How weights and cache lie on the mesh: a table from weight name to PartitionSpec, each row with its reason.

One mesh axis, tensor parallelism. The table is the model's own plan (`base_model_tp_plan`, `_tp_plan`): column-parallel
splits a projection's outputs, row-parallel its inputs, and XLA inserts the sums between. Whatever does not divide is
replicated, and the reason says so. Pure functions of names, shapes and plans; knows nothing of how weights are loaded.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from hfjax_demo.inference.device_mesh import MODEL_AXIS
from hfjax_demo.kv_shapes import LayerGeometry, heads_divide

REPLICATED = PartitionSpec()

COLUMN_PARALLEL = frozenset({"colwise", "colwise_rep", "colwise_gather_output"})
ROW_PARALLEL = frozenset({"rowwise", "rowwise_rep", "rowwise_split_input"})
VOCABULARY_PARALLEL = frozenset({"embedding_rowwise", "vocab_parallel_rowwise"})

Spec = tuple[str | None, ...]


@dataclass(frozen=True)
class Placement:
    """Where one array lies.

    Attributes:
        spec: mesh axis per array axis, None for not split; empty for replicated.
        shard_shape: shape of one device's part.
        reason: why, in words.
    """

    spec: Spec
    shard_shape: tuple[int, ...]
    reason: str


@dataclass(frozen=True)
class HeadCounts:
    """Query and key/value heads: a projection is split between heads, never inside one."""

    num_attention_heads: int
    num_kv_heads: int


def tensor_parallel_plan(module: Any) -> dict[str, str]:
    """The model's own plan: module name pattern (`*` for a layer number) -> parallel style; empty where it has none."""
    config = module.config.get_text_config(decoder=True)
    base_plan = getattr(config, "base_model_tp_plan", None) or {}
    prefix = module.base_model_prefix
    return {f"{prefix}.{name}": style for name, style in base_plan.items()} | dict(type(module)._tp_plan or {})


def place_weight(name: str, shape: Sequence[int], plan: Mapping[str, str], heads: HeadCounts, parts: int) -> Placement:
    """Where one weight lies on a mesh of `parts` devices.

    Args:
        name: parameter or buffer name, such as "model.layers.0.self_attn.q_proj.weight".
        shape: of the whole array; linear weights are [out, in].
        plan: see `tensor_parallel_plan`.
        heads: head counts of the model.
        parts: devices of the mesh.
    """
    shape = tuple(shape)
    if parts == 1:
        return Placement((), shape, "one device holds everything")
    style = _style_of(name, plan)
    if style is None:
        return Placement((), shape, "replicated: the model's plan does not split it")
    axis = _split_axis(style, len(shape))
    if axis is None:
        return Placement((), shape, f"replicated: small, beside a {style} weight")
    if problem := _why_indivisible(name, shape[axis], heads, parts):
        return Placement((), shape, f"replicated: {problem}")
    spec = tuple(MODEL_AXIS if index == axis else None for index in range(len(shape)))
    shard_shape = tuple(size // parts if index == axis else size for index, size in enumerate(shape))
    return Placement(spec, shard_shape, _REASONS[str(_family(style))])


def place_kv(layer: LayerGeometry, parts: int) -> Placement:
    """Where one layer's keys (and values) lie: split over KV heads, or replicated where they do not divide."""
    if parts > 1 and layer.holds_kv and heads_divide(layer.num_kv_heads, parts):
        return Placement((None, MODEL_AXIS, None, None), (), "split over KV heads, beside the projections that fill it")
    return Placement((), (), f"replicated: {layer.num_kv_heads} KV heads over {parts} device{'s' if parts > 1 else ''}")


def named_sharding(mesh: jax.sharding.Mesh, spec: Spec) -> NamedSharding:
    """A placement's spec on a real mesh."""
    return NamedSharding(mesh, PartitionSpec(*spec))


_REASONS = {
    "column": "column-parallel: each device computes its share of the outputs, no communication",
    "row": "row-parallel: each device holds its share of the inputs; one all-reduce sums the outputs",
    "vocabulary": "vocabulary-parallel: each device holds its share of the vocabulary",
}


def _family(style: str) -> str | None:
    for family, styles in (("column", COLUMN_PARALLEL), ("row", ROW_PARALLEL), ("vocabulary", VOCABULARY_PARALLEL)):
        if style in styles:
            return family
    return None


def _style_of(name: str, plan: Mapping[str, str]) -> str | None:
    """The style of the plan's row that matches `name`, with or without its ".weight" or ".bias"."""
    generic = re.sub(r"\.\d+(?=\.|$)", ".*", name)
    return plan.get(generic) or plan.get(generic.rpartition(".")[0])


def _split_axis(style: str, num_axes: int) -> int | None:
    """Which axis a style splits: outputs (0) or inputs (1) of a linear weight [out, in]; None to leave it whole."""
    family = _family(style)
    if family in ("column", "vocabulary"):
        return 0
    return 1 if family == "row" and num_axes == 2 else None


def _why_indivisible(name: str, size: int, heads: HeadCounts, parts: int) -> str | None:
    """Why this weight cannot be split over `parts`, or None if it can."""
    if re.search(r"\.(k|v)_proj\.", name) and not heads_divide(heads.num_kv_heads, parts):
        return f"{heads.num_kv_heads} KV heads do not divide by {parts} devices"
    if re.search(r"\.(q|o)_proj\.", name) and not heads_divide(heads.num_attention_heads, parts):
        return f"{heads.num_attention_heads} query heads do not divide by {parts} devices"
    if size % parts:
        return f"an axis of {size} does not divide by {parts} devices"
    return None
