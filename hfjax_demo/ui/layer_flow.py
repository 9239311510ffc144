"""One layer as a flow: what is split how, and where the devices must speak to each other.

Built from the table of rules, and only as far as it tells. Pure functions of a plan; every text is escaped. Knows nothing
of gradio.
"""

import html
import re
from dataclasses import dataclass
from typing import Literal

from hfjax_demo.kv_shapes import DTYPE_BYTES
from hfjax_demo.model_plan import Inspection, ParallelRule
from hfjax_demo.ui.plan_html import small_bytes
from hfjax_demo.ui.words import plural

ATTENTION = re.compile(r"attn|attention")
OUTPUT = re.compile(r"\.(o_proj|out_proj|c_proj|dense|down_proj|dense_4h_to_h|fc2|fc_out|w2|wo)$")
"""Names of the projection that ends a half of a layer, where its style does not say so: in what is not split."""
MATRIX_AXES = 2


@dataclass(frozen=True)
class FlowStep:
    """One box of the flow.

    Attributes:
        kind: "data" for activations, "weights" for projections, "sum" for what the devices send each other.
        title: its first line.
        lines: below it.
    """

    kind: Literal["data", "weights", "sum"]
    title: str
    lines: tuple[str, ...] = ()


def layer_flow(plan: Inspection) -> tuple[FlowStep, ...]:
    """The boxes of one layer, in order; none where the rules do not tell or there is but one device."""
    matrices = [rule for rule in plan.rules if "*" in rule.pattern and len(rule.shape) >= MATRIX_AXES]
    if plan.mesh.size == 1 or not any(rule.spec for rule in matrices):
        return ()
    attention = [rule for rule in matrices if ATTENTION.search(rule.pattern)]
    feed_forward = [rule for rule in matrices if not ATTENTION.search(rule.pattern)]
    steps = [FlowStep("data", "x", ("whole on every device",))]
    if attention:
        steps += _half(attention, _attention_step(plan, attention), plan.dtype)
    if feed_forward:
        steps += _half(feed_forward, None, plan.dtype)
    return (*steps, FlowStep("data", "next layer"))


def _half(rules: list[ParallelRule], between: FlowStep | None, dtype: str) -> list[FlowStep]:
    """One half of a layer: what comes first, attention if it is that half, what ends it, and the sum where one is needed."""
    last = [rule for rule in rules if _ends(rule)]
    first = [rule for rule in rules if not _ends(rule)]
    steps = [_weights_step(first)] if first else []
    if any(rule.spec and _is_gathered(rule) for rule in first):
        steps.append(FlowStep("sum", "ALL-GATHER", ("every device gets all outputs",)))
    if between:
        steps.append(between)
    if last:
        steps.append(_weights_step(last))
    if split := [rule for rule in last if rule.spec]:
        steps.append(FlowStep("sum", "ALL-REDUCE", tuple(dict.fromkeys(_summed(rule, dtype) for rule in split))))
    return steps


def _ends(rule: ParallelRule) -> bool:
    return rule.style == "row-parallel" or bool(OUTPUT.search(_name(rule)))


def _is_gathered(rule: ParallelRule) -> bool:
    return "gather" in rule.reason


def _name(rule: ParallelRule) -> str:
    return re.sub(r"\.(weight|bias)$", "", rule.pattern)


def _weights_step(rules: list[ParallelRule]) -> FlowStep:
    """Projections side by side; those of one fate share a line."""
    fates: dict[str, list[str]] = {}
    for rule in rules:
        fate = rule.style if rule.spec else "whole on each device"
        names = fates.setdefault(fate, [])
        if (name := _name(rule).rpartition(".")[2]) not in names:
            names.append(name)
    if len(fates) == 1:
        return FlowStep("weights", next(iter(fates)), tuple(" ".join(names) for names in fates.values()))
    return FlowStep("weights", "projections", tuple(f"{' '.join(names)}: {fate}" for fate, names in fates.items()))


def _attention_step(plan: Inspection, rules: list[ParallelRule]) -> FlowStep:
    """Attention with the heads that one device has, and how its cache lies."""
    size, heads = plan.mesh.size, plan.num_attention_heads
    layer = next((layer for layer in plan.kv_cache.layers if layer.key_shape), None)
    # Outputs that were gathered are cut again, between heads, where the cache that they go into is.
    is_split = any(rule.spec and not _ends(rule) and not _is_gathered(rule) for rule in rules) or (layer and layer.is_split)
    has = heads // size if is_split and heads % size == 0 else heads
    lines = [f"{has} of {plural(heads, 'query head')} a device"]
    if layer:
        keys = layer.key_shape[1]
        lines.append(f"{keys // size if layer.is_split else keys} of {plural(keys, 'KV head')} a device")
    return FlowStep("data", "attention, by heads", tuple(lines))


def _summed(rule: ParallelRule, dtype: str) -> str:
    """What is summed for one token: the projection's outputs, the axis that is not cut."""
    width = next(size for size, axis in zip(reversed(rule.shape), reversed(rule.spec), strict=True) if axis is None)
    words = f"(1, 1, {width}), {small_bytes(width * DTYPE_BYTES[dtype])}"
    return f"{words} an active expert" if rule.style == "expert-internal" else words


def flow_html(plan: Inspection) -> str:
    """The flow as a list that wraps, or one sentence where there is nothing to tell."""
    if plan.mesh.size == 1:
        return '<p class="plan-line">One device holds everything: nothing is split and nothing is sent.</p>'
    steps = layer_flow(plan)
    if not steps:
        return '<p class="plan-line">No projection of a layer is split on this mesh: every device computes it all.</p>'
    boxes = "".join(
        f'<li class="flow-{step.kind}"><b>{html.escape(step.title)}</b>'
        + "".join(f"<span>{html.escape(line)}</span>" for line in step.lines)
        + "</li>"
        for step in steps
    )
    num_sums = sum(step.kind == "sum" for step in steps)
    places = f"{num_sums or 'no'} {'place' if num_sums == 1 else 'places'}"
    told = f"One layer of {len(plan.layers)}: {places} where the devices speak to each other"
    return f'<figure class="flow"><figcaption>{told}</figcaption><ol>{boxes}</ol></figure>'
