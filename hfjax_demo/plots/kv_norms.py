"""What is in the cache: a heat map of key or value norms by layer, head and position, and its tables.

Pure functions of a record, live or imported. Knows nothing of how norms are computed or of how the page shows them.
"""

from typing import Any

import plotly.graph_objects as go

from hfjax_demo.cache_norms import column_positions
from hfjax_demo.events import LayerNorms, RunRecord
from hfjax_demo.plots.hover_text import as_markup
from hfjax_demo.plots.norm_rows import (
    PARTS,
    HeadNorms,
    head_pairs,
    head_rows,
    layers_on_view,
    rounded,
    span_words,
    tokens_at,
)
from hfjax_demo.plots.style import LINE, MAX_TICKS, Table, empty_figure, heading, styled_figure, tick_step

# Even in lightness, told apart by the colour-blind; its ends stand out from a white page and, on a dark one, from gaps.
COLOURS = "Viridis"
ROW_PX = (4, 24)
"""Height of a row: with every layer, and in one layer."""
HEIGHT = (300, 720)
BESIDE_ROWS_PX = 150
"""Colour bar, heading, axis and its title."""
MAX_ROW_TICKS = 12
MAX_NAMED = 4
LINE_PX = 14


def norms_map(record: RunRecord, part: str, layer: int | None = None) -> go.Figure:
    """Norms by position, a row per head; a dashed line where the prompt ends.

    Columns and rows are named once each, on category axes, and labels put together from the names: a text for each cell
    would be as large as all the rest.

    Args:
        record: a run, with or without norms.
        part: "keys" or "values".
        layer: its index; None for all, one below the other.
    """
    assert part in PARTS, part
    if (reason := _why_empty(record, layer)) is not None:
        return empty_figure(reason)
    assert record.norms is not None
    per_column = record.norms.positions_per_column
    drawn = layers_on_view(record.norms, layer)
    rows = list(head_rows(drawn, part, per_column))
    columns = range(min(min(row.norms) for row in rows), 1 + max(max(row.norms) for row in rows))
    height = min(max(HEIGHT[0], BESIDE_ROWS_PX + len(rows) * ROW_PX[layer is not None]), HEIGHT[1])
    prompt_end = len(record.prompt_ids) / per_column - columns.start - 0.5
    has_line = -0.5 < prompt_end < len(columns) - 0.5
    lines = _heading_lines(record, part, layer, has_line)
    return styled_figure(
        [
            go.Heatmap(
                z=[[rounded(row.norms.get(column)) for column in columns] for row in rows],
                x=_column_names(record, drawn, columns),
                y=[f"layer {row.layer.layer}, head {row.head}" for row in rows],
                colorscale=COLOURS,
                colorbar=_colour_bar(height - BESIDE_ROWS_PX, len(lines)),
                hoverongaps=False,
                hovertemplate=f"%{{y}}<br>%{{x}}<br>{part[:-1]} norm %{{z:.3g}}<extra></extra>",
            )
        ],
        height=height,
        hovermode="closest",
        xaxis=_column_axis(columns, per_column),
        yaxis=_row_axis(rows, layer),
        shapes=_prompt_end_lines(prompt_end) if has_line else [],
        annotations=[heading("<br>".join(lines))],
    )


def norms_table(record: RunRecord, layer: int | None = None) -> Table:
    """Each head's mean and greatest norms and where the greatest is. Tokens are plain text: show them as text."""
    per_column = record.norms.positions_per_column if record.norms else 1
    mean = "Mean {} norm" if per_column == 1 else f"Mean of the greatest {{}} norms of {per_column} positions each"
    headers = ["Layer", "Head"]
    for part in PARTS:
        name = part[:-1]
        greatest = f"Greatest {name} norm"
        headers += [mean.format(name), greatest, f"{greatest}: position", f"{greatest}: token"]
    rows: list[list[object]] = []
    for keys, values in head_pairs(record, layer):
        rows.append([keys.layer.layer, keys.head, *_summary(record, keys), *_summary(record, values)])
    return headers, rows


def norms_cells(record: RunRecord, layer: int | None = None) -> Table:
    """Every cell of both maps, one row each. Tokens are plain text: show them as text, not as markup."""
    headers = ["Layer", "Head", "First position", "Last position", "Token", "Key norm", "Value norm"]
    per_column = record.norms.positions_per_column if record.norms else 1
    rows: list[list[object]] = []
    for keys, values in head_pairs(record, layer):
        for column, norm in keys.norms.items():
            held = column_positions(keys.layer, column, per_column)
            place = [keys.layer.layer, keys.head, held[0], held[-1], " to ".join(tokens_at(record, held))]
            rows.append([*place, rounded(norm), rounded(values.norms[column])])
    return headers, rows


def _why_empty(record: RunRecord, layer: int | None) -> str | None:
    """In words, why there is nothing to draw; None where there is something."""
    if record.norms is None:
        has_cache = any(step.kv for step in record.steps)
        return "This run’s record has no norms." if has_cache else "This run has no KV cache."
    if not layers_on_view(record.norms, layer):
        where = "Every layer" if layer is None else f"Layer {layer}"
        return f"{where} lacks keys and values of its own,<br>or some of their norms are not finite."
    return None


def _heading_lines(record: RunRecord, part: str, layer: int | None, has_line: bool) -> list[str]:
    """What is drawn, what a column stands for, and which layers could not be drawn: a line each, short for a phone."""
    assert record.norms is not None
    per_column, drawn = record.norms.positions_per_column, {held.layer for held in record.norms.layers}
    lines = [f"{part[:-1]} norms" + ("; dashed: the end of the prompt" if has_line else "")]
    if per_column > 1:
        lines.append(f"a column: the greatest of {per_column:,} positions")
    missing = [state.layer for state in record.steps[-1].kv if state.key_shape and state.layer not in drawn]
    if missing and layer is None:
        named = ", ".join(map(str, missing[:MAX_NAMED])) + (" and more" if len(missing) > MAX_NAMED else "")
        lines.append(f"not finite, left out: layer {named}")
    return lines


def _summary(record: RunRecord, row: HeadNorms) -> list[object]:
    assert record.norms is not None
    column = max(row.norms, key=lambda column: row.norms[column])
    held = column_positions(row.layer, column, record.norms.positions_per_column)
    mean = sum(row.norms.values()) / len(row.norms)
    where: object = held[0] if len(held) == 1 else span_words(held)
    return [rounded(mean), rounded(row.norms[column]), where, " to ".join(tokens_at(record, held))]


def _column_names(record: RunRecord, drawn: list[LayerNorms], columns: range) -> list[str]:
    """Markup that names each column: its positions, prompt or new, its token; no two are the same."""
    assert record.norms is not None
    per_column = record.norms.positions_per_column
    last = max(layer.first_position + layer.num_positions for layer in drawn)
    first = min(layer.first_position for layer in drawn)
    names = []
    for column in columns:
        held = range(max(column * per_column, first), min((column + 1) * per_column, last))
        of_prompt = [position < len(record.prompt_ids) for position in (held[0], held[-1])]
        whose = "prompt" if all(of_prompt) else "new" if not any(of_prompt) else "prompt and new"
        noun = "position" if len(held) == 1 else "positions"
        tokens = " to<br>".join(map(as_markup, tokens_at(record, held)))
        names.append(f"{noun} {span_words(held)} ({whose})<br>{tokens}")
    return names


def _colour_bar(rows_px: int, heading_lines: int) -> dict[str, Any]:
    """Above the heading: beside it, it would take a fifth of a phone's width."""
    return {
        "title": {"text": "L2 norm", "side": "top", "font": {"size": 11}},
        "orientation": "h",
        "x": 0,
        "xanchor": "left",
        "y": 1 + (6 + heading_lines * LINE_PX) / rows_px,
        "yanchor": "bottom",
        "len": 1,
        "thickness": 10,
        "xpad": 0,
        "ypad": 8,
        "nticks": MAX_TICKS,
        "outlinewidth": 0,
    }


def _column_axis(columns: range, per_column: int) -> dict[str, Any]:
    step = tick_step(len(columns) * per_column)
    positions = range(-(-columns.start * per_column // step) * step, columns.stop * per_column, step)
    return _named_axis(
        [(position + 0.5) / per_column - 0.5 - columns.start for position in positions],
        [f"{position:,}" for position in positions],
        len(columns),
    ) | {"title": {"text": "position in the sequence", "standoff": 6, "font": {"size": 12}}}


def _row_axis(rows: list[HeadNorms], layer: int | None) -> dict[str, Any]:
    """Few labels, the first row on top: layers at their first head, or the heads of the one layer."""
    if layer is None:
        starts = [index for index, row in enumerate(rows) if row.head == 0]
        texts = [f"layer {rows[index].layer.layer}" for index in starts]
    else:
        starts, texts = list(range(len(rows))), [f"head {row.head}" for row in rows]
    every = tick_step(len(starts) * MAX_TICKS // MAX_ROW_TICKS)
    axis = _named_axis([float(start) for start in starts[::every]], texts[::every], len(rows))
    return axis | {"range": [len(rows) - 0.5, -0.5]}


def _named_axis(places: list[float], texts: list[str], count: int) -> dict[str, Any]:
    return {
        "type": "category",
        "tickmode": "array",
        "tickvals": places,
        "ticktext": texts,
        "tickangle": 0,
        "ticks": "outside",
        "ticklen": 4,
        "tickcolor": LINE,
        "range": [-0.5, count - 0.5],
        "showgrid": False,
        "zeroline": False,
        "automargin": True,
    }


def _prompt_end_lines(place: float) -> list[dict[str, Any]]:
    """White dashes on a dark line: seen on every colour of the scale."""
    shared = {"type": "line", "xref": "x", "x0": place, "x1": place, "yref": "paper", "y0": 0, "y1": 1}
    return [
        shared | {"line": {"color": "#17191c", "width": 3}},
        shared | {"line": {"color": "#ffffff", "width": 1.5, "dash": "dash"}},
    ]
