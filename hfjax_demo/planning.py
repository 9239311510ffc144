"""What fits on a device: bytes left, the longest context, the largest batch, and the speed that its memory allows at most.

Of a device's memory a tenth is kept back for activations, compiled programs and the runtime (`RESERVE`). Weights and cache
share the rest. Decoding one token reads the weights it needs and the cache once, so no step is faster than those bytes over
the memory's bandwidth; computing, communication and the gap to the peak bandwidth come on top. With tensor parallelism every
number is one device's share. Pure arithmetic; knows nothing of configs or arrays.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hfjax_demo.accelerators import ACCELERATORS, Accelerator
from hfjax_demo.cache_plan import CacheForm, LayerGroup, cache_bytes

RESERVE = 0.1
"""Share of a device's memory that is planned for nothing."""

MOST_POSITIONS = 100_000_000
MOST_SEQUENCES = 1_000_000
"""Where a search ends: a model whose layers all have windows would fit at any length."""


@dataclass(frozen=True)
class DeviceNeeds:
    """What one device of the mesh holds and reads.

    Attributes:
        weights_bytes: weights on this device.
        read_weights_bytes: of them, what decoding one token reads at least: active experts, no embedding table.
        groups: layers of the cache.
        dtype: of the cache.
        tensor_parallel: devices of the mesh.
    """

    weights_bytes: int
    read_weights_bytes: int
    groups: tuple[LayerGroup, ...]
    dtype: str
    tensor_parallel: int

    def cache_bytes(self, form: CacheForm, batch_size: int, context_len: int) -> int:
        """Bytes of this device's part of the cache."""
        args = (self.groups, form, batch_size, context_len, self.dtype, self.tensor_parallel)
        return cache_bytes(*args).bytes_per_device


@dataclass(frozen=True)
class CacheFit:
    """How a cache of one form fits beside the weights.

    Attributes:
        form: see `CacheForm`.
        cache_bytes: this device's part, at the batch and context asked for.
        free_bytes: what is left of the usable memory; negative where it does not fit.
        fits: whether it does.
        longest_context_len: positions that fit at the batch asked for, 0 for none; at most `MOST_POSITIONS`. The model may
            have been made for fewer.
        largest_batch_size: sequences that fit at the context asked for, 0 for none; at most `MOST_SEQUENCES`.
    """

    form: CacheForm
    cache_bytes: int
    free_bytes: int
    fits: bool
    longest_context_len: int
    largest_batch_size: int


@dataclass(frozen=True)
class AcceleratorFit:
    """One accelerator's answer; of each of the mesh's devices where weights and cache are split.

    Attributes:
        name: of the accelerator.
        source: where its numbers are from.
        memory_bytes: of one device.
        usable_bytes: less the reserve.
        bandwidth_bytes_per_s: peak; None where unknown.
        weights_bytes: on one device.
        fixed: with the fixed cache that this engine allocates.
        windowed: with a cache that respects windows; equal to `fixed` in a model that has none.
        max_tokens_per_s: tokens of all sequences that a second allows at most, with the windowed cache; None where the
            bandwidth is unknown or nothing fits.
        max_tokens_per_s_per_sequence: of one of them.
    """

    name: str
    source: str
    memory_bytes: int
    usable_bytes: int
    bandwidth_bytes_per_s: int | None
    weights_bytes: int
    fixed: CacheFit
    windowed: CacheFit
    max_tokens_per_s: float | None
    max_tokens_per_s_per_sequence: float | None


@dataclass(frozen=True)
class ContextPoint:
    """A point of a curve: bytes of the cache at one context length, of all devices (each once) and of one of them."""

    context_len: int
    fixed_bytes: int
    windowed_bytes: int
    fixed_bytes_per_device: int
    windowed_bytes_per_device: int


def usable_bytes(memory_bytes: int) -> int:
    """What is planned with of a device's memory."""
    return round(memory_bytes * (1 - RESERVE))


def fit_accelerators(
    needs: DeviceNeeds, batch_size: int, context_len: int, accelerators: Sequence[Accelerator] = ACCELERATORS
) -> tuple[AcceleratorFit, ...]:
    """`fit_accelerator` for each."""
    return tuple(fit_accelerator(needs, accelerator, batch_size, context_len) for accelerator in accelerators)


def fit_accelerator(needs: DeviceNeeds, accelerator: Accelerator, batch_size: int, context_len: int) -> AcceleratorFit:
    """Whether and how well weights and cache fit one accelerator.

    Args:
        needs: of one device.
        accelerator: each device of the mesh is one of these.
        batch_size: B asked for.
        context_len: L asked for.
    """
    usable = usable_bytes(accelerator.memory_bytes)
    fixed, windowed = (
        _fit(needs, usable - needs.weights_bytes, form, batch_size, context_len)
        for form in (CacheForm.FIXED, CacheForm.WINDOWED)
    )
    bandwidth = accelerator.bandwidth_bytes_per_s
    per_sequence = None
    if bandwidth is not None and windowed.fits:
        per_sequence = max_steps_per_s(needs, bandwidth, windowed.cache_bytes)
    return AcceleratorFit(
        name=accelerator.name,
        source=accelerator.source,
        memory_bytes=accelerator.memory_bytes,
        usable_bytes=usable,
        bandwidth_bytes_per_s=bandwidth,
        weights_bytes=needs.weights_bytes,
        fixed=fixed,
        windowed=windowed,
        max_tokens_per_s=None if per_sequence is None else per_sequence * batch_size,
        max_tokens_per_s_per_sequence=per_sequence,
    )


def max_steps_per_s(needs: DeviceNeeds, bandwidth_bytes_per_s: float, read_cache_bytes: int) -> float:
    """Decode steps a second that the memory's bandwidth allows at most: each reads weights and cache once.

    Source: "LLM Inference Unveiled: Survey and Roofline Model Insights", arXiv 2402.16363.
    """
    return bandwidth_bytes_per_s / max(needs.read_weights_bytes + read_cache_bytes, 1)


def context_curve(
    needs: DeviceNeeds, batch_size: int, longest: int, points_per_doubling: int = 1
) -> tuple[ContextPoint, ...]:
    """Bytes of the whole cache at lengths spaced evenly on a logarithmic axis, from 1 to `longest`, ends included.

    Args:
        needs: of one device.
        batch_size: B.
        longest: the last length.
        points_per_doubling: how fine; a windowed curve bends at its window.
    """
    lengths = {longest}
    exponent = 0
    while (length := round(2 ** (exponent / points_per_doubling))) < longest:
        lengths.add(length)
        exponent += 1
    lengths |= {group.geometry.window for group in needs.groups if group.geometry.window and group.geometry.window < longest}

    def point(length: int) -> ContextPoint:
        args = (batch_size, length, needs.dtype, needs.tensor_parallel)
        fixed, windowed = (cache_bytes(needs.groups, form, *args) for form in (CacheForm.FIXED, CacheForm.WINDOWED))
        per_device = (fixed.bytes_per_device, windowed.bytes_per_device)
        return ContextPoint(length, fixed.total_bytes, windowed.total_bytes, *per_device)

    return tuple(point(length) for length in sorted(lengths))


def _fit(needs: DeviceNeeds, room: int, form: CacheForm, batch_size: int, context_len: int) -> CacheFit:
    cache = needs.cache_bytes(form, batch_size, context_len)
    return CacheFit(
        form=form,
        cache_bytes=cache,
        free_bytes=room - cache,
        fits=room >= cache,
        longest_context_len=_most(lambda length: needs.cache_bytes(form, batch_size, length) <= room, MOST_POSITIONS),
        largest_batch_size=_most(lambda size: needs.cache_bytes(form, size, context_len) <= room, MOST_SEQUENCES),
    )


def _most(holds: Callable[[int], bool], limit: int) -> int:
    """The largest number up to `limit` of which `holds` is true, 0 for none; true of a number, it is of all smaller ones."""
    if not holds(1):
        return 0
    low, high = 1, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low
