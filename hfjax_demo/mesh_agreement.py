"""A mesh as planned against the mesh as a run had it: where they agree, and each difference in one sentence.

Pure functions of plain data. Knows nothing of how either was made, nor of who shows the answer.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from hfjax_demo.catalog import find_in_catalog
from hfjax_demo.events import RunRecord
from hfjax_demo.mesh_report import Collective, MeshReport, PlacedArray, Spec
from hfjax_demo.model_plan import ExpectedCollective, Inspection
from hfjax_demo.requests import CacheKind

DECODE_STEP = "decode_step"
"""How the label of a program that decodes one token begins."""


@dataclass(frozen=True)
class MeshKey:
    """What a plan and a run must share to be compared.

    Attributes:
        model: its name; every spelling of one model is made the same.
        size: devices of the mesh.
        dtype: of weights and cache.
    """

    model: str
    size: int
    dtype: str

    def __post_init__(self) -> None:
        known = find_in_catalog(self.model)
        object.__setattr__(self, "model", (known.name if known else self.model).casefold())


@dataclass(frozen=True)
class Agreement:
    """What came of holding a run against its plan.

    Attributes:
        num_arrays: weights, keys and values that were compared.
        differences: a sentence each; empty where plan and run agree.
        num_buffers: arrays of the run that are no parameters, such as rotary frequencies: a plan leaves them out.
        buffer_bytes: of those on one device.
        has_program: whether the run had a compiled decode step to read; in eager mode there is none.
    """

    num_arrays: int
    differences: tuple[str, ...]
    num_buffers: int
    buffer_bytes: int
    has_program: bool


def mesh_key(record: RunRecord) -> MeshKey | None:
    """What a plan of this run is made for; None where there is no mesh to compare, or no fixed cache to plan."""
    if record.mesh is None or record.request.cache_kind is not CacheKind.STATIC:
        return None
    return MeshKey(record.request.model, len(record.mesh.devices), record.request.dtype)


def capacity_of(record: RunRecord) -> int | None:
    """Positions of the run's fixed cache; None where no layer has one."""
    return next((layer.capacity for step in record.steps for layer in step.kv if layer.key_shape), None)


def decode_collectives(report: MeshReport) -> tuple[Collective, ...] | None:
    """The communication of the run's compiled decode step; None where the report has no such program."""
    for program in report.programs:
        if program.program.startswith(DECODE_STEP):
            return program.collectives
    return None


def agreement(plan: Inspection, report: MeshReport) -> Agreement:
    """Holds a run against its plan, array by array, device by device, and one kind of communication after the other.

    Args:
        plan: of the run's model, mesh size, dtype and cache length.
        report: of the run.
    """
    planned_names = {tensor.name for tensor in plan.weights.tensors}
    buffers = [array for array in report.weights if array.name not in planned_names]
    buffer_bytes = sum(array.bytes_per_device for array in buffers)
    weights, cache = list(_planned_weights(plan)), list(_planned_kv(plan))
    differences = [
        *_array_differences(weights, report.weights),
        *_array_differences(cache, report.kv),
        *_device_differences(plan, report, buffer_bytes),
        *_collective_differences(plan, report),
    ]
    return Agreement(
        num_arrays=len(weights) + len(cache),
        differences=tuple(differences),
        num_buffers=len(buffers),
        buffer_bytes=buffer_bytes,
        has_program=decode_collectives(report) is not None,
    )


def _planned_weights(plan: Inspection) -> Iterator[PlacedArray]:
    for tensor in plan.weights.tensors:
        yield PlacedArray(tensor.name, tensor.shape, tensor.spec, tensor.shard_shape, tensor.bytes_per_device)


def _planned_kv(plan: Inspection) -> Iterator[PlacedArray]:
    size, axis = plan.mesh.size, plan.mesh.axis
    for layer in plan.kv_cache.layers:
        pair = {"keys": layer.key_shape, "values": layer.value_shape}
        widths = sum(shape[-1] for shape in pair.values() if shape)
        for part, shape in pair.items():
            if not shape:
                continue
            spec: Spec = (None, axis, None, None) if layer.is_split else ()
            shard = (shape[0], shape[1] // size, *shape[2:]) if layer.is_split else shape
            yield PlacedArray(
                f"layer {layer.layer} {part}", shape, spec, shard, layer.bytes_per_device * shape[-1] // widths
            )


def _array_differences(planned: Iterable[PlacedArray], real: Iterable[PlacedArray]) -> Iterator[str]:
    by_name = {array.name: array for array in real}
    for array in planned:
        is_ = by_name.get(array.name)
        if is_ is None:
            yield f"{array.name}: planned, but the run has no array of that name."
        elif _as_placed(array) != _as_placed(is_):
            yield (
                f"{array.name}: planned {array.shard_shape} of {array.shape} a device, {array.bytes_per_device:,} bytes; "
                f"the run has {is_.shard_shape} of {is_.shape}, {is_.bytes_per_device:,} bytes."
            )


def _as_placed(array: PlacedArray) -> tuple[object, ...]:
    """All but the name; a spec that splits nothing is the same however it is spelled."""
    spec = array.spec if any(array.spec) else ()
    return (array.shape, spec, array.shard_shape, array.bytes_per_device)


def _device_differences(plan: Inspection, report: MeshReport, buffer_bytes: int) -> Iterator[str]:
    if len(report.devices) != plan.mesh.size:
        yield f"The plan is for {plan.mesh.size:,} devices; the run had {len(report.devices):,}."
    weights, cache = plan.weights.bytes_per_device + buffer_bytes, plan.kv_cache.bytes_per_device
    for device in report.devices:
        for what, planned, real in (("weights", weights, device.weights_bytes), ("cache", cache, device.kv_bytes)):
            if planned != real:
                yield f"{device.device}: {planned:,} bytes of {what} planned; the run has {real:,}."


def _collective_differences(plan: Inspection, report: MeshReport) -> Iterator[str]:
    found = decode_collectives(report)
    if found is None:
        return
    planned, real = totals(plan.collectives), totals(unconditional(found))
    for kind in sorted(planned.keys() | real.keys()):
        (count, num_bytes), (real_count, real_bytes) = planned.get(kind, (0, 0)), real.get(kind, (0, 0))
        if (count, num_bytes) != (real_count, real_bytes):
            yield (
                f"{kind}: theory asks for {count:,} a step with {num_bytes:,} bytes; the compiled decode step has "
                f"{real_count:,} with {real_bytes:,} bytes."
            )


def unconditional(collectives: Iterable[Collective]) -> tuple[Collective, ...]:
    """Those that every call runs: theory knows of no others."""
    return tuple(each for each in collectives if not each.is_conditional)


def totals(collectives: Iterable[Collective | ExpectedCollective]) -> dict[str, tuple[int, int]]:
    """Count and bytes by kind, of expected collectives or of real ones."""
    counts: Counter[str] = Counter()
    num_bytes: Counter[str] = Counter()
    for each in collectives:
        counts[each.kind] += each.count
        num_bytes[each.kind] += each.bytes
    return {kind: (count, num_bytes[kind]) for kind, count in counts.items()}
