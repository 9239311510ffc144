"""What the History tab shows of kept runs: lists, replays, comparisons, imports; what anyone wrote is only ever text."""

import asyncio
import gzip
import json
from dataclasses import replace

import pytest

from hfjax_demo.errors import InvalidRequestError
from hfjax_demo.events import RunRecord
from hfjax_demo.plain_json import from_dict
from hfjax_demo.ui.components import ASSETS, panel_value
from hfjax_demo.ui.history_tab import (
    MAX_ROWS,
    compare,
    difference_html,
    lists_of,
    note_of,
    read_files,
    replay,
    rows_html,
)
from hfjax_demo.ui.run_history import MAX_RUNS, RunHistory, export_json
from hfjax_demo.ui.run_view import RunView
from hfjax_demo.ui.runs import keep_runs

RECORD = from_dict(RunRecord, json.loads(gzip.decompress((ASSETS / "recorded_run.json.gz").read_bytes())))
ATTACK = "<img src=x onerror=alert(1)>"


def with_token(index, text, token_id=7):
    """The record with another token at `index`."""
    steps = list(RECORD.steps)
    steps[index] = replace(steps[index], text=text, token_id=token_id)
    token_ids = tuple(step.token_id for step in steps)
    return replace(RECORD, steps=tuple(steps), token_ids=token_ids, text="".join(step.text for step in steps))


def history_of(*records):
    history = RunHistory()
    for record in records:
        history = history.add(record)
    return history


def test_an_empty_history_says_what_to_do():
    hint, runs, other, names = lists_of(RunHistory())
    assert "No run in this visit yet" in hint
    assert (runs["choices"], runs["visible"], other["visible"], names) == ([], False, False, [])


def test_the_newest_run_is_on_top_and_one_run_has_nothing_to_be_compared_with():
    _, runs, other, names = lists_of(history_of(RECORD, RECORD))
    assert [name for _, name in runs["choices"]] == ["run 2", "run 1"] == names
    assert other["choices"] == [
        ("no other run", ""),
        ("run 2 · jit, fixed cache", "run 2"),
        ("run 1 · jit, fixed cache", "run 1"),
    ]
    assert (runs["visible"], other["visible"]) == (True, True)
    assert not lists_of(history_of(RECORD))[2]["visible"]


def test_a_list_never_says_what_is_picked():
    """It may arrive late: a value in it undid what the visitor, or the tab's opening, had picked meanwhile."""
    _, runs, other, _ = lists_of(history_of(RECORD, RECORD))
    assert "value" not in runs | other


def test_a_picked_run_is_drawn_as_it_was():
    history = history_of(RECORD)
    view, export, figure, table = replay(history, "run 1")
    panel, verdict, *_ = compare(history, "run 1", "")
    assert (view.visible, export.interactive, verdict) == (True, True, "")
    assert len(figure.data[-1].x or figure.data[0].x) > 0
    assert table.count("<tr>") == len(RECORD.steps) + 1
    note = "run 1, drawn from its record: no model is running."
    assert panel == panel_value(RunView.of_record(RECORD, note).state())


def test_without_a_run_there_is_nothing_on_view():
    view, export, figure, table = replay(RunHistory(), None)
    assert (view.visible, export.interactive, figure, table) == (False, False, None, "")
    assert compare(RunHistory(), None, "")[:2] == [None, ""]


def test_an_imported_run_says_so_and_where_it_claims_to_be_from():
    (run,) = RunHistory().add(RECORD, is_imported=True).runs
    environment = RECORD.environment
    assert note_of(run, RECORD) == (
        "imported 1, drawn from a file: no model is running. By its own account it was made on "
        f"cpu ×{environment.num_devices} with {environment.num_cores} cores, jax {environment.versions['jax']}."
    )


def test_two_equal_runs_are_compared_without_a_mark():
    panel, verdict, plot, table_box, table = compare(history_of(RECORD, RECORD), "run 2", "run 1")
    assert f"The tokens are identical: all {len(RECORD.steps)}." in verdict
    assert "<mark" not in verdict
    assert json.loads(panel)["different_text"] == ""
    assert (plot.visible, table_box.visible) == (True, True)
    assert "run 1 · jit, fixed cache: so far (s)" in table


def test_the_first_difference_is_marked_in_both_runs_and_in_the_panel():
    other = with_token(3, " differently")
    panel, verdict, *_ = compare(history_of(RECORD, other), "run 2", "run 1")
    assert f"<dt>run 1, baseline</dt><dd>{''.join(step.text for step in RECORD.steps[:3])}<mark" in verdict
    assert f">{RECORD.steps[3].text}</mark>" in verdict
    assert "> differently</mark>" in verdict
    assert json.loads(panel)["different_text"].startswith(" differently")


def test_the_run_on_view_is_the_candidate_and_the_other_the_baseline():
    slower = replace(RECORD, steps=tuple(replace(step, duration_s=step.duration_s * 4) for step in RECORD.steps))
    history = history_of(slower, RECORD)
    assert "faster" in compare(history, "run 2", "run 1")[1]
    assert "slower" in compare(history, "run 1", "run 2")[1]


def test_a_run_is_not_compared_with_itself():
    _, verdict, plot, *_ = compare(history_of(RECORD), "run 1", "run 1")
    assert "Pick another run" in verdict
    assert not plot.visible


def test_a_run_that_is_gone_is_refused():
    with pytest.raises(InvalidRequestError, match="'run 9' is not among its 1"):
        compare(history_of(RECORD), "run 1", "run 9")
    with pytest.raises(InvalidRequestError, match="'run 9' is not among its 1"):
        replay(history_of(RECORD), "run 9")


def test_a_token_without_text_is_marked_by_its_id_and_an_end_as_the_end():
    shorter = replace(RECORD, steps=RECORD.steps[:2], token_ids=RECORD.token_ids[:2])
    marked = difference_html(2, {"a": with_token(2, "", token_id=77), "b": shorter})
    assert ">token 77</mark>" in marked
    assert ">the end</mark>" in marked


def test_text_from_anyone_is_never_markup():
    hostile = with_token(1, ATTACK)
    environment = replace(hostile.environment, versions={"jax": ATTACK}, device_kind=ATTACK)
    hostile = replace(hostile, environment=environment, model=replace(hostile.model, source=ATTACK, name=ATTACK))
    panel, verdict, _, _, table = compare(history_of(RECORD, hostile), "run 2", "run 1")
    for markup in (verdict, table, replay(history_of(hostile), "run 1")[3], difference_html(1, {ATTACK: hostile})):
        assert "<img" not in markup
    assert "&lt;img" in verdict
    assert ATTACK in json.loads(panel)["different_text"]  # the panel writes it as text


def test_a_long_table_says_what_it_leaves_out_and_its_file_has_every_row():
    rows = [[number] for number in range(MAX_ROWS + 5)]
    html = rows_html("c", "steps-run 1", ["n"], rows)
    assert html.count("<tr>") == MAX_ROWS + 1
    assert "5 more rows are left out" in html
    assert 'download="steps-run-1.csv"' in html
    assert f"{MAX_ROWS + 4}%0D%0A" in html
    assert "left out" not in rows_html("c", "f", ["n"], rows[:MAX_ROWS])


def test_files_are_imported_in_their_order_and_labelled(tmp_path):
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for path, record in zip(paths, (RECORD, with_token(3, "x")), strict=True):
        path.write_text(export_json(record))
    records = read_files([str(path) for path in paths])
    history, left = asyncio.run(keep_runs(history_of(RECORD), records, is_imported=True))
    assert [run.name for run in history.runs] == ["run 1", "imported 2", "imported 3"]
    assert history.get("imported 3").record == with_token(3, "x")
    assert left == ()


def test_one_bad_file_is_named_and_nothing_is_imported(tmp_path):
    (tmp_path / "good.json").write_text(export_json(RECORD))
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(InvalidRequestError, match=r"^bad\.json: A run record must .* Nothing was imported\.$"):
        read_files([str(tmp_path / "good.json"), str(tmp_path / "bad.json")])


def test_more_files_than_a_visit_keeps_are_refused_unread():
    with pytest.raises(InvalidRequestError, match=f"At most {MAX_RUNS} files .* but these are {MAX_RUNS + 1}"):
        read_files(["no such file"] * (MAX_RUNS + 1))
