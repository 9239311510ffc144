"""The picture of bytes by context says what the plan says, with device memory across and nothing told by colour alone."""

import math
from itertools import pairwise

import pytest

from hfjax_demo.accelerators import ACCELERATORS
from hfjax_demo.cache_plan import layer_groups
from hfjax_demo.kv_shapes import LayerGeometry
from hfjax_demo.planning import ContextPoint, DeviceNeeds, context_curve, usable_bytes
from hfjax_demo.plots.kv_plan import COLOURS, MAX_MODELS, SYMBOLS, PlannedCurve, context_curves, context_table

ATTACK = "<img src=x onerror=alert(1)>$x^2$"
WINDOW = 1024


def curve(label, num_layers=32, kv_heads=8, weights_bytes=16 * 10**9, windowed=0, longest=131_072, parts=1, own=None):
    layers = tuple(
        LayerGeometry(index, "full_attention", kv_heads, 128, 128, 32, WINDOW if index < windowed else None)
        for index in range(num_layers)
    )
    needs = DeviceNeeds(weights_bytes, weights_bytes, layer_groups(layers), "bfloat16", parts)
    return PlannedCurve(label, context_curve(needs, 1, longest), weights_bytes, own)


SEVERAL = [
    curve("Llama-2-7B", kv_heads=32, weights_bytes=13_476_831_232, own=4096),
    curve("Llama-3.1-8B"),
    curve("Mistral-7B-v0.1", windowed=32),
    curve("Gemma-3-27B", 62, 16, 54_018_692_608, windowed=52),
    curve("Falcon-7B", kv_heads=1),
    curve(ATTACK, 2, 1),
]
FIGURES = {
    "plan of several": context_curves(SEVERAL, ACCELERATORS),
    "plan of caches": context_curves(SEVERAL[:3], ACCELERATORS, with_weights=False),
    "plan of one": context_curves(SEVERAL[1:2]),
    "short plan": context_curves([curve("tiny", 2, 1, 10**6, longest=16)], ACCELERATORS),
    "no plan": context_curves([], ACCELERATORS),
}


def model_lines(figure):
    return [trace for trace in figure.data if trace.mode == "lines+markers"]


def memory_lines(figure):
    return [trace for trace in figure.data if trace.line.dash == "dash"]


def words(figure):
    return [annotation.text for annotation in figure.layout.annotations]


@pytest.mark.parametrize("with_weights", [True, False])
def test_the_lines_are_the_bytes_of_one_device(with_weights):
    (line,) = model_lines(context_curves([curve("m", parts=2)], with_weights=with_weights))
    added = 16 * 10**9 if with_weights else 0
    assert list(line.x) == [2**power for power in range(7, 18)]
    assert list(line.y) == [added + 2 * 32 * 4 * 128 * 2 * length for length in line.x]


def test_a_model_with_windows_has_a_second_dotted_line_with_open_symbols():
    plain, solid, dotted = model_lines(context_curves([curve("a"), curve("b", windowed=32)]))
    assert (plain.line.dash, solid.line.dash, dotted.line.dash) == ("solid", "solid", "dot")
    assert (solid.name, dotted.name) == ("b", "b, windows respected")
    assert (plain.marker.symbol, solid.marker.symbol, dotted.marker.symbol) == ("circle", "square", "square-open")
    assert solid.line.color == dotted.line.color != plain.line.color
    assert solid.legendgroup == dotted.legendgroup != plain.legendgroup
    assert dotted.y[-1] == 16 * 10**9 + 2 * 32 * 8 * 128 * 2 * WINDOW


def test_each_model_has_a_symbol_of_its_own_beside_its_colour():
    assert len(set(SYMBOLS)) == len(set(COLOURS)) == MAX_MODELS
    with pytest.raises(AssertionError, match="cannot be read"):
        context_curves([curve("m")] * (MAX_MODELS + 1))


def test_a_context_beyond_the_models_own_says_so():
    line = model_lines(FIGURES["plan of several"])[0]
    beyond = [length for length, hover in zip(line.x, line.hovertext, strict=True) if "beyond its own context" in hover]
    assert beyond == [length for length in line.x if length > 4096]
    assert "cache 2.15 GB<br>weights 13.48 GB" in line.hovertext[list(line.x).index(4096)]


def test_the_legend_names_each_model_once_and_says_what_is_dotted():
    names = [trace.name for trace in FIGURES["plan of several"].data if trace.showlegend]
    assert names[:5] == [curve.label for curve in SEVERAL[:5]]
    assert names[6:] == ["windows respected"]
    assert [trace.name for trace in FIGURES["plan of one"].data if trace.showlegend] == ["Llama-3.1-8B"]


def test_devices_of_one_size_share_a_line_at_what_is_planned_with():
    lines = memory_lines(FIGURES["plan of several"])
    (of_24,) = [line for line in lines if "NVIDIA L4<br>" in line.hovertext[0]]
    assert of_24.y[0] == of_24.y[1] == usable_bytes(24 * 10**9)
    assert "NVIDIA RTX 4090" in of_24.hovertext[0]
    assert "24 GB, of which 21.60 GB" in of_24.hovertext[0]
    assert "24 GB NVIDIA L4 and 3 more" in words(FIGURES["plan of several"])
    assert "40 GB NVIDIA A100" in words(FIGURES["plan of several"])


def test_every_line_of_a_device_has_its_words_and_room_for_them():
    for name in ("plan of several", "plan of caches"):
        figure = FIGURES[name]
        labels = [label for label in figure.layout.annotations if " GB " in label.text]
        lines = memory_lines(figure)
        assert len(labels) == len(lines) >= 2
        assert [label.y for label in labels] == [pytest.approx(math.log10(line.y[0])) for line in lines]
        low, high = figure.layout.yaxis.range
        assert all(above - below >= 0.06 for below, above in pairwise((label.y - low) / (high - low) for label in labels))


def test_a_device_far_from_every_curve_is_left_out_and_does_not_stretch_the_axis():
    figure = context_curves([curve("tiny", 2, 1, 10**6, longest=16)], ACCELERATORS)
    assert memory_lines(figure) == []
    assert figure.layout.yaxis.range[1] < math.log10(10**8)


def test_ticks_are_few_and_short():
    for name in ("plan of several", "plan of caches", "plan of one", "short plan"):
        for axis in (FIGURES[name].layout.xaxis, FIGURES[name].layout.yaxis):
            assert 2 <= len(axis.ticktext) <= 7
            assert all(len(text) <= 7 for text in axis.ticktext)
    assert (
        "128 Ki" in FIGURES["plan of several"].layout.xaxis.ticktext
        or "64 Ki" in FIGURES["plan of one"].layout.xaxis.ticktext
    )


def test_names_are_drawn_as_the_characters_they_are():
    name = model_lines(FIGURES["plan of several"])[-1].name
    assert name.startswith("&lt;img")
    assert "$" not in name


def test_the_table_has_every_point_and_the_smallest_device():
    headers, rows = context_table(SEVERAL[:1], ACCELERATORS)
    (line,) = model_lines(context_curves(SEVERAL[:1], ACCELERATORS))
    assert [row[1:3] for row in rows] == [list(pair) for pair in zip(line.x, line.y, strict=True)]
    assert {len(row) for row in rows} == {len(headers)}
    assert rows[0][4] == "Space CPU basic"
    assert rows[-1][4] == "Google TPU v5p"
    assert context_table([curve("huge", weights_bytes=10**15)], ACCELERATORS)[1][0][4] == "none of these"
    assert len(context_table(SEVERAL[:1])[0]) == 4


def test_nothing_to_draw_is_said():
    assert words(FIGURES["no plan"]) == ["No model to draw yet."]
    nothing = PlannedCurve("stateless", (ContextPoint(1, 0, 0, 0, 0),), 0, None)
    assert words(context_curves([nothing])) == ["No model to draw yet."]
