"""The fold from events to what the panel draws: real runs of a small model, hand-written events where words count."""

import json
from dataclasses import replace
from itertools import pairwise

import pytest

from hfjax_demo.events import (
    CompiledProgram,
    CompilingEvent,
    FailedEvent,
    FinishedEvent,
    LayerState,
    LoadingEvent,
    QueuedEvent,
    StartedEvent,
    StepEvent,
)
from hfjax_demo.requests import CacheKind, GenerationRequest
from hfjax_demo.ui.run_view import MAX_BARS, MAX_COMPILED_ROWS, RunView, compiled_rows, iteration_line
from hfjax_demo.ui.words import plural
from tests.architectures import prompt_of

pytestmark = pytest.mark.xdist_group("engine")

TOKENS = 4
STEP = StepEvent(
    index=0,
    phase="decode",
    token_id=7,
    text=" é",
    input_shape=(1, 1),
    output_shape=(1, 1),
    position=14,
    seen_len=14,
    filled_len=15,
    duration_s=0.5,
    trace_s=0.0,
    compile_s=0.0,
    num_traces=0,
    num_compiles=0,
    compiled=(),
    kv=(LayerState(0, "full_attention", (1, 2, 15, 16), (1, 2, 15, 16), 15, 15, 3840),),
)


def request(model="m", **fields):
    return GenerationRequest(
        **({"prompt": prompt_of(10), "model": model, "max_new_tokens": TOKENS, "ignore_eos": True} | fields)
    )


def run(engine, model, **fields):
    """A real run's events and its view."""
    asked = request(model, **fields)
    view = RunView(asked)
    events = list(engine.submit(asked, allow_local=True))
    for event in events:
        view.apply(event)
    return events, view


def numbers(view):
    return {number["label"]: number["value"] for number in view.state()["numbers"]}


@pytest.mark.parametrize(
    ("event", "phase", "status"),
    [
        (QueuedEvent(0), "waiting", "waiting: this run is next"),
        (QueuedEvent(1), "waiting", "waiting: 1 run before this one"),
        (QueuedEvent(3), "waiting", "waiting: 3 runs before this one"),
        (LoadingEvent("reading weights", 0.4, 1.0), "loading", "loading m: reading weights 40%"),
        (LoadingEvent("downloading", None, 1.0), "loading", "loading m: downloading"),
        (CompilingEvent("tracing", "prefill", "first use"), "compiling", "tracing prefill"),
        (CompilingEvent("compiling", "decode_step", "first use"), "compiling", "compiling decode_step"),
        (FailedEvent("CapacityError", "Too long.", "prompt"), "failed", "this run failed"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_event_says_what_is_happening_now(event, phase, status):
    view = RunView(request())
    view.apply(event)
    state = view.state()
    assert (state["phase"], state["status"]) == (phase, status)
    assert state["has_clock"] == (phase != "failed")


def test_the_bar_follows_loading_and_the_reason_of_a_compilation_is_shown_beside_it():
    view = RunView(request())
    view.apply(LoadingEvent("reading weights", 0.4, 1.0))
    assert view.state()["fraction"] == 0.4
    view.apply(CompilingEvent("compiling", "prefill", "the prompt grew"))
    assert (view.state()["fraction"], view.state()["detail"]) == (None, "the prompt grew")


def test_a_failed_run_is_over_and_shows_its_message_as_it_is():
    view = RunView(request())
    view.apply(FailedEvent("ModelLoadError", "<b>broken</b> ${x}"))
    assert view.is_over
    assert view.record is None
    assert view.state()["error"] == "<b>broken</b> ${x}"


@pytest.mark.parametrize(("mode", "cache"), [("jit", "static"), ("eager", "dynamic"), ("eager", "none")])
def test_a_live_run_ends_as_its_replay(engine, tiny_llama, mode, cache):
    events, view = run(engine, tiny_llama, mode=mode, cache=cache)
    assert isinstance(events[-1], FinishedEvent)
    assert view.is_over
    assert RunView.of_record(events[-1].record).state() == view.state()
    assert RunView.of_record(events[-1].record, "recorded").state() == view.state() | {"note": "recorded"}


def test_the_text_is_the_steps_texts_joined_at_every_step(engine, tiny_llama):
    events, _ = run(engine, tiny_llama)
    view, texts = RunView(request(tiny_llama)), []
    for event in events:
        view.apply(event)
        if isinstance(event, StepEvent):
            texts.append(event.text)
            assert view.state()["text"] == "".join(texts)
    assert view.state()["text"] == events[-1].record.text
    assert view.state()["prompt"] == events[-1].record.request.prompt


def test_a_state_is_json_and_keeps_its_parts_while_the_view_goes_on(engine, tiny_llama):
    events, _ = run(engine, tiny_llama)
    view = RunView(request(tiny_llama))
    states = []
    for event in events:
        view.apply(event)
        states.append((view.state(), json.dumps(view.state())))
    assert all(json.dumps(state) == text for state, text in states)


def test_a_warm_run_says_that_nothing_was_compiled(engine, tiny_llama):
    run(engine, tiny_llama)
    _, view = run(engine, tiny_llama)
    assert "warm: compiled nothing" in view.state()["status"]
    assert numbers(view)["compilations"] == "0"
    assert numbers(view)["compile"] == "0 s"
    assert view.state()["compiled"] == []


def test_a_cold_eager_run_names_its_operators(engine, tiny_llama):
    """Another prompt length gives every step new shapes, whatever ran before."""
    events, view = run(engine, tiny_llama, prompt=prompt_of(41), mode="eager", cache="dynamic", max_new_tokens=3)
    num_compiles = sum(step.num_compiles for step in events[-1].record.steps)
    assert num_compiles > 0
    assert f"compiled {num_compiles:,} operators in " in view.state()["status"]
    assert numbers(view)["compilations"] == f"{num_compiles:,}"
    assert sum(int(row["count"]) for row in view.state()["compiled"]) == num_compiles


def test_numbers_before_the_first_token_are_dashes_and_all_there_at_the_end(engine, tiny_llama):
    assert set(numbers(RunView(request())).values()) == {"–"}
    _, view = run(engine, tiny_llama)
    assert "–" not in numbers(view).values()
    assert list(numbers(view)) == ["first token", "prefill", "compile", "decode", "tokens/s", "compilations", "peak memory"]


def test_the_fixed_cache_shows_its_shape_its_bytes_and_what_is_filled(engine, tiny_llama):
    events, view = run(engine, tiny_llama)
    record = events[-1].record
    kv = view.state()["kv"]
    capacity = record.steps[-1].kv[0].capacity
    assert kv["shape"] == f"2 layers × 2 × (1, 2, {capacity}, 16)"
    assert kv["bytes"] == f"{2 * 2 * 2 * capacity * 16 * 4 / 1e6:.2f} MB"
    assert (kv["kind"], kv["num_layers"], kv["columns"], kv["capacity"]) == ("static", 2, capacity, capacity)
    assert (kv["prompt_len"], kv["filled_len"]) == (len(record.prompt_ids), len(record.prompt_ids) + TOKENS - 1)


def test_the_growing_cache_shows_the_shape_of_its_last_step(engine, tiny_llama):
    events, view = run(engine, tiny_llama, mode="eager", cache="dynamic")
    prompt_len = len(events[-1].record.prompt_ids)
    kv = view.state()["kv"]
    assert kv["shape"] == f"2 layers × 2 × (1, 2, {prompt_len + TOKENS - 1}, 16)"
    assert kv["capacity"] is None
    assert kv["filled_len"] == prompt_len + TOKENS - 1
    assert kv["columns"] >= kv["filled_len"]


def test_without_a_cache_there_is_no_shape_and_the_sequence_grows(engine, tiny_llama):
    events, view = run(engine, tiny_llama, mode="eager", cache="none")
    read_len = len(events[-1].record.prompt_ids) + TOKENS - 1
    kv = view.state()["kv"]
    assert (kv["kind"], kv["shape"], kv["filled_len"]) == ("none", "", 0)
    assert kv["iteration"] == f"iter 3: (1, {read_len}) → (1, {read_len + 1})"


def test_layers_of_several_kinds_and_shapes_are_told_apart():
    layers = (
        LayerState(0, "full_attention", (1, 2, 8, 16), (1, 2, 8, 16), 8, 8, 2048),
        LayerState(1, "sliding_attention", (1, 2, 8, 16), (1, 2, 8, 32), 8, 8, 3072),
        LayerState(2, "shared", (), (), 0, 0, 0),
    )
    view = RunView(request(mode="eager"))
    view.apply(replace(STEP, kv=layers))
    kv = view.state()["kv"]
    assert kv["num_layers"] == 3
    assert kv["layer_kinds"] == ["full_attention", "sliding_attention", "shared"]
    assert kv["shape"] == "2 layers × 2 × (1, 2, 8, 16) …"
    assert kv["layer_shape"] == "K (1, 2, 8, 16), V (1, 2, 8, 16)"


def test_a_stopped_run_says_so_and_keeps_what_it_has(engine, tiny_llama):
    asked = request(tiny_llama, max_new_tokens=240)
    view, stream = RunView(asked), engine.submit(asked, allow_local=True)
    for event in stream:
        view.apply(event)
        if isinstance(event, StepEvent):
            stream.close()
    state = view.state()
    num_tokens = len(view.record.token_ids)
    assert 1 <= num_tokens < 240
    assert state["status"].startswith(f"done: {plural(num_tokens, 'token')}, stopped · ")
    assert state["text"] == view.record.text
    assert len(state["steps"]["shown"]) == num_tokens
    assert RunView.of_record(view.record).state() == state


@pytest.mark.parametrize(
    ("reason", "words"), [("eos", "the model ended the text"), ("length", "all tokens"), ("time_limit", "the time limit")]
)
def test_how_a_run_ended_is_said_in_words(engine, tiny_llama, reason, words):
    record = run(engine, tiny_llama)[1].record
    status = RunView.of_record(replace(record, finish_reason=reason)).state()["status"]
    assert status.startswith("done: 4 tokens, ")
    assert words in status


def test_decoding_shows_how_far_and_how_fast():
    view = RunView(request(mode="eager"))
    view.apply(replace(STEP, phase="prefill"))
    assert view.state()["status"].startswith("decoding 1/4 · first token · ")
    view.apply(replace(STEP, index=1, duration_s=0.3, trace_s=0.03, compile_s=0.02))
    assert view.state()["status"].startswith("decoding 2/4 · 4.0 tokens/s · ")
    assert view.state()["fraction"] == pytest.approx(2 / 4)


def test_what_a_step_compiled_is_told_apart_from_what_an_earlier_one_did():
    view = RunView(request())
    view.apply(replace(STEP, phase="prefill", num_compiles=2, trace_s=0.1, compile_s=0.2))
    assert view.state()["status"].endswith("compiled 2 programs in 300 ms, 2 of them in the last step")
    view.apply(replace(STEP, index=1))
    assert view.state()["status"].endswith("compiled 2 programs in 300 ms, then 0")


def changes(part, step_s, num_steps=100):
    """How often a part of the state changes over steps that come `step_s` apart."""
    now = [0.0]
    view = RunView(request(max_new_tokens=1000, mode="eager"), clock=lambda: now[0])
    seen = []
    for index in range(num_steps):
        now[0] += step_s
        view.apply(replace(STEP, index=index, filled_len=index + 1))
        seen.append(json.dumps(view.state()[part]))
    return sum(before != after for before, after in pairwise(seen)) + 1


@pytest.mark.parametrize(("part", "most_per_s"), [("kv", 10), ("numbers", 10), ("steps", 2)])
def test_pictures_change_no_more_often_than_an_eye_needs(part, most_per_s):
    seconds = 100 * 0.01
    assert 0.5 * most_per_s * seconds <= changes(part, step_s=0.01) <= most_per_s * seconds + 1


@pytest.mark.parametrize("part", ["kv", "steps"])
def test_slow_steps_are_all_shown_at_once(part):
    assert changes(part, step_s=1.0) == 100


def test_text_and_status_change_at_every_token():
    assert changes("text", step_s=0.001) == 100
    assert changes("status", step_s=0.001) == 100


def test_the_last_state_is_complete_whatever_the_clock_says(engine, tiny_llama):
    events, _ = run(engine, tiny_llama)
    view = RunView(request(tiny_llama), clock=lambda: 0.0)
    for event in events:
        view.apply(event)
    assert view.state() == RunView.of_record(events[-1].record).state()
    assert len(view.state()["steps"]["shown"]) == TOKENS


def test_step_bars_are_milliseconds_in_all_tracing_compiling():
    view = RunView(request())
    view.apply(replace(STEP, duration_s=0.5, trace_s=0.12345678, compile_s=0.25))
    assert view.state()["steps"] == {"first": 0, "shown": [[500.0, 123.5, 250.0]]}


def test_iteration_lines_have_the_articles_form():
    step = replace(STEP, index=7, seen_len=14, filled_len=15)
    assert iteration_line(step, CacheKind.DYNAMIC) == "iter 7: (1, 1), kvcache(14) → (1, 1), kvcache(15)"
    assert iteration_line(step, CacheKind.STATIC) == "iter 7: (1, 1), kvcache(14) → (1, 1), kvcache(15)"
    longer = replace(STEP, index=7, input_shape=(1, 14), output_shape=(1, 15))
    assert iteration_line(longer, CacheKind.NONE) == "iter 7: (1, 14) → (1, 15)"


def test_one_operator_compiled_at_many_steps_is_one_row_that_names_them():
    steps = [
        replace(STEP, index=2, compiled=(CompiledProgram("dot", 2, 0.25, 0.25), CompiledProgram("add", 1, 0.0, 0.125))),
        replace(STEP, index=3),
        replace(STEP, index=5, compiled=(CompiledProgram("dot", 1, 0.0, 0.5), CompiledProgram("dot", 1, 0.0, 4.0, "grew"))),
    ]
    first_use = "first use of this operator at these shapes"
    assert compiled_rows(steps) == [
        {"steps": "5", "name": "dot", "count": "1", "seconds": "4 s", "reason": "grew"},
        {"steps": "2 to 5", "name": "dot", "count": "3", "seconds": "1 s", "reason": first_use},
        {"steps": "2", "name": "add", "count": "1", "seconds": "125 ms", "reason": first_use},
    ]


def test_what_is_beyond_the_longest_rows_is_counted_in_one():
    programs = tuple(CompiledProgram(f"op{number}", 1, 0.0, 1.0 + number) for number in range(MAX_COMPILED_ROWS + 3))
    rows = compiled_rows([replace(STEP, compiled=programs)])
    assert [row["name"] for row in rows[:2]] == [f"op{MAX_COMPILED_ROWS + 2}", f"op{MAX_COMPILED_ROWS + 1}"]
    assert (rows[-1]["name"], rows[-1]["count"], rows[-1]["seconds"]) == ("3 more", "3", "6 s")
    assert len(rows) == MAX_COMPILED_ROWS + 1


def test_the_text_from_the_first_difference_on_is_apart(engine, tiny_llama):
    record = run(engine, tiny_llama)[1].record
    view = RunView.of_record(record)
    view.mark_difference(2)
    state = view.state()
    assert state["text"] == "".join(step.text for step in record.steps[:2])
    assert state["text"] + state["different_text"] == record.text
    assert state["different_text"]


def test_started_says_how_long_the_prompt_is_and_where_it_runs(engine, tiny_llama):
    started = next(event for event in run(engine, tiny_llama)[0] if isinstance(event, StartedEvent))
    view = RunView(request())
    view.apply(started)
    assert view.state()["status"] == f"reading the prompt: {len(started.prompt_ids)} tokens on {started.environment.backend}"
    assert view.state()["kv"]["num_layers"] == 2


def test_a_long_run_shows_its_last_bars_and_says_which_steps_they_are():
    view = RunView(request(max_new_tokens=1000), clock=lambda: 0.0)
    for index in range(MAX_BARS + 40):
        view._refreshed_at["detail"] = float("-inf")
        view.apply(replace(STEP, index=index, duration_s=index / 1000))
    assert view.state()["steps"]["first"] == 40
    assert [bar[0] for bar in view.state()["steps"]["shown"]] == [float(index) for index in range(40, MAX_BARS + 40)]
