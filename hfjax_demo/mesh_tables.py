"""The tables of a mesh: its devices and its communication, planned and, where a run was made, measured beside it.

Pure functions from plain data to headers and rows, for the page and for CSV. Headers say their units. Knows nothing of how
a plan or a run is made; the table of rules is the plan's own (`plan_tables`).
"""

from hfjax_demo.mesh_agreement import decode_collectives, totals, unconditional
from hfjax_demo.mesh_report import MeshReport, Spec
from hfjax_demo.model_plan import Inspection
from hfjax_demo.plan_tables import Table

MAX_DEVICES = 64
"""Rows of a planned mesh's table: its devices are all alike."""


def spec_text(spec: Spec) -> str:
    """A spec as JAX writes a PartitionSpec: "P('model', None)"; "P()" for replicated."""
    return f"P({', '.join(repr(axis) for axis in spec)})"


def devices_table(plan: Inspection, report: MeshReport | None) -> Table:
    """One row a device: bytes planned and, with a report, those that lay on it."""
    planned = [plan.weights.bytes_per_device, plan.kv_cache.bytes_per_device]
    headers = ["Device", "Weights, planned (bytes)", "Cache, planned (bytes)"]
    if report is None:
        rows: list[list[object]] = [[f"device {index}", *planned] for index in range(min(plan.mesh.size, MAX_DEVICES))]
        if plan.mesh.size > MAX_DEVICES:
            rows.append([f"and {plan.mesh.size - MAX_DEVICES:,} more like these", *planned])
        return headers, rows
    headers += ["Weights and buffers, measured (bytes)", "Cache, measured (bytes)", "Process"]
    return headers, [
        [device.device, *planned, device.weights_bytes, device.kv_bytes, device.process] for device in report.devices
    ]


def collectives_table(plan: Inspection, report: MeshReport | None) -> Table:
    """One row for each kind and cause that theory knows, then the sums by kind; with a report, what the program has."""
    found = decode_collectives(report) if report else None
    headers = ["Communication", "Times a token, in theory", "Bytes a token, in theory", "Why"]
    rows: list[list[object]] = [[each.kind, each.count, each.bytes, each.reason] for each in plan.collectives]
    if found is None:
        return headers, rows
    planned, real = totals(plan.collectives), totals(unconditional(found))
    summed: list[list[object]] = []
    for kind in sorted(planned.keys() | real.keys()):
        count, num_bytes = planned.get(kind, (0, 0))
        summed.append([f"{kind}, in all", count, num_bytes, *real.get(kind, (0, 0)), ""])
    for each in found:
        if each.is_conditional:
            reason = "in a branch that a call may not take, such as drawing a token where decoding is greedy; or in a loop"
            summed.append([f"{each.kind}, not at every call", None, None, each.count, each.bytes, reason])
    headers[3:3] = ["Times, in the compiled step", "Bytes, in the compiled step"]
    return headers, [[*row[:3], None, None, row[3]] for row in rows] + summed
