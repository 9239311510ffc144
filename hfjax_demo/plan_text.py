"""A plan in words, for a terminal: weights, cache, formula, windows and latents, layers, what fits.

Pure functions of an `Inspection`; ASCII only, so that any stdout can take it. Knows nothing of how a plan is made.
"""

from collections.abc import Iterator

from hfjax_demo.cache_formula import CacheFormula
from hfjax_demo.cache_plan import CacheForm
from hfjax_demo.errors import readable_bytes
from hfjax_demo.model_plan import Inspection
from hfjax_demo.planning import MOST_POSITIONS, RESERVE, AcceleratorFit


def plan_lines(plan: Inspection) -> Iterator[str]:
    """The lines, top to bottom."""
    cache, weights, size = plan.kv_cache, plan.weights, plan.mesh.size
    yield f"{plan.architecture} from {plan.source}"
    if plan.assumed:
        told = ", ".join(f"{name} = {value}" for name, value in plan.assumed.items())
        yield f"assumed   {told} (not in the config; Transformers' default)"
    yield (
        f"weights   {weights.total_bytes / 1e6:,.1f} MB, {weights.num_parameters:,} parameters, {plan.dtype}; "
        f"{weights.bytes_per_device / 1e6:,.1f} MB on each of {size}"
    )
    if (whole := _whole_everywhere(plan)) > weights.bytes_per_device // 2 and size > 1:
        yield f"          {whole / 1e6:,.1f} MB of them are not split: every device has them whole (--csv rules says why)"
    yield from _mesh_lines(plan)
    yield (
        f"KV cache  {cache.total_bytes / 1e6:,.1f} MB for {plan.batch_size} x {plan.context_len} positions, "
        f"{cache.bytes_per_token:,} bytes a token; {cache.bytes_per_device / 1e6:,.1f} MB on each of {size}"
    )
    yield from _formula_lines(plan)
    yield from _other_forms(plan)
    for layer in cache.layers:
        yield f"  layer {layer.layer:3d}  {layer.kind:18s} K {layer.key_shape} V {layer.value_shape}"
    yield from _accelerator_lines(plan)


def _mesh_lines(plan: Inspection) -> Iterator[str]:
    """How weights lie on a mesh of several devices, and what a step has to communicate."""
    if plan.mesh.size == 1:
        return
    for rule in plan.rules:
        where = f"{rule.shard_shape} of {rule.shape}" if rule.spec else f"{rule.shape} whole"
        yield f"rule      {rule.num_weights:4d} x {rule.pattern}: {where}; {rule.reason} ({rule.origin})"
    for each in plan.collectives:
        yield f"step      {each.count:4d} x {each.kind}, {each.bytes:,} bytes: {each.reason}"
    if not plan.collectives:
        yield "step      no communication: every device does the whole work"


def _formula_lines(plan: Inspection) -> Iterator[str]:
    formula = _formula(plan, CacheForm.FIXED)
    for term in formula.terms:
        window = f" (layers {_shown(term.layers)})" if len(formula.terms) > 1 else ""
        yield f"formula   {term.symbols}{window}"
        yield f"          {term.numbers} = {term.bytes:,} bytes"
    for factor in formula.terms[0].factors if formula.terms else ():
        yield f"            {factor.symbol:9s} {factor.value:>9,}  {factor.name}; {factor.source}. {factor.meaning}"


def _other_forms(plan: Inspection) -> Iterator[str]:
    total = {form.form: form.total_bytes for form in plan.forms}
    fixed, windowed = total[CacheForm.FIXED], total[CacheForm.WINDOWED]
    if windowed < fixed:
        yield (
            f"windows   {readable_bytes(windowed)} would do if layers with a window held only its positions: "
            f"{fixed / windowed:.1f} x less"
        )
    per_token, full = plan.kv_cache.bytes_per_token, plan.bytes_per_token_full_heads
    if full > per_token > 0:
        is_latent = any(layer.expanded_head_dims for layer in plan.layers)
        saved_by = "one latent for all heads" if is_latent else "query heads that share KV heads"
        yield (
            f"{'latents' if is_latent else 'heads':9s} {full:,} bytes a token if every query head had keys and values of "
            f"its own; {saved_by}: {full / per_token:.1f} x less"
        )


def _accelerator_lines(plan: Inspection) -> Iterator[str]:
    each = f" on each of {plan.mesh.size}" if plan.mesh.size > 1 else ""
    yield f"what fits{each}, with the fixed cache; {RESERVE:.0%} of the memory are kept back"
    for fit in plan.accelerators:
        yield f"  {fit.name:22s} {_fit_words(fit)}"
    yield "  tokens/s at most: what the memory's bandwidth allows, weights and cache read once a step"
    yield f"  of the weights a token reads {plan.decode.rule}"
    if plan.max_context_len:
        yield f"  the model was made for {plan.max_context_len:,} positions, whatever fits"


def _fit_words(fit: AcceleratorFit) -> str:
    fixed = fit.fixed
    if fit.weights_bytes > fit.usable_bytes:
        return f"no: weights need {readable_bytes(fit.weights_bytes)}, {readable_bytes(fit.usable_bytes)} are usable"
    longest = "any" if fixed.longest_context_len == MOST_POSITIONS else f"{fixed.longest_context_len:,}"
    head = (
        f"yes: {readable_bytes(fixed.free_bytes)} free" if fixed.fits else f"no: {readable_bytes(-fixed.free_bytes)} short"
    )
    if fit.windowed.longest_context_len > fixed.longest_context_len:
        windowed = fit.windowed.longest_context_len
        longest += f" ({'any' if windowed == MOST_POSITIONS else f'{windowed:,}'} with windows respected)"
    speed = "" if fit.max_tokens_per_s is None else f", {fit.max_tokens_per_s:,.0f} tokens/s"
    return f"{head}; longest context {longest}, largest batch {fixed.largest_batch_size:,}{speed}"


def _whole_everywhere(plan: Inspection) -> int:
    return sum(weight.bytes_per_device for weight in plan.weights.tensors if weight.shard_shape == weight.shape)


def _formula(plan: Inspection, form: CacheForm) -> CacheFormula:
    return next(formula for formula in plan.formulas if formula.form is form)


def _shown(layers: tuple[int, ...]) -> str:
    return ", ".join(map(str, layers[:6])) + (f" and {len(layers) - 6} more" if len(layers) > 6 else "")
