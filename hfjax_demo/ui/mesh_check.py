"""What a record says of its mesh, held against itself and the rest of the record: it may come from anyone.

Types and bounds of single numbers are checked elsewhere. Knows nothing of files and of how a mesh is drawn.
"""

import math
from collections.abc import Iterator
from itertools import zip_longest

from hfjax_demo.events import Mesh, RunRecord
from hfjax_demo.mesh_report import COLLECTIVE_KINDS, MeshReport, PlacedArray
from hfjax_demo.requests import ExecutionMode, shown_value

ITEM_BYTES = (1, 2, 4, 8)


def mesh_problem(report: MeshReport, record: RunRecord) -> str | None:
    """The first thing about `record`'s mesh that no run can have given, in words; None where there is none."""
    return next(_problems(report, record), None)


def _problems(report: MeshReport, record: RunRecord) -> Iterator[str]:
    mesh = record.environment.mesh
    yield from _device_problems(report, mesh)
    if len({array.name for array in report.weights}) < len(report.weights):
        yield "the weights on a mesh must have a name each but some have the same"
    for array in (*report.weights, *report.kv):
        yield from _array_problems(array, mesh)
    yield from _sum_problems(report)
    shapes = [shape for layer in record.steps[-1].kv for shape in (layer.key_shape, layer.value_shape) if shape]
    if [array.shape for array in report.kv] != shapes:
        yield f"the cache on a mesh must have the shapes of the last step's {len(shapes)} keys and values but has others"
    if report.programs and record.request.mode is ExecutionMode.EAGER:
        yield f"an eager run has no programs to read but {len(report.programs)} are named"
    yield from _program_problems(report)


def _device_problems(report: MeshReport, mesh: Mesh) -> Iterator[str]:
    if mesh.size < 2:
        yield f"a mesh that is told of must have at least 2 devices but has {mesh.size}"
    if len(mesh.devices) != mesh.size or tuple(device.device for device in report.devices) != mesh.devices:
        yield f"the devices told of must be the {mesh.size} of the mesh but are {len(report.devices)} others"
    if len(set(mesh.devices)) < len(mesh.devices):
        yield "the devices of a mesh must have a name each but some have the same"
    if (owners := len({device.process for device in report.devices})) != report.num_processes:
        yield f"the devices of a mesh must belong to {report.num_processes} processes in all but belong to {owners}"


def _array_problems(array: PlacedArray, mesh: Mesh) -> Iterator[str]:
    where = shown_value(array.name)
    if array.spec and (len(array.spec) != len(array.shape) or [axis for axis in array.spec if axis] != [mesh.axis]):
        yield f"{where} must be split over {shown_value(mesh.axis)} on one of its axes, or on none, but its spec is another"
        return
    parts = [mesh.size if axis else 1 for axis in array.spec or [None] * len(array.shape)]
    if [size * part for size, part in zip_longest(array.shard_shape, parts, fillvalue=0)] != list(array.shape):
        yield f"{where} must be {mesh.size} equal parts on a split axis and whole on others but its parts are not"
    num_items = math.prod(array.shard_shape)
    if array.bytes_per_device not in [num_items * size for size in ITEM_BYTES]:
        yield f"{where} must have 1, 2, 4 or 8 bytes an item but {shown_value(num_items)} have {array.bytes_per_device}"


def _sum_problems(report: MeshReport) -> Iterator[str]:
    weights_bytes, kv_bytes = (sum(array.bytes_per_device for array in arrays) for arrays in (report.weights, report.kv))
    for device in report.devices:
        if (device.weights_bytes, device.kv_bytes) != (weights_bytes, kv_bytes):
            yield (
                f"a device must hold the parts told of, {weights_bytes} bytes of weights and {kv_bytes} of cache, but "
                f"{shown_value(device.device)} holds {device.weights_bytes} and {device.kv_bytes}"
            )


def _program_problems(report: MeshReport) -> Iterator[str]:
    if len({program.program for program in report.programs}) < len(report.programs):
        yield "the programs of a run must have a name each but some have the same"
    for program in report.programs:
        told = [(collective.kind, collective.is_conditional) for collective in program.collectives]
        if len(set(told)) < len(told):
            yield f"{shown_value(program.program)} must tell of each kind of communication once but repeats one"
        for collective in program.collectives:
            if collective.kind not in COLLECTIVE_KINDS:
                yield f"communication must be one of {', '.join(COLLECTIVE_KINDS)} but is {shown_value(collective.kind)}"
            if collective.count < 1:
                yield f"communication told of must happen but {collective.kind} has a count of {collective.count}"
