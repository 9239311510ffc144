"""Two hand-written runs compared: every number here is computed by hand.

Seconds are sums of powers of two, so that they are exact in floating point.
"""

import json
from dataclasses import replace

import pytest

from hfjax_demo.comparison import COMPARISON_SCHEMA, Comparison, compare_runs
from hfjax_demo.events import EnvironmentFacts, Mesh, ModelFacts, RunRecord, RunSummary, StepEvent
from hfjax_demo.plain_json import from_dict, to_dict
from hfjax_demo.requests import GenerationRequest

MODEL = ModelFacts("M", "someone/M", "LlamaForCausalLM", "float32", 100, 400, 2, 4, 2, 8, 50, 128, (2,))
ENVIRONMENT = EnvironmentFacts({"jax": "0.10.2"}, "cpu", "cpu", 1, 2, Mesh("model", 1, ("cpu:0",)))
SUMMARY = RunSummary(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, {}, 0, 0, 0)
COLD_EAGER = [(2, 1), (1, 0.5), (1, 0.5), (1, 0.5), (1, 0.5), (1, 0.5), (1, 0.5), (1, 0.5)]
"""Seconds of each step, and of which compiling: eager over a growing cache compiles at every step."""
COLD_JIT = [(3, 2), (2.5, 2.25), (0.25, 0), (0.25, 0), (0.25, 0), (0.25, 0), (0.25, 0), (0.25, 0)]
"""Compiles the prefill and the decode step, then nothing."""


def step(index, duration_s, compile_s, text):
    return StepEvent(
        index=index,
        phase="decode" if index else "prefill",
        token_id=0,
        text=text,
        input_shape=(1, 1),
        output_shape=(1, 1),
        position=index,
        seen_len=index,
        filled_len=index + 1,
        duration_s=duration_s,
        trace_s=compile_s / 2,
        compile_s=compile_s / 2,
        num_traces=0,
        num_compiles=1 if compile_s else 0,
        compiled=(),
        kv=(),
    )


def run(times, mode="jit", token_ids=None, texts=None, finish_reason="length", **fields):
    """A record with a step for each (seconds, of which compiling); tokens 0, 1, 2 ... where none are named."""
    texts = texts or [f" w{index}" for index in range(len(times))]
    return RunRecord(
        request=GenerationRequest(**{"prompt": "hi", "mode": mode} | fields),
        model=MODEL,
        environment=ENVIRONMENT,
        prompt_ids=(1, 2, 3),
        token_ids=tuple(range(len(times)) if token_ids is None else token_ids),
        text="".join(texts),
        finish_reason=finish_reason,
        steps=tuple(step(index, *seconds, text) for index, (seconds, text) in enumerate(zip(times, texts, strict=True))),
        summary=SUMMARY,
    )


def test_cold_eager_against_cold_jit():
    """Baseline 2 + 7 x 1 = 9 s; candidate 3 + 2.5 + 6 x 0.25 = 7 s. Totals: 2 3 4 5 6 7 8 9 and 3 5.5 5.75 6 6.25 6.5 ..."""
    assert compare_runs(run(COLD_EAGER, "eager"), run(COLD_JIT)) == Comparison(
        schema="hfjax_demo.comparison.v1",
        num_tokens=8,
        tokens_identical=True,
        first_difference=None,
        cut_short=None,
        speedup_warm=7 * 0.5 / (7 * 0.25),
        speedup_with_compile=9 / 7,
        baseline_s=9,
        candidate_s=7,
        baseline_compile_s=1 + 7 * 0.5,
        candidate_compile_s=4.25,
        is_baseline_cold=True,
        is_candidate_cold=True,
        break_even_step=5,
        expected_break_even_step=5,
        verdict=(
            (
                "jit + fixed cache took 7.0 s where eager + growing cache took 9.0 s: 1.3 times faster, compiling included "
                "(4.2 s of it, 4.5 s of the other's). A decode step without compiling is 2.0 times faster."
            ),
            "It had paid for its compilation by step 5.",
            "The tokens are identical: all 8.",
        ),
        caveats=(),
    )


def test_the_other_way_round_the_candidate_falls_behind_and_never_recovers():
    """Eager is ahead until step 4 (6 s against 6.25 s), then behind, and a step of it takes 1 s against 0.25 s."""
    comparison = compare_runs(run(COLD_JIT), run(COLD_EAGER, "eager"))
    assert comparison.speedup_warm == 0.5
    assert comparison.speedup_with_compile == 7 / 9
    assert (comparison.break_even_step, comparison.expected_break_even_step) == (None, None)
    assert comparison.verdict[:2] == (
        (
            "eager + growing cache took 9.0 s where jit + fixed cache took 7.0 s: 1.3 times slower, compiling included "
            "(4.5 s of it, 4.2 s of the other's). A decode step without compiling is 2.0 times slower."
        ),
        "It had not paid for its compilation by the last step, and going on like this never would.",
    )


def test_a_run_too_short_to_pay_tells_when_it_would():
    """After 3 steps 4 s against 5.75 s: 1.75 s behind, 0.75 s gained a step, so 3 more steps: 2 + 3."""
    comparison = compare_runs(run(COLD_EAGER[:3], "eager"), run(COLD_JIT[:3]))
    assert (comparison.break_even_step, comparison.expected_break_even_step) == (None, 5)
    assert (
        "It had not paid for its compilation by the last step; going on like this it would by step 5." in comparison.verdict
    )


def test_a_foretold_step_is_where_a_longer_run_breaks_even():
    longer = compare_runs(run(COLD_EAGER, "eager"), run(COLD_JIT))
    for num_steps in range(2, 6):
        shorter = compare_runs(run(COLD_EAGER[:num_steps], "eager"), run(COLD_JIT[:num_steps]))
        assert shorter.break_even_step is None
        assert shorter.expected_break_even_step == longer.break_even_step


def test_one_decode_step_of_a_fixed_cache_foretells_without_its_compilation():
    """4.75 s behind 3 s; the second program's 2.25 s are not paid again, so a step gains 1 - 0.25 s: 2.5 / 0.75 -> 4."""
    comparison = compare_runs(run([(2, 1), (1, 0.5)], "eager"), run([(3, 2), (2.5, 2.25)]))
    assert comparison.expected_break_even_step == 1 + 4


def test_jit_over_a_growing_cache_compiles_each_time_and_never_pays():
    """Each step takes 2 s, 1.75 s of it compiling, where eager takes 1 s; warm it would be twice as fast."""
    candidate = run([(2, 1.75)] * 8, cache="dynamic")
    comparison = compare_runs(run(COLD_EAGER, "eager"), candidate)
    assert comparison.speedup_warm == 2
    assert comparison.expected_break_even_step is None
    assert "took 16.0 s where eager + growing cache took 9.0 s: 1.8 times slower" in comparison.verdict[0]


def test_a_candidate_that_is_passed_again_breaks_even_only_for_good():
    """Totals 1 2 3 4 and 0.5 3 3 3.5: ahead at step 0, behind at step 1, level from step 2 on."""
    comparison = compare_runs(run([(1, 0)] * 4, "eager"), run([(0.5, 0), (2.5, 2), (0, 0), (0.5, 0)]))
    assert comparison.break_even_step == 2


def test_two_warm_runs_have_nothing_to_pay_for():
    comparison = compare_runs(run([(1, 0), (0.5, 0)], "eager"), run([(0.25, 0), (0.03125, 0)]))
    assert comparison.verdict == (
        (
            "jit + fixed cache took 281 ms where eager + growing cache took 1.5 s: 5.3 times faster, with nothing left to "
            "compile. A decode step without compiling is 16 times faster."
        ),
        "The tokens are identical: all 2.",
    )
    assert (comparison.is_baseline_cold, comparison.is_candidate_cold) == (False, False)
    assert comparison.break_even_step == 0


def test_runs_of_the_same_setting_are_told_apart_by_their_part():
    comparison = compare_runs(run([(1, 0), (1, 0)]), run([(1, 0), (1, 0)]))
    assert comparison.verdict[0] == (
        "jit + fixed cache (candidate) took 2.0 s where jit + fixed cache (baseline) took 2.0 s: about as fast, with "
        "nothing left to compile. A decode step without compiling is about as fast."
    )


def test_a_single_step_has_no_decode_step_to_foretell_from():
    comparison = compare_runs(run([(1, 0)], "eager"), run([(3, 2)]))
    assert comparison.speedup_warm is None
    assert (comparison.break_even_step, comparison.expected_break_even_step) == (None, None)
    assert comparison.verdict == (
        (
            "jit + fixed cache took 3.0 s where eager + growing cache took 1.0 s: 3.0 times slower, compiling included "
            "(2.0 s of it)."
        ),
        "It had not paid for its compilation by the last step.",
        "The tokens are identical: all 1.",
    )


def test_runs_without_steps_compare_as_nothing():
    comparison = compare_runs(run([], finish_reason="stopped"), run(COLD_JIT))
    assert (comparison.num_tokens, comparison.baseline_s, comparison.candidate_s) == (0, 0, 0)
    assert (comparison.speedup_warm, comparison.speedup_with_compile) == (None, None)
    assert (comparison.break_even_step, comparison.expected_break_even_step) == (None, None)
    assert comparison.verdict == ("There are no tokens to compare.",)


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf"), 1e300, 5e-324])
def test_durations_that_no_clock_gives_count_as_none(seconds):
    for other in (run([(seconds, 0)] * 4), run([(1, seconds)] * 4), run([(1, 0)] * 4)):
        odd = run([(seconds, seconds)] * 4)
        for comparison in (compare_runs(odd, other), compare_runs(other, odd)):
            json.dumps(to_dict(comparison), allow_nan=False)
            assert comparison.speedup_with_compile is None


def test_tokens_that_differ_are_shown_with_their_texts():
    baseline = run(COLD_EAGER, "eager", token_ids=[5, 6, 7, 8, 9, 9, 9, 9], texts=["a", "b", " cake", *"defgh"])
    candidate = run(COLD_JIT, token_ids=[5, 6, 1, 8, 9, 9, 9, 9], texts=["a", "b", ' "pie\n', *"defgh"])
    comparison = compare_runs(baseline, candidate)
    assert (comparison.tokens_identical, comparison.first_difference) == (False, 2)
    assert comparison.verdict[-1] == r'The tokens differ first at index 2: " cake" against " \"pie\n".'


@pytest.mark.parametrize("texts", [("", " pie"), ("same", "same"), ("x" * 100 + "1", "x" * 100 + "2")])
def test_tokens_whose_texts_do_not_tell_them_apart_are_shown_by_id(texts):
    first, second = (run([(1, 0)], token_ids=[token_id], texts=[text]) for token_id, text in zip((7, 8), texts, strict=True))
    assert compare_runs(first, second).verdict[-1] == "The tokens differ first at index 0: token 7 against token 8."


@pytest.mark.parametrize("reason", ["stopped", "time_limit"])
def test_a_run_that_was_stopped_does_not_differ_in_what_it_lacks(reason):
    comparison = compare_runs(run(COLD_EAGER[:3], "eager", finish_reason=reason), run(COLD_JIT))
    assert (comparison.tokens_identical, comparison.first_difference, comparison.cut_short) == (True, None, "baseline")
    assert (comparison.num_tokens, comparison.baseline_s, comparison.candidate_s) == (3, 4, 5.75)
    assert comparison.verdict[-1] == "The tokens are identical as far as both go, 3: the baseline was stopped there."
    assert comparison.caveats == ("The runs have 3 and 8 steps: the first 3 count.",)


def test_a_stopped_run_that_went_further_than_a_finished_one_differs():
    comparison = compare_runs(run(COLD_EAGER, "eager", finish_reason="stopped"), run(COLD_JIT[:3], finish_reason="eos"))
    assert (comparison.tokens_identical, comparison.first_difference, comparison.cut_short) == (False, 3, None)
    assert comparison.verdict[-1] == (
        "The first 3 tokens are identical; then the candidate came to its end-of-sequence token and the other went on."
    )


def test_a_difference_before_the_stop_is_one():
    comparison = compare_runs(run(COLD_EAGER, "eager"), run(COLD_JIT[:3], token_ids=[0, 9, 2], finish_reason="stopped"))
    assert (comparison.first_difference, comparison.cut_short) == (1, "candidate")


def test_each_unlike_thing_is_a_caveat():
    baseline = run([(1, 0)], temperature=0.5, top_k=40, seed=3)
    environment = replace(ENVIRONMENT, device_kind="TPU v5", versions={"jax": "0.9", "torch": "2"}, num_cores=8)
    candidate = run([(1, 0.5)], prompt="other", dtype="bfloat16")
    candidate = replace(candidate, model=replace(MODEL, source="someone/N"), environment=environment, prompt_ids=(1,))
    assert compare_runs(baseline, candidate).caveats == (
        "The prompts differ: 3 tokens against 1.",
        'The models differ: "someone/M" against "someone/N".',
        "The sampling settings differ: temperature 0.5, top-k 40, top-p 1, seed 3 against greedy.",
        "The dtypes differ: float32 against bfloat16.",
        'The devices differ: 1 x "cpu" with 2 cores against 1 x "TPU v5" with 8 cores.',
        "The versions differ: jax 0.10.2, torch none against jax 0.9, torch 2.",
        "Cold against warm: the candidate had to compile, the baseline found all it needs compiled already.",
    )


def test_what_has_no_effect_is_no_caveat():
    baseline = run([(1, 0)], model="SmolLM2", top_k=40, seed=3, max_new_tokens=8)
    assert compare_runs(baseline, run([(1, 0)], "eager", model="SmolLM2-135M")).caveats == ()


def test_the_chat_template_makes_another_prompt():
    assert compare_runs(run([(1, 0)], chat=True), run([(1, 0)])).caveats == ("The prompts differ: 3 tokens against 3.",)


def test_tokens_that_differ_in_a_short_dtype_come_with_their_reason():
    def caveats(dtype):
        return compare_runs(*(run([(1, 0)], token_ids=[token_id], dtype=dtype) for token_id in (1, 2))).caveats

    assert caveats("float32") == ()
    assert caveats("bfloat16") == ("bfloat16 rounds differently in each mode, which alone can change tokens. Use float32.",)


def test_texts_from_an_imported_record_can_always_be_sent():
    first, second = (run([(1, 0)], token_ids=[token_id], texts=[f"\ud800{token_id}"]) for token_id in (1, 2))
    assert compare_runs(first, second).verdict[-1].encode().endswith(b'"?1" against "?2".')


def test_a_comparison_survives_json():
    comparison = compare_runs(run(COLD_EAGER, "eager"), run(COLD_JIT))
    assert from_dict(Comparison, json.loads(json.dumps(to_dict(comparison)))) == comparison
    assert comparison.schema == COMPARISON_SCHEMA
