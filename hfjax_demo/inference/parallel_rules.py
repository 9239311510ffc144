"""Which weights a mesh splits, along which axis and between what: a rule for each weight, before any size of a mesh.

A rule comes from the model's own plan (`base_model_tp_plan`, `_tp_plan`) where it has one. Models without get `OUR_TABLE`,
and every model's vocabulary is split at its embedding and its head where its own plan leaves it whole. XLA keeps any layout
correct; these are the ones that cost two all-reduces a layer. Knows nothing of meshes (`sharding`) or bytes.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

from hfjax_demo.inference.head_cuts import projection_cut

COLUMN = "column-parallel"
ROW = "row-parallel"
VOCABULARY = "vocabulary-parallel"
EXPERT = "expert-internal"
REPLICATED = "replicated"

OWN_PLAN = "the model's own plan"
OUR_PLAN = "our table"
NO_RULE = "no rule"

ROW_SUM = "one after each row-parallel projection"
EXPERT_SUM = "one after each layer of experts, of the outputs of those a token passes through"
COLUMN_GATHER = "one after each projection of which every device needs all outputs"
EXPERT_GATHER = "one in each layer of experts, of gates and ups of those a token passes through"
LOOKUP_SUM = "one after the lookup in the embedding"
HEAD_GATHER = "one after the output layer, of the logits"
"""What an exchange follows."""

GATHERS = frozenset({COLUMN_GATHER, EXPERT_GATHER})
"""After these the model's own code needs all outputs on every device."""

NAMELESS = frozenset({LOOKUP_SUM, HEAD_GATHER})
"""Of these a model has one, so that no name is needed beside it."""

_ATTENTION = r"(?:self_attn|self_attention|attn|attention)"
OUR_TABLE = (
    (rf"{_ATTENTION}\.(?:q_proj|k_proj|v_proj|query|key|value|sinks)", "colwise"),
    (rf"{_ATTENTION}\.(?:c_attn|query_key_value|qkv_proj|Wqkv)", "colwise"),
    (rf"{_ATTENTION}\.(?:o_proj|out_proj|c_proj|dense)", "rowwise"),
    (r"attention\.self\.(?:query|key|value)", "colwise"),
    (r"attention\.output\.dense", "rowwise"),
    (r"mlp\.experts\.gate_up_proj(?:_bias)?", "packed_rowwise"),
    (r"mlp\.experts\.down_proj", "colwise"),
    (r"(?:gate_proj|up_proj|fc1|fc_in|c_fc|dense_h_to_4h|intermediate\.dense|feed_forward\.w[13])", "colwise"),
    (r"(?:down_proj|fc2|fc_out|mlp\.c_proj|dense_4h_to_h|output\.dense|feed_forward\.w2)", "rowwise"),
)
"""How a weight's name ends, without ".weight" or ".bias" -> parallel style, in the words of Transformers' own plans.

For models without a plan, such as GPT-2, OPT, Bloom, StableLM, Falcon, GPT-J, GPT-Neo, CodeGen, GPT-BigCode, XGLM, BioGPT,
Persimmon, MPT, BERT and GPT-OSS (whose experts are [experts, in, out]).
"""

_GATHERED = frozenset({"colwise_rep", "colwise_gather_output", "packed_colwise", "packed_rowwise", "embedding_colwise"})
_ON_COLUMNS = frozenset({"colwise", "colwise_rep", "colwise_gather_output", "packed_colwise"})
_ON_ROWS = frozenset({"rowwise", "rowwise_rep", "rowwise_split_input"})
_ON_LAST = frozenset({"packed_rowwise", "embedding_colwise"})
_ON_VOCABULARY = frozenset({"embedding_rowwise", "vocab_parallel_rowwise"})
_WHOLE = {
    "replicated_with_grad_allreduce": "a norm of each head, small, and the same for all",
    "mla_kv_a_proj": "it makes the latent that all heads read, so every device needs all of it",
}


@dataclass(frozen=True)
class Exchange:
    """Communication that a split weight asks of one decode step of one sequence.

    Attributes:
        kind: "all-reduce" or "all-gather".
        num_elements: that each device has after it.
        after: which kind of weight it follows, the same for all of that kind.
    """

    kind: str
    num_elements: int
    after: str


@dataclass(frozen=True)
class WeightRule:
    """What the tables say of one weight.

    Attributes:
        style: COLUMN, ROW, VOCABULARY, EXPERT or REPLICATED.
        origin: which table says so.
        axis: the one that is split, None for none.
        units: (count, what) that must each divide by the number of devices, the axis itself among them.
        reason: why it is split, or why it is not.
        exchanges: what it costs where it is split.
    """

    style: str
    origin: str
    axis: int | None
    units: tuple[tuple[int, str], ...]
    reason: str
    exchanges: tuple[Exchange, ...] = ()


@dataclass(frozen=True)
class _Weight:
    """A parameter and what its rule follows from; `path` is its name without ".weight" or ".bias", `part` its module."""

    path: str
    shape: tuple[int, ...]
    is_bias: bool
    is_input: bool
    is_output: bool
    part: Any
    parent: Any


def read_rules(module: Any) -> dict[str, WeightRule]:
    """The rule of each parameter of a Transformers model, by its name (a tied one under its first).

    Args:
        module: its parameters may be on "meta".
    """
    config = module.config.get_text_config(decoder=True)
    layers_plan = _layers_plan(module, config)
    head_plan = type(module)._tp_plan
    plan = layers_plan | (dict(head_plan) if isinstance(head_plan, Mapping) else {})
    unknown = "the model's own plan does not split it" if layers_plan else "our table does not know it"
    rules = {}
    for name, parameter in module.named_parameters():
        weight = _weight_of(module, name, parameter)
        style, origin = _style_in(plan, name), OWN_PLAN
        if style is None:
            style, origin = None if layers_plan else _style_in_our_table(weight.path), OUR_PLAN
        if style is None and (weight.is_input or weight.is_output):
            style = "embedding_rowwise"
        if style is not None:
            rules[name] = _rule_of(weight, style, origin, config)
        elif "Norm" in type(weight.part).__name__:
            rules[name] = WeightRule(REPLICATED, OUR_PLAN, None, (), "a norm, small, and each device needs all of it")
        else:
            rules[name] = WeightRule(REPLICATED, NO_RULE, None, (), unknown)
    return rules


def _layers_plan(module: Any, config: Any) -> dict[str, str]:
    """The plan of the text model's own parts, which stand beside its embedding: in a multimodal model not at the base."""
    plan = getattr(config, "base_model_tp_plan", None)
    if not isinstance(plan, Mapping):
        return {}
    embedding = module.get_input_embeddings()
    path = next((path for path, part in module.named_modules() if part is embedding), f"{module.base_model_prefix}.")
    base = path.rpartition(".")[0]
    return {f"{base}.{name}" if base else name: style for name, style in plan.items()}


def _weight_of(module: Any, name: str, parameter: torch.nn.Parameter) -> _Weight:
    path, _, attribute = name.rpartition(".")
    part, head, table = module.get_submodule(path), module.get_output_embeddings(), module.get_input_embeddings()
    return _Weight(
        path=path if attribute in ("weight", "bias") else name,
        shape=tuple(parameter.shape),
        is_bias=attribute.endswith("bias"),
        is_input=parameter is getattr(table, "weight", None),
        is_output=part is head or parameter is getattr(head, "weight", None),
        part=part,
        parent=module.get_submodule(path.rpartition(".")[0]),
    )


def _style_in(plan: Mapping[str, str], name: str) -> str | None:
    """The style of the plan's row that matches `name`, with or without its ".weight" or ".bias"."""
    generic = pattern_of(name)
    return plan.get(generic) or plan.get(generic.rpartition(".")[0])


def pattern_of(name: str) -> str:
    """A weight's name with `*` for each layer's or expert's number, as plans write it."""
    return re.sub(r"\.\d+(?=\.|$)", ".*", name)


def _style_in_our_table(path: str) -> str | None:
    return next((style for ending, style in OUR_TABLE if re.search(rf"(?:^|\.){ending}$", path)), None)


def _rule_of(weight: _Weight, style: str, origin: str, config: Any) -> WeightRule:
    if style in _ON_VOCABULARY or (weight.is_output and style in _ON_COLUMNS):
        return _vocabulary_rule(weight, origin)
    if re.search(r"(?:^|\.)experts\.[a-z_]+$", weight.path):
        return _expert_rule(weight, style, origin)
    if style in _ON_ROWS:
        return _row_rule(weight, origin, config)
    if style in _ON_COLUMNS | _ON_LAST:
        return _column_rule(weight, style, origin, config)
    return WeightRule(REPLICATED, origin, None, (), _WHOLE.get(style, f"the model's plan keeps it whole ({style})"))


def _vocabulary_rule(weight: _Weight, origin: str) -> WeightRule:
    """Rows of an embedding table, or of the output layer [V, hidden] and its bias; they are often one array."""
    exchanges, parts = [], []
    if weight.is_input or not weight.is_output:
        exchanges.append(Exchange("all-reduce", weight.shape[-1], LOOKUP_SUM))
        parts.append("each device looks up its share of the vocabulary; one all-reduce sums the lookups")
    if weight.is_output:
        if not weight.is_bias:
            exchanges.append(Exchange("all-gather", weight.shape[0], HEAD_GATHER))
        subject = "as the output layer too, it" if parts else "each device"
        parts.append(f"{subject} computes its share of the logits; one all-gather joins them")
    reason = f"{VOCABULARY}: {'; '.join(parts)}"
    return WeightRule(VOCABULARY, origin, 0, ((weight.shape[0], "tokens of the vocabulary"),), reason, tuple(exchanges))


def _row_rule(weight: _Weight, origin: str, config: Any) -> WeightRule:
    if weight.is_bias or len(weight.shape) < 2:
        return WeightRule(ROW, origin, None, (), "a bias of a row-parallel projection is added once, after the all-reduce")
    is_transposed = isinstance(weight.part, Conv1D)  # [in, out]
    axis = 0 if is_transposed else 1
    cut = projection_cut(weight.path, weight.parent, config)
    units = (*cut.units, (weight.shape[axis], "inputs"))
    reason = f"{ROW}: each device holds its share of the inputs; one all-reduce sums the outputs"
    return WeightRule(ROW, origin, axis, units, reason, (Exchange("all-reduce", weight.shape[1 - axis], ROW_SUM),))


def _column_rule(weight: _Weight, style: str, origin: str, config: Any) -> WeightRule:
    is_last = isinstance(weight.part, Conv1D) or style in _ON_LAST or len(weight.shape) == 1
    axis = len(weight.shape) - 1 if is_last else len(weight.shape) - 2
    cut = projection_cut(weight.path, weight.parent, config)
    units = (*cut.units, (weight.shape[axis], "outputs"))
    why = cut.gathered_because or ("the model needs them whole" if style in _GATHERED else "")
    if not why:
        return WeightRule(COLUMN, origin, axis, units, f"{COLUMN}: each device computes its share of the outputs")
    exchange = () if weight.is_bias else (Exchange("all-gather", weight.shape[axis], COLUMN_GATHER),)
    reason = f"{COLUMN}: each device computes its share of the outputs; one all-gather joins them: {why}"
    return WeightRule(COLUMN, origin, axis, units, reason, exchange)


def _expert_rule(weight: _Weight, style: str, origin: str) -> WeightRule:
    """Of a stack [experts, out, in] or [experts, in, out]: a share of each expert on every device, so that none is idle."""
    axis = len(weight.shape) - (2 if style in _ON_COLUMNS else 1)
    if style not in _ON_COLUMNS | _ON_ROWS | _ON_LAST or axis < 1:
        return WeightRule(REPLICATED, origin, None, (), f"the model's plan keeps it whole ({style})")
    is_pair = "gate_up" in weight.path
    units = ((weight.shape[axis] // (2 if is_pair else 1), "inner features of an expert"),)
    if "down_proj" in weight.path:
        (num_outputs,) = (size for index, size in enumerate(weight.shape) if index not in (0, axis))
        reason = f"{EXPERT}: each device holds its share of each expert's inputs; one all-reduce sums the outputs"
        return WeightRule(EXPERT, origin, axis, units, reason, (Exchange("all-reduce", num_outputs, EXPERT_SUM),))
    reason = f"{EXPERT}: each device computes its share of each expert's outputs"
    if not (is_pair and getattr(weight.part, "is_concatenated", True)):
        return WeightRule(EXPERT, origin, axis, units, reason)
    exchanges = () if weight.is_bias else (Exchange("all-gather", weight.shape[axis], EXPERT_GATHER),)
    return WeightRule(
        EXPERT, origin, axis, units, f"{reason}; one all-gather joins gates and ups, which are one matrix", exchanges
    )
