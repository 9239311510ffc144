"""What a mesh of a planned size makes of a model: its table of rules, and the communication that one decode step asks for.

Pure functions of an `Anatomy`; knows nothing of configs, caches or requests.
"""

from collections import Counter
from collections.abc import Iterator

from hfjax_demo.inference.anatomy import Anatomy, WeightShape
from hfjax_demo.inference.parallel_rules import EXPERT, NAMELESS, WeightRule, pattern_of
from hfjax_demo.inference.sharding import Placement, place_weight
from hfjax_demo.kv_shapes import DTYPE_BYTES
from hfjax_demo.model_plan import ExpectedCollective, ParallelRule


def plan_rules(anatomy: Anatomy, dtype: str, parts: int) -> tuple[ParallelRule, ...]:
    """One row for all weights of the same pattern, shape and fate, in the order of the model."""
    rows: dict[tuple[str, tuple[int, ...], Placement], list[WeightShape]] = {}
    for weight, _, placement in _placed(anatomy, parts):
        rows.setdefault((pattern_of(weight.name), weight.shape, placement), []).append(weight)
    return tuple(
        ParallelRule(
            pattern=pattern,
            style=anatomy.rules[weights[0].name].style,
            origin=anatomy.rules[weights[0].name].origin,
            shape=shape,
            spec=placement.spec,
            shard_shape=placement.shard_shape,
            reason=placement.reason,
            num_weights=len(weights),
            total_bytes=sum(weight.num_parameters for weight in weights) * DTYPE_BYTES[dtype],
            bytes_per_device=placement.num_elements * len(weights) * DTYPE_BYTES[dtype],
        )
        for (pattern, shape, placement), weights in rows.items()
    )


def expected_collectives(anatomy: Anatomy, dtype: str, parts: int) -> tuple[ExpectedCollective, ...]:
    """What one decode step of one sequence has to communicate, by kind and cause; nothing on one device."""
    after: dict[tuple[str, str], Counter[str]] = {}
    num_elements: Counter[tuple[str, str]] = Counter()
    for weight, rule, placement in _placed(anatomy, parts):
        for exchange in rule.exchanges if placement.is_split else ():
            cause = (exchange.kind, exchange.after)
            num_elements[cause] += exchange.num_elements * (anatomy.experts_per_token or 1 if rule.style == EXPERT else 1)
            after.setdefault(cause, Counter())[".".join(weight.name.removesuffix(".weight").split(".")[-2:])] += 1
    return tuple(
        ExpectedCollective(
            kind=kind,
            count=names.total(),
            bytes=num_elements[kind, cause] * DTYPE_BYTES[dtype],
            reason=cause if cause in NAMELESS else f"{cause}: {', '.join(f'{num} x {name}' for name, num in names.items())}",
        )
        for (kind, cause), names in after.items()
    )


def _placed(anatomy: Anatomy, parts: int) -> Iterator[tuple[WeightShape, WeightRule, Placement]]:
    for weight in anatomy.weights:
        rule = anatomy.rules[weight.name]
        yield weight, rule, place_weight(weight.shape, rule, parts)
