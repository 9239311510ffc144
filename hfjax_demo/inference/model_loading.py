"""From a model's files to a `LoadedModel`: its code on torch's meta device, its weights on the mesh.

Transformers maps the files in the dtype they have (so every checkpoint layout it knows works, and nothing is read yet:
mapped pages are clean and go back when the memory is wanted). Then one tensor at a time is cast, cut, put straight onto its
shards and leaves torch: beside what lies on its devices the host holds one tensor, and what Transformers had to convert.
Knows nothing of requests or decoding.
"""

import math
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import ml_dtypes
import numpy as np
import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from hfjax_demo.errors import ModelLoadError
from hfjax_demo.inference.decoding import CausalLM, Weights
from hfjax_demo.inference.device_mesh import make_mesh, num_memories
from hfjax_demo.inference.gguf_conversion import convert_gguf, prefer_converted
from hfjax_demo.inference.loaded_model import LoadedModel, ModelKey
from hfjax_demo.inference.mesh_layout import MeshLayout
from hfjax_demo.inference.model_config import (
    build_on_meta,
    check_memory,
    first_line,
    load_config,
    quiet_transformers,
    weights_bytes,
)
from hfjax_demo.inference.model_files import ModelSource, Progress
from hfjax_demo.inference.model_sources import resolve, resolve_config
from hfjax_demo.kv_shapes import DTYPE_BYTES
from hfjax_demo.settings import Settings


@dataclass(frozen=True)
class FoundModel:
    """A model that exists and looks right, of which no weight has been read yet.

    Attributes:
        key: what was asked for.
        source: its files.
        float32_bytes: of its weights in float32, what a GGUF conversion writes.
        mesh: the devices it will lie on.
    """

    key: ModelKey
    source: ModelSource
    float32_bytes: int
    mesh: jax.sharding.Mesh


def find_model(key: ModelKey, settings: Settings, progress: Progress, reclaimable_bytes: int = 0) -> FoundModel:
    """Finds and checks a model; downloads it, but reads no weight and allocates nothing.

    Args:
        key: which model, in which dtype, on how many devices.
        settings: memory limit.
        progress: told what is happening; may raise to give up.
        reclaimable_bytes: memory that will be free by the time the weights are read (the model loaded now).

    Raises:
        HfJaxDemoError: one of its subclasses says what is wrong with the name, the files, the memory or the devices.
    """
    mesh = make_mesh(key.tensor_parallel)
    with quiet_transformers():
        preview = prefer_converted(resolve_config(key.name, progress, key.allow_local), settings.cache_dir)
        module = build_on_meta(load_config(preview))
        check_memory(key.name, _bytes_here(module, key.dtype, mesh), settings, reclaimable_bytes)
        source = preview if preview.is_complete else resolve(key.name, progress, key.allow_local)
    return FoundModel(key, source, weights_bytes(module, "float32"), mesh)


def load_model(found: FoundModel, settings: Settings, progress: Progress) -> LoadedModel:
    """Reads a found model's weights onto its mesh.

    Args:
        found: see `find_model`.
        settings: cache folder.
        progress: told what is happening; may raise to give up, which leaves nothing behind.

    Raises:
        ModelLoadError: the files are damaged or do not belong together.
        DiskFullError: no room for the converted copy of a GGUF file.
    """
    started = time.perf_counter()
    source = found.source
    with quiet_transformers():
        if source.gguf_filename:
            source = convert_gguf(source, settings.cache_dir, found.float32_bytes, progress)
        progress("reading weights", None)
        module = _map_weights(source)
        tokenizer = _load_tokenizer(source)
    causal_lm, weights = _move_to_mesh(module, getattr(torch, found.key.dtype), found.mesh, progress)
    return LoadedModel(
        key=found.key,
        source=source.label,
        causal_lm=causal_lm,
        tokenizer=tokenizer,
        weights=weights,
        mesh=found.mesh,
        eos_token_ids=_eos_token_ids(module),
        load_s=time.perf_counter() - started,
    )


def _bytes_here(module: Any, dtype: str, mesh: jax.sharding.Mesh) -> int:
    """Bytes of a model's weights on this host's devices of a mesh, or on one accelerator; replicas counted."""
    layout = MeshLayout.of(module, mesh)
    per_device = sum(
        math.prod(layout.weight(name, parameter.shape).shard_shape(parameter.shape))
        for name, parameter in module.named_parameters()
    )
    return per_device * DTYPE_BYTES[dtype] * num_memories(mesh)


def _map_weights(source: ModelSource) -> torch.nn.Module:
    """The model with its files mapped: tensors of the dtype that the files have, none read before it is looked at."""
    try:
        module, info = AutoModelForCausalLM.from_pretrained(
            source.folder,
            dtype="auto",
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, with the names that Transformers' own error leaves out
        )
    except (SafetensorError, OSError, RuntimeError, ValueError, KeyError) as err:
        raise ModelLoadError(
            f"A model's weight files must be whole and fit its config, but those of {source.label} are not: "
            f"{first_line(err)} Fetch or write them again."
        ) from err
    if mismatched := sorted(info["mismatched_keys"]):
        name, found, expected = mismatched[0]
        raise ModelLoadError(
            f"Weights must have the shapes their config says, but {len(mismatched)} of {source.label} have not: {name} is "
            f"{tuple(found)} instead of {tuple(expected)}. Fetch them again, or check that config.json belongs to them."
        )
    if missing := sorted(info["missing_keys"]):
        raise ModelLoadError(
            f"Weight files must hold every parameter, but those of {source.label} lack {len(missing)}, {missing[0]} among "
            "them. Fetch them again, or check that config.json belongs to them."
        )
    model: torch.nn.Module = module
    return model.eval()


def _load_tokenizer(source: ModelSource) -> Any:
    try:
        return AutoTokenizer.from_pretrained(source.folder, trust_remote_code=False, local_files_only=True)
    except Exception as err:  # any failure here means the same to the user
        raise ModelLoadError(
            f"A model needs its tokenizer beside the weights, but {source.label} has none that loads: {first_line(err)} "
            "Add tokenizer.json."
        ) from err


def _move_to_mesh(module: Any, dtype: torch.dtype, mesh: jax.sharding.Mesh, progress: Progress) -> tuple[CausalLM, Weights]:
    """Moves each parameter and buffer to its devices, leaving a meta tensor in its place; tied ones move once."""
    layout = MeshLayout.of(module, mesh)
    names_of: dict[int, list[str]] = {}
    for name, tensor in _named_tensors(module):
        names_of.setdefault(id(tensor), []).append(name)
    is_read = module.state_dict(keep_vars=True).keys()
    kept_exact = [re.compile(pattern) for pattern in module._get_dtype_plan(dtype)]
    weights: Weights = {}
    aliases: dict[str, str] = {}
    total = len(names_of)
    for names in list(names_of.values()):
        canonical = names[0]
        tensor = _replace_with_meta(module, names)
        if canonical in is_read and tensor.is_floating_point():
            tensor = tensor.to(torch.float32 if any(exact.search(canonical) for exact in kept_exact) else dtype)
        weights[canonical] = _put(_as_numpy(tensor), layout.weight(canonical, tensor.shape))
        aliases.update(dict.fromkeys(names, canonical))
        progress("moving weights to the mesh", len(weights) / total)
    return CausalLM(module, aliases, layout), weights


def _put(array: np.ndarray, placed: jax.sharding.Sharding) -> jax.Array:
    """An array on its shards, each of which gets its own part and nothing else; waits, so that the host's copy can go.

    Of a mesh over several processes, each puts the parts of its own devices.
    """
    return jax.make_array_from_callback(array.shape, placed, lambda index: array[index]).block_until_ready()


def _named_tensors(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters and buffers under all their names; buffers that state_dict() omits (rotary frequencies) included."""
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def _replace_with_meta(module: torch.nn.Module, names: list[str]) -> torch.Tensor:
    """Puts one shared meta tensor under all `names` and returns the tensor that was there."""
    first_path, _, first_attribute = names[0].rpartition(".")
    tensor: torch.Tensor = getattr(module.get_submodule(first_path), first_attribute)
    is_parameter = isinstance(tensor, torch.nn.Parameter)
    stand_in: Any = torch.empty_like(tensor, device="meta", requires_grad=False)
    if is_parameter:
        stand_in = torch.nn.Parameter(stand_in, requires_grad=False)
    for name in names:
        path, _, attribute = name.rpartition(".")
        owner = module.get_submodule(path)
        (owner._parameters if is_parameter else owner._buffers)[attribute] = stand_in
    return tensor.detach()


def _as_numpy(tensor: torch.Tensor) -> np.ndarray:
    """A tensor's memory as a NumPy array, no copy; NumPy has no bfloat16 of its own, ml_dtypes lends JAX's."""
    tensor = tensor.contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    if tensor.dtype == torch.int64:
        return tensor.numpy().astype(np.int32)  # JAX runs with 32-bit integers
    return tensor.numpy()


def _eos_token_ids(module: Any) -> tuple[int, ...]:
    for config in (getattr(module, "generation_config", None), module.config.get_text_config(decoder=True)):
        eos = getattr(config, "eos_token_id", None)
        if eos is not None:
            return tuple(int(token) for token in eos) if isinstance(eos, list | tuple) else (int(eos),)
    return ()
