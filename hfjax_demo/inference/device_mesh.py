"""The mesh: which devices it takes, in one process or over several.

A mesh over several processes takes as many devices of each; a size that does not divide by their number stays within process
0, and the others have nothing to do. Knows nothing of what lies on it.
"""

import jax
from jax.sharding import AxisType

from hfjax_demo.errors import DeviceError

MODEL_AXIS = "model"


def make_mesh(tensor_parallel: int) -> jax.sharding.Mesh:
    """A mesh of one axis over `tensor_parallel` devices.

    Raises:
        DeviceError: there are fewer devices.
    """
    devices = jax.local_devices()
    if spans_processes(tensor_parallel):
        each = tensor_parallel // jax.process_count()
        devices = [device for process in range(jax.process_count()) for device in jax.local_devices(process)[:each]]
    if tensor_parallel > len(devices):
        counts = ", ".join(str(len(jax.local_devices(process))) for process in range(jax.process_count()))
        raise DeviceError(
            f"A mesh needs its devices, as many of each process it lies on: {tensor_parallel} were asked for but there are "
            f"{counts} ({jax.default_backend()}). Use a smaller size, or start each process with more --devices."
        )
    axis_types = (AxisType.Auto,)
    return jax.make_mesh((tensor_parallel,), (MODEL_AXIS,), axis_types=axis_types, devices=devices[:tensor_parallel])


def spans_processes(tensor_parallel: int) -> bool:
    """Whether a mesh of that size lies on all of several processes."""
    return jax.process_count() > 1 and tensor_parallel % jax.process_count() == 0


def num_memories(mesh: jax.sharding.Mesh) -> int:
    """How many of the mesh's devices share the memory that this process has to watch: its CPU devices all do."""
    if mesh.devices.flat[0].platform != "cpu":
        return 1
    return sum(device.process_index == jax.process_index() for device in mesh.devices.flat)
