"""What a config builds, as plain data: layers, weights, what decoding reads of them. Built once per config, then remembered.

The model is built on torch's meta device and asked; no formula here can disagree with what the engine allocates. Knows
nothing of batches, dtypes, devices or requests.
"""

import functools
import json
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.modules.module import register_module_forward_pre_hook, register_module_module_registration_hook

from hfjax_demo.cache_formula import ConfigField
from hfjax_demo.errors import ModelLoadError
from hfjax_demo.inference.config_fields import layer_number, layer_numbers
from hfjax_demo.inference.kv_cache import layer_geometry
from hfjax_demo.inference.model_config import HeadCounts, build_on_meta, context_len_of, first_line, head_counts
from hfjax_demo.inference.parallel_rules import WeightRule, read_rules
from hfjax_demo.kv_shapes import LayerGeometry

REMEMBERED = 32
TIME_LIMIT_S = 30.0
"""For building one model without weights: the largest public ones take 5 s, and the engine does nothing else meanwhile."""

MAX_MODULES = 100_000
"""Parts of one model: a kilobyte or more each, though without weights. The largest public ones have some thousands."""

EXPERTS = re.compile(r"(^|\.)experts\.")
NUM_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
LATENT_PARTS = ("qk_nope_head_dim", "qk_rope_head_dim")
EXPERTS_PER_TOKEN = ("num_experts_per_tok", "num_experts_per_token", "moe_k", "moe_topk", "top_k_experts")


@dataclass(frozen=True)
class WeightShape:
    """One weight: its name (a tied one once, under its first name), its shape, and what share of it one token reads.

    Attributes:
        name: parameter name.
        shape: whole.
        share: (read, of): (0, 1) for an embedding table of which one row is read, (2, 8) for experts of which 2 of 8 are.
    """

    name: str
    shape: tuple[int, ...]
    share: tuple[int, int]

    @property
    def num_parameters(self) -> int:
        """Numbers in it."""
        product = 1
        for size in self.shape:
            product *= size
        return product


@dataclass(frozen=True)
class Anatomy:
    """A model without weights.

    Attributes:
        architecture: the Transformers class.
        heads: query and KV heads.
        max_context_len: positions it was made for, None for no limit.
        layers: of the cache.
        weights: each unique parameter.
        rules: of each weight, by its name; see `parallel_rules.read_rules`.
        fields: where the formula's numbers come from.
        num_experts: of each layer that has any, 0 for none.
        experts_per_token: of them, 0 where the config does not say.
    """

    architecture: str
    heads: HeadCounts
    max_context_len: int | None
    layers: tuple[LayerGeometry, ...]
    weights: tuple[WeightShape, ...]
    rules: Mapping[str, WeightRule]
    fields: tuple[ConfigField, ...]
    num_experts: int
    experts_per_token: int


def read_anatomy(config: Any) -> Anatomy:
    """The anatomy of the model that `config` builds; the same object for the same config.

    Raises:
        ModelLoadError: the config's numbers do not make a model, or one too large to build here.
        UnsupportedModelError: its state is more than keys and values.
    """
    return _read(_ByContent(json.dumps(config.to_dict(), sort_keys=True, default=str), config))


@dataclass(frozen=True)
class _ByContent:
    """A config that is equal to another of the same content."""

    content: str
    config: Any = field(compare=False)


@functools.lru_cache(maxsize=REMEMBERED)
def _read(keyed: _ByContent) -> Anatomy:
    config = keyed.config
    with _limited_work(config.model_type):
        module = build_on_meta(config)
        try:
            layers = layer_geometry(module)
        except (RuntimeError, ValueError, TypeError, IndexError, ZeroDivisionError, AttributeError, KeyError) as err:
            raise ModelLoadError(
                f"A config's numbers must fit together, but those of this {config.model_type} do not: {first_line(err)} "
                "Correct config.json."
            ) from err
    text_config = config.get_text_config(decoder=True)
    num_experts, experts_per_token = _first_of(text_config, NUM_EXPERTS), _first_of(text_config, EXPERTS_PER_TOKEN)
    tables = _unread_tables(module)
    weights = tuple(
        WeightShape(name, tuple(parameter.shape), _share(name, parameter, tables, num_experts, experts_per_token))
        for name, parameter in module.named_parameters()
    )
    has_experts = any(EXPERTS.search(weight.name) for weight in weights)
    return Anatomy(
        architecture=type(module).__name__,
        heads=head_counts(text_config),
        max_context_len=context_len_of(config),
        layers=layers,
        weights=weights,
        rules=read_rules(module),
        fields=_fields(text_config),
        num_experts=num_experts if has_experts else 0,
        experts_per_token=experts_per_token if has_experts else 0,
    )


class _TooLargeError(Exception):
    """Raised inside a model's own code; not a kind that such code would catch."""


@contextmanager
def _limited_work(model_type: str) -> Iterator[None]:
    """Gives up on a model of too many parts (each registers with its parent), or one that is not done in time."""
    deadline = time.monotonic() + TIME_LIMIT_S
    num_modules = 0

    def register(*_: Any) -> None:
        nonlocal num_modules
        num_modules += 1
        if num_modules > MAX_MODULES:
            raise _TooLargeError(f"{MAX_MODULES} parts")
        check()

    def check(*_: Any) -> None:
        if time.monotonic() > deadline:
            raise _TooLargeError(f"what {TIME_LIMIT_S:.0f} s can build")

    hooks = [register_module_module_registration_hook(register), register_module_forward_pre_hook(check)]
    try:
        yield
    except (_TooLargeError, ModelLoadError) as err:
        limit = err if isinstance(err, _TooLargeError) else err.__cause__
        if not isinstance(limit, _TooLargeError):
            raise
        raise ModelLoadError(
            f"A model may have at most {limit}, but this {model_type} has more: too many layers or experts. Use a smaller "
            "one."
        ) from err
    finally:
        for hook in hooks:
            hook.remove()


def _unread_tables(module: torch.nn.Module) -> set[int]:
    """Embedding tables (ids of their parameters) of which a token reads a row: not the one that is the output layer too."""
    output = module.get_output_embeddings()  # type: ignore[operator]
    tied = id(output.weight) if output is not None else None
    tables = {id(part.weight) for part in module.modules() if isinstance(part, torch.nn.Embedding)}
    return tables - {tied}


def _share(name: str, parameter: torch.Tensor, tables: set[int], num_experts: int, per_token: int) -> tuple[int, int]:
    if id(parameter) in tables:
        return (0, 1)
    if EXPERTS.search(name) and 0 < per_token <= num_experts:
        is_stacked = parameter.dim() > 1 and parameter.shape[0] == num_experts
        if is_stacked or re.search(r"(^|\.)experts\.\d+\.", name):
            return (per_token, num_experts)
    return (1, 1)


def _first_of(config: Any, names: tuple[str, ...]) -> int:
    """The first of these fields that is a number, 0 for none."""
    return next((value for name in names if (value := layer_number(config, name, 0))), 0)


def _fields(config: Any) -> tuple[ConfigField, ...]:
    """What of a text config each number of the formula may come from, under the names that its file has."""
    spelling = getattr(config, "attribute_map", None) or {}

    def found(symbol: str, *names: str) -> list[ConfigField]:
        return [
            ConfigField(symbol, spelling.get(name, name), value) for name in names for value in layer_numbers(config, name)
        ]

    def derived(symbol: str, words: str, value: int) -> ConfigField:
        return ConfigField(symbol, " ".join(spelling.get(word, word) for word in words.split()), value)

    first = {name: layer_number(config, name, 0) for name in ("hidden_size", "num_attention_heads", *LATENT_PARTS)}
    candidates = [
        *found("N", "num_hidden_layers"),
        *found("K", "num_key_value_heads", "num_kv_heads"),
        derived("K", "multi_query", int(bool(getattr(config, "multi_query", False)))),
        *found("K", "num_attention_heads"),
        *found("H", "num_attention_heads"),
        *found("D", "head_dim", "global_head_dim", "swa_head_dim"),
        derived("D", "hidden_size / num_attention_heads", first["hidden_size"] // (first["num_attention_heads"] or 1)),
        *found("Dk", "kv_lora_rank"),
        derived("Dk", " + ".join(LATENT_PARTS), sum(first[name] for name in LATENT_PARTS)),
        *found("Dv", "qk_rope_head_dim", "v_head_dim"),
    ]
    return tuple(candidate for candidate in candidates if candidate.value)
