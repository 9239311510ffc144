"""Figures say what the records say, draw untrusted text as text, and are valid for both plotly.js that will draw them."""

import html
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from hfjax_demo.events import (
    CompiledProgram,
    EnvironmentFacts,
    LayerState,
    Mesh,
    ModelFacts,
    RunRecord,
    RunSummary,
    StepEvent,
)
from hfjax_demo.plots.hover_text import compiled_lines, quoted_token, shown_text
from hfjax_demo.plots.race import caught_up_step, race, race_table
from hfjax_demo.plots.step_timeline import cut_at, step_timeline, timeline_table
from hfjax_demo.plots.style import HEADING_PX, tick_step
from hfjax_demo.requests import GenerationRequest
from tests.test_kv_norms_plot import FIGURES as NORMS_FIGURES
from tests.test_kv_plan_plot import FIGURES as PLAN_FIGURES

MODEL = ModelFacts("M", "someone/M", "LlamaForCausalLM", "float32", 100, 400, 2, 4, 2, 8, 50, 128, (2,))
ENVIRONMENT = EnvironmentFacts({"jax": "0.10.2"}, "cpu", "cpu", 1, 2, Mesh("model", 1, ("cpu:0",)))
SUMMARY = RunSummary(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, {}, 0, 0, 0)
DECODE_STEP = CompiledProgram("jit(decode_step)", 1, 2.0, 4.5, "first decode_step: nothing was compiled for it yet")
ATTACK = "<img src=x onerror=alert(1)>"
COLD_JIT = [(7, 2.5, 2.5), (6.75, 2, 4.5), *[(0.03125, 0, 0)] * 10]
"""Seconds of each step, and of which tracing and compiling."""
EAGER = [(6.5, 1, 3.5), (5, 0.5, 3), *[(2, 0.25, 0.75)] * 10]


def step(index, duration_s, trace_s, compile_s, **fields):
    compiled = (DECODE_STEP,) if compile_s else ()
    facts = {
        "index": index,
        "phase": "decode" if index else "prefill",
        "token_id": 7,
        "text": " good",
        "input_shape": (1, 1),
        "output_shape": (1, 1),
        "position": index,
        "seen_len": index,
        "filled_len": index + 1,
        "duration_s": duration_s,
        "trace_s": trace_s,
        "compile_s": compile_s,
        "num_traces": 0,
        "num_compiles": len(compiled),
        "compiled": compiled,
        "kv": (LayerState(0, "full_attention", (1, 3, 16, 8), (1, 3, 16, 8), index + 1, 16, 3072),),
    }
    return StepEvent(**(facts | fields))


def run(times, **fields):
    """A record with a step for each (seconds, of which tracing, of which compiling)."""
    return RunRecord(
        request=GenerationRequest("hi"),
        model=MODEL,
        environment=ENVIRONMENT,
        prompt_ids=(1, 2, 3),
        token_ids=(7,) * len(times),
        text=" good" * len(times),
        finish_reason="length",
        steps=tuple(step(index, *seconds, **fields) for index, seconds in enumerate(times)),
        summary=SUMMARY,
    )


def bars(figure, yaxis="y"):
    return {trace.name: trace for trace in figure.data if trace.type == "bar" and trace.yaxis == yaxis}


def hovers(figure):
    return next(trace.hovertext for trace in figure.data if trace.name == "running")


def words(figure):
    return " ".join(annotation.text for annotation in figure.layout.annotations)


def with_texts(record, texts):
    return replace(record, steps=tuple(replace(step, text=text) for step, text in zip(record.steps, texts, strict=True)))


FIGURES = {
    "two panels": step_timeline(run(COLD_JIT)),
    "one panel": step_timeline(run(EAGER)),
    "nothing": step_timeline(run([])),
    "attack": step_timeline(with_texts(run(EAGER[:2]), [f"{ATTACK}${{x}}", "$x^2$ &lt;<b>%{x}"])),
    "race": race(run(EAGER), run(COLD_JIT), "eager", "jit"),
    "race of one": race(run([]), run(COLD_JIT), "eager", ATTACK),
    "no race": race(run([]), run([]), "eager", "jit"),
    **PLAN_FIGURES,
    **NORMS_FIGURES,
}


@pytest.mark.parametrize(("times", "panels"), [(COLD_JIT, ["y", "y2"]), (EAGER, ["y"])])
def test_the_bars_of_each_panel_add_up_to_the_durations(times, panels):
    figure = step_timeline(run(times))
    assert [trace.yaxis for trace in figure.data if trace.type == "bar"] == [panel for panel in panels for _ in range(3)]
    for panel in panels:
        parts = bars(figure, panel)
        assert [*parts] == ["tracing", "compiling", "running"]
        assert [list(part.x) for part in parts.values()] == [[*range(len(times))]] * 3
        assert [sum(heights) for heights in zip(*(part.y for part in parts.values()), strict=True)] == [
            duration_s for duration_s, _, _ in times
        ]
        assert list(parts["compiling"].y) == [compile_s for _, _, compile_s in times]


def test_what_was_compiled_has_a_pattern_beside_its_colour():
    patterns = {name: bar.marker.pattern.shape for name, bar in bars(FIGURES["one panel"]).items()}
    assert patterns == {"tracing": ".", "compiling": "/", "running": None}


def test_a_cut_bar_is_marked_and_named_with_its_true_seconds():
    figure = FIGURES["two panels"]
    top_s = figure.layout.yaxis.range[1]
    cut = next(trace for trace in figure.data if trace.name == "cut")
    assert 0.03125 < top_s < 6.75
    assert figure.layout.yaxis2.range[1] > 7
    assert list(cut.x) == [0, 1]
    assert all(0 < height < top_s for height in cut.y)
    assert words(figure).endswith("step 0: 7.00 s, step 1: 6.75 s")


def test_of_many_cut_bars_the_longest_are_named_and_the_rest_counted():
    figure = step_timeline(run([(5, 0, 0), (7, 0, 0), (4, 0, 0), (6, 0, 0), *[(0.01, 0, 0)] * 4]))
    assert words(figure).endswith("step 1: 7.00 s, step 3: 6.00 s, 2 more")


@pytest.mark.parametrize(
    ("durations", "cut_s"),
    [
        ([1.0], None),
        ([7.0, 6.0], None),
        ([7.0, 6.0, 0.04], 0.046),
        ([8.0, 1.0, 1.0, 1.0], None),
        ([8.1, 1.0, 1.0, 1.0], 1.15),
        ([0.0, 0.0, 5.0], None),
    ],
)
def test_only_what_dwarfs_the_typical_step_is_cut(durations, cut_s):
    assert cut_at(durations) == pytest.approx(cut_s)


def test_a_label_says_everything_about_its_step():
    assert hovers(FIGURES["two panels"])[1].split("<br>") == [
        "<b>step 1, decode</b>",
        "“ good”",
        "6,750.0 ms in all",
        "· 250.0 ms running",
        "· 2,000.0 ms tracing",
        "· 4,500.0 ms compiling",
        "(1, 1) → (1, 1)",
        "KV cache: 2 of 16 positions filled",
        "1 compilation",
        "· jit(decode_step), 6,500.0 ms",
        "&nbsp;&nbsp;first decode_step: nothing was",
        "&nbsp;&nbsp;compiled for it yet",
    ]


def test_a_step_without_cache_says_so():
    record = run([(1, 0, 0)], kv=())
    assert "no KV cache" in hovers(step_timeline(record))[0]
    headers, (row,) = timeline_table(record)
    assert dict(zip(headers, row, strict=True))["KV cache filled (positions)"] is None


def test_of_many_programs_the_slowest_are_named_and_the_rest_counted():
    programs = tuple(CompiledProgram(f"jit(op{index})", 3, 0, 0.5 - index / 100) for index in range(15))
    lines = compiled_lines(step(0, 9, 0, 8, compiled=(*programs, replace(programs[0], count=0)), num_compiles=45))
    assert lines == [
        "45 compilations",
        "· jit(op0) ×3, 500.0 ms",
        "· jit(op1) ×3, 490.0 ms",
        "· jit(op2) ×3, 480.0 ms",
        "… and 12 more",
    ]


def test_text_of_models_and_records_is_never_markup():
    programs = (CompiledProgram(ATTACK, 1, 0, 1, reason=ATTACK),)
    record = run([(1, 0, 1)], text=f"{ATTACK}${{x}}", phase=ATTACK, compiled=programs)
    figure = race(record, record, ATTACK, "<b>")
    texts = [*hovers(step_timeline(record)), *(text for line in figure.data for text in line.hovertext or ())]
    texts += [annotation.text for annotation in figure.layout.annotations] + [line.name for line in figure.data]
    for text in texts:
        assert set(re.findall("<[^>]*>", text)) <= {"<b>", "</b>", "<br>"}
        assert "$" not in text
    assert "&lt;img src=x onerror=alert(1)&gt;" in texts[0]
    assert "&#36;{" in texts[0]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\n\t", "↵⇥"),
        ("\u202eabc\x00", "\\u{202e}abc\\u{0}"),
        ("👩\u200d💻é", "👩\u200d💻é"),
        ("x" * 100, "x" * 31 + "…"),
    ],
)
def test_text_is_shown_on_one_short_line_with_its_invisible_characters(text, shown):
    assert shown_text(text) == shown


def test_a_token_without_text_is_named_by_its_id():
    assert quoted_token(step(0, 1, 0, 0, text="")) == "token id 7, no text of its own"


def test_the_timeline_table_has_the_numbers_of_the_record():
    headers, rows = timeline_table(run(COLD_JIT))
    assert len(rows) == len(COLD_JIT)
    assert dict(zip(headers, rows[1], strict=True)) == {
        "Step": 1,
        "Phase": "decode",
        "Token": "“ good”",
        "Total (ms)": 6750,
        "Running (ms)": 250,
        "Tracing (ms)": 2000,
        "Compiling (ms)": 4500,
        "Input shape": "(1, 1)",
        "Output shape": "(1, 1)",
        "KV cache filled (positions)": 2,
        "Compilations": 1,
        "Compiled, slowest first": "jit(decode_step)",
    }


def test_a_race_is_seconds_so_far_against_tokens_made():
    strokes, eager, jit, _ = FIGURES["race"].data
    assert list(eager.x) == [*range(13)]
    assert list(eager.y[:4]) == [0, 6.5, 11.5, 13.5]
    assert list(jit.y[:4]) == [0, 7, 13.75, 13.78125]
    assert (eager.line.dash, eager.marker.symbol) != (jit.line.dash, jit.marker.symbol)
    assert list(strokes.y[-6:]) == [2, 7, None, 7.25, 13.75, None]
    assert list(strokes.x[-6:]) == [1, 1, None, 2, 2, None]


def test_the_heading_of_a_race_has_room_without_a_legend_too():
    """Two warm runs have none, and on a phone half of the heading was cut off."""
    warm = [(0.1, 0, 0)] * 3
    assert race(run(warm), run(warm), "one", "other").layout.margin.t >= HEADING_PX


def test_each_line_is_named_at_its_end():
    _, eager, jit = FIGURES["race"].layout.annotations
    assert [(label.x, label.y, label.text) for label in (eager, jit)] == [
        (12, 31.5, "<b>eager</b>"),
        (12, 14.0625, "<b>jit</b>"),
    ]


def test_two_lines_that_end_close_by_are_named_on_either_side():
    close = race(run([(10, 0, 0)]), run([(9.5, 0, 0)]), "one", "other").layout.annotations
    apart = race(run([(10, 0, 0)]), run([(5, 0, 0)]), "one", "other").layout.annotations
    assert [label.yanchor for label in close[1:]] == ["bottom", "top"]
    assert [label.yanchor for label in apart[1:]] == ["bottom", "bottom"]


def test_a_ring_marks_the_step_at_which_the_candidate_has_caught_up():
    ring = FIGURES["race"].data[-1]
    assert (list(ring.x), list(ring.y)) == ([4], [13.8125])
    assert ring.name == "caught up at step 3 (4 tokens)"


def test_without_a_crossing_there_is_no_ring():
    assert caught_up_step(run(COLD_JIT), run(EAGER)) is None
    assert caught_up_step(run(EAGER), run([(0.25, 0, 0)] * 4)) is None
    assert [trace.mode for trace in race(run(COLD_JIT), run(EAGER), "jit", "eager").data[1:]] == ["lines+markers"] * 2


def test_the_race_table_has_the_numbers_of_both_records_and_gaps_where_one_has_ended():
    headers, rows = race_table(run(EAGER), run(COLD_JIT[:2]), "eager", "jit")
    assert headers == [
        "Tokens made",
        "eager: so far (s)",
        "eager: this step (ms)",
        "eager: of it tracing and compiling (ms)",
        "jit: so far (s)",
        "jit: this step (ms)",
        "jit: of it tracing and compiling (ms)",
    ]
    assert rows[1] == [2, 11.5, 5000, 3500, 13.75, 6750, 6500]
    assert rows[2] == [3, 13.5, 2000, 1000, None, None, None]
    assert len(rows) == len(EAGER)


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1.0, 1e300])
def test_numbers_that_no_clock_gives_draw_as_nothing(seconds):
    """An imported record may hold anything that is a number; each part stays between 0 and the step's duration."""
    for times in ([(seconds, 0, 0)], [(1, seconds, 0)], [(1, 0, seconds)], [(1, seconds, seconds)]):
        record = run(times)
        parts = [trace.y[0] for trace in bars(step_timeline(record)).values()]
        assert all(part >= 0 for part in parts)
        assert sum(parts) == (1 if times[0][0] == 1 else 0)
        json.loads(race(record, record, "one", "other").to_json(), parse_constant=pytest.fail)


@pytest.mark.parametrize("name", ["nothing", "no race"])
def test_a_record_without_steps_draws_a_sentence(name):
    assert words(FIGURES[name]) == "No step to draw yet."
    assert not FIGURES[name].data


@pytest.mark.parametrize(("count", "ticks"), [(0, 1), (6, 1), (7, 2), (22, 5), (64, 20), (8192, 2000)])
def test_an_axis_of_counts_has_at_most_six_round_ticks(count, ticks):
    assert tick_step(count) == ticks


def test_figures_are_the_same_each_time_fit_their_place_and_let_the_page_shine_through():
    assert step_timeline(run(COLD_JIT)).to_json() == FIGURES["two panels"].to_json()
    for figure in FIGURES.values():
        assert figure.layout.width is None
        assert figure.layout.title.text is None
        assert figure.layout.paper_bgcolor == figure.layout.plot_bgcolor == "rgba(0, 0, 0, 0)"


def test_plots_load_no_gradio_torch_or_jax():
    code = "import sys, hfjax_demo.plots.race, hfjax_demo.plots.step_timeline; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert "plotly" in loaded
    assert not {"gradio", "torch", "torchax", "jax", "transformers", "hfjax_demo.inference"} & {*loaded}


def gradios_plotly_js():
    """The plotly.js inside Gradio's own script, which a plain page can load."""
    (asset,) = (package_folder("gradio") / "templates/frontend/assets").glob("PlotlyPlot-*.js")
    script = asset.read_text(encoding="utf-8")
    end = "return window.Plotly=e,e})"
    start = script.index("(function(e,n){typeof t==")
    return f"var t;{script[start : script.index(end) + len(end)]}"


def package_folder(name):
    return Path(find_spec(name).origin).parent


DRAW_ALL = """
<script>(async () => {
  // Plotly.validate throws at any legend, in 3.3 and in 4.1: its keys are looked up in the schema instead.
  const legendSchema = Plotly.PlotSchema.get().layout.layoutAttributes.legend;
  const unknownKeys = (value, schema) => Object.keys(value).flatMap((key) => !(key in schema) ? [`legend ${key}`] :
    value[key] instanceof Object ? unknownKeys(value[key], schema[key]) : []);
  const problemsOf = (data, {legend, ...layout}) => (Plotly.validate(data, layout) || []).map((problem) => problem.msg)
    .concat(unknownKeys(legend, legendSchema));
  const report = {version: Plotly.version, problems: {}};
  report.control = problemsOf([{type: "bar", x: [1], y: [1], nonsense: 1}], {titlefont: {}, legend: {font: {nonsense: 1}}});
  for (const [name, {data, layout}] of Object.entries(FIGURES)) report.problems[name] = problemsOf(data, layout);
  const place = document.getElementById("place");
  const {data, layout} = FIGURES.attack;
  await Plotly.newPlot(place, data, {...layout, width: 390});
  report.tokens = [];
  for (const pointNumber of [0, 1]) {
    Plotly.Fx.hover(place, [{curveNumber: 2, pointNumber}]);
    await new Promise((resolve) => setTimeout(resolve, 500));  // labels move at most so often
    report.tokens.push(place.querySelectorAll(".hovertext tspan.line")[1].textContent);
  }
  await Plotly.newPlot(place, FIGURES["hostile norms"].data, {...FIGURES["hostile norms"].layout, width: 390});
  report.cells = [];
  for (const [yval, xval] of [[0, 0], [1, 2], [1, 5]]) {
    Plotly.Fx.hover(place, {xval, yval}, "xy");
    await new Promise((resolve) => setTimeout(resolve, 500));
    report.cells.push([...place.querySelectorAll(".hovertext tspan.line")].map((line) => line.textContent));
  }
  report.foreign = place.querySelectorAll(".hovertext :not(text, tspan, path)").length;
  return JSON.stringify(report);
})().catch((error) => String(error.stack)).then((text) => { document.getElementById("report").textContent = text; });
</script>"""


@pytest.fixture(scope="module", params=["gradio", "plotly"])
def drawn(request, tmp_path_factory):
    """What a plotly.js says of every figure, in Chromium: Gradio's 3.x, and the 4.x that plotly for Python brings."""
    chromium = shutil.which("chromium")
    assert chromium, "The plots are checked in Debian's chromium: install it."
    folder = tmp_path_factory.mktemp("plots")
    own_js = package_folder("plotly") / "package_data/plotly.min.js"
    script = gradios_plotly_js() if request.param == "gradio" else own_js.read_text(encoding="utf-8")
    (folder / "plotly.js").write_text(script, encoding="utf-8")
    figures = ", ".join(f"{json.dumps(name)}: {figure.to_json()}" for name, figure in FIGURES.items())
    start = (
        '<!doctype html><meta charset="utf-8"><div id="place"></div><pre id="report"></pre><script src="plotly.js"></script>'
    )
    (folder / "page.html").write_text(f"{start}<script>const FIGURES = {{{figures}}}</script>{DRAW_ALL}", encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    flags += ["--disable-component-update", "--disable-sync", f"--user-data-dir={folder / 'profile'}"]
    command = [chromium, *flags, "--virtual-time-budget=20000", "--dump-dom", (folder / "page.html").as_uri()]
    dom = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
    report = html.unescape(re.search(r'<pre id="report">([^<]*)</pre>', dom)[1])
    return request.param, json.loads(report)


def test_every_attribute_is_known_to_both_plotly_js(drawn):
    name, report = drawn
    assert report["version"].startswith({"gradio": "3.", "plotly": "4."}[name])
    assert len(report["control"]) == 3, "the check finds attributes that do not exist"
    assert report["problems"] == {figure: [] for figure in FIGURES}


def test_an_attack_in_a_token_is_drawn_as_its_characters(drawn):
    _, report = drawn
    assert report["tokens"] == [f"“{ATTACK}${{x}}”", "“$x^2$ &lt;<b>%{x}”"]
    assert report["foreign"] == 0


def test_a_cell_of_the_map_of_norms_is_named_by_its_row_and_column_at_ticks_too(drawn):
    """Ticks have short texts of their own, which a label must not show in the names' place."""
    _, report = drawn
    assert report["cells"] == [
        ["layer 0, head 0", "position 0 (prompt)", "“<img src=x onerror=alert(1)>$x^…”", "key norm 0.00"],
        ["layer 0, head 1", "position 2 (prompt)", "token id 102, no text of its own", "key norm 8.40"],
        ["layer 0, head 1", "position 5 (prompt)", "“%{x}”", "key norm 10.5"],
    ]
