"""How long each step took and which part of it was tracing and compiling: a figure and its table.

Pure functions of a record, live or imported. Knows nothing of how the page shows them.
"""

from typing import Any

import plotly.graph_objects as go

from hfjax_demo.events import RunRecord, StepEvent
from hfjax_demo.plots.hover_text import as_markup, compiled_lines, milliseconds, quoted_token, shown_text
from hfjax_demo.plots.step_parts import StepParts, split_steps
from hfjax_demo.plots.style import (
    COMPILING,
    RUNNING,
    STRIPE,
    TRACING,
    Table,
    count_axis,
    empty_figure,
    heading,
    seconds_axis,
    styled_figure,
)

READABLE_SHARE = 8
"""A bar an eighth as high as the plot can still be read; what makes typical bars lower than that gets a panel of its own."""
MAX_NAMED_CUTS = 2
HEADERS = [
    "Step",
    "Phase",
    "Token",
    "Total (ms)",
    "Running (ms)",
    "Tracing (ms)",
    "Compiling (ms)",
    "Input shape",
    "Output shape",
    "KV cache filled (positions)",
    "Compilations",
    "Compiled, slowest first",
]


def step_timeline(record: RunRecord) -> go.Figure:
    """One bar per step, stacked in the order things happen: tracing, compiling, running.

    A cold step can take two hundred times as long as a warm one. On a logarithmic axis stacked parts have no honest height,
    and a bar that is simply cut off hides its parts. So where the longest step dwarfs the typical ones there are two
    panels, both linear and both from 0: above every bar whole, below the same bars enlarged until the typical ones can be
    read. A bar too long for the lower panel is cut at its upper edge, marked with a triangle and named with its seconds.
    """
    if not record.steps:
        return empty_figure("No step to draw yet.")
    parts = split_steps(record.steps)
    hovers = [_hover(step, part) for step, part in zip(record.steps, parts, strict=True)]
    longest_s = max(part.total_s for part in parts) or 1.0
    steps_axis = count_axis(len(parts) - 1, "step (0 is the prefill)")
    cut_s = cut_at([part.total_s for part in parts])
    if cut_s is None:
        return styled_figure(
            _bars(parts, hovers, "y"),
            height=300,
            barmode="stack",
            hovermode="x",
            bargap=0.2,
            xaxis=steps_axis,
            yaxis=seconds_axis(longest_s * 1.06),
            annotations=[heading("seconds per step")],
        )
    enlarged_top = 0.5
    whole = _bars(parts, hovers, "y2", showlegend=False)
    return styled_figure(
        [*_bars(parts, hovers, "y"), *whole, _cut_marks(parts, cut_s)],
        height=430,
        barmode="stack",
        hovermode="x",
        bargap=0.2,
        xaxis=steps_axis,
        yaxis=seconds_axis(cut_s, domain=[0, enlarged_top]),
        yaxis2=seconds_axis(longest_s * 1.06, domain=[0.68, 1], nticks=4, anchor="x"),
        annotations=[heading("seconds per step, whole"), heading(_cut_words(parts, cut_s), enlarged_top) | {"yshift": 8}],
    )


def cut_at(durations_s: list[float]) -> float | None:
    """Seconds at which the enlarged panel ends; None where one panel serves all.

    Typical is the lower quartile: in a short jit run two cold steps may be half of all, or more.
    """
    typical_s = sorted(durations_s)[len(durations_s) // 4]
    limit_s = typical_s * READABLE_SHARE
    if typical_s == 0 or max(durations_s) <= limit_s:
        return None
    return 1.15 * max(duration for duration in durations_s if duration <= limit_s)


def timeline_table(record: RunRecord) -> Table:
    """The numbers of `step_timeline`, one row a step. Tokens and names are plain text: show them as text, not as markup."""
    rows: list[list[object]] = []
    for step, part in zip(record.steps, split_steps(record.steps), strict=True):
        seconds = (part.total_s, part.running_s, part.tracing_s, part.compiling_s)
        rows.append(
            [
                step.index,
                shown_text(step.phase),
                quoted_token(step),
                *(round(value * 1000, 3) for value in seconds),
                str(step.input_shape),
                str(step.output_shape),
                step.filled_len if step.kv else None,
                step.num_compiles,
                ", ".join(shown_text(program.name) for program in step.compiled if program.count),
            ]
        )
    return HEADERS.copy(), rows


def _bars(parts: list[StepParts], hovers: list[str], yaxis: str, showlegend: bool = True) -> list[go.Bar]:
    """Three traces, bottom first. The last one carries the labels, so that pointing anywhere at a step shows one."""
    looks = (
        ("tracing", TRACING, ".", [part.tracing_s for part in parts]),
        ("compiling", COMPILING, "/", [part.compiling_s for part in parts]),
        ("running", RUNNING, "", [part.running_s for part in parts]),
    )
    bars = []
    for name, color, pattern, heights in looks:
        marker: dict[str, Any] = {"color": color, "line": {"width": 0}}
        if pattern:
            marker["pattern"] = {"shape": pattern, "fgcolor": STRIPE, "fillmode": "overlay", "size": 6}
        labels = {"hovertext": hovers, "hoverinfo": "text"} if name == "running" else {"hoverinfo": "skip"}
        names = {"name": name, "legendgroup": name, "showlegend": showlegend}
        bars.append(go.Bar(x=list(range(len(parts))), y=heights, yaxis=yaxis, marker=marker, **names, **labels))
    return bars


def _cut_marks(parts: list[StepParts], cut_s: float) -> go.Scatter:
    """A triangle in each bar that goes on above the enlarged panel, just under its upper edge."""
    cut = [index for index, part in enumerate(parts) if part.total_s > cut_s]
    marker = {"symbol": "triangle-up", "size": 10, "color": "#ffffff", "line": {"width": 1.5, "color": "#17191c"}}
    looks: dict[str, Any] = {"mode": "markers", "marker": marker, "showlegend": False}
    return go.Scatter(x=cut, y=[cut_s * 0.95] * len(cut), name="cut", hoverinfo="skip", **looks)


def _cut_words(parts: list[StepParts], cut_s: float) -> str:
    cut = [(index, part.total_s) for index, part in enumerate(parts) if part.total_s > cut_s]
    longest = sorted(sorted(cut, key=lambda step: -step[1])[:MAX_NAMED_CUTS])
    named = ", ".join(f"step {index}: {seconds:.2f} s" for index, seconds in longest)
    more = f", {len(cut) - len(longest):,} more" if len(cut) > len(longest) else ""
    return f"enlarged; longer steps cut (△):<br>{named}{more}"


def _hover(step: StepEvent, part: StepParts) -> str:
    """Markup of one step's label."""
    capacity = max((layer.capacity for layer in step.kv), default=0)
    room = f" of {capacity:,}" if capacity > step.filled_len else ""
    lines = [
        f"<b>step {step.index}, {as_markup(shown_text(step.phase))}</b>",
        as_markup(quoted_token(step)),
        f"{milliseconds(part.total_s)} in all",
        f"· {milliseconds(part.running_s)} running",
        f"· {milliseconds(part.tracing_s)} tracing",
        f"· {milliseconds(part.compiling_s)} compiling",
        f"{step.input_shape} → {step.output_shape}",
        f"KV cache: {step.filled_len:,}{room} positions filled" if step.kv else "no KV cache",
        *compiled_lines(step),
    ]
    return "<br>".join(lines)
