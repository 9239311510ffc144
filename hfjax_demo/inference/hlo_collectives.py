"""The communication inside a compiled program, read from the text of its optimised HLO.

Counts what stands in the text. What stands in a branch or a loop may run less or more often than once a call and is told
apart. Pure functions of text; knows nothing of JAX.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterable

from hfjax_demo.mesh_report import COLLECTIVE_KINDS, Collective

# "%name = type opcode(operands), ...". An asynchronous operation is a pair of instructions: its "-start" returns operands
# too, in a form that differs by kind, its "-done" the result alone, so that one is counted.
_COLLECTIVE = re.compile(rf'^\s*(?:ROOT )?\S+ = ([^"]+?) ({"|".join(COLLECTIVE_KINDS)})(?:-done)?\(')
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
# How an instruction names the computations that it runs exactly once, or once for each element it reduces. Branches and
# loops have other words: branch_computations, true_computation, false_computation, body, condition.
_CALLED = re.compile(r"\b(?:calls|to_apply|called_computations)=(?:\{([^}]*)\}|(%?[\w.\-]+))")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,<=]*)\]")

_Found = tuple[str, int]
"""A collective's kind and the bytes of its result."""


def collectives_in(hlo: str) -> tuple[Collective, ...]:
    """What a program communicates.

    Args:
        hlo: as `Compiled.as_text()` gives it.

    Returns:
        One entry for each kind that runs once a call, in the order of `COLLECTIVE_KINDS`, then one for each that stands in
        a branch or a loop. Bytes are those of the results on one device; of a combined operation, which returns a tuple, all
        of them.
    """
    found: dict[str, list[_Found]] = defaultdict(list)
    called: dict[str, set[str]] = defaultdict(set)
    entry = computation = ""
    for line in hlo.splitlines():
        if header := _COMPUTATION.match(line):
            computation = header[2]
            entry = computation if header[1] else entry
        elif match := _COLLECTIVE.match(line):
            found[computation].append((match[2], _bytes_of(match[1])))
        elif "calls=" in line or "to_apply=" in line or "called_computations=" in line:
            for several, one in _CALLED.findall(line):
                called[computation] |= {name.strip().lstrip("%") for name in (several or one).split(",")}
    certain = _reachable(entry, called)
    once = [item for name, items in found.items() if name in certain for item in items]
    others = [item for name, items in found.items() if name not in certain for item in items]
    return (*_summed(once, is_conditional=False), *_summed(others, is_conditional=True))


def _reachable(entry: str, called: dict[str, set[str]]) -> set[str]:
    """The computations that run whenever `entry` does."""
    reached, new = {entry}, {entry}
    while new:
        new = {name for caller in new for name in called.get(caller, ())} - reached
        reached |= new
    return reached


def _summed(found: Iterable[_Found], is_conditional: bool) -> Iterable[Collective]:
    sizes: dict[str, list[int]] = defaultdict(list)
    for kind, num_bytes in found:
        sizes[kind].append(num_bytes)
    return (
        Collective(kind, len(sizes[kind]), sum(sizes[kind]), is_conditional) for kind in COLLECTIVE_KINDS if kind in sizes
    )


def _bytes_of(shape: str) -> int:
    """Bytes of an HLO type such as "f32[1,8]{1,0}", or of a tuple of them; types of no size, such as tokens, have none."""
    total = 0
    for dtype, sizes in _ARRAY.findall(shape):
        num_elements = math.prod(int(size.lstrip("<=")) for size in sizes.split(",") if size)
        total += -(-num_elements * _bits_of(dtype) // 8)
    return total


def _bits_of(dtype: str) -> int:
    """Bits of one element: the first number in the type's name (f32, bf16, s4, f8e4m3fn); a truth value takes a byte."""
    if dtype == "pred":
        return 8
    digits = re.search(r"\d+", dtype)
    return int(digits.group()) if digits else 0
