"""The Compare tab: the same prompt through two settings, one after the other, then the verdict.

The two runs take turns, because two at once would slow each other down and measure nothing.
"""

import asyncio
import html
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr

from hfjax_demo.comparison import Comparison, compare_runs
from hfjax_demo.events import RunRecord
from hfjax_demo.plots.race import race, race_table
from hfjax_demo.requests import GenerationRequest
from hfjax_demo.ui import inputs as request_inputs
from hfjax_demo.ui.components import run_panel, table_html, text_html
from hfjax_demo.ui.inputs import FIELDS, RequestInputs
from hfjax_demo.ui.run_view import RunView
from hfjax_demo.ui.runs import connect_stop, keep_runs, page_errors, views_of
from hfjax_demo.ui.words import setting_words

if TYPE_CHECKING:
    from hfjax_demo.inference.engine import InferenceEngine

DEFAULT_NEW_TOKENS = 16
MAX_TOKENS_FROM_GENERATE = 16
"""Eager takes seconds a token on small machines: what "Compare both" carries over is cut to this."""


@dataclass(frozen=True)
class CompareTab:
    """What others use: the inputs (mode and cache are the baseline's), how to start a run, how to keep its records."""

    inputs: RequestInputs
    run: dict[str, Any]
    keep: dict[str, Any]


def create_compare_tab(engine: "InferenceEngine", statuses: dict[str, str], history: gr.State) -> CompareTab:
    """Builds the tab inside the current Blocks; arguments as `create_generate_tab`'s."""
    with gr.Row(equal_height=False):
        with gr.Column(min_width=300):
            by_field = request_inputs.create_prompt_inputs(engine.settings, statuses, "compare-")
            by_field["max_new_tokens"] = request_inputs.create_length_input(engine.settings, DEFAULT_NEW_TOKENS, "compare-")
            with gr.Row():
                start = gr.Button("Compare", variant="primary", elem_id="compare", min_width=120)
                stop = gr.Button("Stop", interactive=False, elem_id="compare-stop", min_width=120)
        with gr.Column(min_width=300):
            by_field |= request_inputs.create_mode_inputs("eager", "dynamic", "baseline-", "Left: run as")
            candidate = request_inputs.create_mode_inputs("jit", "static", "candidate-", "Right: run as")
            with gr.Accordion("Sampling", open=False):
                by_field |= request_inputs.create_sampling_inputs()
            with gr.Accordion("dtype, devices, cache size", open=False):
                by_field |= request_inputs.create_placement_inputs()
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
    components = {"left": left, "right": right, "verdict": verdict, "plot": plot, "table": table, "table_box": table_box}
    components |= {"stop": stop, "run_id": run_id, "made": made}

    async def on_compare(*values: Any) -> AsyncIterator[dict[Any, Any]]:
        with page_errors():
            baseline, other = requests_from(values)
            async for update in _run_both(engine, baseline, other):
                yield {components[name]: value for name, value in update.items()}

    def on_validate(*values: Any) -> list[dict[str, Any]]:
        # The candidate's mode and cache are legal by their pickers; its other fields are the baseline's.
        return [*request_inputs.check(values[: len(FIELDS)], engine.settings), *[gr.validate(True, "")] * 2]

    run: dict[str, Any] = {
        "fn": on_compare,
        "inputs": inputs,
        "outputs": list(components.values()),
        "api_visibility": "private",
        "concurrency_limit": None,
        "show_progress": "hidden",
    }
    keep: dict[str, Any] = {"fn": keep_runs, "inputs": [history, made], "outputs": [history, made]}
    keep |= {"api_visibility": "private", "show_progress": "hidden"}
    start.click(**run, validator=on_validate).then(**keep)
    connect_stop(engine, stop, run_id)
    request_inputs.connect_chat(by_field)
    return CompareTab(fields, run, keep)


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


async def _run_both(
    engine: "InferenceEngine", baseline: GenerationRequest, candidate: GenerationRequest
) -> AsyncIterator[dict[str, Any]]:
    """The updates of both runs, by component; a run that is stopped or fails ends the comparison."""
    records: list[RunRecord] = []
    yield {
        "left": RunView(baseline).state(),
        "right": RunView(candidate).state() | {"status": "starts when the left one is done", "has_clock": False},
        "verdict": "",
        "stop": gr.Button(interactive=True),
    }
    for side, request in (("left", baseline), ("right", candidate)):
        told_id = ""
        async for run_id, view in views_of(engine, request):
            yield {side: view.state()} | ({"run_id": run_id} if run_id != told_id else {})
            told_id = run_id
        if view.record is not None:
            records.append(view.record)
        if view.is_stopped:
            yield _ended(f"The comparison ended early: the {side} run did not finish.", records)
            return
    yield await asyncio.to_thread(_result, records[0], records[1])


def _ended(verdict: str, records: list[RunRecord]) -> dict[str, Any]:
    ended = {"stop": gr.Button(interactive=False), "run_id": "", "made": tuple(records)}
    return ended | {"verdict": text_html(verdict, class_name="explanation")}


def _result(baseline: RunRecord, candidate: RunRecord) -> dict[str, Any]:
    """The updates that end a comparison: verdict, race, both caches on one scale, and where the texts part."""
    comparison = compare_runs(baseline, candidate)
    labels = setting_words(baseline.request), setting_words(candidate.request)
    update = _ended("", [baseline, candidate]) | {
        "verdict": verdict_html(comparison),
        "plot": gr.Plot(race(baseline, candidate, *labels), visible=True),
        "table": table_html("Seconds since the start, by token", *race_table(baseline, candidate, *labels)),
        "table_box": gr.Accordion(visible=True),
    }
    columns = max(RunView.of_record(record).columns for record in (baseline, candidate))
    for side, record in (("left", baseline), ("right", candidate)):
        view = RunView.of_record(record, least_columns=columns)
        if comparison.first_difference is not None:
            view.mark_difference(comparison.first_difference)
        update[side] = view.state()
    return update


def verdict_html(comparison: Comparison) -> str:
    """The verdict's sentences, the first one large, then what makes it a comparison of unlike things."""
    first, *others = comparison.verdict
    lines = [f'<p class="verdict-main">{html.escape(first)}</p>', *(text_html(line) for line in others)]
    lines += [text_html(caveat, class_name="caveat") for caveat in comparison.caveats]
    return f'<div class="verdict" role="status">{"".join(lines)}</div>'
