"""Runs of a visit: kept, named, exported and imported; a file from anyone is a record only if a run can have given it."""

import copy
import gzip
import json
from dataclasses import replace

import pytest

from hfjax_demo.cache_norms import MAX_COLUMNS, MAX_LEVELS_CHARS, encode_levels
from hfjax_demo.cli import main
from hfjax_demo.errors import InvalidRequestError
from hfjax_demo.events import CacheNorms, LayerNorms, RunRecord
from hfjax_demo.plain_json import from_dict
from hfjax_demo.ui import run_history
from hfjax_demo.ui.components import ASSETS
from hfjax_demo.ui.record_check import CLOCK_SLACK_S, MAX_LAYERS, MAX_POSITIONS, MAX_STEPS, check_record
from hfjax_demo.ui.run_history import MAX_IMPORT_BYTES, MAX_RUNS, RunHistory, export_json, import_json

EXPORTED = gzip.decompress((ASSETS / "recorded_run.json.gz").read_bytes())
RECORD = from_dict(RunRecord, json.loads(EXPORTED))
"""A real run: SmolLM2, jit over a fixed cache."""


def exported_with(*path, value):
    """The file with another value at `path`."""
    data = json.loads(EXPORTED)
    place = data
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return json.dumps(data).encode()


def prompted(prompt):
    return replace(RECORD, request=replace(RECORD.request, prompt=prompt))


def test_a_run_survives_export_and_import():
    assert import_json(export_json(RECORD).encode()) == RECORD


def test_a_kept_run_is_the_run_and_its_json_the_export():
    run = RunHistory().add(RECORD).get("run 1")
    assert run.record == RECORD
    assert run.json == export_json(RECORD)


@pytest.mark.xdist_group("engine")
def test_an_export_is_byte_for_byte_what_the_command_line_prints(tiny_llama, capsys):
    assert main(["generate", "--model", tiny_llama, "--prompt", "été ☃ <b>", "--max-new-tokens", "2", "--json"]) == 0
    printed = capsys.readouterr().out
    assert export_json(import_json(printed.encode())) == printed


def test_a_kept_run_is_small_and_copied_as_a_session_copies_its_state():
    history = RunHistory().add(RECORD)
    without_norms = replace(RECORD, norms=None)
    steps = RunHistory().add(without_norms).runs[0].packed
    assert len(steps) < len(export_json(without_norms)) / 20
    assert len(history.runs[0].packed) < len(steps) + MAX_LEVELS_CHARS
    assert copy.deepcopy(history) == history


def test_the_oldest_run_goes_first_and_no_name_comes_twice():
    history = RunHistory()
    names = []
    for number in range(MAX_RUNS + 3):
        history = history.add(RECORD, is_imported=number % 2 == 1)
        names.append(history.runs[-1].name)
    assert len(set(names)) == MAX_RUNS + 3
    assert [run.name for run in history.runs] == names[3:]
    assert names[:4] == ["run 1", "imported 2", "run 3", "imported 4"]
    assert [run.is_imported for run in history.runs[:2]] == [True, False]


def test_a_visit_keeps_no_more_bytes_than_its_share_but_always_the_newest(monkeypatch):
    history = RunHistory().add(RECORD)
    monkeypatch.setattr(run_history, "MAX_PACKED_BYTES", 2 * len(history.runs[0].packed) + 100)
    for _ in range(3):
        history = history.add(RECORD)
    assert [run.name for run in history.runs] == ["run 3", "run 4"]
    monkeypatch.setattr(run_history, "MAX_PACKED_BYTES", 1)
    assert [run.name for run in history.add(RECORD).runs] == ["run 5"]


def test_a_run_that_is_not_there_is_refused_with_the_numbers():
    with pytest.raises(InvalidRequestError, match="last 50 runs and 'run 7' is not among its 1"):
        RunHistory().add(RECORD).get("run 7")


def test_a_label_says_what_ran_and_how_fast():
    (run,) = RunHistory().add(RECORD, is_imported=True).runs
    speed = f"{RECORD.summary.tokens_per_s:.1f}"
    assert run.label == (
        f"imported 1 · jit, fixed cache · SmolLM2-135M-Instruct · {len(RECORD.steps)} tokens · {speed} tokens/s · "
        f"“{RECORD.request.prompt}”"
    )
    assert run.label.startswith(run.title)
    assert run.file_name == "hfjax_demo-imported-1.json"


def test_a_label_is_short_and_on_one_line_whatever_was_typed():
    (run,) = RunHistory().add(prompted("a\n\n b\u202e\x07" + "x" * 100_000)).runs
    assert "“a b\\u{202e}\\u{7}xxx" in run.label
    assert "\n" not in run.label
    assert len(run.label) < 200


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must name its schema, 'hfjax_demo.run.v1', but nothing in this file of 0 bytes does"),
        (b'{"a": 1}', "nothing in this file of 8 bytes does"),
        (b"\x89PNG\r\n" + bytes(range(256)), "must name its schema"),
        (b"[" * 10_000_000, "must name its schema"),
        (b" " * (MAX_IMPORT_BYTES + 1), "at most 16.78 MB but this file has 16.78 MB"),
        (b"hfjax_demo.run. " + b"[" * 1_000_000, "must be JSON"),
        (b'{"schema": "hfjax_demo.run.v1", "steps": ' + b"[" * 1_000_000, "must be JSON but this file is not"),
        (b'{"schema": "hfjax_demo.run.v1", "a": ' + b"9" * 5000 + b"}", "must be JSON but this file is not"),
        (b'{"schema": "hfjax_demo.run.v1", "a": "\xff"}', "must be JSON but this file is not"),
        (EXPORTED[:-100], "must be JSON but this file is not"),
        (b'["hfjax_demo.run.v1"]', "RunRecord must be an object but is a list"),
        (b'{"schema": "hfjax_demo.run.v1"}', "RunRecord lacks environment, finish_reason"),
        (b'{"schema": "hfjax_demo.run.v0"}', "must have schema 'hfjax_demo.run.v1' but has 'hfjax_demo.run.v0'"),
    ],
    ids=lambda value: repr(value[:24]),
)
def test_a_file_that_is_no_record_is_refused_with_its_reason(content, message):
    with pytest.raises(InvalidRequestError) as caught:
        import_json(content)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 600
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("schema",), "hfjax_demo.run.v2", "must have schema"),
        (("surprise",), 1, "has unknown 'surprise'"),
        (("steps", 1, "duration_s"), float("nan"), r"steps\[1\]\.duration_s must be a finite number but is nan"),
        (("summary", "decode_s"), float("inf"), "must be a finite number but is inf"),
        (("summary", "decode_s"), 10**400, "must be a finite number"),
        (("text",), "\ud800", r"RunRecord\.text must be Unicode text but has a lone surrogate at character 0"),
        (("environment", "versions", "\udcff"), "1", "lone surrogate"),
        (("request", "max_new_tokens"), 0, "max_new_tokens must be at least 1"),
        (("request", "max_new_tokens"), 10**9, f"max_new_tokens must be from 0 to {MAX_POSITIONS} but is 1000000000"),
        (("request", "max_cache_len"), 10**9, "max_cache_len must be from 0"),
        (("model", "num_layers"), 10**9, f"num_layers must be from 0 to {MAX_LAYERS} but is 1000000000"),
        (("model", "weights_bytes"), 2**53, "weights_bytes must be from 0 to 9007199254740991"),
        (("model", "name"), "x" * 5000, "name may have at most 4096 characters but has 5000"),
        (("steps", 0, "duration_s"), -1.0, "duration_s must be from 0 to 10000000 but is -1"),
        (("steps", 0, "duration_s"), 1e300, r"duration_s must be from 0 to 10000000 but is 1e\+300"),
        (("steps", 0, "filled_len"), -5, "filled_len must be from 0"),
        (("steps", 0, "kv", 0, "capacity"), 10**9, "capacity must be from 0"),
        (("steps", 0, "kv", 0, "key_shape"), [1] * 9, "key_shape may have at most 8 items but has 9"),
        (("steps", 0, "input_shape"), [1] * 1_000_000, "input_shape may have at most 8 items but has 1000000"),
        (("summary", "tokens_per_s"), 1e12, "tokens_per_s must be from 0"),
        (("summary", "programs"), {str(number): 1 for number in range(2000)}, "programs may have at most 1024 items"),
        (("token_ids", 3), 5, "step 3 must have that index and token 5"),
        (("token_ids",), [1, 2], "one token a step but has 2"),
        (("steps", 4, "index"), 9, "step 4 must have that index"),
        (("text",), "another text", "text must be the steps' texts joined but has 12 characters"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_record_that_no_run_can_have_given_is_refused_with_its_rule(path, value, message):
    with pytest.raises(InvalidRequestError, match=message) as caught:
        import_json(exported_with(*path, value=value))
    assert len(str(caught.value)) < 400
    assert str(caught.value).endswith(".")


def test_a_step_with_more_layers_than_any_model_has_is_refused():
    layer = json.loads(EXPORTED)["steps"][0]["kv"][0]
    with pytest.raises(InvalidRequestError, match=f"kv may have at most {MAX_LAYERS} items but has {MAX_LAYERS + 1}"):
        import_json(exported_with("steps", 0, "kv", value=[layer] * (MAX_LAYERS + 1)))


@pytest.mark.parametrize(("num_steps", "message"), [(0, "at least one step"), (MAX_STEPS + 1, f"at most {MAX_STEPS} items")])
def test_a_record_has_from_one_to_the_most_steps_a_browser_draws(num_steps, message):
    step = replace(RECORD.steps[0], kv=(), compiled=(), text="x")
    steps = tuple(replace(step, index=index) for index in range(num_steps))
    record = replace(RECORD, steps=steps, token_ids=(step.token_id,) * num_steps, text="x" * num_steps)
    with pytest.raises(InvalidRequestError, match=message):
        check_record(record)


def test_what_clocks_and_configs_really_give_is_no_reason_to_refuse():
    """Seconds of tracing are a union of spans less another, so a run may say -1e-16; a config may have the eos id -1."""
    step = replace(RECORD.steps[0], trace_s=-CLOCK_SLACK_S / 2)
    model = replace(RECORD.model, eos_token_ids=(-1,))
    check_record(replace(RECORD, steps=(step, *RECORD.steps[1:]), model=model))


FILLED_LEN = len(RECORD.prompt_ids) + len(RECORD.token_ids) - 1
LEVELS = encode_levels(bytes(2 * FILLED_LEN))
LAYER = LayerNorms(3, 0, FILLED_LEN, 2, 9.5, 0.0, LEVELS, LEVELS)
NORMED = replace(RECORD, norms=CacheNorms(1, (LAYER,)), prompt_texts=("x",) * len(RECORD.prompt_ids))


def normed(**changes):
    """The record with other norms in its one layer."""
    return replace(NORMED, norms=CacheNorms(1, (replace(LAYER, **changes),)))


def test_a_run_with_norms_survives_export_and_import():
    assert import_json(export_json(NORMED).encode()) == NORMED
    check_record(replace(NORMED, norms=CacheNorms(7, ())))


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (replace(NORMED, prompt_texts=("x",)), "prompt_texts must have one text a prompt token but has 1"),
        (replace(NORMED, norms=CacheNorms(0, (LAYER,))), "positions_per_column must be at least 1 but is 0"),
        (replace(NORMED, norms=CacheNorms(10**9, (LAYER,))), "positions_per_column must be from 0"),
        (replace(NORMED, norms=CacheNorms(1, (LAYER, LAYER))), "layers of norms must ascend"),
        (replace(NORMED, norms=CacheNorms(1, (LAYER, replace(LAYER, layer=2)))), "layers of norms must ascend"),
        (replace(NORMED, norms=CacheNorms(1, (LAYER,) * (MAX_LAYERS + 1))), f"layers may have at most {MAX_LAYERS} items"),
        (replace(NORMED, norms=CacheNorms(2, (LAYER,))), "must have a byte for each of .* cells"),
        (normed(layer=10**9), "layer must be from 0"),
        (normed(num_heads=0), "must have heads and positions but have 0"),
        (normed(num_positions=0, first_position=FILLED_LEN), "must have heads and positions"),
        (normed(num_heads=10**9), "num_heads must be from 0"),
        (normed(num_heads=3), f"must have a byte for each of {3 * FILLED_LEN} cells but keys have {2 * FILLED_LEN}"),
        (normed(first_position=1), f"must end at the last of {FILLED_LEN} positions read but end at {FILLED_LEN + 1}"),
        (normed(num_positions=FILLED_LEN - 1), "must end at the last of"),
        (normed(first_position=-1), "first_position must be from 0"),
        (normed(key_max=-0.0005), "must be 0 or more but are up to -0.0005 and 0"),
        (normed(value_max=1e300), "value_max must be from 0"),
        (normed(key_max=float("inf")), "key_max must be from 0"),
        (normed(key_max=float("nan")), "key_max must be from 0"),
        (normed(keys="é"), "must be base64 but keys are not"),
        (normed(values="a"), "must be base64 but values are not"),
        (normed(values=LEVELS[:-4]), "but values have"),
        (normed(keys="A" * (MAX_LEVELS_CHARS + 4)), f"keys may have at most {MAX_LEVELS_CHARS} characters"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_norms_that_no_run_can_have_given_are_refused_with_their_rule(record, message):
    with pytest.raises(InvalidRequestError, match=message) as caught:
        check_record(record)
    assert len(str(caught.value)) < 400


def test_norms_are_of_no_more_columns_and_cells_than_a_record_keeps():
    prompt_ids = (1,) * 2000
    count = len(prompt_ids) + len(RECORD.token_ids) - 1
    long = replace(RECORD, prompt_ids=prompt_ids, prompt_texts=("a",) * len(prompt_ids))
    levels = encode_levels(bytes(count))
    with pytest.raises(InvalidRequestError, match=f"at most {MAX_COLUMNS} columns"):
        check_record(replace(long, norms=CacheNorms(1, (LayerNorms(0, 0, count, 1, 1.0, 1.0, levels, levels),))))
    levels = encode_levels(bytes(20_000))
    layers = tuple(LayerNorms(index, count - 1, 1, 20_000, 1.0, 1.0, levels, levels) for index in range(2))
    with pytest.raises(InvalidRequestError, match=f"at most {MAX_LEVELS_CHARS} characters of keys and values but"):
        check_record(replace(long, norms=CacheNorms(1, layers)))
