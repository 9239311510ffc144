"""How a record holds the norms of its cache: positions put into columns, norms as bytes, bytes as base64.

One grid of columns for all layers: column c is of the positions from c x `positions_per_column` on, whatever the layer.
Pure functions of plain data. Knows nothing of how norms are computed or drawn.
"""

import base64

from hfjax_demo.events import LayerNorms

MAX_LEVEL = 255
MAX_LEVELS_CHARS = 64 * 1024
"""Base64 characters of all layers' keys and values together; each layer's names and numbers, 150 characters, come on top."""
MAX_COLUMNS = 1024
"""A screen has little more."""


def num_columns(first_position: int, num_positions: int, positions_per_column: int) -> int:
    """Columns that `num_positions` positions from `first_position` on touch."""
    return (first_position + num_positions - 1) // positions_per_column - first_position // positions_per_column + 1


def levels_chars(num_heads: int, columns: int) -> int:
    """Characters of the base64 of one layer's keys, or values."""
    return 4 * -(-num_heads * columns // 3)


def fitting_positions_per_column(layers: list[tuple[int, int, int]]) -> int:
    """The least number of positions a column that keeps layers within `MAX_LEVELS_CHARS`, the grid within `MAX_COLUMNS`.

    Args:
        layers: of each its heads, first position and number of positions.

    Returns:
        1 where every position has room; at most so many that each layer has a single column.
    """
    first = min((first for _, first, _ in layers), default=0)
    count = max((start + held for _, start, held in layers), default=1) - first
    cells = sum(2 * heads * held for heads, _, held in layers)
    for per_column in range(max(1, levels_chars(1, cells) // MAX_LEVELS_CHARS), count):
        chars = sum(2 * levels_chars(heads, num_columns(start, held, per_column)) for heads, start, held in layers)
        if chars <= MAX_LEVELS_CHARS and num_columns(first, count, per_column) <= MAX_COLUMNS:
            return per_column
    return first + count


def column_positions(layer: LayerNorms, column: int, positions_per_column: int) -> range:
    """The positions of the layer that the grid's column `column` is of; empty where the layer holds none of them."""
    start = max(column * positions_per_column, layer.first_position)
    return range(start, min((column + 1) * positions_per_column, layer.first_position + layer.num_positions))


def encode_levels(levels: bytes) -> str:
    """Levels, one byte each, as text."""
    return base64.b64encode(levels).decode("ascii")


def decode_levels(text: str) -> bytes:
    """Levels back from text.

    Raises:
        ValueError: the text is no base64.
    """
    return base64.b64decode(text, validate=True)


def norms_by_head(levels: str, greatest: float, num_heads: int) -> list[list[float]]:
    """A layer's norms, a row per head, a value per column; exact to half a level, a 510th of `greatest`."""
    decoded = decode_levels(levels)
    columns = len(decoded) // num_heads
    rows = (decoded[head * columns : (head + 1) * columns] for head in range(num_heads))
    return [[level * greatest / MAX_LEVEL for level in row] for row in rows]
