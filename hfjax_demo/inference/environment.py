"""The torchax environment and the devices JAX starts with. The only module that imports torchax's environment.

torch's dispatch modes are thread-local and JAX's device count is fixed at its first use, so both are decided here, once:
the engine's thread enters `torchax_env()` around each call into a model and never across a `yield`. Knows nothing of
models or requests.
"""

import functools
import os
import platform
from importlib.metadata import version

import jax
import jax.numpy as jnp
import torch
import torchax
import torchax.interop
import torchax.tensor

from hfjax_demo.errors import DeviceError
from hfjax_demo.events import EnvironmentFacts
from hfjax_demo.events import Mesh as MeshFacts

REPORTED_PACKAGES = ("torch", "torchax", "jax", "jaxlib", "transformers")

torch_view = torchax.interop.torch_view
jax_view = torchax.interop.jax_view
call_jax = torchax.interop.call_jax
OperatorNotFound = torchax.tensor.OperatorNotFound


def num_cores() -> int:
    """CPU cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def configure_devices(devices: int | None) -> None:
    """Fixes the number of virtual CPU devices before JAX starts; None means one per core.

    XLA's thread pool grows to max(cores, devices), so more devices than cores slow every step by about 12 %. Without
    effect on accelerators. A second call with the same or a smaller number is harmless.

    Args:
        devices: how many, or None.

    Raises:
        DeviceError: JAX has started already with fewer devices.
    """
    wanted = devices or num_cores()
    try:
        jax.config.update("jax_num_cpu_devices", wanted)
    except RuntimeError as err:
        if devices is not None and jax.default_backend() == "cpu" and jax.device_count() < devices:
            raise DeviceError(
                f"The device count is fixed when JAX starts: {devices} were asked for but it has {jax.device_count()}. "
                "Start the process again with --devices or HFJAX_DEMO_DEVICES set."
            ) from err


@functools.cache
def torchax_env() -> torchax.tensor.Environment:
    """The process's torchax environment; enter it with `with`, on one thread, around one call into a model."""
    env = torchax.default_env()
    env.override_op_definition(torch.ops.aten._grouped_mm, _grouped_mm)
    return env


def _grouped_mm(
    rows: torch.Tensor, matrices: torch.Tensor, offs: torch.Tensor, bias: None = None, out_dtype: None = None
) -> torch.Tensor:
    """`aten::_grouped_mm`, which torchax 0.0.14 lacks: each group of rows times its own matrix (mixture of experts).

    Args:
        rows: float[T, K], sorted by group.
        matrices: float[G, K, N].
        offs: int32[G], where each group's rows end.
        bias: not supported by the operator either.
        out_dtype: that of `rows`.

    Returns:
        float[T, N].
    """
    assert bias is None
    assert out_dtype is None
    return call_jax(_ragged_dot, rows, matrices, offs)


def _ragged_dot(rows: jax.Array, matrices: jax.Array, ends: jax.Array) -> jax.Array:
    return jax.lax.ragged_dot(rows, matrices, jnp.diff(ends, prepend=0).astype(jnp.int32))


def installed_versions() -> dict[str, str]:
    """Of Python and of the packages that decide what is compiled and what comes out."""
    from hfjax_demo import __version__

    installed = {name: version(name) for name in REPORTED_PACKAGES}
    return {"python": platform.python_version(), **installed, "hfjax_demo": __version__}


def environment_facts(mesh: jax.sharding.Mesh) -> EnvironmentFacts:
    """Versions, devices and the mesh as plain data for a run record."""
    first = jax.local_devices()[0]
    return EnvironmentFacts(
        versions=installed_versions(),
        backend=jax.default_backend(),
        device_kind=first.device_kind,
        num_devices=jax.device_count(),
        num_cores=num_cores(),
        mesh=mesh_facts(mesh),
        num_processes=jax.process_count(),
    )


def mesh_facts(mesh: jax.sharding.Mesh) -> MeshFacts:
    """A mesh as plain data."""
    return MeshFacts(axis=mesh.axis_names[0], size=mesh.size, devices=tuple(str(device) for device in mesh.devices.flat))
