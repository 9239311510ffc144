"""A plan with its rules and what theory asks of it, and the report of a run that lay exactly so: made by hand, for tests."""

import re
from dataclasses import replace

from hfjax_demo.kv_shapes import DTYPE_BYTES
from hfjax_demo.mesh_agreement import totals
from hfjax_demo.mesh_report import Collective, DeviceUse, MeshReport, PlacedArray, ProgramCollectives
from hfjax_demo.model_plan import ExpectedCollective, ParallelRule


def with_rules(plan):
    """The plan with a rule for each pattern and shape of its own table of weights, and two sums a layer at most."""
    groups = {}
    for tensor in plan.weights.tensors:
        pattern = re.sub(r"\.\d+(?=\.)", ".*", tensor.name)
        groups.setdefault((pattern, tensor.shape), []).append(tensor)
    rules = tuple(_rule(pattern, members, plan) for (pattern, _), members in groups.items())
    rows = [rule for rule in rules if rule.style == "row-parallel"]
    itemsize = DTYPE_BYTES[plan.dtype]
    collectives = tuple(
        ExpectedCollective(
            "all-reduce",
            rule.num_weights,
            rule.num_weights * rule.shape[0] * itemsize,
            f"one after each row-parallel projection: {rule.pattern}",
        )
        for rule in rows
    )
    return replace(plan, rules=rules, collectives=collectives)


def _rule(pattern, members, plan):
    first = members[0]
    style = {0: "column-parallel", 1: "row-parallel"}.get(next((i for i, axis in enumerate(first.spec) if axis), None))
    if style and ("embed" in pattern or "lm_head" in pattern):
        style = "vocabulary-parallel"
    size = DTYPE_BYTES[plan.dtype]
    for axis in first.shape:
        size *= axis
    return ParallelRule(
        pattern=pattern,
        style=style or "replicated",
        origin="the model's own plan" if any(first.spec) else "no rule",
        shape=first.shape,
        spec=first.spec,
        shard_shape=first.shard_shape,
        reason=first.reason,
        num_weights=len(members),
        total_bytes=size * len(members),
        bytes_per_device=sum(member.bytes_per_device for member in members),
    )


def report_of(plan):
    """What a run would report if everything lay as planned, with one buffer that no plan lists."""
    size, axis = plan.mesh.size, plan.mesh.axis
    buffer = PlacedArray("model.rotary_emb.inv_freq", (32,), (), (32,), 128)
    weights = [PlacedArray(t.name, t.shape, t.spec, t.shard_shape, t.bytes_per_device) for t in plan.weights.tensors]
    kv = []
    for layer in plan.kv_cache.layers:
        for part, shape in (("keys", layer.key_shape), ("values", layer.value_shape)):
            spec = (None, axis, None, None) if layer.is_split else ()
            shard = (shape[0], shape[1] // size, *shape[2:]) if layer.is_split else shape
            share = layer.bytes_per_device * shape[3] // (layer.key_shape[3] + layer.value_shape[3])
            kv.append(PlacedArray(f"layer {layer.layer} {part}", shape, spec, shard, share))
    held = plan.weights.bytes_per_device + buffer.bytes_per_device
    devices = [DeviceUse(f"TFRT_CPU_{index}", 0, held, plan.kv_cache.bytes_per_device) for index in range(size)]
    found = tuple(Collective(kind, *pair) for kind, pair in totals(plan.collectives).items())
    programs = tuple(
        ProgramCollectives(label, found)
        for label in ("prefill 16 tokens, kvcache 256 fixed", "decode_step 1 token, kvcache 256 fixed")
    )
    return MeshReport(1, tuple(devices), (*weights, buffer), tuple(kv), programs)
