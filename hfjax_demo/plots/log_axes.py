"""Logarithmic axes whose ticks are round numbers of tokens (powers of two) and of bytes (powers of ten).

Knows nothing of what is drawn.
"""

import math
from collections.abc import Sequence
from typing import Any

from hfjax_demo.plots.style import MAX_TICKS

Span = tuple[float, float]
"""Both ends of an axis as powers of ten, which is how plotly wants them."""


def padded(values: Sequence[int]) -> Span:
    """A span with some room around all of `values` that have a logarithm."""
    logs = [math.log10(value) for value in values if value > 0]
    room = max(0.08 * (max(logs) - min(logs)), 0.1)
    return min(logs) - room, max(logs) + room


def log_axis(span: Span, ticks: dict[float, str], title: str | None, **axis: Any) -> dict[str, Any]:
    """An axis over `span` with these ticks, position to text; `axis` adds to what all have."""
    shared: dict[str, Any] = {"type": "log", "range": list(span), "tickvals": list(ticks), "ticktext": list(ticks.values())}
    shared |= {"tickangle": 0, "zeroline": False, "automargin": True}
    if title:
        shared["title"] = {"text": title, "standoff": 6, "font": {"size": 12}}
    return shared | axis


def powers_of_two(span: Span) -> dict[float, str]:
    """Ticks at powers of two, as few as fit a phone."""
    first, last = math.ceil(span[0] / math.log10(2) - 1e-9), math.floor(span[1] / math.log10(2) + 1e-9)
    step = max(1, math.ceil((last - first) / (MAX_TICKS - 1)))
    return {2.0**power: _tokens(2**power) for power in range(first, last + 1, step)}


def _tokens(count: int) -> str:
    """A power of two as short as it is exact: "512", "4 Ki", "1 Mi"."""
    for size, unit in ((2**20, " Mi"), (2**10, " Ki")):
        if count >= size:
            return f"{count // size:,}{unit}"
    return str(count)


def byte_ticks(span: Span) -> dict[float, str]:
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


def _is_inside(value: float, span: Span) -> bool:
    return span[0] <= math.log10(value) <= span[1]


def _bytes_tick(power: int, factor: float) -> str:
    unit = min(max(power // 3, 0), 5)
    return f"{factor * 10.0 ** (power - 3 * unit):g} {('B', 'kB', 'MB', 'GB', 'TB', 'PB')[unit]}"
