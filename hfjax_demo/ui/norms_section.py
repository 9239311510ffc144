"""What is in the cache of a run: norms by layer, head and position, as a map and as tables. Draws records; runs nothing."""

from collections.abc import Callable
from typing import Any

import gradio as gr

from hfjax_demo.events import RunRecord
from hfjax_demo.plots.kv_norms import norms_cells, norms_map, norms_table
from hfjax_demo.plots.norm_rows import PARTS
from hfjax_demo.ui.components import AT_ONCE, csv_link, table_html, text_html
from hfjax_demo.ui.run_history import RunHistory
from hfjax_demo.ui.runs import page_errors

HINT = (
    "A cell is the length (L2 norm) of one head's key or value at one position, computed on the device after the last step; "
    "only these numbers leave it. Hover to see the token. Positions that stand out, often the first, draw attention."
)
EVERY_LAYER = "every layer"


def create_norms_section(
    tab: gr.Tab, history: gr.State, run: gr.Dropdown, record_of: Callable[[str, RunHistory], RunRecord]
) -> None:
    """Builds the section inside the current Blocks.

    Args:
        tab: that it is in; the map is drawn when this is opened.
        history: state that holds the visit's `RunHistory`.
        run: which run is replayed; created before, its value is a run's name.
        record_of: the record of a run's name.
    """
    gr.HTML(text_html(HINT, class_name="explanation"))
    with gr.Row():
        part = gr.Radio(list(PARTS), value=PARTS[0], label="Norms of", elem_id="norms-part")
        layer = gr.Dropdown([EVERY_LAYER], value=EVERY_LAYER, label="Layer", filterable=False, elem_id="norms-layer")
    of = gr.HTML(elem_id="norms-of")
    plot = gr.Plot(show_label=False, elem_id="norms")
    with gr.Accordion("Each head as a table", open=False):
        table = gr.HTML(elem_id="norms-table")
    drawn = [of, plot, table]

    def on_draw(history: RunHistory, name: str, part: str, layer: str) -> list[Any]:
        with page_errors():
            record = record_of(name, history)
            choices = layer_choices(record)
            # A value that is sent although nothing is wrong with it would undo what was picked meanwhile.
            if layer in choices:
                return [gr.Dropdown(choices), *_draw(name, record, part, layer)]
            return [gr.Dropdown(choices, value=EVERY_LAYER), *_draw(name, record, part, EVERY_LAYER)]

    gr.on(
        [tab.select, run.change, part.input, layer.input],
        on_draw,
        [history, run, part, layer],
        [layer, *drawn],
        trigger_mode="always_last",
        **AT_ONCE,
    )


def layer_choices(record: RunRecord) -> list[str]:
    """Every layer, then each that has norms."""
    return [EVERY_LAYER, *(f"layer {held.layer}" for held in (record.norms.layers if record.norms else ()))]


def _draw(name: str, record: RunRecord, part: str, layer: str) -> list[Any]:
    """What the map is of, the map, and its table with files: each head's sums, and of a single layer every cell."""
    index = None if layer == EVERY_LAYER else int(layer.removeprefix("layer "))
    headers, rows = norms_table(record, index)
    file_name = f"cache-norms-{name}-{layer}".replace(" ", "-")
    files = csv_link(file_name, headers, rows)
    if index is None:
        files += " Pick a layer for a file of every cell."
    else:
        files += csv_link(f"{file_name}-cells", *norms_cells(record, index))
    table = table_html(f"Norms of each head, {layer}", headers, rows) + f'<div class="files">{files}</div>'
    return [text_html(f"{name}, as picked under Replay", class_name="norms-of"), norms_map(record, part, index), table]
