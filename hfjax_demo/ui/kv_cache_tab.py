"""The KV cache tab: a run's cache replayed step by step, two side by side; what is in it; any model's cache planned.

Draws records; no model runs here. Knows nothing of how a run is made.
"""

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr

from hfjax_demo.events import RunRecord
from hfjax_demo.plain_json import from_dict
from hfjax_demo.ui.components import ASSETS, QUIET, csv_link, kv_replay, panel_value, table_html, text_html
from hfjax_demo.ui.kv_replay_view import replay_view, steps_table
from hfjax_demo.ui.norms_section import create_norms_section
from hfjax_demo.ui.plan_section import PlanSection, create_plan_section
from hfjax_demo.ui.run_history import RunHistory
from hfjax_demo.ui.runs import page_errors
from hfjax_demo.ui.words import plural, setting_words

if TYPE_CHECKING:
    from hfjax_demo.inference.engine import InferenceEngine

RECORDED = {"recorded jit": "recorded_run.json.gz", "recorded eager": "recorded_growing_run.json.gz"}
"""Name -> file: what can be replayed before a visitor has made a run; one prompt, the fixed cache and the growing one."""
NONE_BESIDE = ("nothing", "")
HINT = (
    "Press Play, or drag the slider. A cache that grows has a new shape at every step, and what was compiled for the old "
    "one does not fit; a fixed one keeps its shape, and one program serves every step."
)


@dataclass(frozen=True)
class KVCacheTab:
    """What others use.

    Attributes:
        plan: makes its first plan when the tab is opened.
    """

    plan: PlanSection


def create_kv_cache_tab(engine: "InferenceEngine", history: gr.State, moved: gr.State) -> KVCacheTab:
    """Builds the tab inside the current Blocks.

    Args:
        engine: answers plans.
        history: state that holds the visit's `RunHistory`.
        moved: state that counts how often a new run was picked for the visitor; outside all tabs.
    """
    recorded = load_recorded_runs()
    first, second = RECORDED
    with gr.Tabs():
        with gr.Tab("Replay", id="replay"):
            gr.HTML(text_html(HINT, class_name="explanation"))
            with gr.Row():
                run = gr.Dropdown(list(RECORDED), value=second, label="Run", filterable=False, elem_id="replay-run")
                beside = gr.Dropdown(
                    [NONE_BESIDE, *((name, name) for name in RECORDED)],
                    value=first,
                    label="Beside it",
                    filterable=False,
                    elem_id="replay-beside",
                )
            replay = kv_replay(_view([second, first], RunHistory(), recorded), elem_id="replay")
            with gr.Accordion("Every step as a table", open=False):
                table = gr.HTML(_table([second, first], RunHistory(), recorded), elem_id="replay-table")
        with gr.Tab("What is in it", id="norms") as norms_tab:
            create_norms_section(norms_tab, history, run, lambda name, history: _record(name, history, recorded))
        with gr.Tab("Plan", id="plan") as plan_tab:
            plan = create_plan_section(engine)
    plan.connect(plan_tab)

    def on_pick(history: RunHistory, name: str, other: str) -> list[str]:
        with page_errors():
            names = [name, other] if other and other != name else [name]
            return [panel_value(_view(names, history, recorded)), _table(names, history, recorded)]

    def on_history(history: RunHistory, name: str, other: str, moved: int) -> list[Any]:
        with page_errors():
            names = pick_two(history, name, other)
            choices = [*((name, name) for name in RECORDED), *((run.label, run.name) for run in reversed(history.runs))]
            return [
                gr.Dropdown(choices=choices, value=names[0]),
                gr.Dropdown(choices=[NONE_BESIDE, *choices], value=names[1] if len(names) > 1 else ""),
                moved + 1,
            ]

    # Whoever picked, the visitor or a new run, one handler draws, and the last pick is the one that stays on view.
    history.change(on_history, [history, run, beside, moved], [run, beside, moved], **QUIET)
    gr.on(
        [run.input, beside.input, moved.change],
        on_pick,
        [history, run, beside],
        [replay, table],
        trigger_mode="always_last",
        **QUIET,
    )
    return KVCacheTab(plan)


def load_recorded_runs() -> dict[str, RunRecord]:
    """The runs of `RECORDED`: made by `generate --json` on one machine, their conditions inside them."""
    return {
        name: from_dict(RunRecord, json.loads(gzip.decompress((ASSETS / file).read_bytes())))
        for name, file in RECORDED.items()
    }


def pick_two(history: RunHistory, name: str, other: str) -> list[str]:
    """What is replayed once the history has changed: the newest run beside the last one of its prompt with another cache.

    Where there is none, the newest run alone; where there is no run at all, what was picked before.
    """
    if not history.runs:
        return [each for each in (name, other) if each]
    newest = history.runs[-1]
    request = newest.record.request
    for run in reversed(history.runs[:-1]):
        before = run.record.request
        if (before.prompt, before.model) == (request.prompt, request.model) and before.cache_kind != request.cache_kind:
            return [run.name, newest.name]
    return [newest.name]


def _record(name: str, history: RunHistory, recorded: dict[str, RunRecord]) -> RunRecord:
    return recorded[name] if name in recorded else history.get(name).record


def _records(names: Sequence[str], history: RunHistory, recorded: dict[str, RunRecord]) -> list[RunRecord]:
    return [_record(name, history, recorded) for name in names]


def _view(names: Sequence[str], history: RunHistory, recorded: dict[str, RunRecord]) -> dict[str, Any]:
    records = _records(names, history, recorded)
    notes = [_note(name, record) if name in recorded else name for name, record in zip(names, records, strict=True)]
    return replay_view(records, notes)


def _note(name: str, record: RunRecord) -> str:
    where = record.environment
    return (
        f"{name}: a run recorded on {where.backend}, {plural(where.num_cores, 'core')}, jax {where.versions.get('jax', '?')}"
    )


def _table(names: Sequence[str], history: RunHistory, recorded: dict[str, RunRecord]) -> str:
    """Every step of every run, a table each, with its CSV."""
    parts = []
    for name, record in zip(names, _records(names, history, recorded), strict=True):
        headers, rows = steps_table(record)
        title = f"{name} · {setting_words(record.request)}"
        file_name = f"cache-steps-{name.replace(' ', '-')}"
        parts.append(text_html(title, "h4") + table_html(title, headers, rows) + csv_link(file_name, headers, rows))
    return "".join(parts)
