"""The Plan section: any model's cache and weights from its config alone, on common devices, several in one picture.

Nothing is loaded and nothing runs. Knows what to ask the engine and what draws the answers.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr

from hfjax_demo.accelerators import ACCELERATORS
from hfjax_demo.catalog import DEFAULT_MODEL
from hfjax_demo.errors import HfJaxDemoError, InvalidRequestError
from hfjax_demo.known_configs import KNOWN_CONFIGS
from hfjax_demo.kv_shapes import DTYPE_BYTES
from hfjax_demo.limits import check_may_inspect, may_type_any_model
from hfjax_demo.model_plan import Inspection
from hfjax_demo.plan_tables import TABLES
from hfjax_demo.plots.kv_plan import MAX_MODELS, PlannedCurve, context_curves, context_table
from hfjax_demo.requests import GenerationRequest
from hfjax_demo.ui.components import AT_ONCE, QUIET, csv_link, table_html
from hfjax_demo.ui.plan_html import fits_html, formula_html, summary_html
from hfjax_demo.ui.runs import page_errors

if TYPE_CHECKING:
    from hfjax_demo.inference.engine import InferenceEngine

FIRST_MODELS = [DEFAULT_MODEL, "Llama-2-7B", "Llama-3.1-8B"]
FIELDS = ("models", "config", "context_len", "batch_size", "dtype", "tensor_parallel")
HEIGHTS = ("cache alone", "weights and cache")
MAX_PASTED_CHARS = 1_000_000
"""What a browser takes of a paste: more than a config may have, so that it is refused with the reason, and no more than can
be laid out without standing still."""
SHOWN_TABLES = ("layers", "accelerators", "formula", "curve", "weights")


@dataclass(frozen=True)
class PlanSection:
    """What others use: the section's first plan is made when its tab is opened."""

    show_first: Any

    def connect(self, tab: gr.Tab) -> None:
        """Makes the first plan when `tab` is opened and none was made before."""
        tab.select(**self.show_first)


def create_plan_section(engine: "InferenceEngine") -> PlanSection:
    """Builds the section inside the current Blocks."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=4, min_width=320):
            inputs = _create_inputs(engine)
            plan = gr.Button("Plan", variant="primary", elem_id="plan")
            detail = gr.Radio([], label="In detail", visible=False, elem_id="plan-detail")
            summary = gr.HTML(elem_id="plan-summary")
        with gr.Column(scale=7, min_width=320):
            formula = gr.HTML(elem_id="plan-formula")
            height = gr.Radio(HEIGHTS, value=HEIGHTS[0], label="Bytes by context length", elem_id="plan-height")
            plot = gr.Plot(show_label=False, elem_id="plan-curves")
            with gr.Accordion("The curves as a table", open=False):
                curves = gr.HTML(elem_id="plan-curves-table")
            fits = gr.HTML(elem_id="plan-fits")
            with gr.Accordion("Every layer", open=False):
                layers = gr.HTML(elem_id="plan-layers")
            files = gr.HTML(elem_id="plan-files")
    plans = gr.State(())
    drawn, details = [plans, detail, plot, curves], [summary, formula, fits, layers, files]

    async def on_validate(*values: Any) -> list[dict[str, Any]]:
        return [gr.validate(True, ""), *await check_fields(engine, values[1:])]

    async def on_plan(shown: str, *values: Any) -> list[Any]:
        with page_errors():
            made = await make_plans(engine, values)
            names = [each.model for each in made]
            choices = gr.Radio(choices=names, value=names[0], visible=len(names) > 1)
            return [made, choices, *_curves(made, shown), *_details(made, names[0])]

    async def on_first(made: tuple[Inspection, ...], shown: str, *values: Any) -> list[Any]:
        return [gr.skip()] * (len(drawn) + len(details)) if made else await on_plan(shown, *values)

    def on_detail(made: tuple[Inspection, ...], name: str | None) -> list[str]:
        return _details(made, name) if name in [each.model for each in made] else [gr.skip()] * len(details)

    plan.click(on_plan, [height, *inputs], [*drawn, *details], validator=on_validate, concurrency_limit=None, **QUIET)
    detail.input(on_detail, [plans, detail], details, trigger_mode="always_last", **AT_ONCE)
    height.input(_curves, [plans, height], [plot, curves], trigger_mode="always_last", **AT_ONCE)
    return PlanSection({"fn": on_first, "inputs": [plans, height, *inputs], "outputs": [*drawn, *details], **AT_ONCE})


def _create_inputs(engine: "InferenceEngine") -> list[Any]:
    """The components, in the order of `FIELDS`."""
    may_type = may_type_any_model(engine.settings)
    models = gr.Dropdown(
        [(f"{known.name} · {known.note}", known.name) for known in KNOWN_CONFIGS],
        value=FIRST_MODELS,
        multiselect=True,
        max_choices=MAX_MODELS,
        allow_custom_value=may_type,
        label=f"Models, at most {MAX_MODELS}",
        info="Bundled configs; or type any Hub id." if may_type else "Bundled configs.",
        elem_id="plan-models",
    )
    with gr.Accordion("Or paste a config.json", open=False):
        config = gr.Textbox(
            label="config.json",
            lines=6,
            max_lines=16,
            max_length=MAX_PASTED_CHARS,
            info="Planned for in place of the models.",
            elem_id="plan-config",
        )
    with gr.Row():
        context = gr.Number(
            None, label="Context length", info="Empty or 0: the model's own.", precision=0, elem_id="plan-context"
        )
        batch = gr.Number(1, label="Batch size", precision=0, elem_id="plan-batch")
    with gr.Row():
        dtype = gr.Dropdown(
            list(DTYPE_BYTES), value="bfloat16", label="dtype", info="Of weights and cache.", elem_id="plan-dtype"
        )
        parts = gr.Number(1, label="Tensor-parallel size", info="Devices.", precision=0, elem_id="plan-parallel")
    return [models, config, context, batch, dtype, parts]


async def make_plans(engine: "InferenceEngine", values: Sequence[Any]) -> tuple[Inspection, ...]:
    """A plan for each model, or one for the pasted config; without the table of weights but for the first, which is long.

    Raises:
        HfJaxDemoError: of the first that cannot be planned for; `field` of an InvalidRequestError says which input.
    """
    models, config, context_len, batch_size, dtype, tensor_parallel = values
    numbers = {
        "context_len": int(context_len) if context_len else None,
        "batch_size": int(batch_size if batch_size is not None else 1),
        "dtype": dtype,
        "tensor_parallel": int(tensor_parallel if tensor_parallel is not None else 1),
    }
    if config and config.strip():
        return (await asyncio.to_thread(engine.inspect, "pasted config", config=config, **numbers),)
    names = list(dict.fromkeys(models or []))
    if not 1 <= len(names) <= MAX_MODELS:
        raise InvalidRequestError(
            f"A plan is for 1 to {MAX_MODELS} models but {len(names)} are picked. Pick some, or paste a config.json.",
            field="models",
        )
    for name in names:
        check_may_inspect(GenerationRequest("?", name, max_new_tokens=1), engine.settings)
    return tuple([await asyncio.to_thread(engine.inspect, name, **numbers) for name in names])


async def check_fields(engine: "InferenceEngine", values: Sequence[Any]) -> list[dict[str, Any]]:
    """One `gr.validate` an input: what keeps the plan from being made is said where its cause is.

    Makes the plan to find out; what it read of the configs is remembered, so the plan itself comes at once.
    """
    at, message = None, ""
    try:
        await make_plans(engine, values)
    except InvalidRequestError as err:
        at, message = err.field if err.field in FIELDS else "models", str(err)
    except HfJaxDemoError as err:
        at, message = "models", str(err)
    return [gr.validate(name != at, message) for name in FIELDS]


def _curves(plans: Sequence[Inspection], shown: str) -> list[Any]:
    """The curves of all models and their table; devices are drawn where the height is all that a device must hold."""
    if not plans:
        return [None, ""]
    lines = [PlannedCurve(plan.model, plan.curve, plan.weights.bytes_per_device, plan.max_context_len) for plan in plans]
    with_weights = shown == HEIGHTS[1]
    accelerators = ACCELERATORS if with_weights else ()
    headers, rows = context_table(lines, accelerators, with_weights)
    table = table_html("Bytes by context length", headers, rows) + csv_link("bytes-by-context", headers, rows)
    return [context_curves(lines, accelerators, with_weights), table]


def _details(plans: Sequence[Inspection], name: str | None) -> list[str]:
    """Summary, formula, what fits, every layer, and every table as a file, of one of the plans."""
    plan = next(plan for plan in plans if plan.model == name)
    files = "".join(csv_link(table, *TABLES[table](plan)) for table in SHOWN_TABLES)
    return [
        summary_html(plan),
        formula_html(plan),
        fits_html(plan),
        table_html("Every layer", *TABLES["layers"](plan)),
        f'<div class="files">Tables as CSV: {files}</div>',
    ]
