"""A model's config, checked, and what follows from it without reading a weight: its code, its size, its limits.

Knows nothing of where files come from, of meshes or of requests.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from hfjax_demo.errors import InsufficientMemoryError, ModelLoadError, UnsupportedModelError, readable_bytes
from hfjax_demo.inference import memory
from hfjax_demo.inference.config_fields import layer_number
from hfjax_demo.inference.model_files import ModelSource
from hfjax_demo.kv_shapes import DTYPE_BYTES
from hfjax_demo.settings import Settings

LOADING_OVERHEAD = 1.1
"""Peak host memory over the weights' own size while loading, as a factor (the tensor in flight, code, allocator)."""

UNKNOWN_ARCHITECTURE = ("trust_remote_code", "does not recognize this architecture", "GGUF model with architecture")
"""What Transformers says of a model whose code it does not have."""


@dataclass(frozen=True)
class HeadCounts:
    """Query heads and key/value heads of a model."""

    num_attention_heads: int
    num_kv_heads: int


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
            f"not: {first_line(err)} Fetch or write it again."
        ) from err
    check_causal(config, source.label)
    return config


def check_causal(config: Any, label: str) -> None:
    """Raises `UnsupportedModelError` unless `config` is a causal language model's; `label` says whose it is."""
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
            f"A config's numbers must fit together, but those of this {config.model_type} do not: {first_line(err)} "
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


def head_counts(config: Any) -> HeadCounts:
    """Query and KV heads of a text config; attention-free models count 1, which always divides."""
    num_attention_heads = layer_number(config, "num_attention_heads", 0) or 1
    return HeadCounts(num_attention_heads, layer_number(config, "num_key_value_heads", 0) or num_attention_heads)


def context_len_of(config: Any) -> int | None:
    """Positions a model was made for (`max_position_embeddings`), None where its positions have no end (ALiBi)."""
    return getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keeps Transformers' bars and advice off our output; what matters is raised or reported as progress."""
    verbosity = transformers.logging.get_verbosity()
    had_bars = transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity(transformers.logging.CRITICAL)  # its errors come with a whole config
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(verbosity)
        if had_bars:
            transformers.logging.enable_progress_bar()


def first_line(err: BaseException) -> str:
    """What a library's error says, in one sentence of at most 200 characters."""
    lines = [line.strip() for line in str(err).splitlines() if line.strip()] or [type(err).__name__]
    text = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    return text[:200].rstrip(".:! ") + "."
