"""Two runs side by side: which was faster, from which step on, and whether they gave the same tokens.

A pure function of two records, live or imported. Knows nothing of how runs are made or drawn.
"""

import json
from dataclasses import dataclass, replace

from hfjax_demo.break_even import StepTimes, break_even_step, expected_break_even_step
from hfjax_demo.events import EnvironmentFacts, RunRecord
from hfjax_demo.requests import CacheKind, GenerationRequest

COMPARISON_SCHEMA = "hfjax_demo.comparison.v1"
CUT_SHORT = ("stopped", "time_limit")
CACHE_WORDS = {CacheKind.NONE: "without cache", CacheKind.DYNAMIC: "+ growing cache", CacheKind.STATIC: "+ fixed cache"}
ENDINGS = {"eos": "its end-of-sequence token", "length": "its limit of new tokens"}
MAX_QUOTED_CHARS = 60


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The candidate measured against the baseline, over the steps that both have. Seconds are wall time.

    Attributes:
        schema: `COMPARISON_SCHEMA`.
        num_tokens: common length, in tokens and so in steps; all that follows is about these.
        tokens_identical: whether no token differs; the same as `first_difference is None`.
        first_difference: index of the first token that differs. Where one run ended of itself before the other, that is
            `num_tokens`; where it was cut short, None.
        cut_short: "baseline" or "candidate", the run that was stopped before it was as long as the other; else None.
        speedup_warm: seconds per decode step without tracing and compiling, baseline's over candidate's; above 1 the
            candidate is faster. None without a decode step or without a measurable time.
        speedup_with_compile: `baseline_s` over `candidate_s`; None without a measurable time.
        baseline_s: seconds of the steps, tracing and compiling included; loading the model left out.
        candidate_s: likewise.
        baseline_compile_s: of which tracing and compiling.
        candidate_compile_s: likewise.
        is_baseline_cold: whether it had to trace or compile anything.
        is_candidate_cold: likewise.
        break_even_step: index of the first step after which the candidate has taken no longer than the baseline in all,
            and that holds to the end; None where it does not come within these steps.
        expected_break_even_step: the same where it came; else where it would, if each went on at its median decode step
            (compiling counted where it recurs: not with a fixed cache). None where it never would, or none can tell.
        verdict: what came out, in sentences; of two tokens the baseline's is named first.
        caveats: what makes it a comparison of unlike things, in sentences.
    """

    schema: str = COMPARISON_SCHEMA
    num_tokens: int
    tokens_identical: bool
    first_difference: int | None
    cut_short: str | None
    speedup_warm: float | None
    speedup_with_compile: float | None
    baseline_s: float
    candidate_s: float
    baseline_compile_s: float
    candidate_compile_s: float
    is_baseline_cold: bool
    is_candidate_cold: bool
    break_even_step: int | None
    expected_break_even_step: int | None
    verdict: tuple[str, ...]
    caveats: tuple[str, ...]


def compare_runs(baseline: RunRecord, candidate: RunRecord) -> Comparison:
    """Measures the candidate against the baseline; pure, and safe for records from anyone."""
    num_steps = min(len(baseline.steps), len(candidate.steps), len(baseline.token_ids), len(candidate.token_ids))
    before, after = _step_times(baseline, num_steps), _step_times(candidate, num_steps)
    first_difference, cut_short = _compare_tokens(baseline, candidate)
    comparison = Comparison(
        num_tokens=min(len(baseline.token_ids), len(candidate.token_ids)),
        tokens_identical=first_difference is None,
        first_difference=first_difference,
        cut_short=cut_short,
        speedup_warm=_ratio(sum(before.warms[1:]), sum(after.warms[1:])),
        speedup_with_compile=_ratio(sum(before.walls), sum(after.walls)),
        baseline_s=sum(before.walls),
        candidate_s=sum(after.walls),
        baseline_compile_s=sum(before.compiles),
        candidate_compile_s=sum(after.compiles),
        is_baseline_cold=_is_cold(baseline, num_steps),
        is_candidate_cold=_is_cold(candidate, num_steps),
        break_even_step=break_even_step(before, after),
        expected_break_even_step=expected_break_even_step(before, after),
        verdict=(),
        caveats=(),
    )
    return replace(
        comparison,
        verdict=_verdict(comparison, baseline, candidate),
        caveats=_caveats(comparison, baseline, candidate),
    )


def _step_times(record: RunRecord, num_steps: int) -> StepTimes:
    return StepTimes.of(record.steps[:num_steps], keeps_shapes=record.request.cache_kind is CacheKind.STATIC)


def _is_cold(record: RunRecord, num_steps: int) -> bool:
    return any(step.num_traces or step.num_compiles for step in record.steps[:num_steps])


def _ratio(baseline_s: float, candidate_s: float) -> float | None:
    return baseline_s / candidate_s if baseline_s > 0 and candidate_s > 0 else None


def _compare_tokens(baseline: RunRecord, candidate: RunRecord) -> tuple[int | None, str | None]:
    """`first_difference` and `cut_short`."""
    shorter, longer = sorted((baseline, candidate), key=lambda record: len(record.token_ids))
    cut_short = None
    if len(shorter.token_ids) < len(longer.token_ids) and shorter.finish_reason in CUT_SHORT:
        cut_short = "baseline" if shorter is baseline else "candidate"
    for index, (token_id, other_id) in enumerate(zip(shorter.token_ids, longer.token_ids, strict=False)):
        if token_id != other_id:
            return index, cut_short
    is_same_length = len(shorter.token_ids) == len(longer.token_ids)
    return (None if is_same_length or cut_short else len(shorter.token_ids)), cut_short


def _verdict(comparison: Comparison, baseline: RunRecord, candidate: RunRecord) -> tuple[str, ...]:
    sentences = (
        _sentence_of_times(comparison, baseline.request, candidate.request),
        _sentence_of_break_even(comparison),
        _sentence_of_tokens(comparison, baseline, candidate),
    )
    return tuple(sentence for sentence in sentences if sentence)


def _sentence_of_times(comparison: Comparison, baseline: GenerationRequest, candidate: GenerationRequest) -> str | None:
    if comparison.speedup_with_compile is None:
        return None
    before, after = _setting(baseline), _setting(candidate)
    if before == after:
        before, after = f"{before} (baseline)", f"{after} (candidate)"
    compiled = {"it": comparison.candidate_compile_s, "the other's": comparison.baseline_compile_s}
    parts = ", ".join(f"{_time(seconds)} of {whose}" for whose, seconds in compiled.items() if seconds > 0)
    sentence = (
        f"{after} took {_time(comparison.candidate_s)} where {before} took {_time(comparison.baseline_s)}: "
        f"{_times_faster(comparison.speedup_with_compile)}, "
        + (f"compiling included ({parts})." if parts else "with nothing left to compile.")
    )
    if comparison.speedup_warm is not None:
        sentence += f" A decode step without compiling is {_times_faster(comparison.speedup_warm)}."
    return sentence


def _sentence_of_break_even(comparison: Comparison) -> str | None:
    if comparison.candidate_compile_s == 0:
        return None
    if comparison.break_even_step is not None:
        return f"It had paid for its compilation by step {comparison.break_even_step}."
    behind = "It had not paid for its compilation by the last step"
    if comparison.expected_break_even_step is not None:
        return f"{behind}; going on like this it would by step {comparison.expected_break_even_step}."
    return f"{behind}." if comparison.speedup_warm is None else f"{behind}, and going on like this never would."


def _sentence_of_tokens(comparison: Comparison, baseline: RunRecord, candidate: RunRecord) -> str:
    num_tokens, index = comparison.num_tokens, comparison.first_difference
    if num_tokens == 0:
        return "There are no tokens to compare."
    if index is None and comparison.cut_short is None:
        return f"The tokens are identical: all {num_tokens}."
    if index is None:
        return f"The tokens are identical as far as both go, {num_tokens}: the {comparison.cut_short} was stopped there."
    if index < num_tokens:
        return f"The tokens differ first at index {index}: {_tokens(baseline, candidate, index)}."
    shorter = min(baseline, candidate, key=lambda record: len(record.token_ids))
    return (
        f"The first {num_tokens} tokens are identical; then the {'baseline' if shorter is baseline else 'candidate'} came "
        f"to {ENDINGS.get(shorter.finish_reason, 'its end')} and the other went on."
    )


def _caveats(comparison: Comparison, baseline: RunRecord, candidate: RunRecord) -> tuple[str, ...]:
    before, after = baseline.request, candidate.request
    caveats = []
    if (before.prompt, before.chat) != (after.prompt, after.chat):
        caveats.append(f"The prompts differ: {len(baseline.prompt_ids)} tokens against {len(candidate.prompt_ids)}.")
    unlike = {
        "models": (_quote(baseline.model.source), _quote(candidate.model.source)),
        "sampling settings": (_sampling(before), _sampling(after)),
        "dtypes": (before.dtype, after.dtype),
        "devices": (_devices(baseline.environment), _devices(candidate.environment)),
        "versions": _changed_versions(baseline.environment, candidate.environment),
    }
    caveats += [
        f"The {name} differ: {first} against {second}." for name, (first, second) in unlike.items() if first != second
    ]
    if comparison.first_difference is not None and before.dtype == after.dtype != "float32":
        caveats.append(f"{before.dtype} rounds differently in each mode, which alone can change tokens. Use float32.")
    num_before, num_after = len(baseline.steps), len(candidate.steps)
    if num_before != num_after:
        caveats.append(f"The runs have {num_before} and {num_after} steps: the first {min(num_before, num_after)} count.")
    if comparison.is_baseline_cold != comparison.is_candidate_cold:
        cold, warm = ("baseline", "candidate") if comparison.is_baseline_cold else ("candidate", "baseline")
        caveats.append(f"Cold against warm: the {cold} had to compile, the {warm} found all it needs compiled already.")
    return tuple(caveats)


def _setting(request: GenerationRequest) -> str:
    return f"{request.mode} {CACHE_WORDS[request.cache_kind]}"


def _sampling(request: GenerationRequest) -> str:
    """Only what has an effect: a greedy run draws nothing."""
    if request.temperature == 0:
        return "greedy"
    return f"temperature {request.temperature:g}, top-k {request.top_k}, top-p {request.top_p:g}, seed {request.seed}"


def _devices(environment: EnvironmentFacts) -> str:
    """The part of the machine that decides times."""
    return f"{environment.mesh.size} x {_quote(environment.device_kind)} with {environment.num_cores} cores"


def _changed_versions(baseline: EnvironmentFacts, candidate: EnvironmentFacts) -> tuple[str, str]:
    """The versions that are not the same on both sides, as one text a side."""
    before, after = baseline.versions, candidate.versions
    changed = [name for name in sorted(before.keys() | after.keys()) if before.get(name) != after.get(name)]
    first, second = (", ".join(f"{name} {side.get(name, 'none')}" for name in changed) for side in (before, after))
    return first, second


def _tokens(baseline: RunRecord, candidate: RunRecord, index: int) -> str:
    """The two tokens at `index`: by their texts where these tell them apart, else by their ids."""
    # A step's text may be empty, or its neighbour's, while a character's bytes are incomplete.
    first, second = (record.steps[index].text if index < len(record.steps) else "" for record in (baseline, candidate))
    if first and second and _quote(first) != _quote(second):
        return f"{_quote(first)} against {_quote(second)}"
    return f"token {baseline.token_ids[index]} against token {candidate.token_ids[index]}"


def _quote(text: str) -> str:
    """In quotes on one line, shortened, without lone surrogates: a record may come from anyone."""
    shown = text[:MAX_QUOTED_CHARS].encode("utf-8", "replace").decode()
    return json.dumps(shown, ensure_ascii=False)


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"


def _times_faster(ratio: float) -> str:
    if 0.95 < ratio < 1.05:
        return "about as fast"
    times, word = (ratio, "faster") if ratio > 1 else (1 / ratio, "slower")
    return f"{times:.1f} times {word}" if times < 10 else f"{times:.0f} times {word}"
