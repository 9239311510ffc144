"""How a run really lay on its mesh, as plain data: read off its arrays and its compiled programs, never planned.

`model_plan` has the plan that this is held against. Knows nothing of arrays, nor of who shows it.
"""

from dataclasses import dataclass

Spec = tuple[str | None, ...]
"""Mesh axis per array axis, None for not split; empty for replicated."""
COLLECTIVE_KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


@dataclass(frozen=True)
class DeviceUse:
    """What one device of the mesh holds.

    Attributes:
        device: its name, as JAX gives it.
        process: index of the process that owns it; 0 where there is one.
        weights_bytes: of the parts of weights and buffers that lie on it.
        kv_bytes: of the parts of keys and values that lie on it after the last step.
    """

    device: str
    process: int
    weights_bytes: int
    kv_bytes: int


@dataclass(frozen=True)
class PlacedArray:
    """One array as it really lies.

    Attributes:
        name: of the weight, or "layer 0 keys" and the like for the cache.
        shape: whole.
        spec: mesh axis per array axis, None for not split; empty for replicated.
        shard_shape: one device's part.
        bytes_per_device: of that part.
    """

    name: str
    shape: tuple[int, ...]
    spec: Spec
    shard_shape: tuple[int, ...]
    bytes_per_device: int


@dataclass(frozen=True)
class Collective:
    """Communication of one kind inside a program.

    Attributes:
        kind: one of `COLLECTIVE_KINDS`.
        count: operations of that kind in the program, each run once a call unless `is_conditional`.
        bytes: what one device receives of them in all, results' bytes added up.
        is_conditional: whether they stand in a branch, of which a call may take another (sampling has one for greedy and one
            for drawn tokens), or in a loop, whose turns the program's text does not tell. Counted apart from the others.
    """

    kind: str
    count: int
    bytes: int
    is_conditional: bool = False


@dataclass(frozen=True)
class ProgramCollectives:
    """A compiled program and the communication that its optimised HLO contains; empty where there is none."""

    program: str
    collectives: tuple[Collective, ...]


@dataclass(frozen=True)
class MeshReport:
    """A run's mesh as it was.

    Attributes:
        num_processes: processes that the devices belong to.
        devices: in the order of the mesh.
        weights: every weight and buffer.
        kv: keys and values of every layer that has them, as they lay after the last step.
        programs: those that the run used, prefill and decode step; empty in eager mode, where there are none to read.
    """

    num_processes: int
    devices: tuple[DeviceUse, ...]
    weights: tuple[PlacedArray, ...]
    kv: tuple[PlacedArray, ...]
    programs: tuple[ProgramCollectives, ...]
