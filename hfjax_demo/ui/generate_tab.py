"""The Generate tab: what to run on the left, what happens on the right.

While a run streams, only its panel changes: Gradio sends news of every output of a handler at every update, so what is
needed once, at the beginning or the end, has handlers of its own.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr

from hfjax_demo.events import RunRecord
from hfjax_demo.plots.step_timeline import step_timeline, timeline_table
from hfjax_demo.requests import GenerationRequest
from hfjax_demo.ui import inputs as request_inputs
from hfjax_demo.ui.components import QUIET, run_panel, table_with_csv
from hfjax_demo.ui.inputs import EXAMPLES, RequestInputs
from hfjax_demo.ui.links import link_script
from hfjax_demo.ui.live_panels import LivePanels
from hfjax_demo.ui.run_view import RunView
from hfjax_demo.ui.runs import KEEPING, connect_stop, keep_runs, page_errors, updates_of
from hfjax_demo.ui.words import plural

if TYPE_CHECKING:
    from hfjax_demo.inference.engine import InferenceEngine

DEFAULT_NEW_TOKENS = 64


@dataclass(frozen=True)
class GenerateTab:
    """The tab's components that others use.

    Attributes:
        inputs: of the request.
        generate_button: starts a run; to be made interactive once the inputs hold what the page's address says.
        compare_button: leads to the Compare tab with this prompt; likewise.
        placement_box: holds dtype, devices and cache size; to be opened where the page's address says one of them.
        finished: the event after which the device line may have changed.
        notes: where what was wrong with a link is said.
    """

    inputs: RequestInputs
    generate_button: gr.Button
    compare_button: gr.Button
    placement_box: gr.Accordion
    finished: gr.events.Dependency
    notes: gr.HTML


def create_generate_tab(
    engine: "InferenceEngine",
    statuses: dict[str, str],
    history: gr.State,
    panels: LivePanels,
    recorded: RunRecord,
    link_base: str,
) -> GenerateTab:
    """Builds the tab inside the current Blocks.

    Args:
        engine: serves the requests.
        statuses: where each catalog model is.
        history: state that holds the visit's `RunHistory`.
        panels: through which the panel reads every token.
        recorded: shown, and labelled so, until the first real run.
        link_base: URL that links start with; empty means the page's own address.
    """
    with gr.Row(equal_height=False):
        with gr.Column(scale=4, min_width=320):
            notes = gr.HTML(elem_id="link-notes")
            by_field = request_inputs.create_prompt_inputs(engine.settings, statuses)
            gr.Examples([[text] for text in EXAMPLES], [by_field["prompt"]], label="Try", api_visibility="private")
            by_field |= request_inputs.create_mode_inputs("jit", "static")
            by_field["max_new_tokens"] = request_inputs.create_length_input(engine.settings, DEFAULT_NEW_TOKENS)
            with gr.Row():
                generate = gr.Button("Generate", variant="primary", interactive=False, elem_id="generate", min_width=120)
                stop = gr.Button("Stop", interactive=False, elem_id="stop", min_width=120)
            with gr.Row():
                compare = gr.Button("Compare both", interactive=False, elem_id="compare-both", min_width=120)
                copy_link = gr.Button("Copy link", elem_id="copy-link", min_width=120)
            with gr.Accordion("Sampling", open=False):
                by_field |= request_inputs.create_sampling_inputs()
            with gr.Accordion("dtype, devices, cache size", open=False) as placement_box:
                by_field |= request_inputs.create_placement_inputs(engine.settings.num_processes)
            link = gr.Textbox(
                label="Link to these inputs",
                info="Copy link writes it here and to the clipboard.",
                interactive=False,
                elem_id="link",
                buttons=["copy"],
            )
        with gr.Column(scale=7, min_width=320, elem_classes="has-plot"):
            panel = run_panel(RunView.of_record(recorded, recorded_note(recorded)).state(), elem_id="run")
            plot = gr.Plot(step_timeline(recorded), show_label=False, elem_id="timeline")
            with gr.Accordion("The same as a table", open=False, elem_id="timeline-box"):
                table = gr.HTML(steps_html(recorded), elem_id="timeline-table")
    fields = RequestInputs(by_field)
    run_id, made = gr.State(""), gr.State(())

    async def on_generate(*values: Any) -> AsyncIterator[dict[Any, Any]]:
        with page_errors():
            async for update in _run(engine, panels, request_inputs.request_from(values)):
                yield {streamed[name]: value for name, value in update.items()}

    def on_made(records: tuple[RunRecord, ...]) -> tuple[Any, Any]:
        if not records:
            return gr.skip(), gr.skip()  # the page hides them beside a run that failed
        return step_timeline(records[-1]), steps_html(records[-1])

    streamed = {"panel": panel, "run_id": run_id, "made": made}
    finished = generate.click(
        on_generate,
        fields.components,
        list(streamed.values()),
        concurrency_limit=None,
        validator=lambda *values: request_inputs.check(values, engine.settings, engine.status().environment),
        **QUIET,
    )
    drawn = finished.success(on_made, [made], [plot, table], **QUIET)
    kept = drawn.then(keep_runs, [history, made], [history, made], **KEEPING)
    connect_stop(engine, stop, run_id)
    request_inputs.connect_chat(by_field)
    copy_link.click(None, fields.components, [link], js=link_script(link_base), api_visibility="private")
    return GenerateTab(fields, generate, compare, placement_box, kept, notes)


async def _run(engine: "InferenceEngine", panels: LivePanels, request: GenerationRequest) -> AsyncIterator[dict[str, Any]]:
    """The updates of one run, by component: the panel; the run's id with the first; the record with the last."""
    is_first = True
    async for run_id, view, value in updates_of(engine, request, panels):
        ended = {"run_id": "", "made": (view.record,) if view.record else ()} if view.is_over else {}
        yield {"panel": value} | ({"run_id": run_id} if is_first else {}) | ended
        is_first = False


def steps_html(record: RunRecord) -> str:
    """The timeline's numbers beside it, and as a file."""
    return table_with_csv("Every step", "steps", *timeline_table(record))


def recorded_note(record: RunRecord) -> str:
    """What stands above the recorded run: that it is one, and its conditions."""
    where = record.environment
    versions = ", ".join(f"{name} {where.versions[name]}" for name in ("jax", "torchax") if name in where.versions)
    return (
        f"A recorded run ({where.backend}, {plural(where.num_cores, 'core')}, {versions}), so that there is something to "
        "look at. Press Generate for a real one on this machine."
    )
