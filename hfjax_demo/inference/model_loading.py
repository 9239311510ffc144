"""From a model's files to a `LoadedModel`: its code on torch's meta device, its weights on the mesh.

Transformers reads the files (so every checkpoint layout it knows works); then each tensor moves to its devices and leaves
torch, one at a time, so that no second copy of the model ever stands in memory. Knows nothing of requests or decoding.
"""

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
import ml_dtypes
import numpy as np
import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from hfjax_demo.errors import InsufficientMemoryError, ModelLoadError, UnsupportedModelError, readable_bytes
from hfjax_demo.events import ModelFacts
from hfjax_demo.inference import memory, sharding
from hfjax_demo.inference.decoding import CausalLM, Weights
from hfjax_demo.inference.gguf_conversion import convert_gguf, converted_copy
from hfjax_demo.inference.kv_cache import layer_geometry
from hfjax_demo.inference.model_sources import ModelSource, Progress, resolve, resolve_config
from hfjax_demo.kv_shapes import DTYPE_BYTES, LayerGeometry
from hfjax_demo.settings import Settings

LOADING_OVERHEAD = 1.1
"""Peak host memory over the weights' own size while loading, as a factor (the tensor in flight, code, allocator)."""

UNKNOWN_ARCHITECTURE = ("trust_remote_code", "does not recognize this architecture", "GGUF model with architecture")
"""What Transformers says of a model whose code it does not have."""


@dataclass(frozen=True)
class ModelKey:
    """What makes two loaded models the same one.

    Attributes:
        name: catalog name, Hub id, or path.
        dtype: of the weights.
        tensor_parallel: devices they are split over.
        allow_local: whether `name` may be a path: one who may not use paths gets no model that was loaded from one.
    """

    name: str
    dtype: str
    tensor_parallel: int
    allow_local: bool


@dataclass
class LoadedModel:
    """A model ready to run. Owned by the engine's thread.

    Attributes:
        key: what was asked for.
        source: label of where it came from.
        causal_lm: the code, weightless.
        tokenizer: of Transformers.
        weights: canonical name -> array on the mesh; tied weights once.
        mesh: the devices.
        eos_token_ids: ids that end a text, from the generation config, else the config.
        load_s: seconds it took.
    """

    key: ModelKey
    source: str
    causal_lm: CausalLM
    tokenizer: Any
    weights: Weights
    mesh: jax.sharding.Mesh
    eos_token_ids: tuple[int, ...]
    load_s: float
    _is_deleted: bool = field(default=False, repr=False)

    @cached_property
    def geometry(self) -> tuple[LayerGeometry, ...]:
        """Per layer, the shape of its keys and values.

        Raises:
            UnsupportedModelError: the model's state is more than keys and values.
        """
        return layer_geometry(self.causal_lm.module)

    @cached_property
    def kv_shardings(self) -> tuple[jax.sharding.Sharding | None, ...]:
        """Per layer, how its keys and values lie on the mesh; None for a layer without its own."""
        return tuple(
            sharding.named_sharding(self.mesh, sharding.place_kv(layer, self.mesh.size).spec) if layer.holds_kv else None
            for layer in self.geometry
        )

    @property
    def weights_bytes(self) -> int:
        """Bytes of all weights, counted once however many devices hold them."""
        return sum(int(array.nbytes) for array in self.weights.values())

    @property
    def max_context_len(self) -> int | None:
        """Positions the model was made for, None where its positions have no end."""
        return context_len_of(self.causal_lm.config)

    @cached_property
    def facts(self) -> ModelFacts:
        """The model as plain data for a run record."""
        config = self.causal_lm.config.get_text_config(decoder=True)
        heads = head_counts(config)
        try:
            with_kv = [layer for layer in self.geometry if layer.holds_kv]
        except UnsupportedModelError:
            with_kv = []  # runs without a cache only
        parameters = dict(self.causal_lm.module.named_parameters())
        return ModelFacts(
            name=self.key.name,
            source=self.source,
            architecture=type(self.causal_lm.module).__name__,
            dtype=self.key.dtype,
            num_parameters=sum(int(array.size) for name, array in self.weights.items() if name in parameters),
            weights_bytes=self.weights_bytes,
            num_layers=config.num_hidden_layers,
            num_attention_heads=heads.num_attention_heads,
            num_kv_heads=with_kv[0].num_kv_heads if with_kv else 0,
            head_dim=with_kv[0].key_head_dim if with_kv else 0,
            vocab_size=config.vocab_size,
            max_context_len=self.max_context_len,
            eos_token_ids=self.eos_token_ids,
        )

    def delete(self) -> None:
        """Gives the devices' memory back now, whoever else still refers to this object."""
        if not self._is_deleted:
            self._is_deleted = True
            for array in self.weights.values():
                array.delete()
            self.weights.clear()
            gc.collect()


@dataclass(frozen=True)
class FoundModel:
    """A model that exists and looks right, of which no weight has been read yet.

    Attributes:
        key: what was asked for.
        source: its files.
        needed_bytes: of its weights in the key's dtype.
        float32_bytes: of its weights in float32, what a GGUF conversion writes.
        mesh: the devices it will lie on.
    """

    key: ModelKey
    source: ModelSource
    needed_bytes: int
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
    mesh = sharding.make_mesh(key.tensor_parallel)
    with quiet_transformers():
        preview = prefer_converted(resolve_config(key.name, progress, key.allow_local), settings)
        module = build_on_meta(load_config(preview))
        needed_bytes = weights_bytes(module, key.dtype)
        check_memory(key.name, needed_bytes, settings, reclaimable_bytes)
        source = preview if preview.is_complete else resolve(key.name, progress, key.allow_local)
    return FoundModel(key, source, needed_bytes, weights_bytes(module, "float32"), mesh)


def prefer_converted(source: ModelSource, settings: Settings) -> ModelSource:
    """The whole converted copy where `source` is a GGUF file that has one: its config reads in no time, not in 8 s."""
    return (source.gguf_filename and converted_copy(source, settings.cache_dir)) or source


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
        module = _read_weights(source, found.key.dtype)
        tokenizer = _load_tokenizer(source)
    causal_lm, weights = _move_to_mesh(module, found.mesh, progress)
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


def load_config(source: ModelSource) -> Any:
    """The source's Transformers config, checked to be a causal language model's.

    Raises:
        ModelLoadError: config.json (or the GGUF header) cannot be read.
        UnsupportedModelError: it is no causal language model, or needs code from its repository.
    """
    try:
        config = AutoConfig.from_pretrained(
            source.folder, gguf_file=source.gguf_filename, trust_remote_code=False, local_files_only=True
        )
    except Exception as err:  # Transformers raises many kinds here; each means the config is not usable
        if any(phrase in str(err) for phrase in UNKNOWN_ARCHITECTURE):
            raise UnsupportedModelError(
                f"A model must be one that Transformers {transformers.__version__} knows without running the "
                f"repository's own code, but {source.label} is not. Use another model."
            ) from err
        raise ModelLoadError(
            f"A model's {'GGUF file' if source.gguf_filename else 'config'} must be readable, but that of {source.label} is "
            f"not: {_first_line(err)} Fetch or write it again."
        ) from err
    _check_causal(config, source.label)
    return config


def _check_causal(config: Any, label: str) -> None:
    known = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type)
    known_names = {known} if isinstance(known, str) else set(known or ())
    architectures = list(getattr(config, "architectures", None) or [])
    fills_masks = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", True)
    is_causal = bool(known_names) and not fills_masks and not getattr(config, "is_encoder_decoder", False)
    if architectures and not known_names & set(architectures):
        is_causal = is_causal and any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in architectures)
    if not is_causal:
        raise UnsupportedModelError(
            f"A model must be a causal language model (one that continues text), but {label} is a {config.model_type} "
            f"model ({', '.join(architectures) or 'no architecture named'}). Pick one whose architecture ends in "
            "ForCausalLM."
        )


def build_on_meta(config: Any) -> torch.nn.Module:
    """The model's code with parameters of the right names and shapes and no memory behind them, dtype float32.

    Raises:
        ModelLoadError: the config's numbers do not make a model.
    """
    try:
        with torch.device("meta"):
            module: torch.nn.Module = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception as err:  # whatever a model's constructor makes of bad numbers
        raise ModelLoadError(
            f"A config's numbers must fit together, but those of this {config.model_type} do not: {_first_line(err)} "
            "Correct config.json."
        ) from err
    return module.eval()


def weights_bytes(module: torch.nn.Module, dtype: str) -> int:
    """Bytes of a model's parameters in `dtype`, tied ones once (`named_parameters` lists them so)."""
    return sum(parameter.numel() for _, parameter in module.named_parameters()) * DTYPE_BYTES[dtype]


def check_memory(name: str, needed_bytes: int, settings: Settings, reclaimable_bytes: int = 0) -> None:
    """Refuses, before anything is read, a model whose weights cannot fit beside what stays in memory.

    Raises:
        InsufficientMemoryError: with the numbers.
    """
    available = settings.memory_limit_bytes or memory.available_bytes() + reclaimable_bytes
    needed = int(needed_bytes * LOADING_OVERHEAD)
    if needed > available:
        raise InsufficientMemoryError(
            f"A model's weights must fit into memory: {name} needs {readable_bytes(needed)} while loading but "
            f"{readable_bytes(available)} are free. Use a smaller model or --dtype bfloat16, or free some memory."
        )


def _read_weights(source: ModelSource, dtype: str) -> torch.nn.Module:
    try:
        module, info = AutoModelForCausalLM.from_pretrained(
            source.folder,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, with the names that Transformers' own error leaves out
        )
    except (SafetensorError, OSError, RuntimeError, ValueError, KeyError) as err:
        raise ModelLoadError(
            f"A model's weight files must be whole and fit its config, but those of {source.label} are not: "
            f"{_first_line(err)} Fetch or write them again."
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
            f"A model needs its tokenizer beside the weights, but {source.label} has none that loads: {_first_line(err)} "
            "Add tokenizer.json."
        ) from err


def _move_to_mesh(module: Any, mesh: jax.sharding.Mesh, progress: Progress) -> tuple[CausalLM, Weights]:
    """Moves each parameter and buffer to its devices, leaving a meta tensor in its place; tied ones move once."""
    plan = sharding.tensor_parallel_plan(module)
    heads = head_counts(module.config.get_text_config(decoder=True))
    names_of: dict[int, list[str]] = {}
    for name, tensor in _named_tensors(module):
        names_of.setdefault(id(tensor), []).append(name)
    weights: Weights = {}
    aliases: dict[str, str] = {}
    total = len(names_of)
    for names in list(names_of.values()):
        canonical = names[0]
        tensor = _replace_with_meta(module, names)
        placement = sharding.place_weight(canonical, tensor.shape, plan, heads, mesh.size)
        weights[canonical] = jax.device_put(_as_numpy(tensor), sharding.named_sharding(mesh, placement.spec))
        aliases.update(dict.fromkeys(names, canonical))
        progress("moving weights to the mesh", len(weights) / total)
    jax.block_until_ready(list(weights.values()))
    return CausalLM(module, aliases), weights


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


def head_counts(config: Any) -> sharding.HeadCounts:
    """Query and KV heads of a text config; attention-free models count 1, which always divides."""
    num_attention_heads = getattr(config, "num_attention_heads", None) or 1
    return sharding.HeadCounts(num_attention_heads, getattr(config, "num_key_value_heads", None) or num_attention_heads)


def context_len_of(config: Any) -> int | None:
    """Positions a model was made for (`max_position_embeddings`), None where its positions have no end (ALiBi)."""
    return getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)


def _eos_token_ids(module: Any) -> tuple[int, ...]:
    for config in (getattr(module, "generation_config", None), module.config.get_text_config(decoder=True)):
        eos = getattr(config, "eos_token_id", None)
        if eos is not None:
            return tuple(int(token) for token in eos) if isinstance(eos, list | tuple) else (int(eos),)
    return ()


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keeps Transformers' bars and advice off our output; what matters is raised or reported as progress."""
    verbosity = transformers.logging.get_verbosity()
    had_bars = transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(verbosity)
        if had_bars:
            transformers.logging.enable_progress_bar()


def _first_line(err: BaseException) -> str:
    lines = [line.strip() for line in str(err).splitlines() if line.strip()] or [type(err).__name__]
    text = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    return text[:200].rstrip(".:! ") + "."
