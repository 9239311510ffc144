"""How every plot looks: colours, fonts, margins, the shared layout.

Only attributes that plotly.js 3.x and 4.x both know. Knows nothing of records.
"""

from typing import Any

import plotly.graph_objects as go

Table = tuple[list[str], list[list[object]]]
"""Headers, with their units, and rows of plain values; None where there is no value."""

# Each colour has a contrast of at least 3 to white and to a near-black page, and no two that meet differ in hue alone:
# what was compiled is striped as well.
RUNNING = "#2f72e8"
TRACING = "#c2570c"
COMPILING = "#d97706"
BASELINE = "#7a818c"
GRID = "rgba(128, 128, 128, 0.25)"
LINE = "rgba(128, 128, 128, 0.6)"
STRIPE = "rgba(255, 255, 255, 0.55)"
# Text falls back to a grey that both themes bear; the page's style sheet gives it and the hover labels the theme's colours.
TEXT = "#757575"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'DejaVu Sans', sans-serif"
MAX_TICKS = 6
HEADING_PX = 26
"""Between plot and legend: one line of words."""
UNUSED_BUTTONS = ["pan", "select", "lasso", "zoomin", "zoomout", "autoscale"]
"""What is left: zoom, back to the whole, save as a picture."""


def styled_figure(traces: list[Any], height: int, **layout: Any) -> go.Figure:
    """A figure of `traces` that is as wide as its place.

    Args:
        traces: plotly traces.
        height: CSS pixels; the width follows the page.
        layout: what this figure adds to the shared layout.
    """
    shared = {
        "template": {},
        "height": height,
        "autosize": True,
        "paper_bgcolor": "rgba(0, 0, 0, 0)",
        "plot_bgcolor": "rgba(0, 0, 0, 0)",
        "font": {"family": FONT, "size": 12, "color": TEXT},
        # No title: Gradio would leave 100 pixels for it. The legend takes the room it needs, on a phone two rows or three.
        "margin": {"l": 8, "r": 8, "t": 8, "b": 8},
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1 + HEADING_PX / height, "yanchor": "bottom"}
        | {"font": {"size": 11}},
        "hoverlabel": {"align": "left", "bgcolor": "#ffffff", "font": {"family": FONT, "size": 11, "color": "#17191c"}},
        # Dragging a finger scrolls the page; zooming has its buttons.
        "dragmode": False,
        "modebar": {"bgcolor": "rgba(0, 0, 0, 0)", "color": TEXT, "activecolor": RUNNING, "remove": UNUSED_BUTTONS},
    }
    return go.Figure(data=traces, layout=shared | layout)


def empty_figure(message: str) -> go.Figure:
    """A figure that says why there is nothing on it."""
    note = {"text": message, "xref": "paper", "yref": "paper", "x": 0.5, "y": 0.5, "showarrow": False}
    return styled_figure([], height=160, xaxis={"visible": False}, yaxis={"visible": False}, annotations=[note])


def heading(text: str, y: float = 1.0) -> dict[str, Any]:
    """One line at the left, above the panel that ends at the fraction `y` of the plot's height."""
    place = {"xref": "paper", "yref": "paper", "x": 0, "y": y, "xanchor": "left", "yanchor": "bottom"}
    return {"text": text, "align": "left", "showarrow": False, "font": {"size": 11}} | place


def count_axis(count: int, title: str) -> dict[str, Any]:
    """An x axis over 0 to `count`, with whole numbers only and no more of them than fit a phone."""
    return {
        "title": {"text": title, "standoff": 6, "font": {"size": 12}},
        "tick0": 0,
        "dtick": tick_step(count),
        "tickangle": 0,
        "range": [-0.6, count + 0.6],
        "showgrid": False,
        "zeroline": False,
        "linecolor": LINE,
        "automargin": True,
    }


def seconds_axis(top_s: float, **axis: Any) -> dict[str, Any]:
    """A linear y axis from 0 to `top_s` seconds."""
    shared = {
        "range": [0, top_s],
        "ticksuffix": " s",
        "nticks": MAX_TICKS,
        "gridcolor": GRID,
        "zeroline": True,
        "zerolinecolor": LINE,
        "automargin": True,
    }
    return shared | axis


def tick_step(count: int) -> int:
    """The smallest of 1, 2, 5, 10, 20, 50... that puts at most `MAX_TICKS` ticks on 1 to `count`."""
    scale = 1
    while True:
        for factor in (1, 2, 5):
            if factor * scale * MAX_TICKS >= count:
                return factor * scale
        scale *= 10
