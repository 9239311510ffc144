"""What the KV-cache replay shows of a run: the two recorded runs, small real ones, hand-written layers where kinds count."""

import json
from dataclasses import replace

import pytest

from hfjax_demo.events import LayerState
from hfjax_demo.requests import GenerationRequest
from hfjax_demo.ui import kv_replay_view
from hfjax_demo.ui.components import csv_link, panel_value
from hfjax_demo.ui.kv_cache_tab import load_recorded_runs, pick_two
from hfjax_demo.ui.kv_replay_view import heads_words, layer_groups, replay_view, steps_table, why_words
from hfjax_demo.ui.run_history import RunHistory
from tests.architectures import prompt_of, write_architecture

FIXED, GROWING = load_recorded_runs().values()
FULL = LayerState(0, "full_attention", (1, 2, 8, 16), (1, 2, 8, 16), 5, 8, 2048)


def run(engine, model, **fields):
    asked = {"prompt": prompt_of(6), "model": str(model), "max_new_tokens": 4, "ignore_eos": True} | fields
    *_, finished = engine.submit(GenerationRequest(**asked), allow_local=True)
    return finished.record


def views(*records):
    return replay_view(list(records), [""] * len(records))


def test_the_recorded_runs_are_of_one_prompt_and_gave_the_same_tokens():
    assert (FIXED.request.prompt, FIXED.request.model) == (GROWING.request.prompt, GROWING.request.model)
    assert FIXED.token_ids == GROWING.token_ids


def test_a_step_shows_what_went_in_what_came_out_and_how_the_cache_changed():
    (view,) = views(GROWING)["runs"]
    step = view["steps"][3]
    event = GROWING.steps[3]
    assert (step["input"], step["output"]) == ("(1, 1)", "(1, 1)")
    assert f"kvcache({event.seen_len}) → (1, 1), kvcache({event.filled_len})" in step["iteration"]
    ((first, last, kind, key, value, filled, capacity, num_bytes),) = step["layers"]
    assert (first, last, kind) == (0, 29, "full attention")
    assert key == value == str(event.kv[0].key_shape)
    assert (filled, capacity, num_bytes) == (event.filled_len, event.filled_len, event.kv[0].bytes)
    assert step["num_compiles"] == event.num_compiles


def test_side_by_side_says_why_one_compiled_at_every_step_and_the_other_did_not():
    num = len(GROWING.steps) - 1
    assert why_words([GROWING, FIXED]).startswith(f"eager, growing cache: the cache had {num} shapes in {num} steps; ")
    compiling, num = sum(bool(step.num_compiles) for step in FIXED.steps[1:]), len(FIXED.steps) - 1
    assert f"jit, fixed cache: the cache kept one shape; {compiling} of {num} decode steps compiled" in why_words(
        [GROWING, FIXED]
    )
    assert why_words([GROWING]) == ""


def test_two_runs_share_one_scale_of_positions_and_steps():
    both = views(GROWING, FIXED)
    assert both["columns"] == max(FIXED.steps[-1].kv[0].capacity, GROWING.steps[-1].filled_len)
    assert both["num_steps"] == len(FIXED.steps)


def test_equal_layers_are_told_once_and_kinds_are_told_apart():
    window = replace(FULL, kind="sliding_attention", filled_len=4, capacity=4, key_shape=(1, 2, 4, 16))
    shared = LayerState(0, "shared", (), (), 0, 0, 0)
    layers = [FULL, FULL, window, FULL, shared]
    groups = layer_groups(tuple(replace(layer, layer=index) for index, layer in enumerate(layers)))
    assert [group[:3] for group in groups] == [
        [0, 1, "full attention"],
        [2, 2, "sliding window"],
        [3, 3, "full attention"],
        [4, 4, "no keys and values of its own: it reads another layer's"],
    ]
    assert groups[3][3:5] == ["", ""]


@pytest.mark.parametrize(
    ("queries", "keys", "said"),
    [
        (32, 8, "32 query heads share 8 KV heads (grouped-query attention): 4 to one"),
        (9, 3, "9 query heads share 3 KV heads (grouped-query attention): 3 to one"),
        (71, 1, "71 query heads share one KV head (multi-query attention)"),
        (12, 12, "12 query heads, each with keys and values of its own (multi-head attention)"),
        (1, 1, "1 query head, each with keys and values of its own (multi-head attention)"),
        (4, 0, "no layer with keys and values"),
    ],
)
def test_query_heads_are_told_against_kv_heads(queries, keys, said):
    assert heads_words(replace(FIXED.model, num_attention_heads=queries, num_kv_heads=keys)) == said


def test_a_long_run_is_replayed_from_its_beginning_and_says_what_is_left_out(monkeypatch):
    monkeypatch.setattr(kv_replay_view, "MAX_STEPS", 5)
    (view,) = views(FIXED)["runs"]
    assert len(view["steps"]) == 5
    assert view["left_out"] == len(FIXED.steps) - 5


def test_the_table_has_every_step_and_its_csv_every_row():
    headers, rows = steps_table(GROWING)
    assert [row[0] for row in rows] == list(range(len(GROWING.steps)))
    assert all(len(row) == len(headers) for row in rows)
    assert rows[-1][headers.index("Key shape")] == str(GROWING.steps[-1].kv[0].key_shape)
    link = csv_link("cache-steps", headers, rows)
    assert 'download="cache-steps.csv"' in link
    assert link.count("%0D%0A") == len(rows) + 1


def test_what_is_sent_to_the_page_is_plain_json_of_bounded_size():
    assert len(panel_value(views(GROWING, FIXED))) < 100_000
    assert json.loads(panel_value(views(FIXED)))["runs"][0]["kind"] == "static"


def test_the_newest_run_stands_beside_the_last_one_of_its_prompt_with_another_cache():
    other_prompt = replace(FIXED, request=replace(FIXED.request, prompt="something else"))
    history = RunHistory().add(GROWING).add(other_prompt).add(FIXED)
    assert pick_two(history, "recorded eager", "recorded jit") == ["run 1", "run 3"]
    assert pick_two(history.add(other_prompt), "a", "b") == ["run 4"]
    assert pick_two(RunHistory().add(FIXED).add(FIXED), "a", "b") == ["run 2"]
    assert pick_two(RunHistory(), "recorded eager", "") == ["recorded eager"]


@pytest.mark.xdist_group("engine")
def test_without_a_cache_every_step_reads_the_whole_text_and_the_replay_says_so(engine, tiny_llama):
    record = run(engine, tiny_llama, mode="eager", cache="none")
    (view,) = views(record)["runs"]
    assert view["steps"][-1]["layers"] == []
    assert view["columns"] == record.steps[-1].filled_len
    assert "the whole text is read again at every step" in why_words([record, record])
    headers, rows = steps_table(record)
    assert all(len(row) == len(headers) for row in rows)


@pytest.mark.xdist_group("engine")
def test_window_layers_of_a_real_run_hold_fewer_positions_than_full_ones(engine, tmp_path):
    folder = write_architecture("gemma3_text", tmp_path / "gemma3", sliding_window=4)
    record = run(engine, folder, mode="eager", cache="dynamic", max_new_tokens=6)
    groups = views(record)["runs"][0]["steps"][-1]["layers"]
    filled = {kind: count for _, _, kind, _, _, count, _, _ in groups}
    assert filled["sliding window"] < filled["full attention"] == record.steps[-1].filled_len
