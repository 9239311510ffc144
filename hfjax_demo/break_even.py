"""When a run that compiles first has caught up with one that does not: arithmetic on seconds per step.

Knows nothing of tokens, requests or words.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import median

from hfjax_demo.events import StepEvent

SHORTEST_S, LONGEST_S = 1e-9, 1e9
"""Seconds that a step can take; an imported record that says otherwise, NaN included, counts as 0 s."""
LONGEST_RUN = 10**7
"""Steps beyond any model's context: what pays later than that never does."""


@dataclass(frozen=True)
class StepTimes:
    """Seconds of each step of a run.

    Attributes:
        walls: everything included.
        compiles: of which tracing and compiling.
        warms: the rest.
        keeps_shapes: whether every decode step has the same shapes (a fixed cache), so that what was compiled stays so.
    """

    walls: tuple[float, ...]
    compiles: tuple[float, ...]
    warms: tuple[float, ...]
    keeps_shapes: bool

    @classmethod
    def of(cls, steps: Sequence[StepEvent], keeps_shapes: bool) -> "StepTimes":
        """The times of `steps`."""
        walls = tuple(_seconds(step.duration_s) for step in steps)
        compiles = tuple(_seconds(step.trace_s + step.compile_s) for step in steps)
        warms = tuple(max(wall - compiling, 0.0) for wall, compiling in zip(walls, compiles, strict=True))
        return cls(walls, compiles, warms, keeps_shapes)

    @property
    def steady_s(self) -> float:
        """Seconds that one more decode step would take: the median, compiling counted where it recurs."""
        return median(self.warms[1:] if self.keeps_shapes else self.walls[1:])


def break_even_step(baseline: StepTimes, candidate: StepTimes) -> int | None:
    """The first step after which the candidate has taken no longer in all, to the end; None where there is none.

    Args:
        baseline: as many steps as the candidate.
        candidate: the run that is to catch up.
    """
    totals = list(zip(accumulate(baseline.walls), accumulate(candidate.walls), strict=True))
    behind = [index for index, (baseline_s, candidate_s) in enumerate(totals) if candidate_s > baseline_s]
    step = behind[-1] + 1 if behind else 0
    return step if step < len(totals) else None


def expected_break_even_step(baseline: StepTimes, candidate: StepTimes) -> int | None:
    """The same, foretold where it has not come yet: each goes on at its `steady_s`.

    Returns:
        The step's index, from 0; None where it would never come, or where no decode step lets one tell.
    """
    reached = break_even_step(baseline, candidate)
    if reached is not None or len(candidate.walls) < 2:
        return reached
    behind_s = sum(candidate.walls) - sum(baseline.walls)
    gain_s = baseline.steady_s - candidate.steady_s
    if behind_s > LONGEST_RUN * gain_s:  # true of a loss and of no gain as well
        return None
    return len(candidate.walls) - 1 + math.ceil(behind_s / gain_s)


def _seconds(value: float) -> float:
    return value if SHORTEST_S <= value <= LONGEST_S else 0.0
