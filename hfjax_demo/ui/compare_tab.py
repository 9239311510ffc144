"""The Compare tab: the same prompt through two settings, one after the other, then the verdict.

The two runs take turns, because two at once would slow each other down and measure nothing.
"""

import html
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr

from hfjax_demo.comparison import Comparison, compare_runs
from hfjax_demo.errors import HfJaxDemoError
from hfjax_demo.events import EnvironmentFacts, FailedEvent, RunRecord
from hfjax_demo.plots.race import race, race_table
from hfjax_demo.requests import GenerationRequest
from hfjax_demo.settings import Settings
from hfjax_demo.ui import inputs as request_inputs
from hfjax_demo.ui.components import AT_ONCE, QUIET, panel_value, run_panel, table_with_csv, text_html
from hfjax_demo.ui.inputs import FIELDS, RequestInputs
from hfjax_demo.ui.live_panels import LivePanels
from hfjax_demo.ui.run_view import RunView
from hfjax_demo.ui.runs import KEEPING, connect_stop, keep_runs, page_errors, updates_of
from hfjax_demo.ui.words import setting_words

if TYPE_CHECKING:
    from hfjax_demo.inference.engine import InferenceEngine

DEFAULT_NEW_TOKENS = 16
SIDES = ("left", "right")
MAX_TOKENS_FROM_GENERATE = 16
"""Eager takes seconds a token on small machines: what "Compare both" carries over is cut to this."""


@dataclass(frozen=True)
class CompareTab:
    """The tab's components that others use.

    Attributes:
        inputs: of both requests; mode and cache are the baseline's.
        compare_button: starts a comparison; to be made interactive once the inputs hold what the page's address says.
        finished: the event after which the device line may have changed.
    """

    inputs: RequestInputs
    compare_button: gr.Button
    finished: gr.events.Dependency


def create_compare_tab(
    engine: "InferenceEngine", statuses: dict[str, str], history: gr.State, panels: LivePanels, asked: gr.State
) -> CompareTab:
    """Builds the tab inside the current Blocks.

    Args:
        engine: serves the requests.
        statuses: where each catalog model is.
        history: state that holds the visit's `RunHistory`.
        panels: through which the two panels read every token.
        asked: state that counts how often another tab asked for a comparison; a change of it starts one; outside all tabs.
    """
    with gr.Row(equal_height=False):
        with gr.Column(min_width=300):
            by_field = request_inputs.create_prompt_inputs(engine.settings, statuses, "compare-")
            by_field["max_new_tokens"] = request_inputs.create_length_input(engine.settings, DEFAULT_NEW_TOKENS, "compare-")
            with gr.Row():
                start = gr.Button("Compare", variant="primary", interactive=False, elem_id="compare", min_width=120)
                stop = gr.Button("Stop", interactive=False, elem_id="compare-stop", min_width=120)
        with gr.Column(min_width=300):
            by_field |= request_inputs.create_mode_inputs("eager", "dynamic", "baseline-", "Left: run as")
            candidate = request_inputs.create_mode_inputs("jit", "static", "candidate-", "Right: run as")
            with gr.Accordion("Sampling", open=False):
                by_field |= request_inputs.create_sampling_inputs()
            with gr.Accordion("dtype, devices, cache size", open=False):
                by_field |= request_inputs.create_placement_inputs(prefix="compare-")
    verdict = gr.HTML(text_html(HINT, class_name="explanation"), elem_id="verdict")
    with gr.Row(equal_height=False):
        with gr.Column(min_width=300):
            left = run_panel(elem_id="left-run")
        with gr.Column(min_width=300):
            right = run_panel(elem_id="right-run")
    plot = gr.Plot(show_label=False, visible=False, elem_id="race")
    with gr.Accordion("The race as a table", open=False, visible=False) as table_box:
        table = gr.HTML(elem_id="race-table")
    fields, run_id, made = RequestInputs(by_field), gr.State(""), gr.State(())
    inputs = [*fields.components, candidate["mode"], candidate["cache"]]
    streamed = {"left": left, "right": right, "run_id": run_id, "made": made}

    async def on_compare(*values: Any) -> AsyncIterator[dict[Any, Any]]:
        with page_errors():
            async for update in run_both(engine, panels, *requests_from(values)):
                yield {streamed[name]: value for name, value in update.items()}

    def on_validate(*values: Any) -> list[dict[str, Any]]:
        return check_both(values, engine.settings, engine.status().environment)

    # One handler for both ways to start: while a comparison runs, another request for one is left alone, and two never
    # stream into the same panels. Only the panels change meanwhile: what is needed once, at the end, has its own handlers.
    ended = gr.on(
        [start.click, asked.change],
        on_compare,
        inputs,
        list(streamed.values()),
        trigger_mode="once",
        concurrency_limit=None,
        validator=on_validate,
        **QUIET,
    )
    drawn = ended.success(_outcome, [made], [verdict, plot, table, table_box, left, right], **QUIET)
    kept = drawn.then(keep_runs, [history, made], [history, made], **KEEPING)
    run_id.change(_cleared, [run_id], [verdict, plot, table_box], **AT_ONCE)
    connect_stop(engine, stop, run_id)
    request_inputs.connect_chat(by_field)
    return CompareTab(fields, start, kept)


HINT = (
    "Left runs first, then right, on the same prompt. Then: how much faster, with and without compiling, when jit had "
    "paid for its compilation, and whether every token is the same."
)


def requests_from(values: Any) -> tuple[GenerationRequest, GenerationRequest]:
    """Both requests from the inputs' values: the fields, then the candidate's mode and cache.

    Raises:
        InvalidRequestError: a field breaks its rule.
    """
    *fields, mode, cache = values
    baseline = request_inputs.request_from(fields)
    other = list(fields)
    other[FIELDS.index("mode")], other[FIELDS.index("cache")] = mode, cache
    return baseline, request_inputs.request_from(other)


def check_both(values: Sequence[Any], settings: Settings, environment: EnvironmentFacts | None) -> list[dict[str, Any]]:
    """One `gr.validate` an input: the first rule that the baseline breaks, or else the candidate, at its component."""
    *fields, mode, cache = values
    checked = request_inputs.check(fields, settings, environment)
    if any(not field["is_valid"] for field in checked):
        return [*checked, gr.validate(True, ""), gr.validate(True, "")]
    fields[FIELDS.index("mode")], fields[FIELDS.index("cache")] = mode, cache
    other = request_inputs.check(fields, settings, environment)
    own = [other[FIELDS.index("mode")], other[FIELDS.index("cache")]]
    for name in ("mode", "cache"):
        other[FIELDS.index(name)] = gr.validate(True, "")
    return [*other, *own]


async def run_both(
    engine: "InferenceEngine", panels: LivePanels, baseline: GenerationRequest, candidate: GenerationRequest
) -> AsyncIterator[dict[str, Any]]:
    """The updates of both runs, by component; a run that is stopped or fails ends the comparison."""
    records: list[RunRecord] = []
    waiting = RunView(candidate).state() | {"status": "starts when the left one is done", "has_clock": False}
    yield {"left": panel_value(RunView(baseline).state()), "right": panel_value(waiting)}
    for side, request in (("left", baseline), ("right", candidate)):
        told_id = ""
        try:
            async for run_id, view, value in updates_of(engine, request, panels):
                if view.record is not None:
                    records.append(view.record)
                yield {side: value} | ({"run_id": run_id} if run_id != told_id else {})
                told_id = run_id
        except HfJaxDemoError as err:  # refused, as by a full queue: said where the run would have been
            view = RunView(request)
            view.apply(FailedEvent(type(err).__name__, str(err)))
            yield {side: panel_value(view.state())}
        if len(records) < SIDES.index(side) + 1 or is_cut_short(records[-1]):
            break
    yield {"run_id": "", "made": tuple(records)}


def is_cut_short(record: RunRecord) -> bool:
    """Whether somebody stopped the run, so that there is nothing to compare it with."""
    return record.finish_reason == "stopped"


def _outcome(records: tuple[RunRecord, ...]) -> list[Any]:
    """What ends a comparison: verdict, race, its table and accordion, and both panels on one scale, differences marked."""
    finished = [record for record in records if not is_cut_short(record)]
    if len(finished) < len(SIDES):
        ended = f"The comparison ended early: the {SIDES[len(finished)]} run did not finish."
        return [text_html(ended, class_name="explanation"), *[gr.skip()] * 5]
    baseline, candidate = finished
    comparison = compare_runs(baseline, candidate)
    labels = setting_words(baseline.request), setting_words(candidate.request)
    columns = max(RunView.of_record(record).columns for record in finished)
    views = [RunView.of_record(record, least_columns=columns) for record in finished]
    if comparison.first_difference is not None:
        for view in views:
            view.mark_difference(comparison.first_difference)
    return [
        verdict_html(comparison),
        gr.Plot(race(baseline, candidate, *labels), visible=True),
        table_with_csv("Seconds since the start, by token", "race", *race_table(baseline, candidate, *labels)),
        gr.Accordion(visible=True),
        *(panel_value(view.state()) for view in views),
    ]


def _cleared(run_id: str) -> list[Any]:
    """Verdict, race and its accordion of the comparison before go when another one begins."""
    return ["", gr.Plot(visible=False), gr.Accordion(visible=False)] if run_id else [gr.skip()] * 3


def verdict_html(comparison: Comparison) -> str:
    """The verdict's sentences, the first one large, then what makes it a comparison of unlike things."""
    first, *others = comparison.verdict
    lines = [f'<p class="verdict-main">{html.escape(first)}</p>', *(text_html(line) for line in others)]
    lines += [text_html(caveat, class_name="caveat") for caveat in comparison.caveats]
    return f'<div class="verdict" role="status">{"".join(lines)}</div>'
