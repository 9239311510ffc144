"""The Mesh tab: how weights and cache lie on the devices, what each holds, and what they must say to each other.

Planned from the config for any size; measured by a real run where this process has the devices. Knows what to ask the
engine and what draws the answers.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr

from hfjax_demo.catalog import find_in_catalog
from hfjax_demo.errors import HfJaxDemoError, InvalidRequestError
from hfjax_demo.events import EnvironmentFacts, RunRecord
from hfjax_demo.known_configs import KNOWN_CONFIGS
from hfjax_demo.kv_shapes import DTYPE_BYTES
from hfjax_demo.limits import check_limits, check_may_inspect, has_devices, may_type_any_model, offered_models
from hfjax_demo.mesh_agreement import MeshKey, agreement, capacity_of
from hfjax_demo.model_plan import Inspection
from hfjax_demo.requests import GenerationRequest
from hfjax_demo.settings import Settings
from hfjax_demo.ui.array_cut import cut_html, drawn_arrays, first_label
from hfjax_demo.ui.components import AT_ONCE, QUIET, panel_value, run_panel, text_html
from hfjax_demo.ui.device_bars import devices_html
from hfjax_demo.ui.layer_flow import flow_html
from hfjax_demo.ui.mesh_html import (
    MeasuredMesh,
    agreement_html,
    collectives_html,
    devices_table_html,
    rules_html,
    summary_html,
    weights_html,
)
from hfjax_demo.ui.run_history import RunHistory
from hfjax_demo.ui.runs import KEEPING, connect_stop, keep_runs, page_errors, views_of
from hfjax_demo.ui.words import plural

if TYPE_CHECKING:
    from hfjax_demo.inference.engine import InferenceEngine

SIZES = (1, 2, 3, 4, 8)
DEFAULT_SIZE = 2
DEFAULT_CONTEXT_LEN = 2048
NEW_TOKENS = 8
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


def create_mesh_tab(engine: "InferenceEngine", history: gr.State) -> MeshTab:
    """Builds the tab inside the current Blocks.

    Args:
        engine: answers plans and serves the runs.
        history: state that holds the visit's `RunHistory`.
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
            async for name, view in views_of(engine, request_of(values)):
                update: dict[Any, Any] = {panel: panel_value(view.state())} | ({run_id: name} if is_first else {})
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
    quick = gr.Radio(
        SIZES, value=DEFAULT_SIZE, label="Tensor-parallel size", info="Devices of the mesh.", elem_id="mesh-quick"
    )
    size = gr.Number(DEFAULT_SIZE, label="Or any size", precision=0, elem_id="mesh-size")
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


def model_choices(settings: Settings) -> list[tuple[str, str]]:
    """What the picker offers: models that a visitor may run, then configs that can be planned only."""
    notes = {known.name: known.note for known in KNOWN_CONFIGS}
    offered = offered_models(settings)
    names = [*offered, *(name for name in notes if name not in offered)]
    return [(f"{name} · {notes[name]}" if name in notes else name, name) for name in names]


async def make_plan(engine: "InferenceEngine", values: Sequence[Any]) -> Inspection:
    """The plan of the inputs' values: model, size, dtype, context length; no weight is loaded.

    Raises:
        HfJaxDemoError: what cannot be planned for; the message names the input.
    """
    model, size, dtype, context_len = values
    check_may_inspect(GenerationRequest("?", model or "", max_new_tokens=1), engine.settings)
    numbers: dict[str, Any] = {"tensor_parallel": _whole("tensor-parallel size", size), "dtype": dtype}
    if context_len:
        numbers["context_len"] = _whole("context length", context_len)
    return await asyncio.to_thread(engine.inspect, model, **numbers)


def _whole(name: str, value: Any) -> int:
    if value is None:
        raise InvalidRequestError(f"The {name} must be a whole number from 1 but is empty. Type one, such as 2.")
    return int(value)


def request_of(values: Sequence[Any]) -> GenerationRequest:
    """The run that the inputs' values ask for: jit over a fixed cache of exactly the context length.

    Raises:
        InvalidRequestError: a value breaks its rule.
    """
    model, size, dtype, context_len, prompt = values
    return GenerationRequest(
        prompt,
        model,
        max_new_tokens=NEW_TOKENS,
        ignore_eos=True,
        dtype=dtype,
        tensor_parallel=_whole("tensor-parallel size", size),
        max_cache_len=int(context_len) if context_len else None,
    )


def why_not_run(plan: Inspection, settings: Settings, environment: EnvironmentFacts | None) -> str | None:
    """Why a plan cannot be run here: the rule, the numbers, a way out; None where it can."""
    if plan.mesh.size == 1:
        return "One device holds everything, so there is nothing to measure. Pick 2 or more."
    known = find_in_catalog(plan.model)
    if known is None and "/" not in plan.model:
        return "This config is bundled without its weights. To run the model, type its Hub id."
    if environment and not has_devices(plan.mesh.size, environment):
        return _missing_devices(plan.mesh.size, environment)
    try:
        check_limits(GenerationRequest("?", plan.model, max_new_tokens=1), settings)
    except InvalidRequestError as err:
        return str(err)
    if plan.context_len > settings.max_cache_len:
        return (
            f"A run's cache may have at most {settings.max_cache_len:,} positions here but this plan has "
            f"{plan.context_len:,}. Plan for fewer."
        )
    return None


def _missing_devices(size: int, environment: EnvironmentFacts) -> str:
    devices, processes = plural(environment.num_devices, "device"), environment.num_processes
    has = f"This process has {devices}" if processes == 1 else f"These {processes} processes have {devices}"
    each = "" if processes == 1 else " on each"
    way_out = f"start it with --devices {-(-size // processes)}{each}" if environment.backend == "cpu" else "pick fewer"
    return f"{has} and cannot run it: {way_out}."


def state_words(plan: Inspection, measured: MeasuredMesh | None, problem: str | None) -> str:
    """What stands beside "planned": where it is from, and what a visitor can do."""
    if measured:
        beside = f"from the config; {measured.name} on this mesh is beside it."
        if measured.plan.context_len != plan.context_len:
            beside += f" Bytes of the devices are at that run's {measured.plan.context_len:,} positions."
        return beside
    source = "from the config; nothing has run on this mesh yet."
    return f"{source} {problem or 'Press “Run on this mesh” to measure it.'}"


async def find_measured(
    engine: "InferenceEngine", history: RunHistory, seen: tuple[MeasuredMesh, ...], plan: Inspection
) -> MeasuredMesh | None:
    """The visit's newest run on the planned mesh, held against the plan of its own cache length; None without one.

    Args:
        engine: plans for that length.
        history: of the visit.
        seen: what was found last, if anything; the same run is not read again.
        plan: of the inputs.
    """
    run = history.newest_on(MeshKey(plan.model, plan.mesh.size, plan.dtype))
    if run is None:
        return None
    if seen and seen[0].name == run.name:
        return seen[0]
    record: RunRecord = await asyncio.to_thread(lambda: run.record)
    assert record.mesh is not None  # or the history would not have found it
    numbers: dict[str, Any] = {"dtype": plan.dtype, "tensor_parallel": plan.mesh.size}
    numbers["context_len"] = capacity_of(record)
    at_its_length = await asyncio.to_thread(engine.inspect, plan.model, **numbers)
    return MeasuredMesh(run.name, at_its_length, record.mesh, agreement(at_its_length, record.mesh))


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
