"""One array cut over the devices, as a picture: a rectangle in proportion to its shape, its parts labelled.

After `jax.debug.visualize_array_sharding`, for a page: any rank, axes named and sized, and a replicated array is drawn once
for each device. Pure functions of plain data; every text is escaped. Knows nothing of gradio.
"""

import html
import math
import re
from dataclasses import dataclass

from hfjax_demo.errors import readable_bytes
from hfjax_demo.mesh_report import MeshReport, PlacedArray, Spec
from hfjax_demo.mesh_tables import spec_text
from hfjax_demo.model_plan import Inspection, ParallelRule
from hfjax_demo.ui.words import plural

MAX_PARTS = 8
"""Parts, or whole copies, that are drawn; of more the last is drawn after a gap."""
LEAST_RATIO, MOST_RATIO = 0.35, 2.8
"""Height over width is kept in these bounds: a thinner rectangle has no room for words."""
KV_AXES = ("batch", "KV heads", "positions", "head size")


@dataclass(frozen=True)
class DrawnArray:
    """An array, or many alike, as it is planned to lie.

    Attributes:
        label: what a visitor picks it by; the same at every mesh size.
        name: of the array, `*` for any layer's number.
        shape: whole.
        spec: mesh axis per array axis; empty for replicated.
        shard_shape: one device's part.
        axis_names: what each axis counts; empty text where nothing says so.
        bytes_per_device: of one such array's part.
        reason: why it lies so.
    """

    label: str
    name: str
    shape: tuple[int, ...]
    spec: Spec
    shard_shape: tuple[int, ...]
    axis_names: tuple[str, ...]
    bytes_per_device: int
    reason: str

    @property
    def split_axis(self) -> int | None:
        """The axis that is cut; None for a replicated array."""
        return next((index for index, axis in enumerate(self.spec) if axis), None)


def drawn_arrays(plan: Inspection) -> dict[str, DrawnArray]:
    """What can be drawn of a plan, by label: an array for each rule, and the keys and values of a layer."""
    arrays = [_of_rule(rule) for rule in plan.rules] + _of_cache(plan)
    return {array.label: array for array in arrays}


def first_label(arrays: dict[str, DrawnArray]) -> str | None:
    """What is drawn before a visitor picks: the first array of a layer that is cut, else the first array."""
    cut = (label for label, array in arrays.items() if array.split_axis is not None and "*" in array.name)
    return next(cut, next(iter(arrays), None))


def measured_array(array: DrawnArray, report: MeshReport) -> PlacedArray | None:
    """The first array of a run that `array` stands for; None where the run has none."""
    pattern = re.compile(re.escape(array.name).replace(r"\*", r"\d+"))
    same = (real for real in (*report.weights, *report.kv) if pattern.fullmatch(real.name) and real.shape == array.shape)
    return next(same, None)


def _of_rule(rule: ParallelRule) -> DrawnArray:
    return DrawnArray(
        label=f"{rule.pattern} {rule.shape}",
        name=rule.pattern,
        shape=rule.shape,
        spec=rule.spec,
        shard_shape=rule.shard_shape,
        axis_names=_axis_names(rule),
        bytes_per_device=rule.bytes_per_device // max(rule.num_weights, 1),
        reason=rule.reason,
    )


def _axis_names(rule: ParallelRule) -> tuple[str, ...]:
    """What the rule's style says of the axes: of a projection that is cut, the cut axis is its outputs or its inputs."""
    cut = next((index for index, axis in enumerate(rule.spec) if axis), None)
    names = {"column-parallel": ("outputs", "inputs"), "row-parallel": ("inputs", "outputs")}.get(rule.style)
    if rule.style == "vocabulary-parallel":
        names = ("vocabulary", "hidden")
    if cut is None or names is None or len(rule.shape) > 2:
        return ("",) * len(rule.shape)
    return tuple(names[0] if index == cut else names[1] for index in range(len(rule.shape)))


def _of_cache(plan: Inspection) -> list[DrawnArray]:
    """Keys, and values where their shape is another; layers alike are one array to draw."""
    found: dict[str, DrawnArray] = {}
    size, axis = plan.mesh.size, plan.mesh.axis
    for layer in plan.kv_cache.layers:
        if not layer.key_shape:
            continue
        parts = {"keys": layer.key_shape} | ({} if layer.value_shape == layer.key_shape else {"values": layer.value_shape})
        for part, shape in parts.items():
            # The cache's length is left out of the label, so that what was picked stays picked when it changes.
            label = f"{part} of a layer, {plural(shape[1], 'KV head')} of {shape[3]}"
            shard = (shape[0], shape[1] // size, *shape[2:]) if layer.is_split else shape
            share = layer.bytes_per_device * shape[3] // (layer.key_shape[3] + layer.value_shape[3])
            found.setdefault(
                label,
                DrawnArray(
                    label=label,
                    name=f"layer * {part}",
                    shape=shape,
                    spec=(None, axis, None, None) if layer.is_split else (),
                    shard_shape=shard,
                    axis_names=KV_AXES,
                    bytes_per_device=share,
                    reason=_cache_reason(shape[1], size, layer.is_split),
                ),
            )
    return list(found.values())


def _cache_reason(num_heads: int, size: int, is_split: bool) -> str:
    heads = plural(num_heads, "KV head")
    if is_split:
        return f"split over KV heads: {num_heads // size} of {num_heads} on each device, beside the projections that fill it"
    if size == 1:
        return "one device holds everything"
    verb = "does" if num_heads == 1 else "do"
    return f"replicated: {heads} {verb} not divide by {size:,} devices"


def cut_html(array: DrawnArray, size: int, report: MeshReport | None = None) -> str:
    """The picture with its words: shape, spec, one device's part and why; what a run had, where one was made.

    Args:
        array: what is drawn.
        size: devices of the mesh.
        report: of a run on that mesh.
    """
    is_whole = array.split_axis is None
    part = f"{array.shard_shape}, {readable_bytes(array.bytes_per_device)}"
    on_each = "each device holds all of it" if is_whole and size > 1 else "on each device"
    facts = (
        f'<p class="cut-shape"><code>{html.escape(str(array.shape))}</code> '
        f"<code>{html.escape(spec_text(array.spec))}</code> → <code>{html.escape(part)}</code> {on_each}</p>"
    )
    reason = f'<p class="plan-line">{html.escape(array.reason)}</p>'
    picture = _copies_html(array, size) if is_whole else _parts_html(array, size)
    caption = html.escape(f"{array.name} {array.shape}: {on_each}, {array.shard_shape}")
    return (
        f'<figure class="cut">{facts}<div class="cut-picture" role="img" aria-label="{caption}">{picture}</div>'
        f"{_measured_html(array, report)}{reason}</figure>"
    )


def _measured_html(array: DrawnArray, report: MeshReport | None) -> str:
    if report is None:
        return ""
    real = measured_array(array, report)
    if real is None:
        return '<p class="plan-line">The run measured here has no array of this name and shape.</p>'
    is_same = (real.shard_shape, real.bytes_per_device) == (array.shard_shape, array.bytes_per_device)
    verdict = "as planned" if is_same else "NOT as planned"
    words = f"{spec_text(real.spec)}, {real.shard_shape} on each device: {verdict}"
    return f'<p class="plan-line">In the run, {html.escape(real.name)}: <code>{html.escape(words)}</code></p>'


def _shown_axes(array: DrawnArray) -> tuple[int, int | None]:
    """The axes drawn downwards and across: the cut one and the longest other; of one axis, that one across."""
    rank = len(array.shape)
    if rank < 2:
        return 0, None
    cut = array.split_axis
    if cut is None:
        cut = 1 if array.axis_names == KV_AXES else rank - 2
    other = max((index for index in range(rank) if index != cut), key=lambda index: array.shape[index])
    return min(cut, other), max(cut, other)


def _box(array: DrawnArray) -> tuple[str, str, float, bool]:
    """Words along the left and the upper side, height over width, and whether the cut runs across."""
    down, across = _shown_axes(array)
    if across is None:
        return "", _axis_words(array, 0), LEAST_RATIO, True
    ratio = array.shape[down] / max(array.shape[across], 1)
    bounded = math.exp(max(math.log(LEAST_RATIO), min(math.log(MOST_RATIO), math.log(max(ratio, 1e-9)))))
    return _axis_words(array, down), _axis_words(array, across), bounded, array.split_axis == across


def _axis_words(array: DrawnArray, axis: int) -> str:
    name = array.axis_names[axis] or f"axis {axis}"
    return html.escape(f"{name} {array.shape[axis]:,}")


def _parts_html(array: DrawnArray, size: int) -> str:
    """The rectangle, cut."""
    left, upper, ratio, is_across = _box(array)
    shard = html.escape(str(array.shard_shape))
    indexes = list(range(size)) if size <= MAX_PARTS else [*range(MAX_PARTS - 1), None, size - 1]
    parts = "".join(
        f'<div class="cut-gap">{size - MAX_PARTS:,} more</div>'
        if index is None
        else f'<div class="cut-part"><b>device {index}</b> <code>{shard}</code></div>'
        for index in indexes
    )
    return _framed(left, upper, ratio, f'<div class="cut-parts {"is-across" if is_across else "is-down"}">{parts}</div>')


def _copies_html(array: DrawnArray, size: int) -> str:
    """The whole rectangle, once for each device, one behind the other."""
    left, upper, ratio, _ = _box(array)
    shown = min(size, MAX_PARTS)
    words = [f"device {index}" for index in range(shown)]
    if size > shown:
        words[-1] = f"and {size - shown + 1:,} more"
    shape = html.escape(str(array.shape))
    copies = "".join(
        f'<div class="cut-copy" style="--at:{index}"><b>{word}</b> <code>{shape}</code></div>'
        for index, word in enumerate(words)
    )
    return _framed(left, upper, ratio, f'<div class="cut-copies" style="--last:{shown - 1}">{copies}</div>')


def _framed(left: str, upper: str, ratio: float, inside: str) -> str:
    side = f'<span class="cut-left">{left} ↓</span>' if left else ""
    return f'<div class="cut-frame" style="--ratio:{ratio:.4f}"><span class="cut-upper">{upper} →</span>{side}{inside}</div>'
