"""Bytes by context length, several models in one picture, device memory as lines across: a figure and its table.

Both axes are logarithmic: a cache that holds every position is a straight line, and one whose windows are full bends flat.
Pure functions of plain data. Knows nothing of how a plan is made.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from hfjax_demo.accelerators import GB, Accelerator
from hfjax_demo.errors import readable_bytes
from hfjax_demo.planning import RESERVE, ContextPoint, usable_bytes
from hfjax_demo.plots.hover_text import as_markup, shown_text
from hfjax_demo.plots.log_axes import Span, byte_ticks, log_axis, padded, powers_of_two
from hfjax_demo.plots.style import GRID, LINE, TEXT, Table, empty_figure, heading, styled_figure

MAX_MODELS = 6
MAX_LABEL_CHARS = 28
HEIGHT = 400
SHORTEST = 128
"""Contexts below are left out where the curve goes far beyond: nobody plans for them."""
LABEL_SHARE = 0.065
"""Of the plot's height: what one line of words takes. Of device lines closer than that, the lowest is drawn."""

# Each has a contrast of at least 3 to white and to a near-black page, and a symbol of its own beside the colour.
COLOURS = ("#2f72e8", "#cf4a3f", "#0e8577", "#8a63d2", "#8a7a12", "#b8479c")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star")


@dataclass(frozen=True)
class PlannedCurve:
    """One model's line.

    Attributes:
        label: its name; anybody may have written it.
        points: of `planning.context_curve`, ascending.
        weights_bytes: on one device; they are part of the height where the picture is of weights and cache.
        max_context_len: positions the model was made for, None for no limit; the line is thin beyond.
    """

    label: str
    points: tuple[ContextPoint, ...]
    weights_bytes: int
    max_context_len: int | None


def context_curves(
    curves: Sequence[PlannedCurve], accelerators: Sequence[Accelerator] = (), with_weights: bool = True
) -> go.Figure:
    """Bytes on one device against context length; solid the fixed cache, dotted what windows would leave of it.

    Args:
        curves: at most `MAX_MODELS`.
        accelerators: whose usable memory is drawn as a dashed line; those of one size share it.
        with_weights: whether the height is weights and cache, or the cache alone.
    """
    assert len(curves) <= MAX_MODELS, f"a picture of more than {MAX_MODELS} models cannot be read"
    lines = [line for place, curve in enumerate(curves) for line in _lines(place, curve, with_weights)]
    heights = [height for line in lines for height in line.y]
    if not heights:
        return empty_figure("No model to draw yet.")
    lengths = [length for line in lines for length in line.x]
    x_range = (math.log10(min(lengths)) - 0.03, math.log10(max(lengths)) + 0.03)
    memories = {size: names for size, names in _by_memory(accelerators).items() if _is_near(size, heights)}
    y_range = padded([*heights, *map(usable_bytes, memories)])
    drawn = _apart(memories, y_range)
    what = "weights and cache" if with_weights else "cache alone"
    note = f"; dashed: memory of a device, less {RESERVE:.0%}" if drawn else ""
    has_windows = any(line.line.dash == "dot" for line in lines)
    return styled_figure(
        [
            *(_memory_line(size, names, (10 ** x_range[0], 10 ** x_range[1])) for size, names in drawn.items()),
            *lines,
            *([_key_to_windows()] if has_windows else []),
        ],
        height=HEIGHT,
        hovermode="closest",
        xaxis=log_axis(x_range, powers_of_two(x_range), "context length (tokens)", showgrid=False, linecolor=LINE),
        yaxis=log_axis(y_range, byte_ticks(y_range), None, gridcolor=GRID),
        annotations=[heading(f"{what}{note}"), *(_memory_label(size, names, lines) for size, names in drawn.items())],
        # Tick labels that would leave the figure are hidden: the last length has its room.
        margin={"l": 8, "r": 26, "t": 8, "b": 8},
    )


def context_table(
    curves: Sequence[PlannedCurve], accelerators: Sequence[Accelerator] = (), with_weights: bool = True
) -> Table:
    """The numbers of `context_curves`, one row for each point of each model."""
    height = "Weights and cache" if with_weights else "Cache"
    headers = ["Model", "Context length (tokens)", f"{height}, fixed (bytes)", f"{height}, windows respected (bytes)"]
    headers += ["Smallest device that holds weights and fixed cache"] if accelerators else []
    rows: list[list[object]] = []
    for curve in curves:
        added = curve.weights_bytes if with_weights else 0
        for point in _drawn(curve.points):
            fixed, windowed = point.fixed_bytes_per_device, point.windowed_bytes_per_device
            row = [curve.label, point.context_len, fixed + added, windowed + added]
            rows.append([*row, _smallest(accelerators, curve.weights_bytes + fixed)] if accelerators else row)
    return headers, rows


def _smallest(accelerators: Sequence[Accelerator], needed: int) -> str:
    holding = [accelerator for accelerator in accelerators if usable_bytes(accelerator.memory_bytes) >= needed]
    return min(holding, key=lambda accelerator: accelerator.memory_bytes).name if holding else "none of these"


def _drawn(points: Sequence[ContextPoint]) -> list[ContextPoint]:
    is_long = bool(points) and points[-1].context_len >= 8 * SHORTEST
    return [point for point in points if point.context_len >= SHORTEST or not is_long]


def _lines(place: int, curve: PlannedCurve, with_weights: bool) -> list[go.Scatter]:
    points, name = _drawn(curve.points), as_markup(shown_text(curve.label, MAX_LABEL_CHARS))
    added = curve.weights_bytes if with_weights else 0
    fixed = [point.fixed_bytes_per_device for point in points]
    windowed = [point.windowed_bytes_per_device for point in points]
    if not any(added + height for height in fixed):
        return []  # neither cache nor weights: nothing that has a logarithm
    lines = [_line(place, curve, points, fixed, added, name, "fixed cache", dash="solid")]
    if windowed != fixed:
        words = "windows respected"
        lines.append(_line(place, curve, points, windowed, added, f"{name}, {words}", words, dash="dot"))
    return lines


def _line(
    place: int,
    curve: PlannedCurve,
    points: Sequence[ContextPoint],
    heights: Sequence[int],
    added: int,
    name: str,
    form: str,
    dash: str,
) -> go.Scatter:
    model = as_markup(shown_text(curve.label, MAX_LABEL_CHARS))
    hovers = []
    for point, height in zip(points, heights, strict=True):
        beyond = curve.max_context_len is not None and point.context_len > curve.max_context_len
        hovers.append(
            f"<b>{model}</b>, {form}<br>{point.context_len:,} tokens{' (beyond its own context)' if beyond else ''}<br>"
            f"cache {readable_bytes(height)}" + (f"<br>weights {readable_bytes(added)}" if added else "")
        )
    colour = COLOURS[place]
    return go.Scatter(
        x=[point.context_len for point in points],
        y=[added + height for height in heights],
        name=name,
        mode="lines+markers",
        line={"width": 2, "color": colour, "dash": dash},
        marker={"symbol": SYMBOLS[place] + ("-open" if dash == "dot" else ""), "size": 7, "color": colour},
        hovertext=hovers,
        hoverinfo="text",
        legendgroup=f"model {place}",
        showlegend=dash == "solid",
    )


def _by_memory(accelerators: Sequence[Accelerator]) -> dict[int, list[str]]:
    """Names of the devices of each memory size, ascending."""
    names: dict[int, list[str]] = {}
    for accelerator in sorted(accelerators, key=lambda accelerator: accelerator.memory_bytes):
        names.setdefault(accelerator.memory_bytes, []).append(accelerator.name)
    return names


def _apart(memories: dict[int, list[str]], y_range: Span) -> dict[int, list[str]]:
    """The sizes whose lines have room for their words above them, from the smallest up."""
    drawn: dict[int, list[str]] = {}
    last = -math.inf
    for size, names in memories.items():
        share = (math.log10(usable_bytes(size)) - y_range[0]) / (y_range[1] - y_range[0])
        if share - last >= LABEL_SHARE:
            drawn[size], last = names, share
    return drawn


def _memory_line(memory_bytes: int, names: Sequence[str], ends: tuple[float, float]) -> go.Scatter:
    usable = usable_bytes(memory_bytes)
    hover = "<br>".join(as_markup(name) for name in names)
    hover += f"<br>{memory_bytes / GB:,.0f} GB, of which {readable_bytes(usable)} are planned with"
    return go.Scatter(
        x=list(ends),
        y=[usable, usable],
        mode="lines",
        line={"width": 1, "color": TEXT, "dash": "dash"},
        hovertext=[hover, hover],
        hoverinfo="text",
        showlegend=False,
    )


def _memory_label(memory_bytes: int, names: Sequence[str], lines: Sequence[go.Scatter]) -> dict[str, Any]:
    """A device's size and name above its line, at the end where the curves are further from it."""
    size, usable = f"{memory_bytes / GB:,.0f} GB", usable_bytes(memory_bytes)
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    # Some names have their size in them.
    text = f"{size} {as_markup(names[0].replace(f' {size}', ''))}{more}"
    left, right = (
        min(abs(math.log10(height / usable)) for line in lines for height in _half(line.y, is_left) if height)
        for is_left in (True, False)
    )
    place: dict[str, Any] = {"xref": "paper", "x": 0, "xanchor": "left"} if left >= right else {"xref": "paper", "x": 1}
    place = {"xanchor": "right"} | place | {"yanchor": "bottom", "showarrow": False}
    return {"text": text, "y": math.log10(usable), "font": {"size": 10, "color": TEXT}} | place


def _half(heights: Sequence[int], is_left: bool) -> Sequence[int]:
    middle = (len(heights) + 1) // 2
    return heights[:middle] if is_left else heights[-middle:]


def _key_to_windows() -> go.Scatter:
    """An entry of the legend, without a point, for every dotted line: models are few enough to tell by their symbols."""
    line = {"width": 2, "color": TEXT, "dash": "dot"}
    return go.Scatter(
        x=[None], y=[None], name="windows respected", mode="lines", line=line, hoverinfo="skip", showlegend=True
    )


def _is_near(memory_bytes: int, heights: Sequence[int]) -> bool:
    """Whether a device's line says something of these curves: some height is within a factor of ten of it."""
    usable = usable_bytes(memory_bytes)
    return min(heights) / 10 <= usable <= max(heights) * 10
