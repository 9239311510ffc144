"""What a model would need, from its config alone: cache and weights, shapes, bytes and placement. Reads no weight.

The model is built on torch's meta device and asked; no formula here can disagree with what the engine allocates. Knows
nothing of requests.
"""

from dataclasses import dataclass

from hfjax_demo.errors import InvalidRequestError
from hfjax_demo.events import Mesh
from hfjax_demo.inference import sharding
from hfjax_demo.inference.gguf_conversion import prefer_converted
from hfjax_demo.inference.kv_cache import layer_geometry
from hfjax_demo.inference.model_config import (
    build_on_meta,
    context_len_of,
    head_counts,
    load_config,
    quiet_transformers,
)
from hfjax_demo.inference.model_files import Progress
from hfjax_demo.inference.model_sources import resolve_config
from hfjax_demo.kv_shapes import DTYPE_BYTES, KVCachePlan, plan_kv_cache
from hfjax_demo.settings import Settings

INSPECTION_SCHEMA = "hfjax_demo.inspection.v1"
MAX_CONTEXT_LEN = 100_000_000
MAX_BATCH_SIZE = 1_000_000
MAX_TENSOR_PARALLEL = 65_536


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
class WeightsPlan:
    """All weights: bytes in all (each once), bytes one device holds, unique parameters, and each tensor."""

    total_bytes: int
    bytes_per_device: int
    num_parameters: int
    tensors: tuple[WeightPlan, ...]


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


def inspect_model(
    name: str,
    settings: Settings,
    progress: Progress,
    allow_local: bool,
    context_len: int | None = None,
    batch_size: int = 1,
    dtype: str = "float32",
    tensor_parallel: int = 1,
) -> Inspection:
    """Plans a model's cache and weights from its config.

    Args:
        name: catalog name, Hub id, or local folder (a config.json is enough) or GGUF file.
        settings: cache folder.
        progress: told what is happening.
        allow_local: whether `name` may be a path.
        context_len: positions; None means the model's own context, or 2048 where that has no limit.
        batch_size: sequences.
        dtype: a key of `DTYPE_BYTES`.
        tensor_parallel: devices of the planned mesh; may be more than there are.

    Raises:
        InvalidRequestError: a number or dtype breaks its rule.
        HfJaxDemoError: the config is not there or not a causal language model's.
    """
    _check("batch_size", batch_size, MAX_BATCH_SIZE)
    _check("tensor_parallel", tensor_parallel, MAX_TENSOR_PARALLEL)
    if context_len is not None:
        _check("context_len", context_len, MAX_CONTEXT_LEN)
    if dtype not in DTYPE_BYTES:
        raise InvalidRequestError(
            f"dtype must be one of {', '.join(DTYPE_BYTES)} but is {dtype!r}. Pick one of them.", field="dtype"
        )
    with quiet_transformers():
        source = prefer_converted(resolve_config(name, progress, allow_local), settings.cache_dir)
        config = load_config(source)
        module = build_on_meta(config)
        geometry = layer_geometry(module)
    length = context_len or context_len_of(config) or 2048
    heads = head_counts(config.get_text_config(decoder=True))
    plan = sharding.tensor_parallel_plan(module)
    tensors = []
    total_bytes = num_parameters = 0
    for weight_name, parameter in module.named_parameters():
        placement = sharding.place_weight(weight_name, parameter.shape, plan, heads, tensor_parallel)
        shard_size = 1
        for size in placement.shard_shape:
            shard_size *= size
        tensors.append(
            WeightPlan(
                name=weight_name,
                shape=tuple(parameter.shape),
                spec=placement.spec,
                shard_shape=placement.shard_shape,
                bytes_per_device=shard_size * DTYPE_BYTES[dtype],
                reason=placement.reason,
            )
        )
        num_parameters += parameter.numel()
        total_bytes += parameter.numel() * DTYPE_BYTES[dtype]
    return Inspection(
        model=name,
        source=source.label,
        architecture=type(module).__name__,
        num_attention_heads=heads.num_attention_heads,
        max_context_len=context_len_of(config),
        batch_size=batch_size,
        context_len=length,
        dtype=dtype,
        kv_cache=plan_kv_cache(geometry, batch_size, length, dtype, tensor_parallel),
        weights=WeightsPlan(total_bytes, sum(t.bytes_per_device for t in tensors), num_parameters, tuple(tensors)),
        mesh=Mesh(sharding.MODEL_AXIS, tensor_parallel, ()),
    )


def _check(name: str, value: int, most: int) -> None:
    if not 1 <= value <= most:
        raise InvalidRequestError(f"{name} must be from 1 to {most} but is {value}. Use a number in between.", field=name)
