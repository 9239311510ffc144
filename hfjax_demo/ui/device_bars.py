"""The mesh as a picture: its devices in a row, each with the bytes it holds as bars on one scale.

Pure functions of a plan and of what a run measured; everything that anybody may have written is escaped. Knows nothing of
gradio.
"""

import html
from dataclasses import dataclass

from hfjax_demo.errors import readable_bytes
from hfjax_demo.mesh_report import DeviceUse, MeshReport
from hfjax_demo.model_plan import Inspection

MAX_DEVICES = 16
"""Drawn; the table below has more, and on a planned mesh all are alike."""

LEGEND = (
    ("split", "weights, this device's part"),
    ("whole", "weights that every device has whole"),
    ("cache", "KV cache"),
)


@dataclass(frozen=True)
class DeviceBytes:
    """What one device holds, in bytes.

    Attributes:
        split: its parts of weights that are split.
        whole: weights that every device has whole.
        cache: its part of keys and values.
    """

    split: int
    whole: int
    cache: int

    @property
    def weights(self) -> int:
        """All weights on it."""
        return self.split + self.whole

    @property
    def total(self) -> int:
        """Everything on it."""
        return self.weights + self.cache


def planned_bytes(plan: Inspection) -> DeviceBytes:
    """What each device of a planned mesh holds."""
    split = sum(tensor.bytes_per_device for tensor in plan.weights.tensors if any(tensor.spec))
    return DeviceBytes(split, plan.weights.bytes_per_device - split, plan.kv_cache.bytes_per_device)


def measured_bytes(report: MeshReport, device: DeviceUse) -> DeviceBytes:
    """What one device of a run held; its weights are parted by their real shardings."""
    split = sum(array.bytes_per_device for array in report.weights if any(array.spec))
    return DeviceBytes(split, device.weights_bytes - split, device.kv_bytes)


def devices_html(plan: Inspection, report: MeshReport | None = None) -> str:
    """The devices, each with its bars: planned, and below it measured where a run was made.

    Args:
        plan: of the mesh, at the cache length of the run where there is one.
        report: of that run.
    """
    size = plan.mesh.size
    whole = plan.weights.total_bytes + plan.kv_cache.total_bytes
    planned = planned_bytes(plan)
    names = [device.device for device in report.devices] if report else [f"device {index}" for index in range(size)]
    scale = max([whole, *(device.weights_bytes + device.kv_bytes for device in (report.devices if report else ()))])
    cards = []
    for index, name in enumerate(names[:MAX_DEVICES]):
        bars = _bar_html("planned", planned, scale)
        if report:
            bars += _bar_html("measured", measured_bytes(report, report.devices[index]), scale)
        process = f" · process {report.devices[index].process}" if report and report.num_processes > 1 else ""
        cards.append(f'<li class="mesh-device"><b>{html.escape(name)}</b>{process}{bars}</li>')
    if len(names) > MAX_DEVICES:
        cards.append(f'<li class="mesh-device is-more">and {len(names) - MAX_DEVICES:,} more, alike</li>')
    legend = "".join(f'<span class="key mesh-key-{part}">{words}</span>' for part, words in LEGEND)
    one = "device" if size == 1 else "devices"
    return (
        f'<figure class="mesh"><figcaption>mesh: axis “{html.escape(plan.mesh.axis)}” of <b>{size:,}</b> {one} · a bar’s '
        f"full width is {readable_bytes(scale)}, all weights and the whole cache</figcaption>"
        f'<ol class="mesh-devices">{"".join(cards)}</ol><p class="kv-legend">{legend}</p></figure>'
    )


def _bar_html(kind: str, held: DeviceBytes, scale: int) -> str:
    """One bar with its words; `kind` is "planned" or "measured"."""
    how = "reckoned from the config" if kind == "planned" else "read off the arrays of a real run, rotary tables included"
    hint = (
        f"{kind}, {how}: weights {held.weights:,} bytes ({held.split:,} split, {held.whole:,} whole), cache "
        f"{held.cache:,} bytes"
    )
    parts = "".join(
        f'<i class="is-{part}" style="width:{100 * num_bytes / max(scale, 1):.3f}%"></i>'
        for part, num_bytes in (("split", held.split), ("whole", held.whole), ("cache", held.cache))
    )
    words = f"{kind} {readable_bytes(held.total)}"
    detail = "".join(
        f"<span>{what} {readable_bytes(num_bytes)}</span> "
        for what, num_bytes in (("weights", held.weights), ("cache", held.cache))
    )
    return (
        f'<div class="mesh-held" data-kind="{kind}" title="{html.escape(hint)}"><span class="mesh-total">{words}</span>'
        f'<div class="mesh-bar" role="img" aria-label="{html.escape(hint)}">{parts}</div>'
        f'<span class="mesh-detail">{detail}</span></div>'
    )
