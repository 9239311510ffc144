"""A plan as HTML: the formula with its numbers, what follows from it in sentences, and the tables beside the pictures.

Pure functions of an `Inspection`; everything that anybody may have written is escaped. Knows nothing of gradio.
"""

import html
from collections.abc import Callable, Iterator

from hfjax_demo.cache_formula import CacheFormula, FormulaTerm
from hfjax_demo.cache_plan import CacheForm
from hfjax_demo.errors import readable_bytes
from hfjax_demo.model_plan import Inspection
from hfjax_demo.planning import MOST_POSITIONS, MOST_SEQUENCES, RESERVE, AcceleratorFit, CacheFit
from hfjax_demo.plots.hover_text import shown_text
from hfjax_demo.ui.components import table_html, text_html
from hfjax_demo.ui.words import plural

MAX_NAME_CHARS = 64
NUM_FIGURES = 3

FORM_WORDS = {
    CacheForm.FIXED: "fixed, every layer at full length: what this engine allocates under jit",
    CacheForm.GROWING: "growing: what Transformers keeps between two steps",
    CacheForm.WINDOWED: "with every window respected: the least a step needs",
    CacheForm.FULL_HEADS: "if every query head had keys and values of its own",
}


def summary_html(plan: Inspection) -> str:
    """Where the numbers come from, and what they come to, each with how it was reckoned on hover."""
    cache, weights = plan.kv_cache, plan.weights
    on_each = f" on each of {plan.mesh.size} devices" if plan.mesh.size > 1 else ""
    numbers = [
        ("KV cache", readable_bytes(cache.total_bytes), f"{cache.total_bytes:,} bytes, all layers, all sequences."),
        ("a token", small_bytes(cache.bytes_per_token), f"{cache.bytes_per_token:,} bytes of one position, all layers."),
        ("weights", readable_bytes(weights.total_bytes), f"{weights.num_parameters:,} parameters in {plan.dtype}."),
    ]
    if on_each:
        numbers.append(("cache a device", readable_bytes(cache.bytes_per_device), "KV heads that divide are split."))
        numbers.append(
            ("weights a device", readable_bytes(weights.bytes_per_device), "What does not divide is whole there.")
        )
    boxes = "".join(
        f'<div title="{html.escape(hint)}"><dt>{html.escape(label)}</dt><dd>{html.escape(value)}</dd></div>'
        for label, value, hint in numbers
    )
    name = shown_text(plan.model, MAX_NAME_CHARS)
    where = f"{name}: {plan.architecture}, {plan.batch_size:,} × {plan.context_len:,} positions"
    lines = [text_html(where, "h3", "plan-title"), _source_html(plan.source), f'<dl class="run-numbers">{boxes}</dl>']
    lines += [text_html(line, class_name="plan-line") for line in _sentences(plan)]
    return f'<section class="plan">{"".join(lines)}</section>'


def small_bytes(num_bytes: int) -> str:
    """Bytes of one token: in bytes and kB below a megabyte, where `readable_bytes` would leave one figure."""
    if num_bytes < 1e3:
        return plural(num_bytes, "byte")
    return f"{num_bytes / 1e3:,.{NUM_FIGURES}g} kB" if num_bytes < 1e6 else readable_bytes(num_bytes)


def _source_html(source: str) -> str:
    shown = html.escape(source)
    is_link = source.startswith("https://huggingface.co/")
    link = f'<a href="{shown}" rel="noopener noreferrer" target="_blank">{shown}</a>'
    return f'<p class="plan-source">config from {link if is_link else shown}</p>'


def _sentences(plan: Inspection) -> Iterator[str]:
    total = {form.form: form.total_bytes for form in plan.forms}
    fixed, windowed = total[CacheForm.FIXED], total[CacheForm.WINDOWED]
    per_token, full = plan.kv_cache.bytes_per_token, plan.bytes_per_token_full_heads
    if full > per_token > 0:
        is_latent = any(layer.expanded_head_dims for layer in plan.layers)
        by = "One latent for all heads saves" if is_latent else "Query heads that share KV heads save"
        yield (
            f"{by} a factor of {full / per_token:.{NUM_FIGURES}g}: with full heads a token would take {small_bytes(full)}."
        )
    if windowed < fixed:
        windows = ", ".join(f"{size:,}" for size in sorted({layer.window for layer in plan.layers if layer.window}))
        num = sum(1 for layer in plan.layers if layer.window)
        yield (
            f"{num} of {plural(len(plan.layers), 'layer')} attend to a window of {windows} positions: "
            f"{readable_bytes(windowed)} would do where those layers hold no more, a factor of "
            f"{fixed / windowed:.{NUM_FIGURES}g}."
        )
    if plan.max_context_len and plan.context_len > plan.max_context_len:
        yield f"The model was made for {plan.max_context_len:,} positions: beyond that it has learned nothing."
    if plan.assumed:
        told = ", ".join(f"{name} = {value}" for name, value in plan.assumed.items())
        yield f"Not in the config, so Transformers' defaults were taken: {told}."


def formula_html(plan: Inspection) -> str:
    """The formula in symbols and in numbers, a line a group of equal layers; each factor says on hover where it is from."""
    forms = [formula for formula in plan.formulas if formula.form is CacheForm.FIXED or _differs(formula, plan)]
    blocks = []
    for formula in forms:
        terms = "".join(_term_html(term, len(formula.terms) > 1) for term in formula.terms)
        total = f'<p class="formula-total">= {formula.total_bytes:,} bytes</p>' if len(formula.terms) > 1 else ""
        blocks.append(f"<div>{text_html(FORM_WORDS[formula.form], class_name='formula-form')}{terms}{total}</div>")
    return f'<section class="formula" aria-label="The formula with its numbers">{"".join(blocks)}</section>'


def _differs(formula: CacheFormula, plan: Inspection) -> bool:
    fixed = next(each for each in plan.formulas if each.form is CacheForm.FIXED)
    return formula.form is not CacheForm.GROWING and formula.total_bytes != fixed.total_bytes


def _term_html(term: FormulaTerm, has_others: bool) -> str:
    which = f'<span class="formula-layers">{plural(len(term.layers), "layer")}: </span>' if has_others else ""
    symbols, numbers = (
        " × ".join(
            f'<abbr tabindex="0" title="{html.escape(f"{factor.name}; {factor.source}. {factor.meaning}")}">{text}</abbr>'
            for factor, text in zip(term.factors, texts, strict=True)
        )
        for texts in (
            [html.escape(factor.symbol) for factor in term.factors],
            [f"{factor.value:,}" for factor in term.factors],
        )
    )
    return (
        f'<p class="formula-symbols">{which}{symbols}</p><p class="formula-numbers">{numbers} = '
        f"<b>{term.bytes:,} bytes</b> ({readable_bytes(term.bytes)})</p>"
    )


def fits_html(plan: Inspection) -> str:
    """What fits on common devices, a row each; the whole table, both cache forms, is in the CSV."""
    headers = ["device", "memory", "fits", "longest context", "largest batch", "tokens/s at most", "source"]
    rows = [_fit_row(fit) for fit in plan.accelerators]
    note = (
        f"{RESERVE:.0%} of each memory are kept back. Longest context at this batch, largest batch at this context. "
        f"Tokens/s at most: what the memory's peak bandwidth allows when a step reads {plan.decode.rule}, and the cache."
    )
    return table_html("What fits on common devices", headers, rows) + text_html(note, class_name="explanation")


def _fit_row(fit: AcceleratorFit) -> list[object]:
    speed = (
        ""
        if fit.max_tokens_per_s is None
        else f"{fit.max_tokens_per_s:,.3g}"
        if fit.max_tokens_per_s < 100
        else (f"{fit.max_tokens_per_s:,.0f}")
    )
    if fit.weights_bytes > fit.usable_bytes:
        fits = f"no: the weights alone need {readable_bytes(fit.weights_bytes)}"
    elif fit.fixed.fits:
        fits = f"yes, {readable_bytes(fit.fixed.free_bytes)} free"
    elif fit.windowed.fits:
        fits = f"only with windows respected, {readable_bytes(fit.windowed.free_bytes)} free"
    else:
        fits = f"no, {readable_bytes(-fit.fixed.free_bytes)} short"
    lengths = _both(fit, lambda cache: _most(cache.longest_context_len, MOST_POSITIONS))
    batches = _both(fit, lambda cache: _most(cache.largest_batch_size, MOST_SEQUENCES))
    return [fit.name, readable_bytes(fit.memory_bytes), fits, lengths, batches, speed, fit.source]


def _both(fit: AcceleratorFit, words: Callable[[CacheFit], str]) -> str:
    fixed, windowed = words(fit.fixed), words(fit.windowed)
    return fixed if fixed == windowed else f"{fixed} ({windowed} with windows)"


def _most(value: int, limit: int) -> str:
    return "any" if value >= limit else f"{value:,}" if value else "none"
