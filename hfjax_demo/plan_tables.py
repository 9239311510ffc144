"""The tables of a plan: layers, weights, rules, accelerators, the curve, the formula's factors. Headers say their units.

Pure functions from plain data to headers and rows, for CSV and for the page. Knows nothing of how a plan is made.
"""

from collections.abc import Callable, Sequence

from hfjax_demo.model_plan import Inspection

Table = tuple[list[str], list[list[object]]]
"""Headers and rows of plain values; None where there is no value."""


def layers_table(plan: Inspection) -> Table:
    """One row a layer of the cache."""
    headers = ["Layer", "Kind", "Window (positions)", "Query heads", "KV heads", "Key head size", "Value head size"]
    headers += ["Key shape", "Value shape", "Bytes", "Bytes per device"]
    return headers, [
        [
            *(layer.layer, layer.kind, layer.window, layer.num_attention_heads, layer.num_kv_heads),
            *(layer.key_head_dim, layer.value_head_dim),
            *(planned.key_shape, planned.value_shape, planned.bytes, planned.bytes_per_device),
        ]
        for layer, planned in zip(plan.layers, plan.kv_cache.layers, strict=True)
    ]


def weights_table(plan: Inspection) -> Table:
    """One row a weight; none where the plan came without them."""
    headers = ["Name", "Shape", "Split over", "Shape on one device", "Bytes per device", "Why"]
    return headers, [
        [weight.name, weight.shape, weight.spec, weight.shard_shape, weight.bytes_per_device, weight.reason]
        for weight in plan.weights.tensors
    ]


def rules_table(plan: Inspection) -> Table:
    """One row a pattern of weight names: which table places them, how, and why."""
    headers = ["Pattern", "Style", "From", "Shape", "Split over", "Shape on one device", "Weights", "Bytes"]
    headers += ["Bytes per device", "Why"]
    return headers, [
        [
            *(rule.pattern, rule.style, rule.origin, rule.shape, rule.spec, rule.shard_shape, rule.num_weights),
            *(rule.total_bytes, rule.bytes_per_device, rule.reason),
        ]
        for rule in plan.rules
    ]


def collectives_table(plan: Inspection) -> Table:
    """One row a cause of communication in one decode step; none on one device."""
    headers = ["Kind", "Count a step", "Bytes a step", "Why"]
    return headers, [[each.kind, each.count, each.bytes, each.reason] for each in plan.collectives]


def accelerators_table(plan: Inspection) -> Table:
    """One row an accelerator."""
    headers = ["Accelerator", "Memory (bytes)", "Usable (bytes)", "Bandwidth (bytes/s)", "Weights (bytes)"]
    for form in ("fixed", "windowed"):
        headers += [f"{name}, {form} cache" for name in ("Fits", "Cache (bytes)", "Free (bytes)", "Longest context")]
        headers.append(f"Largest batch, {form} cache")
    headers += ["Tokens/s at most", "Tokens/s of a sequence at most", "Source"]
    return headers, [
        [
            *(fit.name, fit.memory_bytes, fit.usable_bytes, fit.bandwidth_bytes_per_s, fit.weights_bytes),
            *(
                value
                for cache in (fit.fixed, fit.windowed)
                for value in (
                    *("yes" if cache.fits else "no", cache.cache_bytes, cache.free_bytes),
                    *(cache.longest_context_len, cache.largest_batch_size),
                )
            ),
            *(fit.max_tokens_per_s, fit.max_tokens_per_s_per_sequence, fit.source),
        ]
        for fit in plan.accelerators
    ]


def curve_table(plan: Inspection) -> Table:
    """One row a context length."""
    headers = ["Context length (tokens)", "Fixed cache (bytes)", "Cache that respects windows (bytes)"]
    headers += ["Fixed cache per device (bytes)", "Cache that respects windows per device (bytes)"]
    return headers, [
        [
            *(point.context_len, point.fixed_bytes, point.windowed_bytes),
            *(point.fixed_bytes_per_device, point.windowed_bytes_per_device),
        ]
        for point in plan.curve
    ]


def formula_table(plan: Inspection) -> Table:
    """One row a factor of each term of each form."""
    headers = ["Form", "Layers", "Factor", "Value", "What", "From", "Why"]
    return headers, [
        [formula.form.value, _ranges(term.layers), factor.symbol, factor.value, factor.name, factor.source, factor.meaning]
        for formula in plan.formulas
        for term in formula.terms
        for factor in term.factors
    ]


TABLES: dict[str, Callable[[Inspection], Table]] = {
    "layers": layers_table,
    "weights": weights_table,
    "rules": rules_table,
    "collectives": collectives_table,
    "accelerators": accelerators_table,
    "curve": curve_table,
    "formula": formula_table,
}
"""By the name that the command line takes."""


def _ranges(numbers: Sequence[int]) -> str:
    """Ascending whole numbers as people write them: "0 to 4, 6, 8"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(first) if first == last else f"{first} to {last}" for first, last in runs)
