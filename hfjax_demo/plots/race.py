"""Two runs against each other: seconds so far against tokens made, a figure and its table.

Pure functions of two records, live or imported. When one has caught up is `break_even`'s to say.
"""

from itertools import accumulate, zip_longest
from typing import Any

import plotly.graph_objects as go

from hfjax_demo.break_even import StepTimes, break_even_step
from hfjax_demo.events import RunRecord, StepEvent
from hfjax_demo.plots.hover_text import as_markup, milliseconds, quoted_token, shown_text
from hfjax_demo.plots.step_parts import StepParts, split_steps
from hfjax_demo.plots.style import (
    BASELINE,
    COMPILING,
    HEADING_PX,
    RUNNING,
    TEXT,
    Table,
    count_axis,
    empty_figure,
    heading,
    seconds_axis,
    styled_figure,
)

MAX_LABEL_CHARS = 32
MAX_MARKERS = 12
CLOSE_SHARE = 0.12
"""Of the plot's height: two lines that end closer than that have no room for words between them."""
LINES = ({"color": BASELINE, "dash": "dash"}, {"color": RUNNING, "dash": "solid"})
SYMBOLS = ("square", "circle")


def race(baseline: RunRecord, candidate: RunRecord, baseline_label: str, candidate_label: str) -> go.Figure:
    """Seconds so far against tokens made, one line a run; the lower line is the faster.

    The thick part under a point is what that step spent tracing and compiling, at the scale of the axis. Where the
    candidate starts behind and then catches up for good, a ring marks the first step at which it had.

    Args:
        baseline: the dashed grey line.
        candidate: the solid line.
        baseline_label: text at the end of its line.
        candidate_label: likewise.
    """
    if not baseline.steps and not candidate.steps:
        return empty_figure("No step to draw yet.")
    runs = [(baseline.steps, baseline_label), (candidate.steps, candidate_label)]
    parts = [split_steps(steps) for steps, _ in runs]
    totals = [_totals(run) for run in parts]
    lines = [
        _line(steps, label, run, total, LINES[place], SYMBOLS[place])
        for place, ((steps, label), run, total) in enumerate(zip(runs, parts, totals, strict=True))
        if steps
    ]
    ends = [(total, label) for total, (_, label) in zip(totals, runs, strict=True) if len(total) > 1]
    step = caught_up_step(baseline, candidate)
    rings = [] if step is None else [_ring(step, totals[1])]
    bars = _compile_bars(parts, totals)
    has_legend = bars.showlegend or bool(rings)
    return styled_figure(
        [bars, *lines, *rings],
        height=360,
        margin={"l": 8, "r": 8, "t": 8 if has_legend else HEADING_PX, "b": 8},  # a legend makes room for the heading too
        hovermode="x",
        xaxis=count_axis(max(map(len, totals)) - 1, "tokens made"),
        yaxis=seconds_axis((max(total[-1] for total in totals) or 1.0) * 1.12),
        annotations=[heading("seconds so far, lower is faster"), *_end_labels(ends)],
    )


def caught_up_step(baseline: RunRecord, candidate: RunRecord) -> int | None:
    """The step, from 0, at which the candidate has caught up for good; None where it never does or never was behind."""
    common = min(len(baseline.steps), len(candidate.steps))
    times = [StepTimes.of(record.steps[:common], keeps_shapes=False) for record in (baseline, candidate)]
    return break_even_step(*times) or None


def race_table(baseline: RunRecord, candidate: RunRecord, baseline_label: str, candidate_label: str) -> Table:
    """The numbers of `race`, one row a token; None where a run has no such step."""
    headers = ["Tokens made"]
    columns: list[list[float]] = []
    for record, label in ((baseline, baseline_label), (candidate, candidate_label)):
        parts = split_steps(record.steps)
        headers += [f"{label}: so far (s)", f"{label}: this step (ms)", f"{label}: of it tracing and compiling (ms)"]
        columns.append([round(total_s, 4) for total_s in _totals(parts)[1:]])
        columns.append([round(part.total_s * 1000, 3) for part in parts])
        columns.append([round((part.tracing_s + part.compiling_s) * 1000, 3) for part in parts])
    return headers, [[index + 1, *row] for index, row in enumerate(zip_longest(*columns))]


def _totals(parts: list[StepParts]) -> list[float]:
    """Seconds so far after 0, 1, 2... tokens."""
    return list(accumulate((part.total_s for part in parts), initial=0.0))


def _line(
    steps: tuple[StepEvent, ...], label: str, parts: list[StepParts], totals: list[float], line: dict[str, str], symbol: str
) -> go.Scatter:
    name = as_markup(shown_text(label, MAX_LABEL_CHARS))
    hovers = [
        f"<b>{name}</b><br>token {index + 1}, {as_markup(quoted_token(step))}<br>{total_s:.2f} s so far<br>"
        f"this step {milliseconds(part.total_s)}<br>"
        f"· {milliseconds(part.tracing_s + part.compiling_s)} tracing and compiling"
        for index, (step, part, total_s) in enumerate(zip(steps, parts, totals[1:], strict=True))
    ]
    return go.Scatter(
        x=list(range(len(totals))),
        y=totals,
        name=name,
        mode="lines+markers",
        line={"width": 2} | line,
        marker={"symbol": symbol, "size": 6, "maxdisplayed": MAX_MARKERS},
        hovertext=["", *hovers],
        hoverinfo="text",
        showlegend=False,
    )


def _compile_bars(parts: list[list[StepParts]], totals: list[list[float]]) -> go.Scatter:
    """Upright thick strokes that end at the points of steps that compiled."""
    xs: list[float | None] = []
    ys: list[float | None] = []
    for run, total in zip(parts, totals, strict=True):
        for index, part in enumerate(run, start=1):
            if spent_s := part.tracing_s + part.compiling_s:
                xs += [index, index, None]
                ys += [total[index] - spent_s, total[index], None]
    line = {"color": COMPILING, "width": 7}
    return go.Scatter(
        x=xs, y=ys, name="tracing and compiling", mode="lines", line=line, hoverinfo="skip", showlegend=bool(xs)
    )


def _end_labels(ends: list[tuple[list[float], str]]) -> list[dict[str, Any]]:
    """Each line's name at its end: above it, where a rising line never is, or below the lower of two that end close by."""
    longest, highest_s = max(len(total) for total, _ in ends), max(total[-1] for total, _ in ends)
    lowest = min(range(len(ends)), key=lambda place: ends[place][0][-1])
    is_tight = len(ends) == 2 and abs(ends[0][0][-1] - ends[1][0][-1]) < CLOSE_SHARE * highest_s
    labels = []
    for place, (total, label) in enumerate(ends):
        is_below = is_tight and place == lowest
        text = f"<b>{as_markup(shown_text(label, MAX_LABEL_CHARS))}</b>"
        side = {"yanchor": "top" if is_below else "bottom", "yshift": -6 if is_below else 6}
        side["xanchor"] = "left" if 2 * len(total) < longest else "right"
        labels.append({"x": len(total) - 1, "y": total[-1], "text": text, "showarrow": False} | side)
    return labels


def _ring(step: int, totals: list[float]) -> go.Scatter:
    marker = {"symbol": "circle-open", "size": 16, "color": TEXT, "line": {"width": 2}}
    name = f"caught up at step {step:,} ({step + 1:,} tokens)"
    return go.Scatter(x=[step + 1], y=[totals[step + 1]], name=name, mode="markers", marker=marker, hoverinfo="skip")
