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
from hfjax_demo.plots.style import GRID, LINE, MAX_TICKS, TEXT, Table, empty_figure, heading, styled_figure

MAX_MODELS = 6
MAX_LABEL_CHARS = 28
HEIGHT = 400
SHORTEST = 128
"""Contexts below are left out where the curve goes far beyond: nobody plans for them."""
LABEL_SHARE = 0.05
"""Of the plot's height: what one line of words takes."""

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
    x_range = (math.log10(min(lengths)), math.log10(max(lengths)) or 1.0)
    memories = _by_memory(accelerators)
    y_range = _padded([*heights, *(usable_bytes(memory) for memory in memories if _is_near(memory, heights))])
    shown = {
        memory: names for memory, names in memories.items() if y_range[0] < math.log10(usable_bytes(memory)) < y_range[1]
    }
    what = "weights and cache" if with_weights else "cache alone"
    note = f", dashed: a device's memory less {RESERVE:.0%}" if shown else ""
    return styled_figure(
        [*(_memory_line(memory, names, 10 ** x_range[0], 10 ** x_range[1]) for memory, names in shown.items()), *lines],
        height=HEIGHT,
        hovermode="closest",
        xaxis=_log_axis(x_range, _powers_of_two(x_range), "context length (tokens)", showgrid=False, linecolor=LINE),
        yaxis=_log_axis(y_range, _byte_ticks(y_range), None, gridcolor=GRID),
        annotations=[heading(f"on one device: {what}{note}"), *_memory_labels(shown, y_range)],
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
        showlegend=True,
    )


def _by_memory(accelerators: Sequence[Accelerator]) -> dict[int, list[str]]:
    """Names of the devices of each memory size, ascending."""
    names: dict[int, list[str]] = {}
    for accelerator in sorted(accelerators, key=lambda accelerator: accelerator.memory_bytes):
        names.setdefault(accelerator.memory_bytes, []).append(accelerator.name)
    return names


def _memory_line(memory_bytes: int, names: Sequence[str], first: float, last: float) -> go.Scatter:
    usable = usable_bytes(memory_bytes)
    hover = "<br>".join(as_markup(name) for name in names)
    hover += f"<br>{memory_bytes / GB:,.0f} GB, of which {readable_bytes(usable)} are planned with"
    return go.Scatter(
        x=[first, last],
        y=[usable, usable],
        mode="lines",
        line={"width": 1, "color": TEXT, "dash": "dash"},
        hovertext=[hover, hover],
        hoverinfo="text",
        showlegend=False,
    )


def _memory_labels(memories: dict[int, list[str]], y_range: tuple[float, float]) -> list[dict[str, Any]]:
    """Each line's size above it, at the left or, where the line below is too near, at the right; else hovering says it."""
    labels = []
    last = {"left": -math.inf, "right": -math.inf}
    for memory, names in memories.items():
        share = (math.log10(usable_bytes(memory)) - y_range[0]) / (y_range[1] - y_range[0])
        side = next((side for side, below in last.items() if share - below >= LABEL_SHARE), None)
        if side is None:
            continue
        last[side] = share
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        text = f"{memory / GB:,.0f} GB {as_markup(names[0])}{more}"
        place: dict[str, Any] = {
            "xref": "paper",
            "x": 0 if side == "left" else 1,
            "xanchor": side,
            "yanchor": "bottom",
            "showarrow": False,
        }
        labels.append({"text": text, "y": math.log10(usable_bytes(memory)), "font": {"size": 10, "color": TEXT}} | place)
    return labels


def _is_near(memory_bytes: int, heights: Sequence[int]) -> bool:
    """Whether a device's line says something of these curves: some height is within a factor of ten of it."""
    usable = usable_bytes(memory_bytes)
    return min(heights) / 10 <= usable <= max(heights) * 10


def _padded(values: Sequence[int]) -> tuple[float, float]:
    logs = [math.log10(value) for value in values if value > 0]
    room = max(0.08 * (max(logs) - min(logs)), 0.1)
    return min(logs) - room, max(logs) + room


def _log_axis(span: tuple[float, float], ticks: dict[float, str], title: str | None, **axis: Any) -> dict[str, Any]:
    shared: dict[str, Any] = {"type": "log", "range": list(span), "tickvals": list(ticks), "ticktext": list(ticks.values())}
    shared |= {"tickangle": 0, "zeroline": False, "automargin": True}
    if title:
        shared["title"] = {"text": title, "standoff": 6, "font": {"size": 12}}
    return shared | axis


def _powers_of_two(span: tuple[float, float]) -> dict[float, str]:
    first, last = math.ceil(span[0] / math.log10(2) - 1e-9), math.floor(span[1] / math.log10(2) + 1e-9)
    step = max(1, math.ceil((last - first) / (MAX_TICKS - 1)))
    return {2.0**power: _tokens(2**power) for power in range(first, last + 1, step)}


def _tokens(count: int) -> str:
    """A power of two as short as it is exact: "512", "4 Ki", "1 Mi"."""
    for size, unit in ((2**20, " Mi"), (2**10, " Ki")):
        if count >= size:
            return f"{count // size:,}{unit}"
    return str(count)


def _byte_ticks(span: tuple[float, float]) -> dict[float, str]:
    """Round numbers of bytes: powers of ten, or what it takes between them to have three."""
    powers = range(math.floor(span[0]), math.ceil(span[1]) + 1)
    ticks: dict[float, str] = {}
    for tenths in ((10,), (10, 20, 50), range(10, 100, 10), range(10, 100, 2)):
        inside = [(tenth, power) for power in powers for tenth in tenths if _is_inside(tenth / 10 * 10.0**power, span)]
        kept = inside[:: math.ceil(len(inside) / MAX_TICKS) or 1]
        ticks = {tenth / 10 * 10.0**power: _bytes_tick(power, tenth / 10) for tenth, power in kept}
        if len(ticks) >= 3:
            break
    return ticks


def _is_inside(value: float, span: tuple[float, float]) -> bool:
    return span[0] <= math.log10(value) <= span[1]


def _bytes_tick(power: int, factor: float) -> str:
    unit = max(power // 3, 0)
    return f"{factor * 10.0 ** (power - 3 * unit):g} {('B', 'kB', 'MB', 'GB', 'TB', 'PB')[min(unit, 5)]}"
