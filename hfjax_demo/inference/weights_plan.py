"""A model's weights as they would lie on a mesh, and what of them decoding one token reads. Reads no weight.

Pure functions of an `Anatomy`; knows nothing of configs, caches or requests.
"""

from hfjax_demo.inference import sharding
from hfjax_demo.inference.anatomy import Anatomy
from hfjax_demo.kv_shapes import DTYPE_BYTES
from hfjax_demo.model_plan import DecodeReads, WeightPlan, WeightsPlan


def plan_weights(anatomy: Anatomy, dtype: str, parts: int) -> tuple[WeightsPlan, DecodeReads]:
    """Where every weight would lie on a mesh of `parts` devices, and what decoding reads of them."""
    itemsize = DTYPE_BYTES[dtype]
    tensors = []
    read_bytes = read_per_device = active = 0
    for weight in anatomy.weights:
        placement = sharding.place_weight(weight.shape, anatomy.rules[weight.name], parts)
        shard_size = placement.num_elements
        read, of = weight.share
        read_bytes += weight.num_parameters * itemsize * read // of
        read_per_device += shard_size * itemsize * read // of
        active += weight.num_parameters * (read or of) // of
        tensors.append(
            WeightPlan(
                name=weight.name,
                shape=weight.shape,
                spec=placement.spec,
                shard_shape=placement.shard_shape,
                bytes_per_device=shard_size * itemsize,
                reason=placement.reason,
            )
        )
    num_parameters = sum(weight.num_parameters for weight in anatomy.weights)
    bytes_per_device = sum(tensor.bytes_per_device for tensor in tensors)
    plan = WeightsPlan(num_parameters * itemsize, bytes_per_device, num_parameters, tuple(tensors))
    return plan, DecodeReads(active, read_bytes, read_per_device, _rule_of(anatomy))


def _rule_of(anatomy: Anatomy) -> str:
    rule = "every weight but the input embedding, of which one row is read"
    if all(weight.share != (0, 1) for weight in anatomy.weights):
        rule = "every weight (the input embedding is the output layer too)"
    if not anatomy.num_experts:
        return rule
    if not anatomy.experts_per_token:
        return f"{rule}; all {anatomy.num_experts} experts: the config does not say how many a token passes through"
    return (
        f"{rule}; of {anatomy.num_experts} experts the {anatomy.experts_per_token} that one token passes through (a batch "
        "may need more: the bound holds, the truth is lower)"
    )
