"""The formula with its numbers: `2 x N x K x L x D x bytes x B`, each factor with its name, its source and its reason.

Layers that are not alike make a sum: a term for each group of equal layers. Pure functions of plain numbers; knows nothing
of configs or models. The bytes alone, without words, are `cache_plan`'s.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from hfjax_demo.cache_plan import CacheForm, LayerGroup, head_dims, heads_held, positions_held
from hfjax_demo.kv_shapes import DTYPE_BYTES, LayerGeometry


@dataclass(frozen=True)
class ConfigField:
    """A field of a config (or arithmetic over fields) that one symbol of the formula may come from, and its value."""

    symbol: str
    name: str
    value: int


@dataclass(frozen=True)
class Factor:
    """One number of the formula.

    Attributes:
        symbol: "N", "K", "L"... as in the formula.
        value: the number.
        name: in words.
        source: where the number comes from.
        meaning: one sentence on why it is a factor.
    """

    symbol: str
    value: int
    name: str
    source: str
    meaning: str


@dataclass(frozen=True)
class FormulaTerm:
    """The product for one group of equal layers.

    Attributes:
        layers: their indexes.
        kind: see `LayerGeometry.kind`.
        factors: whose product is `bytes`.
        symbols: "2 x N x K x L x D x bytes x B".
        numbers: "2 x 32 x 32 x 4096 x 128 x 2 x 1".
        bytes: of these layers together.
    """

    layers: tuple[int, ...]
    kind: str
    factors: tuple[Factor, ...]
    symbols: str
    numbers: str
    bytes: int


@dataclass(frozen=True)
class CacheFormula:
    """The formula with its numbers: a term for each group of equal layers, and their sum."""

    form: CacheForm
    terms: tuple[FormulaTerm, ...]
    total_bytes: int


def cache_formula(
    groups: Sequence[LayerGroup],
    form: CacheForm,
    batch_size: int,
    context_len: int,
    dtype: str,
    fields: Sequence[ConfigField] = (),
) -> CacheFormula:
    """The formula with its numbers; its total equals `cache_bytes`'.

    Args:
        groups: of `layer_groups`.
        form: how keys and values are kept.
        batch_size: B.
        context_len: L.
        dtype: a key of `DTYPE_BYTES`.
        fields: what of the config each symbol may come from; a number that none of them has was read off the model.
    """
    terms = tuple(_term(group, form, batch_size, context_len, dtype, fields) for group in groups)
    return CacheFormula(form, terms, sum(term.bytes for term in terms))


def _term(
    group: LayerGroup, form: CacheForm, batch_size: int, context_len: int, dtype: str, fields: Sequence[ConfigField]
) -> FormulaTerm:
    layer = group.geometry
    is_latent = layer.expanded_head_dims is not None and form is not CacheForm.FULL_HEADS
    key_dim, value_dim = head_dims(layer, form)
    factors: tuple[Factor, ...] = (
        _count_of_layers(group, fields),
        _heads(layer, form, fields),
        _positions(layer, form, context_len),
        _head_size(key_dim, value_dim, is_latent, fields),
        Factor("bytes", DTYPE_BYTES[dtype], "bytes of a number", f"dtype {dtype}", "Each number takes as many bytes."),
        Factor("B", batch_size, "sequences", "asked for", "Every sequence of a batch has a cache of its own."),
    )
    if any(factor.symbol == "D" for factor in factors):
        pair = "Attention reads a key and a value of every position."
        factors = (Factor("2", 2, "keys and values", "always two", pair), *factors)
    product = 1
    for factor in factors:
        product *= factor.value
    return FormulaTerm(
        layers=group.layers,
        kind=layer.kind,
        factors=factors,
        symbols=" x ".join(factor.symbol for factor in factors),
        numbers=" x ".join(str(factor.value) for factor in factors),
        bytes=product,
    )


def _count_of_layers(group: LayerGroup, fields: Sequence[ConfigField]) -> Factor:
    what = f"layers, window {group.geometry.window}" if group.geometry.window else "layers"
    meaning = "Every layer keeps keys and values of its own."
    return Factor("N", len(group.layers), what, _source("N", len(group.layers), fields), meaning)


def _heads(layer: LayerGeometry, form: CacheForm, fields: Sequence[ConfigField]) -> Factor:
    num_heads, kv_heads = heads_held(layer, CacheForm.FULL_HEADS), layer.num_kv_heads
    if form is CacheForm.FULL_HEADS:
        meaning = "As if every query head had keys and values of its own."
        return Factor("H", num_heads, "query heads", _source("H", num_heads, fields), meaning)
    if layer.expanded_head_dims:
        meaning = f"All {num_heads} query heads read one compressed vector: multi-head latent attention."
        return Factor("K", kv_heads, "latents", "read off the model", meaning)
    if kv_heads == num_heads:
        meaning = "Every query head has keys and values of its own: multi-head attention."
    elif kv_heads == 1:
        meaning = f"All {num_heads} query heads share one head of keys and values: multi-query attention."
    else:
        meaning = f"{num_heads} query heads share {kv_heads} heads of keys and values: grouped-query attention."
    return Factor("K", kv_heads, "KV heads", _source("K", kv_heads, fields), meaning)


def _positions(layer: LayerGeometry, form: CacheForm, context_len: int) -> Factor:
    held = positions_held(layer, form, context_len)
    if layer.window is None or form in (CacheForm.FIXED, CacheForm.FULL_HEADS):
        note = f" The layer reads the latest {layer.window} only; a fixed cache holds all." if layer.window else ""
        return Factor("L", held, "positions", "context length", f"Every token has a place in the cache.{note}")
    symbol = "min(L, W)" if form is CacheForm.WINDOWED else "min(L, W - 1)"
    meaning = f"The layer attends to the latest {layer.window} positions; older ones may be forgotten."
    return Factor(symbol, held, "positions", f"context length {context_len}, window {layer.window}", meaning)


def _head_size(key_dim: int, value_dim: int, is_latent: bool, fields: Sequence[ConfigField]) -> Factor:
    if is_latent:
        meaning = f"A compressed vector of {key_dim} for keys and values, and {value_dim} rotary numbers of the keys."
        source = f"{_source('Dk', key_dim, fields)} + {_source('Dv', value_dim, fields)}"
        return Factor("(C + R)", key_dim + value_dim, "latent and rotary size", source, meaning)
    if key_dim == value_dim:
        meaning = "A key and a value are vectors of this many numbers."
        return Factor("D", key_dim, "head size", _source("D", key_dim, fields), meaning)
    meaning = f"Keys have {key_dim} numbers a head and values {value_dim}."
    source = f"{_source('Dk', key_dim, fields)} + {_source('Dv', value_dim, fields)}"
    return Factor("(Dk + Dv)", key_dim + value_dim, "key and value head size", source, meaning)


def _source(symbol: str, value: int, fields: Sequence[ConfigField]) -> str:
    """The first field that has this very value; a config may say one thing and the model's code do another."""
    for field in fields:
        if (field.symbol, field.value) == (symbol, value):
            return f"config: {field.name}"
    return "read off the model"
