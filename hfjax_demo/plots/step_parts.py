"""A step's seconds in three parts that add up, whatever an imported record says. Knows nothing of drawing."""

from collections.abc import Sequence
from dataclasses import dataclass

from hfjax_demo.break_even import StepTimes
from hfjax_demo.events import StepEvent


@dataclass(frozen=True)
class StepParts:
    """Seconds of one step.

    Attributes:
        tracing_s: tracing Python and lowering it.
        compiling_s: in XLA.
        running_s: the rest of its wall time.
    """

    tracing_s: float
    compiling_s: float
    running_s: float

    @property
    def total_s(self) -> float:
        """Wall seconds of the step."""
        return self.tracing_s + self.compiling_s + self.running_s


def split_steps(steps: Sequence[StepEvent]) -> list[StepParts]:
    """Each step's parts: none is negative and together they are its duration.

    A duration that cannot be, NaN included, counts as 0 s (`StepTimes`); parts are cut to what the duration leaves.
    """
    parts = []
    for step, wall_s in zip(steps, StepTimes.of(steps, keeps_shapes=False).walls, strict=True):
        tracing_s = _between(step.trace_s, wall_s)
        compiling_s = _between(step.compile_s, wall_s - tracing_s)
        parts.append(StepParts(tracing_s, compiling_s, wall_s - tracing_s - compiling_s))
    return parts


def _between(value: float, most: float) -> float:
    """`value` between 0 and `most`; NaN counts as 0."""
    return min(value, most) if value > 0 else 0.0
