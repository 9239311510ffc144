"""The History tab: this visit's runs, replayed, compared, exported and imported. No model runs here.

Knows records and what draws them; nothing of how they are made.
"""

import html
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from hfjax_demo.comparison import compare_runs
from hfjax_demo.errors import InvalidRequestError
from hfjax_demo.events import RunRecord
from hfjax_demo.plots.hover_text import shown_text
from hfjax_demo.plots.race import race, race_table
from hfjax_demo.plots.step_timeline import step_timeline, timeline_table
from hfjax_demo.ui.compare_tab import verdict_html
from hfjax_demo.ui.components import ASSETS, AT_ONCE, QUIET, panel_value, run_panel, table_with_csv, text_html
from hfjax_demo.ui.run_history import MAX_RUNS, RunHistory, StoredRun, import_json
from hfjax_demo.ui.run_view import RunView
from hfjax_demo.ui.runs import KEEPING, keep_runs, page_errors

EMPTY = (
    "No run in this visit yet. Make one on the Generate or the Compare tab, or import a run record: the JSON that Export "
    "saves and that the command line prints with “generate --json”."
)
FILLED = (
    f"Pick a run to see it again, drawn from its record without a model. A visit keeps its last {MAX_RUNS} runs until the "
    "page is reloaded: export those you want to keep."
)
NO_OTHER = ("no other run", "")
TOKENS_BEFORE, TOKENS_AFTER = 12, 6
"""Shown around the first token that differs."""
MAX_CONTEXT_CHARS = 160
MAX_ROWS = 1000
"""Of a table: a browser takes seconds to lay out thousands."""


@dataclass(frozen=True)
class HistoryTab:
    """The tab's parts that others use.

    Attributes:
        picked: what `pick_script` reads and changes: the run on view, its baseline, the run that is to be picked once it is
            in the list, and whether the tab was ever opened.
        names: of the runs in the list, which `pick_script` reads too.
        pick_script: JavaScript that picks the run on view.
    """

    picked: list[Any]
    names: gr.JSON
    pick_script: str

    def connect(self, tab: gr.Tab) -> None:
        """Shows the newest run when `tab` is opened and none was picked before: at once, or when there is one."""
        opening = f"(names, picked, other, wanted) => ({self.pick_script})(names, picked, other, wanted, true)"
        tab.select(None, [self.names, *self.picked], self.picked, js=opening, **AT_ONCE)


def create_history_tab(history: gr.State) -> HistoryTab:
    """Builds the tab inside the current Blocks; its list follows every change of `history`.

    Args:
        history: state that holds the visit's `RunHistory`.
    """
    with gr.Row(equal_height=False):
        with gr.Column(scale=4, min_width=320):
            hint = gr.HTML(text_html(EMPTY, class_name="explanation"), elem_id="history-hint")
            runs = gr.Radio([], label="Runs of this visit", visible=False, elem_id="runs")
            other = gr.Dropdown(
                [NO_OTHER],
                value="",
                label="Compare with",
                info="That run is the baseline.",
                filterable=False,
                visible=False,
                elem_id="compare-with",
            )
            with gr.Row():
                export = gr.Button("Export JSON", interactive=False, elem_id="export", min_width=120)
                upload = gr.UploadButton(
                    "Import JSON", file_types=[".json"], file_count="multiple", elem_id="import", min_width=120
                )
        with gr.Column(scale=7, min_width=320, elem_classes="has-plot"), gr.Column(visible=False) as view:
            verdict = gr.HTML(elem_id="history-verdict")
            race_plot = gr.Plot(show_label=False, visible=False, elem_id="history-race")
            with gr.Accordion("The race as a table", open=False, visible=False) as race_box:
                race_rows = gr.HTML(elem_id="history-race-table")
            panel = run_panel(elem_id="history-run")
            plot = gr.Plot(show_label=False, elem_id="history-timeline")
            with gr.Accordion("The same as a table", open=False):
                table = gr.HTML(elem_id="history-table")
    file, names = gr.JSON(visible=False), gr.JSON([], visible=False)
    wanted, is_open = gr.Textbox(visible=False), gr.Checkbox(visible=False)
    read = gr.State(())
    replayed = [view, export, plot, table]
    compared = [panel, verdict, race_plot, race_box, race_rows]
    picked = [runs, other, wanted, is_open]
    pick_script = (ASSETS / "pick_run.js").read_text(encoding="utf-8")

    def on_pick(history: RunHistory, name: str | None, other_name: str) -> list[Any]:
        with page_errors():
            return [*replay(history, name), *compare(history, name, other_name)]

    def on_export(history: RunHistory, name: str) -> dict[str, str]:
        with page_errors():
            run = history.get(name)
            return {"name": run.file_name, "content": run.json}

    def on_upload(paths: list[str]) -> tuple[RunRecord, ...]:
        with page_errors():
            return read_files(paths)

    async def on_read(history: RunHistory, records: tuple[RunRecord, ...]) -> tuple[Any, ...]:
        history, _ = await keep_runs(history, records, is_imported=True)
        return history, (), history.runs[-1].name

    # One handler for every cause, `always_last`: two at once could answer in the wrong order, and a change that comes while
    # another is answered must not be lost.
    listed = history.change(lists_of, [history], [hint, runs, other, names], **AT_ONCE)
    listed.then(None, [names, *picked], picked, js=pick_script, **AT_ONCE)
    gr.on(
        [runs.change, other.input],
        on_pick,
        [history, runs, other],
        [*replayed, *compared],
        trigger_mode="always_last",
        **QUIET,
    )
    exported = export.click(on_export, [history, runs], [file], **QUIET)
    exported.success(None, [file], None, js=(ASSETS / "save_file.js").read_text(encoding="utf-8"), **QUIET)
    uploaded = upload.upload(on_upload, [upload], [read], trigger_mode="always_last", **QUIET)
    uploaded.success(on_read, [history, read], [history, read, wanted], **KEEPING)
    return HistoryTab(picked, names, pick_script)


def lists_of(history: RunHistory) -> list[Any]:
    """Hint, list, list of baselines and the runs' names, newest first; what is picked is decided in the browser."""
    choices = [(run.label, run.name) for run in reversed(history.runs)]
    baselines = [(run.title, run.name) for run in reversed(history.runs)]
    return [
        text_html(FILLED if choices else EMPTY, class_name="explanation"),
        gr.update(choices=choices, visible=bool(choices)),
        gr.update(choices=[NO_OTHER, *baselines], visible=len(choices) > 1),
        [name for _, name in choices],
    ]


def replay(history: RunHistory, name: str | None) -> list[Any]:
    """Updates of the right column, the export button, timeline and its table; all but the panel, which `compare` draws.

    Raises:
        InvalidRequestError: the history has no run of that name.
    """
    if not name:
        return [gr.Column(visible=False), gr.Button(interactive=False), None, ""]
    record = history.get(name).record
    table = rows_html("Every step", f"steps-{name}", *timeline_table(record))
    return [gr.Column(visible=True), gr.Button(interactive=True), step_timeline(record), table]


def compare(history: RunHistory, name: str | None, other_name: str) -> list[Any]:
    """Updates of the panel, the verdict, the race, its accordion and its table; the last four are empty without a baseline.

    Raises:
        InvalidRequestError: the history has no run of one of the names.
    """
    if not name:
        return [None, "", *_no_race()]
    run = history.get(name)
    record = run.record
    view = RunView.of_record(record, note_of(run, record))
    if not other_name:
        return [panel_value(view.state()), "", *_no_race()]
    if other_name == name:
        itself = f"This is {name} against itself. Pick another run to compare it with."
        return [panel_value(view.state()), text_html(itself, class_name="explanation"), *_no_race()]
    other = history.get(other_name)
    baseline = other.record
    comparison = compare_runs(baseline, record)
    verdict = verdict_html(comparison)
    if comparison.first_difference is not None:
        view.mark_difference(comparison.first_difference)
        sides = {f"{other_name}, baseline": baseline, f"{name}, candidate": record}
        verdict += difference_html(comparison.first_difference, sides)
    labels = other.title, run.title
    rows = rows_html("Seconds since the start, by token", f"race-{name}", *race_table(baseline, record, *labels))
    figure = gr.Plot(race(baseline, record, *labels), visible=True)
    return [panel_value(view.state()), verdict, figure, gr.Accordion(visible=True), rows]


def _no_race() -> list[Any]:
    return [gr.Plot(None, visible=False), gr.Accordion(visible=False), ""]


def rows_html(caption: str, file_name: str, headers: list[str], rows: list[list[object]]) -> str:
    """A table of the first rows, how many were left out, and a file of all."""
    left_out = f"{len(rows) - MAX_ROWS:,} more rows are left out here; the file has every one."
    table = table_with_csv(caption, file_name.replace(" ", "-"), headers, rows, MAX_ROWS)
    return table + (text_html(left_out) if len(rows) > MAX_ROWS else "")


def note_of(run: StoredRun, record: RunRecord) -> str:
    """What the panel says above a replayed run: that nothing runs, and where it was made if it came from a file."""
    if not run.is_imported:
        return f"{run.name}, drawn from its record: no model is running."
    where = record.environment
    made_on = (
        f"{where.backend} ×{where.num_devices} with {where.num_cores} cores, jax {where.versions.get('jax', 'unknown')}"
    )
    return f"{run.name}, drawn from a file: no model is running. By its own account it was made on {made_on}."


def difference_html(index: int, records: dict[str, RunRecord]) -> str:
    """Each run's text around the token at `index`, that token marked; a run that had ended there says so."""
    lines = []
    for name, record in records.items():
        texts = [step.text for step in record.steps]
        before = "".join(texts[max(0, index - TOKENS_BEFORE) : index])[-MAX_CONTEXT_CHARS:]
        after = "".join(texts[index + 1 : index + 1 + TOKENS_AFTER])
        token = texts[index] or f"token {record.token_ids[index]}" if index < len(texts) else "the end"
        lines.append(
            f"<dt>{html.escape(name)}</dt><dd>{_shown(before)}"
            f'<mark class="run-different">{_shown(token)}</mark>{_shown(after)}</dd>'
        )
    return f'<dl class="difference">{"".join(lines)}</dl>'


def _shown(text: str) -> str:
    return html.escape(shown_text(text, MAX_CONTEXT_CHARS))


def read_files(paths: list[str]) -> tuple[RunRecord, ...]:
    """The record of each file: of all, or of none.

    Raises:
        InvalidRequestError: too many files, or one that is no run record; the message names it.
    """
    if len(paths) > MAX_RUNS:
        raise InvalidRequestError(
            f"At most {MAX_RUNS} files can be imported at once, as many as a visit keeps, but these are {len(paths)}. "
            "Import fewer."
        )
    records = []
    for path in map(Path, paths):
        try:
            records.append(import_json(path.read_bytes()))
        except InvalidRequestError as err:
            raise InvalidRequestError(f"{path.name}: {err} Nothing was imported.") from err
    return tuple(records)
