"""The Mesh tab: how weights and cache lie on the devices, what each holds, and what they must say to each other.

Planned from the config for any size; measured by a real run where this process has the devices. Knows what to ask the
engine and what draws the answers.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr

from hfjax_demo.errors import HfJaxDemoError
from hfjax_demo.kv_shapes import DTYPE_BYTES
from hfjax_demo.limits import may_type_any_model, offered_models
from hfjax_demo.model_plan import Inspection
from hfjax_demo.settings import Settings
from hfjax_demo.ui.array_cut import cut_html, drawn_arrays, first_label
from hfjax_demo.ui.components import AT_ONCE, QUIET, run_panel, text_html
from hfjax_demo.ui.device_bars import devices_html
from hfjax_demo.ui.layer_flow import flow_html
from hfjax_demo.ui.live_panels import LivePanels
from hfjax_demo.ui.mesh_html import (
    MeasuredMesh,
    agreement_html,
    collectives_html,
    devices_table_html,
    rules_html,
    summary_html,
    weights_html,
)
from hfjax_demo.ui.mesh_source import (
    NEW_TOKENS,
    find_measured,
    make_plan,
    model_choices,
    request_of,
    state_words,
    why_not_run,
)
from hfjax_demo.ui.run_history import RunHistory
from hfjax_demo.ui.runs import KEEPING, connect_stop, keep_runs, page_errors, updates_of

if TYPE_CHECKING:
    from hfjax_demo.inference.engine import InferenceEngine

SIZES = (1, 2, 3, 4, 8)
DEFAULT_SIZE = 2
DEFAULT_CONTEXT_LEN = 2048
PROMPT = "The secret to baking a good cake is"
INTRODUCTION = (
    "Tensor parallelism cuts every large matrix, so that each device holds and multiplies its part. Pick a size: the plan "
    "is made from the config alone, and changes as you type. Then run it, and see whether it was so."
)
FASTEST = AT_ONCE | {"trigger_mode": "always_last"}
"""Options of a handler of an input that changes at every key: of many changes the last counts."""


@dataclass(frozen=True)
class MeshTab:
    """What others use: the first plan is made when the tab is opened."""

    show_first: dict[str, Any]

    def connect(self, tab: gr.Tab) -> None:
        """Draws the first plan when `tab` is opened and none was drawn before."""
        tab.select(**self.show_first)


def create_mesh_tab(engine: "InferenceEngine", history: gr.State, panels: LivePanels) -> MeshTab:
    """Builds the tab inside the current Blocks.

    Args:
        engine: answers plans and serves the runs.
        history: state that holds the visit's `RunHistory`.
        panels: through which the run's panel reads every token.
    """
    gr.HTML(text_html(INTRODUCTION, class_name="explanation"))
    with gr.Row(equal_height=False):
        with gr.Column(scale=4, min_width=320):
            model, size, dtype, context, prompt = _create_inputs(engine.settings)
            problem = gr.HTML(elem_id="mesh-problem")
            with gr.Row():
                run = gr.Button(
                    "Run on this mesh", variant="primary", interactive=False, elem_id="mesh-start", min_width=120
                )
                stop = gr.Button("Stop", interactive=False, elem_id="mesh-stop", min_width=120)
            panel = run_panel(elem_id="mesh-run")
        with gr.Column(scale=7, min_width=320):
            summary = gr.HTML(elem_id="mesh-summary")
            verdict = gr.HTML(elem_id="mesh-verdict")
            devices = gr.HTML(elem_id="mesh-devices")
            flow = gr.HTML(elem_id="mesh-flow")
    with gr.Row(equal_height=False):
        with gr.Column(scale=4, min_width=320):
            array = gr.Dropdown([], label="An array, cut over the devices", filterable=True, elem_id="mesh-array")
            cut = gr.HTML(elem_id="mesh-cut")
        with gr.Column(scale=7, min_width=320):
            collectives = gr.HTML(elem_id="mesh-collectives")
    rules = gr.HTML(elem_id="mesh-rules")
    with gr.Accordion("Every weight", open=False):
        weights = gr.HTML(elem_id="mesh-weights")
    with gr.Accordion("Every device", open=False):
        table = gr.HTML(elem_id="mesh-devices-table")
    plans, measurements, run_id, made = gr.State(()), gr.State(()), gr.State(""), gr.State(())
    of_plan = [plans, problem, run, flow, rules, weights, array]
    of_run = [measurements, summary, verdict, devices, collectives, cut, table]
    inputs = [model, size, dtype, context]

    async def on_draw(history: RunHistory, seen: tuple[MeasuredMesh, ...], label: str | None, *values: Any) -> list[Any]:
        with page_errors():
            try:
                plan = await make_plan(engine, values)
            except HfJaxDemoError as err:
                refused = [gr.skip()] * (len(of_plan) + len(of_run))
                refused[1:3] = [text_html(str(err), class_name="run-error"), gr.Button(interactive=False)]
                return refused
            arrays = drawn_arrays(plan)
            label = label if label in arrays else first_label(arrays)
            can_run = why_not_run(plan, engine.settings, engine.status().environment) is None
            drawn = [flow_html(plan), rules_html(plan), weights_html(plan), gr.Dropdown(choices=list(arrays), value=label)]
            measured = await find_measured(engine, history, seen, plan)
            shown = _of_run(plan, measured, label, engine)
            return [(plan,), "", gr.Button(interactive=can_run), *drawn, *shown]

    async def on_first(plans: tuple[Inspection, ...], *rest: Any) -> list[Any]:
        return [gr.skip()] * (len(of_plan) + len(of_run)) if plans else await on_draw(*rest)

    async def on_history(
        history: RunHistory, seen: tuple[MeasuredMesh, ...], label: str | None, plans: tuple[Inspection, ...]
    ) -> list[Any]:
        with page_errors():
            if not plans:
                return [gr.skip()] * len(of_run)
            measured = await find_measured(engine, history, seen, plans[0])
            return _of_run(plans[0], measured, label, engine)

    def on_array(plans: tuple[Inspection, ...], seen: tuple[MeasuredMesh, ...], label: str | None) -> Any:
        return _cut(plans[0], seen[0] if seen else None, label) if plans else gr.skip()

    async def on_run(*values: Any) -> AsyncIterator[dict[Any, Any]]:
        with page_errors():
            is_first = True
            async for name, view, value in updates_of(engine, request_of(values), panels):
                update: dict[Any, Any] = {panel: value} | ({run_id: name} if is_first else {})
                is_first = False
                yield update | ({run_id: "", made: (view.record,) if view.record else ()} if view.is_over else {})

    draw: dict[str, Any] = {"inputs": [history, measurements, array, *inputs], "outputs": [*of_plan, *of_run], **FASTEST}
    gr.on([model.input, size.change, dtype.input, context.input], on_draw, **draw)
    array.input(on_array, [plans, measurements, array], [cut], **AT_ONCE)
    history.change(on_history, [history, measurements, array, plans], of_run, **AT_ONCE)
    ended = run.click(on_run, [*inputs, prompt], [panel, run_id, made], concurrency_limit=None, **QUIET)
    ended.success(keep_runs, [history, made], [history, made], **KEEPING)
    connect_stop(engine, stop, run_id)
    return MeshTab({"fn": on_first, **draw, "inputs": [plans, *draw["inputs"]]})


def _create_inputs(settings: Settings) -> tuple[Any, Any, Any, Any, Any]:
    """Model, size, dtype, context length and prompt."""
    may_type = may_type_any_model(settings)
    model = gr.Dropdown(
        model_choices(settings),
        value=offered_models(settings)[0],
        label="Model",
        info="Bundled configs; or type any Hub id." if may_type else "Bundled configs.",
        allow_custom_value=may_type,
        elem_id="mesh-model",
    )
    first_size = max(DEFAULT_SIZE, settings.num_processes)
    quick = gr.Radio(
        SIZES,
        value=first_size if first_size in SIZES else None,
        label="Tensor-parallel size",
        info="Devices of the mesh.",
        elem_id="mesh-quick",
    )
    size = gr.Number(first_size, label="Or any size", precision=0, elem_id="mesh-size")
    with gr.Row():
        dtype = gr.Dropdown(
            list(DTYPE_BYTES), value="float32", label="dtype", info="Of weights and cache.", elem_id="mesh-dtype"
        )
        context = gr.Number(
            DEFAULT_CONTEXT_LEN,
            label="Context length",
            info="Empty or 0: the model's own.",
            precision=0,
            elem_id="mesh-context",
        )
    prompt = gr.Textbox(PROMPT, label=f"Prompt of the run, {NEW_TOKENS} new tokens", lines=1, elem_id="mesh-prompt")
    quick.input(lambda value: value, [quick], [size], **AT_ONCE)
    size.input(lambda value: gr.Radio(value=value if value in SIZES else None), [size], [quick], **FASTEST)
    return model, size, dtype, context, prompt


def _of_run(plan: Inspection, measured: MeasuredMesh | None, label: str | None, engine: "InferenceEngine") -> list[Any]:
    """What changes when a run on this mesh has ended, as well as when the plan changes."""
    problem = why_not_run(plan, engine.settings, engine.status().environment)
    report = measured.report if measured else None
    compared = measured.plan if measured else plan
    return [
        (measured,) if measured else (),
        summary_html(plan, measured, state_words(plan, measured, problem)),
        agreement_html(measured),
        devices_html(compared, report),
        collectives_html(compared, report),
        _cut(plan, measured, label),
        devices_table_html(compared, report),
    ]


def _cut(plan: Inspection, measured: MeasuredMesh | None, label: str | None) -> str:
    array = drawn_arrays(plan).get(label or "")
    return cut_html(array, plan.mesh.size, measured.report if measured else None) if array else ""
