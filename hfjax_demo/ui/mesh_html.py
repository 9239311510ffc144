"""A mesh in words and tables: what is planned, what was measured, and whether the two agree.

Pure functions of a plan and of a run's report; everything that anybody may have written is escaped. Knows nothing of
gradio, nor of who makes plans and runs.
"""

import html
from dataclasses import dataclass

from hfjax_demo.errors import readable_bytes
from hfjax_demo.mesh_agreement import Agreement, decode_collectives, totals
from hfjax_demo.mesh_report import MeshReport
from hfjax_demo.mesh_tables import collectives_table, devices_table, spec_text
from hfjax_demo.model_plan import Inspection
from hfjax_demo.plan_tables import rules_table, weights_table
from hfjax_demo.plots.hover_text import shown_text
from hfjax_demo.ui.components import csv_link, table_html, text_html
from hfjax_demo.ui.plan_html import MAX_NAME_CHARS, small_bytes
from hfjax_demo.ui.words import plural

MAX_ROWS = 500
"""Of the table of weights on the page: a browser takes seconds to lay out thousands. The CSV has all."""
MAX_DIFFERENCES = 12


@dataclass(frozen=True)
class MeasuredMesh:
    """A run held against its plan.

    Attributes:
        name: of the run in this visit's history.
        plan: at the run's own cache length.
        report: how the run lay.
        agreement: of the two.
    """

    name: str
    plan: Inspection
    report: MeshReport
    agreement: Agreement


def summary_html(plan: Inspection, measured: MeasuredMesh | None, state: str) -> str:
    """What the mesh comes to, each number with how it was reckoned on hover.

    Args:
        plan: for the inputs.
        measured: a run on the same mesh; None where there is none.
        state: whether this is planned only, and what to do about it.
    """
    weights, cache, size = plan.weights, plan.kv_cache, plan.mesh.size
    split = [tensor for tensor in weights.tensors if any(tensor.spec)]
    whole = [tensor for tensor in weights.tensors if not any(tensor.spec)]
    whole_bytes = sum(tensor.bytes_per_device for tensor in whole)
    sends = totals(plan.collectives)
    num_sends, sent_bytes = (sum(pair[index] for pair in sends.values()) for index in (0, 1))
    alone = weights.total_bytes + cache.total_bytes
    each = weights.bytes_per_device + cache.bytes_per_device
    numbers = [
        ("on each device", readable_bytes(each), f"{each:,} bytes of weights and cache; one device alone: {alone:,}."),
        ("weights", readable_bytes(weights.bytes_per_device), f"{weights.bytes_per_device:,} bytes in {plan.dtype}."),
        ("KV cache", readable_bytes(cache.bytes_per_device), f"{plan.context_len:,} positions of one sequence."),
        ("split", f"{len(split):,}", f"Weights of which each device has one of {size:,} parts."),
        ("whole on each", f"{len(whole):,}", f"Replicated weights, {whole_bytes:,} bytes on every device."),
        ("sends a token", f"{num_sends:,}", "Collective operations that theory asks of one decode step; see the table."),
        ("received a token", small_bytes(sent_bytes), "Bytes that one device receives in one decode step, in theory."),
    ]
    boxes = "".join(
        f'<div title="{html.escape(hint)}"><dt>{html.escape(label)}</dt><dd>{html.escape(value)}</dd></div>'
        for label, value, hint in numbers
    )
    name = shown_text(plan.model, MAX_NAME_CHARS)
    title = f"{name} over {plural(size, 'device')}: {plan.architecture}, {plan.dtype}, {plan.context_len:,} positions"
    badge = "planned and measured" if measured else "planned"
    return (
        f'<section class="plan">{text_html(title, "h3", "plan-title")}<p class="mesh-state" data-kind="{badge}">'
        f'<b>{badge}</b> {html.escape(state)}</p><dl class="run-numbers">{boxes}</dl></section>'
    )


def agreement_html(measured: MeasuredMesh | None) -> str:
    """Whether the run lay as planned, or exactly what differs; empty without a run."""
    if measured is None:
        return ""
    held = measured.agreement
    compared = f"{plural(held.num_arrays, 'array')} and {plural(len(measured.report.devices), 'device')} compared"
    compared += ", and the compiled decode step" if held.has_program else "; in eager mode there is no program to read"
    if held.differences:
        items = "".join(text_html(difference, "li") for difference in held.differences[:MAX_DIFFERENCES])
        left_out = len(held.differences) - MAX_DIFFERENCES
        items += text_html(f"and {left_out:,} more", "li") if left_out > 0 else ""
        differ = plural(len(held.differences), "difference")
        body = f'<p class="verdict-main">Plan and run differ: {differ}.</p><ul>{items}</ul>'
    else:
        body = '<p class="verdict-main">Plan and run agree.</p>'
    buffers = (
        f" Not in any plan: {plural(held.num_buffers, 'buffer')} of the run, {held.buffer_bytes:,} bytes on each device."
        if held.num_buffers
        else ""
    )
    where = f"{measured.name}, {measured.plan.context_len:,} positions: {compared}.{buffers}"
    return f'<div class="verdict mesh-verdict">{body}{text_html(where)}</div>'


def collectives_html(plan: Inspection, report: MeshReport | None) -> str:
    """What the devices must say to each other at every token: theory, and beside it the compiled program of a run."""
    headers, rows = collectives_table(plan, report)
    if not rows:
        found = decode_collectives(report) if report else None
        seen = "" if found is None else " The compiled decode step has none either."
        return text_html(f"No communication: theory asks for none.{seen}", class_name="plan-line")
    note = (
        "In theory: what the rules make necessary in one decode step of one sequence. Bytes: what one device receives, "
        "results added up."
    )
    if report:
        note += " In the compiled step: read from the optimised program that XLA made, not reckoned."
    return _named_table("mesh-communication", "Communication at every token", headers, rows, note)


def rules_html(plan: Inspection) -> str:
    """The table of rules."""
    if not plan.rules:
        return text_html("This plan came without its table of rules.", class_name="plan-line")
    caption = "Rules: which weights are cut, how, and why"
    headers = ["Weights", "How many", "Spec", "Shape → on one device", "Why", "A device holds", "Rule from"]
    rows = [
        [
            *(rule.pattern, rule.num_weights, spec_text(rule.spec), f"{rule.shape} → {rule.shard_shape}"),
            rule.reason if rule.style in rule.reason or not any(rule.spec) else f"{rule.style}: {rule.reason}",
            *(f"{small_bytes(rule.bytes_per_device)} of {small_bytes(rule.total_bytes)}", rule.origin),
        ]
        for rule in plan.rules
    ]
    note = "Spec as JAX writes it: one entry an axis, None where it is not cut; P() is whole on every device."
    return (
        text_html(caption, "h4", "mesh-caption")
        + table_html(caption, headers, rows)
        + text_html(note, class_name="explanation")
        + csv_link("mesh-rules", *rules_table(plan))
    )


def weights_html(plan: Inspection) -> str:
    """Every weight."""
    headers, rows = weights_table(plan)
    left_out = len(rows) - MAX_ROWS
    note = f"{left_out:,} more rows are left out here; the CSV has all." if left_out > 0 else ""
    shown = table_html("Every weight", headers, rows[:MAX_ROWS])
    return shown + text_html(note, class_name="explanation") + csv_link("mesh-weights", headers, rows)


def devices_table_html(plan: Inspection, report: MeshReport | None) -> str:
    """Bytes of every device."""
    return _named_table("mesh-devices", "Bytes on every device", *devices_table(plan, report), "")


def _named_table(file_name: str, caption: str, headers: list[str], rows: list[list[object]], note: str) -> str:
    written = [[f"{cell:,}" if isinstance(cell, int) else cell for cell in row] for row in rows]
    return (
        text_html(caption, "h4", "mesh-caption")
        + table_html(caption, headers, written)
        + text_html(note, class_name="explanation")
        + csv_link(file_name, headers, rows)
    )
