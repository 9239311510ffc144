"""The map of norms says what the record says, names each cell's token, and stays small; its tables have the same numbers."""

from dataclasses import replace

import pytest

from hfjax_demo.cache_norms import MAX_LEVELS_CHARS, encode_levels, fitting_positions_per_column, num_columns
from hfjax_demo.events import (
    CacheNorms,
    EnvironmentFacts,
    LayerNorms,
    LayerState,
    Mesh,
    ModelFacts,
    RunRecord,
    RunSummary,
    StepEvent,
)
from hfjax_demo.plots.kv_norms import norms_cells, norms_map, norms_table
from hfjax_demo.plots.norm_rows import token_at
from hfjax_demo.requests import GenerationRequest

ATTACK = "<img src=x onerror=alert(1)>$x^2$%{z}"


def layer(index, num_heads=2, first=0, last=9, per_column=1):
    """Levels count up by 7 over the cells of keys, and down over those of values."""
    count = num_heads * num_columns(first, last + 1 - first, per_column)
    levels = bytes(7 * (cell + index) % 256 for cell in range(count))
    texts = encode_levels(levels), encode_levels(levels[::-1])
    return LayerNorms(index, first, last + 1 - first, num_heads, 25.5, 2.55, *texts)


def record_of(layers, prompt_len=6, num_new=5, per_column=1, texts=None):
    """A run whose last new token is in no cache."""
    state = LayerState(0, "full_attention", (1, 2, 16, 8), (1, 2, 16, 8), prompt_len, 16, 3072)
    kv = tuple(replace(state, layer=index) for index in range(max((layer.layer for layer in layers), default=0) + 1))
    step = StepEvent(0, "decode", 7, " new", (1, 1), (1, 1), 0, 0, 0, 0, 0, 0, 0, 0, (), kv)
    return RunRecord(
        request=GenerationRequest("hi"),
        model=ModelFacts("M", "someone/M", "LlamaForCausalLM", "float32", 100, 400, 2, 4, 2, 8, 50, 128, (2,)),
        environment=EnvironmentFacts({}, "cpu", "cpu", 1, 2, Mesh("model", 1, ("cpu:0",))),
        prompt_ids=tuple(range(100, 100 + prompt_len)),
        token_ids=(7,) * num_new,
        text=" new" * num_new,
        finish_reason="length",
        steps=tuple(replace(step, index=index, text=f" new{index}") for index in range(num_new)),
        summary=RunSummary(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, {}, 0, 0, 0),
        prompt_texts=tuple(f" w{index}" for index in range(prompt_len)) if texts is None else texts,
        norms=CacheNorms(per_column, tuple(layers)),
    )


RECORD = record_of([layer(0), layer(1), layer(3)])
WINDOWED = record_of([layer(0), layer(1, first=7)])
BINNED = record_of([layer(0, per_column=4), layer(1, first=5, per_column=4)], per_column=4)
HOSTILE = record_of([layer(0)], texts=(ATTACK, "a\nb", "", "\u202e", "$", "%{x}"))
FIGURES = {
    "norms": norms_map(RECORD, "keys"),
    "norms of a layer": norms_map(RECORD, "values", 1),
    "norms of windows": norms_map(WINDOWED, "keys"),
    "norms in columns": norms_map(BINNED, "keys"),
    "hostile norms": norms_map(HOSTILE, "keys"),
    "no norms": norms_map(replace(RECORD, norms=None), "keys"),
}


def words(figure):
    return [annotation.text for annotation in figure.layout.annotations]


def label(figure, row, column):
    """What pointing at a cell shows, put together as plotly.js does."""
    (heat,) = figure.data
    template = heat.hovertemplate.removesuffix("<extra></extra>").replace("%{z:.3g}", f"{heat.z[row][column]:.3g}")
    return template.replace("%{y}", heat.y[row]).replace("%{x}", heat.x[column])


def test_a_cell_is_the_norm_of_its_layer_head_and_position():
    (heat,) = FIGURES["norms"].data
    assert list(heat.y) == [f"layer {index}, head {head}" for index in (0, 1, 3) for head in (0, 1)]
    assert [list(row) for row in heat.z[:2]] == [
        [pytest.approx(0.7 * (10 * head + place), abs=0.05) for place in range(10)] for head in (0, 1)
    ]
    assert heat.z[2][0] == pytest.approx(0.7)
    assert norms_map(RECORD, "values").data[0].z[0][0] == pytest.approx(1.33)


@pytest.mark.parametrize(("column", "line"), [(0, "position 0 (prompt)<br>“ w0”"), (6, "position 6 (new)<br>“ new0”")])
def test_a_label_names_layer_head_position_token_and_norm(column, line):
    assert label(FIGURES["norms"], 1, column) == f"layer 0, head 1<br>{line}<br>key norm {0.7 * (10 + column):.3g}"


def test_one_layer_has_a_row_a_head():
    (heat,) = FIGURES["norms of a layer"].data
    assert list(heat.y) == ["layer 1, head 0", "layer 1, head 1"]
    assert list(FIGURES["norms of a layer"].layout.yaxis.ticktext) == ["head 0", "head 1"]
    assert label(FIGURES["norms of a layer"], 0, 0).endswith("value norm 1.4")


def test_few_rows_and_columns_are_labelled_and_the_first_row_is_on_top():
    many = norms_map(record_of([layer(index, 3) for index in range(30)]), "keys").layout
    assert list(many.yaxis.ticktext) == [f"layer {index}" for index in range(0, 30, 5)]
    assert list(many.yaxis.tickvals) == [*range(0, 90, 15)]
    assert list(many.yaxis.range) == [89.5, -0.5]
    assert list(zip(many.xaxis.tickvals, many.xaxis.ticktext, strict=True)) == [(at, str(at)) for at in range(0, 10, 2)]
    in_columns = FIGURES["norms in columns"].layout.xaxis
    assert list(zip(in_columns.tickvals, in_columns.ticktext, strict=True))[1] == (0.125, "2")


def test_the_end_of_the_prompt_is_between_its_last_token_and_the_first_new_one():
    dark, light = FIGURES["norms"].layout.shapes
    assert dark.x0 == dark.x1 == light.x0 == 5.5
    assert words(FIGURES["norms"]) == ["key norms; dashed: the end of the prompt<br>not finite, left out: layer 2"]
    assert not norms_map(record_of([layer(0)], prompt_len=10, num_new=1), "keys").layout.shapes


def test_a_window_leaves_gaps_where_it_holds_nothing():
    (heat,) = FIGURES["norms of windows"].data
    assert [value is None for value in heat.z[2]] == [True] * 7 + [False] * 3
    alone = norms_map(WINDOWED, "keys", 1)
    assert alone.data[0].x[0].startswith("position 7 (new)")
    assert not alone.layout.shapes


def test_a_column_of_several_positions_says_which():
    (heat,) = FIGURES["norms in columns"].data
    assert list(heat.x) == [
        "positions 0 to 3 (prompt)<br>“ w0” to<br>“ w3”",
        "positions 4 to 7 (prompt and new)<br>“ w4” to<br>“ new1”",
        "positions 8 to 9 (new)<br>“ new2” to<br>“ new3”",
    ]
    assert "a column: the greatest of 4 positions" in words(FIGURES["norms in columns"])[0]
    assert FIGURES["norms in columns"].layout.shapes[0].x0 == 1
    assert [value is None for value in heat.z[2]] == [True, False, False]
    assert norms_map(BINNED, "keys", 1).data[0].x[0] == "positions 5 to 7 (prompt and new)<br>“ w5” to<br>“ new1”"


def test_the_token_at_a_position_is_of_the_prompt_or_new():
    assert [token_at(RECORD, position) for position in (5, 6, 10, 11)] == ["“ w5”", "“ new0”", "“ new4”", "no token"]
    assert token_at(HOSTILE, 2) == "token id 102, no text of its own"
    assert token_at(replace(RECORD, prompt_texts=()), 2) == "token id 102"


def test_tokens_are_drawn_as_the_characters_they_are():
    names = FIGURES["hostile norms"].data[0].x
    assert names[0].endswith("<br>“&lt;img src=x onerror=alert(1)&gt;&#36;x^…”")
    assert names[1].endswith("“a↵b”")
    assert names[3].endswith("“\\u{202e}”")
    assert not any("$" in name or "<img" in name for name in names)


@pytest.mark.parametrize(
    ("record", "index", "message"),
    [
        (replace(RECORD, norms=None), None, "This run’s record has no norms."),
        (replace(RECORD, norms=None, steps=()), None, "This run has no KV cache."),
        (RECORD, 2, "Layer 2 lacks keys and values of its own,<br>or some of their norms are not finite."),
        (replace(RECORD, norms=CacheNorms(1, ())), None, "Every layer lacks keys and values of its own,<br>or some"),
    ],
)
def test_nothing_to_draw_is_said(record, index, message):
    figure = norms_map(record, "keys", index)
    assert words(figure)[0].startswith(message)
    assert not figure.data
    assert norms_table(record, index)[1] == norms_cells(record, index)[1] == []


def test_a_figure_of_as_many_cells_as_a_record_keeps_is_small():
    """A thousand positions of 90 rows. With a text of its own for each cell it would be several times as large."""
    per_column = fitting_positions_per_column([(3, 0, 1000)] * 30)
    layers = [layer(index, 3, 0, 999, per_column) for index in range(30)]
    assert 0.9 < sum(len(one.keys) + len(one.values) for one in layers) / MAX_LEVELS_CHARS <= 1
    figure = norms_map(record_of(layers, 900, 101, per_column), "keys")
    assert len(figure.to_json()) < 200_000


def test_the_table_has_each_heads_mean_and_greatest_with_its_place():
    headers, rows = norms_table(RECORD)
    assert headers[:6] == [
        "Layer",
        "Head",
        "Mean key norm",
        "Greatest key norm",
        "Greatest key norm: position",
        "Greatest key norm: token",
    ]
    assert rows[0] == [0, 0, 3.15, 6.3, 9, "“ new3”", 1.01, 1.33, 0, "“ w0”"]
    assert [row[:2] for row in rows] == [[index, head] for index in (0, 1, 3) for head in (0, 1)]
    assert norms_table(RECORD, 1)[1] == rows[2:4]
    headers, rows = norms_table(BINNED)
    assert headers[2] == "Mean of the greatest key norms of 4 positions each"
    assert rows[0][4:6] == ["8 to 9", "“ new2” to “ new3”"]


def test_the_cells_are_those_of_both_maps():
    headers, rows = norms_cells(RECORD)
    keys, values = (norms_map(RECORD, part).data[0].z for part in ("keys", "values"))
    assert headers == ["Layer", "Head", "First position", "Last position", "Token", "Key norm", "Value norm"]
    assert [row[5] for row in rows] == [norm for row in keys for norm in row]
    assert [row[6] for row in rows] == [norm for row in values for norm in row]
    assert rows[13][:5] == [0, 1, 3, 3, "“ w3”"]
    assert norms_cells(BINNED)[1][6][:5] == [1, 0, 5, 7, "“ w5” to “ new1”"]
