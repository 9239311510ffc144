"""The page: header, tabs, and what happens when it is opened. One file a tab."""

import gzip
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import gradio as gr

from hfjax_demo.events import EngineStatus, RunRecord
from hfjax_demo.permalink import decode_permalink
from hfjax_demo.plain_json import from_dict
from hfjax_demo.ui.api import create_api
from hfjax_demo.ui.compare_tab import MAX_TOKENS_FROM_GENERATE, CompareTab, create_compare_tab
from hfjax_demo.ui.components import ASSETS, AT_ONCE, QUIET, text_html
from hfjax_demo.ui.generate_tab import GenerateTab, create_generate_tab
from hfjax_demo.ui.health import device_words
from hfjax_demo.ui.history_tab import create_history_tab
from hfjax_demo.ui.inputs import FIELDS, caches_for, check, parallel_info
from hfjax_demo.ui.kv_cache_tab import create_kv_cache_tab
from hfjax_demo.ui.links import link_base, link_notes
from hfjax_demo.ui.live_panels import LivePanels
from hfjax_demo.ui.mesh_tab import create_mesh_tab
from hfjax_demo.ui.run_history import RunHistory

if TYPE_CHECKING:
    from hfjax_demo.inference.engine import InferenceEngine

UPLOADS_KEPT_S = (3600, 6 * 3600)
"""How often uploaded files are looked through, and how old they get."""
PLACEMENT_FIELDS = {"dtype", "tensor_parallel", "max_cache_len"}
SHARED_FIELDS = tuple(name for name in FIELDS if name not in ("mode", "cache"))
"""What both tabs ask for; the Compare tab has a mode and a cache for each side."""
RECORDED_RUN = ASSETS / "recorded_run.json.gz"

HEADER = """<div class="page-head"><h1>hfjax_demo</h1>
<p>Hugging Face models, written in PyTorch, running on JAX — with every step made visible.</p></div>"""

WHAT_IS_THIS = """<details class="what-is-this"><summary>What am I looking at?</summary>
<p>A language model writes one token at a time. torchax dresses a <code>jax.Array</code> as a <code>torch.Tensor</code>, so
the unchanged PyTorch model runs on JAX.</p>
<p><b>eager</b> runs every operator on its own. With a cache of keys and values that <b>grows</b> by one position a step,
every shape is new every time, and JAX compiles operator after operator. With a cache of <b>fixed</b> size the shapes stay,
and <b>jit</b> compiles one whole step once and uses it for every token.</p>
<p>Press <b>Generate</b>, then <b>Compare both</b>. Every number is of a real run on this machine; hover over it to see
how it was measured. <i>Cold</i> means that something had to be compiled first, <i>warm</i> that all was
ready.</p></details>"""


def build_demo(engine: "InferenceEngine", panels: LivePanels) -> gr.Blocks:
    """The whole page over one engine; launches nothing. Who serves it answers for `panels` as well."""
    statuses = {model.name: status for model, status in engine.models()}
    recorded = load_recorded_run()
    with gr.Blocks(title="hfjax_demo", analytics_enabled=False, delete_cache=UPLOADS_KEPT_S) as demo:
        gr.HTML(HEADER)
        device_line = gr.HTML(device_html(engine.status()), elem_id="device-line")
        gr.HTML(WHAT_IS_THIS)
        history = gr.State(RunHistory(), time_to_live=6 * 3600)
        # States whose change starts something. Gradio 6.31 tells of it when a queued handler has ended, but of one in a tab
        # never opened also before that, with the inputs of before: so these are outside the tabs.
        asked, moved = gr.State(0), gr.State(0)
        with gr.Tabs() as tabs:
            with gr.Tab("Generate", id="generate"):
                generate_tab = create_generate_tab(engine, statuses, history, panels, recorded, link_base())
            with gr.Tab("Compare", id="compare"):
                compare_tab = create_compare_tab(engine, statuses, history, panels, asked)
            with gr.Tab("KV cache", id="kv-cache"):
                create_kv_cache_tab(engine, history, moved)
            with gr.Tab("Mesh", id="mesh") as mesh_page:
                create_mesh_tab(engine, history, panels).connect(mesh_page)
            with gr.Tab("History", id="history") as history_page:
                create_history_tab(history).connect(history_page)
        create_api(engine)
        _connect_compare(engine, generate_tab, compare_tab, tabs, asked)
        ended = [generate_tab.finished.then, compare_tab.finished.then]
        # Between these the page's script asks the health check: every event of Gradio's own, as of a timer, takes away what
        # was said at a field.
        for listen in (demo.load, *ended):
            listen(lambda: device_html(engine.status()), None, [device_line], **AT_ONCE)
        _connect_link(engine, demo, generate_tab, compare_tab, tabs)
    return demo


def load_recorded_run() -> RunRecord:
    """The run that the page shows before the first real one: made by `generate --json`, its conditions inside it."""
    return from_dict(RunRecord, json.loads(gzip.decompress(RECORDED_RUN.read_bytes())))


def device_html(status: EngineStatus) -> str:
    """The live device line."""
    return text_html(device_words(status), class_name="device-line")


def _connect_compare(
    engine: "InferenceEngine", generate_tab: GenerateTab, compare_tab: CompareTab, tabs: gr.Tabs, asked: gr.State
) -> None:
    """The button "Compare both" takes the Generate tab's inputs along, opens the Compare tab and starts it."""

    def carried(values: Sequence[Any]) -> dict[str, Any]:
        fields = dict(zip(FIELDS, values, strict=True)) | {"mode": "eager", "cache": "dynamic"}
        return fields | {"max_new_tokens": min(fields["max_new_tokens"], MAX_TOKENS_FROM_GENERATE)}

    def on_validate(*values: Any) -> list[dict[str, Any]]:
        given = list(carried(values[:-1]).values())
        return [*check(given, engine.settings, engine.status().environment), gr.validate(True, "")]

    def on_take(*values: Any) -> list[Any]:
        *given, times_asked = values
        fields = carried(given)
        return [*(fields[name] for name in SHARED_FIELDS), gr.Tabs(selected="compare"), times_asked + 1]

    outputs = [*(compare_tab.inputs.by_field[name] for name in SHARED_FIELDS), tabs, asked]
    inputs = [*generate_tab.inputs.components, asked]
    generate_tab.compare_button.click(on_take, inputs, outputs, validator=on_validate, **QUIET)


def _connect_link(
    engine: "InferenceEngine", demo: gr.Blocks, generate_tab: GenerateTab, compare_tab: CompareTab, tabs: gr.Tabs
) -> None:
    """Puts what the page's address says into the inputs of both tabs; nothing runs by that.

    The buttons that start runs come to life with it: who is quicker than that would run what the link does not say.
    """

    def on_load(request: gr.Request) -> list[Any]:
        link = decode_permalink(dict(request.query_params))
        said = {name: link.values.get(name, gr.skip()) for name in FIELDS}
        # JAX comes up while the page is built: how many devices there are is known by now.
        told: dict[str, Any] = {"info": parallel_info(engine.status().environment)}
        if "tensor_parallel" in link.values:
            told["value"] = link.values["tensor_parallel"]
        said["tensor_parallel"] = gr.update(**told)
        compared = [said[name] for name in SHARED_FIELDS]
        if "mode" in link.values:
            said["cache"] = caches_for(str(link.values["mode"]), str(link.values.get("cache", "")))
        notes = "".join(text_html(note, class_name="link-note") for note in link_notes(link))
        selected = gr.Tabs(selected=link.tab or "generate")
        # An error is said at its field, and a field in a closed box is not there to be seen.
        box = gr.Accordion(open=True) if PLACEMENT_FIELDS & link.values.keys() else gr.skip()
        return [*said.values(), *compared, notes, selected, box, *[gr.Button(interactive=True)] * 3]

    buttons = [generate_tab.generate_button, generate_tab.compare_button, compare_tab.compare_button]
    compared = [compare_tab.inputs.by_field[name] for name in SHARED_FIELDS]
    placed = [generate_tab.notes, tabs, generate_tab.placement_box, *buttons]
    demo.load(on_load, None, [*generate_tab.inputs.components, *compared, *placed], **AT_ONCE)
