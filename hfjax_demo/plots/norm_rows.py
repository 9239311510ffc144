"""The norms of a record as rows of numbers, a row per layer and head, and the tokens they belong to.

Pure functions of a record, live or imported. Knows nothing of figures.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from hfjax_demo.cache_norms import norms_by_head
from hfjax_demo.events import CacheNorms, LayerNorms, RunRecord
from hfjax_demo.plots.hover_text import quoted_token, shown_text

KEYS, VALUES = "keys", "values"
PARTS = (KEYS, VALUES)


@dataclass(frozen=True)
class HeadNorms:
    """One head of one layer: norms by the grid's column."""

    layer: LayerNorms
    head: int
    norms: dict[int, float]


def layers_on_view(norms: CacheNorms, layer: int | None) -> list[LayerNorms]:
    """The layer of that index, if it has norms; every layer for None."""
    return [held for held in norms.layers if layer in (None, held.layer)]


def head_rows(layers: list[LayerNorms], part: str, per_column: int) -> Iterator[HeadNorms]:
    """Each layer's heads in turn, of their "keys" or "values"."""
    for layer in layers:
        levels, greatest = (layer.keys, layer.key_max) if part == KEYS else (layer.values, layer.value_max)
        first = layer.first_position // per_column
        for head, norms in enumerate(norms_by_head(levels, greatest, layer.num_heads)):
            yield HeadNorms(layer, head, dict(enumerate(norms, first)))


def head_pairs(record: RunRecord, layer: int | None) -> Iterator[tuple[HeadNorms, HeadNorms]]:
    """Each head's keys and values."""
    if record.norms is None:
        return iter(())
    layers, per_column = layers_on_view(record.norms, layer), record.norms.positions_per_column
    return zip(head_rows(layers, KEYS, per_column), head_rows(layers, VALUES, per_column), strict=True)


def token_at(record: RunRecord, position: int) -> str:
    """The token read at a position, in quotes; its id where it has no text of its own. Plain text, not markup."""
    prompt_len = len(record.prompt_ids)
    if position >= prompt_len:
        steps = record.steps
        return quoted_token(steps[position - prompt_len]) if position - prompt_len < len(steps) else "no token"
    if position < len(record.prompt_texts) and (text := record.prompt_texts[position]):
        return f"“{shown_text(text)}”"
    return f"token id {record.prompt_ids[position]}" + (", no text of its own" if record.prompt_texts else "")


def rounded(norm: float | None) -> float | None:
    """Three significant figures; a level tells no more."""
    return None if norm is None else float(f"{norm:.3g}")


def span_words(held: range) -> str:
    """Positions in words: "8", or "8 to 11"."""
    return f"{held[0]:,}" if len(held) == 1 else f"{held[0]:,} to {held[-1]:,}"


def tokens_at(record: RunRecord, held: range) -> list[str]:
    """The token at the only position, or the first and the last of several."""
    return [token_at(record, position) for position in dict.fromkeys((held[0], held[-1]))]
