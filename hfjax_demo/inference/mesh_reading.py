"""How arrays really lie on a mesh, read off them as plain data.

Reads their shardings, never their contents: where a mesh spans several processes, none of them has all the parts. Knows
nothing of plans, requests or the text of programs.
"""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import jax

from hfjax_demo.inference.kv_cache import KVCache
from hfjax_demo.mesh_report import DeviceUse, MeshReport, PlacedArray, ProgramCollectives


@dataclass(frozen=True)
class PlacedArrays:
    """Some arrays as they lie, and what they take of each device, other processes' devices included."""

    arrays: tuple[PlacedArray, ...]
    bytes_by_device: Counter[jax.Device]


def read_arrays(named: Iterable[tuple[str, jax.Array]], mesh: jax.sharding.Mesh) -> PlacedArrays:
    """How each array of `named` lies on the one-axis `mesh`."""
    arrays: list[PlacedArray] = []
    bytes_by_device: Counter[jax.Device] = Counter()
    for name, array in named:
        placed = _placed(name, array, mesh.axis_names[0])
        arrays.append(placed)
        for device in array.sharding.device_set:
            bytes_by_device[device] += placed.bytes_per_device
    return PlacedArrays(tuple(arrays), bytes_by_device)


def read_cache(cache: KVCache | None, mesh: jax.sharding.Mesh) -> PlacedArrays:
    """How the keys and values of each layer that has them lie."""
    pairs = [] if cache is None else zip(cache.keys, cache.values, strict=True)
    named = [
        (f"layer {layer} {what}", array)
        for layer, pair in enumerate(pairs)
        for what, array in zip(("keys", "values"), pair, strict=True)
        if array is not None
    ]
    return read_arrays(named, mesh)


def mesh_report(
    mesh: jax.sharding.Mesh, weights: PlacedArrays, kv: PlacedArrays, programs: tuple[ProgramCollectives, ...]
) -> MeshReport:
    """All of it as the part of a run's record."""
    devices = list(mesh.devices.flat)
    return MeshReport(
        num_processes=len({device.process_index for device in devices}),
        devices=tuple(
            DeviceUse(str(device), device.process_index, weights.bytes_by_device[device], kv.bytes_by_device[device])
            for device in devices
        ),
        weights=weights.arrays,
        kv=kv.arrays,
        programs=programs,
    )


def _placed(name: str, array: jax.Array, axis: str) -> PlacedArray:
    """One array's place. What is shorter on a device than it is in all was split, over the only axis that a mesh has.

    That is told by every kind of sharding, where a spec is spelled in several ways, or, of what eager operators return, not
    given at all.
    """
    shape = tuple(array.shape)
    shard_shape = tuple(array.sharding.shard_shape(shape))
    spec = tuple(axis if part < whole else None for part, whole in zip(shard_shape, shape, strict=True))
    return PlacedArray(
        name=name,
        shape=shape,
        spec=spec if any(spec) else (),
        shard_shape=shard_shape,
        bytes_per_device=math.prod(shard_shape) * array.dtype.itemsize,
    )
